//! The store's description of itself: versions, the logs that it belongs to, and the last record
//! of each partition.

use crate::domain::{SLICES, Slice, Slices, Status};
use crate::event_log::Identity;
use crate::store::{
    self, Batch, Db, Direction, Error, Family, Result, View, after_prefix, try_scan,
};
use crate::wire::anchor::Anchor;
use crate::wire::position::{LastOffsets, LogId, NextOffsets, Offset, Partition, Token};
use crate::wire::stored::{self, STATUS_COUNTS};
use std::collections::BTreeMap;
use std::ops::{ControlFlow, Index, IndexMut};

/// The form of keys and rows (`wire::stored`). A store of another format is rebuilt, not
/// converted.
pub const FORMAT: u8 = 1;
/// The version of the fold's rules. A store of another version is rebuilt, not converted.
pub const FOLD: u32 = 2;

/// The two logs that a store is folded from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// Events of workers.
    Events,
    /// Records of the ledger and of operators, which do not follow from the events.
    Control,
}

impl Source {
    fn log(self) -> &'static [u8] {
        match self {
            Source::Events => b"log",
            Source::Control => b"control",
        }
    }

    fn name(self) -> Vec<u8> {
        [self.log(), b"_name"].concat()
    }

    /// A key of this log's own rows in `meta`.
    fn key(self, what: Row, rest: &[&[u8]]) -> Vec<u8> {
        let of: &[u8] = match self {
            Source::Events => b"",
            Source::Control => b"control/",
        };
        let what: &[u8] = match what {
            Row::Run => b"run/",
            Row::Anchor => b"position/",
            Row::Next => b"next/",
            Row::Begin => b"begins/",
        };
        [&[of, what], rest].concat().concat()
    }

    fn beginning(self, partition: Partition) -> Vec<u8> {
        self.key(Row::Begin, &[&partition.0.to_be_bytes()])
    }

    /// Of the run of slices that begins with `first`.
    fn of_run(self, what: Row, first: Slice, partition: Partition) -> Vec<u8> {
        self.key(what, &[&[first.0], &partition.0.to_be_bytes()])
    }
}

#[derive(Clone, Copy)]
enum Row {
    /// There is a run of slices, from this one on.
    Run,
    Anchor,
    Next,
    Begin,
}

/// Documents by status, in the order of `Status::ALL`; or by how many there are more.
pub type StatusCounts = [i64; Status::ALL.len()];

/// The counts of each slice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StatusesBySlice([StatusCounts; SLICES as usize]);

impl Default for StatusesBySlice {
    fn default() -> StatusesBySlice {
        StatusesBySlice([StatusCounts::default(); SLICES as usize])
    }
}

impl Index<Slice> for StatusesBySlice {
    type Output = StatusCounts;

    fn index(&self, slice: Slice) -> &StatusCounts {
        &self.0[usize::from(slice.0)]
    }
}

impl IndexMut<Slice> for StatusesBySlice {
    fn index_mut(&mut self, slice: Slice) -> &mut StatusCounts {
        &mut self.0[usize::from(slice.0)]
    }
}

impl StatusesBySlice {
    /// The counts of these slices together.
    pub fn sum(&self, slices: Slices) -> StatusCounts {
        let mut sum = StatusCounts::default();
        slices.iter().for_each(|slice| add(&mut sum, &self[slice]));
        sum
    }
}

/// Adds counts by status.
pub fn add(to: &mut StatusCounts, counts: &StatusCounts) {
    to.iter_mut()
        .zip(counts)
        .for_each(|(to, count)| *to += count);
}

/// The last record of each partition.
pub type Anchors = BTreeMap<Partition, Anchor>;

/// How far some slices are in a log.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Place {
    pub anchors: Anchors,
    /// Where they continue.
    pub next: NextOffsets,
}

/// The place of every slice: of those from a slice on, up to the next slice here. Slices that are
/// together share a place, so that a batch does not write one for each.
pub type Runs = BTreeMap<Slice, Place>;

