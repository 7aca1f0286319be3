//! Compares the log every few seconds with the applied records, so that a replaced or truncated
//! log is found even while nothing is read from it.

use super::halt::{Halt, OpenError};
use super::log_position::LogPosition;
use crate::event_log::EventLog;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::Duration;

pub struct Watchdog {
    shared: Arc<WatchdogShared>,
    thread: Option<JoinHandle<()>>,
}

struct WatchdogShared {
    state: Mutex<WatchdogState>,
    stop: Condvar,
}

struct WatchdogState {
    position: LogPosition,
    halt: Option<Halt>,
    stopping: bool,
}

impl Watchdog {
    /// Without an interval it does nothing.
    pub fn start(
        log: &Arc<dyn EventLog>,
        position: &LogPosition,
        name: &str,
        every: Option<Duration>,
    ) -> std::io::Result<Watchdog> {
        let shared = Arc::new(WatchdogShared {
            state: Mutex::new(WatchdogState {
                position: position.clone(),
                halt: None,
                stopping: false,
            }),
            stop: Condvar::new(),
        });
        let thread = match every {
            None => None,
            Some(every) => {
                let (shared, log) = (shared.clone(), log.clone());
                let thread = std::thread::Builder::new().name(name.into());
                Some(thread.spawn(move || shared.watch(&*log, every))?)
            }
        };
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

impl Drop for Watchdog {
    fn drop(&mut self) {
        self.shared.lock().stopping = true;
        self.shared.stop.notify_all();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the watchdog of the log panicked");
        }
    }
}

impl WatchdogShared {
    fn watch(&self, log: &dyn EventLog, every: Duration) {
        loop {
            let waiting = |state: &mut WatchdogState| !state.stopping;
            let state = self.lock();
            let waited = self.stop.wait_timeout_while(state, every, waiting);
            let (state, _) = waited.expect("nothing panics while it holds the state");
            if state.stopping {
                return;
            }
            // Taken before the check of the log, which can only have more records by then.
            let position = state.position.clone();
            drop(state);
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
        self.state
            .lock()
            .expect("nothing panics while it holds the state")
    }
}
