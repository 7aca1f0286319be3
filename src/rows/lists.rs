//! Selects the operations of a list by their index entries, and reads an operation only if its
//! entry does not decide. The work for a page is bounded, however few operations match: a page
//! may be short or empty although there are more.

use super::filter::Filter;
use super::keys;
use super::operation::{self, with_operation};
use crate::domain::{OperationId, Slices, Status, Timestamp, document};
use crate::store::{self, ALL, Db, Direction, Family, Result, View, scan_readable, try_scan};
use crate::wire::document::Bodies;
use std::ops::{ControlFlow, Range};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Order {
    #[default]
    Newest,
    Oldest,
}

#[derive(Debug, Clone, Default)]
pub struct Query {
    pub filter: Filter,
    pub order: Order,
    /// Only the operations of these.
    pub slices: Slices,
}

/// The limits of one page.
#[derive(Debug, Clone, Copy)]
pub struct PageLimits {
    /// Maximum number of operations.
    pub limit: usize,
    /// Maximum number of entries that are read of each status.
    pub work: usize,
}

/// Reading an operation costs about as much as reading this many entries.
const READ: usize = 50;

#[derive(Debug, Default, PartialEq)]
pub struct Selected {
    /// Their keys in `by_time`, in the order of the list.
    pub found: Vec<Vec<u8>>,
    /// The key after which the next page begins, if there may be one.
    pub next: Option<Vec<u8>>,
    /// Ranges of `by_time` in which operations may be missing, because no entry there can be
    /// read.
    pub unread: Vec<Range<Vec<u8>>>,
}

/// The operation that a found key names; `None` if it is no such key.
pub fn operation_of(found: &[u8]) -> Option<OperationId<'_>> {
    keys::operation_of_by_time(found)
}

/// The creation time of the operation that a found key names.
pub fn time_of(found: &[u8]) -> Option<Timestamp> {
    keys::time_of_by_time(found)
}

/// Shows the operations of all documents, the oldest first.
pub fn each(db: &dyn Db, visit: &mut dyn FnMut(OperationId) -> ControlFlow<()>) -> Result<()> {
    store::view(db, |view| {
        let (family, forward) = (Family::ByTime, Direction::Forward);
        view.scan(family, ALL, forward, &mut |key, _| {
            operation_of(key).map_or(ControlFlow::Continue(()), &mut *visit)
        })
    })
}

/// Whether the operation with this key of `by_time` is in the slices. That is worked out only if
/// it may not be.
fn is_in(slices: Slices, by_time: &[u8]) -> bool {
    slices == Slices::ALL || operation_of(by_time).is_some_and(|id| slices.contains(id.slice()))
}

/// `after`: the last key of the page before.
pub fn select(
    view: &dyn View,
    query: &Query,
    after: Option<&[u8]>,
    bounds: PageLimits,
) -> Result<Selected> {
    let mut selection = Selection::new(view, query, after, bounds);
    let statuses = match &query.filter.statuses[..] {
        // Most operations have ended: the others are in the rest of the range then.
        [] => &[
            Status::Completed,
            Status::Failed,
            Status::Canceled,
            Status::Executing,
            Status::Unexecuted,
        ],
        some => some,
    };
    let by_status = statuses.iter().map(|status| Entries::OfStatus(*status));
    // Both families have an entry of each operation, so one replaces unreadable entries of the
    // other.
    let (first, instead): (Vec<_>, Vec<_>) = match query.filter.is_of_time_alone() {
        true => (vec![Entries::ByTime], by_status.collect()),
        false => (by_status.collect(), vec![Entries::ByTime]),
    };
    let mut damaged = Vec::new();
    for entries in first {
        damaged.append(&mut selection.scan(entries)?);
    }
    let mut unread = Vec::new();
    if !damaged.is_empty() {
        for entries in instead {
            let also = selection.scan(entries)?;
            unread.extend(also.iter().flat_map(|also| overlaps(also, &damaged)));
        }
        selection.read_unread(&mut unread)?;
    }
    Ok(Selected {
        unread,
        ..selection.finish()
    })
}

/// A family of index entries.
#[derive(Clone, Copy)]
enum Entries {
    ByTime,
    OfStatus(Status),
}

/// A range of keys.
type KeyRange = Range<Vec<u8>>;

