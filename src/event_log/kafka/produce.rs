//! Appends to the topic, and sends dead letters to theirs. An idempotent producer with acks=all.
//! Distinguishes records that surely were not stored from those that may be.

use super::client::{self, Context, Role};
use super::inspect::Inspector;
use super::{BadOptions, KafkaSettings};
use crate::event_log::{NewRecord, PublishError, SendError, Sending};
use crate::wire::cloudevent;
use crate::wire::position::{Offset, Partition, Position};
use crate::wire::record::{Headers, Record};
use rdkafka::bindings as rdk;
use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{DeliveryResult, Header, Message, OwnedHeaders};
use rdkafka::producer::{BaseRecord, Producer, ProducerContext, ThreadedProducer};
use rdkafka::statistics::Statistics;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use tokio::sync::oneshot;

pub struct KafkaPublisher {
    settings: Arc<KafkaSettings>,
    inspector: Arc<Inspector>,
    current: Mutex<CurrentProducer>,
    /// Bytes given to librdkafka, without a delivery report so far.
    waiting: Arc<AtomicU64>,
}

/// Replaced after a fatal error, and when the topic's largest batch changes.
struct CurrentProducer {
    producer: Arc<ThreadedProducer<Reports>>,
    batch_bytes: usize,
}

/// librdkafka's default for a batch of one partition.
const BATCH_BYTES: usize = 1_000_000;

impl KafkaPublisher {
    pub fn new(
        settings: Arc<KafkaSettings>,
        inspector: Arc<Inspector>,
    ) -> Result<KafkaPublisher, BadOptions> {
        let current = CurrentProducer::new(&settings, BATCH_BYTES);
        let current = current.map_err(|error| client::bad_client(Role::Producer, &error))?;
        Ok(KafkaPublisher {
            settings,
            inspector,
            current: Mutex::new(current),
            waiting: Arc::default(),
        })
    }

    pub async fn publish(&self, records: Vec<NewRecord>) -> Result<Vec<Position>, PublishError> {
        if records.is_empty() {
            return Ok(Vec::new());
        }
        let bytes = records.iter().map(|record| record.size() as u64).sum();
        let room = QueueShare::take(&self.waiting, bytes, self.settings.max_waiting)?;
        let call = PublishCall::new(records.len(), Some(room));
        let producer = self.producer()?;
        for (index, record) in records.iter().enumerate() {
            let part = Box::new(CallPart {
                call: call.0.clone(),
                index,
            });
            let mut out = BaseRecord::with_opaque_to(&self.settings.topic, part)
                .key(record.operation_id.as_bytes())
                .headers(headers(&record.headers));
            if let Some(value) = &record.value {
                out = out.payload(&value[..]);
            }
            if let Err((error, out)) = producer.send(out) {
                // Not accepted by librdkafka, so surely not stored.
                let part = out.delivery_opaque;
                part.call.report(part.index, Err((Stored::No, error)));
            }
        }
        let outcome = call.1.await.unwrap_or(Err(Failed {
            stored: Stored::Maybe,
            errors: vec![KafkaError::Canceled],
        }));
        outcome.map_err(|failed| {
            let errors: Vec<_> = failed.errors.iter().map(ToString::to_string).collect();
            match failed.stored {
                Stored::No => PublishError::Rejected(errors.join("; ")),
                Stored::Maybe => PublishError::Unknown(errors.join("; ")),
            }
        })
    }

