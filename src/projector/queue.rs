//! What waits for a worker. At most a few batches of each reader wait, because a reader reads on
//! only when its batches were applied.

use super::record_batch::RecordBatch;
use std::collections::VecDeque;
use std::sync::mpsc::Sender;
use std::sync::{Condvar, Mutex, MutexGuard};
use std::time::Duration;

/// A batch for one worker.
pub struct DealtBatch {
    pub record_batch: RecordBatch,
    /// The number of the read that it is from.
    pub read: u64,
    /// Where it goes back to.
    pub back: Sender<AppliedBatch>,
}

/// A batch that was applied. Its memory is reused, and freed by the thread that allocated it, which
/// is cheaper.
pub struct AppliedBatch {
    pub worker: usize,
    pub read: u64,
    pub record_batch: RecordBatch,
    /// How long the worker worked on it.
    pub work: Duration,
}

/// Who may fill a queue: the readers of all workers, or those of this worker alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Feeder {
    Shared,
    Own,
}

pub struct WorkerQueue {
    state: Mutex<QueueState>,
    changed: Condvar,
}

struct QueueState {
    waiting: VecDeque<DealtBatch>,
    is_working: bool,
    feeder: Feeder,
    is_closed: bool,
}

/// What a worker is to do.
pub enum WorkerTask {
    Apply(DealtBatch),
    /// Nothing came for a while.
    Rest,
    /// It is to end.
    End,
}

impl WorkerQueue {
    pub fn new(feeder: Feeder) -> WorkerQueue {
        WorkerQueue {
            state: Mutex::new(QueueState {
                waiting: VecDeque::new(),
                is_working: false,
                feeder,
                is_closed: false,
            }),
            changed: Condvar::new(),
        }
    }

    /// Returns the batch if it is not taken: from another feeder, or because the worker has ended.
    pub fn push(&self, from: Feeder, dealt: DealtBatch) -> Option<DealtBatch> {
        let mut state = self.lock();
        if state.is_closed || state.feeder != from {
            return Some(dealt);
        }
        state.waiting.push_back(dealt);
        self.changed.notify_all();
        None
    }

    /// Runs `work` in place of the worker if that has nothing to do. Whether it did.
    pub fn instead(&self, from: Feeder, work: impl FnOnce()) -> bool {
        let state = self.lock();
        let is_idle = state.waiting.is_empty() && !state.is_working;
        let may = is_idle && !state.is_closed && state.feeder == from;
        if may {
            // The worker takes nothing meanwhile.
            work();
        }
        may
    }

    /// From now on only the worker's own readers fill it.
    pub fn cut(&self) {
        self.lock().feeder = Feeder::Own;
    }

    pub fn is_fed_by(&self, from: Feeder) -> bool {
        self.lock().feeder == from
    }

    pub fn is_idle(&self) -> bool {
        let state = self.lock();
        state.waiting.is_empty() && !state.is_working
    }

    /// What is waiting is dropped.
    pub fn close(&self) {
        let mut state = self.lock();
        state.is_closed = true;
        state.waiting.clear();
        self.changed.notify_all();
    }

    /// For the worker alone: the next task. What it was given before is done.
    pub fn next(&self, patience: Duration) -> WorkerTask {
        let mut state = self.lock();
        state.is_working = false;
        self.changed.notify_all();
        let is_idle = |state: &mut QueueState| state.waiting.is_empty() && !state.is_closed;
        let waited = self.changed.wait_timeout_while(state, patience, is_idle);
        let (mut state, _) = waited.expect(HELD);
        if state.is_closed {
            return WorkerTask::End;
        }
        match state.waiting.pop_front() {
            Some(dealt) => {
                state.is_working = true;
                WorkerTask::Apply(dealt)
            }
            None => WorkerTask::Rest,
        }
    }

    fn lock(&self) -> MutexGuard<'_, QueueState> {
        self.state.lock().expect(HELD)
    }
}

const HELD: &str = "nothing panics while it holds a queue";
