//! Puts the parts together and takes them apart again. Everything that runs is
//! started here:
//!
//! | what | owner | on an error | at the end |
//! |---|---|---|---|
//! | HTTP server, a task a connection | `run` | the connection ends | 1. takes no more, a grace for the rest |
//! | projector, a thread | `Ledger` | tries again, or halts with a reason | 2. finishes its cut |
//! | log appender, a thread | `Embedded` | refuses until it can write | 3. writes what it accepted |
//! | store | `Ledger` | reopened by the projector | 4. flushed and closed |

use crate::config::Config;
use crate::data_folder::{self, DataFolder};
use crate::domain::Timestamp;
use crate::event_log::embedded::{self, Embedded};
use crate::event_log::{EventLog, Limits};
use crate::http;
use crate::metrics::ProjectorMetrics;
use crate::projector::meta;
use crate::projector::run::{Projector, Settings};
use crate::query::progress::Progress;
use crate::store::rocks::{Memory, Rocks};
use crate::store::{self, Db, Family};
use crate::wire::position::{Positions, Token};
use crate::wire::time::TimeStyle;
use metrics_exporter_prometheus::PrometheusHandle;
use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Folder(#[from] data_folder::Error),
    #[error(transparent)]
    Store(#[from] store::Error),
    #[error("no thread could be started: {0}")]
    Thread(std::io::Error),
}

/// How long the projector sleeps where nothing happens: only how soon it notices
/// that it shall stop depends on it.
const PATIENCE: Duration = Duration::from_millis(200);

/// A ledger on its embedded log, projecting.
pub struct Ledger {
    // In the order in which they must end.
    projector: Projector,
    log: Arc<Embedded>,
    store: Arc<Rocks>,
    progress: Arc<Progress>,
    config: Config,
    _folder: DataFolder,
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

pub fn open_log(config: &Config, folder: &DataFolder) -> store::Result<Embedded> {
    let db = Rocks::open(&folder.log(), Family::EMBEDDED_LOG, LOG_MEMORY)?;
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

/// The time of day, for arrivals.
fn wall_clock() -> Timestamp {
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
        let log = Arc::new(open_log(&config, &folder)?);
        let store = Arc::new(Rocks::open(
            &folder.store(),
            Family::LEDGER,
            memory(&config),
        )?);
        // Known before the first read, whether or not the projector will run.
        let nothing = Token {
            log: log.id(),
            positions: Positions::new(),
        };
        let progress = Arc::new(Progress::new(meta::held(&*store)?.unwrap_or(nothing)));
        let settings = Settings {
            limits: Limits {
                records: config.projector.cut_records,
                bytes: config.projector.cut_bytes as usize,
                patience: PATIENCE,
            },
            hot_bytes: config.projector.hot_cache,
            retry_max: config.projector.retry_max,
        };
        let projector = Projector::start(
            store.clone(),
            log.clone(),
            progress.clone(),
            Box::new(ProjectorMetrics),
            settings,
        )
        .map_err(Error::Thread)?;
        Ok(Ledger {
            projector,
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
            log: self.log.clone(),
            progress: self.progress.clone(),
            defects: Default::default(),
            times: times(&self.config),
            buffered: Arc::new(Semaphore::new((server.max_buffered / 1024) as usize)),
            streams: Arc::new(Semaphore::new(server.max_streams)),
            config: self.config.clone(),
            metrics,
        });
        http::server::serve(listener, http::router(app), &server, stop).await;
        tokio::task::spawn_blocking(move || self.close())
            .await
            .expect("closing does not panic");
    }

    fn close(self) {
        drop(self.projector);
        drop(self.log);
        // Only makes the next start quicker: the log has everything.
        if let Err(error) = self.store.flush() {
            tracing::warn!(%error, "the store was not flushed");
        }
    }
}