fn overlaps(one: &KeyRange, others: &[KeyRange]) -> Vec<KeyRange> {
    let both = others.iter().map(|other| {
        let start = one.start.clone().max(other.start.clone());
        start..one.end.clone().min(other.end.clone())
    });
    both.filter(|both| both.start < both.end).collect()
}

/// Maximum number of operations without a readable entry that are searched by their states;
/// that scans all states.
const WITHOUT_ENTRY: usize = 100_000;

/// Finds the keys of `by_time` in these ranges by scanning the states of some slices. An operation
/// outside the ranges costs a decoding.
pub fn by_state(
    view: &dyn View,
    slices: Slices,
    ranges: &[KeyRange],
    found: &mut dyn FnMut(Vec<u8>) -> ControlFlow<()>,
) -> Result<()> {
    let look = |key: &[u8], row: &[u8]| -> Result<ControlFlow<()>> {
        let Some(id) = keys::operation_of(key) else {
            return Ok(ControlFlow::Continue(()));
        };
        let listed = with_operation(view, id, row, Bodies::LeftOut, |op| op.standing().listed);
        let time = match listed {
            Ok(Some(listed)) => listed.occurred_time,
            Ok(None) => return Ok(ControlFlow::Continue(())),
            Err(error) if error.is_unreadable() => return Ok(ControlFlow::Continue(())),
            Err(error) => return Err(error),
        };
        let by_time = keys::by_time(time, id);
        Ok(match ranges.iter().any(|range| range.contains(&by_time)) {
            true => found(by_time),
            false => ControlFlow::Continue(()),
        })
    };
    let range = keys::of_slices(slices);
    scan_readable(view, Family::State, &range.start..&range.end, look)
}

struct Selection<'s> {
    view: &'s dyn View,
    query: &'s Query,
    bounds: PageLimits,
    /// Start of the range that may still contain wanted entries.
    start: Vec<u8>,
    end: Vec<u8>,
    found: Vec<Vec<u8>>,
    /// The first entry after which the scan is incomplete.
    frontier: Option<Vec<u8>>,
}

