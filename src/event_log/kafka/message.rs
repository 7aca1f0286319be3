//! librdkafka's messages as records. Their bytes are copied once, all messages of
//! a call into one allocation, so that librdkafka's buffers are free at once.

use crate::domain::Timestamp;
use crate::event_log::Logged;
use crate::wire::cloudevent;
use crate::wire::position::Position;
use crate::wire::record_v1::{Headers, Record};
use bytes::Bytes;
use rdkafka::bindings as rdk;
use rdkafka::types::RDKafkaMessage;
use std::borrow::Cow;
use std::ffi::{CStr, c_char, c_void};
use std::ptr;

/// # Safety
/// All are messages without an error that librdkafka has handed out and that are
/// not yet destroyed.
pub unsafe fn take(messages: &[*mut RDKafkaMessage], into: &mut Vec<Logged>) {
    let parts = |message: &*mut RDKafkaMessage| unsafe {
        let message = &**message;
        let key = borrow(message.key, message.key_len);
        [key, borrow(message.payload, message.len)]
    };
    let all = || messages.iter().flat_map(parts).flatten();
    let mut arena = Vec::with_capacity(all().map(<[u8]>::len).sum());
    all().for_each(|part| arena.extend_from_slice(part));
    let mut rest = Bytes::from(arena);
    for message in messages {
        let mut own = |part: Option<&[u8]>| Some(rest.split_to(part?.len()));
        let [key, value] = parts(message).map(&mut own);
        into.push(unsafe { logged(*message, key, value) });
    }
}

unsafe fn borrow<'m>(bytes: *const c_void, len: usize) -> Option<&'m [u8]> {
    (!bytes.is_null()).then(|| unsafe { std::slice::from_raw_parts(bytes.cast::<u8>(), len) })
}

unsafe fn logged(message: *mut RDKafkaMessage, key: Option<Bytes>, value: Option<Bytes>) -> Logged {
    let fields = unsafe { &*message };
    let mut kind = rdk::rd_kafka_timestamp_type_t::RD_KAFKA_TIMESTAMP_NOT_AVAILABLE;
    let millis = unsafe { rdk::rd_kafka_message_timestamp(message, &mut kind) };
    let at = Position {
        partition: fields.partition as u32,
        offset: fields.offset as u64,
    };
    let record = Record {
        arrived: Timestamp::from_millis(millis.max(0)),
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
