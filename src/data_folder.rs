//! The data folder: one process at a time, the log and the store side by side,
//! and the swap of a rebuilt store, which a crash at any point leaves whole.
//!
//! ```text
//! lock        held while a process works here
//! log/        the embedded log
//! control/    what only the ledger knows, beside an embedded log
//! store/      the snapshots and all that follows from the log
//! store.new/  a rebuild that is under way
//! store.old/  what a rebuild has just replaced
//! ```

use crate::event_log::embedded;
use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{path} is in use by another opledger process: stop it, or choose another data folder")]
    InUse { path: PathBuf },
    #[error(
        "{path} holds no event log: nothing is folded from nothing; name another data folder, bring \
         its log/ back from a copy, or give --kafka if its log is there"
    )]
    NoLog { path: PathBuf },
    #[error("{path} cannot be used as data folder: {source}")]
    Io { path: PathBuf, source: io::Error },
}

pub struct DataFolder {
    path: PathBuf,
    /// Released with the process, however it ends.
    _lock: File,
}

impl DataFolder {
    /// Takes the folder, making it if need be, and finishes a swap that was cut short.
    pub fn open(path: &Path) -> Result<DataFolder, Error> {
        let failed = |source| Error::Io {
            path: path.to_owned(),
            source,
        };
        fs::create_dir_all(path).map_err(failed)?;
        let lock = File::options()
            .create(true)
            .append(true)
            .open(path.join("lock"));
        let lock = lock.map_err(failed)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(Error::InUse {
                    path: path.to_owned(),
                });
            }
            Err(TryLockError::Error(source)) => return Err(failed(source)),
        }
        let folder = DataFolder {
            path: path.to_owned(),
            _lock: lock,
        };
        folder.finish_swap().map_err(failed)?;
        Ok(folder)
    }

    /// Takes a folder that has a log. A mistyped name must not become a new ledger,
    /// nor a lost log an empty store in the place of a full one.
    pub fn open_existing(path: &Path) -> Result<DataFolder, Error> {
        if !has_log(path) {
            return Err(Error::NoLog {
                path: path.to_owned(),
            });
        }
        DataFolder::open(path)
    }

    pub fn has_log(&self) -> bool {
        has_log(&self.path)
    }

    pub fn no_log(&self) -> Error {
        Error::NoLog {
            path: self.path.clone(),
        }
    }

    pub fn log(&self) -> PathBuf {
        self.path.join("log")
    }

    pub fn control(&self) -> PathBuf {
        self.path.join("control")
    }

    pub fn has_control(&self) -> bool {
        embedded::is_there(&self.control())
    }

    pub fn store(&self) -> PathBuf {
        self.path.join("store")
    }

    /// An empty place for a rebuild; what an earlier one left is removed.
    pub fn new_store(&self) -> Result<PathBuf, Error> {
        let path = self.path.join("store.new");
        remove(&path).map_err(|source| Error::Io {
            path: path.clone(),
            source,
        })?;
        Ok(path)
    }

    /// Puts a finished rebuild in the place of the store. Both must be closed.
    pub fn swap(&self) -> Result<(), Error> {
        let swap = || {
            fs::create_dir_all(self.store())?;
            fs::rename(self.store(), self.path.join("store.old"))?;
            self.finish_swap()
        };
        swap().map_err(|source| Error::Io {
            path: self.path.clone(),
            source,
        })
    }

    /// `store` is only ever missing beside `store.old` between the two renames of
    /// a swap, and a swap begins with a finished `store.new`.
    fn finish_swap(&self) -> io::Result<()> {
        let (new, old) = (self.path.join("store.new"), self.path.join("store.old"));
        if !self.store().exists() && old.exists() {
            fs::rename(&new, self.store())?;
            File::open(&self.path)?.sync_all()?;
        }
        // Beside a store it is what an interrupted rebuild has left.
        remove(&new)?;
        remove(&old)
    }
}

fn has_log(path: &Path) -> bool {
    embedded::is_there(&path.join("log"))
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_has_one_owner() {
        let dir = tempfile::tempdir().unwrap();
        let held = DataFolder::open(dir.path()).unwrap();
        assert!(matches!(
            DataFolder::open(dir.path()),
            Err(Error::InUse { .. })
        ));
        drop(held);
        DataFolder::open(dir.path()).unwrap();
    }

    #[test]
    fn a_swap_cut_short_is_finished() {
        let dir = tempfile::tempdir().unwrap();
        let make = |name: &str, content: &str| {
            fs::create_dir(dir.path().join(name)).unwrap();
            fs::write(dir.path().join(name).join("content"), content).unwrap();
        };
        make("store.old", "old");
        make("store.new", "new");
        let folder = DataFolder::open(dir.path()).unwrap();
        assert_eq!(
            fs::read_to_string(folder.store().join("content")).unwrap(),
            "new"
        );
        assert!(!dir.path().join("store.old").exists());
        make("store.new", "newer");
        folder.swap().unwrap();
        assert_eq!(
            fs::read_to_string(folder.store().join("content")).unwrap(),
            "newer"
        );
    }
}
