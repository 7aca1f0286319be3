//! Webhook deliveries as they are stored: the events decide which are due, the control log has
//! their outcomes. The results of the attempts are in a row of their own, which neither decides.

use super::{keys, records};
use crate::domain::effects::Due;
use crate::domain::{Kind, OperationId, OrderKey, Slices};
use crate::store::{self, ALL, Batch, Db, Direction, Error, Family, Result, View, scan_readable};
use crate::wire::cloudevent;
use crate::wire::notification::{
    DeliveryKey, DeliveryOutcome, Failing, Tries, decode_due, decode_outcome, decode_tries,
    encode_due, encode_outcome, encode_tries,
};
use crate::wire::position::{LogId, NextOffsets};
use crate::wire::stored::{self, NOTIFICATIONS_BEGIN};
use std::ops::{ControlFlow, Range};

/// A delivery that is due.
pub struct Delivery<'r> {
    row: &'r [u8],
    pub operation_id: OperationId<'r>,
    pub key: DeliveryKey,
    pub due: Due<'r>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DeliveryState {
    Pending(Option<Failing>),
    /// Waits until an operator releases it: see [`Tries::Held`].
    Held,
    /// Failed permanently, until an operator retries it.
    Failed {
        at_ms: i64,
        attempts: u32,
        why: String,
    },
    Delivered,
}

impl DeliveryState {
    pub const NAMES: [&'static str; 4] = ["pending", "held", "failed", "delivered"];

    pub fn name(&self) -> &'static str {
        match self {
            DeliveryState::Pending(_) => "pending",
            DeliveryState::Held => "held",
            DeliveryState::Failed { .. } => "failed",
            DeliveryState::Delivered => "delivered",
        }
    }

    /// `holds`: whether deliveries may have to be held.
    fn of(outcome: Option<DeliveryOutcome>, tries: Option<Tries>, holds: bool) -> DeliveryState {
        let again_ms = match outcome {
            Some(DeliveryOutcome::Delivered { .. }) => return DeliveryState::Delivered,
            Some(DeliveryOutcome::Failed {
                at_ms,
                attempts,
                why,
            }) => {
                return DeliveryState::Failed {
                    at_ms,
                    attempts,
                    why,
                };
            }
            Some(DeliveryOutcome::Again { at_ms }) => Some(at_ms),
            None => None,
        };
        match tries {
            Some(Tries::Held) if again_ms.is_none() && holds => DeliveryState::Held,
            // Attempts before an operator's retry do not count.
            Some(Tries::Failing(failing))
                if again_ms.is_none_or(|again| again <= failing.first_ms) =>
            {
                DeliveryState::Pending(Some(failing))
            }
            Some(Tries::Held | Tries::Failing(_)) | None => DeliveryState::Pending(None),
        }
    }
}

impl<'r> Delivery<'r> {
    fn of(row: &'r [u8], due: &'r [u8]) -> Result<Delivery<'r>> {
        let unreadable = || damaged("a webhook delivery");
        let (operation_id, key) = keys::notification_of(row).ok_or_else(unreadable)?;
        Ok(Delivery {
            row,
            operation_id,
            key,
            due: decode_due(due).map_err(|_| unreadable())?,
        })
    }

    /// `holds`: whether deliveries may have to be held.
    pub fn state(&self, view: &dyn View, holds: bool) -> Result<DeliveryState> {
        let (outcome, tries) = self.progress(view)?;
        Ok(DeliveryState::of(outcome, tries, holds))
    }

    /// The same for deliveries that are held if they were due before `ends`. If this one is held,
    /// or no longer due, adds that to the batch.
    pub fn judge(
        &self,
        view: &dyn View,
        ends: &NextOffsets,
        batch: &mut Batch,
    ) -> Result<DeliveryState> {
        let (outcome, tries) = self.progress(view)?;
        let is_new = outcome.is_none() && tries.is_none() && !ends.is_empty();
        let state = DeliveryState::of(outcome, tries, !ends.is_empty());
        match &state {
            DeliveryState::Delivered => remove(self.row, batch),
            DeliveryState::Pending(_)
                if is_new && was_due_before(view, self.operation_id, &self.due.ending, ends)? =>
            {
                batch.put(Family::Tries, self.row, &encode_tries(&Tries::Held));
                return Ok(DeliveryState::Held);
            }
            DeliveryState::Pending(_) | DeliveryState::Held | DeliveryState::Failed { .. } => {}
        }
        Ok(state)
    }

    fn progress(&self, view: &dyn View) -> Result<(Option<DeliveryOutcome>, Option<Tries>)> {
        let damaged = |_| damaged("the outcome of a webhook delivery");
        let outcome = view.get(Family::Outcome, self.row)?;
        let outcome = outcome.map(|row| decode_outcome(&row)).transpose();
        let tries = view.get(Family::Tries, self.row)?;
        let tries = tries.map(|row| decode_tries(&row)).transpose();
        Ok((outcome.map_err(damaged)?, tries.map_err(damaged)?))
    }
}

