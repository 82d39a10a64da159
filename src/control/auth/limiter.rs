//! Failed authentications of late, by address, network and user: who has too many is not looked at (AUT-04).
//!
//! Counted in a window that begins with the first failure and ends after a fixed time. Bounded: when too many are remembered
//! the oldest are forgotten, so that a flood of invented names costs nothing but the memory of others' failures. Lives
//! on the control thread, one for all shards.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use crate::base::limits::AUTH_FAILURES_REMEMBERED_MAX;
use crate::config::AuthSettings;

/// Whose failures are counted together.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Key {
    /// An IPv4 address, or 64 bits of an IPv6 one: what a host usually has.
    Address(IpAddr),
    /// 24 bits of IPv4, 48 of IPv6.
    Network(IpAddr),
    /// A user's name, there or not.
    User(Box<str>),
}

impl Key {
    pub(super) fn address(peer: IpAddr) -> Key {
        Key::Address(masked(peer, 32, 64))
    }

    pub(super) fn network(peer: IpAddr) -> Key {
        Key::Network(masked(peer, 24, 48))
    }
}

fn masked(address: IpAddr, v4_bits: u8, v6_bits: u8) -> IpAddr {
    let address = address.to_canonical();
    let bits = if address.is_ipv4() { v4_bits } else { v6_bits };
    ipnet::IpNet::new(address, bits).expect("the bits fit the family").network()
}

pub(super) struct Limiter {
    per_address: u32,
    per_network: u32,
    per_user: u32,
    window: Duration,
    failures: HashMap<Key, (Instant, u32)>,
    /// The keys in the order in which their windows began.
    order: VecDeque<(Instant, Key)>,
}

impl Limiter {
    pub(super) fn new(settings: &AuthSettings) -> Limiter {
        Limiter {
            per_address: settings.failures_per_address,
            per_network: settings.failures_per_network,
            per_user: settings.failures_per_user,
            window: Duration::from_millis(settings.failures_window_ms),
            failures: HashMap::new(),
            order: VecDeque::new(),
        }
    }

    /// True if one of them failed too often.
    pub(super) fn blocks(&self, now: Instant, keys: &[Key]) -> bool {
        keys.iter().any(|key| {
            let most = match key {
                Key::Address(_) => self.per_address,
                Key::Network(_) => self.per_network,
                Key::User(_) => self.per_user,
            };
            self.failures.get(key).is_some_and(|(begun, count)| *count >= most && now < *begun + self.window)
        })
    }

    /// All of them failed once more.
    pub(super) fn failed(&mut self, now: Instant, keys: impl IntoIterator<Item = Key>) {
        while let Some((begun, key)) = self.order.front() {
            if now < *begun + self.window && self.order.len() < AUTH_FAILURES_REMEMBERED_MAX {
                break;
            }
            self.failures.remove(key);
            self.order.pop_front();
        }
        for key in keys {
            match self.failures.get_mut(&key) {
                Some((_, count)) => *count += 1,
                None => {
                    self.failures.insert(key.clone(), (now, 1));
                    self.order.push_back((now, key));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Settings;

    fn limiter() -> Limiter {
        let mut settings = Settings::defaults().auth;
        (settings.failures_per_address, settings.failures_per_network, settings.failures_per_user) = (2, 3, 2);
        settings.failures_window_ms = 1000;
        Limiter::new(&settings)
    }

    fn keys(peer: &str, user: &str) -> [Key; 3] {
        let peer = peer.parse().unwrap();
        [Key::address(peer), Key::network(peer), Key::User(user.into())]
    }

    #[test]
    fn too_many_failures_block_until_the_window_ends() {
        let (mut limiter, start) = (limiter(), Instant::now());
        let mine = keys("192.0.2.1", "a");
        limiter.failed(start, mine.clone());
        assert!(!limiter.blocks(start, &mine));
        limiter.failed(start, mine.clone());
        assert!(limiter.blocks(start, &mine[..1]) && limiter.blocks(start, &mine[2..]));
        let neighbour = keys("192.0.2.9", "b");
        assert!(!limiter.blocks(start, &neighbour));
        limiter.failed(start, neighbour.clone());
        assert!(limiter.blocks(start, &neighbour[1..2]) && !limiter.blocks(start, &keys("192.0.3.1", "c")));
        let later = start + Duration::from_millis(1001);
        assert!(!limiter.blocks(later, &mine) && !limiter.blocks(later, &neighbour));
        limiter.failed(later, mine.clone());
        assert!(!limiter.blocks(later, &mine));
        assert_eq!(limiter.failures.len(), 3);
        assert_eq!(Key::address("2001:db8::1".parse().unwrap()), Key::address("2001:db8::2".parse().unwrap()));
        assert_eq!(Key::address("::ffff:192.0.2.1".parse().unwrap()), mine[0]);
    }

    #[test]
    fn memory_is_bounded() {
        let (mut limiter, start) = (limiter(), Instant::now());
        for number in 0..AUTH_FAILURES_REMEMBERED_MAX + 1000 {
            limiter.failed(start, [Key::User(number.to_string().into())]);
        }
        assert!(
            limiter.failures.len() <= AUTH_FAILURES_REMEMBERED_MAX && limiter.order.len() == limiter.failures.len()
        );
    }
}
