//! Writes events into a topic, or into a ledger over HTTP. The same options always give
//! the same events, so that all readers do the same work. Also writes the expected
//! documents of some operations, by the plain fold of the tests.

use crate::bodies::{Bodies, Texts};
use crate::http::Connection;
use crate::publish::Reached;
use crate::reference;
use crate::render::{self, Busy, Unruly};
use crate::report::{Report, per_second};
use crate::topic::Topic;
use anyhow::Context;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Instant;

#[derive(clap::Args)]
pub struct Options {
    /// Brokers, to fill a new topic
    #[arg(long, value_name = "BOOTSTRAP", requires = "topic")]
    #[arg(required_unless_present = "http", conflicts_with = "http")]
    kafka: Option<String>,
    #[arg(long, value_name = "NAME")]
    topic: Option<String>,
    /// A ledger's address, to publish to it
    #[arg(long, value_name = "ADDRESS")]
    http: Option<SocketAddr>,
    #[arg(long, default_value_t = 1_000_000)]
    events: usize,
    #[arg(long, default_value_t = 6)]
    partitions: i32,
    /// Operations that are active at the same time
    #[arg(long, default_value_t = 600)]
    in_flight: usize,
    #[arg(long, value_enum, default_value = "small")]
    bodies: Bodies,
    /// No late events and no repeated ones
    #[arg(long)]
    in_order: bool,
    /// Operations whose documents are written
    #[arg(long, default_value_t = 200)]
    sample: u64,
    /// The file for them: a line of JSON for each; the document is null if there is none yet
    #[arg(long, value_name = "FILE")]
    documents: Option<PathBuf>,
}

pub async fn fill(options: &Options) -> anyhow::Result<Report> {
    let texts = Texts::of(options.bodies);
    let events = Busy::new(0, 1, options.in_flight).map(|mut event| {
        texts.put_into(&mut event);
        event
    });
    let events: Box<dyn Iterator<Item = Value>> = if options.in_order {
        Box::new(events)
    } else {
        Box::new(Unruly::new(events))
    };
    let mut sample = Sample::new(options);
    let events = events
        .take(options.events)
        .inspect(|event| sample.note(event));
    let started = Instant::now();
    let (bytes, position) = match (&options.kafka, &options.topic, options.http) {
        (Some(kafka), Some(name), _) => {
            let topic = Topic::make_named(kafka, name, options.partitions).await?;
            (topic.fill(events)?, topic.last()?)
        }
        (_, _, Some(address)) => publish(address, events).await?,
        _ => unreachable!("clap asks for one of them"),
    };
    let took = started.elapsed();
    if let Some(file) = &options.documents {
        std::fs::write(file, sample.documents()).with_context(|| file.display().to_string())?;
    }
    let mut report = Report::new(
        "fill",
        vec![
            ("events", json!(options.events)),
            ("bytes", json!(bytes)),
            (
                "bytes an event",
                json!(bytes as f64 / options.events as f64),
            ),
            ("position", json!(position)),
        ],
    );
    let speed = vec![("events/s", per_second(options.events, took))];
    report.row("made and sent", speed);
    Ok(report)
}

async fn publish(
    address: SocketAddr,
    events: impl Iterator<Item = Value>,
) -> anyhow::Result<(usize, String)> {
    const AT_ONCE: usize = 500;
    let mut connection = Connection::open(address).await?;
    let mut reached = Reached::default();
    let mut bytes = 0;
    let mut events = events.peekable();
    while events.peek().is_some() {
        for post in render::posts(events.by_ref().take(AT_ONCE), AT_ONCE) {
            bytes += post.body().len();
            let answer = connection.call(&post.request).await?;
            answer.expect(202)?;
            reached.add(&answer)?;
        }
    }
    Ok((bytes, reached.token()))
}

/// All events of some operations.
struct Sample(BTreeMap<String, Vec<Value>>);

impl Sample {
    fn new(options: &Options) -> Sample {
        // An operation has nine events on average.
        let operations = (options.events as u64 / 9).max(1);
        let chosen = (0..options.sample).map(|n| n * operations / options.sample);
        Sample(
            chosen
                .map(|i| (render::operation_id(i), Vec::new()))
                .collect(),
        )
    }

    fn note(&mut self, event: &Value) {
        let subject = event["subject"].as_str().unwrap_or_default();
        if let Some(events) = self.0.get_mut(subject) {
            events.push(event.clone());
        }
    }

    fn documents(&self) -> String {
        let mut out = String::new();
        for (id, events) in self.0.iter().filter(|(_, events)| !events.is_empty()) {
            let line = json!({ "operation_id": id, "document": reference::document(events) });
            writeln!(out, "{line}").expect("writing to memory cannot fail");
        }
        out
    }
}
