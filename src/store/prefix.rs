//! The store's knowledge of keys: they sort as bytes, and the rows of one operation begin alike:
//! two bytes, its id, which has no NUL, and a NUL.

use std::ops::Range;

/// Every key of a family; none begins with 0xFF.
pub const ALL: Range<&[u8]> = &[]..&[0xFF];

/// The prefix of the keys of all rows of one operation in `lane` or `history`, its NUL included.
pub fn operation_prefix(key: &[u8]) -> Option<&[u8]> {
    let id = key.get(2..)?;
    let end = id.iter().position(|byte| *byte == 0)?;
    Some(&key[..2 + end + 1])
}

/// Whether all keys in this range are of one operation, and begin as its start does.
pub fn is_of_one_operation(range: &Range<&[u8]>) -> bool {
    operation_prefix(range.start).is_some_and(|prefix| {
        let all = prefix.split_last().map(|(_, stem)| (&1, stem));
        range.end.starts_with(prefix) || range.end.split_last() == all
    })
}

/// The first bytes of a key, padded with NULs. As a big-endian number they sort as the keys
/// do, as far as they go.
pub fn head<const N: usize>(key: &[u8]) -> [u8; N] {
    let mut head = [0; N];
    let len = key.len().min(N);
    head[..len].copy_from_slice(&key[..len]);
    head
}

/// The first key after all that start with `prefix`; empty if there is none.
pub fn after_prefix(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < 0xFF {
            end.push(last + 1);
            break;
        }
    }
    end
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_of_one_operation_or_of_several() {
        let range = |start: &[u8], end: &[u8]| is_of_one_operation(&(start..end));
        assert_eq!(operation_prefix(b"..op\0event"), Some(&b"..op\0"[..]));
        assert!(range(b"..op\0", b"..op\x01"));
        assert!(range(b"..op\0event", b"..op\0event\xFF"));
        assert!(!range(ALL.start, ALL.end));
        assert!(!range(b"..op\0", b"..oq\x01"));
        // The first two bytes may be NULs of their own.
        assert_eq!(operation_prefix(b"\0\0o\0\x07"), Some(&b"\0\0o\0"[..]));
        assert_eq!(operation_prefix(b"\0\0o"), None);
    }
}
