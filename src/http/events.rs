//! `POST /v1/events`: one event, a batch, or one event in binary mode. Either all events of a
//! request are valid, or none is stored.

use super::error::Refusal;
use super::params::Params;
use super::{App, LEDGER_POSITION, body, stream};
use crate::clock;
use crate::domain::Timestamp;
use crate::event_log::{NewRecord, Published};
use crate::wire::cloudevent;
use crate::wire::fault::{Fault, Rule};
use crate::wire::json::not_json;
use crate::wire::media_type::{is_media_type, is_utf8};
use crate::wire::record::{Headers, Record};
use axum::body::Body;
use axum::extract::State;
use axum::http::header::{CONNECTION, CONTENT_TYPE};
use axum::http::{HeaderMap, HeaderValue, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use serde_json::value::RawValue;
use std::sync::Arc;

/// Bodies larger than this are decoded outside the threads that serve connections.
const LARGE: usize = 64 << 10;

pub async fn publish(
    State(app): State<Arc<App>>,
    uri: Uri,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Refusal> {
    let taken_in = async {
        Params::parse(&app, &uri, &[])?;
        let form = Form::of(&headers)?;
        Ok((form, body::receive(&app, &headers, body).await?))
    };
    let (form, received) = match taken_in.await {
        Ok(taken_in) => taken_in,
        Err(refusal) => return Ok(with_rest_unread(refusal)),
    };
    let bytes = received.bytes.clone();
    let max_size = app.config.events.max_size as usize;
    let rules = EventRules {
        max_size: app
            .publisher
            .log
            .max_record()
            .map_or(max_size, |max| max.min(max_size)),
        latest: clock::now().plus(app.config.events.clock_ahead),
    };
    let records = if bytes.len() > LARGE {
        let checked = stream::blocking(&app, move |_| Ok(rules.check(form, bytes)));
        checked.await??
    } else {
        rules.check(form, bytes)?
    };
    let published = app.publisher.publish(records).await;
    app.accepting.note(published.as_ref().err());
    Ok(accepted(&app, &published?))
}

/// Closes the connection, because the rest of the body is unread.
fn with_rest_unread(refusal: Refusal) -> Response {
    let mut response = refusal.into_response();
    let close = HeaderValue::from_static("close");
    response.headers_mut().insert(CONNECTION, close);
    response
}

/// How a request carries its events.
enum Form {
    One,
    Batch,
    /// Attributes in headers, in the form of a record's headers.
    Binary(Headers),
}

impl Form {
    fn of(headers: &HeaderMap) -> Result<Form, Refusal> {
        let content_type = match body::content_type(headers)? {
            Some(value) => value.to_str().map_err(|_| Refusal::MediaType)?,
            None => "",
        };
        if !is_utf8(content_type) {
            return Err(Refusal::MediaType);
        }
        if is_media_type(content_type, cloudevent::STRUCTURED) {
            Ok(Form::One)
        } else if is_media_type(content_type, cloudevent::BATCH) {
            Ok(Form::Batch)
        } else if headers.contains_key("ce-specversion")
            && (content_type.is_empty() || is_media_type(content_type, "application/json"))
        {
            Ok(Form::Binary(attributes(headers)))
        } else {
            Err(Refusal::MediaType)
        }
    }
}

/// The headers of binary mode, in the form of a record's headers.
fn attributes(headers: &HeaderMap) -> Headers {
    let named = headers.iter().filter_map(|(name, value)| {
        let name = match name.as_str().strip_prefix("ce-") {
            Some(attribute) => format!("{}{attribute}", cloudevent::PREFIX).into(),
            None if name == CONTENT_TYPE => cloudevent::CONTENT_TYPE.into(),
            None => return None,
        };
        Some((name, Some(Bytes::copy_from_slice(value.as_bytes()))))
    });
    Headers(named.collect())
}

struct EventRules {
    max_size: usize,
    latest: Timestamp,
}

impl EventRules {
    fn check(&self, form: Form, body: Bytes) -> Result<Vec<NewRecord>, Fault> {
        match form {
            Form::One => Ok(vec![self.check_one(Headers::default(), body)?]),
            Form::Binary(headers) => Ok(vec![self.check_one(headers, body)?]),
            Form::Batch => self.check_batch(&body),
        }
    }

    fn check_batch(&self, body: &Bytes) -> Result<Vec<NewRecord>, Fault> {
        match self.check_good_batch(body) {
            Some(records) => Ok(records),
            None => self.check_each(body),
        }
    }

    /// Checks a batch in one pass. `None` if anything is unusual or wrong.
    fn check_good_batch(&self, body: &Bytes) -> Option<Vec<NewRecord>> {
        let mut records = Vec::new();
        let are_good = cloudevent::read_batch(body, |event, place| {
            let fits = place.len() <= self.max_size && event.key.time <= self.latest;
            if fits {
                records.push(NewRecord {
                    operation_id: event.operation_id.into_owned(),
                    headers: Headers::default(),
                    // Shares the body's memory.
                    value: Some(body.slice(place)),
                });
            }
            fits
        });
        are_good.then_some(records)
    }

    /// Checks one event after the other, to find which one is wrong, and why.
    fn check_each(&self, body: &Bytes) -> Result<Vec<NewRecord>, Fault> {
        let events: Vec<&RawValue> = serde_json::from_slice(body).map_err(|error| {
            let what = match error.classify() {
                serde_json::error::Category::Data => "must be a JSON array of events.".into(),
                _ => not_json(error.is_eof(), error.line(), error.column()),
            };
            Fault::new(Rule::Format, "", what)
        })?;
        events
            .into_iter()
            .enumerate()
            .map(|(index, event)| {
                // Shares the body's memory.
                let event = body.slice_ref(event.get().as_bytes());
                let checked = self.check_one(Headers::default(), event);
                checked.map_err(|fault| fault.at(index))
            })
            .collect()
    }

    fn check_one(&self, headers: Headers, value: Bytes) -> Result<NewRecord, Fault> {
        let record = Record {
            arrived: Record::NO_ARRIVAL,
            claimed: false,
            key: None,
            headers,
            value: (!value.is_empty()).then_some(value),
        };
        if record.size() > self.max_size {
            let what = format!("an event is at most {} bytes.", self.max_size);
            return Err(Fault::new(Rule::Size, "", what));
        }
        let event = match cloudevent::decode(&record) {
            Err(fault) if fault.rule == Rule::Tombstone => {
                return Err(Fault::new(Rule::Format, "", "an event is required."));
            }
            decoded => decoded?,
        };
        if event.key.time > self.latest {
            let what = "further ahead of the ledger's clock than is allowed.";
            return Err(Fault::new(Rule::Range, "time", what));
        }
        let operation_id = event.operation_id.into_owned();
        Ok(NewRecord {
            operation_id,
            headers: record.headers,
            value: record.value,
        })
    }
}

/// 202: durable, with the position of each event in the order of the request.
fn accepted(app: &App, published: &Published) -> Response {
    let positions = &published.positions;
    let mut body = String::with_capacity(40 + 16 * positions.len());
    body.push_str("{\"accepted\":");
    body.push_str(itoa::Buffer::new().format(positions.len()));
    body.push_str(",\"positions\":[");
    for (i, at) in positions.iter().enumerate() {
        body.push_str(if i == 0 { "\"" } else { ",\"" });
        body.push_str(itoa::Buffer::new().format(at.partition.0));
        body.push(':');
        body.push_str(itoa::Buffer::new().format(at.offset.0));
        body.push('"');
    }
    body.push_str("]}");
    let token = published.token();
    // The events are stored, so the request cannot fail any more.
    let body = app.unsent.hold_anyway(body.into_bytes());
    let mut response = stream::json(body);
    *response.status_mut() = StatusCode::ACCEPTED;
    let token = HeaderValue::from_str(&token.to_string()).expect("a token is ASCII");
    response.headers_mut().insert(LEDGER_POSITION, token);
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch() -> String {
        let event = |n: usize| {
            format!(
                r#"{{"specversion":"1.0","id":"{n}","source":"/s","subject":"op-{n}",
                    "type":"opledger.operation.created.v1","time":"2026-01-01T00:00:00Z",
                    "more":[{{"]":"}}"}}],
                    "data":{{"request":{{"uri":"/u","method":"POST","body":"{{\"a\"}}"}}}}}}"#
            )
        };
        format!(" [{},\n{} , {}]\r\n", event(1), event(2), event(3))
    }

    fn all(records: Vec<NewRecord>) -> Vec<(String, Option<Bytes>)> {
        let parts = |record: NewRecord| (record.operation_id, record.value);
        records.into_iter().map(parts).collect()
    }

    /// Compares both ways to check a batch.
    fn agree(rules: &EventRules, body: Vec<u8>) -> bool {
        let body = Bytes::from(body);
        let Some(records) = rules.check_good_batch(&body) else {
            return false;
        };
        match rules.check_each(&body) {
            Ok(each) => assert_eq!(all(records), all(each)),
            Err(fault) => panic!("{fault}: {}", String::from_utf8_lossy(&body)),
        }
        true
    }

    #[test]
    fn a_batch_checked_in_one_pass_equals_its_events_checked_one_by_one() {
        let rules = EventRules {
            max_size: 400,
            latest: clock::now(),
        };
        let good = batch().into_bytes();
        assert!(agree(&rules, good.clone()));
        for at in 0..good.len() {
            for other in [
                &b""[..],
                b" ",
                b"[",
                b"]",
                b",",
                b"}",
                b"\"",
                b"\\",
                b"x",
                b"\xFF",
            ] {
                let rest = [at, at + 1].map(|from| &good[from..]);
                for rest in rest {
                    agree(&rules, [&good[..at], other, rest].concat());
                }
            }
            agree(&rules, good[..at].to_vec());
        }
        let earlier = EventRules {
            latest: Timestamp::MIN,
            ..rules
        };
        assert!(!agree(&earlier, good.clone()));
        let smaller = EventRules {
            max_size: 200,
            latest: clock::now(),
        };
        assert!(!agree(&smaller, good));
        assert!(!agree(&smaller, b"[]".to_vec()));
    }
}
