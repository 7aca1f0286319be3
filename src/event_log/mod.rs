//! The event log: partitions of records, appended durably and read in order. This is the port;
//! `kafka` keeps the log in a Kafka topic, `embedded` in a folder, `memory` for tests.

pub mod conformance;
pub mod embedded;
pub mod kafka;
pub mod memory;

use crate::wire::position::{LastOffsets, LogId, NextOffsets, Offset, Partition, Position, Token};
use crate::wire::record::{Headers, Record};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;
use tokio::sync::oneshot;

/// A record with its position in the log.
#[derive(Debug, Clone, PartialEq)]
pub struct Logged {
    pub at: Position,
    pub record: Record,
}

/// A record that a publisher appends.
#[derive(Debug, Clone)]
pub struct NewRecord {
    /// Decides the partition. The partition does not affect the fold.
    pub operation_id: String,
    pub headers: Headers,
    pub value: Option<Bytes>,
}

impl NewRecord {
    pub fn size(&self) -> usize {
        self.headers.size() + self.value.as_ref().map_or(0, Bytes::len)
    }
}

/// The positions of a publisher's records, in the order given, and their log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Published {
    pub log: LogId,
    pub positions: Vec<Position>,
}

impl Published {
    /// Names all of them.
    pub fn token(&self) -> Token {
        let positions = self.positions.iter();
        Token {
            log: self.log,
            positions: positions.map(|at| (at.partition, at.offset)).collect(),
        }
    }
}

/// Distinguished by what the publisher must know: whether its records may be stored.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PublishError {
    /// The limit on waiting records is reached. Nothing was stored; retry later.
    #[error("too many events wait to be stored")]
    Busy,
    /// Nothing was stored.
    #[error("the event log does not accept writes: {0}")]
    Rejected(String),
    /// Part of it may be stored. Sending the same records again is harmless.
    #[error("the event log did not confirm: {0}")]
    Unknown(String),
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// Retry, after checking that it still is the same log.
    #[error("the event log cannot be read now: {0}")]
    Unavailable(String),
    /// A record can never be read.
    #[error("the log is damaged at or after {at}: {what}")]
    Damaged { at: Position, what: String },
    /// A ledger cannot use the log as it is configured: the reason, and the remedy.
    #[error("{0}")]
    Unfit(String),
}

/// The identity of a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    pub id: LogId,
    /// The name by which its administrators know it, such as a topic and its id.
    pub name: String,
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{} ({})", self.id, self.name)
    }
}

/// The offsets of a partition: `first` is the lowest one that it still has, `end` the next one
/// that it will assign.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Bounds {
    pub first: Offset,
    pub end: Offset,
}

impl Bounds {
    /// Whether a record may be at this offset.
    pub fn hold(&self, offset: Offset) -> bool {
        (self.first..self.end).contains(&offset)
    }
}

/// The partitions that one of several readers reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Share {
    /// The reader's number, from 0.
    pub index: usize,
    /// The number of readers.
    pub of: usize,
}

impl Share {
    /// Of a single reader.
    pub const ALL: Share = Share { index: 0, of: 1 };

    /// Whether the reader reads this partition. Each partition, also one that is added later, has
    /// exactly one reader.
    pub fn has(self, partition: Partition) -> bool {
        partition.index() % self.of == self.index
    }
}

/// Limits of one read. At least one record is delivered, however large; an adapter may exceed a
/// limit by the records that it stores as a unit.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    pub records: usize,
    pub bytes: usize,
    /// How long to wait for the first record.
    pub patience: Duration,
}

pub type Publishing<'a> =
    Pin<Box<dyn Future<Output = Result<Published, PublishError>> + Send + 'a>>;

/// Obligations of an adapter: offsets of a partition rise and are never assigned twice. Records for
/// which `publish` returned `Ok` are durable, and every reader of their partition that starts before
/// them reads them, in order. A record is readable only once it is durable.
pub trait EventLog: Send + Sync {
    /// The log's identity at the last check; `None` before the first. Positions are valid only
    /// together with it.
    fn id(&self) -> Option<LogId>;

