//! Every reason to refuse a request. The only place that maps a reason to an HTTP status and to
//! a code of the error response.

use super::coding;
use crate::event_log::PublishError;
use crate::feed::documents::LoadError;
use crate::feed::unsent::NoRoom;
use crate::store;
use crate::wire::error_response::{Code, Consistency, render, render_fixed};
use crate::wire::fault::{Fault, Rule};
use axum::http::header::{ACCEPT, ACCEPT_ENCODING, CONTENT_TYPE, RETRY_AFTER};
use axum::http::{HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};

#[derive(Debug)]
pub enum Refusal {
    /// An event breaks a rule, with its place in the request.
    Fault(Fault),
    /// The operation has no document or no events.
    NotFound,
    NoSuchRoute,
    MethodNotAllowed,
    /// Not a content type for events.
    MediaType,
    /// Not a content type for JSON.
    NotJson,
    /// The content encoding is not supported.
    Coding,
    /// The body does not have the content encoding that its header names.
    Undecodable,
    /// A query parameter or header is malformed.
    Parameter {
        name: &'static str,
        what: &'static str,
    },
    /// The route does not have this query parameter.
    UnknownParameter(String),
    /// The header `Host` is missing, repeated or malformed.
    Host(&'static str),
    /// The header `Host` is not a name of this ledger.
    Misdirected,
    /// The list does not have this `format`.
    Format,
    /// The token belongs to another log.
    OtherLog,
    /// The read point of a cursor has expired; the text says how to continue.
    ReadPointGone(String),
    /// The position was not reached in time; the response has the position that was reached.
    WaitTimedOut,
    /// The log was not verified as the store's own in time, so its positions are not valid.
    LogNotCompared,
    /// The projector has halted because of the log, so its positions are not valid.
    LogHalted(String),
    BodyTooLarge {
        limit: u64,
    },
    BodyTimedOut,
    /// The client stopped sending its body.
    BodyBroken,
    /// A limit is reached. Nothing was stored or read.
    Busy(&'static str),
    /// The response would exceed the memory for unread responses.
    NoRoom,
    Publish(PublishError),
    Store(store::Error),
    /// The store is new and has not reached its log yet.
    NotReached,
    /// Webhook deliveries cannot be changed now, and why.
    NoNotifications(String),
    Stopping,
    Panicked,
}

impl From<Fault> for Refusal {
    fn from(fault: Fault) -> Refusal {
        Refusal::Fault(fault)
    }
}

impl From<store::Error> for Refusal {
    fn from(error: store::Error) -> Refusal {
        Refusal::Store(error)
    }
}

impl From<NoRoom> for Refusal {
    fn from(_: NoRoom) -> Refusal {
        Refusal::NoRoom
    }
}

impl From<LoadError> for Refusal {
    fn from(error: LoadError) -> Refusal {
        match error {
            LoadError::Store(error) => Refusal::Store(error),
            LoadError::NoRoom(full) => full.into(),
        }
    }
}

impl From<PublishError> for Refusal {
    fn from(error: PublishError) -> Refusal {
        match error {
            PublishError::Busy => Refusal::Busy("too many events wait to be stored."),
            other @ (PublishError::Rejected(_) | PublishError::Unknown(_)) => {
                Refusal::Publish(other)
            }
        }
    }
}

/// Which member of the error response has the details. The two resources of the
/// fabric-controller interface have only the fixed texts as message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Detail {
    InMessage,
    Apart,
}

struct ErrorParts {
    status: StatusCode,
    code: Code,
    detail: Option<String>,
    consistency: Consistency,
    header: Option<(HeaderName, HeaderValue)>,
}

impl ErrorParts {
    fn new(status: StatusCode, code: Code, detail: &str) -> ErrorParts {
        ErrorParts {
            status,
            code,
            detail: Some(detail.into()),
            consistency: Consistency::RolledBack,
            header: None,
        }
    }

    fn with(mut self, name: HeaderName, value: &'static str) -> ErrorParts {
        self.header = Some((name, HeaderValue::from_static(value)));
        self
    }

