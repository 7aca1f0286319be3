//! The snapshot of an operation: the row under its key in `state`.

use crate::domain::OperationId;
use crate::store::{Cached, Db, Direction, Error, Family, Result, RowResult, View, keys};
use std::ops::ControlFlow;

/// The snapshot; empty if it cannot be read, which is read as damage. `None` if nothing was
/// ever heard of the operation.
pub fn snapshot(view: &dyn View, operation_id: OperationId) -> RowResult {
    or_empty(view.get(Family::State, &keys::operation(operation_id)))
}

/// The same from memory alone.
pub fn snapshot_cached(db: &dyn Db, operation_id: OperationId) -> Result<Cached> {
    db.get_cached(Family::State, &keys::operation(operation_id))
}

/// The same of several operations, in their order.
pub fn snapshots<'i>(
    view: &dyn View,
    ids: impl Iterator<Item = OperationId<'i>>,
) -> Result<Vec<Option<Vec<u8>>>> {
    let keys: Vec<_> = ids.map(keys::operation).collect();
    let keys: Vec<&[u8]> = keys.iter().map(|key| &**key).collect();
    view.multi_get(Family::State, &keys)
        .into_iter()
        .map(or_empty)
        .collect()
}

/// The same of the operations with these keys, as they are now.
pub fn current(db: &dyn Db, keys: &[&[u8]]) -> Result<Vec<Option<Vec<u8>>>> {
    db.multi_get(Family::State, keys)
        .into_iter()
        .map(or_empty)
        .collect()
}

/// Whether anything was ever heard of the operation.
pub fn is_known(view: &dyn View, operation_id: OperationId) -> Result<bool> {
    match view.get(Family::State, &keys::operation(operation_id)) {
        // Whatever has a state has a history.
        Err(Error::Corrupt(_)) => {
            let range = keys::of_operation(operation_id);
            let range = &range.start[..]..&range.end[..];
            let mut is_known = false;
            view.scan(Family::History, range, Direction::Forward, &mut |_, _| {
                is_known = true;
                ControlFlow::Break(())
            })?;
            Ok(is_known)
        }
        row => Ok(row?.is_some()),
    }
}

/// What cannot be read is taken for a row without content: a snapshot that is damaged, and that
/// the history makes good.
fn or_empty(row: RowResult) -> RowResult {
    match row {
        Err(Error::Corrupt(_)) => Ok(Some(Vec::new())),
        row => row,
    }
}
