//! Which delivery is attempted next. No clock and no IO: the caller passes the time.
//!
//! Each target has its own queue with its own pauses, so a target that does not respond delays no
//! other. A target that fails, or was never called, gets one attempt at a time. All failing targets
//! together take at most half of the attempts. An operation has one attempt at a time, so its
//! deliveries stay in order.

use crate::domain::OperationId;
use crate::wire::notification::DeliveryKey;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Deliveries in memory: for a target that responds, for one that fails or was never called,
/// and in all. The others wait in the store.
pub const WINDOW: usize = 10_000;
pub const WINDOW_SMALL: usize = 32;
pub const WINDOW_ALL: usize = 100_000;
/// Every target has room for this many.
const AT_LEAST: usize = 4;

#[derive(Debug, Clone, Copy)]
pub struct QueueLimits {
    pub per_target: usize,
    pub in_flight: usize,
    pub retry_min: Duration,
    pub retry_max: Duration,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Target {
    pub address: Arc<str>,
    pub port: u16,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pick {
    pub operation_id: Arc<str>,
    pub key: DeliveryKey,
    pub target: Target,
}

/// The result of an attempt, as far as it concerns the target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TargetReport {
    Nothing,
    Responds,
    /// It fails. It may have asked to wait at least this long.
    Fails(Option<Duration>),
}

#[derive(Debug, PartialEq, Eq)]
pub enum Offered {
    Queued,
    /// An attempt is in flight: check again when it ends.
    UnderWay,
    /// No room; a later scan of the store finds it.
    LeftOut,
}

impl Target {
    /// Host names are case-insensitive.
    pub fn of(address: &str, port: u16) -> Target {
        Target {
            address: address.to_ascii_lowercase().into(),
            port,
        }
    }
}

impl Pick {
    pub fn id(&self) -> OperationId<'_> {
        OperationId(&self.operation_id)
    }
}

/// When it is due, and its place among those of the same time.
type QueuePosition = (Instant, u64);

#[derive(Default)]
struct TargetQueue {
    rows: BTreeMap<QueuePosition, (Arc<str>, DeliveryKey)>,
    in_flight: usize,
    /// Since the last response.
    failures: u32,
    has_responded: bool,
    paused_until: Option<Instant>,
    /// Deliveries had no room here.
    left_out: bool,
    /// The time of its last attempt: of several that are due, the one that waited longest is next.
    turn: u64,
}

enum QueueStatus {
    Queued(Target, QueuePosition),
    UnderWay { again: bool },
}

pub struct DeliveryQueue {
    limits: QueueLimits,
    targets: HashMap<Target, TargetQueue>,
    operations: HashMap<Arc<str>, QueueStatus>,
    turn: u64,
}

/// The pause after this many failures. It doubles each time, and `salt` makes it up to a
/// quarter longer or shorter, so that not all return at once.
pub fn backoff(limits: &QueueLimits, failures: u32, salt: u64) -> Duration {
    let doubled = limits
        .retry_min
        .saturating_mul(1 << failures.saturating_sub(1).min(30));
    let pause = doubled.min(limits.retry_max).as_micros() as u64;
    let spread = xxhash_rust::xxh3::xxh3_64_with_seed(&failures.to_be_bytes(), salt) % 512;
    Duration::from_micros(pause / 1024 * (768 + spread) + pause % 1024)
}

impl TargetQueue {
    fn fails(&self) -> bool {
        self.failures > 0
    }

    fn is_well(&self) -> bool {
        self.has_responded && !self.fails()
    }

    fn window(&self) -> usize {
        match self.is_well() {
            true => WINDOW,
            false => WINDOW_SMALL,
        }
    }

    /// When its next attempt is due, if one may begin in addition to those in flight.
    fn ready(&self, per_target: usize) -> Option<QueuePosition> {
        let most = if self.is_well() { per_target } else { 1 };
        let (&(at, _), _) = self.rows.first_key_value()?;
        let at = self.paused_until.map_or(at, |until| until.max(at));
        (self.in_flight < most).then_some((at, self.turn))
    }
}

impl DeliveryQueue {
    pub fn new(limits: QueueLimits) -> DeliveryQueue {
        DeliveryQueue {
            limits,
            targets: HashMap::new(),
            operations: HashMap::new(),
            turn: 0,
        }
    }

    /// Queues a delivery for `at`. Replaces another one of the same operation.
    pub fn offer(
        &mut self,
        id: OperationId,
        key: DeliveryKey,
        target: &Target,
        at: Instant,
    ) -> Offered {
        match self.operations.get_mut(id.0) {
            Some(QueueStatus::UnderWay { again }) => {
                *again = true;
                return Offered::UnderWay;
            }
            Some(QueueStatus::Queued(old, position)) => {
                if let Some(queue) = self.targets.get_mut(old) {
                    queue.rows.remove(position);
                }
                self.operations.remove(id.0);
            }
            None => {}
        }
        // One allocation of the address for all deliveries to the target.
        let known = self.targets.get_key_value(target);
        let target = known.map_or(target, |(known, _)| known).clone();
        let is_full = self.operations.len() >= WINDOW_ALL;
        let queue = self.targets.entry(target.clone()).or_default();
        if queue.rows.len() >= queue.window() || (is_full && queue.rows.len() >= AT_LEAST) {
            queue.left_out = true;
            // A delivery that is due later makes room.
            let last = queue.rows.last_entry().filter(|last| last.key().0 > at);
            let Some((evicted, _)) = last.map(|last| last.remove()) else {
                return Offered::LeftOut;
            };
            self.operations.remove(&evicted);
        }
        self.turn += 1;
        let (id, position) = (Arc::<str>::from(id.0), (at, self.turn));
        queue.rows.insert(position, (id.clone(), key));
        let queued = QueueStatus::Queued(target, position);
        self.operations.insert(id, queued);
        Offered::Queued
    }

