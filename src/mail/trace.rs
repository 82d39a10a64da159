//! Dates as mail writes them.

use std::io::Write;

use crate::base::time::UnixMs;

/// Appends an RFC 5322 date in UTC, `Tue, 24 Nov 2026 01:22:08 +0000`.
pub fn write_date(out: &mut Vec<u8>, when: UnixMs) {
    let seconds = when.0 / 1000;
    let (days, of_day) = (seconds / 86_400, seconds % 86_400);
    // Civil date from a day count, in years that start with March (Hinnant's algorithm).
    let z = days + 719_468;
    let era = z / 146_097;
    let of_era = z % 146_097;
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = (month_from_march + 2) % 12;
    let year = year_of_era + era * 400 + u64::from(month < 2);
    let weekday = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"][(days % 7) as usize];
    let month = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"][month as usize];
    let (hour, minute, second) = (of_day / 3600, of_day / 60 % 60, of_day % 60);
    write!(out, "{weekday}, {day} {month} {year} {hour:02}:{minute:02}:{second:02} +0000").expect("a vector takes all");
}
