//! The threads that follow a log: some read it (`intake`), and each worker folds the operations of
//! its slices and writes them. No worker waits for another.
//!
//! A worker that is far behind the others, or holds them up, has readers of its own until it has
//! caught up. Then all threads start again together.

use super::halt::OpenError;
use super::intake::Intake;
use super::log_position::LogPosition;
use super::queue::{AppliedBatch, DealtBatch, Feeder, WorkerQueue, WorkerTask};
use super::record_batch::{Audience, RecordBatch};
use super::run::{Observer, Settings};
use super::writer::StoreWriter;
use crate::domain::{Slices, Workers};
use crate::event_log::{EventLog, Limits, Share};
use crate::feed::progress::{Progress, WrittenChange};
use crate::wire::position::NextOffsets;
use crate::worker::WorkerThread;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

/// A worker is far behind if it lacks more full batches than this.
const FAR: u64 = 10;

/// A worker that holds the others up has readers of its own for at least this long.
const APART: Duration = Duration::from_secs(10);

/// Positions that were passed without a batch are written after this long.
const REST: Duration = Duration::from_secs(1);

/// What the projector is to know of its threads.
pub enum Report {
    Failed(OpenError),
    /// A worker has written its first batch.
    Applied,
    /// A worker is to have readers of its own.
    HeldUp(usize),
    /// Its own reader has read all.
    CaughtUp(usize),
    /// A thread did, which is a bug.
    Panicked,
}

pub struct PipelineShared {
    pub writer: Arc<StoreWriter>,
    pub progress: Arc<Progress>,
    pub observer: Arc<dyn Observer>,
    /// By worker.
    pub queues: Vec<WorkerQueue>,
    reports: Sender<Report>,
}

impl PipelineShared {
    pub fn hold_up(&self, worker: usize) {
        self.queues[worker].cut();
        self.report(Report::HeldUp(worker));
    }

    pub fn caught_up(&self, feeder: Feeder, workers: &[usize]) {
        if let (Feeder::Own, [worker]) = (feeder, workers) {
            self.report(Report::CaughtUp(*worker));
        }
    }

    /// The batch has nothing for the worker, which has nothing to do.
    pub fn pass(&self, worker: usize, record_batch: &RecordBatch) {
        let position = self.writer.with(worker, |_, projection| {
            projection.pass(record_batch);
            projection.at().clone()
        });
        self.publish(worker, &position, None);
    }

    fn publish(&self, worker: usize, position: &LogPosition, change: Option<WrittenChange>) {
        let (token, next) = (position.token(), position.next());
        self.progress.publish(worker, token, &next, change);
    }

    pub fn report(&self, report: Report) {
        // The receiver is gone only while all threads end.
        let _ = self.reports.send(report);
    }

    fn work(&self, worker: usize) -> Result<(), OpenError> {
        let queue = &self.queues[worker];
        let mut has_applied = false;
        loop {
            let waiting = Instant::now();
            let task = queue.next(REST);
            let waited = waiting.elapsed();
            match task {
                WorkerTask::Apply(dealt) => {
                    let working = Instant::now();
                    self.apply(worker, dealt)?;
                    self.progress.note_effort(worker, working.elapsed(), waited);
                    if !has_applied {
                        has_applied = true;
                        self.report(Report::Applied);
                    }
                }
                WorkerTask::Rest => {
                    self.progress.note_effort(worker, Duration::ZERO, waited);
                    self.write_positions(worker)?;
                }
                WorkerTask::End => return self.write_positions(worker),
            }
        }
    }

    fn apply(&self, worker: usize, dealt: DealtBatch) -> Result<(), OpenError> {
        let DealtBatch {
            mut record_batch,
            read,
            back,
        } = dealt;
        let working = Instant::now();
        if record_batch.is_empty() {
            self.pass(worker, &record_batch);
        } else {
            let applied = self.writer.with(worker, |db, projection| {
                let tally = projection.apply(db, &mut record_batch)?;
                self.progress.set_counts(worker, projection.statuses());
                Ok::<_, OpenError>((tally, projection.at().clone()))
            });
            let (mut tally, position) = applied?;
            let entries = std::mem::take(&mut tally.entries);
            let published = |change| WrittenChange { change, entries };
            self.publish(worker, &position, tally.change.take().map(published));
            self.observer
                .applied(&record_batch, &tally, working.elapsed());
        }
        // The reader may have ended.
        let _ = back.send(AppliedBatch {
            worker,
            read,
            record_batch,
            work: working.elapsed(),
        });
        Ok(())
    }

