//! What must not grow: memory with the length of a list, and the cost of an event with the number
//! of events of its operation.
//!
//! A program of its own: its ledgers use the whole machine for a while, so other tests would wait.

mod support;

use serde_json::{Value, json};
use support::server::{BATCH, Server};

fn event(operation: &str, kind: &str, n: usize, data: Value) -> Value {
    json!({"specversion": "1.0", "id": format!("{kind}-{n}"), "source": "/w", "subject": operation,
        "type": format!("opledger.{kind}.v1"), "data": data,
        "time": format!("2024-05-{:02}T{:02}:{:02}:{:02}Z", 1 + n / 86_400 % 28, n / 3600 % 24, n / 60 % 60, n % 60)})
}

fn created(operation: &str, n: usize) -> Value {
    event(
        operation,
        "operation.created",
        n,
        json!({"request": {"uri": "/x", "method": "PUT"}}),
    )
}

fn publish(server: &Server, events: impl Iterator<Item = Value>) {
    let events: Vec<Value> = events.collect();
    for batch in events.chunks(1_000) {
        let answer = server.post(BATCH, serde_json::to_vec(batch).unwrap());
        assert_eq!(
            answer.status,
            202,
            "{}",
            String::from_utf8_lossy(&answer.body)
        );
    }
}

fn caught_up(server: &Server) {
    server.eventually("caught up", |server| {
        let metrics = server.metrics();
        metrics.contains("opledger_projector_lag_records 0\n")
    });
}

#[test]
fn a_long_list_streams_in_constant_memory() {
    let count = if support::soak() { 1_000_000 } else { 100_000 };
    let server = Server::start();
    for chunk in (0..count).collect::<Vec<_>>().chunks(10_000) {
        publish(
            &server,
            chunk
                .iter()
                .map(|n| created(&format!("operation-{n:07}"), *n)),
        );
    }
    caught_up(&server);
    // The caches fill during the first reading; the second must not grow.
    let client = server.client();
    for format in ["list", "detail-list"] {
        let path = format!("/v1/operations?format={format}");
        client.drain(&path, |_| {});
        let before = server.resident();
        let mut most = 0;
        let mut operations = 0;
        let (status, length) = client.drain(&path, |piece| {
            operations += piece.windows(10).filter(|w| *w == b"operation-").count();
            most = most.max(server.resident());
        });
        assert_eq!(status, 200);
        // A name split across two pieces is not counted.
        assert!(
            operations > count * 99 / 100 && operations <= count,
            "{operations}"
        );
        let grown = most.saturating_sub(before);
        assert!(
            grown < 16 << 20,
            "{format}: {grown} bytes more while streaming {length}"
        );
    }
}

/// Bytes that the store's process wrote: a measure of work that does not depend on the clock.
fn written(server: &Server) -> u64 {
    let io = std::fs::read_to_string(format!("/proc/{}/io", server.pid())).unwrap();
    let line = io.lines().find(|line| line.starts_with("wchar:")).unwrap();
    line.split(' ').nth(1).unwrap().parse().unwrap()
}

#[test]
fn an_event_costs_the_same_whether_its_operation_has_ten_or_a_hundred_thousand() {
    const EVENTS: usize = 100_000;
    let lanes = |n: usize| {
        let request = json!({"uri": "/x", "method": "PUT"});
        json!({"cluster_id": format!("{}", n % 100), "request_id": format!("{n}"), "request": request})
    };
    // Compares operations of ten events with one operation of all events, in the form where the
    // state grows most.
    let cost = |operation: &dyn Fn(usize) -> String| {
        let server = Server::start();
        publish(
            &server,
            (0..EVENTS).map(|n| match n % 10 {
                0 => created(&operation(n), n),
                _ => event(&operation(n), "cluster.request_sent", n, lanes(n)),
            }),
        );
        caught_up(&server);
        written(&server)
    };
    let many = cost(&|n| format!("op-{}", n / 10));
    let one = cost(&|_| "op".into());
    assert!(one < 2 * many, "{one} bytes written against {many}");
}
