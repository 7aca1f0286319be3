//! The schemas of the API in a plain form that client generators can read:
//! `components.json`, and one event schema for each type. Stricter rules, such as which
//! members each status has, are in `schemas/`; a test compares the two.

use serde_json::{Map, Value, json};

const PLAIN: &str = include_str!("components.json");

/// Each type of event without its prefix and version, and whether data is required. The schema of
/// the data has the name of the event's schema followed by `Data`.
const EVENTS: &[(&str, bool)] = &[
    ("operation.created", true),
    ("operation.started", false),
    ("operation.progressed", false),
    ("operation.completed", true),
    ("operation.failed", true),
    ("operation.canceled", false),
    ("cluster.request_sent", true),
    ("cluster.response_received", true),
    ("rollback.attempted", true),
    ("rollback.response_received", true),
];

/// The name of its schema: `cluster.request_sent` is `ClusterRequestSent`.
fn name(kind: &str) -> String {
    let words = kind.split(['.', '_']);
    let words = words.map(|word| word[..1].to_uppercase() + &word[1..]);
    words.collect()
}

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
    let mut events = Vec::new();
    for (kind, needs_data) in EVENTS {
        let (name, kind) = (name(kind), format!("opledger.{kind}.v1"));
        all.insert(name.clone(), event(&name, &kind, *needs_data));
        events.push(reference(&name));
        types.insert(kind, path(&name).into());
    }
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