/// Binds a store to its log. Does nothing if it has one: a store that has no log of this source yet
/// belongs to this one from now on.
pub fn stamp(db: &dyn Db, source: Source, log: &Identity, batch: &mut Batch) -> Result<()> {
    let is_new = match source {
        Source::Events => is_new(db)?,
        Source::Control => log_id(db, source)?.is_none(),
    };
    if !is_new {
        return Ok(());
    }
    if source == Source::Events {
        batch.put(Family::Meta, b"format", &[FORMAT]);
        batch.put(Family::Meta, b"fold", &FOLD.to_be_bytes());
    }
    batch.put(Family::Meta, source.log(), &log.id.0);
    batch.put(Family::Meta, &source.name(), log.name.as_bytes());
    Ok(())
}

/// The version of the fold that the store was written with.
pub fn fold(db: &dyn Db) -> Result<u32> {
    let row = db.get(Family::Meta, b"fold")?;
    let row = row.and_then(|row| row.try_into().ok());
    row.map(u32::from_be_bytes).ok_or_else(|| damaged("fold"))
}

/// The log that the store belongs to; `None` if it has none of this source yet.
pub fn log(db: &dyn Db, source: Source) -> Result<Option<Identity>> {
    let Some(id) = log_id(db, source)? else {
        return Ok(None);
    };
    let name = db.get(Family::Meta, &source.name())?.unwrap_or_default();
    let name = String::from_utf8_lossy(&name).into_owned();
    Ok(Some(Identity { id, name }))
}

/// Whether the store is empty. Another format is an error.
pub fn is_new(db: &dyn Db) -> Result<bool> {
    match db.get(Family::Meta, b"format")?.as_deref() {
        None => Ok(true),
        Some([FORMAT]) => Ok(false),
        Some([other, ..]) => Err(Error::OtherFormat(format!(
            "it is {other}, this program knows {FORMAT}"
        ))),
        Some([]) => Err(damaged("format")),
    }
}

/// Whether the store has a control log.
pub fn knows_control_log(db: &dyn Db) -> Result<bool> {
    Ok(log_id(db, Source::Control)?.is_some())
}

/// The store's log, and the positions that all of its slices have reached; `None` if it is new.
pub fn token(db: &dyn Db) -> Result<Option<Token>> {
    if is_new(db)? {
        return Ok(None);
    }
    let Some(log) = log_id(db, Source::Events)? else {
        return Ok(None);
    };
    let lowest = lowest(runs(db, Source::Events)?.values());
    let positions = positions(&lowest.anchors);
    Ok(Some(Token { log, positions }))
}

/// The place that all of these have reached.
pub fn lowest<'p>(mut places: impl Iterator<Item = &'p Place>) -> Place {
    let mut lowest = places.next().cloned().unwrap_or_default();
    for place in places {
        lowest.anchors.retain(|partition, anchor| {
            let other = place.anchors.get(partition);
            if let Some(other) = other.filter(|other| other.offset < anchor.offset) {
                *anchor = *other;
            }
            other.is_some()
        });
        lowest.next = lowest.next.lower(&place.next);
    }
    lowest
}

fn log_id(db: &dyn Db, source: Source) -> Result<Option<LogId>> {
    let row = db.get(Family::Meta, source.log())?;
    let id = row.map(|row| Ok(LogId(row.try_into().map_err(|_| damaged("log"))?)));
    id.transpose()
}

pub fn positions(anchors: &Anchors) -> LastOffsets {
    anchors.iter().map(|(p, at)| (*p, at.offset)).collect()
}

/// Followed by the slice.
const STATUSES: &[u8] = b"statuses/";

fn of_slice(slice: Slice) -> Vec<u8> {
    [STATUSES, &[slice.0]].concat()
}

/// The rows of this kind: the rest of the key, and what the row says. One that cannot be read is an
/// error: without it a partition would seem to be new.
fn rows<T>(
    db: &dyn Db,
    source: Source,
    what: Row,
    decode: fn(&[u8]) -> Option<T>,
) -> Result<Vec<(Vec<u8>, T)>> {
    store::view(db, |view| rows_in(view, source, what, decode))
}

