//! The main use over the real interface: the built binary, real HTTP.

use crate::support::generate::{self, Rng};
use crate::support::reference;
use crate::support::same::assert_same_text;
use crate::support::server::{BATCH, ONE, Server};
use crate::support::stories::{body_operations, check_bodies, stories, subject};
use serde_json::{Value, json};
use std::collections::BTreeMap;

#[test]
fn every_scenario_gives_its_document_after_each_named_prefix() {
    let server = Server::start();
    for story in stories() {
        let mut sent = 0;
        for (after, document) in &story.expected {
            let token = server.publish(&story.events[sent..*after]);
            sent = *after;
            let served = server.document(subject(&story.events), &token);
            assert_eq!(
                served.unwrap_or(Value::Null),
                *document,
                "{} after {after}",
                story.name
            );
        }
    }
}

#[test]
fn any_shuffle_with_repeats_gives_the_same_bytes() {
    let plain = Server::start();
    let shuffled = Server::start();
    let mut rng = Rng::new(7);
    for story in stories() {
        let path = format!("/v1/operations/{}", subject(&story.events));
        let token = plain.publish(&story.events);
        let expected = plain.get_with(&path, &[("ledger-position", &token)]);
        let mut token = String::new();
        let mut events: Vec<String> = Vec::new();
        for event in &story.events {
            for _ in 0..1 + rng.below(3) {
                events.push(generate::spelled_differently(&mut rng, event));
            }
        }
        rng.shuffle(&mut events);
        for event in events {
            let answer = shuffled.post(ONE, event);
            assert_eq!(answer.status, 202);
            token = answer.header("ledger-position").to_owned();
        }
        let served = shuffled.get_with(&path, &[("ledger-position", &token)]);
        assert_eq!(served.status, expected.status);
        assert_same_text(&story.name, &served.body, &expected.body);
        let history = shuffled.get(&format!("{path}/events")).json();
        let shown = history["events"].as_array().unwrap().len();
        assert_eq!(shown, story.events.len(), "{}: each event once", story.name);
    }
}

#[test]
fn every_body_is_returned_byte_for_byte() {
    let server = Server::start();
    let (events, sent) = body_operations();
    let token = server.publish(&events);
    check_bodies(&server, &token, &sent);
}

#[test]
fn generated_operations_agree_with_the_reference_fold() {
    let server = Server::start();
    let mut rng = Rng::new(11);
    let mut operations = Vec::new();
    for n in 0..200 {
        let size = rng.below(30) + 1;
        operations.push(generate::operation(&mut rng, &format!("op-{n}"), size));
    }
    let mut all: Vec<Value> = operations.iter().flatten().cloned().collect();
    rng.shuffle(&mut all);
    let mut token = String::new();
    for batch in all.chunks(100) {
        let answer = server.post(BATCH, serde_json::to_vec(batch).unwrap());
        assert_eq!(answer.status, 202, "{:?}", answer.json());
        token = merge(&token, answer.header("ledger-position"));
    }
    let mut listed = Vec::new();
    for events in &operations {
        let expected = reference::document(events);
        let id = subject(events);
        assert_eq!(server.document(id, &token), expected, "{id}");
        listed.extend(expected.map(|document| (id.to_owned(), document)));
    }
    check_lists(&server, listed);
}

/// The later of two tokens in each partition.
fn merge(a: &str, b: &str) -> String {
    let (log, _) = b.split_once(';').unwrap();
    let mut positions: BTreeMap<u32, u64> = BTreeMap::new();
    for token in [a, b] {
        let list = token.split_once(';').map_or("", |(_, list)| list);
        for part in list.split(',').filter(|part| !part.is_empty()) {
            let (p, o) = part.split_once(':').unwrap();
            let offset = positions.entry(p.parse().unwrap()).or_default();
            *offset = (*offset).max(o.parse().unwrap());
        }
    }
    let parts: Vec<_> = positions.iter().map(|(p, o)| format!("{p}:{o}")).collect();
    format!("{log};{}", parts.join(","))
}

