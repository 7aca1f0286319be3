//! Sends deliveries: one task decides, and each attempt has a task. The outcome of an attempt
//! is recorded in the control log before anything follows from it. While the control log does
//! not accept writes, nothing is sent, so that little is sent twice.

use super::allow::Allowed;
use super::attempt::{Attempt, AttemptFailure, FailureKind};
use super::begin::begin;
use super::control_log::ControlLog;
use super::look::{self, NextDelivery};
use super::queue::{DeliveryQueue, Offered, Pick, QueueLimits, Says, backoff};
use super::{Counts, Parts, PendingSignals, WebhookHandle, WebhookState, lock};
use crate::domain::OperationId;
use crate::event_log::PublishError;
use crate::feed::progress;
use crate::rows::outbox;
use crate::store::{self, Batch, Db};
use crate::wire::control_record::{Control, Notified};
use crate::wire::notification::Failing;
use crate::wire::position::NextOffsets;
use crate::worker::{Pauses, Stop};
use metrics::{counter, gauge, histogram};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::task::{JoinHandle, JoinSet};

/// Interval between two scans of all that is due, which keep the counts. Longer if a scan takes
/// long.
const LOOK_EVERY: Duration = Duration::from_secs(5);
const LOOK_SHARE: u32 = 20;
/// Longest pause while the control log or the store does not accept writes.
const PAUSE_MAX: Duration = Duration::from_secs(10);
/// Time for attempts in flight when the ledger stops.
const GRACE: Duration = Duration::from_secs(3);
/// Maximum number of outcomes that are recorded together.
const RECORDS_AT_ONCE: usize = 500;
/// Maximum length of a recorded error, in bytes.
const WHY_MAX: usize = 300;

pub async fn run(parts: Parts, handle: Arc<WebhookHandle>, stop: &Stop) {
    let control = parts.control.clone();
    let begun = tokio::select! {
        ends = begin(&parts, &control, &handle) => ends,
        () = stop.asked() => return,
    };
    let settings = &parts.settings;
    let bounds = QueueLimits {
        per_target: settings.per_target,
        in_flight: settings.in_flight,
        retry_min: settings.retry_min,
        retry_max: settings.retry_max.max(settings.retry_min),
    };
    let mut dispatcher = Dispatcher {
        allowed: Arc::new(Allowed(settings.allow.clone())),
        parts,
        control,
        handle,
        ends: begun,
        bounds,
        queue: DeliveryQueue::new(bounds),
        tries: JoinSet::new(),
        outcomes: Vec::new(),
        recording: None,
        trouble: None,
        looking: None,
        look_at: Instant::now(),
        more_at: Instant::now(),
    };
    dispatcher.work(stop).await;
}

/// A finished attempt.
struct Tried {
    pick: Pick,
    attempt: Attempt,
    failing: Option<Failing>,
    began_ms: i64,
    took: Duration,
    outcome: Result<u16, AttemptFailure>,
}

type Recording = Pin<Box<dyn Future<Output = Result<(), PublishError>> + Send>>;

struct Dispatcher {
    parts: Parts,
    control: Arc<ControlLog>,
    handle: Arc<WebhookHandle>,
    allowed: Arc<Allowed>,
    ends: NextOffsets,
    bounds: QueueLimits,
    queue: DeliveryQueue,
    tries: JoinSet<Tried>,
    /// Outcomes that are not in the control log yet; the first of them are being recorded.
    outcomes: Vec<Control>,
    recording: Option<(usize, Recording)>,
    trouble: Option<Trouble>,
    looking: Option<JoinHandle<(store::Result<look::All>, Duration)>>,
    look_at: Instant,
    /// When to scan the store again for deliveries that had no room in memory.
    more_at: Instant,
}

/// Why outcomes cannot be recorded at present.
struct Trouble {
    why: String,
    again_at: Instant,
    pauses: Pauses,
}

