//! The shard's sites: which one a domain's mail goes to, and when each has something to do.
//!
//! The concurrency of a site is owned by its home shard and lent as permits; asking, granting and giving back
//! are the only things that cross cores, and never per message.

use rustc_hash::FxHashMap;
use slab::Slab;

use crate::base::ids::ShardId;
use crate::base::time::{Mono, Now};
use crate::config::{HostPort, RouteSettings, Settings, TlsPolicies};
use crate::route::NextHop;
use crate::route::cache::Cache;
use crate::route::mx::MxPolicy;
use crate::route::table::RouteTable;
use crate::schedule::permit::Permits;
use crate::schedule::rate::Buckets;
use crate::schedule::site::{Site, SiteId};
use crate::shard::parcel::{Parcel, SiteName};
use crate::shard::timers::Timer;
use crate::shard::{Effect, Shard};

/// The sites and what is needed to find them.
pub(super) struct Sites {
    pub(super) table: Slab<Site>,
    pub(super) by_name: FxHashMap<SiteName, SiteId>,
    /// Domains seen lately, so that the hot path makes no name.
    by_domain: FxHashMap<Box<[u8]>, SiteId>,
    lower: Vec<u8>,
    routes: RouteTable,
    tls: TlsPolicies,
    /// Permits this shard holds, and those it lends as a home.
    pub(super) permits: Permits,
    /// The rates of sites whose home this shard is.
    pub(super) buckets: Buckets,
    pub(super) mx_policy: MxPolicy,
    /// What DNS said lately; outlives the sites.
    pub(super) answers: Cache,
    parcels: Vec<(ShardId, Parcel)>,
}

/// Domains remembered at a time; the table is emptied when full, it only saves work.
const DOMAINS_REMEMBERED: usize = 4096;

/// The routes that the configuration names.
fn route_table(settings: &RouteSettings) -> RouteTable {
    let hop = |to: &HostPort| NextHop::SmartHost { host: to.host.clone(), port: to.port };
    let mut table = RouteTable::new(settings.default.as_ref().map(hop));
    for (domain, to) in &settings.domains {
        table.insert(domain, hop(to));
    }
    table
}

impl Sites {
    pub(super) fn new(me: ShardId, settings: &Settings) -> Sites {
        Sites {
            table: Slab::new(),
            by_name: FxHashMap::default(),
            by_domain: FxHashMap::default(),
            lower: Vec::new(),
            routes: route_table(&settings.route),
            tls: settings.tls.policies.clone(),
            permits: Permits::new(me, settings.shards, settings.site.connections),
            // Without a limit nobody asks.
            buckets: Buckets::new(me, settings.site.messages_per_second.max(1)),
            mx_policy: MxPolicy {
                own_names: vec![settings.hostname.to_ascii_lowercase().into()],
                own_addresses: settings.listen.iter().map(|listener| listener.address.ip()).collect(),
                allow_private: settings.route.allow_private,
            },
            answers: Cache::new(),
            parcels: Vec::new(),
        }
    }

    /// The site that mail for a domain goes to, made if it is new.
    pub(super) fn of_domain(&mut self, domain: &[u8]) -> SiteId {
        self.lower.clear();
        self.lower.extend(domain.iter().map(u8::to_ascii_lowercase));
        if let Some(&site) = self.by_domain.get(&self.lower[..]) {
            return site;
        }
        let next_hop = self.routes.next_hop(&self.lower);
        let tls = self.tls.of_domain(&self.lower);
        let mut name = next_hop.site_name();
        if tls != self.tls.default {
            // A connection serves one policy only; the site's limit holds for each.
            name = format!("{name} tls={tls}").into();
        }
        let site = match self.by_name.get(&name) {
            Some(&site) => site,
            None => {
                let site = self.table.insert(Site::new(name.clone(), next_hop, tls)) as SiteId;
                self.by_name.insert(name, site);
                site
            }
        };
        if self.by_domain.len() >= DOMAINS_REMEMBERED {
            self.by_domain.clear();
        }
        self.by_domain.insert(self.lower[..].into(), site);
        site
    }

    /// Forgets a site that has no jobs, no connections and no pause.
    fn forget(&mut self, site: SiteId) {
        let gone = self.table.remove(site as usize);
        self.by_name.remove(&gone.name);
        self.by_domain.retain(|_, of| *of != site);
    }
}

impl Shard {
    /// Marks a site as having something to do at the end of the step.
    pub(super) fn want_pump(&mut self, site: SiteId) {
        // Who waited for something may name a site that was forgotten meanwhile.
        if let Some(entry) = self.sites.table.get_mut(site as usize)
            && !std::mem::replace(&mut entry.marked, true)
        {
            self.to_pump.push(site);
        }
    }

    pub(super) fn site_due(&mut self, site: SiteId) {
        if self.sites.table.contains(site as usize) {
            self.want_pump(site);
        }
    }

    /// Says how many connections this shard could use at a site, and carries what follows from it.
    pub(super) fn want_permits(&mut self, site: SiteId, wanted: u32, effects: &mut Vec<Effect>) {
        let Sites { table, permits, parcels, .. } = &mut self.sites;
        permits.want(&table[site as usize].name, wanted, parcels);
        self.carry_parcels(effects);
    }

    /// A connection of a site ended: its permit goes back, to be lent again here or elsewhere.
    pub(super) fn give_back_permit(&mut self, site: SiteId, effects: &mut Vec<Effect>) {
        let Sites { table, permits, parcels, .. } = &mut self.sites;
        permits.give_back(&table[site as usize].name, parcels);
        self.carry_parcels(effects);
    }

    pub(super) fn parcel_came(&mut self, now: Now, from: ShardId, parcel: Parcel, effects: &mut Vec<Effect>) {
        match parcel {
            Parcel::Ask { site, messages } => self.rate_asked(now, from, &site, messages, effects),
            Parcel::Allow { site, messages } => self.rate_allowed(now, &site, messages),
            permits => self.sites.permits.handle(from, permits, &mut self.sites.parcels),
        }
        self.carry_parcels(effects);
    }

    /// Sends what the permits said, and looks at the sites that may do more or must do less now.
    fn carry_parcels(&mut self, effects: &mut Vec<Effect>) {
        for (to, parcel) in self.sites.parcels.drain(..) {
            self.counters.parcels += 1;
            effects.push(Effect::Parcel { to, parcel });
        }
        while let Some(name) = self.sites.permits.news() {
            if let Some(&site) = self.sites.by_name.get(&name) {
                self.want_pump(site);
            }
        }
    }

    /// Forgets a site once nothing speaks of it and it has nothing to remember: that a host failed, or
    /// that its next hop wants less, should be known to the next message too.
    pub(super) fn forget_idle_site(&mut self, now: Mono, site: SiteId) {
        let backoff = self.backoff_of_sites();
        let entry = &mut self.sites.table[site as usize];
        if !entry.unused(now) {
            return;
        }
        let forgets_at = entry.hosts.forgets_at(&backoff).max(entry.throttle.forgets_at());
        if forgets_at <= now {
            self.sites.forget(site);
        } else if entry.kept_until < forgets_at {
            entry.kept_until = forgets_at;
            self.wheel.insert(forgets_at, Timer::Site(site));
        }
    }
}
