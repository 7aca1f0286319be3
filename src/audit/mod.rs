//! Folds a log again: to print what it yields without a server (`replay`), and to build a new
//! store from it (`rebuild`).

pub mod file;
pub mod rebuild;
pub mod replay;
