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

use crate::support::generate::{self, Rng};
use crate::support::in_process::{self, Get, LOG, call, json_of, open, record};
use crate::support::reference;
use crate::support::same::{assert_same, short};
use crate::support::{env_number, soak};
use axum::body::Body;
use http_body_util::BodyExt;
use hyper_util::service::TowerToHyperService;
use opledger::domain::OperationId;
use opledger::event_log::{self, EventLog, Limits, Reader, Share};
use opledger::feed::progress::WrittenChange;
use opledger::http::{App, Reads, router};
use opledger::projector::step::Rules;
use opledger::projector::{Projection, RecordBatch};
use opledger::store::memory::{Memory, WriteFault};
use opledger::wire::position::{LastOffsets, NextOffsets, Partition, Position, Token};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::time::Instant;

const PARTITIONS: u32 = 3;
/// After this time without data, a client assumes that no more comes. It passes at once.
const PATIENCE: Duration = Duration::from_secs(1);

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
    assert!(sent > 3000, "clients are sent something: {sent} blocks");
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
    projection: Projection,
    app: Arc<App>,
    clients: Vec<Client>,
    truth: Truth,
}

/// The events of the log, and all positions that the store has had.
#[derive(Default)]
struct Truth {
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
    fn check(&self, client: &Client) {
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

fn app(store: &Arc<Memory>, log: &event_log::memory::MemoryLog) -> Arc<App> {
    let mut app = in_process::app(store, log);
    Arc::get_mut(&mut app).expect("no other owner").reads = Reads::AtOnce;
    app
}

impl Simulation {
    fn new(mut rng: Rng) -> Simulation {
        let log = event_log::memory::MemoryLog::new(LOG, PARTITIONS);
        let store = Arc::new(Memory::default());
        let fault: Arc<Mutex<Option<WriteFault>>> = Arc::default();
        let shared = fault.clone();
        let next = move || shared.lock().unwrap().take().unwrap_or(WriteFault::None);
        store.set_faults(Some(Box::new(next)));
        let window = [2, 20, 10_000][rng.below(3)];
        let statuses: &[&[&str]] = &[&[], &["executing"], &["unexecuted", "completed"]];
        let mut clients: Vec<_> = statuses.iter().map(|s| Client::of_all(s)).collect();
        clients.extend((0..2).map(|n| Client::of_one(format!("op-{n}"))));
        clients.extend(["1", "a"].map(Client::of_cluster));
        Simulation {
            reader: log
                .reader(LOG, &NextOffsets::default(), Share::ALL)
                .unwrap(),
            projection: open(&store, window),
            app: app(&store, &log),
            rng,
            log,
            store,
            fault,
            window,
            clients,
            truth: Truth::default(),
        }
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
        while self.project(5) {}
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
        let mut record_batch = RecordBatch::decode(records, Default::default(), &Rules::NONE);
        loop {
            *self.fault.lock().unwrap() = Some(match self.rng.below(20) {
                0 => WriteFault::Refuse,
                1 => WriteFault::Misreport,
                2 => WriteFault::Die { after: false },
                3 => WriteFault::Die { after: true },
                _ => WriteFault::None,
            });
            match self.projection.apply(&*self.store, &mut record_batch) {
                Ok(tally) => {
                    self.truth.applied.insert(self.projection.at().positions());
                    in_process::publish(&self.app, &self.projection, tally);
                    return true;
                }
                Err(_) if self.store.is_dead() => {
                    self.crash();
                    return true;
                }
                Err(_) => {}
            }
        }
    }

    /// The process dies and starts again, perhaps without its last writes.
    fn crash(&mut self) {
        *self.fault.lock().unwrap() = None;
        self.store.crash(|buffered| self.rng.below(buffered + 1));
        self.start();
    }

    fn start(&mut self) {
        self.projection = open(&self.store, self.window);
        // A batch may have been written before the process died, and not reported.
        self.truth.applied.insert(self.projection.at().positions());
        self.reader = self
            .log
            .reader(LOG, &self.projection.at().next(), Share::ALL)
            .unwrap();
        self.app = app(&self.store, &self.log);
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
        while self.project(5) {}
        self.read_all(client).await;
        self.clients[client].disconnect();
        if let Some(one) = workload.pop() {
            self.append(&mut vec![one]);
        }
        while self.project(1) {}
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
        let client = &mut self.clients[client];
        let all = self.projection.at().positions();
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

fn covers(held: &LastOffsets, wanted: &LastOffsets) -> bool {
    wanted.iter().all(|(p, o)| held.get(p) >= Some(o))
}

/// Does what a client has to do, and checks what it gets.
struct Client {
    path: String,
    statuses: Vec<String>,
    /// The operation of a stream of one operation.
    only: Option<String>,
    /// Only operations with a request to this cluster, or a rollback of one.
    cluster: Option<String>,
    held: BTreeMap<String, Value>,
    /// The id of the last block. The next connection sends it as `Last-Event-ID`.
    last_id: String,
    connection: Option<Body>,
    buffer: Vec<u8>,
    is_over: bool,
    /// All blocks that it was ever sent, each with the time since the start.
    sent: Vec<String>,
    began: Instant,
}

impl Client {
    fn of_all(statuses: &[&str]) -> Client {
        let pairs = statuses.iter().map(|status| format!("status={status}"));
        let path = format!("/v1/operations?{}", pairs.collect::<Vec<_>>().join("&"));
        Client::new(path, statuses, None)
    }

    fn of_cluster(id: &str) -> Client {
        let client = Client::new(format!("/v1/operations?cluster_id={id}"), &[], None);
        Client {
            cluster: Some(id.to_owned()),
            ..client
        }
    }

    fn of_one(id: String) -> Client {
        Client::new(format!("/v1/operations/{id}"), &[], Some(id))
    }

    fn new(path: String, statuses: &[&str], only: Option<String>) -> Client {
        Client {
            path,
            statuses: statuses.iter().map(|s| s.to_string()).collect(),
            only,
            cluster: None,
            held: BTreeMap::new(),
            last_id: String::new(),
            connection: None,
            buffer: Vec::new(),
            is_over: false,
            sent: Vec::new(),
            began: Instant::now(),
        }
    }

    fn wants(&self, id: &str, document: &Value) -> bool {
        let status = document["status"].as_str().unwrap();
        let lists = [
            &document["target_clusters"],
            &document["rollbacks"]["target_clusters"],
        ];
        let lanes = lists.into_iter().filter_map(Value::as_array).flatten();
        let mut clusters = lanes.map(|lane| lane["cluster_id"].as_str().unwrap());
        let cluster = self.cluster.as_deref();
        self.only.as_deref().is_none_or(|only| only == id)
            && (self.statuses.is_empty() || self.statuses.iter().any(|s| s == status))
            && cluster.is_none_or(|cluster| clusters.any(|id| id == cluster))
    }

    async fn connect(&mut self, get: &Get) {
        if self.connection.is_some() || self.is_over {
            return;
        }
        if self.last_id.is_empty() {
            // It starts again, with a full listing.
            self.held.clear();
        }
        let last_id = self.last_id.clone();
        let headers = [("accept", "text/event-stream"), ("last-event-id", &last_id)];
        let response = call(get, &self.path, &headers).await;
        match response.status().as_u16() {
            200 => self.connection = Some(response.into_body()),
            204 => self.is_over = true,
            // The store lost its last writes, or knows no log yet: retry later.
            504 | 503 => {}
            status => panic!("{status}: {:?}", json_of(response).await),
        }
    }

    fn disconnect(&mut self) {
        self.connection = None;
        self.buffer.clear();
    }

    /// Reads up to `most` blocks, until no more come.
    async fn read(&mut self, get: &Get, truth: &Truth, most: usize) {
        let mut blocks = 0;
        while blocks < most {
            if let Some(end) = self.buffer.windows(2).position(|two| two == b"\n\n") {
                let block: Vec<u8> = self.buffer.drain(..end + 2).collect();
                let block = String::from_utf8(block).unwrap();
                self.sent
                    .push(format!("{:?}: {block}", self.began.elapsed()));
                self.take(get, &block).await;
                if block.lines().any(|line| line.starts_with("id: ")) {
                    truth.check(self);
                }
                blocks += 1;
                continue;
            }
            let Some(connection) = &mut self.connection else {
                return;
            };
            match tokio::time::timeout(PATIENCE, connection.frame()).await {
                Ok(Some(Ok(frame))) => self.buffer.extend_from_slice(frame.data_ref().unwrap()),
                Ok(Some(Err(_)) | None) => self.disconnect(),
                Err(_) => return,
            }
        }
    }

    async fn take(&mut self, get: &Get, block: &str) {
        let field = |name: &str| {
            let mut lines = block.lines();
            lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
        };
        if let Some(id) = field("id") {
            let after: Token = id.parse().unwrap();
            if !self.last_id.is_empty() {
                let before: Token = self.last_id.parse().unwrap();
                let has_gone_on = covers(&after.positions, &before.positions);
                assert!(has_gone_on, "{before} then {after}");
            }
            self.last_id = id.to_owned();
        }
        let Some(kind) = field("event") else { return };
        let data: Value = serde_json::from_str(field("data").unwrap()).unwrap();
        let id = data["operation_id"].as_str().unwrap_or_default().to_owned();
        match kind {
            "document" => {
                assert!(self.wants(&id, &data), "{}: {data}", self.path);
                let ended =
                    ["completed", "failed", "canceled"].contains(&data["status"].as_str().unwrap());
                self.is_over = self.only.is_some() && ended;
                self.held.insert(id, data);
            }
            "left" | "removed" => drop(self.held.remove(&id)),
            "reset" => self.list_again(get).await,
            "waiting" | "position" => {}
            other => panic!("{other}"),
        }
    }

    async fn list_again(&mut self, get: &Get) {
        self.held.clear();
        let last_id = self.last_id.clone();
        let position = [("ledger-position", &*last_id)];
        let list = json_of(call(get, &self.path, &position).await).await;
        for id in list["operation_ids"].as_array().unwrap() {
            let id = id.as_str().unwrap();
            let document =
                json_of(call(get, &format!("/v1/operations/{id}"), &position).await).await;
            if self.wants(id, &document) {
                self.held.insert(id.to_owned(), document);
            }
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
        let mut simulation = Simulation::new(Rng::new(1));
        for (second, kind) in [(1, "operation.created"), (2, "operation.started")] {
            simulation.append_to(Partition(0), "op-0".to_owned(), event(kind, second));
        }
        while simulation.project(1000) {}
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
        while simulation.project(1000) {}
        simulation.read_all(executing).await;
        assert_eq!(simulation.clients[executing].held, BTreeMap::new());
    });
}

#[test]
fn a_removed_operation_is_reported_to_streams() {
    // Nothing removes operations yet, so the test removes the rows itself.
    use opledger::rows::keys;
    use opledger::store::{Batch, Db, Durability, Family};
    use opledger::wire::change::ChangeNumber;
    still_time().block_on(async {
        let mut simulation = Simulation::new(Rng::new(1));
        let created = ("op-0".to_owned(), event("operation.created", 1));
        simulation.append(&mut vec![created]);
        while simulation.project(5) {}
        for client in [0, 3] {
            simulation.meet(client).await;
        }
        let mut batch = Batch::default();
        batch.delete(Family::State, &keys::operation(OperationId("op-0")));
        simulation
            .store
            .write(&batch, Durability::Buffered)
            .unwrap();
        let get: Get = TowerToHyperService::new(router(simulation.app.clone()));
        let row = opledger::wire::change::encode(&[], [OperationId("op-0")].into_iter());
        batch.put(Family::Change, &keys::change(ChangeNumber(1)), &row);
        simulation
            .store
            .write(&batch, Durability::Buffered)
            .unwrap();
        let change = opledger::feed::watch::Change::new(ChangeNumber(1), row.into(), 1);
        let at = simulation.projection.at();
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
