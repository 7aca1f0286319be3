//! Sends dead letters from the store to the log's dead-letter topic, in order, until each is
//! accepted or permanently refused. The store records which: after a crash a letter may be sent
//! twice, and none is forgotten.

use crate::event_log::{DeadLetters, SendError};
use crate::projector::StoreWriter;
use crate::rows::letters;
use crate::store::{self, Batch, Db};
use crate::wire::position::Position;
use crate::worker::{Pauses, Stop, WorkerThread};
use bytes::Bytes;
use std::sync::Arc;
use std::time::Duration;

/// Pause between two checks; nobody waits for a dead letter.
const EVERY: Duration = Duration::from_millis(500);
/// Dead letters sent at once.
const AT_ONCE: usize = 1000;
const BYTES_AT_ONCE: usize = 16 << 20;
/// Longest pause while the topic does not accept writes.
const PAUSE_MAX: Duration = Duration::from_secs(30);

/// Until it is dropped.
pub fn start(
    writer: Arc<StoreWriter>,
    topic: Arc<dyn DeadLetters>,
) -> std::io::Result<WorkerThread> {
    WorkerThread::start("dead-letters", move |stop| run(&writer, &*topic, stop))
}

fn run(writer: &StoreWriter, topic: &dyn DeadLetters, stop: &Stop) {
    let again = || Pauses::new(2 * EVERY, PAUSE_MAX);
    let mut pauses = again();
    let mut last = None;
    while !stop.is_asked() {
        let outcome = forward(writer, topic, stop);
        let pause = match &outcome {
            Ok(()) => {
                pauses = again();
                EVERY
            }
            Err(why) => {
                if last.as_ref() != Some(why) {
                    tracing::warn!(%why, "dead letters wait in the store");
                }
                pauses.next_pause()
            }
        };
        last = outcome.err();
        stop.sleep(pause);
    }
}

/// Sends everything that is due. An error is the reason why that is impossible at present.
fn forward(writer: &StoreWriter, topic: &dyn DeadLetters, stop: &Stop) -> Result<(), String> {
    loop {
        let due = due(writer.db()).map_err(|error| error.to_string())?;
        let count = |state, count: usize| {
            metrics::gauge!("opledger_dead_letters_unsent", "state" => state).set(count as f64);
        };
        count("pending", due.pending_in_all);
        count("refused", due.refused);
        if due.pending.is_empty() || stop.is_asked() {
            return Ok(());
        }
        let mut rest = &due.pending[..];
        while !rest.is_empty() && !stop.is_asked() {
            rest = forward_some(writer, topic, rest)?;
        }
    }
}

struct DueLetters {
    /// The first of them.
    pending: Vec<Position>,
    pending_in_all: usize,
    refused: usize,
}

fn due(db: &dyn Db) -> store::Result<DueLetters> {
    let mut due = DueLetters {
        pending: Vec::new(),
        pending_in_all: 0,
        refused: 0,
    };
    letters::unsent(db, &mut |at, refused| {
        if refused.is_some() {
            due.refused += 1;
            return;
        }
        due.pending_in_all += 1;
        if due.pending.len() < AT_ONCE {
            due.pending.push(at);
        }
    })?;
    Ok(due)
}

