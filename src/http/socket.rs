//! A connection's socket, with three things that hyper leaves to others:
//!
//! - what hyper refuses before there is a request (a broken request line, headers
//!   too large) gets the error sheet and a request id instead of an empty answer;
//! - a client that takes no byte for long is cut off;
//! - closing lingers for a moment, so that a client that is still sending reads
//!   the refusal rather than a reset.

use super::error::unreadable_request;
use super::{REQUEST_ID, request_id};
use std::future::Future;
use std::io::{Error, ErrorKind, IoSlice, Result};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep};

/// Closing waits no longer than this for the client to close as well, and takes no
/// more from it than this.
const LINGER: Duration = Duration::from_secs(2);
const LINGER_BYTES: usize = 64 << 20;

pub struct Socket {
    stream: TcpStream,
    send_timeout: Duration,
    /// Runs while the client takes nothing.
    stuck: Option<Pin<Box<Sleep>>>,
    /// Runs while closing.
    lingering: Option<Pin<Box<Sleep>>>,
    thrown_away: usize,
    /// Our own words in the place of hyper's, and how much of them is sent.
    instead: Option<(Vec<u8>, usize)>,
}

impl Socket {
    pub fn new(stream: TcpStream, send_timeout: Duration) -> Socket {
        Socket {
            stream,
            send_timeout,
            stuck: None,
            lingering: None,
            thrown_away: 0,
            instead: None,
        }
    }

    /// Sends what stands instead of hyper's words, to the end.
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
        if sent.is_ready() {
            self.stuck = None;
            return sent;
        }
        let timeout = self.send_timeout;
        let stuck = self.stuck.get_or_insert_with(|| Box::pin(sleep(timeout)));
        match stuck.as_mut().poll(cx) {
            Poll::Ready(()) => Poll::Ready(Err(Error::new(
                ErrorKind::TimedOut,
                "the client takes nothing",
            ))),
            Poll::Pending => Poll::Pending,
        }
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
    Some(closing_answer(status, &body))
}

/// A whole answer, for where there is no request to answer.
pub fn closing_answer(status: axum::http::StatusCode, body: &[u8]) -> Vec<u8> {
    let id = request_id();
    let mut answer = format!(
        "HTTP/1.1 {} {}\r\ncontent-type: application/json\r\n{REQUEST_ID}: {}\r\n\
         content-length: {}\r\nconnection: close\r\n\r\n",
        status.as_u16(),
        status.canonical_reason().unwrap_or(""),
        id.to_str().expect("a UUID is text"),
        body.len(),
    )
    .into_bytes();
    answer.extend_from_slice(body);
    answer
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context,
        buf: &mut ReadBuf,
    ) -> Poll<Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Socket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context, buf: &[u8]) -> Poll<Result<usize>> {
        ready!(self.poll_instead(cx))?;
        if let Some(words) = refusal_of_hyper(buf) {
            self.instead = Some((words, 0));
            // hyper's words count as sent; ours follow with the flush.
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
        ready!(self.watch_progress(cx, sent))?;
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context) -> Poll<Result<()>> {
        let sent = self.poll_instead(cx);
        ready!(self.watch_progress(cx, sent))?;
        if self.lingering.is_none() {
            ready!(Pin::new(&mut self.stream).poll_shutdown(cx))?;
            self.lingering = Some(Box::pin(sleep(LINGER)));
        }
        let this = &mut *self;
        let lingering = this.lingering.as_mut().expect("set above");
        let mut scrap = [0; 16 << 10];
        while lingering.deadline() > Instant::now() && this.thrown_away < LINGER_BYTES {
            let mut buf = ReadBuf::new(&mut scrap);
            match Pin::new(&mut this.stream).poll_read(cx, &mut buf) {
                Poll::Ready(Ok(())) if buf.filled().is_empty() => break,
                Poll::Ready(Ok(())) => this.thrown_away += buf.filled().len(),
                Poll::Ready(Err(_)) => break,
                Poll::Pending => {
                    ready!(lingering.as_mut().poll(cx));
                }
            }
        }
        Poll::Ready(Ok(()))
    }
}
