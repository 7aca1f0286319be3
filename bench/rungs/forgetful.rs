//! A store that keeps nothing but where it is in the log, and costs next to nothing: what is
//! left is the fold.

use opledger::store::memory::Memory;
use opledger::store::{Batch, Db, Durability, Family, ReadPoint, Result, RowResult, Space, View};
use std::sync::Arc;

#[derive(Default)]
pub struct Forgetful {
    meta: Memory,
}

impl Db for Forgetful {
    fn get(&self, family: Family, key: &[u8]) -> RowResult {
        self.meta.get(family, key)
    }

    fn multi_get(&self, family: Family, keys: &[&[u8]]) -> Vec<RowResult> {
        if family == Family::Meta {
            return self.meta.multi_get(family, keys);
        }
        vec![Ok(None); keys.len()]
    }

    fn write(&self, batch: &Batch, _: Durability) -> Result<()> {
        let mut kept = Batch::default();
        for (family, key, value) in batch.rows().filter(|row| row.0 == Family::Meta) {
            match value {
                Some(value) => kept.put(family, key, value),
                None => kept.delete(family, key),
            }
        }
        // Nothing that adds up.
        self.meta.write(&kept, Durability::Synced)
    }

    fn view(&self, read: &mut dyn FnMut(&dyn View) -> Result<()>) -> Result<()> {
        self.meta.view(read)
    }

    fn hold(&self) -> Result<Arc<dyn ReadPoint>> {
        self.meta.hold()
    }

    fn reopen(&self) -> Result<()> {
        Ok(())
    }

    fn space(&self) -> Option<Space> {
        None
    }
}
