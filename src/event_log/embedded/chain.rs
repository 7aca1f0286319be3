//! Surveys a whole log: whether its segments belong together, where it ends, and whether it
//! has everything that was acknowledged. Changes nothing.

use super::acknowledged;
use super::damage::{Damage, Why};
use super::disk::{Disk, DiskAccess, DiskFile};
use super::format::{
    self, Acknowledged, FormatFault, HEAD, Head, LogExtent, Previous, segment_name, segment_number,
};
use super::scan::{self, KnownEnd, LostRecords, MissingFrames, Scanned};
use crate::wire::position::{LogId, Offset, Partition};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;

/// How much is read.
pub enum Extent<'a> {
    /// The heads of all segments, and the frames of the last one.
    End,
    /// Everything. The function is called with the number of bytes read.
    All(&'a mut dyn FnMut(u64)),
}

/// The state of a log on its disk.
pub struct LogSurvey {
    pub id: LogId,
    /// The last segment.
    pub head: Head,
    /// The byte after its last frame, and the extent of the log there.
    pub end: u64,
    pub state: LogExtent,
    /// After the end there is an interrupted write that was never acknowledged.
    pub is_torn: bool,
    pub known: acknowledged::AcknowledgedFile,
    pub damages: Vec<Damage>,
    pub broken: Vec<Broken>,
    /// It is unknown where the log ended.
    pub has_unknown_end: bool,
}

/// A segment in which something cannot be read.
pub struct Broken {
    pub head: Head,
    pub scanned: Scanned,
    /// Part of its file is usable.
    pub has_file: bool,
}

pub fn total_bytes(disk: &dyn Disk) -> io::Result<u64> {
    let files = disk.list()?.into_iter();
    let segments = files.filter(|file| segment_number(&file.name).is_some());
    Ok(segments.map(|file| file.len).sum())
}

/// `None` if there is no log in the folder.
pub fn survey(disk: &dyn Disk, mut extent: Extent) -> Result<Option<LogSurvey>, Why> {
    let listed = disk.list().map_err(|e| Why::disk("its folder", &e))?;
    let lengths: BTreeMap<u64, u64> = listed
        .iter()
        .filter_map(|file| Some((segment_number(&file.name)?, file.len)))
        .collect();
    let known = match acknowledged::read(disk) {
        Ok(known) => known,
        Err(Ok(found)) => return Err(newer(found)),
        Err(Err(error)) => return Err(Why::disk(acknowledged::NAME, &error)),
    };
    let last = lengths.keys().next_back().copied().unwrap_or(0);
    let last = last.max(known.newest.as_ref().map_or(0, |known| known.segment));
    if last == 0 {
        let has_file = listed.iter().any(|file| file.name == acknowledged::NAME);
        return match has_file {
            false => Ok(None),
            true => Err(all_is_gone(&known)),
        };
    }
    let mut chain = Chain {
        disk,
        last,
        lengths,
        heads: BTreeMap::new(),
        faults: BTreeMap::new(),
        suspicious: BTreeSet::new(),
        known,
        damages: Vec::new(),
        broken: Vec::new(),
    };
    for number in 1..=last {
        match open_segment(disk, number) {
            Ok((head, _)) => drop(chain.heads.insert(number, head)),
            Err(SegmentError::Damaged(what)) => drop(chain.faults.insert(number, what)),
            Err(SegmentError::Newer(found)) => return Err(newer(found)),
            Err(SegmentError::Disk(what)) => return Err(Why::Disk(what)),
        }
    }
    let id = chain.identity()?;
    chain.check_links();
    chain.read_frames(id, &mut extent).map(Some)
}

fn newer(found: u32) -> Why {
    Why::Newer {
        found,
        known: format::VERSION,
    }
}

fn all_is_gone(known: &acknowledged::AcknowledgedFile) -> Why {
    Why::Damaged(Box::new(Damage {
        records: known.newest.as_ref().map(|newest| newest.state.records),
        ..Damage::new(segment_name(1), 0, "the file is missing")
    }))
}

