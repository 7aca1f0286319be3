//! Operations, and how their events are folded. Pure: no IO, no clock, no wire formats. Everything
//! else in the crate depends on this module; it depends on none.
//!
//! The guarantee of the whole ledger is in [`operation`]: the state is a join-semilattice, so a
//! document is a function of the *set* of its events.

pub mod anomaly;
pub mod body;
mod canonical;
pub mod document;
pub mod effects;
pub mod event;
pub mod operation;
mod operation_id;
mod register;
pub mod slice;
pub mod time;

pub use anomaly::{Anomalies, Anomaly};
pub use body::Body;
pub use document::{Document, RollbackResult, Rollbacks, TargetCluster, document};
pub use effects::{Standing, Traits};
pub use event::{
    Ending, Event, Kind, LaneId, Method, Notification, OrderKey, Outcome, Request, Response, Text,
};
pub use operation::{Absorbed, Creation, Lane, Lanes, Operation, Status};
pub use operation_id::{OperationId, SHARDS};
pub use register::{Earliest, Latest, Register};
pub use slice::{SLICES, Slice, Slices, Workers};
pub use time::Timestamp;
