//! A disk in memory that keeps the port's promises and no more. A loss of power loses data that
//! was not synced, sector by sector and name by name. Data of a failed sync is lost even if a
//! later sync succeeds, as on Linux.

use super::{Disk, DiskAccess, DiskFile, FolderEntry};
use crate::store::Space;
use crate::store::memory::WriteFault;
use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};

/// The bytes that a disk writes atomically.
const SECTOR: usize = 512;

/// The calls that can fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DiskCall {
    Write,
    Sync,
    Create,
    Rename,
    SyncFolder,
    Other,
}

/// Called before each call that changes anything.
pub type DiskFaults = Box<dyn FnMut(DiskCall) -> WriteFault + Send>;

/// Clones are the same disk.
#[derive(Clone, Default)]
pub struct MemoryDisk {
    inner: Arc<Mutex<MemoryDiskState>>,
    /// The prefix of the names of its files: empty, or a folder and a slash.
    folder: String,
}

#[derive(Default)]
struct MemoryDiskState {
    files: Vec<MemoryFile>,
    names: BTreeMap<String, usize>,
    synced_names: BTreeMap<String, usize>,
    /// Changes of names since the last sync, in order.
    renamings: Vec<Naming>,
    faults: Option<DiskFaults>,
    dead: bool,
    /// Files that were opened before the last crash are closed.
    life: u64,
}

#[derive(Default, Clone)]
struct MemoryFile {
    /// The content that reads return.
    content: Vec<u8>,
    synced: Vec<u8>,
    /// Since the last sync, in order.
    writes: Vec<(usize, Vec<u8>)>,
}

#[derive(Clone)]
enum Naming {
    Put(String, usize),
    Rename(String, String),
    /// With all that is in it.
    RenameFolder(String, String),
    Remove(String),
}

impl Naming {
    fn apply(&self, names: &mut BTreeMap<String, usize>) {
        match self {
            Naming::Put(name, file) => drop(names.insert(name.clone(), *file)),
            Naming::Remove(name) => drop(names.remove(name)),
            Naming::Rename(from, to) => {
                if let Some(file) = names.remove(from) {
                    names.insert(to.clone(), file);
                }
            }
            Naming::RenameFolder(from, to) => {
                let inside = format!("{from}/");
                let moved: Vec<_> = names
                    .extract_if(.., |name, _| name.starts_with(&inside))
                    .collect();
                let moved = moved.into_iter();
                names.extend(
                    moved.map(|(name, file)| (format!("{to}{}", &name[from.len()..]), file)),
                );
            }
        }
    }
}

fn write(content: &mut Vec<u8>, at: usize, bytes: &[u8]) {
    if content.len() < at + bytes.len() {
        content.resize(at + bytes.len(), 0);
    }
    content[at..at + bytes.len()].copy_from_slice(bytes);
}

impl MemoryDisk {
    pub fn set_faults(&self, faults: Option<DiskFaults>) {
        self.lock().faults = faults;
    }

    /// Whether the simulated process has ended.
    pub fn is_dead(&self) -> bool {
        self.lock().dead
    }

    /// The process restarts; the machine runs on, and nothing is lost.
    pub fn restart(&self) {
        let mut inner = self.lock();
        inner.dead = false;
        inner.life += 1;
    }

    /// The machine loses power. Of the unsynced data, the sectors survive for which `survives`
    /// returns true, and the first `keep(count)` changes of names.
    pub fn lose_power(
        &self,
        mut survives: impl FnMut() -> bool,
        keep: impl FnOnce(usize) -> usize,
    ) {
        let mut inner = self.lock();
        for file in &mut inner.files {
            for (at, bytes) in std::mem::take(&mut file.writes) {
                let mut start = 0;
                while start < bytes.len() {
                    // Up to the next sector of the file.
                    let place = at + start;
                    let end = bytes.len().min((place / SECTOR + 1) * SECTOR - at);
                    if survives() {
                        write(&mut file.synced, place, &bytes[start..end]);
                    }
                    start = end;
                }
            }
            file.content.clone_from(&file.synced);
        }
        let renamings = std::mem::take(&mut inner.renamings);
        let keep = keep(renamings.len()).min(renamings.len());
        let mut names = std::mem::take(&mut inner.synced_names);
        for renaming in &renamings[..keep] {
            renaming.apply(&mut names);
        }
        inner.synced_names.clone_from(&names);
        inner.names = names;
        inner.dead = false;
        inner.life += 1;
    }

