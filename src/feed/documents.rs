//! Documents as they are sent, for all readers: GET, streams, webhooks. There is one cache with
//! one rule: it returns a document to a reader that asks for no more changes than the document is
//! known to contain. Otherwise it compares the snapshot, and decodes and renders only a new one.
//! So a failed write, a crash and damage need no rule of their own: an entry says which changes it
//! contains, never that there are no others.
//!
//! A large document is in memory once, however many clients receive it, and also if it is too
//! large to be cached.

use super::unsent::{self, Large, NoRoom, Unsent};
use super::watch::{Change, Watchers};
use crate::domain::{Operation, OperationId, document};
use crate::rows::entry::{Entry, EntryLanes};
use crate::rows::filter::Filter;
use crate::rows::operation::{self, at_hand, with_operation};
use crate::rows::state;
use crate::store::{self, Cached, Db, View};
use crate::wire::change::ChangeNumber;
use crate::wire::document::{Bodies, bytes, rendered};
use crate::wire::snapshot;
use crate::wire::time::TimeStyle;
use bytes::Bytes;
use hashbrown::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Weak};

/// As it is sent.
#[derive(Debug, Clone, PartialEq)]
pub struct RenderedDocument {
    pub bytes: Bytes,
    /// A digest of the bytes in quotes, as a strong entity tag.
    pub etag: Bytes,
    /// Of its operation.
    pub has_ended: bool,
}

/// The state of an operation for a reader with a filter.
#[derive(Debug, PartialEq)]
pub enum Current {
    Shown(RenderedDocument),
    /// It has a document, but the filter does not select it.
    LeftOut,
    /// Its creation has not arrived.
    NoDocument,
    /// Nothing of it exists, or no longer.
    Gone,
}

impl Current {
    pub fn document(self) -> Option<RenderedDocument> {
        match self {
            Current::Shown(document) => Some(document),
            Current::LeftOut | Current::NoDocument | Current::Gone => None,
        }
    }
}

