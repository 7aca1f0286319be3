//! What sending reads from the store, and what it writes there: which deliveries are held, and
//! how their attempts went. Everything is read in one view, so the document that is sent is the
//! one that a client would get at that moment.

use super::queue::{Target, WINDOW, WINDOW_ALL, WINDOW_SMALL};
use crate::domain::OperationId;
use crate::feed::documents::DocumentCache;
use crate::projector::StoreWriter;
use crate::query::notifications::{DeliveryState, Failing, entry, was_due_before};
use crate::rows::operation::with_operation;
use crate::rows::state;
use crate::store::{self, Batch, Direction, Error, Family, View, keys};
use crate::wire::document::Bodies;
use crate::wire::notification::{DeliveryKey, Tries, decode_due, encode_tries};
use crate::wire::position::NextOffsets;
use crate::wire::time::TimeStyle;
use bytes::Bytes;
use std::collections::{HashMap, HashSet};
use std::ops::ControlFlow;

#[derive(Debug)]
pub enum NextDelivery {
    /// Nothing to send: delivered, failed, held, or another terminal event has won.
    Nothing,
    Send(Send),
}

#[derive(Debug)]
pub struct Send {
    pub document: Bytes,
    pub target: Target,
    pub failing: Option<Failing>,
}

/// What to do about one delivery now.
pub fn look(
    writer: &StoreWriter,
    operation_id: OperationId,
    key: DeliveryKey,
    ends: &NextOffsets,
    (documents, times): (&DocumentCache, &TimeStyle),
) -> store::Result<NextDelivery> {
    let row = keys::notification(operation_id, key);
    let mut batch = Batch::default();
    let look = store::view(writer.db(), |view| {
        let Some(due) = view.get(Family::Outbox, &row)? else {
            return Ok(NextDelivery::Nothing);
        };
        let Judged::Pending(failing) = judge(view, &row, &due, ends, &mut batch)? else {
            return Ok(NextDelivery::Nothing);
        };
        let Some(snapshot) = state::snapshot(view, operation_id)? else {
            return Ok(NextDelivery::Nothing);
        };
        let target = with_operation(view, operation_id, &snapshot, Bodies::LeftOut, |op| {
            let due = op.standing().due?;
            let is_this = DeliveryKey::of(operation_id, &due.ending) == key;
            is_this.then(|| Target::of(&due.to.address, due.to.port))
        })?;
        let document = documents.of_delivery(view, operation_id, &snapshot, times)?;
        // The row and the document are written together, so the row's terminal event is the one
        // that counts.
        let Some((target, document)) = target.zip(document) else {
            return Err(Error::Corrupt(format!(
                "{operation_id} is not what is due of it"
            )));
        };
        Ok(NextDelivery::Send(Send {
            document,
            target,
            failing,
        }))
    })?;
    writer.write(batch)?;
    Ok(look)
}

/// A delivery that may be attempted, and when.
pub struct ReadyDelivery {
    pub operation_id: String,
    pub key: DeliveryKey,
    pub target: Target,
    /// `None`: now.
    pub next_ms: Option<i64>,
}

/// The deliveries of one operation.
pub fn of_operation(
    writer: &StoreWriter,
    operation_id: OperationId,
    ends: &NextOffsets,
) -> store::Result<Vec<ReadyDelivery>> {
    let range = keys::of_operation(operation_id);
    let mut batch = Batch::default();
    let mut found = Vec::new();
    store::view(writer.db(), |view| {
        let range = &range.start[..]..&range.end[..];
        store::try_scan(
            |visit| view.scan(Family::Outbox, range, Direction::Forward, visit),
            |row, due| {
                let (_, waiting) = waiting(view, row, due, ends, &mut batch)?;
                found.extend(waiting);
                Ok(ControlFlow::Continue(()))
            },
        )
    })?;
    writer.write(batch)?;
    Ok(found)
}

#[derive(Default)]
pub struct All {
    pub pending: u64,
    pub held: u64,
    pub failed: u64,
    /// The first attempt of the delivery that has been failing for longest.
    pub oldest_ms: Option<i64>,
    /// As many as memory has room for, plus one.
    pub waiting: Vec<ReadyDelivery>,
}

/// Rows that are written together during a scan.
const ROWS_AT_ONCE: usize = 1000;

