//! Owns a second implementation of the specification: a plain fold of the events of one operation,
//! which tests compare with the product.
//!
//! It is written apart from `src/domain` and shares no code with it, so that a misreading on one
//! side shows as a difference. It is meant to be obvious, not fast: every rule sorts and scans the
//! whole set. It expects valid events and panics on others. F1 to F11 are the rules in
//! docs/events.md.
//! valid (it panics on others). F1 to F11 are the rules in docs/events.md.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

// ---------------------------------------------------------------------------
// The public functions
// ---------------------------------------------------------------------------

/// The operation document (with F11's default separator), or `None` without a
/// creation (F1).
pub fn document(events: &[Value]) -> Option<Value> {
    let events = set(events);
    let created = offers(&events, creation_request);
    let created = created.first()?;
    let endings = offers(&events, ending);
    let ended = endings.first();
    let status = status(&events, ended);
    // F3: the terminal event freezes it, although other events may be later.
    let last_update = ended.map_or(events.last()?.key.time, |ended| ended.key.time);

    let mut document = Map::new();
    document.insert("operation_id".into(), events[0].original["subject"].clone());
    document.insert("occurred_time".into(), written(created.key.time).into());
    document.insert("last_update_time".into(), written(last_update).into());
    document.insert("status".into(), status.clone());
    // F4
    if let Some(reported) = offers(&events, sub_status).last()
        && status == "executing"
        && !reported.value.is_null()
    {
        document.insert("sub_status".into(), reported.value.clone());
    }
    document.insert("request".into(), created.value.clone());
    // F5: a cancellation has no response.
    if let Some(response) = ended.and_then(|ended| ended.value.get("response")) {
        document.insert("response".into(), response.clone());
    }
    let sent = shown(lanes(&events, "cluster.", "cluster.request_sent"));
    document.insert("target_clusters".into(), entries(&sent));
    if let Some(rollbacks) = rollbacks(&events, &sent) {
        document.insert("rollbacks".into(), rollbacks);
    }
    Some(Value::Object(document))
}

/// The same document as `format=detail-list` shows it. `body` is a member only in the places that
/// lose it, so every member of that name is removed.
pub fn without_bodies(document: &Value) -> Value {
    match document {
        Value::Object(members) => members
            .iter()
            .filter(|(name, _)| *name != "body")
            .map(|(name, value)| (name.clone(), without_bodies(value)))
            .collect(),
        Value::Array(values) => values.iter().map(without_bodies).collect(),
        other => other.clone(),
    }
}

/// The anomalies of the set, sorted by name; not `id_reused`.
pub fn anomalies(events: &[Value]) -> Vec<&'static str> {
    let events = set(events);
    let creations = offers(&events, creation);
    let endings = offers(&events, ending);
    let mut lanes_of_both = lanes(&events, "cluster.", "cluster.request_sent");
    lanes_of_both.extend(lanes(&events, "rollback.", "rollback.attempted"));

    let earliest = events.first().map(|event| event.key);
    let latest = events.last().map(|event| event.key);
    let judged = [
        (
            "before_created",
            creations
                .first()
                .is_some_and(|first| earliest < Some(first.key)),
        ),
        ("created_again", differ(&creations)),
        (
            "event_after_terminal",
            endings
                .first()
                .is_some_and(|first| latest > Some(first.key)),
        ),
        (
            "response_replaced",
            lanes_of_both.iter().any(|lane| differ(&lane.responses)),
        ),
        (
            "response_without_request",
            lanes_of_both.iter().any(|lane| lane.requests.is_empty()),
        ),
        ("terminal_conflict", differ(&endings)),
    ];
    let holding = judged.into_iter().filter(|(_, holds)| *holds);
    holding.map(|(name, _)| name).collect()
}

/// The distinct events in order-key order; of equal events, the first copy. Events with equal keys
/// keep their given order.
pub fn history(events: &[Value]) -> Vec<&Value> {
    set(events)
        .into_iter()
        .map(|event| event.original)
        .collect()
}

// ---------------------------------------------------------------------------
// The set of events
// ---------------------------------------------------------------------------

const KINDS: [&str; 10] = [
    "operation.created",
    "operation.started",
    "operation.progressed",
    "cluster.request_sent",
    "cluster.response_received",
    "rollback.attempted",
    "rollback.response_received",
    "operation.completed",
    "operation.failed",
    "operation.canceled",
];

