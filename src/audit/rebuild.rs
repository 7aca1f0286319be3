//! Folds a whole log into an empty store.

use crate::event_log::{Limits, ReadError, Reader};
use crate::projector::halt::OpenError;
use crate::projector::{Projection, Tally};
use crate::store::{self, Db};
use crate::wire::position::LogId;
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

/// Large cuts: nobody waits for a single event here.
const LIMITS: Limits = Limits {
    records: 20_000,
    bytes: 16 << 20,
    patience: Duration::ZERO,
};

/// Reads to the end. `told` hears of every cut: its records and what they were.
pub fn fold_all(
    db: &dyn Db,
    log: LogId,
    reader: &mut dyn Reader,
    told: &mut dyn FnMut(usize, &Tally),
) -> Result<(), Error> {
    let mut projection = Projection::open(db, log, 64 << 20)?;
    let mut cut = Vec::new();
    loop {
        cut.clear();
        reader.read(&LIMITS, &mut cut)?;
        if cut.is_empty() {
            return Ok(());
        }
        let tally = projection.apply(db, &cut)?;
        told(cut.len(), &tally);
    }
}
