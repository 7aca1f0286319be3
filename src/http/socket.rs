//! A connection's socket. It adds what hyper does not do:
//!
//! - What hyper refuses before there is a request (a broken request line, headers that are too
//!   large) gets an error response with a request id instead of an empty response.
//! - A client that takes no byte for long is disconnected, as is one that sends half a request,
//!   and a connection without requests.
//! - A client that has gone is noticed while its request waits.
//! - Closing lingers for a moment, so that a client that is still sending reads the error
//!   response and not a reset.

use super::error::unreadable_request;
use super::exchange::Exchange;
use super::{REQUEST_ID, request_id};
use crate::config::Server;
use std::future::Future;
use std::io::{Error, ErrorKind, IoSlice, Result};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep_until};

/// Closing waits no longer than this for the client to close as well, and reads no more bytes
/// than this from it.
const LINGER: Duration = Duration::from_secs(2);
const LINGER_BYTES: usize = 64 << 20;

/// A client that has closed its side may still read the response if it comes within this time.
/// After it the client counts as disconnected.
const GONE_AFTER: Duration = Duration::from_secs(1);

/// Bytes of further requests that are read during a response, to notice that the client closes.
const AHEAD: usize = 16 << 10;

/// While the ledger stops, a client that moves no byte for this long is disconnected.
const STUCK_AT_STOP: Duration = Duration::from_secs(1);

/// How long sockets wait for their clients.
pub struct ClientTimeouts {
    /// For a request on a connection that had one.
    idle: Duration,
    /// For the rest of a request's head, or for the first request.
    head: Duration,
    /// For a client to take a byte.
    send: Duration,
    is_stopping: AtomicBool,
}

impl ClientTimeouts {
    pub fn new(server: &Server) -> ClientTimeouts {
        ClientTimeouts {
            idle: server.idle_timeout,
            head: server.header_timeout,
            send: server.send_timeout,
            is_stopping: AtomicBool::new(false),
        }
    }

    /// From now on no client is waited for longer than `STUCK_AT_STOP`.
    pub fn stop(&self) {
        self.is_stopping.store(true, Ordering::Relaxed);
    }

    fn is_stopping(&self) -> bool {
        self.is_stopping.load(Ordering::Relaxed)
    }

    fn within(&self, wait: Duration) -> Duration {
        match self.is_stopping() {
            true => wait.min(STUCK_AT_STOP),
            false => wait,
        }
    }
}

pub struct Socket {
    stream: TcpStream,
    exchange: Arc<Exchange>,
    patience: Arc<ClientTimeouts>,
    /// When a byte was last sent or received.
    moved: Instant,
    /// Since when it has waited for a request's head, and how many requests had begun by then.
    head: Option<(Instant, u64)>,
    /// Since when the client has taken nothing.
    stuck: Option<Instant>,
    reading: Timer,
    sending: Timer,
    /// Bytes that were received during a response.
    ahead: Vec<u8>,
    /// When the client closed its side while a response was due.
    ended: Option<Instant>,
    /// Since when it closes.
    lingering: Option<Instant>,
    thrown_away: usize,
    /// Our error response in the place of hyper's, and how many bytes of it are sent.
    instead: Option<(Vec<u8>, usize)>,
}

/// Wakes the connection at the first of the given moments.
#[derive(Default)]
struct Timer(Option<Pin<Box<Sleep>>>);

impl Timer {
    /// Whether the moment has come. If not, the connection is woken then, or sooner.
    fn is_over(&mut self, cx: &mut Context, moment: Instant) -> bool {
        let sleep = self.0.get_or_insert_with(|| Box::pin(sleep_until(moment)));
        loop {
            if Instant::now() >= moment {
                return true;
            }
            if sleep.deadline() > moment || sleep.is_elapsed() {
                sleep.as_mut().reset(moment);
            }
            if sleep.as_mut().poll(cx).is_pending() {
                return false;
            }
        }
    }
}

fn timed_out(why: &'static str) -> Error {
    Error::new(ErrorKind::TimedOut, why)
}

