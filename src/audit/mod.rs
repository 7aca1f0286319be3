//! Folding the log again: to look at what it says without a server (`replay`),
//! and to make a new store from it (`rebuild`).

pub mod file;
pub mod rebuild;
pub mod replay;
