//! Does the log belong to the store? On the embedded log, with folders that are copied and
//! restored. Until that is known, the ledger accepts no event and reports no position as
//! reached.

use crate::support::events::{completed, created};
use crate::support::in_process::{self, LOG, record};
use crate::support::server::{Answer, BATCH, Server, Settings};
use crate::support::sse::Stream;
use axum::body::Body;
use axum::http::Request;
use http_body_util::BodyExt;
use hyper::service::Service;
use hyper_util::service::TowerToHyperService;
use opledger::event_log::memory::MemoryLog;
use opledger::event_log::{EventLog, Limits, Share};
use opledger::feed::progress::LogState;
use opledger::http::router;
use opledger::projector::RecordBatch;
use opledger::projector::step::Rules;
use opledger::store::memory::Memory;
use opledger::wire::position::{NextOffsets, Offset, Partition};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;

/// One partition, so that positions can be compared.
const ONE: Settings = &[("LOG__PARTITIONS", "1")];

fn copy(from: &Path, to: &Path) {
    let copied = Command::new("cp").arg("-a").args([from, to]).status();
    assert!(copied.unwrap().success());
}

/// Replaces one folder with another, and deletes the first.
fn replace(there: &Path, by: &Path) {
    std::fs::remove_dir_all(there).unwrap();
    copy(by, there);
}

fn stop(server: Server) {
    assert!(server.terminate().success());
}

/// Publishes `count` operations one by one. Returns the token of the last, after its document
/// is readable.
fn fill(server: &Server, prefix: &str, count: usize) -> String {
    let mut token = String::new();
    for n in 0..count {
        token = server.publish(&[created(&format!("{prefix}-{n}"))]);
        let shown = server.document(&format!("{prefix}-{n}"), &token);
        assert!(shown.is_some());
    }
    token
}

/// The data folder of a ledger with three operations, and a copy of it.
fn copied() -> (TempDir, [PathBuf; 2]) {
    let folder = tempfile::tempdir().unwrap();
    let [one, other] = ["one", "other"].map(|name| folder.path().join(name));
    let server = Server::on(&one, ONE);
    fill(&server, "common", 3);
    stop(server);
    copy(&one, &other);
    (folder, [one, other])
}

fn publish_by_command(server: &Server, folder: &Path, id: &str) -> Output {
    let file = folder.join(format!("{id}.jsonl"));
    std::fs::write(&file, created(id).to_string()).unwrap();
    Command::new(env!("CARGO_BIN_EXE_opledger"))
        .arg("publish")
        .arg(file)
        .args(["--wait", "--retry-for", "1", "--url"])
        .arg(format!("http://{}", server.address))
        .output()
        .unwrap()
}

fn at(server: &Server, path: &str, token: &str) -> Answer {
    server.get_with(path, &[("ledger-position", token)])
}

/// The response is a refusal with this reason and `Retry-After`.
#[track_caller]
fn refused_for(answer: &Answer, status: u16, reason: &str) {
    let why = answer.refused(status, "000001");
    assert!(why.contains(reason), "{why}");
    assert!(answer.header("retry-after").parse::<u64>().is_ok());
}

/// The ledger accepts no event and serves no read at a position of this log. Reads without a
/// position continue.
#[track_caller]
fn answers_for_nothing(server: &Server, reason: &str, kept: &str, tokens: &[&str]) {
    let one = [("content-type", "application/cloudevents+json")];
    // Immediately: not only after the projector has found out.
    for answer in [
        server.post(BATCH, json!([created("late")]).to_string()),
        server.post_with(&one, created("late").to_string()),
    ] {
        refused_for(&answer, 503, reason);
        refused_for(&answer, 503, "nothing was stored");
    }
    for token in tokens {
        for path in [
            format!("/v1/operations/{kept}"),
            "/v1/operations/late".into(),
            format!("/v1/operations/{kept}/events"),
            "/v1/dead-letters".into(),
        ] {
            refused_for(&at(server, &path, token), 503, reason);
            refused_for(
                &server.get(&format!("{path}?position={token}")),
                503,
                reason,
            );
        }
        // The fabric-controller interface has 500 for its list.
        for path in ["/v1/operations", "/v1/operations?limit=3"] {
            refused_for(&at(server, path, token), 500, reason);
        }
        // An EventSource does not reconnect after a refused stream.
        for path in [
            "/v1/operations".to_owned(),
            format!("/v1/operations/{kept}"),
        ] {
            let resumed = [("last-event-id", *token)];
            let mut stream = Stream::open(server.address, &path, &resumed);
            assert_eq!(stream.status(), 200);
            assert_eq!(stream.next().unwrap().kind, "reset", "{path}");
        }
    }
    at(server, "/v1/operations", "another0;0:1").refused(410, "010003");
    assert_eq!(server.get(&format!("/v1/operations/{kept}")).status, 200);
    assert_eq!(server.get("/v1/operations?limit=3").status, 200);
    server.eventually("halted", |server| {
        let reasons = server.get("/readyz").json()["reasons"].to_string();
        reasons.contains("has halted") && reasons.contains(reason)
    });
}

