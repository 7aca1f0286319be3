//! A block of the embedded log: consecutive records of one partition. A plain one is their
//! number, and the records as postcard, whose arrival the log keeps itself. Most are
//! compressed: how many records, how many bytes, and a plain block in LZ4.
//!
//! Blocks are ground truth: neither form is ever changed.

use super::compressed::{self, Compressed};
use super::packed;
use super::record::{Record, RecordRow, take};
use super::stored::{self, BLOCK, BLOCK_COMPRESSED, Unreadable};
use bytes::Bytes;

/// The byte and the count.
const HEAD: usize = 1 + 8;
/// Less is not worth it.
const WORTH_IT: usize = 512;

/// Writes blocks, with the memory of the one before.
#[derive(Default)]
pub struct Encoder {
    plain: Vec<u8>,
}

/// More is not kept for the next block.
const KEPT: usize = 4 << 20;

impl Encoder {
    /// Appends consecutive records of one partition, as small as they get.
    pub fn append<'a>(
        &mut self,
        records: impl ExactSizeIterator<Item = &'a Record>,
        mut row: Vec<u8>,
    ) -> Vec<u8> {
        let count = records.len() as u64;
        self.plain.clear();
        self.plain = append_plain(records, std::mem::take(&mut self.plain));
        let start = row.len();
        if !compress(count, &self.plain, &mut row) {
            row.truncate(start);
            row.extend_from_slice(&self.plain);
        }
        self.plain.shrink_to(KEPT);
        row
    }
}

/// False if it is not worth it.
fn compress(count: u64, plain: &[u8], row: &mut Vec<u8>) -> bool {
    if plain.len() < WORTH_IT {
        return false;
    }
    let start = row.len();
    row.push(BLOCK_COMPRESSED);
    row.extend_from_slice(&count.to_be_bytes());
    compressed::append(plain, row) && row.len() - start < plain.len()
}

pub fn decode(row: &Bytes) -> Result<Vec<Record>, Unreadable> {
    let Some((count, compressed)) = split(row)? else {
        return decode_plain(row);
    };
    let plain = compressed.restore().ok_or(Unreadable::Damaged)?;
    let records = decode_plain(&plain.into())?;
    match records.len() as u64 == count {
        true => Ok(records),
        false => Err(Unreadable::Damaged),
    }
}

/// How many records, and these; `None` for a plain block.
fn split(row: &[u8]) -> Result<Option<(u64, Compressed<'_>)>, Unreadable> {
    match row.split_first_chunk::<HEAD>() {
        Some((&[BLOCK_COMPRESSED, ref count @ ..], rest)) => {
            let compressed = Compressed::of(rest).ok_or(Unreadable::Damaged)?;
            Ok(Some((u64::from_be_bytes(*count), compressed)))
        }
        _ if row.first() == Some(&BLOCK_COMPRESSED) => Err(Unreadable::Damaged),
        _ => Ok(None),
    }
}

fn append_plain<'a>(
    records: impl ExactSizeIterator<Item = &'a Record>,
    mut row: Vec<u8>,
) -> Vec<u8> {
    let count = records.len() as u64;
    row.push(BLOCK);
    records.fold(packed::append(&count, row), |row, record| {
        packed::append(&RecordRow::of(record), row)
    })
}

fn decode_plain(row: &Bytes) -> Result<Vec<Record>, Unreadable> {
    let (count, mut rest) = take::<u64>(stored::body(BLOCK, row)?)?;
    let mut records = Vec::with_capacity(count.min(100_000) as usize);
    for _ in 0..count {
        let (stored, after) = take::<RecordRow>(rest)?;
        records.push(stored.own(false, row));
        rest = after;
    }
    match rest.is_empty() {
        true => Ok(records),
        false => Err(Unreadable::Damaged),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::Timestamp;
    use crate::wire::record::Headers;

    fn encode(records: &[Record]) -> Vec<u8> {
        Encoder::default().append(records.iter(), Vec::new())
    }

    fn records(count: usize, value: &[u8]) -> Vec<Record> {
        let record = |n: usize| Record {
            arrived: Timestamp::from_millis(n as i64),
            claimed: false,
            key: None,
            headers: Headers::default(),
            value: Some(Bytes::copy_from_slice(value)),
        };
        (0..count).map(record).collect()
    }

    #[test]
    fn an_encoded_block_is_decoded_unchanged() {
        let noise: Vec<u8> = (0..2000u32)
            .map(|n| blake3::hash(&n.to_le_bytes()).as_bytes()[0])
            .collect();
        for (count, value) in [
            (0, &b""[..]),
            (1, b"{}"),
            (100, b"{\"id\":\"1\"}"),
            (1, &noise),
        ] {
            let written = records(count, value);
            let row = encode(&written);
            assert_eq!(decode(&row.into()).unwrap(), written);
        }
    }

    #[test]
    fn similar_records_compress_well_and_uncompressed_blocks_are_read() {
        let written = records(100, b"{\"specversion\":\"1.0\",\"source\":\"/workers/1\"}");
        let plain = append_plain(written.iter(), Vec::new());
        let row = encode(&written);
        assert_eq!(row[0], BLOCK_COMPRESSED);
        assert!(
            row.len() < plain.len() / 4,
            "{} of {}",
            row.len(),
            plain.len()
        );
        assert_eq!(decode(&plain.into()).unwrap(), written);
    }

    #[test]
    fn no_damage_goes_unnoticed_or_panics() {
        let row = encode(&records(100, b"{\"specversion\":\"1.0\"}"));
        for length in 0..row.len() {
            assert!(
                decode(&Bytes::copy_from_slice(&row[..length])).is_err(),
                "{length}"
            );
        }
        for at in 0..row.len() {
            let mut row = row.clone();
            row[at] ^= 0x55;
            // Whether it can be read at all: what it says is for the database's checksum.
            let _ = decode(&row.into());
        }
        let huge = [&[BLOCK_COMPRESSED][..], &[0; 8], &[0xFF; 4], b"x"].concat();
        assert_eq!(decode(&huge.into()), Err(Unreadable::Damaged));
    }
}
