//! Events of operations with known places in lists: the nth was created at the nth millisecond.

use serde_json::{Value, json};

pub fn event(operation: &str, kind: &str, n: usize, data: Value) -> Value {
    json!({"specversion": "1.0", "id": format!("{kind}-{n}"), "source": "/w", "subject": operation,
        "type": format!("opledger.{kind}.v1"), "data": data,
        "time": format!("2024-05-{:02}T{:02}:{:02}:{:02}.{:03}Z", 1 + n / 86_400_000 % 28,
            n / 3_600_000 % 24, n / 60_000 % 60, n / 1000 % 60, n % 1000)})
}

pub fn created(operation: &str, n: usize, uri: &str) -> Value {
    let data = json!({"request": {"uri": uri, "method": "PUT"}});
    event(operation, "operation.created", n, data)
}
