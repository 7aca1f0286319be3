//! Attempts on receivers that write arbitrary bytes.

use super::*;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream as Socket};
use std::thread::JoinHandle;
use std::time::Instant;

const TIMEOUT: Duration = Duration::from_secs(10);

/// Accepts one connection, reads one whole request, then runs the given function.
struct Receiver {
    port: u16,
    thread: JoinHandle<Vec<u8>>,
}

impl Receiver {
    fn start(then: impl FnOnce(Socket) + Send + 'static) -> Receiver {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let thread = std::thread::spawn(move || {
            let (mut socket, _) = listener.accept().expect("a connection");
            let mut request = Vec::new();
            while !request.ends_with(b"{\"a\":1}") {
                let mut piece = [0; 4096];
                let length = socket.read(&mut piece).expect("readable");
                assert!(length > 0, "a whole request: {request:?}");
                request.extend_from_slice(&piece[..length]);
            }
            then(socket);
            request
        });
        Receiver { port, thread }
    }

    /// Writes the bytes and closes.
    fn writes(bytes: &[u8]) -> Receiver {
        let bytes = bytes.to_vec();
        Receiver::start(move |mut socket| socket.write_all(&bytes).expect("written"))
    }

    /// Writes the bytes, then keeps the connection open until the caller closes it.
    fn holds(bytes: &[u8]) -> Receiver {
        let bytes = bytes.to_vec();
        Receiver::start(move |mut socket| {
            socket.write_all(&bytes).expect("written");
            let _ = socket.read_to_end(&mut Vec::new());
        })
    }

    /// The result of an attempt on this receiver.
    fn called(self) -> Result<u16, AttemptFailure> {
        self.called_within(TIMEOUT)
    }

    fn called_within(self, timeout: Duration) -> Result<u16, AttemptFailure> {
        let outcome = run(self.port, "{\"a\":1}".into(), timeout);
        self.thread.join().expect("no panic");
        outcome
    }
}

fn run(port: u16, document: Bytes, timeout: Duration) -> Result<u16, AttemptFailure> {
    let attempt = Attempt {
        target: &Target::of("127.0.0.1", port),
        operation_id: OperationId("op-1"),
        key: DeliveryKey([7; 16]),
        document,
    };
    let allowed = Allowed(vec!["127.0.0.1/32".parse().expect("a network")]);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    runtime
        .expect("a runtime")
        .block_on(attempt.run(&allowed, timeout))
}

fn kind(outcome: Result<u16, AttemptFailure>) -> Result<u16, FailureKind> {
    outcome.map_err(|failure| failure.kind)
}

#[test]
fn the_request_is_a_put_of_the_document_under_its_key() {
    let receiver = Receiver::writes(b"HTTP/1.1 204 Taken\r\n\r\n");
    let port = receiver.port;
    assert_eq!(run(port, "{\"a\":1}".into(), TIMEOUT), Ok(204));
    let request = String::from_utf8(receiver.thread.join().expect("no panic")).expect("ASCII");
    let version = env!("CARGO_PKG_VERSION");
    let key = DeliveryKey([7; 16]);
    assert_eq!(
        request,
        format!(
            "PUT /v1/operations/op-1 HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\n\
             user-agent: opledger/{version}\r\ncontent-type: application/json\r\n\
             content-length: 7\r\nidempotency-key: {key}\r\nconnection: close\r\n\r\n{{\"a\":1}}"
        )
    );
}

#[test]
fn a_status_of_2xx_is_a_success_and_no_other_is() {
    // A status below 200, except 101, only announces the response.
    for status in [101].into_iter().chain(200..=620).chain([999]) {
        let response = format!("HTTP/1.1 {status} Text\r\ncontent-length: 0\r\n\r\n");
        let outcome = Receiver::writes(response.as_bytes()).called();
        let expected = match status {
            200..=299 => Ok(status),
            429 | 503 => Err(FailureKind::Busy),
            _ => Err(FailureKind::Refused),
        };
        assert_eq!(kind(outcome.clone()), expected, "{status}");
        if let Err(failure) = outcome {
            let said = format!("response {status}");
            assert!(failure.why.starts_with(&said), "{}", failure.why);
        }
    }
}

