//! What all reads have in common, on the built binary: the format of responses, how long a
//! request may wait, which parameters are checked, and the text of refusals.

use crate::support::listed::{created, event};
use crate::support::server::{Answer, Server};
use crate::support::sse::Stream;
use serde_json::json;

const STREAM: &str = "text/event-stream";
const LIST: &str = "/v1/operations";
const ONE: &str = "/v1/operations/op";

fn is_stream(server: &Server, path: &str, accept: &str) -> bool {
    let stream = Stream::open(server.address, path, &[("accept", accept)]);
    assert_eq!(stream.status(), 200, "{path} {accept}");
    assert_eq!(stream.header("vary"), "Accept", "{path} {accept}");
    stream.header("content-type") == STREAM
}

#[test]
fn accept_chooses_between_the_document_and_a_stream() {
    let server = Server::start();
    let token = server.publish(&[created("op", 1, "/x")]);
    server.document("op", &token).unwrap();
    for path in [LIST, ONE] {
        for accept in [
            STREAM,
            "text/event-stream, application/json",
            "application/json;q=0.5, text/event-stream",
            "text/event-stream, */*;q=0.1",
        ] {
            assert!(is_stream(&server, path, accept), "{path} {accept}");
        }
        for accept in [
            "*/*",
            "application/json",
            "text/html",
            "application/json, text/event-stream",
            "application/json, text/event-stream;q=0",
            "text/event-stream;q=0",
            "text/event-stream;q=0.5, application/json",
        ] {
            assert!(!is_stream(&server, path, accept), "{path} {accept}");
        }
    }
    // A page is not a stream: a client that accepts both gets the page.
    let both = [("accept", "application/json, text/event-stream")];
    let page = server.get_with("/v1/operations?limit=3", &both);
    assert_eq!(page.status, 200);
    assert_eq!(page.json(), json!({"operation_ids": ["op"]}));
    let page = server.get_with("/v1/operations?limit=3", &[("accept", STREAM)]);
    let message = page.refused(400, "010001");
    assert!(message.contains("limit:"), "{message}");
}

#[test]
fn every_response_that_depends_on_accept_has_vary() {
    let server = Server::start();
    let token = server.publish(&[created("op", 1, "/x")]);
    let by_token = [("ledger-position", &*token)];
    let first = server.get_with(ONE, &by_token);
    let list = server.get(LIST);
    let known = [("if-none-match", first.header("etag"))];
    let known_list = [("if-none-match", list.header("etag"))];
    let old = [("ledger-position", "zzzzzzzz;0:1")];
    let stream = ("accept", STREAM);
    for (answer, status) in [
        (&first, 200),
        // Served from the document cache, before routing.
        (&server.get(ONE), 200),
        (&server.get_with(ONE, &known), 304),
        (&server.get("/v1/operations/none"), 404),
        (&server.get("/v1/operations/%ff"), 404),
        (&server.get_with(ONE, &old), 410),
        (&server.get("/v1/operations/op?x=1"), 400),
        (&list, 200),
        (&server.get("/v1/operations?limit=1"), 200),
        (&server.get_with(LIST, &known_list), 304),
        (&server.get("/v1/operations?format=x"), 400),
        (&server.get_with("/v1/operations?limit=1", &[stream]), 400),
    ] {
        assert_eq!(answer.status, status);
        assert_eq!(answer.header("vary"), "Accept", "{answer:?}");
    }
    // An operation with a terminal event, read by a client that has seen it.
    let ended = server.publish(&[event("op", "operation.canceled", 2, json!({}))]);
    server.document("op", &ended).unwrap();
    let seen = server.get_with(ONE, &[stream, ("last-event-id", &ended)]);
    assert_eq!((seen.status, seen.header("vary")), (204, "Accept"));
    for path in ["/v1/operations/op/events", "/v1/dead-letters", "/version"] {
        assert!(!server.get(path).headers.contains_key("vary"), "{path}");
    }
}

