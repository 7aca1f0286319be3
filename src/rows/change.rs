//! One operation while a batch is folded into it: reads its rows before, and writes its rows
//! after.
//!
//! An operation with many lanes keeps them in rows of their own, and only those that the batch
//! touches are read and written: its next event costs the same whether it has a hundred lanes or
//! fifty thousand.

use super::entry::{self, Entry, EntryChange, Moved};
use super::keys::{self, LaneKind};
use super::operation::{self, LaneRows, add_lanes, records_instead};
use super::state::SnapshotKey;
use super::{bodies, outbox};
use crate::domain::body::Digest;
use crate::domain::effects::{Effects, Listed};
use crate::domain::{
    Absorbed, Anomaly, Body, Event, Kind, Lane, LaneId, Operation, OperationId, Standing,
};
use crate::store::{self, Batch, Db, Family, View};
use crate::wire::record::Record;
use crate::wire::snapshot::{self, Apart};
use crate::wire::stored::ANOMALIES;
use std::sync::Arc;

/// More lanes than this are kept apart. A row of this many is a few tens of
/// kilobytes at most where bodies are small, and rewritten as a whole.
const LANES_INLINE: usize = 32;

/// The rows that were read, for the state to borrow from.
#[derive(Default)]
pub struct ReadRows<'e> {
    /// `None` if one of them is damaged.
    lanes: Option<LaneRows<'e>>,
    history: Vec<Record>,
}

/// The state of an operation, as much of it as the events of a batch need.
pub struct Loaded<'a> {
    pub op: Operation<'a>,
    /// The snapshot was damaged, and the state was folded again from the history.
    pub is_refolded: bool,
    apart: Option<Apart>,
    snapshot: Option<&'a [u8]>,
    before: Standing<'a>,
    /// The row of its list entry, if the events may change it.
    row_before: Option<Option<Vec<u8>>>,
    waiting_before: u64,
}

/// The result of a record batch for one operation, after it was added to the write batch.
pub struct Written<'a> {
    pub snapshot: Arc<[u8]>,
    pub effects: Effects<'a>,
    pub entry: EntryChange,
}

impl<'a> Loaded<'a> {
    /// The state before these events. `snapshot` is the row under its key, empty if that is
    /// damaged, `None` for an operation that is new.
    pub fn load<'e: 'a>(
        db: &dyn Db,
        operation_id: OperationId,
        snapshot: Option<&'a [u8]>,
        events: impl Iterator<Item = &'e Event<'e>> + Clone,
        space: &'a mut ReadRows<'e>,
    ) -> store::Result<Loaded<'a>> {
        let stored = match snapshot.map(snapshot::decode) {
            None => Ok((Operation::default(), None)),
            Some(Ok((op, None))) => Ok((op, None)),
            Some(Ok((mut op, apart))) => {
                space.lanes = operation::readable(touched_lanes(db, operation_id, events.clone()))?;
                add_lanes(space.lanes.as_deref(), &mut op).map(|()| (op, apart))
            }
            Some(Err(unreadable)) => Err(unreadable),
        };
        let is_refolded = stored.is_err();
        let (op, apart) = match stored {
            Ok(stored) => stored,
            Err(unreadable) => {
                // The history has every event: the state follows from it.
                let records = |view: &dyn View| records_instead(view, operation_id, unreadable);
                space.history = store::view(db, records)?;
                (operation::of_history(&space.history)?, None)
            }
        };
        // Except for time and status, most events change nothing that lists are filtered by.
        let lanes_at_most = op.clusters.len() + op.rollbacks.len() + events.clone().count();
        let may_change = (apart.is_none() && lanes_at_most > LANES_INLINE)
            || events.clone().any(|event| is_of_entry(&event.kind));
        Ok(Loaded {
            is_refolded,
            before: standing(&op, apart),
            row_before: may_change.then(|| entry::row(&op, entry_lanes(apart))),
            waiting_before: waiting(&op),
            op,
            apart,
            snapshot,
        })
    }

    /// Absorbs one event. If two events share an order key, the texts of their bodies decide: they
    /// are read from the records that have `arrived`, or else from the history.
    pub fn absorb<'r>(
        &mut self,
        db: &dyn Db,
        operation_id: OperationId,
        event: &'a Event<'a>,
        arrived: impl Iterator<Item = &'r Record>,
    ) -> store::Result<Absorbed> {
        match self.op.absorb(event.share()) {
            Absorbed::Undecided => absorb_by_text(db, operation_id, &mut self.op, event, arrived),
            absorbed => Ok(absorbed),
        }
    }

    /// Adds to the batch all that has changed.
    pub fn write(mut self, id: OperationId, key: &SnapshotKey, batch: &mut Batch) -> Written<'a> {
        let op = &mut self.op;
        for (_, body) in op.bodies_mut() {
            body.name();
        }
        let mut apart = self.apart;
        if let Some(apart) = &mut apart {
            apart.waiting = apart.waiting + waiting(op) - self.waiting_before;
            apart.replaced |= replaced(op);
        } else if op.clusters.len() + op.rollbacks.len() > LANES_INLINE {
            apart = Some(Apart {
                waiting: waiting(op),
                replaced: replaced(op),
            });
        }
        if apart.is_some() {
            put_lanes(id, op, batch);
        }
        let row = |row| snapshot::append(op, apart, row);
        let snapshot = put_snapshot(key.bytes(), self.snapshot, row, batch);
        let effects = Effects {
            before: self.before,
            after: standing(op, apart),
        };
        let entry = put_entry(id, op, apart, self.row_before, &effects, batch);
        put_effects(id, key, &effects, batch);
        Written {
            entry: entry.unwrap_or_else(|| EntryChange::Same(snapshot.clone())),
            snapshot,
            effects,
        }
    }
}

