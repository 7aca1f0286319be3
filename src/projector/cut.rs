//! Folds a cut of the log into one batch. Synchronous and without threads, so
//! that the live projector, the rebuild and the simulation run the same code.

use super::halt::OpenError;
use super::meta;
use super::operation::fold;
use super::step::{Step, step};
use crate::domain::{Anomalies, Anomaly, Event, Text};
use crate::event_log::Logged;
use crate::store::{self, Batch, Db, Direction, Durability, Family, keys};
use crate::wire::position::{LogId, Position, Positions};
use crate::wire::record_v1::{self, Record};
use std::collections::{BTreeMap, HashMap};
use std::ops::ControlFlow;
use std::sync::Arc;

/// What a cut amounted to, for the metrics.
#[derive(Debug, Default, Clone, PartialEq)]
pub struct Tally {
    pub applied: u64,
    /// By reason.
    pub dead_letters: BTreeMap<&'static str, u64>,
    /// Operations with each anomaly, more or fewer than before.
    pub anomalies: BTreeMap<&'static str, i64>,
    /// An ending that arrived later changed a served ending.
    pub terminal_revised: u64,
    /// Damaged snapshots made good from the history.
    pub refolded: u64,
}

impl Tally {
    pub fn moved(&mut self, before: Anomalies, after: Anomalies) {
        for anomaly in Anomaly::ALL {
            let change = i64::from(after.contains(anomaly)) - i64::from(before.contains(anomaly));
            *self.anomalies.entry(anomaly.as_str()).or_default() += change;
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

/// The one writer of a store: where it is in the log, and what it has at hand.
/// Memory moves only after a write has returned.
pub struct Projection {
    positions: Positions,
    hot: Hot,
}

impl Projection {
    /// Takes up where the store is. `hot_bytes` bounds the snapshots kept in memory.
    pub fn open(db: &dyn Db, log: LogId, hot_bytes: u64) -> Result<Projection, OpenError> {
        Ok(Projection {
            positions: meta::open(db, log)?,
            hot: Hot::with_weighter((hot_bytes / 2048) as usize, hot_bytes, ByBytes),
        })
    }

    pub fn positions(&self) -> &Positions {
        &self.positions
    }

    /// Writes all that the records change, with the positions behind them. After
    /// an error nothing has moved here; doing it again is harmless even if the
    /// write did happen.
    pub fn apply(&mut self, db: &dyn Db, cut: &[Logged]) -> store::Result<Tally> {
        let mut tally = Tally::default();
        let mut batch = Batch::default();
        let positions = self.advance(cut);
        let groups = decode(cut, &mut batch, &mut tally);
        let snapshots = self.fold_groups(db, groups, &mut batch, &mut tally)?;
        for (&partition, &offset) in &positions {
            if self.positions.get(&partition) != Some(&offset) {
                meta::put_position(&mut batch, Position { partition, offset });
            }
        }
        if let Err(error) = db.write(&batch, Durability::Buffered) {
            // It may have happened. A snapshot from before it and lanes from after it
            // would not add up, so nothing from before is kept at hand.
            self.hot.clear();
            return Err(error);
        }
        self.positions = positions;
        for (id, row) in snapshots {
            self.hot.insert(id, row);
        }
        Ok(tally)
    }

    /// The positions behind the cut.
    fn advance(&self, cut: &[Logged]) -> Positions {
        let mut positions = self.positions.clone();
        for Logged { at, .. } in cut {
            let before = positions.insert(at.partition, at.offset);
            assert!(
                before.is_none_or(|before| before < at.offset),
                "a reader delivers each partition in order and once: {at} after {before:?}"
            );
        }
        positions
    }

    fn fold_groups(
        &self,
        db: &dyn Db,
        groups: Vec<(Text, Vec<Event>)>,
        batch: &mut Batch,
        tally: &mut Tally,
    ) -> store::Result<Snapshots> {
        let cold: Vec<Vec<u8>> = groups
            .iter()
            .filter(|(id, _)| self.hot.peek(&**id).is_none())
            .map(|(id, _)| keys::operation(id))
            .collect();
        let mut fetched = db.multi_get(Family::State, &cold)?.into_iter();
        groups
            .into_iter()
            .map(|(id, events)| {
                let hot = self.hot.get(&*id).cloned();
                let row: Option<Arc<[u8]>> = match hot {
                    Some(row) => Some(row),
                    None => fetched
                        .next()
                        .expect("one row for each cold key")
                        .map(Arc::from),
                };
                let row = fold(db, &id, row.as_deref(), events, batch, tally)?;
                Ok((id.into(), Arc::from(row)))
            })
            .collect()
    }
}

/// Decodes every record, writes its history or dead letter, and gathers the
/// events by operation.
fn decode<'c>(
    cut: &'c [Logged],
    batch: &mut Batch,
    tally: &mut Tally,
) -> Vec<(Text<'c>, Vec<Event<'c>>)> {
    let mut places: HashMap<Text<'c>, usize> = HashMap::new();
    let mut groups: Vec<(Text<'c>, Vec<Event<'c>>)> = Vec::new();
    for logged in cut {
        match step(logged) {
            Step::Apply(event) => {
                tally.applied += 1;
                let key = keys::history(&event.operation_id, &event.key, logged.at);
                batch.put(Family::History, &key, &history_row(&logged.record));
                let place = *places
                    .entry(event.operation_id.clone())
                    .or_insert(groups.len());
                if place == groups.len() {
                    groups.push((event.operation_id.clone(), Vec::new()));
                }
                groups[place].1.push(event);
            }
            Step::DeadLetter(fault) => {
                let reason = fault.rule.reason();
                *tally.dead_letters.entry(reason).or_default() += 1;
                let row = record_v1::encode_dead_letter(reason, &fault.to_string(), &logged.record);
                batch.put(Family::DeadLetter, &keys::position(logged.at), &row);
            }
        }
    }
    groups
}

/// The record without its key, which is the operation id or nothing.
fn history_row(record: &Record) -> Vec<u8> {
    record_v1::encode(&Record {
        key: None,
        ..record.clone()
    })
}

/// How many operations have each anomaly, counted from the store.
pub fn count_anomalies(db: &dyn Db) -> store::Result<BTreeMap<&'static str, i64>> {
    let mut tally = Tally::default();
    store::view(db, |view| {
        view.scan(
            Family::Anomaly,
            &[]..&[0xFF],
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
