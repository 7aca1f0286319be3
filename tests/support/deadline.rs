//! Every wait of a test ends in time and says what it was for.

use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

/// For what a ledger does at once: long enough for a machine that runs other tests beside.
pub const SOON: Duration = Duration::from_secs(20);
/// For what takes work: a start on a large log, a broker that comes up.
pub const LATER: Duration = Duration::from_secs(60);
/// For all of a test. Long runs have none.
const TEST: Duration = Duration::from_secs(300);

/// Looks until there is something.
#[track_caller]
pub fn within<T>(limit: Duration, what: &str, look: impl FnMut() -> Option<T>) -> T {
    let found = found_within(limit, look);
    found.unwrap_or_else(|| panic!("not within {limit:?}: {what}"))
}

/// The same, for whoever has more to say if there is nothing.
pub fn found_within<T>(limit: Duration, mut look: impl FnMut() -> Option<T>) -> Option<T> {
    of_test();
    let until = Instant::now() + limit;
    loop {
        if let Some(found) = look() {
            return Some(found);
        }
        if Instant::now() > until {
            return None;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Ends the test program, with the name of the test and what it waited for, unless it is
/// dropped in time. For a call that has no limit of its own, such as waiting for a process
/// to end: a thread cannot be stopped from outside.
pub struct Limit {
    _until_dropped: Sender<()>,
}

pub fn limit(limit: Duration, what: &str) -> Limit {
    let (sender, ended) = channel::<()>();
    let test = std::thread::current().name().unwrap_or("?").to_owned();
    let what = what.to_owned();
    std::thread::spawn(move || {
        if ended.recv_timeout(limit) == Err(RecvTimeoutError::Timeout) {
            eprintln!("test {test}: not within {limit:?}: {what}");
            std::process::exit(101);
        }
    });
    Limit {
        _until_dropped: sender,
    }
}

thread_local! {
    static OF_TEST: Option<Limit> = {
        let thread = std::thread::current();
        // One test after the other on the main thread is no one test.
        let is_test = thread.name().is_some_and(|name| name != "main");
        let is_long = super::soak() || super::env_number("SOAK_SECONDS").is_some();
        (is_test && !is_long).then(|| limit(TEST, "the end of the test"))
    };
}

/// From the first call on, the test of this thread has a deadline. Whatever starts a ledger
/// or waits for something calls it.
pub fn of_test() {
    OF_TEST.with(|_| ());
}
