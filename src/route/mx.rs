//! From what DNS said to the addresses to try, in order (RFC 5321 5.1).
//!
//! Pure. Everything DNS brings is bounded and judged here: hosts in order of preference (equals draw lots in
//! `schedule::hosts`, RTE-03); ourselves and everything worse dropped, against loops (RTE-05); addresses that no stranger's MX should
//! lead us to refused (RTE-11); families of a host taking turns, so that a broken IPv6 path costs one try (RTE-10).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use super::safety::HostTls;
use super::{Answer, MailHost, NextHop};
use crate::base::limits;

/// What the configuration says about mail hosts.
#[derive(Clone, Debug, Default)]
pub struct MxPolicy {
    /// Our own names, lower case (RTE-05).
    pub own_names: Vec<Box<str>>,
    /// Our own addresses (RTE-05).
    pub own_addresses: Vec<IpAddr>,
    /// `route.allow_private`: MX may lead to loopback, private and such addresses (RTE-11).
    pub allow_private: bool,
}

/// What to do with mail for a next hop.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Plan {
    /// Connect to these, in order of preference; 1 to `limits::SITE_ADDRESSES_MAX`.
    Try(Vec<Target>),
    /// The recipients fail for good; the text starts with the enhanced code.
    Fail {
        /// A reply code as a peer would have used; 0 if none fits.
        code: u16,
        /// Why.
        text: &'static str,
    },
    /// Try again later; the text starts with the enhanced code.
    Defer {
        /// Why.
        text: Box<str>,
    },
}

/// One address to try.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Where to connect; the port is the next hop's.
    pub address: IpAddr,
    /// The host's name, for logs and reports.
    pub host: Arc<str>,
    /// The host's preference; equals share the connections.
    pub preference: u16,
    /// What DNS proves about the host's TLS.
    pub tls: HostTls,
}

/// Makes the plan for a next hop from what DNS said of it.
pub fn plan(next_hop: &NextHop, answer: &Answer, policy: &MxPolicy) -> Plan {
    let hosts = match answer {
        Answer::NullMx { .. } => {
            return Plan::Fail { code: 556, text: "5.1.10 recipient domain accepts no mail (null MX)" };
        }
        Answer::NoSuchDomain { .. } if next_hop.configured().is_some() => {
            return Plan::Defer { text: "4.4.4 the configured next hop does not resolve".into() };
        }
        Answer::NoSuchDomain { .. } => return Plan::Fail { code: 0, text: "5.1.2 recipient domain does not exist" },
        Answer::Temporary { text } => return Plan::Defer { text: format!("4.4.3 {text}").into() },
        Answer::Mail { hosts, .. } => hosts,
    };
    let configured = next_hop.configured().is_some();
    let usable = |ip: &IpAddr| configured || policy.allow_private || !is_private(*ip);
    // A host that is us, and all that are no better (RTE-05). A configured route may well name this machine.
    let ourselves = hosts.iter().filter(|host| !configured && is_own(host, policy)).map(|host| host.preference).min();
    let mut ordered: Vec<&MailHost> =
        hosts.iter().filter(|host| ourselves.is_none_or(|own| host.preference < own)).collect();
    if ordered.is_empty() && ourselves.is_some() {
        return Plan::Fail { code: 0, text: "5.4.6 mail for the domain loops back to this host" };
    }
    ordered.sort_by_key(|host| host.preference);
    let targets: Vec<Target> = ordered
        .iter()
        .flat_map(|host| {
            alternate(&host.addresses).map(|address| Target {
                address,
                host: host.name.clone(),
                preference: host.preference,
                tls: host.tls.clone(),
            })
        })
        .filter(|target| usable(&target.address))
        .take(limits::SITE_ADDRESSES_MAX)
        .collect();
    if !targets.is_empty() {
        Plan::Try(targets)
    } else if ordered.iter().any(|host| !host.addresses.is_empty()) {
        Plan::Fail { code: 0, text: "5.4.4 mail hosts of the domain have no public address" }
    } else {
        Plan::Fail { code: 0, text: "5.4.4 no mail host of the domain has an address" }
    }
}

