//! Reads all partitions through one queue, many messages a call. Where to begin
//! comes from the store; the consumer group has no say.

use super::Settings;
use super::checks::Asking;
use super::client::{self, Context, Role};
use super::message::{self, Message};
use crate::event_log::{Confirmation, Limits, Logged, ReadError, Reader};
use rdkafka::bindings as rdk;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::types::{RDKafkaMessage, RDKafkaRespErr};
use rdkafka::{Offset, TopicPartitionList};
use std::collections::BTreeMap;
use std::ffi::CString;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Messages taken at once: between two calls the bytes are counted.
const AT_ONCE: usize = 1000;
/// While nothing comes, it is asked this often whether anything still can.
const ASK_EVERY: Duration = Duration::from_secs(2);

pub struct Consumer {
    // Fields are dropped in this order, and the queue has to go first.
    queue: Queue,
    client: Arc<BaseConsumer<Context>>,
    next: BTreeMap<u32, u64>,
    asking: Asking,
    asked: Instant,
    buffer: Vec<*mut RDKafkaMessage>,
}

// Safety: the buffer holds messages only during a call.
unsafe impl Send for Consumer {}

struct Queue(*mut rdk::rd_kafka_queue_t);

impl Drop for Queue {
    fn drop(&mut self) {
        // Safety: it is ours, and destroyed once.
        unsafe { rdk::rd_kafka_queue_destroy(self.0) };
    }
}

impl Consumer {
    /// `begin` names every partition and the offset to begin at, if it is known.
    pub fn open(
        settings: &Settings,
        begin: BTreeMap<u32, Option<u64>>,
        asking: Asking,
    ) -> Result<Consumer, ReadError> {
        let role = Role::Consumer;
        let client: BaseConsumer<Context> = client::config(settings, role)
            .create_with_context(Context::new(role))
            .map_err(failed)?;
        let name = CString::new(settings.topic.as_str());
        let name = name.map_err(|_| unavailable("no topic has a NUL in its name"))?;
        let rk = client.client().native_ptr();
        // Safety: the client lives; each partition's queue is given back at once.
        let queue = unsafe {
            let queue = Queue(rdk::rd_kafka_queue_new(rk));
            for partition in begin.keys() {
                let own = rdk::rd_kafka_queue_get_partition(rk, name.as_ptr(), *partition as i32);
                if own.is_null() {
                    return Err(unavailable("a partition has no queue"));
                }
                rdk::rd_kafka_queue_forward(own, queue.0);
                rdk::rd_kafka_queue_destroy(own);
            }
            queue
        };
        let mut assigned = TopicPartitionList::with_capacity(begin.len());
        for (&partition, offset) in &begin {
            let offset = offset.map_or(Offset::Beginning, |at| Offset::Offset(at as i64));
            let added = assigned.add_partition_offset(&settings.topic, partition as i32, offset);
            added.map_err(failed)?;
        }
        client.assign(&assigned).map_err(failed)?;
        Ok(Consumer {
            queue,
            client: client.into(),
            next: begin
                .into_iter()
                .filter_map(|(p, at)| Some((p, at?)))
                .collect(),
            asking,
            asked: Instant::now(),
            buffer: Vec::with_capacity(AT_ONCE),
        })
    }

    /// Up to `most` messages, waiting for the first. What is no record moves `next`
    /// or is an error.
    fn take(
        &mut self,
        most: usize,
        patience: Duration,
        into: &mut Vec<Logged>,
    ) -> Result<usize, ReadError> {
        // It would wait for the whole patience for as many as are wanted.
        let most = if patience.is_zero() { most } else { 1 };
        self.buffer.clear();
        // Safety: the buffer has room for that many; all that came are taken out below.
        unsafe {
            let came = rdk::rd_kafka_consume_batch_queue(
                self.queue.0,
                patience.as_millis() as i32,
                self.buffer.as_mut_ptr(),
                most,
            );
            self.buffer.set_len(came.max(0) as usize);
        }
        let came = self.buffer.len();
        let outcome = self.sort_out();
        // Safety: they were handed out just now, and are destroyed by no one else.
        let messages = self.buffer.drain(..);
        let messages = messages.map(|message| unsafe { Message::new(message) });
        match outcome {
            Ok(()) => message::take(messages.filter(Message::is_record), &self.client, into),
            Err(_) => messages.for_each(drop),
        }
        outcome.map(|()| came)
    }

