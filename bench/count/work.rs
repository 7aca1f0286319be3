//! The work that is counted. Each piece runs once before, so that costs of a first run
//! do not count.

use crate::bodies::{Bodies, Texts};
use crate::generate::realistic;
use axum::body::Body;
use axum::http::Request;
use bytes::Bytes;
use futures_util::FutureExt;
use hyper::service::Service;
use opledger::config::Config;
use opledger::domain::{OperationId, Timestamp, Workers};
use opledger::event_log::{EventLog, Identity, Logged, memory as log};
use opledger::feed::progress::{LogState, Progress};
use opledger::http::App;
use opledger::http::front::Front;
use opledger::metrics;
use opledger::projector::step::Rules;
use opledger::projector::{Projection, RecordBatch};
use opledger::rows::state;
use opledger::store::{Batch, Db, Durability, Family, ReadPoint, Result, RowResult, Space, View};
use opledger::store::{memory as store, view};
use opledger::webhook;
use opledger::wire::cloudevent::{self, STRUCTURED};
use opledger::wire::document::{Bodies as Shown, bytes};
use opledger::wire::position::{LogId, NextOffsets, Position};
use opledger::wire::record::{Headers, Record, append_history};
use opledger::wire::snapshot;
use opledger::wire::time::TimeStyle;
use serde_json::Value;
use std::hint::black_box;
use std::sync::Arc;
use tokio::runtime;

/// The name of the counted function for callgrind.
pub const COUNTED: &str = "opledger_counted";

/// Only this function is counted.
#[unsafe(no_mangle)]
#[inline(never)]
extern "Rust" fn opledger_counted(work: &mut dyn FnMut()) {
    work();
}

/// Prints the name of the work and its number of units.
fn count(name: &str, units: usize, mut work: impl FnMut()) {
    work();
    opledger_counted(&mut work);
    println!("{name}\t{units}");
}

const OPERATIONS: u64 = 1000;

pub fn all() {
    let records: Vec<Logged> = logged(events(0..OPERATIONS));
    decode("decode an event of 330 bytes", &records);
    let texts = Texts::of(Bodies::Large);
    let mut large = events(0..50);
    large.iter_mut().for_each(|event| texts.put_into(event));
    decode("decode an event with a body of 10 KB", &logged(large));
    history(&records);
    cut("decode an event and put it in its place in a cut", &records);
    // A batch has one or two events of each operation, or nearly all of them.
    fold("fold an event as it comes, without the store", &records);
    let blocks = (0..OPERATIONS).step_by(100);
    let blocks = blocks.flat_map(|first| events(first..first + 100));
    let caught_up = logged(blocks.collect());
    fold(
        "fold an event in catching up, without the store",
        &caught_up,
    );
    let db = folded(records);
    render(&db);
    serve(Arc::new(db));
}

/// In the order in which workers publish them: one event of each operation in turn.
fn events(operations: std::ops::Range<u64>) -> Vec<Value> {
    let mut left: Vec<_> = operations.map(|i| realistic(i).into_iter()).collect();
    let mut events = Vec::new();
    while !left.is_empty() {
        events.extend(left.iter_mut().filter_map(Iterator::next));
        left.retain(|operation| operation.len() > 0);
    }
    events
}

fn logged(events: Vec<Value>) -> Vec<Logged> {
    let logged = |(offset, event): (usize, Value)| {
        let content_type = Some(Bytes::from_static(STRUCTURED.as_bytes()));
        let subject = event["subject"].as_str().expect("a subject").to_owned();
        Logged {
            at: Position::from((0, offset as u64)),
            record: Record {
                arrived: Timestamp::from_millis(1_561_619_800_000),
                claimed: false,
                key: Some(subject.into()),
                headers: Headers(vec![(cloudevent::CONTENT_TYPE.into(), content_type)]),
                value: Some(event.to_string().into()),
            },
        }
    };
    events.into_iter().enumerate().map(logged).collect()
}

fn decode(name: &str, records: &[Logged]) {
    count(name, records.len(), || {
        for logged in records {
            black_box(cloudevent::decode(&logged.record)).expect("an event");
        }
    });
}

/// Four records per row.
fn history(records: &[Logged]) {
    let chunks: Vec<Vec<_>> = records
        .chunks_exact(4)
        .map(|four| four.iter().map(|l| (l.at, &l.record)).collect())
        .collect();
    let mut row = Vec::with_capacity(1 << 20);
    count("encode an event of the history", 4 * chunks.len(), || {
        for chunk in &chunks {
            row.clear();
            let events = black_box(chunk).iter().copied();
            (row, _) = append_history(events, std::mem::take(&mut row));
        }
    });
}

/// Includes the row of the history, and freeing the memory.
fn cut(name: &str, records: &[Logged]) {
    let mut copies = vec![records.to_vec(), records.to_vec()];
    count(name, records.len(), || {
        let records = copies.pop().expect("one for each time");
        black_box(RecordBatch::decode(
            records,
            NextOffsets::default(),
            &Rules::NONE,
        ));
    });
}

