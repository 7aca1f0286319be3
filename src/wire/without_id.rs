//! A row of one operation without the operation's id, which its key contains and the events of most
//! producers repeat several times each. The row: its byte, then the pieces between the ids, each
//! after its length. Compression would find the repeats as well, but at two or three bytes each,
//! and until then they would be copied, checked and kept in memory.

use super::packed::{self, Rest};
use super::stored::WITHOUT_ID;
use crate::domain::OperationId;
use memchr::memmem;
use std::borrow::Cow;

/// Shorter ids are not worth it, and may be anywhere.
const LEAST: usize = 8;
/// In an event of this many bytes, a few ids are not worth the search.
const LONG: usize = 4 << 10;

/// Appends the row, which is given in two parts: the second is one event, or nothing.
pub fn append(id: OperationId, [head, tail]: [&[u8]; 2], mut out: Vec<u8>) -> Vec<u8> {
    if id.len() < LEAST {
        out.extend_from_slice(head);
        out.extend_from_slice(tail);
        return out;
    }
    out.push(WITHOUT_ID);
    let finder = memmem::Finder::new(id.0);
    let mut from = 0;
    for at in finder.find_iter(head) {
        packed::bytes(&head[from..at], &mut out);
        from = at + id.len();
    }
    // An id across both parts stays.
    let mut begin = &head[from..];
    from = 0;
    let searched = if tail.len() < LONG { tail } else { &[] };
    for at in finder.find_iter(searched) {
        piece(std::mem::take(&mut begin), &tail[from..at], &mut out);
        from = at + id.len();
    }
    piece(begin, &tail[from..], &mut out);
    out
}

/// In two parts as well.
fn piece(begin: &[u8], end: &[u8], out: &mut Vec<u8>) {
    packed::varint((begin.len() + end.len()) as u64, out);
    out.extend_from_slice(begin);
    out.extend_from_slice(end);
}

/// The row as it was; one of a short id is whole. `None` if it is damaged.
pub fn restore<'r>(id: OperationId, stored: &'r [u8]) -> Option<Cow<'r, [u8]>> {
    let [WITHOUT_ID, pieces @ ..] = stored else {
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
        fn a_row_is_read_as_written_whatever_it_contains(
            id in "[ab]{1,12}",
            row in prop::collection::vec(prop_oneof![Just(b'a'), Just(b'b'), any::<u8>()], 0..200),
            head: prop::sample::Index,
        ) {
            // Rows of ours begin with a version.
            let row = [&[1][..], &row].concat();
            let (head, tail) = row.split_at(1 + head.index(row.len()));
            let stored = append(OperationId(&id), [head, tail], vec![]);
            prop_assert_eq!(restore(OperationId(&id), &stored).unwrap(), row);
        }
    }

    #[test]
    fn a_repeated_operation_id_is_written_once() {
        let id = "0001561626000500";
        let row = format!("\u{1}{id}-1 {id}{id}");
        let stored = append(OperationId(id), [row.as_bytes(), &[]], vec![]);
        assert_eq!(stored.len(), row.len() - 3 * id.len() + 5);
        assert_eq!(restore(OperationId(id), &stored).unwrap(), row.as_bytes());
        // Whole rows are as they are; damage is noticed.
        assert_eq!(
            restore(OperationId(id), row.as_bytes()).unwrap(),
            row.as_bytes()
        );
        assert_eq!(restore(OperationId(id), &stored[..stored.len() - 4]), None);
        assert!(restore(OperationId(id), &[]).unwrap().is_empty());
    }
}
