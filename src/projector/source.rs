//! The two logs that a store is folded from. The same code reads, checks and writes both; this
//! file has their differences.

use super::halt::Halt;
use crate::event_log::Identity;
use std::fmt;

pub use crate::rows::meta::Source;

impl Source {
    /// Names of the threads that fold, read and check the log.
    pub(super) fn threads(self) -> [&'static str; 3] {
        match self {
            Source::Events => ["projector", "intake", "log-watchdog"],
            Source::Control => ["control-log", "control-intake", "control-watch"],
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
