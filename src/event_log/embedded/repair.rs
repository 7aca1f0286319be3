//! Repairs a damaged log by giving up its unreadable records. Every readable record keeps its
//! position. An unreadable record is declared lost at its position, so that no offset is assigned
//! twice. The damaged files are kept beside the log.
//!
//! A repaired copy of each damaged segment is renamed over it. The log has one or the other at
//! every moment, so an interrupted repair can be started again.

use super::acknowledged::{self, AcknowledgedWriter};
use super::appender::{new_id, new_segment};
use super::chain::{self, Broken, Extent, LogSurvey, acknowledged_at, new_salt};
use super::damage::{Damage, Why};
use super::disk::{Disk, DiskAccess, DiskFile};
use super::format::{
    self, Acknowledged, Frame, FrameBlock, FrameEntry, HEAD, Head, Previous, segment_name,
};
use super::scan::{LostRecords, MissingFrames, Window};
use crate::wire::position::LogId;
use std::io;

/// The findings and changes of a repair.
#[derive(Debug)]
pub struct Repaired {
    pub damages: Vec<Damage>,
    /// The folder in the log's folder with the damaged files.
    pub kept: String,
    /// The number of records that are lost; `None` if unknown.
    pub lost: Option<u64>,
    /// The log has a new identity if its end is unknown: offsets may be assigned again.
    pub new_identity: Option<LogId>,
}

/// `None` if nothing is damaged; then nothing is changed.
pub fn repair(disk: &dyn Disk, read: &mut dyn FnMut(u64)) -> Result<Option<Repaired>, Why> {
    let Some(survey) = chain::survey(disk, Extent::All(read))? else {
        return Ok(None);
    };
    if survey.damages.is_empty() {
        return Ok(None);
    }
    let is_hopeless = |broken: &Broken| broken.scanned.is_other || !fits(broken);
    let is_hopeless = survey.broken.iter().any(is_hopeless);
    // Damage between two segments that are each intact is in no segment.
    let is_covered = |damage: &Damage| {
        let mut names = survey.broken.iter().map(|b| segment_name(b.head.number));
        survey.has_unknown_end || names.any(|name| name == damage.file)
    };
    if let Some(damage) = survey
        .damages
        .iter()
        .find(|damage| is_hopeless || !is_covered(damage))
    {
        return Err(Why::BeyondRepair(Box::new(damage.clone())));
    }
    let failed = |error: io::Error| Why::disk("repairing it", &error);
    let kept = carry_out(disk, &survey).map_err(failed)?;
    let new_identity = conclude(disk, &survey).map_err(failed)?;
    match chain::survey(disk, Extent::All(&mut |_| {}))? {
        Some(again) if again.damages.is_empty() => {}
        _ => return Err(Why::BeyondRepair(Box::new(survey.damages[0].clone()))),
    }
    let lost = survey.damages.iter().map(|damage| damage.records).sum();
    Ok(Some(Repaired {
        damages: survey.damages,
        kept,
        lost,
        new_identity,
    }))
}

/// Whether each gap has room for the frame that declares its records lost.
fn fits(broken: &Broken) -> bool {
    let has_room = |gap: &MissingFrames| {
        let needed = Frame::head_len(gap.lost.len()) as u64;
        gap.to - gap.at >= needed
    };
    broken.scanned.gaps.iter().all(has_room)
}

fn copy_name(number: u64) -> String {
    format!("{}.mended", segment_name(number))
}

/// Replaces every damaged segment. Returns the folder with the damaged files.
fn carry_out(disk: &dyn Disk, survey: &LogSurvey) -> io::Result<String> {
    for broken in &survey.broken {
        write_copy(disk, broken)?;
    }
    let listed = disk.list()?;
    let is_free = |name: &String| !listed.iter().any(|entry| entry.name == *name);
    let mut names = (1..).map(|n| format!("damaged-{n}"));
    let kept = names.find(is_free);
    let kept = kept.ok_or_else(|| io::Error::other("no name is left for a folder"))?;
    disk.make_folder(&kept)?;
    let affected = survey.broken.iter().map(|b| segment_name(b.head.number));
    for name in affected.chain([acknowledged::NAME.to_owned()]) {
        if listed.iter().any(|entry| entry.name == name) {
            disk.link(&name, &format!("{kept}/{name}"))?;
        }
    }
    disk.sync_folder(&kept)?;
    disk.sync_folder("")?;
    for broken in &survey.broken {
        let number = broken.head.number;
        disk.rename(&copy_name(number), &segment_name(number))?;
    }
    disk.sync_folder("")?;
    Ok(kept)
}

