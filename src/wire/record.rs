//! A record of the log, and how the history and the dead letters keep it: postcard after
//! a byte that also says who set the time of its arrival. A row of the history may contain
//! several records, with their positions.

use super::cloudevent::{CONTENT_TYPE, STRUCTURED};
use super::packed;
use super::position::{Offset, Partition, Position};
use super::stored::{
    self, DEAD_LETTER, DEAD_LETTER_OF_PRODUCER_TIME, RECORD, RECORD_OF_PRODUCER_TIME, RECORDS,
    Unreadable,
};
use crate::domain::Timestamp;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::borrow::Cow;

/// A record of a log, without its position.
#[derive(Debug, Clone, PartialEq)]
pub struct Record {
    /// When the log accepted it, to the millisecond. Before 1970 if unknown: see
    /// [`Record::arrival`].
    pub arrived: Timestamp,
    /// The log records no time: `arrived` is the producer's timestamp.
    pub claimed: bool,
    pub key: Option<Bytes>,
    pub headers: Headers,
    pub value: Option<Bytes>,
}

impl Record {
    /// The arrival of a record without one. No log has an arrival before 1970.
    pub const NO_ARRIVAL: Timestamp = Timestamp::from_millis(-1);

    /// When the log took it, if that is known.
    pub fn arrival(&self) -> Option<Timestamp> {
        (self.arrived.secs >= 0).then_some(self.arrived)
    }

    /// Its size for limits on bytes.
    pub fn size(&self) -> usize {
        self.headers.size() + self.value.as_ref().map_or(0, Bytes::len)
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

    /// Whether the headers say only that the value is one event.
    pub fn are_of_an_event(&self) -> bool {
        let [(name, Some(value))] = self.0.as_slice() else {
            return false;
        };
        name == CONTENT_TYPE && value == STRUCTURED.as_bytes()
    }

    /// In bytes.
    pub fn size(&self) -> usize {
        self.iter()
            .map(|(name, value)| name.len() + value.map_or(0, <[u8]>::len))
            .sum()
    }

    pub fn iter(&self) -> impl Iterator<Item = (&str, Option<&[u8]>)> {
        self.0
            .iter()
            .map(|(name, value)| (&**name, value.as_deref()))
    }
}

/// In logs as well (`block`): never changed.
#[derive(Serialize, Deserialize)]
pub(super) struct RecordRow<'a> {
    arrived_ms: i64,
    #[serde(borrow)]
    key: Option<&'a serde_bytes::Bytes>,
    #[serde(borrow)]
    headers: Vec<(&'a str, Option<&'a serde_bytes::Bytes>)>,
    #[serde(borrow)]
    value: Option<&'a serde_bytes::Bytes>,
}

impl<'a> RecordRow<'a> {
    pub(super) fn of(record: &'a Record) -> RecordRow<'a> {
        let bytes = serde_bytes::Bytes::new;
        RecordRow {
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
    pub(super) fn own(self, claimed: bool, row: &Bytes) -> Record {
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
    packed::append(&RecordRow::of(record), vec![encoding(record)])
}

pub fn decode(row: &Bytes) -> Result<Record, Unreadable> {
    let (claimed, body) = body([RECORD, RECORD_OF_PRODUCER_TIME], row)?;
    let stored: RecordRow = postcard::from_bytes(body).map_err(|_| Unreadable::Damaged)?;
    Ok(stored.own(claimed, row))
}

/// Appends a row of the history: events of one operation, in the order of their keys. Returns its
/// end separately, which saves a copy of data that may be large.
pub fn append_history<'r>(
    events: impl ExactSizeIterator<Item = (Position, &'r Record)>,
    mut row: Vec<u8>,
) -> (Vec<u8>, &'r [u8]) {
    let count = events.len();
    if count != 1 {
        row.push(RECORDS);
        packed::varint(count as u64, &mut row);
    }
    let mut value: &[u8] = &[];
    for (at, record) in events {
        row.extend_from_slice(value);
        if count == 1 {
            row.push(encoding(record));
        } else {
            row.push(u8::from(record.claimed));
            packed::varint(at.partition.0.into(), &mut row);
            packed::varint(at.offset.0, &mut row);
        }
        row = append_event(record, row);
        value = record.value.as_deref().unwrap_or_default();
    }
    (row, value)
}

/// As postcard writes `RecordRow`, up to the value. Omits the key and the header of the content
/// type, which follow from the event.
fn append_event(record: &Record, mut row: Vec<u8>) -> Vec<u8> {
    packed::zigzag(record.arrived.as_millis(), &mut row);
    row.push(0);
    if record.headers.are_of_an_event() {
        row.push(0);
    } else {
        row = packed::append(&RecordRow::of(record).headers, row);
    }
    packed::option(record.value.as_ref(), &mut row, |value, row| {
        packed::varint(value.len() as u64, row);
    });
    row
}

/// `at` is the position in the row's key.
pub fn decode_history(row: &Bytes, at: Position) -> Result<Vec<(Position, Record)>, Unreadable> {
    let Some((&RECORDS, body)) = row.split_first() else {
        return Ok(vec![(at, decode(row)?)]);
    };
    let (count, mut rest) = take::<u64>(body)?;
    let mut records = Vec::with_capacity(count.min(1000) as usize);
    for _ in 0..count {
        let ((place, stored), after) = take::<((bool, Partition, Offset), RecordRow)>(rest)?;
        let (claimed, partition, offset) = place;
        records.push((Position { partition, offset }, stored.own(claimed, row)));
        rest = after;
    }
    match rest.is_empty() {
        true => Ok(records),
        false => Err(Unreadable::Damaged),
    }
}

fn encoding(record: &Record) -> u8 {
    match record.claimed {
        true => RECORD_OF_PRODUCER_TIME,
        false => RECORD,
    }
}

/// A dead letter: why, and the record whole.
pub fn encode_dead_letter(reason: &str, detail: &str, record: &Record) -> Vec<u8> {
    let row = vec![match record.claimed {
        true => DEAD_LETTER_OF_PRODUCER_TIME,
        false => DEAD_LETTER,
    }];
    packed::append(&(reason, detail, RecordRow::of(record)), row)
}

pub fn decode_dead_letter(row: &Bytes) -> Result<(&str, &str, Record), Unreadable> {
    let (claimed, rest) = body([DEAD_LETTER, DEAD_LETTER_OF_PRODUCER_TIME], row)?;
    let ((reason, detail, stored), _) = take::<(&str, &str, RecordRow)>(rest)?;
    Ok((reason, detail, stored.own(claimed, row)))
}

pub(super) fn take<'a, T: Deserialize<'a>>(input: &'a [u8]) -> Result<(T, &'a [u8]), Unreadable> {
    postcard::take_from_bytes(input).map_err(|_| Unreadable::Damaged)
}

/// Whether the arrival is the producer's timestamp, and the rest of the row after the byte that
/// says so.
fn body([by_log, by_producer]: [u8; 2], row: &[u8]) -> Result<(bool, &[u8]), Unreadable> {
    let claimed = row.first() == Some(&by_producer);
    let encoding = if claimed { by_producer } else { by_log };
    Ok((claimed, stored::body(encoding, row)?))
}
