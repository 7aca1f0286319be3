//! Records of the control log: facts that only the ledger knows, and cannot fold again from the
//! workers' log. CloudEvents in structured mode, so that any tool reads them.

use super::cloudevent;
use super::notification::DeliveryKey;
use super::position::{LogId, NextOffsets, Offset, Partition};
use super::record::{Headers, Record};
use super::time::{parse_rfc3339, write_rfc3339_millis};
use crate::domain::Timestamp;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::collections::BTreeMap;

/// An action of the ledger, or of an operator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Control {
    /// From here on the control log has the outcomes of this log's deliveries. Deliveries that
    /// were due before these offsets may have been made.
    Begun { log: LogId, ends: NextOffsets },
    /// Records of the control log were lost before this one. Deliveries that were due before
    /// these offsets are held, unless they are known to be made.
    Lost { log: LogId, ends: NextOffsets },
    /// Releases all deliveries of a log that are held because of its `Begun`.
    ReleasedAll { log: LogId, said: Said },
    Notification {
        operation_id: String,
        key: DeliveryKey,
        event: Notified,
    },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notified {
    Delivered {
        attempts: u32,
        status: u16,
        address: String,
        port: u16,
    },
    Failed {
        attempts: u32,
        why: String,
    },
    Released(Said),
    Retried(Said),
}

/// Who made the request, and why, in their own words: nothing checks it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Said {
    #[serde(default)]
    pub who: String,
    #[serde(default)]
    pub why: String,
}

/// The meaning of a record of the control log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decoded {
    Control {
        at: Timestamp,
        control: Control,
    },
    /// Another program's record, or a damaged one. Ignored.
    Unreadable,
    /// Written by a newer program, which knows its meaning.
    Newer(String),
}

const SOURCE: &str = "/opledger/control";
const BEGUN: &str = "opledger.control.begun.v1";
const LOST: &str = "opledger.control.lost.v1";
const RELEASED_ALL: &str = "opledger.notifications.released.v1";
const DELIVERED: &str = "opledger.notification.delivered.v1";
const FAILED: &str = "opledger.notification.failed.v1";
const RELEASED: &str = "opledger.notification.released.v1";
const RETRIED: &str = "opledger.notification.retried.v1";

#[derive(Serialize, Deserialize)]
struct Envelope<'a> {
    specversion: Cow<'a, str>,
    id: Cow<'a, str>,
    source: Cow<'a, str>,
    #[serde(rename = "type")]
    kind: Cow<'a, str>,
    subject: Cow<'a, str>,
    time: Cow<'a, str>,
    data: Option<Box<RawValue>>,
}

#[derive(Serialize, Deserialize)]
struct Begun {
    /// JSON has only texts as names.
    ends: BTreeMap<String, u64>,
}

/// The fields of all kinds of records about notifications. Each kind omits those that it does
/// not have.
#[derive(Serialize, Deserialize, Default)]
struct Data {
    key: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    attempts: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    status_code: Option<u16>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    address: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    port: Option<u16>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    who: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    why: Option<String>,
}

impl Control {
    /// Records of one subject keep their order in any log.
    pub fn subject(&self) -> String {
        match self {
            Control::Begun { log, .. }
            | Control::Lost { log, .. }
            | Control::ReleasedAll { log, .. } => log.to_string(),
            Control::Notification { operation_id, .. } => operation_id.clone(),
        }
    }

