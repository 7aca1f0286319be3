//! Reads the embedded log frame by frame, never beyond the acknowledged end. Keeps nothing in
//! memory but its position.

use super::EmbeddedShared;
use super::appender::Tail;
use super::chain::{SegmentError, open_segment};
use super::damage::Which;
use super::disk::Disk;
use super::format::{self, Frame, FrameBlock, FrameEntry, HEAD, Head, segment_name};
use super::scan::{FrameScan, FrameWalk, Window, frame_at};
use crate::event_log::{Limits, Logged, ReadError, Reader, Share};
use crate::wire::block;
use crate::wire::position::{NextOffsets, Offset, Partition, Position};
use crate::wire::record::Record;
use bytes::Bytes;
use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

/// Waits for acknowledged records and reads them.
pub struct BlockReader {
    shared: Arc<EmbeddedShared>,
    blocks: BlockCursor,
}

impl BlockReader {
    pub fn new(shared: Arc<EmbeddedShared>, from: &NextOffsets, share: Share) -> BlockReader {
        BlockReader {
            blocks: shared.blocks(from, share),
            shared,
        }
    }
}

impl Reader for BlockReader {
    fn read(&mut self, limits: &Limits, into: &mut Vec<Logged>) -> Result<(), ReadError> {
        let next = &self.blocks.next;
        let is_there = |(end, next): (&Offset, &Offset)| end <= next;
        let caught_up = |tail: &mut Tail| tail.ends.iter().zip(next).all(is_there);
        let tail = self.shared.tail();
        let waited = self
            .shared
            .tail_moved
            .wait_timeout_while(tail, limits.patience, caught_up);
        let (tail, _) = waited.expect("nothing panics while it holds the tail");
        let tail = tail.clone();
        self.blocks.read(&tail, limits, into)
    }

    fn next(&self) -> NextOffsets {
        let all = Partition::all().zip(self.blocks.next.iter().copied());
        all.filter(|(partition, _)| self.blocks.share.has(*partition))
            .collect()
    }
}

/// A reader that never waits: the simulation drives it.
pub struct BlockCursor {
    disk: Arc<dyn Disk>,
    which: Which,
    share: Share,
    /// By partition; `Offset::MAX` for those of other readers, whose blocks are skipped.
    next: Vec<Offset>,
    place: Option<ReaderPosition>,
}

struct ReaderPosition {
    head: Head,
    window: Window,
    /// Where the segment ends, if it is not the last.
    end: Option<u64>,
    at: u64,
    /// The extent of the log here.
    walk: FrameWalk,
}

impl BlockCursor {
    pub fn new(
        disk: Arc<dyn Disk>,
        which: Which,
        partitions: usize,
        from: &NextOffsets,
        share: Share,
    ) -> BlockCursor {
        let all = Partition::all().take(partitions);
        let next = |p| match share.has(p) {
            true => from.get(&p).copied().unwrap_or_default(),
            false => Offset::MAX,
        };
        BlockCursor {
            disk,
            which,
            share,
            next: all.map(next).collect(),
            place: None,
        }
    }

    /// Reads the records before `tail`.
    pub fn read(
        &mut self,
        tail: &Tail,
        limits: &Limits,
        into: &mut Vec<Logged>,
    ) -> Result<(), ReadError> {
        let before = into.len();
        match self.read_on(tail, limits, into) {
            // The records before it are intact: the next call returns the error.
            Err(_) if into.len() > before => Ok(()),
            read => read,
        }
    }

