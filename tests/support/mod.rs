//! Code that several test programs share. Each of them compiles all of it and uses only a part,
//! hence the `allow`.
#![allow(dead_code)]

pub mod broker;
pub mod damaged;
pub mod deadline;
pub mod events;
pub mod generate;
pub mod in_process;
pub mod listed;
pub mod names;
pub mod notified;
pub mod raw;
pub mod receiver;
pub mod reference;
mod root;
pub mod rows;
pub mod same;
pub mod schemas;
pub mod server;
pub mod simulated_log;
pub mod small_disk;
pub mod sse;
pub mod stories;
pub mod unprivileged;

pub use root::root;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// For a test that opens many connections: a login often has 1,024 descriptors, which all tests of
/// a program share.
pub fn allow_many_descriptors() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        ..limit
    };
    setrlimit(Resource::Nofile, raised).unwrap();
}

/// `make soak`: the same tests with long counts.
pub fn soak() -> bool {
    std::env::var_os("SOAK").is_some()
}

pub fn env_number(name: &str) -> Option<u64> {
    let value = std::env::var(name).ok()?;
    Some(
        value
            .parse()
            .unwrap_or_else(|_| panic!("{name} must be a number")),
    )
}