fn check_lists(server: &Server, expected: Vec<(String, Value)>) {
    let details = server.get("/v1/operations?format=detail-list").json();
    let details = details["operations"].as_array().unwrap();
    let listed: BTreeMap<_, _> = details
        .iter()
        .map(|document| {
            (
                document["operation_id"].as_str().unwrap().to_owned(),
                document.clone(),
            )
        })
        .collect();
    let bare = |(id, document)| (id, reference::without_bodies(&document));
    assert_eq!(listed, expected.into_iter().map(bare).collect());
    let ids = server.get("/v1/operations").json();
    let ids: Vec<_> = ids["operation_ids"].as_array().unwrap().iter().collect();
    assert_eq!(
        ids,
        details
            .iter()
            .map(|d| &d["operation_id"])
            .collect::<Vec<_>>(),
        "one order"
    );
    let times: Vec<_> = details
        .iter()
        .map(|d| d["occurred_time"].as_str().unwrap())
        .collect();
    assert!(times.is_sorted_by(|a, b| a >= b), "the newest first");
}

#[test]
fn the_three_forms_are_equal() {
    let server = Server::start();
    let event = |id: &str| {
        json!({"specversion": "1.0", "id": "e1", "source": "/w", "subject": id, "traceparent": "00-1",
            "type": "opledger.operation.created.v1", "time": "2024-05-06T07:08:09Z",
            "data": {"request": {"uri": "/x", "method": "PUT", "body": "é\u{1F600}"}}})
    };
    assert_eq!(server.post(ONE, event("one").to_string()).status, 202);
    let batch = server.post(BATCH, json!([event("batch"), event("batch")]).to_string());
    assert_eq!(batch.status, 202);
    assert_eq!(batch.json()["accepted"], 2);
    assert_eq!(batch.json()["positions"].as_array().unwrap().len(), 2);
    let data = event("")["data"].to_string();
    let binary = server.post_with(
        &[
            ("content-type", "application/json"),
            ("ce-specversion", "1.0"),
            ("ce-id", "e1"),
            ("ce-source", "/w"),
            ("ce-subject", "binary"),
            ("ce-time", "2024-05-06T16:08:09+09:00"),
            ("ce-type", "opledger.operation.created.v1"),
            ("ce-traceparent", "00-%F0%9F%98%80"),
        ],
        data,
    );
    assert_eq!(
        binary.status,
        202,
        "{:?}",
        String::from_utf8_lossy(&binary.body)
    );
    let token = binary.header("ledger-position").to_owned();
    let binary = server.document("binary", &token).unwrap();
    for id in ["one", "batch"] {
        server.eventually("projected", |server| server.document(id, &token).is_some());
        let mut document = server.document(id, &token).unwrap();
        document["operation_id"] = json!("binary");
        assert_eq!(document, binary);
    }
    let history = server.get("/v1/operations/binary/events").json();
    let shown = &history["events"][0]["event"];
    assert_eq!(shown["traceparent"], "00-\u{1F600}");
    assert_eq!(shown["time"], "2024-05-06T16:08:09+09:00", "as received");
    assert_eq!(shown["data"], event("")["data"]);
}

