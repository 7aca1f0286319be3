//! Folds a cut of the log into one batch. Synchronous and without threads, so
//! that the live projector, the rebuild and the simulation run the same code.
//!
//! The live projector decodes the next cut while it writes the one before; that is
//! why a decoded cut is a value of its own.

use super::changes::{Changes, Pending};
use super::halt::OpenError;
use super::meta::{self, Anchors, Next};
use super::operation::fold;
use super::step::{Rules, Step, step};
use crate::domain::effects::Listed;
use crate::domain::{Anomalies, Anomaly, Event, Status};
use crate::event_log::{Identity, Logged};
use crate::query::entry::Moved;
use crate::query::progress::StatusCounts;
use crate::query::watch::Change;
use crate::store::{self, Batch, Db, Direction, Durability, Family, keys};
use crate::wire::anchor::{Anchor, Mark};
use crate::wire::fault::Fault;
use crate::wire::position::{Positions, Token};
use crate::wire::record_v1::{self, Record};
use hashbrown::HashMap;
use std::cell::Cell;
use std::collections::BTreeMap;
use std::ops::{ControlFlow, Range};
use std::sync::Arc;
use std::time::Duration;

/// What a cut amounted to, for the metrics.
#[derive(Debug, Default, Clone, PartialEq)]
pub struct Tally {
    pub applied: u64,
    /// By reason.
    pub dead_letters: BTreeMap<&'static str, u64>,
    /// Operations with each anomaly, more or fewer than before.
    pub anomalies: BTreeMap<&'static str, i64>,
    /// Documents of each status, more or fewer than before.
    pub statuses: StatusCounts,
    /// An ending that arrived later changed a served ending.
    pub terminal_revised: u64,
    /// Events whose time is further ahead of their arrival than is allowed.
    pub clock_ahead: u64,
    /// Damaged snapshots made good from the history.
    pub refolded: u64,
    /// Which operations changed, for those who watch.
    pub change: Option<Change>,
    /// What became of the entries of these, where that is to be noted.
    pub moved: Option<Vec<Moved>>,
    /// Operations with a notification that is new or another one.
    pub due: Vec<Box<str>>,
}

impl Tally {
    pub fn moved(&mut self, before: Anomalies, after: Anomalies) {
        for anomaly in Anomaly::ALL {
            let change = i64::from(after.contains(anomaly)) - i64::from(before.contains(anomaly));
            *self.anomalies.entry(anomaly.as_str()).or_default() += change;
        }
    }

    pub fn listed(&mut self, before: Option<Listed>, after: Option<Listed>) {
        for (listed, change) in [(before, -1), (after, 1)] {
            if let Some(listed) = listed {
                self.statuses[listed.status as usize] += change;
            }
        }
    }
}

/// New snapshots by operation id.
type Snapshots = Vec<(Box<str>, Arc<[u8]>)>;

/// Snapshots of operations that were touched lately, as stored, by operation id.
type Hot = quick_cache::unsync::Cache<Box<str>, Arc<[u8]>, ByBytes>;

#[derive(Clone)]
struct ByBytes;

impl quick_cache::Weighter<Box<str>, Arc<[u8]>> for ByBytes {
    fn weight(&self, id: &Box<str>, row: &Arc<[u8]>) -> u64 {
        // What the cache itself needs for an entry is about 80 bytes.
        (id.len() + row.len() + 80) as u64
    }
}

type Steps<'c> = Vec<Step<'c>>;

/// A stretch of the log. It may hold no record, where the reader only got past what is
/// none.
pub struct Read {
    records: Vec<Logged>,
    next: Next,
}

self_cell::self_cell!(
    /// What was read, and what each record amounts to. The events borrow from it.
    pub struct Cut {
        owner: Read,
        #[covariant]
        dependent: Steps,
    }
);

impl Cut {
    /// `next` says how far the reader is behind the records; a partition that is not in
    /// it is where its last record leaves it.
    pub fn decode(records: Vec<Logged>, next: Next, rules: &Rules) -> Cut {
        Cut::new(Read { records, next }, |read| {
            let records = read.records.iter();
            records.map(|logged| step(logged, rules)).collect()
        })
    }

    pub fn records(&self) -> &[Logged] {
        &self.borrow_owner().records
    }

    pub fn next(&self) -> &Next {
        &self.borrow_owner().next
    }
}

/// The events of one operation in a cut, as they arrived: what is judged by arrival must
/// not depend on where a cut ends.
struct Group<'c> {
    id: &'c str,
    /// Of its snapshot's row.
    key: Vec<u8>,
    events: Range<usize>,
}

