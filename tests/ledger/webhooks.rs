//! Notifications, on an embedded log: real receivers that fail in every way, restarts,
//! rebuilds, kills, and lost logs.

use crate::support::generate::Rng;
use crate::support::notified::delivered_all;
use crate::support::notified::{created_for, delivered, ended, list, notes, quick, repair, told};
use crate::support::receiver::{Receiver, Reply};
use crate::support::same::{assert_same_set, assert_same_text};
use crate::support::server::{Client, Server};
use crate::support::soak;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime};

fn rebuild(data: &Path) {
    let binary = env!("CARGO_BIN_EXE_opledger");
    let output = Command::new(binary)
        .args(["rebuild", "--data"])
        .arg(data)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}");
}

#[test]
fn a_delivery_has_the_document_that_a_client_gets() {
    let receiver = Receiver::willing();
    let server = Server::with(&quick(&[]));
    let port = receiver.address.port();
    for how in ["completed", "failed", "canceled"] {
        let id = format!("op-{how}");
        let created = created_for(&id, "127.0.0.1", port);
        server.publish(&[created, ended(&id, 30, how)]);
        let calls = receiver.eventually("sent", |calls| calls.iter().any(|c| c.operation() == id));
        let call = calls.iter().find(|call| call.operation() == id).unwrap();
        assert_eq!(call.line, format!("PUT /v1/operations/{id} HTTP/1.1"));
        assert_eq!(call.headers["content-type"], "application/json");
        assert_eq!(call.headers["host"], format!("127.0.0.1:{port}"));
        let served = server.get(&format!("/v1/operations/{id}")).body;
        assert_same_text(&id, &call.body, &served);
        assert_eq!(call.document()["status"], how);
        assert_eq!(call.document().get("response").is_some(), how != "canceled");
        delivered(&server, &id);
    }
    // Without a target, or before a terminal event, no notification is sent.
    let mut silent = created_for("silent", "127.0.0.1", port);
    silent["data"]
        .as_object_mut()
        .unwrap()
        .remove("notification");
    server.publish(&[
        silent,
        ended("silent", 30, "completed"),
        created_for("going-on", "127.0.0.1", port),
    ]);
    server.publish(&told("last", receiver.address));
    delivered(&server, "last");
    let expected = ["op-completed", "op-failed", "op-canceled", "last"];
    assert_same_set(
        "each once",
        receiver.operations(),
        expected.map(String::from),
    );
    let entry = &list(&server, "operation_id=last&state=delivered")[0];
    assert_eq!(entry["attempts"], 1);
    assert_eq!(entry["status_code"], 200);
    assert_eq!(entry["key"], receiver.of("last")[0].key());
}

#[test]
fn times_are_written_for_the_receivers() {
    let receiver = Receiver::willing();
    let server = Server::with(&quick(&[("NOTIFICATIONS__TIME_SEPARATOR", "_")]));
    server.publish(&told("op", receiver.address));
    delivered(&server, "op");
    let told = receiver.of("op")[0].document();
    assert_eq!(told["occurred_time"], "20240506_070801");
    assert_eq!(told["last_update_time"], "20240506_070830");
    assert_eq!(
        server.get("/v1/operations/op").json()["occurred_time"],
        "20240506 070801"
    );
}

#[test]
fn deliveries_succeed_eventually_whatever_a_receiver_does() {
    let elsewhere = Receiver::willing();
    let other = format!("http://{}/v1/operations/x", elsewhere.address);
    let receiver = Receiver::start(move |call, before| {
        let failures = [
            Reply::Status(500),
            Reply::Hang,
            Reply::Redirect(other.clone()),
            Reply::Reset,
            Reply::Raw("HTTP/1.1 200 Tol".into()),
            Reply::Status(302),
            Reply::Status(503),
            Reply::Status(400),
        ];
        // Each operation meets all failures, each operation starting with another one.
        let first: usize = call.operation()[3..].parse().unwrap();
        match before < failures.len() {
            true => failures[(first + before) % failures.len()].clone(),
            false => Reply::Status(204),
        }
    });
    let server = Server::with(&quick(&[("NOTIFICATIONS__TIMEOUT", "1500ms")]));
    for n in 0..8 {
        server.publish(&told(&format!("op-{n}"), receiver.address));
    }
    for n in 0..8 {
        let id = format!("op-{n}");
        delivered(&server, &id);
        let calls = receiver.of(&id);
        let taken: Vec<bool> = calls.iter().map(|call| call.taken).collect();
        let expected = [[false; 8].as_slice(), &[true]].concat();
        assert_eq!(taken, expected, "eight failures and a success");
        let keys: BTreeSet<_> = calls.iter().map(|call| call.key()).collect();
        assert_eq!(keys.len(), 1, "the same notification has the same key");
        assert_eq!(
            list(&server, &format!("operation_id={id}"))[0]["attempts"],
            9
        );
    }
    assert_eq!(elsewhere.connections(), 0, "a redirect is not followed");
    let metrics = server.metrics();
    for (outcome, count) in [
        ("refused", 32),
        ("timed_out", 8),
        ("broken_off", 16),
        ("busy", 8),
        ("delivered", 8),
    ] {
        let line = format!("opledger_webhook_attempts_total{{outcome=\"{outcome}\"}} {count}");
        assert!(metrics.contains(&line), "{line} in {metrics}");
    }
}

