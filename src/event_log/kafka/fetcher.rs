//! The client that records are fetched by, and how certain it is which topic they are of.
//!
//! Since Kafka 3.1 records are asked for by the topic's id, and librdkafka takes the id of a
//! name from answers about metadata alone. So as long as none has come since the topic was
//! confirmed, all that is fetched is of it, and nobody has to be asked about each cut.
//! Publishers use it as well: where a partition that is fetched grows over the offset that
//! they were given, their records are in it.

use super::KafkaSettings;
use super::client::{self, Context, KafkaEvent, Role, failed, unavailable};
use crate::event_log::ReadError;
use crate::wire::position::{LastOffsets, Offset, Partition, Position};
use rdkafka::bindings as rdk;
use rdkafka::client::{Client, ClientContext as _};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::types::{RDKafkaMessage, RDKafkaRespErr, RDKafkaType};
use rdkafka::{Offset as KafkaOffset, TopicPartitionList};
use std::collections::BTreeMap;
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::ptr;
use std::sync::atomic::{AtomicI16, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};
use tokio::sync::Notify;

/// Behind an answer about metadata, so long each cut is confirmed by itself: a broker that
/// lags behind the one that answered may still confirm what is no longer so.
const SETTLES_WITHIN: Duration = Duration::from_millis(250);
/// A partition that grew while a publish took longer than this may have been made anew and
/// filled as far meanwhile.
const GROWS_WITHIN: Duration = Duration::from_millis(100);
/// For the fetch that has what was published; beyond, the cluster is asked instead.
const PATIENCE: Duration = Duration::from_millis(5);
/// Once it took longer, fetching pauses: so long nobody waits for it.
const PAUSES_FOR: Duration = Duration::from_millis(20);
/// Of more partitions the ends are not looked up for each publish.
const PARTITIONS: usize = 64;

const FETCH: i16 = 1;
const METADATA: i16 = 3;
/// The first version of a fetch that names topics by their ids.
const BY_ID: i16 = 13;

pub struct Fetcher {
    // Fields are dropped in this order: queues before their client, and last what the
    // client's threads write to.
    records: KafkaQueue,
    events: KafkaQueue,
    client: Client<Context>,
    topic: CString,
    partitions: usize,
    heard: Arc<FetcherReports>,
}

/// What the client's threads tell.
struct FetcherReports {
    /// Rises with each answer about metadata, and before it is looked at.
    answers: AtomicU64,
    /// When the last one came, and until when no publisher waits for a fetch: in milliseconds
    /// from `begun`.
    at: AtomicU64,
    pauses_until: AtomicU64,
    begun: Instant,
    /// Where `answers` stood when the topic was confirmed.
    confirmed: AtomicU64,
    /// The lowest version of a fetch so far; 0 before the first. Older brokers want the topic's
    /// name.
    version: AtomicI16,
    /// More is asked for, so what came before has been sorted in.
    asks_for_more: Notify,
}

/// How certain it is that what was fetched until now is of the topic that was confirmed.
pub enum Certainty {
    Certain,
    /// It is again, once this is told that the topic was confirmed.
    Behind(MetadataAge),
    /// What is confirmed now says nothing of later.
    Open,
}

/// The answers that had come when somebody asked which topic it is.
pub struct MetadataAge {
    heard: Arc<FetcherReports>,
    answers: u64,
}

impl MetadataAge {
    /// By an answer to that question.
    pub fn confirm(&self) {
        self.heard
            .confirmed
            .fetch_max(self.answers, Ordering::SeqCst);
    }
}

impl FetcherReports {
    fn new() -> FetcherReports {
        FetcherReports {
            answers: AtomicU64::new(1),
            at: AtomicU64::new(0),
            pauses_until: AtomicU64::new(0),
            begun: Instant::now(),
            confirmed: AtomicU64::new(0),
            version: AtomicI16::new(0),
            asks_for_more: Notify::new(),
        }
    }

    /// In milliseconds.
    fn now(&self) -> u64 {
        self.begun.elapsed().as_millis() as u64
    }