impl Dispatcher {
    async fn work(&mut self, stop: &Stop) {
        let mut reading = self.control.watch_doing();
        let mut stop_at = None;
        loop {
            let now = Instant::now();
            let stopping = stop.is_asked();
            let control = reading.borrow_and_update().clone();
            // Otherwise the outcomes of new attempts could not be recorded.
            let follows = control == progress::Doing::Running;
            if stopping {
                let until = *stop_at.get_or_insert(now + GRACE);
                let is_done = self.tries.is_empty() && self.outcomes.is_empty();
                if is_done || now >= until {
                    return;
                }
            } else {
                self.hear();
                self.look_at_all(now);
                while self.trouble.is_none()
                    && follows
                    && let Some(pick) = self.queue.next(now)
                {
                    self.start(pick);
                }
            }
            if !matches!(control, progress::Doing::Halted(_)) {
                self.record(now);
            }
            self.show(&control);
            let wake = self.wake_at(stop_at, follows);
            tokio::select! {
                Some(tried) = self.tries.join_next(), if !self.tries.is_empty() => match tried {
                    Ok(tried) => self.ended(tried),
                    // A panic is a bug: the delivery is retried after a restart.
                    Err(error) => tracing::error!(%error, "an attempt panicked"),
                },
                outcome = recorded(&mut self.recording) => self.recorded(outcome),
                (all, took) = looked(&mut self.looking) => self.found(all, took),
                () = self.handle.wake.notified() => {}
                () = tokio::time::sleep_until(wake.into()) => {}
                () = stop.asked(), if !stopping => {}
                _ = reading.changed() => {}
            }
        }
    }

    /// `follows`: whether more may be sent.
    fn wake_at(&self, stop_at: Option<Instant>, follows: bool) -> Instant {
        let trouble = self.trouble.as_ref().map(|trouble| trouble.again_at);
        let sends = follows && trouble.is_none() && stop_at.is_none();
        let next = self.queue.wake_at().filter(|_| sends);
        let look = self.looking.is_none() && stop_at.is_none();
        let more = look && self.queue.wants_more();
        let looks = [look.then_some(self.look_at), more.then_some(self.more_at)];
        let all = [trouble, next, looks[0], looks[1], stop_at];
        let now = Instant::now();
        let first = all.into_iter().flatten().min().unwrap_or(now + LOOK_EVERY);
        // At least a millisecond, so that a bug here cannot become a busy loop.
        first.max(now + Duration::from_millis(1))
    }

    /// Takes the signals that arrived since the last call.
    fn hear(&mut self) {
        let PendingSignals {
            due,
            again,
            all,
            released,
        } = std::mem::take(&mut *lock(&self.handle.told));
        if released {
            // The position may belong to another log.
            let applied = self.parts.progress.applied();
            let log = applied.token.as_ref().map(|token| token.log);
            match log.map(|log| outbox::begun(self.parts.writer.db(), log)) {
                Some(Ok(Some(ends))) => self.ends = ends,
                Some(Ok(None)) | None => {}
                Some(Err(_)) => lock(&self.handle.told).released = true,
            }
        }
        if all || released {
            self.look_at = Instant::now();
        }
        for operation_id in &due {
            self.look_again(operation_id, false);
        }
        for operation_id in &again {
            self.look_again(operation_id, true);
        }
    }

    /// Queues what is due for one operation. `hurry`: ignore the pause of its target.
    fn look_again(&mut self, operation_id: &str, hurry: bool) {
        match look::of_operation(&self.parts.writer, OperationId(operation_id), &self.ends) {
            Ok(waiting) => {
                for waiting in waiting {
                    if hurry {
                        self.queue.unpause(&waiting.target);
                    }
                    self.offer(waiting);
                }
            }
            Err(error) => {
                tracing::warn!(%error, "cannot read webhook deliveries from the store");
                self.look_at = self.look_at.min(Instant::now() + Duration::from_secs(1));
            }
        }
    }

    fn offer(&mut self, waiting: look::ReadyDelivery) {
        let at = self.instant(waiting.next_ms);
        match self
            .queue
            .offer(&waiting.operation_id, waiting.key, waiting.target, at)
        {
            // The next scan finds it when there is room, or when its attempt has ended.
            Offered::Queued | Offered::UnderWay | Offered::LeftOut => {}
        }
    }

    /// Converts a time of day to an instant of this process. Never later than the longest
    /// pause, even if the clock jumps.
    fn instant(&self, at_ms: Option<i64>) -> Instant {
        let left = at_ms
            .map_or(0, |at| at.saturating_sub(self.now_ms()))
            .max(0);
        let left = Duration::from_millis(left as u64);
        Instant::now() + left.min(self.bounds.retry_max.saturating_mul(2))
    }

    fn now_ms(&self) -> i64 {
        (self.parts.clock)().as_millis()
    }

    fn look_at_all(&mut self, now: Instant) {
        let more = self.queue.wants_more() && now >= self.more_at;
        if self.looking.is_some() || (now < self.look_at && !more) {
            return;
        }
        self.queue.begin_scan();
        let (writer, ends) = (self.parts.writer.clone(), self.ends.clone());
        let now_ms = self.now_ms();
        let well = self.queue.well();
        self.looking = Some(tokio::task::spawn_blocking(move || {
            let all = look::all(&writer, &ends, now_ms, &well);
            (all, now.elapsed())
        }));
    }

