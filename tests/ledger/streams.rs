//! Event streams of one operation and of many, on the built binary.

use crate::support::deadline::SOON;
use crate::support::generate::Rng;
use crate::support::server::{BATCH, Client, Server, Settings};
use crate::support::soak;
use crate::support::sse::Stream;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

fn event(operation: &str, kind: &str, n: usize, data: Value) -> Value {
    json!({"specversion": "1.0", "id": format!("{kind}-{n}"), "source": "/w", "subject": operation,
        "type": format!("opledger.{kind}.v1"), "data": data,
        "time": format!("2024-05-06T{:02}:{:02}:{:02}.{:03}Z", 7 + n / 3_600_000,
            n / 60_000 % 60, n / 1000 % 60, n % 1000)})
}

fn created(operation: &str) -> Value {
    let data = json!({"request": {"uri": "/x", "method": "PUT"}});
    event(operation, "operation.created", 0, data)
}

fn started(operation: &str) -> Value {
    event(operation, "operation.started", 1, json!({}))
}

fn progressed(operation: &str, n: usize) -> Value {
    let data = json!({"sub_status": format!("step {n}")});
    event(operation, "operation.progressed", n, data)
}

fn completed(operation: &str, n: usize) -> Value {
    let data = json!({"response": {"status_code": 200}});
    event(operation, "operation.completed", n, data)
}

fn open(server: &Server, path: &str) -> Stream {
    let stream = Stream::open(server.address, path, &[]);
    assert_eq!(stream.status(), 200);
    stream
}

fn resume(server: &Server, path: &str, id: &str) -> Stream {
    Stream::open(server.address, path, &[("last-event-id", id)])
}

#[test]
fn a_stream_follows_one_operation_from_before_its_creation_to_its_end() {
    let server = Server::start();
    let path = "/v1/operations/op";
    let mut stream = open(&server, path);
    assert_eq!(stream.header("content-type"), "text/event-stream");
    assert_eq!(stream.header("cache-control"), "no-store");
    server.publish(&[started("op"), created("another")]);
    let token = server.publish(&[created("op")]);
    let first = stream.next().unwrap();
    assert_eq!(first.kind, "document");
    assert_eq!(first.data["status"], "executing");
    assert_eq!(first.data, server.document("op", &token).unwrap());
    // The event id is a position like any other.
    assert_eq!(server.document("op", &first.id).unwrap(), first.data);
    server.publish(&[progressed("op", 2)]);
    assert_eq!(stream.document()["sub_status"], "step 2");
    server.publish(&[completed("op", 3)]);
    assert_eq!(stream.document()["status"], "completed");
    assert_eq!(stream.next(), None, "it has ended");
    // An EventSource reconnects, and gets the status that stops it.
    let again = resume(&server, path, &stream.last_id);
    assert_eq!(again.status(), 204);
    // A client that has not seen the terminal event gets it.
    let mut behind = resume(&server, path, &first.id);
    assert_eq!(behind.document()["status"], "completed");
    assert_eq!(behind.next(), None);
    // A client without an id knows nothing.
    let mut fresh = open(&server, path);
    assert_eq!(fresh.document()["status"], "completed");
    assert_eq!(fresh.next(), None);
}

#[test]
fn a_resumed_stream_of_one_operation_sends_only_what_changed() {
    let server = Server::start();
    let path = "/v1/operations/op";
    server.publish(&[created("op")]);
    let mut stream = open(&server, path);
    assert_eq!(stream.document()["status"], "unexecuted");
    let id = stream.last_id.clone();
    drop(stream);
    let mut resumed = resume(&server, path, &id);
    server.publish(&[started("op")]);
    assert_eq!(resumed.document()["status"], "executing");
    server.publish(&[progressed("op", 2)]);
    let mut resumed = resume(&server, path, &id);
    assert_eq!(resumed.document()["status"], "executing");
}

#[test]
fn a_resumed_stream_is_sent_each_change_that_it_missed() {
    let server = Server::start();
    let started_of = |n: usize| format!("op-{n}");
    let token = server.publish(&[created("first")]);
    let after = |token: &str| {
        let list = server.get_with("/v1/operations", &[("ledger-position", token)]);
        list.header("ledger-position").to_owned()
    };
    let mut positions = vec![after(&token)];
    for n in 0..4 {
        let token = server.publish(&[created(&started_of(n)), started(&started_of(n))]);
        positions.push(after(&token));
    }
    for path in ["/v1/operations", "/v1/operations?status=executing"] {
        for (seen, position) in positions.iter().enumerate() {
            let mut stream = resume(&server, path, position);
            for n in seen..4 {
                let document = stream.document();
                assert_eq!(
                    document["operation_id"],
                    started_of(n),
                    "{path} after {seen}"
                );
            }
        }
    }
    for (n, position) in positions.iter().enumerate().take(4) {
        let path = format!("/v1/operations/{}", started_of(n));
        let mut stream = resume(&server, &path, position);
        assert_eq!(stream.document()["status"], "executing", "{path}");
    }
}

