//! The time from the start of the program until it returns the right document, at a
//! position that is no older than the last known one: after a clean stop, after a clean
//! stop with the kernel's cache emptied, and after kill -9 while events arrive.

use super::events::{Event, Events};
use super::{Scene, check_document, empty_page_cache, events, say, until_idle};
use crate::http::Connection;
use crate::report::{Cells, Report};
use crate::server::Server;
use crate::topic::{Topic, content_type};
use anyhow::{Context, ensure};
use rdkafka::producer::{BaseProducer, BaseRecord, DeliveryResult, Producer, ProducerContext};
use rdkafka::{ClientContext, Message};
use serde_json::json;
use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

pub async fn measure(scene: &Scene<'_>, server: Server) -> anyhow::Result<(Server, Report)> {
    let mut settings = scene.settings();
    settings.push(("events/s under load", json!(scene.options.load)));
    let mut report = Report::new("scale: restart", settings);
    let log = server.log().await?;
    let token = scene.topic.token(&log)?;
    let last = scene.options.operations - 1;

    let mut server = server;
    for (what, cold) in [
        ("clean", false),
        ("clean, nothing in the kernel's cache", true),
    ] {
        say(what);
        let stopping = Instant::now();
        server.stop().await?;
        let stopped = stopping.elapsed();
        if cold {
            empty_page_cache(&scene.data)?;
        }
        let (started, mut figures) = start(scene, last, &token).await?;
        server = started;
        figures.push(("stopping, s", json!(stopped.as_secs_f64())));
        report.row(what, figures);
    }

    let load = Load::start(&scene.topic, scene.options.operations, scene.options)?;
    for turn in 1..=scene.options.kills {
        say("kill -9 under load");
        tokio::time::sleep(Duration::from_secs(3)).await;
        // Acknowledged by the broker when the ledger is killed.
        let acknowledged = load.acknowledged()?;
        drop(server);
        let token = acknowledged.token(&log);
        // Acknowledged when it starts again.
        let before = load.acknowledged()?;
        let starting = Instant::now();
        let (started, mut figures) = start(scene, acknowledged.operation, &token).await?;
        server = started;
        read(&server, before.operation, &before.token(&log)).await?;
        let caught_up = starting.elapsed().as_secs_f64();
        figures.push((
            "caught up with what came meanwhile after, s",
            json!(caught_up),
        ));
        report.row(format!("kill -9 under load, turn {turn}"), figures);
    }
    let operations = load.stop()?;
    let token = scene.topic.token(&log)?;
    crate::publish::wait_until_readable(server.address, &token).await?;
    let mut connection = Connection::open(server.address).await?;
    for operation in (scene.options.operations..operations).step_by(997) {
        check_document(&mut connection, operation, "").await?;
    }
    until_idle(&server).await?;
    Ok((server, report))
}

/// Reads until the document of the operation is there and right, at the position of the
/// token or after it.
async fn start(scene: &Scene<'_>, operation: u64, token: &str) -> anyhow::Result<(Server, Cells)> {
    let started = Instant::now();
    let server = scene.start()?;
    let listening = started.elapsed();
    read(&server, operation, token).await?;
    let took = started.elapsed();
    let figures = vec![
        ("s to the first right read", json!(took.as_secs_f64())),
        ("listening after, s", json!(listening.as_secs_f64())),
        ("CPU s", json!(server.process().cpu()?)),
    ];
    Ok((server, figures))
}

/// The right document, at the position of the token or after it.
async fn read(server: &Server, operation: u64, token: &str) -> anyhow::Result<()> {
    let headers = format!("ledger-position: {token}\r\nprefer: wait=60\r\n");
    let mut connection = Connection::open(server.address).await?;
    let at = check_document(&mut connection, operation, &headers).await?;
    ensure!(is_behind(&at, token)?, "read at {at}, requested {token}");
    Ok(())
}

/// Whether the first token is at or after the second in every partition.
fn is_behind(token: &str, other: &str) -> anyhow::Result<bool> {
    let (found, wanted) = (offsets(token)?, offsets(other)?);
    let holds = |(partition, offset)| found.get(partition).is_some_and(|at| at >= offset);
    Ok(wanted.iter().all(holds))
}

fn offsets(token: &str) -> anyhow::Result<BTreeMap<i32, i64>> {
    let (_, positions) = token.split_once(';').context("a token has a log")?;
    let one = |position: &str| {
        let (partition, offset) = position.split_once(':').context("a position")?;
        anyhow::Ok((partition.parse()?, offset.parse()?))
    };
    positions.split(',').map(one).collect()
}

