//! Text forms of instants: RFC 3339 in, the document's and the history's out.

use crate::domain::Timestamp;
use chrono::{DateTime, Datelike, SecondsFormat, Timelike, Utc};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TimeFault {
    /// Not RFC 3339 with an offset, or no such date or time of day.
    Unreadable,
    /// Before the year 0001 or after 9999 in UTC.
    OutOfRange,
}

/// Reads `2019-06-27T09:00:00.5+09:00`. Digits after the nanosecond are dropped; a second of 60 is
/// the next second.
pub fn parse_rfc3339(text: &str) -> Result<Timestamp, TimeFault> {
    const SECOND: u32 = 1_000_000_000;
    // chrono also reads a space in the place of the T, and a minus sign that is not ASCII.
    let is_strict = text.is_ascii() && text.as_bytes().get(10).is_some_and(|b| b | 0x20 == b't');
    let time = DateTime::parse_from_rfc3339(text)
        .ok()
        .filter(|_| is_strict);
    let time = time.ok_or(TimeFault::Unreadable)?;
    let nanos = time.timestamp_subsec_nanos();
    let timestamp = Timestamp {
        secs: time.timestamp() + i64::from(nanos / SECOND),
        nanos: nanos % SECOND,
    };
    match (Timestamp::MIN..=Timestamp::MAX).contains(&timestamp) {
        true => Ok(timestamp),
        false => Err(TimeFault::OutOfRange),
    }
}

/// How the document writes times (F11): settings of the reader side only.
#[derive(Debug, Clone, PartialEq)]
pub struct TimeStyle {
    /// Between date and time of day.
    pub separator: String,
    /// Seconds east of UTC.
    pub offset: i32,
}

impl Default for TimeStyle {
    fn default() -> Self {
        TimeStyle {
            separator: " ".into(),
            offset: 0,
        }
    }
}

impl TimeStyle {
    /// `YYYYMMDD hhmmss`, truncated to the second. An offset can lead out of the calendar: then it
    /// is the first or the last second that can be written.
    pub fn write(&self, time: Timestamp, out: &mut Vec<u8>) {
        let local = Timestamp {
            secs: time.secs + i64::from(self.offset),
            ..time
        };
        let local = calendar(local);
        digits(local.year() as u32, 4, out);
        digits(local.month(), 2, out);
        digits(local.day(), 2, out);
        out.extend_from_slice(self.separator.as_bytes());
        digits(local.hour(), 2, out);
        digits(local.minute(), 2, out);
        digits(local.second(), 2, out);
    }
}

fn digits(mut n: u32, width: usize, out: &mut Vec<u8>) {
    let end = out.len() + width;
    out.resize(end, b'0');
    for place in 1..=width {
        out[end - place] = b'0' + (n % 10) as u8;
        n /= 10;
    }
}

/// Beyond the years 0001 to 9999 it is the first or the last that can be written: a producer may
/// claim any arrival.
fn calendar(time: Timestamp) -> DateTime<Utc> {
    let time = time.clamp(Timestamp::MIN, Timestamp::MAX);
    DateTime::from_timestamp(time.secs, time.nanos).expect("chrono knows these years")
}

/// `2026-11-23T10:00:00.123Z`: arrival times, truncated to the millisecond.
pub fn write_rfc3339_millis(time: Timestamp, out: &mut Vec<u8>) {
    let text = calendar(time).to_rfc3339_opts(SecondsFormat::Millis, true);
    out.extend_from_slice(text.as_bytes());
}

