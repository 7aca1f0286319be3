//! Is it still the same log? The topic is recreated, truncated, emptied by retention, compacted,
//! extended, or on another cluster, while the ledger runs and across a restart. Also: brokers that
//! are down.

use super::changed_log::When::{Paused, Running, Stopped};
use super::changed_log::{
    Ledger, apply, cut_off, halted, ids, is_there, ledger, make_anew, reasons, send,
};
use crate::support::broker::{Broker, Raw};
use crate::support::events::created;
use crate::support::server::{BATCH, Server};
use rdkafka::Message as _;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

fn rebuild(data: &Path, broker: &Broker, topic: &str) {
    let output = Command::new(env!("CARGO_BIN_EXE_opledger"))
        .args([
            "rebuild",
            "--kafka",
            &broker.bootstrap,
            "--topic",
            topic,
            "--data",
        ])
        .arg(data)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}");
}

#[test]
fn a_recreated_topic_halts_the_projector_in_four_situations_and_rebuild_recovers() {
    let broker = Broker::shared();
    for (when, records) in [(Running, 2), (Running, 9), (Stopped, 2), (Stopped, 9)] {
        let what = format!("{when:?}, {records} records");
        let mut ledger = Ledger::with(&broker, 5);
        let new = ids("new", records);
        ledger.while_it_is(when, |topic| make_anew(&broker, topic, &new));
        halted(&ledger, "belongs to the log", "old-4");
        for id in &new {
            assert!(!is_there(&ledger, id), "{what}: {id} is not applied");
        }
        let reasons = reasons(&ledger);
        assert_eq!(
            reasons
                .matches(&format!("topic {}, id", ledger.topic))
                .count(),
            2,
            "{what}: {reasons}"
        );
        // The ledger must not acknowledge an event that it would never show.
        let refused = ledger.post(BATCH, json!([created("late")]).to_string());
        refused.refused(503, "000001");

        ledger.stop();
        rebuild(ledger.data.path(), &broker, &ledger.topic);
        ledger.start();
        ledger.eventually("ready", |server| server.get("/readyz").status == 200);
        assert!(is_there(&ledger, new.last().unwrap()), "{what}");
        assert!(!is_there(&ledger, "old-4"), "{what}");
    }
}

/// While many clients publish one event at a time, the topic is recreated and at once filled to the
/// old topic's last offset. So offsets do not show the difference.
#[test]
fn records_sent_to_a_recreated_topic_are_not_acknowledged() {
    let broker = Broker::shared();
    for round in 0..3 {
        let topic = broker.topic(1, &[]);
        let folder = tempfile::tempdir().unwrap();
        let server = ledger(folder.path(), &broker, &topic);
        let acknowledged = Mutex::new(BTreeSet::new());
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for publisher in 0..4 {
                let (server, acknowledged, stop) = (&server, &acknowledged, &stop);
                scope.spawn(move || {
                    for n in (0..).take_while(|_| !stop.load(Ordering::Relaxed)) {
                        let id = format!("published-{publisher}-{n}");
                        let answer = server.post(BATCH, json!([created(&id)]).to_string());
                        match answer.status {
                            202 => drop(acknowledged.lock().unwrap().insert(id)),
                            503 => std::thread::sleep(Duration::from_millis(5)),
                            other => panic!("{other}"),
                        }
                    }
                });
            }
            let taken = || acknowledged.lock().unwrap().len();
            server.eventually("publishing", |_| taken() > 200);
            broker.delete(&topic);
            broker.create(&topic, 1, &[]);
            let fill = ids("filled", 2 * taken());
            let fill = fill.iter().map(|id| Raw::value(created(id).to_string()));
            broker.send(&topic, &fill.collect::<Vec<_>>());
            server.eventually("halted", |server| {
                reasons(server).contains("belongs to the log")
            });
            stop.store(true, Ordering::Relaxed);
        });
        let acknowledged = acknowledged.into_inner().unwrap();
        for message in broker.read(&topic) {
            let event: Value = serde_json::from_slice(message.payload().unwrap()).unwrap();
            let id = event["subject"].as_str().unwrap();
            assert!(!acknowledged.contains(id), "round {round}: {id}");
            assert!(!is_there(&server, id), "round {round}: {id} is not applied");
        }
    }
}

