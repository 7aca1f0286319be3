//! The two resources of the fabric-controller interface: one operation, and the list of them.

use super::conditional::matches_etag;
use super::error::{self, Detail, Refusal};
use super::filters::FILTERS;
use super::params::Params;
use super::reading::{Reading, Scope};
use super::{App, accept, listing, reading, stream, watch, watch_all};
use crate::domain::OperationId;
use crate::feed::documents::{Current, RenderedDocument};
use crate::rows::filter::Filter;
use crate::wire::event::operation_id_fault;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::header::{CONTENT_TYPE, ETAG, IF_NONE_MATCH, VARY};
use axum::http::{self, HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http_body_util::Full;
use std::pin::pin;
use std::sync::Arc;
use std::time::Instant;

pub(super) const ROUTE: &str = "/v1/operations/{operation_id}";

/// A request with one of these headers is more than a plain read.
const SPECIAL: [HeaderName; 3] = [
    super::LEDGER_POSITION,
    IF_NONE_MATCH,
    HeaderName::from_static("prefer"),
];

/// The response to the most frequent request: a plain GET of a document that is in memory. `None`
/// if there is more to it, or any doubt: then `get` gives the same response.
pub fn get_cached<B>(app: &App, request: &Request<B>) -> Option<http::Response<Full<Bytes>>> {
    let (uri, asked) = (request.uri(), request.headers());
    if request.method() != Method::GET || uri.query().is_some() {
        return None;
    }
    let operation_id = uri.path().strip_prefix("/v1/operations/")?;
    // After this, nothing is left that would have to be decoded.
    if operation_id_fault(operation_id).is_some() {
        return None;
    }
    if SPECIAL.iter().any(|name| asked.contains_key(name)) || accept::wants_stream(asked) {
        return None;
    }
    // Before the store is read: the response includes at least this much.
    let operation_id = OperationId(operation_id);
    let applied = app.progress.applied_of(operation_id);
    let (db, all) = (&*app.db, Filter::everything());
    let found = app
        .documents
        .load_cached(db, operation_id, applied.next_change, all);
    let Ok(Some(Current::Shown(document))) = found else {
        return None;
    };
    let mut response = http::Response::new(Full::new(document.bytes));
    let headers = response.headers_mut();
    headers.reserve(6);
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(ETAG, etag_value(document.etag));
    headers.insert(VARY, accept::VARIES);
    reading::stamp(&applied, headers);
    Some(response)
}

/// The parameters of one operation.
pub(super) const ONE: &[&str] = &["position"];

pub async fn get(
    State(app): State<Arc<App>>,
    path: Result<Path<String>, PathRejection>,
    uri: Uri,
    headers: HeaderMap,
) -> Response {
    let answer = match path {
        Ok(Path(id)) if accept::wants_stream(&headers) => {
            watch::operation(&app, id, &uri, &headers).await
        }
        Ok(Path(operation_id)) => get_document(&app, operation_id, &uri, &headers).await,
        // Not UTF-8, so no operation has this name.
        Err(_) => Err(Refusal::NotFound),
    };
    accept::vary(with_fixed_texts(&app, &headers, &uri, answer))
}

async fn get_document(
    app: &Arc<App>,
    operation_id: String,
    uri: &Uri,
    headers: &HeaderMap,
) -> Result<Response, Refusal> {
    let params = Params::parse(app, uri, ONE)?;
    let operation_id = OperationId(&operation_id);
    let token = reading::token(headers, &params)?;
    let scope = Scope::Operation(operation_id);
    let mut reading = reading::begin(app, headers, scope, token).await?;
    if operation_id_fault(&operation_id).is_some() {
        return Err(Refusal::NotFound);
    }
    let mut found = read_document(app, &reading, operation_id).await?;
    if let Some(deadline) = reading.deadline
        && !is_news(&found, headers)
    {
        found = wait_for_news(app, operation_id, headers, &mut reading, deadline).await?;
    }
    let Some(found) = found else {
        return Ok(reading.stamp(Refusal::NotFound.into_response_with(Detail::Apart)));
    };
    let mut response = if matches_etag(headers, &found.etag) {
        StatusCode::NOT_MODIFIED.into_response()
    } else {
        stream::json(found.bytes)
    };
    response.headers_mut().insert(ETAG, etag_value(found.etag));
    Ok(reading.stamp(response))
}

async fn read_document(
    app: &Arc<App>,
    reading: &Reading,
    operation_id: OperationId<'_>,
) -> Result<Option<RenderedDocument>, Refusal> {
    let (at_least, all) = (reading.applied.next_change, Filter::everything());
    let current = reading::document(app, operation_id, at_least, all, Arc::default());
    Ok(current.await?.document())
}

/// There is a document that the client does not have.
fn is_news(found: &Option<RenderedDocument>, headers: &HeaderMap) -> bool {
    found
        .as_ref()
        .is_some_and(|found| !matches_etag(headers, &found.etag))
}

/// Reads again after each change of the operation, until the document is a new one. Returns the
/// last document if that does not happen in time.
async fn wait_for_news(
    app: &Arc<App>,
    operation_id: OperationId<'_>,
    headers: &HeaderMap,
    reading: &mut Reading,
    deadline: Instant,
) -> Result<Option<RenderedDocument>, Refusal> {
    let watching = app.progress.watchers.watch(operation_id);
    loop {
        // Subscribes before it reads, so that no change is missed.
        let mut changed = pin!(watching.changed());
        changed.as_mut().enable();
        reading.applied = app.progress.applied_of(operation_id);
        let found = read_document(app, reading, operation_id).await?;
        if is_news(&found, headers) || !reading::happened(app, changed, deadline).await {
            return Ok(found);
        }
    }
}

pub fn etag_value(etag: Bytes) -> HeaderValue {
    HeaderValue::from_maybe_shared(etag).expect("hex in quotes is a header value")
}

pub async fn list(State(app): State<Arc<App>>, uri: Uri, headers: HeaderMap) -> Response {
    if accept::wants_stream(&headers) {
        // The fabric-controller interface has no streams, so their statuses are our own.
        let answer = watch_all::operations(&app, &uri, &headers).await;
        return accept::vary(with_fixed_texts(&app, &headers, &uri, answer));
    }
    let answer = listing::operations(&app, &uri, &headers).await;
    // Only a page is kept in memory, and the fabric-controller interface has no pages.
    let is_page = matches!(answer, Err(Refusal::NoRoom));
    let response = accept::vary(with_fixed_texts(&app, &headers, &uri, answer));
    match is_page {
        true => response,
        false => error::of_the_list(response),
    }
}

/// With the fixed texts of the fabric-controller interface, unless the request uses an extension.
fn with_fixed_texts(
    app: &App,
    headers: &HeaderMap,
    uri: &Uri,
    answer: Result<Response, Refusal>,
) -> Response {
    answer.unwrap_or_else(|refusal| {
        let asked = headers.contains_key(super::LEDGER_POSITION)
            || accept::wants_stream(headers)
            || uri.query().is_some_and(has_extension);
        let detail = if asked {
            Detail::InMessage
        } else {
            Detail::Apart
        };
        reading::stamp_now(app, refusal.into_response_with(detail))
    })
}

fn has_extension(query: &str) -> bool {
    let names = form_urlencoded::parse(query.as_bytes()).map(|(name, _)| name);
    let mut known = names.filter(|name| *name != "format");
    known.any(|name| listing::EXTENSIONS.contains(&&*name) || FILTERS.contains(&&*name))
}
