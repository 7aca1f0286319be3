//! Reads partitions of the log and decodes the records, on a separate thread, while the workers
//! write the batches before. Memory is limited whatever the lag: if two full batches wait to be
//! applied, reading waits.

use super::halt::OpenError;
use super::pace;
use super::pipeline::{PipelineShared, Report, ThreadGuard};
use super::queue::{AppliedBatch, DealtBatch, Feeder};
use super::record_batch::{Audience, RecordBatch};
use super::run::Settings;
use crate::event_log::{Limits, Reader};
use crate::store::Batch;
use crate::wire::position::NextOffsets;
use crate::worker::{Stop, WorkerThread};
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

/// Reads that were dealt and are not applied by all workers, before the next is read: one is
/// applied, one waits. So what comes meanwhile is in one batch.
const DEALT: usize = 2;

/// If workers have nothing to do for this long while others have too much, reading goes on as far
/// as there is memory.
const LOOK: Duration = Duration::from_millis(20);

/// If there is none left for this long, the workers that have too much go on with readers of their
/// own.
const HELD_UP: Duration = Duration::from_secs(1);

pub struct Intake {
    reader: Box<dyn Reader>,
    shared: Arc<PipelineShared>,
    settings: Settings,
    limits: Limits,
    audience: Audience,
    feeder: Feeder,
    /// The workers that it reads for.
    workers: Vec<usize>,
    dealt: VecDeque<DealtRead>,
    reads: u64,
    back: Sender<AppliedBatch>,
    applied: Receiver<AppliedBatch>,
    /// One for each batch in memory: growing a new one copies all of it.
    spares: Vec<Batch>,
}

struct DealtRead {
    number: u64,
    /// The workers that have not applied it.
    by: Vec<usize>,
    records: usize,
    bytes: usize,
}

impl Intake {
    pub fn start(
        name: String,
        reader: Box<dyn Reader>,
        shared: Arc<PipelineShared>,
        (settings, limits): (Settings, Limits),
        audience: Audience,
    ) -> std::io::Result<WorkerThread> {
        let workers = audience.workers;
        let wanted = audience.wanted;
        let reads_for = |worker: &usize| wanted.meet(workers.slices(*worker));
        let workers: Vec<usize> = (0..workers.count()).filter(reads_for).collect();
        let feeder = match workers.len() < audience.workers.count() {
            true => Feeder::Own,
            false => Feeder::Shared,
        };
        let (back, applied) = channel();
        let mut intake = Intake {
            reader,
            shared,
            settings,
            limits,
            audience,
            feeder,
            workers,
            dealt: VecDeque::new(),
            reads: 0,
            back,
            applied,
            spares: Vec::new(),
        };
        WorkerThread::start(name, move |stop| {
            let _report = ThreadGuard(intake.shared.clone());
            if let Err(error) = intake.read_all(stop) {
                intake.shared.report(Report::Failed(error));
            }
        })
    }

    fn read_all(&mut self, stop: &Stop) -> Result<(), OpenError> {
        let mut next = self.reader.next();
        let (mut lags, mut own_work) = (false, Duration::ZERO);
        while let Some(work) = self.wait_for_room(stop) {
            let rest = pace::rest(lags, own_work + work, self.settings.batch_delay);
            std::thread::sleep(rest);
            own_work = Duration::ZERO;
            let mut records = Vec::new();
            let started = Instant::now();
            self.reader.read(&self.limits, &mut records)?;
            let took = started.elapsed();
            let after = self.reader.next();
            if records.is_empty() && after == next {
                self.spares.clear();
                self.shared.caught_up(self.feeder, &self.workers);
                continue;
            }
            let confirmation = self.reader.confirm();
            let working = Instant::now();
            let rules = &self.settings.rules;
            next.clone_from(&after);
            let count = records.len();
            let bytes: usize = records.iter().map(|logged| logged.record.size()).sum();
            let dealt = RecordBatch::deal(records, after, rules, &self.audience, &mut self.spares);
            own_work += working.elapsed();
            // Nothing is applied before it is certain which log it is from.
            confirmation.wait()?;
            self.shared.observer.read(took);
            let is_full = count >= self.limits.records || bytes >= self.limits.bytes;
            let age = dealt
                .first()
                .and_then(|(_, record_batch)| record_batch.age());
            lags = is_full || age.is_some_and(|age| age >= pace::OLD);
            self.forget_seen(&next);
            self.deal(dealt, (count, bytes));
            if !lags {
                self.shared.caught_up(self.feeder, &self.workers);
            }
        }
        Ok(())
    }

