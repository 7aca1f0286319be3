//! Rules for every connection, whatever the request: the accepted host names, idle time,
//! detecting that a client has gone, and how a body may be sent.

use crate::support::deadline::within;
use crate::support::events::created;
use crate::support::schemas;
use crate::support::server::{BATCH, ONE, Server};
use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};

/// Longer than anything in these tests takes.
const LIMIT: Duration = Duration::from_secs(30);

fn connect(server: &Server) -> TcpStream {
    let stream = TcpStream::connect(server.address).unwrap();
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    stream
}

/// Sends raw bytes and returns everything until the ledger closes the connection.
fn raw(server: &Server, bytes: impl AsRef<[u8]>) -> String {
    let mut stream = connect(server);
    stream.write_all(bytes.as_ref()).unwrap();
    rest(&mut stream)
}

fn rest(stream: &mut TcpStream) -> String {
    let mut answer = Vec::new();
    let ended = stream.read_to_end(&mut answer);
    let answer = String::from_utf8_lossy(&answer).into_owned();
    assert!(ended.is_ok(), "{ended:?}: {answer}");
    answer
}

/// Reads one response with a `content-length`. The connection stays open.
fn one_answer(stream: &mut TcpStream) -> String {
    let mut answer = Vec::new();
    loop {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        answer.push(byte[0]);
        if answer.ends_with(b"\r\n\r\n") {
            break;
        }
    }
    let head = String::from_utf8(answer).unwrap();
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length: "))
        .map_or(0, |length| length.parse().unwrap());
    let mut body = vec![0; length];
    stream.read_exact(&mut body).unwrap();
    head + &String::from_utf8(body).unwrap()
}

#[track_caller]
fn is_refused(answer: &str, status: u16, code: &str) {
    assert!(
        answer.starts_with(&format!("HTTP/1.1 {status} ")),
        "{answer}"
    );
    assert!(answer.contains("\r\nx-request-id: "), "{answer}");
    let (_, error) = answer.split_once("\r\n\r\n").unwrap();
    let error: Value = serde_json::from_str(error).unwrap();
    assert_eq!(error["error_code"], code, "{answer}");
    assert!(schemas::error_response().is_valid(&error), "{answer}");
}

/// A request that closes the connection after one response.
fn get(path: &str, headers: &str) -> String {
    format!("GET {path} HTTP/1.1\r\n{headers}connection: close\r\n\r\n")
}

#[test]
fn a_page_that_rebinds_its_name_reads_and_publishes_nothing() {
    let server = Server::start();
    let token = server.publish(&[created("op")]);
    server.document("op", &token).unwrap();
    let event = created("other").to_string();
    let publish = format!(
        "POST /v1/events HTTP/1.1\r\nhost: rebound.example:8470\r\ncontent-type: {ONE}\r\n\
         content-length: {}\r\n\r\n{event}",
        event.len()
    );
    is_refused(&raw(&server, publish), 421, "010002");
    for path in ["/v1/operations/op", "/v1/operations", "/", "/metrics", "/x"] {
        let answer = raw(&server, get(path, "host: rebound.example:8470\r\n"));
        is_refused(&answer, 421, "010002");
        // The host in the request line takes precedence.
        let target = format!("http://rebound.example{path}");
        let answer = raw(&server, get(&target, "host: localhost\r\n"));
        is_refused(&answer, 421, "010002");
        let target = format!("http://localhost{path}");
        let answer = raw(&server, get(&target, "host: rebound.example\r\n"));
        assert!(!answer.contains(" 421 "), "{answer}");
    }
    for host in ["localhost", "LOCALHOST.:1", "127.0.0.1", "[::1]:9"] {
        let host = format!("host: {host}\r\n");
        let answer = raw(&server, get("/v1/operations/op", &host));
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    }
    assert_eq!(server.get("/v1/operations/other").status, 404);
    let refused = "opledger_http_requests_total{method=\"GET\",route=\"other\",status=\"421\"} 10";
    assert!(server.metrics().contains(refused), "{}", server.metrics());
}

