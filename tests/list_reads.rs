//! What lists read of a store in memory: bounded work by page, and whole lists looked up in
//! another order than they are shown in.

mod support;

use opledger::app::wall_clock;
use opledger::event_log::{Identity, Logged};
use opledger::projector::step::Rules;
use opledger::projector::{Cut, Projection};
use opledger::query::filter::Filter;
use opledger::query::list;
use opledger::query::select::{Bounds, Order, Query, select};
use opledger::store::memory::Memory;
use opledger::store::{self, Batch, Db, Direction, Durability, Family, keys};
use opledger::wire::position::{LogId, Position};
use opledger::wire::record_v1::{Headers, Record};
use opledger::wire::time::TimeStyle;
use serde_json::{Value, json};
use std::ops::ControlFlow;
use support::listed::{created, event};

/// A store in memory with these events.
fn folded(events: &[Value]) -> Memory {
    let db = Memory::default();
    let log = Identity {
        id: LogId(*b"inmemory"),
        name: "in memory".into(),
    };
    let records = events.iter().enumerate().map(|(n, event)| Logged {
        at: Position {
            partition: 0,
            offset: n as u64,
        },
        record: Record {
            arrived: wall_clock(),
            claimed: false,
            key: None,
            headers: Headers::default(),
            value: Some(event.to_string().into()),
        },
    });
    let mut cut = Cut::decode(records.collect(), Default::default(), &Rules::NONE);
    let mut projection = Projection::open(&db, &log, 1 << 20, Rules::NONE).unwrap();
    projection.apply(&db, &mut cut).unwrap();
    db
}

fn selected(db: &Memory, query: &Query, bounds: Bounds) -> (Vec<String>, usize) {
    let (mut all, mut after, mut pages) = (Vec::new(), None::<Vec<u8>>, 0);
    loop {
        let page = store::view(db, |view| select(view, query, after.as_deref(), bounds)).unwrap();
        pages += 1;
        let ids = page.found.iter().map(|found| found.id().unwrap());
        all.extend(ids.map(str::to_owned));
        assert!(page.found.len() <= bounds.limit);
        match page.next {
            Some(next) => after = Some(next),
            None => return (all, pages),
        }
    }
}

/// A long list is looked up in another order than it is shown in, and by chunks where its
/// documents are large.
#[test]
fn a_streamed_list_is_what_its_pages_are_whatever_its_documents_weigh() {
    let mut events = Vec::new();
    for n in 0..6000 {
        // Two thousand are too large for one look, and one in the first is unreadable.
        let weight = if (1000..3000).contains(&n) { 6000 } else { 4 };
        let uri = format!("/{}", "x".repeat(weight));
        let number = n * 7919 % 6000;
        let id = format!("op-{number:04}");
        events.push(created(&id, n, &uri));
        // Every third has ended: its snapshot stands elsewhere.
        if number % 3 == 1 {
            let data = json!({"response": {"status_code": 200}});
            events.push(event(&id, "operation.completed", n + 1, data));
        }
    }
    let db = folded(&events);
    let mut batch = Batch::default();
    batch.put(
        Family::State,
        &keys::operation("op-0042"),
        b"\xffof a newer format",
    );
    db.write(&batch, Durability::Buffered).unwrap();
    for order in [Order::Newest, Order::Oldest] {
        let query = Query {
            filter: Filter::default(),
            order,
        };
        let shown = list::Shown {
            format: list::Format::DetailList,
            query: &query,
            times: &TimeStyle::default(),
            defects: &list::Defects::default(),
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
            let bounds = Bounds {
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
        assert!(streamed == paged, "{order:?}");
        assert!(largest <= 64 << 10, "a piece of {largest} bytes");
    }
}

#[test]
fn a_page_is_bounded_work_whatever_matches_and_nothing_is_left_out() {
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
    };
    for order in [Order::Newest, Order::Oldest] {
        let query = rare(order);
        let mut expected = vec!["op-0007", "op-0307", "op-0607", "op-0907"];
        if order == Order::Newest {
            expected.reverse();
        }
        for (limit, work) in [(1, 1), (1, 10), (2, 40), (10, 100), (10, usize::MAX)] {
            let (found, pages) = selected(&db, &query, Bounds { limit, work });
            assert_eq!(found, expected, "{order:?}, {limit} with {work}");
            assert!(
                work > 1000 || pages >= 600 / work,
                "{pages} pages with {work}"
            );
        }
    }
    // An older store has no rows there: the operations are read instead.
    let mut batch = Batch::default();
    let mut scanned = 0;
    store::view(&db, |view| {
        view.scan(
            Family::ByStatus,
            keys::ALL,
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
    let bounds = Bounds { limit, work };
    assert_eq!(
        selected(&db, &rare(Order::Oldest), bounds).0,
        ["op-0007", "op-0307", "op-0607", "op-0907"]
    );
}
