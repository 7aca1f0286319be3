//! How the ledger is stored: its keys, its encodings, where a snapshot is, which records share a
//! row of the history, where the text of a large body is, what a list entry contains. Everything
//! else reads and changes operations, lists, deliveries, dead letters, changes and positions
//! through the functions here, and names no key and no family.

pub mod bodies;
pub mod change;
pub mod changes;
pub mod digest;
pub mod entry;
pub mod filter;
pub mod keys;
pub mod letters;
pub mod lists;
pub mod meta;
pub mod operation;
pub mod outbox;
pub mod records;
pub mod slices;
pub mod state;

use crate::store::rocks::{MemoryBudget, Rocks};
use crate::store::{Db, Family, Result};
use std::path::Path;

/// Opens the ledger's store, a new one if there is none.
pub fn open(path: &Path, memory: MemoryBudget) -> Result<Rocks> {
    Rocks::open(path, Family::LEDGER, memory)
}

/// The unreadable rows of the store: the kinds of those that nothing else can replace, and whether
/// there are others.
pub fn damage(db: &dyn Db) -> (Vec<&'static str>, bool) {
    let families = db.damage();
    let lost = families.iter().filter_map(|family| match family {
        Family::History => Some("histories"),
        Family::Outbox | Family::Outcome | Family::Tries => Some("notifications"),
        Family::DeadLetter | Family::DeadLetterDue => Some("dead letters"),
        Family::Meta => Some("positions"),
        Family::Log => None,
        // Folded again from the history, or found by other rows.
        Family::State
        | Family::Lane
        | Family::ByTime
        | Family::ByStatus
        | Family::Anomaly
        | Family::Change => None,
    });
    let mut lost: Vec<_> = lost.collect();
    lost.dedup();
    (lost, !families.is_empty())
}
