//! One operation while a batch is folded into it: what must be at hand, what
//! changed, and the rows that follow from it.
//!
//! An operation with many lanes keeps them in rows of their own, and only those
//! that the batch touches are read and written: its next event costs the same
//! whether it has a hundred lanes or fifty thousand.

use super::projection::Tally;
use super::record_batch::Arrived;
use crate::domain::body::Digest;
use crate::domain::effects::{Due, Listed};
use crate::domain::{
    Absorbed, Anomaly, Body, Event, Kind, Lane, LaneId, Lanes, Operation, Standing,
};
use crate::rows::bodies;
use crate::rows::entry::{self, Entry, Moved};
use crate::rows::operation::{self, history_records};
use crate::store::keys::{self, LaneKind};
use crate::store::{self, Batch, Db, Error, Family, RowResult};
use crate::wire::notification::{DeliveryKey, encode_due};
use crate::wire::record::Record;
use crate::wire::snapshot::{self, Apart};
use crate::wire::stored::{ANOMALIES, Unreadable};
use std::sync::Arc;

/// More lanes than this are kept apart. A row of this many is a few tens of
/// kilobytes at most where bodies are small, and rewritten as a whole.
const LANES_INLINE: usize = 32;

/// Folds `arrived` into the operation with this snapshot, under `key`, and adds to the batch
/// all that follows, the new snapshot included. Returns that snapshot.
pub fn fold<'e>(
    db: &dyn Db,
    operation_id: &str,
    key: &[u8],
    snapshot: Option<&[u8]>,
    arrived: impl Iterator<Item = Arrived<'e>> + Clone,
    batch: &mut Batch,
    tally: &mut Tally,
) -> store::Result<Arc<[u8]>> {
    let events = || arrived.clone().map(|(event, _)| event);
    // What the state may borrow from stands before it.
    let (records, lane_rows): (Vec<Record>, LaneRows);
    let stored = match snapshot.map(snapshot::decode) {
        None => Ok((Operation::default(), None)),
        Some(Ok((op, None))) => Ok((op, None)),
        Some(Ok((mut op, apart))) => {
            lane_rows = touched_lanes(db, operation_id, events())?;
            add_lanes(&lane_rows, &mut op).map(|()| (op, apart))
        }
        Some(Err(unreadable)) => Err(unreadable),
    };
    let (mut op, mut apart) = match stored {
        Ok(stored) => stored,
        Err(Unreadable::Damaged) => {
            // The history holds every event: the state follows from it.
            tracing::error!(
                operation_id,
                "restoring a damaged snapshot from the history"
            );
            tally.refolded += 1;
            records = store::view(db, |view| history_records(view, operation_id))?;
            let mut op = Operation::default();
            for event in operation::events(&records) {
                op.absorb(event?);
            }
            (op, None)
        }
        Err(unreadable @ Unreadable::Unknown(_)) => {
            return Err(Error::OtherFormat(unreadable.to_string()));
        }
    };
    let before = standing(&op, apart);
    // Most events change nothing that lists are filtered by, beside time and status.
    let lanes_at_most = op.clusters.len() + op.rollbacks.len() + events().count();
    let may_change = (apart.is_none() && lanes_at_most > LANES_INLINE)
        || events().any(|event| is_of_entry(&event.kind));
    let notes = tally.moved.is_some();
    let row_before = (may_change || notes).then(|| entry::row(&op, at_hand_of(apart)));
    let waiting_before = waiting(&op);
    for event in events() {
        let served = op.created.get().is_some();
        let mut absorbed = op.absorb(event.share());
        if absorbed == Absorbed::Undecided {
            let texts = |digest| {
                let mut records = arrived.clone().map(|(_, logged)| &logged.record);
                records.find_map(|record| bodies::text_in(record, digest))
            };
            absorbed = absorb_by_text(db, operation_id, &mut op, event, texts)?;
        }
        if absorbed == Absorbed::Revised && served {
            tally.terminal_revised += 1;
        }
    }
    for (_, body) in op.bodies_mut() {
        body.name();
    }
    if let Some(apart) = &mut apart {
        apart.waiting = apart.waiting + waiting(&op) - waiting_before;
        apart.replaced |= replaced(&op);
    } else if op.clusters.len() + op.rollbacks.len() > LANES_INLINE {
        apart = Some(Apart {
            waiting: waiting(&op),
            replaced: replaced(&op),
        });
    }
    if apart.is_some() {
        put_lanes(operation_id, &op, batch);
    }
    let after = standing(&op, apart);
    let new = put_snapshot(
        key,
        snapshot,
        |row| snapshot::append(&op, apart, row),
        batch,
    );
    let time = |listed: Listed| listed.occurred_time;
    if before.listed.map(time) != after.listed.map(time) {
        let key = |listed: Listed| keys::by_time(listed.occurred_time, operation_id);
        let (before, after) = (before.listed.map(key), after.listed.map(key));
        move_entry(Family::ByTime, before, after, b"", batch);
    }
    let is_elsewhere = before.listed != after.listed;
    let row_after =
        (row_before.is_some() || is_elsewhere).then(|| entry::row(&op, at_hand_of(apart)));
    let is_other = row_before.is_some() && row_before != row_after;
    if let Some(row_after) = &row_after
        && (is_elsewhere || is_other)
    {
        let key = |l: Listed| keys::by_status(l.status, l.occurred_time, operation_id);
        let (before, after) = (before.listed.map(key), after.listed.map(key));
        let row = row_after.as_deref().unwrap_or_default();
        move_entry(Family::ByStatus, before, after, row, batch);
    }
    if let Some(moved) = &mut tally.moved {
        let entry = |listed: Option<Listed>, row: Option<Option<Vec<u8>>>| {
            let (listed, row) = listed.zip(row.flatten())?;
            let row = row.into();
            Some(Entry { listed, row })
        };
        let was = (is_elsewhere || is_other).then(|| entry(before.listed, row_before));
        moved.push(Moved {
            was: was.flatten(),
            is: entry(after.listed, row_after),
        });
    }
    put_effects(operation_id, key, &before, &after, batch, tally);
    Ok(new)
}

