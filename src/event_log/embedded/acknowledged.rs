//! The file `acknowledged`: how far the log is acknowledged, recorded apart from the data, which
//! may be damaged. Its two slots are written in turn, so one of them is always intact.

use super::disk::{Disk, DiskAccess, DiskFile};
use super::format::{self, Acknowledged, FormatFault, HEAD};
use std::io;
use std::sync::Arc;

pub const NAME: &str = "acknowledged";
const NEW: &str = "acknowledged.new";

/// The content of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AcknowledgedFile {
    /// The newest readable slot.
    pub newest: Option<Acknowledged>,
    /// Why more than that may have been acknowledged, if it may.
    pub doubt: Option<String>,
}

/// Reads the file; `Err(Ok(version))` if a newer program wrote it.
pub fn read(disk: &dyn Disk) -> Result<AcknowledgedFile, Result<u32, io::Error>> {
    let file = match disk.open(NAME, DiskAccess::Read) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Ok(AcknowledgedFile {
                newest: None,
                doubt: Some(format!("the file {NAME} is missing")),
            });
        }
        file => file.map_err(Err)?,
    };
    let mut bytes = vec![0; 2 * HEAD as usize];
    let len = file.read_at(0, &mut bytes).map_err(Err)?;
    let mut known = AcknowledgedFile {
        newest: None,
        doubt: None,
    };
    for slot in 0..2 {
        let start = (slot * HEAD as usize).min(len);
        match format::unseal::<Acknowledged>(&bytes[start..len]) {
            Ok(found) => {
                let newer = known.newest.as_ref();
                if newer.is_none_or(|newest| found.number > newest.number) {
                    known.newest = Some(found);
                }
            }
            Err(FormatFault::Newer(version)) => return Err(Ok(version)),
            Err(FormatFault::Damaged) => {
                let at = slot * HEAD as usize;
                known.doubt = Some(format!("the file {NAME} cannot be read at byte {at}"));
            }
        }
    }
    Ok(known)
}

/// Writes the file.
pub struct AcknowledgedWriter {
    file: Arc<dyn DiskFile>,
    number: u64,
    is_synced: bool,
}

impl AcknowledgedWriter {
    /// Replaces the file. Both slots get the same content.
    pub fn create(disk: &dyn Disk, first: Acknowledged) -> io::Result<AcknowledgedWriter> {
        let file = disk.create(NEW)?;
        let mut writer = AcknowledgedWriter {
            file,
            number: first.number,
            is_synced: false,
        };
        writer.write(first.clone())?;
        writer.write(first)?;
        writer.sync()?;
        disk.rename(NEW, NAME)?;
        disk.sync_folder("")?;
        Ok(writer)
    }

    /// Opens the file, whose newest slot has this number.
    pub fn open(disk: &dyn Disk, number: u64) -> io::Result<AcknowledgedWriter> {
        Ok(AcknowledgedWriter {
            file: disk.open(NAME, DiskAccess::Write)?,
            number,
            is_synced: false,
        })
    }

    /// Of the newest slot.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// Survives the end of the process, and a loss of power only after `sync`. The number in
    /// `what` is ignored.
    pub fn write(&mut self, what: Acknowledged) -> io::Result<()> {
        self.number += 1;
        let slot = self.number % 2 * HEAD;
        let number = self.number;
        self.is_synced = false;
        self.file
            .write_at(slot, &format::seal(&Acknowledged { number, ..what }))
    }

    pub fn is_synced(&self) -> bool {
        self.is_synced
    }

    pub fn sync(&mut self) -> io::Result<()> {
        self.file.sync()?;
        self.is_synced = true;
        Ok(())
    }
}
