//! Every accepted event is shown in a form that reads back as the same event, whichever way it
//! came. This file reads what a store shows of records. The modules make the records.

mod cases;
mod forms;
mod property;

use crate::support::in_process::{LOG, open};
use bytes::Bytes;
use hifijson::value::Value as Tree;
use opledger::domain::OperationId;
use opledger::event_log::{EventLog, Limits, Logged, Share, memory};
use opledger::feed::documents;
use opledger::projector::step::Rules;
use opledger::projector::{Projection, RecordBatch};
use opledger::query::{Page, dead_letters, history};
use opledger::store::memory::Memory;
use opledger::wire::position::NextOffsets;
use opledger::wire::record::{Headers, Record};
use opledger::wire::time::TimeStyle;
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::time::Duration;

/// The number of operations that have events: `op-0` and so on.
pub const SUBJECTS: usize = 60;

#[derive(Default)]
pub struct Shown {
    pub documents: BTreeMap<String, Option<String>>,
    /// The events of each operation as they are shown.
    pub histories: BTreeMap<String, Vec<String>>,
    pub dead_letters: usize,
}

/// Folds records into an empty store, and reads everything that it shows.
pub fn fold(store: &Memory, records: Vec<Logged>) -> Shown {
    let mut projection: Projection = open(store, 0);
    let next = NextOffsets::from([(0, records.len() as u64)]);
    let mut record_batch = RecordBatch::decode(records, next, &Rules::NONE);
    projection.apply(store, &mut record_batch).unwrap();
    let mut shown = Shown::default();
    for n in 0..SUBJECTS {
        let id = format!("op-{n}");
        let document = documents::read(store, OperationId(&id), &TimeStyle::default()).unwrap();
        if let Some(document) = &document {
            assert!(all_unique(document), "{}", text(document));
        }
        let document = document.map(|document| text(&document).into_owned());
        shown.documents.insert(id.clone(), document);
        let mut json = Vec::new();
        let mut emit = |piece: &[u8]| {
            json.extend_from_slice(piece);
            ControlFlow::Continue(())
        };
        let page = Page::default();
        if history::stream(store, OperationId(&id), &page, &mut emit)
            .unwrap()
            .is_none()
        {
            continue;
        }
        assert!(all_unique(&json), "{}", text(&json));
        shown.histories.insert(id, events_of(&json));
    }
    let mut json = Vec::new();
    let mut emit = |piece: &[u8]| {
        json.extend_from_slice(piece);
        ControlFlow::Continue(())
    };
    dead_letters::stream(store, &Page::default(), &mut emit).unwrap();
    assert!(all_unique(&json), "{}", text(&json));
    let letters: Value = serde_json::from_slice(&json).unwrap();
    shown.dead_letters = letters["dead_letters"].as_array().unwrap().len();
    shown
}

fn events_of(history: &[u8]) -> Vec<String> {
    #[derive(Deserialize)]
    struct History<'a> {
        #[serde(borrow)]
        events: Vec<Entry<'a>>,
    }
    #[derive(Deserialize)]
    struct Entry<'a> {
        #[serde(borrow)]
        event: &'a RawValue,
    }
    let history: History = serde_json::from_slice(history).unwrap();
    let events = history.events.iter();
    events.map(|entry| entry.event.get().to_owned()).collect()
}

pub fn record_of_line(line: &str) -> Record {
    Record {
        arrived: Record::NO_ARRIVAL,
        claimed: false,
        key: None,
        headers: Headers::default(),
        value: Some(Bytes::copy_from_slice(line.as_bytes())),
    }
}

pub fn all(log: &memory::MemoryLog) -> Vec<Logged> {
    let mut reader = log
        .reader(LOG, &NextOffsets::default(), Share::ALL)
        .unwrap();
    let limits = Limits {
        records: usize::MAX,
        bytes: usize::MAX,
        patience: Duration::ZERO,
    };
    let mut records = Vec::new();
    reader.read(&limits, &mut records).unwrap();
    records
}

pub fn text(bytes: &[u8]) -> std::borrow::Cow<'_, str> {
    String::from_utf8_lossy(bytes)
}

/// It is valid JSON, and no object has the same name twice.
pub fn all_unique(json: &[u8]) -> bool {
    use hifijson::token::Lex;
    fn unique<N, S: AsRef<str>>(tree: &Tree<N, S>) -> bool {
        match tree {
            Tree::Array(items) => items.iter().all(unique),
            Tree::Object(members) => {
                let names: BTreeSet<&str> = members.iter().map(|(n, _)| n.as_ref()).collect();
                names.len() == members.len() && members.iter().all(|(_, value)| unique(value))
            }
            _ => true,
        }
    }
    let mut lexer = hifijson::SliceLexer::new(json);
    let tree = lexer.exactly_one(Lex::ws_peek, hifijson::value::parse_unbounded);
    tree.is_ok_and(|tree| unique(&tree))
}
