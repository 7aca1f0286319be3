//! Owns the generated events of tests: random ones that cause trouble, and realistic ones for
//! counts and measurements.
//!
//! It is written from the specification, apart from `src/domain`. Every event is valid, however
//! odd. All randomness comes from one seed.

use serde_json::{Map, Value, json};

use super::reference::{self, Instant};

// ---------------------------------------------------------------------------
// Chance
// ---------------------------------------------------------------------------

/// splitmix64: small, and the same on every machine.
pub struct Rng(u64);

impl Rng {
    pub fn new(seed: u64) -> Self {
        Rng(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// 0 to n - 1.
    pub fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    pub fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    pub fn pick<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.below(of.len())]
    }

    pub fn shuffle<T>(&mut self, values: &mut [T]) {
        for last in (1..values.len()).rev() {
            values.swap(last, self.below(last + 1));
        }
    }
}

// ---------------------------------------------------------------------------
// Troublesome operations
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

const SOURCES: [&str; 6] = [
    "/workers/1",
    "/workers/10",
    "/workers/2",
    "urn:worker:a%20b",
    "https://user@[::1]:8/w?q=1#f",
    "w",
];

/// Limits of years, days and epochs. None is in the future: HTTP refuses those.
const SECONDS: [&str; 7] = [
    "2016-12-31T23:59:59Z",
    "2016-12-31T23:59:59Z",
    "2019-06-27T07:15:39Z",
    "2020-02-29T23:59:59Z",
    "2000-02-28T23:59:59Z",
    "1969-12-31T23:59:59Z",
    "0001-01-01T00:00:00Z",
];

/// The second after the leap second of 2016; it may be written as the leap second.
const AFTER_LEAP_SECOND: &str = "2017-01-01T00:00:00Z";

/// The values that the events of one operation share. There are few, so that order keys tie, ids
/// repeat with other content, and events name the same lanes.
struct Supply {
    kinds: Vec<&'static str>,
    sources: Vec<String>,
    ids: Vec<String>,
    times: Vec<Instant>,
    cluster_ids: Vec<String>,
    request_ids: Vec<String>,
}

/// `size` valid events of one operation, as its workers might publish them on their worst day.
pub fn operation(rng: &mut Rng, subject: &str, size: usize) -> Vec<Value> {
    let supply = supply(rng);
    let mut events: Vec<Value> = Vec::new();
    for number in 0..size {
        let repeat = rng.chance(10) && !events.is_empty();
        let event = if repeat {
            let earlier = rng.pick(&events).clone();
            let text = spelled_differently(rng, &earlier);
            serde_json::from_str(&text).expect("JSON")
        } else {
            event(rng, &supply, subject, number)
        };
        events.push(event);
    }
    rng.shuffle(&mut events);
    events
}

fn supply(rng: &mut Rng) -> Supply {
    let ids = ["1", "2", "10", "é", "\u{fffd}", "\u{1f600}", "a \"b\"/c"].map(String::from);
    let ids = [&ids[..], &["\u{1f600}".repeat(256)]].concat();
    // A lane is a pair: no character may mark the boundary between its halves.
    let cluster_ids = ["1", "2", "10", "a", "a\0b", "a/b", "\u{fffd}", "\u{1f600}"];
    let cluster_ids = [&cluster_ids.map(String::from)[..], &["雲".repeat(256)]].concat();
    let request_ids = ["1", "2", "b\0c", "c", "b/c", "0011561619739188", "\r\n"];
    let request_ids = request_ids.map(String::from);

    Supply {
        kinds: kinds(rng),
        sources: few(rng, &SOURCES.map(String::from), 3),
        ids: few(rng, &ids, 5),
        times: times(rng),
        cluster_ids: few(rng, &cluster_ids, 3),
        request_ids: few(rng, &request_ids, 2),
    }
}

/// The kinds to draw from. With all kinds nearly every operation would have a terminal event, so
/// whole groups are left out now and then.
fn kinds(rng: &mut Rng) -> Vec<&'static str> {
    let mut left_out = Vec::new();
    if rng.chance(40) {
        left_out.extend([
            "operation.completed",
            "operation.failed",
            "operation.canceled",
        ]);
    }
    if rng.chance(15) {
        left_out.push("operation.created");
    }
    for kind in &KINDS[1..] {
        if rng.chance(25) {
            left_out.push(kind);
        }
    }
    let mut kinds = KINDS.to_vec();
    kinds.retain(|kind| !left_out.contains(kind));
    if kinds.is_empty() {
        kinds.push("operation.started");
    }
    kinds
}

