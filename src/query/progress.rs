//! How far the store is, for everyone who reads: the applied positions, what the
//! projector is doing, and waiting for a position without polling.

use super::watch::Watchers;
use crate::domain::Status;
use crate::wire::position::{Positions, Token};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU32, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// What the store holds, and the same as text. The log is the store's own: if the
/// projector has halted because it is pointed at another, reads still say which
/// log they come from.
#[derive(Debug, Default)]
pub struct Applied {
    /// `None` while the store is new and the log has not been reached.
    pub token: Option<Token>,
    /// By partition the offset behind everything that is applied, and behind what
    /// is no record.
    pub next: BTreeMap<u32, u64>,
    pub text: Bytes,
    /// Rises with each time that something is applied.
    pub version: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Doing {
    Starting,
    Running,
    /// Trying again; nothing is lost and nothing moves.
    Waiting(String),
    /// Stopped until someone acts.
    Halted(String),
    Stopped,
}

/// Documents by status, in the order of `Status::ALL`; or by how many there are more.
pub type StatusCounts = [i64; Status::ALL.len()];

pub struct Progress {
    applied: watch::Sender<Arc<Applied>>,
    doing: watch::Sender<Doing>,
    /// Negative until they have been counted.
    counts: [AtomicI64; Status::ALL.len()],
    /// How much of its time the projector works, of late, in thousandths.
    effort: AtomicU32,
    /// Told of every change behind the position that it belongs to.
    pub watchers: Arc<Watchers>,
}

/// What "of late" means for the effort of the projector, about.
const EFFORT_OVER: Duration = Duration::from_millis(200);

#[derive(Debug, PartialEq, Eq)]
pub enum WaitError {
    /// The token belongs to another log.
    OtherLog,
    /// Not reached by the deadline.
    TimedOut,
}

impl Progress {
    /// Begins with what the store holds.
    pub fn new(held: Option<Token>) -> Progress {
        let applied =
            held.map_or_else(Arc::default, |held| Applied::new(held, &BTreeMap::new(), 0));
        Progress {
            applied: watch::Sender::new(applied),
            doing: watch::Sender::new(Doing::Starting),
            counts: std::array::from_fn(|_| AtomicI64::new(-1)),
            effort: AtomicU32::new(0),
            watchers: Arc::default(),
        }
    }

    /// Read it *before* the store: what is read then holds at least this much.
    pub fn applied(&self) -> Arc<Applied> {
        self.applied.borrow().clone()
    }

    pub fn doing(&self) -> Doing {
        self.doing.borrow().clone()
    }

    /// After the write that these positions were part of. `next` says how far the
    /// reader is that everything applied came from.
    pub fn publish(&self, held: Token, next: &BTreeMap<u32, u64>) {
        self.applied
            .send_modify(|applied| *applied = Applied::new(held, next, applied.version + 1));
    }

    pub fn set_doing(&self, doing: Doing) {
        self.doing.send_if_modified(|before| {
            let changed = *before != doing;
            *before = doing;
            changed
        });
    }

    pub fn set_counts(&self, counts: StatusCounts) {
        for (held, count) in self.counts.iter().zip(counts) {
            held.store(count, Ordering::Relaxed);
        }
    }

    /// By the projector alone: how long it worked and then waited for more.
    pub fn note_effort(&self, worked: Duration, waited: Duration) {
        let time = (worked + waited).as_secs_f64();
        if time > 0.0 {
            let weight = (time / EFFORT_OVER.as_secs_f64()).min(1.0);
            let now = worked.as_secs_f64() / time;
            let effort = self.effort() * (1.0 - weight) + now * weight;
            self.effort
                .store((effort * 1000.0) as u32, Ordering::Relaxed);
        }
    }

    /// Which part of its time the projector works, of late.
    pub fn effort(&self) -> f64 {
        f64::from(self.effort.load(Ordering::Relaxed)) / 1000.0
    }

    /// How many documents have each status; `None` until they have been counted.
    pub fn counts(&self) -> Option<[u64; Status::ALL.len()]> {
        let mut counts = [0; Status::ALL.len()];
        for (count, held) in counts.iter_mut().zip(&self.counts) {
            *count = u64::try_from(held.load(Ordering::Relaxed)).ok()?;
        }
        Some(counts)
    }

    /// Returns once all that lies before these offsets is applied.
    pub async fn wait_until_behind(&self, ends: &BTreeMap<u32, u64>) {
        let mut applied = self.applied.subscribe();
        let is_behind = |applied: &Arc<Applied>| {
            let is_applied = |(p, end): (&u32, &u64)| *end == 0 || applied.next.get(p) >= Some(end);
            ends.iter().all(is_applied)
        };
        // It is never closed while somebody holds it.
        let _ = applied.wait_for(is_behind).await;
    }

    /// Returns what is applied once the log was reached, or `None` at the deadline.
    pub async fn wait_for_log(&self, deadline: Instant) -> Option<Token> {
        let mut applied = self.applied.subscribe();
        let reached = applied.wait_for(|applied| applied.token.is_some());
        let reached = tokio::time::timeout_at(deadline.into(), reached).await;
        reached.ok()?.ok()?.token.clone()
    }

    /// Returns once the store holds all that the token names.
    pub async fn wait_for(&self, token: &Token, deadline: Instant) -> Result<(), WaitError> {
        let mut applied = self.applied.subscribe();
        let reached = applied.wait_for(|applied| match &applied.token {
            Some(held) => held.log != token.log || covers(&held.positions, &token.positions),
            None => false,
        });
        match tokio::time::timeout_at(deadline.into(), reached).await {
            Ok(Ok(reached)) => match &reached.token {
                Some(held) if held.log == token.log => Ok(()),
                Some(_) | None => Err(WaitError::OtherLog),
            },
            Ok(Err(_)) | Err(_) => Err(WaitError::TimedOut),
        }
    }
}

impl Applied {
    fn new(token: Token, next: &BTreeMap<u32, u64>, version: u64) -> Arc<Applied> {
        let behind = |(partition, offset): (&u32, &u64)| (*partition, offset + 1);
        let mut all: BTreeMap<u32, u64> = token.positions.iter().map(behind).collect();
        for (&partition, &offset) in next {
            let held = all.entry(partition).or_insert(offset);
            *held = offset.max(*held);
        }
        Arc::new(Applied {
            text: token.to_string().into(),
            token: Some(token),
            next: all,
            version,
        })
    }
}

pub fn covers(held: &Positions, wanted: &Positions) -> bool {
    wanted
        .iter()
        .all(|(partition, offset)| held.get(partition).is_some_and(|held| held >= offset))
}
