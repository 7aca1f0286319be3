//! Stored formats must stay readable for ever: golden files, written once.
//! `tests/stored/store.txt` has the rows that a fixed log is folded into.
//! `tests/stored/read.json` has what reads return for them. `tests/stored/blocks.txt` has
//! blocks of the log.
//!
//! The rows may change only together with `rows::meta::FORMAT`, or before the first release,
//! when there is no store to keep. `OPLEDGER_WRITE_GOLDEN=1` then writes the rows of the store
//! again. It never writes blocks: they are in logs that may be a user's only copy.

use crate::support::reference;
use crate::support::root;
use crate::support::same::assert_same_text;
use bytes::Bytes;
use opledger::domain::{OperationId, OrderKey, Slices, Timestamp};
use opledger::event_log::{Identity, Logged};
use opledger::feed::documents;
use opledger::projector::projection::Keep;
use opledger::projector::step::Rules;
use opledger::projector::{Projection, RecordBatch, Source};
use opledger::query::{Page, dead_letters, history};
use opledger::rows::digest::StoreDigest;
use opledger::rows::keys;
use opledger::rows::outbox;
use opledger::store::memory::Memory;
use opledger::store::{self, Batch, Db, Durability, Family, View};
use opledger::wire::block;
use opledger::wire::control_record::{Control, Notified};
use opledger::wire::notification::{DeliveryKey, Failing, Tries, encode_tries};
use opledger::wire::position::{LogId, Offset, Position};
use opledger::wire::record::{Headers, Record};
use opledger::wire::stored::{self, BLOCK, BLOCK_COMPRESSED, CHANGE_OF_SLICES, PACKED};
use opledger::wire::time::TimeStyle;
use serde_json::{Map, Value, json};
use std::ops::ControlFlow;
use std::path::PathBuf;

const LOG: LogId = LogId(*b"golden00");
const CONTROL_LOG: LogId = LogId(*b"golden01");

const RULES: Rules = Rules {
    forward_dead_letters: true,
    ..Rules::NONE
};

fn open(db: &dyn Db) -> Projection {
    let log = Identity {
        id: LOG,
        name: "of golden files".into(),
    };
    Projection::open(db, &log, 1 << 20).unwrap()
}

fn golden(name: &str) -> PathBuf {
    root().join("tests/stored").join(name)
}

fn read_golden(name: &str) -> String {
    std::fs::read_to_string(golden(name)).expect("a golden file")
}

fn event(operation: &str, id: &str, kind: &str, second: u8, data: Value) -> Value {
    json!({"specversion": "1.0", "id": id, "source": "/workers/1", "subject": operation,
        "type": format!("opledger.operation.{kind}.v1"),
        "time": format!("2024-05-06T07:08:{second:02}Z"), "data": data})
}

fn created(operation: &str, body: &str) -> Value {
    let request = json!({"uri": "/v1/slices", "method": "PUT", "body": body});
    let to = json!({"address": "192.0.2.1", "port": 8080});
    let data = json!({"request": request, "notification": to});
    event(operation, "created", "created", 1, data)
}

fn sent(operation: &str, n: usize) -> Value {
    let request = json!({"uri": "/v1/ports", "method": "POST", "body": "{}"});
    let data = json!({"cluster_id": format!("c{n}"), "request_id": "1", "request": request});
    let mut sent = event(operation, &format!("sent-{n}"), "request_sent", 2, data);
    sent["type"] = json!("opledger.cluster.request_sent.v1");
    sent
}

fn answered(operation: &str) -> Value {
    let data = json!({"cluster_id": "unasked", "request_id": "1",
        "response": {"status_code": 201, "body": "done"}});
    let mut answered = event(operation, "answered", "response_received", 3, data);
    answered["type"] = json!("opledger.cluster.response_received.v1");
    answered
}

fn completed(operation: &str, id: &str, second: u8) -> Value {
    let data = json!({"response": {"status_code": 200, "body": "all done"}});
    event(operation, id, "completed", second, data)
}

