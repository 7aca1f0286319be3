//! The projector's loop, on a thread for each log: takes a batch, applies it until that works,
//! publishes the position, and so on until it is stopped or finds a reason to halt.

use super::halt::{Halt, OpenError};
use super::intake::{Intake, ReadAhead};
use super::log_position::LogPosition;
use super::projection::Tally;
use super::record_batch::RecordBatch;
use super::step::Rules;
use super::watchdog::Watchdog;
use super::writer::StoreWriter;
use crate::event_log::{EventLog, Limits, Share};
use crate::feed::progress::{Doing, LogState, Progress, WrittenChange};
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

/// How long the two halves of the work on a batch took.
#[derive(Debug, Clone, Copy)]
pub struct Took {
    /// Getting the records, the wait for the first one included.
    pub read: Duration,
    /// Folding and writing them.
    pub apply: Duration,
}

/// Is notified after each write, in addition to the published position. `app` implements it.
pub trait Observer: Send {
    /// The log was opened, again perhaps: a write that was reported as failed may have happened.
    fn opened(&mut self, db: &dyn Db) -> store::Result<()>;
    /// The batch is written, and its position can be waited for.
    fn applied(&mut self, record_batch: &RecordBatch, tally: &Tally, took: Took);
    fn failed(&mut self, error: &store::Error);
}

