//! Conditions around the events: transactions, arrival times, created topics, the consumer group,
//! librdkafka's options, passwords.

use super::{ledger, log_of};
use crate::support::broker::{Broker, Raw};
use crate::support::events::created;
use crate::support::server::{BATCH, Server};
use serde_json::json;

#[test]
fn an_aborted_transaction_is_never_seen_and_lag_still_reaches_zero() {
    let broker = Broker::shared();
    let topic = broker.topic(1, &[]);
    let server = ledger(&broker, &topic);
    let log = log_of(&server);
    let event = |id: &str| Raw::value(created(id).to_string()).on(0);
    broker.transaction(&topic, &[event("aborted"), event("aborted-too")], false);
    broker.transaction(&topic, &[event("committed")], true);
    let token = format!("{log};0:3");
    assert!(server.document("committed", &token).is_some());
    assert!(server.document("aborted", &token).is_none());
    assert_eq!(
        server.get("/v1/dead-letters").json()["dead_letters"],
        json!([])
    );
    // The transaction's marker follows the last record.
    server.eventually("no lag", |server| {
        let metrics = server.metrics();
        let holds = |line: &str| metrics.lines().any(|found| found == line);
        holds("opledger_projector_lag_records 0")
            && holds("opledger_log_end_offset{partition=\"0\"} 5")
            && holds("opledger_applied_offset{partition=\"0\"} 5")
    });
}

#[test]
fn the_arrival_is_the_brokers_or_the_producers_timestamp_and_says_which() {
    let broker = Broker::shared();
    for (kind, claimed) in [("LogAppendTime", false), ("CreateTime", true)] {
        let topic = broker.topic(1, &[("message.timestamp.type", kind)]);
        let server = ledger(&broker, &topic);
        let log = log_of(&server);
        let mut ahead = created("ahead");
        ahead["time"] = json!("2199-01-01T00:00:00Z");
        broker.send(&topic, &[Raw::value(ahead.to_string()).on(0)]);
        assert!(server.document("ahead", &format!("{log};0:0")).is_some());
        let history = server.get("/v1/operations/ahead/events").json();
        assert_eq!(
            history["events"][0]["arrived_by"] == "producer",
            claimed,
            "{history}"
        );
        let metrics = server.metrics();
        let told = format!("opledger_clock_ahead_total {}", u8::from(!claimed));
        assert!(metrics.contains(&told), "{kind}: {told}");
    }
}

#[test]
fn missing_topics_are_created_on_request() {
    let broker = Broker::shared();
    let topic = format!("made-{}", std::process::id());
    let server = ledger(&broker, &topic);
    server.eventually("readiness reports the missing topic", |server| {
        let ready = server.get("/readyz");
        ready.status == 503 && String::from_utf8_lossy(&ready.body).contains("--create-topics")
    });
    drop(server);
    let server = Server::with(&[
        ("KAFKA__BOOTSTRAP", &broker.bootstrap),
        ("KAFKA__TOPIC", &topic),
        ("KAFKA__CREATE_TOPICS", "true"),
        ("KAFKA__PARTITIONS", "2"),
    ]);
    server.eventually("ready", |server| server.get("/readyz").status == 200);
    assert_eq!(
        broker.read(&format!("{topic}.dead-letter")).len(),
        0,
        "the topic exists"
    );
    let token = server.publish(&[created("first")]);
    assert!(server.document("first", &token).is_some());
    let history = server.get("/v1/operations/first/events").json();
    assert!(
        history["events"][0].get("arrived_by").is_none(),
        "the broker's own time"
    );
    // A deleted topic is not recreated: the new one would be another log.
    broker.delete(&topic);
    server.eventually("not ready", |server| server.get("/readyz").status == 503);
    std::thread::sleep(std::time::Duration::from_secs(3));
    assert_eq!(server.get("/readyz").status, 503);
    assert!(!broker.has(&topic));
}

#[test]
fn the_applied_offsets_are_committed_to_the_consumer_group() {
    let broker = Broker::shared();
    let topic = broker.topic(1, &[]);
    let group = format!("lag-{topic}");
    let server = Server::with(&[
        ("KAFKA__BOOTSTRAP", &broker.bootstrap),
        ("KAFKA__TOPIC", &topic),
        ("KAFKA__GROUP", &group),
    ]);
    server.eventually("ready", |server| server.get("/readyz").status == 200);
    server.publish(&[created("a"), created("b")]);
    server.eventually("committed", |_| {
        broker.committed(&group, &topic, 0) == Some(2)
    });
}

