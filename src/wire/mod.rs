//! The versioned formats at the edges: what comes in, what goes out, what is
//! kept on disk. Converts to and from `domain` and decides nothing about it.

pub mod anchor;
mod attributes;
pub mod block_v2;
pub mod change_v1;
pub mod cloudevent;
pub mod compressed;
pub mod control_v1;
pub mod document;
pub mod error_sheet;
pub mod event_v1;
pub mod fault;
pub mod host;
pub mod json;
pub mod listed_v1;
pub mod media_type;
pub mod notification_v1;
pub mod number;
mod packed;
pub mod place_v1;
pub mod position;
pub mod record_v1;
pub mod snapshot_v1;
pub mod time;
pub mod unnamed_v1;
