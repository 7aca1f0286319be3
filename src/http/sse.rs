//! Server-sent events: their text, and what all event streams have in common.

use super::App;
use super::error::Refusal;
use crate::domain::OperationId;
use axum::body::{Body, Bytes};
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::http::{HeaderName, HeaderValue};
use axum::response::{IntoResponse, Response};
use futures_util::StreamExt;
use std::future::Future;
use std::time::Duration;
use tokio::sync::OwnedSemaphorePermit;

pub const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

/// What is handed to the connection at once, about.
pub const PIECE: usize = 32 << 10;
/// A stream looks for changes no more often than this: what happens in between is seen
/// together.
pub const REST: Duration = Duration::from_millis(10);

/// The data of `reset`.
pub static RESET: Bytes =
    Bytes::from_static(br#"{"reason":"the position is outside the kept window: list again"}"#);

/// A share of the streams that there may be at once.
pub fn admit(app: &App) -> Result<OwnedSemaphorePermit, Refusal> {
    let permit = app.event_streams.clone().try_acquire_owned();
    permit.map_err(|_| Refusal::Busy("too many event streams."))
}

/// Data of an event that is no larger is copied between the lines around it; a larger one is
/// sent as it is, since others may be sent it, too.
const COPIED: usize = 16 << 10;

/// Blocks of a stream, as they are sent.
#[derive(Default)]
pub struct Blocks {
    whole: Vec<Bytes>,
    /// Bytes of these.
    len: usize,
    text: Vec<u8>,
}

impl Blocks {
    pub fn new() -> Blocks {
        Blocks::default()
    }

    /// What every stream begins with: how soon to connect again after it broke off. The
    /// head of the answer goes out with it. It is a line of the first event: a block without
    /// data is an empty event to some libraries.
    pub fn opening() -> Blocks {
        Blocks {
            text: b"retry: 1000\n".to_vec(),
            ..Blocks::default()
        }
    }

    /// `data` is JSON, which has no line ends. `id` is where to resume behind it.
    pub fn event(&mut self, kind: &str, id: Option<&str>, data: &Bytes) {
        self.line("event", kind.as_bytes());
        if let Some(id) = id {
            self.line("id", id.as_bytes());
        }
        if data.len() <= COPIED {
            self.line("data", data);
        } else {
            self.text.extend_from_slice(b"data: ");
            self.cut();
            self.put(data.clone());
            self.text.push(b'\n');
        }
        self.text.push(b'\n');
    }

    /// Where to resume, and nothing else.
    pub fn position(&mut self, id: &str) {
        let mut data = b"{\"position\":".to_vec();
        crate::wire::document::text(id, &mut data);
        data.push(b'}');
        self.event("position", Some(id), &data.into());
    }

    /// A comment, as a line of the next event.
    pub fn keep_alive(&mut self) {
        self.text.extend_from_slice(b": keep-alive\n");
    }

    pub fn len(&self) -> usize {
        self.len + self.text.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What the connection is handed, one after the other.
    pub fn into_pieces(mut self) -> Vec<Bytes> {
        self.cut();
        self.whole
    }

    fn cut(&mut self) {
        if !self.text.is_empty() {
            let text = std::mem::take(&mut self.text);
            self.put(text.into());
        }
    }

    fn put(&mut self, piece: Bytes) {
        self.len += piece.len();
        self.whole.push(piece);
    }

    fn line(&mut self, field: &str, value: &[u8]) {
        self.text.extend_from_slice(field.as_bytes());
        self.text.extend_from_slice(b": ");
        self.text.extend_from_slice(value);
        self.text.push(b'\n');
    }
}

/// The data of `left`, `removed` and `waiting`.
pub fn named(operation_id: OperationId) -> Bytes {
    let mut data = b"{\"operation_id\":".to_vec();
    crate::wire::document::text(&operation_id, &mut data);
    data.push(b'}');
    data.into()
}

/// What ended a wait.
pub enum Woken {
    Changed,
    /// Nothing has been said for long.
    Silent,
    Stopping,
}

pub async fn wait(app: &App, changed: impl Future) -> Woken {
    tokio::select! {
        // In this order, so that what comes at the same time is not left to chance.
        biased;
        () = app.stopped() => Woken::Stopping,
        _ = changed => Woken::Changed,
        () = tokio::time::sleep(app.config.streams.keep_alive) => Woken::Silent,
    }
}

/// What a stream is made of: the next blocks, until there are none.
pub trait PieceSource: Send + 'static {
    fn next(&mut self) -> impl Future<Output = Result<Option<Blocks>, Refusal>> + Send;
}

/// The stream as an answer. Pieces are made when the connection takes them, so a client
/// that reads nothing costs what one piece costs. An error breaks it off: the client
/// resumes.
pub fn answer(source: impl PieceSource) -> Response {
    let opening = futures_util::stream::iter([Ok(Blocks::opening())]);
    let blocks = futures_util::stream::unfold(source, |mut source| async {
        match source.next().await {
            Ok(Some(blocks)) => Some((Ok(blocks), source)),
            Ok(None) => None,
            Err(refusal) => {
                tracing::warn!(?refusal, "closing an event stream after an error");
                Some((Err(std::io::Error::other("broken off")), source))
            }
        }
    });
    let body = opening.chain(blocks).flat_map(|blocks| {
        let pieces = match blocks {
            Ok(blocks) => blocks.into_pieces().into_iter().map(Ok).collect(),
            Err(error) => vec![Err(error)],
        };
        futures_util::stream::iter(pieces)
    });
    let mut response = Body::from_stream(body).into_response();
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    // Proxies that gather answers would keep events back.
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    response
}
