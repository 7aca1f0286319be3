//! The store's progress, for all readers: the applied positions, the state of the log that they
//! belong to, the projector's activity, and waiting for a position without polling.

use super::watch::Watchers;
use crate::domain::Status;
use crate::rows::meta::StatusCounts;
use crate::wire::change::ChangeNumber;
use crate::wire::position::{NextOffsets, Token};
use bytes::Bytes;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// The positions that the store contains, and the same as text. The log is the store's own: if
/// the projector has halted because it is pointed at another log, reads still name the log that
/// they come from.
#[derive(Debug, Clone, Default)]
pub struct Applied {
    /// `None` while the store is new and the log has not been reached.
    pub token: Option<Token>,
    /// By partition the offset after everything that is applied, including offsets without a
    /// record.
    pub next: NextOffsets,
    pub text: Bytes,
    /// The number of the next change: all before it are applied.
    pub next_change: ChangeNumber,
    pub log: LogState,
}

/// The state of the log that the store belongs to. Events are accepted only while it
/// is confirmed, and a position counts as reached only if this log has reached it since
/// the program started.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum LogState {
    /// The log was not compared with the store yet. Reads that ask for a position wait.
    #[default]
    Unknown,
    /// It is the store's own and still has the offsets at which the store continues.
    Confirmed,
    /// It was confirmed, cannot be read now, and will be compared again. Positions that it
    /// had reached still count.
    Unreachable,
    /// It may be another log, or may have lost records, for this reason. The projector
    /// decides within moments; until then reads that ask for a position wait.
    Suspect(String),
    /// The projector has halted because of it, or before it could be compared. No position
    /// of it counts as reached.
    Halted(String),
}

impl LogState {
    /// Why no event is accepted; `None` if events are.
    pub fn refuses_events(&self) -> Option<&str> {
        match self {
            LogState::Confirmed => None,
            LogState::Unknown => Some("it was not compared with the store yet, see /readyz"),
            LogState::Unreachable => Some("it cannot be read now, see /readyz"),
            LogState::Suspect(why) | LogState::Halted(why) => Some(why),
        }
    }

    /// Whether the applied positions are positions that the log has reached.
    fn is_settled(&self) -> bool {
        match self {
            LogState::Confirmed | LogState::Unreachable => true,
            LogState::Unknown | LogState::Suspect(_) | LogState::Halted(_) => false,
        }
    }
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

pub struct Progress {
    applied: watch::Sender<Arc<Applied>>,
    doing: watch::Sender<Doing>,
    /// `None` until they have been counted.
    counts: Mutex<Option<StatusCounts>>,
    /// How much of its time the projector works, of late, in thousandths.
    effort: AtomicU32,
    /// The log did something that the store's own log cannot do: the projector must check it.
    suspected: AtomicBool,
    /// Notified of every change after the position that it belongs to is published.
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
    /// By the deadline it was not known whether the log is the store's own.
    NotCompared,
    /// The projector has halted because of the log: for this reason.
    Halted(String),
}

impl Progress {
    /// Begins with the positions that the store contains.
    pub fn new(stored: Option<Token>) -> Progress {
        let applied = stored.map_or_else(Applied::default, |token| {
            let next = NextOffsets::default();
            Applied::new(token, &next, ChangeNumber::ZERO, LogState::Unknown)
        });
        Progress {
            applied: watch::Sender::new(Arc::new(applied)),
            doing: watch::Sender::new(Doing::Starting),
            counts: Mutex::default(),
            effort: AtomicU32::new(0),
            suspected: AtomicBool::new(false),
            watchers: Arc::default(),
        }
    }

    /// Read it *before* the store: the store then contains at least these positions.
    pub fn applied(&self) -> Arc<Applied> {
        self.applied.borrow().clone()
    }

    /// What the projector does, and each change of it.
    pub fn watch_doing(&self) -> watch::Receiver<Doing> {
        self.doing.subscribe()
    }

    pub fn doing(&self) -> Doing {
        self.doing.borrow().clone()
    }

    /// Call it after these positions of a confirmed log were written. `next`: the offsets of the
    /// reader that delivered the applied records. `next_change`: the number of the next change.
    pub fn publish(&self, token: Token, next: &NextOffsets, next_change: ChangeNumber) {
        let applied = Applied::new(token, next, next_change, LogState::Confirmed);
        self.applied.send_replace(Arc::new(applied));
    }

