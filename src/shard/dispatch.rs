//! Dispatch: which site may do something now, and where its connections go.
//!
//! A job waits in its site's list. A site is tried when it is not paused, a permit is there and its next hop's
//! addresses are known; one that cannot be reached pauses as a whole (QUE-05) and never holds up another (QUE-06).
//! What is done over a connection is `delivery`'s.

use std::net::SocketAddr;

use crate::base::ids::ConnId;
use crate::base::limits;
use crate::base::time::{Mono, Now};
use crate::route::mx::{self, Plan, Target};
use crate::route::{Answer, NextHop, QueryId};
use crate::schedule::backoff::Backoff;
use crate::schedule::hosts::KnownTarget;
use crate::schedule::site::{JobId, SiteId, Targets};
use crate::shard::backlog::JobState;
use crate::shard::conns::{Conn, Outbound, Race, Side};
use crate::shard::reading::READS_MAX;
use crate::shard::timers::Timer;
use crate::shard::{Effect, Level, Shard};
use crate::smtp::client::Client;

impl Shard {
    pub(super) fn backoff_of_sites(&self) -> Backoff {
        Backoff { first_ms: self.settings.retry.site_first_ms, longest_ms: self.settings.retry.site_longest_ms }
    }

    /// Puts a job at the end of its site's list.
    pub(super) fn make_ready(&mut self, job: JobId) {
        let entry = &mut self.backlog.jobs[job as usize];
        entry.state = JobState::Ready;
        let site = entry.site;
        self.sites.table[site as usize].ready.push_back(job);
        self.want_pump(site);
    }

    /// Puts a job at the head of its site's list: it was there before.
    pub(super) fn make_ready_again(&mut self, job: JobId) {
        let entry = &mut self.backlog.jobs[job as usize];
        entry.state = JobState::Ready;
        let site = entry.site;
        self.sites.table[site as usize].ready.push_front(job);
        self.want_pump(site);
    }

    /// Lets every site that may have something to do, do it.
    pub(super) fn pump_sites(&mut self, now: Now, effects: &mut Vec<Effect>) {
        let mut next = 0;
        while next < self.to_pump.len() {
            let site = self.to_pump[next];
            next += 1;
            if self.sites.table.contains(site as usize) {
                self.pump(now, site, effects);
            }
        }
        for site in self.to_pump.drain(..) {
            if let Some(entry) = self.sites.table.get_mut(site as usize) {
                entry.marked = false;
            }
        }
    }

    fn pump(&mut self, now: Now, site: SiteId, effects: &mut Vec<Effect>) {
        self.give_up_if_hopeless(now, site, effects);
        // Permits that other shards wait for: a connection with nothing to do gives its own up first.
        let owed = self.sites.permits.owed(&self.sites.table[site as usize].name);
        for _ in 0..owed {
            let Some(id) = self.sites.table[site as usize].idle.pop() else { break };
            self.use_idle(now, id, effects);
        }
        let entry = &mut self.sites.table[site as usize];
        if self.draining.is_none() && !entry.ready.is_empty() && !entry.paused(now.mono) {
            if entry.hosts.trial_due() {
                // Connections at rest would take all there is, and the better host never be tried.
                self.dial_one(now, site, effects);
            }
            let entry = &mut self.sites.table[site as usize];
            for _ in 0..entry.idle.len() {
                let entry = &mut self.sites.table[site as usize];
                if entry.unclaimed(now.mono) == 0 {
                    break;
                }
                let Some(id) = entry.idle.pop() else { break };
                self.use_idle(now, id, effects);
            }
            self.dial_more(now, site, effects);
            self.watch_claims(now, site);
            // The answer may have been known already.
            self.give_up_if_hopeless(now, site, effects);
        }
        let entry = &self.sites.table[site as usize];
        // What is not used at once keeps others from it: a site that pauses wants no more than it has.
        let more = !entry.paused(now.mono) && self.draining.is_none();
        let allowed = entry.throttle.allowed(self.settings.site.connections);
        let wanted =
            if more { entry.useful_connections().min(allowed).max(entry.connections) } else { entry.connections };
        self.want_permits(site, wanted, effects);
        self.forget_idle_site(now.mono, site);
    }

