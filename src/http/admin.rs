//! For operators: is it alive, can it be relied on, how does it fare.

use super::App;
use super::stream::json;
use crate::query::progress::Doing;
use axum::extract::{MatchedPath, Request, State};
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderValue, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use std::sync::Arc;
use std::time::Instant;

pub async fn livez() -> Response {
    json("{\"status\":\"alive\"}")
}

/// 200, or 503 with every reason at once.
pub async fn readyz(State(app): State<Arc<App>>) -> Response {
    let reasons = reasons(&app);
    let status = if reasons.is_empty() {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    let word = if reasons.is_empty() {
        "ready"
    } else {
        "not ready"
    };
    let body = serde_json::json!({"status": word, "reasons": reasons});
    let mut response = json(body.to_string());
    *response.status_mut() = status;
    response
}

fn reasons(app: &App) -> Vec<String> {
    let mut reasons = Vec::new();
    match app.progress.doing() {
        Doing::Running => {}
        Doing::Starting => reasons.push("restoring: the projector is starting".into()),
        Doing::Waiting(why) => reasons.push(format!("the projector waits: {why}")),
        Doing::Halted(why) => reasons.push(format!("the projector has halted: {why}")),
        Doing::Stopped => reasons.push("stopping".into()),
    }
    if let Some(trouble) = app.log.trouble() {
        reasons.push(format!("the event log takes nothing: {trouble}"));
    }
    match lag(app) {
        Ok(lag) if lag > app.config.projector.max_lag => {
            reasons.push(format!("the store is {lag} records behind the log"));
        }
        Ok(_) => {}
        Err(why) => reasons.push(why),
    }
    match app.defects.count() {
        0 => {}
        count => reasons.push(format!("{count} operations cannot be read")),
    }
    reasons
}

/// Records of the log that the store does not hold yet.
pub fn lag(app: &App) -> Result<u64, String> {
    let applied = app.progress.applied();
    let bounds = app.log.bounds().map_err(|error| error.to_string())?;
    // Of a log that the store does not belong to it holds nothing.
    let is_ours = applied.token.log == app.log.id();
    let held = |partition: u32| applied.token.positions.get(&partition).filter(|_| is_ours);
    let behind = bounds.into_iter().map(|(partition, bounds)| {
        let next = held(partition).map_or(bounds.first, |offset| offset + 1);
        bounds.end.saturating_sub(next)
    });
    Ok(behind.sum())
}

pub async fn metrics(State(app): State<Arc<App>>) -> Response {
    if let Ok(lag) = lag(&app) {
        metrics::gauge!("opledger_projector_lag_records").set(lag as f64);
    }
    if let Some(space) = app.db.space() {
        metrics::gauge!("opledger_disk_free_bytes").set(space.free as f64);
    }
    metrics::gauge!("opledger_unreadable_operations").set(app.defects.count() as f64);
    let value = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    ([(CONTENT_TYPE, value)], app.metrics.render()).into_response()
}

pub async fn version(State(app): State<Arc<App>>) -> Response {
    let body = serde_json::json!({
        "name": "opledger",
        "version": env!("CARGO_PKG_VERSION"),
        "log": app.log.id().to_string(),
        "store_format": crate::projector::meta::FORMAT,
        "fold_version": crate::projector::meta::FOLD,
    });
    json(body.to_string())
}

/// Counts and times every request by its route, never by its path.
pub async fn measure(request: Request, next: Next) -> Response {
    let started = Instant::now();
    let route = request
        .extensions()
        .get::<MatchedPath>()
        .map(|path| path.as_str().to_owned());
    let route = route.unwrap_or_else(|| "other".into());
    let method = request.method().to_string();
    let response = next.run(request).await;
    let labels = [
        ("method", method),
        ("route", route),
        ("status", response.status().as_u16().to_string()),
    ];
    metrics::counter!("opledger_http_requests_total", &labels).increment(1);
    metrics::histogram!("opledger_http_request_seconds", &labels[..2])
        .record(started.elapsed().as_secs_f64());
    response
}
