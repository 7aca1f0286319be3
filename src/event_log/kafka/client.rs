//! librdkafka's configuration: options that opledger sets, options that users may set, and options
//! that they may not set because a promise depends on them.

use super::{BadOptions, KafkaSettings, stats};
use crate::event_log::ReadError;
use rdkafka::ClientConfig;
use rdkafka::bindings as rdk;
use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::ConsumerContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::statistics::Statistics;
use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Asks the cluster about the topic.
    Inspector,
    /// One of this many that read the topic together.
    Consumer {
        of: usize,
    },
    Producer,
}

impl Role {
    pub fn name(self) -> &'static str {
        match self {
            Role::Inspector => "inspector",
            Role::Consumer { .. } => "consumer",
            Role::Producer => "producer",
        }
    }
}

/// Options that only opledger sets, and what to do instead.
const RESERVED: &[(&str, &str)] = &[
    ("bootstrap.servers", "set kafka.bootstrap"),
    ("metadata.broker.list", "set kafka.bootstrap"),
    ("group.id", "set kafka.group"),
    ("enable.auto.commit", "the store keeps the position"),
    ("enable.auto.offset.store", "the store keeps the position"),
    (
        "auto.offset.reset",
        "a position that is gone is a halt, never a reset",
    ),
    ("isolation.level", "only committed records are read"),
    ("enable.partition.eof", "it shows how far the reader is"),
    (
        "topic.metadata.refresh.interval.ms",
        "the topic's identity is confirmed this often",
    ),
    ("group.instance.id", "the group is for lag tools only"),
    ("enable.idempotence", "it is always on"),
    ("acks", "it is always all"),
    ("request.required.acks", "it is always all"),
    (
        "transactional.id",
        "the producer is idempotent, not transactional",
    ),
    ("message.timeout.ms", "set log.publish_timeout"),
    ("delivery.timeout.ms", "set log.publish_timeout"),
    ("message.max.bytes", "set events.max_size"),
    (
        "delivery.report.only.error",
        "every record needs its report",
    ),
    ("queue.buffering.max.kbytes", "set log.max_waiting"),
    ("queue.buffering.max.messages", "set log.max_waiting"),
    (
        "max.poll.interval.ms",
        "the projector may wait long for a full disk",
    ),
];

/// Options that librdkafka knows by two names: a user's must replace ours.
const ALIASES: &[(&str, &str)] = &[
    ("compression.codec", "compression.type"),
    ("queue.buffering.max.ms", "linger.ms"),
];

/// All bad options of all sections at once.
pub fn check(settings: &KafkaSettings) -> Result<(), BadOptions> {
    let sections = [
        ("kafka.options", &settings.options),
        ("kafka.producer", &settings.producer),
        ("kafka.consumer", &settings.consumer),
    ];
    let mut bad = Vec::new();
    for (section, options) in sections {
        for (name, value) in options {
            let reserved = RESERVED.iter().find(|(own, _)| own == name);
            let fault = match reserved {
                Some((_, instead)) => Some(format!("is opledger's own: {instead}")),
                None => ClientConfig::new()
                    .set(name, value)
                    .create_native_config()
                    .err()
                    .map(|error| fault(&error)),
            };
            bad.extend(fault.map(|fault| format!("{section}.{name}: {fault}")));
        }
    }
    match bad.is_empty() {
        true => Ok(()),
        false => Err(BadOptions(bad)),
    }
}

/// librdkafka's message without the value, which may be a secret.
fn fault(error: &KafkaError) -> String {
    match error {
        KafkaError::ClientConfig(rdkafka::types::RDKafkaConfRes::RD_KAFKA_CONF_UNKNOWN, ..) => {
            "is no option of librdkafka".into()
        }
        KafkaError::ClientConfig(_, what, ..) => format!("is not taken by librdkafka: {what}"),
        other => other.to_string(),
    }
}

pub fn bad_client(role: Role, error: &KafkaError) -> BadOptions {
    BadOptions(vec![format!("the {} cannot be made: {error}", role.name())])
}

/// Space for a record's key, headers and framing in addition to the event itself.
const ROOM: u64 = 64 << 10;
/// The largest value that librdkafka accepts.
const MESSAGE_MAX: u64 = 1_000_000_000;