    /// Looks again at jobs left to busy connections, should none of those answer soon.
    fn watch_claims(&mut self, now: Now, site: SiteId) {
        let entry = &mut self.sites.table[site as usize];
        if entry.unclaimed(now.mono) == entry.ready.len() || entry.claims_watched > now.mono {
            return;
        }
        entry.claims_watched = now.mono.plus_ms(limits::RIDE_WAIT_MS);
        self.wheel.insert(entry.claims_watched, Timer::Site(site));
    }

    /// Gives a connection that was just taken from its site's idle ones something to do, or ends it.
    pub(super) fn use_idle(&mut self, now: Now, id: ConnId, effects: &mut Vec<Effect>) {
        let mut conn = self.conns.take(id).expect("an idle connection is not taken");
        conn.outbound().idle = false;
        self.after_client(now, id, conn, effects);
    }

    /// Fails what waits for a site to which no mail can go, while the answer that says so holds.
    fn give_up_if_hopeless(&mut self, now: Now, site: SiteId, effects: &mut Vec<Effect>) {
        let entry = &mut self.sites.table[site as usize];
        if let Targets::Hopeless { code, text, until } = entry.targets {
            if now.mono < until {
                self.fail_all(now, site, code, text, effects);
            } else {
                entry.targets = Targets::Unknown;
            }
        }
    }

    /// Opens as many connections as there are jobs for, as far as permits and addresses are there.
    fn dial_more(&mut self, now: Now, site: SiteId, effects: &mut Vec<Effect>) {
        loop {
            let entry = &self.sites.table[site as usize];
            if entry.opening as usize >= entry.unclaimed(now.mono) || !self.dial_one(now, site, effects) {
                return;
            }
        }
    }

    /// Opens one connection, if it is of use. False if not, or if something is missing.
    fn dial_one(&mut self, now: Now, site: SiteId, effects: &mut Vec<Effect>) -> bool {
        let entry = &self.sites.table[site as usize];
        let wanted = entry.useful_connections().min(entry.throttle.allowed(self.settings.site.connections));
        // A site that failed is tried with one connection until it works again (QUE-05).
        let probing = entry.failures > 0 || entry.tried > 0;
        if entry.opening as usize >= entry.ready.len()
            || (probing && entry.connections > 0)
            || entry.connections >= entry.throttle.allowed(self.settings.site.connections)
            || entry.throttle.holds(now.mono).is_some()
            || self.conns.outbound >= limits::CONNECTIONS_OUT_MAX
        {
            return false;
        }
        if !entry.reachable(now.mono) {
            self.find_targets(now, site, effects);
            if !self.sites.table[site as usize].reachable(now.mono) {
                return false;
            }
        }
        let name = self.sites.table[site as usize].name.clone();
        self.want_permits(site, wanted, effects);
        if !self.sites.permits.take(&name) {
            return false;
        }
        let entry = &mut self.sites.table[site as usize];
        entry.connections += 1;
        entry.opening += 1;
        let address = entry.hosts.choose(now.mono, &mut self.rng).expect("a reachable site has addresses");
        let rival = entry.hosts.rival(now.mono, address);
        self.dial(now, site, address, if rival.is_some() { Race::Ahead } else { Race::None }, effects);
        true
    }

    fn dial(&mut self, now: Now, site: SiteId, address: SocketAddr, race: Race, effects: &mut Vec<Effect>) -> ConnId {
        let wish = self.sites.table[site as usize].tls_wish(now.mono, address);
        self.counters.dials += 1;
        let client = Client::new(self.client_settings.clone(), now.mono).with_tls(wish);
        let id = self.conns.insert(Side::Out(Outbound {
            view: None,
            client,
            site,
            address,
            wish,
            tls_begun: false,
            connected: false,
            dialled: now.mono,
            was_ready: false,
            idle: false,
            hungry: None,
            transactions: 0,
            useful: false,
            ending: false,
            race,
        }));
        let mut conn = self.conns.take(id).expect("it was just inserted");
        let connect_ms = self.settings.timeout.connect_ms;
        conn.deadline =
            now.mono.plus_ms(if race == Race::Ahead { connect_ms.min(limits::CONNECT_RACE_MS) } else { connect_ms });
        self.watch(now.mono, id, &mut conn);
        self.conns.put(id, conn);
        effects.push(Effect::Dial { conn: id, address, source: self.settings.source });
        id
    }