fn times(rng: &mut Rng) -> Vec<Instant> {
    let (first, _) = reference::instant(rng.pick::<&str>(&SECONDS));
    let count = 1 + rng.below(6);
    (0..count)
        .map(|_| {
            let nanos = *rng.pick(&[0, 0, 1, 120_000_000, 500_000_000, 999_999_999]);
            (first + rng.below(3) as i64, nanos)
        })
        .collect()
}

fn few(rng: &mut Rng, all: &[String], most: usize) -> Vec<String> {
    let count = 1 + rng.below(most);
    (0..count).map(|_| rng.pick(all).clone()).collect()
}

fn event(rng: &mut Rng, supply: &Supply, subject: &str, number: usize) -> Value {
    // The first kind is the creation unless that is left out.
    let kind = if number == 0 {
        supply.kinds[0]
    } else {
        *rng.pick(&supply.kinds)
    };
    let time = *rng.pick(&supply.times);
    // Some ids are unique, as the specification asks.
    let id = if rng.chance(25) {
        format!("{number}-once")
    } else {
        rng.pick(&supply.ids).clone()
    };
    let mut event = json!({
        "specversion": "1.0",
        "id": id,
        "source": rng.pick(&supply.sources),
        "type": format!("opledger.{kind}.v1"),
        "subject": subject,
        "time": time_text(rng, time),
    });
    optional(
        rng,
        &mut event,
        "datacontenttype",
        "application/json".into(),
    );
    if rng.chance(20) {
        extension(rng, &mut event);
    }
    match kind {
        // All of their data is optional, so `data` is optional, too.
        "operation.started" | "operation.progressed" | "operation.canceled" if rng.chance(15) => {
            if rng.chance(50) {
                event["data"] = Value::Null;
            }
        }
        _ => event["data"] = data(rng, supply, kind),
    }
    event
}

// ---------------------------------------------------------------------------
// Data
// ---------------------------------------------------------------------------

fn data(rng: &mut Rng, supply: &Supply, kind: &str) -> Value {
    let mut data = json!({});
    if kind.starts_with("cluster.") || kind.starts_with("rollback.") {
        data["cluster_id"] = rng.pick(&supply.cluster_ids).as_str().into();
        let request_id = rng.pick(&supply.request_ids).as_str().into();
        optional(rng, &mut data, "request_id", request_id);
    }
    match kind {
        "operation.created" => {
            data["request"] = request(rng);
            let notification = notification(rng);
            optional(rng, &mut data, "notification", notification);
        }
        "operation.progressed" => {
            let sub_status = body(rng).into();
            optional(rng, &mut data, "sub_status", sub_status);
        }
        "operation.canceled" => {
            let reason = body(rng).into();
            optional(rng, &mut data, "reason", reason);
        }
        "cluster.request_sent" => data["request"] = request(rng),
        "rollback.attempted" => {
            data["request"] = request(rng);
            let response = response(rng, false);
            optional(rng, &mut data, "response", response);
        }
        "cluster.response_received" | "rollback.response_received" => {
            data["response"] = response(rng, false);
        }
        "operation.completed" | "operation.failed" => data["response"] = response(rng, true),
        _ => {}
    }
    if rng.chance(15) {
        unknown(rng, &mut data, kind);
    }
    data
}

fn request(rng: &mut Rng) -> Value {
    let longest = format!("/v1/{}", "é".repeat(8188));
    let uris = [
        "/v1/slices/l2vpn/A/cps",
        "/v1/a?b=\"c\"&d=%22#e",
        "x",
        &longest,
    ];
    let uri = if rng.chance(2) { 3 } else { rng.below(3) };
    let mut request = json!({
        "uri": uris[uri],
        "method": rng.pick(&["POST", "PUT", "DELETE", "PATCH"]),
    });
    let body = body(rng).into();
    optional(rng, &mut request, "body", body);
    if rng.chance(10) {
        request["status_code"] = "unknown here".into();
    }
    request
}

fn response(rng: &mut Rng, of_the_operation: bool) -> Value {
    let mut response = json!({});
    let code = *rng.pick(&[200, 201, 204, 299, 200, 199, 300, 100, 599, 404]);
    if of_the_operation {
        response["status_code"] = code.into();
    } else {
        optional(rng, &mut response, "status_code", code.into());
    }
    let body = body(rng).into();
    optional(rng, &mut response, "body", body);
    if rng.chance(10) {
        response["uri"] = json!({ "unknown": "here" });
    }
    response
}

fn notification(rng: &mut Rng) -> Value {
    let mut notification = json!({
        "address": rng.pick(&["192.0.2.1", "192.0.2.2"]),
        "port": rng.pick(&[1, 8080, 65535]),
    });
    if rng.chance(10) {
        notification["path"] = "/unknown/here".into();
    }
    notification
}

