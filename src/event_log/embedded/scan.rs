//! Reads one segment from its head to its end, and finds the unreadable parts.

use super::disk::DiskFile;
use super::format::{self, Frame, FrameBlock, HEAD, Head, LogExtent, SHORTEST};
use crate::wire::position::{Offset, Partition};
use std::io;
use std::ops::Range;
use std::sync::Arc;

/// Bytes per read.
const READ: usize = 128 << 10;
/// Bytes per read where the device fails.
const PIECE: usize = 4 << 10;

/// Reads a file in pieces.
pub struct Window {
    file: Arc<dyn DiskFile>,
    start: u64,
    bytes: Vec<u8>,
    /// Nothing is read from here on, where the appender may be writing.
    pub limit: u64,
    /// The last error of the device.
    pub failure: Option<String>,
    /// Whether a failure is an error.
    strict: bool,
}

impl Window {
    /// Returns errors of the device.
    pub fn strict(file: Arc<dyn DiskFile>) -> Window {
        Window {
            file,
            start: 0,
            bytes: Vec::new(),
            limit: u64::MAX,
            failure: None,
            strict: true,
        }
    }

    /// Where the device fails, returns bytes that match no checksum.
    pub fn tolerant(file: Arc<dyn DiskFile>) -> Window {
        Window {
            strict: false,
            ..Window::strict(file)
        }
    }

    /// Returns fewer bytes only at the end of the file, or at the limit.
    pub fn get(&mut self, at: u64, len: usize) -> io::Result<&[u8]> {
        let end = self.start + self.bytes.len() as u64;
        if at < self.start || at + len as u64 > end {
            let room = self.limit.saturating_sub(at);
            self.fill(at, room.min(len.max(READ) as u64) as usize)?;
        }
        let from = (at - self.start) as usize;
        let rest = self.bytes.get(from..).unwrap_or_default();
        Ok(&rest[..len.min(rest.len())])
    }

    fn fill(&mut self, at: u64, len: usize) -> io::Result<()> {
        self.start = at;
        self.bytes.clear();
        self.bytes.resize(len, 0);
        match self.file.read_at(at, &mut self.bytes) {
            Ok(read) => {
                self.bytes.truncate(read);
                return Ok(());
            }
            Err(error) if self.strict => {
                self.bytes.clear();
                return Err(error);
            }
            Err(error) => self.failure = Some(error.to_string()),
        }
        let room = self.file.len()?.saturating_sub(at);
        self.bytes.truncate(room.min(len as u64) as usize);
        for (piece, from) in self.bytes.chunks_mut(PIECE).zip((at..).step_by(PIECE)) {
            if self.file.read_at(from, piece).is_err() {
                piece.fill(0xEE);
            }
        }
        Ok(())
    }
}