#[test]
fn options_of_librdkafka_are_passed_on_and_bad_ones_are_reported_at_once() {
    let broker = Broker::shared();
    let topic = broker.topic(1, &[]);
    let bad = std::process::Command::new(env!("CARGO_BIN_EXE_opledger"))
        .args([
            "serve",
            "--listen",
            "127.0.0.1:0",
            "--kafka",
            &broker.bootstrap,
            "--data",
        ])
        .arg(tempfile::tempdir().unwrap().path())
        .env("OPLEDGER_KAFKA__OPTIONS__SECURITY__PROTOKOL", "ssl")
        .env("OPLEDGER_KAFKA__PRODUCER__ACKS", "1")
        .env("OPLEDGER_KAFKA__CONSUMER__FETCH__MIN__BYTES", "many")
        .output()
        .unwrap();
    assert_eq!(bad.status.code(), Some(6));
    let text = String::from_utf8_lossy(&bad.stderr);
    for told in [
        "kafka.options.security.protokol: is no option",
        "kafka.producer.acks: is opledger's own",
        "kafka.consumer.fetch.min.bytes: is not taken",
    ] {
        assert!(text.contains(told), "{told} in {text}");
    }
    let server = Server::with(&[
        ("KAFKA__BOOTSTRAP", &broker.bootstrap),
        ("KAFKA__TOPIC", &topic),
        ("KAFKA__PRODUCER__COMPRESSION__TYPE", "zstd"),
        ("KAFKA__CONSUMER__FETCH__MIN__BYTES", "1"),
    ]);
    server.eventually("ready", |server| server.get("/readyz").status == 200);
    let token = server.publish(&[created("zipped")]);
    assert!(server.document("zipped", &token).is_some());
}

/// A user and a password, set by librdkafka's own options.
#[test]
fn sasl_works_as_users_know_it() {
    let broker = Broker::own_with(
        "listeners=PLAINTEXT://127.0.0.1:PORT,CONTROLLER://127.0.0.1:CONTROLLERPORT,SASL_PLAINTEXT://127.0.0.1:OTHERPORT\n\
         advertised.listeners=PLAINTEXT://127.0.0.1:PORT,SASL_PLAINTEXT://127.0.0.1:OTHERPORT\n\
         sasl.enabled.mechanisms=PLAIN\n\
         listener.name.sasl_plaintext.plain.sasl.jaas.config=org.apache.kafka.common.security.plain.PlainLoginModule required user_ledger=\"secret\";\n",
    );
    let topic = broker.topic(1, &[]);
    let listeners = broker.property("listeners");
    let sasl = listeners.rsplit_once("//").unwrap().1.to_owned();
    let folder = tempfile::tempdir().unwrap();
    let password = folder.path().join("password");
    std::fs::write(&password, "secret\n").unwrap();
    let with_password = |file: &str| {
        Server::with(&[
            ("KAFKA__BOOTSTRAP", &sasl),
            ("KAFKA__TOPIC", &topic),
            ("KAFKA__OPTIONS__SECURITY__PROTOCOL", "SASL_PLAINTEXT"),
            ("KAFKA__OPTIONS__SASL__MECHANISM", "PLAIN"),
            ("KAFKA__OPTIONS__SASL__USERNAME", "ledger"),
            ("KAFKA__OPTIONS__SASL__PASSWORD_FILE", file),
        ])
    };
    let server = with_password(password.to_str().unwrap());
    server.eventually("ready", |server| server.get("/readyz").status == 200);
    let token = server.publish(&[created("a")]);
    assert!(server.document("a", &token).is_some());
    drop(server);
    std::fs::write(&password, "wrong\n").unwrap();
    let server = with_password(password.to_str().unwrap());
    server.eventually("not ready", |server| server.get("/readyz").status == 503);
}

#[test]
fn an_event_too_large_for_the_topic_is_refused_before_it_is_sent() {
    let broker = Broker::shared();
    let topic = broker.topic(1, &[("max.message.bytes", "100000")]);
    let server = ledger(&broker, &topic);
    server.eventually("ready", |server| server.get("/readyz").status == 200);
    let with_body = |id: &str, bytes: usize| {
        let mut event = created(id);
        // A body that no codec compresses.
        let mut rng = crate::support::generate::Rng::new(37);
        let body: String = (0..bytes)
            .map(|_| char::from(b'!' + rng.below(90) as u8))
            .collect();
        event["data"]["request"]["body"] = json!(body);
        event
    };
    let large = json!([created("small"), with_body("large", 120_000)]).to_string();
    let why = server.post(BATCH, large).refused(413, "010003");
    assert!(why.contains("[1]"), "{why}");
    // Each event is small enough, but together they exceed the topic's limit for one batch.
    let many: Vec<_> = (0..20)
        .map(|n| with_body(&format!("many-{n}"), 40_000))
        .collect();
    let token = server.publish(&many);
    for n in 0..20 {
        assert!(
            server.document(&format!("many-{n}"), &token).is_some(),
            "{n}"
        );
    }
    assert!(server.document("small", &token).is_none());
}

/// Records after an open transaction cannot be read yet. Commands that read to the end do not wait
/// for them.
#[test]
fn an_open_transaction_does_not_block_a_replay() {
    let broker = Broker::shared();
    let topic = broker.topic(1, &[]);
    let event = |id: &str| Raw::value(created(id).to_string()).on(0);
    broker.send(&topic, &[event("before")]);
    let _open = broker.begin_transaction(&topic, &[event("open")]);
    broker.send(&topic, &[event("behind")]);
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_opledger"))
        .args(["replay", "--kafka", &broker.bootstrap, "--topic", &topic])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && text.contains("\"before\""),
        "{text}"
    );
    assert!(
        !text.contains("\"behind\"") && !text.contains("\"open\""),
        "{text}"
    );
}
