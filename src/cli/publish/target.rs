//! Where the events go: to a running ledger, or to the topic that it reads.

use super::input::EventBatch;
use super::{PATIENCE, retrying};
use crate::app;
use crate::cli::client::{Connection, LedgerClient, PREFER, position};
use crate::cli::failure::Failure;
use crate::client::http::POSITION;
use crate::clock;
use crate::config::Config;
use crate::domain::Event;
use crate::event_log::kafka::Kafka;
use crate::event_log::{EventLog, NewRecord, PublishError};
use crate::wire::cloudevent::{self, BATCH};
use crate::wire::fault::{Fault, Rule};
use crate::wire::position::{Offset, Partition, Token};
use crate::wire::record::Headers;
use reqwest::header::CONTENT_TYPE;
use reqwest::{Response, Url};
use serde_json::value::RawValue;
use std::time::Duration;

pub struct PublishTarget {
    /// Asked whether everything is visible, wherever the events went.
    ledger: LedgerClient,
    topic: Option<TargetTopic>,
}

struct TargetTopic {
    log: Kafka,
    name: String,
    max_size: usize,
    clock_ahead: Duration,
}

impl PublishTarget {
    /// `kafka` holds the configuration if the events go to a topic.
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
            ledger: LedgerClient::new(connection, PATIENCE)?,
            topic: topic.transpose()?,
        })
    }

    /// For the note of an interrupted run: another place has nothing of this one.
    pub fn name(&self) -> String {
        match &self.topic {
            Some(topic) => topic.name.clone(),
            None => self.ledger.shown_url(),
        }
    }

    /// Finds out that nothing can be sent before anything is read.
    pub async fn reach(&self, retry_for: Duration) -> Result<(), Failure> {
        let Some(topic) = &self.topic else {
            return Ok(());
        };
        let identify = || async { Ok(topic.log.identify().map(drop)?) };
        retrying(retry_for, identify).await
    }

    /// Whether it has what was acknowledged up to this position.
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
        // A read that asks for the position is refused, or not answered in time, by a
        // ledger that does not have it. One that is only behind is sent all of it again.
        let request = self.ledger.get(self.cheap_read());
        let request = request.header(POSITION, token.to_string());
        match self.ledger.send(request).await {
            Ok(response) => self.ledger.body(response).await.map(|_| true),
            Err(Failure::Refused(_) | Failure::Unavailable { .. }) => Ok(false),
            Err(failure) => Err(failure),
        }
    }

    /// Sends a batch and returns where it is once it is durable.
    pub async fn post(&self, batch: &EventBatch) -> Result<Token, Failure> {
        if let Some(topic) = &self.topic {
            return topic.publish(batch).await;
        }
        let request = self
            .ledger
            .post(self.ledger.url(&["v1", "events"]))
            .header(CONTENT_TYPE, BATCH)
            .body(batch.body.clone());
        let response = self.ledger.send(request).await?;
        let token = self.token_of(&response)?;
        self.ledger.body(response).await?;
        Ok(token)
    }

    /// A cheap read that has to wait for the token, as often as it takes: a ledger may
    /// be further behind than it lets a read wait.
    pub async fn wait_until_visible(
        &self,
        token: &Token,
        retry_for: Duration,
    ) -> Result<(), Failure> {
        let read = || async {
            let request = self
                .ledger
                .get(self.cheap_read())
                .header(POSITION, token.to_string())
                .header(PREFER, format!("wait={}", PATIENCE.as_secs() - 5));
            let response = self.ledger.send(request).await?;
            self.ledger.body(response).await.map(drop)
        };
        retrying(retry_for, read).await
    }

    fn cheap_read(&self) -> Url {
        let mut url = self.ledger.url(&["v1", "dead-letters"]);
        url.query_pairs_mut().append_pair("limit", "1");
        url
    }

    fn token_of(&self, response: &Response) -> Result<Token, Failure> {
        position(response).ok_or_else(|| {
            let url = self.ledger.shown_url();
            Failure::Unexpected(format!("{url} is no ledger: no {POSITION}"))
        })
    }
}

impl TargetTopic {
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

    /// Checks what the ledger would check, so that a slip becomes no dead letter.
    async fn publish(&self, batch: &EventBatch) -> Result<Token, Failure> {
        let events: Vec<&RawValue> = serde_json::from_slice(&batch.body)
            .map_err(|error| Failure::Unexpected(format!("our own batch: {error}")))?;
        let records = events.into_iter().enumerate().map(|(index, event)| {
            let value = batch.body.slice_ref(event.get().as_bytes());
            let checked = cloudevent::decode_structured(&value);
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
        let published = published.map_err(|error| match error {
            PublishError::Busy | PublishError::Rejected(_) | PublishError::Unknown(_) => {
                Failure::Unavailable {
                    why: error.to_string(),
                    retry_after: None,
                }
            }
        })?;
        let mut token = Token {
            log: published.log,
            positions: Default::default(),
        };
        for at in published.positions {
            token.positions.raise(at.partition, at.offset);
        }
        Ok(token)
    }
}
