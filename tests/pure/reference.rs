//! Tests of the test tools: the reference fold gives the documents of the sample operations and
//! of the cases that they leave out, and the generated events have the faults that they should
//! have. Nothing here runs the product.

use crate::support::root;
use std::collections::BTreeSet;
use std::fs;

use crate::support::generate::{self, Rng};
use crate::support::reference::{anomalies, calendar, document, history, instant, without_bodies};
use serde_json::{Value, json};

// ---------------------------------------------------------------------------
// Sample operations
// ---------------------------------------------------------------------------

struct Story {
    name: String,
    events: Vec<Value>,
    expected: Vec<Value>,
}

fn stories() -> Vec<Story> {
    let folder = root().join("tests/scenarios");
    let mut stories = Vec::new();
    for entry in fs::read_dir(&folder).expect("a folder") {
        let file = entry.expect("an entry").file_name();
        let file = file.to_str().expect("UTF-8");
        let Some(name) = file.strip_suffix(".events.jsonl") else {
            continue;
        };
        let read = |suffix| fs::read_to_string(folder.join(format!("{name}{suffix}"))).unwrap();
        let event = |line| serde_json::from_str(line).expect("an event");
        stories.push(Story {
            name: name.to_owned(),
            events: read(".events.jsonl").lines().map(event).collect(),
            expected: serde_json::from_str(&read(".expected.json")).expect("documents"),
        });
    }
    assert_eq!(stories.len(), 12, "the number of sample operations");
    stories
}

#[test]
fn scenarios_give_their_documents() {
    for story in stories() {
        for expected in &story.expected {
            let after = expected["after"].as_u64().expect("a number") as usize;
            let events = &story.events[..after];
            let said = format!("{}: {}", story.name, expected["label"]);
            assert_eq!(document(events).unwrap(), expected["document"], "{said}");
            assert_eq!(anomalies(events), [""; 0], "{said}");
        }
    }
}

#[test]
fn order_repetition_and_spelling_of_a_scenario_do_not_matter() {
    let mut rng = Rng::new(1);
    for Story { name, events, .. } in stories() {
        let expected = document(&events);
        assert_eq!(document(&events[1..]), None, "{name}: without its creation");
        for _ in 0..20 {
            assert_eq!(document(&disturbed(&mut rng, &events)), expected, "{name}");
        }
    }
}

/// The same set: shuffled, partly repeated, with other spellings.
fn disturbed(rng: &mut Rng, events: &[Value]) -> Vec<Value> {
    let mut disturbed = events.to_vec();
    for event in events {
        if rng.chance(50) {
            let text = generate::spelled_differently(rng, event);
            disturbed.push(serde_json::from_str(&text).expect("JSON"));
        }
    }
    rng.shuffle(&mut disturbed);
    disturbed
}

// ---------------------------------------------------------------------------
// Cases that the sample operations leave out
// ---------------------------------------------------------------------------

/// Source and id are always the same, so events of one second tie.
fn event(kind: &str, second: u32, data: Value) -> Value {
    json!({
        "specversion": "1.0",
        "id": "1",
        "source": "/w",
        "type": format!("opledger.{kind}.v1"),
        "subject": "op",
        "time": format!("2019-06-27T07:00:{second:02}Z"),
        "data": data,
    })
}

fn created() -> Value {
    event("operation.created", 0, json!({ "request": request("/") }))
}

fn progressed(second: u32, sub_status: impl Into<Value>) -> Value {
    let data = json!({ "sub_status": sub_status.into(), "response": "unknown here" });
    event("operation.progressed", second, data)
}

fn ended(status: &str, second: u32, response: Value) -> Value {
    let kind = format!("operation.{status}");
    event(&kind, second, json!({ "response": response }))
}

fn sent(second: u32, cluster: &str, uri: &str) -> Value {
    let data = json!({ "cluster_id": cluster, "request": request(uri) });
    event("cluster.request_sent", second, data)
}

fn answered(second: u32, cluster: &str, response: Value) -> Value {
    let data = json!({ "cluster_id": cluster, "response": response });
    event("cluster.response_received", second, data)
}

fn attempted(second: u32, cluster: &str, uri: &str) -> Value {
    let data = json!({ "cluster_id": cluster, "request": request(uri) });
    event("rollback.attempted", second, data)
}