    /// Once the reader is where all slices are, nothing is left out any more.
    fn forget_seen(&mut self, next: &NextOffsets) {
        let is_passed = |seen: &NextOffsets| {
            let mut seen = next
                .iter()
                .map(|(partition, next)| (next, seen.get(partition)));
            seen.all(|(next, seen)| Some(next) >= seen)
        };
        if self.audience.seen.iter().flatten().all(is_passed) {
            self.audience.seen = None;
        }
    }

    fn deal(&mut self, dealt: Vec<(usize, RecordBatch)>, (records, bytes): (usize, usize)) {
        let number = self.reads;
        self.reads += 1;
        let mut by = Vec::with_capacity(dealt.len());
        for (worker, record_batch) in dealt {
            if !self.workers.contains(&worker) {
                self.spares.push(record_batch.spend());
                continue;
            }
            let queue = &self.shared.queues[worker];
            if record_batch.is_empty() {
                let pass = || self.shared.pass(worker, &record_batch);
                if queue.instead(self.feeder, pass) {
                    self.spares.push(record_batch.spend());
                    continue;
                }
            }
            let dealt = DealtBatch {
                record_batch,
                read: number,
                back: self.back.clone(),
            };
            match queue.push(self.feeder, dealt) {
                None => by.push(worker),
                // The worker was cut off, or everything ends.
                Some(refused) => self.spares.push(refused.record_batch.spend()),
            }
        }
        if !by.is_empty() {
            self.dealt.push_back(DealtRead {
                number,
                by,
                records,
                bytes,
            });
        }
    }

    /// Takes back what was applied, until there is room for another read. Returns how long workers
    /// worked on it; `None` if the thread is to stop.
    fn wait_for_room(&mut self, stop: &Stop) -> Option<Duration> {
        let mut work = Duration::ZERO;
        while let Ok(applied) = self.applied.try_recv() {
            work += self.take_back(applied);
        }
        let waiting = Instant::now();
        while self.dealt.len() > DEALT {
            if stop.is_asked() {
                return None;
            }
            match self.applied.recv_timeout(LOOK) {
                Ok(applied) => work += self.take_back(applied),
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                    if self.goes_on(waiting.elapsed()) {
                        break;
                    }
                }
            }
        }
        (!stop.is_asked()).then_some(work)
    }

    fn take_back(&mut self, applied: AppliedBatch) -> Duration {
        let AppliedBatch {
            worker, read, work, ..
        } = applied;
        self.spares.push(applied.record_batch.spend());
        for dealt in self.dealt.iter_mut().filter(|dealt| dealt.number == read) {
            dealt.by.retain(|by| *by != worker);
        }
        self.dealt.retain(|dealt| !dealt.by.is_empty());
        work
    }

    /// Whether to read on although workers have not applied what they were given: others have
    /// nothing to do.
    fn goes_on(&mut self, waited: Duration) -> bool {
        if self.feeder == Feeder::Own {
            return false;
        }
        let queues = &self.shared.queues;
        if self.workers.iter().any(|worker| queues[*worker].is_idle()) {
            if !self.is_full() {
                return true;
            }
            let slow = self.dealt.front().map_or(&[][..], |dealt| &dealt.by);
            if waited >= HELD_UP {
                for worker in slow {
                    self.shared.hold_up(*worker);
                }
            }
        }
        // Another reader may have found one as well.
        let stays = |worker: &usize| queues[*worker].is_fed_by(Feeder::Shared);
        self.workers.retain(stays);
        for dealt in &mut self.dealt {
            dealt.by.retain(stays);
        }
        self.dealt.retain(|dealt| !dealt.by.is_empty());
        false
    }

    /// Whether all memory is used that it may use.
    fn is_full(&self) -> bool {
        let sum = |of: fn(&DealtRead) -> usize| self.dealt.iter().map(of).sum::<usize>();
        sum(|dealt| dealt.records) >= DEALT * self.limits.records
            || sum(|dealt| dealt.bytes) >= DEALT * self.limits.bytes
    }
}
