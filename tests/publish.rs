//! `opledger publish` against a real ledger: interrupted and taken up again, and
//! never at the expense of an event that the ledger does not have.

mod support;

use serde_json::json;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};
use support::server::Server;

const EVENTS: usize = 3_000;

/// A file of events of one operation.
fn file(folder: &Path) -> PathBuf {
    let lines: String = (0..EVENTS)
        .map(|n| {
            let event = json!({"specversion": "1.0", "id": format!("{n}"), "source": "/w",
                "subject": "op", "type": "opledger.operation.progressed.v1",
                "time": "2024-05-06T07:08:09Z", "data": {"sub_status": "x".repeat(300)}});
            format!("{event}\n")
        })
        .collect();
    let path = folder.join("events.jsonl");
    std::fs::write(&path, lines).unwrap();
    path
}

fn publish(server: &Server, file: &Path, arguments: &[&str]) -> Child {
    Command::new(env!("CARGO_BIN_EXE_opledger"))
        .args(["publish", "--json", "--wait", "--url"])
        .arg(format!("http://{}", server.address))
        .args(arguments)
        .arg(file)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

fn note(file: &Path) -> PathBuf {
    PathBuf::from(format!("{}.opledger-resume", file.display()))
}

/// Interrupts a slow run once it has noted something.
fn interrupt_in_the_middle(server: &Server, file: &Path) -> u64 {
    let run = publish(server, file, &["--batch", "1", "--in-flight", "1"]);
    let until = Instant::now() + Duration::from_secs(60);
    while !note(file).exists() {
        assert!(Instant::now() < until, "nothing was noted");
        std::thread::sleep(Duration::from_millis(5));
    }
    let pid = rustix::process::Pid::from_child(&run);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    let ended = run.wait_with_output().unwrap();
    assert_eq!(
        ended.status.code(),
        Some(130),
        "{}",
        String::from_utf8_lossy(&ended.stderr)
    );
    let note: serde_json::Value =
        serde_json::from_slice(&std::fs::read(note(file)).unwrap()).unwrap();
    note["acknowledged_lines"].as_u64().unwrap()
}

#[track_caller]
fn accepted(ended: &Output) -> u64 {
    assert!(
        ended.status.success(),
        "{}",
        String::from_utf8_lossy(&ended.stderr)
    );
    let outcome: serde_json::Value = serde_json::from_slice(&ended.stdout).unwrap();
    outcome["accepted"].as_u64().unwrap()
}

fn held(server: &Server) -> usize {
    let history = server.get("/v1/operations/op/events").json();
    history["events"].as_array().unwrap().len()
}

#[test]
fn an_interrupted_run_is_taken_up_and_nothing_is_missing() {
    let folder = tempfile::tempdir().unwrap();
    let file = file(folder.path());
    let server = Server::start();
    let noted = interrupt_in_the_middle(&server, &file);
    assert!(noted > 0 && noted < EVENTS as u64, "in the middle: {noted}");
    let ended = publish(&server, &file, &[]).wait_with_output().unwrap();
    assert_eq!(accepted(&ended), EVENTS as u64 - noted);
    assert_eq!(held(&server), EVENTS);
    assert!(!note(&file).exists(), "a finished run leaves no note");
}

#[test]
fn a_ledger_with_another_log_gets_everything() {
    let folder = tempfile::tempdir().unwrap();
    let file = file(folder.path());
    let first = Server::start();
    interrupt_in_the_middle(&first, &file);
    // The same address, but the data folder is a new one.
    let second = Server::start();
    let noted = std::fs::read_to_string(note(&file)).unwrap();
    let moved = noted.replace(&first.address.to_string(), &second.address.to_string());
    assert_ne!(noted, moved);
    std::fs::write(note(&file), moved).unwrap();
    let ended = publish(&second, &file, &[]).wait_with_output().unwrap();
    assert_eq!(accepted(&ended), EVENTS as u64);
    assert_eq!(held(&second), EVENTS);
}