#[test]
fn configured_host_names_are_accepted() {
    let hosts = [("SERVER__HOSTS", "ledger.example, Second.Example.")];
    let server = Server::with(&hosts);
    for (host, status) in [
        ("ledger.example", 200),
        ("LEDGER.example.:443", 200),
        ("second.example", 200),
        ("localhost", 200),
        ("other.example", 421),
    ] {
        let answer = raw(&server, get("/livez", &format!("host: {host}\r\n")));
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status} ")),
            "{host}: {answer}"
        );
    }
}

#[test]
fn a_request_has_one_host() {
    let server = Server::start();
    for headers in [
        "",
        "host: localhost\r\nhost: localhost\r\n",
        "host: localhost\r\nhost: rebound.example\r\n",
        "host: user@localhost\r\n",
        "host: a b\r\n",
        "host: ::1\r\n",
        "host: localhost:x\r\n",
        "host: loc\u{e4}lhost\r\n",
    ] {
        for path in ["/livez", "/v1/operations/op", "http://localhost/livez"] {
            is_refused(&raw(&server, get(path, headers)), 400, "010001");
        }
    }
    // HTTP/1.0 had no `Host`, and some health checks still use it.
    let answer = raw(&server, "GET /livez HTTP/1.0\r\n\r\n");
    assert!(answer.contains(" 200 "), "{answer}");
}

#[test]
fn a_request_id_is_repeated_if_it_is_one() {
    let server = Server::start();
    let longest = "x".repeat(128);
    for (given, is_repeated) in [
        ("one", true),
        (&*longest, true),
        ("", false),
        ("two words", false),
        (&format!("{longest}x"), false),
        (&"x".repeat(60_000), false),
        ("\u{e4}", false),
        ("one\r\nx-request-id: two", false),
    ] {
        for path in ["/livez", "/v1/operations/op", "/nowhere", "/v1/operations"] {
            let headers = format!("host: localhost\r\nx-request-id: {given}\r\n");
            let answer = raw(&server, get(path, &headers));
            let ids = answer
                .lines()
                .filter_map(|line| line.strip_prefix("x-request-id: "));
            let ids: Vec<&str> = ids.collect();
            match is_repeated {
                true => assert_eq!(ids, [given], "{path}"),
                false => {
                    assert_eq!(ids.len(), 1, "{path}: {answer}");
                    assert!(ids[0].parse::<uuid::Uuid>().is_ok(), "{path}: {answer}");
                }
            }
        }
    }
}

/// Requests that wait for something that does not happen.
fn waiting() -> Vec<String> {
    let wait = "host: localhost\r\nprefer: wait=60\r\n";
    let stream = "host: localhost\r\naccept: text/event-stream\r\n";
    vec![
        format!("GET /v1/operations/none HTTP/1.1\r\n{wait}\r\n"),
        format!("GET /v1/operations/none HTTP/1.1\r\n{stream}\r\n"),
        format!("GET /v1/operations HTTP/1.1\r\n{stream}\r\n"),
        // With another request after it.
        format!("GET /v1/operations/none HTTP/1.1\r\n{wait}\r\nGET /livez HTTP/1.1\r\n\r\n"),
    ]
}

/// As many connections as the limit allows, each with a response. `None` if one was refused.
fn all_the_room(server: &Server) -> Option<Vec<TcpStream>> {
    let mut streams: Vec<TcpStream> = (0..20).map(|_| connect(server)).collect();
    for stream in &mut streams {
        let mut status = [0; 12];
        let request = b"GET /livez HTTP/1.1\r\nhost: localhost\r\n\r\n";
        stream.write_all(request).ok()?;
        stream.read_exact(&mut status).ok()?;
        (&status == b"HTTP/1.1 200").then_some(())?;
    }
    Some(streams)
}