    fn status(self, status: StatusCode) -> ErrorParts {
        ErrorParts { status, ..self }
    }
}

fn bad_request(code: Code, detail: &str) -> ErrorParts {
    ErrorParts::new(StatusCode::BAD_REQUEST, code, detail)
}

fn too_large(detail: &str) -> ErrorParts {
    bad_request(Code::ParameterRange, detail).status(StatusCode::PAYLOAD_TOO_LARGE)
}

impl Refusal {
    fn parts(&self) -> ErrorParts {
        use StatusCode as S;
        let malformed = |detail: &str| bad_request(Code::ParameterFormat, detail);
        let unsupported = |detail: &str, header, supported| {
            let parts = malformed(detail).with(header, supported);
            parts.status(S::UNSUPPORTED_MEDIA_TYPE)
        };
        let gone = |detail: &str| bad_request(Code::ParameterRange, detail).status(S::GONE);
        let not_found = |detail| ErrorParts::new(S::NOT_FOUND, Code::NotFound, detail);
        let busy = |status, detail: &str| {
            ErrorParts::new(status, Code::SystemStatus, detail).with(RETRY_AFTER, "1")
        };
        let unavailable = |detail: &str| busy(S::SERVICE_UNAVAILABLE, detail);
        match self {
            Refusal::Fault(fault) => fault_parts(fault),
            Refusal::NotFound => ErrorParts {
                detail: None,
                ..not_found("")
            },
            Refusal::NoSuchRoute => not_found("no such route."),
            Refusal::MethodNotAllowed => {
                malformed("method not allowed here.").status(S::METHOD_NOT_ALLOWED)
            }
            Refusal::MediaType => unsupported(
                "content-type: application/cloudevents+json, \
                 application/cloudevents-batch+json, or application/json with ce- headers; in UTF-8.",
                ACCEPT,
                "application/cloudevents+json, application/cloudevents-batch+json, \
                 application/json",
            ),
            Refusal::NotJson => unsupported(
                "content-type: application/json.",
                ACCEPT,
                "application/json",
            ),
            Refusal::Coding => unsupported(
                "content-encoding: gzip or zstd, or none.",
                ACCEPT_ENCODING,
                coding::ACCEPTED,
            ),
            Refusal::Undecodable => malformed("body: not what content-encoding says."),
            Refusal::Parameter { name, what } => malformed(&format!("{name}: {what}")),
            Refusal::UnknownParameter(name) => {
                malformed(&format!("{name}: unknown query parameter."))
            }
            Refusal::Host(what) => malformed(&format!("host: {what}")),
            Refusal::Misdirected => ErrorParts::new(
                S::MISDIRECTED_REQUEST,
                Code::ParameterValue,
                "host: not a name of this ledger; the setting server.hosts names more.",
            ),
            Refusal::Format => bad_request(Code::ParameterValue, "format: list or detail-list."),
            Refusal::OtherLog => gone("Ledger-Position: of another log."),
            Refusal::ReadPointGone(how) => gone(how),
            Refusal::WaitTimedOut => busy(
                S::GATEWAY_TIMEOUT,
                "Ledger-Position: not reached in time; this response has the position that was.",
            ),
            Refusal::LogNotCompared => busy(
                S::GATEWAY_TIMEOUT,
                "Ledger-Position: the log was not compared with the store in time, see /readyz.",
            ),
            Refusal::LogHalted(why) => {
                unavailable(&format!("Ledger-Position: not known to be reached: {why}."))
            }
            Refusal::BodyTooLarge { limit } => too_large(&format!("body: at most {limit} bytes.")),
            Refusal::BodyTimedOut => {
                malformed("body: did not arrive in time.").status(S::REQUEST_TIMEOUT)
            }
            Refusal::BodyBroken => malformed("body: broken off."),
            Refusal::Busy(what) => busy(S::TOO_MANY_REQUESTS, what),
            Refusal::NoRoom => unavailable(&format!("{NoRoom}.")),
            Refusal::Publish(PublishError::Busy) => busy(S::TOO_MANY_REQUESTS, "busy."),
            Refusal::Publish(PublishError::Rejected(why)) => {
                unavailable(&format!("nothing was stored: {why}."))
            }
            Refusal::Publish(PublishError::Unknown(why)) => ErrorParts {
                consistency: Consistency::Unknown,
                ..unavailable(&format!(
                    "part may be stored, sending the same again is harmless: {why}."
                ))
            },
            Refusal::Store(error) => store_parts(error),
            Refusal::NotReached => unavailable("the log has not been reached yet."),
            Refusal::NoNotifications(why) => unavailable(&format!("{why}.")),
            Refusal::Stopping => unavailable("stopping."),
            Refusal::Panicked => ErrorParts {
                consistency: Consistency::Unknown,
                ..ErrorParts::new(
                    S::INTERNAL_SERVER_ERROR,
                    Code::Undefined,
                    "a fault of the ledger's own; its log has more.",
                )
            },
        }
    }

