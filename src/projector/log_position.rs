//! The store's position in one of its logs, and whether that still is the same log.

use super::halt::{Halt, OpenError};
use super::record_batch::RecordBatch;
use super::source::Source;
use crate::event_log::{Bounds, EventLog, Identity};
use crate::rows::meta::{self, Anchors};
use crate::store::{Batch, Db, Error};
use crate::wire::anchor::{Anchor, Mark};
use crate::wire::position::{LastOffsets, NextOffsets, Offset, Partition, Token};
use std::collections::BTreeMap;

#[derive(Debug, Clone)]
pub struct LogPosition {
    source: Source,
    log: Identity,
    anchors: Anchors,
    next: NextOffsets,
}

impl LogPosition {
    /// Reads the position of a store that belongs to this log.
    pub fn open(db: &dyn Db, source: Source, log: &Identity) -> Result<LogPosition, OpenError> {
        compare(db, source, log)?;
        let anchors = meta::anchors(db, source)?;
        Ok(LogPosition {
            source,
            log: log.clone(),
            next: meta::next(db, source, &anchors)?,
            anchors,
        })
    }

    pub fn log(&self) -> &Identity {
        &self.log
    }

    /// The offsets from which to read the log.
    pub fn next(&self) -> &NextOffsets {
        &self.next
    }

    /// The last record of each partition in the store.
    pub fn positions(&self) -> LastOffsets {
        meta::positions(&self.anchors)
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
        for (&partition, &Bounds { first, .. }) in bounds {
            if self.next.contains_key(&partition) {
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
            self.next.insert(partition, first);
        }
    }

    /// The position after the batch.
    pub(super) fn after(&self, record_batch: &RecordBatch) -> LogPosition {
        let mut after = self.clone();
        for (partition, first, last) in record_batch.spans() {
            let anchor = Anchor {
                offset: last.at.offset,
                mark: Mark::of(&last.record),
            };
            let before = after.anchors.insert(partition, anchor);
            assert!(
                before.is_none_or(|before| before.offset < first),
                "a reader continues after its last record: {partition}:{first} after {before:?}"
            );
            after.next.insert(partition, anchor.offset.next());
        }
        for (&partition, &offset) in record_batch.next().iter() {
            after.next.raise(partition, offset);
        }
        after
    }

    /// Adds the changes since `before` to the batch.
    pub(super) fn put(&self, before: &LogPosition, batch: &mut Batch) {
        for (&partition, anchor) in &self.anchors {
            if before.anchors.get(&partition) != Some(anchor) {
                meta::put_anchor(batch, self.source, partition, *anchor);
            }
        }
        for (&partition, &offset) in self.next.iter() {
            // Not stored if it directly follows the last record.
            let after = self
                .anchors
                .get(&partition)
                .map(|anchor| anchor.offset.next());
            if before.next.get(&partition) != Some(&offset) && after != Some(offset) {
                meta::put_next(batch, self.source, partition, offset);
            }
        }
    }

    pub(super) fn anchors(&self) -> &Anchors {
        &self.anchors
    }

    /// Checks that this is the log that the store was folded from and that it still has the
    /// next records: by its identity, its bounds, and the last record of each partition.
    pub fn check(&self, log: &dyn EventLog) -> Result<(), OpenError> {
        let found = log.identify()?;
        if found.id != self.log.id {
            Err(self.source.other_log(&self.log, &found))?;
        }
        let bounds = log.bounds()?;
        check_bounds(&self.next, log.partitions()?, &bounds)?;
        let is_kept = |partition: &Partition, offset: Offset| {
            let bounds = bounds.get(partition);
            bounds.is_some_and(|bounds| bounds.first <= offset)
        };
        let marked: BTreeMap<Partition, (Offset, Mark)> = self
            .anchors
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
                    // Retention may have deleted it meanwhile; the next record still exists.
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