    pub fn holds(&self, id: OperationId) -> bool {
        self.operations.contains_key(id.0)
    }

    /// The next delivery to attempt. It counts as in flight from now on.
    pub fn next(&mut self, now: Instant) -> Option<Pick> {
        let due = self.ready().filter(|(_, (at, _), _)| *at <= now);
        // Failing targets after all others.
        let (_, _, target) = due.min()?;
        let target = target.clone();
        let queue = self.targets.get_mut(&target)?;
        let (_, (operation_id, key)) = queue.rows.pop_first()?;
        queue.in_flight += 1;
        self.turn += 1;
        queue.turn = self.turn;
        let under_way = QueueStatus::UnderWay { again: false };
        self.operations.insert(operation_id.clone(), under_way);
        Some(Pick {
            operation_id,
            key,
            target,
        })
    }

    /// The next time at which there may be something to attempt, if no attempt ends before.
    pub fn wake_at(&self) -> Option<Instant> {
        self.ready().map(|(_, (at, _), _)| at).min()
    }

    /// Targets that may have another attempt: whether they fail, and when it is due.
    fn ready(&self) -> impl Iterator<Item = (bool, QueuePosition, &Target)> {
        let QueueLimits {
            per_target,
            in_flight,
            ..
        } = self.limits;
        let is_full = self.in_flight() >= in_flight;
        let failing = self.targets.values().filter(|queue| queue.fails());
        let failing: usize = failing.map(|queue| queue.in_flight).sum();
        let may_fail = failing < (in_flight / 2).max(1);
        self.targets.iter().filter_map(move |(target, queue)| {
            let may = !is_full && (may_fail || !queue.fails());
            let first = may.then(|| queue.ready(per_target)).flatten()?;
            Some((queue.fails(), first, target))
        })
    }

    /// Ends an attempt. The operation stays busy until `forget`, or until it is queued again.
    pub fn ended(&mut self, pick: &Pick, report: TargetReport, now: Instant) {
        let Some(queue) = self.targets.get_mut(&pick.target) else {
            return;
        };
        queue.in_flight -= 1;
        match report {
            TargetReport::Nothing => {}
            TargetReport::Responds => {
                queue.failures = 0;
                queue.has_responded = true;
                queue.paused_until = None;
            }
            TargetReport::Fails(wish) => {
                // Attempts that were in flight together count as one failure.
                if queue.paused_until.is_none_or(|until| until <= now) {
                    queue.failures = queue.failures.saturating_add(1);
                    let salt = xxhash_rust::xxh3::xxh3_64(pick.target.address.as_bytes());
                    let salt = salt ^ u64::from(pick.target.port);
                    let pause = backoff(&self.limits, queue.failures, salt);
                    let wish = wish.unwrap_or_default().min(self.limits.retry_max);
                    queue.paused_until = Some(now + pause.max(wish));
                }
            }
        }
        // It is attempted one by one now, so it needs no more than that in memory.
        while queue.fails() && queue.rows.len() > WINDOW_SMALL {
            queue.left_out = true;
            let last = queue.rows.pop_last();
            self.operations.remove(&last.expect("there are some").1.0);
        }
        // The state of a failing target is remembered for a while.
        if queue.rows.is_empty() && queue.in_flight == 0 && !queue.left_out && !queue.fails() {
            self.targets.remove(&pick.target);
        }
    }

    /// The operation has no attempt in flight any more. True if it must be checked again.
    pub fn forget(&mut self, id: OperationId) -> bool {
        let status = self.operations.remove(id.0);
        matches!(status, Some(QueueStatus::UnderWay { again: true }))
    }

    /// Whether deliveries wait in the store for which there would be room now.
    pub fn wants_more(&self) -> bool {
        let is_full = self.operations.len() >= WINDOW_ALL;
        self.targets.values().any(|queue| {
            let window = if is_full { AT_LEAST } else { queue.window() };
            queue.left_out && queue.rows.len() < window / 2
        })
    }

    /// Targets that may have more deliveries in memory than others.
    pub fn well(&self) -> HashSet<Target> {
        let well = self.targets.iter().filter(|(_, queue)| queue.is_well());
        well.map(|(target, _)| target.clone()).collect()
    }

    /// Called before a scan offers everything in the store.
    pub fn begin_scan(&mut self) {
        self.targets.retain(|_, queue| {
            queue.left_out = false;
            !queue.rows.is_empty() || queue.in_flight > 0
        });
    }

    /// An operator knows that the target responds again.
    pub fn unpause(&mut self, target: &Target) {
        if let Some(queue) = self.targets.get_mut(target) {
            queue.paused_until = None;
        }
    }

    pub fn in_flight(&self) -> usize {
        self.targets.values().map(|queue| queue.in_flight).sum()
    }

    pub fn failing_targets(&self) -> usize {
        self.targets.values().filter(|queue| queue.fails()).count()
    }
}

#[cfg(test)]
mod tests;