    /// Another disk with the same files.
    pub fn copy(&self) -> MemoryDisk {
        let inner = self.lock();
        let copy = MemoryDiskState {
            files: inner.files.clone(),
            names: inner.names.clone(),
            synced_names: inner.synced_names.clone(),
            renamings: inner.renamings.clone(),
            ..MemoryDiskState::default()
        };
        MemoryDisk {
            inner: Arc::new(Mutex::new(copy)),
            folder: self.folder.clone(),
        }
    }

    /// The content of a file.
    pub fn content(&self, name: &str) -> Option<Vec<u8>> {
        let inner = self.lock();
        let file = *inner.names.get(name)?;
        Some(inner.files[file].content.clone())
    }

    /// Changes a file as a decaying medium does.
    pub fn tamper(&self, name: &str, tamper: impl FnOnce(&mut Vec<u8>)) {
        let mut inner = self.lock();
        if let Some(&file) = inner.names.get(name) {
            let file = &mut inner.files[file];
            tamper(&mut file.content);
            file.synced.clone_from(&file.content);
            file.writes.clear();
        }
    }

    fn lock(&self) -> MutexGuard<'_, MemoryDiskState> {
        self.inner
            .lock()
            .expect("no test panics while it holds the files")
    }

    /// Makes a change, or fails with the injected fault.
    fn change(&self, call: DiskCall, change: impl FnOnce(&mut MemoryDiskState)) -> io::Result<()> {
        let mut inner = self.lock();
        inner.alive()?;
        let fault = inner
            .faults
            .as_mut()
            .map_or(WriteFault::None, |next| next(call));
        match fault {
            WriteFault::None => {
                change(&mut inner);
                Ok(())
            }
            WriteFault::Refuse => Err(io::Error::other("simulated: refused")),
            WriteFault::Misreport => {
                change(&mut inner);
                Err(io::Error::other("simulated: timed out"))
            }
            WriteFault::Die { after } => {
                if after {
                    change(&mut inner);
                }
                inner.dead = true;
                Err(io::Error::other("simulated: the process ended"))
            }
        }
    }

    fn name(&self, call: DiskCall, naming: Naming) -> io::Result<()> {
        self.change(call, |inner| {
            naming.apply(&mut inner.names);
            inner.renamings.push(naming);
        })
    }

    fn path(&self, name: &str) -> String {
        format!("{}{name}", self.folder)
    }
}

impl MemoryDiskState {
    fn alive(&self) -> io::Result<()> {
        match self.dead {
            true => Err(io::Error::other("simulated: the process is dead")),
            false => Ok(()),
        }
    }

    fn find(&self, name: &str) -> io::Result<usize> {
        self.alive()?;
        let file = self.names.get(name).copied();
        file.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))
    }
}

impl Disk for MemoryDisk {
    fn folder(&self, name: &str) -> Arc<dyn Disk> {
        Arc::new(MemoryDisk {
            inner: self.inner.clone(),
            folder: format!("{}/", self.path(name)),
        })
    }

    fn list(&self) -> io::Result<Vec<FolderEntry>> {
        let inner = self.lock();
        inner.alive()?;
        let mut entries: Vec<FolderEntry> = Vec::new();
        for (name, file) in &inner.names {
            let Some(inside) = name.strip_prefix(&self.folder) else {
                continue;
            };
            let (name, len, is_folder) = match inside.split_once('/') {
                None => (inside, inner.files[*file].content.len() as u64, false),
                Some((folder, _)) => (folder, 0, true),
            };
            if !entries.iter().any(|entry| entry.name == name) {
                entries.push(FolderEntry {
                    name: name.to_owned(),
                    len,
                    is_folder,
                });
            }
        }
        Ok(entries)
    }

