//! The snapshot of an operation: the row under its key in `state`. And its anomalies, under the
//! same key.

use super::keys;
use crate::domain::{Anomalies, OperationId, Slice};
use crate::store::{
    self, ALL, Cached, Db, Direction, Error, Family, Result, RowResult, View, head, scan_readable,
};
use crate::wire::stored::ANOMALIES;
use std::ops::ControlFlow;

/// The key of an operation's snapshot. Rows of operations are in the order of these keys.
#[derive(Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct SnapshotKey(Vec<u8>);

impl SnapshotKey {
    pub fn of(operation_id: OperationId) -> SnapshotKey {
        SnapshotKey(keys::operation(operation_id))
    }

    pub fn id(&self) -> OperationId<'_> {
        keys::operation_of(&self.0).expect("an operation's id is a text")
    }

    /// The bytes of the id.
    pub fn id_bytes(&self) -> &[u8] {
        &self.0[2..]
    }

    pub fn slice(&self) -> Slice {
        Slice::of_shard(u16::from_be_bytes(head(&self.0)))
    }

    /// The first bytes as a number, which usually decides the order.
    pub fn head(&self) -> u64 {
        u64::from_be_bytes(head(&self.0))
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.0
    }
}

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
pub fn current(db: &dyn Db, keys: &[&SnapshotKey]) -> Result<Vec<Option<Vec<u8>>>> {
    let keys: Vec<&[u8]> = keys.iter().map(|key| key.bytes()).collect();
    db.multi_get(Family::State, &keys)
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

/// Shows the anomalies of each operation that has any. Those that cannot be read are left out.
pub fn each_anomalies(db: &dyn Db, visit: &mut dyn FnMut(Anomalies)) -> Result<()> {
    store::view(db, |view| {
        scan_readable(view, Family::Anomaly, ALL, |_, row| {
            if let [ANOMALIES, flags] = *row {
                visit(Anomalies(flags));
            }
            Ok(ControlFlow::Continue(()))
        })
    })
}

/// A row that cannot be read is treated as one without content, so that a damaged snapshot is
/// replaced from the history.
fn or_empty(row: RowResult) -> RowResult {
    match row {
        Err(Error::Corrupt(_)) => Ok(Some(Vec::new())),
        row => row,
    }
}
