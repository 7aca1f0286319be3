//! The two logs that a store is folded from. The same code reads, checks and writes both; this
//! file has their differences.

use super::halt::Halt;
use crate::event_log::Identity;
use std::fmt;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// Events of workers.
    Events,
    /// Records of the ledger and of operators, which do not follow from the events.
    Control,
}

/// Keys of the family `meta` for a log. The last three are followed by a partition.
pub(super) struct SourceRows {
    pub log: &'static [u8],
    pub name: &'static [u8],
    pub position: &'static [u8],
    pub next: &'static [u8],
    pub begins: &'static [u8],
}

impl Source {
    pub(super) fn rows(self) -> SourceRows {
        match self {
            Source::Events => SourceRows {
                log: b"log",
                name: b"log_name",
                position: b"position/",
                next: b"next/",
                begins: b"begins/",
            },
            Source::Control => SourceRows {
                log: b"control",
                name: b"control_name",
                position: b"control/position/",
                next: b"control/next/",
                begins: b"control/begins/",
            },
        }
    }

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
