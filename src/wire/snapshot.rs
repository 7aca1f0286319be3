//! A stored state: its byte, then postcard. It is encoded and decoded by hand, because postcard's
//! serializer was half of the work on an event. Decoded strings borrow from the row. The row may
//! contain a body's name instead of its text.

use super::packed::{self, Rest};
use super::stored::{self, LANE, SNAPSHOT, Unreadable};
use crate::domain::{
    Body, Creation, Earliest, Ending, Lane, LaneId, Lanes, Latest, Method, Notification, Operation,
    OrderKey, Outcome, Register, Request, Response, Text, Timestamp,
};
use std::borrow::Cow;

/// No text begins with this byte. A digest follows.
const NAMED: u8 = 0xFF;

/// About the lanes of an operation with many, which are in rows of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Apart {
    /// Lanes with a response whose request has not arrived.
    pub waiting: u64,
    /// Some lane was offered two different responses.
    pub replaced: bool,
}

/// Appends the row of an operation. With `apart`, the lanes are left out of it.
pub fn append(op: &Operation, apart: Option<Apart>, mut row: Vec<u8>) -> Vec<u8> {
    let none = Lanes::new();
    let lanes = |lanes| if apart.is_some() { &none } else { lanes };
    row.push(SNAPSHOT);
    put_register(op.created.get(), &mut row, put_creation);
    row.push(op.begun.into());
    put_register(op.sub_status.get(), &mut row, |text, row| {
        packed::option(text.as_deref(), row, packed::text);
    });
    put_register(op.ending.get(), &mut row, put_ending);
    packed::option(op.span.as_ref(), &mut row, |(first, last), row| {
        put_key(first, row);
        put_key(last, row);
    });
    put_lanes(lanes(&op.clusters), &mut row);
    put_lanes(lanes(&op.rollbacks), &mut row);
    packed::option(apart, &mut row, |apart, row| {
        packed::varint(apart.waiting, row);
        row.push(apart.replaced.into());
    });
    row
}

pub fn append_lane(lane: &Lane, mut row: Vec<u8>) -> Vec<u8> {
    row.push(LANE);
    put_lane(lane, &mut row);
    row
}

pub fn decode(row: &[u8]) -> Result<(Operation<'_>, Option<Apart>), Unreadable> {
    take_state(&mut Rest(stored::body(SNAPSHOT, row)?)).ok_or(Unreadable::Damaged)
}

pub fn decode_lane(row: &[u8]) -> Result<Lane<'_>, Unreadable> {
    take_lane(&mut Rest(stored::body(LANE, row)?)).ok_or(Unreadable::Damaged)
}

fn take_state<'a>(rest: &mut Rest<'a>) -> Option<(Operation<'a>, Option<Apart>)> {
    let text = |rest: &mut Rest<'a>| rest.option(take_text);
    let op = Operation {
        created: Earliest::restore(take_register(rest, take_creation)?),
        begun: rest.flag()?,
        sub_status: Latest::restore(take_register(rest, text)?),
        ending: Earliest::restore(take_register(rest, take_ending)?),
        span: rest.option(|rest| Some((take_key(rest)?, take_key(rest)?)))?,
        clusters: take_lanes(rest)?,
        rollbacks: take_lanes(rest)?,
    };
    let apart = rest.option(|rest| {
        Some(Apart {
            waiting: rest.varint()?,
            replaced: rest.flag()?,
        })
    })?;
    Some((op, apart))
}

fn take_text<'a>(rest: &mut Rest<'a>) -> Option<Text<'a>> {
    rest.text().map(Cow::Borrowed)
}

fn take_number<T: TryFrom<u64>>(rest: &mut Rest) -> Option<T> {
    rest.varint()?.try_into().ok()
}

fn put_key(key: &OrderKey, row: &mut Vec<u8>) {
    packed::zigzag(key.time.secs, row);
    packed::varint(key.time.nanos.into(), row);
    packed::text(&key.source, row);
    packed::text(&key.id, row);
}

fn take_key<'a>(rest: &mut Rest<'a>) -> Option<OrderKey<'a>> {
    Some(OrderKey {
        time: Timestamp {
            secs: rest.zigzag()?,
            nanos: take_number(rest)?,
        },
        source: take_text(rest)?,
        id: take_text(rest)?,
    })
}

fn put_register<V>(
    register: Option<&Register<V>>,
    row: &mut Vec<u8>,
    put_value: impl FnOnce(&V, &mut Vec<u8>),
) {
    packed::option(register, row, |register, row| {
        put_key(&register.key, row);
        put_value(&register.value, row);
        row.push(register.contested.into());
    });
}

fn take_register<'a, V>(
    rest: &mut Rest<'a>,
    take_value: impl FnOnce(&mut Rest<'a>) -> Option<V>,
) -> Option<Option<Register<'a, V>>> {
    rest.option(|rest| {
        Some(Register {
            key: take_key(rest)?,
            value: take_value(rest)?,
            contested: rest.flag()?,
        })
    })
}

