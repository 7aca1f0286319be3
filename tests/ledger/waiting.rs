//! Conditional and waiting reads of one document, on the built binary.

use crate::support::server::{Answer, BATCH, Server};
use crate::support::soak;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

fn event(operation: &str, kind: &str, second: u32) -> Value {
    let data = match kind {
        "operation.created" => json!({"request": {"uri": "/x", "method": "PUT"}}),
        "operation.completed" => json!({"response": {"status_code": 200}}),
        _ => json!({}),
    };
    json!({"specversion": "1.0", "id": kind, "source": "/w", "subject": operation,
        "type": format!("opledger.{kind}.v1"), "data": data,
        "time": format!("2024-05-06T07:08:{second:02}Z")})
}

fn created(operation: &str) -> Value {
    event(operation, "operation.created", 0)
}

fn until_one_waits(server: &Server) {
    server.eventually("it waits", |server| {
        let metrics = server.metrics();
        metrics.contains("opledger_watched_operations 1\n")
    });
}

/// Publishes `op` and reads it.
fn first(server: &Server) -> Answer {
    let token = server.publish(&[created("op")]);
    server.get_with("/v1/operations/op", &[("ledger-position", &token)])
}

/// Reads in another thread, and runs `change` after the read has begun to wait.
fn while_it_waits(
    server: &Server,
    path: &str,
    headers: &[(&str, &str)],
    change: impl FnOnce(),
) -> Answer {
    thread::scope(|scope| {
        let client = server.client();
        let waiting = scope.spawn(move || client.get(path, headers));
        until_one_waits(server);
        change();
        waiting.join().unwrap()
    })
}

#[test]
fn a_read_waits_for_a_document_that_does_not_exist_yet() {
    let server = Server::start();
    let path = "/v1/operations/late";
    let wait = [("prefer", "wait=15")];
    let answer = while_it_waits(&server, path, &wait, || {
        // Neither another operation nor a history without a creation is the document.
        server.publish(&[created("another"), event("late", "operation.started", 1)]);
        assert_eq!(server.get(path).status, 404);
        server.publish(&[created("late")]);
    });
    assert_eq!(answer.status, 200);
    assert_eq!(answer.json()["operation_id"], "late");
    assert!(!answer.header("etag").is_empty());
    // No read waits after the document exists, and no read without the preference waits.
    assert_eq!(server.get_with(path, &wait).status, 200);
    assert_eq!(server.get("/v1/operations/never").status, 404);
}

#[test]
fn a_read_with_an_etag_waits_until_the_document_differs() {
    let server = Server::start();
    let path = "/v1/operations/op";
    let first = first(&server);
    let etag = first.header("etag").to_owned();
    let headers = [
        ("if-none-match", &*etag),
        ("prefer", "respond-async, wait=15"),
    ];
    let answer = while_it_waits(&server, path, &headers, || {
        // A repeated event does not change the document.
        server.publish(&[created("op")]);
        server.publish(&[event("op", "operation.started", 1)]);
    });
    assert_eq!(answer.status, 200);
    assert_eq!(answer.json()["status"], "executing");
    assert_ne!(answer.header("etag"), etag);
    // If the client has another version, the response is immediate.
    assert_eq!(server.get_with(path, &headers).status, 200);
}

/// The values of a document by path. Paths include array indexes.
fn leaves(path: &str, value: &Value, all: &mut BTreeMap<String, Value>) {
    match value {
        Value::Object(members) => {
            for (name, inner) in members {
                leaves(&format!("{path}/{name}"), inner, all);
            }
        }
        Value::Array(elements) => {
            for (at, inner) in elements.iter().enumerate() {
                leaves(&format!("{path}/{at}"), inner, all);
            }
        }
        leaf => {
            all.insert(path.to_owned(), leaf.clone());
        }
    }
}

