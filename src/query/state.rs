//! The snapshot of an operation, wherever it stands: under the operation's own key, or, of
//! one that has ended, beside those that ended with it (`wire::snapshot_location`).

use crate::store::{Cached, Db, Direction, Error, Family, Result, Row, View, keys};
use crate::wire::snapshot_location::{Place, of_state};
use crate::wire::without_id;
use std::ops::{ControlFlow, Deref};

/// The snapshot; empty if it cannot be read or is not where it should be, which is read as
/// damage. `None` if nothing was ever heard of the operation.
pub fn snapshot(view: &dyn View, operation_id: &str) -> Result<Option<Vec<u8>>> {
    let key = keys::operation(operation_id);
    let row = row(view, &key)?;
    row.map(|row| follow(view, &key, row)).transpose()
}

/// The row under the operation's own key; an empty one if it cannot be read.
pub fn row(view: &dyn View, key: &[u8]) -> Row {
    or_empty(view.get(Family::State, key))
}

/// Whether anything was ever heard of the operation.
pub fn is_known(view: &dyn View, operation_id: &str) -> Result<bool> {
    match view.get(Family::State, &keys::operation(operation_id)) {
        // Whatever has a state has a history.
        Err(Error::Corrupt(_)) => {
            let range = keys::of_operation(operation_id);
            let range = &range.start[..]..&range.end[..];
            let mut is_known = false;
            view.scan(Family::History, range, Direction::Forward, &mut |_, _| {
                is_known = true;
                ControlFlow::Break(())
            })?;
            Ok(is_known)
        }
        row => Ok(row?.is_some()),
    }
}

/// What cannot be read is taken for a row without content: a snapshot that is damaged, and that
/// the history makes good.
fn or_empty(row: Row) -> Row {
    match row {
        Err(Error::Corrupt(_)) => Ok(Some(Vec::new())),
        row => row,
    }
}

/// The same of an operation whose row under its own key is this.
pub fn follow(view: &dyn View, key: &[u8], row: Vec<u8>) -> Result<Vec<u8>> {
    Ok(match of_state(&row) {
        (Place::Open | Place::Revised(_), snapshot) => snapshot.to_vec(),
        (Place::Settled(change), _) => {
            let row = or_empty(view.get(Family::Settled, &keys::settled(change, key)))?;
            whole(key, row.as_deref())
        }
    })
}

/// The same from memory alone. What is settled never changes: no view is needed.
pub fn follow_cached(db: &dyn Db, key: &[u8], row: &[u8]) -> Result<Cached> {
    Ok(match of_state(row) {
        (Place::Open | Place::Revised(_), snapshot) => Cached::Known(Some(snapshot.to_vec())),
        (Place::Settled(change), _) => {
            match db.get_cached(Family::Settled, &keys::settled(change, key))? {
                Cached::Known(row) => Cached::Known(Some(whole(key, row.as_deref()))),
                Cached::Unknown => Cached::Unknown,
            }
        }
    })
}

/// Of these operations, each with what its entry in a list says of its place.
pub fn snapshots(view: &dyn View, rows: &[(&str, Option<u64>)]) -> Result<Vec<Option<Vec<u8>>>> {
    let (mut open_keys, mut settled_keys) = (Vec::new(), Vec::new());
    for (id, change) in rows {
        let key = keys::operation(id);
        match change {
            Some(change) => settled_keys.push(keys::settled(*change, &key)),
            None => open_keys.push(key),
        }
    }
    let mut open = open(view, &open_keys)?.into_iter();
    let mut settled = settled(view, &settled_keys)?.into_iter();
    let snapshots = rows.iter().map(|(_, change)| match change {
        Some(_) => settled.next().flatten(),
        None => open.next().flatten(),
    });
    Ok(snapshots.collect())
}