#[test]
fn an_interim_response_is_not_the_response() {
    let announced = "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 102 Processing\r\na: b\r\n\r\n\
                     HTTP/1.1 103 Early Hints\r\nlink: <x>\r\n\r\n";
    for (rest, expected) in [
        ("HTTP/1.1 200 OK\r\n\r\n", Ok(200)),
        ("HTTP/1.1 500 No\r\n\r\n", Err(FailureKind::Refused)),
        ("HTTP/1.1 200", Err(FailureKind::BrokenOff)),
        ("", Err(FailureKind::BrokenOff)),
    ] {
        let response = format!("{announced}{rest}");
        let outcome = Receiver::writes(response.as_bytes()).called();
        assert_eq!(kind(outcome), expected, "{rest:?}");
    }
    // A pause that never ends.
    let receiver =
        Receiver::start(
            |mut socket| {
                while socket.write_all(b"HTTP/1.1 102 Processing\r\n\r\n").is_ok() {}
            },
        );
    let outcome = kind(receiver.called_within(Duration::from_millis(300)));
    assert_eq!(outcome, Err(FailureKind::TimedOut));
}

/// Everything that may be malformed after a status line.
fn rests() -> Vec<(&'static str, String)> {
    let many = |count| {
        (0..count)
            .map(|n| format!("x-{n}: y\r\n"))
            .collect::<String>()
    };
    vec![
        ("nothing", String::new()),
        ("no end of the head", "a: b\r\n".into()),
        ("half a header", "content-le".into()),
        ("a folded header", "a: b\r\n c\r\n\td\r\n\r\n".into()),
        ("a folded first line", " c\r\n\r\n".into()),
        ("150 headers", format!("{}\r\n", many(150))),
        ("5,000 headers", format!("{}\r\n", many(5000))),
        ("50,000 headers", format!("{}\r\n", many(50_000))),
        (
            "a header of 100 KB",
            format!("a: {}\r\n\r\n", "x".repeat(100_000)),
        ),
        ("no colon", "a header\r\n\r\n".into()),
        ("a blank in a name", "a b: c\r\n\r\n".into()),
        ("a control character", "a: \u{1}\r\n\r\n".into()),
        ("no name", ": c\r\n\r\n".into()),
        ("not ASCII", "é: ü\r\n\r\n".into()),
        (
            "no carriage returns",
            "a: b\ncontent-length: 2\n\nok".into(),
        ),
        (
            "two lengths",
            "content-length: 1\r\ncontent-length: 2\r\n\r\nok".into(),
        ),
        ("no number", "content-length: two\r\n\r\nok".into()),
        ("a negative length", "content-length: -1\r\n\r\nok".into()),
        (
            "a huge length",
            "content-length: 99999999999999999999999\r\n\r\n".into(),
        ),
        (
            "a body that is too short",
            "content-length: 100\r\n\r\nhalf of".into(),
        ),
        (
            "a body that is too long",
            "content-length: 1\r\n\r\nmore".into(),
        ),
        (
            "an unknown coding",
            "transfer-encoding: sealed\r\n\r\n???".into(),
        ),
        (
            "chunks that are none",
            "transfer-encoding: chunked\r\n\r\nzz\r\n".into(),
        ),
        (
            "a truncated chunk",
            "transfer-encoding: chunked\r\n\r\n10\r\nhalf".into(),
        ),
        ("a body of 10 MB", format!("\r\n{}", "x".repeat(10_000_000))),
    ]
}

#[test]
fn the_status_line_alone_decides() {
    for (status, expected) in [(200, Ok(200)), (503, Err(FailureKind::Busy))] {
        for (what, rest) in rests() {
            let response = format!("HTTP/1.1 {status} Said\r\n{rest}").into_bytes();
            // Writing may fail because the caller has closed the connection.
            let receiver = Receiver::start(move |mut socket| drop(socket.write_all(&response)));
            assert_eq!(kind(receiver.called()), expected, "{status}, {what}");
        }
    }
    for line in [
        "HTTP/1.0 200 OK\r\n",
        "HTTP/1.1 200\r\n",
        "HTTP/1.1 200 \r\n",
        "HTTP/1.1 200 OK\n",
        "HTTP/1.1  200  OK\r\n",
        "\r\nHTTP/1.1 200 OK\r\n",
    ] {
        let outcome = Receiver::writes(line.as_bytes()).called();
        assert_eq!(kind(outcome), Ok(200), "{line:?}");
    }
}

