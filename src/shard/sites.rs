//! The shard's destinations and sites: which ones there are, and when each has something to do.
//!
//! A domain is of a destination, which the configuration alone decides; DNS says which site that leads to (`finding`).
//! The concurrency of a site is owned by its home shard and lent as permits; asking, granting and giving back
//! are the only things that cross cores, and never per message.

use std::collections::VecDeque;

use rustc_hash::{FxHashMap, FxHashSet};
use slab::Slab;

use crate::base::ids::ShardId;
use crate::base::limits;
use crate::base::names::Names;
use crate::base::rng::Rng;
use crate::base::time::{Mono, Now};
use crate::config::{Settings, SourceId};
use crate::mail::address::ascii_domain;
use crate::route::cache::Cache;
use crate::route::decide::{Decision, Router, Via};
use crate::schedule::destination::{Answered, Destination, DestinationId};
use crate::schedule::fair::TenantId;
use crate::schedule::hosts::KnownTarget;
use crate::schedule::permit::Permits;
use crate::schedule::rate::Buckets;
use crate::schedule::site::{JobId, NO_SITE, Site, SiteId};
use crate::schedule::wheel::Wheel;
use crate::shard::backlog::{Routed, domain_mark};
use crate::shard::parcel::Parcel;
use crate::shard::timers::Timer;
use crate::shard::{Effect, Shard};
use crate::smtp::client::Needs;

/// The sites and what is needed to find them.
pub(super) struct Sites {
    pub(super) table: Slab<Site>,
    /// Those of them that have connections.
    pub(super) connected: usize,
    by_name: Names,
    pub(super) destinations: Slab<Destination>,
    destinations_by_name: Names,
    /// Domains seen lately, so that the hot path makes no name: their destinations, with the generation.
    by_domain: FxHashMap<Box<[u8]>, (DestinationId, u32)>,
    next_generation: u32,
    /// Destinations without jobs, kept for a moment, with the moment and the generation.
    lingering: VecDeque<(Mono, DestinationId, u32)>,
    lower: Vec<u8>,
    /// What an operator suspended, by name.
    suspended: FxHashSet<Box<str>>,
    /// What the configuration decides.
    pub(super) router: Router,
    /// Of the tenants, by their number.
    weights: Box<[u16]>,
    /// Permits this shard holds, and those it lends as a home.
    pub(super) permits: Permits,
    /// The rates of sites whose home this shard is.
    pub(super) buckets: Buckets,
    /// What DNS said lately; outlives the sites.
    pub(super) answers: Cache,
    parcels: Vec<(ShardId, Parcel)>,
}

/// Domains remembered at a time; the table is emptied when full, it only saves work.
const DOMAINS_REMEMBERED: usize = 4096;

impl Sites {
    pub(super) fn new(me: ShardId, settings: &Settings) -> Sites {
        Sites {
            table: Slab::new(),
            connected: 0,
            by_name: Names::default(),
            destinations: Slab::new(),
            destinations_by_name: Names::default(),
            by_domain: FxHashMap::default(),
            next_generation: 0,
            lingering: VecDeque::new(),
            lower: Vec::new(),
            suspended: FxHashSet::default(),
            router: Router::new(settings),
            weights: std::iter::once(1).chain(settings.tenants.iter().map(|tenant| tenant.weight)).collect(),
            permits: Permits::new(me, settings.shards),
            buckets: Buckets::new(me),
            answers: Cache::new(),
            parcels: Vec::new(),
        }
    }

    /// The destination of mail for a domain from a source, by a route of its own if it has one, and with these needs; made if it
    /// is new. It has one job more.
    pub(super) fn add_job_of(&mut self, domain: &[u8], source: SourceId, via: Via, needs: Needs) -> Routed {
        let destination = self.of_domain(domain, source, via, needs);
        self.destinations[destination as usize].jobs += 1;
        Routed { destination, domain: domain_mark(&self.lower[..domain.len()]) }
    }

