//! Version 1 of the events: from the members of the JSON to an event that keeps every rule of the
//! specification. Two decoders read the members: `quick`, and `careful`, which can report the
//! mistake.

mod careful;
mod ends;
mod quick;
mod unescape;

pub use careful::{data as careful_data, envelope as careful_envelope};
pub use quick::{data as quick_data, envelope as quick_envelope, envelopes};

use super::fault::{Fault, Rule};
use super::media_type::{is_media_type, is_utf8};
use super::time::{TimeFault, parse_rfc3339};
use crate::domain::{
    Body, Ending, Event, Kind, LaneId, Method, Notification, OrderKey, Outcome, Request, Response,
    Text, Timestamp,
};

/// Members of the envelope that the fold needs, well typed but unchecked.
#[derive(Debug, Default)]
pub struct RawEvent<'a> {
    pub specversion: Option<Text<'a>>,
    pub id: Option<Text<'a>>,
    pub source: Option<Text<'a>>,
    pub kind: Option<Text<'a>>,
    pub subject: Option<Text<'a>>,
    pub time: Option<Text<'a>>,
    pub datacontenttype: Option<Text<'a>>,
    pub data: RawData<'a>,
    /// `data` is there.
    pub has_data: bool,
    /// `data` in another form, not yet read.
    pub data_base64: Option<Text<'a>>,
}

/// Members of `data`, of whatever event type.
#[derive(Debug, Default)]
pub struct RawData<'a> {
    pub request: Option<RawRequest<'a>>,
    pub notification: Option<RawNotification<'a>>,
    pub sub_status: Option<Text<'a>>,
    pub cluster_id: Option<Text<'a>>,
    pub request_id: Option<Text<'a>>,
    pub response: Option<RawResponse<'a>>,
    pub reason: Option<Text<'a>>,
}

#[derive(Debug, Default)]
pub struct RawRequest<'a> {
    pub uri: Option<Text<'a>>,
    pub method: Option<Text<'a>>,
    pub body: Option<Text<'a>>,
}

#[derive(Debug, Default)]
pub struct RawResponse<'a> {
    pub status_code: Option<i64>,
    pub body: Option<Text<'a>>,
}

#[derive(Debug, Default)]
pub struct RawNotification<'a> {
    pub address: Option<Text<'a>>,
    pub port: Option<i64>,
}

/// The event types, without `opledger.` and `.v1`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Type {
    Created,
    Started,
    Progressed,
    Completed,
    Failed,
    Canceled,
    RequestSent,
    ResponseReceived,
    RollbackAttempted,
    RollbackResponseReceived,
}

impl Type {
    pub const ALL: [Type; 10] = [
        Type::Created,
        Type::Started,
        Type::Progressed,
        Type::Completed,
        Type::Failed,
        Type::Canceled,
        Type::RequestSent,
        Type::ResponseReceived,
        Type::RollbackAttempted,
        Type::RollbackResponseReceived,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Type::Created => "opledger.operation.created.v1",
            Type::Started => "opledger.operation.started.v1",
            Type::Progressed => "opledger.operation.progressed.v1",
            Type::Completed => "opledger.operation.completed.v1",
            Type::Failed => "opledger.operation.failed.v1",
            Type::Canceled => "opledger.operation.canceled.v1",
            Type::RequestSent => "opledger.cluster.request_sent.v1",
            Type::ResponseReceived => "opledger.cluster.response_received.v1",
            Type::RollbackAttempted => "opledger.rollback.attempted.v1",
            Type::RollbackResponseReceived => "opledger.rollback.response_received.v1",
        }
    }

    pub fn parse(text: &str) -> Option<Type> {
        Type::ALL.into_iter().find(|t| t.as_str() == text)
    }

    /// The members of `data` that mean something in an event of this type. Any
    /// other member is kept, whatever its value.
    pub fn members(self) -> &'static [&'static str] {
        match self {
            Type::Created => &["request", "notification"],
            Type::Started => &[],
            Type::Progressed => &["sub_status"],
            Type::Completed | Type::Failed => &["response"],
            Type::Canceled => &["reason"],
            Type::RequestSent => &["cluster_id", "request_id", "request"],
            Type::ResponseReceived | Type::RollbackResponseReceived => {
                &["cluster_id", "request_id", "response"]
            }
            Type::RollbackAttempted => &["cluster_id", "request_id", "request", "response"],
        }
    }
}

