//! librdkafka's messages as records. Their bytes are copied once, all messages of
//! a call into one allocation, so that librdkafka's buffers are free at once. A large
//! one is not copied, but kept until its record is dropped.

use super::fetcher::Fetcher;
use crate::domain::Timestamp;
use crate::event_log::Logged;
use crate::wire::cloudevent;
use crate::wire::position::{Offset, Partition, Position};
use crate::wire::record::{Headers, Record};
use bytes::Bytes;
use rdkafka::bindings as rdk;
use rdkafka::types::{RDKafkaMessage, RDKafkaRespErr};
use std::borrow::Cow;
use std::ffi::{CStr, c_char, c_void};
use std::mem::ManuallyDrop;
use std::ptr;
use std::sync::Arc;

/// From so many bytes on a message is kept. Smaller ones would each keep a buffer alive
/// that they are a small part of.
const LARGE: usize = 4 << 10;

/// One that librdkafka has handed out, destroyed when it is dropped.
pub struct KafkaMessage(*mut RDKafkaMessage);

// Safety: librdkafka's messages belong to no thread.
unsafe impl Send for KafkaMessage {}

impl KafkaMessage {
    /// # Safety
    /// It was handed out, and is destroyed nowhere else.
    pub unsafe fn new(message: *mut RDKafkaMessage) -> KafkaMessage {
        KafkaMessage(message)
    }

    pub fn is_record(&self) -> bool {
        self.fields().err == RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR
    }

    fn fields(&self) -> &RDKafkaMessage {
        // Safety: it is not yet destroyed.
        unsafe { &*self.0 }
    }

    fn key(&self) -> Option<&[u8]> {
        unsafe { borrow(self.fields().key, self.fields().key_len) }
    }

    fn value(&self) -> Option<&[u8]> {
        unsafe { borrow(self.fields().payload, self.fields().len) }
    }

    fn small_value(&self) -> Option<&[u8]> {
        self.value().filter(|_| !self.is_large())
    }

    fn is_large(&self) -> bool {
        self.fields().len >= LARGE
    }
}

impl Drop for KafkaMessage {
    fn drop(&mut self) {
        unsafe { rdk::rd_kafka_message_destroy(self.0) };
    }
}

/// A message whose bytes are in use. librdkafka wants all of them back before its client
/// goes, so that stays for as long.
struct MessageBytes {
    message: KafkaMessage,
    _client: Arc<Fetcher>,
}

impl AsRef<[u8]> for MessageBytes {
    fn as_ref(&self) -> &[u8] {
        self.message.value().unwrap_or_default()
    }
}

/// Of messages of this client, without an error.
pub fn take(
    messages: impl Iterator<Item = KafkaMessage>,
    client: &Arc<Fetcher>,
    into: &mut Vec<Logged>,
) {
    let messages: Vec<KafkaMessage> = messages.collect();
    let all = || messages.iter().flat_map(|m| [m.key(), m.small_value()]);
    let mut arena = Vec::with_capacity(all().flatten().map(<[u8]>::len).sum());
    for part in all().flatten() {
        arena.extend_from_slice(part);
    }
    let mut rest = Bytes::from(arena);
    for message in messages {
        let mut own = |part: Option<&[u8]>| Some(rest.split_to(part?.len()));
        let key = own(message.key());
        let value = own(message.small_value());
        let mut logged = unsafe { logged(message.0, key, value) };
        if message.is_large() {
            let _client = client.clone();
            logged.record.value = Some(Bytes::from_owner(MessageBytes { message, _client }));
        }
        into.push(logged);
    }
}

/// One that is destroyed by someone else.
///
/// # Safety
/// It is a message without an error that is not yet destroyed.
pub unsafe fn copied(message: *mut RDKafkaMessage) -> Logged {
    let message = ManuallyDrop::new(KafkaMessage(message));
    let own = |part: Option<&[u8]>| part.map(Bytes::copy_from_slice);
    unsafe { logged(message.0, own(message.key()), own(message.value())) }
}

unsafe fn borrow<'m>(bytes: *const c_void, len: usize) -> Option<&'m [u8]> {
    (!bytes.is_null()).then(|| unsafe { std::slice::from_raw_parts(bytes.cast::<u8>(), len) })
}

unsafe fn logged(message: *mut RDKafkaMessage, key: Option<Bytes>, value: Option<Bytes>) -> Logged {
    let fields = unsafe { &*message };
    let mut kind = rdk::rd_kafka_timestamp_type_t::RD_KAFKA_TIMESTAMP_NOT_AVAILABLE;
    let millis = unsafe { rdk::rd_kafka_message_timestamp(message, &mut kind) };
    let at = Position {
        partition: Partition(fields.partition as u32),
        offset: Offset(fields.offset as u64),
    };
    let record = Record {
        // -1 says that there is none; the producer may have said so, or sent another.
        arrived: match millis {
            0.. => Timestamp::from_millis(millis),
            _ => Record::NO_ARRIVAL,
        },
        claimed: kind != rdk::rd_kafka_timestamp_type_t::RD_KAFKA_TIMESTAMP_LOG_APPEND_TIME,
        key,
        headers: unsafe { headers(message) },
        value,
    };
    Logged { at, record }
}

unsafe fn headers(message: *const RDKafkaMessage) -> Headers {
    let mut headers = ptr::null_mut();
    let found = unsafe { rdk::rd_kafka_message_headers(message, &mut headers) };
    if found != rdk::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR {
        return Headers::default();
    }
    let count = unsafe { rdk::rd_kafka_header_cnt(headers) };
    let all = (0..count).filter_map(|index| {
        let (mut name, mut value, mut len) = (ptr::null::<c_char>(), ptr::null(), 0);
        let found = unsafe {
            rdk::rd_kafka_header_get_all(headers, index, &mut name, &mut value, &mut len)
        };
        if found != rdk::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR {
            return None;
        }
        let name = unsafe { CStr::from_ptr(name) };
        let value = (!value.is_null())
            .then(|| unsafe { std::slice::from_raw_parts(value.cast::<u8>(), len) });
        Some((known(name), value.map(shared)))
    });
    Headers(all.collect())
}

/// Names that every record has need no memory of their own.
fn known(name: &CStr) -> Cow<'static, str> {
    const KNOWN: [&str; 7] = [
        cloudevent::CONTENT_TYPE,
        "ce_specversion",
        "ce_id",
        "ce_source",
        "ce_type",
        "ce_subject",
        "ce_time",
    ];
    let bytes = name.to_bytes();
    match KNOWN.into_iter().find(|known| known.as_bytes() == bytes) {
        Some(known) => known.into(),
        None => name.to_string_lossy().into_owned().into(),
    }
}

/// Values that every record has neither.
fn shared(value: &[u8]) -> Bytes {
    if value == cloudevent::STRUCTURED.as_bytes() {
        return Bytes::from_static(cloudevent::STRUCTURED.as_bytes());
    }
    Bytes::copy_from_slice(value)
}
