//! What all reads share: the position that the client wants to see, waiting for
//! it, and the position that the answer was read at.

use super::error::Refusal;
use super::params::Params;
use super::sse::LAST_EVENT_ID;
use super::{App, LEDGER_POSITION};
use crate::query::progress::{Applied, WaitError};
use crate::wire::position::Token;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use axum::middleware::Next;
use axum::response::Response;
use std::sync::Arc;
use std::time::{Duration, Instant};

const PREFERENCE_APPLIED: HeaderName = HeaderName::from_static("preference-applied");

/// A read that may go ahead.
pub struct Reading {
    /// Taken before the store is read: the answer holds at least this much.
    pub applied: Arc<Applied>,
    /// If the client prefers to wait for something new: until then, all waiting of the
    /// request together.
    pub deadline: Option<Instant>,
}

/// All that the request wants to see: what its headers name and, where headers cannot be
/// set, its query.
pub fn token(headers: &HeaderMap, params: &Params) -> Result<Option<Token>, Refusal> {
    let mut wanted = query_position(params)?;
    for line in headers.get_all(LEDGER_POSITION) {
        let token = parse("Ledger-Position", line.to_str().unwrap_or("?"))?;
        wanted = Some(both(wanted, token)?);
    }
    Ok(wanted)
}

/// What the query names.
pub fn query_position(params: &Params) -> Result<Option<Token>, Refusal> {
    let text = params.get("position");
    text.map(|text| parse("position", text)).transpose()
}

fn parse(name: &'static str, text: &str) -> Result<Token, Refusal> {
    let what = "must be <log>;<partition>:<offset>,…";
    text.parse().map_err(|_| Refusal::Parameter { name, what })
}

/// A state that holds what each names. Two logs have none.
pub fn both(one: Option<Token>, other: Token) -> Result<Token, Refusal> {
    match one {
        None => Ok(other),
        Some(one) => one.join(&other).ok_or(Refusal::OtherLog),
    }
}

/// The position behind which a stream is to go on; an empty one is none.
pub fn last_event_id(headers: &HeaderMap) -> Result<Option<Token>, Refusal> {
    let unreadable = |what| Refusal::Parameter {
        name: "Last-Event-ID",
        what,
    };
    let mut lines = headers.get_all(LAST_EVENT_ID).iter();
    let first = lines.next();
    if lines.next().is_some() {
        return Err(unreadable("given more than once."));
    }
    match first.map(|value| value.to_str().unwrap_or("?")) {
        None | Some("") => Ok(None),
        Some(text) => {
            let position = text.parse();
            let position = position.map_err(|_| unreadable("must be an id of this stream."))?;
            Ok(Some(position))
        }
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
    let preferred = preferred_wait(app, headers);
    let wait = preferred.unwrap_or(server.default_wait.min(server.max_wait));
    let deadline = now() + wait;
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

/// The time by the runtime's clock, by which deadlines end: a simulation stops it.
pub fn now() -> Instant {
    tokio::time::Instant::now().into_std()
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

/// Says how long a request that preferred to wait was let wait at most (RFC 7240).
pub async fn tell_preference(
    State(app): State<Arc<App>>,
    request: Request,
    next: Next,
) -> Response {
    let preferred = preferred_wait(&app, request.headers());
    let mut response = next.run(request).await;
    if let Some(wait) = preferred {
        let applied = HeaderValue::try_from(format!("wait={}", wait.as_secs()));
        let applied = applied.expect("a number is a header value");
        response.headers_mut().insert(PREFERENCE_APPLIED, applied);
    }
    response
}

/// `Prefer: wait=10`, cut to what the setting allows; what cannot be read is no preference
/// (RFC 7240).
fn preferred_wait(app: &App, headers: &HeaderMap) -> Option<Duration> {
    let preferred = headers
        .get_all("prefer")
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split([',', ';']))
        .filter_map(|preference| preference.trim().split_once('='))
        .find(|(name, _)| name.trim().eq_ignore_ascii_case("wait"))
        .and_then(|(_, seconds)| seconds.trim().trim_matches('"').parse().ok())
        .map(Duration::from_secs);
    preferred.map(|wait| wait.min(app.config.server.max_wait))
}
