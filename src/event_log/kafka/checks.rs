//! Asks the cluster which topic it is, for everyone at once: whoever has read or produced
//! something, and is not certain by what is fetched, waits for an answer that was asked for
//! after it. A thousand who wait share one request.

use super::BadOptions;
use super::fetcher::MetadataAge;
use super::inspect::{Inspector, Topic};
use crate::event_log::{Confirmation, ReadError};
use crate::wire::position::LogId;
use crate::worker::WorkerThread;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

/// How often it is asked if nobody waits.
const EVERY: Duration = Duration::from_secs(1);
/// How often the consumer group hears how far the store is.
const COMMIT_EVERY: Duration = Duration::from_secs(5);

type CheckResult = Result<(), ReadError>;

/// What somebody relies on.
struct Question {
    log: LogId,
    partitions: Option<usize>,
    /// Who may rely on the answer until something else is heard.
    behind: Option<MetadataAge>,
    answer: oneshot::Sender<CheckResult>,
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

    /// Whether it is still this log, with so many partitions, from now on.
    pub fn ask(&self, log: LogId, partitions: Option<usize>) -> oneshot::Receiver<CheckResult> {
        self.shared.ask(log, partitions, None)
    }

    /// For somebody who asks the same again and again.
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
    /// `behind` is told if the answer is yes.
    pub fn ask(&self, behind: Option<MetadataAge>) -> Confirmation {
        let answer = self.shared.ask(self.log, Some(self.partitions), behind);
        Confirmation::coming(answer)
    }
}

impl ChecksShared {
    fn ask(
        &self,
        log: LogId,
        partitions: Option<usize>,
        behind: Option<MetadataAge>,
    ) -> oneshot::Receiver<CheckResult> {
        let (answer, coming) = oneshot::channel();
        self.lock().questions.push(Question {
            log,
            partitions,
            behind,
            answer,
        });
        self.changed.notify_one();
        coming
    }

    fn run(&self, inspector: &Inspector) {
        let mut looked = Instant::now() - EVERY;
        let mut committed = Instant::now();
        loop {
            let left = EVERY.saturating_sub(looked.elapsed());
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
                let answer = judge(&topic, &question);
                if let (Ok(()), Some(behind)) = (&answer, &question.behind) {
                    behind.confirm();
                }
                // Somebody who has gone needs none.
                let _ = question.answer.send(answer);
            }
            inspector.serve();
            if looked.elapsed() < EVERY {
                continue;
            }
            // Of another topic than the one that was identified, bounds mean nothing.
            let seen = inspector.seen();
            if let Ok(topic) = topic
                && seen.is_some_and(|seen| seen.id == topic.id)
            {
                // Where no partition has a leader there is no answer at all.
                let bounds = inspector.look_at_bounds(topic.partitions);
                inspector.keep_bounds(bounds.unwrap_or_default(), topic.partitions);
            }
            // Behind the call: one that takes long is not followed by the next at once.
            looked = Instant::now();
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