/// Whether this terminal event was due before these offsets: both it and the creation are
/// before them.
fn was_due_before(
    view: &dyn View,
    operation_id: OperationId,
    ending: &OrderKey,
    ends: &NextOffsets,
) -> Result<bool> {
    let (mut created, mut ended) = (false, false);
    records::scan(view, operation_id, None, &mut |_, at, record| {
        if ends.has_passed(at) {
            let event = cloudevent::decode(&record)
                .map_err(|_| damaged(&format!("the history of {operation_id}")))?;
            match event.kind {
                Kind::Created { .. } => created = true,
                Kind::Ended(_) => ended |= event.key == *ending,
                Kind::Started
                | Kind::Progressed { .. }
                | Kind::RequestSent { .. }
                | Kind::ResponseReceived { .. }
                | Kind::RollbackAttempted { .. }
                | Kind::RollbackResponseReceived { .. } => {}
            }
        }
        Ok(match created && ended {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        })
    })?;
    Ok(created && ended)
}

/// A due delivery is written and removed together with the changes of its operation.
pub(super) fn put_due(operation_id: OperationId, due: &Due, batch: &mut Batch) {
    let row = keys::notification(operation_id, DeliveryKey::of(operation_id, &due.ending));
    batch.put(Family::Outbox, &row, &encode_due(due));
}

pub(super) fn remove_due(operation_id: OperationId, due: &Due, batch: &mut Batch) {
    let key = DeliveryKey::of(operation_id, &due.ending);
    remove(&keys::notification(operation_id, key), batch);
}

fn remove(row: &[u8], batch: &mut Batch) {
    batch.delete(Family::Outbox, row);
    batch.delete(Family::Tries, row);
}

/// Writes the results of the attempts, unless the delivery is no longer due.
pub fn put_failing(
    db: &dyn Db,
    (operation_id, key): (OperationId, DeliveryKey),
    failing: Failing,
    batch: &mut Batch,
) -> Result<()> {
    let row = keys::notification(operation_id, key);
    if db.get(Family::Outbox, &row)?.is_some() {
        batch.put(Family::Tries, &row, &encode_tries(&Tries::Failing(failing)));
    }
    Ok(())
}

/// Runs `read` on the delivery with this key; `None` if it is not due.
pub fn with<T>(
    view: &dyn View,
    (operation_id, key): (OperationId, DeliveryKey),
    read: impl FnOnce(Delivery) -> Result<Option<T>>,
) -> Result<Option<T>> {
    let row = keys::notification(operation_id, key);
    match view.get(Family::Outbox, &row)? {
        Some(due) => read(Delivery::of(&row, &due)?),
        None => Ok(None),
    }
}

/// Whose deliveries are read.
#[derive(Debug, Clone, Copy)]
pub enum Of<'i> {
    Operation(OperationId<'i>),
    Slices(Slices),
}

impl<'i> Of<'i> {
    /// This operation, or all.
    pub fn one_or_all(operation_id: Option<OperationId<'i>>) -> Of<'i> {
        operation_id.map_or(Of::Slices(Slices::ALL), Of::Operation)
    }

    fn keys(self) -> Range<Vec<u8>> {
        match self {
            Of::Operation(operation_id) => keys::of_operation(operation_id),
            Of::Slices(slices) => keys::of_slices(slices),
        }
    }
}

/// Shows the deliveries that are due, after a cursor that [`cursor`] returned. Unreadable ones
/// are left out; `Db::damage` reports them.
pub fn scan(
    view: &dyn View,
    of: Of,
    after: Option<&[u8]>,
    visit: &mut dyn FnMut(Delivery) -> Result<ControlFlow<()>>,
) -> Result<()> {
    scan_family(view, Family::Outbox, of, after, |row, due| {
        visit(Delivery::of(row, due)?)
    })
}

/// A delivery that the control log has an outcome of.
pub struct Concluded<'r> {
    pub operation_id: OperationId<'r>,
    pub key: DeliveryKey,
    pub outcome: DeliveryOutcome,
}

