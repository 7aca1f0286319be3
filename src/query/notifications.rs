//! Webhook deliveries: the state of each, and their list. What is due follows from the event
//! log, the outcome from the control log. A row of its own has what neither knows: how the
//! attempts went.

use super::Page;
use crate::domain::{Kind, OperationId, OrderKey};
use crate::rows::records;
use crate::store::{self, Db, Direction, Error, Family, Result, View, keys};
use crate::wire::cloudevent;
use crate::wire::notification::{
    DeliveryKey, DeliveryOutcome, Tries, decode_due, decode_outcome, decode_tries,
};
use crate::wire::position::NextOffsets;
use crate::wire::time::write_rfc3339_millis;
use serde_json::{Value, json};
use std::ops::ControlFlow;

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

/// Failed attempts so far.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failing {
    pub first_ms: i64,
    pub attempts: u32,
    pub next_ms: i64,
    pub why: String,
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
            Some(Tries::Failing {
                first_ms,
                attempts,
                next_ms,
                why,
            }) if again_ms.is_none_or(|again| again <= first_ms) => {
                DeliveryState::Pending(Some(Failing {
                    first_ms,
                    attempts,
                    next_ms,
                    why,
                }))
            }
            Some(Tries::Held | Tries::Failing { .. }) | None => DeliveryState::Pending(None),
        }
    }
}

/// A delivery that is due, with its state.
pub struct DueRow {
    pub state: DeliveryState,
    /// It was released or retried, or examined before.
    pub is_judged: bool,
}

pub fn entry(view: &dyn View, row: &[u8], holds: bool) -> Result<DueRow> {
    let outcome = view.get(Family::Outcome, row)?;
    let outcome = outcome.map(|row| decode_outcome(&row)).transpose();
    let tries = view.get(Family::Tries, row)?;
    let tries = tries.map(|row| decode_tries(&row)).transpose();
    let damaged = |_| Error::Corrupt("what became of a notification".into());
    let (outcome, tries) = (outcome.map_err(damaged)?, tries.map_err(damaged)?);
    Ok(DueRow {
        is_judged: outcome.is_some() || tries.is_some(),
        state: DeliveryState::of(outcome, tries, holds),
    })
}

