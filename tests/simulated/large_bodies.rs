//! Large bodies: stored once, shown in full, and compared as text.

use crate::support::reference;
use bytes::Bytes;
use opledger::domain::{OperationId, Timestamp};
use opledger::event_log::{Identity, Logged};
use opledger::feed::documents;
use opledger::projector::step::Rules;
use opledger::projector::{Projection, RecordBatch};
use opledger::store::Family;
use opledger::store::memory::Memory;
use opledger::wire::position::{LogId, NextOffsets, Position};
use opledger::wire::record::{Headers, Record};
use opledger::wire::time::TimeStyle;
use serde_json::{Value, json};

const ID: &str = "operation-1";

struct Ledger {
    db: Memory,
    projection: Projection,
    offset: u64,
}

fn open(db: &Memory) -> Projection {
    let log = Identity {
        id: LogId(*b"testing0"),
        name: "of the test".into(),
    };
    Projection::open(db, &log, 1 << 20).unwrap()
}

impl Ledger {
    fn new() -> Ledger {
        let db = Memory::default();
        Ledger {
            projection: open(&db),
            db,
            offset: 0,
        }
    }

    /// Applies these events as one batch.
    fn apply(&mut self, events: &[Value]) {
        let logged = events.iter().map(|event| {
            self.offset += 1;
            Logged {
                at: Position::from((0, self.offset)),
                record: Record {
                    arrived: Timestamp::from_millis(1_700_000_000_000),
                    claimed: false,
                    key: None,
                    headers: Headers::default(),
                    value: Some(Bytes::from(event.to_string())),
                },
            }
        });
        let mut record_batch =
            RecordBatch::decode(logged.collect(), NextOffsets::default(), &Rules::NONE);
        self.projection.apply(&self.db, &mut record_batch).unwrap();
    }

    fn document(&self) -> Option<Value> {
        let read = documents::read(&self.db, OperationId(ID), &TimeStyle::default()).unwrap();
        read.map(|bytes| serde_json::from_slice(&bytes).unwrap())
    }

    fn holds(&self, family: Family, text: &str) -> usize {
        let rows = self.db.dump().into_iter().filter(|(f, ..)| *f == family);
        let found = rows.map(|(.., row)| memchr::memmem::find_iter(&row, text).count());
        found.sum()
    }
}

fn event(id: &str, kind: &str, data: Value) -> Value {
    json!({"specversion": "1.0", "id": id, "source": "/w", "subject": ID,
        "type": format!("opledger.{kind}.v1"), "time": "2024-05-06T07:08:09Z", "data": data})
}

fn created(id: &str, body: &str) -> Value {
    let request = json!({"uri": "/u", "method": "PUT", "body": body});
    event(id, "operation.created", json!({ "request": request }))
}

fn answered(id: &str, body: &str) -> Value {
    let response = json!({"status_code": 200, "body": body});
    let data = json!({"cluster_id": "1", "request_id": "r", "response": response});
    event(id, "cluster.response_received", data)
}

fn completed(body: &str) -> Value {
    let response = json!({"status_code": 200, "body": body});
    event(
        "end",
        "operation.completed",
        json!({ "response": response }),
    )
}

/// Bodies that differ only in the middle, which no digest covers.
fn large(name: &str) -> String {
    format!("{}{name}{}", "x".repeat(3000), "y".repeat(3000))
}

#[test]
fn a_large_body_is_stored_once_before_and_after_the_operation_has_ended() {
    let mut ledger = Ledger::new();
    let sent = json!({"cluster_id": "1", "request_id": "r",
        "request": {"uri": "/c", "method": "PUT", "body": large("SENT")}});
    let events = [
        created("1", &large("CREATED")),
        event("2", "cluster.request_sent", sent),
        answered("3", &large("ANSWERED")),
        completed(&large("COMPLETED")),
    ];
    for (n, event) in events.iter().enumerate() {
        ledger.apply(std::slice::from_ref(event));
        assert_eq!(ledger.document(), reference::document(&events[..=n]));
    }
    for name in ["CREATED", "SENT", "ANSWERED", "COMPLETED"] {
        assert_eq!(ledger.holds(Family::History, name), 1);
        assert_eq!(ledger.holds(Family::State, name), 0);
    }
    // A repeated event of a completed operation changes nothing.
    let rows = |ledger: &Ledger| {
        let rows = ledger.db.dump().into_iter();
        let rows = rows.filter(|(f, ..)| *f == Family::State);
        rows.collect::<Vec<_>>()
    };
    let before = rows(&ledger);
    ledger.apply(&events);
    assert_eq!(rows(&ledger), before);
}

#[test]
fn bodies_are_found_whatever_is_between_them() {
    let mut ledger = Ledger::new();
    let mut events = vec![created("1", &large("CREATED"))];
    for n in 0..300 {
        let data = json!({"sub_status": format!("{n} {}", "s".repeat(2000))});
        events.push(event(&format!("2-{n:03}"), "operation.progressed", data));
    }
    events.push(completed(&large("COMPLETED")));
    for record_batch in events.chunks(70) {
        ledger.apply(record_batch);
    }
    assert_eq!(ledger.document(), reference::document(&events));
}

#[test]
fn among_equal_order_keys_the_text_decides_in_any_order_and_batches() {
    let bodies = ["small", &large("A"), &large("B"), &large("A"), "", "\0"];
    let creations: Vec<Value> = bodies.iter().map(|body| created("1", body)).collect();
    let answers: Vec<Value> = bodies.iter().map(|body| answered("2", body)).collect();
    for all in [creations, [answers, vec![created("1", "c")]].concat()] {
        let expected = reference::document(&all);
        for turn in 0..all.len() {
            for size in 1..=all.len() {
                let mut ledger = Ledger::new();
                let mut events = all.clone();
                events.rotate_left(turn);
                if size % 2 == 0 {
                    events.reverse();
                }
                for record_batch in events.chunks(size) {
                    ledger.apply(record_batch);
                }
                assert_eq!(ledger.document(), expected, "turned {turn}, cuts of {size}");
            }
        }
    }
}