fn undone(second: u32, cluster: &str, response: Value) -> Value {
    let data = json!({ "cluster_id": cluster, "response": response });
    event("rollback.response_received", second, data)
}

fn request(uri: &str) -> Value {
    json!({ "uri": uri, "method": "PUT" })
}

fn code(status_code: u16) -> Value {
    json!({ "status_code": status_code })
}

/// The document, which must be the same in reverse order.
fn folded(events: &[Value]) -> Value {
    let backwards: Vec<Value> = events.iter().rev().cloned().collect();
    let folded = document(events).expect("a document");
    assert_eq!(document(&backwards).as_ref(), Some(&folded));
    folded
}

#[test]
fn first_and_last_go_by_time_then_source_then_id() {
    let report = |time: &str, source: &str, id: &str| {
        let mut event = progressed(1, format!("{time} {source} {id}"));
        event["time"] = format!("2019-06-27T{time}").into();
        event["source"] = source.into();
        event["id"] = id.into();
        event
    };
    // Each is later than the one before. Strings compare by bytes.
    let mut events = vec![created(), event("operation.started", 0, json!({}))];
    for (time, source, id) in [
        ("08:00:01+01:00", "/z", "z"),
        ("07:00:01.000000001Z", "/a", "10"),
        ("07:00:01.000000001999Z", "/a", "9"),
        ("06:00:01.000000001-01:00", "/a", "Z"),
        ("07:00:01.000000001Z", "/a", "a"),
        ("07:00:01.000000001Z", "/a/", "\u{fffd}"),
        ("07:00:01.000000001Z", "/a/", "\u{1f600}"),
        ("07:00:01.000000002Z", "/", "0"),
    ] {
        events.push(report(time, source, id));
        assert_eq!(
            folded(&events)["sub_status"],
            format!("{time} {source} {id}")
        );
    }
}

#[test]
fn of_tying_creations_the_smaller_request_counts() {
    let created = |body: Value, unknown: u8| {
        let request = json!({ "uri": "/", "method": "PUT", "body": body, "unknown": unknown });
        event("operation.created", 0, json!({ "request": request }))
    };
    let kept = |a, b| folded(&[created(a, 2), created(b, 1)])["request"].clone();
    let with = |body| json!({ "uri": "/", "method": "PUT", "body": body });
    // A null body is "", which is the smallest.
    assert_eq!(kept(Value::Null, "a".into()), with(""));
    // By bytes, not by UTF-16, where the second would be smaller.
    assert_eq!(
        kept("\u{fffd}".into(), "\u{1f600}".into()),
        with("\u{fffd}")
    );
    // By the canonical text, where a line feed is a backslash and an n.
    assert_eq!(kept("A".into(), "\n".into()), with("A"));
}

#[test]
fn of_tying_terminal_events_the_smaller_counts() {
    let data = json!({ "reason": "", "response": "unknown here" });
    let canceled = event("operation.canceled", 1, data);
    let failed = ended("failed", 1, code(200));
    let completed = ended("completed", 1, json!({ "status_code": 200, "body": "" }));
    let document = folded(&[created(), canceled.clone(), failed.clone(), completed]);
    assert_eq!(document["status"], "completed");
    assert_eq!(
        document["response"],
        json!({ "status_code": 200, "body": "" })
    );
    // "response" comes before "status".
    let document = folded(&[created(), canceled.clone(), failed]);
    assert_eq!(document["status"], "failed");
    let document = folded(&[created(), canceled]);
    assert_eq!(document["status"], "canceled");
    assert!(document.get("response").is_none());
}

#[test]
fn the_earliest_terminal_event_counts_and_fixes_the_last_update() {
    let late = json!({ "body": "late" });
    let events = [
        created(),
        ended("completed", 3, code(200)),
        ended("failed", 2, code(500)),
        progressed(9, "late"),
        sent(1, "c", "/c"),
        answered(8, "c", late.clone()),
    ];
    let document = folded(&events);
    assert_eq!(document["status"], "failed");
    assert_eq!(document["last_update_time"], "20190627 070002");
    assert!(document.get("sub_status").is_none());
    assert_eq!(document["target_clusters"][0]["response"], late);
    let expected = ["event_after_terminal", "terminal_conflict"];
    assert_eq!(anomalies(&events), expected);
}

