//! Streams of lists share their work: the number of rows that the ledger reads and filters does
//! not grow with the number of streams. Counted, not timed, on the real projector and handlers
//! in memory.

use crate::support::in_process::{self, LOG, open, record};
use axum::body::Body;
use axum::http::Request;
use http_body_util::BodyExt;
use hyper::service::Service;
use hyper_util::service::TowerToHyperService;
use opledger::event_log::memory::MemoryLog as Log;
use opledger::event_log::{EventLog, Limits, Reader, Share};
use opledger::http::{App, router};
use opledger::projector::step::Rules;
use opledger::projector::{Projection, RecordBatch};
use opledger::store::memory::Memory;
use opledger::store::{
    Batch, Cached, Db, Durability, Family, ReadPoint, Result, RowResult, Space, View,
};
use opledger::wire::position::{NextOffsets, Partition};
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Counts the reads of snapshots that streams cause.
#[derive(Default)]
struct Counted {
    memory: Memory,
    asked: AtomicU64,
}

impl Db for Counted {
    fn get(&self, family: Family, key: &[u8]) -> RowResult {
        self.memory.get(family, key)
    }

    fn get_cached(&self, family: Family, key: &[u8]) -> Result<Cached> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        self.memory.get_cached(family, key)
    }

    fn multi_get(&self, family: Family, keys: &[&[u8]]) -> Vec<RowResult> {
        self.memory.multi_get(family, keys)
    }

    fn write(&self, batch: &Batch, durability: Durability) -> Result<()> {
        self.memory.write(batch, durability)
    }

    fn view(&self, read: &mut dyn FnMut(&dyn View) -> Result<()>) -> Result<()> {
        self.memory.view(read)
    }

    fn hold(&self) -> Result<Arc<dyn ReadPoint>> {
        self.memory.hold()
    }

    fn reopen(&self) -> Result<()> {
        self.memory.reopen()
    }

    fn space(&self) -> Option<Space> {
        self.memory.space()
    }
}

struct Ledger {
    log: Log,
    reader: Box<dyn Reader>,
    store: Arc<Counted>,
    projection: Projection,
    app: Arc<App>,
}

impl Ledger {
    fn new() -> Ledger {
        let log = Log::new(LOG, 1);
        let store = Arc::new(Counted::default());
        // As at a first start: the ledger reaches the log later.
        let app = in_process::app(&store, &log);
        Ledger {
            reader: log
                .reader(LOG, &NextOffsets::default(), Share::ALL)
                .unwrap(),
            projection: open(&store.memory, 10_000),
            app,
            store,
            log,
        }
    }

    /// The number of snapshot reads so far.
    fn asked(&self) -> u64 {
        self.store.asked.load(Ordering::Relaxed)
    }

    fn publish_position(&self) {
        in_process::begin(&self.app, &self.projection);
    }

    /// Applies all these events as one batch.
    fn apply(&mut self, events: &[Value]) {
        for event in events {
            self.log.append(Partition(0), record(event));
        }
        let limits = Limits {
            records: events.len(),
            bytes: usize::MAX,
            patience: Duration::ZERO,
        };
        let mut records = Vec::new();
        self.reader.read(&limits, &mut records).unwrap();
        assert_eq!(records.len(), events.len());
        let mut record_batch = RecordBatch::decode(records, Default::default(), &Rules::NONE);
        let tally = self
            .projection
            .apply(&*self.store, &mut record_batch)
            .unwrap();
        in_process::publish(&self.app, &self.projection, tally);
    }

    async fn get(&self, path: &str) -> axum::response::Response {
        let request = Request::get(path).header("accept", "text/event-stream");
        let request = request.body(Body::empty()).unwrap();
        let routes = TowerToHyperService::new(router(self.app.clone()));
        routes.call(request).await.unwrap()
    }

    async fn stream(&self, path: &str) -> Stream {
        let response = self.get(path).await;
        assert_eq!(response.status(), 200, "{path}");
        let mut stream = Stream {
            body: response.into_body(),
            text: String::new(),
        };
        // The initial listing ends with a block that has only the position.
        while !stream.text.contains("event: position\n") {
            assert!(stream.read().await, "{path}: {}", stream.text);
        }
        stream.text.clear();
        stream
    }
}

struct Stream {
    body: Body,
    text: String,
}

impl Stream {
    /// False if no frame comes for a while.
    async fn read(&mut self) -> bool {
        let frame = tokio::time::timeout(Duration::from_millis(300), self.body.frame());
        let Ok(frame) = frame.await else {
            return false;
        };
        let frame = frame.expect("continues").unwrap();
        let piece = std::str::from_utf8(frame.data_ref().unwrap()).unwrap();
        self.text.push_str(piece);
        true
    }

    /// Reads until this many events of this kind came.
    async fn expect(&mut self, kind: &str, count: usize) {
        let line = format!("event: {kind}\n");
        while self.text.matches(&line).count() < count {
            assert!(self.read().await, "{} of {count}", self.text);
        }
        assert_eq!(self.text.matches(&line).count(), count);
        self.text.clear();
    }
}

