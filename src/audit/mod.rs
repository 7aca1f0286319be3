//! Folds a log again: to print the result without a server (`replay`), and to build a new store
//! from it (`rebuild`).

pub mod file;
pub mod rebuild;
pub mod replay;
