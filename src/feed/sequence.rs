//! Puts the changes of all workers in the order of their numbers. A worker takes a number just
//! before its write, so the changes of several workers are published out of order. A change waits
//! here until all before it are published. The positions of a worker count for the whole together
//! with its changes, so the whole never contains a change that nobody was notified of.

use super::progress::{Applied, WrittenChange};
use crate::wire::change::ChangeNumber;
use crate::wire::position::{NextOffsets, Token};
use std::collections::BTreeMap;
use std::sync::Arc;

#[derive(Default)]
pub(super) struct Sequence {
    /// All changes before this number had their turn.
    head: ChangeNumber,
    /// The positions that count for the whole, by worker.
    counted: Vec<Arc<Applied>>,
    /// By number: what comes after the next change, which is not published yet.
    waiting: BTreeMap<ChangeNumber, Queued>,
}

enum Queued {
    Change {
        worker: usize,
        /// The positions of the worker after it.
        applied: Arc<Applied>,
        published: WrittenChange,
    },
    /// The numbers from here to this one have no changes.
    LeftOut(ChangeNumber),
}

impl Sequence {
    /// Where the workers are, after all changes before `head`.
    pub fn new(head: ChangeNumber, workers: Vec<Arc<Applied>>) -> Sequence {
        Sequence {
            head,
            counted: workers,
            waiting: BTreeMap::new(),
        }
    }

    /// The number of the next change that gets its turn.
    pub fn head(&self) -> ChangeNumber {
        self.head
    }

    /// A worker has these positions, after its change if there is one.
    pub fn put(&mut self, worker: usize, applied: Arc<Applied>, published: Option<WrittenChange>) {
        if let Some(published) = published {
            let number = published.change.number;
            let change = Queued::Change {
                worker,
                applied,
                published,
            };
            self.waiting.insert(number, change);
            return;
        }
        let last = self.waiting.values_mut().rev().find_map(|one| match one {
            Queued::Change {
                worker: of,
                applied,
                ..
            } if *of == worker => Some(applied),
            Queued::Change { .. } | Queued::LeftOut(_) => None,
        });
        match last {
            Some(waiting) => *waiting = applied,
            None => self.counted[worker] = applied,
        }
    }

    /// The numbers from `number` to `end` will not be published.
    pub fn leave_out(&mut self, number: ChangeNumber, end: ChangeNumber) {
        self.waiting.insert(number, Queued::LeftOut(end));
    }

    /// Takes the next change whose turn it is. Numbers that were left out are a change of nothing.
    pub fn next(&mut self) -> Option<WrittenChange> {
        let (number, _) = self.waiting.first_key_value()?;
        // The only worker publishes its changes in their order.
        if *number > self.head && self.counted.len() > 1 {
            return None;
        }
        let (number, waiting) = self.waiting.pop_first()?;
        let published = match waiting {
            Queued::Change {
                worker,
                applied,
                published,
            } => {
                self.counted[worker] = applied;
                published
            }
            Queued::LeftOut(end) => WrittenChange::nothing(number, end),
        };
        self.head = self.head.max(published.change.end);
        Some(published)
    }

    /// The positions that every worker has; `None` while one has none.
    pub fn whole(&self) -> Option<(Token, NextOffsets)> {
        let mut workers = self.counted.iter();
        let first = workers.next()?;
        let mut token = first.token.clone()?;
        let mut next = first.next.clone();
        for worker in workers {
            token.positions = token.positions.lower(&worker.token.as_ref()?.positions);
            next = next.lower(&worker.next);
        }
        Some((token, next))
    }
}
