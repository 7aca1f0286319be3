//! Reads the log and decodes what it reads, on a thread of its own, while the
//! projector writes what came before. At most two cuts wait for the projector, so
//! memory is bounded whatever the lag; backpressure is not reading on.

use super::cut::Cut;
use super::step::Rules;
use crate::event_log::{Confirmation, Limits, ReadError, Reader};
use crate::store::Batch;
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
}

pub struct Intake {
    stretches: Receiver<Result<Stretch, ReadError>>,
    spent: Sender<Cut>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Intake {
    pub fn start(reader: Box<dyn Reader>, limits: Limits, rules: Rules) -> std::io::Result<Intake> {
        let (sender, stretches) = sync_channel(WAITING);
        let (spent, given_back) = channel();
        let stop = Arc::new(AtomicBool::new(false));
        let told = stop.clone();
        let thread = std::thread::Builder::new()
            .name("intake".into())
            .spawn(move || read_all(reader, &limits, &rules, &told, (&sender, &given_back)))?;
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

    /// Of a cut that is applied. Its memory is used again, and what is freed of it is freed
    /// by the thread that allocated it, which is cheaper and has more time.
    pub fn give_back(&self, cut: Cut) {
        // A reader that has ended needs nothing.
        let _ = self.spent.send(cut);
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

/// Where so many come that most of an operation's events would have a cut of their own, cuts
/// are made less often: several events of an operation cost little more than one.
#[derive(Default)]
struct Gathering {
    /// When the last read was over.
    read: Option<Instant>,
    /// Cuts one after the other that were made of many records a second, and not full.
    in_a_row: u32,
}

/// Records a second from which on cuts are gathered.
const MANY: f64 = 20_000.0;
/// Not before so many in a row: whoever catches up has few that are not full.
const SURE: u32 = 5;
/// Between two cuts then.
const PAUSE: Duration = Duration::from_millis(50);

impl Gathering {
    fn wait(&self) {
        if let Some(read) = self.read.filter(|_| self.in_a_row >= SURE) {
            std::thread::sleep(PAUSE.saturating_sub(read.elapsed()));
        }
    }

    fn note(&mut self, records: usize, is_full: bool) {
        let now = Instant::now();
        let since = self.read.replace(now).map(|read| now - read);
        let is_many = since.is_some_and(|since| records as f64 > MANY * since.as_secs_f64());
        self.in_a_row = if is_many && !is_full {
            self.in_a_row + 1
        } else {
            0
        };
    }
}

fn read_all(
    mut reader: Box<dyn Reader>,
    limits: &Limits,
    rules: &Rules,
    stop: &AtomicBool,
    (stretches, given_back): (&SyncSender<Result<Stretch, ReadError>>, &Receiver<Cut>),
) {
    let mut told = reader.next();
    // As many as there are cuts at a time: growing one anew copies all of it.
    let mut spares: Vec<Batch> = Vec::new();
    let mut gathering = Gathering::default();
    while !stop.load(Ordering::Relaxed) {
        gathering.wait();
        spares.extend(given_back.try_iter().map(Cut::spend));
        let mut records = Vec::new();
        let started = Instant::now();
        if let Err(error) = reader.read(limits, &mut records) {
            // Nobody listens only while it is being dropped.
            let _ = stretches.send(Err(error));
            return;
        }
        let next = reader.next();
        let took = started.elapsed();
        if records.is_empty() && next == told {
            gathering = Gathering::default();
            // Nothing is going on.
            spares.clear();
            continue;
        }
        told.clone_from(&next);
        let confirmation = Some(reader.confirm());
        let cut = Cut::decode_with(records, next, rules, spares.pop().unwrap_or_default());
        let count = cut.records().len();
        gathering.note(
            count,
            count >= limits.records || cut.bytes() >= limits.bytes,
        );
        let stretch = Stretch {
            confirmation,
            took,
            cut,
        };
        if stretches.send(Ok(stretch)).is_err() {
            return;
        }
    }
}
