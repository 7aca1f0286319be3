//! Stored state, version 1: a version byte, then postcard. Strings borrow from
//! the row when read. Never edit: a new shape is a new version beside this one.

use crate::domain::{
    Creation, Earliest, Ending, Lane, LaneId, Latest, Method, Notification, Operation, OrderKey,
    Outcome, Register, Request, Response, Text, Timestamp,
};
use std::borrow::Cow;

const VERSION: u8 = 1;

/// Why stored bytes are not a snapshot of ours.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    #[error("stored format {0} is newer than this program: upgrade it")]
    Version(u8),
    #[error("the stored row is damaged")]
    Damaged,
}

/// Lanes kept in rows of their own once there are many: what the whole says of
/// those that are not at hand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Apart {
    /// Lanes with an answer whose request has not arrived.
    pub waiting: u64,
    /// Some lane was offered two different answers.
    pub replaced: bool,
}

type KeyV1<'a> = (i64, u32, &'a str, &'a str);
type RegisterV1<'a, V> = Option<(KeyV1<'a>, V, bool)>;
type RequestV1<'a> = (&'a str, u8, &'a str);
type ResponseV1<'a> = (Option<u16>, Option<&'a str>);
type CreationV1<'a> = (RequestV1<'a>, Option<(&'a str, u16)>);
/// Status 0 completed, 1 failed, 2 canceled; the outcome of the first two.
type EndingV1<'a> = (u8, Option<(u16, &'a str)>);
type LaneV1<'a> = (
    RegisterV1<'a, RequestV1<'a>>,
    RegisterV1<'a, ResponseV1<'a>>,
);
type LanesV1<'a> = Vec<((&'a str, &'a str), LaneV1<'a>)>;
type StateV1<'a> = (
    RegisterV1<'a, CreationV1<'a>>,
    bool,
    RegisterV1<'a, Option<&'a str>>,
    RegisterV1<'a, EndingV1<'a>>,
    Option<(KeyV1<'a>, KeyV1<'a>)>,
    LanesV1<'a>,
    LanesV1<'a>,
    Option<(u64, bool)>,
);

/// Appends the row of an operation. With `apart`, the lanes are left out of it.
pub fn append(op: &Operation, apart: Option<Apart>, row: Vec<u8>) -> Vec<u8> {
    let lanes = |lanes| {
        if apart.is_some() {
            Vec::new()
        } else {
            lanes_out(lanes)
        }
    };
    let state: StateV1 = (
        register_out(op.created.get(), creation_out),
        op.begun,
        register_out(op.sub_status.get(), |text| text.as_deref()),
        register_out(op.ending.get(), ending_out),
        op.span
            .as_ref()
            .map(|(first, last)| (key_out(first), key_out(last))),
        lanes(&op.clusters),
        lanes(&op.rollbacks),
        apart.map(|apart| (apart.waiting, apart.replaced)),
    );
    versioned(&state, row)
}

pub fn encode_lane(lane: &Lane) -> Vec<u8> {
    versioned(&lane_out(lane), Vec::new())
}

pub fn decode(row: &[u8]) -> Result<(Operation<'_>, Option<Apart>), Unreadable> {
    let state: StateV1 = body(row)?;
    let (created, begun, sub_status, ending, span, clusters, rollbacks, apart) = state;
    let op = Operation {
        created: Earliest::restore(register_in(created, creation_in)?),
        begun,
        sub_status: Latest::restore(register_in(sub_status, |text| Ok(text.map(Cow::Borrowed)))?),
        ending: Earliest::restore(register_in(ending, ending_in)?),
        span: span.map(|(first, last)| (key_in(first), key_in(last))),
        clusters: lanes_in(clusters)?,
        rollbacks: lanes_in(rollbacks)?,
    };
    let apart = apart.map(|(waiting, replaced)| Apart { waiting, replaced });
    Ok((op, apart))
}

pub fn decode_lane(row: &[u8]) -> Result<Lane<'_>, Unreadable> {
    lane_in(body(row)?)
}

fn versioned<T: serde::Serialize>(value: &T, mut row: Vec<u8>) -> Vec<u8> {
    row.push(VERSION);
    postcard::to_extend(value, row).expect("memory takes whatever postcard writes")
}

fn body<'a, T: serde::Deserialize<'a>>(row: &'a [u8]) -> Result<T, Unreadable> {
    match row.split_first() {
        Some((&VERSION, rest)) => postcard::from_bytes(rest).map_err(|_| Unreadable::Damaged),
        Some((&other, _)) if other > VERSION => Err(Unreadable::Version(other)),
        _ => Err(Unreadable::Damaged),
    }
}