#[test]
fn a_status_of_2xx_is_a_success_whatever_follows_it() {
    let many: String = (0..150).map(|n| format!("x-{n}: y\r\n")).collect();
    let said = |rest: &str| Reply::Raw(format!("HTTP/1.1 200 Said\r\n{rest}"));
    let replies = [
        Reply::Endless,
        said("content-length: 100\r\n\r\nhalf of"),
        said("a: b\r\n c\r\n\r\n"),
        said(&format!("{many}\r\n")),
        said("content-length: 1\r\ncontent-length: 2\r\n\r\n"),
        said(""),
        Reply::Raw("HTTP/1.1 103 Soon\r\n\r\nHTTP/1.1 299 Said\r\n\r\n".into()),
    ];
    let last = replies.len();
    let receiver = Receiver::start(move |call, _| {
        let nth: usize = call.operation()[3..].parse().unwrap();
        replies[nth].clone()
    });
    let server = Server::with(&quick(&[]));
    for n in 0..last {
        let id = format!("op-{n}");
        server.publish(&told(&id, receiver.address));
        delivered(&server, &id);
        assert_eq!(
            list(&server, &format!("operation_id={id}"))[0]["attempts"],
            1
        );
    }
}

#[test]
fn a_receiver_can_set_the_retry_time() {
    // In seconds and as a date. One status is about the target, one is not.
    let in_3_s = || httpdate::fmt_http_date(SystemTime::now() + Duration::from_secs(3));
    let receiver = Receiver::start(move |call, before| {
        let (status, when) = match call.operation() {
            "seconds" => (503, "2".to_owned()),
            "date" => (503, in_3_s()),
            "refused" => (500, "2".to_owned()),
            // Longer than `retry_max`: limited to it.
            "long" => (503, "100000".to_owned()),
            other => panic!("{other}"),
        };
        match before {
            0 => Reply::Raw(format!(
                "HTTP/1.1 {status} No\r\nretry-after: {when}\r\n\r\n"
            )),
            _ => Reply::Status(200),
        }
    });
    let server = Server::with(&quick(&[("NOTIFICATIONS__RETRY_MAX", "4s")]));
    for id in ["seconds", "date", "refused", "long"] {
        server.publish(&told(id, receiver.address));
        receiver.eventually("the first attempt", |calls| {
            calls.iter().any(|call| call.operation() == id)
        });
        if id == "refused" {
            let entry = &list(&server, "operation_id=refused")[0];
            assert_eq!(entry["state"], "pending", "{entry}");
        }
        delivered(&server, id);
        let calls = receiver.of(id);
        assert_eq!(calls.len(), 2, "{id}");
        let pause = calls[1].at - calls[0].at;
        // A date has whole seconds.
        let least = Duration::from_millis(1950);
        assert!(pause >= least, "{id}: after {pause:?}");
    }
}

#[test]
fn operations_that_end_after_the_control_log_began_are_not_held() {
    let receiver = Receiver::willing();
    let folder = tempfile::tempdir().unwrap();
    let server = Server::on(folder.path(), &[]);
    let (address, port) = (receiver.address.ip().to_string(), receiver.address.port());
    let ids: Vec<_> = (0..20).map(|n| format!("op-{n}")).collect();
    for id in &ids {
        server.publish(&[created_for(id, &address, port)]);
        server.publish(&told(&format!("{id}-before"), receiver.address));
    }
    server.terminate();
    let server = Server::on(folder.path(), &quick(&[]));
    // In each partition, the next record is a terminal event, and the last record before the
    // restart was one too.
    let ends: Vec<_> = ids.iter().map(|id| ended(id, 30, "completed")).collect();
    server.publish(&ends);
    for id in &ids {
        delivered(&server, id);
    }
    let held = list(&server, "state=held");
    let held: BTreeSet<_> = held
        .iter()
        .map(|entry| entry["operation_id"].to_string())
        .collect();
    let expected = ids.iter().map(|id| format!("\"{id}-before\""));
    assert_eq!(held, expected.collect(), "those that ended before");
    assert_eq!(receiver.connections(), ids.len());
}

