//! What all reads share: the position that the client wants to see, waiting for
//! it, and the position that the answer was read at.

use super::error::Refusal;
use super::params::Params;
use super::sse::LAST_EVENT_ID;
use super::{App, LEDGER_POSITION};
use crate::query::progress::{Applied, WaitError};
use crate::wire::position::Token;
use axum::http::{HeaderMap, HeaderValue};
use axum::response::Response;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A read that may go ahead.
pub struct Reading {
    /// Taken before the store is read: the answer holds at least this much.
    pub applied: Arc<Applied>,
    /// If the client prefers to wait for something new: until then, all waiting of the
    /// request together.
    pub deadline: Option<Instant>,
}

/// The token of the request, from the header or, where headers cannot be set,
/// from the query.
pub fn token(headers: &HeaderMap, params: &Params) -> Result<Option<Token>, Refusal> {
    let unreadable = |_| Refusal::Parameter {
        name: "Ledger-Position",
        what: "must be <log>;<partition>:<offset>,…",
    };
    let header = headers
        .get(LEDGER_POSITION)
        .map(|value| value.to_str().unwrap_or("?"));
    let read = |text: Option<&str>| {
        text.map(|text| text.parse().map_err(unreadable))
            .transpose()
    };
    // Both are read: what is wrong is told, also where the other one counts.
    let (header, query) = (read(header)?, read(params.get("position"))?);
    Ok(header.or(query))
}

/// The position behind which a stream is to go on; an empty one is none.
pub fn last_event_id(headers: &HeaderMap) -> Result<Option<Token>, Refusal> {
    let unreadable = Refusal::Parameter {
        name: "Last-Event-ID",
        what: "must be an id of this stream.",
    };
    let text = headers.get(LAST_EVENT_ID);
    match text.map(|value| value.to_str().unwrap_or("?")) {
        None | Some("") => Ok(None),
        Some(text) => text.parse().map(Some).map_err(|_| unreadable),
    }
}

/// The same where headers cannot be set.
pub fn query_position(params: &Params) -> Result<Option<Token>, Refusal> {
    match params.get("position") {
        None => Ok(None),
        Some(_) => token(&HeaderMap::new(), params),
    }
}

/// Waits until the store holds what the token names, no longer than the client
/// prefers or, without a preference, the default.
pub async fn begin(
    app: &App,
    headers: &HeaderMap,
    token: Option<Token>,
) -> Result<Reading, Refusal> {
    let server = &app.config.server;
    let preferred = preferred_wait(headers);
    let wait = preferred.unwrap_or(server.default_wait);
    let deadline = Instant::now() + wait.min(server.max_wait);
    if let Some(token) = token {
        app.progress
            .wait_for(&token, deadline)
            .await
            .map_err(|error| match error {
                WaitError::OtherLog => Refusal::OtherLog,
                WaitError::TimedOut => Refusal::WaitTimedOut,
            })?;
    }
    Ok(Reading {
        applied: app.progress.applied(),
        deadline: preferred.and(Some(deadline)),
    })
}

impl Reading {
    /// The answer comes from a point of its own.
    pub fn is_from(&mut self, applied: Arc<Applied>) {
        self.applied = applied;
    }

    /// Before the store is read once more.
    pub fn renew(&mut self, app: &App) {
        self.applied = app.progress.applied();
    }

    pub fn stamp(&self, mut response: Response) -> Response {
        stamp(&self.applied, response.headers_mut());
        response
    }
}

/// Marks an answer with what is applied now: for refusals, which read nothing.
pub fn stamp_now(app: &App, mut response: Response) -> Response {
    stamp(&app.progress.applied(), response.headers_mut());
    response
}

/// A store that is new, of a log that was not reached yet, has no position.
pub fn stamp(applied: &Applied, headers: &mut HeaderMap) {
    if applied.token.is_none() {
        return;
    }
    let value = HeaderValue::from_maybe_shared(applied.text.clone());
    let value = value.expect("a token is ASCII");
    headers.insert(LEDGER_POSITION, value);
}

/// `Prefer: wait=10`; what cannot be read is no preference (RFC 7240).
fn preferred_wait(headers: &HeaderMap) -> Option<Duration> {
    headers
        .get_all("prefer")
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split([',', ';']))
        .filter_map(|preference| preference.trim().split_once('='))
        .find(|(name, _)| name.trim().eq_ignore_ascii_case("wait"))
        .and_then(|(_, seconds)| seconds.trim().trim_matches('"').parse().ok())
        .map(Duration::from_secs)
}
