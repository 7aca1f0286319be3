//! Events a second that a new ledger takes from a topic until all of them can be
//! read, from the start of the process on. Beside it, before and after in the same
//! run: bare consumers that drop the same records.

use crate::args::Setup;
use crate::publish::wait_until_readable;
use crate::render::Busy;
use crate::report::{Report, mib, mib_per_second, per_second};
use crate::server::{Server, disk};
use crate::topic::Topic;
use serde_json::json;
use std::time::Instant;

#[derive(clap::Args)]
pub struct Options {
    /// Brokers
    #[arg(long, value_name = "BOOTSTRAP")]
    kafka: String,
    #[arg(long, default_value_t = 1_000_000)]
    events: usize,
    #[arg(long, default_value_t = 6)]
    partitions: i32,
    /// Operations that go on at the same time
    #[arg(long, default_value_t = 600)]
    in_flight: usize,
    /// Ledgers, one after the other, each with an empty folder
    #[arg(long, default_value_t = 3)]
    turns: usize,
}

pub async fn measure(setup: &Setup, options: &Options) -> anyhow::Result<Report> {
    let Options {
        ref kafka,
        events,
        partitions,
        in_flight,
        turns,
    } = *options;
    let topic = Topic::make(kafka, partitions).await?;
    let bytes = topic.fill(Busy::new(0, 1, in_flight).take(events))?;
    let mut report = Report::new(
        "catch-up",
        vec![
            ("events", json!(events)),
            ("bytes an event", json!(bytes as f64 / events as f64)),
            ("partitions", json!(partitions)),
            ("operations at a time", json!(in_flight)),
        ],
    );
    let bare = |report: &mut Report, when: &str| -> anyhow::Result<()> {
        type Drops = fn(&Topic, usize) -> anyhow::Result<()>;
        let ways: [(&str, Drops); 2] = [
            ("bare consumer, batches", Topic::drop_in_batches),
            ("bare consumer, one by one", Topic::drop_one_by_one),
        ];
        for (what, way) in ways {
            let started = Instant::now();
            way(&topic, events)?;
            let took = started.elapsed();
            let figures = vec![
                ("events/s", per_second(events, took)),
                ("MiB/s", mib_per_second(bytes, took)),
            ];
            report.row(format!("{what}, {when}"), figures);
        }
        Ok(())
    };
    // Once for nothing, so that the broker has it all at hand.
    topic.drop_in_batches(events)?;
    bare(&mut report, "before")?;
    for turn in 1..=turns {
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
                ("CPU µs/event", json!(server.cpu()? * 1e6 / events as f64)),
                ("resident peak MiB", mib(server.resident_peak()?)),
                ("store MiB", mib(disk(&data)?)),
            ],
        );
    }
    bare(&mut report, "after")?;
    topic.delete().await?;
    Ok(report)
}
