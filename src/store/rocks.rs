//! RocksDB: the adapter for the ledger's store, and for reading embedded logs of an earlier
//! version. Nothing else names rocksdb.
//!
//! A database whose background error forbids writing is closed and opened again in place, because
//! the binding has no resume. Until it can be opened for writing (after a full disk), it is open
//! for reading. Reads and writes use one atomic pointer to the open database, never a lock.

mod damage;
mod floor;
mod options;
mod packed;
pub mod wal;

use super::{
    Batch, Cached, Db, Direction, Durability, Error, Family, ReadPoint, Result, RowResult, Space,
    View, Visit, prefix,
};
use arc_swap::ArcSwapOption;
use damage::{DamagedFamilies, SeekResult, error};
pub use options::open_files;
use rocksdb::{
    Cache, ColumnFamily, ColumnFamilyDescriptor, DB, DBRawIterator, ReadOptions, ReadTier,
    SnapshotWithThreadMode, WriteBatch, WriteOptions,
};
use std::borrow::Cow;
use std::ops::{ControlFlow, Range};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::{Duration, Instant};

/// How a reopening waits for readers. Most finish within `grace`; after it, scans are asked to
/// stop at their next row.
struct Drain {
    grace: Duration,
    patience: Duration,
}

const DRAIN: Drain = Drain {
    grace: Duration::from_secs(1),
    patience: Duration::from_secs(60),
};

/// Bounds on memory, in bytes.
#[derive(Debug, Clone, Copy)]
pub struct MemoryBudget {
    pub block_cache: u64,
    pub write_buffers: u64,
}

pub struct Rocks {
    path: PathBuf,
    families: &'static [Family],
    memory: MemoryBudget,
    open: ArcSwapOption<OpenDb>,
    /// Why the last reopening failed.
    unwritable: ArcSwapOption<Error>,
    /// One reopening at a time.
    reopening: Mutex<()>,
    /// Read points, which end when the database is reopened.
    held: Mutex<Vec<Weak<PinnedSnapshot>>>,
    seen: Arc<DamagedFamilies>,
}

type OpenSnapshot<'d> = SnapshotWithThreadMode<'d, DB>;

self_cell::self_cell!(
    struct Pinned {
        owner: Arc<OpenDb>,
        #[covariant]
        dependent: OpenSnapshot,
    }
);

/// A snapshot that keeps its database open, until the database is reopened.
struct PinnedSnapshot(ArcSwapOption<Pinned>);

struct OpenDb {
    db: DB,
    access: Access,
    /// Asks scans to stop.
    closing: AtomicBool,
    seen: Arc<DamagedFamilies>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Access {
    Write,
    /// Any number of readers may open a folder that another one writes.
    Read,
}

impl Rocks {
    /// Opens or creates the database in `path`. `Corrupt` if a file is missing or damaged, as far
    /// as that is visible without reading all files.
    pub fn open(path: &Path, families: &'static [Family], memory: MemoryBudget) -> Result<Rocks> {
        Rocks::with(path, families, memory, Access::Write)
    }

    /// Changes nothing in `path`.
    pub fn open_to_read(
        path: &Path,
        families: &'static [Family],
        memory: MemoryBudget,
    ) -> Result<Rocks> {
        Rocks::with(path, families, memory, Access::Read)
    }

    fn with(
        path: &Path,
        families: &'static [Family],
        memory: MemoryBudget,
        access: Access,
    ) -> Result<Rocks> {
        damage::check_current(path)?;
        let seen = Arc::<DamagedFamilies>::default();
        let open = OpenDb::at(path, families, memory, access, seen.clone())?;
        if matches!(access, Access::Write) {
            floor::keep(path, open.db.latest_sequence_number())?;
        }
        Ok(Rocks {
            path: path.to_owned(),
            families,
            memory,
            open: ArcSwapOption::from_pointee(open),
            unwritable: ArcSwapOption::empty(),
            reopening: Mutex::new(()),
            held: Mutex::default(),
            seen,
        })
    }

    /// While this is locked, no other database is opened.
    fn held(&self) -> MutexGuard<'_, Vec<Weak<PinnedSnapshot>>> {
        self.held.lock().expect("nothing panics while it holds it")
    }

