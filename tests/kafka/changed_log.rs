//! A ledger whose log is replaced by another one while the ledger runs, is paused or is stopped,
//! and what the ledger then reports.

use crate::support::broker::{Broker, Raw};
use crate::support::deadline::{LATER, within};
use crate::support::events::created;
use crate::support::server::Server;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rustix::process::{Pid, Signal, kill_process};
use std::fs::File;
use std::ops::Deref;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Duration;
use tempfile::TempDir;

/// The state of the ledger while its log changes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum When {
    Running,
    /// Stands for a very slow ledger.
    Paused,
    Stopped,
}

pub struct Ledger<'b> {
    broker: &'b Broker,
    pub topic: String,
    pub data: TempDir,
    server: Option<Server>,
}

impl<'b> Ledger<'b> {
    /// On a topic with one partition; `old-0` and so on are applied.
    #[track_caller]
    pub fn with(broker: &'b Broker, count: usize) -> Ledger<'b> {
        let topic = broker.topic(1, &[]);
        let data = tempfile::tempdir().unwrap();
        let server = ledger(data.path(), broker, &topic);
        apply(&server, broker, &topic, count);
        Ledger {
            broker,
            topic,
            data,
            server: Some(server),
        }
    }

    /// In good order: it has written the positions of all of its workers.
    pub fn stop(&mut self) {
        if let Some(server) = self.server.take() {
            assert!(server.terminate().success());
        }
    }

    pub fn start(&mut self) {
        self.server = Some(ledger(self.data.path(), self.broker, &self.topic));
    }

    /// Changes the topic of this name. The ledger runs afterwards.
    pub fn while_it_is(&mut self, when: When, change: impl FnOnce(&str)) {
        match when {
            When::Running => {}
            When::Paused => signal(self, Signal::STOP),
            When::Stopped => self.stop(),
        }
        change(&self.topic);
        match when {
            When::Running => {}
            When::Paused => signal(self, Signal::CONT),
            When::Stopped => self.start(),
        }
    }
}

impl Deref for Ledger<'_> {
    type Target = Server;

    fn deref(&self) -> &Server {
        self.server.as_ref().expect("it is not stopped")
    }
}

pub fn signal(server: &Server, signal: Signal) {
    let pid = Pid::from_raw(server.pid() as i32).unwrap();
    kill_process(pid, signal).unwrap();
}

/// Each record in a batch of its own, so that the log can be truncated between any two.
pub fn send(broker: &Broker, topic: &str, partition: i32, ids: &[String]) {
    for id in ids {
        broker.send(topic, &[Raw::value(created(id).to_string()).on(partition)]);
    }
}

pub fn ids(prefix: &str, count: usize) -> Vec<String> {
    (0..count).map(|n| format!("{prefix}-{n}")).collect()
}

pub fn ledger(data: &Path, broker: &Broker, topic: &str) -> Server {
    let settings = [
        ("KAFKA__BOOTSTRAP", broker.bootstrap.as_str()),
        ("KAFKA__TOPIC", topic),
        ("KAFKA__CHECK_INTERVAL", "500ms"),
    ];
    Server::on(data, &settings)
}

pub fn is_there(server: &Server, id: &str) -> bool {
    server.get(&format!("/v1/operations/{id}")).status == 200
}

pub fn reasons(server: &Server) -> String {
    server.get("/readyz").json()["reasons"].to_string()
}

/// Sends `old-0` and so on to partition 0, and waits until they are applied.
#[track_caller]
pub fn apply(server: &Server, broker: &Broker, topic: &str, count: usize) {
    let old = ids("old", count);
    send(broker, topic, 0, &old);
    server.eventually("applied", |server| is_there(server, &old[count - 1]));
}

/// The projector has halted for this reason, and applied events can still be read.
#[track_caller]
pub fn halted(server: &Server, reason: &str, kept: &str) {
    server.eventually(reason, |server| {
        let reasons = reasons(server);
        reasons.contains("has halted") && reasons.contains(reason)
    });
    assert!(is_there(server, kept), "reads continue");
    let told = reasons(server);
    assert!(
        told.contains("opledger rebuild") || told.contains("cleanup.policy"),
        "{told}"
    );
}

/// Another topic with the same name. The controller responds before the broker deletes the old one,
/// and a record sent in between goes to the old one. So this waits until the partitions are empty.
pub fn recreate(broker: &Broker, topic: &str, partitions: i32) {
    broker.delete(topic);
    broker.create(topic, partitions, &[]);
    let client: BaseConsumer = broker.config().create().unwrap();
    let what = "the broker has the new topic";
    within(LATER, what, || {
        let is_empty = |partition| {
            let watermarks = client.fetch_watermarks(topic, partition, Duration::from_secs(10));
            watermarks.is_ok_and(|(_, end)| end == 0)
        };
        (0..partitions).all(is_empty).then_some(())
    });
}

/// Another topic with the same name, and these events in partition 0.
pub fn make_anew(broker: &Broker, topic: &str, new: &[String]) {
    recreate(broker, topic, 1);
    send(broker, topic, 0, new);
}

/// Keeps two batches of the topic, with one record each, and writes `more` others after them.
pub fn cut_off(broker: &Broker, topic: &str, more: usize) {
    broker.kill();
    keep_batches(&broker.partition_folder(topic, 0), 2);
    broker.start();
    send(broker, topic, 0, &ids("new", more));
}

/// Keeps the first batches of a partition's only segment.
fn keep_batches(folder: &Path, batches: usize) {
    let segment = folder.join("00000000000000000000.log");
    let file = File::options()
        .read(true)
        .write(true)
        .open(segment)
        .unwrap();
    let mut at = 0;
    for _ in 0..batches {
        // A batch begins with its first offset and the number of bytes that follow.
        let mut head = [0; 12];
        file.read_exact_at(&mut head, at).unwrap();
        at += 12 + u64::from(u32::from_be_bytes(head[8..].try_into().unwrap()));
    }
    file.set_len(at).unwrap();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let is_derived = |e: &std::ffi::OsStr| e == "index" || e == "timeindex" || e == "snapshot";
        if path.extension().is_some_and(is_derived) {
            std::fs::remove_file(path).unwrap();
        }
    }
}
