//! The parts of a ledger in this process. Logs and stores are in memory, and fail and crash
//! where a test says so.

mod control;
mod crew;
mod large_bodies;
mod list_reads;
mod log;
mod many_streams;
mod projector;
mod simulation;
mod slices;
mod stored;
mod stream_client;
mod streams;
#[path = "../support/mod.rs"]
mod support;
mod workers;