#[test]
fn a_refused_read_names_the_parameter() {
    let server = Server::start();
    server.publish(&[created("op", 1, "/x")]);
    // For clients of the fabric-controller interface, the message is the fixed text
    // alone.
    for (path, code, message, detail) in [
        (
            "/v1/operations?stauts=failed",
            "010001",
            "Parameter format error.",
            "stauts: unknown query parameter.",
        ),
        (
            "/v1/operations?format=LIST",
            "010002",
            "Parameter value error.",
            "format: list or detail-list.",
        ),
        (
            "/v1/operations?format=list&format=list",
            "010001",
            "Parameter format error.",
            "format: given more than once.",
        ),
        (
            "/v1/operations/op?format=list",
            "010001",
            "Parameter format error.",
            "format: unknown query parameter.",
        ),
        (
            "/v1/operations/op?a%0Ab%22=1",
            "010001",
            "Parameter format error.",
            "a\nb\": unknown query parameter.",
        ),
    ] {
        let answer = server.get(path);
        assert_eq!(answer.refused(400, code), message, "{path}");
        let expected = json!({"error_code": code, "error_message": message,
            "data_consistency": "rolled back", "detail": detail});
        assert_eq!(answer.json(), expected);
        // The members of the fabric-controller interface come first.
        let text = String::from_utf8(answer.body).unwrap();
        assert!(text.starts_with("{\"error_code\":"), "{text}");
        assert!(text.contains("\"data_consistency\":\"rolled back\",\"detail\":"));
    }
    let missing = server.get("/v1/operations/none");
    let exact = r#"{"error_code":"030001","error_message":"Target resource not found.","data_consistency":"rolled back"}"#;
    assert_eq!(missing.body, exact.as_bytes());
    // For parameters beyond that interface, the message names the parameter.
    for (path, name) in [
        ("/v1/operations?status=failed&stauts=failed", "stauts"),
        ("/v1/operations?limit=3&fromat=list", "fromat"),
        ("/v1/operations/op/events?limt=3", "limt"),
        ("/v1/dead-letters?limt=3", "limt"),
        ("/v1/notifications?limt=3", "limt"),
        ("/projector?sine=3", "sine"),
    ] {
        let answer = server.get(path);
        let message = answer.refused(400, "010001");
        let expected = format!("Parameter format error. {name}: unknown query parameter.");
        assert_eq!(message, expected);
        assert!(answer.json().get("detail").is_none());
    }
    let long = format!("/v1/operations/op/events?{}=1", "x".repeat(5000));
    assert!(server.get(&long).refused(400, "010001").len() < 200);
}

#[test]
fn malformed_query_parameters_are_refused() {
    let server = Server::start();
    server.publish(&[created("op", 1, "/v1/x")]);
    let range = "010003";
    let format = "010001";
    let value = "010002";
    for (query, code, named) in [
        ("uri_prefix=/v1/%ff", format, "uri_prefix: must be UTF-8"),
        ("cluster_id=%c3%28", format, "cluster_id: must be UTF-8"),
        ("status=%ff", format, "status: must be UTF-8"),
        ("%ff=1&limit=3", format, "unknown query parameter"),
        ("uri_prefix=", range, "uri_prefix: 1 to 8192"),
        ("uri_prefix", range, "uri_prefix: 1 to 8192"),
        ("cluster_id=", range, "cluster_id: 1 to 256"),
        ("status=", value, "status:"),
        ("status=failed&status=", value, "status:"),
        ("method=", value, "method:"),
        ("method=put", value, "method:"),
        ("rollback_result=", value, "rollback_result:"),
        ("order=", value, "order:"),
        ("order=newest&order=newest", format, "order: given more"),
        ("limit=", format, "limit:"),
        ("limit=%2B5", format, "limit:"),
        ("limit=-1", format, "limit:"),
        ("limit=99999999999999999999", range, "limit: 1 to 1000"),
        ("limit=3&cursor=", format, "cursor:"),
        ("position=", format, "position:"),
        (
            "occurred_from=",
            format,
            "occurred_from: must be an RFC 3339 time.",
        ),
        (
            "occurred_from=2024-05-06T07:08:09+09:00",
            format,
            "occurred_from: must be an RFC 3339 time; the + of its offset is written %2B",
        ),
        (
            "occurred_to=2024-05-06T07:08:09.5+00:00",
            format,
            "occurred_to: must be an RFC 3339 time; the + of its offset is written %2B",
        ),
        (
            "occurred_from=2024-05-06%2007:08:09Z",
            format,
            "occurred_from: must be an RFC 3339 time.",
        ),
        (
            "occurred_from=2024-05-07T00:00:00Z&occurred_to=2024-05-06T00:00:00Z",
            range,
            "occurred_to: must not be before occurred_from",
        ),
        (
            "occurred_from=2024-05-06T00:00:00.000000001Z&occurred_to=2024-05-06T09:00:00%2B09:00",
            range,
            "occurred_to: must not be before occurred_from",
        ),
    ] {
        let message = server.get(&format!("{LIST}?{query}")).refused(400, code);
        assert!(message.contains(named), "{query}: {message}");
        // A stream checks the parameters that it shares with lists in the same way.
        if !["limit", "order", "cursor", "position"]
            .iter()
            .any(|own| query.contains(own))
        {
            let path = format!("{LIST}?{query}");
            let message = server
                .get_with(&path, &[("accept", STREAM)])
                .refused(400, code);
            assert!(message.contains(named), "{query}: {message}");
        }
    }
    for query in [
        "uri_prefix=%2Fv1%2Fx",
        "uri_prefix=/v1/%78",
        "occurred_from=2024-01-01T00:00:00Z&occurred_to=2024-01-01T00:00:00Z&limit=5",
        "&&limit=5&",
    ] {
        assert_eq!(
            server.get(&format!("{LIST}?{query}")).status,
            200,
            "{query}"
        );
    }
    for (path, named) in [
        ("/v1/dead-letters?limit=3&cursor=", "cursor:"),
        ("/v1/dead-letters?limit=3&cursor=AAAA", "cursor:"),
        ("/v1/operations/op/events?limit=3&cursor=", "cursor:"),
        ("/v1/notifications?cursor=", "cursor:"),
    ] {
        let message = server.get(path).refused(400, format);
        assert!(message.contains(named), "{path}: {message}");
    }
    let message = server
        .get("/v1/notifications?operation_id=")
        .refused(400, range);
    assert!(message.contains("operation_id:"), "{message}");
}

