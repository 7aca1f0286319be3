//! The store: ordered rows in families, written in atomic batches. This is the port; `rocks` is
//! the real one (and the only user of rocksdb), `memory` an in-memory one that tests can crash.

#[cfg(test)]
mod conformance;
pub mod memory;
mod prefix;
pub mod rocks;

pub use prefix::{ALL, after_prefix, head};

use std::ops::Range;
use std::sync::Arc;

/// A column family. The order is the order of creation; names are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// One row for each operation: its snapshot.
    State,
    /// Lanes of operations that have too many for one row.
    Lane,
    /// Every event as received.
    History,
    /// Operations by creation time.
    ByTime,
    /// Operations by status, then by creation time.
    ByStatus,
    /// Webhook deliveries that are due.
    Outbox,
    /// Outcomes of deliveries, from the control log.
    Outcome,
    /// Attempts of the deliveries that are due.
    Tries,
    /// Invalid records.
    DeadLetter,
    /// Dead letters that the dead-letter topic does not have, and why.
    DeadLetterDue,
    /// Operations with anomalies.
    Anomaly,
    /// Which operations each of the last batches changed.
    Change,
    /// Positions, versions, the log's identity.
    Meta,
    /// The records of an embedded log of the first version, in a separate database.
    Log,
}

impl Family {
    /// The families of the ledger's store.
    pub const LEDGER: &'static [Family] = &[
        Family::State,
        Family::Lane,
        Family::History,
        Family::ByTime,
        Family::ByStatus,
        Family::Outbox,
        Family::Outcome,
        Family::Tries,
        Family::DeadLetter,
        Family::DeadLetterDue,
        Family::Anomaly,
        Family::Change,
        Family::Meta,
    ];
    /// The families of an embedded log of the first version.
    pub const EMBEDDED_LOG: &'static [Family] = &[Family::Meta, Family::Log];

    pub fn name(self) -> &'static str {
        match self {
            Family::State => "state",
            Family::Lane => "lane",
            Family::History => "history",
            Family::ByTime => "by_time",
            Family::ByStatus => "by_status",
            Family::Outbox => "outbox",
            Family::Outcome => "outcome",
            Family::Tries => "tries",
            Family::DeadLetter => "dead_letter",
            Family::DeadLetterDue => "dead_letter_due",
            Family::Anomaly => "anomaly",
            Family::Change => "change",
            Family::Meta => "meta",
            Family::Log => "log",
        }
    }
}

/// Whether a write is on disk when it returns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// In order, but a loss of power may lose the last writes.
    Buffered,
    Synced,
}

/// Distinguished by what a caller can do. A failed write may have happened: retry only writes
/// that are harmless twice.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Closed, or being reopened. Retry shortly.
    #[error("the store is not open: {0}")]
    Closed(String),
    /// Recovers on its own when space is freed.
    #[error("no space left on the device of the data folder: {0}")]
    NoSpace(String),
    /// The device or the file system refused. Reopening may help.
    #[error("the store failed: {0}")]
    Io(String),
    /// A file is missing or a row cannot be read. It needs a rebuild from the log.
    #[error(
        "the store is damaged: {0} (nothing is lost that the event log has: stop the ledger and \
         run `opledger rebuild`, which rebuilds the store from it)"
    )]
    Corrupt(String),
    /// The store has a format that this program does not know.
    #[error(
        "the store has another format: {0} (start the program that wrote it, or run `opledger \
         rebuild`, which rebuilds the store from the event log)"
    )]
    OtherFormat(String),
    /// A setting does not fit the stored data.
    #[error("{0}")]
    Setting(String),
    /// Another process uses the folder.
    #[error("the folder is in use by another process: {0}")]
    InUse(String),
}

impl Error {
    /// The message without its remedy.
    pub fn what(&self) -> &str {
        match self {
            Error::Closed(what)
            | Error::NoSpace(what)
            | Error::Io(what)
            | Error::Corrupt(what)
            | Error::OtherFormat(what)
            | Error::Setting(what)
            | Error::InUse(what) => what,
        }
    }

    /// The row cannot be read, now or later; other rows may be readable.
    pub fn is_unreadable(&self) -> bool {
        matches!(self, Error::Corrupt(_) | Error::OtherFormat(_))
    }
}

pub type Result<T> = std::result::Result<T, Error>;

/// The value of a key, if it has one.
pub type RowResult = Result<Option<Vec<u8>>>;

/// Rows to put and to delete atomically, in one arena.
#[derive(Debug, Default, Clone)]
pub struct Batch {
    arena: Vec<u8>,
    /// They take effect before the rows.
    ranges: Vec<DeletedRange>,
    rows: Vec<Put>,
}

#[derive(Debug, Clone)]
struct DeletedRange {
    family: Family,
    start: Range<usize>,
    end: Range<usize>,
}

