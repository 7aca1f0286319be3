//! `kill -9` of the ledger and of the broker while six producers in three languages write. Every
//! acknowledged record is stored once, and positions never decrease.

use crate::support::broker::{Broker, CLIENTS, acknowledged, token};
use crate::support::generate::Rng;
use crate::support::server::Server;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{Write, read_to_string};
use std::process::Child;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

const PRODUCERS: usize = 6;

fn event(operation: &str, n: usize) -> Value {
    let time = format!(
        "2024-05-06T07:{:02}:{:02}.{:03}Z",
        n / 60_000,
        n / 1000 % 60,
        n % 1000
    );
    let (kind, data) = match n {
        0 => (
            "created",
            json!({"request": {"uri": "/x", "method": "PUT"}}),
        ),
        _ => ("progressed", json!({"sub_status": format!("step {n}")})),
    };
    json!({"specversion": "1.0", "id": format!("{operation}/{n}"), "source": "/sender",
        "subject": operation, "type": format!("opledger.operation.{kind}.v1"), "time": time,
        "data": data})
}

/// A foreign client that is fed until `stop` is set.
struct Producer {
    child: Child,
    feeder: std::thread::JoinHandle<usize>,
    said: std::thread::JoinHandle<String>,
    complained: std::thread::JoinHandle<String>,
}

fn produce(broker: &Broker, topic: &str, index: usize, stop: &Arc<AtomicBool>) -> Producer {
    // Half of the producers spread one operation over all partitions.
    let options: &[&str] = match index % 2 {
        0 => &["--retry-forever"],
        _ => &["--retry-forever", "--no-key"],
    };
    let mut child = broker.client(CLIENTS[index % CLIENTS.len()], topic, options);
    let mut stdin = child.stdin.take().unwrap();
    let stdout = child.stdout.take().unwrap();
    let stderr = child.stderr.take().unwrap();
    let stop = stop.clone();
    let feeder = std::thread::spawn(move || {
        let mut n = 0;
        while !stop.load(Ordering::Relaxed) {
            for _ in 0..10 {
                let line = event(&format!("crash-{index}"), n).to_string();
                if writeln!(stdin, "{line}").is_err() {
                    return n;
                }
                n += 1;
            }
            stdin.flush().unwrap();
            std::thread::sleep(Duration::from_millis(20));
        }
        n
    });
    Producer {
        child,
        feeder,
        said: std::thread::spawn(move || read_to_string(stdout).unwrap()),
        // If nobody read its errors, the client would block on a full pipe.
        complained: std::thread::spawn(move || read_to_string(stderr).unwrap()),
    }
}

/// Checks the position in every response, across restarts of the ledger.
fn watch_positions(server: &Server, last: &mut BTreeMap<String, u64>) {
    let answer = server.get("/v1/operations?format=list");
    let Some(header) = answer.headers.get("ledger-position") else {
        return;
    };
    let (_, positions) = header.to_str().unwrap().split_once(';').unwrap();
    for part in positions.split(',').filter(|part| !part.is_empty()) {
        let (partition, offset) = part.split_once(':').unwrap();
        let offset = offset.parse().unwrap();
        let before = last.insert(partition.to_owned(), offset);
        assert!(
            before.is_none_or(|before| before <= offset),
            "partition {partition} went back"
        );
    }
}

#[test]
fn kill_9_of_ledger_and_broker_loses_and_doubles_nothing() {
    let (lives, falls) = match crate::support::soak() {
        true => (100, 20),
        false => (5, 2),
    };
    let broker = Broker::own();
    let topic = broker.topic(4, &[]);
    let folder = tempfile::tempdir().unwrap();
    let settings = [
        ("KAFKA__BOOTSTRAP", broker.bootstrap.as_str()),
        ("KAFKA__TOPIC", topic.as_str()),
        // With several, positions may go back by up to a second.
        ("PROJECTOR__WORKERS", "1"),
    ];
    let stop = Arc::new(AtomicBool::new(false));
    let producers: Vec<_> = (0..PRODUCERS)
        .map(|i| produce(&broker, &topic, i, &stop))
        .collect();
    let mut rng = Rng::new(29);
    let last = Mutex::new(BTreeMap::new());
    for life in 0..lives {
        let server = Server::on(folder.path(), &settings);
        let until = Instant::now() + Duration::from_millis(700 + rng.below(900) as u64);
        let falls_now = life * falls / lives != (life + 1) * falls / lives;
        if falls_now {
            broker.kill();
            broker.start();
        }
        while Instant::now() < until {
            watch_positions(&server, &mut last.lock().unwrap());
            std::thread::sleep(Duration::from_millis(20));
        }
        server.kill();
    }
    stop.store(true, Ordering::Relaxed);
    let sent = collect(producers);
    let server = Server::on(folder.path(), &settings);
    check_all(&server, &sent);
    watch_positions(&server, &mut last.lock().unwrap());
    assert!(
        sent.len() > 100 * lives,
        "the producers made progress: {}",
        sent.len()
    );
}

