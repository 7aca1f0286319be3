//! Server-sent events: their text, and what both kinds of event streams share.

use super::App;
use super::error::Refusal;
use crate::domain::OperationId;
use axum::body::{Body, Bytes};
use axum::http::HeaderName;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use futures_util::stream::{self, StreamExt, TryStreamExt};
use std::future::Future;
use std::time::Duration;
use tokio::sync::OwnedSemaphorePermit;

pub const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

/// About this many bytes are handed to the connection at once.
pub const PIECE: usize = 32 << 10;
/// Minimum time between two checks of a stream for changes. Changes in between are sent together.
pub const REST: Duration = Duration::from_millis(10);

/// The data of `reset`.
pub static RESET: Bytes =
    Bytes::from_static(br#"{"reason":"the position is outside the kept window: list again"}"#);

/// One of the streams that may be open at the same time.
pub fn admit(app: &App) -> Result<OwnedSemaphorePermit, Refusal> {
    let permit = app.event_streams.clone().try_acquire_owned();
    permit.map_err(|_| Refusal::Busy("too many event streams."))
}

/// Data of an event up to this size is copied between the lines around it. Larger data is not
/// copied, because other streams may send the same.
const COPIED: usize = 16 << 10;

/// Blocks of a stream in the form in which they are sent.
#[derive(Default)]
pub struct Blocks {
    whole: Vec<Bytes>,
    /// Bytes in `whole`.
    len: usize,
    text: Vec<u8>,
}

impl Blocks {
    /// The beginning of every stream: how soon to connect again after it broke off. The head of
    /// the response is sent with it. It is a line of the first event, because a block without
    /// data is an empty event to some libraries.
    pub fn opening() -> Blocks {
        Blocks {
            text: b"retry: 1000\n".to_vec(),
            ..Blocks::default()
        }
    }

    /// `data` is JSON, which has no line ends. `id` is the position to resume after it.
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

    /// An event that has only the position to resume from.
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

    /// The chunks of the response body.
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

/// Why a wait ended.
pub enum Woken {
    Changed,
    /// Nothing was sent for the keep-alive interval.
    Silent,
    Stopping,
}

pub async fn wait(app: &App, changed: impl Future) -> Woken {
    tokio::select! {
        // In this order, so that a simulation does not depend on chance.
        biased;
        () = app.stopped() => Woken::Stopping,
        _ = changed => Woken::Changed,
        () = tokio::time::sleep(app.config.streams.keep_alive) => Woken::Silent,
    }
}

/// Returns the next blocks of a stream, until there are none.
pub trait PieceSource: Send + 'static {
    fn next(&mut self) -> impl Future<Output = Result<Option<Blocks>, Refusal>> + Send;
}

/// A response with the stream as its body. Blocks are made when the connection takes them, so
/// a client that reads nothing costs the memory of one piece. An error ends the response: the
/// client resumes.
pub fn respond(source: impl PieceSource) -> Response {
    let opening = stream::iter([Ok::<_, std::io::Error>(Blocks::opening())]);
    let blocks = stream::try_unfold(source, |mut source| async {
        let next = source.next().await.map_err(|refusal| {
            tracing::warn!(?refusal, "closing an event stream after an error");
            std::io::Error::other("broken off")
        })?;
        Ok::<_, std::io::Error>(next.map(|blocks| (blocks, source)))
    });
    let pieces = |blocks: Blocks| {
        stream::iter(
            blocks
                .into_pieces()
                .into_iter()
                .map(Ok::<_, std::io::Error>),
        )
    };
    let body = Body::from_stream(opening.chain(blocks).map_ok(pieces).try_flatten());
    let headers = [
        (CONTENT_TYPE, "text/event-stream"),
        (CACHE_CONTROL, "no-store"),
        // Proxies that buffer responses would delay events.
        (HeaderName::from_static("x-accel-buffering"), "no"),
    ];
    (headers, body).into_response()
}
