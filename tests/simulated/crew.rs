//! The store's workers under simulation: what their threads and those of the readers do, in steps
//! whose order the seed decides. Reading and dealing, preparing, writing, resting, failing,
//! falling back and crashing interleave in any way that the threads allow
//! (`opledger::projector::pipeline`).

use crate::support::generate::Rng;
use crate::support::simulated_log::{FaultPlan, SimulatedLog};
use opledger::domain::Workers;
use opledger::event_log::{Identity, Limits, Logged, Share};
use opledger::projector::log_position::LogPosition;
use opledger::projector::projection::{Keep, Prepared};
use opledger::projector::record_batch::Audience;
use opledger::projector::step::Rules;
use opledger::projector::{Projection, RecordBatch, Source};
use opledger::store::memory::Memory;
use opledger::wire::position::{LogId, NextOffsets};
use std::collections::VecDeque;
use std::ops::AddAssign;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// How many workers there are each time the store is opened.
#[derive(Debug, Clone, Copy)]
pub enum Plan {
    Always(usize),
    Changing,
}

impl Plan {
    pub const ALL: [Plan; 4] = [
        Plan::Always(1),
        Plan::Always(3),
        Plan::Always(8),
        Plan::Changing,
    ];

    fn workers(self, rng: &mut Rng) -> Workers {
        Workers::new(match self {
            Plan::Always(count) => count,
            Plan::Changing => *rng.pick(&[1, 2, 3, 5, 8, 64]),
        })
    }
}

/// How often the runs came into situations that they are to test.
#[derive(Debug, Default, Clone, Copy)]
pub struct Seen {
    /// The store was opened when slices were at different positions: one worker had written what
    /// another had not.
    pub apart: u64,
    /// … by a crash that kept the last write of one worker and lost that of another.
    pub crashed_apart: u64,
    /// … with another number of workers.
    pub shared_anew: u64,
    /// Records were read again of which some slices had some already.
    pub repeated: u64,
    /// A worker got readers of its own.
    pub own_readers: u64,
    /// Another worker wrote between what a worker prepared and its write.
    pub between: u64,
    /// Workers went on after another had failed.
    pub after_failure: u64,
}

impl AddAssign for Seen {
    fn add_assign(&mut self, other: Seen) {
        self.apart += other.apart;
        self.crashed_apart += other.crashed_apart;
        self.shared_anew += other.shared_anew;
        self.repeated += other.repeated;
        self.own_readers += other.own_readers;
        self.between += other.between;
        self.after_failure += other.after_failure;
    }
}

impl Seen {
    /// Panics if one of them hardly came up: the runs would test less than they say.
    pub fn check(&self, seeds: u64) {
        let all = [
            self.apart,
            self.crashed_apart,
            self.shared_anew,
            self.repeated,
            self.own_readers,
            self.between,
            self.after_failure,
        ];
        assert!(all.iter().all(|times| *times >= seeds / 10), "{self:?}");
    }
}

/// The process has died in a write.
pub struct Died;

struct Worker {
    projection: Projection,
    /// What readers have dealt to it.
    waiting: VecDeque<RecordBatch>,
    /// What it is about to write.
    prepared: Option<(RecordBatch, Prepared)>,
    feeder: Feeder,
    /// A write failed: its thread has ended.
    has_failed: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Feeder {
    Shared,
    /// Readers of its own, which it gets once it has applied what it was given before.
    Own,
    OwnReads,
}

impl Worker {
    fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.prepared.is_none() && !self.has_failed
    }
}

struct Reader<C> {
    cursor: C,
    share: Share,
    /// Where it continues.
    next: NextOffsets,
    audience: Audience,
    /// The worker whose own reader it is.
    only: Option<usize>,
}

pub struct Crew<L: SimulatedLog> {
    plan: Plan,
    log_id: LogId,
    pub store: Arc<Memory>,
    faults: Arc<Mutex<FaultPlan>>,
    count: Workers,
    workers: Vec<Worker>,
    readers: Vec<Reader<L::Cursor>>,
    pub seen: Seen,
}

/// Batches that may wait for a worker.
const WAITING: usize = 3;

impl<L: SimulatedLog> Crew<L> {
    pub fn new(plan: Plan, log_id: LogId, rng: &mut Rng, log: &L) -> Crew<L> {
        let store = Arc::new(Memory::default());
        let mut crew = Crew {
            plan,
            log_id,
            faults: FaultPlan::install(&store),
            store,
            count: Workers::ONE,
            workers: Vec::new(),
            readers: Vec::new(),
            seen: Seen::default(),
        };
        crew.open(rng, log);
        crew
    }

