//! Counts large responses until they are sent: a client that does not read its response keeps
//! memory in use, and all of them together have a limit.

use bytes::Bytes;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Responses up to this size are not counted: the number of connections limits them.
pub const SMALL: usize = 64 << 10;

pub struct Unsent {
    max: u64,
    held: AtomicU64,
    /// The size of the response that found no room last.
    refused: AtomicU64,
}

/// There is no room for one more large response at the moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("clients have not received enough of the earlier responses")]
pub struct NoRoom;

/// The bytes of one response, which may be sent to many clients.
pub struct Large {
    bytes: Vec<u8>,
    unsent: Arc<Unsent>,
}

impl Unsent {
    /// Bytes in all.
    pub fn new(max: u64) -> Arc<Unsent> {
        Arc::new(Unsent {
            max,
            held: AtomicU64::new(0),
            refused: AtomicU64::new(0),
        })
    }

    /// Bytes of large responses that are in memory.
    pub fn held(&self) -> u64 {
        self.held.load(Ordering::Relaxed)
    }

    /// Whether the last response that found no room would find none now.
    pub fn is_full(&self) -> bool {
        let refused = self.refused.load(Ordering::Relaxed);
        refused > 0 && !self.has_room(self.held(), refused)
    }

    /// One alone may be larger than the bound: it could never be sent otherwise.
    fn has_room(&self, held: u64, len: u64) -> bool {
        held == 0 || held + len <= self.max
    }

    /// Counts a response until the last of its copies is dropped.
    pub fn hold(self: &Arc<Unsent>, bytes: Vec<u8>) -> Result<Bytes, NoRoom> {
        match bytes.len() <= SMALL {
            true => Ok(bytes.into()),
            false => Ok(Large::bytes(self.hold_large(bytes)?)),
        }
    }

    pub fn hold_large(self: &Arc<Unsent>, bytes: Vec<u8>) -> Result<Arc<Large>, NoRoom> {
        let len = bytes.len() as u64;
        let sum = |held: u64| self.has_room(held, len).then_some(held + len);
        let counted = self
            .held
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, sum);
        if counted.is_err() {
            self.refused.store(len, Ordering::Relaxed);
            return Err(NoRoom);
        }
        Ok(self.counted(bytes))
    }

    /// The same for what must not be refused any more.
    pub fn hold_anyway(self: &Arc<Unsent>, bytes: Vec<u8>) -> Bytes {
        if bytes.len() <= SMALL {
            return bytes.into();
        }
        self.held.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        Large::bytes(self.counted(bytes))
    }

    fn counted(self: &Arc<Unsent>, bytes: Vec<u8>) -> Arc<Large> {
        Arc::new(Large {
            bytes,
            unsent: self.clone(),
        })
    }
}

impl Large {
    /// One more reference: it shares the memory.
    pub fn bytes(large: Arc<Large>) -> Bytes {
        struct Shared(Arc<Large>);
        impl AsRef<[u8]> for Shared {
            fn as_ref(&self) -> &[u8] {
                &self.0.bytes
            }
        }
        Bytes::from_owner(Shared(large))
    }
}

impl Drop for Large {
    fn drop(&mut self) {
        let len = self.bytes.len() as u64;
        self.unsent.held.fetch_sub(len, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shared_bytes_count_once_until_the_last_copy_is_dropped() {
        let unsent = Unsent::new(300_000);
        let large = unsent.hold_large(vec![1; 200_000]).expect("there is room");
        let copies = [Large::bytes(large.clone()), Large::bytes(large)];
        assert_eq!(copies[0].as_ptr(), copies[1].as_ptr());
        assert_eq!(unsent.held(), 200_000);
        assert_eq!(unsent.hold(vec![2; 100_001]), Err(NoRoom));
        assert!(unsent.is_full());
        let slice = copies[0].slice(5..6);
        drop(copies);
        assert_eq!(unsent.held(), 200_000);
        assert!(unsent.is_full());
        drop(slice);
        assert_eq!(unsent.held(), 0);
        assert!(!unsent.is_full());
        // Small ones do not count, one alone may be too large, and what must be sent is.
        let all = [
            unsent.hold(vec![3; SMALL]),
            unsent.hold(vec![4; 400_000]),
            Ok(unsent.hold_anyway(vec![5; 100_000])),
        ];
        assert!(all.iter().all(Result::is_ok));
        assert_eq!(unsent.held(), 500_000);
        drop(all);
        assert_eq!(unsent.held(), 0);
    }
}
