//! Targets of notifications, on an embedded log: allowed addresses and addresses that must
//! never be called, names, dead targets and slow targets.

use crate::support::notified::{
    created_for, delivered, ended, list, notes, quick, repair, state, told,
};
use crate::support::receiver::{Receiver, Reply};
use crate::support::server::Server;
use serde_json::json;
use std::time::{Duration, Instant};

/// Zero also before the terminal event of the operation is projected.
fn attempts(server: &Server, id: &str) -> u64 {
    let found = list(server, &format!("operation_id={id}"));
    found
        .first()
        .map_or(0, |n| n["attempts"].as_u64().unwrap_or(0))
}

#[test]
fn dead_targets_delay_no_other() {
    let dead: Vec<_> = (0..20)
        .map(|_| Receiver::start(|_, _| Reply::Hang))
        .collect();
    let alive = Receiver::willing();
    let settings = quick(&[
        ("NOTIFICATIONS__TIMEOUT", "10s"),
        ("NOTIFICATIONS__IN_FLIGHT", "32"),
    ]);
    let server = Server::with(&settings);
    for (n, dead) in dead.iter().enumerate() {
        let events = (0..50).flat_map(|m| told(&format!("dead-{n}-{m}"), dead.address));
        server.publish(&events.collect::<Vec<_>>());
    }
    for dead in &dead {
        dead.eventually("an attempt", |calls| !calls.is_empty());
        assert_eq!(
            dead.connections(),
            1,
            "a new target gets one attempt at a time"
        );
    }
    let started = Instant::now();
    let events = (0..100).flat_map(|n| told(&format!("alive-{n}"), alive.address));
    server.publish(&events.collect::<Vec<_>>());
    alive.eventually("all are sent", |calls| calls.len() == 100);
    let took = started.elapsed();
    assert!(
        took < Duration::from_secs(5),
        "{took:?}, and a dead one takes ten"
    );
    assert_eq!(alive.connections(), 100);
}

#[test]
fn a_target_gets_no_more_attempts_at_once_than_allowed() {
    let now = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let most = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let (counted, highest) = (now.clone(), most.clone());
    let receiver = Receiver::start(move |_, _| {
        use std::sync::atomic::Ordering::SeqCst;
        highest.fetch_max(counted.fetch_add(1, SeqCst) + 1, SeqCst);
        std::thread::sleep(Duration::from_millis(5));
        counted.fetch_sub(1, SeqCst);
        Reply::Status(200)
    });
    let server = Server::with(&quick(&[("NOTIFICATIONS__PER_TARGET", "3")]));
    let events = (0..100).flat_map(|n| told(&format!("op-{n}"), receiver.address));
    server.publish(&events.collect::<Vec<_>>());
    receiver.eventually("all", |calls| calls.len() == 100);
    assert_eq!(most.load(std::sync::atomic::Ordering::SeqCst), 3);
}

#[test]
fn only_what_is_allowed_is_ever_called() {
    let outside = Receiver::on("127.0.0.2:0", |_, _| Reply::Status(200));
    let port = outside.address.port();
    // The same port, so that they differ only by address.
    let inside = Receiver::on(&format!("127.0.0.3:{port}"), |_, _| Reply::Status(200));
    let home = Receiver::on(&format!("127.0.0.1:{port}"), |_, _| Reply::Status(200));
    let server = Server::with(&quick(&[("NOTIFICATIONS__ALLOW", "127.0.0.3, 10.0.0.0/8")]));
    // Each name would reach one of the two that must not be called.
    let bad = [
        ("outside", "127.0.0.2"),
        ("name", "localhost"),
        ("mapped", "::ffff:127.0.0.2"),
        ("bracketed", "[::ffff:127.0.0.2]"),
        ("decimal", "2130706434"),
        ("hex", "0x7f.2"),
        ("short", "127.2"),
        ("unspecified", "0.0.0.0"),
        ("unspecified-6", "::"),
    ];
    for (id, address) in bad {
        server.publish(&[created_for(id, address, port), ended(id, 30, "completed")]);
    }
    for id in bad.map(|(id, _)| id) {
        server.eventually(&format!("{id} was checked"), |server| {
            attempts(server, id) > 1
        });
        let found = &list(&server, &format!("operation_id={id}"))[0];
        assert_eq!(found["state"], "pending");
        let why = found["last_error"].as_str().unwrap();
        assert!(why.contains("notifications.allow"), "{id}: {why}");
    }
    server.publish(&told("inside", inside.address));
    server.publish(&[
        created_for("clothed", "::ffff:127.0.0.3", port),
        ended("clothed", 30, "failed"),
    ]);
    delivered(&server, "inside");
    delivered(&server, "clothed");
    assert_eq!((outside.connections(), home.connections()), (0, 0));
    assert_eq!(inside.connections(), 2);
}

