//! What a shard tells of itself when asked: its counters and its sites, as a copy.
//!
//! Asked at most about once a second by whoever watches the relay, on the shard's thread between two steps. Looks at every
//! site and copies the ones with most to do; no step pays for it. Pure.

use crate::base::ids::ShardId;
use crate::base::limits::SITES_REPORTED_MAX;
use crate::base::time::{Mono, Now};
use crate::schedule::site::Site;
use crate::shard::parcel::SiteName;
use crate::shard::{Counters, Latencies, Shard};

/// One shard at a moment.
#[derive(Clone, Debug)]
pub struct ShardReport {
    /// Which shard.
    pub shard: ShardId,
    /// What it counted.
    pub counters: Counters,
    /// How long things took.
    pub latencies: Latencies,
    /// Sites it knows.
    pub sites_known: usize,
    /// Of them, those that pause because they could not be reached.
    pub sites_paused: usize,
    /// The sites with most jobs, at most `limits::SITES_REPORTED_MAX`.
    pub sites: Vec<SiteReport>,
}

/// One site as one shard sees it.
#[derive(Clone, Debug)]
pub struct SiteReport {
    /// Its name, the same on all shards.
    pub name: SiteName,
    /// Jobs that wait for it or are under way.
    pub jobs: u32,
    /// Of them, those that may be sent now.
    pub ready: usize,
    /// Connections, those being dialled included.
    pub connections: u32,
    /// Failures to reach it in a row.
    pub failures: u32,
    /// The rest of its pause; 0: it does not pause.
    pub paused_ms: u64,
    /// An operator suspended it.
    pub suspended: bool,
    /// Connections that it allows itself because its next hop asked for less; none: as many as its limit.
    pub ceiling: Option<u32>,
    /// Messages of today's limit that are used, as the shard knows, and the limit, where its source is warmed up.
    pub day: Option<(u32, u32)>,
}

impl SiteReport {
    fn of(site: &Site, now: Mono, day: Option<(u32, u32)>) -> SiteReport {
        SiteReport {
            name: site.name.clone(),
            jobs: site.jobs,
            ready: site.ready.len(),
            connections: site.connections,
            failures: site.failures,
            paused_ms: site.paused_until.ms_since(now),
            suspended: site.suspended,
            ceiling: site.throttle.ceiling(),
            day,
        }
    }
}

impl Shard {
    /// Tells what it does.
    pub fn report(&self, now: Now) -> ShardReport {
        let table = &self.sites.table;
        let mut busiest: Vec<(u32, usize)> = table.iter().map(|(at, site)| (site.jobs, at)).collect();
        if busiest.len() > SITES_REPORTED_MAX {
            busiest.select_nth_unstable_by(SITES_REPORTED_MAX, |a, b| b.cmp(a));
            busiest.truncate(SITES_REPORTED_MAX);
        }
        ShardReport {
            shard: self.id,
            counters: self.counters(),
            latencies: self.latencies,
            sites_known: table.len(),
            sites_paused: table.iter().filter(|(_, site)| site.paused(now.mono)).count(),
            sites: busiest
                .into_iter()
                .map(|(_, at)| SiteReport::of(&table[at], now.mono, self.day_of_site(now, at as u32)))
                .collect(),
        }
    }
}
