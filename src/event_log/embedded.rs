//! The embedded log: records in segment files in the data folder.
//!
//! One thread appends. It takes everything that waits as one group, writes it as one synced
//! frame (a block for each partition of the group), records in a separate file that the frame
//! is acknowledged, and only then notifies publishers and readers. A failed write ends the
//! segment: nothing is retried on it. The result of records in flight is reported as unknown,
//! and the log continues in the next segment, which records where the one before ended.
//!
//! If acknowledged data cannot be read, the log stops with a typed error, and nothing is
//! changed until an operator has decided.

mod acknowledged;
mod appender;
mod chain;
pub mod damage;
pub mod disk;
mod format;
mod offline;
mod reader;
mod repair;
mod scan;
mod spare;
pub mod upgrade;

pub use appender::{Appender, FramePart, Layout, Tail, WriteError};
pub use damage::{Damage, LogOpenError, Which, Why};
pub use offline::{Checked, append, check, ends, repair, total_bytes};
pub use reader::BlockCursor;
pub use spare::Ahead;

use super::{
    Bounds, EventLog, Identity, Limits, NewRecord, PublishError, Published, Publishing, ReadError,
    Reader, Share,
};
use crate::clock::Clock;
use crate::domain::Timestamp;
use crate::wire::position::{LastOffsets, LogId, NextOffsets, Offset, Partition, Position};
use crate::wire::record::Record;
use crate::worker::WorkerThread;
use disk::Disk;
use std::collections::{BTreeMap, VecDeque};
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

/// Maximum size of a group commit, unless a single publish is larger. A block is read as a
/// whole, so this also bounds the reader's memory.
const GROUP_BYTES: usize = 8 << 20;
/// Pause between two checks of a disk that is full or failed.
const RECOVERY_PAUSE: Duration = Duration::from_millis(200);

/// After a loss of power, acknowledgements of at most this period may be lost.
const SETTLED_AFTER: Duration = Duration::from_secs(1);

#[derive(Debug, Clone, Copy)]
pub struct EmbeddedSettings {
    pub which: Which,
    /// Whether segments are preallocated.
    pub ahead: Ahead,
    /// Partitions of a new log. An existing one may get more, never fewer.
    pub partitions: u32,
    /// Bytes that may wait for the disk; beyond this, publishers get `Busy`.
    pub max_waiting: u64,
    /// How long a publisher waits for the disk.
    pub publish_timeout: Duration,
}

impl EmbeddedSettings {
    fn layout(&self) -> Layout {
        Layout::of(self.which, self.partitions, self.ahead)
    }
}

pub struct Embedded {
    shared: Arc<EmbeddedShared>,
    _appender: WorkerThread,
    publish_timeout: Duration,
}

struct EmbeddedShared {
    disk: Arc<dyn Disk>,
    which: Which,
    id: LogId,
    max_waiting: u64,
    queue: Mutex<AppendQueue>,
    queue_changed: Condvar,
    /// The acknowledged end.
    tail: Mutex<Tail>,
    tail_moved: Condvar,
    trouble: Mutex<Option<String>>,
}

#[derive(Default)]
struct AppendQueue {
    waiting: VecDeque<WaitingAppend>,
    bytes: u64,
    closed: bool,
}

struct WaitingAppend {
    records: Vec<NewRecord>,
    bytes: u64,
    done: oneshot::Sender<Result<Vec<Position>, PublishError>>,
}

/// Whether the folder has a log, whole or damaged.
pub fn is_there(path: &Path) -> bool {
    let files = disk::Os::existing(path).list();
    // A folder that cannot be read may have a log.
    files.map_or(true, |files| upgrade::is_log(&files))
}

impl Layout {
    fn of(which: Which, partitions: u32, ahead: Ahead) -> Layout {
        let (least, most) = match which {
            Which::Events => (8 << 20, 64 << 20),
            Which::Control => (1 << 20, 16 << 20),
        };
        Layout {
            which,
            partitions,
            least,
            most,
            ahead,
        }
    }
}