#[test]
fn of_tying_sub_statuses_the_larger_counts_and_null_is_largest() {
    let started = event("operation.started", 2, json!({}));
    let mut events = vec![created(), started, progressed(1, "")];
    assert_eq!(folded(&events)["sub_status"], "");
    events.extend([progressed(1, "b"), progressed(1, "a")]);
    assert_eq!(folded(&events)["sub_status"], "b");
    events.push(progressed(1, Value::Null));
    assert!(folded(&events).get("sub_status").is_none());
}

#[test]
fn of_tying_responses_the_larger_counts() {
    let mut events = vec![created(), sent(1, "c", "/c")];
    // Each is larger than the one before. No response at all is the largest.
    for response in [
        json!({ "body": "a", "status_code": 500 }),
        json!({ "body": "b", "status_code": 200 }),
        json!({ "status_code": 201 }),
        json!({}),
    ] {
        events.push(answered(2, "c", response.clone()));
        assert_eq!(folded(&events)["target_clusters"][0]["response"], response);
    }
    assert_eq!(anomalies(&events), ["response_replaced"]);
}

#[test]
fn lanes_stand_by_their_first_request_then_by_name() {
    let sent_as = |second, cluster, request_id: Value| {
        let mut event = sent(second, cluster, &format!("/{cluster}/{second}"));
        event["data"]["request_id"] = request_id;
        event["data"]["response"] = "unknown here".into();
        event
    };
    let mut from_a_later_source = sent(2, "0", "/later");
    from_a_later_source["source"] = "/z".into();
    let events = [
        created(),
        sent_as(3, "a", "r".into()),
        from_a_later_source,
        sent_as(2, "b", "s".into()),
        sent_as(2, "b", "r".into()),
        sent_as(2, "10", Value::Null),
        sent_as(2, "9", "10".into()),
        // The same lane again: a missing request_id is the cluster_id.
        sent_as(4, "10", "10".into()),
        answered(1, "unasked", json!({})),
    ];
    let document = folded(&events);
    let expected = ["/10/2", "/9/2", "/b/2", "/b/2", "/later", "/a/3"];
    assert_eq!(uris(&document["target_clusters"]), expected);
    assert_eq!(document["target_clusters"][0].get("response"), None);
    assert_eq!(anomalies(&events), ["response_without_request"]);
}

fn uris(entries: &Value) -> Vec<&Value> {
    let entries = entries.as_array().expect("an array").iter();
    entries.map(|entry| &entry["request"]["uri"]).collect()
}

#[test]
fn rollbacks_follow_the_requests_then_their_attempts() {
    let mut with_answer = attempted(6, "b", "/undo/b");
    with_answer["data"]["response"] = json!({ "status_code": 204, "unknown": 1 });
    let events = [
        created(),
        sent(1, "b", "/b"),
        sent(2, "a", "/a"),
        attempted(3, "z", "/undo/z"),
        attempted(4, "y", "/undo/y"),
        attempted(5, "a", "/undo/a"),
        with_answer,
        // Attempted again: neither its order nor its request changes.
        attempted(7, "a", "/again"),
    ];
    let rollbacks = folded(&events)["rollbacks"].clone();
    let expected = ["/undo/b", "/undo/a", "/undo/z", "/undo/y"];
    assert_eq!(uris(&rollbacks["target_clusters"]), expected);
    assert_eq!(rollbacks["occurred_time"], "20190627 070003");
    assert_eq!(rollbacks["target_clusters"][0]["response"], code(204));
}

#[test]
fn the_result_of_a_rollback_follows_from_the_responses_shown() {
    let mut events = vec![created(), attempted(1, "a", "/a"), attempted(1, "b", "/b")];
    // This rollback had no request, so its failure does not count.
    events.push(undone(2, "x", code(500)));
    for (answer, result) in [
        (undone(2, "a", code(299)), "none"),
        (undone(2, "b", json!({ "body": "no code" })), "none"),
        (undone(3, "b", code(200)), "completed"),
        (undone(4, "a", code(300)), "failed"),
        (undone(5, "b", json!({})), "failed"),
        (undone(5, "a", code(200)), "none"),
    ] {
        events.push(answer);
        assert_eq!(folded(&events)["rollbacks"]["result"], result);
    }
    let expected = ["response_replaced", "response_without_request"];
    assert_eq!(anomalies(&events), expected);
}

