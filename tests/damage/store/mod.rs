//! Every kind of damage to the store. The ledger serves the same documents as before the damage, it
//! counts and reports missing ones, and its advice works.

mod files;
mod served;

use crate::support::generate::Rng;
use crate::support::server::{Server, Settings};
use crate::support::unprivileged::Unprivileged;
use files::{copy, cut_to, files, flip, flip_part, length, manifest, sst, wals, zero};
use serde_json::{Value, json};
use served::{Served, check_part};
use std::fs::{self, File, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// Larger events were accepted under an earlier limit and are dead letters now. Pages show the
/// operations that exist when the first page is read.
const SETTINGS: Settings = &[
    ("EVENTS__MAX_SIZE", "100KiB"),
    ("LISTS__SHARE", "0s"),
    // What is served is compared as soon as the last event is: the others come before it.
    ("PROJECTOR__WORKERS", "1"),
];
const OPERATIONS: usize = 900;

fn id(n: usize) -> String {
    format!("operation-of-the-damaged-store-{n:05}")
}

fn event(n: usize, at: usize, kind: &str, data: Value) -> Value {
    json!({"specversion": "1.0", "id": format!("e{at}"), "source": "/w", "subject": id(n),
        "type": format!("opledger.{kind}.v1"), "data": data,
        "time": format!("2024-05-06T{:02}:{:02}:{:02}.{at:03}Z", n / 3600, n / 60 % 60, n % 60)})
}

/// Text that does not compress.
fn noise(rng: &mut Rng, length: usize) -> String {
    let letters = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_";
    (0..length)
        .map(|_| char::from(*rng.pick(letters)))
        .collect()
}

/// Operations of every kind that is stored differently: open, ended, with many lanes, with large
/// bodies, with pending notifications, with responses to no request.
fn events() -> Vec<Value> {
    let mut rng = Rng::new(11);
    let mut all = Vec::new();
    for n in 0..OPERATIONS {
        let mut request = json!({"uri": format!("/v1/{}", n % 7), "method": "PUT"});
        if n % 30 == 0 {
            request["body"] = noise(&mut rng, 9000).into();
        }
        let mut data = json!({"request": request});
        if n % 50 == 0 {
            data["notification"] = json!({"address": "127.0.0.1", "port": 9});
        }
        all.push(event(n, 0, "operation.created", data));
        let lanes = if n == 7 || n == 8 { 60 } else { n % 3 };
        for lane in 0..lanes {
            let at = json!({"cluster_id": format!("c-{lane}"), "request_id": "r"});
            let mut sent = at.clone();
            sent["request"] = json!({"uri": "/x", "method": "PUT"});
            if n % 11 != 0 {
                all.push(event(n, 1 + lane, "cluster.request_sent", sent));
            }
            let mut received = at;
            received["response"] = json!({"status_code": 200, "body": noise(&mut rng, 40)});
            all.push(event(n, 100 + lane, "cluster.response_received", received));
        }
        match n % 4 {
            0 => all.push(event(n, 200, "operation.started", json!({}))),
            1 => {}
            _ => {
                let body = noise(&mut rng, if n % 40 == 2 { 8000 } else { 300 });
                let data = json!({"response": {"status_code": 200, "body": body}});
                all.push(event(n, 201, "operation.completed", data));
            }
        }
        if n < 100 && n % 30 == 1 {
            let body = noise(&mut rng, 150_000);
            let data = json!({"request": {"uri": "/x", "method": "PUT", "body": body}});
            all.push(event(OPERATIONS + n, 0, "operation.created", data));
        }
    }
    all
}

/// Events after the damage: for existing operations and for a new one.
fn later() -> Vec<Value> {
    vec![
        event(1, 300, "operation.progressed", json!({"sub_status": "on"})),
        event(4, 300, "operation.canceled", json!({})),
        event(
            3,
            300,
            "operation.progressed",
            json!({"sub_status": "late"}),
        ),
        event(
            OPERATIONS + 5,
            0,
            "operation.created",
            json!({"request": {"uri": "/new", "method": "POST"}}),
        ),
    ]
}

fn publish(server: &Server, events: &[Value]) -> String {
    let mut token = String::new();
    for some in events.chunks(300) {
        token = server.publish(some);
    }
    let path = format!("/v1/operations/{}", id(0));
    let read = server.get_with(&path, &[("ledger-position", &token), ("prefer", "wait=60")]);
    assert_eq!(read.status, 200, "{read:?}");
    token
}

/// The data folders before the damage, and what the ledger serves from them.
struct Fixture {
    folder: tempfile::TempDir,
    /// From all events in the log.
    before: Served,
    /// From the later events as well.
    after: Served,
}

impl Fixture {
    /// After a clean stop: all data is in flushed files.
    fn stopped(&self) -> PathBuf {
        self.folder.path().join("stopped")
    }

    /// After a kill during its work: only the write-ahead log has the last writes.
    fn killed(&self) -> PathBuf {
        self.folder.path().join("killed")
    }

    /// The store without the last third of the events.
    fn older(&self) -> PathBuf {
        self.folder.path().join("older")
    }
}

fn fixture() -> &'static Fixture {
    static FIXTURE: OnceLock<Fixture> = OnceLock::new();
    FIXTURE.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let all = events();
        let (early, late) = all.split_at(all.len() * 2 / 3);
        // First the log, with events that are too large for the store's limit.
        let server = Server::on(&path("log"), &[]);
        publish(&server, early);
        assert!(server.terminate().success());
        fs::remove_dir_all(path("log").join("store")).unwrap();
        let server = Server::on(&path("log"), SETTINGS);
        server.eventually("folded", |server| server.get("/readyz").status == 200);
        assert!(server.terminate().success());
        copy(&path("log"), &path("older"));
        let server = Server::on(&path("log"), SETTINGS);
        publish(&server, late);
        server.kill();
        copy(&path("log"), &path("killed"));
        let server = Server::on(&path("log"), SETTINGS);
        server.eventually("folded", |server| server.get("/readyz").status == 200);
        let before = Served::by(&server);
        assert!(server.terminate().success());
        copy(&path("log"), &path("stopped"));
        let server = Server::on(&path("log"), SETTINGS);
        publish(&server, &later());
        let after = Served::by(&server);
        assert!(server.terminate().success());
        Fixture {
            before,
            after,
            folder,
        }
    })
}

