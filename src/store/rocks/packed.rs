//! Compresses long rows of the history one by one until files are merged, so that the batch, the
//! write-ahead log, the memtable and the first file have a fraction of the bytes. A merge
//! decompresses them, because many rows compress better together. Private to the adapter.

use super::{Error, Family, Result};
use crate::wire::compressed::{self, Compressed};
use crate::wire::stored::PACKED;
use rocksdb::compaction_filter::CompactionFilter;
use rocksdb::compaction_filter_factory::{CompactionFilterContext, CompactionFilterFactory};
use rocksdb::{CompactionDecision, Options};
use std::borrow::Cow;
use std::ffi::CStr;
use std::slice;

/// Shorter rows gain less than it costs.
const LEAST: usize = 1 << 10;

fn is_kept_so(family: Family) -> bool {
    family == Family::History
}

/// The bytes to write: the row, or its compressed form in `room`.
pub fn pack<'r>(family: Family, row: &'r [u8], room: &'r mut Vec<u8>) -> Result<&'r [u8]> {
    let is_marked = row.first() == Some(&PACKED);
    if !is_kept_so(family) || !(is_marked || row.len() >= LEAST) {
        return Ok(row);
    }
    room.clear();
    room.push(PACKED);
    let is_packed = compressed::append(row, room);
    match is_packed && (is_marked || room.len() < row.len()) {
        true => Ok(room),
        false if is_marked => Err(Error::Io(format!("a row of {} bytes", row.len()))),
        false => Ok(row),
    }
}

/// The row as it was put.
pub fn unpack(family: Family, stored: &[u8]) -> Result<Cow<'_, [u8]>> {
    match stored {
        [PACKED, packed @ ..] if is_kept_so(family) => match restore(packed) {
            Some(row) => Ok(row.into()),
            None => Err(Error::Corrupt("a row that was compressed".into())),
        },
        _ => Ok(stored.into()),
    }
}

fn restore(packed: &[u8]) -> Option<Vec<u8>> {
    Compressed::of(packed)?.restore()
}

/// Decompresses rows when they are merged.
pub fn until_merged(options: &mut Options) {
    options.set_compaction_filter_factory(Merges);
}

const NAME: &CStr = c"opledger.unpack";

struct Merges;

impl CompactionFilterFactory for Merges {
    type Filter = PackedMerge;

    fn create(&mut self, _: CompactionFilterContext) -> PackedMerge {
        PackedMerge(Vec::new())
    }

    fn name(&self) -> &CStr {
        NAME
    }
}

/// One merge, with its last decompressed row.
struct PackedMerge(Vec<u8>);

impl CompactionFilter for PackedMerge {
    fn filter(&mut self, _level: u32, _key: &[u8], stored: &[u8]) -> CompactionDecision {
        let [PACKED, packed @ ..] = stored else {
            return CompactionDecision::Keep;
        };
        match restore(packed) {
            // A row that itself begins with the mark stays packed.
            Some(row) if row.first() != Some(&PACKED) => {
                self.0 = row;
                // Safety: RocksDB copies it before it passes the next row or ends this merge.
                // The binding has no shorter lifetime.
                let row = unsafe { slice::from_raw_parts(self.0.as_ptr(), self.0.len()) };
                CompactionDecision::Change(row)
            }
            // Readers report a damaged row.
            _ => CompactionDecision::Keep,
        }
    }

    fn name(&self) -> &CStr {
        NAME
    }
}

#[cfg(test)]
mod tests {
    use super::super::Rocks;
    use super::super::tests::MEMORY;
    use super::*;
    use crate::store::{self, Batch, Db, Direction, Durability, ReadPoint};
    use std::ops::ControlFlow;

    const FAMILY: Family = Family::History;

    /// With keys of one operation's history.
    fn rows() -> Vec<(Vec<u8>, Vec<u8>)> {
        let long = b"a body repeats the words that it has. ".repeat(100);
        let mut noise = vec![0; 5000];
        blake3::Hasher::new().finalize_xof().fill(&mut noise);
        noise[0] = 1;
        let marked = [&[PACKED][..], &long].concat();
        let rows = [
            Vec::new(),
            b"short".to_vec(),
            long,
            noise,
            vec![PACKED],
            marked,
        ];
        let rows = rows.into_iter().zip(0..);
        rows.map(|(row, n)| (vec![0, 0, b'o', 0, n], row)).collect()
    }

