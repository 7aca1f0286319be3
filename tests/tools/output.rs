//! Standard output and standard error that cannot be written: full, closed, not read, or
//! non-blocking. The ledger neither exits nor hangs, and loses only the lines.

use crate::support::events::created;
use crate::support::server::{BATCH, Client};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use std::fs::File;
use std::io::{PipeReader, Read};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

fn binary() -> Command {
    Command::new(env!("CARGO_BIN_EXE_opledger"))
}

fn full() -> Stdio {
    File::options()
        .write(true)
        .open("/dev/full")
        .unwrap()
        .into()
}

/// A pipe whose reader is closed.
fn closed() -> Stdio {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    writer.into()
}

/// A pipe whose writing end refuses data instead of waiting.
fn non_blocking() -> (PipeReader, Stdio) {
    let (reader, writer) = std::io::pipe().unwrap();
    let flags = fcntl_getfl(&writer).unwrap();
    fcntl_setfl(&writer, flags | OFlags::NONBLOCK).unwrap();
    (reader, writer.into())
}

#[track_caller]
fn within<T>(limit: u64, what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let until = Instant::now() + Duration::from_secs(limit);
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < until, "not in {limit} s: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

struct Ledger {
    child: Child,
    client: Client,
    _data: TempDir,
}

impl Ledger {
    /// Starts `serve` with these outputs. Nothing has to be read from them to find the ledger.
    fn start(stdout: Stdio, stderr: Stdio, log: &str) -> Ledger {
        let free = TcpListener::bind("127.0.0.1:0").unwrap();
        let address: SocketAddr = free.local_addr().unwrap();
        drop(free);
        let data = TempDir::new().unwrap();
        let mut command = binary();
        command.args(["serve", "--listen", &address.to_string(), "--data"]);
        command.arg(data.path()).env("OPLEDGER_TELEMETRY__LOG", log);
        let child = command.stdout(stdout).stderr(stderr).spawn().unwrap();
        let mut ledger = Ledger {
            child,
            client: Client::new(address),
            _data: data,
        };
        within(30, "the ledger listens", || {
            let ended = ledger.child.try_wait().unwrap();
            assert_eq!(ended, None, "it has exited");
            TcpStream::connect(address).ok()
        });
        ledger
    }

    /// Publishing and reading work, and so do responses that are logged.
    fn works(&self) {
        let events = serde_json::to_vec(&[created("op")]).unwrap();
        let answer = self
            .client
            .post("/v1/events", &[("content-type", BATCH)], events);
        assert_eq!(answer.status, 202, "{answer:?}");
        let token = answer.header("ledger-position").to_owned();
        let path = "/v1/operations/op";
        let read = self.client.get(path, &[("ledger-position", &token)]);
        assert_eq!(read.status, 200, "{read:?}");
        let (log, _) = token.split_once(';').unwrap();
        let ahead = format!("{log};0:999999999");
        let headers = [("ledger-position", &*ahead), ("prefer", "wait=0")];
        for _ in 0..20 {
            self.client.get(path, &headers).refused(504, "000001");
        }
    }

    fn metric(&self, name: &str) -> f64 {
        let all = self.client.get("/metrics", &[]).body;
        let all = String::from_utf8(all).unwrap();
        let line = all.lines().find(|line| line.starts_with(name));
        let line = line.unwrap_or_else(|| panic!("no {name}"));
        line.split(' ').nth(1).unwrap().parse().unwrap()
    }

    fn terminate(mut self) -> ExitStatus {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        within(20, "the ledger stops", || self.child.try_wait().unwrap())
    }
}

impl Drop for Ledger {
    fn drop(&mut self) {
        // It may have exited already. After this it has.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_ledger_whose_output_is_full_or_closed_works_and_counts_the_lost_lines() {
    for output in [full, closed] {
        let ledger = Ledger::start(output(), output(), "debug");
        ledger.works();
        within(60, "the lost lines are counted", || {
            (ledger.metric("opledger_log_lines_lost_total ") >= 20.0).then_some(())
        });
        assert_eq!(ledger.terminate().code(), Some(0));
    }
}

#[test]
fn a_ledger_whose_log_lines_are_not_read_works_and_reports_the_lost_lines() {
    let blocking = || {
        let (reader, writer) = std::io::pipe().unwrap();
        (reader, Stdio::from(writer))
    };
    for pipe in [blocking, non_blocking] {
        let (mut reader, stderr) = pipe();
        let (_stdout_reader, stdout) = pipe();
        let ledger = Ledger::start(stdout, stderr, "trace");
        within(60, "lines are lost", || {
            ledger.works();
            (ledger.metric("opledger_log_lines_lost_total ") > 0.0).then_some(())
        });
        // When the pipe is read again, the ledger continues to log and reports the lost lines.
        let reading = std::thread::spawn(move || {
            let mut log = Vec::new();
            let mut piece = [0; 1 << 16];
            let mut found = false;
            while let Ok(n @ 1..) = reader.read(&mut piece) {
                log.extend_from_slice(&piece[..n]);
                found |= String::from_utf8_lossy(&log).contains("log lines were lost");
                // Keep the last part: the message may be split between two reads.
                log.drain(..log.len().saturating_sub(1 << 10));
            }
            found
        });
        ledger.works();
        assert_eq!(ledger.terminate().code(), Some(0));
        assert!(reading.join().unwrap(), "the log says that lines were lost");
    }
}

#[test]
fn a_ledger_whose_log_lines_are_not_read_can_stop() {
    let (_reader, stderr) = non_blocking();
    let ledger = Ledger::start(Stdio::null(), stderr, "trace");
    within(60, "lines are lost", || {
        ledger.works();
        (ledger.metric("opledger_log_lines_lost_total ") > 0.0).then_some(())
    });
    assert_eq!(ledger.terminate().code(), Some(0));
}

/// Commands that need no ledger and write to standard output.
const WRITING: [&[&str]; 5] = [
    &["config", "show"],
    &["config", "check"],
    &["completions", "bash"],
    &["--help"],
    &["help", "publish"],
];

fn plain(args: &[&str]) -> Command {
    let mut command = binary();
    command.args(args).stdin(Stdio::null());
    command
}

#[test]
fn a_command_whose_reader_has_gone_ends_quietly() {
    for args in WRITING {
        let mut command = plain(args);
        let child = command.stdout(closed()).stderr(Stdio::piped()).spawn();
        let ended = child.unwrap().wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&ended.stderr);
        assert_eq!((ended.status.code(), &*said), (Some(0), ""), "{args:?}");
    }
}

#[test]
fn a_command_whose_output_is_full_says_so() {
    for args in &WRITING[..3] {
        let mut command = plain(args);
        let child = command.stdout(full()).stderr(Stdio::piped()).spawn();
        let ended = child.unwrap().wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&ended.stderr);
        assert_eq!(ended.status.code(), Some(1), "{args:?}");
        assert!(said.contains("cannot write to standard output"), "{said}");
    }
}