    /// Other routes, policies and limits hold: every destination there is was found by the old ones, and is retired.
    pub(super) fn change(&mut self, settings: &Settings) {
        self.router = Router::new(settings);
        self.by_domain.clear();
        self.destinations_by_name.clear();
        self.destinations.iter_mut().for_each(|(_, destination)| destination.retired = true);
    }

    /// Other limits hold, where all mail goes as before. Gives the sites that have others now.
    pub(super) fn change_limits(&mut self, settings: &Settings) -> FxHashSet<SiteId> {
        self.router = Router::new(settings);
        let mut changed = FxHashSet::default();
        for (_, destination) in &self.destinations {
            if destination.retired || destination.site == NO_SITE || changed.contains(&destination.site) {
                continue;
            }
            let place = &mut self.table[destination.site as usize];
            let kind = self.router.site(&destination.decision, place.hosts.targets());
            // One that leads elsewhere by now gives the limits when it is asked about.
            if kind.name == place.name && (&place.limits, &place.warm_up) != (&kind.limits, &kind.warm_up) {
                (place.limits, place.warm_up) = (kind.limits, kind.warm_up);
                changed.insert(destination.site);
            }
        }
        changed
    }

    fn of_domain(&mut self, domain: &[u8], source: SourceId, via: Via, needs: Needs) -> DestinationId {
        self.lower.clear();
        self.lower.extend(domain.iter().map(u8::to_ascii_lowercase));
        // What only some hosts of a domain can take goes its own ways.
        if needs != Needs::default() {
            return self.make(domain.len(), source, via, needs);
        }
        if source != 0 || via != 0 {
            // No domain holds a blank.
            self.lower.push(b' ');
            self.lower.extend(source.to_le_bytes());
            self.lower.extend(via.to_le_bytes());
        }
        if let Some(&(destination, generation)) = self.by_domain.get(&self.lower[..])
            && self.destinations.get(destination as usize).is_some_and(|entry| entry.generation == generation)
        {
            return destination;
        }
        let destination = self.make(domain.len(), source, via, needs);
        if self.by_domain.len() >= DOMAINS_REMEMBERED {
            self.by_domain.clear();
        }
        let generation = self.destinations[destination as usize].generation;
        self.by_domain.insert(self.lower[..].into(), (destination, generation));
        destination
    }

    /// The destination of the domain that `lower` begins with, made if it is new.
    fn make(&mut self, domain_bytes: usize, source: SourceId, via: Via, needs: Needs) -> DestinationId {
        let domain = &self.lower[..domain_bytes];
        // A domain without such a form was refused at its RCPT; in DNS it is found as little as any that is not there.
        let ascii = ascii_domain(domain);
        let decision = self.router.decide(ascii.as_deref().unwrap_or(domain), source, via).needing(needs);
        self.of_decision(decision)
    }

    /// The destination to which mail of another goes from a source. It has one job more.
    pub(super) fn add_job_from(&mut self, other: DestinationId, source: SourceId) -> DestinationId {
        let decision = self.destinations[other as usize].decision.from_source(source);
        let destination = self.of_decision(decision);
        self.destinations[destination as usize].jobs += 1;
        destination
    }

    /// The destination of a decision, made if it is new.
    fn of_decision(&mut self, decision: Decision) -> DestinationId {
        let name = self.router.name(&decision);
        if let Some(destination) = self.destinations_by_name.get(&name, |at| &self.destinations[at as usize].name) {
            return destination;
        }
        self.next_generation = self.next_generation.wrapping_add(1);
        let suspended = self.suspended.contains(&*name);
        let mut entry = Destination::new(decision, name, self.next_generation);
        entry.suspended = suspended;
        let destination = self.destinations.insert(entry) as DestinationId;
        self.destinations_by_name.insert(destination, |at| &self.destinations[at as usize].name);
        destination
    }

    /// The site of a name.
    pub(super) fn of_name(&self, name: &str) -> Option<SiteId> {
        self.by_name.get(name, |at| &self.table[at as usize].name)
    }

    /// The job of a site that is next.
    pub(super) fn next_job(&mut self, site: SiteId) -> Option<JobId> {
        self.table[site as usize].ready.front(&self.weights)
    }