#[test]
fn while_fetches_identify_the_topic_the_cluster_is_not_asked() {
    let broker = Broker::shared();
    let topic = broker.topic(3, &[]);
    let folder = tempfile::tempdir().unwrap();
    let settings = [
        ("KAFKA__BOOTSTRAP", broker.bootstrap.as_str()),
        ("KAFKA__TOPIC", &topic),
        ("PROJECTOR__BATCH_DELAY", "0s"),
    ];
    let server = Server::on(folder.path(), &settings);
    let metric = |name: &str| {
        let metrics = server.metrics();
        let line = metrics.lines().find_map(|line| line.strip_prefix(name));
        line.map_or(0, |count| count.trim().parse::<usize>().unwrap())
    };
    // The metric changes every five seconds.
    let requests = || metric("opledger_kafka_requests_total{client=\"inspector\"}");
    let batches = || metric("opledger_batch_records_count");
    let producer: BaseProducer = broker.config().create().unwrap();
    server.eventually("the first report", |_| requests() > 0);
    let first = requests();
    server.eventually("the next report", |_| requests() > first);
    let before = (requests(), batches());
    let idle = before.0 - first;
    for n in 0.. {
        let event = created(&format!("steady-{n}")).to_string();
        let record = BaseRecord::<(), str>::to(&topic).payload(&event);
        producer.send(record).map_err(|(error, _)| error).unwrap();
        producer.flush(Duration::from_secs(30)).unwrap();
        if n % 20 == 0 && requests() > before.0 {
            break;
        }
    }
    let (asked, batches) = (requests() - before.0, batches() - before.1);
    // One request per batch would add `batches` requests.
    assert!(
        3 * asked < 3 * idle + 2 * batches,
        "{idle} requests without events, {asked} with {batches} batches"
    );
}

#[test]
fn a_truncated_log_halts_the_projector_even_if_it_was_extended_again() {
    let broker = Broker::own();
    for (when, more) in [(Running, 0), (Stopped, 0), (Running, 9), (Stopped, 9)] {
        let mut ledger = Ledger::with(&broker, 5);
        ledger.while_it_is(when, |topic| cut_off(&broker, topic, more));
        let reason = match (when, more) {
            (_, 0) => "ends before offset 2, the store continues at 5",
            // While it runs, the ledger may see the truncation before the new records.
            (Running, _) => "partition 0",
            _ => "holds another record at offset 4",
        };
        halted(&ledger, reason, "old-4");
        assert!(!is_there(&ledger, "new-0") && !is_there(&ledger, "new-8"));
    }
}

#[test]
fn unread_records_deleted_by_retention_halt_the_projector() {
    let broker = Broker::shared();
    for when in [Paused, Stopped] {
        let mut ledger = Ledger::with(&broker, 3);
        ledger.while_it_is(when, |topic| {
            send(&broker, topic, 0, &ids("unseen", 5));
            broker.forget_before(topic, 0, 6);
        });
        let reason = match when {
            // The first records may already have been in flight when the ledger was paused.
            Paused => "now begins at offset 6, the store continues at ",
            _ => "now begins at offset 6, the store continues at 3",
        };
        halted(&ledger, reason, "old-2");
        assert!(!is_there(&ledger, "unseen-4"));
    }
}

#[test]
fn records_deleted_by_retention_before_the_first_read_halt_the_projector() {
    let broker = Broker::shared();
    let topic = broker.topic(1, &[]);
    let folder = tempfile::tempdir().unwrap();
    let server = ledger(folder.path(), &broker, &topic);
    server.eventually("ready", |server| server.get("/readyz").status == 200);
    drop(server);
    send(&broker, &topic, 0, &ids("unseen", 5));
    broker.forget_before(&topic, 0, 3);
    let server = ledger(folder.path(), &broker, &topic);
    server.eventually("halted", |server| {
        reasons(server).contains("now begins at offset 3, the store continues at 0")
    });
    assert!(!is_there(&server, "unseen-4"));
}