#[derive(Debug, Clone)]
struct Put {
    family: Family,
    key: Range<usize>,
    /// `None` deletes.
    value: Option<Range<usize>>,
}

/// The size of a batch at some moment.
#[derive(Debug, Clone, Copy)]
pub struct Length {
    bytes: usize,
    ranges: usize,
    rows: usize,
}

impl Batch {
    pub fn put(&mut self, family: Family, key: &[u8], value: &[u8]) {
        let key = self.keep(key);
        let value = Some(self.keep(value));
        self.rows.push(Put { family, key, value });
    }

    /// Puts the value that `write` appends, and returns it.
    pub fn put_with(
        &mut self,
        family: Family,
        key: &[u8],
        write: impl FnOnce(Vec<u8>) -> Vec<u8>,
    ) -> &[u8] {
        let key = self.keep(key);
        let start = self.arena.len();
        self.arena = write(std::mem::take(&mut self.arena));
        let value = Some(start..self.arena.len());
        self.rows.push(Put { family, key, value });
        &self.arena[start..]
    }

    /// The current size, for `truncate`.
    pub fn length(&self) -> Length {
        Length {
            bytes: self.arena.len(),
            ranges: self.ranges.len(),
            rows: self.rows.len(),
        }
    }

    /// Removes the rows that were added since.
    pub fn truncate(&mut self, length: Length) {
        self.arena.truncate(length.bytes);
        self.ranges.truncate(length.ranges);
        self.rows.truncate(length.rows);
    }

    /// Moves the rows of these families to the end, in the order of their keys: RocksDB inserts
    /// a row faster if it follows the one before.
    pub fn sort(&mut self, families: &[Family]) {
        let rows = self
            .rows
            .extract_if(.., |row| families.contains(&row.family));
        let mut rows: Vec<Option<Put>> = rows.map(Some).collect();
        let number_of = |row: &Put| u128::from_be_bytes(head(&self.arena[row.key.clone()]));
        let keys = rows.iter().flatten().zip(0u32..);
        let keys = keys.map(|(row, place)| (row.family, number_of(row), place));
        // Two rows of one key keep their order.
        let mut keys: Vec<_> = keys.collect();
        keys.sort_unstable();
        let sorted = keys.into_iter();
        self.rows
            .extend(sorted.filter_map(|(_, _, place)| rows[place as usize].take()));
    }

    /// Empties the batch and keeps its memory.
    pub fn clear(&mut self) {
        self.arena.clear();
        self.ranges.clear();
        self.rows.clear();
    }

    pub fn delete(&mut self, family: Family, key: &[u8]) {
        let key = self.keep(key);
        self.rows.push(Put {
            family,
            key,
            value: None,
        });
    }

    /// Deletes the rows whose keys are in the range, except those that this batch puts: RocksDB
    /// writes one entry for all of them, and skips them in reads until it merges their files.
    pub fn delete_range(&mut self, family: Family, range: Range<&[u8]>) {
        let (start, end) = (self.keep(range.start), self.keep(range.end));
        self.ranges.push(DeletedRange { family, start, end });
    }

    /// The ranges that are deleted before the rows are put.
    pub fn deleted_ranges(&self) -> impl Iterator<Item = (Family, Range<&[u8]>)> {
        self.ranges.iter().map(|range| {
            let (start, end) = (range.start.clone(), range.end.clone());
            (range.family, &self.arena[start]..&self.arena[end])
        })
    }

    /// In the order in which they take effect.
    pub fn rows(&self) -> impl Iterator<Item = (Family, &[u8], Option<&[u8]>)> {
        self.rows.iter().map(|row| {
            let value = row.value.clone().map(|range| &self.arena[range]);
            (row.family, &self.arena[row.key.clone()], value)
        })
    }

    pub fn is_empty(&self) -> bool {
        self.rows.is_empty() && self.ranges.is_empty()
    }

    pub fn len(&self) -> usize {
        self.rows.len() + self.ranges.len()
    }

    pub fn bytes(&self) -> usize {
        self.arena.len()
    }

    fn keep(&mut self, bytes: &[u8]) -> Range<usize> {
        let start = self.arena.len();
        self.arena.extend_from_slice(bytes);
        start..self.arena.len()
    }
}

/// The result of a read that does not wait for the disk.
#[derive(Debug, PartialEq)]
pub enum Cached {
    Known(Option<Vec<u8>>),
    /// The disk would have to be read.
    Unknown,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    Forward,
    Backward,
}

/// Visits a row; whether to continue.
pub type Visit<'v> = dyn FnMut(&[u8], &[u8]) -> std::ops::ControlFlow<()> + 'v;

