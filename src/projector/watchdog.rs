//! Compares the log every few seconds with the applied records, so that a replaced or truncated
//! log is found even while nothing is read from it.

use super::halt::{Halt, OpenError};
use super::writer::StoreWriter;
use crate::event_log::EventLog;
use crate::worker::{Stop, WorkerThread};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

pub struct Watchdog {
    shared: Arc<WatchdogShared>,
    _thread: Option<WorkerThread>,
}

struct WatchdogShared {
    log: Arc<dyn EventLog>,
    writer: Arc<StoreWriter>,
    halt: Mutex<Option<Halt>>,
}

impl Watchdog {
    /// Without an interval it does nothing.
    pub fn start(
        log: &Arc<dyn EventLog>,
        writer: &Arc<StoreWriter>,
        name: &'static str,
        every: Option<Duration>,
    ) -> std::io::Result<Watchdog> {
        let shared = Arc::new(WatchdogShared {
            log: log.clone(),
            writer: writer.clone(),
            halt: Mutex::new(None),
        });
        let thread = every.map(|every| {
            let shared = shared.clone();
            WorkerThread::start(name, move |stop| shared.watch(every, stop))
        });
        Ok(Watchdog {
            shared,
            _thread: thread.transpose()?,
        })
    }

    /// The reason to halt that it found.
    pub fn halt(&self) -> Option<Halt> {
        self.shared.lock().clone()
    }
}

impl WatchdogShared {
    fn watch(&self, every: Duration, stop: &Stop) {
        loop {
            stop.sleep(every);
            if stop.is_asked() {
                return;
            }
            // Taken before the check of the log, which can only have more records by then.
            let position = self.writer.position();
            match position.check(&*self.log) {
                Ok(()) => {}
                Err(OpenError::Halt(halt)) => {
                    *self.lock() = Some(halt);
                    return;
                }
                // The reader notices it as well and reports it.
                Err(OpenError::Log(why)) => tracing::debug!(%why, "the log could not be checked"),
                Err(OpenError::Store(error)) => tracing::debug!(%error, "not checked"),
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Halt>> {
        self.halt
            .lock()
            .expect("nothing panics while it holds the reason")
    }
}
