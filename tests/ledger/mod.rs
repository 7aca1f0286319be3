//! The built program over HTTP, on an embedded log.

mod bad_input;
mod clock;
mod connections;
mod hostile;
mod http;
mod identity;
mod limits;
mod lists;
mod reads;
mod schemas;
mod streams;
mod waiting;
mod webhook_targets;
mod webhooks;