    /// As at the start of a process, and after every error: positions come only from the store.
    pub fn open(&mut self, rng: &mut Rng, log: &L) {
        let before = std::mem::replace(&mut self.count, self.plan.workers(rng));
        self.readers.clear();
        self.workers = open(&self.store, self.log_id, self.count)
            .into_iter()
            .map(|projection| Worker {
                projection,
                waiting: VecDeque::new(),
                prepared: None,
                feeder: Feeder::Shared,
                has_failed: false,
            })
            .collect();
        let differ = self.whole().by_slice().is_some();
        self.seen.apart += u64::from(differ);
        self.seen.shared_anew += u64::from(differ && before != self.count);
        // A worker may be too far behind to be waited for.
        if self.workers.len() > 1 && rng.chance(20) {
            self.cut(rng);
        }
        let together = self.workers.iter().filter(|w| w.feeder == Feeder::Shared);
        let from = together.map(|worker| worker.projection.at().next());
        let from = from.reduce(|one, other| one.lower(&other));
        let from = from.expect("one worker at most is apart");
        let audience = Audience {
            seen: self.whole().by_slice(),
            workers: self.count,
            ..Audience::ONE
        };
        let of = 1 + rng.below(3);
        for index in 0..of {
            let share = Share { index, of };
            self.read_from(&from, share, audience.clone(), None, log);
        }
    }

    fn read_from(
        &mut self,
        from: &NextOffsets,
        share: Share,
        audience: Audience,
        only: Option<usize>,
        log: &L,
    ) {
        self.readers.push(Reader {
            cursor: log.cursor(from, share),
            share,
            next: from.clone(),
            audience,
            only,
        });
    }

    /// Where all slices are.
    fn whole(&self) -> LogPosition {
        let positions = self.workers.iter().map(|w| w.projection.at().clone());
        LogPosition::whole(&positions.collect::<Vec<_>>())
    }

    /// One step of one of the threads.
    pub fn step(&mut self, rng: &mut Rng, log: &L) -> Result<(), Died> {
        if self.workers.iter().any(|worker| worker.has_failed) {
            // The other threads may do some more before they are stopped.
            if rng.chance(30) {
                self.open(rng, log);
                return Ok(());
            }
            self.seen.after_failure += 1;
        }
        match rng.below(20) {
            0..6 => self.read(rng, log),
            6..17 => return self.work(rng),
            17 => return self.rest(rng),
            18 => self.give_own_reader(rng, log),
            // All threads start again once those with readers of their own have caught up.
            _ if rng.chance(4) => self.open(rng, log),
            _ => {}
        }
        Ok(())
    }

    fn read(&mut self, rng: &mut Rng, log: &L) {
        let reader = rng.below(self.readers.len());
        let Reader {
            cursor,
            share,
            next,
            audience,
            only,
        } = &mut self.readers[reader];
        let fed = match only {
            None => Feeder::Shared,
            Some(_) => Feeder::OwnReads,
        };
        let is_of = |number: usize, worker: &Worker| {
            worker.feeder == fed && only.is_none_or(|only| only == number)
        };
        let mut own = self.workers.iter().enumerate();
        if !own.any(|(number, worker)| is_of(number, worker))
            || self.workers.iter().any(|w| w.waiting.len() >= WAITING)
        {
            return;
        }
        let limits = Limits {
            records: 1 + rng.below(20),
            bytes: 1 + rng.below(10_000),
            patience: Duration::ZERO,
        };
        let mut records: Vec<Logged> = Vec::new();
        log.read(cursor, &limits, &mut records);
        if records.is_empty() {
            return;
        }
        for logged in &records {
            next.raise(logged.at.partition, logged.at.offset.next());
        }
        if let Some(seen) = &audience.seen {
            let is_repeated = |at| {
                let by = seen.iter().filter(|seen| seen.has_passed(at)).count();
                by > 0 && by < seen.len()
            };
            let repeated = records.iter().any(|logged| is_repeated(logged.at));
            self.seen.repeated += u64::from(repeated);
        }
        let after = match rng.chance(50) {
            true => NextOffsets::default(),
            false => {
                let own = next.iter().filter(|(partition, _)| share.has(**partition));
                own.map(|(partition, offset)| (*partition, *offset))
                    .collect()
            }
        };
        let dealt = RecordBatch::deal(records, after, &Rules::NONE, audience, &mut Vec::new());
        let has_passed = |seen: &NextOffsets| {
            let mut own = seen.iter().filter(|(partition, _)| share.has(**partition));
            own.all(|(partition, seen)| next.get(partition) >= Some(seen))
        };
        if audience.seen.iter().flatten().all(has_passed) {
            audience.seen = None;
        }
        let only = *only;
        for (number, record_batch) in dealt {
            let worker = &mut self.workers[number];
            if worker.feeder != fed || only.is_some_and(|only| only != number) {
                continue;
            }
            if record_batch.is_empty() && worker.is_idle() && rng.chance(70) {
                worker.projection.pass(&record_batch);
            } else {
                worker.waiting.push_back(record_batch);
            }
        }
    }