#[test]
fn no_delivery_is_sent_before_its_document_can_be_read() {
    let address = std::sync::Arc::new(std::sync::OnceLock::new());
    let seen = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    let receiver = {
        let (address, seen) = (address.clone(), seen.clone());
        Receiver::start(move |call, _| {
            let ledger = Client::new(*address.get().unwrap());
            let read = ledger.get(&format!("/v1/operations/{}", call.operation()), &[]);
            let is_same = read.status == 200 && read.body == call.body;
            seen.lock().unwrap().push(is_same);
            Reply::Status(200)
        })
    };
    let server = Server::with(&quick(&[]));
    address.set(server.address).unwrap();
    for some in 0..20 {
        let events = (0..10).flat_map(|n| told(&format!("op-{some}-{n}"), receiver.address));
        server.publish(&events.collect::<Vec<_>>());
    }
    delivered_all(&server, 200);
    let seen = seen.lock().unwrap();
    assert_eq!(seen.len(), 200);
    assert!(seen.iter().all(|is_same| *is_same), "{seen:?}");
}

#[test]
fn a_later_terminal_event_that_counts_is_delivered_too() {
    let receiver = Receiver::willing();
    let server = Server::with(&quick(&[]));
    server.publish(&told("op", receiver.address));
    delivered(&server, "op");
    // A later terminal event changes nothing.
    server.publish(&[ended("op", 40, "failed")]);
    // A terminal event earlier than the one that was sent.
    server.publish(&[ended("op", 20, "failed")]);
    let calls = receiver.eventually("a second one", |calls| calls.len() == 2);
    assert_eq!(calls[0].document()["status"], "completed");
    assert_eq!(calls[1].document()["status"], "failed");
    assert_eq!(calls[1].document()["last_update_time"], "20240506 070820");
    assert_ne!(calls[0].key(), calls[1].key());
    server.eventually("both are listed", |server| {
        list(server, "state=delivered").len() == 2
    });
}

#[test]
fn a_stream_sends_the_states_of_an_operation_in_order() {
    // The first delivery hangs. The second may not overtake it, and then replaces it.
    let receiver = Receiver::start(|call, _| match call.document()["status"].as_str() {
        Some("completed") => Reply::Hang,
        _ => Reply::Status(200),
    });
    let server = Server::with(&quick(&[("NOTIFICATIONS__TIMEOUT", "1500ms")]));
    server.publish(&told("op", receiver.address));
    receiver.eventually("the first is under way", |calls| calls.len() == 1);
    server.publish(&[ended("op", 20, "failed")]);
    let calls = receiver.eventually("the second", |calls| calls.iter().any(|call| call.taken));
    assert!(
        calls[1].at - calls[0].at >= Duration::from_millis(1400),
        "one at a time"
    );
    assert_eq!(calls.len(), 2, "the first one is not sent again");
    delivered(&server, "op");
    assert_eq!(list(&server, "").len(), 1);
}

#[test]
fn a_rebuild_and_a_restart_send_nothing_again() {
    let receiver = Receiver::willing();
    let deaf = Receiver::start(|_, _| Reply::Status(500));
    let folder = tempfile::tempdir().unwrap();
    let settings = quick(&[("NOTIFICATIONS__RETRY_MAX", "50ms")]);
    let server = Server::on(folder.path(), &settings);
    let events = (0..50).flat_map(|n| told(&format!("op-{n}"), receiver.address));
    server.publish(&events.collect::<Vec<_>>());
    server.publish(&told("deaf", deaf.address));
    delivered_all(&server, 50);
    let all = (0..50).map(|n| format!("op-{n}"));
    assert_same_set("each once", receiver.operations(), all);
    server.terminate();
    for step in ["restarted", "rebuilt", "store removed"] {
        match step {
            "rebuilt" => rebuild(folder.path()),
            "store removed" => std::fs::remove_dir_all(folder.path().join("store")).unwrap(),
            _ => {}
        }
        let before = deaf.calls().len();
        let server = Server::on(folder.path(), &settings);
        // New notifications are sent, and undelivered ones are still retried.
        server.publish(&told(step.split(' ').next().unwrap(), receiver.address));
        delivered(&server, step.split(' ').next().unwrap());
        deaf.eventually("retried", |calls| calls.len() > before + 2);
        server.eventually("everything was checked", |server| {
            let metrics = server.metrics();
            metrics.contains("opledger_webhook_deliveries{state=\"pending\"} 1\n")
        });
        for n in 0..50 {
            assert_eq!(receiver.of(&format!("op-{n}")).len(), 1, "{step}");
        }
        let operations: BTreeSet<_> = list(&server, "state=delivered&limit=7")
            .iter()
            .map(|entry| entry["operation_id"].to_string())
            .collect();
        assert!(operations.len() > 50, "{step}: deliveries are still known");
        server.terminate();
    }
}