#[test]
fn history_is_as_received_in_order_and_paged() {
    let server = Server::start();
    let story = stories()
        .into_iter()
        .find(|story| story.events.len() > 5)
        .unwrap();
    let id = subject(&story.events).to_owned();
    assert_eq!(
        server.get(&format!("/v1/operations/{id}/events")).status,
        404
    );
    // Without its creation the operation has a history, but no document yet.
    let mut late = story.events.clone();
    let created = late.remove(0);
    late.reverse();
    let token = server.publish(&late);
    assert_eq!(server.document(&id, &token), None);
    let answer = server.get(&format!("/v1/operations/{id}/events"));
    assert_eq!(answer.status, 200);
    assert_eq!(
        answer.json()["events"].as_array().unwrap().len(),
        late.len()
    );
    let token = server.publish(&[created]);
    let headers = [("ledger-position", token.as_str())];
    let whole = server
        .get_with(&format!("/v1/operations/{id}/events"), &headers)
        .json();
    let shown: Vec<_> = whole["events"]
        .as_array()
        .unwrap()
        .iter()
        .map(|e| &e["event"])
        .collect();
    assert_eq!(shown, reference::history(&story.events));
    let mut pages = Vec::new();
    let mut next = Some(format!("/v1/operations/{id}/events?limit=2"));
    while let Some(path) = next {
        let page = server.get(&path);
        let events = page.json()["events"].as_array().unwrap().clone();
        assert!(events.len() <= 2);
        pages.extend(events);
        next = page.headers.get("link").map(|link| {
            let link = link.to_str().unwrap();
            assert!(link.ends_with("; rel=\"next\""));
            link[1..link.find('>').unwrap()].to_owned()
        });
    }
    assert_eq!(&pages, whole["events"].as_array().unwrap());
}

#[test]
fn events_that_share_an_id_but_differ_are_both_in_the_history() {
    let server = Server::start();
    let event = |sub_status: &str| {
        json!({"specversion": "1.0", "id": "same", "source": "/w", "subject": "reused",
            "type": "opledger.operation.progressed.v1", "time": "2024-05-06T07:08:09Z",
            "data": {"sub_status": sub_status}})
    };
    let mut respelled = event("a");
    respelled["extension"] = json!("does not count");
    let token = server.publish(&[event("a"), event("b"), respelled, event("a")]);
    let headers = [("ledger-position", token.as_str())];
    let history = server
        .get_with("/v1/operations/reused/events", &headers)
        .json();
    let shown = history["events"].as_array().unwrap();
    assert_eq!(shown.len(), 2);
    let first: Vec<_> = shown
        .iter()
        .map(|e| e["position"].as_str().unwrap())
        .collect();
    assert!(
        first[0].ends_with(":0") && first[1].ends_with(":1"),
        "lowest positions: {first:?}"
    );
}

#[test]
fn a_document_is_cached_by_its_etag() {
    let server = Server::start();
    let story = &stories()[0];
    let token = server.publish(&story.events);
    let path = format!("/v1/operations/{}", subject(&story.events));
    let first = server.get_with(&path, &[("ledger-position", &token)]);
    let etag = first.header("etag").to_owned();
    let again = server.get_with(&path, &[("if-none-match", &etag)]);
    assert_eq!((again.status, again.body.len()), (304, 0));
    assert!(again.headers.contains_key("ledger-position"));
    let other = server.get_with(&path, &[("if-none-match", "\"something else\"")]);
    assert_same_text("the document", &other.body, &first.body);
}

#[test]
fn restarts_change_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let mut first = None;
    for round in 0..3 {
        let server = Server::on(folder.path(), &[]);
        let mut token = String::new();
        for story in stories() {
            token = merge(&token, &server.publish(&story.events));
        }
        let headers = [("ledger-position", token.as_str())];
        let list = server.get_with("/v1/operations?format=detail-list", &headers);
        assert_eq!(list.status, 200);
        assert_eq!(
            *first.get_or_insert_with(|| list.body.clone()),
            list.body,
            "round {round}"
        );
        assert!(server.terminate().success());
    }
}

#[test]
fn operators_see_what_is_going_on() {
    let server = Server::start();
    server.publish(&stories()[0].events);
    assert_eq!(server.get("/livez").status, 200);
    server.eventually("ready", |server| server.get("/readyz").status == 200);
    let version = server.get("/version").json();
    assert_eq!(version["version"], env!("CARGO_PKG_VERSION"));
    server.eventually("counted", |server| {
        let metrics = server.metrics();
        metrics.contains("opledger_events_applied_total")
            && metrics.contains("opledger_http_requests_total")
    });
}
