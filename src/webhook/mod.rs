//! Webhooks: sends the document to the receiver that was named at an operation's creation when
//! the operation has ended. At least once, in order for each operation, for days if necessary.
//!
//! - `allow` decides which addresses may be called, `attempt` makes one attempt.
//! - `control_log` records the outcomes, `begin` waits until it is known which deliveries are held.
//! - `queue` decides what is attempted next, `dispatch` does it.
//! - `look` is what they read from the store and write to it.
//!
//! The outbox in the store has what is due. It is written together with the document, so
//! nothing is sent before it can be read. The outcome is written to the control log first, so a
//! store that is rebuilt sends nothing again.

pub mod allow;
pub mod attempt;
mod begin;
pub mod control_log;
mod dispatch;
mod look;
mod queue;

use self::control_log::ControlLog;
use crate::clock::Clock;
use crate::config::Notifications;
use crate::event_log::EventLog;
use crate::feed::documents::DocumentCache;
use crate::feed::progress::Progress;
use crate::projector::StoreWriter;
use crate::rows::outbox::is_any_due;
use crate::store::Db;
use crate::wire::position::NextOffsets;
use crate::wire::time::TimeStyle;
use crate::worker::WorkerThread;
use std::sync::{Arc, Mutex, MutexGuard};
use tokio::sync::Notify;

/// What webhooks need from the rest of the ledger.
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

/// The state of webhooks, for readiness.
#[derive(Debug, Clone, PartialEq, Eq)]
enum WebhookState {
    /// No network is allowed.
    Off,
    Starting,
    Running,
    Waiting(String),
    Halted(String),
}

/// The side of the dispatcher that the rest of the ledger calls.
pub struct WebhookHandle {
    db: Arc<dyn Db>,
    told: Mutex<PendingSignals>,
    wake: Notify,
    doing: Mutex<WebhookState>,
    counts: Mutex<Counts>,
    control: Mutex<Option<Arc<ControlLog>>>,
}

#[derive(Default)]
struct PendingSignals {
    due: Vec<Box<str>>,
    again: Vec<Box<str>>,
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
const TOLD_MAX: usize = 10_000;

impl WebhookHandle {
    /// A handle that sends nothing, because of `why` if that is given.
    pub fn idle(db: Arc<dyn Db>, why: Option<String>) -> Arc<WebhookHandle> {
        let doing = why.map_or(WebhookState::Off, WebhookState::Halted);
        Arc::new(WebhookHandle::new(db, doing))
    }

    /// Of a ledger that will send.
    pub fn starting(db: Arc<dyn Db>) -> Arc<WebhookHandle> {
        Arc::new(WebhookHandle::new(db, WebhookState::Starting))
    }

    fn new(db: Arc<dyn Db>, doing: WebhookState) -> WebhookHandle {
        WebhookHandle {
            db,
            told: Mutex::default(),
            wake: Notify::new(),
            doing: Mutex::new(doing),
            counts: Mutex::default(),
            control: Mutex::default(),
        }
    }

    /// Signals that these operations may have deliveries due. They must be readable already.
    /// Never waits.
    pub fn tell_due(&self, operations: &[Box<str>]) {
        if operations.is_empty() || self.control().is_none() {
            return;
        }
        let mut told = lock(&self.told);
        if told.due.len() + operations.len() > TOLD_MAX {
            told.due.clear();
            told.all = true;
        } else {
            told.due.extend_from_slice(operations);
        }
        drop(told);
        self.wake.notify_one();
    }

    /// An operator has said that these are to be tried again.
    pub fn tell_retried(&self, operations: &[Box<str>]) {
        if !operations.is_empty() {
            lock(&self.told).again.extend_from_slice(operations);
            self.wake.notify_one();
        }
    }

    /// What is held may have changed: all of it is to be looked at.
    pub fn tell_released(&self) {
        lock(&self.told).released = true;
        self.wake.notify_one();
    }

    /// The log in which retries and releases are recorded; `None` while nothing is sent.
    pub fn control(&self) -> Option<Arc<ControlLog>> {
        lock(&self.control).clone()
    }

    /// Why deliveries have halted until somebody acts.
    pub fn halted(&self) -> Option<String> {
        match &*lock(&self.doing) {
            WebhookState::Halted(why) => Some(why.clone()),
            WebhookState::Off
            | WebhookState::Starting
            | WebhookState::Running
            | WebhookState::Waiting(_) => None,
        }
    }

    /// Notes for `/readyz` that do not make the ledger unready.
    pub fn notes(&self) -> Vec<String> {
        let mut notes = Vec::new();
        match &*lock(&self.doing) {
            // Other code reports that the store cannot be read.
            WebhookState::Off if is_any_due(&*self.db).unwrap_or(false) => notes.push(
                "webhook deliveries are due but not sent: notifications.allow is empty".into(),
            ),
            WebhookState::Off | WebhookState::Running => {}
            WebhookState::Starting => {
                notes.push("webhook deliveries are not sent yet: starting".into())
            }
            WebhookState::Waiting(why) => {
                notes.push(format!("webhook deliveries are not sent now: {why}"))
            }
            WebhookState::Halted(why) => {
                notes.push(format!("webhook deliveries have halted: {why}"))
            }
        }
        let counts = *lock(&self.counts);
        if counts.held > 0 {
            notes.push(format!(
                "{} notifications are held, as nobody knows whether they were sent: `opledger \
                 notifications release`, or leave them",
                counts.held
            ));
        }
        if counts.failed > 0 {
            notes.push(format!(
                "{} notifications were given up: `opledger notifications retry`, or leave them",
                counts.failed
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
