//! The serial part: what more cores cannot make faster. Processor time per event of the whole
//! ledger and of its busiest thread that does work which no setting divides, with 1, 2, 4 and 8
//! workers, for catching up from Kafka, for reading the embedded log again, and for accepting
//! events over HTTP. With enough cores, an event takes at least the serial part; with C cores,
//! at least a C-th of all.
//!
//! RocksDB lets one write at a time into its write-ahead log. Threads do not show this: it is
//! part of the workers' time.

use crate::args::Setup;
use crate::publish::{publish, wait_until_readable};
use crate::render::{self, Busy, Work};
use crate::report::{Cells, Report, mib, per_second};
use crate::server::Server;
use crate::threads::{Group, Sampler};
use crate::topic::Topic;
use anyhow::{Context, ensure};
use serde_json::json;
use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

#[derive(clap::Args)]
pub struct Options {
    /// Brokers [default: only the jobs on the embedded log]
    #[arg(long, value_name = "BOOTSTRAP")]
    kafka: Option<String>,
    /// `projector.workers`, one after the other
    #[arg(
        long,
        value_delimiter = ',',
        value_name = "N,…",
        default_value = "1,2,4,8"
    )]
    workers: Vec<usize>,
    #[arg(long, default_value_t = 1_000_000)]
    events: usize,
    #[arg(long, default_value_t = 8)]
    partitions: i32,
    /// Operations that are active at the same time
    #[arg(long, default_value_t = 600)]
    in_flight: usize,
    #[arg(long, default_value_t = 6)]
    senders: usize,
    /// Events a publish
    #[arg(long, default_value_t = 100)]
    batch: usize,
    /// How often each number of workers is measured, in turns
    #[arg(long, default_value_t = 3)]
    turns: usize,
}

/// Partitions of the embedded log by default.
const EMBEDDED: i32 = 4;

const WORKERS: &str = "OPLEDGER_PROJECTOR__WORKERS";

struct Job {
    name: &'static str,
    partitions: i32,
    figures: Report,
    threads: Report,
}

pub async fn measure(setup: &Setup, options: &Options) -> anyhow::Result<Vec<Report>> {
    ensure!(
        std::env::var_os(WORKERS).is_none(),
        "{WORKERS} is set, but --workers says how many"
    );
    let settable = has_workers(setup)?;
    ensure!(
        settable || options.workers == [1],
        "{} has no projector.workers: give --workers 1",
        setup.binary.display()
    );
    let topic = match &options.kafka {
        Some(kafka) => {
            let topic = Topic::make(kafka, options.partitions).await?;
            topic.fill(Busy::new(0, 1, options.in_flight).take(options.events))?;
            // After it the broker has the topic in memory.
            topic.drop_in_batches(options.events)?;
            Some(topic)
        }
        None => None,
    };
    let senders = options.senders;
    let work = render::for_each_sender(senders, |sender| {
        let share = options.events / senders + usize::from(sender < options.events % senders);
        let in_flight = options.in_flight.div_ceil(senders);
        render::posts(
            Busy::new(sender, senders, in_flight).take(share),
            options.batch,
        )
    });
    let [mut catch_up, mut ingest, mut rebuild] = [
        ("catch-up from Kafka", options.partitions),
        ("ingest over HTTP on the embedded log", EMBEDDED),
        ("the embedded log read again", EMBEDDED),
    ]
    .map(|(name, partitions)| Job::new(name, partitions, options));
    for turn in 1..=options.turns {
        for workers in &options.workers {
            let run = Run {
                setup,
                events: options.events,
                workers: *workers,
                set: settable.then(|| workers.to_string()),
                turn,
            };
            if let Some(topic) = &topic {
                run.catch_up(topic, &mut catch_up).await?;
            }
            let folder = tempfile::tempdir_in(&setup.folder)?;
            let data = folder.path().join("data");
            let token = run.ingest(&data, &work, &mut ingest).await?;
            std::fs::remove_dir_all(data.join("store"))?;
            run.read_again(&data, &token, &mut rebuild).await?;
        }
    }
    let mut reports = Vec::new();
    if let Some(topic) = topic {
        topic.delete().await?;
        reports.extend([catch_up.figures, catch_up.threads]);
    }
    reports.extend([rebuild.figures, rebuild.threads]);
    reports.extend([ingest.figures, ingest.threads]);
    Ok(reports)
}

/// Whether this ledger has the setting.
fn has_workers(setup: &Setup) -> anyhow::Result<bool> {
    let mut show = Command::new(&setup.binary);
    let shown = show.args(["config", "show"]).output()?;
    ensure!(
        shown.status.success(),
        "`{} config show` failed: {}",
        setup.binary.display(),
        String::from_utf8_lossy(&shown.stderr)
    );
    let shown = String::from_utf8_lossy(&shown.stdout);
    Ok(
        shown.contains("projector.workers")
            || shown.lines().any(|line| line.starts_with("workers")),
    )
}

impl Job {
    fn new(name: &'static str, partitions: i32, options: &Options) -> Job {
        let settings = || {
            vec![
                ("job", json!(name)),
                ("events", json!(options.events)),
                ("partitions", json!(partitions)),
                ("operations at a time", json!(options.in_flight)),
            ]
        };
        Job {
            name,
            partitions,
            figures: Report::new("serial", settings()),
            threads: Report::new("serial: threads", settings()),
        }
    }