/// The result of reading at a place where a frame may begin.
#[derive(Debug)]
pub enum FrameScan {
    Frame(Frame),
    /// Zeros, or the limit.
    Nothing,
    Bad(&'static str),
}

/// Reads the head of the frame that begins at `at` and ends before `limit`.
pub fn frame_at(window: &mut Window, salt: u64, at: u64, limit: u64) -> io::Result<FrameScan> {
    let room = limit.saturating_sub(at);
    let start = window.get(at, SHORTEST.min(room as usize))?;
    let is_empty = start.iter().all(|byte| *byte == 0);
    let Some(len) = Frame::head_len_of(start, salt, room) else {
        return Ok(match is_empty {
            true => FrameScan::Nothing,
            false => FrameScan::Bad("there is no frame"),
        });
    };
    let head = window.get(at, len)?;
    Ok(match Frame::decode_head(head, salt) {
        Some(frame) => FrameScan::Frame(frame),
        None => FrameScan::Bad("the checksum of the head of a frame is wrong"),
    })
}

/// The first frame of this segment from `from` on that comes after `after`.
fn find_frame(
    window: &mut Window,
    salt: u64,
    from: u64,
    limit: u64,
    after: &LogExtent,
) -> io::Result<Option<(u64, Frame)>> {
    let salted = salt.to_le_bytes();
    let mut at = from.next_multiple_of(8);
    while at + (SHORTEST as u64) <= limit {
        let piece = window.get(at, READ.min((limit - at) as usize))?;
        let mut places = piece.chunks_exact(8);
        let Some(skip) = places.position(|bytes| bytes == salted) else {
            if piece.len() < 8 {
                return Ok(None);
            }
            at += (piece.len() / 8 * 8) as u64;
            continue;
        };
        at += skip as u64 * 8;
        if let FrameScan::Frame(frame) = frame_at(window, salt, at, limit)?
            && frame.sequence > after.sequence
            && frame.records >= after.records
        {
            return Ok(Some((at, frame)));
        }
        at += 8;
    }
    Ok(None)
}

/// The salt of most frames in a file with an unreadable head.
pub fn find_salt(file: &Arc<dyn DiskFile>) -> io::Result<Option<u64>> {
    let len = file.len()?;
    let mut window = Window::tolerant(file.clone());
    let mut salts: Vec<(u64, u64)> = Vec::new();
    let mut at = HEAD;
    while at + (SHORTEST as u64) <= len {
        let start = window.get(at, 8)?;
        let Some(salt) = start.first_chunk().map(|bytes| u64::from_le_bytes(*bytes)) else {
            break;
        };
        if salt != 0
            && let FrameScan::Frame(frame) = frame_at(&mut window, salt, at, len)?
        {
            match salts.iter_mut().find(|(known, _)| *known == salt) {
                Some((_, bytes)) => *bytes += frame.length,
                None => salts.push((salt, frame.length)),
            }
            at += frame.length.max(8);
        } else {
            at += 8;
        }
    }
    Ok(salts
        .into_iter()
        .max_by_key(|(_, bytes)| *bytes)
        .map(|(salt, _)| salt))
}

/// Offsets of unreadable records of one partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LostRecords {
    pub partition: Partition,
    pub offsets: Range<Offset>,
}

/// Bytes of a segment where frames are missing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MissingFrames {
    pub at: u64,
    pub to: u64,
    pub what: String,
    /// From the first group that is lost to the next one that is not.
    pub sequences: Range<u64>,
    /// The number of records in all partitions before the gap, and before what follows it.
    pub records: Range<u64>,
    pub lost: Vec<LostRecords>,
}

/// An unreadable block of a readable frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadBlock {
    /// Where its frame begins.
    pub frame: u64,
    /// Which of the frame's entries it is.
    pub index: usize,
    pub at: u64,
    pub what: String,
    pub lost: LostRecords,
    /// Records in all partitions after its frame's end.
    pub records: u64,
}

/// The end of a segment, as other files record it.
#[derive(Debug, Clone, Default)]
pub struct KnownEnd {
    /// According to the head of the next segment: the end, and the extent of the log there.
    pub sealed: Option<(u64, LogExtent)>,
    /// The acknowledged part of this segment.
    pub acknowledged: Option<(u64, LogExtent)>,
}

#[derive(Debug, Clone, Default)]
pub struct Scanned {
    /// The byte after the last frame.
    pub end: u64,
    /// The extent of the log there.
    pub state: LogExtent,
    pub gaps: Vec<MissingFrames>,
    pub bad: Vec<BadBlock>,
    /// After the end there are bytes that are neither a frame nor zeros.
    pub is_torn: bool,
    /// It does not end where the next segment says.
    pub is_other: bool,
}

/// The extent of the log while it is read frame by frame.
#[derive(Debug, Clone)]
pub struct FrameWalk {
    pub state: LogExtent,
    /// The last frame declares a loss. The next one shows how many records it stands for.
    after_loss: bool,
}

impl FrameWalk {
    pub fn from(state: LogExtent) -> FrameWalk {
        FrameWalk {
            state,
            after_loss: false,
        }
    }