    pub fn send_dead_letter(
        &self,
        at: Position,
        reason: &str,
        detail: &str,
        record: &Record,
    ) -> Sending {
        let (partition, offset) = (at.partition.to_string(), at.offset.to_string());
        let origin = [
            ("opledger.topic", self.settings.topic.as_str()),
            ("opledger.partition", &partition),
            ("opledger.offset", &offset),
            ("opledger.reason", reason),
            ("opledger.detail", detail),
        ];
        let all = origin
            .iter()
            .fold(own(&record.headers), |all, (key, value)| {
                let value = Some(value.as_bytes());
                all.insert(Header { key, value })
            });
        let call = PublishCall::new(1, None);
        let part = Box::new(CallPart {
            call: call.0,
            index: 0,
        });
        let topic = self.settings.dead_letter_topic();
        let mut out = BaseRecord::with_opaque_to(&topic, part).headers(all);
        if let Some(key) = &record.key {
            out = out.key(&key[..]);
        }
        if let Some(value) = &record.value {
            out = out.payload(&value[..]);
        }
        let producer = match self.producer() {
            Ok(producer) => producer,
            Err(error) => {
                let error = SendError::Unavailable(error.to_string());
                return Box::new(|| Err(error));
            }
        };
        if let Err((error, _)) = producer.send(out) {
            let error = send_error(&topic, &error);
            return Box::new(|| Err(error));
        }
        Box::new(move || match call.1.blocking_recv() {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(failed)) => match failed.errors.first() {
                Some(error) => Err(send_error(&topic, error)),
                None => Err(SendError::Unavailable("no reason was given".into())),
            },
            Err(_) => Err(SendError::Unavailable("the producer was closed".into())),
        })
    }

    fn producer(&self) -> Result<Arc<ThreadedProducer<Reports>>, PublishError> {
        let mut current = self
            .current
            .lock()
            .expect("nothing panics while it is held");
        let failed = current.producer.client().fatal_error();
        if let Some((_, why)) = &failed {
            tracing::warn!(%why, "the producer has failed; creating a new one");
        }
        // The broker refuses a batch that is larger than the largest record.
        let max = self.inspector.max_record().unwrap_or(BATCH_BYTES);
        let batch_bytes = max.min(BATCH_BYTES);
        if failed.is_some() || current.batch_bytes != batch_bytes {
            let new = CurrentProducer::new(&self.settings, batch_bytes);
            *current = new.map_err(|error| PublishError::Rejected(error.to_string()))?;
        }
        Ok(current.producer.clone())
    }
}

impl CurrentProducer {
    fn new(settings: &KafkaSettings, batch_bytes: usize) -> Result<CurrentProducer, KafkaError> {
        let mut config = client::config(settings, Role::Producer);
        if config.get("batch.size").is_none() {
            config.set("batch.size", batch_bytes.to_string());
        }
        let reports = Reports(Context::new(Role::Producer));
        Ok(CurrentProducer {
            producer: Arc::new(config.create_with_context(reports)?),
            batch_bytes,
        })
    }
}

/// Errors of the record itself are permanent.
fn send_error(topic: &str, error: &KafkaError) -> SendError {
    let text = format!("topic {topic}: {error}");
    match error.rdkafka_error_code() {
        Some(
            RDKafkaErrorCode::MessageSizeTooLarge
            | RDKafkaErrorCode::InvalidMessageSize
            | RDKafkaErrorCode::InvalidMessage
            | RDKafkaErrorCode::InvalidRecord
            | RDKafkaErrorCode::PolicyViolation
            | RDKafkaErrorCode::TopicAuthorizationFailed
            | RDKafkaErrorCode::ClusterAuthorizationFailed,
        ) => SendError::Refused(text),
        Some(_) | None => SendError::Unavailable(text),
    }
}

/// Unchanged, or the content type if there are none: Kafka's binding of CloudEvents requires it
/// on structured events.
fn headers(headers: &Headers) -> OwnedHeaders {
    match headers.0.as_slice() {
        [] => OwnedHeaders::new_with_capacity(1).insert(Header {
            key: cloudevent::CONTENT_TYPE,
            value: Some(cloudevent::STRUCTURED),
        }),
        [..] => own(headers),
    }
}

fn own(headers: &Headers) -> OwnedHeaders {
    let room = OwnedHeaders::new_with_capacity(headers.0.len() + 5);
    headers
        .iter()
        .fold(room, |all, (key, value)| all.insert(Header { key, value }))
}

/// A share of the limit of waiting bytes, until it is dropped.
struct QueueShare {
    waiting: Arc<AtomicU64>,
    bytes: u64,
}

impl QueueShare {
    fn take(waiting: &Arc<AtomicU64>, bytes: u64, max: u64) -> Result<QueueShare, PublishError> {
        // A single publish always fits, however large.
        let fits = |queued: u64| (queued == 0 || queued + bytes <= max).then_some(queued + bytes);
        match waiting.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits) {
            Ok(_) => Ok(QueueShare {
                waiting: waiting.clone(),
                bytes,
            }),
            Err(_) => Err(PublishError::Busy),
        }
    }
}

