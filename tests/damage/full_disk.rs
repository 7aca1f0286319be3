//! Disks so full that the log's reserve does not help: the kernel refuses writes of RocksDB itself.
//! The log and the store have separate disks here, so that each fails alone.

use crate::support::deadline::{LATER, within};
use crate::support::generate::Rng;
use crate::support::same::assert_same_set;
use crate::support::server::{Answer, BATCH, Server};
use crate::support::small_disk::{Ballast, Shortage, mounted_at, seen};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::process::Command;

fn created(operation: &str) -> Value {
    json!({"specversion": "1.0", "id": "created", "source": "/sender", "subject": operation,
        "type": "opledger.operation.created.v1", "time": "2024-05-06T07:00:00Z",
        "data": {"request": {"uri": "/x", "method": "PUT"}}})
}

/// Sends large random events, so that each of them needs space on the disk.
struct Sender {
    rng: Rng,
    size: usize,
    next: usize,
    acknowledged: Vec<usize>,
}

impl Sender {
    fn new(size: usize) -> Sender {
        Sender {
            rng: Rng::new(37),
            size,
            next: 0,
            acknowledged: Vec::new(),
        }
    }

    fn post(&mut self, server: &Server) -> Answer {
        let n = self.next;
        self.next += 1;
        let words = (0..self.size / 16).map(|_| format!("{:016x}", self.rng.next()));
        let event = json!({"specversion": "1.0", "id": n.to_string(), "source": "/sender",
            "subject": "full", "type": "opledger.operation.progressed.v1",
            "time": format!("2024-05-06T07:{:02}:{:02}Z", n / 60 % 60, n % 60),
            "data": {"unknown": words.collect::<String>()}});
        let answer = server.post(BATCH, json!([event]).to_string());
        if answer.status == 202 {
            self.acknowledged.push(n);
        }
        answer
    }

    /// Every acknowledged event is in the history, once.
    fn check(&self, server: &Server, token: &str) {
        let history = server.get_with(
            "/v1/operations/full/events",
            &[("ledger-position", token), ("prefer", "wait=60")],
        );
        assert_eq!(history.status, 200, "{history:?}");
        let history = history.json();
        let events = history["events"].as_array().unwrap();
        let ids = events.iter().map(|e| e["event"]["id"].as_str().unwrap());
        let distinct: BTreeSet<&str> = ids.clone().collect();
        assert_same_set("each once", ids, distinct.iter().copied());
        for n in &self.acknowledged {
            assert!(distinct.contains(&*n.to_string()), "event {n} is missing");
        }
    }
}

fn reasons(server: &Server) -> Option<String> {
    let ready = server.get("/readyz");
    (ready.status == 503).then(|| String::from_utf8(ready.body).unwrap())
}

fn reads_go_on(server: &Server) {
    for path in [
        "/v1/operations/full",
        "/v1/operations/full/events?limit=3",
        "/v1/operations",
        "/v1/operations?format=detail-list",
        "/v1/dead-letters",
    ] {
        let answer = server.get(path);
        let text = String::from_utf8_lossy(&answer.body);
        assert_eq!(answer.status, 200, "{path}: {text}");
    }
}

fn failures(server: &Server) -> u64 {
    let metrics = server.metrics();
    let lines = metrics.lines();
    lines
        .filter(|line| line.starts_with("opledger_store_failures_total{"))
        .map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap())
        .sum()
}

#[test]
fn a_store_that_ran_out_of_bytes_goes_on_without_a_restart() {
    a_store_that_ran_out_goes_on(Shortage::Bytes);
}

#[test]
fn a_store_that_ran_out_of_files_goes_on_without_a_restart() {
    a_store_that_ran_out_goes_on(Shortage::Files);
}

