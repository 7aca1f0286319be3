//! Which delivery is attempted next. No clock and no IO: the caller passes the time.
//!
//! Each target has a queue with pauses of its own, so a target that does not respond delays no
//! other. A target that fails, or was never called, gets one attempt at a time. All failing
//! targets together take at most half of the attempts. An operation has one attempt at a time,
//! so its deliveries stay in order.

use crate::wire::notification::DeliveryKey;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
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
    pub address: String,
    pub port: u16,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pick {
    pub operation_id: Arc<str>,
    pub key: DeliveryKey,
    pub target: Arc<Target>,
}

/// What an attempt shows about its target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Says {
    Nothing,
    ItAnswers,
    /// It fails, and asked to wait at least this long, if it said so.
    ItFails(Option<Duration>),
}

#[derive(Debug, PartialEq, Eq)]
pub enum Offered {
    Queued,
    /// An attempt is in flight: look again when it ends.
    UnderWay,
    /// No room; a later scan of the store finds it.
    LeftOut,
}

impl Target {
    /// Host names are case-insensitive.
    pub fn of(address: &str, port: u16) -> Target {
        Target {
            address: address.to_ascii_lowercase(),
            port,
        }
    }
}

type QueuePosition = (Instant, u64);

struct TargetQueue {
    rows: BTreeMap<QueuePosition, (Arc<str>, DeliveryKey)>,
    in_flight: usize,
    /// Since the last response.
    failures: u32,
    has_answered: bool,
    paused_until: Option<Instant>,
    left_out: bool,
    ready: Option<QueuePosition>,
}

enum QueueStatus {
    Queued(Arc<Target>, QueuePosition),
    UnderWay { again: bool },
}

pub struct DeliveryQueue {
    bounds: QueueLimits,
    lanes: HashMap<Arc<Target>, TargetQueue>,
    operations: HashMap<Arc<str>, QueueStatus>,
    /// Target queues with something to attempt, by time: failing targets apart from the others.
    ready: [BTreeSet<(QueuePosition, Arc<Target>)>; 2],
    in_flight: usize,
    in_flight_failing: usize,
    turn: u64,
    left_out: bool,
}

/// The pause after this many failures. It doubles each time, and `salt` makes it up to a
/// quarter longer or shorter, so that not all return at once.
pub fn backoff(bounds: &QueueLimits, failures: u32, salt: u64) -> Duration {
    let doubled = bounds
        .retry_min
        .saturating_mul(1 << failures.saturating_sub(1).min(30));
    let pause = doubled.min(bounds.retry_max).as_micros() as u64;
    let spread = xxhash_rust::xxh3::xxh3_64_with_seed(&failures.to_be_bytes(), salt) % 512;
    Duration::from_micros(pause / 1024 * (768 + spread) + pause % 1024)
}

impl TargetQueue {
    fn fails(&self) -> bool {
        self.failures > 0
    }

    fn is_well(&self) -> bool {
        self.has_answered && !self.fails()
    }

    fn window(&self) -> usize {
        match self.is_well() {
            true => WINDOW,
            false => WINDOW_SMALL,
        }
    }

    fn room(&self, per_target: usize) -> bool {
        let most = match self.is_well() {
            true => per_target,
            false => 1,
        };
        self.in_flight < most
    }
}

impl DeliveryQueue {
    pub fn new(bounds: QueueLimits) -> DeliveryQueue {
        DeliveryQueue {
            bounds,
            lanes: HashMap::new(),
            operations: HashMap::new(),
            ready: Default::default(),
            in_flight: 0,
            in_flight_failing: 0,
            turn: 0,
            left_out: false,
        }
    }

