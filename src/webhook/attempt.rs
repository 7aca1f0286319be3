//! One try: `PUT http://{address}:{port}/v1/operations/{id}` with the document. The
//! connection goes to an address that was checked; no proxy, no redirect, no body that
//! is longer than need be, and an end in time.

use super::allow::{Allowed, Host};
use crate::wire::notification_v1::Key;
use bytes::Bytes;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::client::conn::http1;
use hyper::header::{CONNECTION, CONTENT_TYPE, HOST, RETRY_AFTER, USER_AGENT};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::net::TcpStream;

/// Bytes of an answer's body that are read: it says nothing that matters.
const ANSWER_MAX: usize = 64 << 10;
/// Bytes of an answer's head.
const HEAD_MAX: usize = 64 << 10;

#[derive(Debug, Clone)]
pub struct Attempt {
    pub address: String,
    pub port: u16,
    pub operation_id: String,
    pub key: Key,
    pub document: Bytes,
}

/// Why it was not delivered. Each may have been received all the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    pub kind: Kind,
    pub why: String,
    pub retry_after: Option<Duration>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Neither an address nor a name: no try will ever help.
    NoTarget,
    NotAllowed,
    Unresolved,
    Unreachable,
    /// The connection ended before the answer did.
    BrokenOff,
    TimedOut,
    /// An answer that is no success.
    Refused,
    /// An answer that says "not now".
    Busy,
}

impl Kind {
    pub const ALL: [Kind; 8] = [
        Kind::NoTarget,
        Kind::NotAllowed,
        Kind::Unresolved,
        Kind::Unreachable,
        Kind::BrokenOff,
        Kind::TimedOut,
        Kind::Refused,
        Kind::Busy,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Kind::NoTarget => "no_target",
            Kind::NotAllowed => "not_allowed",
            Kind::Unresolved => "unresolved",
            Kind::Unreachable => "unreachable",
            Kind::BrokenOff => "broken_off",
            Kind::TimedOut => "timed_out",
            Kind::Refused => "refused",
            Kind::Busy => "busy",
        }
    }

    /// Whether it says something of the target, or of this notification alone.
    pub fn is_of_target(self) -> bool {
        match self {
            Kind::Unresolved
            | Kind::Unreachable
            | Kind::BrokenOff
            | Kind::TimedOut
            | Kind::Busy => true,
            Kind::NoTarget | Kind::NotAllowed | Kind::Refused => false,
        }
    }
}

fn failure(kind: Kind, why: impl Into<String>) -> Failure {
    Failure {
        kind,
        why: why.into(),
        retry_after: None,
    }
}

impl Attempt {
    /// The status of the answer, if that is a success.
    pub async fn run(&self, allowed: &Allowed, timeout: Duration) -> Result<u16, Failure> {
        let trying = self.put(allowed, timeout);
        match tokio::time::timeout(timeout, trying).await {
            Ok(outcome) => outcome,
            Err(_) => {
                let why = format!("no whole answer within {} ms", timeout.as_millis());
                Err(failure(Kind::TimedOut, why))
            }
        }
    }

    async fn put(&self, allowed: &Allowed, timeout: Duration) -> Result<u16, Failure> {
        let no_target = || {
            failure(
                Kind::NoTarget,
                "the address is neither an IP address nor a name",
            )
        };
        let host = Host::parse(&self.address).ok_or_else(no_target)?;
        let found = host.look_up().await;
        let found = found.map_err(|why| failure(Kind::Unresolved, why))?;
        let checked = allowed.filter(&found, self.port);
        let checked = checked.map_err(|why| failure(Kind::NotAllowed, why))?;
        let stream = connect(&checked, timeout).await?;
        let answer = self.exchange(&host, stream).await?;
        let status = answer.status().as_u16();
        let retry_after = answer.headers().get(RETRY_AFTER);
        let seconds = retry_after.and_then(|value| value.to_str().ok()?.trim().parse().ok());
        let refused = |kind, why: String| Failure {
            retry_after: seconds.map(Duration::from_secs),
            ..failure(kind, why)
        };
        match status {
            200..=299 => {}
            300..=399 => {
                let why = format!("answered {status}: redirects are not followed");
                return Err(refused(Kind::Refused, why));
            }
            429 | 503 => return Err(refused(Kind::Busy, format!("answered {status}"))),
            _ => return Err(refused(Kind::Refused, format!("answered {status}"))),
        }
        // An answer that breaks off was perhaps not meant: it is asked for once more.
        match Limited::new(answer.into_body(), ANSWER_MAX).collect().await {
            Ok(_) => Ok(status),
            Err(error) if error.is::<LengthLimitError>() => Ok(status),
            Err(error) => Err(failure(
                Kind::BrokenOff,
                format!("answered {status} and broke off: {error}"),
            )),
        }
    }

    async fn exchange(&self, host: &Host, stream: TcpStream) -> Result<Response<Driven>, Failure> {
        let broken = |error: hyper::Error| failure(Kind::BrokenOff, cause(&error));
        let mut builder = http1::Builder::new();
        let handshake = builder
            .max_buf_size(HEAD_MAX)
            .handshake::<_, Full<Bytes>>(TokioIo::new(stream));
        let (mut sender, connection) = handshake.await.map_err(broken)?;
        let driver = Driver(tokio::spawn(async move {
            // What goes wrong is told to whoever waits for the answer.
            let _ = connection.await;
        }));
        let request = Request::put(format!("/v1/operations/{}", self.operation_id))
            .header(HOST, host.with_port(self.port))
            .header(USER_AGENT, concat!("opledger/", env!("CARGO_PKG_VERSION")))
            .header(CONTENT_TYPE, "application/json")
            .header("idempotency-key", self.key.to_string())
            .header(CONNECTION, "close")
            .body(Full::new(self.document.clone()))
            .expect("an operation id and a host have nothing that a header forbids");
        let answer = sender.send_request(request).await.map_err(broken)?;
        Ok(answer.map(|body| Driven {
            body,
            _driver: driver,
        }))
    }
}

/// One after the other, each with its share of the time.
async fn connect(addresses: &[SocketAddr], timeout: Duration) -> Result<TcpStream, Failure> {
    let share = timeout / (addresses.len() as u32).max(1);
    let mut last = failure(Kind::Unreachable, "there is no address");
    for address in addresses {
        match tokio::time::timeout(share, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) => last = failure(Kind::Unreachable, format!("{address}: {error}")),
            Err(_) => last = failure(Kind::TimedOut, format!("{address}: no connection in time")),
        }
    }
    Err(last)
}

/// hyper's layers each say that there was an error; only the innermost says which.
fn cause(error: &hyper::Error) -> String {
    let mut text = error.to_string();
    let mut cause: &dyn std::error::Error = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
        text = format!("{error}: {cause}");
    }
    text
}

/// Ends with whoever waits for it, so that no connection outlives its try.
struct Driver(tokio::task::JoinHandle<()>);

impl Drop for Driver {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// A body that keeps its connection going.
struct Driven {
    body: hyper::body::Incoming,
    _driver: Driver,
}

impl hyper::body::Body for Driven {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<hyper::body::Frame<Bytes>, hyper::Error>>> {
        std::pin::Pin::new(&mut self.body).poll_frame(cx)
    }
}
