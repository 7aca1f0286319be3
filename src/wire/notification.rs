//! Webhook deliveries as they are stored: the due delivery (from the event log), the outcome
//! (from the control log), and the results of the attempts. Postcard after its byte.

use super::packed;
use super::stored::{self, DUE, OUTCOME, TRIES, Unreadable};
use crate::domain::effects::Due;
use crate::domain::{Notification, OperationId, OrderKey, Timestamp};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// Identifies a delivery: the operation, and the order key of the terminal event that won. The
/// same terminal event always has the same key, and another one has another key. Receivers get
/// it as `Idempotency-Key`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeliveryKey(pub [u8; 16]);

impl DeliveryKey {
    pub fn of(operation_id: OperationId, ending: &OrderKey) -> DeliveryKey {
        let mut hash = blake3::Hasher::new();
        hash.update(&ending.time.secs.to_be_bytes());
        hash.update(&ending.time.nanos.to_be_bytes());
        for text in [operation_id.0, &ending.source, &ending.id] {
            // With their lengths, so that two different lists of texts never hash the same bytes.
            hash.update(&(text.len() as u64).to_be_bytes());
            hash.update(text.as_bytes());
        }
        let hash = hash.finalize();
        DeliveryKey(hash.as_bytes()[..16].try_into().expect("a hash is longer"))
    }
}

impl fmt::Display for DeliveryKey {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a key has 32 hexadecimal digits")]
pub struct BadKey;

impl FromStr for DeliveryKey {
    type Err = BadKey;

    fn from_str(text: &str) -> Result<DeliveryKey, BadKey> {
        if text.len() != 32 || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(BadKey);
        }
        let bits = u128::from_str_radix(text, 16).map_err(|_| BadKey)?;
        Ok(DeliveryKey(bits.to_be_bytes()))
    }
}

/// The row of a delivery that is due: the order key of the terminal event, address, port.
pub fn encode_due(due: &Due) -> Vec<u8> {
    let key = &due.ending;
    let ending = (key.time.secs, key.time.nanos, &*key.source, &*key.id);
    extend(DUE, &(ending, &*due.to.address, due.to.port))
}

pub fn decode_due(row: &[u8]) -> Result<Due<'_>, Unreadable> {
    type Row<'a> = ((i64, u32, &'a str, &'a str), &'a str, u16);
    let ((secs, nanos, source, id), address, port): Row = take(DUE, row)?;
    Ok(Due {
        ending: OrderKey {
            time: Timestamp { secs, nanos },
            source: source.into(),
            id: id.into(),
        },
        to: Notification {
            address: address.into(),
            port,
        },
    })
}

/// The outcome of a notification in the control log. Without one, it is due or held.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum DeliveryOutcome {
    /// Permanently.
    Delivered {
        at_ms: i64,
        attempts: u32,
        status: u16,
        address: String,
        port: u16,
    },
    /// Failed permanently, until an operator retries it.
    Failed {
        at_ms: i64,
        attempts: u32,
        why: String,
    },
    /// An operator has released or retried it, so it is due again.
    Again { at_ms: i64 },
}

pub fn encode_outcome(outcome: &DeliveryOutcome) -> Vec<u8> {
    extend(OUTCOME, outcome)
}

pub fn decode_outcome(row: &[u8]) -> Result<DeliveryOutcome, Unreadable> {
    take(OUTCOME, row)
}

/// The attempts so far. Lost with the store; then they begin at zero.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Tries {
    /// It was due before there was a control log, so it may have been made: it waits for an
    /// operator.
    Held,
    Failing(Failing),
}

/// Failed attempts so far.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failing {
    pub first_ms: i64,
    pub attempts: u32,
    pub next_ms: i64,
    pub why: String,
}

pub fn encode_tries(tries: &Tries) -> Vec<u8> {
    extend(TRIES, tries)
}

pub fn decode_tries(row: &[u8]) -> Result<Tries, Unreadable> {
    take(TRIES, row)
}

fn extend<T: Serialize>(encoding: u8, value: &T) -> Vec<u8> {
    packed::append(value, vec![encoding])
}

fn take<'a, T: Deserialize<'a>>(encoding: u8, row: &'a [u8]) -> Result<T, Unreadable> {
    postcard::from_bytes(stored::body(encoding, row)?).map_err(|_| Unreadable::Damaged)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ending(source: &str, id: &str) -> OrderKey<'static> {
        OrderKey {
            time: Timestamp { secs: 5, nanos: 7 },
            source: source.to_owned().into(),
            id: id.to_owned().into(),
        }
    }

    #[test]
    fn a_delivery_key_never_changes_and_identifies_one_terminal_event() {
        // Receivers remember the key, and the control log contains it.
        let key = DeliveryKey::of(OperationId("0001561626000500"), &ending("/w", "e9"));
        assert_eq!(key.to_string(), "e6de6049061849b43fdeb98e3c95b9df");
        assert_eq!(key.to_string().parse(), Ok(key));
        for other in [
            DeliveryKey::of(OperationId("0001561626000501"), &ending("/w", "e9")),
            DeliveryKey::of(OperationId("0001561626000500"), &ending("/we", "9")),
            DeliveryKey::of(OperationId("0001561626000500/"), &ending("w", "e9")),
        ] {
            assert_ne!(key, other);
        }
        for bad in [
            "",
            "0",
            "+0000000000000000000000000000001",
            "g0000000000000000000000000000000",
        ] {
            assert_eq!(bad.parse::<DeliveryKey>(), Err(BadKey), "{bad}");
        }
    }

    #[test]
    fn rows_are_read_as_written() {
        let due = Due {
            ending: ending("/w", "e9"),
            to: Notification {
                address: "::1".into(),
                port: 80,
            },
        };
        assert_eq!(decode_due(&encode_due(&due)), Ok(due));
        let failed = DeliveryOutcome::Failed {
            at_ms: 1,
            attempts: 2,
            why: "x".into(),
        };
        assert_eq!(decode_outcome(&encode_outcome(&failed)), Ok(failed));
        assert_eq!(decode_tries(&encode_tries(&Tries::Held)), Ok(Tries::Held));
        assert_eq!(decode_tries(&[9]), Err(Unreadable::Unknown(9)));
        assert_eq!(decode_tries(&[]), Err(Unreadable::Damaged));
    }
}
