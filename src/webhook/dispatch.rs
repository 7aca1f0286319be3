//! Sends deliveries: one task decides, and each attempt has a task. The outcome of an attempt
//! is recorded in the control log before anything follows from it. While the control log does
//! not accept writes, nothing is sent, so that little is sent twice.

use super::allow::Allowed;
use super::attempt::{Attempt, AttemptFailure, FailureKind};
use super::control_log::ControlLog;
use super::due::{self, Send};
use super::queue::{DeliveryQueue, Pick, QueueLimits, Target, TargetReport, backoff};
use super::{Parts, PendingSignals, WebhookHandle, lock};
use crate::domain::OperationId;
use crate::feed::progress::Doing;
use crate::rows::outbox;
use crate::store::{self, Batch, Db};
use crate::wire::control_record::{Control, Notified};
use crate::wire::notification::Failing;
use crate::wire::position::{NextOffsets, Offset};
use crate::worker::{Pauses, Stop};
use metrics::{counter, gauge, histogram};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

/// Interval between two scans of all that is due, which keep the counts. Longer if a scan takes
/// long.
const SCAN_EVERY: Duration = Duration::from_secs(5);
const SCAN_SHARE: u32 = 20;
/// Pauses while the control log or the store does not accept writes.
const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(10);
/// Time for attempts in flight when the ledger stops.
const GRACE: Duration = Duration::from_secs(3);
/// Maximum number of outcomes that are recorded together.
const RECORDS_AT_ONCE: usize = 500;
/// Maximum length of a recorded error, in characters.
const WHY_MAX: usize = 300;

pub async fn run(parts: Parts, handle: Arc<WebhookHandle>, stop: &Stop) {
    let ends = tokio::select! {
        ends = begin(&parts, &handle) => ends,
        () = stop.asked() => return,
    };
    let settings = &parts.settings;
    let limits = QueueLimits {
        per_target: settings.per_target,
        in_flight: settings.in_flight,
        retry_min: settings.retry_min,
        retry_max: settings.retry_max.max(settings.retry_min),
    };
    let mut dispatcher = Dispatcher {
        allowed: Arc::new(Allowed(settings.allow.clone())),
        parts,
        handle,
        ends,
        limits,
        queue: DeliveryQueue::new(limits),
        attempts: JoinSet::new(),
        outcomes: Vec::new(),
        recording: JoinSet::new(),
        scanning: JoinSet::new(),
        scan_at: Instant::now(),
        more_at: Instant::now(),
    };
    dispatcher.work(stop).await;
}

/// Waits until the control log is read. Returns offsets: deliveries that were due before them are
/// held, because they may have been made already. Without offsets no delivery is held.
async fn begin(parts: &Parts, handle: &WebhookHandle) -> NextOffsets {
    let mut pauses = Pauses::new(PAUSE_MIN, Duration::from_secs(1));
    loop {
        match begin_now(parts).await {
            Ok(ends) => {
                handle.set_trouble(None);
                return ends;
            }
            Err(why) => {
                handle.set_trouble(Some(why));
                tokio::time::sleep(pauses.next_pause()).await;
            }
        }
    }
}

async fn begin_now(parts: &Parts) -> Result<NextOffsets, String> {
    let control = &parts.control;
    control.wait_until_read().await?;
    let applied = parts.progress.applied();
    let log = applied.token.as_ref().map(|token| token.log);
    let log = log.ok_or("the log was not reached yet")?;
    let begun = || outbox::begun(parts.writer.db(), log).map_err(|error| error.to_string());
    let ends = match begun()? {
        Some(ends) => ends,
        None => {
            let ends = match parts.begins.clone() {
                Some(ends) => ends,
                None if parts.log.id() != Some(log) => {
                    return Err("the log is not the store's".into());
                }
                None => {
                    let log = parts.log.clone();
                    let asking = tokio::task::spawn_blocking(move || log.readable());
                    let ends = asking.await.map_err(|error| error.to_string())?;
                    ends.map_err(|error| error.to_string())?
                }
            };
            let ends = ends.into_iter().filter(|(_, end)| *end > Offset::ZERO);
            let ends: NextOffsets = ends.collect();
            if !ends.is_empty() {
                tracing::warn!(
                    "the control log knows nothing of this log: notifications that are due \
                     already are held until they are released"
                );
            }
            let recorded = control.record(&[Control::Begun { log, ends }]).await;
            recorded.map_err(|error| error.to_string())?;
            begun()?.ok_or("what was recorded is not there")?
        }
    };
    // A row's position decides whether it is held, so all rows before the offsets must be in
    // the store.
    parts.progress.wait_until_behind(&ends).await;
    Ok(ends)
}

