//! Every event log passes the same suite. The embedded one also passes it with restarts.

use crate::support::generate::Rng;
use bytes::Bytes;
use opledger::domain::Timestamp;
use opledger::event_log::embedded::disk::memory::{DiskCall, MemoryDisk};
use opledger::event_log::embedded::disk::{self, Disk};
use opledger::event_log::embedded::{
    Ahead, Appender, Embedded, EmbeddedSettings, Layout, Which, Why,
};
use opledger::event_log::{
    EventLog, Limits, NewRecord, PublishError, ReadError, Share, conformance, memory,
};
use opledger::store::memory::WriteFault;
use opledger::wire::position::{LogId, NextOffsets, Offset, Partition, Position};
use opledger::wire::record::Headers;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

const SETTINGS: EmbeddedSettings = EmbeddedSettings {
    which: Which::Events,
    ahead: Ahead::Never,
    partitions: 4,
    max_waiting: 1 << 20,
    publish_timeout: Duration::from_secs(10),
};

fn embedded(disk: Arc<dyn Disk>, settings: EmbeddedSettings) -> Result<Embedded, Why> {
    Embedded::open(
        disk,
        settings,
        Arc::new(|| Timestamp::from_millis(1_700_000_000_000)),
    )
}

fn folder(path: &Path) -> Arc<dyn Disk> {
    Arc::new(disk::Os::at(path).unwrap())
}

fn record(operation: &str, value: &str) -> NewRecord {
    NewRecord {
        operation_id: operation.into(),
        headers: Headers::default(),
        value: Some(Bytes::from(value.to_owned())),
    }
}

#[tokio::test]
async fn the_memory_log_conforms() {
    conformance::suite(&memory::MemoryLog::new(LogId(*b"memory00"), 3)).await;
}

#[tokio::test]
async fn the_embedded_log_conforms_on_memory() {
    let log = embedded(Arc::new(MemoryDisk::default()), SETTINGS).unwrap();
    conformance::suite(&log).await;
}

#[tokio::test]
async fn the_embedded_log_conforms_in_a_folder() {
    let folder = tempfile::tempdir().unwrap();
    conformance::suite(&embedded(self::folder(folder.path()), SETTINGS).unwrap()).await;
}

#[tokio::test]
async fn a_log_is_the_same_log_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let log = embedded(self::folder(folder.path()), SETTINGS).unwrap();
    let id = log.id();
    let first = log
        .publish(vec![record("a", "1"), record("a", "2")])
        .await
        .unwrap()
        .positions;
    drop(log);
    let log = embedded(self::folder(folder.path()), SETTINGS).unwrap();
    assert_eq!(log.id(), id);
    let id = id.unwrap();
    let next = log.publish(vec![record("a", "3")]).await.unwrap().positions;
    assert_eq!(next[0].partition, first[1].partition);
    assert_eq!(next[0].offset, first[1].offset.next());
    let limits = Limits {
        records: 10,
        bytes: 1 << 20,
        patience: Duration::from_secs(1),
    };
    let mut read = Vec::new();
    log.reader(id, &NextOffsets::default(), Share::ALL)
        .unwrap()
        .read(&limits, &mut read)
        .unwrap();
    assert_eq!(read.len(), 3);
}

#[tokio::test]
async fn partitions_can_be_added_and_never_taken_away() {
    let disk = Arc::new(MemoryDisk::default());
    let more = EmbeddedSettings {
        partitions: 7,
        ..SETTINGS
    };
    drop(embedded(disk.clone(), SETTINGS).unwrap());
    let log = embedded(disk.clone(), more).unwrap();
    conformance::suite(&log).await;
    assert_eq!(log.bounds().unwrap().len(), 7);
    drop(log);
    let refused = embedded(disk, SETTINGS).err().expect("fewer partitions");
    assert!(refused.to_string().contains("log.partitions"), "{refused}");
}

