//! The port that the embedded log writes through: one folder with files that are written in place
//! and synced one by one. `Os` is the real one, `memory` one that tests can crash.

pub mod memory;

use crate::store::Space;
use std::fs;
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A file or a folder in the log's folder.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct FolderEntry {
    pub name: String,
    /// In bytes.
    pub len: u64,
    pub is_folder: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DiskAccess {
    Read,
    Write,
}

/// A folder. Names may have one folder before a slash. Obligations of an adapter: `rename` is
/// atomic; synced content survives a loss of power, and a name does after `sync_folder` of its
/// folder.
pub trait Disk: Send + Sync {
    /// A folder in it.
    fn folder(&self, name: &str) -> Arc<dyn Disk>;
    /// Empty if the folder does not exist.
    fn list(&self) -> io::Result<Vec<FolderEntry>>;
    fn open(&self, name: &str, access: DiskAccess) -> io::Result<Arc<dyn DiskFile>>;
    /// An empty file; replaces a file of this name.
    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>>;
    /// Does nothing if it exists.
    fn make_folder(&self, name: &str) -> io::Result<()>;
    /// A hard link; a synced copy if the file system has no links.
    fn link(&self, from: &str, to: &str) -> io::Result<()>;
    /// Replaces whatever has the new name.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    /// Does nothing if there is none.
    fn remove(&self, name: &str) -> io::Result<()>;
    /// With its content; does nothing if there is none.
    fn remove_folder(&self, name: &str) -> io::Result<()>;
    /// `""` is the folder itself.
    fn sync_folder(&self, name: &str) -> io::Result<()>;
    /// `None` without a real disk.
    fn space(&self) -> Option<Space>;
}

/// An open file.
#[allow(clippy::len_without_is_empty, reason = "nobody asks")]
pub trait DiskFile: Send + Sync {
    /// In bytes.
    fn len(&self) -> io::Result<u64>;
    /// Fills `into` and returns the number of bytes, which is smaller only at the end of the file.
    fn read_at(&self, at: u64, into: &mut [u8]) -> io::Result<usize>;
    fn write_at(&self, at: u64, bytes: &[u8]) -> io::Result<()>;
    /// Everything written before is durable when it returns.
    fn sync(&self) -> io::Result<()>;
}

/// A folder of this machine.
pub struct Os {
    path: PathBuf,
}

impl Os {
    /// Creates the folder if needed, readable by its owner alone.
    pub fn at(path: &Path) -> io::Result<Os> {
        let made = make_private(path)?;
        if made && let Some(parent) = path.parent() {
            fs::File::open(parent)?.sync_all()?;
        }
        Ok(Os {
            path: path.to_owned(),
        })
    }

    /// Changes nothing.
    pub fn existing(path: &Path) -> Os {
        Os {
            path: path.to_owned(),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        match name {
            "" => self.path.clone(),
            name => self.path.join(name),
        }
    }
}

/// Whether it was created.
fn make_private(path: &Path) -> io::Result<bool> {
    use std::os::unix::fs::DirBuilderExt;
    if path.is_dir() {
        return Ok(false);
    }
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)?;
    Ok(true)
}

fn unless_missing(done: io::Result<()>) -> io::Result<()> {
    match done {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        done => done,
    }
}

impl Disk for Os {
    fn folder(&self, name: &str) -> Arc<dyn Disk> {
        Arc::new(Os::existing(&self.path.join(name)))
    }

    fn list(&self) -> io::Result<Vec<FolderEntry>> {
        let entries = match fs::read_dir(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries?,
        };
        let mut found = Vec::new();
        for entry in entries {
            let entry = entry?;
            let metadata = entry.metadata()?;
            found.push(FolderEntry {
                name: entry.file_name().to_string_lossy().into_owned(),
                len: metadata.len(),
                is_folder: metadata.is_dir(),
            });
        }
        found.sort();
        Ok(found)
    }

    fn open(&self, name: &str, access: DiskAccess) -> io::Result<Arc<dyn DiskFile>> {
        let mut options = fs::File::options();
        options.read(true).write(access == DiskAccess::Write);
        Ok(Arc::new(OsFile(options.open(self.path(name))?)))
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let mut options = fs::File::options();
        options.read(true).write(true).create(true).truncate(true);
        options.mode(0o600);
        Ok(Arc::new(OsFile(options.open(self.path(name))?)))
    }

    fn make_folder(&self, name: &str) -> io::Result<()> {
        make_private(&self.path(name)).map(drop)
    }

    fn link(&self, from: &str, to: &str) -> io::Result<()> {
        let (from, to) = (self.path(from), self.path(to));
        match fs::hard_link(&from, &to) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                fs::copy(&from, &to)?;
                fs::File::open(&to)?.sync_all()
            }
            linked => linked,
        }
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.path(from), self.path(to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        unless_missing(fs::remove_file(self.path(name)))
    }

    fn remove_folder(&self, name: &str) -> io::Result<()> {
        unless_missing(fs::remove_dir_all(self.path(name)))
    }

    fn sync_folder(&self, name: &str) -> io::Result<()> {
        fs::File::open(self.path(name))?.sync_all()
    }

    fn space(&self) -> Option<Space> {
        let stat = rustix::fs::statvfs(&self.path).ok()?;
        Some(Space {
            free: stat.f_bavail * stat.f_frsize,
            total: stat.f_blocks * stat.f_frsize,
        })
    }
}

struct OsFile(fs::File);

impl DiskFile for OsFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn read_at(&self, at: u64, into: &mut [u8]) -> io::Result<usize> {
        let mut read = 0;
        while read < into.len() {
            match self.0.read_at(&mut into[read..], at + read as u64) {
                Ok(0) => break,
                Ok(more) => read += more,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(read)
    }

    fn write_at(&self, at: u64, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all_at(bytes, at)
    }

    fn sync(&self) -> io::Result<()> {
        self.0.sync_data()
    }
}
