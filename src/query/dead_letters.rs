//! Dead letters: invalid records, whole, with the reason.

use super::{Emit, EntryWriter, Page};
use crate::domain::Slices;
use crate::rows::letters;
use crate::store::{self, Db, Result};
use crate::wire::position::Position;
use crate::wire::record::Record;
use crate::wire::time::write_rfc3339_millis;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};
use std::ops::ControlFlow;

/// Writes `{"dead_letters":[…]}` by position. Returns the key after which the next page begins.
pub fn stream(db: &dyn Db, page: &Page, emit: &mut Emit) -> Result<Option<Vec<u8>>> {
    store::view(db, |view| {
        let mut entries = EntryWriter::new("dead_letters", page, emit);
        let (mut last, mut next) = (None, None);
        let after = page.after.as_deref().and_then(Position::of_key);
        letters::scan(view, Slices::ALL, after, &mut |letter| {
            if entries.is_full() {
                next = last.map(|last: Position| last.to_key().to_vec());
                return Ok(ControlFlow::Break(()));
            }
            last = Some(letter.at);
            let (reason, detail, record) = letters::decode(&letter.row)?;
            let mut shown = as_json(letter.at, reason, detail, &record);
            if let Some(why) = letter.refused {
                shown["unsent"] = why.into();
            }
            Ok(entries.add(letter.row.len(), |out| {
                serde_json::to_writer(out, &shown).expect("writing to memory cannot fail");
            }))
        })?;
        entries.end();
        Ok(next)
    })
}

/// Text, or `{"base64": "…"}` for bytes that are not UTF-8. A header that occurs several times
/// is an array.
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