    /// A worker takes a batch, works out what it changes, or writes that.
    fn work(&mut self, rng: &mut Rng) -> Result<(), Died> {
        let busy = |worker: &Worker| !worker.is_idle() && !worker.has_failed;
        let busy: Vec<usize> = (0..self.workers.len())
            .filter(|number| busy(&self.workers[*number]))
            .collect();
        if busy.is_empty() {
            return Ok(());
        }
        let number = *rng.pick(&busy);
        let worker = &mut self.workers[number];
        let (mut record_batch, prepared) = match worker.prepared.take() {
            Some(prepared) => prepared,
            None => {
                let mut record_batch = worker.waiting.pop_front().expect("it is busy");
                if record_batch.is_empty() {
                    worker.projection.pass(&record_batch);
                    return Ok(());
                }
                let prepared = worker.projection.prepare(&*self.store, &mut record_batch);
                let prepared = prepared.expect("no read fails");
                if rng.chance(40) {
                    worker.prepared = Some((record_batch, prepared));
                    return Ok(());
                }
                (record_batch, prepared)
            }
        };
        arm(&self.faults, rng);
        let projection = &mut worker.projection;
        let written = projection.commit(&*self.store, &mut record_batch, prepared);
        self.faults.lock().unwrap().disarm();
        worker.has_failed = written.is_err();
        let mut others = self.workers.iter().enumerate();
        let between = others.any(|(other, worker)| other != number && worker.prepared.is_some());
        self.seen.between += u64::from(between);
        self.alive()
    }

    /// A worker with nothing to do writes the positions that it has passed.
    fn rest(&mut self, rng: &mut Rng) -> Result<(), Died> {
        let number = rng.below(self.workers.len());
        let worker = &mut self.workers[number];
        if worker.is_idle() {
            arm(&self.faults, rng);
            let written = worker.projection.write_positions(&*self.store);
            self.faults.lock().unwrap().disarm();
            worker.has_failed = written.is_err();
        }
        self.alive()
    }

    fn alive(&self) -> Result<(), Died> {
        match self.store.is_dead() {
            true => Err(Died),
            false => Ok(()),
        }
    }

    /// A worker falls back, and gets a reader of its own once it has applied what it was given.
    fn give_own_reader(&mut self, rng: &mut Rng, log: &L) {
        if rng.chance(20) {
            self.cut(rng);
        }
        for number in 0..self.workers.len() {
            let worker = &mut self.workers[number];
            if worker.feeder != Feeder::Own || !worker.is_idle() {
                continue;
            }
            worker.feeder = Feeder::OwnReads;
            let from = worker.projection.at().next();
            let audience = Audience {
                workers: self.count,
                wanted: self.count.slices(number),
                seen: self.whole().by_slice(),
            };
            self.read_from(&from, Share::ALL, audience, Some(number), log);
            self.seen.own_readers += 1;
        }
    }

    /// From now on the shared readers do not wait for one of the workers.
    fn cut(&mut self, rng: &mut Rng) {
        let is_shared = |worker: &&mut Worker| worker.feeder == Feeder::Shared;
        let mut shared: Vec<_> = self.workers.iter_mut().filter(is_shared).collect();
        // One stays.
        if shared.len() > 1 {
            let number = rng.below(shared.len());
            shared[number].feeder = Feeder::Own;
        }
    }

    /// The machine loses unsynced writes after some of them.
    pub fn crash(&mut self, rng: &mut Rng, log: &L) {
        self.store.crash(|buffered| rng.below(buffered + 1));
        let before = self.seen.apart;
        self.open(rng, log);
        self.seen.crashed_apart += self.seen.apart - before;
    }

    /// Whether all workers are at the ends of the log, and at rest.
    pub fn is_caught_up(&self, ends: &NextOffsets) -> bool {
        let mut workers = self.workers.iter();
        workers.all(|worker| worker.is_idle() && worker.projection.at().next().have_reached(ends))
    }

    /// All workers end in good order, and one takes over.
    pub fn end(&mut self) {
        for worker in &mut self.workers {
            let written = worker.projection.write_positions(&*self.store);
            written.expect("no faults are armed");
        }
        open(&self.store, self.log_id, Workers::ONE);
    }
}

/// All threads start again after a fault, so there are not too many.
fn arm(faults: &Mutex<FaultPlan>, rng: &mut Rng) {
    if rng.chance(30) {
        faults.lock().unwrap().arm(rng);
    }
}

pub fn open(store: &Memory, id: LogId, workers: Workers) -> Vec<Projection> {
    let log = Identity {
        id,
        name: "simulated".into(),
    };
    let keep = Keep {
        hot_bytes: 10_000,
        ..Keep::default()
    };
    let opened = Projection::open_all(store, Source::Events, &log, workers, keep);
    opened.expect("no faults are armed")
}
