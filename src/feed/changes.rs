//! Finds the changes since a position: reads the index of changes from where a stream was. A
//! change lies in the row with the largest number that is not above its own.

use super::watch::Change;
use crate::domain::OperationId;
use crate::rows::changes;
use crate::store::{self, Db, Direction, Error, View};
use crate::wire::change::{self, ChangeNumber};
use crate::wire::position::{LastOffsets, Offset, Partition};
use std::collections::BTreeSet;
use std::ops::ControlFlow;

/// The place of a position in the index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ResumeFrom {
    At {
        /// The first change that the position does not contain. It contains all earlier ones.
        next: ChangeNumber,
        /// The position may contain some of the rows from `next` to this one, whole or in part:
        /// it was sent before the store lost its last writes, and batches end elsewhere since.
        /// The state that such a row records as the earlier one may differ from the state that
        /// was sent with the position.
        mixed_until: ChangeNumber,
    },
    /// The index no longer has some of the changes that the position does not contain.
    BeforeWindow,
}

/// `applied` was published before the view was opened.
pub fn find(
    view: &dyn View,
    applied: &LastOffsets,
    seen: &LastOffsets,
) -> store::Result<ResumeFrom> {
    let has_seen = |partition: Partition, offset: Option<Offset>| {
        offset.is_none() || seen.get(&partition).copied() >= offset
    };
    // Partitions of which the position may lack something that came before the rows
    // read so far.
    let mut lacking: BTreeSet<Partition> = applied
        .iter()
        .filter(|(partition, offset)| !has_seen(**partition, Some(**offset)))
        .map(|(partition, _)| *partition)
        .collect();
    let mut place = None;
    let mut mixed_until = ChangeNumber::ZERO;
    let read = changes::scan(
        view,
        ChangeNumber::ZERO..ChangeNumber::MAX,
        Direction::Backward,
        &mut |number, _, change| {
            let is_seen = |m: &change::PartitionMove| has_seen(m.partition, Some(m.after));
            let end = changes::end(number, &change);
            let is_seen_in_part =
                |m: &change::PartitionMove| seen.get(&m.partition).copied() > m.before;
            if change.moved.iter().any(is_seen_in_part) {
                mixed_until = end.max(mixed_until);
            }
            if !change.moved.iter().all(is_seen) {
                place = Some(number);
            } else if place.is_none() {
                place = Some(end);
            }
            for moved in &change.moved {
                if has_seen(moved.partition, moved.before) {
                    lacking.remove(&moved.partition);
                } else {
                    lacking.insert(moved.partition);
                }
            }
            // A row newer than `applied` says nothing about partitions that it did not move.
            let is_known = |m: &change::PartitionMove| applied.get(&m.partition) >= Some(&m.after);
            match lacking.is_empty() && change.moved.iter().all(is_known) {
                true => ControlFlow::Break(()),
                false => ControlFlow::Continue(()),
            }
        },
    );
    if let Err(Error::Corrupt(_)) = read {
        // A row that cannot be read counts as removed.
        return Ok(ResumeFrom::BeforeWindow);
    }
    read?;
    let next = place.unwrap_or_default();
    Ok(match lacking.is_empty() {
        true => ResumeFrom::At {
            next,
            mixed_until: next.max(mixed_until),
        },
        false => ResumeFrom::BeforeWindow,
    })
}

/// The rows from that with this ordinal on, as many as have `limit` changes. Those of the
/// last moments are in memory: see `Watchers::recent_from`.
pub fn rows_stored(db: &dyn Db, next: ChangeNumber, limit: usize) -> store::Result<Vec<Change>> {
    store::view(db, |view| rows_of(view, next, limit))
}

fn rows_of(view: &dyn View, next: ChangeNumber, limit: usize) -> store::Result<Vec<Change>> {
    let mut from = next;
    let until = next.plus(1);
    let read = changes::scan(
        view,
        ChangeNumber::ZERO..until,
        Direction::Backward,
        &mut |number, _, change| {
            if changes::end(number, &change) > next {
                from = number;
            }
            ControlFlow::Break(())
        },
    );
    or_as_far(read)?;
    let mut rows = Vec::new();
    // A stream can read as far as the first row that cannot be read.
    let until = next.plus(limit);
    let read = changes::scan(
        view,
        from..until,
        Direction::Forward,
        &mut |number, row, change| {
            rows.push(Change::new(number, row.into(), change.ids().count()));
            ControlFlow::Continue(())
        },
    );
    or_as_far(read)?;
    Ok(rows)
}

/// A row that cannot be read ends the scan without an error.
fn or_as_far(read: store::Result<()>) -> store::Result<()> {
    match read {
        Err(Error::Corrupt(_)) => Ok(()),
        read => read,
    }
}

/// Whether one operation has changed since a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Since {
    Same,
    Changed,
}

pub fn since(
    view: &dyn View,
    place: ChangeNumber,
    operation_id: OperationId,
) -> store::Result<Since> {
    let mut since = Since::Same;
    // A place that `find` returned is where a row begins.
    let range = place..ChangeNumber::MAX;
    let read = changes::scan(view, range, Direction::Forward, &mut |_, _, change| {
        if change.ids().any(|id| id == operation_id) {
            since = Since::Changed;
            return ControlFlow::Break(());
        }
        ControlFlow::Continue(())
    });
    match read {
        // It may have changed, so it is sent once more.
        Err(Error::Corrupt(_)) => Ok(Since::Changed),
        read => read.map(|()| since),
    }
}
