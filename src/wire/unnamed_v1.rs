//! A row of one operation without the operation's id, which its key has already and the
//! events of most producers repeat several times each: a mark, then what lies between the
//! ids, each piece behind its length. Compression would find the repeats as well, but each
//! costs it two or three bytes, and until then they are copied, checked and held in memory.

use super::packed::{self, Rest};
use memchr::memmem;
use std::borrow::Cow;

/// No row begins with it otherwise.
const MARK: u8 = 0x40;
/// Shorter ids are not worth it, and may be anywhere.
const LEAST: usize = 8;

/// Appends the row.
pub fn append(id: &str, row: &[u8], mut out: Vec<u8>) -> Vec<u8> {
    if id.len() < LEAST {
        out.extend_from_slice(row);
        return out;
    }
    out.push(MARK);
    let mut from = 0;
    for at in memmem::find_iter(row, id) {
        packed::bytes(&row[from..at], &mut out);
        from = at + id.len();
    }
    packed::bytes(&row[from..], &mut out);
    out
}

/// The row as it was; a row that has no mark is whole. `None` if it is damaged.
pub fn restore<'r>(id: &str, stored: &'r [u8]) -> Option<Cow<'r, [u8]>> {
    let [MARK, pieces @ ..] = stored else {
        return Some(Cow::Borrowed(stored));
    };
    let mut pieces = Rest(pieces);
    // There are as many ids as there are pieces of at least one byte, at most.
    let mut row = Vec::with_capacity(2 * stored.len());
    row.extend_from_slice(pieces.bytes()?);
    while !pieces.0.is_empty() {
        row.extend_from_slice(id.as_bytes());
        row.extend_from_slice(pieces.bytes()?);
    }
    Some(row.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_row_comes_back_whatever_is_in_it(
            id in "[ab]{1,12}",
            row in prop::collection::vec(prop_oneof![Just(b'a'), Just(b'b'), any::<u8>()], 0..200),
        ) {
            // Rows of ours begin with a version.
            let row = [&[1][..], &row].concat();
            let stored = append(&id, &row, vec![]);
            prop_assert_eq!(restore(&id, &stored).unwrap(), row);
        }
    }

    #[test]
    fn a_repeated_id_is_left_out() {
        let id = "0001561626000500";
        let row = format!("\u{1}{id}-1 {id}{id}");
        let stored = append(id, row.as_bytes(), vec![]);
        assert_eq!(stored.len(), row.len() - 3 * id.len() + 5);
        assert_eq!(restore(id, &stored).unwrap(), row.as_bytes());
        // Rows from before are as they are; damage is noticed.
        assert_eq!(restore(id, row.as_bytes()).unwrap(), row.as_bytes());
        assert_eq!(restore(id, &stored[..stored.len() - 4]), None);
        assert!(restore(id, &[]).unwrap().is_empty());
    }
}
