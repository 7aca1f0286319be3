//! CloudEvents 1.0 in the two forms that a record can have: structured (the
//! whole event is the value) and binary (attributes in headers, the value is
//! `data`). Reading is total: any bytes give an event or a fault.

use super::attributes::Attributes;
use super::event::{self, RawEvent};
use super::fault::{Fault, Rule};
use super::json::{Json, LEVELS};
use super::media_type::{is_media_type, is_utf8};
use super::record::{Headers, Record};
use crate::domain::Event;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use std::ops::Range;

pub const STRUCTURED: &str = "application/cloudevents+json";
pub const BATCH: &str = "application/cloudevents-batch+json";
pub const CONTENT_TYPE: &str = "content-type";
/// The prefix of attribute names in a record's headers (Kafka's binding).
pub const PREFIX: &str = "ce_";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    Structured,
    Binary,
}

/// A record without either sign counts as structured: decoding shows whether its value is an event.
pub fn mode(headers: &Headers) -> Result<Mode, Fault> {
    if headers.are_of_an_event() {
        return Ok(Mode::Structured);
    }
    let mut content_types = headers.all(CONTENT_TYPE);
    let content_type = content_types.next().flatten().unwrap_or_default();
    if content_types.next().is_some() {
        let what = "given more than once.";
        return Err(Fault::new(Rule::Format, CONTENT_TYPE, what));
    }
    let content_type = String::from_utf8_lossy(content_type);
    if !is_utf8(&content_type) {
        let what = "an event is in UTF-8.";
        return Err(Fault::new(Rule::Value, CONTENT_TYPE, what));
    }
    let is_structured = is_media_type(&content_type, STRUCTURED);
    if !is_structured && headers.all("ce_specversion").any(|value| value.is_some()) {
        return Ok(Mode::Binary);
    }
    Ok(Mode::Structured)
}

/// The event of a record, or why it cannot be read as an event of these types.
pub fn decode(record: &Record) -> Result<Event<'_>, Fault> {
    let event = match (mode(&record.headers)?, &record.value) {
        (Mode::Structured, None) => {
            let what = "a record without a value (tombstone) is no event.";
            return Err(Fault::new(Rule::Tombstone, "", what));
        }
        (Mode::Structured, Some(value)) => decode_structured(value)?,
        (Mode::Binary, value) => decode_binary(&record.headers, value.as_deref())?,
    };
    match record.key.as_deref() {
        Some(key) if key != event.operation_id.as_bytes() && !is_other_key(key, &event, record) => {
            let what = "the record's key is neither the event's subject nor its partitionkey.";
            Err(Fault::new(Rule::KeyMismatch, "key", what))
        }
        _ => Ok(event),
    }
}

/// Whether the key of a record is one that its event may have beside the operation id: none,
/// the id as JSON's serialisers write it, or the extension `partitionkey`.
fn is_other_key(key: &[u8], event: &Event, record: &Record) -> bool {
    key.is_empty()
        || serde_json::from_slice(key).is_ok_and(|text: String| text == event.operation_id)
        || partition_key(record).is_some_and(|text| text.as_bytes() == key)
}

/// Read apart from the rest: the fold has no use for it, and few records do.
fn partition_key(record: &Record) -> Option<String> {
    const NAME: &str = "partitionkey";
    if mode(&record.headers) == Ok(Mode::Binary) {
        let mut attributes = Attributes::read(&record.headers).ok()?;
        return Some(attributes.take(NAME)?.into_owned());
    }
    let Json::Object(members) = Json::parse(record.value.as_deref()?).ok()? else {
        return None;
    };
    match members.into_iter().find(|(name, _)| name == NAME)? {
        (_, Json::Text(text)) => Some(text.into_owned()),
        _ => None,
    }
}

/// One event as JSON.
pub fn decode_structured(json: &[u8]) -> Result<Event<'_>, Fault> {
    match event::quick_envelope(json) {
        Some(raw) => event::check(raw),
        None => event::check(event::careful_envelope(json)?),
    }
}

/// Visits the events of a JSON array, each with its place, until one is not wanted. False if one
/// was not, or if the quick decoder gives up: then each event must be decoded separately, to find
/// the mistake.
pub fn read_batch<'j>(
    json: &'j [u8],
    mut is_wanted: impl FnMut(Event<'j>, Range<usize>) -> bool,
) -> bool {
    event::envelopes(json, |raw, place| {
        event::check(raw).is_ok_and(|event| is_wanted(event, place))
    })
}

fn decode_binary<'a>(headers: &'a Headers, value: Option<&'a [u8]>) -> Result<Event<'a>, Fault> {
    let mut attributes = Attributes::read(headers)?;
    let kind = attributes.take("type");
    let value = value.filter(|value| !value.is_empty());
    let data = match value {
        None => Default::default(),
        Some(value) => match event::quick_data(value) {
            Some(raw) => raw,
            None => event::careful_data(value, event::event_type(kind.clone())?)?,
        },
    };
    event::check(RawEvent {
        specversion: attributes.take("specversion"),
        id: attributes.take("id"),
        source: attributes.take("source"),
        kind,
        subject: attributes.take("subject"),
        time: attributes.take("time"),
        datacontenttype: attributes.take("datacontenttype"),
        data,
        has_data: value.is_some(),
        data_base64: None,
    })
}

/// The event of a record that was read as one, as JSON that is read as the same event: a
/// structured one byte for byte, a binary one put together from its headers and its data.
pub fn write_as_json(record: &Record, out: &mut Vec<u8>) -> Result<(), Fault> {
    let value = record.value.as_deref().unwrap_or_default();
    if mode(&record.headers)? == Mode::Structured {
        out.extend_from_slice(value);
        return Ok(());
    }
    let attributes = Attributes::read(&record.headers)?;
    out.push(b'{');
    attributes.write_members(out);
    if value.is_empty() {
        out.pop();
    } else {
        out.extend_from_slice(b"\"data\":");
        out.extend_from_slice(value);
    }
    out.push(b'}');
    Ok(())
}

/// Of two events of one operation and one order key: the same text if and only if they are the same
/// event. Spelling and extension attributes do not count. `None` for text that cannot be read as an
/// event.
pub fn canonical_content(json: &[u8]) -> Option<String> {
    let Json::Object(members) = Json::parse(json).ok()? else {
        return None;
    };
    // A missing member is the same as null.
    let member = |wanted: &str| {
        let found = members.iter().find(|(name, _)| name == wanted);
        found.map_or(&Json::Null, |(_, value)| value)
    };
    let mut out = String::new();
    member("type").canonical(&mut out);
    match (member("data"), member("data_base64")) {
        (Json::Null, Json::Text(text)) => {
            let data = STANDARD.decode(&**text).ok()?;
            let data = Json::parse_within(&data, LEVELS - 1).ok()?;
            data.canonical(&mut out);
        }
        (data, _) => data.canonical(&mut out),
    }
    Some(out)
}
