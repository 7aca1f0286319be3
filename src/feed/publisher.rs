//! Writes to a log, as long as the log is confirmed as the one that the store belongs to.

use super::progress::{Applied, LogState, Progress};
use crate::event_log::{EventLog, NewRecord, PublishError, Published};
use crate::wire::position::Position;
use std::sync::Arc;

#[derive(Clone)]
pub struct Publisher {
    pub log: Arc<dyn EventLog>,
    /// How far the store is in this log.
    pub progress: Arc<Progress>,
}

impl Publisher {
    /// Returns once the records are durable. Records in another log than the store's own would
    /// never be read here, and a log that lost records assigns their positions again: both are
    /// errors.
    pub async fn publish(&self, records: Vec<NewRecord>) -> Result<Published, PublishError> {
        let before = self.confirmed()?;
        let published = self.log.publish(records).await?;
        self.was_confirmed(&before, &published)?;
        Ok(published)
    }

    /// The progress of the store, with the state of the log.
    fn confirmed(&self) -> Result<Arc<Applied>, PublishError> {
        let applied = self.progress.applied();
        let Some(why) = applied.log.refuses_events() else {
            return Ok(applied);
        };
        let why = match applied.log {
            LogState::Unknown | LogState::Unreachable => self.log.trouble(),
            LogState::Confirmed | LogState::Suspect(_) | LogState::Halted(_) => None,
        }
        .unwrap_or_else(|| why.to_owned());
        Err(PublishError::Rejected(why))
    }

    /// The log may have been replaced, or have lost records, since it was compared. The store had
    /// applied all records before `before.next` by then: a position before it was assigned once
    /// already.
    fn was_confirmed(&self, before: &Applied, published: &Published) -> Result<(), PublishError> {
        let unknown = |error| match error {
            PublishError::Rejected(why) => PublishError::Unknown(why),
            other @ (PublishError::Busy | PublishError::Unknown(_)) => other,
        };
        self.confirmed().map_err(unknown)?;
        let was_given = |at: &&Position| before.next.get(&at.partition) > Some(&at.offset);
        let why = match before.token.as_ref().map(|token| token.log) {
            Some(log) if log != published.log => {
                "it is not the one that the store belongs to, see /readyz".into()
            }
            _ => match published.positions.iter().find(was_given) {
                Some(at) => {
                    format!("it has given position {at} before: it lost records, see /readyz")
                }
                None => return Ok(()),
            },
        };
        self.progress.suspect(why.clone());
        Err(PublishError::Unknown(why))
    }
}
