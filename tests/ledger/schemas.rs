//! The schemas and the code agree, tested in both directions: each accepts what the other
//! accepts, and refuses what the other refuses.

use crate::support::generate::{self, Rng};
use crate::support::in_process::log_as_is;
use crate::support::schemas;
use crate::support::server::{BATCH, ONE, Server};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use jsonschema::Validator;
use opledger::domain::{Operation, OperationId, Timestamp};
use opledger::wire::cloudevent::decode_structured;
use opledger::wire::document::{Bodies, bytes};
use opledger::wire::error_response::{self, Code, Consistency};
use opledger::wire::fault::Rule;
use opledger::wire::record::{Headers, Record};
use opledger::wire::time::TimeStyle;
use serde_json::{Value, json};

fn taken(event: &Value) -> bool {
    decode_structured(event.to_string().as_bytes()).is_ok()
}

/// Replaces one member with something else, or removes it.
fn mutate(rng: &mut Rng, value: &mut Value) {
    let Value::Object(members) = value else {
        return;
    };
    let names: Vec<String> = members.keys().cloned().collect();
    if names.is_empty() {
        return;
    }
    let name = rng.pick(&names).clone();
    if members[&name].is_object() && rng.chance(70) {
        return mutate(rng, &mut members[&name]);
    }
    // Keep what a schema cannot check: the calendar, URI syntax, JSON in base64.
    let texts = if matches!(name.as_str(), "time" | "source" | "data_base64") {
        1
    } else {
        4
    };
    match rng.below(5) {
        0 => {
            members.remove(&name);
        }
        1 => members[&name] = Value::Null,
        2 => {
            members[&name] = rng
                .pick(&[json!(7), json!(true), json!([]), json!({})])
                .clone()
        }
        3 => {
            members[&name] = rng
                .pick(&[json!(99), json!(600), json!(70_000), json!(-1)])
                .clone()
        }
        _ => {
            let text = ["", "GET", "a/b", &"x".repeat(9_000)][rng.below(texts)].to_owned();
            members[&name] = json!(text);
        }
    }
}

#[test]
fn the_event_schema_takes_what_the_decoder_takes_and_nothing_else() {
    let validator = schemas::named("event");
    let mut rng = Rng::new(23);
    let (mut good, mut bad) = (0, 0);
    for _ in 0..3_000 {
        let mut event = generate::operation(&mut rng, "op-1", 1).remove(0);
        if rng.chance(20) {
            let data = event.as_object_mut().unwrap().remove("data");
            let data = data.unwrap_or(Value::Null).to_string();
            event["data_base64"] = json!(STANDARD.encode(data));
            if rng.chance(20) {
                event["data"] = Value::Null;
            }
        }
        assert!(taken(&event) && validator.is_valid(&event), "{event}");
        let mut mutant = event.clone();
        mutate(&mut rng, &mut mutant);
        let is_taken = taken(&mutant);
        assert_eq!(validator.is_valid(&mutant), is_taken, "{mutant}");
        if is_taken { good += 1 } else { bad += 1 }
    }
    assert!(good > 100 && bad > 100, "both happen: {good} and {bad}");
}

#[test]
fn documents_and_lists_keep_their_schema() {
    let whole = schemas::text("operation-document");
    let document = schemas::validator(&whole);
    let within = |name: &str| {
        let mut list = whole.clone();
        let object = list.as_object_mut().unwrap();
        for keyword in [
            "type",
            "additionalProperties",
            "required",
            "properties",
            "allOf",
        ] {
            object.remove(keyword);
        }
        object.insert("$ref".into(), json!(format!("#/$defs/{name}")));
        schemas::validator(&list)
    };
    let (details, ids) = (within("detail_list"), within("id_list"));
    assert!(ids.is_valid(&json!({"operation_ids": ["a", "b"]})));
    assert!(!ids.is_valid(&json!({"operation_ids": ["log"]})));
    let mut rng = Rng::new(29);
    for _ in 0..500 {
        let size = rng.below(20);
        let texts: Vec<String> = generate::operation(&mut rng, "op-1", size)
            .iter()
            .map(Value::to_string)
            .collect();
        let mut op = Operation::default();
        for text in &texts {
            op.absorb(decode_structured(text.as_bytes()).unwrap());
        }
        let render = |bodies| {
            let json = bytes(OperationId("op-1"), &op, bodies, &TimeStyle::default())?;
            Some(serde_json::from_slice::<Value>(&json).unwrap())
        };
        let Some(mut shown) = render(Bodies::Shown) else {
            continue;
        };
        assert!(document.is_valid(&shown), "{shown}");
        let bare = render(Bodies::LeftOut).unwrap();
        assert!(details.is_valid(&json!({"operations": [bare]})));
        assert!(
            !details.is_valid(&json!({"operations": [shown]})),
            "bodies are not shown"
        );
        shown["sub_status"] = Value::Null;
        assert!(!document.is_valid(&shown), "nothing is ever null");
    }
}

