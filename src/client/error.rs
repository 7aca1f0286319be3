//! What can go wrong between a program and its ledger.

use std::time::Duration;

#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    #[error("not an address of a ledger: {0}")]
    Address(String),
    #[error("cannot connect: {0}")]
    Unreachable(String),
    /// Busy, stopping, or behind: a moment later it may be done.
    #[error("{why}")]
    Unavailable {
        why: String,
        retry_after: Option<Duration>,
    },
    /// The answer ended before its end.
    #[error("the response broke off: {0}")]
    BrokenOff(String),
    #[error("{0}")]
    NotFound(String),
    /// The request is wrong; `code` is that of the error response.
    #[error("the ledger refuses: {why} (code {code})")]
    Refused { code: String, why: String },
    /// A position of another log, or a page that is no longer kept.
    #[error("{0}")]
    Gone(String),
    #[error("the time is over")]
    TimedOut,
    #[error("{0}")]
    Unexpected(String),
}

impl Error {
    /// The same may succeed a moment later.
    pub fn is_transient(&self) -> bool {
        matches!(
            self,
            Error::Unreachable(_) | Error::Unavailable { .. } | Error::BrokenOff(_)
        )
    }
}