/// The batches of the fixed log. Each is folded at once.
fn cuts() -> Vec<Vec<Value>> {
    let large = "a large body ".repeat(400);
    let many = (0..34).map(|n| sent("operation-many", n));
    vec![
        vec![created("short", "of an id of five letters")],
        vec![created("plain", "as well")],
        vec![
            created("brief", "two in a row"),
            completed("brief", "completed", 4),
        ],
        vec![
            created("operation-ended", "one of several in a row"),
            sent("operation-ended", 1),
            completed("operation-ended", "completed", 4),
            created("operation-revised", "changed after its end"),
            completed("operation-revised", "completed", 5),
            created("operation-large", &large),
        ],
        vec![
            json!("no event"),
            answered("operation-odd"),
            json!("nor this"),
        ],
        [created("operation-many", "with its lanes apart")]
            .into_iter()
            .chain(many)
            .collect(),
        vec![completed("operation-revised", "completed earlier", 3)],
    ]
}

/// Every third record has the producer's timestamp.
fn logged() -> Vec<Vec<Logged>> {
    let mut offset = 0;
    let mut logged = |value: &Value| {
        offset += 1;
        Logged {
            at: Position::from((0, offset)),
            record: Record {
                arrived: Timestamp::from_millis(1_714_979_300_000 + offset as i64),
                claimed: offset % 3 == 1,
                key: value.is_string().then(|| Bytes::from("a key")),
                headers: Headers(vec![("traceparent".into(), Some(Bytes::from("00-1")))]),
                value: Some(value.to_string().into()),
            },
        }
    };
    let record_batches = cuts();
    record_batches
        .iter()
        .map(|record_batch| record_batch.iter().map(&mut logged).collect())
        .collect()
}

fn apply(db: &Memory, projection: &mut Projection, records: Vec<Logged>) {
    let mut record_batch = RecordBatch::decode(records, Default::default(), &RULES);
    projection.apply(db, &mut record_batch).unwrap();
}

/// The store of the fixed log, with the rows of the control log and of delivery attempts.
fn folded() -> Memory {
    let db = Memory::default();
    let mut projection = open(&db);
    for record_batch in logged() {
        apply(&db, &mut projection, record_batch);
    }
    let key_of = |operation: &str, id: &str, secs| {
        let ending = OrderKey {
            time: Timestamp { secs, nanos: 0 },
            source: "/workers/1".into(),
            id: id.to_owned().into(),
        };
        DeliveryKey::of(OperationId(operation), &ending)
    };
    let key = key_of("operation-ended", "completed", 1_714_979_284);
    let delivered = Notified::Delivered {
        attempts: 2,
        status: 204,
        address: "192.0.2.1".into(),
        port: 8080,
    };
    let controls = [
        Control::Begun {
            log: LOG,
            ends: [(0, 2)].into(),
        },
        Control::Notification {
            operation_id: "operation-ended".into(),
            key,
            event: delivered,
        },
    ];
    let records = (0..).zip(controls).map(|(offset, control)| {
        let at = Timestamp::from_millis(1_714_979_400_000);
        let (headers, value) = control.encode("id", at);
        Logged {
            at: Position::from((0, offset)),
            record: Record {
                arrived: at,
                claimed: false,
                key: None,
                headers,
                value: Some(value),
            },
        }
    });
    let log = Identity {
        id: CONTROL_LOG,
        name: "control log of golden files".into(),
    };
    let keep = Keep::NOTHING;
    let mut projection = Projection::open_one(&db, Source::Control, &log, keep).unwrap();
    let mut record_batch =
        RecordBatch::decode(records.collect(), Default::default(), &Rules::CONTROL);
    projection.apply(&db, &mut record_batch).unwrap();
    let mut batch = Batch::default();
    let tries = Tries::Failing(Failing {
        first_ms: 1_714_979_500_000,
        attempts: 3,
        next_ms: 1_714_979_600_000,
        why: "no answer".into(),
    });
    let row = keys::notification(OperationId("operation-revised"), key);
    batch.put(Family::Tries, &row, &encode_tries(&tries));
    db.write(&batch, Durability::Buffered).unwrap();
    db
}