/// Runs a scan whose visitor may fail. Its error ends the scan, and is returned.
// Not inlined, it moved other code about and folding cost 5 % more instructions.
#[inline]
pub fn try_scan(
    scan: impl FnOnce(&mut Visit) -> Result<()>,
    mut visit: impl FnMut(&[u8], &[u8]) -> Result<std::ops::ControlFlow<()>>,
) -> Result<()> {
    let mut outcome = Ok(());
    scan(&mut |key, row| match visit(key, row) {
        Ok(flow) => flow,
        Err(error) => {
            outcome = Err(error);
            std::ops::ControlFlow::Break(())
        }
    })?;
    outcome
}

/// Scans the rows that can be read, forward; `Db::damage` reports the others. An error of the
/// visitor ends the scan, and is returned.
pub fn scan_readable(
    view: &dyn View,
    family: Family,
    range: Range<&[u8]>,
    visit: impl FnMut(&[u8], &[u8]) -> Result<std::ops::ControlFlow<()>>,
) -> Result<()> {
    try_scan(
        |visit| view.scan_past_damage(family, range, Direction::Forward, visit, &mut |_| {}),
        visit,
    )
}

/// A consistent view of the store.
pub trait View: Sync {
    fn get(&self, family: Family, key: &[u8]) -> RowResult;

    /// A result for each key: a damaged row leaves the others readable.
    fn multi_get(&self, family: Family, keys: &[&[u8]]) -> Vec<RowResult>;

    /// Visits the rows whose keys are in `range`, from its start or, backward, from its end,
    /// until the visitor stops. `Corrupt` at the first row that cannot be read.
    fn scan(
        &self,
        family: Family,
        range: Range<&[u8]>,
        direction: Direction,
        visit: &mut Visit,
    ) -> Result<()>;

    /// The same, continuing after rows that cannot be read. Calls `damaged` with each range of
    /// keys that is left out, before it visits the rows after the range. Some rows in the range
    /// may be intact.
    fn scan_past_damage(
        &self,
        family: Family,
        range: Range<&[u8]>,
        direction: Direction,
        visit: &mut Visit,
        _damaged: &mut dyn FnMut(Range<Vec<u8>>),
    ) -> Result<()> {
        self.scan(family, range, direction, visit)
    }
}

/// A point of the store that is kept for several reads.
pub trait ReadPoint: Send + Sync {
    /// As `Db::view`, from the same point each time. `Closed` once the database was closed or
    /// reopened, which ends the read point.
    fn view(&self, read: &mut dyn FnMut(&dyn View) -> Result<()>) -> Result<()>;
}

/// A database. Obligations of an adapter: a batch is atomic, also over a crash. A prefix of the
/// written batches survives a crash, with every `Synced` one that returned `Ok`. A view does not
/// change. A read after a write sees it.
pub trait Db: Send + Sync {
    fn get(&self, family: Family, key: &[u8]) -> RowResult;

    /// Like `get`, but never waits for the disk.
    fn get_cached(&self, family: Family, key: &[u8]) -> Result<Cached> {
        self.get(family, key).map(Cached::Known)
    }

    /// A result for each key: a damaged row leaves the others readable.
    fn multi_get(&self, family: Family, keys: &[&[u8]]) -> Vec<RowResult>;

    fn write(&self, batch: &Batch, durability: Durability) -> Result<()>;

    /// Reads from one consistent view while `read` runs.
    fn view(&self, read: &mut dyn FnMut(&dyn View) -> Result<()>) -> Result<()>;

    /// Keeps a consistent view until it is dropped. Rows that are deleted meanwhile stay on disk.
    fn hold(&self) -> Result<Arc<dyn ReadPoint>>;

    /// Closes and opens the database, after a failed write has made it unusable. Waits for
    /// readers; reads in between get `Closed`.
    fn reopen(&self) -> Result<()>;

    /// Free and total bytes of the disk; `None` without a disk.
    fn space(&self) -> Option<Space>;

    /// Families in which something could not be read since the start.
    fn damage(&self) -> Vec<Family> {
        Vec::new()
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    pub free: u64,
    pub total: u64,
}

/// `view` with a typed result.
pub fn view<T>(db: &dyn Db, read: impl FnOnce(&dyn View) -> Result<T>) -> Result<T> {
    with_result(|visit| db.view(visit), read)
}

/// `ReadPoint::view` with a typed result.
pub fn view_held<T>(held: &dyn ReadPoint, read: impl FnOnce(&dyn View) -> Result<T>) -> Result<T> {
    with_result(|visit| held.view(visit), read)
}

type ReadFn<'r> = dyn FnMut(&dyn View) -> Result<()> + 'r;

fn with_result<T>(
    open: impl FnOnce(&mut ReadFn) -> Result<()>,
    read: impl FnOnce(&dyn View) -> Result<T>,
) -> Result<T> {
    let mut read = Some(read);
    let mut result = None;
    open(&mut |view| {
        let read = read.take().expect("a view is read once");
        result = Some(read(view)?);
        Ok(())
    })?;
    Ok(result.expect("an adapter calls its reader"))
}
