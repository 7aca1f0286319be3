//! The log on a Kafka topic. The only module that names rdkafka.
//!
//! - `inspect` asks the cluster about the topic: its id, the bounds of its partitions, its
//!   configuration.
//! - `checks` does so all the time, on one thread for all callers.
//! - `fetcher` fetches, and knows when it is certain which topic it fetches.
//! - `consume` reads, `produce` appends, `message` turns messages into records.
//! - `client` configures clients, `stats` turns their statistics into metrics.
//!
//! librdkafka silently follows a topic that is deleted and created again. So the topic's id is
//! compared after every fetch, unless it is certain, and after every publish: only then is the
//! batch written, and the publish acknowledged.

mod checks;
mod client;
mod consume;
mod fetcher;
mod inspect;
mod message;
mod produce;
mod stats;

use super::{
    Bounds, DeadLetters, EventLog, Identity, NewRecord, PublishError, Published, Publishing,
    ReadError, Reader, Sending, Share,
};
use crate::wire::position::{LastOffsets, LogId, NextOffsets, Offset, Partition, Position};
use crate::wire::record::Record;
use checks::Checks;
use inspect::Inspector;
use produce::KafkaPublisher;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

#[derive(Debug, Clone)]
pub struct KafkaSettings {
    /// `host:port`, several separated by commas.
    pub bootstrap: String,
    pub topic: String,
    /// Creates missing topics; `None` does not.
    pub create: Option<NewTopics>,
    /// The store has events of the topic already. A new topic would be another log, so only the
    /// one for dead letters is created.
    pub is_known: bool,
    /// The ledger's own records: no dead letters beside them, and no statistics.
    pub is_control: bool,
    /// The consumer group whose offsets are committed for lag tools.
    pub group: String,
    /// Options of librdkafka for all clients, for the producer, for the consumers.
    pub options: BTreeMap<String, String>,
    pub producer: BTreeMap<String, String>,
    pub consumer: BTreeMap<String, String>,
    /// Bytes that may wait to be sent; beyond this, publishers get `Busy`.
    pub max_waiting: u64,
    /// How long a publisher waits for the cluster.
    pub publish_timeout: Duration,
    /// Bytes of the largest event.
    pub max_event: u64,
    /// Bytes that are fetched ahead, by all readers together.
    pub fetch_ahead: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NewTopics {
    pub partitions: u32,
    /// `None`: the cluster's default.
    pub replication: Option<u16>,
}

impl KafkaSettings {
    pub fn dead_letter_topic(&self) -> String {
        format!("{}.dead-letter", self.topic)
    }
}

/// Options that librdkafka does not know or accept, or that users may not set.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.join("\n"))]
pub struct BadOptions(pub Vec<String>);

pub struct Kafka {
    settings: Arc<KafkaSettings>,
    inspector: Arc<Inspector>,
    checks: Checks,
    publisher: KafkaPublisher,
}

impl Kafka {
    /// Checks the options and creates nothing.
    pub fn check(settings: &KafkaSettings) -> Result<(), BadOptions> {
        client::check(settings)
    }

    /// Connects in the background: an unreachable cluster is not an error here.
    pub fn open(settings: KafkaSettings) -> Result<Kafka, BadOptions> {
        client::check(&settings)?;
        let settings = Arc::new(settings);
        let inspector = Arc::new(Inspector::new(settings.clone())?);
        let checks = Checks::start(inspector.clone())?;
        let publisher = KafkaPublisher::new(settings.clone(), inspector.clone())?;
        Ok(Kafka {
            settings,
            inspector,
            checks,
            publisher,
        })
    }

    /// By partition, the first offset whose record arrived at `millis` or later, or the end.
    pub fn offsets_at(&self, millis: i64) -> Result<NextOffsets, ReadError> {
        self.inspector.offsets_at(millis)
    }

    async fn publish(&self, records: Vec<NewRecord>) -> Result<Published, PublishError> {
        if let Some(trouble) = self.inspector.trouble() {
            return Err(PublishError::Rejected(trouble));
        }
        let log = match self.id() {
            Some(log) => log,
            None => return Err(PublishError::Rejected("it was not reached yet".into())),
        };
        let positions = self.publisher.publish(records).await?;
        // The topic may have been recreated meanwhile, with the records in the new one.
        let confirmed = self.checks.ask(log, None).await;
        let unconfirmed = || ReadError::Unavailable("it was closed".into());
        match confirmed.unwrap_or_else(|_| Err(unconfirmed())) {
            Ok(()) => Ok(Published { log, positions }),
            Err(error) => Err(PublishError::Unknown(error.to_string())),
        }
    }
}

impl EventLog for Kafka {
    fn id(&self) -> Option<LogId> {
        self.inspector.seen().map(|topic| topic.id)
    }

    fn identify(&self) -> Result<Identity, ReadError> {
        self.inspector.identify()
    }

    fn publish(&self, records: Vec<NewRecord>) -> Publishing<'_> {
        Box::pin(self.publish(records))
    }

    fn reader(
        &self,
        log: LogId,
        from: &NextOffsets,
        share: Share,
    ) -> Result<Box<dyn Reader>, ReadError> {
        let (bounds, partitions) = (self.bounds()?, self.partitions()?);
        let asking = self.checks.asking(log, partitions);
        // A partition without bounds and without an offset is read from its beginning.
        let all = Partition::all().take(partitions);
        let next = all
            .filter(|partition| share.has(*partition))
            .map(|partition| {
                let from = from.get(&partition).copied();
                let from = from.filter(|from| *from > Offset::ZERO);
                let first = bounds.get(&partition).map(|bounds| bounds.first);
                (partition, from.or(first))
            });
        let consumer = consume::Consumer::open(&self.settings, share.of, next.collect(), asking)?;
        Ok(Box::new(consumer))
    }

    fn bounds(&self) -> Result<BTreeMap<Partition, Bounds>, ReadError> {
        self.inspector.bounds()
    }

    fn partitions(&self) -> Result<usize, ReadError> {
        let seen = self.inspector.seen();
        let unseen = || ReadError::Unavailable("the topic was not reached yet".into());
        Ok(seen.ok_or_else(unseen)?.partitions)
    }

    fn readable(&self) -> Result<NextOffsets, ReadError> {
        self.inspector.readable()
    }

    fn records_at(&self, at: &LastOffsets) -> Result<BTreeMap<Partition, Record>, ReadError> {
        self.inspector.records_at(at)
    }

    fn trouble(&self) -> Option<String> {
        let inspector = &self.inspector;
        inspector.trouble().or_else(|| inspector.leaderless())
    }

    fn max_record(&self) -> Option<usize> {
        self.inspector.max_record()
    }

    fn note_applied(&self, next: &NextOffsets) {
        self.inspector.note_applied(next);
    }
}

impl DeadLetters for Kafka {
    fn send(&self, at: Position, reason: &str, detail: &str, record: &Record) -> Sending {
        self.publisher.send_dead_letter(at, reason, detail, record)
    }
}
