//! The read points that lists are paged from. Lists that begin at about the same time share one.
//! Their number, age and idle time are limited, because rows that are deleted meanwhile stay on
//! the disk for them.

use crate::feed::progress::{Applied, Progress};
use crate::rows::changes;
use crate::store::{self, Db, ReadPoint};
use crate::wire::position::Token;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

#[derive(Debug, Clone, Copy)]
pub struct ReadPointSettings {
    /// Maximum number of read points. One more replaces the least recently used one.
    pub max: usize,
    /// At that maximum, a list may begin at a read point that is no older than this.
    pub share: Duration,
    /// A read point that is unused this long is dropped.
    pub idle: Duration,
    /// A read point of this age is dropped in any case.
    pub max_age: Duration,
}

/// A read point, and the positions that were applied when it was taken.
#[derive(Clone)]
pub struct PagePoint {
    pub id: u64,
    pub held: Arc<dyn ReadPoint>,
    pub applied: Arc<Applied>,
    /// Equal for two points that show the same: `changes::fingerprint`.
    pub fingerprint: u64,
    taken: Instant,
    used: Instant,
}

pub struct ReadPoints {
    settings: ReadPointSettings,
    points: Mutex<Vec<PagePoint>>,
    /// The next id, which no other process has given.
    next: AtomicU64,
}

impl ReadPoints {
    pub fn new(settings: ReadPointSettings) -> ReadPoints {
        ReadPoints {
            settings,
            points: Mutex::default(),
            next: AtomicU64::new(uuid::Uuid::new_v4().as_u64_pair().0),
        }
    }

    /// The point for a first page: the last one if it still shows the current state, otherwise a
    /// new one, so that a list lacks nothing that its client has seen elsewhere. If a new one would
    /// expire the read point of another list, the last one is used, provided that it is young and
    /// contains the wanted position. It can be paged from once it is kept.
    pub fn begin(
        &self,
        db: &dyn Db,
        progress: &Progress,
        wanted: Option<&Token>,
    ) -> store::Result<PagePoint> {
        self.expire(Instant::now());
        // Before the view is opened.
        let head = progress.watchers.head();
        let fingerprint = store::view(db, |view| changes::fingerprint(view, head))?;
        let mut points = self.points();
        let is_full = points.len() >= self.settings.max;
        let newest = points.iter_mut().max_by_key(|point| point.taken);
        if let Some(point) = newest
            && (point.fingerprint == fingerprint
                || is_full && point.taken.elapsed() < self.settings.share)
            && holds(&point.applied, wanted)
        {
            point.used = Instant::now();
            return Ok(point.clone());
        }
        drop(points);
        self.take(db, progress)
    }

    /// The current state. It can be paged from once it is kept.
    pub fn take(&self, db: &dyn Db, progress: &Progress) -> store::Result<PagePoint> {
        // Before the point is taken: the point contains at least these positions.
        let (applied, head) = (progress.applied(), progress.watchers.head());
        let held = db.hold()?;
        let fingerprint = store::view_held(&*held, |view| changes::fingerprint(view, head))?;
        let now = Instant::now();
        Ok(PagePoint {
            id: self.next.fetch_add(1, Ordering::Relaxed),
            held,
            applied,
            fingerprint,
            taken: now,
            used: now,
        })
    }

    pub fn keep(&self, point: PagePoint) {
        let mut points = self.points();
        if points.iter().any(|kept| kept.id == point.id) {
            return;
        }
        while points.len() >= self.settings.max.max(1) {
            let oldest = points.iter().enumerate().min_by_key(|(_, p)| p.used);
            let oldest = oldest.map_or(0, |(place, _)| place);
            points.swap_remove(oldest);
        }
        points.push(point);
    }

    /// The point of a list that continues; `None` if it has expired.
    pub fn resume(&self, id: u64) -> Option<PagePoint> {
        self.expire(Instant::now());
        let mut points = self.points();
        let point = points.iter_mut().find(|point| point.id == id)?;
        point.used = Instant::now();
        Some(point.clone())
    }

    pub fn forget(&self, id: u64) {
        self.points().retain(|point| point.id != id);
    }

    /// Drops the read points that have expired. Pages in progress keep theirs until they end.
    pub fn expire(&self, now: Instant) {
        let ReadPointSettings { idle, max_age, .. } = self.settings;
        self.points().retain(|point| {
            now.saturating_duration_since(point.used) < idle
                && now.saturating_duration_since(point.taken) < max_age
        });
    }

    pub fn count(&self) -> usize {
        self.points().len()
    }

    fn points(&self) -> MutexGuard<'_, Vec<PagePoint>> {
        self.points
            .lock()
            .expect("nothing panics while it holds the points")
    }
}

/// Whether the applied positions include all that the token names.
pub fn holds(applied: &Applied, wanted: Option<&Token>) -> bool {
    wanted.is_none_or(|wanted| applied.holds(wanted))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::Workers;
    use crate::store::memory::Memory;
    use crate::store::{Batch, Durability};
    use crate::wire::change::ChangeNumber;

    fn read_points(max: usize) -> ReadPoints {
        let secs = Duration::from_secs;
        ReadPoints::new(ReadPointSettings {
            max,
            share: secs(0),
            idle: secs(60),
            max_age: secs(900),
        })
    }

    fn change(db: &Memory, number: u64) {
        let number = ChangeNumber(number);
        let mut batch = Batch::default();
        changes::put(number, b"row", &mut batch);
        db.write(&batch, Durability::Buffered).unwrap();
    }

    /// A first page that has a next one.
    fn begin(points: &ReadPoints, db: &Memory, progress: &Progress) -> u64 {
        let point = points.begin(db, progress, None).unwrap();
        points.keep(point.clone());
        point.id
    }

    #[test]
    fn read_points_are_shared_while_nothing_changes_and_bounded_otherwise() {
        let (db, progress) = (Memory::default(), Progress::new(None, Workers::ONE));
        let points = read_points(3);
        let first = begin(&points, &db, &progress);
        assert_eq!(begin(&points, &db, &progress), first);
        for number in 0..3 {
            change(&db, number);
            assert_ne!(begin(&points, &db, &progress), first);
        }
        assert_eq!(points.count(), 3);
        assert!(points.resume(first).is_none(), "the longest unused went");
        assert!(points.resume(first + 1).is_some());
        assert!(points.resume(0).is_none());
    }

    /// A client that has read a document does not read an older list, unless a new read point would
    /// expire the lists of others.
    #[test]
    fn a_new_list_reads_a_fresh_state_while_there_is_room() {
        let (db, progress) = (Memory::default(), Progress::new(None, Workers::ONE));
        let mut points = read_points(2);
        points.settings.share = Duration::from_secs(3600);
        let first = begin(&points, &db, &progress);
        change(&db, 0);
        // Written, and its position not yet published.
        let second = begin(&points, &db, &progress);
        assert_ne!(second, first);
        change(&db, 1);
        assert_eq!(
            begin(&points, &db, &progress),
            second,
            "no room for a third"
        );
        assert!(points.resume(first).is_some());
        points.forget(first);
        assert_ne!(begin(&points, &db, &progress), second);
    }

    #[test]
    fn read_points_expire_when_unused_or_old() {
        let (db, progress) = (Memory::default(), Progress::new(None, Workers::ONE));
        let points = read_points(3);
        let now = Instant::now();
        let id = begin(&points, &db, &progress);
        points.expire(now + Duration::from_secs(50));
        assert!(points.resume(id).is_some());
        points.expire(now + Duration::from_secs(70));
        assert!(points.resume(id).is_none(), "idle");
        assert_eq!(points.count(), 0);
    }
}