/// Each step changes one thing that a client sees. Most steps change nothing else.
#[test]
fn a_client_with_an_older_etag_gets_the_new_document_whatever_changed() {
    let server = Server::start();
    let path = "/v1/operations/op";
    // Among events of the same second the id decides, so the last change need not change a
    // time.
    let event = |id: &str, kind: &str, second: u32, data: Value| {
        json!({"specversion": "1.0", "id": id, "source": "/w", "subject": "op",
            "type": format!("opledger.{kind}.v1"), "data": data,
            "time": format!("2024-05-06T07:08:{second:02}Z")})
    };
    let request =
        |uri: &str, method: &str, body: &str| json!({"uri": uri, "method": method, "body": body});
    let created = |id, second, uri, method, body| {
        let data = json!({"request": request(uri, method, body)});
        event(id, "operation.created", second, data)
    };
    let lane = |request: Value| json!({"cluster_id": "4", "request": request});
    let answer = |status_code: u16, body: &str| json!({"status_code": status_code, "body": body});
    let answered = |status_code: u16, body: &str| json!({"cluster_id": "4", "response": answer(status_code, body)});
    let ended = |status_code: u16, body: &str| json!({"response": answer(status_code, body)});
    let (sent, got) = ("cluster.request_sent", "cluster.response_received");
    let (undo, undone) = ("rollback.attempted", "rollback.response_received");
    let alone = |field: &'static str| vec![field];
    let steps = [
        (created("9", 10, "/x", "PUT", "b"), vec![]),
        (created("8", 10, "/y", "PUT", "b"), alone("/request/uri")),
        (
            created("7", 10, "/y", "PATCH", "b"),
            alone("/request/method"),
        ),
        (created("6", 10, "/y", "PATCH", "c"), alone("/request/body")),
        (
            event("1", "operation.started", 12, json!({})),
            vec!["/status", "/last_update_time"],
        ),
        (created("5", 9, "/y", "PATCH", "c"), alone("/occurred_time")),
        (
            event("2", "operation.progressed", 12, json!({"sub_status": "a"})),
            alone("/sub_status"),
        ),
        (
            event("3", "operation.progressed", 12, json!({"sub_status": "b"})),
            alone("/sub_status"),
        ),
        (
            event("4", "operation.started", 13, json!({})),
            alone("/last_update_time"),
        ),
        (
            event("9", sent, 11, lane(request("/x", "PUT", "b"))),
            vec!["/target_clusters"],
        ),
        (
            event("8", sent, 11, lane(request("/y", "PUT", "b"))),
            alone("/target_clusters/0/request/uri"),
        ),
        (
            event("7", sent, 11, lane(request("/y", "POST", "b"))),
            alone("/target_clusters/0/request/method"),
        ),
        (
            event("6", sent, 11, lane(request("/y", "POST", "c"))),
            alone("/target_clusters/0/request/body"),
        ),
        (
            event("1", got, 12, answered(200, "b")),
            vec!["/target_clusters/0/response"],
        ),
        (
            event("2", got, 12, answered(201, "b")),
            alone("/target_clusters/0/response/status_code"),
        ),
        (
            event("3", got, 12, answered(201, "c")),
            alone("/target_clusters/0/response/body"),
        ),
        (
            event("9", undo, 12, lane(request("/x", "PUT", "b"))),
            vec!["/rollbacks"],
        ),
        (
            event("8", undo, 12, lane(request("/x", "PUT", "c"))),
            alone("/rollbacks/target_clusters/0/request/body"),
        ),
        (
            event("7", undo, 11, lane(request("/x", "PUT", "c"))),
            alone("/rollbacks/occurred_time"),
        ),
        (
            event("1", undone, 12, answered(200, "b")),
            vec!["/rollbacks/target_clusters/0/response", "/rollbacks/result"],
        ),
        (
            event("2", undone, 12, answered(200, "c")),
            alone("/rollbacks/target_clusters/0/response/body"),
        ),
        (
            event("3", undone, 12, answered(201, "c")),
            alone("/rollbacks/target_clusters/0/response/status_code"),
        ),
        (
            event("4", undone, 12, answered(500, "c")),
            vec![
                "/rollbacks/target_clusters/0/response/status_code",
                "/rollbacks/result",
            ],
        ),
        (
            event("9", "operation.completed", 13, ended(200, "b")),
            vec!["/status", "/sub_status", "/response"],
        ),
        (
            event("8", "operation.completed", 13, ended(201, "b")),
            alone("/response/status_code"),
        ),
        (
            event("7", "operation.completed", 13, ended(201, "c")),
            alone("/response/body"),
        ),
        (
            event("6", "operation.failed", 13, ended(201, "c")),
            alone("/status"),
        ),
        (
            event("5", "operation.canceled", 13, json!({})),
            vec!["/status", "/response"],
        ),
    ];
    let (mut known, mut tags) = (None::<Answer>, BTreeSet::new());
    for (event, changes) in steps {
        let token = server.publish(std::slice::from_ref(&event));
        let by_token = ("ledger-position", &*token);
        let now = match &known {
            None => server.get_with(path, &[by_token]),
            Some(known) => {
                let etag = ("if-none-match", known.header("etag"));
                server.get_with(path, &[by_token, etag])
            }
        };
        assert_eq!(now.status, 200, "the document has changed by {event}");
        assert!(
            tags.insert(now.header("etag").to_owned()),
            "a new tag by {event}"
        );
        // The document cache has the same tag.
        assert_eq!(server.get(path).header("etag"), now.header("etag"));
        if let Some(known) = &known {
            let (mut before, mut after) = (BTreeMap::new(), BTreeMap::new());
            leaves("", &known.json(), &mut before);
            leaves("", &now.json(), &mut after);
            let paths = before.keys().chain(after.keys());
            let changed = paths.filter(|path| before.get(*path) != after.get(*path));
            let changed: BTreeSet<&String> = changed.collect();
            for path in &changed {
                let is_meant = changes.iter().any(|meant| path.starts_with(meant));
                assert!(is_meant, "{path} changed by {event}");
            }
            for meant in changes {
                let is_changed = changed.iter().any(|path| path.starts_with(meant));
                assert!(is_changed, "{meant} did not change by {event}");
            }
        }
        known = Some(now);
    }
}