    /// The walk after this frame; `None` if it is not the next one. Offsets may be missing only
    /// with `lost`, which collects them.
    pub fn after(&self, frame: &Frame, lost: Option<&mut Vec<LostRecords>>) -> Option<FrameWalk> {
        let state = &self.state;
        let is_next =
            frame.records == state.records || (self.after_loss && frame.records > state.records);
        if frame.sequence != state.sequence || !is_next {
            return None;
        }
        let mut ends = state.ends.clone();
        let mut missing = Vec::new();
        for entry in &frame.entries {
            let end = ends.get_mut(entry.partition.index())?;
            if entry.first < *end || (entry.first > *end && lost.is_none()) {
                return None;
            }
            if entry.first > *end {
                missing.push(LostRecords {
                    partition: entry.partition,
                    offsets: *end..entry.first,
                });
            }
            *end = entry.end();
        }
        if let Some(lost) = lost {
            lost.append(&mut missing);
        }
        Some(FrameWalk {
            state: LogExtent {
                sequence: frame.sequence + frame.groups,
                records: frame.records + frame.count(),
                ends,
            },
            after_loss: frame.entries.iter().any(|entry| entry.is_lost),
        })
    }

    /// Whether the segment after may begin here.
    pub fn may_be_at(&self, known: &LogExtent) -> bool {
        let state = &self.state;
        state.sequence == known.sequence
            && (self.after_loss || state.records == known.records)
            && state
                .ends
                .iter()
                .zip(&known.ends)
                .all(|(end, known)| end == known)
    }

    /// Moves to the known end. `lost` collects the records that are missing up to there; without
    /// it, false if any are.
    fn settle(&mut self, known: &LogExtent, lost: Option<&mut Vec<LostRecords>>) -> bool {
        let state = &self.state;
        let is_same =
            state.sequence == known.sequence && (state.records == known.records || self.after_loss);
        let may_differ = lost.is_some();
        let is_whole = raise(&mut self.state.ends, &known.ends, lost);
        if !(may_differ || is_same && is_whole) {
            return false;
        }
        self.state = known.clone();
        true
    }
}

/// Raises the ends to the known ones; true if none was lower. The log may have got more
/// partitions.
fn raise(ends: &mut [Offset], known: &[Offset], lost: Option<&mut Vec<LostRecords>>) -> bool {
    let mut missing = Vec::new();
    for (partition, (end, known)) in Partition::all().zip(ends.iter_mut().zip(known)) {
        if *end < *known {
            missing.push(LostRecords {
                partition,
                offsets: *end..*known,
            });
            *end = *known;
        }
    }
    let were = missing.is_empty();
    if let Some(lost) = lost {
        lost.append(&mut missing);
    }
    were
}

fn lost_of(gaps: &mut [MissingFrames]) -> Option<&mut Vec<LostRecords>> {
    gaps.last_mut().map(|last| &mut last.lost)
}

