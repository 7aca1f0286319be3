//! The two logs that a store is folded from. The same code reads, checks and writes both; this
//! file has their differences.

use super::halt::Halt;
use crate::event_log::Identity;
use std::fmt;

pub use crate::rows::meta::Source;

impl Source {
    /// The name of the thread that follows the log with the others.
    pub(super) fn projector(self) -> &'static str {
        match self {
            Source::Events => "projector",
            Source::Control => "control-log",
        }
    }

    pub(super) fn worker(self, number: usize) -> String {
        match self {
            Source::Events => format!("worker-{number}"),
            Source::Control => "control-worker".into(),
        }
    }

    pub(super) fn intake(self, number: usize) -> String {
        match self {
            Source::Events => format!("intake-{number}"),
            Source::Control => "control-intake".into(),
        }
    }

    pub(super) fn watchdog(self) -> &'static str {
        match self {
            Source::Events => "log-watchdog",
            Source::Control => "control-watch",
        }
    }

    pub(super) fn other_log(self, stored: &Identity, found: &Identity) -> Halt {
        let (stored, found) = (stored.to_string(), found.to_string());
        match self {
            Source::Events => Halt::OtherLog { stored, found },
            Source::Control => Halt::OtherControlLog { stored, found },
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(match self {
            Source::Events => "the event log",
            Source::Control => "the control log",
        })
    }
}
