//! Rows of a store in a form that does not depend on the batches of its log.

use bytes::Bytes;
use opledger::rows::keys;
use opledger::store::Family;
use opledger::wire::{cloudevent, record, without_id};

pub type Row = (Family, Vec<u8>, Vec<u8>);

/// Only the batches decide which records share a row of the history. This gives each record a row
/// of its own.
pub fn one_by_one(rows: Vec<Row>) -> Vec<Row> {
    let mut all = Vec::new();
    for (family, key, value) in rows {
        match family {
            Family::History => {}
            // There is one change row for each batch, so they cannot be compared.
            Family::Change => continue,
            _ => {
                all.push((family, key, value));
                continue;
            }
        }
        let (_, at) = keys::split_history(&key).expect("a key of ours");
        let id = keys::operation_of_history(&key).expect("a key of ours");
        let value = without_id::restore(id, &value)
            .expect("a row of ours")
            .into_owned();
        let records = record::decode_history(&Bytes::from(value), at).expect("a row of ours");
        for (at, record) in records {
            let event = cloudevent::decode(&record).expect("an event");
            let key = keys::history(event.operation(), &event.key, at);
            all.push((family, key, record::encode(&record)));
        }
    }
    all
}