    fn open(&self, name: &str, _: DiskAccess) -> io::Result<Arc<dyn DiskFile>> {
        let inner = self.lock();
        let file = inner.find(&self.path(name))?;
        Ok(Arc::new(MemoryFileHandle {
            disk: self.clone(),
            file,
            life: inner.life,
        }))
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        self.change(DiskCall::Create, |inner| {
            let file = inner.files.len();
            inner.files.push(MemoryFile::default());
            let naming = Naming::Put(self.path(name), file);
            naming.apply(&mut inner.names);
            inner.renamings.push(naming);
        })?;
        self.open(name, DiskAccess::Write)
    }

    /// Folders are parts of names here.
    fn make_folder(&self, _: &str) -> io::Result<()> {
        self.lock().alive()
    }

    fn link(&self, from: &str, to: &str) -> io::Result<()> {
        let file = self.lock().find(&self.path(from))?;
        self.name(DiskCall::Other, Naming::Put(self.path(to), file))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let (from, to) = (self.path(from), self.path(to));
        let inside = format!("{from}/");
        let is_folder = self
            .lock()
            .names
            .keys()
            .any(|name| name.starts_with(&inside));
        let naming = match is_folder {
            true => Naming::RenameFolder(from, to),
            false => Naming::Rename(from, to),
        };
        self.name(DiskCall::Rename, naming)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.name(DiskCall::Other, Naming::Remove(self.path(name)))
    }

    fn remove_folder(&self, name: &str) -> io::Result<()> {
        let folder = self.folder(name);
        let mut entries = folder.list()?.into_iter();
        entries.try_for_each(|entry| folder.remove(&entry.name))
    }

    fn sync_folder(&self, _: &str) -> io::Result<()> {
        self.change(DiskCall::SyncFolder, |inner| {
            inner.renamings.clear();
            inner.synced_names.clone_from(&inner.names);
        })
    }

    fn space(&self) -> Option<Space> {
        None
    }
}

struct MemoryFileHandle {
    disk: MemoryDisk,
    file: usize,
    life: u64,
}

impl MemoryFileHandle {
    fn alive(&self) -> io::Result<MutexGuard<'_, MemoryDiskState>> {
        let inner = self.disk.lock();
        inner.alive()?;
        match inner.life == self.life {
            true => Ok(inner),
            false => Err(io::Error::other("simulated: opened in another life")),
        }
    }
}

impl DiskFile for MemoryFileHandle {
    fn len(&self) -> io::Result<u64> {
        Ok(self.alive()?.files[self.file].content.len() as u64)
    }

    fn read_at(&self, at: u64, into: &mut [u8]) -> io::Result<usize> {
        let inner = self.alive()?;
        let content = &inner.files[self.file].content;
        let rest = content.get(at as usize..).unwrap_or_default();
        let count = rest.len().min(into.len());
        into[..count].copy_from_slice(&rest[..count]);
        Ok(count)
    }

    fn write_at(&self, at: u64, bytes: &[u8]) -> io::Result<()> {
        drop(self.alive()?);
        self.disk.change(DiskCall::Write, |inner| {
            let file = &mut inner.files[self.file];
            write(&mut file.content, at as usize, bytes);
            file.writes.push((at as usize, bytes.to_vec()));
        })
    }

    fn sync(&self) -> io::Result<()> {
        drop(self.alive()?);
        let synced = self.disk.change(DiskCall::Sync, |inner| {
            let file = &mut inner.files[self.file];
            for (at, bytes) in std::mem::take(&mut file.writes) {
                write(&mut file.synced, at, &bytes);
            }
        });
        let mut inner = self.disk.lock();
        if synced.is_err() && !inner.dead {
            // The kernel considers them written, and does not retry.
            inner.files[self.file].writes.clear();
        }
        synced
    }
}