impl Embedded {
    /// Opens the log in a folder, or creates one.
    pub fn at(
        path: &Path,
        settings: EmbeddedSettings,
        clock: Clock,
    ) -> Result<Embedded, LogOpenError> {
        let failed = |why| LogOpenError {
            which: settings.which,
            folder: path.to_owned(),
            why,
        };
        let disk = disk::Os::at(path).map_err(|e| failed(Why::disk("its folder", &e)))?;
        let disk: Arc<dyn Disk> = Arc::new(disk);
        let old = || upgrade::open_old(path);
        upgrade::if_needed(&disk, settings.layout(), old).map_err(failed)?;
        Embedded::open(disk, settings, clock).map_err(failed)
    }

    pub fn open(
        disk: Arc<dyn Disk>,
        settings: EmbeddedSettings,
        clock: Clock,
    ) -> Result<Embedded, Why> {
        let appender = Appender::open(disk.clone(), settings.layout())?;
        let shared = Arc::new(EmbeddedShared {
            disk,
            which: settings.which,
            id: appender.id(),
            max_waiting: settings.max_waiting,
            queue: Mutex::default(),
            queue_changed: Condvar::new(),
            tail: Mutex::new(appender.tail()),
            tail_moved: Condvar::new(),
            trouble: Mutex::default(),
        });
        let appending = shared.clone();
        let appender = WorkerThread::start("log-appender", move |_| {
            appending.append_all(appender, clock);
        });
        Ok(Embedded {
            shared,
            _appender: appender.map_err(|e| Why::disk("no thread for the appender", &e))?,
            publish_timeout: settings.publish_timeout,
        })
    }
}

impl Embedded {
    /// By partition, the first offset whose record arrived at this time or later, or the end.
    /// Reads the whole log, because there is no index of arrivals.
    pub fn offsets_at(&self, time: Timestamp) -> Result<NextOffsets, ReadError> {
        let tail = self.shared.tail().clone();
        let mut found = NextOffsets::default();
        let mut blocks = self.shared.blocks(&NextOffsets::default(), Share::ALL);
        let limits = Limits {
            records: 10_000,
            bytes: GROUP_BYTES,
            patience: Duration::ZERO,
        };
        loop {
            let mut read = Vec::new();
            blocks.read(&tail, &limits, &mut read)?;
            if read.is_empty() {
                let all = Partition::all().zip(tail.ends);
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
    /// Writes the accepted records before it closes.
    fn drop(&mut self) {
        self.shared.queue().closed = true;
        self.shared.queue_changed.notify_all();
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
                    "the disk did not respond in time".into(),
                )),
            }
        })
    }

    fn reader(
        &self,
        _: LogId,
        from: &NextOffsets,
        share: Share,
    ) -> Result<Box<dyn Reader>, ReadError> {
        let reader = reader::BlockReader::new(self.shared.clone(), from, share);
        Ok(Box::new(reader))
    }

    fn bounds(&self) -> Result<BTreeMap<Partition, Bounds>, ReadError> {
        let tail = self.shared.tail();
        let bounds = tail.ends.iter().map(|end| Bounds {
            first: Offset::ZERO,
            end: *end,
        });
        Ok(Partition::all().zip(bounds).collect())
    }

    fn records_at(&self, at: &LastOffsets) -> Result<BTreeMap<Partition, Record>, ReadError> {
        let tail = self.shared.tail().clone();
        let there = at.iter().filter(|(partition, offset)| {
            let end = tail.ends.get(partition.index());
            end.is_some_and(|end| *offset < end)
        });
        let there = there.map(|(&partition, &offset)| Position { partition, offset });
        let blocks = self.shared.blocks(&NextOffsets::default(), Share::ALL);
        reader::records_at(blocks, &tail, there)
    }

    fn trouble(&self) -> Option<String> {
        self.shared.trouble_slot().clone()
    }
}

fn refuse(waiting: Vec<WaitingAppend>, error: &PublishError) {
    for waiting in waiting {
        // The publisher may have gone away.
        let _ = waiting.done.send(Err(error.clone()));
    }
}

type PendingPositions = oneshot::Receiver<Result<Vec<Position>, PublishError>>;