#[test]
fn a_list_stream_sends_the_present_state_and_then_the_changes() {
    let server = Server::start();
    server.publish(&[created("a"), created("b"), started("b")]);
    let token = server.publish(&[created("c"), started("c"), progressed("early", 1)]);
    server.document("c", &token).unwrap();
    let path = "/v1/operations?status=executing";
    let headers = [("ledger-position", &*token)];
    let mut stream = Stream::open(server.address, path, &headers);
    let mut listed = [stream.document(), stream.document()].map(|d| d["operation_id"].clone());
    listed.sort_by_key(|id| id.to_string());
    assert_eq!(listed, ["b", "c"]);
    server.publish(&[completed("a", 9), completed("b", 9)]);
    let left = stream.next().unwrap();
    assert_eq!(
        (&*left.kind, left.operation_id()),
        ("left", "b"),
        "and not a"
    );
    let token = server.publish(&[created("d"), started("d")]);
    let joined = stream.next().unwrap();
    assert_eq!((&*joined.kind, joined.operation_id()), ("document", "d"));
    assert_eq!(joined.data, server.document("d", &token).unwrap());
    // Each operation that changed since then comes once, in its current state.
    let id = stream.last_id.clone();
    drop(stream);
    for n in 2..30 {
        server.publish(&[progressed("c", n), progressed("a", n)]);
    }
    server.publish(&[completed("d", 40), created("e"), started("e")]);
    let token = server.publish(&[progressed("e", 50)]);
    let all = server.get_with("/v1/operations", &[("ledger-position", &token)]);
    assert_eq!(all.status, 200);
    let mut resumed = resume(&server, path, &id);
    let mut told = BTreeMap::new();
    while ["c", "d", "e"].iter().any(|id| !told.contains_key(*id)) {
        let event = resumed.next().unwrap();
        let before = told.insert(event.operation_id().to_owned(), event.clone());
        assert_eq!(before, None, "each once");
    }
    // "a" never matched, but the ledger cannot know that for changes while nobody watched.
    if let Some(a) = told.remove("a") {
        assert_eq!(a.kind, "left");
    }
    let kinds: Vec<_> = told.iter().map(|(id, e)| (&**id, &*e.kind)).collect();
    let expected = [("c", "document"), ("d", "left"), ("e", "document")];
    assert_eq!(kinds, expected);
    assert_eq!(told["c"].data["sub_status"], "step 29");
    // The same after a position in the query.
    let mut resumed = open(&server, &format!("{path}&position={id}"));
    assert!(["a", "c", "d", "e"].contains(&resumed.next().unwrap().operation_id()));
    // Everything from now on.
    let now = server
        .get("/v1/operations")
        .header("ledger-position")
        .to_owned();
    let mut all = open(&server, &format!("/v1/operations?position={now}"));
    server.publish(&[created("f")]);
    assert_eq!(all.document()["operation_id"], "f");
}

