//! The difference between a bare consumer and a ledger, part by part. Each rung reads the
//! same topic with one part more of the ledger's own code. So the cost of each part is
//! measured and not guessed.
//!
//!     cargo run --release --example rungs -- --kafka 127.0.0.1:9092 --topic events

#[path = "../../src/allocator.rs"]
mod allocator;
mod forgetful;
#[allow(dead_code)]
#[path = "../load/report.rs"]
mod report;
#[allow(dead_code)]
#[path = "../load/topic.rs"]
mod topic;

use anyhow::{Context, ensure};
use clap::Parser;
use forgetful::Forgetful;
use opledger::app::{self, Topics};
use opledger::config::Config;
use opledger::event_log::kafka::Kafka;
use opledger::event_log::{EventLog, Reader, Share};
use opledger::feed::progress::Progress;
use opledger::projector::projection::Tally;
use opledger::projector::record_batch::RecordBatch;
use opledger::projector::run::{self, Observer};
use opledger::store::rocks::Rocks;
use opledger::store::{self, Batch, Db, Family};
use opledger::wire::position::NextOffsets;
use report::{Report, per_second};
use serde_json::json;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::mpsc::{Sender, channel};
use std::time::{Duration, Instant};
use topic::Topic;

const PATIENCE: Duration = Duration::from_secs(30);

/// Read a topic with more and more parts of the ledger, and print the cost of each
#[derive(Parser)]
#[command(name = "rungs")]
struct Args {
    /// Brokers
    #[arg(long, value_name = "BOOTSTRAP")]
    kafka: String,
    /// A topic that `load fill` has filled
    #[arg(long, value_name = "NAME")]
    topic: String,
    /// Instead of the rungs, only read, with this many readers that share the partitions
    #[arg(long, value_name = "N")]
    readers: Option<usize>,
    /// Turns; each runs all rungs
    #[arg(long, default_value_t = 3)]
    turns: usize,
    /// Where to keep the temporary store [default: the temporary folder]
    #[arg(long, value_name = "DIR")]
    folder: Option<PathBuf>,
    /// Also write the figures as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    if let Some(readers) = args.readers {
        return print(&args, read_shared(&args, readers)?);
    }
    let topic = Topic::existing(&args.kafka, &args.topic)?;
    // One uncounted turn first: after it the broker has the topic in memory.
    let (events, bytes) = topic.count()?;
    let mut report = Report::new(
        "rungs",
        vec![
            ("events", json!(events)),
            ("bytes an event", json!(bytes as f64 / events as f64)),
            ("partitions", json!(topic.partitions)),
        ],
    );
    for turn in 1..=args.turns {
        let mut row = |what: &str, spent: Spent| {
            let figures = vec![
                ("events/s", per_second(events - spent.before, spent.took)),
                (
                    "CPU µs/event",
                    json!(spent.cpu * 1e6 / (events - spent.before) as f64),
                ),
            ];
            report.row(format!("{what}, turn {turn}"), figures);
        };
        let mut meter = Meter::default();
        topic.drop_telling(events, &mut |taken| meter.note(taken))?;
        row("dropped in batches", meter.spent()?);
        row("taken out by the reader", read(&args, events, |_, _| ())?);
        let config = config(&args);
        let rules = app::rules(&config);
        let mut spare = Batch::default();
        let decode = |records, next| {
            let spent = std::mem::take(&mut spare);
            spare = RecordBatch::decode_with(records, next, &rules, spent).spend();
        };
        row(
            "and decoded, grouped, history encoded",
            read(&args, events, decode)?,
        );
        row(
            "and folded, kept nowhere",
            project(&args, events, Arc::new(Forgetful::default()))?,
        );
        let folder = match &args.folder {
            Some(folder) => tempfile::tempdir_in(folder)?,
            None => tempfile::tempdir()?,
        };
        let path = folder.path().join("store");
        let store = Rocks::open(&path, Family::LEDGER, app::memory(&config))?;
        row(
            "and written to the store",
            project(&args, events, Arc::new(store))?,
        );
    }
    print(&args, report)
}

fn print(args: &Args, report: Report) -> anyhow::Result<()> {
    print!("{}", report.markdown());
    if let Some(file) = &args.json {
        let text = report::json(&[report]);
        std::fs::write(file, text).with_context(|| file.display().to_string())?;
    }
    Ok(())
}

fn config(args: &Args) -> Config {
    let mut config = Config::default();
    config.kafka.bootstrap.clone_from(&args.kafka);
    config.kafka.topic.clone_from(&args.topic);
    config
}

/// Measured from the first records on, because the time before is connecting.
struct Spent {
    /// The number of records when the clock started.
    before: usize,
    took: Duration,
    /// Processor seconds of this process, all threads included.
    cpu: f64,
}

#[derive(Default)]
struct Meter {
    first: Option<(usize, Instant, f64)>,
    last: Option<(Instant, f64)>,
}

impl Meter {
    /// Notes that this many records are done.
    fn note(&mut self, done: usize) {
        let now = (Instant::now(), cpu());
        self.first.get_or_insert((done, now.0, now.1));
        self.last = Some(now);
    }

    fn spent(self) -> anyhow::Result<Spent> {
        let (before, began, cpu_before) = self.first.context("no records to take")?;
        let (ended, cpu) = self.last.context("no records to take")?;
        Ok(Spent {
            before,
            took: ended - began,
            cpu: cpu - cpu_before,
        })
    }
}

