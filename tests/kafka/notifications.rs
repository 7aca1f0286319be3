//! Notifications of a ledger on Kafka. A topic of its own records their outcomes, and a new store
//! reads them from there. Without that topic, a new store holds every notification back.

use crate::support::broker::{Broker, Raw};
use crate::support::notified::{list, notes, quick, repair, state, told};
use crate::support::receiver::{Receiver, Reply};
use crate::support::server::Server;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

fn ledger(data: &Path, broker: &Broker, topic: &str, other: &[(&str, &str)]) -> Server {
    let mut settings = quick(&[
        ("KAFKA__BOOTSTRAP", broker.bootstrap.as_str()),
        ("KAFKA__TOPIC", topic),
        ("KAFKA__CHECK_INTERVAL", "500ms"),
        ("KAFKA__CREATE_TOPICS", "true"),
    ]);
    settings.extend_from_slice(other);
    Server::on(data, &settings)
}

/// Waits until the earlier outcomes are known. After that no new notification is held.
fn sends(server: &Server) {
    server.eventually("ready, and notifications are sent", |server| {
        server.get("/readyz").status == 200
            && !notes(server).contains("webhook deliveries are not sent")
    });
}

fn delivered(server: &Server, count: usize) {
    server.eventually(&format!("{count} are delivered"), |server| {
        list(server, "state=delivered&limit=1000").len() == count
    });
}

fn values(broker: &Broker, topic: &str) -> Vec<serde_json::Value> {
    use rdkafka::message::Message;
    let all = broker.read(topic);
    let values = all.iter().filter_map(|message| message.payload());
    values
        .map(|value| serde_json::from_slice(value).unwrap())
        .collect()
}

#[test]
fn a_new_store_sends_nothing_again_if_the_control_topic_exists() {
    let broker = Broker::shared();
    let topic = broker.topic(3, &[]);
    let receiver = Receiver::willing();
    let (first, second) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let server = ledger(first.path(), &broker, &topic, &[]);
    sends(&server);
    let events = (0..20).flat_map(|n| told(&format!("op-{n}"), receiver.address));
    server.publish(&events.collect::<Vec<_>>());
    delivered(&server, 20);
    server.terminate();

    let control = values(&broker, &format!("{topic}.control"));
    assert_eq!(
        control[0]["type"], "opledger.control.begun.v1",
        "{control:?}"
    );
    let is_delivered =
        |value: &&serde_json::Value| value["type"] == "opledger.notification.delivered.v1";
    let recorded: Vec<_> = control.iter().filter(is_delivered).collect();
    assert_eq!(recorded.len(), 20);
    let call = &receiver.of("op-7")[0];
    assert!(
        recorded
            .iter()
            .any(|value| value["data"]["key"] == call.key() && value["subject"] == "op-7")
    );

    let binary = env!("CARGO_BIN_EXE_opledger");
    let rebuilt = Command::new(binary)
        .args([
            "rebuild",
            "--kafka",
            &broker.bootstrap,
            "--topic",
            &topic,
            "--data",
        ])
        .arg(first.path())
        .output()
        .unwrap();
    assert!(
        rebuilt.status.success(),
        "{}",
        String::from_utf8_lossy(&rebuilt.stderr)
    );
    for (n, folder) in [first.path(), second.path()].into_iter().enumerate() {
        let server = ledger(folder, &broker, &topic, &[]);
        sends(&server);
        server.publish(&told(&format!("new-{n}"), receiver.address));
        delivered(&server, 21 + n);
        server.eventually("nothing is left", |server| {
            list(server, "state=pending").is_empty()
        });
        server.terminate();
        assert_eq!(receiver.calls().len(), 21 + n, "each once");
    }
}

