//! `opledger publish` against a real ledger: it is interrupted and resumed, and never skips an
//! event that the ledger does not have.

use crate::support::deadline::{LATER, within};
use crate::support::server::Server;
use serde_json::json;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};

/// Too many to send one by one before the first progress note is written, which takes a second.
const EVENTS: usize = 20_000;

/// A file of events of one operation.
fn file(folder: &Path) -> PathBuf {
    let lines: String = (0..EVENTS)
        .map(|n| {
            let event = json!({"specversion": "1.0", "id": format!("{n}"), "source": "/w",
                "subject": "op", "type": "opledger.operation.progressed.v1",
                "time": "2024-05-06T07:08:09Z", "data": {"sub_status": "x".repeat(300)}});
            format!("{event}\n")
        })
        .collect();
    let path = folder.join("events.jsonl");
    std::fs::write(&path, lines).unwrap();
    path
}

fn publish(server: &Server, file: &Path, arguments: &[&str]) -> Child {
    publish_to(server.address, file, arguments)
}

fn publish_to(address: SocketAddr, file: &Path, arguments: &[&str]) -> Child {
    Command::new(env!("CARGO_BIN_EXE_opledger"))
        .args(["publish", "--json", "--wait", "--url"])
        .arg(format!("http://{address}"))
        .args(arguments)
        .arg(file)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

fn note(file: &Path) -> PathBuf {
    PathBuf::from(format!("{}.opledger-resume", file.display()))
}

/// Interrupts a slow run after it has written a progress note.
fn interrupt_in_the_middle(server: &Server, file: &Path) -> u64 {
    let mut run = publish(server, file, &["--batch", "1", "--in-flight", "1"]);
    within(LATER, "a note is written", || {
        assert_eq!(run.try_wait().unwrap(), None, "it was too quick");
        note(file).exists().then_some(())
    });
    interrupt(run);
    let note: serde_json::Value =
        serde_json::from_slice(&std::fs::read(note(file)).unwrap()).unwrap();
    note["acknowledged_lines"].as_u64().unwrap()
}

#[track_caller]
fn interrupt(run: Child) {
    let pid = rustix::process::Pid::from_child(&run);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    let ended = run.wait_with_output().unwrap();
    assert_eq!(
        ended.status.code(),
        Some(130),
        "{}",
        String::from_utf8_lossy(&ended.stderr)
    );
}

#[track_caller]
fn accepted(ended: &Output) -> u64 {
    assert!(
        ended.status.success(),
        "{}",
        String::from_utf8_lossy(&ended.stderr)
    );
    let outcome: serde_json::Value = serde_json::from_slice(&ended.stdout).unwrap();
    outcome["accepted"].as_u64().unwrap()
}

fn held(server: &Server) -> usize {
    let history = server.get("/v1/operations/op/events").json();
    history["events"].as_array().unwrap().len()
}

/// Publishes a file whose last line is invalid. Then publishes it again with that line
/// corrected and with the changes of the test. Returns the output of the second run.
fn corrected(events: usize, correct: impl Fn(&mut Vec<String>)) -> (Server, Output) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("events.jsonl");
    let server = Server::start();
    let mut lines: Vec<String> = (0..events)
        .map(|n| {
            let event = json!({"specversion": "1.0", "id": format!("{n:04}"), "source": "/w",
                "subject": "op", "type": "opledger.operation.progressed.v1",
                "time": "2024-05-06T07:08:09Z", "data": {"sub_status": "x".repeat(5000)}});
            format!("{event}\n")
        })
        .collect();
    let good = std::mem::replace(&mut lines[events - 1], "nonsense\n".into());
    std::fs::write(&path, lines.concat()).unwrap();
    let first = publish(&server, &path, &["--batch", "1"])
        .wait_with_output()
        .unwrap();
    assert_eq!(
        first.status.code(),
        Some(4),
        "{}",
        String::from_utf8_lossy(&first.stderr)
    );
    assert!(note(&path).exists());
    lines[events - 1] = good;
    correct(&mut lines);
    std::fs::write(&path, lines.concat()).unwrap();
    let second = publish(&server, &path, &[]).wait_with_output().unwrap();
    (server, second)
}