    pub fn into_response_with(self, detail: Detail) -> Response {
        let parts = self.parts();
        let text = parts.detail.as_deref();
        let body = match detail {
            Detail::InMessage => render(parts.code, text, parts.consistency),
            Detail::Apart => render_fixed(parts.code, text, parts.consistency),
        };
        let mut response = (parts.status, body).into_response();
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.extend(parts.header);
        let status = parts.status.as_u16();
        match parts.status {
            // This is the ledger's state and not the request's. The code that changes the state
            // logs it once, and `opledger_http_requests_total` counts the refusals.
            StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT => {
                tracing::debug!(refusal = ?self, status, "request refused");
            }
            other if other.is_server_error() => {
                tracing::warn!(refusal = ?self, status, "request failed");
            }
            _ => {}
        }
        response
    }
}

fn fault_parts(fault: &Fault) -> ErrorParts {
    let detail = fault.to_string();
    match fault.rule {
        Rule::Format | Rule::KeyMismatch | Rule::Tombstone => {
            bad_request(Code::ParameterFormat, &detail)
        }
        Rule::Value | Rule::UnknownType => bad_request(Code::ParameterValue, &detail),
        Rule::Range => bad_request(Code::ParameterRange, &detail),
        Rule::Size => too_large(&detail),
    }
}

/// RocksDB's message stays in the log, because it contains paths of the server.
fn store_parts(error: &store::Error) -> ErrorParts {
    let failed = |code, detail| ErrorParts::new(StatusCode::INTERNAL_SERVER_ERROR, code, detail);
    match error {
        store::Error::Closed(_) => failed(Code::SystemStatus, "the store is being reopened.")
            .status(StatusCode::SERVICE_UNAVAILABLE)
            .with(RETRY_AFTER, "1"),
        store::Error::InUse(_) | store::Error::Setting(_) | store::Error::OtherFormat(_) => {
            failed(Code::StoreConnection, "the store cannot be opened.")
        }
        store::Error::NoSpace(_) | store::Error::Io(_) | store::Error::Corrupt(_) => {
            failed(Code::StoreOperation, "the store cannot be read.")
        }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        self.into_response_with(Detail::InMessage)
    }
}

/// The list of the fabric-controller interface has 500 where other resources have 503.
pub fn of_the_list(mut response: Response) -> Response {
    if response.status() == StatusCode::SERVICE_UNAVAILABLE {
        *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
    }
    response
}

/// Status and body for a request that the HTTP library refused with this status before it
/// reached a handler.
pub fn unreadable_request(status: u16) -> (StatusCode, Vec<u8>) {
    let (status, code, detail) = match status {
        414 => (
            StatusCode::URI_TOO_LONG,
            Code::ParameterRange,
            "request line: too long.",
        ),
        431 => (
            StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Code::ParameterRange,
            "headers: too large or too many.",
        ),
        _ => (
            StatusCode::BAD_REQUEST,
            Code::ParameterFormat,
            "not an HTTP request.",
        ),
    };
    (status, render(code, Some(detail), Consistency::RolledBack))
}

/// For a connection above the limit.
pub fn too_many_connections() -> (StatusCode, Vec<u8>) {
    let body = render(
        Code::SystemStatus,
        Some("too many connections."),
        Consistency::RolledBack,
    );
    (StatusCode::SERVICE_UNAVAILABLE, body)
}
