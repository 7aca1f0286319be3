//! The HTTP interface. Handlers check the request, wait for the position that it names, and call
//! `query` or the event log.

mod accept;
mod accepting;
pub mod admin;
mod audit;
mod body;
mod coding;
mod conditional;
pub mod error;
mod events;
mod exchange;
mod filters;
pub mod front;
pub mod host;
mod listing;
mod notifications;
mod openapi;
mod operations;
mod pace;
mod paging;
mod params;
pub mod pulse;
pub mod reading;
pub mod server;
mod socket;
mod sse;
mod stream;
mod ui;
mod watch;
mod watch_all;

use crate::clock;
use crate::config::Config;
use crate::event_log::EventLog;
use crate::feed::documents::DocumentCache;
use crate::feed::progress::Progress;
use crate::feed::publisher::Publisher;
use crate::feed::subscriptions::Subscriptions;
use crate::feed::unsent::Unsent;
use crate::query::defects::Defects;
use crate::query::read_points::{ReadPointSettings, ReadPoints};
use crate::store::Db;
use crate::webhook;
use axum::Router;
use axum::extract::{MatchedPath, Request};
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::Response;
use axum::routing::{get, post};
use error::Refusal;
use metrics_exporter_prometheus::PrometheusHandle;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use tokio::sync::Semaphore;

pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
pub const LEDGER_POSITION: HeaderName = HeaderName::from_static("ledger-position");

/// Where a read runs that may wait for the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reads {
    /// On a separate thread.
    Apart,
    /// On the thread of the request: for simulations, which have no disk and in which nothing may
    /// run concurrently.
    AtOnce,
}

/// What the handlers work with.
pub struct App {
    pub db: Arc<dyn Db>,
    pub log: Arc<dyn EventLog>,
    pub progress: Arc<Progress>,
    pub publisher: Publisher,
    pub defects: Defects,
    pub documents: Arc<DocumentCache>,
    pub document_reads: reading::DiskReadQueues,
    /// Large responses that clients have not read yet.
    pub unsent: Arc<Unsent>,
    pub notifications: Arc<webhook::WebhookHandle>,
    pub config: Config,
    pub metrics: PrometheusHandle,
    pub accepting: accepting::Accepting,
    /// Kibibytes of request bodies that may be in memory.
    pub buffered: Arc<Semaphore>,
    /// Streamed responses that may run at once: each has a thread and a view of the store.
    pub streams: Arc<Semaphore>,
    pub pulse: pulse::Pulse,
    /// The read points of paged lists.
    pub read_points: ReadPoints,
    /// Event streams that may be open: each has a connection.
    pub event_streams: Arc<Semaphore>,
    /// The streams of lists, and how much work all event streams may do.
    pub subscriptions: Arc<Subscriptions>,
    pub pace: pace::Pace,
    pub reads: Reads,
    /// Long requests end when it turns true.
    pub stopping: tokio::sync::watch::Sender<bool>,
}

impl App {
    /// With the limits and caches of the configuration.
    pub fn new(
        db: Arc<dyn Db>,
        log: Arc<dyn EventLog>,
        progress: Arc<Progress>,
        notifications: Arc<webhook::WebhookHandle>,
        documents: Arc<DocumentCache>,
        metrics: PrometheusHandle,
        config: Config,
    ) -> Arc<App> {
        Arc::new(App {
            defects: Default::default(),
            document_reads: Default::default(),
            unsent: documents.unsent().clone(),
            documents,
            notifications,
            metrics,
            accepting: Default::default(),
            buffered: Arc::new(Semaphore::new((config.server.max_buffered / 1024) as usize)),
            streams: Arc::new(Semaphore::new(config.server.max_streams)),
            pulse: Default::default(),
            read_points: ReadPoints::new(ReadPointSettings {
                max: config.lists.points,
                share: config.lists.share,
                idle: config.lists.idle,
                max_age: config.lists.max_age,
            }),
            event_streams: Arc::new(Semaphore::new(config.streams.max)),
            subscriptions: Arc::new(Subscriptions::new(progress.watchers.clone())),
            pace: pace::Pace::new(progress.clone()),
            reads: Reads::Apart,
            stopping: Default::default(),
            publisher: Publisher {
                log: log.clone(),
                progress: progress.clone(),
            },
            db,
            log,
            progress,
            config,
        })
    }

