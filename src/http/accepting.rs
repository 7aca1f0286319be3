//! Log lines about refused events: one when refusing begins and one when it ends. Workers that retry
//! would flood the log otherwise.

use crate::event_log::PublishError;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

/// Refusing has ended if no event was refused for this long. While one of several brokers fails,
/// some events are refused and others accepted.
const CALM: Duration = Duration::from_secs(5);

#[derive(Default)]
pub struct Accepting {
    refuses: AtomicBool,
    refusals: Mutex<Option<Refusals>>,
}

struct Refusals {
    count: u64,
    last: Instant,
}

impl Accepting {
    /// To be called with the outcome of each publish. `Busy` is not a refusal by the log.
    pub fn note(&self, failed: Option<&PublishError>) {
        match failed {
            None if self.refuses.load(Ordering::Relaxed) => self.accepted(),
            None | Some(PublishError::Busy) => {}
            Some(error @ (PublishError::Rejected(_) | PublishError::Unknown(_))) => {
                self.refused(error);
            }
        }
    }

    fn refused(&self, error: &PublishError) {
        let now = Instant::now();
        match &mut *self.lock() {
            Some(refusals) => {
                refusals.count += 1;
                refusals.last = now;
            }
            none => {
                *none = Some(Refusals {
                    count: 1,
                    last: now,
                });
                self.refuses.store(true, Ordering::Relaxed);
                tracing::warn!(reason = %error, "events are refused");
            }
        }
    }

    fn accepted(&self) {
        let ended = self
            .lock()
            .take_if(|refusals| refusals.last.elapsed() >= CALM);
        if let Some(Refusals { count, .. }) = ended {
            self.refuses.store(false, Ordering::Relaxed);
            tracing::info!(refused = count, "events are accepted again");
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Refusals>> {
        self.refusals
            .lock()
            .expect("nothing panics while it holds the refusals")
    }
}
