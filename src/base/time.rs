//! Time as the core sees it: two numbers handed in with every step, never read from a clock.
//!
//! Deadlines run on the monotonic one, so that a step of the wall clock neither expires the queue nor makes a
//! retry storm (QUE-11); the wall clock is only for what is written down: records, trace fields, reports.

use std::ops::{Add, Sub};

/// Microseconds on the shard's monotonic clock, counted from an arbitrary start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Mono(pub u64);

impl Mono {
    /// Later than any moment that will come.
    pub const NEVER: Mono = Mono(u64::MAX);

    /// This moment plus `ms` milliseconds, saturating.
    pub const fn plus_ms(self, ms: u64) -> Mono {
        Mono(self.0.saturating_add(ms.saturating_mul(1000)))
    }

    /// Milliseconds from `earlier` to this moment; 0 if `earlier` is later.
    pub const fn ms_since(self, earlier: Mono) -> u64 {
        self.us_since(earlier) / 1000
    }

    /// Microseconds from `earlier` to this moment; 0 if it is later.
    pub const fn us_since(self, earlier: Mono) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

/// Milliseconds since 1970-01-01 UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct UnixMs(pub u64);

impl Add<u64> for UnixMs {
    type Output = UnixMs;
    fn add(self, ms: u64) -> UnixMs {
        UnixMs(self.0.saturating_add(ms))
    }
}

impl Sub for UnixMs {
    type Output = u64;
    fn sub(self, earlier: UnixMs) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

/// The moment of a step, on both clocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Now {
    /// For deadlines.
    pub mono: Mono,
    /// For what is written down.
    pub wall: UnixMs,
}
