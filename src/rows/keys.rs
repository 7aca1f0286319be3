//! The keys of the ledger's rows, which ARCHITECTURE.md lists. Only `rows` names them.
//!
//! Numbers are big-endian, so that bytes sort as values do. Texts inside a key
//! end with a NUL (a NUL in the text is written as NUL 0xFF). An operation id has no NUL.
//!
//! The lists' keys do not start with the shard: a list is one range over all of
//! them, and a shard's entries follow from its states (docs/decisions).
//!
//! The history is by record. Records of the same event lie side by side, the lowest position
//! first, so a repeat costs no read when written.

use crate::domain::{LaneId, OperationId, OrderKey, SHARDS, Slice, Slices, Status, Timestamp};
use crate::wire::change::ChangeNumber;
use crate::wire::notification::DeliveryKey;
use crate::wire::position::Position;
use std::ops::Range;

/// `state` and `anomaly`.
pub fn operation(operation_id: OperationId) -> Vec<u8> {
    let mut key = Vec::with_capacity(operation_id.len() + 3);
    key.extend_from_slice(&operation_id.shard().to_be_bytes());
    key.extend_from_slice(operation_id.as_bytes());
    key
}

/// The slice of a key that begins with a shard.
pub fn slice_of(key: &[u8]) -> Option<Slice> {
    let shard = u16::from_be_bytes(*key.first_chunk()?);
    (shard < SHARDS).then(|| Slice::of_shard(shard))
}

/// All keys of these slices, in the families whose keys begin with the shard.
pub fn of_slices(slices: Slices) -> Range<Vec<u8>> {
    let shards = slices.shards();
    shards.start.to_be_bytes().to_vec()..shards.end.to_be_bytes().to_vec()
}

/// The operation id in a key that `operation` returned.
pub fn operation_of(key: &[u8]) -> Option<OperationId<'_>> {
    std::str::from_utf8(key.get(2..)?).ok().map(OperationId)
}

/// All rows of `lane` or `history` of one operation.
pub fn of_operation(operation_id: OperationId) -> Range<Vec<u8>> {
    let mut start = operation(operation_id);
    let mut end = start.clone();
    start.push(0);
    end.push(1);
    start..end
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum LaneKind {
    Cluster = 1,
    Rollback = 2,
}

/// `operation` is the prefix of all rows of the operation: the start of `of_operation`.
pub fn lane(operation: &[u8], kind: LaneKind, id: &LaneId) -> Vec<u8> {
    let texts = id.cluster_id.len() + id.request_id.len();
    let mut key = Vec::with_capacity(operation.len() + texts + 3);
    key.extend_from_slice(operation);
    key.push(kind as u8);
    text(&id.cluster_id, &mut key);
    text(&id.request_id, &mut key);
    key
}

/// Which lane a key of `lane` names, given the operation's prefix.
pub fn lane_of(key: &[u8], operation_id: OperationId) -> Option<(LaneKind, LaneId<'static>)> {
    let rest = key.get(operation_id.len() + 3..)?;
    let (kind, rest) = rest.split_first()?;
    let kind = match kind {
        1 => LaneKind::Cluster,
        2 => LaneKind::Rollback,
        _ => return None,
    };
    let (cluster_id, rest) = take_text(rest)?;
    let (request_id, rest) = take_text(rest)?;
    let id = LaneId {
        cluster_id: cluster_id.into(),
        request_id: request_id.into(),
    };
    rest.is_empty().then_some((kind, id))
}

pub fn history(operation_id: OperationId, key: &OrderKey, at: Position) -> Vec<u8> {
    let mut row = event(operation_id, key);
    row.extend_from_slice(&at.to_key());
    row
}

/// All rows of `history` that are named by a record of this event.
pub fn history_of_event(operation_id: OperationId, key: &OrderKey) -> Range<Vec<u8>> {
    let start = event(operation_id, key);
    let end = after_event(&start);
    start..end
}

/// After all rows of `history` whose keys are this and a position.
pub fn after_event(event: &[u8]) -> Vec<u8> {
    [event, &[0xFF; 13]].concat()
}

/// The prefix of the keys of an event's records in `history`.
fn event(operation_id: OperationId, key: &OrderKey) -> Vec<u8> {
    let capacity = operation_id.len() + key.source.len() + key.id.len() + 32;
    let mut row = Vec::with_capacity(capacity);
    row.extend_from_slice(&operation_id.shard().to_be_bytes());
    row.extend_from_slice(operation_id.as_bytes());
    row.push(0);
    time(key.time, &mut row);
    text(&key.source, &mut row);
    text(&key.id, &mut row);
    row
}

/// The operation of a history key.
pub fn operation_of_history(key: &[u8]) -> Option<OperationId<'_>> {
    let end = key.get(2..)?.iter().position(|byte| *byte == 0)?;
    operation_of(&key[..2 + end])
}

/// Splits a history key: the part that rows of the same order key share, and the position.
pub fn split_history(key: &[u8]) -> Option<(&[u8], Position)> {
    let at = key.len().checked_sub(12)?;
    Some((&key[..at], Position::of_key(&key[at..])?))
}

pub fn by_time(occurred: Timestamp, operation_id: OperationId) -> Vec<u8> {
    let mut key = Vec::with_capacity(12 + operation_id.len());
    time(occurred, &mut key);
    key.extend_from_slice(operation_id.as_bytes());
    key
}

pub fn operation_of_by_time(key: &[u8]) -> Option<OperationId<'_>> {
    std::str::from_utf8(key.get(12..)?).ok().map(OperationId)
}

