//! Malicious or broken clients: they get a response where possible, and they do not block
//! others.

use crate::support::allow_many_descriptors;
use crate::support::events::{created, sized};
use crate::support::schemas;
use crate::support::server::{BATCH, ONE, Server};
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

/// Sends raw bytes and returns the whole response.
fn raw(server: &Server, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(server.address).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(20)))
        .unwrap();
    // The ledger may respond and close before it has read everything.
    let _ = stream.write_all(bytes);
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}

#[test]
fn requests_refused_by_the_http_library_get_an_error_response() {
    let server = Server::start();
    let mut headers = b"GET /livez HTTP/1.1\r\nhost: localhost\r\n".to_vec();
    for i in 0..2_200 {
        headers.extend_from_slice(format!("x-{i}: {}\r\n", "a".repeat(1_000)).as_bytes());
    }
    headers.extend_from_slice(b"\r\n");
    assert!(headers.len() > 2 << 20);
    for (bytes, status, code) in [
        (headers.as_slice(), "431", "010003"),
        (b"nonsense\r\n\r\n".as_slice(), "400", "010001"),
        (
            b"GET / HTTP/1.1\r\nhost: localhost\r\ncontent-length: -1\r\n\r\n".as_slice(),
            "400",
            "010001",
        ),
    ] {
        let answer = raw(&server, bytes);
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status}")),
            "{answer}"
        );
        assert!(answer.contains("x-request-id: "), "{answer}");
        let (_, error) = answer.split_once("\r\n\r\n").unwrap();
        let error: Value = serde_json::from_str(error).unwrap();
        assert_eq!(error["error_code"], code, "{answer}");
        assert!(schemas::error_response().is_valid(&error), "{answer}");
    }
    assert_eq!(server.get("/livez").status, 200);
}

#[test]
fn slow_and_endless_senders_delay_no_other_client() {
    let server = Server::with(&[
        ("SERVER__HEADER_TIMEOUT", "1s"),
        ("SERVER__BODY_TIMEOUT", "1s"),
        ("SERVER__MAX_BODY", "1MiB"),
        ("EVENTS__MAX_SIZE", "1MiB"),
    ]);
    // Half a request, and a request whose body never ends.
    let half = TcpStream::connect(server.address).unwrap();
    (&half)
        .write_all(b"POST /v1/events HTTP/1.1\r\nhost: localhost\r\n")
        .unwrap();
    let mut waiting = TcpStream::connect(server.address).unwrap();
    waiting
        .write_all(b"POST /v1/events HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/cloudevents+json\r\ncontent-length: 1000\r\n\r\n{")
        .unwrap();
    let endless = TcpStream::connect(server.address).unwrap();
    let mut sender = endless.try_clone().unwrap();
    let flood = std::thread::spawn(move || {
        let _ = sender.write_all(b"POST /v1/events HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/cloudevents+json\r\ntransfer-encoding: chunked\r\n\r\n");
        let piece = format!("10000\r\n{}\r\n", "x".repeat(0x10000));
        let mut sent = 0;
        while sender.write_all(piece.as_bytes()).is_ok() && sent < 1 << 30 {
            sent += piece.len();
        }
        sent
    });
    // Meanwhile the ledger serves others as usual.
    let started = Instant::now();
    for _ in 0..20 {
        server.publish(&[created("op")]);
        assert_eq!(server.get("/livez").status, 200);
    }
    assert!(started.elapsed() < Duration::from_secs(5));
    let mut answer = String::new();
    waiting
        .set_read_timeout(Some(Duration::from_secs(20)))
        .unwrap();
    let _ = waiting.read_to_string(&mut answer);
    assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
    assert!(answer.contains("\"error_code\""), "{answer}");
    half.set_read_timeout(Some(Duration::from_secs(20)))
        .unwrap();
    let mut rest = Vec::new();
    (&half)
        .read_to_end(&mut rest)
        .expect("closed, not left open");
    assert!(
        flood.join().unwrap() < 1 << 30,
        "the endless sender is disconnected"
    );
    let mut answer = [0; 12];
    (&endless).read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"HTTP/1.1 413");
}

#[test]
fn a_thousand_idle_connections_delay_no_request() {
    allow_many_descriptors();
    let server = Server::start();
    let idle: Vec<TcpStream> = (0..1_000)
        .map(|_| TcpStream::connect(server.address).unwrap())
        .collect();
    let started = Instant::now();
    for _ in 0..20 {
        server.publish(&[created("op")]);
    }
    assert!(started.elapsed() < Duration::from_secs(5));
    drop(idle);
}

#[test]
fn connections_above_the_limit_get_a_response() {
    let server = Server::with(&[("SERVER__MAX_CONNECTIONS", "2")]);
    let held: Vec<TcpStream> = (0..2)
        .map(|_| TcpStream::connect(server.address).unwrap())
        .collect();
    server_turns_away(&server);
    drop(held);
    server.eventually("free again", |server| {
        raw(
            server,
            b"GET /livez HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n",
        )
        .contains(" 200 ")
    });
}

fn server_turns_away(server: &Server) {
    // The accept loop accepts connections one after the other.
    let answer = raw(server, b"");
    assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
    assert!(answer.contains("\"error_code\":\"000001\""), "{answer}");
}

