//! Instants as integers. `wire` reads and writes their text forms.

/// An instant: seconds since 1970-01-01T00:00:00Z and nanoseconds within the
/// second. Ordered by time. Events carry years 0001 to 9999 only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp {
    pub secs: i64,
    /// 0 to 999,999,999.
    pub nanos: u32,
}

/// A date and a time of day on the proleptic Gregorian calendar.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Civil {
    pub year: i64,
    pub month: u32,
    pub day: u32,
    pub hour: u32,
    pub minute: u32,
    pub second: u32,
}

const DAY: i64 = 86_400;

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

    /// The calendar's view of this instant, `offset` seconds east of UTC.
    pub fn civil(self, offset: i32) -> Civil {
        let local = self.secs + i64::from(offset);
        let (days, second) = (local.div_euclid(DAY), local.rem_euclid(DAY));
        // Converts days to a date by eras of 400 years that begin on 1 March, so that the leap
        // day is the last day of its year.
        let days = days + 719_468;
        let era = days.div_euclid(146_097);
        let day_of_era = days.rem_euclid(146_097);
        let year_of_era =
            (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let march_month = (5 * day_of_year + 2) / 153;
        let month = if march_month < 10 {
            march_month + 3
        } else {
            march_month - 9
        };
        Civil {
            year: year_of_era + era * 400 + i64::from(month <= 2),
            month: month as u32,
            day: (day_of_year - (153 * march_month + 2) / 5 + 1) as u32,
            hour: (second / 3600) as u32,
            minute: (second / 60 % 60) as u32,
            second: (second % 60) as u32,
        }
    }
}

impl Civil {
    /// Seconds since 1970 if this wall clock shows UTC. A second of 60 is the next second.
    /// `None` for a date or time of day that does not exist.
    pub fn to_secs(self) -> Option<i64> {
        let leap = self.year % 4 == 0 && (self.year % 100 != 0 || self.year % 400 == 0);
        let last_day = match self.month {
            1 | 3 | 5 | 7 | 8 | 10 | 12 => 31,
            4 | 6 | 9 | 11 => 30,
            2 if leap => 29,
            2 => 28,
            _ => return None,
        };
        if !(1..=last_day).contains(&self.day)
            || self.hour > 23
            || self.minute > 59
            || self.second > 60
        {
            return None;
        }
        let year = self.year - i64::from(self.month <= 2);
        let era = year.div_euclid(400);
        let year_of_era = year.rem_euclid(400);
        let march_month = (i64::from(self.month) + 9) % 12;
        let day_of_year = (153 * march_month + 2) / 5 + i64::from(self.day) - 1;
        let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
        let days = era * 146_097 + day_of_era - 719_468;
        Some(
            days * DAY
                + i64::from(self.hour) * 3600
                + i64::from(self.minute) * 60
                + i64::from(self.second),
        )
    }
}

impl Timestamp {
    pub fn plus(self, span: std::time::Duration) -> Timestamp {
        let nanos = self.nanos + span.subsec_nanos();
        Timestamp {
            secs: self.secs + span.as_secs() as i64 + i64::from(nanos / 1_000_000_000),
            nanos: nanos % 1_000_000_000,
        }
    }
}