/// `2026-11-23T10:00:00.123456789Z`.
pub fn write_rfc3339_nanos(time: Timestamp, out: &mut Vec<u8>) {
    let text = calendar(time).to_rfc3339_opts(SecondsFormat::Nanos, true);
    out.extend_from_slice(text.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_rfc_3339_allows() {
        let at = |secs, nanos| Ok(Timestamp { secs, nanos });
        assert_eq!(parse_rfc3339("1970-01-01T00:00:00Z"), at(0, 0));
        assert_eq!(
            parse_rfc3339("1970-01-01t09:00:00.5+09:00"),
            at(0, 500_000_000)
        );
        assert_eq!(parse_rfc3339("1969-12-31T23:59:60Z"), at(0, 0));
        assert_eq!(
            parse_rfc3339("1970-01-01T00:00:00.1234567899-00:00"),
            at(0, 123_456_789)
        );
        assert_eq!(
            parse_rfc3339("0000-12-31T23:00:00-05:00"),
            at(Timestamp::MIN.secs + 4 * 3600, 0)
        );
        for bad in [
            "",
            "1970-01-01",
            "1970-01-01T00:00:00",
            "1970-01-01 00:00:00Z",
            "1970-02-29T00:00:00Z",
            "1970-01-01T24:00:00Z",
            "1970-01-01T00:00:61Z",
            "1970-01-01T00:00:00.Z",
            "1970-01-01T00:00:00+9:00",
            "1970-01-01T00:00:00+24:00",
            "1970-01-01T00:00:00Zx",
            "1970-13-01T00:00:00Z",
            "１970-01-01T00:00:00Z",
        ] {
            assert_eq!(parse_rfc3339(bad), Err(TimeFault::Unreadable), "{bad}");
        }
        for far in ["0000-12-31T23:59:59Z", "9999-12-31T23:59:59-01:00"] {
            assert_eq!(parse_rfc3339(far), Err(TimeFault::OutOfRange), "{far}");
        }
    }

    #[test]
    fn no_time_offset_leaves_the_calendar() {
        let written = |time, offset: i32| {
            let style = TimeStyle {
                offset,
                ..TimeStyle::default()
            };
            let mut text = Vec::new();
            style.write(time, &mut text);
            String::from_utf8(text).unwrap()
        };
        let (first, last) = (Timestamp::MIN, Timestamp::MAX);
        for offset in [-86_340, -5 * 3600, -1, 0, 1, 9 * 3600, 86_340] {
            let (early, late) = (written(first, offset), written(last, offset));
            match offset {
                0.. => assert_eq!(late, "99991231 235959"),
                _ => assert!(late.starts_with("99991231 ") || late.starts_with("99991230 ")),
            }
            match offset {
                1.. => assert!(early.starts_with("00010101 ") || early.starts_with("00010102 ")),
                _ => assert_eq!(early, "00010101 000000"),
            }
        }
        let noon = |secs| Timestamp { secs, nanos: 0 };
        assert_eq!(written(noon(last.secs - 32_400), 32_400), "99991231 235959");
        assert_eq!(written(noon(last.secs - 32_401), 32_400), "99991231 235958");
        assert_eq!(
            written(noon(first.secs + 18_001), -18_000),
            "00010101 000001"
        );
    }

    #[test]
    fn a_producer_timestamp_beyond_the_calendar_is_written_as_its_end() {
        let written = |time| {
            let mut texts = (Vec::new(), Vec::new());
            write_rfc3339_millis(time, &mut texts.0);
            write_rfc3339_nanos(time, &mut texts.1);
            let text = |text| String::from_utf8(text).unwrap();
            (text(texts.0), text(texts.1))
        };
        for far in [i64::MAX, 253_402_300_800_000] {
            let (millis, nanos) = written(Timestamp::from_millis(far));
            assert_eq!(millis, "9999-12-31T23:59:59.999Z");
            assert_eq!(nanos, "9999-12-31T23:59:59.999999999Z");
        }
        for early in [i64::MIN, -62_135_596_800_001] {
            let (millis, nanos) = written(Timestamp::from_millis(early));
            assert_eq!(millis, "0001-01-01T00:00:00.000Z");
            assert_eq!(nanos, "0001-01-01T00:00:00.000000000Z");
        }
    }
}
