//! Slices alone: each is read, dropped and copied without the others. Every row of a store has one
//! slice, by a rule that is written here a second time.

use crate::support::generate::Rng;
use crate::support::listed::{created, event};
use crate::support::same::{assert_same, assert_same_set};
use bytes::Bytes;
use opledger::domain::{OperationId, OrderKey, Slice, Slices, Status, Timestamp, Workers};
use opledger::event_log::{Identity, Logged};
use opledger::projector::step::Rules;
use opledger::projector::{Projection, RecordBatch};
use opledger::rows::digest::StoreDigest;
use opledger::rows::lists::{self, Order, PageLimits, Query};
use opledger::rows::outbox::{self, Of};
use opledger::rows::slices::{self, Dropped};
use opledger::rows::{keys, letters};
use opledger::store::memory::{Memory, WriteFault};
use opledger::store::{self, Batch, Db, Durability, Family, View};
use opledger::wire::notification::{DeliveryKey, DeliveryOutcome, Tries, encode_tries};
use opledger::wire::position::{LogId, Position};
use opledger::wire::record::{Headers, Record};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::ops::ControlFlow;

const RULES: Rules = Rules {
    forward_dead_letters: true,
    ..Rules::NONE
};

fn open(db: &Memory) -> Projection {
    let log = Identity {
        id: LogId(*b"ofslices"),
        name: "of slices".into(),
    };
    Projection::open(db, &log, 1 << 20).unwrap()
}

/// Operations of every status, some of them with a delivery, with many lanes or without a document.
fn events(count: usize, id_of: &dyn Fn(usize) -> String) -> Vec<(Option<String>, Value)> {
    let mut all = Vec::new();
    for n in 0..count {
        let id = id_of(n);
        let mut more = Vec::new();
        if n % 10 != 9 {
            let mut first = created(&id, n / 2, if n % 3 == 0 { "/rare" } else { "/x" });
            if n % 4 == 0 {
                first["data"]["notification"] = json!({"address": "192.0.2.1", "port": 80});
            }
            more.push(first);
        }
        if n % 50 == 7 {
            more.extend((0..40).map(|lane| {
                let request = json!({"uri": "/y", "method": "PUT", "body": "{}"});
                let data = json!({"cluster_id": format!("c{lane}"), "request_id": "1", "request": request});
                let mut sent = event(&id, "cluster.request_sent", n, data);
                sent["id"] = json!(format!("sent-{lane}"));
                sent
            }));
        }
        let answered = json!({"response": {"status_code": 200}});
        more.extend(match n % 5 {
            0 => None,
            1 => Some(event(&id, "operation.started", n, json!({}))),
            2 => Some(event(&id, "operation.failed", n, answered)),
            3 => Some(event(&id, "operation.canceled", n, json!({}))),
            _ => Some(event(&id, "operation.completed", n, answered)),
        });
        all.extend(more.into_iter().map(|event| (None, event)));
        // A record that is no event, every third with a key that names an operation.
        if n % 7 == 0 {
            all.push(((n % 3 == 0).then_some(id), json!("no event")));
        }
    }
    all
}

/// A store of them, with the rows of some deliveries.
fn folded(count: usize, id_of: &dyn Fn(usize) -> String) -> (Memory, Vec<Logged>) {
    let records = events(count, id_of).into_iter().enumerate();
    let records = records.map(|(n, (key, event))| Logged {
        at: Position::from((n as u32 % 3, n as u64)),
        record: Record {
            arrived: Timestamp::from_millis(1_714_979_300_000),
            claimed: false,
            key: key.map(Bytes::from),
            headers: Headers::default(),
            value: Some(event.to_string().into()),
        },
    });
    let records: Vec<_> = records.collect();
    let db = Memory::default();
    fold(&db, &mut open(&db), &records);
    let mut batch = Batch::default();
    for n in 0..count {
        let id = id_of(n);
        let ending = OrderKey {
            time: Timestamp::from_millis(n as i64),
            source: "/w".into(),
            id: "ended".into(),
        };
        let key = DeliveryKey::of(OperationId(&id), &ending);
        if n % 2 == 0 {
            let outcome = DeliveryOutcome::Again { at_ms: n as i64 };
            outbox::put_outcome(OperationId(&id), key, &outcome, &mut batch);
        }
        if n % 3 == 0 {
            let row = keys::notification(OperationId(&id), key);
            batch.put(Family::Tries, &row, &encode_tries(&Tries::Held));
        }
    }
    db.write(&batch, Durability::Synced).unwrap();
    (db, records)
}

