//! Which notification is tried next. No clock and no IO: time comes in.
//!
//! Each target has a queue of its own with its own pauses, so that one that does not
//! answer holds up no other; one that fails, or was never tried, is tried by one
//! notification at a time, and all that fail together take no more than half of the
//! tries at once. One operation has one try at a time, so its notifications keep their
//! order.

use crate::wire::notification::DeliveryKey;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Notifications in memory: of a target that answers, of one that fails or was never
/// tried, and in all. The others wait in the store.
pub const WINDOW: usize = 10_000;
pub const WINDOW_SMALL: usize = 32;
pub const WINDOW_ALL: usize = 100_000;
/// Of each target there is room for so many, whatever there is of others.
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

/// What a try says about its target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Says {
    Nothing,
    ItAnswers,
    /// It does not; and not before this long, if it said so itself.
    ItFails(Option<Duration>),
}

#[derive(Debug, PartialEq, Eq)]
pub enum Offered {
    Queued,
    /// It is being tried: look again when that is over.
    UnderWay,
    /// There is no room; it is found in the store later.
    LeftOut,
}

impl Target {
    /// Names are the same in any case.
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
    /// Since the last answer.
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
    /// Lanes with something to try, by when: those that fail apart from the others.
    ready: [BTreeSet<(QueuePosition, Arc<Target>)>; 2],
    in_flight: usize,
    in_flight_failing: usize,
    turn: u64,
    left_out: bool,
}

/// The pause behind this many failures: doubled each time, and up to a quarter longer or
/// shorter by `salt`, so that not all come back at once.
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

    /// To be tried at `at`. Another one of the same operation is replaced.
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
            // What is due later makes room: it may be long until it is tried again.
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

    /// The next to try, which is under way from now on.
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

    /// When there may be something to try, if no try ends before.
    pub fn wake_at(&self) -> Option<Instant> {
        if self.in_flight >= self.bounds.in_flight {
            return None;
        }
        let first = |ready: &BTreeSet<(QueuePosition, Arc<Target>)>| Some(ready.first()?.0.0);
        let well = first(&self.ready[0]);
        let failing = first(&self.ready[1]).filter(|_| self.in_flight_failing < self.failing_max());
        well.into_iter().chain(failing).min()
    }

    /// So many places may those have that fail.
    fn failing_max(&self) -> usize {
        (self.bounds.in_flight / 2).max(1)
    }

    /// The try is over, and its place free. The operation stays under way until
    /// `forget`, or until it is queued again.
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
                // Those that were under way together are one failure.
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
        // One by one, it needs no more.
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
        // What is under way counts as its lane does now.
        match (failed, fails) {
            (true, true) => self.in_flight_failing -= 1,
            (true, false) => self.in_flight_failing -= 1 + in_flight,
            (false, true) => self.in_flight_failing += in_flight,
            (false, false) => {}
        }
        self.settle(&pick.target);
    }

    /// Nothing is under way for this operation any more. True if it is to be looked at
    /// again.
    pub fn forget(&mut self, id: &str) -> bool {
        let status = self.operations.remove(id);
        matches!(status, Some(QueueStatus::UnderWay { again: true }))
    }

    /// Some wait in the store, and there would be room for them now.
    pub fn wants_more(&self) -> bool {
        let is_full = self.operations.len() >= WINDOW_ALL;
        let has_room = |lane: &TargetQueue| {
            let window = if is_full { AT_LEAST } else { lane.window() };
            lane.left_out && lane.rows.len() < window / 2
        };
        self.left_out && self.lanes.values().any(has_room)
    }

    /// Of which targets there may be more in memory than of others.
    pub fn well(&self) -> HashSet<Target> {
        let well = self.lanes.iter().filter(|(_, lane)| lane.is_well());
        well.map(|(target, _)| (**target).clone()).collect()
    }

    /// All that there is in the store is about to be offered.
    pub fn begin_scan(&mut self) {
        self.left_out = false;
        self.lanes.retain(|_, lane| {
            lane.left_out = false;
            !lane.rows.is_empty() || lane.in_flight > 0
        });
    }

    /// Somebody knows that it answers again.
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

    /// Puts a lane where it belongs among those that are ready, or forgets it.
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
            // How a failing one fared is remembered for a while.
            None if lane.in_flight == 0 && !lane.left_out && !lane.fails() => {
                self.lanes.remove(target);
            }
            None => {}
        }
    }
}

#[cfg(test)]
mod tests;
