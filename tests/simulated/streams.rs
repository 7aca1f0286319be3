//! Seeded simulation of event streams: the real projector, index of changes and HTTP handlers,
//! on a store in memory that crashes and misreports. Clients connect, disconnect in the middle
//! and resume. At each position that a client gets, it has what matches its filter at that
//! position or a later one. No position is before an earlier one. At the end it has exactly the
//! matching documents.
//!
//! The clock stands still and advances only when all tasks wait. No other thread works, so a
//! seed gives the same run each time.
//!
//! `OPLEDGER_SEED=n cargo test --release --test simulated every_seed_tells` runs one seed.

use super::stream_client::StreamClient;
use crate::support::generate::{self, Rng};
use crate::support::in_process::{self, Get, LOG, record};
use crate::support::reference;
use crate::support::same::{assert_same, short};
use crate::support::{env_number, soak};
use hyper_util::service::TowerToHyperService;
use opledger::domain::{OperationId, Workers};
use opledger::event_log::{self, EventLog, Identity, Limits, Reader, Share};
use opledger::feed::progress::WrittenChange;
use opledger::http::{App, Reads, router};
use opledger::projector::log_position::LogPosition;
use opledger::projector::projection::Keep;
use opledger::projector::record_batch::Audience;
use opledger::projector::step::Rules;
use opledger::projector::{Projection, RecordBatch, Source};
use opledger::store::memory::{Memory, WriteFault};
use opledger::wire::position::{LastOffsets, NextOffsets, Partition, Position, Token};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;

const PARTITIONS: u32 = 3;

#[test]
fn every_stream_gets_every_final_state_for_every_seed() {
    if let Some(seed) = env_number("OPLEDGER_SEED") {
        run(seed);
        return;
    }
    let seeds = if soak() { 100_000 } else { 1_000 };
    for seed in 0..seeds {
        let outcome = std::panic::catch_unwind(|| run(seed));
        if let Err(panic) = outcome {
            eprintln!("seed {seed} failed; run it alone with OPLEDGER_SEED={seed}");
            std::panic::resume_unwind(panic);
        }
    }
}

#[test]
fn a_seed_gives_the_same_run_each_time() {
    let mut sent = 0;
    for seed in 0..100 {
        let (first, second) = (run(seed), run(seed));
        assert_same(&format!("seed {seed}"), &first, &second);
        sent += first.len();
    }
    assert!(sent > 2500, "clients are sent something: {sent} blocks");
}

/// Returns what the clients were sent, and when.
fn run(seed: u64) -> Vec<String> {
    let simulation = || async { Simulation::new(Rng::new(seed)).run().await };
    still_time().block_on(simulation())
}

/// No two tasks run in parallel, and time passes only when all of them wait.
fn still_time() -> tokio::runtime::Runtime {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    runtime.enable_time().start_paused(true).build().unwrap()
}

struct Simulation {
    rng: Rng,
    log: event_log::memory::MemoryLog,
    reader: Box<dyn Reader>,
    store: Arc<Memory>,
    fault: Arc<Mutex<Option<WriteFault>>>,
    window: u64,
    workers: Workers,
    projections: Vec<Projection>,
    audience: Audience,
    /// Written by a worker, and not published yet.
    unpublished: VecDeque<(usize, Token, NextOffsets, Option<WrittenChange>)>,
    app: Arc<App>,
    clients: Vec<StreamClient>,
    truth: Truth,
}

/// The events of the log, and all positions that the store has had.
#[derive(Default)]
pub struct Truth {
    events: BTreeMap<String, Vec<(Position, Value)>>,
    applied: BTreeSet<LastOffsets>,
    /// Documents, by how many of an operation's events of each partition they contain.
    folded: Mutex<BTreeMap<(String, Counts), Option<Value>>>,
}

type Counts = [usize; PARTITIONS as usize];