#[test]
fn names_and_ipv6_addresses_are_called_if_allowed() {
    let six = Receiver::on("[::1]:0", |_, _| Reply::Status(200));
    let four = Receiver::on("127.0.0.1:0", |_, _| Reply::Status(200));
    let server = Server::with(&quick(&[("NOTIFICATIONS__ALLOW", "::1, 127.0.0.0/8")]));
    for (id, address) in [
        ("bare", "::1"),
        ("bracketed", "[::1]"),
        ("long", "0:0:0:0:0:0:0:1"),
    ] {
        server.publish(&[
            created_for(id, address, six.address.port()),
            ended(id, 30, "failed"),
        ]);
        delivered(&server, id);
        let host = &six.of(id)[0].headers["host"];
        assert_eq!(*host, format!("[::1]:{}", six.address.port()));
    }
    // The name has an IPv4 and an IPv6 address: one that responds is enough.
    let port = four.address.port();
    server.publish(&[
        created_for("name", "LocalHost", port),
        ended("name", 30, "failed"),
    ]);
    delivered(&server, "name");
    assert_eq!(
        four.of("name")[0].headers["host"],
        format!("localhost:{port}")
    );
}

#[test]
fn only_the_allowed_addresses_of_a_name_are_called() {
    let inside = Receiver::on("127.0.0.3:0", |_, _| Reply::Status(200));
    let port = inside.address.port();
    let outside: Vec<_> = ["127.0.0.2", "127.0.0.4"]
        .map(|address| Receiver::on(&format!("{address}:{port}"), |_, _| Reply::Status(200)))
        .into();
    let folder = tempfile::tempdir().unwrap();
    let hosts = folder.path().join("hosts");
    let lines = [
        ("first.test", ["127.0.0.3", "127.0.0.2", "127.0.0.4"]),
        ("second.test", ["127.0.0.2", "127.0.0.3", "127.0.0.4"]),
        ("last.test", ["127.0.0.4", "127.0.0.2", "127.0.0.3"]),
        // No receiver listens at the allowed address.
        ("dead.test", ["127.0.0.2", "127.0.0.5", "127.0.0.4"]),
    ];
    let lines = lines.map(|(name, addresses)| addresses.map(|a| format!("{a} {name}\n")).concat());
    std::fs::write(&hosts, lines.concat()).unwrap();
    let server = Server::spawn(
        crate::support::names::known_by(&hosts),
        &folder.path().join("data"),
        &quick(&[("NOTIFICATIONS__ALLOW", "127.0.0.3, 127.0.0.5")]),
    );
    for name in ["first", "second", "last"] {
        for n in 0..10 {
            let id = format!("{name}-{n}");
            let created = created_for(&id, &format!("{name}.test"), port);
            server.publish(&[created, ended(&id, 30, "completed")]);
            delivered(&server, &id);
        }
    }
    let created = created_for("dead", "dead.test", port);
    server.publish(&[created, ended("dead", 30, "completed")]);
    let is_called = |receiver: &Receiver| receiver.connections() > 0;
    server.eventually("an attempt on the dead", |server| {
        attempts(server, "dead") > 2 || outside.iter().any(is_called)
    });
    for outside in &outside {
        assert_eq!(outside.connections(), 0, "{}", outside.address);
    }
    assert_eq!(inside.connections(), 30);
}

#[test]
fn an_invalid_target_fails_permanently_at_once() {
    let server = Server::with(&quick(&[]));
    for (id, address) in [
        ("path", "127.0.0.1/x"),
        ("header", "a\r\nx: y"),
        ("user", "u@127.0.0.1"),
    ] {
        server.publish(&[created_for(id, address, 80), ended(id, 30, "completed")]);
        server.eventually(id, |server| state(server, id) == "failed");
    }
    server.eventually("it is noted", |server| {
        notes(server).contains("3 deliveries failed permanently")
    });
    assert_eq!(
        server.get("/readyz").status,
        200,
        "no reason to refuse any requests"
    );
}

#[test]
fn by_default_nothing_is_sent_and_that_is_said() {
    let receiver = Receiver::willing();
    let folder = tempfile::tempdir().unwrap();
    let server = Server::on(folder.path(), &[]);
    assert!(
        !notes(&server).contains("notifications"),
        "there is nothing to report"
    );
    let token = server.publish(&told("op", receiver.address));
    assert!(server.document("op", &token).is_some());
    assert!(notes(&server).contains("due but not sent: notifications.allow is empty"));
    assert_eq!(state(&server, "op"), "pending");
    let refused = server.client().post(
        "/v1/notifications/op/retry",
        &[("content-type", "application/json")],
        "{}",
    );
    let why = refused.refused(503, "000001");
    assert!(why.contains("notifications.allow is empty"), "{why}");
    assert!(!folder.path().join("control").exists());
    server.terminate();
    // Old terminal events are not sent unexpectedly after the setting is turned on.
    let server = Server::on(folder.path(), &quick(&[]));
    server.eventually("it is held", |server| state(server, "op") == "held");
    server.publish(&told("new", receiver.address));
    delivered(&server, "new");
    assert_eq!(receiver.connections(), 1);
    server.eventually("it is noted", |server| {
        notes(server).contains("1 notifications are held")
    });
    assert_eq!(repair(&server, "op/release"), json!({"accepted": 1}));
    delivered(&server, "op");
}
