//! Compares the log every few seconds with the applied records, so that a replaced or truncated
//! log is found even while nothing is read from it.

use super::halt::{Halt, OpenError};
use super::log_position::LogPosition;
use crate::event_log::EventLog;
use crate::worker::{Stop, WorkerThread};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

pub struct Watchdog {
    shared: Arc<WatchdogShared>,
    thread: Option<WorkerThread>,
}

struct WatchdogShared(Mutex<WatchdogState>);

struct WatchdogState {
    position: LogPosition,
    halt: Option<Halt>,
}

impl Watchdog {
    /// Without an interval it does nothing.
    pub fn start(
        log: &Arc<dyn EventLog>,
        position: &LogPosition,
        name: &'static str,
        every: Option<Duration>,
    ) -> std::io::Result<Watchdog> {
        let shared = Arc::new(WatchdogShared(Mutex::new(WatchdogState {
            position: position.clone(),
            halt: None,
        })));
        let thread = every.map(|every| {
            let (shared, log) = (shared.clone(), log.clone());
            WorkerThread::start(name, move |stop| shared.watch(&*log, every, stop))
        });
        let thread = thread.transpose()?;
        Ok(Watchdog { shared, thread })
    }

    pub fn applied(&self, position: &LogPosition) {
        if self.thread.is_some() {
            self.shared.lock().position.clone_from(position);
        }
    }

    /// The reason to halt that it found.
    pub fn halt(&self) -> Option<Halt> {
        self.shared.lock().halt.clone()
    }
}

impl WatchdogShared {
    fn watch(&self, log: &dyn EventLog, every: Duration, stop: &Stop) {
        loop {
            stop.sleep(every);
            if stop.is_asked() {
                return;
            }
            // Taken before the check of the log, which can only have more records by then.
            let position = self.lock().position.clone();
            match position.check(log) {
                Ok(()) => {}
                Err(OpenError::Halt(halt)) => {
                    self.lock().halt = Some(halt);
                    return;
                }
                // The reader notices it as well and reports it.
                Err(OpenError::Log(why)) => tracing::debug!(%why, "the log could not be checked"),
                Err(OpenError::Store(error)) => tracing::debug!(%error, "not checked"),
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, WatchdogState> {
        self.0
            .lock()
            .expect("nothing panics while it holds the state")
    }
}