impl Truth {
    fn append(&mut self, id: String, at: Position, event: Value) {
        let events = self.events.entry(id).or_default();
        events.push((at, event));
    }

    /// The document of an operation when exactly these positions are applied.
    fn document(&self, id: &str, at: &LastOffsets) -> Option<Value> {
        let events = self.events.get(id)?.iter();
        let is_held = |(event_at, _): &&(Position, Value)| at.holds(*event_at);
        let held: Vec<_> = events.filter(is_held).collect();
        let mut counts = Counts::default();
        held.iter()
            .for_each(|(at, _)| counts[at.partition.index()] += 1);
        let mut folded = self.folded.lock().unwrap();
        let fold = || {
            let events: Vec<_> = held.iter().map(|(_, event)| event.clone()).collect();
            reference::document(&events)
        };
        folded
            .entry((id.to_owned(), counts))
            .or_insert_with(fold)
            .clone()
    }

    /// A client at a position has the documents of that position, or of a later one that the
    /// store has had, possibly before a crash.
    pub fn check(&self, client: &StreamClient) {
        let given: Token = client.last_id.parse().unwrap();
        for id in self.events.keys() {
            let wanted = |at: &LastOffsets| {
                let document = self.document(id, at);
                document.filter(|document| client.wants(id, document))
            };
            let held = client.held.get(id).cloned();
            let with = |at: &LastOffsets| {
                let mut both = given.positions.clone();
                at.iter().for_each(|(p, offset)| both.raise(*p, *offset));
                both
            };
            let mut more = self.applied.iter().map(with);
            if wanted(&given.positions) != held && !more.any(|at| wanted(&at) == held) {
                let last = client.sent.iter().rev().take(8).rev();
                let last: String = last.map(|block| short(block)).collect();
                let path = &client.path;
                let what = format!("{path}: {id} with the position {given}; sent last:\n{last}");
                assert_same(&what, &held, &wanted(&given.positions));
            }
        }
    }
}

fn app(store: &Arc<Memory>, log: &event_log::memory::MemoryLog, workers: Workers) -> Arc<App> {
    let mut app = in_process::app_of(store, log, workers);
    Arc::get_mut(&mut app).expect("no other owner").reads = Reads::AtOnce;
    app
}

impl Simulation {
    fn new(mut rng: Rng) -> Simulation {
        let workers = Workers::new([1, 2, 3, 8][rng.below(4)]);
        Simulation::of(rng, workers)
    }

    fn of(mut rng: Rng, workers: Workers) -> Simulation {
        let log = event_log::memory::MemoryLog::new(LOG, PARTITIONS);
        let store = Arc::new(Memory::default());
        let fault: Arc<Mutex<Option<WriteFault>>> = Arc::default();
        let shared = fault.clone();
        let next = move || shared.lock().unwrap().take().unwrap_or(WriteFault::None);
        store.set_faults(Some(Box::new(next)));
        let window = [2, 20, 10_000][rng.below(3)];
        let statuses: &[&[&str]] = &[&[], &["executing"], &["unexecuted", "completed"]];
        let mut clients: Vec<_> = statuses.iter().map(|s| StreamClient::of_all(s)).collect();
        clients.extend((0..2).map(|n| StreamClient::of_one(format!("op-{n}"))));
        clients.extend(["1", "a"].map(StreamClient::of_cluster));
        let mut simulation = Simulation {
            reader: log
                .reader(LOG, &NextOffsets::default(), Share::ALL)
                .unwrap(),
            projections: Vec::new(),
            audience: Audience::ONE,
            unpublished: VecDeque::new(),
            app: app(&store, &log, workers),
            workers,
            rng,
            log,
            store,
            fault,
            window,
            clients,
            truth: Truth::default(),
        };
        simulation.start();
        simulation
    }