/// Records outcomes until that works, and returns them.
async fn record(
    control: Arc<ControlLog>,
    handle: Arc<WebhookHandle>,
    outcomes: Vec<Control>,
) -> Vec<Control> {
    let mut pauses = Pauses::new(PAUSE_MIN, PAUSE_MAX);
    let mut reading = control.watch_doing();
    loop {
        // Each attempt writes all of them again, and nobody would read the copies.
        let is_read = |doing: &Doing| !matches!(doing, Doing::Halted(_));
        let _ = reading.wait_for(is_read).await;
        match control.record(&outcomes).await {
            Ok(()) => {
                handle.set_trouble(None);
                return outcomes;
            }
            Err(error) => {
                let why = format!("outcomes are not recorded: {error}");
                if handle.set_trouble(Some(why)) {
                    tracing::warn!(%error, "outcomes of webhook deliveries cannot be recorded; retrying");
                }
                tokio::time::sleep(pauses.next_pause()).await;
            }
        }
    }
}

/// A finished attempt.
struct Attempted {
    pick: Pick,
    target: Target,
    failing: Option<Failing>,
    began_ms: i64,
    took: Duration,
    outcome: Result<u16, AttemptFailure>,
}

struct Dispatcher {
    parts: Parts,
    handle: Arc<WebhookHandle>,
    allowed: Arc<Allowed>,
    ends: NextOffsets,
    limits: QueueLimits,
    queue: DeliveryQueue,
    attempts: JoinSet<Attempted>,
    /// Outcomes that are not being recorded yet.
    outcomes: Vec<Control>,
    /// At most one.
    recording: JoinSet<Vec<Control>>,
    /// At most one.
    scanning: JoinSet<(store::Result<due::All>, Duration)>,
    scan_at: Instant,
    /// When to scan the store again for deliveries that had no room in memory.
    more_at: Instant,
}

impl Dispatcher {
    async fn work(&mut self, stop: &Stop) {
        let mut reading = self.parts.control.watch_doing();
        let mut stop_at = None;
        loop {
            let now = Instant::now();
            let stopping = stop.is_asked();
            reading.mark_unchanged();
            // Otherwise the outcomes of new attempts could not be recorded.
            let sends = !stopping && self.handle.doing() == Doing::Running;
            if stopping {
                let until = *stop_at.get_or_insert(now + GRACE);
                let rest = self.attempts.len() + self.outcomes.len() + self.recording.len();
                if rest == 0 || now >= until {
                    return;
                }
            } else {
                self.hear();
                self.scan(now);
                while sends && let Some(pick) = self.queue.next(now) {
                    self.start(pick);
                }
            }
            if self.recording.is_empty() && !self.outcomes.is_empty() {
                let count = self.outcomes.len().min(RECORDS_AT_ONCE);
                let some = self.outcomes.drain(..count).collect();
                let (control, handle) = (self.parts.control.clone(), self.handle.clone());
                self.recording.spawn(record(control, handle, some));
            }
            gauge!("opledger_webhook_attempts_in_flight").set(self.queue.in_flight() as f64);
            gauge!("opledger_webhook_targets_failing").set(self.queue.failing_targets() as f64);
            let next = sends.then(|| self.queue.wake_at()).flatten();
            let scan = self.scanning.is_empty() && !stopping;
            let scan = scan.then(|| self.next_scan());
            let wake = [next, scan, stop_at].into_iter().flatten().min();
            // At least a millisecond, so that a bug here cannot become a busy loop.
            let wake = wake.unwrap_or(now + SCAN_EVERY);
            let wake = wake.max(now + Duration::from_millis(1));
            tokio::select! {
                Some(attempted) = self.attempts.join_next() => match attempted {
                    Ok(attempted) => self.attempted(attempted),
                    // A panic is a bug: the delivery is retried after a restart.
                    Err(error) => tracing::error!(%error, "an attempt panicked"),
                },
                Some(recorded) = self.recording.join_next() => match recorded {
                    Ok(recorded) => self.recorded(recorded),
                    Err(error) => tracing::error!(%error, "recording outcomes panicked"),
                },
                Some(scanned) = self.scanning.join_next() => match scanned {
                    Ok((all, took)) => self.scanned(all, took),
                    Err(error) => tracing::error!(%error, "a scan of the deliveries panicked"),
                },
                () = self.handle.wake.notified() => {}
                () = tokio::time::sleep_until(wake.into()) => {}
                () = stop.asked(), if !stopping => {}
                _ = reading.changed() => {}
            }
        }
    }