struct Chain<'d> {
    disk: &'d dyn Disk,
    /// The number of the last segment.
    last: u64,
    /// Lengths of the segment files that exist, by number.
    lengths: BTreeMap<u64, u64>,
    /// The readable heads, by number.
    heads: BTreeMap<u64, Head>,
    /// Why the head of a segment cannot be used, by number.
    faults: BTreeMap<u64, String>,
    /// Segments whose frames must be read, whatever the extent.
    suspicious: BTreeSet<u64>,
    known: acknowledged::AcknowledgedFile,
    damages: Vec<Damage>,
    broken: Vec<Broken>,
}

impl Chain<'_> {
    fn open(&self, number: u64) -> Result<Option<Arc<dyn DiskFile>>, Why> {
        open(self.disk, number).map_err(|e| Why::disk(&segment_name(number), &e))
    }

    /// The head of a segment, if it can be used.
    fn head(&self, number: u64) -> Option<&Head> {
        let head = self.heads.get(&number)?;
        (!self.faults.contains_key(&number)).then_some(head)
    }

    /// The log's identity, from the last readable head or from the file of acknowledgements.
    fn identity(&mut self) -> Result<LogId, Why> {
        let by_file = self.known.newest.as_ref().map(|newest| newest.log);
        let Some(head) = self.heads.values().next_back() else {
            let what = "neither the head of a segment nor what was acknowledged can be read";
            let damage = Damage::new(segment_name(1), 0, what);
            return by_file.ok_or_else(|| Why::Damaged(Box::new(damage)));
        };
        let (id, before) = (head.log, head.previous.map(|previous| previous.log));
        match by_file.filter(|by_file| *by_file != id) {
            None => {}
            // A repair gave the log a new identity and was interrupted before it wrote that here.
            Some(by_file) if before == Some(by_file) => self.known.newest = None,
            Some(by_file) => {
                let what = format!("it is of the log {by_file}, and the segments are of {id}");
                self.damages.push(Damage::new(acknowledged::NAME, 0, what));
                self.known = acknowledged::AcknowledgedFile {
                    newest: None,
                    doubt: Some(format!("the file {} is of another log", acknowledged::NAME)),
                };
            }
        }
        Ok(id)
    }

    /// Checks that each segment is the one that the next one says it follows.
    fn check_links(&mut self) {
        for number in 1..=self.last {
            let Some(head) = self.head(number) else {
                continue;
            };
            if (number == 1) != head.previous.is_none() {
                let fault = "its head does not belong to this place".to_owned();
                self.faults.insert(number, fault);
                continue;
            }
            let Some(next) = self.head(number + 1) else {
                continue;
            };
            let Some(previous) = next.previous else {
                continue;
            };
            let len = self.lengths.get(&number);
            if head.log != previous.log {
                let fault = "it is a segment of another log".to_owned();
                self.faults.insert(number, fault);
            } else if len.is_none_or(|len| *len < previous.end)
                || next.before.records < head.before.records
            {
                self.suspicious.insert(number);
            }
        }
        let Some(newest) = &self.known.newest else {
            return;
        };
        let records = newest.state.records;
        let early = (newest.segment + 1..=self.last).find_map(|number| {
            let head = self.head(number)?;
            (head.before.records < records).then_some((number, head.before.records))
        });
        if let Some((number, before)) = early {
            let what = "it begins before the end of what was acknowledged";
            self.damages.push(Damage {
                records: Some(records - before),
                ..Damage::new(segment_name(number), 0, what)
            });
        }
    }

    fn read_frames(mut self, id: LogId, extent: &mut Extent) -> Result<LogSurvey, Why> {
        let last = self.last;
        // Where the frames of the segment before end.
        let mut reached: Option<(u64, LogExtent)> = None;
        let mut found: Option<(Head, Scanned)> = None;
        for number in 1..=last {
            let has_fault = |n| self.faults.contains_key(&n) || self.suspicious.contains(&n);
            let wanted = matches!(extent, Extent::All(_))
                || number == last
                || has_fault(number)
                || has_fault(number + 1);
            if !wanted {
                reached = None;
                continue;
            }
            let ends = self.known_end(number);
            let (head, has_file) = self.usable_head(number, id, reached.take(), &ends)?;
            let mut ignore = |_| {};
            let read: &mut dyn FnMut(u64) = match extent {
                Extent::End => &mut ignore,
                Extent::All(read) => *read,
            };
            let file = self.open(number)?.filter(|_| has_file);
            let scanned = match file {
                Some(file) => scan::scan(&file, &head, &ends, read)
                    .map_err(|e| Why::disk(&segment_name(number), &e))?,
                None => nothing_of(&head, &ends),
            };
            self.note(number, &head, &scanned, has_file);
            reached = Some((scanned.end, scanned.state.clone()));
            found = Some((head, scanned));
        }
        let (head, scanned) = found.expect("there is a last segment");
        let mut has_unknown_end = false;
        if let Some(doubt) = self.known.doubt.as_ref().filter(|_| scanned.is_torn) {
            has_unknown_end = true;
            let what = format!(
                "there is no whole frame, and whether it was acknowledged is not known: {doubt}"
            );
            self.damages
                .push(Damage::new(segment_name(last), scanned.end, what));
        }
        let is_foreign = |damage: &Damage| damage.file == acknowledged::NAME;
        has_unknown_end |= self.damages.iter().any(is_foreign);
        let total = scanned.state.records;
        for damage in &mut self.damages {
            // Until now this was the number of records before the damage.
            damage.after = damage.after.map(|before| total.saturating_sub(before));
        }
        Ok(LogSurvey {
            id,
            end: scanned.end,
            state: scanned.state,
            is_torn: scanned.is_torn,
            head,
            known: self.known,
            damages: self.damages,
            broken: self.broken,
            has_unknown_end,
        })
    }

    /// Where a segment ends according to other files.
    fn known_end(&self, number: u64) -> KnownEnd {
        let sealed = self.head(number + 1);
        let newest = self.known.newest.as_ref();
        let newest = newest.filter(|newest| newest.segment == number);
        KnownEnd {
            sealed: sealed.and_then(|head| Some((head.previous?.end, head.before.clone()))),
            acknowledged: newest.map(|newest| (newest.end, newest.state.clone())),
        }
    }

    /// The head of a segment, or a reconstructed one, and whether its file is usable.
    fn usable_head(
        &self,
        number: u64,
        id: LogId,
        reached: Option<(u64, LogExtent)>,
        ends: &KnownEnd,
    ) -> Result<(Head, bool), Why> {
        if let Some(head) = self.head(number) {
            return Ok((head.clone(), true));
        }
        let end = ends.sealed.as_ref().or(ends.acknowledged.as_ref());
        let mut before = reached
            .as_ref()
            .map_or_else(LogExtent::default, |(_, state)| state.clone());
        let partitions = end.map_or(0, |(_, state)| state.ends.len());
        before
            .ends
            .resize(partitions.max(before.ends.len()), Offset::ZERO);
        let is_foreign = self.heads.get(&number).is_some_and(|head| head.log != id);
        let salt = match self.open(number)?.filter(|_| !is_foreign) {
            Some(file) => {
                scan::find_salt(&file).map_err(|error| Why::disk(&segment_name(number), &error))?
            }
            None => None,
        };
        let head = Head {
            log: id,
            number,
            salt: salt.unwrap_or_else(new_salt),
            planned: end.map_or(HEAD, |(end, _)| *end),
            before,
            previous: (number > 1).then(|| Previous {
                log: id,
                end: reached.map_or(HEAD, |(end, _)| end),
            }),
        };
        Ok((head, salt.is_some()))
    }

    /// Notes the unreadable parts of a segment.
    fn note(&mut self, number: u64, head: &Head, scanned: &Scanned, has_file: bool) {
        let file = segment_name(number);
        let fault = self.faults.get(&number).cloned();
        let is_whole = scanned.gaps.is_empty() && scanned.bad.is_empty();
        if fault.is_none() && is_whole && !scanned.is_other {
            return;
        }
        if let Some(what) = fault.clone().filter(|_| has_file || is_whole) {
            // Perhaps nothing of the last segment was ever acknowledged.
            let is_unknown = number == self.last && !has_file && self.known.doubt.is_some();
            self.damages.push(Damage {
                records: (!is_unknown).then_some(0),
                after: Some(head.before.records),
                ..Damage::new(file.clone(), 0, what)
            });
        }
        for gap in &scanned.gaps {
            let what = fault.clone().filter(|_| !has_file);
            self.damages.push(Damage {
                file: file.clone(),
                at: if has_file { gap.at } else { 0 },
                what: what.unwrap_or_else(|| gap.what.clone()),
                records: Some(gap.records.end.saturating_sub(gap.records.start)),
                lost: gap.lost.clone(),
                after: Some(gap.records.end),
            });
        }
        for block in &scanned.bad {
            self.damages.push(Damage {
                file: file.clone(),
                at: block.at,
                what: block.what.clone(),
                records: Some(block.lost.offsets.end.since(block.lost.offsets.start)),
                lost: vec![block.lost.clone()],
                after: Some(block.records),
            });
        }
        if scanned.is_other {
            let what = "it does not end where the log continues";
            self.damages.push(Damage::new(file, scanned.end, what));
        }
        self.broken.push(Broken {
            head: head.clone(),
            scanned: scanned.clone(),
            has_file,
        });
    }
}

