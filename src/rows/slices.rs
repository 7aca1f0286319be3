//! Slices alone: their rows are dropped, or copied into another store, and those of other slices
//! are not touched. The keys of most families begin with the shard, so a slice is a range of them.
//! The entries of the lists follow from the states.

use super::operation::with_operation;
use super::{keys, letters, meta};
use crate::domain::effects::Listed;
use crate::domain::{OperationId, Slices};
use crate::store::{
    self, ALL, Batch, Db, Direction, Error, Family, Result, View, scan_readable, try_scan,
};
use crate::wire::document::Bodies;
use std::ops::{ControlFlow, Range};

/// What the log of events decides, by shard.
const OF_EVENTS: &[Family] = &[
    Family::State,
    Family::Lane,
    Family::History,
    Family::Anomaly,
    Family::Outbox,
];

/// What it does not: the results of deliveries, by shard.
const OF_DELIVERIES: &[Family] = &[Family::Outcome, Family::Tries];

/// A write has this many bytes, or somewhat more.
const WRITE_BYTES: usize = 1 << 20;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dropped {
    /// Every row, because another store has the slice.
    All,
    /// What the events are folded into, because they will be folded again. The results of
    /// deliveries and the dead letters stay, so that none is sent again; folding writes the same
    /// dead letters over them.
    Folded,
}

/// Writes a batch: only a writer of the store may.
pub type Write<'w> = dyn FnMut(Batch) -> Result<()> + 'w;

/// Removes the rows of these slices, in writes of a bounded size. After each write the store is
/// one that has never heard of the operations dropped so far, so a crash leaves nothing but work:
/// drop them again.
pub fn drop(db: &dyn Db, slices: Slices, what: Dropped, write: &mut Write) -> Result<()> {
    let mut counts = meta::statuses(db)?;
    let mut rest = keys::of_slices(slices);
    let mut has_orphans = false;
    while rest.start < rest.end {
        let mut batch = Batch::default();
        let next = store::view(db, |view| {
            drop_entries(view, &rest, &mut batch, &mut |id, listed| match listed {
                Some(listed) => counts[id.slice()][listed.status as usize] -= 1,
                None => has_orphans = true,
            })
        })?;
        let families = match what {
            Dropped::All => [OF_EVENTS, OF_DELIVERIES].concat(),
            Dropped::Folded => OF_EVENTS.to_vec(),
        };
        for family in families {
            batch.delete_range(family, &rest.start..&next);
        }
        for slice in slices.iter() {
            match next == rest.end {
                true => meta::delete_statuses(&mut batch, slice),
                false => meta::put_statuses(&mut batch, slice, &counts[slice]),
            }
        }
        write(batch)?;
        rest.start = next;
    }
    if has_orphans {
        drop_orphans(db, slices, write)?;
    }
    match what {
        Dropped::All => drop_letters(db, slices, write),
        Dropped::Folded => Ok(()),
    }
}

/// Shown each operation, with its place in the lists; `None` if that is not known, because its state
/// cannot be read. An operation without a document has no place, and is not shown.
type Entered<'a> = dyn FnMut(OperationId, Option<Listed>) + 'a;

/// Removes the list entries of the first operations in this range of states. Returns the key up to
/// which it did, the end if there are no more.
fn drop_entries(
    view: &dyn View,
    range: &Range<Vec<u8>>,
    batch: &mut Batch,
    entered: &mut Entered,
) -> Result<Vec<u8>> {
    let mut next = range.end.clone();
    let mut is_damaged = false;
    let mut damaged = |_| is_damaged = true;
    let forward = Direction::Forward;
    let states = &range.start[..]..&range.end[..];
    try_scan(
        |visit| view.scan_past_damage(Family::State, states, forward, visit, &mut damaged),
        |key, row| {
            let id = keys::operation_of(key).ok_or_else(|| corrupt("a key of a state"))?;
            match listed(view, id, row) {
                Ok(None) => {}
                Ok(Some(listed)) => {
                    let [by_time, by_status] = entries(id, listed);
                    batch.delete(Family::ByTime, &by_time);
                    batch.delete(Family::ByStatus, &by_status);
                    entered(id, Some(listed));
                }
                Err(error) if error.is_unreadable() => entered(id, None),
                Err(error) => return Err(error),
            }
            if batch.bytes() < WRITE_BYTES {
                return Ok(ControlFlow::Continue(()));
            }
            next = keys::of_operation(id).end;
            Ok(ControlFlow::Break(()))
        },
    )?;
    if is_damaged {
        entered(OperationId(""), None);
    }
    Ok(next)
}

