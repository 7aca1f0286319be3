//! Receives a request's body within limits of its size, of its time, and of the size of all bodies
//! together. A slow or endless sender costs only its own connection.

use super::coding::Coding;
use super::error::Refusal;
use super::{App, stream};
use crate::wire::cloudevent;
use crate::wire::fault::{Fault, Rule};
use axum::body::Body;
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderMap, HeaderValue};
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::Body as _;
use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// A whole body, and its share of the common limit while it exists.
pub struct Received {
    pub bytes: Bytes,
    _memory: BodyMemory,
}

const KIB: usize = 1024;

/// Bytes that are reserved at most for the announced rest of a body.
const MOST_BELIEVED: usize = 64 << 10;

/// What one body uses of the common limit.
struct BodyMemory {
    limit: usize,
    buffered: Arc<Semaphore>,
    permits: Vec<OwnedSemaphorePermit>,
    held: usize,
}

impl BodyMemory {
    fn of(app: &App) -> BodyMemory {
        BodyMemory {
            limit: app.config.server.max_body as usize,
            buffered: app.buffered.clone(),
            permits: Vec::new(),
            held: 0,
        }
    }

    fn too_large(&self) -> Refusal {
        Refusal::BodyTooLarge {
            limit: self.limit as u64,
        }
    }

    /// Asks for room for `len` bytes in all.
    fn grow(&mut self, len: usize) -> Result<(), Refusal> {
        if len > self.limit {
            return Err(self.too_large());
        }
        if len > self.held {
            // In steps that double, so that a large body has few of them.
            let more = (len - self.held).max(self.held).max(KIB).div_ceil(KIB);
            let permit = self.buffered.clone().try_acquire_many_owned(more as u32);
            let permit = permit.map_err(|_| Refusal::Busy("too many bodies at once."))?;
            self.permits.push(permit);
            self.held += more * KIB;
        }
        Ok(())
    }
}

/// The content type of a request. An error if it has two, because it is unclear which one is
/// meant.
pub fn content_type(headers: &HeaderMap) -> Result<Option<&HeaderValue>, Fault> {
    let mut all = headers.get_all(CONTENT_TYPE).iter();
    let content_type = all.next();
    match all.next() {
        None => Ok(content_type),
        Some(_) => {
            let what = "given more than once.";
            Err(Fault::new(Rule::Format, cloudevent::CONTENT_TYPE, what))
        }
    }
}

/// The body, decompressed.
pub async fn receive(app: &Arc<App>, headers: &HeaderMap, body: Body) -> Result<Received, Refusal> {
    let coding = Coding::of(headers)?;
    let deadline = app.config.server.body_timeout;
    let received = match tokio::time::timeout(deadline, collect(BodyMemory::of(app), body)).await {
        Ok(received) => received?,
        Err(_) => return Err(Refusal::BodyTimedOut),
    };
    match coding {
        None => Ok(received),
        Some(coding) => {
            let memory = BodyMemory::of(app);
            stream::blocking(app, move |_| Ok(decoded(coding, received, memory))).await?
        }
    }
}

fn decoded(coding: Coding, encoded: Received, mut memory: BodyMemory) -> Result<Received, Refusal> {
    let mut bytes = Vec::new();
    coding.decode(&encoded.bytes, |piece| {
        memory.grow(bytes.len() + piece.len())?;
        bytes.extend_from_slice(piece);
        Ok(())
    })?;
    Ok(Received {
        bytes: bytes.into(),
        _memory: memory,
    })
}

async fn collect(mut memory: BodyMemory, mut body: Body) -> Result<Received, Refusal> {
    // A client that waits for `100 Continue` is refused at once.
    if body.size_hint().lower() > memory.limit as u64 {
        return Err(memory.too_large());
    }
    // One piece is taken as it is; only several are copied together.
    let mut first = Bytes::new();
    let mut bytes = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| Refusal::BodyBroken)?;
        let Ok(data) = frame.into_data() else {
            continue;
        };
        let len = first.len() + bytes.len() + data.len();
        memory.grow(len)?;
        if len == data.len() {
            first = data;
            continue;
        }
        if bytes.is_empty() {
            // The announced length may be wrong, so it reserves only a little memory.
            let announced = body.size_hint().lower() as usize;
            bytes.reserve(len + announced.min(MOST_BELIEVED));
            bytes.extend_from_slice(&std::mem::take(&mut first));
        }
        bytes.extend_from_slice(&data);
    }
    Ok(Received {
        bytes: if first.is_empty() {
            bytes.freeze()
        } else {
            first
        },
        _memory: memory,
    })
}
