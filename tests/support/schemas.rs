//! The schemas of `schemas/`, as validators. One may refer to another by its id.

use super::root;
use jsonschema::{Registry, Validator};
use serde_json::Value;
use std::sync::OnceLock;

pub fn text(name: &str) -> Value {
    let path = root().join(format!("schemas/{name}.schema.json"));
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

pub fn validator(schema: &Value) -> Validator {
    let event = text("event");
    let id = event["$id"].as_str().unwrap().to_owned();
    let known = Registry::new().add(id, event).unwrap().prepare().unwrap();
    let options = jsonschema::draft202012::options();
    options.with_registry(&known).build(schema).unwrap()
}

pub fn named(name: &str) -> Validator {
    validator(&text(name))
}

/// Every error response in any test is checked against it.
pub fn error_response() -> &'static Validator {
    static SHEET: OnceLock<Validator> = OnceLock::new();
    SHEET.get_or_init(|| named("error"))
}