#[test]
fn a_ledger_on_kafka_is_not_opened_without_kafka() {
    let broker = Broker::shared();
    let topic = broker.topic(1, &[]);
    let folder = tempfile::tempdir().unwrap();
    let server = ledger(folder.path(), &broker, &topic);
    apply(&server, &broker, &topic, 1);
    server.terminate();
    for command in ["serve", "rebuild"] {
        let output = Command::new(env!("CARGO_BIN_EXE_opledger"))
            .args([command, "--data"])
            .arg(folder.path())
            .env("OPLEDGER_SERVER__LISTEN", "127.0.0.1:0")
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(7), "{command}");
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(text.contains("--kafka"), "{command}: {text}");
    }
    let server = ledger(folder.path(), &broker, &topic);
    assert!(is_there(&server, "old-0"), "nothing was touched");
}

/// The marker at the end of a transaction is not a record, but it has an offset.
#[test]
fn retention_of_aborted_records_does_not_halt() {
    let broker = Broker::shared();
    for live in [true, false] {
        let topic = broker.topic(1, &[]);
        let folder = tempfile::tempdir().unwrap();
        let mut server = Some(ledger(folder.path(), &broker, &topic));
        let event = |id: &str| Raw::value(created(id).to_string()).on(0);
        broker.transaction(&topic, &[event("a"), event("b")], true);
        broker.transaction(&topic, &[event("aborted")], false);
        server
            .as_ref()
            .unwrap()
            .eventually("read to the end", |server| {
                let metrics = server.metrics();
                metrics.contains("opledger_applied_offset{partition=\"0\"} 5\n")
            });
        if !live {
            server.take().unwrap().terminate();
        }
        broker.forget_before(&topic, 0, 5);
        let server = server.unwrap_or_else(|| ledger(folder.path(), &broker, &topic));
        send(&broker, &topic, 0, &ids("more", 1));
        server.eventually("continues", |server| is_there(server, "more-0"));
        server.eventually("ready", |server| server.get("/readyz").status == 200);
    }
}

#[test]
fn a_ledger_stops_in_time_while_its_broker_is_away() {
    let broker = Broker::own();
    let topic = broker.topic(1, &[]);
    let folder = tempfile::tempdir().unwrap();
    let server = ledger(folder.path(), &broker, &topic);
    apply(&server, &broker, &topic, 3);
    broker.kill();
    let asked = Instant::now();
    server.terminate();
    assert!(
        asked.elapsed() < Duration::from_secs(20),
        "{:?}",
        asked.elapsed()
    );
}

#[test]
fn retention_of_applied_records_does_not_halt() {
    let broker = Broker::shared();
    let mut ledger = Ledger::with(&broker, 5);
    // Retention also deleted the last applied record: there is nothing to compare with.
    ledger.while_it_is(Stopped, |topic| broker.forget_before(topic, 0, 5));
    send(&broker, &ledger.topic, 0, &ids("more", 1));
    ledger.eventually("continues", |server| is_there(server, "more-0"));
}

#[test]
fn a_store_that_lags_in_many_partitions_continues() {
    let broker = Broker::shared();
    let topic = broker.topic(16, &[]);
    let send = |prefix: &str, count: usize| {
        for partition in 0..16 {
            let ids = ids(&format!("{prefix}-{partition}"), count).into_iter();
            let records = ids.map(|id| Raw::value(created(&id).to_string()).on(partition));
            broker.send(&topic, &records.collect::<Vec<_>>());
        }
    };
    let all_are_there = |server: &Server, prefix: &str, count: usize| {
        let last = |partition| format!("{prefix}-{partition}-{}", count - 1);
        (0..16).all(|partition| is_there(server, &last(partition)))
    };
    let folder = tempfile::tempdir().unwrap();
    let server = ledger(folder.path(), &broker, &topic);
    // From one partition alone, a broker sends more bytes than the fetch asked for.
    send("old", 1000);
    server.eventually("applied", |server| all_are_there(server, "old", 1000));
    drop(server);
    // The last applied records are no longer the last of their partitions, so each is fetched.
    send("more", 1);
    let server = ledger(folder.path(), &broker, &topic);
    server.eventually("continues", |server| all_are_there(server, "more", 1));
}

#[test]
fn a_new_store_begins_at_the_oldest_remaining_record_and_reports_it() {
    let broker = Broker::shared();
    let topic = broker.topic(1, &[]);
    send(&broker, &topic, 0, &ids("old", 5));
    broker.forget_before(&topic, 0, 3);
    let folder = tempfile::tempdir().unwrap();
    let server = ledger(folder.path(), &broker, &topic);
    server.eventually("applied", |server| is_there(server, "old-4"));
    assert!(!is_there(&server, "old-2"));
    let notes = server.get("/readyz").json()["notes"].to_string();
    assert!(notes.contains("began at offset 3"), "{notes}");
}

