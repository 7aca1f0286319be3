//! For auditors: the history of an operation, and the dead letters. Both come as a stream, or in
//! pages if `limit` is given.

use super::error::Refusal;
use super::paging::{self, BAD_CURSOR};
use super::params::Params;
use super::reading::Scope;
use super::{App, reading, stream};
use crate::domain::OperationId;
use crate::query::{Emit, Page, dead_letters, history};
use crate::rows::{records, state};
use crate::store;
use crate::wire::event::operation_id_fault;
use crate::wire::position::Position;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, Uri};
use axum::response::Response;
use bytes::Bytes;
use std::ops::ControlFlow;
use std::sync::Arc;

/// The query parameters of both.
pub(super) const PAGED: &[&str] = &["limit", "cursor", "position"];

pub async fn history(
    State(app): State<Arc<App>>,
    path: Result<Path<String>, PathRejection>,
    uri: Uri,
    headers: HeaderMap,
) -> Response {
    let answer = async {
        // Not UTF-8: no operation has this name.
        let Path(operation_id) = path.map_err(|_| Refusal::NotFound)?;
        let params = Params::parse(&app, &uri, PAGED)?;
        let page = page(&params)?;
        let token = reading::token(&headers, &params)?;
        let scope = Scope::Operation(OperationId(&operation_id));
        let reading = reading::begin(&app, &headers, scope, token).await?;
        if operation_id_fault(&operation_id).is_some() {
            return Err(Refusal::NotFound);
        }
        let after = page.after.as_deref();
        if after.is_some_and(|event| !records::is_event_of(event, OperationId(&operation_id))) {
            return Err(BAD_CURSOR);
        }
        let known = operation_id.clone();
        let is_known = stream::blocking(&app, move |app| {
            store::view(&*app.db, |view| state::is_known(view, OperationId(&known)))
        });
        if !is_known.await? {
            return Err(Refusal::NotFound);
        }
        let response = listed(&app, &uri, page, move |app, page, emit| {
            let found = history::stream(&*app.db, OperationId(&operation_id), page, emit);
            Ok(found?.flatten())
        });
        Ok(reading.stamp(response.await?))
    };
    finish(&app, answer.await)
}

pub async fn dead_letters(State(app): State<Arc<App>>, uri: Uri, headers: HeaderMap) -> Response {
    let answer = async {
        let params = Params::parse(&app, &uri, PAGED)?;
        let page = page(&params)?;
        let after = page.after.as_deref();
        if after.is_some_and(|after| Position::of_key(after).is_none()) {
            return Err(BAD_CURSOR);
        }
        let token = reading::token(&headers, &params)?;
        let reading = reading::begin(&app, &headers, Scope::All, token).await?;
        let response = listed(&app, &uri, page, |app, page, emit| {
            dead_letters::stream(&*app.db, page, emit)
        });
        Ok(reading.stamp(response.await?))
    };
    finish(&app, answer.await)
}

/// A page if it has a limit, else a stream. `read` returns the key after which the next page
/// begins.
async fn listed(
    app: &Arc<App>,
    uri: &Uri,
    page: Page,
    read: impl FnOnce(&App, &Page, &mut Emit) -> store::Result<Option<Vec<u8>>> + Send + 'static,
) -> Result<Response, Refusal> {
    if page.limit.is_none() {
        return stream::answer(app, move |app, emit| read(app, &page, emit).map(drop)).await;
    }
    let (next, body) = collect(app, move |app, emit| read(app, &page, emit)).await?;
    Ok(linked(uri, next, body))
}

pub(super) fn finish(app: &App, answer: Result<Response, Refusal>) -> Response {
    answer.unwrap_or_else(|refusal| {
        reading::stamp_now(
            app,
            refusal.into_response_with(super::error::Detail::InMessage),
        )
    })
}

pub(super) fn page(params: &Params) -> Result<Page, Refusal> {
    Ok(Page {
        after: paging::cursor(params)?,
        limit: paging::limit(params)?,
    })
}

/// A whole page, counted among the unread responses. Its `Link` must be sent before it.
pub(super) async fn collect<T: Send + 'static>(
    app: &Arc<App>,
    read: impl FnOnce(&App, &mut Emit) -> crate::store::Result<T> + Send + 'static,
) -> Result<(T, Bytes), Refusal> {
    let read = stream::blocking(app, move |app| {
        let mut body = Vec::new();
        let found = read(app, &mut |piece: &[u8]| {
            body.extend_from_slice(piece);
            ControlFlow::Continue(())
        })?;
        Ok((found, app.unsent.hold(body)))
    });
    let (found, body) = read.await?;
    Ok((found, body?))
}

/// `Link: <…>; rel="next"` with the same query and the cursor.
pub(super) fn linked(uri: &Uri, next: Option<Vec<u8>>, body: Bytes) -> Response {
    let mut response = stream::json(body);
    if let Some(next) = next {
        paging::link(uri, &next, &mut response);
    }
    response
}
