//! The snapshot of an operation, wherever it stands: under the operation's own key, or, of
//! one that has ended, beside those that ended with it (`wire::place_v1`).

use crate::store::{Cached, Db, Family, Result, View, keys};
use crate::wire::place_v1::{Place, of_state};
use crate::wire::unnamed_v1;

/// The snapshot; empty if it is not where it should be, which is read as damage. `None` if
/// nothing was ever heard of the operation.
pub fn snapshot(view: &dyn View, operation_id: &str) -> Result<Option<Vec<u8>>> {
    let key = keys::operation(operation_id);
    let row = view.get(Family::State, &key)?;
    row.map(|row| follow(view, &key, row)).transpose()
}

/// The same of an operation whose row under its own key is this.
pub fn follow(view: &dyn View, key: &[u8], row: Vec<u8>) -> Result<Vec<u8>> {
    Ok(match of_state(&row) {
        (Place::Open, _) => row,
        (Place::Revised(_), snapshot) => snapshot.to_vec(),
        (Place::Settled(change), _) => {
            whole(key, view.get(Family::Settled, &keys::settled(change, key))?)
        }
    })
}

/// The same from memory alone. What is settled never changes: no view is needed.
pub fn follow_cached(db: &dyn Db, key: &[u8], row: &[u8]) -> Result<Cached> {
    Ok(match of_state(row) {
        (Place::Open | Place::Revised(_), snapshot) => Cached::Known(Some(snapshot.to_vec())),
        (Place::Settled(change), _) => {
            match db.get_cached(Family::Settled, &keys::settled(change, key))? {
                Cached::Known(row) => Cached::Known(Some(whole(key, row))),
                Cached::Unknown => Cached::Unknown,
            }
        }
    })
}

/// Of these operations, each with what its entry in a list says of its place.
pub fn snapshots(view: &dyn View, rows: &[(&str, Option<u64>)]) -> Result<Vec<Option<Vec<u8>>>> {
    let mut snapshots = vec![None; rows.len()];
    for family in [Family::Settled, Family::State] {
        let (mut places, mut keys) = (Vec::new(), Vec::new());
        for (place, (id, settled)) in rows.iter().enumerate() {
            let key = keys::operation(id);
            match (family, settled) {
                (Family::Settled, Some(change)) => keys.push(keys::settled(*change, &key)),
                (Family::State, None) => keys.push(key),
                _ => continue,
            }
            places.push(place);
        }
        let wanted: Vec<&[u8]> = keys.iter().map(|key| &**key).collect();
        let found = view.multi_get(family, &wanted)?;
        for ((place, key), row) in places.into_iter().zip(&keys).zip(found) {
            snapshots[place] = match row {
                Some(row) if family == Family::State => Some(follow(view, key, row)?),
                // Behind the number of the change.
                Some(row) => Some(whole(&key[8..], Some(row))),
                None => None,
            };
        }
    }
    Ok(snapshots)
}

/// The snapshot from memory alone.
pub fn snapshot_cached(db: &dyn Db, operation_id: &str) -> Result<Cached> {
    let key = keys::operation(operation_id);
    match db.get_cached(Family::State, &key)? {
        Cached::Known(Some(row)) => follow_cached(db, &key, &row),
        other => Ok(other),
    }
}

/// Of the operations with these keys, where each snapshot is, and the snapshot.
pub fn held(db: &dyn Db, keys: &[&[u8]]) -> Result<Vec<Option<(Place, Vec<u8>)>>> {
    let rows = db.multi_get(Family::State, keys)?;
    let settled = keys.iter().zip(&rows);
    let settled = settled.filter_map(|(key, row)| match of_state(row.as_ref()?) {
        (Place::Settled(change), _) => Some(keys::settled(change, key)),
        _ => None,
    });
    let settled: Vec<_> = settled.collect();
    let settled: Vec<&[u8]> = settled.iter().map(|key| &**key).collect();
    let mut settled = match settled.is_empty() {
        true => Vec::new(),
        false => db.multi_get(Family::Settled, &settled)?,
    }
    .into_iter();
    let held = rows.into_iter().zip(keys).map(|(row, key)| {
        let row = row?;
        Some(match of_state(&row) {
            (Place::Open, _) => (Place::Open, row),
            (place @ Place::Revised(_), snapshot) => (place, snapshot.to_vec()),
            (place @ Place::Settled(_), _) => {
                let row = settled.next().expect("one for each that is settled");
                (place, whole(key, row))
            }
        })
    });
    Ok(held.collect())
}

/// A row of `settled`, of the operation with this key; nothing for one that is missing or
/// damaged.
fn whole(key: &[u8], row: Option<Vec<u8>>) -> Vec<u8> {
    let id = keys::operation_of(key).unwrap_or_default();
    let row = row.as_deref().and_then(|row| unnamed_v1::restore(id, row));
    row.unwrap_or_default().into_owned()
}