fn rows_in<T>(
    view: &dyn View,
    source: Source,
    what: Row,
    decode: fn(&[u8]) -> Option<T>,
) -> Result<Vec<(Vec<u8>, T)>> {
    let mut rows = Vec::new();
    let mut is_damaged = false;
    let prefix = source.key(what, &[]);
    let end = after_prefix(&prefix);
    let range = &prefix[..]..&end[..];
    view.scan(Family::Meta, range, Direction::Forward, &mut |key, row| {
        match decode(row) {
            Some(row) => rows.push((key[prefix.len()..].to_vec(), row)),
            None => is_damaged = true,
        }
        ControlFlow::Continue(())
    })?;
    match is_damaged {
        true => Err(damaged("a position")),
        false => Ok(rows),
    }
}

fn offset(row: &[u8]) -> Option<Offset> {
    Some(Offset(u64::from_be_bytes(row.try_into().ok()?)))
}

fn partition(key: &[u8]) -> Result<Partition> {
    let number = key.try_into().map_err(|_| damaged("a position"))?;
    Ok(Partition(u32::from_be_bytes(number)))
}

/// How far the slices are. A run has no row for where it continues in a partition if that directly
/// follows its last record, or is where the partition began.
pub fn runs(db: &dyn Db, source: Source) -> Result<Runs> {
    let mut runs = Runs::from([(Slices::ALL.first(), Place::default())]);
    for (key, ()) in rows(db, source, Row::Run, |_| Some(()))? {
        let [first] = key[..] else {
            return Err(damaged("a run of slices"));
        };
        runs.entry(Slice(first)).or_default();
    }
    let begins = beginnings(db, source)?;
    runs.values_mut()
        .for_each(|run| run.next.clone_from(&begins));
    let mut of_run = |key: &[u8], put: &mut dyn FnMut(&mut Place, Partition)| {
        let (first, rest) = key.split_first().ok_or_else(|| damaged("a position"))?;
        let run = runs.get_mut(&Slice(*first));
        put(
            run.ok_or_else(|| damaged("a run of slices"))?,
            partition(rest)?,
        );
        Ok::<_, Error>(())
    };
    for (key, anchor) in rows(db, source, Row::Anchor, Anchor::decode)? {
        of_run(&key, &mut |run, partition| {
            run.anchors.insert(partition, anchor);
            run.next.raise(partition, anchor.offset.next());
        })?;
    }
    for (key, next) in rows(db, source, Row::Next, offset)? {
        of_run(&key, &mut |run, partition| run.next.raise(partition, next))?;
    }
    Ok(runs)
}

/// The last record of each partition that the slices have of the events, of all slices in their
/// order.
pub fn positions_by_slices(view: &dyn View) -> Result<Vec<(Slices, LastOffsets)>> {
    let mut runs = BTreeMap::from([(0, LastOffsets::default())]);
    for (key, ()) in rows_in(view, Source::Events, Row::Run, |_| Some(()))? {
        runs.entry(*key.first().ok_or_else(|| damaged("a run of slices"))?)
            .or_default();
    }
    for (key, anchor) in rows_in(view, Source::Events, Row::Anchor, Anchor::decode)? {
        let (first, rest) = key.split_first().ok_or_else(|| damaged("a position"))?;
        let run = runs.get_mut(first);
        let run = run.ok_or_else(|| damaged("a run of slices"))?;
        run.insert(partition(rest)?, anchor.offset);
    }
    let ends: Vec<u8> = runs.keys().copied().skip(1).chain([SLICES]).collect();
    let slices = runs.into_iter().zip(ends).map(|((first, at), end)| {
        let slices = Slices::between(first, end);
        Ok((slices.ok_or_else(|| damaged("a run of slices"))?, at))
    });
    slices.collect()
}