fn header(value: &str) -> (&str, &str) {
    ("ledger-position", value)
}

#[test]
fn a_request_that_names_several_positions_sees_them_all() {
    let server = Server::with(&[("SERVER__DEFAULT_WAIT", "100ms")]);
    let token = server.publish(&[created("op", 1, "/x")]);
    let (log, _) = token.split_once(';').unwrap();
    let far = format!("{log};0:999999");
    for path in [LIST, ONE, "/v1/operations/op/events", "/v1/dead-letters"] {
        let refused = |path: &str, headers: &[(&str, &str)]| {
            server.get_with(path, headers).refused(504, "000001");
        };
        assert_eq!(
            server
                .get_with(path, &[header(&token), header(&token)])
                .status,
            200
        );
        refused(path, &[header(&token), header(&far)]);
        refused(path, &[header(&far), header(&token)]);
        let joined = format!("{token}, {far}");
        refused(path, &[header(&joined)]);
        let in_query = format!("{path}?position={}", far.replace(';', "%3B"));
        refused(&in_query, &[header(&token)]);
        let answer = server.get_with(path, &[header(&token), header("zzzzzzzz;0:1")]);
        answer.refused(410, "010003");
        let answer = server.get_with(path, &[header(&token), header("x")]);
        let message = answer.refused(400, "010001");
        assert!(message.contains("Ledger-Position:"), "{message}");
    }
    let accept = ("accept", STREAM);
    for path in [LIST, ONE] {
        // A resumed stream also waits for the position that its request names.
        let resumed = [accept, ("last-event-id", &*token), header(&far)];
        server.get_with(path, &resumed).refused(504, "000001");
        let twice = [accept, ("last-event-id", &*token), ("last-event-id", &far)];
        let message = server.get_with(path, &twice).refused(400, "010001");
        assert!(message.contains("Last-Event-ID: given more"), "{message}");
    }
}

