//! A keep-alive HTTP/1.1 connection that does next to nothing: requests are
//! bytes that were rendered before, responses need a `content-length`. A full
//! client would cost more than the server that is measured.

use anyhow::{Context, bail, ensure};
use std::net::SocketAddr;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

pub struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
}

/// One response, in the connection's buffer until the next.
pub struct Answer<'c> {
    pub status: u16,
    head: &'c str,
    pub body: &'c [u8],
}

impl Connection {
    pub async fn open(address: SocketAddr) -> anyhow::Result<Connection> {
        let stream = TcpStream::connect(address).await.context("connecting")?;
        stream.set_nodelay(true)?;
        Ok(Connection {
            stream,
            buffer: Vec::with_capacity(16 << 10),
        })
    }

    pub async fn call(&mut self, request: &[u8]) -> anyhow::Result<Answer<'_>> {
        self.stream.write_all(request).await.context("sending")?;
        self.buffer.clear();
        let head = loop {
            self.read_some().await?;
            let end = self.buffer.windows(4).position(|four| four == b"\r\n\r\n");
            if let Some(end) = end {
                break end + 4;
            }
        };
        let length = match header(std::str::from_utf8(&self.buffer[..head])?, "content-length") {
            Some(length) => length.parse::<usize>()?,
            None => bail!("a response without content-length"),
        };
        let end = head + length;
        self.buffer.reserve(end.saturating_sub(self.buffer.len()));
        while self.buffer.len() < end {
            self.read_some().await?;
        }
        ensure!(self.buffer.len() == end, "received more than the response");
        let (head, body) = self.buffer.split_at(head);
        let head = std::str::from_utf8(head)?;
        let status = head.get(9..12).context("no status")?.parse()?;
        Ok(Answer { status, head, body })
    }

    async fn read_some(&mut self) -> anyhow::Result<()> {
        let read = self.stream.read_buf(&mut self.buffer).await;
        ensure!(read.context("receiving")? > 0, "the connection was closed");
        Ok(())
    }
}

impl Answer<'_> {
    pub fn header(&self, name: &str) -> anyhow::Result<&str> {
        header(self.head, name).with_context(|| format!("no {name}"))
    }

    /// Any other status fails the measurement.
    pub fn expect(&self, status: u16) -> anyhow::Result<()> {
        let body = || String::from_utf8_lossy(&self.body[..self.body.len().min(500)]);
        ensure!(
            self.status == status,
            "{} instead of {status}: {}",
            self.status,
            body()
        );
        Ok(())
    }
}

fn header<'h>(head: &'h str, name: &str) -> Option<&'h str> {
    head.split("\r\n")
        .filter_map(|line| line.split_once(':'))
        .find(|(found, _)| found.eq_ignore_ascii_case(name))
        .map(|(_, value)| value.trim())
}

/// `headers` are whole lines.
pub fn get(path: &str, headers: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n{headers}\r\n").into_bytes()
}

pub fn get_operation(operation_id: &str, headers: &str) -> Vec<u8> {
    get(&format!("/v1/operations/{operation_id}"), headers)
}

pub fn post(path: &str, content_type: &str, body: &[u8]) -> Vec<u8> {
    let head = format!(
        "POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: {content_type}\r\n\
         content-length: {}\r\n\r\n",
        body.len()
    );
    [head.as_bytes(), body].concat()
}
