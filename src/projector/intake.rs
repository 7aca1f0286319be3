//! Reads the log and decodes what it reads, on a thread of its own, while the
//! projector writes what came before. At most two cuts wait for the projector, so
//! memory is bounded whatever the lag; backpressure is not reading on.

use super::cut::Cut;
use super::pace;
use super::step::Rules;
use crate::event_log::{Confirmation, Limits, ReadError, Reader};
use crate::store::Batch;
use crate::wire::position::NextOffsets;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, SyncSender, channel, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// One being folded, one decoded, one being read: three in all.
const WAITING: usize = 1;

/// What was read at once.
pub struct Stretch {
    pub cut: Cut,
    /// Of the log that the reader was opened on, all of it? Taken away once answered.
    pub confirmation: Option<Confirmation>,
    /// How long it took to get the records, the wait for the first included.
    pub took: Duration,
    /// How long threads worked on it: waiting for records and for the log's confirmation is not
    /// in it.
    pub work: Duration,
}

pub struct Intake {
    stretches: Receiver<Result<Stretch, ReadError>>,
    spent: Sender<Stretch>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Intake {
    /// `batch_delay`: the longest rest between two batches.
    pub fn start(
        reader: Box<dyn Reader>,
        limits: Limits,
        rules: Rules,
        batch_delay: Duration,
    ) -> std::io::Result<Intake> {
        let (sender, stretches) = sync_channel(WAITING);
        let (spent, given_back) = channel();
        let stop = Arc::new(AtomicBool::new(false));
        let told = stop.clone();
        let thread = std::thread::Builder::new()
            .name(rules.source.threads()[1].into())
            .spawn(move || {
                read_all(
                    reader,
                    &limits,
                    &rules,
                    batch_delay,
                    &told,
                    &sender,
                    &given_back,
                );
            })?;
        Ok(Intake {
            stretches,
            spent,
            stop,
            thread: Some(thread),
        })
    }

    /// The next stretch; `None` if there is none within the patience. After an error
    /// there is nothing more.
    pub fn next(&self, patience: Duration) -> Result<Option<Stretch>, ReadError> {
        match self.stretches.recv_timeout(patience) {
            Ok(stretch) => stretch.map(Some),
            Err(RecvTimeoutError::Timeout) => Ok(None),
            Err(RecvTimeoutError::Disconnected) => {
                Err(ReadError::Unavailable("the reader has ended".into()))
            }
        }
    }

    /// One that is applied. Its memory is used again, and what is freed of it is freed
    /// by the thread that allocated it, which is cheaper and has more time.
    pub fn give_back(&self, stretch: Stretch) {
        // A reader that has ended needs nothing.
        let _ = self.spent.send(stretch);
    }
}

impl Drop for Intake {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        // What waits is thrown away, so that the thread is not stuck with it.
        while self.stretches.recv().is_ok() {}
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the reader of the log panicked");
        }
    }
}

fn read_all(
    mut reader: Box<dyn Reader>,
    limits: &Limits,
    rules: &Rules,
    batch_delay: Duration,
    stop: &AtomicBool,
    stretches: &SyncSender<Result<Stretch, ReadError>>,
    given_back: &Receiver<Stretch>,
) {
    let mut told = reader.next();
    // As many as there are cuts at a time: growing one anew copies all of it.
    let mut spares: Vec<Batch> = Vec::new();
    let mut lags = false;
    while !stop.load(Ordering::Relaxed) {
        let mut work = Duration::ZERO;
        for spent in given_back.try_iter() {
            work += spent.work;
            spares.push(spent.cut.spend());
        }
        std::thread::sleep(pace::rest(lags, work, batch_delay));
        let stretch = match read_one(&mut *reader, &told, limits, rules, &mut spares) {
            Ok(Some(stretch)) => stretch,
            Ok(None) => {
                spares.clear();
                continue;
            }
            Err(error) => {
                // Nobody listens only while it is being dropped.
                let _ = stretches.send(Err(error));
                return;
            }
        };
        let cut = &stretch.cut;
        told.clone_from(cut.next());
        let is_full = cut.records().len() >= limits.records || cut.bytes() >= limits.bytes;
        lags = is_full || cut.age().is_some_and(|age| age >= pace::OLD);
        if stretches.send(Ok(stretch)).is_err() {
            return;
        }
    }
}

/// `None` if nothing is going on.
fn read_one(
    reader: &mut dyn Reader,
    told: &NextOffsets,
    limits: &Limits,
    rules: &Rules,
    spares: &mut Vec<Batch>,
) -> Result<Option<Stretch>, ReadError> {
    let mut records = Vec::new();
    let started = Instant::now();
    reader.read(limits, &mut records)?;
    let next = reader.next();
    let took = started.elapsed();
    if records.is_empty() && next == *told {
        return Ok(None);
    }
    let confirmation = Some(reader.confirm());
    let working = Instant::now();
    let cut = Cut::decode_with(records, next, rules, spares.pop().unwrap_or_default());
    Ok(Some(Stretch {
        cut,
        confirmation,
        took,
        work: working.elapsed(),
    }))
}
