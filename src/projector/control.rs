//! Folds the control log into the store: what became of notifications, and what
//! operators said about them. Like the workers' log it is read from where the store
//! is, and what follows from a stretch is written with the position behind it.
//!
//! Whatever only the ledger knows is durable in the control log first, and counts once
//! it was read from there. So a store that is made anew knows it too.

use super::halt::{Halt, OpenError};
use super::meta::{self, Anchors};
use crate::clock::Clock;
use crate::domain::Timestamp;
use crate::event_log::{EventLog, Identity, Limits, Logged, NewRecord, PublishError};
use crate::store::{self, Batch, Db, Durability, Error, Family, keys};
use crate::wire::anchor::{Anchor, Mark};
use crate::wire::control_record::{Control, Decoded, Notified, decode};
use crate::wire::notification::{DeliveryKey, DeliveryOutcome, decode_outcome, encode_outcome};
use crate::wire::position::{LogId, NextOffsets};
use crate::wire::stored::{self, NOTIFICATIONS_BEGIN};
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// What the control log is doing, for those who wait for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    Starting,
    /// Read up to where it ended when it was opened, and on from there.
    Following,
    /// Trying again.
    Waiting(String),
    /// Until somebody acts.
    Halted(String),
}

/// What is new to whoever sends notifications.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Heard {
    /// Due again: released or retried.
    Again(String, DeliveryKey),
    ReleasedAll,
    /// It was opened anew: something may have happened unheard.
    Opened,
}

pub type Listener = Box<dyn Fn(Vec<Heard>) + Send>;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    #[error(transparent)]
    Publish(#[from] PublishError),
    /// It is in the log, and nobody reads it.
    #[error("the control log is not read: {0}")]
    NotRead(String),
}

pub struct ControlLog {
    log: Arc<dyn EventLog>,
    clock: Clock,
    following: Arc<Following>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

struct Following {
    state: watch::Sender<State>,
    /// By partition, the offset behind all that is folded.
    next: watch::Sender<NextOffsets>,
}

impl ControlLog {
    pub fn start(
        db: Arc<dyn Db>,
        log: Arc<dyn EventLog>,
        clock: Clock,
        listener: Listener,
    ) -> std::io::Result<ControlLog> {
        let following = Arc::new(Following {
            state: watch::Sender::new(State::Starting),
            next: watch::Sender::new(NextOffsets::default()),
        });
        let stop = Arc::new(AtomicBool::new(false));
        let follower = Follower {
            db,
            log: log.clone(),
            listener,
            following: following.clone(),
            stop: stop.clone(),
        };
        let thread = std::thread::Builder::new().name("control-log".into());
        let thread = thread.spawn(move || follower.run())?;
        Ok(ControlLog {
            log,
            clock,
            following,
            stop,
            thread: Some(thread),
        })
    }

    pub fn state(&self) -> watch::Receiver<State> {
        self.following.state.subscribe()
    }

    /// Returns once all of it is durable, was read again, and is in the store. After an
    /// error the same may be recorded once more: it is harmless twice. Nothing is recorded
    /// while the log is not known to be the one that the store knows.
    pub async fn record(&self, all: &[Control]) -> Result<(), RecordError> {
        let state = self.following.state.borrow().clone();
        let before = self.following.next.borrow().clone();
        match state {
            State::Following => {}
            State::Starting => {
                let why = "it was not compared with the store yet";
                return Err(PublishError::Rejected(why.into()).into());
            }
            State::Waiting(why) | State::Halted(why) => {
                return Err(PublishError::Rejected(why).into());
            }
        }
        let now = (self.clock)();
        let records = all.iter().map(|control| {
            let (headers, value) = control.encode(&uuid::Uuid::new_v4().to_string(), now);
            NewRecord {
                operation_id: control.subject(),
                headers,
                value: Some(value),
            }
        });
        let published = self.log.publish(records.collect()).await?;
        if let Some(at) = published
            .positions
            .iter()
            .find(|at| before.has_passed(**at))
        {
            let why = format!("it has given position {at} before: it lost records");
            return Err(RecordError::NotRead(why));
        }
        let mut state = self.following.state.subscribe();
        let mut next = self.following.next.subscribe();
        let is_halted = |state: &State| matches!(state, State::Halted(_));
        tokio::select! {
            _ = next.wait_for(|next| published.positions.iter().all(|at| next.has_passed(*at))) => Ok(()),
            halted = state.wait_for(is_halted) => Err(RecordError::NotRead(match halted.as_deref() {
                Ok(State::Halted(why)) => why.clone(),
                Ok(_) | Err(_) => "it was closed".into(),
            })),
        }
    }
}

impl Drop for ControlLog {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the reader of the control log panicked");
        }
    }
}

