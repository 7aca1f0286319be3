//! Senders that publish as fast as responses arrive, each on a connection of its
//! own, and the wait until all events can be read.

use crate::http::{self, Answer, Connection};
use crate::render::Work;
use crate::server::Server;
use anyhow::{Context, ensure};
use indicatif::{ProgressBar, ProgressStyle};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

/// A publish becomes visible within this time, however large the projector's lag
/// is.
const PATIENCE: Duration = Duration::from_secs(3600);

/// The time from the start until the last 202, and until all events were readable.
pub struct Published {
    pub posted: Duration,
    pub visible: Duration,
    /// Processor seconds of the ledger meanwhile.
    pub cpu: f64,
    /// The position of all events.
    pub token: String,
}

pub async fn publish(server: &Server, work: &Work) -> anyhow::Result<Published> {
    let events: usize = work
        .iter()
        .flat_map(|posts| &**posts)
        .map(|post| post.events)
        .sum();
    // Shown on a terminal only.
    let bar = ProgressBar::new(events as u64);
    bar.set_style(ProgressStyle::with_template(
        "{wide_bar} {pos}/{len} {per_sec}",
    )?);
    server.ready().await?;
    let mut connections = Vec::new();
    for _ in work {
        connections.push(Connection::open(server.address).await?);
    }
    let cpu = server.process().cpu()?;
    let started = Instant::now();
    let mut senders = JoinSet::new();
    for (mut connection, posts) in connections.into_iter().zip(work) {
        let (bar, posts) = (bar.clone(), posts.clone());
        senders.spawn(async move {
            let mut reached = Reached::default();
            for post in &*posts {
                let answer = connection.call(&post.request).await?;
                answer.expect(202)?;
                reached.add(&answer)?;
                bar.inc(post.events as u64);
            }
            anyhow::Ok(reached)
        });
    }
    let mut reached = Reached::default();
    while let Some(sender) = senders.join_next().await {
        reached.join(sender??);
    }
    let posted = started.elapsed();
    let token = reached.token();
    wait_until_readable(server.address, &token).await?;
    let visible = started.elapsed();
    bar.finish_and_clear();
    Ok(Published {
        posted,
        visible,
        cpu: server.process().cpu()? - cpu,
        token,
    })
}

/// The tokens of many responses, merged into one.
#[derive(Default)]
pub struct Reached {
    log: String,
    offsets: BTreeMap<u32, u64>,
}

impl Reached {
    pub fn add(&mut self, answer: &Answer) -> anyhow::Result<()> {
        let token = answer.header("ledger-position")?;
        let (log, positions) = token.split_once(';').context("a token has a log")?;
        let mut one = Reached {
            log: log.to_owned(),
            ..Reached::default()
        };
        for position in positions.split(',') {
            let (partition, offset) = position.split_once(':').context("a position")?;
            one.offsets.insert(partition.parse()?, offset.parse()?);
        }
        self.join(one);
        Ok(())
    }

    fn join(&mut self, other: Reached) {
        for (partition, offset) in other.offsets {
            let held = self.offsets.entry(partition).or_default();
            *held = offset.max(*held);
        }
        self.log = other.log;
    }

    pub fn token(&self) -> String {
        let positions = self.offsets.iter();
        let positions = positions.map(|(partition, offset)| format!("{partition}:{offset}"));
        format!("{};{}", self.log, positions.collect::<Vec<_>>().join(","))
    }
}

/// Reads the dead letters, because that costs nothing and there must be none.
pub async fn wait_until_readable(address: SocketAddr, token: &str) -> anyhow::Result<()> {
    let headers = format!("ledger-position: {token}\r\nprefer: wait=60\r\n");
    let request = http::get("/v1/dead-letters?limit=1", &headers);
    let mut connection = Connection::open(address).await?;
    let until = Instant::now() + PATIENCE;
    loop {
        let answer = connection.call(&request).await?;
        if answer.status == 504 && Instant::now() < until {
            continue;
        }
        answer.expect(200)?;
        let body = String::from_utf8_lossy(answer.body);
        ensure!(body == "{\"dead_letters\":[]}", "{body}");
        return Ok(());
    }
}
