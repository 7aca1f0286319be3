//! The main job with the log on a real Kafka broker and with foreign producers: the sample
//! operations, the bodies, any order, any partitioner, any codec, invalid records.

use super::{ledger, log_of, settings};
use crate::support::broker::{Broker, CLIENTS, Raw, token};
use crate::support::events::{broken, created};
use crate::support::generate::{self, Rng};
use crate::support::server::{BATCH, Server};
use crate::support::stories::{body_operations, check_bodies, stories, subject};
use opledger::event_log::kafka::Kafka;
use opledger::event_log::{EventLog, conformance};
use rdkafka::Message as _;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

#[tokio::test(flavor = "multi_thread")]
async fn the_kafka_log_conforms() {
    let broker = tokio::task::spawn_blocking(Broker::shared).await.unwrap();
    let (name, shared) = tokio::task::spawn_blocking(move || (broker.topic(3, &[]), broker))
        .await
        .unwrap();
    let log = Kafka::open(settings(&shared, &name)).unwrap();
    // Its calls may wait for the network, and a runtime's thread must not.
    let suite = move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        log.identify().unwrap();
        runtime.unwrap().block_on(conformance::suite(&log));
    };
    tokio::task::spawn_blocking(suite).await.unwrap();
}

#[test]
fn every_scenario_gives_its_document_with_every_kafka_client() {
    let broker = Broker::shared();
    for client in CLIENTS {
        for options in [&[][..], &["--binary"][..]] {
            let topic = broker.topic(5, &[]);
            let server = ledger(&broker, &topic);
            let log = log_of(&server);
            for story in stories() {
                let lines: Vec<String> = story.events.iter().map(Value::to_string).collect();
                let mut sent = 0;
                // One process for each sample operation: the tests over HTTP cover the prefixes.
                let (after, document) = story.expected.last().unwrap();
                let positions = broker.publish_by(client, &topic, options, &lines[sent..*after]);
                sent += positions.len();
                let token = token(&log, &positions);
                let served = server.document(subject(&story.events), &token);
                let what = format!("{client} {options:?} {} after {sent}", story.name);
                assert_eq!(served.unwrap_or(Value::Null), *document, "{what}");
            }
            assert_eq!(
                server.get("/v1/dead-letters").json()["dead_letters"],
                json!([])
            );
        }
    }
}

#[test]
fn every_prefix_of_a_scenario_gives_its_document() {
    let broker = Broker::shared();
    let topic = broker.topic(4, &[]);
    let server = ledger(&broker, &topic);
    let log = log_of(&server);
    for story in stories() {
        let mut sent = 0;
        for (after, document) in &story.expected {
            let lines: Vec<String> = story.events[sent..*after]
                .iter()
                .map(Value::to_string)
                .collect();
            sent = *after;
            let positions = broker.publish_by("produce.mjs", &topic, &[], &lines);
            let served = server.document(subject(&story.events), &token(&log, &positions));
            assert_eq!(
                served.unwrap_or(Value::Null),
                *document,
                "{} after {after}",
                story.name
            );
        }
    }
}

#[test]
fn every_body_comes_back_byte_for_byte_through_kafka() {
    let broker = Broker::shared();
    let (events, sent) = body_operations();
    let lines: Vec<String> = events.iter().map(Value::to_string).collect();
    for client in CLIENTS {
        let topic = broker.topic(3, &[]);
        let server = ledger(&broker, &topic);
        let log = log_of(&server);
        let positions = broker.publish_by(client, &topic, &[], &lines);
        check_bodies(&server, &token(&log, &positions), &sent);
    }
}

/// One operation's events are on several partitions, in any order, some several times.
#[test]
fn any_shuffle_with_repeats_over_partitions_gives_the_same_bytes() {
    let broker = Broker::shared();
    let plain = Server::start();
    let topic = broker.topic(4, &[]);
    let server = ledger(&broker, &topic);
    let log = log_of(&server);
    let mut rng = Rng::new(17);
    let mut records = Vec::new();
    let mut expected = Vec::new();
    for story in stories() {
        let token = plain.publish(&story.events);
        let path = format!("/v1/operations/{}", subject(&story.events));
        let answer = plain.get_with(&path, &[("ledger-position", &token)]);
        expected.push((path, answer, story.events.len()));
        for event in &story.events {
            for _ in 0..1 + rng.below(3) {
                let text = generate::spelled_differently(&mut rng, event);
                // One event per line. This only changes white space between members.
                records.push(text.replace(['\n', '\r'], " "));
            }
        }
    }
    rng.shuffle(&mut records);
    let mut positions = Vec::new();
    for (client, part) in CLIENTS
        .iter()
        .zip(records.chunks(records.len().div_ceil(3)))
    {
        // Without a key, clients distribute records over the partitions, regardless of the
        // operation.
        let options = if rng.chance(50) {
            vec!["--no-key"]
        } else {
            vec!["--no-key", "--binary"]
        };
        positions.extend(broker.publish_by(client, &topic, &options, part));
    }
    let token = token(&log, &positions);
    let used: BTreeSet<&str> = positions
        .iter()
        .map(|(_, at)| at.split(':').next().unwrap())
        .collect();
    assert!(used.len() > 1, "several partitions are used: {used:?}");
    for (path, answer, events) in expected {
        let served = server.get_with(&path, &[("ledger-position", &token)]);
        assert_eq!(served.status, answer.status, "{path}");
        assert_eq!(served.body, answer.body, "{path}");
        let history = server.get(&format!("{path}/events")).json();
        let shown = history["events"].as_array().unwrap().len();
        assert_eq!(shown, events, "{path}: each event once");
    }
}

