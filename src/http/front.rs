//! Every request passes through here: the check of its `Host`, its request id, the catch of panics,
//! metrics. A cached document is sent without routing; all other requests are routed.

use super::error::Refusal;
use super::exchange::{self, Answering, Exchange};
use super::host::Names;
use super::{App, REQUEST_ID, operations, request_id_of, router};
use axum::body::Body;
use axum::extract::MatchedPath;
use axum::http::header::CONNECTION;
use axum::http::{HeaderValue, Method, Request, Response};
use axum::response::IntoResponse;
use axum::{BoxError, Router};
use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Either, Ready, ready};
use hashbrown::HashMap;
use http_body_util::Full;
use hyper::service::Service;
use hyper_util::service::TowerToHyperService;
use metrics::{Counter, Histogram};
use std::convert::Infallible;
use std::net::{IpAddr, Ipv4Addr};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, LazyLock, PoisonError, RwLock};
use std::time::Instant;

#[derive(Clone)]
pub struct Front {
    app: Arc<App>,
    names: Arc<Names>,
    /// The address of this machine that the client connected to.
    reached: IpAddr,
    exchange: Arc<Exchange>,
    routes: TowerToHyperService<Router>,
}

/// A cached document, or the body of a route's response.
pub type DocumentOrBody = http_body_util::Either<Full<Bytes>, Body>;

type Answered = Result<Response<exchange::ResponseBody<DocumentOrBody>>, Infallible>;

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
}

impl<B> Service<Request<B>> for Front
where
    B: hyper::body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Response = Response<exchange::ResponseBody<DocumentOrBody>>;
    type Error = Infallible;
    type Future = Either<Ready<Answered>, BoxFuture<'static, Answered>>;

    fn call(&self, request: Request<B>) -> Self::Future {
        let passing = Passing {
            started: Instant::now(),
            answering: self.exchange.begin(),
            id: request_id_of(request.headers()),
            method: method(request.method()),
        };
        if let Err(refusal) = self.names.check(&request, self.reached) {
            let mut refused = refusal.into_response();
            // Its body, if it has one, is not read.
            let close = HeaderValue::from_static("close");
            refused.headers_mut().insert(CONNECTION, close);
            return Either::Left(ready(passing.respond(refused)));
        }
        let in_memory = || operations::get_cached(&self.app, &request);
        match catch_unwind(AssertUnwindSafe(in_memory)) {
            Ok(Some(found)) => {
                let found = found.map(http_body_util::Either::Left);
                Either::Left(ready(passing.finish(operations::ROUTE, found)))
            }
            Ok(None) => {
                let routes = self.routes.clone();
                Either::Right(Box::pin(async move {
                    let routed = AssertUnwindSafe(async { routes.call(request).await });
                    passing.respond(match routed.catch_unwind().await {
                        Ok(Ok(response)) => response,
                        Err(_) => Refusal::Panicked.into_response(),
                    })
                }))
            }
            Err(_) => {
                let panicked = Refusal::Panicked.into_response();
                Either::Left(ready(passing.respond(panicked)))
            }
        }
    }
}

/// A request in progress.
struct Passing {
    started: Instant,
    answering: Answering,
    id: HeaderValue,
    method: &'static str,
}

impl Passing {
    fn respond(self, mut response: Response<Body>) -> Answered {
        let route = response.extensions_mut().remove::<MatchedPath>();
        let route = route.as_ref().map_or("other", MatchedPath::as_str);
        self.finish(route, response.map(http_body_util::Either::Right))
    }

    /// The request ends when hyper has taken the last byte of the response.
    fn finish(self, route: &str, mut response: Response<DocumentOrBody>) -> Answered {
        response.headers_mut().insert(REQUEST_ID, self.id);
        let labels = RequestLabels {
            method: self.method,
            route,
            status: response.status().as_u16(),
        };
        measure(labels, self.started);
        Ok(response.map(|body| exchange::ResponseBody {
            body,
            _answering: self.answering,
        }))
    }
}

/// A client may send any method; a label has few values.
fn method(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::DELETE => "DELETE",
        Method::PATCH => "PATCH",
        Method::OPTIONS => "OPTIONS",
        _ => "other",
    }
}

/// What requests are counted and timed by: the route, never the path.
#[derive(PartialEq, Eq, Hash)]
struct RequestLabels<'r> {
    method: &'static str,
    route: &'r str,
    status: u16,
}

struct Meters {
    requests: Counter,
    seconds: Histogram,
}

/// Found by their labels once: a search for each request took longer than a cached document.
static METERS: LazyLock<RwLock<HashMap<RequestLabels<'static>, Meters>>> =
    LazyLock::new(Default::default);

fn measure(labels: RequestLabels, started: Instant) {
    let take = |meters: &Meters| {
        meters.requests.increment(1);
        meters.seconds.record(started.elapsed());
    };
    let known = METERS.read().unwrap_or_else(PoisonError::into_inner);
    // Gives the reference to the map the shorter lifetime of `labels`.
    let found: &HashMap<RequestLabels, Meters> = &known;
    if let Some(meters) = found.get(&labels) {
        return take(meters);
    }
    drop(known);
    // Routes are few, and kept for as long as the process runs.
    let labels = RequestLabels {
        method: labels.method,
        route: labels.route.to_owned().leak(),
        status: labels.status,
    };
    let texts = [
        ("method", labels.method.to_owned()),
        ("route", labels.route.to_owned()),
        ("status", labels.status.to_string()),
    ];
    let meters = Meters {
        requests: metrics::counter!("opledger_http_requests_total", &texts),
        seconds: metrics::histogram!("opledger_http_request_seconds", &texts[..2]),
    };
    take(&meters);
    let mut known = METERS.write().unwrap_or_else(PoisonError::into_inner);
    known.insert(labels, meters);
}
