//! Several readers of one topic, each with a share of its partitions and a client of its own.

use super::changed_log::{ids, recreate};
use super::settings;
use crate::support::broker::{Broker, Raw};
use crate::support::deadline::{LATER, within};
use opledger::event_log::kafka::Kafka;
use opledger::event_log::{EventLog, Limits, Logged, ReadError, Reader, Share};
use opledger::wire::position::{NextOffsets, Partition};
use std::time::Duration;

const LIMITS: Limits = Limits {
    records: 100,
    bytes: 1 << 20,
    patience: Duration::from_millis(100),
};

/// Sends `count` records to each of the first partitions.
fn fill(broker: &Broker, topic: &str, partitions: i32, value: &str, count: usize) {
    let each = (0..partitions).flat_map(|partition| {
        let values = ids(value, count).into_iter();
        values.map(move |value| Raw::value(value).on(partition))
    });
    broker.send(topic, &each.collect::<Vec<_>>());
}

fn readers(log: &Kafka, of: usize) -> Vec<Box<dyn Reader>> {
    let id = log.identify().unwrap().id;
    let open = |index| log.reader(id, &NextOffsets::default(), Share { index, of });
    (0..of).map(|index| open(index).unwrap()).collect()
}

/// Everything that is read and confirmed until the reader fails.
fn confirmed_until_it_fails(reader: &mut dyn Reader) -> (Vec<Logged>, ReadError) {
    let mut confirmed = Vec::new();
    let failure = within(LATER, "the reader fails", || {
        let mut batch = Vec::new();
        let read = reader.read(&LIMITS, &mut batch);
        if let Err(error) = read.and_then(|()| reader.confirm().wait()) {
            return Some(error);
        }
        confirmed.append(&mut batch);
        None
    });
    (confirmed, failure)
}

fn read(reader: &mut dyn Reader, count: usize) -> Vec<Logged> {
    let mut records = Vec::new();
    within(LATER, "all records", || {
        reader.read(&LIMITS, &mut records).unwrap();
        (records.len() >= count).then_some(())
    });
    assert_eq!(reader.confirm().wait(), Ok(()));
    records
}

/// Each client learns of the new topic by itself.
#[test]
fn no_reader_confirms_records_of_a_recreated_topic() {
    let broker = Broker::shared();
    let topic = broker.topic(2, &[]);
    fill(&broker, &topic, 2, "old", 5);
    let log = Kafka::open(settings(&broker, &topic)).unwrap();
    let mut readers = readers(&log, 2);
    for (reader, partition) in readers.iter_mut().zip(Partition::all()) {
        let records = read(&mut **reader, 5);
        assert_eq!(records.len(), 5);
        assert!(
            records
                .iter()
                .all(|logged| logged.at.partition == partition)
        );
    }
    recreate(&broker, &topic, 2);
    fill(&broker, &topic, 2, "new", 60);
    for reader in &mut readers {
        let (confirmed, failure) = confirmed_until_it_fails(&mut **reader);
        assert_eq!(confirmed, [], "{failure}");
    }
}

#[test]
fn every_reader_notices_added_partitions_and_each_is_read_by_one() {
    let broker = Broker::shared();
    let topic = broker.topic(2, &[]);
    let log = Kafka::open(settings(&broker, &topic)).unwrap();
    let before = readers(&log, 2);
    broker.add_partitions(&topic, 5);
    // Before any of these has a record.
    for mut reader in before {
        let (_, failure) = confirmed_until_it_fails(&mut *reader);
        assert!(failure.to_string().contains("5 partitions"), "{failure}");
    }
    fill(&broker, &topic, 5, "after", 3);
    let mut positions = Vec::new();
    for (mut reader, count) in readers(&log, 2).into_iter().zip([9, 6]) {
        let records = read(&mut *reader, count);
        positions.extend(records.iter().map(|logged| logged.at));
    }
    positions.sort_unstable();
    let all = (0..5).flat_map(|partition| (0..3).map(move |offset| (partition, offset).into()));
    assert_eq!(positions, all.collect::<Vec<_>>());
}
