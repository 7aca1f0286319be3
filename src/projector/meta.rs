//! What the store says of itself: versions, the log it belongs to, and the last
//! record of each partition that is in it.

use super::halt::{Halt, OpenError};
use crate::event_log::{Bounds, EventLog, Identity};
use crate::feed::progress::StatusCounts;
use crate::store::{self, Batch, Db, Direction, Durability, Error, Family, keys};
use crate::wire::anchor::{Anchor, Mark};
use crate::wire::position::{LastOffsets, LogId, NextOffsets, Offset, Partition, Token};
use crate::wire::stored::{self, STATUS_COUNTS};
use std::collections::BTreeMap;
use std::ops::ControlFlow;

/// The shape of keys and rows (`wire::stored`). A store of another one is rebuilt, not
/// converted.
pub const FORMAT: u8 = 1;
/// The rules of the fold. A store of other rules is rebuilt, not converted.
pub const FOLD: u32 = 2;

/// The last record of each partition.
pub type Anchors = BTreeMap<Partition, Anchor>;

/// Reads where the store is; a new store is stamped with the log's identity.
pub fn open(db: &dyn Db, log: &Identity) -> Result<Anchors, OpenError> {
    if is_new(db)? {
        stamp(db, log)?;
    }
    open_stamped(db, log)
}

/// Compares a log of our own with the store before anything is written to either. A store
/// that is new belongs to whichever log it meets first; one of another format or fold is
/// refused, as the projector will refuse it.
pub fn compare(db: &dyn Db, log: &dyn EventLog) -> Result<(), OpenError> {
    if is_new(db)? {
        return Ok(());
    }
    let found = log.identify()?;
    let anchors = open_stamped(db, &found)?;
    check(log, &found, &anchors, &next(db, &anchors)?)
}

/// Whether nothing was ever written to it. One of another format is refused.
fn is_new(db: &dyn Db) -> store::Result<bool> {
    match db.get(Family::Meta, b"format")?.as_deref() {
        None => Ok(true),
        Some([FORMAT]) => Ok(false),
        Some([other, ..]) => Err(Error::OtherFormat(format!(
            "it is {other}, this program knows {FORMAT}"
        ))),
        Some([]) => Err(damaged("format")),
    }
}

/// Of a store of our format.
fn open_stamped(db: &dyn Db, log: &Identity) -> Result<Anchors, OpenError> {
    let fold = db
        .get(Family::Meta, b"fold")?
        .ok_or_else(|| damaged("fold"))?;
    let fold = u32::from_be_bytes(fold.try_into().map_err(|_| damaged("fold"))?);
    if fold != FOLD {
        Err(Halt::Fold {
            stored: fold,
            known: FOLD,
        })?;
    }
    let stored = log_id(db)?.ok_or_else(|| damaged("log"))?;
    if stored != log.id {
        let stored = Identity {
            id: stored,
            name: log_name(db)?,
        };
        Err(Halt::OtherLog {
            stored: stored.to_string(),
            found: log.to_string(),
        })?;
    }
    Ok(anchors(db)?)
}

/// What the store says that it holds, of whatever log; `None` if it is new.
pub fn held(db: &dyn Db) -> store::Result<Option<Token>> {
    if is_new(db)? {
        return Ok(None);
    }
    let Some(log) = log_id(db)? else {
        return Ok(None);
    };
    let positions = positions(&anchors(db)?);
    Ok(Some(Token { log, positions }))
}

fn log_id(db: &dyn Db) -> store::Result<Option<LogId>> {
    let row = db.get(Family::Meta, b"log")?;
    let id = row.map(|row| Ok(LogId(row.try_into().map_err(|_| damaged("log"))?)));
    id.transpose()
}

fn log_name(db: &dyn Db) -> store::Result<String> {
    let name = db.get(Family::Meta, b"log_name")?.unwrap_or_default();
    Ok(String::from_utf8_lossy(&name).into_owned())
}

pub fn positions(anchors: &Anchors) -> LastOffsets {
    anchors.iter().map(|(p, at)| (*p, at.offset)).collect()
}

fn stamp(db: &dyn Db, log: &Identity) -> store::Result<()> {
    let mut batch = Batch::default();
    batch.put(Family::Meta, b"format", &[FORMAT]);
    batch.put(Family::Meta, b"fold", &FOLD.to_be_bytes());
    batch.put(Family::Meta, b"log", &log.id.0);
    batch.put(Family::Meta, b"log_name", log.name.as_bytes());
    db.write(&batch, Durability::Synced)
}

