//! Rates: messages a second to a site, kept over all shards without shared state (RTE-24).
//!
//! The site's home shard (`schedule::permit`) has its *bucket*: the rate fills it, at most a tenth of a second's worth. A
//! shard with something to send asks its home for as many messages as wait, and gets what the bucket has, in a batch,
//! into its *purse*. So one shard alone can use the whole rate, and several share it in the order they ask.
//!
//! What holds, tested over random demands: in any time `t` no more is allowed than `rate * t` and one bucket. A purse loses
//! what is not used within [`limits::RATE_KEEP_MS`], so that what the next hop sees exceeds the rate by no more than that
//! at any moment, and not at all in the long run. Another shard than the home waits until a tenth of a second's worth is
//! there, or all it asked for: a parcel for each message would cost more than it is worth.
//!
//! Pure, shard-local; a hash look-up for each question to the home, none for each message.

use std::collections::VecDeque;

use slab::Slab;

use crate::base::ids::ShardId;
use crate::base::limits;
use crate::base::names::Names;
use crate::base::time::Mono;
use crate::shard::parcel::SiteName;

/// Index of a bucket in its home shard's table.
pub type BucketId = u32;

/// What a shard may send to a site without asking.
#[derive(Clone, Copy, Debug, Default)]
pub struct Purse {
    messages: u32,
    until: Mono,
    asked: bool,
}

impl Purse {
    /// Takes the right to send one message; false if there is none.
    pub fn take(&mut self, now: Mono) -> bool {
        let good = self.messages > 0 && now < self.until;
        self.messages = if good { self.messages - 1 } else { 0 };
        good
    }

    /// What was taken is not used after all.
    pub fn give_back(&mut self) {
        self.messages = self.messages.saturating_add(1);
    }

    /// True if the home is to be asked: once, until it answers.
    pub fn ask(&mut self) -> bool {
        !std::mem::replace(&mut self.asked, true)
    }

    /// True while the home is asked and has not answered.
    pub fn waits(&self) -> bool {
        self.asked
    }

    /// The home answered.
    pub fn fill(&mut self, now: Mono, messages: u32) {
        self.asked = false;
        self.messages = if now < self.until { self.messages.saturating_add(messages) } else { messages };
        self.until = now.plus_ms(limits::RATE_KEEP_MS);
    }
}

/// What a question led to, or the passing of time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Served {
    /// So many messages for this shard; there may be more to serve.
    Allow(ShardId, u32),
    /// Somebody waits; to be served again at this moment.
    Later(Mono),
    /// Nobody waits.
    Nobody,
}

/// The buckets of the sites whose home a shard is.
pub struct Buckets {
    me: ShardId,
    by_name: Names,
    table: Slab<Bucket>,
    /// So many buckets, and the full ones are thrown away.
    sweep_at: usize,
}

struct Bucket {
    name: SiteName,
    per_second: u32,
    tokens_milli: u64,
    counted: Mono,
    /// Who asked for how many messages, in order.
    waiting: VecDeque<(ShardId, u32)>,
    /// A timer is set for it.
    timed: bool,
}

const SWEEP_LEAST: usize = 256;

impl Buckets {
    /// For the shard `me`.
    pub fn new(me: ShardId) -> Buckets {
        Buckets { me, by_name: Names::default(), table: Slab::new(), sweep_at: SWEEP_LEAST }
    }

    /// A shard asks for messages to a site with a rate, at least 1. Gives the bucket to be served.
    pub fn ask(&mut self, now: Mono, site: &SiteName, from: ShardId, messages: u32, per_second: u32) -> BucketId {
        assert!(messages > 0 && per_second > 0, "a question is for something");
        let known = self.by_name.get(site, |id| &self.table[id as usize].name);
        let id = known.unwrap_or_else(|| self.add(now, site.clone(), per_second));
        self.table[id as usize].per_second = per_second;
        let waiting = &mut self.table[id as usize].waiting;
        assert!(waiting.iter().all(|(shard, _)| *shard != from), "a shard asks once until it is answered");
        waiting.push_back((from, messages));
        id
    }