    /// Headers and value of the record. `id` is new for each.
    pub fn encode(&self, id: &str, at: Timestamp) -> (Headers, Bytes) {
        let raw = |data: Result<Box<RawValue>, _>| data.expect("memory takes any JSON");
        let (kind, data) = match self {
            Control::Begun { ends, .. } | Control::Lost { ends, .. } => {
                let ends = ends.iter().map(|(p, end)| (p.to_string(), end.0)).collect();
                let kind = match self {
                    Control::Lost { .. } => LOST,
                    _ => BEGUN,
                };
                (kind, raw(serde_json::value::to_raw_value(&Begun { ends })))
            }
            Control::ReleasedAll { said, .. } => {
                (RELEASED_ALL, raw(serde_json::value::to_raw_value(said)))
            }
            Control::Notification { key, event, .. } => {
                let (kind, data) = event.encode(*key);
                (kind, raw(serde_json::value::to_raw_value(&data)))
            }
        };
        let mut time = Vec::new();
        write_rfc3339_millis(at, &mut time);
        let subject = self.subject();
        let envelope = Envelope {
            specversion: "1.0".into(),
            id: id.into(),
            source: SOURCE.into(),
            kind: kind.into(),
            subject: subject.into(),
            time: String::from_utf8_lossy(&time),
            data: Some(data),
        };
        let value = serde_json::to_vec(&envelope).expect("memory takes any JSON");
        let content_type = Bytes::from_static(cloudevent::STRUCTURED.as_bytes());
        let headers = vec![(cloudevent::CONTENT_TYPE.into(), Some(content_type))];
        (Headers(headers), value.into())
    }
}

impl Notified {
    fn encode(&self, key: DeliveryKey) -> (&'static str, Data) {
        let data = Data {
            key: key.to_string(),
            ..Data::default()
        };
        let said = |said: &Said, data| Data {
            who: Some(said.who.clone()),
            why: Some(said.why.clone()),
            ..data
        };
        match self {
            Notified::Delivered {
                attempts,
                status,
                address,
                port,
            } => {
                let data = Data {
                    attempts: Some(*attempts),
                    status_code: Some(*status),
                    address: Some(address.clone()),
                    port: Some(*port),
                    ..data
                };
                (DELIVERED, data)
            }
            Notified::Failed { attempts, why } => {
                let data = Data {
                    attempts: Some(*attempts),
                    why: Some(why.clone()),
                    ..data
                };
                (FAILED, data)
            }
            Notified::Released(by) => (RELEASED, said(by, data)),
            Notified::Retried(by) => (RETRIED, said(by, data)),
        }
    }
}

/// Total: every sequence of bytes has a result.
pub fn decode(record: &Record) -> Decoded {
    let Some(value) = &record.value else {
        return Decoded::Unreadable;
    };
    let Ok(envelope) = serde_json::from_slice::<Envelope>(value) else {
        return Decoded::Unreadable;
    };
    if envelope.source != SOURCE {
        return Decoded::Unreadable;
    }
    let data = envelope.data.as_ref().map_or("{}", |data| data.get());
    let control = match &*envelope.kind {
        BEGUN => begun(&envelope.subject, data).map(|(log, ends)| Control::Begun { log, ends }),
        LOST => begun(&envelope.subject, data).map(|(log, ends)| Control::Lost { log, ends }),
        RELEASED_ALL => released_all(&envelope.subject, data),
        DELIVERED | FAILED | RELEASED | RETRIED => notification(&envelope, data),
        other => return Decoded::Newer(other.to_owned()),
    };
    match (control, parse_rfc3339(&envelope.time)) {
        (Some(control), Ok(at)) => Decoded::Control { at, control },
        _ => Decoded::Unreadable,
    }
}

fn begun(subject: &str, data: &str) -> Option<(LogId, NextOffsets)> {
    let Begun { ends } = serde_json::from_str(data).ok()?;
    let number = |(p, end): (String, u64)| Some((Partition(p.parse().ok()?), Offset(end)));
    let ends = ends.into_iter().map(number).collect::<Option<_>>()?;
    Some((subject.parse().ok()?, ends))
}

fn released_all(subject: &str, data: &str) -> Option<Control> {
    Some(Control::ReleasedAll {
        log: subject.parse().ok()?,
        said: serde_json::from_str(data).ok()?,
    })
}

