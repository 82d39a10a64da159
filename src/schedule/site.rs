//! A site: hosts that share limits as the scheduler sees them, with the jobs that wait for it and the connections it has.
//!
//! Pure and shard-local. Decides *whether* something may be tried at a site now; the shard does it. A site that
//! does not answer pauses as a whole, so that its queue costs one attempt per pause and not one per message
//! (QUE-05), and never holds up another site (QUE-06).

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use crate::base::ids::ConnId;
use crate::base::limits;
use crate::base::rng::Rng;
use crate::base::time::Mono;
use crate::config::{HopAddress, NextHopSettings, Protocol, SiteSettings, SourceId};
use crate::route::decide::{Decision, SiteKind};
use crate::route::safety::{Identity, Safety};
use crate::schedule::backoff::Backoff;
use crate::schedule::fair::Fair;
use crate::schedule::hosts::Hosts;
use crate::schedule::rate::Purse;
use crate::schedule::throttle::Throttle;
use crate::schedule::warm_up::WarmUp;
use crate::shard::parcel::SiteName;
use crate::smtp::client::{Login, Needs, TlsWish};

/// Index of a site in its shard's table.
pub type SiteId = u32;

/// Index of a job in its shard's table.
pub type JobId = u32;

/// No site.
pub const NO_SITE: SiteId = u32::MAX;

/// One site.
#[derive(Debug)]
pub struct Site {
    /// Its name, the same on all shards.
    pub name: SiteName,
    /// What it may have and take.
    pub limits: Arc<SiteSettings>,
    /// Jobs that may be sent now.
    pub ready: Fair,
    /// It is among those that may have something to do at the end of the step.
    pub marked: bool,
    /// Destinations that lead to it.
    pub destinations: u32,
    /// Jobs that wait for it or are under way, the ones being read back included.
    pub jobs: u32,
    /// Jobs whose record is being read back.
    pub loading: u32,
    /// Connections with nothing to do, the most recently used last.
    pub idle: Vec<ConnId>,
    /// All connections, those being dialled included.
    pub connections: u32,
    /// Connections it may have by what it has shown: two at first, and one more for each that became ready.
    window: u32,
    /// Connections that are not yet ready for a transaction.
    pub opening: u32,
    /// Busy connections that will take one more job with their next reply.
    pub hungry: u32,
    /// When one of them last had its reply, or the first of them began to wait.
    fed: Mono,
    /// How long they wait for it, smoothed, in microseconds.
    reply_us: u64,
    /// It is among those that wait for an outbound connection of the shard's to end.
    pub waits_for_slot: bool,
    /// It is among those that wait for a read to end.
    pub waits_for_reads: bool,
    /// It is among those that have, or lately had, a connection with nothing to do.
    pub at_rest: bool,
    /// When jobs left to them are looked at again.
    pub claims_watched: Mono,
    /// Until when its addresses are good, as the last answer about a destination had it.
    pub good_until: Mono,
    /// The addresses, and which of them failed lately.
    pub hosts: Hosts,
    /// Addresses tried in vain since the last success or pause.
    pub tried: u32,
    /// Pauses in a row.
    pub failures: u32,
    /// An operator wants nothing sent.
    pub suspended: bool,
    /// No attempt before this moment.
    pub paused_until: Mono,
    /// Without jobs it is looked at again then, because a host of it failed.
    pub kept_until: Mono,
    /// Where its connections come from.
    pub source: SourceId,
    /// What the configuration says of it, if it does.
    pub next_hop: Option<Arc<NextHopSettings>>,
    /// Whether it takes our credentials is not known, or it did not the last time: one connection finds out (AUT-10).
    pub login_in_doubt: bool,
    /// How far it holds itself back because the next hop asked for less.
    pub throttle: Throttle,
    /// Connections that take no more transactions and are not gone yet.
    pub ending: u32,
    /// Messages that may be sent, where the site has a rate.
    pub purse: Purse,
    /// How its source is warmed up for it, if it is.
    pub warm_up: Option<Arc<WarmUp>>,
    /// It waits until its source may offer more to it.
    pub waits_for_allowance: bool,
    /// What all of its mail needs a host to be able to do.
    pub needs: Needs,
    /// No host can, and what waits is on its way back to where it came from.
    pub given_up: bool,
    /// What sessions with its addresses showed, if that is anything.
    shown: Option<Box<Shown>>,
}

