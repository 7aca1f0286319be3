//! The client of the library, its commands, and clients in other languages, against the built
//! binary.

use crate::support::deadline::LATER;
use crate::support::root;
use crate::support::same::assert_same_text;
use crate::support::server::Server;
use crate::support::stories::{stories, subject};
use opledger::client::{Change, Client, Document, Error, Event, Filter, Status};
use serde_json::json;
use std::collections::BTreeSet;
use std::future::Future;
use std::process::{Command, Output};
use std::time::Duration;
use std::time::Instant;
use tokio::runtime::Runtime;

fn runtime() -> Runtime {
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    runtime.worker_threads(2).enable_all().build().unwrap()
}

async fn in_time<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(LATER, work)
        .await
        .expect("the client finishes within a minute")
}

fn block_on<T>(work: impl Future<Output = T>) -> T {
    runtime().block_on(in_time(work))
}

fn client(server: &Server) -> Client {
    Client::new(&format!("http://{}", server.address)).unwrap()
}

fn created(id: &str) -> Event {
    let request = json!({"request": {"uri": "/v1/slices/A", "method": "PUT", "body": "{}"}});
    Event::new("/workers/test", id, "operation.created", request)
}

fn completed(id: &str) -> Event {
    let response = json!({"response": {"status_code": 200, "body": "done"}});
    Event::new("/workers/test", id, "operation.completed", response)
}

#[test]
fn documents_are_read_as_they_are() {
    let server = Server::start();
    let mut token = String::new();
    let mut all = Vec::new();
    for story in stories() {
        token = server.publish(&story.events);
        all.push(subject(&story.events).to_owned());
    }
    let served = |id: &String| {
        let answer = server.get_with(
            &format!("/v1/operations/{id}"),
            &[("ledger-position", &token)],
        );
        (id.clone(), answer)
    };
    let served: Vec<_> = all.iter().map(served).collect();
    block_on(async {
        let client = client(&server);
        for (id, served) in served {
            let document = client.get_at(&id, Some(&token)).await.unwrap();
            let Some(document) = document else {
                assert_eq!(served.status, 404);
                continue;
            };
            assert_same_text(&id, document.json.as_bytes(), &served.body);
            let served = served.json();
            assert_eq!(document.status.as_str(), served["status"]);
            assert_eq!(
                document.request.body.as_deref(),
                served["request"]["body"].as_str()
            );
        }
        assert_eq!(client.get("nobody").await.unwrap(), None);
        assert!(matches!(client.watch(".."), Err(Error::NotFound(_))));
    });
}

#[test]
fn many_publishes_share_requests_and_one_bad_event_fails_alone() {
    let server = Server::start();
    block_on(async {
        let publisher = client(&server).publisher();
        let tasks: Vec<_> = (0..2000)
            .map(|n| {
                let publisher = publisher.clone();
                tokio::spawn(async move {
                    let id = format!("op-{}", n % 100);
                    let mut event = created(&id).id(&format!("e-{n}"));
                    if n == 777 {
                        event = Event::new("/w", "not an id", "operation.started", json!({}));
                    }
                    (n, publisher.publish(event).await)
                })
            })
            .collect();
        let mut positions = BTreeSet::new();
        for task in tasks {
            match task.await.unwrap() {
                (777, outcome) => {
                    let error = outcome.unwrap_err();
                    assert!(
                        matches!(&error, Error::Refused { code, .. } if code == "010002"),
                        "{error}"
                    );
                }
                (_, outcome) => {
                    positions.insert(outcome.unwrap().position);
                }
            }
        }
        assert_eq!(positions.len(), 1999, "each once");
    });
    let metrics = server.metrics();
    let line = metrics.lines().find(|line| {
        line.starts_with("opledger_http_requests_total")
            && line.contains("/v1/events")
            && line.contains("202")
    });
    let requests: u64 = line.unwrap().rsplit(' ').next().unwrap().parse().unwrap();
    assert!(requests < 700, "{requests} requests for 2,000 events");
}

