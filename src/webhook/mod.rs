//! Webhooks: sends the document to the receiver that was named at an operation's creation when
//! the operation has ended. At least once, in order for each operation, for days if necessary.
//!
//! - `allow` decides which addresses may be called, `attempt` makes one attempt.
//! - `control_log` records the outcomes.
//! - `queue` decides which delivery is attempted next. `dispatch` starts the attempts, once it is
//!   known which deliveries are held.
//! - `due` reads the due deliveries from the store.
//!
//! The outbox in the store has the due deliveries. It is written together with the document, so
//! nothing is sent before it can be read. The outcome is written to the control log first, so a
//! store that is rebuilt sends nothing again.

pub mod allow;
pub mod attempt;
pub mod control_log;
mod dispatch;
mod due;
mod queue;

use self::control_log::ControlLog;
use crate::clock::Clock;
use crate::config::Notifications;
use crate::event_log::EventLog;
use crate::feed::documents::DocumentCache;
use crate::feed::progress::{Doing, Progress};
use crate::projector::StoreWriter;
use crate::rows::outbox::is_any_due;
use crate::store::Db;
use crate::wire::position::NextOffsets;
use crate::wire::time::TimeStyle;
use crate::worker::WorkerThread;
use std::sync::{Arc, Mutex, MutexGuard};
use tokio::sync::Notify;

/// The parts of the ledger that webhooks use.
pub struct Parts {
    pub writer: Arc<StoreWriter>,
    /// The event log.
    pub log: Arc<dyn EventLog>,
    /// The end of the event log before this process accepted anything; `None` if the log could
    /// not be reached.
    pub begins: Option<NextOffsets>,
    pub progress: Arc<Progress>,
    pub control: Arc<ControlLog>,
    pub clock: Clock,
    pub documents: Arc<DocumentCache>,
    pub times: TimeStyle,
    pub settings: Notifications,
}

/// The side of the dispatcher that the rest of the ledger calls.
pub struct WebhookHandle {
    db: Arc<dyn Db>,
    signals: Mutex<PendingSignals>,
    wake: Notify,
    /// `None` while nothing is sent.
    control: Mutex<Option<Arc<ControlLog>>>,
    /// Why nothing is sent, in addition to the reason that the reader of the control log reports.
    trouble: Mutex<Option<String>>,
    counts: Mutex<Counts>,
}

#[derive(Default)]
struct PendingSignals {
    due: Vec<Box<str>>,
    retried: Vec<Box<str>>,
    /// The whole store must be scanned.
    all: bool,
    released: bool,
}

#[derive(Debug, Clone, Copy, Default)]
struct Counts {
    pending: u64,
    held: u64,
    failed: u64,
}

/// Above this number of operations a scan of the whole store is cheaper.
const SIGNALS_MAX: usize = 10_000;

impl WebhookHandle {
    /// Sends nothing before `start`: deliveries have halted because of `why` or, without it,
    /// are switched off.
    pub fn idle(db: Arc<dyn Db>, why: Option<String>) -> Arc<WebhookHandle> {
        Arc::new(WebhookHandle {
            db,
            signals: Mutex::default(),
            wake: Notify::new(),
            control: Mutex::default(),
            trouble: Mutex::new(why),
            counts: Mutex::default(),
        })
    }

    /// Signals that these operations may have deliveries due. They must be readable already.
    /// Never waits.
    pub fn signal_due(&self, operations: &[Box<str>]) {
        if operations.is_empty() || self.control().is_none() {
            return;
        }
        let mut signals = lock(&self.signals);
        if signals.due.len() + operations.len() > SIGNALS_MAX {
            signals.due.clear();
            signals.all = true;
        } else {
            signals.due.extend_from_slice(operations);
        }
        drop(signals);
        self.wake.notify_one();
    }

    /// Signals that an operator wants these to be retried at once.
    pub fn signal_retried(&self, operations: &[Box<str>]) {
        if !operations.is_empty() {
            lock(&self.signals).retried.extend_from_slice(operations);
            self.wake.notify_one();
        }
    }

    /// Signals that deliveries that were held may have been released.
    pub fn signal_released(&self) {
        lock(&self.signals).released = true;
        self.wake.notify_one();
    }

    /// The log in which retries and releases are recorded; `None` while nothing is sent.
    pub fn control(&self) -> Option<Arc<ControlLog>> {
        lock(&self.control).clone()
    }

    /// Returns whether that is another reason than before.
    fn set_trouble(&self, trouble: Option<String>) -> bool {
        let is_new = *lock(&self.trouble) != trouble;
        if is_new {
            *lock(&self.trouble) = trouble;
            self.wake.notify_one();
        }
        is_new
    }

    /// `Stopped` if no network is allowed.
    fn doing(&self) -> Doing {
        let reading = self.control().map(|control| control.doing());
        match (reading, lock(&self.trouble).clone()) {
            (None, None) => Doing::Stopped,
            (None, Some(why)) => Doing::Halted(why),
            (Some(reading @ (Doing::Halted(_) | Doing::Waiting(_))), _) => reading,
            (Some(_), Some(why)) => Doing::Waiting(why),
            (Some(reading), None) => reading,
        }
    }

    /// Why deliveries have halted until an operator acts.
    pub fn halted(&self) -> Option<String> {
        match self.doing() {
            Doing::Halted(why) => Some(why),
            Doing::Starting | Doing::Running | Doing::Waiting(_) | Doing::Stopped => None,
        }
    }

    /// Notes for `/readyz` that do not make the ledger unready.
    pub fn notes(&self) -> Vec<String> {
        let mut notes = Vec::new();
        match self.doing() {
            // Other code reports that the store cannot be read.
            Doing::Stopped if is_any_due(&*self.db).unwrap_or(false) => notes.push(
                "webhook deliveries are due but not sent: notifications.allow is empty".into(),
            ),
            Doing::Stopped | Doing::Starting | Doing::Running => {}
            Doing::Waiting(why) => {
                notes.push(format!("webhook deliveries are not sent now: {why}"))
            }
            Doing::Halted(why) => notes.push(format!("webhook deliveries have halted: {why}")),
        }
        let Counts { held, failed, .. } = *lock(&self.counts);
        if held > 0 {
            notes.push(format!(
                "{held} notifications are held, as nobody knows whether they were sent: \
                 `opledger notifications release`, or leave them"
            ));
        }
        if failed > 0 {
            notes.push(format!(
                "{failed} deliveries failed permanently: `opledger notifications retry`, or leave \
                 them"
            ));
        }
        notes
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("nothing panics while it is held")
}

/// Dropping the thread gives attempts in flight a moment, so that they need not be sent twice.
pub fn start(handle: Arc<WebhookHandle>, parts: Parts) -> std::io::Result<WorkerThread> {
    *lock(&handle.control) = Some(parts.control.clone());
    // Resolving a name blocks a thread, possibly for much longer than its attempt lasts.
    let lookups = 4 * parts.settings.in_flight + 8;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(lookups)
        .build()?;
    WorkerThread::start("notifications", move |stop| {
        runtime.block_on(dispatch::run(parts, handle.clone(), stop));
        // Does not wait for a DNS lookup that hangs.
        runtime.shutdown_background();
        *lock(&handle.control) = None;
    })
}