#[test]
fn an_attempt_does_not_wait_long_for_the_rest_of_a_response() {
    let began = Instant::now();
    for rest in ["", "a: b\r\n", "\r\n", "content-length: 9\r\n\r\nhalf"] {
        let response = format!("HTTP/1.1 200 Said\r\n{rest}");
        assert_eq!(Receiver::holds(response.as_bytes()).called(), Ok(200));
    }
    assert!(began.elapsed() < TIMEOUT, "{:?}", began.elapsed());
    // If the response is known to be whole, the attempt does not wait.
    let began = Instant::now();
    for rest in ["content-length: 2\r\n\r\nok", "Content-Length: 0\r\n\r\n"] {
        for _ in 0..5 {
            let response = format!("HTTP/1.1 200 Said\r\n{rest}");
            assert_eq!(Receiver::holds(response.as_bytes()).called(), Ok(200));
        }
    }
    assert!(began.elapsed() < 5 * REST, "{:?}", began.elapsed());
}

#[test]
fn without_a_status_line_there_is_no_response() {
    for response in [
        "",
        "H",
        "HTTP/1.1 200",
        "HTTP/1.1 200 O",
        "HTTP/1.1 2000 OK\r\n\r\n",
        "HTTP/1.1 20 OK\r\n\r\n",
        "HTTP/1.1 +20 OK\r\n\r\n",
        "HTTP/2 200 OK\r\n\r\n",
        "ICY 200 OK\r\n\r\n",
        "200 OK\r\n\r\n",
        "<html></html>",
    ] {
        let outcome = Receiver::writes(response.as_bytes()).called();
        assert_eq!(kind(outcome), Err(FailureKind::BrokenOff), "{response:?}");
    }
    let silent = Receiver::holds(b"").called_within(Duration::from_millis(300));
    assert_eq!(kind(silent), Err(FailureKind::TimedOut));
    let silent = Receiver::holds(b"HTTP/1.1 2").called_within(Duration::from_millis(300));
    assert_eq!(kind(silent), Err(FailureKind::TimedOut));
}

#[test]
fn a_receiver_may_respond_before_it_has_read_everything() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("an address").port();
    let (gone, is_gone) = std::sync::mpsc::channel();
    let thread = std::thread::spawn(move || {
        let (mut socket, _) = listener.accept().expect("a connection");
        socket
            .write_all(b"HTTP/1.1 200 Said\r\n\r\n")
            .expect("written");
        // Never reads, but keeps the connection open.
        is_gone.recv().expect("a signal");
    });
    let large = Bytes::from(vec![b'x'; 64 << 20]);
    assert_eq!(run(port, large, TIMEOUT), Ok(200));
    gone.send(()).expect("still there");
    thread.join().expect("no panic");
}

#[test]
fn retry_after_is_seconds_or_a_date() {
    let date = |seconds| httpdate::fmt_http_date(SystemTime::now() + Duration::from_secs(seconds));
    let seconds = |n: u64| Some(n..=n);
    for (value, expected) in [
        ("120".to_owned(), seconds(120)),
        ("  7  ".to_owned(), seconds(7)),
        ("0".to_owned(), seconds(0)),
        ("99999999999999999999999".to_owned(), seconds(u64::MAX)),
        (date(300), Some(297..=300)),
        // A time in the past, in each of the three date formats.
        ("Sun, 06 Nov 1994 08:49:37 GMT".to_owned(), seconds(0)),
        ("Sunday, 06-Nov-94 08:49:37 GMT".to_owned(), seconds(0)),
        ("Sun Nov  6 08:49:37 1994".to_owned(), seconds(0)),
        ("-5".to_owned(), None),
        ("+5".to_owned(), None),
        ("1.5".to_owned(), None),
        ("soon".to_owned(), None),
        ("".to_owned(), None),
        ("Sun, 06 Nov 1994".to_owned(), None),
    ] {
        for status in [503, 429, 500, 302] {
            let response =
                format!("HTTP/1.1 {status} No\r\na: b\r\n c\r\nRETRY-after: {value}\r\n\r\n");
            let failure = Receiver::writes(response.as_bytes()).called().unwrap_err();
            let found = failure.retry_after.map(|after| after.as_secs());
            match (&expected, found) {
                (None, None) => {}
                (Some(range), Some(found)) if range.contains(&found) => {}
                _ => panic!("{status}, {value:?}: {found:?} instead of {expected:?}"),
            }
        }
    }
}