    /// Takes the signals that arrived since the last call.
    fn hear(&mut self) {
        let signals = std::mem::take(&mut *lock(&self.handle.signals));
        let PendingSignals {
            due,
            retried,
            all,
            released,
        } = signals;
        if released {
            // The position may belong to another log.
            let applied = self.parts.progress.applied();
            let log = applied.token.as_ref().map(|token| token.log);
            match log.map(|log| outbox::begun(self.parts.writer.db(), log)) {
                Some(Ok(Some(ends))) => self.ends = ends,
                Some(Ok(None)) | None => {}
                Some(Err(_)) => lock(&self.handle.signals).released = true,
            }
        }
        if all || released {
            self.scan_at = Instant::now();
        }
        for operation_id in &due {
            self.queue_due(OperationId(operation_id), false);
        }
        for operation_id in &retried {
            self.queue_due(OperationId(operation_id), true);
        }
    }

    /// Queues the due deliveries of one operation. `hurry`: ignore the pause of its target.
    fn queue_due(&mut self, operation_id: OperationId, hurry: bool) {
        match due::of_operation(&self.parts.writer, operation_id, &self.ends) {
            Ok(waiting) => {
                for waiting in waiting {
                    if hurry {
                        self.queue.unpause(&waiting.target);
                    }
                    self.offer(&waiting);
                }
            }
            Err(error) => {
                tracing::warn!(%error, "cannot read webhook deliveries from the store");
                self.scan_at = self.scan_at.min(Instant::now() + Duration::from_secs(1));
            }
        }
    }

    /// If it finds no room, the next scan finds it.
    fn offer(&mut self, waiting: &due::ReadyDelivery) {
        let id = OperationId(&waiting.operation_id);
        let at = self.instant(waiting.next_ms);
        self.queue.offer(id, waiting.key, &waiting.target, at);
    }

    /// Converts a time of day to an instant of this process. Never later than the longest
    /// pause, even if the clock jumps.
    fn instant(&self, at_ms: Option<i64>) -> Instant {
        let left = at_ms.map_or(0, |at| at.saturating_sub(self.now_ms()));
        let left = Duration::from_millis(left.max(0) as u64);
        Instant::now() + left.min(self.limits.retry_max.saturating_mul(2))
    }

    fn now_ms(&self) -> i64 {
        (self.parts.clock)().as_millis()
    }

    fn next_scan(&self) -> Instant {
        match self.queue.wants_more() {
            true => self.scan_at.min(self.more_at),
            false => self.scan_at,
        }
    }

    fn scan(&mut self, now: Instant) {
        if !self.scanning.is_empty() || now < self.next_scan() {
            return;
        }
        // Again a little later if it fails.
        self.scan_at = now + Duration::from_secs(1);
        self.queue.begin_scan();
        let (writer, ends) = (self.parts.writer.clone(), self.ends.clone());
        let (now_ms, well) = (self.now_ms(), self.queue.well());
        self.scanning.spawn_blocking(move || {
            let all = due::all(&writer, &ends, now_ms, &well);
            (all, now.elapsed())
        });
    }

    fn scanned(&mut self, all: store::Result<due::All>, took: Duration) {
        let now = Instant::now();
        self.more_at = now + took;
        let all = match all {
            Ok(all) => all,
            Err(error) => {
                tracing::warn!(%error, "cannot read webhook deliveries from the store");
                self.scan_at = now + Duration::from_secs(1);
                return;
            }
        };
        self.scan_at = now + SCAN_EVERY.max(took * SCAN_SHARE);
        for (state, count) in [
            ("pending", all.counts.pending),
            ("held", all.counts.held),
            ("failed", all.counts.failed),
        ] {
            gauge!("opledger_webhook_deliveries", "state" => state).set(count as f64);
        }
        *lock(&self.handle.counts) = all.counts;
        let oldest = all.oldest_ms.map_or(0, |first| self.now_ms() - first);
        gauge!("opledger_webhook_oldest_failing_seconds").set(oldest.max(0) as f64 / 1000.0);
        for waiting in &all.ready {
            if !self.queue.holds(OperationId(&waiting.operation_id)) {
                self.offer(waiting);
            }
        }
    }