fn is_own(host: &MailHost, policy: &MxPolicy) -> bool {
    policy.own_names.iter().any(|own| own.eq_ignore_ascii_case(&host.name))
        || host.addresses.iter().any(|ip| policy.own_addresses.contains(&ip.to_canonical()))
}

/// A host's addresses in the resolver's order within each family, the families taking turns, the first one's first (RTE-10).
fn alternate(addresses: &[IpAddr]) -> impl Iterator<Item = IpAddr> {
    let v4_first = addresses.first().is_some_and(IpAddr::is_ipv4);
    let mut first = addresses.iter().filter(move |ip| ip.is_ipv4() == v4_first);
    let mut second = addresses.iter().filter(move |ip| ip.is_ipv4() != v4_first);
    let mut turn = false;
    std::iter::from_fn(move || {
        turn = !turn;
        if turn { first.next().or_else(|| second.next()) } else { second.next().or_else(|| first.next()) }
    })
    .copied()
}

/// Addresses that DNS of strangers must not lead us to: this host, private networks, and what is no host at all (RTE-11).
pub fn is_private(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(ip) => is_private_v4(ip),
        IpAddr::V6(ip) => is_private_v6(ip),
    }
}

fn is_private_v4(ip: Ipv4Addr) -> bool {
    let [a, b, ..] = ip.octets();
    a == 0
        || a >= 224
        || ip.is_loopback()
        || ip.is_private()
        || ip.is_link_local()
        // Shared address space of carriers (RFC 6598).
        || (a == 100 && (64..128).contains(&b))
}

fn is_private_v6(ip: Ipv6Addr) -> bool {
    // Well-known prefix of NAT64 and the deprecated v4-compatible form lead to the v4 address they hold.
    let [s0, s1, .., s6, s7] = ip.segments();
    let embedded = Ipv4Addr::from_bits(u32::from(s6) << 16 | u32::from(s7));
    let middle_is_zero = ip.segments()[2..6].iter().all(|&s| s == 0);
    ip.is_loopback()
        || ip.is_unspecified()
        || ip.is_multicast()
        || ip.is_unique_local()
        || ip.is_unicast_link_local()
        || (middle_is_zero && matches!((s0, s1), (0, 0) | (0x64, 0xff9b)) && is_private_v4(embedded))
}

/// The answer for mail to a configured address.
pub(super) fn one_address(ip: IpAddr) -> Answer {
    let host = MailHost { preference: 0, name: ip.to_string().into(), addresses: vec![ip], tls: HostTls::Unknown };
    Answer::Mail { hosts: vec![host], ttl_s: u32::MAX, sts: None }
}

