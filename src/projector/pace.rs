//! How long the intake rests between two batches, so that more records are in the next one, unless
//! the projector lags. Several events of an operation in one batch cost little more than one of
//! them.

use std::time::Duration;

/// The intake rests this many times as long as the work on a batch took, so that the work takes a
/// fifth of a core.
const REST: u32 = 4;

/// The projector lags once a record is this old when it is read.
pub const OLD: Duration = Duration::from_secs(1);

/// How long to rest before the next batch, at most `longest`. `lags`: the last batch was full, or
/// its oldest record was old. `work`: how long the intake and the projector worked since the last
/// rest.
pub fn rest(lags: bool, work: Duration, longest: Duration) -> Duration {
    if lags {
        return Duration::ZERO;
    }
    work.saturating_mul(REST).min(longest)
}

#[cfg(test)]
mod tests {
    use super::*;

    const US: Duration = Duration::from_micros(1);
    const LONGEST: Duration = Duration::from_millis(50);
    const FULL: u32 = 20_000;

    /// A batch costs 100 µs, and each record in it 5.
    fn work(records: u32) -> Duration {
        100 * US + records * 5 * US
    }

    /// For a load, how many records the batches have at last, and the time from one to the next.
    fn batches(records_per_second: u32, longest: Duration) -> (u32, Duration) {
        let (mut records, mut spent) = (1, Duration::ZERO);
        for _ in 0..1_000 {
            let rest = rest(records == FULL, work(records), longest);
            assert!(rest <= longest, "{rest:?}");
            spent = work(records) + rest;
            let came = (f64::from(records_per_second) * spent.as_secs_f64()) as u32;
            records = came.clamp(1, FULL);
        }
        (records, spent)
    }

    #[test]
    fn batches_grow_with_the_load_until_the_projector_lags() {
        // An event that comes alone is hardly delayed.
        assert_eq!(batches(1, LONGEST), (1, 525 * US));
        let loads = [1_000, 10_000, 30_000, 60_000, 90_000];
        let sizes = loads.map(|load| batches(load, LONGEST).0);
        assert!(sizes.is_sorted_by(|a, b| a <= b), "{sizes:?}");
        // It rests the longest time.
        let (records, every) = batches(60_000, LONGEST);
        assert!(every >= LONGEST && records > 3_000, "{records} {every:?}");
        // More than it can do at all: full batches, one after the other.
        assert_eq!(batches(300_000, LONGEST), (FULL, work(FULL)));
    }

    #[test]
    fn without_a_delay_there_is_no_rest() {
        assert_eq!(batches(1, Duration::ZERO), (1, work(1)));
    }
}