/// Defines "first" and "last"; compared field by field, as derived.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Key<'a> {
    time: Instant,
    source: &'a str,
    id: &'a str,
}

struct Event<'a> {
    key: Key<'a>,
    kind: &'a str,
    data: &'a Value,
    original: &'a Value,
}

/// One operation's events without repeats, in order-key order.
fn set(events: &[Value]) -> Vec<Event<'_>> {
    let mut seen = BTreeSet::new();
    let mut set: Vec<Event> = events
        .iter()
        .map(parsed)
        .filter(|event| {
            let subject = text(event.original, "subject");
            seen.insert((event.key, event.kind, subject, canonical(event.data)))
        })
        .collect();
    set.sort_by_key(|event| event.key);
    set
}

fn parsed(event: &Value) -> Event<'_> {
    let kind = text(event, "type")
        .strip_prefix("opledger.")
        .and_then(|rest| rest.strip_suffix(".v1"))
        .filter(|kind| KINDS.contains(kind))
        .expect("a known type");
    Event {
        key: Key {
            time: instant(text(event, "time")),
            source: text(event, "source"),
            id: text(event, "id"),
        },
        kind,
        // Missing and null are the same for an optional member.
        data: event.get("data").unwrap_or(&Value::Null),
        original: event,
    }
}

// ---------------------------------------------------------------------------
// Registers: the values that events offer, and the one that is kept
// ---------------------------------------------------------------------------

struct Offer<'a> {
    key: Key<'a>,
    value: Value,
}

/// The values that `offered` finds in the events, sorted by order key and, for equal keys, by
/// canonical text. A register that keeps the earliest (of equals the smaller text) keeps the first
/// of these. One that keeps the latest (of equals the larger) keeps the last.
fn offers<'a>(
    events: &[Event<'a>],
    offered: impl Fn(&Event<'a>) -> Option<Value>,
) -> Vec<Offer<'a>> {
    let mut offers = Vec::new();
    for event in events {
        if let Some(value) = offered(event) {
            let key = event.key;
            offers.push(Offer { key, value });
        }
    }
    offers.sort_by_cached_key(|offer| (offer.key, canonical(&offer.value)));
    offers
}

fn differ(offers: &[Offer]) -> bool {
    offers.iter().any(|offer| offer.value != offers[0].value)
}

fn creation_request(event: &Event) -> Option<Value> {
    (event.kind == "operation.created").then(|| request(&event.data["request"]))
}

/// The whole creation, for `created_again`.
fn creation(event: &Event) -> Option<Value> {
    let mut creation = json!({ "request": creation_request(event)? });
    if let Some(notification) = given(event.data, "notification") {
        creation["notification"] = known(notification, &["address", "port"]);
    }
    Some(creation)
}

fn ending(event: &Event) -> Option<Value> {
    if event.kind == "operation.canceled" {
        return Some(json!({ "status": "canceled" }));
    }
    let status = ["completed", "failed"]
        .into_iter()
        .find(|status| event.kind == format!("operation.{status}"))?;
    let mut response = answer(&event.data["response"]);
    if response.get("body").is_none() {
        response["body"] = "".into();
    }
    Some(json!({ "status": status, "response": response }))
}

/// A report that clears the sub status also offers a value: null.
fn sub_status(event: &Event) -> Option<Value> {
    (event.kind == "operation.progressed")
        .then(|| given(event.data, "sub_status").cloned().unwrap_or_default())
}

/// F10: a missing body of a request is "".
fn request(given_request: &Value) -> Value {
    let mut request = known(given_request, &["uri", "method", "body"]);
    if request.get("body").is_none() {
        request["body"] = "".into();
    }
    request
}

/// F10: a response has only the given members; nothing is filled in.
fn answer(response: &Value) -> Value {
    known(response, &["status_code", "body"])
}

// ---------------------------------------------------------------------------
// F2
// ---------------------------------------------------------------------------

fn status(events: &[Event], ended: Option<&Offer>) -> Value {
    if let Some(ended) = ended {
        return ended.value["status"].clone();
    }
    let begun = events.iter().any(|event| {
        event.kind == "operation.started"
            || event.kind.starts_with("cluster.")
            || event.kind.starts_with("rollback.")
    });
    if begun {
        "executing".into()
    } else {
        "unexecuted".into()
    }
}

