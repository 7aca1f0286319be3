//! The running projector: what halts it, what it sets aside, what it survives.

use crate::support::deadline::{SOON, within};
use crate::support::events::{broken, completed, created};
use crate::support::generate::{self, Rng};
use crate::support::in_process;
use crate::support::same::assert_same;
use bytes::Bytes;
use opledger::domain::{OperationId, Timestamp, Workers};
use opledger::event_log::memory::MemoryLog;
use opledger::event_log::{EventLog, Identity, Limits, Share};
use opledger::feed::documents;
use opledger::feed::progress::{Doing, Progress};
use opledger::projector::halt::OpenError;
use opledger::projector::projection::Keep;
use opledger::projector::run;
use opledger::projector::step::Rules;
use opledger::projector::writer::StoreWriter;
use opledger::projector::{Halt, Projection, RecordBatch};
use opledger::query::{Page, dead_letters};
use opledger::rows::meta;
use opledger::rows::state;
use opledger::store::memory::{Memory, WriteFault};
use opledger::store::{self, Batch, Db, Durability, Family};
use opledger::wire::position::{LogId, NextOffsets, Partition, Position, Token};
use opledger::wire::record::{Headers, Record};
use opledger::wire::time::TimeStyle;
use opledger::worker::WorkerThread;
use serde_json::{Value, json};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant};

const LOG: LogId = LogId(*b"testing0");

struct Running {
    progress: Arc<Progress>,
    _projector: WorkerThread,
}

fn start(db: Arc<dyn Db>, log: &MemoryLog) -> Running {
    let progress = Arc::new(Progress::new(meta::token(&*db).unwrap(), Workers::ONE));
    let rules = Rules {
        max_size: 4096,
        ..Rules::NONE
    };
    let settings = in_process::projector(rules, Some(Duration::from_millis(10)));
    let log = Arc::new(log.clone());
    let writer = StoreWriter::new(db, Workers::ONE, Keep::default());
    let projector = run::start(
        writer,
        log,
        progress.clone(),
        Arc::new(in_process::Silent),
        settings,
    );
    Running {
        progress,
        _projector: projector.unwrap(),
    }
}

impl Running {
    #[track_caller]
    fn until(&self, what: &str, holds: impl Fn(&Doing) -> bool) -> Doing {
        within(SOON, what, || Some(self.progress.doing()).filter(&holds))
    }

    fn caught_up(&self, log: &MemoryLog) {
        let ends = log.bounds().unwrap();
        let ends: NextOffsets = ends.iter().map(|(p, b)| (*p, b.end)).collect();
        let token = Token {
            log: log.id().unwrap(),
            positions: ends.last(),
        };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let deadline = Instant::now() + SOON;
        runtime
            .block_on(self.progress.wait_for(&token, deadline))
            .unwrap_or_else(|error| {
                let (applied, doing) = (self.progress.applied(), self.progress.doing());
                let applied = &applied.token;
                panic!("{error:?}: {applied:?} is applied, of {token}; the projector: {doing:?}")
            });
    }
}

fn record(key: Option<&str>, value: Option<&str>) -> Record {
    Record {
        arrived: Timestamp::from_millis(0),
        claimed: false,
        key: key.map(|key| Bytes::from(key.to_owned())),
        headers: Headers::default(),
        value: value.map(|value| Bytes::from(value.to_owned())),
    }
}

fn letters(db: &dyn Db) -> Vec<Value> {
    let mut body = Vec::new();
    dead_letters::stream(db, &Page::default(), &mut |piece| {
        body.extend_from_slice(piece);
        ControlFlow::Continue(())
    })
    .unwrap();
    let body: Value = serde_json::from_slice(&body).unwrap();
    body["dead_letters"].as_array().unwrap().clone()
}