#[test]
fn clients_that_have_gone_make_room_at_once() {
    let server = Server::with(&[("SERVER__MAX_CONNECTIONS", "20")]);
    let mut streams = all_the_room(&server).unwrap();
    for request in waiting() {
        for is_reset in [false, true] {
            for stream in &mut streams {
                stream.write_all(request.as_bytes()).unwrap();
            }
            // All of them are open and waiting.
            let full = raw(&server, "");
            assert!(full.starts_with("HTTP/1.1 503 "), "{full}");
            for stream in &streams {
                match is_reset {
                    true => {
                        let linger = socket2::SockRef::from(stream);
                        linger.set_linger(Some(Duration::ZERO)).unwrap();
                    }
                    false => stream.shutdown(Shutdown::Write).unwrap(),
                }
            }
            let began = Instant::now();
            let kept = (!is_reset).then_some(streams);
            streams = within(LIMIT, "there is room for all again", || {
                all_the_room(&server)
            });
            let took = began.elapsed();
            assert!(took < Duration::from_secs(4), "{took:?}: {request}");
            drop(kept);
        }
    }
}

#[test]
fn a_client_that_half_closes_still_reads_its_response() {
    let server = Server::start();
    let token = server.publish(&[created("op")]);
    server.document("op", &token).unwrap();
    let event = created("other").to_string();
    let publish = format!(
        "POST /v1/events HTTP/1.1\r\nhost: localhost\r\ncontent-type: {ONE}\r\n\
         content-length: {}\r\n\r\n{event}",
        event.len()
    );
    for (request, status) in [
        (get("/v1/operations/op", "host: localhost\r\n"), "200"),
        (get("/v1/operations", "host: localhost\r\n"), "200"),
        (publish, "202"),
    ] {
        let mut stream = connect(&server);
        stream.write_all(request.as_bytes()).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let answer = rest(&mut stream);
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status} ")),
            "{answer}"
        );
    }
}

#[test]
fn pipelined_requests_after_a_waiting_one_get_responses_in_order() {
    let server = Server::start();
    let mut stream = connect(&server);
    stream
        .write_all(b"GET /v1/operations/op HTTP/1.1\r\nhost: localhost\r\nprefer: wait=60\r\n\r\n")
        .unwrap();
    server.eventually("it waits", |server| {
        server.metrics().contains("opledger_watched_operations 1")
    });
    // More than the ledger reads ahead.
    let mut behind = String::new();
    for n in 0..1_000 {
        behind += &format!("GET /livez HTTP/1.1\r\nhost: localhost\r\nx-request-id: {n}\r\n\r\n");
    }
    stream.write_all(behind.as_bytes()).unwrap();
    server.publish(&[created("op")]);
    assert!(one_answer(&mut stream).contains("\"operation_id\":\"op\""));
    for n in 0..1_000 {
        let answer = one_answer(&mut stream);
        assert!(
            answer.contains(&format!("\r\nx-request-id: {n}\r\n")),
            "{answer}"
        );
    }
}

/// How long it takes until the ledger closes the connection.
fn closes_after(stream: &mut TcpStream) -> Duration {
    let began = Instant::now();
    let mut byte = [0];
    // Closed or reset, without more data.
    assert!(!matches!(stream.read(&mut byte), Ok(1)));
    began.elapsed()
}

