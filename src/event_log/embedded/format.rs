//! The file format of the embedded log: segment files of frames, and the file with the acknowledged
//! end. Encodes and decodes bytes; opens nothing.
//!
//! ```text
//! 0000000001.segment
//!   0        magic, version, length, head (postcard), checksum
//!   16384    frames, each at a multiple of 8, then zeros
//! frame
//!   salt, sequence, records, groups, length, entries        6 × 8 bytes
//!   for each entry: partition, bytes, first, count, checksum  32 bytes
//!   checksum of all before
//!   blocks, in the order of the entries
//! acknowledged
//!   0        magic, version, length, acknowledged end, checksum
//!   16384    the same; the one with the higher number counts
//! ```
//!
//! All numbers are little-endian. A checksum is XXH3 (64 bits), of a frame with the salt of its
//! segment as its seed, so the content of an event cannot be taken for a frame.

use crate::wire::position::{LogId, Offset, Partition};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

/// Version 1 was a RocksDB.
pub const VERSION: u32 = 2;
const MAGIC: [u8; 8] = *b"opledger";
/// Bytes before the head itself.
const PREFIX: usize = 16;

/// The head of a segment, and one slot of `acknowledged`, have this many bytes.
pub const HEAD: u64 = 16 << 10;

/// Why bytes with a magic cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FormatFault {
    Damaged,
    /// Written by a newer program.
    Newer(u32),
}

/// The head of a segment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    pub log: LogId,
    /// Segments are numbered from 1 without gaps.
    pub number: u64,
    /// Of the frames of this segment only.
    pub salt: u64,
    /// Bytes after which the next segment begins.
    pub planned: u64,
    pub before: LogExtent,
    /// `None` in the first segment.
    pub previous: Option<Previous>,
}

/// Where the segment before ended. Bytes after that are not part of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Previous {
    /// Differs from the log of this segment only after a repair gave a new identity.
    pub log: LogId,
    pub end: u64,
}

/// The extent of the log at some place.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogExtent {
    /// Of the next group.
    pub sequence: u64,
    /// Records in all partitions before.
    pub records: u64,
    /// The next offset of each partition.
    pub ends: Vec<Offset>,
}

/// How far the log is acknowledged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Acknowledged {
    /// Increased by each write of the file.
    pub number: u64,
    pub log: LogId,
    pub segment: u64,
    /// The byte in that segment after its last acknowledged frame.
    pub end: u64,
    pub state: LogExtent,
}

/// The bytes of a head or a slot.
pub fn seal(what: &impl Serialize) -> Vec<u8> {
    let body = postcard::to_allocvec(what).expect("memory takes whatever postcard writes");
    let mut bytes = Vec::with_capacity(PREFIX + body.len() + 8);
    bytes.extend_from_slice(&MAGIC);
    bytes.extend_from_slice(&VERSION.to_le_bytes());
    bytes.extend_from_slice(&(body.len() as u32).to_le_bytes());
    bytes.extend_from_slice(&body);
    bytes.extend_from_slice(&xxh3_64(&bytes).to_le_bytes());
    bytes
}

/// All bytes of a segment before its first frame.
pub fn seal_head(head: &Head) -> Vec<u8> {
    let mut bytes = seal(head);
    bytes.resize(HEAD as usize, 0);
    bytes
}

/// Decodes a head or a slot; more bytes may follow it.
pub fn unseal<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, FormatFault> {
    let damaged = FormatFault::Damaged;
    let prefix = bytes.get(..PREFIX).ok_or(damaged)?;
    let len = u32_at(prefix, 12) as usize;
    let end = PREFIX.saturating_add(len);
    let sealed = bytes.get(..end).ok_or(damaged)?;
    let checksum = bytes.get(end..).and_then(|rest| rest.first_chunk::<8>());
    if prefix[..8] != MAGIC || checksum.copied() != Some(xxh3_64(sealed).to_le_bytes()) {
        return Err(damaged);
    }
    match u32_at(prefix, 8) {
        VERSION => postcard::from_bytes(&sealed[PREFIX..]).map_err(|_| damaged),
        other => Err(FormatFault::Newer(other)),
    }
}

pub fn segment_name(number: u64) -> String {
    format!("{number:010}{SEGMENT}")
}

pub const SEGMENT: &str = ".segment";