pub fn by_status(status: Status, occurred: Timestamp, operation_id: OperationId) -> Vec<u8> {
    let status = match status {
        Status::Unexecuted => 1,
        Status::Executing => 2,
        Status::Completed => 3,
        Status::Failed => 4,
        Status::Canceled => 5,
    };
    let mut key = Vec::with_capacity(13 + operation_id.len());
    key.push(status);
    time(occurred, &mut key);
    key.extend_from_slice(operation_id.as_bytes());
    key
}

/// The first byte of all keys of `by_status` with this status.
pub fn of_status(status: Status) -> u8 {
    by_status(status, Timestamp::MIN, OperationId(""))[0]
}

/// Below all keys of `by_time` at this time or later.
pub fn from_time(occurred: Timestamp) -> Vec<u8> {
    by_time(occurred, OperationId(""))
}

/// The time in a key of `by_time`.
pub fn time_of_by_time(key: &[u8]) -> Option<Timestamp> {
    let (secs, rest) = key.split_first_chunk::<8>()?;
    let (nanos, _) = rest.split_first_chunk::<4>()?;
    Some(Timestamp {
        secs: i64::from_be_bytes(*secs) ^ i64::MIN,
        nanos: u32::from_be_bytes(*nanos),
    })
}

/// Eight bytes; fewer changes than 2^56 will ever be, so none begins with 0xFF.
pub fn change(number: ChangeNumber) -> [u8; 8] {
    number.0.to_be_bytes()
}

pub fn change_of(key: &[u8]) -> Option<ChangeNumber> {
    Some(ChangeNumber(u64::from_be_bytes(key.try_into().ok()?)))
}

/// `outbox`, `outcome` and `tries`.
pub fn notification(operation_id: OperationId, key: DeliveryKey) -> Vec<u8> {
    let mut row = of_operation(operation_id).start;
    row.extend_from_slice(&key.0);
    row
}

/// The operation id and the delivery key in a key that `notification` returned.
pub fn notification_of(row: &[u8]) -> Option<(OperationId<'_>, DeliveryKey)> {
    let at = row.len().checked_sub(17)?;
    let (operation, rest) = row.split_at(at);
    let (nul, key) = rest.split_first()?;
    let key = DeliveryKey(key.try_into().ok()?);
    (*nul == 0).then_some((operation_of(operation)?, key))
}

/// Twelve bytes that sort by time, the years before 1970 included.
fn time(time: Timestamp, key: &mut Vec<u8>) {
    key.extend_from_slice(&(time.secs ^ i64::MIN).to_be_bytes());
    key.extend_from_slice(&time.nanos.to_be_bytes());
}

fn text(text: &str, key: &mut Vec<u8>) {
    for part in text.as_bytes().split_inclusive(|b| *b == 0) {
        key.extend_from_slice(part);
        if part.ends_with(&[0]) {
            key.push(0xFF);
        }
    }
    key.push(0);
}

fn take_text(key: &[u8]) -> Option<(String, &[u8])> {
    let mut text = Vec::new();
    let mut at = 0;
    loop {
        match (*key.get(at)?, key.get(at + 1)) {
            (0, Some(0xFF)) => {
                text.push(0);
                at += 2;
            }
            (0, _) => return Some((String::from_utf8(text).ok()?, &key[at + 1..])),
            (byte, _) => {
                text.push(byte);
                at += 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn key(secs: i64, nanos: u32, source: &str, id: &str) -> OrderKey<'static> {
        OrderKey {
            time: Timestamp { secs, nanos },
            source: source.to_owned().into(),
            id: id.to_owned().into(),
        }
    }

    proptest! {
        #[test]
        fn history_rows_sort_by_order_key_then_position(
            a in (-9i64..9, 0u32..3, "[\\x00a/]{0,3}", "[\\x00b]{0,3}", 0u32..3, 0u64..300),
            b in (-9i64..9, 0u32..3, "[\\x00a/]{0,3}", "[\\x00b]{0,3}", 0u32..3, 0u64..300),
        ) {
            let row = |x: &(i64, u32, String, String, u32, u64)| {
                let at = Position::from((x.4, x.5));
                let key = key(x.0, x.1, &x.2, &x.3);
                let row = history(OperationId("op"), &key, at);
                (row, (key, at))
            };
            let ((row_a, a), (row_b, b)) = (row(&a), row(&b));
            prop_assert_eq!(row_a.cmp(&row_b), a.cmp(&b));
            prop_assert_eq!(split_history(&row_a).unwrap().1, a.1);
        }

        #[test]
        fn lanes_are_read_as_written(cluster in ".{0,4}", request in "[\\x00\\x01x]{0,4}") {
            let id = LaneId { cluster_id: cluster.into(), request_id: request.into() };
            let row = lane(&of_operation(OperationId("op-1")).start, LaneKind::Rollback, &id);
            prop_assert_eq!(lane_of(&row, OperationId("op-1")), Some((LaneKind::Rollback, id)));
        }
    }

    #[test]
    fn deliveries_are_read_as_written() {
        for key in [DeliveryKey([0; 16]), DeliveryKey([0xFF; 16])] {
            let row = notification(OperationId("op-1"), key);
            assert_eq!(notification_of(&row), Some((OperationId("op-1"), key)));
            assert!(row < of_operation(OperationId("op-1")).end);
        }
        // An operation and no more.
        assert_eq!(
            notification_of(&operation(OperationId("an-operation-with-a-long-id"))),
            None
        );
        assert_eq!(notification_of(&operation(OperationId("op"))), None);
    }

    #[test]
    fn one_operation_is_no_prefix_of_another() {
        let (a, ab) = (
            of_operation(OperationId("a")),
            lane(
                &of_operation(OperationId("ab")).start,
                LaneKind::Cluster,
                &LaneId {
                    cluster_id: "1".into(),
                    request_id: "1".into(),
                },
            ),
        );
        assert!(!(a.start..a.end).contains(&ab));
    }
}
