//! The time of day, as everything here reads it: a machine whose clock is far off is one
//! whose events are refused or dated wrongly, and not one where threads panic.

use crate::domain::Timestamp;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// From 1970 to the end of the year 9999: what lies outside is the nearest of these.
pub fn now() -> Timestamp {
    let since = since_1970();
    Timestamp {
        secs: since.as_secs() as i64,
        nanos: since.subsec_nanos(),
    }
}

/// The same, counted from 1970.
pub fn since_1970() -> Duration {
    let last = Duration::new(Timestamp::MAX.secs as u64, Timestamp::MAX.nanos);
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.unwrap_or_default().min(last)
}