    /// A connection does not stand yet: the same host is dialled in its other family too, unless that is left aside by now.
    pub(super) fn begin_race(&mut self, now: Now, id: ConnId, mut conn: Box<Conn>, effects: &mut Vec<Effect>) {
        conn.deadline = conn.outbound().dialled.plus_ms(self.settings.timeout.connect_ms);
        let outbound = conn.outbound();
        let (site, address) = (outbound.site, outbound.address);
        outbound.race = match self.sites.table[site as usize].hosts.rival(now.mono, address) {
            Some(rival) => Race::With(self.dial(now, site, rival, Race::With(id), effects)),
            None => Race::None,
        };
        self.watch(now.mono, id, &mut conn);
        self.conns.put(id, conn);
    }

    /// A connection stands: its rival is given up, and its address left aside for a while.
    pub(super) fn win_race(&mut self, now: Now, conn: &mut Conn, effects: &mut Vec<Effect>) {
        let Race::With(rival) = std::mem::replace(&mut conn.outbound().race, Race::None) else { return };
        let loser = self.conns.take(rival).expect("a rival lasts as long as the race");
        self.lose_race(now, rival, loser, effects);
        effects.push(Effect::Abort { conn: rival });
    }

    /// One of two connections is out of the race; the other goes on for both.
    pub(super) fn lose_race(&mut self, now: Now, id: ConnId, mut conn: Box<Conn>, effects: &mut Vec<Effect>) {
        self.unwatch(&mut conn);
        let backoff = self.backoff_of_sites();
        let outbound = conn.outbound();
        let entry = &mut self.sites.table[outbound.site as usize];
        entry.hosts.failed(now.mono, outbound.address, &backoff, &mut self.rng);
        self.counters.failed_dials += 1;
        let (name, address) = (&entry.name, outbound.address);
        effects.push(Effect::Report(
            Level::Debug,
            format!("{name}: {address} answered later than its host's other family"),
        ));
        self.conns.remove(id, false);
    }

    /// Finds out where a site's mail goes: at once for an address, by asking for a name.
    fn find_targets(&mut self, now: Now, site: SiteId, effects: &mut Vec<Effect>) {
        let entry = &mut self.sites.table[site as usize];
        if entry.targets == Targets::Asked {
            return;
        }
        if let Some(answer) = entry.next_hop.known_answer() {
            return self.use_answer(now, site, &answer, Mono::NEVER, effects);
        }
        let (domain, address_only) = entry.next_hop.question().expect("what is not known can be asked for");
        let domain: Box<str> = domain.into();
        if let Some(answer) = self.sites.answers.get(now.mono, &domain, address_only) {
            let until = self.sites.answers.good_until(&domain, address_only);
            return self.use_answer(now, site, &answer, until, effects);
        }
        if self.queries.len() >= self.queries_max {
            if !std::mem::replace(&mut entry.unasked, true) {
                self.waiting_to_ask.push_back(site);
            }
            return;
        }
        entry.targets = Targets::Asked;
        self.next_query += 1;
        let query = QueryId(self.next_query);
        self.queries.insert(query, site);
        effects.push(Effect::Resolve { query, domain, address_only });
    }

    /// Lets sites ask for their addresses that could not before, as many as the resolver has room for.
    pub(super) fn let_sites_ask(&mut self) {
        for _ in self.queries.len()..self.queries_max {
            let Some(site) = self.waiting_to_ask.pop_front() else { return };
            if let Some(entry) = self.sites.table.get_mut(site as usize) {
                entry.unasked = false;
            }
            self.want_pump(site);
        }
    }

