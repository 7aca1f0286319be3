//! Writes records to the control log: facts that only the ledger knows, and requests of operators.
//! A record takes effect once it was read from there and is in the store, so a rebuilt store has
//! it too.

use crate::clock::Clock;
use crate::domain::Timestamp;
use crate::event_log::{NewRecord, PublishError};
use crate::feed::progress::{Doing, WaitError};
use crate::feed::publisher::Publisher;
use crate::wire::control_record::Control;
use std::time::{Duration, Instant};
use tokio::sync::watch;

pub struct ControlLog {
    publisher: Publisher,
    clock: Clock,
}

/// Longer than a working store takes to read a new record.
const PATIENCE: Duration = Duration::from_secs(60);

impl ControlLog {
    pub fn new(publisher: Publisher, clock: Clock) -> ControlLog {
        ControlLog { publisher, clock }
    }

    /// Returns once all of it is durable, was read again, and is in the store. After an error the
    /// caller may record the same again: it is harmless twice. Nothing is recorded until the log is
    /// confirmed as the store's own.
    pub async fn record(&self, all: &[Control]) -> Result<(), PublishError> {
        let now = (self.clock)();
        let records = all.iter().map(|control| new_record(control, now)).collect();
        let token = self.publisher.publish(records).await?.token();
        let progress = &self.publisher.progress;
        let waited = progress.wait_for(&token, Instant::now() + PATIENCE).await;
        // The record is in the log, and the projector has not read it.
        waited.map_err(|error| {
            PublishError::Unknown(match error {
                WaitError::Halted(why) => format!("the control log is not read: {why}"),
                WaitError::OtherLog => "it is another control log now".into(),
                WaitError::TimedOut | WaitError::NotCompared => {
                    "the control log is not read at present".into()
                }
            })
        })
    }

    /// The activity of the projector that reads it.
    pub fn doing(&self) -> Doing {
        self.publisher.progress.doing()
    }

    pub fn watch_doing(&self) -> watch::Receiver<Doing> {
        self.publisher.progress.watch_doing()
    }

    /// Returns once all that is in it now is in the store.
    pub async fn wait_until_read(&self) -> Result<(), String> {
        let log = self.publisher.log.clone();
        let asking = tokio::task::spawn_blocking(move || log.readable());
        let ends = asking.await.map_err(|error| error.to_string())?;
        let ends = ends.map_err(|error| error.to_string())?;
        self.publisher.progress.wait_until_behind(&ends).await;
        Ok(())
    }
}

pub fn new_record(control: &Control, now: Timestamp) -> NewRecord {
    let (headers, value) = control.encode(&uuid::Uuid::new_v4().to_string(), now);
    NewRecord {
        operation_id: control.subject(),
        headers,
        value: Some(value),
    }
}
