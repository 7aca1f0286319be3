//! The ledger on a real Kafka broker. Its tests share one.

mod changed_log;
mod command_line;
mod crash;
mod forms;
mod identity;
mod main_job;
mod notifications;
mod positions;
mod readers;
mod sizes;
mod surroundings;

use crate::support::broker::Broker;
use crate::support::server::Server;
use opledger::event_log::kafka::KafkaSettings;
use std::collections::BTreeMap;
use std::time::Duration;

fn ledger(broker: &Broker, topic: &str) -> Server {
    Server::with(&[
        ("KAFKA__BOOTSTRAP", &broker.bootstrap),
        ("KAFKA__TOPIC", topic),
    ])
}

/// The log's id as positions name it.
fn log_of(server: &Server) -> String {
    server.eventually("it knows its log", |server| {
        server.get("/version").json()["log"].is_string()
    });
    let version = server.get("/version").json();
    version["log"].as_str().unwrap().to_owned()
}

fn settings(broker: &Broker, topic: &str) -> KafkaSettings {
    KafkaSettings {
        bootstrap: broker.bootstrap.clone(),
        topic: topic.into(),
        create: None,
        is_known: false,
        is_control: false,
        group: "opledger".into(),
        options: BTreeMap::new(),
        producer: BTreeMap::new(),
        consumer: BTreeMap::new(),
        max_waiting: 64 << 20,
        publish_timeout: Duration::from_secs(30),
        max_event: 4 << 20,
        fetch_ahead: 32 << 20,
    }
}
