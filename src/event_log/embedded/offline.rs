//! A log in a folder of this machine while no ledger works on it: for the command line.

use super::appender::Appender;
use super::chain::{self, Extent, LogSurvey};
use super::damage::{Damage, LogOpenError, Which, Why};
use super::disk::{Disk, Os};
use super::repair::{self, Repaired};
use super::spare::Ahead;
use super::{Layout, upgrade};
use crate::domain::Timestamp;
use crate::event_log::NewRecord;
use crate::wire::position::{LogId, NextOffsets, Offset, Partition};
use std::path::Path;
use std::sync::Arc;

/// What reading all of a log has shown.
#[derive(Debug)]
pub struct Checked {
    pub id: LogId,
    pub partitions: usize,
    /// By partition, the next offset.
    pub ends: NextOffsets,
    /// In all partitions, with those that cannot be read.
    pub records: u64,
    pub damages: Vec<Damage>,
    /// What an operator may want to know, and need not act on.
    pub notes: Vec<String>,
}

fn failed(path: &Path, which: Which) -> impl Fn(Why) -> LogOpenError {
    let folder = path.to_owned();
    move |why| LogOpenError {
        which,
        folder: folder.clone(),
        why,
    }
}

/// How much there is to read; 0 if that cannot be told.
pub fn total_bytes(path: &Path) -> u64 {
    chain::total_bytes(&Os::existing(path)).unwrap_or(0)
}

/// Reads everything. `read` hears of how many bytes were read.
pub fn check(
    path: &Path,
    which: Which,
    read: &mut dyn FnMut(u64),
) -> Result<Checked, LogOpenError> {
    look(path, Extent::All(read)).map_err(failed(path, which))
}

/// Reads no more than where a log ends. It must be whole there.
pub fn ends(path: &Path, which: Which) -> Result<Checked, LogOpenError> {
    let mut checked = look(path, Extent::End).map_err(failed(path, which))?;
    match checked.damages.pop() {
        None => Ok(checked),
        Some(damage) => Err(failed(path, which)(Why::Damaged(Box::new(damage)))),
    }
}

fn look(path: &Path, extent: Extent) -> Result<Checked, Why> {
    let disk = Os::existing(path);
    let folder = |error| Why::disk("its folder", &error);
    let files = disk.list("").map_err(folder)?;
    let looked = chain::look(&disk, extent)?;
    let Some(look) = looked else {
        if !upgrade::is_old_form(&files) {
            return Err(Why::Disk("it is being upgraded: start the ledger".into()));
        }
        let old = upgrade::open_old(path).map_err(upgrade::unreadable)?;
        let (id, ends) = upgrade::check(&*old)?;
        return Ok(Checked {
            id,
            partitions: ends.len(),
            records: ends.iter().map(|end| end.since(Offset::ZERO)).sum(),
            ends: Partition::all().zip(ends).collect(),
            damages: Vec::new(),
            notes: vec!["an earlier version wrote it: it is upgraded when it is opened".into()],
        });
    };
    Ok(Checked {
        id: look.id,
        partitions: look.state.ends.len(),
        records: look.state.records,
        notes: notes(&look),
        ends: Partition::all().zip(look.state.ends).collect(),
        damages: look.damages,
    })
}

fn notes(look: &LogSurvey) -> Vec<String> {
    let mut notes = Vec::new();
    if look.is_torn && !look.has_unknown_end {
        notes.push(
            "after its end is a write that was cut short and never acknowledged: it is passed over"
                .into(),
        );
    }
    if let Some(doubt) = &look.known.doubt {
        notes.push(format!(
            "{doubt}: it is written anew when the log is opened"
        ));
    }
    notes
}

/// See [`repair::repair`].
pub fn repair(
    path: &Path,
    which: Which,
    read: &mut dyn FnMut(u64),
) -> Result<Option<Repaired>, LogOpenError> {
    let disk = Os::existing(path);
    repair::repair(&disk, read).map_err(failed(path, which))
}

/// Appends one record, durably.
pub fn append(
    path: &Path,
    which: Which,
    record: NewRecord,
    now: Timestamp,
) -> Result<(), LogOpenError> {
    let append = || {
        let disk: Arc<dyn Disk> = Arc::new(Os::existing(path));
        let partitions = chain::look(&*disk, Extent::End)?;
        let partitions = partitions.map_or(1, |look| look.state.ends.len() as u32);
        let layout = Layout::of(which, partitions, Ahead::Never);
        let mut appender = Appender::open(disk, layout)?;
        let appended = appender.append(vec![vec![record]], now);
        let settled = appended.and_then(|_| appender.settle());
        settled.map_err(|error| Why::Disk(error.to_string()))
    };
    append().map_err(failed(path, which))
}
