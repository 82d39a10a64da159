//! How many connections a client's address, its network and its user have on this shard, each with a bound (SES-26).
//!
//! Counted when a client connects, or proves who it is, and until it is gone. An entry lives as long as a connection does, so the
//! memory is bounded with the connections. IPv6 clients count by 64 bits, their networks by 48; IPv4 networks by 24.

use std::hash::Hash;
use std::net::IpAddr;

use ipnet::IpNet;
use rustc_hash::FxHashMap;

use crate::config::RelaySettings;

/// The counts of one shard.
#[derive(Default)]
pub(super) struct Crowd {
    addresses: FxHashMap<IpAddr, u32>,
    networks: FxHashMap<IpAddr, u32>,
    users: FxHashMap<Box<str>, u32>,
}

impl Crowd {
    /// Counts a client, unless its address or network has as many as it may.
    pub(super) fn enter(&mut self, peer: IpAddr, settings: &RelaySettings) -> bool {
        let (address, network) = keys(peer);
        let full = |count: Option<&u32>, most: u32| count.is_some_and(|count| *count >= most);
        if full(self.addresses.get(&address), settings.connections_per_address)
            || full(self.networks.get(&network), settings.connections_per_network)
        {
            return false;
        }
        *self.addresses.entry(address).or_default() += 1;
        *self.networks.entry(network).or_default() += 1;
        true
    }

    /// A client that was counted is gone.
    pub(super) fn leave(&mut self, peer: IpAddr) {
        let (address, network) = keys(peer);
        less(&mut self.addresses, &address);
        less(&mut self.networks, &network);
    }

    /// Counts a session of a user, unless it has as many as it may.
    pub(super) fn enter_user(&mut self, name: &str, most: u32) -> bool {
        match self.users.get_mut(name) {
            Some(count) if *count >= most => return false,
            Some(count) => *count += 1,
            None => drop(self.users.insert(name.into(), 1)),
        }
        true
    }

    /// A session of a user that was counted is gone.
    pub(super) fn leave_user(&mut self, name: &str) {
        less(&mut self.users, name);
    }
}

fn less<K: Hash + Eq + std::borrow::Borrow<Q>, Q: Hash + Eq + ?Sized>(counts: &mut FxHashMap<K, u32>, key: &Q) {
    let count = counts.get_mut(key).expect("who leaves has entered");
    *count -= 1;
    if *count == 0 {
        counts.remove(key);
    }
}

fn keys(peer: IpAddr) -> (IpAddr, IpAddr) {
    let masked = |bits| IpNet::new(peer, bits).expect("the bits fit the family").network();
    if peer.is_ipv4() { (peer, masked(24)) } else { (masked(64), masked(48)) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Settings;

    #[test]
    fn each_has_its_bound_and_nothing_stays() {
        let mut settings = Settings::defaults().relay;
        (settings.connections_per_address, settings.connections_per_network) = (2, 3);
        let mut crowd = Crowd::default();
        let [a, b, six, same] =
            ["192.0.2.1", "192.0.2.2", "2001:db8::1", "2001:db8::2"].map(|text| text.parse::<IpAddr>().unwrap());
        assert!(crowd.enter(a, &settings) && crowd.enter(a, &settings) && !crowd.enter(a, &settings));
        assert!(crowd.enter(b, &settings) && !crowd.enter(b, &settings), "the network is full");
        assert!(crowd.enter(six, &settings) && crowd.enter(same, &settings) && !crowd.enter(six, &settings));
        [a, a, b, six, same].into_iter().for_each(|peer| crowd.leave(peer));
        assert!(crowd.addresses.is_empty() && crowd.networks.is_empty());
        assert!(crowd.enter_user("u", 1) && !crowd.enter_user("u", 1) && crowd.enter_user("v", 1));
        crowd.leave_user("u");
        crowd.leave_user("v");
        assert!(crowd.users.is_empty());
    }
}
