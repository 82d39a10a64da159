//! Latencies: one histogram per worker, merged at the end; no value is kept, so memory does not grow with messages.
//!
//! Three significant digits from 1 us to one hour; longer ones count as one hour. Nothing here fails.

use hdrhistogram::Histogram;
use serde::Serialize;

const LONGEST_US: u64 = 3_600_000_000;

/// A histogram of latencies, in microseconds inside.
#[derive(Clone, Debug)]
pub struct Latency(Histogram<u64>);

impl Default for Latency {
    fn default() -> Latency {
        Latency(Histogram::new_with_bounds(1, LONGEST_US, 3).expect("constant bounds are valid"))
    }
}

impl Latency {
    /// Counts one latency.
    pub fn record_ns(&mut self, ns: u64) {
        self.0.saturating_record((ns / 1000).clamp(1, LONGEST_US));
    }

    /// Adds another worker's counts.
    pub fn merge(&mut self, other: &Latency) {
        self.0.add(&other.0).expect("both have the same bounds");
    }

    /// The figures that reports show.
    pub fn summary(&self) -> LatencySummary {
        LatencySummary {
            count: self.0.len(),
            mean_us: self.0.mean(),
            p50_us: self.0.value_at_quantile(0.50),
            p90_us: self.0.value_at_quantile(0.90),
            p99_us: self.0.value_at_quantile(0.99),
            p999_us: self.0.value_at_quantile(0.999),
            max_us: self.0.max(),
        }
    }
}

/// Figures of a [`Latency`], in microseconds.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct LatencySummary {
    /// Number of latencies counted.
    pub count: u64,
    /// Mean.
    pub mean_us: f64,
    /// Median.
    pub p50_us: u64,
    /// 90th percentile.
    pub p90_us: u64,
    /// 99th percentile.
    pub p99_us: u64,
    /// 99.9th percentile.
    pub p999_us: u64,
    /// Largest.
    pub max_us: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn merges_and_saturates() {
        let (mut a, mut b) = (Latency::default(), Latency::default());
        a.record_ns(1_000_000);
        b.record_ns(u64::MAX);
        b.record_ns(0);
        a.merge(&b);
        let summary = a.summary();
        assert_eq!(summary.count, 3);
        assert!(summary.max_us >= LONGEST_US && summary.p50_us >= 999);
    }
}
