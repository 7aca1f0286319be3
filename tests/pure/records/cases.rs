//! Random records of a topic and random requests, in every mode, with everything that may go
//! wrong.

use super::SUBJECTS;
use crate::support::generate::{self, Rng};
use axum::body::Body;
use axum::http::Request;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use opledger::wire::record::{Headers, Record};
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};
use serde_json::Value;
use std::collections::BTreeSet;

#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Way {
    RecordStructured,
    RecordBinary,
    RequestOne,
    RequestBatch,
    RequestBinary,
}

#[derive(Debug)]
pub struct Case {
    pub way: Way,
    key: Option<Vec<u8>>,
    /// The headers of the record.
    headers: Vec<(String, Option<Vec<u8>>)>,
    value: Option<Vec<u8>>,
}

impl Case {
    /// An attribute, or the content type, occurs twice.
    pub fn repeats_itself(&self) -> bool {
        let names = self.headers.iter().map(|(name, _)| name.to_lowercase());
        let names = names.filter(|name| name.starts_with("ce_") || name == "content-type");
        let all: Vec<String> = names.collect();
        let different: BTreeSet<&String> = all.iter().collect();
        let is_binary = matches!(self.way, Way::RecordBinary | Way::RequestBinary);
        is_binary && different.len() < all.len()
    }

    pub fn record(&self) -> Record {
        let headers = self.headers.iter().map(|(name, value)| {
            let value = value.as_ref().map(|value| Bytes::from(value.clone()));
            (name.clone().into(), value)
        });
        Record {
            arrived: Record::NO_ARRIVAL,
            claimed: true,
            key: self.key.clone().map(Bytes::from),
            headers: Headers(headers.collect()),
            value: self.value.clone().map(Bytes::from),
        }
    }

    /// `None` if it is not sent by HTTP.
    pub fn request(&self) -> Option<Request<Body>> {
        let media_type = match self.way {
            Way::RecordStructured | Way::RecordBinary => return None,
            Way::RequestOne => Some("application/cloudevents+json"),
            Way::RequestBatch => Some("application/cloudevents-batch+json"),
            Way::RequestBinary => None,
        };
        let mut request = Request::post("/v1/events").header("host", "127.0.0.1");
        if let Some(media_type) = media_type {
            request = request.header("content-type", media_type);
        }
        for (name, value) in &self.headers {
            let name = name.to_lowercase().replace("ce_", "ce-");
            if media_type.is_none() || name != "content-type" {
                request = request.header(name, value.as_deref().unwrap_or_default());
            }
        }
        let value = self.value.clone().unwrap_or_default();
        let body = match self.way {
            Way::RequestBatch => [b"[", &value[..], b"]"].concat(),
            _ => value,
        };
        Some(request.body(Body::from(body)).unwrap())
    }
}

pub fn case(rng: &mut Rng) -> Case {
    let id = format!("op-{}", rng.below(SUBJECTS));
    let event = generate::operation(rng, &id, 1).remove(0);
    let way = *rng.pick(&[
        Way::RecordStructured,
        Way::RecordBinary,
        Way::RecordBinary,
        Way::RequestOne,
        Way::RequestBatch,
        Way::RequestBinary,
        Way::RequestBinary,
    ]);
    let is_binary = matches!(way, Way::RecordBinary | Way::RequestBinary);
    let (mut headers, value) = match is_binary {
        true => binary(rng, event, way),
        false => structured(rng, event),
    };
    if way == Way::RequestBinary {
        // A request cannot carry values that are invalid in HTTP headers.
        let is_sent = |value: &[u8]| {
            value
                .iter()
                .all(|b| *b == b'\t' || (*b >= b' ' && *b != 127))
        };
        headers.retain(|(_, value)| value.as_deref().is_none_or(is_sent));
    }
    let key = match rng.below(20) {
        0 => Some(b"other".to_vec()),
        1 => Some(Vec::new()),
        2..=4 => Some(id.into_bytes()),
        5 => Some(format!("\"{id}\"").into_bytes()),
        6 => Some("7 \u{1f600}".into()),
        _ => None,
    };
    Case {
        way,
        key,
        headers,
        value,
    }
}

type Parts = (Vec<(String, Option<Vec<u8>>)>, Option<Vec<u8>>);

fn structured(rng: &mut Rng, mut event: Value) -> Parts {
    let data = event.get("data").filter(|data| !data.is_null()).cloned();
    if let (Some(data), 0..=2) = (data, rng.below(10)) {
        let data = other_data(rng, &data);
        event["data_base64"] = STANDARD.encode(data).into();
        if rng.chance(95) {
            event.as_object_mut().unwrap().remove("data");
        }
    }
    let mut text = match rng.chance(50) {
        true => event.to_string(),
        false => generate::spelled_differently(rng, &event),
    };
    if rng.chance(25) {
        let more = odd_members(rng);
        text.insert_str(text.rfind('}').unwrap(), &format!(",{more}"));
    }
    let mut headers = Vec::new();
    let mut header = |name: &str, value: &str| headers.push((name.to_owned(), Some(value.into())));
    match rng.below(12) {
        0 => header("content-type", "application/cloudevents+json"),
        1 => header(
            "Content-Type",
            "Application/CloudEvents+JSON; charset=utf-8",
        ),
        2 => header(
            "content-type",
            "application/cloudevents+json; charset=utf-16",
        ),
        3 => {
            // Binary attributes as well, which Kafka's binding allows.
            header("content-type", "application/cloudevents+json");
            header("ce_specversion", "1.0");
            header("ce_id", "another");
            header("ce_id", "one more");
        }
        4 => {
            header("content-type", "application/cloudevents+json");
            header("CONTENT-TYPE", "application/cloudevents+json");
        }
        _ => {}
    }
    (headers, Some(text.into_bytes()))
}