#[test]
fn without_its_control_log_a_new_store_holds_all_deliveries_until_they_are_released() {
    let receiver = Receiver::willing();
    let folder = tempfile::tempdir().unwrap();
    let server = Server::on(folder.path(), &quick(&[]));
    let events = (0..10).flat_map(|n| told(&format!("op-{n}"), receiver.address));
    server.publish(&events.collect::<Vec<_>>());
    delivered_all(&server, 10);
    server.terminate();
    std::fs::remove_dir_all(folder.path().join("control")).unwrap();

    // The store still knows the control log: the ledger reports the loss and sends nothing.
    let server = Server::on(folder.path(), &quick(&[]));
    server.publish(&told("waits", receiver.address));
    server.eventually("halted", |server| {
        notes(server).contains("webhook deliveries have halted")
    });
    assert!(
        !folder.path().join("control").exists(),
        "the ledger creates no new one"
    );
    assert_eq!(server.get("/v1/operations/op-0").status, 200);
    server.terminate();
    let mut sent: Vec<_> = (0..10).map(|n| format!("op-{n}")).collect();
    assert_same_set("nothing more", receiver.operations(), sent.clone());

    // A new store knows nothing.
    rebuild(folder.path());
    let server = Server::on(folder.path(), &quick(&[]));
    server.eventually("held", |server| list(server, "state=held").len() == 11);
    server.publish(&told("new", receiver.address));
    delivered(&server, "new");
    sent.push("new".into());
    assert_same_set("only the new one", receiver.operations(), sent);
    assert_eq!(repair(&server, "op-3/release"), json!({"accepted": 1}));
    delivered(&server, "op-3");
    server.terminate();

    // Released deliveries stay released, and the others stay held.
    let server = Server::on(folder.path(), &quick(&[]));
    server.eventually("held", |server| list(server, "state=held").len() == 10);
    assert_eq!(repair(&server, "release"), json!({"accepted": 10}));
    delivered_all(&server, 12);
    assert_eq!(list(&server, "state=held"), Vec::<Value>::new());
    for n in 0..10 {
        let calls = receiver.of(&format!("op-{n}"));
        assert_eq!(calls.len(), 2);
        assert_eq!(calls[0].key(), calls[1].key(), "the key is the same");
    }
}

#[test]
fn an_operator_may_retry_deliveries_that_failed_permanently() {
    let open = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let door = open.clone();
    let receiver =
        Receiver::start(
            move |_, _| match door.load(std::sync::atomic::Ordering::SeqCst) {
                true => Reply::Status(200),
                false => Reply::Status(500),
            },
        );
    let server = Server::with(&quick(&[("NOTIFICATIONS__GIVE_UP_AFTER", "1s")]));
    for n in 0..5 {
        server.publish(&told(&format!("op-{n}"), receiver.address));
    }
    server.eventually("all fail", |server| list(server, "state=failed").len() == 5);
    let given_up = &list(&server, "operation_id=op-1")[0];
    assert_eq!(given_up["last_error"], "response 500");
    assert!(given_up["attempts"].as_u64() > Some(1));
    let before = receiver.calls().len();
    open.store(true, std::sync::atomic::Ordering::SeqCst);
    assert_eq!(repair(&server, "op-1/retry"), json!({"accepted": 1}));
    delivered(&server, "op-1");
    assert_eq!(
        list(&server, "operation_id=op-1")[0]["attempts"],
        1,
        "counted from zero"
    );
    assert_eq!(
        receiver.calls().len(),
        before + 1,
        "the others stay failed permanently"
    );

    let url = format!("http://{}", server.address);
    let run = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_opledger"));
        let output = command
            .args(arguments)
            .args(["--url", &url])
            .output()
            .unwrap();
        (
            output.status.code(),
            String::from_utf8_lossy(&output.stdout).into_owned(),
        )
    };
    let (status, text) = run(&["notifications", "retry", "--all", "--why", "it is back"]);
    assert_eq!((status, text.as_str()), (Some(0), "4 deliveries retried\n"));
    server.eventually("all", |server| list(server, "state=delivered").len() == 5);
    let (status, text) = run(&["notifications", "list", "--state", "delivered"]);
    assert_eq!((status, text.lines().count()), (Some(0), 6), "{text}");
    let target = receiver.address.to_string();
    assert!(text.contains("op-1") && text.contains(&target), "{text}");
    assert_eq!(
        run(&["notifications", "retry", "op-1"]).0,
        Some(3),
        "there is nothing to retry"
    );
    assert_eq!(run(&["notifications", "release", "op-1"]).0, Some(3));
}

