//! The event log: partitions of records, appended durably and read in order. The
//! port; `embedded` keeps it in a folder, `memory` for tests.

pub mod conformance;
pub mod embedded;
pub mod memory;

use crate::wire::position::{LogId, Position, Positions};
use crate::wire::record_v1::{Headers, Record};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

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

/// Told apart by what the publisher must know: did it happen?
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PublishError {
    /// More is waiting than the bound: nothing was stored, come back later.
    #[error("too much is waiting to be stored")]
    Busy,
    /// Nothing was stored.
    #[error("the event log takes nothing: {0}")]
    Rejected(String),
    /// Part of it may be stored. Sending the same again is harmless.
    #[error("the event log did not confirm: {0}")]
    Unknown(String),
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// Try again.
    #[error("the event log cannot be read now: {0}")]
    Unavailable(String),
    /// A record cannot be read, and never will be.
    #[error("the event log is damaged at or behind {at}: {what}")]
    Damaged { at: Position, what: String },
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
    Pin<Box<dyn Future<Output = Result<Vec<Position>, PublishError>> + Send + 'a>>;

/// Obligations of an adapter: offsets of a partition rise and are never given
/// twice; what `publish` returned `Ok` for is durable and will be read, in order,
/// by every reader that begins before it; a record is readable only once it is
/// durable.
pub trait EventLog: Send + Sync {
    /// Which log this is. Positions mean something only together with it.
    fn id(&self) -> LogId;

    /// All records or an error; positions in the order given.
    fn publish(&self, records: Vec<NewRecord>) -> Publishing<'_>;

    /// Reads on behind these positions.
    fn reader(&self, after: &Positions) -> Result<Box<dyn Reader>, ReadError>;

    /// By partition; every partition is named.
    fn bounds(&self) -> Result<BTreeMap<u32, Bounds>, ReadError>;

    /// Why it takes nothing at present, if it does not.
    fn trouble(&self) -> Option<String>;
}

pub trait Reader: Send {
    /// Appends to `into`; nothing if nothing came within the patience.
    fn read(&mut self, limits: &Limits, into: &mut Vec<Logged>) -> Result<(), ReadError>;
}