#[test]
fn every_kind_of_invalid_record_is_a_dead_letter_and_the_rest_is_applied() {
    let log = MemoryLog::new(LOG, 1);
    let [unknown, value, range] =
        broken().map(|(reason, event)| (reason, record(None, Some(&event.to_string()))));
    let good = created("x").to_string();
    let poison = [
        ("malformed", record(None, Some("{"))),
        unknown,
        value,
        range,
        ("key_mismatch", record(Some("other"), Some(&good))),
        ("tombstone", record(Some("x"), None)),
    ];
    for (n, (_, bad)) in poison.iter().enumerate() {
        log.append(
            Partition(0),
            record(None, Some(&created(&format!("good-{n}")).to_string())),
        );
        log.append(Partition(0), bad.clone());
    }
    log.append(
        Partition(0),
        record(Some("good-last"), Some(&created("good-last").to_string())),
    );
    let db = Arc::new(Memory::default());
    let running = start(db.clone(), &log);
    running.caught_up(&log);
    for id in (0..poison.len())
        .map(|n| format!("good-{n}"))
        .chain(["good-last".into()])
    {
        assert!(
            documents::read(&*db, OperationId(&id), &TimeStyle::default())
                .unwrap()
                .is_some(),
            "{id}"
        );
    }
    let letters = letters(&*db);
    let found: Vec<_> = letters.iter().map(|l| l["reason"].to_string()).collect();
    let expected: Vec<_> = poison.iter().map(|(r, _)| format!("\"{r}\"")).collect();
    assert_same("the reasons", &found, &expected);
    for (n, (reason, bad)) in poison.iter().enumerate() {
        assert_eq!(letters[n]["position"], format!("0:{}", 2 * n + 1));
        assert_eq!(letters[n]["reason"], *reason, "{}", letters[n]);
        assert_eq!(letters[n]["value_base64"].is_null(), bad.value.is_none());
        assert!(!letters[n]["detail"].as_str().unwrap().is_empty());
    }
    assert_eq!(
        documents::read(&*db, OperationId("x"), &TimeStyle::default()).unwrap(),
        None
    );
}

#[test]
fn a_hundred_thousand_random_records_stop_nothing() {
    let log = MemoryLog::new(LOG, 2);
    let mut rng = Rng::new(5);
    let event = created("x").to_string().into_bytes();
    for n in 0..100_000u32 {
        let bytes: Vec<u8> = match n % 3 {
            0 => (0..rng.below(40)).map(|_| rng.below(256) as u8).collect(),
            1 => event.iter().take(rng.below(event.len())).copied().collect(),
            _ => {
                let mut bytes = event.clone();
                bytes[rng.below(event.len())] = rng.below(256) as u8;
                bytes
            }
        };
        let mut record = record(None, None);
        record.value = Some(Bytes::from(bytes));
        log.append(Partition(n % 2), record);
    }
    let last = log.append(
        Partition(0),
        record(None, Some(&created("after-all").to_string())),
    );
    // One batch has thousands of them, as in a rebuild.
    let db = Memory::default();
    let mut projection = Projection::open(&db, &named(LOG), 1 << 20).unwrap();
    let mut reader = log.reader(LOG, &Default::default(), Share::ALL).unwrap();
    let limits = Limits {
        records: 10_000,
        bytes: usize::MAX,
        patience: Duration::ZERO,
    };
    loop {
        let mut record_batch = Vec::new();
        reader.read(&limits, &mut record_batch).unwrap();
        if record_batch.is_empty() {
            break;
        }
        let mut record_batch = RecordBatch::decode(record_batch, Default::default(), &Rules::NONE);
        projection.apply(&db, &mut record_batch).unwrap();
    }
    assert_eq!(projection.at().positions()[&Partition(0)], last.offset);
    assert!(
        documents::read(&db, OperationId("after-all"), &TimeStyle::default())
            .unwrap()
            .is_some()
    );
}

#[test]
fn a_store_that_fails_is_tried_until_it_works() {
    let log = MemoryLog::new(LOG, 1);
    let db = Arc::new(Memory::default());
    let running = start(db.clone(), &log);
    running.until("running", |doing| *doing == Doing::Running);
    let faults = std::sync::atomic::AtomicUsize::new(0);
    db.set_faults(Some(Box::new(move || {
        match faults.fetch_add(1, std::sync::atomic::Ordering::Relaxed) {
            n if n > 20 => WriteFault::None,
            n if n % 2 == 0 => WriteFault::Refuse,
            _ => WriteFault::Misreport,
        }
    })));
    log.append(
        Partition(0),
        record(None, Some(&created("late").to_string())),
    );
    running.until("waiting", |doing| matches!(doing, Doing::Waiting(_)));
    running.caught_up(&log);
    running.until("running again", |doing| *doing == Doing::Running);
    assert!(
        documents::read(&*db, OperationId("late"), &TimeStyle::default())
            .unwrap()
            .is_some()
    );
}

