//! Event streams: what they cost the ledger that takes in events, while they are idle and
//! while nobody reads them, and how soon a change reaches one.

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
    /// Streams of everything that are never read
    #[arg(long, default_value_t = 1_000)]
    unread: usize,
    /// Events published meanwhile
    #[arg(long, default_value_t = 500_000)]
    events: usize,
    /// Changes whose way to a stream is timed
    #[arg(long, default_value_t = 500)]
    changes: usize,
    #[arg(long, default_value_t = 2)]
    turns: usize,
}

pub async fn measure(setup: &Setup, options: &Options) -> anyhow::Result<Report> {
    let mut report = Report::new(
        "watch",
        vec![
            ("idle", json!(options.idle)),
            ("unread", json!(options.unread)),
            ("events", json!(options.events)),
        ],
    );
    for turn in 1..=options.turns {
        for (what, count, path) in [
            ("nobody watches", 0, ""),
            ("idle streams", options.idle, "/v1/operations/idle-"),
            (
                "lists that match nothing",
                options.unread,
                "/v1/operations?cluster_id=none",
            ),
            (
                "unread streams of everything",
                options.unread,
                "/v1/operations?status=",
            ),
        ] {
            let row = load(setup, options, count, path).await?;
            report.row(format!("{what}, turn {turn}"), row);
        }
    }
    for all in [false, true] {
        let mut times = reach(setup, options.changes, all).await?;
        let what = if all {
            "of everything"
        } else {
            "of an operation"
        };
        let mut cells = vec![("changes", json!(times.count()))];
        cells.extend(times.cells());
        report.row(
            format!("from just before a publish to a stream {what}"),
            cells,
        );
    }
    Ok(report)
}

async fn load(
    setup: &Setup,
    options: &Options,
    count: usize,
    path: &str,
) -> anyhow::Result<crate::report::Cells> {
    let folder = tempfile::tempdir_in(&setup.folder)?;
    let server = Server::ledger(setup, &folder.path().join("data"))?;
    let work = render::for_each_sender(4, |sender| {
        render::posts(Busy::new(sender, 4, 150).take(options.events / 4), 500)
    });
    server.settle().await?;
    let before = server.process().resident()?;
    let mut streams = Vec::new();
    for n in 0..count {
        let path = match path {
            "/v1/operations/idle-" => format!("{path}{n}"),
            "/v1/operations?status=" => "/v1/operations".to_owned(),
            path => path.to_owned(),
        };
        streams.push(open(&server, &path).await?);
    }
    server.settle().await?;
    let open = server.process().resident()?;
    server.process().forget_peak()?;
    let published = publish(&server, &work).await?;
    let peak = server.process().resident_peak()?;
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
        ("resident MiB", crate::report::mib(open)),
        ("peak MiB", crate::report::mib(peak)),
    ];
    if count > 0 {
        cells.push(("KiB a stream", each(open.saturating_sub(before))));
    }
    drop(streams);
    Ok(cells)
}

/// Returns when the stream has begun.
async fn open(server: &Server, path: &str) -> anyhow::Result<TcpStream> {
    // A new ledger has no position to tell before it has met its log.
    let mut met = Connection::open(server.address).await?;
    while met.call(&http::get("/readyz", "")).await?.status != 200 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let mut stream = TcpStream::connect(server.address).await?;
    let request = http::get(path, "accept: text/event-stream\r\n");
    stream.write_all(&request).await?;
    let mut head = [0; 512];
    let read = stream.read(&mut head).await?;
    ensure!(head[..read].starts_with(b"HTTP/1.1 200"), "no stream");
    Ok(stream)
}

/// One change after the other: how long each takes to arrive.
async fn reach(setup: &Setup, changes: usize, all: bool) -> anyhow::Result<Times> {
    let folder = tempfile::tempdir_in(&setup.folder)?;
    let server = Server::ledger(setup, &folder.path().join("data"))?;
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
        // As changes come by themselves, not on the heels of the last.
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(times)
}
