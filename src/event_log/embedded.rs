//! The embedded log: records in a database of their own in the data folder.
//!
//! One thread appends. It takes all that is waiting as one group, writes it as
//! one synced batch (one row for each partition of the group), and only then
//! tells the publishers and the readers. A write that failed poisons the open
//! files: nothing is retried on them. The database is closed and opened again,
//! the ends are read anew, and what was in flight is reported as unknown.

mod appender;
mod reader;

pub use appender::Appender;
pub use reader::Blocks;

use super::{
    Bounds, EventLog, Identity, Limits, NewRecord, PublishError, Published, Publishing, ReadError,
    Reader,
};
use crate::domain::Timestamp;
use crate::store::{self, Db};
use crate::wire::position::{LogId, Position, Positions};
use crate::wire::record_v1::Record;
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::sync::oneshot;

/// The most that one group commit takes, unless a single publish is larger: a
/// block is read as a whole, so this bounds the reader's memory too.
const GROUP_BYTES: usize = 8 << 20;
/// Between two looks at a disk that is full or a database that failed.
const RECOVERY_PAUSE: Duration = Duration::from_millis(200);

pub type Clock = Arc<dyn Fn() -> Timestamp + Send + Sync>;

#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// Partitions of a new log. An existing one may get more, never fewer.
    pub partitions: u32,
    /// Bytes that may wait for the disk; beyond, publishers are told to come back.
    pub max_waiting: u64,
    /// How long a publisher waits for the disk.
    pub publish_timeout: Duration,
}

pub struct Embedded {
    shared: Arc<Shared>,
    appender: Option<JoinHandle<()>>,
    publish_timeout: Duration,
}

struct Shared {
    db: Arc<dyn Db>,
    id: LogId,
    max_waiting: u64,
    queue: Mutex<Queue>,
    queue_changed: Condvar,
    /// The next offset of each partition, behind what is durable.
    ends: Mutex<Vec<u64>>,
    ends_moved: Condvar,
    trouble: Mutex<Option<String>>,
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<Waiting>,
    bytes: u64,
    closed: bool,
}

struct Waiting {
    records: Vec<NewRecord>,
    bytes: u64,
    done: oneshot::Sender<Result<Vec<Position>, PublishError>>,
}

impl Embedded {
    pub fn open(db: Arc<dyn Db>, settings: Settings, clock: Clock) -> store::Result<Embedded> {
        let appender = Appender::open(db.clone(), settings.partitions)?;
        let shared = Arc::new(Shared {
            db,
            id: appender.id(),
            max_waiting: settings.max_waiting,
            queue: Mutex::default(),
            queue_changed: Condvar::new(),
            ends: Mutex::new(appender.ends().to_vec()),
            ends_moved: Condvar::new(),
            trouble: Mutex::default(),
        });
        let thread = {
            let shared = shared.clone();
            std::thread::Builder::new()
                .name("log-appender".into())
                .spawn(move || shared.append_all(appender, clock))
                .map_err(|e| store::Error::Io(format!("no thread for the appender: {e}")))?
        };
        Ok(Embedded {
            shared,
            appender: Some(thread),
            publish_timeout: settings.publish_timeout,
        })
    }
}

impl Embedded {
    /// By partition, the first offset whose record arrived at this time or later; the
    /// end, where there is none. Reads the whole log: there is no index of arrivals.
    pub fn offsets_at(&self, time: Timestamp) -> Result<BTreeMap<u32, u64>, ReadError> {
        let ends = self.shared.ends().clone();
        let mut found: BTreeMap<u32, u64> = BTreeMap::new();
        let mut blocks = Blocks::new(self.shared.db.clone(), ends.len(), &Positions::new());
        let limits = Limits {
            records: 10_000,
            bytes: GROUP_BYTES,
            patience: Duration::ZERO,
        };
        loop {
            let mut read = Vec::new();
            blocks.read(&ends, &limits, &mut read)?;
            if read.is_empty() {
                let all = (0..).zip(ends);
                return Ok(all
                    .map(|(p, end)| (p, *found.get(&p).unwrap_or(&end)))
                    .collect());
            }
            for logged in read.iter().filter(|logged| logged.record.arrived >= time) {
                found.entry(logged.at.partition).or_insert(logged.at.offset);
            }
        }
    }
}

