//! The hosts of a site: where its next connection goes, and which addresses are left aside because they failed.
//!
//! Order of preference rules; among equal hosts lots are drawn for each connection (RTE-03; RFC 5321 5.1). An address
//! that failed is left aside by all connections of the site, longer each time in a row; when its time is up one
//! connection tries it while the others still leave it aside, and what comes of that decides for all. So a dead host
//! costs one connection now and then, and one that is back is used again (RFC 5321 4.5.4.1). The families of one host
//! are raced: who dials one asks for the [`rival`](Hosts::rival) to dial when it does not answer at once (RTE-10).
//!
//! Pure and shard-local. Everything is in a few short lists; no call but [`Hosts::set`] allocates once an address of
//! the site has failed for the first time.

use std::net::SocketAddr;
use std::sync::Arc;

use crate::base::limits;
use crate::base::rng::Rng;
use crate::base::time::Mono;
use crate::route::safety::Safety;
use crate::schedule::backoff::Backoff;

/// One address of a site.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KnownTarget {
    /// Where to connect.
    pub address: SocketAddr,
    /// The name of the host there; the address itself where there is none.
    pub host: Arc<str>,
    /// Lower is tried first.
    pub preference: u16,
    /// What is asked of its TLS.
    pub safety: Safety,
}

/// An address that failed.
#[derive(Debug)]
struct Aside {
    /// Left aside until then.
    until: Mono,
    /// Failures in a row.
    failures: u32,
    /// Which of the targets.
    target: u16,
    trial: Trial,
}

/// Whether an address that failed is being tried again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trial {
    /// No.
    None,
    /// By one connection.
    Running,
    /// It took a session; whether it takes mail is not known yet.
    Answered,
}

/// The addresses of a site.
#[derive(Debug, Default)]
pub struct Hosts {
    /// By preference; those of one host stand together.
    targets: Box<[KnownTarget]>,
    /// Of each target at most one.
    aside: Vec<Aside>,
    /// The target that a connection was ended for, to be tried by the next one.
    trial: Option<u16>,
}

impl Hosts {
    /// Takes over what DNS says now, in order of preference. What is known of an address that is still there stays.
    pub fn set(&mut self, targets: Vec<KnownTarget>) {
        assert!(targets.is_sorted_by_key(|target| target.preference), "targets come in order of preference");
        let before = std::mem::replace(&mut self.targets, targets.into());
        let mut known = std::mem::take(&mut self.aside);
        known.retain_mut(|aside| {
            let now = self.number(before[usize::from(aside.target)].address);
            now.inspect(|&target| aside.target = target).is_some()
        });
        self.aside = known;
        self.trial = None;
    }

    /// The addresses, in order of preference.
    pub fn targets(&self) -> &[KnownTarget] {
        &self.targets
    }

