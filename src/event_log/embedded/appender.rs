//! Writes a group of publishes, and finds the end of the log again when it is opened. Has no
//! clock, and no thread but the one that preallocates a file: the simulation drives it step by
//! step.

use super::acknowledged::AcknowledgedWriter;
use super::chain::{self, Extent, LogSurvey, acknowledged_at, new_salt};
use super::damage::{Which, Why};
use super::disk::{Disk, DiskAccess, DiskFile};
use super::format::{
    self, Acknowledged, Frame, FrameBlock, FrameEntry, HEAD, Head, LogExtent, Previous,
    segment_name,
};
use super::spare::{Ahead, SPARE, Spare};
use crate::domain::{OperationId, Timestamp};
use crate::event_log::NewRecord;
use crate::wire::block;
use crate::wire::position::{LogId, Offset, Partition, Position};
use crate::wire::record::Record;
use std::io;
use std::sync::Arc;

/// Kept free for the store to flush and compact: a share of the device, within these bounds.
const RESERVE: std::ops::RangeInclusive<u64> = (1 << 20)..=(64 << 20);
const RESERVE_SHARE: u64 = 20;

/// Bytes of memory for a frame, beyond which it is not kept for the next one.
const KEPT: usize = 4 << 20;

const NEW: &str = "segment.new";

/// The layout of a log on its disk.
#[derive(Debug, Clone, Copy)]
pub struct Layout {
    pub which: Which,
    /// Partitions of a new log. An existing one may get more, never fewer.
    pub partitions: u32,
    /// A new segment is as long as the log before it, in bytes, within these bounds.
    pub least: u64,
    pub most: u64,
    pub ahead: Ahead,
}

/// A failed write. Whether it happened is known once the log is recovered. The text names no
/// folder.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct WriteError(String);

fn failed(name: &str, error: &io::Error) -> WriteError {
    WriteError(format!("{name}: {error}"))
}

/// Where readers must stop.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tail {
    pub segment: u64,
    /// The byte in that segment after its last acknowledged frame.
    pub end: u64,
    /// The next offset of each partition.
    pub ends: Vec<Offset>,
}

pub struct Appender {
    disk: Arc<dyn Disk>,
    layout: Layout,
    id: LogId,
    /// Of the current segment.
    head: Head,
    file: Arc<dyn DiskFile>,
    end: u64,
    state: LogExtent,
    /// Bytes of all segments before.
    total: u64,
    spare: Spare,
    acknowledged: AcknowledgedWriter,
    /// The content of that file.
    recorded: Acknowledged,
    /// Everything in the segment is synced.
    is_synced: bool,
    /// A write failed. Nothing may be written before `recover`.
    is_poisoned: bool,
    blocks: block::Encoder,
    /// The memory of the last frame, for the next one.
    frame: Vec<u8>,
}

