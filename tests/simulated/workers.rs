//! Several workers fold one log, with their threads.

use crate::support::deadline::{SOON, within};
use crate::support::events::{completed, created};
use crate::support::generate::{self, Rng};
use crate::support::in_process;
use bytes::Bytes;
use opledger::domain::{OperationId, Slice, Timestamp, Workers};
use opledger::event_log::EventLog;
use opledger::event_log::memory::MemoryLog;
use opledger::feed::documents;
use opledger::feed::progress::{Doing, Progress, WaitError};
use opledger::projector::projection::Keep;
use opledger::projector::run::{self, Settings};
use opledger::projector::step::Rules;
use opledger::projector::writer::StoreWriter;
use opledger::rows::digest::StoreDigest;
use opledger::rows::meta;
use opledger::store;
use opledger::store::memory::{Memory, WriteFault};
use opledger::wire::position::{LogId, NextOffsets, Partition, Position, Token};
use opledger::wire::record::{Headers, Record};
use opledger::wire::time::TimeStyle;
use opledger::worker::WorkerThread;
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

const LOG: LogId = LogId(*b"workers0");
const PARTITIONS: usize = 5;

struct Running {
    writer: Arc<StoreWriter>,
    progress: Arc<Progress>,
    log: MemoryLog,
    _projector: WorkerThread,
}

fn start(db: &Arc<Memory>, log: &MemoryLog, workers: usize) -> Running {
    start_with(db, log, workers, in_process::projector(Rules::NONE, None))
}

fn start_with(db: &Arc<Memory>, log: &MemoryLog, workers: usize, settings: Settings) -> Running {
    let workers = Workers::new(workers);
    let stored = meta::token(&**db).unwrap();
    let progress = Arc::new(Progress::new(stored, workers));
    let writer = StoreWriter::new(db.clone(), workers, Keep::default());
    let projector = run::start(
        writer.clone(),
        Arc::new(log.clone()),
        progress.clone(),
        Arc::new(in_process::Silent),
        settings,
    );
    Running {
        writer,
        progress,
        log: log.clone(),
        _projector: projector.unwrap(),
    }
}

impl Running {
    fn wait(&self, of: Option<&str>, token: &Token, limit: Duration) -> Result<(), WaitError> {
        let runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = { runtime }.enable_all().build().unwrap();
        let deadline = Instant::now() + limit;
        match of {
            Some(id) => {
                let id = OperationId(id);
                runtime.block_on(self.progress.wait_for_operation(id, token, deadline))
            }
            None => runtime.block_on(self.progress.wait_for(token, deadline)),
        }
    }

    #[track_caller]
    fn caught_up(&self) {
        let ends = self.log.bounds().unwrap();
        let ends: NextOffsets = ends.iter().map(|(p, b)| (*p, b.end)).collect();
        let token = Token {
            log: LOG,
            positions: ends.last(),
        };
        let waited = self.wait(None, &token, 3 * SOON);
        let doing = self.progress.doing();
        assert_eq!(waited, Ok(()), "{doing:?}, {:?}", self.progress.applied());
    }

    /// Keeps a worker from writing until the result is dropped.
    fn hold(&self, worker: usize) -> Held {
        within(SOON, "the log is opened", || {
            (self.progress.doing() == Doing::Running).then_some(())
        });
        let (release, released) = channel::<()>();
        let (sender, holds) = channel();
        let writer = self.writer.clone();
        let thread = std::thread::spawn(move || {
            writer.with(worker, |_, _| {
                sender.send(()).unwrap();
                // Until the other end is dropped.
                let _ = released.recv();
            });
        });
        holds.recv().unwrap();
        Held(Some((release, thread)))
    }
}

struct Held(Option<(Sender<()>, JoinHandle<()>)>);

impl Drop for Held {
    fn drop(&mut self) {
        if let Some((release, thread)) = self.0.take() {
            drop(release);
            thread.join().unwrap();
        }
    }
}

fn append(log: &MemoryLog, partition: usize, text: &str) -> Token {
    let record = Record {
        arrived: Timestamp::from_millis(0),
        claimed: false,
        key: None,
        headers: Headers::default(),
        value: Some(Bytes::from(text.to_owned())),
    };
    let Position { partition, offset } = log.append(Partition(partition as u32), record);
    Token {
        log: LOG,
        positions: [(partition, offset)].into_iter().collect(),
    }
}

/// An operation of this worker, the n-th.
fn operation_of(worker: usize, workers: usize, n: usize) -> String {
    let ids = (0..).map(|number| format!("op-{number}"));
    let workers = Workers::new(workers);
    let mut ids = ids.filter(|id| workers.of(OperationId(id).slice()) == worker);
    ids.nth(n).unwrap()
}

fn has_document(db: &Memory, id: &str) -> bool {
    let read = documents::read(db, OperationId(id), &TimeStyle::default());
    read.unwrap().is_some()
}

fn digest(db: &Memory) -> Vec<String> {
    let digest = store::view(db, StoreDigest::of).unwrap();
    let slices = (0..64).map(|n| digest.of_slice(Slice(n)).to_string());
    slices.chain([digest.whole().to_string()]).collect()
}

/// Events of many operations, repeated, with some that cannot be read.
fn workload(seed: u64) -> Vec<(usize, String)> {
    let mut rng = Rng::new(seed);
    let mut texts = Vec::new();
    for n in 0..200 {
        let id = format!("op-{n}");
        let size = 1 + rng.below(10);
        for event in generate::operation(&mut rng, &id, size) {
            for _ in 0..1 + rng.below(2) {
                texts.push(generate::spelled_differently(&mut rng, &event));
            }
        }
        if rng.chance(20) {
            texts.push(format!("junk {n}"));
        }
    }
    rng.shuffle(&mut texts);
    let partition = |text| (rng.below(PARTITIONS), text);
    texts.into_iter().map(partition).collect()
}

