//! Permits: how many connections a site may have, kept over all shards without shared state.
//!
//! A site's *home* shard, chosen by hash, owns the site's limit and lends it out one connection at a time, as
//! permits. A shard that wants connections is a *holder*: it tells the home how many it wants in all, gets grants,
//! uses one permit for each connection, and gives permits back when it wants fewer or is asked to. The home's own
//! shard is a holder like any other; only its parcels go no further than [`Permits`].
//!
//! What holds, asserted here and tested over random interleavings:
//! - Out + free = limit. Only after the limit was lowered may more be out; then nothing is free, and the excess is
//!   recalled. Since a permit counts as out from before the grant leaves until after the return came in, connections
//!   over all shards are never more than the limit.
//! - Every grant is good for a connection: only a permit that was used, or is no longer wanted, goes back.
//! - A permit is returned at most once: a holder returns only what it holds.
//! - Fair shares: nobody who wants more has two permits less than somebody else, once the recalls are answered.
//!   If there are fewer permits than shards that want one, they go round: longest held, first recalled.
//!
//! Parcels between two shards must arrive in order; any delay is fine. Parcels come from our own shards, so nonsense
//! in one is a panic. Shard-local; one hash look-up for each call.

use std::collections::VecDeque;

use rustc_hash::FxHashMap;

use crate::base::checksum::crc32c;
use crate::base::ids::ShardId;
use crate::shard::parcel::{Parcel, SiteName};

/// The shard that owns a site's limit: the same on all shards and in every run.
pub fn home_of(site: &str, shards: u16) -> ShardId {
    assert!(shards > 0, "a relay has shards");
    // The checksum's low bits follow the name's last bytes closely; the product spreads them before the high ones count.
    let hash = crc32c(&[site.as_bytes()]).wrapping_mul(0x9e37_79b1);
    ShardId(((u64::from(hash) * u64::from(shards)) >> 32) as u16)
}

/// Both sides of one shard. What it says to itself is settled at once; the rest goes out as parcels.
#[derive(Clone)]
pub struct Permits {
    shard: ShardId,
    shards: u16,
    home: Home,
    holder: Holder,
    /// Parcels from this shard to itself, in order; empty between calls.
    local: VecDeque<Parcel>,
    /// What the home said, before it is known for whom; kept for its memory.
    said: Vec<(ShardId, Parcel)>,
}

impl Permits {
    /// For the shard `shard` of `shards`.
    pub fn new(shard: ShardId, shards: u16) -> Permits {
        assert!(shard.0 < shards, "a shard is one of its relay's");
        Permits {
            shard,
            shards,
            home: Home::default(),
            holder: Holder::default(),
            local: VecDeque::new(),
            said: Vec::new(),
        }
    }

    /// This shard wants so many connections to the site in all: those it has and those it lacks. 0: none any more. All
    /// shards know the site's limit; who wants something tells the home. Saying the same again costs nothing.
    pub fn want(&mut self, site: &SiteName, connections: u32, limit: u32, out: &mut Vec<(ShardId, Parcel)>) {
        self.holder.want(site, connections, limit);
        self.settle(out);
    }

    /// Takes in a parcel of another shard.
    pub fn handle(&mut self, from: ShardId, parcel: Parcel, out: &mut Vec<(ShardId, Parcel)>) {
        assert!(from != self.shard && from.0 < self.shards, "parcels come from other shards");
        match parcel {
            Parcel::Want { .. } | Parcel::Return { .. } => self.home.handle(from, parcel, &mut self.said),
            Parcel::Grant { .. } | Parcel::Recall { .. } => self.holder.handle(parcel),
            Parcel::Ask { .. } | Parcel::Allow { .. } => panic!("a rate is no permit"),
        }
        self.settle(out);
    }

    /// Uses one permit of the site for a connection; false if none is idle.
    pub fn take(&mut self, site: &str) -> bool {
        self.holder.take(site)
    }

    /// A connection of the site is gone: its permit is idle again, or goes back if it is owed or no longer wanted.
    pub fn give_back(&mut self, site: &SiteName, out: &mut Vec<(ShardId, Parcel)>) {
        self.holder.give_back(site);
        self.settle(out);
    }