    fn assert_reads(db: &Rocks, held: &dyn ReadPoint, rows: &[(Vec<u8>, Vec<u8>)]) {
        let keys: Vec<&[u8]> = rows.iter().map(|(key, _)| &**key).collect();
        let all: Vec<_> = rows.iter().map(|(_, row)| Some(row.clone())).collect();
        let one = |key: &&[u8]| db.get(FAMILY, key).unwrap();
        assert_eq!(keys.iter().map(one).collect::<Vec<_>>(), all);
        let several = |rows: Vec<store::RowResult>| rows.into_iter().collect::<Result<Vec<_>>>();
        assert_eq!(several(db.multi_get(FAMILY, &keys)).unwrap(), all);
        let cached = db.get_cached(FAMILY, keys[2]).unwrap();
        assert_eq!(cached, store::Cached::Known(all[2].clone()));
        let (scanned, gotten, one) = store::view_held(held, |view| {
            let mut scanned = Vec::new();
            let range = &[0][..]..&[1][..];
            view.scan(FAMILY, range, Direction::Forward, &mut |key, row| {
                scanned.push((key.to_vec(), row.to_vec()));
                ControlFlow::Continue(())
            })?;
            Ok((
                scanned,
                several(view.multi_get(FAMILY, &keys))?,
                view.get(FAMILY, keys[2])?,
            ))
        })
        .unwrap();
        assert_eq!(scanned, rows);
        assert_eq!(gotten, all);
        assert_eq!(one, all[2]);
    }

    #[test]
    fn a_long_row_is_small_until_it_is_merged_and_reads_the_same() {
        let folder = tempfile::tempdir().unwrap();
        let db = Rocks::open(folder.path(), Family::LEDGER, MEMORY).unwrap();
        let rows = rows();
        let mut batch = Batch::default();
        for (key, row) in &rows {
            batch.put(FAMILY, key, row);
        }
        db.write(&batch, Durability::Buffered).unwrap();
        let open = db.get_open().unwrap();
        let stored = || {
            let family = open.family(FAMILY);
            let stored = |(key, _): &(Vec<u8>, _)| open.db.get_cf(family, key).unwrap().unwrap();
            rows.iter().map(stored).collect::<Vec<_>>()
        };
        let plain: Vec<_> = rows.iter().map(|(_, row)| row.clone()).collect();
        let held = db.hold().unwrap();
        let written = stored();
        assert!(
            written[2].len() < plain[2].len() / 10,
            "{}",
            written[2].len()
        );
        assert_eq!(written[3], plain[3], "noise gets no smaller");
        assert_reads(&db, &*held, &rows);
        db.flush().unwrap();
        assert_eq!(stored(), written);
        assert_reads(&db, &*held, &rows);
        open.db
            .compact_range_cf::<&[u8], &[u8]>(open.family(FAMILY), None, None);
        let merged = stored();
        assert_eq!(merged[..4], plain[..4]);
        // A row that begins with the mark could not be distinguished from a packed one.
        assert_eq!(merged[4..], written[4..]);
        assert_reads(&db, &*held, &rows);
    }

    #[test]
    fn a_damaged_row_is_reported() {
        let row = b"all the same, all the same, ".repeat(100);
        let mut room = Vec::new();
        let packed = pack(FAMILY, &row, &mut room).unwrap().to_vec();
        assert_eq!(unpack(FAMILY, &packed).unwrap(), row);
        let longer = [&[PACKED, 0xff], &packed[2..]].concat();
        for damaged in [&packed[..packed.len() - 1], &packed[..3], &longer] {
            let error = unpack(FAMILY, damaged).unwrap_err();
            assert!(matches!(error, Error::Corrupt(_)), "{error}");
        }
    }

    #[test]
    fn a_row_that_was_packed_once_is_read() {
        // As stores of format 1 contain it.
        let packed = b"&\x00\x00\x07\xd0\xafagain and \n\x00\xff\xff\xff\xff\xff\xff\xff\xb5P and ";
        let row = unpack(FAMILY, packed).unwrap();
        assert_eq!(row, b"again and ".repeat(200));
        assert_eq!(packed[0], PACKED);
    }

    #[test]
    fn other_families_are_left_alone() {
        let row = [&[PACKED][..], &b"again and ".repeat(200)].concat();
        let mut room = Vec::new();
        assert_eq!(pack(Family::State, &row, &mut room).unwrap(), row);
        assert_eq!(unpack(Family::State, &row).unwrap(), row);
    }
}