#[test]
fn a_log_restored_from_an_older_backup_accepts_no_event_and_serves_no_position() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let [log, old, new] = [
        data.join("log"),
        folder.path().join("old"),
        folder.path().join("new"),
    ];
    let server = Server::on(&data, ONE);
    let kept = fill(&server, "old", 5);
    stop(server);
    copy(&log, &old);
    let server = Server::on(&data, ONE);
    let lost = fill(&server, "new", 5);
    stop(server);
    copy(&log, &new);
    replace(&log, &old);

    let lines = folder.path().join("lines.txt");
    let mut command = Command::new(env!("CARGO_BIN_EXE_opledger"));
    command.stderr(std::fs::File::create(&lines).unwrap());
    let server = Server::spawn(command, &data, ONE);
    answers_for_nothing(&server, "lost records", "new-4", &[&kept, &lost]);
    let published = publish_by_command(&server, folder.path(), "late");
    assert_eq!(published.status.code(), Some(5), "{published:?}");
    // Workers retry again and again. The ledger logs it only once.
    for _ in 0..50 {
        server
            .post(BATCH, json!([created("late")]).to_string())
            .refused(503, "000001");
    }
    stop(server);
    let lines = std::fs::read_to_string(lines).unwrap();
    assert_eq!(lines.matches("events are refused").count(), 1, "{lines}");
    assert!(lines.lines().count() < 20, "{lines}");

    // After its own log is back, none of the refused events is in it.
    replace(&log, &new);
    let server = Server::on(&data, ONE);
    assert_eq!(at(&server, "/v1/operations/new-4", &lost).status, 200);
    let token = server.publish(&[created("more")]);
    assert!(server.document("more", &token).is_some());
    assert!(server.document("late", &token).is_none());
    stop(server);

    // Or the operator accepts the records that are left. Lost positions do not count as
    // reached.
    replace(&log, &old);
    let rebuilt = Command::new(env!("CARGO_BIN_EXE_opledger"))
        .args(["rebuild", "--data"])
        .arg(&data)
        .env("OPLEDGER_LOG__PARTITIONS", "1")
        .output()
        .unwrap();
    assert!(rebuilt.status.success(), "{rebuilt:?}");
    let server = Server::on(&data, ONE);
    let no_wait = [("ledger-position", &*lost), ("prefer", "wait=0")];
    server
        .get_with("/v1/operations/new-4", &no_wait)
        .refused(504, "000001");
    assert_eq!(at(&server, "/v1/operations/old-4", &kept).status, 200);
    let published = publish_by_command(&server, folder.path(), "late");
    assert!(published.status.success(), "{published:?}");
    assert_eq!(server.get("/v1/operations/late").status, 200);
}

#[test]
fn a_log_that_was_extended_elsewhere_is_not_the_stores_own() {
    let (_folder, [one, other]) = copied();
    // Two ledgers assign the same positions to different events. Neither can detect it.
    let mut tokens = Vec::new();
    for (data, prefix) in [(&one, "one"), (&other, "other")] {
        let server = Server::on(data, ONE);
        tokens.push(fill(&server, prefix, 4));
        fill(&server, &format!("{prefix}-more"), 4);
        stop(server);
    }
    replace(&one.join("log"), &other.join("log"));
    let server = Server::on(&one, ONE);
    answers_for_nothing(&server, "holds another record", "one-3", &[&tokens[0]]);
}

#[test]
fn the_log_of_another_folder_is_not_the_stores_own() {
    let folder = tempfile::tempdir().unwrap();
    let [one, other] = ["one", "other"].map(|name| folder.path().join(name));
    let mut tokens = Vec::new();
    for (data, prefix) in [(&one, "one"), (&other, "other")] {
        let server = Server::on(data, ONE);
        tokens.push(fill(&server, prefix, 2));
        stop(server);
    }
    replace(&one.join("log"), &other.join("log"));
    let server = Server::on(&one, ONE);
    answers_for_nothing(&server, "belongs to the log", "one-1", &[&tokens[0]]);
    at(&server, "/v1/operations/other-1", &tokens[1]).refused(410, "010003");
}

