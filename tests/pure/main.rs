//! What needs nothing but itself: laws of the fold, formats, records of every kind, and the
//! fold written apart that the others are compared with.

mod decode;
mod fold_laws;
mod harness;
mod records;
mod reference;
#[path = "../support/mod.rs"]
mod support;
