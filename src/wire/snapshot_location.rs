//! Where the snapshot of an operation stands. The row under the operation's own key is
//!
//! - `snapshot` alone, while the operation goes on;
//! - a place: a mark, and the number of the change that settled it, which names its row
//!   in `settled`;
//! - a place with `snapshot` behind it, once a settled operation has changed again:
//!   what stands in `settled` is out of date then.
//!
//! The entries of lists begin with the place as well while it is where to look. Nothing
//! else there begins with its mark. Never edit: a new shape is a new version beside this one.

use super::packed::{self, Rest};

const PLACE: u8 = 0x41;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// Under the operation's key.
    Open,
    /// In `settled`, under the number of this change.
    Settled(u64),
    /// Under the operation's key again, though this change has settled it.
    Revised(u64),
}

impl Place {
    /// The change that names the row in `settled`, if that is the one to read.
    pub fn settled(self) -> Option<u64> {
        match self {
            Place::Settled(change) => Some(change),
            Place::Open | Place::Revised(_) => None,
        }
    }
}

/// Appends the place of what this change has settled.
pub fn append(change: u64, mut row: Vec<u8>) -> Vec<u8> {
    row.push(PLACE);
    packed::varint(change, &mut row);
    row
}

/// The place and the snapshot, empty where that is elsewhere.
pub fn of_state(row: &[u8]) -> (Place, &[u8]) {
    match of_entry(row) {
        (None, snapshot) => (Place::Open, snapshot),
        (Some(change), []) => (Place::Settled(change), &[]),
        (Some(change), snapshot) => (Place::Revised(change), snapshot),
    }
}

/// The place in an entry of a list, and what else the entry says.
pub fn of_entry(row: &[u8]) -> (Option<u64>, &[u8]) {
    let [PLACE, rest @ ..] = row else {
        return (None, row);
    };
    let mut rest = Rest(rest);
    match rest.varint() {
        Some(change) => (Some(change), rest.0),
        // Cut short: it says nothing.
        None => (None, &[]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_comes_back_with_what_is_behind_it() {
        for change in [0, 1, 127, 128, u64::MAX] {
            let mut row = append(change, Vec::new());
            assert_eq!(of_state(&row), (Place::Settled(change), &[][..]));
            assert_eq!(of_entry(&row), (Some(change), &[][..]));
            row.push(1);
            assert_eq!(of_state(&row), (Place::Revised(change), &[1][..]));
            assert_eq!(of_entry(&row), (Some(change), &[1][..]));
        }
    }

    #[test]
    fn a_row_without_one_is_as_it_was() {
        for row in [&[][..], &[1], &[1, 2, 3], &[0xFF]] {
            assert_eq!(of_state(row), (Place::Open, row));
            assert_eq!(of_entry(row), (None, row));
        }
        for damaged in [&[PLACE][..], &[PLACE, 0x80]] {
            assert_eq!(of_state(damaged), (Place::Open, &[][..]));
            assert_eq!(of_entry(damaged), (None, &[][..]));
        }
    }
}
