//! Clients that generators make from /openapi.json publish, read, list and wait.

use crate::support::root;
use crate::support::server::Server;
use serde_json::Value;
use std::process::Command;

fn run(server: &Server, arguments: &[&str]) -> String {
    let (what, rest) = arguments.split_first().unwrap();
    let ran = Command::new(root().join("tests/generated/run"))
        .args([what, &&*format!("http://{}", server.address)])
        .args(rest)
        .output()
        .expect("the generators are there: make setup-tests");
    let printed = String::from_utf8_lossy(&ran.stdout).into_owned();
    let errors = String::from_utf8_lossy(&ran.stderr);
    assert!(ran.status.success(), "{printed}\n{errors}");
    printed
}

/// The client's own checks pass, and its types keep every member of the document.
fn works(language: &str) {
    let server = Server::start();
    let printed = run(&server, &[language, "op"]);
    let document: Value = serde_json::from_str(printed.lines().last().unwrap()).unwrap();
    assert_eq!(document, server.get("/v1/operations/op").json());
    assert_eq!(document["rollbacks"]["result"], "completed");
}

#[test]
fn a_client_by_openapi_python_client_works() {
    works("python");
}

#[test]
fn a_client_by_openapi_typescript_works() {
    works("typescript");
}

#[test]
fn a_client_by_oapi_codegen_works() {
    works("go");
}

#[test]
fn redocly_finds_no_fault() {
    run(&Server::start(), &["lint"]);
}
