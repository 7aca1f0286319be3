//! A topic to measure on, and the bare clients that opledger is compared with: they
//! do only what opledger has to do as well.

use anyhow::{Context, ensure};
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::bindings as rdk;
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseRecord, DefaultProducerContext, Producer, ThreadedProducer};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use serde_json::Value;
use std::ffi::CString;
use std::time::{Duration, Instant};

pub struct Topic {
    pub bootstrap: String,
    pub name: String,
    pub partitions: i32,
}

/// When a bare consumer received its first records, and their number. The time before is
/// connecting.
pub struct First {
    pub at: Instant,
    pub records: usize,
}

impl First {
    fn now(records: usize) -> First {
        let at = Instant::now();
        First { at, records }
    }
}

impl Topic {
    /// Creates a topic with a unique name.
    pub async fn make(bootstrap: &str, partitions: i32) -> anyhow::Result<Topic> {
        let name = format!("load-{}", uuid::Uuid::now_v7());
        Topic::make_named(bootstrap, &name, partitions).await
    }

    /// With unlimited retention and the broker's time, as opledger creates it.
    pub async fn make_named(bootstrap: &str, name: &str, partitions: i32) -> anyhow::Result<Topic> {
        let topic = Topic {
            bootstrap: bootstrap.to_owned(),
            name: name.to_owned(),
            partitions,
        };
        let admin: AdminClient<DefaultClientContext> = topic.config().create()?;
        let new = NewTopic::new(&topic.name, partitions, TopicReplication::Fixed(1))
            .set("retention.ms", "-1")
            .set("message.timestamp.type", "LogAppendTime");
        let made = admin.create_topics([&new], &AdminOptions::new()).await?;
        made.into_iter()
            .next()
            .context("no answer")?
            .map_err(|(_, error)| error)?;
        Ok(topic)
    }

    /// An existing topic.
    pub fn existing(bootstrap: &str, name: &str) -> anyhow::Result<Topic> {
        let mut topic = Topic {
            bootstrap: bootstrap.to_owned(),
            name: name.to_owned(),
            partitions: 0,
        };
        let client: BaseConsumer = topic.config().create()?;
        let metadata = client.fetch_metadata(Some(name), Duration::from_secs(10))?;
        let found = metadata.topics().iter().find(|topic| topic.name() == name);
        let partitions = found.map_or(0, |topic| topic.partitions().len());
        ensure!(partitions > 0, "there is no topic {name}");
        topic.partitions = partitions as i32;
        Ok(topic)
    }

    pub async fn delete(&self) -> anyhow::Result<()> {
        let admin: AdminClient<DefaultClientContext> = self.config().create()?;
        admin
            .delete_topics(&[&self.name], &AdminOptions::new())
            .await?;
        Ok(())
    }

    pub fn config(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", &self.bootstrap);
        config
    }

    /// Produces events as workers do: keyed by operation, lz4. Returns the bytes of the
    /// values.
    pub fn fill(&self, events: impl Iterator<Item = Value>) -> anyhow::Result<usize> {
        let keyed = |event: Value| {
            let key = event["subject"].as_str().expect("an event has a subject");
            (key.to_owned(), event.to_string())
        };
        self.send("lz4", events.map(keyed))
    }

    /// Produces keys and values in large batches.
    pub fn send(
        &self,
        compression: &str,
        records: impl Iterator<Item = (String, String)>,
    ) -> anyhow::Result<usize> {
        let producer: ThreadedProducer<DefaultProducerContext> = self
            .config()
            .set("compression.type", compression)
            .set("linger.ms", "20")
            .set("batch.size", "262144")
            .set("partitioner", "murmur2_random")
            .set("queue.buffering.max.messages", "2000000")
            .set("queue.buffering.max.kbytes", "1000000")
            .create()?;
        let mut bytes = 0;
        for (key, value) in records {
            bytes += value.len();
            let mut record = BaseRecord::to(&self.name).key(&key).payload(&value);
            record = record.headers(content_type());
            while let Err((error, back)) = producer.send(record) {
                ensure!(
                    error.rdkafka_error_code() == Some(rdkafka::error::RDKafkaErrorCode::QueueFull),
                    "{error}"
                );
                std::thread::sleep(Duration::from_millis(10));
                record = back;
            }
        }
        producer.flush(Duration::from_secs(300))?;
        Ok(bytes)
    }

    /// The offset after the last record of each partition.
    pub fn ends(&self) -> anyhow::Result<Vec<i64>> {
        let client: BaseConsumer = self.config().create()?;
        let end = |partition| {
            let patience = Duration::from_secs(10);
            Ok(client.fetch_watermarks(&self.name, partition, patience)?.1)
        };
        (0..self.partitions).map(end).collect()
    }

