//! The web page in a real browser, on the built binary: see tests/ui/page.mjs.

use crate::support::in_process::log_as_is;
use crate::support::root;
use crate::support::same::assert_same_text;
use crate::support::server::Server;
use bytes::Bytes;
use opledger::domain::Timestamp;
use opledger::wire::record::{Headers, Record};
use std::path::Path;
use std::process::Command;

/// Runs one check of the page against a ledger.
#[track_caller]
fn check(name: &str, server: &Server) {
    let folder = root().join("tests/ui");
    let base = format!("http://{}", server.address);
    let ran = Command::new(folder.join("run"))
        .arg(folder.join("page.mjs"))
        .args([name, &base])
        .output();
    let ran = ran.expect("Node runs: make setup-tests");
    let told = String::from_utf8_lossy(&ran.stderr);
    assert!(ran.status.success(), "{name}: {told}");
}

#[test]
fn the_list_filters_pages_and_links() {
    check("list", &Server::start());
}

#[test]
fn the_page_shows_changes_at_once() {
    check("live", &Server::start());
}

#[test]
fn the_timeline_shows_the_course_of_an_operation() {
    check("timeline", &Server::start());
}

#[test]
fn numbers_are_shown_unchanged() {
    check("numbers", &Server::start());
}

#[test]
fn the_page_shows_each_of_several_workers() {
    check("workers", &Server::with(&[("PROJECTOR__WORKERS", "4")]));
    check("alone", &Server::with(&[("PROJECTOR__WORKERS", "1")]));
}

#[test]
fn every_field_is_shown_as_text() {
    let folder = tempfile::tempdir().unwrap();
    log_with_poison(folder.path());
    check("hostile", &Server::on(folder.path(), &[]));
}

#[test]
fn the_page_is_for_everyone() {
    let folder = tempfile::tempdir().unwrap();
    log_with_poison(folder.path());
    check("everyone", &Server::on(folder.path(), &[]));
}

/// A log that begins with invalid records.
fn log_with_poison(folder: &Path) {
    let record = |key: &'static [u8], value: Option<&'static [u8]>| Record {
        arrived: Timestamp::from_millis(1_715_000_000_123),
        claimed: false,
        key: Some(Bytes::from_static(key)),
        headers: Headers(vec![
            (
                "<b>name</b>".into(),
                Some(Bytes::from_static(b"<script>alert(9)</script>")),
            ),
            ("bytes".into(), Some(Bytes::from_static(b"\xff"))),
        ]),
        value: value.map(Bytes::from_static),
    };
    let event = br#"{"specversion":"1.0","id":"e","source":"/w","subject":"op","type":"opledger.operation.started.v1","time":"2024-05-06T07:08:09Z"}"#;
    let records = [
        record(
            b"<img src=x onerror=alert(7)>",
            Some(b"<img src=x onerror=alert(7)>"),
        ),
        record(b"\xff\xfe", Some(b"\x00\xff\xfe\x01")),
        record(b"other", Some(event)),
        record(b"op", None),
    ];
    log_as_is(folder, &records);
}

const BUDGET: usize = 150_000;

/// Every file of `ui/`: its name and its content.
fn files() -> Vec<(String, Vec<u8>)> {
    let entries = std::fs::read_dir(root().join("ui")).unwrap();
    let read = |entry: std::io::Result<std::fs::DirEntry>| {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        (name, std::fs::read(path).unwrap())
    };
    entries.map(read).collect()
}

#[test]
fn the_page_is_small_and_asks_nobody_else() {
    let files = files();
    let size: usize = files.iter().map(|(_, bytes)| bytes.len()).sum();
    assert!(size <= BUDGET, "{size} bytes, of {BUDGET}");
    for (name, bytes) in files {
        let text = String::from_utf8(bytes).expect("a text file");
        let text = text.replace("http://www.w3.org/2000/svg", "");
        for banned in [
            "http://",
            "https://",
            "innerHTML",
            "insertAdjacentHTML",
            "eval(",
        ] {
            assert!(!text.contains(banned), "{name} has {banned}");
        }
    }
}

