//! Applies records of the control log: outcomes of webhook deliveries, and operators' retries
//! and releases.

use super::projection::Tally;
use crate::domain::{OperationId, Timestamp};
use crate::rows::outbox;
use crate::store::{self, Batch, Db};
use crate::wire::control_record::{Control, Notified};
use crate::wire::notification::{DeliveryKey, DeliveryOutcome};
use crate::wire::position::{LogId, NextOffsets};
use std::collections::HashMap;

/// Changes of the records so far that are not in the store yet.
pub struct Deliveries<'d> {
    db: &'d dyn Db,
    outcomes: HashMap<(Box<str>, DeliveryKey), DeliveryOutcome>,
    begun: HashMap<LogId, NextOffsets>,
}

impl<'d> Deliveries<'d> {
    pub fn new(db: &'d dyn Db) -> Deliveries<'d> {
        Deliveries {
            db,
            outcomes: HashMap::new(),
            begun: HashMap::new(),
        }
    }

    /// Adds the effects of one record to the batch.
    pub fn apply(
        &mut self,
        at: Timestamp,
        control: &Control,
        batch: &mut Batch,
        tally: &mut Tally,
    ) -> store::Result<()> {
        match control {
            // The first record counts: a later one would hold deliveries that were sent meanwhile.
            Control::Begun { log, ends } => {
                if self.begun(*log)?.is_none() {
                    self.put_begun(*log, ends.clone(), batch);
                }
            }
            // Every delivery due before it is held, whatever was recorded earlier.
            Control::Lost { log, ends } => self.put_begun(*log, ends.clone(), batch),
            Control::ReleasedAll { log, .. } => {
                if self.begun(*log)?.is_some() {
                    self.put_begun(*log, NextOffsets::default(), batch);
                }
                tally.released_all = true;
            }
            Control::Notification {
                operation_id,
                key,
                event,
            } => {
                let id = OperationId(operation_id);
                let of = (Box::from(id.0), *key);
                let before = match self.outcomes.get(&of) {
                    Some(changed) => Some(changed.clone()),
                    None => outbox::outcome(self.db, id, *key)?,
                };
                if matches!(before, Some(DeliveryOutcome::Delivered { .. })) {
                    // Delivered is final.
                    return Ok(());
                }
                let after = outcome(event, at);
                if matches!(after, DeliveryOutcome::Again { .. }) {
                    tally.retried.push((**operation_id).into());
                }
                outbox::put_outcome(id, *key, &after, batch);
                self.outcomes.insert(of, after);
            }
        }
        Ok(())
    }

    fn begun(&self, log: LogId) -> store::Result<Option<NextOffsets>> {
        match self.begun.get(&log) {
            Some(changed) => Ok(Some(changed.clone())),
            None => outbox::begun(self.db, log),
        }
    }

    fn put_begun(&mut self, log: LogId, ends: NextOffsets, batch: &mut Batch) {
        outbox::put_begun(log, &ends, batch);
        self.begun.insert(log, ends);
    }
}

fn outcome(event: &Notified, at: Timestamp) -> DeliveryOutcome {
    let at_ms = at.as_millis();
    match event {
        Notified::Delivered {
            attempts,
            status,
            address,
            port,
        } => DeliveryOutcome::Delivered {
            at_ms,
            attempts: *attempts,
            status: *status,
            address: address.clone(),
            port: *port,
        },
        Notified::Failed { attempts, why } => DeliveryOutcome::Failed {
            at_ms,
            attempts: *attempts,
            why: why.clone(),
        },
        Notified::Released(_) | Notified::Retried(_) => DeliveryOutcome::Again { at_ms },
    }
}
