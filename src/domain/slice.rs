//! Slices: groups of shards. A slice is what one worker folds, with its own positions; it can be
//! listed, digested, dropped and rebuilt alone.

use super::operation_id::{OperationId, SHARDS};
use std::collections::BTreeMap;
use std::ops::Range;

/// The number of slices.
pub const SLICES: u8 = 64;

const SHARDS_OF_ONE: u16 = SHARDS / SLICES as u16;

/// A group of consecutive shards, so that its rows follow one another: below [`SLICES`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slice(pub u8);

impl Slice {
    pub fn of_shard(shard: u16) -> Slice {
        Slice((shard / SHARDS_OF_ONE) as u8)
    }
}

impl OperationId<'_> {
    pub fn slice(self) -> Slice {
        Slice::of_shard(self.shard())
    }
}

/// Consecutive slices; all by default.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slices {
    start: u8,
    end: u8,
}

impl Default for Slices {
    fn default() -> Slices {
        Slices::ALL
    }
}

impl Slices {
    pub const ALL: Slices = Slices {
        start: 0,
        end: SLICES,
    };

    /// From the slice `start` to before `end`; `None` if these are none.
    pub fn between(start: u8, end: u8) -> Option<Slices> {
        (start < end && end <= SLICES).then_some(Slices { start, end })
    }

    /// A bit for each.
    pub fn bits(self) -> u64 {
        self.iter().fold(0, |bits, slice| bits | 1 << slice.0)
    }

    pub fn first(self) -> Slice {
        Slice(self.start)
    }

    /// The slice after them, which may be none.
    pub fn end(self) -> Slice {
        Slice(self.end)
    }

    /// Whether they have a slice in common.
    pub fn meet(self, other: Slices) -> bool {
        self.start < other.end && other.start < self.end
    }

    pub fn contains(self, slice: Slice) -> bool {
        (self.start..self.end).contains(&slice.0)
    }

    pub fn iter(self) -> impl DoubleEndedIterator<Item = Slice> + ExactSizeIterator + Clone {
        (self.start..self.end).map(Slice)
    }

    pub fn shards(self) -> Range<u16> {
        u16::from(self.start) * SHARDS_OF_ONE..u16::from(self.end) * SHARDS_OF_ONE
    }
}

impl From<Slice> for Slices {
    fn from(slice: Slice) -> Slices {
        Slices {
            start: slice.0,
            end: slice.0 + 1,
        }
    }
}

/// Runs of slices by the first one of each: neighbours that are equal become one.
pub fn join_equal<K: Ord, V: Clone + PartialEq>(runs: &mut BTreeMap<K, V>) {
    let mut before: Option<V> = None;
    runs.retain(|_, run| {
        let is_other = before.as_ref() != Some(run);
        if is_other {
            before = Some(run.clone());
        }
        is_other
    });
}

/// How many workers share the slices. Each has consecutive ones, and none has two more than
/// another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Workers(u8);

impl Workers {
    pub const ONE: Workers = Workers(1);

    /// At least one, at most one for each slice.
    pub fn new(count: usize) -> Workers {
        Workers(count.clamp(1, SLICES.into()) as u8)
    }

    pub fn count(self) -> usize {
        self.0.into()
    }

    /// The slices of each.
    pub fn all(self) -> impl Iterator<Item = Slices> {
        (0..self.count()).map(move |worker| self.slices(worker))
    }

    pub fn slices(self, worker: usize) -> Slices {
        let start = |worker: usize| (worker * usize::from(SLICES)).div_ceil(self.count()) as u8;
        Slices {
            start: start(worker),
            end: start(worker + 1),
        }
    }

    /// The number of the worker that has this slice, from 0.
    pub fn of(self, slice: Slice) -> usize {
        usize::from(slice.0) * self.count() / usize::from(SLICES)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_slice_has_one_worker_and_every_worker_as_many_slices() {
        for count in 1..=70 {
            let workers = Workers::new(count);
            let mut next = 0;
            for (worker, slices) in workers.all().enumerate() {
                assert_eq!(slices.first(), Slice(next));
                next += slices.iter().len() as u8;
                let even = usize::from(SLICES) / workers.count();
                assert!((even..=even + 1).contains(&slices.iter().len()));
                assert!(slices.iter().all(|slice| workers.of(slice) == worker));
            }
            assert_eq!(next, SLICES, "{count}");
        }
    }

    #[test]
    fn every_shard_is_in_the_slice_that_lists_it() {
        for slice in Slices::ALL.iter() {
            let mut shards = Slices::from(slice).shards();
            assert!(shards.all(|shard| Slice::of_shard(shard) == slice));
        }
        assert_eq!(Slices::ALL.shards(), 0..SHARDS);
    }
}
