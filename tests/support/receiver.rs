//! A receiver of notifications: a real listener that responds as the test says and records its
//! calls.

use super::deadline::{SOON, of_test, within};
use serde_json::Value;
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// A complete request.
#[derive(Debug, Clone)]
pub struct Call {
    pub line: String,
    pub headers: BTreeMap<String, String>,
    pub body: Vec<u8>,
    pub at: Instant,
    /// Whether the response was a success.
    pub taken: bool,
}

impl Call {
    /// The operation in the path.
    pub fn operation(&self) -> &str {
        let path = self.line.split(' ').nth(1).unwrap();
        path.strip_prefix("/v1/operations/").unwrap()
    }

    pub fn key(&self) -> &str {
        &self.headers["idempotency-key"]
    }

    pub fn document(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }
}

#[derive(Debug, Clone)]
pub enum Reply {
    Status(u16),
    /// No response while the caller stays connected.
    Hang,
    Redirect(String),
    Reset,
    /// These bytes, then the connection closes.
    Raw(String),
    /// A success whose body never ends.
    Endless,
}

impl Reply {
    /// Whether the caller has to treat it as a success.
    fn is_success(&self) -> bool {
        match self {
            Reply::Status(status) => (200..300).contains(status),
            Reply::Raw(text) => {
                let line = text.split_once('\n').map(|(line, _)| line);
                line.is_some_and(|line| line.starts_with("HTTP/1.1 2"))
            }
            Reply::Endless => true,
            Reply::Hang | Reply::Redirect(_) | Reply::Reset => false,
        }
    }
}

pub struct Receiver {
    pub address: SocketAddr,
    calls: Arc<Mutex<Vec<Call>>>,
    connections: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Receiver {
    /// `reply` gets the call and the number of earlier calls for the same operation.
    pub fn start(reply: impl Fn(&Call, usize) -> Reply + Send + Sync + 'static) -> Receiver {
        Receiver::on("127.0.0.1:0", reply)
    }

    pub fn on(
        address: &str,
        reply: impl Fn(&Call, usize) -> Reply + Send + Sync + 'static,
    ) -> Receiver {
        of_test();
        let listener = TcpListener::bind(address).unwrap();
        let address = listener.local_addr().unwrap();
        let (calls, connections) = (Arc::default(), Arc::<AtomicUsize>::default());
        let stop = Arc::<AtomicBool>::default();
        let served = Served {
            calls: Arc::clone(&calls),
            reply: Arc::new(reply),
        };
        let (counted, told) = (connections.clone(), stop.clone());
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming() {
                if told.load(Ordering::Relaxed) {
                    return;
                }
                counted.fetch_add(1, Ordering::Relaxed);
                let served = served.clone();
                std::thread::spawn(move || served.serve(stream.unwrap()));
            }
        });
        Receiver {
            address,
            calls,
            connections,
            stop,
            thread: Some(thread),
        }
    }

    /// A receiver that accepts everything.
    pub fn willing() -> Receiver {
        Receiver::start(|_, _| Reply::Status(200))
    }

    pub fn calls(&self) -> Vec<Call> {
        self.calls.lock().unwrap().clone()
    }

    /// The operation of each call, in order.
    pub fn operations(&self) -> Vec<String> {
        let calls = self.calls();
        calls
            .iter()
            .map(|call| call.operation().to_owned())
            .collect()
    }

    pub fn of(&self, operation: &str) -> Vec<Call> {
        let mut calls = self.calls();
        calls.retain(|call| call.operation() == operation);
        calls
    }

    /// Includes connections without a request.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    #[track_caller]
    pub fn eventually(&self, what: &str, holds: impl Fn(&[Call]) -> bool) -> Vec<Call> {
        within(SOON, what, || {
            let calls = self.calls();
            holds(&calls).then_some(calls)
        })
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        // Wakes the listener so that it checks `stop`.
        drop(TcpStream::connect(self.address));
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

type Reaction = dyn Fn(&Call, usize) -> Reply + Send + Sync;

#[derive(Clone)]
struct Served {
    calls: Arc<Mutex<Vec<Call>>>,
    reply: Arc<Reaction>,
}

impl Served {
    fn serve(&self, stream: TcpStream) {
        let Some(mut call) = read(&stream) else {
            return;
        };
        let before = {
            let calls = self.calls.lock().unwrap();
            let same = |other: &&Call| other.line == call.line;
            calls.iter().filter(same).count()
        };
        let reply = (self.reply)(&call, before);
        call.taken = reply.is_success();
        self.calls.lock().unwrap().push(call);
        // The caller may have disconnected.
        let _ = answer(stream, reply);
    }
}

fn read(stream: &TcpStream) -> Option<Call> {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line).ok()?;
    let mut headers = BTreeMap::new();
    loop {
        let mut header = String::new();
        if reader.read_line(&mut header).ok()? == 0 {
            return None;
        }
        let Some((name, value)) = header.trim_end().split_once(':') else {
            break;
        };
        headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
    }
    let length = headers.get("content-length")?.parse().ok()?;
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    Some(Call {
        line: line.trim_end().to_owned(),
        headers,
        body,
        at: Instant::now(),
        taken: false,
    })
}

fn answer(mut stream: TcpStream, reply: Reply) -> std::io::Result<()> {
    match reply {
        Reply::Status(status) => {
            write!(
                stream,
                "HTTP/1.1 {status} Told\r\ncontent-length: 0\r\n\r\n"
            )
        }
        Reply::Redirect(to) => write!(
            stream,
            "HTTP/1.1 307 Elsewhere\r\nlocation: {to}\r\ncontent-length: 0\r\n\r\n"
        ),
        Reply::Hang => {
            // Returns when the caller closes.
            stream.read_to_end(&mut Vec::new()).map(drop)
        }
        Reply::Reset => {
            // Closing with a linger time of zero resets the connection.
            let socket = rustix::net::sockopt::set_socket_linger(&stream, Some(Duration::ZERO));
            socket.map_err(Into::into)
        }
        Reply::Raw(text) => stream.write_all(text.as_bytes()),
        Reply::Endless => {
            stream.write_all(b"HTTP/1.1 200 Told\r\ntransfer-encoding: chunked\r\n\r\n")?;
            loop {
                stream.write_all(b"1000\r\n")?;
                stream.write_all(&[b'x'; 0x1000])?;
                stream.write_all(b"\r\n")?;
            }
        }
    }
}
