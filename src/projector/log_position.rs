//! The store's position in one of its logs, and whether that still is the same log.

use super::halt::{Halt, OpenError};
use super::record_batch::RecordBatch;
use super::source::Source;
use crate::domain::slice::join_equal;
use crate::domain::{Slice, Slices, Workers};
use crate::event_log::{Bounds, EventLog, Identity};
use crate::rows::meta::{self, Anchors, Place, Runs};
use crate::store::{Batch, Db, Error};
use crate::wire::anchor::{Anchor, Mark};
use crate::wire::position::{LastOffsets, NextOffsets, Offset, Partition, Token};
use std::collections::BTreeMap;

/// How far slices are in a log: all of them, or those of one worker. They are together unless one
/// worker had written a batch before a crash and another had not, or one was dropped.
#[derive(Debug, Clone)]
pub struct LogPosition {
    source: Source,
    log: Identity,
    /// The first one is that of the first slice.
    runs: Runs,
}

impl LogPosition {
    /// Reads the position of a store that belongs to this log.
    pub fn open(db: &dyn Db, source: Source, log: &Identity) -> Result<LogPosition, OpenError> {
        compare(db, source, log)?;
        Ok(LogPosition {
            source,
            log: log.clone(),
            runs: meta::runs(db, source)?,
        })
    }

    /// That of each worker; and the rows that tell them apart.
    pub(super) fn share(&self, workers: Workers, batch: &mut Batch) -> Vec<LogPosition> {
        let shared = workers.all().map(|slices| self.of(slices));
        let shared: Vec<LogPosition> = shared.collect();
        LogPosition::whole(&shared).put(self, batch);
        shared
    }

    /// All slices, from the positions of all workers in their order.
    pub fn whole(workers: &[LogPosition]) -> LogPosition {
        let mut whole = workers[0].clone();
        let others = workers[1..].iter().flat_map(|worker| &worker.runs);
        whole
            .runs
            .extend(others.map(|(first, run)| (*first, run.clone())));
        whole
    }

    fn of(&self, slices: Slices) -> LogPosition {
        let place = |slice| (slice, self.at(slice).clone());
        let mut position = LogPosition {
            runs: slices.iter().map(place).collect(),
            ..self.clone()
        };
        join_equal(&mut position.runs);
        position
    }

    /// These slices continue from the beginning of the log, once this is written.
    pub fn put_back(
        &mut self,
        db: &dyn Db,
        slices: Slices,
        batch: &mut Batch,
    ) -> Result<(), Error> {
        let before = self.clone();
        let beginning = Place {
            anchors: Anchors::new(),
            next: meta::beginnings(db, self.source)?,
        };
        let place = |slice| match slices.contains(slice) {
            true => (slice, beginning.clone()),
            false => (slice, before.at(slice).clone()),
        };
        self.runs = Slices::ALL.iter().map(place).collect();
        join_equal(&mut self.runs);
        self.put(&before, batch);
        Ok(())
    }

    /// How far this slice is.
    pub fn at(&self, slice: Slice) -> &Place {
        let run = self.runs.range(..=slice).next_back();
        run.expect("the first slice has a run").1
    }

    pub fn log(&self) -> &Identity {
        &self.log
    }

    /// What all slices have reached.
    fn lowest(&self) -> Place {
        meta::lowest(self.runs.values())
    }

    /// The offsets from which to read the log.
    pub fn next(&self) -> NextOffsets {
        self.lowest().next
    }

    pub(super) fn source(&self) -> Source {
        self.source
    }

    /// Whether all slices are equally far.
    pub(super) fn is_even(&self) -> bool {
        self.runs.len() == 1
    }

    /// What some slice has reached, by partition.
    pub fn furthest(&self) -> NextOffsets {
        let mut furthest = NextOffsets::default();
        for (&partition, &offset) in self.runs.values().flat_map(|run| run.next.iter()) {
            furthest.raise(partition, offset);
        }
        furthest
    }

    /// Where each slice continues, if that is not the same for all.
    pub fn by_slice(&self) -> Option<Vec<NextOffsets>> {
        let mut runs = self.runs.values();
        let first = runs.next();
        let differ = runs.any(|run| Some(&run.next) != first.map(|first| &first.next));
        let next = |slice: Slice| self.at(slice).next.clone();
        differ.then(|| Slices::ALL.iter().map(next).collect())
    }

    /// The last record of each partition in the store.
    pub fn positions(&self) -> LastOffsets {
        meta::positions(&self.lowest().anchors)
    }

    pub fn token(&self) -> Token {
        Token {
            log: self.log.id,
            positions: self.positions(),
        }
    }

    /// Records the first offsets of partitions that are new to the store. If one is not 0, earlier
    /// records were deleted already.
    pub(super) fn note_beginnings(
        &mut self,
        bounds: &BTreeMap<Partition, Bounds>,
        batch: &mut Batch,
    ) {
        let known = self.next();
        for (&partition, &Bounds { first, .. }) in bounds {
            if known.contains_key(&partition) {
                continue;
            }
            if first > Offset::ZERO {
                tracing::warn!(
                    partition = partition.0,
                    offset = first.0,
                    "the log begins here: earlier records are gone and histories are incomplete"
                );
            }
            meta::put_beginning(batch, self.source, partition, first);
            for run in self.runs.values_mut() {
                run.next.insert(partition, first);
            }
        }
    }