/// The part of a frame for one partition.
pub enum FramePart<'a> {
    Records(&'a [Record]),
    /// A block and its number of records.
    Encoded(&'a [u8], u64),
}

impl Appender {
    /// Opens the log, or creates one.
    pub fn open(disk: Arc<dyn Disk>, layout: Layout) -> Result<Appender, Why> {
        match chain::survey(&*disk, Extent::End)? {
            None => Appender::create(disk, layout, new_id()),
            Some(mut survey) => match survey.damages.is_empty() {
                true => Appender::go_on(disk, layout, survey),
                false => Err(Why::Damaged(Box::new(survey.damages.swap_remove(0)))),
            },
        }
    }

    /// A new log in an empty folder.
    pub fn create(disk: Arc<dyn Disk>, layout: Layout, id: LogId) -> Result<Appender, Why> {
        let mut spare = Spare::new(disk.clone(), layout.ahead);
        spare.fill_now(layout.least);
        let head = Head {
            log: id,
            number: 1,
            salt: new_salt(),
            planned: layout.least,
            before: LogExtent {
                ends: vec![Offset::ZERO; layout.partitions as usize],
                ..LogExtent::default()
            },
            previous: None,
        };
        let first = Acknowledged {
            number: 0,
            log: id,
            segment: 1,
            end: HEAD,
            state: head.before.clone(),
        };
        new_segment(&*disk, &head, spare.take())
            .and_then(|_| AcknowledgedWriter::create(&*disk, first))
            .map_err(|error| Why::disk("a new log", &error))?;
        Appender::open(disk, layout)
    }

    fn go_on(disk: Arc<dyn Disk>, layout: Layout, survey: LogSurvey) -> Result<Appender, Why> {
        let stored = survey.state.ends.len() as u32;
        if layout.partitions < stored {
            return Err(Why::Setting(format!(
                "it has {stored} partitions and log.partitions is {}: it can get more, not fewer",
                layout.partitions
            )));
        }
        let name = segment_name(survey.head.number);
        let disk_failed = |error| Why::disk(&name, &error);
        let file = disk.open(&name, DiskAccess::Write).map_err(disk_failed)?;
        make_durable(&*file, &survey).map_err(disk_failed)?;
        // The last process may have ended before it synced the name of the last segment.
        disk.sync_folder("").map_err(disk_failed)?;
        if let Some(doubt) = &survey.known.doubt {
            tracing::warn!(log = %layout.which, "{doubt}: it is rewritten from the log");
        }
        let now = acknowledged_at(&survey);
        let acknowledged = match (&survey.known.newest, &survey.known.doubt) {
            (Some(newest), None) => {
                AcknowledgedWriter::open(&*disk, newest.number).and_then(|mut writer| {
                    writer.write(now.clone())?;
                    writer.sync()?;
                    Ok(writer)
                })
            }
            _ => AcknowledgedWriter::create(&*disk, now.clone()),
        };
        let acknowledged = acknowledged.map_err(|e| Why::disk(super::acknowledged::NAME, &e))?;
        let total = chain::total_bytes(&*disk).map_err(|e| Why::disk("its folder", &e))?;
        let mut appender = Appender {
            spare: Spare::new(disk.clone(), layout.ahead),
            disk,
            layout,
            id: survey.id,
            end: survey.end,
            state: survey.state,
            head: survey.head,
            file,
            total,
            acknowledged,
            recorded: now,
            is_synced: true,
            is_poisoned: false,
            blocks: block::Encoder::default(),
            frame: Vec::new(),
        };
        if layout.partitions > stored {
            appender
                .state
                .ends
                .resize(layout.partitions as usize, Offset::ZERO);
        }
        // Nothing is written after an interrupted write.
        if survey.is_torn || layout.partitions > stored {
            let begun = appender.begin_segment();
            begun.map_err(|error| Why::Disk(error.to_string()))?;
        }
        appender.spare.fill(appender.next_planned());
        Ok(appender)
    }

    pub fn id(&self) -> LogId {
        self.id
    }

    /// The next offset of each partition.
    pub fn ends(&self) -> &[Offset] {
        &self.state.ends
    }

    pub fn tail(&self) -> Tail {
        Tail {
            segment: self.head.number,
            end: self.end,
            ends: self.state.ends.clone(),
        }
    }

    /// Writes all publishes of a group, durably. After an error it is unknown whether they are
    /// stored, and nothing may be appended before `recover`.
    pub fn append(
        &mut self,
        group: Vec<Vec<NewRecord>>,
        now: Timestamp,
    ) -> Result<Vec<Vec<Position>>, WriteError> {
        let mut ends = self.state.ends.clone();
        let mut blocks: Vec<Vec<Record>> = vec![Vec::new(); ends.len()];
        let mut place = |new: NewRecord| {
            let partition = usize::from(OperationId(&new.operation_id).shard()) % ends.len();
            blocks[partition].push(Record {
                arrived: now,
                claimed: false,
                key: None,
                headers: new.headers,
                value: new.value,
            });
            let offset = ends[partition];
            ends[partition] = offset.next();
            Position {
                partition: Partition(partition as u32),
                offset,
            }
        };
        let positions = group
            .into_iter()
            .map(|records| records.into_iter().map(&mut place).collect())
            .collect();
        let parts = Partition::all()
            .zip(&blocks)
            .filter(|(_, records)| !records.is_empty());
        let parts: Vec<_> = parts
            .map(|(p, records)| (p, FramePart::Records(records)))
            .collect();
        if !parts.is_empty() {
            self.write(&parts)?;
            self.acknowledge()?;
        }
        Ok(positions)
    }

    /// Writes unchanged records into a partition, durably: for tests of records that our
    /// publishers never send.
    pub fn append_as_is(
        &mut self,
        partition: Partition,
        records: &[Record],
    ) -> Result<(), WriteError> {
        self.write(&[(partition, FramePart::Records(records))])?;
        self.acknowledge()
    }

    /// Writes a frame at the end. It is durable, and counts, after `acknowledge`.
    pub fn write(&mut self, parts: &[(Partition, FramePart)]) -> Result<(), WriteError> {
        self.is_poisoned = true;
        if self.end >= self.head.planned {
            self.begin_segment()?;
        }
        let mut state = self.state.clone();
        let mut bytes = std::mem::take(&mut self.frame);
        bytes.clear();
        bytes.resize(Frame::head_len(parts.len()), 0);
        let mut entries = Vec::with_capacity(parts.len());
        for (partition, part) in parts {
            let start = bytes.len();
            let count = match part {
                FramePart::Records(records) => {
                    bytes = self.blocks.append(records.iter(), bytes);
                    records.len() as u64
                }
                FramePart::Encoded(block, count) => {
                    bytes.extend_from_slice(block);
                    *count
                }
            };
            let block = &bytes[start..];
            let end = &mut state.ends[partition.index()];
            entries.push(FrameEntry {
                partition: *partition,
                is_lost: false,
                first: *end,
                count,
                block: FrameBlock {
                    bytes: u32::try_from(block.len())
                        .map_err(|_| WriteError("a block of more than 4 GiB".into()))?,
                    checksum: format::checksum(block, self.head.salt),
                },
            });
            *end = end.plus(count);
        }
        bytes.resize(bytes.len().next_multiple_of(8), 0);
        let frame = Frame {
            sequence: state.sequence,
            records: state.records,
            groups: 1,
            length: bytes.len() as u64,
            entries,
        };
        let head = frame.encode_head(self.head.salt);
        bytes[..head.len()].copy_from_slice(&head);
        state.sequence += 1;
        state.records += frame.count();
        self.is_synced = false;
        let written = self.file.write_at(self.end, &bytes);
        written.map_err(|error| failed(&segment_name(self.head.number), &error))?;
        self.end += frame.length;
        self.state = state;
        self.is_poisoned = false;
        if bytes.capacity() <= KEPT {
            self.frame = bytes;
        }
        Ok(())
    }

    /// Syncs the written frames, and then records them as acknowledged.
    pub fn acknowledge(&mut self) -> Result<(), WriteError> {
        self.is_poisoned = true;
        self.sync_segment()?;
        let now = self.now();
        let written = self.acknowledged.write(now.clone());
        written.map_err(|error| failed(super::acknowledged::NAME, &error))?;
        self.recorded = now;
        self.is_poisoned = false;
        Ok(())
    }

    fn sync_segment(&mut self) -> Result<(), WriteError> {
        let synced = self.file.sync();
        synced.map_err(|error| failed(&segment_name(self.head.number), &error))?;
        self.is_synced = true;
        Ok(())
    }

    fn now(&self) -> Acknowledged {
        Acknowledged {
            number: 0,
            log: self.id,
            segment: self.head.number,
            end: self.end,
            state: self.state.clone(),
        }
    }

    /// Whether the file of acknowledgements is synced as well.
    pub fn is_settled(&self) -> bool {
        self.acknowledged.is_synced()
    }

    pub fn settle(&mut self) -> Result<(), WriteError> {
        let synced = self.acknowledged.sync();
        self.is_poisoned |= synced.is_err();
        synced.map_err(|error| failed(super::acknowledged::NAME, &error))
    }

    /// Continues after an error, in a new segment. Its head says that the segment before ends at
    /// the acknowledged end, whether or not the failed write happened.
    pub fn recover(&mut self) -> Result<(), WriteError> {
        if !self.is_poisoned {
            return Ok(());
        }
        // The failed write may have been the acknowledgement, and may have happened. It is
        // withdrawn before a segment begins that does not contain it.
        let name = super::acknowledged::NAME;
        let opened = AcknowledgedWriter::open(&*self.disk, self.acknowledged.number());
        self.acknowledged = opened.map_err(|error| failed(name, &error))?;
        let written = self.acknowledged.write(self.recorded.clone());
        written.map_err(|error| failed(name, &error))?;
        self.settle()?;
        // Nothing is acknowledged in a segment that was begun since.
        let is_new = self.head.number != self.recorded.segment;
        self.end = if is_new { HEAD } else { self.recorded.end };
        self.state = self.recorded.state.clone();
        self.state
            .ends
            .resize(self.layout.partitions as usize, Offset::ZERO);
        self.is_synced = true;
        self.begin_segment()?;
        self.is_poisoned = false;
        Ok(())
    }

    /// Whether `bytes` more can be stored without filling the device.
    pub fn check_space(&self, bytes: u64) -> Result<(), String> {
        let Some(space) = self.disk.space() else {
            return Ok(());
        };
        let share = space.total / RESERVE_SHARE;
        let reserve = share.clamp(*RESERVE.start(), *RESERVE.end());
        // They are written to the log and to the store.
        if space.free >= reserve + 2 * bytes {
            return Ok(());
        }
        Err(format!(
            "the disk is full: {} bytes are free, {reserve} are kept in reserve",
            space.free
        ))
    }

    fn next_planned(&self) -> u64 {
        (self.total + self.end).clamp(self.layout.least, self.layout.most)
    }

    /// Ends the segment and begins the next one.
    fn begin_segment(&mut self) -> Result<(), WriteError> {
        if !self.is_synced {
            self.sync_segment()?;
        }
        let head = Head {
            log: self.id,
            number: self.head.number + 1,
            salt: new_salt(),
            planned: self.next_planned(),
            before: self.state.clone(),
            previous: Some(Previous {
                log: self.head.log,
                end: self.end,
            }),
        };
        let begun = new_segment(&*self.disk, &head, self.spare.take());
        self.file = begun.map_err(|error| failed(&segment_name(head.number), &error))?;
        self.total += self.end;
        self.end = HEAD;
        self.head = head;
        self.spare.fill(self.next_planned());
        Ok(())
    }
}

/// Creates a segment, from the preallocated file if there is one. Atomic.
pub fn new_segment(
    disk: &dyn Disk,
    head: &Head,
    spare: Option<Arc<dyn DiskFile>>,
) -> io::Result<Arc<dyn DiskFile>> {
    let (file, name) = match spare {
        Some(file) => (file, SPARE),
        None => (disk.create(NEW)?, NEW),
    };
    file.write_at(0, &format::seal_head(head))?;
    file.sync()?;
    disk.rename(name, &segment_name(head.number))?;
    disk.sync_folder("")?;
    Ok(file)
}

/// Writes the unacknowledged frames again, and syncs: after a failed sync they may be in the page
/// cache only.
fn make_durable(file: &dyn DiskFile, survey: &LogSurvey) -> io::Result<()> {
    let newest = survey.known.newest.as_ref();
    let newest = newest.filter(|newest| newest.segment == survey.head.number);
    let mut at = newest.map_or(HEAD, |newest| newest.end.max(HEAD));
    let mut bytes = vec![0; 1 << 20];
    while at < survey.end {
        let len = bytes.len().min((survey.end - at) as usize);
        let read = file.read_at(at, &mut bytes[..len])?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        file.write_at(at, &bytes[..read])?;
        at += read as u64;
    }
    file.sync()
}

pub fn new_id() -> LogId {
    LogId::from_bits(uuid::Uuid::new_v4().as_u128() as u64)
}