    fn is_certain(self: &Arc<FetcherReports>) -> bool {
        matches!(self.certainty(), Certainty::Certain)
    }

    fn certainty(self: &Arc<FetcherReports>) -> Certainty {
        self.certainty_at(self.begun.elapsed())
    }

    /// `now` counts from `begun`.
    fn certainty_at(self: &Arc<FetcherReports>, now: Duration) -> Certainty {
        let answers = self.answers.load(Ordering::SeqCst);
        let at = Duration::from_millis(self.at.load(Ordering::SeqCst));
        if self.version.load(Ordering::SeqCst) < BY_ID {
            Certainty::Open
        } else if self.confirmed.load(Ordering::SeqCst) == answers {
            Certainty::Certain
        } else if now < at + SETTLES_WITHIN {
            Certainty::Open
        } else {
            let heard = self.clone();
            Certainty::Behind(MetadataAge { heard, answers })
        }
    }

    /// Behind a fetch's answer, which is sorted in by the same thread before it asks for more.
    fn note_request(&self, kind: i16, version: i16) {
        if kind == FETCH {
            let lowest = |before| (before == 0 || version < before).then_some(version);
            let _ = self
                .version
                .fetch_update(Ordering::SeqCst, Ordering::SeqCst, lowest);
            self.asks_for_more.notify_waiters();
        }
    }

    /// Before the answer is looked at.
    fn note_answer(&self, kind: i16) {
        if kind == METADATA {
            self.at.fetch_max(self.now(), Ordering::SeqCst);
            self.answers.fetch_add(1, Ordering::SeqCst);
        }
    }
}

struct KafkaQueue(*mut rdk::rd_kafka_queue_t);

// Safety: librdkafka's queues belong to no thread.
unsafe impl Send for KafkaQueue {}
unsafe impl Sync for KafkaQueue {}

impl Drop for KafkaQueue {
    fn drop(&mut self) {
        // Safety: it is ours, and destroyed once.
        unsafe { rdk::rd_kafka_queue_destroy(self.0) };
    }
}

impl Fetcher {
    /// `begin` names every partition and the offset to begin at, if it is known.
    pub fn open(
        settings: &KafkaSettings,
        begin: &BTreeMap<Partition, Option<Offset>>,
    ) -> Result<Fetcher, ReadError> {
        let role = Role::Consumer;
        let config = client::config(settings, role);
        let native = config.create_native_config().map_err(failed)?;
        let topic = CString::new(settings.topic.as_str());
        let topic = topic.map_err(|_| unavailable("no topic has a NUL in its name"))?;
        let heard = Arc::new(FetcherReports::new());
        let told = Arc::as_ptr(&heard).cast_mut().cast::<c_void>();
        let wanted = rdk::RD_KAFKA_EVENT_STATS | rdk::RD_KAFKA_EVENT_ERROR;
        // Safety: the configuration lives, and `heard` lives longer than the client.
        unsafe {
            rdk::rd_kafka_conf_set_events(native.ptr(), wanted);
            rdk::rd_kafka_conf_interceptor_add_on_new(native.ptr(), NAME, Some(on_new), told);
        }
        let kind = RDKafkaType::RD_KAFKA_CONSUMER;
        let client = Client::new(&config, native, kind, Context::new(role)).map_err(failed)?;
        let rk = client.native_ptr();
        // Safety: the client lives.
        let (records, events) = unsafe {
            rdk::rd_kafka_poll_set_consumer(rk);
            let events = KafkaQueue(rdk::rd_kafka_queue_get_consumer(rk));
            (KafkaQueue(rdk::rd_kafka_queue_new(rk)), events)
        };
        let fetcher = Fetcher {
            records,
            events,
            client,
            topic,
            partitions: begin.len(),
            heard,
        };
        fetcher.assign(&settings.topic, begin)?;
        Ok(fetcher)
    }

