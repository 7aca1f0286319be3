//! The index of changes: a row for each batch with the operations that it changed. Streams that
//! resume read it. It keeps a bounded number of changes.

use super::log_position::LogPosition;
use crate::domain::OperationId;
use crate::feed::watch::Change;
use crate::rows::changes;
use crate::store::{self, Batch, Db};
use crate::wire::change::{self, ChangeNumber, PartitionMove};
use std::sync::Arc;

/// The default, which a rebuild uses.
const WINDOW: u64 = 200_000;

/// If the last numbers cannot be read, numbering continues at one that is certainly higher.
const GAP: u64 = 1 << 40;

/// The bounds of the index. A row's key is the number of changes before it, so the window is a
/// range of keys.
pub struct Changes {
    /// The number of the next row.
    next: ChangeNumber,
    /// Rows before this number are deleted.
    trimmed: ChangeNumber,
    window: u64,
}

/// The change that a batch makes, and before which number rows are deleted with it.
pub type Pending = Option<(Change, ChangeNumber)>;

impl Changes {
    pub fn open(db: &dyn Db) -> store::Result<Changes> {
        let ends = store::view(db, changes::ends)?;
        Ok(Changes {
            next: match ends.is_next_unknown {
                true => ChangeNumber(ends.next.0.next_multiple_of(GAP) + GAP),
                false => ends.next,
            },
            trimmed: ends.first,
            window: WINDOW,
        })
    }

    /// The number of the next change.
    pub fn number(&self) -> ChangeNumber {
        self.next
    }

    /// Sets how many changes are kept at least.
    pub fn set_window(&mut self, window: u64) {
        self.window = window;
    }

    /// Adds the row of a batch to the write batch. A batch that moved no position has no row.
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
            return Ok(None);
        }
        let count = ids.len();
        let row: Arc<[u8]> = change::encode(&moved, ids).into();
        changes::put(self.next, &row, batch);
        let trimmed = self.trim(db, batch)?;
        Ok(Some((Change::new(self.next, row, count), trimmed)))
    }

    /// Deletes old rows only now and then, because a deletion reads the row first.
    fn trim(&self, db: &dyn Db, batch: &mut Batch) -> store::Result<ChangeNumber> {
        let keep = ChangeNumber(self.next.0.saturating_sub(self.window));
        if keep.0.saturating_sub(self.trimmed.0) <= self.window / 8 {
            return Ok(self.trimmed);
        }
        store::view(db, |view| changes::delete(view, self.trimmed..keep, batch))?;
        Ok(keep)
    }

    /// Called after the write.
    pub fn written(&mut self, pending: Pending) -> Option<Change> {
        let (change, trimmed) = pending?;
        (self.next, self.trimmed) = (change.end, trimmed);
        Some(change)
    }
}
