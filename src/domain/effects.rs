//! The effects of a state change outside the state, as values: list entries, webhook deliveries and
//! anomalies follow from the states of an operation before and after a batch.

use super::anomaly::Anomalies;
use super::document::{RollbackResult, rollback_result};
use super::event::{Notification, OrderKey};
use super::operation::{Operation, Status};
use super::time::Timestamp;

/// The part of an operation from which its effects follow.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Standing<'a> {
    /// The operation's place in the lists; `None` without a document.
    pub listed: Option<Listed>,
    pub anomalies: Anomalies,
    /// The webhook delivery that the state calls for.
    pub due: Option<Due<'a>>,
}

/// The change of a batch to an operation, as far as it shows outside the operation.
#[derive(Debug, Clone, PartialEq)]
pub struct Effects<'a> {
    pub before: Standing<'a>,
    pub after: Standing<'a>,
}

impl<'a> Effects<'a> {
    /// A notification that is due from now on.
    pub fn new_due(&self) -> Option<&Due<'a>> {
        let due = self.after.due.as_ref();
        due.filter(|due| self.before.due.as_ref() != Some(due))
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Listed {
    pub occurred_time: Timestamp,
    pub status: Status,
}

/// The properties that lists filter by, except the request and the status. They depend on all
/// lanes.
#[derive(Debug, Clone, PartialEq)]
pub struct Traits<'o> {
    /// The clusters of the requests and rollbacks that the document shows, each once.
    pub clusters: Vec<&'o str>,
    pub rollbacks: Option<RollbackResult>,
}

/// A webhook delivery that is due: the receiver, and the terminal event that won.
#[derive(Debug, Clone, PartialEq)]
pub struct Due<'a> {
    pub ending: OrderKey<'a>,
    pub to: Notification<'a>,
}

impl<'a> Operation<'a> {
    pub fn traits(&self) -> Traits<'_> {
        let lanes = self.clusters.iter().chain(&self.rollbacks);
        let shown = lanes.filter(|(_, lane)| lane.request.get().is_some());
        let mut clusters: Vec<_> = shown.map(|(id, _)| &*id.cluster_id).collect();
        clusters.sort_unstable();
        clusters.dedup();
        Traits {
            clusters,
            rollbacks: rollback_result(&self.rollbacks),
        }
    }

    pub fn standing(&self) -> Standing<'a> {
        let created = self.created.get();
        let ending = self.ending.get();
        Standing {
            listed: created.map(|created| Listed {
                occurred_time: created.key.time,
                status: self.status(),
            }),
            anomalies: self.anomalies(),
            due: created
                .and_then(|created| created.value.notification.as_ref())
                .zip(ending)
                .map(|(to, ending)| Due {
                    ending: ending.key.clone(),
                    to: to.clone(),
                }),
        }
    }
}