    /// The positions of the last records, as the part of a token after the log's name.
    pub fn last(&self) -> anyhow::Result<String> {
        let ends = self.ends()?.into_iter().enumerate();
        let filled = ends.filter(|(_, end)| *end > 0);
        let parts: Vec<_> = filled.map(|(p, end)| format!("{p}:{}", end - 1)).collect();
        Ok(parts.join(","))
    }

    /// The token of the last record in each partition.
    pub fn token(&self, log: &str) -> anyhow::Result<String> {
        Ok(format!("{log};{}", self.last()?))
    }

    fn consumer(&self) -> anyhow::Result<BaseConsumer> {
        Ok(self
            .config()
            .set("group.id", &self.name)
            .set("enable.auto.commit", "false")
            .set("queued.min.messages", "100000")
            .create()?)
    }

    fn assign(&self, consumer: &BaseConsumer, offset: Offset) -> anyhow::Result<()> {
        let mut all = TopicPartitionList::new();
        all.add_partition_range(&self.name, 0, self.partitions - 1);
        all.set_all_offsets(offset)?;
        Ok(consumer.assign(&all)?)
    }

    /// The number of records and the bytes of their values.
    pub fn count(&self) -> anyhow::Result<(usize, usize)> {
        let records: i64 = self.ends()?.iter().sum();
        let consumer = self.consumer()?;
        self.assign(&consumer, Offset::Beginning)?;
        let mut bytes = 0;
        for _ in 0..records {
            let record = consumer.poll(Duration::from_secs(30));
            let record = record.context("nothing came for half a minute")??;
            bytes += record.payload_len();
        }
        Ok((records as usize, bytes))
    }

    /// Takes this many records one by one and drops them.
    pub fn drop_one_by_one(&self, records: usize) -> anyhow::Result<First> {
        let consumer = self.consumer()?;
        self.assign(&consumer, Offset::Beginning)?;
        let mut first = None;
        for _ in 0..records {
            let record = consumer.poll(Duration::from_secs(30));
            record.context("nothing came for half a minute")??;
            first.get_or_insert_with(|| First::now(1));
        }
        first.context("no records to take")
    }

    /// Takes this many records in batches and drops them: the fastest way with librdkafka.
    pub fn drop_in_batches(&self, records: usize) -> anyhow::Result<First> {
        let mut first = None;
        self.drop_telling(records, &mut |taken| {
            first.get_or_insert_with(|| First::now(taken));
        })?;
        first.context("no records to take")
    }

    /// The same, and calls `tell` after each batch with the number of records so far.
    pub fn drop_telling(&self, records: usize, tell: &mut dyn FnMut(usize)) -> anyhow::Result<()> {
        const AT_ONCE: usize = 5000;
        let consumer = self.consumer()?;
        let name = CString::new(self.name.as_str())?;
        let client = consumer.client().native_ptr();
        // Safety: the client outlives the queue, and each message is destroyed once.
        unsafe {
            let queue = rdk::rd_kafka_queue_new(client);
            for partition in 0..self.partitions {
                let own = rdk::rd_kafka_queue_get_partition(client, name.as_ptr(), partition);
                rdk::rd_kafka_queue_forward(own, queue);
                rdk::rd_kafka_queue_destroy(own);
            }
            self.assign(&consumer, Offset::Beginning)?;
            let mut messages = Vec::with_capacity(AT_ONCE);
            let mut taken = 0;
            while taken < records {
                // The call waits for as many records as requested. So request no more than
                // will arrive, and at first one, which shows that it is connected.
                let wanted = if taken == 0 { 1 } else { AT_ONCE };
                let wanted = wanted.min(records - taken);
                let came =
                    rdk::rd_kafka_consume_batch_queue(queue, 100, messages.as_mut_ptr(), wanted);
                ensure!(came >= 0, "the queue failed");
                messages.set_len(came as usize);
                taken += messages.len();
                for message in messages.drain(..) {
                    rdk::rd_kafka_message_destroy(message);
                }
                if taken > 0 {
                    tell(taken);
                }
            }
            rdk::rd_kafka_queue_destroy(queue);
        }
        Ok(())
    }

    /// Calls `seen` with every new record, until `seen` says stop.
    pub fn watch(&self, seen: &mut dyn FnMut(&[u8]) -> bool) -> anyhow::Result<()> {
        use rdkafka::message::Message;
        let consumer = self.consumer()?;
        self.assign(&consumer, Offset::End)?;
        while seen(&[]) {
            if let Some(message) = consumer.poll(Duration::from_millis(100)) {
                let message = message?;
                if !seen(message.payload().unwrap_or_default()) {
                    return Ok(());
                }
            }
        }
        Ok(())
    }
}

pub fn content_type() -> OwnedHeaders {
    OwnedHeaders::new_with_capacity(1).insert(Header {
        key: "content-type",
        value: Some("application/cloudevents+json"),
    })
}
