//! Resident memory with very many operations of two events each: just after catching up,
//! after a rest, and while either whole list is streamed. The peak is that of the phase
//! alone.

use crate::args::Setup;
use crate::publish::publish;
use crate::render;
use crate::report::{Cells, Report, mib, mib_per_second, per_second};
use crate::server::{Server, disk};
use anyhow::{Context, ensure};
use serde_json::json;
use std::time::{Duration, Instant};

#[derive(clap::Args)]
pub struct Options {
    #[arg(long, default_value_t = 1_000_000)]
    operations: u64,
    /// Seconds
    #[arg(long, default_value_t = 10)]
    rest: u64,
}

pub async fn measure(setup: &Setup, options: &Options) -> anyhow::Result<Report> {
    let folder = tempfile::tempdir_in(&setup.folder)?;
    let data = folder.path().join("data");
    let server = Server::ledger(setup, &data)?;
    let mut report = Report::new(
        "memory",
        vec![
            ("operations", json!(options.operations)),
            ("events", json!(2 * options.operations)),
        ],
    );
    report.row("just started", resident(&server)?);

    let work = render::operations(options.operations, 6, 100, |mut events| {
        events.drain(1..events.len() - 1);
        events
    });
    server.process().forget_peak()?;
    let published = publish(&server, &work).await?;
    drop(work);
    let mut figures = resident(&server)?;
    figures.extend([
        ("s", json!(published.visible.as_secs_f64())),
        ("disk MiB", mib(disk(&data)?)),
        ("CPU s", json!(published.cpu)),
    ]);
    report.row("caught up", figures);

    let rest = Duration::from_secs(options.rest);
    server.process().forget_peak()?;
    tokio::time::sleep(rest).await;
    let mut figures = resident(&server)?;
    figures.push(("s", json!(options.rest)));
    figures.push(("disk MiB", mib(disk(&data)?)));
    report.row("at rest", figures);

    for format in ["list", "detail-list"] {
        server.process().forget_peak()?;
        let cpu = server.process().cpu()?;
        let streamed = stream(&server, format).await?;
        let expected = options.operations as usize;
        ensure!(
            streamed.operations == expected,
            "{format} has {} operations of {expected}",
            streamed.operations
        );
        let mut figures = resident(&server)?;
        figures.extend([
            ("s", json!(streamed.took.as_secs_f64())),
            ("operations/s", per_second(expected, streamed.took)),
            ("MiB/s", mib_per_second(streamed.bytes, streamed.took)),
            ("CPU s", json!(server.process().cpu()? - cpu)),
        ]);
        report.row(format!("streaming format={format}"), figures);
    }
    server.process().forget_peak()?;
    tokio::time::sleep(rest).await;
    report.row("at rest again", resident(&server)?);
    Ok(report)
}

fn resident(server: &Server) -> anyhow::Result<Cells> {
    Ok(vec![
        ("resident MiB", mib(server.process().resident()?)),
        ("peak MiB", mib(server.process().resident_peak()?)),
    ])
}

pub struct Streamed {
    pub operations: usize,
    pub bytes: usize,
    /// The time until the first bytes, and until the last.
    pub first: Duration,
    pub took: Duration,
}

/// Streams one of the two whole lists.
pub async fn stream(server: &Server, format: &str) -> anyhow::Result<Streamed> {
    let url = format!("http://{}/v1/operations?format={format}", server.address);
    // A mark that occurs once for each operation. In a list it is the comma, because no
    // identifier has one. In documents it has quotes, which are escaped inside a text.
    let (mark, more) = match format {
        "list" => (&b","[..], 1),
        _ => (&b"\"operation_id\":"[..], 0),
    };
    let client = reqwest::Client::builder().no_proxy().build()?;
    let started = Instant::now();
    let mut answer = client.get(url).send().await?.error_for_status()?;
    let mut first = None;
    let mut bytes = 0;
    let mut marks = 0;
    // A mark may be split between pieces, so the end of a piece is searched with the next.
    let mut window = Vec::new();
    while let Some(piece) = answer.chunk().await.context("the list was broken off")? {
        first.get_or_insert_with(|| started.elapsed());
        bytes += piece.len();
        window.extend_from_slice(&piece);
        marks += count(&window, mark);
        window.drain(..window.len() - (mark.len() - 1).min(window.len()));
    }
    Ok(Streamed {
        operations: marks + more,
        bytes,
        first: first.context("nothing came")?,
        took: started.elapsed(),
    })
}

/// Compares the whole mark only where its first byte is, so that the client is not the
/// bottleneck.
fn count(text: &[u8], mark: &[u8]) -> usize {
    let begins = text
        .iter()
        .enumerate()
        .filter(|(_, byte)| **byte == mark[0]);
    begins
        .filter(|(at, _)| text[*at..].starts_with(mark))
        .count()
}
