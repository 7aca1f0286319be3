//! Folds a batch of the log into the store. Synchronous and without threads, so that the
//! live projector, the rebuild and the simulation run the same code.

use super::changes::{self, ChangeRow, Changes};
use super::deliveries::Deliveries;
use super::halt::OpenError;
use super::log_position::LogPosition;
use super::record_batch::{Part, RecordBatch};
use super::source::Source;
use super::step::Step;
use crate::domain::effects::{Effects, Listed};
use crate::domain::{Absorbed, Anomalies, Anomaly, OperationId, Slice, Slices, Workers};
use crate::event_log::{Bounds, Identity, Logged};
use crate::feed::watch::Change;
use crate::rows::change::{Loaded, ReadRows};
use crate::rows::entry::{self, EntryChange};
use crate::rows::letters;
use crate::rows::meta::{self, StatusCounts, StatusesBySlice};
use crate::rows::state::{self, SnapshotKey};
use crate::store::{self, Batch, Db, Durability};
use crate::wire::change::ChangeNumber;
use crate::wire::fault::Fault;
use crate::wire::position::Partition;
use std::collections::BTreeMap;
use std::sync::Arc;

/// The counts of a batch, for the metrics.
#[derive(Debug, Default, Clone, PartialEq)]
pub struct Tally {
    pub applied: u64,
    /// By reason.
    pub dead_letters: BTreeMap<&'static str, u64>,
    /// Operations with each anomaly, more or fewer than before.
    pub anomalies: BTreeMap<&'static str, i64>,
    /// Documents of each status, more or fewer than before.
    pub statuses: StatusCounts,
    /// The same by slice.
    pub statuses_by_slice: Vec<(Slice, StatusCounts)>,
    /// A terminal event that arrived later replaced one that was already served.
    pub terminal_revised: u64,
    /// Events whose time is further ahead of their arrival than is allowed.
    pub clock_ahead: u64,
    /// Damaged snapshots that were folded again from the history.
    pub refolded: u64,
    /// The operations that changed, for the streams that watch them.
    pub change: Option<Change>,
    /// The changes of their list entries, in the same order.
    pub entries: Vec<EntryChange>,
    /// Operations with a notification that is new or replaces another.
    pub due: Vec<Box<str>>,
    /// Operations with a notification that an operator wants to retry.
    pub retried: Vec<Box<str>>,
    /// An operator has released all held deliveries.
    pub released_all: bool,
}

impl Tally {
    /// Counts what a batch did to one operation.
    fn note(&mut self, operation: &SnapshotKey, effects: &Effects) {
        let Effects { before, after } = effects;
        let status = |listed: Listed| listed.status;
        if before.listed.map(status) != after.listed.map(status) {
            let of_slice = self.of_slice(operation.slice());
            for (listed, change) in [(before.listed, -1), (after.listed, 1)] {
                if let Some(listed) = listed {
                    of_slice[listed.status as usize] += change;
                }
            }
        }
        if before.anomalies != after.anomalies {
            self.count(before.anomalies, after.anomalies);
        }
        if effects.new_due().is_some() {
            self.due.push(operation.id().0.into());
        }
    }

    /// The operations of a slice follow one another.
    fn of_slice(&mut self, slice: Slice) -> &mut StatusCounts {
        let all = &mut self.statuses_by_slice;
        if all.last().is_none_or(|(last, _)| *last != slice) {
            all.push((slice, StatusCounts::default()));
        }
        &mut all.last_mut().expect("it was added").1
    }

    fn count(&mut self, before: Anomalies, after: Anomalies) {
        for anomaly in Anomaly::ALL {
            let change = i64::from(after.contains(anomaly)) - i64::from(before.contains(anomaly));
            *self.anomalies.entry(anomaly.as_str()).or_default() += change;
        }
    }
}

/// New snapshots by operation id.
type Snapshots = Vec<(Box<str>, Arc<[u8]>)>;

/// Operations that were touched lately, by id.
type Hot = quick_cache::unsync::Cache<Box<str>, Arc<[u8]>, ByBytes>;

#[derive(Clone)]
struct ByBytes;

impl quick_cache::Weighter<Box<str>, Arc<[u8]>> for ByBytes {
    fn weight(&self, id: &Box<str>, snapshot: &Arc<[u8]>) -> u64 {
        // The cache itself needs about 100 bytes for an entry.
        (id.len() + snapshot.len() + 100) as u64
    }
}

