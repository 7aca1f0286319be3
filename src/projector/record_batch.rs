//! A batch of records: read together, decoded and grouped by operation, with its rows for the
//! history. All of this follows from the records alone, so the reading thread does it while the
//! workers still write the batch before. What is read is dealt to the workers: each gets a batch
//! with the operations of its slices, and all of them share the decoded records.

use super::step::{Rules, Step, step};
use crate::clock;
use crate::domain::{Body, Event, OperationId, Slice, Slices, Timestamp, Workers};
use crate::event_log::Logged;
use crate::rows::letters;
use crate::rows::records::{self, Arrived};
use crate::rows::state::SnapshotKey;
use crate::store::{Batch, Length};
use crate::wire::anchor::{Anchor, Mark};
use crate::wire::position::{NextOffsets, Offset, Partition};
use crate::wire::record::Record;
use hashbrown::{DefaultHashBuilder, HashTable};
use std::collections::BTreeMap;
use std::hash::BuildHasher;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

/// One worker's part of what was read. May be empty.
pub struct RecordBatch {
    content: Arc<Content>,
    /// The worker's among the groups of the content.
    groups: Range<usize>,
    /// The worker's among the records that are no events.
    others: Range<usize>,
    /// The rows of the history, followed by those of the projection, in one piece of memory.
    pub(super) batch: Batch,
    history: Length,
    /// Size of its events in bytes.
    bytes: usize,
}

/// For whom records are read.
#[derive(Debug, Clone)]
pub struct Audience {
    pub workers: Workers,
    /// Records of other slices are left out.
    pub wanted: Slices,
    /// Where each slice continues, if not all are where the reader begins: what a slice has is
    /// left out.
    pub seen: Option<Vec<NextOffsets>>,
}

impl Audience {
    /// One worker, which has seen what is before the reader's beginning.
    pub const ONE: Audience = Audience {
        workers: Workers::ONE,
        wanted: Slices::ALL,
        seen: None,
    };

    fn leave_out(&self, slice: Slice, logged: &Logged) -> bool {
        let seen = self.seen.as_ref().map(|seen| &seen[usize::from(slice.0)]);
        !self.wanted.contains(slice) || seen.is_some_and(|seen| seen.has_passed(logged.at))
    }

    /// Whether all records are for somebody.
    fn leave_out_nothing(&self) -> bool {
        self.wanted == Slices::ALL && self.seen.is_none()
    }
}

struct Read {
    rules: Rules,
    records: Vec<Logged>,
    next: NextOffsets,
    /// The earliest arrival, if known.
    oldest: Option<Timestamp>,
    spans: Spans,
    /// Some slices have seen some of it.
    repeats: bool,
}

/// By partition, what was read of it.
type Spans = BTreeMap<Partition, Span>;

#[derive(Debug, Clone, Copy)]
pub(super) struct Span {
    pub first: Offset,
    pub last: Anchor,
}

self_cell::self_cell!(
    /// The records and their decoded form. The events borrow from it.
    pub(super) struct Content {
        owner: Read,
        #[covariant]
        dependent: Sorted,
    }
);

struct Sorted<'c> {
    /// The decoded form of each record.
    steps: Vec<Step<'c>>,
    /// In the order of their keys: RocksDB inserts a row faster if it follows the one before.
    groups: Vec<Group>,
    /// Indexes of the records of all groups, one group after the other.
    order: Vec<u32>,
    /// The records that are no events, with their slices and in their order.
    others: Vec<(Slice, u32)>,
}

/// The events of one operation in the order of arrival. Their result must not depend on where a
/// batch ends.
#[derive(Default)]
struct Group {
    /// The key of the operation's snapshot.
    key: SnapshotKey,
    /// The group's range in `order`.
    places: Range<usize>,
    /// Events whose time is further ahead of their arrival than allowed.
    clock_ahead: u32,
}

/// One operation's part of a batch.
#[derive(Clone, Copy)]
pub(super) struct Part<'c> {
    pub id: OperationId<'c>,
    /// The key of its snapshot.
    pub key: &'c SnapshotKey,
    records: &'c [Logged],
    steps: &'c [Step<'c>],
    places: &'c [u32],
}