#[test]
fn every_filter_holds_for_streams() {
    let server = Server::start();
    let mut events = vec![created("plain")];
    for (id, uri, method) in [("a", "/v1/slices/1", "PUT"), ("b", "/v1/nodes", "POST")] {
        let request = json!({"uri": uri, "method": method});
        events.push(event(
            id,
            "operation.created",
            5000,
            json!({"request": request}),
        ));
        let lane =
            json!({"cluster_id": format!("cluster-{id}"), "request_id": "r", "request": request});
        events.push(event(id, "cluster.request_sent", 5001, lane.clone()));
        if id == "b" {
            events.push(event(id, "rollback.attempted", 5002, lane));
        }
    }
    let token = server.publish(&events);
    for (query, expected) in [
        ("uri_prefix=%2Fv1%2Fslices", vec!["a"]),
        ("method=POST", vec!["b"]),
        ("cluster_id=cluster-a", vec!["a"]),
        ("cluster_id=cluster", vec![]),
        ("rollback_result=none", vec!["b"]),
        ("rollback_result=failed", vec![]),
        ("status=unexecuted&status=failed", vec!["plain"]),
        ("occurred_from=2024-05-06T07:00:05Z", vec!["b", "a"]),
        ("occurred_to=2024-05-06T16:00:05%2B09:00", vec!["plain"]),
        ("occurred_to=2024-05-06T07:00:05Z&status=executing", vec![]),
    ] {
        let path = format!("/v1/operations?{query}");
        let mut stream = Stream::open(server.address, &path, &[("ledger-position", &token)]);
        assert_eq!(stream.status(), 200, "{query}");
        // Each connection ends its listing with a block that has only the position.
        let told = std::cell::RefCell::new(Vec::new());
        stream.block_that("the end of the listing", |block| {
            if let Some((_, data)) = block.split_once("event: document\ndata: ") {
                let document: Value = serde_json::from_str(data.trim()).unwrap();
                let id = document["operation_id"].as_str().unwrap().to_owned();
                told.borrow_mut().push(id);
            }
            block.contains("event: position\n")
        });
        assert_eq!(told.into_inner(), expected, "{query}");
    }
}

#[test]
fn a_stream_that_cannot_be_resumed_is_reset() {
    let server = Server::with(&[("STREAMS__WINDOW", "3")]);
    let mut tokens = Vec::new();
    for n in 0..20 {
        let token = server.publish(&[created(&format!("op-{n}"))]);
        let list = server.get_with("/v1/operations", &[("ledger-position", &token)]);
        tokens.push(list.header("ledger-position").to_owned());
    }
    let path = "/v1/operations";
    let mut near = resume(&server, path, &tokens[18]);
    assert_eq!(near.document()["operation_id"], "op-19");
    let mut far = resume(&server, path, &tokens[2]);
    let reset = far.next().unwrap();
    assert_eq!(reset.kind, "reset");
    assert!(
        reset.data["reason"]
            .as_str()
            .unwrap()
            .contains("list again")
    );
    // The stream continues from the position of the list that the client has to read now.
    assert_eq!(reset.id, tokens[19]);
    server.publish(&[started("op-4")]);
    assert_eq!(far.document()["operation_id"], "op-4");
    // The stream of one operation needs no window: its document has everything.
    let mut one = resume(&server, "/v1/operations/op-1", &tokens[2]);
    assert_eq!(one.document()["operation_id"], "op-1");
    let other_log = server.get_with(
        path,
        &[
            ("accept", "text/event-stream"),
            ("last-event-id", "another0;0:1"),
        ],
    );
    let message = other_log.refused(410, "010003");
    assert!(message.contains("another log"), "{message}");
}

#[test]
fn a_silent_stream_shows_that_it_is_alive_and_how_far_it_is() {
    let server = Server::with(&[("STREAMS__KEEP_ALIVE", "50ms")]);
    let mut one = open(&server, "/v1/operations/none");
    let mut all = open(&server, "/v1/operations?status=failed");
    let token = server.publish(&[created("op")]);
    server.document("op", &token).unwrap();
    let now = server
        .get("/v1/operations")
        .header("ledger-position")
        .to_owned();
    assert!(one.block().unwrap().contains("event: waiting\n"));
    for _ in 0..4 {
        assert_eq!(one.line().unwrap(), ": keep-alive\n");
    }
    // The client may resume from there, although it got no document.
    let position = format!("event: position\nid: {now}\n");
    all.block_that("the position", |block| block.contains(&position));
}

#[test]
fn a_slow_reader_gets_the_last_state_and_not_all_before() {
    let server = Server::start();
    server.publish(&[created("op"), started("op")]);
    let mut one = open(&server, "/v1/operations/op");
    let mut all = open(&server, "/v1/operations");
    let large = "x".repeat(60 << 10);
    const CHANGES: usize = 200;
    let mut token = String::new();
    for n in 0..CHANGES {
        let data = json!({"sub_status": format!("{n} {large}")});
        token = server.publish(&[event("op", "operation.progressed", n + 2, data)]);
    }
    let last = server.document("op", &token).unwrap();
    for stream in [&mut one, &mut all] {
        let mut told = 0;
        loop {
            told += 1;
            if stream.document() == last {
                break;
            }
        }
        assert!(told < CHANGES, "{told} documents of {CHANGES} changes");
    }
}

