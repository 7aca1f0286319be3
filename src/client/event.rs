//! An event to publish. It has its id from the beginning, so that sending it again is harmless.

use crate::clock;
use crate::wire::time::write_rfc3339_nanos;
use serde_json::{Value, json};

#[derive(Debug, Clone, PartialEq)]
pub struct Event(Value);

impl Event {
    /// An event with the present time. `kind` is the type without its prefix and version, such
    /// as `cluster.request_sent`; `source` identifies the producer, as a URI reference.
    pub fn new(source: &str, operation_id: &str, kind: &str, data: Value) -> Event {
        let mut time = Vec::new();
        write_rfc3339_nanos(clock::now(), &mut time);
        Event(json!({
            "specversion": "1.0",
            "id": uuid::Uuid::new_v4().to_string(),
            "source": source,
            "type": format!("opledger.{kind}.v1"),
            "subject": operation_id,
            "time": String::from_utf8_lossy(&time),
            "datacontenttype": "application/json",
            "data": data,
        }))
    }

    /// Sets the id. An event with the same id, source and time is the same event to the ledger.
    pub fn id(mut self, id: &str) -> Event {
        self.0["id"] = json!(id);
        self
    }

    /// Sets the time, in RFC 3339.
    pub fn time(mut self, time: &str) -> Event {
        self.0["time"] = json!(time);
        self
    }

    /// Sets an extension attribute, such as `traceparent`.
    pub fn extension(mut self, name: &str, value: &str) -> Event {
        self.0[name] = json!(value);
        self
    }

    pub(super) fn bytes(&self) -> Vec<u8> {
        self.0.to_string().into_bytes()
    }
}
