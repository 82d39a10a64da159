//! How recipients are spread over domains: evenly, or as mail is: few large ones and a long tail (Zipf). Pure.

use crate::rng::Rng;

/// The most domains of a Zipf spread.
pub const ZIPF_MAX: u32 = 1 << 20;

/// A number of domains and their shares.
#[derive(Clone, Debug)]
pub struct Domains {
    count: u32,
    /// Running totals of the shares; empty if they are even.
    totals: Vec<f64>,
}

impl Domains {
    /// All alike, in turn. At least 1.
    pub fn even(count: u32) -> Domains {
        assert!(count > 0, "a recipient has a domain");
        Domains { count, totals: Vec::new() }
    }

    /// The share of the n-th domain falls as n to the power of minus `exponent`; 0 is even.
    pub fn zipf(count: u32, exponent: f64) -> Domains {
        let mut domains = Domains::even(count);
        if exponent > 0.0 {
            let mut total = 0.0;
            domains.totals = (1..=count)
                .map(|rank| {
                    total += f64::from(rank).powf(-exponent);
                    total
                })
                .collect();
        }
        domains
    }

    /// The domain of the n-th recipient of a run; the same each time.
    pub fn pick(&self, place: u64) -> u32 {
        let Some(all) = self.totals.last() else { return (place % u64::from(self.count)) as u32 };
        let draw = (Rng::new(place).next_u64() >> 11) as f64 / (1u64 << 53) as f64 * all;
        (self.totals.partition_point(|total| *total <= draw) as u32).min(self.count - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn even_domains_take_turns() {
        let domains = Domains::even(3);
        assert_eq!((0..7).map(|place| domains.pick(place)).collect::<Vec<_>>(), [0, 1, 2, 0, 1, 2, 0]);
    }

    #[test]
    fn the_first_domain_has_the_share_that_the_law_tells() {
        let domains = Domains::zipf(100, 1.0);
        let mut counts = [0u32; 100];
        (0..100_000).for_each(|place| counts[domains.pick(place) as usize] += 1);
        // The harmonic number of 100 is 5.187: the first has 19.3 %, the second half of that.
        assert!((18_000..20_500).contains(&counts[0]) && (9_000..10_300).contains(&counts[1]), "{:?}", &counts[..3]);
        assert!(counts[99] > 0, "the tail is there");
    }
}
