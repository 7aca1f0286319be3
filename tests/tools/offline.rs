//! `rebuild` and `replay` on a data folder, and a store next to a log that is not its own.

use crate::support::same::assert_same_text;
use crate::support::server::Server;
use opledger::domain::OperationId;
use opledger::rows::{self, changes};
use opledger::store::rocks::MemoryBudget;
use opledger::store::{self, Direction};
use opledger::wire::change::ChangeNumber;
use serde_json::json;
use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::path::Path;
use std::process::{Command, Output};

const MEMORY: MemoryBudget = MemoryBudget {
    block_cache: 1 << 20,
    write_buffers: 1 << 20,
};

fn opledger(arguments: &[&str], data: &Path) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_opledger"));
    command
        .args(arguments)
        .arg("--data")
        .arg(data)
        .output()
        .unwrap()
}

fn created(id: &str) -> serde_json::Value {
    json!({"specversion": "1.0", "id": "e1", "source": "/w", "subject": id,
        "type": "opledger.operation.created.v1", "time": "2024-05-06T07:08:09Z",
        "data": {"request": {"uri": "/x", "method": "PUT"}}})
}

/// A folder with these operations. Returns the bytes of the last one's document.
fn filled(data: &Path, ids: &[&str]) -> Vec<u8> {
    let server = Server::on(data, &[]);
    let events: Vec<_> = ids.iter().map(|id| created(id)).collect();
    server.publish(&events);
    let path = format!("/v1/operations/{}", ids[ids.len() - 1]);
    server.eventually("visible", |server| server.get(&path).status == 200);
    let document = server.get(&path).body;
    assert!(server.terminate().success());
    document
}

#[test]
fn a_rebuilt_store_serves_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let document = filled(folder.path(), &["a", "b", "c"]);
    let rebuilt = opledger(&["rebuild"], folder.path());
    assert!(
        rebuilt.status.success(),
        "{}",
        String::from_utf8_lossy(&rebuilt.stderr)
    );
    assert!(!folder.path().join("store.old").exists());
    let replayed = opledger(&["replay", "--id", "c"], folder.path());
    assert_eq!(replayed.stdout.trim_ascii_end(), document);
    let server = Server::on(folder.path(), &[]);
    let served = server.get("/v1/operations/c").body;
    assert_same_text("the rebuilt document", &served, &document);
    let ids = server.get("/v1/operations").json();
    assert_eq!(ids["operation_ids"].as_array().unwrap().len(), 3);
}

fn digest(data: &Path) -> serde_json::Value {
    let output = opledger(&["digest", "--json"], data);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn the_digest_of_a_store_follows_from_its_events_and_a_rebuild_gives_it_again() {
    let [one, other] = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    filled(one.path(), &["a", "b", "c"]);
    for id in ["c", "a", "b"] {
        filled(other.path(), &[id]);
    }
    let before = digest(one.path());
    assert_eq!(before["slices"].as_array().unwrap().len(), 64);
    assert_eq!(digest(other.path())["digest"], before["digest"]);
    assert_eq!(digest(other.path())["slices"], before["slices"]);
    assert!(opledger(&["rebuild"], one.path()).status.success());
    assert_eq!(digest(one.path()), before);
    filled(other.path(), &["d"]);
    let after = digest(other.path());
    assert_ne!(after["digest"], before["digest"]);
    let slices = |digest: &serde_json::Value| digest["slices"].as_array().unwrap().clone();
    let changed = slices(&after)
        .iter()
        .zip(slices(&before))
        .filter(|(after, before)| *after != before)
        .count();
    assert_eq!(changed, 1, "the slice of one operation");
}

#[test]
fn a_slice_is_rebuilt_alone() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path();
    let ids: Vec<String> = (0..300).map(|n| format!("operation-{n}")).collect();
    let ids: Vec<&str> = ids.iter().map(|id| &**id).collect();
    filled(data, &ids);
    let before = digest(data);
    let slice = OperationId(ids[0]).slice();
    let number = usize::from(slice.0);
    let next = |data: &Path| {
        let store = rows::open(&data.join("store"), MEMORY).unwrap();
        store::view(&store, changes::ends).unwrap().next
    };
    let changes_before = next(data);
    let removed = opledger(&["rebuild", "--slice", &number.to_string()], data);
    let said = String::from_utf8_lossy(&removed.stdout).into_owned();
    assert!(
        removed.status.success() && said.contains("removed slice"),
        "{said}"
    );
    let between = digest(data);
    for (at, was) in before["slices"].as_array().unwrap().iter().enumerate() {
        match at == number {
            true => assert_eq!(between["slices"][at], "0".repeat(64)),
            false => assert_eq!(between["slices"][at], *was, "slice {at}"),
        }
    }
    let server = Server::on(data, &[]);
    // A list with a position waits for every slice.
    let position = before["position"].as_str().unwrap();
    let listed = server.get_with("/v1/operations", &[("ledger-position", position)]);
    let listed = listed.json();
    assert_eq!(listed["operation_ids"].as_array().unwrap().len(), ids.len());
    assert!(server.terminate().success());
    assert_eq!(digest(data), before);
    // Only operations of the slice were written again.
    let store = rows::open(&data.join("store"), MEMORY).unwrap();
    let mut changed = BTreeSet::new();
    store::view(&store, |view| {
        let all = changes_before..ChangeNumber(u64::MAX >> 8);
        changes::scan(view, all, Direction::Forward, &mut |_, _, change| {
            changed.extend(change.ids().map(|id| id.to_string()));
            ControlFlow::Continue(())
        })
    })
    .unwrap();
    let of_slice = ids.iter().filter(|id| OperationId(id).slice() == slice);
    assert_eq!(changed, of_slice.map(|id| id.to_string()).collect());
}