#[test]
fn idle_connections_and_slow_heads_have_limits_of_their_own() {
    let server = Server::with(&[
        ("SERVER__HEADER_TIMEOUT", "1s"),
        ("SERVER__IDLE_TIMEOUT", "3s"),
    ]);
    let request = b"GET /livez HTTP/1.1\r\nhost: localhost\r\n\r\n";
    let within = |took: Duration, from: u64, to: u64| {
        let secs = Duration::from_secs;
        assert!(took > secs(from) && took < secs(to), "{took:?}");
    };
    // A connection that never sends a request.
    let mut silent = connect(&server);
    // A connection that sends a request byte by byte.
    let mut slow = connect(&server);
    slow.write_all(&request[..10]).unwrap();
    let mut drip = slow.try_clone().unwrap();
    std::thread::spawn(move || {
        for byte in &request[10..] {
            std::thread::sleep(Duration::from_millis(200));
            if drip.write_all(&[*byte]).is_err() {
                break;
            }
        }
    });
    // One that has had a response, and one that then starts another request.
    let mut idle = connect(&server);
    let mut again = connect(&server);
    for stream in [&mut idle, &mut again] {
        stream.write_all(request).unwrap();
        one_answer(stream);
    }
    again.write_all(&request[..10]).unwrap();
    let watch = |mut stream: TcpStream| std::thread::spawn(move || closes_after(&mut stream));
    let (slow, idle, again) = (watch(slow), watch(idle), watch(again));
    within(closes_after(&mut silent), 0, 3);
    within(slow.join().unwrap(), 0, 3);
    within(again.join().unwrap(), 0, 3);
    within(idle.join().unwrap(), 2, 6);
}

#[test]
fn an_idle_connection_is_used_again_for_longer_than_proxies_keep_it() {
    let settings = opledger::config::Config::default().server;
    assert!(settings.idle_timeout > Duration::from_secs(60));
    // Container engines wait ten seconds before they kill.
    assert!(settings.shutdown_grace < Duration::from_secs(10));
}

#[test]
fn idle_and_stuck_clients_do_not_delay_the_stop() {
    let server = Server::with(&[("SERVER__SHUTDOWN_GRACE", "60s")]);
    let mut large = created("large");
    large["data"]["request"]["body"] = json!("x".repeat(3 << 20));
    let token = server.publish(&[large, created("op")]);
    server.document("large", &token).unwrap();
    let mut open = Vec::new();
    for request in [
        // Has had a response.
        "GET /livez HTTP/1.1\r\nhost: localhost\r\n\r\n",
        // Has sent no request, or sends it slowly.
        "",
        "GET /livez HT",
        // Sends a body slowly.
        "POST /v1/events HTTP/1.1\r\nhost: localhost\r\n\
         content-type: application/cloudevents+json\r\ncontent-length: 1000\r\n\r\n{",
        // Does not read.
        "GET /v1/operations/large HTTP/1.1\r\nhost: localhost\r\n\r\n",
    ] {
        let mut stream = connect(&server);
        stream.write_all(request.as_bytes()).unwrap();
        open.push(stream);
    }
    for request in waiting() {
        let mut stream = connect(&server);
        stream.write_all(request.as_bytes()).unwrap();
        open.push(stream);
    }
    server.eventually("the streams are open", |server| {
        server.metrics().contains("opledger_event_streams 2")
    });
    let began = Instant::now();
    assert!(server.terminate().success());
    let took = began.elapsed();
    assert!(took < Duration::from_secs(8), "{took:?}");
}

fn expecting(content_type: &str, length: u64, more: &str) -> String {
    format!(
        "POST /v1/events HTTP/1.1\r\nhost: localhost\r\ncontent-type: {content_type}\r\n\
         expect: 100-continue\r\ncontent-length: {length}\r\n{more}\r\n"
    )
}

#[test]
fn a_client_that_expects_100_continue_need_not_send_a_refused_body() {
    let server = Server::with(&[("SERVER__MAX_BODY", "1MiB"), ("EVENTS__MAX_SIZE", "1MiB")]);
    for (request, status) in [
        (expecting(ONE, (1 << 20) + 1, ""), 413),
        (expecting(ONE, 1 << 40, ""), 413),
        (expecting("text/plain", 10, ""), 415),
        (expecting(ONE, 10, "content-encoding: br\r\n"), 415),
    ] {
        let answer = raw(&server, request);
        let start = format!("HTTP/1.1 {status} ");
        assert!(answer.starts_with(&start), "{answer}");
    }
    let mut stream = connect(&server);
    let event = created("op").to_string();
    let request = expecting(ONE, event.len() as u64, "");
    stream.write_all(request.as_bytes()).unwrap();
    assert_eq!(one_answer(&mut stream), "HTTP/1.1 100 Continue\r\n\r\n");
    stream.write_all(event.as_bytes()).unwrap();
    assert!(one_answer(&mut stream).starts_with("HTTP/1.1 202 "));
}

