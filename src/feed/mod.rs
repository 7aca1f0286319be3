//! What changed: positions that can be waited for, subscriptions, the index of changes, and
//! the cache of documents.

pub mod changes;
pub mod documents;
pub mod index;
pub mod progress;
pub mod publisher;
pub mod seen;
mod sequence;
pub mod subscriptions;
pub mod unsent;
pub mod watch;