impl Drop for Embedded {
    /// What was accepted is still written.
    fn drop(&mut self) {
        self.shared.queue().closed = true;
        self.shared.queue_changed.notify_all();
        if let Some(thread) = self.appender.take() {
            thread.join().expect("the appender does not panic");
        }
    }
}

impl EventLog for Embedded {
    fn id(&self) -> Option<LogId> {
        Some(self.shared.id)
    }

    fn identify(&self) -> Result<Identity, ReadError> {
        Ok(Identity {
            id: self.shared.id,
            name: "embedded log".into(),
        })
    }

    fn publish(&self, records: Vec<NewRecord>) -> Publishing<'_> {
        let waiting = self.shared.enqueue(records);
        Box::pin(async move {
            match tokio::time::timeout(self.publish_timeout, waiting?).await {
                Ok(Ok(result)) => result.map(|positions| Published {
                    log: self.shared.id,
                    positions,
                }),
                Ok(Err(_)) => Err(PublishError::Unknown("the log was closed".into())),
                Err(_) => Err(PublishError::Unknown(
                    "the disk did not answer in time".into(),
                )),
            }
        })
    }

    fn reader(&self, _: LogId, after: &Positions) -> Result<Box<dyn Reader>, ReadError> {
        Ok(Box::new(reader::BlockReader::new(
            self.shared.clone(),
            after,
        )))
    }

    fn bounds(&self) -> Result<BTreeMap<u32, Bounds>, ReadError> {
        let ends = self.shared.ends();
        let bounds = ends.iter().map(|end| Bounds {
            first: 0,
            end: *end,
        });
        Ok((0..).zip(bounds).collect())
    }

    fn records_at(&self, at: &Positions) -> Result<BTreeMap<u32, Record>, ReadError> {
        let ends = self.shared.ends().clone();
        let one = Limits {
            records: 1,
            bytes: 1,
            patience: Duration::ZERO,
        };
        let mut found = BTreeMap::new();
        for (&partition, &offset) in at {
            let Some(end) = ends.get(partition as usize).filter(|end| **end > offset) else {
                continue;
            };
            // The other partitions end before they begin.
            let mut only = vec![0; ends.len()];
            only[partition as usize] = *end;
            let before = offset.checked_sub(1).map(|before| (partition, before));
            let after = before.into_iter().collect();
            let mut read = Vec::new();
            Blocks::new(self.shared.db.clone(), ends.len(), &after).read(&only, &one, &mut read)?;
            let is_it = |logged: &super::Logged| logged.at.offset == offset;
            found.extend(read.into_iter().find(is_it).map(|l| (partition, l.record)));
        }
        Ok(found)
    }

    fn trouble(&self) -> Option<String> {
        self.shared.trouble_slot().clone()
    }
}

type Answer = oneshot::Receiver<Result<Vec<Position>, PublishError>>;

impl Shared {
    fn enqueue(&self, records: Vec<NewRecord>) -> Result<Answer, PublishError> {
        let (done, answer) = oneshot::channel();
        if records.is_empty() {
            let _ = done.send(Ok(Vec::new()));
            return Ok(answer);
        }
        if let Some(trouble) = self.trouble_slot().clone() {
            return Err(PublishError::Rejected(trouble));
        }
        let bytes = records.iter().map(|r| r.size() as u64).sum();
        let mut queue = self.queue();
        if queue.closed {
            return Err(PublishError::Rejected("it is shutting down".into()));
        }
        // One publish always fits, however large.
        if queue.bytes > 0 && queue.bytes + bytes > self.max_waiting {
            return Err(PublishError::Busy);
        }
        queue.bytes += bytes;
        queue.waiting.push_back(Waiting {
            records,
            bytes,
            done,
        });
        self.queue_changed.notify_one();
        Ok(answer)
    }

