//! Which positions count as reached, and when events are accepted: only while the log is known to
//! be the store's own. Also: offsets without a record.

use super::changed_log::When::{Paused, Running, Stopped};
use super::changed_log::{
    Ledger, apply, cut_off, halted, ids, is_there, ledger, make_anew, reasons, recreate, send,
    signal,
};
use super::log_of;
use crate::support::broker::{Broker, Raw};
use crate::support::events::created;
use crate::support::server::{Answer, BATCH, Server};
use crate::support::sse::Stream;
use rdkafka::Message as _;
use rustix::process::Signal;
use serde_json::json;
use std::process::Command;
use std::time::{Duration, Instant};

fn at(server: &Server, path: &str, token: &str) -> Answer {
    server.get_with(path, &[("ledger-position", token)])
}

fn publish(server: &Server, id: &str) -> Answer {
    server.post(BATCH, json!([created(id)]).to_string())
}

#[track_caller]
fn refused_for(answer: &Answer, status: u16, reason: &str) {
    let why = answer.refused(status, "000001");
    assert!(why.contains(reason), "{why}");
    assert!(answer.header("retry-after").parse::<u64>().is_ok());
}

/// The projector has halted because of its log. It accepts no events and serves no position of the
/// log.
#[track_caller]
fn answers_for_nothing(server: &Server, reason: &str, token: &str) {
    halted(server, reason, "old-4");
    refused_for(&publish(server, "late"), 503, reason);
    refused_for(&at(server, "/v1/operations/old-4", token), 503, reason);
    refused_for(&at(server, "/v1/operations", token), 500, reason);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("events.jsonl");
    std::fs::write(&file, created("late").to_string()).unwrap();
    let command = Command::new(env!("CARGO_BIN_EXE_opledger"))
        .arg("publish")
        .arg(file)
        .args(["--wait", "--retry-for", "1", "--url"])
        .arg(format!("http://{}", server.address))
        .output()
        .unwrap();
    assert_eq!(command.status.code(), Some(5), "{command:?}");
    let resumed = [("last-event-id", token)];
    let mut stream = Stream::open(server.address, "/v1/operations", &resumed);
    assert_eq!(stream.next().unwrap().kind, "reset");
    assert!(
        is_there(server, "old-4"),
        "reads without a position continue"
    );
}

#[test]
fn a_recreated_topic_accepts_no_event_and_serves_no_position() {
    let broker = Broker::shared();
    for when in [Running, Stopped] {
        let mut ledger = Ledger::with(&broker, 5);
        let token = format!("{};0:4", log_of(&ledger));
        assert_eq!(at(&ledger, "/v1/operations/old-4", &token).status, 200);
        ledger.while_it_is(when, |topic| make_anew(&broker, topic, &ids("new", 9)));
        answers_for_nothing(&ledger, "belongs to the log", &token);
        for message in broker.read(&ledger.topic) {
            let payload = message.payload().unwrap();
            assert!(!String::from_utf8_lossy(payload).contains("\"late\""));
        }
    }
}

#[test]
fn a_truncated_log_accepts_no_event_and_serves_no_position() {
    let broker = Broker::own();
    for (when, more) in [(Running, 0), (Stopped, 0), (Stopped, 9)] {
        let mut ledger = Ledger::with(&broker, 5);
        let token = format!("{};0:3", log_of(&ledger));
        ledger.while_it_is(when, |topic| cut_off(&broker, topic, more));
        // Events are refused from the start.
        ledger.eventually("halted", |server| {
            let early = publish(server, "early");
            assert_eq!(early.status, 503, "{early:?}");
            reasons(server).contains("has halted")
        });
        answers_for_nothing(&ledger, "partition 0", &token);
    }
}

