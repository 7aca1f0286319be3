//! For operators: liveness, readiness, metrics, version.

use super::App;
use super::stream::json;
use crate::domain::{Slices, Status};
use crate::event_log::Bounds;
use crate::feed::progress::{Applied, Doing};
use crate::logging;
use crate::rows::{self, meta};
use crate::wire::position::{Offset, Partition};
use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use metrics::{counter, gauge};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

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
    let body = serde_json::json!({"status": word, "reasons": reasons, "notes": notes(&app)});
    let mut response = json(body.to_string());
    *response.status_mut() = status;
    response
}

pub fn reasons(app: &App) -> Vec<String> {
    let mut reasons = Vec::new();
    match app.progress.doing() {
        Doing::Running => {}
        Doing::Starting => reasons.push("restoring: the projector is starting".into()),
        Doing::Waiting(why) => reasons.push(format!("the projector waits: {why}")),
        Doing::Halted(why) => reasons.push(format!("the projector has halted: {why}")),
        Doing::Stopped => reasons.push("stopping".into()),
    }
    if let Some(trouble) = app.log.trouble() {
        reasons.push(format!("the event log does not accept writes: {trouble}"));
    }
    match lag(app) {
        Ok(lag) if lag > app.config.projector.max_lag => {
            let workers = worker_lags(app).unwrap_or_default();
            let which = who_is_behind(&workers, app.config.projector.max_lag);
            let which = which.map(|which| format!(": {which}")).unwrap_or_default();
            reasons.push(format!("the store is {lag} records behind the log{which}"));
        }
        Ok(_) => {}
        Err(why) => reasons.push(why),
    }
    let count = app.defects.count();
    if count > 0 {
        let operations = if count == 1 {
            "operation"
        } else {
            "operations"
        };
        reasons.push(format!("{count} {operations} cannot be read: {REBUILD}"));
    }
    let (lost, _) = rows::damage(&*app.db);
    if !lost.is_empty() {
        reasons.push(format!(
            "{} cannot be read in part: {REBUILD}",
            lost.join(", ")
        ));
    }
    let without_folder = |reason: String| without_folder(&reason, &app.config.data);
    reasons.into_iter().map(without_folder).collect()
}

/// RocksDB's messages have whole paths. Clients see readiness too, and the location of the data
/// is only for the operator, who finds it in the log lines.
fn without_folder(reason: &str, data: &Path) -> String {
    reason.replace(&format!(" {}/", data.display()), " ")
}

const REBUILD: &str = "the store is damaged, the event log has everything; stop the ledger and \
                       run `opledger rebuild`";

/// Notes for operators that do not affect readiness.
pub fn notes(app: &App) -> Vec<String> {
    let begins = match meta::beginnings(&*app.db, meta::Source::Events) {
        Ok(begins) => begins,
        // The damage is one of the reasons.
        Err(_) => return Vec::new(),
    };
    let note = |(partition, offset)| {
        format!(
            "partition {partition} began at offset {offset} when the store first read it: the \
             history before that is not here"
        )
    };
    let begins = begins
        .into_iter()
        .filter(|(_, offset)| *offset > Offset::ZERO);
    let damaged = match rows::damage(&*app.db) {
        (lost, true) if lost.is_empty() => Some(
            "the store is damaged, and what it has elsewhere is shown: stop the ledger when it \
             suits and run `opledger rebuild`, which rebuilds the store from the event log"
                .to_owned(),
        ),
        _ => None,
    };
    let full = app.unsent.is_full().then(|| {
        format!(
            "large responses are refused (503): clients have not read {} bytes of others, and \
             server.max_unsent allows {}",
            app.unsent.held(),
            app.config.server.max_unsent
        )
    });
    let notes = begins.map(note).chain(damaged).chain(full);
    notes.chain(app.notifications.notes()).collect()
}

/// How far the store is in one partition of the log.
pub struct Lag {
    pub partition: Partition,
    pub bounds: Bounds,
    /// The offset after all that is applied.
    pub next: Offset,
}

impl Lag {
    pub fn records(&self) -> u64 {
        self.bounds.end.since(self.next)
    }
}

pub fn lags(app: &App) -> Result<Vec<Lag>, String> {
    let applied = app.progress.applied();
    let bounds = app.log.bounds().map_err(|error| error.to_string())?;
    Ok(behind(app, &applied, &bounds).collect())
}

fn behind(
    app: &App,
    applied: &Applied,
    bounds: &BTreeMap<Partition, Bounds>,
) -> impl Iterator<Item = Lag> {
    // The store has nothing of a log that is not its own.
    let is_ours = applied.token.as_ref().map(|token| token.log) == app.log.id();
    bounds.iter().map(move |(&partition, &bounds)| {
        let next = applied.next.get(&partition).filter(|_| is_ours);
        Lag {
            partition,
            bounds,
            next: *next.unwrap_or(&bounds.first),
        }
    })
}

/// How far one worker is.
#[derive(Debug)]
pub struct WorkerLag {
    pub slices: Slices,
    /// Records of the log that it has not passed, those for other workers among them.
    pub records: u64,
    /// Which part of its time it works, of late: 0 to 1.
    pub busy: f64,
}

