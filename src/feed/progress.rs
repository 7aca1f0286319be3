//! The store's progress, for all readers: the applied positions, the state of the log that they
//! belong to, the projector's activity, and waiting for a position without polling.

use super::sequence::Sequence;
use super::watch::{Change, Watchers};
use crate::domain::{OperationId, Slices, Status, Workers};
use crate::rows::entry::EntryChange;
use crate::rows::meta::{self, StatusCounts};
use crate::wire::change::ChangeNumber;
use crate::wire::position::{NextOffsets, Token};
use bytes::Bytes;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// The positions that the store contains: of all operations, or of those of one worker. The log
/// is the store's own: if the projector has halted because it is pointed at another log, reads
/// still name the log that they come from.
#[derive(Debug, Clone, Default)]
pub struct Applied {
    /// `None` while the store is new and the log has not been reached.
    pub token: Option<Token>,
    /// By partition the offset after everything that is applied, including offsets without a
    /// record.
    pub next: NextOffsets,
    /// The number of the next change: all before it are applied. Of one worker: all of its own.
    pub next_change: ChangeNumber,
    pub log: LogState,
    text: OnceLock<Bytes>,
}

/// The change of one batch, which is written.
#[derive(Debug)]
pub struct WrittenChange {
    pub change: Change,
    /// The changes of the list entries of its operations; none if they are not known.
    pub entries: Vec<EntryChange>,
}

impl WrittenChange {
    /// Of numbers without a change.
    pub(super) fn nothing(number: ChangeNumber, end: ChangeNumber) -> WrittenChange {
        WrittenChange {
            change: Change::nothing(number, end),
            entries: Vec::new(),
        }
    }
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
    workers: Workers,
    /// What all workers have applied.
    whole: Arc<watch::Sender<Arc<Applied>>>,
    /// What each worker has applied. With one worker it is the whole.
    each: Vec<Arc<watch::Sender<Arc<Applied>>>>,
    sequence: Mutex<Sequence>,
    doing: watch::Sender<Doing>,
    /// By worker; `None` until its slices have been counted.
    counts: Mutex<Vec<Option<StatusCounts>>>,
    /// How much of its time each worker works, of late, in thousandths.
    effort: Vec<AtomicU32>,
    /// The log did something that the store's own log cannot do: the projector must check it.
    suspected: AtomicBool,
    /// Notified of every change after the position that it belongs to is published.
    pub watchers: Arc<Watchers>,
}

/// How one worker does.
#[derive(Debug, Clone)]
pub struct WorkerProgress {
    pub slices: Slices,
    /// What it has applied or passed.
    pub applied: Arc<Applied>,
    /// Which part of its time it works, of late: 0 to 1.
    pub effort: f64,
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
    pub fn new(stored: Option<Token>, workers: Workers) -> Progress {
        let applied = stored.map_or_else(Applied::default, |token| {
            let next = NextOffsets::default();
            Applied::new(token, &next, ChangeNumber::ZERO, LogState::Unknown)
        });
        let applied = Arc::new(applied);
        let sender = || Arc::new(watch::Sender::new(applied.clone()));
        let whole = sender();
        Progress {
            each: match workers == Workers::ONE {
                true => vec![whole.clone()],
                false => (0..workers.count()).map(|_| sender()).collect(),
            },
            whole,
            sequence: Mutex::new(Sequence::new(
                ChangeNumber::ZERO,
                vec![applied; workers.count()],
            )),
            workers,
            doing: watch::Sender::new(Doing::Starting),
            counts: Mutex::new(vec![None; workers.count()]),
            effort: (0..workers.count()).map(|_| AtomicU32::new(0)).collect(),
            suspected: AtomicBool::new(false),
            watchers: Arc::default(),
        }
    }

    /// What all workers have applied, for reads of several operations. Read it *before* the
    /// store: the store then contains at least these positions.
    pub fn applied(&self) -> Arc<Applied> {
        self.whole.borrow().clone()
    }

    /// The same for reads of one operation: what its worker has applied, which may be more.
    pub fn applied_of(&self, operation_id: OperationId) -> Arc<Applied> {
        self.of(operation_id).borrow().clone()
    }

    fn of(&self, operation_id: OperationId) -> &watch::Sender<Arc<Applied>> {
        match &*self.each {
            [one] => one,
            each => &each[self.workers.of(operation_id.slice())],
        }
    }

    /// Each worker, in the order of their numbers. Read it *before* the end of the log.
    pub fn by_worker(&self) -> Vec<WorkerProgress> {
        let workers = self.workers.all().zip(&self.each).zip(&self.effort);
        let progress = workers.map(|((slices, applied), effort)| WorkerProgress {
            slices,
            applied: applied.borrow().clone(),
            effort: f64::from(effort.load(Ordering::Relaxed)) / 1000.0,
        });
        progress.collect()
    }