    fn write_positions(&self, worker: usize) -> Result<(), OpenError> {
        let written = self.writer.with(worker, |db, projection| {
            let change = projection.write_positions(db)?;
            Ok::<_, OpenError>(change.map(|change| (change, projection.at().clone())))
        });
        if let Some((change, position)) = written? {
            let entries = Vec::new();
            self.publish(worker, &position, Some(WrittenChange { change, entries }));
        }
        Ok(())
    }
}

/// Reports a panic of the thread that has it.
pub struct ThreadGuard(pub Arc<PipelineShared>);

impl Drop for ThreadGuard {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.report(Report::Panicked);
        }
    }
}

/// Dropping it lets every worker finish the batch that it works on.
pub struct Pipeline {
    // In the order in which they must end.
    readers: Readers,
    closing: Closing,
    _workers: Vec<WorkerThread>,
    log: Arc<dyn EventLog>,
    settings: Settings,
    reports: Receiver<Report>,
    /// The workers with readers of their own.
    apart: Vec<SlowWorker>,
}

#[derive(Default)]
struct Readers(Vec<WorkerThread>);

impl Drop for Readers {
    fn drop(&mut self) {
        // Each may wait for records, and they end together.
        self.0.iter().for_each(WorkerThread::ask_to_stop);
    }
}

struct Closing(Arc<PipelineShared>);

impl Drop for Closing {
    fn drop(&mut self) {
        self.0.queues.iter().for_each(WorkerQueue::close);
    }
}

struct SlowWorker {
    worker: usize,
    since: Instant,
    /// It has none yet while it applies what it was given before.
    has_readers: bool,
    caught_up: Option<Instant>,
}

impl Pipeline {
    /// Follows the log from where the store is, which `writer` has opened.
    pub fn start(
        writer: &Arc<StoreWriter>,
        progress: &Arc<Progress>,
        observer: &Arc<dyn Observer>,
        log: &Arc<dyn EventLog>,
        settings: Settings,
    ) -> Result<Pipeline, OpenError> {
        let positions = writer.positions();
        let behind = far_behind(&positions, &settings.limits);
        let feeder = |worker| match behind.contains(&worker) {
            true => Feeder::Own,
            false => Feeder::Shared,
        };
        begin(writer, progress, &positions);
        let (reports, receiver) = channel();
        let shared = Arc::new(PipelineShared {
            writer: writer.clone(),
            progress: progress.clone(),
            observer: observer.clone(),
            queues: (0..positions.len())
                .map(|worker| WorkerQueue::new(feeder(worker)))
                .collect(),
            reports,
        });
        let start = |worker| {
            let shared = shared.clone();
            let name = settings.rules.source.worker(worker);
            WorkerThread::start(name, move |_| {
                let _report = ThreadGuard(shared.clone());
                if let Err(error) = shared.work(worker) {
                    shared.report(Report::Failed(error));
                }
            })
        };
        let threads = (0..positions.len()).map(start).collect::<Result<_, _>>();
        let mut pipeline = Pipeline {
            readers: Readers::default(),
            closing: Closing(shared),
            _workers: threads.map_err(no_thread)?,
            log: log.clone(),
            settings,
            reports: receiver,
            apart: Vec::new(),
        };
        let together = positions.iter().enumerate();
        let together = together.filter(|(worker, _)| !behind.contains(worker));
        let from = together.map(|(_, position)| position.next());
        let from = from.reduce(|one, other| one.lower(&other));
        pipeline.read(&from.expect("one is the furthest"), Slices::ALL)?;
        for worker in behind {
            pipeline.set_apart(worker);
        }
        Ok(pipeline)
    }