/// Checks that the schema accepts the response, and refuses it after a change to one member of
/// the object at `path`: missing, of another type, null unless it is in `nullable`, or new.
#[track_caller]
fn takes_this_alone(schema: &Validator, answer: &Value, path: &str, nullable: &[&str]) {
    assert!(schema.is_valid(answer), "{answer}");
    let refuses = |change: &dyn Fn(&mut serde_json::Map<String, Value>)| {
        let mut changed = answer.clone();
        let object = changed.pointer_mut(path).unwrap();
        change(object.as_object_mut().unwrap());
        assert!(!schema.is_valid(&changed), "{changed}");
    };
    refuses(&|object| _ = object.insert("unknown".into(), json!("x")));
    for name in answer.pointer(path).unwrap().as_object().unwrap().keys() {
        // Some records have no known arrival time.
        if name != "arrived" {
            refuses(&|object| _ = object.remove(name));
        }
        refuses(&|object| object[name] = json!(true));
        if !nullable.contains(&name.as_str()) {
            refuses(&|object| object[name] = Value::Null);
        }
    }
}

fn some_events() -> Vec<Value> {
    let mut rng = Rng::new(31);
    generate::operation(&mut rng, "op-1", 20)
}

#[test]
fn the_response_to_a_publish_keeps_its_schema() {
    let schema = schemas::named("accepted");
    let server = Server::start();
    let events = some_events();
    for (content_type, body, count) in [
        (ONE, events[0].to_string(), 1),
        (BATCH, Value::from(events.clone()).to_string(), events.len()),
        (BATCH, "[]".into(), 0),
    ] {
        let answer = server.post(content_type, body);
        assert_eq!(answer.status, 202);
        let answer = answer.json();
        takes_this_alone(&schema, &answer, "", &[]);
        assert_eq!(answer["accepted"], count);
        assert_eq!(answer["positions"].as_array().unwrap().len(), count);
    }
    for bad in ["", "0", "0:", ":0", "0:-1", "0:01", "a:1", "0:1:2"] {
        let answer = json!({"accepted": 1, "positions": [bad]});
        assert!(!schema.is_valid(&answer), "{answer}");
    }
}

#[test]
fn the_history_keeps_its_schema() {
    let schema = schemas::named("history");
    let server = Server::start();
    server.publish(&some_events());
    // A read builds the event of a record in binary mode from its headers.
    let binary = [
        ("content-type", "application/json"),
        ("ce-specversion", "1.0"),
        ("ce-id", "binary"),
        ("ce-source", "/w"),
        ("ce-subject", "op-1"),
        ("ce-type", "opledger.operation.progressed.v1"),
        ("ce-time", "2024-05-06T07:08:09Z"),
        ("ce-traceparent", "00-01"),
    ];
    let answer = server.post_with(&binary, r#"{"sub_status": "half"}"#);
    let token = answer.header("ledger-position").to_owned();
    let wait = [("ledger-position", token.as_str())];
    let whole = server.get_with("/v1/operations/op-1/events", &wait).json();
    let count = whole["events"].as_array().unwrap().len();
    assert!(count > 5, "{whole}");
    takes_this_alone(&schema, &whole, "", &[]);
    for n in 0..count {
        takes_this_alone(&schema, &whole, &format!("/events/{n}"), &[]);
        let mut other = whole.clone();
        other["events"][n]["event"]["type"] = json!("opledger.operation.paused.v1");
        assert!(!schema.is_valid(&other), "only events are in a history");
    }
    let page = server.get("/v1/operations/op-1/events?limit=2");
    assert!(!page.header("link").is_empty());
    takes_this_alone(&schema, &page.json(), "/events/1", &[]);
}

/// A log with one invalid record of every kind, and some events.
fn log_with_poison(folder: &std::path::Path) {
    let event = json!({"specversion": "1.0", "id": "e", "source": "/w", "subject": "op",
        "type": "opledger.operation.started.v1", "time": "2024-05-06T07:08:09Z"});
    let with = |name: &str, value: &str| {
        let mut event = event.clone();
        event[name] = json!(value);
        event.to_string()
    };
    let record = |key: Option<&'static [u8]>, value: Option<String>| Record {
        arrived: Timestamp::from_millis(1_715_000_000_123),
        claimed: false,
        key: key.map(Bytes::from_static),
        headers: Headers::default(),
        value: value.map(Bytes::from),
    };
    let mut headers = record(Some(b"op"), Some("\u{0}".into()));
    headers.headers = Headers(vec![
        ("text".into(), Some(Bytes::from_static(b"x"))),
        ("bytes".into(), Some(Bytes::from_static(b"\xff"))),
        ("nothing".into(), None),
        ("often".into(), Some(Bytes::from_static(b"\xff\xff"))),
        ("often".into(), None),
        ("often".into(), Some(Bytes::from_static(b""))),
    ]);
    let records = [
        headers,
        record(Some(b"\xff\xfe"), Some(event.to_string())),
        record(Some(b""), Some(event.to_string())),
        record(Some(b"op"), Some(event.to_string())),
        record(Some(b"\"op\""), Some(event.to_string())),
        record(None, Some(with("type", "opledger.operation.paused.v1"))),
        record(None, Some(with("subject", "log"))),
        record(None, Some(with("id", ""))),
        record(Some(b"op"), None),
    ];
    log_as_is(folder, &records);
}

