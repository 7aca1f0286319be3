//! What the cache gives out, and what it keeps in memory.

use super::*;
use crate::domain::{Operation, OperationId};
use crate::rows::keys;
use crate::store::memory::Memory;
use crate::store::{Batch, Durability, Family};
use crate::wire::change::ChangeNumber;
use crate::wire::cloudevent::decode_structured;

/// Writes an operation with a request of this body.
fn write(db: &Memory, body: &str) {
    let event = format!(
        r#"{{"specversion":"1.0","id":"1","source":"/s","subject":"op",
            "type":"opledger.operation.created.v1","time":"2026-01-01T00:00:00Z",
            "data":{{"request":{{"uri":"/u","method":"POST","body":"{body}"}}}}}}"#
    );
    let mut op = Operation::default();
    op.absorb(decode_structured(event.as_bytes()).expect("it is in memory"));
    let mut batch = Batch::default();
    let row = snapshot::append(&op, None, Vec::new());
    batch.put(Family::State, &keys::operation(OperationId("op")), &row);
    db.write(&batch, Durability::Buffered)
        .expect("it is in memory");
}

fn cache(capacity: u64) -> DocumentCache {
    cache_with(capacity, Unsent::new(1 << 30))
}

fn cache_with(capacity: u64, unsent: Arc<Unsent>) -> DocumentCache {
    DocumentCache::new(TimeStyle::default(), capacity, unsent, Arc::default())
}

fn get(cache: &DocumentCache, db: &Memory, at_least: u64) -> Bytes {
    let found = cache.load_cached(
        db,
        OperationId("op"),
        ChangeNumber(at_least),
        Filter::everything(),
    );
    let current = found.expect("it is in memory").expect("memory says it");
    current.document().expect("it has one").bytes
}

fn load(cache: &DocumentCache, db: &Memory, at_least: u64) -> DocumentResult<RenderedDocument> {
    let found = cache.load(
        db,
        OperationId("op"),
        ChangeNumber(at_least),
        Filter::everything(),
    );
    Ok(found?.document().expect("it has one"))
}

fn shows(document: &Bytes, body: &str) -> bool {
    String::from_utf8_lossy(document).contains(&format!("\"body\":\"{body}\""))
}

#[test]
fn what_was_applied_is_in_the_document() {
    let (db, documents) = (Memory::default(), cache(1 << 20));
    for version in 0..100 {
        let body = version.to_string();
        write(&db, &body);
        assert!(shows(&get(&documents, &db, version), &body), "{body}");
        assert!(shows(&get(&documents, &db, version), &body), "{body}");
    }
    // A reader that read the position earlier gets no less than it asked for.
    assert!(shows(&get(&documents, &db, 3), "99"));
}

#[test]
fn a_document_is_rendered_once_while_its_row_stays() {
    let (db, documents) = (Memory::default(), cache(1 << 20));
    write(&db, "first");
    let first = get(&documents, &db, 0);
    assert_eq!(get(&documents, &db, 0).as_ptr(), first.as_ptr());
    assert_eq!(get(&documents, &db, 7).as_ptr(), first.as_ptr());
    // From the disk it is the same, and not older.
    write(&db, "second");
    let read = load(&documents, &db, 8).expect("it is in memory");
    assert!(shows(&read.bytes, "second"));
    assert_eq!(get(&documents, &db, 8).as_ptr(), read.bytes.as_ptr());
}

/// Each value changed alone, and each member left out alone.
fn variants(value: &serde_json::Value) -> Vec<serde_json::Value> {
    use serde_json::Value;
    let mut all = Vec::new();
    match value {
        Value::Object(members) => {
            for (name, inner) in members {
                let mut fewer = members.clone();
                fewer.remove(name);
                all.push(Value::Object(fewer));
                for inner in variants(inner) {
                    let mut other = members.clone();
                    other.insert(name.clone(), inner);
                    all.push(Value::Object(other));
                }
            }
        }
        Value::Array(elements) => {
            for (at, inner) in elements.iter().enumerate() {
                for inner in variants(inner) {
                    let mut other = elements.clone();
                    other[at] = inner;
                    all.push(Value::Array(other));
                }
            }
        }
        // As long as before.
        Value::String(text) => {
            let shifted = text.bytes().map(|byte| char::from(byte ^ 1));
            all.push(Value::String(shifted.collect()));
        }
        other => all.push((other.as_u64().expect("it is in memory") + 1).into()),
    }
    all
}

#[test]
fn the_tag_follows_from_every_field_of_a_document() {
    let events = include_str!("../../../tests/scenarios/03-one-fails-rollback-ok.events.jsonl");
    let mut op = Operation::default();
    for line in events.lines() {
        op.absorb(decode_structured(line.as_bytes()).expect("it is in memory"));
    }
    op.absorb(
        decode_structured(events.lines().next().expect("it is in memory").as_bytes())
            .expect("it is there"),
    );
    let document = bytes(OperationId("op"), &op, Bodies::Shown, &TimeStyle::default())
        .expect("it is in memory");
    let mut document: serde_json::Value =
        serde_json::from_slice(&document).expect("it is in memory");
    // Only while an operation executes.
    document["sub_status"] = "half".into();
    let all = variants(&document);
    let names = [
        "status",
        "response",
        "rollbacks",
        "target_clusters",
        "request",
    ];
    assert!(
        names.iter().all(|name| document.get(name).is_some()),
        "{document}"
    );
    assert!(all.len() > 40, "{}", all.len());
    let tag = |value: &serde_json::Value| etag(value.to_string().as_bytes());
    let mut tags = std::collections::BTreeMap::from([(tag(&document), &document)]);
    for variant in &all {
        if let Some(same) = tags.insert(tag(variant), variant) {
            panic!("one tag for {same} and {variant}");
        }
    }
}

