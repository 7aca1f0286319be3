//! Bare producers with acks=all, which `ingest` on Kafka is compared with: they send
//! the same events and do nothing else.

use crate::render::Work;
use crate::topic::{Topic, content_type};

use rdkafka::error::RDKafkaErrorCode;
use rdkafka::producer::{BaseRecord, ThreadedProducer};
use rdkafka::producer::{DefaultProducerContext, FutureProducer, FutureRecord, Producer};
use serde::Deserialize;
use serde_json::value::RawValue;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

pub struct Record {
    key: String,
    value: String,
}

/// The batches of each sender.
pub type Records = Vec<Arc<Vec<Vec<Record>>>>;

/// Extracted from the publishes before any clock starts.
pub fn records(work: &Work) -> anyhow::Result<Records> {
    #[derive(Deserialize)]
    struct Keyed {
        subject: String,
    }
    let record = |raw: &RawValue| {
        let keyed: Keyed = serde_json::from_str(raw.get())?;
        anyhow::Ok(Record {
            key: keyed.subject,
            value: raw.get().to_owned(),
        })
    };
    let batch = |body: &[u8]| -> anyhow::Result<Vec<Record>> {
        let raw: Vec<&RawValue> = match body.first() {
            Some(b'[') => serde_json::from_slice(body)?,
            _ => vec![serde_json::from_slice(body)?],
        };
        raw.into_iter().map(record).collect()
    };
    let sender = |posts: &Arc<Vec<crate::render::Post>>| {
        let batches = posts.iter().map(|post| batch(post.body()));
        anyhow::Ok(Arc::new(batches.collect::<anyhow::Result<_>>()?))
    };
    work.iter().map(sender).collect()
}

/// Each sender waits until its batch is acknowledged before it sends the next, like a
/// sender over HTTP. They share one producer.
pub async fn batch_by_batch(topic: &Topic, records: &Records) -> anyhow::Result<Duration> {
    let producer: FutureProducer = topic
        .config()
        .set("acks", "all")
        .set("enable.idempotence", "true")
        // As in opledger. The default of 5 ms would only add waiting.
        .set("linger.ms", "1")
        .set("partitioner", "murmur2_random")
        .create()?;
    let started = Instant::now();
    let mut senders = JoinSet::new();
    for batches in records {
        let (producer, batches, name) = (producer.clone(), batches.clone(), topic.name.clone());
        senders.spawn(async move {
            for batch in &*batches {
                let mut waiting = Vec::with_capacity(batch.len());
                for record in batch {
                    let sent = FutureRecord::to(&name).key(&record.key);
                    let sent = sent.payload(&record.value).headers(content_type());
                    waiting.push(producer.send_result(sent).map_err(|(error, _)| error)?);
                }
                for delivery in waiting {
                    delivery.await?.map_err(|(error, _)| error)?;
                }
            }
            anyhow::Ok(())
        });
    }
    while let Some(sender) = senders.join_next().await {
        sender??;
    }
    Ok(started.elapsed())
}

/// As fast as the broker accepts them: it waits for acknowledgements only at the end.
pub fn at_once(topic: &Topic, records: &Records) -> anyhow::Result<Duration> {
    let producer: ThreadedProducer<DefaultProducerContext> = topic
        .config()
        .set("acks", "all")
        .set("enable.idempotence", "true")
        .set("linger.ms", "5")
        .set("partitioner", "murmur2_random")
        .set("queue.buffering.max.messages", "1000000")
        .create()?;
    let before: i64 = topic.ends()?.iter().sum();
    let started = Instant::now();
    let mut count = 0;
    for record in records.iter().flat_map(|batches| batches.iter()).flatten() {
        let sent = BaseRecord::to(&topic.name).key(&record.key);
        let mut sent = sent.payload(&record.value).headers(content_type());
        while let Err((error, back)) = producer.send(sent) {
            let full = error.rdkafka_error_code() == Some(RDKafkaErrorCode::QueueFull);
            anyhow::ensure!(full, "{error}");
            std::thread::sleep(Duration::from_millis(1));
            sent = back;
        }
        count += 1;
    }
    producer.flush(Duration::from_secs(300))?;
    let took = started.elapsed();
    let stored = topic.ends()?.iter().sum::<i64>() - before;
    anyhow::ensure!(stored == count, "{stored} of {count} events were stored");
    Ok(took)
}
