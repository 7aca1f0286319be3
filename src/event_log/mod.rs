//! The event log: partitions of records, appended durably and read in order. The
//! port; `kafka` keeps it on a Kafka topic, `embedded` in a folder, `memory` for
//! tests.

pub mod conformance;
pub mod embedded;
pub mod kafka;
pub mod memory;

use crate::wire::position::{LastOffsets, LogId, NextOffsets, Position};
use crate::wire::record::{Headers, Record};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;
use tokio::sync::oneshot;

/// A record with its place in the log.
#[derive(Debug, Clone, PartialEq)]
pub struct Logged {
    pub at: Position,
    pub record: Record,
}

/// What a publisher hands over.
#[derive(Debug, Clone)]
pub struct NewRecord {
    /// Decides the partition. Where a record lies has no meaning for the fold.
    pub operation_id: String,
    pub headers: Headers,
    pub value: Option<Bytes>,
}

impl NewRecord {
    pub fn size(&self) -> usize {
        let headers = self.headers.iter();
        let headers: usize = headers
            .map(|(n, v)| n.len() + v.map_or(0, <[u8]>::len))
            .sum();
        self.value.as_ref().map_or(0, Bytes::len) + headers
    }
}

/// Where a publisher's records are, in the order given, and in which log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Published {
    pub log: LogId,
    pub positions: Vec<Position>,
}

/// Told apart by what the publisher must know: did it happen?
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PublishError {
    /// More is waiting than the bound: nothing was stored, come back later.
    #[error("too many events wait to be stored")]
    Busy,
    /// Nothing was stored.
    #[error("the event log does not accept writes: {0}")]
    Rejected(String),
    /// Part of it may be stored. Sending the same again is harmless.
    #[error("the event log did not confirm: {0}")]
    Unknown(String),
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// Try again, after looking whether it still is the same log.
    #[error("the event log cannot be read now: {0}")]
    Unavailable(String),
    /// A record cannot be read, and never will be.
    #[error("the log is damaged at or after {at}: {what}")]
    Damaged { at: Position, what: String },
    /// It cannot be a ledger's log as it is set up: what is wrong, and the remedy.
    #[error("{0}")]
    Unfit(String),
}

/// Which log this is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    pub id: LogId,
    /// What its own administrators know it by, such as a topic and its id.
    pub name: String,
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{} ({})", self.id, self.name)
    }
}

/// What a partition holds: `first` is the lowest offset kept, `end` the next one
/// to be given out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Bounds {
    pub first: u64,
    pub end: u64,
}

/// Bounds on one stretch of the log. At least one record is delivered however
/// large it is; an adapter may overshoot by what it stores as a unit.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    pub records: usize,
    pub bytes: usize,
    /// How long to wait for the first record.
    pub patience: Duration,
}

pub type Publishing<'a> =
    Pin<Box<dyn Future<Output = Result<Published, PublishError>> + Send + 'a>>;

/// Obligations of an adapter: offsets of a partition rise and are never given
/// twice; what `publish` returned `Ok` for is durable and will be read, in order,
/// by every reader that begins before it; a record is readable only once it is
/// durable.
pub trait EventLog: Send + Sync {
    /// Which log this was when it was last looked at; `None` before. Positions mean
    /// something only together with it.
    fn id(&self) -> Option<LogId>;

    /// Looks anew which log this is and what its partitions hold, and whether it is
    /// fit to be a ledger's. May wait for the network.
    fn identify(&self) -> Result<Identity, ReadError>;

    /// All records or an error; positions in the order given.
    fn publish(&self, records: Vec<NewRecord>) -> Publishing<'_>;

    /// Reads this log from these offsets on. A partition that is not named, or at 0, is
    /// read from its beginning.
    fn reader(&self, log: LogId, from: &NextOffsets) -> Result<Box<dyn Reader>, ReadError>;

    /// By partition. As seen at the last look, which is at most a few seconds old, or
    /// that of `identify`. One that cannot be asked at present may be missing.
    fn bounds(&self) -> Result<BTreeMap<u32, Bounds>, ReadError>;

    /// How many partitions there are, as seen at the same look.
    fn partitions(&self) -> Result<usize, ReadError> {
        Ok(self.bounds()?.len())
    }

    /// By partition, the offset behind what a reader can get at this moment.
    fn readable(&self) -> Result<NextOffsets, ReadError> {
        let bounds = self.bounds()?.into_iter();
        Ok(bounds.map(|(p, bounds)| (p, bounds.end)).collect())
    }

    /// The records at these positions; one that is not there any more is left out.
    fn records_at(&self, at: &LastOffsets) -> Result<BTreeMap<u32, Record>, ReadError>;

    /// Why it takes nothing at present, if it does not.
    fn trouble(&self) -> Option<String>;

    /// Bytes of the largest record that it takes, if it has a bound of its own.
    fn max_record(&self) -> Option<usize> {
        None
    }

    /// Everything before these is applied. For monitoring of the log from outside only;
    /// never read back.
    fn note_applied(&self, _next: &NextOffsets) {}
}

pub trait Reader: Send {
    /// Appends to `into`; nothing if nothing came within the patience.
    fn read(&mut self, limits: &Limits, into: &mut Vec<Logged>) -> Result<(), ReadError>;

    /// Begins to ask whether all that was read is of the log that the reader was
    /// opened on. Nothing of it may be written before the answer.
    fn confirm(&mut self) -> Confirmation {
        Confirmation::given()
    }

    /// By partition, the offset that comes next: all before it was delivered, or is
    /// no record. Where positions have gaps this is how far a reader really is.
    fn next(&self) -> NextOffsets;
}

/// An answer that is still to come.
pub struct Confirmation(Option<oneshot::Receiver<Result<(), ReadError>>>);

impl Confirmation {
    /// There is nothing to ask.
    pub fn given() -> Confirmation {
        Confirmation(None)
    }

    pub fn coming(answer: oneshot::Receiver<Result<(), ReadError>>) -> Confirmation {
        Confirmation(Some(answer))
    }

    pub fn wait(self) -> Result<(), ReadError> {
        // Not the channel's own way to block: that refuses on a runtime's thread, where
        // the command line calls this. The answer never comes from the runtime.
        match self.0.map(futures_executor::block_on) {
            None => Ok(()),
            Some(Ok(answer)) => answer,
            Some(Err(_)) => Err(ReadError::Unavailable("the log was closed".into())),
        }
    }
}

/// Where records that are no events are carried to, so that tools of the log find
/// them as well. Several times, if need be: each says which record it is.
pub trait DeadLetters: Send + Sync {
    /// Begins to send the record as it was, with its place in the log and the reason;
    /// what is returned waits for the outcome.
    fn send(&self, at: Position, reason: &str, detail: &str, record: &Record) -> Sending;
}

pub type Sending = Box<dyn FnOnce() -> Result<(), SendError>>;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// It will never be taken.
    #[error("refused: {0}")]
    Refused(String),
    /// Try again.
    #[error("not accepted now: {0}")]
    Unavailable(String),
}
