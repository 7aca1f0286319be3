//! The write-ahead log of a database whose writes are synced one by one: its files are used
//! again, and the first of them are written before they are needed.
//!
//! A file that grows has a new length with each write, and a sync has to wait for the file
//! system's journal, where it meets whatever else is being written. A file that is overwritten
//! has none.

use super::{Open, Rocks, error};
use crate::store::{Db, Family, Result, Space};
use rocksdb::{Options, WriteBatch, WriteOptions};

/// One in use, one that waits until what it holds is flushed.
const FILES: usize = 2;
/// A disk has to have this many times as much room.
const ROOM: u64 = 4;

/// For the database of a log. Each record in a file says by its number which use it belongs to,
/// so that a recovery ends where the last use does.
pub fn use_files_again(options: &mut Options, families: &[Family]) {
    if families.contains(&Family::Log) {
        options.set_recycle_log_file_num(FILES);
    }
}

impl Rocks {
    /// Writes files for the write-ahead log of so many bytes each, unless the disk is short. What
    /// is beyond them grows, until they were all used once.
    pub fn write_files_ahead(&self, bytes: u64) -> Result<()> {
        let needed = ROOM * FILES as u64 * bytes;
        let has_room = |space: Space| space.free >= needed;
        if !self.space().is_some_and(has_room) {
            tracing::debug!(needed, "the disk is short: no files are written ahead");
            return Ok(());
        }
        let open = self.get_open()?;
        (0..FILES).try_for_each(|_| open.fill_file(bytes))
    }
}

impl Open {
    /// Fills the file in use with nothing, and leaves it to be used again.
    fn fill_file(&self, bytes: u64) -> Result<()> {
        static PIECE: [u8; 256 << 10] = [0; 256 << 10];
        let unsynced = WriteOptions::default();
        for _ in 0..bytes.div_ceil(PIECE.len() as u64) {
            let mut nothing = WriteBatch::default();
            nothing.put_log_data(PIECE);
            self.db.write_opt(nothing, &unsynced).map_err(error)?;
        }
        // A flush takes up a new file, if it has anything to flush.
        let meta = self.family(Family::Meta);
        self.db.put_cf(meta, b"probe", b"").map_err(error)?;
        self.db.flush_wal(true).map_err(error)?;
        self.db.flush_cf(meta).map_err(error)
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::MEMORY;
    use super::*;
    use crate::store::{Batch, Durability};
    use std::fs;
    use std::io::ErrorKind;
    use std::path::{Path, PathBuf};
    use std::time::Duration;

    const AHEAD: u64 = 512 << 10;

    fn open(folder: &Path) -> Rocks {
        Rocks::open(folder, Family::EMBEDDED_LOG, MEMORY).unwrap()
    }

    fn written_ahead() -> (tempfile::TempDir, Rocks) {
        let folder = tempfile::tempdir().unwrap();
        let db = open(folder.path());
        db.write_files_ahead(AHEAD).unwrap();
        (folder, db)
    }

    /// No two are alike in any stretch of sixteen bytes.
    fn value(n: u64) -> Vec<u8> {
        let mut value = vec![0; 20_000];
        let mut hash = blake3::Hasher::new();
        hash.update(&n.to_be_bytes())
            .finalize_xof()
            .fill(&mut value);
        value
    }

    fn write(db: &Rocks, n: u64) {
        let mut batch = Batch::default();
        batch.put(Family::Log, &n.to_be_bytes(), &value(n));
        db.write(&batch, Durability::Synced).unwrap();
    }

    fn count(db: &Rocks) -> u64 {
        let mut count = 0u64;
        while let Some(row) = db.get(Family::Log, &count.to_be_bytes()).unwrap() {
            assert_eq!(row, value(count));
            count += 1;
        }
        count
    }

    fn files(folder: &Path) -> Vec<PathBuf> {
        let entries = fs::read_dir(folder).unwrap();
        let paths = entries.map(|entry| entry.unwrap().path());
        let is_wal = |path: &PathBuf| path.extension().is_some_and(|e| e == "log");
        let mut files: Vec<PathBuf> = paths.filter(is_wal).collect();
        files.sort();
        files
    }

    /// What a sudden end would leave of the folder, at a moment at which nothing is done to it.
    fn copy(db: &Rocks, folder: &Path) -> tempfile::TempDir {
        const WORK: [&str; 4] = [
            "rocksdb.mem-table-flush-pending",
            "rocksdb.num-running-flushes",
            "rocksdb.compaction-pending",
            "rocksdb.num-running-compactions",
        ];
        let is_at_work = || {
            let families = Family::EMBEDDED_LOG.iter();
            let mut all = families.flat_map(|family| WORK.map(|name| db.property(*family, name)));
            all.any(|count| count != Some(0))
        };
        loop {
            while is_at_work() {
                std::thread::sleep(Duration::from_millis(1));
            }
            let copy = tempfile::tempdir().unwrap();
            let copied = fs::read_dir(folder).unwrap().try_for_each(|entry| {
                let entry = entry?;
                let to = copy.path().join(entry.file_name());
                let is_lock = entry.file_name() == "LOCK";
                let copied = (!is_lock).then(|| fs::copy(entry.path(), to));
                copied.transpose().map(|_| ())
            });
            match copied {
                Ok(()) => return copy,
                // What nobody needs any more is removed a moment later.
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => panic!("{error}"),
            }
        }
    }

    #[test]
    fn the_file_in_use_is_long_before_it_is_written_to() {
        let (folder, db) = written_ahead();
        let lengths = || -> Vec<u64> {
            let files = files(folder.path());
            files.iter().map(|f| f.metadata().unwrap().len()).collect()
        };
        let before = lengths();
        assert!(before.iter().all(|len| *len >= AHEAD), "{before:?}");
        write(&db, 0);
        assert_eq!(lengths(), before);
    }

    #[test]
    fn what_is_synced_is_there_after_a_sudden_end_whatever_the_file_held_before() {
        let (folder, db) = written_ahead();
        for n in 0..400 {
            write(&db, n);
            if n % 13 == 0 {
                let copy = copy(&db, folder.path());
                assert_eq!(count(&open(copy.path())), n + 1);
            }
        }
        let log = fs::read_to_string(folder.path().join("LOG")).unwrap();
        let used_again = log.matches("reusing log").count();
        assert!(used_again >= 4, "{used_again} files were used again");
    }

    #[test]
    fn a_torn_write_is_the_end_and_nothing_older_comes_behind_it() {
        let (folder, db) = written_ahead();
        for n in 0..100 {
            write(&db, n);
        }
        let copy = copy(&db, folder.path());
        let last = &value(99)[8_000..8_016];
        let torn = files(copy.path()).into_iter().find_map(|file| {
            let bytes = fs::read(&file).unwrap();
            let at = bytes.windows(16).position(|window| window == last)?;
            Some((file, bytes, at))
        });
        let (file, mut bytes, at) = torn.expect("the last one is not flushed yet");
        bytes[at] ^= 1;
        fs::write(file, bytes).unwrap();
        assert_eq!(count(&open(copy.path())), 99);
    }

    #[test]
    fn a_short_disk_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let db = open(folder.path());
        let before = files(folder.path());
        db.write_files_ahead(u64::MAX / 100).unwrap();
        assert_eq!(files(folder.path()), before);
    }
}