fn fold(db: &Memory, projection: &mut Projection, records: &[Logged]) {
    // A reader shows each partition in order; here all three are read in turns.
    for records in records.chunks(1000) {
        let mut record_batch = RecordBatch::decode(records.to_vec(), Default::default(), &RULES);
        projection.apply(db, &mut record_batch).unwrap();
    }
}

fn short(n: usize) -> String {
    format!("operation-{n}")
}

type Row = (Family, Vec<u8>, Vec<u8>);

/// The slice of a row; `None` if it is of the store as a whole.
fn slice_of(db: &Memory, (family, key, _): &Row) -> Option<Slice> {
    let of_id = |id: &[u8]| OperationId(std::str::from_utf8(id).unwrap()).slice();
    match family {
        Family::State
        | Family::Lane
        | Family::History
        | Family::Anomaly
        | Family::Outbox
        | Family::Outcome
        | Family::Tries => Some(Slice(
            ((u16::from(key[0]) * 256 + u16::from(key[1])) / 16) as u8,
        )),
        Family::ByTime => Some(of_id(&key[12..])),
        Family::ByStatus => Some(of_id(&key[13..])),
        Family::DeadLetter | Family::DeadLetterDue => {
            let at = Position::of_key(key).unwrap();
            let row = letters::get(db, at).unwrap().unwrap();
            let (_, _, record) = letters::decode(&row).unwrap();
            Some(match record.key {
                Some(key) => of_id(&key),
                None => OperationId(&at.to_string()).slice(),
            })
        }
        Family::Meta => key.strip_prefix(b"statuses/").map(|slice| Slice(slice[0])),
        Family::Change | Family::Log => None,
    }
}

fn drop_slices(db: &Memory, slices: Slices, what: Dropped) -> store::Result<()> {
    slices::drop(db, slices, what, &mut |batch| {
        db.write(&batch, Durability::Buffered)
    })
}

fn some_slices() -> Vec<Slices> {
    let single = [0, 17, 63].map(|slice| Slices::from(Slice(slice)));
    let runs = Workers::new(3).all();
    single
        .into_iter()
        .chain(runs)
        .chain([Slices::ALL])
        .collect()
}

#[test]
fn dropping_slices_removes_their_rows_and_no_others() {
    for slices in some_slices() {
        for what in [Dropped::All, Dropped::Folded] {
            let (db, _) = folded(700, &short);
            let stays = |row: &Row| {
                let is_dropped = match row.0 {
                    Family::Outcome | Family::Tries => what == Dropped::All,
                    Family::DeadLetter | Family::DeadLetterDue => what == Dropped::All,
                    _ => true,
                };
                let of_slices = slice_of(&db, row).is_some_and(|slice| slices.contains(slice));
                !(is_dropped && of_slices)
            };
            let before = db.dump();
            let expected: Vec<Row> = before.iter().filter(|row| stays(row)).cloned().collect();
            assert!(expected.len() < before.len());
            drop_slices(&db, slices, what).unwrap();
            assert_same_set(&format!("{slices:?} {what:?}"), &db.dump(), &expected);
        }
    }
}

/// Long ids, so that there are many writes. After a crash between two of them the lists, counts and
/// states agree, and dropping again does the rest.
#[test]
fn a_crash_while_slices_are_dropped_leaves_a_consistent_store() {
    let long = |n: usize| format!("{n}-{}", "of-a-long-name-".repeat(12));
    let mut writes = 0;
    let slices = Workers::ONE.slices(0);
    for crash_at in 0.. {
        let (db, _) = folded(12_000, &long);
        let mut count = 0;
        db.set_faults(Some(Box::new(move || {
            count += 1;
            match count > crash_at {
                true => WriteFault::Die { after: false },
                false => WriteFault::None,
            }
        })));
        let dropped = drop_slices(&db, slices, Dropped::All);
        db.set_faults(None);
        if dropped.is_ok() {
            break;
        }
        writes += 1;
        db.crash(|buffered| buffered);
        is_consistent(&db);
        drop_slices(&db, slices, Dropped::All).unwrap();
        let left = db.dump();
        assert!(left.iter().all(|row| slice_of(&db, row).is_none()));
    }
    assert!(writes > 3, "{writes}");
}

