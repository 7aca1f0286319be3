//! What the control log amounts to, and what stops reading it: on a log in memory.

use crate::support::deadline::{SOON, within};

use opledger::domain::Timestamp;
use opledger::event_log::memory::MemoryLog;
use opledger::event_log::{EventLog, Logged};
use opledger::projector::control::{ControlLog, Heard, State, begun, fold};
use opledger::store::memory::{Memory, WriteFault};
use opledger::store::{Batch, Db, Durability, Family, keys};
use opledger::wire::control_record::{Control, Notified, Said};
use opledger::wire::notification::{DeliveryKey, DeliveryOutcome, decode_outcome};
use opledger::wire::position::{LogId, Offset, Partition, Position};
use opledger::wire::record::{Headers, Record};
use std::sync::{Arc, Mutex};

const LOG: LogId = LogId(*b"testing0");
const OTHER: LogId = LogId(*b"testing1");
const KEY: DeliveryKey = DeliveryKey([7; 16]);

fn notification(event: Notified) -> Control {
    Control::Notification {
        operation_id: "op".into(),
        key: KEY,
        event,
    }
}

fn was_delivered() -> Control {
    notification(Notified::Delivered {
        attempts: 2,
        status: 200,
        address: "10.0.0.1".into(),
        port: 80,
    })
}

fn was_given_up() -> Control {
    notification(Notified::Failed {
        attempts: 9,
        why: "no answer".into(),
    })
}

fn record(headers: Headers, value: impl Into<Vec<u8>>) -> Record {
    Record {
        arrived: Timestamp::from_millis(0),
        claimed: false,
        key: None,
        headers,
        value: Some(value.into().into()),
    }
}

fn as_record(control: &Control, millis: i64) -> Record {
    let (headers, value) = control.encode("id", Timestamp::from_millis(millis));
    record(headers, value)
}

/// Folds them one by one or all at once: what comes out may not depend on it.
fn folded(controls: &[Control], at_once: bool) -> (Memory, Vec<Heard>) {
    let db = Memory::default();
    let row = keys::notification("op", KEY);
    let mut due = Batch::default();
    due.put(Family::Outbox, &row, b"due");
    due.put(Family::Tries, &row, b"tries");
    db.write(&due, Durability::Buffered).unwrap();
    let logged: Vec<_> = (0..)
        .zip(controls)
        .map(|(n, control)| Logged {
            at: Position::from((0, n)),
            record: as_record(control, n as i64),
        })
        .collect();
    let mut heard = Vec::new();
    let size = if at_once { logged.len().max(1) } else { 1 };
    for some in logged.chunks(size) {
        let mut batch = Batch::default();
        heard.extend(fold(&db, some, &mut batch).unwrap());
        db.write(&batch, Durability::Buffered).unwrap();
    }
    (db, heard)
}

fn outcome(db: &Memory) -> Option<DeliveryOutcome> {
    let row = db
        .get(Family::Outcome, &keys::notification("op", KEY))
        .unwrap();
    row.map(|row| decode_outcome(&row).unwrap())
}

#[test]
fn the_last_word_counts_and_delivered_is_for_good() {
    let said = Said::default;
    let retried = || notification(Notified::Retried(said()));
    let again = |at_ms| Some(DeliveryOutcome::Again { at_ms });
    for at_once in [true, false] {
        let (db, heard) = folded(&[was_given_up(), retried()], at_once);
        assert_eq!(outcome(&db), again(1));
        assert_eq!(heard, [Heard::Again("op".into(), KEY)]);
        assert!(
            db.get(Family::Outbox, &keys::notification("op", KEY))
                .unwrap()
                .is_some()
        );

        let (db, _) = folded(&[retried(), was_given_up()], at_once);
        assert!(matches!(
            outcome(&db),
            Some(DeliveryOutcome::Failed { attempts: 9, .. })
        ));

        let all = [
            was_given_up(),
            retried(),
            was_delivered(),
            was_given_up(),
            retried(),
        ];
        let (db, heard) = folded(&all, at_once);
        assert!(matches!(
            outcome(&db),
            Some(DeliveryOutcome::Delivered {
                at_ms: 2,
                attempts: 2,
                ..
            })
        ));
        assert_eq!(heard.len(), 1, "nothing is due again once it is delivered");
        for family in [Family::Outbox, Family::Tries] {
            assert_eq!(
                db.get(family, &keys::notification("op", KEY)).unwrap(),
                None
            );
        }
    }
}

#[test]
fn where_a_log_began_is_said_once_and_a_release_ends_it() {
    let begin = |log, end| Control::Begun {
        log,
        ends: [(0, end)].into(),
    };
    let released = |log| Control::ReleasedAll {
        log,
        said: Said::default(),
    };
    for at_once in [true, false] {
        let (db, _) = folded(&[begin(LOG, 5), begin(OTHER, 8), begin(LOG, 9)], at_once);
        assert_eq!(begun(&db, LOG).unwrap(), Some([(0, 5)].into()));
        assert_eq!(begun(&db, OTHER).unwrap(), Some([(0, 8)].into()));
        let (db, heard) = folded(
            &[begin(LOG, 5), released(LOG), begin(LOG, 9), released(OTHER)],
            at_once,
        );
        assert_eq!(
            begun(&db, LOG).unwrap(),
            Some([].into()),
            "it began, and nothing is held"
        );
        assert_eq!(begun(&db, OTHER).unwrap(), None);
        assert_eq!(heard, [Heard::ReleasedAll, Heard::ReleasedAll]);
    }
}