#[test]
fn the_exit_status_does_not_depend_on_where_errors_go() {
    let nowhere = ["--url", "http://127.0.0.1:1"];
    let cases: [(&[&str], i32); 4] = [
        (&["get", "x"], 5),
        (&["list"], 5),
        (&["history", "x"], 5),
        (&["publish", "/nonexistent"], 2),
    ];
    for (args, status) in cases {
        for stderr in [full, closed] {
            let mut command = plain(args);
            command.args(nowhere).stdout(Stdio::null()).stderr(stderr());
            assert_eq!(command.status().unwrap().code(), Some(status), "{args:?}");
        }
    }
}

#[test]
fn a_pipe_that_does_not_block_gets_all_of_the_output() {
    let expected = plain(&["completions", "bash"]).output().unwrap().stdout;
    // More than a pipe of one page can buffer.
    assert!(expected.len() > 8 << 10);
    let (mut reader, writer) = std::io::pipe().unwrap();
    rustix::pipe::fcntl_setpipe_size(&writer, 4096).unwrap();
    let flags = fcntl_getfl(&writer).unwrap();
    fcntl_setfl(&writer, flags | OFlags::NONBLOCK).unwrap();
    let mut child = plain(&["completions", "bash"])
        .stdout(writer)
        .spawn()
        .unwrap();
    within(30, "the pipe is full", || {
        (rustix::io::ioctl_fionread(&reader).unwrap() == 4096).then_some(())
    });
    let mut got = Vec::new();
    reader.read_to_end(&mut got).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert!(got == expected, "{} of {} bytes", got.len(), expected.len());
}