/// What sessions with the addresses of a site showed; there may be very many sites, and of most nothing.
#[derive(Debug, Default)]
struct Shown {
    /// Addresses whose TLS handshake failed, and until when they are tried in clear (TLS-06).
    clear: Vec<(SocketAddr, Mono)>,
    /// Addresses whose hosts cannot do what its mail needs, as their last session showed.
    lacking: Vec<SocketAddr>,
}

impl Site {
    /// A site that nothing is known of.
    pub fn new(kind: SiteKind, decision: &Decision) -> Site {
        let SiteKind { name, limits, warm_up } = kind;
        Site {
            name,
            limits,
            ready: Fair::default(),
            marked: false,
            destinations: 0,
            jobs: 0,
            loading: 0,
            idle: Vec::new(),
            connections: 0,
            opening: 0,
            hungry: 0,
            fed: Mono::default(),
            reply_us: limits::RIDE_WAIT_MS * 1000,
            window: limits::SITE_FIRST_CONNECTIONS,
            waits_for_slot: false,
            waits_for_reads: false,
            at_rest: false,
            claims_watched: Mono::default(),
            good_until: Mono::default(),
            hosts: Hosts::default(),
            tried: 0,
            failures: 0,
            suspended: false,
            paused_until: Mono::default(),
            kept_until: Mono::default(),
            source: decision.source,
            next_hop: decision.next_hop.configured().cloned(),
            login_in_doubt: decision.next_hop.configured().is_some_and(|hop| hop.credentials.is_some()),
            throttle: Throttle::default(),
            ending: 0,
            purse: Purse::default(),
            warm_up,
            waits_for_allowance: false,
            needs: decision.needs,
            given_up: false,
            shown: None,
        }
    }

    /// The configuration may say something else of it by now. Sessions that stand are not concerned.
    pub fn configure(&mut self, kind: SiteKind, decision: &Decision) {
        let next_hop = decision.next_hop.configured();
        if self.next_hop.as_ref() != next_hop {
            self.login_in_doubt = next_hop.is_some_and(|hop| hop.credentials.is_some());
            self.next_hop = next_hop.cloned();
        }
        (self.limits, self.warm_up) = (kind.limits, kind.warm_up);
    }

    /// True while nothing may be tried, by itself or by an operator's order.
    pub fn paused(&self, now: Mono) -> bool {
        self.suspended || now < self.paused_until
    }

    /// Connections it may have now: its limit, or less because the next hop asked for less or is yet to show that it can.
    pub fn allowed(&self) -> u32 {
        self.throttle.allowed(self.limits.connections).min(self.window)
    }

    /// A connection is ready for its first transaction, and so it took our credentials, if it wants any.
    pub fn opened(&mut self) {
        self.opening -= 1;
        self.login_in_doubt = false;
        self.window = self.window.saturating_add(1);
    }

    /// True if a connection at rest is its last, and has been promised a message: the home of its rate will answer. Shards that
    /// share one permit and a low rate would else pass it round, each too late for what it is allowed, and deliver nothing.
    pub fn keeps_its_last(&self, now: Mono) -> bool {
        self.connections == 1 && self.purse.waits() && !self.ready.is_empty() && !self.paused(now)
    }

    /// Connections this site could use: one per job that waits, on top of those that are busy.
    pub fn useful_connections(&self) -> u32 {
        let busy = self.connections - self.idle.len() as u32 - self.opening;
        busy.saturating_add(self.ready.len() as u32)
    }

    /// Jobs that wait and are not left to busy connections, whose envelopes ride behind bodies and cost no round trip and
    /// no system call. As many are left to each as it will take within `RIDE_WAIT_MS`; none if all of them are silent.
    pub fn unclaimed(&self, now: Mono) -> usize {
        if now >= self.fed.plus_ms(limits::RIDE_WAIT_MS) {
            return self.ready.len();
        }
        let each = (limits::RIDE_WAIT_MS * 1000 / self.reply_us.max(1)).min(limits::RIDES_LEFT_MAX);
        self.ready.len().saturating_sub(self.hungry as usize * each as usize)
    }

    /// One more connection will take a job along with its next reply.
    pub fn grow_hungry(&mut self, now: Mono) {
        if self.hungry == 0 {
            self.fed = now;
        }
        self.hungry += 1;
    }

    /// A connection that was hungry since a moment had its reply, or is gone.
    pub fn feed(&mut self, now: Mono, since: Mono) {
        self.hungry -= 1;
        self.fed = now;
        self.reply_us = (7 * self.reply_us + (now.0 - since.0)) / 8;
    }