#[test]
fn added_partitions_are_picked_up_while_running() {
    let broker = Broker::shared();
    let topic = broker.topic(2, &[]);
    let folder = tempfile::tempdir().unwrap();
    let server = ledger(folder.path(), &broker, &topic);
    send(&broker, &topic, 0, &ids("before", 3));
    server.eventually("applied", |server| is_there(server, "before-2"));
    broker.add_partitions(&topic, 5);
    for partition in 0..5 {
        send(
            &broker,
            &topic,
            partition,
            &ids(&format!("after-{partition}"), 2),
        );
    }
    for partition in 0..5 {
        let id = format!("after-{partition}-1");
        server.eventually(&id, |server| is_there(server, &id));
    }
    server.eventually("ready", |server| server.get("/readyz").status == 200);
}

#[test]
fn a_compacted_topic_is_refused_with_what_to_change() {
    let broker = Broker::shared();
    let topic = broker.topic(1, &[("cleanup.policy", "compact,delete")]);
    let keyed = |id: &str| Raw::value(created(id).to_string()).on(0).key(id);
    broker.send(&topic, &[keyed("a")]);
    let folder = tempfile::tempdir().unwrap();
    let server = ledger(folder.path(), &broker, &topic);
    server.eventually("halted", |server| {
        let reasons = reasons(server);
        reasons.contains("has halted") && reasons.contains("set cleanup.policy=delete")
    });
    assert!(!is_there(&server, "a"));
}

#[test]
fn another_cluster_behind_the_same_address_halts() {
    let broker = Broker::own();
    let topic = broker.topic(1, &[]);
    let folder = tempfile::tempdir().unwrap();
    let server = ledger(folder.path(), &broker, &topic);
    apply(&server, &broker, &topic, 3);
    broker.kill();
    broker.forget_everything();
    broker.start();
    broker.create(&topic, 1, &[]);
    send(&broker, &topic, 0, &ids("new", 9));
    halted(&server, "belongs to the log", "old-2");
    assert!(!is_there(&server, "new-8"));
}

#[test]
fn a_ledger_waits_for_a_broker_that_starts_later() {
    let broker = Broker::own();
    let topic = broker.topic(2, &[]);
    let folder = tempfile::tempdir().unwrap();
    let server = ledger(folder.path(), &broker, &topic);
    apply(&server, &broker, &topic, 3);
    drop(server);
    broker.kill();
    let server = ledger(folder.path(), &broker, &topic);
    assert!(is_there(&server, "old-2"), "reads need no broker");
    server.eventually("readiness reports it", |server| {
        reasons(server).contains("the event log cannot be read")
    });
    let refused = server.post(BATCH, json!([created("x")]).to_string());
    refused.refused(503, "000001");
    assert!(refused.header("retry-after").parse::<u64>().is_ok());
    broker.start();
    server.eventually("ready", |server| server.get("/readyz").status == 200);
    let token = server.publish(&[created("after")]);
    assert!(server.document("after", &token).is_some());
}

#[test]
fn a_lost_broker_is_reported_and_used_again_when_it_returns() {
    let broker = Broker::own();
    let topic = broker.topic(2, &[]);
    let folder = tempfile::tempdir().unwrap();
    let server = ledger(folder.path(), &broker, &topic);
    apply(&server, &broker, &topic, 3);
    for round in 0..2 {
        broker.kill();
        server.eventually("not ready", |server| server.get("/readyz").status == 503);
        assert!(is_there(&server, "old-2"), "reads continue");
        let waited = Instant::now();
        let path = "/v1/operations/none";
        let token = format!(
            "{};0:99",
            server.get("/version").json()["log"].as_str().unwrap()
        );
        let headers = [("ledger-position", token.as_str()), ("prefer", "wait=1")];
        server.get_with(path, &headers).refused(504, "000001");
        assert!(waited.elapsed() < Duration::from_secs(10));
        broker.start();
        send(&broker, &topic, 1, &ids(&format!("round-{round}"), 3));
        let id = format!("round-{round}-2");
        server.eventually(&id, |server| is_there(server, &id));
        server.eventually("ready", |server| server.get("/readyz").status == 200);
    }
}
