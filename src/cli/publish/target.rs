//! The target of the events: a running ledger, or the topic that it reads.

use super::READ_TIMEOUT;
use super::input::EventBatch;
use crate::app;
use crate::cli::client::Connection;
use crate::cli::failure::Failure;
use crate::client::Error;
use crate::client::http::{Http, POSITION, PREFER, retrying};
use crate::clock;
use crate::config::Config;
use crate::domain::Event;
use crate::event_log::kafka::Kafka;
use crate::event_log::{EventLog, NewRecord};
use crate::wire::cloudevent;
use crate::wire::fault::{Fault, Rule};
use crate::wire::position::{Offset, Partition, Token};
use crate::wire::record::Headers;
use reqwest::RequestBuilder;
use std::time::Duration;

pub struct PublishTarget {
    /// Reads show whether everything is visible, for both targets.
    ledger: Http,
    topic: Option<TargetTopic>,
}

struct TargetTopic {
    log: Kafka,
    name: String,
    max_size: usize,
    clock_ahead: Duration,
}

impl PublishTarget {
    /// `kafka` is the configuration if the events are sent to a topic.
    pub fn new(connection: &Connection, kafka: Option<&Config>) -> Result<PublishTarget, Failure> {
        let topic = kafka.map(|config| {
            let log =
                Kafka::open(app::kafka(config, app::Topics::Leave)).map_err(app::Error::Kafka)?;
            let kafka = &config.kafka;
            let name = format!("kafka://{}/{}", kafka.bootstrap, kafka.topic);
            Ok::<_, Failure>(TargetTopic {
                log,
                name,
                max_size: config.events.max_size as usize,
                clock_ahead: config.events.clock_ahead,
            })
        });
        Ok(PublishTarget {
            ledger: connection.http(READ_TIMEOUT)?,
            topic: topic.transpose()?,
        })
    }

    /// For the note of an interrupted run, which is only valid for the same target.
    pub fn name(&self) -> String {
        match &self.topic {
            Some(topic) => topic.name.clone(),
            None => self.ledger.shown_url(),
        }
    }

    /// Checks a topic before anything is read.
    pub async fn reach(&self, retry_for: Duration) -> Result<(), Failure> {
        let Some(topic) = &self.topic else {
            return Ok(());
        };
        let identify = || async { Ok(topic.log.identify().map(drop)?) };
        retrying(retry_for, identify).await
    }

    /// Whether it still has everything up to this position.
    pub async fn holds(&self, token: &Token) -> Result<bool, Failure> {
        if let Some(TargetTopic { log, .. }) = &self.topic {
            let found = log.identify()?;
            let bounds = log.bounds()?;
            let is_there = |(partition, offset): (&Partition, &Offset)| {
                bounds
                    .get(partition)
                    .is_some_and(|bounds| bounds.end > *offset)
            };
            return Ok(found.id == token.log && token.positions.iter().all(is_there));
        }
        // A ledger that does not have the position refuses the read, or does not reach it in time.
        // If it only lags, everything is sent again.
        match self.read(self.cheap_read(token)).await {
            Ok(()) => Ok(true),
            Err(Error::Refused { .. } | Error::Gone(_) | Error::Unavailable { .. }) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Sends a batch and returns its position when it is durable.
    pub async fn post(&self, batch: &EventBatch) -> Result<Token, Failure> {
        if let Some(topic) = &self.topic {
            return topic.publish(batch).await;
        }
        let (position, _) = self.ledger.post_events(batch.body()).await?;
        let token = position.parse();
        token.map_err(|error| Failure::Unexpected(format!("{POSITION}: {error}")))
    }

    /// Repeats a cheap read that waits for the token: a ledger may lag more than the longest
    /// wait that it allows.
    pub async fn wait_until_visible(
        &self,
        token: &Token,
        retry_for: Duration,
    ) -> Result<(), Failure> {
        let wait = format!("wait={}", READ_TIMEOUT.as_secs() - 5);
        let read = || self.read(self.cheap_read(token).header(PREFER, &wait));
        Ok(retrying(retry_for, read).await?)
    }

    fn cheap_read(&self, token: &Token) -> RequestBuilder {
        let limit = [("limit", "1".to_owned())];
        let url = self.ledger.url(&["v1", "dead-letters"], &limit);
        self.ledger.get(url).header(POSITION, token.to_string())
    }

    async fn read(&self, request: RequestBuilder) -> Result<(), Error> {
        let response = self.ledger.send(request).await?;
        self.ledger.body(response).await.map(drop)
    }
}

impl TargetTopic {
    /// Checks what the ledger would check, so that a mistake does not become a dead letter.
    fn check<'e>(&self, event: Event<'e>, size: usize) -> Result<Event<'e>, Fault> {
        let max = self.log.max_record().unwrap_or(self.max_size);
        let max = max.min(self.max_size);
        if size > max {
            let what = format!("an event is at most {max} bytes.");
            return Err(Fault::new(Rule::Size, "", what));
        }
        if event.key.time > clock::now().plus(self.clock_ahead) {
            let what = "further ahead of this machine's clock than is allowed.";
            return Err(Fault::new(Rule::Range, "time", what));
        }
        Ok(event)
    }

    async fn publish(&self, batch: &EventBatch) -> Result<Token, Failure> {
        let records = batch.events.iter().enumerate().map(|(index, (_, value))| {
            let checked = cloudevent::decode_structured(value);
            let checked = checked.and_then(|event| self.check(event, value.len()));
            let event = checked.map_err(|fault| Failure::Refused(fault.at(index).to_string()))?;
            Ok(NewRecord {
                operation_id: event.operation_id.into_owned(),
                headers: Headers::default(),
                value: Some(value.clone()),
            })
        });
        let records: Vec<NewRecord> = records.collect::<Result<_, Failure>>()?;
        let published = EventLog::publish(&self.log, records).await;
        let published = published.map_err(|error| Failure::unavailable(error.to_string()))?;
        Ok(published.token())
    }
}