    fn assign(
        &self,
        topic: &str,
        begin: &BTreeMap<Partition, Option<Offset>>,
    ) -> Result<(), ReadError> {
        let rk = self.client.native_ptr();
        let mut assigned = TopicPartitionList::with_capacity(begin.len());
        for (&partition, offset) in begin {
            let number = partition.0 as i32;
            // Safety: the client lives; the partition's queue is given back at once.
            unsafe {
                let own = rdk::rd_kafka_queue_get_partition(rk, self.topic.as_ptr(), number);
                if own.is_null() {
                    return Err(unavailable("a partition has no queue"));
                }
                rdk::rd_kafka_queue_forward(own, self.records.0);
                rdk::rd_kafka_queue_destroy(own);
            }
            let offset = offset.map_or(KafkaOffset::Beginning, |at| {
                KafkaOffset::Offset(at.0 as i64)
            });
            let added = assigned.add_partition_offset(topic, number, offset);
            added.map_err(failed)?;
        }
        // Safety: the list lives until it was copied.
        match unsafe { rdk::rd_kafka_assign(rk, assigned.ptr()) } {
            RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR => Ok(()),
            error => Err(unavailable(&RDKafkaErrorCode::from(error).to_string())),
        }
    }

    /// Fetches no more.
    pub fn unassign(&self) {
        // Safety: the client lives.
        unsafe { rdk::rd_kafka_assign(self.client.native_ptr(), ptr::null()) };
    }

    /// Takes out up to `most` messages, and waits for that many while the patience lasts.
    pub fn take(&self, patience: Duration, buffer: &mut Vec<*mut RDKafkaMessage>, most: usize) {
        buffer.clear();
        buffer.reserve(most);
        // Safety: the buffer has room for that many.
        unsafe {
            let came = rdk::rd_kafka_consume_batch_queue(
                self.records.0,
                patience.as_millis() as i32,
                buffer.as_mut_ptr(),
                most,
            );
            buffer.set_len(came.max(0) as usize);
        }
    }

    /// Logs, statistics and errors that concern no partition: one of them, if one is there.
    pub fn serve(&self, patience: Duration) -> Result<(), ReadError> {
        // Safety: an event is ours, and what is read of it lives as long.
        unsafe {
            let event = rdk::rd_kafka_queue_poll(self.events.0, patience.as_millis() as i32);
            if event.is_null() {
                return Ok(());
            }
            let event = KafkaEvent(event);
            let context = self.client.context();
            match rdk::rd_kafka_event_type(event.0) {
                rdk::RD_KAFKA_EVENT_LOG => {
                    let (mut facility, mut message, mut level) = (ptr::null(), ptr::null(), 0);
                    rdk::rd_kafka_event_log(event.0, &mut facility, &mut message, &mut level);
                    let [facility, message] =
                        [facility, message].map(|at| CStr::from_ptr(at).to_string_lossy());
                    context.log(client::level(level), facility.trim(), message.trim());
                }
                rdk::RD_KAFKA_EVENT_STATS => {
                    let text = CStr::from_ptr(rdk::rd_kafka_event_stats(event.0));
                    context.stats_raw(text.to_bytes());
                }
                rdk::RD_KAFKA_EVENT_ERROR => {
                    let code = RDKafkaErrorCode::from(rdk::rd_kafka_event_error(event.0));
                    let reason = CStr::from_ptr(rdk::rd_kafka_event_error_string(event.0));
                    context.error(KafkaError::Global(code), reason.to_string_lossy().trim());
                    if let RDKafkaErrorCode::Fatal
                    | RDKafkaErrorCode::TopicAuthorizationFailed
                    | RDKafkaErrorCode::UnknownTopicOrPartition
                    | RDKafkaErrorCode::UnknownPartition = code
                    {
                        return Err(unavailable(&code.to_string()));
                    }
                }
                // Nothing else is asked for.
                _ => {}
            }
        }
        Ok(())
    }

    /// Asked behind what was taken out: an answer that came later changed nothing of it.
    pub fn certainty(&self) -> Certainty {
        self.heard.certainty()
    }

