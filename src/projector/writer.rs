//! The only writer of the store: one caller at a time, each with the projection as the one
//! before left it.

use super::halt::OpenError;
use super::projection::Projection;
use crate::store::{self, Db};
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
    pub fn with<T>(
        &self,
        work: impl FnOnce(&dyn Db, &mut Projection) -> Result<T, OpenError>,
    ) -> Result<T, OpenError> {
        let held = self.projection.lock();
        let mut held = held.expect("the projector has not panicked");
        let projection = match &mut *held {
            Some(projection) => projection,
            none => none.insert(self.open()?),
        };
        work(&*self.db, projection)
    }

    fn open(&self) -> store::Result<Projection> {
        let mut projection = Projection::new(&*self.db, self.settings.hot_bytes)?;
        projection.keep_changes(self.settings.change_window);
        Ok(projection)
    }
}
