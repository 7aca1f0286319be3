//! Wires the parts together, and ends them in order. Everything that runs is started here;
//! `docs/internals.md` lists it, with what happens to it on an error and at the end.

use crate::clock;
use crate::config::Config;
use crate::data_folder::{self, DataFolder};
use crate::dead_letter;
use crate::domain::{Timestamp, Workers};
use crate::event_log::embedded::{self, Ahead, Embedded, Which};
use crate::event_log::kafka::{self, BadOptions, Kafka, NewTopics};
use crate::event_log::{EventLog, Limits, ReadError};
use crate::feed::documents::DocumentCache;
use crate::feed::progress::{LogState, Progress};
use crate::feed::publisher::Publisher;
use crate::feed::unsent::Unsent;
use crate::http::{self, front::Front};
use crate::metrics;
use crate::projector::halt::OpenError;
use crate::projector::log_position::LogPosition;
use crate::projector::projection::Keep;
use crate::projector::run::{self, Observer, Settings};
use crate::projector::step::Rules;
use crate::projector::writer::StoreWriter;
use crate::projector::{RecordBatch, Source, Tally};
use crate::rows::{self, meta};
use crate::store::rocks::{MemoryBudget, Rocks};
use crate::store::{self, Db};
use crate::webhook;
use crate::webhook::control_log::ControlLog;
use crate::wire::position::NextOffsets;
use crate::wire::time::TimeStyle;
use crate::worker::WorkerThread;
use metrics_exporter_prometheus::PrometheusHandle;
use std::future::Future;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Folder(#[from] data_folder::Error),
    #[error(transparent)]
    Store(#[from] store::Error),
    #[error(transparent)]
    Log(#[from] embedded::LogOpenError),
    #[error(transparent)]
    Kafka(#[from] BadOptions),
    #[error("cannot start a thread: {0}")]
    Thread(std::io::Error),
}

/// How long a reader waits for records. How soon it notices that it has to stop depends on it.
const PATIENCE: Duration = Duration::from_millis(200);

/// A ledger on its log, projecting.
pub struct Ledger {
    // In the order in which they must end.
    projector: WorkerThread,
    /// The thread that sends, and the one that reads the control log.
    webhooks: Vec<WorkerThread>,
    notifications: Arc<webhook::WebhookHandle>,
    forwarder: Option<WorkerThread>,
    log: Log,
    store: Arc<Rocks>,
    progress: Arc<Progress>,
    documents: Arc<DocumentCache>,
    config: Config,
    _folder: DataFolder,
}

/// The event log: a deployment has one.
#[derive(Clone)]
pub enum Log {
    Embedded(Arc<Embedded>),
    Kafka(Arc<Kafka>),
}

impl Log {
    /// The log that `config` names. Only the embedded one needs the folder.
    pub fn open(
        config: &Config,
        folder: Option<&DataFolder>,
        topics: Topics,
    ) -> Result<Log, Error> {
        Ok(match folder.filter(|_| !uses_kafka(config)) {
            Some(folder) if topics == Topics::MakeBeside && !folder.has_log() => {
                Err(folder.no_log())?
            }
            Some(folder) => {
                let ahead = match topics {
                    Topics::Leave => Ahead::Never,
                    Topics::Make | Topics::MakeBeside => Ahead::Beside,
                };
                let log = open_embedded(config, Which::Events, &folder.log(), ahead)?;
                Log::Embedded(Arc::new(log))
            }
            None => Log::Kafka(Arc::new(Kafka::open(kafka(config, topics))?)),
        })
    }

    /// By partition, the first offset whose record arrived at this time or later, or the end.
    pub fn offsets_at(&self, time: Timestamp) -> Result<NextOffsets, ReadError> {
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

/// Which topics may be created where they are missing, if the configuration allows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Topics {
    /// All, for a store that is new.
    Make,
    /// All but the topic of events, for a store that has events: it would be another log.
    MakeBeside,
    /// None, for a command that only reads or sends.
    Leave,
}

pub fn uses_kafka(config: &Config) -> bool {
    !config.kafka.bootstrap.is_empty()
}

pub fn kafka(config: &Config, topics: Topics) -> kafka::KafkaSettings {
    let (kafka, options) = (&config.kafka, &config.kafka_options);
    kafka::KafkaSettings {
        bootstrap: kafka.bootstrap.clone(),
        topic: kafka.topic.clone(),
        create: (topics != Topics::Leave && kafka.create_topics).then_some(NewTopics {
            partitions: kafka.partitions,
            replication: (kafka.replication > 0).then_some(kafka.replication),
        }),
        is_known: topics == Topics::MakeBeside,
        is_control: false,
        group: kafka.group.clone(),
        options: options.all.0.clone(),
        producer: options.producer.0.clone(),
        consumer: options.consumer.0.clone(),
        max_waiting: config.log.max_waiting,
        publish_timeout: config.log.publish_timeout,
        max_event: config.events.max_size,
        fetch_ahead: 2 * config.projector.batch_bytes,
    }
}

pub fn memory(config: &Config) -> MemoryBudget {
    MemoryBudget {
        block_cache: config.store.block_cache,
        write_buffers: config.store.write_buffers,
    }
}

/// The control log in a separate topic: few and small records.
fn kafka_control(config: &Config, is_known: bool) -> kafka::KafkaSettings {
    let settings = kafka(config, Topics::Make);
    kafka::KafkaSettings {
        topic: format!("{}.control", settings.topic),
        create: settings.create.map(|new| NewTopics {
            partitions: 1,
            ..new
        }),
        is_known,
        is_control: true,
        max_event: 1 << 20,
        fetch_ahead: 1 << 20,
        ..settings
    }
}

/// The control log, or why there is none: without it the ledger serves, and webhook deliveries
/// have halted.
fn open_control(
    config: &Config,
    folder: &DataFolder,
    store: &Rocks,
) -> Result<Result<Arc<dyn EventLog>, String>, Error> {
    let is_known = meta::knows_control_log(store)?;
    if uses_kafka(config) {
        let log = Kafka::open(kafka_control(config, is_known))?;
        return Ok(Ok(Arc::new(log)));
    }
    if is_known && !folder.has_control() {
        return Ok(Err(
            "the store belongs to a control log, but control/ of the data folder has none: stop the \
             ledger and restore it from a backup, or run `opledger rebuild`, which holds webhook \
             deliveries that may have been made"
                .into(),
        ));
    }
    let (which, folder) = (Which::Control, folder.control());
    match open_embedded(config, which, &folder, Ahead::Never) {
        Ok(log) => Ok(Ok(Arc::new(log))),
        // Only webhook deliveries need it.
        Err(error) => {
            let remedy = error.remedy().unwrap_or_default();
            tracing::error!(%error, %remedy, "the control log cannot be opened");
            Ok(Err(format!(
                "{error}; `opledger log check --control` says more"
            )))
        }
    }
}

/// Reports the projector's work to metrics and webhooks.
struct Watched {
    source: Source,
    webhooks: Arc<webhook::WebhookHandle>,
}

impl Observer for Watched {
    fn opened(&self, db: &dyn Db) -> store::Result<()> {
        match self.source {
            Source::Events => metrics::projector_opened(db),
            Source::Control => {
                self.webhooks.signal_released();
                Ok(())
            }
        }
    }

    fn read(&self, took: Duration) {
        if self.source == Source::Events {
            metrics::read(took);
        }
    }

    fn applied(&self, record_batch: &RecordBatch, tally: &Tally, took: Duration) {
        self.webhooks.signal_due(&tally.due);
        self.webhooks.signal_retried(&tally.retried);
        if tally.released_all {
            self.webhooks.signal_released();
        }
        if self.source == Source::Events {
            metrics::batch_applied(record_batch, tally, took);
        }
    }

    fn failed(&self, error: &store::Error) {
        metrics::store_failed(error);
    }
}

fn open_embedded(
    config: &Config,
    which: Which,
    folder: &Path,
    ahead: Ahead,
) -> Result<Embedded, embedded::LogOpenError> {
    let settings = embedded::EmbeddedSettings {
        which,
        ahead,
        partitions: match which {
            Which::Events => config.log.partitions,
            Which::Control => 1,
        },
        max_waiting: config.log.max_waiting,
        publish_timeout: config.log.publish_timeout,
    };
    Embedded::at(folder, settings, Arc::new(clock::now))
}

pub fn times(config: &Config) -> TimeStyle {
    TimeStyle {
        separator: config.document.time_separator.clone(),
        offset: config.document.time_offset,
    }
}

/// The rules by which records of the configured log are decoded.
pub fn rules(config: &Config) -> Rules {
    Rules {
        source: Source::Events,
        max_size: config.events.max_size as usize,
        clock_ahead: config.events.clock_ahead,
        forward_dead_letters: uses_kafka(config),
    }
}

pub fn projector(config: &Config) -> Settings {
    Settings {
        limits: Limits {
            records: config.projector.batch_records,
            bytes: config.projector.batch_bytes as usize,
            patience: PATIENCE,
        },
        batch_delay: config.projector.batch_delay,
        retry_max: config.projector.retry_max,
        rules: rules(config),
        check_every: uses_kafka(config).then_some(config.kafka.check_interval),
    }
}

/// The workers that fold the log of events.
pub fn workers(config: &Config) -> Workers {
    match config.projector.workers {
        0 => Workers::new(std::thread::available_parallelism().map_or(1, |cores| cores.get())),
        workers => Workers::new(workers),
    }
}

/// The writer of what the events change.
pub fn writer(config: &Config, db: Arc<dyn Db>) -> Arc<StoreWriter> {
    let keep = Keep {
        hot_bytes: config.projector.hot_cache,
        change_window: config.streams.window,
    };
    StoreWriter::new(db, workers(config), keep)
}

/// Few and small records, each waited for.
fn control_projector(config: &Config) -> Settings {
    Settings {
        limits: Limits {
            records: 10_000,
            bytes: 4 << 20,
            patience: PATIENCE,
        },
        rules: Rules::CONTROL,
        ..projector(config)
    }
}

/// The documents that everything in this process reads.
pub fn documents(config: &Config, progress: &Progress) -> Arc<DocumentCache> {
    let unsent = Unsent::new(config.server.max_unsent);
    let (capacity, watchers) = (config.store.document_cache, progress.watchers.clone());
    Arc::new(DocumentCache::new(
        times(config),
        capacity,
        unsent,
        watchers,
    ))
}

fn start_webhooks(
    config: &Config,
    folder: &DataFolder,
    writer: &Arc<StoreWriter>,
    store: &Arc<Rocks>,
    log: &Log,
    (progress, documents): (&Arc<Progress>, &Arc<DocumentCache>),
) -> Result<(Arc<webhook::WebhookHandle>, Vec<WorkerThread>), Error> {
    if config.notifications.allow.is_empty() {
        let idle = webhook::WebhookHandle::idle(store.clone(), None);
        return Ok((idle, Vec::new()));
    }
    let control = match open_control(config, folder, store)? {
        Ok(control) => control,
        Err(why) => {
            tracing::error!(%why, "webhook deliveries have halted");
            let idle = webhook::WebhookHandle::idle(store.clone(), Some(why));
            return Ok((idle, Vec::new()));
        }
    };
    let begins = match log {
        Log::Embedded(log) => log.readable().ok(),
        Log::Kafka(_) => None,
    };
    let handle = webhook::WebhookHandle::idle(store.clone(), Some("starting".into()));
    let publisher = Publisher {
        log: control.clone(),
        progress: Arc::new(Progress::new(None, Workers::ONE)),
    };
    let watched = Watched {
        source: Source::Control,
        webhooks: handle.clone(),
    };
    let projector = run::start(
        // What it writes, the workers of events do not write.
        StoreWriter::new(store.clone(), Workers::ONE, Keep::NOTHING),
        control,
        publisher.progress.clone(),
        Arc::new(watched),
        control_projector(config),
    )
    .map_err(Error::Thread)?;
    let parts = webhook::Parts {
        writer: writer.clone(),
        log: log.port(),
        begins,
        progress: progress.clone(),
        control: Arc::new(ControlLog::new(publisher, Arc::new(clock::now))),
        clock: Arc::new(clock::now),
        documents: documents.clone(),
        times: TimeStyle {
            separator: config.notifications.time_separator.clone(),
            ..times(config)
        },
        settings: config.notifications.clone(),
    };
    let webhooks = webhook::start(handle.clone(), parts).map_err(Error::Thread)?;
    Ok((handle, vec![webhooks, projector]))
}

/// Compares the embedded log with the store before anything is written to either. A new store
/// belongs to the first log that it meets.
fn compare(db: &dyn Db, log: &dyn EventLog) -> Result<(), OpenError> {
    if meta::is_new(db)? {
        return Ok(());
    }
    LogPosition::open(db, Source::Events, &log.identify()?)?.check(log)
}

impl Ledger {
    pub fn open(config: Config) -> Result<Ledger, Error> {
        let folder = DataFolder::open(&config.data)?;
        let store = Arc::new(rows::open(&folder.store(), memory(&config))?);
        // Read before the first request, whether or not the projector will run.
        let token = meta::token(&*store)?;
        let topics = match token {
            None => Topics::Make,
            Some(_) => Topics::MakeBeside,
        };
        let log = Log::open(&config, Some(&folder), topics)?;
        let progress = Arc::new(Progress::new(token, workers(&config)));
        if let Log::Embedded(log) = &log {
            // Nothing else writes to it, so it stays the same log: it accepts events as soon as
            // there is a listener, or none at all.
            match compare(&*store, &**log) {
                Ok(()) => progress.set_log(LogState::Confirmed),
                Err(OpenError::Halt(halt)) => {
                    progress.set_log(LogState::Halted(halt.for_clients()));
                }
                // The projector retries, and reports it.
                Err(OpenError::Store(error)) => tracing::warn!(%error, "the log is not compared"),
                Err(OpenError::Log(error)) => tracing::warn!(%error, "the log is not compared"),
            }
        }
        let settings = self::projector(&config);
        let documents = documents(&config, &progress);
        let shared = (&progress, &documents);
        let writer = self::writer(&config, store.clone());
        let (notifications, webhooks) =
            start_webhooks(&config, &folder, &writer, &store, &log, shared)?;
        let watched = Watched {
            source: Source::Events,
            webhooks: notifications.clone(),
        };
        let projector = run::start(
            writer.clone(),
            log.port(),
            progress.clone(),
            Arc::new(watched),
            settings,
        )
        .map_err(Error::Thread)?;
        let forwarder = match &log {
            Log::Embedded(_) => None,
            Log::Kafka(log) => Some(dead_letter::start(writer.clone(), log.clone())),
        };
        Ok(Ledger {
            projector,
            webhooks,
            notifications,
            forwarder: forwarder.transpose().map_err(Error::Thread)?,
            log,
            store,
            progress,
            documents,
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
        let app = http::App::new(
            self.store.clone(),
            self.log.port(),
            self.progress.clone(),
            self.notifications.clone(),
            self.documents.clone(),
            metrics,
            self.config.clone(),
        );
        let stopping = app.clone();
        let stop = async move {
            stop.await;
            stopping.stopping.send_replace(true);
        };
        let pulse = tokio::spawn(http::pulse::beat(app.clone()));
        http::server::serve(listener, Front::new(app), &server, stop).await;
        pulse.abort();
        tokio::task::spawn_blocking(move || self.close())
            .await
            .expect("closing does not panic");
    }

    fn close(self) {
        drop(self.projector);
        drop(self.webhooks);
        drop(self.forwarder);
        drop(self.log);
        // Makes the next start quicker. Nothing would be lost without it.
        if let Err(error) = self.store.flush() {
            tracing::warn!(%error, "the store was not flushed");
        }
    }
}
