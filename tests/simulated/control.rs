//! The effect of the control log, and what stops reading it: on a log in memory.

use crate::support::deadline::{SOON, within};
use crate::support::in_process;

use opledger::domain::{OperationId, Timestamp, Workers};
use opledger::event_log::memory::MemoryLog;
use opledger::event_log::{EventLog, Identity, Logged};
use opledger::feed::progress::{Doing, Progress};
use opledger::feed::publisher::Publisher;
use opledger::projector::projection::Keep;
use opledger::projector::run::{self, Observer};
use opledger::projector::step::Rules;
use opledger::projector::writer::StoreWriter;
use opledger::projector::{Projection, RecordBatch, Source, Tally};
use opledger::rows::keys;
use opledger::rows::outbox::begun;
use opledger::store::memory::{Memory, WriteFault};
use opledger::store::{self, Batch, Db, Durability, Family};
use opledger::webhook::control_log::ControlLog;
use opledger::wire::control_record::{Control, Notified, Said};
use opledger::wire::notification::{DeliveryKey, DeliveryOutcome, decode_outcome};
use opledger::wire::position::{LogId, Offset, Partition, Position};
use opledger::wire::record::{Headers, Record};
use opledger::worker::WorkerThread;
use std::sync::{Arc, Mutex};
use std::time::Duration;

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

/// What the senders are notified of.
#[derive(Debug, PartialEq)]
enum Told {
    Opened,
    Retried(String),
    ReleasedAll,
}

fn told(tally: &Tally) -> Vec<Told> {
    let retried = tally.retried.iter().map(|id| Told::Retried(id.to_string()));
    let released = tally.released_all.then_some(Told::ReleasedAll);
    retried.chain(released).collect()
}

/// Folds the records one by one or all at once: the result must be the same.
fn folded(controls: &[Control], at_once: bool) -> (Memory, Vec<Told>) {
    let db = Memory::default();
    let row = keys::notification(OperationId("op"), KEY);
    let mut due = Batch::default();
    due.put(Family::Outbox, &row, b"due");
    due.put(Family::Tries, &row, b"tries");
    db.write(&due, Durability::Buffered).unwrap();
    let log = Identity {
        id: LOG,
        name: "control".into(),
    };
    let keep = Keep::NOTHING;
    let mut projection = Projection::open_one(&db, Source::Control, &log, keep).unwrap();
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
        let mut record_batch =
            RecordBatch::decode(some.to_vec(), Default::default(), &Rules::CONTROL);
        heard.extend(told(&projection.apply(&db, &mut record_batch).unwrap()));
    }
    (db, heard)
}

fn outcome(db: &Memory) -> Option<DeliveryOutcome> {
    let row = db
        .get(Family::Outcome, &keys::notification(OperationId("op"), KEY))
        .unwrap();
    row.map(|row| decode_outcome(&row).unwrap())
}

#[test]
fn the_last_control_record_counts_and_delivered_is_final() {
    let said = Said::default;
    let retried = || notification(Notified::Retried(said()));
    let again = |at_ms| Some(DeliveryOutcome::Again { at_ms });
    for at_once in [true, false] {
        let (db, heard) = folded(&[was_given_up(), retried()], at_once);
        assert_eq!(outcome(&db), again(1));
        assert_eq!(heard, [Told::Retried("op".into())]);
        assert!(
            db.get(Family::Outbox, &keys::notification(OperationId("op"), KEY))
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
                db.get(family, &keys::notification(OperationId("op"), KEY))
                    .unwrap(),
                None
            );
        }
    }
}

#[test]
fn the_beginning_of_a_log_is_recorded_once_and_a_release_ends_it() {
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
            "it began, and no delivery is held"
        );
        assert_eq!(begun(&db, OTHER).unwrap(), None);
        let batches = if at_once { 1 } else { 2 };
        assert!(heard.iter().all(|told| *told == Told::ReleasedAll));
        assert_eq!(heard.len(), batches, "once for each batch");
    }
}

