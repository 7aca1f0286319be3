//! The operations that one batch changed, and how far it moved each partition. The row: its byte,
//! the moves as postcard, then each id after its length (two bytes). A batch of some slices alone
//! has the first of them, the one after the last, and whether they were uneven (a byte each) before
//! the moves. It is stored, kept in memory for a while, and read by subscriptions.

use super::packed;
use super::stored::{self, CHANGE, CHANGE_OF_SLICES, Unreadable};
use crate::domain::{OperationId, Slices};
use crate::wire::position::{Offset, Partition};

/// The number of changes of operations before this one: the place of a change among all, or how
/// many changes something contains.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct ChangeNumber(pub u64);

impl ChangeNumber {
    pub const ZERO: ChangeNumber = ChangeNumber(0);
    /// Above all that will ever be.
    pub const MAX: ChangeNumber = ChangeNumber(u64::MAX);

    /// The number after a batch that changed this many operations. One that changed none takes a
    /// number as well.
    pub fn after(self, operations: usize) -> ChangeNumber {
        self.plus(operations.max(1))
    }

    /// Never above [`ChangeNumber::MAX`].
    pub fn plus(self, changes: usize) -> ChangeNumber {
        ChangeNumber(self.0.saturating_add(changes as u64))
    }
}

/// The change of a batch to the position of one partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct PartitionMove {
    pub partition: Partition,
    /// `None` if nothing of it had been applied.
    pub before: Option<Offset>,
    pub after: Offset,
}

/// How far one batch moved some slices.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Moves {
    /// Those of the worker that wrote the batch.
    pub slices: Slices,
    /// Some of the slices were further than others before it. Then `before` and `after` are those
    /// of the ones that had the least.
    pub is_uneven: bool,
    pub moved: Vec<PartitionMove>,
}

impl Moves {
    /// Of all slices, which were equally far.
    pub fn of_all(moved: Vec<PartitionMove>) -> Moves {
        Moves {
            slices: Slices::ALL,
            is_uneven: false,
            moved,
        }
    }
}

pub fn encode<'i>(moves: &Moves, ids: impl Iterator<Item = OperationId<'i>>) -> Vec<u8> {
    let row = match moves.slices == Slices::ALL && !moves.is_uneven {
        true => vec![CHANGE],
        false => vec![
            CHANGE_OF_SLICES,
            moves.slices.first().0,
            moves.slices.end().0,
            moves.is_uneven.into(),
        ],
    };
    let mut row = packed::append(&moves.moved, row);
    for id in ids {
        let length = u16::try_from(id.len()).expect("an operation id has 256 bytes at most");
        row.extend_from_slice(&length.to_be_bytes());
        row.extend_from_slice(id.as_bytes());
    }
    row
}

#[derive(Debug, Clone, PartialEq)]
pub struct StoredChange<'r> {
    pub moves: Moves,
    ids: &'r [u8],
}

pub fn decode(row: &[u8]) -> Result<StoredChange<'_>, Unreadable> {
    let (slices, is_uneven, rest) = match row {
        [CHANGE_OF_SLICES, start, end, is_uneven @ (0 | 1), rest @ ..] => {
            let slices = Slices::between(*start, *end).ok_or(Unreadable::Damaged)?;
            (slices, *is_uneven == 1, rest)
        }
        [CHANGE_OF_SLICES, ..] => return Err(Unreadable::Damaged),
        _ => (Slices::ALL, false, stored::body(CHANGE, row)?),
    };
    let (moved, ids) = postcard::take_from_bytes(rest).map_err(|_| Unreadable::Damaged)?;
    let moves = Moves {
        slices,
        is_uneven,
        moved,
    };
    Ok(StoredChange { moves, ids })
}

impl<'r> StoredChange<'r> {
    /// Each operation once. Damage ends the iteration.
    pub fn ids(&self) -> impl Iterator<Item = OperationId<'r>> + use<'r> {
        let mut rest = self.ids;
        std::iter::from_fn(move || {
            let (length, after) = rest.split_first_chunk::<2>()?;
            let (id, after) = after.split_at_checked(u16::from_be_bytes(*length).into())?;
            rest = after;
            std::str::from_utf8(id).ok().map(OperationId)
        })
    }

    /// Where the ids stand in the row that it was decoded from.
    pub fn places(&self, row: &[u8]) -> impl Iterator<Item = std::ops::Range<u32>> {
        let mut at = (row.len() - self.ids.len()) as u32;
        self.ids().map(move |id| {
            let start = at + 2;
            at = start + id.len() as u32;
            start..at
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_read_as_it_was_written() {
        let moved = vec![
            PartitionMove {
                partition: Partition(0),
                before: Some(Offset(4)),
                after: Offset(9),
            },
            PartitionMove {
                partition: Partition(3),
                before: None,
                after: Offset(0),
            },
        ];
        let some = Slices::between(7, 64).expect("there are 64");
        for (slices, is_uneven) in [(Slices::ALL, false), (Slices::ALL, true), (some, false)] {
            let moves = Moves {
                slices,
                is_uneven,
                moved: moved.clone(),
            };
            let row = encode(&moves, ["a", "operation-2"].map(OperationId).into_iter());
            let change = decode(&row).expect("it was encoded");
            assert_eq!(
                change.ids().collect::<Vec<_>>(),
                ["a", "operation-2"].map(OperationId)
            );
            assert_eq!(change.moves, moves);
            let places = change
                .places(&row)
                .map(|place| &row[place.start as usize..place.end as usize]);
            assert_eq!(places.collect::<Vec<_>>(), [&b"a"[..], b"operation-2"]);
        }
    }

    #[test]
    fn the_row_of_some_slices_never_changes() {
        let moves = Moves {
            slices: Slices::between(7, 64).expect("there are 64"),
            is_uneven: true,
            moved: vec![PartitionMove {
                partition: Partition(3),
                before: Some(Offset(4)),
                after: Offset(9),
            }],
        };
        let row = encode(&moves, [OperationId("op")].into_iter());
        assert_eq!(row, b"\x33\x07\x40\x01\x01\x03\x01\x04\x09\x00\x02op");
    }

    #[test]
    fn junk_is_not_decoded() {
        assert_eq!(decode(&[]), Err(Unreadable::Damaged));
        assert_eq!(decode(&[9]), Err(Unreadable::Unknown(9)));
        assert_eq!(decode(&[CHANGE, 0xFF]), Err(Unreadable::Damaged));
        for slices in [[0, 0, 0], [3, 65, 0], [0, 1, 2]] {
            let row = [&[CHANGE_OF_SLICES], &slices[..], &[0]].concat();
            assert_eq!(decode(&row), Err(Unreadable::Damaged), "{slices:?}");
        }
    }
}