/// The answer for mail to an address literal, `[192.0.2.1]` or `[IPv6:2001:db8::1]` (RTE-08; RFC 5321 4.1.3). It is
/// judged like an MX, private addresses included (RTE-11); any other literal is no domain at all.
pub fn literal_answer(domain: &str) -> Answer {
    let inside = domain.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or("");
    let address = match inside.split_at_checked(5) {
        Some((tag, v6)) if tag.eq_ignore_ascii_case("IPv6:") => v6.parse().ok().map(IpAddr::V6),
        _ => inside.parse().ok().map(IpAddr::V4),
    };
    address.map_or(Answer::NoSuchDomain { ttl_s: u32::MAX }, one_address)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::HostPort;
    use proptest::prelude::*;

    fn mx() -> NextHop {
        NextHop::Mx { domain: "example.org".into() }
    }

    fn host(preference: u16, name: &str, addresses: &[&str]) -> MailHost {
        let addresses = addresses.iter().map(|a| a.parse().unwrap()).collect();
        MailHost { preference, name: name.into(), addresses, tls: HostTls::Unknown }
    }

    fn mail(hosts: Vec<MailHost>) -> Answer {
        Answer::Mail { hosts, ttl_s: 300, sts: None }
    }

    fn tried(plan: Plan) -> Vec<String> {
        match plan {
            Plan::Try(targets) => targets.iter().map(|t| t.address.to_string()).collect(),
            other => vec![format!("{other:?}")],
        }
    }

    fn plan_mx(hosts: Vec<MailHost>, policy: &MxPolicy) -> Plan {
        plan(&mx(), &mail(hosts), policy)
    }

    /// RTE-01, RTE-03.
    #[test]
    fn lower_preference_comes_first() {
        let hosts = vec![host(20, "c", &["192.0.2.3"]), host(10, "a", &["192.0.2.1"]), host(10, "b", &["192.0.2.2"])];
        let Plan::Try(targets) = plan_mx(hosts, &MxPolicy::default()) else { panic!("there are hosts") };
        let order: Vec<_> = targets.iter().map(|target| (target.preference, &*target.host)).collect();
        assert_eq!(order, [(10, "a"), (10, "b"), (20, "c")]);
    }

    /// RTE-04, RTE-10.
    #[test]
    fn addresses_are_capped_and_families_take_turns() {
        let many: Vec<String> = (0..100).map(|i| format!("2001:db8::{i}")).collect();
        let mut addresses: Vec<&str> = many.iter().map(String::as_str).collect();
        addresses.push("192.0.2.9");
        let order = tried(plan_mx(vec![host(0, "a", &addresses)], &MxPolicy::default()));
        assert_eq!(order.len(), limits::SITE_ADDRESSES_MAX);
        assert_eq!(order[..3], ["2001:db8::", "192.0.2.9", "2001:db8::1"]);
    }

    /// RTE-05.
    #[test]
    fn ourselves_and_worse_are_dropped() {
        let policy = MxPolicy {
            own_names: vec!["relay.example".into()],
            own_addresses: vec!["192.0.2.7".parse().unwrap()],
            allow_private: false,
        };
        let (better, equal) = (host(5, "x", &["192.0.2.1"]), host(10, "y", &["192.0.2.2"]));
        for own in [host(10, "Relay.Example", &["192.0.2.6"]), host(10, "alias", &["192.0.2.7"])] {
            let order = tried(plan_mx(vec![equal.clone(), own.clone(), better.clone()], &policy));
            assert_eq!(order, ["192.0.2.1"]);
            assert!(
                matches!(plan_mx(vec![own, equal.clone()], &policy), Plan::Fail { text, .. } if text.starts_with("5.4.6"))
            );
        }
    }

    /// RTE-02, RTE-06, RTE-07.
    #[test]
    fn answers_without_hosts() {
        let decide = |answer| plan(&mx(), &answer, &MxPolicy::default());
        assert!(
            matches!(decide(Answer::NullMx { ttl_s: 1 }), Plan::Fail { code: 556, text } if text.starts_with("5.1.10"))
        );
        assert!(
            matches!(decide(Answer::NoSuchDomain { ttl_s: 1 }), Plan::Fail { text, .. } if text.starts_with("5.1.2"))
        );
        assert_eq!(
            decide(Answer::Temporary { text: "SERVFAIL".into() }),
            Plan::Defer { text: "4.4.3 SERVFAIL".into() }
        );
        assert!(matches!(decide(mail(vec![])), Plan::Fail { text, .. } if text.starts_with("5.4.4")));
        assert!(matches!(decide(mail(vec![host(1, "a", &[])])), Plan::Fail { text, .. } if text.starts_with("5.4.4")));
        assert_eq!(tried(decide(mail(vec![host(1, "a", &[]), host(2, "b", &["192.0.2.1"])]))), ["192.0.2.1"]);
    }

    /// RTE-11: by MX and by literal never, by configuration and by permission always.
    #[test]
    fn private_targets_are_refused_unless_allowed() {
        let private = [
            "127.0.0.1",
            "10.1.2.3",
            "172.16.0.1",
            "192.168.1.1",
            "169.254.1.1",
            "0.0.0.0",
            "0.1.2.3",
            "100.64.0.1",
            "224.0.0.1",
            "255.255.255.255",
            "::1",
            "::",
            "fe80::1",
            "fc00::1",
            "ff02::1",
            "::ffff:127.0.0.1",
            "64:ff9b::7f00:1",
            "::7f00:2",
        ];
        for ip in private {
            assert!(is_private(ip.parse().unwrap()), "{ip}");
            let hosts = vec![host(0, "a", &[ip])];
            assert!(
                matches!(plan_mx(hosts.clone(), &MxPolicy::default()), Plan::Fail { text, .. } if text.starts_with("5.4.4"))
            );
            let allowed = MxPolicy { allow_private: true, ..MxPolicy::default() };
            assert_eq!(tried(plan_mx(hosts.clone(), &allowed)).len(), 1);
            let smart = NextHop::Configured(Arc::new(HostPort::parse("a:25").unwrap().into()));
            assert!(matches!(plan(&smart, &mail(hosts), &MxPolicy::default()), Plan::Try(_)));
        }
        for ip in ["192.0.2.1", "8.8.8.8", "2001:db8::1", "64:ff9b::808:808"] {
            assert!(!is_private(ip.parse().unwrap()), "{ip}");
        }
    }

    /// RTE-08.
    #[test]
    fn literals_go_straight_to_the_address() {
        for (literal, ip) in
            [("[192.0.2.1]", "192.0.2.1"), ("[IPv6:2001:db8::1]", "2001:db8::1"), ("[ipv6:2001:db8::1]", "2001:db8::1")]
        {
            assert_eq!(literal_answer(literal), one_address(ip.parse().unwrap()));
        }
        for bad in ["[]", "[x]", "[IPv6:]", "[2001:db8::1]", "[IPv6:1.2.3.4]", "[é:1.2.3]", "192.0.2.1"] {
            assert!(matches!(literal_answer(bad), Answer::NoSuchDomain { .. }), "{bad}");
        }
    }

    proptest! {
        /// Whatever DNS says, the plan is what the rules say, checked one by one (RTE-03, RTE-04, RTE-05, RTE-11).
        #[test]
        fn plans_keep_the_rules(
            hosts in prop::collection::vec((0u16..4, 0u8..6, prop::collection::vec(0u8..8, 0..5)), 0..8),
        ) {
            // Address 0 is private, 1 is our own.
            let ip = |n: u8| if n == 0 { IpAddr::from([10, 0, 0, 1]) } else { IpAddr::from([192, 0, 2, n]) };
            let policy =
                MxPolicy { own_names: vec!["h0".into()], own_addresses: vec![ip(1)], allow_private: false };
            let hosts: Vec<MailHost> = hosts
                .into_iter()
                .map(|(preference, name, addresses)| MailHost {
                    preference,
                    name: format!("h{name}").into(),
                    addresses: addresses.into_iter().map(ip).collect(),
                    tls: Default::default(),
                })
                .collect();
            let own = hosts.iter().filter(|h| &*h.name == "h0" || h.addresses.contains(&ip(1))).map(|h| h.preference).min();
            let allowed: Vec<&MailHost> = hosts.iter().filter(|h| own.is_none_or(|own| h.preference < own)).collect();
            let mut expected: Vec<(u16, IpAddr)> = allowed
                .iter()
                .flat_map(|h| h.addresses.iter().filter(|a| **a != ip(0)).map(|a| (h.preference, *a)))
                .collect();
            expected.sort_by_key(|(preference, _)| *preference);
            match plan(&mx(), &mail(hosts.clone()), &policy) {
                Plan::Try(targets) => {
                    prop_assert_eq!(targets.len(), expected.len().min(limits::SITE_ADDRESSES_MAX));
                    for (target, (preference, _)) in targets.iter().zip(&expected) {
                        prop_assert!(expected.contains(&(*preference, target.address)));
                    }
                }
                Plan::Fail { text, .. } => {
                    prop_assert!(expected.is_empty());
                    prop_assert_eq!(text.starts_with("5.4.6"), own.is_some() && allowed.is_empty());
                }
                Plan::Defer { .. } => prop_assert!(false, "nothing temporary was said"),
            }
        }
    }
}
