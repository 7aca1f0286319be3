//! A record of the log, and how the embedded log, the history and the dead
//! letters keep it: postcard behind a version byte. Version 2 has the fields of
//! version 1, and says by its number that the arrival is the producer's claim.
//! Version 3 is a chunk of the history: several records with their positions.

use super::cloudevent::{CONTENT_TYPE, STRUCTURED};
use super::packed;
use super::position::Position;
use super::snapshot::Unreadable;
use crate::domain::Timestamp;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::borrow::Cow;

const ARRIVAL_BY_LOG: u8 = 1;
const ARRIVAL_CLAIMED: u8 = 2;
const CHUNK: u8 = 3;

/// Bytes as they lie in a log, without their position.
#[derive(Debug, Clone, PartialEq)]
pub struct Record {
    /// When the log took it, to the millisecond. Before 1970 where nobody said: see
    /// [`Record::arrival`].
    pub arrived: Timestamp,
    /// The log keeps no time of its own: `arrived` is what the producer said.
    pub claimed: bool,
    pub key: Option<Bytes>,
    pub headers: Headers,
    pub value: Option<Bytes>,
}

impl Record {
    /// For one whose arrival nobody knows. No log keeps an earlier one than 1970.
    pub const NO_ARRIVAL: Timestamp = Timestamp::from_millis(-1);

    /// When the log took it, if that is known.
    pub fn arrival(&self) -> Option<Timestamp> {
        (self.arrived.secs >= 0).then_some(self.arrived)
    }

    /// What it weighs against bounds on bytes.
    pub fn size(&self) -> usize {
        let headers = self.headers.iter();
        let headers: usize = headers
            .map(|(n, v)| n.len() + v.map_or(0, <[u8]>::len))
            .sum();
        self.value.as_ref().map_or(0, Bytes::len) + headers
    }
}

/// In the order of the record. A name may occur twice, a value be missing.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Headers(pub Vec<(Cow<'static, str>, Option<Bytes>)>);

impl Headers {
    /// The values of all headers of that name, compared without case.
    pub fn all(&self, name: &str) -> impl Iterator<Item = Option<&[u8]>> {
        self.iter()
            .filter(move |(given, _)| given.eq_ignore_ascii_case(name))
            .map(|(_, value)| value)
    }

    /// They say no more than that the value is one event.
    pub fn are_of_an_event(&self) -> bool {
        let [(name, Some(value))] = self.0.as_slice() else {
            return false;
        };
        name == CONTENT_TYPE && value == STRUCTURED.as_bytes()
    }

    pub fn iter(&self) -> impl Iterator<Item = (&str, Option<&[u8]>)> {
        self.0
            .iter()
            .map(|(name, value)| (&**name, value.as_deref()))
    }
}

#[derive(Serialize, Deserialize)]
struct RecordV1<'a> {
    arrived_ms: i64,
    #[serde(borrow)]
    key: Option<&'a serde_bytes::Bytes>,
    #[serde(borrow)]
    headers: Vec<(&'a str, Option<&'a serde_bytes::Bytes>)>,
    #[serde(borrow)]
    value: Option<&'a serde_bytes::Bytes>,
}

