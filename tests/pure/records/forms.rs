//! Each valid and each invalid form of a record or a request, one by one.

use super::{Shown, all, fold, record_of_line, text};
use crate::support::in_process::{LOG, app, open};
use axum::body::Body;
use axum::http::Request;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::service::Service;
use hyper_util::service::TowerToHyperService;
use opledger::domain::OperationId;
use opledger::event_log::{Logged, memory};
use opledger::http::router;
use opledger::projector::RecordBatch;
use opledger::projector::step::Rules;
use opledger::query::{Page, dead_letters, history};
use opledger::store::memory::Memory;
use opledger::wire::cloudevent;
use opledger::wire::position::{NextOffsets, Position};
use opledger::wire::record::{Headers, Record};
use std::ops::ControlFlow;
use std::sync::Arc;

type Header<'h> = (&'h str, Option<&'h str>);

const CREATED: &str = r#"{"request":{"uri":"/x","method":"PUT","body":"b"}}"#;

/// The headers of a creation in binary mode, followed by others.
fn created<'h>(id: &'h str, others: &[Header<'h>]) -> Vec<Header<'h>> {
    let mut headers = vec![
        ("ce_specversion", Some("1.0")),
        ("ce_source", Some("/w")),
        ("ce_subject", Some("op-0")),
        ("ce_type", Some("opledger.operation.created.v1")),
        ("ce_time", Some("2024-05-06T07:08:09Z")),
        ("ce_id", Some(id)),
    ];
    headers.extend(others);
    headers
}

fn of_headers(headers: &[Header], value: &str) -> Record {
    let headers = headers.iter().map(|(name, value)| {
        let value = value.map(|value| Bytes::copy_from_slice(value.as_bytes()));
        ((*name).to_owned().into(), value)
    });
    Record {
        headers: Headers(headers.collect()),
        ..record_of_line(value)
    }
}

/// An event line with these members after those that every creation has.
fn line(more: &str) -> String {
    format!(
        r#"{{"specversion":"1.0","source":"/w","subject":"op-0","time":"2024-05-06T07:08:09Z",
            "type":"opledger.operation.created.v1",{more}}}"#
    )
}

fn fold_of(records: impl IntoIterator<Item = Record>) -> Shown {
    let records = records.into_iter().enumerate();
    let logged = records.map(|(offset, record)| Logged {
        at: Position::from((0, offset as u64)),
        record,
    });
    fold(&Memory::default(), logged.collect())
}

/// The reason of the dead letter, or `Ok` for an event.
fn judged(record: &Record) -> Result<(), String> {
    let event = cloudevent::decode(record).map(drop);
    event.map_err(|fault| format!("{} {fault}", fault.rule.reason()))
}