    /// Permits of the site that [`take`](Self::take) would find.
    pub fn idle(&self, site: &str) -> u32 {
        self.holder.idle(site)
    }

    /// Connections of the site that the shard must close, each when it is idle or has ended a message. A permit just
    /// granted may be owed already; it is still good for one connection.
    pub fn owed(&self, site: &str) -> u32 {
        self.holder.owed(site)
    }

    /// A site whose idle or owed permits changed since it was last named here, if there is one. The shard answers by
    /// using what is idle, by closing what is owed, or by wanting less: an idle permit it wants stays with it.
    pub fn news(&mut self) -> Option<SiteName> {
        self.holder.news.pop_front()
    }

    /// Passes on what both sides said until neither says more.
    fn settle(&mut self, out: &mut Vec<(ShardId, Parcel)>) {
        loop {
            for (to, parcel) in self.said.drain(..) {
                if to == self.shard { self.local.push_back(parcel) } else { out.push((to, parcel)) }
            }
            for parcel in self.holder.said.drain(..) {
                let home = home_of(site_of(&parcel), self.shards);
                if home == self.shard { self.local.push_back(parcel) } else { out.push((home, parcel)) }
            }
            match self.local.pop_front() {
                None => break,
                Some(parcel @ (Parcel::Want { .. } | Parcel::Return { .. })) => {
                    self.home.handle(self.shard, parcel, &mut self.said);
                }
                Some(parcel) => self.holder.handle(parcel),
            }
        }
    }
}

fn site_of(parcel: &Parcel) -> &SiteName {
    match parcel {
        Parcel::Want { site, .. }
        | Parcel::Grant { site, .. }
        | Parcel::Recall { site, .. }
        | Parcel::Ask { site, .. }
        | Parcel::Allow { site, .. }
        | Parcel::Return { site, .. } => site,
    }
}

// ---- the home's side ----

/// The limits of the sites whose home a shard is, and who holds how much of them.
#[derive(Clone, Default)]
struct Home {
    sites: FxHashMap<SiteName, Site>,
}

#[derive(Clone, Default)]
struct Site {
    limit: u32,
    /// Everyone who wants or holds something.
    shares: Vec<Share>,
    /// Counts grants and returns, to tell who has waited and who has held longest.
    turn: u64,
}

/// What one shard has of one site.
#[derive(Clone)]
struct Share {
    shard: ShardId,
    /// What it wants in all.
    wanted: u32,
    /// Lent to it, grants and returns under way included.
    held: u32,
    /// Of those, asked back and not yet here.
    recalled: u32,
    /// The turn of its last grant or return.
    served: u64,
}

impl Share {
    /// What it will have when the recalls are answered.
    fn keeps(&self) -> u32 {
        self.held - self.recalled
    }
    fn lacks(&self) -> u32 {
        self.wanted.saturating_sub(self.held)
    }
}

impl Home {
    fn handle(&mut self, from: ShardId, parcel: Parcel, out: &mut Vec<(ShardId, Parcel)>) {
        let name = site_of(&parcel).clone();
        let site = self.sites.entry(name.clone()).or_default();
        match parcel {
            Parcel::Want { connections, limit, .. } => {
                // Who wants nothing any more may have heard of it long ago.
                if connections > 0 {
                    site.limit = limit;
                }
                site.share(from).wanted = connections;
            }
            Parcel::Return { connections, .. } => {
                let share = site.share(from);
                assert!(connections <= share.held, "shard {} returned a permit it does not hold", from.0);
                share.held -= connections;
                share.recalled = share.recalled.saturating_sub(connections);
                // Who has just had a permit waits behind those who have not.
                site.served_now(from);
            }
            _ => panic!("a home grants and recalls, nobody else"),
        }
        site.balance(&name, out);
        // A site nobody speaks of takes no memory.
        if site.shares.is_empty() {
            self.sites.remove(&name);
        }
    }
}