#[test]
fn a_client_waits_for_an_operation_that_does_not_exist_yet_and_over_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::on(folder.path(), &[]);
    let address = server.address;
    let (runtime, client) = (runtime(), client(&server));
    let (publisher, waiter) = runtime.block_on(in_time(async {
        let error = client.wait("later", Some(Duration::from_millis(300))).await;
        assert!(matches!(error, Err(Error::TimedOut)), "{error:?}");
        let waiter = tokio::spawn(async move { client.wait("later", None).await });
        let publisher = self::client(&server).publisher();
        publisher.publish(created("later")).await.unwrap();
        (publisher, waiter)
    }));
    server.kill();
    // While no ledger listens, the client retries.
    let publishing = runtime.spawn(async move { publisher.publish(completed("later")).await });
    let _server = Server::at(folder.path(), address);
    runtime.block_on(in_time(async {
        publishing.await.unwrap().unwrap();
        let document = waiter.await.unwrap().unwrap();
        assert_eq!(document.status, Status::Completed);
        assert_eq!(document.response.unwrap().body.as_deref(), Some("done"));
    }));
}

#[test]
fn a_list_is_followed_from_page_to_page() {
    let server = Server::start();
    block_on(async {
        let client = client(&server);
        let publisher = client.publisher();
        let mut token = String::new();
        for n in 0..1200 {
            let id = format!("op-{n:04}");
            let event = created(&id).time(&format!("2024-05-06T07:{:02}:{:02}Z", n / 60, n % 60));
            let published = publisher.publish(event).await.unwrap();
            token = published.token;
        }
        publisher.publish(completed("op-0007")).await.unwrap();
        // One of the last: the publisher sent the others before it, one by one.
        client
            .get_at("op-1199", Some(&token))
            .await
            .unwrap()
            .unwrap();
        let mut list = client.list(Filter::default());
        for n in (0..1200).rev() {
            let listed = list.next().await.unwrap().unwrap();
            assert_eq!(listed.operation_id, format!("op-{n:04}"));
            assert_eq!(listed.request.body, None, "without bodies");
        }
        assert_eq!(list.next().await.unwrap(), None);
        client.wait("op-0007", None).await.unwrap();
        let mut ended = client.list(Filter {
            statuses: vec![Status::Completed, Status::Failed],
            ..Filter::default()
        });
        let listed = ended.next().await.unwrap().unwrap();
        assert_eq!(listed.operation_id, "op-0007");
        assert_eq!(ended.next().await.unwrap(), None);
    });
}