/// Snapshots, or where they stand, by the keys of operations.
fn open(view: &dyn View, keys: &[Vec<u8>]) -> Result<Vec<Option<Vec<u8>>>> {
    let wanted: Vec<&[u8]> = keys.iter().map(|key| &**key).collect();
    let rows = keys.iter().zip(view.multi_get(Family::State, &wanted));
    let follow = |(key, row): (&Vec<u8>, Row)| {
        let row = or_empty(row)?;
        row.map(|row| follow(view, key, row)).transpose()
    };
    rows.map(follow).collect()
}

/// Of so many it is tried whether they lie side by side.
const MANY: usize = 64;
/// So much of others is read in any case before it is given up.
const FEW_BYTES: usize = 64 << 10;

/// Snapshots by the keys of `settled`. Those that a list shows one after the other have
/// mostly settled one after the other too: they are read so, for as long as few others
/// lie between, which costs less than looking each up.
fn settled(view: &dyn View, keys: &[Vec<u8>]) -> Result<Vec<Option<Vec<u8>>>> {
    // Behind the number of the change.
    let whole = |key: &[u8], row: &[u8]| Some(whole(&key[8..], Some(row)));
    let mut found = Vec::with_capacity(keys.len());
    if let [first, .., last] = keys
        && keys.len() >= MANY
        && keys.is_sorted()
    {
        let end = [last, &[0][..]].concat();
        let (mut wanted_bytes, mut other_bytes) = (0, 0);
        let read = view.scan(
            Family::Settled,
            first..&end,
            Direction::Forward,
            &mut |key, row| {
                while keys
                    .get(found.len())
                    .is_some_and(|wanted| &wanted[..] < key)
                {
                    found.push(None);
                }
                if keys.get(found.len()).is_some_and(|wanted| wanted == key) {
                    found.push(whole(key, row));
                    wanted_bytes += row.len();
                } else {
                    other_bytes += row.len();
                }
                match other_bytes > 4 * wanted_bytes + FEW_BYTES {
                    true => ControlFlow::Break(()),
                    false => ControlFlow::Continue(()),
                }
            },
        );
        match read {
            // Those behind the damage may be in order.
            Ok(()) | Err(Error::Corrupt(_)) => {}
            Err(error) => return Err(error),
        }
    }
    let rest = &keys[found.len()..];
    let wanted: Vec<&[u8]> = rest.iter().map(|key| &**key).collect();
    let rows = rest.iter().zip(view.multi_get(Family::Settled, &wanted));
    let rows = rows.map(|(key, row)| Ok(or_empty(row)?.and_then(|row| whole(key, &row))));
    found.extend(rows.collect::<Result<Vec<_>>>()?);
    Ok(found)
}

/// The snapshot from memory alone.
pub fn snapshot_cached(db: &dyn Db, operation_id: &str) -> Result<Cached> {
    let key = keys::operation(operation_id);
    match db.get_cached(Family::State, &key)? {
        Cached::Known(Some(row)) => follow_cached(db, &key, &row),
        other => Ok(other),
    }
}

/// A snapshot, and where the store has it.
#[derive(Debug, Clone, Copy)]
pub struct Held<R> {
    pub place: Place,
    pub snapshot: R,
}

impl<R: Deref<Target = [u8]>> Held<R> {
    pub fn borrow(&self) -> Held<&[u8]> {
        Held {
            place: self.place,
            snapshot: &self.snapshot,
        }
    }
}