#[test]
fn publishes_beyond_the_queue_limit_are_refused() {
    let server = Server::with(&[
        ("SERVER__MAX_BUFFERED", "1MiB"),
        ("SERVER__MAX_BODY", "1MiB"),
        ("EVENTS__MAX_SIZE", "512KiB"),
    ]);
    // Two clients use most of the memory for all bodies. The third has to try again later.
    let hold = |n: usize| {
        let mut stream = TcpStream::connect(server.address).unwrap();
        let head = format!(
            "POST /v1/events HTTP/1.1\r\nhost: localhost\r\ncontent-type: {ONE}\r\ncontent-length: 900000\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).unwrap();
        stream.write_all(&vec![b' '; n]).unwrap();
        stream
    };
    let held = [hold(400_000), hold(400_000)];
    let mut big = created("op");
    big["data"]["request"]["body"] = json!("x".repeat(500_000));
    let big = big.to_string();
    server.eventually("refused", |server| {
        let answer = server.post(ONE, big.clone());
        if answer.status == 429 {
            answer.refused(429, "000001");
            assert_eq!(answer.header("retry-after"), "1");
        }
        answer.status == 429
    });
    drop(held);
    server.eventually("accepted again", |server| {
        server.post(ONE, big.clone()).status == 202
    });
}

/// The limit is the same in every mode.
#[test]
fn an_event_at_the_size_limit_is_accepted_and_a_byte_more_is_refused() {
    const MAX: usize = 4096;
    let server = Server::with(&[("EVENTS__MAX_SIZE", "4KiB")]);
    let attributes = |id: &str| {
        let names = ["specversion", "id", "source", "type", "subject", "time"];
        let event = created(id);
        names.map(|name| {
            (
                format!("ce-{name}"),
                event[name].as_str().unwrap().to_owned(),
            )
        })
    };
    let of_binary = |id: &str, bytes: usize| {
        // Sized as in a record: with the prefix, and with the content type.
        let kept = attributes(id)
            .iter()
            .map(|(n, v)| n.len() + v.len())
            .sum::<usize>();
        let kept = kept + "content-type".len() + "application/json".len();
        let empty = json!({"request": {"uri": "/x", "method": "PUT", "body": ""}}).to_string();
        let body = "x".repeat(bytes - kept - empty.len());
        json!({"request": {"uri": "/x", "method": "PUT", "body": body}}).to_string()
    };
    for (bytes, status) in [(MAX - 1, 202), (MAX, 202), (MAX + 1, 413)] {
        let one = server.post(ONE, sized(&format!("one-{bytes}"), bytes));
        let events = [
            created("small").to_string(),
            sized(&format!("batch-{bytes}"), bytes),
        ];
        let batch = server.post(BATCH, format!("[{}]", events.join(",")));
        let id = format!("binary-{bytes}");
        let headers = attributes(&id);
        let mut headers: Vec<(&str, &str)> = headers
            .iter()
            .map(|(n, v)| (n.as_str(), v.as_str()))
            .collect();
        headers.push(("content-type", "application/json"));
        let binary = server.post_with(&headers, of_binary(&id, bytes));
        for (mode, answer) in [("one", one), ("batch", batch), ("binary", binary)] {
            let text = String::from_utf8_lossy(&answer.body).into_owned();
            assert_eq!(answer.status, status, "{mode} of {bytes} bytes: {text}");
            if status == 202 {
                let token = answer.header("ledger-position").to_owned();
                let id = format!("{mode}-{bytes}");
                assert!(server.document(&id, &token).is_some(), "{id}");
            } else {
                answer.refused(413, "010003");
            }
        }
    }
    // No accepted event becomes a dead letter.
    let letters = server.get("/v1/dead-letters").json();
    assert_eq!(letters["dead_letters"], json!([]));
}

#[test]
fn a_body_at_the_size_limit_is_accepted_and_a_byte_more_is_refused() {
    const MAX: usize = 8192;
    let server = Server::with(&[("SERVER__MAX_BODY", "8KiB"), ("EVENTS__MAX_SIZE", "8KiB")]);
    for (bytes, status) in [(MAX - 1, 202), (MAX, 202), (MAX + 1, 413)] {
        let batch = format!("[{}]", created(&format!("op-{bytes}")));
        let body = format!("{batch}{}", " ".repeat(bytes - batch.len()));
        let answer = server.post(BATCH, body.clone());
        assert_eq!(answer.status, status, "{bytes} bytes with their length");
        // In chunks: the total length is known only at the last one.
        let (first, rest) = body.split_at(bytes / 3);
        let head = format!(
            "POST /v1/events HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\
             content-type: {BATCH}\r\ntransfer-encoding: chunked\r\n\r\n"
        );
        let pieces: String = [first, rest, ""]
            .map(|piece| format!("{:x}\r\n{piece}\r\n", piece.len()))
            .concat();
        let answer = raw(&server, format!("{head}{pieces}").as_bytes());
        let expected = format!("HTTP/1.1 {status} ");
        assert!(
            answer.starts_with(&expected),
            "{bytes} bytes in chunks: {answer}"
        );
    }
}
