//! Server-sent events: their text, and what all event streams have in common.

use super::App;
use super::error::Refusal;
use super::stream;
use crate::query::document::{self, Current};
use crate::query::select::Query;
use axum::body::{Body, Bytes};
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::http::{HeaderName, HeaderValue};
use axum::response::{IntoResponse, Response};
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::OwnedSemaphorePermit;

pub const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

/// What is handed to the connection at once, about.
pub const PIECE: usize = 32 << 10;
/// A stream looks for changes no more often than this: what happens in between is seen
/// together.
pub const REST: Duration = Duration::from_millis(10);

/// A share of the streams that there may be at once.
pub fn admit(app: &App) -> Result<OwnedSemaphorePermit, Refusal> {
    let permit = app.event_streams.clone().try_acquire_owned();
    permit.map_err(|_| Refusal::Busy("too many event streams."))
}

/// Blocks of a stream, as they are sent.
pub struct Blocks(Vec<u8>);

impl Blocks {
    pub fn new() -> Blocks {
        Blocks(Vec::new())
    }

    /// What every stream begins with: how soon to connect again after it broke off. The
    /// head of the answer goes out with it. It is a line of the first event: a block without
    /// data is an empty event to some libraries.
    pub fn opening() -> Blocks {
        Blocks(b"retry: 1000\n".to_vec())
    }

    /// `data` is JSON, which has no line ends. `id` is where to resume behind it.
    pub fn event(&mut self, kind: &str, id: Option<&str>, data: &[u8]) {
        self.line("event", kind.as_bytes());
        if let Some(id) = id {
            self.line("id", id.as_bytes());
        }
        self.line("data", data);
        self.0.push(b'\n');
    }

    /// Where to resume, and nothing else.
    pub fn position(&mut self, id: &str) {
        let mut data = b"{\"position\":".to_vec();
        crate::wire::document::text(id, &mut data);
        data.push(b'}');
        self.event("position", Some(id), &data);
    }

    /// A comment, as a line of the next event.
    pub fn keep_alive(&mut self) {
        self.0.extend_from_slice(b": keep-alive\n");
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn into_bytes(self) -> Bytes {
        self.0.into()
    }

    fn line(&mut self, field: &str, value: &[u8]) {
        self.0.extend_from_slice(field.as_bytes());
        self.0.extend_from_slice(b": ");
        self.0.extend_from_slice(value);
        self.0.push(b'\n');
    }
}

/// The data of `left`, `removed` and `waiting`.
pub fn named(operation_id: &str) -> Vec<u8> {
    let mut data = b"{\"operation_id\":".to_vec();
    crate::wire::document::text(operation_id, &mut data);
    data.push(b'}');
    data
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

/// What a stream is made of: the next piece, until there is none.
pub trait Source: Send + 'static {
    fn next(&mut self) -> impl Future<Output = Result<Option<Bytes>, Refusal>> + Send;
}

/// The stream as an answer. Pieces are made when the connection takes them, so a client
/// that reads nothing costs what one piece costs. An error breaks it off: the client
/// resumes.
pub fn answer(source: impl Source) -> Response {
    let opening = futures_util::stream::iter([Ok(Blocks::opening().into_bytes())]);
    let pieces = futures_util::stream::unfold(source, |mut source| async {
        match source.next().await {
            Ok(Some(piece)) => Some((Ok(piece), source)),
            Ok(None) => None,
            Err(refusal) => {
                tracing::warn!(?refusal, "an event stream is broken off");
                Some((Err(std::io::Error::other("broken off")), source))
            }
        }
    });
    let body = futures_util::StreamExt::chain(opening, pieces);
    let mut response = Body::from_stream(body).into_response();
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    // Proxies that gather answers would keep events back.
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    response
}

/// Reads how an operation stands: at once if it is in memory.
pub async fn current(
    app: &Arc<App>,
    operation_id: &str,
    query: &Arc<Query>,
) -> Result<Current, Refusal> {
    let filter = &query.filter;
    if let Some(current) = document::current_cached(&*app.db, operation_id, filter, &app.times)? {
        return Ok(current);
    }
    let (operation_id, query) = (operation_id.to_owned(), query.clone());
    stream::blocking(app, move |app| {
        document::current(&*app.db, &operation_id, &query.filter, &app.times)
    })
    .await
}

/// The same for one of many streams, which share what they read: with all changes before
/// `as_of`.
pub async fn current_of_many(
    app: &Arc<App>,
    operation_id: &str,
    as_of: u64,
    query: &Arc<Query>,
) -> Result<Current, Refusal> {
    let filter = &query.filter;
    if let Some(current) = app.told.get(&*app.db, operation_id, as_of, filter)? {
        return Ok(current);
    }
    let (operation_id, query) = (operation_id.to_owned(), query.clone());
    stream::blocking(app, move |app| {
        app.told.read(&*app.db, &operation_id, &query.filter)
    })
    .await
}