/// In batches, of which the last three count, because by then the operations are in
/// memory. Several times, because each run has other hash seeds.
fn fold(name: &str, records: &[Logged]) {
    const TIMES: usize = 8;
    let cut_of = records.len() / 6;
    let record_batches = || {
        let record_batches = records.chunks(cut_of).map(<[Logged]>::to_vec);
        record_batches.map(|record_batch| {
            RecordBatch::decode(record_batch, NextOffsets::default(), &Rules::NONE)
        })
    };
    let mut projections: Vec<_> = (0..TIMES).map(|_| Forgetful::open()).collect();
    let mut record_batches: Vec<RecordBatch> = record_batches().collect();
    let (first, last) = record_batches.split_at_mut(3);
    let mut apply = |record_batches: &mut [RecordBatch]| {
        for (db, projection) in &mut projections {
            for record_batch in &mut *record_batches {
                black_box(projection.apply(db, record_batch)).expect("it is in memory");
            }
        }
    };
    apply(first);
    opledger_counted(&mut || apply(last));
    let units: usize = record_batches[3..]
        .iter()
        .map(|record_batch| record_batch.records())
        .sum();
    println!("{name}\t{}", TIMES * units);
}

/// A store that accepts all writes and keeps nothing: the projection has the states that
/// it needs in its cache.
struct Forgetful(store::Memory);

impl Forgetful {
    fn open() -> (Forgetful, Projection) {
        let db = Forgetful(store::Memory::default());
        let projection = projection(&db.0);
        (db, projection)
    }
}

impl Db for Forgetful {
    fn get(&self, family: Family, key: &[u8]) -> RowResult {
        self.0.get(family, key)
    }

    fn multi_get(&self, family: Family, keys: &[&[u8]]) -> Vec<RowResult> {
        self.0.multi_get(family, keys)
    }

    fn write(&self, batch: &Batch, _: Durability) -> Result<()> {
        black_box(batch);
        Ok(())
    }

    fn view(&self, read: &mut dyn FnMut(&dyn View) -> Result<()>) -> Result<()> {
        self.0.view(read)
    }

    fn hold(&self) -> Result<Arc<dyn ReadPoint>> {
        self.0.hold()
    }

    fn reopen(&self) -> Result<()> {
        self.0.reopen()
    }

    fn space(&self) -> Option<Space> {
        self.0.space()
    }
}

fn projection(db: &dyn Db) -> Projection {
    let log = Identity {
        id: LogId(*b"measured"),
        name: "counted".into(),
    };
    let opened = Projection::open(db, &log, 64 << 20);
    opened.expect("the store is new")
}

/// The store after all records are folded.
fn folded(records: Vec<Logged>) -> store::Memory {
    let db = store::Memory::default();
    let mut record_batch = RecordBatch::decode(records, NextOffsets::default(), &Rules::NONE);
    let applied = projection(&db).apply(&db, &mut record_batch);
    applied.expect("it is in memory");
    db
}

fn ids() -> Vec<String> {
    let id = |i| {
        realistic(i)[0]["subject"]
            .as_str()
            .expect("a subject")
            .to_owned()
    };
    (0..OPERATIONS).map(id).collect()
}

fn render(db: &store::Memory) {
    let ids = ids();
    let row = |id: &String| {
        view(db, |view| state::snapshot(view, OperationId(id)))
            .ok()
            .flatten()
    };
    let rows: Vec<_> = ids
        .iter()
        .map(|id| row(id).expect("it was folded"))
        .collect();
    let times = TimeStyle {
        separator: "T".into(),
        offset: Config::default().document.time_offset,
    };
    count("read a state and render its document", ids.len(), || {
        for (id, row) in ids.iter().zip(&rows) {
            let (state, _) = snapshot::decode(row).expect("it is whole");
            black_box(bytes(OperationId(id), &state, Shown::Shown, &times)).expect("a document");
        }
    });
}

/// Requests without a socket.
fn serve(db: Arc<store::Memory>) {
    let config = Config::default();
    let log = Arc::new(log::MemoryLog::new(LogId(*b"measured"), 6));
    let progress = Progress::new(None, Workers::ONE);
    // As a projector reports once it has compared the log.
    progress.set_log(LogState::Confirmed);
    let documents = opledger::app::documents(&config, &progress);
    let app = App::new(
        db.clone(),
        log.clone() as Arc<dyn EventLog>,
        Arc::new(progress),
        webhook::WebhookHandle::idle(db, None),
        documents,
        metrics::install().expect("there is no recorder yet"),
        config,
    );
    let front = Front::new(app);
    let runtime = runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.expect("a runtime of one thread");
    let call = |request: Request<Body>| {
        let answer = runtime.block_on(front.call(request));
        let answer = black_box(answer).expect("a router always responds");
        assert!(answer.status().is_success(), "{}", answer.status());
    };

    let get = |path: String| {
        let request = Request::get(path).header("host", "localhost");
        request.body(Body::empty()).expect("a request")
    };
    let ids = ids();
    count(
        "GET of a document by the routes, without the socket",
        ids.len(),
        || {
            for id in &ids {
                // The query, though empty, sends the request through the routes.
                call(get(format!("/v1/operations/{id}?")));
            }
        },
    );
    count("GET of a document that is at hand", ids.len(), || {
        for id in &ids {
            let answer = front.call(get(format!("/v1/operations/{id}")));
            let answer = answer.now_or_never().expect("the response is immediate");
            black_box(answer).expect("a document");
        }
    });

    let batch = |events: &[Value]| Bytes::from(Value::from(events.to_vec()).to_string());
    let batches: Vec<Bytes> = events(0..OPERATIONS).chunks_exact(100).map(batch).collect();
    let units = 100 * batches.len();
    count("POST of an event, in a batch of 100", units, || {
        for batch in &batches {
            let request = Request::post("/v1/events").header("host", "localhost");
            let request = request.header("content-type", cloudevent::BATCH);
            let body = Body::from(batch.clone());
            call(request.body(body).expect("a request"));
        }
    });
}