    /// Returns when the ledger is about to stop.
    pub async fn stopped(&self) {
        // The sender is in `self`, so it exists.
        let _ = self
            .stopping
            .subscribe()
            .wait_for(|stopping| *stopping)
            .await;
    }
}

/// The handler of each route. `front` is before it.
pub fn router(app: Arc<App>) -> Router {
    let reads = Router::new()
        .route("/v1/operations", get(operations::list))
        .route("/v1/operations/{operation_id}", get(operations::get))
        .route("/v1/operations/{operation_id}/events", get(audit::history))
        .route("/v1/dead-letters", get(audit::dead_letters))
        .route("/v1/notifications", get(notifications::list))
        .route_layer(from_fn_with_state(app.clone(), reading::tell_preference));
    reads
        .route("/v1/events", post(events::publish))
        .route("/v1/notifications/retry", post(notifications::retry_all))
        .route(
            "/v1/notifications/release",
            post(notifications::release_all),
        )
        .route(
            "/v1/notifications/{operation_id}/retry",
            post(notifications::retry),
        )
        .route(
            "/v1/notifications/{operation_id}/release",
            post(notifications::release),
        )
        .route("/livez", get(admin::livez))
        .route("/readyz", get(admin::readyz))
        .route("/metrics", get(admin::metrics))
        .route("/version", get(admin::version))
        .route("/projector", get(pulse::projector))
        .route("/", get(ui::page))
        .route("/ui/{file}", get(ui::file))
        .route("/openapi.json", get(openapi::get))
        .route("/docs", get(ui::docs))
        .fallback(|| async { Refusal::NoSuchRoute })
        .method_not_allowed_fallback(|| async { Refusal::MethodNotAllowed })
        .with_state(app)
        .layer(from_fn(note_route))
}

/// For `front`, which counts requests by route.
async fn note_route(request: Request, next: Next) -> Response {
    let route = request.extensions().get::<MatchedPath>().cloned();
    let mut response = next.run(request).await;
    if let Some(route) = route {
        response.extensions_mut().insert(route);
    }
    response
}

/// Whether a client's own id may be in our responses and logs: 1 to 128 visible ASCII
/// characters.
fn is_request_id(id: &HeaderValue) -> bool {
    let id = id.as_bytes();
    (1..=128).contains(&id.len()) && id.iter().all(u8::is_ascii_graphic)
}

/// The client's own id, or one of ours.
fn request_id_of(headers: &HeaderMap) -> HeaderValue {
    let mut ids = headers.get_all(REQUEST_ID).iter();
    match (ids.next(), ids.next()) {
        (Some(id), None) if is_request_id(id) => id.clone(),
        _ => request_id(),
    }
}

/// A UUID of version 7, which sorts by time. The library's own costs a system call.
fn request_id() -> HeaderValue {
    static GIVEN: AtomicU64 = AtomicU64::new(0);
    static SEED: LazyLock<u64> = LazyLock::new(|| uuid::Uuid::new_v4().as_u64_pair().1);
    let given = GIVEN.fetch_add(1, Ordering::Relaxed);
    // After the time: twelve bits of the count, then a hash that differs between processes.
    let mut rest = [0; 10];
    rest[..2].copy_from_slice(&(given as u16).to_be_bytes());
    let mixed = xxhash_rust::xxh3::xxh3_64_with_seed(&given.to_le_bytes(), *SEED);
    rest[2..].copy_from_slice(&mixed.to_be_bytes());
    let millis = clock::since_1970().as_millis() as u64;
    let id = uuid::Builder::from_unix_timestamp_millis(millis, &rest).into_uuid();
    let mut text = uuid::Uuid::encode_buffer();
    let text = id.hyphenated().encode_lower(&mut text);
    HeaderValue::from_str(text).expect("a UUID is a header value")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn request_ids_are_uuids_of_version_7_and_all_different() {
        let before = clock::since_1970();
        let ids: Vec<_> = (0..100_000).map(|_| request_id()).collect();
        let mut different = std::collections::BTreeSet::new();
        for id in &ids {
            let id: uuid::Uuid = id.to_str().unwrap().parse().unwrap();
            assert_eq!(id.get_version_num(), 7);
            assert_eq!(id.get_variant(), uuid::Variant::RFC4122);
            let (secs, _) = id.get_timestamp().unwrap().to_unix();
            assert!((0..60).contains(&(secs - before.as_secs())), "{id}");
            assert!(different.insert(id), "{id} was given twice");
        }
    }
}
