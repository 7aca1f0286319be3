//! Preallocates the next segment: a file full of zeros. A sync of a file that grows waits for the
//! file system's journal, because its length changes; a sync of an overwritten file does not.

use super::disk::{Disk, DiskAccess, DiskFile};
use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;

pub const SPARE: &str = "spare";
const NEW: &str = "spare.new";

/// The disk must have this many times as much free space.
const ROOM: u64 = 4;
const PIECE: usize = 256 << 10;
/// Bytes between two syncs, so that no other sync waits for the whole file.
const SYNCED: u64 = 1 << 20;

/// When a file is preallocated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ahead {
    Never,
    /// In the background, by a thread.
    Beside,
    /// By the caller, for simulations.
    AtOnce,
}

pub struct Spare {
    disk: Arc<dyn Disk>,
    ahead: Ahead,
    state: SpareState,
}

enum SpareState {
    None,
    Coming(JoinHandle<bool>),
    Ready,
}

impl Spare {
    pub fn new(disk: Arc<dyn Disk>, ahead: Ahead) -> Spare {
        Spare {
            disk,
            ahead,
            state: SpareState::None,
        }
    }

    /// Preallocates a file if there is none and the disk has space.
    pub fn fill(&mut self, bytes: u64) {
        if !matches!(self.state, SpareState::None) {
            return;
        }
        if self.ahead != Ahead::Beside {
            return self.fill_now(bytes);
        }
        let disk = self.disk.clone();
        let thread = std::thread::Builder::new().name("log-ahead".into());
        match thread.spawn(move || fill(&*disk, bytes)) {
            Ok(thread) => self.state = SpareState::Coming(thread),
            Err(error) => tracing::debug!(%error, "cannot start a thread to preallocate a segment"),
        }
    }

    pub fn fill_now(&mut self, bytes: u64) {
        let is_wanted = self.ahead != Ahead::Never && matches!(self.state, SpareState::None);
        if is_wanted && fill(&*self.disk, bytes) {
            self.state = SpareState::Ready;
        }
    }

    /// The file, if it is ready. The caller renames it.
    pub fn take(&mut self) -> Option<Arc<dyn DiskFile>> {
        match std::mem::replace(&mut self.state, SpareState::None) {
            SpareState::None => None,
            SpareState::Coming(thread) if !thread.is_finished() => {
                self.state = SpareState::Coming(thread);
                None
            }
            SpareState::Coming(thread) => {
                let is_ready = thread.join().unwrap_or(false);
                is_ready.then(|| self.open()).flatten()
            }
            SpareState::Ready => self.open(),
        }
    }

    fn open(&self) -> Option<Arc<dyn DiskFile>> {
        self.disk.open(SPARE, DiskAccess::Write).ok()
    }
}

impl Drop for Spare {
    fn drop(&mut self) {
        if let SpareState::Coming(thread) = std::mem::replace(&mut self.state, SpareState::None) {
            let _ = thread.join();
        }
    }
}

/// Whether the file exists afterwards.
fn fill(disk: &dyn Disk, bytes: u64) -> bool {
    if is_left_over(disk, bytes) {
        return true;
    }
    let needed = ROOM * bytes;
    if disk.space().is_some_and(|space| space.free < needed) {
        tracing::debug!(
            needed,
            "the disk is nearly full: no segment is preallocated"
        );
        return false;
    }
    match write(disk, bytes) {
        Ok(()) => true,
        Err(error) => {
            tracing::debug!(%error, "cannot preallocate a segment");
            let _ = disk.remove(NEW);
            false
        }
    }
}

/// Whether an earlier process left an unchanged file.
fn is_left_over(disk: &dyn Disk, bytes: u64) -> bool {
    let Ok(file) = disk.open(SPARE, DiskAccess::Read) else {
        return false;
    };
    let mut piece = vec![0; PIECE];
    let mut at = 0;
    loop {
        match file.read_at(at, &mut piece) {
            Ok(0) => return at >= bytes,
            Ok(read) if piece[..read].iter().all(|byte| *byte == 0) => at += read as u64,
            _ => return false,
        }
    }
}

fn write(disk: &dyn Disk, bytes: u64) -> io::Result<()> {
    static ZEROS: [u8; PIECE] = [0; PIECE];
    let file = disk.create(NEW)?;
    let mut at = 0;
    while at < bytes {
        let len = ZEROS.len().min((bytes - at) as usize);
        file.write_at(at, &ZEROS[..len])?;
        at += len as u64;
        if at.is_multiple_of(SYNCED) {
            file.sync()?;
        }
    }
    file.sync()?;
    disk.rename(NEW, SPARE)
}