    /// A destination leads to the site of these targets until a moment. Gives the site that it led to before, if that is
    /// another.
    pub(super) fn lead(
        &mut self,
        destination: DestinationId,
        targets: Vec<KnownTarget>,
        until: Mono,
    ) -> Option<SiteId> {
        let kind = self.router.site(&self.destinations[destination as usize].decision, &targets);
        let known = self.of_name(&kind.name);
        let entry = &mut self.destinations[destination as usize];
        entry.answered = Answered::Known { until };
        let site = match known {
            Some(site) => {
                self.table[site as usize].configure(kind, &entry.decision);
                site
            }
            None => {
                let site = self.table.insert(Site::new(kind, &entry.decision)) as SiteId;
                self.by_name.insert(site, |at| &self.table[at as usize].name);
                site
            }
        };
        let place = &mut self.table[site as usize];
        place.suspended = is_suspended(&self.suspended, place);
        if place.hosts.targets() != targets {
            place.hosts.set(targets);
        }
        place.good_until = place.good_until.max(until);
        let old = std::mem::replace(&mut entry.site, site);
        if old == site {
            return None;
        }
        place.destinations += 1;
        (old != NO_SITE).then(|| {
            self.table[old as usize].destinations -= 1;
            old
        })
    }

    /// A destination without jobs is kept for a moment: the next message may be for it.
    pub(super) fn linger(&mut self, now: Mono, destination: DestinationId, wheel: &mut Wheel<Timer>) {
        let entry = &mut self.destinations[destination as usize];
        if std::mem::replace(&mut entry.lingers, true) {
            return;
        }
        let until = now.plus_ms(limits::DESTINATION_LINGER_MS);
        if self.lingering.is_empty() {
            wheel.insert(until, Timer::Lingering);
        }
        self.lingering.push_back((until, destination, entry.generation));
    }

    /// The next destination whose moment is over.
    fn lingered(&mut self, now: Mono) -> Option<DestinationId> {
        loop {
            let &(until, destination, generation) = self.lingering.front()?;
            if now < until && self.lingering.len() <= limits::DESTINATIONS_LINGERING_MAX {
                return None;
            }
            self.lingering.pop_front();
            let entry = self.destinations.get_mut(destination as usize);
            if let Some(entry) = entry.filter(|entry| entry.generation == generation) {
                entry.lingers = false;
                return Some(destination);
            }
        }
    }

    /// Forgets a destination that nothing speaks of. Gives the site that it led to.
    fn forget_destination(&mut self, destination: DestinationId) -> Option<SiteId> {
        let gone = self.destinations.remove(destination as usize);
        if !gone.retired {
            self.destinations_by_name.remove(destination, &gone.name);
        }
        (gone.site != NO_SITE).then(|| {
            self.table[gone.site as usize].destinations -= 1;
            gone.site
        })
    }

    /// Forgets a site that nothing speaks of.
    fn forget(&mut self, site: SiteId) {
        let gone = self.table.remove(site as usize);
        self.by_name.remove(site, &gone.name);
    }
}

fn is_suspended(suspended: &FxHashSet<Box<str>>, site: &Site) -> bool {
    suspended.contains(&*site.name) || site.limits.rule.as_ref().is_some_and(|rule| suspended.contains(rule))
}

/// Draws one of some sources by weight.
pub(super) fn draw(settings: &Settings, pool: &[SourceId], rng: &mut Rng) -> SourceId {
    if let [only] = pool {
        return *only;
    }
    let weight = |source: &SourceId| u64::from(settings.sources[usize::from(*source)].weight);
    let all: u64 = pool.iter().map(weight).sum();
    // With all weights 0 the operator wants none of them any more, and none but them.
    let mut drawn = if all == 0 { 0 } else { rng.below(all) };
    for source in pool {
        match drawn.checked_sub(weight(source)) {
            Some(rest) if all > 0 => drawn = rest,
            _ => return *source,
        }
    }
    unreachable!("what is drawn is less than all weights")
}

