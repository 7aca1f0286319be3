//! The commands on a log that no ledger uses.

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

/// The result of a check.
#[derive(Debug)]
pub struct Checked {
    pub id: LogId,
    pub partitions: usize,
    /// By partition, the next offset.
    pub ends: NextOffsets,
    /// In all partitions, including unreadable ones.
    pub records: u64,
    pub damages: Vec<Damage>,
    /// For information: no action is needed.
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

/// The number of bytes to read; 0 if unknown.
pub fn total_bytes(path: &Path) -> u64 {
    chain::total_bytes(&Os::existing(path)).unwrap_or(0)
}

/// Reads everything. `read` is called with the number of bytes read.
pub fn check(
    path: &Path,
    which: Which,
    read: &mut dyn FnMut(u64),
) -> Result<Checked, LogOpenError> {
    survey(path, Extent::All(read)).map_err(failed(path, which))
}

/// Reads only where the log ends. An error if it is damaged there.
pub fn ends(path: &Path, which: Which) -> Result<Checked, LogOpenError> {
    let mut checked = survey(path, Extent::End).map_err(failed(path, which))?;
    match checked.damages.pop() {
        None => Ok(checked),
        Some(damage) => Err(failed(path, which)(Why::Damaged(Box::new(damage)))),
    }
}

fn survey(path: &Path, extent: Extent) -> Result<Checked, Why> {
    let disk = Os::existing(path);
    let folder = |error| Why::disk("its folder", &error);
    let files = disk.list().map_err(folder)?;
    let found = chain::survey(&disk, extent)?;
    let Some(survey) = found else {
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
        id: survey.id,
        partitions: survey.state.ends.len(),
        records: survey.state.records,
        notes: notes(&survey),
        ends: Partition::all().zip(survey.state.ends).collect(),
        damages: survey.damages,
    })
}

fn notes(survey: &LogSurvey) -> Vec<String> {
    let mut notes = Vec::new();
    if survey.is_torn && !survey.has_unknown_end {
        notes.push(
            "after its end is a write that was interrupted and never acknowledged: it is ignored"
                .into(),
        );
    }
    if let Some(doubt) = &survey.known.doubt {
        notes.push(format!("{doubt}: it is rewritten when the log is opened"));
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
        let partitions = chain::survey(&*disk, Extent::End)?;
        let partitions = partitions.map_or(1, |survey| survey.state.ends.len() as u32);
        let layout = Layout::of(which, partitions, Ahead::Never);
        let mut appender = Appender::open(disk, layout)?;
        let appended = appender.append(vec![vec![record]], now);
        let settled = appended.and_then(|_| appender.settle());
        settled.map_err(|error| Why::Disk(error.to_string()))
    };
    append().map_err(failed(path, which))
}
