//! Distinguishes the end of a write-ahead log of RocksDB from damage in it, for logs of an earlier
//! version. RocksDB itself silently takes damage for the end.

use crate::store::{Error, Result};
use std::fs;
use std::path::Path;

const BLOCK: usize = 32 << 10;
/// Checksum, length, type.
const HEAD: usize = 7;
/// The types of records in recycled files. The file's number follows the type.
const NUMBERED: std::ops::RangeInclusive<u8> = 5..=8;

/// `Corrupt` if a file has records after a place that cannot be read.
pub fn check(folder: &Path) -> Result<()> {
    let failed = |error: std::io::Error| Error::Io(error.to_string());
    for entry in fs::read_dir(folder).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let number = name
            .strip_suffix(".log")
            .and_then(|n| n.parse::<u64>().ok());
        let Some(number) = number else { continue };
        let bytes = fs::read(&path).map_err(failed)?;
        if let Some(at) = damage(&bytes, number as u32) {
            return Err(Error::Corrupt(format!(
                "{name}, byte {at}: a record of the write-ahead log cannot be read, and there are \
                 others after it"
            )));
        }
    }
    Ok(())
}

/// Where the first unreadable record is, if a readable one comes after it.
fn damage(bytes: &[u8], number: u32) -> Option<usize> {
    let mut at = 0;
    loop {
        if BLOCK - at % BLOCK < HEAD {
            at = at.next_multiple_of(BLOCK);
        }
        match record(bytes, at, number) {
            Some(end) => at = end,
            None => break,
        }
    }
    // In a recycled file, only records with its number belong to it.
    let is_numbered = bytes
        .get(HEAD - 1)
        .is_some_and(|kind| NUMBERED.contains(kind));
    let may_be = |place: usize| {
        let kind = bytes.get(place + HEAD - 1);
        !is_numbered || kind.is_some_and(|kind| NUMBERED.contains(kind))
    };
    let is_record = |place: &usize| may_be(*place) && record(bytes, *place, number).is_some();
    (at + 1..bytes.len())
        .any(|place| is_record(&place))
        .then_some(at)
}

/// The end of the record that begins here, if its checksum and its file number are right. A record
/// does not cross a block.
fn record(bytes: &[u8], at: usize, number: u32) -> Option<usize> {
    let room = BLOCK - at % BLOCK;
    let head = bytes.get(at..at + HEAD).filter(|_| room >= HEAD)?;
    let kind = head[6];
    // Preallocated files contain zeros.
    let is_known = (1..=11).contains(&kind);
    let extra = if NUMBERED.contains(&kind) { 4 } else { 0 };
    let len = usize::from(u16::from_le_bytes([head[4], head[5]]));
    let end = HEAD + extra + len;
    if !is_known || end > room {
        return None;
    }
    let checked = bytes.get(at + 6..at + end)?;
    if extra > 0 && checked[1..5] != number.to_le_bytes() {
        return None;
    }
    let stored = u32::from_le_bytes([head[0], head[1], head[2], head[3]]);
    (mask(crc32c(checked)) == stored).then_some(at + end)
}

/// As RocksDB stores it.
fn mask(checksum: u32) -> u32 {
    checksum.rotate_right(15).wrapping_add(0xa282_ead8)
}

fn crc32c(bytes: &[u8]) -> u32 {
    const TABLE: [u32; 256] = {
        let mut table = [0; 256];
        let mut n = 0;
        while n < 256 {
            let mut entry = n as u32;
            let mut bit = 0;
            while bit < 8 {
                let carry = entry & 1;
                entry >>= 1;
                if carry == 1 {
                    entry ^= 0x82f6_3b78;
                }
                bit += 1;
            }
            table[n] = entry;
            n += 1;
        }
        table
    };
    let step = |sum: u32, byte: &u8| TABLE[usize::from(sum as u8 ^ byte)] ^ (sum >> 8);
    !bytes.iter().fold(!0, step)
}

#[cfg(test)]
mod tests {
    use super::super::tests::MEMORY;
    use super::super::{Family, MemoryBudget, Rocks};
    use super::*;
    use crate::store::{Batch, Db, Durability};

    #[test]
    fn the_checksum_is_the_one_of_the_standard() {
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
    }

    #[test]
    fn a_flipped_bit_before_other_records_is_damage_and_a_truncated_end_is_not() {
        let folder = tempfile::tempdir().unwrap();
        // Large, so that everything stays in one file.
        let memory = MemoryBudget {
            write_buffers: 64 << 20,
            ..MEMORY
        };
        let db = Rocks::open(folder.path(), Family::EMBEDDED_LOG, memory).unwrap();
        for n in 0..50u64 {
            let mut batch = Batch::default();
            batch.put(Family::Log, &n.to_be_bytes(), &[7; 3000]);
            db.write(&batch, Durability::Synced).unwrap();
        }
        drop(db);
        assert_eq!(check(folder.path()), Ok(()));
        let files = fs::read_dir(folder.path()).unwrap();
        let paths = files.map(|file| file.unwrap().path());
        let is_wal = |path: &std::path::PathBuf| path.extension().is_some_and(|e| e == "log");
        let wal = paths
            .filter(is_wal)
            .max_by_key(|p| p.metadata().unwrap().len());
        let wal = wal.unwrap();
        let whole = fs::read(&wal).unwrap();
        assert!(whole.len() > 4 * BLOCK, "{}", whole.len());
        for at in [0, 5, 3000, 40_000, 100_000] {
            let mut bytes = whole.clone();
            bytes[at] ^= 1;
            fs::write(&wal, bytes).unwrap();
            assert!(
                matches!(check(folder.path()), Err(Error::Corrupt(_))),
                "{at}"
            );
        }
        for missing in [1, 100, 2000, 50_000] {
            fs::write(&wal, &whole[..whole.len() - missing]).unwrap();
            assert_eq!(check(folder.path()), Ok(()), "{missing}");
        }
    }
}
