//! The settings: their names, their defaults, and the one way to load them.
//!
//! Defaults, then the file, then the environment, then flags; the later one wins. All problems
//! are reported at once, and nothing starts with any. A `Config` is a plain value that `main`
//! passes on: no other code reads a file or a variable, and there is no global.
//!
//! A new setting is a field with its default, a row in `Config::table`, and a paragraph in
//! `config.sample.toml`. A free-form section, whose names and values belong to another program
//! (`[kafka.options]`), is an `Options` and a row in `free`.

mod field;
mod layers;
mod problem;
mod table;
mod units;

pub use problem::{Error, Problem, SettingSource};

use ipnet::IpNet;
use problem::{MASK, is_secret};
use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;
use table::SettingsTable;
use units::{GIB, KIB, MIB, show_bytes, show_duration};

#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// Folder of the embedded log and the store.
    pub data: PathBuf,
    pub server: Server,
    pub events: Events,
    pub log: Log,
    pub kafka: Kafka,
    pub kafka_options: KafkaOptions,
    pub projector: Projector,
    pub store: Store,
    pub lists: Lists,
    pub streams: Streams,
    pub document: Document,
    pub notifications: Notifications,
    pub telemetry: Telemetry,
    pub sources: Sources,
    /// Variables that begin like settings and are none.
    pub ignored: Vec<String>,
}

/// Of the embedded log.
pub const MAX_PARTITIONS: u32 = 128;

/// By key, where each setting came from that was given at all.
pub type Sources = BTreeMap<String, SettingSource>;

#[derive(Debug, Clone, PartialEq)]
pub struct Server {
    pub listen: SocketAddr,
    /// Names that requests may use in `Host`, in the form of [`crate::wire::host::normal`].
    pub hosts: Vec<String>,
    pub max_connections: usize,
    /// Size of a request body, in bytes.
    pub max_body: u64,
    /// Size of a request's line and headers, in bytes.
    pub max_headers: u64,
    /// Total size of request bodies in memory, in bytes; beyond it: 429.
    pub max_buffered: u64,
    /// Total size of unread large responses, in bytes; beyond it: 503.
    pub max_unsent: u64,
    /// Time for the head of a request, and for the first request of a connection.
    pub header_timeout: Duration,
    /// Time until the next request of a connection.
    pub idle_timeout: Duration,
    pub body_timeout: Duration,
    /// A stream is closed if its client reads nothing for this long.
    pub send_timeout: Duration,
    pub shutdown_grace: Duration,
    /// How long a read waits for a position by default.
    pub default_wait: Duration,
    /// The longest wait that a request may ask for.
    pub max_wait: Duration,
    /// Maximum number of list and history responses in progress.
    pub max_streams: usize,
    pub unknown_query: UnknownQuery,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd)]
