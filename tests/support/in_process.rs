//! The parts behind HTTP, on a log and a store in memory, for tests that decide when the projector
//! acts.

use axum::body::Body;
use axum::http::{Request, Response};
use http_body_util::BodyExt;
use hyper::service::Service;
use hyper_util::service::TowerToHyperService;
use opledger::config::Config;
use opledger::domain::{Timestamp, Workers};
use opledger::event_log::embedded::{Ahead, Appender, Layout, Which, disk};
use opledger::event_log::{self, Identity, Limits};
use opledger::feed::progress::{LogState, Progress, WrittenChange};
use opledger::http::App;
use opledger::projector::projection::Keep;
use opledger::projector::run::{Observer, Settings};
use opledger::projector::step::Rules;
use opledger::projector::{Projection, RecordBatch, Source, Tally};
use opledger::rows::meta;
use opledger::store::memory::Memory;
use opledger::store::{self, Db};
use opledger::webhook;
use opledger::wire::position::{LogId, Partition};
use opledger::wire::record::{Headers, Record};
use serde_json::Value;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

pub const LOG: LogId = LogId(*b"simulate");

/// An event as sent by a producer without a key or headers.
pub fn record(event: &Value) -> Record {
    Record {
        arrived: Timestamp::from_millis(0),
        claimed: false,
        key: None,
        headers: Headers::default(),
        value: Some(event.to_string().into()),
    }
}

/// Writes records unchanged to the embedded log of a data folder; creates the log if needed.
pub fn log_as_is(data: &Path, records: &[Record]) {
    let disk = disk::Os::at(&data.join("log")).unwrap();
    let layout = Layout {
        which: Which::Events,
        partitions: Config::default().log.partitions,
        least: 1 << 20,
        most: 1 << 20,
        ahead: Ahead::Never,
    };
    let mut log = Appender::open(Arc::new(disk), layout).unwrap();
    log.append_as_is(Partition(0), records).unwrap();
}

/// Settings of a projector that notices everything quickly.
pub fn projector(rules: Rules, check_every: Option<Duration>) -> Settings {
    Settings {
        limits: Limits {
            records: 100,
            bytes: 1 << 20,
            patience: Duration::from_millis(10),
        },
        batch_delay: Duration::from_millis(1),
        retry_max: Duration::from_millis(50),
        rules,
        check_every,
    }
}

/// Of a projector whose work nobody hears of.
pub struct Silent;

impl Observer for Silent {
    fn opened(&self, _: &dyn Db) -> store::Result<()> {
        Ok(())
    }
    fn applied(&self, _: &RecordBatch, _: &Tally, _: Duration) {}
    fn failed(&self, _: &store::Error) {}
}

pub fn open(store: &Memory, window: u64) -> Projection {
    let log = Identity {
        id: LOG,
        name: "simulated".into(),
    };
    let keep = Keep {
        hot_bytes: 10_000,
        change_window: window,
    };
    Projection::open_one(store, Source::Events, &log, keep).unwrap()
}

/// What a projector publishes when it begins.
pub fn begin(app: &App, projection: &Projection) {
    let at = projection.at();
    let positions = vec![(at.token(), at.next())];
    app.progress.begin(projection.next_change(), positions);
}

/// What a projector publishes after each write.
pub fn publish(app: &App, projection: &Projection, tally: Tally) {
    let at = projection.at();
    let published = tally.change.map(|change| WrittenChange {
        change,
        entries: tally.entries,
    });
    app.progress.publish(0, at.token(), &at.next(), published);
}

pub fn app<D: Db + 'static>(store: &Arc<D>, log: &event_log::memory::MemoryLog) -> Arc<App> {
    app_of(store, log, Workers::ONE)
}

pub fn app_of<D: Db + 'static>(
    store: &Arc<D>,
    log: &event_log::memory::MemoryLog,
    workers: Workers,
) -> Arc<App> {
    let mut config = Config::default();
    // Requests do not wait: a test asks again.
    config.server.default_wait = Duration::ZERO;
    let hour = Duration::from_secs(3600);
    config.streams.keep_alive = hour;
    config.streams.max = 100;
    config.server.max_streams = 8;
    config.lists.points = 8;
    config.lists.share = Duration::ZERO;
    (config.lists.idle, config.lists.max_age) = (hour, hour);
    let progress = Progress::new(meta::token(&**store).unwrap(), workers);
    // No projector compares the log in these tests.
    progress.set_log(LogState::Confirmed);
    let documents = opledger::app::documents(&config, &progress);
    let recorder = metrics_exporter_prometheus::PrometheusBuilder::new().build_recorder();
    App::new(
        store.clone(),
        Arc::new(log.clone()),
        Arc::new(progress),
        webhook::WebhookHandle::idle(store.clone(), None),
        documents,
        recorder.handle(),
        config,
    )
}

pub type Get = TowerToHyperService<axum::Router>;

/// The response to a GET.
pub async fn call(get: &Get, path: &str, headers: &[(&str, &str)]) -> Response<Body> {
    let mut request = Request::get(path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    get.call(request.body(Body::empty()).unwrap())
        .await
        .unwrap()
}

pub async fn json_of(response: Response<Body>) -> Value {
    let body = response.into_body().collect().await.unwrap().to_bytes();
    serde_json::from_slice(&body).unwrap()
}