    /// Where the partition ended when it was fetched from last; `None` before.
    fn end(&self, partition: Partition) -> Option<Offset> {
        let (mut first, mut end) = (0, -1);
        // Safety: the client and the name live. Of a partition that is not known nothing
        // is written.
        unsafe {
            rdk::rd_kafka_get_watermark_offsets(
                self.client.native_ptr(),
                self.topic.as_ptr(),
                partition.0 as i32,
                &mut first,
                &mut end,
            );
        }
        end.try_into().ok().map(Offset)
    }
}

impl Drop for Fetcher {
    fn drop(&mut self) {
        let rk = self.client.native_ptr();
        // Closing would wait for messages that nobody takes any more.
        self.unassign();
        unsafe {
            let error = rdk::rd_kafka_consumer_close_queue(rk, self.events.0);
            let closing = error.is_null();
            rdk::rd_kafka_error_destroy(error);
            // What it logs meanwhile would go to standard error by itself.
            while closing && rdk::rd_kafka_consumer_closed(rk) == 0 {
                let _ = self.serve(Duration::from_millis(100));
            }
        }
    }
}

/// How far the partitions reached when somebody began to publish.
pub struct PartitionEnds {
    /// A publish that waits for long does not keep it.
    fetcher: Weak<Fetcher>,
    heard: Arc<FetcherReports>,
    begun: Instant,
    ends: Vec<Option<Offset>>,
}

impl PartitionEnds {
    /// `None` where it is no use to know them.
    pub fn of(fetcher: Arc<Fetcher>) -> Option<PartitionEnds> {
        let is_used = fetcher.heard.is_certain() && fetcher.partitions <= PARTITIONS;
        let all = Partition::all().take(fetcher.partitions);
        is_used.then(|| PartitionEnds {
            fetcher: Arc::downgrade(&fetcher),
            heard: fetcher.heard.clone(),
            begun: Instant::now(),
            ends: all.map(|partition| fetcher.end(partition)).collect(),
        })
    }

    /// Did they grow by these records, which were acknowledged just now?
    pub async fn grew_by(&self, records: &[Position]) -> bool {
        let heard = &self.heard;
        let mut last = LastOffsets::default();
        for at in records {
            let before = self.ends.get(at.partition.index()).copied().flatten();
            // What was there before is another topic's, or nothing is known of it.
            if before.is_none_or(|end| at.offset < end) {
                return false;
            }
            last.raise(at.partition, at.offset);
        }
        let pauses = heard.now() < heard.pauses_until.load(Ordering::Relaxed);
        if self.begun.elapsed() > GROWS_WITHIN || pauses || !heard.is_certain() {
            return false;
        }
        let are_behind = || {
            let fetcher = self.fetcher.upgrade()?;
            let mut last = last.iter();
            Some(last.all(|(partition, last)| fetcher.end(*partition) > Some(*last)))
        };
        let grown = async {
            loop {
                let more = heard.asks_for_more.notified();
                match are_behind() {
                    Some(false) => more.await,
                    known => return known.is_some(),
                }
            }
        };
        match tokio::time::timeout(PATIENCE, grown).await {
            // Behind the look: what was heard meanwhile may have changed what was looked at.
            Ok(grown) => grown && heard.is_certain(),
            Err(_) => {
                let until = heard.now() + PAUSES_FOR.as_millis() as u64;
                heard.pauses_until.store(until, Ordering::Relaxed);
                false
            }
        }
    }
}

const NAME: *const c_char = c"opledger".as_ptr();
const DONE: rdk::rd_kafka_resp_err_t = rdk::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR;

unsafe extern "C" fn on_new(
    rk: *mut rdk::rd_kafka_t,
    _: *const rdk::rd_kafka_conf_t,
    heard: *mut c_void,
    _: *mut c_char,
    _: usize,
) -> rdk::rd_kafka_resp_err_t {
    // Before the client has threads. Unless fetches are heard of, nothing is ever certain; and
    // they are only if answers are as well.
    unsafe {
        match rdk::rd_kafka_interceptor_add_on_response_received(rk, NAME, Some(on_response), heard)
        {
            DONE => {
                rdk::rd_kafka_interceptor_add_on_request_sent(rk, NAME, Some(on_request), heard)
            }
            error => error,
        }
    }
}

