//! Text forms of instants: RFC 3339 in, the document's and the history's out.

use crate::domain::Timestamp;
use crate::domain::time::Civil;
use std::io::Write;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TimeFault {
    /// Not RFC 3339 with an offset, or no such date or time of day.
    Unreadable,
    /// Before the year 0001 or after 9999 in UTC.
    OutOfRange,
}

/// Reads `2019-06-27T09:00:00.5+09:00`. Digits beyond the nanosecond are cut; a
/// second of 60 is the next second.
pub fn parse_rfc3339(text: &str) -> Result<Timestamp, TimeFault> {
    let b = text.as_bytes();
    let (civil, mut at) = date_and_time(b).ok_or(TimeFault::Unreadable)?;
    let mut nanos = 0;
    if b.get(at) == Some(&b'.') {
        let digits = b[at + 1..]
            .iter()
            .take_while(|d| d.is_ascii_digit())
            .count();
        if digits == 0 {
            return Err(TimeFault::Unreadable);
        }
        for place in 0..9 {
            let digit = if place < digits {
                b[at + 1 + place] - b'0'
            } else {
                0
            };
            nanos = nanos * 10 + u32::from(digit);
        }
        at += 1 + digits;
    }
    let offset = offset(&b[at..]).ok_or(TimeFault::Unreadable)?;
    let secs = civil.to_secs().ok_or(TimeFault::Unreadable)? - offset;
    let timestamp = Timestamp { secs, nanos };
    if (Timestamp::MIN..=Timestamp::MAX).contains(&timestamp) {
        Ok(timestamp)
    } else {
        Err(TimeFault::OutOfRange)
    }
}

fn number(b: &[u8], range: std::ops::Range<usize>) -> Option<u32> {
    b.get(range)?.iter().try_fold(0, |n, d| {
        d.is_ascii_digit().then(|| n * 10 + u32::from(d - b'0'))
    })
}

/// `YYYY-MM-DDThh:mm:ss`, and where it ends.
fn date_and_time(b: &[u8]) -> Option<(Civil, usize)> {
    let separators = [(4, b'-'), (7, b'-'), (13, b':'), (16, b':')];
    if separators.iter().any(|(at, c)| b.get(*at) != Some(c)) || !matches!(b.get(10)?, b'T' | b't')
    {
        return None;
    }
    let civil = Civil {
        year: i64::from(number(b, 0..4)?),
        month: number(b, 5..7)?,
        day: number(b, 8..10)?,
        hour: number(b, 11..13)?,
        minute: number(b, 14..16)?,
        second: number(b, 17..19)?,
    };
    Some((civil, 19))
}

/// Seconds east of UTC, from what remains of the text.
fn offset(b: &[u8]) -> Option<i64> {
    let sign = match b.first()? {
        b'Z' | b'z' => return (b.len() == 1).then_some(0),
        b'+' => 1,
        b'-' => -1,
        _ => return None,
    };
    if b.len() != 6 || b[3] != b':' {
        return None;
    }
    let (hours, minutes) = (number(b, 1..3)?, number(b, 4..6)?);
    (hours < 24 && minutes < 60).then(|| sign * i64::from(hours * 3600 + minutes * 60))
}

/// How the document writes times (D1): settings of the reader side only.
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
    /// `YYYYMMDD hhmmss`, cut to the second.
    pub fn write(&self, time: Timestamp, out: &mut Vec<u8>) {
        let c = time.civil(self.offset);
        digits(c.year as u32, 4, out);
        digits(c.month, 2, out);
        digits(c.day, 2, out);
        out.extend_from_slice(self.separator.as_bytes());
        digits(c.hour, 2, out);
        digits(c.minute, 2, out);
        digits(c.second, 2, out);
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

/// `2026-11-23T10:00:00.123Z`: arrival times, cut to the millisecond.
pub fn write_rfc3339_millis(time: Timestamp, out: &mut Vec<u8>) {
    let c = time.civil(0);
    write!(
        out,
        "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:03}Z",
        c.year,
        c.month,
        c.day,
        c.hour,
        c.minute,
        c.second,
        time.nanos / 1_000_000
    )
    .expect("writing to memory cannot fail");
}

/// `2026-11-23T10:00:00.123456789Z`.
pub fn write_rfc3339_nanos(time: Timestamp, out: &mut Vec<u8>) {
    write_rfc3339_millis(time, out);
    // In the place of the milliseconds.
    out.truncate(out.len() - 4);
    write!(out, "{:09}Z", time.nanos).expect("writing to memory cannot fail");
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
    fn the_calendar_agrees_with_chrono() {
        for day in (-719_162i64..2_932_896).step_by(97) {
            let secs = day * 86_400 + day.rem_euclid(86_400);
            let c = Timestamp { secs, nanos: 0 }.civil(0);
            let theirs = chrono::DateTime::from_timestamp(secs, 0).unwrap();
            let mut ours = Vec::new();
            TimeStyle::default().write(Timestamp { secs, nanos: 0 }, &mut ours);
            assert_eq!(
                String::from_utf8(ours).unwrap(),
                theirs.format("%Y%m%d %H%M%S").to_string()
            );
            assert_eq!(c.to_secs(), Some(secs));
        }
    }
}
