//! Asks the cluster about the topic: its id, the bounds of its partitions, its configuration, and
//! single records.

mod admin;

use super::client::{self, Context, Role, failed, unavailable};
use super::{BadOptions, KafkaSettings, NewTopics, message};
use crate::event_log::{Bounds, Identity, ReadError};
use crate::wire::position::{LastOffsets, LogId, NextOffsets, Offset, Partition};
use crate::wire::record::Record;
use admin::Isolation;
use futures_executor::block_on;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, ResourceSpecifier, TopicReplication};
use rdkafka::bindings as rdk;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::Message;
use rdkafka::{Offset as KafkaOffset, TopicPartitionList};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

/// For one response of the cluster.
const PATIENCE: Duration = Duration::from_secs(5);
/// For the response of one broker, if there are others.
const PATIENCE_WITH_ONE: Duration = Duration::from_millis(1000);
/// The topic's configuration changes rarely.
const SETUP_EVERY: Duration = Duration::from_secs(60);

/// The description of a topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Topic {
    pub id: LogId,
    /// Kafka's own id, as its tools print it.
    uuid: String,
    pub partitions: usize,
}

pub struct Inspector {
    settings: Arc<KafkaSettings>,
    client: BaseConsumer<Context>,
    /// Fetching a record needs the client for itself.
    fetching: Mutex<()>,
    seen: Mutex<InspectorState>,
}

#[derive(Default)]
struct InspectorState {
    topic: Option<Topic>,
    bounds: Option<BTreeMap<Partition, Bounds>>,
    trouble: Option<String>,
    leaderless: Option<String>,
    setup: Option<(Instant, Setup)>,
    applied: Option<NextOffsets>,
    /// Missing topics were created.
    has_made: bool,
    /// Leaders of partitions, in the order in which they are asked.
    brokers: Vec<i32>,
}

#[derive(Debug, Clone, Default, PartialEq)]
struct Setup {
    max_record: Option<usize>,
    unfit: Option<String>,
    /// Problems that are not a reason to stop.
    doubts: Vec<String>,
}

impl Inspector {
    pub fn new(settings: Arc<KafkaSettings>) -> Result<Inspector, BadOptions> {
        let role = Role::Inspector;
        let client = client::config(&settings, role).create_with_context(Context::new(role));
        Ok(Inspector {
            client: client.map_err(|error| client::bad_client(role, &error))?,
            settings,
            fetching: Mutex::default(),
            seen: Mutex::default(),
        })
    }

    pub fn seen(&self) -> Option<Topic> {
        self.lock().topic.clone()
    }

    /// Why nothing can be published.
    pub fn trouble(&self) -> Option<String> {
        let seen = self.lock();
        let setup = seen.setup.as_ref();
        let unfit = setup.and_then(|(_, setup)| setup.unfit.clone());
        unfit.or_else(|| seen.trouble.clone())
    }

    /// Why some partitions do not accept writes.
    pub fn leaderless(&self) -> Option<String> {
        self.lock().leaderless.clone()
    }

    pub fn max_record(&self) -> Option<usize> {
        self.lock().setup.as_ref()?.1.max_record
    }

    pub fn bounds(&self) -> Result<BTreeMap<Partition, Bounds>, ReadError> {
        let bounds = self.lock().bounds.clone();
        bounds.ok_or_else(|| unavailable("the topic was not reached yet"))
    }

    /// Checks the topic, its partitions, and now and then its configuration.
    pub fn identify(&self) -> Result<Identity, ReadError> {
        let topic = self.topic_or_new()?;
        let setup = self.setup()?;
        if let Some(unfit) = setup.unfit {
            return Err(ReadError::Unfit(unfit));
        }
        // A partition without a leader does not delay the others.
        let bounds = self.look_at_bounds(topic.partitions);
        self.lock().topic = Some(topic.clone());
        self.keep_bounds(bounds.unwrap_or_default(), topic.partitions);
        self.lock().trouble = None;
        Ok(Identity {
            id: topic.id,
            name: format!("topic {}, id {}", self.settings.topic, topic.uuid),
        })
    }

    /// Describes the topic now; the result counts for readiness.
    pub fn look_at_topic(&self) -> Result<Topic, ReadError> {
        let topic = self.describe_ours();
        let trouble = topic.as_ref().err().map(|error| match error {
            ReadError::Unavailable(why) => why.clone(),
            other => other.to_string(),
        });
        self.lock().trouble = trouble;
        topic
    }