/// Changes the rows of the runs from those of `before` to those of `after`.
pub fn put_runs(source: Source, before: &Runs, after: &Runs, batch: &mut Batch) {
    for (&first, run) in after {
        let known = before.get(&first);
        if known.is_none() {
            batch.put(Family::Meta, &source.key(Row::Run, &[&[first.0]]), &[]);
        }
        let unknown = Place::default();
        let known = known.unwrap_or(&unknown);
        for &partition in known.anchors.keys() {
            if !run.anchors.contains_key(&partition) {
                batch.delete(Family::Meta, &source.of_run(Row::Anchor, first, partition));
            }
        }
        for (&partition, anchor) in &run.anchors {
            if known.anchors.get(&partition) != Some(anchor) {
                let key = source.of_run(Row::Anchor, first, partition);
                batch.put(Family::Meta, &key, &anchor.encode());
            }
        }
        for (&partition, &next) in run.next.iter() {
            let anchor = run.anchors.get(&partition);
            let follows = anchor.map(|anchor| anchor.offset.next()) == Some(next);
            let known = known.next.get(&partition);
            if known > Some(&next) || known != Some(&next) && !follows {
                let key = source.of_run(Row::Next, first, partition);
                batch.put(Family::Meta, &key, &next.0.to_be_bytes());
            }
        }
    }
    for (&first, run) in before
        .iter()
        .filter(|(first, _)| !after.contains_key(first))
    {
        batch.delete(Family::Meta, &source.key(Row::Run, &[&[first.0]]));
        for &partition in run.anchors.keys() {
            batch.delete(Family::Meta, &source.of_run(Row::Anchor, first, partition));
        }
        for (&partition, _) in run.next.iter() {
            batch.delete(Family::Meta, &source.of_run(Row::Next, first, partition));
        }
    }
}

/// The number of documents of each status in one slice.
pub fn put_statuses(batch: &mut Batch, slice: Slice, counts: &StatusCounts) {
    let counts = counts.iter().flat_map(|count| count.to_be_bytes());
    let row: Vec<u8> = [STATUS_COUNTS].into_iter().chain(counts).collect();
    batch.put(Family::Meta, &of_slice(slice), &row);
}

/// Called when the slice has no documents any more.
pub fn delete_statuses(batch: &mut Batch, slice: Slice) {
    batch.delete(Family::Meta, &of_slice(slice));
}

/// The numbers as of the last batches that changed them. A slice without documents may have no
/// row.
pub fn statuses(db: &dyn Db) -> Result<StatusesBySlice> {
    store::view(db, statuses_in)
}

/// The same in a view.
pub fn statuses_in(view: &dyn View) -> Result<StatusesBySlice> {
    let damaged = || damaged("the counts by status");
    let mut statuses = StatusesBySlice::default();
    let end = after_prefix(STATUSES);
    let (range, forward) = (STATUSES..&end[..], Direction::Forward);
    try_scan(
        |visit| view.scan(Family::Meta, range, forward, visit),
        |key, row| {
            let [slice] = key[STATUSES.len()..] else {
                return Err(damaged());
            };
            let counts = statuses
                .0
                .get_mut(usize::from(slice))
                .zip(status_counts(row));
            let (of_slice, counts) = counts.ok_or_else(damaged)?;
            *of_slice = counts;
            Ok(ControlFlow::Continue(()))
        },
    )?;
    Ok(statuses)
}

fn status_counts(row: &[u8]) -> Option<StatusCounts> {
    let (counts, []) = stored::body(STATUS_COUNTS, row).ok()?.as_chunks::<8>() else {
        return None;
    };
    let counts: Vec<i64> = counts.iter().map(|c| i64::from_be_bytes(*c)).collect();
    counts.try_into().ok()
}

pub fn put_beginning(batch: &mut Batch, source: Source, partition: Partition, first: Offset) {
    let key = source.beginning(partition);
    batch.put(Family::Meta, &key, &first.0.to_be_bytes());
}

/// By partition, the first offset that the log had when the store first read it.
pub fn beginnings(db: &dyn Db, source: Source) -> Result<NextOffsets> {
    let rows = rows(db, source, Row::Begin, offset)?.into_iter();
    rows.map(|(key, first)| Ok((partition(&key)?, first)))
        .collect()
}

fn damaged(what: &str) -> Error {
    Error::Corrupt(format!("{what} of the store cannot be read"))
}
