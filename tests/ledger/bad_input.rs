//! Responses to bad input over HTTP: the status, the code and the name of the field. None of it
//! is stored.

use crate::support::server::{BATCH, ONE, Server};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

fn created(id: &str) -> Value {
    json!({"specversion": "1.0", "id": "e1", "source": "/w", "subject": id,
        "type": "opledger.operation.created.v1", "time": "2024-05-06T07:08:09Z",
        "data": {"request": {"uri": "/x", "method": "PUT"}}})
}

fn of_type(kind: &str, data: Value) -> Value {
    let mut event = created("op");
    event["type"] = json!(format!("opledger.{kind}.v1"));
    event["data"] = data;
    event
}

/// Sets the member at a path such as `data.request.uri`.
fn with(mut event: Value, path: &str, value: Value) -> Value {
    let pointer = format!("/{}", path.replace('.', "/"));
    match event.pointer_mut(&pointer) {
        Some(member) => *member = value,
        None => {
            let (parent, name) = pointer.rsplit_once('/').unwrap();
            event.pointer_mut(parent).unwrap()[name] = value;
        }
    }
    event
}

fn without(mut event: Value, path: &str) -> Value {
    let pointer = format!("/{}", path.replace('.', "/"));
    let (parent, name) = pointer.rsplit_once('/').unwrap();
    event
        .pointer_mut(parent)
        .unwrap()
        .as_object_mut()
        .unwrap()
        .remove(name)
        .unwrap();
    event
}

#[test]
fn each_broken_rule_is_refused_with_its_code_and_its_field() {
    let server = Server::start();
    let sent = json!({"cluster_id": "1", "request": {"uri": "/x", "method": "PUT"}});
    let answered = json!({"cluster_id": "1", "response": {"status_code": 200}});
    let long = |n: usize| json!("x".repeat(n));
    // (event, code, field)
    let cases: Vec<(Value, &str, &str)> = vec![
        (
            without(created("op"), "specversion"),
            "010001",
            "specversion",
        ),
        (
            with(created("op"), "specversion", json!("0.3")),
            "010002",
            "specversion",
        ),
        (
            with(created("op"), "specversion", json!(1.0)),
            "010001",
            "specversion",
        ),
        (without(created("op"), "id"), "010001", "id"),
        (with(created("op"), "id", json!("")), "010003", "id"),
        (with(created("op"), "id", long(257)), "010003", "id"),
        (with(created("op"), "id", Value::Null), "010001", "id"),
        (without(created("op"), "source"), "010001", "source"),
        (
            with(created("op"), "source", json!("a b")),
            "010002",
            "source",
        ),
        (
            with(created("op"), "source", long(1025)),
            "010003",
            "source",
        ),
        (without(created("op"), "type"), "010001", "type"),
        (
            with(
                created("op"),
                "type",
                json!("opledger.operation.created.v2"),
            ),
            "010002",
            "type",
        ),
        (without(created("op"), "subject"), "010001", "subject"),
        (created("log"), "010002", "subject"),
        (created(".."), "010002", "subject"),
        (created("a/b"), "010002", "subject"),
        (
            with(created("op"), "subject", long(257)),
            "010003",
            "subject",
        ),
        (without(created("op"), "time"), "010001", "time"),
        (
            with(created("op"), "time", json!("2024-05-06T07:08:09")),
            "010002",
            "time",
        ),
        (
            with(created("op"), "time", json!("2024-02-30T07:08:09Z")),
            "010002",
            "time",
        ),
        (
            with(created("op"), "time", json!("9999-12-31T23:59:59-01:00")),
            "010003",
            "time",
        ),
        (
            with(created("op"), "time", json!(1_700_000_000)),
            "010001",
            "time",
        ),
        (
            with(created("op"), "datacontenttype", json!("text/xml")),
            "010002",
            "datacontenttype",
        ),
        (without(created("op"), "data"), "010001", "data.request"),
        (with(created("op"), "data", json!("text")), "010001", "data"),
        (
            without(created("op"), "data.request.uri"),
            "010001",
            "data.request.uri",
        ),
        (
            with(created("op"), "data.request.uri", json!("")),
            "010003",
            "data.request.uri",
        ),
        (
            with(created("op"), "data.request.uri", long(8193)),
            "010003",
            "data.request.uri",
        ),
        (
            with(created("op"), "data.request.method", json!("GET")),
            "010002",
            "data.request.method",
        ),
        (
            with(created("op"), "data.request.method", json!("put")),
            "010002",
            "data.request.method",
        ),
        (
            with(created("op"), "data.request.body", json!({"a": 1})),
            "010001",
            "data.request.body",
        ),
        (
            with(
                created("op"),
                "data.notification",
                json!({"address": "10.0.0.1"}),
            ),
            "010001",
            "data.notification.port",
        ),
        (
            with(
                created("op"),
                "data.notification",
                json!({"address": "10.0.0.1", "port": 65536}),
            ),
            "010003",
            "data.notification.port",
        ),
        (
            with(
                created("op"),
                "data.notification",
                json!({"address": "10.0.0.1", "port": "80"}),
            ),
            "010001",
            "data.notification.port",
        ),
        (
            of_type("operation.progressed", json!({"sub_status": 5})),
            "010001",
            "data.sub_status",
        ),
        (
            of_type("operation.progressed", json!({"sub_status": long(65_537)})),
            "010003",
            "data.sub_status",
        ),
        (
            without(
                of_type("cluster.request_sent", sent.clone()),
                "data.cluster_id",
            ),
            "010001",
            "data.cluster_id",
        ),
        (
            with(
                of_type("cluster.request_sent", sent.clone()),
                "data.cluster_id",
                json!(""),
            ),
            "010003",
            "data.cluster_id",
        ),
        (
            with(
                of_type("cluster.request_sent", sent.clone()),
                "data.request_id",
                long(257),
            ),
            "010003",
            "data.request_id",
        ),
        (
            without(
                of_type("cluster.response_received", answered.clone()),
                "data.response",
            ),
            "010001",
            "data.response",
        ),
        (
            with(
                of_type("cluster.response_received", answered.clone()),
                "data.response.status_code",
                json!(99),
            ),
            "010003",
            "data.response.status_code",
        ),
        (
            with(
                of_type("cluster.response_received", answered.clone()),
                "data.response.status_code",
                json!("200"),
            ),
            "010001",
            "data.response.status_code",
        ),
        (
            with(
                of_type("cluster.response_received", answered.clone()),
                "data.response.status_code",
                json!(200.5),
            ),
            "010001",
            "data.response.status_code",
        ),
        (
            with(
                of_type("cluster.response_received", answered),
                "data.response.status_code",
                json!(1e30),
            ),
            "010003",
            "data.response.status_code",
        ),
        (
            with(
                of_type("rollback.attempted", sent),
                "data.response",
                json!([]),
            ),
            "010001",
            "data.response",
        ),
        (
            of_type("rollback.response_received", json!({"cluster_id": "1"})),
            "010001",
            "data.response",
        ),
        (
            of_type("operation.completed", json!({})),
            "010001",
            "data.response",
        ),
        (
            of_type("operation.failed", json!({"response": {}})),
            "010001",
            "data.response.status_code",
        ),
        (
            of_type(
                "operation.failed",
                json!({"response": {"status_code": 600}}),
            ),
            "010003",
            "data.response.status_code",
        ),
        (
            of_type("operation.canceled", json!({"reason": 1})),
            "010001",
            "data.reason",
        ),
        (json!(["not", "an", "object"]), "010001", ""),
    ];
    for (event, code, field) in &cases {
        let one = server.post(ONE, event.to_string()).refused(400, code);
        assert!(
            one.contains(&format!(" {field}")),
            "{one} should name {field} of {event}"
        );
        let batch = json!([created("kept-out"), created("kept-out"), event]).to_string();
        let batch = server.post(BATCH, batch).refused(400, code);
        let place = if field.is_empty() {
            "[2]".into()
        } else {
            format!("[2].{field}: ")
        };
        assert!(batch.contains(&place), "{batch} should name {place}");
    }
    assert_eq!(
        server.get("/v1/operations/kept-out/events").status,
        404,
        "nothing is stored"
    );
    assert_eq!(
        server.get("/v1/operations/op/events").status,
        404,
        "nothing is stored"
    );
}

