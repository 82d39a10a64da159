//! A mesh of shards with parcels that take their time.

use super::*;
use crate::base::rng::Rng;

/// Shards, the parcels between them, and the connections each has to the one site.
struct Mesh {
    site: SiteName,
    limit: u32,
    shards: Vec<Permits>,
    /// By sender and receiver, in order.
    under_way: Vec<VecDeque<Parcel>>,
    used: Vec<u32>,
    wanted: Vec<u32>,
    /// How often each went from no connection to one.
    turns: Vec<u32>,
    out: Vec<(ShardId, Parcel)>,
}

impl Mesh {
    fn new(shards: u16, limit: u32) -> Mesh {
        Mesh {
            site: "mx example.org".into(),
            limit,
            shards: (0..shards).map(|i| Permits::new(ShardId(i), shards)).collect(),
            under_way: vec![VecDeque::new(); usize::from(shards) * usize::from(shards)],
            used: vec![0; shards.into()],
            wanted: vec![0; shards.into()],
            turns: vec![0; shards.into()],
            out: Vec::new(),
        }
    }

    fn post(&mut self, from: usize) {
        let shards = self.shards.len();
        for (to, parcel) in self.out.drain(..) {
            self.under_way[from * shards + usize::from(to.0)].push_back(parcel);
        }
    }

    fn want(&mut self, shard: usize, connections: u32) {
        self.wanted[shard] = connections;
        self.shards[shard].want(&self.site, connections, self.limit, &mut self.out);
        self.post(shard);
    }

    fn take(&mut self, shard: usize) {
        if self.used[shard] < self.wanted[shard] && self.shards[shard].take(&self.site) {
            self.turns[shard] += u32::from(self.used[shard] == 0);
            self.used[shard] += 1;
        }
    }

    fn give_back(&mut self, shard: usize) {
        if self.used[shard] > 0 {
            self.used[shard] -= 1;
            self.shards[shard].give_back(&self.site, &mut self.out);
            self.post(shard);
        }
    }

    fn set_limit(&mut self, limit: u32) {
        // Limits change with the configuration, for all shards at once, and not while parcels of an earlier one are under way.
        let mut rng = Rng::new(limit.into());
        while self.deliver(&mut rng) {}
        self.limit = limit;
        for shard in 0..self.shards.len() {
            self.want(shard, self.wanted[shard]);
        }
    }

    /// Delivers one parcel of a random pair; false if none is under way.
    fn deliver(&mut self, rng: &mut Rng) -> bool {
        let shards = self.shards.len();
        let pairs: Vec<usize> = (0..shards * shards).filter(|&pair| !self.under_way[pair].is_empty()).collect();
        if pairs.is_empty() {
            return false;
        }
        let pair = pairs[rng.below(pairs.len() as u64) as usize];
        let parcel = self.under_way[pair].pop_front().expect("chosen for having one");
        self.shards[pair % shards].handle(ShardId((pair / shards) as u16), parcel, &mut self.out);
        self.post(pair % shards);
        true
    }

    fn connections(&self) -> u32 {
        self.used.iter().sum()
    }

    /// Shards use what they get and obey recalls, until all is quiet or `steps` are over.
    fn run(&mut self, rng: &mut Rng, steps: usize, mut look: impl FnMut(&Mesh)) -> bool {
        for _ in 0..steps {
            let moved = self.deliver(rng);
            let mut busy = false;
            for shard in 0..self.shards.len() {
                while self.used[shard] < self.wanted[shard] && self.shards[shard].idle(&self.site) > 0 {
                    self.take(shard);
                    busy = true;
                }
            }
            look(self);
            for shard in 0..self.shards.len() {
                if self.shards[shard].owed(&self.site) > 0 || self.used[shard] > self.wanted[shard] {
                    self.give_back(shard);
                    busy = true;
                }
            }
            if !moved && !busy {
                return true;
            }
        }
        false
    }
}

#[test]
fn random_interleavings_keep_the_limit() {
    for seed in 0..400 {
        let mut rng = Rng::new(seed);
        let limit = 1 + rng.below(12) as u32;
        let mut mesh = Mesh::new(1 + rng.below(8) as u16, limit);
        for _ in 0..1500 {
            let shard = rng.below(mesh.shards.len() as u64) as usize;
            match rng.below(8) {
                0 => mesh.want(shard, rng.below(7) as u32),
                1 | 2 => mesh.take(shard),
                3 => mesh.give_back(shard),
                _ => drop(mesh.deliver(&mut rng)),
            }
            assert!(mesh.connections() <= limit, "seed {seed}");
        }
        // Nobody wants any more: everything comes home and is forgotten.
        for shard in 0..mesh.shards.len() {
            mesh.want(shard, 0);
        }
        assert!(mesh.run(&mut rng, 10_000, |_| ()), "seed {seed}: no rest");
        assert!(mesh.shards.iter().all(|s| s.home.sites.is_empty() && s.holder.sites.is_empty()), "seed {seed}");
    }
}