    /// Checks the log's identity, the offsets of its partitions, and whether a ledger can use it.
    /// May wait for the network.
    fn identify(&self) -> Result<Identity, ReadError>;

    /// Appends all records or returns an error; positions in the order given.
    fn publish(&self, records: Vec<NewRecord>) -> Publishing<'_>;

    /// A reader of a share of the partitions, from these offsets. A partition without an offset,
    /// or at 0, is read from its beginning.
    fn reader(
        &self,
        log: LogId,
        from: &NextOffsets,
        share: Share,
    ) -> Result<Box<dyn Reader>, ReadError>;

    /// By partition, from the last check (at most a few seconds old) or from `identify`. A
    /// partition that does not respond may be missing.
    fn bounds(&self) -> Result<BTreeMap<Partition, Bounds>, ReadError>;

    /// The number of partitions at the same check.
    fn partitions(&self) -> Result<usize, ReadError> {
        Ok(self.bounds()?.len())
    }

    /// By partition, the offset after the last record that a reader can get now.
    fn readable(&self) -> Result<NextOffsets, ReadError> {
        let bounds = self.bounds()?.into_iter();
        Ok(bounds.map(|(p, bounds)| (p, bounds.end)).collect())
    }

    /// The records at these positions; records that no longer exist are left out.
    fn records_at(&self, at: &LastOffsets) -> Result<BTreeMap<Partition, Record>, ReadError>;

    /// Why the log does not accept writes; `None` if it does.
    fn trouble(&self) -> Option<String>;

    /// The largest record that the log accepts, in bytes, if it has its own limit.
    fn max_record(&self) -> Option<usize> {
        None
    }

    /// Publishes how far the records are applied, for monitoring only; never read back.
    fn note_applied(&self, _next: &NextOffsets) {}
}

pub trait Reader: Send {
    /// Appends records to `into`; none if none arrived within the patience.
    fn read(&mut self, limits: &Limits, into: &mut Vec<Logged>) -> Result<(), ReadError>;

    /// Starts to check that everything read so far is from the log that the reader was opened
    /// on. None of it may be written before the result.
    fn confirm(&mut self) -> Confirmation {
        Confirmation::given()
    }

    /// By partition of its share, the next offset: everything before it was delivered or is not a record. If
    /// offsets have gaps, only this is the reader's true position.
    fn next(&self) -> NextOffsets;
}

/// The pending result of a check.
pub struct Confirmation(Option<oneshot::Receiver<Result<(), ReadError>>>);

impl Confirmation {
    /// A check that has succeeded.
    pub fn given() -> Confirmation {
        Confirmation(None)
    }

    pub fn coming(result: oneshot::Receiver<Result<(), ReadError>>) -> Confirmation {
        Confirmation(Some(result))
    }

    pub fn wait(self) -> Result<(), ReadError> {
        // Not the channel's blocking receive, which panics on a runtime's thread, where the
        // command line calls this. The result never depends on that runtime.
        match self.0.map(futures_executor::block_on) {
            None => Ok(()),
            Some(Ok(result)) => result,
            Some(Err(_)) => Err(ReadError::Unavailable("the log was closed".into())),
        }
    }
}

/// Where invalid records are copied, so that the log's own tools find them. A copy may be sent
/// several times; each names its record.
pub trait DeadLetters: Send + Sync {
    /// Starts to send the unchanged record with its position and the reason; the returned value
    /// waits for the outcome.
    fn send(&self, at: Position, reason: &str, detail: &str, record: &Record) -> Sending;
}

pub type Sending = Box<dyn FnOnce() -> Result<(), SendError>>;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// It will never be accepted.
    #[error("refused: {0}")]
    Refused(String),
    /// Retry.
    #[error("not accepted now: {0}")]
    Unavailable(String),
}
