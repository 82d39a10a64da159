//! What went on from second to second: rates and CPU, for plots.
//!
//! Fed by the thread that runs the scenario with counters that only grow. Bounded to [`MOMENTS_MAX`]; a longer run keeps
//! its beginning. Nothing here fails.

use serde::{Deserialize, Serialize};

use crate::clock::{SECOND_NS, seconds};
use crate::relay::Cpu;

/// The most moments kept: a day of seconds.
pub const MOMENTS_MAX: usize = 86_400;
/// A rest shorter than this at the end is not worth a moment of its own: its rates would be noise.
const REST_MIN_NS: u64 = SECOND_NS / 4;

/// All counters at one time.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Reading {
    /// When, nanoseconds since the Unix epoch.
    pub at_ns: u64,
    /// Messages acknowledged so far.
    pub acknowledged: u64,
    /// Recipients arrived so far.
    pub arrived: u64,
    /// Messages on their way now.
    pub in_flight: u64,
    /// CPU of the relay so far.
    pub relay_cpu: Cpu,
    /// CPU of sender and sink so far, in nanoseconds.
    pub ends_cpu_ns: u64,
}

/// A second of a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Moment {
    /// Its end, since the load began, in seconds.
    pub at_s: f64,
    /// Messages acknowledged per second.
    pub accepted_per_s: f64,
    /// Recipients arrived per second.
    pub delivered_per_s: f64,
    /// Messages on their way at its end.
    pub in_flight: u64,
    /// The relay's CPU in user mode, in cores.
    pub relay_user_cores: f64,
    /// The relay's CPU in the kernel, in cores.
    pub relay_system_cores: f64,
    /// CPU of sender and sink, in cores.
    pub ends_cores: f64,
}

/// The moments of a run.
#[derive(Clone, Debug, Default)]
pub struct Series {
    begun_ns: u64,
    last: Reading,
    moments: Vec<Moment>,
}

impl Series {
    /// The load begins.
    pub fn begin(&mut self, reading: Reading) {
        self.begun_ns = reading.at_ns;
        self.last = reading;
    }

    /// True if a second is over.
    pub fn is_due(&self, now_ns: u64) -> bool {
        now_ns.saturating_sub(self.last.at_ns) >= SECOND_NS && self.moments.len() < MOMENTS_MAX
    }

    /// Adds what happened since the last reading.
    pub fn add(&mut self, reading: Reading) {
        let last = std::mem::replace(&mut self.last, reading);
        let past_s = seconds(reading.at_ns.saturating_sub(last.at_ns)).max(1e-9);
        let rate = |now: u64, before: u64| now.saturating_sub(before) as f64 / past_s;
        let cpu = reading.relay_cpu.since(&last.relay_cpu);
        self.moments.push(Moment {
            at_s: seconds(reading.at_ns.saturating_sub(self.begun_ns)),
            accepted_per_s: rate(reading.acknowledged, last.acknowledged),
            delivered_per_s: rate(reading.arrived, last.arrived),
            in_flight: reading.in_flight,
            relay_user_cores: seconds(cpu.user_ns) / past_s,
            relay_system_cores: seconds(cpu.system_ns) / past_s,
            ends_cores: seconds(reading.ends_cpu_ns.saturating_sub(last.ends_cpu_ns)) / past_s,
        });
    }

    /// The run is over: adds the rest of its last second, if that is long enough or all there is.
    pub fn end(&mut self, reading: Reading) {
        let rest_ns = reading.at_ns.saturating_sub(self.last.at_ns);
        if (rest_ns >= REST_MIN_NS && self.moments.len() < MOMENTS_MAX) || self.moments.is_empty() {
            self.add(reading);
        }
    }

    /// All moments, in order.
    pub fn moments(self) -> Vec<Moment> {
        self.moments
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reading(at_ms: u64, acknowledged: u64, user_ns: u64) -> Reading {
        let relay_cpu = Cpu { user_ns, system_ns: 0 };
        Reading { at_ns: 7 * SECOND_NS + at_ms * 1_000_000, acknowledged, relay_cpu, ..Reading::default() }
    }

    #[test]
    fn seconds_are_told_as_rates() {
        let mut series = Series::default();
        series.begin(reading(0, 10, 0));
        assert!(!series.is_due(reading(999, 0, 0).at_ns) && series.is_due(reading(1000, 0, 0).at_ns));
        series.add(reading(2000, 110, SECOND_NS));
        series.end(reading(2100, 200, SECOND_NS));
        let moments = series.moments();
        assert_eq!(moments.len(), 1, "a tenth of a second is no moment");
        assert_eq!((moments[0].at_s, moments[0].accepted_per_s, moments[0].relay_user_cores), (2.0, 50.0, 0.5));
    }

    #[test]
    fn a_short_run_has_one_moment() {
        let mut series = Series::default();
        series.begin(reading(0, 0, 0));
        series.end(reading(100, 5, 0));
        assert_eq!(series.moments().iter().map(|moment| moment.accepted_per_s).collect::<Vec<_>>(), [50.0]);
    }
}