    fn read_on(
        &mut self,
        tail: &Tail,
        limits: &Limits,
        into: &mut Vec<Logged>,
    ) -> Result<(), ReadError> {
        let mut bytes = 0;
        let is_full = |count: usize, bytes| count >= limits.records || bytes >= limits.bytes;
        while self.is_behind(tail) && !is_full(into.len(), bytes) {
            let Some((frame, after)) = self.frame(tail)? else {
                return Ok(());
            };
            let mut is_done = true;
            for (entry, start) in frame.blocks() {
                let next = self.next[entry.partition.index()];
                if entry.end() <= next {
                    continue;
                }
                if is_full(into.len(), bytes) {
                    is_done = false;
                    break;
                }
                // Records that were declared lost are skipped.
                if !entry.is_lost {
                    let records = self.block(entry, start)?;
                    let first = entry.first;
                    for (offset, record) in
                        first.and_after().zip(records).filter(|(o, _)| *o >= next)
                    {
                        bytes += record.size();
                        let at = Position {
                            partition: entry.partition,
                            offset,
                        };
                        into.push(Logged { at, record });
                    }
                }
                self.next[entry.partition.index()] = entry.end();
            }
            if is_done {
                let place = self.place.as_mut().expect("the frame is at its place");
                place.at += frame.length;
                place.walk = after;
            }
        }
        Ok(())
    }

    /// Continues with these records only, and with those after them in their partitions.
    fn only(&mut self, all: &[Position]) {
        self.next.fill(Offset::MAX);
        for at in all {
            self.next[at.partition.index()] = at.offset;
        }
    }

    fn is_behind(&self, tail: &Tail) -> bool {
        let mut ends = tail.ends.iter().zip(&self.next);
        ends.any(|(end, next)| next < end)
    }

    /// The frame at the reader's position, or of the next segment, and the extent of the log after
    /// it; `None` at the tail.
    fn frame(&mut self, tail: &Tail) -> Result<Option<(Frame, FrameWalk)>, ReadError> {
        if self.place.is_none() {
            self.place = Some(self.find(tail)?);
        }
        loop {
            let place = self.place.as_ref().expect("it was found");
            let segment = place.head.number;
            let is_last = segment == tail.segment;
            let limit = match place.end {
                Some(end) => end,
                None if is_last => tail.end,
                None => self.end_of(segment, tail)?,
            };
            if place.at >= limit {
                if is_last {
                    return Ok(None);
                }
                self.place = Some(self.begin(segment + 1, tail)?);
                continue;
            }
            let place = self.place.as_mut().expect("it was found");
            place.end = (!is_last).then_some(limit);
            let at = place.at;
            place.window.limit = limit;
            let found = frame_at(&mut place.window, place.head.salt, at, limit);
            let what = match found {
                Ok(FrameScan::Frame(frame)) => match place.walk.after(&frame, None) {
                    Some(after) => return Ok(Some((frame, after))),
                    None => "the frame is not the next one of this log",
                },
                Ok(FrameScan::Nothing) => "there is no frame",
                Ok(FrameScan::Bad(what)) => what,
                Err(error) => return Err(self.unavailable(segment, &error)),
            };
            return Err(self.damaged(segment, at, what, tail));
        }
    }

    /// The records of a block.
    fn block(&mut self, entry: FrameEntry, start: u64) -> Result<Vec<Record>, ReadError> {
        let place = self.place.as_mut().expect("the frame is at its place");
        let (segment, salt, at) = (place.head.number, place.head.salt, place.at + start);
        let FrameBlock {
            bytes: len,
            checksum,
        } = entry.block;
        let bytes = match place.window.get(at, len as usize) {
            Ok(bytes) => Bytes::copy_from_slice(bytes),
            Err(error) => return Err(self.unavailable(segment, &error)),
        };
        if bytes.len() != len as usize || format::checksum(&bytes, salt) != checksum {
            let what = "the checksum of a block is wrong";
            return Err(self.damaged_at(segment, at, what, entry.partition));
        }
        match block::decode(&bytes) {
            Ok(records) if records.len() as u64 == entry.count => Ok(records),
            Ok(_) => {
                let what = "a block has another number of records than its frame says";
                Err(self.damaged_at(segment, at, what, entry.partition))
            }
            Err(unreadable) => {
                let what = unreadable.to_string();
                Err(self.damaged_at(segment, at, &what, entry.partition))
            }
        }
    }

