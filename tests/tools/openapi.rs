//! /openapi.json describes the interface correctly: it is compared with the router, with the
//! strict schemas and, by schemathesis, with real responses.

use crate::support::generate::{self, Rng};
use crate::support::root;
use crate::support::schemas;
use crate::support::server::Server;
use crate::support::soak;
use crate::support::stories::{stories, subject};
use opledger::domain::{Operation, OperationId};
use opledger::wire::cloudevent::decode_structured;
use opledger::wire::document::{Bodies, bytes};
use opledger::wire::time::TimeStyle;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::process::Command;

/// Routes for browsers only.
const PAGES: &[&str] = &["/", "/ui/{file}", "/docs"];

#[test]
fn every_route_is_described_and_nothing_else() {
    let source = std::fs::read_to_string(root().join("src/http/mod.rs")).unwrap();
    // `.route("/path", get(a::b).post(c))`, in any layout.
    let mut routed = BTreeSet::new();
    for call in source.split(".route(").skip(1) {
        let (_, rest) = call.split_once('"').unwrap();
        let (path, handlers) = rest.split_once('"').unwrap();
        let handlers = handlers.split(".route(").next().unwrap();
        for method in ["get", "post", "put", "delete", "patch"] {
            if handlers.contains(&format!("{method}(")) && !PAGES.contains(&path) {
                routed.insert((path.to_owned(), method.to_owned()));
            }
        }
    }
    assert!(routed.len() > 8, "{routed:?}");
    let server = Server::start();
    let api = server.get("/openapi.json").json();
    let mut described = BTreeSet::new();
    for (path, methods) in api["paths"].as_object().unwrap() {
        for method in methods.as_object().unwrap().keys() {
            described.insert((path.clone(), method.clone()));
        }
    }
    assert_eq!(described, routed, "src/http/openapi/routes.rs lists them");
}

/// Converts a schema of OpenAPI 3.0 to JSON Schema.
fn widened(schema: &Value) -> Value {
    match schema {
        Value::Array(all) => all.iter().map(widened).collect(),
        Value::Object(members) => {
            let inner = members
                .iter()
                .map(|(name, inner)| (name.clone(), widened(inner)));
            let mut schema: serde_json::Map<String, Value> = inner.collect();
            match schema.remove("nullable") {
                Some(nullable) if schema.contains_key("type") => {
                    assert_eq!(nullable, true);
                    json!({"anyOf": [schema, {"type": "null"}]})
                }
                _ => schema.into(),
            }
        }
        other => other.clone(),
    }
}

/// The schema of a component in the reference.
fn plain(api: &Value, name: &str) -> jsonschema::Validator {
    let schema = json!({"$ref": format!("#/components/schemas/{name}"),
        "components": widened(&api["components"])});
    jsonschema::draft202012::new(&schema).unwrap()
}

#[track_caller]
fn takes(validator: &jsonschema::Validator, value: &Value) {
    let faults: Vec<String> = validator
        .iter_errors(value)
        .map(|e| e.to_string())
        .collect();
    assert!(faults.is_empty(), "{value}: {faults:?}");
}

#[test]
fn every_schema_is_plain() {
    let server = Server::start();
    let api = server.get("/openapi.json").json();
    assert_eq!(api["openapi"], "3.0.3");
    fn look(path: &str, schema: &Value) {
        match schema {
            Value::Array(all) => all.iter().for_each(|inner| look(path, inner)),
            Value::Object(members) => {
                for keyword in ["if", "then", "else", "not", "const", "anyOf", "examples"] {
                    let is_member = path.ends_with("/properties");
                    assert!(
                        is_member || !members.contains_key(keyword),
                        "{keyword} in {path}"
                    );
                }
                let refers = members.contains_key("$ref");
                assert!(
                    !refers || members.len() == 1,
                    "$ref beside others in {path}"
                );
                if members.contains_key("allOf") && !path.ends_with("/properties") {
                    assert_eq!(members["type"], "object", "{path}");
                }
                for (name, inner) in members {
                    if name != "example" && name != "default" {
                        look(&format!("{path}/{name}"), inner);
                    }
                }
            }
            _ => {}
        }
    }
    look("", &api["components"]["schemas"]);
    look("", &api["paths"]);
    // Readers of the reference do not have the ledger's internal documents.
    let text = api.to_string();
    for word in ["rule D", ".md", "schema.json"] {
        assert!(!text.contains(word), "{word}");
    }
}

