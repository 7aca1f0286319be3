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
    /// Since when it is counted, and how many came.
    counted: Option<(Instant, usize)>,
    /// The last cut was made.
    made: Option<Instant>,
    gathers: bool,
}

/// Records a second from which on cuts are gathered.
const MANY: f64 = 20_000.0;
/// Judged over so long, so that a burst is none.
const SPAN: Duration = Duration::from_millis(100);
/// Between two cuts.
const PAUSE: Duration = Duration::from_millis(50);

impl Gathering {
    /// What is left of the pause.
    fn pause(&self, now: Instant) -> Duration {
        let made = self.made.filter(|_| self.gathers);
        made.map_or(Duration::ZERO, |made| PAUSE.saturating_sub(now - made))
    }

    fn note(&mut self, now: Instant, records: usize, is_full: bool) {
        // Whoever catches up has enough in each.
        if is_full {
            *self = Gathering::default();
            return;
        }
        self.made = Some(now);
        let (since, before) = self.counted.unwrap_or((now, 0));
        let span = now - since;
        // Those of the first cut came before.
        let records = if span.is_zero() { 0 } else { before + records };
        self.counted = Some((since, records));
        if span >= SPAN {
            self.gathers = records as f64 > MANY * span.as_secs_f64();
            self.counted = Some((now, 0));
        }
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
        std::thread::sleep(gathering.pause(Instant::now()));
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
        let is_full = count >= limits.records || cut.bytes() >= limits.bytes;
        gathering.note(Instant::now(), count, is_full);
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

#[cfg(test)]
mod tests {
    use super::*;

    /// The pause behind each cut of so many records, `apart` milliseconds from each other.
    fn pauses(cuts: &[(usize, bool)], apart: u64) -> Vec<u128> {
        let (begun, mut gathering) = (Instant::now(), Gathering::default());
        let cuts = cuts.iter().zip(1..);
        let pause = |((records, is_full), n): (&(usize, bool), u32)| {
            let now = begun + n * Duration::from_millis(apart);
            gathering.note(now, *records, *is_full);
            gathering.pause(now).as_millis()
        };
        cuts.map(pause).collect()
    }

    #[test]
    fn cuts_are_gathered_only_while_many_come_for_long() {
        // 30,000 a second, then 10,000, in cuts of 10 ms.
        let many = [[(300, false); 11], [(100, false); 11]].concat();
        let found = pauses(&many, 10);
        assert_eq!(found[..10], [0; 10], "a burst");
        assert_eq!(found[10..20], [50; 10]);
        assert_eq!(found[20..], [0; 2]);
        // Full ones need no gathering, and end it.
        assert_eq!(pauses(&[(20_000, true); 30], 10), [0; 30]);
        let ended = [&[(300, false); 12][..], &[(20_000, true)], &[(300, false)]].concat();
        assert_eq!(pauses(&ended, 10)[11..], [50, 0, 0]);
        // Few at a time however quickly they follow: 2 in each ms.
        assert_eq!(pauses(&[(2, false); 300], 1), [0; 300]);
    }
}
