//! The content of a store, in 256 bits. Equal logs give equal digests: where batches ended, how
//! often the process restarted, the positions of records and when they arrived do not affect it.
//!
//! Each row has a digest of its own, BLAKE3 of its family and its content. The digest of a shard
//! is their sum modulo 2^256, so that it does not depend on their order, and digests of shards
//! add up. It finds accidental differences; it is no proof against somebody who chooses rows.

use super::{keys, records};
use crate::domain::SHARDS;
use crate::store::{ALL, Direction, Error, Family, Result, View, try_scan};
use crate::wire::record::{self, Record};
use bytes::Bytes;
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
    shards: Vec<Sum>,
    /// They belong to no operation.
    dead_letters: Sum,
}

impl StoreDigest {
    /// Reads the whole store. A row that cannot be read is an error.
    pub fn of(view: &dyn View) -> Result<StoreDigest> {
        let mut digest = StoreDigest {
            shards: vec![Sum::default(); usize::from(SHARDS)],
            dead_letters: Sum::default(),
        };
        for family in [
            Family::State,
            Family::Lane,
            Family::Anomaly,
            Family::Outbox,
            Family::Outcome,
        ] {
            scan(view, family, &mut |key, row| {
                let shard = keys::shard_of(key).ok_or_else(|| damaged(family))?;
                digest.add(shard, of_parts(family, &[key, row]))
            })?;
        }
        for (family, before) in [(Family::ByTime, 0), (Family::ByStatus, 1)] {
            scan(view, family, &mut |key, row| {
                let id = key.get(before..).and_then(keys::operation_of_by_time);
                let shard = id.ok_or_else(|| damaged(family))?.shard();
                digest.add(shard, of_parts(family, &[key, row]))
            })?;
        }
        scan(view, Family::History, &mut |key, row| {
            let id = keys::operation_of_history(key).ok_or_else(|| damaged(Family::History))?;
            let operation = &keys::operation(id)[..];
            let records = records::of_row(id, key, row);
            for (_, record) in records.ok_or_else(|| damaged(Family::History))? {
                digest.add(
                    id.shard(),
                    of_record(Family::History, &[operation], &record),
                )?;
            }
            Ok(())
        })?;
        scan(view, Family::DeadLetter, &mut |_, row| {
            let row = Bytes::copy_from_slice(row);
            let (reason, _, record) =
                record::decode_dead_letter(&row).map_err(|_| damaged(Family::DeadLetter))?;
            digest.dead_letters += of_record(Family::DeadLetter, &[reason.as_bytes()], &record);
            Ok(())
        })?;
        Ok(digest)
    }

    fn add(&mut self, shard: u16, row: Sum) -> Result<()> {
        let sum = self.shards.get_mut(usize::from(shard));
        *sum.ok_or_else(|| Error::Corrupt(format!("there is no shard {shard}")))? += row;
        Ok(())
    }

    /// Of the operations in these shards.
    pub fn of_shards(&self, shards: Range<u16>) -> Sum {
        let mut sum = Sum::default();
        for of_one in &self.shards[usize::from(shards.start)..usize::from(shards.end)] {
            sum += *of_one;
        }
        sum
    }

    pub fn whole(&self) -> Sum {
        let mut sum = self.of_shards(0..SHARDS);
        sum += self.dead_letters;
        sum
    }
}

/// Shown a key and its row.
type Add<'a> = dyn FnMut(&[u8], &[u8]) -> Result<()> + 'a;

fn scan(view: &dyn View, family: Family, add: &mut Add) -> Result<()> {
    try_scan(
        |visit| view.scan(family, ALL, Direction::Forward, visit),
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
    fn every_row_counts_whatever_the_order_and_shards_add_up() {
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
        let shard = OperationId("one").shard();
        assert_eq!(
            digest(&changed).of_shards(shard..shard + 1),
            whole.of_shards(shard..shard + 1)
        );
        let mut sum = whole.of_shards(0..100);
        sum += whole.of_shards(100..SHARDS);
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