#[test]
fn the_plain_schemas_take_what_the_strict_ones_take() {
    let server = Server::start();
    let api = server.get("/openapi.json").json();
    let event = plain(&api, "Event");
    let received = plain(&api, "ReceivedEvent");
    let document = plain(&api, "OperationDocument");
    let summary = plain(&api, "OperationSummary");
    let strict_event = schemas::named("event");
    let strict_document = schemas::named("operation-document");
    let both = |one: &Value| {
        takes(&strict_event, one);
        takes(&event, one);
        takes(&received, one);
    };
    let shown = |op: &Operation, bodies| {
        let bytes = bytes(OperationId("op-1"), op, bodies, &TimeStyle::default())?;
        Some(serde_json::from_slice::<Value>(&bytes).unwrap())
    };
    let mut documents = 0;
    let mut fold = |events: &[Value]| {
        let texts: Vec<String> = events.iter().map(Value::to_string).collect();
        let mut op = Operation::default();
        for (one, text) in events.iter().zip(&texts) {
            both(one);
            op.absorb(decode_structured(text.as_bytes()).unwrap());
            if let Some(whole) = shown(&op, Bodies::Shown) {
                takes(&strict_document, &whole);
                takes(&document, &whole);
                takes(&summary, &shown(&op, Bodies::LeftOut).unwrap());
                documents += 1;
            }
        }
    };
    for story in stories() {
        fold(&story.events);
    }
    let mut rng = Rng::new(37);
    for _ in 0..300 {
        let size = rng.below(20);
        fold(&generate::operation(&mut rng, "op-1", size));
    }
    assert!(documents > 1000, "{documents}");
    // The event types are those of the strict schema.
    let types = &api["components"]["schemas"]["Event"]["discriminator"]["mapping"];
    let types: BTreeSet<&String> = types.as_object().unwrap().keys().collect();
    let strict = schemas::text("event");
    let known = strict["properties"]["type"]["enum"].as_array().unwrap();
    let known = known.iter().map(|name| name.as_str().unwrap());
    assert!(
        types
            .iter()
            .map(|name| name.as_str())
            .eq(BTreeSet::from_iter(known))
    );
    for (component, file, path) in [
        ("Error", "error", "/properties/error_code/enum"),
        ("Error", "error", "/properties/data_consistency/enum"),
        ("DeadLetter", "dead-letters", "/properties/reason/enum"),
        ("Notification", "notifications", "/properties/state/enum"),
    ] {
        let strict = schemas::text(file);
        let strict = match strict.pointer(path) {
            Some(found) => found,
            None => {
                let name = file.trim_end_matches('s').replace('-', "_");
                strict["$defs"][name].pointer(path).unwrap()
            }
        };
        let plain = api["components"]["schemas"][component].pointer(path);
        assert_eq!(plain, Some(strict), "{component}{path}");
    }
}

