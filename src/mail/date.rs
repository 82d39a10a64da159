//! Date and time as the Internet writes them in commands: `2026-11-28T12:00:00Z`; and days alone, `2026-11-28` (RFC 3339). Pure.

use std::fmt;
use std::io::Write;

use super::trace::civil_date;
use crate::base::limits::DAY_MS;
use crate::base::time::UnixMs;

/// A day of the calendar, in UTC, counted from 1970-01-01.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Day(pub u32);

impl Day {
    /// The day of a moment.
    pub fn of(when: UnixMs) -> Day {
        Day(u32::try_from(when.0 / DAY_MS).unwrap_or(u32::MAX))
    }

    /// When it begins.
    pub fn begin(self) -> UnixMs {
        UnixMs(u64::from(self.0) * DAY_MS)
    }

    /// When the next one begins.
    pub fn end(self) -> UnixMs {
        UnixMs((u64::from(self.0) + 1) * DAY_MS)
    }

    /// Milliseconds until the next day begins, at least 1.
    pub fn left_ms(when: UnixMs) -> u64 {
        DAY_MS - when.0 % DAY_MS
    }

    /// Reads `2026-11-28`; `None` if it is no day since 1970.
    pub fn parse(text: &str) -> Option<Day> {
        let [year, month, day] = text.split('-').collect::<Vec<_>>().try_into().ok()?;
        if [year, month, day].map(str::len) != [4, 2, 2] {
            return None;
        }
        let days = days_of(number(year.as_bytes())?, number(month.as_bytes())?, number(day.as_bytes())?)?;
        u32::try_from(days).ok().map(Day)
    }
}

impl fmt::Display for Day {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (year, month, day) = civil_date(self.0.into());
        write!(f, "{year:04}-{month:02}-{day:02}")
    }
}

/// Reads a date and time; `None` if it is none, or before 1970. Fractions of a second are dropped, a leap second counts as
/// the one before.
pub fn parse_internet(text: &[u8]) -> Option<UnixMs> {
    let (date_and_time, zone) = text.split_at_checked(19)?;
    let separators = [(4, b'-'), (7, b'-'), (10, b'T'), (13, b':'), (16, b':')];
    if !separators.iter().all(|&(at, byte)| date_and_time[at].eq_ignore_ascii_case(&byte)) {
        return None;
    }
    let field = |from: usize, to: usize| number(&date_and_time[from..to]);
    let (year, month, day) = (field(0, 4)?, field(5, 7)?, field(8, 10)?);
    let (hour, minute, second) = (field(11, 13)?, field(14, 16)?, field(17, 19)?);
    let days = days_of(year, month, day)?;
    if hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let seconds = (days * 86_400 + hour * 3600 + minute * 60 + second.min(59)) as i64;
    let at = seconds.checked_sub(offset_seconds(skip_fraction(zone)?)?)?;
    Some(UnixMs(u64::try_from(at).ok()?.checked_mul(1000)?))
}

fn skip_fraction(zone: &[u8]) -> Option<&[u8]> {
    let Some(digits) = zone.strip_prefix(b".") else { return Some(zone) };
    let count = digits.iter().take_while(|b| b.is_ascii_digit()).count();
    (count > 0).then(|| &digits[count..])
}

/// `Z`, or hours and minutes ahead of it.
fn offset_seconds(zone: &[u8]) -> Option<i64> {
    match zone {
        b"Z" | b"z" => Some(0),
        [sign @ (b'+' | b'-'), h1, h2, b':', m1, m2] => {
            let (hours, minutes) = (number(&[*h1, *h2])?, number(&[*m1, *m2])?);
            let seconds = (hours * 3600 + minutes * 60) as i64;
            (hours < 24 && minutes < 60).then_some(if *sign == b'+' { seconds } else { -seconds })
        }
        _ => None,
    }
}

fn number(digits: &[u8]) -> Option<u64> {
    digits.iter().try_fold(0, |sum, b| b.is_ascii_digit().then(|| sum * 10 + u64::from(b - b'0')))
}

/// Days from 1970-01-01 to a day of the calendar.
fn days_of(year: u64, month: u64, day: u64) -> Option<u64> {
    if !(1970..=9999).contains(&year) || !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    // Years from 1 March, so that the leap day is their last.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let before = year * 365 + year / 4 - year / 100 + year / 400;
    let days = (before + (153 * month + 2) / 5 + day - 1).checked_sub(719_468)?;
    // A day that the month does not have is one of the next month.
    (civil_date(days).2 == day).then_some(days)
}

/// Appends a moment to the second, in UTC.
pub fn write_internet(out: &mut Vec<u8>, when: UnixMs) {
    let seconds = when.0 / 1000;
    let (year, month, day) = civil_date(seconds / 86_400);
    let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    write!(out, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z").expect("a vector takes all");
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn moments_with_and_without_zone() {
        let ms = |text: &str| parse_internet(text.as_bytes()).map(|when| when.0);
        for (text, when) in [
            ("1970-01-01T00:00:00Z", 0),
            ("2000-02-29T23:59:59Z", 951_868_799_000),
            ("2026-11-28T12:00:00.25Z", 1_795_867_200_000),
            ("2026-11-28t13:30:00+01:30", 1_795_867_200_000),
            ("2026-11-28T11:59:00-00:01", 1_795_867_200_000),
            ("1990-12-31T23:59:60Z", 662_687_999_000),
        ] {
            assert_eq!(ms(text), Some(when), "{text}");
        }
        for bad in [
            "",
            "2026-11-28",
            "2026-11-28T12:00:00",
            "2026-11-28 12:00:00Z",
            "2026-02-29T00:00:00Z",
            "2026-13-01T00:00:00Z",
            "2026-11-31T00:00:00Z",
            "2026-11-28T24:00:00Z",
            "2026-11-28T12:60:00Z",
            "2026-11-28T12:00:00.Z",
            "1969-12-31T23:59:59Z",
            "2026-11-28T12:00:00+1:00",
            "2026-11-28T12:00:00+24:00",
            "1970-01-01T00:00:00+01:00",
            "2026-11-28T12:00:00Zx",
        ] {
            assert_eq!(ms(bad), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(seconds in 0u64..253_402_300_799) {
            let when = UnixMs(seconds * 1000);
            let mut text = Vec::new();
            write_internet(&mut text, when);
            prop_assert_eq!(parse_internet(&text), Some(when));
        }

        #[test]
        fn any_bytes_are_read(text in proptest::collection::vec(any::<u8>(), 0..40)) {
            parse_internet(&text);
        }
    }

    #[test]
    fn days_are_read_and_written() {
        assert_eq!(Day::parse("1970-01-01"), Some(Day(0)));
        for text in ["2024-02-29", "2026-11-28", "9999-12-31"] {
            assert_eq!(Day::parse(text).unwrap().to_string(), text);
        }
        for text in ["", "2026-11", "2026-2-28", "2026-02-30", "1969-12-31", "2026-11-28-", "+026-11-28", "2026/11/28"]
        {
            assert_eq!(Day::parse(text), None, "{text}");
        }
        let midnight = UnixMs(20_000 * DAY_MS);
        assert_eq!((Day::of(midnight), Day::left_ms(midnight)), (Day(20_000), DAY_MS));
        assert_eq!((Day(20_000).begin(), Day(19_999).end()), (midnight, midnight));
        let before = UnixMs(midnight.0 - 1);
        assert_eq!((Day::of(before), Day::left_ms(before)), (Day(19_999), 1));
    }
}