    /// The name of a bucket's site.
    pub fn name(&self, id: BucketId) -> &SiteName {
        &self.table[id as usize].name
    }

    /// Serves a bucket: who waited longest gets what is there. To be called again after `Allow`, and when the moment of
    /// `Later` has come; a timer is wanted only for a `Later` that [`set_timer`](Self::set_timer) confirms.
    pub fn serve(&mut self, now: Mono, id: BucketId) -> Served {
        let me = self.me;
        let bucket = &mut self.table[id as usize];
        bucket.count(now);
        let per_second = bucket.per_second;
        let shards = bucket.waiting.len() as u32;
        let Some(&(shard, messages)) = bucket.waiting.front() else { return Served::Nobody };
        let batch = batch(per_second);
        let least = if shard == me { 1 } else { messages.min(batch) };
        let there = (bucket.tokens_milli / 1000) as u32;
        if there < least {
            let missing = u64::from(least) * 1000 - bucket.tokens_milli;
            return Served::Later(Mono(now.0 + (missing * 1000).div_ceil(per_second.into()) + 1));
        }
        // Where several wait, nobody takes all.
        let allowed = messages.min((there / shards).max(least));
        bucket.waiting.pop_front();
        bucket.tokens_milli -= u64::from(allowed) * 1000;
        Served::Allow(shard, allowed)
    }

    /// A timer is to be set for a bucket; false if there is one.
    pub fn set_timer(&mut self, id: BucketId) -> bool {
        !std::mem::replace(&mut self.table[id as usize].timed, true)
    }

    /// The bucket's timer has fired.
    pub fn timer_fired(&mut self, id: BucketId) {
        self.table[id as usize].timed = false;
    }

    fn add(&mut self, now: Mono, name: SiteName, per_second: u32) -> BucketId {
        if self.table.len() >= self.sweep_at {
            self.sweep(now);
        }
        let tokens_milli = full_milli(per_second);
        let waiting = VecDeque::new();
        let bucket = Bucket { name, per_second, tokens_milli, counted: now, waiting, timed: false };
        let id = self.table.insert(bucket) as BucketId;
        self.by_name.insert(id, |id| &self.table[id as usize].name);
        id
    }

    /// Throws away what is as good as new.
    fn sweep(&mut self, now: Mono) {
        let by_name = &mut self.by_name;
        self.table.retain(|id, bucket| {
            bucket.count(now);
            let full = full_milli(bucket.per_second);
            let needed = bucket.timed || !bucket.waiting.is_empty() || bucket.tokens_milli < full;
            if !needed {
                by_name.remove(id as BucketId, &bucket.name);
            }
            needed
        });
        self.sweep_at = (2 * self.table.len()).max(SWEEP_LEAST);
    }
}

impl Bucket {
    fn count(&mut self, now: Mono) {
        let elapsed_us = now.0.saturating_sub(self.counted.0);
        let gained_milli = u128::from(elapsed_us) * u128::from(self.per_second) / 1000;
        if gained_milli > 0 {
            let sum = u128::from(self.tokens_milli) + gained_milli;
            self.tokens_milli = sum.min(full_milli(self.per_second).into()) as u64;
            self.counted = now;
        }
    }
}

/// A tenth of a second's worth of messages, at least one.
fn batch(per_second: u32) -> u32 {
    (per_second / 10).max(1)
}

