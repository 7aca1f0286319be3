//! Follows a log until it is stopped or finds a reason to halt: opens the store's position, compares
//! it with the log, starts the threads that read and write (`pipeline`), and after any error starts
//! all of that again.

use super::halt::{Halt, OpenError};
use super::log_position::LogPosition;
use super::pipeline::{Pipeline, Report};
use super::projection::Tally;
use super::record_batch::RecordBatch;
use super::step::Rules;
use super::watchdog::Watchdog;
use super::writer::StoreWriter;
use crate::event_log::{EventLog, Limits};
use crate::feed::progress::{Doing, LogState, Progress};
use crate::store::{self, Db};
use crate::worker::{Pauses, Stop, WorkerThread};
use std::sync::Arc;
use std::time::{Duration, Instant};

#[derive(Debug, Clone, Copy)]
pub struct Settings {
    pub limits: Limits,
    /// The longest rest between two batches.
    pub batch_delay: Duration,
    /// The longest pause between two attempts while the log or the store fails.
    pub retry_max: Duration,
    pub rules: Rules,
    /// How often the log is compared with the applied positions while nothing is wrong;
    /// `None` for a log that nobody else can change.
    pub check_every: Option<Duration>,
}

/// Is notified by the threads that read and write, in addition to the published position. `app`
/// implements it.
pub trait Observer: Send + Sync {
    /// The log was opened, again perhaps: a write that was reported as failed may have happened.
    fn opened(&self, db: &dyn Db) -> store::Result<()>;
    /// Records were read, which took so long, the wait for the first one included.
    fn read(&self, _took: Duration) {}
    /// A worker has written its batch, which took so long, and its position can be waited for.
    fn applied(&self, record_batch: &RecordBatch, tally: &Tally, took: Duration);
    fn failed(&self, error: &store::Error);
}

/// Dropping the thread lets every worker finish the batch that it works on.
pub fn start(
    writer: Arc<StoreWriter>,
    log: Arc<dyn EventLog>,
    progress: Arc<Progress>,
    observer: Arc<dyn Observer>,
    settings: Settings,
) -> std::io::Result<WorkerThread> {
    WorkerThread::start(settings.rules.source.projector(), move |stop| {
        let _report = ReportPanic(progress.clone());
        let mut projector = Projector {
            writer,
            log,
            progress,
            observer,
            settings,
            stop,
            position: None,
            store_failed: false,
        };
        match projector.run() {
            Ok(()) => projector.progress.set_doing(Doing::Stopped),
            Err(halt) => projector.halt(&halt),
        }
    })
}

/// A panic is a bug and is not caught: the thread ends, and readiness says so.
struct ReportPanic(Arc<Progress>);

impl Drop for ReportPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            // Nobody compares the log any more.
            let why = "the projector has halted, see /readyz";
            self.0.set_log(LogState::Halted(why.into()));
            self.0.set_doing(Doing::Halted(
                "it panicked, which is a bug; the log has more".into(),
            ));
        }
    }
}

struct Projector<'s> {
    writer: Arc<StoreWriter>,
    log: Arc<dyn EventLog>,
    progress: Arc<Progress>,
    observer: Arc<dyn Observer>,
    settings: Settings,
    stop: &'s Stop,
    /// Where the store was when it was opened last.
    position: Option<LogPosition>,
    store_failed: bool,
}

/// The longest pause between two attempts to reach the log.
const LOG_PAUSE: Duration = Duration::from_secs(1);

/// Between two checks of a log that seems to be another one.
const CHECK_AGAIN: Duration = Duration::from_millis(700);

/// The store can be written again if no write fails for this long.
const SETTLED: Duration = Duration::from_secs(1);

