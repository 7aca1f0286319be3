//! The index of changes: a row for each batch that says which operations it changed.
//! Streams that resume read it. It reaches back over a bounded number of changes.

use super::log_position::LogPosition;
use crate::feed::watch::Change;
use crate::store::{self, Batch, Db, Direction, Family, keys};
use crate::wire::change::{self, PartitionMove};
use std::ops::ControlFlow;
use std::sync::Arc;

/// Unless it is told otherwise, as in a rebuild.
const WINDOW: u64 = 200_000;

/// Where the last numbers cannot be read, it goes on at one that is surely beyond them.
const GAP: u64 = 1 << 40;

/// Where the index is. A row's key counts the changes before it, so that the window is
/// a range of keys.
pub struct Changes {
    /// The number of the next row.
    next: u64,
    /// Nothing is kept below.
    trimmed: u64,
    window: u64,
}

/// What is to be told of a batch once it is written.
#[derive(Default)]
pub struct Pending {
    row: Option<Change>,
    next: u64,
    trimmed: u64,
}

impl Changes {
    pub fn open(db: &dyn Db) -> store::Result<Changes> {
        let (mut next, mut trimmed) = (0, 0);
        let mut is_end_damaged = false;
        store::view(db, |view| {
            let mut ends = |direction, end: &mut u64| {
                let mut visit = |key: &[u8], row: &[u8]| {
                    let count = change::decode(row).map_or(0, |change| change.ids().count());
                    let number = keys::change_of(key).unwrap_or(0);
                    *end = match direction {
                        Direction::Forward => number,
                        Direction::Backward => number + (count as u64).max(1),
                    };
                    ControlFlow::Break(())
                };
                let (family, all) = (Family::Change, keys::ALL);
                view.scan_past_damage(family, all, direction, &mut visit, &mut |_| {
                    is_end_damaged |= direction == Direction::Backward;
                })
            };
            ends(Direction::Forward, &mut trimmed)?;
            ends(Direction::Backward, &mut next)?;
            if is_end_damaged {
                next = next.next_multiple_of(GAP) + GAP;
            }
            Ok(())
        })?;
        Ok(Changes {
            next,
            trimmed,
            window: WINDOW,
        })
    }

    /// Of the next change.
    pub fn number(&self) -> u64 {
        self.next
    }

    /// How many changes are kept at least.
    pub fn set_window(&mut self, window: u64) {
        self.window = window;
    }

    /// Adds the row of a cut to its batch. A cut that moved nothing has none.
    pub fn put<'i>(
        &self,
        db: &dyn Db,
        before: &LogPosition,
        after: &LogPosition,
        ids: impl ExactSizeIterator<Item = &'i str>,
        batch: &mut Batch,
    ) -> store::Result<Pending> {
        let (before, after) = (before.anchors(), after.anchors());
        let moved: Vec<PartitionMove> = after
            .iter()
            .filter(|(partition, anchor)| before.get(partition) != Some(anchor))
            .map(|(&partition, anchor)| PartitionMove {
                partition,
                before: before.get(&partition).map(|anchor| anchor.offset),
                after: anchor.offset,
            })
            .collect();
        if moved.is_empty() {
            return Ok(self.none());
        }
        let count = ids.len();
        let row: Arc<[u8]> = change::encode(&moved, ids).into();
        batch.put(Family::Change, &keys::change(self.next), &row);
        let row = Change::new(self.next, row, count);
        Ok(Pending {
            next: row.end,
            row: Some(row),
            trimmed: self.trim(db, batch)?,
        })
    }

    /// Of a batch that changes nothing.
    pub fn none(&self) -> Pending {
        Pending {
            row: None,
            next: self.next,
            trimmed: self.trimmed,
        }
    }

    /// Now and then, so that it costs little: what is deleted is looked up first.
    fn trim(&self, db: &dyn Db, batch: &mut Batch) -> store::Result<u64> {
        let keep = self.next.saturating_sub(self.window);
        if keep.saturating_sub(self.trimmed) <= self.window / 8 {
            return Ok(self.trimmed);
        }
        let range = keys::change(self.trimmed)..keys::change(keep);
        store::view(db, |view| {
            // What cannot be read stays.
            view.scan_past_damage(
                Family::Change,
                &range.start..&range.end,
                Direction::Forward,
                &mut |key, _| {
                    batch.delete(Family::Change, key);
                    ControlFlow::Continue(())
                },
                &mut |_| {},
            )
        })?;
        Ok(keep)
    }

    /// After the write.
    pub fn written(&mut self, pending: Pending) -> Option<Change> {
        self.next = pending.next;
        self.trimmed = pending.trimmed;
        pending.row
    }
}
