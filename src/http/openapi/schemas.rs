//! The schemas of `schemas/` as components of one document: their `$defs` become
//! components beside them, since tools do not agree on what a `$ref` inside an
//! embedded schema is relative to.

use serde_json::{Map, Value, json};

/// The files, and the names that they have here.
const FILES: &[(&str, &str)] = &[
    (
        "operation-document",
        include_str!("../../../schemas/operation-document.schema.json"),
    ),
    ("event", include_str!("../../../schemas/event.schema.json")),
    (
        "accepted",
        include_str!("../../../schemas/accepted.schema.json"),
    ),
    (
        "history",
        include_str!("../../../schemas/history.schema.json"),
    ),
    (
        "dead-letters",
        include_str!("../../../schemas/dead-letters.schema.json"),
    ),
    (
        "notifications",
        include_str!("../../../schemas/notifications.schema.json"),
    ),
    ("error", include_str!("../../../schemas/error.schema.json")),
];

pub fn reference(name: &str) -> Value {
    match name {
        "text" => json!({"type": "string"}),
        "object" => json!({"type": "object"}),
        name => json!({"$ref": format!("#/components/schemas/{name}")}),
    }
}

pub fn components() -> Value {
    let mut all = own();
    for (name, text) in FILES {
        let mut schema: Value = serde_json::from_str(text).expect("a schema is JSON");
        let object = schema.as_object_mut().expect("a schema is an object");
        let within = object.remove("$defs");
        object.remove("$schema");
        object.remove("$id");
        relocate(&mut schema, name);
        all.insert((*name).to_owned(), schema);
        for (def, mut schema) in within
            .as_ref()
            .and_then(Value::as_object)
            .cloned()
            .unwrap_or_default()
        {
            relocate(&mut schema, name);
            all.insert(format!("{name}.{def}"), schema);
        }
    }
    all["event"]["properties"]["time"]["format"] = json!("date-time");
    all["event"]["properties"]["source"]["format"] = json!("uri-reference");
    Value::Object(all)
}

/// Points what points into the file into the components.
fn relocate(schema: &mut Value, file: &str) {
    match schema {
        Value::Object(members) => {
            if let Some(Value::String(target)) = members.get_mut("$ref") {
                if let Some(def) = target.strip_prefix("#/$defs/") {
                    *target = format!("#/components/schemas/{file}.{def}");
                } else if let Some(other) = target.strip_prefix("urn:opledger:schema:") {
                    *target = format!("#/components/schemas/{other}");
                }
            }
            members.values_mut().for_each(|value| relocate(value, file));
        }
        Value::Array(items) => items.iter_mut().for_each(|value| relocate(value, file)),
        _ => {}
    }
}

/// What has no file of its own.
fn own() -> Map<String, Value> {
    let document =
        |def: &str| json!({"$ref": format!("#/components/schemas/operation-document.{def}")});
    let texts = json!({"type": "array", "items": {"type": "string"}});
    let count = json!({"type": "integer", "minimum": 0});
    let offsets = json!({
        "description": "By partition.",
        "type": "object",
        "additionalProperties": count,
    });
    let all = json!({
        "events": {"type": "array", "items": {"$ref": "#/components/schemas/event"}},
        "operation-list": {"oneOf": [document("id_list"), document("detail_list")]},
        "reasons": {
            "description": "Kept with what was asked for.",
            "type": "object",
            "properties": {
                "who": {"type": "string", "maxLength": 1024},
                "why": {"type": "string", "maxLength": 1024},
            },
        },
        "noted": {
            "type": "object",
            "required": ["accepted"],
            "properties": {
                "accepted": {"description": "Notifications.", "type": "integer", "minimum": 0},
                "more": {"description": "There are more: ask again.", "const": true},
            },
        },
        "liveness": {
            "type": "object",
            "required": ["status"],
            "properties": {"status": {"const": "alive"}},
        },
        "readiness": {
            "type": "object",
            "required": ["status", "reasons", "notes"],
            "properties": {
                "status": {"enum": ["ready", "not ready"]},
                "reasons": texts,
                "notes": texts,
            },
        },
        "version": {
            "type": "object",
            "required": ["name", "version", "log", "store_format", "fold_version"],
            "properties": {
                "name": {"const": "opledger"},
                "version": {"type": "string"},
                "log": {"type": ["string", "null"]},
                "store_format": {},
                "fold_version": {},
            },
        },
        "projector": {
            "type": "object",
            "required": ["version", "log", "state", "reasons", "notes", "partitions", "time_offset", "every", "moments"],
            "properties": {
                "version": {"type": "string"},
                "log": {"type": ["string", "null"]},
                "state": {"enum": ["starting", "running", "waiting", "halted", "stopped"]},
                "why": {"type": "string"},
                "reasons": texts,
                "notes": texts,
                "operations": {
                    "description": "By status; left out until they have been counted.",
                    "type": "object",
                    "additionalProperties": count,
                },
                "partitions": {"type": "array", "items": {
                    "type": "object",
                    "required": ["partition", "first", "end", "next", "lag"],
                    "properties": {
                        "partition": count,
                        "first": count,
                        "end": count,
                        "next": count,
                        "lag": count,
                    },
                }},
                "time_offset": {"type": "integer"},
                "every": count,
                "moments": {"type": "array", "items": {
                    "type": "object",
                    "required": ["at", "end", "next"],
                    "properties": {"at": count, "end": offsets, "next": offsets},
                }},
            },
        },
    });
    match all {
        Value::Object(all) => all,
        _ => Map::new(),
    }
}