fn binary(rng: &mut Rng, event: Value, way: Way) -> Parts {
    let mut headers: Vec<(String, Option<Vec<u8>>)> = Vec::new();
    for (name, value) in event.as_object().unwrap() {
        let value = match value {
            Value::String(value) => value.clone(),
            Value::Number(_) | Value::Bool(_) => value.to_string(),
            _ => continue,
        };
        match &**name {
            "data" => continue,
            "datacontenttype" => headers.push(("content-type".into(), Some(value.into()))),
            _ => {
                let value = encoded(rng, &value, way);
                headers.push((format!("ce_{name}"), Some(value)));
            }
        }
    }
    match rng.below(60) {
        0 => headers.push(("ce_datacontenttype".into(), Some(b"text/plain".to_vec()))),
        1 => headers.push((
            "ce_datacontenttype".into(),
            Some(b"application/json".to_vec()),
        )),
        2 => headers.push(("ce_data".into(), Some(b"{}".to_vec()))),
        3 => headers.push(("ce_data_base64".into(), Some(b"e30=".to_vec()))),
        4 => headers.push(("ce_Comment".into(), Some("\"a \\\" b\" c%".into()))),
        5 => headers.push(("ce_comment".into(), Some("\u{e9}\u{1f600}\"".into()))),
        6 => headers.push(("ce_id2".into(), Some(b"\xFF".to_vec()))),
        7 => headers.push(("content-type".into(), Some(b"text/plain".to_vec()))),
        8 => headers.push(("other".into(), Some(b"\"".to_vec()))),
        9 => headers.push(("ce_nothing".into(), None)),
        10..=13 => {
            // A header a second time: with the same value, another value or none.
            let (name, value) = rng.pick(&headers).clone();
            let value = match rng.below(3) {
                0 => value,
                1 => Some(b"7".to_vec()),
                _ => None,
            };
            let at = rng.below(headers.len() + 1);
            headers.insert(at, (name, value));
        }
        14 => {
            let at = rng.below(headers.len());
            headers.remove(at);
        }
        15 => {
            let at = rng.below(headers.len());
            headers[at].1 = None;
        }
        _ => {}
    }
    if rng.chance(20) {
        rng.shuffle(&mut headers);
    }
    for (name, _) in &mut headers {
        if rng.chance(10) {
            let shouted = name.chars().map(|c| match rng.chance(50) {
                true => c.to_ascii_uppercase(),
                false => c,
            });
            *name = shouted.collect();
        }
    }
    let value = match event.get("data") {
        None => rng.chance(50).then(Vec::new),
        Some(data) => Some(other_data(rng, data)),
    };
    (headers, value)
}

/// A value as a header carries it, in any of its encodings.
fn encoded(rng: &mut Rng, value: &str, way: Way) -> Vec<u8> {
    const MUST: &AsciiSet = &CONTROLS.add(b' ').add(b'"').add(b'%');
    const MORE: &AsciiSet = &MUST.add(b'a').add(b'1').add(b'/').add(b'.');
    // Characters that a request cannot carry are always encoded.
    let is_odd = value.bytes().any(|b| b < b' ' || b == 127 || b == b'%');
    match rng.below(10) {
        0 => utf8_percent_encode(value, MORE).to_string(),
        1..=4 if !is_odd => value.to_owned(),
        5 if !is_odd => format!("\"{}\"", value.replace('\\', "\\\\").replace('"', "\\\"")),
        6 if way == Way::RecordBinary => value.to_owned(),
        _ => utf8_percent_encode(value, MUST).to_string(),
    }
    .into_bytes()
}

/// `data` as text, sometimes with unknown members.
fn other_data(rng: &mut Rng, data: &Value) -> Vec<u8> {
    let mut text = data.to_string();
    if data.is_object() && rng.chance(25) {
        let more = odd_members(rng);
        let comma = if text == "{}" { "" } else { "," };
        text.insert_str(text.len() - 1, &format!("{comma}{more}"));
    }
    match rng.below(40) {
        0 => text.push('x'),
        1 => text.insert(0, '\u{feff}'),
        2 => text = format!("\r\n{text} "),
        _ => {}
    }
    text.into_bytes()
}

/// Unknown members: some numbers fit no type, and some members occur twice.
fn odd_members(rng: &mut Rng) -> String {
    let nested = |levels: usize| "[".repeat(levels) + &"]".repeat(levels);
    let odd = [
        "\"n\":9007199254740993".to_owned(),
        "\"n\":9007199254740992.0".into(),
        "\"n\":1e400".into(),
        format!("\"n\":{}", "7".repeat(401)),
        "\"n\":-0.0,\"m\":1E+05".into(),
        "\"n\":1e99999999999999999999999".into(),
        "\"n\":1,\"n\":1".into(),
        "\"n\":{\"m\":1,\"\\u006d\":2}".into(),
        "\"n\":[{\"m\":{},\"m\":{}}]".into(),
        "\"n\":\"\\ud800\"".into(),
        "\"\\ud83d\\ude00\":{\"\":{}}".into(),
        format!("\"n\":{}", nested(124)),
        format!("\"n\":{}", nested(125)),
        format!("\"n\":{}", nested(126)),
        format!("\"n\":{}", nested(127)),
        (0..40)
            .map(|n| format!("\"x{n}\":{n}"))
            .collect::<Vec<_>>()
            .join(","),
    ];
    rng.pick(&odd).clone()
}