#[test]
fn a_shortened_wait_reports_the_limit() {
    let server = Server::with(&[("SERVER__MAX_WAIT", "1s"), ("SERVER__DEFAULT_WAIT", "1s")]);
    let token = server.publish(&[created("op", 1, "/x")]);
    let wait = |path: &str, prefer: &str, more: &[(&str, &str)]| -> Answer {
        let headers = [&[("prefer", prefer), ("ledger-position", &*token)], more].concat();
        server.get_with(path, &headers)
    };
    for path in [
        ONE,
        LIST,
        "/v1/operations?limit=3",
        "/v1/operations/op/events",
        "/v1/dead-letters",
        "/v1/notifications",
    ] {
        let answer = wait(path, "wait=600", &[]);
        assert_eq!(answer.status, 200, "{path}");
        assert_eq!(answer.header("preference-applied"), "wait=1", "{path}");
        let answer = wait(path, "wait=99999999999999999999999", &[]);
        assert_eq!(answer.header("preference-applied"), "wait=1", "{path}");
        let answer = wait(path, "respond-async, wait=0", &[]);
        assert_eq!(answer.header("preference-applied"), "wait=0", "{path}");
        for nothing in ["respond-async", "wait=soon", "wait=", "wait=-1", "wait=+1"] {
            let answer = wait(path, nothing, &[]);
            assert!(!answer.headers.contains_key("preference-applied"), "{path}");
        }
    }
    let etag = server.get(ONE).header("etag").to_owned();
    let (log, _) = token.split_once(';').unwrap();
    let far = format!("{log};0:999999");
    let accept = ("accept", STREAM);
    for (answer, status) in [
        (wait(ONE, "wait=600", &[("if-none-match", &etag)]), 304),
        (wait("/v1/operations/none", "wait=600", &[]), 404),
        (wait(ONE, "wait=600", &[("ledger-position", &far)]), 504),
        (
            wait(LIST, "wait=600", &[accept, ("ledger-position", &far)]),
            504,
        ),
    ] {
        assert_eq!(answer.status, status);
        assert_eq!(answer.header("preference-applied"), "wait=1");
    }
}

/// The text before an empty line. Some libraries take a block without data for an empty event.
#[track_caller]
fn has_data(stream: &mut Stream) -> String {
    let block = stream.block().unwrap();
    let with_data = block.lines().any(|line| line.starts_with("data: "));
    assert!(with_data, "{block:?}");
    block
}

#[test]
fn every_block_of_a_stream_has_an_event() {
    let server = Server::with(&[("STREAMS__KEEP_ALIVE", "20ms")]);
    let token = server.publish(&[created("op", 1, "/x")]);
    let mut fresh = Stream::open(server.address, LIST, &[("ledger-position", &token)]);
    assert!(has_data(&mut fresh).starts_with("retry: 1000\nevent: document\n"));
    assert!(has_data(&mut fresh).starts_with("event: position\nid: "));
    let mut empty = Stream::open(server.address, "/v1/operations?status=failed", &[]);
    let block = has_data(&mut empty);
    assert!(
        block.starts_with("retry: 1000\nevent: position\nid: "),
        "{block}"
    );
    // A position that advanced without a change, after keep-alives.
    let token = server.publish(&[created("other", 1, "/x")]);
    let now = server.get_with(LIST, &[("ledger-position", &token)]);
    let token = now.header("ledger-position").to_owned();
    let mut told = String::new();
    while !told.contains(&format!("\nid: {token}\n")) {
        told = has_data(&mut empty);
    }
    let mut resumed = Stream::open(server.address, ONE, &[("last-event-id", &token)]);
    server.publish(&[event("op", "operation.canceled", 2, json!({}))]);
    let block = has_data(&mut resumed);
    assert!(block.starts_with("retry: 1000\n"), "{block}");
    assert!(block.contains("\"status\":\"canceled\""), "{block}");
    assert_eq!(resumed.block(), None);
}

#[test]
fn a_stream_of_an_unknown_operation_reports_at_once_that_it_waits() {
    let server = Server::start();
    // The operation has a history, but no document.
    server.publish(&[event("early", "operation.started", 2, json!({}))]);
    for id in ["none", "early"] {
        let path = format!("/v1/operations/{id}");
        let mut stream = Stream::open(server.address, &path, &[]);
        let block = has_data(&mut stream);
        assert!(block.contains("event: waiting\n"), "{block}");
        let data = format!("data: {{\"operation_id\":\"{id}\"}}\n");
        assert!(block.contains(&data), "{block}");
        server.publish(&[created(id, 1, "/x")]);
        assert_eq!(stream.document()["operation_id"], id);
        assert_eq!(stream.waits, 0, "once");
    }
}

#[test]
fn a_time_at_the_beginning_of_the_calendar_stays_in_it() {
    let server = Server::with(&[("DOCUMENT__TIME_OFFSET", "-05:00")]);
    let mut first = created("op", 1, "/x");
    first["time"] = json!("0001-01-01T00:00:00Z");
    let token = server.publish(&[first]);
    let document = server.document("op", &token).unwrap();
    assert_eq!(document["occurred_time"], "00010101 000000");
}