pub enum UnknownQuery {
    Reject,
    Ignore,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Events {
    /// Size of an event, in bytes.
    pub max_size: u64,
    /// How far an event's time may be ahead of this machine's clock.
    pub clock_ahead: Duration,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Log {
    /// An existing log may get more partitions, never fewer.
    pub partitions: u32,
    /// Bytes that wait to be appended; beyond it: 429.
    pub max_waiting: u64,
    pub publish_timeout: Duration,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Kafka {
    /// `host:port`, several separated by commas; empty for the embedded log.
    pub bootstrap: String,
    pub topic: String,
    /// Creates missing topics for a new store.
    pub create_topics: bool,
    /// Partitions of topics that are created.
    pub partitions: u32,
    /// Replication factor of topics that are created; 0: the cluster's default.
    pub replication: u16,
    /// The consumer group that lag tools watch.
    pub group: String,
    /// How often the topic is compared with what was applied.
    pub check_interval: Duration,
}

/// Options of librdkafka.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct KafkaOptions {
    pub all: Options,
    pub producer: Options,
    pub consumer: Options,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Projector {
    /// Maximum number of records in a batch.
    pub batch_records: usize,
    /// Maximum size of a batch in bytes, unless one record is larger.
    pub batch_bytes: u64,
    /// The longest rest before the next batch, while fewer than that come; zero for none.
    pub batch_delay: Duration,
    /// Bytes of snapshots kept at hand, as they are stored.
    pub hot_cache: u64,
    /// Longest pause between two retries while the store cannot be written.
    pub retry_max: Duration,
    /// In records; above it the ledger is not ready.
    pub max_lag: u64,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Store {
    /// Bytes.
    pub block_cache: u64,
    /// Bytes.
    pub write_buffers: u64,
    /// Size of the cache of rendered documents and of their rows, in bytes.
    pub document_cache: u64,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Lists {
    /// Maximum number of read points for the pages of lists.
    pub points: usize,
    /// At the maximum, lists that begin within this time share a read point.
    pub share: Duration,
    /// An unused read point expires after this time.
    pub idle: Duration,
    /// Any read point expires at this age.
    pub max_age: Duration,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Streams {
    /// Maximum number of event streams; beyond it: 429.
    pub max: usize,
    /// How often an idle stream sends a comment to show that it is alive.
    pub keep_alive: Duration,
    /// Number of changes after which a stream can still resume.
    pub window: u64,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Document {
    /// Between date and time of day: at most one character, which needs no JSON escape.
    pub time_separator: String,
    /// Seconds east of UTC.
    pub time_offset: i32,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Notifications {
    /// Networks that webhooks may call; if there are none, nothing is sent.
    pub allow: Vec<IpNet>,
    /// The separator of `document`, in documents for webhook receivers.
    pub time_separator: String,
    /// For one attempt, from resolving the name to the end of the response.
    pub timeout: Duration,
    /// The pause after the first failure; it doubles after each attempt.
    pub retry_min: Duration,
    pub retry_max: Duration,
    /// Since the first attempt; then the delivery has failed permanently, until somebody
    /// retries it.
    pub give_up_after: Duration,
    /// Attempts in flight to one address and port.
    pub per_target: usize,
    /// Attempts in flight in all.
    pub in_flight: usize,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Telemetry {
    /// A filter directive of `tracing`.
    pub log: String,
    pub format: LogFormat,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd)]
pub enum LogFormat {
    Text,
    Json,
}

/// A setting with a few named values.
trait Choice: Copy + PartialOrd + 'static {
    const ALL: &'static [(&'static str, Self)];
}

impl Choice for UnknownQuery {
    const ALL: &'static [(&'static str, Self)] = &[
        ("reject", UnknownQuery::Reject),
        ("ignore", UnknownQuery::Ignore),
    ];
}

impl Choice for LogFormat {
    const ALL: &'static [(&'static str, Self)] =
        &[("text", LogFormat::Text), ("json", LogFormat::Json)];
}

/// A free-form section. Some values may be secret, so its debug output shows none.
#[derive(Clone, Default, PartialEq)]
pub struct Options(pub BTreeMap<String, String>);

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = self.0.iter().map(|(name, value)| match is_secret(name) {
            true => (name, MASK),
            false => (name, value.as_str()),
        });
        f.debug_map().entries(shown).finish()
    }
}

/// The rows of a section. A field's name is its key, and a field without a row
/// does not compile.
macro_rules! rows {
    ($Section:ident $section:ident { $($name:ident: $kind:ident($($range:expr)?),)+ }) => {{
        let $Section { $($name),+ } = $section;
        [$((
            concat!(stringify!($section), ".", stringify!($name)),
            $kind($name $(, $range)?),
        )),+]
    }};
}

/// The values of flags, as typed.
#[derive(Debug, Clone, Default)]
pub struct Overrides {
    pub data: Option<String>,
    pub listen: Option<String>,
    pub kafka: Option<String>,
    pub topic: Option<String>,
    pub create_topics: bool,
}

impl Default for Config {
    fn default() -> Self {
        let secs = Duration::from_secs;
        Config {
            data: "./opledger-data".into(),
            server: Server {
                listen: SocketAddr::from(([127, 0, 0, 1], 8470)),
                hosts: Vec::new(),
                max_connections: 4096,
                max_body: 32 * MIB,
                max_headers: 64 * KIB,
                max_buffered: 256 * MIB,
                max_unsent: 256 * MIB,
                header_timeout: secs(10),
                idle_timeout: secs(75),
                body_timeout: secs(30),
                send_timeout: secs(30),
                shutdown_grace: secs(8),
                default_wait: secs(5),
                max_wait: secs(60),
                max_streams: 32,
                unknown_query: UnknownQuery::Reject,
            },
            events: Events {
                max_size: 4 * MIB,
                clock_ahead: secs(24 * 3600),
            },
            log: Log {
                partitions: 4,
                max_waiting: 64 * MIB,
                publish_timeout: secs(30),
            },
            kafka: Kafka {
                bootstrap: String::new(),
                topic: "opledger.events".into(),
                create_topics: false,
                partitions: 6,
                replication: 0,
                group: "opledger".into(),
                check_interval: secs(5),
            },
            kafka_options: KafkaOptions::default(),
            projector: Projector {
                batch_records: 20_000,
                batch_bytes: 4 * MIB,
                batch_delay: Duration::from_millis(50),
                hot_cache: 16 * MIB,
                retry_max: secs(10),
                max_lag: 100_000,
            },
            store: Store {
                block_cache: 48 * MIB,
                write_buffers: 64 * MIB,
                document_cache: 16 * MIB,
            },
            lists: Lists {
                points: 256,
                share: secs(2),
                idle: secs(60),
                max_age: secs(15 * 60),
            },
            streams: Streams {
                max: 20_000,
                keep_alive: secs(15),
                window: 200_000,
            },
            document: Document {
                time_separator: " ".into(),
                time_offset: 0,
            },
            notifications: Notifications {
                allow: Vec::new(),
                time_separator: " ".into(),
                timeout: secs(10),
                retry_min: secs(1),
                retry_max: secs(3600),
                give_up_after: secs(7 * 24 * 3600),
                per_target: 4,
                in_flight: 128,
            },
            telemetry: Telemetry {
                log: "info".into(),
                format: LogFormat::Text,
            },
            sources: Sources::new(),
            ignored: Vec::new(),
        }
    }
}

