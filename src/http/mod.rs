//! The HTTP interface. Handlers check what was asked, wait for the position that
//! was asked for, and hand over to `query` or the event log.

pub mod admin;
mod audit;
mod body;
mod conditional;
pub mod error;
mod events;
mod filters;
mod listing;
mod openapi;
mod operations;
mod paging;
mod params;
pub mod pulse;
mod reading;
pub mod server;
mod socket;
mod sse;
mod stream;
mod ui;
mod waiting;
mod watch;
mod watch_all;

use crate::config::Config;
use crate::event_log::EventLog;
use crate::query::list::Defects;
use crate::query::progress::Progress;
use crate::query::sweeps::Sweeps;
use crate::store::Db;
use crate::wire::time::TimeStyle;
use axum::Router;
use axum::extract::Request;
use axum::http::{HeaderName, HeaderValue};
use axum::routing::{get, post};
use error::Refusal;
use metrics_exporter_prometheus::PrometheusHandle;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use tokio::sync::Semaphore;
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::request_id::{
    MakeRequestId, PropagateRequestIdLayer, RequestId, SetRequestIdLayer,
};

pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
pub const LEDGER_POSITION: HeaderName = HeaderName::from_static("ledger-position");

/// What the handlers work with.
pub struct App {
    pub db: Arc<dyn Db>,
    pub log: Arc<dyn EventLog>,
    pub progress: Arc<Progress>,
    pub defects: Defects,
    pub times: TimeStyle,
    pub config: Config,
    pub metrics: PrometheusHandle,
    /// Kibibytes of request bodies that may be held at once.
    pub buffered: Arc<Semaphore>,
    /// Streams that may run at once: each holds a thread and a view of the store.
    pub streams: Arc<Semaphore>,
    pub pulse: pulse::Pulse,
    /// The points of the store that lists are paged from.
    pub sweeps: Sweeps,
    /// Event streams that there may be at once: each holds a connection.
    pub event_streams: Arc<Semaphore>,
    /// Event streams that look at every change.
    pub watching_all: AtomicUsize,
    /// Requests that would go on for long end when it turns true.
    pub stopping: tokio::sync::watch::Sender<bool>,
}

impl App {
    /// Returns when the ledger is about to stop.
    pub async fn stopped(&self) {
        // The sender is `self`: it cannot be gone.
        let _ = self
            .stopping
            .subscribe()
            .wait_for(|stopping| *stopping)
            .await;
    }
}

pub fn router(app: Arc<App>) -> Router {
    Router::new()
        .route("/v1/operations", get(operations::list))
        .route("/v1/operations/{operation_id}", get(operations::get))
        .route("/v1/operations/{operation_id}/events", get(audit::history))
        .route("/v1/events", post(events::publish))
        .route("/v1/dead-letters", get(audit::dead_letters))
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
        .layer(axum::middleware::from_fn(admin::measure))
        .layer(CatchPanicLayer::custom(|_| {
            axum::response::IntoResponse::into_response(Refusal::Panicked)
        }))
        .layer(PropagateRequestIdLayer::new(REQUEST_ID))
        .layer(SetRequestIdLayer::new(REQUEST_ID, NewRequestId))
}

#[derive(Clone, Copy)]
struct NewRequestId;

impl MakeRequestId for NewRequestId {
    fn make_request_id<B>(&mut self, _: &Request<B>) -> Option<RequestId> {
        Some(RequestId::new(request_id()))
    }
}

/// One of our own: sorts by time.
fn request_id() -> HeaderValue {
    let id = uuid::Uuid::now_v7().to_string();
    HeaderValue::from_str(&id).expect("a UUID is a header value")
}
