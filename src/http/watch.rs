//! One operation as a stream of states, until it has ended.

use super::error::Refusal;
use super::pace::Work;
use super::params::Params;
use super::reading::{self, Resumption, Scope};
use super::sse::{self, Blocks, PieceSource, Woken};
use super::{App, stream};
use crate::domain::OperationId;
use crate::feed::changes::{self, ResumeFrom, Since};
use crate::feed::documents::RenderedDocument;
use crate::feed::progress::Applied;
use crate::feed::watch::Watching;
use crate::rows::filter::Filter;
use crate::store;
use crate::wire::event::operation_id_fault;
use crate::wire::position::Token;
use axum::body::Bytes;
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use std::pin::pin;
use std::sync::Arc;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;

pub async fn operation(
    app: &Arc<App>,
    operation_id: String,
    uri: &Uri,
    headers: &HeaderMap,
) -> Result<Response, Refusal> {
    let params = Params::parse(app, uri, &["position"])?;
    let last = reading::last_event_id(headers)?;
    // An EventSource keeps its first address, and with that an older position.
    let token = match (&last, reading::token(headers, &params)?) {
        (Some(_), _) => reading::header_token(headers)?,
        (None, token) => token,
    };
    let scope = Scope::Operation(OperationId(&operation_id));
    let begun = reading::begin_stream(app, headers, scope, token, last.as_ref()).await;
    let (reading, resumption) = begun?;
    if operation_id_fault(&operation_id).is_some() {
        return Err(Refusal::NotFound);
    }
    let permit = sse::admit(app)?;
    let mut watch = Watch {
        watching: app.progress.watchers.watch(OperationId(&operation_id)),
        app: app.clone(),
        operation_id,
        shown: None,
        is_waiting_sent: false,
        must_reset: resumption == Resumption::Impossible,
        is_over: false,
        rest_until: Instant::now(),
        _permit: permit,
    };
    if let Some(last) = last
        && resumption == Resumption::Behind
        && let Some(document) = watch.current(&reading.applied, Arc::default()).await?
        && has_not_changed(app, &watch.operation_id, last).await?
    {
        if document.has_ended {
            // No more events will follow. This status stops an EventSource.
            return Ok(reading.stamp(StatusCode::NO_CONTENT.into_response()));
        }
        watch.shown = Some(document.etag);
    }
    Ok(reading.stamp(sse::respond(watch)))
}

/// Whether the client has seen the last change, as far as changes are remembered.
async fn has_not_changed(app: &Arc<App>, operation_id: &str, last: Token) -> Result<bool, Refusal> {
    let operation_id = operation_id.to_owned();
    stream::blocking(app, move |app| {
        let operation_id = OperationId(&operation_id);
        let slices = operation_id.slice().into();
        store::view(&*app.db, |view| {
            match changes::find(view, slices, &last.positions)? {
                ResumeFrom::BeforeWindow => Ok(false),
                ResumeFrom::At { next, .. } => {
                    Ok(changes::since(view, next, operation_id)? == Since::Same)
                }
            }
        })
    })
    .await
}

struct Watch {
    app: Arc<App>,
    operation_id: String,
    watching: Watching,
    /// The entity tag of the document that the client has.
    shown: Option<Bytes>,
    /// `waiting` was sent: the client knows that there is no document yet.
    is_waiting_sent: bool,
    /// The client cannot resume from what it has seen.
    must_reset: bool,
    is_over: bool,
    rest_until: Instant,
    _permit: OwnedSemaphorePermit,
}

impl Watch {
    async fn current(
        &self,
        applied: &Applied,
        work: Arc<Work>,
    ) -> Result<Option<RenderedDocument>, Refusal> {
        let (id, all) = (OperationId(&self.operation_id), Filter::everything());
        let current = reading::document(&self.app, id, applied.next_change, all, work).await?;
        Ok(current.document())
    }
}

impl PieceSource for Watch {
    async fn next(&mut self) -> Result<Option<Blocks>, Refusal> {
        if self.is_over {
            return Ok(None);
        }
        tokio::time::sleep_until(self.rest_until).await;
        loop {
            // Listening before reading: no change slips in between.
            let mut changed = pin!(self.watching.changed());
            changed.as_mut().enable();
            let operation_id = OperationId(&self.operation_id);
            let applied = self.app.progress.applied_of(operation_id);
            let id = std::str::from_utf8(applied.text()).expect("a token is ASCII");
            let id = (!id.is_empty()).then_some(id);
            let mut blocks = Blocks::default();
            if std::mem::take(&mut self.must_reset) {
                blocks.event("reset", id, &sse::RESET);
            }
            let app = self.app.clone();
            let mut turn = app.pace.turn().await;
            let document = turn.count(self.current(&applied, turn.work())).await?;
            match document {
                Some(document) if self.shown.as_ref() != Some(&document.etag) => {
                    blocks.event("document", id, &document.bytes);
                    self.shown = Some(document.etag);
                    self.is_over = document.has_ended;
                }
                Some(_) => {}
                None if self.shown.is_some() => {
                    blocks.event("removed", id, &sse::named(OperationId(&self.operation_id)));
                    self.is_over = true;
                }
                None if !self.is_waiting_sent => {
                    blocks.event("waiting", id, &sse::named(OperationId(&self.operation_id)));
                    self.is_waiting_sent = true;
                }
                None => {}
            }
            turn.sends(blocks.len());
            drop(turn);
            if blocks.is_empty() {
                match sse::wait(&self.app, changed).await {
                    Woken::Changed => continue,
                    Woken::Silent => blocks.keep_alive(),
                    Woken::Stopping => return Ok(None),
                }
            }
            self.rest_until = Instant::now() + sse::REST;
            return Ok(Some(blocks));
        }
    }
}
