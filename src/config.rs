//! The settings: their names, their defaults, and the one way to load them.
//!
//! Defaults, then the file, then the environment, then flags; the later one wins. All problems
//! are reported at once, and nothing starts with any. A `Config` is a plain value that `main`
//! passes on: no other code reads a file or a variable, and there is no global.
//!
//! A new setting is a line in `settings!` and a paragraph in `config.sample.toml`. A free-form
//! section, whose names and values belong to another program (`[kafka.options]`), is an `Options`
//! and a row in `free`.

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

/// Of the embedded log.
pub const MAX_PARTITIONS: u32 = 128;

/// The source of each setting that was given, by key.
pub type Sources = BTreeMap<String, SettingSource>;

const fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

const fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

/// Defines the sections, their defaults, and the table by which settings are read and shown.
/// A line is `name: Type = default, kind(range)`; `field.rs` has the kinds. The upper limits only
/// catch typing errors: they are not a recommendation.
macro_rules! settings {
    ($($Section:ident $section:ident {
        $($(#[$about:meta])* $name:ident: $Type:ty = $default:expr, $kind:ident($($range:expr)?);)+
    })+) => {
        $(
            #[derive(Debug, Clone, PartialEq)]
            pub struct $Section {
                $($(#[$about])* pub $name: $Type,)+
            }

            impl Default for $Section {
                fn default() -> $Section {
                    $Section { $($name: $default,)+ }
                }
            }
        )+

        #[derive(Debug, Clone, PartialEq)]
        pub struct Config {
            /// Folder of the embedded log and the store.
            pub data: PathBuf,
            $(pub $section: $Section,)+
            pub kafka_options: KafkaOptions,
            pub sources: Sources,
            /// Variables that begin like settings and are none.
            pub ignored: Vec<String>,
        }

        impl Default for Config {
            fn default() -> Config {
                Config {
                    data: "./opledger-data".into(),
                    $($section: Default::default(),)+
                    kafka_options: KafkaOptions::default(),
                    sources: Sources::new(),
                    ignored: Vec::new(),
                }
            }
        }

        impl Config {
            fn table(&mut self) -> SettingsTable<'_> {
                SettingsTable {
                    settings: vec![
                        ("data", field::folder(&mut self.data)),
                        $($((
                            concat!(stringify!($section), ".", stringify!($name)),
                            field::$kind(&mut self.$section.$name $(, $range)?),
                        ),)+)+
                    ],
                    free: vec![
                        ("kafka.options", &mut self.kafka_options.all),
                        ("kafka.producer", &mut self.kafka_options.producer),
                        ("kafka.consumer", &mut self.kafka_options.consumer),
                    ],
                }
            }
        }
    };
}

settings! {
    Server server {
        listen: SocketAddr = ([127, 0, 0, 1], 8470).into(), address();
        /// Names that requests may use in `Host`, in the form of [`crate::wire::host::normal`].
        hosts: Vec<String> = Vec::new(), host_names();
        max_connections: usize = 4096, count(1..=1_000_000);
        /// Size of a request body, in bytes.
        max_body: u64 = 32 * MIB, bytes(KIB..=4 * GIB);
        /// Size of a request's line and headers, in bytes.
        // Below 8 KiB, hyper panics.
        max_headers: u64 = 64 * KIB, bytes(8 * KIB..=16 * MIB);
        /// Total size of request bodies in memory, in bytes; beyond it: 429.
        max_buffered: u64 = 256 * MIB, bytes(KIB..=1024 * GIB);
        /// Total size of unread large responses, in bytes; beyond it: 503.
        max_unsent: u64 = 256 * MIB, bytes(MIB..=1024 * GIB);
        /// Time for the head of a request, and for the first request of a connection.
        header_timeout: Duration = secs(10), duration(ms(1)..=secs(3600));
        /// Time until the next request of a connection.
        idle_timeout: Duration = secs(75), duration(ms(1)..=secs(24 * 3600));
        body_timeout: Duration = secs(30), duration(ms(1)..=secs(3600));
        /// A stream is closed if its client reads nothing for this long.
        send_timeout: Duration = secs(30), duration(ms(1)..=secs(3600));
        shutdown_grace: Duration = secs(8), duration(secs(0)..=secs(3600));
        /// How long a read waits for a position by default.
        default_wait: Duration = secs(5), duration(secs(0)..=secs(3600));
        /// The longest wait that a request may ask for.
        max_wait: Duration = secs(60), duration(secs(0)..=secs(3600));
        /// Maximum number of list and history responses in progress.
        max_streams: usize = 32, count(1..=100_000);
        unknown_query: UnknownQuery = UnknownQuery::Reject, choice();
    }
    Events events {
        /// Size of an event, in bytes.
        max_size: u64 = 4 * MIB, bytes(KIB..=GIB);
        /// How far an event's time may be ahead of this machine's clock.
        clock_ahead: Duration = secs(24 * 3600), duration(secs(0)..=secs(366 * 24 * 3600));
    }
    Log log {
        /// An existing log may get more partitions, never fewer.
        // With more, a `Ledger-Position` would be longer than many proxies accept.
        partitions: u32 = 4, count(1..=MAX_PARTITIONS);
        /// Bytes that wait to be appended; beyond it: 429.
        max_waiting: u64 = 64 * MIB, bytes(KIB..=1024 * GIB);
        publish_timeout: Duration = secs(30), duration(ms(1)..=secs(3600));
    }
    Kafka kafka {
        /// `host:port`, several separated by commas; empty for the embedded log.
        bootstrap: String = String::new(), servers();
        topic: String = "opledger.events".into(), topic_name();
        /// Creates missing topics for a new store.
        create_topics: bool = false, switch();
        /// Partitions of topics that are created.
        partitions: u32 = 6, count(1..=1024);
        /// Replication factor of topics that are created; 0: the cluster's default.
        replication: u16 = 0, count(0..=100);
        /// The consumer group that lag tools watch.
        group: String = "opledger".into(), name();
        /// How often the topic is compared with the applied positions.
        check_interval: Duration = secs(5), duration(ms(100)..=secs(3600));
    }
    Projector projector {
        /// Threads that fold and write; zero for as many as there are cores.
        workers: usize = 1, count(0..=64);
        /// Maximum number of records in a batch.
        batch_records: usize = 20_000, count(1..=1_000_000);
        /// Maximum size of a batch in bytes, unless one record is larger.
        batch_bytes: u64 = 4 * MIB, bytes(KIB..=4 * GIB);
        /// The longest pause after a smaller batch; zero for none.
        batch_delay: Duration = ms(50), duration(secs(0)..=secs(1));
        /// Size of the cache of snapshots, as they are stored, in bytes.
        hot_cache: u64 = 16 * MIB, bytes(0..=1024 * GIB);
        /// Longest pause between two retries while the store cannot be written.
        retry_max: Duration = secs(10), duration(ms(1)..=secs(3600));
        /// In records; above it the ledger is not ready.
        max_lag: u64 = 100_000, count(1..=1_000_000_000_000);
    }
    Store store {
        /// Bytes.
        block_cache: u64 = 48 * MIB, bytes(MIB..=1024 * GIB);
        /// Bytes.
        // To RocksDB, zero means unlimited.
        write_buffers: u64 = 64 * MIB, bytes(MIB..=1024 * GIB);
        /// Size of the cache of rendered documents and of their rows, in bytes.
        document_cache: u64 = 16 * MIB, bytes(0..=1024 * GIB);
    }
    Lists lists {
        /// Maximum number of read points for the pages of lists.
        points: usize = 256, count(1..=10_000);
        /// At the maximum, lists that begin within this time share a read point.
        share: Duration = secs(2), duration(secs(0)..=secs(3600));
        /// An unused read point expires after this time.
        idle: Duration = secs(60), duration(ms(1)..=secs(24 * 3600));
        /// Any read point expires at this age.
        max_age: Duration = secs(15 * 60), duration(ms(1)..=secs(24 * 3600));
    }
    Streams streams {
        /// Maximum number of event streams; beyond it: 429.
        max: usize = 20_000, count(1..=1_000_000);
        /// How often an idle stream sends a comment to show that it is alive.
        keep_alive: Duration = secs(15), duration(ms(10)..=secs(3600));
        /// Number of changes after which a stream can still resume.
        window: u64 = 200_000, count(0..=1_000_000_000);
    }
    Document document {
        /// Between date and time of day: at most one character, which needs no JSON escape.
        time_separator: String = " ".into(), separator();
        /// Seconds east of UTC.
        time_offset: i32 = 0, utc_offset();
    }
    Notifications notifications {
        /// Networks that webhooks may call; if there are none, nothing is sent.
        allow: Vec<IpNet> = Vec::new(), networks();
        /// The separator of `document`, in documents for webhook receivers.
        time_separator: String = " ".into(), separator();
        /// For one attempt, from resolving the name to the end of the response.
        timeout: Duration = secs(10), duration(ms(1)..=secs(3600));
        /// The pause after the first failure; it doubles after each attempt.
        retry_min: Duration = secs(1), duration(ms(1)..=secs(24 * 3600));
        retry_max: Duration = secs(3600), duration(ms(1)..=secs(24 * 3600));
        /// Since the first attempt; then the delivery has failed permanently, until somebody
        /// retries it.
        give_up_after: Duration = secs(7 * 24 * 3600), duration(ms(1)..=secs(366 * 24 * 3600));
        /// Attempts in flight to one address and port.
        per_target: usize = 4, count(1..=1000);
        /// Attempts in flight in all.
        in_flight: usize = 128, count(1..=10_000);
    }
    Telemetry telemetry {
        /// A filter directive of `tracing`.
        log: String = "info".into(), log_filter();
        format: LogFormat = LogFormat::Text, choice();
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd)]
pub enum UnknownQuery {
    Reject,
    Ignore,
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

/// Options of librdkafka.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct KafkaOptions {
    pub all: Options,
    pub producer: Options,
    pub consumer: Options,
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

    /// Settings that contradict each other, with their keys.
    fn contradictions(&self) -> Vec<([&'static str; 2], Problem)> {
        let (events, server, notifications) = (&self.events, &self.server, &self.notifications);
        let bytes = |keys, values| self.at_most(keys, values, show_bytes);
        let durations = |keys, values| self.at_most(keys, values, show_duration);
        let all = [
            // Otherwise no request could contain the largest event,
            bytes(
                ["events.max_size", "server.max_body"],
                [events.max_size, server.max_body],
            ),
            // and the largest body would always be refused.
            bytes(
                ["server.max_body", "server.max_buffered"],
                [server.max_body, server.max_buffered],
            ),
            // Otherwise a request without a preference would ask for too much.
            durations(
                ["server.default_wait", "server.max_wait"],
                [server.default_wait, server.max_wait],
            ),
            durations(
                ["notifications.retry_min", "notifications.retry_max"],
                [notifications.retry_min, notifications.retry_max],
            ),
        ];
        all.into_iter().flatten().collect()
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
