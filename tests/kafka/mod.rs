//! The ledger on a real Kafka broker. Its tests share one.

mod changed_log;
mod command_line;
mod crash;
mod forms;
mod identity;
mod main_job;
mod notifications;
mod positions;
mod sizes;
mod surroundings;

use crate::support::broker::Broker;
use crate::support::server::Server;

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
