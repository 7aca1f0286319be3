//! The operation document as bytes.

use crate::domain::{Operation, document};
use crate::rows::operation::with_operation;
use crate::rows::state;
use crate::store::{self, Db, Result};
use crate::wire::document::{Bodies, render};
use crate::wire::time::TimeStyle;

pub fn read(db: &dyn Db, operation_id: &str, times: &TimeStyle) -> Result<Option<Vec<u8>>> {
    store::view(db, |view| {
        let Some(row) = state::snapshot(view, operation_id)? else {
            return Ok(None);
        };
        with_operation(view, operation_id, &row, Bodies::Shown, |op| {
            bytes(operation_id, op, Bodies::Shown, times)
        })
    })
}

/// `None` while the operation has no document.
pub fn bytes(
    operation_id: &str,
    op: &Operation,
    bodies: Bodies,
    times: &TimeStyle,
) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(1024);
    bytes_into(operation_id, op, bodies, times, &mut out)?;
    Some(out)
}

/// Appends the document.
pub fn bytes_into(
    operation_id: &str,
    op: &Operation,
    bodies: Bodies,
    times: &TimeStyle,
    out: &mut Vec<u8>,
) -> Option<()> {
    render(&document(operation_id, op)?, bodies, times, out);
    Some(())
}