fn notification(envelope: &Envelope, data: &str) -> Option<Control> {
    let data: Data = serde_json::from_str(data).ok()?;
    let said = Said {
        who: data.who.unwrap_or_default(),
        why: data.why.clone().unwrap_or_default(),
    };
    let event = match &*envelope.kind {
        DELIVERED => Notified::Delivered {
            attempts: data.attempts?,
            status: data.status_code?,
            address: data.address?,
            port: data.port?,
        },
        FAILED => Notified::Failed {
            attempts: data.attempts?,
            why: data.why?,
        },
        RELEASED => Notified::Released(said),
        RETRIED => Notified::Retried(said),
        _ => return None,
    };
    Some(Control::Notification {
        operation_id: envelope.subject.clone().into_owned(),
        key: data.key.parse().ok()?,
        event,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(value: &[u8]) -> Record {
        Record {
            arrived: Timestamp::from_millis(0),
            claimed: false,
            key: None,
            headers: Headers::default(),
            value: Some(Bytes::copy_from_slice(value)),
        }
    }

    #[test]
    fn every_kind_of_control_record_is_read_as_written() {
        let said = Said {
            who: "an \"operator\"".into(),
            why: "the receiver is back".into(),
        };
        let log = LogId(*b"abcd1234");
        let mut all = vec![
            Control::Begun {
                log,
                ends: [(0, 5), (10, 7)].into(),
            },
            Control::ReleasedAll {
                log,
                said: said.clone(),
            },
        ];
        let delivered = Notified::Delivered {
            attempts: 3,
            status: 204,
            address: "::1".into(),
            port: 80,
        };
        let failed = Notified::Failed {
            attempts: 9,
            why: "no answer".into(),
        };
        for event in [
            delivered,
            failed,
            Notified::Released(said.clone()),
            Notified::Retried(said),
        ] {
            all.push(Control::Notification {
                operation_id: "0001561626000500".into(),
                key: DeliveryKey([7; 16]),
                event,
            });
        }
        let at = Timestamp::from_millis(1_700_000_000_123);
        for control in all {
            let (_, value) = control.encode("id-1", at);
            assert_eq!(decode(&record(&value)), Decoded::Control { at, control });
        }
    }

    #[test]
    fn a_record_is_what_its_documentation_shows() {
        let delivered = Control::Notification {
            operation_id: "op".into(),
            key: DeliveryKey([0xab; 16]),
            event: Notified::Delivered {
                attempts: 1,
                status: 200,
                address: "10.0.0.1".into(),
                port: 80,
            },
        };
        let (_, value) = delivered.encode("i", Timestamp::from_millis(0));
        // Existing control logs contain these bytes.
        assert_eq!(
            std::str::from_utf8(&value).unwrap(),
            r#"{"specversion":"1.0","id":"i","source":"/opledger/control","type":"opledger.notification.delivered.v1","subject":"op","time":"1970-01-01T00:00:00.000Z","data":{"key":"abababababababababababababababab","attempts":1,"status_code":200,"address":"10.0.0.1","port":80}}"#
        );
    }

    #[test]
    fn an_unknown_control_record_is_distinguished_from_a_newer_one() {
        let ours = |kind: &str, data: &str| {
            format!(
                r#"{{"specversion":"1.0","id":"i","source":"/opledger/control","type":"{kind}","subject":"abcd1234","time":"1970-01-01T00:00:00Z","data":{data}}}"#
            )
        };
        let newer = "opledger.operation.removed.v1";
        let is = |text: &str| decode(&record(text.as_bytes()));
        assert_eq!(is(&ours(newer, "{}")), Decoded::Newer(newer.into()));
        for bad in [
            "{",
            "{}",
            &ours(BEGUN, "{}"),
            &ours(BEGUN, r#"{"ends":{"x":1}}"#),
            &ours(DELIVERED, r#"{"key":"abababababababababababababababab"}"#),
            &ours(RETRIED, r#"{"key":"short"}"#),
            &ours(newer, "{}").replace("/opledger/control", "/w"),
        ] {
            assert_eq!(is(bad), Decoded::Unreadable, "{bad}");
        }
    }
}