    pub(super) fn resolved(&mut self, now: Now, query: QueryId, answer: Answer, effects: &mut Vec<Effect>) {
        let Some(site) = self.queries.remove(&query) else { return };
        let (name, address_only) = self.sites.table[site as usize].next_hop.question().expect("it was asked for");
        let answer = self.sites.answers.put(now.mono, name, address_only, answer);
        let until = self.sites.answers.good_until(name, address_only);
        self.use_answer(now, site, &answer, until, effects);
    }

    /// Makes a site's targets from what is known of its next hop.
    fn use_answer(&mut self, now: Now, site: SiteId, answer: &Answer, until: Mono, effects: &mut Vec<Effect>) {
        let entry = &mut self.sites.table[site as usize];
        let port = match entry.next_hop {
            NextHop::SmartHost { port, .. } => port,
            NextHop::Mx { .. } => self.settings.route.mx_port,
        };
        match mx::plan(&entry.next_hop, answer, &self.sites.mx_policy) {
            Plan::Try(targets) => {
                entry.targets = Targets::Known { until };
                entry.hosts.set(with_port(targets, port));
                self.want_pump(site);
            }
            Plan::Fail { code, text } => {
                entry.targets = Targets::Hopeless { code, text, until };
                self.want_pump(site);
            }
            Plan::Defer { text } => {
                entry.targets = Targets::Unknown;
                effects.push(Effect::Report(Level::Warning, format!("{}: {text}; its mail waits", entry.name)));
                self.pause_site(now, site, effects);
            }
        }
    }

    /// The site as a whole is left alone for a while; what has waited too long fails now.
    pub(super) fn pause_site(&mut self, now: Now, site: SiteId, effects: &mut Vec<Effect>) {
        let backoff = self.backoff_of_sites();
        let entry = &mut self.sites.table[site as usize];
        let until = entry.pause(now.mono, &backoff, &mut self.rng);
        self.paused(now, site, until, effects);
    }

    pub(super) fn paused(&mut self, now: Now, site: SiteId, until: Mono, effects: &mut Vec<Effect>) {
        self.wheel.insert(until, Timer::Site(site));
        let entry = &self.sites.table[site as usize];
        effects.push(Effect::Report(
            Level::Info,
            format!(
                "{}: paused for {} ms after {} failures in a row, {} jobs wait",
                entry.name,
                until.ms_since(now.mono),
                entry.failures,
                entry.jobs
            ),
        ));
        let expired: Vec<JobId> = entry
            .ready
            .iter()
            .copied()
            .filter(|&job| self.expired(now, job))
            .take(limits::EXPIRED_AT_ONCE_MAX)
            .collect();
        for job in expired {
            if self.have_record(job, effects) {
                self.take_from_ready(job);
                self.fail_job(now, job, 0, "4.4.7 Delivery time expired: the next hop could not be reached", effects);
            }
        }
    }

    pub(super) fn expired(&self, now: Now, job: JobId) -> bool {
        now.mono >= self.backlog.messages[self.backlog.jobs[job as usize].message as usize].expires
    }

    pub(super) fn take_from_ready(&mut self, job: JobId) {
        let site = self.backlog.jobs[job as usize].site;
        let ready = &mut self.sites.table[site as usize].ready;
        if let Some(at) = ready.iter().position(|&other| other == job) {
            ready.remove(at);
        }
    }

    /// No mail can go to this site: what waits for it fails, a bounded number at a time.
    fn fail_all(&mut self, now: Now, site: SiteId, code: u16, text: &'static str, effects: &mut Vec<Effect>) {
        for _ in 0..limits::EXPIRED_AT_ONCE_MAX {
            let Some(&job) = self.sites.table[site as usize].ready.front() else { return };
            if self.reads.len() >= READS_MAX {
                self.wait_for_reads(site);
                return;
            }
            if self.have_record(job, effects) {
                self.take_from_ready(job);
                self.fail_job(now, job, code, text, effects);
            }
        }
        self.wheel.insert(now.mono.plus_ms(1), Timer::Site(site));
    }
}

fn with_port(targets: Vec<Target>, port: u16) -> Vec<KnownTarget> {
    let known = |Target { address, host, preference }: Target| KnownTarget {
        address: SocketAddr::new(address, port),
        host: host.into(),
        preference,
    };
    targets.into_iter().map(known).collect()
}