impl Site {
    fn share(&mut self, shard: ShardId) -> &mut Share {
        let at = self.shares.iter().position(|share| share.shard == shard).unwrap_or_else(|| {
            if self.shares.is_empty() {
                // Most sites are one or two shards', and there may be very many sites.
                self.shares.reserve_exact(1);
            }
            self.shares.push(Share { shard, wanted: 0, held: 0, recalled: 0, served: 0 });
            self.shares.len() - 1
        });
        &mut self.shares[at]
    }

    fn served_now(&mut self, shard: ShardId) {
        self.turn += 1;
        self.share(shard).served = self.turn;
    }

    fn out(&self) -> u32 {
        self.shares.iter().map(|share| share.held).sum()
    }

    /// Lends what is free and asks back what is held unfairly. Forgets who neither wants nor holds.
    fn balance(&mut self, name: &SiteName, out: &mut Vec<(ShardId, Parcel)>) {
        let out_before = self.out();
        let free = self.limit.saturating_sub(out_before);
        let granted = self.grant(free, name, out);
        self.recall(name, out);
        self.shares.retain(|share| share.wanted > 0 || share.held > 0);
        let out_now = self.out();
        assert_eq!(out_now, out_before + granted, "permits appear or vanish");
        assert!(out_now <= self.limit.max(out_before), "more permits are lent than there are");
        assert!(self.shares.iter().all(|share| share.recalled <= share.held), "more is recalled than was lent");
    }

    /// Lends up to `free` permits: always to whoever lacks and holds least, of those to who waited longest.
    fn grant(&mut self, free: u32, name: &SiteName, out: &mut Vec<(ShardId, Parcel)>) -> u32 {
        let mut left = free;
        let first = out.len();
        while left > 0 {
            let lacking = self.shares.iter_mut().filter(|share| share.lacks() > 0);
            let Some(share) = lacking.min_by_key(|share| (share.held, share.served)) else { break };
            share.held += 1;
            left -= 1;
            let shard = share.shard;
            self.served_now(shard);
            match out[first..].iter_mut().find(|(to, _)| *to == shard) {
                Some((_, Parcel::Grant { connections, .. })) => *connections += 1,
                _ => out.push((shard, Parcel::Grant { site: name.clone(), connections: 1 })),
            }
        }
        free - left
    }

    /// Asks back what is over the limit, and what others have a better claim to.
    fn recall(&mut self, name: &SiteName, out: &mut Vec<(ShardId, Parcel)>) {
        if self.out() <= self.limit && self.shares.iter().all(|share| share.lacks() == 0) {
            return;
        }
        let mut asked = vec![0u32; self.shares.len()];
        let mut kept: u32 = self.shares.iter().map(Share::keeps).sum();
        while kept > self.limit {
            let most = self.fullest().expect("what is kept is kept by someone");
            self.shares[most].recalled += 1;
            asked[most] += 1;
            kept -= 1;
        }
        // What comes back, by earlier recalls too, is spoken for first; only for the rest is more recalled.
        let mut coming = self.limit - kept;
        let mut due: Vec<u32> = self.shares.iter().map(Share::keeps).collect();
        loop {
            let claims = (0..self.shares.len()).filter(|&i| due[i] < self.shares[i].wanted);
            let Some(claimant) = claims.min_by_key(|&i| (due[i], self.shares[i].held, self.shares[i].served)) else {
                break;
            };
            if coming == 0 {
                let Some(most) = self.fullest() else { break };
                // One more for the claimant must not leave the other worse off, unless the claimant has nothing and
                // is owed nothing: then it is its turn. (It holds nothing, so it is in turn but once.)
                let turn = due[claimant] == 0 && self.shares[claimant].held == 0;
                let keeps = self.shares[most].keeps();
                if most == claimant || !(keeps > due[claimant] + 1 || turn) {
                    break;
                }
                self.shares[most].recalled += 1;
                asked[most] += 1;
                due[most] -= 1;
                coming += 1;
            }
            coming -= 1;
            due[claimant] += 1;
        }
        for (share, connections) in self.shares.iter().zip(asked).filter(|(_, connections)| *connections > 0) {
            out.push((share.shard, Parcel::Recall { site: name.clone(), connections }));
        }
    }

