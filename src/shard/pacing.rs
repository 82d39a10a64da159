//! Pacing: a site has no more messages a second than it may (RTE-24), and a next hop that asks for less gets less, from this
//! site and no other (RTE-25).
//!
//! What a complaint is, and how far it slows a site down, is `schedule::throttle`'s; here it is heard, reported and kept.
//! Rates are `schedule::rate`'s; here a shard asks for them, and answers where it is the home.

use crate::base::ids::ShardId;
use crate::base::time::Now;
use crate::schedule::permit::home_of;
use crate::schedule::rate::{BucketId, Served};
use crate::schedule::site::SiteId;
use crate::schedule::throttle::Slowed;
use crate::shard::conns::Outbound;
use crate::shard::parcel::{Parcel, SiteName};
use crate::shard::timers::Timer;
use crate::shard::{Effect, Level, Shard};

impl Shard {
    /// What the verdicts of a connection say of its site: of use, or too much (`Results::complaint`), or both.
    pub(super) fn note_verdicts(&mut self, now: Now, useful: bool, outbound: &mut Outbound, effects: &mut Vec<Effect>) {
        if useful {
            outbound.useful = true;
            let entry = &mut self.sites.table[outbound.site as usize];
            let back = entry.succeeded(outbound.address);
            if entry.throttle.taken(now.mono, entry.connections, entry.limits.connections) {
                effects.push(Effect::Report(Level::Info, format!("{}: runs at its limit again", entry.name)));
            }
            if back {
                // What rests at worse hosts makes way.
                for id in std::mem::take(&mut self.sites.table[outbound.site as usize].idle) {
                    self.use_idle(now, id, effects);
                }
            }
        }
        if let Some(words) = self.results.complaint.take() {
            let slowed = self.complained(now, outbound.site, &words, effects);
            if slowed == Slowed::AtFloor && !useful && self.draining.is_none() {
                // The rest of the queue would hear the same, one by one.
                self.pause_site(now, outbound.site, effects);
            }
        }
    }

    /// A next hop said that it gets too much.
    pub(super) fn complained(&mut self, now: Now, site: SiteId, words: &str, effects: &mut Vec<Effect>) -> Slowed {
        let entry = &mut self.sites.table[site as usize];
        let slowed = entry.throttle.complaint(now.mono, entry.connections - entry.ending);
        if slowed != Slowed::Already {
            self.counters.throttled += 1;
            let to = entry.allowed();
            effects
                .push(Effect::Report(Level::Info, format!("{}: slowed to {to} connections after {words}", entry.name)));
            if let Some(until) = entry.throttle.holds(now.mono) {
                self.wheel.insert(until, Timer::Site(site));
            }
        }
        slowed
    }

    /// Takes the right to send one message to a site. False if there is none: the home shard was asked, and the site is
    /// looked at again when it answers (RTE-24).
    pub(super) fn may_send(&mut self, now: Now, site: SiteId, effects: &mut Vec<Effect>) -> bool {
        let entry = &mut self.sites.table[site as usize];
        let per_second = entry.limits.messages_per_second;
        if per_second == 0 {
            return true;
        }
        if entry.purse.take(now.mono) {
            return true;
        }
        if entry.purse.ask() {
            let (name, messages) = (entry.name.clone(), entry.ready.len() as u32);
            self.ask_home(now, name, messages, per_second, effects);
        }
        self.sites.table[site as usize].purse.take(now.mono)
    }

    /// Asks whoever has the bucket of that name, perhaps this shard, for so many messages.
    pub(super) fn ask_home(
        &mut self,
        now: Now,
        site: SiteName,
        messages: u32,
        per_second: u32,
        effects: &mut Vec<Effect>,
    ) {
        let home = home_of(&site, self.settings.shards);
        if home == self.id {
            self.rate_asked(now, home, &site, (messages, per_second), effects);
        } else {
            self.counters.parcels += 1;
            effects.push(Effect::Parcel { to: home, parcel: Parcel::Ask { site, messages, per_second } });
        }
    }

    /// A shard, perhaps this one, would send so many messages to a site with such a rate whose home this shard is.
    pub(super) fn rate_asked(
        &mut self,
        now: Now,
        from: ShardId,
        site: &SiteName,
        (messages, per_second): (u32, u32),
        effects: &mut Vec<Effect>,
    ) {
        let bucket = self.sites.buckets.ask(now.mono, site, from, messages, per_second);
        self.serve_rate(now, bucket, effects);
    }

    /// The home of a site allows messages to it. A site that was forgotten meanwhile needs them no more.
    pub(super) fn rate_allowed(&mut self, now: Now, site: &SiteName, messages: u32) {
        if let Some(site) = self.sites.of_name(site) {
            self.sites.table[site as usize].purse.fill(now.mono, messages);
            self.want_pump(site);
        } else {
            self.pace_allowed(now, site, messages);
        }
    }

    pub(super) fn rate_due(&mut self, now: Now, bucket: BucketId, effects: &mut Vec<Effect>) {
        self.sites.buckets.timer_fired(bucket);
        self.serve_rate(now, bucket, effects);
    }

    fn serve_rate(&mut self, now: Now, bucket: BucketId, effects: &mut Vec<Effect>) {
        loop {
            match self.sites.buckets.serve(now.mono, bucket) {
                Served::Allow(shard, messages) => {
                    let site = self.sites.buckets.name(bucket).clone();
                    if shard == self.id {
                        self.rate_allowed(now, &site, messages);
                    } else {
                        self.counters.parcels += 1;
                        effects.push(Effect::Parcel { to: shard, parcel: Parcel::Allow { site, messages } });
                    }
                }
                Served::Later(when) => {
                    if self.sites.buckets.set_timer(bucket) {
                        self.wheel.insert(when, Timer::Rate(bucket));
                    }
                    return;
                }
                Served::Nobody => return,
            }
        }
    }
}
