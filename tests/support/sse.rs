//! A client of event streams that does exactly what an EventSource does.

use super::deadline::{SOON, of_test};
use super::schemas;
use std::net::SocketAddr;
use std::time::Instant;

/// An event, and the position to resume after.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    pub kind: String,
    pub id: String,
    pub data: serde_json::Value,
}

impl Event {
    pub fn operation_id(&self) -> &str {
        self.data["operation_id"].as_str().unwrap()
    }
}

fn keeps_its_schema(kind: &str, data: &serde_json::Value) -> bool {
    if kind == "document" {
        return data["operation_id"].is_string();
    }
    let mut schema = schemas::text("stream");
    schema["$ref"] = format!("#/$defs/{kind}").into();
    schemas::validator(&schema).is_valid(data)
}

pub struct Stream {
    runtime: tokio::runtime::Runtime,
    response: reqwest::Response,
    buffer: Vec<u8>,
    /// The id that an EventSource remembers.
    pub last_id: String,
    pub keep_alives: usize,
    /// The number of events that report that there is no document yet.
    pub waits: usize,
}

impl Stream {
    pub fn open(address: SocketAddr, path: &str, headers: &[(&str, &str)]) -> Stream {
        Stream::try_open(address, path, headers).unwrap()
    }

    /// An error if nobody listens there, for example after a `kill -9`.
    pub fn try_open(
        address: SocketAddr,
        path: &str,
        headers: &[(&str, &str)],
    ) -> reqwest::Result<Stream> {
        of_test();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let mut request = reqwest::Client::new().get(format!("http://{address}{path}"));
        if !headers.iter().any(|(name, _)| *name == "accept") {
            request = request.header("accept", "text/event-stream");
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = runtime.block_on(request.send())?;
        Ok(Stream {
            runtime,
            response,
            buffer: Vec::new(),
            last_id: String::new(),
            keep_alives: 0,
            waits: 0,
        })
    }

    pub fn status(&self) -> u16 {
        self.response.status().as_u16()
    }

    pub fn header(&self, name: &str) -> &str {
        self.response.headers()[name].to_str().unwrap()
    }

    /// The next block; `None` if the stream has ended or was interrupted.
    #[track_caller]
    pub fn block(&mut self) -> Option<String> {
        self.block_before(Instant::now() + SOON, "another block")
    }

    /// The first block of a kind; skips others.
    #[track_caller]
    pub fn block_that(&mut self, what: &str, is_meant: impl Fn(&str) -> bool) -> String {
        let until = Instant::now() + SOON;
        loop {
            let block = self.block_before(until, what);
            let block = block.unwrap_or_else(|| panic!("the stream ended before {what}"));
            if is_meant(&block) {
                return block;
            }
        }
    }

    /// The next line with its end; `None` as for a block.
    #[track_caller]
    pub fn line(&mut self) -> Option<String> {
        self.before(Instant::now() + SOON, "another line", b"\n")
    }

    #[track_caller]
    fn block_before(&mut self, until: Instant, what: &str) -> Option<String> {
        self.before(until, what, b"\n\n")
    }

    #[track_caller]
    fn before(&mut self, until: Instant, what: &str, mark: &[u8]) -> Option<String> {
        loop {
            let mut places = self.buffer.windows(mark.len());
            if let Some(end) = places.position(|found| found == mark) {
                let found = self.buffer.drain(..end + mark.len()).collect();
                return Some(String::from_utf8(found).unwrap());
            }
            let chunk = self.runtime.block_on(async {
                let until = tokio::time::Instant::from_std(until);
                tokio::time::timeout_at(until, self.response.chunk()).await
            });
            let Ok(chunk) = chunk else {
                let (id, count) = (&self.last_id, self.keep_alives);
                panic!("not within {SOON:?}: {what}, after {id:?} and {count} keep-alives");
            };
            match chunk {
                Ok(Some(bytes)) => self.buffer.extend_from_slice(&bytes),
                Ok(None) | Err(_) => return None,
            }
        }
    }

    /// The next event of an operation; skips others.
    #[track_caller]
    pub fn next(&mut self) -> Option<Event> {
        // Keep-alives do not extend the limit.
        let until = Instant::now() + SOON;
        loop {
            let block = self.block_before(until, "another event")?;
            let (mut kind, mut data) = (String::new(), String::new());
            for line in block.lines().filter(|line| !line.is_empty()) {
                match line.split_once(": ").unwrap() {
                    ("event", value) => kind = value.to_owned(),
                    ("id", value) => self.last_id = value.to_owned(),
                    ("data", value) => data = value.to_owned(),
                    ("", _) => self.keep_alives += 1,
                    ("retry", milliseconds) => assert!(milliseconds.parse::<u32>().is_ok()),
                    other => panic!("{other:?}"),
                }
            }
            if !data.is_empty() {
                let data = serde_json::from_str(&data).unwrap();
                assert!(keeps_its_schema(&kind, &data), "{kind}: {data}");
                match &*kind {
                    "position" => {
                        assert_eq!(data["position"], self.last_id);
                        continue;
                    }
                    "waiting" => {
                        self.waits += 1;
                        continue;
                    }
                    _ => {}
                }
                return Some(Event {
                    kind,
                    id: self.last_id.clone(),
                    data,
                });
            }
        }
    }

    /// The next event, which must be a document.
    #[track_caller]
    pub fn document(&mut self) -> serde_json::Value {
        let event = self.next().expect("the stream continues");
        assert_eq!(event.kind, "document", "{event:?}");
        event.data
    }
}
