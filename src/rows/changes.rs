//! The index of changes: a row for each batch, with the operations that it changed. Its key is
//! the number of changes before it.

use super::keys;
use crate::store::{ALL, Batch, Direction, Error, Family, Result, View, scan_readable, try_scan};
use crate::wire::change::{self, ChangeNumber, StoredChange};
use std::ops::{ControlFlow, Range};

pub fn put(number: ChangeNumber, row: &[u8], batch: &mut Batch) {
    batch.put(Family::Change, &keys::change(number), row);
}

/// Receives a row's number, its bytes and their content.
pub type ChangeVisitor<'v> = dyn FnMut(ChangeNumber, &[u8], StoredChange) -> ControlFlow<()> + 'v;

/// Visits the rows whose numbers are in `range`. `Corrupt` at the first that cannot be read.
pub fn scan(
    view: &dyn View,
    range: Range<ChangeNumber>,
    direction: Direction,
    visit: &mut ChangeVisitor,
) -> Result<()> {
    let range = keys::change(range.start)..keys::change(range.end);
    let damaged = || Error::Corrupt("the index of changes".into());
    try_scan(
        |visit| view.scan(Family::Change, &range.start..&range.end, direction, visit),
        |key, row| {
            let number = keys::change_of(key).ok_or_else(damaged)?;
            let change = change::decode(row).map_err(|_| damaged())?;
            Ok(visit(number, row, change))
        },
    )
}

/// The number after the changes of a row.
pub fn end(number: ChangeNumber, change: &StoredChange) -> ChangeNumber {
    number.after(change.ids().count())
}

/// Where the index begins and ends.
pub struct Ends {
    pub first: ChangeNumber,
    pub next: ChangeNumber,
    /// There may be higher numbers, which cannot be read.
    pub is_next_unknown: bool,
}

pub fn ends(view: &dyn View) -> Result<Ends> {
    let mut ends = Ends {
        first: ChangeNumber::ZERO,
        next: ChangeNumber::ZERO,
        is_next_unknown: false,
    };
    let (family, mut is_unknown) = (Family::Change, false);
    let mut first = |key: &[u8], _: &[u8]| {
        ends.first = keys::change_of(key).unwrap_or_default();
        ControlFlow::Break(())
    };
    view.scan_past_damage(family, ALL, Direction::Forward, &mut first, &mut |_| {})?;
    let mut last = |key: &[u8], row: &[u8]| {
        let number = keys::change_of(key).unwrap_or_default();
        ends.next = change::decode(row).map_or(number.after(0), |change| end(number, &change));
        ControlFlow::Break(())
    };
    let mut damaged = |_| is_unknown = true;
    view.scan_past_damage(family, ALL, Direction::Backward, &mut last, &mut damaged)?;
    ends.is_next_unknown = is_unknown;
    Ok(ends)
}

/// Deletes the rows with these numbers, except those that cannot be read.
pub fn delete(view: &dyn View, numbers: Range<ChangeNumber>, batch: &mut Batch) -> Result<()> {
    let range = keys::change(numbers.start)..keys::change(numbers.end);
    let range = &range.start[..]..&range.end[..];
    scan_readable(view, Family::Change, range, |key, _| {
        batch.delete(Family::Change, key);
        Ok(ControlFlow::Continue(()))
    })
}

/// Identifies the state of a view: two views of the same log with the same fingerprint show the
/// same. `head`: all changes before it were written before the view was opened.
pub fn fingerprint(view: &dyn View, head: ChangeNumber) -> Result<u64> {
    let mut fingerprint = 0;
    let mut note = |key: &[u8], row: &[u8]| {
        // The number alone may repeat in a store that was rebuilt.
        let before = u64::to_be_bytes(fingerprint);
        fingerprint = xxhash_rust::xxh3::xxh3_64(&[&before, key, row].concat());
    };
    // From the head on, another worker may not have written a row yet that is before others. Then
    // the last row does not say which rows there are.
    let mut since_head = vec![head];
    let mut follow = None;
    let mut are_all_there = true;
    let mut each = |key: &[u8], row: &[u8]| {
        if since_head.len() == 1 {
            note(key, row);
        }
        let number = keys::change_of(key).unwrap_or_default();
        if head == ChangeNumber::ZERO || number < head {
            return ControlFlow::Break(());
        }
        let end = change::decode(row).map_or(number.after(0), |change| end(number, &change));
        are_all_there &= follow.is_none_or(|follow| follow == end);
        follow = Some(number);
        since_head.push(number);
        ControlFlow::Continue(())
    };
    match view.scan(Family::Change, ALL, Direction::Backward, &mut each) {
        // Each change moves a position, too.
        Err(Error::Corrupt(_)) => {
            view.scan(Family::Meta, ALL, Direction::Forward, &mut |key, row| {
                note(key, row);
                ControlFlow::Continue(())
            })?;
        }
        read => read?,
    }
    are_all_there &= follow.is_none_or(|follow| follow == head);
    if !are_all_there {
        let numbers = since_head.iter();
        numbers.for_each(|number| note(&keys::change(*number), &[]));
    }
    Ok(fingerprint)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::OperationId;
    use crate::store::memory::Memory;
    use crate::store::{Db, Durability, view};
    use crate::wire::change::Moves;

    #[test]
    fn a_row_that_was_written_after_one_with_a_higher_number_changes_the_fingerprint() {
        let db = Memory::default();
        let write = |number: u64| {
            let ids = [OperationId("a"), OperationId("b")];
            let row = change::encode(&Moves::of_all(Vec::new()), ids.into_iter());
            let mut batch = Batch::default();
            put(ChangeNumber(number), &row, &mut batch);
            let written = db.write(&batch, Durability::Buffered);
            written.expect("memory takes it");
        };
        let of = |head: u64| {
            let fingerprint = view(&db, |view| fingerprint(view, ChangeNumber(head)));
            fingerprint.expect("memory has it")
        };
        (0..3).for_each(|n| write(2 * n));
        let complete = of(6);
        assert_eq!(complete, of(4), "written, and not published yet");
        write(8);
        let lacks_one = of(6);
        assert_ne!(lacks_one, complete);
        assert_eq!(lacks_one, of(6), "nothing has changed");
        write(6);
        let complete = of(6);
        assert_ne!(lacks_one, complete);
        assert_eq!(
            [of(8), of(10)],
            [complete; 2],
            "whatever is published of it"
        );
    }
}