impl<'c> Part<'c> {
    /// Its events in the order of arrival, each with its record.
    pub fn arrived(self) -> impl Iterator<Item = Arrived<'c>> + Clone {
        let places = self.places.iter().map(|place| *place as usize);
        places.filter_map(move |place| match &self.steps[place] {
            Step::Apply(event) => Some((event, &self.records[place])),
            Step::DeadLetter(_)
            | Step::Control(..)
            | Step::Foreign
            | Step::Halt(_)
            | Step::LeftOut => None,
        })
    }
}

impl RecordBatch {
    /// For one worker. `next`: the reader's position after the records. A partition that is missing
    /// there continues after its last record.
    pub fn decode(records: Vec<Logged>, next: NextOffsets, rules: &Rules) -> RecordBatch {
        RecordBatch::decode_with(records, next, rules, Batch::default())
    }

    /// The same, but reuses memory: the write batch of a record batch that was written.
    pub fn decode_with(
        records: Vec<Logged>,
        next: NextOffsets,
        rules: &Rules,
        batch: Batch,
    ) -> RecordBatch {
        let mut batches = vec![batch];
        let mut dealt = RecordBatch::deal(records, next, rules, &Audience::ONE, &mut batches);
        dealt.pop().expect("one for each worker").1
    }

    /// A batch for each worker that wants some of the records, with the worker's number. `spares`:
    /// write batches to reuse.
    pub fn deal(
        records: Vec<Logged>,
        next: NextOffsets,
        rules: &Rules,
        audience: &Audience,
        spares: &mut Vec<Batch>,
    ) -> Vec<(usize, RecordBatch)> {
        let spans = spans(&records);
        let is_seen = |seen: &NextOffsets| {
            let mut spans = spans.iter();
            spans.any(|(partition, span)| seen.get(partition) > Some(&span.first))
        };
        let repeats = audience.seen.iter().flatten().any(is_seen);
        let read = Read {
            rules: *rules,
            oldest: records.iter().filter_map(|l| l.record.arrival()).min(),
            spans,
            records,
            next,
            repeats,
        };
        let content = Content::new(read, |read| {
            Sorted::of(&read.records, &read.rules, audience)
        });
        let content = Arc::new(content);
        let sorted = content.borrow_dependent();
        let mut dealt = Vec::with_capacity(audience.workers.count());
        let (mut group, mut other) = (0, 0);
        for (worker, slices) in audience.workers.all().enumerate() {
            let is_of = |slice: Slice| slice < slices.end();
            let groups = group + sorted.groups[group..].partition_point(|g| is_of(g.key.slice()));
            let others = other + sorted.others[other..].partition_point(|(slice, _)| is_of(*slice));
            if audience.wanted.meet(slices) {
                let ranges = (group..groups, other..others);
                let spare = spares.pop().unwrap_or_default();
                dealt.push((worker, RecordBatch::of(&content, ranges, spare)));
            }
            (group, other) = (groups, others);
        }
        dealt
    }

    fn of(
        content: &Arc<Content>,
        (groups, others): (Range<usize>, Range<usize>),
        mut batch: Batch,
    ) -> RecordBatch {
        batch.clear();
        let (mut arrived, mut row, mut bytes) = (Vec::new(), Vec::new(), 0);
        for part in content.parts(&groups) {
            arrived.clear();
            arrived.extend(part.arrived());
            bytes += arrived.iter().map(|(_, l)| l.record.size()).sum::<usize>();
            records::put(part.id, &mut arrived, &mut row, &mut batch);
        }
        RecordBatch {
            content: content.clone(),
            groups,
            others,
            history: batch.length(),
            batch,
            bytes,
        }
    }

    /// Returns its memory for another batch.
    pub fn spend(self) -> Batch {
        self.batch
    }

    /// All that was read, for all workers.
    pub fn read(&self) -> &[Logged] {
        &self.owner().records
    }

    pub fn rules(&self) -> &Rules {
        &self.owner().rules
    }

    /// The reader's position after it.
    pub fn next(&self) -> &NextOffsets {
        &self.owner().next
    }

    /// Whether the positions are all that it has for its worker.
    pub fn is_empty(&self) -> bool {
        self.groups.is_empty() && self.others.is_empty()
    }

