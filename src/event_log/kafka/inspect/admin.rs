//! The admin calls that the binding lacks: the description of a topic, and offsets of partitions.

use super::super::client::{KafkaEvent, unavailable};
use super::{Inspector, PATIENCE, PATIENCE_WITH_ONE, Topic};
use crate::event_log::ReadError;
use crate::wire::position::{LogId, NextOffsets, Offset, Partition};
use rdkafka::TopicPartitionList;
use rdkafka::bindings as rdk;
use rdkafka::consumer::Consumer;
use std::ffi::{CStr, CString};

impl Inspector {
    pub(super) fn describe_by(
        &self,
        name: &str,
        broker: Option<i32>,
    ) -> Result<Option<Topic>, ReadError> {
        let name = CString::new(name);
        let name = name.map_err(|_| unavailable("no topic has a NUL in its name"))?;
        let operation = rdk::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBETOPICS;
        let mut names = [name.as_ptr()];
        // Safety: what is created here is destroyed here, after its last use.
        unsafe {
            let topics = rdk::rd_kafka_TopicCollection_of_topic_names(names.as_mut_ptr(), 1);
            let response = self.ask(operation, broker, |rk, options, queue| {
                rdk::rd_kafka_DescribeTopics(rk, topics, options, queue);
            });
            rdk::rd_kafka_TopicCollection_destroy(topics);
            let response = response?;
            let result = rdk::rd_kafka_event_DescribeTopics_result(response.0);
            let mut count = 0;
            let topics = rdk::rd_kafka_DescribeTopics_result_topics(result, &mut count);
            if count != 1 {
                return Err(unavailable("the cluster did not describe the topic"));
            }
            let topic = *topics;
            let error = rdk::rd_kafka_TopicDescription_error(topic);
            match rdk::rd_kafka_error_code(error) {
                rdk::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR => {}
                rdk::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART => {
                    return Ok(None);
                }
                _ => {
                    let text = CStr::from_ptr(rdk::rd_kafka_error_string(error));
                    return Err(unavailable(&text.to_string_lossy()));
                }
            }
            let id = rdk::rd_kafka_TopicDescription_topic_id(topic);
            let bits = [
                rdk::rd_kafka_Uuid_most_significant_bits(id),
                rdk::rd_kafka_Uuid_least_significant_bits(id),
            ];
            if bits == [0, 0] {
                return Err(ReadError::Unfit(
                    "the cluster gives its topics no ids, so a recreated topic could not \
                     be recognised: upgrade its brokers and their metadata version"
                        .into(),
                ));
            }
            let uuid = CStr::from_ptr(rdk::rd_kafka_Uuid_base64str(id));
            let mut partitions = 0;
            let all = rdk::rd_kafka_TopicDescription_partitions(topic, &mut partitions);
            for index in 0..partitions {
                let leader = rdk::rd_kafka_TopicPartitionInfo_leader(*all.add(index));
                if !leader.is_null() {
                    self.remember_broker(rdk::rd_kafka_Node_id(leader));
                }
            }
            Ok(Some(Topic {
                id: log_id(bits),
                uuid: uuid.to_string_lossy().into_owned(),
                partitions,
            }))
        }
    }

    pub(super) fn list_offsets(
        &self,
        partitions: usize,
        spec: i64,
        isolation: Isolation,
    ) -> Result<ListedOffsets, ReadError> {
        let mut wanted = TopicPartitionList::with_capacity(partitions);
        wanted.add_partition_range(&self.settings.topic, 0, partitions as i32 - 1);
        let operation = rdk::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_LISTOFFSETS;
        // Safety: the list lives until the call is over; the response frees itself.
        unsafe {
            let list = &mut *wanted.ptr();
            for index in 0..list.cnt as usize {
                // Not an offset, but what to search for.
                (*list.elems.add(index)).offset = spec;
            }
            let response = self.ask(operation, None, |rk, options, queue| {
                if isolation == Isolation::Committed {
                    let level =
                        rdk::rd_kafka_IsolationLevel_t::RD_KAFKA_ISOLATION_LEVEL_READ_COMMITTED;
                    let error = rdk::rd_kafka_AdminOptions_set_isolation_level(options, level);
                    assert!(error.is_null(), "these options take an isolation level");
                }
                rdk::rd_kafka_ListOffsets(rk, wanted.ptr(), options, queue);
            })?;
            let result = rdk::rd_kafka_event_ListOffsets_result(response.0);
            let mut count = 0;
            let infos = rdk::rd_kafka_ListOffsets_result_infos(result, &mut count);
            let mut listed = ListedOffsets::default();
            for index in 0..count {
                let info = *infos.add(index);
                let at = &*rdk::rd_kafka_ListOffsetsResultInfo_topic_partition(info);
                let no_error = rdk::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR;
                if at.err != no_error {
                    listed.failed.push(Partition(at.partition as u32));
                } else if at.offset >= 0 {
                    let offset = Offset(at.offset as u64);
                    listed
                        .offsets
                        .insert(Partition(at.partition as u32), offset);
                }
            }
            Ok(listed)
        }
    }