impl Shard {
    /// Draws the source that a message of a tenant comes from.
    pub(super) fn draw_source(&mut self, tenant: TenantId) -> SourceId {
        draw(&self.settings, self.settings.pool_of(tenant), &mut self.rng)
    }

    /// The jobs of what a name stands for: a site, all sites of a rule (a provider), a destination.
    pub(super) fn jobs_of_name(&self, name: &str) -> Vec<JobId> {
        let Sites { table, destinations, .. } = &self.sites;
        let is_meant = |site: &Site| *site.name == *name || site.limits.rule.as_deref() == Some(name);
        let sites: FxHashSet<SiteId> =
            table.iter().filter(|(_, site)| is_meant(site)).map(|(at, _)| at as SiteId).collect();
        let leads = |entry: &Destination| sites.contains(&entry.site) || *entry.name == *name;
        let leading: FxHashSet<DestinationId> =
            destinations.iter().filter(|(_, entry)| leads(entry)).map(|(at, _)| at as DestinationId).collect();
        let jobs = self.backlog.jobs.iter();
        let meant = jobs.filter(|(_, job)| sites.contains(&job.site) || leading.contains(&job.destination));
        meant.map(|(job, _)| job as JobId).collect()
    }

    /// An operator suspends what a name stands for, or lets it go on, for what comes to be later too: a site, all sites of a
    /// rule (a provider), a recipient domain's or a smart host's destination. What is on its way is finished.
    pub(super) fn suspend(&mut self, name: &str, suspended: bool) {
        let Sites { table, destinations, suspended: names, .. } = &mut self.sites;
        let changed = if suspended { names.insert(name.into()) } else { names.remove(name) };
        if !changed {
            return;
        }
        let mut to_pump = Vec::new();
        for (at, site) in table.iter_mut() {
            site.suspended = is_suspended(names, site);
            to_pump.push(at as SiteId);
        }
        let mut to_find = Vec::new();
        for (at, destination) in destinations.iter_mut() {
            destination.suspended = names.contains(&*destination.name);
            to_find.push(at as DestinationId);
        }
        to_pump.into_iter().for_each(|site| self.want_pump(site));
        to_find.into_iter().for_each(|destination| self.want_finding(destination));
    }

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
        let entry = &table[site as usize];
        permits.want(&entry.name, wanted, entry.limits.connections, parcels);
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
            Parcel::Ask { site, messages, per_second } => {
                self.rate_asked(now, from, &site, (messages, per_second), effects);
            }
            Parcel::Allow { site, messages } => self.rate_allowed(now, &site, messages),
            permits => self.sites.permits.handle(from, permits, &mut self.sites.parcels),
        }
        self.carry_parcels(effects);
    }

    /// Sends what the permits said, and looks at the sites that may do more or must do less now.
    pub(super) fn carry_parcels(&mut self, effects: &mut Vec<Effect>) {
        for (to, parcel) in self.sites.parcels.drain(..) {
            self.counters.parcels += 1;
            effects.push(Effect::Parcel { to, parcel });
        }
        while let Some(name) = self.sites.permits.news() {
            if let Some(site) = self.sites.of_name(&name) {
                self.want_pump(site);
            }
        }
    }

    /// Forgets the destinations that had no job for a while.
    pub(super) fn forget_destinations(&mut self, now: Mono) {
        while let Some(destination) = self.sites.lingered(now) {
            if self.sites.destinations[destination as usize].unused(now) {
                if let Some(site) = self.sites.forget_destination(destination) {
                    self.want_pump(site);
                }
            } else if self.sites.destinations[destination as usize].jobs == 0 {
                self.sites.linger(now, destination, &mut self.wheel);
            }
        }
    }

    /// The time of a row of destinations without jobs is up; many at a time, for one timer each would be too much.
    pub(super) fn lingering_due(&mut self, now: Mono) {
        self.forget_destinations(now);
        if let Some(&(until, ..)) = self.sites.lingering.front() {
            self.wheel.insert(until.max(now.plus_ms(limits::DESTINATION_LINGER_MS / 4)), Timer::Lingering);
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