#[test]
fn a_wait_ends_in_time_with_the_present_state() {
    let server = Server::with(&[
        ("SERVER__MAX_WAIT", "300ms"),
        ("SERVER__DEFAULT_WAIT", "300ms"),
    ]);
    let path = "/v1/operations/op";
    let started = Instant::now();
    // The setting limits the wait.
    let missing = server.get_with(path, &[("prefer", "wait=3000")]);
    missing.refused(404, "030001");
    assert!(!missing.headers.contains_key("etag"));
    let first = first(&server);
    let headers = [
        ("if-none-match", first.header("etag")),
        ("prefer", "wait=1000"),
    ];
    let same = server.get_with(path, &headers);
    assert_eq!((same.status, same.body.len()), (304, 0));
    assert_eq!(same.header("etag"), first.header("etag"));
    assert!(same.headers.contains_key("ledger-position"));
    let took = started.elapsed();
    assert!(took >= Duration::from_millis(600), "both waited: {took:?}");
    assert!(took < Duration::from_secs(15), "neither for long: {took:?}");
}

#[test]
fn waiting_requests_end_when_the_ledger_stops() {
    let server = Server::with(&[("SERVER__SHUTDOWN_GRACE", "60s")]);
    thread::scope(|scope| {
        let client = server.client();
        let waiting =
            scope.spawn(move || client.get("/v1/operations/never", &[("prefer", "wait=30")]));
        until_one_waits(&server);
        let started = Instant::now();
        assert!(server.terminate().success());
        assert_eq!(waiting.join().unwrap().status, 404);
        assert!(started.elapsed() < Duration::from_secs(15));
    });
}

/// Each reads at once, with the position of the response, what it has published.
#[test]
fn a_client_reads_its_own_writes_while_others_publish() {
    const CLIENTS: usize = 8;
    // A document after each of these.
    const COURSE: [(&str, &str); 3] = [
        ("operation.created", "unexecuted"),
        ("operation.started", "executing"),
        ("operation.completed", "completed"),
    ];
    let pairs = if soak() { 10_000 } else { 1_000 };
    let server = Server::with(&[("PROJECTOR__WORKERS", "4")]);
    let (others, end) = (AtomicU64::new(0), AtomicBool::new(false));
    let took: Vec<Duration> = thread::scope(|scope| {
        for loader in 0..2 {
            let (client, others, end) = (server.client(), &others, &end);
            scope.spawn(move || {
                let mut n = 0;
                while !end.load(Ordering::Relaxed) {
                    let events = (n..n + 500).map(|n| created(&format!("other-{loader}-{n}")));
                    let events = serde_json::to_vec(&events.collect::<Vec<_>>()).unwrap();
                    let answer = client.post("/v1/events", &[("content-type", BATCH)], events);
                    assert_eq!(answer.status, 202);
                    // As much as the ledger can follow: beyond that, every read waits.
                    let last = format!("/v1/operations/other-{loader}-{}", n + 499);
                    let token = answer.header("ledger-position");
                    client.get(&last, &[("ledger-position", token)]);
                    n += 500;
                    others.fetch_add(500, Ordering::Relaxed);
                }
            });
        }
        let clients = (0..CLIENTS).map(|number| {
            let client = server.client();
            scope.spawn(move || {
                let pair = |n: usize| {
                    let id = format!("own-{number}-{}", n / COURSE.len());
                    let (kind, status) = COURSE[n % COURSE.len()];
                    let event = event(&id, kind, (n % COURSE.len()) as u32);
                    let event = serde_json::to_vec(&[event]).unwrap();
                    let answer = client.post("/v1/events", &[("content-type", BATCH)], event);
                    assert_eq!(answer.status, 202);
                    let token = answer.header("ledger-position");
                    let read = Instant::now();
                    let path = format!("/v1/operations/{id}");
                    let answer = client.get(&path, &[("ledger-position", token)]);
                    let took = read.elapsed();
                    assert_eq!(answer.status, 200, "{id} {kind} after {took:?}");
                    assert_eq!(answer.json()["status"], status, "{id} {kind}");
                    took
                };
                (0..pairs / CLIENTS).map(pair).collect::<Vec<_>>()
            })
        });
        let clients: Vec<_> = clients.collect();
        let took = clients.into_iter().map(|client| client.join());
        let took: Vec<_> = took.collect();
        end.store(true, Ordering::Relaxed);
        took.into_iter().flat_map(Result::unwrap).collect()
    });
    let mut took = took;
    took.sort();
    eprintln!(
        "{} pairs while {} other events were published: reads took {:?} (median), {:?} (99 of 100), {:?} at most",
        took.len(),
        others.into_inner(),
        took[took.len() / 2],
        took[took.len() * 99 / 100],
        took[took.len() - 1],
    );
}