fn put_body(body: &Body, row: &mut Vec<u8>) {
    match body {
        Body::Text(text) => packed::text(text, row),
        Body::Named(digest) => {
            packed::varint(1 + digest.len() as u64, row);
            row.push(NAMED);
            row.extend_from_slice(digest);
        }
    }
}

fn take_body<'a>(rest: &mut Rest<'a>) -> Option<Body<'a>> {
    match rest.bytes()? {
        [NAMED, digest @ ..] => Some(Body::Named(digest.try_into().ok()?)),
        text => Some(Body::Text(packed::as_text(text)?.into())),
    }
}

fn put_request(request: &Request, row: &mut Vec<u8>) {
    packed::text(&request.uri, row);
    row.push(match request.method {
        Method::Post => 0,
        Method::Put => 1,
        Method::Delete => 2,
        Method::Patch => 3,
    });
    put_body(&request.body, row);
}

fn take_request<'a>(rest: &mut Rest<'a>) -> Option<Request<'a>> {
    Some(Request {
        uri: take_text(rest)?,
        method: *Method::ALL.get(usize::from(rest.byte()?))?,
        body: take_body(rest)?,
    })
}

fn put_response(response: &Response, row: &mut Vec<u8>) {
    packed::option(response.status_code, row, |code, row| {
        packed::varint(code.into(), row);
    });
    packed::option(response.body.as_ref(), row, put_body);
}

fn take_response<'a>(rest: &mut Rest<'a>) -> Option<Response<'a>> {
    Some(Response {
        status_code: rest.option(take_number)?,
        body: rest.option(take_body)?,
    })
}

fn put_creation(created: &Creation, row: &mut Vec<u8>) {
    put_request(&created.request, row);
    packed::option(created.notification.as_ref(), row, |to, row| {
        packed::text(&to.address, row);
        packed::varint(to.port.into(), row);
    });
}

fn take_creation<'a>(rest: &mut Rest<'a>) -> Option<Creation<'a>> {
    let request = take_request(rest)?;
    let notification = rest.option(|rest| {
        Some(Notification {
            address: take_text(rest)?,
            port: take_number(rest)?,
        })
    })?;
    Some(Creation {
        request,
        notification,
    })
}

fn put_ending(ending: &Ending, row: &mut Vec<u8>) {
    let (status, outcome) = match ending {
        Ending::Completed(outcome) => (0, Some(outcome)),
        Ending::Failed(outcome) => (1, Some(outcome)),
        Ending::Canceled => (2, None),
    };
    row.push(status);
    packed::option(outcome, row, |outcome, row| {
        packed::varint(outcome.status_code.into(), row);
        put_body(&outcome.body, row);
    });
}

fn take_ending<'a>(rest: &mut Rest<'a>) -> Option<Ending<'a>> {
    let status = rest.byte()?;
    let outcome = rest.option(|rest| {
        Some(Outcome {
            status_code: take_number(rest)?,
            body: take_body(rest)?,
        })
    })?;
    match (status, outcome) {
        (0, Some(outcome)) => Some(Ending::Completed(outcome)),
        (1, Some(outcome)) => Some(Ending::Failed(outcome)),
        (2, None) => Some(Ending::Canceled),
        _ => None,
    }
}

fn put_lane(lane: &Lane, row: &mut Vec<u8>) {
    put_register(lane.request.get(), row, put_request);
    put_register(lane.response.get(), row, put_response);
}

fn take_lane<'a>(rest: &mut Rest<'a>) -> Option<Lane<'a>> {
    Some(Lane {
        request: Earliest::restore(take_register(rest, take_request)?),
        response: Latest::restore(take_register(rest, take_response)?),
    })
}

fn put_lanes(lanes: &Lanes, row: &mut Vec<u8>) {
    packed::varint(lanes.len() as u64, row);
    for (id, lane) in lanes {
        packed::text(&id.cluster_id, row);
        packed::text(&id.request_id, row);
        put_lane(lane, row);
    }
}