/// Records that are fetched ahead, by all consumers together. Each takes memory in addition to its
/// bytes.
const QUEUED_RECORDS: u64 = 100_000;
/// Bytes of a response to a fetch, by all consumers together. A response is decompressed as a
/// whole, to many times its size, and may contain as much of each partition: this bounds all
/// partitions together.
const RESPONSE_BYTES: u64 = 1_000_000;
/// Smaller responses cost more than the memory that they save.
const MIN_RESPONSE_BYTES: u64 = 125_000;

pub fn config(settings: &KafkaSettings, role: Role) -> ClientConfig {
    let mut config = ClientConfig::new();
    let mut set = |name: &str, value: String| {
        config.set(name, value);
    };
    // Both logs have the same clients; only those of the workers' log have metrics.
    let (name, statistics) = match settings.is_control {
        true => ("opledger-control", "0"),
        false => ("opledger", "5000"),
    };
    set("client.id", format!("{name}-{}", role.name()));
    set("statistics.interval.ms", statistics.into());
    // The longest until a broker that comes back is found.
    set("reconnect.backoff.max.ms", "2000".into());
    // Half of it is between two attempts on any broker: the default keeps a core busy while
    // there is no broker.
    set("reconnect.backoff.ms", "500".into());
    // The longest until a new leader or controller is found.
    set("topic.metadata.refresh.interval.ms", "2000".into());
    set("socket.nagle.disable", "true".into());
    set("log.connection.close", "false".into());
    let own = match role {
        Role::Producer => {
            set("compression.type", "lz4".into());
            set("partitioner", "murmur2_random".into());
            // Publishes come as batches already.
            set("linger.ms", "1".into());
            &settings.producer
        }
        Role::Consumer { of } => {
            let of = of as u64;
            set("fetch.wait.max.ms", "100".into());
            set("fetch.error.backoff.ms", "50".into());
            // Fetching pauses when enough is fetched ahead: by default for a second, in which
            // a ledger that catches up would have nothing to do.
            set("fetch.queue.backoff.ms", "5".into());
            set(
                "queued.min.messages",
                (QUEUED_RECORDS / of).max(1).to_string(),
            );
            let response = (RESPONSE_BYTES / of).max(MIN_RESPONSE_BYTES).to_string();
            set("fetch.max.bytes", response.clone());
            // Of a consumer, librdkafka takes it only as the least value of the option above.
            set("message.max.bytes", response);
            let kilobytes = (settings.fetch_ahead / of / 1024).clamp(1, 2_097_151);
            set("queued.max.messages.kbytes", kilobytes.to_string());
            &settings.consumer
        }
        Role::Inspector => {
            // It reads single records.
            set("fetch.message.max.bytes", "16384".into());
            set("queued.min.messages", "1".into());
            set("fetch.wait.max.ms", "10".into());
            // While a record of one partition waits to be taken, others are not fetched; by
            // default librdkafka retries after a second.
            set("fetch.queue.backoff.ms", "1".into());
            // A commit that finds no coordinator fails after this, and until then the client
            // does not close.
            set("session.timeout.ms", "3000".into());
            set("heartbeat.interval.ms", "1000".into());
            &BTreeMap::new()
        }
    };
    for (name, value) in settings.options.iter().chain(own) {
        let alias = ALIASES.iter().find(|(alias, _)| alias == name);
        config.remove(alias.map_or("", |(_, ours)| ours));
        config.set(name, value.clone());
    }
    let mut set = |name: &str, value: String| {
        config.set(name, value);
    };
    // The options that promises depend on come last.
    set("bootstrap.servers", settings.bootstrap.clone());
    match role {
        Role::Producer => {
            let bytes = (settings.max_event + ROOM).clamp(6 << 20, MESSAGE_MAX);
            set("message.max.bytes", bytes.to_string());
            set("enable.idempotence", "true".into());
            set("acks", "all".into());
            let timeout = settings.publish_timeout.as_millis();
            set("delivery.timeout.ms", timeout.to_string());
            // The ledger's own limit, which publishers see, is lower.
            let kilobytes = (settings.max_waiting / 512).clamp(1024, 2_147_483_647);
            set("queue.buffering.max.kbytes", kilobytes.to_string());
            set("queue.buffering.max.messages", "10000000".into());
        }
        Role::Consumer { .. } | Role::Inspector => {
            set("group.id", settings.group.clone());
            set("enable.auto.commit", "false".into());
            set("enable.auto.offset.store", "false".into());
            set("auto.offset.reset", "error".into());
            set("isolation.level", "read_committed".into());
            set("enable.partition.eof", "true".into());
            // The projector may wait long for a full disk.
            set("max.poll.interval.ms", "86400000".into());
        }
    }
    config
}