    /// True if it is known where to connect.
    pub fn reachable(&self, now: Mono) -> bool {
        now < self.good_until
    }

    /// Whether a connection to an address, of which this is asked, goes inside TLS (TLS-06, TLS-07).
    pub fn tls_wish(&self, now: Mono, address: SocketAddr, safety: &Safety) -> TlsWish {
        match safety {
            Safety::Never => TlsWish::Never,
            Safety::IfOffered | Safety::Tested { .. } => {
                let mut clear = self.shown.iter().flat_map(|shown| &shown.clear);
                let failed = clear.any(|&(at, until)| at == address && now < until);
                if failed { TlsWish::Never } else { TlsWish::IfOffered }
            }
            Safety::Always(_) => TlsWish::Always,
        }
    }

    /// The socket in the file system that is its host.
    pub fn socket(&self) -> Option<&Path> {
        match &self.next_hop.as_ref()?.to {
            HopAddress::Socket(path) => Some(path),
            HopAddress::Host(_) => None,
        }
    }

    /// What its sessions speak.
    pub fn protocol(&self) -> Protocol {
        self.next_hop.as_ref().map_or(Protocol::Smtp, |hop| hop.protocol)
    }

    /// How a session of which this is asked proves who we are, if it does (AUT-10).
    pub fn login(&self, safety: &Safety) -> Option<Login> {
        let hop = self.next_hop.as_ref()?;
        let credentials = hop.credentials.clone()?;
        let proven = matches!(safety, Safety::Always(Identity::Name | Identity::Dane(_)));
        Some(Login { credentials, proven, allow_clear: hop.allow_clear })
    }

    /// The TLS handshake with an address failed: it is tried in clear for a while. For what is opportunistic only.
    pub fn go_clear(&mut self, now: Mono, address: SocketAddr) {
        let clear = &mut self.shown.get_or_insert_default().clear;
        clear.retain(|&(at, until)| at != address && now < until);
        if clear.len() == limits::TLS_FALLBACKS_MAX {
            clear.remove(0);
        }
        clear.push((address, now.plus_ms(limits::TLS_FALLBACK_MS)));
    }

    /// A connection to an address failed before it was of any use: the address is left aside for a while. When no other
    /// is left, or enough were tried, the site pauses, longer each time. Gives the end of the pause if one began.
    pub fn failed(&mut self, now: Mono, address: SocketAddr, backoff: &Backoff, rng: &mut Rng) -> Option<Mono> {
        self.tried += u32::from(self.hosts.failed(now, address, backoff, rng));
        if self.paused(now) || (self.tried < limits::ADDRESSES_TRIED_MAX && self.hosts.any_left(now)) {
            return None;
        }
        Some(self.pause(now, backoff, rng))
    }

    /// The host at an address can, or cannot, do what the site's mail needs. True if none of its hosts can (EXT-06, RTL-02).
    pub fn note_ability(&mut self, address: SocketAddr, able: bool) -> bool {
        if able && self.shown.is_none() {
            return false;
        }
        let lacking = &mut self.shown.get_or_insert_default().lacking;
        lacking.retain(|&other| other != address && self.hosts.name(other).is_some());
        if !able {
            lacking.push(address);
        }
        !able && self.hosts.targets().len() == lacking.len()
    }

    /// The site as a whole pauses, longer each time in a row. Gives the end of the pause.
    pub fn pause(&mut self, now: Mono, backoff: &Backoff, rng: &mut Rng) -> Mono {
        if !self.paused(now) {
            self.failures = self.failures.saturating_add(1);
            self.paused_until = now.plus_ms(backoff.delay_ms(self.failures, rng));
            self.tried = 0;
            self.window = limits::SITE_FIRST_CONNECTIONS;
        }
        self.paused_until
    }

    /// A transaction at an address was of use: whatever was wrong with the site and the host is over. True if the host was
    /// not well before.
    pub fn succeeded(&mut self, address: SocketAddr) -> bool {
        self.failures = 0;
        self.tried = 0;
        self.paused_until = Mono::default();
        self.hosts.succeeded(address)
    }

    /// True if nothing speaks of the site any more.
    pub fn unused(&self, now: Mono) -> bool {
        let named = self.destinations > 0 || self.purse.waits();
        self.jobs == 0 && self.connections == 0 && now >= self.paused_until && !named
    }
}
