//! The formats at the edges: input, output, and stored rows (`stored` lists these). Converts
//! to and from `domain` and contains none of its rules.

pub mod anchor;
mod attributes;
pub mod block;
pub mod change;
pub mod cloudevent;
pub mod compressed;
pub mod control_record;
pub mod document;
pub mod error_response;
pub mod event;
pub mod fault;
pub mod host;
pub mod json;
pub mod list_entry;
pub mod media_type;
pub mod notification;
pub mod number;
mod packed;
pub mod position;
pub mod record;
pub mod snapshot;
pub mod stored;
pub mod time;
pub mod without_id;