    /// Makes one admin call and waits for the response. Without `broker`, librdkafka sends it to
    /// the one that it considers the controller, even if that no longer exists.
    ///
    /// # Safety
    /// `call` hands the queue to the admin call of `operation` and keeps nothing.
    unsafe fn ask(
        &self,
        operation: rdk::rd_kafka_admin_op_t,
        broker: Option<i32>,
        call: impl FnOnce(
            *mut rdk::rd_kafka_t,
            *mut rdk::rd_kafka_AdminOptions_t,
            *mut rdk::rd_kafka_queue_t,
        ),
    ) -> Result<KafkaEvent, ReadError> {
        let client = self.client.client().native_ptr();
        let patience = match broker {
            Some(_) => PATIENCE_WITH_ONE,
            None => PATIENCE,
        };
        let millis = patience.as_millis() as i32;
        unsafe {
            let queue = rdk::rd_kafka_queue_new(client);
            let options = rdk::rd_kafka_AdminOptions_new(client, operation);
            let no_text = std::ptr::null_mut();
            rdk::rd_kafka_AdminOptions_set_request_timeout(options, millis, no_text, 0);
            if let Some(broker) = broker {
                rdk::rd_kafka_AdminOptions_set_broker(options, broker, no_text, 0);
            }
            call(client, options, queue);
            // If there is no broker, the call itself fails a bit later.
            let event = rdk::rd_kafka_queue_poll(queue, millis + 1000);
            rdk::rd_kafka_AdminOptions_destroy(options);
            rdk::rd_kafka_queue_destroy(queue);
            if event.is_null() {
                return Err(unavailable("the cluster does not respond"));
            }
            let response = KafkaEvent(event);
            match rdk::rd_kafka_event_error(event) {
                rdk::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR => Ok(response),
                _ => {
                    let text = CStr::from_ptr(rdk::rd_kafka_event_error_string(event));
                    let text = text.to_string_lossy();
                    let bootstrap = &self.settings.bootstrap;
                    Err(unavailable(&format!(
                        "the cluster at {bootstrap} does not respond: {text}"
                    )))
                }
            }
        }
    }

    fn remember_broker(&self, id: i32) {
        let mut seen = self.lock();
        if id >= 0 && !seen.brokers.contains(&id) {
            seen.brokers.push(id);
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Isolation {
    /// Up to the last record.
    Uncommitted,
    /// Up to the first transaction that is open.
    Committed,
}

/// Offsets by partition, where one was found.
#[derive(Default)]
pub(super) struct ListedOffsets {
    pub offsets: NextOffsets,
    /// Partitions without a response.
    pub failed: Vec<Partition>,
}

impl ListedOffsets {
    pub(super) fn all(self) -> Result<NextOffsets, ReadError> {
        match self.failed.first() {
            None => Ok(self.offsets),
            Some(partition) => {
                let why = format!("no leader responds for partition {partition}");
                Err(ReadError::Unavailable(why))
            }
        }
    }
}

/// The name of a topic id in tokens: forty bits of its hash.
fn log_id(bits: [i64; 2]) -> LogId {
    let hash = blake3::hash(&bits.map(i64::to_be_bytes).concat());
    let head: [u8; 8] = hash.as_bytes()[..8].try_into().expect("a hash is longer");
    LogId::from_bits(u64::from_be_bytes(head))
}
