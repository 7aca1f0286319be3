//! What a change of state means outside of it, as values. The projector compares
//! an operation's standing before and after a cut and moves index entries,
//! notifications and anomalies accordingly.

use super::anomaly::Anomalies;
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

/// "Tell this address that the operation ended", named by the ending that won.
#[derive(Debug, Clone, PartialEq)]
pub struct Due<'a> {
    pub ending: OrderKey<'a>,
    pub to: Notification<'a>,
}

impl<'a> Operation<'a> {
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
