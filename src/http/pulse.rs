//! What the projector does and did in the last minutes, for the web page: a page that was just
//! opened shows the past as well.

use super::error::{Detail, Refusal};
use super::params::Params;
use super::{App, admin, reading, stream};
use crate::clock;
use crate::domain::{Slice, Status};
use crate::feed::progress::Doing;
use crate::wire::fault::{Fault, Rule};
use crate::wire::position::{NextOffsets, Offset, Partition};
use axum::extract::State;
use axum::http::Uri;
use axum::response::Response;
use serde::Serialize;
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;

const EVERY: Duration = Duration::from_secs(2);
/// Larger numbers are not exact in every JSON parser.
const LATEST: u64 = (1 << 53) - 1;
/// Ten minutes.
const KEPT: usize = 300;

/// The last moments, oldest first.
#[derive(Default)]
pub struct Pulse(Mutex<VecDeque<Moment>>);

/// The ends of the log and of the store at one time. The page shows differences as rates.
#[derive(Debug, Clone, Serialize)]
struct Moment {
    /// Milliseconds since 1970.
    at: u64,
    /// By partition, the next offset of the log.
    end: NextOffsets,
    /// By partition, the offset after all that is applied.
    next: NextOffsets,
}

impl Pulse {
    fn note(&self, moment: Moment) {
        let mut moments = self.0.lock().expect("nothing panics while it holds these");
        if moments.len() == KEPT {
            moments.pop_front();
        }
        moments.push_back(moment);
    }

    fn since(&self, time: u64) -> Vec<Moment> {
        let moments = self.0.lock().expect("nothing panics while it holds these");
        let newer = moments.iter().filter(|moment| moment.at > time);
        newer.cloned().collect()
    }
}

/// Notes a moment every two seconds, until it is dropped. Also expires unused read points of lists,
/// which otherwise only another list would do.
pub async fn beat(app: Arc<App>) {
    let mut every = tokio::time::interval(EVERY);
    every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        every.tick().await;
        app.read_points.expire(std::time::Instant::now());
        // While the log cannot be reached, the plot has a gap.
        if let Ok(lags) = admin::lags(&app) {
            app.pulse.note(moment(&lags));
        }
    }
}

fn moment(lags: &[admin::Lag]) -> Moment {
    Moment {
        at: clock::since_1970().as_millis() as u64,
        // The end was seen a moment ago, and more may be applied by now.
        end: lags
            .iter()
            .map(|lag| (lag.partition, lag.bounds.end.max(lag.next)))
            .collect(),
        next: lags.iter().map(|lag| (lag.partition, lag.next)).collect(),
    }
}

#[derive(Serialize)]
struct ProjectorView {
    version: &'static str,
    log: Option<String>,
    state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    why: Option<String>,
    /// Why it is not ready; empty if it is.
    reasons: Vec<String>,
    notes: Vec<String>,
    /// By status; left out until they have been counted.
    #[serde(skip_serializing_if = "Option::is_none")]
    operations: Option<BTreeMap<&'static str, u64>>,
    partitions: Vec<PartitionState>,
    /// In the order of their numbers.
    workers: Vec<WorkerState>,
    /// Seconds east of UTC of the times in documents.
    time_offset: i32,
    /// Milliseconds between two moments.
    every: u64,
    moments: Vec<Moment>,
}

#[derive(Serialize)]
struct PartitionState {
    partition: Partition,
    first: Offset,
    end: Offset,
    next: Offset,
    lag: u64,
}

#[derive(Serialize)]
struct WorkerState {
    worker: usize,
    first_slice: u8,
    last_slice: u8,
    /// In records, those for other workers among them.
    lag: u64,
    /// Which part of its time it works, of late: 0 to 1.
    busy: f64,
}

/// Its parameters.
pub(super) const SINCE: &[&str] = &["since"];

/// The state of the projector, and the moments after `since`.
pub async fn projector(State(app): State<Arc<App>>, uri: Uri) -> Response {
    state(&app, &uri).unwrap_or_else(|refusal| {
        reading::stamp_now(&app, refusal.into_response_with(Detail::InMessage))
    })
}

fn state(app: &App, uri: &Uri) -> Result<Response, Refusal> {
    let params = Params::parse(app, uri, SINCE)?;
    let since = match params.get("since").map(str::parse) {
        None => 0,
        Some(Ok(since @ 0..=LATEST)) => since,
        Some(Ok(_)) => return Err(Fault::new(Rule::Range, "since", "below 2^53.").into()),
        Some(Err(_)) => {
            let what = "milliseconds since 1970.";
            return Err(Fault::new(Rule::Format, "since", what).into());
        }
    };
    let (state, why) = match app.progress.doing() {
        Doing::Starting => ("starting", None),
        Doing::Running => ("running", None),
        Doing::Waiting(why) => ("waiting", Some(why)),
        Doing::Halted(why) => ("halted", Some(why)),
        Doing::Stopped => ("stopped", None),
    };
    let names = Status::ALL.map(Status::as_str);
    let counts = app.progress.counts();
    // If the log cannot be reached, `reasons` has that.
    let lags = admin::lags(app).unwrap_or_default();
    let workers = admin::worker_lags(app).unwrap_or_default();
    let shown = ProjectorView {
        version: env!("CARGO_PKG_VERSION"),
        log: app.log.id().map(|log| log.to_string()),
        state,
        why,
        reasons: admin::reasons(app),
        notes: admin::notes(app),
        operations: counts.map(|counts| names.into_iter().zip(counts).collect()),
        partitions: lags.iter().map(partition).collect(),
        workers: workers.iter().enumerate().map(worker).collect(),
        time_offset: app.documents.times().offset,
        every: EVERY.as_millis() as u64,
        moments: app.pulse.since(since),
    };
    let body = serde_json::to_vec(&shown).expect("writing to memory cannot fail");
    Ok(reading::stamp_now(app, stream::json(body)))
}

fn partition(lag: &admin::Lag) -> PartitionState {
    PartitionState {
        partition: lag.partition,
        first: lag.bounds.first,
        end: lag.bounds.end.max(lag.next),
        next: lag.next,
        lag: lag.records(),
    }
}

fn worker((number, lag): (usize, &admin::WorkerLag)) -> WorkerState {
    let Slice(end) = lag.slices.end();
    WorkerState {
        worker: number,
        first_slice: lag.slices.first().0,
        // Each has at least one.
        last_slice: end - 1,
        lag: lag.records,
        busy: lag.busy,
    }
}
