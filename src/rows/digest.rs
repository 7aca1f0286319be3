//! The content of a store, in 256 bits. Equal logs give equal digests: where batches ended, how
//! often the process restarted, the positions of records and when they arrived do not affect it.
//!
//! Each row has a digest of its own, BLAKE3 of its family and its content. The digest of a slice
//! is their sum modulo 2^256, so that it does not depend on their order, and digests of slices
//! add up. A dead letter without a usable key is in the slice of its position
//! (`letters::slice_of`), so that the digests of slices are equal for equal positions only. It finds accidental differences; it is no proof against somebody who chooses rows.

use super::{keys, letters, records};
use crate::domain::{SLICES, Slice, Slices};
use crate::store::{ALL, Direction, Error, Family, Result, View, try_scan};
use crate::wire::record::Record;
use std::fmt::{self, Display, Formatter};
use std::ops::{AddAssign, ControlFlow, Range};

/// A sum of digests modulo 2^256, the lowest 64 bits first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Sum([u64; 4]);

impl AddAssign for Sum {
    fn add_assign(&mut self, other: Sum) {
        let mut carry = false;
        for (one, other) in self.0.iter_mut().zip(other.0) {
            let (sum, first) = one.overflowing_add(other);
            let (sum, second) = sum.overflowing_add(carry.into());
            (*one, carry) = (sum, first || second);
        }
    }
}

