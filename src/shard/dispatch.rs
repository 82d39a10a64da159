//! Dispatch: which site may do something now, and where its connections go.
//!
//! A job waits in its site's list. A site is tried when it is not paused, a permit is there and its next hop's
//! addresses are known; one that cannot be reached pauses as a whole (QUE-05) and never holds up another (QUE-06).
//! What is done over a connection is `delivery`'s.

use std::net::SocketAddr;

use crate::base::ids::ConnId;
use crate::base::limits;
use crate::base::time::{Mono, Now};
use crate::config::Endpoint;
use crate::schedule::backoff::Backoff;
use crate::schedule::site::{JobId, SiteId};
use crate::shard::conns::{Conn, Outbound, Race, Side};
use crate::shard::finding::UNREACHED;
use crate::shard::timers::Timer;
use crate::shard::{Effect, Level, Shard};

impl Shard {
    pub(super) fn backoff_of_sites(&self) -> Backoff {
        Backoff { first_ms: self.settings.retry.site_first_ms, longest_ms: self.settings.retry.site_longest_ms }
    }

    /// Looks at destinations and sites until none of either has anything left to do.
    pub(super) fn look_after_sites(&mut self, now: Now, effects: &mut Vec<Effect>) {
        loop {
            self.find_sites(now, effects);
            self.pump_sites(now, effects);
            let next = if self.free_slots() > 0 { self.waiting_for_slot.pop_front() } else { None };
            if let Some(site) = next {
                self.slot_is_free(site);
            } else if let Some(site) = self.next_reader() {
                self.want_pump(site);
            } else if self.to_find.is_empty() {
                return;
            }
        }
    }

    /// Outbound connections that may still be opened.
    fn free_slots(&self) -> usize {
        self.settings.route.connections.saturating_sub(self.conns.outbound)
    }

    /// The connections of the shard that a site may have while there are too few for all: an even part.
    pub(super) fn even_share(&self) -> usize {
        let sites = self.sites.connected + self.waiting_for_slot.len();
        (self.settings.route.connections / sites.max(1)).max(1)
    }

    /// The site has its turn; should it not need the connection any more, the next one has it.
    fn slot_is_free(&mut self, site: SiteId) {
        if let Some(entry) = self.sites.table.get_mut(site as usize) {
            entry.waits_for_slot = false;
            self.want_pump(site);
        }
    }

    /// True if the site may have one more of the shard's connections. If it has none, and there is none, it gets in line.
    fn has_slot(&mut self, now: Now, site: SiteId, effects: &mut Vec<Effect>) -> bool {
        let free = self.free_slots();
        let connections = self.sites.table[site as usize].connections as usize;
        if connections > 0 {
            let all = self.settings.route.connections;
            return free > all / limits::CONNECTIONS_OUT_RESERVE && connections < self.even_share();
        }
        if free == 0 && !std::mem::replace(&mut self.sites.table[site as usize].waits_for_slot, true) {
            self.waiting_for_slot.push_back(site);
            self.end_one_at_rest(now, effects);
        }
        free > 0
    }

    /// Ends one connection that has nothing to do, whichever site's it is.
    fn end_one_at_rest(&mut self, now: Now, effects: &mut Vec<Effect>) {
        while let Some(site) = self.sites_at_rest.pop_front() {
            let Some(entry) = self.sites.table.get_mut(site as usize) else { continue };
            entry.at_rest = false;
            let Some(id) = entry.idle.pop() else { continue };
            if !entry.idle.is_empty() {
                self.note_rest(site);
            }
            return self.use_idle(now, id, effects);
        }
    }

    /// A site has a connection with nothing to do, which may have to make room.
    pub(super) fn note_rest(&mut self, site: SiteId) {
        if !std::mem::replace(&mut self.sites.table[site as usize].at_rest, true) {
            self.sites_at_rest.push_back(site);
        }
    }

