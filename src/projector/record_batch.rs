//! A batch of records: read together, decoded and grouped by operation, with its rows for the
//! history. All of this follows from the records alone, so the reading thread does it while the
//! projection still writes the batch before.

use super::step::{Rules, Step, step};
use crate::clock;
use crate::domain::{Body, Event, OperationId, Timestamp};
use crate::event_log::Logged;
use crate::rows::records::{self, Arrived};
use crate::rows::state::SnapshotKey;
use crate::store::{Batch, Length};
use crate::wire::position::{NextOffsets, Offset, Partition};
use crate::wire::record::Record;
use hashbrown::{DefaultHashBuilder, HashTable};
use std::collections::BTreeMap;
use std::hash::BuildHasher;
use std::ops::Range;
use std::time::Duration;

/// May be empty, if the reader only skipped offsets without records.
pub struct RecordBatch {
    content: Content,
    /// The rows of the history, followed by those of the projection, in one piece of memory.
    pub(super) batch: Batch,
    history: Length,
}

struct Read {
    rules: Rules,
    records: Vec<Logged>,
    next: NextOffsets,
    bytes: usize,
    /// The earliest arrival, if known.
    oldest: Option<Timestamp>,
    /// By partition, the first offset and the index of the last record.
    spans: BTreeMap<Partition, (Offset, usize)>,
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
    clock_ahead: u64,
}

/// The events of one operation in the order of arrival. Their result must not depend on where a
/// batch ends.
#[derive(Default)]
struct Group {
    /// The key of the operation's snapshot.
    key: SnapshotKey,
    /// The group's range in `order`.
    places: Range<usize>,
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
            Step::DeadLetter(_) | Step::Control(..) | Step::Foreign | Step::Halt(_) => None,
        })
    }
}

impl RecordBatch {
    /// `next`: the reader's position after the records. A partition that is missing there
    /// continues after its last record.
    pub fn decode(records: Vec<Logged>, next: NextOffsets, rules: &Rules) -> RecordBatch {
        RecordBatch::decode_with(records, next, rules, Batch::default())
    }

    /// The same, but reuses memory: the write batch of a record batch that was written.
    pub fn decode_with(
        records: Vec<Logged>,
        next: NextOffsets,
        rules: &Rules,
        mut batch: Batch,
    ) -> RecordBatch {
        let read = Read {
            rules: *rules,
            bytes: records.iter().map(|logged| logged.record.size()).sum(),
            oldest: records.iter().filter_map(|l| l.record.arrival()).min(),
            spans: spans(&records),
            records,
            next,
        };
        let content = Content::new(read, |read| Sorted::of(&read.records, &read.rules));
        batch.clear();
        let (mut arrived, mut row) = (Vec::new(), Vec::new());
        for part in content.parts() {
            arrived.clear();
            arrived.extend(part.arrived());
            records::put(part.id, &mut arrived, &mut row, &mut batch);
        }
        RecordBatch {
            content,
            history: batch.length(),
            batch,
        }
    }

    /// Returns its memory for another batch.
    pub fn spend(self) -> Batch {
        self.batch
    }

    pub fn records(&self) -> &[Logged] {
        &self.content.borrow_owner().records
    }

    pub fn rules(&self) -> &Rules {
        &self.content.borrow_owner().rules
    }

    pub fn next(&self) -> &NextOffsets {
        &self.content.borrow_owner().next
    }

    /// Size of all records in bytes.
    pub fn bytes(&self) -> usize {
        self.content.borrow_owner().bytes
    }

    /// The earliest known arrival.
    pub fn oldest(&self) -> Option<Timestamp> {
        self.content.borrow_owner().oldest
    }

    /// The age of the earliest arrival by this machine's clock; at least zero.
    pub fn age(&self) -> Option<Duration> {
        let arrived = self.oldest()?.as_millis().try_into().unwrap_or(0);
        Some(clock::since_1970().saturating_sub(Duration::from_millis(arrived)))
    }

    /// The number of events.
    pub(super) fn applied(&self) -> u64 {
        self.sorted().order.len() as u64
    }

    /// The number of events whose time is further ahead of their arrival than allowed.
    pub(super) fn clock_ahead(&self) -> u64 {
        self.sorted().clock_ahead
    }

    /// By partition, the first offset and the last record.
    pub(super) fn spans(&self) -> impl Iterator<Item = (Partition, Offset, &Logged)> {
        let read = self.content.borrow_owner();
        let spans = read.spans.iter();
        spans.map(|(partition, (first, last))| (*partition, *first, &read.records[*last]))
    }

    /// The content and the rows to write, without any rows that were added after the history.
    pub(super) fn open(&mut self) -> (&Content, &mut Batch) {
        self.batch.truncate(self.history);
        (&self.content, &mut self.batch)
    }

    fn sorted(&self) -> &Sorted<'_> {
        self.content.borrow_dependent()
    }
}

impl Content {
    pub fn parts(&self) -> impl Iterator<Item = Part<'_>> {
        let sorted = self.borrow_dependent();
        sorted.groups.iter().map(|group| Part {
            id: group.key.id(),
            key: &group.key,
            records: &self.borrow_owner().records,
            steps: &sorted.steps,
            places: &sorted.order[group.places.clone()],
        })
    }

    /// Every record that is not an event.
    pub fn others(&self) -> impl Iterator<Item = (&Logged, &Step<'_>)> {
        let records = self.borrow_owner().records.iter();
        let steps = records.zip(&self.borrow_dependent().steps);
        steps.filter(|(_, step)| !matches!(step, Step::Apply(_)))
    }
}

fn spans(records: &[Logged]) -> BTreeMap<Partition, (Offset, usize)> {
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
    spans
}

impl<'c> Sorted<'c> {
    fn of(records: &'c [Logged], rules: &Rules) -> Sorted<'c> {
        let mut places = HashTable::with_capacity(1024);
        let hasher = DefaultHashBuilder::default();
        let mut groups: Vec<Group> = Vec::new();
        // The group of each event.
        let mut of: Vec<(u32, u32)> = Vec::with_capacity(records.len());
        let mut clock_ahead = 0;
        let mut decode = |(place, logged): (usize, &'c Logged)| {
            let mut step = step(logged, rules);
            if let Step::Apply(event) = &mut step {
                // Here, because a large text is still in the processor's cache.
                event.kind.bodies_mut().for_each(Body::name);
                clock_ahead += u64::from(is_clock_ahead(&logged.record, event, rules));
                let id = event.operation_id.as_bytes();
                let is_of = |group: &Group| group.key.id_bytes() == id;
                let hash = hasher.hash_one(id);
                let found = places.entry(
                    hash,
                    |group: &u32| is_of(&groups[*group as usize]),
                    |group| hasher.hash_one(groups[*group as usize].key.id_bytes()),
                );
                let group = *found
                    .or_insert_with(|| {
                        groups.push(Group {
                            key: SnapshotKey::of(event.operation()),
                            places: 0..0,
                        });
                        groups.len() as u32 - 1
                    })
                    .get();
                groups[group as usize].places.end += 1;
                of.push((group, place as u32));
            }
            step
        };
        let steps = records.iter().enumerate().map(&mut decode).collect();
        let order = deal(&mut groups, &of);
        Sorted {
            steps,
            groups,
            order,
            clock_ahead,
        }
    }
}

/// Sorts the groups by their keys and assigns the events to them.
fn deal(groups: &mut Vec<Group>, of: &[(u32, u32)]) -> Vec<u32> {
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
