//! A clock that is far off: before 1970, as on a machine whose battery is empty, or after the
//! year 9999. Nothing panics. Results that depend on the clock follow the clock.

use crate::support::events::created;
use crate::support::server::{BATCH, Server};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use tempfile::TempDir;

/// Shifts the clock of a program that is started with this library. It allocates nothing,
/// because the allocator may ask for the time before it is ready.
const SHIFT: &str = r#"
#define _GNU_SOURCE
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>
static long long shift(void) {
    static long long seconds;
    static int is_known;
    if (!is_known) {
        const char *text = getenv("SHIFT_SECONDS");
        seconds = text ? atoll(text) : 0;
        is_known = 1;
    }
    return seconds;
}
int clock_gettime(clockid_t clock, struct timespec *now) {
    int failed = syscall(SYS_clock_gettime, clock, now);
    if (!failed && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE))
        now->tv_sec += shift();
    return failed;
}
int gettimeofday(struct timeval *now, void *zone) {
    int failed = syscall(SYS_gettimeofday, now, zone);
    if (!failed) now->tv_sec += shift();
    return failed;
}
time_t time(time_t *at) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (at) *at = now.tv_sec;
    return now.tv_sec;
}
"#;

fn library() -> &'static Path {
    static BUILT: OnceLock<(TempDir, std::path::PathBuf)> = OnceLock::new();
    let (_, path) = BUILT.get_or_init(|| {
        let folder = TempDir::new().unwrap();
        let (source, library) = (
            folder.path().join("shift.c"),
            folder.path().join("shift.so"),
        );
        std::fs::write(&source, SHIFT).unwrap();
        let built = Command::new("cc")
            .args(["-shared", "-fPIC", "-O1", "-o"])
            .args([&library, &source])
            .status();
        assert!(built.unwrap().success());
        (folder, library)
    });
    path
}

const YEAR: i64 = 31_556_952;

fn shifted(years: i64) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_opledger"));
    command
        .env("LD_PRELOAD", library())
        .env("SHIFT_SECONDS", (years * YEAR).to_string());
    command
}

const READS: [&str; 9] = [
    "/livez",
    "/readyz",
    "/metrics",
    "/projector",
    "/version",
    "/v1/operations",
    "/v1/operations?format=detail-list&limit=10",
    "/v1/operations/op",
    "/v1/operations/op/events",
];

#[test]
fn a_ledger_whose_clock_is_far_off_serves() {
    let data = TempDir::new().unwrap();
    let log = std::fs::File::create(data.path().join("log.txt")).unwrap();
    // Publish while the clock is right, and read while it is wrong.
    let path = data.path().join("data");
    let server = Server::on(&path, &[]);
    let token = server.publish(&[created("op")]);
    let document = server.document("op", &token).unwrap();
    assert!(server.terminate().success());
    for years in [-200, -70, 7_900, 8_100, 100_000] {
        let mut command = shifted(years);
        command.stderr(Stdio::from(log.try_clone().unwrap()));
        let server = Server::spawn(command, &path, &[]);
        server.eventually("it is ready", |server| server.get("/readyz").status == 200);
        for path in READS {
            let answer = server.get(path);
            assert_eq!(answer.status, 200, "{years}: {path}: {answer:?}");
        }
        assert_eq!(server.document("op", &token), Some(document.clone()));
        let event = serde_json::to_vec(&[created(&format!("at-{years}"))]).unwrap();
        let answer = server.post(BATCH, event);
        match years < 0 {
            // By this clock, the time of the event is in the future.
            true => drop(answer.refused(400, "010003")),
            false => {
                assert_eq!(answer.status, 202, "{answer:?}");
                let token = answer.header("ledger-position");
                let path = format!("/v1/operations/at-{years}/events");
                let history = server.get_with(&path, &[("ledger-position", token)]);
                assert_eq!(history.status, 200, "{history:?}");
                let arrived = history.json()["events"][0]["arrived"].clone();
                let arrived = arrived.as_str().unwrap().to_owned();
                assert!(arrived.len() == 24 && arrived.ends_with('Z'), "{arrived}");
            }
        }
        // This read waits on the list of changes.
        let waited = server.get_with(
            "/v1/operations/none",
            &[("prefer", "wait=1"), ("ledger-position", &token)],
        );
        assert_eq!(waited.status, 404);
        assert!(server.terminate().success());
    }
    let log = std::fs::read_to_string(data.path().join("log.txt")).unwrap();
    assert!(!log.contains("panicked"), "{log}");
}

#[test]
fn commands_work_whatever_the_clock_says() {
    let server = Server::start();
    let url = format!("http://{}", server.address);
    for years in [-200, 8_100] {
        for args in [&["list", "--json"][..], &["config", "show"], &["get", "x"]] {
            let mut command = shifted(years);
            let ended = command.args(args).env("OPLEDGER_URL", &url).output();
            let ended = ended.unwrap();
            let said = String::from_utf8_lossy(&ended.stderr);
            assert!(!said.contains("panicked"), "{args:?}: {said}");
            assert!(
                matches!(ended.status.code(), Some(0 | 3)),
                "{args:?}: {said}"
            );
        }
    }
}
