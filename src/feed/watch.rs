//! The watchers of each operation, and the most recent changes. The projector reports the
//! changes of each batch once the batch is written and its position is published. That wakes the
//! watchers of its operations, and, in the order of the numbers, those that watch all. A watcher is sent no data: it wakes and
//! reads the current state, so a slow reader skips the states in between and costs nothing.

use super::index::{ChangedEntries, Key};
use crate::domain::OperationId;
use crate::rows::entry::EntryChange;
use crate::rows::filter::Filter;
use crate::wire::change::{self, ChangeNumber, Moves};
use hashbrown::HashMap;
use std::collections::VecDeque;
use std::fmt::{Debug, Formatter};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use tokio::sync::{Notify, watch};

/// A stored row of the index of changes. Its number counts the changes before it.
#[derive(Clone)]
pub struct Change {
    pub number: ChangeNumber,
    pub row: Arc<[u8]>,
    /// The number of the next row.
    pub end: ChangeNumber,
    ids: Arc<OnceLock<Box<[Range<u32>]>>>,
    /// For streams of lists; `None` of a stored row, and where there was no such stream.
    entries: Option<Arc<ChangedEntries>>,
}

impl Change {
    /// `count`: of its operations.
    pub fn new(number: ChangeNumber, row: Arc<[u8]>, count: usize) -> Change {
        Change {
            number,
            row,
            end: number.after(count),
            ids: Arc::default(),
            entries: None,
        }
    }

    /// Of numbers that no batch used.
    pub(super) fn nothing(number: ChangeNumber, end: ChangeNumber) -> Change {
        let row = change::encode(&Moves::of_all(Vec::new()), std::iter::empty()).into();
        Change {
            end,
            ..Change::new(number, row, 0)
        }
    }

    /// Adds what became of the list entries of its operations.
    pub fn add_entries(&mut self, entries: Vec<EntryChange>) {
        self.entries = Some(Arc::new(ChangedEntries::new(entries)));
    }

    /// Where the entries from before it do not count: it may concern everyone.
    pub fn forget_entries(&mut self) {
        self.entries = None;
    }

    /// The keys of all of its operations; `None` if those of some are not known.
    pub fn keys(&self) -> Option<impl ExactSizeIterator<Item = Key>> {
        self.entries.as_ref()?.keys()
    }

    /// The first operation, with its ordinal, from this ordinal on that the filter may be
    /// about.
    pub fn next(
        &self,
        filter: &Filter,
        from: ChangeNumber,
    ) -> Option<(ChangeNumber, OperationId<'_>)> {
        let mut place = from.0.saturating_sub(self.number.0) as usize;
        if let Some(entries) = &self.entries {
            place = entries.next(filter, place)?;
        }
        let ids = self.ids.get_or_init(|| match change::decode(&self.row) {
            Ok(change) => change.places(&self.row).collect(),
            Err(_) => Box::default(),
        });
        let range = ids.get(place)?;
        let id = &self.row[range.start as usize..range.end as usize];
        let id = OperationId(std::str::from_utf8(id).ok()?);
        Some((self.number.plus(place), id))
    }

    /// All of its operations.
    pub fn each_id(&self, visit: impl FnMut(OperationId)) {
        if let Ok(change) = change::decode(&self.row) {
            change.ids().for_each(visit);
        }
    }

    fn bytes(&self) -> usize {
        self.row.len() + self.entries.as_ref().map_or(0, |entries| entries.bytes())
    }
}

impl PartialEq for Change {
    fn eq(&self, other: &Change) -> bool {
        (self.number, &self.row) == (other.number, &other.row)
    }
}

impl Debug for Change {
    fn fmt(&self, f: &mut Formatter) -> std::fmt::Result {
        write!(f, "changes {}..{}", self.number.0, self.end.0)
    }
}

/// Limits of the last changes in memory, for streams that watch all of them.
const RECENT_BYTES: usize = 16 << 20;
const RECENT_ROWS: usize = 4096;
const RECENT_AT_ONCE: usize = 256;

#[derive(Default)]
pub struct Watchers {
    /// By operation.
    watched: Mutex<HashMap<Box<str>, Arc<Notify>>>,
    lists_watched: AtomicBool,
    recent: Mutex<Recent>,
    /// The number after the last change.
    head: watch::Sender<ChangeNumber>,
}

#[derive(Default)]
struct Recent {
    rows: VecDeque<Change>,
    bytes: usize,
}

impl Watchers {
    /// Wakes the watchers of the operations of this change.
    pub fn notify(&self, change: &Change) {
        let watched = self.lock();
        if !watched.is_empty() {
            change.each_id(|id| {
                if let Some(notify) = watched.get(&*id) {
                    notify.notify_waiters();
                }
            });
        }
    }

    /// Adds the change with the next number, and wakes those that watch all. `entries`: the
    /// changes of the list entries of its operations, none if they are not known.
    pub fn add(&self, mut change: Change, entries: Vec<EntryChange>) {
        // Nobody else reads them.
        if self.lists_watched.load(Ordering::Relaxed) && !entries.is_empty() {
            change.add_entries(entries);
        }
        let head = change.end;
        self.recent().push(change);
        self.head.send_replace(head);
    }

    /// From now on `Watching` is woken by changes of this operation.
    pub fn watch(self: &Arc<Watchers>, operation_id: OperationId) -> Watching {
        let mut watched = self.lock();
        let notify = watched.entry(operation_id.0.into()).or_default().clone();
        Watching {
            watchers: self.clone(),
            operation_id: operation_id.0.into(),
            notify,
        }
    }

