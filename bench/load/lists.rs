//! Pages of the list with many operations: the first and a deep one, without filters and
//! with each of them. A page reads a bounded number of entries, however few match.

use crate::args::Setup;
use crate::generate::realistic;
use crate::http::{self, Connection};
use crate::publish::publish;
use crate::render;
use crate::report::Report;
use crate::server::Server;
use crate::times::{Times, millis};
use anyhow::Context;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

#[derive(clap::Args)]
pub struct Options {
    #[arg(long, default_value_t = 1_000_000)]
    operations: u64,
    #[arg(long, default_value_t = 100)]
    limit: usize,
    /// Times that each page is read
    #[arg(long, default_value_t = 31)]
    turns: usize,
    /// Pages before the deep one
    #[arg(long, default_value_t = 200)]
    depth: usize,
}

const QUERIES: &[&str] = &[
    "",
    "order=oldest",
    "status=completed",
    "status=failed",
    "status=executing",
    "status=failed&status=canceled",
    "method=PUT",
    "method=DELETE",
    "cluster_id=1",
    "cluster_id=nowhere",
    "uri_prefix=%2Fv1%2Fslices",
    "uri_prefix=%2Fnowhere",
    "rollback_result=completed",
    "rollback_result=failed",
    "occurred_to=2024-01-01T00:00:00Z",
    "status=failed&method=PUT&cluster_id=1",
];

pub async fn measure(setup: &Setup, options: &Options) -> anyhow::Result<Report> {
    let folder = tempfile::tempdir_in(&setup.folder)?;
    let server = Server::ledger(setup, &folder.path().join("data"))?;
    const PART: u64 = 50_000;
    for part in 0..options.operations.div_ceil(PART) {
        let work = render::for_each_sender(4, |sender| {
            let from = part * PART + sender as u64;
            let until = options.operations.min((part + 1) * PART);
            let own = (from..until).step_by(4);
            render::posts(own.flat_map(realistic), 500)
        });
        publish(&server, &work).await?;
    }
    server.settle().await?;
    let mut report = Report::new(
        "lists",
        vec![
            ("operations", json!(options.operations)),
            ("limit", json!(options.limit)),
            ("turns", json!(options.turns)),
            ("pages before the deep one", json!(options.depth)),
        ],
    );
    let mut connection = Connection::open(server.address).await?;
    for format in ["list", "detail-list"] {
        let mut plain = None;
        for query in QUERIES {
            let limit = options.limit;
            let first = format!("/v1/operations?format={format}&limit={limit}&{query}");
            let (mut path, mut pages) = (first.clone(), 0);
            while pages < options.depth
                && let Some(next) = page(&mut connection, &path).await?.next
            {
                path = next;
                pages += 1;
            }
            let shallow = read(&mut connection, &first, options.turns).await?;
            let deep = read(&mut connection, &path, options.turns).await?;
            let base = *plain.get_or_insert(shallow.median);
            let times = |took: Duration| json!(took.as_secs_f64() / base.as_secs_f64());
            report.row(
                format!("{format} {query}"),
                vec![
                    ("first, entries", json!(shallow.entries)),
                    ("p50 ms", millis(shallow.median)),
                    ("times the plain first", times(shallow.median)),
                    ("deep, after pages", json!(pages)),
                    ("entries", json!(deep.entries)),
                    ("deep p50 ms", millis(deep.median)),
                    ("deep, times the plain first", times(deep.median)),
                ],
            );
        }
    }
    Ok(report)
}

struct Page {
    entries: usize,
    next: Option<String>,
}

async fn page(connection: &mut Connection, path: &str) -> anyhow::Result<Page> {
    let answer = connection.call(&http::get(path, "")).await?;
    answer.expect(200)?;
    let body: Value = serde_json::from_slice(answer.body)?;
    let entries = body.as_object().and_then(|body| body.values().next());
    let next = answer.header("link").ok().map(|link| {
        let link = link.trim_start_matches('<');
        link.split('>').next().unwrap_or_default().to_owned()
    });
    Ok(Page {
        entries: entries.and_then(Value::as_array).context("entries")?.len(),
        next,
    })
}

struct Read {
    entries: usize,
    median: Duration,
}

async fn read(connection: &mut Connection, path: &str, turns: usize) -> anyhow::Result<Read> {
    let request = http::get(path, "");
    let entries = page(connection, path).await?.entries;
    let mut times = Times::default();
    for _ in 0..turns {
        let began = Instant::now();
        connection.call(&request).await?.expect(200)?;
        times.add(began.elapsed());
    }
    Ok(Read {
        entries,
        median: times.median(),
    })
}