#[test]
fn a_response_without_its_request_starts_the_operation() {
    let document = folded(&[created(), answered(1, "a", code(200))]);
    assert_eq!(document["status"], "executing");
    assert_eq!(document["target_clusters"], json!([]));
}

#[test]
fn without_an_attempt_there_are_no_rollbacks() {
    let document = folded(&[created(), undone(1, "a", code(200))]);
    assert!(document.get("rollbacks").is_none());
    assert_eq!(document["status"], "executing");
    assert_eq!(document["target_clusters"], json!([]));
}

#[test]
fn anomalies_of_creations() {
    let notified = |second, notification: Value| {
        let data = json!({ "request": request("/"), "notification": notification });
        event("operation.created", second, data)
    };
    let at = |port, unknown| json!({ "address": "192.0.2.1", "port": port, "unknown": unknown });
    // The same content in another spelling: no anomaly.
    assert_eq!(anomalies(&[created(), notified(1, Value::Null)]), [""; 0]);
    let reworded = [notified(1, at(1, 1)), notified(1, at(1, 2))];
    assert_eq!(anomalies(&reworded), [""; 0]);
    let twice = [notified(1, at(1, 1)), notified(1, at(2, 1))];
    assert_eq!(anomalies(&twice), ["created_again"]);
    let before = [
        notified(1, at(1, 1)),
        event("operation.started", 0, json!({})),
    ];
    assert_eq!(anomalies(&before), ["before_created"]);
    assert_eq!(anomalies(&before[1..]), [""; 0]);
}

#[test]
fn repeated_terminal_events_are_no_conflict() {
    let again = json!({ "status_code": 200, "body": "", "unknown": 1 });
    let ends = [
        created(),
        ended("completed", 1, code(200)),
        ended("completed", 2, again),
    ];
    assert_eq!(anomalies(&ends), ["event_after_terminal"]);
    let canceled = |reason| event("operation.canceled", 1, json!({ "reason": reason }));
    assert_eq!(anomalies(&[canceled("one"), canceled("two")]), [""; 0]);
}

#[test]
fn history_is_the_set_in_order() {
    let started = |unknown: Value| event("operation.started", 9, json!({ "unknown": unknown }));
    let (one, other) = (started(1.into()), started(2.into()));
    let mut respelled = one.clone();
    respelled["time"] = "2019-06-27T08:00:09.000000000999+01:00".into();
    respelled["traceparent"] = "x".into();
    let events = [one, respelled, created(), other, started(1.0.into())];
    let expected = [&events[2], &events[0], &events[3]];
    assert_eq!(history(&events), expected);
}

#[test]
fn times_are_instants() {
    let same = [
        "2017-01-01T00:00:00.123456789Z",
        "2016-12-31T23:59:60.1234567899Z",
        "2017-01-01T08:59:60.123456789+09:00",
        "2016-12-31t19:30:00.123456789-04:30",
    ];
    for time in same {
        assert_eq!(instant(time), instant(same[0]), "{time}");
    }
    assert_eq!(instant("0001-01-01T00:00:00.5z"), (0, 500_000_000));
    assert_eq!(instant("0000-12-31T23:00:00-01:00"), (0, 0));
    // The Unix epoch, as `date --date=0001-01-01T00:00:00Z +%s` prints it.
    assert_eq!(instant("1970-01-01T00:00:00-00:00"), (62_135_596_800, 0));
    assert_eq!(instant("9999-12-31T23:59:59.9999999999Z").1, 999_999_999);
}

#[test]
fn instants_convert_to_dates() {
    for (time, date) in [
        ("0001-01-01T00:00:00Z", [1, 1, 1, 0, 0, 0]),
        ("1900-02-28T23:30:00-01:00", [1900, 3, 1, 0, 30, 0]),
        ("2000-02-28T23:30:00-01:00", [2000, 2, 29, 0, 30, 0]),
        ("2020-12-31T23:59:59Z", [2020, 12, 31, 23, 59, 59]),
        ("9999-12-31T23:59:59Z", [9999, 12, 31, 23, 59, 59]),
    ] {
        assert_eq!(calendar(instant(time).0), date);
    }
}