fn named(id: LogId) -> Identity {
    let name = "a test".into();
    Identity { id, name }
}

fn put(db: &dyn Db, key: &[u8], value: &[u8]) {
    let mut batch = Batch::default();
    batch.put(Family::Meta, key, value);
    db.write(&batch, Durability::Synced).unwrap();
}

fn halt(db: &dyn Db, log: LogId) -> Halt {
    match Projection::open(db, &named(log), 1000) {
        Err(OpenError::Halt(halt)) => halt,
        Err(error) => panic!("{error}"),
        Ok(_) => panic!("it opened"),
    }
}

#[test]
fn a_store_of_another_log_format_or_fold_is_refused() {
    let db = Memory::default();
    Projection::open(&db, &named(LOG), 1000).unwrap();
    let found = LogId(*b"another0");
    match halt(&db, found) {
        Halt::OtherLog { stored, found } => {
            assert_eq!(stored, "testing0 (a test)");
            assert_eq!(found, "another0 (a test)");
        }
        other => panic!("{other}"),
    }
    put(&db, b"fold", &(meta::FOLD + 1).to_be_bytes());
    assert!(matches!(halt(&db, LOG), Halt::Fold { .. }));
    for other in [0, meta::FORMAT + 1, 6, u8::MAX] {
        put(&db, b"format", &[other]);
        let opened = Projection::open(&db, &named(LOG), 1000).err();
        let looked = meta::is_new(&db).unwrap_err();
        let held = meta::token(&db).unwrap_err();
        for why in [opened.unwrap(), looked.into(), held.into()] {
            let is_typed = matches!(why, OpenError::Store(store::Error::OtherFormat(_)));
            assert!(is_typed, "{why}");
            assert!(why.to_string().contains(&format!("it is {other}")), "{why}");
            assert!(why.to_string().contains("run `opledger rebuild`"), "{why}");
        }
    }
}

#[test]
fn an_unreadable_row_of_a_partition_is_not_skipped() {
    for key in [
        &b"position/\0\0\0\x03"[..],
        b"next/\0\0\0\x03",
        b"begins/\0\0\0\x03",
    ] {
        let db = Memory::default();
        Projection::open(&db, &named(LOG), 1000).unwrap();
        put(&db, key, b"torn");
        let opened = Projection::open(&db, &named(LOG), 1000);
        let error = opened.err().expect("a row is damaged").to_string();
        assert!(
            error.contains("a position of the store cannot be read"),
            "{error}"
        );
    }
}

/// The ways in which a log can change, detected while the projector runs and when it starts.
#[test]
fn a_changed_log_halts_the_projector_before_any_of_it_is_applied() {
    let event = |id: &str| record(None, Some(&created(id).to_string()));
    let old = || vec![event("first"), event("second")];
    let other = LogId(*b"another0");
    type Change = (&'static str, LogId, Vec<Record>, &'static str);
    let changes: Vec<Change> = vec![
        (
            "recreated with fewer records",
            other,
            vec![event("new")],
            "belongs to the log",
        ),
        (
            "recreated with more",
            other,
            vec![event("new"); 9],
            "belongs to the log",
        ),
        ("shorter", LOG, vec![event("first")], "ends before offset"),
        (
            "truncated and appended to",
            LOG,
            vec![event("first"), event("new")],
            "another record",
        ),
    ];
    for (what, id, records, reason) in changes {
        for live in [true, false] {
            let log = MemoryLog::new(LOG, 1);
            log.replace(LOG, vec![old()]);
            let db = Arc::new(Memory::default());
            let mut running = start(db.clone(), &log);
            running.caught_up(&log);
            if !live {
                drop(running);
                log.replace(id, vec![records.clone()]);
                running = start(db.clone(), &log);
            } else {
                log.replace(id, vec![records.clone()]);
            }
            let doing = running.until(what, |doing| matches!(doing, Doing::Halted(_)));
            assert!(format!("{doing:?}").contains(reason), "{what}: {doing:?}");
            let times = TimeStyle::default();
            let is_there = |id| {
                documents::read(&*db, OperationId(id), &times)
                    .unwrap()
                    .is_some()
            };
            assert!(is_there("second"), "{what}: applied events are readable");
            assert!(!is_there("new"), "{what}: nothing of it is applied");
        }
    }
}