#[test]
fn every_codec_is_read() {
    let broker = Broker::shared();
    let topic = broker.topic(2, &[]);
    let server = ledger(&broker, &topic);
    let log = log_of(&server);
    for codec in ["none", "gzip", "snappy", "lz4", "zstd"] {
        for client in ["produce.py", "Produce.java"] {
            let lines: Vec<String> = (0..50)
                .map(|n| created(&format!("{codec}-{client}-{n}")).to_string())
                .collect();
            let positions = broker.publish_by(client, &topic, &["--compression", codec], &lines);
            let token = token(&log, &positions);
            for n in [0, 49] {
                let id = format!("{codec}-{client}-{n}");
                assert!(server.document(&id, &token).is_some(), "{id}");
            }
        }
    }
}

#[test]
fn events_published_over_http_are_in_the_topic_and_can_be_read_at_once() {
    let broker = Broker::shared();
    let topic = broker.topic(3, &[]);
    let server = ledger(&broker, &topic);
    server.eventually("ready", |server| server.get("/readyz").status == 200);
    for n in 0..200 {
        let id = format!("http-{n}");
        let token = server.publish(&[created(&id)]);
        assert!(
            server.document(&id, &token).is_some(),
            "a read with its token sees it"
        );
    }
    let found = broker.read(&topic);
    assert_eq!(found.len(), 200);
    use rdkafka::message::{Headers, Message};
    for message in found {
        let event: Value = serde_json::from_slice(message.payload().unwrap()).unwrap();
        assert_eq!(
            message.key().unwrap(),
            event["subject"].as_str().unwrap().as_bytes()
        );
        let header = message.headers().unwrap().get(0);
        assert_eq!(header.key, "content-type");
        assert_eq!(header.value, Some(&b"application/cloudevents+json"[..]));
    }
    // Records with the same key go to one partition, which keeps the order of one sender.
    let many: Vec<Value> = (0..50).map(|_| created("one-key")).collect();
    let answer = server.post(BATCH, serde_json::to_vec(&many).unwrap());
    let positions = answer.json()["positions"].clone();
    let partitions: BTreeSet<String> = positions
        .as_array()
        .unwrap()
        .iter()
        .map(|at| at.as_str().unwrap().split(':').next().unwrap().to_owned())
        .collect();
    assert_eq!(partitions.len(), 1);
}

#[test]
fn equal_events_give_equal_stores_on_kafka_and_on_the_embedded_log() {
    let broker = Broker::shared();
    let topic = broker.topic(3, &[]);
    let kafka = [
        ("KAFKA__BOOTSTRAP", &*broker.bootstrap),
        ("KAFKA__TOPIC", &*topic),
    ];
    let mut rng = Rng::new(5);
    let mut events: Vec<Value> = (0..60)
        .flat_map(|n| generate::operation(&mut rng, &format!("operation-{n}"), 12))
        .collect();
    let digests = [(&[][..], 7), (&kafka[..], 41)].map(|(settings, size)| {
        rng.shuffle(&mut events);
        let folder = tempfile::tempdir().unwrap();
        for half in events.chunks(events.len().div_ceil(2)) {
            let server = Server::on(folder.path(), settings);
            server.eventually("ready", |server| server.get("/readyz").status == 200);
            let tokens = half.chunks(size).map(|batch| server.publish(batch));
            let last = tokens.last().unwrap();
            server.document(half[0]["subject"].as_str().unwrap(), &last);
            server.kill();
        }
        // Applies the records that the killed ledger did not reach.
        let server = Server::on(folder.path(), settings);
        server.eventually("ready", |server| server.get("/readyz").status == 200);
        assert!(server.terminate().success());
        let digest = Command::new(env!("CARGO_BIN_EXE_opledger"))
            .args(["digest", "--data"])
            .arg(folder.path())
            .output()
            .unwrap();
        let said = String::from_utf8(digest.stdout).unwrap();
        assert!(digest.status.success(), "{said}");
        said.lines().next().unwrap().to_owned()
    });
    assert_eq!(digests[0].len(), 64);
    assert_eq!(digests[0], digests[1]);
}