/// Why a document is not given out.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    #[error(transparent)]
    Store(#[from] store::Error),
    #[error(transparent)]
    NoRoom(#[from] NoRoom),
}

type DocumentResult<T> = std::result::Result<T, LoadError>;

/// The document as it is now, without a cache: of a store that only one reads.
pub fn read(
    db: &dyn Db,
    operation_id: OperationId,
    times: &TimeStyle,
) -> store::Result<Option<Vec<u8>>> {
    let show = |op: &Operation| bytes(operation_id, op, Bodies::Shown, times);
    store::view(db, |view| {
        let shown = operation::load(view, operation_id, Bodies::Shown, show)?;
        Ok(shown.flatten())
    })
}

pub struct DocumentCache {
    times: TimeStyle,
    watchers: Arc<Watchers>,
    unsent: Arc<Unsent>,
    kept: quick_cache::sync::Cache<Box<str>, Arc<Kept>, DocumentWeight>,
    /// Large documents that are being sent, by operation.
    large: Mutex<HashMap<Box<str>, Sent>>,
}

struct Kept {
    /// The snapshot that the document follows from.
    row: SnapshotRow,
    document: RenderedDocument,
    /// The entry that filters are compared with.
    entry: Entry,
    /// It contains all changes before this number.
    holds: AtomicU64,
}

/// The snapshot of an operation, if its document follows from that alone, or from what it
/// names, which never changes. `None` where lanes are in rows of their own: they change while
/// the snapshot stays.
type SnapshotRow = Option<Vec<u8>>;

struct Sent {
    row: SnapshotRow,
    etag: Bytes,
    has_ended: bool,
    entry: Entry,
    bytes: Weak<Large>,
}

#[derive(Clone)]
struct DocumentWeight;

impl quick_cache::Weighter<Box<str>, Arc<Kept>> for DocumentWeight {
    fn weight(&self, id: &Box<str>, kept: &Arc<Kept>) -> u64 {
        let row = kept.row.as_ref().map_or(0, Vec::len);
        let parts = [row, kept.entry.row.len(), kept.document.bytes.len()];
        // The cache, the counts and the tag need about 350 bytes for an entry.
        (id.len() + parts.iter().sum::<usize>() + 350) as u64
    }
}

impl Kept {
    fn holds(&self) -> ChangeNumber {
        ChangeNumber(self.holds.load(Ordering::Relaxed))
    }

    /// `None` if the filter needs something that is not in memory.
    fn by(&self, operation_id: OperationId, filter: &Filter) -> Option<Current> {
        let matches = match filter.judge(&self.entry) {
            Some(matches) => matches,
            None => {
                let op = at_hand(self.row.as_ref()?)?;
                matches(operation_id, &op, filter)
            }
        };
        Some(self.shown(matches))
    }

    fn shown(&self, matches: bool) -> Current {
        match matches {
            true => Current::Shown(self.document.clone()),
            false => Current::LeftOut,
        }
    }
}

impl Sent {
    fn document(&self) -> Option<RenderedDocument> {
        Some(RenderedDocument {
            bytes: Large::bytes(self.bytes.upgrade()?),
            etag: self.etag.clone(),
            has_ended: self.has_ended,
        })
    }
}

fn matches(operation_id: OperationId, op: &Operation, filter: &Filter) -> bool {
    document(operation_id, op).is_some_and(|document| filter.matches(&document))
}

impl DocumentCache {
    /// Keeps up to `capacity` bytes. `watchers` say which changes the store contains.
    pub fn new(
        times: TimeStyle,
        capacity: u64,
        unsent: Arc<Unsent>,
        watchers: Arc<Watchers>,
    ) -> DocumentCache {
        // An operation with its document takes some two kilobytes.
        let expected = (capacity / 2048) as usize;
        DocumentCache {
            times,
            watchers,
            unsent,
            kept: quick_cache::sync::Cache::with_weighter(expected, capacity, DocumentWeight),
            large: Mutex::default(),
        }
    }

    pub fn times(&self) -> &TimeStyle {
        &self.times
    }

    /// Counts the large documents, together with other large responses.
    pub fn unsent(&self) -> &Arc<Unsent> {
        &self.unsent
    }

    /// The document with all changes before the number `at_least`, which the store must contain by
    /// now. Reads memory alone: `None` if [`DocumentCache::load`] must be called, on a thread that
    /// may wait.
    pub fn load_cached(
        &self,
        db: &dyn Db,
        operation_id: OperationId,
        at_least: ChangeNumber,
        filter: &Filter,
    ) -> DocumentResult<Option<Current>> {
        let kept = self.kept.get(&*operation_id);
        if let Some(kept) = &kept
            && kept.holds() >= at_least
            && let Some(current) = kept.by(operation_id, filter)
        {
            return Ok(Some(current));
        }
        let holds = self.held(at_least);
        let row = match state::snapshot_cached(db, operation_id)? {
            Cached::Unknown => return Ok(None),
            Cached::Known(None) => return Ok(Some(Current::Gone)),
            Cached::Known(Some(row)) => row,
        };
        let kept = match self.of_row(kept, operation_id, &row, holds) {
            Some(kept) => kept,
            None => {
                let Some(op) = at_hand(&row) else {
                    return Ok(None);
                };
                let Some(fresh) = self.render(operation_id, &op) else {
                    return Ok(Some(Current::NoDocument));
                };
                self.keep(operation_id, fresh, Some(row), holds)?
            }
        };
        Ok(kept.by(operation_id, filter))
    }

    /// The same, reading the disk where needed.
    pub fn load(
        &self,
        db: &dyn Db,
        operation_id: OperationId,
        at_least: ChangeNumber,
        filter: &Filter,
    ) -> DocumentResult<Current> {
        let holds = self.held(at_least);
        let mut found = Ok(Current::Gone);
        store::view(db, |view| {
            found = self.load_in(view, operation_id, holds, filter);
            Ok(())
        })?;
        found
    }

    fn load_in(
        &self,
        view: &dyn View,
        operation_id: OperationId,
        holds: ChangeNumber,
        filter: &Filter,
    ) -> DocumentResult<Current> {
        let Some(row) = state::snapshot(view, operation_id)? else {
            return Ok(Current::Gone);
        };
        let kept = self.kept.get(&*operation_id);
        let kept = match self.of_row(kept, operation_id, &row, holds) {
            Some(kept) => kept,
            None => {
                let Some((fresh, snapshot)) = self.render_row(view, operation_id, &row)? else {
                    return Ok(Current::NoDocument);
                };
                self.keep(operation_id, fresh, snapshot, holds)?
            }
        };
        if let Some(current) = kept.by(operation_id, filter) {
            return Ok(current);
        }
        let judge = |op: &Operation| matches(operation_id, op, filter);
        let matches = with_operation(view, operation_id, &row, Bodies::LeftOut, judge)?;
        Ok(kept.shown(matches))
    }

    /// The document of a snapshot that has been read already. It is not cached: a reader that goes
    /// through many documents would evict those that are read often.
    pub fn of(
        &self,
        view: &dyn View,
        operation_id: OperationId,
        row: &[u8],
    ) -> DocumentResult<Option<RenderedDocument>> {
        let kept = self.kept.get(&*operation_id);
        if let Some(kept) = self.of_row(kept, operation_id, row, ChangeNumber::ZERO) {
            return Ok(Some(kept.document.clone()));
        }
        let Some((fresh, snapshot)) = self.render_row(view, operation_id, row)? else {
            return Ok(None);
        };
        let shared = self.share(operation_id, fresh, snapshot)?;
        Ok(Some(shared.document.clone()))
    }

    /// The same, with times as receivers of webhooks are sent them. It is never refused.
    pub fn of_delivery(
        &self,
        view: &dyn View,
        operation_id: OperationId,
        row: &[u8],
        times: &TimeStyle,
    ) -> store::Result<Option<Bytes>> {
        let kept = self
            .kept
            .get(&*operation_id)
            .filter(|_| *times == self.times);
        if let Some(kept) = kept.filter(|kept| kept.row.as_deref() == Some(row)) {
            return Ok(Some(kept.document.bytes.clone()));
        }
        let show = |op: &Operation| bytes(operation_id, op, Bodies::Shown, times);
        let shown = with_operation(view, operation_id, row, Bodies::Shown, show)?;
        Ok(shown.map(Bytes::from))
    }

    /// Removes the documents that this change affects. The next reader that the change wakes reads
    /// them again, so a stream that lags is sent the state of that moment. Without a change,
    /// removes everything.
    pub fn forget(&self, change: Option<&Change>) {
        match change {
            _ if self.kept.is_empty() => {}
            Some(change) => change.each_id(|id| {
                let is_before = |kept: &Arc<Kept>| kept.holds() < change.end;
                self.kept.remove_if(&*id, is_before);
            }),
            None => self.kept.clear(),
        }
    }

    /// Call it before the store is read: the store then contains at least these changes.
    fn held(&self, at_least: ChangeNumber) -> ChangeNumber {
        self.watchers.head().max(at_least)
    }

    /// The cached entry of the operation, if it is of this snapshot.
    fn of_row(
        &self,
        kept: Option<Arc<Kept>>,
        operation_id: OperationId,
        row: &[u8],
        holds: ChangeNumber,
    ) -> Option<Arc<Kept>> {
        let is_same = |snapshot: &SnapshotRow| snapshot.as_deref() == Some(row);
        if let Some(kept) = kept.filter(|kept| is_same(&kept.row)) {
            kept.holds.fetch_max(holds.0, Ordering::Relaxed);
            return Some(kept);
        }
        let large = self.large();
        let sent = large
            .get(&*operation_id)
            .filter(|sent| is_same(&sent.row))?;
        Some(Arc::new(Kept {
            row: sent.row.clone(),
            document: sent.document()?,
            entry: sent.entry.clone(),
            holds: AtomicU64::new(holds.0),
        }))
    }

    fn render_row(
        &self,
        view: &dyn View,
        operation_id: OperationId,
        row: &[u8],
    ) -> store::Result<Option<(Fresh, SnapshotRow)>> {
        let show = |op: &Operation| self.render(operation_id, op);
        let fresh = with_operation(view, operation_id, row, Bodies::Shown, show)?;
        let is_all = matches!(snapshot::decode(row), Ok((_, None)));
        Ok(fresh.map(|fresh| (fresh, is_all.then(|| row.to_vec()))))
    }

    fn render(&self, operation_id: OperationId, op: &Operation) -> Option<Fresh> {
        let document = document(operation_id, op)?;
        Some(Fresh {
            bytes: rendered(&document, Bodies::Shown, &self.times),
            has_ended: document.status.has_ended(),
            entry: Entry::of(op, EntryLanes::AtHand)?,
        })
    }

    /// As it is given out: a large one shares the memory of its equal.
    fn share(
        &self,
        operation_id: OperationId,
        fresh: Fresh,
        row: SnapshotRow,
    ) -> DocumentResult<Arc<Kept>> {
        let Fresh {
            bytes,
            has_ended,
            entry,
        } = fresh;
        let etag = etag(&bytes);
        let bytes = match bytes.len() <= unsent::SMALL {
            true => bytes.into(),
            false => {
                let mut large = self.large();
                let equal = large.get(&*operation_id).filter(|sent| sent.etag == etag);
                match equal.and_then(|sent| sent.bytes.upgrade()) {
                    Some(equal) => Large::bytes(equal),
                    None => {
                        let bytes = self.unsent.hold_large(bytes)?;
                        large.retain(|_, sent| sent.bytes.strong_count() > 0);
                        let sent = Sent {
                            row: row.clone(),
                            etag: etag.clone(),
                            has_ended,
                            entry: entry.clone(),
                            bytes: Arc::downgrade(&bytes),
                        };
                        large.insert(operation_id.0.into(), sent);
                        Large::bytes(bytes)
                    }
                }
            }
        };
        Ok(Arc::new(Kept {
            row,
            document: RenderedDocument {
                bytes,
                etag,
                has_ended,
            },
            entry,
            holds: AtomicU64::new(0),
        }))
    }

    fn keep(
        &self,
        operation_id: OperationId,
        fresh: Fresh,
        row: SnapshotRow,
        holds: ChangeNumber,
    ) -> DocumentResult<Arc<Kept>> {
        let kept = self.share(operation_id, fresh, row)?;
        kept.holds.store(holds.0, Ordering::Relaxed);
        // Another reader may have put a newer one there meanwhile. Then that one stays.
        let other = self.kept.peek(&*operation_id);
        if other.is_none_or(|other| other.holds() <= holds) {
            self.kept.insert(operation_id.0.into(), kept.clone());
        }
        Ok(kept)
    }

    fn large(&self) -> MutexGuard<'_, HashMap<Box<str>, Sent>> {
        self.large
            .lock()
            .expect("nothing panics while it holds the large ones")
    }
}

/// A digest of the bytes in quotes, as a strong entity tag.
fn etag(bytes: &[u8]) -> Bytes {
    let digest = blake3::hash(bytes).to_hex();
    format!("\"{}\"", &digest[..32]).into()
}

struct Fresh {
    bytes: Vec<u8>,
    has_ended: bool,
    entry: Entry,
}

#[cfg(test)]
mod tests;