    async fn run(mut self) -> Vec<String> {
        let mut workload = Vec::new();
        for n in 0..1 + self.rng.below(6) {
            let id = format!("op-{n}");
            let size = 1 + self.rng.below(14);
            for event in generate::operation(&mut self.rng, &id, size) {
                workload.push((id.clone(), event));
            }
        }
        self.rng.shuffle(&mut workload);
        while !workload.is_empty() {
            match self.rng.below(20) {
                0..5 => self.append(&mut workload),
                5..9 => drop(self.project(5)),
                9 => self.crash(),
                10..13 => {
                    let client = self.rng.below(self.clients.len());
                    self.miss_one(client, &mut workload).await;
                }
                _ => {
                    let client = self.rng.below(self.clients.len());
                    self.meet(client).await;
                }
            }
        }
        self.catch_up(5);
        for client in 0..self.clients.len() {
            self.finish(client).await;
        }
        let sent = self.clients.into_iter().flat_map(|client| client.sent);
        sent.collect()
    }

    fn append(&mut self, workload: &mut Vec<(String, Value)>) {
        for _ in 0..1 + self.rng.below(4) {
            let Some((id, event)) = workload.pop() else {
                return;
            };
            let partition = Partition(self.rng.below(PARTITIONS as usize) as u32);
            self.append_to(partition, id, event);
        }
    }

    fn append_to(&mut self, partition: Partition, id: String, event: Value) {
        let at = self.log.append(partition, record(&event));
        self.truth.append(id, at, event);
    }

    /// One batch, attempted until it is written or the store dies. False if there was none.
    fn project(&mut self, most: usize) -> bool {
        let limits = Limits {
            records: 1 + self.rng.below(most),
            bytes: usize::MAX,
            patience: Duration::ZERO,
        };
        let mut records = Vec::new();
        self.reader.read(&limits, &mut records).unwrap();
        if records.is_empty() {
            return false;
        }
        let (rules, next) = (&Rules::NONE, NextOffsets::default());
        let dealt = RecordBatch::deal(records, next, rules, &self.audience, &mut Vec::new());
        let mut dealt: Vec<_> = dealt.into_iter().collect();
        self.rng.shuffle(&mut dealt);
        for (worker, mut record_batch) in dealt {
            if !self.apply(worker, &mut record_batch) {
                self.crash();
                return true;
            }
            self.publish_some();
        }
        true
    }

    /// Attempted until it is written; false if the store dies.
    fn apply(&mut self, worker: usize, record_batch: &mut RecordBatch) -> bool {
        let passes = self.workers != Workers::ONE && self.rng.chance(50);
        loop {
            *self.fault.lock().unwrap() = Some(match self.rng.below(20) {
                0 => WriteFault::Refuse,
                1 => WriteFault::Misreport,
                2 => WriteFault::Die { after: false },
                3 => WriteFault::Die { after: true },
                _ => WriteFault::None,
            });
            let projection = &mut self.projections[worker];
            let written = match record_batch.is_empty() && passes {
                true => {
                    projection.pass(record_batch);
                    Ok((None, Vec::new()))
                }
                false => projection
                    .apply(&*self.store, record_batch)
                    .map(|tally| (tally.change, tally.entries)),
            };
            let at = projection.at();
            match written {
                Ok((change, entries)) => {
                    self.truth.applied.insert(at.positions());
                    let change = change.map(|change| WrittenChange { change, entries });
                    let published = (worker, at.token(), at.next(), change);
                    self.unpublished.push_back(published);
                    return true;
                }
                Err(_) if self.store.is_dead() => return false,
                Err(_) => {}
            }
        }
    }

    /// Some workers publish what they wrote, each its own in order.
    fn publish_some(&mut self) {
        while !self.unpublished.is_empty() && self.rng.chance(70) {
            let worker = self.unpublished[self.rng.below(self.unpublished.len())].0;
            self.publish_of(worker);
        }
    }

    fn publish_of(&mut self, worker: usize) {
        let first = self.unpublished.iter().position(|one| one.0 == worker);
        let one = first.and_then(|first| self.unpublished.remove(first));
        let (worker, token, next, change) = one.expect("it has written something");
        self.app.progress.publish(worker, token, &next, change);
    }