type Arrived<'c> = (&'c Event<'c>, &'c Logged);

/// The one writer of a store: where it is in the log, and what it has at hand.
/// Memory moves only after a write has returned.
pub struct Projection {
    log: Identity,
    anchors: Anchors,
    next: Next,
    hot: Hot,
    rules: Rules,
    changes: Changes,
    notes_entries: bool,
    /// Documents by status; `None` after a failed write, of which nobody knows whether it
    /// happened.
    statuses: Option<StatusCounts>,
    /// The memory of the batch before: a cut of the log needs much, again and again.
    spare: Cell<Batch>,
}

impl Projection {
    /// Takes up where the store is. `hot_bytes` bounds the snapshots kept in memory.
    pub fn open(
        db: &dyn Db,
        log: &Identity,
        hot_bytes: u64,
        rules: Rules,
    ) -> Result<Projection, OpenError> {
        let anchors = meta::open(db, log)?;
        Ok(Projection {
            next: meta::next(db, &anchors)?,
            anchors,
            log: log.clone(),
            hot: Hot::with_weighter((hot_bytes / 2048) as usize, hot_bytes, ByBytes),
            rules,
            changes: Changes::open(db)?,
            notes_entries: false,
            statuses: Some(count_statuses(db)?),
            spare: Cell::default(),
        })
    }

    pub fn log(&self) -> &Identity {
        &self.log
    }

    /// Documents by status.
    pub fn statuses(&self) -> StatusCounts {
        self.statuses.unwrap_or_default()
    }

    pub fn anchors(&self) -> &Anchors {
        &self.anchors
    }

    /// Where the log is to be read on.
    pub fn next(&self) -> &Next {
        &self.next
    }

    /// Of partitions that the store has not met before.
    pub fn begin(&mut self, new: Next) {
        self.next.extend(new);
    }

    /// How many changes of operations streams may resume behind.
    pub fn keep_changes(&mut self, window: u64) {
        self.changes.set_window(window);
    }

    /// Whether the changes of the next cuts say what became of the entries of lists.
    pub fn note_entries(&mut self, notes: bool) {
        self.notes_entries = notes;
    }

    pub fn rules(&self) -> &Rules {
        &self.rules
    }

    pub fn positions(&self) -> Positions {
        meta::positions(&self.anchors)
    }

    pub fn held(&self) -> Token {
        Token {
            log: self.log.id,
            positions: self.positions(),
        }
    }

    /// Writes all that the records change, with the positions behind them. After
    /// an error nothing has moved here; doing it again is harmless even if the
    /// write did happen.
    pub fn apply(&mut self, db: &dyn Db, cut: &Cut) -> store::Result<Tally> {
        let prepared = self.prepare(db, cut)?;
        self.commit(db, prepared)
    }

    /// Works out what the records change. Nothing moves yet.
    pub fn prepare(&self, db: &dyn Db, cut: &Cut) -> store::Result<Prepared> {
        // Behind a failed write the store may hold what the records change: how entries
        // were before it is not known then, and the change concerns everyone.
        let is_known = self.statuses.is_some();
        let mut tally = Tally {
            moved: (self.notes_entries && is_known).then(Vec::new),
            ..Tally::default()
        };
        let mut batch = self.spare.take();
        batch.clear();
        let (anchors, next) = self.advance(cut);
        let (groups, mut arrived) = self.group(cut, &mut batch, &mut tally);
        let snapshots = self.fold_groups(db, &groups, &arrived, &mut batch, &mut tally)?;
        for group in &groups {
            put_history(group.id, &mut arrived[group.events.clone()], &mut batch);
        }
        for (&partition, anchor) in &anchors {
            if self.anchors.get(&partition) != Some(anchor) {
                meta::put_anchor(&mut batch, partition, *anchor);
            }
        }
        for (&partition, &offset) in &next {
            // Right behind its last record it follows from that.
            let behind = anchors.get(&partition).map(|anchor| anchor.offset + 1);
            if self.next.get(&partition) != Some(&offset) && behind != Some(offset) {
                meta::put_next(&mut batch, partition, offset);
            }
        }
        let mut statuses = match self.statuses {
            Some(statuses) => statuses,
            None => count_statuses(db)?,
        };
        if tally.statuses != StatusCounts::default() {
            let changes = statuses.iter_mut().zip(&tally.statuses);
            changes.for_each(|(count, change)| *count += change);
            meta::put_statuses(&mut batch, &statuses);
        }
        let ids = snapshots.iter().map(|(id, _)| &**id);
        let changed = (&self.anchors, &anchors);
        let change = self.changes.put(db, changed, ids, &mut batch)?;
        Ok(Prepared {
            batch,
            next,
            anchors,
            snapshots,
            statuses,
            change,
            tally,
        })
    }