fn event(operation: &str, kind: &str, n: usize, data: Value) -> Value {
    json!({"specversion": "1.0", "id": format!("{operation}-{kind}-{n}"), "source": "/w",
        "subject": operation, "type": format!("opledger.{kind}.v1"), "data": data,
        "time": format!("2024-05-06T07:{:02}:{:02}Z", n / 60, n % 60)})
}

fn created(operation: &str) -> Value {
    let data = json!({"request": {"uri": "/x", "method": "PUT"}});
    event(operation, "operation.created", 0, data)
}

fn sent_to(operation: &str, cluster: &str) -> Value {
    let data = json!({"cluster_id": cluster, "request_id": "r",
        "request": {"uri": "/x", "method": "PUT"}});
    event(operation, "cluster.request_sent", 1, data)
}

const OPERATIONS: usize = 50;

fn of_all(make: impl Fn(&str) -> Value) -> Vec<Value> {
    (0..OPERATIONS).map(|n| make(&format!("op-{n}"))).collect()
}

#[tokio::test]
async fn streams_that_match_nothing_read_nothing_and_are_not_woken() {
    let mut ledger = Ledger::new();
    ledger.apply(&of_all(created));
    let mut streams = Vec::new();
    for n in 0..80 {
        // Half of them share one filter, the others have their own.
        let cluster = if n % 2 == 0 { 0 } else { n };
        streams.push(
            ledger
                .stream(&format!("/v1/operations?cluster_id=none-{cluster}"))
                .await,
        );
    }
    let mut one = ledger.stream("/v1/operations?cluster_id=here").await;
    for n in 0..20 {
        ledger.apply(&of_all(|id| {
            event(id, "operation.progressed", n, json!({"sub_status": "s"}))
        }));
    }
    ledger.apply(&[sent_to("op-7", "here")]);
    one.expect("document", 1).await;
    assert_eq!(ledger.asked(), 1, "op-7, when it was sent");
    for stream in &mut streams {
        stream.text.clear();
        let frame = tokio::time::timeout(Duration::ZERO, stream.body.frame());
        assert!(frame.await.is_err(), "nothing to send");
    }
    // The streams continue from there, and miss no change that matches.
    ledger.apply(&[sent_to("op-8", "none-0"), sent_to("op-9", "none-1")]);
    for (n, stream) in streams.iter_mut().enumerate() {
        if n % 2 == 0 || n == 1 {
            stream.expect("document", 1).await;
        }
    }
    assert_eq!(ledger.asked(), 3, "each once for forty streams");
}

#[tokio::test]
async fn streams_of_everything_share_what_they_read() {
    let mut ledger = Ledger::new();
    ledger.apply(&of_all(created));
    let mut streams = Vec::new();
    for _ in 0..40 {
        streams.push(ledger.stream("/v1/operations").await);
    }
    ledger.apply(&of_all(|id| event(id, "operation.started", 1, json!({}))));
    for stream in &mut streams {
        stream.expect("document", OPERATIONS).await;
    }
    assert_eq!(ledger.asked(), OPERATIONS as u64);
}

#[tokio::test]
async fn a_slow_stream_gets_each_operation_once() {
    let mut ledger = Ledger::new();
    ledger.apply(&of_all(created));
    let mut all = ledger.stream("/v1/operations").await;
    let mut executing = ledger.stream("/v1/operations?status=executing").await;
    for n in 1..=50 {
        ledger.apply(&of_all(|id| {
            let kind = if n == 1 {
                "operation.started"
            } else {
                "operation.progressed"
            };
            event(id, kind, n, json!({"sub_status": format!("step {n}")}))
        }));
    }
    for stream in [&mut all, &mut executing] {
        while stream.text.matches("step 50").count() < OPERATIONS {
            assert!(stream.read().await, "{}", stream.text);
        }
        stream.expect("document", OPERATIONS).await;
    }
    ledger.apply(&of_all(|id| {
        let data = json!({"response": {"status_code": 200}});
        event(id, "operation.completed", 60, data)
    }));
    all.expect("document", OPERATIONS).await;
    executing.expect("left", OPERATIONS).await;
}

#[tokio::test]
async fn a_stream_gets_retry_after_while_the_log_has_not_been_reached() {
    let ledger = Ledger::new();
    // In this harness no request waits for long.
    let refused = ledger.get("/v1/operations").await;
    assert_eq!(refused.status(), 503);
    assert_eq!(refused.headers()["retry-after"], "1");
    let body = refused.into_body().collect().await.unwrap().to_bytes();
    let body: Value = serde_json::from_slice(&body).unwrap();
    assert!(body.to_string().contains("not been reached"), "{body}");
    let plain = Request::get("/v1/operations").body(Body::empty()).unwrap();
    let routes = TowerToHyperService::new(router(ledger.app.clone()));
    let plain = routes.call(plain).await.unwrap();
    assert_eq!(plain.status(), 200, "the list as it is: empty");
    ledger.publish_position();
    ledger.stream("/v1/operations").await;
}
