//! The ledger on a real Kafka broker. One binary, so that its tests share a broker.

mod command_line;
mod crash;
mod identity;
mod main_job;
#[path = "../support/mod.rs"]
mod support;
mod surroundings;

use serde_json::{Value, json};
use support::broker::Broker;
use support::server::Server;

fn created(id: &str) -> Value {
    json!({"specversion": "1.0", "id": "e1", "source": "/w", "subject": id,
        "type": "opledger.operation.created.v1", "time": "2024-05-06T07:08:09Z",
        "data": {"request": {"uri": "/x", "method": "PUT"}}})
}

fn ledger(broker: &Broker, topic: &str) -> Server {
    Server::with(&[
        ("KAFKA__BOOTSTRAP", &broker.bootstrap),
        ("KAFKA__TOPIC", topic),
    ])
}

/// What the topic is called in positions.
fn log_of(server: &Server) -> String {
    server.eventually("it knows its log", |server| {
        server.get("/version").json()["log"].is_string()
    });
    let version = server.get("/version").json();
    version["log"].as_str().unwrap().to_owned()
}
