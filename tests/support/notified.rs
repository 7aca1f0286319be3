//! Operations with a receiver to notify, and what a ledger reports about them.

use super::deadline::{SOON, found_within};
use super::schemas;
use super::server::Server;
use jsonschema::Validator;
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::sync::OnceLock;

/// Retries short enough for a test.
pub const QUICK: [(&str, &str); 4] = [
    ("NOTIFICATIONS__ALLOW", "127.0.0.1"),
    ("NOTIFICATIONS__TIMEOUT", "10s"),
    ("NOTIFICATIONS__RETRY_MIN", "20ms"),
    ("NOTIFICATIONS__RETRY_MAX", "200ms"),
];

/// The same with some settings changed or added.
pub fn quick<'a>(other: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
    let mut settings = QUICK.to_vec();
    settings.retain(|(name, _)| other.iter().all(|(other, _)| other != name));
    settings.extend_from_slice(other);
    settings
}

fn event(id: &str, n: usize, kind: &str, data: Value) -> Value {
    json!({"specversion": "1.0", "id": format!("e{n}"), "source": "/w", "subject": id,
        "type": format!("opledger.operation.{kind}.v1"), "time": format!("2024-05-06T07:08:{n:02}Z"),
        "data": data})
}

pub fn created_for(id: &str, address: &str, port: u16) -> Value {
    let request = json!({"uri": "/x", "method": "PUT", "body": "{\"a\": \"b\"}"});
    let notification = json!({"address": address, "port": port});
    event(
        id,
        1,
        "created",
        json!({"request": request, "notification": notification}),
    )
}

/// Its terminal event is at second `n` of the minute.
pub fn ended(id: &str, n: usize, how: &str) -> Value {
    let data = match how {
        "canceled" => json!({}),
        _ => json!({"response": {"status_code": 200, "body": format!("{how} at {n}")}}),
    };
    event(id, n, how, data)
}

/// An operation that was created and completed.
pub fn told(id: &str, to: SocketAddr) -> Vec<Value> {
    let created = created_for(id, &to.ip().to_string(), to.port());
    vec![created, ended(id, 30, "completed")]
}

/// Every list in any test is checked against it.
fn schema() -> &'static Validator {
    static SCHEMA: OnceLock<Validator> = OnceLock::new();
    SCHEMA.get_or_init(|| schemas::named("notifications"))
}

/// All pages of the list.
pub fn list(server: &Server, query: &str) -> Vec<Value> {
    let mut path = format!("/v1/notifications?{query}");
    let mut all = Vec::new();
    loop {
        let answer = server.get(&path);
        assert_eq!(
            answer.status,
            200,
            "{}",
            String::from_utf8_lossy(&answer.body)
        );
        let page = answer.json();
        assert!(schema().is_valid(&page), "{page}");
        all.extend(page["notifications"].as_array().unwrap().clone());
        let Some(link) = answer.headers.get("link") else {
            return all;
        };
        let link = link.to_str().unwrap();
        path = link[1..link.find('>').unwrap()].to_owned();
    }
}

pub fn state(server: &Server, id: &str) -> String {
    let found = list(server, &format!("operation_id={id}"));
    match found.last() {
        Some(entry) => entry["state"].as_str().unwrap().to_owned(),
        None => "none".into(),
    }
}

pub fn notes(server: &Server) -> String {
    server.get("/readyz").json()["notes"].to_string()
}

/// Requests a repair, of one operation or of all.
pub fn repair(server: &Server, path: &str) -> Value {
    let answer = server.client().post(
        &format!("/v1/notifications/{path}"),
        &[("content-type", "application/json")],
        json!({"who": "a test", "why": "to see"}).to_string(),
    );
    assert_eq!(
        answer.status,
        202,
        "{}",
        String::from_utf8_lossy(&answer.body)
    );
    answer.json()
}

#[track_caller]
pub fn delivered(server: &Server, id: &str) {
    let mut last = Value::Null;
    let found = found_within(SOON, || {
        last = list(server, &format!("operation_id={id}")).pop()?;
        (last["state"] == "delivered").then_some(())
    });
    found.unwrap_or_else(|| panic!("{id} is not delivered within {SOON:?}: {last}"));
}

/// Waits until this many are delivered.
#[track_caller]
pub fn delivered_all(server: &Server, count: usize) {
    let mut all = Vec::new();
    let found = found_within(SOON, || {
        all = list(server, "limit=1000");
        let delivered = all.iter().filter(|entry| entry["state"] == "delivered");
        (delivered.count() == count).then_some(())
    });
    found.unwrap_or_else(|| {
        all.retain(|entry| entry["state"] != "delivered");
        let rest: Vec<_> = all.iter().take(5).map(Value::to_string).collect();
        panic!("{count} are not delivered within {SOON:?}; others: {rest:#?}")
    });
}