    /// Who keeps most; of equals, who was served longest ago.
    fn fullest(&self) -> Option<usize> {
        let keeping = (0..self.shares.len()).filter(|&i| self.shares[i].keeps() > 0);
        keeping.max_by_key(|&i| (self.shares[i].keeps(), u64::MAX - self.shares[i].served))
    }
}

// ---- the holder's side ----

/// The permits that a shard holds.
#[derive(Clone, Default)]
struct Holder {
    sites: FxHashMap<SiteName, Holding>,
    /// What it has to tell homes, in order.
    said: Vec<Parcel>,
    /// Sites with a change to look at, each once.
    news: VecDeque<SiteName>,
}

#[derive(Clone, Default)]
struct Holding {
    wanted: u32,
    /// The site's limit, as the home was told.
    limit: u32,
    held: u32,
    /// Of those, in use by connections.
    used: u32,
    /// Of those, granted and never used since: exempt from recalls, or scarce permits would go round unused.
    fresh: u32,
    /// Of those, asked back by the home.
    owed: u32,
}

impl Holder {
    fn want(&mut self, site: &SiteName, connections: u32, limit: u32) {
        let holding = match self.sites.get_mut(site) {
            Some(holding) => holding,
            None if connections == 0 => return,
            None => self.sites.entry(site.clone()).or_default(),
        };
        if (holding.wanted, holding.limit) == (connections, limit) {
            return;
        }
        holding.wanted = connections;
        holding.limit = limit;
        // First the new want, then what it leaves over: the other way round the home would lend it out to us again.
        self.said.push(Parcel::Want { site: site.clone(), connections, limit });
        self.pay(site);
    }

    fn handle(&mut self, parcel: Parcel) {
        let holding = self.sites.entry(site_of(&parcel).clone()).or_default();
        let site = match parcel {
            Parcel::Grant { site, connections } => {
                holding.held += connections;
                holding.fresh += connections;
                site
            }
            Parcel::Recall { site, connections } => {
                // Less may be held than asked for: what is missing is on its way back already.
                holding.owed = (holding.owed + connections).min(holding.held);
                site
            }
            _ => panic!("a holder wants and returns, nobody else"),
        };
        self.pay(&site);
        if !self.news.contains(&site) {
            self.news.push_back(site);
        }
    }

    fn take(&mut self, site: &str) -> bool {
        match self.sites.get_mut(site) {
            Some(holding) if holding.used < holding.held => {
                holding.used += 1;
                holding.fresh = holding.fresh.saturating_sub(1);
                true
            }
            _ => false,
        }
    }

    fn give_back(&mut self, site: &SiteName) {
        let holding = self.sites.get_mut(site).expect("a used permit is held");
        assert!(holding.used > 0, "a permit is given back once");
        holding.used -= 1;
        self.pay(site);
    }

    fn idle(&self, site: &str) -> u32 {
        self.sites.get(site).map_or(0, |holding| holding.held - holding.used)
    }

    fn owed(&self, site: &str) -> u32 {
        self.sites.get(site).map_or(0, |holding| holding.owed)
    }

    /// Returns the idle permits that are owed or not wanted. Forgets a site with nothing left.
    fn pay(&mut self, site: &SiteName) {
        let holding = self.sites.get_mut(site).expect("a site being spoken of");
        let idle = holding.held - holding.used;
        let unwanted = holding.held.saturating_sub(holding.wanted).min(idle);
        let due = unwanted.max(holding.owed.min(idle - holding.fresh));
        if due > 0 {
            holding.held -= due;
            holding.owed = holding.owed.saturating_sub(due);
            holding.fresh = holding.fresh.min(holding.held - holding.used);
            self.said.push(Parcel::Return { site: site.clone(), connections: due });
        }
        let busy = holding.used + holding.fresh;
        assert!(busy <= holding.held && holding.owed <= busy, "a holder's permits do not add up");
        if holding.held == 0 && holding.wanted == 0 {
            self.sites.remove(site);
        }
    }
}

#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;