#[test]
fn dead_letters_keep_their_schema() {
    let schema = schemas::named("dead-letters");
    let folder = tempfile::tempdir().unwrap();
    log_with_poison(folder.path());
    let server = Server::on(folder.path(), &[]);
    server.eventually("all are read", |server| {
        let metrics = server.metrics();
        metrics.contains("opledger_projector_lag_records 0\n")
    });
    let whole = server.get("/v1/dead-letters").json();
    let letters = whole["dead_letters"].as_array().unwrap();
    let reasons: Vec<_> = letters
        .iter()
        .map(|l| l["reason"].as_str().unwrap())
        .collect();
    let expected = [
        "malformed",
        "key_mismatch",
        "unknown_type",
        "invalid_value",
        "out_of_range",
        "tombstone",
    ];
    assert_eq!(reasons, expected);
    takes_this_alone(&schema, &whole, "", &[]);
    for n in 0..letters.len() {
        let path = format!("/dead_letters/{n}");
        takes_this_alone(&schema, &whole, &path, &["key", "value_base64"]);
    }
    for (path, bad) in [
        ("/dead_letters/0/position", json!("0")),
        ("/dead_letters/0/arrived", json!("2024-05-06T07:08:09Z")),
        ("/dead_letters/0/reason", json!("other")),
        ("/dead_letters/0/headers/text", json!([])),
        ("/dead_letters/0/headers/text", json!(1)),
        ("/dead_letters/0/headers/bytes/base64", json!("/w=")),
        ("/dead_letters/0/headers/often/0", json!(["x", "y"])),
        ("/dead_letters/1/key", json!({})),
        ("/dead_letters/1/value_base64", json!("not base64")),
    ] {
        let mut changed = whole.clone();
        *changed.pointer_mut(path).expect(path) = bad;
        assert!(!schema.is_valid(&changed), "{path}");
    }
    let page = server.get("/v1/dead-letters?limit=2").json();
    takes_this_alone(&schema, &page, "/dead_letters/1", &["key", "value_base64"]);
}

#[test]
fn every_reason_of_a_dead_letter_is_in_its_schema() {
    let schema = schemas::text("dead-letters");
    let reasons = &schema["$defs"]["dead_letter"]["properties"]["reason"]["enum"];
    assert_eq!(*reasons, json!(Rule::ALL.map(Rule::reason)));
}

/// Every test of a refusal checks its error response against the schema. This test is about
/// what the schema refuses.
#[test]
fn the_schema_of_the_error_response_takes_each_code_with_its_own_text() {
    let schema = schemas::error_response();
    let codes = [
        Code::SystemStatus,
        Code::ParameterFormat,
        Code::ParameterValue,
        Code::ParameterRange,
        Code::StoreConnection,
        Code::StoreOperation,
        Code::NotFound,
        Code::Undefined,
    ];
    let names = &schemas::text("error")["properties"]["error_code"]["enum"];
    assert_eq!(*names, json!(codes.map(Code::as_str)), "all of them, once");
    for code in codes {
        let consistency = match code {
            Code::Undefined => Consistency::Unknown,
            _ => Consistency::RolledBack,
        };
        for detail in [None, Some("[3].data.cluster_id: 1 to 256 characters.")] {
            let error = error_response::render(code, detail, consistency);
            let error: Value = serde_json::from_slice(&error).unwrap();
            takes_this_alone(schema, &error, "", &[]);
            let changed = |name: &str, value: String| {
                let mut changed = error.clone();
                changed[name] = json!(value);
                assert!(!schema.is_valid(&changed), "{changed}");
            };
            for other in codes.iter().filter(|other| **other != code) {
                changed("error_code", other.as_str().to_owned());
                changed("error_message", other.message().to_owned());
            }
            changed("error_message", format!("{} ", code.message()));
            changed("error_message", format!("{}x", code.message()));
            changed("data_consistency", "updated".to_owned());
        }
    }
    // Only these two codes may leave something stored.
    for code in codes {
        let error = error_response::render(code, None, Consistency::Unknown);
        let error: Value = serde_json::from_slice(&error).unwrap();
        let may = matches!(code, Code::SystemStatus | Code::Undefined);
        assert_eq!(schema.is_valid(&error), may, "{error}");
    }
}
