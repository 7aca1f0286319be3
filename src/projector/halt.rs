//! Reasons for which the projector halts. Each names the stored value, the value found, and the
//! remedy. Reads continue, and readiness reports the reason.

use crate::event_log::ReadError;
use crate::store;
use crate::wire::anchor::Mark;
use crate::wire::position::{Offset, Partition, Position};

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Halt {
    #[error(
        "the store belongs to the log {stored}, this is the log {found}: point it at its own \
         log, or run `opledger rebuild` to make a new store from this one"
    )]
    OtherLog { stored: String, found: String },
    #[error(
        "partition {partition} ends before offset {end}, the store continues at {next}: the log lost \
         records; restore it, or run `opledger rebuild` to accept what is left"
    )]
    BeyondEnd {
        partition: Partition,
        next: Offset,
        end: Offset,
    },
    #[error(
        "partition {partition} now begins at offset {first}, the store continues at {next}: records in \
         between were never seen; restore them, or run `opledger rebuild`"
    )]
    Gone {
        partition: Partition,
        next: Offset,
        first: Offset,
    },
    #[error(
        "partition {partition} holds another record at offset {offset} than the store has applied \
         (stored {stored}, found {found}): the log was truncated and overwritten; restore \
         it, or run `opledger rebuild` to accept what is there now"
    )]
    OtherRecord {
        partition: Partition,
        offset: Offset,
        stored: Mark,
        found: Mark,
    },
    #[error(
        "partition {partition} has no record at offset {offset}, which the store has applied \
         ({stored}): the log lost or compacted records; restore it, or run `opledger rebuild` \
         to accept what is left"
    )]
    NoRecord {
        partition: Partition,
        offset: Offset,
        stored: Mark,
    },
    #[error(
        "the store knows partition {partition}, the log has {count} partitions: records are \
         missing; restore it, or run `opledger rebuild` to accept what is left"
    )]
    FewerPartitions { partition: Partition, count: usize },
    #[error("{0}")]
    UnfitLog(String),
    #[error(
        "the store was folded by version {stored} of the rules, this program has {known}: run \
         `opledger rebuild`"
    )]
    Fold { stored: u32, known: u32 },
    #[error(
        "the log is damaged at or after {at}: {what}; restore it from a backup, or see `opledger \
         log check`"
    )]
    LogDamaged { at: Position, what: String },
    #[error(
        "the store belongs to the control log {stored}, but this is {found}: restore that one, or run `opledger rebuild`, which \
         holds webhook deliveries that may have been made"
    )]
    OtherControlLog { stored: String, found: String },
    #[error("the control log has a record of the type {0}, of a newer program: upgrade this one")]
    NewerControl(String),
    #[error(transparent)]
    Store(store::Error),
}

impl Halt {
    /// Whether the log is the cause: it is another log, has lost records, or is damaged.
    pub fn is_about_the_log(&self) -> bool {
        match self {
            Halt::OtherLog { .. }
            | Halt::BeyondEnd { .. }
            | Halt::Gone { .. }
            | Halt::OtherRecord { .. }
            | Halt::NoRecord { .. }
            | Halt::FewerPartitions { .. }
            | Halt::UnfitLog(_)
            | Halt::LogDamaged { .. } => true,
            Halt::Fold { .. }
            | Halt::OtherControlLog { .. }
            | Halt::NewerControl(_)
            | Halt::Store(_) => false,
        }
    }

    /// For clients: without paths of the server.
    pub fn for_clients(&self) -> String {
        match self {
            Halt::LogDamaged { at, .. } => {
                format!("the log is damaged at or after {at}, see /readyz")
            }
            Halt::Store(_) => "the store is damaged, see /readyz".into(),
            other => other.to_string(),
        }
    }
}

/// Opening fails permanently, or may succeed later.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error(transparent)]
    Halt(#[from] Halt),
    #[error(transparent)]
    Store(#[from] store::Error),
    /// The log does not respond now.
    #[error("the event log cannot be read now: {0}")]
    Log(String),
}

impl From<ReadError> for OpenError {
    fn from(error: ReadError) -> OpenError {
        match error {
            ReadError::Unavailable(why) => OpenError::Log(why),
            ReadError::Damaged { at, what } => Halt::LogDamaged { at, what }.into(),
            ReadError::Unfit(why) => Halt::UnfitLog(why).into(),
        }
    }
}
