//! Reads the texts of bodies that a state has only by digest.

use super::{keys, records};
use crate::domain::body::Digest;
use crate::domain::{Body, Operation, OperationId, OrderKey};
use crate::store::{Direction, Error, Family, Result, View};
use crate::wire::cloudevent;
use crate::wire::record::Record;
use std::ops::ControlFlow;

/// This many bytes of other events are read before the remaining bodies are read one by one.
const FEW_BYTES: usize = 256 << 10;

/// Replaces all digests by the texts. Most operations have few events, which are adjacent and
/// read together.
pub fn look_up(view: &dyn View, operation_id: OperationId, op: &mut Operation) -> Result<()> {
    let named = op.bodies_mut().filter(|(_, body)| body.known().is_none());
    let rows = named.map(|(key, body)| (keys::history_of_event(operation_id, key), key, body));
    let mut wanted: Vec<_> = rows.collect();
    wanted.sort_by(|(a, ..), (b, ..)| a.start.cmp(&b.start));
    let (Some((first, ..)), Some((last, ..))) = (wanted.first(), wanted.last()) else {
        return Ok(());
    };
    let (start, end) = (first.start.clone(), last.end.clone());
    let (mut passed, mut wanted_bytes, mut other_bytes) = (0, 0, 0);
    let read = view.scan(
        Family::History,
        &start..&end,
        Direction::Forward,
        &mut |key, row| {
            passed += wanted[passed..].partition_point(|(rows, ..)| &rows.end[..] <= key);
            let of_this = wanted[passed..].iter_mut();
            let of_this = of_this.take_while(|(rows, ..)| &rows.start[..] <= key);
            let mut of_this = of_this.peekable();
            match of_this.peek() {
                Some(_) => wanted_bytes += row.len(),
                None => other_bytes += row.len(),
            }
            for (_, _, body) in of_this {
                if let Body::Named(digest) = **body
                    && let Some(text) = text_in_row(operation_id, key, row, digest)
                {
                    **body = Body::from(text);
                }
            }
            match other_bytes > 4 * wanted_bytes + FEW_BYTES {
                true => ControlFlow::Break(()),
                false => ControlFlow::Continue(()),
            }
        },
    );
    match read {
        // The text may be in a row after the damage.
        Ok(()) | Err(Error::Corrupt(_)) => {}
        Err(error) => return Err(error),
    }
    for (_, key, body) in wanted {
        if body.known().is_none() {
            *body = Body::from(text(view, operation_id, key, body.digest())?);
        }
    }
    Ok(())
}

/// The text of the event with this order key. The record of a large body has a row of its own.
pub fn text(
    view: &dyn View,
    operation_id: OperationId,
    key: &OrderKey,
    digest: Digest,
) -> Result<String> {
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
    found.ok_or_else(|| Error::Corrupt(format!("the history of {operation_id} lacks a body")))
}

fn text_in_row(
    operation_id: OperationId,
    key: &[u8],
    row: &[u8],
    digest: Digest,
) -> Option<String> {
    let records = records::of_row(operation_id, key, row)?;
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
