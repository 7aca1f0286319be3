//! Operations that reads had to leave out, for readiness and a metric.

use crate::domain::{OperationId, Slices};
use crate::rows::lists::by_state;
use crate::store::{Result, View};
use crate::wire::document::Bodies;
use std::collections::BTreeSet;
use std::ops::{ControlFlow, Range};
use std::sync::{Mutex, MutexGuard};

/// Operations whose snapshot could not be read or restored.
#[derive(Default)]
pub struct Defects(Mutex<FoundDefects>);

#[derive(Default)]
struct FoundDefects {
    /// In no list.
    unreadable: BTreeSet<String>,
    /// Without a document. A list, which shows no bodies, may still have an entry.
    without_document: BTreeSet<String>,
    /// Ranges of `by_time` without readable entries, for which scanning all states for each
    /// list would take too long.
    unread: Vec<Range<Vec<u8>>>,
    /// Operations in these ranges.
    in_unread: usize,
}

impl Defects {
    pub fn count(&self) -> usize {
        let found = self.lock();
        let others = found.without_document.difference(&found.unreadable);
        found.unreadable.len() + others.count() + found.in_unread
    }

    /// Leaves the operation out of every list from now on.
    pub fn add(&self, operation_id: OperationId) {
        if self.lock().unreadable.insert(operation_id.to_string()) {
            tracing::error!(
                operation_id = operation_id.0,
                "an operation cannot be read and is left out of lists"
            );
        }
    }

    /// Notes that its document cannot be read.
    pub fn add_document(&self, operation_id: OperationId) {
        let id = operation_id.to_string();
        if self.lock().without_document.insert(id) {
            tracing::error!(operation_id = operation_id.0, "a document cannot be read");
        }
    }

    /// Notes that it was read, with or without bodies.
    pub fn remove(&self, operation_id: OperationId, bodies: Bodies) {
        let mut found = self.lock();
        found.unreadable.remove(&*operation_id);
        if bodies == Bodies::Shown {
            found.without_document.remove(&*operation_id);
        }
    }

    /// Notes ranges of `by_time` that a list leaves out. Counts their operations once.
    pub fn add_unread(&self, view: &dyn View, ranges: &[Range<Vec<u8>>]) -> Result<()> {
        let is_in = |range: &Range<Vec<u8>>, known: &Range<Vec<u8>>| {
            known.start <= range.start && range.end <= known.end
        };
        let known = self.lock().unread.clone();
        let is_known = |range: &&Range<Vec<u8>>| known.iter().any(|known| is_in(range, known));
        let mut new: Vec<_> = ranges.iter().filter(|range| !is_known(range)).collect();
        if new.is_empty() {
            return Ok(());
        }
        new.extend(&known);
        let all: Vec<_> = new.into_iter().cloned().collect();
        let mut count = 0;
        by_state(view, Slices::ALL, &all, &mut |_| {
            count += 1;
            ControlFlow::Continue(())
        })?;
        tracing::error!(count, "operations are left out of lists");
        let mut found = self.lock();
        (found.unread, found.in_unread) = (all, count);
        Ok(())
    }

    pub fn contains(&self, operation_id: OperationId) -> bool {
        self.lock().unreadable.contains(&*operation_id)
    }

    fn lock(&self) -> MutexGuard<'_, FoundDefects> {
        self.0
            .lock()
            .expect("nothing panics while it holds the defects")
    }
}