// ---------------------------------------------------------------------------
// F6 to F9: lanes
// ---------------------------------------------------------------------------

/// (`cluster_id`, `request_id`), compared left to right by bytes.
type LaneName<'a> = (&'a str, &'a str);

struct Lane<'a> {
    name: LaneName<'a>,
    requests: Vec<Offer<'a>>,
    responses: Vec<Offer<'a>>,
}

fn lane_name<'a>(event: &Event<'a>) -> LaneName<'a> {
    let cluster_id = text(event.data, "cluster_id");
    let request_id = given(event.data, "request_id").and_then(Value::as_str);
    (cluster_id, request_id.unwrap_or(cluster_id))
}

/// All lanes that events of a family name, sorted by name, including those with only a response.
/// `opens` is the kind that carries the request.
fn lanes<'a>(events: &[Event<'a>], family: &str, opens: &str) -> Vec<Lane<'a>> {
    let of_family = |event: &Event| event.kind.starts_with(family);
    let mut names = BTreeSet::new();
    for event in events.iter().filter(|event| of_family(event)) {
        names.insert(lane_name(event));
    }
    let lane = |name| Lane {
        name,
        requests: offers(events, |event| {
            let opened = event.kind == opens && lane_name(event) == name;
            opened.then(|| request(&event.data["request"]))
        }),
        responses: offers(events, |event| {
            // F8: an attempt may include its response. In a cluster's request, `response` would be
            // an unknown member.
            let may_answer = event.kind != "cluster.request_sent";
            if of_family(event) && may_answer && lane_name(event) == name {
                given(event.data, "response").map(answer)
            } else {
                None
            }
        }),
    };
    names.into_iter().map(lane).collect()
}

/// F7: the lanes with a request, ordered by their first one. The sort is stable, so lanes whose
/// first requests have equal keys keep the order of their names.
fn shown(mut lanes: Vec<Lane>) -> Vec<Lane> {
    lanes.retain(|lane| !lane.requests.is_empty());
    lanes.sort_by_key(|lane| lane.requests[0].key);
    lanes
}

fn entries(lanes: &[Lane]) -> Value {
    let entry = |lane: &Lane| {
        let mut entry = json!({ "cluster_id": lane.name.0, "request": lane.requests[0].value });
        if let Some(response) = lane.responses.last() {
            entry["response"] = response.value.clone();
        }
        entry
    };
    lanes.iter().map(entry).collect()
}

/// F9
fn rollbacks(events: &[Event], sent: &[Lane]) -> Option<Value> {
    let mut attempted = shown(lanes(events, "rollback.", "rollback.attempted"));
    let began = attempted.first()?.requests[0].key.time;
    // Stable again: lanes that were never sent keep the order of their first attempts.
    attempted.sort_by_key(|lane| {
        let undone = sent.iter().position(|sent| sent.name == lane.name);
        undone.unwrap_or(sent.len())
    });
    Some(json!({
        "result": rollback_result(&attempted),
        "occurred_time": written(began),
        "target_clusters": entries(&attempted),
    }))
}

/// The result of F9, from the responses that the document shows.
fn rollback_result(attempted: &[Lane]) -> &'static str {
    // `None`: no response, or a response without a status code.
    let succeeded: Vec<Option<bool>> = attempted
        .iter()
        .map(|lane| {
            let code = lane.responses.last()?.value.get("status_code")?.as_u64()?;
            Some((200..=299).contains(&code))
        })
        .collect();
    if succeeded.contains(&Some(false)) {
        "failed"
    } else if succeeded.contains(&None) {
        "none"
    } else {
        "completed"
    }
}

// ---------------------------------------------------------------------------
// JSON
// ---------------------------------------------------------------------------

/// A member, unless it is missing or null, which are the same.
fn given<'a>(object: &'a Value, name: &str) -> Option<&'a Value> {
    object.get(name).filter(|value| !value.is_null())
}

fn text<'a>(object: &'a Value, name: &str) -> &'a str {
    object[name].as_str().expect(name)
}

/// An object reduced to those of its members that the specification names.
fn known(object: &Value, names: &[&str]) -> Value {
    let members = names
        .iter()
        .filter_map(|name| Some((name.to_string(), given(object, name)?.clone())));
    Value::Object(members.collect())
}