/// Sends as many as fit into memory, concurrently. Returns the rest.
fn forward_some<'p>(
    writer: &StoreWriter,
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
        let letter = letters::get(writer.db(), *at).and_then(|row| {
            let letter = row.as_ref().map(letters::decode).transpose()?;
            let letter = letter.map(|(reason, detail, record)| {
                let sending = topic.send(*at, reason, detail, &record);
                (sending, (reason.to_owned(), detail.to_owned(), record))
            });
            bytes += row.as_ref().map_or(0, Bytes::len);
            Ok(letter)
        });
        match letter {
            Ok(Some((sending, letter))) => under_way.push((at, sending, letter)),
            // The letter was removed meanwhile.
            Ok(None) => letters::put_sent(*at, &mut batch),
            Err(error) if error.is_unreadable() => {
                letters::put_refused(*at, &error.to_string(), &mut batch);
            }
            Err(error) => return Err(failed(error)),
        }
    }
    let mut trouble = None;
    for (at, sending, (reason, detail, record)) in under_way {
        let mut outcome = sending();
        if matches!(outcome, Err(SendError::Refused(_))) {
            // The refusal may be due to the records that it was sent with, so send it again
            // alone.
            outcome = topic.send(*at, &reason, &detail, &record)();
        }
        match outcome {
            Ok(()) => letters::put_sent(*at, &mut batch),
            Err(SendError::Unavailable(why)) => trouble = Some(why),
            Err(SendError::Refused(why)) => {
                tracing::error!(%at, %why, "the dead-letter topic refused a record, which stays in the store");
                letters::put_refused(*at, &why, &mut batch);
            }
        }
    }
    writer.write(&batch).map_err(failed)?;
    match trouble {
        None => Ok(&pending[taken..]),
        Some(why) => Err(why),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::Workers;
    use crate::event_log::Sending;
    use crate::projector::projection::Keep;
    use crate::store::memory::Memory;
    use crate::store::{Cached, Durability, Family, ReadPoint, Result, RowResult, Space, View};
    use crate::wire::record::{self, Headers, Record};
    use std::sync::Mutex;

    /// Takes every letter, and remembers which it was sent.
    #[derive(Default)]
    struct Taken(Mutex<Vec<u64>>);

    impl DeadLetters for Taken {
        fn send(&self, at: Position, _: &str, _: &str, _: &Record) -> Sending {
            self.0.lock().unwrap().push(at.offset.0);
            Box::new(|| Ok(()))
        }
    }

    /// A disk that returns one letter with changed content.
    struct Damaged(Memory, [u8; 12]);

    impl Db for Damaged {
        fn get(&self, family: Family, key: &[u8]) -> RowResult {
            match family == Family::DeadLetter && key == self.1 {
                true => Err(store::Error::Corrupt("a block".into())),
                false => self.0.get(family, key),
            }
        }

        fn multi_get(&self, family: Family, keys: &[&[u8]]) -> Vec<RowResult> {
            keys.iter().map(|key| self.get(family, key)).collect()
        }

        fn get_cached(&self, family: Family, key: &[u8]) -> Result<Cached> {
            self.0.get_cached(family, key)
        }

        fn write(&self, batch: &Batch, durability: Durability) -> Result<()> {
            self.0.write(batch, durability)
        }

        fn view(&self, read: &mut dyn FnMut(&dyn View) -> Result<()>) -> Result<()> {
            self.0.view(read)
        }

        fn hold(&self) -> Result<Arc<dyn ReadPoint>> {
            self.0.hold()
        }

        fn reopen(&self) -> Result<()> {
            self.0.reopen()
        }

        fn space(&self) -> Option<Space> {
            self.0.space()
        }
    }

    #[test]
    fn unreadable_dead_letters_are_kept_with_the_reason_and_the_others_are_sent() {
        let at = |offset| Position::from((0, offset)).to_key();
        let letter = Record {
            arrived: Record::NO_ARRIVAL,
            claimed: false,
            key: None,
            headers: Headers::default(),
            value: Some("no event".into()),
        };
        let row = record::encode_dead_letter("format", "not JSON", &letter);
        let db = Damaged(Memory::default(), at(1));
        let mut batch = Batch::default();
        for offset in 0..4 {
            let row = if offset == 2 { b"noise" } else { &row[..] };
            batch.put(Family::DeadLetter, &at(offset), row);
            batch.put(Family::DeadLetterDue, &at(offset), b"");
        }
        db.write(&batch, Durability::Buffered).unwrap();
        let writer = StoreWriter::new(Arc::new(db), Workers::ONE, Keep::NOTHING);
        let topic = Taken::default();
        for _ in 0..2 {
            forward(&writer, &topic, &Stop::default()).unwrap();
            assert_eq!(*topic.0.lock().unwrap(), [0, 3]);
            for offset in [1, 2] {
                let why = writer.db().get(Family::DeadLetterDue, &at(offset)).unwrap();
                assert_ne!(why.as_deref(), None, "letter {offset} was passed over");
                assert_ne!(why.as_deref(), Some(&b""[..]), "letter {offset}");
            }
            let due = due(writer.db()).unwrap();
            assert_eq!((due.pending_in_all, due.refused), (0, 2));
        }
    }
}