/// The number in the name of a segment file.
pub fn segment_number(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(SEGMENT)?;
    let number = digits.parse().ok()?;
    (number > 0 && segment_name(number) == name).then_some(number)
}

/// A frame without its blocks: one group of publishes, or several where a repair declared a loss.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    pub sequence: u64,
    /// Records in all partitions before it.
    pub records: u64,
    pub groups: u64,
    /// Of the whole frame, in bytes; a multiple of 8.
    pub length: u64,
    pub entries: Vec<FrameEntry>,
}

/// Consecutive records of one partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameEntry {
    pub partition: Partition,
    /// A repair has declared the records lost. Its block, if it has one, is skipped.
    pub is_lost: bool,
    pub first: Offset,
    pub count: u64,
    pub block: FrameBlock,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FrameBlock {
    pub bytes: u32,
    pub checksum: u64,
}

const FIXED: usize = 48;
const ENTRY: usize = 32;
/// The length of the shortest frame.
pub const SHORTEST: usize = FIXED + 8;
/// A flag in the number of a partition.
const LOST: u32 = 1 << 31;

impl FrameEntry {
    pub fn end(&self) -> Offset {
        self.first.plus(self.count)
    }
}

impl Frame {
    /// Bytes before the blocks.
    pub fn head_len(entries: usize) -> usize {
        SHORTEST + ENTRY * entries
    }

    /// The number of its records, lost ones included.
    pub fn count(&self) -> u64 {
        self.entries.iter().map(|entry| entry.count).sum()
    }

    /// The bytes before the blocks.
    pub fn encode_head(&self, salt: u64) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(Frame::head_len(self.entries.len()));
        let entries = self.entries.len() as u64;
        for number in [
            salt,
            self.sequence,
            self.records,
            self.groups,
            self.length,
            entries,
        ] {
            bytes.extend_from_slice(&number.to_le_bytes());
        }
        for entry in &self.entries {
            let lost = if entry.is_lost { LOST } else { 0 };
            bytes.extend_from_slice(&(entry.partition.0 | lost).to_le_bytes());
            bytes.extend_from_slice(&entry.block.bytes.to_le_bytes());
            for number in [entry.first.0, entry.count, entry.block.checksum] {
                bytes.extend_from_slice(&number.to_le_bytes());
            }
        }
        let checksum = xxh3_64_with_seed(&bytes, salt);
        bytes.extend_from_slice(&checksum.to_le_bytes());
        bytes
    }

    /// The length of the head of a frame, from its first [`SHORTEST`] bytes; `None` if no frame
    /// of this salt that fits into `room` bytes begins here.
    pub fn head_len_of(start: &[u8], salt: u64, room: u64) -> Option<usize> {
        if start.len() < SHORTEST || u64_at(start, 0) != salt {
            return None;
        }
        let (length, entries) = (u64_at(start, 32), u64_at(start, 40));
        let fits = entries <= room / ENTRY as u64 && length <= room && length.is_multiple_of(8);
        let head = Frame::head_len(usize::try_from(entries).ok().filter(|_| fits)?);
        (head as u64 <= length).then_some(head)
    }

    /// Decodes exactly the bytes that [`Frame::head_len_of`] asks for.
    pub fn decode_head(head: &[u8], salt: u64) -> Option<Frame> {
        let (rest, checksum) = head.split_last_chunk::<8>()?;
        if xxh3_64_with_seed(rest, salt).to_le_bytes() != *checksum {
            return None;
        }
        let entry = |bytes: &[u8]| FrameEntry {
            partition: Partition(u32_at(bytes, 0) & !LOST),
            is_lost: u32_at(bytes, 0) & LOST != 0,
            first: Offset(u64_at(bytes, 8)),
            count: u64_at(bytes, 16),
            block: FrameBlock {
                bytes: u32_at(bytes, 4),
                checksum: u64_at(bytes, 24),
            },
        };
        let frame = Frame {
            sequence: u64_at(rest, 8),
            records: u64_at(rest, 16),
            groups: u64_at(rest, 24),
            length: u64_at(rest, 32),
            entries: rest[FIXED..].chunks_exact(ENTRY).map(entry).collect(),
        };
        let entries = frame.entries.iter();
        let blocks: u64 = entries.map(|entry| u64::from(entry.block.bytes)).sum();
        (head.len() as u64 + blocks <= frame.length).then_some(frame)
    }

    /// The entries, and where their blocks begin, from the start of the frame.
    pub fn blocks(&self) -> impl Iterator<Item = (FrameEntry, u64)> {
        let mut at = Frame::head_len(self.entries.len()) as u64;
        self.entries.iter().map(move |entry| {
            let start = at;
            at += u64::from(entry.block.bytes);
            (*entry, start)
        })
    }
}