    pub fn commit(&mut self, db: &dyn Db, prepared: Prepared) -> store::Result<Tally> {
        if let Err(error) = db.write(&prepared.batch, Durability::Buffered) {
            // It may have happened. A snapshot from before it and lanes from after it
            // would not add up, so nothing from before is kept at hand.
            self.hot.clear();
            self.statuses = None;
            return Err(error);
        }
        self.anchors = prepared.anchors;
        self.statuses = Some(prepared.statuses);
        self.next = prepared.next;
        self.spare.set(prepared.batch);
        let mut tally = prepared.tally;
        tally.change = self.changes.written(prepared.change);
        if let (Some(change), Some(moved)) = (&mut tally.change, tally.moved.take()) {
            change.note(moved);
        }
        for (id, row) in prepared.snapshots {
            self.hot.insert(id, row);
        }
        Ok(tally)
    }

    /// The last record of each partition behind the cut, and where to go on.
    fn advance(&self, cut: &Cut) -> (Anchors, Next) {
        let mut last: BTreeMap<u32, &Logged> = BTreeMap::new();
        for logged in cut.records() {
            let at = logged.at;
            let before = last.insert(at.partition, logged).map(|l| l.at.offset);
            let before = before.or(self.anchors.get(&at.partition).map(|a| a.offset));
            assert!(
                before.is_none_or(|before| before < at.offset),
                "a reader delivers each partition in order and once: {at} after {before:?}"
            );
        }
        let (mut anchors, mut next) = (self.anchors.clone(), self.next.clone());
        for (partition, logged) in last {
            let anchor = Anchor {
                offset: logged.at.offset,
                mark: Some(Mark::of(&logged.record)),
            };
            anchors.insert(partition, anchor);
            next.insert(partition, anchor.offset + 1);
        }
        for (&partition, &offset) in cut.next() {
            let held = next.entry(partition).or_insert(offset);
            *held = offset.max(*held);
        }
        (anchors, next)
    }

    /// Puts the dead letters aside, and gathers the events by operation: the groups in
    /// the order of their keys, since a row finds its place in memory quickly if it is
    /// next to the one before, and the events of all of them.
    fn group<'c>(
        &self,
        cut: &'c Cut,
        batch: &mut Batch,
        tally: &mut Tally,
    ) -> (Vec<Group<'c>>, Vec<Arrived<'c>>) {
        let mut places: HashMap<&'c str, usize> = HashMap::with_capacity(1024);
        let mut groups: Vec<Group<'c>> = Vec::new();
        let mut arrived: Vec<(usize, Arrived<'c>)> = Vec::with_capacity(cut.records().len());
        for (logged, step) in cut.records().iter().zip(cut.borrow_dependent()) {
            match step {
                Step::Apply(event) => {
                    tally.applied += 1;
                    tally.clock_ahead += u64::from(self.is_clock_ahead(&logged.record, event));
                    let id = &*event.operation_id;
                    let place = *places.entry(id).or_insert_with(|| {
                        groups.push(Group {
                            id,
                            key: keys::operation(id),
                            events: 0..0,
                        });
                        groups.len() - 1
                    });
                    groups[place].events.end += 1;
                    arrived.push((place, (event, logged)));
                }
                Step::DeadLetter(fault) => self.put_aside(logged, fault, batch, tally),
            }
        }
        let mut order: Vec<usize> = (0..groups.len()).collect();
        order.sort_unstable_by(|a, b| groups[*a].key.cmp(&groups[*b].key));
        // Where each group's events begin, and while they are dealt out, where the next goes.
        let mut next = vec![0; groups.len()];
        let mut begin = 0;
        for place in &order {
            let events = &mut groups[*place].events;
            next[*place] = begin;
            *events = begin..begin + events.end;
            begin = events.end;
        }
        let Some((_, any)) = arrived.first() else {
            return (groups, Vec::new());
        };
        let mut dealt = vec![*any; arrived.len()];
        for (place, event) in arrived {
            dealt[next[place]] = event;
            next[place] += 1;
        }
        groups.sort_unstable_by_key(|group| group.events.start);
        (groups, dealt)
    }

    fn put_aside(&self, logged: &Logged, fault: &Fault, batch: &mut Batch, tally: &mut Tally) {
        let reason = fault.rule.reason();
        *tally.dead_letters.entry(reason).or_default() += 1;
        let row = record_v1::encode_dead_letter(reason, &fault.to_string(), &logged.record);
        let key = keys::position(logged.at);
        batch.put(Family::DeadLetter, &key, &row);
        if self.rules.forward_dead_letters {
            batch.put(Family::DeadLetterDue, &key, &[]);
        }
    }

    /// Only where the arrival is the log's own and not the producer's claim.
    fn is_clock_ahead(&self, record: &Record, event: &Event) -> bool {
        let allowed = self.rules.clock_ahead;
        !record.claimed && allowed != Duration::MAX && event.key.time > record.arrived.plus(allowed)
    }

    fn fold_groups(
        &self,
        db: &dyn Db,
        groups: &[Group],
        arrived: &[Arrived],
        batch: &mut Batch,
        tally: &mut Tally,
    ) -> store::Result<Snapshots> {
        let mut cold: Vec<&[u8]> = Vec::new();
        let hot: Vec<Option<Arc<[u8]>>> = groups
            .iter()
            .map(|group| {
                let hot = self.hot.get(group.id).cloned();
                if hot.is_none() {
                    cold.push(&group.key);
                }
                hot
            })
            .collect();
        let mut fetched = db.multi_get(Family::State, &cold)?.into_iter();
        groups
            .iter()
            .zip(hot)
            .map(|(group, hot)| {
                let cold;
                let row = match &hot {
                    Some(row) => Some(&**row),
                    None => {
                        cold = fetched.next().expect("one row for each cold key");
                        cold.as_deref()
                    }
                };
                let events = &arrived[group.events.clone()];
                let events = events.iter().map(|(event, _)| *event);
                let row = fold(db, group.id, &group.key, row, events, batch, tally)?;
                Ok((group.id.into(), row))
            })
            .collect()
    }
}

