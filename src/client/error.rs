//! Errors between a program and its ledger.

use std::time::Duration;

#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    #[error("not the address of a ledger: {0}")]
    Address(String),
    #[error("cannot connect to {url}: {why}")]
    Unreachable { url: String, why: String },
    /// Busy, stopping or lagging: a retry may succeed.
    #[error("{why}")]
    Unavailable {
        why: String,
        /// From `Retry-After`.
        retry_after: Option<Duration>,
    },
    /// The response ended early.
    #[error("the response of {url} broke off: {why}")]
    BrokenOff { url: String, why: String },
    #[error("{0}")]
    NotFound(String),
    /// The request is invalid; `code` is the code of the error response.
    #[error("the ledger refuses: {why}")]
    Refused { code: String, why: String },
    /// A request that may be accepted in smaller parts.
    #[error("the ledger refuses: {0}")]
    TooLarge(String),
    /// The position belongs to another log, or the page has expired.
    #[error("the ledger refuses: {0}")]
    Gone(String),
    #[error("timed out")]
    TimedOut,
    #[error("{0}")]
    Unexpected(String),
}

impl Error {
    /// Whether a retry may succeed.
    pub fn is_transient(&self) -> bool {
        matches!(
            self,
            Error::Unreachable { .. } | Error::Unavailable { .. } | Error::BrokenOff { .. }
        )
    }
}

/// For retries: of a client, and of the command line, which has its own errors.
pub trait Transient {
    /// The least pause before a retry; `None` if a retry cannot succeed.
    fn retry_after(&self) -> Option<Duration>;
}

impl Transient for Error {
    fn retry_after(&self) -> Option<Duration> {
        match self {
            Error::Unavailable { retry_after, .. } => Some(retry_after.unwrap_or_default()),
            error => error.is_transient().then_some(Duration::ZERO),
        }
    }
}
