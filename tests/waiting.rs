//! Conditional and waiting reads of one document, on the built binary.

mod support;

use serde_json::{Value, json};
use std::thread;
use std::time::{Duration, Instant};
use support::server::{Answer, Server};

fn event(operation: &str, kind: &str, second: u32) -> Value {
    let data = match kind {
        "operation.created" => json!({"request": {"uri": "/x", "method": "PUT"}}),
        _ => json!({}),
    };
    json!({"specversion": "1.0", "id": kind, "source": "/w", "subject": operation,
        "type": format!("opledger.{kind}.v1"), "data": data,
        "time": format!("2024-05-06T07:08:{second:02}Z")})
}

fn created(operation: &str) -> Value {
    event(operation, "operation.created", 0)
}

/// Runs `read` beside, and `change` once it waits.
fn while_it_waits(
    server: &Server,
    path: &str,
    headers: &[(&str, &str)],
    change: impl FnOnce(),
) -> Answer {
    thread::scope(|scope| {
        let client = server.client();
        let waiting = scope.spawn(move || client.get(path, headers));
        server.eventually("it waits", |server| {
            let metrics = server.metrics();
            metrics.contains("opledger_watched_operations 1\n")
        });
        change();
        waiting.join().unwrap()
    })
}

#[test]
fn a_read_waits_for_a_document_that_is_not_there_yet() {
    let server = Server::start();
    let path = "/v1/operations/late";
    let wait = [("prefer", "wait=50")];
    let answer = while_it_waits(&server, path, &wait, || {
        // Neither another operation nor a history without a creation is the document.
        server.publish(&[created("another"), event("late", "operation.started", 1)]);
        assert_eq!(server.get(path).status, 404);
        server.publish(&[created("late")]);
    });
    assert_eq!(answer.status, 200);
    assert_eq!(answer.json()["operation_id"], "late");
    assert!(!answer.header("etag").is_empty());
    // Once it is there nobody waits, and without a preference nobody does at all.
    assert_eq!(server.get_with(path, &wait).status, 200);
    assert_eq!(server.get("/v1/operations/never").status, 404);
}

#[test]
fn a_read_with_an_etag_waits_until_the_document_differs() {
    let server = Server::start();
    let path = "/v1/operations/op";
    let token = server.publish(&[created("op")]);
    let first = server.get_with(path, &[("ledger-position", &token)]);
    let etag = first.header("etag").to_owned();
    let headers = [
        ("if-none-match", &*etag),
        ("prefer", "respond-async, wait=50"),
    ];
    let answer = while_it_waits(&server, path, &headers, || {
        // A repeat changes nothing that is shown.
        server.publish(&[created("op")]);
        server.publish(&[event("op", "operation.started", 1)]);
    });
    assert_eq!(answer.status, 200);
    assert_eq!(answer.json()["status"], "executing");
    assert_ne!(answer.header("etag"), etag);
    // What the client does not have is answered at once.
    assert_eq!(server.get_with(path, &headers).status, 200);
}

#[test]
fn a_wait_ends_in_time_with_what_there_is() {
    let server = Server::with(&[
        ("SERVER__MAX_WAIT", "300ms"),
        ("SERVER__DEFAULT_WAIT", "300ms"),
    ]);
    let path = "/v1/operations/op";
    let started = Instant::now();
    // Capped by the setting.
    let missing = server.get_with(path, &[("prefer", "wait=3000")]);
    missing.refused(404, "030001");
    assert!(!missing.headers.contains_key("etag"));
    let token = server.publish(&[created("op")]);
    let first = server.get_with(path, &[("ledger-position", &token)]);
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
    assert!(took < Duration::from_secs(30), "neither for long: {took:?}");
}

#[test]
fn a_ledger_that_stops_lets_nobody_wait() {
    let server = Server::with(&[("SERVER__SHUTDOWN_GRACE", "60s")]);
    thread::scope(|scope| {
        let client = server.client();
        let waiting =
            scope.spawn(move || client.get("/v1/operations/never", &[("prefer", "wait=60")]));
        server.eventually("it waits", |server| {
            let metrics = server.metrics();
            metrics.contains("opledger_watched_operations 1\n")
        });
        let started = Instant::now();
        assert!(server.terminate().success());
        assert_eq!(waiting.join().unwrap().status, 404);
        assert!(started.elapsed() < Duration::from_secs(30));
    });
}
