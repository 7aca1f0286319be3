//! Webhook deliveries for operators: lists them, retries those that failed permanently and
//! releases those that are held. A request is in the control log before its response is sent,
//! with who asked and why.

use super::audit::{finish, linked, page};
use super::error::Refusal;
use super::paging::BAD_CURSOR;
use super::params::Params;
use super::reading::Scope;
use super::{App, body, reading, stream};
use crate::domain::OperationId;
use crate::event_log::PublishError;
use crate::query::notifications::{self, Wanted};
use crate::rows::outbox;
use crate::rows::outbox::DeliveryState;
use crate::webhook::control_log::ControlLog;
use crate::wire::control_record::{Control, Notified, Said};
use crate::wire::event::operation_id_fault;
use crate::wire::fault::{Fault, Rule};
use crate::wire::media_type::{is_media_type, is_utf8};
use crate::wire::notification::DeliveryKey;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Request, State};
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::response::Response;
use std::sync::Arc;
use std::time::Duration;

/// Until a request is in the control log and in the store.
const PATIENCE: Duration = Duration::from_secs(10);
/// Maximum number of deliveries that one request changes; the response says if there are more.
const AT_ONCE: usize = 100_000;
/// Deliveries that are recorded together.
const RECORDS: usize = 500;
const TEXT_MAX: usize = 1024;

/// Parameters of the list.
pub(super) const LIST: &[&str] = &["limit", "cursor", "position", "state", "operation_id"];

type Id = Result<Path<String>, PathRejection>;

pub async fn list(State(app): State<Arc<App>>, uri: Uri, headers: HeaderMap) -> Response {
    let answer = async {
        let params = Params::parse(&app, &uri, LIST)?;
        let page = page(&params)?;
        let wanted = Wanted {
            state: params.get("state").map(stage).transpose()?,
            operation_id: params.get("operation_id").map(str::to_owned),
        };
        if let Some(rule) = wanted.operation_id.as_deref().and_then(operation_id_fault) {
            return Err(Fault::new(rule, "operation_id", "no operation is named so.").into());
        }
        if page
            .after
            .as_ref()
            .is_some_and(|after| after.len() < 20 || after[0] > 1)
        {
            return Err(BAD_CURSOR);
        }
        let token = reading::token(&headers, &params)?;
        let reading = reading::begin(&app, &headers, Scope::All, token).await?;
        let found = stream::blocking(&app, move |app| {
            let halted = app.notifications.halted();
            notifications::page(&*app.db, &wanted, &page, holds(app)?, halted)
        });
        let (body, next) = found.await?;
        Ok(reading.stamp(linked(&uri, next, app.unsent.hold(body)?)))
    };
    finish(&app, answer.await)
}

fn stage(text: &str) -> Result<&'static str, Refusal> {
    let known = DeliveryState::NAMES.into_iter().find(|name| *name == text);
    let names = "pending, held, failed or delivered.";
    known.ok_or_else(|| Fault::new(Rule::Value, "state", names).into())
}

/// Whether deliveries may be held until somebody releases them.
fn holds(app: &App) -> crate::store::Result<bool> {
    let applied = app.progress.applied();
    let Some(token) = &applied.token else {
        return Ok(false);
    };
    let begun = outbox::begun(&*app.db, token.log)?;
    Ok(begun.is_some_and(|ends| !ends.is_empty()))
}

pub async fn retry(State(app): State<Arc<App>>, id: Id, request: Request) -> Response {
    let stages = &["failed", "pending"];
    finish(
        &app,
        one(&app, id, request, stages, Notified::Retried).await,
    )
}

pub async fn release(State(app): State<Arc<App>>, id: Id, request: Request) -> Response {
    let stages = &["held"];
    finish(
        &app,
        one(&app, id, request, stages, Notified::Released).await,
    )
}

async fn one(
    app: &Arc<App>,
    id: Id,
    request: Request,
    stages: &'static [&'static str],
    event: fn(Said) -> Notified,
) -> Result<Response, Refusal> {
    let Path(operation_id) = id.map_err(|_| Refusal::NotFound)?;
    let (control, said) = begin(app, request).await?;
    if operation_id_fault(&operation_id).is_some() {
        return Err(Refusal::NotFound);
    }
    let (found, _) = find(app, Some(operation_id), stages).await?;
    if found.is_empty() {
        return Err(Refusal::NotFound);
    }
    record(&control, &found, || event(said.clone())).await?;
    Ok(accepted(found.len(), false))
}