    /// The appender's life: until the queue is closed and empty.
    fn append_all(&self, mut appender: Appender, clock: Clock) {
        while let Some(mut group) = self.next_group() {
            if let Err(trouble) = appender.check_space(group.iter().map(|w| w.bytes).sum()) {
                // Told to readiness first: whoever is refused can see why.
                *self.trouble_slot() = Some(trouble.clone());
                self.refuse(group, &trouble);
                self.recover(&mut appender, trouble);
                continue;
            }
            let records: Vec<_> = group
                .iter_mut()
                .map(|w| std::mem::take(&mut w.records))
                .collect();
            match appender.append(records, clock()) {
                Ok(positions) => {
                    self.announce(&appender);
                    for (waiting, positions) in group.into_iter().zip(positions) {
                        // A publisher that has gone away needs no answer.
                        let _ = waiting.done.send(Ok(positions));
                    }
                }
                Err(error) => {
                    *self.trouble_slot() = Some(error.to_string());
                    for waiting in group {
                        let _ = waiting
                            .done
                            .send(Err(PublishError::Unknown(error.to_string())));
                    }
                    self.recover(&mut appender, error.to_string());
                }
            }
        }
    }

    /// Takes what is waiting, up to a bound; waits for the first.
    fn next_group(&self) -> Option<Vec<Waiting>> {
        let queue = self.queue();
        let idle = |queue: &mut Queue| queue.waiting.is_empty() && !queue.closed;
        let waited = self.queue_changed.wait_while(queue, idle);
        let mut queue = waited.expect("nothing panics while it holds the queue");
        let mut group: Vec<Waiting> = Vec::new();
        let mut bytes = 0;
        while let Some(next) = queue.waiting.pop_front() {
            bytes += next.bytes;
            if !group.is_empty() && bytes > GROUP_BYTES as u64 {
                queue.waiting.push_front(next);
                break;
            }
            queue.bytes -= next.bytes;
            group.push(next);
        }
        (!group.is_empty()).then_some(group)
    }

    /// Refuses everything until the log can be written again. Ends early when the
    /// log is closed.
    fn recover(&self, appender: &mut Appender, trouble: String) {
        tracing::error!(%trouble, "the event log takes nothing until it can be written again");
        loop {
            let (waiting, closed) = {
                let mut queue = self.queue();
                queue.bytes = 0;
                (queue.waiting.drain(..).collect(), queue.closed)
            };
            let trouble = self.trouble_slot().clone().unwrap_or_default();
            self.refuse(waiting, &trouble);
            if closed {
                return;
            }
            match appender
                .check_space(0)
                .and_then(|()| appender.recover().map_err(|e| e.to_string()))
            {
                Ok(()) => break,
                Err(trouble) => *self.trouble_slot() = Some(trouble),
            }
            std::thread::sleep(RECOVERY_PAUSE);
        }
        self.announce(appender);
        *self.trouble_slot() = None;
        tracing::info!("the event log can be written again");
    }

    fn refuse(&self, waiting: Vec<Waiting>, trouble: &str) {
        for waiting in waiting {
            let _ = waiting
                .done
                .send(Err(PublishError::Rejected(trouble.to_owned())));
        }
    }

    fn announce(&self, appender: &Appender) {
        self.ends().copy_from_slice(appender.ends());
        self.ends_moved.notify_all();
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue
            .lock()
            .expect("nothing panics while it holds the queue")
    }

    fn ends(&self) -> MutexGuard<'_, Vec<u64>> {
        self.ends
            .lock()
            .expect("nothing panics while it holds the ends")
    }

    fn trouble_slot(&self) -> MutexGuard<'_, Option<String>> {
        self.trouble
            .lock()
            .expect("nothing panics while it holds the trouble")
    }
}