/// A repeated event usually changes nothing, and writes no snapshot.
fn put_snapshot(
    key: &[u8],
    before: Option<&[u8]>,
    append: impl FnOnce(Vec<u8>) -> Vec<u8>,
    batch: &mut Batch,
) -> Arc<[u8]> {
    let Some(before) = before else {
        return batch.put_with(Family::State, key, append).into();
    };
    let snapshot: Arc<[u8]> = append(Vec::with_capacity(before.len() + 256)).into();
    if *snapshot != *before {
        batch.put(Family::State, key, &snapshot);
    }
    snapshot
}

/// The entries of the lists, which move with time and status. `None` if they are as before.
fn put_entry(
    id: OperationId,
    op: &Operation,
    apart: Option<Apart>,
    row_before: Option<Option<Vec<u8>>>,
    effects: &Effects,
    batch: &mut Batch,
) -> Option<EntryChange> {
    let (before, after) = (effects.before.listed, effects.after.listed);
    let time = |listed: Listed| listed.occurred_time;
    if before.map(time) != after.map(time) {
        let key = |listed: Listed| keys::by_time(listed.occurred_time, id);
        move_entry(Family::ByTime, before.map(key), after.map(key), b"", batch);
    }
    let is_elsewhere = before != after;
    if row_before.is_none() && !is_elsewhere {
        return None;
    }
    let row: Option<Arc<[u8]>> = entry::row(op, entry_lanes(apart)).map(Arc::from);
    let row_before = match row_before {
        Some(before) if before.as_deref() != row.as_deref() => before.map(Arc::from),
        _ if !is_elsewhere => return None,
        _ => row.clone(),
    };
    let key = |l: Listed| keys::by_status(l.status, l.occurred_time, id);
    let value = row.as_deref().unwrap_or_default();
    move_entry(
        Family::ByStatus,
        before.map(key),
        after.map(key),
        value,
        batch,
    );
    let entry = |listed: Option<Listed>, row: Option<Arc<[u8]>>| {
        let (listed, row) = listed.zip(row)?;
        Some(Entry { listed, row })
    };
    Some(EntryChange::Moved(Moved {
        was: entry(before, row_before),
        is: entry(after, row),
    }))
}

/// Notifications and anomalies move with the standing.
fn put_effects(id: OperationId, key: &SnapshotKey, effects: &Effects, batch: &mut Batch) {
    let Effects { before, after } = effects;
    if before.due != after.due {
        // Each delivery has its own row: the earlier one may be in flight at this moment.
        if let Some(before) = &before.due {
            outbox::remove_due(id, before, batch);
        }
        if let Some(due) = &after.due {
            outbox::put_due(id, due, batch);
        }
    }
    if before.anomalies != after.anomalies {
        if after.anomalies.is_empty() {
            batch.delete(Family::Anomaly, key.bytes());
        } else {
            batch.put(
                Family::Anomaly,
                key.bytes(),
                &[ANOMALIES, after.anomalies.0],
            );
        }
    }
}

/// Of the existing lanes, those that these events belong to.
fn touched_lanes<'e>(
    db: &dyn Db,
    operation_id: OperationId,
    events: impl Iterator<Item = &'e Event<'e>>,
) -> store::Result<LaneRows<'e>> {
    let touched = touched(events);
    let all = keys::of_operation(operation_id).start;
    let keys = touched.iter().map(|(kind, id)| keys::lane(&all, *kind, id));
    let keys: Vec<_> = keys.collect();
    let keys: Vec<&[u8]> = keys.iter().map(|key| &**key).collect();
    let rows = touched.into_iter().zip(db.multi_get(Family::Lane, &keys));
    rows.filter_map(|((kind, id), row)| Some(row.transpose()?.map(|row| (kind, id, row))))
        .collect()
}