#[test]
fn invalid_json_is_refused_without_repeating_it() {
    let server = Server::start();
    for body in [
        "",
        "{",
        "secret-password",
        "{\"id\": \"secret-password\"",
        "\u{feff}{}",
        "[]x",
        "[1,]",
        r#"{"specversion": "1.0", "specversion": "1.0"}"#,
        r#"{"id": "\ud800"}"#,
    ] {
        for content_type in [ONE, BATCH] {
            let message = server.post(content_type, body).refused(400, "010001");
            assert!(!message.contains("secret"), "{message}");
        }
    }
    let mut lone = created("op").to_string();
    lone.insert_str(1, r#""extension": "\ud83d alone", "#);
    server.post(ONE, lone).refused(400, "010001");
    let not_utf8 = [
        b"{\"specversion\": \"1.0\", \"id\": \"".as_slice(),
        b"\xff\"}",
    ]
    .concat();
    server.post(ONE, not_utf8).refused(400, "010001");
    server.post(ONE, "[".repeat(100_000)).refused(400, "010001");
    assert_eq!(
        server.post(BATCH, "[]").json(),
        json!({"accepted": 0, "positions": []})
    );
}

#[test]
fn a_time_far_ahead_of_the_clock_is_refused() {
    let server = Server::start();
    let now = chrono::Utc::now();
    let at = |hours| (now + chrono::Duration::hours(hours)).to_rfc3339();
    let ahead = with(created("op"), "time", json!(at(25)));
    let message = server.post(ONE, ahead.to_string()).refused(400, "010003");
    assert!(message.contains("time"), "{message}");
    let within = with(created("op"), "time", json!(at(23)));
    assert_eq!(server.post(ONE, within.to_string()).status, 202);
}

#[test]
fn a_body_that_is_too_large_is_refused() {
    let server = Server::with(&[("SERVER__MAX_BODY", "6MiB")]);
    let sized = |n: usize| with(created("op"), "data.request.body", json!("x".repeat(n)));
    assert_eq!(server.post(ONE, sized(4_000_000).to_string()).status, 202);
    server
        .post(ONE, sized(4_200_000).to_string())
        .refused(413, "010003");
    let batch = json!([created("op"), sized(4_200_000)]).to_string();
    let message = server.post(BATCH, batch).refused(413, "010003");
    assert!(message.contains("[1]"), "{message}");
    server
        .post(ONE, sized(7_000_000).to_string())
        .refused(413, "010003");
}

#[test]
fn binary_mode_is_checked_as_well() {
    let server = Server::start();
    let post = |headers: &[(&str, &str)], body: &str| {
        let mut all = vec![
            ("ce-specversion", "1.0"),
            ("ce-source", "/w"),
            ("ce-subject", "op"),
            ("ce-type", "opledger.operation.created.v1"),
            ("ce-time", "2024-05-06T07:08:09Z"),
            ("content-type", "application/json"),
        ];
        all.extend(headers);
        server.post_with(&all, body)
    };
    let data = r#"{"request": {"uri": "/x", "method": "PUT"}}"#;
    assert!(
        post(&[], data)
            .refused(400, "010001")
            .contains("id: required")
    );
    assert!(
        post(&[("ce-id", "1")], "")
            .refused(400, "010001")
            .contains("data.request")
    );
    assert!(
        post(&[("ce-id", "1")], "{")
            .refused(400, "010001")
            .contains("data")
    );
    assert!(
        post(&[("ce-id", "%FF")], data)
            .refused(400, "010001")
            .contains("id")
    );
    assert_eq!(post(&[("ce-id", "1")], data).status, 202);
    server
        .post_with(&[("content-type", "text/plain")], data)
        .refused(415, "010001");
    server.post_with(&[], data).refused(415, "010001");
}

#[test]
fn wrong_routes_methods_and_queries_get_the_error_response() {
    let server = Server::start();
    server.get("/nowhere").refused(404, "030001");
    server
        .get("/v1/operations/no-such-operation")
        .refused(404, "030001");
    server.get("/v1/operations/log").refused(404, "030001");
    server.get("/v1/operations/%ff").refused(404, "030001");
    server
        .get("/v1/operations/%ff/events")
        .refused(404, "030001");
    let plain = server.get("/v1/operations/none");
    let error = r#"{"error_code":"030001","error_message":"Target resource not found.","data_consistency":"rolled back"}"#;
    assert_eq!(plain.body, error.as_bytes());
    assert!(plain.headers.contains_key("ledger-position"));
    let client = server.client();
    let wrong = client.request("DELETE", "/v1/operations");
    wrong.refused(405, "010001");
    assert!(wrong.header("allow").contains("GET"));
    client.request("GET", "/v1/events").refused(405, "010001");
    for query in ["format=", "format=LIST", "format=detail"] {
        let message = server
            .get(&format!("/v1/operations?{query}"))
            .refused(400, "010002");
        assert_eq!(message, "Parameter value error.", "only the fixed text");
    }
    server
        .get("/v1/operations?fromat=list")
        .refused(400, "010001");
    server
        .get("/v1/operations?format=list&format=list")
        .refused(400, "010001");
    server
        .get("/v1/operations/x/events?limit=0")
        .refused(400, "010003");
    server
        .get("/v1/dead-letters?limit=1001")
        .refused(400, "010003");
    server
        .get("/v1/dead-letters?cursor=%21")
        .refused(400, "010001");
    let lenient = Server::with(&[("SERVER__UNKNOWN_QUERY", "ignore")]);
    assert_eq!(lenient.get("/v1/operations?fromat=list").status, 200);
}

#[test]
fn tokens_that_cannot_be_met_are_refused_in_time() {
    let server = Server::start();
    let token = server.publish(&[created("op")]);
    let (log, _) = token.split_once(';').unwrap();
    for path in [
        "/v1/operations/op",
        "/v1/operations",
        "/v1/operations/op/events",
        "/v1/dead-letters",
    ] {
        let get = |token: &str, prefer: &str| {
            server.get_with(path, &[("ledger-position", token), ("prefer", prefer)])
        };
        assert_eq!(get(&token, "wait=5").status, 200);
        get("nonsense", "wait=1").refused(400, "010001");
        get("zzzzzzzz;0:1", "wait=1").refused(410, "010003");
        let started = Instant::now();
        let late = get(&format!("{log};0:999999"), "wait=1");
        late.refused(504, "000001");
        assert!(
            late.header("ledger-position").starts_with(log),
            "the position that was reached"
        );
        let took = started.elapsed();
        assert!(
            (Duration::from_millis(900)..Duration::from_secs(4)).contains(&took),
            "{took:?}"
        );
        let by_query = server.get(&format!("{path}?position={}", token.replace(';', "%3B")));
        // Both positions are checked, even if only the other one counts.
        let both = server.get_with(
            &format!("{path}?position=x"),
            &[("ledger-position", &token)],
        );
        both.refused(400, "010001");
        assert_eq!(by_query.status, 200);
    }
}