fn a_store_that_ran_out_goes_on(shortage: Shortage) {
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path().join("store");
    std::fs::create_dir(&store).unwrap();
    let server = Server::spawn(
        mounted_at(&store, "size=48m,nr_inodes=1000"),
        folder.path(),
        // Small buffers, so that files are created often. Short retries, so that many attempts are
        // seen.
        &[
            ("STORE__WRITE_BUFFERS", "1MiB"),
            ("PROJECTOR__RETRY_MAX", "200ms"),
        ],
    );
    let mut sender = Sender::new(20_000);
    let token = server.publish(&[created("full")]);
    assert!(server.document("full", &token).is_some());
    for round in 0..2 {
        let ballast = Ballast::fill(&seen(&server, &store), shortage);
        let told = within(LATER, "the store notices", || {
            let answer = sender.post(&server);
            assert_eq!(answer.status, 202, "the log has a disk of its own");
            reasons(&server)
        });
        assert!(told.contains("the projector waits"), "{told}");
        assert!(told.contains("No space left on device"), "{told}");
        let path = folder.path().to_str().unwrap();
        assert!(
            !told.contains(path),
            "the response names the data folder: {told}"
        );
        let so_far = failures(&server);
        within(LATER, "the projector keeps retrying", || {
            reads_go_on(&server);
            (failures(&server) >= so_far + 5).then_some(())
        });
        let answer = sender.post(&server);
        assert_eq!(answer.status, 202, "the log accepts what the store cannot");
        let token = answer.header("ledger-position").to_owned();
        let early = [("ledger-position", token.as_str()), ("prefer", "wait=0")];
        let answer = server.get_with("/v1/operations/full", &early);
        answer.refused(504, "000001");
        drop(ballast);
        server.eventually("ready again", |server| reasons(server).is_none());
        sender.check(&server, &token);
        reads_go_on(&server);
        let answer = sender.post(&server);
        assert_eq!(answer.status, 202, "round {round}");
        sender.check(&server, answer.header("ledger-position"));
    }
}

/// The binary with a limit on the size of its files.
fn with_files_up_to(mib: u64) -> Command {
    let mut command = Command::new("sh");
    // In blocks of 512 bytes.
    let script = format!(
        "ulimit -f {} && exec '{}' \"$@\"",
        mib * 2048,
        env!("CARGO_BIN_EXE_opledger")
    );
    command.args(["-c", &script, "sh"]);
    command
}

#[test]
fn a_limit_on_the_size_of_files_is_an_error_like_a_full_disk() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let server = Server::spawn(with_files_up_to(9), &data, &[]);
    let mut sender = Sender::new(1_000_000);
    server.publish(&[created("full")]);
    let refused = within(LATER, "a file would be too large", || {
        let answer = sender.post(&server);
        (answer.status != 202).then_some(answer)
    });
    refused.refused(503, "000001");
    let told = reasons(&server).expect("readiness says so");
    assert!(told.contains("File too large"), "{told}");
    let path = folder.path().to_str().unwrap();
    assert!(
        !told.contains(path),
        "the response names the data folder: {told}"
    );
    reads_go_on(&server);
    // The same limit for commands that write.
    let history = ["history", "full", "--json", "--url"];
    let output = std::fs::File::create(folder.path().join("history.json")).unwrap();
    let ran = with_files_up_to(1)
        .args(history)
        .arg(format!("http://{}", server.address))
        .stdout(output)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&ran.stderr);
    assert_eq!(ran.status.code(), Some(1), "{said}");
    assert!(said.contains("File too large"), "{said}");
    assert!(server.terminate().success());
    let server = Server::on(&data, &[]);
    let answer = sender.post(&server);
    assert_eq!(answer.status, 202);
    sender.check(&server, answer.header("ledger-position"));
}

#[test]
fn a_log_that_ran_out_of_files_goes_on_without_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("log");
    std::fs::create_dir(&log).unwrap();
    let server = Server::spawn(
        mounted_at(&log, "size=512m,nr_inodes=1000"),
        folder.path(),
        &[],
    );
    let mut sender = Sender::new(1_000_000);
    let token = server.publish(&[created("full")]);
    assert!(server.document("full", &token).is_some());
    for round in 0..2 {
        let ballast = Ballast::fill(&seen(&server, &log), Shortage::Files);
        let refused = within(LATER, "the log notices", || {
            let answer = sender.post(&server);
            (answer.status != 202).then_some(answer)
        });
        refused.refused(503, "000001");
        let told = reasons(&server).expect("readiness says so");
        assert!(
            told.contains("the event log does not accept writes"),
            "{told}"
        );
        assert!(told.contains("No space left on device"), "{told}");
        for _ in 0..20 {
            sender.post(&server).refused(503, "000001");
            reads_go_on(&server);
        }
        drop(ballast);
        server.eventually("ready again", |server| reasons(server).is_none());
        let answer = sender.post(&server);
        assert_eq!(answer.status, 202, "round {round}: accepted again");
        sender.check(&server, answer.header("ledger-position"));
        reads_go_on(&server);
    }
}