    /// The number of its records.
    pub fn records(&self) -> usize {
        self.applied() + self.others.len()
    }

    /// Size of its events in bytes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The earliest known arrival.
    pub fn oldest(&self) -> Option<Timestamp> {
        self.owner().oldest
    }

    /// The age of the earliest arrival by this machine's clock; at least zero.
    pub fn age(&self) -> Option<Duration> {
        let arrived = self.oldest()?.as_millis().try_into().unwrap_or(0);
        Some(clock::since_1970().saturating_sub(Duration::from_millis(arrived)))
    }

    /// The number of its events.
    pub(super) fn applied(&self) -> usize {
        let groups = &self.sorted().groups[self.groups.clone()];
        let ends = groups.first().zip(groups.last());
        ends.map_or(0, |(first, last)| last.places.end - first.places.start)
    }

    /// The number of its events whose time is further ahead of their arrival than allowed.
    pub(super) fn clock_ahead(&self) -> u64 {
        let groups = &self.sorted().groups[self.groups.clone()];
        groups
            .iter()
            .map(|group| u64::from(group.clock_ahead))
            .sum()
    }

    /// By partition, what was read, for all workers.
    pub(super) fn spans(&self) -> &Spans {
        &self.owner().spans
    }

    /// Whether it was read again for slices that had not seen all of it.
    pub(super) fn repeats(&self) -> bool {
        self.owner().repeats
    }

    /// Its part of what was read, and the rows to write, without any rows that were added after the
    /// history.
    pub(super) fn open(&mut self) -> (WorkerPart<'_>, &mut Batch) {
        self.batch.truncate(self.history);
        let opened = WorkerPart {
            content: &self.content,
            groups: &self.groups,
            others: &self.others,
        };
        (opened, &mut self.batch)
    }

    fn owner(&self) -> &Read {
        self.content.borrow_owner()
    }

    fn sorted(&self) -> &Sorted<'_> {
        self.content.borrow_dependent()
    }
}

/// One worker's part of what was read.
pub(super) struct WorkerPart<'c> {
    content: &'c Content,
    groups: &'c Range<usize>,
    others: &'c Range<usize>,
}

impl<'c> WorkerPart<'c> {
    pub fn parts(&self) -> impl Iterator<Item = Part<'c>> {
        self.content.parts(self.groups)
    }

    /// Every record that is not an event.
    pub fn others(&self) -> impl Iterator<Item = (&'c Logged, &'c Step<'c>)> {
        let records = &self.content.borrow_owner().records;
        let sorted = self.content.borrow_dependent();
        let others = sorted.others[self.others.clone()].iter();
        others.map(|(_, place)| (&records[*place as usize], &sorted.steps[*place as usize]))
    }
}

impl Content {
    fn parts(&self, groups: &Range<usize>) -> impl Iterator<Item = Part<'_>> {
        let sorted = self.borrow_dependent();
        sorted.groups[groups.clone()].iter().map(|group| Part {
            id: group.key.id(),
            key: &group.key,
            records: &self.borrow_owner().records,
            steps: &sorted.steps,
            places: &sorted.order[group.places.clone()],
        })
    }
}

fn spans(records: &[Logged]) -> Spans {
    // The first offset, and the index of the last record.
    let mut spans = BTreeMap::new();
    let mut end = 0;
    for run in records.chunk_by(|a, b| a.at.partition == b.at.partition) {
        end += run.len();
        let first = run[0].at;
        let (_, last) = spans
            .entry(first.partition)
            .or_insert((first.offset, end - 1));
        let before = (*last < end - run.len()).then(|| records[*last].at);
        assert!(
            before.is_none_or(|before| before.offset < first.offset)
                && run.is_sorted_by(|a, b| a.at.offset < b.at.offset),
            "a reader delivers each partition in order and once: {first} after {before:?}"
        );
        *last = end - 1;
    }
    let span = |(partition, (first, last)): (Partition, (Offset, usize))| {
        let Logged { at, record } = &records[last];
        let last = Anchor {
            offset: at.offset,
            mark: Mark::of(record),
        };
        (partition, Span { first, last })
    };
    spans.into_iter().map(span).collect()
}

