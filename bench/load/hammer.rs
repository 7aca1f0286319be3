//! Documents read a second from any server over keep-alive connections.

use crate::http::{self, Connection};
use crate::report::{Cells, Report, mib};
use crate::server::Process;
use crate::times::Times;
use anyhow::{Context, ensure};
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

#[derive(clap::Args)]
pub struct Options {
    #[arg(long)]
    address: SocketAddr,
    /// The process that serves there, to measure its processor time
    #[arg(long)]
    pid: Option<u32>,
    /// The file from `fill --documents`: its operations are read
    #[arg(long, value_name = "FILE")]
    documents: PathBuf,
    #[arg(long, default_value_t = 32)]
    connections: usize,
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// Seconds of reading before that, which are not counted
    #[arg(long, default_value_t = 1)]
    warming: u64,
}

pub async fn measure(options: &Options) -> anyhow::Result<Report> {
    let lines = std::fs::read_to_string(&options.documents)?;
    let mut requests = Vec::new();
    for line in lines.lines() {
        let line: Value = serde_json::from_str(line)?;
        if line["document"].is_object() {
            let id = line["operation_id"].as_str().context("an operation_id")?;
            requests.push(http::get_operation(id, ""));
        }
    }
    ensure!(!requests.is_empty(), "there is nothing to read");
    let requests = Arc::new(requests);
    let target = Target {
        address: options.address,
        process: options.pid.map(Process),
    };
    let (connections, seconds) = (options.connections, Duration::from_secs(options.seconds));
    let mut report = Report::new(
        "hammer",
        vec![
            ("documents", json!(requests.len())),
            ("connections", json!(connections)),
            ("seconds", json!(options.seconds)),
        ],
    );
    let warming = Duration::from_secs(options.warming);
    hammer(&target, &requests, usize::MAX, connections, warming).await?;
    let found = hammer(&target, &requests, usize::MAX, connections, seconds).await?;
    report.row("read", found.cells());
    Ok(report)
}

pub type Requests = Arc<Vec<Vec<u8>>>;

pub struct Target {
    pub address: SocketAddr,
    pub process: Option<Process>,
}

impl Target {
    fn used(&self) -> anyhow::Result<Option<Used>> {
        let used = |process: &Process| {
            Ok(Used {
                cpu: process.cpu()?,
                disk_read: process.disk_read()?,
            })
        };
        self.process.as_ref().map(used).transpose()
    }
}

struct Used {
    cpu: f64,
    disk_read: u64,
}

pub struct Found {
    times: Times,
    took: Duration,
    bytes: u64,
    used: Option<Used>,
}

/// Sends the requests in turn: at most `most`, and at most for `duration`. Each
/// connection has one request at a time.
pub async fn hammer(
    target: &Target,
    requests: &Requests,
    most: usize,
    connections: usize,
    duration: Duration,
) -> anyhow::Result<Found> {
    let mut opened = Vec::new();
    for _ in 0..connections {
        opened.push(Connection::open(target.address).await?);
    }
    let next = Arc::new(AtomicUsize::new(0));
    let before = target.used()?;
    let started = Instant::now();
    let mut readers = JoinSet::new();
    for mut connection in opened {
        let (requests, next) = (requests.clone(), next.clone());
        readers.spawn(async move {
            let mut times = Times::default();
            let mut bytes = 0;
            let mut now = Instant::now();
            while now < started + duration {
                let at = next.fetch_add(1, Ordering::Relaxed);
                if at >= most {
                    break;
                }
                let answer = connection.call(&requests[at % requests.len()]).await?;
                answer.expect(200)?;
                bytes += answer.body.len() as u64;
                let before = std::mem::replace(&mut now, Instant::now());
                times.add(now - before);
            }
            anyhow::Ok((times, bytes))
        });
    }
    let mut times = Times::default();
    let mut bytes = 0;
    while let Some(reader) = readers.join_next().await {
        let (one, read) = reader??;
        times.join(one);
        bytes += read;
    }
    let took = started.elapsed();
    let used = target.used()?.zip(before).map(|(after, before)| Used {
        cpu: after.cpu - before.cpu,
        disk_read: after.disk_read - before.disk_read,
    });
    Ok(Found {
        times,
        took,
        bytes,
        used,
    })
}

impl Found {
    /// The number of documents read.
    pub fn count(&self) -> usize {
        self.times.count()
    }

    pub fn cells(mut self) -> Cells {
        let count = self.times.count() as f64;
        let seconds = self.took.as_secs_f64();
        let mut cells = vec![
            ("read", json!(self.times.count())),
            ("GET/s", json!(count / seconds)),
            ("MiB/s", mib((self.bytes as f64 / seconds) as u64)),
        ];
        if let Some(used) = &self.used {
            cells.push(("CPU µs/GET", json!(used.cpu * 1e6 / count)));
            cells.push(("cores used", json!(used.cpu / seconds)));
        }
        cells.extend(self.times.cells());
        if let Some(used) = &self.used {
            cells.push(("MiB from disk", mib(used.disk_read)));
        }
        cells
    }
}