/// RFC 8785. Registers only have strings and small integers. Other numbers occur only in unknown
/// members, where equal numbers need only give equal text.
fn canonical(value: &Value) -> String {
    match value {
        Value::Object(members) => {
            let mut members: Vec<_> = members.iter().collect();
            members.sort_by_key(|(name, _)| name.encode_utf16().collect::<Vec<_>>());
            let members = members
                .into_iter()
                .map(|(name, value)| format!("{}:{}", canonical_string(name), canonical(value)));
            format!("{{{}}}", members.collect::<Vec<_>>().join(","))
        }
        Value::Array(values) => {
            let values: Vec<_> = values.iter().map(canonical).collect();
            format!("[{}]", values.join(","))
        }
        Value::String(string) => canonical_string(string),
        Value::Number(number) if number.is_f64() => {
            // Removes the sign of a negative zero.
            format!("{}", number.as_f64().expect("a float") + 0.0)
        }
        other => other.to_string(),
    }
}

fn canonical_string(string: &str) -> String {
    let mut out = String::from('"');
    for char in string.chars() {
        match char {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\u{8}' => out.push_str("\\b"),
            '\t' => out.push_str("\\t"),
            '\n' => out.push_str("\\n"),
            '\u{c}' => out.push_str("\\f"),
            '\r' => out.push_str("\\r"),
            '\0'..' ' => out.push_str(&format!("\\u{:04x}", u32::from(char))),
            other => out.push(other),
        }
    }
    out.push('"');
    out
}

// ---------------------------------------------------------------------------
// Time
// ---------------------------------------------------------------------------

/// Seconds since 0001-01-01T00:00:00Z, and nanoseconds.
pub type Instant = (i64, u32);

/// An RFC 3339 time, truncated to the nanosecond. A second 60 needs no special case: it is counted
/// as the next second.
pub fn instant(time: &str) -> Instant {
    let number = |from, to| -> i64 { time[from..to].parse().expect("digits") };
    let days = days_before(number(0, 4), number(5, 7)) + number(8, 10) - 1;
    let seconds = ((days * 24 + number(11, 13)) * 60 + number(14, 16)) * 60 + number(17, 19);

    let rest = &time[19..];
    let offset_at = rest.find(['Z', 'z', '+', '-']).expect("an offset");
    let (fraction, offset) = rest.split_at(offset_at);
    let nanos: String = fraction
        .chars()
        .skip(1)
        .chain("000000000".chars())
        .take(9)
        .collect();
    let ahead = if offset.len() == 1 {
        0
    } else {
        let number = |from, to| -> i64 { offset[from..to].parse().expect("digits") };
        let minutes = number(1, 3) * 60 + number(4, 6);
        if offset.starts_with('-') {
            -minutes
        } else {
            minutes
        }
    };
    (seconds - ahead * 60, nanos.parse().expect("digits"))
}

/// Year, month, day, hour, minute and second, in UTC.
pub fn calendar(seconds: i64) -> [i64; 6] {
    let days = seconds.div_euclid(24 * 60 * 60);
    let second_of_day = seconds.rem_euclid(24 * 60 * 60);
    // Start too early, as if every year had 366 days, then add years as needed.
    let mut year = days.div_euclid(366) + 1;
    while days_before(year + 1, 1) <= days {
        year += 1;
    }
    let mut month = 1;
    while month < 12 && days_before(year, month + 1) <= days {
        month += 1;
    }
    [
        year,
        month,
        days - days_before(year, month) + 1,
        second_of_day / 3600,
        second_of_day / 60 % 60,
        second_of_day % 60,
    ]
}

/// Days from 0001-01-01 to the first of a month.
fn days_before(year: i64, month: i64) -> i64 {
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let months = [
        31,
        if leap { 29 } else { 28 },
        31,
        30,
        31,
        30,
        31,
        31,
        30,
        31,
        30,
        31,
    ];
    let past = year - 1;
    let leap_days = past.div_euclid(4) - past.div_euclid(100) + past.div_euclid(400);
    past * 365 + leap_days + months.iter().take(month as usize - 1).sum::<i64>()
}

/// F11
fn written((seconds, _): Instant) -> String {
    let [year, month, day, hour, minute, second] = calendar(seconds);
    format!("{year:04}{month:02}{day:02} {hour:02}{minute:02}{second:02}")
}
