//! Damage of a log: which log, where, the lost records, and the remedy.

use super::scan::LostRecords;
use std::fmt;
use std::io;
use std::path::PathBuf;

/// One of the two logs of a data folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Which {
    Events,
    Control,
}

impl Which {
    /// Its folder in the data folder.
    pub fn folder(self) -> &'static str {
        match self {
            Which::Events => "log",
            Which::Control => "control",
        }
    }

    /// The options that its commands need in addition to `--data`.
    fn flag(self) -> &'static str {
        match self {
            Which::Events => "",
            Which::Control => " --control",
        }
    }
}

impl fmt::Display for Which {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(match self {
            Which::Events => "event log",
            Which::Control => "control log",
        })
    }
}

/// A place of a log that cannot be read, and was or may have been acknowledged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// The name of the file in the log's folder.
    pub file: String,
    /// In bytes from its start.
    pub at: u64,
    pub what: String,
    /// The number of records that cannot be read because of it; `None` if unknown.
    pub records: Option<u64>,
    /// The offsets of these records, as far as known.
    pub lost: Vec<LostRecords>,
    /// The number of records after it, readable or not.
    pub after: Option<u64>,
}

impl Damage {
    /// Damage whose losses are not known yet.
    pub fn new(file: impl Into<String>, at: u64, what: impl Into<String>) -> Damage {
        Damage {
            file: file.into(),
            at,
            what: what.into(),
            records: None,
            lost: Vec::new(),
            after: None,
        }
    }
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let Damage { file, at, what, .. } = self;
        write!(f, "{file}, byte {at}: {what}")?;
        match self.records {
            Some(0) => write!(f, "; no record is lost by it")?,
            Some(records) => write!(f, "; {} cannot be read", counted(records))?,
            None => write!(f, "; an unknown number of records cannot be read")?,
        }
        const SHOWN: usize = 8;
        let shown = self.lost.iter().take(SHOWN);
        let shown: Vec<_> = shown
            .map(|LostRecords { partition, offsets }| {
                let first = offsets.start;
                match offsets.end.previous() {
                    Some(last) if last > first => format!("{partition}:{first} to {last}"),
                    _ => format!("{partition}:{first}"),
                }
            })
            .collect();
        if !shown.is_empty() {
            let more = if self.lost.len() > SHOWN { ", …" } else { "" };
            write!(f, " ({}{more})", shown.join(", "))?;
        }
        match self.after {
            Some(after) => write!(f, "; {} after it", counted(after)),
            None => Ok(()),
        }
    }
}

fn counted(records: u64) -> String {
    match records {
        1 => "1 record".into(),
        many => format!("{many} records"),
    }
}

/// Why a log cannot be opened. No message contains a path; `folder` is for operators.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogOpenError {
    pub which: Which,
    pub folder: PathBuf,
    pub why: Why,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Why {
    /// Acknowledged records cannot be read. Nothing was changed.
    #[error("is damaged: {0}")]
    Damaged(Box<Damage>),
    /// No repair can find out which records were lost. Nothing was changed.
    #[error("is damaged beyond repair: {0}")]
    BeyondRepair(Box<Damage>),
    /// It is still a RocksDB, which cannot be read. Nothing was changed.
    #[error("is in the form of an earlier version, and cannot be read: {0}")]
    OldForm(String),
    #[error("has format {found}, and this program knows {known}: upgrade the program")]
    Newer { found: u32, known: u32 },
    /// A setting does not fit the log.
    #[error("does not fit the settings: {0}")]
    Setting(String),
    #[error("cannot be used: {0}")]
    Disk(String),
}

impl Why {
    pub fn disk(what: &str, error: &io::Error) -> Why {
        Why::Disk(format!("{what}: {error}"))
    }
}

impl fmt::Display for LogOpenError {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "the {} {}", self.which, self.why)
    }
}

impl std::error::Error for LogOpenError {}

impl LogOpenError {
    /// The ways out, for an operator.
    pub fn remedy(&self) -> Option<String> {
        let folder = self.folder.display();
        let data = self.folder.parent().unwrap_or(&self.folder).display();
        let flag = self.which.flag();
        match &self.why {
            Why::Damaged(_) => Some(format!(
                "nothing was changed in {folder}. Restore the file from a backup if you can. \
                 `opledger log check --data {data}{flag}` lists all damage; \
                 `opledger log repair --accept-loss --data {data}{flag}` drops the records that \
                 cannot be read and keeps the damaged files"
            )),
            Why::OldForm(_) | Why::BeyondRepair(_) => Some(format!(
                "nothing was changed in {folder}: restore it from a backup{}",
                match (self.which, &self.why) {
                    (Which::Events, Why::OldForm(_)) =>
                        "; without one, the earlier version can still open it, and drops what it \
                         cannot read",
                    (Which::Events, _) => "",
                    (Which::Control, _) =>
                        ", or move it aside and run `opledger rebuild`, which holds webhook \
                         deliveries that may have been made",
                }
            )),
            Why::Disk(_) => Some(format!("it lies in {folder}")),
            Why::Newer { .. } | Why::Setting(_) => None,
        }
    }
}