/// The same for deliveries with an outcome in the control log.
pub fn scan_outcomes(
    view: &dyn View,
    of: Of,
    after: Option<&[u8]>,
    visit: &mut dyn FnMut(Concluded) -> Result<ControlFlow<()>>,
) -> Result<()> {
    scan_family(view, Family::Outcome, of, after, |row, outcome| {
        let unreadable = || damaged("the outcome of a webhook delivery");
        let (operation_id, key) = keys::notification_of(row).ok_or_else(unreadable)?;
        visit(Concluded {
            operation_id,
            key,
            outcome: decode_outcome(outcome).map_err(|_| unreadable())?,
        })
    })
}

fn scan_family(
    view: &dyn View,
    family: Family,
    of: Of,
    after: Option<&[u8]>,
    mut visit: impl FnMut(&[u8], &[u8]) -> Result<ControlFlow<()>>,
) -> Result<()> {
    let mut range = of.keys();
    if let Some(after) = after {
        range.start = [after, &[0]].concat().max(range.start);
    }
    let range = &range.start[..]..&range.end[..];
    scan_readable(view, family, range, |key, row| match visit(key, row) {
        Err(Error::Corrupt(_)) => Ok(ControlFlow::Continue(())),
        other => other,
    })
}

/// Where a page ends that ends with this delivery.
pub fn cursor(operation_id: OperationId, key: DeliveryKey) -> Vec<u8> {
    keys::notification(operation_id, key)
}

pub fn is_any_due(db: &dyn Db) -> Result<bool> {
    let mut any = false;
    store::view(db, |view| {
        view.scan(Family::Outbox, ALL, Direction::Forward, &mut |_, _| {
            any = true;
            ControlFlow::Break(())
        })
    })?;
    Ok(any)
}

/// The offsets of a log before which nothing is sent; `None` if the control log does not have that
/// log.
pub fn begun(db: &dyn Db, log: LogId) -> Result<Option<NextOffsets>> {
    let row = db.get(Family::Meta, &begun_key(log))?;
    row.map(|row| {
        let body = stored::body(NOTIFICATIONS_BEGIN, &row).ok();
        let ends = body.and_then(|body| postcard::from_bytes(body).ok());
        ends.ok_or_else(|| damaged("where webhook deliveries begin"))
    })
    .transpose()
}

pub fn put_begun(log: LogId, ends: &NextOffsets, batch: &mut Batch) {
    let row = postcard::to_extend(ends, vec![NOTIFICATIONS_BEGIN]);
    let row = row.expect("memory takes whatever postcard writes");
    batch.put(Family::Meta, &begun_key(log), &row);
}

fn begun_key(log: LogId) -> Vec<u8> {
    [b"control/begun/", &log.0[..]].concat()
}

/// The outcome of a delivery, by the control log.
pub fn outcome(
    db: &dyn Db,
    operation_id: OperationId,
    key: DeliveryKey,
) -> Result<Option<DeliveryOutcome>> {
    let row = db.get(Family::Outcome, &keys::notification(operation_id, key))?;
    let unreadable = |_| damaged("the outcome of a webhook delivery");
    row.map(|row| decode_outcome(&row).map_err(unreadable))
        .transpose()
}

/// Writes an outcome. A delivery that was made is no longer due.
pub fn put_outcome(
    operation_id: OperationId,
    key: DeliveryKey,
    outcome: &DeliveryOutcome,
    batch: &mut Batch,
) {
    let row = keys::notification(operation_id, key);
    if matches!(outcome, DeliveryOutcome::Delivered { .. }) {
        remove(&row, batch);
    }
    batch.put(Family::Outcome, &row, &encode_outcome(outcome));
}

fn damaged(what: &str) -> Error {
    Error::Corrupt(format!("{what} of the store cannot be read"))
}