    /// By what the work of these threads can be divided. A number at the end of a name says
    /// that there are as many of these threads as settings and partitions allow.
    fn divided_by(
        &self,
        name: &str,
        group: &Group,
        groups: &BTreeMap<String, Group>,
    ) -> Option<&'static str> {
        match name {
            "worker" if group.numbered => Some("slices"),
            "intake" if group.numbered && self.partitions > 1 => Some("partitions"),
            "tokio-rt-worker" => Some("connections"),
            // librdkafka has such a thread for each broker of each consumer.
            "rdk:broker" => {
                let readers = groups.get("intake").is_some_and(|intake| intake.numbered);
                (readers && self.partitions > 1).then_some("partitions")
            }
            // As many as `max_background_jobs` allows at the same time.
            "rocksdb:high" | "rocksdb:low" => (group.threads > 1).then_some("background jobs"),
            "jemalloc_bg_thd" => Some("cores"),
            _ => None,
        }
    }

    fn add(&mut self, run: &Run<'_>, server: &Server, measured: Measured) -> anyhow::Result<()> {
        let Measured { took, cpu, groups } = measured;
        let an_event = |seconds: f64| json!(seconds * 1e6 / run.events as f64);
        let seen: f64 = groups.values().map(|group| group.all).sum();
        ensure!(
            seen > 0.97 * cpu - 0.05,
            "{}: the threads that were seen used {seen:.2} of {cpu:.2} s",
            self.name
        );
        let mut busiest = ("", 0.0);
        let mut serial = ("", 0.0);
        let plural = if run.workers == 1 { "" } else { "s" };
        let row = format!("{} worker{plural}", run.workers);
        for (name, group) in &groups {
            let divided = self.divided_by(name, group, &groups);
            if group.busiest > busiest.1 {
                busiest = (name, group.busiest);
            }
            if divided.is_none() && group.busiest > serial.1 {
                serial = (name, group.busiest);
            }
            let nanos_an_event = group.all * 1e9 / run.events as f64;
            if nanos_an_event > 5.0 {
                let figures = vec![
                    ("busiest µs/event", an_event(group.busiest)),
                    ("all µs/event", an_event(group.all)),
                    ("threads", json!(group.threads)),
                ];
                let divided = divided.map_or(String::new(), |by| format!(", divided by {by}"));
                let thread = format!("{row}: {name}{divided}, turn {}", run.turn);
                self.threads.row(thread, figures);
            }
        }
        let figures: Cells = vec![
            ("events/s", per_second(run.events, took)),
            ("s", json!(took.as_secs_f64())),
            ("CPU µs/event", an_event(cpu)),
            ("busiest thread µs/event", an_event(busiest.1)),
            ("serial µs/event", an_event(serial.1)),
            ("resident peak MiB", mib(server.process().resident_peak()?)),
            ("busiest thread", json!(busiest.0)),
            ("serial thread", json!(serial.0)),
        ];
        self.figures
            .row(format!("{row}, turn {}", run.turn), figures);
        Ok(())
    }
}

/// The time until all events could be read, and the processor seconds until the ledger was
/// idle: in all, and by thread.
struct Measured {
    took: Duration,
    cpu: f64,
    groups: BTreeMap<String, Group>,
}

struct Run<'r> {
    setup: &'r Setup,
    events: usize,
    workers: usize,
    /// The setting, for a ledger that has it.
    set: Option<String>,
    turn: usize,
}

impl Run<'_> {
    fn start(&self, data: &Path, topic: Option<&Topic>) -> anyhow::Result<Server> {
        let set: Vec<_> = self.set.iter().map(|n| (WORKERS, n.as_str())).collect();
        match topic {
            Some(topic) => Server::ledger_on_set(self.setup, data, topic, &set),
            None => Server::ledger_set(self.setup, data, &[], &set),
        }
    }

    async fn catch_up(&self, topic: &Topic, job: &mut Job) -> anyhow::Result<()> {
        let folder = tempfile::tempdir_in(&self.setup.folder)?;
        let started = Instant::now();
        let server = self.start(&folder.path().join("data"), Some(topic))?;
        let sampler = Sampler::start(server.process());
        let cpu = server.process().cpu()?;
        let token = topic.token(&server.log().await?)?;
        wait_until_readable(server.address, &token).await?;
        let took = started.elapsed();
        let measured = settled(&server, sampler, took, cpu).await?;
        job.add(self, &server, measured)
    }

    /// Returns the token of all events.
    async fn ingest(&self, data: &Path, work: &Work, job: &mut Job) -> anyhow::Result<String> {
        let server = self.start(data, None)?;
        server.ready().await?;
        let sampler = Sampler::start(server.process());
        let cpu = server.process().cpu()?;
        let published = publish(&server, work).await?;
        let measured = settled(&server, sampler, published.visible, cpu).await?;
        job.add(self, &server, measured)?;
        server.stop().await.context("after ingest")?;
        Ok(published.token)
    }

    async fn read_again(&self, data: &Path, token: &str, job: &mut Job) -> anyhow::Result<()> {
        let started = Instant::now();
        let server = self.start(data, None)?;
        let sampler = Sampler::start(server.process());
        let cpu = server.process().cpu()?;
        wait_until_readable(server.address, token).await?;
        let took = started.elapsed();
        let measured = settled(&server, sampler, took, cpu).await?;
        job.add(self, &server, measured)
    }
}

/// Waits for what is left to flush and to merge, so that it counts alike each time.
async fn settled(
    server: &Server,
    sampler: Sampler,
    took: Duration,
    cpu: f64,
) -> anyhow::Result<Measured> {
    server.settle().await?;
    let cpu = server.process().cpu()? - cpu;
    let groups = sampler.stop()?;
    Ok(Measured { took, cpu, groups })
}
