//! Makes a log whole again that has damaged places, at the price of what cannot be read. Every
//! record that can be read keeps its position; what cannot is declared lost in its place, so that
//! no offset is given twice. The files as they were are kept beside the log.
//!
//! A segment is mended in a copy that takes its place by being renamed: at every moment the log
//! has either, and a repair that was cut short can be begun again.

use super::acknowledged::{self, AcknowledgedWriter};
use super::appender::{NEW, new_id};
use super::chain::{self, Broken, Extent, LogSurvey, acknowledged_at, new_salt};
use super::damage::{Damage, Why};
use super::disk::{Disk, DiskAccess, DiskFile};
use super::format::{
    self, Acknowledged, Frame, FrameBlock, FrameEntry, HEAD, Head, Previous, segment_name,
};
use super::scan::{LostRecords, MissingFrames, Window};
use crate::wire::position::LogId;
use std::io;

/// What was found, and what became of it.
#[derive(Debug)]
pub struct Repaired {
    pub damages: Vec<Damage>,
    /// The folder in the log's folder with the files as they were.
    pub kept: String,
    /// How many records are lost for good; `None` if nobody knows.
    pub lost: Option<u64>,
    /// It is another log from now on: how far it went is not known, and offsets that were given
    /// may be given again.
    pub new_identity: Option<LogId>,
}

/// `None` if nothing is damaged; then nothing is changed.
pub fn repair(disk: &dyn Disk, read: &mut dyn FnMut(u64)) -> Result<Option<Repaired>, Why> {
    let Some(look) = chain::look(disk, Extent::All(read))? else {
        return Ok(None);
    };
    if look.damages.is_empty() {
        return Ok(None);
    }
    let is_hopeless = |broken: &Broken| broken.beyond_repair || !fits(broken);
    let is_hopeless = look.broken.iter().any(is_hopeless);
    // Found between segments that are whole each.
    let is_covered = |damage: &Damage| {
        let mut names = look.broken.iter().map(|b| segment_name(b.head.number));
        look.has_unknown_end || names.any(|name| name == damage.file)
    };
    if let Some(damage) = look
        .damages
        .iter()
        .find(|damage| is_hopeless || !is_covered(damage))
    {
        return Err(Why::BeyondRepair(Box::new(damage.clone())));
    }
    let failed = |error: io::Error| Why::disk("repairing it", &error);
    let kept = carry_out(disk, &look).map_err(failed)?;
    let new_identity = conclude(disk, &look).map_err(failed)?;
    match chain::look(disk, Extent::All(&mut |_| {}))? {
        Some(again) if again.damages.is_empty() => {}
        _ => return Err(Why::BeyondRepair(Box::new(look.damages[0].clone()))),
    }
    let lost = look.damages.iter().map(|damage| damage.records).sum();
    Ok(Some(Repaired {
        damages: look.damages,
        kept,
        lost,
        new_identity,
    }))
}

/// Whether what is lost can be declared where it was.
fn fits(broken: &Broken) -> bool {
    let has_room = |stretch: &MissingFrames| {
        let needed = Frame::head_len(stretch.lost.len()) as u64;
        stretch.to - stretch.at >= needed
    };
    broken.stretches.iter().all(has_room)
}

fn mended_name(number: u64) -> String {
    format!("{}.mended", segment_name(number))
}

/// Mends every broken segment. Returns the folder with the files as they were.
fn carry_out(disk: &dyn Disk, look: &LogSurvey) -> io::Result<String> {
    for broken in &look.broken {
        mend(disk, broken)?;
    }
    let listed = disk.list("")?;
    let is_free = |name: &String| !listed.iter().any(|entry| entry.name == *name);
    let mut names = (1..).map(|n| format!("damaged-{n}"));
    let kept = names.find(is_free);
    let kept = kept.ok_or_else(|| io::Error::other("no name is left for a folder"))?;
    disk.make_folder(&kept)?;
    let affected = look.broken.iter().map(|b| segment_name(b.head.number));
    for name in affected.chain([acknowledged::NAME.to_owned()]) {
        if listed.iter().any(|entry| entry.name == name) {
            disk.link(&name, &format!("{kept}/{name}"))?;
        }
    }
    disk.sync_folder(&kept)?;
    disk.sync_folder("")?;
    for broken in &look.broken {
        let number = broken.head.number;
        disk.rename(&mended_name(number), &segment_name(number))?;
    }
    disk.sync_folder("")?;
    Ok(kept)
}

