//! The list entry of an operation in memory: enough to decide most filters without reading the
//! operation. The same content as the entry by status.

use super::filter::Filter;
use crate::domain::Operation;
use crate::domain::effects::Listed;
use crate::store::{Batch, Family};
use crate::wire::{list_entry, snapshot};
use std::sync::Arc;

#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    pub listed: Listed,
    pub row: Arc<[u8]>,
}

/// Whether the lanes of an operation are all in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EntryLanes {
    AtHand,
    Apart,
}

impl Entry {
    /// `None` for an operation without a document.
    pub fn of(op: &Operation, lanes: EntryLanes) -> Option<Entry> {
        Some(Entry {
            listed: op.standing().listed?,
            row: row(op, lanes)?.into(),
        })
    }

    fn of_snapshot(snapshot: &[u8]) -> Option<Entry> {
        let (op, apart) = snapshot::decode(snapshot).ok()?;
        let lanes = match apart {
            None => EntryLanes::AtHand,
            Some(_) => EntryLanes::Apart,
        };
        Entry::of(&op, lanes)
    }
}

/// The value of an operation's entry by status.
pub fn row(op: &Operation, lanes: EntryLanes) -> Option<Vec<u8>> {
    let request = &op.created.get()?.value.request;
    let traits = (lanes == EntryLanes::AtHand).then(|| op.traits());
    Some(list_entry::encode(
        request.method,
        &request.uri,
        traits.as_ref(),
    ))
}

/// Sorts the entries of a batch: RocksDB inserts a row faster if it follows the one before.
pub fn sort(batch: &mut Batch) {
    batch.sort(&[Family::ByTime, Family::ByStatus]);
}

/// The change of a batch to the entry of one operation.
#[derive(Debug, Clone, PartialEq)]
pub enum EntryChange {
    /// The entry is a new one, or at another place.
    Moved(Moved),
    /// The entry is unchanged, and follows from this snapshot.
    Same(Arc<[u8]>),
}

impl EntryChange {
    pub fn moved(self) -> Moved {
        match self {
            EntryChange::Moved(moved) => moved,
            EntryChange::Same(snapshot) => Moved {
                was: None,
                is: Entry::of_snapshot(&snapshot),
            },
        }
    }

    /// About.
    pub fn bytes(&self) -> usize {
        match self {
            EntryChange::Moved(moved) => moved.entries().map(|entry| entry.row.len()).sum(),
            EntryChange::Same(snapshot) => snapshot.len(),
        }
    }
}

/// The entry of one operation before and after a batch.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Moved {
    /// `None` as well if it was the same.
    pub was: Option<Entry>,
    pub is: Option<Entry>,
}

impl Moved {
    pub fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.was.iter().chain(&self.is)
    }

    /// False only if the filter leaves it out now and did so before.
    pub fn concerns(&self, filter: &Filter) -> bool {
        self.entries()
            .any(|entry| filter.judge(entry) != Some(false))
    }
}