    /// The bounds of the partitions now; a partition without a leader is left out.
    pub fn look_at_bounds(
        &self,
        partitions: usize,
    ) -> Result<BTreeMap<Partition, Bounds>, ReadError> {
        let earliest = rdk::rd_kafka_OffsetSpec_t::RD_KAFKA_OFFSET_SPEC_EARLIEST as i64;
        let latest = rdk::rd_kafka_OffsetSpec_t::RD_KAFKA_OFFSET_SPEC_LATEST as i64;
        let all = Isolation::Uncommitted;
        let first = self.list_offsets(partitions, earliest, all)?.offsets;
        let mut ends = self.list_offsets(partitions, latest, all)?.offsets;
        let bounds: BTreeMap<_, _> = first
            .into_iter()
            .filter_map(|(partition, first)| {
                let end = ends.remove(&partition)?;
                Some((partition, Bounds { first, end }))
            })
            .collect();
        Ok(bounds)
    }

    pub fn keep_bounds(&self, bounds: BTreeMap<Partition, Bounds>, partitions: usize) {
        let mut seen = self.lock();
        let some_are_missing = bounds.len() < partitions;
        seen.leaderless = some_are_missing.then(|| leaderless(&bounds, partitions));
        seen.bounds = Some(bounds);
    }

    /// By partition, the offset after the last committed record.
    pub fn readable(&self) -> Result<NextOffsets, ReadError> {
        let topic = self.describe_ours()?;
        let latest = rdk::rd_kafka_OffsetSpec_t::RD_KAFKA_OFFSET_SPEC_LATEST as i64;
        self.list_offsets(topic.partitions, latest, Isolation::Committed)?
            .all()
    }

    /// By partition, the first offset whose record arrived at `millis` or later, or the end.
    pub fn offsets_at(&self, millis: i64) -> Result<NextOffsets, ReadError> {
        let topic = self.describe_ours()?;
        let found = self.list_offsets(topic.partitions, millis.max(0), Isolation::Committed)?;
        let found = found.all()?;
        let ends = self.readable()?.into_iter();
        let at = |(partition, end)| (partition, *found.get(&partition).unwrap_or(&end));
        Ok(ends.map(at).collect())
    }

    /// Fetches the records at these offsets, as a consumer for a moment.
    pub fn records_at(&self, at: &LastOffsets) -> Result<BTreeMap<Partition, Record>, ReadError> {
        let mut found = BTreeMap::new();
        let Some(partitions) = at.keys().max().map(|last| last.index() + 1) else {
            return Ok(found);
        };
        // The error of an offset that is out of range does not name the partition.
        let bounds = self.look_at_bounds(partitions)?;
        if at.keys().any(|partition| !bounds.contains_key(partition)) {
            // Its leader was lost after the caller checked.
            return Err(unavailable(&leaderless(&bounds, partitions)));
        }
        let at = &mut at.clone();
        at.retain(|partition, offset| bounds[partition].hold(*offset));
        let _alone = self
            .fetching
            .lock()
            .expect("nothing panics while it fetches");
        let mut wanted = TopicPartitionList::with_capacity(at.len());
        for (&partition, &offset) in at.iter() {
            let (partition, offset) = (partition.0 as i32, KafkaOffset::Offset(offset.0 as i64));
            let added = wanted.add_partition_offset(&self.settings.topic, partition, offset);
            added.map_err(failed)?;
        }
        self.client.assign(&wanted).map_err(failed)?;
        let fetched = self.fetch(at, &mut found);
        self.client.unassign().map_err(failed)?;
        fetched.map(|()| found)
    }