pub fn checksum(block: &[u8], salt: u64) -> u64 {
    xxh3_64_with_seed(block, salt)
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let bytes = bytes[at..]
        .first_chunk()
        .expect("the caller has checked the length");
    u64::from_le_bytes(*bytes)
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let bytes = bytes[at..]
        .first_chunk()
        .expect("the caller has checked the length");
    u32::from_le_bytes(*bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state() -> LogExtent {
        LogExtent {
            sequence: 7,
            records: 12,
            ends: vec![Offset(5), Offset(0), Offset(7)],
        }
    }

    fn frame() -> Frame {
        let entry = |partition, is_lost| FrameEntry {
            partition: Partition(partition),
            is_lost,
            first: Offset(5),
            count: 2,
            block: FrameBlock {
                bytes: 15,
                checksum: 99,
            },
        };
        let entries = vec![entry(0, false), entry(2, true)];
        Frame {
            sequence: 7,
            records: 12,
            groups: 1,
            length: 152,
            entries,
        }
    }

    #[test]
    fn a_head_and_a_slot_are_read_as_written_and_any_flipped_bit_is_detected() {
        let log = LogId(*b"abcd1234");
        let head = Head {
            log,
            number: 3,
            salt: 77,
            planned: 1 << 20,
            before: state(),
            previous: Some(Previous { log, end: 20_000 }),
        };
        let mut bytes = seal(&head);
        assert_eq!(unseal(&bytes), Ok(head));
        for bit in 0..bytes.len() * 8 {
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(unseal::<Head>(&bytes), Err(FormatFault::Damaged), "{bit}");
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
        for length in 0..bytes.len() {
            assert_eq!(unseal::<Head>(&bytes[..length]), Err(FormatFault::Damaged));
        }
    }

    #[test]
    fn a_newer_version_is_distinguished_from_damage() {
        let mut bytes = seal(&state());
        bytes[8] = 9;
        assert_eq!(unseal::<LogExtent>(&bytes), Err(FormatFault::Damaged));
        let end = bytes.len() - 8;
        let checksum = xxh3_64(&bytes[..end]).to_le_bytes();
        bytes[end..].copy_from_slice(&checksum);
        assert_eq!(unseal::<LogExtent>(&bytes), Err(FormatFault::Newer(9)));
    }

    #[test]
    fn the_largest_head_has_room() {
        let log = LogId(*b"abcd1234");
        let head = Head {
            log,
            number: u64::MAX,
            salt: u64::MAX,
            planned: u64::MAX,
            before: LogExtent {
                sequence: u64::MAX,
                records: u64::MAX,
                ends: vec![Offset::MAX; 1024],
            },
            previous: Some(Previous { log, end: u64::MAX }),
        };
        assert!(seal(&head).len() as u64 <= HEAD);
    }

    #[test]
    fn a_frame_is_read_as_written_and_any_flipped_bit_is_detected() {
        let salt = 0x0123_4567_89ab_cdef;
        let mut bytes = frame().encode_head(salt);
        let read = |bytes: &[u8]| {
            let len = Frame::head_len_of(bytes, salt, 1000)?;
            Frame::decode_head(bytes.get(..len)?, salt)
        };
        assert_eq!(read(&bytes), Some(frame()));
        for bit in 0..bytes.len() * 8 {
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(read(&bytes), None, "{bit}");
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
        assert_eq!(read(&frame().encode_head(salt + 1)), None, "another salt");
        assert_eq!(Frame::head_len_of(&bytes, salt, 100), None, "no room");
    }

    #[test]
    fn names_of_segments_are_read_strictly() {
        assert_eq!(segment_name(1), "0000000001.segment");
        assert_eq!(segment_number("0000000012.segment"), Some(12));
        assert_eq!(
            segment_number(&segment_name(98_765_432_101)),
            Some(98_765_432_101)
        );
        for other in [
            "1.segment",
            "0000000000.segment",
            "0000000001.segment.bak",
            "000000001x.segment",
            "spare",
        ] {
            assert_eq!(segment_number(other), None, "{other}");
        }
    }
}
