//! What survives `kill -9` while senders post, a full disk, and a second process. Also, seen from
//! outside: a response is sent only after its sync.

use crate::support::deadline::{LATER, within};
use crate::support::generate::Rng;
use crate::support::same::assert_same_set;
use crate::support::server::{BATCH, Client, Server};
use crate::support::small_disk::{mounted_at, seen};
use crate::support::soak;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

fn progressed(operation: &str, n: usize) -> Value {
    json!({"specversion": "1.0", "id": format!("{n}"), "source": "/sender", "subject": operation,
        "type": "opledger.operation.progressed.v1", "data": {"sub_status": format!("step {n}")},
        "time": format!("2024-05-06T07:{:02}:{:02}.{:03}Z", n / 60_000, n / 1000 % 60, n % 1000)})
}

fn created(operation: &str) -> Value {
    json!({"specversion": "1.0", "id": "created", "source": "/sender", "subject": operation,
        "type": "opledger.operation.created.v1", "time": "2024-05-06T07:00:00Z",
        "data": {"request": {"uri": "/x", "method": "PUT"}}})
}

/// Posts batches of 10 until `stop` is set. Returns the number of acknowledged events.
fn send(address: std::net::SocketAddr, operation: &str, from: usize, stop: &AtomicBool) -> usize {
    let client = Client::new(address);
    let mut acknowledged = from;
    while !stop.load(Ordering::Relaxed) {
        let mut batch = vec![created(operation)];
        batch.extend((acknowledged..acknowledged + 10).map(|n| progressed(operation, n)));
        let body = serde_json::to_vec(&batch).unwrap();
        match client.try_post("/v1/events", &[("content-type", BATCH)], body) {
            Ok(answer) if answer.status == 202 => acknowledged += 10,
            // Nobody knows whether it was written: the batch is sent again after the restart.
            Ok(_) | Err(_) => return acknowledged,
        }
    }
    acknowledged
}

#[test]
fn kill_9_under_load_loses_and_doubles_nothing() {
    const SENDERS: usize = 6;
    let lives = if soak() { 100 } else { 5 };
    let folder = tempfile::tempdir().unwrap();
    let mut rng = Rng::new(3);
    let mut acknowledged = [0; SENDERS];
    for life in 0..lives {
        let server = Server::on(folder.path(), &[]);
        check_all(&server, &acknowledged);
        let address = server.address;
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let senders: Vec<_> = (0..SENDERS)
                .map(|s| {
                    let (from, stop) = (acknowledged[s], &stop);
                    scope.spawn(move || send(address, &format!("kill-{s}"), from, stop))
                })
                .collect();
            std::thread::sleep(Duration::from_millis(300 + rng.below(700) as u64));
            server.kill();
            stop.store(true, Ordering::Relaxed);
            for (s, sender) in senders.into_iter().enumerate() {
                let now = sender.join().unwrap();
                assert!(now > acknowledged[s] || life > 0, "senders made progress");
                acknowledged[s] = now;
            }
        });
    }
    let server = Server::on(folder.path(), &[]);
    check_all(&server, &acknowledged);
    assert!(
        acknowledged.iter().sum::<usize>() > 100 * lives,
        "{acknowledged:?}"
    );
}

/// Every acknowledged event is in the history once. The document shows the last of those in the
/// history.
fn check_all(server: &Server, acknowledged: &[usize]) {
    server.eventually("caught up", |server| {
        server.get("/readyz").status == 200
            && metric(server, "opledger_projector_lag_records") == Some(0.0)
    });
    for (s, count) in acknowledged
        .iter()
        .enumerate()
        .filter(|(_, count)| **count > 0)
    {
        let path = format!("/v1/operations/kill-{s}");
        let history = server.get(&format!("{path}/events")).json();
        let ids: Vec<_> = history["events"]
            .as_array()
            .unwrap()
            .iter()
            .filter_map(|e| e["event"]["id"].as_str().unwrap().parse::<usize>().ok())
            .collect();
        let distinct: BTreeSet<_> = ids.iter().copied().collect();
        assert_same_set(&path, ids, distinct.iter().copied());
        assert!(
            (0..*count).all(|n| distinct.contains(&n)),
            "none of {count} missing in {path}"
        );
        let document = server.get(&path).json();
        assert_eq!(document["status"], "unexecuted");
        let last = distinct.last().unwrap();
        let time = format!("20240506 07{:02}{:02}", last / 60_000, last / 1000 % 60);
        assert_eq!(document["last_update_time"], json!(time));
    }
}

fn metric(server: &Server, name: &str) -> Option<f64> {
    let metrics = server.metrics();
    let line = metrics
        .lines()
        .find(|line| line.starts_with(name))?
        .to_owned();
    line.rsplit(' ').next()?.parse().ok()
}

