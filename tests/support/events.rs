//! Small events, valid and invalid.

use serde_json::{Value, json};

pub fn created(id: &str) -> Value {
    json!({"specversion": "1.0", "id": "e1", "source": "/w", "subject": id,
        "type": "opledger.operation.created.v1", "time": "2024-05-06T07:08:09Z",
        "data": {"request": {"uri": "/x", "method": "PUT"}}})
}

pub fn completed(id: &str) -> Value {
    json!({"specversion": "1.0", "id": "e2", "source": "/w", "subject": id,
        "type": "opledger.operation.completed.v1", "time": "2024-05-06T07:08:09Z",
        "data": {"response": {"status_code": 200}}})
}

/// Invalid events, each with its dead-letter reason.
pub fn broken() -> [(&'static str, Value); 3] {
    let mut unknown = created("x");
    unknown["type"] = json!("opledger.operation.paused.v1");
    let mut value = created("x");
    value["data"]["request"]["method"] = json!("GET");
    let mut range = created("x");
    range["id"] = json!("");
    [
        ("unknown_type", unknown),
        ("invalid_value", value),
        ("out_of_range", range),
    ]
}

/// An event of exactly this many bytes, which no codec compresses much.
pub fn sized(id: &str, bytes: usize) -> String {
    let mut event = created(id);
    event["data"]["request"]["body"] = json!("");
    let missing = bytes - event.to_string().len();
    let mut rng = super::generate::Rng::new(bytes as u64);
    let letter = |_| char::from(b"abcdefghijklmnopqrstuvwxyz012345"[rng.below(32)]);
    let body: String = (0..missing).map(letter).collect();
    event["data"]["request"]["body"] = json!(body);
    let text = event.to_string();
    assert_eq!(text.len(), bytes);
    text
}
