//! Limits of a ledger with few descriptors, and limits for clients that do not read.

use crate::support::allow_many_descriptors;
use crate::support::events::created;
use crate::support::server::{BATCH, Server};
use serde_json::json;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// The binary with this hard limit on open files.
fn with_descriptors(limit: u32) -> Command {
    let mut command = Command::new("sh");
    let script = format!(
        "ulimit -n {limit} && exec '{}' \"$@\"",
        env!("CARGO_BIN_EXE_opledger")
    );
    command.args(["-c", &script, "sh"]);
    command
}

/// A connection that stays open. A pool might open a new one, which the ledger refuses here.
struct Kept(BufReader<TcpStream>);

impl Kept {
    fn open(server: &Server) -> Kept {
        Kept(BufReader::new(TcpStream::connect(server.address).unwrap()))
    }

    fn ask(&mut self, request: &str) -> String {
        self.0.get_mut().write_all(request.as_bytes()).unwrap();
        let (mut head, mut length) = (String::new(), 0);
        while !head.ends_with("\r\n\r\n") {
            let began = head.len();
            assert!(
                self.0.read_line(&mut head).unwrap() > 0,
                "closed after {head}"
            );
            let line = head[began..].to_ascii_lowercase();
            if let Some(value) = line.strip_prefix("content-length:") {
                length = value.trim().parse().unwrap();
            }
        }
        let mut body = vec![0; length];
        self.0.read_exact(&mut body).unwrap();
        head + std::str::from_utf8(&body).unwrap()
    }

    fn publish(&mut self, id: &str) {
        let body = json!([created(id)]).to_string();
        let length = body.len();
        let answer = self.ask(&format!(
            "POST /v1/events HTTP/1.1\r\nhost: localhost\r\ncontent-type: {BATCH}\r\n\
             content-length: {length}\r\n\r\n{body}"
        ));
        assert!(answer.starts_with("HTTP/1.1 202 "), "{answer}");
        let token = answer
            .lines()
            .find_map(|line| line.strip_prefix("ledger-position: "));
        let token = token.expect("an accepted event has a position");
        let answer = self.ask(&format!(
            "GET /v1/operations/{id} HTTP/1.1\r\nhost: localhost\r\nledger-position: {token}\r\n\r\n"
        ));
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    }
}

#[test]
fn idle_connections_leave_the_log_its_descriptors() {
    allow_many_descriptors();
    for limit in [256, 1024] {
        let data = TempDir::new().unwrap();
        let log = std::fs::File::create(data.path().join("log.txt")).unwrap();
        let mut command = with_descriptors(limit);
        command.stderr(log);
        let server = Server::spawn(command, &data.path().join("data"), &[]);
        let mut own = Kept::open(&server);
        own.publish("first");
        let mut idle = Vec::new();
        for _ in 0..limit + 200 {
            let mut stream = TcpStream::connect(server.address).unwrap();
            // The ledger may have closed it already.
            let _ = stream.write_all(b"GET /livez HTTP/1.1\r\nhost: localhost\r\n\r\n");
            idle.push(stream);
        }
        for n in 0..50 {
            own.publish(&format!("op-{n}"));
        }
        let files = std::fs::read_dir(format!("/proc/{}/fd", server.pid())).unwrap();
        let files = files.count() as u32;
        assert!(files < limit, "{files} of {limit}");
        // Many of them have been served, and the others got a refusal.
        let mut served = 0;
        for stream in &mut idle {
            let mut status = [0; 12];
            stream
                .set_read_timeout(Some(Duration::from_secs(10)))
                .unwrap();
            if stream.read_exact(&mut status).is_ok() {
                let status = String::from_utf8_lossy(&status).into_owned();
                served += usize::from(status == "HTTP/1.1 200");
            }
        }
        assert!(served as u32 > limit / 4, "{served} of {limit}");
        assert!(server.terminate().success());
        let log = std::fs::read_to_string(data.path().join("log.txt")).unwrap();
        assert!(
            log.contains("the limit on open files allows fewer"),
            "{log}"
        );
    }
}

const MIB: u64 = 1 << 20;

/// An operation whose document has about this many MiB.
fn large(server: &Server, id: &str, mib: usize) {
    let mut events = vec![created(id)];
    for n in 0..mib / 3 {
        events.push(
            json!({"specversion": "1.0", "id": format!("r{n}"), "source": "/w",
            "subject": id, "type": "opledger.cluster.response_received.v1",
            "time": "2024-05-06T07:08:10Z",
            "data": {"cluster_id": format!("c{n}"), "request_id": format!("r{n}"),
                "response": {"status_code": 200, "body": "x".repeat(3 << 20)}}}),
        );
        events.insert(
            1,
            json!({"specversion": "1.0", "id": format!("s{n}"), "source": "/w",
            "subject": id, "type": "opledger.cluster.request_sent.v1",
            "time": "2024-05-06T07:08:09Z",
            "data": {"cluster_id": format!("c{n}"), "request_id": format!("r{n}"),
                "request": {"uri": "/x", "method": "PUT"}}}),
        );
    }
    let mut token = String::new();
    for event in events {
        token = server.publish(&[event]);
    }
    server.eventually("it is applied", |server| {
        server.document(id, &token).is_some()
    });
}

