//! One attempt: `PUT http://{address}:{port}/v1/operations/{id}` with the document. It connects
//! to a checked address, without a proxy or redirects, and within a timeout.
//!
//! The status line decides. A receiver that wrote `200` has accepted the delivery, even if the
//! rest of its response is malformed. So this code reads the response itself: an HTTP client
//! would refuse a whole response because of one header.

use super::allow::{Allowed, Host};
use super::queue::Target;
use crate::domain::OperationId;
use crate::wire::notification::DeliveryKey;
use bytes::{Buf, Bytes, BytesMut};
use httparse::{EMPTY_HEADER, ParserConfig};
use std::net::SocketAddr;
use std::time::{Duration, SystemTime};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// How many bytes of a response are read. What follows the status line matters little.
const RESPONSE_MAX: usize = 64 << 10;
/// How long to read the rest of a response after its status line: for `Retry-After`, and so
/// that the receiver can finish writing.
const REST: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub struct Attempt<'a> {
    pub target: &'a Target,
    pub operation_id: OperationId<'a>,
    pub key: DeliveryKey,
    pub document: Bytes,
}

/// Why the attempt failed. The receiver may have received the document all the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttemptFailure {
    pub kind: FailureKind,
    pub why: String,
    pub retry_after: Option<Duration>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailureKind {
    /// Neither an address nor a name, so no retry can succeed.
    NoTarget,
    NotAllowed,
    Unresolved,
    Unreachable,
    /// The connection ended before the response.
    BrokenOff,
    TimedOut,
    /// A status other than 2xx.
    Refused,
    /// 429 or 503.
    Busy,
}

impl FailureKind {
    pub const ALL: [FailureKind; 8] = [
        FailureKind::NoTarget,
        FailureKind::NotAllowed,
        FailureKind::Unresolved,
        FailureKind::Unreachable,
        FailureKind::BrokenOff,
        FailureKind::TimedOut,
        FailureKind::Refused,
        FailureKind::Busy,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            FailureKind::NoTarget => "no_target",
            FailureKind::NotAllowed => "not_allowed",
            FailureKind::Unresolved => "unresolved",
            FailureKind::Unreachable => "unreachable",
            FailureKind::BrokenOff => "broken_off",
            FailureKind::TimedOut => "timed_out",
            FailureKind::Refused => "refused",
            FailureKind::Busy => "busy",
        }
    }

    /// Whether the failure concerns the target, and not only this delivery.
    pub fn is_of_target(self) -> bool {
        match self {
            FailureKind::Unresolved
            | FailureKind::Unreachable
            | FailureKind::BrokenOff
            | FailureKind::TimedOut
            | FailureKind::Busy => true,
            FailureKind::NoTarget | FailureKind::NotAllowed | FailureKind::Refused => false,
        }
    }
}

fn failure(kind: FailureKind, why: impl Into<String>) -> AttemptFailure {
    AttemptFailure {
        kind,
        why: why.into(),
        retry_after: None,
    }
}

impl Attempt<'_> {
    /// Returns the status of the response if it is a success.
    pub async fn run(&self, allowed: &Allowed, timeout: Duration) -> Result<u16, AttemptFailure> {
        let trying = self.put(allowed, timeout);
        let mut exchange = match tokio::time::timeout(timeout, trying).await {
            Ok(exchange) => exchange?,
            Err(_) => {
                let why = format!("no response within {} ms", timeout.as_millis());
                return Err(failure(FailureKind::TimedOut, why));
            }
        };
        let ResponseHead {
            status,
            retry_after,
            ..
        } = exchange.rest().await?;
        let (kind, why) = match status {
            200..=299 => return Ok(status),
            300..=399 => {
                let why = format!("response {status}: redirects are not followed");
                (FailureKind::Refused, why)
            }
            429 | 503 => (FailureKind::Busy, format!("response {status}")),
            _ => (FailureKind::Refused, format!("response {status}")),
        };
        Err(AttemptFailure {
            retry_after,
            ..failure(kind, why)
        })
    }

    /// Returns when the status line has arrived.
    async fn put(
        &self,
        allowed: &Allowed,
        timeout: Duration,
    ) -> Result<HttpExchange, AttemptFailure> {
        let no_target = || {
            failure(
                FailureKind::NoTarget,
                "the address is neither an IP address nor a name",
            )
        };
        let host = Host::parse(&self.target.address).ok_or_else(no_target)?;
        let found = host.look_up().await;
        let found = found.map_err(|why| failure(FailureKind::Unresolved, why))?;
        let checked = allowed.filter(&found, self.target.port);
        let checked = checked.map_err(|why| failure(FailureKind::NotAllowed, why))?;
        let mut exchange = HttpExchange {
            stream: connect(&checked, timeout).await?,
            unsent: self.head(&host).chain(self.document.clone()),
            received: BytesMut::new(),
        };
        exchange.until(|_| true).await?;
        Ok(exchange)
    }

    /// Needs no escaping: an operation id and a host contain no special character of an HTTP
    /// head.
    fn head(&self, host: &Host) -> Bytes {
        let head = format!(
            "PUT /v1/operations/{} HTTP/1.1\r\nhost: {}\r\nuser-agent: opledger/{}\r\n\
             content-type: application/json\r\ncontent-length: {}\r\n\
             idempotency-key: {}\r\nconnection: close\r\n\r\n",
            self.operation_id,
            host.with_port(self.target.port),
            env!("CARGO_PKG_VERSION"),
            self.document.len(),
            self.key,
        );
        head.into()
    }
}