#[test]
fn the_detail_list_has_no_bodies() {
    let events = [
        created(),
        sent(1, "a", "/a"),
        answered(2, "a", json!({ "body": "b" })),
        attempted(3, "a", "/u"),
        ended("failed", 4, json!({ "status_code": 500, "body": "b" })),
    ];
    let expected = json!({
        "operation_id": "op",
        "occurred_time": "20190627 070000",
        "last_update_time": "20190627 070004",
        "status": "failed",
        "request": request("/"),
        "response": code(500),
        "target_clusters": [{ "cluster_id": "a", "request": request("/a"), "response": {} }],
        "rollbacks": {
            "result": "none",
            "occurred_time": "20190627 070003",
            "target_clusters": [{ "cluster_id": "a", "request": request("/u") }],
        },
    });
    assert_eq!(without_bodies(&folded(&events)), expected);
}

// ---------------------------------------------------------------------------
// The generator
// ---------------------------------------------------------------------------

#[test]
fn generated_operations_fold_to_the_same_in_any_order() {
    for seed in 0..1000 {
        let mut rng = Rng::new(seed);
        let size = 1 + rng.below(25);
        let events = generate::operation(&mut rng, "op", size);
        assert_eq!(events.len(), size, "seed {seed}");
        let other = disturbed(&mut rng, &events);
        assert_eq!(document(&other), document(&events), "seed {seed}");
        assert_eq!(anomalies(&other), anomalies(&events), "seed {seed}");
        assert_eq!(history(&other).len(), history(&events).len(), "seed {seed}");
    }
}

/// Each of these has to occur often, or comparing would prove little.
#[test]
fn generated_operations_cover_anomalies_and_repeats() {
    let mut seen = Vec::new();
    for seed in 0..1000 {
        let mut rng = Rng::new(seed);
        let size = 1 + rng.below(25);
        let events = generate::operation(&mut rng, "op", size);
        seen.extend(anomalies(&events).into_iter().map(String::from));
        let set = history(&events);
        seen.extend(set.iter().map(|event| event["type"].to_string()));
        if set.len() < events.len() {
            seen.push("repeat".into());
        }
        let key = |event: &Value| {
            let time = instant(event["time"].as_str().expect("a time"));
            format!("{time:?} {} {}", event["source"], event["id"])
        };
        if set.windows(2).any(|pair| key(pair[0]) == key(pair[1])) {
            seen.push("tie".into());
        }
        let Some(document) = document(&events) else {
            seen.push("no document".into());
            continue;
        };
        seen.push(document["status"].to_string());
        let fields = document.as_object().expect("an object").keys();
        seen.extend(fields.map(String::from));
        if let Some(rollbacks) = document.get("rollbacks") {
            seen.push(format!("rollback {}", rollbacks["result"]));
        }
    }
    let kinds: BTreeSet<&String> = seen.iter().collect();
    for kind in &kinds {
        let count = seen.iter().filter(|seen| seen == kind).count();
        println!("{count:6} {kind}");
        assert!(count >= 30, "{kind} only {count} times");
    }
    assert_eq!(kinds.len(), 6 + 10 + 3 + 5 + 9 + 3, "{kinds:?}");
}

#[test]
fn spelling_changes_the_text_alone() {
    let mut rng = Rng::new(7);
    for event in stories().iter().flat_map(|story| &story.events) {
        let text = generate::spelled_differently(&mut rng, event);
        let respelled: Value = serde_json::from_str(&text).expect("JSON");
        assert_ne!(text, event.to_string());
        assert_eq!(respelled["data"], event["data"]);
        assert_eq!(history(&[event.clone(), respelled]), [event]);
    }
}

#[test]
fn realistic_operations_complete_with_all_responses() {
    let (mut count, mut bytes) = (0, 0);
    for i in 0..1000 {
        let events = generate::realistic(i);
        let document = folded(&events);
        assert_eq!(document["status"], "completed");
        let clusters = document["target_clusters"].as_array().expect("an array");
        assert_eq!(clusters.len() as u64, 2 + i % 3);
        for cluster in clusters {
            assert_eq!(cluster["response"]["status_code"], 200);
        }
        assert_eq!(anomalies(&events), [""; 0]);
        assert!(history(&events).into_iter().eq(&events));
        count += events.len();
        let lengths = events.iter().map(|event| event.to_string().len());
        bytes += lengths.sum::<usize>();
    }
    let average = bytes / count;
    assert!((300..400).contains(&average), "{average} bytes an event");
}
