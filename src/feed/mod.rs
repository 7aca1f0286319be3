//! What changed: positions that can be waited for, subscriptions, the index of changes, and
//! documents as they are sent.

pub mod at_hand;
pub mod changes;
pub mod current;
pub mod index;
pub mod progress;
pub mod publisher;
pub mod rounds;
pub mod told;
pub mod unsent;
pub mod watch;