fn take_lanes<'a>(rest: &mut Rest<'a>) -> Option<Lanes<'a>> {
    let mut lanes = Lanes::new();
    // Inserted one by one: collecting would move them four times on their way into the map, and
    // they are large.
    for _ in 0..rest.varint()? {
        let id = LaneId {
            cluster_id: take_text(rest)?,
            request_id: take_text(rest)?,
        };
        lanes.insert(id, take_lane(rest)?);
    }
    Some(lanes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    // A row as types of postcard.
    type KeyRow<'a> = (i64, u32, &'a str, &'a str);
    type RegisterRow<'a, V> = Option<(KeyRow<'a>, V, bool)>;
    type RequestRow<'a> = (&'a str, u8, &'a str);
    type ResponseRow<'a> = (Option<u16>, Option<&'a str>);
    type CreationRow<'a> = (RequestRow<'a>, Option<(&'a str, u16)>);
    /// Status 0 completed, 1 failed, 2 canceled; the outcome of the first two.
    type EndingRow<'a> = (u8, Option<(u16, &'a str)>);
    type LaneRow<'a> = (
        RegisterRow<'a, RequestRow<'a>>,
        RegisterRow<'a, ResponseRow<'a>>,
    );
    type LanesRow<'a> = Vec<((&'a str, &'a str), LaneRow<'a>)>;
    type StateRow<'a> = (
        RegisterRow<'a, CreationRow<'a>>,
        bool,
        RegisterRow<'a, Option<&'a str>>,
        RegisterRow<'a, EndingRow<'a>>,
        Option<(KeyRow<'a>, KeyRow<'a>)>,
        LanesRow<'a>,
        LanesRow<'a>,
        Option<(u64, bool)>,
    );

    fn key() -> impl Strategy<Value = OrderKey<'static>> {
        (any::<i64>(), any::<u32>(), ".{0,3}", ".{0,200}").prop_map(|(secs, nanos, source, id)| {
            OrderKey {
                time: Timestamp { secs, nanos },
                source: source.into(),
                id: id.into(),
            }
        })
    }

    fn kept<V: std::fmt::Debug>(
        value: impl Strategy<Value = V>,
    ) -> impl Strategy<Value = Option<Register<'static, V>>> {
        let parts = (key(), value, any::<bool>());
        prop::option::of(parts.prop_map(|(key, value, contested)| Register {
            key,
            value,
            contested,
        }))
    }

    fn request() -> impl Strategy<Value = Request<'static>> {
        let method = prop::sample::select(&Method::ALL);
        (".{0,9}", method, ".{0,200}").prop_map(|(uri, method, body)| Request {
            uri: uri.into(),
            method,
            body: body.into(),
        })
    }

    fn lanes() -> impl Strategy<Value = Lanes<'static>> {
        let response = (any::<Option<u16>>(), prop::option::of(".{0,9}"));
        let response = response.prop_map(|(status_code, body)| Response {
            status_code,
            body: body.map(Into::into),
        });
        let lane = (kept(request()), kept(response)).prop_map(|(request, response)| Lane {
            request: Earliest::restore(request),
            response: Latest::restore(response),
        });
        let id = (".{0,3}", ".{0,3}").prop_map(|(cluster_id, request_id)| LaneId {
            cluster_id: cluster_id.into(),
            request_id: request_id.into(),
        });
        prop::collection::btree_map(id, lane, 0..4)
    }

    fn operation() -> impl Strategy<Value = Operation<'static>> {
        let to = (".{0,9}", any::<u16>()).prop_map(|(address, port)| Notification {
            address: address.into(),
            port,
        });
        let outcome = (any::<u16>(), ".{0,9}").prop_map(|(status_code, body)| Outcome {
            status_code,
            body: body.into(),
        });
        let ending = prop_oneof![
            outcome.clone().prop_map(Ending::Completed),
            outcome.prop_map(Ending::Failed),
            Just(Ending::Canceled),
        ];
        let sub_status = prop::option::of(".{0,9}".prop_map(Cow::from));
        let created = (request(), prop::option::of(to));
        let created = created.prop_map(|(request, notification)| Creation {
            request,
            notification,
        });
        let registers = (kept(created), kept(sub_status), kept(ending));
        let span = prop::option::of((key(), key()));
        (registers, any::<bool>(), span, lanes(), lanes()).prop_map(
            |((created, sub_status, ending), begun, span, clusters, rollbacks)| Operation {
                created: Earliest::restore(created),
                begun,
                sub_status: Latest::restore(sub_status),
                ending: Earliest::restore(ending),
                span,
                clusters,
                rollbacks,
            },
        )
    }

    proptest! {
        /// Equal to postcard's encoding of the types, byte for byte.
        #[test]
        fn a_row_is_what_postcard_writes(
            op in operation(),
            apart in prop::option::of((any::<u64>(), any::<bool>())),
        ) {
            let apart = apart.map(|(waiting, replaced)| Apart { waiting, replaced });
            let row = append(&op, apart, Vec::new());
            let stored: StateRow = postcard::from_bytes(&row[1..]).unwrap();
            let expected = postcard::to_extend(&stored, vec![SNAPSHOT]).unwrap();
            prop_assert_eq!(&row, &expected);
            let (read, apart_read) = decode(&row).unwrap();
            prop_assert_eq!(apart_read, apart);
            if apart.is_none() {
                prop_assert_eq!(read, op);
            }
        }

        #[test]
        fn a_body_comes_back_as_text_or_by_name(digest: [u8; 16], text in ".{0,200}") {
            for body in [Body::Named(digest), text.into()] {
                let mut row = Vec::new();
                put_body(&body, &mut row);
                let mut rest = Rest(&row);
                let read = take_body(&mut rest).unwrap();
                prop_assert_eq!(read.known(), body.known());
                prop_assert_eq!(read.digest(), body.digest());
                prop_assert!(rest.0.is_empty());
            }
        }
    }

    #[test]
    fn an_unknown_encoding_is_distinguished_from_damage() {
        let op = Operation::default();
        let mut row = append(&op, None, Vec::new());
        assert_eq!(decode(&row), Ok((op, None)));
        row[0] = 0xFE;
        assert_eq!(decode(&row), Err(Unreadable::Unknown(0xFE)));
        row[0] = LANE;
        assert_eq!(decode(&row), Err(Unreadable::Damaged));
    }
}