/// In hexadecimal, the highest digit first.
impl Display for Sum {
    fn fmt(&self, out: &mut Formatter) -> fmt::Result {
        self.0
            .iter()
            .rev()
            .try_for_each(|part| write!(out, "{part:016x}"))
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreDigest {
    by_slice: [Sum; SLICES as usize],
}

impl StoreDigest {
    /// Reads the whole store. A row that cannot be read is an error.
    pub fn of(view: &dyn View) -> Result<StoreDigest> {
        StoreDigest::of_slices(view, Slices::ALL)
    }

    /// The same of a part of the store: the other slices stay empty. Reads the rows of these
    /// slices, the keys of both lists, and the dead letters.
    pub fn of_slices(view: &dyn View, slices: Slices) -> Result<StoreDigest> {
        let mut digest = StoreDigest {
            by_slice: [Sum::default(); SLICES as usize],
        };
        let range = keys::of_slices(slices);
        for family in [
            Family::State,
            Family::Lane,
            Family::Anomaly,
            Family::Outbox,
            Family::Outcome,
        ] {
            scan(view, family, &range, &mut |key, row| {
                let slice = keys::slice_of(key).ok_or_else(|| damaged(family))?;
                digest.add(slice, of_parts(family, &[key, row]));
                Ok(())
            })?;
        }
        scan(view, Family::History, &range, &mut |key, row| {
            let id = keys::operation_of_history(key).ok_or_else(|| damaged(Family::History))?;
            let operation = &keys::operation(id)[..];
            let slice = keys::slice_of(key).ok_or_else(|| damaged(Family::History))?;
            let records = records::of_row(id, key, row);
            for (_, record) in records.ok_or_else(|| damaged(Family::History))? {
                digest.add(slice, of_record(Family::History, &[operation], &record));
            }
            Ok(())
        })?;
        let all = ALL.start.to_vec()..ALL.end.to_vec();
        for (family, before) in [(Family::ByTime, 0), (Family::ByStatus, 1)] {
            scan(view, family, &all, &mut |key, row| {
                let id = key.get(before..).and_then(keys::operation_of_by_time);
                let slice = id.ok_or_else(|| damaged(family))?.slice();
                if slices.contains(slice) {
                    digest.add(slice, of_parts(family, &[key, row]));
                }
                Ok(())
            })?;
        }
        letters::scan_slices(view, slices, &mut |letter| {
            let parts = [letter.reason.as_bytes()];
            digest.add(
                letter.slice,
                of_record(Family::DeadLetter, &parts, &letter.record),
            );
            Ok(())
        })?;
        Ok(digest)
    }

    fn add(&mut self, slice: Slice, row: Sum) {
        self.by_slice[usize::from(slice.0)] += row;
    }

    /// Of the operations and dead letters in this slice.
    pub fn of_slice(&self, slice: Slice) -> Sum {
        self.by_slice[usize::from(slice.0)]
    }

    /// Of all slices together.
    pub fn whole(&self) -> Sum {
        let mut sum = Sum::default();
        self.by_slice.iter().for_each(|of_one| sum += *of_one);
        sum
    }
}

/// Shown a key and its row.
type Add<'a> = dyn FnMut(&[u8], &[u8]) -> Result<()> + 'a;

fn scan(view: &dyn View, family: Family, range: &Range<Vec<u8>>, add: &mut Add) -> Result<()> {
    let range = &range.start[..]..&range.end[..];
    try_scan(
        |visit| view.scan(family, range, Direction::Forward, visit),
        |key, row| add(key, row).map(ControlFlow::Continue),
    )
}

fn damaged(family: Family) -> Error {
    Error::Corrupt(format!("a row of {}", family.name()))
}

/// A record as it was sent: its key, its arrival and its position belong to the log.
fn of_record(family: Family, before: &[&[u8]], record: &Record) -> Sum {
    let mut parts = before.to_vec();
    if !record.headers.are_of_an_event() {
        for (name, value) in record.headers.iter() {
            parts.push(name.as_bytes());
            parts.push(if value.is_some() { b"value" } else { b"null" });
            parts.extend(value);
        }
    }
    parts.extend(record.value.as_deref());
    of_parts(family, &parts)
}

fn of_parts(family: Family, parts: &[&[u8]]) -> Sum {
    let mut hasher = blake3::Hasher::new_derive_key("opledger, a row of a store, version 1");
    for part in [family.name().as_bytes()].iter().chain(parts) {
        hasher.update(&(part.len() as u64).to_le_bytes());
        hasher.update(part);
    }
    let mut parts = [0; 4];
    for (part, bytes) in parts.iter_mut().zip(hasher.finalize().as_bytes().chunks(8)) {
        *part = u64::from_le_bytes(bytes.try_into().expect("a chunk of eight"));
    }
    Sum(parts)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::OperationId;
    use crate::store::memory::Memory;
    use crate::store::{self, Batch, Db, Durability};

    fn digest(rows: &[(Family, &str, &str)]) -> StoreDigest {
        let db = Memory::default();
        let mut batch = Batch::default();
        for (family, id, row) in rows {
            batch.put(*family, &keys::operation(OperationId(id)), row.as_bytes());
        }
        db.write(&batch, Durability::Buffered).unwrap();
        store::view(&db, StoreDigest::of).unwrap()
    }

    #[test]
    fn every_row_counts_whatever_the_order_and_slices_add_up() {
        let rows = [
            (Family::State, "one", "a"),
            (Family::State, "another", "b"),
            (Family::Anomaly, "one", "c"),
        ];
        let whole = digest(&rows);
        for left_out in 0..rows.len() {
            let mut others = rows.to_vec();
            others.remove(left_out);
            assert_ne!(digest(&others).whole(), whole.whole());
        }
        let mut changed = rows;
        changed[1].2 = "d";
        assert_ne!(digest(&changed).whole(), whole.whole());
        let slice = OperationId("one").slice();
        assert_eq!(digest(&changed).of_slice(slice), whole.of_slice(slice));
        let slices = Slices::ALL.iter();
        let sum = slices.fold(Sum::default(), |mut sum, slice| {
            sum += whole.of_slice(slice);
            sum
        });
        assert_eq!(sum, whole.whole());
    }

    #[test]
    fn a_digest_sum_carries_and_wraps() {
        let mut sum = Sum([u64::MAX, u64::MAX, 0, 0]);
        sum += Sum([1, 0, 0, 0]);
        assert_eq!(sum, Sum([0, 0, 1, 0]));
        let mut sum = Sum([u64::MAX; 4]);
        sum += Sum([2, 0, 0, 0]);
        assert_eq!(sum.to_string(), format!("{:064x}", 1));
    }
}
