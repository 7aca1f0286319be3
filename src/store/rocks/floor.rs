//! How much the database surely holds, in a file of its own: the number of the last write that
//! was on the disk when it was opened or flushed. RocksDB itself takes a manifest that was cut
//! off for an older one, and begins where that ends.

use super::{Error, Result};
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

const NAME: &str = "FLOOR";
const NEW: &str = "FLOOR.new";

/// Checks a database that was just opened, and notes how much it holds.
pub fn keep(folder: &Path, last: u64) -> Result<()> {
    check(folder, last)?;
    // What was in the write-ahead log alone has just been flushed. A full disk may have room
    // again when it is to be written to.
    if let Err(error) = note(folder, last) {
        tracing::warn!(%error, "cannot record the size of the store");
    }
    Ok(())
}

/// Whether a database in `folder` whose last write has this number holds what it held.
fn check(folder: &Path, last: u64) -> Result<()> {
    // Without a number there is nothing to hold it against: of before, or itself damaged.
    let text = fs::read_to_string(folder.join(NAME)).unwrap_or_default();
    match text.trim().parse() {
        Ok(floor) if last < floor => Err(Error::Corrupt(format!(
            "it ends with write {last}, and had {floor}: a file of it is missing or of an older \
             state"
        ))),
        Ok(_) | Err(_) => Ok(()),
    }
}

/// All up to this write is on the disk.
pub fn note(folder: &Path, last: u64) -> Result<()> {
    let note = || -> io::Result<()> {
        let new = folder.join(NEW);
        let mut file = File::create(&new)?;
        writeln!(file, "{last}")?;
        file.sync_all()?;
        fs::rename(&new, folder.join(NAME))?;
        File::open(folder)?.sync_all()
    };
    note().map_err(|error| match error.kind() {
        io::ErrorKind::StorageFull => Error::NoSpace(error.to_string()),
        _ => Error::Io(format!("{}: {error}", folder.join(NAME).display())),
    })
}