    fn get_open(&self) -> Result<Arc<OpenDb>> {
        let open = self.open.load_full();
        open.ok_or_else(|| Error::Closed("it is being reopened".into()))
    }

    /// Writes everything to disk, before folders are swapped and at the end.
    pub fn flush(&self) -> Result<()> {
        let open = self.get_open()?;
        let last = open.db.latest_sequence_number();
        for family in self.families {
            open.db.flush_cf(open.family(*family)).map_err(error)?;
        }
        open.db.flush_wal(true).map_err(error)?;
        floor::note(&self.path, last)
    }

    /// A property of RocksDB, such as `rocksdb.estimate-num-keys`.
    pub fn property(&self, family: Family, name: &str) -> Option<u64> {
        let open = self.get_open().ok()?;
        let value = open.db.property_int_value_cf(open.family(family), name);
        value.ok().flatten()
    }
}

impl OpenDb {
    fn at(
        path: &Path,
        families: &'static [Family],
        memory: MemoryBudget,
        access: Access,
        seen: Arc<DamagedFamilies>,
    ) -> Result<OpenDb> {
        // It has few shards. The LRU cache has 64, each too small for a whole filter.
        let cache = Cache::new_hyper_clock_cache(memory.block_cache as usize, 0);
        let descriptor = |family: &Family| {
            let options = options::of_family(*family, &cache)?;
            Ok(ColumnFamilyDescriptor::new(family.name(), options))
        };
        let descriptors = families
            .iter()
            .map(descriptor)
            .collect::<Result<Vec<_>>>()?;
        let options = options::of_database(memory, families)?;
        let db = match access {
            Access::Write => DB::open_cf_descriptors(&options, path, descriptors),
            Access::Read => DB::open_cf_descriptors_read_only(&options, path, descriptors, false),
        };
        Ok(OpenDb {
            db: db.map_err(error)?,
            access,
            closing: AtomicBool::new(false),
            seen,
        })
    }

    /// Closes the database once its readers have finished: RocksDB allows one writer per folder.
    fn close(self: Arc<OpenDb>, drain: Drain) -> std::result::Result<(), Arc<OpenDb>> {
        let since = Instant::now();
        let mut shared = self;
        // Only the last owner closes.
        while let Err(still_shared) = Arc::try_unwrap(shared).map(drop) {
            let elapsed = since.elapsed();
            // After the patience, readers may continue.
            let asked = (drain.grace..drain.patience).contains(&elapsed);
            still_shared.closing.store(asked, Ordering::Relaxed);
            if elapsed >= drain.patience {
                return Err(still_shared);
            }
            shared = still_shared;
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(())
    }

    fn family(&self, family: Family) -> &ColumnFamily {
        let found = self.db.cf_handle(family.name());
        found.expect("a database is opened with the families that are used in it")
    }

    fn owned<T: AsRef<[u8]>>(
        &self,
        family: Family,
        found: std::result::Result<Option<T>, rocksdb::Error>,
    ) -> RowResult {
        let found = found.map_err(|failed| self.seen.note(family, failed))?;
        let row = found.map(|row| self.unpack(family, row.as_ref()).map(Cow::into_owned));
        row.transpose()
    }

    fn unpack<'r>(&self, family: Family, row: &'r [u8]) -> Result<Cow<'r, [u8]>> {
        let row = packed::unpack(family, row);
        row.inspect_err(|error| self.seen.note_error(family, error))
    }
}

impl Db for Rocks {
    fn get(&self, family: Family, key: &[u8]) -> Result<Option<Vec<u8>>> {
        let open = self.get_open()?;
        open.owned(family, open.db.get_pinned_cf(open.family(family), key))
    }

    fn get_cached(&self, family: Family, key: &[u8]) -> Result<Cached> {
        let open = self.get_open()?;
        let mut options = ReadOptions::default();
        options.set_read_tier(ReadTier::BlockCache);
        match open
            .db
            .get_pinned_cf_opt(open.family(family), key, &options)
        {
            Err(e) if e.kind() == rocksdb::ErrorKind::Incomplete => Ok(Cached::Unknown),
            found => match open.owned(family, found) {
                // Only a caller that may wait can continue without the row.
                Err(Error::Corrupt(_)) => Ok(Cached::Unknown),
                found => found.map(Cached::Known),
            },
        }
    }