/// Writes a copy of a segment in which what cannot be read is declared lost.
fn mend(disk: &dyn Disk, broken: &Broken) -> io::Result<()> {
    let number = broken.head.number;
    let mended = disk.create(&mended_name(number))?;
    let source = match disk.open(&segment_name(number), DiskAccess::Read) {
        Ok(source) if broken.has_file => Some(source),
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => None,
    };
    if let Some(source) = source {
        let mut source = Window::tolerant(source);
        let mut at = HEAD;
        while at < broken.end {
            let len = (broken.end - at).min(1 << 20) as usize;
            let piece = source.get(at, len)?;
            if piece.is_empty() {
                break;
            }
            mended.write_at(at, piece)?;
            at += piece.len() as u64;
        }
    }
    if mended.len()? < broken.end {
        mended.write_at(broken.end - 1, &[0])?;
    }
    let mut head = format::seal(&broken.head);
    head.resize(HEAD as usize, 0);
    mended.write_at(0, &head)?;
    let salt = broken.head.salt;
    for stretch in &broken.stretches {
        let entry = |lost: &LostRecords| FrameEntry {
            partition: lost.partition,
            is_lost: true,
            first: lost.offsets.start,
            count: lost.offsets.end.since(lost.offsets.start),
            block: FrameBlock::default(),
        };
        let frame = Frame {
            sequence: stretch.sequences.start,
            records: stretch.records.start,
            groups: stretch.sequences.end - stretch.sequences.start,
            length: stretch.to - stretch.at,
            entries: stretch.lost.iter().map(entry).collect(),
        };
        mended.write_at(stretch.at, &frame.encode_head(salt))?;
    }
    for bad in &broken.bad {
        declare_block(&*mended, bad.frame, bad.index, salt, broken.end)?;
    }
    mended.sync()
}

fn declare_block(
    mended: &dyn DiskFile,
    at: u64,
    index: usize,
    salt: u64,
    limit: u64,
) -> io::Result<()> {
    let unexpected = || io::Error::other("a frame that was read is not there any more");
    let mut start = vec![0; format::SHORTEST];
    mended.read_at(at, &mut start)?;
    let len = Frame::head_len_of(&start, salt, limit - at).ok_or_else(unexpected)?;
    let mut head = vec![0; len];
    mended.read_at(at, &mut head)?;
    let mut frame = Frame::decode_head(&head, salt).ok_or_else(unexpected)?;
    let entry = frame.entries.get_mut(index).ok_or_else(unexpected)?;
    entry.is_lost = true;
    mended.write_at(at, &frame.encode_head(salt))
}

/// Says how far the log is, or, where that is not known, makes it another log.
fn conclude(disk: &dyn Disk, look: &LogSurvey) -> io::Result<Option<LogId>> {
    let reached = acknowledged_at(look);
    if !look.has_unknown_end {
        AcknowledgedWriter::create(disk, reached)?;
        return Ok(None);
    }
    let id = new_id();
    let number = look.head.number + 1;
    let head = Head {
        log: id,
        number,
        salt: new_salt(),
        planned: HEAD,
        before: look.state.clone(),
        previous: Some(Previous {
            log: look.head.log,
            end: look.end,
        }),
    };
    let file = disk.create(NEW)?;
    let mut bytes = format::seal(&head);
    bytes.resize(HEAD as usize, 0);
    file.write_at(0, &bytes)?;
    file.sync()?;
    disk.rename(NEW, &segment_name(number))?;
    disk.sync_folder("")?;
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