/// The scan of a segment of which nothing can be read.
fn nothing_of(head: &Head, ends: &KnownEnd) -> Scanned {
    let before = &head.before;
    let end = ends.sealed.as_ref().or(ends.acknowledged.as_ref());
    let Some((end, after)) = end.filter(|(end, _)| *end > HEAD) else {
        return Scanned {
            end: HEAD,
            state: before.clone(),
            ..Scanned::default()
        };
    };
    let lost = Partition::all().zip(before.ends.iter().zip(&after.ends));
    let lost = lost.filter(|(_, (before, after))| before < after);
    let gap = MissingFrames {
        at: HEAD,
        to: *end,
        what: String::new(),
        sequences: before.sequence..after.sequence,
        records: before.records..after.records,
        lost: lost
            .map(|(partition, (before, after))| LostRecords {
                partition,
                offsets: *before..*after,
            })
            .collect(),
    };
    Scanned {
        end: *end,
        state: after.clone(),
        gaps: vec![gap],
        ..Scanned::default()
    }
}

/// `None` if there is no such file.
fn open(disk: &dyn Disk, number: u64) -> io::Result<Option<Arc<dyn DiskFile>>> {
    match disk.open(&segment_name(number), DiskAccess::Read) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        file => file.map(Some),
    }
}