fn body(rng: &mut Rng) -> String {
    const BODIES: [&str; 14] = [
        "",
        "a",
        "b",
        "null",
        "{\"a\":\"b \\\" c\"}",
        "\"",
        "\\",
        "\u{feff}{\r\n\t\"a\": 1.0\r\n}\r\n",
        " padded\n",
        "\0\u{1}\u{8}\u{b}\u{c}\u{1f}\u{7f}",
        // In UTF-8 the first of these two is smaller, in UTF-16 the second.
        "\u{fffd}",
        "\u{1f600}",
        "a\u{2028}b\u{85}c e\u{301} \u{e9}",
        "<a href='x'>&amp;=</a>\\u0041\\/",
    ];
    match rng.below(100) {
        0 => "0123456789abcdef".repeat(4096),
        // About the size above which a state has only the name of a body.
        1..=8 => {
            let first = *rng.pick(&["a", "b", "\0", "\u{1f600}"]);
            first.to_owned() + &"c".repeat(4096 - rng.below(2) - first.len())
        }
        9..=11 => format!("{{\"number\":{}}}", rng.below(1000)),
        _ => rng.pick(&BODIES).to_string(),
    }
}

/// An optional member: present, null or missing.
fn optional(rng: &mut Rng, object: &mut Value, name: &str, value: Value) {
    match rng.below(5) {
        0 => object[name] = Value::Null,
        1 => {}
        _ => object[name] = value,
    }
}

/// A member that is unknown for this kind, though perhaps known for another.
fn unknown(rng: &mut Rng, data: &mut Value, kind: &str) {
    let mut unknown = vec![
        (
            "x",
            json!({ "y": [0.5, u64::MAX, i64::MIN, null, true, ""] }),
        ),
        ("x", Value::Null),
        ("status", json!("failed")),
        ("body", json!("unknown here")),
    ];
    if kind.starts_with("operation.") {
        unknown.extend([("cluster_id", json!(7)), ("request_id", json!([]))]);
    }
    if kind == "operation.canceled" || kind == "cluster.request_sent" {
        let response = json!({ "status_code": 599, "body": "unknown here" });
        unknown.extend([("response", response), ("response", json!(7))]);
    }
    if kind != "operation.progressed" {
        unknown.push(("sub_status", json!("unknown here")));
    }
    let (name, value) = rng.pick(&unknown);
    data[*name] = value.clone();
}

/// An attribute that the fold ignores.
fn extension(rng: &mut Rng, event: &mut Value) {
    let trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let extensions = [
        ("traceparent", json!(trace)),
        ("partitionkey", json!("7 \u{1f600}")),
        ("sampledrate", json!(7)),
        ("urgent", json!(true)),
        ("dataschema", json!("https://example.org/schema#1")),
        ("nothing", Value::Null),
    ];
    let (name, value) = rng.pick(&extensions);
    event[*name] = value.clone();
}

// ---------------------------------------------------------------------------
// Spelling
// ---------------------------------------------------------------------------

/// The same event as different text: order of members, white space, escapes, offset and precision
/// of its time, an extension attribute.
pub fn spelled_differently(rng: &mut Rng, event: &Value) -> String {
    let mut event = event.clone();
    let time = reference::instant(event["time"].as_str().expect("a time"));
    event["time"] = time_text(rng, time).into();
    extension(rng, &mut event);
    let mut text = String::new();
    write(rng, &event, &mut text);
    text
}

/// One of the many RFC 3339 texts of an instant.
fn time_text(rng: &mut Rng, (seconds, nanos): Instant) -> String {
    let ahead = *rng.pick(&[0, 0, 0, 60, 9 * 60, -8 * 60, 330, 345, 1439, -1439]);
    let as_leap_second = seconds == reference::instant(AFTER_LEAP_SECOND).0 && rng.chance(50);
    let before = i64::from(as_leap_second);
    let [year, month, day, hour, minute, second] =
        reference::calendar(seconds - before + ahead * 60);
    let second = second + before;

    let mut fraction = format!(".{nanos:09}");
    match rng.below(3) {
        0 => fraction.truncate(fraction.trim_end_matches('0').len()),
        // Further digits are truncated, not rounded.
        1 => fraction.push_str(rng.pick::<&str>(&["0", "4", "999999999"])),
        _ => {}
    }
    if fraction == "." {
        fraction.clear();
    }
    let offset = if ahead == 0 {
        rng.pick(&["Z", "+00:00", "-00:00"]).to_string()
    } else {
        let sign = if ahead < 0 { '-' } else { '+' };
        format!("{sign}{:02}:{:02}", ahead.abs() / 60, ahead.abs() % 60)
    };
    let text = format!(
        "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}{fraction}{offset}"
    );
    // RFC 3339 allows small letters.
    if rng.chance(5) {
        text.to_lowercase()
    } else {
        text
    }
}

