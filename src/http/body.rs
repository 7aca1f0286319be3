//! Takes in a request's body under bounds on its size, on the time it may take,
//! and on what all bodies together may hold. A slow or endless sender costs its
//! own connection and nothing else.

use super::App;
use super::error::Refusal;
use axum::body::Body;
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::Body as _;
use tokio::sync::OwnedSemaphorePermit;

/// A whole body, and its share of the common bound for as long as it lives.
pub struct Received {
    pub bytes: Bytes,
    _share: Vec<OwnedSemaphorePermit>,
}

const KIB: usize = 1024;

/// Bytes that are reserved for what a body says that it still has.
const MOST_BELIEVED: usize = 64 << 10;

pub async fn receive(app: &App, body: Body) -> Result<Received, Refusal> {
    let deadline = app.config.server.body_timeout;
    match tokio::time::timeout(deadline, collect(app, body)).await {
        Ok(received) => received,
        Err(_) => Err(Refusal::BodyTimedOut),
    }
}

async fn collect(app: &App, mut body: Body) -> Result<Received, Refusal> {
    let limit = app.config.server.max_body as usize;
    let mut share = Vec::new();
    let mut held = 0;
    // One piece is taken as it is; only several are copied together.
    let mut first = Bytes::new();
    let mut bytes = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| Refusal::BodyBroken)?;
        let Ok(data) = frame.into_data() else {
            continue;
        };
        let len = first.len() + bytes.len() + data.len();
        if len > limit {
            return Err(Refusal::BodyTooLarge {
                limit: limit as u64,
            });
        }
        if len > held {
            // In steps that double, so that a large body has few of them.
            let more = (len - held).max(held).max(KIB).div_ceil(KIB);
            let permit = app.buffered.clone().try_acquire_many_owned(more as u32);
            share.push(permit.map_err(|_| Refusal::Busy("too many bodies at once."))?);
            held += more * KIB;
        }
        if len == data.len() {
            first = data;
            continue;
        }
        if bytes.is_empty() {
            // What is announced may never come: no more than a little is believed.
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
        _share: share,
    })
}