fn absorb_by_text<'a, 'r>(
    db: &dyn Db,
    operation_id: OperationId,
    op: &mut Operation<'a>,
    event: &'a Event<'a>,
    arrived: impl Iterator<Item = &'r Record>,
) -> store::Result<Absorbed> {
    let arrived: Vec<_> = arrived.collect();
    let text_of = |digest: Digest| {
        let text = arrived
            .iter()
            .find_map(|record| bodies::text_in(record, digest));
        match text {
            Some(text) => Ok(text),
            None => store::view(db, |view| {
                bodies::text(view, operation_id, &event.key, digest)
            }),
        }
    };
    let mut whole = event.share();
    let rivals = op.bodies_mut().filter(|(key, _)| **key == event.key);
    let rivals = rivals.map(|(_, body)| body);
    for body in rivals.chain(whole.kind.bodies_mut()) {
        if let Body::Named(digest) = *body {
            *body = Body::from(text_of(digest)?);
        }
    }
    Ok(op.absorb(whole))
}

/// The lanes that these events belong to.
fn touched<'e>(arrived: impl Iterator<Item = &'e Event<'e>>) -> Vec<(LaneKind, LaneId<'e>)> {
    let mut touched: Vec<_> = arrived
        .filter_map(|event| match &event.kind {
            Kind::RequestSent { lane, .. } | Kind::ResponseReceived { lane, .. } => {
                Some((LaneKind::Cluster, lane.clone()))
            }
            Kind::RollbackAttempted { lane, .. } | Kind::RollbackResponseReceived { lane, .. } => {
                Some((LaneKind::Rollback, lane.clone()))
            }
            Kind::Created { .. } | Kind::Started | Kind::Progressed { .. } | Kind::Ended(_) => None,
        })
        .collect();
    touched.sort_unstable();
    touched.dedup();
    touched
}

fn loaded_lanes<'o, 'a>(op: &'o Operation<'a>) -> impl Iterator<Item = &'o Lane<'a>> {
    op.clusters.values().chain(op.rollbacks.values())
}

fn waiting(op: &Operation) -> u64 {
    loaded_lanes(op).filter(|lane| lane.is_waiting()).count() as u64
}

fn replaced(op: &Operation) -> bool {
    loaded_lanes(op).any(|lane| lane.response.is_contested())
}

/// Includes the counts of the lanes that are not loaded.
fn standing<'a>(op: &Operation<'a>, apart: Option<Apart>) -> Standing<'a> {
    let mut standing = op.standing();
    if let Some(apart) = apart {
        standing
            .anomalies
            .put(Anomaly::ResponseWithoutRequest, apart.waiting > 0);
        standing
            .anomalies
            .put(Anomaly::ResponseReplaced, apart.replaced);
    }
    standing
}

fn put_lanes(operation_id: OperationId, op: &Operation, batch: &mut Batch) {
    let all = keys::of_operation(operation_id).start;
    for (kind, lanes) in [
        (LaneKind::Cluster, &op.clusters),
        (LaneKind::Rollback, &op.rollbacks),
    ] {
        for (id, lane) in lanes {
            let row = |row| snapshot::append_lane(lane, row);
            batch.put_with(Family::Lane, &keys::lane(&all, kind, id), row);
        }
    }
}

/// Whether an event can change the list entry of an operation whose lanes stay in place: the entry
/// has the request, the lanes that have one, and the results of rollbacks.
fn is_of_entry(kind: &Kind) -> bool {
    match kind {
        Kind::Created { .. }
        | Kind::RequestSent { .. }
        | Kind::RollbackAttempted { .. }
        | Kind::RollbackResponseReceived { .. } => true,
        Kind::ResponseReceived { .. }
        | Kind::Started
        | Kind::Progressed { .. }
        | Kind::Ended(_) => false,
    }
}

fn entry_lanes(apart: Option<Apart>) -> entry::EntryLanes {
    match apart {
        None => entry::EntryLanes::AtHand,
        Some(_) => entry::EntryLanes::Apart,
    }
}

/// The entry of an operation in one of the lists, from one key to the other.
fn move_entry(
    family: Family,
    before: Option<Vec<u8>>,
    after: Option<Vec<u8>>,
    row: &[u8],
    batch: &mut Batch,
) {
    if let Some(key) = before.filter(|key| after.as_ref() != Some(key)) {
        batch.delete(family, &key);
    }
    if let Some(key) = after {
        batch.put(family, &key, row);
    }
}
