//! The operation document as bytes.

use super::operation::with_operation;
use crate::domain::{Operation, document};
use crate::store::{self, Cached, Db, Family, Result, keys};
use crate::wire::document::{Bodies, render};
use crate::wire::snapshot_v1;
use crate::wire::time::TimeStyle;

/// What memory alone can say.
#[derive(Debug, PartialEq)]
pub enum Quick {
    Found(Vec<u8>),
    /// There is no document.
    Missing,
    /// Ask [`read`], on a thread that may wait.
    NeedsDisk,
}

pub fn read_cached(db: &dyn Db, operation_id: &str, times: &TimeStyle) -> Result<Quick> {
    let row = match db.get_cached(Family::State, &keys::operation(operation_id))? {
        Cached::Unknown => return Ok(Quick::NeedsDisk),
        Cached::Known(None) => return Ok(Quick::Missing),
        Cached::Known(Some(row)) => row,
    };
    Ok(match snapshot_v1::decode(&row) {
        Ok((op, None)) => match bytes(operation_id, &op, Bodies::Shown, times) {
            Some(document) => Quick::Found(document),
            None => Quick::Missing,
        },
        // Lanes kept apart, or damage: both need a view.
        Ok((_, Some(_))) | Err(_) => Quick::NeedsDisk,
    })
}

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