/// The result of the damage when the ledger starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Comes {
    /// The ledger does not start and reports that the store is damaged.
    Refused,
    /// Everything is served, from other rows or after another fold.
    Whole,
    /// Something is missing, and the ledger reports it.
    Part,
    /// Whole if RocksDB had not yet removed the write-ahead log that it flushed last, otherwise
    /// refused.
    Complete,
}
use Comes::{Complete, Part, Refused, Whole};

struct Row {
    name: &'static str,
    /// Damages the folder of the killed ledger instead of the stopped one.
    of_killed: bool,
    damage: fn(&Path),
    comes: Comes,
}

/// Runs all rows, even if one fails. Fails with every row that failed.
fn run_all(rows: impl IntoIterator<Item = Row>) {
    fixture();
    let failed = rows.into_iter().filter_map(|row| {
        let outcome = std::panic::catch_unwind(|| run(&row));
        let why = outcome.err()?;
        let why = match why.downcast::<String>() {
            Ok(why) => *why,
            Err(_) => "see above".into(),
        };
        Some(format!("{}: {why}", row.name))
    });
    let failed: Vec<_> = failed.collect();
    assert!(failed.is_empty(), "\n{}", failed.join("\n"));
}

fn run(row: &Row) {
    let fixture = fixture();
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let name = row.name;
    let from = if row.of_killed {
        fixture.killed()
    } else {
        fixture.stopped()
    };
    copy(&from, &data);
    (row.damage)(&data.join("store"));
    let came = match Server::try_on(&data, SETTINGS) {
        Err((status, said)) => {
            assert_eq!(status, Some(7), "{name}: {said}");
            assert!(said.contains("the store is damaged"), "{name}: {said}");
            assert!(said.contains("run `opledger rebuild`"), "{name}: {said}");
            assert!(!said.contains("try again"), "{name}: {said}");
            Refused
        }
        Ok(server) => {
            // The projector has halted, or the store has everything in the log.
            server.eventually("folded or halted", |server| {
                let ready = server.get("/readyz");
                let text = String::from_utf8_lossy(&ready.body).into_owned();
                let has_all = "\nopledger_projector_lag_records 0\n";
                text.contains("halted")
                    || !text.contains("restoring") && server.metrics().contains(has_all)
            });
            let is_missing = check_part(name, &server, &fixture.before);
            // The ledger accepts events. It applies them or reports that it has halted.
            let token = server.publish(&later());
            let path = format!("/v1/operations/{}", id(0));
            let waited = [("ledger-position", &token[..]), ("prefer", "wait=5")];
            match server.get_with(&path, &waited).status {
                200 | 500 => drop(check_part(name, &server, &fixture.after)),
                504 => {
                    let ready = server.get("/readyz");
                    let text = String::from_utf8_lossy(&ready.body);
                    assert!(
                        text.contains("halted") && text.contains("rebuild"),
                        "{name}: {text}"
                    );
                    check_part(name, &server, &fixture.before);
                }
                status => panic!("{name}: {status}"),
            }
            assert!(server.terminate().success());
            if is_missing { Part } else { Whole }
        }
    };
    match row.comes {
        Complete => assert_ne!(came, Part, "{name}"),
        comes => assert_eq!(came, comes, "{name}"),
    }
    rebuild(name, &data);
    let server = Server::on(&data, SETTINGS);
    let expected = match came {
        Refused => &fixture.before,
        _ => &fixture.after,
    };
    server.eventually("ready", |server| server.get("/readyz").status == 200);
    assert!(
        !check_part(name, &server, expected),
        "{name}: after the rebuild"
    );
    let ready = server.get("/readyz");
    assert!(
        !String::from_utf8_lossy(&ready.body).contains("damaged"),
        "{name}"
    );
    assert!(server.terminate().success());
}

