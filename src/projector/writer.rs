//! The only writers of the store: a projection for each worker, one caller at a time. What depends
//! on rows of an operation is written under the lock of its worker.

use super::halt::OpenError;
use super::log_position::LogPosition;
use super::projection::{self, Keep, Projection};
use super::source::Source;
use crate::domain::{OperationId, Workers};
use crate::event_log::{Bounds, Identity};
use crate::store::{self, Batch, Db};
use crate::wire::change::ChangeNumber;
use crate::wire::position::Partition;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

pub struct StoreWriter {
    db: Arc<dyn Db>,
    keep: Keep,
    /// By worker; `None` until the log was opened.
    projections: Vec<Mutex<Option<Projection>>>,
}

impl StoreWriter {
    pub fn new(db: Arc<dyn Db>, workers: Workers, keep: Keep) -> Arc<StoreWriter> {
        let projections = workers.all().map(|_| Mutex::new(None));
        Arc::new(StoreWriter {
            db,
            keep,
            projections: projections.collect(),
        })
    }

    pub fn db(&self) -> &dyn Db {
        &*self.db
    }

    pub fn workers(&self) -> Workers {
        Workers::new(self.projections.len())
    }

    /// Takes up where the store is in this log. No worker is at work. Returns the position.
    pub fn open(&self, source: Source, log: &Identity) -> Result<LogPosition, OpenError> {
        let all = Projection::open_all(self.db(), source, log, self.workers(), self.keep)?;
        for (held, projection) in self.projections.iter().zip(all) {
            *lock(held) = Some(projection);
        }
        Ok(self.position())
    }

    /// Records where partitions of the log begin that are new to the store. No worker is at work.
    pub fn note_beginnings(
        &self,
        bounds: &BTreeMap<Partition, Bounds>,
    ) -> store::Result<LogPosition> {
        let mut held: Vec<_> = self.projections.iter().map(lock).collect();
        let projections = held.iter_mut().map(|held| opened(held));
        Projection::note_beginnings(self.db(), projections.collect(), bounds)?;
        drop(held);
        Ok(self.position())
    }

    /// Where the slices of each worker are in the log. Waits for the batches that are being applied.
    pub(super) fn positions(&self) -> Vec<LogPosition> {
        let projections = self.projections.iter();
        let positions = projections.map(|held| opened(&mut lock(held)).at().clone());
        positions.collect()
    }

    /// Where all slices are.
    pub(super) fn position(&self) -> LogPosition {
        LogPosition::whole(&self.positions())
    }

    /// The number of the next change.
    pub(super) fn next_change(&self) -> ChangeNumber {
        opened(&mut lock(&self.projections[0])).next_change()
    }

    /// Runs `work` while nobody else writes for the slices of this worker.
    pub fn with<T>(&self, worker: usize, work: impl FnOnce(&dyn Db, &mut Projection) -> T) -> T {
        work(self.db(), opened(&mut lock(&self.projections[worker])))
    }

    /// Writes rows of an operation that follow from no log. `work` may read the rows that they
    /// depend on: nobody else writes those meanwhile.
    pub fn change(
        &self,
        operation_id: OperationId,
        work: impl FnOnce(&dyn Db, &mut Batch) -> store::Result<()>,
    ) -> store::Result<()> {
        let worker = self.workers().of(operation_id.slice());
        let _held = lock(&self.projections[worker]);
        let mut batch = Batch::default();
        work(self.db(), &mut batch)?;
        self.write(&batch)
    }

    /// Writes rows that depend on nothing that another may write.
    pub fn write(&self, batch: &Batch) -> store::Result<()> {
        projection::write(self.db(), batch)
    }
}

type Held<'h> = MutexGuard<'h, Option<Projection>>;

fn lock(held: &Mutex<Option<Projection>>) -> Held<'_> {
    held.lock().expect("the projector has not panicked")
}

fn opened<'h>(held: &'h mut Held) -> &'h mut Projection {
    held.as_mut().expect("a log is opened before it is folded")
}
