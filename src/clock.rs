//! The time of day. A clock that is far off makes events refused or dated wrongly, but never
//! makes a thread panic.

use crate::domain::Timestamp;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A source of the time, which tests replace.
pub type Clock = Arc<dyn Fn() -> Timestamp + Send + Sync>;

/// The time now, clamped to the years 1970 to 9999.
pub fn now() -> Timestamp {
    let since = since_1970();
    Timestamp {
        secs: since.as_secs() as i64,
        nanos: since.subsec_nanos(),
    }
}

/// The time now, as a duration since 1970.
pub fn since_1970() -> Duration {
    let last = Duration::new(Timestamp::MAX.secs as u64, Timestamp::MAX.nanos);
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.unwrap_or_default().min(last)
}