#[test]
fn without_the_control_topic_a_new_store_holds_what_was_due() {
    let broker = Broker::shared();
    let topic = broker.topic(2, &[]);
    let control = format!("{topic}.control");
    let receiver = Receiver::willing();
    let folder = tempfile::tempdir().unwrap();
    let server = ledger(folder.path(), &broker, &topic, &[]);
    sends(&server);
    let events = (0..10).flat_map(|n| told(&format!("op-{n}"), receiver.address));
    server.publish(&events.collect::<Vec<_>>());
    delivered(&server, 10);

    // While it runs and across a restart, the ledger does not create a replacement.
    broker.delete(&control);
    server.eventually("the topic is missing", |server| {
        notes(server).contains("there is no topic")
    });
    server.publish(&told("late", receiver.address));
    server.terminate();
    let server = ledger(folder.path(), &broker, &topic, &[]);
    server.eventually("the topic is missing", |server| {
        notes(server).contains("which the store was folded from")
    });
    assert!(!broker.has(&control));
    broker.create(&control, 1, &[]);
    server.eventually("it is another topic", |server| {
        notes(server).contains("webhook deliveries have halted")
    });
    assert_eq!(server.get("/readyz").status, 200, "the rest continues");
    server.terminate();
    assert_eq!(receiver.calls().len(), 10);

    std::fs::remove_dir_all(folder.path().join("store")).unwrap();
    let server = ledger(folder.path(), &broker, &topic, &[]);
    server.eventually("all are held", |server| {
        list(server, "state=held").len() == 11
    });
    sends(&server);
    server.publish(&told("new", receiver.address));
    server.eventually("new ones are sent", |server| {
        state(server, "new") == "delivered"
    });
    assert_eq!(receiver.calls().len(), 11);
    assert_eq!(repair(&server, "release")["accepted"], 11);
    delivered(&server, 12);
    for n in 0..10 {
        let calls = receiver.of(&format!("op-{n}"));
        assert_eq!(calls.len(), 2);
        assert_eq!(calls[0].key(), calls[1].key());
    }
}

#[test]
fn a_delivery_that_cannot_be_recorded_is_not_sent() {
    const IN_FLIGHT: usize = 2;
    let broker = Broker::own();
    let topic = broker.topic(1, &[]);
    let open = Arc::new(AtomicBool::new(false));
    let door = open.clone();
    let receiver = Receiver::start(move |_, _| match door.load(Ordering::SeqCst) {
        true => Reply::Status(200),
        false => Reply::Status(500),
    });
    let folder = tempfile::tempdir().unwrap();
    let server = ledger(
        folder.path(),
        &broker,
        &topic,
        &[("NOTIFICATIONS__IN_FLIGHT", "2")],
    );
    sends(&server);
    let events = (0..30).flat_map(|n| told(&format!("op-{n}"), receiver.address));
    server.publish(&events.collect::<Vec<_>>());
    receiver.eventually("all were attempted", |calls| {
        (0..30).all(|n| {
            calls
                .iter()
                .any(|call| call.operation() == format!("op-{n}"))
        })
    });
    broker.kill();
    server.eventually("the ledger notices it", |server| {
        notes(server).contains("webhook deliveries are not sent now")
    });
    open.store(true, Ordering::SeqCst);
    let taken = || receiver.calls().iter().filter(|call| call.taken).count();
    assert!(taken() <= IN_FLIGHT, "{} were sent", taken());
    broker.start();
    delivered(&server, 30);
    assert_eq!(
        taken(),
        30,
        "each is sent once: a recorded delivery is not repeated"
    );
}

#[test]
fn a_control_topic_with_retention_is_refused_and_invalid_records_in_it_are_skipped() {
    let broker = Broker::shared();
    let topic = broker.topic(1, &[]);
    let control = format!("{topic}.control");
    broker.create(&control, 1, &[("cleanup.policy", "compact")]);
    let folder = tempfile::tempdir().unwrap();
    let server = ledger(folder.path(), &broker, &topic, &[]);
    server.eventually("refused", |server| {
        notes(server).contains("cleanup.policy=compact")
    });
    drop(server);

    let topic = broker.topic(1, &[]);
    let control = format!("{topic}.control");
    broker.create(&control, 1, &[]);
    broker.send(
        &control,
        &[
            Raw::value("junk"),
            Raw::default().key("a"),
            Raw::value("{}"),
        ],
    );
    let receiver = Receiver::willing();
    let folder = tempfile::tempdir().unwrap();
    let server = ledger(folder.path(), &broker, &topic, &[]);
    sends(&server);
    server.publish(&told("op", receiver.address));
    delivered(&server, 1);
    // A record of a newer version is not skipped.
    let newer = r#"{"specversion":"1.0","id":"i","source":"/opledger/control","type":"opledger.operation.removed.v1","subject":"op","time":"2024-05-06T07:08:09Z","data":{}}"#;
    broker.send(&control, &[Raw::value(newer)]);
    server.eventually("halted", |server| {
        notes(server).contains("opledger.operation.removed.v1")
    });
}
