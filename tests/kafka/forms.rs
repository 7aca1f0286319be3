//! The forms that a record may have, on a real broker: keys, headers, timestamps.

use super::{ledger, log_of};
use crate::support::broker::{Broker, Raw};
use crate::support::events::created;
use rdkafka::ClientConfig;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use serde_json::{Value, json};
use std::time::Duration;

/// A creation in binary mode.
fn binary(id: &str) -> Raw {
    let event = created(id);
    let attributes = ["specversion", "id", "source", "type", "subject", "time"];
    let record = Raw::value(event["data"].to_string());
    attributes.iter().fold(record, |record, name| {
        record.header(&format!("ce_{name}"), event[*name].as_str())
    })
}

fn send_without_timestamp(broker: &Broker, topic: &str, value: &str) {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", &broker.bootstrap);
    let producer: BaseProducer = config.create().unwrap();
    let record = BaseRecord::<[u8], str>::to(topic).payload(value);
    let record = record.partition(0).timestamp(-1);
    producer.send(record).map_err(|(error, _)| error).unwrap();
    producer.flush(Duration::from_secs(60)).unwrap();
}

#[test]
fn keys_headers_and_timestamps_of_other_producers_are_read_or_dead_letters() {
    let broker = Broker::shared();
    let topic = broker.topic(1, &[("message.timestamp.type", "CreateTime")]);
    let server = ledger(&broker, &topic);
    let log = log_of(&server);
    let text = |id: &str| created(id).to_string();
    let mut with_partition_key = created("by-partition-key");
    with_partition_key["partitionkey"] = json!("elsewhere");
    let taken = [
        Raw::value(text("no-key")),
        Raw::value(text("empty-key")).key(""),
        Raw::value(text("quoted")).key("\"quoted\""),
        Raw::value(with_partition_key.to_string()).key("elsewhere"),
        binary("binary").key("binary"),
        binary("encoded").header("CE_Comment", Some("\"a%20b\"")),
    ];
    let put_aside = [
        (
            "key_mismatch",
            Raw::value(text("other-key")).key("\"other\""),
        ),
        (
            "malformed",
            binary("twice").header("ce_id", Some("another")),
        ),
        (
            "malformed",
            binary("twice").header("CE_ID", Some("another")),
        ),
        (
            "malformed",
            binary("twice").header("ce_type", Some("opledger.operation.failed.v1")),
        ),
        ("malformed", binary("data").header("ce_data", Some("{}"))),
        (
            "invalid_value",
            binary("text").header("ce_datacontenttype", Some("text/plain")),
        ),
    ];
    let count = taken.len() + put_aside.len();
    let records: Vec<Raw> = taken
        .into_iter()
        .chain(put_aside.iter().map(|(_, record)| record.clone()))
        .map(|record| record.on(0))
        .collect();
    broker.send(&topic, &records);
    send_without_timestamp(&broker, &topic, &text("timeless"));
    let last = format!("{log};0:{count}");
    for id in [
        "no-key",
        "empty-key",
        "quoted",
        "by-partition-key",
        "binary",
        "encoded",
        "timeless",
    ] {
        assert!(server.document(id, &last).is_some(), "{id}");
    }
    let letters = server.get("/v1/dead-letters").json();
    let letters = letters["dead_letters"].as_array().unwrap();
    let reasons: Vec<&Value> = letters.iter().map(|letter| &letter["reason"]).collect();
    assert_eq!(reasons, put_aside.each_ref().map(|(reason, _)| *reason));

    let entry = |id: &str| {
        let history = server.get(&format!("/v1/operations/{id}/events")).json();
        history["events"][0].clone()
    };
    assert_eq!(entry("encoded")["event"]["comment"], "a b");
    assert_eq!(entry("no-key")["arrived_by"], "producer");
    let timeless = entry("timeless");
    assert!(timeless.get("arrived").is_none(), "{timeless}");
    assert!(timeless.get("arrived_by").is_none(), "{timeless}");
}