struct Running {
    progress: Arc<Progress>,
    control: ControlLog,
    heard: Arc<Mutex<Vec<Told>>>,
    _projector: WorkerThread,
}

struct Hears(Arc<Mutex<Vec<Told>>>);

impl Observer for Hears {
    fn opened(&self, _: &dyn Db) -> store::Result<()> {
        self.0.lock().unwrap().push(Told::Opened);
        Ok(())
    }

    fn applied(&self, _: &RecordBatch, tally: &Tally, _: Duration) {
        self.0.lock().unwrap().extend(told(tally));
    }

    fn failed(&self, _: &store::Error) {}
}

fn start(db: &Arc<Memory>, log: &MemoryLog) -> Running {
    let heard = Arc::<Mutex<Vec<Told>>>::default();
    let publisher = Publisher {
        log: Arc::new(log.clone()),
        progress: Arc::new(Progress::new(None, Workers::ONE)),
    };
    let projector = run::start(
        StoreWriter::new(db.clone(), Workers::ONE, Keep::NOTHING),
        publisher.log.clone(),
        publisher.progress.clone(),
        Arc::new(Hears(heard.clone())),
        in_process::projector(Rules::CONTROL, None),
    );
    Running {
        progress: publisher.progress.clone(),
        control: ControlLog::new(publisher, Arc::new(|| Timestamp::from_millis(1))),
        heard,
        _projector: projector.unwrap(),
    }
}

#[track_caller]
fn until(running: &Running, what: &str, holds: impl Fn(&Doing) -> bool) -> Doing {
    within(SOON, what, || Some(running.progress.doing()).filter(&holds))
}

/// Waits until the store has everything that was in the log at the call.
#[track_caller]
fn until_read(running: &Running) {
    until(running, "running", |doing| *doing == Doing::Running);
    runtime()
        .block_on(running.control.wait_until_read())
        .unwrap();
}

fn runtime() -> tokio::runtime::Runtime {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_all().build().unwrap()
}

fn record_all(running: &Running, controls: &[Control]) {
    runtime()
        .block_on(running.control.record(controls))
        .unwrap();
}

#[test]
fn control_records_are_in_the_store_and_read_once() {
    let (db, log) = (Arc::new(Memory::default()), MemoryLog::new(LOG, 1));
    let running = start(&db, &log);
    until_read(&running);
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
    until_read(&running);
    record_all(&running, &[was_delivered()]);
    assert!(matches!(
        outcome(&db),
        Some(DeliveryOutcome::Delivered { .. })
    ));
    assert_eq!(
        *running.heard.lock().unwrap(),
        [Told::Opened],
        "earlier records are not read again"
    );
    // A new store reads the whole log.
    let new = Arc::new(Memory::default());
    let running = start(&new, &log);
    until_read(&running);
    assert_eq!(outcome(&new), outcome(&db));
}

#[test]
fn another_control_log_and_a_newer_one_halt() {
    let (db, log) = (Arc::new(Memory::default()), MemoryLog::new(LOG, 1));
    let running = start(&db, &log);
    until_read(&running);
    record_all(&running, &[was_given_up()]);
    log.replace(OTHER, vec![Vec::new()]);
    // The log continues after the position to which the previous one was read.
    log.append(Partition(0), record(Headers::default(), "{}"));
    log.append(Partition(0), record(Headers::default(), "{}"));
    let doing = until(&running, "halted", |doing| {
        matches!(doing, Doing::Halted(_))
    });
    let Doing::Halted(why) = doing else {
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
    let doing = until(&running, "halted", |doing| {
        matches!(doing, Doing::Halted(_))
    });
    let Doing::Halted(why) = doing else {
        unreachable!()
    };
    assert!(why.contains("opledger.operation.removed.v1"), "{why}");
    assert_eq!(outcome(&db), None, "nothing of the same batch");
}

#[test]
fn a_store_that_fails_is_tried_until_it_works() {
    let (db, log) = (Arc::new(Memory::default()), MemoryLog::new(LOG, 1));
    let running = start(&db, &log);
    until_read(&running);
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