#[test]
fn a_record_that_is_too_large_is_a_dead_letter() {
    let log = MemoryLog::new(LOG, 1);
    let mut large = created("large");
    large["data"]["request"]["body"] = json!("x".repeat(5000));
    log.append(Partition(0), record(None, Some(&large.to_string())));
    log.append(
        Partition(0),
        record(None, Some(&created("small").to_string())),
    );
    let db = Arc::new(Memory::default());
    start(db.clone(), &log).caught_up(&log);
    let letters = letters(&*db);
    assert_eq!(letters.len(), 1);
    assert_eq!(letters[0]["reason"], "too_large");
    let times = TimeStyle::default();
    assert!(
        documents::read(&*db, OperationId("small"), &times)
            .unwrap()
            .is_some()
    );
}

#[test]
fn a_log_shorter_than_the_store_halts_the_projector_and_reads_continue() {
    let long = MemoryLog::new(LOG, 2);
    long.append(
        Partition(0),
        record(None, Some(&created("kept").to_string())),
    );
    long.append(
        Partition(1),
        record(None, Some(&created("also").to_string())),
    );
    let db = Arc::new(Memory::default());
    start(db.clone(), &long).caught_up(&long);
    for (short, word) in [
        (MemoryLog::new(LOG, 2), "ends before"),
        (MemoryLog::new(LOG, 1), "ends before"),
    ] {
        let running = start(db.clone(), &short);
        let doing = running.until("halted", |doing| matches!(doing, Doing::Halted(_)));
        let Doing::Halted(why) = doing else {
            unreachable!()
        };
        assert!(why.contains(word), "{why}");
        assert!(
            documents::read(&*db, OperationId("kept"), &TimeStyle::default())
                .unwrap()
                .is_some()
        );
    }
    let fewer = MemoryLog::new(LOG, 1);
    fewer.append(Partition(0), record(None, Some("{}")));
    let running = start(db, &fewer);
    let doing = running.until("halted", |doing| matches!(doing, Doing::Halted(_)));
    assert!(format!("{doing:?}").contains("partition 1"), "{doing:?}");
}

#[test]
fn a_damaged_snapshot_is_restored_from_the_history() {
    let log = MemoryLog::new(LOG, 1);
    let mut events = generate::operation(&mut Rng::new(9), "op", 12);
    events.extend([
        created("op"),
        created("open"),
        created("ended"),
        completed("ended"),
    ]);
    for event in &events {
        log.append(Partition(0), record(None, Some(&event.to_string())));
    }
    let db = Arc::new(Memory::default());
    start(db.clone(), &log).caught_up(&log);
    let times = TimeStyle::default();
    let read = |id| {
        documents::read(&*db, OperationId(id), &times)
            .unwrap()
            .unwrap()
    };
    let snapshot = |id| store::view(&*db, |view| state::snapshot(view, OperationId(id))).unwrap();
    let ids = ["op", "open", "ended"];
    let whole = ids.map(|id| (read(id), snapshot(id)));
    let mut batch = Batch::default();
    for (family, key, row) in db.dump() {
        if family == Family::State {
            batch.put(family, &key, &row[..row.len() / 2]);
        }
    }
    db.write(&batch, Durability::Synced).unwrap();
    assert_eq!(
        ids.map(read),
        whole.clone().map(|(document, _)| document),
        "when read"
    );
    for id in ids {
        log.append(Partition(0), record(None, Some(&created(id).to_string())));
    }
    start(db.clone(), &log).caught_up(&log);
    assert_eq!(
        ids.map(|id| (read(id), snapshot(id))),
        whole,
        "when written"
    );
}

#[test]
fn positions_name_the_records_that_were_published() {
    let at = Position::from((3, 1042));
    assert_eq!(at.to_string(), "3:1042");
}