struct Running {
    control: ControlLog,
    heard: Arc<Mutex<Vec<Heard>>>,
}

fn start(db: &Arc<Memory>, log: &MemoryLog) -> Running {
    let heard = Arc::<Mutex<Vec<Heard>>>::default();
    let told = heard.clone();
    let control = ControlLog::start(
        db.clone(),
        Arc::new(log.clone()),
        Arc::new(|| Timestamp::from_millis(1)),
        Box::new(move |more| told.lock().unwrap().extend(more)),
    );
    Running {
        control: control.unwrap(),
        heard,
    }
}

#[track_caller]
fn until(running: &Running, what: &str, holds: impl Fn(&State) -> bool) -> State {
    within(SOON, what, || {
        let state = running.control.state().borrow().clone();
        Some(state).filter(&holds)
    })
}

fn record_all(running: &Running, controls: &[Control]) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    runtime.block_on(running.control.record(controls)).unwrap();
}

#[test]
fn what_is_recorded_is_in_the_store_and_read_once() {
    let (db, log) = (Arc::new(Memory::default()), MemoryLog::new(LOG, 1));
    let running = start(&db, &log);
    until(&running, "read to its end", |state| {
        *state == State::Following
    });
    record_all(
        &running,
        &[
            was_given_up(),
            notification(Notified::Retried(Said::default())),
        ],
    );
    assert_eq!(outcome(&db), Some(DeliveryOutcome::Again { at_ms: 1 }));
    drop(running);
    let running = start(&db, &log);
    until(&running, "read to its end", |state| {
        *state == State::Following
    });
    record_all(&running, &[was_delivered()]);
    assert!(matches!(
        outcome(&db),
        Some(DeliveryOutcome::Delivered { .. })
    ));
    assert_eq!(
        *running.heard.lock().unwrap(),
        [Heard::Opened],
        "what came before is not read again"
    );
    // A store that is new reads all of it.
    let new = Arc::new(Memory::default());
    let running = start(&new, &log);
    until(&running, "read to its end", |state| {
        *state == State::Following
    });
    assert_eq!(outcome(&new), outcome(&db));
}

#[test]
fn another_control_log_and_a_newer_one_halt() {
    let (db, log) = (Arc::new(Memory::default()), MemoryLog::new(LOG, 1));
    let running = start(&db, &log);
    until(&running, "read to its end", |state| {
        *state == State::Following
    });
    record_all(&running, &[was_given_up()]);
    log.replace(OTHER, vec![Vec::new()]);
    // It goes on behind where the one before was read to.
    log.append(Partition(0), record(Headers::default(), "{}"));
    log.append(Partition(0), record(Headers::default(), "{}"));
    let state = until(&running, "halted", |state| {
        matches!(state, State::Halted(_))
    });
    let State::Halted(why) = state else {
        unreachable!()
    };
    assert!(
        why.contains("testing0") && why.contains("testing1"),
        "{why}"
    );
    drop(running);

    let (db, log) = (Arc::new(Memory::default()), MemoryLog::new(LOG, 1));
    log.append(Partition(0), as_record(&was_given_up(), 0));
    let newer = r#"{"specversion":"1.0","id":"i","source":"/opledger/control","type":"opledger.operation.removed.v1","subject":"op","time":"2024-05-06T07:08:09Z","data":{}}"#;
    log.append(Partition(0), record(Headers::default(), newer));
    let running = start(&db, &log);
    let state = until(&running, "halted", |state| {
        matches!(state, State::Halted(_))
    });
    let State::Halted(why) = state else {
        unreachable!()
    };
    assert!(why.contains("opledger.operation.removed.v1"), "{why}");
    assert_eq!(outcome(&db), None, "nothing of what was read with it");
}

#[test]
fn a_store_that_fails_is_tried_until_it_works() {
    let (db, log) = (Arc::new(Memory::default()), MemoryLog::new(LOG, 1));
    let running = start(&db, &log);
    until(&running, "read to its end", |state| {
        *state == State::Following
    });
    let mut left = 6;
    db.set_faults(Some(Box::new(move || {
        left -= i32::from(left > 0);
        match left {
            0 => WriteFault::None,
            n if n % 2 == 0 => WriteFault::Refuse,
            _ => WriteFault::Misreport,
        }
    })));
    record_all(&running, &[was_delivered()]);
    assert!(matches!(
        outcome(&db),
        Some(DeliveryOutcome::Delivered { .. })
    ));
    let ends = log.readable().unwrap();
    assert_eq!(ends[&Partition(0)], Offset(1), "recorded once");
}