/// Where it says so of a log, the offsets before which nothing is sent; nothing is
/// known of one that is not in it.
pub fn begun(db: &dyn Db, log: LogId) -> store::Result<Option<NextOffsets>> {
    let row = db.get(Family::Meta, &begun_key(log))?;
    row.map(|row| {
        let body = stored::body(NOTIFICATIONS_BEGIN, &row).ok();
        let ends = body.and_then(|body| postcard::from_bytes(body).ok());
        ends.ok_or_else(|| damaged("where notifications begin"))
    })
    .transpose()
}

/// Whether the store was ever told of a control log.
pub fn is_known(db: &dyn Db) -> store::Result<bool> {
    Ok(db.get(Family::Meta, LOG)?.is_some())
}

const LOG: &[u8] = b"control";
const NAME: &[u8] = b"control_name";
const POSITION: &[u8] = b"control/position/";
const NEXT: &[u8] = b"control/next/";

/// What a repair of the control log that lost records says about an event log which ended there.
pub fn lost(log: LogId, ends: NextOffsets, now: Timestamp) -> NewRecord {
    let lost = Control::Lost { log, ends };
    let (headers, value) = lost.encode(&uuid::Uuid::new_v4().to_string(), now);
    NewRecord {
        operation_id: lost.subject(),
        headers,
        value: Some(value),
    }
}

fn begun_key(log: LogId) -> Vec<u8> {
    [b"control/begun/", &log.0[..]].concat()
}

fn damaged(what: &str) -> Error {
    Error::Corrupt(format!("{what} of the store cannot be read"))
}

/// Which log it was, and its last record in the store.
fn open(db: &dyn Db, log: &Identity) -> Result<(Anchors, NextOffsets), OpenError> {
    match db.get(Family::Meta, LOG)? {
        None => {
            let mut batch = Batch::default();
            batch.put(Family::Meta, LOG, &log.id.0);
            batch.put(Family::Meta, NAME, log.name.as_bytes());
            db.write(&batch, Durability::Synced)?;
        }
        Some(stored) if stored == log.id.0 => {}
        Some(stored) => {
            let name = db.get(Family::Meta, NAME)?.unwrap_or_default();
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            Err(Halt::OtherControlLog {
                stored: format!("{} ({})", text(&stored), text(&name)),
                found: log.to_string(),
            })?;
        }
    }
    let anchors: Anchors = meta::by_partition(db, POSITION, Anchor::decode)?;
    let mut next: NextOffsets = meta::by_partition(db, NEXT, meta::offset)?;
    for (partition, anchor) in &anchors {
        next.raise(*partition, anchor.offset.next());
    }
    Ok((anchors, next))
}

const LIMITS: Limits = Limits {
    records: 10_000,
    bytes: 4 << 20,
    patience: Duration::from_millis(100),
};
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// Tries of a store that cannot be written before it is opened anew.
const TRIES_BEFORE_REOPENING: u32 = 3;

