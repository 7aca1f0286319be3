//! How a command can end badly: what is said about it, what to do, and the one
//! place that maps it to an exit status.

use crate::cli::text::clean;
use std::error::Error;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// For `opledger --help`. The numbers are those of [`Failure::exit_status`].
pub const EXIT_STATUSES: &str = "\
Exit status:
    0  done
    1  something unexpected
    2  the command line is wrong, or names a file that cannot be read
    3  not found
    4  refused: the ledger, or a look at the file, says that the input is wrong
    5  unavailable: no connection, too busy, timed out, broken off; try again later
    6  the configuration is invalid
    7  the data folder cannot be used: another process, another format, the disk
    8  halted: the ledger stopped applying its log, and says why
    9  the operation that was waited for failed or was canceled
   10  the address cannot be listened on, for example because its port is taken
  130  interrupted";

/// `Display` tells what was attempted and, where it is in our hands, what went
/// wrong; [`Failure::remedy`] tells what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    #[error("{0}")]
    Unexpected(String),

    #[error("cannot write to the standard output")]
    Output(#[source] io::Error),

    /// Whoever read our output has gone (`| head`). Nobody is told anything.
    #[error("nobody reads the output any more")]
    OutputClosed,

    /// What clap says, as a whole.
    #[error("{0}")]
    CommandLine(String),

    /// What clap cannot see by itself.
    #[error("{0}")]
    Usage(String),

    #[error("cannot read {}", clean(&path.to_string_lossy()))]
    File { path: PathBuf, source: io::Error },

    #[error("{0}")]
    NotFound(String),

    #[error("{0}")]
    Refused(String),

    /// Of a request: in parts it may be taken.
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
        /// The ledger's own wish.
        retry_after: Option<Duration>,
    },

    /// The answer ended before its end.
    #[error("the answer of {url} broke off: {why}")]
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

    /// Of the operation, not of the command.
    #[error("{0}")]
    EndedBadly(String),

    #[error("interrupted")]
    Interrupted,
}

impl Failure {
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

    /// What to do about it, where that does not follow from the message itself.
    pub fn remedy(&self) -> Option<String> {
        match self {
            Failure::Unreachable { .. } => Some(
                "is it running? start it with `opledger serve`, \
                 or say where it is with --url or OPLEDGER_URL"
                    .into(),
            ),
            Failure::Unavailable { retry_after, .. } => Some(match retry_after {
                Some(wait) => format!("try again in {} s", wait.as_secs()),
                None => "try again later".into(),
            }),
            Failure::BrokenOff { .. } => Some("what came is only a part; try again".into()),
            Failure::BadLine { .. } => Some(
                "everything before it that was acknowledged is stored; \
                 correct the line and run the same command again"
                    .into(),
            ),
            Failure::Usage(_) => Some("`opledger help` tells more".into()),
            Failure::Configuration(_) => {
                Some("`opledger config show` tells which settings are in force".into())
            }
            Failure::Listen { source, .. } => Some(
                match source.kind() {
                    ErrorKind::AddrInUse => {
                        "another program listens there, perhaps another ledger: stop it, or \
                         give another address with --listen or server.listen"
                    }
                    ErrorKind::AddrNotAvailable => {
                        "it is no address of this machine: give another one with --listen or \
                         server.listen"
                    }
                    ErrorKind::PermissionDenied => {
                        "ports below 1024 are for privileged programs: give another one with \
                         --listen or server.listen"
                    }
                    _ => "give another address with --listen or server.listen",
                }
                .into(),
            ),
            Failure::Unexpected(_)
            | Failure::Output(_)
            | Failure::OutputClosed
            | Failure::CommandLine(_)
            | Failure::File { .. }
            | Failure::NotFound(_)
            | Failure::Refused(_)
            | Failure::TooLarge(_)
            | Failure::DataFolder(_)
            | Failure::Halted(_)
            | Failure::EndedBadly(_)
            | Failure::Interrupted => None,
        }
    }

    /// The same request may succeed a moment later.
    pub fn is_transient(&self) -> bool {
        matches!(
            self,
            Failure::Unreachable { .. } | Failure::Unavailable { .. } | Failure::BrokenOff { .. }
        )
    }

    /// For people: the message with its causes, and below it what to do.
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
    fn a_report_names_cause_and_remedy() {
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