#[test]
fn every_kind_of_invalid_record_is_in_topic_and_store_and_the_rest_is_applied() {
    let broker = Broker::shared();
    let topic = broker.topic(1, &[("max.message.bytes", "5242880")]);
    let server = ledger(&broker, &topic);
    let log = log_of(&server);
    let broken = broken().map(|(reason, event)| (reason, Raw::value(event.to_string())));
    let [unknown, value, range] = broken;
    let mut large = created("x");
    large["data"]["request"]["body"] = json!("x".repeat((4 << 20) + 1));
    let good = |n: usize| Raw::value(created(&format!("good-{n}")).to_string()).on(0);
    let poison = [
        ("malformed", Raw::value("{")),
        ("malformed", Raw::value(&b"\xff\x00\xfe"[..])),
        (
            "malformed",
            Raw::value(created("x").to_string()).header("ce_specversion", Some("1.0")),
        ),
        unknown,
        value,
        range,
        ("too_large", Raw::value(large.to_string())),
        (
            "key_mismatch",
            Raw::value(created("x").to_string()).key("other"),
        ),
        (
            "tombstone",
            Raw::default()
                .key("x")
                .header("a", None)
                .header("a", Some("b")),
        ),
    ];
    let mut records = Vec::new();
    for (n, (_, bad)) in poison.iter().enumerate() {
        records.push(good(n));
        records.push(bad.clone().on(0));
    }
    records.push(good(poison.len()));
    broker.send(&topic, &records);
    let last = format!("{log};0:{}", records.len() - 1);
    for n in 0..=poison.len() {
        let id = format!("good-{n}");
        assert!(server.document(&id, &last).is_some(), "{id}");
    }
    assert!(server.document("x", &last).is_none());

    let letters = server.get("/v1/dead-letters").json();
    let letters = letters["dead_letters"].as_array().unwrap().clone();
    assert_eq!(letters.len(), poison.len());
    for (n, (reason, _)) in poison.iter().enumerate() {
        assert_eq!(letters[n]["reason"], *reason, "{}", letters[n]["detail"]);
        assert_eq!(letters[n]["position"], format!("0:{}", 2 * n + 1));
    }
    server.eventually("all are sent", |server| unsent(server) == (0, 0));
    let carried = broker.read(&format!("{topic}.dead-letter"));
    assert_eq!(carried.len(), poison.len());
    use rdkafka::message::{Headers, Message};
    for (n, message) in carried.iter().enumerate() {
        let (reason, bad) = &poison[n];
        let headers = message.headers().unwrap();
        let told: Vec<(String, Option<Vec<u8>>)> = headers
            .iter()
            .map(|header| (header.key.to_owned(), header.value.map(<[u8]>::to_vec)))
            .collect();
        let (own, told) = told.split_at(bad.headers.len());
        assert_eq!(own, bad.headers, "{reason}: the headers it came with");
        assert_eq!(message.key(), bad.key.as_deref(), "{reason}");
        assert_eq!(message.payload(), bad.value.as_deref(), "{reason}");
        let told: BTreeMap<&str, String> = told
            .iter()
            .map(|(name, value)| {
                (
                    name.as_str(),
                    String::from_utf8(value.clone().unwrap()).unwrap(),
                )
            })
            .collect();
        assert_eq!(told["opledger.topic"], topic);
        assert_eq!(told["opledger.partition"], "0");
        assert_eq!(told["opledger.offset"], (2 * n + 1).to_string());
        assert_eq!(told["opledger.reason"], *reason);
    }
}

/// The counts of (pending, refused) dead letters.
fn unsent(server: &Server) -> (u64, u64) {
    let metrics = server.metrics();
    let of = |state: &str| {
        let name = format!("opledger_dead_letters_unsent{{state=\"{state}\"}} ");
        let found = metrics.lines().find_map(|line| line.strip_prefix(&name));
        found.map_or(u64::MAX, |count| count.parse().unwrap())
    };
    (of("pending"), of("refused"))
}

