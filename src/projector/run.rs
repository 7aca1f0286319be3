//! The projector's thread: reads a cut, applies it until that works, publishes
//! the position, and so on until it is told to stop or finds a reason to halt.
//!
//! Backpressure is not reading on: no more than one cut is in memory, whatever
//! the lag.

use super::cut::{Projection, Tally, count_anomalies};
use super::halt::{Halt, OpenError};
use super::meta;
use crate::event_log::{EventLog, Limits, Logged, ReadError};
use crate::query::progress::{Doing, Progress};
use crate::store::{self, Db};
use crate::wire::position::Token;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

#[derive(Debug, Clone, Copy)]
pub struct Settings {
    pub limits: Limits,
    pub hot_bytes: u64,
    /// The longest pause between two tries of a store that cannot be written.
    pub retry_max: Duration,
}

/// What the projector tells the metrics. The wiring carries it out.
pub trait Watch: Send {
    fn anomalies(&mut self, counts: &std::collections::BTreeMap<&'static str, i64>);
    fn applied(&mut self, cut: &[Logged], tally: &Tally, took: Duration);
    fn failed(&mut self, error: &store::Error);
}

pub struct Projector {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Projector {
    pub fn start(
        db: Arc<dyn Db>,
        log: Arc<dyn EventLog>,
        progress: Arc<Progress>,
        watch: Box<dyn Watch>,
        settings: Settings,
    ) -> std::io::Result<Projector> {
        let stop = Arc::new(AtomicBool::new(false));
        let mut worker = Worker {
            db,
            log,
            progress,
            watch,
            settings,
            stop: stop.clone(),
        };
        let thread = std::thread::Builder::new()
            .name("projector".into())
            .spawn(move || {
                let _told = TellPanic(worker.progress.clone());
                let end = match worker.run() {
                    Ok(()) => Doing::Stopped,
                    Err(halt) => {
                        tracing::error!(reason = %halt, "the projector has halted");
                        Doing::Halted(halt.to_string())
                    }
                };
                worker.progress.set_doing(end);
            })?;
        Ok(Projector {
            stop,
            thread: Some(thread),
        })
    }
}

/// A panic is a bug and is not caught: the thread ends, and readiness says so.
struct TellPanic(Arc<Progress>);

impl Drop for TellPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.set_doing(Doing::Halted(
                "it panicked, which is a bug; the log has more".into(),
            ));
        }
    }
}

impl Drop for Projector {
    /// The cut at hand is finished.
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the projector panicked");
        }
    }
}

struct Worker {
    db: Arc<dyn Db>,
    log: Arc<dyn EventLog>,
    progress: Arc<Progress>,
    watch: Box<dyn Watch>,
    settings: Settings,
    stop: Arc<AtomicBool>,
}

/// Grows from try to try.
struct Backoff {
    pause: Duration,
    max: Duration,
}

impl Worker {
    fn run(&mut self) -> Result<(), Halt> {
        let Some(mut projection) = self.open()? else {
            return Ok(());
        };
        self.publish(&projection);
        self.progress.set_doing(Doing::Running);
        let mut reader = None;
        let mut cut = Vec::new();
        let mut backoff = self.backoff();
        while !self.stopping() {
            let reading = match &mut reader {
                Some(reader) => reader,
                None => match self.log.reader(projection.positions()) {
                    Ok(opened) => reader.insert(opened),
                    Err(error) => {
                        self.wait_for_log(error, &mut backoff)?;
                        continue;
                    }
                },
            };
            cut.clear();
            if let Err(error) = reading.read(&self.settings.limits, &mut cut) {
                // Where a reader that failed stands is not known: begin a new one.
                reader = None;
                self.wait_for_log(error, &mut backoff)?;
                continue;
            }
            backoff = self.backoff();
            if cut.is_empty() {
                self.progress.set_doing(Doing::Running);
                continue;
            }
            let started = Instant::now();
            let Some(tally) = self.apply(&mut projection, &cut)? else {
                return Ok(());
            };
            self.publish(&projection);
            self.watch.applied(&cut, &tally, started.elapsed());
        }
        Ok(())
    }

    fn publish(&self, projection: &Projection) {
        self.progress.publish(Token {
            log: self.log.id(),
            positions: projection.positions().clone(),
        });
    }

    fn open(&mut self) -> Result<Option<Projection>, Halt> {
        let mut backoff = self.backoff();
        while !self.stopping() {
            match self.try_open() {
                Ok(projection) => return Ok(Some(projection)),
                Err(OpenError::Halt(halt)) => return Err(halt),
                Err(OpenError::Store(error)) => self.wait_for_store(error, &mut backoff)?,
            }
        }
        Ok(None)
    }

    fn try_open(&mut self) -> Result<Projection, OpenError> {
        let projection = Projection::open(&*self.db, self.log.id(), self.settings.hot_bytes)?;
        let bounds = self
            .log
            .bounds()
            .map_err(|e| store::Error::Closed(e.to_string()))?;
        meta::check(projection.positions(), &bounds)?;
        self.watch.anomalies(&count_anomalies(&*self.db)?);
        Ok(projection)
    }

    /// Until it is written; `None` if told to stop meanwhile.
    fn apply(
        &mut self,
        projection: &mut Projection,
        cut: &[Logged],
    ) -> Result<Option<Tally>, Halt> {
        let mut backoff = self.backoff();
        while !self.stopping() {
            match projection.apply(&*self.db, cut) {
                Ok(tally) => {
                    self.progress.set_doing(Doing::Running);
                    return Ok(Some(tally));
                }
                Err(error) => self.wait_for_store(error, &mut backoff)?,
            }
        }
        Ok(None)
    }

    fn wait_for_log(&mut self, error: ReadError, backoff: &mut Backoff) -> Result<(), Halt> {
        match error {
            ReadError::Damaged { at, what } => Err(Halt::LogDamaged { at, what }),
            ReadError::Unavailable(why) => {
                tracing::warn!(%why, "the log cannot be read; trying again");
                self.progress.set_doing(Doing::Waiting(why));
                self.pause(backoff);
                Ok(())
            }
        }
    }

    /// Waits, and opens the store again: RocksDB takes no write after a failed one.
    fn wait_for_store(&mut self, error: store::Error, backoff: &mut Backoff) -> Result<(), Halt> {
        if let store::Error::Corrupt(what) = error {
            return Err(Halt::StoreDamaged(what));
        }
        tracing::warn!(%error, "the store cannot be written; trying again");
        self.watch.failed(&error);
        self.progress.set_doing(Doing::Waiting(error.to_string()));
        self.pause(backoff);
        // While the disk is full, reads had better go on.
        let full = self
            .db
            .space()
            .is_some_and(|space| space.free < space.total / 50);
        if !full && let Err(error) = self.db.reopen() {
            tracing::warn!(%error, "the store could not be opened again");
        }
        Ok(())
    }

    fn backoff(&self) -> Backoff {
        Backoff {
            pause: Duration::from_millis(50),
            max: self.settings.retry_max,
        }
    }

    fn pause(&self, backoff: &mut Backoff) {
        let until = Instant::now() + backoff.pause;
        backoff.pause = (backoff.pause * 2).min(backoff.max);
        while !self.stopping() && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn stopping(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
}
