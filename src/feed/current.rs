//! How an operation stands.

use crate::domain::{Operation, document};
use crate::rows::filter::Filter;
use crate::wire::document::{Bodies, rendered};
use crate::wire::time::TimeStyle;
use bytes::Bytes;

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