    /// Queues a delivery for `at`. Replaces another one of the same operation.
    pub fn offer(&mut self, id: &str, key: DeliveryKey, target: Target, at: Instant) -> Offered {
        match self.operations.get_mut(id) {
            Some(QueueStatus::UnderWay { again }) => {
                *again = true;
                return Offered::UnderWay;
            }
            Some(QueueStatus::Queued(old, place)) => {
                let (old, place) = (old.clone(), *place);
                self.operations.remove(id);
                self.lane(&old).rows.remove(&place);
                self.settle(&old);
            }
            None => {}
        }
        let target = match self.lanes.get_key_value(&target) {
            Some((known, _)) => known.clone(),
            None => Arc::new(target),
        };
        let is_full = self.operations.len() >= WINDOW_ALL;
        let lane = self.lane(&target);
        if lane.rows.len() >= lane.window() || (is_full && lane.rows.len() >= AT_LEAST) {
            lane.left_out = true;
            // A delivery that is due later makes room.
            let last = lane.rows.last_entry().filter(|last| last.key().0 > at);
            let evicted = last.map(|last| last.remove());
            self.left_out = true;
            match evicted {
                Some((evicted, _)) => drop(self.operations.remove(&evicted)),
                None => {
                    self.settle(&target);
                    return Offered::LeftOut;
                }
            }
        }
        self.turn += 1;
        let place = (at, self.turn);
        let id: Arc<str> = id.into();
        self.lane(&target).rows.insert(place, (id.clone(), key));
        self.operations
            .insert(id, QueueStatus::Queued(target.clone(), place));
        self.settle(&target);
        Offered::Queued
    }

    pub fn holds(&self, id: &str) -> bool {
        self.operations.contains_key(id)
    }

    /// The next delivery to attempt. It counts as in flight from now on.
    pub fn next(&mut self, now: Instant) -> Option<Pick> {
        if self.in_flight >= self.bounds.in_flight {
            return None;
        }
        let first = |ready: &BTreeSet<(QueuePosition, Arc<Target>)>| {
            let (place, target) = ready.first()?;
            (place.0 <= now).then(|| target.clone())
        };
        let failing = || {
            let may = self.in_flight_failing < self.failing_max();
            may.then(|| first(&self.ready[1])).flatten()
        };
        let target = first(&self.ready[0]).or_else(failing)?;
        let lane = self.lane(&target);
        lane.in_flight += 1;
        let fails = lane.fails();
        let (_, (operation_id, key)) = lane
            .rows
            .pop_first()
            .expect("a lane that is ready has rows");
        self.in_flight += 1;
        self.in_flight_failing += usize::from(fails);
        let under_way = QueueStatus::UnderWay { again: false };
        self.operations.insert(operation_id.clone(), under_way);
        self.settle(&target);
        Some(Pick {
            operation_id,
            key,
            target,
        })
    }

    /// The next time at which there may be something to attempt, if no attempt ends before.
    pub fn wake_at(&self) -> Option<Instant> {
        if self.in_flight >= self.bounds.in_flight {
            return None;
        }
        let first = |ready: &BTreeSet<(QueuePosition, Arc<Target>)>| Some(ready.first()?.0.0);
        let well = first(&self.ready[0]);
        let failing = first(&self.ready[1]).filter(|_| self.in_flight_failing < self.failing_max());
        well.into_iter().chain(failing).min()
    }

    /// How many attempts failing targets may take together.
    fn failing_max(&self) -> usize {
        (self.bounds.in_flight / 2).max(1)
    }

    /// Ends an attempt. The operation stays busy until `forget`, or until it is queued again.
    pub fn ended(&mut self, pick: &Pick, says: Says, now: Instant) {
        let bounds = self.bounds;
        let lane = self.lane(&pick.target);
        let failed = lane.fails();
        lane.in_flight -= 1;
        match says {
            Says::Nothing => {}
            Says::ItAnswers => {
                lane.failures = 0;
                lane.has_answered = true;
                lane.paused_until = None;
            }
            Says::ItFails(wish) => {
                // Attempts that were in flight together count as one failure.
                if lane.paused_until.is_none_or(|until| until <= now) {
                    lane.failures = lane.failures.saturating_add(1);
                    let salt = xxhash_rust::xxh3::xxh3_64(pick.target.address.as_bytes());
                    let pause = backoff(&bounds, lane.failures, salt ^ u64::from(pick.target.port));
                    let wish = wish.unwrap_or_default().min(bounds.retry_max);
                    lane.paused_until = Some(now + pause.max(wish));
                }
            }
        }
        let in_flight = lane.in_flight;
        let fails = lane.fails();
        // It is attempted one by one now, so it needs no more than that in memory.
        let mut evicted = Vec::new();
        while fails && lane.rows.len() > WINDOW_SMALL {
            evicted.extend(lane.rows.pop_last().map(|(_, (id, _))| id));
            lane.left_out = true;
        }
        self.left_out |= !evicted.is_empty();
        for id in evicted {
            self.operations.remove(&id);
        }
        self.in_flight -= 1;
        // Attempts in flight count for the state that their target has now.
        match (failed, fails) {
            (true, true) => self.in_flight_failing -= 1,
            (true, false) => self.in_flight_failing -= 1 + in_flight,
            (false, true) => self.in_flight_failing += in_flight,
            (false, false) => {}
        }
        self.settle(&pick.target);
    }