fn hot(bytes: u64) -> Hot {
    // Half of it is for operations that were touched once. A few batches in a row touch an
    // operation, and later batches do not. Otherwise operations that were touched often in
    // the past would evict it before its next batch.
    let options = quick_cache::OptionsBuilder::new()
        .estimated_items_capacity((bytes / 2048) as usize)
        .weight_capacity(bytes)
        .hot_allocation(0.5)
        .build()
        .expect("all that it needs is set");
    Hot::with_options(options, ByBytes, Default::default(), Default::default())
}

/// The one writer of some slices: where they are in a log, and what it has in memory. Memory moves
/// only after a write has returned.
pub struct Projection {
    slices: Slices,
    position: LogPosition,
    /// The same in the store. It follows with the next write.
    stored: LogPosition,
    hot: Hot,
    changes: Arc<Changes>,
    /// Documents by status; `None` after a failed write, which may or may not have happened.
    statuses: Option<StatusesBySlice>,
}

/// What the projections of a store keep.
#[derive(Debug, Clone, Copy)]
pub struct Keep {
    /// Bytes of snapshots in memory, for all of them.
    pub hot_bytes: u64,
    /// How many changes streams may resume after.
    pub change_window: u64,
}

impl Keep {
    /// For a log that has no operations.
    pub const NOTHING: Keep = Keep {
        hot_bytes: 0,
        change_window: 0,
    };
}

impl Default for Keep {
    fn default() -> Keep {
        Keep {
            hot_bytes: 64 << 20,
            change_window: 200_000,
        }
    }
}

impl Projection {
    /// Takes up where the store is in a log of events, alone. `hot_bytes` bounds the snapshots kept
    /// in memory.
    pub fn open(db: &dyn Db, log: &Identity, hot_bytes: u64) -> Result<Projection, OpenError> {
        let keep = Keep {
            hot_bytes,
            ..Keep::default()
        };
        Projection::open_one(db, Source::Events, log, keep)
    }

    /// Takes up where the store is in this log, alone.
    pub fn open_one(
        db: &dyn Db,
        source: Source,
        log: &Identity,
        keep: Keep,
    ) -> Result<Projection, OpenError> {
        let mut all = Projection::open_all(db, source, log, Workers::ONE, keep)?;
        Ok(all.pop().expect("there is one worker"))
    }

    /// Takes up where the store is in this log: a projection for each worker. A store that is new
    /// belongs to this log from now on.
    pub fn open_all(
        db: &dyn Db,
        source: Source,
        log: &Identity,
        workers: Workers,
        keep: Keep,
    ) -> Result<Vec<Projection>, OpenError> {
        let mut batch = Batch::default();
        meta::stamp(db, source, log, &mut batch)?;
        write_synced(db, &batch)?;
        batch.clear();
        let positions = LogPosition::open(db, source, log)?.share(workers, &mut batch);
        // Before the first batch, which moves one of them alone.
        write_synced(db, &batch)?;
        let changes = Arc::new(Changes::open(db, keep.change_window)?);
        let statuses = meta::statuses(db)?;
        let all = workers.all().zip(positions);
        let all = all.map(|(slices, position)| Projection {
            slices,
            stored: position.clone(),
            position,
            hot: hot(keep.hot_bytes / workers.count() as u64),
            changes: changes.clone(),
            statuses: Some(statuses.clone()),
        });
        Ok(all.collect())
    }

    /// Records where partitions of the log begin that are new to the store.
    pub fn note_beginnings(
        db: &dyn Db,
        mut all: Vec<&mut Projection>,
        bounds: &BTreeMap<Partition, Bounds>,
    ) -> store::Result<()> {
        let mut batch = Batch::default();
        for projection in &mut all {
            projection.position.note_beginnings(bounds, &mut batch);
        }
        write(db, &batch)?;
        for projection in all {
            projection.stored.clone_from(&projection.position);
        }
        Ok(())
    }

    /// Where its slices are in the log.
    pub fn at(&self) -> &LogPosition {
        &self.position
    }

    /// Documents of its slices by status.
    pub fn statuses(&self) -> StatusCounts {
        let statuses = self.statuses.as_ref();
        statuses.map_or_else(StatusCounts::default, |of| of.sum(self.slices))
    }

    /// The number of the next change.
    pub fn next_change(&self) -> ChangeNumber {
        self.changes.number()
    }

