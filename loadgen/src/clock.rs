//! Time, read in one way everywhere: nanoseconds since the Unix epoch that never go back within a process.
//!
//! Any thread. Two processes on one machine agree but for the slewing of the system clock since each started; across
//! machines end-to-end times are worth no more than their clocks' agreement. Nothing here fails.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Nanoseconds in a second.
pub const SECOND_NS: u64 = 1_000_000_000;

/// A clock tied to the wall once, and to the monotonic clock from then on. Copy it to every thread of a run.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    base: Instant,
    base_unix_ns: u64,
}

impl Clock {
    /// Ties a clock to the wall now.
    pub fn start() -> Clock {
        let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        Clock { base: Instant::now(), base_unix_ns: nanos(unix) }
    }

    /// Nanoseconds since the Unix epoch.
    pub fn now_ns(&self) -> u64 {
        self.base_unix_ns + nanos(self.base.elapsed())
    }
}

/// A duration in nanoseconds, saturating after 584 years.
pub fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// Nanoseconds as seconds.
pub fn seconds(ns: u64) -> f64 {
    ns as f64 / SECOND_NS as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn never_goes_back() {
        let clock = Clock::start();
        let first = clock.now_ns();
        assert!(clock.now_ns() >= first);
        assert!(first > 1_600_000_000 * SECOND_NS);
    }
}