fn write(rng: &mut Rng, value: &Value, out: &mut String) {
    white_space(rng, out);
    match value {
        Value::Object(members) => write_object(rng, members, out),
        Value::Array(values) => {
            out.push('[');
            for (index, value) in values.iter().enumerate() {
                if index > 0 {
                    out.push(',');
                }
                write(rng, value, out);
            }
            out.push(']');
        }
        Value::String(string) => write_string(rng, string, out),
        other => out.push_str(&other.to_string()),
    }
    white_space(rng, out);
}

fn write_object(rng: &mut Rng, members: &Map<String, Value>, out: &mut String) {
    let mut members: Vec<_> = members.iter().collect();
    rng.shuffle(&mut members);
    out.push('{');
    for (index, (name, value)) in members.into_iter().enumerate() {
        if index > 0 {
            out.push(',');
        }
        white_space(rng, out);
        write_string(rng, name, out);
        white_space(rng, out);
        out.push(':');
        write(rng, value, out);
    }
    out.push('}');
}

fn white_space(rng: &mut Rng, out: &mut String) {
    if rng.chance(15) {
        out.push_str(rng.pick::<&str>(&[" ", "\t", "\n", "\r\n", "    "]));
    }
}

fn write_string(rng: &mut Rng, string: &str, out: &mut String) {
    out.push('"');
    for char in string.chars() {
        match char {
            '/' | '"' | '\\' if rng.chance(50) => out.extend(['\\', char]),
            '\n' if rng.chance(50) => out.push_str("\\n"),
            '"' | '\\' | '\0'..' ' => write_escape(rng, char, out),
            _ if rng.chance(10) => write_escape(rng, char, out),
            _ => out.push(char),
        }
    }
    out.push('"');
}

/// `\uXXXX`, as a surrogate pair outside the first plane.
fn write_escape(rng: &mut Rng, char: char, out: &mut String) {
    for unit in char.encode_utf16(&mut [0; 2]) {
        if rng.chance(50) {
            out.push_str(&format!("\\u{unit:04x}"));
        } else {
            out.push_str(&format!("\\u{unit:04X}"));
        }
    }
}

// ---------------------------------------------------------------------------
// Realistic operations
// ---------------------------------------------------------------------------

/// The events of the `i`th of many ordinary operations, in the order in which
/// they happened: 2 to 4 clusters, all of which succeed. About 350 bytes each.
pub fn realistic(i: u64) -> Vec<Value> {
    // As in the original system, the identifier is the millisecond of acceptance.
    let millis = 1_561_619_739_123 + i;
    let subject = format!("000{millis}");
    let uri = format!("/v1/slices/l2vpn/{}/cps", i % 1000);
    let remark = |cluster| {
        let body = json!({ "action": "update_remark_menu", "remark_menu": "af1", "cp": cluster });
        json!({ "uri": uri, "method": "PUT", "body": body.to_string() })
    };
    let done = json!({ "status_code": 200, "body": "{\"updated_cp_ids\":[\"7\",\"8\"]}" });
    let clusters = 1..=(2 + i % 3);

    let mut steps = vec![
        ("operation.created", 0, 0, json!({ "request": remark(0) })),
        ("operation.started", 0, 17, json!({})),
    ];
    for cluster in clusters.clone() {
        let data = json!({ "cluster_id": cluster.to_string(), "request": remark(cluster) });
        steps.push(("cluster.request_sent", cluster, 80 + 5 * cluster, data));
    }
    for cluster in clusters {
        let data = json!({ "cluster_id": cluster.to_string(), "response": done });
        steps.push((
            "cluster.response_received",
            cluster,
            800 + 90 * cluster,
            data,
        ));
    }
    steps.push(("operation.completed", 0, 1400, json!({ "response": done })));

    let event = |(number, (kind, worker, after, data)): (usize, (&str, u64, u64, Value))| {
        json!({
            "specversion": "1.0",
            "id": format!("{subject}-{}", number + 1),
            "source": format!("/workers/{worker}"),
            "type": format!("opledger.{kind}.v1"),
            "subject": subject,
            "time": utc(millis + after),
            "datacontenttype": "application/json",
            "data": data,
        })
    };
    steps.into_iter().enumerate().map(event).collect()
}

/// Milliseconds since 1970 as RFC 3339.
fn utc(millis: u64) -> String {
    let (epoch, _) = reference::instant("1970-01-01T00:00:00Z");
    let [year, month, day, hour, minute, second] =
        reference::calendar(epoch + millis as i64 / 1000);
    let millis = millis % 1000;
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{millis:03}Z")
}
