//! Reports to the operator: one line each on standard error, with time and level.
//!
//! Shards hand lines over and never wait: a thread of its own writes them, and when standard error takes no more,
//! lines are dropped and their number is reported once it does.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use super::clock::wall;
use crate::shard::Level;

/// Lines that may wait for standard error.
const LINES_MAX: usize = 4096;

enum Line {
    Report(Level, String),
    /// Answer when everything before this was written.
    Flush(SyncSender<()>),
}

/// Where reports go; clones share the thread.
#[derive(Clone)]
pub struct Reporter {
    lines: SyncSender<Line>,
    dropped: Arc<AtomicU64>,
    /// The number of the least important level that is reported.
    least: Arc<AtomicU8>,
}

impl Reporter {
    /// Starts the writing thread; reports that matter less than `least` are not made.
    pub fn start(least: Level) -> std::io::Result<Reporter> {
        let (lines, taken) = sync_channel(LINES_MAX);
        let dropped = Arc::new(AtomicU64::new(0));
        let count = dropped.clone();
        std::thread::Builder::new().name("reports".into()).spawn(move || write_lines(&taken, &count))?;
        Ok(Reporter { lines, dropped, least: Arc::new(AtomicU8::new(least as u8)) })
    }

    /// From now on, in all clones, reports that matter less than `least` are not made.
    pub fn set_level(&self, least: Level) {
        self.least.store(least as u8, Ordering::Relaxed);
    }

    /// Reports one thing. Never waits.
    pub fn report(&self, level: Level, text: String) {
        // `Level` is ordered by importance: errors first.
        if level as u8 <= self.least.load(Ordering::Relaxed) && self.lines.try_send(Line::Report(level, text)).is_err()
        {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Waits until everything reported so far was written, but not for long.
    pub fn flush(&self) {
        let (done, wait) = sync_channel(1);
        if self.lines.try_send(Line::Flush(done)).is_ok() {
            let _ = wait.recv_timeout(std::time::Duration::from_millis(500));
        }
    }
}

fn write_lines(lines: &Receiver<Line>, dropped: &AtomicU64) {
    let mut text = String::new();
    while let Ok(line) = lines.recv() {
        match line {
            Line::Flush(done) => drop(done.try_send(())),
            Line::Report(level, report) => {
                text.clear();
                write_line(&mut text, level, &report);
                let missing = dropped.swap(0, Ordering::Relaxed);
                if missing > 0 {
                    write_line(&mut text, Level::Warning, &format!("{missing} reports were dropped"));
                }
                // There is no one left to tell that standard error is gone.
                let _ = std::io::stderr().lock().write_all(text.as_bytes());
            }
        }
    }
}

fn write_line(out: &mut String, level: Level, report: &str) {
    use std::fmt::Write as _;
    let level = match level {
        Level::Error => "error",
        Level::Warning => "warning",
        Level::Info => "info",
        Level::Debug => "debug",
    };
    let _ = write!(out, "{} {level} ", utc(wall().0));
    // One line each, whatever the text brings.
    out.extend(report.chars().map(|c| if c.is_control() { ' ' } else { c }));
    out.push('\n');
}

/// The moment, as `2026-01-31T23:59:59Z`.
pub fn utc_now() -> String {
    let mut text = utc(wall().0);
    text.replace_range(text.len() - ".123Z".len().., "Z");
    text
}

/// `2026-01-31T23:59:59.123Z`.
fn utc(ms: u64) -> String {
    let (days, in_day) = (ms / 86_400_000, ms % 86_400_000);
    // Days to civil date, years counted from March (Howard Hinnant's algorithm), for dates since 1970.
    let z = days + 719_468;
    let (era, day_of_era) = (z / 146_097, z % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let (day, month) =
        (day_of_year - (153 * shifted + 2) / 5 + 1, if shifted < 10 { shifted + 3 } else { shifted - 9 });
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let (hour, minute, second) = (in_day / 3_600_000, in_day / 60_000 % 60, in_day / 1000 % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{:03}Z", in_day % 1000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_have_time_and_level_and_are_single() {
        assert_eq!(utc(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(utc(951_782_400_123), "2000-02-29T00:00:00.123Z");
        assert_eq!(utc(1_767_225_599_999), "2025-12-31T23:59:59.999Z");
        let mut line = String::new();
        write_line(&mut line, Level::Warning, "a\r\nb");
        assert!(line.ends_with("Z warning a  b\n"), "{line}");
    }
}
