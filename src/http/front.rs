//! Stands before the routes and answers by itself what is asked most: a document
//! that is at hand, by a plain GET. Everything else, and whatever it is in doubt
//! about, goes on to the routes, which answer the same.

use super::error::Refusal;
use super::exchange::{self, Answering, Exchange};
use super::host::Names;
use super::{
    App, REQUEST_ID, accept, admin, check_request_id, operations, reading, request_id, router,
};
use crate::feed::documents::Current;
use crate::rows::filter::Filter;
use crate::wire::event::operation_id_fault;
use axum::Router;
use axum::body::Body;
use axum::http::header::{CONNECTION, CONTENT_TYPE, ETAG, IF_NONE_MATCH, VARY};
use axum::http::{HeaderName, HeaderValue, Method, Request, Response};
use axum::response::IntoResponse;
use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::{Either, Join, Map, Ready, join, ready};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::Service;
use hyper_util::service::{TowerToHyperService, TowerToHyperServiceFuture};
use metrics::{Counter, Histogram};
use std::convert::Infallible;
use std::net::{IpAddr, Ipv4Addr};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, LazyLock};
use std::time::Instant;

#[derive(Clone)]
pub struct Front {
    app: Arc<App>,
    names: Arc<Names>,
    /// The address of this machine that the connection came in at.
    reached: IpAddr,
    exchange: Arc<Exchange>,
    routes: TowerToHyperService<Router>,
}

/// A whole document, or what a route answers.
pub type Answer = Response<DocumentOrBody>;
type DocumentOrBody = http_body_util::Either<Full<Bytes>, Body>;

type Routed = Join<Ready<Answering>, TowerToHyperServiceFuture<Router, Request<Incoming>>>;
type Answered = Result<Response<exchange::Answer<DocumentOrBody>>, Infallible>;
type Finish = fn((Answering, Result<Response<Body>, Infallible>)) -> Answered;

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
            names: Arc::new(Names::new(&app.config.server)),
            reached: Ipv4Addr::LOCALHOST.into(),
            exchange: Arc::default(),
            app,
        }
    }

    /// For a connection that came in at this address of the machine.
    pub fn of_connection(&self, reached: IpAddr, exchange: Arc<Exchange>) -> Front {
        Front {
            reached,
            exchange,
            ..self.clone()
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
        let (db, all) = (&*app.db, Filter::everything());
        let found = app
            .documents
            .load_cached(db, operation_id, applied.changes, all);
        let Ok(Some(Current::Shown(document))) = found else {
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
    type Response = Response<exchange::Answer<DocumentOrBody>>;
    type Error = Infallible;
    type Future = Either<Ready<Answered>, Map<Routed, Finish>>;

    fn call(&self, mut request: Request<Incoming>) -> Self::Future {
        let answering = self.exchange.begin();
        check_request_id(request.headers_mut());
        if let Err(refusal) = self.names.check(&request, self.reached) {
            let refused = turned_away(&request, refusal);
            return Either::Left(ready(Ok(with(answering, refused))));
        }
        // Should it panic, the routes may still answer, or say what it is.
        let answer = catch_unwind(AssertUnwindSafe(|| self.answer(&request)));
        match answer.ok().flatten() {
            Some(answer) => Either::Left(ready(Ok(with(answering, answer)))),
            None => {
                let finish: Finish = |(answering, response)| {
                    let response = response?.map(http_body_util::Either::Right);
                    Ok(with(answering, response))
                };
                let routed = join(ready(answering), self.routes.call(request));
                Either::Right(routed.map(finish))
            }
        }
    }
}

/// The request is answered when the last of this has been taken.
fn with(answering: Answering, answer: Answer) -> Response<exchange::Answer<DocumentOrBody>> {
    answer.map(|body| exchange::Answer {
        body,
        _answering: answering,
    })
}

/// The answer to a request that no route gets to see.
fn turned_away(request: &Request<Incoming>, refusal: Refusal) -> Answer {
    let mut response = refusal.into_response();
    let id = request.headers().get(REQUEST_ID).cloned();
    let headers = response.headers_mut();
    headers.insert(REQUEST_ID, id.unwrap_or_else(request_id));
    // Its body, if it has one, is not read.
    headers.insert(CONNECTION, HeaderValue::from_static("close"));
    let status = response.status().as_u16().to_string();
    let method = admin::method(request.method());
    metrics::counter!(
        "opledger_http_requests_total",
        "method" => method, "route" => "other", "status" => status
    )
    .increment(1);
    response.map(http_body_util::Either::Right)
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