impl Drop for QueueShare {
    fn drop(&mut self) {
        self.waiting.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stored {
    No,
    Maybe,
}

/// Why some records of a call were not acknowledged.
#[derive(Debug)]
struct Failed {
    stored: Stored,
    /// One of each kind.
    errors: Vec<KafkaError>,
}

/// The records of one publish. Each gets its own delivery report.
struct PublishCall {
    open: Mutex<OpenCall>,
}

struct OpenCall {
    positions: Vec<Option<Position>>,
    left: usize,
    stored: usize,
    maybe: bool,
    errors: Vec<KafkaError>,
    done: Option<oneshot::Sender<Result<Vec<Position>, Failed>>>,
    room: Option<QueueShare>,
}

impl PublishCall {
    #[allow(clippy::type_complexity)]
    fn new(
        records: usize,
        room: Option<QueueShare>,
    ) -> (
        Arc<PublishCall>,
        oneshot::Receiver<Result<Vec<Position>, Failed>>,
    ) {
        let (done, outcome) = oneshot::channel();
        let open = Mutex::new(OpenCall {
            positions: vec![None; records],
            left: records,
            stored: 0,
            maybe: false,
            errors: Vec::new(),
            done: Some(done),
            room,
        });
        (Arc::new(PublishCall { open }), outcome)
    }

    fn report(&self, index: usize, outcome: Result<Position, (Stored, KafkaError)>) {
        let mut open = self.open.lock().expect("nothing panics while it is held");
        match outcome {
            Ok(at) => {
                open.positions[index] = Some(at);
                open.stored += 1;
            }
            Err((stored, error)) => {
                open.maybe |= stored == Stored::Maybe;
                if !open.errors.contains(&error) {
                    open.errors.push(error);
                }
            }
        }
        open.left -= 1;
        if open.left > 0 {
            return;
        }
        open.room = None;
        let positions = std::mem::take(&mut open.positions);
        let outcome = match positions.into_iter().collect::<Option<Vec<_>>>() {
            Some(positions) => Ok(positions),
            None => Err(Failed {
                stored: match open.stored > 0 || open.maybe {
                    true => Stored::Maybe,
                    false => Stored::No,
                },
                errors: std::mem::take(&mut open.errors),
            }),
        };
        if let Some(done) = open.done.take() {
            // The publisher may have gone away.
            let _ = done.send(outcome);
        }
    }
}

/// One record of a call.
pub struct CallPart {
    call: Arc<PublishCall>,
    index: usize,
}

/// Receives the delivery reports.
pub struct Reports(Context);

impl ClientContext for Reports {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        self.0.log(level, facility, message);
    }

    fn stats(&self, statistics: Statistics) {
        self.0.stats(statistics);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.0.error(error, reason);
    }
}

impl ProducerContext for Reports {
    type DeliveryOpaque = Box<CallPart>;

    fn delivery(&self, result: &DeliveryResult, part: Box<CallPart>) {
        let outcome = match result {
            // Stored by an earlier attempt whose response was lost; the position is unknown.
            Ok(message) if message.offset() < 0 => Err((
                Stored::Maybe,
                KafkaError::MessageProduction(RDKafkaErrorCode::DuplicateSequenceNumber),
            )),
            Ok(message) => Ok(Position {
                partition: Partition(message.partition() as u32),
                offset: Offset(message.offset() as u64),
            }),
            Err((error, message)) => {
                // Safety: librdkafka's own message, alive during the report.
                let stored = match unsafe { rdk::rd_kafka_message_status(message.ptr()) } {
                    rdk::rd_kafka_msg_status_t::RD_KAFKA_MSG_STATUS_NOT_PERSISTED => Stored::No,
                    rdk::rd_kafka_msg_status_t::RD_KAFKA_MSG_STATUS_POSSIBLY_PERSISTED
                    | rdk::rd_kafka_msg_status_t::RD_KAFKA_MSG_STATUS_PERSISTED => Stored::Maybe,
                };
                Err((stored, error.clone()))
            }
        };
        part.call.report(part.index, outcome);
    }
}
