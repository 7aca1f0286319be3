//! The anchor of a partition: identifies the last applied record, so that a log with another
//! record at that offset is recognised.

use super::position::Offset;
use super::record::Record;
use super::stored::ANCHOR;
use xxhash_rust::xxh3::Xxh3;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Anchor {
    pub offset: Offset,
    pub mark: Mark,
}

/// Arrival and content of a record, in 16 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark {
    pub arrived_ms: i64,
    pub digest: u64,
}

impl Mark {
    pub fn of(record: &Record) -> Mark {
        let mut digest = Xxh3::new();
        let mut part = |part: Option<&[u8]>| {
            // Lengths keep the parts apart; nothing is not the same as empty.
            let len = part.map_or(u64::MAX, |part| part.len() as u64);
            digest.update(&len.to_le_bytes());
            digest.update(part.unwrap_or_default());
        };
        part(record.key.as_deref());
        for (name, value) in record.headers.iter() {
            part(Some(name.as_bytes()));
            part(value);
        }
        part(record.value.as_deref());
        Mark {
            arrived_ms: record.arrived.as_millis(),
            digest: digest.digest(),
        }
    }
}

impl std::fmt::Display for Mark {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        let Mark { arrived_ms, digest } = self;
        write!(f, "{digest:016x}, arrived {arrived_ms}")
    }
}

impl Anchor {
    pub fn encode(self) -> Vec<u8> {
        let Mark { arrived_ms, digest } = self.mark;
        let mut row = Vec::with_capacity(25);
        row.push(ANCHOR);
        row.extend_from_slice(&self.offset.0.to_be_bytes());
        row.extend_from_slice(&arrived_ms.to_be_bytes());
        row.extend_from_slice(&digest.to_be_bytes());
        row
    }

    pub fn decode(row: &[u8]) -> Option<Anchor> {
        let [ANCHOR, numbers @ ..] = row else {
            return None;
        };
        let (&[offset, arrived, digest], []) = numbers.as_chunks::<8>() else {
            return None;
        };
        Some(Anchor {
            offset: Offset(u64::from_be_bytes(offset)),
            mark: Mark {
                arrived_ms: i64::from_be_bytes(arrived),
                digest: u64::from_be_bytes(digest),
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::Timestamp;
    use crate::wire::record::Headers;
    use bytes::Bytes;

    #[test]
    fn anchors_survive_the_round_trip_and_junk_does_not() {
        let mark = Mark {
            arrived_ms: -1,
            digest: u64::MAX,
        };
        let anchor = Anchor {
            offset: Offset(7),
            mark,
        };
        assert_eq!(Anchor::decode(&anchor.encode()), Some(anchor));
        for len in (0..25).chain(26..40) {
            assert_eq!(Anchor::decode(&vec![ANCHOR; len]), None, "{len}");
        }
        assert_eq!(Anchor::decode(&[1; 25]), None);
    }

    #[test]
    fn an_anchor_distinguishes_records() {
        let record = |key: Option<&'static str>, value: Option<&'static str>, arrived| Record {
            arrived: Timestamp::from_millis(arrived),
            claimed: false,
            key: key.map(Bytes::from),
            headers: Headers::default(),
            value: value.map(Bytes::from),
        };
        let marks = [
            record(Some("a"), Some("b"), 1),
            record(Some("a"), Some("b"), 2),
            record(Some("ab"), Some(""), 1),
            record(Some("ab"), None, 1),
            record(None, Some("ab"), 1),
        ];
        for (i, one) in marks.iter().enumerate() {
            for other in &marks[..i] {
                assert_ne!(Mark::of(one), Mark::of(other));
            }
        }
    }
}
