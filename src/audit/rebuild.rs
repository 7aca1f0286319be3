//! Folds a whole log into an empty store.

use crate::event_log::{Identity, Limits, ReadError, Reader};
use crate::projector::halt::OpenError;
use crate::projector::step::Rules;
use crate::projector::{Projection, RecordBatch, Tally};
use crate::rows::{self, letters, meta};
use crate::store::rocks::MemoryBudget;
use crate::store::{self, Db};
use crate::wire::position::NextOffsets;
use std::path::Path;
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

/// A projection for this process alone, on an empty store.
pub fn begin(db: &dyn Db, log: &Identity) -> Result<Projection, Error> {
    Ok(Projection::open(db, log, 64 << 20)?)
}

const PATIENCE: Duration = Duration::from_millis(500);

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
        applied(record_batch.records().len(), &tally);
    }
    Ok(())
}

/// Copies from the old store which dead letters the topic has already, so that a rebuild does
/// not send them all again.
pub fn keep_sent(
    old: &Path,
    (new, projection): (&dyn Db, &mut Projection),
    memory: MemoryBudget,
) -> store::Result<()> {
    if !old.exists() {
        return Ok(());
    }
    let old = rows::open(old, memory)?;
    let Some(applied) = meta::token(&old)? else {
        return Ok(());
    };
    if meta::token(new)?.map(|new| new.log) != Some(applied.log) {
        // Positions of another log are not valid for this one.
        return Ok(());
    }
    let mut due = Vec::new();
    letters::unsent(new, &mut |at, _| due.push(at))?;
    projection.change(new, |_, batch| {
        letters::put_as_in(&old, &applied.positions, &due, batch)
    })
}
