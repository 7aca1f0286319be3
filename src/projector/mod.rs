//! From the log to the store, exactly once: what a cut of the log changes and
//! the position behind it are written together, and writing it again changes
//! nothing.
//!
//! `step` judges one record, `cut` gathers many by operation, `projection` folds them
//! into the store. `run` is the thread that does so live, behind `intake`, which reads
//! and makes cuts ahead of it. `control` does the same for the control log, which has
//! what only the ledger knows.

mod changes;
pub mod control;
pub mod cut;
pub mod halt;
mod intake;
pub mod meta;
mod operation;
mod pace;
pub mod projection;
pub mod run;
pub mod step;
mod watchdog;

pub use cut::Cut;
pub use halt::Halt;
pub use projection::{Projection, Tally};