/// Of the operations with these keys.
pub fn held(db: &dyn Db, keys: &[&[u8]]) -> Result<Vec<Option<Held<Vec<u8>>>>> {
    let rows = db.multi_get(Family::State, keys);
    let rows = rows.into_iter().map(or_empty);
    let rows = rows.collect::<Result<Vec<_>>>()?;
    let settled = keys.iter().zip(&rows);
    let settled = settled.filter_map(|(key, row)| match of_state(row.as_ref()?) {
        (Place::Settled(change), _) => Some(keys::settled(change, key)),
        _ => None,
    });
    let settled: Vec<_> = settled.collect();
    let settled: Vec<&[u8]> = settled.iter().map(|key| &**key).collect();
    let mut settled = match settled.is_empty() {
        true => Vec::new(),
        false => db.multi_get(Family::Settled, &settled),
    }
    .into_iter()
    .map(or_empty);
    let held = rows.into_iter().zip(keys).map(|(row, key)| {
        let row = row?;
        let (place, snapshot) = of_state(&row);
        let is_all = snapshot.len() == row.len();
        let snapshot = match place {
            Place::Open if is_all => row,
            Place::Open | Place::Revised(_) => snapshot.to_vec(),
            Place::Settled(_) => {
                let row = settled.next().expect("one for each that is settled");
                match row {
                    Ok(row) => whole(key, row.as_deref()),
                    Err(error) => return Some(Err(error)),
                }
            }
        };
        Some(Ok(Held { place, snapshot }))
    });
    held.map(Option::transpose).collect()
}

/// A row of `settled`, of the operation with this key; nothing for one that is missing or
/// damaged.
fn whole(key: &[u8], row: Option<&[u8]>) -> Vec<u8> {
    let id = keys::operation_of(key).unwrap_or_default();
    let row = row.and_then(|row| without_id::restore(id, row));
    row.unwrap_or_default().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::memory::Memory;
    use crate::store::{self, Batch, Durability};
    use crate::wire::snapshot_location;

    #[test]
    fn those_of_a_list_are_found_however_they_lie() {
        let db = Memory::default();
        let mut batch = Batch::default();
        let id = |n: u64| format!("operation-{n}");
        let row = |n: u64| [&[1][..], id(n).as_bytes()].concat();
        // Ten settle with each change; every tenth of all goes on.
        for n in 0..5000 {
            let key = keys::operation(&id(n));
            if n % 10 == 0 {
                batch.put(Family::State, &key, &row(n));
                continue;
            }
            let place = snapshot_location::append(n / 10, Vec::new());
            batch.put(Family::State, &key, &place);
            let stored = without_id::append(&id(n), [&row(n), &[]], Vec::new());
            batch.put(Family::Settled, &keys::settled(n / 10, &key), &stored);
        }
        db.write(&batch, Durability::Buffered).unwrap();
        // Side by side, far from each other, one of them missing, too few to read on.
        for (step, count) in [(1, 2000), (3, 300), (200, 25), (60, 83), (1, 5)] {
            let numbers = (0..count).map(|n| n * step + 1).filter(|n| *n < 5000);
            let mut wanted: Vec<(Vec<u8>, u64)> = numbers
                .map(|n| (keys::settled(n / 10, &keys::operation(&id(n))), n))
                .collect();
            wanted.sort();
            let ids: Vec<(String, u64)> = wanted.iter().map(|(_, n)| (id(*n), *n)).collect();
            let mut rows: Vec<(&str, Option<u64>)> = ids
                .iter()
                .map(|(id, n)| (&**id, (n % 10 != 0).then_some(n / 10)))
                .collect();
            rows.insert(rows.len() / 2, ("missing", None));
            let found = store::view(&db, |view| snapshots(view, &rows)).unwrap();
            for ((id, _), found) in rows.iter().zip(found) {
                let expected = ids.iter().find(|(known, _)| known == id);
                assert_eq!(found, expected.map(|(_, n)| row(*n)), "{id} of {count}");
            }
        }
    }

    #[test]
    fn what_is_not_where_it_should_be_is_damage() {
        let db = Memory::default();
        let mut batch = Batch::default();
        let place = snapshot_location::append(7, Vec::new());
        batch.put(Family::State, &keys::operation("op"), &place);
        db.write(&batch, Durability::Buffered).unwrap();
        let empty = Some(Vec::new());
        let read = store::view(&db, |view| snapshot(view, "op")).unwrap();
        assert_eq!(read, empty);
        assert_eq!(snapshot_cached(&db, "op").unwrap(), Cached::Known(empty));
    }
}