    /// Moves `next` by all that came; says what makes going on pointless.
    fn sort_out(&mut self) -> Result<(), ReadError> {
        for message in &self.buffer {
            // Safety: not yet destroyed.
            let message = unsafe { &**message };
            let partition = message.partition as u32;
            match message.err {
                RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR => {
                    self.next.insert(partition, message.offset as u64 + 1);
                }
                // Everything before this offset was delivered, or is no record.
                RDKafkaRespErr::RD_KAFKA_RESP_ERR__PARTITION_EOF => {
                    let next = self.next.entry(partition).or_default();
                    *next = (*next).max(message.offset.max(0) as u64);
                }
                RDKafkaRespErr::RD_KAFKA_RESP_ERR__ALL_BROKERS_DOWN
                | RDKafkaRespErr::RD_KAFKA_RESP_ERR__TRANSPORT
                | RDKafkaRespErr::RD_KAFKA_RESP_ERR__TIMED_OUT => {
                    // It goes on trying; whether that has a point is asked elsewhere.
                    tracing::debug!(partition, "no connection");
                }
                other => {
                    let error = KafkaError::MessageConsumption(RDKafkaErrorCode::from(other));
                    return Err(unavailable(&format!("partition {partition}: {error}")));
                }
            }
        }
        Ok(())
    }

    /// Logs, statistics and errors that concern no partition.
    fn serve(&self) -> Result<(), ReadError> {
        match self.client.poll(Duration::ZERO) {
            Some(Err(error)) => match error.rdkafka_error_code() {
                Some(
                    code @ (RDKafkaErrorCode::Fatal
                    | RDKafkaErrorCode::TopicAuthorizationFailed
                    | RDKafkaErrorCode::UnknownTopicOrPartition
                    | RDKafkaErrorCode::UnknownPartition),
                ) => Err(unavailable(&code.to_string())),
                Some(_) | None => Ok(()),
            },
            // Every partition has been sent elsewhere.
            Some(Ok(_)) | None => Ok(()),
        }
    }
}

impl Reader for Consumer {
    fn read(&mut self, limits: &Limits, into: &mut Vec<Logged>) -> Result<(), ReadError> {
        self.serve()?;
        let begin = into.len();
        let (mut bytes, mut counted) = (0, begin);
        if self.take(1, limits.patience, into)? == 0 {
            if self.asked.elapsed() >= ASK_EVERY {
                self.asked = Instant::now();
                self.asking.ask().wait()?;
            }
            return Ok(());
        }
        loop {
            bytes += into[counted..]
                .iter()
                .map(|l| l.record.size())
                .sum::<usize>();
            counted = into.len();
            let came = into.len() - begin;
            let left = limits.records.saturating_sub(came);
            if left == 0 || bytes >= limits.bytes {
                return Ok(());
            }
            // As many as fit if they go on as large as they were.
            let fit = (limits.bytes - bytes).saturating_mul(came) / bytes.max(1) + 1;
            if self.take(left.min(fit).min(AT_ONCE), Duration::ZERO, into)? == 0 {
                return Ok(());
            }
        }
    }

    fn confirm(&mut self) -> Confirmation {
        self.asked = Instant::now();
        self.asking.ask()
    }

    fn next(&self) -> BTreeMap<u32, u64> {
        self.next.clone()
    }
}

impl Drop for Consumer {
    fn drop(&mut self) {
        // Closing would wait for messages that nobody takes any more.
        if let Err(error) = self.client.unassign() {
            tracing::debug!(%error, "while closing a consumer");
        }
    }
}

fn unavailable(why: &str) -> ReadError {
    ReadError::Unavailable(why.to_owned())
}

fn failed(error: KafkaError) -> ReadError {
    ReadError::Unavailable(error.to_string())
}
