//! The records of one operation in the order of (time, source, id, position), out
//! of rows that each hold one record or a chunk of them. Chunks of different batches
//! may overlap, so they are merged: a chunk is opened when its first record is due.

use crate::domain::OperationId;
use crate::store::keys;
use crate::store::{Direction, Error, Family, Result, View, try_scan};
use crate::wire::cloudevent;
use crate::wire::position::Position;
use crate::wire::record::{self, Record};
use crate::wire::without_id;
use bytes::Bytes;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::ops::ControlFlow;

/// Called for each record with the key that a row of its own would have.
pub type RecordVisitor<'v> = dyn FnMut(&[u8], Record) -> Result<ControlFlow<()>> + 'v;

/// A record that waits until all records before it were shown.
struct Waiting {
    key: Vec<u8>,
    record: Record,
}

impl PartialEq for Waiting {
    fn eq(&self, other: &Waiting) -> bool {
        self.key == other.key
    }
}

impl Eq for Waiting {}

impl PartialOrd for Waiting {
    fn partial_cmp(&self, other: &Waiting) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Waiting {
    fn cmp(&self, other: &Waiting) -> std::cmp::Ordering {
        self.key.cmp(&other.key)
    }
}

/// Shows all records until the visitor has enough. Memory is bounded by the chunks that
/// overlap.
pub fn scan(view: &dyn View, operation_id: OperationId, visit: &mut RecordVisitor) -> Result<()> {
    let mut merge = Merge {
        operation_id,
        waiting: BinaryHeap::new(),
        visit,
    };
    let range = keys::of_operation(operation_id);
    let range = &range.start[..]..&range.end[..];
    let mut flow = ControlFlow::Continue(());
    try_scan(
        |visit| view.scan(Family::History, range, Direction::Forward, visit),
        |key, row| {
            flow = merge.row(key, row)?;
            Ok(flow)
        },
    )?;
    if flow.is_continue() {
        // The result does not matter at the end.
        let _ = merge.show_before(None)?;
    }
    Ok(())
}

/// The records of one row of the history; `None` if it is damaged.
pub fn of_row(
    operation_id: OperationId,
    key: &[u8],
    row: &[u8],
) -> Option<Vec<(Position, Record)>> {
    let (_, at) = keys::split_history(key)?;
    let row = Bytes::from(without_id::restore(operation_id, row)?.into_owned());
    record::decode_history(&row, at).ok()
}

struct Merge<'m, 'v> {
    operation_id: OperationId<'m>,
    waiting: BinaryHeap<Reverse<Waiting>>,
    visit: &'m mut RecordVisitor<'v>,
}

impl Merge<'_, '_> {
    fn row(&mut self, key: &[u8], row: &[u8]) -> Result<ControlFlow<()>> {
        if self.show_before(Some(key))?.is_break() {
            return Ok(ControlFlow::Break(()));
        }
        let records = of_row(self.operation_id, key, row).ok_or_else(|| self.damaged())?;
        let mut records = records.into_iter();
        // The first record names the row.
        let (_, first) = records.next().ok_or_else(|| self.damaged())?;
        for (at, record) in records {
            let event = cloudevent::decode(&record).map_err(|_| self.damaged())?;
            let key = keys::history(self.operation_id, &event.key, at);
            drop(event);
            self.waiting.push(Reverse(Waiting { key, record }));
        }
        (self.visit)(key, first)
    }

    /// Shows the waiting records before this key, or all.
    fn show_before(&mut self, key: Option<&[u8]>) -> Result<ControlFlow<()>> {
        while let Some(Reverse(next)) = self.waiting.peek() {
            if key.is_some_and(|key| &next.key[..] > key) {
                break;
            }
            let Some(Reverse(Waiting { key, record })) = self.waiting.pop() else {
                break;
            };
            if (self.visit)(&key, record)?.is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    fn damaged(&self) -> Error {
        Error::Corrupt(format!("the history of {}", self.operation_id))
    }
}
