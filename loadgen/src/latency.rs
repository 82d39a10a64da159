//! Latencies: one histogram per worker, merged at the end; no value is kept, so memory does not grow with messages.
//!
//! Three significant digits from 1 us to one hour; longer ones count as one hour. Nothing here fails.

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

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

    /// The whole distribution, coarser towards the middle: a point for each step of a fifth of the way to 1.
    pub fn distribution(&self) -> Vec<Point> {
        let points = self.0.iter_quantiles(5);
        let mut seen = 0;
        points
            .map(|value| {
                seen += value.count_since_last_iteration();
                Point { quantile: value.quantile_iterated_to(), us: value.value_iterated_to(), count: seen }
            })
            .collect()
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

/// A point of a [`Latency`]'s distribution.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Point {
    /// This part of all latencies, 0 to 1,
    pub quantile: f64,
    /// is no longer than this, in microseconds,
    pub us: u64,
    /// which is so many of them.
    pub count: u64,
}

/// Figures of a [`Latency`], in microseconds.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
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
        let points = a.distribution();
        assert!(points.windows(2).all(|two| two[0].us <= two[1].us && two[0].quantile <= two[1].quantile));
        assert_eq!(points.last().map(|point| (point.count, point.quantile)), Some((3, 1.0)));
        assert!(Latency::default().distribution().iter().all(|point| point.count == 0));
    }
}