/// That of each worker, in the order of their numbers.
pub fn worker_lags(app: &App) -> Result<Vec<WorkerLag>, String> {
    let workers = app.progress.by_worker();
    let bounds = app.log.bounds().map_err(|error| error.to_string())?;
    let lags = workers.into_iter().map(|worker| {
        let lags = behind(app, &worker.applied, &bounds);
        WorkerLag {
            slices: worker.slices,
            records: lags.map(|lag| lag.records()).sum(),
            busy: worker.effort,
        }
    });
    Ok(lags.collect())
}

/// The workers that lag by more than this; `None` if all do or none.
fn who_is_behind(workers: &[WorkerLag], max_lag: u64) -> Option<String> {
    let numbered = workers.iter().enumerate();
    let (behind, others): (Vec<_>, Vec<_>) =
        numbered.partition(|(_, worker)| worker.records > max_lag);
    let most = |workers: &[(usize, &WorkerLag)]| {
        let records = workers.iter().map(|(_, worker)| worker.records);
        records.max()
    };
    let (worst, rest) = (most(&behind)?, most(&others)?);
    let numbers: Vec<String> = behind.iter().map(|(n, _)| n.to_string()).collect();
    Some(match &*numbers {
        [number] => format!("worker {number} is {worst} behind, the others at most {rest}"),
        numbers => format!(
            "workers {} are at most {worst} behind, the others at most {rest}",
            numbers.join(", ")
        ),
    })
}

/// Records of the log that the store does not have yet.
pub fn lag(app: &App) -> Result<u64, String> {
    Ok(lags(app)?.iter().map(Lag::records).sum())
}

pub async fn metrics(State(app): State<Arc<App>>) -> Response {
    if let Ok(lags) = lags(&app) {
        for lag in &lags {
            let partition = lag.partition.to_string();
            let show = |name: &'static str, value: u64| {
                gauge!(name, "partition" => partition.clone()).set(value as f64);
            };
            show("opledger_partition_lag_records", lag.records());
            show("opledger_log_first_offset", lag.bounds.first.0);
            // The end was read a moment ago, and more may be applied by now.
            show("opledger_log_end_offset", lag.bounds.end.max(lag.next).0);
            show("opledger_applied_offset", lag.next.0);
        }
        let lag: u64 = lags.iter().map(Lag::records).sum();
        gauge!("opledger_projector_lag_records").set(lag as f64);
    }
    for (number, worker) in worker_lags(&app).iter().flatten().enumerate() {
        let show = |name: &'static str, value: f64| {
            gauge!(name, "worker" => number.to_string()).set(value);
        };
        show("opledger_worker_lag_records", worker.records as f64);
        show("opledger_worker_busy_ratio", worker.busy);
    }
    let doing = app.progress.doing();
    for (state, is_it) in [
        ("starting", matches!(doing, Doing::Starting)),
        ("running", matches!(doing, Doing::Running)),
        ("waiting", matches!(doing, Doing::Waiting(_))),
        ("halted", matches!(doing, Doing::Halted(_))),
        ("stopped", matches!(doing, Doing::Stopped)),
    ] {
        gauge!("opledger_projector_state", "state" => state).set(f64::from(u8::from(is_it)));
    }
    if let Some(counts) = app.progress.counts() {
        for (status, count) in Status::ALL.iter().zip(counts) {
            gauge!("opledger_operations", "status" => status.as_str()).set(count as f64);
        }
    }
    if let Some(space) = app.db.space() {
        gauge!("opledger_disk_free_bytes").set(space.free as f64);
    }
    counter!("opledger_log_lines_lost_total").absolute(logging::lost_lines());
    gauge!("opledger_unsent_bytes").set(app.unsent.held() as f64);
    gauge!("opledger_watched_operations").set(app.progress.watchers.watched() as f64);
    let open = app.config.streams.max - app.event_streams.available_permits();
    gauge!("opledger_event_streams").set(open as f64);
    gauge!("opledger_unreadable_operations").set(app.defects.count() as f64);
    let value = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    ([(CONTENT_TYPE, value)], app.metrics.render()).into_response()
}

pub async fn version(State(app): State<Arc<App>>) -> Response {
    let body = serde_json::json!({
        "name": "opledger",
        "version": env!("CARGO_PKG_VERSION"),
        "log": app.log.id().map(|log| log.to_string()),
        "store_format": meta::FORMAT,
        "fold_version": meta::FOLD,
    });
    json(body.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::Workers;

    fn who(records: &[u64]) -> Option<String> {
        let workers = Workers::new(records.len()).all().zip(records);
        let workers: Vec<WorkerLag> = workers
            .map(|(slices, &records)| WorkerLag {
                slices,
                records,
                busy: 0.5,
            })
            .collect();
        who_is_behind(&workers, 100)
    }

    #[test]
    fn readiness_names_the_workers_that_are_behind_the_others() {
        let one = who(&[7, 100, 101, 0]);
        let one = one.expect("worker 2 is behind");
        assert_eq!(one, "worker 2 is 101 behind, the others at most 100");
        let two = who(&[500, 0, 700]).expect("two are behind");
        assert_eq!(
            two,
            "workers 0, 2 are at most 700 behind, the others at most 0"
        );
        for alike in [&[900][..], &[900, 101], &[100, 99], &[]] {
            assert_eq!(who(alike), None, "{alike:?}");
        }
    }
}
