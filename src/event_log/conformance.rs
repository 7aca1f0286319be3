//! One test suite for all adapters. It panics if an adapter breaks a promise of the port.

use super::{EventLog, Limits, Logged, NewRecord, Reader, Share};
use crate::wire::position::{LastOffsets, NextOffsets, Partition, Position};
use crate::wire::record::Headers;
use bytes::Bytes;
use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock, mpsc};
use std::thread;
use std::time::{Duration, Instant};

/// `log` is empty and has at least two partitions.
pub async fn suite(log: &dyn EventLog) {
    positions_rise_and_come_in_the_order_given(log).await;
    what_was_published_is_read_from_any_position(log).await;
    a_reader_waits_for_more(log).await;
    records_outlive_their_reader(log).await;
    single_records_are_found_again(log).await;
    headers_and_missing_values_survive(log).await;
    bounds_name_every_partition(log).await;
    for of in [2, 3] {
        readers_of_all_shares_read_every_record_once(log, of).await;
        a_reader_wakes_for_its_partitions(log, of).await;
    }
}

fn record(operation: usize, value: &str) -> NewRecord {
    NewRecord {
        operation_id: format!("op-{operation}"),
        headers: Headers::default(),
        value: Some(Bytes::from(value.to_owned())),
    }
}

const LIMITS: Limits = Limits {
    records: 7,
    bytes: 1 << 20,
    patience: Duration::from_millis(200),
};

/// The present ends of the partitions.
fn ends(log: &dyn EventLog, share: Share) -> NextOffsets {
    log.identify().expect("identified");
    let ends = log.readable().expect("readable").into_iter();
    ends.filter(|(partition, _)| share.has(*partition))
        .collect()
}

/// Reads to the present end of the log.
fn read_all(log: &dyn EventLog, reader: &mut dyn Reader) -> Vec<Logged> {
    read_to(&ends(log, Share::ALL), reader)
}

fn read_to(ends: &NextOffsets, reader: &mut dyn Reader) -> Vec<Logged> {
    let until = Instant::now() + Duration::from_secs(60);
    let mut all = Vec::new();
    while !reader.next().have_reached(ends) {
        assert!(Instant::now() < until, "it is read to its end");
        let mut batch = Vec::new();
        reader.read(&LIMITS, &mut batch).expect("readable");
        all.append(&mut batch);
    }
    all
}

fn reader(log: &dyn EventLog, from: &NextOffsets) -> Box<dyn Reader> {
    reader_of(log, from, Share::ALL)
}

fn reader_of(log: &dyn EventLog, from: &NextOffsets, share: Share) -> Box<dyn Reader> {
    let id = log.identify().expect("identified").id;
    assert_eq!(log.id(), Some(id));
    log.reader(id, from, share).expect("a reader")
}

fn shares(of: usize) -> impl Iterator<Item = Share> {
    (0..of).map(move |index| Share { index, of })
}

fn everything(log: &dyn EventLog) -> Vec<Logged> {
    read_all(log, &mut *reader(log, &NextOffsets::default()))
}

async fn publish(log: &dyn EventLog, records: Vec<NewRecord>) -> Vec<Position> {
    let published = log.publish(records).await.expect("published");
    assert_eq!(Some(published.log), log.id());
    published.positions
}

async fn positions_rise_and_come_in_the_order_given(log: &dyn EventLog) {
    assert_eq!(
        log.publish(Vec::new()).await.map(|p| p.positions),
        Ok(Vec::new())
    );
    let mut last = LastOffsets::default();
    for round in 0..5 {
        let batch: Vec<_> = (0..20)
            .map(|i| record(i, &format!("{round}/{i}")))
            .collect();
        let positions = publish(log, batch).await;
        assert_eq!(positions.len(), 20);
        for at in positions {
            let before = last.insert(at.partition, at.offset);
            assert!(
                before.is_none_or(|before| before < at.offset),
                "offsets rise"
            );
        }
    }
    assert!(last.len() > 1, "operations spread over the partitions");
}

