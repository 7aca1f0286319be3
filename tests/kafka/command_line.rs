//! The commands that work on a topic, and the example workers of the README.

use super::{ledger, log_of};
use crate::support::broker::{Broker, Raw, run};
use crate::support::events::created;
use crate::support::root;
use crate::support::server::Server;
use crate::support::stories::{stories, subject};
use opledger::domain::OperationId;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

fn opledger(broker: &Broker, topic: &str, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_opledger"))
        .args(arguments)
        .args(["--kafka", &broker.bootstrap, "--topic", topic])
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

#[track_caller]
fn stdout(output: Output) -> String {
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    String::from_utf8(output.stdout).unwrap()
}

fn file_of(folder: &Path, events: &[Value]) -> PathBuf {
    let path = folder.join("events.jsonl");
    let lines: String = events.iter().map(|event| format!("{event}\n")).collect();
    std::fs::write(&path, lines).unwrap();
    path
}

#[test]
fn publish_sends_a_file_to_the_topic_and_replay_folds_it() {
    let broker = Broker::shared();
    let topic = broker.topic(3, &[]);
    let server = ledger(&broker, &topic);
    let log = log_of(&server);
    let folder = tempfile::tempdir().unwrap();
    let stories = stories();
    let events: Vec<Value> = stories
        .iter()
        .flat_map(|story| story.events.clone())
        .collect();
    let file = file_of(folder.path(), &events);
    let url = format!("http://{}", server.address);
    let publish = [
        "publish",
        file.to_str().unwrap(),
        "--json",
        "--wait",
        "--url",
        &url,
    ];
    let told: Value = serde_json::from_str(&stdout(opledger(&broker, &topic, &publish))).unwrap();
    assert_eq!(told["accepted"], events.len());
    let token = told["position"].as_str().unwrap();
    assert!(token.starts_with(&log));
    for story in &stories {
        let (_, document) = story.expected.last().unwrap();
        let served = server
            .document(subject(&story.events), token)
            .unwrap_or(Value::Null);
        assert_eq!(served, *document, "{}", story.name);
    }

    // `replay` gives the same documents from the topic alone, while the ledger runs.
    let replayed = stdout(opledger(&broker, &topic, &["replay"]));
    let mut replayed: Vec<&str> = replayed.lines().collect();
    replayed.reverse();
    let listed = server.get("/v1/operations").json()["operation_ids"].clone();
    assert_eq!(replayed.len(), listed.as_array().unwrap().len());
    for (id, document) in listed.as_array().unwrap().iter().zip(replayed) {
        let served = server.get(&format!("/v1/operations/{}", id.as_str().unwrap()));
        assert_eq!(String::from_utf8(served.body).unwrap(), document);
    }
}

#[test]
fn dead_letters_are_listed_with_their_reasons() {
    let broker = Broker::shared();
    let topic = broker.topic(1, &[]);
    let server = ledger(&broker, &topic);
    let raws = (0..1500).map(|n| crate::support::broker::Raw::value(format!("no event {n}")));
    broker.send(&topic, &raws.collect::<Vec<_>>());
    let token = format!("{};0:1499", log_of(&server));
    let url = format!("http://{}", server.address);
    let list = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_opledger"));
        command.args([
            "dead-letters",
            "--position",
            &token,
            "--wait",
            "60",
            "--url",
            &url,
        ]);
        stdout(command.args(arguments).output().unwrap())
    };
    let all = list(&[]);
    assert_eq!(all.lines().count(), 1501, "with the titles");
    let first = all.lines().nth(1).unwrap();
    assert!(
        first.starts_with("0:0 ") && first.contains("malformed"),
        "{first}"
    );
    assert_eq!(list(&["--limit", "1200"]).lines().count(), 1201);
    let json: Value = serde_json::from_str(&list(&["--json", "--limit", "1200"])).unwrap();
    let served = server.get("/v1/dead-letters").json();
    let served = &served["dead_letters"].as_array().unwrap()[..1200];
    assert_eq!(json["dead_letters"].as_array().unwrap(), served);
}