struct Follower {
    db: Arc<dyn Db>,
    log: Arc<dyn EventLog>,
    listener: Listener,
    following: Arc<Following>,
    stop: Arc<AtomicBool>,
}

impl Follower {
    fn run(&self) {
        let mut pause = Duration::from_millis(50);
        let mut failed = 0;
        while !self.stopping() {
            let why = match self.follow(&mut pause) {
                Ok(()) => continue,
                Err(OpenError::Halt(halt)) => return self.halt(halt.to_string()),
                Err(OpenError::Store(error)) if error.is_unreadable() => {
                    return self.halt(error.to_string());
                }
                Err(OpenError::Store(error)) => {
                    failed += 1;
                    self.reopen_if_need_be(failed);
                    error.to_string()
                }
                Err(OpenError::Log(why)) => format!("the control log cannot be read: {why}"),
            };
            tracing::warn!(%why, "the control log cannot be read; retrying");
            self.following.state.send_replace(State::Waiting(why));
            let until = Instant::now() + pause;
            pause = (pause * 2).min(PAUSE_MAX);
            while !self.stopping() && Instant::now() < until {
                std::thread::sleep(Duration::from_millis(20));
            }
        }
    }

    fn halt(&self, why: String) {
        tracing::error!(reason = %why, "webhook deliveries have halted");
        self.following.state.send_replace(State::Halted(why));
    }

    /// The projector does it for its own writes, and may have none for long.
    fn reopen_if_need_be(&self, failed: u32) {
        let space = self.db.space();
        let full = space.is_some_and(|space| space.free < space.total / 50);
        if failed.is_multiple_of(TRIES_BEFORE_REOPENING)
            && !full
            && let Err(error) = self.db.reopen()
        {
            tracing::warn!(%error, "the store could not be opened again");
        }
    }

    fn follow(&self, pause: &mut Duration) -> Result<(), OpenError> {
        let log = self.log.identify()?;
        let (mut anchors, mut next) = open(&*self.db, &log)?;
        meta::check(&*self.log, &log, &anchors, &next)?;
        // A write that was reported as failed may have happened.
        self.following.next.send_replace(next.clone());
        (self.listener)(vec![Heard::Opened]);
        let ends = self.log.readable()?;
        let mut reader = self.log.reader(log.id, &next)?;
        while !self.stopping() {
            if next.have_reached(&ends) {
                *pause = Duration::from_millis(50);
                self.following.state.send_if_modified(|state| {
                    std::mem::replace(state, State::Following) != State::Following
                });
            }
            let mut records = Vec::new();
            reader.read(&LIMITS, &mut records)?;
            let read = reader.next();
            if records.is_empty() && read == next {
                continue;
            }
            reader.confirm().wait()?;
            let mut batch = Batch::default();
            let heard = fold(&*self.db, &records, &mut batch)?;
            for logged in &records {
                let mark = Mark::of(&logged.record);
                let offset = logged.at.offset;
                anchors.insert(logged.at.partition, Anchor { offset, mark });
            }
            for logged in &records {
                let partition = logged.at.partition;
                let row = anchors[&partition].encode();
                batch.put(Family::Meta, &meta::key(POSITION, partition), &row);
            }
            for (partition, offset) in read.iter().filter(|(p, o)| next.get(p) != Some(o)) {
                batch.put(
                    Family::Meta,
                    &meta::key(NEXT, *partition),
                    &offset.0.to_be_bytes(),
                );
            }
            self.db.write(&batch, Durability::Buffered)?;
            next = read;
            self.following.next.send_replace(next.clone());
            if !heard.is_empty() {
                (self.listener)(heard);
            }
        }
        Ok(())
    }