    /// Sets the state of the log. A halt is permanent.
    pub fn set_log(&self, log: LogState) {
        self.applied.send_if_modified(|applied| {
            let changes = applied.log != log && !matches!(applied.log, LogState::Halted(_));
            if changes {
                *applied = Arc::new(Applied {
                    log,
                    ..Applied::clone(applied)
                });
            }
            changes
        });
    }

    /// It cannot be read at present.
    pub fn log_failed(&self) {
        if self.applied().log == LogState::Confirmed {
            self.set_log(LogState::Unreachable);
        }
    }

    /// The log did something that the store's own log cannot do. Until the projector has checked
    /// it, events are refused and no position counts as reached.
    pub fn suspect(&self, why: String) {
        self.set_log(LogState::Suspect(why));
        self.suspected.store(true, Ordering::SeqCst);
    }

    /// Whether the projector must check the log, once for each suspicion.
    pub fn take_suspicion(&self) -> bool {
        self.suspected.swap(false, Ordering::SeqCst)
    }

    pub fn set_doing(&self, doing: Doing) {
        self.doing.send_if_modified(|before| {
            let changed = *before != doing;
            *before = doing;
            changed
        });
    }

    pub fn set_counts(&self, counts: StatusCounts) {
        *self.lock_counts() = Some(counts);
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
        let counts = *self.lock_counts();
        counts.map(|counts| counts.map(|count| count.max(0) as u64))
    }

    fn lock_counts(&self) -> MutexGuard<'_, Option<StatusCounts>> {
        self.counts
            .lock()
            .expect("nothing panics while it holds the counts")
    }

    /// Returns once all records before these offsets are applied.
    pub async fn wait_until_behind(&self, ends: &NextOffsets) {
        let mut applied = self.applied.subscribe();
        // The channel is never closed while somebody has a reference to it.
        let _ = applied
            .wait_for(|applied| applied.next.have_reached(ends))
            .await;
    }

    /// Returns the applied positions once the log was reached, or `None` at the deadline.
    pub async fn wait_for_log(&self, deadline: Instant) -> Option<Token> {
        let mut applied = self.applied.subscribe();
        let reached = applied.wait_for(|applied| applied.token.is_some());
        let reached = tokio::time::timeout_at(deadline.into(), reached).await;
        reached.ok()?.ok()?.token.clone()
    }

    /// Returns once the store contains all that the token names, of a log that is known to
    /// be the store's own.
    pub async fn wait_for(&self, token: &Token, deadline: Instant) -> Result<(), WaitError> {
        let mut applied = self.applied.subscribe();
        let decided = applied.wait_for(|applied| applied.judge(token).is_some());
        let decided = tokio::time::timeout_at(deadline.into(), decided).await;
        if let Ok(Ok(applied)) = decided {
            let judged = applied.judge(token);
            return judged.expect("it was waited for");
        }
        Err(match self.applied().log.is_settled() {
            true => WaitError::TimedOut,
            false => WaitError::NotCompared,
        })
    }
}

impl Applied {
    fn new(token: Token, next: &NextOffsets, next_change: ChangeNumber, log: LogState) -> Applied {
        let mut all = token.positions.next();
        for (&partition, &offset) in next.iter() {
            all.raise(partition, offset);
        }
        // The end of a transaction, for one, has an offset but is no record. It is included:
        // a response names the position that the client asked for.
        let shown = Token {
            log: token.log,
            positions: all.last(),
        };
        Applied {
            text: shown.to_string().into(),
            token: Some(token),
            next: all,
            next_change,
            log,
        }
    }

    /// Whether all that the token names is applied: records, and offsets without a record.
    pub fn holds(&self, token: &Token) -> bool {
        self.next.have_passed(&token.positions)
    }

    /// The result of waiting for this token; `None` if that is not decided yet.
    fn judge(&self, token: &Token) -> Option<Result<(), WaitError>> {
        let is_other = |own: &Token| own.log != token.log;
        if self.token.as_ref().is_some_and(is_other) {
            return Some(Err(WaitError::OtherLog));
        }
        if let LogState::Halted(why) = &self.log {
            return Some(Err(WaitError::Halted(why.clone())));
        }
        (self.log.is_settled() && self.token.is_some() && self.holds(token)).then_some(Ok(()))
    }
}
