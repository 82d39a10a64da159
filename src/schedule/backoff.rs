//! Pauses between attempts: doubling, bounded, and spread so that those who failed together do not return together.
//!
//! For recipients (QUE-04) and for sites that do not answer (QUE-05), each with bounds of its own. Pure; nothing here
//! fails, the arithmetic saturates.

use crate::base::rng::Rng;

/// The bounds of a row of pauses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    /// About the first pause.
    pub first_ms: u64,
    /// About the longest.
    pub longest_ms: u64,
}

impl Backoff {
    /// The pause after the attempt number `attempt`, the first being 1: `first * 2^(attempt - 1)`, at most `longest`,
    /// then up to 20 % more or less by chance; at least 1 ms.
    pub fn delay_ms(&self, attempt: u32, rng: &mut Rng) -> u64 {
        assert!(attempt > 0, "attempts are counted from 1");
        let doublings = attempt - 1;
        let doubled = 1u64.checked_shl(doublings).map_or(u64::MAX, |factor| self.first_ms.saturating_mul(factor));
        let pause = doubled.min(self.longest_ms);
        let fifth = pause / 5;
        // Jitter is of the pause already bounded: at the top pauses stay spread.
        (pause - fifth).saturating_add(rng.below((2 * fifth).saturating_add(1))).max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::limits;

    /// (QUE-04) More than one attempt in the first hour, then at least about half an hour apart, never more than the
    /// longest and a fifth; the doubling is there on average.
    #[test]
    fn pauses_double_within_bounds() {
        let backoff = Backoff { first_ms: limits::RETRY_FIRST_MS, longest_ms: limits::RETRY_LONGEST_MS };
        let mut rng = Rng::new(3);
        for attempt in 1..=40 {
            let exact = (limits::RETRY_FIRST_MS as f64 * 2f64.powi(attempt as i32 - 1)).min(14_400_000.0);
            let pauses: Vec<u64> = (0..2000).map(|_| backoff.delay_ms(attempt, &mut rng)).collect();
            let mean = pauses.iter().sum::<u64>() as f64 / 2000.0;
            assert!((mean / exact - 1.0).abs() < 0.02, "attempt {attempt}: {mean} is not about {exact}");
            let (least, most) = (*pauses.iter().min().unwrap() as f64, *pauses.iter().max().unwrap() as f64);
            assert!(least >= exact * 0.8 - 1.0 && least < exact * 0.82, "attempt {attempt}");
            assert!(most <= exact * 1.2 + 1.0 && most > exact * 1.18, "attempt {attempt}");
        }
    }

    #[test]
    fn extremes_saturate() {
        let mut rng = Rng::new(1);
        let backoff = Backoff { first_ms: u64::MAX, longest_ms: u64::MAX };
        for attempt in [1, 2, 63, 64, 65, u32::MAX] {
            assert!(backoff.delay_ms(attempt, &mut rng) >= u64::MAX / 5 * 4);
        }
        assert_eq!(Backoff { first_ms: 0, longest_ms: 0 }.delay_ms(9, &mut rng), 1);
    }
}
