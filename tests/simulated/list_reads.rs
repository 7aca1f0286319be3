//! Reads of lists on a store in memory: bounded work for each page, and whole lists that are
//! read in another order than they are shown in.

use crate::support::generate::Rng;
use crate::support::listed::{created, event};
use crate::support::same::assert_same;
use crate::support::soak;
use opledger::clock;
use opledger::domain::{OperationId, Status};
use opledger::event_log::{Identity, Logged};
use opledger::projector::step::Rules;
use opledger::projector::{Projection, RecordBatch};
use opledger::query::defects::Defects;
use opledger::query::list;
use opledger::rows::filter::Filter;
use opledger::rows::keys;
use opledger::rows::lists::{self, Order, PageLimits, Query, select};
use opledger::store::memory::Memory;
use opledger::store::{
    self, ALL, Batch, Db, Direction, Durability, Family, RowResult, View, Visit,
};
use opledger::wire::position::{LogId, Position};
use opledger::wire::record::{Headers, Record};
use opledger::wire::time::TimeStyle;
use serde_json::{Value, json};
use std::ops::{ControlFlow, Range};
use std::sync::atomic::{AtomicUsize, Ordering};

/// A store in memory with these events.
fn folded(events: &[Value]) -> Memory {
    let db = Memory::default();
    let log = Identity {
        id: LogId(*b"inmemory"),
        name: "in memory".into(),
    };
    let records = events.iter().enumerate().map(|(n, event)| Logged {
        at: Position::from((0, n as u64)),
        record: Record {
            arrived: clock::now(),
            claimed: false,
            key: None,
            headers: Headers::default(),
            value: Some(event.to_string().into()),
        },
    });
    let mut record_batch = RecordBatch::decode(records.collect(), Default::default(), &Rules::NONE);
    let mut projection = Projection::open(&db, &log, 1 << 20).unwrap();
    projection.apply(&db, &mut record_batch).unwrap();
    db
}

fn selected(db: &Memory, query: &Query, bounds: PageLimits) -> (Vec<String>, usize) {
    let (mut all, mut after, mut pages) = (Vec::new(), None::<Vec<u8>>, 0);
    loop {
        let page = store::view(db, |view| select(view, query, after.as_deref(), bounds)).unwrap();
        pages += 1;
        let ids = page
            .found
            .iter()
            .map(|key| lists::operation_of(key).unwrap());
        all.extend(ids.map(|id| id.to_string()));
        assert!(page.found.len() <= bounds.limit);
        match page.next {
            Some(next) => after = Some(next),
            None => return (all, pages),
        }
    }
}

/// A view that counts its reads.
struct Counted<'v> {
    view: &'v dyn View,
    entries: AtomicUsize,
    operations: AtomicUsize,
}

impl View for Counted<'_> {
    fn get(&self, family: Family, key: &[u8]) -> RowResult {
        self.operations.fetch_add(1, Ordering::Relaxed);
        self.view.get(family, key)
    }

    fn multi_get(&self, family: Family, keys: &[&[u8]]) -> Vec<RowResult> {
        self.operations.fetch_add(keys.len(), Ordering::Relaxed);
        self.view.multi_get(family, keys)
    }

    fn scan(
        &self,
        family: Family,
        range: Range<&[u8]>,
        direction: Direction,
        visit: &mut Visit,
    ) -> store::Result<()> {
        self.view.scan(family, range, direction, &mut |key, row| {
            self.entries.fetch_add(1, Ordering::Relaxed);
            visit(key, row)
        })
    }
}

/// A page may read this many entries, or one operation in place of fifty entries. An operation
/// may need two reads: completed ones are stored separately.
#[track_caller]
fn is_within(counted: &Counted, scans: usize, work: usize) {
    let entries = counted.entries.load(Ordering::Relaxed);
    let operations = counted.operations.load(Ordering::Relaxed);
    assert!(
        entries <= scans * work,
        "{entries} entries, {scans} scans of {work}"
    );
    let most = 2 * scans * work.div_ceil(51);
    assert!(
        operations <= most,
        "{operations} operations, {scans} scans of {work}"
    );
}

/// An operation of a generated store, as a list sees it that checks every operation.
struct Plain {
    id: String,
    n: usize,
    status: Status,
    is_rare: bool,
}