    fn multi_get(&self, family: Family, keys: &[&[u8]]) -> Vec<RowResult> {
        let open = match self.get_open() {
            Ok(open) => open,
            Err(error) => return vec![Err(error); keys.len()],
        };
        let found = open
            .db
            .batched_multi_get_cf(open.family(family), keys, false);
        let rows = found.into_iter().map(|row| open.owned(family, row));
        rows.collect()
    }

    fn write(&self, batch: &Batch, durability: Durability) -> Result<()> {
        let open = self.get_open()?;
        if open.access == Access::Read {
            let being_reopened = || Error::Closed("it is being reopened".into());
            let why = self.unwritable.load_full();
            return Err(why.map_or_else(being_reopened, Arc::unwrap_or_clone));
        }
        // Some bytes more for the head of each row.
        let bytes = batch.bytes() + 16 * batch.len();
        let mut rows = WriteBatch::with_capacity_bytes(bytes);
        let mut room = Vec::new();
        for (family, range) in batch.deleted_ranges() {
            rows.delete_range_cf(open.family(family), range.start, range.end);
        }
        for (family, key, value) in batch.rows() {
            let handle = open.family(family);
            match value {
                Some(value) => rows.put_cf(handle, key, packed::pack(family, value, &mut room)?),
                None => rows.delete_cf(handle, key),
            }
        }
        let mut options = WriteOptions::default();
        options.set_sync(durability == Durability::Synced);
        // Beside other writers too, a row is inserted faster if it follows the one before.
        options.set_memtable_insert_hint_per_batch(true);
        open.db.write_opt(rows, &options).map_err(error)
    }

    fn view(&self, read: &mut dyn FnMut(&dyn View) -> Result<()>) -> Result<()> {
        let open = self.get_open()?;
        read(&Snapshot {
            open: &open,
            snapshot: &open.db.snapshot(),
        })
    }

    fn hold(&self) -> Result<Arc<dyn ReadPoint>> {
        let mut held = self.held();
        held.retain(|point| point.strong_count() > 0);
        let pinned = Pinned::new(self.get_open()?, |open| open.db.snapshot());
        let point = Arc::new(PinnedSnapshot(ArcSwapOption::from_pointee(pinned)));
        held.push(Arc::downgrade(&point));
        Ok(point)
    }

    fn reopen(&self) -> Result<()> {
        let _one = self.reopening.lock().expect("reopening does not panic");
        let (path, memory) = (&self.path, self.memory);
        let at = |access| OpenDb::at(path, self.families, memory, access, self.seen.clone());
        let is_written = |open: &Arc<OpenDb>| open.access == Access::Write;
        // A database that is open for reading does not prevent opening it for writing.
        if self.open.load().as_ref().is_some_and(is_written) {
            let beside = at(Access::Read);
            if let Err(error) = &beside {
                tracing::warn!(%error, "no reads while the database is reopened");
            }
            let before = self.open.swap(beside.ok().map(Arc::new));
            for point in self.held().drain(..).filter_map(|point| point.upgrade()) {
                point.0.store(None);
            }
            if let Some(open) = before
                && let Err(still_shared) = open.close(DRAIN)
            {
                self.open.store(Some(still_shared));
                return Err(Error::Closed("readers have not left it in time".into()));
            }
        }
        let opened = at(Access::Write);
        let error = opened.as_ref().err().cloned();
        self.unwritable.store(error.map(Arc::new));
        self.open.store(Some(Arc::new(opened?)));
        Ok(())
    }

    fn space(&self) -> Option<Space> {
        let stat = rustix::fs::statvfs(&self.path).ok()?;
        Some(Space {
            free: stat.f_bavail * stat.f_frsize,
            total: stat.f_blocks * stat.f_frsize,
        })
    }

    fn damage(&self) -> Vec<Family> {
        self.seen.families()
    }
}

impl ReadPoint for PinnedSnapshot {
    fn view(&self, read: &mut dyn FnMut(&dyn View) -> Result<()>) -> Result<()> {
        let pinned = self.0.load_full();
        let pinned = pinned.ok_or_else(|| Error::Closed("it was reopened".into()))?;
        pinned.with_dependent(|open, snapshot| read(&Snapshot { open, snapshot }))
    }
}