    /// All of the log is applied and published.
    fn catch_up(&mut self, most: usize) {
        while self.project(most) {}
        while let Some((worker, ..)) = self.unpublished.front() {
            self.publish_of(*worker);
        }
    }

    fn positions(&self) -> LastOffsets {
        let all = self.projections.iter().map(|one| one.at().clone());
        LogPosition::whole(&all.collect::<Vec<_>>()).positions()
    }

    /// The process dies and starts again, perhaps without its last writes.
    fn crash(&mut self) {
        *self.fault.lock().unwrap() = None;
        self.store.crash(|buffered| self.rng.below(buffered + 1));
        self.start();
    }

    fn start(&mut self) {
        let log = Identity {
            id: LOG,
            name: "simulated".into(),
        };
        let keep = Keep {
            hot_bytes: 10_000,
            change_window: self.window,
        };
        if self.workers != Workers::ONE {
            self.workers = Workers::new([2, 3, 8][self.rng.below(3)]);
        }
        let (store, source) = (&*self.store, Source::Events);
        let projections = Projection::open_all(store, source, &log, self.workers, keep);
        self.projections = projections.unwrap();
        self.unpublished.clear();
        let all: Vec<_> = { self.projections.iter() }
            .map(|one| one.at().clone())
            .collect();
        let whole = LogPosition::whole(&all);
        // Batches may have been written before the process died, and not reported.
        let each = all.iter().map(LogPosition::furthest);
        let each: Vec<_> = each.map(|next| next.last()).collect();
        self.truth.applied.extend(each);
        let by_slice = whole.by_slice();
        let slices = by_slice.iter().flatten().map(NextOffsets::last);
        self.truth.applied.extend(slices);
        self.truth.applied.insert(whole.positions());
        self.audience = Audience {
            seen: by_slice,
            workers: self.workers,
            ..Audience::ONE
        };
        self.reader = self.log.reader(LOG, &whole.next(), Share::ALL).unwrap();
        self.app = app(&self.store, &self.log, self.workers);
        if self.workers != Workers::ONE {
            let positions = all.iter().map(|at| (at.token(), at.next())).collect();
            let next_change = self.projections[0].next_change();
            self.app.progress.begin(next_change, positions);
        }
        for client in &mut self.clients {
            client.disconnect();
        }
    }

    /// A client connects and reads some blocks. It may then disconnect.
    async fn meet(&mut self, client: usize) {
        let get = TowerToHyperService::new(router(self.app.clone()));
        let client = &mut self.clients[client];
        let most = match self.rng.below(3) {
            0 => 1 + self.rng.below(3),
            _ => usize::MAX,
        };
        client.connect(&get).await;
        client.read(&get, &self.truth, most).await;
        if self.rng.chance(40) {
            client.disconnect();
        }
    }

    /// A client that has seen everything is away while exactly one record is applied.
    async fn miss_one(&mut self, client: usize, workload: &mut Vec<(String, Value)>) {
        self.catch_up(5);
        self.read_all(client).await;
        self.clients[client].disconnect();
        if let Some(one) = workload.pop() {
            self.append(&mut vec![one]);
        }
        self.catch_up(1);
        self.read_all(client).await;
    }

    async fn read_all(&mut self, client: usize) {
        let get = TowerToHyperService::new(router(self.app.clone()));
        let client = &mut self.clients[client];
        client.connect(&get).await;
        client.read(&get, &self.truth, usize::MAX).await;
    }

