//! The client that fetches records, and whether it is certain which topic they are of.
//!
//! Since Kafka 3.1 a fetch names the topic by its id, and librdkafka learns the id of a name from
//! metadata responses only. So if none has arrived since the topic's id was confirmed, everything
//! fetched is of that topic, and the cluster need not be asked about each batch.

use super::KafkaSettings;
use super::client::{self, Context, Role, failed, unavailable};
use crate::event_log::ReadError;
use crate::wire::position::{Offset, Partition};
use rdkafka::bindings as rdk;
use rdkafka::client::{Client, ClientContext as _};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::types::{RDKafkaMessage, RDKafkaRespErr, RDKafkaType};
use rdkafka::{Offset as KafkaOffset, TopicPartitionList};
use std::collections::BTreeMap;
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::{AtomicI16, AtomicU64, Ordering::SeqCst};
use std::time::{Duration, Instant};

/// For this long after a metadata response, each batch is confirmed by a request: a broker that
/// lags the one that responded may still confirm the old id.
const SETTLES_WITHIN: Duration = Duration::from_millis(250);

const FETCH: i16 = 1;
const METADATA: i16 = 3;
/// The first version of a fetch request that names topics by their ids.
const BY_ID: i16 = 13;

pub struct Fetcher {
    // Fields are dropped in this order: queues before their client, and last the data that the
    // client's threads write to.
    records: KafkaQueue,
    events: KafkaQueue,
    client: Client<Context>,
    knowledge: Arc<Knowledge>,
}

/// The client's knowledge of the topic. Its threads update this through interceptors.
struct Knowledge {
    begun: Instant,
    /// The number of metadata responses, increased before librdkafka handles one.
    responses: AtomicU64,
    /// When the last one arrived, in milliseconds since `begun`.
    responded_at: AtomicU64,
    /// The number of responses at the last confirmation.
    confirmed: AtomicU64,
    /// The lowest version of a fetch request; 0 before the first.
    version: AtomicI16,
}

/// The client is not certain. If a request that is sent now confirms the topic's id, it can become
/// certain.
pub struct Uncertain {
    knowledge: Arc<Knowledge>,
    /// `None` if a confirmation says nothing about later fetches.
    responses: Option<u64>,
}

impl Uncertain {
    /// The topic's id was confirmed.
    pub fn confirm(&self) {
        if let Some(responses) = self.responses {
            self.knowledge.confirmed.fetch_max(responses, SeqCst);
        }
    }
}

impl Knowledge {
    fn new() -> Knowledge {
        Knowledge {
            begun: Instant::now(),
            responses: AtomicU64::new(1),
            responded_at: AtomicU64::new(0),
            confirmed: AtomicU64::new(0),
            version: AtomicI16::new(0),
        }
    }

    /// `None`: everything fetched until now is of the confirmed topic. `now` counts from `begun`.
    fn uncertain(self: &Arc<Knowledge>, now: Duration) -> Option<Uncertain> {
        let responses = self.responses.load(SeqCst);
        let is_by_id = self.version.load(SeqCst) >= BY_ID;
        if is_by_id && self.confirmed.load(SeqCst) == responses {
            return None;
        }
        let responded_at = Duration::from_millis(self.responded_at.load(SeqCst));
        let is_settled = now >= responded_at + SETTLES_WITHIN;
        Some(Uncertain {
            knowledge: self.clone(),
            responses: (is_by_id && is_settled).then_some(responses),
        })
    }

    fn note_request(&self, kind: i16, version: i16) {
        if kind == FETCH {
            let lowest = |before| (before == 0 || version < before).then_some(version);
            let _ = self.version.fetch_update(SeqCst, SeqCst, lowest);
        }
    }

    /// Called before librdkafka handles the response.
    fn note_response(&self, kind: i16) {
        if kind == METADATA {
            let now = self.begun.elapsed().as_millis() as u64;
            self.responded_at.fetch_max(now, SeqCst);
            self.responses.fetch_add(1, SeqCst);
        }
    }
}

struct KafkaQueue(*mut rdk::rd_kafka_queue_t);