/// A line for each row: the family, the key and the row, with `\xNN` for other bytes than
/// letters.
fn as_text(rows: Vec<(Family, Vec<u8>, Vec<u8>)>) -> String {
    let line = |(family, key, row): &(Family, Vec<u8>, Vec<u8>)| {
        let (key, row) = (key.escape_ascii(), row.escape_ascii());
        format!("{}\t{key}\t{row}\n", family.name())
    };
    rows.iter().map(line).collect()
}

fn unescaped(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        rest = after;
        if *first != b'\\' {
            bytes.push(*first);
            continue;
        }
        let [escaped, after @ ..] = rest else {
            panic!("nothing is escaped in {text}");
        };
        rest = after;
        bytes.push(match escaped {
            b'n' => b'\n',
            b'r' => b'\r',
            b't' => b'\t',
            b'x' => {
                let (digits, after) = rest.split_at(2);
                rest = after;
                u8::from_str_radix(std::str::from_utf8(digits).unwrap(), 16).unwrap()
            }
            other => *other,
        });
    }
    bytes
}

fn rows_of(text: &str) -> Vec<(Family, Vec<u8>, Vec<u8>)> {
    let row = |line: &str| {
        let mut cells = line.split('\t');
        let mut cell = || cells.next().expect("three cells a line");
        let name = cell();
        let family = Family::LEDGER.iter().find(|family| family.name() == name);
        let family = *family.unwrap_or_else(|| panic!("there is no family {name}"));
        (family, unescaped(cell()), unescaped(cell()))
    };
    text.lines().map(row).collect()
}

fn stored() -> Memory {
    let db = Memory::default();
    let mut batch = Batch::default();
    for (family, key, row) in rows_of(&read_golden("store.txt")) {
        batch.put(family, &key, &row);
    }
    db.write(&batch, Durability::Buffered).unwrap();
    db
}

const OPERATIONS: [&str; 8] = [
    "short",
    "plain",
    "brief",
    "operation-ended",
    "operation-revised",
    "operation-large",
    "operation-odd",
    "operation-many",
];

/// All results of reads of a store, as JSON.
fn read(db: &Memory) -> Value {
    let mut all = Map::new();
    let parse = |bytes: &[u8]| serde_json::from_slice::<Value>(bytes).unwrap();
    for operation in OPERATIONS {
        let document = documents::read(db, OperationId(operation), &TimeStyle::default()).unwrap();
        let mut body = Vec::new();
        let emit = &mut |piece: &[u8]| {
            body.extend_from_slice(piece);
            ControlFlow::Continue(())
        };
        history::stream(db, OperationId(operation), &Page::default(), emit).unwrap();
        let document = document.as_deref().map(parse);
        let read = json!({"document": document, "history": parse(&body)});
        all.insert(operation.into(), read);
    }
    let mut body = Vec::new();
    let emit = &mut |piece: &[u8]| {
        body.extend_from_slice(piece);
        ControlFlow::Continue(())
    };
    dead_letters::stream(db, &Page::default(), emit).unwrap();
    all.insert("dead letters".into(), parse(&body));
    all.into()
}

fn pretty(value: &Value) -> String {
    format!("{}\n", serde_json::to_string_pretty(value).unwrap())
}

#[test]
fn a_fixed_log_is_folded_into_the_golden_rows() {
    let db = folded();
    let rows = as_text(db.dump());
    if std::env::var_os("OPLEDGER_WRITE_GOLDEN").is_some() {
        std::fs::write(golden("store.txt"), &rows).unwrap();
        std::fs::write(golden("read.json"), pretty(&read(&db))).unwrap();
    }
    let what = "rows of the store, which change with its format alone";
    assert_same_text(what, rows.as_bytes(), read_golden("store.txt").as_bytes());
}

