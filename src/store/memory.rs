//! A database in memory that keeps the port's promises and no more: a crash loses the writes after
//! some unsynced one. For tests, and to fold a file of events without a folder.

use super::{
    Batch, Db, Direction, Durability, Error, Family, ReadPoint, Result, RowResult, Space, View,
    Visit,
};
use std::collections::BTreeMap;
use std::ops::{ControlFlow, Range};
use std::sync::{Arc, Mutex};

type MemoryRows = BTreeMap<(Family, Vec<u8>), Vec<u8>>;

#[derive(Default)]
pub struct Memory {
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    /// The rows that survive every crash.
    synced: MemoryRows,
    /// Later batches, in order.
    buffered: Vec<Batch>,
    /// Both together, for reads.
    rows: MemoryRows,
    faults: Option<Faults>,
    closed: bool,
}

/// Called before each write. Returns the fault for it.
pub type Faults = Box<dyn FnMut() -> WriteFault + Send>;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WriteFault {
    None,
    /// Nothing is written, and an error is returned.
    Refuse,
    /// The batch is written, but an error is returned.
    Misreport,
    /// The process ends here, before or after the write: nothing works any more
    /// until `crash` has decided which rows remain.
    Die {
        after: bool,
    },
}

impl Memory {
    pub fn set_faults(&self, faults: Option<Faults>) {
        self.lock().faults = faults;
    }

    pub fn is_dead(&self) -> bool {
        self.lock().closed
    }

    /// The process restarts: of the unsynced writes the first `keep` survive.
    pub fn crash(&self, keep: impl FnOnce(usize) -> usize) {
        let mut inner = self.lock();
        let buffered = std::mem::take(&mut inner.buffered);
        let keep = keep(buffered.len()).min(buffered.len());
        for batch in &buffered[..keep] {
            apply(batch, &mut inner.synced);
        }
        inner.rows = inner.synced.clone();
        inner.closed = false;
    }

    /// Every row, for comparing two databases.
    pub fn dump(&self) -> Vec<(Family, Vec<u8>, Vec<u8>)> {
        let inner = self.lock();
        let rows = inner.rows.iter();
        rows.map(|((f, k), v)| (*f, k.clone(), v.clone())).collect()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner
            .lock()
            .expect("no test panics while it holds the rows")
    }

    fn open(&self) -> Result<std::sync::MutexGuard<'_, Inner>> {
        let inner = self.lock();
        if inner.closed {
            return Err(Error::Closed("the simulated process is dead".into()));
        }
        Ok(inner)
    }
}

fn apply(batch: &Batch, rows: &mut MemoryRows) {
    for (family, range) in batch.deleted_ranges() {
        let range = (family, range.start.to_vec())..(family, range.end.to_vec());
        rows.extract_if(range, |_, _| true).for_each(drop);
    }
    for (family, key, value) in batch.rows() {
        match value {
            Some(value) => rows.insert((family, key.to_vec()), value.to_vec()),
            None => rows.remove(&(family, key.to_vec())),
        };
    }
}

impl Db for Memory {
    fn get(&self, family: Family, key: &[u8]) -> RowResult {
        Ok(self.open()?.rows.get(&(family, key.to_vec())).cloned())
    }

    fn multi_get(&self, family: Family, keys: &[&[u8]]) -> Vec<RowResult> {
        keys.iter().map(|key| self.get(family, key)).collect()
    }

    fn write(&self, batch: &Batch, durability: Durability) -> Result<()> {
        let mut inner = self.open()?;
        let fault = inner
            .faults
            .as_mut()
            .map_or(WriteFault::None, |next| next());
        let done = match fault {
            WriteFault::None | WriteFault::Misreport | WriteFault::Die { after: true } => true,
            WriteFault::Refuse | WriteFault::Die { after: false } => false,
        };
        if done {
            apply(batch, &mut inner.rows);
            inner.buffered.push(batch.clone());
            // A write that never returned has promised nothing: only `None` and
            // `Misreport` sync.
            if durability == Durability::Synced && !matches!(fault, WriteFault::Die { .. }) {
                for batch in std::mem::take(&mut inner.buffered) {
                    apply(&batch, &mut inner.synced);
                }
            }
        }
        match fault {
            WriteFault::None => Ok(()),
            WriteFault::Refuse => Err(Error::Io("simulated: refused".into())),
            WriteFault::Misreport => Err(Error::Io("simulated: timed out".into())),
            WriteFault::Die { .. } => {
                inner.closed = true;
                Err(Error::Closed("simulated: the process ended".into()))
            }
        }
    }

    fn view(&self, read: &mut dyn FnMut(&dyn View) -> Result<()>) -> Result<()> {
        let rows = self.open()?.rows.clone();
        read(&Frozen(rows))
    }

    fn hold(&self) -> Result<Arc<dyn ReadPoint>> {
        Ok(Arc::new(Frozen(self.open()?.rows.clone())))
    }

    fn reopen(&self) -> Result<()> {
        self.open().map(drop)
    }

    fn space(&self) -> Option<Space> {
        None
    }
}

struct Frozen(MemoryRows);

impl ReadPoint for Frozen {
    fn view(&self, read: &mut dyn FnMut(&dyn View) -> Result<()>) -> Result<()> {
        read(self)
    }
}

impl View for Frozen {
    fn get(&self, family: Family, key: &[u8]) -> RowResult {
        Ok(self.0.get(&(family, key.to_vec())).cloned())
    }

    fn multi_get(&self, family: Family, keys: &[&[u8]]) -> Vec<RowResult> {
        keys.iter().map(|key| self.get(family, key)).collect()
    }

    fn scan(
        &self,
        family: Family,
        range: Range<&[u8]>,
        direction: Direction,
        visit: &mut Visit,
    ) -> Result<()> {
        if range.start >= range.end {
            return Ok(());
        }
        let bounds = (family, range.start.to_vec())..(family, range.end.to_vec());
        let mut rows = self.0.range(bounds);
        loop {
            let row = match direction {
                Direction::Forward => rows.next(),
                Direction::Backward => rows.next_back(),
            };
            match row {
                Some(((_, key), value)) => {
                    if let ControlFlow::Break(()) = visit(key, value) {
                        return Ok(());
                    }
                }
                None => return Ok(()),
            }
        }
    }
}