    /// The position after the batch.
    pub(super) fn after(&self, record_batch: &RecordBatch) -> LogPosition {
        let mut after = self.clone();
        for run in after.runs.values_mut() {
            for (&partition, span) in record_batch.spans() {
                let continues = run.next.get(&partition).copied().unwrap_or_default();
                if continues > span.last.offset {
                    // It was further already.
                    continue;
                }
                assert!(
                    continues <= span.first || record_batch.repeats(),
                    "a reader continues after its last record: {partition}:{} after {continues}",
                    span.first
                );
                run.anchors.insert(partition, span.last);
                run.next.insert(partition, span.last.offset.next());
            }
            for (&partition, &offset) in record_batch.next().iter() {
                run.next.raise(partition, offset);
            }
        }
        join_equal(&mut after.runs);
        after
    }

    /// Adds the changes since `before` to the batch.
    pub(super) fn put(&self, before: &LogPosition, batch: &mut Batch) {
        meta::put_runs(self.source, &before.runs, &self.runs, batch);
    }

    /// Whether it moved from there.
    pub(super) fn differs(&self, before: &LogPosition) -> bool {
        self.runs != before.runs
    }

    /// The last record of each partition in the store.
    pub(super) fn anchors(&self) -> Anchors {
        self.lowest().anchors
    }

    /// Checks that this is the log that the store was folded from and that it still has the
    /// next records: by its identity, its bounds, and the last record of each partition.
    pub fn check(&self, log: &dyn EventLog) -> Result<(), OpenError> {
        let found = log.identify()?;
        if found.id != self.log.id {
            Err(self.source.other_log(&self.log, &found))?;
        }
        let bounds = log.bounds()?;
        let lowest = self.lowest();
        check_bounds(&lowest.next, log.partitions()?, &bounds)?;
        check_bounds(&self.furthest(), log.partitions()?, &bounds)?;
        let mut last = lowest.anchors.clone();
        for (&partition, anchor) in self.runs.values().flat_map(|run| &run.anchors) {
            let kept = last.entry(partition).or_insert(*anchor);
            if kept.offset < anchor.offset {
                *kept = *anchor;
            }
        }
        check_records(&lowest.anchors, log, &bounds)?;
        last.retain(|partition, anchor| lowest.anchors.get(partition) != Some(anchor));
        check_records(&last, log, &bounds)
    }
}

/// Checks that the log has these records, where it still has their offsets.
fn check_records(
    anchors: &Anchors,
    log: &dyn EventLog,
    bounds: &BTreeMap<Partition, Bounds>,
) -> Result<(), OpenError> {
    let is_kept = |partition: &Partition, offset: Offset| {
        let bounds = bounds.get(partition);
        bounds.is_some_and(|bounds| bounds.first <= offset)
    };
    let marked: BTreeMap<Partition, Anchor> = anchors
        .iter()
        .filter(|(partition, anchor)| is_kept(partition, anchor.offset))
        .map(|(partition, anchor)| (*partition, *anchor))
        .collect();
    if marked.is_empty() {
        return Ok(());
    }
    let at = marked.iter().map(|(p, anchor)| (*p, anchor.offset));
    let records = log.records_at(&at.collect())?;
    for (partition, Anchor { offset, mark }) in marked {
        match records.get(&partition).map(Mark::of) {
            Some(found) if found == mark => {}
            Some(found) => Err(Halt::OtherRecord {
                partition,
                offset,
                stored: mark,
                found,
            })?,
            None => {
                // Retention may have deleted it meanwhile; the next record still exists.
                log.identify()?;
                let first = log.bounds()?.get(&partition).map(|bounds| bounds.first);
                if first.is_some_and(|first| first <= offset) {
                    Err(Halt::NoRecord {
                        partition,
                        offset,
                        stored: mark,
                    })?;
                }
            }
        }
    }
    Ok(())
}

/// Checks that the store belongs to this log and can continue with it.
fn compare(db: &dyn Db, source: Source, log: &Identity) -> Result<(), OpenError> {
    if source == Source::Events {
        // Another format is an error.
        meta::is_new(db)?;
        let stored = meta::fold(db)?;
        if stored != meta::FOLD {
            Err(Halt::Fold {
                stored,
                known: meta::FOLD,
            })?;
        }
    }
    let known = meta::log(db, source)?
        .ok_or_else(|| Error::Corrupt("log of the store cannot be read".into()))?;
    if known.id != log.id {
        Err(source.other_log(&known, log))?;
    }
    Ok(())
}

/// Checks that the log still has the next records. A partition that does not respond is checked
/// later.
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

#[cfg(test)]
mod tests {
    use super::*;

    /// The next offset is 5.
    fn checked(first: u64, end: u64) -> Result<(), Halt> {
        let bounds = Bounds {
            first: Offset(first),
            end: Offset(end),
        };
        check_bounds(&[(0, 5)].into(), 1, &[(Partition(0), bounds)].into())
    }

    #[test]
    fn a_log_that_begins_or_ends_at_the_next_offset_is_whole() {
        for (first, end) in [(0, 5), (4, 5), (5, 5), (5, 6), (0, 9)] {
            assert_eq!(checked(first, end), Ok(()), "{first}..{end}");
        }
    }

    #[test]
    fn a_log_that_lost_the_next_record_halts_the_projector() {
        let gone = Halt::Gone {
            partition: Partition(0),
            next: Offset(5),
            first: Offset(6),
        };
        assert_eq!(checked(6, 9), Err(gone.clone()));
        assert_eq!(checked(6, 6), Err(gone));
    }

    #[test]
    fn a_log_that_lost_the_last_applied_record_halts_the_projector() {
        let beyond = Halt::BeyondEnd {
            partition: Partition(0),
            next: Offset(5),
            end: Offset(4),
        };
        assert_eq!(checked(0, 4), Err(beyond));
    }

    #[test]
    fn an_unavailable_partition_is_checked_later_and_a_missing_one_halts_now() {
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