/// Follows the ledger's advice.
fn rebuild(name: &str, data: &Path) {
    let mut rebuild = Command::new(env!("CARGO_BIN_EXE_opledger"));
    rebuild.args(["rebuild", "--data"]).arg(data);
    for (setting, value) in SETTINGS {
        rebuild.env(format!("OPLEDGER_{setting}"), value);
    }
    let rebuilt = rebuild.output().unwrap();
    let said = String::from_utf8_lossy(&rebuilt.stderr);
    assert!(rebuilt.status.success(), "{name}: {said}");
    assert_eq!(said, "", "{name}");
}

/// An offset in the first block of rows.
const FIRST: u64 = 30;

macro_rules! rows {
    ($($name:literal, $from:ident, $comes:ident, $damage:expr;)*) => {
        [$(Row {
            name: $name,
            of_killed: stringify!($from) == "killed",
            damage: $damage,
            comes: $comes,
        }),*]
    };
}

#[test]
fn a_store_whose_own_files_are_damaged_is_refused_or_served_whole() {
    run_all(rows![
        "CURRENT emptied", stopped, Refused, |s| fs::write(s.join("CURRENT"), "").unwrap();
        "CURRENT removed", stopped, Refused, |s| fs::remove_file(s.join("CURRENT")).unwrap();
        "CURRENT names a missing file", stopped, Refused, |s|
            fs::write(s.join("CURRENT"), "MANIFEST-999999\n").unwrap();
        "CURRENT is text of another kind", stopped, Refused, |s|
            fs::write(s.join("CURRENT"), "hello\n").unwrap();
        "CURRENT is a folder", stopped, Refused, |s| {
            fs::remove_file(s.join("CURRENT")).unwrap();
            fs::create_dir(s.join("CURRENT")).unwrap();
        };
        "MANIFEST removed", stopped, Refused, |s| fs::remove_file(manifest(s)).unwrap();
        "MANIFEST emptied", stopped, Refused, |s| cut_to(&manifest(s), 0);
        "MANIFEST flipped at its begin", stopped, Refused, |s| flip(&manifest(s), 12);
        "MANIFEST flipped in its middle", stopped, Refused, |s| flip_part(&manifest(s), 50);
        "MANIFEST without its last byte", stopped, Complete, |s| {
            let file = File::options().write(true).open(manifest(s)).unwrap();
            file.set_len(length(&manifest(s)) - 1).unwrap();
        };
        "MANIFEST without its last half", stopped, Refused, |s| cut_to(&manifest(s), 50);
        "OPTIONS is garbage", stopped, Whole, |s| {
            for file in files(s, |name| name.starts_with("OPTIONS-")) {
                fs::write(file, [0xFF; 100]).unwrap();
            }
        };
        "IDENTITY removed", stopped, Whole, |s| fs::remove_file(s.join("IDENTITY")).unwrap();
        "FLOOR is garbage", stopped, Whole, |s| fs::write(s.join("FLOOR"), [0xFF; 9]).unwrap();
        "a file in the place of the folder", stopped, Refused, |s| {
            fs::remove_dir_all(s).unwrap();
            fs::write(s, "a file").unwrap();
        };
        "the folder is removed", stopped, Whole, |s| fs::remove_dir_all(s).unwrap();
        "the store as it was before", stopped, Whole, |s| {
            fs::remove_dir_all(s).unwrap();
            copy(&fixture().older().join("store"), s);
        };
        "a manifest as it was before", stopped, Refused, |s| {
            let older = fixture().older().join("store");
            let theirs = manifest(&older);
            fs::copy(&theirs, s.join(theirs.file_name().unwrap())).unwrap();
            fs::copy(older.join("CURRENT"), s.join("CURRENT")).unwrap();
        };
    ]);
}