const POSITION: &[u8] = b"position/";
const NEXT: &[u8] = b"next/";
const BEGINS: &[u8] = b"begins/";
const STATUSES: &[u8] = b"statuses";

pub(super) fn key(prefix: &[u8], partition: Partition) -> Vec<u8> {
    [prefix, &partition.0.to_be_bytes()].concat()
}

/// The rows of a prefix. One that cannot be read is an error: without it a partition
/// would seem to be new.
pub(super) fn by_partition<T, C: FromIterator<(Partition, T)>>(
    db: &dyn Db,
    prefix: &[u8],
    decode: fn(&[u8]) -> Option<T>,
) -> store::Result<C> {
    let mut rows = Vec::new();
    let mut is_damaged = false;
    store::view(db, |view| {
        let end = keys::after_prefix(prefix);
        let range = prefix..&end[..];
        view.scan(Family::Meta, range, Direction::Forward, &mut |key, row| {
            let partition = key[prefix.len()..].try_into().ok();
            let partition = partition.map(u32::from_be_bytes).map(Partition);
            match partition.zip(decode(row)) {
                Some(row) => rows.push(row),
                None => is_damaged = true,
            }
            ControlFlow::Continue(())
        })
    })?;
    match is_damaged {
        true => Err(damaged("a position")),
        false => Ok(rows.into_iter().collect()),
    }
}

pub(super) fn offset(row: &[u8]) -> Option<Offset> {
    Some(Offset(u64::from_be_bytes(row.try_into().ok()?)))
}

pub fn put_anchor(batch: &mut Batch, partition: Partition, anchor: Anchor) {
    batch.put(Family::Meta, &key(POSITION, partition), &anchor.encode());
}

fn anchors(db: &dyn Db) -> store::Result<Anchors> {
    by_partition(db, POSITION, Anchor::decode)
}

/// Whether this is the log that the store was folded from, and still has what
/// comes next: its identity, its bounds, and the last record of each partition.
pub fn check(
    log: &dyn EventLog,
    stored: &Identity,
    anchors: &Anchors,
    next: &NextOffsets,
) -> Result<(), OpenError> {
    let found = log.identify()?;
    if found.id != stored.id {
        Err(Halt::OtherLog {
            stored: stored.to_string(),
            found: found.to_string(),
        })?;
    }
    let bounds = log.bounds()?;
    check_bounds(next, log.partitions()?, &bounds)?;
    let is_kept = |partition: &Partition, offset: Offset| {
        let bounds = bounds.get(partition);
        bounds.is_some_and(|bounds| bounds.first <= offset)
    };
    let marked: BTreeMap<Partition, (Offset, Mark)> = anchors
        .iter()
        .filter(|(partition, anchor)| is_kept(partition, anchor.offset))
        .map(|(partition, anchor)| (*partition, (anchor.offset, anchor.mark)))
        .collect();
    let at = marked.iter().map(|(p, (offset, _))| (*p, *offset));
    let records = log.records_at(&at.collect())?;
    for (partition, (offset, stored)) in marked {
        match records.get(&partition).map(Mark::of) {
            Some(found) if found == stored => {}
            Some(found) => Err(Halt::OtherRecord {
                partition,
                offset,
                stored,
                found,
            })?,
            None => {
                // Retention may have taken it meanwhile; what comes next is still there.
                log.identify()?;
                if log
                    .bounds()?
                    .get(&partition)
                    .is_some_and(|b| b.first <= offset)
                {
                    Err(Halt::NoRecord {
                        partition,
                        offset,
                        stored,
                    })?;
                }
            }
        }
    }
    Ok(())
}

/// Whether the log still has what comes next. A partition that cannot be asked now is
/// judged when it can.
fn check_bounds(
    next: &NextOffsets,
    count: usize,
    log: &BTreeMap<Partition, Bounds>,
) -> Result<(), Halt> {
    for (&partition, &next) in next.iter() {
        if partition.index() >= count {
            return Err(Halt::FewerPartitions { partition, count });
        }
        let Some(&Bounds { first, end }) = log.get(&partition) else {
            continue;
        };
        if end < next {
            return Err(Halt::BeyondEnd {
                partition,
                next,
                end,
            });
        }
        if first > next {
            return Err(Halt::Gone {
                partition,
                next,
                first,
            });
        }
    }
    Ok(())
}

/// How many documents have each status, in the order of `Status::ALL`.
pub fn put_statuses(batch: &mut Batch, statuses: &StatusCounts) {
    let counts = statuses.iter().flat_map(|count| count.to_be_bytes());
    let row: Vec<u8> = [STATUS_COUNTS].into_iter().chain(counts).collect();
    batch.put(Family::Meta, STATUSES, &row);
}

