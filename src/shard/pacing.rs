//! Pacing: a next hop that asks for less gets less, from this site and no other (RTE-25).
//!
//! What a complaint is, and how far it slows a site down, is `schedule::throttle`'s; here it is heard, reported and kept.

use crate::base::time::Now;
use crate::schedule::site::SiteId;
use crate::schedule::throttle::Slowed;
use crate::shard::conns::Outbound;
use crate::shard::timers::Timer;
use crate::shard::{Effect, Level, Shard};

impl Shard {
    /// What the verdicts of a connection say of its site: of use, or too much (`Results::complaint`), or both.
    pub(super) fn note_verdicts(&mut self, now: Now, useful: bool, outbound: &mut Outbound, effects: &mut Vec<Effect>) {
        let limit = self.settings.site.connections;
        if useful {
            outbound.useful = true;
            let entry = &mut self.sites.table[outbound.site as usize];
            entry.succeeded(outbound.address);
            if entry.throttle.taken(now.mono, entry.connections, limit) {
                effects.push(Effect::Report(Level::Info, format!("{}: runs at its limit again", entry.name)));
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
            let to = entry.throttle.allowed(self.settings.site.connections);
            effects
                .push(Effect::Report(Level::Info, format!("{}: slowed to {to} connections after {words}", entry.name)));
            if let Some(until) = entry.throttle.holds(now.mono) {
                self.wheel.insert(until, Timer::Site(site));
            }
        }
        slowed
    }
}
