//! The texts of bodies that a state has by name only.

use super::records;
use crate::domain::body::Digest;
use crate::domain::{Body, Operation, OrderKey};
use crate::store::keys;
use crate::store::{Direction, Error, Family, Result, View};
use crate::wire::cloudevent;
use crate::wire::record_v1::{self, Record};
use crate::wire::unnamed_v1;
use bytes::Bytes;
use std::ops::ControlFlow;

/// Puts the texts in the place of all names.
pub fn look_up(view: &dyn View, operation_id: &str, op: &mut Operation) -> Result<()> {
    for (key, body) in op.bodies_mut() {
        if let Body::Named(digest) = body {
            *body = Body::from(text(view, operation_id, key, *digest)?);
        }
    }
    Ok(())
}

/// What an event with this order key has brought. Its record has a row of its own if the
/// body is large; in a store of before it may be anywhere in a row that begins earlier.
pub fn text(view: &dyn View, operation_id: &str, key: &OrderKey, digest: Digest) -> Result<String> {
    let mut found = None;
    let range = keys::history_of_event(operation_id, key);
    let range = &range.start[..]..&range.end[..];
    let forward = Direction::Forward;
    view.scan(Family::History, range, forward, &mut |key, row| {
        found = text_in_row(operation_id, key, row, digest);
        match found {
            Some(_) => ControlFlow::Break(()),
            None => ControlFlow::Continue(()),
        }
    })?;
    if let Some(found) = found {
        return Ok(found);
    }
    records::scan(view, operation_id, &mut |_, record| {
        found = text_in(&record, digest);
        Ok(match found {
            Some(_) => ControlFlow::Break(()),
            None => ControlFlow::Continue(()),
        })
    })?;
    found.ok_or_else(|| Error::Corrupt(format!("the history of {operation_id} lacks a body")))
}

fn text_in_row(operation_id: &str, key: &[u8], row: &[u8], digest: Digest) -> Option<String> {
    let (_, at) = keys::split_history(key)?;
    let row = Bytes::from(unnamed_v1::restore(operation_id, row)?.into_owned());
    let records = record_v1::decode_history(&row, at).ok()?;
    records
        .iter()
        .find_map(|(_, record)| text_in(record, digest))
}

pub fn text_in(record: &Record, digest: Digest) -> Option<String> {
    let mut event = cloudevent::decode(record).ok()?;
    let mut bodies = event.kind.bodies_mut();
    let body = bodies.find(|body| body.is_large() && body.digest() == digest)?;
    Some(body.text().to_owned())
}
