//! The place of a position among the changes of several workers, against a model that knows every
//! event of every row.

use super::*;
use crate::domain::{Slice, Workers};
use crate::rows::meta::{Place, Runs, Source};
use crate::store::memory::Memory;
use crate::store::{Batch, Durability, view};
use crate::wire::anchor::{Anchor, Mark};
use crate::wire::change::{Moves, encode};

struct Rng(u64);

impl Rng {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}

const PARTITIONS: u32 = 3;

/// An event: its slice, and where it is in the log.
type LoggedEvent = (Slice, Partition, Offset);

/// A row, whole, with what it says.
struct WrittenRow {
    number: ChangeNumber,
    end: ChangeNumber,
    events: Vec<LoggedEvent>,
    is_uneven: bool,
    is_deleted: bool,
}

struct Model {
    rng: Rng,
    db: Memory,
    /// The slice of each event, by partition.
    log: Vec<Vec<Slice>>,
    workers: Workers,
    /// By slice.
    reached: Vec<LastOffsets>,
    /// Writes whose numbers are taken, at most one of each worker: its number, the positions after
    /// it, and what is written.
    under_way: Vec<(usize, WrittenRow, Vec<u8>, LastOffsets)>,
    next: ChangeNumber,
    /// All rows that were ever written, without those that a crash lost.
    rows: Vec<WrittenRow>,
    runs: Runs,
    /// What clients may have been given.
    tokens: Vec<LastOffsets>,
    trimmed: ChangeNumber,
}

fn name(slice: Slice) -> String {
    let names = (0..).map(|n| format!("op-{n}"));
    let mut own = names.filter(|id| OperationId(id).slice() == slice);
    own.next().expect("some name is in each slice")
}

impl Model {
    fn new(seed: u64) -> Model {
        let mut rng = Rng(seed * 2 + 1);
        for _ in 0..20 {
            rng.below(1);
        }
        // Few slices have operations, so that rows without any are common.
        let slices: Vec<Slice> = (0..6).map(|_| Slice(rng.below(64) as u8)).collect();
        let mut partition = || (0..60).map(|_| slices[rng.below(6) as usize]).collect();
        Model {
            log: (0..PARTITIONS).map(|_| partition()).collect(),
            rng,
            db: Memory::default(),
            workers: Workers::ONE,
            reached: vec![LastOffsets::default(); SLICES.into()],
            under_way: Vec::new(),
            next: ChangeNumber::ZERO,
            rows: Vec::new(),
            runs: Runs::from([(Slice(0), Place::default())]),
            tokens: vec![LastOffsets::default()],
            trimmed: ChangeNumber::ZERO,
        }
    }

    fn lowest(&self, slices: Slices) -> LastOffsets {
        let mut each = slices.iter().map(|slice| &self.reached[slice.0 as usize]);
        let mut lowest = each.next().cloned().unwrap_or_default();
        for other in each {
            lowest.retain(|p, offset| {
                *offset = (*offset).min(other.get(p).copied().unwrap_or_default());
                other.contains_key(p)
            });
        }
        lowest
    }

