//! CloudEvents 1.0 in the two forms that a record can have: structured (the
//! whole event is the value) and binary (attributes in headers, the value is
//! `data`). Reading is total: any bytes give an event or a fault.

use super::document::text;
use super::event_v1::{self, RawEvent};
use super::fault::{Fault, Rule};
use super::record_v1::{Headers, Record};
use crate::domain::{Event, Text};
use std::borrow::Cow;
use std::ops::Range;

pub const STRUCTURED: &str = "application/cloudevents+json";
pub const BATCH: &str = "application/cloudevents-batch+json";
pub const CONTENT_TYPE: &str = "content-type";
/// What attributes are called in a record's headers (Kafka's binding).
pub const PREFIX: &str = "ce_";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    Structured,
    Binary,
}

/// A record without either sign counts as structured if its value is an event,
/// which reading it will tell.
pub fn mode(headers: &Headers) -> Mode {
    let content_type = headers.get(CONTENT_TYPE).unwrap_or_default();
    if content_type == STRUCTURED.as_bytes()
        || is_media_type(&String::from_utf8_lossy(content_type), STRUCTURED)
    {
        Mode::Structured
    } else if headers.get("ce_specversion").is_some() {
        Mode::Binary
    } else {
        Mode::Structured
    }
}

/// Compares a content type without its parameters.
pub fn is_media_type(content_type: &str, wanted: &str) -> bool {
    let essence = content_type.split(';').next().unwrap_or("").trim();
    essence.eq_ignore_ascii_case(wanted)
}

/// What a record says, or why it cannot be read as an event of these types.
pub fn decode(record: &Record) -> Result<Event<'_>, Fault> {
    let event = match (mode(&record.headers), &record.value) {
        (Mode::Structured, None) => {
            let what = "a record without a value (tombstone) is no event.";
            return Err(Fault::new(Rule::Tombstone, "", what));
        }
        (Mode::Structured, Some(value)) => decode_structured(value)?,
        (Mode::Binary, value) => decode_binary(&record.headers, value.as_deref())?,
    };
    match &record.key {
        Some(key) if key[..] != *event.operation_id.as_bytes() => {
            let what = "the record's key is not the event's subject.";
            Err(Fault::new(Rule::KeyMismatch, "key", what))
        }
        _ => Ok(event),
    }
}

/// One event as JSON.
pub fn decode_structured(json: &[u8]) -> Result<Event<'_>, Fault> {
    match event_v1::quick_envelope(json) {
        Some(raw) => event_v1::check(raw),
        None => event_v1::check(event_v1::careful_envelope(json)?),
    }
}

/// Shows the events of a JSON array, each with its place, until one is not wanted.
/// False if one was not, or where the quick way gives up at any of them, or something
/// else stands there: each event then has to be read by itself, to tell what is wrong.
pub fn read_batch<'j>(
    json: &'j [u8],
    mut is_wanted: impl FnMut(Event<'j>, Range<usize>) -> bool,
) -> bool {
    event_v1::envelopes(json, |raw, place| {
        event_v1::check(raw).is_ok_and(|event| is_wanted(event, place))
    })
}

fn decode_binary<'a>(headers: &'a Headers, value: Option<&'a [u8]>) -> Result<Event<'a>, Fault> {
    let attribute = |name: &str| -> Result<Option<Text<'a>>, Fault> {
        let Some(value) = headers.get(&format!("{PREFIX}{name}")) else {
            return Ok(None);
        };
        let text = std::str::from_utf8(value)
            .map_err(|_| Fault::new(Rule::Format, name, "must be UTF-8."))?;
        Ok(Some(Cow::Borrowed(text)))
    };
    let content_type = headers.get(CONTENT_TYPE).map(String::from_utf8_lossy);
    let kind = attribute("type")?;
    let data = match value.filter(|value| !value.is_empty()) {
        None => Default::default(),
        Some(value) => match event_v1::quick_data(value) {
            Some(raw) => raw,
            None => event_v1::careful_data(value, event_v1::event_type(kind.clone())?)?,
        },
    };
    event_v1::check(RawEvent {
        specversion: attribute("specversion")?,
        id: attribute("id")?,
        source: attribute("source")?,
        kind,
        subject: attribute("subject")?,
        time: attribute("time")?,
        datacontenttype: content_type,
        data,
        ..RawEvent::default()
    })
}

/// The event as received, as JSON: a structured one byte for byte, a binary one
/// put together from its headers and its data.
pub fn write_as_json(record: &Record, out: &mut Vec<u8>) {
    let value = record.value.as_deref().unwrap_or_default();
    if mode(&record.headers) == Mode::Structured {
        out.extend_from_slice(value);
        return;
    }
    out.push(b'{');
    for (name, value) in record.headers.iter() {
        let name = match name.strip_prefix(PREFIX) {
            Some(attribute) => attribute,
            None if name == CONTENT_TYPE => "datacontenttype",
            None => continue,
        };
        text(name, out);
        out.push(b':');
        text(&String::from_utf8_lossy(value.unwrap_or_default()), out);
        out.push(b',');
    }
    if value.is_empty() {
        out.pop();
    } else {
        out.extend_from_slice(b"\"data\":");
        out.extend_from_slice(value);
    }
    out.push(b'}');
}
