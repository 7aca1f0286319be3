//! Puts the parts together and takes them apart again. Everything that runs is
//! started here:
//!
//! | what | owner | on an error | at the end |
//! |---|---|---|---|
//! | HTTP server, a task a connection | `run` | the connection ends | 1. takes no more, a grace for the rest |
//! | pulse: a task that notes the projector's pace | `Ledger::serve` | leaves a moment out | with the server |
//! | projector with its intake and watchdog, a thread each | `Ledger` | tries again, or halts with a reason | 2. finishes its cut |
//! | forwarder of dead letters, a thread | `Ledger` | tries again | 3. finishes its letter |
//! | log: appender of the embedded one; checks and librdkafka's threads of Kafka's | `Log` | refuses until it can write | 4. writes what it accepted |
//! | store | `Ledger` | reopened by the projector | 5. flushed and closed |

use crate::config::Config;
use crate::data_folder::{self, DataFolder};
use crate::dead_letter::Forwarder;
use crate::domain::Timestamp;
use crate::event_log::embedded::{self, Embedded};
use crate::event_log::kafka::{self, BadOptions, Kafka, NewTopics};
use crate::event_log::{EventLog, Limits, ReadError};
use crate::http;
use crate::metrics::ProjectorMetrics;
use crate::projector::meta;
use crate::projector::run::{Projector, Settings};
use crate::projector::step::Rules;
use crate::query::progress::Progress;
use crate::query::sweeps::{self, Sweeps};
use crate::store::rocks::{Memory, Rocks};
use crate::store::{self, Db, Family};
use crate::wire::time::TimeStyle;
use metrics_exporter_prometheus::PrometheusHandle;
use std::collections::BTreeMap;
use std::future::Future;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Folder(#[from] data_folder::Error),
    #[error(transparent)]
    Store(#[from] store::Error),
    #[error(transparent)]
    Kafka(#[from] BadOptions),
    #[error("no thread could be started: {0}")]
    Thread(std::io::Error),
}

/// How long the projector sleeps where nothing happens: only how soon it notices
/// that it shall stop depends on it.
const PATIENCE: Duration = Duration::from_millis(200);

/// A ledger on its log, projecting.
pub struct Ledger {
    // In the order in which they must end.
    projector: Projector,
    forwarder: Option<Forwarder>,
    log: Log,
    store: Arc<Rocks>,
    progress: Arc<Progress>,
    config: Config,
    _folder: DataFolder,
}

/// The log of a deployment: there is one.
#[derive(Clone)]
pub enum Log {
    Embedded(Arc<Embedded>),
    Kafka(Arc<Kafka>),
}

impl Log {
    /// What `config` names; only the embedded one needs the folder.
    pub fn open(
        config: &Config,
        folder: Option<&DataFolder>,
        topics: Topics,
    ) -> Result<Log, Error> {
        Ok(match folder.filter(|_| !uses_kafka(config)) {
            Some(folder) if topics == Topics::MakeBeside && !folder.has_log() => {
                Err(folder.no_log())?
            }
            Some(folder) => Log::Embedded(Arc::new(open_embedded(config, &folder.log())?)),
            None => Log::Kafka(Arc::new(Kafka::open(kafka(config, topics))?)),
        })
    }

    /// By partition, the first offset whose record arrived at this time or later; the
    /// end, where there is none.
    pub fn offsets_at(&self, time: Timestamp) -> Result<BTreeMap<u32, u64>, ReadError> {
        match self {
            Log::Kafka(log) => log.offsets_at(time.as_millis()),
            Log::Embedded(log) => log.offsets_at(time),
        }
    }

    pub fn port(&self) -> Arc<dyn EventLog> {
        match self {
            Log::Embedded(log) => log.clone(),
            Log::Kafka(log) => log.clone(),
        }
    }
}

/// What may be made on a cluster where it is missing, if the configuration wants it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Topics {
    /// All, for a store that is new.
    Make,
    /// Not the events' topic, for a store that has events: it would be another log.
    MakeBeside,
    /// Nothing, for a command that only looks or sends.
    Leave,
}

pub fn uses_kafka(config: &Config) -> bool {
    !config.kafka.bootstrap.is_empty()
}

pub fn kafka(config: &Config, topics: Topics) -> kafka::Settings {
    let (kafka, options) = (&config.kafka, &config.kafka_options);
    kafka::Settings {
        bootstrap: kafka.bootstrap.clone(),
        topic: kafka.topic.clone(),
        create: (topics != Topics::Leave && kafka.create_topics).then_some(NewTopics {
            partitions: kafka.partitions,
            replication: (kafka.replication > 0).then_some(kafka.replication),
        }),
        is_known: topics == Topics::MakeBeside,
        group: kafka.group.clone(),
        options: options.all.0.clone(),
        producer: options.producer.0.clone(),
        consumer: options.consumer.0.clone(),
        max_waiting: config.log.max_waiting,
        publish_timeout: config.log.publish_timeout,
        max_event: config.events.max_size,
        fetch_ahead: 2 * config.projector.cut_bytes,
    }
}

pub fn memory(config: &Config) -> Memory {
    Memory {
        block_cache: config.store.block_cache,
        write_buffers: config.store.write_buffers,
    }
}

/// The log's database needs little: it is written once and read in order.
pub const LOG_MEMORY: Memory = Memory {
    block_cache: 8 << 20,
    write_buffers: 32 << 20,
};

fn open_embedded(config: &Config, path: &Path) -> store::Result<Embedded> {
    let db = Rocks::open(path, Family::EMBEDDED_LOG, LOG_MEMORY)?;
    let settings = embedded::Settings {
        partitions: config.log.partitions,
        max_waiting: config.log.max_waiting,
        publish_timeout: config.log.publish_timeout,
    };
    Embedded::open(Arc::new(db), settings, Arc::new(wall_clock))
}

pub fn times(config: &Config) -> TimeStyle {
    TimeStyle {
        separator: config.document.time_separator.clone(),
        offset: config.document.time_offset,
    }
}

/// What records of the configured log are judged by.
pub fn rules(config: &Config) -> Rules {
    Rules {
        max_size: config.events.max_size as usize,
        clock_ahead: config.events.clock_ahead,
        forward_dead_letters: uses_kafka(config),
    }
}

fn sweeps(config: &Config) -> sweeps::Settings {
    let lists = &config.lists;
    sweeps::Settings {
        max: lists.points,
        share: lists.share,
        idle: lists.idle,
        max_age: lists.max_age,
    }
}

/// The time of day.
pub fn wall_clock() -> Timestamp {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    Timestamp {
        secs: since.as_secs() as i64,
        nanos: since.subsec_nanos(),
    }
}

impl Ledger {
    pub fn open(config: Config) -> Result<Ledger, Error> {
        let folder = DataFolder::open(&config.data)?;
        let store = Arc::new(Rocks::open(
            &folder.store(),
            Family::LEDGER,
            memory(&config),
        )?);
        // Known before the first read, whether or not the projector will run.
        let held = meta::held(&*store)?;
        let topics = match held {
            None => Topics::Make,
            Some(_) => Topics::MakeBeside,
        };
        let log = Log::open(&config, Some(&folder), topics)?;
        let progress = Arc::new(Progress::new(held));
        let settings = Settings {
            limits: Limits {
                records: config.projector.cut_records,
                bytes: config.projector.cut_bytes as usize,
                patience: PATIENCE,
            },
            hot_bytes: config.projector.hot_cache,
            retry_max: config.projector.retry_max,
            rules: rules(&config),
            change_window: config.streams.window,
            check_every: uses_kafka(&config).then_some(config.kafka.check_interval),
        };
        let projector = Projector::start(
            store.clone(),
            log.port(),
            progress.clone(),
            Box::new(ProjectorMetrics),
            settings,
        )
        .map_err(Error::Thread)?;
        let forwarder = match &log {
            Log::Embedded(_) => None,
            Log::Kafka(log) => Some(Forwarder::start(store.clone(), log.clone())),
        };
        Ok(Ledger {
            projector,
            forwarder: forwarder.transpose().map_err(Error::Thread)?,
            log,
            store,
            progress,
            config,
            _folder: folder,
        })
    }

    /// Serves until `stop` is ready, then ends part by part.
    pub async fn serve(
        self,
        listener: TcpListener,
        metrics: PrometheusHandle,
        stop: impl Future<Output = ()>,
    ) {
        let server = self.config.server.clone();
        let app = Arc::new(http::App {
            db: self.store.clone() as Arc<dyn Db>,
            log: self.log.port(),
            progress: self.progress.clone(),
            defects: Default::default(),
            times: times(&self.config),
            buffered: Arc::new(Semaphore::new((server.max_buffered / 1024) as usize)),
            streams: Arc::new(Semaphore::new(server.max_streams)),
            sweeps: Sweeps::new(sweeps(&self.config)),
            event_streams: Arc::new(Semaphore::new(self.config.streams.max)),
            watching_all: Default::default(),
            stopping: Default::default(),
            pulse: Default::default(),
            config: self.config.clone(),
            metrics,
        });
        let told = app.clone();
        let stop = async move {
            stop.await;
            told.stopping.send_replace(true);
        };
        let pulse = tokio::spawn(http::pulse::beat(app.clone()));
        let lists = app.clone();
        // So that points end without anyone who asks for a list.
        let expiring = tokio::spawn(async move {
            loop {
                tokio::time::sleep(Duration::from_secs(1)).await;
                lists.sweeps.expire(Instant::now());
            }
        });
        http::server::serve(listener, http::router(app), &server, stop).await;
        expiring.abort();
        pulse.abort();
        tokio::task::spawn_blocking(move || self.close())
            .await
            .expect("closing does not panic");
    }

    fn close(self) {
        drop(self.projector);
        drop(self.forwarder);
        drop(self.log);
        // Only makes the next start quicker: the log has everything.
        if let Err(error) = self.store.flush() {
            tracing::warn!(%error, "the store was not flushed");
        }
    }
}