async fn what_was_published_is_read_from_any_position(log: &dyn EventLog) {
    let batch: Vec<_> = (0..50).map(|i| record(i, &format!("marked {i}"))).collect();
    let positions = publish(log, batch).await;
    let all = everything(log);
    for (i, at) in positions.iter().enumerate() {
        let found: Vec<_> = all.iter().filter(|logged| logged.at == *at).collect();
        assert_eq!(found.len(), 1, "every position is read once");
        let value = found[0].record.value.as_deref();
        assert_eq!(value, Some(format!("marked {i}").as_bytes()));
    }
    for count in [0, 1, 30, 60, all.len() - 1] {
        let read = all[..count].iter().map(|logged| logged.at);
        let last: LastOffsets = read.map(|at| (at.partition, at.offset)).collect();
        let rest = read_all(log, &mut *reader(log, &last.next()));
        assert_eq!(
            by_partition(&rest),
            by_partition(&all[count..]),
            "after {count} records"
        );
    }
}

fn by_partition(records: &[Logged]) -> BTreeMap<Partition, Vec<&Logged>> {
    let mut partitions: BTreeMap<Partition, Vec<&Logged>> = BTreeMap::new();
    for logged in records {
        partitions
            .entry(logged.at.partition)
            .or_default()
            .push(logged);
    }
    partitions
}

async fn a_reader_waits_for_more(log: &dyn EventLog) {
    let mut reader = reader(log, &NextOffsets::default());
    read_all(log, &mut *reader);
    let at = publish(log, vec![record(3, "late")]).await[0];
    let more = read_all(log, &mut *reader);
    assert_eq!(more.iter().map(|l| l.at).collect::<Vec<_>>(), [at]);
    assert!(
        reader.next()[&at.partition] > at.offset,
        "it says how far it is"
    );
    assert_eq!(reader.confirm().wait(), Ok(()), "and of which log");
}

async fn records_outlive_their_reader(log: &dyn EventLog) {
    let value = |name: &str| format!("{name} {}", "of many bytes ".repeat(1000));
    let at = publish(
        log,
        vec![record(1, &value("one")), record(2, &value("two"))],
    )
    .await;
    let all = everything(log);
    for (at, name) in at.iter().zip(["one", "two"]) {
        let found = all.iter().find(|logged| logged.at == *at).expect("read");
        assert_eq!(found.record.value.as_deref(), Some(value(name).as_bytes()));
    }
}

async fn single_records_are_found_again(log: &dyn EventLog) {
    let batch = vec![record(1, "here"), record(2, "and here")];
    let positions = publish(log, batch).await;
    let last: LastOffsets = positions
        .iter()
        .map(|at| (at.partition, at.offset))
        .collect();
    let found = log.records_at(&last).expect("readable");
    let all = everything(log);
    for (partition, offset) in last.iter() {
        let at = Position {
            partition: *partition,
            offset: *offset,
        };
        let read = all.iter().find(|logged| logged.at == at).expect("read");
        assert_eq!(found[partition], read.record);
    }
    let beyond = last
        .iter()
        .map(|(p, offset)| (*p, offset.plus(1_000)))
        .collect();
    assert_eq!(log.records_at(&beyond), Ok(BTreeMap::new()));
}

async fn headers_and_missing_values_survive(log: &dyn EventLog) {
    let headers = Headers(vec![
        ("ce_id".into(), Some(Bytes::from_static(b"\xff\x00"))),
        ("twice".into(), Some(Bytes::new())),
        ("twice".into(), None),
    ]);
    let sent = NewRecord {
        operation_id: "with-headers".into(),
        headers: headers.clone(),
        value: None,
    };
    let at = publish(log, vec![sent]).await[0];
    let all = everything(log);
    let found = all.iter().find(|logged| logged.at == at).expect("read");
    assert_eq!(found.record.headers, headers);
    assert_eq!(found.record.value, None);
}

async fn bounds_name_every_partition(log: &dyn EventLog) {
    let bounds = log.bounds().expect("bounds");
    for logged in everything(log) {
        let partition = bounds[&logged.at.partition];
        assert!(partition.hold(logged.at.offset));
    }
}

