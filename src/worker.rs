//! A thread with a name that ends when its owner is dropped, and the pauses between attempts.

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::sync::Notify;

/// Dropping it asks the thread to stop, and waits for it. A panic is logged.
pub struct WorkerThread {
    stop: Arc<Stop>,
    thread: Option<JoinHandle<()>>,
}

/// Signals the thread to stop.
#[derive(Default)]
pub struct Stop {
    asked: Mutex<bool>,
    changed: Condvar,
    notify: Notify,
}

impl WorkerThread {
    pub fn start(
        name: impl Into<String>,
        work: impl FnOnce(&Stop) + Send + 'static,
    ) -> std::io::Result<WorkerThread> {
        let stop = Arc::new(Stop::default());
        let asked = stop.clone();
        let thread = std::thread::Builder::new().name(name.into());
        let thread = Some(thread.spawn(move || work(&asked))?);
        Ok(WorkerThread { stop, thread })
    }
}

impl WorkerThread {
    /// Does not wait for it, as dropping does.
    pub fn ask_to_stop(&self) {
        *self.stop.lock() = true;
        self.stop.changed.notify_all();
        self.stop.notify.notify_waiters();
    }
}

impl Drop for WorkerThread {
    fn drop(&mut self) {
        self.ask_to_stop();
        let Some(thread) = self.thread.take() else {
            return;
        };
        let name = thread.thread().name().unwrap_or_default().to_owned();
        if thread.join().is_err() {
            tracing::error!(thread = name, "a thread panicked");
        }
    }
}

impl Stop {
    pub fn is_asked(&self) -> bool {
        *self.lock()
    }

    /// For a thread that runs futures: returns when it is asked to stop.
    pub async fn asked(&self) {
        // Made before the flag is read, so that no notification is missed in between.
        let notified = self.notify.notified();
        if !self.is_asked() {
            notified.await;
        }
    }

    /// Ends early if the thread is asked to stop.
    pub fn sleep(&self, time: Duration) {
        let goes_on = |asked: &mut bool| !*asked;
        let waited = self.changed.wait_timeout_while(self.lock(), time, goes_on);
        drop(waited.expect("nothing panics while it is held"));
    }

    fn lock(&self) -> MutexGuard<'_, bool> {
        self.asked.lock().expect("nothing panics while it is held")
    }
}

/// Pauses between attempts, without end: each is twice the one before, from the first to the
/// longest.
#[derive(Debug)]
pub struct Pauses(ExponentialBackoff);

impl Pauses {
    pub fn new(first: Duration, longest: Duration) -> Pauses {
        let pauses = ExponentialBuilder::new()
            .with_min_delay(first.min(longest))
            .with_max_delay(longest)
            .without_max_times();
        Pauses(pauses.build())
    }

    pub fn next_pause(&mut self) -> Duration {
        self.0.next().expect("their number has no limit")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::channel;

    #[test]
    fn a_worker_that_is_dropped_wakes_up_and_ends() {
        let (sender, ended) = channel();
        let worker = WorkerThread::start("test", move |stop| {
            while !stop.is_asked() {
                stop.sleep(Duration::from_secs(3600));
            }
            sender.send(()).unwrap();
        });
        drop(worker.unwrap());
        assert!(ended.try_recv().is_ok());
    }

    #[test]
    fn pauses_double_until_the_longest() {
        let ms = Duration::from_millis;
        let mut pauses = Pauses::new(ms(50), ms(300));
        let found = [(); 5].map(|()| pauses.next_pause().as_millis());
        assert_eq!(found, [50, 100, 200, 300, 300]);
        // A longest pause below the first one bounds that as well.
        assert_eq!(Pauses::new(ms(50), ms(1)).next_pause(), ms(1));
    }
}
