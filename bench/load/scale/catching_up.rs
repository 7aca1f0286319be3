//! One read of the topic from its beginning, measured in intervals: the cost of an event
//! when the store is small, and when it is large.

use super::{Filled, Scene, say, until_idle};
use crate::http::{self, Connection};
use crate::publish::wait_until_readable;
use crate::report::{Cells, Report, mib, per_second};
use crate::server::Server;
use anyhow::Context;
use serde_json::json;
use std::time::{Duration, Instant};

/// The ledger's progress at a moment, and the resources used until then.
#[derive(Clone, Copy)]
struct Sample {
    at: Instant,
    events: usize,
    cpu: f64,
}

/// The pause between two samples. A sample costs the ledger a fraction of a millisecond.
const PAUSE: Duration = Duration::from_millis(50);

pub async fn measure(scene: &Scene<'_>, filled: &Filled) -> anyhow::Result<(Server, Report)> {
    let operations = scene.options.operations;
    let mut report = Report::new("scale: catch-up", filled.settings(scene.options));
    let events_at = |at: u64| (filled.events as u128 * at as u128 / operations as u128) as usize;
    let decades = [100_000, 1_000_000, 10_000_000];
    let mut stops: Vec<u64> = decades.into_iter().filter(|n| *n < operations).collect();
    stops.push(operations);

    let server = scene.start()?;
    let token = scene.topic.token(&server.log().await?)?;
    let mut connection = Connection::open(server.address).await?;
    let mut samples = vec![look(&server, &mut connection).await?];
    // The start costs the same for any number of events, so the first interval begins
    // when the first events are done.
    while samples[0].events == 0 {
        tokio::time::sleep(Duration::from_millis(2)).await;
        samples[0] = look(&server, &mut connection).await?;
    }
    let mut begun = 0;
    for (from, stop) in std::iter::once(&0).chain(&stops).zip(&stops) {
        server.process().forget_peak()?;
        let last_one = *stop == operations;
        while samples.last().expect("there is a first").events < events_at(*stop) {
            tokio::time::sleep(PAUSE).await;
            samples.push(look(&server, &mut connection).await?);
        }
        if last_one {
            wait_until_readable(server.address, &token).await?;
        }
        let ended = samples.len() - 1;
        let mut figures = stretch(samples[begun], samples[ended]);
        figures.extend(resident(&server)?);
        report.row(format!("operations {from} to {stop}"), figures);
        say(&format!("caught up with {stop} operations"));
        begun = ended;
    }
    let last = *samples.last().context("there is a last")?;
    report.row("all of them", stretch(samples[0], last));
    if stops.len() > 1 {
        // A tenth is long enough to average over bursts of background work.
        let from = events_at(operations - operations / 10);
        let at = samples.partition_point(|sample| sample.events < from);
        report.row("the last tenth", stretch(samples[at], last));
    }

    server.process().forget_peak()?;
    until_idle(&server).await?;
    // The server closes a connection that is idle for long.
    connection = Connection::open(server.address).await?;
    let idle = look(&server, &mut connection).await?;
    let mut figures = stretch(samples[0], idle);
    figures.retain(|(name, _)| *name == "CPU µs/event");
    figures.extend(resident(&server)?);
    figures.push(("s", json!((idle.at - last.at).as_secs_f64())));
    report.row("all of them, with what was left to compact", figures);

    server.process().forget_peak()?;
    tokio::time::sleep(Duration::from_secs(scene.options.rest)).await;
    let mut figures = resident(&server)?;
    figures.push(("s", json!(scene.options.rest)));
    report.row("at rest", figures);
    Ok((server, report))
}

fn resident(server: &Server) -> anyhow::Result<Cells> {
    Ok(vec![
        ("resident MiB", mib(server.process().resident()?)),
        ("peak MiB", mib(server.process().resident_peak()?)),
    ])
}

fn stretch(from: Sample, to: Sample) -> Cells {
    let events = to.events - from.events;
    let took = to.at - from.at;
    vec![
        ("events", json!(events)),
        ("events/s", per_second(events, took)),
        (
            "CPU µs/event",
            json!((to.cpu - from.cpu) * 1e6 / events as f64),
        ),
        ("s", json!(took.as_secs_f64())),
    ]
}

async fn look(server: &Server, connection: &mut Connection) -> anyhow::Result<Sample> {
    let answer = connection.call(&http::get("/metrics", "")).await?;
    answer.expect(200)?;
    let text = std::str::from_utf8(answer.body)?;
    let mut lines = text.lines();
    let applied = lines.find_map(|line| line.strip_prefix("opledger_events_applied_total "));
    Ok(Sample {
        at: Instant::now(),
        events: applied.context("no count of events")?.parse()?,
        cpu: server.process().cpu()?,
    })
}