/// As they were written with the last batch that changed them.
pub fn statuses(db: &dyn Db) -> store::Result<StatusCounts> {
    let Some(row) = db.get(Family::Meta, STATUSES)? else {
        return Ok(StatusCounts::default());
    };
    let damaged = || damaged("the counts by status");
    let counts = stored::body(STATUS_COUNTS, &row).map_err(|_| damaged())?;
    let (counts, []) = counts.as_chunks::<8>() else {
        return Err(damaged());
    };
    let counts: Vec<i64> = counts.iter().map(|c| i64::from_be_bytes(*c)).collect();
    counts.try_into().map_err(|_| damaged())
}

pub fn put_next(batch: &mut Batch, partition: Partition, next: Offset) {
    batch.put(Family::Meta, &key(NEXT, partition), &next.0.to_be_bytes());
}

/// Where the store goes on: after the last record and after what is no record. A partition is in
/// it from when the store met it. There is no row where that is right after the last record.
pub fn next(db: &dyn Db, anchors: &Anchors) -> store::Result<NextOffsets> {
    let mut next: NextOffsets = by_partition(db, BEGINS, offset)?;
    let behind = anchors.iter().map(|(p, anchor)| (*p, anchor.offset.next()));
    let stored: NextOffsets = by_partition(db, NEXT, offset)?;
    for (partition, offset) in stored.into_iter().chain(behind) {
        next.raise(partition, offset);
    }
    Ok(next)
}

/// Remembers of partitions that are new to the store where they begin. If that is not
/// at 0, what was before was gone already. Returns what was not known.
pub fn note_beginnings(
    db: &dyn Db,
    known: &NextOffsets,
    bounds: &BTreeMap<Partition, Bounds>,
) -> store::Result<NextOffsets> {
    let mut batch = Batch::default();
    let mut new = NextOffsets::default();
    for (partition, bounds) in bounds.iter().filter(|(p, _)| !known.contains_key(p)) {
        if bounds.first > Offset::ZERO {
            tracing::warn!(
                partition = partition.0,
                offset = bounds.first.0,
                "the log begins here: earlier records are gone and histories are incomplete"
            );
        }
        let first = bounds.first.0.to_be_bytes();
        batch.put(Family::Meta, &key(BEGINS, *partition), &first);
        new.insert(*partition, bounds.first);
    }
    if !batch.is_empty() {
        db.write(&batch, Durability::Buffered)?;
    }
    Ok(new)
}

/// By partition, the first offset that the log still had when the store met it.
pub fn beginnings(db: &dyn Db) -> store::Result<NextOffsets> {
    by_partition(db, BEGINS, offset)
}

fn damaged(what: &str) -> Error {
    Error::Corrupt(format!("{what} of the store cannot be read"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What comes next is at 5.
    fn checked(first: u64, end: u64) -> Result<(), Halt> {
        let bounds = Bounds {
            first: Offset(first),
            end: Offset(end),
        };
        check_bounds(&[(0, 5)].into(), 1, &[(Partition(0), bounds)].into())
    }

    #[test]
    fn a_log_that_begins_or_ends_at_what_comes_next_is_whole() {
        for (first, end) in [(0, 5), (4, 5), (5, 5), (5, 6), (0, 9)] {
            assert_eq!(checked(first, end), Ok(()), "{first}..{end}");
        }
    }

    #[test]
    fn a_log_without_the_one_record_that_comes_next_halts() {
        let gone = Halt::Gone {
            partition: Partition(0),
            next: Offset(5),
            first: Offset(6),
        };
        assert_eq!(checked(6, 9), Err(gone.clone()));
        assert_eq!(checked(6, 6), Err(gone));
    }

    #[test]
    fn a_log_without_the_one_record_that_was_applied_last_halts() {
        let beyond = Halt::BeyondEnd {
            partition: Partition(0),
            next: Offset(5),
            end: Offset(4),
        };
        assert_eq!(checked(0, 4), Err(beyond));
    }

    #[test]
    fn a_partition_that_cannot_be_asked_is_judged_later_and_one_that_is_gone_now() {
        let next = NextOffsets::from([(0, 5), (1, 5)]);
        let bounds = Bounds {
            first: Offset::ZERO,
            end: Offset(5),
        };
        let one = BTreeMap::from([(Partition(0), bounds)]);
        assert_eq!(check_bounds(&next, 2, &one), Ok(()));
        let fewer = Halt::FewerPartitions {
            partition: Partition(1),
            count: 1,
        };
        assert_eq!(check_bounds(&next, 1, &one), Err(fewer));
    }
}
