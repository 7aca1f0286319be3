//! Dead letters: records that cannot be read as events, by position, and which of them the
//! dead-letter topic does not have.

use crate::domain::{OperationId, Slice, Slices};
use crate::store::{
    self, ALL, Batch, Db, Direction, Error, Family, Result, View, scan_readable, try_scan,
};
use crate::wire::position::{LastOffsets, Position};
use crate::wire::record::{self, Record};
use bytes::Bytes;
use std::ops::ControlFlow;

/// The slice of a record that is no event, so that one worker keeps it: that of its key as an
/// operation id, or of its position in digits (`3:1042`) if the key is no text or empty.
pub fn slice_of(key: Option<&[u8]>, at: Position) -> Slice {
    match key.map(std::str::from_utf8) {
        Some(Ok(key)) if !key.is_empty() => OperationId(key).slice(),
        _ => OperationId(&at.to_string()).slice(),
    }
}

/// `forward`: whether a topic is to have it.
pub fn put(
    at: Position,
    (reason, detail): (&str, &str),
    record: &Record,
    forward: bool,
    batch: &mut Batch,
) {
    let row = record::encode_dead_letter(reason, detail, record);
    batch.put(Family::DeadLetter, &at.to_key(), &row);
    if forward {
        batch.put(Family::DeadLetterDue, &at.to_key(), &[]);
    }
}

/// A row that [`decode`] reads.
pub struct StoredLetter {
    pub at: Position,
    pub row: Bytes,
    /// Why the topic refused it.
    pub refused: Option<String>,
}

/// Reason, detail and the record.
pub fn decode(row: &Bytes) -> Result<(&str, &str, Record)> {
    record::decode_dead_letter(row).map_err(|unreadable| Error::Corrupt(unreadable.to_string()))
}

/// Shows those of some slices by position, after one if that is given. Unreadable rows are left
/// out; `Db::damage` reports them.
pub fn scan(
    view: &dyn View,
    slices: Slices,
    after: Option<Position>,
    visit: &mut dyn FnMut(StoredLetter) -> Result<ControlFlow<()>>,
) -> Result<()> {
    let from = after.map_or_else(Vec::new, |after| [&after.to_key()[..], &[0]].concat());
    let range = &from[..]..ALL.end;
    scan_readable(view, Family::DeadLetter, range, |key, row| {
        let at = Position::of_key(key).ok_or_else(|| Error::Corrupt("a dead letter".into()))?;
        let row = Bytes::copy_from_slice(row);
        if slices != Slices::ALL {
            let (_, _, record) = decode(&row)?;
            if !slices.contains(slice_of(record.key.as_deref(), at)) {
                return Ok(ControlFlow::Continue(()));
            }
        }
        let refused = match view.get(Family::DeadLetterDue, key) {
            // Then it is unknown whether the topic has the letter, but the letter is readable.
            Err(Error::Corrupt(_)) => None,
            due => due?,
        };
        let refused = refused.filter(|why| !why.is_empty());
        visit(StoredLetter {
            at,
            row,
            refused: refused.map(|why| String::from_utf8_lossy(&why).into_owned()),
        })
    })
}

/// A dead letter with its slice.
pub struct LetterOfSlice<'r> {
    pub key: &'r [u8],
    pub row: &'r [u8],
    pub slice: Slice,
    pub reason: &'r str,
    pub record: Record,
}

/// Shows those of some slices. `Corrupt` at the first that cannot be read.
pub(super) fn scan_slices(
    view: &dyn View,
    slices: Slices,
    visit: &mut dyn FnMut(LetterOfSlice) -> Result<()>,
) -> Result<()> {
    let forward = Direction::Forward;
    try_scan(
        |visit| view.scan(Family::DeadLetter, ALL, forward, visit),
        |key, row| {
            let bytes = Bytes::copy_from_slice(row);
            let (reason, _, record) = decode(&bytes)?;
            let at = Position::of_key(key).ok_or_else(|| Error::Corrupt("a dead letter".into()))?;
            let slice = slice_of(record.key.as_deref(), at);
            if slices.contains(slice) {
                visit(LetterOfSlice {
                    key,
                    row,
                    slice,
                    reason,
                    record,
                })?;
            }
            Ok(ControlFlow::Continue(()))
        },
    )
}

/// Whether the store has it already, if only as a row that cannot be read.
pub fn is_known(db: &dyn Db, at: Position) -> Result<bool> {
    match db.get(Family::DeadLetter, &at.to_key()) {
        Err(Error::Corrupt(_)) => Ok(true),
        row => Ok(row?.is_some()),
    }
}

/// The row of one that [`decode`] reads; `None` if it was removed.
pub fn get(db: &dyn Db, at: Position) -> Result<Option<Bytes>> {
    Ok(db.get(Family::DeadLetter, &at.to_key())?.map(Bytes::from))
}

/// The dead letters that the topic does not have: `None` if it is to be sent, or why it was
/// refused. Unreadable rows are left out; `Db::damage` reports them.
pub fn unsent(db: &dyn Db, visit: &mut dyn FnMut(Position, Option<String>)) -> Result<()> {
    store::view(db, |view| {
        scan_readable(view, Family::DeadLetterDue, ALL, |key, why| {
            if let Some(at) = Position::of_key(key) {
                let why = (!why.is_empty()).then(|| String::from_utf8_lossy(why).into_owned());
                visit(at, why);
            }
            Ok(ControlFlow::Continue(()))
        })
    })
}

/// The topic has it, or it was removed.
pub fn put_sent(at: Position, batch: &mut Batch) {
    batch.delete(Family::DeadLetterDue, &at.to_key());
}

/// Removes it, whether it is to be sent or not.
pub(super) fn remove(at: Position, batch: &mut Batch) {
    batch.delete(Family::DeadLetter, &at.to_key());
    batch.delete(Family::DeadLetterDue, &at.to_key());
}

/// The letter cannot be sent, for this reason.
pub fn put_refused(at: Position, why: &str, batch: &mut Batch) {
    batch.put(Family::DeadLetterDue, &at.to_key(), why.as_bytes());
}

/// Copies from an older store which of these dead letters were sent, up to its positions.
pub fn put_as_in(
    old: &dyn Db,
    applied: &LastOffsets,
    letters: &[Position],
    batch: &mut Batch,
) -> Result<()> {
    for at in letters {
        let key = at.to_key();
        match old.get(Family::DeadLetterDue, &key)? {
            Some(why) => batch.put(Family::DeadLetterDue, &key, &why),
            None if applied.holds(*at) => put_sent(*at, batch),
            None => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dead_letter_is_in_the_slice_of_its_key_or_else_of_its_position() {
        let at = Position::from((3, 1042));
        let of_position = OperationId("3:1042").slice();
        let of_key = OperationId("operation-1").slice();
        assert_ne!(of_key, of_position);
        assert_eq!(slice_of(Some(b"operation-1"), at), of_key);
        for no_id in [None, Some(&b""[..]), Some(b"\xFF")] {
            assert_eq!(slice_of(no_id, at), of_position);
        }
    }
}