    /// What the projector does, and each change of it.
    pub fn watch_doing(&self) -> watch::Receiver<Doing> {
        self.doing.subscribe()
    }

    pub fn doing(&self) -> Doing {
        self.doing.borrow().clone()
    }

    /// The projector begins, or begins again, at what the store contains, and the log was
    /// confirmed. `next_change`: the number after the last change in the store. `positions`: the
    /// token and the next offsets of each worker. A worker does not return to positions before
    /// those that it had published.
    pub fn begin(&self, next_change: ChangeNumber, positions: Vec<(Token, NextOffsets)>) {
        assert_eq!(positions.len(), self.workers.count(), "of each worker");
        let mut sequence = self.sequence();
        let workers = self.each.iter().zip(positions);
        let begin = |(sender, (token, next)): (&Arc<watch::Sender<Arc<Applied>>>, _)| {
            send(sender, |before| {
                let (token, next) = before.raise(token, next);
                Applied::new(token, &next, next_change, before.log.clone())
            })
        };
        *sequence = Sequence::new(next_change, workers.map(begin).collect());
        self.publish_whole(&sequence);
        self.set_log(LogState::Confirmed);
        self.watchers.begin(next_change);
    }

    /// Call it after a worker wrote these positions, and this change with them. `next`: the
    /// offsets of the reader that delivered the applied records. A worker publishes its changes in
    /// the order of their numbers.
    ///
    /// Reads of one operation see the positions at once. They count for all operations, and
    /// streams of lists see the change, when all changes with lower numbers are published.
    pub fn publish(
        &self,
        worker: usize,
        token: Token,
        next: &NextOffsets,
        published: Option<WrittenChange>,
    ) {
        let end = published.as_ref().map(|published| published.change.end);
        let change = published.as_ref().map(|one| one.change.clone());
        let mut sequence = self.sequence();
        let applied = send(&self.each[worker], |before| {
            let (token, next) = before.raise(token, next.clone());
            let next_change = end.unwrap_or(before.next_change);
            Applied::new(token, &next, next_change, before.log.clone())
        });
        sequence.put(worker, applied, published);
        self.go_on(&mut sequence);
        drop(sequence);
        if let Some(change) = change {
            self.watchers.notify(&change);
        }
    }

    /// Numbers that were taken for a change that will not be published, up to before `end`.
    pub fn leave_out(&self, number: ChangeNumber, end: ChangeNumber) {
        let mut sequence = self.sequence();
        sequence.leave_out(number, end);
        self.go_on(&mut sequence);
    }

    /// Hands on the changes whose turn it is, after the positions that contain them.
    fn go_on(&self, sequence: &mut Sequence) {
        let due: Vec<WrittenChange> = std::iter::from_fn(|| sequence.next()).collect();
        self.publish_whole(sequence);
        for WrittenChange { change, entries } in due {
            self.watchers.add(change, entries);
        }
    }

    fn publish_whole(&self, sequence: &Sequence) {
        if self.workers == Workers::ONE {
            return;
        }
        if let Some((token, next)) = sequence.whole() {
            send(&self.whole, |before| {
                Applied::new(token, &next, sequence.head(), before.log.clone())
            });
        }
    }