    fn fetch(
        &self,
        at: &LastOffsets,
        found: &mut BTreeMap<Partition, Record>,
    ) -> Result<(), ReadError> {
        let until = Instant::now() + PATIENCE;
        let mut open: Vec<Partition> = at.keys().copied().collect();
        while !open.is_empty() {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(unavailable("the last applied records could not be fetched"));
            }
            match self.client.poll(left) {
                None => {}
                Some(Ok(fetched)) => {
                    let partition = Partition(fetched.partition() as u32);
                    if at.get(&partition) == Some(&Offset(fetched.offset() as u64)) {
                        let mut logged = Vec::new();
                        // Safety: it is borrowed from the client.
                        unsafe { message::copy(&[fetched.ptr()], &mut logged) };
                        found.extend(logged.pop().map(|logged| (partition, logged.record)));
                    }
                    // A later one means that this one is not there.
                    open.retain(|other| *other != partition);
                }
                Some(Err(KafkaError::PartitionEOF(partition))) => {
                    open.retain(|other| other.0 != partition as u32);
                }
                // Below or above the bounds, which changed meanwhile.
                Some(Err(KafkaError::MessageConsumption(
                    RDKafkaErrorCode::AutoOffsetReset | RDKafkaErrorCode::OffsetOutOfRange,
                ))) => return Err(unavailable("an offset is out of range")),
                Some(Err(error)) => tracing::debug!(%error, "cannot fetch a record"),
            }
        }
        Ok(())
    }

    pub fn note_applied(&self, next: &NextOffsets) {
        self.lock().applied = Some(next.clone());
    }

    /// Commits how far the store is to the consumer group, for monitoring only.
    pub fn commit_applied(&self) {
        let mut seen = self.lock();
        if seen.trouble.is_some() {
            // It would wait for a coordinator that does not respond, even while it closes.
            return;
        }
        let Some(applied) = seen.applied.take() else {
            return;
        };
        drop(seen);
        let mut offsets = TopicPartitionList::with_capacity(applied.len());
        for (&partition, &next) in applied.iter() {
            let next = KafkaOffset::Offset(next.0 as i64);
            let topic = &self.settings.topic;
            if let Err(error) = offsets.add_partition_offset(topic, partition.0 as i32, next) {
                tracing::debug!(%error, "cannot commit an offset");
            }
        }
        if let Err(error) = self.client.commit(&offsets, CommitMode::Async) {
            tracing::debug!(%error, "cannot commit the group's offsets");
        }
    }

    /// Takes librdkafka's logs and statistics.
    pub fn serve(&self) {
        if let Ok(_alone) = self.fetching.try_lock() {
            // Nothing is assigned, so no record can arrive; errors were logged already.
            drop(self.client.poll(Duration::ZERO));
        }
    }

    fn topic_or_new(&self) -> Result<Topic, ReadError> {
        let Some(new) = self.settings.create.filter(|_| !self.lock().has_made) else {
            return self.look_at_topic();
        };
        let topic = &self.settings.topic;
        if !self.settings.is_known && self.is_missing(topic)? {
            self.create(new, topic, "5242880")?;
        }
        let letters = self.settings.dead_letter_topic();
        // Events do not wait for it.
        if !self.settings.is_control
            && self.is_missing(&letters)?
            && let Err(error) = self.create(new, &letters, "6291456")
        {
            tracing::warn!(%error, "the dead-letter topic does not exist; dead letters stay in the store");
        }
        self.lock().has_made = true;
        // Not every broker knows a new topic at once.
        let until = Instant::now() + PATIENCE;
        loop {
            let topic = self.look_at_topic();
            if topic.is_ok() || Instant::now() > until {
                return topic;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn is_missing(&self, topic: &str) -> Result<bool, ReadError> {
        Ok(self.describe(topic)?.is_none())
    }

    fn missing(&self) -> String {
        let topic = &self.settings.topic;
        match (self.settings.is_known, self.settings.create) {
            (true, _) => format!("there is no topic {topic}, which the store was folded from"),
            (false, Some(_)) => format!("there is no topic {topic} yet"),
            (false, None) => {
                format!("there is no topic {topic}: create it, or start with --create-topics")
            }
        }
    }

    fn create(&self, new: NewTopics, name: &str, max_bytes: &str) -> Result<(), ReadError> {
        let NewTopics {
            partitions,
            replication,
        } = new;
        let replicas = replication.map_or(-1, i32::from);
        let topic = NewTopic::new(name, partitions as i32, TopicReplication::Fixed(replicas))
            .set("cleanup.policy", "delete")
            .set("retention.ms", "-1")
            .set("retention.bytes", "-1")
            .set("message.timestamp.type", "LogAppendTime")
            .set("max.message.bytes", max_bytes);
        let admin = self.admin()?;
        let created = block_on(admin.create_topics([&topic], &options())).map_err(failed)?;
        for outcome in created {
            match outcome {
                Ok(name) => tracing::info!(topic = name, partitions, "created the topic"),
                Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => {}
                Err((name, error)) => {
                    return Err(unavailable(&format!(
                        "cannot create the topic {name}: {error}"
                    )));
                }
            }
        }
        Ok(())
    }

    fn setup(&self) -> Result<Setup, ReadError> {
        let known = self.lock().setup.clone();
        let before = match known {
            Some((at, setup)) if at.elapsed() < SETUP_EVERY => return Ok(setup),
            Some((_, setup)) => setup,
            None => Setup::default(),
        };
        let admin = self.admin()?;
        let topic = [ResourceSpecifier::Topic(&self.settings.topic)];
        let described = block_on(admin.describe_configs(&topic, &options())).map_err(failed)?;
        let setup = match described.into_iter().next() {
            Some(Ok(topic)) if !topic.entries.is_empty() => {
                self.judge(&|name| topic.get(name)?.value.clone())
            }
            // The binding does not return the error of a single topic.
            Some(_) | None => Setup {
                doubts: vec![format!(
                    "how topic {} is set up cannot be seen, so that it is fit to be a ledger is not \
                     checked: grant DescribeConfigs on it",
                    self.settings.topic
                )],
                ..Setup::default()
            },
        };
        // Once, and again if it changes.
        for doubt in setup
            .doubts
            .iter()
            .filter(|doubt| !before.doubts.contains(doubt))
        {
            tracing::warn!("{doubt}");
        }
        self.lock().setup = Some((Instant::now(), setup.clone()));
        Ok(setup)
    }

    /// Whether a topic that is set up like this can be a ledger's log.
    fn judge(&self, of: &dyn Fn(&str) -> Option<String>) -> Setup {
        let topic = &self.settings.topic;
        let policy = of("cleanup.policy").unwrap_or_default();
        let unfit = policy.contains("compact").then(|| {
            format!(
                "topic {topic} has cleanup.policy={policy}: its records share the operation id as \
                 key, so compaction would remove events; set cleanup.policy=delete, or use another \
                 topic"
            )
        });
        let finite = |name: &str| {
            let kept = of(name).filter(|kept| kept != "-1")?;
            Some(format!(
                "topic {topic} has {name}={kept}: what is older is deleted, and a store cannot be \
                 rebuilt from it; set it to -1 if the topic is to be the ledger's memory"
            ))
        };
        let max = of("max.message.bytes").and_then(|bytes| bytes.parse::<usize>().ok());
        Setup {
            // A batch has its own header, and a record its key and headers.
            max_record: max.map(|bytes| bytes.saturating_sub(1024)),
            unfit,
            doubts: ["retention.ms", "retention.bytes"]
                .into_iter()
                .filter_map(finite)
                .collect(),
        }
    }

    fn admin(&self) -> Result<AdminClient<Context>, ReadError> {
        let role = Role::Inspector;
        let config = client::config(&self.settings, role);
        config
            .create_with_context(Context::new(role))
            .map_err(failed)
    }

    fn describe_ours(&self) -> Result<Topic, ReadError> {
        let topic = self.describe(&self.settings.topic)?;
        topic.ok_or_else(|| ReadError::Unavailable(self.missing()))
    }

    /// `None` if there is no such topic. Asks the broker that responded last, then the others.
    fn describe(&self, name: &str) -> Result<Option<Topic>, ReadError> {
        let brokers = self.lock().brokers.clone();
        for broker in &brokers {
            match self.describe_by(name, Some(*broker)) {
                Err(ReadError::Unavailable(_)) => {
                    let mut seen = self.lock();
                    // To the end of the queue.
                    seen.brokers.retain(|other| other != broker);
                    seen.brokers.push(*broker);
                }
                described => return described,
            }
        }
        self.describe_by(name, None)
    }

    fn lock(&self) -> MutexGuard<'_, InspectorState> {
        self.seen
            .lock()
            .expect("nothing panics while it holds what was seen")
    }
}

fn leaderless(bounds: &BTreeMap<Partition, Bounds>, partitions: usize) -> String {
    let all = Partition::all().take(partitions);
    let missing = all.filter(|partition| !bounds.contains_key(partition));
    let missing: Vec<String> = missing.map(|partition| partition.to_string()).collect();
    format!("no leader responds for partition {}", missing.join(", "))
}

fn options() -> AdminOptions {
    AdminOptions::new()
        .request_timeout(Some(PATIENCE))
        .operation_timeout(Some(PATIENCE))
}