/// Takes librdkafka's logs, statistics and errors.
pub struct Context {
    role: Role,
    made: Instant,
    statistics: Mutex<stats::ClientStatistics>,
}

/// A cluster may need this long until it knows a new topic, or the coordinator of a new group.
/// Until then it responds "not yet", and librdkafka retries on its own.
const SETTLES_WITHIN: Duration = Duration::from_secs(30);

impl Context {
    pub fn new(role: Role) -> Context {
        Context {
            role,
            made: Instant::now(),
            statistics: Mutex::new(stats::ClientStatistics::of(role.name())),
        }
    }
}

impl ClientContext for Context {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        let client = self.role.name();
        let is_expected = match facility {
            // Each attempt to connect while a broker is away, which the projector logs once.
            "FAIL" | "ERROR" => true,
            // The producer retries on its own.
            "GETPID" => message.ends_with(": retrying") && self.made.elapsed() < SETTLES_WITHIN,
            _ => false,
        };
        match level {
            RDKafkaLogLevel::Emerg
            | RDKafkaLogLevel::Alert
            | RDKafkaLogLevel::Critical
            | RDKafkaLogLevel::Error
            | RDKafkaLogLevel::Warning
                if !is_expected =>
            {
                tracing::warn!(client, facility, "{message}");
            }
            RDKafkaLogLevel::Notice | RDKafkaLogLevel::Info => {
                tracing::info!(client, facility, "{message}");
            }
            _ => tracing::debug!(client, facility, "{message}"),
        }
    }

    fn stats(&self, report: Statistics) {
        let statistics = self.statistics.lock();
        let mut statistics = statistics.expect("nothing panics while it counts");
        statistics.record(&report);
    }

    /// librdkafka continues on its own; `checks` finds out whether the log can be reached.
    fn error(&self, error: KafkaError, reason: &str) {
        let client = self.role.name();
        match error.rdkafka_error_code() {
            // Hundreds of them while a broker is away, which the projector logs once.
            Some(
                RDKafkaErrorCode::BrokerTransportFailure
                | RDKafkaErrorCode::AllBrokersDown
                | RDKafkaErrorCode::Resolve,
            )
            // The end of a partition is not an error.
            | Some(RDKafkaErrorCode::PartitionEOF) => tracing::debug!(client, %error, "{reason}"),
            Some(code) if is_not_yet(code) && self.made.elapsed() < SETTLES_WITHIN => {
                tracing::debug!(client, %error, "{reason}");
            }
            Some(_) | None => tracing::warn!(client, %error, "{reason}"),
        }
    }
}

impl ConsumerContext for Context {}

/// The responses of a cluster that does not know a topic or a group yet.
fn is_not_yet(code: RDKafkaErrorCode) -> bool {
    matches!(
        code,
        RDKafkaErrorCode::CoordinatorLoadInProgress
            | RDKafkaErrorCode::CoordinatorNotAvailable
            | RDKafkaErrorCode::NotCoordinator
            | RDKafkaErrorCode::LeaderNotAvailable
            | RDKafkaErrorCode::NotLeaderForPartition
            | RDKafkaErrorCode::UnknownTopicOrPartition
            | RDKafkaErrorCode::UnknownPartition
            | RDKafkaErrorCode::UnknownTopic
    )
}

/// librdkafka's number of a log level.
pub fn level(number: i32) -> RDKafkaLogLevel {
    match number {
        0 => RDKafkaLogLevel::Emerg,
        1 => RDKafkaLogLevel::Alert,
        2 => RDKafkaLogLevel::Critical,
        3 => RDKafkaLogLevel::Error,
        4 => RDKafkaLogLevel::Warning,
        5 => RDKafkaLogLevel::Notice,
        6 => RDKafkaLogLevel::Info,
        _ => RDKafkaLogLevel::Debug,
    }
}

/// An event of librdkafka. Data read from it is valid as long as the event.
pub struct KafkaEvent(pub *mut rdk::rd_kafka_event_t);

impl Drop for KafkaEvent {
    fn drop(&mut self) {
        // Safety: it is ours, and destroyed once.
        unsafe { rdk::rd_kafka_event_destroy(self.0) };
    }
}

pub fn unavailable(why: &str) -> ReadError {
    ReadError::Unavailable(why.to_owned())
}

pub fn failed(error: KafkaError) -> ReadError {
    ReadError::Unavailable(error.to_string())
}