    /// A worker takes a number for its next batch.
    fn take(&mut self, names: &[String]) {
        let worker = self.rng.below(self.workers.count() as u64) as usize;
        if self.under_way.iter().any(|(of, ..)| *of == worker) {
            return;
        }
        let slices = self.workers.slices(worker);
        let before = self.lowest(slices);
        let mut to = before.clone();
        let mut events = Vec::new();
        for p in 0..PARTITIONS {
            let partition = Partition(p);
            let first = before.get(&partition).map_or(0, |offset| offset.0 + 1);
            let left = self.log[p as usize].len() as u64 - first;
            let count = self.rng.below(9).saturating_sub(3).min(left);
            for offset in first..first + count {
                to.insert(partition, Offset(offset));
                let slice = self.log[p as usize][offset as usize];
                let has = self.reached[slice.0 as usize].get(&partition) >= Some(&Offset(offset));
                if slices.contains(slice) && !has {
                    events.push((slice, partition, Offset(offset)));
                }
            }
        }
        let is_uneven = { slices.iter() }.any(|slice| self.reached[slice.0 as usize] != before);
        let after: Vec<LastOffsets> = slices.iter().map(|slice| self.joined(slice, &to)).collect();
        let lowest = |p: &Partition| after.iter().map(|at| at.get(p).copied()).min().flatten();
        let moved: Vec<PartitionMove> = (0..PARTITIONS)
            .map(Partition)
            .filter(|p| before.get(p) != lowest(p).as_ref())
            .map(|partition| PartitionMove {
                partition,
                before: before.get(&partition).copied(),
                after: lowest(&partition).expect("it was moved"),
            })
            .collect();
        if moved.is_empty() {
            return;
        }
        let mut ids: Vec<&String> = { events.iter() }
            .map(|(slice, ..)| &names[slice.0 as usize])
            .collect();
        ids.sort();
        ids.dedup();
        let moves = Moves {
            slices,
            is_uneven,
            moved,
        };
        let bytes = encode(&moves, ids.iter().map(|id| OperationId(id)));
        let row = WrittenRow {
            number: self.next,
            end: self.next.after(ids.len()),
            events,
            is_uneven,
            is_deleted: false,
        };
        self.next = row.end;
        self.under_way.push((worker, row, bytes, to));
    }

    fn joined(&self, slice: Slice, to: &LastOffsets) -> LastOffsets {
        let mut at = self.reached[slice.0 as usize].clone();
        to.iter().for_each(|(p, offset)| at.raise(*p, *offset));
        at
    }

    fn write(&mut self, place: usize) {
        let (worker, row, bytes, to) = self.under_way.swap_remove(place);
        let slices = self.workers.slices(worker);
        for slice in slices.iter() {
            self.reached[slice.0 as usize] = self.joined(slice, &to);
        }
        let mut batch = Batch::default();
        changes::put(row.number, &bytes, &mut batch);
        self.put_runs(&mut batch);
        let written = self.db.write(&batch, Durability::Buffered);
        written.expect("memory takes it");
        self.rows.push(row);
        // A read of one operation of the worker, and one of all operations.
        let of = [self.lowest(slices), self.lowest(Slices::ALL)];
        self.tokens.extend(of);
    }

    fn put_runs(&mut self, batch: &mut Batch) {
        let mut runs = Runs::new();
        for (slice, at) in self.reached.iter().enumerate() {
            let anchor = |(p, offset): (&Partition, &Offset)| {
                let mark = Mark {
                    digest: 0,
                    arrived_ms: 0,
                };
                let offset = *offset;
                (*p, Anchor { offset, mark })
            };
            let place = Place {
                anchors: at.iter().map(anchor).collect(),
                next: at.next(),
            };
            if runs.values().next_back() != Some(&place) {
                runs.insert(Slice(slice as u8), place);
            }
        }
        meta::put_runs(Source::Events, &self.runs, &runs, batch);
        self.runs = runs;
    }

    /// Another number of workers, without what was under way.
    fn restart(&mut self) {
        self.under_way.clear();
        let ends = view(&self.db, changes::ends).expect("memory has it");
        self.next = ends.next;
        self.workers = Workers::new(1 + self.rng.below(9) as usize);
    }

    fn trim(&mut self) {
        let written = self.rows.len() as u64;
        if written == 0 {
            return;
        }
        let row = &self.rows[self.rng.below(written) as usize];
        self.trimmed = self.trimmed.max(row.number);
        let until = self.trimmed;
        let rows = self.rows.iter_mut().filter(|row| row.number < until);
        rows.for_each(|row| row.is_deleted = true);
        let mut batch = Batch::default();
        let range = ChangeNumber::ZERO..until;
        view(&self.db, |view| {
            changes::delete(view, range.clone(), &mut batch)
        })
        .and_then(|()| self.db.write(&batch, Durability::Buffered))
        .expect("memory takes it");
    }

