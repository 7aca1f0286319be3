//! Dead letters: invalid records, whole, with the reason.

use super::{Emit, Page};
use crate::store::{self, Db, Direction, Error, Family, Result, keys};
use crate::wire::position::Position;
use crate::wire::record::{self, Record};
use crate::wire::time::write_rfc3339_millis;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde_json::{Map, Value, json};
use std::ops::ControlFlow;

/// Writes `{"dead_letters":[…]}` by position. Returns the key after which the next page begins.
pub fn stream(db: &dyn Db, page: &Page, emit: &mut Emit) -> Result<Option<Vec<u8>>> {
    store::view(db, |view| {
        let mut from = page.after.clone().unwrap_or_default();
        from.extend_from_slice(if page.after.is_some() { &[0] } else { &[] });
        let mut out = b"{\"dead_letters\":[".to_vec();
        let (mut shown, mut bytes, mut last, mut next) = (0, 0, Vec::new(), None);
        let mut gone = false;
        // Unreadable rows are left out; `Db::damage` reports them.
        let (family, range) = (Family::DeadLetter, &from[..]..&[0xFF][..]);
        let forward = Direction::Forward;
        store::try_scan(
            |visit| view.scan_past_damage(family, range, forward, visit, &mut |_| {}),
            |key, row| {
                if page.is_full(shown, bytes) {
                    next = Some(std::mem::take(&mut last));
                    return Ok(ControlFlow::Break(()));
                }
                if shown > 0 {
                    out.push(b',');
                }
                shown += 1;
                bytes += row.len();
                last = key.to_vec();
                let due = match view.get(Family::DeadLetterDue, key) {
                    // It is unknown then whether the topic has it, but the letter itself is
                    // readable.
                    Err(Error::Corrupt(_)) => None,
                    due => due?,
                };
                show(key, row, due, &mut out)?;
                if out.len() < 64 << 10 {
                    return Ok(ControlFlow::Continue(()));
                }
                let flow = emit(&out);
                gone = flow.is_break();
                out.clear();
                Ok(flow)
            },
        )?;
        if !gone {
            out.extend_from_slice(b"]}");
            let _ = emit(&out);
        }
        Ok(next)
    })
}

fn show(key: &[u8], row: &[u8], due: Option<Vec<u8>>, out: &mut Vec<u8>) -> Result<()> {
    let damaged = || Error::Corrupt("a dead letter".into());
    let at = keys::position_of(key).ok_or_else(damaged)?;
    let row = Bytes::copy_from_slice(row);
    let (reason, detail, record) = record::decode_dead_letter(&row).map_err(|_| damaged())?;
    let mut shown = as_json(at, reason, detail, &record);
    // Why the dead-letter topic does not have it.
    if let Some(why) = due.filter(|why| !why.is_empty()) {
        shown["unsent"] = json!(String::from_utf8_lossy(&why));
    }
    serde_json::to_writer(out, &shown).expect("writing to memory cannot fail");
    Ok(())
}

/// Text, or `{"base64": "…"}` for what is not UTF-8. A header that occurs several times is an
/// array.
fn as_json(at: Position, reason: &str, detail: &str, record: &Record) -> Value {
    let bytes = |bytes: &[u8]| match std::str::from_utf8(bytes) {
        Ok(text) => json!(text),
        Err(_) => json!({"base64": STANDARD.encode(bytes)}),
    };
    let mut headers = Map::new();
    for (name, value) in record.headers.iter() {
        let value = value.map_or(Value::Null, bytes);
        match headers.get_mut(name) {
            None => {
                headers.insert(name.to_owned(), value);
            }
            Some(Value::Array(several)) => several.push(value),
            Some(one) => *one = Value::Array(vec![one.take(), value]),
        }
    }
    let mut letter = json!({
        "position": at.to_string(),
        "reason": reason,
        "detail": detail,
        "key": record.key.as_deref().map(bytes),
        "headers": headers,
        "value_base64": record.value.as_deref().map(|value| STANDARD.encode(value)),
    });
    if let Some(arrival) = record.arrival() {
        let mut arrived = Vec::new();
        write_rfc3339_millis(arrival, &mut arrived);
        letter["arrived"] = json!(String::from_utf8_lossy(&arrived));
        if record.claimed {
            letter["arrived_by"] = json!("producer");
        }
    }
    letter
}