/// All deliveries that have failed permanently.
pub async fn retry_all(State(app): State<Arc<App>>, request: Request) -> Response {
    let answer = async {
        let (control, said) = begin(&app, request).await?;
        let (found, more) = find(&app, None, &["failed"]).await?;
        record(&control, &found, || Notified::Retried(said.clone())).await?;
        Ok(accepted(found.len(), more))
    };
    finish(&app, answer.await)
}

/// All deliveries that are held, including those that no scan has found yet.
pub async fn release_all(State(app): State<Arc<App>>, request: Request) -> Response {
    let answer = async {
        let (control, said) = begin(&app, request).await?;
        let (found, _) = find(&app, None, &["held"]).await?;
        let applied = app.progress.applied();
        let unreached = || Refusal::NoNotifications("the log was not reached yet".into());
        let log = applied.token.as_ref().ok_or_else(unreached)?.log;
        put(&control, &[Control::ReleasedAll { log, said }]).await?;
        Ok(accepted(found.len(), false))
    };
    finish(&app, answer.await)
}

fn accepted(count: usize, more: bool) -> Response {
    let mut body = serde_json::json!({"accepted": count});
    if more {
        body["more"] = true.into();
    }
    let mut response = stream::json(body.to_string());
    *response.status_mut() = StatusCode::ACCEPTED;
    response
}

/// The log to record in, and who makes the request and why. The media type is checked because a
/// page of another site cannot send it.
async fn begin(app: &Arc<App>, request: Request) -> Result<(Arc<ControlLog>, Said), Refusal> {
    let (head, body) = request.into_parts();
    Params::parse(app, &head.uri, &[])?;
    let media_type = body::content_type(&head.headers)?.and_then(|value| value.to_str().ok());
    let is_json = |value| is_media_type(value, "application/json") && is_utf8(value);
    if !media_type.is_some_and(is_json) {
        return Err(Refusal::NotJson);
    }
    let received = body::receive(app, &head.headers, body).await?;
    let what = "an object with who and why, texts.";
    let unreadable = |_| Refusal::from(Fault::new(Rule::Format, "body", what));
    let said: Said = match received.bytes.is_empty() {
        true => Said::default(),
        // An object, where serde would take an array as well.
        false => serde_json::from_slice(&received.bytes)
            .and_then(|said: serde_json::Map<_, _>| serde_json::from_value(said.into()))
            .map_err(unreadable)?,
    };
    for (field, text) in [("who", &said.who), ("why", &said.why)] {
        if text.chars().count() > TEXT_MAX {
            return Err(Fault::new(Rule::Range, field, "at most 1024 characters.").into());
        }
    }
    let control = app.notifications.control().ok_or_else(|| {
        let why = match app.notifications.halted() {
            // The reason names files of the ledger, which are for operators.
            Some(_) => "webhook deliveries have halted, and /readyz says why",
            None => "webhook deliveries are not sent: notifications.allow is empty",
        };
        Refusal::NoNotifications(why.into())
    })?;
    Ok((control, said))
}

async fn find(
    app: &Arc<App>,
    operation_id: Option<String>,
    stages: &'static [&'static str],
) -> Result<(Vec<(String, DeliveryKey)>, bool), Refusal> {
    let found = stream::blocking(app, move |app| {
        let holds = holds(app)?;
        let mut found = Vec::new();
        let mut more = false;
        let mut each = |id: OperationId, key| match found.len() < AT_ONCE {
            true => found.push((id.to_string(), key)),
            false => more = true,
        };
        for state in stages {
            let wanted = Wanted {
                state: Some(state),
                operation_id: operation_id.clone(),
            };
            notifications::each_in_state(&*app.db, &wanted, holds, &mut each)?;
        }
        Ok((found, more))
    });
    found.await
}

async fn record(
    control: &ControlLog,
    found: &[(String, DeliveryKey)],
    event: impl Fn() -> Notified,
) -> Result<(), Refusal> {
    for some in found.chunks(RECORDS) {
        let records = some
            .iter()
            .map(|(operation_id, key)| Control::Notification {
                operation_id: operation_id.clone(),
                key: *key,
                event: event(),
            });
        put(control, &records.collect::<Vec<_>>()).await?;
    }
    Ok(())
}

async fn put(control: &ControlLog, records: &[Control]) -> Result<(), Refusal> {
    match tokio::time::timeout(PATIENCE, control.record(records)).await {
        Ok(recorded) => Ok(recorded?),
        Err(_) => {
            Err(PublishError::Unknown("the control log did not respond in time".into()).into())
        }
    }
}