    fn start(&mut self, pick: Pick) {
        let parts = &self.parts;
        let documents = (&*parts.documents, &parts.times);
        let send = match due::next(&parts.writer, pick.id(), pick.key, &self.ends, documents) {
            Ok(Some(send)) => send,
            Ok(None) => return self.cancel(&pick),
            Err(error) => {
                let operation_id = &*pick.operation_id;
                tracing::warn!(%error, operation_id, "cannot read a webhook delivery");
                self.cancel(&pick);
                let at = Instant::now() + PAUSE_MAX;
                self.queue.offer(pick.id(), pick.key, &pick.target, at);
                return;
            }
        };
        let (began_ms, timeout) = (self.now_ms(), parts.settings.timeout);
        let allowed = self.allowed.clone();
        self.attempts.spawn(async move {
            let started = Instant::now();
            let Send {
                document,
                target,
                failing,
            } = send;
            let attempt = Attempt {
                target: &target,
                operation_id: pick.id(),
                key: pick.key,
                document,
            };
            let outcome = attempt.run(&allowed, timeout).await;
            Attempted {
                pick,
                target,
                failing,
                began_ms,
                took: started.elapsed(),
                outcome,
            }
        });
    }

    /// Ends an attempt that was not made.
    fn cancel(&mut self, pick: &Pick) {
        self.queue
            .ended(pick, TargetReport::Nothing, Instant::now());
        self.forget(pick.id());
    }

    /// Checks the operation once more if something was due while it was busy.
    fn forget(&mut self, operation_id: OperationId) -> bool {
        let again = self.queue.forget(operation_id);
        if again {
            self.queue_due(operation_id, false);
        }
        again
    }

    fn attempted(&mut self, attempted: Attempted) {
        let Attempted {
            pick,
            target,
            failing,
            began_ms,
            took,
            outcome,
        } = attempted;
        let attempts = failing.as_ref().map_or(0, |failing| failing.attempts) + 1;
        let label = match &outcome {
            Ok(_) => "delivered",
            Err(failure) => failure.kind.as_str(),
        };
        counter!("opledger_webhook_attempts_total", "outcome" => label).increment(1);
        histogram!("opledger_webhook_attempt_seconds").record(took.as_secs_f64());
        let report = match &outcome {
            Ok(_) => TargetReport::Responds,
            Err(failure) => match failure.kind {
                FailureKind::Refused => TargetReport::Responds,
                kind if kind.is_of_target() => TargetReport::Fails(failure.retry_after),
                _ => TargetReport::Nothing,
            },
        };
        self.queue.ended(&pick, report, Instant::now());
        let event = match outcome {
            Ok(status) => Notified::Delivered {
                attempts,
                status,
                address: target.address.to_string(),
                port: target.port,
            },
            Err(failure) => {
                let why: String = failure.why.chars().take(WHY_MAX).collect();
                let first_ms = failing.map_or(began_ms, |failing| failing.first_ms);
                let tried_for = Duration::from_millis((self.now_ms() - first_ms).max(0) as u64);
                let has_time = tried_for < self.parts.settings.give_up_after;
                if has_time && failure.kind != FailureKind::NoTarget {
                    let failing = Failing {
                        first_ms,
                        attempts,
                        next_ms: 0,
                        why,
                    };
                    return self.postpone(&pick, failing, failure.retry_after);
                }
                let operation_id = &*pick.operation_id;
                tracing::warn!(operation_id, attempts, %why, "a webhook delivery has failed permanently");
                Notified::Failed { attempts, why }
            }
        };
        self.outcomes.push(Control::Notification {
            operation_id: pick.operation_id.to_string(),
            key: pick.key,
            event,
        });
    }

    /// `wish`: the target asked to wait at least this long.
    fn postpone(&mut self, pick: &Pick, mut failing: Failing, wish: Option<Duration>) {
        let salt = u64::from_be_bytes(pick.key.0[..8].try_into().expect("a key is longer"));
        let wish = wish.unwrap_or_default().min(self.limits.retry_max);
        let pause = backoff(&self.limits, failing.attempts, salt).max(wish);
        failing.next_ms = self.now_ms().saturating_add(pause.as_millis() as i64);
        let Failing { attempts, why, .. } = &failing;
        let operation_id = &*pick.operation_id;
        tracing::debug!(operation_id, attempts, %why, "a webhook delivery will be retried");
        let of = (pick.id(), pick.key);
        let note = |db: &dyn Db, batch: &mut Batch| outbox::put_failing(db, of, failing, batch);
        if let Err(error) = self.parts.writer.change(pick.id(), note) {
            tracing::warn!(%error, "cannot record the attempts of a webhook delivery");
        }
        if !self.forget(pick.id()) {
            let at = Instant::now() + pause;
            self.queue.offer(pick.id(), pick.key, &pick.target, at);
        }
    }

    fn recorded(&mut self, outcomes: Vec<Control>) {
        for control in outcomes {
            if let Control::Notification { operation_id, .. } = control {
                self.forget(OperationId(&operation_id));
            }
        }
    }
}
