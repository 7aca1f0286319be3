//! The operation document as bytes.

use super::operation::with_operation;
use crate::domain::{Operation, document};
use crate::store::{self, Db, Family, Result, keys};
use crate::wire::document::{Bodies, render};
use crate::wire::time::TimeStyle;

pub fn read(db: &dyn Db, operation_id: &str, times: &TimeStyle) -> Result<Option<Vec<u8>>> {
    store::view(db, |view| {
        let Some(row) = view.get(Family::State, &keys::operation(operation_id))? else {
            return Ok(None);
        };
        with_operation(view, operation_id, &row, |op| {
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
    let document = document(operation_id, op)?;
    let mut out = Vec::with_capacity(1024);
    render(&document, bodies, times, &mut out);
    Some(out)
}
