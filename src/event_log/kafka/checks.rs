//! Asks the cluster for the topic's id. After each publish, and after each fetch whose topic is not
//! certain, the caller waits for the response to a request that was sent later. All callers that
//! wait share one request.

use super::BadOptions;
use super::fetcher::Uncertain;
use super::inspect::{Inspector, Topic};
use crate::event_log::{Confirmation, ReadError};
use crate::wire::position::LogId;
use crate::worker::WorkerThread;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

/// How often the cluster is asked if no caller waits.
const EVERY: Duration = Duration::from_secs(1);
/// How often the consumer group's offsets are committed.
const COMMIT_EVERY: Duration = Duration::from_secs(5);

type CheckResult = Result<(), ReadError>;

/// The condition that a caller waits for.
struct Question {
    log: LogId,
    partitions: Option<usize>,
    /// The fetching client, which becomes certain by the response.
    client: Option<Uncertain>,
    result: oneshot::Sender<CheckResult>,
}

pub struct Checks {
    shared: Arc<ChecksShared>,
    _worker: WorkerThread,
}

#[derive(Default)]
struct ChecksShared {
    queue: Mutex<QuestionQueue>,
    changed: Condvar,
}

#[derive(Default)]
struct QuestionQueue {
    questions: Vec<Question>,
    closed: bool,
}

impl Checks {
    pub fn start(inspector: Arc<Inspector>) -> Result<Checks, BadOptions> {
        let shared = Arc::new(ChecksShared::default());
        let checking = shared.clone();
        let worker = WorkerThread::start("kafka-checks", move |_| checking.run(&inspector));
        let no_thread = |error| BadOptions(vec![format!("no thread for checks: {error}")]);
        Ok(Checks {
            shared,
            _worker: worker.map_err(no_thread)?,
        })
    }

    /// Checks that the topic still is this log, and has this many partitions.
    pub fn ask(&self, log: LogId, partitions: Option<usize>) -> oneshot::Receiver<CheckResult> {
        self.shared.ask(log, partitions, None)
    }

    /// For a caller that asks the same repeatedly.
    pub fn asking(&self, log: LogId, partitions: usize) -> Asking {
        Asking {
            shared: self.shared.clone(),
            log,
            partitions,
        }
    }
}

impl Drop for Checks {
    fn drop(&mut self) {
        self.shared.lock().closed = true;
        self.shared.changed.notify_all();
    }
}

pub struct Asking {
    shared: Arc<ChecksShared>,
    log: LogId,
    partitions: usize,
}

impl Asking {
    pub fn ask(&self, client: Option<Uncertain>) -> Confirmation {
        let result = self.shared.ask(self.log, Some(self.partitions), client);
        Confirmation::coming(result)
    }
}

impl ChecksShared {
    fn ask(
        &self,
        log: LogId,
        partitions: Option<usize>,
        client: Option<Uncertain>,
    ) -> oneshot::Receiver<CheckResult> {
        let (result, coming) = oneshot::channel();
        self.lock().questions.push(Question {
            log,
            partitions,
            client,
            result,
        });
        self.changed.notify_one();
        coming
    }

    fn run(&self, inspector: &Inspector) {
        let mut checked = Instant::now() - EVERY;
        let mut committed = Instant::now();
        loop {
            let left = EVERY.saturating_sub(checked.elapsed());
            let idle = |queue: &mut QuestionQueue| queue.questions.is_empty() && !queue.closed;
            let waited = self.changed.wait_timeout_while(self.lock(), left, idle);
            let (mut queue, _) = waited.expect("nothing panics while it holds the queue");
            if queue.closed {
                inspector.commit_applied();
                return;
            }
            let questions = std::mem::take(&mut queue.questions);
            drop(queue);

            let topic = inspector.look_at_topic();
            for question in questions {
                let result = judge(&topic, &question);
                if let (Ok(()), Some(client)) = (&result, &question.client) {
                    client.confirm();
                }
                // The caller may have gone away.
                let _ = question.result.send(result);
            }
            inspector.serve();
            if checked.elapsed() < EVERY {
                continue;
            }
            // Bounds of another topic than the identified one mean nothing.
            let seen = inspector.seen();
            if let Ok(topic) = topic
                && seen.is_some_and(|seen| seen.id == topic.id)
            {
                // If no partition has a leader, the request fails.
                let bounds = inspector.look_at_bounds(topic.partitions);
                inspector.keep_bounds(bounds.unwrap_or_default(), topic.partitions);
            }
            // After the call, so that a slow one is not repeated at once.
            checked = Instant::now();
            if committed.elapsed() >= COMMIT_EVERY {
                committed = Instant::now();
                inspector.commit_applied();
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, QuestionQueue> {
        self.queue
            .lock()
            .expect("nothing panics while it holds the queue")
    }
}

fn judge(topic: &Result<Topic, ReadError>, question: &Question) -> CheckResult {
    let topic = topic.as_ref().map_err(Clone::clone)?;
    if topic.id != question.log {
        let (was, is) = (question.log, topic.id);
        let why = format!("the topic is another one now: it was {was} and is {is}");
        return Err(ReadError::Unavailable(why));
    }
    match question.partitions {
        Some(known) if known != topic.partitions => {
            let why = format!("the topic has {} partitions, not {known}", topic.partitions);
            Err(ReadError::Unavailable(why))
        }
        Some(_) | None => Ok(()),
    }
}