fn full_milli(per_second: u32) -> u64 {
    u64::from(batch(per_second)) * 1000
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn site() -> SiteName {
        "mx example.org".into()
    }

    /// One shard alone, home or not, uses the whole rate and no more; another than the home in few parcels.
    #[test]
    fn one_shard_can_use_it_all() {
        for (per_second, shard) in [(1000, 0), (1000, 1), (7, 0), (7, 1), (1, 1)] {
            let mut buckets = Buckets::new(ShardId(0));
            let (mut purse, mut now, mut sent, mut answers) = (Purse::default(), Mono(1), 0u64, 0u64);
            while now.0 < 20_000_000 {
                if purse.take(now) {
                    sent += 1;
                    continue;
                }
                let id = if purse.ask() { buckets.ask(now, &site(), ShardId(shard), 100_000, per_second) } else { 0 };
                match buckets.serve(now, id) {
                    Served::Allow(to, messages) => {
                        assert_eq!(to, ShardId(shard));
                        purse.fill(now, messages);
                        answers += 1;
                    }
                    Served::Later(when) => {
                        assert!(when > now);
                        now = when;
                    }
                    Served::Nobody => panic!("it asked"),
                }
            }
            let most = u64::from(per_second) * 20 + u64::from(batch(per_second));
            assert!(sent <= most && sent * 100 >= most * 95, "{per_second}/s: {sent} of {most}");
            assert!(shard == 0 || answers * u64::from(batch(per_second)) <= sent + u64::from(batch(per_second)));
        }
    }

    #[test]
    fn a_purse_does_not_save_up() {
        let mut purse = Purse::default();
        assert!(!purse.take(Mono(1)) && purse.ask() && !purse.ask());
        purse.fill(Mono(1), 2);
        assert!(purse.take(Mono(1)));
        assert!(!purse.take(Mono(1).plus_ms(limits::RATE_KEEP_MS)));
        assert!(purse.ask());
    }

    #[test]
    fn buckets_that_are_full_again_are_forgotten() {
        let mut buckets = Buckets::new(ShardId(0));
        for number in 0..10_000u64 {
            let now = Mono(1 + number * 10_000);
            let name: SiteName = format!("mx d{number}.test").into();
            let id = buckets.ask(now, &name, ShardId(0), 1, 10);
            assert_eq!(buckets.name(id), &name);
            assert_eq!(buckets.serve(now, id), Served::Allow(ShardId(0), 1));
            assert_eq!(buckets.serve(now, id), Served::Nobody);
            assert!(buckets.table.len() <= 2 * SWEEP_LEAST);
        }
    }

    proptest! {
        /// Whoever asks when for whatever: over every stretch of time no more is allowed than the rate and one bucket,
        /// and everybody who asked is served in the end.
        #[test]
        fn never_more_than_the_rate(
            per_second in 1u32..2000,
            events in prop::collection::vec((0u16..4, 1u32..500, 0u64..300_000), 1..60),
        ) {
            let mut buckets = Buckets::new(ShardId(0));
            let mut now = Mono(1);
            let mut waiting = [false; 4];
            let mut allowed: Vec<(Mono, u64)> = Vec::new();
            let mut serve = |buckets: &mut Buckets, now: Mono, waiting: &mut [bool; 4]| loop {
                match buckets.serve(now, 0) {
                    Served::Allow(shard, messages) => {
                        waiting[shard.0 as usize] = false;
                        allowed.push((now, messages.into()));
                    }
                    Served::Later(when) => return when,
                    Served::Nobody => return Mono::NEVER,
                }
            };
            for (shard, messages, later_us) in events {
                now = Mono(now.0 + later_us);
                if !std::mem::replace(&mut waiting[shard as usize], true) {
                    buckets.ask(now, &site(), ShardId(shard), messages, per_second);
                }
                serve(&mut buckets, now, &mut waiting);
            }
            while waiting.contains(&true) {
                let when = serve(&mut buckets, now, &mut waiting);
                prop_assert!(when == Mono::NEVER || when > now);
                now = when.min(now.plus_ms(1_000_000));
            }
            for first in 0..allowed.len() {
                let mut sum = 0;
                for (at, messages) in &allowed[first..] {
                    sum += messages;
                    let elapsed_s = (at.0 - allowed[first].0.0) as f64 / 1e6;
                    let most = elapsed_s * f64::from(per_second) + f64::from(batch(per_second));
                    prop_assert!(sum as f64 <= most + 0.01, "{sum} in {elapsed_s} s at {per_second}/s");
                }
            }
        }
    }
}