/// Processor seconds of this process.
fn cpu() -> f64 {
    let of = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    of.tv_sec as f64 + of.tv_nsec as f64 / 1e9
}

/// As the intake does, without a projector after it.
fn read(
    args: &Args,
    events: usize,
    mut take: impl FnMut(Vec<opledger::event_log::Logged>, NextOffsets),
) -> anyhow::Result<Spent> {
    let config = config(args);
    let log = Kafka::open(app::kafka(&config, Topics::Leave))?;
    let id = log.identify()?.id;
    let mut reader: Box<dyn Reader> = log.reader(id, &NextOffsets::default(), Share::ALL)?;
    let limits = app::projector(&config).limits;
    let (mut meter, mut done, started) = (Meter::default(), 0, Instant::now());
    while done < events {
        ensure!(
            started.elapsed() < PATIENCE || done > 0,
            "nothing came for half a minute"
        );
        let mut records = Vec::new();
        reader.read(&limits, &mut records)?;
        done += records.len();
        let came = !records.is_empty();
        take(records, reader.next());
        if came {
            meter.note(done);
        }
    }
    meter.spent()
}

/// Several readers, each on a thread. Their memory and threads are those of this process, so a
/// process measures one number of readers.
fn read_shared(args: &Args, readers: usize) -> anyhow::Result<Report> {
    let config = config(args);
    let limits = app::projector(&config).limits;
    let log = Kafka::open(app::kafka(&config, Topics::Leave))?;
    let id = log.identify()?.id;
    let bounds = log.bounds()?;
    let events: u64 = bounds.values().map(|b| b.end.since(b.first)).sum();
    let events = events as usize;
    let settings = vec![
        ("events", json!(events)),
        ("partitions", json!(bounds.len())),
    ];
    let mut report = Report::new("readers", settings);
    report.row("before there are readers", resources()?);
    let open = |index| {
        let share = Share { index, of: readers };
        log.reader(id, &NextOffsets::default(), share)
    };
    let readers: Vec<_> = (0..readers).map(open).collect::<Result<_, _>>()?;
    let count = readers.len();
    // Nothing is read, so each client fetches as much as it may.
    std::thread::sleep(FETCHED_AHEAD);
    report.row(
        format!("{count} readers, as much fetched ahead as they may"),
        resources()?,
    );
    let (started, cpu_before, done) = (Instant::now(), cpu(), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        let read = |mut reader: Box<dyn Reader>| {
            while done.load(Relaxed) < events {
                let mut records = Vec::new();
                reader.read(&limits, &mut records)?;
                done.fetch_add(records.len(), Relaxed);
            }
            anyhow::Ok(reader)
        };
        let reading: Vec<_> = readers
            .into_iter()
            .map(|reader| scope.spawn(move || read(reader)))
            .collect();
        let mut still = Vec::new();
        for reading in reading {
            still.push(reading.join().expect("reading does not panic")?);
        }
        let took = started.elapsed();
        let mut row = resources()?;
        row.extend([
            ("events/s", per_second(events, took)),
            (
                "CPU µs/event",
                json!((cpu() - cpu_before) * 1e6 / events as f64),
            ),
        ]);
        report.row(format!("{count} readers, all was read"), row);
        Ok(report)
    })
}

/// Long enough for the queues to be full.
const FETCHED_AHEAD: Duration = Duration::from_secs(5);

/// Threads and memory of this process.
fn resources() -> anyhow::Result<report::Cells> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let number = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        let value = line.and_then(|line| line.split_whitespace().next());
        value
            .and_then(|value| value.parse::<f64>().ok())
            .with_context(|| format!("no {name} in /proc/self/status"))
    };
    Ok(vec![
        ("threads", json!(number("Threads:")?)),
        ("resident MiB", json!(number("VmRSS:")? / 1024.0)),
        ("resident peak MiB", json!(number("VmHWM:")? / 1024.0)),
    ])
}

/// The projector, threads and all, on this store.
fn project(args: &Args, events: usize, db: Arc<dyn Db>) -> anyhow::Result<Spent> {
    let config = config(args);
    let log = Arc::new(Kafka::open(app::kafka(&config, Topics::Leave))?);
    let (applied, told) = channel();
    let settings = app::projector(&config);
    let progress = Arc::new(Progress::new(None, app::workers(&config)));
    let projector = run::start(
        app::writer(&config, db),
        log,
        progress.clone(),
        Arc::new(Counts(applied)),
        settings,
    )?;
    let (mut meter, mut done) = (Meter::default(), 0);
    while done < events {
        let more = told.recv_timeout(PATIENCE);
        done += more.with_context(|| format!("the projector: {:?}", progress.doing()))?;
        meter.note(done);
    }
    drop(projector);
    meter.spent()
}

/// Reports the number of records of each batch.
struct Counts(Sender<usize>);

impl Observer for Counts {
    fn opened(&self, _: &dyn Db) -> store::Result<()> {
        Ok(())
    }

    fn applied(&self, record_batch: &RecordBatch, _: &Tally, _: Duration) {
        // Nobody receives once all records are there.
        let _ = self.0.send(record_batch.records());
    }

    fn failed(&self, error: &store::Error) {
        eprintln!("rungs: {error}");
    }
}
