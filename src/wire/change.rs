//! The operations that one batch changed, and how far it moved each partition. The row: its byte,
//! the moves as postcard, then each id after its length (two bytes). It is stored, kept in memory
//! for a while, and read by subscriptions.

use super::packed;
use super::stored::{self, CHANGE, Unreadable};
use crate::domain::OperationId;
use crate::wire::position::{LastOffsets, Offset, Partition};

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

pub fn encode<'i>(moved: &[PartitionMove], ids: impl Iterator<Item = OperationId<'i>>) -> Vec<u8> {
    let mut row = packed::append(moved, vec![CHANGE]);
    for id in ids {
        let length = u16::try_from(id.len()).expect("an operation id has 256 bytes at most");
        row.extend_from_slice(&length.to_be_bytes());
        row.extend_from_slice(id.as_bytes());
    }
    row
}

#[derive(Debug, Clone, PartialEq)]
pub struct StoredChange<'r> {
    pub moved: Vec<PartitionMove>,
    ids: &'r [u8],
}

pub fn decode(row: &[u8]) -> Result<StoredChange<'_>, Unreadable> {
    let rest = stored::body(CHANGE, row)?;
    let (moved, ids) = postcard::take_from_bytes(rest).map_err(|_| Unreadable::Damaged)?;
    Ok(StoredChange { moved, ids })
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

    /// Raises the positions to those after the batch.
    pub fn advance(&self, positions: &mut LastOffsets) {
        for moved in &self.moved {
            positions.raise(moved.partition, moved.after);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_read_as_it_was_written_and_moves_positions_only_on() {
        let moved = [
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
        let row = encode(&moved, ["a", "operation-2"].map(OperationId).into_iter());
        let change = decode(&row).unwrap();
        assert_eq!(
            change.ids().collect::<Vec<_>>(),
            ["a", "operation-2"].map(OperationId)
        );
        assert_eq!(change.moved, moved);
        let places = change
            .places(&row)
            .map(|place| &row[place.start as usize..place.end as usize]);
        assert_eq!(places.collect::<Vec<_>>(), [&b"a"[..], b"operation-2"]);
        let mut positions = LastOffsets::from([(0, 4), (1, 7), (3, 1)]);
        change.advance(&mut positions);
        assert_eq!(positions, LastOffsets::from([(0, 9), (1, 7), (3, 1)]));
    }

    #[test]
    fn junk_is_not_decoded() {
        assert_eq!(decode(&[]), Err(Unreadable::Damaged));
        assert_eq!(decode(&[9]), Err(Unreadable::Unknown(9)));
        assert_eq!(decode(&[CHANGE, 0xFF]), Err(Unreadable::Damaged));
    }
}