/// Every rule of the specification's tables, in the order of the fields.
pub fn check(raw: RawEvent<'_>) -> Result<Event<'_>, Fault> {
    if required(raw.specversion, "specversion")? != "1.0" {
        return Err(Fault::new(Rule::Value, "specversion", "must be \"1.0\"."));
    }
    let id = sized(required(raw.id, "id")?, "id", 1..=256)?;
    let source = sized(required(raw.source, "source")?, "source", 1..=1024)?;
    if !is_plain_path(&source) && fluent_uri::UriRef::parse(&*source).is_err() {
        return Err(Fault::new(
            Rule::Value,
            "source",
            "must be a URI reference.",
        ));
    }
    let event_type = event_type(raw.kind)?;
    let operation_id = subject(required(raw.subject, "subject")?)?;
    let time = time(&required(raw.time, "time")?)?;
    if raw.datacontenttype.is_some_and(|t| !is_json(&t)) {
        let what = "must be application/json where it is given.";
        return Err(Fault::new(Rule::Value, "datacontenttype", what));
    }
    let data = match raw.data_base64 {
        None => raw.data,
        Some(_) if raw.has_data => {
            let what = "not together with data.";
            return Err(Fault::new(Rule::Format, "data_base64", what));
        }
        Some(text) => careful::data_base64(&text, event_type)?,
    };
    Ok(Event {
        operation_id,
        key: OrderKey { time, source, id },
        kind: kind(event_type, data)?,
    })
}

pub(super) fn event_type(text: Option<Text>) -> Result<Type, Fault> {
    Type::parse(&required(text, "type")?).ok_or_else(|| {
        let what = "not an event type that this version knows (opledger.<kind>.v1).";
        Fault::new(Rule::UnknownType, "type", what)
    })
}

/// The form of nearly every source, and always a URI reference: letters, digits, slashes and the
/// marks that mean nothing in a URI.
fn is_plain_path(source: &str) -> bool {
    source.bytes().all(|b| b == b'/' || is_unreserved(b))
}

/// Characters that stand for themselves anywhere in a URI (RFC 3986, 2.3).
fn is_unreserved(byte: u8) -> bool {
    const TABLE: [bool; 256] = {
        let mut table = [false; 256];
        let mut byte = 0;
        while byte < 128 {
            let b = byte as u8;
            table[byte] = b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b'~');
            byte += 1;
        }
        table
    };
    TABLE[usize::from(byte)]
}

/// `application/json`, in any case and with parameters, but in no charset other than UTF-8.
fn is_json(content_type: &str) -> bool {
    content_type == "application/json"
        || is_media_type(content_type, "application/json") && is_utf8(content_type)
}

/// The rule for operation ids, for people.
pub const OPERATION_ID: &str =
    "1 to 256 characters of [A-Za-z0-9-._~], and not \"log\", \".\" or \"..\"";

/// An operation id as the subject of an event, or in a path.
pub fn operation_id_fault(id: &str) -> Option<Rule> {
    if id.is_empty() || id.len() > 256 {
        return Some(Rule::Range);
    }
    (!id.bytes().all(is_unreserved) || matches!(id, "log" | "." | "..")).then_some(Rule::Value)
}

fn subject(id: Text<'_>) -> Result<Text<'_>, Fault> {
    match operation_id_fault(&id) {
        None => Ok(id),
        Some(rule) => Err(Fault::new(rule, "subject", format!("{OPERATION_ID}."))),
    }
}

fn time(text: &str) -> Result<Timestamp, Fault> {
    parse_rfc3339(text).map_err(|fault| match fault {
        TimeFault::Unreadable => {
            Fault::new(Rule::Value, "time", "must be RFC 3339 with an offset.")
        }
        TimeFault::OutOfRange => Fault::new(Rule::Range, "time", "years 0001 to 9999 in UTC."),
    })
}

fn kind<'a>(kind: Type, data: RawData<'a>) -> Result<Kind<'a>, Fault> {
    Ok(match kind {
        Type::Created => Kind::Created {
            request: request(data.request)?,
            notification: data.notification.map(notification).transpose()?,
        },
        Type::Started => Kind::Started,
        Type::Progressed => Kind::Progressed {
            sub_status: data
                .sub_status
                .map(|text| sized(text, "data.sub_status", 0..=65_536))
                .transpose()?,
        },
        Type::RequestSent => Kind::RequestSent {
            lane: lane(data.cluster_id, data.request_id)?,
            request: request(data.request)?,
        },
        Type::ResponseReceived => Kind::ResponseReceived {
            lane: lane(data.cluster_id, data.request_id)?,
            response: response(required(data.response, "data.response")?)?,
        },
        Type::RollbackAttempted => Kind::RollbackAttempted {
            lane: lane(data.cluster_id, data.request_id)?,
            request: request(data.request)?,
            response: data.response.map(response).transpose()?,
        },
        Type::RollbackResponseReceived => Kind::RollbackResponseReceived {
            lane: lane(data.cluster_id, data.request_id)?,
            response: response(required(data.response, "data.response")?)?,
        },
        Type::Completed => Kind::Ended(Ending::Completed(outcome(data.response)?)),
        Type::Failed => Kind::Ended(Ending::Failed(outcome(data.response)?)),
        Type::Canceled => Kind::Ended(Ending::Canceled),
    })
}