    fn sequence(&self) -> MutexGuard<'_, Sequence> {
        self.sequence
            .lock()
            .expect("nothing panics while it holds the sequence")
    }

    /// Sets the state of the log. A halt is permanent.
    pub fn set_log(&self, log: LogState) {
        let senders = self.each.iter().chain([&self.whole]);
        senders.for_each(|sender| {
            sender.send_if_modified(|applied| {
                let changes = applied.log != log && !matches!(applied.log, LogState::Halted(_));
                if changes {
                    *applied = Arc::new(Applied {
                        log: log.clone(),
                        ..Applied::clone(applied)
                    });
                }
                changes
            });
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

    /// The documents of this worker's slices.
    pub fn set_counts(&self, worker: usize, counts: StatusCounts) {
        self.lock_counts()[worker] = Some(counts);
    }

    /// By this worker alone: how long it worked and then waited for more.
    pub fn note_effort(&self, worker: usize, worked: Duration, waited: Duration) {
        let time = (worked + waited).as_secs_f64();
        if time > 0.0 {
            let weight = (time / EFFORT_OVER.as_secs_f64()).min(1.0);
            let now = worked.as_secs_f64() / time;
            let effort = &self.effort[worker];
            let before = f64::from(effort.load(Ordering::Relaxed)) / 1000.0;
            let after = before * (1.0 - weight) + now * weight;
            effort.store((after * 1000.0) as u32, Ordering::Relaxed);
        }
    }

    /// Which part of its time the busiest worker works, of late.
    pub fn effort(&self) -> f64 {
        let workers = self.by_worker().into_iter();
        workers.map(|worker| worker.effort).fold(0.0, f64::max)
    }

    /// How many documents have each status; `None` until they have been counted.
    pub fn counts(&self) -> Option<[u64; Status::ALL.len()]> {
        let mut sum = StatusCounts::default();
        for counts in &*self.lock_counts() {
            meta::add(&mut sum, counts.as_ref()?);
        }
        Some(sum.map(|count| count.max(0) as u64))
    }

    fn lock_counts(&self) -> MutexGuard<'_, Vec<Option<StatusCounts>>> {
        self.counts
            .lock()
            .expect("nothing panics while it holds the counts")
    }

    /// Returns once all records before these offsets are applied.
    pub async fn wait_until_behind(&self, ends: &NextOffsets) {
        let mut applied = self.whole.subscribe();
        // The channel is never closed while somebody has a reference to it.
        let _ = applied
            .wait_for(|applied| applied.next.have_reached(ends))
            .await;
    }

    /// Returns what all workers have applied once the log was reached, or `None` at the deadline.
    pub async fn wait_for_log(&self, deadline: Instant) -> Option<Arc<Applied>> {
        let mut applied = self.whole.subscribe();
        let reached = applied.wait_for(|applied| applied.token.is_some());
        let reached = tokio::time::timeout_at(deadline.into(), reached).await;
        Some(reached.ok()?.ok()?.clone())
    }

    /// Returns once the store contains all that the token names, of a log that is known to
    /// be the store's own.
    pub async fn wait_for(&self, token: &Token, deadline: Instant) -> Result<(), WaitError> {
        wait_for(&self.whole, token, deadline).await
    }

    /// The same for a read of one operation: its worker alone is waited for.
    pub async fn wait_for_operation(
        &self,
        operation_id: OperationId<'_>,
        token: &Token,
        deadline: Instant,
    ) -> Result<(), WaitError> {
        wait_for(self.of(operation_id), token, deadline).await
    }
}

async fn wait_for(
    applied: &watch::Sender<Arc<Applied>>,
    token: &Token,
    deadline: Instant,
) -> Result<(), WaitError> {
    let mut now = applied.subscribe();
    let decided = now.wait_for(|applied| applied.judge(token).is_some());
    let decided = tokio::time::timeout_at(deadline.into(), decided).await;
    if let Ok(Ok(applied)) = decided {
        let judged = applied.judge(token);
        return judged.expect("it was waited for");
    }
    let log = &applied.borrow().log;
    Err(match log.is_settled() {
        true => WaitError::TimedOut,
        false => WaitError::NotCompared,
    })
}

/// Replaces what was applied, and returns the new one.
fn send(
    sender: &watch::Sender<Arc<Applied>>,
    next: impl FnOnce(&Applied) -> Applied,
) -> Arc<Applied> {
    let mut sent = None;
    sender.send_modify(|applied| {
        *applied = Arc::new(next(applied));
        sent = Some(applied.clone());
    });
    sent.expect("it was sent")
}

impl Applied {
    fn new(token: Token, next: &NextOffsets, next_change: ChangeNumber, log: LogState) -> Applied {
        let mut all = token.positions.next();
        for (&partition, &offset) in next.iter() {
            all.raise(partition, offset);
        }
        Applied {
            token: Some(token),
            next: all,
            next_change,
            log,
            text: OnceLock::new(),
        }
    }

    /// The positions as they are sent; empty if there are none. The end of a transaction, for one,
    /// has an offset but is no record. It is included: a response names the position that the
    /// client asked for.
    pub fn text(&self) -> &Bytes {
        self.text.get_or_init(|| {
            let shown = self.token.as_ref().map(|token| Token {
                log: token.log,
                positions: self.next.last(),
            });
            shown.map_or_else(Bytes::new, |shown| shown.to_string().into())
        })
    }

    /// The later ones of these positions and its own, if both are of one log.
    fn raise(&self, mut token: Token, mut next: NextOffsets) -> (Token, NextOffsets) {
        if let Some(own) = self.token.as_ref().filter(|own| own.log == token.log) {
            for (&partition, &offset) in own.positions.iter() {
                token.positions.raise(partition, offset);
            }
            for (&partition, &offset) in self.next.iter() {
                next.raise(partition, offset);
            }
        }
        (token, next)
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

#[cfg(test)]
mod tests;
