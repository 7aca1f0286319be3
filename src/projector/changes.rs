//! The index of changes: a row for each batch with the operations that it changed. Streams that
//! resume read it. It keeps a bounded number of changes.

use super::log_position::LogPosition;
use crate::domain::{OperationId, Slices};
use crate::feed::watch::Change;
use crate::rows::changes;
use crate::store::{self, Batch, Db};
use crate::wire::change::{self, ChangeNumber, Moves, PartitionMove};
use std::sync::{Arc, Mutex, MutexGuard};

/// If the last numbers cannot be read, numbering continues at one that is certainly higher.
const GAP: u64 = 1 << 40;

/// Gives out the numbers of the changes of all workers. A row's key is the number of changes before
/// it, so what is kept is a range of keys.
pub struct Changes {
    window: u64,
    numbers: Mutex<Numbers>,
}

struct Numbers {
    /// The number of the next row.
    next: ChangeNumber,
    /// Rows before this number are deleted.
    trimmed: ChangeNumber,
}

/// A row that has no number yet: its bytes, and how many operations it names.
pub type ChangeRow = (Arc<[u8]>, usize);

/// A change of a write that is under way.
pub struct NumberedChange {
    change: Change,
    /// It deletes the rows before this number.
    trimmed: Option<ChangeNumber>,
}

/// The row of a batch of these slices. One that moved no position has none.
pub fn row<'i>(
    slices: Slices,
    before: &LogPosition,
    after: &LogPosition,
    ids: impl ExactSizeIterator<Item = OperationId<'i>>,
) -> Option<ChangeRow> {
    let is_uneven = !before.is_even();
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
    let count = ids.len();
    let moves = Moves {
        slices,
        is_uneven,
        moved,
    };
    (!moves.moved.is_empty()).then(|| (change::encode(&moves, ids).into(), count))
}

impl Changes {
    /// `window`: how many changes are kept at least.
    pub fn open(db: &dyn Db, window: u64) -> store::Result<Changes> {
        let ends = store::view(db, changes::ends)?;
        let numbers = Numbers {
            next: match ends.is_next_unknown {
                true => ChangeNumber(ends.next.0.next_multiple_of(GAP) + GAP),
                false => ends.next,
            },
            trimmed: ends.first,
        };
        Ok(Changes {
            window,
            numbers: Mutex::new(numbers),
        })
    }

    /// The number of the next change.
    pub fn number(&self) -> ChangeNumber {
        self.numbers().next
    }

    /// Adds the row to a write batch, under the next number, and deletes old ones. Call one of
    /// `written` and `give_up` after the write.
    pub fn take(
        &self,
        db: &dyn Db,
        (row, count): ChangeRow,
        batch: &mut Batch,
    ) -> store::Result<NumberedChange> {
        let mut numbers = self.numbers();
        let change = Change::new(numbers.next, row, count);
        numbers.next = change.end;
        let old = numbers.trimmed..ChangeNumber(change.number.0.saturating_sub(self.window));
        drop(numbers);
        changes::put(change.number, &change.row, batch);
        // Only now and then, because a deletion reads the row first.
        let trims = old.end.0.saturating_sub(old.start.0) > self.window / 8;
        if trims {
            store::view(db, |view| changes::delete(view, old.clone(), batch))?;
        }
        Ok(NumberedChange {
            change,
            trimmed: trims.then_some(old.end),
        })
    }

    pub fn written(&self, taken: NumberedChange) -> Change {
        if let Some(trimmed) = taken.trimmed {
            let mut numbers = self.numbers();
            numbers.trimmed = numbers.trimmed.max(trimmed);
        }
        taken.change
    }

    /// After a write that failed. The number is given out again, unless another worker has taken
    /// the next one; then the projector starts again from the store.
    pub fn give_up(&self, taken: &NumberedChange) {
        let mut numbers = self.numbers();
        if numbers.next == taken.change.end {
            numbers.next = taken.change.number;
        }
    }

    fn numbers(&self) -> MutexGuard<'_, Numbers> {
        self.numbers
            .lock()
            .expect("nothing panics while it holds the numbers")
    }
}