fn key_out<'a>(key: &'a OrderKey) -> KeyV1<'a> {
    (key.time.secs, key.time.nanos, &key.source, &key.id)
}

fn key_in<'a>((secs, nanos, source, id): KeyV1<'a>) -> OrderKey<'a> {
    OrderKey {
        time: Timestamp { secs, nanos },
        source: Cow::Borrowed(source),
        id: Cow::Borrowed(id),
    }
}

fn register_out<'a, V, W>(
    held: Option<&'a Register<V>>,
    value: impl Fn(&'a V) -> W,
) -> RegisterV1<'a, W> {
    held.map(|held| (key_out(&held.key), value(&held.value), held.contested))
}

fn register_in<'a, V, W>(
    held: RegisterV1<'a, W>,
    value: impl Fn(W) -> Result<V, Unreadable>,
) -> Result<Option<Register<'a, V>>, Unreadable> {
    held.map(|(key, stored, contested)| {
        Ok(Register {
            key: key_in(key),
            value: value(stored)?,
            contested,
        })
    })
    .transpose()
}

fn request_out<'a>(request: &'a Request) -> RequestV1<'a> {
    let method = match request.method {
        Method::Post => 0,
        Method::Put => 1,
        Method::Delete => 2,
        Method::Patch => 3,
    };
    (&request.uri, method, &request.body)
}

fn request_in<'a>((uri, method, body): RequestV1<'a>) -> Result<Request<'a>, Unreadable> {
    Ok(Request {
        uri: Cow::Borrowed(uri),
        method: *Method::ALL
            .get(usize::from(method))
            .ok_or(Unreadable::Damaged)?,
        body: Cow::Borrowed(body),
    })
}

fn response_out<'a>(response: &'a Response) -> ResponseV1<'a> {
    (response.status_code, response.body.as_deref())
}

fn response_in<'a>((status_code, body): ResponseV1<'a>) -> Result<Response<'a>, Unreadable> {
    Ok(Response {
        status_code,
        body: body.map(Cow::Borrowed),
    })
}

fn creation_out<'a>((request, notification): &'a Creation) -> CreationV1<'a> {
    let notification = notification.as_ref().map(|to| (&*to.address, to.port));
    (request_out(request), notification)
}

fn creation_in<'a>((request, to): CreationV1<'a>) -> Result<Creation<'a>, Unreadable> {
    let notification = to.map(|(address, port)| Notification {
        address: Cow::Borrowed(address),
        port,
    });
    Ok((request_in(request)?, notification))
}

fn ending_out<'a>(ending: &'a Ending) -> EndingV1<'a> {
    let outcome = |outcome: &'a Outcome| Some((outcome.status_code, &*outcome.body));
    match ending {
        Ending::Completed(o) => (0, outcome(o)),
        Ending::Failed(o) => (1, outcome(o)),
        Ending::Canceled => (2, None),
    }
}

fn ending_in<'a>((status, outcome): EndingV1<'a>) -> Result<Ending<'a>, Unreadable> {
    let outcome = outcome.map(|(status_code, body)| Outcome {
        status_code,
        body: Text::Borrowed(body),
    });
    match (status, outcome) {
        (0, Some(outcome)) => Ok(Ending::Completed(outcome)),
        (1, Some(outcome)) => Ok(Ending::Failed(outcome)),
        (2, None) => Ok(Ending::Canceled),
        _ => Err(Unreadable::Damaged),
    }
}

fn lane_out<'a>(lane: &'a Lane) -> LaneV1<'a> {
    (
        register_out(lane.request.get(), request_out),
        register_out(lane.response.get(), response_out),
    )
}

fn lane_in<'a>((request, response): LaneV1<'a>) -> Result<Lane<'a>, Unreadable> {
    Ok(Lane {
        request: Earliest::restore(register_in(request, request_in)?),
        response: Latest::restore(register_in(response, response_in)?),
    })
}

fn lanes_out<'a>(lanes: &'a crate::domain::Lanes) -> LanesV1<'a> {
    lanes
        .iter()
        .map(|(id, lane)| ((&*id.cluster_id, &*id.request_id), lane_out(lane)))
        .collect()
}

fn lanes_in<'a>(lanes: LanesV1<'a>) -> Result<crate::domain::Lanes<'a>, Unreadable> {
    lanes
        .into_iter()
        .map(|((cluster_id, request_id), lane)| {
            let id = LaneId {
                cluster_id: Cow::Borrowed(cluster_id),
                request_id: Cow::Borrowed(request_id),
            };
            Ok((id, lane_in(lane)?))
        })
        .collect()
}