/// `None` for an operation without a document.
fn listed(view: &dyn View, id: OperationId, snapshot: &[u8]) -> Result<Option<Listed>> {
    let show = Bodies::LeftOut;
    with_operation(view, id, snapshot, show, |op| op.standing().listed)
}

/// The keys of an operation in `by_time` and `by_status`.
fn entries(id: OperationId, listed: Listed) -> [Vec<u8>; 2] {
    let Listed {
        status,
        occurred_time,
    } = listed;
    [
        keys::by_time(occurred_time, id),
        keys::by_status(status, occurred_time, id),
    ]
}

/// Removes the list entries of these slices, by reading both lists.
fn drop_orphans(db: &dyn Db, slices: Slices, write: &mut Write) -> Result<()> {
    for (family, before) in [(Family::ByTime, 0), (Family::ByStatus, 1)] {
        let mut from = Vec::new();
        loop {
            let mut batch = Batch::default();
            store::view(db, |view| {
                scan_readable(view, family, &from[..]..ALL.end, |key, _| {
                    let id = key.get(before..).and_then(keys::operation_of_by_time);
                    if id.is_some_and(|id| slices.contains(id.slice())) {
                        batch.delete(family, key);
                    }
                    Ok(match batch.bytes() < WRITE_BYTES {
                        true => ControlFlow::Continue(()),
                        false => ControlFlow::Break(()),
                    })
                })
            })?;
            let Some((_, last, _)) = batch.rows().last() else {
                break;
            };
            from = [last, &[0]].concat();
            write(batch)?;
        }
    }
    Ok(())
}

fn drop_letters(db: &dyn Db, slices: Slices, write: &mut Write) -> Result<()> {
    let mut after = None;
    loop {
        let mut batch = Batch::default();
        store::view(db, |view| {
            letters::scan(view, slices, after, &mut |letter| {
                after = Some(letter.at);
                letters::remove(letter.at, &mut batch);
                Ok(match batch.bytes() < WRITE_BYTES {
                    true => ControlFlow::Continue(()),
                    false => ControlFlow::Break(()),
                })
            })
        })?;
        if batch.is_empty() {
            return Ok(());
        }
        write(batch)?;
    }
}

/// Writes all rows of these slices for a store that has none of them, in writes of a bounded size.
/// Positions stay the caller's. After an error or a crash, drop what was copied and begin anew.
pub fn copy(from: &dyn View, slices: Slices, write: &mut Write) -> Result<()> {
    let mut copying = Copying {
        write,
        batch: Batch::default(),
    };
    let range = keys::of_slices(slices);
    for family in [OF_EVENTS, OF_DELIVERIES].concat() {
        let range = &range.start[..]..&range.end[..];
        try_scan(
            |visit| from.scan(family, range, Direction::Forward, visit),
            |key, row| {
                if family == Family::State {
                    copying.put_entries(from, key, row)?;
                }
                copying.put(family, key, row)?;
                Ok(ControlFlow::Continue(()))
            },
        )?;
    }
    letters::scan_slices(from, slices, &mut |letter| {
        if let Some(due) = from.get(Family::DeadLetterDue, letter.key)? {
            copying.put(Family::DeadLetterDue, letter.key, &due)?;
        }
        copying.put(Family::DeadLetter, letter.key, letter.row)
    })?;
    let counts = meta::statuses_in(from)?;
    for slice in slices.iter() {
        meta::put_statuses(&mut copying.batch, slice, &counts[slice]);
    }
    (copying.write)(copying.batch)
}

struct Copying<'c, 'w> {
    write: &'c mut Write<'w>,
    batch: Batch,
}

impl Copying<'_, '_> {
    fn put(&mut self, family: Family, key: &[u8], row: &[u8]) -> Result<()> {
        self.batch.put(family, key, row);
        if self.batch.bytes() >= WRITE_BYTES {
            (self.write)(std::mem::take(&mut self.batch))?;
        }
        Ok(())
    }

    /// The list entries of the operation with this state.
    fn put_entries(&mut self, from: &dyn View, key: &[u8], snapshot: &[u8]) -> Result<()> {
        let id = keys::operation_of(key).ok_or_else(|| corrupt("a key of a state"))?;
        if let Some(listed) = listed(from, id, snapshot)? {
            let [by_time, by_status] = entries(id, listed);
            let row = from.get(Family::ByStatus, &by_status)?;
            let row = row.ok_or_else(|| corrupt("the lists"))?;
            self.put(Family::ByTime, &by_time, b"")?;
            self.put(Family::ByStatus, &by_status, &row)?;
        }
        Ok(())
    }
}

fn corrupt(what: &str) -> Error {
    Error::Corrupt(format!("{what} of the store cannot be read"))
}
