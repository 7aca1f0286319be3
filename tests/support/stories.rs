//! The sample operations and the real bodies, for the tests of all interfaces.

use super::root;
use super::server::Server;
use serde_json::{Value, json};
use std::collections::BTreeMap;

pub struct Story {
    pub name: String,
    pub events: Vec<Value>,
    /// The document after so many events.
    pub expected: Vec<(usize, Value)>,
}

pub fn stories() -> Vec<Story> {
    let folder = root().join("tests/scenarios");
    let mut stories = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let Some(name) = path.to_str().unwrap().strip_suffix(".events.jsonl") else {
            continue;
        };
        let lines = std::fs::read_to_string(&path).unwrap();
        let expected = std::fs::read_to_string(format!("{name}.expected.json")).unwrap();
        let expected: Vec<Value> = serde_json::from_str(&expected).unwrap();
        let step = |step: Value| {
            (
                step["after"].as_u64().unwrap() as usize,
                step["document"].clone(),
            )
        };
        stories.push(Story {
            name: name.to_owned(),
            events: lines
                .lines()
                .map(|line| serde_json::from_str(line).unwrap())
                .collect(),
            expected: expected.into_iter().map(step).collect(),
        });
    }
    assert!(stories.len() >= 12);
    stories
}

pub fn subject(events: &[Value]) -> &str {
    events[0]["subject"].as_str().unwrap()
}

/// The `(requests, responses)` of tests/bodies.
fn bodies() -> (Vec<Value>, Vec<Value>) {
    let read = |name: &str| {
        let path = root().join(format!("tests/bodies/{name}.jsonl"));
        let lines = std::fs::read_to_string(path).unwrap();
        lines
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    };
    (read("requests"), read("responses"))
}

/// For each operation, the request and the response with all its bodies.
pub type Sent = BTreeMap<String, (Value, Value)>;

/// Operations that have every body in every place for one.
pub fn body_operations() -> (Vec<Value>, Sent) {
    let (requests, responses) = bodies();
    let mut sent = Sent::new();
    let mut events = Vec::new();
    for i in 0..requests.len().max(responses.len()) {
        let id = format!("body-{i}");
        let request = &requests[i % requests.len()];
        let response = &responses[i % responses.len()];
        let request =
            json!({"uri": request["uri"], "method": request["method"], "body": request["body"]});
        let response = json!({"status_code": response["status_code"], "body": response["body"]});
        let event = |n: u32, kind: &str, data: Value| {
            json!({"specversion": "1.0", "id": format!("{id}-{n}"), "source": "/w", "subject": id,
                "type": format!("opledger.{kind}.v1"), "time": format!("2024-05-06T07:08:0{n}Z"), "data": data})
        };
        let lane = |mut data: Value| {
            data["cluster_id"] = json!("1");
            data
        };
        let asked = json!({"request": request});
        let answered = json!({"response": response});
        let both = json!({"request": request, "response": response});
        events.extend([
            event(0, "operation.created", asked.clone()),
            event(1, "cluster.request_sent", lane(asked)),
            event(2, "cluster.response_received", lane(answered.clone())),
            event(3, "rollback.attempted", lane(both)),
            event(4, "operation.failed", answered),
        ]);
        sent.insert(id, (request, response));
    }
    (events, sent)
}

#[track_caller]
pub fn check_bodies(server: &Server, token: &str, sent: &Sent) {
    for (id, (request, response)) in sent {
        let document = server.document(id, token).expect("created");
        assert_eq!(document["request"], *request);
        assert_eq!(document["response"], *response);
        for lanes in [
            &document["target_clusters"],
            &document["rollbacks"]["target_clusters"],
        ] {
            assert_eq!(lanes[0]["request"], *request);
            assert_eq!(lanes[0]["response"], *response);
        }
    }
}
