//! Carries dead letters from the store to where the log's own tools look for them,
//! in order, until each is taken or refused for good. The store remembers which:
//! after a crash a letter may be carried twice, and none is forgotten.

use crate::event_log::{DeadLetters, SendError};
use crate::store::{self, Batch, Db, Direction, Durability, Family, keys};
use crate::wire::position::Position;
use crate::wire::record;
use bytes::Bytes;
use std::ops::ControlFlow;
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

/// Between two looks; nobody waits for a dead letter.
const EVERY: Duration = Duration::from_millis(500);
/// Letters at one look.
const AT_ONCE: usize = 1000;
const BYTES_AT_ONCE: usize = 16 << 20;
/// Longest pause while the topic takes nothing.
const PAUSE_MAX: Duration = Duration::from_secs(30);

pub struct Forwarder {
    stop: Arc<Stop>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Stop {
    told: Mutex<bool>,
    changed: Condvar,
}

impl Forwarder {
    pub fn start(db: Arc<dyn Db>, topic: Arc<dyn DeadLetters>) -> std::io::Result<Forwarder> {
        let stop = Arc::new(Stop::default());
        let told = stop.clone();
        let thread = std::thread::Builder::new().name("dead-letters".into());
        let thread = thread.spawn(move || run(&*db, &*topic, &told))?;
        Ok(Forwarder {
            stop,
            thread: Some(thread),
        })
    }
}

impl Drop for Forwarder {
    fn drop(&mut self) {
        *self.stop.lock() = true;
        self.stop.changed.notify_all();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the forwarder of dead letters panicked");
        }
    }
}

impl Stop {
    fn lock(&self) -> std::sync::MutexGuard<'_, bool> {
        self.told.lock().expect("nothing panics while it is held")
    }

    fn is_told(&self) -> bool {
        *self.lock()
    }

    fn sleep(&self, time: Duration) {
        let waiting = |told: &mut bool| !*told;
        let waited = self.changed.wait_timeout_while(self.lock(), time, waiting);
        drop(waited.expect("nothing panics while it is held"));
    }
}

fn run(db: &dyn Db, topic: &dyn DeadLetters, stop: &Stop) {
    let mut pause = EVERY;
    let mut last = None;
    while !stop.is_told() {
        let outcome = forward(db, topic, stop);
        match &outcome {
            Ok(()) => pause = EVERY,
            Err(why) => {
                if last.as_ref() != Some(why) {
                    tracing::warn!(%why, "dead letters wait in the store");
                }
                pause = (pause * 2).min(PAUSE_MAX);
            }
        }
        last = outcome.err();
        stop.sleep(pause);
    }
}

/// Everything that is due, or why that is impossible at present.
fn forward(db: &dyn Db, topic: &dyn DeadLetters, stop: &Stop) -> Result<(), String> {
    loop {
        let due = due(db).map_err(|error| error.to_string())?;
        let count = |state, count: usize| {
            metrics::gauge!("opledger_dead_letters_unsent", "state" => state).set(count as f64);
        };
        count("pending", due.pending_in_all);
        count("refused", due.refused);
        if due.pending.is_empty() || stop.is_told() {
            return Ok(());
        }
        let mut rest = &due.pending[..];
        while !rest.is_empty() && !stop.is_told() {
            rest = forward_some(db, topic, rest)?;
        }
    }
}

struct Due {
    /// The first of them.
    pending: Vec<Position>,
    pending_in_all: usize,
    refused: usize,
}

fn due(db: &dyn Db) -> store::Result<Due> {
    let mut due = Due {
        pending: Vec::new(),
        pending_in_all: 0,
        refused: 0,
    };
    store::view(db, |view| {
        // One that cannot be read is not carried: `Db::damage` says so.
        view.scan_past_damage(
            Family::DeadLetterDue,
            keys::ALL,
            Direction::Forward,
            &mut |key, why| {
                match keys::position_of(key) {
                    Some(at) if why.is_empty() => {
                        due.pending_in_all += 1;
                        if due.pending.len() < AT_ONCE {
                            due.pending.push(at);
                        }
                    }
                    Some(_) | None => due.refused += 1,
                }
                ControlFlow::Continue(())
            },
            &mut |_| {},
        )
    })?;
    Ok(due)
}

/// As many as fit into memory, side by side. Returns those that are left.
fn forward_some<'p>(
    db: &dyn Db,
    topic: &dyn DeadLetters,
    pending: &'p [Position],
) -> Result<&'p [Position], String> {
    let failed = |error: store::Error| error.to_string();
    let mut batch = Batch::default();
    let mut under_way = Vec::new();
    let (mut taken, mut bytes) = (0, 0);
    for at in pending {
        if bytes >= BYTES_AT_ONCE {
            break;
        }
        taken += 1;
        let key = keys::position(*at);
        let letter = match db.get(Family::DeadLetter, &key) {
            Err(error) if error.is_unreadable() => {
                let why = error.to_string();
                batch.put(Family::DeadLetterDue, &key, why.as_bytes());
                continue;
            }
            letter => letter.map_err(failed)?,
        };
        match letter.map(Bytes::from) {
            // It was removed meanwhile.
            None => batch.delete(Family::DeadLetterDue, &key),
            Some(row) => match record::decode_dead_letter(&row) {
                Err(unreadable) => {
                    let why = unreadable.to_string();
                    batch.put(Family::DeadLetterDue, &key, why.as_bytes());
                }
                Ok((reason, detail, record)) => {
                    bytes += row.len();
                    let sending = topic.send(*at, reason, detail, &record);
                    let (reason, detail) = (reason.to_owned(), detail.to_owned());
                    under_way.push((at, key, sending, (reason, detail, record)));
                }
            },
        }
    }
    let mut trouble = None;
    for (at, key, sending, (reason, detail, record)) in under_way {
        let mut outcome = sending();
        if matches!(outcome, Err(SendError::Refused(_))) {
            // Perhaps for what it was sent together with: once more, alone.
            outcome = topic.send(*at, &reason, &detail, &record)();
        }
        match outcome {
            Ok(()) => batch.delete(Family::DeadLetterDue, &key),
            Err(SendError::Unavailable(why)) => trouble = Some(why),
            Err(SendError::Refused(why)) => {
                tracing::error!(%at, %why, "a dead letter stays in the store alone");
                batch.put(Family::DeadLetterDue, &key, why.as_bytes());
            }
        }
    }
    db.write(&batch, Durability::Buffered).map_err(failed)?;
    match trouble {
        None => Ok(&pending[taken..]),
        Some(why) => Err(why),
    }
}