/// Dropping the thread lets it finish the batch that it works on.
pub fn start(
    writer: Arc<StoreWriter>,
    log: Arc<dyn EventLog>,
    progress: Arc<Progress>,
    watch: Box<dyn Observer>,
    settings: Settings,
) -> std::io::Result<WorkerThread> {
    WorkerThread::start(settings.rules.source.threads()[0], move |stop| {
        let _report = ReportPanic(progress.clone());
        let mut worker = Worker {
            writer,
            log,
            progress,
            watch,
            settings,
            stop,
        };
        let mut position = None;
        match worker.run(&mut position) {
            Ok(()) => worker.progress.set_doing(Doing::Stopped),
            Err(halt) => worker.halt(&halt, position.as_ref()),
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

struct Worker<'s> {
    writer: Arc<StoreWriter>,
    log: Arc<dyn EventLog>,
    progress: Arc<Progress>,
    watch: Box<dyn Observer>,
    settings: Settings,
    stop: &'s Stop,
}

/// The longest pause between two attempts to reach the log.
const LOG_PAUSE: Duration = Duration::from_secs(1);

/// Between two checks of a log that seems to be another one.
const CHECK_AGAIN: Duration = Duration::from_millis(700);

impl Worker<'_> {
    fn run(&mut self, position: &mut Option<LogPosition>) -> Result<(), Halt> {
        let mut pauses = self.pauses();
        while !self.stop.is_asked() {
            let outcome = match position {
                None => self.open().map(|opened| *position = Some(opened)),
                Some(position) => self.follow(position, &mut pauses),
            };
            match outcome {
                Ok(()) => {}
                Err(OpenError::Halt(halt)) => return Err(halt),
                Err(OpenError::Store(error)) => self.wait_for_store(error, &mut pauses)?,
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

    fn open(&mut self) -> Result<LogPosition, OpenError> {
        let log = self.log.identify()?;
        let source = self.settings.rules.source;
        self.writer.with(|db, projection| {
            let position = projection.open_log(db, source, &log)?.clone();
            self.progress.set_counts(projection.statuses());
            Ok(position)
        })
    }

    /// Reads from the store's position and applies the records, until stopped or until an error.
    /// After any error, neither the position of the reader nor the identity of the log is known.
    fn follow(&mut self, position: &mut LogPosition, pauses: &mut Pauses) -> Result<(), OpenError> {
        self.check(position)?;
        let bounds = self.log.bounds()?;
        let Settings {
            limits,
            batch_delay,
            rules,
            ..
        } = self.settings;
        let next_change;
        (*position, next_change) = self.writer.with(|db, projection| {
            let position = projection.note_beginnings(db, rules.source, &bounds)?;
            Ok::<_, store::Error>((position.clone(), projection.next_change()))
        })?;
        self.watch.opened(self.writer.db())?;
        let log = position.log().id;
        let reader = self.log.reader(log, position.next(), Share::ALL)?;
        let no_thread = |error| OpenError::Log(format!("no thread to read it: {error}"));
        let intake = Intake::start(reader, limits, rules, batch_delay).map_err(no_thread)?;
        let [_, _, name] = rules.source.threads();
        let watchdog = Watchdog::start(&self.log, position, name, self.settings.check_every);
        let watchdog = watchdog.map_err(no_thread)?;
        let now = (position.token(), position.next().clone());
        self.progress.begin(next_change, vec![now]);
        self.note_applied(position, &watchdog);
        self.progress.set_doing(Doing::Running);
        while !self.stop.is_asked() {
            if let Some(halt) = watchdog.halt() {
                // The log is checked once more before the projector halts.
                self.progress.set_log(LogState::Suspect(halt.for_clients()));
                return Ok(());
            }
            if self.progress.take_suspicion() {
                return Ok(());
            }
            let waiting = Instant::now();
            let ahead = intake.next(limits.patience)?;
            let waited = waiting.elapsed();
            let Some(mut ahead) = ahead else {
                self.progress.note_effort(0, Duration::ZERO, waited);
                continue;
            };
            *pauses = self.pauses();
            let working = Instant::now();
            if let Some(mut tally) = self.apply(position, &mut ahead)? {
                let took = Took {
                    read: ahead.took,
                    apply: working.elapsed(),
                };
                let published = tally.change.take().map(|change| WrittenChange {
                    change,
                    entries: std::mem::take(&mut tally.entries),
                });
                let (token, next) = (position.token(), position.next());
                self.progress.publish(0, token, next, published);
                self.note_applied(position, &watchdog);
                self.watch.applied(&ahead.record_batch, &tally, took);
            }
            intake.give_back(ahead);
            self.progress.note_effort(0, working.elapsed(), waited);
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
    fn halt(&self, halt: &Halt, position: Option<&LogPosition>) {
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
        let (Some(position), Some(every)) = (position, self.settings.check_every) else {
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

    fn note_applied(&self, position: &LogPosition, watchdog: &Watchdog) {
        watchdog.applied(position);
        self.log.note_applied(&position.positions().next());
    }

    /// Retries until the batch is written; `None` if stopped meanwhile.
    fn apply(
        &mut self,
        position: &mut LogPosition,
        ahead: &mut ReadAhead,
    ) -> Result<Option<Tally>, OpenError> {
        let mut pauses = self.pauses();
        while !self.stop.is_asked() {
            let (writer, progress) = (&self.writer, &self.progress);
            match try_apply(writer, progress, position, ahead) {
                Ok(tally) => {
                    self.progress.set_doing(Doing::Running);
                    return Ok(Some(tally));
                }
                Err(OpenError::Store(error)) => self.wait_for_store(error, &mut pauses)?,
                Err(other @ (OpenError::Halt(_) | OpenError::Log(_))) => return Err(other),
            }
        }
        Ok(None)
    }

    /// Waits, and opens the store again: RocksDB takes no write after a failed one.
    fn wait_for_store(&mut self, error: store::Error, pauses: &mut Pauses) -> Result<(), Halt> {
        if error.is_unreadable() {
            return Err(Halt::Store(error));
        }
        tracing::warn!(%error, "the store cannot be written; retrying");
        self.watch.failed(&error);
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

/// Folds while the identity of the log is checked, and writes only after that check succeeded.
fn try_apply(
    writer: &StoreWriter,
    progress: &Progress,
    position: &mut LogPosition,
    ahead: &mut ReadAhead,
) -> Result<Tally, OpenError> {
    writer.with(|db, projection| {
        let folding = Instant::now();
        let prepared = projection.prepare(db, &mut ahead.record_batch)?;
        ahead.work += folding.elapsed();
        if let Some(confirmation) = ahead.confirmation.take() {
            confirmation.wait()?;
        }
        let writing = Instant::now();
        let tally = projection.commit(db, &ahead.record_batch, prepared)?;
        ahead.work += writing.elapsed();
        position.clone_from(projection.at(ahead.record_batch.rules().source));
        progress.set_counts(projection.statuses());
        Ok(tally)
    })
}
