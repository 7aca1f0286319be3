//! Reads the embedded log block by block, never beyond what is durable.

use super::Shared;
use crate::event_log::{Limits, Logged, ReadError, Reader};
use crate::store::keys;
use crate::store::{self, Db, Direction, Family, View};
use crate::wire::block_v2;
use crate::wire::position::{Position, Positions};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;

/// Waits for what is durable and reads it.
pub struct BlockReader {
    shared: Arc<Shared>,
    blocks: Blocks,
}

impl BlockReader {
    pub fn new(shared: Arc<Shared>, after: &Positions) -> BlockReader {
        let partitions = shared.ends().len();
        BlockReader {
            blocks: Blocks::new(shared.db.clone(), partitions, after),
            shared,
        }
    }
}

impl Reader for BlockReader {
    fn read(&mut self, limits: &Limits, into: &mut Vec<Logged>) -> Result<(), ReadError> {
        let next = &self.blocks.next;
        let caught_up = |ends: &mut Vec<u64>| ends.iter().zip(next).all(|(end, next)| end <= next);
        let ends = self.shared.ends();
        let waited = self
            .shared
            .ends_moved
            .wait_timeout_while(ends, limits.patience, caught_up);
        let (ends, _) = waited.expect("nothing panics while it holds the ends");
        let ends = ends.clone();
        self.blocks.read(&ends, limits, into)
    }

    fn next(&self) -> BTreeMap<u32, u64> {
        (0..).zip(self.blocks.next.iter().copied()).collect()
    }
}

/// Where a reader is, without any waiting: the simulation drives it.
pub struct Blocks {
    db: Arc<dyn Db>,
    next: Vec<u64>,
    /// Where the next stretch begins, so that no partition starves another.
    turn: usize,
}

impl Blocks {
    pub fn new(db: Arc<dyn Db>, partitions: usize, after: &Positions) -> Blocks {
        let next = |p| after.get(&(p as u32)).map_or(0, |offset| offset + 1);
        Blocks {
            db,
            next: (0..partitions).map(next).collect(),
            turn: 0,
        }
    }

    /// Reads what lies before `ends`.
    pub fn read(
        &mut self,
        ends: &[u64],
        limits: &Limits,
        into: &mut Vec<Logged>,
    ) -> Result<(), ReadError> {
        let count = ends.len();
        let ahead: Vec<usize> = (0..count)
            .map(|i| (self.turn + i) % count)
            .filter(|p| self.next[*p] < ends[*p])
            .collect();
        if ahead.is_empty() {
            return Ok(());
        }
        self.turn = (ahead[0] + 1) % count;
        let mut stretch = Stretch {
            limits,
            into,
            bytes: 0,
            damage: None,
        };
        let mut next = self.next.clone();
        store::view(&*self.db, |view| {
            for partition in &ahead {
                if stretch.is_full() {
                    break;
                }
                stretch.read(
                    view,
                    *partition as u32,
                    &mut next[*partition],
                    ends[*partition],
                )?;
            }
            Ok(())
        })
        .map_err(|error| match error {
            // A checksum that is wrong stays wrong.
            store::Error::Corrupt(what) => ReadError::Damaged {
                at: Position {
                    partition: ahead[0] as u32,
                    offset: self.next[ahead[0]],
                },
                what,
            },
            other => ReadError::Unavailable(other.to_string()),
        })?;
        match stretch.damage {
            Some((at, what)) => Err(ReadError::Damaged { at, what }),
            None => {
                self.next = next;
                Ok(())
            }
        }
    }
}

struct Stretch<'r> {
    limits: &'r Limits,
    into: &'r mut Vec<Logged>,
    bytes: usize,
    damage: Option<(Position, String)>,
}

impl Stretch<'_> {
    fn is_full(&self) -> bool {
        self.damage.is_some()
            || self.into.len() >= self.limits.records
            || self.bytes >= self.limits.bytes
    }

    /// From `next` on, whole blocks. The first may have begun before `next`.
    fn read(
        &mut self,
        view: &dyn View,
        partition: u32,
        next: &mut u64,
        end: u64,
    ) -> store::Result<()> {
        let key = |offset| keys::position(Position { partition, offset });
        let mut from = key(*next);
        view.scan(
            Family::Log,
            &key(0)..&key(*next + 1),
            Direction::Backward,
            &mut |key, _| {
                from = key.to_vec();
                ControlFlow::Break(())
            },
        )?;
        view.scan(
            Family::Log,
            &from..&key(end),
            Direction::Forward,
            &mut |key, row| {
                self.take_block(key, row, next);
                if self.is_full() {
                    ControlFlow::Break(())
                } else {
                    ControlFlow::Continue(())
                }
            },
        )
    }

    fn take_block(&mut self, key: &[u8], row: &[u8], next: &mut u64) {
        let mut at = keys::position_of(key).unwrap_or(Position {
            partition: 0,
            offset: *next,
        });
        let records = match block_v2::decode(&Bytes::copy_from_slice(row)) {
            Ok(records) => records,
            Err(unreadable) => {
                self.damage = Some((at, unreadable.to_string()));
                return;
            }
        };
        for record in records {
            if at.offset >= *next {
                self.bytes += record.size();
                self.into.push(Logged { at, record });
                *next = at.offset + 1;
            }
            at.offset += 1;
        }
    }
}
