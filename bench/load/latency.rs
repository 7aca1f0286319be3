//! The time from just before a publish is sent until its operation's document, read with
//! the publish's token, has arrived, at a steady rate. The publish alone is reported as
//! well: the disk takes most of its time.

use crate::args::Setup;
use crate::http::{self, Connection};
use crate::render::{self, Busy, Post};
use crate::report::Report;
use crate::server::Server;
use crate::times::{Times, millis};
use serde_json::json;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

#[derive(clap::Args)]
pub struct Options {
    /// Events a second
    #[arg(long, default_value_t = 2000)]
    rate: usize,
    #[arg(long, default_value_t = 20)]
    seconds: usize,
    /// Events a publish
    #[arg(long, default_value_t = 1)]
    batch: usize,
    #[arg(long, default_value_t = 64)]
    senders: usize,
}

pub async fn measure(setup: &Setup, options: &Options) -> anyhow::Result<Report> {
    let Options {
        rate,
        seconds,
        batch,
        senders,
    } = *options;
    let share = (rate * seconds).div_ceil(senders * batch) * batch;
    let work = render::for_each_sender(senders, |sender| {
        render::posts(Busy::new(sender, senders, 10).take(share), batch)
    });
    let folder = tempfile::tempdir_in(&setup.folder)?;
    let server = Server::ledger(setup, &folder.path().join("data"))?;
    server.ready().await?;
    let mut connections = Vec::new();
    for _ in &work {
        connections.push(Connection::open(server.address).await?);
    }
    let pause = Duration::from_secs_f64((senders * batch) as f64 / rate as f64);
    let cpu = server.process().cpu()?;
    let start = Instant::now();
    let mut tasks = JoinSet::new();
    for (sender, (connection, posts)) in connections.into_iter().zip(work).enumerate() {
        let first = start + pause.mul_f64(sender as f64 / senders as f64);
        tasks.spawn(send(connection, posts, first, pause));
    }
    let mut all = Sent::default();
    while let Some(sent) = tasks.join_next().await {
        let sent = sent??;
        all.events += sent.events;
        all.posted.join(sent.posted);
        all.visible.join(sent.visible);
        all.late = all.late.max(sent.late);
    }
    let took = start.elapsed().as_secs_f64();
    let cpu = server.process().cpu()? - cpu;

    let mut report = Report::new(
        "latency",
        vec![
            ("events/s", json!(all.events as f64 / took)),
            ("of wanted", json!(rate)),
            ("seconds", json!(took)),
            ("senders", json!(senders)),
            ("batch", json!(batch)),
            ("most that a publish left late, ms", millis(all.late)),
            ("cores that opledger used", json!(cpu / took)),
        ],
    );
    for (what, mut times) in [
        ("publish", all.posted),
        ("publish until visible", all.visible),
    ] {
        let mut figures = vec![("measured", json!(times.count()))];
        figures.extend(times.cells());
        report.row(what, figures);
    }
    Ok(report)
}

#[derive(Default)]
struct Sent {
    events: usize,
    posted: Times,
    visible: Times,
    /// The delay because the response to the publish before had not arrived yet.
    late: Duration,
}

async fn send(
    mut connection: Connection,
    posts: Arc<Vec<Post>>,
    first: Instant,
    pause: Duration,
) -> anyhow::Result<Sent> {
    let mut sent = Sent::default();
    let mut due = first;
    for post in &*posts {
        sleep_until(due).await;
        let began = Instant::now();
        let answer = connection.call(&post.request).await?;
        answer.expect(202)?;
        sent.posted.add(began.elapsed());
        let position = format!("ledger-position: {}\r\n", answer.header("ledger-position")?);
        let request = http::get_operation(&post.operation_id, &position);
        connection.call(&request).await?.expect(200)?;
        sent.visible.add(began.elapsed());
        sent.late = sent.late.max(began - due);
        sent.events += post.events;
        due += pause;
    }
    Ok(sent)
}