    /// The number after the last change, and each change of it.
    pub fn watch_all(&self) -> watch::Receiver<ChangeNumber> {
        self.head.subscribe()
    }

    /// The remembered rows from that of this change on, a few at a time, if that is
    /// still remembered.
    pub fn recent_from(&self, change: ChangeNumber) -> Option<Vec<Change>> {
        let recent = self.recent();
        let after = recent.rows.partition_point(|row| row.number <= change);
        let rows = recent.rows.range(after.checked_sub(1)?..);
        Some(rows.take(RECENT_AT_ONCE).cloned().collect())
    }

    /// The number of the first row that is remembered.
    pub fn oldest(&self) -> Option<ChangeNumber> {
        self.recent().rows.front().map(|row| row.number)
    }

    /// The number after the last change that was notified of.
    pub fn head(&self) -> ChangeNumber {
        *self.head.borrow()
    }

    /// Sets the number of the first change that will be added. If others were written before it
    /// and not added, those that watch find them in the store.
    pub fn begin(&self, number: ChangeNumber) {
        if self.head() == number {
            return;
        }
        *self.recent() = Recent::default();
        self.head.send_replace(number);
        let watched = self.lock();
        watched.values().for_each(|notify| notify.notify_waiters());
    }

    /// Whether somebody watches lists: only then the changes of entries are kept.
    pub fn set_lists_watched(&self, is_watched: bool) {
        self.lists_watched.store(is_watched, Ordering::Relaxed);
    }

    #[cfg(test)]
    pub fn are_lists_watched(&self) -> bool {
        self.lists_watched.load(Ordering::Relaxed)
    }

    /// The number of operations that somebody watches.
    pub fn watched(&self) -> usize {
        self.lock().len()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Box<str>, Arc<Notify>>> {
        self.watched
            .lock()
            .expect("nothing panics while it holds the watchers")
    }

    fn recent(&self) -> MutexGuard<'_, Recent> {
        self.recent
            .lock()
            .expect("nothing panics while it holds the recent changes")
    }
}

impl Recent {
    fn push(&mut self, change: Change) {
        self.bytes += change.bytes();
        self.rows.push_back(change);
        while self.rows.len() > RECENT_ROWS || self.bytes > RECENT_BYTES {
            match self.rows.pop_front() {
                Some(forgotten) => self.bytes -= forgotten.bytes(),
                None => break,
            }
        }
    }
}

/// A watcher of one operation. Arm it before you read the current state, so that no change is
/// missed in between.
pub struct Watching {
    watchers: Arc<Watchers>,
    operation_id: Box<str>,
    notify: Arc<Notify>,
}

impl Watching {
    pub fn changed(&self) -> tokio::sync::futures::Notified<'_> {
        self.notify.notified()
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        let mut watched = self.watchers.lock();
        // The references of the map and of this watcher: nobody else can take one meanwhile.
        if Arc::strong_count(&self.notify) <= 2 {
            watched.remove(&self.operation_id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::change::{PartitionMove, encode};
    use crate::wire::position::{Offset, Partition};

    fn change(number: u64, ids: &[&str]) -> Change {
        let moved = vec![PartitionMove {
            partition: Partition(0),
            before: Offset(number).previous(),
            after: Offset(number),
        }];
        let row = encode(&Moves::of_all(moved), ids.iter().copied().map(OperationId)).into();
        Change::new(ChangeNumber(number), row, ids.len())
    }

    #[test]
    fn a_watcher_of_an_operation_gets_only_its_changes() {
        let watchers = Arc::new(Watchers::default());
        let watching = watchers.watch(OperationId("a"));
        let again = watchers.watch(OperationId("a"));
        let other = watchers.watch(OperationId("b"));
        let mut heard = [&watching, &again, &other].map(|w| Box::pin(w.changed()));
        for heard in &mut heard {
            heard.as_mut().enable();
        }
        watchers.notify(&change(0, &["c", "a"]));
        let woken = heard.map(|mut heard| heard.as_mut().enable());
        assert_eq!(woken, [true, true, false]);
        drop((watching, other));
        assert_eq!(watchers.watched(), 1, "one still watches it");
        drop(again);
        assert_eq!(watchers.watched(), 0);
    }

    #[test]
    fn the_change_index_returns_complete_ranges_or_none() {
        let watchers = Watchers::default();
        watchers.add(change(0, &["a", "b"]), Vec::new());
        watchers.add(change(2, &[]), Vec::new());
        watchers.add(change(3, &["a"]), Vec::new());
        assert_eq!(*watchers.watch_all().borrow(), ChangeNumber(4));
        let numbers = |from| {
            let rows = watchers.recent_from(ChangeNumber(from))?;
            Some(rows.iter().map(|row| row.number.0).collect::<Vec<_>>())
        };
        assert_eq!(numbers(0), Some(vec![0, 2, 3]));
        assert_eq!(
            numbers(1),
            Some(vec![0, 2, 3]),
            "the second of the first row"
        );
        assert_eq!(numbers(2), Some(vec![2, 3]));
        for number in 4..4 + RECENT_ROWS as u64 {
            watchers.add(change(number, &["a"]), Vec::new());
        }
        assert_eq!(numbers(3), None, "forgotten");
        assert_eq!(numbers(4).unwrap().len(), RECENT_AT_ONCE);
    }
}