/// The environment, for `Config::load`. `std::env::vars` panics on any variable that is not
/// UTF-8; here such a variable is a problem only if it is a setting.
pub fn variables() -> impl Iterator<Item = (String, String)> {
    std::env::vars_os().map(|(name, value)| {
        let text = |os: std::ffi::OsString| os.to_string_lossy().into_owned();
        (text(name), text(value))
    })
}

impl Config {
    pub fn load(
        file: Option<&Path>,
        env: impl Iterator<Item = (String, String)>,
        overrides: Overrides,
    ) -> Result<Config, Error> {
        let mut config = Config::default();
        let mut table = config.table();
        let keys = table.keys();
        let mut given = file.map_or(Vec::new(), |path| layers::file(path, &keys));
        given.extend(layers::environment(env, &keys));
        given.extend(layers::flags(overrides));
        let applied = table.apply(given);
        drop(table);
        config.sources = applied.sources;
        config.ignored = applied.ignored;
        let mut problems = applied.problems;

        // A setting that could not be read still has its default, so comparing it with others
        // would only add noise.
        let unread: Vec<_> = problems.iter().map(|p| p.key.clone()).collect();
        let is_unread = |key: &str| unread.iter().any(|u| u.as_deref().is_none_or(|u| u == key));
        let mut contradictions = config.contradictions();
        contradictions.retain(|(keys, _)| !keys.iter().any(|key| is_unread(key)));
        problems.extend(contradictions.into_iter().map(|(_, problem)| problem));

        if problems.is_empty() {
            return Ok(config);
        }
        problems.sort_by(|a, b| a.source.cmp(&b.source));
        Err(Error { problems })
    }

    /// The effective settings as a configuration file, secrets masked. A comment after each
    /// names its source, unless it is the default.
    pub fn show(&self) -> String {
        self.clone().table().show(&self.sources)
    }