/// Partition leaders are killed and restarted, one after the other.
#[test]
fn a_leader_that_dies_loses_and_doubles_nothing() {
    let brokers = Broker::three();
    let topic = brokers[0].topic(6, &[]);
    let server = Server::with(&[
        ("KAFKA__BOOTSTRAP", brokers[0].bootstrap.as_str()),
        ("KAFKA__TOPIC", topic.as_str()),
    ]);
    let stop = Arc::new(AtomicBool::new(false));
    let producers: Vec<_> = (0..PRODUCERS)
        .map(|i| produce(&brokers[0], &topic, i, &stop))
        .collect();
    let mut last = BTreeMap::new();
    for broker in [&brokers[1], &brokers[2], &brokers[1]] {
        let until = Instant::now() + Duration::from_secs(3);
        broker.kill();
        while Instant::now() < until {
            watch_positions(&server, &mut last);
            std::thread::sleep(Duration::from_millis(20));
        }
        broker.start();
        brokers[0].until_all_replicas_follow(&topic);
    }
    // Publish over HTTP as well, while another broker is down.
    brokers[2].kill();
    server.eventually("published without it", |server| {
        let body = json!([event("by-http", 0)]).to_string();
        server.post(crate::support::server::BATCH, body).status == 202
    });
    stop.store(true, Ordering::Relaxed);
    let sent = collect(producers);
    check_all(&server, &sent);
    watch_positions(&server, &mut last);
    assert!(
        sent.len() > 500,
        "the producers made progress: {}",
        sent.len()
    );
}

/// Whichever broker is down, HTTP publishers wait only briefly, and partitions without a leader do
/// not block the others.
#[test]
fn an_unavailable_broker_delays_publishers_only_briefly() {
    let brokers = Broker::three();
    let topic = brokers[0].topic(6, &[]);
    let server = Server::with(&[
        ("KAFKA__BOOTSTRAP", brokers[0].bootstrap.as_str()),
        ("KAFKA__TOPIC", topic.as_str()),
    ]);
    server.eventually("ready", |server| server.get("/readyz").status == 200);
    let mut n = 0;
    for broker in [&brokers[1], &brokers[2]] {
        broker.stop();
        let (mut refused, until) = (Duration::ZERO, Instant::now() + Duration::from_secs(15));
        while Instant::now() < until {
            let asked = Instant::now();
            n += 1;
            let body = json!([event(&format!("away-{n}"), 0)]).to_string();
            let answer = server.post(crate::support::server::BATCH, body);
            match answer.status {
                202 => {
                    let token = answer.header("ledger-position").to_owned();
                    assert!(server.document(&format!("away-{n}"), &token).is_some());
                    refused = Duration::ZERO;
                }
                503 => refused += asked.elapsed() + Duration::from_millis(50),
                status => panic!("{status}"),
            }
            assert!(refused < Duration::from_secs(8), "refused for {refused:?}");
            std::thread::sleep(Duration::from_millis(50));
        }
        broker.start();
        brokers[0].until_all_replicas_follow(&topic);
    }
}

/// Waits until the producers have sent everything. Returns the acknowledged records.
fn collect(producers: Vec<Producer>) -> Vec<(String, String)> {
    let mut sent = Vec::new();
    // Events fed while a broker was down may take a while to send.
    let patience = if crate::support::soak() { 900 } else { 120 };
    let until = Instant::now() + Duration::from_secs(patience);
    for (index, mut producer) in producers.into_iter().enumerate() {
        let status = loop {
            if let Some(status) = producer.child.try_wait().unwrap() {
                break status;
            }
            if Instant::now() > until {
                producer.child.kill().unwrap();
                let complained = producer.complained.join().unwrap();
                panic!("producer {index} hangs: {complained}");
            }
            std::thread::sleep(Duration::from_millis(50));
        };
        let fed = producer.feeder.join().unwrap();
        let complained = producer.complained.join().unwrap();
        assert!(status.success(), "producer {index}: {status}: {complained}");
        let own = acknowledged(&producer.said.join().unwrap());
        // Some appear more than once: kafkajs may lose part of a response and then sends everything
        // again.
        let distinct: BTreeSet<&str> = own.iter().map(|(id, _)| id.as_str()).collect();
        assert_eq!(
            distinct.len(),
            fed,
            "producer {index}: each is acknowledged in the end"
        );
        sent.extend(own);
    }
    sent
}

/// Every acknowledged event is in the history once and appears in the document.
fn check_all(server: &Server, sent: &[(String, String)]) {
    server.eventually("ready", |server| server.get("/readyz").status == 200);
    let log = server.get("/version").json()["log"]
        .as_str()
        .unwrap()
        .to_owned();
    let token = token(&log, sent);
    let headers = [("ledger-position", token.as_str()), ("prefer", "wait=60")];
    for index in 0..PRODUCERS {
        let operation = format!("crash-{index}");
        let wanted: BTreeSet<&str> = sent
            .iter()
            .map(|(id, _)| id.as_str())
            .filter(|id| id.starts_with(&format!("{operation}/")))
            .collect();
        let answer = server.get_with(&format!("/v1/operations/{operation}/events"), &headers);
        assert_eq!(answer.status, 200);
        let history = answer.json();
        let shown: Vec<&str> = history["events"]
            .as_array()
            .unwrap()
            .iter()
            .map(|entry| entry["event"]["id"].as_str().unwrap())
            .collect();
        let distinct: BTreeSet<&str> = shown.iter().copied().collect();
        assert_eq!(distinct.len(), shown.len(), "{operation}: none doubled");
        assert_eq!(distinct, wanted, "{operation}: none missing");
        let steps = wanted.len() - 1;
        let document = server.document(&operation, &token).expect("created");
        let time = format!("20240506 07{:02}{:02}", steps / 60_000, steps / 1000 % 60);
        assert_eq!(document["last_update_time"], json!(time), "{operation}");
    }
    assert_eq!(
        server.get("/v1/dead-letters").json()["dead_letters"],
        json!([])
    );
}