    /// The last segment that begins before all wanted records.
    fn find(&self, tail: &Tail) -> Result<ReaderPosition, ReadError> {
        let (mut low, mut high) = (1, tail.segment);
        while low < high {
            let middle = low + (high - low).div_ceil(2);
            let (head, _) = self.open(middle, tail)?;
            let mut ends = head.before.ends.iter().zip(&self.next);
            match ends.all(|(end, next)| end <= next) {
                true => low = middle,
                false => high = middle - 1,
            }
        }
        self.begin(low, tail)
    }

    fn begin(&self, segment: u64, tail: &Tail) -> Result<ReaderPosition, ReadError> {
        let (head, file) = self.open(segment, tail)?;
        // If the reader comes from the segment before:
        if let Some(place) = &self.place
            && place.head.number + 1 == segment
            && !place.walk.may_be_at(&head.before)
        {
            let what = "it does not begin where the segment before ends";
            return Err(self.damaged(segment, 0, what, tail));
        }
        Ok(ReaderPosition {
            window: Window::strict(file),
            end: None,
            at: HEAD,
            walk: FrameWalk::from(head.before.clone()),
            head,
        })
    }

    /// Where a segment ends, which is not the last.
    fn end_of(&self, segment: u64, tail: &Tail) -> Result<u64, ReadError> {
        let (next, _) = self.open(segment + 1, tail)?;
        match next.previous {
            Some(previous) => Ok(previous.end),
            None => Err(self.damaged(segment + 1, 0, "its head does not belong here", tail)),
        }
    }

    fn open(
        &self,
        segment: u64,
        tail: &Tail,
    ) -> Result<(Head, Arc<dyn super::disk::DiskFile>), ReadError> {
        open_segment(&*self.disk, segment).map_err(|error| match error {
            SegmentError::Damaged(what) => self.damaged(segment, 0, &what, tail),
            SegmentError::Newer(_) => self.damaged(segment, 0, "a newer program wrote it", tail),
            SegmentError::Disk(what) => ReadError::Unavailable(what),
        })
    }

    fn unavailable(&self, segment: u64, error: &io::Error) -> ReadError {
        ReadError::Unavailable(format!("{}: {error}", segment_name(segment)))
    }

    fn damaged(&self, segment: u64, at: u64, what: &str, tail: &Tail) -> ReadError {
        let mut partitions = Partition::all().zip(self.next.iter().zip(&tail.ends));
        let first = partitions.find(|(_, (next, end))| next < end);
        let partition = first.map_or(Partition(0), |(partition, _)| partition);
        self.damaged_at(segment, at, what, partition)
    }

    fn damaged_at(&self, segment: u64, at: u64, what: &str, partition: Partition) -> ReadError {
        let position = Position {
            partition,
            offset: self.next[partition.index()],
        };
        ReadError::Damaged {
            at: position,
            what: format!(
                "{}, file {}, byte {at}: {what}",
                self.which,
                segment_name(segment)
            ),
        }
    }
}

/// The records at these positions, which are before the tail; those that were declared lost are
/// left out. Reads each segment that has any of them once.
pub fn records_at(
    mut blocks: BlockCursor,
    tail: &Tail,
    at: impl Iterator<Item = Position>,
) -> Result<BTreeMap<Partition, Record>, ReadError> {
    let one = Limits {
        records: 1,
        bytes: 1,
        patience: std::time::Duration::ZERO,
    };
    let mut by_segment: BTreeMap<u64, Vec<Position>> = BTreeMap::new();
    for place in at {
        blocks.only(&[place]);
        let segment = blocks.find(tail)?.head.number;
        by_segment.entry(segment).or_default().push(place);
    }
    let mut found = BTreeMap::new();
    for wanted in by_segment.values() {
        blocks.only(wanted);
        blocks.place = None;
        while blocks.is_behind(tail) {
            let mut read = Vec::new();
            blocks.read(tail, &one, &mut read)?;
            for logged in read {
                if wanted.contains(&logged.at) {
                    found.insert(logged.at.partition, logged.record);
                }
            }
            for at in wanted {
                let next = &mut blocks.next[at.partition.index()];
                if *next > at.offset {
                    *next = Offset::MAX;
                }
            }
        }
    }
    Ok(found)
}