#[test]
fn a_damaged_write_ahead_log_is_recovered_from_the_log_or_refused() {
    run_all(rows![
        "WAL flipped in its middle", killed, Whole, |s| flip_part(&wals(s)[0], 50);
        "WAL flipped at its begin", killed, Whole, |s| flip(&wals(s)[0], 20);
        "WAL cut off", killed, Whole, |s| cut_to(wals(s).last().unwrap(), 60);
        "WAL emptied", killed, Whole, |s| cut_to(wals(s).last().unwrap(), 0);
        "WAL zeroed in its middle", killed, Whole, |s| zero(&wals(s)[0], 40, 5000);
        "WAL removed", killed, Refused, |s| for wal in wals(s) {
            fs::remove_file(wal).unwrap();
        };
        "WAL of another store", killed, Whole, |s| {
            let theirs = fixture().older().join("store");
            fs::copy(&wals(&theirs)[0], wals(s).last().unwrap()).unwrap();
        };
    ]);
}

#[test]
fn a_missing_or_incomplete_table_file_is_refused() {
    run_all(rows![
        "states removed", stopped, Refused, |s| fs::remove_file(sst(s, "state")).unwrap();
        "history removed", stopped, Refused, |s| fs::remove_file(sst(s, "history")).unwrap();
        "entries removed", stopped, Refused, |s| fs::remove_file(sst(s, "by_time")).unwrap();
        "states cut off", stopped, Refused, |s| cut_to(&sst(s, "state"), 70);
        "history emptied", stopped, Refused, |s| cut_to(&sst(s, "history"), 0);
        "states are those of the history", stopped, Refused, |s| {
            fs::copy(sst(s, "history"), sst(s, "state")).unwrap();
        };
        "a folder in the place of the entries", stopped, Refused, |s| {
            let file = sst(s, "by_time");
            fs::remove_file(&file).unwrap();
            fs::create_dir(file).unwrap();
        };
        "the footer of the states flipped", stopped, Refused, |s| {
            let file = sst(s, "state");
            flip(&file, length(&file) - 10);
        };
        "positions flipped", stopped, Refused, |s| flip(&sst(s, "meta"), FIRST);
    ]);
}

#[test]
fn damaged_states_are_restored_from_histories() {
    run_all(rows![
        "states flipped at their begin", stopped, Whole, |s| flip(&sst(s, "state"), FIRST);
        "states flipped in their middle", stopped, Whole, |s| flip_part(&sst(s, "state"), 40);
        "states zeroed", stopped, Whole, |s| zero(&sst(s, "state"), 10, 4096);
        "lanes flipped", stopped, Whole, |s| flip(&sst(s, "lane"), FIRST);
    ]);
}