impl EmbeddedShared {
    fn enqueue(&self, records: Vec<NewRecord>) -> Result<PendingPositions, PublishError> {
        let (done, pending) = oneshot::channel();
        if records.is_empty() {
            let _ = done.send(Ok(Vec::new()));
            return Ok(pending);
        }
        if let Some(trouble) = self.trouble_slot().clone() {
            return Err(PublishError::Rejected(trouble));
        }
        let bytes = records.iter().map(|r| r.size() as u64).sum();
        let mut queue = self.queue();
        if queue.closed {
            return Err(PublishError::Rejected("it is shutting down".into()));
        }
        // A single publish always fits, however large.
        if queue.bytes > 0 && queue.bytes + bytes > self.max_waiting {
            return Err(PublishError::Busy);
        }
        queue.bytes += bytes;
        queue.waiting.push_back(WaitingAppend {
            records,
            bytes,
            done,
        });
        self.queue_changed.notify_one();
        Ok(pending)
    }

    /// The appender thread: runs until the queue is closed and empty.
    fn append_all(&self, mut appender: Appender, clock: Clock) {
        let mut settled = Instant::now();
        while let Some(mut group) = self.next_group(appender.is_settled()) {
            if !appender.is_settled() && (group.is_empty() || settled.elapsed() >= SETTLED_AFTER) {
                settled = Instant::now();
                if let Err(error) = appender.settle() {
                    self.fail(group, &mut appender, &error);
                    continue;
                }
            }
            if group.is_empty() {
                continue;
            }
            if let Err(trouble) = appender.check_space(group.iter().map(|w| w.bytes).sum()) {
                // Set before the publishers get their errors, so that readiness already has the
                // reason.
                *self.trouble_slot() = Some(trouble.clone());
                refuse(group, &PublishError::Rejected(trouble.clone()));
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
                        // The publisher may have gone away.
                        let _ = waiting.done.send(Ok(positions));
                    }
                }
                Err(error) => self.fail(group, &mut appender, &error),
            }
        }
        if let Err(error) = appender.settle() {
            tracing::warn!(%error, log = %self.which, "cannot sync the file of acknowledgements");
        }
    }

    /// Reports the group's result as unknown: it may be stored.
    fn fail(&self, group: Vec<WaitingAppend>, appender: &mut Appender, error: &WriteError) {
        *self.trouble_slot() = Some(error.to_string());
        refuse(group, &PublishError::Unknown(error.to_string()));
        self.recover(appender, error.to_string());
    }

    /// Takes the publishes that wait, up to a limit; waits for the first. Empty if none came for a
    /// while and there is something else to do.
    fn next_group(&self, is_settled: bool) -> Option<Vec<WaitingAppend>> {
        let queue = self.queue();
        let patience = if is_settled {
            Duration::MAX
        } else {
            SETTLED_AFTER
        };
        let idle = |queue: &mut AppendQueue| queue.waiting.is_empty() && !queue.closed;
        let waited = self.queue_changed.wait_timeout_while(queue, patience, idle);
        let (mut queue, _) = waited.expect("nothing panics while it holds the queue");
        if queue.waiting.is_empty() {
            return (!queue.closed).then(Vec::new);
        }
        let mut group: Vec<WaitingAppend> = Vec::new();
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
        Some(group)
    }

    /// Refuses writes until the disk accepts them again. Ends early when the log is closed.
    fn recover(&self, appender: &mut Appender, trouble: String) {
        let log = self.which;
        tracing::error!(%log, %trouble, "the log does not accept writes until it can be written again");
        loop {
            let (waiting, closed) = {
                let mut queue = self.queue();
                queue.bytes = 0;
                (queue.waiting.drain(..).collect(), queue.closed)
            };
            let trouble = self.trouble_slot().clone().unwrap_or_default();
            refuse(waiting, &PublishError::Rejected(trouble));
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
        tracing::info!(%log, "the log can be written again");
    }

    fn announce(&self, appender: &Appender) {
        *self.tail() = appender.tail();
        self.tail_moved.notify_all();
    }

    fn queue(&self) -> MutexGuard<'_, AppendQueue> {
        self.queue
            .lock()
            .expect("nothing panics while it holds the queue")
    }

    fn tail(&self) -> MutexGuard<'_, Tail> {
        self.tail
            .lock()
            .expect("nothing panics while it holds the tail")
    }

    fn blocks(&self, from: &NextOffsets, share: Share) -> BlockCursor {
        let partitions = self.tail().ends.len();
        BlockCursor::new(self.disk.clone(), self.which, partitions, from, share)
    }

    fn trouble_slot(&self) -> MutexGuard<'_, Option<String>> {
        self.trouble
            .lock()
            .expect("nothing panics while it holds the trouble")
    }
}
