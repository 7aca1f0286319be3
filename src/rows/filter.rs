//! Selects the operations of a list or a stream.

use super::entry::Entry;
use crate::domain::{Document, Method, RollbackResult, Status, Timestamp};
use crate::wire::list_entry::{self, ListEntry};

/// An operation must meet all conditions that are given. Of the statuses, it must have one.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Filter {
    pub statuses: Vec<Status>,
    /// At this time or later.
    pub occurred_from: Option<Timestamp>,
    /// Before this time.
    pub occurred_to: Option<Timestamp>,
    /// A request to this cluster is in the document, or a rollback of one.
    pub cluster_id: Option<String>,
    pub method: Option<Method>,
    pub uri_prefix: Option<String>,
    /// Operations without rollbacks have none of the results.
    pub rollback_result: Option<RollbackResult>,
}

/// Takes all.
static EVERYTHING: Filter = Filter {
    statuses: Vec::new(),
    occurred_from: None,
    occurred_to: None,
    cluster_id: None,
    method: None,
    uri_prefix: None,
    rollback_result: None,
};

impl Filter {
    pub fn everything() -> &'static Filter {
        &EVERYTHING
    }

    /// Every operation that has a document.
    pub fn is_everything(&self) -> bool {
        *self == EVERYTHING
    }

    /// An entry by time is enough for this filter.
    pub fn is_of_time_alone(&self) -> bool {
        self.statuses.is_empty() && self.is_of_entry_alone()
    }

    /// An entry by status does, without its row.
    pub fn is_of_entry_alone(&self) -> bool {
        self.cluster_id.is_none()
            && self.method.is_none()
            && self.uri_prefix.is_none()
            && self.rollback_result.is_none()
    }

    pub fn matches(&self, document: &Document) -> bool {
        self.has_time(document.occurred_time)
            && self.has_status(document.status)
            && self.method.is_none_or(|m| m == document.request.method)
            && self.has_uri(&document.request.uri)
            && self.has_rollbacks(document.rollbacks.as_ref().map(|r| r.result))
            && self
                .cluster_id
                .as_ref()
                .is_none_or(|id| clusters(document).any(|cluster| cluster == id))
    }

    /// The result from the entry alone; `None` if the operation must be read.
    pub fn judge(&self, entry: &Entry) -> Option<bool> {
        let Entry { listed, row } = entry;
        if !self.has_time(listed.occurred_time) || !self.has_status(listed.status) {
            return Some(false);
        }
        self.judge_row(row)
    }

    /// The same for an entry whose time and status are known to match.
    pub fn judge_row(&self, row: &[u8]) -> Option<bool> {
        if self.is_of_entry_alone() {
            return Some(true);
        }
        let listed: ListEntry = list_entry::decode(row)?;
        if self.method.is_some_and(|method| !listed.has_method(method)) {
            return Some(false);
        }
        let rollbacks = self.rollback_result.map(|r| listed.has_rollbacks(r));
        let uri = self.uri_prefix.as_ref().map(|p| listed.has_uri(p));
        let cluster = self.cluster_id.as_ref().map(|c| listed.has_cluster(c));
        let parts = [rollbacks, uri, cluster];
        if parts.contains(&Some(Some(false))) {
            return Some(false);
        }
        (!parts.contains(&Some(None))).then_some(true)
    }

    pub fn has_time(&self, occurred: Timestamp) -> bool {
        self.occurred_from.is_none_or(|from| occurred >= from)
            && self.occurred_to.is_none_or(|to| occurred < to)
    }

    pub fn has_status(&self, status: Status) -> bool {
        self.statuses.is_empty() || self.statuses.contains(&status)
    }

    fn has_uri(&self, uri: &str) -> bool {
        let prefix = self.uri_prefix.as_ref();
        prefix.is_none_or(|prefix| uri.starts_with(&**prefix))
    }

    pub fn has_rollbacks(&self, result: Option<RollbackResult>) -> bool {
        self.rollback_result.is_none() || self.rollback_result == result
    }
}

/// The methods of all requests that the document shows, with repeats.
pub fn clusters<'d>(document: &'d Document) -> impl Iterator<Item = &'d str> {
    let rollbacks = document.rollbacks.iter();
    let rollbacks = rollbacks.flat_map(|rollbacks| &rollbacks.target_clusters);
    let entries = document.target_clusters.iter().chain(rollbacks);
    entries.map(|entry| entry.cluster_id)
}
