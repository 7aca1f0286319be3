//! What all reads share: the position that the client wants to see, waiting for it, and the
//! position of the response.

use super::error::Refusal;
use super::pace::Work;
use super::params::Params;
use super::sse::LAST_EVENT_ID;
use super::{App, LEDGER_POSITION, stream};
use crate::domain::OperationId;
use crate::feed::documents::{Current, LoadError};
use crate::feed::progress::{Applied, WaitError};
use crate::rows::filter::Filter;
use crate::wire::change::ChangeNumber;
use crate::wire::position::Token;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use axum::middleware::Next;
use axum::response::Response;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{Mutex, OwnedMutexGuard};

const PREFERENCE_APPLIED: HeaderName = HeaderName::from_static("preference-applied");

/// What a read depends on: which workers it waits for, and whose position it names.
#[derive(Debug, Clone, Copy)]
pub enum Scope<'o> {
    All,
    Operation(OperationId<'o>),
}

impl Scope<'_> {
    fn applied(self, app: &App) -> Arc<Applied> {
        match self {
            Scope::All => app.progress.applied(),
            Scope::Operation(operation_id) => app.progress.applied_of(operation_id),
        }
    }

    async fn wait_for(self, app: &App, token: &Token, deadline: Instant) -> Result<(), WaitError> {
        let progress = &app.progress;
        match self {
            Scope::All => progress.wait_for(token, deadline).await,
            Scope::Operation(id) => progress.wait_for_operation(id, token, deadline).await,
        }
    }
}

/// A read whose position is reached.
pub struct Reading {
    /// Taken before the store is read: the response includes at least this much.
    pub applied: Arc<Applied>,
    /// If the client prefers to wait for a change: the end of all waiting of the request.
    pub deadline: Option<Instant>,
}

/// The position that the request names, in its headers or, for clients that cannot set them, in its
/// query.
pub fn token(headers: &HeaderMap, params: &Params) -> Result<Option<Token>, Refusal> {
    let query = query_position(params)?;
    match (query, header_token(headers)?) {
        (query, Some(header)) => Ok(Some(both(query, header)?)),
        (query, None) => Ok(query),
    }
}

/// The position in the headers.
pub fn header_token(headers: &HeaderMap) -> Result<Option<Token>, Refusal> {
    let mut wanted = None;
    for line in headers.get_all(LEDGER_POSITION) {
        let token = parse("Ledger-Position", line.to_str().unwrap_or("?"))?;
        wanted = Some(both(wanted, token)?);
    }
    Ok(wanted)
}

/// The position in the query.
pub fn query_position(params: &Params) -> Result<Option<Token>, Refusal> {
    let text = params.get("position");
    text.map(|text| parse("position", text)).transpose()
}

fn parse(name: &'static str, text: &str) -> Result<Token, Refusal> {
    let what = "must be <log>;<partition>:<offset>,…";
    text.parse().map_err(|_| Refusal::Parameter { name, what })
}

/// A position that includes both; `None` for positions of two logs.
fn both(one: Option<Token>, other: Token) -> Result<Token, Refusal> {
    match one {
        None => Ok(other),
        Some(one) => one.join(&other).ok_or(Refusal::OtherLog),
    }
}

/// The position after which a stream resumes; an empty value counts as none.
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

/// Waits until the store has reached the position: as long as the client prefers or, without a
/// preference, the default.
pub async fn begin(
    app: &App,
    headers: &HeaderMap,
    scope: Scope<'_>,
    token: Option<Token>,
) -> Result<Reading, Refusal> {
    let patience = WaitLimit::of(app, headers, scope);
    patience.wait_for(app, token).await?;
    Ok(patience.reading(app))
}

/// Whether a stream resumes after the position of its client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resumption {
    Behind,
    /// The log does not have the position, or cannot be read now: the client starts again.
    Impossible,
}

/// The known end of the log is at most this old.
const ENDS_KNOWN_WITHIN: Duration = Duration::from_millis(1500);

/// Waits for the token, as any read does, and for the position after which a stream resumes. If the
/// log does not have that position, the request is not refused: an `EventSource` never reconnects
/// after a refusal.
pub async fn begin_stream(
    app: &App,
    headers: &HeaderMap,
    scope: Scope<'_>,
    token: Option<Token>,
    resumed: Option<&Token>,
) -> Result<(Reading, Resumption), Refusal> {
    let patience = WaitLimit::of(app, headers, scope);
    patience.wait_for(app, token).await?;
    let resumption = match resumed {
        None => Resumption::Behind,
        Some(position) => patience.wait_to_resume(app, position).await?,
    };
    Ok((patience.reading(app), resumption))
}

/// How long a request may wait, all its waiting together.
struct WaitLimit<'o> {
    scope: Scope<'o>,
    deadline: Instant,
    is_preferred: bool,
}

