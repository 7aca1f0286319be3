//! While many events come in, what projects runs when nothing else does, and as everything else
//! once they have come: seen by the kernel's own account of the ledger's threads.
//!
//! A program of its own: what gives way runs only while the machine has nothing else to do.
#![cfg(target_os = "linux")]

mod support;

use serde_json::json;
use std::collections::BTreeSet;
use std::fs;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;
use support::deadline::LATER;
use support::server::{BATCH, Server};

/// Names of the threads that run when nothing else does.
fn giving_way(server: &Server) -> BTreeSet<String> {
    let threads = fs::read_dir(format!("/proc/{}/task", server.pid())).unwrap();
    // One may end while it is looked at.
    let stats = threads.filter_map(|t| fs::read_to_string(t.ok()?.path().join("stat")).ok());
    let named = stats.filter_map(|stat| {
        let (head, fields) = stat.rsplit_once(')')?;
        // Field 41, counted from one; the name is the second.
        let policy: i32 = fields.split_whitespace().nth(41 - 3)?.parse().ok()?;
        let name = head.split_once('(')?.1;
        (policy == libc::SCHED_IDLE).then(|| name.to_owned())
    });
    named.collect()
}

/// A batch that costs little to make.
fn batch(n: u64) -> String {
    const EVENTS: u64 = 200;
    let event = |k: u64| {
        let operation = n * EVENTS + k;
        format!(
            r#"{{"specversion":"1.0","id":"1","source":"/sender","subject":"operation-{operation}","type":"opledger.operation.progressed.v1","time":"2024-05-06T07:00:00Z","data":{{"sub_status":"step"}}}}"#
        )
    };
    let events: Vec<String> = (0..EVENTS).map(event).collect();
    format!("[{}]", events.join(","))
}

#[test]
fn projecting_gives_way_while_many_events_come_and_no_longer() {
    let server = Server::start();
    assert_eq!(giving_way(&server), BTreeSet::new());
    let (next, stop) = (AtomicU64::new(0), AtomicBool::new(false));
    let seen = std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                let client = server.client();
                while !stop.load(Ordering::Relaxed) {
                    let n = next.fetch_add(1, Ordering::Relaxed);
                    let answer = client.post("/v1/events", &[("content-type", BATCH)], batch(n));
                    assert_eq!(answer.status, 202);
                }
            });
        }
        let (until, mut seen) = (Instant::now() + LATER, BTreeSet::new());
        while seen.len() < 2 && Instant::now() < until {
            seen.extend(giving_way(&server));
        }
        stop.store(true, Ordering::Relaxed);
        seen
    });
    let both = ["intake", "projector"].map(str::to_owned);
    assert_eq!(seen, BTreeSet::from(both));
    server.eventually("all of it is projected, and nobody gives way", |server| {
        server.get("/readyz").status == 200 && giving_way(server).is_empty()
    });
    // What is published last is read, whoever gave way before.
    let last = json!({"specversion": "1.0", "id": "1", "source": "/sender", "subject": "last",
        "type": "opledger.operation.created.v1", "time": "2024-05-06T07:00:00Z",
        "data": {"request": {"uri": "/x", "method": "PUT"}}});
    let token = server.publish(&[last]);
    assert!(server.document("last", &token).is_some());
}