impl<'s> Selection<'s> {
    fn new(
        view: &'s dyn View,
        query: &'s Query,
        after: Option<&[u8]>,
        bounds: PageLimits,
    ) -> Selection<'s> {
        let filter = &query.filter;
        let mut start = filter.occurred_from.map_or_else(Vec::new, keys::from_time);
        let mut end = filter
            .occurred_to
            .map_or_else(|| ALL.end.to_vec(), keys::from_time);
        match (after, query.order) {
            (Some(after), Order::Newest) => end = end.min(after.to_vec()),
            (Some(after), Order::Oldest) => start = start.max([after, &[0]].concat()),
            (None, _) => {}
        }
        Selection {
            view,
            query,
            bounds,
            start,
            end,
            found: Vec::new(),
            frontier: None,
        }
    }

    /// Scans entries. Returns the ranges of `by_time` that cannot be read.
    fn scan(&mut self, entries: Entries) -> Result<Vec<KeyRange>> {
        if self.start >= self.end {
            return Ok(Vec::new());
        }
        let (family, prefix) = match entries {
            Entries::OfStatus(status) => (Family::ByStatus, vec![keys::of_status(status)]),
            Entries::ByTime => (Family::ByTime, Vec::new()),
        };
        let range = [&prefix[..], &self.start].concat()..[&prefix[..], &self.end].concat();
        let (view, filter, bounds) = (self.view, &self.query.filter, self.bounds);
        let slices = self.query.slices;
        let (mut work, mut count) = (0, 0);
        let mut stopped_at = None;
        let direction = self.direction();
        let found = &mut self.found;
        let mut damaged: Vec<KeyRange> = Vec::new();
        let mut unread = |keys: Range<Vec<u8>>| {
            let by_time = |key: &[u8]| key[prefix.len().min(key.len())..].to_vec();
            // Limited to the range, of which the prefix is a part.
            damaged.push(by_time(&keys.start)..by_time(&keys.end));
        };
        let range = &range.start[..]..&range.end[..];
        try_scan(
            |visit| view.scan_past_damage(family, range, direction, visit, &mut unread),
            |key, row| {
                let by_time = &key[prefix.len()..];
                work += 1;
                let matches = match judge(filter, entries, row) {
                    _ if !is_in(slices, by_time) => false,
                    Some(matches) => matches,
                    None => {
                        work += READ;
                        ask(view, filter, by_time)?
                    }
                };
                if matches {
                    found.push(by_time.to_vec());
                    count += 1;
                }
                // One more than wanted shows whether there is another page.
                if count > bounds.limit || work >= bounds.work {
                    stopped_at = Some(by_time.to_vec());
                    return Ok(ControlFlow::Break(()));
                }
                Ok(ControlFlow::Continue(()))
            },
        )?;
        if let Some(stopped_at) = stopped_at {
            self.narrow(stopped_at);
        }
        self.cut_off();
        Ok(damaged)
    }

    /// Finds operations with unreadable entries by their states. Ranges that are too large for
    /// that stay in `unread`.
    fn read_unread(&mut self, unread: &mut Vec<KeyRange>) -> Result<()> {
        let wanted = self.start.clone()..self.end.clone();
        unread.retain(|range| !overlaps(range, std::slice::from_ref(&wanted)).is_empty());
        if unread.is_empty() {
            return Ok(());
        }
        let mut found = Vec::new();
        by_state(self.view, self.query.slices, unread, &mut |key| {
            found.push(key);
            match found.len() > WITHOUT_ENTRY {
                true => ControlFlow::Break(()),
                false => ControlFlow::Continue(()),
            }
        })?;
        if found.len() > WITHOUT_ENTRY {
            return Ok(());
        }
        unread.clear();
        for key in found.into_iter().filter(|key| wanted.contains(key)) {
            if ask(self.view, &self.query.filter, &key)? {
                self.found.push(key);
            }
        }
        self.cut_off();
        Ok(())
    }

    /// Drops everything after the first entry beyond the limit.
    fn cut_off(&mut self) {
        let limit = self.bounds.limit;
        if self.found.len() <= limit {
            return;
        }
        self.sort();
        if self.found.len() > limit {
            self.found.truncate(limit + 1);
            let last = self.found[limit].clone();
            self.narrow(last);
        }
    }

    /// Ends the range at this key.
    fn narrow(&mut self, to: Vec<u8>) {
        let is_nearer = self
            .frontier
            .as_ref()
            .is_none_or(|held| match self.query.order {
                Order::Newest => to > *held,
                Order::Oldest => to < *held,
            });
        if !is_nearer {
            return;
        }
        match self.query.order {
            Order::Newest => self.start.clone_from(&to),
            Order::Oldest => self.end = [&to[..], &[0]].concat(),
        }
        self.frontier = Some(to);
    }

    fn finish(mut self) -> Selected {
        self.sort();
        if let Some(frontier) = &self.frontier {
            let order = self.query.order;
            self.found.retain(|found| match order {
                Order::Newest => found >= frontier,
                Order::Oldest => found <= frontier,
            });
        }
        let next = match self.found.len() > self.bounds.limit {
            true => {
                self.found.truncate(self.bounds.limit);
                self.found.last().cloned()
            }
            false => self.frontier,
        };
        Selected {
            found: self.found,
            next,
            unread: Vec::new(),
        }
    }

    /// Removes duplicates, because both families may find an operation.
    fn sort(&mut self) {
        self.found.sort_unstable();
        self.found.dedup();
        if self.query.order == Order::Newest {
            self.found.reverse();
        }
    }

    fn direction(&self) -> Direction {
        match self.query.order {
            Order::Newest => Direction::Backward,
            Order::Oldest => Direction::Forward,
        }
    }
}

/// The decision from the entry alone; `None` if the operation must be read.
fn judge(filter: &Filter, entries: Entries, row: &[u8]) -> Option<bool> {
    match entries {
        Entries::ByTime => filter.is_of_time_alone().then_some(true),
        Entries::OfStatus(_) => filter.judge_row(row),
    }
}

/// An unreadable operation does not match; the list records it as a defect.
fn ask(view: &dyn View, filter: &Filter, by_time: &[u8]) -> Result<bool> {
    let Some(id) = keys::operation_of_by_time(by_time) else {
        return Ok(false);
    };
    let shown = operation::load(view, id, Bodies::LeftOut, |op| {
        document(id, op).is_some_and(|document| filter.matches(&document))
    });
    match shown {
        Ok(matches) => Ok(matches == Some(true)),
        Err(error) if error.is_unreadable() => Ok(false),
        Err(error) => Err(error),
    }
}