    fn found(&mut self, all: store::Result<look::All>, took: Duration) {
        self.looking = None;
        self.look_at = Instant::now() + LOOK_EVERY.max(took * LOOK_SHARE);
        self.more_at = Instant::now() + took;
        let all = match all {
            Ok(all) => all,
            Err(error) => {
                tracing::warn!(%error, "cannot read webhook deliveries from the store");
                self.look_at = Instant::now() + Duration::from_secs(1);
                return;
            }
        };
        *lock(&self.handle.counts) = Counts {
            pending: all.pending,
            held: all.held,
            failed: all.failed,
        };
        let oldest = all.oldest_ms.map_or(0, |first| self.now_ms() - first);
        gauge!("opledger_webhook_oldest_failing_seconds").set(oldest.max(0) as f64 / 1000.0);
        for waiting in all.waiting {
            if !self.queue.holds(&waiting.operation_id) {
                self.offer(waiting);
            }
        }
    }

    fn start(&mut self, pick: Pick) {
        let look = look::look(
            &self.parts.writer,
            OperationId(&pick.operation_id),
            pick.key,
            &self.ends,
            (&self.parts.documents, &self.parts.times),
        );
        let send = match look {
            Ok(NextDelivery::Send(send)) => send,
            Ok(NextDelivery::Nothing) => return self.over(&pick, Says::Nothing),
            Err(error) => {
                let operation_id = &*pick.operation_id;
                tracing::warn!(%error, operation_id, "cannot read a webhook delivery");
                self.over(&pick, Says::Nothing);
                let at = Instant::now() + PAUSE_MAX;
                let target = (*pick.target).clone();
                self.queue.offer(&pick.operation_id, pick.key, target, at);
                return;
            }
        };
        let attempt = Attempt {
            address: send.target.address,
            port: send.target.port,
            operation_id: pick.operation_id.to_string(),
            key: pick.key,
            document: send.document,
        };
        let began_ms = self.now_ms();
        let (allowed, timeout) = (self.allowed.clone(), self.parts.settings.timeout);
        let (operation_id, key) = (attempt.operation_id.clone(), pick.key);
        let target = (*pick.target).clone();
        let failing = send.failing;
        self.tries.spawn(async move {
            let started = Instant::now();
            let outcome = attempt.run(&allowed, timeout).await;
            Tried {
                pick: Pick {
                    operation_id: operation_id.into(),
                    key,
                    target: target.into(),
                },
                attempt,
                failing,
                began_ms,
                took: started.elapsed(),
                outcome,
            }
        });
    }

    /// Ends an attempt without a new one.
    fn over(&mut self, pick: &Pick, says: Says) {
        self.queue.ended(pick, says, Instant::now());
        if self.queue.forget(&pick.operation_id) {
            self.look_again(&pick.operation_id, false);
        }
    }

    fn ended(&mut self, tried: Tried) {
        let Tried {
            pick,
            attempt,
            failing,
            began_ms,
            took,
            outcome,
        } = tried;
        let now = Instant::now();
        let attempts = failing.as_ref().map_or(0, |failing| failing.attempts) + 1;
        let label = outcome
            .as_ref()
            .map_or_else(|failure| failure.kind.as_str(), |_| "delivered");
        counter!("opledger_webhook_attempts_total", "outcome" => label).increment(1);
        histogram!("opledger_webhook_attempt_seconds").record(took.as_secs_f64());
        let event = match outcome {
            Ok(status) => {
                self.queue.ended(&pick, Says::ItAnswers, now);
                Notified::Delivered {
                    attempts,
                    status,
                    address: attempt.address,
                    port: attempt.port,
                }
            }
            Err(failure) => {
                let says = match failure.kind {
                    FailureKind::Refused => Says::ItAnswers,
                    kind if kind.is_of_target() => Says::ItFails(failure.retry_after),
                    _ => Says::Nothing,
                };
                self.queue.ended(&pick, says, now);
                let first_ms = failing.map_or(began_ms, |failing| failing.first_ms);
                let tried_for = Duration::from_millis((self.now_ms() - first_ms).max(0) as u64);
                let why: String = failure.why.chars().take(WHY_MAX).collect();
                let give_up = tried_for >= self.parts.settings.give_up_after;
                if !give_up && failure.kind != FailureKind::NoTarget {
                    let wish = failure.retry_after;
                    return self.postpone(pick, first_ms, attempts, wish, why);
                }
                let operation_id = &*pick.operation_id;
                tracing::warn!(operation_id, attempts, %why, "a webhook delivery has failed permanently");
                Notified::Failed { attempts, why }
            }
        };
        self.outcomes.push(Control::Notification {
            operation_id: attempt.operation_id,
            key: attempt.key,
            event,
        });
    }

