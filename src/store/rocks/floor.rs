//! Records in a file the number of the last write that was on disk when the database was opened or
//! flushed. RocksDB itself takes a truncated manifest for an older one, and starts from there.

use super::{Error, Result};
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

const NAME: &str = "FLOOR";
const NEW: &str = "FLOOR.new";

/// Checks a database that was just opened, and records its last write.
pub fn keep(folder: &Path, last: u64) -> Result<()> {
    check(folder, last)?;
    // Opening has flushed the write-ahead log. A full disk may have space again later.
    if let Err(error) = note(folder, last) {
        tracing::warn!(%error, "cannot record the size of the store");
    }
    Ok(())
}

/// Checks that a database whose last write has this number has lost nothing.
fn check(folder: &Path, last: u64) -> Result<()> {
    // Without a number, nothing can be checked: the file is missing or damaged.
    let text = fs::read_to_string(folder.join(NAME)).unwrap_or_default();
    match text.trim().parse() {
        Ok(floor) if last < floor => Err(Error::Corrupt(format!(
            "it ends with write {last}, and had {floor}: a file of it is missing or of an older \
             state"
        ))),
        Ok(_) | Err(_) => Ok(()),
    }
}

/// Everything up to this write is on disk.
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
