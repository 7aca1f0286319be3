//! Which operations come next in a list: by their entries, without reading them where
//! these say enough. What a page costs is bounded, however few operations match: it
//! may be short or empty, and there is more behind it all the same.

use super::filter::Filter;
use super::operation::with_operation;
use super::state;
use crate::domain::{Status, document};
use crate::store::{Direction, Error, Family, Result, View, keys};
use crate::wire::document::Bodies;
use crate::wire::place_v1;
use std::ops::ControlFlow;

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
}

/// What one page may take.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Operations, at most.
    pub limit: usize,
    /// Entries that are looked at of each status, at most.
    pub work: usize,
}

/// Reading an operation costs as much as looking at this many entries.
const READ: usize = 50;

/// An operation of a list.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Found {
    /// As those of `by_time`.
    pub key: Vec<u8>,
    /// The change that names its row in `settled`.
    pub settled: Option<u64>,
}

impl Found {
    /// `None` for a key that is none of ours.
    pub fn id(&self) -> Option<&str> {
        keys::operation_of_by_time(&self.key)
    }
}

#[derive(Debug, Default, PartialEq)]
pub struct Selected {
    /// In the order of the list.
    pub found: Vec<Found>,
    /// Behind what the next page begins, if there may be more.
    pub next: Option<Vec<u8>>,
}

/// `after` is what the page before ended with.
pub fn select(
    view: &dyn View,
    query: &Query,
    after: Option<&[u8]>,
    bounds: Bounds,
) -> Result<Selected> {
    let mut selection = Selection::new(view, query, after, bounds);
    if query.filter.is_of_time_alone() {
        selection.scan(None)?;
    } else {
        let statuses = match &query.filter.statuses[..] {
            // Most have ended: the others lie in what is left of the range then.
            [] => &[
                Status::Completed,
                Status::Failed,
                Status::Canceled,
                Status::Executing,
                Status::Unexecuted,
            ],
            some => some,
        };
        for status in statuses {
            selection.scan(Some(*status))?;
        }
    }
    Ok(selection.finish())
}

struct Selection<'s> {
    view: &'s dyn View,
    query: &'s Query,
    bounds: Bounds,
    /// Where there can be something that is still wanted.
    start: Vec<u8>,
    end: Vec<u8>,
    found: Vec<Found>,
    /// The first entry behind which not all was looked at.
    frontier: Option<Vec<u8>>,
}

impl<'s> Selection<'s> {
    fn new(
        view: &'s dyn View,
        query: &'s Query,
        after: Option<&[u8]>,
        bounds: Bounds,
    ) -> Selection<'s> {
        let filter = &query.filter;
        let mut start = filter.occurred_from.map_or_else(Vec::new, keys::from_time);
        let mut end = filter
            .occurred_to
            .map_or_else(|| keys::ALL.end.to_vec(), keys::from_time);
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

    /// Looks at the entries of one status, or at all by time.
    fn scan(&mut self, status: Option<Status>) -> Result<()> {
        if self.start >= self.end {
            return Ok(());
        }
        let (family, prefix) = match status {
            Some(status) => (Family::ByStatus, vec![keys::of_status(status)]),
            None => (Family::ByTime, Vec::new()),
        };
        let range = [&prefix[..], &self.start].concat()..[&prefix[..], &self.end].concat();
        let (view, filter, bounds) = (self.view, &self.query.filter, self.bounds);
        let (mut work, mut count) = (0, 0);
        let mut stopped_at = None;
        // Raised inside the visitor, which has no way to return it.
        let mut outcome = Ok(());
        let direction = self.direction();
        let found = &mut self.found;
        view.scan(
            family,
            &range.start..&range.end,
            direction,
            &mut |key, row| {
                let by_time = &key[prefix.len()..];
                let (settled, row) = place_v1::of_entry(row);
                work += 1;
                let matches = match judge(filter, status, row) {
                    Some(matches) => Ok(matches),
                    None => {
                        work += READ;
                        ask(view, filter, by_time, settled)
                    }
                };
                match matches {
                    Ok(true) => {
                        let key = by_time.to_vec();
                        found.push(Found { key, settled });
                        count += 1;
                    }
                    Ok(false) => {}
                    Err(error) => {
                        outcome = Err(error);
                        return ControlFlow::Break(());
                    }
                }
                // One more than is wanted tells whether there is more.
                if count > bounds.limit || work >= bounds.work {
                    stopped_at = Some(by_time.to_vec());
                    return ControlFlow::Break(());
                }
                ControlFlow::Continue(())
            },
        )?;
        outcome?;
        if let Some(stopped_at) = stopped_at {
            self.narrow(stopped_at);
        }
        if self.found.len() > bounds.limit {
            self.sort();
            self.found.truncate(bounds.limit + 1);
            let last = self.found[bounds.limit].key.clone();
            self.narrow(last);
        }
        Ok(())
    }

    /// Nothing behind this key is of use on this page.
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
                Order::Newest => found.key >= *frontier,
                Order::Oldest => found.key <= *frontier,
            });
        }
        let next = match self.found.len() > self.bounds.limit {
            true => {
                self.found.truncate(self.bounds.limit);
                self.found.last().map(|found| found.key.clone())
            }
            false => self.frontier,
        };
        Selected {
            found: self.found,
            next,
        }
    }

    fn sort(&mut self) {
        self.found.sort_unstable();
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

/// What the entry alone says; `None` if the operation has to be read.
fn judge(filter: &Filter, status: Option<Status>, row: &[u8]) -> Option<bool> {
    match status {
        None => Some(true),
        Some(_) => filter.judge_row(row),
    }
}

/// One that cannot be read matches nothing; lists tell of it when they show it.
fn ask(view: &dyn View, filter: &Filter, by_time: &[u8], settled: Option<u64>) -> Result<bool> {
    let Some(id) = keys::operation_of_by_time(by_time) else {
        return Ok(false);
    };
    let snapshot = state::snapshots(view, &[(id, settled)])?.pop().flatten();
    let snapshot = snapshot.unwrap_or_default();
    let shown = with_operation(view, id, &snapshot, Bodies::LeftOut, |op| {
        document(id, op).is_some_and(|document| filter.matches(&document))
    });
    match shown {
        Err(Error::Corrupt(_)) => Ok(false),
        other => other,
    }
}