/// Reads a whole segment. `read` is called with the number of bytes read.
pub fn scan(
    file: &Arc<dyn DiskFile>,
    head: &Head,
    known: &KnownEnd,
    read: &mut dyn FnMut(u64),
) -> io::Result<Scanned> {
    let len = file.len()?;
    let sealed_at = known.sealed.as_ref().map(|(end, _)| *end);
    let limit = sealed_at.unwrap_or(len).min(len);
    let acknowledged_at = known.acknowledged.as_ref().map_or(HEAD, |(end, _)| *end);
    let mut window = Window::tolerant(file.clone());
    let salt = head.salt;
    let mut at = HEAD;
    let mut walk = FrameWalk::from(head.before.clone());
    let (mut gaps, mut bad) = (Vec::<MissingFrames>::new(), Vec::new());
    loop {
        let mut found = frame_at(&mut window, salt, at, limit)?;
        if let FrameScan::Frame(frame) = &found
            && at >= acknowledged_at
            && known.sealed.is_none()
            && is_cut_short(&mut window, salt, at, frame, limit)?
        {
            found = FrameScan::Bad("a frame is truncated");
        }
        let what = match found {
            FrameScan::Frame(frame) if let Some(after) = walk.after(&frame, lost_of(&mut gaps)) => {
                walk = after;
                let records = walk.state.records;
                check_blocks(&mut window, salt, at, &frame, records, &mut bad)?;
                at += frame.length;
                read(frame.length);
                continue;
            }
            FrameScan::Frame(_) => "the frame is not the next one of this log",
            FrameScan::Nothing if at >= len && Some(at) != sealed_at => "the file ends",
            FrameScan::Nothing => "there are zeros",
            FrameScan::Bad(what) => what,
        };
        if Some(at) == sealed_at {
            break;
        }
        let what = window.failure.clone().unwrap_or_else(|| what.to_owned());
        let lost = |to, sequence, records| MissingFrames {
            at,
            to,
            what,
            sequences: walk.state.sequence..sequence,
            records: walk.state.records..records,
            lost: Vec::new(),
        };
        if let Some((to, frame)) = find_frame(&mut window, salt, at + 8, limit, &walk.state)? {
            gaps.push(lost(to, frame.sequence, frame.records));
            at = to;
            (walk.state.sequence, walk.state.records) = (frame.sequence, frame.records);
            continue;
        }
        let ahead = |known: &&(u64, LogExtent)| known.0 > at;
        let end = known.sealed.as_ref().or(known.acknowledged.as_ref());
        if let Some((to, after)) = end.filter(ahead) {
            gaps.push(lost(*to, after.sequence, after.records));
            at = *to;
            (walk.state.sequence, walk.state.records) = (after.sequence, after.records);
        }
        break;
    }
    let lost = lost_of(&mut gaps);
    let may_differ = lost.is_some();
    let is_other = match (&known.sealed, &known.acknowledged) {
        (Some((_, after)), _) => !walk.settle(after, lost),
        // The log may end after the acknowledged end, never before it.
        (None, Some((_, after))) => !raise(&mut walk.state.ends, &after.ends, lost) && !may_differ,
        (None, None) => false,
    };
    let is_torn = known.sealed.is_none() && !is_zero(&mut window, at, len)?;
    Ok(Scanned {
        end: at,
        state: walk.state,
        gaps,
        bad,
        is_torn,
        is_other,
    })
}

fn check_blocks(
    window: &mut Window,
    salt: u64,
    at: u64,
    frame: &Frame,
    records: u64,
    bad: &mut Vec<BadBlock>,
) -> io::Result<()> {
    let entries = frame.blocks().enumerate();
    for (index, (entry, start)) in entries.filter(|(_, (entry, _))| !entry.is_lost) {
        let FrameBlock {
            bytes: len,
            checksum,
        } = entry.block;
        let bytes = window.get(at + start, len as usize)?;
        let is_whole = bytes.len() == len as usize;
        if !is_whole || format::checksum(bytes, salt) != checksum {
            let failure = window.failure.clone();
            bad.push(BadBlock {
                frame: at,
                index,
                at: at + start,
                what: failure.unwrap_or_else(|| "the checksum of a block is wrong".into()),
                lost: LostRecords {
                    partition: entry.partition,
                    offsets: entry.first..entry.end(),
                },
                records,
            });
        }
    }
    Ok(())
}

/// Whether a frame that was never acknowledged is the last one and incomplete.
fn is_cut_short(
    window: &mut Window,
    salt: u64,
    at: u64,
    frame: &Frame,
    limit: u64,
) -> io::Result<bool> {
    let mut bad = Vec::new();
    check_blocks(window, salt, at, frame, 0, &mut bad)?;
    let here = LogExtent {
        sequence: frame.sequence,
        ..LogExtent::default()
    };
    Ok(!bad.is_empty() && find_frame(window, salt, at + 8, limit, &here)?.is_none())
}

fn is_zero(window: &mut Window, mut at: u64, len: u64) -> io::Result<bool> {
    while at < len {
        let piece = window.get(at, READ.min((len - at) as usize))?;
        if piece.is_empty() {
            break;
        }
        if piece.iter().any(|byte| *byte != 0) {
            return Ok(false);
        }
        at += piece.len() as u64;
    }
    Ok(true)
}