    async fn finish(&mut self, client: usize) {
        let get = TowerToHyperService::new(router(self.app.clone()));
        let all = self.positions();
        let client = &mut self.clients[client];
        let ids = self.truth.events.keys();
        let expected: BTreeMap<&String, Value> = ids
            .filter_map(|id| Some((id, self.truth.document(id, &all)?)))
            .filter(|(id, document)| client.wants(id, document))
            .collect();
        // Resume if the stream breaks off.
        for _ in 0..3 {
            client.connect(&get).await;
            client.read(&get, &self.truth, usize::MAX).await;
        }
        // The stream of one operation closes after a terminal event, and the client does not
        // get later changes.
        if !client.is_over {
            let held: BTreeMap<&String, Value> =
                client.held.iter().map(|(id, d)| (id, d.clone())).collect();
            assert_same(&client.path, &held, &expected);
        }
    }
}

fn event(kind: &str, second: u32) -> Value {
    json!({"specversion": "1.0", "id": kind, "source": "/w", "subject": "op-0",
        "type": format!("opledger.{kind}.v1"), "time": format!("2024-05-06T07:08:0{second}Z"),
        "data": {"request": {"uri": "/x", "method": "PUT"}}})
}

/// The store loses its last writes. Then one batch creates the operation and also moves it past
/// the status of the filter. By that batch alone, it never matched.
#[test]
fn an_operation_that_matched_only_in_a_lost_write_is_reported_as_left() {
    still_time().block_on(async {
        let mut simulation = Simulation::of(Rng::new(1), Workers::ONE);
        for (second, kind) in [(1, "operation.created"), (2, "operation.started")] {
            simulation.append_to(Partition(0), "op-0".to_owned(), event(kind, second));
        }
        simulation.catch_up(1000);
        let (everything, executing) = (0, 1);
        simulation.read_all(executing).await;
        let held: Vec<_> = simulation.clients[executing].held.keys().collect();
        assert_eq!(held, ["op-0"]);
        simulation.store.crash(|_| 0);
        simulation.start();
        // The ledger records the changes of entries only while a client watches a list.
        simulation.read_all(everything).await;
        let canceled = event("operation.canceled", 3);
        simulation.append_to(Partition(1), "op-0".to_owned(), canceled);
        simulation.catch_up(1000);
        simulation.read_all(executing).await;
        assert_eq!(simulation.clients[executing].held, BTreeMap::new());
    });
}

#[test]
fn a_removed_operation_is_reported_to_streams() {
    // Nothing removes operations yet, so the test removes the rows itself.
    use opledger::rows::keys;
    use opledger::store::{Batch, Db, Durability, Family};
    use opledger::wire::change::{ChangeNumber, Moves, encode};
    still_time().block_on(async {
        let mut simulation = Simulation::of(Rng::new(1), Workers::ONE);
        let created = ("op-0".to_owned(), event("operation.created", 1));
        simulation.append(&mut vec![created]);
        simulation.catch_up(5);
        for client in [0, 3] {
            simulation.read_all(client).await;
        }
        let mut batch = Batch::default();
        batch.delete(Family::State, &keys::operation(OperationId("op-0")));
        simulation
            .store
            .write(&batch, Durability::Buffered)
            .unwrap();
        let get: Get = TowerToHyperService::new(router(simulation.app.clone()));
        let moves = Moves::of_all(Vec::new());
        let row = encode(&moves, [OperationId("op-0")].into_iter());
        batch.put(Family::Change, &keys::change(ChangeNumber(1)), &row);
        simulation
            .store
            .write(&batch, Durability::Buffered)
            .unwrap();
        let change = opledger::feed::watch::Change::new(ChangeNumber(1), row.into(), 1);
        let at = simulation.projections[0].at();
        let progress = &simulation.app.progress;
        let published = WrittenChange {
            change,
            entries: Vec::new(),
        };
        progress.publish(0, at.token(), &at.next(), Some(published));
        for client in [0, 3] {
            let client = &mut simulation.clients[client];
            client.connect(&get).await;
            // The log has no record of the removal, so there is nothing to compare with.
            client.read(&get, &Truth::default(), usize::MAX).await;
            assert_eq!(client.held, BTreeMap::new(), "{}", client.path);
        }
    });
}