/// Each member of a strict schema is in the plain one as well.
#[test]
fn the_plain_schemas_have_the_members_of_the_strict_ones() {
    let server = Server::start();
    let api = server.get("/openapi.json").json();
    for (component, file, place) in [
        ("OperationDocument", "operation-document", ""),
        ("OperationRequest", "operation-document", "/$defs/request"),
        (
            "OperationResponse",
            "operation-document",
            "/$defs/operation_response",
        ),
        (
            "ClusterResponse",
            "operation-document",
            "/$defs/cluster_response",
        ),
        (
            "TargetCluster",
            "operation-document",
            "/$defs/target_cluster",
        ),
        ("Rollbacks", "operation-document", "/$defs/rollbacks"),
        (
            "OperationSummary",
            "operation-document",
            "/$defs/operation_summary",
        ),
        (
            "TargetClusterSummary",
            "operation-document",
            "/$defs/target_cluster_summary",
        ),
        (
            "RollbacksSummary",
            "operation-document",
            "/$defs/rollbacks_summary",
        ),
        ("OperationIdList", "operation-document", "/$defs/id_list"),
        (
            "OperationDetailList",
            "operation-document",
            "/$defs/detail_list",
        ),
        ("Accepted", "accepted", ""),
        ("History", "history", ""),
        ("HistoryEntry", "history", "/$defs/entry"),
        ("DeadLetters", "dead-letters", ""),
        ("DeadLetter", "dead-letters", "/$defs/dead_letter"),
        ("Notifications", "notifications", ""),
        ("Notification", "notifications", "/$defs/notification"),
        ("Error", "error", ""),
        ("EventRequest", "event", "/$defs/request"),
        ("LaneResponse", "event", "/$defs/response"),
        ("EndResponse", "event", "/$defs/outcome"),
        ("Receiver", "event", "/$defs/notification"),
    ] {
        let strict = schemas::text(file);
        let strict = strict.pointer(place).unwrap();
        let plain = &api["components"]["schemas"][component];
        let members = |schema: &Value| -> BTreeSet<String> {
            schema["properties"]
                .as_object()
                .unwrap()
                .keys()
                .cloned()
                .collect()
        };
        assert_eq!(members(plain), members(strict), "{component}");
        let required = |schema: &Value| -> BTreeSet<String> {
            let names = schema["required"].as_array().into_iter().flatten();
            names
                .map(|name| name.as_str().unwrap().to_owned())
                .collect()
        };
        assert!(required(plain).is_subset(&required(strict)), "{component}");
    }
}

#[test]
fn examples_keep_their_schemas() {
    let server = Server::start();
    let api = server.get("/openapi.json").json();
    let mut checked = 0;
    let mut check = |content: &Value| {
        for (media, content) in content.as_object().unwrap() {
            let Some(example) = content.get("example") else {
                continue;
            };
            let mut schema = content["schema"].clone();
            schema["components"] = widened(&api["components"]);
            let validator = jsonschema::draft202012::new(&schema).unwrap();
            let faults: Vec<_> = validator
                .iter_errors(example)
                .map(|e| e.to_string())
                .collect();
            assert!(faults.is_empty(), "{media}: {faults:?}");
            checked += 1;
        }
    };
    for methods in api["paths"].as_object().unwrap().values() {
        for route in methods.as_object().unwrap().values() {
            if let Some(body) = route.get("requestBody") {
                check(&body["content"]);
            }
            for answer in route["responses"].as_object().unwrap().values() {
                if let Some(content) = answer.get("content") {
                    check(content);
                }
            }
        }
    }
    assert!(checked >= 7, "{checked}");
}

/// With all checks of schemathesis; tests/openapi/schemathesis.toml configures them.
#[test]
fn schemathesis_finds_nothing() {
    let server = Server::with(&[
        ("SERVER__DEFAULT_WAIT", "200ms"),
        ("SERVER__MAX_WAIT", "200ms"),
        // The sample operations name receivers that must not be called.
        ("NOTIFICATIONS__ALLOW", "127.0.0.0/8"),
    ]);
    let mut ids = Vec::new();
    for story in stories() {
        server.publish(&story.events);
        ids.push(subject(&story.events).to_owned());
    }
    let token = server.publish(&stories()[0].events);
    let known = json!({"operations": ids, "position": token});
    let examples = if soak() { "1000" } else { "60" };
    let ran = Command::new(root().join("tests/openapi/run"))
        .args([&format!("http://{}", server.address), examples])
        .env("KNOWN", known.to_string())
        .output()
        .expect("schemathesis runs: make setup-tests");
    let told = String::from_utf8_lossy(&ran.stdout);
    let errors = String::from_utf8_lossy(&ran.stderr);
    assert!(ran.status.success(), "{told}\n{errors}");
}