#[test]
fn repeated_headers_are_a_dead_letter() {
    let json = Some("application/json");
    for (others, what) in [
        (
            &[("ce_id", Some("b"))][..],
            "malformed id: given more than once.",
        ),
        (
            &[("CE_ID", Some("a"))],
            "malformed id: given more than once.",
        ),
        (&[("ce_id", None)], "malformed id: given more than once."),
        (
            &[("ce_type", Some("opledger.operation.failed.v1"))],
            "malformed type: given more than once.",
        ),
        (
            &[("ce_x", None), ("ce_x", Some("1"))],
            "malformed x: given more than once.",
        ),
        (
            &[("content-type", json), ("Content-Type", json)],
            "malformed content-type: given more than once.",
        ),
        (
            &[
                ("content-type", json),
                ("ce_datacontenttype", Some("text/plain")),
            ],
            "malformed datacontenttype: differs from the header content-type.",
        ),
        (
            &[("ce_datacontenttype", Some("text/plain"))],
            "invalid_value datacontenttype: must be application/json where it is given.",
        ),
        (
            &[("content-type", Some("application/json; charset=utf-16"))],
            "invalid_value content-type: an event is in UTF-8.",
        ),
        (
            &[("ce_data", Some("x"))],
            "malformed data: not an attribute: in binary mode the value is the data.",
        ),
        (
            &[("CE_data_base64", Some("e30="))],
            "malformed data_base64: not an attribute: in binary mode the value is the data.",
        ),
        (
            &[("ce_x", Some("\"a"))],
            "malformed x: a quoted text that does not end.",
        ),
        (&[("ce_x", Some("%C0%A0"))], "malformed x: must be UTF-8."),
    ] {
        let record = of_headers(&created("a", others), CREATED);
        assert_eq!(judged(&record), Err(what.to_owned()), "{others:?}");
    }
    let structured = Some("application/cloudevents+json");
    let types = [("content-type", structured), ("content-type", structured)];
    let record = of_headers(&types, &line(&format!(r#""id":"a","data":{CREATED}"#)));
    let what = "malformed content-type: given more than once.";
    assert_eq!(judged(&record), Err(what.into()));
}

#[test]
fn headers_of_any_case_and_encoding_are_shown_as_attributes() {
    let shouted = [
        ("CE_SPECVERSION", Some("1.0")),
        ("Ce_Source", Some("\"/w\"")),
        ("CE_Subject", Some("op%2D0")),
        ("CE_TYPE", Some("\"opledger.operation.created.v1\"")),
        ("ce_TIME", Some("\"2024-05-06T07:08:09Z\"")),
        ("CE_ID", Some(r#""a \"%22 %E2%82%AC""#)),
        ("ce_datacontenttype", Some("application/json")),
        ("Content-Type", Some("application/json")),
        ("ce_TraceParent", None),
        ("traceparent", Some("no attribute")),
    ];
    let shown = fold_of([of_headers(&shouted, CREATED)]);
    assert_eq!(shown.dead_letters, 0);
    let event = concat!(
        r#"{"specversion":"1.0","source":"/w","subject":"op-0","#,
        r#""type":"opledger.operation.created.v1","time":"2024-05-06T07:08:09Z","#,
        r#""id":"a \"\" €","datacontenttype":"application/json","traceparent":null,"#,
        r#""data":{"request":{"uri":"/x","method":"PUT","body":"b"}}}"#
    );
    assert_eq!(shown.histories["op-0"], [event]);
    assert!(shown.documents["op-0"].is_some());
}

#[tokio::test]
async fn requests_are_read_as_records_are() {
    let log = memory::MemoryLog::new(LOG, 1);
    let store = Arc::new(Memory::default());
    let routes = TowerToHyperService::new(router(app(&store, &log)));
    let post = async |headers: &[Header<'_>], body: String| {
        let mut request = Request::post("/v1/events").header("host", "127.0.0.1");
        for (name, value) in headers {
            request = request.header(name.replace("ce_", "ce-"), value.unwrap_or_default());
        }
        let request = request.body(Body::from(body)).unwrap();
        let answer = routes.call(request).await.unwrap();
        let status = answer.status().as_u16();
        let body = answer.into_body().collect().await.unwrap().to_bytes();
        (status, text(&body).into_owned())
    };
    let json = Some("application/json");
    for (others, status, what) in [
        (&[("content-type", json)][..], 202, ""),
        (&[][..], 202, ""),
        (
            &[("content-type", json), ("ce_datacontenttype", json)],
            202,
            "",
        ),
        (&[("ce_trace", Some("\"a b\""))], 202, ""),
        (&[("ce_id", Some("b"))], 400, " id: given more than once."),
        (
            &[("content-type", json), ("content-type", json)],
            400,
            " content-type: given more",
        ),
        (
            &[("ce_datacontenttype", Some("text/plain"))],
            400,
            " datacontenttype: must be",
        ),
        (
            &[
                ("content-type", json),
                ("ce_datacontenttype", Some("text/plain")),
            ],
            400,
            " datacontenttype: differs",
        ),
        (&[("ce_data", Some("{}"))], 400, " data: not an attribute"),
        (&[("ce_x", Some("\"a"))], 400, " x: a quoted text"),
        (
            &[("content-type", Some("application/json; charset=utf-16"))],
            415,
            "",
        ),
    ] {
        let answer = post(&created("a", others), CREATED.into()).await;
        assert_eq!(answer.0, status, "{others:?}: {}", answer.1);
        assert!(answer.1.contains(what), "{others:?}: {}", answer.1);
    }
    let event = line(&format!(r#""id":"a","data":{CREATED}"#));
    let types = |content_types: &[&'static str]| -> Vec<Header<'static>> {
        let all = content_types.iter();
        all.map(|value| ("content-type", Some(*value))).collect()
    };
    let one = "application/cloudevents+json";
    for (headers, body, status) in [
        (types(&[one]), event.clone(), 202),
        (
            types(&["application/cloudevents+json;charset=\"UTF-8\""]),
            event.clone(),
            202,
        ),
        (
            types(&["application/cloudevents+json; charset=utf-16"]),
            event.clone(),
            415,
        ),
        (
            types(&["application/cloudevents-batch+json; charset=latin1"]),
            format!("[{event}]"),
            415,
        ),
        (types(&[one, one]), event.clone(), 400),
        (types(&[one, "text/plain"]), event.clone(), 400),
    ] {
        let answer = post(&headers, body).await;
        assert_eq!(answer.0, status, "{headers:?}: {}", answer.1);
    }
    // Quotes are not part of the id.
    let quoted = post(&created("\"a%20b\"", &[]), CREATED.into()).await;
    assert_eq!(quoted.0, 202, "{}", quoted.1);
    let shown = fold(&store, all(&log));
    assert_eq!(shown.dead_letters, 0);
    let last = shown.histories["op-0"].last().unwrap();
    assert!(last.contains(r#""id":"a b""#), "{last}");
}

#[test]
fn data_as_bytes_is_data() {
    let bytes = |text: &str| STANDARD.encode(text);
    let as_text = line(&format!(r#""id":"a","data":{CREATED}"#));
    let as_bytes = line(&format!(r#""id":"a","data_base64":"{}""#, bytes(CREATED)));
    let with_null = line(&format!(
        r#""id":"a","data":null,"data_base64":"{}""#,
        bytes(CREATED)
    ));
    let plain = fold_of([record_of_line(&as_text)]);
    for line in [&as_bytes, &with_null] {
        let shown = fold_of([record_of_line(line)]);
        assert_eq!(shown.documents, plain.documents);
        assert_eq!(
            shown.histories["op-0"],
            [line.as_str()],
            "kept byte for byte"
        );
        // Both spellings are the same event.
        let both = fold_of([record_of_line(&as_text), record_of_line(line)]);
        assert_eq!(both.histories["op-0"], [as_text.as_str()]);
    }
    // `data_base64` is no unknown member: it must not count as data that clears a sub-status.
    let progressed = |id: &str, data: &str| {
        let text = line(&format!(r#""id":"{id}",{data}"#));
        record_of_line(&text.replace("operation.created", "operation.progressed"))
    };
    let half = bytes(r#"{"sub_status":"half"}"#);
    let started = record_of_line(&as_text.replace("operation.created", "operation.started"));
    let shown = fold_of([
        record_of_line(&as_text),
        started,
        progressed("b", &format!(r#""data_base64":"{half}""#)),
    ]);
    let document = shown.documents["op-0"].as_ref().unwrap();
    assert!(document.contains(r#""sub_status":"half""#), "{document}");
    let twice = bytes(r#"{"sub_status":"half","sub_status":"half"}"#);
    let deep = bytes(&format!("{{\"x\":{}{}}}", "[".repeat(126), "]".repeat(126)));
    for (data, what) in [
        (
            format!(r#""data":{{}},"data_base64":"{half}""#),
            "data_base64: not together with data.",
        ),
        (
            r#""data_base64":"%%%""#.into(),
            "data_base64: must be base64.",
        ),
        (
            r#""data_base64":"e30""#.into(),
            "data_base64: must be base64.",
        ),
        (
            r#""data_base64":"""#.into(),
            "data_base64: JSON that ends early, line 1 column 1.",
        ),
        (
            r#""data_base64":7"#.into(),
            "data_base64: must be a string.",
        ),
        (
            format!(r#""data_base64":"{}""#, bytes("half")),
            "data_base64: not valid JSON",
        ),
        (
            format!(r#""data_base64":"{}""#, bytes("7")),
            "data: must be a JSON object.",
        ),
        (
            format!(r#""data_base64":"{twice}""#),
            "data.sub_status: given more than once.",
        ),
        (
            format!(r#""data_base64":"{deep}""#),
            "data_base64: not valid JSON",
        ),
        (
            format!(r#""data_base64":"{}""#, bytes(r#"{"sub_status":7}"#)),
            "data.sub_status: must be a string.",
        ),
    ] {
        let refused = judged(&progressed("b", &data)).unwrap_err();
        assert!(
            refused.starts_with(&format!("malformed {what}")),
            "{data}: {refused}"
        );
    }
}

#[test]
fn a_key_is_the_subject_quoted_or_not_or_the_partitionkey_or_nothing() {
    let plain = line(&format!(r#""id":"a","data":{CREATED}"#));
    let other = line(&format!(
        r#""id":"a","partitionkey":"7 é","data":{CREATED}"#
    ));
    let number = line(&format!(r#""id":"a","partitionkey":7,"data":{CREATED}"#));
    let binary = of_headers(
        &created("a", &[("CE_PartitionKey", Some("7%20é"))]),
        CREATED,
    );
    for (record, key, is_taken) in [
        (record_of_line(&plain), None, true),
        (record_of_line(&plain), Some(""), true),
        (record_of_line(&plain), Some("op-0"), true),
        (record_of_line(&plain), Some("\"op-0\""), true),
        (record_of_line(&plain), Some("\"op\\u002d0\""), true),
        (record_of_line(&plain), Some("op-1"), false),
        (record_of_line(&plain), Some("\"op-1\""), false),
        (record_of_line(&plain), Some("\"op-0"), false),
        (record_of_line(&plain), Some("null"), false),
        (record_of_line(&plain), Some("7 é"), false),
        (record_of_line(&other), Some("7 é"), true),
        (record_of_line(&other), Some("op-0"), true),
        (record_of_line(&other), Some("7"), false),
        (record_of_line(&number), Some("7"), false),
        (record_of_line(&number), Some("op-0"), true),
        (binary.clone(), Some("7 é"), true),
        (binary.clone(), Some("op-0"), true),
        (binary, Some("7%20é"), false),
    ] {
        let key = key.map(|key| Bytes::copy_from_slice(key.as_bytes()));
        let judged = judged(&Record {
            key: key.clone(),
            ..record.clone()
        });
        assert_eq!(
            judged.is_ok(),
            is_taken,
            "{key:?} of {record:?}: {judged:?}"
        );
        if let Err(what) = judged {
            assert!(what.starts_with("key_mismatch key: "), "{what}");
        }
        // The history does not keep the key, and does not need it.
        let shown = fold_of([Record { key, ..record }]);
        assert_eq!(shown.histories.len(), usize::from(is_taken));
    }
}

#[test]
fn numbers_are_compared_by_their_exact_value() {
    let shown = |numbers: &[&str]| {
        let lines = numbers.iter().map(|number| {
            let data = CREATED.replacen('{', &format!("{{\"x\":{number},"), 1);
            line(&format!(r#""id":"a","data":{data}"#))
        });
        let lines: Vec<String> = lines.collect();
        let shown = fold_of(lines.iter().map(|line| record_of_line(line)));
        assert_eq!(shown.dead_letters, 0, "{numbers:?}");
        let kept = &shown.histories["op-0"];
        assert!(
            kept.iter().all(|line| lines.contains(line)),
            "byte for byte"
        );
        kept.len()
    };
    let digits = "7".repeat(401);
    let more = format!("{digits}.0");
    for alike in [
        &["1", "1.0", "10e-1", "1E+0"][..],
        &["0", "-0", "0.0", "0e400"],
        &["1e400", "10e399"],
        &[&digits, &more],
        &["1.6110196951812914", "1.61101969518129140"],
        &["1e1000000000", "10e999999999"],
    ] {
        assert_eq!(shown(alike), 1, "{alike:?}");
    }
    let different = [
        "9007199254740992",
        "9007199254740993",
        "1e400",
        "1e401",
        "-1e400",
        &digits,
        "1.6110196951812914",
        "1.6110196951812915",
        "1e-400",
        "0",
        "18446744073709551615",
        "18446744073709551616",
        "\"1\"",
    ];
    assert_eq!(shown(&different), different.len());
}

#[test]
fn a_repeated_member_is_a_dead_letter_wherever_it_is() {
    let sixty: Vec<String> = (0..60).map(|n| format!("\"y{n}\":0")).collect();
    for (more, field) in [
        (r#""id":"a","id":"a""#.to_owned(), "id"),
        (r#""id":"a","x":1,"x":1"#.into(), "x"),
        (r#""id":"a","\u0078":1,"x":1"#.into(), "x"),
        (r#""id":"a","x":[{"y":1,"y":1}]"#.into(), "x[0].y"),
        (
            r#""id":"a","data_base64":null,"data_base64":null"#.into(),
            "data_base64",
        ),
        (format!(r#""id":"a",{0},"y7":1"#, sixty.join(",")), "y7"),
    ] {
        let record = record_of_line(&line(&format!("{more},\"data\":{CREATED}")));
        let what = format!("malformed {field}: given more than once.");
        assert_eq!(judged(&record), Err(what), "{more}");
    }
    let data = CREATED.replacen('{', r#"{"x":{"y":1,"y":1},"#, 1);
    let what = "malformed data.x.y: given more than once.";
    let structured = record_of_line(&line(&format!(r#""id":"a","data":{data}"#)));
    assert_eq!(judged(&structured), Err(what.into()));
    let binary = of_headers(&created("a", &[]), &data);
    assert_eq!(judged(&binary), Err(what.into()));
}

#[test]
fn a_record_without_a_timestamp_has_no_arrival() {
    let store = Memory::default();
    let event = record_of_line(&line(&format!(r#""id":"a","data":{CREATED}"#)));
    let claimed = Record {
        claimed: true,
        ..event
    };
    let poison = Record {
        value: None,
        ..claimed.clone()
    };
    let logged = [claimed, poison]
        .into_iter()
        .enumerate()
        .map(|(offset, record)| Logged {
            at: Position::from((0, offset as u64)),
            record,
        });
    let mut record_batch =
        RecordBatch::decode(logged.collect(), NextOffsets::default(), &Rules::NONE);
    assert_eq!(record_batch.age(), None, "it is not from 1970");
    open(&store, 0).apply(&store, &mut record_batch).unwrap();
    for stream in [
        |store: &Memory, emit: &mut opledger::query::Emit| {
            history::stream(store, OperationId("op-0"), &Page::default(), emit).map(drop)
        },
        |store: &Memory, emit: &mut opledger::query::Emit| {
            dead_letters::stream(store, &Page::default(), emit).map(drop)
        },
    ] {
        let mut json = Vec::new();
        let mut emit = |piece: &[u8]| {
            json.extend_from_slice(piece);
            ControlFlow::Continue(())
        };
        stream(&store, &mut emit).unwrap();
        let json = text(&json);
        assert!(json.contains("\"position\":\"0:"), "{json}");
        assert!(!json.contains("arrived"), "{json}");
    }
}