    /// `wish`: the target asked to wait at least this long.
    fn postpone(
        &mut self,
        pick: Pick,
        first_ms: i64,
        attempts: u32,
        wish: Option<Duration>,
        why: String,
    ) {
        let salt = u64::from_be_bytes(pick.key.0[..8].try_into().expect("a key is longer"));
        let wish = wish.unwrap_or_default().min(self.bounds.retry_max);
        let pause = backoff(&self.bounds, attempts, salt).max(wish);
        let operation_id = &*pick.operation_id;
        tracing::debug!(operation_id, attempts, %why, "a webhook delivery will be retried");
        let failing = Failing {
            first_ms,
            attempts,
            next_ms: self.now_ms().saturating_add(pause.as_millis() as i64),
            why,
        };
        let of = (OperationId(operation_id), pick.key);
        let noted = |db: &dyn Db, batch: &mut Batch| outbox::put_failing(db, of, failing, batch);
        if let Err(error) = self.parts.writer.change(noted) {
            tracing::warn!(%error, "cannot record the attempts of a webhook delivery");
        }
        if self.queue.forget(operation_id) {
            return self.look_again(operation_id, false);
        }
        let target = (*pick.target).clone();
        self.queue
            .offer(operation_id, pick.key, target, Instant::now() + pause);
    }

    /// Starts to record outcomes that are not recorded yet.
    fn record(&mut self, now: Instant) {
        let waits = self
            .trouble
            .as_ref()
            .is_some_and(|trouble| trouble.again_at > now);
        if self.recording.is_some() || self.outcomes.is_empty() || waits {
            return;
        }
        let count = self.outcomes.len().min(RECORDS_AT_ONCE);
        let some = self.outcomes[..count].to_vec();
        let control = self.control.clone();
        let recording = Box::pin(async move { control.record(&some).await });
        self.recording = Some((count, recording));
    }

    fn recorded(&mut self, outcome: Result<(), PublishError>) {
        let Some((count, _)) = self.recording.take() else {
            return;
        };
        if let Err(error) = outcome {
            let why = error.to_string();
            let before = self.trouble.take();
            if before.as_ref().is_none_or(|trouble| trouble.why != why) {
                tracing::warn!(%why, "outcomes of webhook deliveries cannot be recorded; retrying");
            }
            let first = || Pauses::new(Duration::from_millis(50), PAUSE_MAX);
            let mut pauses = before.map_or_else(first, |trouble| trouble.pauses);
            self.trouble = Some(Trouble {
                why,
                again_at: Instant::now() + pauses.next_pause(),
                pauses,
            });
            return;
        }
        self.trouble = None;
        for control in self.outcomes.drain(..count).collect::<Vec<_>>() {
            if let Control::Notification { operation_id, .. } = control
                && self.queue.forget(&operation_id)
            {
                self.look_again(&operation_id, false);
            }
        }
    }

    fn show(&self, control: &progress::Doing) {
        let doing = match (control, &self.trouble) {
            (progress::Doing::Halted(why), _) => WebhookState::Halted(why.clone()),
            (progress::Doing::Waiting(why), _) => WebhookState::Waiting(why.clone()),
            (_, Some(trouble)) => {
                WebhookState::Waiting(format!("outcomes are not recorded: {}", trouble.why))
            }
            (_, None) => WebhookState::Running,
        };
        *lock(&self.handle.doing) = doing;
        let counts = *lock(&self.handle.counts);
        for (state, count) in [
            ("pending", counts.pending),
            ("held", counts.held),
            ("failed", counts.failed),
        ] {
            gauge!("opledger_webhook_deliveries", "state" => state).set(count as f64);
        }
        gauge!("opledger_webhook_attempts_in_flight").set(self.queue.in_flight() as f64);
        gauge!("opledger_webhook_targets_failing").set(self.queue.failing_targets() as f64);
    }
}

/// Never resolves if nothing is being recorded.
async fn recorded(recording: &mut Option<(usize, Recording)>) -> Result<(), PublishError> {
    match recording {
        Some((_, recording)) => recording.await,
        None => std::future::pending().await,
    }
}

async fn looked(
    looking: &mut Option<JoinHandle<(store::Result<look::All>, Duration)>>,
) -> (store::Result<look::All>, Duration) {
    match looking {
        Some(looking) => looking.await.unwrap_or_else(|error| {
            let panicked = store::Error::Closed(format!("looking at notifications: {error}"));
            (Err(panicked), Duration::ZERO)
        }),
        None => std::future::pending().await,
    }
}
