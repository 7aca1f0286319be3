//! The records of one operation in the order of (time, source, id, position), read
//! from rows that each contain one record or a chunk of them. Chunks of different batches
//! may overlap, so they are merged: a chunk is opened when its first record is next.

use super::keys;
use crate::domain::body::LARGE;
use crate::domain::{Event, OperationId};
use crate::event_log::Logged;
use crate::store::{Batch, Direction, Error, Family, Result, View, try_scan};
use crate::wire::cloudevent;
use crate::wire::position::Position;
use crate::wire::record::{self, Record};
use crate::wire::without_id;
use bytes::Bytes;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::ops::ControlFlow;

/// Maximum bytes of records in one row of the history, unless one record is larger.
const CHUNK_BYTES: usize = 16 << 10;

/// An event, and its record.
pub type Arrived<'c> = (&'c Event<'c>, &'c Logged);

/// Puts the events of one operation in the order of their keys, as many as fit in one row,
/// which is named by the first. Most of a row's cost does not depend on its size. An event that
/// may have a large body has a row of its own, so that its order key finds it. `row` is reused
/// memory.
pub fn put(id: OperationId, events: &mut [Arrived], row: &mut Vec<u8>, batch: &mut Batch) {
    let order = |(a, a_at): &Arrived, (b, b_at): &Arrived| {
        a.key.cmp(&b.key).then_with(|| a_at.at.cmp(&b_at.at))
    };
    // Most arrive in order.
    if !events.is_sorted_by(|a, b| order(a, b).is_le()) {
        events.sort_by(order);
    }
    let mut rest = &*events;
    while let [(first, logged), ..] = rest {
        let mut bytes = 0;
        let fits = |(_, logged): &&Arrived| {
            let size = logged.record.size();
            bytes += size;
            bytes <= CHUNK_BYTES && size < LARGE
        };
        let count = rest.iter().take_while(fits).count().max(1);
        let (chunk, after) = rest.split_at(count);
        let key = keys::history(id, &first.key, logged.at);
        let chunk = chunk.iter().map(|(_, l)| (l.at, &l.record));
        row.clear();
        let (head, end) = record::append_history(chunk, std::mem::take(row));
        batch.put_with(Family::History, &key, |out| {
            without_id::append(id, [&head, end], out)
        });
        *row = head;
        rest = after;
    }
}

/// Called for each record with its event's order key, and its position: together the key that it
/// would have in its own row.
pub type RecordVisitor<'v> = dyn FnMut(&[u8], Position, Record) -> Result<ControlFlow<()>> + 'v;

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

/// Whether a page of this operation's history may have ended with this event.
pub fn is_event_of(event: &[u8], operation_id: OperationId) -> bool {
    let range = keys::of_operation(operation_id);
    (&range.start[..]..&range.end[..]).contains(&event)
}

/// Visits all records until the visitor has enough. If the event `after` is given, visits only
/// records after all of its records. The chunks that overlap limit the memory.
pub fn scan(
    view: &dyn View,
    operation_id: OperationId,
    after: Option<&[u8]>,
    visit: &mut RecordVisitor,
) -> Result<()> {
    let mut merge = Merge {
        operation_id,
        begin: after.map_or_else(Vec::new, keys::after_event),
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
    begin: Vec<u8>,
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
        self.show(key, first)
    }

    fn show(&mut self, key: &[u8], record: Record) -> Result<ControlFlow<()>> {
        if key < &self.begin[..] {
            return Ok(ControlFlow::Continue(()));
        }
        let (event, at) = keys::split_history(key).ok_or_else(|| self.damaged())?;
        (self.visit)(event, at, record)
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
            if self.show(&key, record)?.is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    fn damaged(&self) -> Error {
        Error::Corrupt(format!("the history of {}", self.operation_id))
    }
}