    /// A position that a client may have: one that it was given, or several joined.
    fn token(&mut self) -> LastOffsets {
        let mut token = LastOffsets::default();
        for _ in 0..1 + self.rng.below(2) {
            let other = self.rng.below(self.tokens.len() as u64) as usize;
            for (p, offset) in self.tokens[other].clone() {
                token.raise(p, offset);
            }
        }
        token
    }

    fn check(&mut self) -> Option<ChangeNumber> {
        let seen = self.token();
        let slices = match self.rng.below(3) {
            0 => Slice(self.rng.below(64) as u8).into(),
            1 => self.workers.slices(0),
            _ => Slices::ALL,
        };
        let found = view(&self.db, |view| find(view, slices, &seen)).expect("memory has it");
        let lacks = |(slice, p, offset): &&LoggedEvent| {
            slices.contains(*slice) && seen.get(p).is_none_or(|seen| seen < offset)
        };
        let lacking = self
            .rows
            .iter()
            .filter(|row| row.events.iter().any(|e| lacks(&e)));
        let first = lacking.map(|row| row.number).min();
        match found {
            ResumeFrom::At { next, mixed_until } => {
                assert!(mixed_until >= next);
                assert!(
                    first.is_none_or(|first| next <= first),
                    "{next:?} {first:?} {seen:?}"
                );
                let mut lost = self.rows.iter().filter(|row| row.is_deleted);
                let is_lost = lost.any(|row| row.events.iter().any(|e| lacks(&e)));
                assert!(!is_lost, "{first:?} is not kept any more: {seen:?}");
                let ends = self.rows.iter().flat_map(|row| [row.number, row.end]);
                let is_place = next == ChangeNumber::ZERO || { ends }.any(|end| end == next);
                assert!(is_place, "{next:?} is no row's");
                Some(next)
            }
            ResumeFrom::BeforeWindow => {
                let was_uneven = self.rows.iter().any(|row| row.is_uneven);
                let is_whole = self.trimmed == ChangeNumber::ZERO && !was_uneven;
                assert!(!is_whole, "nothing was deleted");
                None
            }
        }
    }
}

#[test]
fn every_change_that_a_position_lacks_is_after_its_place() {
    let names: Vec<String> = (0..SLICES).map(|slice| name(Slice(slice))).collect();
    let (mut places, mut resets, mut late) = (0, 0, 0);
    for seed in 0..500 {
        let mut model = Model::new(seed);
        model.restart();
        for _ in 0..120 {
            match model.rng.below(20) {
                0 => model.restart(),
                1 if seed % 3 == 0 => model.trim(),
                2..10 => model.take(&names),
                10..16 if !model.under_way.is_empty() => {
                    let place = model.rng.below(model.under_way.len() as u64) as usize;
                    model.write(place);
                }
                _ => match model.check() {
                    Some(next) => {
                        places += 1;
                        late += usize::from(next > ChangeNumber::ZERO);
                    }
                    None => resets += 1,
                },
            }
        }
        // All that is written is contained in what all have reached.
        let all = model.reached.clone();
        let mut token = LastOffsets::default();
        { all.iter() }.for_each(|at| at.iter().for_each(|(p, o)| token.raise(*p, *o)));
        let found = view(&model.db, |view| find(view, Slices::ALL, &token));
        let ends = view(&model.db, changes::ends).expect("memory has it");
        if !model.rows.is_empty() {
            let (next, mixed_until) = (ends.next, ends.next);
            assert_eq!(found, Ok(ResumeFrom::At { next, mixed_until }), "{seed}");
        }
    }
    assert!(
        late > places / 2 && resets > 500,
        "{places} {late} {resets}"
    );
}
