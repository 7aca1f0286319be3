//! Stands before the routes and answers by itself what is asked most: a document
//! that is at hand, by a plain GET. Everything else, and whatever it is in doubt
//! about, goes on to the routes, which answer the same.

use super::{App, REQUEST_ID, accept, operations, reading, request_id, router};
use crate::query::at_hand::Quick;
use crate::wire::event_v1::operation_id_fault;
use axum::Router;
use axum::body::Body;
use axum::http::header::{CONTENT_TYPE, ETAG, IF_NONE_MATCH, VARY};
use axum::http::{HeaderName, HeaderValue, Method, Request, Response};
use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::{Either, Map, Ready, ready};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::Service;
use hyper_util::service::{TowerToHyperService, TowerToHyperServiceFuture};
use metrics::{Counter, Histogram};
use std::convert::Infallible;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, LazyLock};
use std::time::Instant;

#[derive(Clone)]
pub struct Front {
    app: Arc<App>,
    routes: TowerToHyperService<Router>,
}

/// A whole document, or what a route answers.
pub type Answer = Response<http_body_util::Either<Full<Bytes>, Body>>;

type Routed = TowerToHyperServiceFuture<Router, Request<Incoming>>;
type Answered = Result<Answer, Infallible>;
type Widen = fn(Result<Response<Body>, Infallible>) -> Answered;

/// A request with one of these asks for more than a plain read.
const SPECIAL: [HeaderName; 3] = [
    super::LEDGER_POSITION,
    IF_NONE_MATCH,
    HeaderName::from_static("prefer"),
];

impl Front {
    pub fn new(app: Arc<App>) -> Front {
        Front {
            routes: TowerToHyperService::new(router(app.clone())),
            app,
        }
    }

    /// `None` where the routes have to answer.
    pub fn answer<B>(&self, request: &Request<B>) -> Option<Answer> {
        let started = Instant::now();
        let uri = request.uri();
        if request.method() != Method::GET || uri.query().is_some() {
            return None;
        }
        let operation_id = uri.path().strip_prefix("/v1/operations/")?;
        // Nothing that would have to be decoded is left after this.
        if operation_id_fault(operation_id).is_some() {
            return None;
        }
        let asked = request.headers();
        if SPECIAL.iter().any(|name| asked.contains_key(name)) || accept::wants_stream(asked) {
            return None;
        }
        let app = &*self.app;
        // Before the store is read: the answer holds at least this much.
        let applied = app.progress.applied();
        let found = app.documents.get(&*app.db, &applied, operation_id);
        let Ok(Quick::Found(document)) = found else {
            return None;
        };
        let id = asked.get(REQUEST_ID).cloned().unwrap_or_else(request_id);
        let body = http_body_util::Either::Left(Full::new(document.bytes));
        let mut response = Response::new(body);
        let headers = response.headers_mut();
        headers.reserve(5);
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(ETAG, operations::etag_value(document.etag));
        headers.insert(VARY, accept::VARIES);
        headers.insert(REQUEST_ID, id);
        reading::stamp(&applied, headers);
        METERS.requests.increment(1);
        METERS.seconds.record(started.elapsed());
        Some(response)
    }
}

impl Service<Request<Incoming>> for Front {
    type Response = Answer;
    type Error = Infallible;
    type Future = Either<Ready<Answered>, Map<Routed, Widen>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        // Should it panic, the routes may still answer, or say what it is.
        let answer = catch_unwind(AssertUnwindSafe(|| self.answer(&request)));
        match answer.ok().flatten() {
            Some(answer) => Either::Left(ready(Ok(answer))),
            None => {
                let widen: Widen = |response| Ok(response?.map(http_body_util::Either::Right));
                Either::Right(self.routes.call(request).map(widen))
            }
        }
    }
}

/// The same that the routes count with, found once.
struct Meters {
    requests: Counter,
    seconds: Histogram,
}

static METERS: LazyLock<Meters> = LazyLock::new(|| {
    let route = "/v1/operations/{operation_id}";
    let labels = [("method", "GET"), ("route", route)];
    Meters {
        requests: metrics::counter!(
            "opledger_http_requests_total",
            "method" => "GET", "route" => route, "status" => "200"
        ),
        seconds: metrics::histogram!("opledger_http_request_seconds", &labels),
    }
});
