//! Event streams: their cost for a ledger that accepts events, while they are idle and
//! while nobody reads them, and the time until a change reaches one.

use crate::args::Setup;
use crate::http::{self, Connection};
use crate::publish::publish;
use crate::render::{self, Busy};
use crate::report::{Report, per_second};
use crate::server::Server;
use crate::times::Times;
use anyhow::{Context, ensure};
use serde_json::json;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

#[derive(clap::Args)]
pub struct Options {
    /// Idle streams, each of an operation of its own
    #[arg(long, default_value_t = 10_000)]
    idle: usize,
    /// Streams of lists that match nothing
    #[arg(long, default_value_t = 10_000)]
    lists: usize,
    /// Streams of everything that are never read
    #[arg(long, default_value_t = 1_000)]
    unread: usize,
    /// Events published meanwhile
    #[arg(long, default_value_t = 500_000)]
    events: usize,
    /// Changes whose time until they reach a stream is measured
    #[arg(long, default_value_t = 500)]
    changes: usize,
    #[arg(long, default_value_t = 2)]
    turns: usize,
}

/// The streams that are open while events are accepted.
#[derive(Clone, Copy)]
enum Watching {
    Nobody,
    Operations,
    /// All with the same filter.
    OneList,
    /// Each with a filter of its own.
    Lists,
    Everything,
}

impl Watching {
    const ALL: [Watching; 5] = [
        Watching::Nobody,
        Watching::Operations,
        Watching::OneList,
        Watching::Lists,
        Watching::Everything,
    ];

    fn name(self) -> &'static str {
        match self {
            Watching::Nobody => "nobody watches",
            Watching::Operations => "idle streams of an operation each",
            Watching::OneList => "streams of one list that matches nothing",
            Watching::Lists => "streams of a list each that matches nothing",
            Watching::Everything => "streams of everything that are never read",
        }
    }

    fn count(self, options: &Options) -> usize {
        match self {
            Watching::Nobody => 0,
            Watching::Operations => options.idle,
            Watching::OneList | Watching::Lists => options.lists,
            Watching::Everything => options.unread,
        }
    }

    fn path(self, n: usize) -> String {
        match self {
            Watching::Operations => format!("/v1/operations/idle-{n}"),
            Watching::OneList => "/v1/operations?cluster_id=none".to_owned(),
            Watching::Lists => format!("/v1/operations?cluster_id=none-{n}"),
            Watching::Nobody | Watching::Everything => "/v1/operations".to_owned(),
        }
    }
}

pub async fn measure(setup: &Setup, options: &Options) -> anyhow::Result<Report> {
    let mut report = Report::new("watch", vec![("events", json!(options.events))]);
    for turn in 1..=options.turns {
        for watching in Watching::ALL {
            let row = load(setup, options, watching).await?;
            report.row(format!("{}, turn {turn}", watching.name()), row);
        }
    }
    for (what, all, beside) in [
        ("a stream of an operation", false, 0),
        ("a stream of everything", true, 0),
        (
            "a stream of an operation, beside idle ones",
            false,
            options.idle,
        ),
        (
            "a stream of everything, beside idle ones",
            true,
            options.idle,
        ),
    ] {
        let mut times = reach(setup, options.changes, all, beside).await?;
        let mut cells = vec![
            ("streams", json!(1 + beside)),
            ("changes", json!(times.count())),
        ];
        cells.extend(times.cells());
        report.row(format!("from just before a publish to {what}"), cells);
    }
    Ok(report)
}

/// With room for all the streams.
fn ledger(setup: &Setup, folder: &std::path::Path) -> anyhow::Result<Server> {
    Server::ledger_for_many(setup, &folder.join("data"))
}

async fn open_all(
    server: &Server,
    watching: Watching,
    count: usize,
) -> anyhow::Result<Vec<TcpStream>> {
    let mut streams = Vec::with_capacity(count);
    for n in 0..count {
        streams.push(open(server, &watching.path(n)).await?);
    }
    Ok(streams)
}