// Safety: librdkafka's queues belong to no thread.
unsafe impl Send for KafkaQueue {}

impl Drop for KafkaQueue {
    fn drop(&mut self) {
        // Safety: it is ours, and destroyed once.
        unsafe { rdk::rd_kafka_queue_destroy(self.0) };
    }
}

impl Fetcher {
    /// One of `of` clients that read the topic together. `begin` names its partitions and the
    /// offsets to begin at, if they are known.
    ///
    /// Uses librdkafka's functions, because the binding cannot add interceptors to a consumer.
    pub fn open(
        settings: &KafkaSettings,
        of: usize,
        begin: &BTreeMap<Partition, Option<Offset>>,
    ) -> Result<Fetcher, ReadError> {
        let role = Role::Consumer { of };
        let config = client::config(settings, role);
        let native = config.create_native_config().map_err(failed)?;
        let knowledge = Arc::new(Knowledge::new());
        let opaque = Arc::as_ptr(&knowledge).cast_mut().cast::<c_void>();
        // Safety: the configuration lives, and `knowledge` lives longer than the client.
        unsafe {
            let wanted = rdk::RD_KAFKA_EVENT_STATS | rdk::RD_KAFKA_EVENT_ERROR;
            rdk::rd_kafka_conf_set_events(native.ptr(), wanted);
            rdk::rd_kafka_conf_interceptor_add_on_new(native.ptr(), NAME, Some(on_new), opaque);
        }
        let kind = RDKafkaType::RD_KAFKA_CONSUMER;
        let context = Context::new(role);
        let client = Client::new(&config, native, kind, context).map_err(failed)?;
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
            knowledge,
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
        let name = CString::new(topic);
        let name = name.map_err(|_| unavailable("no topic has a NUL in its name"))?;
        let mut assigned = TopicPartitionList::with_capacity(begin.len());
        for (partition, offset) in begin {
            let number = partition.0 as i32;
            // Safety: the client lives; the partition's queue is given back at once.
            unsafe {
                let own = rdk::rd_kafka_queue_get_partition(rk, name.as_ptr(), number);
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
        // Safety: librdkafka copies the list.
        match unsafe { rdk::rd_kafka_assign(rk, assigned.ptr()) } {
            RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR => Ok(()),
            error => Err(unavailable(&RDKafkaErrorCode::from(error).to_string())),
        }
    }

    /// Takes up to `most` messages, and waits for that many until the patience is over. The
    /// caller destroys them.
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

    /// Handles one event if there is one: a log line, statistics, or an error that concerns no
    /// partition.
    pub fn serve(&self, patience: Duration) -> Result<(), ReadError> {
        // Safety: the event is ours, and lives as long as the data that is read from it.
        unsafe {
            let event = rdk::rd_kafka_queue_poll(self.events.0, patience.as_millis() as i32);
            if event.is_null() {
                return Ok(());
            }
            let event = client::KafkaEvent(event);
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
                // No others are enabled.
                _ => {}
            }
        }
        Ok(())
    }

    /// `None`: everything taken until now is of the confirmed topic. A metadata response that
    /// arrives later changes nothing about it.
    pub fn uncertain(&self) -> Option<Uncertain> {
        self.knowledge.uncertain(self.knowledge.begun.elapsed())
    }
}

impl Drop for Fetcher {
    fn drop(&mut self) {
        let rk = self.client.native_ptr();
        // Safety: the client lives.
        unsafe {
            // Closing would wait for messages that nobody takes any more.
            rdk::rd_kafka_assign(rk, ptr::null());
            let error = rdk::rd_kafka_consumer_close_queue(rk, self.events.0);
            let is_closing = error.is_null();
            rdk::rd_kafka_error_destroy(error);
            // Otherwise librdkafka would log to standard error.
            while is_closing && rdk::rd_kafka_consumer_closed(rk) == 0 {
                let _ = self.serve(Duration::from_millis(100));
            }
        }
    }
}

const NAME: *const c_char = c"opledger".as_ptr();
const DONE: rdk::rd_kafka_resp_err_t = rdk::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR;

/// Called before the client has threads. If this fails no request is noted, and the client is
/// never certain.
unsafe extern "C" fn on_new(
    rk: *mut rdk::rd_kafka_t,
    _: *const rdk::rd_kafka_conf_t,
    opaque: *mut c_void,
    _: *mut c_char,
    _: usize,
) -> rdk::rd_kafka_resp_err_t {
    let on_response = Some(on_response as _);
    unsafe {
        match rdk::rd_kafka_interceptor_add_on_response_received(rk, NAME, on_response, opaque) {
            DONE => {
                rdk::rd_kafka_interceptor_add_on_request_sent(rk, NAME, Some(on_request), opaque)
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
    opaque: *mut c_void,
) -> rdk::rd_kafka_resp_err_t {
    // Safety: it lives longer than the client.
    unsafe { &*opaque.cast::<Knowledge>() }.note_request(kind, version);
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
    opaque: *mut c_void,
) -> rdk::rd_kafka_resp_err_t {
    // Safety: it lives longer than the client.
    unsafe { &*opaque.cast::<Knowledge>() }.note_response(kind);
    DONE
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The time when the last response arrived.
    fn responded_at(knowledge: &Knowledge) -> Duration {
        Duration::from_millis(knowledge.responded_at.load(SeqCst))
    }

    /// Once the last response has settled; a confirmation counts.
    fn settled(knowledge: &Arc<Knowledge>) -> Uncertain {
        let later = knowledge.uncertain(responded_at(knowledge) + SETTLES_WITHIN);
        let uncertain = later.expect("nobody has confirmed it");
        assert!(uncertain.responses.is_some(), "a confirmation counts");
        uncertain
    }

    fn is_certain(knowledge: &Arc<Knowledge>) -> bool {
        knowledge.uncertain(responded_at(knowledge)).is_none()
    }

    fn by_id() -> Arc<Knowledge> {
        let knowledge = Arc::new(Knowledge::new());
        knowledge.note_request(FETCH, BY_ID);
        knowledge
    }

    #[test]
    fn fetches_are_certain_only_after_a_confirmation() {
        let knowledge = by_id();
        let asked = settled(&knowledge);
        assert!(!is_certain(&knowledge), "there is no response yet");
        asked.confirm();
        assert!(is_certain(&knowledge));
        // Neither a fetch nor its response changes which topic is fetched.
        knowledge.note_request(FETCH, BY_ID);
        knowledge.note_response(FETCH);
        assert!(is_certain(&knowledge));
    }

    /// Between two fetches the client may have learnt that the topic is another one.
    #[test]
    fn after_a_metadata_response_fetches_need_a_new_confirmation() {
        let knowledge = by_id();
        settled(&knowledge).confirm();
        knowledge.note_response(METADATA);
        let now = responded_at(&knowledge);
        for early in [now, now + SETTLES_WITHIN - Duration::from_millis(1)] {
            // A confirmation may come from a broker that lags.
            knowledge.uncertain(early).expect("uncertain").confirm();
            assert!(!is_certain(&knowledge));
        }
        let asked = settled(&knowledge);
        // A question from before the next response says nothing about its content.
        knowledge.note_response(METADATA);
        asked.confirm();
        assert!(!is_certain(&knowledge));
        let again = settled(&knowledge);
        // Nor does a late response to an early request undo a later one.
        again.confirm();
        asked.confirm();
        assert!(is_certain(&knowledge));
    }

    #[test]
    fn fetches_by_topic_name_are_never_certain() {
        let knowledge = Arc::new(Knowledge::new());
        let later = |knowledge: &Arc<Knowledge>| {
            let later = responded_at(knowledge) + SETTLES_WITHIN;
            let uncertain = knowledge.uncertain(later).expect("uncertain");
            uncertain.confirm();
            assert!(!is_certain(knowledge));
        };
        later(&knowledge);
        knowledge.note_request(FETCH, BY_ID);
        settled(&knowledge).confirm();
        assert!(is_certain(&knowledge));
        // One of several brokers is older.
        knowledge.note_request(FETCH, BY_ID - 1);
        later(&knowledge);
        knowledge.note_request(FETCH, BY_ID);
        later(&knowledge);
    }
}
