//! What a change of state means outside of it, as values. The projector compares
//! an operation's standing before and after a cut and moves index entries,
//! notifications and anomalies accordingly.

use super::anomaly::Anomalies;
use super::document::{RollbackResult, rollback_result};
use super::event::{Notification, OrderKey};
use super::operation::{Operation, Status};
use super::time::Timestamp;

/// The part of an operation that something outside is derived from.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Standing<'a> {
    /// Where the lists show it; `None` while there is no document.
    pub listed: Option<Listed>,
    pub anomalies: Anomalies,
    /// A notification that the state calls for.
    pub due: Option<Due<'a>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Listed {
    pub occurred_time: Timestamp,
    pub status: Status,
}

/// What the lists can be filtered by, beside the request and its status: it follows from
/// all lanes of the operation.
#[derive(Debug, Clone, PartialEq)]
pub struct Traits<'o> {
    /// Of requests and of rollbacks that the document shows, each once.
    pub clusters: Vec<&'o str>,
    pub rollbacks: Option<RollbackResult>,
}

/// "Tell this address that the operation ended", named by the ending that won.
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
                .and_then(|created| created.value.1.as_ref())
                .zip(ending)
                .map(|(to, ending)| Due {
                    ending: ending.key.clone(),
                    to: to.clone(),
                }),
        }
    }
}
