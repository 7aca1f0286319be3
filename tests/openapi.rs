//! The interface is what it says of itself: /openapi.json against the schema of
//! OpenAPI 3.1, against the router, and, by schemathesis, against what is answered.

mod support;

use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::process::Command;
use support::server::Server;
use support::stories::{stories, subject};

/// Routes that are for browsers.
const PAGES: &[&str] = &["/", "/ui/{file}", "/docs"];

#[test]
fn every_route_is_described_and_nothing_else() {
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/src/http/mod.rs");
    let source = std::fs::read_to_string(source).unwrap();
    // `.route("/path", get(a::b).post(c))`, however it is laid out.
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
    assert_eq!(described, routed, "src/http/openapi/routes.rs is the table");
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
            schema["components"] = api["components"].clone();
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

/// With all its checks; see tests/openapi/schemathesis.toml for what it is told.
#[test]
fn schemathesis_finds_nothing() {
    let server = Server::with(&[
        ("SERVER__DEFAULT_WAIT", "200ms"),
        ("SERVER__MAX_WAIT", "200ms"),
        // The stories name receivers that nobody is allowed to call.
        ("NOTIFICATIONS__ALLOW", "127.0.0.0/8"),
    ]);
    let mut ids = Vec::new();
    for story in stories() {
        server.publish(&story.events);
        ids.push(subject(&story.events).to_owned());
    }
    let token = server.publish(&stories()[0].events);
    let known = json!({"operations": ids, "position": token});
    let run = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/openapi/run");
    let examples = if support::soak() { "1000" } else { "60" };
    let ran = Command::new(run)
        .args([&format!("http://{}", server.address), examples])
        .env("KNOWN", known.to_string())
        .output()
        .expect("schemathesis runs: make setup-tests");
    let told = String::from_utf8_lossy(&ran.stdout);
    let errors = String::from_utf8_lossy(&ran.stderr);
    assert!(ran.status.success(), "{told}\n{errors}");
}