    /// Starts to read for the workers that have some of these slices.
    fn read(&mut self, from: &NextOffsets, wanted: Slices) -> Result<(), OpenError> {
        let shared = &self.closing.0;
        let workers = shared.writer.workers();
        let position = shared.writer.position();
        let audience = Audience {
            workers,
            wanted,
            seen: position.by_slice(),
        };
        let of = match wanted == Slices::ALL {
            true => readers(workers, self.log.partitions()?),
            false => 1,
        };
        let Limits {
            records,
            bytes,
            patience,
        } = self.settings.limits;
        // However many read, it is the same memory.
        let limits = Limits {
            records: records.div_ceil(of),
            bytes: bytes.div_ceil(of),
            patience,
        };
        for index in 0..of {
            let share = Share { index, of };
            let reader = self.log.reader(position.log().id, from, share)?;
            let name = self.settings.rules.source.intake(self.readers.0.len());
            let settings = (self.settings, limits);
            let intake = Intake::start(name, reader, shared.clone(), settings, audience.clone());
            self.readers.0.push(intake.map_err(no_thread)?);
        }
        Ok(())
    }

    /// This worker has, and whether all have that went on apart.
    fn have_caught_up(&mut self, worker: usize) -> bool {
        let of_worker = self.apart.iter_mut().filter(|apart| apart.worker == worker);
        of_worker.for_each(|apart| apart.caught_up = Some(Instant::now()));
        self.apart.iter().all(|apart| {
            let was_lately = |at: Instant| at.elapsed() < 2 * REST;
            apart.since.elapsed() >= APART && apart.caught_up.is_some_and(was_lately)
        })
    }

    fn set_apart(&mut self, worker: usize) {
        if self.apart.iter().any(|apart| apart.worker == worker) {
            return;
        }
        tracing::warn!(
            worker,
            "a worker is behind the others and goes on apart from them"
        );
        self.apart.push(SlowWorker {
            worker,
            since: Instant::now(),
            has_readers: false,
            caught_up: None,
        });
    }

    /// What happened, if anything did in time. `CaughtUp` says that all threads should start
    /// again.
    pub fn next(&mut self, patience: Duration) -> Result<Option<Report>, OpenError> {
        let report = self.reports.recv_timeout(patience).ok();
        match report {
            Some(Report::HeldUp(worker)) => self.set_apart(worker),
            Some(Report::Panicked) => panic!("a thread of the projector panicked"),
            Some(Report::Failed(_) | Report::Applied | Report::CaughtUp(_)) | None => {}
        }
        let shared = self.closing.0.clone();
        let ready = self.apart.iter_mut().filter(|apart| !apart.has_readers);
        let ready = ready.filter(|apart| shared.queues[apart.worker].is_idle());
        let ready: Vec<usize> = ready
            .map(|apart| {
                apart.has_readers = true;
                apart.worker
            })
            .collect();
        for worker in ready {
            let from = shared.writer.positions()[worker].next();
            self.read(&from, shared.writer.workers().slices(worker))?;
        }
        Ok(report.filter(|report| match report {
            Report::CaughtUp(worker) => self.have_caught_up(*worker),
            Report::HeldUp(_) | Report::Panicked => false,
            Report::Failed(_) | Report::Applied => true,
        }))
    }
}

/// Publishes where the store is.
fn begin(writer: &StoreWriter, progress: &Progress, positions: &[LogPosition]) {
    let published = positions.iter().map(|at| (at.token(), at.next()));
    progress.begin(writer.next_change(), published.collect());
    for worker in 0..positions.len() {
        let counts = writer.with(worker, |_, projection| projection.statuses());
        progress.set_counts(worker, counts);
    }
}

/// How many threads read.
fn readers(workers: Workers, partitions: usize) -> usize {
    workers.count().div_ceil(2).min(partitions).max(1)
}

/// The workers that are so far behind the others that those would wait for them.
fn far_behind(positions: &[LogPosition], limits: &Limits) -> Vec<usize> {
    let done = |position: &LogPosition| position.next().values().map(|next| next.0).sum::<u64>();
    let furthest = positions.iter().map(done).max().unwrap_or_default();
    let far = FAR * limits.records as u64;
    let workers = positions.iter().enumerate();
    let behind = workers.filter(|(_, position)| furthest - done(position) > far);
    behind.map(|(worker, _)| worker).collect()
}

fn no_thread(error: std::io::Error) -> OpenError {
    OpenError::Log(format!("no thread to read it: {error}"))
}
