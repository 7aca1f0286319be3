//! The time from just before an event is handed to a producer until its operation's
//! document, read with the record's own position, has arrived, at a steady rate. Compared
//! with a bare consumer that receives the record, in the same run and for the same events.

use crate::args::Setup;
use crate::http::{self, Connection};
use crate::render::Busy;
use crate::report::Report;
use crate::server::Server;
use crate::times::{Times, millis};
use crate::topic::{Topic, content_type};
use rdkafka::producer::{FutureProducer, FutureRecord};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::task::JoinSet;
use tokio::time::sleep_until;

#[derive(clap::Args)]
pub struct Options {
    /// Brokers
    #[arg(long, value_name = "BOOTSTRAP")]
    kafka: String,
    /// Events a second
    #[arg(long, default_value_t = 2000)]
    rate: usize,
    #[arg(long, default_value_t = 20)]
    seconds: usize,
    #[arg(long, default_value_t = 64)]
    senders: usize,
    #[arg(long, default_value_t = 6)]
    partitions: i32,
}

/// When each event was handed over, and when the bare consumer received it.
type Seen = Mutex<HashMap<String, Instant>>;

pub async fn measure(setup: &Setup, options: &Options) -> anyhow::Result<Report> {
    let Options {
        ref kafka,
        rate,
        seconds,
        senders,
        partitions,
    } = *options;
    let topic = Arc::new(Topic::make(kafka, partitions).await?);
    let folder = tempfile::tempdir_in(&setup.folder)?;
    let server = Server::ledger_on(setup, &folder.path().join("data"), &topic)?;
    let log = server.log().await?;
    let seen = Arc::new(Seen::default());
    let stop = Arc::new(AtomicBool::new(false));
    let watcher = {
        let (topic, seen, stop) = (topic.clone(), seen.clone(), stop.clone());
        std::thread::spawn(move || {
            topic.watch(&mut |value| {
                if let Ok(event) = serde_json::from_slice::<Value>(value) {
                    let id = event["id"].as_str().unwrap_or_default().to_owned();
                    seen.lock().expect("no panic").insert(id, Instant::now());
                }
                !stop.load(Ordering::Relaxed)
            })
        })
    };
    // The consumer begins at the end of the topic: give it time to find the end.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let producer: FutureProducer = topic
        .config()
        .set("enable.idempotence", "true")
        .set("linger.ms", "0")
        .create()?;
    let share = rate * seconds / senders;
    let pause = Duration::from_secs_f64(senders as f64 / rate as f64);
    let cpu = server.process().cpu()?;
    let start = Instant::now();
    let mut tasks = JoinSet::new();
    for sender in 0..senders {
        let connection = Connection::open(server.address).await?;
        let first = start + pause.mul_f64(sender as f64 / senders as f64);
        let events: Vec<Value> = Busy::new(sender, senders, 10).take(share).collect();
        let work = Sending {
            producer: producer.clone(),
            topic: topic.clone(),
            log: log.clone(),
            connection,
        };
        tasks.spawn(work.send(events, first, pause));
    }
    let mut sent = Vec::new();
    while let Some(some) = tasks.join_next().await {
        sent.extend(some??);
    }
    let took = start.elapsed().as_secs_f64();
    let cpu = server.process().cpu()? - cpu;
    tokio::time::sleep(Duration::from_millis(500)).await;
    stop.store(true, Ordering::Relaxed);
    watcher.join().expect("no panic")?;

    let seen = std::mem::take(&mut *seen.lock().expect("no panic"));
    let (mut acknowledged, mut bare, mut visible) =
        (Times::default(), Times::default(), Times::default());
    for event in &sent {
        acknowledged.add(event.acknowledged - event.began);
        visible.add(event.visible - event.began);
        if let Some(seen) = seen.get(&event.id) {
            bare.add(seen.saturating_duration_since(event.began));
        }
    }
    let late = sent
        .iter()
        .map(|event| event.late)
        .max()
        .unwrap_or_default();
    let mut report = Report::new(
        "latency on Kafka",
        vec![
            ("events/s", json!(sent.len() as f64 / took)),
            ("of wanted", json!(rate)),
            ("seconds", json!(took)),
            ("senders", json!(senders)),
            ("most that an event left late, ms", millis(late)),
            ("cores that opledger used", json!(cpu / took)),
        ],
    );
    for (what, mut times) in [
        ("publish until acknowledged", acknowledged),
        ("publish until a bare consumer has it", bare),
        ("publish until visible over HTTP", visible),
    ] {
        let mut figures = vec![("measured", json!(times.count()))];
        figures.extend(times.cells());
        report.row(what, figures);
    }
    topic.delete().await?;
    Ok(report)
}

struct Sent {
    id: String,
    began: Instant,
    acknowledged: Instant,
    visible: Instant,
    late: Duration,
}

struct Sending {
    producer: FutureProducer,
    topic: Arc<Topic>,
    log: String,
    connection: Connection,
}

impl Sending {
    async fn send(
        mut self,
        events: Vec<Value>,
        first: Instant,
        pause: Duration,
    ) -> anyhow::Result<Vec<Sent>> {
        let mut sent = Vec::with_capacity(events.len());
        let mut due = first;
        for event in events {
            let (value, key) = (event.to_string(), event["subject"].as_str().unwrap_or(""));
            sleep_until(due.into()).await;
            let began = Instant::now();
            let record = FutureRecord::to(&self.topic.name).key(key).payload(&value);
            let record = record.headers(content_type());
            let at = self
                .producer
                .send(record, None)
                .await
                .map_err(|(error, _)| error)?;
            let acknowledged = Instant::now();
            let position = format!(
                "ledger-position: {};{}:{}\r\n",
                self.log, at.partition, at.offset
            );
            // Another worker's event may have to arrive first, so a missing document is no failure.
            let request = http::get_operation(key, &position);
            let status = self.connection.call(&request).await?.status;
            anyhow::ensure!(status == 200 || status == 404, "{status}");
            sent.push(Sent {
                id: event["id"].as_str().unwrap_or_default().to_owned(),
                began,
                acknowledged,
                visible: Instant::now(),
                late: began - due,
            });
            due += pause;
        }
        Ok(sent)
    }
}