    /// Every setting with its kind and range. The upper bounds only catch typing errors; they
    /// are not a recommendation.
    fn table(&mut self) -> SettingsTable<'_> {
        use field::*;
        let ms = Duration::from_millis;
        let secs = Duration::from_secs;
        let Config {
            data,
            server,
            events,
            log,
            kafka,
            kafka_options,
            projector,
            store,
            lists,
            streams,
            document,
            notifications,
            telemetry,
            sources: _,
            ignored: _,
        } = self;
        let mut settings = vec![("data", folder(data))];
        settings.extend(rows!(Server server {
            listen: address(),
            hosts: host_names(),
            max_connections: count(1..=1_000_000),
            max_body: bytes(KIB..=4 * GIB),
            // Below 8 KiB, hyper panics.
            max_headers: bytes(8 * KIB..=16 * MIB),
            max_buffered: bytes(KIB..=1024 * GIB),
            max_unsent: bytes(MIB..=1024 * GIB),
            header_timeout: duration(ms(1)..=secs(3600)),
            idle_timeout: duration(ms(1)..=secs(24 * 3600)),
            body_timeout: duration(ms(1)..=secs(3600)),
            send_timeout: duration(ms(1)..=secs(3600)),
            shutdown_grace: duration(secs(0)..=secs(3600)),
            default_wait: duration(secs(0)..=secs(3600)),
            max_wait: duration(secs(0)..=secs(3600)),
            max_streams: count(1..=100_000),
            unknown_query: choice(),
        }));
        settings.extend(rows!(Events events {
            max_size: bytes(KIB..=GIB),
            clock_ahead: duration(secs(0)..=secs(366 * 24 * 3600)),
        }));
        settings.extend(rows!(Log log {
            // With more partitions, a `Ledger-Position` would be longer than many proxies
            // accept.
            partitions: count(1..=MAX_PARTITIONS),
            max_waiting: bytes(KIB..=1024 * GIB),
            publish_timeout: duration(ms(1)..=secs(3600)),
        }));
        settings.extend(rows!(Kafka kafka {
            bootstrap: servers(),
            topic: topic_name(),
            create_topics: switch(),
            partitions: count(1..=1024),
            replication: count(0..=100),
            group: name(),
            check_interval: duration(ms(100)..=secs(3600)),
        }));
        settings.extend(rows!(Projector projector {
            batch_records: count(1..=1_000_000),
            batch_bytes: bytes(KIB..=4 * GIB),
            batch_delay: duration(secs(0)..=secs(1)),
            hot_cache: bytes(0..=1024 * GIB),
            retry_max: duration(ms(1)..=secs(3600)),
            max_lag: count(1..=1_000_000_000_000),
        }));
        settings.extend(rows!(Store store {
            block_cache: bytes(MIB..=1024 * GIB),
            // To RocksDB, zero means unlimited.
            write_buffers: bytes(MIB..=1024 * GIB),
            document_cache: bytes(0..=1024 * GIB),
        }));
        settings.extend(rows!(Lists lists {
            points: count(1..=10_000),
            share: duration(secs(0)..=secs(3600)),
            idle: duration(ms(1)..=secs(24 * 3600)),
            max_age: duration(ms(1)..=secs(24 * 3600)),
        }));
        settings.extend(rows!(Streams streams {
            max: count(1..=1_000_000),
            keep_alive: duration(ms(10)..=secs(3600)),
            window: count(0..=1_000_000_000),
        }));
        settings.extend(rows!(Document document {
            time_separator: separator(),
            time_offset: utc_offset(),
        }));
        settings.extend(rows!(Notifications notifications {
            allow: networks(),
            time_separator: separator(),
            timeout: duration(ms(1)..=secs(3600)),
            retry_min: duration(ms(1)..=secs(24 * 3600)),
            retry_max: duration(ms(1)..=secs(24 * 3600)),
            give_up_after: duration(ms(1)..=secs(366 * 24 * 3600)),
            per_target: count(1..=1000),
            in_flight: count(1..=10_000),
        }));
        settings.extend(rows!(Telemetry telemetry {
            log: log_filter(),
            format: choice(),
        }));
        SettingsTable {
            settings,
            free: vec![
                ("kafka.options", &mut kafka_options.all),
                ("kafka.producer", &mut kafka_options.producer),
                ("kafka.consumer", &mut kafka_options.consumer),
            ],
        }
    }

    /// Settings that contradict each other, with their keys.
    fn contradictions(&self) -> Vec<([&'static str; 2], Problem)> {
        let Config {
            server,
            events,
            notifications,
            ..
        } = self;
        let bytes = [
            // Otherwise no request could bring the largest event,
            (
                ["events.max_size", "server.max_body"],
                [events.max_size, server.max_body],
            ),
            // and the largest body would never be let in.
            (
                ["server.max_body", "server.max_buffered"],
                [server.max_body, server.max_buffered],
            ),
        ];
        // Otherwise a request that says nothing would ask for too much.
        let durations = [
            (
                ["server.default_wait", "server.max_wait"],
                [server.default_wait, server.max_wait],
            ),
            (
                ["notifications.retry_min", "notifications.retry_max"],
                [notifications.retry_min, notifications.retry_max],
            ),
        ];
        let bytes = bytes
            .iter()
            .filter_map(|(keys, values)| self.at_most(*keys, *values, show_bytes));
        let durations = durations.iter();
        let durations =
            durations.filter_map(|(keys, values)| self.at_most(*keys, *values, show_duration));
        bytes.chain(durations).collect()
    }

    fn at_most<T: PartialOrd + Copy>(
        &self,
        [low_key, high_key]: [&'static str; 2],
        [low, high]: [T; 2],
        show: fn(T) -> String,
    ) -> Option<([&'static str; 2], Problem)> {
        let source = |key| self.sources.get(key).unwrap_or(&SettingSource::Default);
        let problem = || Problem {
            source: source(low_key).clone(),
            key: Some(low_key.into()),
            value: Some(field::quoted(&show(low))),
            fault: format!(
                "is more than {high_key} = {} ({})",
                field::quoted(&show(high)),
                source(high_key),
            ),
            remedy: format!("lower it, or raise {high_key}"),
        };
        (low > high).then(|| ([low_key, high_key], problem()))
    }
}

#[cfg(test)]
mod tests;