#[test]
fn each_acknowledgement_follows_its_sync() {
    let folder = tempfile::tempdir().unwrap();
    let trace = folder.path().join("trace");
    let mut strace = Command::new("strace");
    strace
        .args([
            "-f",
            "-y",
            "-qq",
            "-s",
            "200",
            "-e",
            "trace=fdatasync,fsync,pwrite64,write,writev,sendto,sendmsg",
            "-o",
        ])
        .arg(&trace)
        .arg(env!("CARGO_BIN_EXE_opledger"));
    let server = Server::spawn(strace, &folder.path().join("data"), &[]);
    const POSTS: usize = 20;
    for n in 0..POSTS {
        server.publish(&[progressed("traced", n)]);
    }
    server.terminate_tracee();
    let calls = std::fs::read_to_string(&trace).unwrap();
    // With one sender, a write to the log and then a finished sync must come between two responses.
    let (mut written, mut synced, mut answers) = (false, false, 0);
    for call in calls.lines() {
        if call.contains("HTTP/1.1 202") {
            assert!(synced, "response {answers} sent before its sync:\n{call}");
            (written, synced) = (false, false);
            answers += 1;
        } else if call.contains("/data/log/") && call.contains("step ") {
            written = true;
            synced = false;
        } else if call.contains("sync") && !call.contains("unfinished") && call.ends_with("= 0") {
            synced |= written;
        }
    }
    assert_eq!(answers, POSTS, "every response was seen");
}

#[test]
fn a_second_process_on_the_folder_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::on(folder.path(), &[]);
    let second = Command::new(env!("CARGO_BIN_EXE_opledger"))
        .args(["serve", "--listen", "127.0.0.1:0", "--data"])
        .arg(folder.path())
        .output()
        .unwrap();
    assert_eq!(second.status.code(), Some(7));
    let text = String::from_utf8_lossy(&second.stderr);
    assert!(text.contains("in use"), "{text}");
    assert_eq!(server.get("/livez").status, 200);
}

#[test]
fn a_full_disk_is_reported_and_survived_without_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let disk = folder.path().join("disk");
    std::fs::create_dir(&disk).unwrap();
    let server = Server::spawn(mounted_at(&disk, "size=48m"), &disk.join("data"), &[]);
    let ballast = seen(&server, &disk).join("ballast");
    let mut acknowledged = Vec::new();
    let post = |n: usize| {
        let mut event = progressed("full", n);
        event["data"]["unknown"] = json!("x".repeat(20_000));
        server.post(BATCH, json!([event]).to_string())
    };
    server.publish(&[created("full")]);
    for round in ["little by little", "to the last byte"] {
        // Fill the disk from outside until the ledger refuses events.
        let mut filler = std::fs::File::create(&ballast).unwrap();
        if round == "to the last byte" {
            // In the second round all at once, to the last byte.
            while std::io::Write::write_all(&mut filler, &vec![1; 1 << 16]).is_ok() {}
        }
        let refused = within(LATER, "the disk is full", || {
            let _ = std::io::Write::write_all(&mut filler, &vec![1; 1 << 20]);
            let answer = post(acknowledged.len());
            if answer.status != 202 {
                return Some(answer);
            }
            acknowledged.push(acknowledged.len());
            None
        });
        refused.refused(503, "000001");
        server.eventually("readiness says so", |server| {
            let ready = server.get("/readyz");
            ready.status == 503 && String::from_utf8_lossy(&ready.body).contains("full")
        });
        assert_eq!(server.get("/v1/operations/full").status, 200, "reads work");
        drop(filler);
        std::fs::remove_file(&ballast).unwrap();
        server.eventually("ready again", |server| server.get("/readyz").status == 200);
        let answer = post(acknowledged.len());
        assert_eq!(answer.status, 202, "round {round}: accepted again");
        acknowledged.push(acknowledged.len());
        let token = answer.header("ledger-position").to_owned();
        let history = server
            .get_with("/v1/operations/full/events", &[("ledger-position", &token)])
            .json();
        let ids: BTreeSet<String> = history["events"]
            .as_array()
            .unwrap()
            .iter()
            .map(|e| e["event"]["id"].as_str().unwrap().to_owned())
            .collect();
        for n in &acknowledged {
            assert!(ids.contains(&n.to_string()), "event {n} was acknowledged");
        }
    }
}

#[test]
fn a_read_with_the_token_of_a_publish_never_misses_it() {
    let server = Server::start();
    let address = server.address;
    let pairs = 10_000;
    let next = AtomicUsize::new(0);
    let misses = Mutex::new(Vec::new());
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        // Load at the same time as the pairs.
        scope.spawn(|| send(address, "load", 0, &done));
        let readers: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| {
                    let client = Client::new(address);
                    loop {
                        let n = next.fetch_add(1, Ordering::Relaxed);
                        if n >= pairs {
                            return;
                        }
                        let id = format!("pair-{n}");
                        let body = json!([created(&id)]).to_string();
                        let posted = client.post("/v1/events", &[("content-type", BATCH)], body);
                        assert_eq!(posted.status, 202);
                        let token = posted.header("ledger-position").to_owned();
                        let path = format!("/v1/operations/{id}");
                        if client.get(&path, &[("ledger-position", &token)]).status != 200 {
                            misses.lock().unwrap().push(n);
                        }
                    }
                })
            })
            .collect();
        for reader in readers {
            reader.join().unwrap();
        }
        done.store(true, Ordering::Relaxed);
    });
    assert_eq!(misses.into_inner().unwrap(), Vec::<usize>::new());
}
