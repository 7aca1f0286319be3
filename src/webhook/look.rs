//! What sending reads from the store, and what it writes there: which deliveries are held, and
//! how their attempts went. Everything is read in one view, so the document that is sent is the
//! one that a client would get at that moment.

use super::queue::{Target, WINDOW, WINDOW_ALL, WINDOW_SMALL};
use crate::domain::OperationId;
use crate::feed::documents::DocumentCache;
use crate::projector::StoreWriter;
use crate::rows::operation::with_operation;
use crate::rows::outbox::{self, Delivery, DeliveryState};
use crate::rows::state;
use crate::store::{self, Batch, Error, View};
use crate::wire::document::Bodies;
use crate::wire::notification::{DeliveryKey, Failing};
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
    let mut batch = Batch::default();
    let look = store::view(writer.db(), |view| {
        outbox::with(view, (operation_id, key), |delivery| {
            let DeliveryState::Pending(failing) = delivery.judge(view, ends, &mut batch)? else {
                return Ok(None);
            };
            let Some(snapshot) = state::snapshot(view, operation_id)? else {
                return Ok(None);
            };
            let target = with_operation(view, operation_id, &snapshot, Bodies::LeftOut, |op| {
                let due = op.standing().due?;
                let is_this = DeliveryKey::of(operation_id, &due.ending) == key;
                is_this.then(|| Target::of(&due.to.address, due.to.port))
            })?;
            let document = documents.of_delivery(view, operation_id, &snapshot, times)?;
            // The row and the document are written together, so the row's terminal event is the
            // one that counts.
            let Some((target, document)) = target.zip(document) else {
                return Err(Error::Corrupt(format!(
                    "{operation_id} is not what is due of it"
                )));
            };
            Ok(Some(NextDelivery::Send(Send {
                document,
                target,
                failing,
            })))
        })
    })?;
    writer.write(batch)?;
    Ok(look.unwrap_or(NextDelivery::Nothing))
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
    let mut batch = Batch::default();
    let mut found = Vec::new();
    store::view(writer.db(), |view| {
        outbox::scan(view, Some(operation_id), None, &mut |delivery| {
            let (_, waiting) = waiting(view, &delivery, ends, &mut batch)?;
            found.extend(waiting);
            Ok(ControlFlow::Continue(()))
        })
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
        outbox::scan(view, None, None, &mut |delivery| {
            let (state, waiting) = waiting(view, &delivery, ends, &mut batch)?;
            match &state {
                DeliveryState::Pending(failing) => {
                    all.pending += 1;
                    let first = failing.as_ref().map(|failing| failing.first_ms);
                    all.oldest_ms = all.oldest_ms.into_iter().chain(first).min();
                }
                DeliveryState::Held => all.held += 1,
                DeliveryState::Failed { .. } => all.failed += 1,
                DeliveryState::Delivered => {}
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
        })
    })?;
    writer.write(batch)?;
    all.waiting.append(&mut later);
    all.waiting.truncate(WINDOW_ALL + 1);
    Ok(all)
}

fn waiting(
    view: &dyn View,
    delivery: &Delivery,
    ends: &NextOffsets,
    batch: &mut Batch,
) -> store::Result<(DeliveryState, Option<ReadyDelivery>)> {
    let state = delivery.judge(view, ends, batch)?;
    let DeliveryState::Pending(failing) = &state else {
        return Ok((state, None));
    };
    let to = &delivery.due.to;
    let waiting = ReadyDelivery {
        operation_id: delivery.operation_id.to_string(),
        key: delivery.key,
        target: Target::of(&to.address, to.port),
        next_ms: failing.as_ref().map(|failing| failing.next_ms),
    };
    Ok((state, Some(waiting)))
}