/// What a cut changes, ready to be written.
pub struct Prepared {
    batch: Batch,
    next: Next,
    anchors: Anchors,
    snapshots: Snapshots,
    statuses: StatusCounts,
    change: Pending,
    tally: Tally,
}

/// Bytes of records that one row of the history holds, unless one record has more.
const CHUNK_BYTES: usize = 16 << 10;

/// Events of one operation, put in the order of their keys: one row for as many as fit,
/// named by the first. Most of a row's cost does not depend on its size.
fn put_history(id: &str, events: &mut [Arrived], batch: &mut Batch) {
    let order = |(a, a_at): &Arrived, (b, b_at): &Arrived| {
        a.key.cmp(&b.key).then_with(|| a_at.at.cmp(&b_at.at))
    };
    // Most arrive in their order.
    if !events.is_sorted_by(|a, b| order(a, b).is_le()) {
        events.sort_by(order);
    }
    let mut rest = &*events;
    while let [(first, logged), ..] = rest {
        let mut bytes = 0;
        let fits = |(_, logged): &&Arrived| {
            bytes += logged.record.size();
            bytes <= CHUNK_BYTES
        };
        let count = rest.iter().take_while(fits).count().max(1);
        let (chunk, after) = rest.split_at(count);
        let key = keys::history(id, &first.key, logged.at);
        let chunk = chunk.iter().map(|(_, l)| (l.at, &l.record));
        batch.put_with(Family::History, &key, |row| {
            record_v1::append_history(chunk, row)
        });
        rest = after;
    }
}

/// How many operations have each anomaly, counted from the store.
pub fn count_anomalies(db: &dyn Db) -> store::Result<BTreeMap<&'static str, i64>> {
    let mut tally = Tally::default();
    store::view(db, |view| {
        view.scan(
            Family::Anomaly,
            keys::ALL,
            Direction::Forward,
            &mut |_, row| {
                let held = Anomalies(row.first().copied().unwrap_or(0));
                tally.moved(Anomalies::default(), held);
                ControlFlow::Continue(())
            },
        )
    })?;
    Ok(tally.anomalies)
}

/// How many documents have each status: as it was written with the last batch that
/// changed it, or counted, in a store that is older than that.
fn count_statuses(db: &dyn Db) -> store::Result<StatusCounts> {
    if let Some(statuses) = meta::statuses(db)? {
        return Ok(statuses);
    }
    let mut counts = StatusCounts::default();
    store::view(db, |view| {
        for status in Status::ALL {
            let first = keys::of_status(status);
            view.scan(
                Family::ByStatus,
                &[first][..]..&[first + 1][..],
                Direction::Forward,
                &mut |_, _| {
                    counts[status as usize] += 1;
                    ControlFlow::Continue(())
                },
            )?;
        }
        Ok(())
    })?;
    Ok(counts)
}