impl<'a> RecordV1<'a> {
    fn of(record: &'a Record) -> RecordV1<'a> {
        let bytes = serde_bytes::Bytes::new;
        RecordV1 {
            arrived_ms: record.arrived.as_millis(),
            key: record.key.as_deref().map(bytes),
            headers: record
                .headers
                .iter()
                .map(|(n, v)| (n, v.map(bytes)))
                .collect(),
            value: record.value.as_deref().map(bytes),
        }
    }

    /// A record whose bytes share the row's.
    fn own(self, claimed: bool, row: &Bytes) -> Record {
        let share = |part: &'a serde_bytes::Bytes| row.slice_ref(part);
        Record {
            arrived: Timestamp::from_millis(self.arrived_ms),
            claimed,
            key: self.key.map(share),
            headers: Headers(
                self.headers
                    .into_iter()
                    .map(|(name, value)| (Cow::Owned(name.to_owned()), value.map(share)))
                    .collect(),
            ),
            value: self.value.map(share),
        }
    }
}

pub fn encode(record: &Record) -> Vec<u8> {
    packed::append(&RecordV1::of(record), vec![version(record)])
}

pub fn decode(row: &Bytes) -> Result<Record, Unreadable> {
    let (claimed, body) = body(row)?;
    let stored: RecordV1 = postcard::from_bytes(body).map_err(|_| Unreadable::Damaged)?;
    Ok(stored.own(claimed, row))
}

/// Appends a row of the history: events of one operation, in the order of their keys. Its
/// end is returned beside it: a copy less of what may be large.
pub fn append_history<'r>(
    events: impl ExactSizeIterator<Item = (Position, &'r Record)>,
    mut row: Vec<u8>,
) -> (Vec<u8>, &'r [u8]) {
    let count = events.len();
    if count != 1 {
        row.push(CHUNK);
        packed::varint(count as u64, &mut row);
    }
    let mut value: &[u8] = &[];
    for (at, record) in events {
        row.extend_from_slice(value);
        if count == 1 {
            row.push(version(record));
        } else {
            row.push(u8::from(record.claimed));
            packed::varint(at.partition.into(), &mut row);
            packed::varint(at.offset, &mut row);
        }
        row = append_event(record, row);
        value = record.value.as_deref().unwrap_or_default();
    }
    (row, value)
}

/// As postcard writes `RecordV1`, without what says no more than the event does: the key, and
/// a header that says that it is one. Up to the value.
fn append_event(record: &Record, mut row: Vec<u8>) -> Vec<u8> {
    packed::zigzag(record.arrived.as_millis(), &mut row);
    row.push(0);
    if record.headers.are_of_an_event() {
        row.push(0);
    } else {
        row = packed::append(&RecordV1::of(record).headers, row);
    }
    packed::option(record.value.as_ref(), &mut row, |value, row| {
        packed::varint(value.len() as u64, row);
    });
    row
}

/// `at` is the position in the row's key.
pub fn decode_history(row: &Bytes, at: Position) -> Result<Vec<(Position, Record)>, Unreadable> {
    let Some((&CHUNK, body)) = row.split_first() else {
        return Ok(vec![(at, decode(row)?)]);
    };
    let (count, mut rest) = take::<u64>(body)?;
    let mut records = Vec::with_capacity(count.min(1000) as usize);
    for _ in 0..count {
        let ((place, stored), after) = take::<((bool, u32, u64), RecordV1)>(rest)?;
        let (claimed, partition, offset) = place;
        records.push((Position { partition, offset }, stored.own(claimed, row)));
        rest = after;
    }
    match rest.is_empty() {
        true => Ok(records),
        false => Err(Unreadable::Damaged),
    }
}

fn version(record: &Record) -> u8 {
    if record.claimed {
        ARRIVAL_CLAIMED
    } else {
        ARRIVAL_BY_LOG
    }
}

/// Consecutive records of one partition in one row of the embedded log, which
/// keeps their arrival itself.
pub fn encode_block<'a>(records: impl ExactSizeIterator<Item = &'a Record>) -> Vec<u8> {
    append_block(records, Vec::new())
}

pub fn append_block<'a>(
    records: impl ExactSizeIterator<Item = &'a Record>,
    mut row: Vec<u8>,
) -> Vec<u8> {
    let count = records.len() as u64;
    row.push(ARRIVAL_BY_LOG);
    records.fold(packed::append(&count, row), |row, record| {
        packed::append(&RecordV1::of(record), row)
    })
}

pub fn decode_block(row: &Bytes) -> Result<Vec<Record>, Unreadable> {
    let (claimed, rest) = body(row)?;
    let (count, mut rest) = take::<u64>(rest)?;
    let mut records = Vec::with_capacity(count.min(100_000) as usize);
    for _ in 0..count {
        let (stored, after) = take::<RecordV1>(rest)?;
        records.push(stored.own(claimed, row));
        rest = after;
    }
    if rest.is_empty() {
        Ok(records)
    } else {
        Err(Unreadable::Damaged)
    }
}

/// How many records a block holds, without reading them.
pub fn block_len(row: &[u8]) -> Result<u64, Unreadable> {
    Ok(take::<u64>(body(row)?.1)?.0)
}

/// A dead letter: why, and the record whole.
pub fn encode_dead_letter(reason: &str, detail: &str, record: &Record) -> Vec<u8> {
    let row = vec![version(record)];
    packed::append(&(reason, detail, RecordV1::of(record)), row)
}

pub fn decode_dead_letter(row: &Bytes) -> Result<(&str, &str, Record), Unreadable> {
    let (claimed, rest) = body(row)?;
    let ((reason, detail, stored), _) = take::<(&str, &str, RecordV1)>(rest)?;
    Ok((reason, detail, stored.own(claimed, row)))
}

fn take<'a, T: Deserialize<'a>>(input: &'a [u8]) -> Result<(T, &'a [u8]), Unreadable> {
    postcard::take_from_bytes(input).map_err(|_| Unreadable::Damaged)
}

/// Whether the arrival is a claim, and what stands behind the version.
fn body(row: &[u8]) -> Result<(bool, &[u8]), Unreadable> {
    match row.split_first() {
        Some((&ARRIVAL_BY_LOG, rest)) => Ok((false, rest)),
        Some((&ARRIVAL_CLAIMED, rest)) => Ok((true, rest)),
        Some((&other, _)) if other > CHUNK => Err(Unreadable::Version(other)),
        _ => Err(Unreadable::Damaged),
    }
}
