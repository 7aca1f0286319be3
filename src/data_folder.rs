//! The data folder: one process at a time, closed to other users, with the log and the store
//! side by side. Swaps a rebuilt store in; a crash at any point of the swap leaves a whole
//! store.
//!
//! ```text
//! lock        locked while a process works here
//! log/        the embedded log
//! control/    the control log, beside an embedded log
//! store/      the snapshots and all that follows from the log
//! store.new/  a rebuild in progress
//! store.old/  the store that a rebuild has just replaced
//! ```

use crate::event_log::embedded;
use std::fs::{self, DirBuilder, File, Permissions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{path} is in use by another opledger process: stop it, or choose another data folder")]
    InUse { path: PathBuf },
    #[error(
        "{path} holds no event log, so there is nothing to rebuild: give another data folder, \
         restore its log/ from a backup, or give --kafka if the log is on Kafka"
    )]
    NoLog { path: PathBuf },
    #[error(
        "{path} has no store: give the data folder of a ledger, or run `opledger rebuild` if the \
         folder has only a log"
    )]
    NoStore { path: PathBuf },
    #[error("{path} cannot be used as data folder: {source}")]
    Io { path: PathBuf, source: io::Error },
}

pub struct DataFolder {
    path: PathBuf,
    /// The kernel releases it when the process ends.
    _lock: File,
}

