//! The first byte of everything that is stored: it identifies the encoding of the rest and its
//! version. No two encodings share a byte, and a byte is never reused.
//!
//! The log's encodings are in logs that may be the only copy: they never change, and their
//! readers are never removed. The store's encodings may change with its format
//! (`rows::meta::FORMAT`), because the store is rebuilt from the log.
//!
//! Rows of `meta` that are one number or one text, and the reasons in `dead_letter_due`, have no
//! such byte: their meaning is part of the store's format.

/// Why stored bytes cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    #[error("a stored row has the encoding {0}, which this program does not know")]
    Unknown(u8),
    #[error("the stored row is damaged")]
    Damaged,
}

macro_rules! encodings {
    ($($(#[$doc:meta])* $name:ident = $byte:literal,)*) => {
        $($(#[$doc])* pub const $name: u8 = $byte;)*

        /// Every encoding with its byte.
        pub const ALL: &[(&str, u8)] = &[$((stringify!($name), $byte)),*];
    };
}

encodings! {
    /// Log: records of one partition. `wire::block`.
    BLOCK = 0x01,
    /// Log: the same in LZ4.
    BLOCK_COMPRESSED = 0x04,
    /// Store: `wire::snapshot`.
    SNAPSHOT = 0x10,
    /// `wire::snapshot`.
    LANE = 0x11,
    /// One record, with the time at which the log took it. `wire::record`.
    RECORD = 0x20,
    /// One record, with its producer's timestamp. `wire::record`.
    RECORD_OF_PRODUCER_TIME = 0x21,
    /// Several records of one operation. `wire::record`.
    RECORDS = 0x22,
    /// `wire::without_id`, around one of these.
    WITHOUT_ID = 0x23,
    /// `wire::record`.
    DEAD_LETTER = 0x24,
    /// `wire::record`.
    DEAD_LETTER_OF_PRODUCER_TIME = 0x25,
    /// A row of the history in LZ4. `store::rocks::packed`.
    PACKED = 0x26,
    /// `wire::list_entry`.
    LIST_ENTRY = 0x30,
    /// A bit for each anomaly. `rows::change`, `rows::state`.
    ANOMALIES = 0x31,
    /// `wire::change`.
    CHANGE = 0x32,
    /// The same for some of the slices. `wire::change`.
    CHANGE_OF_SLICES = 0x33,
    /// `wire::notification`.
    DUE = 0x40,
    /// `wire::notification`.
    OUTCOME = 0x41,
    /// `wire::notification`.
    TRIES = 0x42,
    /// `wire::anchor`.
    ANCHOR = 0x50,
    /// `rows::meta`.
    STATUS_COUNTS = 0x51,
    /// Before which offsets no notification is sent. `rows::outbox`.
    NOTIFICATIONS_BEGIN = 0x52,
}

/// The rest of a row after the byte of this encoding.
pub fn body(encoding: u8, row: &[u8]) -> Result<&[u8], Unreadable> {
    match row.split_first() {
        Some((first, rest)) if *first == encoding => Ok(rest),
        Some((first, _)) => Err(unexpected(*first)),
        None => Err(Unreadable::Damaged),
    }
}

/// A row that begins with this byte, where another encoding is stored.
pub fn unexpected(first: u8) -> Unreadable {
    match ALL.iter().any(|(_, byte)| *byte == first) {
        true => Unreadable::Damaged,
        false => Unreadable::Unknown(first),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_encodings_share_a_byte() {
        for (place, (name, byte)) in ALL.iter().enumerate() {
            let same = ALL[..place].iter().find(|(_, other)| other == byte);
            assert_eq!(same, None, "{name}");
        }
    }

    #[test]
    fn a_wrong_encoding_is_damage_and_an_unknown_one_belongs_to_another_program() {
        assert_eq!(body(CHANGE, &[CHANGE, 7]), Ok(&[7][..]));
        assert_eq!(body(CHANGE, &[LANE, 7]), Err(Unreadable::Damaged));
        assert_eq!(body(CHANGE, &[]), Err(Unreadable::Damaged));
        assert_eq!(body(CHANGE, &[0xFF]), Err(Unreadable::Unknown(0xFF)));
    }
}