impl Projector<'_> {
    fn run(&mut self) -> Result<(), Halt> {
        let mut pauses = self.pauses();
        while !self.stop.is_asked() {
            match self.follow(&mut pauses) {
                Ok(()) => {}
                Err(OpenError::Halt(halt)) => return Err(halt),
                Err(OpenError::Store(error)) => self.wait_for_store(&error, &mut pauses)?,
                Err(OpenError::Log(why)) => {
                    let why = format!("{} cannot be read: {why}", self.settings.rules.source);
                    tracing::warn!("{why}; retrying");
                    self.progress.log_failed();
                    self.progress.set_doing(Doing::Waiting(why));
                    // Asking costs little, and an outage ends when it ends.
                    self.stop.sleep(pauses.next_pause().min(LOG_PAUSE));
                }
            }
        }
        Ok(())
    }

    /// Reads from the store's position and applies the records, until stopped or until an error.
    /// After any error, neither the position of a reader nor the identity of the log is known, and
    /// a write may have happened: all of it starts again from the store.
    fn follow(&mut self, pauses: &mut Pauses) -> Result<(), OpenError> {
        let (source, log) = (self.settings.rules.source, self.log.identify()?);
        let opened = self.writer.open(source, &log)?;
        self.position = Some(opened.clone());
        self.check(&opened)?;
        self.position = Some(self.writer.note_beginnings(&self.log.bounds()?)?);
        self.observer.opened(self.writer.db())?;
        let every = self.settings.check_every;
        let watchdog = Watchdog::start(&self.log, &self.writer, source.watchdog(), every);
        let watchdog = watchdog.map_err(|error| OpenError::Log(error.to_string()))?;
        let Projector {
            writer,
            progress,
            observer,
            log,
            ..
        } = self;
        let mut pipeline = Pipeline::start(writer, progress, observer, log, self.settings)?;
        let started = Instant::now();
        while !self.stop.is_asked() {
            // After a failed write it has to be seen that one works.
            self.store_failed &= started.elapsed() < SETTLED;
            if !self.store_failed {
                self.progress.set_doing(Doing::Running);
            }
            if let Some(halt) = watchdog.halt() {
                // The log is checked once more before the projector halts.
                self.progress.set_log(LogState::Suspect(halt.for_clients()));
                return Ok(());
            }
            if self.progress.take_suspicion() {
                return Ok(());
            }
            match pipeline.next(self.settings.limits.patience)? {
                Some(Report::Failed(error)) => return Err(error),
                // All workers read together again.
                Some(Report::CaughtUp(_)) => return Ok(()),
                Some(Report::Applied) => {
                    *pauses = self.pauses();
                    self.store_failed = false;
                }
                Some(Report::HeldUp(_) | Report::Panicked) | None => {}
            }
            if let Some(token) = &self.progress.applied().token {
                self.log.note_applied(&token.positions.next());
            }
        }
        Ok(())
    }

    /// Halts only if several checks, a moment apart, all find another log: in a cluster a broker
    /// may have older metadata than the others.
    fn check(&self, position: &LogPosition) -> Result<(), OpenError> {
        let attempts = if self.settings.check_every.is_some() {
            3
        } else {
            1
        };
        for attempt in 1..=attempts {
            match position.check(&*self.log) {
                Err(OpenError::Halt(halt)) if attempt < attempts && !self.stop.is_asked() => {
                    tracing::warn!(reason = %halt, "checking the log once more");
                    self.progress.set_log(LogState::Suspect(halt.for_clients()));
                    self.stop.sleep(CHECK_AGAIN);
                }
                outcome => return outcome,
            }
        }
        Ok(())
    }

    /// Stops permanently. A halt because of the store alone says nothing about a log that was
    /// confirmed: the log still accepts events, and is still compared.
    fn halt(&self, halt: &Halt) {
        let source = self.settings.rules.source;
        tracing::error!(reason = %halt, "the projector of {source} has halted");
        let was_confirmed = match self.progress.applied().log {
            LogState::Confirmed | LogState::Unreachable => true,
            LogState::Unknown | LogState::Suspect(_) | LogState::Halted(_) => false,
        };
        if halt.is_about_the_log() || !was_confirmed {
            self.progress.set_log(LogState::Halted(halt.for_clients()));
        }
        self.progress.set_doing(Doing::Halted(halt.to_string()));
        let (Some(position), Some(every)) = (&self.position, self.settings.check_every) else {
            return;
        };
        while !matches!(self.progress.applied().log, LogState::Halted(_)) {
            self.stop.sleep(every);
            if self.stop.is_asked() {
                return;
            }
            match self.check(position) {
                Ok(()) => self.progress.set_log(LogState::Confirmed),
                Err(OpenError::Halt(halt)) => {
                    self.progress.set_log(LogState::Halted(halt.for_clients()));
                }
                Err(OpenError::Log(_)) => self.progress.log_failed(),
                Err(OpenError::Store(error)) => tracing::debug!(%error, "not checked"),
            }
        }
    }

    /// Waits, and opens the store again: RocksDB takes no write after a failed one.
    fn wait_for_store(&mut self, error: &store::Error, pauses: &mut Pauses) -> Result<(), Halt> {
        if error.is_unreadable() {
            return Err(Halt::Store(error.clone()));
        }
        tracing::warn!(%error, "the store cannot be written; retrying");
        self.observer.failed(error);
        self.store_failed = true;
        self.progress.set_doing(Doing::Waiting(error.to_string()));
        self.stop.sleep(pauses.next_pause());
        // While the disk is full, reads should continue.
        let db = self.writer.db();
        let full = db
            .space()
            .is_some_and(|space| space.free < space.total / 50);
        if !full && let Err(error) = db.reopen() {
            if error.is_unreadable() {
                return Err(Halt::Store(error));
            }
            tracing::warn!(%error, "the store could not be opened again");
        }
        Ok(())
    }

    fn pauses(&self) -> Pauses {
        Pauses::new(Duration::from_millis(50), self.settings.retry_max)
    }
}