    fn stopping(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
}

/// Adds to the batch what follows from these records.
pub fn fold(db: &dyn Db, records: &[Logged], batch: &mut Batch) -> Result<Vec<Heard>, OpenError> {
    let mut heard = Vec::new();
    let mut changed = Changed {
        db,
        outcomes: HashMap::new(),
        begun: HashMap::new(),
    };
    for logged in records {
        match decode(&logged.record) {
            Decoded::Control { at, control } => {
                heard.extend(changed.apply(at.as_millis(), control, batch)?);
            }
            Decoded::Unreadable => {
                tracing::warn!(at = %logged.at, "ignoring an unknown record of the control log");
            }
            Decoded::Newer(kind) => return Err(Halt::NewerControl(kind).into()),
        }
    }
    Ok(heard)
}

/// What the records so far have changed, which the store does not show yet.
struct Changed<'d> {
    db: &'d dyn Db,
    outcomes: HashMap<Vec<u8>, DeliveryOutcome>,
    begun: HashMap<LogId, NextOffsets>,
}

impl Changed<'_> {
    fn apply(
        &mut self,
        at_ms: i64,
        control: Control,
        batch: &mut Batch,
    ) -> store::Result<Option<Heard>> {
        match control {
            // The first counts: a later one would hold what was told meanwhile.
            Control::Begun { log, ends } => {
                if self.begun(log)?.is_none() {
                    self.put_begun(log, ends, batch);
                }
                Ok(None)
            }
            // What it holds was due before it, whatever was said before.
            Control::Lost { log, ends } => {
                self.put_begun(log, ends, batch);
                Ok(None)
            }
            Control::ReleasedAll { log, .. } => {
                if self.begun(log)?.is_some() {
                    self.put_begun(log, NextOffsets::default(), batch);
                }
                Ok(Some(Heard::ReleasedAll))
            }
            Control::Notification {
                operation_id,
                key,
                event,
            } => {
                let row = keys::notification(&operation_id, key);
                let before = self.outcome(&row)?;
                if matches!(before, Some(DeliveryOutcome::Delivered { .. })) {
                    // Delivered is for good.
                    return Ok(None);
                }
                let (after, heard) = match event {
                    Notified::Delivered {
                        attempts,
                        status,
                        address,
                        port,
                    } => {
                        batch.delete(Family::Outbox, &row);
                        batch.delete(Family::Tries, &row);
                        let delivered = DeliveryOutcome::Delivered {
                            at_ms,
                            attempts,
                            status,
                            address,
                            port,
                        };
                        (delivered, None)
                    }
                    Notified::Failed { attempts, why } => {
                        let failed = DeliveryOutcome::Failed {
                            at_ms,
                            attempts,
                            why,
                        };
                        (failed, None)
                    }
                    Notified::Released(_) | Notified::Retried(_) => {
                        let again = Heard::Again(operation_id, key);
                        (DeliveryOutcome::Again { at_ms }, Some(again))
                    }
                };
                batch.put(Family::Outcome, &row, &encode_outcome(&after));
                self.outcomes.insert(row, after);
                Ok(heard)
            }
        }
    }

    fn outcome(&self, row: &[u8]) -> store::Result<Option<DeliveryOutcome>> {
        if let Some(changed) = self.outcomes.get(row) {
            return Ok(Some(changed.clone()));
        }
        let stored = self.db.get(Family::Outcome, row)?;
        let unreadable = |_| damaged("an outcome of a notification");
        stored
            .map(|row| decode_outcome(&row).map_err(unreadable))
            .transpose()
    }

    fn begun(&self, log: LogId) -> store::Result<Option<NextOffsets>> {
        match self.begun.get(&log) {
            Some(changed) => Ok(Some(changed.clone())),
            None => begun(self.db, log),
        }
    }

    fn put_begun(&mut self, log: LogId, ends: NextOffsets, batch: &mut Batch) {
        let row = postcard::to_extend(&ends, vec![NOTIFICATIONS_BEGIN]);
        let row = row.expect("memory takes whatever postcard writes");
        batch.put(Family::Meta, &begun_key(log), &row);
        self.begun.insert(log, ends);
    }
}