#[test]
fn kill_9_may_send_again_under_the_same_key_and_loses_none() {
    let lives = if soak() { 50 } else { 5 };
    let failing = std::sync::Mutex::new(Rng::new(9));
    let receiver = Receiver::start(move |_, _| match failing.lock().unwrap().below(10) {
        0 => Reply::Status(500),
        1 => Reply::Reset,
        _ => Reply::Status(200),
    });
    let folder = tempfile::tempdir().unwrap();
    let settings = quick(&[]);
    let mut rng = Rng::new(5);
    let mut sent = 0;
    for _ in 0..lives {
        let server = Server::on(folder.path(), &settings);
        for _ in 0..10 {
            let events = (0..10).flat_map(|n| told(&format!("op-{}", sent + n), receiver.address));
            server.publish(&events.collect::<Vec<_>>());
            sent += 10;
        }
        std::thread::sleep(Duration::from_millis(rng.below(300) as u64));
        server.kill();
    }
    let server = Server::on(folder.path(), &settings);
    delivered_all(&server, sent);
    let mut taken: BTreeMap<String, BTreeMap<String, usize>> = BTreeMap::new();
    for call in receiver.calls().iter().filter(|call| call.taken) {
        let keys = taken.entry(call.operation().to_owned()).or_default();
        *keys.entry(call.key().to_owned()).or_default() += 1;
    }
    let all = (0..sent).map(|n| format!("op-{n}"));
    assert_same_set("none is lost", taken.keys().cloned(), all);
    assert!(
        taken.values().all(|keys| keys.len() == 1),
        "one key for each"
    );
    let twice = taken
        .values()
        .filter(|keys| keys.values().sum::<usize>() > 1)
        .count();
    assert!(twice <= lives * 130, "no more than was under way: {twice}");
}

#[test]
fn requests_about_notifications_are_checked() {
    let server = Server::with(&quick(&[]));
    server
        .get("/v1/notifications?state=lost")
        .refused(400, "010002");
    server
        .get("/v1/notifications?stat=held")
        .refused(400, "010001");
    server
        .get("/v1/notifications?cursor=AA")
        .refused(400, "010001");
    server
        .get("/v1/notifications?limit=0")
        .refused(400, "010003");
    let client = server.client();
    let post = |path: &str, kind: &str, body: &str| {
        client.post(
            &format!("/v1/notifications/{path}"),
            &[("content-type", kind)],
            body,
        )
    };
    post("op/retry", "text/plain", "{}").refused(415, "010001");
    let twice = [
        ("content-type", "application/json"),
        ("content-type", "text/plain"),
    ];
    let path = "/v1/notifications/op/retry";
    client.post(path, &twice, "{}").refused(400, "010001");
    post("op/retry", "application/json", "[").refused(400, "010001");
    post("op/retry", "application/json", "{\"who\": 7}").refused(400, "010001");
    let long = json!({"why": "x".repeat(1025)}).to_string();
    post("op/retry", "application/json", &long).refused(400, "010003");
    post("op/retry", "application/json", "{}").refused(404, "030001");
    post("op/release", "application/json", "").refused(404, "030001");
    assert_eq!(
        post("retry", "application/json", "{}").json(),
        json!({"accepted": 0})
    );
    assert_eq!(client.request("PUT", "/v1/notifications/retry").status, 405);
    assert_eq!(list(&server, ""), Vec::<Value>::new());
}