#[test]
fn an_invalid_event_is_refused_with_its_line_before_it_is_sent() {
    let broker = Broker::shared();
    let topic = broker.topic(1, &[]);
    let folder = tempfile::tempdir().unwrap();
    let mut bad = created("b");
    bad["data"]["request"]["method"] = json!("GET");
    let file = file_of(folder.path(), &[created("a"), bad]);
    let output = opledger(&broker, &topic, &["publish", file.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(4));
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(
        text.contains("line 2") && text.contains("data.request.method"),
        "{text}"
    );
    let mut ahead = created("c");
    ahead["time"] = json!("2199-01-01T00:00:00Z");
    let file = file_of(folder.path(), &[ahead]);
    let output = opledger(&broker, &topic, &["publish", file.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(4));
    assert_eq!(broker.read(&topic).len(), 0);
}

#[test]
fn a_topic_without_a_cluster_and_bad_options_are_reported() {
    let opledger = |arguments: &[&str], variables: &[(&str, &str)]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_opledger"));
        let output = command
            .args(arguments)
            .envs(variables.iter().copied())
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        (output.status.code(), text)
    };
    for command in [
        &["replay"][..],
        &["publish", "/dev/null"],
        &["rebuild"],
        &["serve"],
    ] {
        let arguments = [command, &["--topic", "other"]].concat();
        let (status, text) = opledger(&arguments, &[]);
        assert_eq!(status, Some(2), "{command:?}: {text}");
        assert!(text.contains("--kafka"), "{text}");
    }
    let bad = [("OPLEDGER_KAFKA__PRODUCER__ACKS", "1")];
    let (status, text) = opledger(&["config", "check"], &bad);
    assert_eq!(status, Some(6), "{text}");
    assert!(text.contains("kafka.producer.acks"), "{text}");
}

#[test]
fn replay_takes_ranges_by_position_and_by_time() {
    let broker = Broker::shared();
    let topic = broker.topic(2, &[("message.timestamp.type", "LogAppendTime")]);
    let send = |ids: &[&str]| {
        for (n, id) in ids.iter().enumerate() {
            let raw = crate::support::broker::Raw::value(created(id).to_string());
            broker.send(&topic, &[raw.on(n as i32 % 2)]);
        }
    };
    send(&["a", "b", "c", "d"]);
    // The sleeps make the arrival times differ.
    std::thread::sleep(std::time::Duration::from_millis(20));
    let between = chrono::Utc::now().to_rfc3339();
    std::thread::sleep(std::time::Duration::from_millis(20));
    send(&["e", "f"]);
    let replayed = |range: &[&str]| {
        let arguments = [&["replay"], range].concat();
        let text = stdout(opledger(&broker, &topic, &arguments));
        let id = |line: &str| {
            let document: Value = serde_json::from_str(line).unwrap();
            document["operation_id"].as_str().unwrap().to_owned()
        };
        text.lines().map(id).collect::<Vec<_>>().concat()
    };
    assert_eq!(replayed(&[]), "abcdef");
    assert_eq!(replayed(&["--to", "0:0,1:1"]), "abd");
    assert_eq!(replayed(&["--to", "0:1"]), "ac");
    assert_eq!(replayed(&["--from", "0:1"]), "bcdef");
    assert_eq!(replayed(&["--from", "0:1,1:2"]), "cef");
    assert_eq!(replayed(&["--from", "0:1,1:1", "--to", "0:1,1:1"]), "cd");
    assert_eq!(replayed(&["--from", &between]), "ef");
    assert_eq!(replayed(&["--to", &between]), "abcd");
    assert_eq!(replayed(&["--from", "2199-01-01T00:00:00Z"]), "");
    assert_eq!(replayed(&["--to", "0:18446744073709551615"]), "ace");
    assert_eq!(replayed(&["--from", "0:99,1:99"]), "");
    for (range, status) in [("yesterday", 2), ("zzzzzzzz;0:1", 4)] {
        let bad = opledger(&broker, &topic, &["replay", "--from", range]);
        assert_eq!(bad.status.code(), Some(status), "{range}");
    }
}

#[test]
fn a_cluster_that_does_not_respond_is_reported() {
    let nobody = Broker::nowhere();
    let folder = tempfile::tempdir().unwrap();
    let file = file_of(folder.path(), &[created("a")]);
    let publish = ["publish", file.to_str().unwrap(), "--retry-for", "1"];
    for arguments in [&["replay"][..], &publish[..]] {
        let output = opledger(&nobody, "opledger.events", arguments);
        assert_eq!(output.status.code(), Some(5), "{arguments:?}");
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(text.contains(&nobody.bootstrap), "{text}");
    }
}

#[test]
fn the_example_workers_of_the_readme_publish_events() {
    let broker = Broker::shared();
    let topic = broker.topic(3, &[]);
    let server: Server = ledger(&broker, &topic);
    let log = log_of(&server);
    let example = |name: &str| Some(root().join("examples").join(name));
    // `cargo test` builds the example in a folder next to that of the tests.
    let tests = std::env::current_exe().unwrap();
    let rust = tests
        .parent()
        .unwrap()
        .with_file_name("examples")
        .join("worker");
    let workers = [
        (rust, None),
        (run(), example("worker.py")),
        (run(), example("worker.mjs")),
        (run(), example("Worker.java")),
    ];
    for (n, (program, file)) in workers.into_iter().enumerate() {
        let id = format!("worker-{n}");
        let mut command = Command::new(&program);
        let text = stdout(
            command
                .args(&file)
                .args([&broker.bootstrap, &id, &topic])
                .output()
                .unwrap(),
        );
        let positions: Vec<&str> = text.lines().collect();
        assert_eq!(positions.len(), 2, "{program:?} {file:?}: {text}");
        let token = format!("{log};{}", positions.join(","));
        let document = server.document(&id, &token).expect("created");
        assert_eq!(document["status"], "executing", "{program:?} {file:?}");
        assert_eq!(document["request"]["body"], "{\"action\":\"update\"}");
    }
}

/// The slice is folded again from the topic. Not if the topic has lost records: they are nowhere else.
#[test]
fn a_slice_is_rebuilt_from_a_topic_that_has_all_of_its_records() {
    let broker = Broker::shared();
    let topic = broker.topic(2, &[]);
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().to_str().unwrap();
    let kafka = [
        ("KAFKA__BOOTSTRAP", &*broker.bootstrap),
        ("KAFKA__TOPIC", &*topic),
    ];
    let settle = || {
        let server = Server::on(folder.path(), &kafka);
        server.eventually("ready", |server| server.get("/readyz").status == 200);
        server
    };
    let server = settle();
    let events: Vec<Value> = (0..200)
        .map(|n| created(&format!("operation-{n}")))
        .collect();
    let token = server.publish(&events);
    assert!(server.document("operation-0", &token).is_some());
    // A dead letter is not sent again.
    broker.send(&topic, &[Raw::value("no event").key("operation-0").on(0)]);
    server.eventually("the dead letter is there", |server| {
        let letters = server.get("/v1/dead-letters").json();
        letters["dead_letters"].as_array().unwrap().len() == 1
    });
    assert!(server.terminate().success());
    let digest = || -> Value {
        let digest = Command::new(env!("CARGO_BIN_EXE_opledger"))
            .args(["digest", "--json", "--data", data])
            .output()
            .unwrap();
        serde_json::from_str(&stdout(digest)).unwrap()
    };
    let before = digest();
    let slice = OperationId("operation-0").slice().0.to_string();
    let rebuild = ["rebuild", "--data", data, "--slice", &slice];
    stdout(opledger(&broker, &topic, &rebuild));
    assert_ne!(digest()["digest"], before["digest"]);
    let server = settle();
    assert!(server.document("operation-0", &token).is_some());
    // A list with a position waits for every slice.
    let position = [("ledger-position", before["position"].as_str().unwrap())];
    assert_eq!(server.get_with("/v1/operations", &position).status, 200);
    assert!(server.terminate().success());
    assert_eq!(digest(), before);
    broker.forget_before(&topic, 0, 1);
    let refused = opledger(&broker, &topic, &rebuild);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(
        !refused.status.success() && said.contains("partition 0"),
        "{said}"
    );
    assert_eq!(digest(), before, "nothing was removed");
}
