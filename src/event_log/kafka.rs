//! The log on a Kafka topic. The only module that names rdkafka.
//!
//! - `inspect` asks the cluster about the topic: which one it is (its id), what its
//!   partitions hold, how it is set up.
//! - `checks` does so all the time, on a thread, for everyone at once.
//! - `fetcher` fetches, and knows when what it fetched is certain to be of the topic.
//! - `consume` reads, `produce` appends, `message` turns messages into records.
//! - `client` makes clients of the configuration, `stats` tells how they fare.
//!
//! librdkafka follows a topic that is deleted and made again without a word, so
//! nothing that was read is written, and nothing that was produced acknowledged,
//! before the topic's id was compared once more, or it is certain without.

mod checks;
mod client;
mod consume;
mod fetcher;
mod inspect;
mod message;
mod produce;
mod stats;

pub use stats::describe as describe_metrics;

use super::{
    Bounds, DeadLetters, EventLog, Identity, NewRecord, PublishError, Published, Publishing,
    ReadError, Reader, Sending,
};
use crate::wire::position::{LastOffsets, LogId, NextOffsets, Offset, Partition, Position};
use crate::wire::record::Record;
use checks::Checks;
use fetcher::{Fetcher, PartitionEnds};
use inspect::Inspector;
use produce::KafkaPublisher;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

#[derive(Debug, Clone)]
pub struct KafkaSettings {
    /// `host:port`, several separated by commas.
    pub bootstrap: String,
    pub topic: String,
    /// Makes the topics that are missing; `None` does not.
    pub create: Option<NewTopics>,
    /// The store has events of the topic already: one that is made anew would be
    /// another log, so only the one for dead letters is made.
    pub is_known: bool,
    /// The ledger's own records: no dead letters beside them, and no statistics.
    pub is_control: bool,
    /// The consumer group whose offsets are committed for lag tools.
    pub group: String,
    /// librdkafka's, for all clients, for the producer, for the consumers.
    pub options: BTreeMap<String, String>,
    pub producer: BTreeMap<String, String>,
    pub consumer: BTreeMap<String, String>,
    /// Bytes that may wait to be sent; beyond, publishers are told to come back.
    pub max_waiting: u64,
    /// How long a publisher waits for the cluster.
    pub publish_timeout: Duration,
    /// Bytes of the largest event.
    pub max_event: u64,
    /// Bytes that are fetched ahead.
    pub fetch_ahead: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NewTopics {
    pub partitions: u32,
    /// `None` leaves it to the cluster.
    pub replication: Option<u16>,
}

impl KafkaSettings {
    pub fn dead_letter_topic(&self) -> String {
        format!("{}.dead-letter", self.topic)
    }
}

/// A setting that librdkafka does not know or take, or that is not a user's to give.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.join("\n"))]
pub struct BadOptions(pub Vec<String>);

pub struct Kafka {
    settings: Arc<KafkaSettings>,
    inspector: Arc<Inspector>,
    checks: Checks,
    publisher: KafkaPublisher,
    /// Of the reader that was opened last, and of which log.
    reading: Mutex<Option<(LogId, Weak<Fetcher>)>>,
}

impl Kafka {
    /// Whether librdkafka takes the options, without making anything.
    pub fn check(settings: &KafkaSettings) -> Result<(), BadOptions> {
        client::check(settings)
    }

    /// Connects in the background: a cluster that cannot be reached is no error here.
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
            reading: Mutex::default(),
        })
    }

    /// The first offset of each partition whose record arrived at `millis` or later;
    /// the end, where there is none.
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
        let ends = self.fetcher(log).and_then(PartitionEnds::of);
        let positions = self.publisher.publish(records).await?;
        // It may have become another topic meanwhile, and the records be in that one.
        if let Some(ends) = ends
            && ends.grew_by(&positions).await
        {
            return Ok(Published { log, positions });
        }
        let confirmed = self.checks.ask(log, None).await;
        let unconfirmed = || ReadError::Unavailable("it was closed".into());
        match confirmed.unwrap_or_else(|_| Err(unconfirmed())) {
            Ok(()) => Ok(Published { log, positions }),
            Err(error) => Err(PublishError::Unknown(error.to_string())),
        }
    }

    /// Whoever fetches from this log, if somebody does.
    fn fetcher(&self, log: LogId) -> Option<Arc<Fetcher>> {
        let reading = self
            .reading
            .lock()
            .expect("nothing panics while it is held");
        let (_, fetcher) = reading.as_ref().filter(|(of, _)| *of == log)?;
        fetcher.upgrade()
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

    fn reader(&self, log: LogId, from: &NextOffsets) -> Result<Box<dyn Reader>, ReadError> {
        let (bounds, partitions) = (self.bounds()?, self.partitions()?);
        let asking = self.checks.asking(log, partitions);
        // One that cannot be asked now, and that nothing is known of, begins where it
        // begins.
        let next = Partition::all().take(partitions).map(|partition| {
            let from = from.get(&partition).copied();
            let from = from.filter(|from| *from > Offset::ZERO);
            let first = bounds.get(&partition).map(|bounds| bounds.first);
            (partition, from.or(first))
        });
        let consumer = consume::Consumer::open(&self.settings, next.collect(), asking)?;
        let reading = (log, Arc::downgrade(consumer.fetcher()));
        *self
            .reading
            .lock()
            .expect("nothing panics while it is held") = Some(reading);
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