    /// The addresses that failed, with failures in a row and the moment until which each is left aside.
    pub fn aside(&self) -> impl Iterator<Item = (SocketAddr, u32, Mono)> + '_ {
        let targets = &self.targets;
        self.aside.iter().map(move |aside| (targets[usize::from(aside.target)].address, aside.failures, aside.until))
    }

    /// What is asked of the TLS of the host at an address. Panics if it is no target.
    pub fn safety(&self, address: SocketAddr) -> Safety {
        let target = self.targets.iter().find(|target| target.address == address);
        target.expect("it is asked of targets").safety.clone()
    }

    /// The name of the host at an address.
    pub fn name(&self, address: SocketAddr) -> Option<Arc<str>> {
        self.targets.iter().find(|target| target.address == address).map(|target| target.host.clone())
    }

    /// Where the next connection goes. If all addresses are left aside, the one whose time is up first.
    pub fn choose(&mut self, now: Mono, rng: &mut Rng) -> Option<SocketAddr> {
        let chosen = match (self.trial.take(), self.best(now)) {
            (Some(trial), _) => self.targets[usize::from(trial)].address,
            (None, Some(best)) => self.draw(now, best, rng),
            (None, None) => self.targets.iter().min_by_key(|target| self.aside_until(target.address))?.address,
        };
        self.begin_trial(now, chosen);
        Some(chosen)
    }

    /// Where to connect too if a connection to `address` does not stand at once: the same host in the other family,
    /// unless it is left aside (RTE-10; RFC 8305).
    pub fn rival(&self, now: Mono, address: SocketAddr) -> Option<SocketAddr> {
        let of = self.targets.iter().find(|target| target.address == address)?;
        let other = self.targets.iter().find(|target| {
            target.host == of.host
                && target.preference == of.preference
                && target.address.is_ipv4() != address.is_ipv4()
                && !self.is_aside(now, target.address)
        });
        other.map(|target| target.address)
    }

    /// True if a connection to `address` should end because a better host is there again, or because one is to be
    /// tried again: then the next connection does that.
    pub fn makes_way(&mut self, now: Mono, address: SocketAddr) -> bool {
        // Without a failure nothing better than what was chosen is there: the usual case costs nothing.
        if self.targets.len() < 2 || self.trial.is_some() {
            return false;
        }
        let Some(own) = self.targets.iter().find(|target| target.address == address) else { return false };
        let is_better = |t: &KnownTarget| t.preference < own.preference && !self.is_aside(now, t.address);
        let Some(better) = self.targets.iter().position(is_better) else { return false };
        if self.begin_trial(now, self.targets[better].address) {
            self.trial = Some(better as u16);
        }
        true
    }

    /// A connection to an address failed before it was of any use: it is left aside, longer each time. False if it was
    /// left aside already: connections that were dialled together fail together, and count once.
    pub fn failed(&mut self, now: Mono, address: SocketAddr, backoff: &Backoff, rng: &mut Rng) -> bool {
        let Some(target) = self.number(address) else { return false };
        let at = self.aside_at(address).unwrap_or_else(|| {
            // There may be very many sites, and most have one address or two.
            self.aside.reserve_exact(1);
            self.aside.push(Aside { until: now, failures: 0, target, trial: Trial::None });
            self.aside.len() - 1
        });
        let aside = &mut self.aside[at];
        if now < aside.until && aside.trial == Trial::None {
            return false;
        }
        aside.failures = aside.failures.saturating_add(1);
        aside.until = now.plus_ms(backoff.delay_ms(aside.failures, rng));
        aside.trial = Trial::None;
        assert!(self.aside.len() <= self.targets.len(), "only targets are left aside, each once");
        true
    }

    /// A session with an address has begun: it is no longer left aside, but not forgiven before it was of use.
    pub fn answered(&mut self, now: Mono, address: SocketAddr) {
        if let Some(at) = self.aside_at(address) {
            self.aside[at].until = now;
            self.aside[at].trial = Trial::Answered;
        }
    }

    /// True if the next connection is to try an address that another made way for.
    pub fn trial_due(&self) -> bool {
        self.trial.is_some()
    }

    /// A connection to an address was of use: it is well. True if it was not before.
    pub fn succeeded(&mut self, address: SocketAddr) -> bool {
        self.aside_at(address).map(|at| self.aside.remove(at)).is_some()
    }

    /// No address is left aside any longer for having failed before now; the pauses after the next failures are as long as
    /// they would have been.
    pub fn try_now(&mut self, now: Mono) {
        for aside in self.aside.iter_mut().filter(|aside| aside.trial == Trial::None) {
            aside.until = aside.until.min(now);
        }
    }

    /// True if there is an address that is not left aside.
    pub fn any_left(&self, now: Mono) -> bool {
        self.best(now).is_some()
    }

    /// When nothing is worth remembering any more: a failure is, for as long again as an address may be left aside.
    pub fn forgets_at(&self, backoff: &Backoff) -> Mono {
        self.aside.iter().map(|aside| aside.until.plus_ms(backoff.longest_ms)).max().unwrap_or_default()
    }

    fn aside_until(&self, address: SocketAddr) -> Mono {
        self.aside_at(address).map_or(Mono::default(), |at| self.aside[at].until)
    }

    /// Which of the targets has an address.
    fn number(&self, address: SocketAddr) -> Option<u16> {
        self.targets.iter().position(|target| target.address == address).map(|number| number as u16)
    }

    /// Where an address stands among those left aside, if it does.
    fn aside_at(&self, address: SocketAddr) -> Option<usize> {
        self.aside.iter().position(|aside| self.targets[usize::from(aside.target)].address == address)
    }

    fn is_aside(&self, now: Mono, address: SocketAddr) -> bool {
        now < self.aside_until(address)
    }

    /// The best preference of which an address is not left aside.
    fn best(&self, now: Mono) -> Option<u16> {
        self.targets.iter().find(|target| !self.is_aside(now, target.address)).map(|target| target.preference)
    }

    /// Draws lots among the hosts of a preference; the first address of the one drawn that is not left aside.
    fn draw(&self, now: Mono, preference: u16, rng: &mut Rng) -> SocketAddr {
        let usable = |target: &&KnownTarget| target.preference == preference && !self.is_aside(now, target.address);
        let mut hosts = 0;
        let mut last: Option<&KnownTarget> = None;
        let mut chosen = None;
        for target in self.targets.iter().filter(usable) {
            if last.is_none_or(|last| last.host != target.host) {
                hosts += 1;
                // Each of so many hosts stays chosen with the same chance; one alone takes no lot.
                if hosts == 1 || rng.below(hosts) == 0 {
                    chosen = Some(target.address);
                }
            }
            last = Some(target);
        }
        chosen.expect("a host of the best preference is usable")
    }

    /// If an address failed before, all others leave it aside while it is tried. False if it answers already.
    fn begin_trial(&mut self, now: Mono, address: SocketAddr) -> bool {
        let Some(at) = self.aside_at(address) else { return false };
        let aside = &mut self.aside[at];
        if aside.trial == Trial::Answered {
            return false;
        }
        aside.until = now.plus_ms(limits::HOST_TRIAL_MS);
        aside.trial = Trial::Running;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::rng::Rng;
    use proptest::prelude::*;

    const BACKOFF: Backoff = Backoff { first_ms: 1000, longest_ms: 60_000 };

    fn at(number: u8) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, number], 25))
    }

    fn at_v6(number: u16) -> SocketAddr {
        SocketAddr::from(([0x2001, 0xdb8, 0, 0, 0, 0, 0, number], 25))
    }

    fn hosts(list: &[(u16, &str, SocketAddr)]) -> Hosts {
        let mut hosts = Hosts::default();
        let known = |&(preference, host, address): &(u16, &str, SocketAddr)| KnownTarget {
            address,
            host: host.into(),
            preference,
            safety: Safety::IfOffered,
        };
        hosts.set(list.iter().map(known).collect());
        hosts
    }

    /// RTE-03: over 200 connections each of two equals is chosen about as often, the worse one never.
    #[test]
    fn equals_share_the_connections() {
        let mut hosts = hosts(&[(10, "a", at(1)), (10, "a", at(4)), (10, "b", at(2)), (20, "c", at(3))]);
        let mut rng = Rng::new(5);
        let chosen: Vec<_> = (0..200).map(|_| hosts.choose(Mono(1), &mut rng).unwrap()).collect();
        let first = chosen.iter().filter(|address| **address == at(1)).count();
        assert!((60..140).contains(&first), "{first}");
        assert_eq!(chosen.iter().filter(|address| **address == at(2)).count(), 200 - first);
    }

    /// QUE-05, RTE-04: a dead primary is left aside by all, tried by one when its time is up, and used again when it is back.
    #[test]
    fn a_dead_host_is_left_aside_and_tried_again() {
        let mut hosts = hosts(&[(10, "a", at(1)), (20, "b", at(2))]);
        let mut rng = Rng::new(1);
        let mut now = Mono(1);
        let mut pauses = Vec::new();
        for _ in 0..8 {
            assert_eq!(hosts.choose(now, &mut rng), Some(at(1)));
            assert!(hosts.failed(now, at(1), &BACKOFF, &mut rng));
            assert!(!hosts.failed(now, at(1), &BACKOFF, &mut rng), "dialled together, they fail together");
            let until = hosts.aside_until(at(1));
            pauses.push(until.ms_since(now));
            for _ in 0..10 {
                assert_eq!(hosts.choose(now, &mut rng), Some(at(2)));
                assert!(!hosts.makes_way(now, at(2)));
            }
            now = until;
            // One connection ends, and the next one tries; the others stay where they are.
            assert!(hosts.makes_way(now, at(2)));
            assert!(!hosts.makes_way(now, at(2)));
        }
        assert!(pauses[3] > pauses[0] * 4 && pauses[7] > 40_000, "{pauses:?}");
        assert_eq!(hosts.choose(now, &mut rng), Some(at(1)));
        assert_eq!(hosts.choose(now, &mut rng), Some(at(2)), "one trial at a time");
        hosts.answered(now, at(1));
        assert_eq!(hosts.choose(now, &mut rng), Some(at(1)), "it took a session");
        assert!(hosts.makes_way(now, at(2)) && !hosts.trial_due());
        assert!(hosts.succeeded(at(1)) && !hosts.succeeded(at(1)));
        assert_eq!(hosts.choose(now, &mut rng), Some(at(1)));
        assert!(hosts.makes_way(now, at(2)) && hosts.makes_way(now, at(2)), "all go back to the better host");
        assert!(!hosts.makes_way(now, at(1)));
    }

    #[test]
    fn with_all_aside_the_first_to_return_is_tried() {
        let mut hosts = hosts(&[(10, "a", at(1)), (20, "b", at(2))]);
        let mut rng = Rng::new(1);
        hosts.failed(Mono(1), at(1), &Backoff { first_ms: 9000, longest_ms: 9000 }, &mut rng);
        assert!(hosts.any_left(Mono(1)));
        hosts.failed(Mono(1), at(2), &BACKOFF, &mut rng);
        assert!(!hosts.any_left(Mono(1)));
        assert_eq!(hosts.choose(Mono(1), &mut rng), Some(at(2)));
        assert_eq!(Hosts::default().choose(Mono(1), &mut rng), None);
    }

    /// RTE-10: the rival is of the same host and the other family, and not one that failed.
    #[test]
    fn families_of_a_host_are_rivals() {
        let mut hosts =
            hosts(&[(10, "a", at(1)), (10, "a", at_v6(1)), (10, "a", at(2)), (10, "b", at(3)), (20, "c", at_v6(4))]);
        assert_eq!(hosts.rival(Mono(1), at(1)), Some(at_v6(1)));
        assert_eq!(hosts.rival(Mono(1), at_v6(1)), Some(at(1)));
        assert_eq!((hosts.rival(Mono(1), at(3)), hosts.rival(Mono(1), at_v6(4))), (None, None));
        hosts.failed(Mono(1), at(1), &BACKOFF, &mut Rng::new(1));
        assert_eq!(hosts.rival(Mono(1), at_v6(1)), Some(at(2)));
    }

    /// What is known of an address outlives an answer of DNS, as long as the address is in it.
    #[test]
    fn memory_outlives_answers() {
        let mut hosts = hosts(&[(10, "a", at(1)), (20, "b", at(2))]);
        let targets = hosts.targets().to_vec();
        hosts.failed(Mono(1), at(1), &BACKOFF, &mut Rng::new(1));
        hosts.set(targets.clone());
        assert_eq!(hosts.choose(Mono(1), &mut Rng::new(1)), Some(at(2)));
        hosts.set(targets[1..].to_vec());
        hosts.set(targets);
        assert_eq!(hosts.choose(Mono(1), &mut Rng::new(1)), Some(at(1)));
    }

    proptest! {
        /// Whatever fails and succeeds: a choice is a target, the best one not aside if there is one, and no address
        /// that failed is chosen twice without a verdict in between while another is well.
        #[test]
        fn choices_keep_the_rules(
            preferences in prop::collection::vec(0u16..3, 1..6),
            events in prop::collection::vec((0u8..6, 0usize..6, 0u64..3_000_000), 1..80),
        ) {
            let mut sorted = preferences;
            sorted.sort();
            let list: Vec<(u16, String, SocketAddr)> =
                sorted.iter().enumerate().map(|(n, p)| (*p, format!("h{n}"), at(n as u8))).collect();
            let borrowed: Vec<_> = list.iter().map(|(p, host, address)| (*p, host.as_str(), *address)).collect();
            let mut hosts = hosts(&borrowed);
            let mut rng = Rng::new(7);
            let mut now = Mono(1);
            for (what, index, later_us) in events {
                now = Mono(now.0 + later_us);
                let (_, _, address) = list[index % list.len()];
                match what {
                    0 => drop(hosts.failed(now, address, &BACKOFF, &mut rng)),
                    1 => drop(hosts.succeeded(address)),
                    2 => drop(hosts.makes_way(now, address)),
                    3 => hosts.answered(now, address),
                    _ => {
                        let trial = hosts.trial.map(|trial| hosts.targets[usize::from(trial)].address);
                        let well = |a: SocketAddr| !hosts.is_aside(now, a);
                        let best = list.iter().filter(|(_, _, a)| well(*a)).map(|(p, ..)| *p).min();
                        let chosen = hosts.choose(now, &mut rng).expect("there are targets");
                        let preference = list.iter().find(|(_, _, a)| *a == chosen).expect("a target").0;
                        prop_assert!(trial == Some(chosen) || best.is_none_or(|best| best == preference));
                        let answered = hosts.aside_at(chosen).is_some_and(|at| hosts.aside[at].trial == Trial::Answered);
                        let failed_before = hosts.aside_at(chosen).is_some();
                        prop_assert!(!failed_before || answered || hosts.is_aside(now, chosen), "others leave it aside");
                    }
                }
            }
        }
    }
}