    /// Writes all that the records change, with the positions after them. After
    /// an error nothing has moved here; doing it again is harmless even if the
    /// write did happen.
    pub fn apply(
        &mut self,
        db: &dyn Db,
        record_batch: &mut RecordBatch,
    ) -> Result<Tally, OpenError> {
        let prepared = self.prepare(db, record_batch)?;
        Ok(self.commit(db, record_batch, prepared)?)
    }

    /// The same for a batch of which only the positions concern its slices: they are written with
    /// the next batch.
    pub fn pass(&mut self, record_batch: &RecordBatch) {
        self.position = self.position.after(record_batch);
    }

    /// Writes the positions that were passed since the last write. They have a row in the index of
    /// changes, like those of a batch: otherwise a stream that resumes could not know that the
    /// slices had no change up to there.
    pub fn write_positions(&mut self, db: &dyn Db) -> store::Result<Option<Change>> {
        if !self.position.differs(&self.stored) {
            return Ok(None);
        }
        let mut batch = Batch::default();
        self.position.put(&self.stored, &mut batch);
        let row = match self.position.source() {
            Source::Events => {
                let nothing = std::iter::empty();
                changes::row(self.slices, &self.stored, &self.position, nothing)
            }
            Source::Control => None,
        };
        let change = self.write_change(db, row, &mut batch)?;
        self.stored.clone_from(&self.position);
        Ok(change)
    }

    /// Works out what the records change, and puts it into the batch's rows. Nothing moves
    /// yet.
    pub fn prepare(
        &self,
        db: &dyn Db,
        record_batch: &mut RecordBatch,
    ) -> Result<Prepared, OpenError> {
        let mut tally = Tally {
            applied: record_batch.applied() as u64,
            clock_ahead: record_batch.clock_ahead(),
            ..Tally::default()
        };
        let rules = *record_batch.rules();
        let after = self.position.after(record_batch);
        let (opened, batch) = record_batch.open();
        let mut deliveries = Deliveries::new(db);
        for (logged, step) in opened.others() {
            match step {
                Step::DeadLetter(fault) => {
                    // One that is folded again, with its slice, may have been sent already.
                    let forward = rules.forward_dead_letters && !letters::is_known(db, logged.at)?;
                    put_aside(logged, fault, forward, batch, &mut tally);
                }
                Step::Control(at, control) => deliveries.apply(*at, control, batch, &mut tally)?,
                Step::Halt(halt) => return Err(halt.clone().into()),
                Step::Apply(_) | Step::Foreign | Step::LeftOut => {}
            }
        }
        let parts: Vec<Part> = opened.parts().collect();
        let snapshots = self.fold_parts(db, &parts, batch, &mut tally)?;
        entry::sort(batch);
        after.put(&self.stored, batch);
        let mut statuses = match &self.statuses {
            Some(statuses) => statuses.clone(),
            None => meta::statuses(db)?,
        };
        for (slice, change) in &tally.statuses_by_slice {
            meta::add(&mut tally.statuses, change);
            meta::add(&mut statuses[*slice], change);
            meta::put_statuses(batch, *slice, &statuses[*slice]);
        }
        let ids = snapshots.iter().map(|(id, _)| OperationId(id));
        let change = match rules.source {
            Source::Events => changes::row(self.slices, &self.stored, &after, ids),
            // No operation changes by it.
            Source::Control => None,
        };
        Ok(Prepared {
            after,
            snapshots,
            statuses,
            change,
            tally,
        })
    }

    /// Writes the rows of the batch, as `prepare` put them.
    pub fn commit(
        &mut self,
        db: &dyn Db,
        record_batch: &mut RecordBatch,
        prepared: Prepared,
    ) -> store::Result<Tally> {
        let change = self.write_change(db, prepared.change, &mut record_batch.batch)?;
        self.stored.clone_from(&prepared.after);
        self.position = prepared.after;
        // After a failed write the store may already contain the changes of these records. Then
        // the earlier list entries are not known, and the change may concern every stream.
        let was_known = self.statuses.is_some();
        self.statuses = Some(prepared.statuses);
        let mut tally = prepared.tally;
        tally.change = change;
        if !was_known {
            tally.entries.clear();
        }
        for (id, snapshot) in prepared.snapshots {
            self.hot.insert(id, snapshot);
        }
        Ok(tally)
    }