async fn load(
    setup: &Setup,
    options: &Options,
    watching: Watching,
) -> anyhow::Result<crate::report::Cells> {
    let folder = tempfile::tempdir_in(&setup.folder)?;
    let server = ledger(setup, folder.path())?;
    let work = render::for_each_sender(4, |sender| {
        render::posts(Busy::new(sender, 4, 150).take(options.events / 4), 500)
    });
    server.settle().await?;
    let before = server.process().resident()?;
    let count = watching.count(options);
    let streams = open_all(&server, watching, count).await?;
    server.settle().await?;
    let open = server.process().resident()?;
    let sockets = socket_memory()?;
    server.process().forget_peak()?;
    let published = publish(&server, &work).await?;
    let peak = server.process().resident_peak()?;
    let sockets = socket_memory()?.saturating_sub(sockets);
    server.settle().await?;
    let cpu = server.process().cpu()?;
    tokio::time::sleep(REST).await;
    let at_rest = (server.process().cpu()? - cpu) * 1e3 / REST.as_secs_f64();
    let each = |bytes: u64| json!(bytes as f64 / 1024.0 / count.max(1) as f64);
    let mut cells = vec![
        ("streams", json!(count)),
        (
            "events/s until readable",
            per_second(options.events, published.visible),
        ),
        (
            "CPU µs/event",
            json!(published.cpu * 1e6 / options.events as f64),
        ),
        ("CPU ms/s afterwards", json!(at_rest)),
        ("resident MiB", crate::report::mib(open)),
        ("peak MiB", crate::report::mib(peak)),
        ("sockets MiB", crate::report::mib(sockets)),
    ];
    if count > 0 {
        cells.push(("KiB a stream", each(open.saturating_sub(before))));
    }
    drop(streams);
    Ok(cells)
}

/// How long the cost of idle streams is measured.
const REST: Duration = Duration::from_secs(5);

/// The number of processors that this runs on.
const PAGE: u64 = 4096;

/// The kernel's memory for all TCP sockets of this machine, both ends included.
fn socket_memory() -> anyhow::Result<u64> {
    let text = std::fs::read_to_string("/proc/net/sockstat")?;
    let tcp = text.lines().find(|line| line.starts_with("TCP:"));
    let mut words = tcp.context("no TCP")?.split_whitespace();
    let pages = words.by_ref().skip_while(|word| *word != "mem").nth(1);
    let pages: u64 = pages.context("no memory of TCP")?.parse()?;
    Ok(pages * PAGE)
}

/// Returns when the stream has begun.
async fn open(server: &Server, path: &str) -> anyhow::Result<TcpStream> {
    // A new ledger has no position before it has reached its log.
    server.ready().await?;
    let mut stream = TcpStream::connect(server.address).await?;
    let request = http::get(path, "accept: text/event-stream\r\n");
    stream.write_all(&request).await?;
    let mut head = [0; 512];
    let read = stream.read(&mut head).await?;
    ensure!(head[..read].starts_with(b"HTTP/1.1 200"), "no stream");
    Ok(stream)
}

/// The time that each change takes to arrive, one after the other.
async fn reach(setup: &Setup, changes: usize, all: bool, beside: usize) -> anyhow::Result<Times> {
    let folder = tempfile::tempdir_in(&setup.folder)?;
    let server = ledger(setup, folder.path())?;
    let _idle = (
        open_all(&server, Watching::Operations, beside / 2).await?,
        open_all(&server, Watching::Lists, beside / 2).await?,
    );
    let mut connection = Connection::open(server.address).await?;
    let path = if all {
        "/v1/operations"
    } else {
        "/v1/operations/op"
    };
    let mut stream = open(&server, path).await?;
    let mut times = Times::default();
    let mut seen = Vec::new();
    for n in 0..=changes {
        let kind = if n == 0 { "created" } else { "progressed" };
        let sub_status = format!("change {n} is here");
        let data = json!({"request": {"uri": "/x", "method": "PUT"}, "sub_status": sub_status});
        let event = json!({"specversion": "1.0", "id": format!("{n}"), "source": "/load",
            "subject": "op", "type": format!("opledger.operation.{kind}.v1"), "data": data,
            "time": format!("2024-05-06T07:{:02}:{:02}Z", n / 60 % 60, n % 60)});
        let started = json!({"specversion": "1.0", "id": "started", "source": "/load",
            "subject": "op", "type": "opledger.operation.started.v1", "data": {},
            "time": "2024-05-06T06:59:59Z"});
        let body = json!([event, started]).to_string();
        let batch = "application/cloudevents-batch+json";
        let request = http::post("/v1/events", batch, body.as_bytes());
        let wanted = if n == 0 {
            "\"executing\"".to_owned()
        } else {
            sub_status
        };
        let began = Instant::now();
        connection.call(&request).await?.expect(202)?;
        loop {
            let text = String::from_utf8_lossy(&seen);
            if text.contains(&wanted) {
                break;
            }
            let read = tokio::time::timeout(Duration::from_secs(10), stream.read_buf(&mut seen));
            ensure!(
                read.await.context("nothing arrives")?? > 0,
                "the stream ended"
            );
        }
        if n > 0 {
            times.add(began.elapsed());
        }
        seen.clear();
        // A pause, so that each change is independent of the last.
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(times)
}