impl Socket {
    pub fn new(
        stream: TcpStream,
        exchange: Arc<Exchange>,
        patience: Arc<ClientTimeouts>,
    ) -> Socket {
        let now = Instant::now();
        Socket {
            stream,
            exchange,
            patience,
            moved: now,
            head: Some((now, 0)),
            stuck: None,
            reading: Timer::default(),
            sending: Timer::default(),
            ahead: Vec::new(),
            ended: None,
            lingering: None,
            thrown_away: 0,
            instead: None,
        }
    }

    /// Sends our error response to the end.
    fn poll_instead(&mut self, cx: &mut Context) -> Poll<Result<()>> {
        while let Some((words, sent)) = &mut self.instead {
            if *sent == words.len() {
                self.instead = None;
                break;
            }
            *sent += ready!(Pin::new(&mut self.stream).poll_write(cx, &words[*sent..]))?;
        }
        Poll::Ready(Ok(()))
    }

    fn watch_progress<T>(&mut self, cx: &mut Context, sent: Poll<Result<T>>) -> Poll<Result<T>> {
        let now = Instant::now();
        if sent.is_ready() {
            self.stuck = None;
            self.moved = now;
            return sent;
        }
        let since = *self.stuck.get_or_insert(now);
        match self
            .sending
            .is_over(cx, since + self.patience.within(self.patience.send))
        {
            true => Poll::Ready(Err(timed_out("the client takes nothing"))),
            false => Poll::Pending,
        }
    }

    /// Bytes were received.
    fn received(&mut self) {
        self.moved = Instant::now();
        let begun = self.exchange.begun();
        if !self.exchange.is_answering() && self.head.is_none_or(|(_, of)| of != begun) {
            self.head = Some((self.moved, begun));
        }
    }

    /// Nothing was received: fails once that has lasted too long.
    fn poll_patience(&mut self, cx: &mut Context) -> Poll<Result<()>> {
        let begun = self.exchange.begun();
        let patience = &self.patience;
        let (until, why) = match self.head {
            // The reader of a body limits how long it may take.
            _ if self.exchange.is_answering() => match patience.is_stopping() {
                true => (self.moved + STUCK_AT_STOP, "the client sends nothing"),
                false => return Poll::Pending,
            },
            Some((since, of)) if of == begun => {
                let until = since + patience.within(patience.head);
                (until, "the head of a request takes too long")
            }
            Some(_) | None => {
                let until = self.moved + patience.within(patience.idle);
                (until, "no request for long")
            }
        };
        match self.reading.is_over(cx, until) {
            true => Poll::Ready(Err(timed_out(why))),
            false => Poll::Pending,
        }
    }

    /// Detects a client that has disconnected: hyper reads nothing while it waits for a response.
    fn look_for_end(&mut self, cx: &mut Context) -> Result<()> {
        while self.ended.is_none() && self.ahead.len() < AHEAD {
            let mut bytes = [0; 1 << 10];
            let mut buf = ReadBuf::new(&mut bytes);
            match Pin::new(&mut self.stream).poll_read(cx, &mut buf) {
                Poll::Pending => break,
                Poll::Ready(read) => read?,
            }
            self.moved = Instant::now();
            match buf.filled() {
                [] => self.ended = Some(self.moved),
                bytes => self.ahead.extend_from_slice(bytes),
            }
        }
        if self.ended.is_some() && self.reading.is_over(cx, self.moved + GONE_AFTER) {
            return Err(Error::new(
                ErrorKind::ConnectionAborted,
                "the client has gone",
            ));
        }
        Ok(())
    }
}

/// hyper's own refusals are short, and unlike ours have no request id.
fn refusal_of_hyper(words: &[u8]) -> Option<Vec<u8>> {
    let text = std::str::from_utf8(words.get(..words.len().min(512))?).ok()?;
    let status = text.strip_prefix("HTTP/1.1 4")?.get(..2)?;
    let head = &text[..text.find("\r\n\r\n")?];
    if head.to_ascii_lowercase().contains(REQUEST_ID.as_str()) {
        return None;
    }
    let (status, body) = unreadable_request(400 + status.parse::<u16>().ok()?);
    Some(closing_response(status, &body))
}