/// A stream with packets of the usual network size and a small window: on loopback, the kernel
/// buffers megabytes for a client that does not read. Without the framing of HTTP/1.1.
fn open_narrow(server: &Server, path: &str) -> TcpStream {
    use socket2::{Domain, Socket, Type};
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.set_tcp_mss(1400).unwrap();
    socket.set_recv_buffer_size(64 << 10).unwrap();
    socket.connect(&server.address.into()).unwrap();
    let mut stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(SOON)).unwrap();
    let head =
        format!("GET {path} HTTP/1.0\r\nhost: localhost\r\naccept: text/event-stream\r\n\r\n");
    stream.write_all(head.as_bytes()).unwrap();
    let (mut answer, mut byte) = (Vec::new(), [0]);
    while !answer.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte).unwrap();
        answer.push(byte[0]);
    }
    assert!(
        answer.starts_with(b"HTTP/1.0 200"),
        "{}",
        String::from_utf8_lossy(&answer)
    );
    stream
}

#[test]
fn little_memory_is_used_for_a_stream_that_is_not_read() {
    const OPERATIONS: usize = 100;
    let server = Server::start();
    let mut unread = open_narrow(&server, "/v1/operations");
    let mut read = open(&server, "/v1/operations");
    let large = "x".repeat(60 << 10);
    let ids: Vec<String> = (0..OPERATIONS).map(|n| format!("op-{n}")).collect();
    let begin = |id: &String| [created(id), started(id)];
    server.publish(&ids.iter().flat_map(begin).collect::<Vec<_>>());
    let step = |n: usize| {
        let data = json!({"sub_status": format!("{n} {large}")});
        let events = ids
            .iter()
            .map(|id| event(id, "operation.progressed", n, data.clone()));
        let token = server.publish(&events.collect::<Vec<_>>());
        server.document("op-0", &token).unwrap();
    };
    let is_of = |n: usize, document: &Value| {
        let sub_status = document["sub_status"].as_str();
        sub_status.is_some_and(|text| text.starts_with(&format!("{n} ")))
    };
    step(1);
    let mut told = 0;
    while told < OPERATIONS {
        told += usize::from(is_of(1, &read.document()));
    }
    step(2);
    // The documents of the first step were buffered in the ledger or in the kernel.
    let (mut text, mut piece) = (Vec::new(), vec![0; 64 << 10]);
    let count =
        |n: usize, text: &[u8]| memchr::memmem::find_iter(text, &format!("\"{n} xx")).count();
    while count(2, &text) < OPERATIONS {
        let length = unread.read(&mut piece).unwrap();
        assert_ne!(length, 0, "the stream ended");
        text.extend_from_slice(&piece[..length]);
    }
    let old = count(1, &text);
    assert!(old * large.len() < 1 << 20, "{old} documents");
}

#[test]
fn stream_requests_are_checked_like_other_requests() {
    let server = Server::with(&[("STREAMS__MAX", "1")]);
    let accept = ("accept", "text/event-stream");
    for (query, code, field) in [
        ("limit=3", "010001", "unknown"),
        ("status=done", "010002", "status:"),
        ("occurred_from=yesterday", "010001", "occurred_from:"),
        ("method=GET", "010002", "method:"),
        ("method=PUT&method=POST", "010001", "method:"),
        ("rollback_result=maybe", "010002", "rollback_result:"),
        ("position=nonsense", "010001", "position:"),
    ] {
        let answer = server.get_with(&format!("/v1/operations?{query}"), &[accept]);
        let message = answer.refused(400, code);
        assert!(message.contains(field), "{query}: {message}");
    }
    let bad = [accept, ("last-event-id", "nonsense")];
    server
        .get_with("/v1/operations/op", &bad)
        .refused(400, "010001");
    server
        .get_with("/v1/operations/log%20", &[accept])
        .refused(404, "030001");
    let _only = open(&server, "/v1/operations/op");
    server
        .get_with("/v1/operations", &[accept])
        .refused(429, "000001");
}

#[test]
fn streams_end_with_the_ledger() {
    let server = Server::with(&[("SERVER__SHUTDOWN_GRACE", "60s")]);
    let mut one = open(&server, "/v1/operations/none");
    let mut all = open(&server, "/v1/operations");
    let stopping = std::time::Instant::now();
    assert!(server.terminate().success());
    assert_eq!((one.next(), all.next()), (None, None));
    assert!(stopping.elapsed() < Duration::from_secs(30));
}