impl<'c> Sorted<'c> {
    fn of(records: &'c [Logged], rules: &Rules, audience: &Audience) -> Sorted<'c> {
        let mut places = HashTable::with_capacity(1024);
        let hasher = DefaultHashBuilder::default();
        let mut groups: Vec<Group> = Vec::new();
        // The group of each event.
        let mut of: Vec<(u32, u32)> = Vec::with_capacity(records.len());
        let mut others: Vec<(Slice, u32)> = Vec::new();
        let takes_all = audience.leave_out_nothing();
        let mut decode = |(place, logged): (usize, &'c Logged)| {
            let place = place as u32;
            let key = logged.record.key.as_deref();
            // An event's key is its operation, if it has one.
            let by_key = || letters::slice_of(key, logged.at);
            let is_keyed = key.is_some_and(|key| !key.is_empty());
            if !takes_all && is_keyed && audience.leave_out(by_key(), logged) {
                return Step::LeftOut;
            }
            let mut step = step(logged, rules);
            let Step::Apply(event) = &mut step else {
                let slice = by_key();
                if !takes_all && audience.leave_out(slice, logged) {
                    return Step::LeftOut;
                }
                others.push((slice, place));
                return step;
            };
            if !takes_all && audience.leave_out(event.operation().slice(), logged) {
                return Step::LeftOut;
            }
            // Here, because a large text is still in the processor's cache.
            event.kind.bodies_mut().for_each(Body::name);
            let id = event.operation_id.as_bytes();
            let is_of = |group: &Group| group.key.id_bytes() == id;
            let hash = hasher.hash_one(id);
            let found = places.entry(
                hash,
                |group: &u32| is_of(&groups[*group as usize]),
                |group| hasher.hash_one(groups[*group as usize].key.id_bytes()),
            );
            let number = *found
                .or_insert_with(|| {
                    groups.push(Group {
                        key: SnapshotKey::of(event.operation()),
                        places: 0..0,
                        clock_ahead: 0,
                    });
                    groups.len() as u32 - 1
                })
                .get();
            let group = &mut groups[number as usize];
            group.places.end += 1;
            group.clock_ahead += u32::from(is_clock_ahead(&logged.record, event, rules));
            of.push((number, place));
            step
        };
        let steps = records.iter().enumerate().map(&mut decode).collect();
        let order = sort(&mut groups, &of);
        if audience.workers != Workers::ONE {
            // Those of one slice keep their order.
            others.sort_by_key(|(slice, _)| *slice);
        }
        Sorted {
            steps,
            groups,
            order,
            others,
        }
    }
}

/// Sorts the groups by their keys and assigns the events to them.
fn sort(groups: &mut Vec<Group>, of: &[(u32, u32)]) -> Vec<u32> {
    let numbers = groups.iter().map(|group| group.key.head());
    let mut sorted: Vec<(u64, u32)> = numbers.zip(0..).collect();
    sorted.sort_unstable_by(|(a, a_place), (b, b_place)| {
        let key = |place: &u32| &groups[*place as usize].key;
        a.cmp(b).then_with(|| key(a_place).cmp(key(b_place)))
    });
    // The place of the next event of each group.
    let mut next = vec![0; groups.len()];
    let mut begin = 0;
    for (_, group) in &sorted {
        let places = &mut groups[*group as usize].places;
        next[*group as usize] = begin;
        *places = begin..begin + places.end;
        begin = places.end;
    }
    let mut order = vec![0; of.len()];
    for (group, place) in of {
        let next = &mut next[*group as usize];
        order[*next] = *place;
        *next += 1;
    }
    let taken = sorted.iter();
    *groups = taken
        .map(|(_, group)| std::mem::take(&mut groups[*group as usize]))
        .collect();
    order
}

/// Only if the arrival is the log's own and not the producer's timestamp.
fn is_clock_ahead(record: &Record, event: &Event, rules: &Rules) -> bool {
    let allowed = rules.clock_ahead;
    let is_after = |arrival: Timestamp| event.key.time > arrival.plus(allowed);
    !record.claimed && allowed != Duration::MAX && record.arrival().is_some_and(is_after)
}
