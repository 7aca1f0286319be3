//! Tests that need only the library: laws of the fold, formats, records of every kind, and the
//! independent reference fold that other tests compare with.

mod decode;
mod fold_laws;
mod harness;
mod records;
mod reference;
#[path = "../support/mod.rs"]
mod support;