unsafe extern "C" fn on_request(
    _: *mut rdk::rd_kafka_t,
    _: c_int,
    _: *const c_char,
    _: i32,
    kind: i16,
    version: i16,
    _: i32,
    _: usize,
    heard: *mut c_void,
) -> rdk::rd_kafka_resp_err_t {
    // Safety: it lives longer than the client.
    unsafe { &*heard.cast::<FetcherReports>() }.note_request(kind, version);
    DONE
}

unsafe extern "C" fn on_response(
    _: *mut rdk::rd_kafka_t,
    _: c_int,
    _: *const c_char,
    _: i32,
    kind: i16,
    _: i16,
    _: i32,
    _: usize,
    _: i64,
    _: rdk::rd_kafka_resp_err_t,
    heard: *mut c_void,
) -> rdk::rd_kafka_resp_err_t {
    // Safety: it lives longer than the client.
    unsafe { &*heard.cast::<FetcherReports>() }.note_answer(kind);
    DONE
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Once the last answer has settled.
    fn later(heard: &Arc<FetcherReports>) -> Certainty {
        let at = Duration::from_millis(heard.at.load(Ordering::SeqCst));
        heard.certainty_at(at + SETTLES_WITHIN)
    }

    fn behind(heard: &Arc<FetcherReports>) -> MetadataAge {
        match later(heard) {
            Certainty::Behind(behind) => behind,
            Certainty::Certain => panic!("nobody has confirmed it"),
            Certainty::Open => panic!("a confirmation would count"),
        }
    }

    fn by_id() -> Arc<FetcherReports> {
        let heard = Arc::new(FetcherReports::new());
        heard.note_request(FETCH, BY_ID);
        heard
    }

    #[test]
    fn fetches_are_certain_only_after_a_confirmation() {
        let heard = by_id();
        let asked = behind(&heard);
        assert!(!heard.is_certain(), "the answer is still to come");
        asked.confirm();
        assert!(heard.is_certain());
        // Neither a fetch nor its answer changes which topic is fetched.
        heard.note_request(FETCH, BY_ID);
        heard.note_answer(FETCH);
        assert!(heard.is_certain());
    }

    /// Between two fetches the client may have learnt that the topic is another one.
    #[test]
    fn after_a_metadata_response_fetches_need_a_new_confirmation() {
        let heard = by_id();
        behind(&heard).confirm();
        heard.note_answer(METADATA);
        let now = Duration::from_millis(heard.at.load(Ordering::SeqCst));
        for early in [now, now + SETTLES_WITHIN - Duration::from_millis(1)] {
            // A confirmation now may come from a broker that lags behind.
            assert!(matches!(heard.certainty_at(early), Certainty::Open));
        }
        let asked = behind(&heard);
        // What was asked before the next answer says nothing of what came with it.
        heard.note_answer(METADATA);
        asked.confirm();
        assert!(!heard.is_certain());
        let again = behind(&heard);
        // Nor does a late answer to an early question undo a later one.
        again.confirm();
        asked.confirm();
        assert!(heard.is_certain());
    }

    #[test]
    fn fetches_by_topic_name_are_never_certain() {
        let heard = Arc::new(FetcherReports::new());
        assert!(
            matches!(later(&heard), Certainty::Open),
            "before the first fetch"
        );
        heard.note_request(FETCH, BY_ID);
        behind(&heard).confirm();
        assert!(heard.is_certain());
        // One of several brokers is older.
        heard.note_request(FETCH, BY_ID - 1);
        assert!(matches!(later(&heard), Certainty::Open));
        heard.note_request(FETCH, BY_ID);
        assert!(
            matches!(later(&heard), Certainty::Open),
            "that one is still there"
        );
    }
}