    /// Writes the batch with its row of the index of changes, if it has one.
    fn write_change(
        &mut self,
        db: &dyn Db,
        row: Option<ChangeRow>,
        batch: &mut Batch,
    ) -> store::Result<Option<Change>> {
        let Some(row) = row else {
            self.write(db, batch)?;
            return Ok(None);
        };
        let taken = self.changes.take(db, row, batch)?;
        if let Err(error) = self.write(db, batch) {
            self.changes.give_up(&taken);
            return Err(error);
        }
        Ok(Some(self.changes.written(taken)))
    }

    fn write(&mut self, db: &dyn Db, batch: &Batch) -> store::Result<()> {
        let written = write(db, batch);
        if written.is_err() {
            // It may have happened. A snapshot from before it and lanes from after it
            // would not add up, so nothing from before is kept in memory.
            self.hot.clear();
            self.statuses = None;
        }
        written
    }

    fn fold_parts(
        &self,
        db: &dyn Db,
        parts: &[Part],
        batch: &mut Batch,
        tally: &mut Tally,
    ) -> store::Result<Snapshots> {
        let mut cold: Vec<&SnapshotKey> = Vec::new();
        let hot: Vec<Option<Arc<[u8]>>> = parts
            .iter()
            .map(|part| {
                let hot = self.hot.get(&*part.id).cloned();
                if hot.is_none() {
                    cold.push(part.key);
                }
                hot
            })
            .collect();
        let mut fetched = state::current(db, &cold)?.into_iter();
        parts
            .iter()
            .zip(hot)
            .map(|(part, hot)| {
                let cold;
                let snapshot = match &hot {
                    Some(hot) => Some(&**hot),
                    None => {
                        cold = fetched.next().expect("one for each cold key");
                        cold.as_deref()
                    }
                };
                let snapshot = fold(db, part, snapshot, batch, tally)?;
                Ok((part.id.0.into(), snapshot))
            })
            .collect()
    }
}

/// Everything that is written to the store is written here.
pub(super) fn write(db: &dyn Db, batch: &Batch) -> store::Result<()> {
    match batch.is_empty() {
        true => Ok(()),
        false => db.write(batch, Durability::Buffered),
    }
}

fn write_synced(db: &dyn Db, batch: &Batch) -> store::Result<()> {
    match batch.is_empty() {
        true => Ok(()),
        false => db.write(batch, Durability::Synced),
    }
}

/// Folds the events of a batch into the operation with this snapshot, and adds to the batch all
/// that follows, the new snapshot included. Returns that snapshot.
fn fold(
    db: &dyn Db,
    part: &Part,
    snapshot: Option<&[u8]>,
    batch: &mut Batch,
    tally: &mut Tally,
) -> store::Result<Arc<[u8]>> {
    let arrived = part.arrived();
    let mut space = ReadRows::default();
    let events = arrived.clone().map(|(event, _)| event);
    let mut loaded = Loaded::load(db, part.id, snapshot, events, &mut space)?;
    tally.refolded += u64::from(loaded.is_refolded);
    for (event, _) in arrived.clone() {
        let served = loaded.op.created.get().is_some();
        let records = arrived.clone().map(|(_, logged)| &logged.record);
        let absorbed = loaded.absorb(db, part.id, event, records)?;
        if absorbed == Absorbed::Revised && served {
            tally.terminal_revised += 1;
        }
    }
    let written = loaded.write(part.id, part.key, batch);
    tally.note(part.key, &written.effects);
    tally.entries.push(written.entry);
    Ok(written.snapshot)
}

/// The changes of a batch in addition to its rows.
pub struct Prepared {
    after: LogPosition,
    snapshots: Snapshots,
    statuses: StatusesBySlice,
    /// The row of the index of changes.
    change: Option<ChangeRow>,
    tally: Tally,
}

fn put_aside(logged: &Logged, fault: &Fault, forward: bool, batch: &mut Batch, tally: &mut Tally) {
    let reason = fault.rule.reason();
    *tally.dead_letters.entry(reason).or_default() += 1;
    let why = (reason, &*fault.to_string());
    letters::put(logged.at, why, &logged.record, forward, batch);
}

/// How many operations have each anomaly, counted from the store.
pub fn count_anomalies(db: &dyn Db) -> store::Result<BTreeMap<&'static str, i64>> {
    let mut tally = Tally::default();
    state::each_anomalies(db, &mut |anomalies| {
        tally.count(Anomalies::default(), anomalies)
    })?;
    Ok(tally.anomalies)
}
