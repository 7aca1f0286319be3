//! The cost of very many operations: a ledger reads a topic of short operations from its
//! beginning. Then its memory, its disk, its restarts, and its reads beyond every cache
//! are measured.
//!
//! An operation has only five events, so that ten million of them fit on a disk beside
//! the broker's copy.

mod catching_up;
mod events;
mod reads;
mod restarts;
mod space;

use crate::args::Setup;
use crate::generate::Rng;
use crate::http::{self, Connection};
use crate::report::{Report, mib, per_second};
use crate::server::Server;
use crate::topic::Topic;
use anyhow::{Context, ensure};
use events::Events;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

#[derive(clap::Args)]
pub struct Options {
    /// Brokers
    #[arg(long, value_name = "BOOTSTRAP")]
    kafka: String,
    /// The broker's data, to measure the size of the topic there
    #[arg(long, value_name = "DIR")]
    broker_folder: Option<PathBuf>,
    #[arg(long, default_value_t = 10_000_000)]
    operations: u64,
    #[arg(long, default_value_t = 6)]
    partitions: i32,
    /// Operations that are active at the same time
    #[arg(long, default_value_t = 600)]
    in_flight: u64,
    /// How often the ledger is killed under load
    #[arg(long, default_value_t = 3)]
    kills: usize,
    /// Events a second that are published meanwhile
    #[arg(long, default_value_t = 20_000)]
    load: u64,
    /// Seconds for each kind of read
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    #[arg(long, default_value_t = 32)]
    connections: usize,
    /// Events of a second topic, compressed by zstd, to measure its size; 0 for none
    #[arg(long, default_value_t = 1_000_000)]
    zstd_events: u64,
    /// Seconds of rest before memory is measured again
    #[arg(long, default_value_t = 10)]
    rest: u64,
}

/// Shared by all parts.
struct Scene<'s> {
    setup: &'s Setup,
    options: &'s Options,
    topic: Topic,
    /// The ledger's data folder.
    data: PathBuf,
}

impl Scene<'_> {
    fn start(&self) -> anyhow::Result<Server> {
        Server::ledger_on(self.setup, &self.data, &self.topic)
    }

    fn settings(&self) -> Vec<(&'static str, Value)> {
        vec![("operations", json!(self.options.operations))]
    }
}

pub async fn measure(setup: &Setup, options: &Options) -> anyhow::Result<Vec<Report>> {
    ensure!(
        (1..=events::MOST).contains(&options.operations),
        "--operations is at least 1 and at most {}",
        events::MOST
    );
    let folder = tempfile::tempdir_in(&setup.folder)?;
    let scene = Scene {
        setup,
        options,
        topic: Topic::make(&options.kafka, options.partitions).await?,
        data: folder.path().join("data"),
    };
    let filled = fill(&scene)?;
    say(&format!("{} events are in the topic", filled.events));

    let mut reports = Vec::new();
    let (server, report) = catching_up::measure(&scene, &filled).await?;
    reports.push(report);
    check_documents(&server, options.operations).await?;

    let mut space = space::Space::new(&scene, &filled)?;
    space.note("store, when nothing is left to do")?;
    let (server, report) = restarts::measure(&scene, server).await?;
    reports.push(report);
    let (server, report) = reads::measure(&scene, server).await?;
    reports.push(report);
    server.stop().await?;
    reports.push(space.measure(&scene).await?);
    scene.topic.delete().await?;
    Ok(reports)
}

/// The contents of the topic before the ledger first reads it.
struct Filled {
    events: usize,
    bytes: usize,
    took: Duration,
}

fn fill(scene: &Scene) -> anyhow::Result<Filled> {
    let options = scene.options;
    let mut events = 0;
    let all = Events::new(0..options.operations, options.in_flight);
    let all = all.unruly().map(|event| event.render());
    let started = Instant::now();
    let bytes = scene.topic.send("lz4", all.inspect(|_| events += 1))?;
    let took = started.elapsed();
    Ok(Filled {
        events,
        bytes,
        took,
    })
}

impl Filled {
    /// The settings of the load, for the tables.
    fn settings(&self, options: &Options) -> Vec<(&'static str, Value)> {
        vec![
            ("operations", json!(options.operations)),
            ("events", json!(self.events)),
            (
                "bytes an event",
                json!(self.bytes as f64 / self.events as f64),
            ),
            ("partitions", json!(options.partitions)),
            ("operations at a time", json!(options.in_flight)),
            ("made and sent/s", per_second(self.events, self.took)),
            ("MiB", mib(self.bytes as u64)),
        ]
    }
}

/// Speed is worth nothing if the result is wrong: checks documents of operations from the
/// whole range.
async fn check_documents(server: &Server, operations: u64) -> anyhow::Result<()> {
    let mut connection = Connection::open(server.address).await?;
    let mut rng = Rng::new(7);
    for _ in 0..200 {
        check_document(&mut connection, rng.next() % operations, "").await?;
    }
    Ok(())
}

/// Reads a document and compares it with the plain fold; `headers` are whole lines.
/// Returns the position of the response.
async fn check_document(
    connection: &mut Connection,
    operation: u64,
    headers: &str,
) -> anyhow::Result<String> {
    let request = http::get_operation(&events::operation_id(operation), headers);
    let answer = connection.call(&request).await?;
    answer.expect(200)?;
    let found: Value = serde_json::from_slice(answer.body)?;
    let expected = events::document(operation);
    ensure!(found == expected, "found {found}\nexpected {expected}");
    Ok(answer.header("ledger-position")?.to_owned())
}

/// Prints progress, because a large run takes a quarter of an hour.
fn say(what: &str) {
    eprintln!("load: {what}");
}

/// Waits until compaction is done: hardly any processor time and no byte written for some
/// seconds in a row. RocksDB compacts on its own until nothing is left.
async fn until_idle(server: &Server) -> anyhow::Result<()> {
    const QUIET: usize = 5;
    let mut quiet = 0;
    let mut before = (server.process().cpu()?, server.process().disk_written()?);
    while quiet < QUIET {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let now = (server.process().cpu()?, server.process().disk_written()?);
        let is_quiet = now.0 - before.0 < 0.03 && now.1 == before.1;
        quiet = if is_quiet { quiet + 1 } else { 0 };
        before = now;
    }
    Ok(())
}

/// Drops every file from the kernel's cache. Only root may do that; for other users only
/// the ledger's own files are dropped.
fn empty_page_cache(data: &Path) -> anyhow::Result<()> {
    rustix::fs::sync();
    if std::fs::write("/proc/sys/vm/drop_caches", "1").is_ok() {
        return Ok(());
    }
    crate::server::evict(data).context("emptying the cache of the kernel")
}