#[tokio::test]
async fn a_failed_write_is_unknown_and_the_log_goes_on() {
    let disk = Arc::new(MemoryDisk::default());
    let log = embedded(disk.clone(), SETTINGS).unwrap();
    let faults = [WriteFault::Refuse, WriteFault::Misreport];
    for (aimed, fault) in [DiskCall::Write, DiskCall::Sync]
        .into_iter()
        .flat_map(|call| faults.map(|fault| (call, fault)))
    {
        let armed = Arc::new(AtomicBool::new(true));
        let once = armed.clone();
        disk.set_faults(Some(Box::new(move |call| {
            if call == aimed && once.swap(false, Ordering::Relaxed) {
                fault
            } else {
                WriteFault::None
            }
        })));
        let outcome = log.publish(vec![record("a", "x")]).await;
        assert!(
            matches!(outcome, Err(PublishError::Unknown(_))),
            "{outcome:?}"
        );
        let until = std::time::Instant::now() + Duration::from_secs(10);
        while log.trouble().is_some() {
            assert!(std::time::Instant::now() < until, "it recovers");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        conformance::suite(&log).await;
    }
}

#[test]
fn an_acknowledgement_that_failed_but_happened_does_not_stop_the_next_start() {
    let layout = Layout {
        which: Which::Events,
        partitions: 2,
        least: 18 << 10,
        most: 20 << 10,
        ahead: Ahead::Never,
    };
    let now = Timestamp::from_millis(0);
    // After the failed write, the process dies a call later in each round, while the log
    // recovers.
    for calls in 0.. {
        let disk = MemoryDisk::default();
        let mut appender = Appender::open(Arc::new(disk.clone()), layout).unwrap();
        appender.append(vec![vec![record("a", "x")]], now).unwrap();
        let mut writes = 0;
        disk.set_faults(Some(Box::new(move |call| {
            writes += usize::from(call == DiskCall::Write);
            // The first write is the frame, the second the acknowledged records.
            match (call, writes) {
                (DiskCall::Write, 2) => WriteFault::Misreport,
                _ => WriteFault::None,
            }
        })));
        let failed = appender.append(vec![vec![record("b", "y")]], now);
        assert!(failed.is_err(), "{failed:?}");
        let mut left = calls;
        disk.set_faults(Some(Box::new(move |_| match left {
            0 => WriteFault::Die { after: false },
            _ => {
                left -= 1;
                WriteFault::None
            }
        })));
        let went_on = appender.recover();
        disk.set_faults(None);
        drop(appender);
        if !disk.is_dead() {
            assert!(went_on.is_ok() && calls > 4, "{calls}: {went_on:?}");
            return;
        }
        disk.restart();
        let log = Appender::open(Arc::new(disk), layout);
        let log = log.unwrap_or_else(|why| panic!("after {calls} calls: {why}"));
        let records: u64 = log.ends().iter().map(|end| end.0).sum();
        assert!((1..=2).contains(&records), "{records}");
    }
}

#[tokio::test]
async fn waiting_appends_are_bounded() {
    let disk = Arc::new(MemoryDisk::default());
    // A disk that hangs for a moment.
    let log = Arc::new(embedded(disk.clone(), SETTINGS).unwrap());
    disk.set_faults(Some(Box::new(|_| {
        std::thread::sleep(Duration::from_millis(300));
        WriteFault::None
    })));
    let big = "x".repeat(600 << 10);
    let publishes: Vec<_> = (0..8)
        .map(|_| {
            let (log, big) = (log.clone(), big.clone());
            tokio::spawn(async move { log.publish(vec![record("a", &big)]).await })
        })
        .collect();
    let mut outcomes = Vec::new();
    for publish in publishes {
        outcomes.push(publish.await.unwrap());
    }
    assert!(outcomes.contains(&Err(PublishError::Busy)), "{outcomes:?}");
    let stored = outcomes.iter().flatten().count() as u64;
    let ends: u64 = log
        .bounds()
        .unwrap()
        .values()
        .map(|bounds| bounds.end.0)
        .sum();
    assert_eq!(ends, stored, "refused records are not stored");
}

#[tokio::test]
async fn an_error_of_the_disk_names_no_folder() {
    let folder = tempfile::tempdir().unwrap();
    let log = embedded(self::folder(folder.path()), SETTINGS).unwrap();
    // No more files can be created: the log notices it when the next segment begins.
    std::fs::remove_dir_all(folder.path()).unwrap();
    let mut rng = Rng::new(1);
    let until = std::time::Instant::now() + Duration::from_secs(60);
    let told = loop {
        // Incompressible data.
        let noise = (0..60_000).map(|_| format!("{:016x}", rng.next()));
        let noise: String = noise.collect();
        match log.publish(vec![record("a", &noise)]).await {
            Ok(_) => assert!(std::time::Instant::now() < until, "it never noticed"),
            Err(error) => break error.to_string(),
        }
    };
    assert!(told.contains("No such file"), "{told}");
    assert!(!told.contains(folder.path().to_str().unwrap()), "{told}");
    let trouble = log.trouble().expect("reported");
    assert!(!trouble.contains('/'), "{trouble}");
}

/// A reader reads of the other readers' blocks nothing, so damage to them does not concern it.
#[tokio::test]
async fn only_the_reader_of_a_partition_is_stopped_by_damage_to_its_block() {
    let disk = Arc::new(MemoryDisk::default());
    let log = embedded(disk.clone(), SETTINGS).unwrap();
    let batch = (0..40).map(|n| record(&format!("op-{n}"), &format!("value {n};")));
    let published = log.publish(batch.collect()).await.unwrap();
    let damaged = published.positions[17];
    disk.tamper("0000000001.segment", |bytes| {
        let value = b"value 17;";
        let at = bytes.windows(value.len()).position(|part| part == value);
        bytes[at.expect("so few records are not compressed")] ^= 1;
    });
    let ends = log.readable().unwrap();
    assert!(ends.len() == 4 && ends.values().all(|end| *end > Offset::ZERO));
    for index in 0..4 {
        let share = Share { index, of: 4 };
        let mut reader = log
            .reader(published.log, &NextOffsets::default(), share)
            .unwrap();
        let limits = Limits {
            records: 100,
            bytes: 1 << 20,
            patience: Duration::ZERO,
        };
        let mut read = Vec::new();
        let outcome = reader.read(&limits, &mut read);
        if share.has(damaged.partition) {
            let first = Position {
                offset: Offset::ZERO,
                ..damaged
            };
            assert!(
                matches!(outcome, Err(ReadError::Damaged { at, .. }) if at == first),
                "{outcome:?}"
            );
        } else {
            assert_eq!(outcome, Ok(()));
            let mine = |(p, _): &(&Partition, &Offset)| share.has(**p);
            let all: u64 = ends.iter().filter(mine).map(|(_, end)| end.0).sum();
            assert_eq!(read.len() as u64, all);
        }
    }
}