#[test]
fn a_corrected_line_is_sent_wherever_it_is_in_the_file() {
    let events = 80;
    let (server, ended) = corrected(events, |_| {});
    assert_eq!(accepted(&ended), 2, "the corrected line, and its batch");
    assert_eq!(held(&server), events);
    for line in [0, 2, 40, 77] {
        // The line keeps its length.
        let (server, ended) = corrected(events, |lines| {
            lines[line] = lines[line].replace("xxxx", "yyyy");
        });
        assert_eq!(accepted(&ended), events as u64, "line {line}");
        assert_eq!(
            held(&server),
            events + 1,
            "line {line} before and after the change"
        );
        let said = String::from_utf8_lossy(&ended.stderr);
        assert!(said.contains("starting from the first line: what the last run had sent, lines 1 to 78, was changed"), "{said}");
    }
    let (server, ended) = corrected(events, |lines| {
        let line = lines[0].replace("0000", "more");
        lines.insert(1, line);
    });
    assert_eq!(accepted(&ended), events as u64 + 1);
    assert_eq!(held(&server), events + 1);
}

/// One event of this size, after a small one.
fn sized(folder: &Path, size: usize) -> PathBuf {
    let event = |id: &str, body: String| {
        json!({"specversion": "1.0", "id": id, "source": "/w", "subject": "op",
            "type": "opledger.operation.created.v1", "time": "2024-05-06T07:08:09Z",
            "data": {"request": {"uri": "/x", "method": "PUT", "body": body}}})
        .to_string()
    };
    let empty = event("large", String::new()).len();
    let large = event("large", "x".repeat(size - empty));
    assert_eq!(large.len(), size);
    let path = folder.join("sized.jsonl");
    std::fs::write(
        &path,
        format!("{}\n{large}\n", event("small", String::new())),
    )
    .unwrap();
    path
}

#[test]
fn an_event_that_the_ledger_accepts_is_sent_whatever_its_size() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::with(&[("EVENTS__MAX_SIZE", "20MiB")]);
    let max = 20 << 20;
    for size in [(8 << 20) - 2, 8 << 20, (8 << 20) + 1, max] {
        let file = sized(folder.path(), size);
        let ended = publish(&server, &file, &[]).wait_with_output().unwrap();
        assert_eq!(accepted(&ended), 2, "{size}");
    }
    for size in [max + 1, 40 << 20] {
        let file = sized(folder.path(), size);
        let ended = publish(&server, &file, &[]).wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&ended.stderr);
        assert_eq!(ended.status.code(), Some(4), "{said}");
        assert!(said.contains("sized.jsonl, line 2: refused: "), "{said}");
    }
}

#[test]
fn batches_are_split_for_a_ledger_with_a_small_request_limit() {
    let folder = tempfile::tempdir().unwrap();
    let file = file(folder.path());
    let server = Server::with(&[("SERVER__MAX_BODY", "16KiB"), ("EVENTS__MAX_SIZE", "8KiB")]);
    let ended = publish(&server, &file, &["--batch", "200"])
        .wait_with_output()
        .unwrap();
    assert_eq!(accepted(&ended), EVENTS as u64);
    assert_eq!(held(&server), EVENTS);
}

/// Changes the note as if the second ledger had the address of the first.
fn move_note(file: &Path, first: &Server, second: &Server) {
    let noted = std::fs::read_to_string(note(file)).unwrap();
    let moved = noted.replace(&first.address.to_string(), &second.address.to_string());
    assert_ne!(noted, moved);
    std::fs::write(note(file), moved).unwrap();
}

#[test]
fn an_interrupted_publish_resumes_and_nothing_is_missing() {
    let folder = tempfile::tempdir().unwrap();
    let file = file(folder.path());
    let server = Server::start();
    let noted = interrupt_in_the_middle(&server, &file);
    assert!(noted > 0 && noted < EVENTS as u64, "in the middle: {noted}");
    let ended = publish(&server, &file, &[]).wait_with_output().unwrap();
    assert_eq!(accepted(&ended), EVENTS as u64 - noted);
    assert_eq!(held(&server), EVENTS);
    assert!(!note(&file).exists(), "a finished run leaves no note");
}

