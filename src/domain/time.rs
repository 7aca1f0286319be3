//! Instants as integers. `wire` reads and writes their text forms.

/// An instant: seconds since 1970-01-01T00:00:00Z and nanoseconds within the
/// second. Ordered by time. Events carry years 0001 to 9999 only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp {
    pub secs: i64,
    /// 0 to 999,999,999.
    pub nanos: u32,
}

impl Timestamp {
    /// 0001-01-01T00:00:00Z
    pub const MIN: Timestamp = Timestamp {
        secs: -62_135_596_800,
        nanos: 0,
    };
    /// The last nanosecond of the year 9999.
    pub const MAX: Timestamp = Timestamp {
        secs: 253_402_300_799,
        nanos: 999_999_999,
    };

    pub const fn from_millis(millis: i64) -> Timestamp {
        Timestamp {
            secs: millis.div_euclid(1000),
            nanos: (millis.rem_euclid(1000) * 1_000_000) as u32,
        }
    }

    /// Truncated to the millisecond.
    pub fn as_millis(self) -> i64 {
        self.secs * 1000 + i64::from(self.nanos / 1_000_000)
    }

    pub fn plus(self, span: std::time::Duration) -> Timestamp {
        let nanos = self.nanos + span.subsec_nanos();
        Timestamp {
            secs: self.secs + span.as_secs() as i64 + i64::from(nanos / 1_000_000_000),
            nanos: nanos % 1_000_000_000,
        }
    }
}
