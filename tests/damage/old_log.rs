//! Logs of an earlier version, which kept them in RocksDB. That version wrote `old_logs/log.tar.gz`
//! and was killed. The upgrade reads every record at its position, even if it is interrupted.

use crate::support::generate::Rng;
use crate::support::notified::{delivered, list, quick, told};
use crate::support::receiver::Receiver;
use crate::support::root;
use crate::support::server::Server;
use opledger::domain::Timestamp;
use opledger::event_log::embedded::disk::memory::MemoryDisk as Disk;
use opledger::event_log::embedded::disk::{self, Disk as _};
use opledger::event_log::embedded::{Ahead, Embedded, EmbeddedSettings, Layout, Which, upgrade};
use opledger::event_log::{EventLog, Limits, Logged, Share};
use opledger::store::memory::{Memory, WriteFault};
use opledger::store::{Batch, Db, Durability, Family};
use opledger::wire::block;
use opledger::wire::position::{LogId, NextOffsets, Position};
use opledger::wire::record::{Headers, Record};
use serde_json::{Value, json};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;

/// A data folder of the earlier version without its store, and its expected content.
fn golden() -> (TempDir, Value) {
    let here = root().join("tests/old_logs");
    let folder = TempDir::new().unwrap();
    let unpacked = Command::new("tar")
        .arg("-xzf")
        .arg(here.join("log.tar.gz"))
        .arg("-C")
        .arg(folder.path())
        .status();
    assert!(unpacked.expect("tar runs").success());
    let expected = std::fs::read(here.join("expected.json")).unwrap();
    (folder, serde_json::from_slice(&expected).unwrap())
}

/// The message of `serve` when it does not start on this folder.
fn refused(data: &Path) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_opledger"))
        .args(["serve", "--listen", "127.0.0.1:0", "--data"])
        .arg(data)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(7), "{said}");
    said
}

#[test]
fn a_log_of_the_earlier_version_keeps_its_identity_positions_and_records() {
    let (folder, expected) = golden();
    let receiver = Receiver::willing();
    let token = expected["token"].as_str().unwrap();
    for start in ["upgraded", "started again", "rebuilt"] {
        if start == "rebuilt" {
            let rebuilt = Command::new(env!("CARGO_BIN_EXE_opledger"))
                .args(["rebuild", "--data"])
                .arg(folder.path())
                .status();
            assert!(rebuilt.unwrap().success());
        }
        let server = Server::on(folder.path(), &quick(&[]));
        for (position, event) in expected["records"].as_object().unwrap() {
            let (operation, id) = (event[0].as_str().unwrap(), &event[1]);
            let path = format!("/v1/operations/{operation}/events");
            let history = server.get_with(&path, &[("ledger-position", token)]);
            assert_eq!(history.status, 200, "{start}: the token is of this log");
            let history = history.json();
            let events = history["events"].as_array().unwrap();
            let found = events.iter().find(|event| event["event"]["id"] == *id);
            let found = found.unwrap_or_else(|| panic!("{start}: {operation} {id}"));
            assert_eq!(found["position"], json!(position), "{start}");
        }
        // The control log was upgraded as well: no receiver is notified twice.
        let new = format!("new-{}", start.replace(' ', "-"));
        server.publish(&told(&new, receiver.address));
        delivered(&server, &new);
        let count = list(&server, "state=delivered").len() as u64;
        assert!(count > expected["delivered"].as_u64().unwrap(), "{start}");
        server.terminate();
    }
    for log in ["log", "control"] {
        let kept = folder.path().join(log).join("rocksdb");
        assert!(kept.join("CURRENT").exists(), "the old files are kept");
        assert!(!folder.path().join(log).join("CURRENT").exists());
    }
}

#[test]
fn an_old_log_that_cannot_be_read_is_left_unchanged() {
    let (folder, _) = golden();
    for (name, content) in [("CURRENT", None), ("CURRENT", Some(""))] {
        let path = folder.path().join("log").join(name);
        match content {
            Some(content) => std::fs::write(&path, content).unwrap(),
            None => std::fs::remove_file(&path).unwrap(),
        }
        let said = refused(folder.path());
        assert!(
            said.contains("the event log is in the form of an earlier version"),
            "{said}"
        );
        assert!(said.contains("restore it from a backup"), "{said}");
        assert!(!said.contains("rebuild"), "{said}");
    }
    let files = std::fs::read_dir(folder.path().join("log")).unwrap();
    let mut names = files.map(|file| file.unwrap().file_name().into_string().unwrap());
    assert!(names.all(|name| !name.ends_with(".segment")));
}

#[test]
fn a_flipped_bit_in_an_old_log_is_reported_and_harmless_once_fixed() {
    let (folder, expected) = golden();
    let log = folder.path().join("log");
    // This event is in no other file.
    let wanted = b"\"subject\": \"op-41\"";
    let paths = std::fs::read_dir(&log)
        .unwrap()
        .map(|file| file.unwrap().path());
    let mut found = paths.filter_map(|path| {
        let bytes = std::fs::read(&path).unwrap();
        let is_wal = path.extension().is_some_and(|extension| extension == "log");
        let at = bytes
            .windows(wanted.len())
            .position(|window| window == wanted);
        Some((path, at.filter(|_| is_wal)?))
    });
    let (path, at) = found.next().expect("it is in the write-ahead log");
    let flip = || {
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[at] ^= 1;
        std::fs::write(&path, bytes).unwrap();
    };
    flip();
    let said = refused(folder.path());
    assert!(
        said.contains("a record of the write-ahead log cannot be read"),
        "{said}"
    );
    flip();
    let server = Server::on(folder.path(), &[]);
    let token = [("ledger-position", expected["token"].as_str().unwrap())];
    let answer = server.get_with("/v1/operations/op-49", &token);
    assert_eq!(answer.status, 200);
}