/// Each reader on a thread of its own, while records are appended.
async fn readers_of_all_shares_read_every_record_once(log: &dyn EventLog, of: usize) {
    let until = Instant::now() + Duration::from_secs(60);
    let goal = Arc::new(OnceLock::<NextOffsets>::new());
    let reading = shares(of).map(|share| {
        let mut reader = reader_of(log, &NextOffsets::default(), share);
        let goal = goal.clone();
        thread::spawn(move || {
            let mut read = Vec::new();
            loop {
                assert!(Instant::now() < until, "each share is read to its end");
                let mut batch = Vec::new();
                reader.read(&LIMITS, &mut batch).expect("readable");
                read.append(&mut batch);
                let next = reader.next();
                let mine = |ends: &NextOffsets| -> NextOffsets {
                    let ends = ends.iter().filter(|(p, _)| share.has(**p));
                    ends.map(|(p, end)| (*p, *end)).collect()
                };
                if let Some(ends) = goal.get().map(mine)
                    && next.have_reached(&ends)
                {
                    assert_eq!(reader.confirm().wait(), Ok(()));
                    assert!(
                        next.keys().eq(ends.keys()),
                        "it names the partitions of its share"
                    );
                    return (share, read);
                }
            }
        })
    });
    let reading: Vec<_> = reading.collect();
    for round in 0..20 {
        let batch = (0..10).map(|i| record(i, &format!("{of}/{round}/{i}")));
        publish(log, batch.collect()).await;
    }
    goal.set(ends(log, Share::ALL)).expect("set once");
    let mut together = Vec::new();
    for reading in reading {
        let (share, read) = reading.join().expect("a reader");
        let is_its_own = |logged: &Logged| share.has(logged.at.partition);
        assert!(read.iter().all(is_its_own), "each reads its share only");
        together.extend(read);
    }
    let all = everything(log);
    assert_eq!(by_partition(&together), by_partition(&all));
    // A reader of a share begins where it is told to, too.
    let half = all[..all.len() / 2].iter().map(|logged| logged.at);
    let half: LastOffsets = half.map(|at| (at.partition, at.offset)).collect();
    for share in shares(of) {
        let mut reader = reader_of(log, &half.next(), share);
        let named = reader.next();
        assert!(named.keys().all(|partition| share.has(*partition)));
        let rest = read_to(&ends(log, share), &mut *reader);
        let expected = all[all.len() / 2..].iter();
        let expected: Vec<_> = expected
            .filter(|logged| share.has(logged.at.partition))
            .cloned()
            .collect();
        assert_eq!(by_partition(&rest), by_partition(&expected));
    }
}

/// Long before its patience is over.
async fn a_reader_wakes_for_its_partitions(log: &dyn EventLog, of: usize) {
    let limits = Limits {
        patience: Duration::from_secs(600),
        records: 1000,
        ..LIMITS
    };
    let (sender, came) = mpsc::channel();
    // With fewer partitions than readers, the last ones have nothing to wait for.
    let waiting: Vec<_> = shares(of)
        .filter_map(|share| {
            let ends = ends(log, share);
            (!ends.is_empty()).then_some((share, ends))
        })
        .collect();
    for (share, ends) in &waiting {
        let (mut reader, sender) = (reader_of(log, ends, *share), sender.clone());
        thread::spawn(move || {
            // Until nobody listens.
            loop {
                let mut read = Vec::new();
                reader.read(&limits, &mut read).expect("readable");
                let positions: Vec<_> = read.iter().map(|logged| logged.at).collect();
                if sender.send(positions).is_err() {
                    return;
                }
            }
        });
    }
    for round in 0..3 {
        let batch = (0..100).map(|i| record(i, &format!("wake {of}/{round}/{i}")));
        let mut missing = publish(log, batch.collect()).await;
        while !missing.is_empty() {
            let read = came.recv_timeout(Duration::from_secs(60));
            let read = read.expect("the readers wake");
            missing.retain(|at| !read.contains(at));
        }
    }
    // The threads end with their next record.
    drop(came);
    publish(log, (0..100).map(|i| record(i, "end")).collect()).await;
}