/// A folder that was copied whole is a second ledger with the same name. Both have the same
/// positions until one of them appends. This tests what the copy can detect.
#[test]
fn a_copied_folder_does_not_serve_positions_that_the_original_assigned_later() {
    let (_folder, [one, other]) = copied();
    let original = Server::on(&one, ONE);
    let token = fill(&original, "since", 3);
    let restored = Server::on(&other, ONE);
    let no_wait = [("ledger-position", &*token), ("prefer", "wait=0")];
    let path = "/v1/operations/since-2";
    restored.get_with(path, &no_wait).refused(504, "000001");
    for path in ["/v1/operations", "/v1/operations/common-1"] {
        let resumed = [("last-event-id", &*token)];
        let mut stream = Stream::open(restored.address, path, &resumed);
        assert_eq!(
            stream.status(),
            200,
            "an EventSource would not reconnect otherwise"
        );
        let reset = stream.next().unwrap();
        assert_eq!(reset.kind, "reset");
        // And continues from the position of this one.
        let next = restored.publish(&[completed("common-1")]);
        let document = stream.document();
        let last = match path {
            "/v1/operations" => document,
            _ if document["status"] == "completed" => document,
            _ => stream.document(),
        };
        assert_eq!(last, restored.document("common-1", &next).unwrap());
    }
}

/// A control log that was restored from an older backup halts notifications. The ledger does
/// not write operator commands to it.
#[test]
fn a_control_log_restored_from_an_older_backup_records_nothing() {
    const SETTINGS: Settings = &[("NOTIFICATIONS__ALLOW", "127.0.0.0/8")];
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let (control, old) = (data.join("control"), folder.path().join("old"));
    let server = Server::on(&data, SETTINGS);
    let mut begun = created("op");
    // No receiver listens on this port.
    begun["data"]["notification"] = json!({"address": "127.0.0.1", "port": 1});
    server.publish(&[begun]);
    server.publish(&[completed("op")]);
    let retry = |server: &Server| {
        let headers = [("content-type", "application/json")];
        let path = "/v1/notifications/op/retry";
        server.client().post(path, &headers, r#"{"who":"a test"}"#)
    };
    server.eventually("it is due and known", |server| retry(server).status == 202);
    stop(server);
    copy(&control, &old);
    let server = Server::on(&data, SETTINGS);
    server.eventually("recorded", |server| retry(server).status == 202);
    stop(server);
    replace(&control, &old);
    let server = Server::on(&data, SETTINGS);
    server.eventually("halted", |server| {
        let notes = server.get("/readyz").json()["notes"].to_string();
        notes.contains("lost records")
    });
    let refused = retry(&server).refused(503, "000001");
    assert!(refused.contains("nothing was stored"), "{refused}");
    assert_eq!(server.get("/v1/operations/op").status, 200);
    let token = server.publish(&[created("another")]);
    assert!(
        server.document("another", &token).is_some(),
        "everything else continues"
    );
}

/// No test can time this on a real log: it loses records after it was compared, and assigns
/// their positions again before the next check.
#[tokio::test]
async fn a_position_that_the_log_assigns_twice_is_not_acknowledged() {
    let log = MemoryLog::new(LOG, 1);
    let store = Arc::new(Memory::default());
    let mut projection = in_process::open(&store, 100);
    let app = in_process::app(&store, &log);
    for n in 0..4 {
        log.append(Partition(0), record(&created(&format!("op-{n}"))));
    }
    let limits = Limits {
        records: 10,
        bytes: usize::MAX,
        patience: Duration::ZERO,
    };
    let mut records = Vec::new();
    let mut reader = log
        .reader(LOG, &NextOffsets::default(), Share::ALL)
        .unwrap();
    reader.read(&limits, &mut records).unwrap();
    let mut record_batch = RecordBatch::decode(records, Default::default(), &Rules::NONE);
    let tally = projection.apply(&*store, &mut record_batch).unwrap();
    in_process::publish(&app, &projection, tally);
    log.replace(LOG, vec![vec![record(&created("op-0"))]]);

    let routes = TowerToHyperService::new(router(app.clone()));
    let publish = async |id: &str| {
        let request = Request::post("/v1/events").header("content-type", BATCH);
        let body = Body::from(json!([created(id)]).to_string());
        let answer = routes.call(request.body(body).unwrap()).await.unwrap();
        let status = answer.status().as_u16();
        let body = answer.into_body().collect().await.unwrap().to_bytes();
        let error: Value = serde_json::from_slice(&body).unwrap();
        (status, error["error_message"].to_string())
    };
    let (status, why) = publish("again").await;
    assert_eq!(status, 503, "{why}");
    assert!(why.contains("0:1 before"), "{why}");
    assert!(matches!(app.progress.applied().log, LogState::Suspect(_)));
    assert!(app.progress.take_suspicion(), "the projector must check");
    // The next event is refused too until that is decided, and nothing of it is stored.
    let (status, why) = publish("another").await;
    assert_eq!(status, 503, "{why}");
    assert!(why.contains("nothing was stored"), "{why}");
    assert_eq!(log.bounds().unwrap()[&Partition(0)].end, Offset(2));
    let request = Request::get("/v1/operations/again")
        .header("ledger-position", format!("{LOG};0:1"))
        .body(Body::empty());
    let read = routes.call(request.unwrap()).await.unwrap();
    assert_eq!(read.status(), 504, "not known to be reached");
}