impl<'o> WaitLimit<'o> {
    fn of(app: &App, headers: &HeaderMap, scope: Scope<'o>) -> WaitLimit<'o> {
        let server = &app.config.server;
        let preferred = preferred_wait(app, headers);
        let wait = preferred.unwrap_or(server.default_wait.min(server.max_wait));
        WaitLimit {
            scope,
            deadline: now() + wait,
            is_preferred: preferred.is_some(),
        }
    }

    async fn wait_for(&self, app: &App, token: Option<Token>) -> Result<(), Refusal> {
        let Some(token) = token else { return Ok(()) };
        let waited = self.scope.wait_for(app, &token, self.deadline).await;
        waited.map_err(|error| match error {
            WaitError::OtherLog => Refusal::OtherLog,
            WaitError::TimedOut => Refusal::WaitTimedOut,
            WaitError::NotCompared => Refusal::LogNotCompared,
            WaitError::Halted(why) => Refusal::LogHalted(why),
        })
    }

    async fn wait_to_resume(&self, app: &App, position: &Token) -> Result<Resumption, Refusal> {
        let early = self.deadline.min(now() + ENDS_KNOWN_WITHIN);
        let mut waited = self.scope.wait_for(app, position, early).await;
        if matches!(waited, Err(WaitError::TimedOut | WaitError::NotCompared))
            && !is_beyond_end(app, position)
        {
            waited = self.scope.wait_for(app, position, self.deadline).await;
        }
        match waited {
            Ok(()) => Ok(Resumption::Behind),
            Err(WaitError::OtherLog) => Err(Refusal::OtherLog),
            // The log has it, so the store will reach it.
            Err(WaitError::TimedOut) if !is_beyond_end(app, position) => Err(Refusal::WaitTimedOut),
            Err(WaitError::TimedOut | WaitError::NotCompared | WaitError::Halted(_)) => {
                Ok(Resumption::Impossible)
            }
        }
    }

    fn reading(&self, app: &App) -> Reading {
        Reading {
            applied: self.scope.applied(app),
            deadline: self.is_preferred.then_some(self.deadline),
        }
    }
}

/// Whether the log ends before the position, by its last known end.
fn is_beyond_end(app: &App, position: &Token) -> bool {
    let Ok(bounds) = app.log.bounds() else {
        return false;
    };
    let mut each = position.positions.iter();
    each.any(|(p, offset)| bounds.get(p).is_some_and(|bounds| bounds.end <= *offset))
}

/// Whether it happened before the deadline and before the ledger stops.
pub async fn happened(app: &App, what: impl Future, deadline: Instant) -> bool {
    tokio::select! {
        _ = what => true,
        () = tokio::time::sleep_until(deadline.into()) => false,
        () = app.stopped() => false,
    }
}

/// The time of the runtime's clock, which decides about deadlines and which a simulation stops.
pub fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

impl Reading {
    /// The response is read at a new read point.
    pub fn is_from(&mut self, applied: Arc<Applied>) {
        self.applied = applied;
    }

    pub fn stamp(&self, mut response: Response) -> Response {
        stamp(&self.applied, response.headers_mut());
        response
    }
}

/// Queues for reads of documents that are not in memory. Reads of one operation have the same
/// queue, so the next one finds what the one before has read. Few documents are rendered at once,
/// however many requests there are.
pub struct DiskReadQueues([Arc<Mutex<()>>; LANES]);

const LANES: usize = 8;

impl Default for DiskReadQueues {
    fn default() -> DiskReadQueues {
        DiskReadQueues(std::array::from_fn(|_| Arc::default()))
    }
}

impl DiskReadQueues {
    /// Keep it until the document is read, even if the client has disconnected.
    pub async fn of(&self, operation_id: OperationId<'_>) -> OwnedMutexGuard<()> {
        let lane = xxhash_rust::xxh3::xxh3_64(operation_id.as_bytes()) as usize % LANES;
        self.0[lane].clone().lock_owned().await
    }
}

/// Loads a document with all changes before the number `at_least`: at once if it is in memory.
pub async fn document(
    app: &Arc<App>,
    operation_id: OperationId<'_>,
    at_least: ChangeNumber,
    filter: &Filter,
    work: Arc<Work>,
) -> Result<Current, Refusal> {
    let (db, documents) = (&*app.db, &app.documents);
    let in_memory = || documents.load_cached(db, operation_id, at_least, filter);
    if let Some(found) = in_memory()? {
        return Ok(found);
    }
    let lane = app.document_reads.of(operation_id).await;
    if let Some(found) = in_memory()? {
        return Ok(found);
    }
    let (operation_id, filter) = (operation_id.to_string(), filter.clone());
    let read = stream::blocking(app, move |app| {
        let _lane = lane;
        let operation_id = OperationId(&operation_id);
        let load = || {
            app.documents
                .load(&*app.db, operation_id, at_least, &filter)
        };
        let read = work.count(load);
        if let Err(LoadError::Store(error)) = &read
            && error.is_unreadable()
        {
            app.defects.add_document(operation_id);
        }
        Ok(read)
    });
    Ok(read.await??)
}

/// Adds the current position to a response that read nothing, such as a refusal.
pub fn stamp_now(app: &App, mut response: Response) -> Response {
    stamp(&app.progress.applied(), response.headers_mut());
    response
}

/// A new store whose log was not reached yet has no position.
pub fn stamp(applied: &Applied, headers: &mut HeaderMap) {
    if applied.token.is_none() {
        return;
    }
    let value = HeaderValue::from_maybe_shared(applied.text().clone());
    let value = value.expect("a token is ASCII");
    headers.insert(LEDGER_POSITION, value);
}

/// Adds the longest time that a request was allowed to wait (RFC 7240).
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

/// `Prefer: wait=10`, limited by the setting. An invalid value is no preference (RFC 7240).
fn preferred_wait(app: &App, headers: &HeaderMap) -> Option<Duration> {
    let preferred = headers
        .get_all("prefer")
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split([',', ';']))
        .filter_map(|preference| preference.trim().split_once('='))
        .find(|(name, _)| name.trim().eq_ignore_ascii_case("wait"))
        .and_then(|(_, seconds)| whole_seconds(seconds.trim().trim_matches('"')))
        .map(Duration::from_secs);
    preferred.map(|wait| wait.min(app.config.server.max_wait))
}

/// A number that is too large is the largest one.
fn whole_seconds(text: &str) -> Option<u64> {
    let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| text.parse().unwrap_or(u64::MAX))
}