fn gzip(text: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(text).unwrap();
    encoder.finish().unwrap()
}

fn zstd(text: &[u8]) -> Vec<u8> {
    let mut out = vec![0; zstd_safe::compress_bound(text.len())];
    let len = zstd_safe::compress(&mut out[..], text, 3).unwrap();
    out.truncate(len);
    out
}

#[test]
fn compressed_events_are_accepted_as_their_decompressed_form() {
    let server = Server::with(&[("SERVER__MAX_BODY", "2MiB"), ("EVENTS__MAX_SIZE", "1MiB")]);
    let encoded = |coding: &str, kind: &str, body: Vec<u8>| {
        server.post_with(
            &[("content-type", kind), ("content-encoding", coding)],
            body,
        )
    };
    type Encode = fn(&[u8]) -> Vec<u8>;
    let encodings: [(&str, Encode); 5] = [
        ("gzip", gzip),
        ("X-GZip", gzip),
        ("zstd", zstd),
        ("identity", <[u8]>::to_vec),
        ("identity, gzip", gzip),
    ];
    for (n, (coding, encode)) in encodings.into_iter().enumerate() {
        let id = format!("op-{n}");
        let one = encode(created(&id).to_string().as_bytes());
        let answer = encoded(coding, ONE, one);
        assert_eq!(answer.status, 202, "{coding}: {answer:?}");
        let token = answer.header("ledger-position").to_owned();
        assert!(server.document(&id, &token).is_some(), "{coding}");
        let batch = encode(json!([created("a"), created("b")]).to_string().as_bytes());
        assert_eq!(encoded(coding, BATCH, batch).status, 202, "{coding}");
    }
    for coding in ["br", "deflate", "gzip, gzip", "zstd, gzip", "compress", "x"] {
        let answer = encoded(coding, ONE, gzip(b"{}"));
        answer.refused(415, "010001");
        assert_eq!(answer.header("accept-encoding"), "gzip, zstd");
    }
    for coding in ["gzip", "zstd"] {
        for body in [&b""[..], b"{}", &gzip(b"{}")[..10], &zstd(b"{}")[..5]] {
            encoded(coding, ONE, body.to_vec()).refused(400, "010001");
        }
    }
    // A few kilobytes that decompress to a gigabyte.
    let bomb = vec![b' '; 1 << 30];
    for (coding, body) in [("gzip", gzip(&bomb)), ("zstd", zstd(&bomb))] {
        let before = server.resident();
        encoded(coding, ONE, body).refused(413, "010003");
        let grown = server.resident().saturating_sub(before);
        assert!(grown < 64 << 20, "{coding}: {grown}");
    }
}

#[test]
fn a_compressed_body_has_the_same_limit_after_decompression() {
    const MAX: usize = 8192;
    let server = Server::with(&[("SERVER__MAX_BODY", "8KiB"), ("EVENTS__MAX_SIZE", "8KiB")]);
    for (bytes, status) in [(MAX - 1, 202), (MAX, 202), (MAX + 1, 413)] {
        let batch = json!([created(&format!("op-{bytes}"))]).to_string();
        let body = format!("{batch}{}", " ".repeat(bytes - batch.len())).into_bytes();
        for (coding, encoded) in [("gzip", gzip(&body)), ("zstd", zstd(&body))] {
            let headers = [("content-type", BATCH), ("content-encoding", coding)];
            let answer = server.post_with(&headers, encoded);
            assert_eq!(answer.status, status, "{bytes} bytes by {coding}");
        }
    }
}