/// A repeat says nothing new, mostly, and writes no snapshot.
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

/// Lanes that are kept apart, each with its row.
type LaneRows<'e> = Vec<((LaneKind, LaneId<'e>), RowResult)>;

fn touched_lanes<'e>(
    db: &dyn Db,
    operation_id: &str,
    events: impl Iterator<Item = &'e Event<'e>>,
) -> store::Result<LaneRows<'e>> {
    let touched = touched(events);
    let all = keys::of_operation(operation_id).start;
    let keys = touched.iter().map(|(kind, id)| keys::lane(&all, *kind, id));
    let keys: Vec<_> = keys.collect();
    let keys: Vec<&[u8]> = keys.iter().map(|key| &**key).collect();
    let rows = db.multi_get(Family::Lane, &keys);
    let broken = rows.iter().find_map(|row| match row {
        Ok(_) | Err(Error::Corrupt(_)) => None,
        Err(error) => Some(error.clone()),
    });
    match broken {
        Some(error) => Err(error),
        None => Ok(touched.into_iter().zip(rows).collect()),
    }
}

fn add_lanes<'a>(rows: &'a LaneRows<'a>, op: &mut Operation<'a>) -> Result<(), Unreadable> {
    for ((kind, id), row) in rows {
        match row {
            Ok(None) => {}
            Ok(Some(row)) => {
                lanes(op, *kind).insert(id.clone(), snapshot::decode_lane(row)?);
            }
            Err(_) => return Err(Unreadable::Damaged),
        }
    }
    Ok(())
}

fn lanes<'o, 'a>(op: &'o mut Operation<'a>, kind: LaneKind) -> &'o mut Lanes<'a> {
    match kind {
        LaneKind::Cluster => &mut op.clusters,
        LaneKind::Rollback => &mut op.rollbacks,
    }
}

/// An event that another one shares its order key with: of both the texts are looked up, in
/// what has `arrived` or else in the history.
fn absorb_by_text<'e>(
    db: &dyn Db,
    operation_id: &str,
    op: &mut Operation<'e>,
    event: &'e Event<'e>,
    arrived: impl Fn(Digest) -> Option<String>,
) -> store::Result<Absorbed> {
    let mut whole = event.share();
    let rivals = op.bodies_mut().filter(|(key, _)| **key == event.key);
    let rivals = rivals.map(|(_, body)| body);
    for body in rivals.chain(whole.kind.bodies_mut()) {
        if let Body::Named(digest) = *body {
            let text = match arrived(digest) {
                Some(text) => text,
                None => store::view(db, |view| {
                    bodies::text(view, operation_id, &event.key, digest)
                })?,
            };
            *body = Body::from(text);
        }
    }
    Ok(op.absorb(whole))
}

/// The lanes that these events go to.
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

fn at_hand<'o, 'a>(op: &'o Operation<'a>) -> impl Iterator<Item = &'o Lane<'a>> {
    op.clusters.values().chain(op.rollbacks.values())
}

fn waiting(op: &Operation) -> u64 {
    at_hand(op).filter(|lane| lane.is_waiting()).count() as u64
}

fn replaced(op: &Operation) -> bool {
    at_hand(op).any(|lane| lane.response.is_contested())
}

/// With what is known of the lanes that are not at hand.
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

fn put_lanes(operation_id: &str, op: &Operation, batch: &mut Batch) {
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

/// Of an operation whose lanes stay where they are: the request, the lanes that have one,
/// and what came of rollbacks are in the entry.
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

fn at_hand_of(apart: Option<Apart>) -> entry::Lanes {
    match apart {
        None => entry::Lanes::AtHand,
        Some(_) => entry::Lanes::Apart,
    }
}

/// Notifications and anomalies move with the standing.
fn put_effects(
    operation_id: &str,
    key: &[u8],
    before: &Standing,
    after: &Standing,
    batch: &mut Batch,
    tally: &mut Tally,
) {
    tally.listed(before.listed, after.listed);
    if before.due != after.due {
        // Each in a row of its own: the one before may be under way at this moment.
        let row = |due: &Due| {
            keys::notification(operation_id, DeliveryKey::of(operation_id, &due.ending))
        };
        if let Some(before) = &before.due {
            batch.delete(Family::Outbox, &row(before));
            batch.delete(Family::Tries, &row(before));
        }
        if let Some(due) = &after.due {
            batch.put(Family::Outbox, &row(due), &encode_due(due));
            tally.due.push(operation_id.into());
        }
    }
    if before.anomalies != after.anomalies {
        if after.anomalies.is_empty() {
            batch.delete(Family::Anomaly, key);
        } else {
            batch.put(Family::Anomaly, key, &[ANOMALIES, after.anomalies.0]);
        }
        tally.moved(before.anomalies, after.anomalies);
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
