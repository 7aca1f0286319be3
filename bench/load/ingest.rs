//! Events a second that are accepted (202: durable) and made visible. A few senders send
//! them in batches. Compared with the cost of durability alone, before and after it in the
//! same run: on the embedded log, each sender appends the same bytes to a file of its own
//! and syncs after each batch; on Kafka, a bare producer with acks=all sends the same
//! events, batch by batch and all at once.

use crate::args::Setup;
use crate::http::{self, Connection};
use crate::produce;
use crate::publish::publish;
use crate::render::{self, Busy, Post, Work};
use crate::report::{Report, mib, mib_per_second, per_second};
use crate::server::{Server, disk};
use crate::topic::Topic;
use anyhow::ensure;
use serde_json::{Value, json};
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

#[derive(clap::Args)]
pub struct Options {
    #[arg(long, default_value_t = 1_000_000)]
    events: usize,
    #[arg(long, default_value_t = 6)]
    senders: usize,
    /// Events a publish
    #[arg(long, default_value_t = 100)]
    batch: usize,
    /// Operations that a sender reports on at the same time; 1 for one after the other
    #[arg(long, default_value_t = 100)]
    in_flight: usize,
    /// Brokers, for a ledger on Kafka [default: on its embedded log]
    #[arg(long, value_name = "BOOTSTRAP")]
    kafka: Option<String>,
    #[arg(long, default_value_t = 6)]
    partitions: i32,
}

pub async fn measure(setup: &Setup, options: &Options) -> anyhow::Result<Report> {
    let Options {
        events,
        senders,
        batch,
        in_flight,
        ref kafka,
        partitions,
    } = *options;
    let work = render::for_each_sender(senders, |sender| {
        let share = events / senders + usize::from(sender < events % senders);
        render::posts(Busy::new(sender, senders, in_flight).take(share), batch)
    });
    let posts = || work.iter().flat_map(|posts| &**posts);
    let bytes: usize = posts().map(|post| post.body().len()).sum();
    let mut report = Report::new(
        "ingest",
        vec![
            ("events", json!(events)),
            ("bytes an event", json!(bytes as f64 / events as f64)),
            ("senders", json!(senders)),
            ("batch", json!(batch)),
            ("operations at a time", json!(senders * in_flight)),
        ],
    );
    let folder = tempfile::tempdir_in(&setup.folder)?;
    let topic = match kafka {
        Some(kafka) => Some(Topic::make(kafka, partitions).await?),
        None => None,
    };
    let bare = async |report: &mut Report, when: &str| -> anyhow::Result<()> {
        let mut row = |what: &str, took: Duration| {
            let figures = vec![
                ("posted/s", per_second(events, took)),
                ("MiB/s", mib_per_second(bytes, took)),
            ];
            report.row(format!("{what}, {when}"), figures);
        };
        match kafka {
            Some(kafka) => {
                let topic = Topic::make(kafka, partitions).await?;
                let records = produce::records(&work)?;
                let took = produce::batch_by_batch(&topic, &records).await?;
                row("bare producer, batch by batch", took);
                row(
                    "bare producer, all at once",
                    produce::at_once(&topic, &records)?,
                );
                topic.delete().await?;
            }
            None => row("append and fdatasync", append(folder.path(), &work)?),
        }
        Ok(())
    };
    bare(&mut report, "before").await?;

    let data = folder.path().join("data");
    let server = match &topic {
        Some(topic) => Server::ledger_on(setup, &data, topic)?,
        None => Server::ledger(setup, &data)?,
    };
    server.log().await?;
    let published = publish(&server, &work).await?;
    let mut figures = vec![
        ("posted/s", per_second(events, published.posted)),
        ("MiB/s", mib_per_second(bytes, published.posted)),
        ("visible/s", per_second(events, published.visible)),
        ("CPU µs/event", json!(published.cpu * 1e6 / events as f64)),
        ("resident peak MiB", mib(server.process().resident_peak()?)),
        ("disk MiB", mib(disk(&data)?)),
        ("store MiB", mib(disk(&data.join("store"))?)),
    ];
    if topic.is_none() {
        figures.push(("log MiB", mib(disk(&data.join("log"))?)));
    }
    report.row("opledger", figures);
    for post in posts().step_by(1000) {
        check(&server, &post.operation_id).await?;
    }
    drop(server);

    bare(&mut report, "after").await?;
    if let Some(topic) = topic {
        topic.delete().await?;
    }
    Ok(report)
}

/// Each sender is a thread that appends its share to a file of its own.
fn append(folder: &Path, work: &Work) -> anyhow::Result<Duration> {
    let folder = tempfile::tempdir_in(folder)?;
    let started = Instant::now();
    std::thread::scope(|scope| {
        let append = |(sender, posts): (usize, &Arc<Vec<Post>>)| {
            let path = folder.path().join(sender.to_string());
            let posts = posts.clone();
            scope.spawn(move || append_one(&path, &posts))
        };
        let threads: Vec<_> = work.iter().enumerate().map(append).collect();
        threads
            .into_iter()
            .try_for_each(|thread| thread.join().expect("appending does not panic"))
    })?;
    Ok(started.elapsed())
}

fn append_one(path: &Path, posts: &[Post]) -> anyhow::Result<()> {
    let mut file = File::create(path)?;
    for post in posts {
        file.write_all(post.body())?;
        file.sync_data()?;
    }
    Ok(())
}

/// Speed is worth nothing if events are missing: reads the last operation.
async fn check(server: &Server, operation_id: &str) -> anyhow::Result<()> {
    let mut connection = Connection::open(server.address).await?;
    let request = http::get_operation(operation_id, "");
    let answer = connection.call(&request).await?;
    answer.expect(200)?;
    let document: Value = serde_json::from_slice(answer.body)?;
    ensure!(document["operation_id"] == operation_id, "{document}");
    Ok(())
}