#[test]
fn any_number_of_workers_gives_the_same_store_also_if_it_changes_at_each_start() {
    let mut all = Vec::new();
    for plan in [&[1][..], &[3], &[8], &[64], &[1, 8, 3, 2, 64, 1]] {
        let log = MemoryLog::new(LOG, PARTITIONS as u32);
        let db = Arc::new(Memory::default());
        let workload = workload(7);
        for (part, workers) in workload
            .chunks(workload.len().div_ceil(plan.len()))
            .zip(plan)
        {
            let running = start(&db, &log, *workers);
            for (partition, text) in part {
                append(&log, *partition, text);
            }
            running.caught_up();
        }
        all.push(digest(&db));
    }
    assert!(all.iter().all(|digest| *digest == all[0]), "{all:?}");
}

#[test]
fn a_store_that_fails_at_times_and_crashes_is_the_same_in_the_end() {
    let log = MemoryLog::new(LOG, PARTITIONS as u32);
    for (partition, text) in workload(9) {
        append(&log, partition, &text);
    }
    let undisturbed = Arc::new(Memory::default());
    start(&undisturbed, &log, 1).caught_up();
    let db = Arc::new(Memory::default());
    let mut rng = Rng::new(1);
    for workers in [4, 3, 8, 2, 5] {
        let mut dice = Rng::new(workers as u64);
        db.set_faults(Some(Box::new(move || match dice.below(10) {
            0 => WriteFault::Refuse,
            1 => WriteFault::Misreport,
            2 => WriteFault::Die {
                after: dice.chance(50),
            },
            _ => WriteFault::None,
        })));
        {
            let _running = start(&db, &log, workers);
            within(SOON, "the store dies", || db.is_dead().then_some(()));
        }
        db.set_faults(None);
        // Of the writes of all workers, in their order, the first ones survive.
        db.crash(|writes| rng.below(writes + 1));
    }
    start(&db, &log, 4).caught_up();
    assert_eq!(digest(&db), digest(&undisturbed));
}

#[test]
fn an_operation_is_served_while_the_worker_of_another_is_held_up() {
    const WORKERS: usize = 4;
    let log = MemoryLog::new(LOG, 1);
    let db = Arc::new(Memory::default());
    let running = start(&db, &log, WORKERS);
    let held = running.hold(2);
    let stuck = operation_of(2, WORKERS, 0);
    let of_stuck = append(&log, 0, &created(&stuck).to_string());
    for n in 0..50 {
        // Each has records of both, so that the reader has to go on beside those that wait.
        append(
            &log,
            0,
            &created(&operation_of(2, WORKERS, n + 1)).to_string(),
        );
        let free = operation_of(n % 2, WORKERS, n);
        let token = append(&log, 0, &created(&free).to_string());
        assert_eq!(running.wait(Some(&free), &token, SOON), Ok(()), "{n}");
        assert!(has_document(&db, &free));
    }
    let workers = running.progress.by_worker();
    let have_passed = workers.iter().map(|worker| worker.applied.holds(&of_stuck));
    let have_passed: Vec<bool> = have_passed.collect();
    assert_eq!(have_passed, [true, true, false, true]);
    let now = Duration::ZERO;
    assert_eq!(
        running.wait(Some(&stuck), &of_stuck, now),
        Err(WaitError::TimedOut)
    );
    assert_eq!(running.wait(None, &of_stuck, now), Err(WaitError::TimedOut));
    assert!(!has_document(&db, &stuck));
    drop(held);
    running.caught_up();
    assert!(has_document(&db, &stuck));
}

#[test]
fn a_worker_that_is_held_up_longer_than_there_is_memory_catches_up_by_itself() {
    const WORKERS: usize = 3;
    let log = MemoryLog::new(LOG, 2);
    let db = Arc::new(Memory::default());
    let mut settings = in_process::projector(Rules::NONE, None);
    settings.limits.records = 10;
    let running = start_with(&db, &log, WORKERS, settings);
    let held = running.hold(0);
    let mut last = None;
    for n in 0..1_000 {
        append(
            &log,
            n % 2,
            &created(&operation_of(0, WORKERS, n % 7)).to_string(),
        );
        let free = operation_of(1 + n % 2, WORKERS, n % 11);
        last = Some((append(&log, n % 2, &completed(&free).to_string()), free));
    }
    let (token, free) = last.unwrap();
    assert_eq!(running.wait(Some(&free), &token, SOON), Ok(()));
    drop(held);
    running.caught_up();
    drop(running);
    let alone = Arc::new(Memory::default());
    start(&alone, &log, 1).caught_up();
    assert_eq!(digest(&db), digest(&alone));
}

#[test]
fn slices_that_are_equally_far_share_their_position_whatever_the_workers() {
    let log = MemoryLog::new(LOG, PARTITIONS as u32);
    for (partition, text) in workload(3) {
        append(&log, partition, &text);
    }
    let db = Arc::new(Memory::default());
    for workers in [4, 1, 64, 3] {
        start(&db, &log, workers).caught_up();
        let runs = meta::runs(&*db, meta::Source::Events).unwrap();
        assert_eq!(runs.len(), workers, "one for each worker: {runs:?}");
    }
}
