//! The index of changes: a row for each batch with the operations that it changed. Streams that
//! resume read it. It keeps a bounded number of changes.

use super::log_position::LogPosition;
use crate::domain::OperationId;
use crate::feed::watch::Change;
use crate::store::{self, Batch, Db, Direction, Family, keys};
use crate::wire::change::{self, PartitionMove};
use std::ops::ControlFlow;
use std::sync::Arc;

/// The default, which a rebuild uses.
const WINDOW: u64 = 200_000;

/// If the last numbers cannot be read, numbering continues at one that is certainly higher.
const GAP: u64 = 1 << 40;

/// The bounds of the index. A row's key is the number of changes before it, so the window is a
/// range of keys.
pub struct Changes {
    /// The number of the next row.
    next: u64,
    /// Rows before this number are deleted.
    trimmed: u64,
    window: u64,
}

/// What watchers are notified of after a batch is written.
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

    /// The number of the next change.
    pub fn number(&self) -> u64 {
        self.next
    }

    /// Sets how many changes are kept at least.
    pub fn set_window(&mut self, window: u64) {
        self.window = window;
    }

    /// Adds the row of a cut to its batch. A cut that moved nothing has none.
    pub fn put<'i>(
        &self,
        db: &dyn Db,
        before: &LogPosition,
        after: &LogPosition,
        ids: impl ExactSizeIterator<Item = OperationId<'i>>,
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

    /// For a batch without changes.
    pub fn none(&self) -> Pending {
        Pending {
            row: None,
            next: self.next,
            trimmed: self.trimmed,
        }
    }

    /// Deletes old rows only now and then, because a deletion reads the row first.
    fn trim(&self, db: &dyn Db, batch: &mut Batch) -> store::Result<u64> {
        let keep = self.next.saturating_sub(self.window);
        if keep.saturating_sub(self.trimmed) <= self.window / 8 {
            return Ok(self.trimmed);
        }
        let range = keys::change(self.trimmed)..keys::change(keep);
        store::view(db, |view| {
            // Unreadable rows stay.
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

    /// Called after the write.
    pub fn written(&mut self, pending: Pending) -> Option<Change> {
        self.next = pending.next;
        self.trimmed = pending.trimmed;
        pending.row
    }
}
