//! Compares the log every few seconds with what was applied of it, so that one
//! that was replaced or cut off is found even while nothing is read from it.

use super::halt::{Halt, OpenError};
use super::meta::{self, Anchors};
use super::projection::Projection;
use crate::event_log::{EventLog, Identity};
use crate::wire::position::NextOffsets;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::Duration;

pub struct Watchdog {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    state: Mutex<State>,
    stop: Condvar,
}

struct State {
    anchors: Anchors,
    next: NextOffsets,
    halt: Option<Halt>,
    stopping: bool,
}

impl Watchdog {
    /// Without an interval it watches nothing.
    pub fn start(
        log: &Arc<dyn EventLog>,
        projection: &Projection,
        every: Option<Duration>,
    ) -> std::io::Result<Watchdog> {
        let shared = Arc::new(Shared {
            state: Mutex::new(State {
                anchors: projection.anchors().clone(),
                next: projection.next().clone(),
                halt: None,
                stopping: false,
            }),
            stop: Condvar::new(),
        });
        let thread = match every {
            None => None,
            Some(every) => {
                let (shared, log) = (shared.clone(), log.clone());
                let stored = projection.log().clone();
                let name = std::thread::Builder::new().name("log-watchdog".into());
                Some(name.spawn(move || shared.watch(&*log, &stored, every))?)
            }
        };
        Ok(Watchdog { shared, thread })
    }

    pub fn applied(&self, projection: &Projection) {
        if self.thread.is_some() {
            let mut state = self.shared.lock();
            state.anchors.clone_from(projection.anchors());
            state.next.clone_from(projection.next());
        }
    }

    /// What it found, if that is a reason to stop.
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

impl Shared {
    fn watch(&self, log: &dyn EventLog, stored: &Identity, every: Duration) {
        loop {
            let waiting = |state: &mut State| !state.stopping;
            let state = self.lock();
            let waited = self.stop.wait_timeout_while(state, every, waiting);
            let (state, _) = waited.expect("nothing panics while it holds the state");
            if state.stopping {
                return;
            }
            // From before the look at the log, which can only have more.
            let (anchors, next) = (state.anchors.clone(), state.next.clone());
            drop(state);
            match meta::check(log, stored, &anchors, &next) {
                Ok(()) => {}
                Err(OpenError::Halt(halt)) => {
                    self.lock().halt = Some(halt);
                    return;
                }
                // Whoever reads it notices as well, and says so.
                Err(OpenError::Log(why)) => tracing::debug!(%why, "the log could not be checked"),
                Err(OpenError::Store(error)) => tracing::debug!(%error, "not checked"),
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state
            .lock()
            .expect("nothing panics while it holds the state")
    }
}
