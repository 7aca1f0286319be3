//! What a reader of the changes has seen of each slice. A row moves the slices of one worker, so
//! the position of the reader is the lowest of all slices.

use crate::domain::{SLICES, Slices, slice};
use crate::wire::change::Moves;
use crate::wire::position::LastOffsets;
use std::collections::BTreeMap;

#[derive(Debug, Clone, PartialEq)]
pub struct SeenBySlice {
    /// By the first slice of those that are equally far, up to the next one.
    runs: BTreeMap<u8, LastOffsets>,
}

impl Default for SeenBySlice {
    fn default() -> SeenBySlice {
        SeenBySlice::of(LastOffsets::default())
    }
}

impl SeenBySlice {
    /// The same of all slices.
    pub fn of(positions: LastOffsets) -> SeenBySlice {
        SeenBySlice {
            runs: BTreeMap::from([(0, positions)]),
        }
    }

    /// All rows of these slices up to this one were seen.
    pub fn advance(&mut self, moves: &Moves) {
        let (start, end) = (moves.slices.first().0, moves.slices.end().0);
        self.split(start);
        self.split(end);
        for (_, run) in self.runs.range_mut(start..end) {
            for moved in &moves.moved {
                run.raise(moved.partition, moved.after);
            }
        }
        if moves.slices == Slices::ALL && self.runs.len() > 1 {
            slice::join_equal(&mut self.runs);
        }
    }

    /// All changes that this position contains were seen.
    pub fn raise(&mut self, positions: &LastOffsets) {
        for run in self.runs.values_mut() {
            for (&partition, &offset) in positions.iter() {
                run.raise(partition, offset);
            }
        }
        if self.runs.len() > 1 {
            slice::join_equal(&mut self.runs);
        }
    }

    /// The position that contains no more than what was seen.
    pub fn lowest(&self) -> LastOffsets {
        let runs = self.runs.values().cloned();
        let lowest = runs.reduce(|one, other| one.lower(&other));
        lowest.unwrap_or_default()
    }

    fn split(&mut self, at: u8) {
        if at < SLICES && !self.runs.contains_key(&at) {
            let run = self.runs.range(..at).next_back();
            let run = run.map(|(_, run)| run.clone()).unwrap_or_default();
            self.runs.insert(at, run);
        }
    }
}
