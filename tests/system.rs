//! The built program, from outside. One test program: it links what the tests share once, and
//! while a test waits, others go on.

mod damage;
mod kafka;
mod ledger;
mod support;
mod tools;
