//! Errors between a program and its ledger.

use std::time::Duration;

#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    #[error("not an address of a ledger: {0}")]
    Address(String),
    #[error("cannot connect: {0}")]
    Unreachable(String),
    /// Busy, stopping or lagging: a retry may succeed.
    #[error("{why}")]
    Unavailable {
        why: String,
        retry_after: Option<Duration>,
    },
    /// The response ended early.
    #[error("the response broke off: {0}")]
    BrokenOff(String),
    #[error("{0}")]
    NotFound(String),
    /// The request is invalid; `code` is the code of the error response.
    #[error("the ledger refuses: {why} (code {code})")]
    Refused { code: String, why: String },
    /// The position belongs to another log, or the page has expired.
    #[error("{0}")]
    Gone(String),
    #[error("the time is over")]
    TimedOut,
    #[error("{0}")]
    Unexpected(String),
}

impl Error {
    /// Whether a retry may succeed.
    pub fn is_transient(&self) -> bool {
        matches!(
            self,
            Error::Unreachable(_) | Error::Unavailable { .. } | Error::BrokenOff(_)
        )
    }
}
