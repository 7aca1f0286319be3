//! Reading events: any bytes are handled, and both parsers give the same result.

use crate::support::generate::{self, Rng};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use opledger::domain::Timestamp;
use opledger::wire::block;
use opledger::wire::cloudevent::decode;
use opledger::wire::event::{careful_envelope, check, quick_envelope};
use opledger::wire::position::Position;
use opledger::wire::record::{self, Headers, Record};
use proptest::prelude::*;
use serde_json::Value;

fn record(value: Option<Vec<u8>>, headers: Vec<(String, Option<Vec<u8>>)>) -> Record {
    let headers = headers
        .into_iter()
        .map(|(n, v)| (n.into(), v.map(Bytes::from)))
        .collect();
    Record {
        arrived: Timestamp::from_millis(0),
        claimed: false,
        key: None,
        headers: Headers(headers),
        value: value.map(Bytes::from),
    }
}

fn header() -> impl Strategy<Value = (String, Option<Vec<u8>>)> {
    let name = prop_oneof![
        "content-type|ce_specversion|ce_id|ce_source|ce_type|ce_subject|ce_time",
        ".{0,8}",
    ];
    let value = prop_oneof![
        Just(b"1.0".to_vec()),
        Just(b"opledger.operation.started.v1".to_vec()),
        Just(b"application/cloudevents+json".to_vec()),
        Just(b"2024-05-06T07:08:09Z".to_vec()),
        any::<Vec<u8>>(),
    ];
    (name, proptest::option::of(value))
}

/// A valid event with a few bytes changed, removed or doubled.
fn mutated(seed: u64) -> Vec<u8> {
    let mut rng = Rng::new(seed);
    let mut event = generate::operation(&mut rng, "op", 1).remove(0);
    if rng.chance(20) {
        // Sometimes together with `data`, which is refused.
        let data = event.get("data").unwrap_or(&Value::Null).to_string();
        event["data_base64"] = STANDARD.encode(data).into();
        if rng.chance(80) {
            event.as_object_mut().unwrap().remove("data");
        }
    }
    let mut text = match rng.chance(50) {
        true => event.to_string(),
        // With escapes in names, which the quick parser does not handle.
        false => generate::spelled_differently(&mut rng, &event),
    };
    if rng.chance(30) {
        // An unknown member, or a repeated one.
        let more = [
            "\"x\":1e400",
            "\"x\":[{\"y\":1,\"y\":2}]",
            "\"id\":\"1\"",
            "\"\\u0078\":0,\"x\":0",
        ];
        let at = text.find('{').unwrap() + 1;
        text.insert_str(at, &format!("{},", rng.pick(&more)));
    }
    let mut text = text.into_bytes();
    for _ in 0..rng.below(4) {
        let at = rng.below(text.len());
        match rng.below(4) {
            0 => text[at] = rng.below(256) as u8,
            1 => text.truncate(at + 1),
            2 => text.insert(at, *rng.pick(b"\"\\{}[],:nu0-e.")),
            _ => {
                text.remove(at);
            }
        }
        if text.is_empty() {
            break;
        }
    }
    text
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(20_000) })]

    #[test]
    fn any_bytes_are_an_event_or_a_fault(
        value: Option<Vec<u8>>,
        headers in prop::collection::vec(header(), 0..8),
    ) {
        let _ = decode(&record(value, headers));
    }

    #[test]
    fn a_stored_record_is_read_as_written_and_damage_is_detected_without_a_panic(
        value: Option<Vec<u8>>,
        headers in prop::collection::vec(header(), 0..3),
        junk: Vec<u8>,
    ) {
        let record = record(value, headers);
        let row = Bytes::from(record::encode(&record));
        prop_assert_eq!(record::decode(&row).unwrap(), record.clone());
        let block = Bytes::from(block::Encoder::default().append([record.clone(), record.clone()].iter(), Vec::new()));
        prop_assert_eq!(block::decode(&block).unwrap(), [record.clone(), record]);
        let junk = Bytes::from(junk);
        let _ = record::decode(&junk);
        let _ = block::decode(&junk);
        let _ = record::decode_dead_letter(&junk);
    }

    #[test]
    fn a_row_of_the_history_gives_back_its_records(
        values in prop::collection::vec((any::<Option<Vec<u8>>>(), any::<bool>(), any::<i32>(), any::<(u32, u64)>()), 1..6),
    ) {
        let records: Vec<_> = values
            .into_iter()
            .map(|(value, of_an_event, millis, (partition, offset))| {
                let headers = match of_an_event {
                    true => vec![("content-type".into(), Some(b"application/cloudevents+json".to_vec()))],
                    false => vec![("other".into(), None)],
                };
                let record = Record {
                    arrived: Timestamp::from_millis(millis.into()),
                    claimed: millis % 2 == 0,
                    ..record(value, headers)
                };
                (Position::from((partition, offset)), record)
            })
            .collect();
        let parts = record::append_history(records.iter().map(|(at, r)| (*at, r)), Vec::new());
        let row = [&parts.0, parts.1].concat();
        let back = record::decode_history(&Bytes::from(row), records[0].0).unwrap();
        // The row omits the one header that every event has.
        let expected: Vec<_> = records
            .into_iter()
            .map(|(at, mut record)| {
                record.headers.0.retain(|(name, _)| name == "other");
                (at, record)
            })
            .collect();
        prop_assert_eq!(back, expected);
    }

    #[test]
    fn both_ways_to_read_an_event_agree(seed: u64) {
        let text = mutated(seed);
        let Some(quick) = quick_envelope(&text) else {
            return Ok(());
        };
        // If the quick parser accepts an event, the careful parser reads the same.
        match (check(quick), careful_envelope(&text).and_then(check)) {
            (Ok(quick), Ok(careful)) => prop_assert_eq!(quick, careful),
            (Err(_), Err(_)) => {}
            (quick, careful) => prop_assert!(false, "{quick:?} against {careful:?}"),
        }
    }
}
