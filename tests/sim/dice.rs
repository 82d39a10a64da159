//! The run's randomness and its trace: both follow from the seed alone.

use std::collections::{BTreeMap, VecDeque};

use ringpost::base::rng::Rng;

/// Random choices of one run.
pub struct Dice(Rng, Drawn);

/// How often each fault was drawn.
pub type Drawn = BTreeMap<&'static str, u64>;

impl Dice {
    pub fn new(seed: u64) -> Dice {
        Dice(Rng::new(seed), Drawn::new())
    }

    /// True so many times in a thousand: then something goes wrong.
    pub fn fault(&mut self, name: &'static str, chance: u64) -> bool {
        let drawn = self.permille(chance);
        if drawn {
            self.drawn(name);
        }
        drawn
    }

    /// Counts a fault that was drawn in another way.
    pub fn drawn(&mut self, name: &'static str) {
        *self.1.entry(name).or_default() += 1;
    }

    /// All that was drawn so far.
    pub fn faults(&self) -> &Drawn {
        &self.1
    }

    pub fn number(&mut self) -> u64 {
        self.0.next_u64()
    }

    /// A number in `0..bound`.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.0.below(bound)
    }

    /// A number in `from..=to`.
    pub fn range(&mut self, from: u64, to: u64) -> u64 {
        from + self.0.below(to - from + 1)
    }

    /// True so many times in a thousand.
    pub fn permille(&mut self, chance: u64) -> bool {
        chance > 0 && self.0.below(1000) < chance
    }

    /// One of several.
    pub fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.0.below(of.len() as u64) as usize]
    }

    /// Mostly near `from`, now and then up to `to`: how things in the world last.
    pub fn skewed(&mut self, from: u64, to: u64) -> u64 {
        let span = (to - from + 1) >> self.0.below(8);
        from + self.0.below(span.max(1))
    }
}

/// What happened, as a hash of everything and a log of the end.
pub struct Trace {
    hash: u64,
    events: u64,
    kept: VecDeque<String>,
    keep: usize,
    print: bool,
}

impl Trace {
    /// Keeps the last `keep` lines, or prints all.
    pub fn new(keep: usize, print: bool) -> Trace {
        Trace { hash: 0xcbf2_9ce4_8422_2325, events: 0, kept: VecDeque::new(), keep, print }
    }

    /// Notes an event: two numbers always, words only if someone reads them.
    pub fn note(&mut self, at_us: u64, what: &str, a: u64, b: u64, words: impl FnOnce() -> String) {
        self.events += 1;
        let mut mix = |value: u64| {
            self.hash = (self.hash ^ value).wrapping_mul(0x0000_0100_0000_01b3).rotate_left(23);
        };
        mix(at_us);
        mix(a);
        mix(b);
        what.bytes().for_each(|byte| mix(u64::from(byte)));
        if self.keep > 0 || self.print {
            let line = format!("{:>10}.{:06} {what} {}", at_us / 1_000_000, at_us % 1_000_000, words());
            if self.print {
                println!("{line}");
            }
            self.kept.push_back(line);
            while self.kept.len() > self.keep {
                self.kept.pop_front();
            }
        }
    }

    pub fn hash(&self) -> u64 {
        self.hash
    }

    pub fn events(&self) -> u64 {
        self.events
    }

    pub fn last_lines(&self) -> impl Iterator<Item = &str> {
        self.kept.iter().map(|line| &line[..])
    }
}