#[track_caller]
fn is_consistent(db: &Memory) {
    let rows = db.dump();
    let of = |family| rows.iter().filter(move |row| row.0 == family);
    let states: BTreeSet<&[u8]> = of(Family::State).map(|row| &row.1[2..]).collect();
    let by_time: BTreeSet<&[u8]> = of(Family::ByTime).map(|row| &row.1[12..]).collect();
    let by_status: BTreeSet<&[u8]> = of(Family::ByStatus).map(|row| &row.1[13..]).collect();
    assert!(by_time == by_status && by_time.is_subset(&states));
    let counts = opledger::rows::meta::statuses(db).unwrap();
    let counts = counts.sum(Slices::ALL).iter().sum::<i64>();
    assert_eq!(counts, by_status.len() as i64);
    let histories: BTreeSet<_> = of(Family::History)
        .map(|row| keys::operation_of_history(&row.1).unwrap().0.as_bytes())
        .collect();
    assert!(histories == states);
}

#[test]
fn list_entries_of_a_state_that_cannot_be_read_are_dropped_with_its_slice() {
    let (db, _) = folded(700, &short);
    let id = short(12);
    let slice = OperationId(&id).slice();
    let mut batch = Batch::default();
    batch.put(
        Family::State,
        &keys::operation(OperationId(&id)),
        b"\x10 damaged",
    );
    let history = keys::of_operation(OperationId(&id));
    let (_, key, _) = db
        .dump()
        .into_iter()
        .find(|(family, key, _)| *family == Family::History && history.contains(key))
        .unwrap();
    batch.put(Family::History, &key, b"damaged");
    db.write(&batch, Durability::Buffered).unwrap();
    drop_slices(&db, slice.into(), Dropped::All).unwrap();
    let left = db.dump();
    assert!(left.iter().all(|row| slice_of(&db, row) != Some(slice)));
}

#[test]
fn slices_copied_one_by_one_make_the_same_store() {
    let (db, _) = folded(700, &short);
    let copy = Memory::default();
    let digest = |db: &Memory| store::view(db, StoreDigest::of).unwrap();
    let whole = digest(&db);
    for slice in Slices::ALL.iter() {
        store::view(&db, |view| {
            slices::copy(view, slice.into(), &mut |batch| {
                copy.write(&batch, Durability::Buffered)
            })
        })
        .unwrap();
        assert_eq!(digest(&copy).of_slice(slice), whole.of_slice(slice));
    }
    assert_eq!(digest(&copy), whole);
    let of_slices = |row: &Row| slice_of(&db, row).is_some();
    let expected: Vec<Row> = db.dump().into_iter().filter(of_slices).collect();
    // A slice without documents has counts of zero.
    let copied = copy.dump().into_iter().filter(|(family, key, _)| {
        *family != Family::Meta || db.get(Family::Meta, key).unwrap().is_some()
    });
    assert_same_set("copied rows", &copied.collect::<Vec<_>>(), &expected);
}

/// The others stay as they are, and no dead letter is sent twice.
#[test]
fn folding_the_log_again_restores_a_dropped_slice() {
    let (db, records) = folded(700, &short);
    let sent: Vec<Position> = {
        let mut all = Vec::new();
        letters::unsent(&db, &mut |at, _| all.push(at)).unwrap();
        all.into_iter().step_by(2).collect()
    };
    let mut batch = Batch::default();
    sent.iter()
        .for_each(|at| letters::put_sent(*at, &mut batch));
    db.write(&batch, Durability::Buffered).unwrap();
    let rows = |db: &Memory| -> Vec<Row> {
        // Each batch has a change, and which records share a row depends on them.
        let is_compared = |row: &Row| !matches!(row.0, Family::Change | Family::History);
        db.dump().into_iter().filter(is_compared).collect()
    };
    let digest = |db: &Memory| store::view(db, StoreDigest::of).unwrap();
    let (before, whole) = (rows(&db), digest(&db));
    let slice = OperationId(&short(12)).slice();
    drop_slices(&db, slice.into(), Dropped::Folded).unwrap();
    assert_ne!(digest(&db).of_slice(slice), whole.of_slice(slice));
    let mut batch = Batch::default();
    for prefix in [&b"position/"[..], b"next/", b"begins/"] {
        let end = store::after_prefix(prefix);
        batch.delete_range(Family::Meta, prefix..&end);
    }
    db.write(&batch, Durability::Buffered).unwrap();
    fold(&db, &mut open(&db), &records);
    assert_eq!(digest(&db), whole);
    assert_same_set("rows", &rows(&db), &before);
}