/// The same status repeats for several operations in a row. In a list of several statuses, one
/// scan then gets far ahead of another.
fn stretches(rng: &mut Rng) -> (Vec<Plain>, Vec<Value>) {
    let (mut plain, mut events) = (Vec::new(), Vec::new());
    let (mut status, mut left) = (Status::Executing, 0);
    for number in 0..rng.below(120) {
        if left == 0 {
            (status, left) = (*rng.pick(&Status::ALL), 1 + rng.below(40));
        }
        left -= 1;
        // Some have the same time.
        let n = number / (1 + rng.below(3));
        let id = format!("op-{:03}", (number * 37) % 128);
        let is_rare = rng.chance(15);
        events.push(created(&id, n, if is_rare { "/rare" } else { "/x" }));
        let answered = json!({"response": {"status_code": 200}});
        let (kind, data) = match status {
            Status::Unexecuted => ("", json!({})),
            Status::Executing => ("operation.started", json!({})),
            Status::Completed => ("operation.completed", answered),
            Status::Failed => ("operation.failed", answered),
            Status::Canceled => ("operation.canceled", json!({})),
        };
        if !kind.is_empty() {
            events.push(event(&id, kind, n, data));
        }
        plain.push(Plain {
            id,
            n,
            status,
            is_rare,
        });
    }
    (plain, events)
}

/// Empty entries, as in a store without rows: everything except the key has to be read from the
/// operation.
fn without_rows(db: &Memory) {
    let mut batch = Batch::default();
    store::view(db, |view| {
        view.scan(Family::ByStatus, ALL, Direction::Forward, &mut |key, _| {
            batch.put(Family::ByStatus, key, b"");
            ControlFlow::Continue(())
        })
    })
    .unwrap();
    db.write(&batch, Durability::Buffered).unwrap();
}

#[test]
fn lists_of_several_statuses_equal_a_scan_of_every_operation() {
    let seeds = if soak() { 5_000 } else { 150 };
    let mut short = 0;
    for seed in 0..seeds {
        let mut rng = Rng::new(seed);
        let (mut plain, events) = stretches(&mut rng);
        let db = folded(&events);
        let has_rows = rng.chance(60);
        if !has_rows {
            without_rows(&db);
        }
        plain.sort_by(|a, b| (a.n, &a.id).cmp(&(b.n, &b.id)));
        for order in [Order::Newest, Order::Oldest] {
            let mut statuses = Status::ALL.to_vec();
            rng.shuffle(&mut statuses);
            statuses.truncate(1 + rng.below(5));
            let rare = rng.chance(50);
            let query = Query {
                filter: Filter {
                    statuses: statuses.clone(),
                    uri_prefix: rare.then(|| "/rare".into()),
                    ..Filter::default()
                },
                order,
                ..Query::default()
            };
            let meant = |one: &&Plain| statuses.contains(&one.status) && (!rare || one.is_rare);
            let meant = plain.iter().filter(meant).map(|one| one.id.clone());
            let mut expected: Vec<String> = meant.collect();
            if order == Order::Newest {
                expected.reverse();
            }
            let (limit, work) = (
                1 + rng.below(9),
                1 + rng.below(if has_rows { 40 } else { 300 }),
            );
            let bounds = PageLimits { limit, work };
            let (mut found, mut after) = (Vec::new(), None::<Vec<u8>>);
            loop {
                let page = store::view(&db, |view| {
                    let counted = Counted {
                        view,
                        entries: AtomicUsize::new(0),
                        operations: AtomicUsize::new(0),
                    };
                    let page = select(&counted, &query, after.as_deref(), bounds)?;
                    is_within(&counted, statuses.len(), work);
                    Ok(page)
                });
                let page = page.unwrap();
                assert!(page.found.len() <= limit);
                short += usize::from(page.found.len() < limit && page.next.is_some());
                found.extend(
                    page.found
                        .iter()
                        .map(|key| lists::operation_of(key).unwrap().to_string()),
                );
                match page.next {
                    Some(next) => after = Some(next),
                    None => break,
                }
            }
            assert_eq!(found, expected, "seed {seed}, {query:?}, {bounds:?}");
        }
    }
    assert!(short > seeds as usize, "pages end for their work: {short}");
}