/// A request in flight, and the part of the response that has arrived.
struct HttpExchange {
    stream: TcpStream,
    unsent: bytes::buf::Chain<Bytes, Bytes>,
    received: BytesMut,
}

impl HttpExchange {
    /// Sends and receives until the part of the response that has arrived is enough. An error
    /// if the connection ends before the status line.
    async fn until(
        &mut self,
        is_enough: impl Fn(&ResponseHead) -> bool,
    ) -> Result<ResponseHead, AttemptFailure> {
        let (mut reading, mut writing) = self.stream.split();
        loop {
            let seen = ResponseHead::of(&mut self.received)?;
            let is_full = self.received.len() >= RESPONSE_MAX;
            match seen {
                Some(seen) if is_full || is_enough(&seen) => return Ok(seen),
                None if is_full => return Err(broken_off("no status line in 64 KiB")),
                Some(_) | None => {}
            }
            tokio::select! {
                read = reading.read_buf(&mut self.received) => match (read, seen) {
                    (Ok(1..), _) => {}
                    (Ok(0) | Err(_), Some(seen)) => return Ok(seen),
                    (Ok(0), None) => {
                        return Err(broken_off("the connection ended before the response"));
                    }
                    (Err(error), None) => return Err(broken_off(error.to_string())),
                },
                sent = writing.write_buf(&mut self.unsent), if self.unsent.has_remaining() => {
                    if sent.is_err() {
                        // The receiver may have responded before it closed the connection.
                        self.unsent.advance(self.unsent.remaining());
                    }
                }
            }
        }
    }

    /// The response after waiting a little for its rest.
    async fn rest(&mut self) -> Result<ResponseHead, AttemptFailure> {
        let whole = tokio::time::timeout(REST, self.until(|seen| seen.is_whole)).await;
        match whole {
            Ok(seen) => seen,
            Err(_) => self.until(|_| true).await,
        }
    }
}

/// The response, as far as it has arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct ResponseHead {
    status: u16,
    retry_after: Option<Duration>,
    /// The head has arrived, and the body if the head gives its length.
    is_whole: bool,
}

impl ResponseHead {
    /// `None` before the status line. Removes interim responses (1xx).
    fn of(received: &mut BytesMut) -> Result<Option<ResponseHead>, AttemptFailure> {
        loop {
            let lines = memchr::memchr_iter(b'\n', received).count();
            let mut headers = vec![EMPTY_HEADER; lines];
            let mut response = httparse::Response::new(&mut headers);
            let parsed = ParserConfig::default()
                .allow_multiple_spaces_in_response_status_delimiters(true)
                .allow_spaces_after_header_name_in_responses(true)
                .allow_obsolete_multiline_headers_in_responses(true)
                .ignore_invalid_headers_in_responses(true)
                .parse_response(&mut response, received);
            let (Some(status), Some(_)) = (response.code, response.reason) else {
                return match parsed {
                    Ok(_) => Ok(None),
                    Err(error) => Err(broken_off(format!("not an HTTP/1 response: {error}"))),
                };
            };
            let header = |name: &str| {
                let mut headers = response.headers.iter();
                let found = headers.find(|header| header.name.eq_ignore_ascii_case(name))?;
                Some(std::str::from_utf8(found.value).ok()?.trim())
            };
            let head = match parsed {
                Ok(httparse::Status::Complete(length)) => Some(length),
                Ok(httparse::Status::Partial) | Err(_) => None,
            };
            // 101 is a final response, and the request asked for no upgrade.
            if (100..200).contains(&status) && status != 101 {
                match head {
                    Some(length) => received.advance(length),
                    None => return Ok(None),
                }
                continue;
            }
            let length = || header("content-length")?.parse::<usize>().ok();
            let is_whole = |head| {
                let body = if status == 204 { Some(0) } else { length() };
                body.is_some_and(|body| received.len() - head >= body)
            };
            return Ok(Some(ResponseHead {
                status,
                retry_after: head.and(header("retry-after")).and_then(retry_after),
                is_whole: head.is_some_and(is_whole),
            }));
        }
    }
}

/// The duration of `Retry-After`, given as seconds or as a date (RFC 9110, 10.2.3).
fn retry_after(value: &str) -> Option<Duration> {
    if !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit()) {
        // A number that overflows is the longest pause.
        return Some(Duration::from_secs(value.parse().unwrap_or(u64::MAX)));
    }
    let date = httpdate::parse_http_date(value).ok()?;
    Some(date.duration_since(SystemTime::now()).unwrap_or_default())
}

fn broken_off(why: impl Into<String>) -> AttemptFailure {
    failure(FailureKind::BrokenOff, why)
}

/// Tries the addresses one after the other, each with its share of the timeout.
async fn connect(addresses: &[SocketAddr], timeout: Duration) -> Result<TcpStream, AttemptFailure> {
    let share = timeout / (addresses.len() as u32).max(1);
    let mut last = failure(FailureKind::Unreachable, "there is no address");
    for address in addresses {
        match tokio::time::timeout(share, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) => {
                last = failure(FailureKind::Unreachable, format!("{address}: {error}"))
            }
            Err(_) => {
                last = failure(
                    FailureKind::TimedOut,
                    format!("{address}: no connection in time"),
                )
            }
        }
    }
    Err(last)
}

#[cfg(test)]
mod tests;
