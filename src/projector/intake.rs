//! Reads the log and decodes the records, on a separate thread, while the projector writes the
//! batch before. At most two batches wait for the projector, so memory is limited whatever the lag.
//! Backpressure stops the reading.

use super::pace;
use super::record_batch::RecordBatch;
use super::step::Rules;
use crate::event_log::{Confirmation, Limits, ReadError, Reader};
use crate::store::Batch;
use crate::wire::position::NextOffsets;
use crate::worker::{Stop, WorkerThread};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, SyncSender, channel, sync_channel};
use std::time::{Duration, Instant};

/// Three batches in all: one is folded, one is decoded, one is read.
const WAITING: usize = 1;

/// A batch that was read ahead.
pub struct ReadAhead {
    pub record_batch: RecordBatch,
    /// The check that all of it is from the log that the reader was opened on. Taken when it is
    /// awaited.
    pub confirmation: Option<Confirmation>,
    /// Time to get the records, including the wait for the first one.
    pub took: Duration,
    /// Time that threads worked on it, without waiting for records and for the log's
    /// confirmation.
    pub work: Duration,
}

pub struct Intake {
    /// Before the thread, so that it is dropped first: the thread may wait for room in it.
    batches: Receiver<Result<ReadAhead, ReadError>>,
    spent: Sender<ReadAhead>,
    _thread: WorkerThread,
}

impl Intake {
    /// `batch_delay`: the longest rest between two batches.
    pub fn start(
        reader: Box<dyn Reader>,
        limits: Limits,
        rules: Rules,
        batch_delay: Duration,
    ) -> std::io::Result<Intake> {
        let (sender, batches) = sync_channel(WAITING);
        let (spent, given_back) = channel();
        let thread = WorkerThread::start(rules.source.threads()[1], move |stop| {
            read_all(
                reader,
                &limits,
                &rules,
                batch_delay,
                stop,
                &sender,
                &given_back,
            );
        })?;
        Ok(Intake {
            batches,
            spent,
            _thread: thread,
        })
    }

    /// The next batch; `None` if none arrives in time. Ends after an error.
    pub fn next(&self, patience: Duration) -> Result<Option<ReadAhead>, ReadError> {
        match self.batches.recv_timeout(patience) {
            Ok(ahead) => ahead.map(Some),
            Err(RecvTimeoutError::Timeout) => Ok(None),
            Err(RecvTimeoutError::Disconnected) => {
                Err(ReadError::Unavailable("the reader has ended".into()))
            }
        }
    }

    /// Returns a batch that was applied. Its memory is reused, and freed by the thread that
    /// allocated it, which is cheaper.
    pub fn give_back(&self, ahead: ReadAhead) {
        // The reader may have ended.
        let _ = self.spent.send(ahead);
    }
}

fn read_all(
    mut reader: Box<dyn Reader>,
    limits: &Limits,
    rules: &Rules,
    batch_delay: Duration,
    stop: &Stop,
    batches: &SyncSender<Result<ReadAhead, ReadError>>,
    given_back: &Receiver<ReadAhead>,
) {
    let mut next = reader.next();
    // One for each batch in memory: growing a new one copies all of it.
    let mut spares: Vec<Batch> = Vec::new();
    let mut lags = false;
    while !stop.is_asked() {
        let mut work = Duration::ZERO;
        for spent in given_back.try_iter() {
            work += spent.work;
            spares.push(spent.record_batch.spend());
        }
        std::thread::sleep(pace::rest(lags, work, batch_delay));
        let ahead = match read_one(&mut *reader, &next, limits, rules, &mut spares) {
            Ok(Some(ahead)) => ahead,
            Ok(None) => {
                spares.clear();
                continue;
            }
            Err(error) => {
                // The receiver is gone only while it is dropped.
                let _ = batches.send(Err(error));
                return;
            }
        };
        let record_batch = &ahead.record_batch;
        next.clone_from(record_batch.next());
        let is_full =
            record_batch.records().len() >= limits.records || record_batch.bytes() >= limits.bytes;
        lags = is_full || record_batch.age().is_some_and(|age| age >= pace::OLD);
        if batches.send(Ok(ahead)).is_err() {
            return;
        }
    }
}

/// `None` if nothing arrived.
fn read_one(
    reader: &mut dyn Reader,
    before: &NextOffsets,
    limits: &Limits,
    rules: &Rules,
    spares: &mut Vec<Batch>,
) -> Result<Option<ReadAhead>, ReadError> {
    let mut records = Vec::new();
    let started = Instant::now();
    reader.read(limits, &mut records)?;
    let next = reader.next();
    let took = started.elapsed();
    if records.is_empty() && next == *before {
        return Ok(None);
    }
    let confirmation = Some(reader.confirm());
    let working = Instant::now();
    let record_batch =
        RecordBatch::decode_with(records, next, rules, spares.pop().unwrap_or_default());
    Ok(Some(ReadAhead {
        record_batch,
        confirmation,
        took,
        work: working.elapsed(),
    }))
}