/// Writes a copy of a segment in which the unreadable records are declared lost.
fn write_copy(disk: &dyn Disk, broken: &Broken) -> io::Result<()> {
    let number = broken.head.number;
    let copy = disk.create(&copy_name(number))?;
    let source = match disk.open(&segment_name(number), DiskAccess::Read) {
        Ok(source) if broken.has_file => Some(source),
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => None,
    };
    if let Some(source) = source {
        let mut source = Window::tolerant(source);
        let mut at = HEAD;
        while at < broken.scanned.end {
            let len = (broken.scanned.end - at).min(1 << 20) as usize;
            let piece = source.get(at, len)?;
            if piece.is_empty() {
                break;
            }
            copy.write_at(at, piece)?;
            at += piece.len() as u64;
        }
    }
    if copy.len()? < broken.scanned.end {
        copy.write_at(broken.scanned.end - 1, &[0])?;
    }
    copy.write_at(0, &format::seal_head(&broken.head))?;
    let salt = broken.head.salt;
    for gap in &broken.scanned.gaps {
        let entry = |lost: &LostRecords| FrameEntry {
            partition: lost.partition,
            is_lost: true,
            first: lost.offsets.start,
            count: lost.offsets.end.since(lost.offsets.start),
            block: FrameBlock::default(),
        };
        let frame = Frame {
            sequence: gap.sequences.start,
            records: gap.records.start,
            groups: gap.sequences.end - gap.sequences.start,
            length: gap.to - gap.at,
            entries: gap.lost.iter().map(entry).collect(),
        };
        copy.write_at(gap.at, &frame.encode_head(salt))?;
    }
    for bad in &broken.scanned.bad {
        declare_block(&*copy, bad.frame, bad.index, salt, broken.scanned.end)?;
    }
    copy.sync()
}

fn declare_block(
    copy: &dyn DiskFile,
    at: u64,
    index: usize,
    salt: u64,
    limit: u64,
) -> io::Result<()> {
    let unexpected = || io::Error::other("a frame that was read is not there any more");
    let mut start = vec![0; format::SHORTEST];
    copy.read_at(at, &mut start)?;
    let len = Frame::head_len_of(&start, salt, limit - at).ok_or_else(unexpected)?;
    let mut head = vec![0; len];
    copy.read_at(at, &mut head)?;
    let mut frame = Frame::decode_head(&head, salt).ok_or_else(unexpected)?;
    let entry = frame.entries.get_mut(index).ok_or_else(unexpected)?;
    entry.is_lost = true;
    copy.write_at(at, &frame.encode_head(salt))
}

/// Records where the log ends. If that is unknown, assigns a new identity to the log.
fn conclude(disk: &dyn Disk, survey: &LogSurvey) -> io::Result<Option<LogId>> {
    let reached = acknowledged_at(survey);
    if !survey.has_unknown_end {
        AcknowledgedWriter::create(disk, reached)?;
        return Ok(None);
    }
    let id = new_id();
    let number = survey.head.number + 1;
    let head = Head {
        log: id,
        number,
        salt: new_salt(),
        planned: HEAD,
        before: survey.state.clone(),
        previous: Some(Previous {
            log: survey.head.log,
            end: survey.end,
        }),
    };
    new_segment(disk, &head, None)?;
    AcknowledgedWriter::create(
        disk,
        Acknowledged {
            log: id,
            segment: number,
            end: HEAD,
            ..reached
        },
    )?;
    Ok(Some(id))
}
