//! How operations are stored: where a snapshot is, which records share a row of the history,
//! where the text of a large body is, and what a list entry contains.

pub mod bodies;
pub mod change;
pub mod digest;
pub mod entry;
pub mod filter;
pub mod operation;
pub mod outbox;
pub mod records;
pub mod state;