#[test]
fn a_folder_without_a_store_has_no_digest_and_is_not_created() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let output = opledger(&["digest"], &data);
    assert_eq!(output.status.code(), Some(7));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("has no store"), "{said}");
    assert!(!data.exists());
    // An unfinished rebuild is not a store. It stays for inspection.
    std::fs::create_dir_all(data.join("store.new")).unwrap();
    assert_eq!(opledger(&["digest"], &data).status.code(), Some(7));
    let left = std::fs::read_dir(&data).unwrap();
    let left: Vec<_> = left.map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["store.new"]);
    // The ledger first completes a swap that was interrupted.
    std::fs::remove_dir_all(&data).unwrap();
    filled(&data, &["a"]);
    let before = digest(&data);
    std::fs::rename(data.join("store"), data.join("store.old")).unwrap();
    assert_eq!(digest(&data), before);
}

#[test]
fn a_folder_without_a_log_is_neither_created_nor_emptied() {
    let folder = tempfile::tempdir().unwrap();
    for command in ["rebuild", "replay"] {
        let mistyped = folder.path().join("mistyped");
        let ended = opledger(&[command], &mistyped);
        assert_eq!(ended.status.code(), Some(7), "{command}");
        assert!(String::from_utf8_lossy(&ended.stderr).contains("no event log"));
        assert!(!mistyped.exists(), "{command} made a folder");
    }
    let data = folder.path().join("data");
    filled(&data, &["kept"]);
    std::fs::remove_dir_all(data.join("log")).unwrap();
    let files = || std::fs::read_dir(data.join("store")).unwrap().count();
    let before = files();
    let ended = opledger(&["rebuild"], &data);
    assert_eq!(ended.status.code(), Some(7));
    assert_eq!(files(), before, "the store is as it was");
}

#[test]
fn a_store_beside_another_log_names_its_own_log() {
    let folder = tempfile::tempdir().unwrap();
    let (ours, other) = (folder.path().join("ours"), folder.path().join("other"));
    let document = filled(&ours, &["kept"]);
    filled(&other, &["else"]);
    let log_of = |data: &Path| {
        let server = Server::on(data, &[]);
        server.get("/version").json()["log"]
            .as_str()
            .unwrap()
            .to_owned()
    };
    let (our_log, other_log) = (log_of(&ours), log_of(&other));
    std::fs::remove_dir_all(ours.join("log")).unwrap();
    std::fs::rename(other.join("log"), ours.join("log")).unwrap();
    let server = Server::on(&ours, &[]);
    server.eventually("halted", |server| {
        let ready = server.get("/readyz");
        ready.status == 503 && String::from_utf8_lossy(&ready.body).contains("halted")
    });
    let read = server.get("/v1/operations/kept");
    assert_same_text("reads continue", &read.body, &document);
    let token = read.header("ledger-position").to_owned();
    assert!(token.starts_with(&format!("{our_log};")), "{token}");
    assert!(token.ends_with(":0"), "with its positions: {token}");
    let again = server.get_with("/v1/operations/kept", &[("ledger-position", &token)]);
    again.refused(503, "000001");
    let theirs = format!("{other_log};0:0");
    let refused = server.get_with("/v1/operations/kept", &[("ledger-position", &theirs)]);
    refused.refused(410, "010003");
}

#[test]
fn fewer_partitions_than_the_log_has_are_a_wrong_setting() {
    let folder = tempfile::tempdir().unwrap();
    filled(folder.path(), &["a"]);
    let ended = Command::new(env!("CARGO_BIN_EXE_opledger"))
        .args(["serve", "--listen", "127.0.0.1:0", "--data"])
        .arg(folder.path())
        .env("OPLEDGER_LOG__PARTITIONS", "2")
        .output()
        .unwrap();
    assert_eq!(ended.status.code(), Some(6));
    assert!(String::from_utf8_lossy(&ended.stderr).contains("log.partitions"));
}