const PARTITIONS: u32 = 3;

/// An old log in memory: groups of records, one row for each partition of a group.
fn old_rows(rng: &mut Rng) -> (Memory, Vec<Logged>) {
    let db = Memory::default();
    let mut batch = Batch::default();
    batch.put(Family::Meta, b"log", b"\x01abcd1234");
    batch.put(Family::Meta, b"partitions", &PARTITIONS.to_be_bytes());
    let mut ends = [0; PARTITIONS as usize];
    let mut all = Vec::new();
    for group in 0..rng.below(40) {
        for partition in 0..PARTITIONS {
            let records: Vec<Record> = (0..rng.below(4))
                .map(|n| Record {
                    arrived: Timestamp::from_millis(group as i64),
                    claimed: false,
                    key: None,
                    headers: Headers::default(),
                    value: Some(
                        format!("{group} {partition} {n}")
                            .repeat(1 + rng.below(90))
                            .into(),
                    ),
                })
                .collect();
            if records.is_empty() {
                continue;
            }
            let offset = ends[partition as usize];
            let at = Position::from((partition, offset));
            let row = block::Encoder::default().append(records.iter(), Vec::new());
            batch.put(Family::Log, &at.to_key(), &row);
            for (offset, record) in (offset..).zip(records) {
                all.push(Logged {
                    at: Position::from((partition, offset)),
                    record,
                });
                ends[partition as usize] += 1;
            }
        }
    }
    db.write(&batch, Durability::Synced).unwrap();
    (db, all)
}

fn layout() -> Layout {
    Layout {
        which: Which::Events,
        partitions: PARTITIONS,
        least: 18 << 10,
        most: 20 << 10,
        ahead: Ahead::Never,
    }
}

fn upgrade_once(disk: &Disk, old: &Arc<Memory>) -> bool {
    let shared: Arc<dyn disk::Disk> = Arc::new(disk.clone());
    let open = || Ok(old.clone() as Arc<dyn Db>);
    upgrade::if_needed(&shared, layout(), open).is_ok()
}

/// The RocksDB files that the upgrade checks.
const OLD_FILES: [&str; 3] = ["CURRENT", "MANIFEST-000004", "000012.sst"];

#[test]
fn an_upgrade_interrupted_anywhere_loses_nothing() {
    for seed in 0..300 {
        let mut rng = Rng::new(seed);
        let (old, mut expected) = old_rows(&mut rng);
        let old = Arc::new(old);
        let disk = Disk::default();
        for name in OLD_FILES {
            let file = disk.create(name).unwrap();
            file.write_at(0, name.as_bytes()).unwrap();
            file.sync().unwrap();
        }
        disk.sync_folder("").unwrap();
        loop {
            let mut left = rng.below(60);
            let after = rng.chance(50);
            disk.set_faults(Some(Box::new(move |_| match left.checked_sub(1) {
                Some(less) => {
                    left = less;
                    WriteFault::None
                }
                None => WriteFault::Die { after },
            })));
            let is_done = upgrade_once(&disk, &old);
            disk.set_faults(None);
            if is_done {
                break;
            }
            // At every point all old files exist, either here or where the upgrade keeps them.
            match rng.chance(50) {
                true => disk.restart(),
                false => {
                    let keep = rng.next() as usize;
                    disk.lose_power(|| rng.chance(50), |count| keep % (count + 1));
                }
            }
            for name in OLD_FILES {
                let kept = disk.content(&format!("rocksdb/{name}"));
                let content = disk.content(name).or(kept);
                assert_eq!(content.as_deref(), Some(name.as_bytes()), "seed {seed}");
            }
        }
        let settings = EmbeddedSettings {
            which: Which::Events,
            ahead: Ahead::Never,
            partitions: PARTITIONS,
            max_waiting: 1 << 20,
            publish_timeout: Duration::from_secs(10),
        };
        let clock = Arc::new(|| Timestamp::from_millis(1));
        let log = Embedded::open(Arc::new(disk), settings, clock).unwrap();
        let id = LogId(*b"abcd1234");
        assert_eq!(log.id(), Some(id), "seed {seed}");
        let mut reader = log.reader(id, &NextOffsets::default(), Share::ALL).unwrap();
        let limits = Limits {
            records: usize::MAX,
            bytes: usize::MAX,
            patience: Duration::ZERO,
        };
        let mut read = Vec::new();
        reader.read(&limits, &mut read).unwrap();
        read.sort_by_key(|logged| logged.at);
        expected.sort_by_key(|logged| logged.at);
        assert!(read == expected, "seed {seed}");
        let ends = log.readable().unwrap();
        assert_eq!(
            ends.values().map(|end| end.0).sum::<u64>(),
            expected.len() as u64
        );
    }
}
