//! Reads from the store which deliveries are due, and whether they are held. All of a delivery is
//! read in one view, so the document that is sent is the one that a client would get at that
//! moment.

use super::Counts;
use super::queue::{Target, WINDOW, WINDOW_ALL, WINDOW_SMALL};
use crate::domain::{OperationId, Slices};
use crate::feed::documents::DocumentCache;
use crate::projector::StoreWriter;
use crate::rows::outbox::{self, Delivery, DeliveryState, Of};
use crate::rows::state;
use crate::store::{self, Batch, Error};
use crate::wire::notification::{DeliveryKey, Failing};
use crate::wire::position::NextOffsets;
use crate::wire::time::TimeStyle;
use bytes::Bytes;
use std::collections::{HashMap, HashSet};
use std::ops::ControlFlow;

#[derive(Debug)]
pub struct Send {
    pub document: Bytes,
    pub target: Target,
    pub failing: Option<Failing>,
}

/// The document to send now. `None` if the delivery was made, has failed permanently or is held,
/// or if another terminal event has won.
pub fn next(
    writer: &StoreWriter,
    operation_id: OperationId,
    key: DeliveryKey,
    ends: &NextOffsets,
    (documents, times): (&DocumentCache, &TimeStyle),
) -> store::Result<Option<Send>> {
    let mut batch = Batch::default();
    let send = store::view(writer.db(), |view| {
        outbox::with(view, (operation_id, key), |delivery| {
            let DeliveryState::Pending(failing) = delivery.judge(view, ends, &mut batch)? else {
                return Ok(None);
            };
            let Some(snapshot) = state::snapshot(view, operation_id)? else {
                return Ok(None);
            };
            // The row and the document are written together, so the row's terminal event is the
            // one that counts.
            let document = documents.of_delivery(view, operation_id, &snapshot, times)?;
            let no_document =
                || Error::Corrupt(format!("{operation_id} is due without a document"));
            Ok(Some(Send {
                document: document.ok_or_else(no_document)?,
                target: target(&delivery),
                failing,
            }))
        })
    })?;
    writer.write(&batch)?;
    Ok(send)
}

fn target(delivery: &Delivery) -> Target {
    Target::of(&delivery.due.to.address, delivery.due.to.port)
}

/// A delivery that may be attempted, and when.
pub struct ReadyDelivery {
    pub operation_id: String,
    pub key: DeliveryKey,
    pub target: Target,
    /// `None`: now.
    pub next_ms: Option<i64>,
}

impl ReadyDelivery {
    fn of(delivery: &Delivery, failing: Option<&Failing>) -> ReadyDelivery {
        ReadyDelivery {
            operation_id: delivery.operation_id.to_string(),
            key: delivery.key,
            target: target(delivery),
            next_ms: failing.map(|failing| failing.next_ms),
        }
    }
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
        outbox::scan(view, Of::Operation(operation_id), None, &mut |delivery| {
            if let DeliveryState::Pending(failing) = delivery.judge(view, ends, &mut batch)? {
                found.push(ReadyDelivery::of(&delivery, failing.as_ref()));
            }
            Ok(ControlFlow::Continue(()))
        })
    })?;
    writer.write(&batch)?;
    Ok(found)
}

#[derive(Default)]
pub struct All {
    pub counts: Counts,
    /// The first attempt of the delivery that has been failing for longest.
    pub oldest_ms: Option<i64>,
    /// As many as memory has room for, plus one.
    pub ready: Vec<ReadyDelivery>,
}

/// Rows that are written together during a scan.
const ROWS_AT_ONCE: usize = 1000;

/// All deliveries that were not made. Those that can be attempted now come before those that
/// must wait, and there may be many to the targets in `well`.
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
        outbox::scan(view, Of::Slices(Slices::ALL), None, &mut |delivery| {
            match delivery.judge(view, ends, &mut batch)? {
                DeliveryState::Held => all.counts.held += 1,
                DeliveryState::Failed { .. } => all.counts.failed += 1,
                DeliveryState::Delivered => {}
                DeliveryState::Pending(failing) => {
                    all.counts.pending += 1;
                    let first = failing.as_ref().map(|failing| failing.first_ms);
                    all.oldest_ms = all.oldest_ms.into_iter().chain(first).min();
                    let ready = ReadyDelivery::of(&delivery, failing.as_ref());
                    let of_target = by_target.entry(ready.target.clone()).or_default();
                    let is_now = ready.next_ms.is_none_or(|next| next <= now_ms);
                    let list = if is_now { &mut all.ready } else { &mut later };
                    let window = match well.contains(&ready.target) {
                        true => WINDOW,
                        false => WINDOW_SMALL,
                    };
                    if *of_target <= window && list.len() <= WINDOW_ALL {
                        *of_target += usize::from(is_now);
                        list.push(ready);
                    }
                }
            }
            if batch.len() >= ROWS_AT_ONCE {
                writer.write(&batch)?;
                batch.clear();
            }
            Ok(ControlFlow::Continue(()))
        })
    })?;
    writer.write(&batch)?;
    all.ready.append(&mut later);
    all.ready.truncate(WINDOW_ALL + 1);
    Ok(all)
}
