//! librdkafka's messages as records. Their bytes are copied once, all messages of a call into
//! one allocation, so that librdkafka's buffers are free at once.

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
use std::ptr;

/// Appends the records among these messages.
///
/// # Safety
/// None of them is destroyed yet.
pub unsafe fn copy(messages: &[*mut RDKafkaMessage], into: &mut Vec<Logged>) {
    // Safety: see above.
    let records = || messages.iter().map(|message| unsafe { &**message });
    let records = || records().filter(|message| message.err == NO_ERROR);
    let parts = |message: &RDKafkaMessage| unsafe {
        [
            bytes(message.key, message.key_len),
            bytes(message.payload, message.len),
        ]
    };
    let all = || records().flat_map(parts).flatten();
    let mut copied = Vec::with_capacity(all().map(<[u8]>::len).sum());
    for part in all() {
        copied.extend_from_slice(part);
    }
    let mut rest = Bytes::from(copied);
    for message in records() {
        let [key, value] = parts(message).map(|part| Some(rest.split_to(part?.len())));
        into.push(unsafe { logged(message, key, value) });
    }
}

const NO_ERROR: RDKafkaRespErr = RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR;

unsafe fn bytes<'m>(bytes: *const c_void, len: usize) -> Option<&'m [u8]> {
    (!bytes.is_null()).then(|| unsafe { std::slice::from_raw_parts(bytes.cast::<u8>(), len) })
}

unsafe fn logged(message: &RDKafkaMessage, key: Option<Bytes>, value: Option<Bytes>) -> Logged {
    let mut kind = rdk::rd_kafka_timestamp_type_t::RD_KAFKA_TIMESTAMP_NOT_AVAILABLE;
    let millis = unsafe { rdk::rd_kafka_message_timestamp(message, &mut kind) };
    let at = Position {
        partition: Partition(message.partition as u32),
        offset: Offset(message.offset as u64),
    };
    let record = Record {
        // -1 means that there is none; the producer may have sent that, or another.
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

unsafe fn headers(message: &RDKafkaMessage) -> Headers {
    let mut headers = ptr::null_mut();
    if unsafe { rdk::rd_kafka_message_headers(message, &mut headers) } != NO_ERROR {
        return Headers::default();
    }
    let count = unsafe { rdk::rd_kafka_header_cnt(headers) };
    let all = (0..count).filter_map(|index| {
        let (mut name, mut value, mut len) = (ptr::null::<c_char>(), ptr::null(), 0);
        let found = unsafe {
            rdk::rd_kafka_header_get_all(headers, index, &mut name, &mut value, &mut len)
        };
        if found != NO_ERROR {
            return None;
        }
        let (name, value) = unsafe { (CStr::from_ptr(name), bytes(value, len)) };
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

/// Nor does the value that every record has.
fn shared(value: &[u8]) -> Bytes {
    if value == cloudevent::STRUCTURED.as_bytes() {
        return Bytes::from_static(cloudevent::STRUCTURED.as_bytes());
    }
    Bytes::copy_from_slice(value)
}
