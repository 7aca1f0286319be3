//! Folds a whole log into an empty store, or prepares a store to fold some slices anew.

use crate::domain::Slices;
use crate::event_log::{EventLog, Identity, Limits, ReadError, Reader};
use crate::feed::progress::Progress;
use crate::projector::halt::OpenError;
use crate::projector::log_position::LogPosition;
use crate::projector::pipeline::{Pipeline, Report};
use crate::projector::run::{Observer, Settings};
use crate::projector::step::Rules;
use crate::projector::{Projection, RecordBatch, Source, StoreWriter, Tally};
use crate::rows::slices::{self, Dropped};
use crate::rows::{self, letters, meta};
use crate::store::rocks::MemoryBudget;
use crate::store::{self, Batch, Db};
use crate::wire::position::NextOffsets;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error(transparent)]
    Store(#[from] store::Error),
    #[error(transparent)]
    Read(#[from] ReadError),
}

/// Folds the log into an empty store up to `ends`, with the threads of a live ledger. Calls `count`
/// now and then with the number of records so far, and returns it at the end.
pub fn fold_log(
    writer: &Arc<StoreWriter>,
    log: &Arc<dyn EventLog>,
    ends: &NextOffsets,
    settings: Settings,
    count: &mut dyn FnMut(u64),
) -> Result<u64, Error> {
    writer.open(Source::Events, &log.identify()?)?;
    writer.note_beginnings(&log.bounds()?)?;
    let progress = Arc::new(Progress::new(None, writer.workers()));
    let records = Arc::new(Records::default());
    let observer: Arc<dyn Observer> = records.clone();
    let start = || Pipeline::start(writer, &progress, &observer, log, settings);
    let mut pipeline = start()?;
    while !progress.applied().next.have_reached(ends) {
        match pipeline.next(PATIENCE)? {
            Some(Report::Failed(error)) => return Err(error.into()),
            Some(Report::CaughtUp(_)) => {
                drop(pipeline);
                pipeline = start()?;
            }
            Some(Report::Applied | Report::HeldUp(_) | Report::Panicked) | None => {}
        }
        count(records.so_far());
    }
    drop(pipeline);
    Ok(records.so_far())
}

/// How many were applied.
#[derive(Default)]
struct Records(AtomicU64);

impl Records {
    fn so_far(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Observer for Records {
    fn opened(&self, _: &dyn Db) -> store::Result<()> {
        Ok(())
    }

    fn applied(&self, record_batch: &RecordBatch, _: &Tally, _: Duration) {
        let records = record_batch.records() as u64;
        self.0.fetch_add(records, Ordering::Relaxed);
    }

    fn failed(&self, _: &store::Error) {}
}

/// Removes what the events of these slices were folded into, and puts the slices back to the
/// beginning of the log: the ledger folds them again at its next start, and the others stay. Nothing
/// is removed if this is not the store's log, or if it does not have all of the records any more.
pub fn put_back(writer: &StoreWriter, log: &dyn EventLog, slices: Slices) -> Result<(), Error> {
    let db = writer.db();
    let mut position = LogPosition::open(db, Source::Events, &log.identify()?)?;
    position.check(log)?;
    let mut batch = Batch::default();
    position.put_back(db, slices, &mut batch)?;
    position.check(log)?;
    let bounds = log.bounds()?;
    let next = position.next();
    let unreachable = next
        .keys()
        .find(|partition| !bounds.contains_key(partition));
    if let Some(partition) = unreachable {
        let why = format!("partition {partition} does not respond");
        return Err(ReadError::Unavailable(why).into());
    }
    // First: what is dropped must be folded again, also after a crash half-way.
    writer.write(&batch)?;
    let drop = &mut |batch| writer.write(&batch);
    Ok(slices::drop(db, slices, Dropped::Folded, drop)?)
}

/// A projection for this process alone, on an empty store.
pub fn begin(db: &dyn Db, log: &Identity) -> Result<Projection, Error> {
    Ok(Projection::open(db, log, 64 << 20)?)
}

const PATIENCE: Duration = Duration::from_millis(100);

/// Large batches, because nobody waits for a single event here.
const LIMITS: Limits = Limits {
    records: 20_000,
    bytes: 16 << 20,
    patience: Duration::ZERO,
};

/// Reads up to `ends`, by partition, or until no more records arrive. Calls `applied` after every
/// batch with the number of its records and their counts.
pub fn fold_all(
    db: &dyn Db,
    projection: &mut Projection,
    reader: &mut dyn Reader,
    ends: Option<&NextOffsets>,
    rules: Rules,
    applied: &mut dyn FnMut(usize, &Tally),
) -> Result<(), Error> {
    let limits = Limits {
        // Records that are known to exist may take a moment to arrive.
        patience: if ends.is_some() {
            PATIENCE
        } else {
            Duration::ZERO
        },
        ..LIMITS
    };
    while ends.is_none_or(|ends| !reader.next().have_reached(ends)) {
        let mut records = Vec::new();
        reader.read(&limits, &mut records)?;
        if records.is_empty() && ends.is_none() {
            return Ok(());
        }
        if let Some(ends) = ends {
            records.retain(|logged| ends.has_passed(logged.at));
        }
        reader.confirm().wait()?;
        let mut record_batch = RecordBatch::decode(records, reader.next(), &rules);
        let tally = projection.apply(db, &mut record_batch)?;
        applied(record_batch.records(), &tally);
    }
    Ok(())
}

/// Copies from the old store which dead letters the topic has already, so that a rebuild does
/// not send them all again.
pub fn keep_sent(old: &Path, writer: &StoreWriter, memory: MemoryBudget) -> store::Result<()> {
    if !old.exists() {
        return Ok(());
    }
    let old = rows::open(old, memory)?;
    let Some(applied) = meta::token(&old)? else {
        return Ok(());
    };
    let new = writer.db();
    if meta::token(new)?.map(|new| new.log) != Some(applied.log) {
        // Positions of another log are not valid for this one.
        return Ok(());
    }
    let mut due = Vec::new();
    letters::unsent(new, &mut |at, _| due.push(at))?;
    let mut batch = Batch::default();
    letters::put_as_in(&old, &applied.positions, &due, &mut batch)?;
    writer.write(&batch)
}
