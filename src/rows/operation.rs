//! Reads one operation's whole state from a view: the snapshot, the lanes kept apart, large bodies,
//! and, where a row cannot be read, the same state folded again from the history.

use super::keys::{self, LaneKind};
use super::{bodies, records, state};
use crate::domain::{Event, LaneId, Lanes, Operation, OperationId};
use crate::store::{Direction, Error, Family, Result, View, try_scan};
use crate::wire::cloudevent;
use crate::wire::document::Bodies;
use crate::wire::record::Record;
use crate::wire::snapshot;
use crate::wire::stored::Unreadable;
use std::ops::ControlFlow;

/// The operation whose snapshot is `row`, if that is all of it: no lanes kept apart, no
/// bodies that are elsewhere, no damage.
pub fn at_hand(row: &[u8]) -> Option<Operation<'_>> {
    let (mut op, None) = snapshot::decode(row).ok()? else {
        return None;
    };
    let is_all = op.bodies_mut().all(|(_, body)| body.known().is_some());
    is_all.then_some(op)
}

/// Runs `show` on the operation, with its bodies if they are to be shown. `None` if nothing was
/// ever heard of it.
pub fn load<T>(
    view: &dyn View,
    operation_id: OperationId,
    bodies: Bodies,
    show: impl FnOnce(&Operation) -> T,
) -> Result<Option<T>> {
    let row = state::snapshot(view, operation_id)?;
    row.map(|row| with_operation(view, operation_id, &row, bodies, show))
        .transpose()
}

/// Runs `show` on the operation whose snapshot is `row`, with its bodies if they are to be
/// shown.
pub fn with_operation<T>(
    view: &dyn View,
    operation_id: OperationId,
    row: &[u8],
    bodies: Bodies,
    show: impl FnOnce(&Operation) -> T,
) -> Result<T> {
    let (lanes, records);
    let decoded = match snapshot::decode(row) {
        Ok((op, None)) => Ok(op),
        Ok((mut op, Some(_))) => {
            lanes = readable(all_lanes(view, operation_id))?;
            add_lanes(lanes.as_deref(), &mut op).map(|()| op)
        }
        Err(unreadable) => Err(unreadable),
    };
    let mut op = match decoded {
        Ok(op) => op,
        Err(unreadable) => {
            records = records_instead(view, operation_id, unreadable)?;
            return Ok(show(&of_history(&records)?));
        }
    };
    if bodies == Bodies::Shown {
        bodies::look_up(view, operation_id, &mut op)?;
    }
    Ok(show(&op))
}

/// Lanes that are kept apart, as stored.
pub(super) type LaneRows<'i> = Vec<(LaneKind, LaneId<'i>, Vec<u8>)>;

fn all_lanes(view: &dyn View, operation_id: OperationId) -> Result<LaneRows<'static>> {
    let range = keys::of_operation(operation_id);
    let range = &range.start[..]..&range.end[..];
    let mut lanes = LaneRows::new();
    try_scan(
        |visit| view.scan(Family::Lane, range, Direction::Forward, visit),
        |key, row| {
            let lane = keys::lane_of(key, operation_id);
            let (kind, id) = lane.ok_or_else(|| Error::Corrupt("a lane".into()))?;
            lanes.push((kind, id, row.to_vec()));
            Ok(ControlFlow::Continue(()))
        },
    )?;
    Ok(lanes)
}

/// `None` if it is damaged.
pub(super) fn readable<T>(read: Result<T>) -> Result<Option<T>> {
    match read {
        Err(Error::Corrupt(_)) => Ok(None),
        read => read.map(Some),
    }
}

pub(super) fn add_lanes<'a>(
    rows: Option<&'a [(LaneKind, LaneId, Vec<u8>)]>,
    op: &mut Operation<'a>,
) -> std::result::Result<(), Unreadable> {
    for (kind, id, row) in rows.ok_or(Unreadable::Damaged)? {
        lanes(op, *kind).insert(id.share(), snapshot::decode_lane(row)?);
    }
    Ok(())
}

/// A damaged row is replaced by folding the history; a row of a newer format is not.
pub(super) fn records_instead(
    view: &dyn View,
    operation_id: OperationId,
    unreadable: Unreadable,
) -> Result<Vec<Record>> {
    if unreadable != Unreadable::Damaged {
        return Err(Error::OtherFormat(unreadable.to_string()));
    }
    tracing::error!(
        operation_id = operation_id.0,
        "restoring a damaged snapshot from the history"
    );
    history_records(view, operation_id)
}

/// Every record of the operation, as stored.
fn history_records(view: &dyn View, operation_id: OperationId) -> Result<Vec<Record>> {
    let mut all = Vec::new();
    records::scan(view, operation_id, None, &mut |_, _, record| {
        all.push(record);
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(all)
}

/// The state that follows from all records of an operation.
pub fn of_history(records: &[Record]) -> Result<Operation<'_>> {
    let mut op = Operation::default();
    for event in events(records) {
        op.absorb(event?);
    }
    Ok(op)
}

pub fn lanes<'o, 'a>(op: &'o mut Operation<'a>, kind: LaneKind) -> &'o mut Lanes<'a> {
    match kind {
        LaneKind::Cluster => &mut op.clusters,
        LaneKind::Rollback => &mut op.rollbacks,
    }
}

pub fn events(records: &[Record]) -> impl Iterator<Item = Result<Event<'_>>> {
    records.iter().map(|record| {
        let event = cloudevent::decode(record);
        event.map_err(|fault| Error::Corrupt(format!("a stored event: {fault}")))
    })
}
