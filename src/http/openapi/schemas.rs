//! The schemas of the API in a plain form that client generators can read:
//! `components.json`, and one event schema for each type. Stricter rules, such as which
//! members each status has, are in `schemas/`; a test compares the two.

use serde_json::{Map, Value, json};

const PLAIN: &str = include_str!("components.json");

/// For each event: the schema's name, the event type, and whether data is required. The
/// schema of the data has the same name followed by `Data`.
const EVENTS: &[(&str, &str, bool)] = &[
    ("OperationCreated", "opledger.operation.created.v1", true),
    ("OperationStarted", "opledger.operation.started.v1", false),
    (
        "OperationProgressed",
        "opledger.operation.progressed.v1",
        false,
    ),
    (
        "OperationCompleted",
        "opledger.operation.completed.v1",
        true,
    ),
    ("OperationFailed", "opledger.operation.failed.v1", true),
    ("OperationCanceled", "opledger.operation.canceled.v1", false),
    (
        "ClusterRequestSent",
        "opledger.cluster.request_sent.v1",
        true,
    ),
    (
        "ClusterResponseReceived",
        "opledger.cluster.response_received.v1",
        true,
    ),
    ("RollbackAttempted", "opledger.rollback.attempted.v1", true),
    (
        "RollbackResponseReceived",
        "opledger.rollback.response_received.v1",
        true,
    ),
];

pub fn reference(name: &str) -> Value {
    match name {
        "text" => json!({"type": "string"}),
        "object" => json!({"type": "object"}),
        name => json!({"$ref": path(name)}),
    }
}

fn path(name: &str) -> String {
    format!("#/components/schemas/{name}")
}

pub fn components() -> Value {
    let mut all: Map<String, Value> = serde_json::from_str(PLAIN).expect("it is JSON");
    let mut types = Map::new();
    for (name, kind, needs_data) in EVENTS {
        all.insert((*name).to_owned(), event(name, kind, *needs_data));
        types.insert((*kind).to_owned(), path(name).into());
    }
    let events: Vec<Value> = EVENTS.iter().map(|(name, _, _)| reference(name)).collect();
    all.insert(
        "Event".into(),
        json!({
            "description": "A CloudEvent in structured mode: what happened to an operation. \
                Instead of `data` it may have `data_base64`, the same JSON in base64, as some \
                SDKs write it.",
            "oneOf": events,
            "discriminator": {"propertyName": "type", "mapping": types},
        }),
    );
    Value::Object(all)
}

fn event(name: &str, kind: &str, needs_data: bool) -> Value {
    let mut required = vec!["specversion", "id", "source", "type", "subject", "time"];
    let data = format!("{name}Data");
    let data = match needs_data {
        true => reference(&data),
        false => json!({"type": "object", "nullable": true, "allOf": [reference(&data)]}),
    };
    if needs_data {
        required.push("data");
    }
    json!({
        "type": "object",
        "required": required,
        "properties": {
            "specversion": {"type": "string", "enum": ["1.0"], "default": "1.0"},
            "id": {"type": "string", "minLength": 1, "maxLength": 256},
            "source": {
                "description": "A URI reference that identifies the worker.",
                "type": "string",
                "format": "uri-reference",
                "minLength": 1,
                "maxLength": 1024,
            },
            "type": {"type": "string", "enum": [kind], "default": kind},
            "subject": reference("OperationId"),
            "time": {
                "description": "When it happened.",
                "type": "string",
                "format": "date-time",
            },
            "datacontenttype": {
                "description": "`application/json`, if present.",
                "type": "string",
                "nullable": true,
                "pattern": r"^\s*[Aa][Pp][Pp][Ll][Ii][Cc][Aa][Tt][Ii][Oo][Nn]/[Jj][Ss][Oo][Nn]\s*(;.*)?$",
            },
            "data": data,
        },
        // Extension attributes.
        "additionalProperties": true,
    })
}
