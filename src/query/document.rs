//! The operation document as bytes.

use super::filter::Filter;
use super::operation::with_operation;
use super::state;
use crate::domain::{Document, Operation, document};
use crate::store::{self, Db, Result};
use crate::wire::document::{Bodies, render};
use crate::wire::time::TimeStyle;
use bytes::Bytes;

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

/// How an operation stands, for one who is told of states.
#[derive(Debug, PartialEq)]
pub enum Current {
    Shown {
        document: Bytes,
        has_ended: bool,
    },
    /// It has a document, and the filter leaves it out.
    LeftOut,
    /// Its creation has not arrived.
    NoDocument,
    /// There is nothing of it, or no more.
    Gone,
}

impl Current {
    pub fn of(operation_id: &str, op: &Operation, filter: &Filter, times: &TimeStyle) -> Current {
        match document(operation_id, op) {
            None => Current::NoDocument,
            Some(document) if !filter.matches(&document) => Current::LeftOut,
            Some(document) => Current::Shown {
                has_ended: document.status.has_ended(),
                document: rendered(&document, Bodies::Shown, times).into(),
            },
        }
    }
}

/// `None` while the operation has no document.
pub fn bytes(
    operation_id: &str,
    op: &Operation,
    bodies: Bodies,
    times: &TimeStyle,
) -> Option<Vec<u8>> {
    let document = document(operation_id, op)?;
    Some(rendered(&document, bodies, times))
}

/// The same, behind what is there already.
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

pub fn rendered(document: &Document, bodies: Bodies, times: &TimeStyle) -> Vec<u8> {
    let mut out = Vec::with_capacity(1024);
    render(document, bodies, times, &mut out);
    out
}