/// Creates, changes and completes operations until `stop`. Returns how many were fully
/// acknowledged. The next life sends the others again.
fn work(address: std::net::SocketAddr, worker: usize, from: usize, stop: &AtomicBool) -> usize {
    let client = Client::new(address);
    let mut done = from;
    while !stop.load(Ordering::Relaxed) {
        let id = format!("{worker}-{done}");
        for step in [created(&id), started(&id), completed(&id, 2)] {
            let body = serde_json::to_vec(&[step]).unwrap();
            match client.try_post("/v1/events", &[("content-type", BATCH)], body) {
                Ok(answer) if answer.status == 202 => {}
                Ok(_) | Err(_) => return done,
            }
        }
        done += 1;
    }
    done
}

/// All partitions of a token.
fn positions(token: &str) -> BTreeMap<u32, u64> {
    let (_, list) = token.split_once(';').unwrap();
    let parts = list.split(',').filter(|part| !part.is_empty());
    let part = |part: &str| {
        let (partition, offset) = part.split_once(':').unwrap();
        (partition.parse().unwrap(), offset.parse().unwrap())
    };
    parts.map(part).collect()
}

#[test]
fn kill_9_loses_no_final_state_and_positions_never_go_back() {
    const WORKERS: usize = 3;
    const SETTINGS: Settings = &[("STREAMS__KEEP_ALIVE", "100ms")];
    let lives = if soak() { 20 } else { 6 };
    let folder = tempfile::tempdir().unwrap();
    let mut rng = Rng::new(7);
    let mut done = [0; WORKERS];
    let seen: Mutex<BTreeMap<String, Value>> = Mutex::default();
    let last_id = Mutex::new(String::new());
    // Reads until the stream breaks off, or until `enough`.
    let watch = |server: &Server, enough: &dyn Fn(&BTreeMap<String, Value>) -> bool| {
        let from = last_id.lock().unwrap().clone();
        let headers = [("last-event-id", &*from)];
        // The ledger may be killed before this client connects.
        let opened = Stream::try_open(server.address, "/v1/operations", &headers);
        let Ok(mut stream) = opened else { return };
        assert_eq!(stream.status(), 200, "{from}");
        while !enough(&seen.lock().unwrap()) {
            let Some(event) = stream.next() else { break };
            assert_eq!(event.kind, "document", "nothing is out of the window");
            let mut last = last_id.lock().unwrap();
            if !event.id.is_empty() {
                let (before, after) = (
                    positions(&format!(";{}", last.split_once(';').map_or("", |l| l.1))),
                    positions(&event.id),
                );
                assert!(
                    before.iter().all(|(p, o)| after.get(p) >= Some(o)),
                    "{last} then {}",
                    event.id
                );
                *last = event.id.clone();
            }
            let id = event.operation_id().to_owned();
            seen.lock().unwrap().insert(id, event.data);
        }
    };
    for _ in 0..lives {
        let server = Server::on(folder.path(), SETTINGS);
        let address = server.address;
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let workers: Vec<_> = (0..WORKERS)
                .map(|w| {
                    let (from, stop) = (done[w], &stop);
                    scope.spawn(move || work(address, w, from, stop))
                })
                .collect();
            let (server, watch) = (&server, &watch);
            let watcher = scope.spawn(move || {
                // Sometimes the client connects later, as real clients do.
                watch(server, &|_| false)
            });
            std::thread::sleep(Duration::from_millis(200 + rng.below(500) as u64));
            let pid = rustix::process::Pid::from_raw(server.pid() as i32).unwrap();
            rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
            stop.store(true, Ordering::Relaxed);
            for (w, worker) in workers.into_iter().enumerate() {
                done[w] = worker.join().unwrap();
            }
            watcher.join().unwrap();
        });
    }
    let server = Server::on(folder.path(), SETTINGS);
    assert!(done.iter().sum::<usize>() > 10 * lives, "{done:?}");
    let has_all = |seen: &BTreeMap<String, Value>| {
        (0..WORKERS).all(|w| {
            (0..done[w]).all(|n| {
                let document = seen.get(&format!("{w}-{n}"));
                document.is_some_and(|document| document["status"] == "completed")
            })
        })
    };
    watch(&server, &has_all);
    let now = server
        .get("/v1/operations")
        .header("ledger-position")
        .to_owned();
    for (id, document) in &*seen.lock().unwrap() {
        // Events in flight at the last kill may add to it.
        if document["status"] == "completed" {
            assert_eq!(server.document(id, &now).as_ref(), Some(document), "{id}");
        }
    }
    assert!(has_all(&seen.lock().unwrap()), "all terminal events came");
}
