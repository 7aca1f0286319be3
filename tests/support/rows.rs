//! Rows of a store in a form that does not depend on how its log was cut.

use bytes::Bytes;
use opledger::store::{Family, keys};
use opledger::wire::snapshot_location::{self, Place};
use opledger::wire::{cloudevent, record, without_id};
use std::collections::BTreeMap;

pub type Row = (Family, Vec<u8>, Vec<u8>);

/// How records are gathered into rows of the history depends on the cuts, and on
/// nothing else: each as if it had a row of its own.
///
/// Which cut settled an operation, and whether it has changed since, follows from the cuts
/// as well: each snapshot as if it stood under its own key.
pub fn one_by_one(rows: Vec<Row>) -> Vec<Row> {
    let settled = rows
        .iter()
        .filter(|(family, ..)| *family == Family::Settled);
    let settled: BTreeMap<Vec<u8>, Vec<u8>> = settled
        .map(|(_, key, value)| (key.clone(), value.clone()))
        .collect();
    let mut all = Vec::new();
    for (family, key, value) in rows {
        match family {
            Family::History => {}
            // What one cut changed is told cut by cut.
            Family::Change | Family::Settled => continue,
            Family::State => {
                let (place, snapshot) = snapshot_location::of_state(&value);
                let snapshot = match place {
                    Place::Settled(change) => {
                        let row = &settled[&keys::settled(change, &key)];
                        let id = keys::operation_of(&key).expect("a key of ours");
                        without_id::restore(id, row)
                            .expect("a row of ours")
                            .into_owned()
                    }
                    Place::Open | Place::Revised(_) => snapshot.to_vec(),
                };
                all.push((family, key, snapshot));
                continue;
            }
            Family::ByTime | Family::ByStatus => {
                let (_, row) = snapshot_location::of_entry(&value);
                all.push((family, key, row.to_vec()));
                continue;
            }
            _ => {
                all.push((family, key, value));
                continue;
            }
        }
        let (_, at) = keys::split_history(&key).expect("a key of ours");
        let prefix = keys::operation_prefix(&key).expect("a key of ours");
        let id = keys::operation_of(&prefix[..prefix.len() - 1]).expect("a key of ours");
        let value = without_id::restore(id, &value)
            .expect("a row of ours")
            .into_owned();
        let records = record::decode_history(&Bytes::from(value), at).expect("a row of ours");
        for (at, record) in records {
            let event = cloudevent::decode(&record).expect("an event");
            let key = keys::history(&event.operation_id, &event.key, at);
            all.push((family, key, record::encode(&record)));
        }
    }
    all
}

/// The entries of what is settled name the place where its snapshot is, and no others do.
pub fn check_places(rows: &[Row]) {
    let states = rows.iter().filter(|(family, ..)| *family == Family::State);
    let settled: BTreeMap<&str, Option<u64>> = states
        .map(|(_, key, row)| {
            let id = keys::operation_of(key).expect("a key of ours");
            (id, snapshot_location::of_state(row).0.settled())
        })
        .collect();
    for (family, key, row) in rows {
        let by_time = match family {
            Family::ByTime => &key[..],
            Family::ByStatus => &key[1..],
            _ => continue,
        };
        let id = keys::operation_of_by_time(by_time).expect("a key of ours");
        assert_eq!(
            snapshot_location::of_entry(row).0,
            settled[id],
            "{family:?} of {id}"
        );
    }
}