#[test]
fn a_large_document_is_in_memory_once_for_all_who_are_sent_it() {
    let (db, unsent) = (Memory::default(), Unsent::new(2 << 20));
    let documents = cache_with(0, unsent.clone());
    write(&db, &"x".repeat(1 << 20));
    let first = load(&documents, &db, 0).expect("it is in memory");
    let second = load(&documents, &db, 1).expect("it is in memory");
    assert_eq!(first.bytes.as_ptr(), second.bytes.as_ptr());
    let held = unsent.held();
    assert_eq!(held, first.bytes.len() as u64);
    // What it is after a change is another one, and there is no room for a third.
    write(&db, &"y".repeat((1 << 20) - 1000));
    let third = load(&documents, &db, 2).expect("it is in memory");
    assert_eq!(unsent.held(), held + third.bytes.len() as u64);
    write(&db, &"z".repeat(1 << 20));
    let refused = load(&documents, &db, 3);
    assert!(matches!(refused, Err(LoadError::NoRoom(_))), "{refused:?}");
    drop((first, second, third));
    assert_eq!(unsent.held(), 0);
    assert!(load(&documents, &db, 3).is_ok());
}

/// Those who stream a list may lag: what they need is less than there is.
#[test]
fn a_document_is_given_out_to_whoever_needs_no_more_than_it_holds() {
    let (db, documents) = (Memory::default(), cache(1 << 20));
    write(&db, "first");
    documents.watchers.begin(ChangeNumber(5));
    let first = get(&documents, &db, 2);
    // It was read when five changes were there, and nobody who needs those asks again.
    write(&db, "second");
    assert_eq!(get(&documents, &db, 5).as_ptr(), first.as_ptr());
    assert!(shows(&get(&documents, &db, 6), "second"));
}

/// Its lanes are in rows of their own, which change while the snapshot stays.
#[test]
fn a_document_with_lanes_apart_is_kept_for_as_long_as_nothing_is_applied() {
    let (db, documents) = (Memory::default(), cache(1 << 20));
    let created = br#"{"specversion":"1.0","id":"1","source":"/s","subject":"op",
        "type":"opledger.operation.created.v1","time":"2026-01-01T00:00:00Z",
        "data":{"request":{"uri":"/u","method":"POST"}}}"#;
    let sent = br#"{"specversion":"1.0","id":"2","source":"/s","subject":"op",
        "type":"opledger.cluster.request_sent.v1","time":"2026-01-01T00:00:01Z",
        "data":{"cluster_id":"a","request_id":"r","request":{"uri":"/u","method":"PUT"}}}"#;
    let mut op = Operation::default();
    op.absorb(decode_structured(created).expect("an event"));
    let apart = Some(snapshot::Apart::default());
    let mut batch = Batch::default();
    let row = snapshot::append(&op, apart, Vec::new());
    batch.put(Family::State, &keys::operation(OperationId("op")), &row);
    db.write(&batch, Durability::Buffered)
        .expect("it is in memory");
    let first = load(&documents, &db, 1).expect("it is in memory");
    assert_eq!(get(&documents, &db, 1).as_ptr(), first.bytes.as_ptr());
    op.absorb(decode_structured(sent).expect("an event"));
    let (id, lane) = op.clusters.iter().next().expect("there is one");
    let mut batch = Batch::default();
    let all = keys::of_operation(OperationId("op")).start;
    let key = keys::lane(&all, keys::LaneKind::Cluster, id);
    batch.put(Family::Lane, &key, &snapshot::append_lane(lane, Vec::new()));
    db.write(&batch, Durability::Buffered)
        .expect("it is in memory");
    let everything = Filter::everything();
    let in_memory = documents
        .load_cached(&db, OperationId("op"), ChangeNumber(2), everything)
        .expect("it is in memory");
    assert!(in_memory.is_none(), "{in_memory:?}");
    let second = load(&documents, &db, 2).expect("it is in memory");
    assert!(String::from_utf8_lossy(&second.bytes).contains("\"cluster_id\":\"a\""));
}

#[test]
fn a_filter_is_judged_by_what_the_document_shows() {
    let (db, documents) = (Memory::default(), cache(1 << 20));
    write(&db, "x");
    let uri = |prefix: &str| Filter {
        uri_prefix: Some(prefix.into()),
        ..Filter::default()
    };
    for _ in 0..2 {
        for (prefix, is_shown) in [("/u", true), ("/v", false)] {
            let found = documents
                .load_cached(&db, OperationId("op"), ChangeNumber(1), &uri(prefix))
                .expect("it is in memory");
            let current = found.expect("memory says it");
            assert_eq!(current.document().is_some(), is_shown, "{prefix}");
        }
    }
    let gone = documents.load_cached(
        &db,
        OperationId("other"),
        ChangeNumber(1),
        Filter::everything(),
    );
    assert_eq!(gone.expect("it is in memory"), Some(Current::Gone));
}

#[test]
fn without_room_nothing_is_kept() {
    let (db, documents) = (Memory::default(), cache(0));
    write(&db, "first");
    assert!(shows(&get(&documents, &db, 0), "first"));
    assert_eq!(documents.kept.len(), 0);
}
