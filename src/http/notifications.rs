//! Notifications for operators: which there are, and doing something about those that
//! are held or given up. What somebody wants done is in the control log before it is
//! answered, with who wanted it and why.

use super::audit::{finish, linked, page};
use super::error::Refusal;
use super::paging::BAD_CURSOR;
use super::params::Params;
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
use axum::body::Body;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::response::Response;
use std::sync::Arc;
use std::time::Duration;

/// For what is asked to be in the control log and in the store.
const PATIENCE: Duration = Duration::from_secs(10);
/// Notifications that one request is about; the answer says if there are more.
const AT_ONCE: usize = 100_000;
/// Of them in one piece.
const RECORDS: usize = 500;
const TEXT_MAX: usize = 1024;

/// What the list knows.
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
        let reading = reading::begin(&app, &headers, reading::token(&headers, &params)?).await?;
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

/// Whether there is something that is held back until somebody releases it.
fn holds(app: &App) -> crate::store::Result<bool> {
    let applied = app.progress.applied();
    let Some(token) = &applied.token else {
        return Ok(false);
    };
    let begun = outbox::begun(&*app.db, token.log)?;
    Ok(begun.is_some_and(|ends| !ends.is_empty()))
}

pub async fn retry(
    app: State<Arc<App>>,
    id: Id,
    uri: Uri,
    headers: HeaderMap,
    body: Body,
) -> Response {
    one(
        app,
        id,
        uri,
        headers,
        body,
        &["failed", "pending"],
        Notified::Retried,
    )
    .await
}

pub async fn release(
    app: State<Arc<App>>,
    id: Id,
    uri: Uri,
    headers: HeaderMap,
    body: Body,
) -> Response {
    one(app, id, uri, headers, body, &["held"], Notified::Released).await
}

async fn one(
    State(app): State<Arc<App>>,
    id: Id,
    uri: Uri,
    headers: HeaderMap,
    body: Body,
    stages: &'static [&'static str],
    event: fn(Said) -> Notified,
) -> Response {
    let answer = async {
        let Path(operation_id) = id.map_err(|_| Refusal::NotFound)?;
        let said = said(&app, &uri, &headers, body).await?;
        let control = control_log(&app)?;
        if operation_id_fault(&operation_id).is_some() {
            return Err(Refusal::NotFound);
        }
        let (found, _) = find(&app, Some(operation_id), stages).await?;
        if found.is_empty() {
            return Err(Refusal::NotFound);
        }
        record(&control, &found, || event(said.clone())).await?;
        Ok(accepted(found.len(), false))
    };
    finish(&app, answer.await)
}

/// All that were given up.
pub async fn retry_all(
    State(app): State<Arc<App>>,
    uri: Uri,
    headers: HeaderMap,
    body: Body,
) -> Response {
    let answer = async {
        let said = said(&app, &uri, &headers, body).await?;
        let control = control_log(&app)?;
        let (found, more) = find(&app, None, &["failed"]).await?;
        record(&control, &found, || Notified::Retried(said.clone())).await?;
        Ok(accepted(found.len(), more))
    };
    finish(&app, answer.await)
}

/// All that are held, those that are not looked at yet included.
pub async fn release_all(
    State(app): State<Arc<App>>,
    uri: Uri,
    headers: HeaderMap,
    body: Body,
) -> Response {
    let answer = async {
        let said = said(&app, &uri, &headers, body).await?;
        let control = control_log(&app)?;
        let (found, _) = find(&app, None, &["held"]).await?;
        let applied = app.progress.applied();
        let token = applied.token.as_ref();
        let unreached = || Refusal::NoNotifications("the log was not reached yet".into());
        let log = token.ok_or_else(unreached)?.log;
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

fn control_log(app: &App) -> Result<Arc<ControlLog>, Refusal> {
    let control = app.notifications.control();
    control.ok_or_else(|| {
        let halted = app.notifications.halted();
        let why = match halted {
            // Where it lies is for operators: readiness says it.
            Some(_) => "webhook deliveries have halted, and /readyz says why",
            None => "webhook deliveries are not sent: notifications.allow is empty",
        };
        Refusal::NoNotifications(why.into())
    })
}

/// Who wants it and why. The media type is asked for because a page of another site
/// cannot give it.
async fn said(app: &Arc<App>, uri: &Uri, headers: &HeaderMap, body: Body) -> Result<Said, Refusal> {
    Params::parse(app, uri, &[])?;
    let media_type = body::content_type(headers)?.and_then(|value| value.to_str().ok());
    let is_json = |value| is_media_type(value, "application/json") && is_utf8(value);
    if !media_type.is_some_and(is_json) {
        return Err(Refusal::NotJson);
    }
    let received = body::receive(app, headers, body).await?;
    let unreadable = |_| {
        Refusal::from(Fault::new(
            Rule::Format,
            "body",
            "an object with who and why, texts.",
        ))
    };
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
    Ok(said)
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
            Err(PublishError::Unknown("the control log did not answer in time".into()).into())
        }
    }
}