/// Everything that is not delivered. What can be attempted now comes before what has to wait,
/// and there may be many deliveries to the targets in `well`.
pub fn all(
    writer: &StoreWriter,
    ends: &NextOffsets,
    now_ms: i64,
    well: &HashSet<Target>,
) -> store::Result<All> {
    let mut all = All::default();
    let mut later = Vec::new();
    let mut by_target: HashMap<Target, usize> = HashMap::new();
    let mut batch = Batch::default();
    store::view(writer.db(), |view| {
        let (family, forward) = (Family::Outbox, Direction::Forward);
        // What cannot be read is not sent; `Db::damage` reports it.
        store::try_scan(
            |visit| view.scan_past_damage(family, keys::ALL, forward, visit, &mut |_| {}),
            |row, due| {
                let found = waiting(view, row, due, ends, &mut batch);
                let (state, waiting) = match found {
                    Ok(found) => found,
                    Err(Error::Corrupt(_)) => return Ok(ControlFlow::Continue(())),
                    Err(error) => return Err(error),
                };
                match &state {
                    Judged::Pending(failing) => {
                        all.pending += 1;
                        let first = failing.as_ref().map(|failing| failing.first_ms);
                        all.oldest_ms = all.oldest_ms.into_iter().chain(first).min();
                    }
                    Judged::Held => all.held += 1,
                    Judged::Failed => all.failed += 1,
                    Judged::Over => {}
                }
                if let Some(waiting) = waiting {
                    let of_target = by_target.entry(waiting.target.clone()).or_default();
                    let is_now = waiting.next_ms.is_none_or(|next| next <= now_ms);
                    let list = if is_now { &mut all.waiting } else { &mut later };
                    let window = match well.contains(&waiting.target) {
                        true => WINDOW,
                        false => WINDOW_SMALL,
                    };
                    if *of_target <= window && list.len() <= WINDOW_ALL {
                        *of_target += usize::from(is_now);
                        list.push(waiting);
                    }
                }
                if batch.len() >= ROWS_AT_ONCE {
                    writer.write(std::mem::take(&mut batch))?;
                }
                Ok(ControlFlow::Continue(()))
            },
        )
    })?;
    writer.write(batch)?;
    all.waiting.append(&mut later);
    all.waiting.truncate(WINDOW_ALL + 1);
    Ok(all)
}

#[derive(Debug, PartialEq)]
enum Judged {
    Pending(Option<Failing>),
    Held,
    Failed,
    Over,
}

/// The state of a row. Notes in the store what has ended and what is held from now on.
fn judge(
    view: &dyn View,
    row: &[u8],
    due: &[u8],
    ends: &NextOffsets,
    batch: &mut Batch,
) -> store::Result<Judged> {
    let found = entry(view, row, !ends.is_empty())?;
    Ok(match found.state {
        DeliveryState::Delivered => {
            forget(row, batch);
            Judged::Over
        }
        DeliveryState::Failed { .. } => Judged::Failed,
        DeliveryState::Held => Judged::Held,
        DeliveryState::Pending(failing) => {
            let (id, _) = keys::notification_of(row).ok_or_else(unreadable)?;
            let due = decode_due(due).map_err(|_| unreadable())?;
            let is_new = !found.is_judged && !ends.is_empty();
            if is_new && was_due_before(view, id, &due.ending, ends)? {
                batch.put(Family::Tries, row, &encode_tries(&Tries::Held));
                return Ok(Judged::Held);
            }
            Judged::Pending(failing)
        }
    })
}

fn waiting(
    view: &dyn View,
    row: &[u8],
    due: &[u8],
    ends: &NextOffsets,
    batch: &mut Batch,
) -> store::Result<(Judged, Option<ReadyDelivery>)> {
    let judged = judge(view, row, due, ends, batch)?;
    let Judged::Pending(failing) = &judged else {
        return Ok((judged, None));
    };
    let (id, key) = keys::notification_of(row).ok_or_else(unreadable)?;
    let due = decode_due(due).map_err(|_| unreadable())?;
    let waiting = ReadyDelivery {
        operation_id: id.to_string(),
        key,
        target: Target::of(&due.to.address, due.to.port),
        next_ms: failing.as_ref().map(|failing| failing.next_ms),
    };
    Ok((judged, Some(waiting)))
}

/// Records how the attempts went, unless the delivery is no longer due.
pub fn note_failing(
    writer: &StoreWriter,
    operation_id: OperationId,
    key: DeliveryKey,
    failing: &Failing,
) -> store::Result<()> {
    let row = keys::notification(operation_id, key);
    let tries = Tries::Failing {
        first_ms: failing.first_ms,
        attempts: failing.attempts,
        next_ms: failing.next_ms,
        why: failing.why.clone(),
    };
    writer.change(|db, batch| {
        if db.get(Family::Outbox, &row)?.is_some() {
            batch.put(Family::Tries, &row, &encode_tries(&tries));
        }
        Ok(())
    })
}

fn forget(row: &[u8], batch: &mut Batch) {
    batch.delete(Family::Outbox, row);
    batch.delete(Family::Tries, row);
}

fn unreadable() -> Error {
    Error::Corrupt("a notification".into())
}