/// A whole response, for where there is no request.
pub fn closing_response(status: axum::http::StatusCode, body: &[u8]) -> Vec<u8> {
    let id = request_id();
    let mut response = format!(
        "HTTP/1.1 {} {}\r\ncontent-type: application/json\r\n{REQUEST_ID}: {}\r\n\
         content-length: {}\r\nconnection: close\r\n\r\n",
        status.as_u16(),
        status.canonical_reason().unwrap_or(""),
        id.to_str().expect("a UUID is text"),
        body.len(),
    )
    .into_bytes();
    response.extend_from_slice(body);
    response
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context,
        buf: &mut ReadBuf,
    ) -> Poll<Result<()>> {
        if !self.ahead.is_empty() {
            let len = self.ahead.len().min(buf.remaining());
            buf.put_slice(&self.ahead[..len]);
            self.ahead.drain(..len);
            self.received();
            return Poll::Ready(Ok(()));
        }
        if self.ended.is_some() {
            return Poll::Ready(Ok(()));
        }
        let before = buf.filled().len();
        match Pin::new(&mut self.stream).poll_read(cx, buf) {
            Poll::Pending => self.poll_patience(cx),
            Poll::Ready(read) => {
                if buf.filled().len() > before {
                    self.received();
                }
                Poll::Ready(read)
            }
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context, buf: &[u8]) -> Poll<Result<usize>> {
        ready!(self.poll_instead(cx))?;
        if let Some(words) = refusal_of_hyper(buf) {
            self.instead = Some((words, 0));
            // hyper's response counts as sent; ours follows with the flush.
            let _ = self.poll_instead(cx)?;
            return Poll::Ready(Ok(buf.len()));
        }
        let sent = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.watch_progress(cx, sent)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context,
        bufs: &[IoSlice],
    ) -> Poll<Result<usize>> {
        match bufs.iter().find(|buf| !buf.is_empty()) {
            Some(first) if first.starts_with(b"HTTP/1.1 4") => self.poll_write(cx, first),
            _ => {
                ready!(self.poll_instead(cx))?;
                let sent = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
                self.watch_progress(cx, sent)
            }
        }
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context) -> Poll<Result<()>> {
        let sent = self.poll_instead(cx);
        if sent.is_pending() || self.stuck.is_some() {
            ready!(self.watch_progress(cx, sent))?;
        }
        if self.exchange.is_answering() {
            self.look_for_end(cx)?;
        }
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context) -> Poll<Result<()>> {
        let sent = self.poll_instead(cx);
        if sent.is_pending() || self.stuck.is_some() {
            ready!(self.watch_progress(cx, sent))?;
        }
        let since = match self.lingering {
            Some(since) => since,
            None => {
                ready!(Pin::new(&mut self.stream).poll_shutdown(cx))?;
                *self.lingering.insert(Instant::now())
            }
        };
        let this = &mut *self;
        let mut scrap = [0; 16 << 10];
        while this.ended.is_none() && this.thrown_away < LINGER_BYTES {
            let mut buf = ReadBuf::new(&mut scrap);
            match Pin::new(&mut this.stream).poll_read(cx, &mut buf) {
                Poll::Ready(Ok(())) if buf.filled().is_empty() => break,
                Poll::Ready(Ok(())) => this.thrown_away += buf.filled().len(),
                Poll::Ready(Err(_)) => break,
                Poll::Pending => {
                    let until = match this.patience.is_stopping() {
                        true => this.moved + STUCK_AT_STOP,
                        false => since + LINGER,
                    };
                    match this.sending.is_over(cx, until) {
                        true => break,
                        false => return Poll::Pending,
                    }
                }
            }
        }
        Poll::Ready(Ok(()))
    }
}