async fn document(watch: &mut opledger::client::Watch) -> Document {
    match watch.next().await.unwrap() {
        Some(Change::Document(document)) => *document,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_watch_resumes_where_it_broke_off() {
    let server = Server::start();
    block_on(async {
        let client = client(&server);
        let publisher = client.publisher();
        let mut one = client.watch("a").unwrap();
        let mut unfinished = client.watch_all(&Filter {
            statuses: vec![Status::Unexecuted],
            ..Filter::default()
        });
        publisher.publish(created("a")).await.unwrap();
        assert_eq!(document(&mut one).await.status, Status::Unexecuted);
        assert_eq!(document(&mut unfinished).await.operation_id, "a");
        publisher.publish(created("b")).await.unwrap();
        assert_eq!(document(&mut unfinished).await.operation_id, "b");
        // The client disconnects for a while, and resumes at its position.
        let position = unfinished.position().expect("sent").to_owned();
        drop(unfinished);
        publisher.publish(completed("a")).await.unwrap();
        assert_eq!(document(&mut one).await.status, Status::Completed);
        assert_eq!(one.next().await.unwrap(), None, "it has ended");
        let filter = Filter {
            statuses: vec![Status::Unexecuted],
            ..Filter::default()
        };
        let mut again = client.watch_all(&filter).from_position(&position);
        assert_eq!(again.next().await.unwrap(), Some(Change::Left("a".into())));
        // A position of another log.
        let mut strange = client.watch_all(&filter).from_position("zzzzzzzz;0:1");
        assert_eq!(strange.next().await.unwrap(), Some(Change::Reset));
        assert_eq!(document(&mut strange).await.operation_id, "b");
    });
}

fn command(server: &Server, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_opledger"));
    let url = format!("http://{}", server.address);
    command.args(args).args(["--url", &url]).output().unwrap()
}

#[test]
fn commands_wait_and_watch() {
    let server = Server::start();
    let mut token = String::new();
    for story in stories() {
        token = server.publish(&story.events);
    }
    let mut seen = BTreeSet::new();
    for story in stories() {
        let id = subject(&story.events);
        let document = server.document(id, &token).unwrap();
        let status = document["status"].as_str().unwrap();
        let waited = command(&server, &["wait", id, "--timeout", "1", "--json"]);
        let expected = match status {
            "completed" => 0,
            "failed" | "canceled" => 9,
            _ => 5,
        };
        assert_eq!(waited.status.code(), Some(expected), "{id} {status}");
        if expected != 5 {
            let served = server.get(&format!("/v1/operations/{id}"));
            let printed: serde_json::Value = serde_json::from_slice(&waited.stdout).unwrap();
            assert_eq!(printed, served.json());
            let watched = command(&server, &["watch", id]);
            assert!(watched.status.success(), "{watched:?}");
            let line = String::from_utf8(watched.stdout).unwrap();
            assert!(line.starts_with(status) && line.contains(id), "{line}");
        }
        seen.insert(expected);
    }
    assert!(seen.is_superset(&[0, 9].into()), "{seen:?}");
    let refused = command(&server, &["watch", "--from", "nonsense"]);
    assert_eq!(refused.status.code(), Some(2), "{refused:?}");
}

/// The first line of an example says how to call it. Each language reports an unexpected
/// mistake in its own words.
#[test]
fn examples_say_how_they_are_called() {
    let run = root().join("tests/clients/run");
    let files = [
        "client.py",
        "client.mjs",
        "Client.java",
        "worker.py",
        "worker.mjs",
        "Worker.java",
    ];
    for name in files {
        let example = root().join("examples").join(name);
        for arguments in [&[][..], &["http://127.0.0.1:1"], &["a", "b", "c", "d"]] {
            let ran = Command::new(&run)
                .arg(&example)
                .args(arguments)
                .output()
                .unwrap();
            let said = String::from_utf8_lossy(&ran.stderr);
            assert_eq!(ran.status.code(), Some(1), "{name} {arguments:?}: {said}");
            assert!(said.starts_with("usage: "), "{name} {arguments:?}: {said}");
            assert!(said.lines().count() == 1, "{name} {arguments:?}: {said}");
        }
    }
}

/// Each example publishes, waits for the terminal event and watches.
#[test]
fn examples_in_other_languages_work() {
    let server = Server::start();
    let base = format!("http://{}", server.address);
    let run = root().join("tests/clients/run");
    for name in ["client.py", "client.mjs", "Client.java"] {
        let example = root().join("examples").join(name);
        let id = format!("example-{}", name.replace('.', "-"));
        let started = Instant::now();
        let ran = Command::new(&run)
            .arg(example)
            .args([&base, &id])
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&ran.stdout);
        assert!(
            ran.status.success(),
            "{name}: {said}\n{}",
            String::from_utf8_lossy(&ran.stderr)
        );
        let lines: Vec<_> = said.lines().collect();
        assert!(lines.contains(&"watched: completed"), "{name}: {said}");
        assert!(lines.contains(&"waited: completed"), "{name}: {said}");
        assert!(started.elapsed() < LATER, "{name}");
        assert_eq!(
            server.get(&format!("/v1/operations/{id}")).json()["status"],
            "completed"
        );
    }
}