#[test]
fn golden_rows_are_read_and_folded_on() {
    let db = stored();
    let mut projection = open(&db);
    let what = "what is read of the golden rows";
    let (found, expected) = (pretty(&read(&db)), read_golden("read.json"));
    assert_same_text(what, found.as_bytes(), expected.as_bytes());
    assert_eq!(projection.at().positions(), [(0, 49)].into());
    let begun = outbox::begun(&db, LOG).unwrap();
    assert_eq!(begun, Some([(0, 2)].into()));
    // The fold continues from there.
    let ended = completed("operation-many", "completed", 9);
    let mut more = logged().remove(0);
    more[0].at.offset = Offset(50);
    more[0].record.value = Some(ended.to_string().into());
    apply(&db, &mut projection, more);
    let all: Vec<Value> = cuts().concat();
    let of_it = |event: &&Value| event["subject"] == "operation-many";
    let mut events: Vec<Value> = all.iter().filter(of_it).cloned().collect();
    events.push(ended);
    let found = documents::read(&db, OperationId("operation-many"), &TimeStyle::default()).unwrap();
    let found: Value = serde_json::from_slice(&found.unwrap()).unwrap();
    assert_eq!(found, reference::document(&events).unwrap());
}

#[test]
fn the_golden_rows_have_every_encoding_of_the_store() {
    let rows = rows_of(&read_golden("store.txt"));
    let of_log = [BLOCK, BLOCK_COMPRESSED];
    for (name, byte) in stored::ALL {
        // Only RocksDB's adapter packs rows, and only several workers write changes of some slices.
        // Their own tests have golden rows.
        if of_log.contains(byte) || [PACKED, CHANGE_OF_SLICES].contains(byte) {
            continue;
        }
        let has_it = rows.iter().any(|(_, _, row)| row.first() == Some(byte));
        assert!(has_it, "{name}");
    }
}

#[test]
fn the_digest_of_the_golden_rows_never_changes() {
    let digest = store::view(&stored(), StoreDigest::of).unwrap();
    let expected = "7f9c05d28b3c56dc4189565e6b4d6c15549e6d41b5cc53b0cfa2287d7afa4e5e";
    assert_eq!(digest.whole().to_string(), expected);
    // Those of slices add up to it, and can be worked out alone.
    for slice in Slices::ALL.iter() {
        let alone = |view: &dyn View| StoreDigest::of_slices(view, slice.into());
        let alone = store::view(&stored(), alone).unwrap();
        assert_eq!(alone.whole(), digest.of_slice(slice), "{slice:?}");
    }
}

#[test]
fn a_block_of_the_log_is_read_as_it_was_written() {
    let record = |n: i64, value: &str| Record {
        arrived: Timestamp::from_millis(1_714_979_300_000 + n),
        claimed: false,
        key: Some(Bytes::from("a key")),
        headers: Headers(vec![
            ("traceparent".into(), Some(Bytes::from("00-1"))),
            ("empty".into(), None),
        ]),
        value: Some(Bytes::copy_from_slice(value.as_bytes())),
    };
    let nothing = Record {
        key: None,
        headers: Headers::default(),
        value: None,
        ..record(3, "")
    };
    let plain = vec![record(1, "one"), record(2, "another"), nothing];
    let alike: Vec<Record> = (0..40).map(|n| record(n, "all of them alike")).collect();
    let text = read_golden("blocks.txt");
    let blocks: Vec<Vec<u8>> = text.lines().map(unescaped).collect();
    let [stored_plain, stored_compressed] = &blocks[..] else {
        panic!("two blocks, a line each");
    };
    let encode = |records: &[Record]| block::Encoder::default().append(records.iter(), Vec::new());
    let written = encode(&plain).escape_ascii().to_string();
    assert_eq!(written, stored_plain.escape_ascii().to_string());
    // The exact output of LZ4 may change.
    assert_eq!(encode(&alike)[..9], stored_compressed[..9]);
    for (stored, records) in [(stored_plain, plain), (stored_compressed, alike)] {
        let read = block::decode(&Bytes::copy_from_slice(stored)).unwrap();
        assert_eq!(read, records);
    }
}
