//! Limits the processor time of all event streams together: to little while the projector has
//! much to do, to about half of the machine otherwise. Streams work in short turns, first come,
//! first served. A little is always free, so that an occasional change is sent at once.

use crate::feed::progress::Progress;
use rustix::time::{ClockId, clock_gettime};
use std::future::Future;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tokio::time::Instant;

/// The shares of the machine, in thousandths.
const SHARE_BESIDE_PROJECTOR: f64 = 0.05;
const SHARE_ALONE: f64 = 0.5;
/// The projector counts as fully busy from this share of its time on.
const BUSY: f64 = 0.5;
/// Seconds that may be taken at once after a time of rest.
const BURST: f64 = 0.020;
/// Seconds that a turn counts for until it is over.
const TURN: f64 = 0.000_020;
/// What sending costs in the kernel.
const SECONDS_A_BYTE: f64 = 1e-9;
/// How often a waiting turn reads the share again.
const LOOK: Duration = Duration::from_millis(20);

pub struct Pace {
    progress: Arc<Progress>,
    cores: f64,
    /// First come, first served.
    gate: tokio::sync::Mutex<()>,
    account: Mutex<Account>,
}

/// The right to work now. Its processor time is counted when it is dropped, without the time
/// in which it waits for the disk or for a processor.
pub struct Turn<'p> {
    pace: &'p Pace,
    work: Arc<Work>,
    bytes: usize,
}

/// Processor time, in nanoseconds.
#[derive(Default)]
pub struct Work(AtomicU64);

impl Work {
    /// Counts the processor time that this takes of its thread.
    pub fn count<T>(&self, work: impl FnOnce() -> T) -> T {
        let began = of_this_thread();
        let outcome = work();
        let took = of_this_thread().saturating_sub(began);
        self.0.fetch_add(took.as_nanos() as u64, Ordering::Relaxed);
        outcome
    }

    fn so_far(&self) -> Duration {
        Duration::from_nanos(self.0.load(Ordering::Relaxed))
    }
}

fn of_this_thread() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

impl Pace {
    pub fn new(progress: Arc<Progress>) -> Pace {
        Pace {
            progress,
            cores: std::thread::available_parallelism().map_or(1.0, |cores| cores.get() as f64),
            gate: tokio::sync::Mutex::default(),
            account: Mutex::new(Account::new(Instant::now())),
        }
    }

    pub async fn turn(&self) -> Turn<'_> {
        // One waits for its time, and all others for that one, which costs nothing.
        let gate = self.gate.lock().await;
        let turn = self.turn_before_others().await;
        drop(gate);
        turn
    }

    /// For work that all others wait for.
    pub async fn turn_before_others(&self) -> Turn<'_> {
        loop {
            let share = share(self.cores, self.progress.effort());
            let wait = self.account().take(Instant::now(), share);
            match wait {
                None => break,
                Some(wait) => tokio::time::sleep(wait.min(LOOK)).await,
            }
        }
        Turn {
            pace: self,
            work: Arc::default(),
            bytes: 0,
        }
    }

    fn account(&self) -> MutexGuard<'_, Account> {
        self.account
            .lock()
            .expect("nothing panics while it holds the account")
    }
}

impl Turn<'_> {
    /// For work on another thread.
    pub fn work(&self) -> Arc<Work> {
        self.work.clone()
    }

    /// Counts what the polls of this take.
    pub async fn count<T>(&self, work: impl Future<Output = T>) -> T {
        let mut work = pin!(work);
        std::future::poll_fn(|cx| self.work.count(|| work.as_mut().poll(cx))).await
    }

    pub fn sends(&mut self, bytes: usize) {
        self.bytes = bytes;
    }

    pub fn is_long(&self) -> bool {
        self.work.so_far() > Duration::from_millis(1)
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let took = self.work.so_far().as_secs_f64() + self.bytes as f64 * SECONDS_A_BYTE;
        self.pace.account().debt += took - TURN;
    }
}

/// Processor seconds a second, by how much of its time the projector works.
fn share(cores: f64, effort: f64) -> f64 {
    let rest = (1.0 - effort / BUSY).max(0.0);
    cores * (SHARE_BESIDE_PROJECTOR + (SHARE_ALONE - SHARE_BESIDE_PROJECTOR) * rest)
}

/// Processor time that was taken before it was granted.
struct Account {
    /// In seconds; negative for time that may be taken at once.
    debt: f64,
    at: Instant,
}

impl Account {
    fn new(now: Instant) -> Account {
        Account { debt: 0.0, at: now }
    }

    /// Takes what a turn needs, or returns how long to wait before that.
    fn take(&mut self, now: Instant, share: f64) -> Option<Duration> {
        let granted = now.saturating_duration_since(self.at).as_secs_f64() * share;
        self.at = now;
        // Unused time is kept up to a limit.
        self.debt = (self.debt - granted).max(-BURST);
        if self.debt > 0.0 {
            return Some(Duration::from_secs_f64(self.debt / share));
        }
        self.debt += TURN;
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::Workers;

    #[test]
    fn all_targets_together_stay_within_the_limit() {
        for (effort, expected) in [(1.0, 0.1), (0.5, 0.1), (0.25, 0.55), (0.0, 1.0)] {
            let share = share(2.0, effort);
            let began = Instant::now();
            let (mut now, mut account) = (began, Account::new(began));
            // Two seconds of work, as fast as it may be done.
            for _ in 0..2000 {
                while let Some(wait) = account.take(now, share) {
                    now += wait.max(Duration::from_nanos(1));
                }
                account.debt += 0.001 - TURN;
            }
            let took = (now - began).as_secs_f64();
            let wanted = 2.0 / expected;
            assert!((took - wanted).abs() < wanted * 0.02, "{effort}: {took} s");
        }
    }

    #[test]
    fn occasional_requests_are_not_delayed() {
        let mut now = Instant::now();
        let mut account = Account::new(now);
        for _ in 0..100 {
            now += Duration::from_millis(50);
            assert_eq!(account.take(now, share(2.0, 1.0)), None);
            account.debt += 0.004;
        }
    }

    /// Many that wait side by side, as for the disk, each do what one would do alone.
    #[test]
    fn waiting_side_by_side_does_not_count_as_work() {
        let runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = { runtime }.enable_time().build().unwrap();
        runtime.block_on(async {
            let pace = Pace::new(Arc::new(Progress::new(None, Workers::ONE)));
            let disk = Duration::from_millis(100);
            let read = async || {
                let turn = pace.turn().await;
                turn.count(tokio::time::sleep(disk)).await;
            };
            futures_util::future::join_all((0..50).map(|_| read())).await;
            let mut account = pace.account();
            let owed = account.debt;
            assert!(owed < 0.1, "{owed} s of work, and none was done");
            assert_eq!(account.take(Instant::now(), share(2.0, 1.0)), None);
        });
    }

    #[test]
    fn work_is_counted_on_every_thread() {
        fn busy() {
            let began = of_this_thread();
            while of_this_thread() - began < Duration::from_millis(20) {}
        }
        let pace = Pace::new(Arc::new(Progress::new(None, Workers::ONE)));
        let runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = { runtime }.build().unwrap();
        let owed = runtime.block_on(async {
            let turn = pace.turn().await;
            turn.count(async { busy() }).await;
            let work = turn.work();
            std::thread::spawn(move || work.count(busy)).join().unwrap();
            assert!(turn.is_long());
            drop(turn);
            pace.account().debt
        });
        // Less what the time until the turn has paid off.
        assert!((0.03..0.4).contains(&owed), "{owed} s");
    }
}
