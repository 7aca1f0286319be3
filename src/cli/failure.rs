//! The failures of commands: the message, the remedy, and the one place that maps them to exit
//! statuses.

use crate::cli::text::clean;
use crate::client::Transient;
use std::error::Error;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// For `opledger --help`. The numbers are those of [`Failure::exit_status`].
pub const EXIT_STATUSES: &str = "\
Exit status:
    0  done
    1  unexpected error
    2  wrong command line, or a file on it cannot be read
    3  not found
    4  refused: the input is invalid
    5  unavailable: no connection, too busy, timed out, or the response broke off; retry later
    6  the configuration is invalid
    7  the data folder cannot be used: another process, another format, the disk
    8  halted: the ledger stopped applying its log for the reason that it prints
    9  `wait`: the operation failed or was canceled
   10  cannot listen on the address, for example because its port is in use
  130  interrupted";

/// `Display` says what failed and why; [`Failure::remedy`] says what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    #[error("{0}")]
    Unexpected(String),

    #[error("cannot write to standard output")]
    Output(#[source] io::Error),

    /// The reader of the output has closed the pipe (`| head`). Not reported.
    #[error("the reader of the output has closed the pipe")]
    OutputClosed,

    /// clap's own message, whole.
    #[error("{0}")]
    CommandLine(String),

    /// An error of the command line that clap cannot find.
    #[error("{0}")]
    Usage(String),

    #[error("cannot read {}", clean(&path.to_string_lossy()))]
    File { path: PathBuf, source: io::Error },

    #[error("{0}")]
    NotFound(String),

    #[error("{0}")]
    Refused(String),

    /// A request that may be accepted in smaller parts.
    #[error("{0}")]
    TooLarge(String),

    #[error("{file}, line {line}: {why}")]
    BadLine {
        file: String,
        line: u64,
        why: String,
    },

    #[error("cannot connect to {url}: {why}")]
    Unreachable { url: String, why: String },

    #[error("{why}")]
    Unavailable {
        why: String,
        /// From `Retry-After`.
        retry_after: Option<Duration>,
    },

    /// The response ended early.
    #[error("the response of {url} broke off: {why}")]
    BrokenOff { url: String, why: String },

    /// All that is wrong with it, one problem a line.
    #[error("{0}")]
    Configuration(String),

    #[error("cannot listen on {address}")]
    Listen {
        address: SocketAddr,
        source: io::Error,
    },

    #[error("{0}")]
    DataFolder(String),

    #[error("{0}")]
    Halted(String),

    /// `wait`: the operation failed or was canceled.
    #[error("{0}")]
    EndedBadly(String),

    #[error("interrupted")]
    Interrupted,
}

impl Failure {
    pub fn unavailable(why: String) -> Failure {
        Failure::Unavailable {
            why,
            retry_after: None,
        }
    }

    /// The only mapping from an outcome to an exit status.
    pub fn exit_status(&self) -> u8 {
        match self {
            Failure::OutputClosed => 0,
            Failure::Unexpected(_) | Failure::Output(_) => 1,
            Failure::CommandLine(_) | Failure::Usage(_) | Failure::File { .. } => 2,
            Failure::NotFound(_) => 3,
            Failure::Refused(_) | Failure::TooLarge(_) | Failure::BadLine { .. } => 4,
            Failure::Unreachable { .. }
            | Failure::Unavailable { .. }
            | Failure::BrokenOff { .. } => 5,
            Failure::Configuration(_) => 6,
            Failure::DataFolder(_) => 7,
            Failure::Halted(_) => 8,
            Failure::EndedBadly(_) => 9,
            Failure::Listen { .. } => 10,
            Failure::Interrupted => 130,
        }
    }

    /// The remedy, unless it follows from the message.
    pub fn remedy(&self) -> Option<String> {
        match self {
            Failure::Unreachable { .. } => Some(
                "start a ledger with `opledger serve`, \
                 or give its address with --url or OPLEDGER_URL"
                    .into(),
            ),
            Failure::Unavailable { retry_after, .. } => Some(match retry_after {
                Some(wait) => format!("try again in {} s", wait.as_secs()),
                None => "try again later".into(),
            }),
            Failure::BrokenOff { .. } => Some("the output is incomplete; try again".into()),
            Failure::BadLine { .. } => Some(
                "acknowledged events before it are stored; \
                 correct the line and run the same command again"
                    .into(),
            ),
            Failure::Usage(_) => Some("see `opledger help`".into()),
            Failure::Configuration(_) => {
                Some("`opledger config show` prints the effective settings".into())
            }
            Failure::Listen { source, .. } => Some(
                match source.kind() {
                    ErrorKind::AddrInUse => {
                        "another program listens there, perhaps another ledger: stop it, or \
                         set another address with --listen or server.listen"
                    }
                    ErrorKind::AddrNotAvailable => {
                        "this machine does not have the address: set another one with --listen or \
                         server.listen"
                    }
                    ErrorKind::PermissionDenied => {
                        "ports below 1024 need privileges: set another one with \
                         --listen or server.listen"
                    }
                    _ => "set another address with --listen or server.listen",
                }
                .into(),
            ),
            _ => None,
        }
    }

    /// The message with its causes, and the remedy on a separate line.
    pub fn report(&self) -> String {
        let mut text = self.to_string();
        let mut cause = self.source();
        while let Some(error) = cause {
            text.push_str(&format!(": {error}"));
            cause = error.source();
        }
        if let Some(remedy) = self.remedy() {
            text.push_str(&format!("\n  {remedy}"));
        }
        text
    }
}

impl Transient for Failure {
    fn retry_after(&self) -> Option<Duration> {
        match self {
            Failure::Unavailable { retry_after, .. } => Some(retry_after.unwrap_or_default()),
            Failure::Unreachable { .. } | Failure::BrokenOff { .. } => Some(Duration::ZERO),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_help_lists_every_exit_status() {
        for status in [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 130] {
            let row = format!("\n{status:>5}  ");
            assert!(EXIT_STATUSES.contains(&row), "{status}");
        }
    }

    #[test]
    fn an_error_report_has_cause_and_remedy() {
        let failure = Failure::File {
            path: "events.jsonl".into(),
            source: io::Error::from(io::ErrorKind::PermissionDenied),
        };
        assert_eq!(
            failure.report(),
            "cannot read events.jsonl: permission denied"
        );
        let failure = Failure::Listen {
            address: ([127, 0, 0, 1], 8470).into(),
            source: io::Error::from(ErrorKind::AddrInUse),
        };
        let report = failure.report();
        assert!(
            report.starts_with("cannot listen on 127.0.0.1:8470: "),
            "{report}"
        );
        assert!(
            report.contains("\n  another program listens there"),
            "{report}"
        );
        let failure = Failure::Unavailable {
            why: "too busy".into(),
            retry_after: Some(Duration::from_secs(3)),
        };
        assert_eq!(failure.report(), "too busy\n  try again in 3 s");
    }
}