    /// Lets every site that may have something to do, do it.
    fn pump_sites(&mut self, now: Now, effects: &mut Vec<Effect>) {
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
        if self.sites.table[site as usize].given_up {
            self.go_on_giving_up(now.mono, site);
        }
        // Permits that other shards wait for: a connection with nothing to do gives its own up first.
        let owed = self.sites.permits.owed(&self.sites.table[site as usize].name);
        for _ in 0..owed {
            let Some(id) = self.sites.table[site as usize].idle.pop() else { break };
            self.use_idle(now, id, effects);
        }
        let entry = &self.sites.table[site as usize];
        let has_work = self.draining.is_none() && !entry.ready.is_empty() && !entry.paused(now.mono) && !entry.given_up;
        let goes_on = has_work && self.may_begin(now, site, effects);
        if goes_on {
            let entry = &self.sites.table[site as usize];
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
        }
        let entry = &self.sites.table[site as usize];
        // What is not used at once keeps others from it: a site that pauses wants no more than it has.
        let more = !entry.paused(now.mono) && self.draining.is_none() && has_work == goes_on;
        let useful = entry.useful_connections().min(entry.allowed());
        let wanted = if more { useful.max(entry.connections) } else { entry.connections };
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

    /// Opens as many connections as there are jobs for, as far as permits and addresses are there.
    fn dial_more(&mut self, now: Now, site: SiteId, effects: &mut Vec<Effect>) {
        loop {
            let entry = &self.sites.table[site as usize];
            let useful = entry.unclaimed(now.mono).min(self.allowance_of(now, site));
            if entry.opening as usize >= useful || !self.dial_one(now, site, effects) {
                return;
            }
        }
    }

    /// Opens one connection, if it is of use. False if not, or if something is missing.
    fn dial_one(&mut self, now: Now, site: SiteId, effects: &mut Vec<Effect>) -> bool {
        let entry = &self.sites.table[site as usize];
        // Connections at rest would do for the jobs, but not for a trial.
        let useful = if entry.hosts.trial_due() { entry.connections + 1 } else { entry.useful_connections() };
        let wanted = useful.min(entry.allowed());
        // A site that failed is tried with one connection until it works again (QUE-05), and so is one that may refuse us.
        let probing = entry.failures > 0 || entry.tried > 0 || entry.login_in_doubt;
        if entry.opening as usize >= entry.ready.len()
            || (probing && entry.connections > 0)
            || entry.connections >= entry.allowed()
            || entry.throttle.holds(now.mono).is_some()
        {
            return false;
        }
        if !entry.reachable(now.mono) {
            // Their answers are no younger: all that comes first asks again.
            let known = self.first_known(now.mono, site);
            assert!(known.is_none(), "a site is good for as long as any destination that leads to it");
            return false;
        }
        if !self.has_slot(now, site, effects) {
            return false;
        }
        let name = self.sites.table[site as usize].name.clone();
        self.want_permits(site, wanted, effects);
        if !self.sites.permits.take(&name) {
            return false;
        }
        let entry = &mut self.sites.table[site as usize];
        entry.connections += 1;
        self.sites.connected += usize::from(entry.connections == 1);
        entry.opening += 1;
        let address = entry.hosts.choose(now.mono, &mut self.rng).expect("a reachable site has addresses");
        let proxied = self.settings.sources[usize::from(entry.source)].proxy.is_some();
        // Through a proxy every connection stands at once, and a race tells nothing.
        let rival = entry.hosts.rival(now.mono, address).filter(|_| !proxied);
        self.dial(now, site, address, if rival.is_some() { Race::Ahead } else { Race::None }, effects);
        true
    }

    fn dial(&mut self, now: Now, site: SiteId, address: SocketAddr, race: Race, effects: &mut Vec<Effect>) -> ConnId {
        let safety = self.sites.table[site as usize].hosts.safety(address);
        let wish = self.sites.table[site as usize].tls_wish(now.mono, address, &safety);
        let watch = self.watch_session(site);
        self.counters.dials += 1;
        let client = self.new_client(now, site, &safety, wish);
        let source = &self.settings.sources[usize::from(self.sites.table[site as usize].source)];
        let proxy = source.proxy;
        let source = source.address_for(address.ip()).expect("a site leads nowhere that its source cannot reach");
        let id = self.conns.insert(Side::Out(Box::new(Outbound {
            view: None,
            client,
            site,
            address,
            safety,
            certified: false,
            watch,
            fault: None,
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
            socks: None,
        })));
        let mut conn = self.conns.take(id).expect("it was just inserted");
        let connect_ms = self.settings.timeout.connect_ms;
        conn.deadline =
            now.mono.plus_ms(if race == Race::Ahead { connect_ms.min(limits::CONNECT_RACE_MS) } else { connect_ms });
        self.watch(now.mono, id, &mut conn);
        self.conns.put(id, conn);
        effects.push(match (proxy, self.sites.table[site as usize].socket()) {
            (_, Some(path)) => Effect::Dial { conn: id, to: Endpoint::Unix(path.to_owned()), source: None },
            (Some(proxy), None) => Effect::Dial { conn: id, to: Endpoint::Tcp(proxy.address()), source: None },
            (None, None) => Effect::Dial { conn: id, to: Endpoint::Tcp(address), source },
        });
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
        let ready = entry.ready.iter(&self.backlog.links);
        let old = ready.filter(|&job| self.is_old(now, job)).take(limits::EXPIRED_AT_ONCE_MAX).collect();
        self.look_after_old(now, old, UNREACHED, effects);
    }

    /// It is to be given up, or its sender to be told that it takes long.
    pub(super) fn is_old(&self, now: Now, job: JobId) -> bool {
        self.expired(now, job) || self.delay_is_due(now, job)
    }

    pub(super) fn expired(&self, now: Now, job: JobId) -> bool {
        now.mono >= self.backlog.messages[self.backlog.jobs[job as usize].message as usize].expires
    }
}