#[test]
fn a_dead_letter_that_the_topic_refuses_stays_in_the_store_and_says_so() {
    let broker = Broker::shared();
    let topic = broker.topic(1, &[("max.message.bytes", "5242880")]);
    let small = format!("{topic}.dead-letter");
    broker.delete(&small);
    broker.create(&small, 1, &[("max.message.bytes", "1000")]);
    let server = ledger(&broker, &topic);
    let log = log_of(&server);
    let mut rng = Rng::new(31);
    let noise: Vec<u8> = (0..100_000).map(|_| rng.below(256) as u8).collect();
    let records = [
        Raw::value(noise).on(0),
        Raw::value(created("good").to_string()).on(0),
        Raw::value("small").on(0),
    ];
    broker.send(&topic, &records);
    assert!(
        server.document("good", &format!("{log};0:2")).is_some(),
        "it moves on"
    );
    server.eventually("one is refused", |server| unsent(server) == (0, 1));
    let letters = server.get("/v1/dead-letters").json();
    let why = letters["dead_letters"][0]["unsent"].as_str().unwrap();
    assert!(
        why.contains("refused") || why.contains("too large"),
        "{why}"
    );
    assert!(letters["dead_letters"][1].get("unsent").is_none());
    assert_eq!(broker.read(&small).len(), 1);
}

/// The dead-letter topic is created only later. No waiting dead letter is skipped, neither by
/// attempts in the meantime nor by a restart.
#[test]
fn dead_letters_that_cannot_be_forwarded_wait_until_they_can() {
    let broker = Broker::shared();
    let topic = format!("waiting-letters-{}", std::process::id());
    let letters = format!("{topic}.dead-letter");
    broker.create(&topic, 1, &[]);
    let folder = tempfile::tempdir().unwrap();
    let start = |life: usize| {
        let log = folder.path().join(format!("life-{life}.txt"));
        let mut command = Command::new(env!("CARGO_BIN_EXE_opledger"));
        command.stderr(std::fs::File::create(&log).unwrap());
        let settings = [
            ("KAFKA__BOOTSTRAP", broker.bootstrap.as_str()),
            ("KAFKA__TOPIC", &topic),
            ("LOG__PUBLISH_TIMEOUT", "1s"),
        ];
        let server = Server::spawn(command, &folder.path().join("data"), &settings);
        (server, log)
    };
    let tried = |server: &Server, log: &Path| {
        server.eventually("it was attempted", |_| {
            let told = std::fs::read_to_string(log).unwrap();
            told.contains("dead letters wait in the store")
        });
    };
    let send = |values: [&str; 2]| {
        let records = values.map(|value| Raw::value(value).on(0));
        broker.send(&topic, &records);
    };
    let (server, log) = start(0);
    send(["first", "second"]);
    tried(&server, &log);
    assert_eq!(unsent(&server), (2, 0));
    assert!(server.terminate().success());
    let (server, log) = start(1);
    send(["third", "fourth"]);
    tried(&server, &log);
    server.eventually("all wait", |server| unsent(server) == (4, 0));
    broker.create(&letters, 1, &[("max.message.bytes", "6291456")]);
    server.eventually("all were sent", |server| unsent(server) == (0, 0));
    let mut sent: Vec<_> = broker
        .read(&letters)
        .iter()
        .map(|message| String::from_utf8(message.payload().unwrap().to_vec()).unwrap())
        .collect();
    // An attempt that timed out may still have been written.
    sent.dedup();
    assert_eq!(sent, ["first", "second", "third", "fourth"]);
}

#[test]
fn a_hundred_thousand_random_records_stop_nothing_on_kafka() {
    let broker = Broker::shared();
    let topic = broker.topic(2, &[]);
    let server = ledger(&broker, &topic);
    let log = log_of(&server);
    let mut rng = Rng::new(23);
    let event = created("cut").to_string().into_bytes();
    let mut bytes = |n: usize| -> Vec<u8> {
        match n % 3 {
            0 => (0..rng.below(60)).map(|_| rng.below(256) as u8).collect(),
            1 => event.iter().take(rng.below(event.len())).copied().collect(),
            _ => {
                let mut bytes = event.clone();
                let at = rng.below(bytes.len());
                bytes[at] = rng.below(256) as u8;
                bytes
            }
        }
    };
    let records: Vec<Raw> = (0..100_000)
        .map(|n| Raw {
            partition: Some((n % 2) as i32),
            key: (n % 5 == 0).then(|| bytes(n)),
            headers: match n % 7 {
                0 => vec![("ce_id".into(), Some(bytes(n)))],
                1 => vec![("content-type".into(), None)],
                _ => Vec::new(),
            },
            value: (n % 11 != 0).then(|| bytes(n)),
        })
        .collect();
    broker.send(&topic, &records);
    broker.send(
        &topic,
        &[Raw::value(created("after-all").to_string()).on(1)],
    );
    let token = format!("{log};0:49999,1:50000");
    let path = "/v1/operations/after-all";
    let answer = server.get_with(path, &[("ledger-position", &token), ("prefer", "wait=60")]);
    assert_eq!(answer.status, 200);
    server.eventually("ready", |server| server.get("/readyz").status == 200);
}
