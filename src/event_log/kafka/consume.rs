//! Reads all partitions through one queue, many messages a call. Where to begin
//! comes from the store; the consumer group has no say.

use super::KafkaSettings;
use super::checks::Asking;
use super::client::unavailable;
use super::fetcher::{Certainty, Fetcher};
use super::message::{self, KafkaMessage};
use crate::event_log::{Confirmation, Limits, Logged, ReadError, Reader};
use crate::wire::position::{NextOffsets, Offset, Partition};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::types::{RDKafkaMessage, RDKafkaRespErr};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Messages taken at once: between two calls the bytes are counted.
const AT_ONCE: usize = 1000;
/// While nothing comes, it is asked this often whether anything still can.
const ASK_EVERY: Duration = Duration::from_secs(2);

pub struct Consumer {
    fetcher: Arc<Fetcher>,
    next: NextOffsets,
    asking: Asking,
    asked: Instant,
    buffer: Vec<*mut RDKafkaMessage>,
}

// Safety: the buffer holds messages only during a call.
unsafe impl Send for Consumer {}

impl Consumer {
    /// `begin` names every partition and the offset to begin at, if it is known.
    pub fn open(
        settings: &KafkaSettings,
        begin: BTreeMap<Partition, Option<Offset>>,
        asking: Asking,
    ) -> Result<Consumer, ReadError> {
        Ok(Consumer {
            fetcher: Arc::new(Fetcher::open(settings, &begin)?),
            next: begin
                .into_iter()
                .filter_map(|(p, at)| Some((p, at?)))
                .collect(),
            asking,
            asked: Instant::now(),
            buffer: Vec::new(),
        })
    }

    pub fn fetcher(&self) -> &Arc<Fetcher> {
        &self.fetcher
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
        self.fetcher.take(patience, &mut self.buffer, most);
        let came = self.buffer.len();
        let outcome = self.sort_out();
        // Safety: they were handed out just now, and are destroyed by no one else.
        let messages = self.buffer.drain(..);
        let messages = messages.map(|message| unsafe { KafkaMessage::new(message) });
        match outcome {
            Ok(()) => message::take(
                messages.filter(KafkaMessage::is_record),
                &self.fetcher,
                into,
            ),
            Err(_) => messages.for_each(drop),
        }
        outcome.map(|()| came)
    }

    /// Moves `next` by all that came; says what makes going on pointless.
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
                // Everything before this offset was delivered, or is no record.
                RDKafkaRespErr::RD_KAFKA_RESP_ERR__PARTITION_EOF => {
                    self.next
                        .raise(partition, Offset(message.offset.max(0) as u64));
                }
                RDKafkaRespErr::RD_KAFKA_RESP_ERR__ALL_BROKERS_DOWN
                | RDKafkaRespErr::RD_KAFKA_RESP_ERR__TRANSPORT
                | RDKafkaRespErr::RD_KAFKA_RESP_ERR__TIMED_OUT => {
                    // It goes on trying; whether that has a point is asked elsewhere.
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
            // As many as fit if they go on as large as they were.
            let fit = (limits.bytes - bytes).saturating_mul(came) / bytes.max(1) + 1;
            if self.take(left.min(fit).min(AT_ONCE), Duration::ZERO, into)? == 0 {
                return Ok(());
            }
        }
    }

    fn confirm(&mut self) -> Confirmation {
        let behind = match self.fetcher.certainty() {
            Certainty::Certain => return Confirmation::given(),
            Certainty::Behind(behind) => Some(behind),
            Certainty::Open => None,
        };
        self.asked = Instant::now();
        self.asking.ask(behind)
    }

    fn next(&self) -> NextOffsets {
        self.next.clone()
    }
}

impl Drop for Consumer {
    /// Others may keep the client: it fetches for nobody.
    fn drop(&mut self) {
        self.fetcher.unassign();
    }
}