    /// The operation has no attempt in flight any more. True if it must be looked at again.
    pub fn forget(&mut self, id: &str) -> bool {
        let status = self.operations.remove(id);
        matches!(status, Some(QueueStatus::UnderWay { again: true }))
    }

    /// Whether deliveries wait in the store for which there would be room now.
    pub fn wants_more(&self) -> bool {
        let is_full = self.operations.len() >= WINDOW_ALL;
        let has_room = |lane: &TargetQueue| {
            let window = if is_full { AT_LEAST } else { lane.window() };
            lane.left_out && lane.rows.len() < window / 2
        };
        self.left_out && self.lanes.values().any(has_room)
    }

    /// Targets that may have more deliveries in memory than others.
    pub fn well(&self) -> HashSet<Target> {
        let well = self.lanes.iter().filter(|(_, lane)| lane.is_well());
        well.map(|(target, _)| (**target).clone()).collect()
    }

    /// Called before a scan offers everything in the store.
    pub fn begin_scan(&mut self) {
        self.left_out = false;
        self.lanes.retain(|_, lane| {
            lane.left_out = false;
            !lane.rows.is_empty() || lane.in_flight > 0
        });
    }

    /// An operator knows that the target responds again.
    pub fn unpause(&mut self, target: &Target) {
        if let Some((target, _)) = self.lanes.get_key_value(target) {
            let target = target.clone();
            self.lane(&target).paused_until = None;
            self.settle(&target);
        }
    }

    pub fn in_flight(&self) -> usize {
        self.in_flight
    }

    pub fn failing_targets(&self) -> usize {
        self.lanes.values().filter(|lane| lane.fails()).count()
    }

    fn lane(&mut self, target: &Arc<Target>) -> &mut TargetQueue {
        self.lanes
            .entry(target.clone())
            .or_insert_with(|| TargetQueue {
                rows: BTreeMap::new(),
                in_flight: 0,
                failures: 0,
                has_answered: false,
                paused_until: None,
                left_out: false,
                ready: None,
            })
    }

    /// Moves a target's queue to its place among the ready ones, or drops it.
    fn settle(&mut self, target: &Arc<Target>) {
        let per_target = self.bounds.per_target;
        let Some(lane) = self.lanes.get_mut(target) else {
            return;
        };
        if let Some(place) = lane.ready.take() {
            let entry = (place, target.clone());
            let _ = self.ready[0].remove(&entry) || self.ready[1].remove(&entry);
        }
        let (first, room) = (lane.rows.first_key_value(), lane.room(per_target));
        match first {
            Some(((at, _), _)) if room => {
                self.turn += 1;
                let at = lane.paused_until.map_or(*at, |until| until.max(*at));
                let place = (at, self.turn);
                lane.ready = Some(place);
                self.ready[usize::from(lane.fails())].insert((place, target.clone()));
            }
            Some(_) => {}
            // The state of a failing target is remembered for a while.
            None if lane.in_flight == 0 && !lane.left_out && !lane.fails() => {
                self.lanes.remove(target);
            }
            None => {}
        }
    }
}

#[cfg(test)]
mod tests;