/// Whatever happened before, once wants stay the same and there are enough permits, all of use are lent, fairly.
#[test]
fn constant_wants_settle_on_fair_shares() {
    for seed in 0..400 {
        let mut rng = Rng::new(seed);
        let shards = 1 + rng.below(8) as u16;
        let mut limit = u32::from(shards) + rng.below(12) as u32;
        let mut mesh = Mesh::new(shards, limit);
        for _ in 0..3 {
            for _ in 0..200 {
                let shard = rng.below(shards.into()) as usize;
                match rng.below(4) {
                    0 => mesh.want(shard, rng.below(9) as u32),
                    1 => mesh.take(shard),
                    _ => drop(mesh.deliver(&mut rng)),
                }
            }
            limit = u32::from(shards) + rng.below(12) as u32;
            mesh.set_limit(limit);
            assert!(mesh.run(&mut rng, 20_000, |_| ()), "seed {seed}: no rest");
            let all: u32 = mesh.wanted.iter().sum();
            assert_eq!(mesh.connections(), all.min(limit), "seed {seed}");
            for (poor, rich) in (0..shards as usize).flat_map(|i| (0..shards as usize).map(move |j| (i, j))) {
                let content = mesh.used[poor] == mesh.wanted[poor];
                assert!(content || mesh.used[rich] <= mesh.used[poor] + 1, "seed {seed}: {:?}", mesh.used);
            }
        }
    }
}

/// Fewer permits than shards that want one: they go round, and evenly.
#[test]
fn scarce_permits_go_round() {
    for seed in 0..100 {
        let mut rng = Rng::new(seed);
        let shards = 2 + rng.below(7) as usize;
        let limit = 1 + rng.below(shards as u64 - 1) as u32;
        let mut mesh = Mesh::new(shards as u16, limit);
        for shard in 0..shards {
            mesh.want(shard, 1 + rng.below(3) as u32);
        }
        let quiet = mesh.run(&mut rng, 4000, |mesh| assert!(mesh.connections() <= limit));
        assert!(!quiet, "someone waits for ever");
        let (least, most) = (mesh.turns.iter().min().unwrap(), mesh.turns.iter().max().unwrap());
        assert!(*least > 20 && *most <= least * 2, "seed {seed}: {:?}", mesh.turns);
    }
}

#[test]
fn one_shard_needs_no_parcels() {
    let mut permits = Permits::new(ShardId(0), 1);
    let (site, mut out): (SiteName, _) = ("mx example.org".into(), Vec::new());
    permits.want(&site, 5, 2, &mut out);
    assert_eq!((permits.idle(&site), permits.news()), (2, Some(site.clone())));
    assert!(permits.take(&site) && permits.take(&site) && !permits.take(&site));
    permits.want(&site, 5, 1, &mut out);
    assert_eq!((permits.owed(&site), permits.news(), permits.news()), (1, Some(site.clone()), None));
    permits.give_back(&site, &mut out);
    assert_eq!((permits.owed(&site), permits.idle(&site)), (0, 0));
    permits.want(&site, 0, 1, &mut out);
    permits.give_back(&site, &mut out);
    assert!(!permits.take(&site) && out.is_empty());
}

#[test]
#[should_panic(expected = "given back once")]
fn a_permit_is_given_back_once() {
    let mut permits = Permits::new(ShardId(0), 1);
    let site: SiteName = "mx example.org".into();
    permits.want(&site, 1, 2, &mut Vec::new());
    permits.give_back(&site, &mut Vec::new());
}

/// Homes spread over the shards; and the same name has the same home in every release.
#[test]
fn homes_are_spread_and_stable() {
    let mut sites = [0u32; 8];
    for i in 0..8000 {
        sites[usize::from(home_of(&format!("mx example{i}.org"), 8).0)] += 1;
    }
    assert!(sites.iter().all(|&n| (800..1200).contains(&n)), "{sites:?}");
    assert_eq!(home_of("mx example.org", 8), ShardId(3));
}
