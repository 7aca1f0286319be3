//! The only writer of the store: one caller at a time, each with the projection as the one
//! before left it.

use super::projection::Projection;
use crate::store::{self, Batch, Db};
use std::sync::{Arc, Mutex};

pub struct StoreWriter {
    db: Arc<dyn Db>,
    settings: WriterSettings,
    /// `None` until the store was read.
    projection: Mutex<Option<Projection>>,
}

#[derive(Debug, Clone, Copy)]
pub struct WriterSettings {
    /// Bytes of snapshots in the cache.
    pub hot_bytes: u64,
    /// How many changes streams may resume after.
    pub change_window: u64,
}

impl StoreWriter {
    pub fn new(db: Arc<dyn Db>, settings: WriterSettings) -> Arc<StoreWriter> {
        Arc::new(StoreWriter {
            db,
            settings,
            projection: Mutex::new(None),
        })
    }

    pub fn db(&self) -> &dyn Db {
        &*self.db
    }

    /// Runs `work` while nobody else writes.
    pub fn with<T, E: From<store::Error>>(
        &self,
        work: impl FnOnce(&dyn Db, &mut Projection) -> Result<T, E>,
    ) -> Result<T, E> {
        let held = self.projection.lock();
        let mut held = held.expect("the projector has not panicked");
        let projection = match &mut *held {
            Some(projection) => projection,
            none => none.insert(self.open()?),
        };
        work(&*self.db, projection)
    }

    /// Writes rows that follow from no log. `work` may read what they depend on: nobody else
    /// writes meanwhile.
    pub fn change(
        &self,
        work: impl FnOnce(&dyn Db, &mut Batch) -> store::Result<()>,
    ) -> store::Result<()> {
        self.with(|db, projection| projection.change(db, work))
    }

    /// The same, for rows that depend on nothing that another may write.
    pub fn write(&self, batch: Batch) -> store::Result<()> {
        match batch.is_empty() {
            true => Ok(()),
            false => self.change(|_, rows| {
                *rows = batch;
                Ok(())
            }),
        }
    }

    fn open(&self) -> store::Result<Projection> {
        let mut projection = Projection::new(&*self.db, self.settings.hot_bytes)?;
        projection.keep_changes(self.settings.change_window);
        Ok(projection)
    }
}