struct Snapshot<'d> {
    open: &'d OpenDb,
    snapshot: &'d SnapshotWithThreadMode<'d, DB>,
}

impl Snapshot<'_> {
    fn rows(&self, family: Family, range: &Range<&[u8]>) -> DBRawIterator<'_> {
        let mut options = ReadOptions::default();
        options.set_iterate_lower_bound(range.start);
        options.set_iterate_upper_bound(range.end);
        // Otherwise RocksDB would skip files without the prefix of the start.
        options.set_total_order_seek(!prefix::is_of_one_operation(range));
        let handle = self.open.family(family);
        self.snapshot.raw_iterator_cf_opt(handle, options)
    }

    /// The first readable key in the rest of a scan.
    fn readable_again(
        &self,
        family: Family,
        rest: &Range<Vec<u8>>,
        direction: Direction,
    ) -> Result<Option<Vec<u8>>> {
        let mut rows = self.rows(family, &(&rest.start..&rest.end));
        damage::readable_again(rest, direction, |key| {
            self.check_open()?;
            match direction {
                Direction::Forward => rows.seek(key),
                Direction::Backward => rows.seek_for_prev(key),
            }
            if let Some(key) = rows.key() {
                return Ok(SeekResult::Key(key.to_vec()));
            }
            match rows.status().map_err(|e| self.open.seen.note(family, e)) {
                Ok(()) => Ok(SeekResult::End),
                Err(Error::Corrupt(_)) => Ok(SeekResult::Damaged),
                Err(error) => Err(error),
            }
        })
    }

    fn check_open(&self) -> Result<()> {
        match self.open.closing.load(Ordering::Relaxed) {
            true => Err(Error::Closed("it is being reopened".into())),
            false => Ok(()),
        }
    }
}

