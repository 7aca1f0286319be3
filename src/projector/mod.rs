//! From the log to the store, exactly once: what a batch of the log changes and
//! the position after it are written together, and writing it again changes
//! nothing.
//!
//! There are two logs (`source`): the events, and the control log, which has what only the ledger
//! knows. `step` judges one record, `record_batch` gathers many by operation, `projection` folds them
//! into the store: events into operations, records of the control log into what
//! became of deliveries (`deliveries`). `run` is the loop that does so live, on a thread for each
//! log, after `intake`, which reads and makes batches ahead of it. All of them write through one
//! `writer`.

mod changes;
mod deliveries;
pub mod halt;
mod intake;
pub mod log_position;
mod pace;
pub mod pipeline;
pub mod projection;
mod queue;
pub mod record_batch;
pub mod run;
pub mod source;
pub mod step;
mod watchdog;
pub mod writer;

pub use halt::Halt;
pub use projection::{Projection, Tally};
pub use record_batch::RecordBatch;
pub use source::Source;
pub use writer::StoreWriter;