#[test]
fn every_file_is_served_under_the_policy_and_cached_by_its_etag() {
    let server = Server::start();
    for (name, bytes) in files() {
        let path = match name.as_str() {
            "index.html" => "/".to_owned(),
            "docs.html" => "/docs".to_owned(),
            name => format!("/ui/{name}"),
        };
        let served = server.get(&path);
        assert_eq!(served.status, 200, "{path}");
        assert_same_text(&path, &served.body, &bytes);
        let policy = served.header("content-security-policy");
        assert!(policy.starts_with("default-src 'none'; script-src 'self'; style-src 'self';"));
        assert!(!policy.contains("unsafe"), "{policy}");
        assert_eq!(served.header("x-content-type-options"), "nosniff");
        assert_eq!(served.header("cache-control"), "no-cache");
        let etag = served.header("etag").to_owned();
        let again = server.get_with(&path, &[("if-none-match", &etag)]);
        assert_eq!((again.status, again.body.len()), (304, 0), "{path}");
        assert_eq!(again.header("content-security-policy"), policy);
    }
    for path in [
        "/ui/",
        "/ui/index.html",
        "/ui/docs.html",
        "/ui/..%2FCargo.toml",
        "/ui/x.js",
    ] {
        server.get(path).refused(404, "030001");
    }
}

#[test]
fn counts_and_samples_agree_with_what_was_published() {
    let folder = tempfile::tempdir().unwrap();
    let mut expected = std::collections::BTreeMap::new();
    for round in 0..2 {
        let server = Server::on(folder.path(), &[("PROJECTOR__WORKERS", "4")]);
        if round == 0 {
            for story in crate::support::stories::stories() {
                let token = server.publish(&story.events);
                let id = crate::support::stories::subject(&story.events).to_owned();
                if let Some(document) = server.document(&id, &token) {
                    let status = document["status"].as_str().unwrap().to_owned();
                    expected.insert(id, status);
                }
            }
        }
        // The ledger counts them as they come, and has the same count after a restart.
        server.eventually("all are counted", |server| {
            let state = server.get("/projector").json();
            ["unexecuted", "executing", "completed", "failed", "canceled"]
                .iter()
                .all(|status| {
                    let count = expected.values().filter(|held| held == status).count();
                    state["operations"][status] == count
                })
        });
        server.eventually("one read has it all", |server| {
            let state = server.get("/projector").json();
            let sum = |offsets: &serde_json::Value| {
                let offsets = offsets.as_object().unwrap().values();
                offsets.map(|offset| offset.as_u64().unwrap()).sum::<u64>()
            };
            let last = state["moments"].as_array().unwrap().last().cloned();
            last.is_some_and(|last| {
                let partitions = state["partitions"].as_array().unwrap();
                let end = partitions.iter().map(|p| p["end"].as_u64().unwrap());
                sum(&last["end"]) == end.sum::<u64>() && sum(&last["next"]) == sum(&last["end"])
            })
        });
        let state = server.get("/projector").json();
        assert_eq!(state["state"], "running");
        let workers = state["workers"].as_array().unwrap();
        let slices = workers.iter().map(|worker| {
            let slice = |name: &str| worker[name].as_u64().unwrap();
            (slice("first_slice"), slice("last_slice"))
        });
        let slices: Vec<_> = slices.collect();
        assert_eq!(slices, [(0, 15), (16, 31), (32, 47), (48, 63)]);
        // A worker passes the records of the others, too.
        server.eventually("no worker lags", |server| {
            let metrics = server.metrics();
            let has = |worker: usize| {
                metrics.contains(&format!(
                    "opledger_worker_lag_records{{worker=\"{worker}\"}} 0\n"
                ))
            };
            (0..4).all(has) && metrics.contains("opledger_worker_busy_ratio{worker=\"3\"}")
        });
        let at = state["moments"][0]["at"].as_u64().unwrap();
        let newer = server.get(&format!("/projector?since={at}")).json();
        let newer = newer["moments"].as_array().unwrap();
        assert!(newer.iter().all(|moment| moment["at"].as_u64() > Some(at)));
        server.get("/projector?since=x").refused(400, "010001");
        server.get("/projector?sinc=1").refused(400, "010001");
        let metrics = server.metrics();
        assert!(metrics.contains("opledger_operations{status=\"completed\"}"));
    }
}
