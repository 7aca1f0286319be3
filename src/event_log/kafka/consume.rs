//! Reads the partitions of its share through one queue, many messages a call. The store says where to
//! begin; the consumer group does not.

use super::KafkaSettings;
use super::checks::Asking;
use super::client::unavailable;
use super::fetcher::Fetcher;
use super::message;
use crate::event_log::{Confirmation, Limits, Logged, ReadError, Reader};
use crate::wire::position::{NextOffsets, Offset, Partition};
use rdkafka::bindings as rdk;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::types::{RDKafkaMessage, RDKafkaRespErr};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Messages taken at once: between two calls the bytes are counted.
const AT_ONCE: usize = 1000;
/// While nothing arrives, the topic is checked this often.
const ASK_EVERY: Duration = Duration::from_secs(2);

pub struct Consumer {
    fetcher: Fetcher,
    next: NextOffsets,
    asking: Asking,
    asked: Instant,
    buffer: Vec<*mut RDKafkaMessage>,
}

// Safety: the buffer holds messages only during a call.
unsafe impl Send for Consumer {}

impl Consumer {
    /// One of `of` consumers that read the topic together. `begin` names its partitions and the
    /// offsets to begin at, if they are known.
    pub fn open(
        settings: &KafkaSettings,
        of: usize,
        begin: BTreeMap<Partition, Option<Offset>>,
        asking: Asking,
    ) -> Result<Consumer, ReadError> {
        Ok(Consumer {
            fetcher: Fetcher::open(settings, of, &begin)?,
            next: begin
                .into_iter()
                .filter_map(|(p, at)| Some((p, at?)))
                .collect(),
            asking,
            asked: Instant::now(),
            buffer: Vec::new(),
        })
    }

    /// Takes up to `most` messages, waiting for the first. A message that is not a record moves
    /// `next` or is an error.
    fn take(
        &mut self,
        most: usize,
        patience: Duration,
        into: &mut Vec<Logged>,
    ) -> Result<usize, ReadError> {
        // librdkafka would wait the whole patience for that many.
        let most = if patience.is_zero() { most } else { 1 };
        self.fetcher.take(patience, &mut self.buffer, most);
        let came = self.buffer.len();
        let outcome = self.sort_out();
        if outcome.is_ok() {
            // Safety: not yet destroyed.
            unsafe { message::copy(&self.buffer, into) };
        }
        for message in self.buffer.drain(..) {
            // Safety: handed out above, and destroyed once.
            unsafe { rdk::rd_kafka_message_destroy(message) };
        }
        outcome.map(|()| came)
    }

    /// Moves `next` past all messages; an error if this reader must be replaced.
    fn sort_out(&mut self) -> Result<(), ReadError> {
        for message in &self.buffer {
            // Safety: not yet destroyed.
            let message = unsafe { &**message };
            let partition = Partition(message.partition as u32);
            match message.err {
                RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR => {
                    self.next
                        .insert(partition, Offset(message.offset as u64).next());
                }
                // Everything before this offset was delivered or is not a record.
                RDKafkaRespErr::RD_KAFKA_RESP_ERR__PARTITION_EOF => {
                    self.next
                        .raise(partition, Offset(message.offset.max(0) as u64));
                }
                RDKafkaRespErr::RD_KAFKA_RESP_ERR__ALL_BROKERS_DOWN
                | RDKafkaRespErr::RD_KAFKA_RESP_ERR__TRANSPORT
                | RDKafkaRespErr::RD_KAFKA_RESP_ERR__TIMED_OUT => {
                    // librdkafka retries; `checks` finds out whether the cluster is there.
                    tracing::debug!(%partition, "no connection");
                }
                other => {
                    let error = KafkaError::MessageConsumption(RDKafkaErrorCode::from(other));
                    return Err(unavailable(&format!("partition {partition}: {error}")));
                }
            }
        }
        Ok(())
    }
}

impl Reader for Consumer {
    fn read(&mut self, limits: &Limits, into: &mut Vec<Logged>) -> Result<(), ReadError> {
        self.fetcher.serve(Duration::ZERO)?;
        let begin = into.len();
        let (mut bytes, mut counted) = (0, begin);
        if self.take(1, limits.patience, into)? == 0 {
            if self.asked.elapsed() >= ASK_EVERY {
                self.asked = Instant::now();
                self.asking.ask(None).wait()?;
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
            // As many as fit if their size stays the same.
            let fit = (limits.bytes - bytes).saturating_mul(came) / bytes.max(1) + 1;
            if self.take(left.min(fit).min(AT_ONCE), Duration::ZERO, into)? == 0 {
                return Ok(());
            }
        }
    }

    fn confirm(&mut self) -> Confirmation {
        let Some(uncertain) = self.fetcher.uncertain() else {
            return Confirmation::given();
        };
        self.asked = Instant::now();
        self.asking.ask(Some(uncertain))
    }

    fn next(&self) -> NextOffsets {
        self.next.clone()
    }
}