/// A segment with its head.
pub fn open_segment(
    disk: &dyn Disk,
    number: u64,
) -> Result<(Head, Arc<dyn DiskFile>), SegmentError> {
    let failed = |error| SegmentError::Disk(format!("{}: {error}", segment_name(number)));
    let damaged = |what: &str| SegmentError::Damaged(what.into());
    let file = open(disk, number).map_err(failed)?;
    let file = file.ok_or_else(|| damaged("the file is missing"))?;
    let mut bytes = vec![0; HEAD as usize];
    let read = file.read_at(0, &mut bytes);
    let read = read.map_err(|error| damaged(&error.to_string()))?;
    match format::unseal::<Head>(&bytes[..read]) {
        Ok(head) if head.number == number => Ok((head, file)),
        Ok(head) => Err(damaged(&format!("it is segment {} of a log", head.number))),
        Err(FormatFault::Newer(found)) => Err(SegmentError::Newer(found)),
        Err(FormatFault::Damaged) if read == 0 => Err(damaged("the file is empty")),
        Err(FormatFault::Damaged) => Err(damaged("its head cannot be read")),
    }
}

/// Why the head of a segment cannot be read. No text names a folder.
pub enum SegmentError {
    Damaged(String),
    /// A newer program wrote it, in this format.
    Newer(u32),
    Disk(String),
}

pub fn new_salt() -> u64 {
    // Preallocated files contain zeros.
    (uuid::Uuid::new_v4().as_u128() as u64).max(1)
}

/// The end to record as acknowledged after a survey.
pub fn acknowledged_at(survey: &LogSurvey) -> Acknowledged {
    let newest = survey.known.newest.as_ref();
    Acknowledged {
        number: newest.map_or(0, |newest| newest.number),
        log: survey.id,
        segment: survey.head.number,
        end: survey.end,
        state: survey.state.clone(),
    }
}