/// A long list is read in another order than it is shown in, and in chunks if its documents are
/// large.
#[test]
fn a_whole_list_equals_its_pages_whatever_the_size_of_its_documents() {
    let mut events = Vec::new();
    for n in 0..6000 {
        // Two thousand documents are too large for one read, and one in the first read is
        // unreadable.
        let weight = if (1000..3000).contains(&n) { 6000 } else { 4 };
        let uri = format!("/{}", "x".repeat(weight));
        let number = n * 7919 % 6000;
        let id = format!("op-{number:04}");
        events.push(created(&id, n, &uri));
        // Every third operation is completed: its snapshot is stored separately.
        if number % 3 == 1 {
            let data = json!({"response": {"status_code": 200}});
            events.push(event(&id, "operation.completed", n + 1, data));
        }
    }
    let db = folded(&events);
    let mut batch = Batch::default();
    batch.put(
        Family::State,
        &keys::operation(OperationId("op-0042")),
        b"\xffof a newer format",
    );
    db.write(&batch, Durability::Buffered).unwrap();
    for order in [Order::Newest, Order::Oldest] {
        let query = Query {
            order,
            ..Query::default()
        };
        let shown = list::Shown {
            format: list::Format::DetailList,
            query: &query,
            times: &TimeStyle::default(),
            defects: &Defects::default(),
        };
        let operations = |body: &[u8]| {
            let mut body: Value = serde_json::from_slice(body).unwrap();
            body["operations"].take().as_array().unwrap().clone()
        };
        let (mut streamed, mut largest) = (Vec::new(), 0);
        let mut paged = Vec::new();
        store::view(&db, |view| {
            list::stream(view, shown, &mut |piece| {
                streamed.extend_from_slice(piece);
                largest = largest.max(piece.len());
                ControlFlow::Continue(())
            })?;
            let mut after = None::<Vec<u8>>;
            let bounds = PageLimits {
                limit: 100,
                work: 100,
            };
            loop {
                let (page, next) = list::page(view, shown, after.as_deref(), bounds)?;
                paged.extend(operations(&page));
                match next {
                    Some(next) => after = Some(next),
                    None => return Ok(()),
                }
            }
        })
        .unwrap();
        let streamed = operations(&streamed);
        assert_eq!(
            streamed.len(),
            6000 - 1,
            "without the one that cannot be read"
        );
        assert_same(&format!("{order:?}"), &streamed, &paged);
        assert!(largest <= 64 << 10, "a piece of {largest} bytes");
    }
}

#[test]
fn a_page_has_bounded_work_and_omits_nothing_whatever_matches() {
    let mut events = Vec::new();
    for n in 0..1000 {
        let uri = if n % 300 == 7 { "/rare" } else { "/x" };
        events.push(created(&format!("op-{n:04}"), n, uri));
        if n % 3 == 0 {
            events.push(event(
                &format!("op-{n:04}"),
                "operation.started",
                n,
                json!({}),
            ));
        }
    }
    let db = folded(&events);
    let rare = |order| Query {
        filter: Filter {
            uri_prefix: Some("/rare".into()),
            ..Filter::default()
        },
        order,
        ..Query::default()
    };
    for order in [Order::Newest, Order::Oldest] {
        let query = rare(order);
        let mut expected = vec!["op-0007", "op-0307", "op-0607", "op-0907"];
        if order == Order::Newest {
            expected.reverse();
        }
        for (limit, work) in [(1, 1), (1, 10), (2, 40), (10, 100), (10, usize::MAX)] {
            let (found, pages) = selected(&db, &query, PageLimits { limit, work });
            assert_eq!(found, expected, "{order:?}, {limit} with {work}");
            assert!(
                work > 1000 || pages >= 600 / work,
                "{pages} pages with {work}"
            );
        }
    }
    // If an entry is empty, the filter reads its operation.
    let mut batch = Batch::default();
    let mut scanned = 0;
    store::view(&db, |view| {
        view.scan(
            Family::ByStatus,
            ALL,
            Direction::Forward,
            &mut |key, row| {
                assert!(!row.is_empty());
                batch.put(Family::ByStatus, key, b"");
                scanned += 1;
                ControlFlow::Continue(())
            },
        )
    })
    .unwrap();
    assert_eq!(scanned, 1000);
    db.write(&batch, Durability::Buffered).unwrap();
    let (limit, work) = (3, 200);
    let bounds = PageLimits { limit, work };
    let (found, pages) = selected(&db, &rare(Order::Oldest), bounds);
    assert_eq!(found, ["op-0007", "op-0307", "op-0607", "op-0907"]);
    // Reading an operation is more work than reading an entry: a page reads only a few of them.
    assert!(pages >= 100, "1000 operations were read for {pages} pages");
}