/// Sends a request and reads only the first byte of the response.
fn ask(server: &Server, id: &str, headers: &str) -> TcpStream {
    ask_for(server, &format!("/v1/operations/{id}"), headers)
}

fn ask_for(server: &Server, path: &str, headers: &str) -> TcpStream {
    let mut stream = TcpStream::connect(server.address).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(60)))
        .unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n{headers}\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    stream.read_exact(&mut [0]).unwrap();
    stream
}

const STREAM: &str = "accept: text/event-stream\r\n";

#[test]
fn slow_readers_of_a_large_document_share_its_memory_and_free_it() {
    let server = Server::with(&[("SERVER__SEND_TIMEOUT", "10m")]);
    large(&server, "op", 30);
    let document = server.get("/v1/operations/op").body.len() as u64;
    assert!(document > 27 * MIB, "{document}");
    server.eventually("it is idle", |server| server.resident() < 250 * MIB);
    let before = server.resident();
    let viewers: Vec<TcpStream> = (0..10)
        .flat_map(|_| [ask(&server, "op", ""), ask(&server, "op", STREAM)])
        .collect();
    server.eventually("all share one copy", |server| {
        server.resident() < before + document + 64 * MIB
    });
    assert!(
        server
            .metrics()
            .contains(&format!("opledger_unsent_bytes {document}\n"))
    );
    drop(viewers);
    server.eventually("it is freed", |server| {
        server.metrics().contains("opledger_unsent_bytes 0\n")
            && server.resident() < before + 32 * MIB
    });
}

#[test]
fn unread_responses_have_a_limit_and_requests_beyond_it_are_retried() {
    let server = Server::with(&[
        ("SERVER__SEND_TIMEOUT", "10m"),
        ("SERVER__MAX_UNSENT", "40MiB"),
        ("STORE__DOCUMENT_CACHE", "0"),
    ]);
    for id in ["a", "b", "c"] {
        large(&server, id, 15);
    }
    // A page of these operations is large too.
    let long = |n| {
        let mut event = created(&format!("long-{n}"));
        event["data"]["request"]["uri"] = json!(format!("/{}", "x".repeat(8000)));
        event
    };
    let many: Vec<_> = (0..1000).map(long).collect();
    let token = server.publish(&many);
    let page = "/v1/operations?format=detail-list&limit=1000";
    let read = server.get_with(page, &[("ledger-position", &token)]);
    assert!(read.body.len() > 6_000_000, "{}", read.body.len());
    let notes = |server: &Server| server.get("/readyz").json()["notes"].to_string();
    assert_eq!(notes(&server), "[]");
    server.eventually("responses are no longer in memory", |server| {
        server.metrics().contains("opledger_unsent_bytes 0\n")
    });
    let viewers = [ask(&server, "a", ""), ask(&server, "b", STREAM)];
    server.eventually("there is no room", |server| {
        server.get("/v1/operations/c").status == 503
    });
    let answer = server.get("/v1/operations/c");
    answer.refused(503, "000001");
    assert_eq!(answer.header("retry-after"), "1");
    let said = notes(&server);
    assert!(said.contains("server.max_unsent allows 41943040"), "{said}");
    assert_eq!(server.get("/readyz").status, 200);
    // There is room for one page. The whole list is streamed, so it does not count.
    let unread_page = ask_for(&server, page, "");
    let answer = server.get(page);
    answer.refused(503, "000001");
    assert_eq!(answer.header("retry-after"), "1");
    assert_eq!(server.get("/v1/operations?format=detail-list").status, 200);
    drop(unread_page);
    // Documents that are being sent already need no more memory. Small ones continue.
    assert_eq!(server.get("/v1/operations/a").status, 200);
    let token = server.publish(&[created("small")]);
    assert!(server.document("small", &token).is_some());
    drop(viewers);
    server.eventually("there is room again", |server| {
        server.get("/v1/operations/c").status == 200
    });
    assert_eq!(notes(&server), "[]");
}

/// A hundred clients start to watch a large document at once, and read as fast as they can.
/// They do not delay the stream of a small operation.
#[test]
fn readers_of_a_large_document_do_not_delay_a_small_one() {
    let server = Server::start();
    large(&server, "op", 3);
    server.publish(&[created("small")]);
    let readers: Vec<_> = (0..100)
        .map(|_| {
            let mut stream = ask(&server, "op", STREAM);
            std::thread::spawn(move || {
                let mut piece = vec![0; 1 << 16];
                let mut read = 0;
                while read < 3 * MIB as usize {
                    read += stream.read(&mut piece).unwrap();
                }
            })
        })
        .collect();
    let began = Instant::now();
    let mut stream = ask(&server, "small", STREAM);
    let mut found = Vec::new();
    while !String::from_utf8_lossy(&found).contains("event: document") {
        let mut piece = [0; 1 << 10];
        let n = stream.read(&mut piece).unwrap();
        assert_ne!(n, 0);
        found.extend_from_slice(&piece[..n]);
    }
    let took = began.elapsed();
    for reader in readers {
        reader.join().unwrap();
    }
    assert!(took < Duration::from_secs(6), "{took:?}");
}