impl View for Snapshot<'_> {
    fn get(&self, family: Family, key: &[u8]) -> RowResult {
        let found = self.snapshot.get_pinned_cf(self.open.family(family), key);
        self.open.owned(family, found)
    }

    fn multi_get(&self, family: Family, keys: &[&[u8]]) -> Vec<RowResult> {
        let mut options = ReadOptions::default();
        options.set_snapshot(self.snapshot);
        let handle = self.open.family(family);
        let found = self
            .open
            .db
            .batched_multi_get_cf_opt(handle, keys, false, &options);
        let rows = found.into_iter().map(|row| self.open.owned(family, row));
        rows.collect()
    }

    fn scan(
        &self,
        family: Family,
        range: Range<&[u8]>,
        direction: Direction,
        visit: &mut Visit,
    ) -> Result<()> {
        let mut rows = self.rows(family, &range);
        match direction {
            Direction::Forward => rows.seek_to_first(),
            Direction::Backward => rows.seek_to_last(),
        }
        while let Some((key, value)) = rows.item() {
            self.check_open()?;
            if let ControlFlow::Break(()) = visit(key, &self.open.unpack(family, value)?) {
                return Ok(());
            }
            match direction {
                Direction::Forward => rows.next(),
                Direction::Backward => rows.prev(),
            }
        }
        rows.status().map_err(|e| self.open.seen.note(family, e))
    }

    fn scan_past_damage(
        &self,
        family: Family,
        range: Range<&[u8]>,
        direction: Direction,
        visit: &mut Visit,
        damaged: &mut dyn FnMut(Range<Vec<u8>>),
    ) -> Result<()> {
        let mut rest = range.start.to_vec()..range.end.to_vec();
        loop {
            let mut last = Vec::new();
            let mut noted = |key: &[u8], row: &[u8]| {
                last.clear();
                last.extend_from_slice(key);
                visit(key, row)
            };
            let outcome = self.scan(family, &rest.start..&rest.end, direction, &mut noted);
            match outcome {
                Err(Error::Corrupt(_)) => {}
                other => return other,
            }
            match (direction, last.is_empty()) {
                (_, true) => {}
                (Direction::Forward, false) => rest.start = [&last[..], &[0]].concat(),
                (Direction::Backward, false) => rest.end = last,
            }
            let Some(key) = self.readable_again(family, &rest, direction)? else {
                damaged(rest);
                return Ok(());
            };
            // The rest gets smaller each time.
            match direction {
                Direction::Forward => {
                    damaged(rest.start..key.clone());
                    rest.start = key;
                }
                Direction::Backward => {
                    let after = [&key[..], &[0]].concat();
                    damaged(after.clone()..rest.end);
                    rest.end = after;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub const MEMORY: MemoryBudget = MemoryBudget {
        block_cache: 1 << 20,
        write_buffers: 1 << 20,
    };

    #[test]
    fn a_read_point_does_not_change_until_the_database_is_reopened() {
        let folder = tempfile::tempdir().unwrap();
        let db = Rocks::open(folder.path(), Family::EMBEDDED_LOG, MEMORY).unwrap();
        let put = |value: &[u8]| {
            let mut batch = Batch::default();
            batch.put(Family::Log, b"key", value);
            db.write(&batch, Durability::Buffered).unwrap();
        };
        put(b"before");
        let held = db.hold().unwrap();
        put(b"after");
        let read = || super::super::view_held(&*held, |view| view.get(Family::Log, b"key"));
        assert_eq!(read(), Ok(Some(b"before".to_vec())));
        // It does not prevent a reopening.
        db.reopen().unwrap();
        assert!(matches!(read(), Err(Error::Closed(_))));
        assert_eq!(db.get(Family::Log, b"key"), Ok(Some(b"after".to_vec())));
    }

    #[test]
    fn a_database_that_could_not_be_closed_can_be_scanned_again() {
        let folder = tempfile::tempdir().unwrap();
        let (families, seen) = (Family::EMBEDDED_LOG, Arc::default());
        let open = OpenDb::at(folder.path(), families, MEMORY, Access::Write, seen);
        let open = Arc::new(open.unwrap());
        let family = open.family(Family::Log);
        open.db.put_cf(family, b"key", b"value").unwrap();
        let _reader = open.clone();
        let drain = Drain {
            grace: Duration::ZERO,
            patience: Duration::from_millis(20),
        };
        let Err(open) = open.close(drain) else {
            panic!("it has a reader");
        };
        let view = Snapshot {
            open: &open,
            snapshot: &open.db.snapshot(),
        };
        let mut visit = |_: &[u8], _: &[u8]| ControlFlow::Continue(());
        let scanned = view.scan(Family::Log, &[]..&[0xFF], Direction::Forward, &mut visit);
        assert_eq!(scanned, Ok(()));
    }

    /// RocksDB skips files by a filter over operations, only when it reads one operation.
    #[test]
    fn rows_are_found_in_every_file() {
        let folder = tempfile::tempdir().unwrap();
        let db = Rocks::open(folder.path(), Family::LEDGER, MEMORY).unwrap();
        let row = |id: &str, n: u8| [b"..", id.as_bytes(), &[0, n]].concat();
        let ids = ["a", "ab", "b", "c"];
        for n in 0..6 {
            let mut batch = Batch::default();
            // Each file lacks some operations, and the last rows are in no file.
            for id in ids.iter().skip(usize::from(n) % 4) {
                batch.put(Family::History, &row(id, n), &[n]);
            }
            db.write(&batch, Durability::Buffered).unwrap();
            if n < 5 {
                db.flush().unwrap();
            }
        }
        let scanned = |range: Range<&[u8]>, direction| {
            let mut found = Vec::new();
            super::super::view(&db, |view| {
                view.scan(Family::History, range.clone(), direction, &mut |key, _| {
                    found.push(key.to_vec());
                    ControlFlow::Continue(())
                })
            })
            .unwrap();
            found
        };
        let mut all = Vec::new();
        for (place, id) in ids.into_iter().enumerate() {
            let rows = (0..6).filter(|n| usize::from(*n) % 4 <= place);
            let mut expected: Vec<_> = rows.map(|n| row(id, n)).collect();
            let range = [0, 1].map(|end| [b"..", id.as_bytes(), &[end]].concat());
            let range = &range[0][..]..&range[1][..];
            assert_eq!(scanned(range.clone(), Direction::Forward), expected, "{id}");
            all.extend(expected.iter().cloned());
            expected.reverse();
            assert_eq!(scanned(range, Direction::Backward), expected, "{id}");
        }
        all.sort();
        assert_eq!(scanned(prefix::ALL, Direction::Forward), all);
    }
}