impl DataFolder {
    /// Locks the folder, creating it if necessary, and finishes an interrupted swap.
    pub fn open(path: &Path) -> Result<DataFolder, Error> {
        let failed = |source| Error::Io {
            path: path.to_owned(),
            source,
        };
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)
            .map_err(failed)?;
        let lock = File::options()
            .create(true)
            .append(true)
            .mode(0o600)
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
        folder.close_to_others();
        Ok(folder)
    }

    /// Removes the rights of group and others that an earlier program gave. New files have none
    /// because of the process's umask.
    fn close_to_others(&self) {
        let mut closed = 0;
        let mut open = vec![self.path.clone()];
        open.extend(NAMES.map(|name| self.path.join(name)));
        while let Some(path) = open.pop() {
            match close(&path) {
                Ok(changed) => closed += usize::from(changed),
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => {
                    tracing::warn!(path = %path.display(), %error, "other users can read this");
                }
            }
            // The folder may contain files of other programs.
            if path != self.path
                && let Ok(entries) = path.read_dir()
            {
                open.extend(entries.flatten().map(|entry| entry.path()));
            }
        }
        if closed > 0 {
            let folder = self.path.display();
            tracing::info!(%folder, closed, "closed the data folder to other users");
        }
    }

    /// Opens a folder that has a log. A mistyped name must not create a new ledger, and a lost
    /// log must not replace a full store by an empty one.
    pub fn open_existing(path: &Path) -> Result<DataFolder, Error> {
        if !has_log(path) {
            return Err(Error::NoLog {
                path: path.to_owned(),
            });
        }
        DataFolder::open(path)
    }

    /// Opens a folder that has a store.
    pub fn open_stored(path: &Path) -> Result<DataFolder, Error> {
        // Between the renames of a swap the store is called `store.old`.
        if !["store", "store.old"]
            .iter()
            .any(|name| is_there(&path.join(name)))
        {
            return Err(Error::NoStore {
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

    /// An empty folder for a rebuild; the rest of an earlier one is removed.
    pub fn new_store(&self) -> Result<PathBuf, Error> {
        let path = self.path.join("store.new");
        remove(&path).map_err(|source| Error::Io {
            path: path.clone(),
            source,
        })?;
        Ok(path)
    }

    /// Replaces the store by a finished rebuild. Both must be closed, and the rebuild synced.
    pub fn swap(&self) -> Result<(), Error> {
        let swap = || {
            // The rebuild's name must be durable before the store is renamed.
            self.sync()?;
            if !is_there(&self.store()) {
                fs::create_dir(self.store())?;
            }
            fs::rename(self.store(), self.path.join("store.old"))?;
            self.sync()?;
            self.finish_swap()
        };
        swap().map_err(|source| Error::Io {
            path: self.path.clone(),
            source,
        })
    }

    /// `store` is missing beside `store.old` only between the two renames of a swap, and a swap
    /// begins with a finished `store.new`.
    fn finish_swap(&self) -> io::Result<()> {
        let (new, old) = (self.path.join("store.new"), self.path.join("store.old"));
        if !is_there(&self.store()) && is_there(&old) {
            // Without a rebuild, somebody has moved the store by hand.
            let to_be = if is_there(&new) { &new } else { &old };
            fs::rename(to_be, self.store())?;
            // The new name must be durable before the old store is removed.
            self.sync()?;
        }
        // Beside a store it is the rest of an interrupted rebuild.
        remove(&new)?;
        remove(&old)
    }

    /// Makes the names in the folder durable.
    fn sync(&self) -> io::Result<()> {
        File::open(&self.path)?.sync_all()
    }
}

/// The ledger's names in the folder.
const NAMES: [&str; 6] = ["lock", "log", "control", "store", "store.new", "store.old"];

/// Whether there were rights to remove.
fn close(path: &Path) -> io::Result<bool> {
    let metadata = path.symlink_metadata()?;
    let mode = metadata.permissions().mode();
    if metadata.is_symlink() || mode & 0o077 == 0 {
        return Ok(false);
    }
    fs::set_permissions(path, Permissions::from_mode(mode & !0o077))?;
    Ok(true)
}

/// Also true for a dangling link.
fn is_there(path: &Path) -> bool {
    path.symlink_metadata().is_ok()
}

fn has_log(path: &Path) -> bool {
    embedded::is_there(&path.join("log"))
}

/// A file, a folder or a link.
fn remove(path: &Path) -> io::Result<()> {
    let removed = match path.symlink_metadata() {
        Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match removed {
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
        let owner = DataFolder::open(dir.path()).unwrap();
        assert!(matches!(
            DataFolder::open(dir.path()),
            Err(Error::InUse { .. })
        ));
        drop(owner);
        DataFolder::open(dir.path()).unwrap();
    }

    /// Names in a folder, each with its content.
    fn contents(folder: &Path) -> Vec<(String, String)> {
        let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap());
        let stores = entries.filter(|entry| entry.file_name() != "lock");
        let stores = stores.map(|entry| {
            let content = fs::read_to_string(entry.path().join("content"));
            let name = entry.file_name().into_string().unwrap();
            (name, content.unwrap_or_default())
        });
        let mut stores: Vec<_> = stores.collect();
        stores.sort();
        stores
    }

    fn make(folder: &Path, name: &str, content: &str) {
        fs::create_dir(folder.join(name)).unwrap();
        fs::write(folder.join(name).join("content"), content).unwrap();
    }

    /// Every state of a swap, and its state after the next start.
    #[test]
    fn an_interrupted_swap_is_finished_or_had_not_begun() {
        let cases: &[(&[&str], Option<&str>)] = &[
            // Nothing yet.
            (&[], None),
            (&["store"], Some("store")),
            // A rebuild that is not known to be finished.
            (&["store", "store.new"], Some("store")),
            (&["store.new"], None),
            // Between the renames.
            (&["store.new", "store.old"], Some("store.new")),
            // After them.
            (&["store", "store.old"], Some("store")),
            (&["store", "store.new", "store.old"], Some("store")),
            // Moved by hand.
            (&["store.old"], Some("store.old")),
        ];
        for (names, expected) in cases {
            let dir = tempfile::tempdir().unwrap();
            for name in *names {
                make(dir.path(), name, name);
            }
            drop(DataFolder::open(dir.path()).unwrap());
            let expected = expected.map(|content| ("store".to_owned(), content.to_owned()));
            let left = contents(dir.path());
            assert_eq!(left, Vec::from_iter(expected), "after {names:?}");
        }
    }

    #[test]
    fn a_finished_rebuild_replaces_the_store() {
        for before in ["a folder", "a file", "nothing"] {
            let dir = tempfile::tempdir().unwrap();
            let folder = DataFolder::open(dir.path()).unwrap();
            match before {
                "a folder" => make(dir.path(), "store", "before"),
                "a file" => fs::write(folder.store(), "before").unwrap(),
                _ => {}
            }
            make(dir.path(), "store.new", "rebuilt");
            folder.swap().unwrap();
            let expected = [("store".to_owned(), "rebuilt".to_owned())];
            assert_eq!(contents(dir.path()), expected, "{before}");
        }
    }

    #[test]
    fn an_open_data_folder_is_closed_to_other_users() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("data");
        let set = |path: &Path, mode| {
            fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
        };
        let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
        fs::create_dir(&path).unwrap();
        make(&path, "store", "rows");
        make(&path, "theirs", "not ours");
        let content = path.join("store").join("content");
        set(&path, 0o755);
        set(&path.join("store"), 0o775);
        set(&content, 0o644);
        set(&path.join("theirs"), 0o755);
        let _folder = DataFolder::open(&path).unwrap();
        assert_eq!(mode(&path), 0o700);
        assert_eq!(mode(&path.join("store")), 0o700);
        assert_eq!(mode(&content), 0o600);
        assert_eq!(mode(&path.join("lock")), 0o600);
        assert_eq!(mode(&path.join("theirs")), 0o755, "it is not ours");
    }
}