/// Whether this terminal event was due before these offsets: both it and the creation are
/// before them.
pub fn was_due_before(
    view: &dyn View,
    operation_id: OperationId,
    ending: &OrderKey,
    ends: &NextOffsets,
) -> Result<bool> {
    let (mut created, mut ended) = (false, false);
    records::scan(view, operation_id, &mut |key, record| {
        let (_, at) = keys::split_history(key).ok_or_else(|| damaged(operation_id))?;
        if ends.has_passed(at) {
            let event = cloudevent::decode(&record).map_err(|_| damaged(operation_id))?;
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

fn damaged(operation_id: OperationId) -> Error {
    Error::Corrupt(format!("the history of {operation_id}"))
}

/// Whether a delivery is due.
pub fn is_any_due(db: &dyn Db) -> Result<bool> {
    store::view(db, |view| {
        let mut any = false;
        view.scan(
            Family::Outbox,
            keys::ALL,
            Direction::Forward,
            &mut |_, _| {
                any = true;
                ControlFlow::Break(())
            },
        )?;
        Ok(any)
    })
}

/// Selects deliveries by state, of one operation or of all. Due deliveries come before those
/// that were made.
#[derive(Debug, Clone, Default)]
pub struct Wanted {
    pub state: Option<&'static str>,
    pub operation_id: Option<String>,
}

/// Maximum number of rows that are read for one page, whether or not they match.
const LOOKED_AT_MAX: usize = 10_000;
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
        looked_at: 0,
        shown: Vec::new(),
        next: None,
    };
    store::view(db, |view| {
        let (phase, after) = match page.after.as_deref() {
            None => (DUE, None),
            Some([phase, after @ ..]) => (*phase, Some(after)),
            Some([]) => (DELIVERED, None),
        };
        if phase == DUE && wanted.state != Some("delivered") {
            list.scan(view, Family::Outbox, DUE, after)?;
        }
        if list.next.is_none() && matches!(wanted.state, None | Some("delivered")) {
            let after = after.filter(|_| phase == DELIVERED);
            list.scan(view, Family::Outcome, DELIVERED, after)?;
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
    looked_at: usize,
    shown: Vec<Value>,
    next: Option<Vec<u8>>,
}

impl Listing<'_> {
    fn scan(
        &mut self,
        view: &dyn View,
        family: Family,
        phase: u8,
        after: Option<&[u8]>,
    ) -> Result<()> {
        let mut range = match &self.wanted.operation_id {
            Some(id) => keys::of_operation(OperationId(id)),
            None => keys::ALL.start.to_vec()..keys::ALL.end.to_vec(),
        };
        if let Some(after) = after {
            range.start = [after, &[0]].concat().max(range.start);
        }
        let (range, forward) = (&range.start[..]..&range.end[..], Direction::Forward);
        let mut last = after.unwrap_or_default().to_vec();
        // Unreadable rows are left out; `Db::damage` reports them.
        store::try_scan(
            |visit| view.scan_past_damage(family, range, forward, visit, &mut |_| {}),
            |key, row| {
                if self.shown.len() == self.limit || self.looked_at == LOOKED_AT_MAX {
                    self.next = Some([&[phase], &last[..]].concat());
                    return Ok(ControlFlow::Break(()));
                }
                self.looked_at += 1;
                last.clear();
                last.extend_from_slice(key);
                let shown = match family {
                    Family::Outcome => delivered(key, row),
                    _ => self.due(view, key, row),
                };
                match shown {
                    Ok(entry) => self.shown.extend(entry),
                    Err(Error::Corrupt(_)) => {}
                    Err(error) => return Err(error),
                }
                Ok(ControlFlow::Continue(()))
            },
        )
    }

    fn due(&self, view: &dyn View, key: &[u8], row: &[u8]) -> Result<Option<Value>> {
        let unreadable = || Error::Corrupt("a notification".into());
        let (id, own) = keys::notification_of(key).ok_or_else(unreadable)?;
        let due = decode_due(row).map_err(|_| unreadable())?;
        let state = entry(view, key, self.holds)?.state;
        // These are listed from the other family.
        if state == DeliveryState::Delivered
            || self
                .wanted
                .state
                .is_some_and(|wanted| wanted != state.name())
        {
            return Ok(None);
        }
        let mut shown = head(id, own, state.name(), &due.to.address, due.to.port);
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

fn delivered(key: &[u8], row: &[u8]) -> Result<Option<Value>> {
    let unreadable = || Error::Corrupt("an outcome of a notification".into());
    let (id, own) = keys::notification_of(key).ok_or_else(unreadable)?;
    let DeliveryOutcome::Delivered {
        at_ms,
        attempts,
        status,
        address,
        port,
    } = decode_outcome(row).map_err(|_| unreadable())?
    else {
        return Ok(None);
    };
    let mut shown = head(id, own, "delivered", &address, port);
    shown["attempts"] = json!(attempts);
    shown["delivered"] = time(at_ms);
    shown["status_code"] = json!(status);
    Ok(Some(shown))
}

fn head(id: OperationId, key: DeliveryKey, state: &str, address: &str, port: u16) -> Value {
    json!({"operation_id": id.0, "key": key.to_string(), "state": state, "address": address, "port": port})
}

fn time(millis: i64) -> Value {
    let mut text = Vec::new();
    write_rfc3339_millis(crate::domain::Timestamp::from_millis(millis), &mut text);
    json!(String::from_utf8_lossy(&text))
}

/// Operation ids and keys of all deliveries in one state; `each` says whether it wants another.
pub fn each_in_state(
    db: &dyn Db,
    wanted: &Wanted,
    holds: bool,
    each: &mut dyn FnMut(OperationId, DeliveryKey),
) -> Result<()> {
    store::view(db, |view| {
        let range = match &wanted.operation_id {
            Some(id) => keys::of_operation(OperationId(id)),
            None => keys::ALL.start.to_vec()..keys::ALL.end.to_vec(),
        };
        let (family, range) = (Family::Outbox, &range.start[..]..&range.end[..]);
        let forward = Direction::Forward;
        store::try_scan(
            |visit| view.scan_past_damage(family, range, forward, visit, &mut |_| {}),
            |row, _| {
                match entry(view, row, holds) {
                    Err(Error::Corrupt(_)) => {}
                    Ok(found)
                        if wanted
                            .state
                            .is_none_or(|wanted| wanted == found.state.name()) =>
                    {
                        if let Some((id, key)) = keys::notification_of(row) {
                            each(id, key);
                        }
                    }
                    Ok(_) => {}
                    Err(error) => return Err(error),
                }
                Ok(ControlFlow::Continue(()))
            },
        )
    })
}
