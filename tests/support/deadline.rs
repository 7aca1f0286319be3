//! Every wait of a test has a limit and says what it waits for.

use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

/// For immediate reactions of a ledger, on a machine that runs other tests at the same time.
pub const SOON: Duration = Duration::from_secs(20);
/// For longer work: a start on a large log, the start of a broker.
pub const LATER: Duration = Duration::from_secs(60);
/// For a whole test. Long runs have no limit.
const TEST: Duration = Duration::from_secs(300);

/// Polls until there is a result.
#[track_caller]
pub fn within<T>(limit: Duration, what: &str, look: impl FnMut() -> Option<T>) -> T {
    let found = found_within(limit, look);
    found.unwrap_or_else(|| panic!("not within {limit:?}: {what}"))
}

/// The same for callers that report a timeout with more detail.
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

/// Ends the test program unless it is dropped in time, and prints the test's name and what it
/// waited for. It is for calls without a limit of their own, such as a wait for a process to exit:
/// a thread cannot be stopped from outside.
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
        // On the main thread, tests run one after the other, so it has no limit for a single test.
        let is_test = thread.name().is_some_and(|name| name != "main");
        let is_long = super::soak() || super::env_number("SOAK_SECONDS").is_some();
        (is_test && !is_long).then(|| limit(TEST, "the end of the test"))
    };
}

/// Starts the deadline for the test of this thread, on the first call. Every function that starts a
/// ledger or waits calls it.
pub fn of_test() {
    OF_TEST.with(|_| ());
}
