//! How often something took how long, in buckets of powers of two: an array, one addition to count, no allocation.
//!
//! Coarse on purpose: it tells 1 ms from 2 ms for as little as a counter costs. Pure.

/// Buckets of a histogram; the last takes all that is too long for the others.
pub const BUCKETS: usize = 32;

/// Counted times, in whatever unit its owner says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Histogram {
    counts: [u64; BUCKETS],
    sum: u64,
}

impl Histogram {
    /// Counts one time.
    pub fn note(&mut self, time: u64) {
        let bucket = (u64::BITS - time.leading_zeros()) as usize;
        self.counts[bucket.min(BUCKETS - 1)] += 1;
        self.sum = self.sum.saturating_add(time);
    }

    /// Adds what another counted.
    pub fn add(&mut self, other: &Histogram) {
        self.counts.iter_mut().zip(&other.counts).for_each(|(count, more)| *count += more);
        self.sum = self.sum.saturating_add(other.sum);
    }

    /// All counted times together.
    pub fn sum(&self) -> u64 {
        self.sum
    }

    /// How many were counted.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// The buckets, each with the longest time that falls in it; the last has no longest time.
    pub fn buckets(&self) -> impl Iterator<Item = (Option<u64>, u64)> + '_ {
        self.counts.iter().enumerate().map(|(at, &count)| ((at < BUCKETS - 1).then(|| (1 << at) - 1), count))
    }

    /// The longest time of the bucket in which this part of all times, counted from the shortest, ends; 0 if there are none.
    pub fn quantile(&self, part: f64) -> u64 {
        let wanted = (self.count() as f64 * part).ceil().max(1.0) as u64;
        let mut seen = 0;
        for (longest, count) in self.buckets() {
            seen += count;
            if seen >= wanted {
                return longest.unwrap_or(u64::MAX);
            }
        }
        0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn quantiles_bound_the_times(times in proptest::collection::vec(0u64..1 << 30, 1..200), part in 0.01f64..1.0) {
            let mut histogram = Histogram::default();
            times.iter().for_each(|time| histogram.note(*time));
            let mut sorted = times.clone();
            sorted.sort_unstable();
            let exact = sorted[((sorted.len() as f64 * part).ceil() as usize).max(1) - 1];
            let found = histogram.quantile(part);
            prop_assert!(exact <= found && found < exact.max(1) * 2, "{exact} {found}");
            prop_assert_eq!(histogram.sum(), times.iter().sum::<u64>());
            prop_assert_eq!(histogram.count(), times.len() as u64);
        }
    }

    #[test]
    fn the_longest_times_have_a_bucket() {
        let mut histogram = Histogram::default();
        assert_eq!(histogram.quantile(0.5), 0);
        histogram.note(u64::MAX);
        histogram.note(1 << 40);
        assert_eq!((histogram.quantile(0.5), histogram.sum()), (u64::MAX, u64::MAX));
        let mut both = Histogram::default();
        both.note(0);
        both.add(&histogram);
        assert_eq!((both.count(), both.quantile(0.1)), (3, 0));
    }
}
