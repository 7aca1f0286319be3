//! Finds the changes since a position: reads the index of changes from where a stream was. A
//! change lies in the row with the largest number that is not above its own.
//!
//! Rows of several workers interleave: each says how far it moved the slices of its worker. A
//! position contains a row if it has reached the end of all that the row moved.

use super::watch::Change;
use crate::domain::{OperationId, SLICES, Slices};
use crate::rows::{changes, meta};
use crate::store::{self, Db, Direction, Error, View};
use crate::wire::change::{ChangeNumber, PartitionMove};
use crate::wire::position::{LastOffsets, Offset, Partition};
use std::collections::BTreeMap;
use std::ops::ControlFlow;

/// The place of a position in the index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ResumeFrom {
    At {
        /// The first change that the position does not contain. It contains all earlier ones.
        next: ChangeNumber,
        /// The position may contain some of the rows from `next` to this one, whole or in part, and
        /// lack earlier ones of the same slices: it was sent before the store lost its last writes,
        /// and batches end elsewhere since. The state that such a row records as the earlier one
        /// may differ from the state that was sent with the position.
        mixed_until: ChangeNumber,
    },
    /// The index no longer has some of the changes that the position does not contain.
    BeforeWindow,
}

/// By partition, a bit for each slice of which the position may lack something that came before
/// the rows read so far.
#[derive(Default)]
struct Lacking(BTreeMap<Partition, u64>);

impl Lacking {
    fn set(&mut self, partition: Partition, slices: Slices, lacks: bool) {
        let bits = slices.bits();
        match (lacks, self.0.get_mut(&partition)) {
            (true, Some(lacking)) => *lacking |= bits,
            (true, None) => drop(self.0.insert(partition, bits)),
            (false, Some(lacking)) => {
                *lacking &= !bits;
                if *lacking == 0 {
                    self.0.remove(&partition);
                }
            }
            (false, None) => {}
        }
    }

    /// Leaves only these slices.
    fn keep(&mut self, slices: Slices) {
        self.0.retain(|_, lacking| {
            *lacking &= slices.bits();
            *lacking != 0
        });
    }
}

/// The place of the position `seen` among the changes of these slices.
pub fn find(view: &dyn View, slices: Slices, seen: &LastOffsets) -> store::Result<ResumeFrom> {
    let found = find_readable(view, slices, seen);
    match found {
        // A row that cannot be read counts as removed.
        Err(Error::Corrupt(_)) => Ok(ResumeFrom::BeforeWindow),
        found => found,
    }
}

fn find_readable(view: &dyn View, slices: Slices, seen: &LastOffsets) -> store::Result<ResumeFrom> {
    let has_seen = |partition: Partition, offset: Option<Offset>| {
        offset.is_none() || seen.get(&partition).copied() >= offset
    };
    let mut lacking = Lacking::default();
    for (slices, reached) in meta::positions_by_slices(view)? {
        for (&partition, &offset) in reached.iter() {
            lacking.set(partition, slices, !has_seen(partition, Some(offset)));
        }
    }
    lacking.keep(slices);
    let mut place = None;
    let mut mixed_until = ChangeNumber::ZERO;
    // By slice the end of the last row of which the position has something.
    let mut seen_until = [ChangeNumber::ZERO; SLICES as usize];
    changes::scan(
        view,
        ChangeNumber::ZERO..ChangeNumber::MAX,
        Direction::Backward,
        &mut |number, _, change| {
            let end = changes::end(number, &change);
            let moves = &change.moves;
            let is_seen = |m: &PartitionMove| has_seen(m.partition, Some(m.after));
            let is_seen_in_part = |m: &PartitionMove| seen.get(&m.partition).copied() > m.before;
            if moves.moved.iter().any(is_seen_in_part) {
                for slice in moves.slices.iter() {
                    let until = &mut seen_until[usize::from(slice.0)];
                    *until = end.max(*until);
                }
            }
            if !moves.slices.meet(slices) || moves.moved.iter().all(is_seen) {
                place = place.or(Some(end));
            } else {
                place = Some(number);
                for slice in moves.slices.iter() {
                    mixed_until = mixed_until.max(seen_until[usize::from(slice.0)]);
                }
            }
            // If they were uneven before, only earlier rows say where each was.
            for moved in moves.moved.iter().filter(|_| !moves.is_uneven) {
                let lacks = !has_seen(moved.partition, moved.before);
                lacking.set(moved.partition, moves.slices, lacks);
            }
            lacking.keep(slices);
            match lacking.0.is_empty() {
                true => ControlFlow::Break(()),
                false => ControlFlow::Continue(()),
            }
        },
    )?;
    let next = place.unwrap_or_default();
    Ok(match lacking.0.is_empty() {
        true => ResumeFrom::At {
            next,
            mixed_until: next.max(mixed_until),
        },
        false => ResumeFrom::BeforeWindow,
    })
}

/// The rows from that with this ordinal on, as many as have `limit` changes; `None` if some of them
/// are no longer kept, or cannot be read. Those of the last moments are in memory: see
/// `Watchers::recent_from`.
pub fn rows_stored(
    db: &dyn Db,
    next: ChangeNumber,
    limit: usize,
) -> store::Result<Option<Vec<Change>>> {
    store::view(db, |view| rows_of(view, next, limit))
}

fn rows_of(
    view: &dyn View,
    next: ChangeNumber,
    limit: usize,
) -> store::Result<Option<Vec<Change>>> {
    // The last row that begins here or before. There may be none that contains this number: a
    // process that dies between the taking of a number and the write leaves it out.
    let mut from = None;
    let until = next.plus(1);
    let read = changes::scan(
        view,
        ChangeNumber::ZERO..until,
        Direction::Backward,
        &mut |number, _, change| {
            from = match changes::end(number, &change) > next {
                true => Some(number),
                false => Some(next),
            };
            ControlFlow::Break(())
        },
    );
    let is_read = or_as_far(read)?;
    let Some(from) = from.filter(|_| is_read) else {
        return Ok(None);
    };
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
    let is_read = or_as_far(read)?;
    Ok((is_read || !rows.is_empty()).then_some(rows))
}

/// A row that cannot be read ends the scan without an error: `false`.
fn or_as_far(read: store::Result<()>) -> store::Result<bool> {
    match read {
        Err(Error::Corrupt(_)) => Ok(false),
        read => read.map(|()| true),
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
    let slice = operation_id.slice();
    // A place that `find` returned is where a row begins.
    let range = place..ChangeNumber::MAX;
    let read = changes::scan(view, range, Direction::Forward, &mut |_, _, change| {
        if change.moves.slices.contains(slice) && change.ids().any(|id| id == operation_id) {
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

#[cfg(test)]
mod tests;