#[test]
fn damaged_rows_of_lists_are_restored_from_states() {
    run_all(rows![
        "entries by time flipped at their begin", stopped, Whole, |s|
            flip(&sst(s, "by_time"), FIRST);
        "entries by time flipped in their middle", stopped, Whole, |s|
            flip_part(&sst(s, "by_time"), 40);
        "entries by status flipped at their begin", stopped, Whole, |s|
            flip(&sst(s, "by_status"), FIRST);
        "entries by status flipped in their middle", stopped, Whole, |s|
            flip_part(&sst(s, "by_status"), 40);
        "both kinds of entries flipped", stopped, Whole, |s| {
            flip(&sst(s, "by_time"), FIRST);
            flip(&sst(s, "by_status"), FIRST);
        };
        "both kinds of entries flipped in their middle", stopped, Whole, |s| {
            flip_part(&sst(s, "by_time"), 40);
            flip_part(&sst(s, "by_status"), 40);
        };
        "entries by time and states flipped", stopped, Whole, |s| {
            flip(&sst(s, "by_time"), FIRST);
            flip(&sst(s, "state"), FIRST);
        };
        "anomalies flipped", stopped, Whole, |s| flip(&sst(s, "anomaly"), FIRST);
        "changes flipped", stopped, Whole, |s| flip(&sst(s, "change"), FIRST);
        "changes flipped in their middle", stopped, Whole, |s|
            flip_part(&sst(s, "change"), 40);
    ]);
}

#[test]
fn rows_that_nothing_restores_are_left_out_and_counted() {
    run_all(rows![
        "histories flipped at their begin", stopped, Part, |s| flip(&sst(s, "history"), FIRST);
        "histories flipped in their middle", stopped, Part, |s|
            flip_part(&sst(s, "history"), 40);
        "states and histories flipped", stopped, Part, |s| {
            flip(&sst(s, "state"), FIRST);
            flip(&sst(s, "history"), FIRST);
        };
        "states and histories flipped in their middle", stopped, Part, |s| {
            flip_part(&sst(s, "state"), 40);
            flip_part(&sst(s, "history"), 40);
        };
        "dead letters flipped", stopped, Part, |s| flip(&sst(s, "dead_letter"), FIRST);
        "notifications flipped", stopped, Part, |s| flip(&sst(s, "outbox"), FIRST);
    ]);
}

#[test]
fn a_store_of_another_log_is_reported_and_a_rebuild_creates_its_own() {
    let fixture = fixture();
    let folder = tempfile::tempdir().unwrap();
    let (data, other) = (folder.path().join("data"), folder.path().join("other"));
    copy(&fixture.stopped(), &data);
    let server = Server::on(&other, SETTINGS);
    publish(&server, &events()[..1]);
    assert!(server.terminate().success());
    fs::remove_dir_all(data.join("store")).unwrap();
    copy(&other.join("store"), &data.join("store"));
    let server = Server::on(&data, SETTINGS);
    server.eventually("halted", |server| {
        let ready = server.get("/readyz");
        let text = String::from_utf8_lossy(&ready.body).into_owned();
        ready.status == 503 && text.contains("belongs to the log") && text.contains("rebuild")
    });
    server.kill();
    rebuild("another log", &data);
    let server = Server::on(&data, SETTINGS);
    server.eventually("ready", |server| server.get("/readyz").status == 200);
    let is_missing = check_part("another log", &server, &fixture.before);
    assert!(!is_missing, "after the rebuild");
}

#[test]
fn a_file_without_read_permission_is_reported_and_not_damage() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    copy(&fixture().stopped(), &data);
    let program = Unprivileged::owning(folder.path());
    let command = || program.command();
    let file = sst(&data.join("store"), "state");
    fs::set_permissions(&file, Permissions::from_mode(0o000)).unwrap();
    let Err((status, said)) = Server::try_spawn(command(), &data, SETTINGS) else {
        panic!("it started");
    };
    assert_eq!(status, Some(7), "{said}");
    assert!(said.contains("Permission denied"), "{said}");
    assert!(!said.contains("damaged"), "{said}");
    fs::set_permissions(&file, Permissions::from_mode(0o600)).unwrap();
    let server = Server::spawn(command(), &data, SETTINGS);
    server.eventually("ready", |server| server.get("/readyz").status == 200);
    assert!(!check_part("given back", &server, &fixture().before));
}