#[test]
fn a_receiver_of_a_ledger_with_another_log_gets_everything() {
    let folder = tempfile::tempdir().unwrap();
    let file = file(folder.path());
    let first = Server::start();
    interrupt_in_the_middle(&first, &file);
    // The same address, but the data folder is a new one.
    let second = Server::start();
    move_note(&file, &first, &second);
    let ended = publish(&second, &file, &[]).wait_with_output().unwrap();
    assert_eq!(accepted(&ended), EVENTS as u64);
    assert_eq!(held(&second), EVENTS);
}

/// A restored copy is the same log without its last records.
#[test]
fn a_receiver_of_a_ledger_whose_log_lost_its_end_gets_everything() {
    let folder = tempfile::tempdir().unwrap();
    let file = file(folder.path());
    let data = folder.path().join("data");
    let copy = folder.path().join("copy");
    assert!(Server::on(&data, &[]).terminate().success());
    let copied = Command::new("cp").arg("-a").args([&data, &copy]).status();
    assert!(copied.unwrap().success());
    let first = Server::on(&data, &[]);
    interrupt_in_the_middle(&first, &file);
    let second = Server::on(&copy, &[]);
    move_note(&file, &first, &second);
    let ended = publish(&second, &file, &[]).wait_with_output().unwrap();
    assert_eq!(accepted(&ended), EVENTS as u64);
    assert_eq!(held(&second), EVENTS);
}

/// Accepts every event, and responds to each read as the test says, or not at all. It notifies
/// the test of each read.
fn pretend(answers: Receiver<&'static str>) -> (SocketAddr, Receiver<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (heard, reads) = channel();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            // One connection after the other: the command sends one request at a time.
            serve(stream.unwrap(), &answers, &heard);
        }
    });
    (address, reads)
}

fn serve(mut stream: TcpStream, answers: &Receiver<&'static str>, heard: &Sender<()>) {
    let mut requests = BufReader::new(stream.try_clone().unwrap());
    loop {
        let (mut head, mut length) = (String::new(), 0);
        while !head.ends_with("\r\n\r\n") {
            let from = head.len();
            if requests.read_line(&mut head).unwrap_or(0) == 0 {
                return;
            }
            let line = head[from..].to_ascii_lowercase();
            if let Some(value) = line.strip_prefix("content-length:") {
                length = value.trim().parse().unwrap();
            }
        }
        requests.read_exact(&mut vec![0; length]).unwrap();
        let answer = if head.starts_with("POST") {
            "202 Accepted"
        } else {
            // If the test has stopped listening, it has seen enough.
            let _ = heard.send(());
            let Ok(answer) = answers.recv() else { return };
            answer
        };
        let answer = format!(
            "HTTP/1.1 {answer}\r\nledger-position: pretend0;0:1\r\ncontent-length: 0\r\n\r\n"
        );
        if stream.write_all(answer.as_bytes()).is_err() {
            return;
        }
    }
}

#[test]
fn waiting_can_be_interrupted() {
    let folder = tempfile::tempdir().unwrap();
    let file = file(folder.path());
    let (_no_answer, answers) = channel();
    let (address, reads) = pretend(answers);
    let run = publish_to(address, &file, &["--in-flight", "1"]);
    reads.recv().unwrap();
    interrupt(run);
}

#[test]
fn waiting_continues_while_the_ledger_lags() {
    let folder = tempfile::tempdir().unwrap();
    let file = file(folder.path());
    let (answer, answers) = channel();
    let (address, _reads) = pretend(answers);
    answer.send("504 Gateway Timeout").unwrap();
    answer.send("200 OK").unwrap();
    let run = publish_to(address, &file, &["--in-flight", "1"]);
    assert_eq!(accepted(&run.wait_with_output().unwrap()), EVENTS as u64);
}