/// Most operations have one request per cluster; `request_id` distinguishes several.
fn lane<'a>(
    cluster_id: Option<Text<'a>>,
    request_id: Option<Text<'a>>,
) -> Result<LaneId<'a>, Fault> {
    let cluster_id = required(cluster_id, "data.cluster_id")?;
    let cluster_id = sized(cluster_id, "data.cluster_id", 1..=256)?;
    let request_id = match request_id {
        Some(id) => sized(id, "data.request_id", 1..=256)?,
        None => cluster_id.clone(),
    };
    Ok(LaneId {
        cluster_id,
        request_id,
    })
}

fn request(raw: Option<RawRequest<'_>>) -> Result<Request<'_>, Fault> {
    let raw = required(raw, "data.request")?;
    let uri = required(raw.uri, "data.request.uri")?;
    let uri = sized(uri, "data.request.uri", 1..=8192)?;
    let method = required(raw.method, "data.request.method")?;
    let method = Method::parse(&method).ok_or_else(|| {
        let what = "POST, PUT, DELETE or PATCH.";
        Fault::new(Rule::Value, "data.request.method", what)
    })?;
    Ok(Request {
        uri,
        method,
        body: raw.body.unwrap_or_default().into(),
    })
}

fn response(raw: RawResponse<'_>) -> Result<Response<'_>, Fault> {
    Ok(Response {
        status_code: raw.status_code.map(status_code).transpose()?,
        body: raw.body.map(Body::from),
    })
}

fn outcome(raw: Option<RawResponse<'_>>) -> Result<Outcome<'_>, Fault> {
    let raw = required(raw, "data.response")?;
    Ok(Outcome {
        status_code: status_code(required(raw.status_code, "data.response.status_code")?)?,
        body: raw.body.unwrap_or_default().into(),
    })
}

fn status_code(code: i64) -> Result<u16, Fault> {
    let field = "data.response.status_code";
    within(code, 100..=599).ok_or_else(|| Fault::new(Rule::Range, field, "100 to 599."))
}

fn notification(raw: RawNotification<'_>) -> Result<Notification<'_>, Fault> {
    let address = required(raw.address, "data.notification.address")?;
    let port = required(raw.port, "data.notification.port")?;
    let field = "data.notification.port";
    Ok(Notification {
        address: sized(address, "data.notification.address", 1..=256)?,
        port: within(port, 1..=65_535)
            .ok_or_else(|| Fault::new(Rule::Range, field, "1 to 65535."))?,
    })
}

fn within(number: i64, range: std::ops::RangeInclusive<i64>) -> Option<u16> {
    range.contains(&number).then_some(number as u16)
}

fn required<T>(member: Option<T>, field: &str) -> Result<T, Fault> {
    member.ok_or_else(|| Fault::new(Rule::Format, field, "required."))
}

/// Lengths are counted in characters (Unicode scalar values).
fn sized<'a>(
    text: Text<'a>,
    field: &str,
    range: std::ops::RangeInclusive<usize>,
) -> Result<Text<'a>, Fault> {
    // A character is 1 to 4 bytes: short texts need no counting.
    let fits = !text.is_empty() && text.len() <= *range.end();
    if fits || range.contains(&text.chars().count()) {
        return Ok(text);
    }
    let what = format!("{} to {} characters.", range.start(), range.end());
    Err(Fault::new(Rule::Range, field, what))
}
