//! Events a second that a new ledger reads from a topic, from the start of the process
//! until all events can be read. Compared with bare consumers that drop the same records,
//! before and after it in the same run.

use crate::args::Setup;
use crate::publish::wait_until_readable;
use crate::render::Busy;
use crate::report::{Report, mib, mib_per_second, per_second};
use crate::server::{Server, disk};
use crate::topic::{First, Topic};
use serde_json::json;
use std::time::Instant;

#[derive(clap::Args)]
pub struct Options {
    /// Brokers
    #[arg(long, value_name = "BOOTSTRAP")]
    kafka: String,
    /// A topic that `fill` has filled; it is not deleted [default: a new one]
    #[arg(long, value_name = "NAME", conflicts_with_all = ["events", "partitions", "in_flight"])]
    topic: Option<String>,
    #[arg(long, default_value_t = 1_000_000)]
    events: usize,
    #[arg(long, default_value_t = 6)]
    partitions: i32,
    /// Operations that are active at the same time
    #[arg(long, default_value_t = 600)]
    in_flight: usize,
    /// Ledgers, one after the other, each with an empty folder
    #[arg(long, default_value_t = 3)]
    turns: usize,
}

pub async fn measure(setup: &Setup, options: &Options) -> anyhow::Result<Report> {
    let (kafka, in_flight) = (&options.kafka, options.in_flight);
    let (topic, events, bytes) = match &options.topic {
        Some(name) => {
            let topic = Topic::existing(kafka, name)?;
            // One uncounted turn first: after it the broker has the topic in memory.
            let (events, bytes) = topic.count()?;
            (topic, events, bytes)
        }
        None => {
            let topic = Topic::make(kafka, options.partitions).await?;
            let bytes = topic.fill(Busy::new(0, 1, in_flight).take(options.events))?;
            topic.drop_in_batches(options.events)?;
            (topic, options.events, bytes)
        }
    };
    let mut settings = vec![
        ("events", json!(events)),
        ("bytes an event", json!(bytes as f64 / events as f64)),
        ("partitions", json!(topic.partitions)),
    ];
    if options.topic.is_none() {
        settings.push(("operations at a time", json!(in_flight)));
    }
    let mut report = Report::new("catch-up", settings);
    let bare = |report: &mut Report, when: &str| -> anyhow::Result<()> {
        type Drops = fn(&Topic, usize) -> anyhow::Result<First>;
        let ways: [(&str, Drops); 2] = [
            ("bare consumer, batches", Topic::drop_in_batches),
            ("bare consumer, one by one", Topic::drop_one_by_one),
        ];
        for (what, way) in ways {
            let started = Instant::now();
            let first = way(&topic, events)?;
            let (took, running) = (started.elapsed(), first.at.elapsed());
            let figures = vec![
                ("events/s", per_second(events, took)),
                ("MiB/s", mib_per_second(bytes, took)),
                (
                    "once connected, events/s",
                    per_second(events - first.records, running),
                ),
                ("connecting, s", json!((took - running).as_secs_f64())),
            ];
            report.row(format!("{what}, {when}"), figures);
        }
        Ok(())
    };
    bare(&mut report, "before")?;
    for turn in 1..=options.turns {
        let folder = tempfile::tempdir_in(&setup.folder)?;
        let data = folder.path().join("data");
        let started = Instant::now();
        let server = Server::ledger_on(setup, &data, &topic)?;
        let token = topic.token(&server.log().await?)?;
        wait_until_readable(server.address, &token).await?;
        let took = started.elapsed();
        report.row(
            format!("opledger, turn {turn}"),
            vec![
                ("events/s", per_second(events, took)),
                ("MiB/s", mib_per_second(bytes, took)),
                (
                    "CPU µs/event",
                    json!(server.process().cpu()? * 1e6 / events as f64),
                ),
                ("resident peak MiB", mib(server.process().resident_peak()?)),
                ("store MiB", mib(disk(&data)?)),
            ],
        );
    }
    bare(&mut report, "after")?;
    if options.topic.is_none() {
        topic.delete().await?;
    }
    Ok(report)
}
