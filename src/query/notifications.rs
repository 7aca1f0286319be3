//! The list of webhook deliveries.

use super::Page;
use crate::domain::OperationId;
use crate::rows::outbox::{self, Concluded, Delivery, DeliveryState, Of};
use crate::store::{self, Db, Result, View};
use crate::wire::notification::{DeliveryKey, DeliveryOutcome};
use crate::wire::time::write_rfc3339_millis;
use serde_json::{Value, json};
use std::ops::ControlFlow;

/// Selects deliveries by state, of one operation or of all. Due deliveries come before those
/// that were made.
#[derive(Debug, Clone, Default)]
pub struct Wanted {
    pub state: Option<&'static str>,
    pub operation_id: Option<String>,
}

/// Maximum number of rows that are read for one page, whether or not they match.
const READ_MAX: usize = 10_000;
/// Default number of entries on a page.
const LIMIT: usize = 100;

/// Writes a page as JSON. Returns the key after which the next one begins. The page may be
/// short or empty if few rows match. `halted`: why deliveries have halted.
pub fn page(
    db: &dyn Db,
    wanted: &Wanted,
    page: &Page,
    holds: bool,
    halted: Option<String>,
) -> Result<(Vec<u8>, Option<Vec<u8>>)> {
    let mut list = Listing {
        wanted,
        holds,
        limit: page.limit.unwrap_or(LIMIT),
        read: 0,
        shown: Vec::new(),
        last: page.after.clone().unwrap_or_default(),
        next: None,
    };
    store::view(db, |view| {
        let (phase, after) = match page.after.as_deref() {
            None => (DUE, None),
            Some([phase, after @ ..]) => (*phase, Some(after)),
            Some([]) => (DELIVERED, None),
        };
        let of = Of::one_or_all(wanted.operation_id.as_deref().map(OperationId));
        if phase == DUE && wanted.state != Some("delivered") {
            outbox::scan(view, of, after, &mut |delivery| {
                let at = (delivery.operation_id, delivery.key);
                list.add(DUE, at, |list| list.due(view, &delivery))
            })?;
        }
        if list.next.is_none() && matches!(wanted.state, None | Some("delivered")) {
            let after = after.filter(|_| phase == DELIVERED);
            outbox::scan_outcomes(view, of, after, &mut |concluded| {
                let at = (concluded.operation_id, concluded.key);
                list.add(DELIVERED, at, |_| Ok(delivered(concluded)))
            })?;
        }
        Ok(())
    })?;
    let mut body = json!({"notifications": list.shown});
    if let Some(why) = halted {
        body["halted"] = why.into();
    }
    Ok((body.to_string().into_bytes(), list.next))
}

const DUE: u8 = 0;
const DELIVERED: u8 = 1;

struct Listing<'l> {
    wanted: &'l Wanted,
    holds: bool,
    limit: usize,
    read: usize,
    shown: Vec<Value>,
    /// The cursor of the last delivery that was read.
    last: Vec<u8>,
    next: Option<Vec<u8>>,
}

impl Listing<'_> {
    /// Adds what `show` makes of the delivery, unless the page is full.
    fn add(
        &mut self,
        phase: u8,
        (operation_id, key): (OperationId, DeliveryKey),
        show: impl FnOnce(&Self) -> Result<Option<Value>>,
    ) -> Result<ControlFlow<()>> {
        if self.shown.len() == self.limit || self.read == READ_MAX {
            self.next = Some(std::mem::take(&mut self.last));
            return Ok(ControlFlow::Break(()));
        }
        self.read += 1;
        self.last = [&[phase], &outbox::cursor(operation_id, key)[..]].concat();
        let shown = show(self)?;
        self.shown.extend(shown);
        Ok(ControlFlow::Continue(()))
    }

    fn due(&self, view: &dyn View, delivery: &Delivery) -> Result<Option<Value>> {
        let state = delivery.state(view, self.holds)?;
        // These are listed from the other family.
        if state == DeliveryState::Delivered
            || self
                .wanted
                .state
                .is_some_and(|wanted| wanted != state.name())
        {
            return Ok(None);
        }
        let to = &delivery.due.to;
        let of = (delivery.operation_id, delivery.key);
        let mut shown = head(of, state.name(), &to.address, to.port);
        match &state {
            DeliveryState::Pending(Some(failing)) => {
                shown["attempts"] = json!(failing.attempts);
                shown["first_attempt"] = time(failing.first_ms);
                shown["next_attempt"] = time(failing.next_ms);
                shown["last_error"] = json!(failing.why);
            }
            DeliveryState::Failed {
                at_ms,
                attempts,
                why,
            } => {
                shown["attempts"] = json!(attempts);
                shown["failed"] = time(*at_ms);
                shown["last_error"] = json!(why);
            }
            DeliveryState::Pending(None) => shown["attempts"] = json!(0),
            DeliveryState::Held | DeliveryState::Delivered => {}
        }
        Ok(Some(shown))
    }
}

fn delivered(concluded: Concluded) -> Option<Value> {
    let DeliveryOutcome::Delivered {
        at_ms,
        attempts,
        status,
        address,
        port,
    } = concluded.outcome
    else {
        return None;
    };
    let of = (concluded.operation_id, concluded.key);
    let mut shown = head(of, "delivered", &address, port);
    shown["attempts"] = json!(attempts);
    shown["delivered"] = time(at_ms);
    shown["status_code"] = json!(status);
    Some(shown)
}

fn head((id, key): (OperationId, DeliveryKey), state: &str, address: &str, port: u16) -> Value {
    json!({"operation_id": id.0, "key": key.to_string(), "state": state, "address": address, "port": port})
}

fn time(millis: i64) -> Value {
    let mut text = Vec::new();
    write_rfc3339_millis(crate::domain::Timestamp::from_millis(millis), &mut text);
    json!(String::from_utf8_lossy(&text))
}

/// Operation ids and keys of all deliveries in one state.
pub fn each_in_state(
    db: &dyn Db,
    wanted: &Wanted,
    holds: bool,
    each: &mut dyn FnMut(OperationId, DeliveryKey),
) -> Result<()> {
    let of = Of::one_or_all(wanted.operation_id.as_deref().map(OperationId));
    store::view(db, |view| {
        outbox::scan(view, of, None, &mut |delivery| {
            let state = delivery.state(view, holds)?;
            if wanted.state.is_none_or(|wanted| wanted == state.name()) {
                each(delivery.operation_id, delivery.key);
            }
            Ok(ControlFlow::Continue(()))
        })
    })
}