/// The events that the broker has acknowledged.
#[derive(Clone, Default)]
struct Acknowledged {
    offsets: BTreeMap<i32, i64>,
    /// The latest operation whose events are all among them.
    operation: u64,
}

impl Acknowledged {
    fn token(&self, log: &str) -> String {
        let offsets = self.offsets.iter();
        let positions = offsets.map(|(partition, offset)| format!("{partition}:{offset}"));
        format!("{log};{}", positions.collect::<Vec<_>>().join(","))
    }
}

#[derive(Default)]
struct Noted {
    acknowledged: Acknowledged,
    /// Operations of which only some events are acknowledged.
    begun: HashMap<u64, u64>,
    failed: Option<String>,
}

#[derive(Clone, Default)]
struct Notes(Arc<Mutex<Noted>>);

impl Notes {
    fn lock(&self) -> std::sync::MutexGuard<'_, Noted> {
        self.0.lock().expect("noting does not panic")
    }
}

impl ClientContext for Notes {}

impl ProducerContext for Notes {
    type DeliveryOpaque = Box<Event>;

    fn delivery(&self, result: &DeliveryResult<'_>, event: Box<Event>) {
        let mut noted = self.lock();
        let message = match result {
            Ok(message) => message,
            Err((error, _)) => {
                noted.failed = Some(error.to_string());
                return;
            }
        };
        let begun = noted.begun.entry(event.operation).or_default();
        *begun += 1;
        let is_whole = *begun == events::EVENTS;
        if is_whole {
            noted.begun.remove(&event.operation);
            noted.acknowledged.operation = event.operation;
        }
        let offsets = &mut noted.acknowledged.offsets;
        let held = offsets.entry(message.partition()).or_default();
        *held = message.offset().max(*held);
    }
}

/// A producer that continues whatever happens to the ledger.
struct Load {
    notes: Notes,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<anyhow::Result<u64>>>,
}

/// The interval at which a share of each second's events is sent.
const TICK: Duration = Duration::from_millis(5);

impl Load {
    /// Events of operations from `first` on.
    fn start(topic: &Topic, first: u64, options: &super::Options) -> anyhow::Result<Load> {
        let notes = Notes::default();
        let producer: BaseProducer<Notes> = topic
            .config()
            .set("acks", "all")
            .set("linger.ms", "1")
            .set("compression.type", "lz4")
            .set("partitioner", "murmur2_random")
            .create_with_context(notes.clone())?;
        let stop = Arc::new(AtomicBool::new(false));
        let (told, name) = (stop.clone(), topic.name.clone());
        let at_once = options.load as usize / (1000 / TICK.as_millis() as usize);
        let mut events = Events::new(first..u64::MAX / 2, options.in_flight);
        let thread = std::thread::spawn(move || {
            let mut due = Instant::now();
            let mut last = first;
            while !told.load(Ordering::Relaxed) {
                for event in events.by_ref().take(at_once) {
                    last = last.max(event.operation);
                    send(&producer, &name, event)?;
                }
                producer.poll(Duration::ZERO);
                due += TICK;
                std::thread::sleep(due.saturating_duration_since(Instant::now()));
            }
            // Operations that have begun are completed.
            for event in events.until(last + 1) {
                send(&producer, &name, event)?;
            }
            producer.flush(Duration::from_secs(60))?;
            Ok(last + 1)
        });
        Ok(Load {
            notes,
            stop,
            thread: Some(thread),
        })
    }

    fn acknowledged(&self) -> anyhow::Result<Acknowledged> {
        let noted = self.notes.lock();
        ensure!(noted.failed.is_none(), "not published: {:?}", noted.failed);
        ensure!(
            noted.acknowledged.operation > 0,
            "nothing was published yet"
        );
        Ok(noted.acknowledged.clone())
    }

    /// The operation after the last one.
    fn stop(mut self) -> anyhow::Result<u64> {
        self.stop.store(true, Ordering::Relaxed);
        let thread = self.thread.take().context("it is stopped once")?;
        thread.join().expect("publishing does not panic")
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn send(producer: &BaseProducer<Notes>, topic: &str, event: Event) -> anyhow::Result<()> {
    let (key, value) = event.render();
    let record = BaseRecord::with_opaque_to(topic, Box::new(event));
    let mut record = record.key(&key).payload(&value).headers(content_type());
    while let Err((error, back)) = producer.send(record) {
        let full = rdkafka::error::RDKafkaErrorCode::QueueFull;
        ensure!(error.rdkafka_error_code() == Some(full), "{error}");
        producer.poll(Duration::from_millis(5));
        record = back;
    }
    Ok(())
}
