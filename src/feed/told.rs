//! How operations stand that were told of lately: read and rendered once for all who
//! watch lists.

use super::at_hand::{self, Documents};
use super::progress::Applied;
use super::watch::{Change, Watchers};
use crate::domain::{Operation, document as document_of};
use crate::feed::current::Current;
use crate::rows::entry::{Entry, Lanes};
use crate::rows::filter::Filter;
use crate::rows::operation::{at_hand as operation_at_hand, with_operation};
use crate::rows::state;
use crate::store::{self, Cached, Db};
use crate::wire::document::{Bodies, rendered};
use crate::wire::time::TimeStyle;
use bytes::Bytes;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Enough for what changes while the slowest of those that keep pace look at it.
const BYTES: u64 = 8 << 20;

pub struct Told {
    watchers: Arc<Watchers>,
    times: TimeStyle,
    kept: quick_cache::sync::Cache<Box<str>, Arc<Kept>, ByBytes>,
    reads: AtomicU64,
}

struct Kept {
    /// It holds all changes before this.
    as_of: u64,
    state: State,
}

enum State {
    Gone,
    NoDocument,
    Shown {
        entry: Entry,
        document: Bytes,
        has_ended: bool,
    },
}

#[derive(Clone)]
struct ByBytes;

impl quick_cache::Weighter<Box<str>, Arc<Kept>> for ByBytes {
    fn weight(&self, id: &Box<str>, kept: &Arc<Kept>) -> u64 {
        let state = match &kept.state {
            State::Gone | State::NoDocument => 0,
            State::Shown {
                entry, document, ..
            } => entry.row.len() + document.len(),
        };
        // What the cache and the counts need for an entry is about 300 bytes.
        (id.len() + state + 300) as u64
    }
}

impl State {
    fn of(operation_id: &str, op: &Operation, lanes: Lanes, times: &TimeStyle) -> State {
        let Some((document, entry)) = document_of(operation_id, op).zip(Entry::of(op, lanes))
        else {
            return State::NoDocument;
        };
        State::Shown {
            entry,
            has_ended: document.status.has_ended(),
            document: rendered(&document, Bodies::Shown, times).into(),
        }
    }

    /// `None` if the filter asks for more than is kept.
    fn by(&self, filter: &Filter) -> Option<Current> {
        Some(match self {
            State::Gone => Current::Gone,
            State::NoDocument => Current::NoDocument,
            State::Shown {
                entry,
                document,
                has_ended,
            } => match filter.judge(entry)? {
                false => Current::LeftOut,
                true => Current::Shown {
                    document: document.clone(),
                    has_ended: *has_ended,
                },
            },
        })
    }
}

/// What filters judge it by, and whether this one takes it; `None` if it has no document.
fn judged(operation_id: &str, op: &Operation, filter: &Filter) -> Option<(Entry, bool)> {
    let (document, entry) = document_of(operation_id, op).zip(Entry::of(op, Lanes::AtHand))?;
    let by_entry = filter.judge(&entry);
    let matches = by_entry.unwrap_or_else(|| filter.matches(&document));
    Some((entry, matches))
}

impl Told {
    pub fn new(watchers: Arc<Watchers>, times: TimeStyle) -> Told {
        Told {
            watchers,
            times,
            kept: quick_cache::sync::Cache::with_weighter((BYTES / 2048) as usize, BYTES, ByBytes),
            reads: AtomicU64::new(0),
        }
    }

    /// With all changes before `as_of`. From memory alone: `None` if [`Told::read`] has to
    /// be asked, on a thread that may wait.
    pub fn get(
        &self,
        db: &dyn Db,
        operation_id: &str,
        as_of: u64,
        filter: &Filter,
    ) -> store::Result<Option<Current>> {
        if let Some(kept) = self.kept.get(operation_id)
            && kept.as_of >= as_of
            && let Some(current) = kept.state.by(filter)
        {
            return Ok(Some(current));
        }
        let head = self.watchers.head();
        self.reads.fetch_add(1, Ordering::Relaxed);
        let row = match state::snapshot_cached(db, operation_id)? {
            Cached::Unknown => return Ok(None),
            Cached::Known(None) => return Ok(self.keep(operation_id, head, State::Gone, filter)),
            Cached::Known(Some(row)) => row,
        };
        Ok(operation_at_hand(&row).map(|op| self.show(operation_id, head, &op, filter)))
    }

    /// The same, with what only the disk can tell. `applied` must have been taken before.
    pub fn read(
        &self,
        db: &dyn Db,
        documents: &Documents,
        applied: &Applied,
        operation_id: &str,
        filter: &Filter,
    ) -> Result<Current, at_hand::Error> {
        let head = self.watchers.head();
        let mut found = Ok(Current::Gone);
        store::view(db, |view| {
            let Some(row) = state::snapshot(view, operation_id)? else {
                return Ok(());
            };
            let judged = with_operation(view, operation_id, &row, Bodies::LeftOut, |op| {
                judged(operation_id, op, filter)
            })?;
            found = match judged {
                None => Ok(Current::NoDocument),
                // A large one is in memory once, for these as for all others.
                Some((entry, matches)) => documents
                    .read_in(view, applied, operation_id)
                    .map(|document| self.shown(operation_id, head, entry, matches, document)),
            };
            Ok(())
        })?;
        found
    }

    fn shown(
        &self,
        operation_id: &str,
        head: u64,
        entry: Entry,
        matches: bool,
        document: Option<at_hand::Document>,
    ) -> Current {
        let Some(document) = document else {
            return Current::NoDocument;
        };
        let has_ended = document.has_ended;
        let state = State::Shown {
            entry,
            document: document.bytes.clone(),
            has_ended,
        };
        self.put(operation_id, head, state);
        match matches {
            false => Current::LeftOut,
            true => Current::Shown {
                document: document.bytes,
                has_ended,
            },
        }
    }

    fn show(&self, operation_id: &str, head: u64, op: &Operation, filter: &Filter) -> Current {
        let state = State::of(operation_id, op, Lanes::AtHand, &self.times);
        let current = self.keep(operation_id, head, state, filter);
        current.unwrap_or_else(|| Current::of(operation_id, op, filter, &self.times))
    }

    fn keep(
        &self,
        operation_id: &str,
        as_of: u64,
        state: State,
        filter: &Filter,
    ) -> Option<Current> {
        let current = state.by(filter);
        self.put(operation_id, as_of, state);
        current
    }

    fn put(&self, operation_id: &str, as_of: u64, state: State) {
        // What another read meanwhile may be newer, and then stays.
        let is_newer = |kept: &Arc<Kept>| kept.as_of > as_of;
        if !self
            .kept
            .peek(operation_id)
            .is_some_and(|kept| is_newer(&kept))
        {
            let kept = Arc::new(Kept { as_of, state });
            self.kept.insert(operation_id.into(), kept);
        }
    }

    /// What this changed is read again by who tells of it next, so that one that is late
    /// tells how things stand by then. Without a change, everything.
    pub fn forget(&self, change: Option<&Change>) {
        match change {
            _ if self.kept.is_empty() => {}
            Some(change) => change.each_id(|id| drop(self.kept.remove(id))),
            None => self.kept.clear(),
        }
    }

    /// How often the store was asked, since the start.
    pub fn reads(&self) -> u64 {
        self.reads.load(Ordering::Relaxed)
    }
}