#[test]
fn one_unread_record_deleted_by_retention_halts_the_projector_and_none_does_not() {
    let broker = Broker::shared();
    for when in [Paused, Stopped] {
        for (first, is_whole) in [(5, true), (6, false)] {
            let mut ledger = Ledger::with(&broker, 5);
            let token = format!("{};0:4", log_of(&ledger));
            ledger.while_it_is(when, |topic| {
                send(&broker, topic, 0, &ids("unseen", 2));
                broker.forget_before(topic, 0, first);
            });
            if is_whole {
                ledger.eventually("continues", |server| is_there(server, "unseen-1"));
                ledger.eventually("ready", |server| server.get("/readyz").status == 200);
            } else {
                let reason = "now begins at offset 6, the store continues at 5";
                // The record may already have been in flight when the ledger was paused.
                let was_on_its_way = || when == Paused && is_there(&ledger, "unseen-0");
                ledger.eventually("halted, or continues", |server| {
                    reasons(server).contains(reason) || was_on_its_way()
                });
                if was_on_its_way() {
                    continue;
                }
                answers_for_nothing(&ledger, reason, &token);
                assert!(!is_there(&ledger, "unseen-1"));
            }
        }
    }
}

/// The ledger reads the topic, and neither the watchdog nor a pause checks it in time. A fetch does
/// not count as the same topic's just because the previous one did.
#[test]
fn a_topic_recreated_between_two_fetches_is_not_read_further() {
    let broker = Broker::shared();
    for round in 0..3 {
        let topic = broker.topic(1, &[]);
        let folder = tempfile::tempdir().unwrap();
        let settings = [
            ("KAFKA__BOOTSTRAP", broker.bootstrap.as_str()),
            ("KAFKA__TOPIC", &topic),
            ("KAFKA__CHECK_INTERVAL", "1h"),
        ];
        let server = Server::on(folder.path(), &settings);
        apply(&server, &broker, &topic, 5);
        for n in 0..20 {
            let id = format!("steady-{n}");
            let token = server.publish(&[created(&id)]);
            assert!(server.document(&id, &token).is_some());
        }
        signal(&server, Signal::STOP);
        recreate(&broker, &topic, 1);
        let new = ids("new", 60);
        let records = new
            .iter()
            .map(|id| Raw::value(created(id).to_string()).on(0));
        broker.send(&topic, &records.collect::<Vec<_>>());
        signal(&server, Signal::CONT);
        server.eventually("halted", |server| {
            reasons(server).contains("belongs to the log")
        });
        for id in &new {
            assert!(!is_there(&server, id), "round {round}: {id} is not applied");
        }
    }
}

/// Before the log has been compared once, the ledger knows nothing of it, whatever the store has.
#[test]
fn before_the_log_is_reached_no_event_is_accepted_and_no_position_is_served() {
    let broker = Broker::own();
    let topic = broker.topic(1, &[]);
    let folder = tempfile::tempdir().unwrap();
    let server = ledger(folder.path(), &broker, &topic);
    apply(&server, &broker, &topic, 5);
    let token = format!("{};0:4", log_of(&server));
    // While the broker is down, positions that this log has already reached still count.
    broker.kill();
    server.eventually("not ready", |server| server.get("/readyz").status == 503);
    server.eventually("refused", |server| publish(server, "away").status == 503);
    assert_eq!(at(&server, "/v1/operations/old-4", &token).status, 200);
    drop(server);

    let server = ledger(folder.path(), &broker, &topic);
    let path = "/v1/operations/old-4";
    let headers = [("ledger-position", &*token), ("prefer", "wait=1")];
    let why = server.get_with(path, &headers).refused(504, "000001");
    assert!(why.contains("not compared"), "{why}");
    publish(&server, "away").refused(503, "000001");
    assert!(
        is_there(&server, "old-4"),
        "reads without a position need no broker"
    );
    broker.start();
    server.eventually("reached", |server| at(server, path, &token).status == 200);
    server.eventually("accepted", |server| publish(server, "after").status == 202);
}