fn list(view: &dyn View, query: &Query) -> store::Result<Vec<String>> {
    let (mut all, mut after) = (Vec::new(), None::<Vec<u8>>);
    loop {
        let bounds = PageLimits {
            limit: 20,
            work: 300,
        };
        let page = lists::select(view, query, after.as_deref(), bounds)?;
        let ids = page
            .found
            .iter()
            .map(|key| lists::operation_of(key).unwrap());
        all.extend(ids.map(|id| id.to_string()));
        match page.next {
            Some(next) => after = Some(next),
            None => return Ok(all),
        }
    }
}

#[test]
fn the_list_of_some_slices_is_that_part_of_the_whole_list() {
    let (db, _) = folded(700, &short);
    let mut rng = Rng::new(1);
    for _ in 0..40 {
        let mut query = Query {
            order: *rng.pick(&[Order::Newest, Order::Oldest]),
            ..Query::default()
        };
        if rng.chance(50) {
            query.filter.statuses = vec![Status::Failed, *rng.pick(&Status::ALL)];
            query.filter.statuses.dedup();
        }
        if rng.chance(30) {
            query.filter.uri_prefix = Some("/rare".into());
        }
        let whole = store::view(&db, |view| list(view, &query)).unwrap();
        for slices in some_slices() {
            let is_in = |id: &&String| slices.contains(OperationId(id).slice());
            let expected: Vec<String> = whole.iter().filter(is_in).cloned().collect();
            let query = Query {
                slices,
                ..query.clone()
            };
            let found = store::view(&db, |view| list(view, &query)).unwrap();
            assert_same(&format!("{query:?}"), &found, &expected);
        }
    }
}

#[test]
fn deliveries_and_dead_letters_of_some_slices_are_that_part_of_all() {
    let (db, _) = folded(700, &short);
    let read = |slices: Slices| {
        let (mut due, mut outcomes, mut dead) = (Vec::new(), Vec::new(), Vec::new());
        store::view(&db, |view| {
            outbox::scan(view, Of::Slices(slices), None, &mut |delivery| {
                due.push(delivery.operation_id.to_string());
                Ok(ControlFlow::Continue(()))
            })?;
            outbox::scan_outcomes(view, Of::Slices(slices), None, &mut |concluded| {
                outcomes.push(concluded.operation_id.to_string());
                Ok(ControlFlow::Continue(()))
            })?;
            letters::scan(view, slices, None, &mut |letter| {
                let (_, _, record) = letters::decode(&letter.row)?;
                dead.push((letter.at, record.key));
                Ok(ControlFlow::Continue(()))
            })
        })
        .unwrap();
        (due, outcomes, dead)
    };
    let all = read(Slices::ALL);
    assert!(!all.0.is_empty() && !all.1.is_empty() && !all.2.is_empty());
    for slices in some_slices() {
        let is_in = |id: &String| slices.contains(OperationId(id).slice());
        let of = |ids: &[String]| -> Vec<String> {
            ids.iter().filter(|id| is_in(id)).cloned().collect()
        };
        let dead = all.2.iter().filter(|(at, key)| {
            slices.contains(match key {
                Some(key) => OperationId(std::str::from_utf8(key).unwrap()).slice(),
                None => OperationId(&at.to_string()).slice(),
            })
        });
        let expected = (of(&all.0), of(&all.1), dead.cloned().collect());
        assert_same(&format!("{slices:?}"), &read(slices), &expected);
    }
}
