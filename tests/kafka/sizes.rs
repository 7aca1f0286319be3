//! The largest record that a topic and the ledger's own limit accept, to the byte.

use super::{ledger, log_of};
use crate::support::broker::{Broker, Raw};
use crate::support::events::sized;
use crate::support::server::{ONE, Server};
use std::process::Command;

/// Records that workers write to the topic themselves.
#[test]
fn a_record_at_the_size_limit_is_applied_and_a_byte_more_is_a_dead_letter() {
    const MAX: usize = 4096;
    let broker = Broker::shared();
    let topic = broker.topic(1, &[]);
    let server = Server::with(&[
        ("KAFKA__BOOTSTRAP", &broker.bootstrap),
        ("KAFKA__TOPIC", &topic),
        ("EVENTS__MAX_SIZE", "4KiB"),
    ]);
    let log = log_of(&server);
    // Headers count, a key does not.
    let note = |record: Raw| record.header("note", Some("x"));
    let records = [
        Raw::value(sized("exact", MAX)).on(0).key("exact"),
        Raw::value(sized("over", MAX + 1)).on(0).key("over"),
        note(Raw::value(sized("exact-noted", MAX - 5)).on(0)),
        note(Raw::value(sized("over-noted", MAX - 4)).on(0)),
    ];
    broker.send(&topic, &records);
    let token = format!("{log};0:3");
    assert!(server.document("exact", &token).is_some());
    assert!(server.document("over", &token).is_none());
    assert!(server.document("exact-noted", &token).is_some());
    assert!(server.document("over-noted", &token).is_none());
    let letters = server.get("/v1/dead-letters").json();
    let letters = letters["dead_letters"].as_array().unwrap();
    let told: Vec<_> = letters
        .iter()
        .map(|letter| (letter["position"].as_str(), letter["reason"].as_str()))
        .collect();
    let too_large = Some("too_large");
    assert_eq!(told, [(Some("0:1"), too_large), (Some("0:3"), too_large)]);
}

/// Events sent over HTTP or by `publish`. With the longest key, the topic accepts the record.
#[test]
fn an_event_at_the_topics_size_limit_is_accepted_and_a_byte_more_is_refused() {
    const TOPIC: usize = 100_000;
    const MAX: usize = TOPIC - 1024;
    let broker = Broker::shared();
    let topic = broker.topic(1, &[("max.message.bytes", &TOPIC.to_string())]);
    let server = ledger(&broker, &topic);
    server.eventually("ready", |server| server.get("/readyz").status == 200);
    let id = |prefix: &str| format!("{prefix}{}", "x".repeat(256 - prefix.len()));
    let exact = server.post(ONE, sized(&id("exact"), MAX));
    assert_eq!(
        exact.status,
        202,
        "{}",
        String::from_utf8_lossy(&exact.body)
    );
    let token = exact.header("ledger-position").to_owned();
    assert!(server.document(&id("exact"), &token).is_some());
    server
        .post(ONE, sized(&id("over"), MAX + 1))
        .refused(413, "010003");
    let folder = tempfile::tempdir().unwrap();
    for (name, bytes, status) in [("by-command", MAX, 0), ("over-by-command", MAX + 1, 4)] {
        let file = folder.path().join(name);
        std::fs::write(&file, sized(&id(name), bytes)).unwrap();
        let output = Command::new(env!("CARGO_BIN_EXE_opledger"))
            .arg("publish")
            .arg(&file)
            .args(["--kafka", &broker.bootstrap, "--topic", &topic])
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(status), "{name}: {output:?}");
    }
    server.eventually("the event is applied", |server| {
        server
            .get(&format!("/v1/operations/{}", id("by-command")))
            .status
            == 200
    });
    assert_eq!(broker.read(&topic).len(), 2);
}