/// The marker at the end of a transaction has an offset and is not a record. A producer that
/// receives this offset may ask for it.
#[test]
fn the_end_of_a_transaction_is_reached_when_all_before_it_is_applied() {
    let broker = Broker::shared();
    let topic = broker.topic(1, &[]);
    let folder = tempfile::tempdir().unwrap();
    let mut server = ledger(folder.path(), &broker, &topic);
    let log = log_of(&server);
    let event = |id: &str| Raw::value(created(id).to_string()).on(0);
    // Offsets 0 and 1 and the marker at 2, then 3 and the marker at 4. Only markers are at the end.
    let steps = [("committed", true, 2), ("aborted", false, 4)];
    for (id, commit, mark) in steps {
        let records = [event(id), event(&format!("{id}-too"))];
        let records = &records[..if commit { 2 } else { 1 }];
        broker.transaction(&topic, records, commit);
        let token = format!("{log};0:{mark}");
        let answer = at(&server, &format!("/v1/operations/{id}"), &token);
        assert_eq!(answer.status, if commit { 200 } else { 404 });
        assert_eq!(
            answer.header("ledger-position"),
            token,
            "the response has the position asked for"
        );
    }
    let token = format!("{log};0:4");
    for restart in [false, true] {
        if restart {
            assert!(server.terminate().success());
            server = ledger(folder.path(), &broker, &topic);
        }
        // One more event was published before the restart.
        let last = format!("{log};0:{}", if restart { 5 } else { 4 });
        for path in [
            "/v1/operations/committed",
            "/v1/operations",
            "/v1/operations?limit=1",
        ] {
            let answer = at(&server, path, &token);
            assert_eq!(answer.status, 200, "{path}, restart: {restart}");
            assert_eq!(answer.header("ledger-position"), last, "{path}");
        }
        // One position after the last.
        let beyond = format!("{log};0:{}", if restart { 6 } else { 5 });
        let headers = [("ledger-position", &*beyond), ("prefer", "wait=0")];
        server
            .get_with("/v1/operations/committed", &headers)
            .refused(504, "000001");
        // Streams continue after it.
        let resumed = [("last-event-id", &*last)];
        let mut stream = Stream::open(server.address, "/v1/operations", &resumed);
        let id = format!("more-{restart}");
        let published = server.publish(&[created(&id)]);
        assert_eq!(stream.document()["operation_id"], id);
        assert!(server.document(&id, &published).is_some());
    }
}

#[test]
fn a_stream_with_a_position_after_the_end_of_the_log_is_reset() {
    let broker = Broker::shared();
    let topic = broker.topic(2, &[]);
    let folder = tempfile::tempdir().unwrap();
    let server = ledger(folder.path(), &broker, &topic);
    apply(&server, &broker, &topic, 2);
    let log = log_of(&server);
    for position in ["0:2", "1:0", "0:1,1:7"] {
        let token = format!("{log};{position}");
        for path in ["/v1/operations", "/v1/operations/old-1"] {
            let started = Instant::now();
            let resumed = [("last-event-id", &*token)];
            let mut stream = Stream::open(server.address, path, &resumed);
            assert_eq!(stream.status(), 200, "{path} {position}");
            assert_eq!(stream.next().unwrap().kind, "reset", "{path} {position}");
            assert!(
                started.elapsed() < Duration::from_secs(4),
                "it does not wait for the whole limit"
            );
        }
        let path = format!("/v1/operations?position={token}");
        let mut stream = Stream::open(server.address, &path, &[]);
        assert_eq!(stream.next().unwrap().kind, "reset", "{path}");
    }
}

/// Warnings are only for conditions that an operator has to check.
#[test]
fn a_healthy_start_warns_of_nothing() {
    // No consumer group exists on this broker yet, and its topics are created only now.
    let broker = Broker::own();
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("log.txt");
    let mut command = Command::new(env!("CARGO_BIN_EXE_opledger"));
    command.stderr(std::fs::File::create(&log).unwrap());
    let settings = [
        ("KAFKA__BOOTSTRAP", broker.bootstrap.as_str()),
        ("KAFKA__CREATE_TOPICS", "true"),
        ("TELEMETRY__LOG", "info"),
    ];
    let server = Server::spawn(command, &folder.path().join("data"), &settings);
    server.eventually("ready", |server| server.get("/readyz").status == 200);
    let token = server.publish(&[created("first")]);
    assert!(server.document("first", &token).is_some());
    let group = "opledger";
    server.eventually("the group is used", |_| {
        (0..6).any(|partition| {
            broker
                .committed(group, "opledger.events", partition)
                .is_some()
        })
    });
    assert!(server.terminate().success());
    let told = std::fs::read_to_string(&log).unwrap();
    let warned = |line: &&str| line.contains("WARN") || line.contains("ERROR");
    let warnings: Vec<&str> = told.lines().filter(warned).collect();
    assert!(warnings.is_empty(), "{warnings:#?}");
    assert!(told.contains("INFO"), "it is logged at all: {told}");
}
