//! Where mail for a domain goes: static routes first, else by MX; what DNS said, in order and within bounds.
//!
//! Pure, shard-local. The path of a recipient's domain: [`decide`] says by which [`table`] entry it goes; a [`NextHop::Mx`] is looked up in
//! the [`cache`] and, failing that, asked of the resolver; [`mx`] turns the answer into addresses to try in order.

pub mod cache;
pub mod decide;
pub mod egress;
pub mod explain;
pub mod mx;
pub mod reports;
pub mod safety;
pub mod sts;
pub mod table;

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

pub use crate::config::Host;
use crate::config::{HopAddress, HostPort, NextHopSettings, Protocol};
use safety::HostTls;
use sts::Sts;

/// The port of SMTP between relays (RFC 5321 4.5.4.2); never taken from a recipient's address (RTE-26).
pub const SMTP_PORT: u16 = 25;

/// A question to the resolver, named by the shard that asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct QueryId(pub u64);

/// What to ask the resolver.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Question {
    /// The domain in lower case, or a host name.
    pub name: Arc<str>,
    /// Only the addresses of the name matter, no MX.
    pub address_only: bool,
    /// Whether the answer is proved matters too, and what TLSA records the hosts have for this port (DAN-01).
    pub tlsa_port: Option<u16>,
    /// The name's MTA-STS policy matters too (STS-01).
    pub sts: bool,
}

/// What DNS says of a domain, or of one host name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The mail hosts, unordered, with their addresses. A domain without MX is its own host of preference 0 (RTE-01);
    /// a host name asked for its addresses only comes in the same form.
    Mail {
        /// At most `limits::MAIL_HOSTS_MAX`; a host that does not resolve has no addresses (RTE-06).
        hosts: Vec<MailHost>,
        /// Good for so many seconds.
        ttl_s: u32,
        /// The name's MTA-STS policy, where that was asked.
        sts: Option<Arc<Sts>>,
    },
    /// The domain takes no mail (RTE-07; RFC 7505).
    NullMx {
        /// Good for so many seconds.
        ttl_s: u32,
    },
    /// There is no such domain, or it has neither MX nor addresses (RTE-02).
    NoSuchDomain {
        /// Good for so many seconds.
        ttl_s: u32,
    },
    /// No answer this time: time-out, SERVFAIL, refused, nonsense (RTE-02).
    Temporary {
        /// Which of them, for the log.
        text: Box<str>,
    },
}

/// One host that takes a domain's mail.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MailHost {
    /// Lower is tried first.
    pub preference: u16,
    /// Its name, lower case, without the final dot.
    pub name: Arc<str>,
    /// Its addresses in the resolver's order, at most `limits::HOST_ADDRESSES_MAX`.
    pub addresses: Vec<IpAddr>,
    /// What DNS proves about its TLS, where that was asked.
    pub tls: HostTls,
}

/// Where the routes say a domain's mail goes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum NextHop {
    /// A configured one (RTE-26).
    Configured(Arc<NextHopSettings>),
    /// The domain's own mail hosts, port 25.
    Mx {
        /// The domain in lower case; may be an address literal, see [`mx::literal_answer`].
        domain: Arc<str>,
    },
}

impl NextHop {
    /// What it is called, on all shards: `smarthost 127.0.0.1:2602`, `lmtp NAME`, or `example.org` for its mail hosts.
    pub fn name(&self) -> Arc<str> {
        match self {
            NextHop::Configured(hop) => {
                format!("{} {hop}", if hop.protocol == Protocol::Lmtp { "lmtp" } else { "smarthost" }).into()
            }
            // There may be very many domains, and one name of each will do.
            NextHop::Mx { domain } => domain.clone(),
        }
    }

    /// What to ask the resolver: the name, and whether only its addresses matter. `None`: see [`NextHop::known_answer`].
    pub fn question(&self) -> Option<(&Arc<str>, bool)> {
        match self {
            NextHop::Configured(hop) => match &hop.to {
                HopAddress::Host(HostPort { host: Host::Name(name), .. }) => Some((name, true)),
                HopAddress::Host(_) | HopAddress::Socket(_) => None,
            },
            NextHop::Mx { domain } => (!domain.starts_with('[')).then_some((domain, false)),
        }
    }

    /// The answer where none needs to be asked for: a configured address, or an address literal (RTE-08). A socket in the file
    /// system counts as 127.0.0.1.
    pub fn known_answer(&self) -> Option<Answer> {
        match self {
            NextHop::Configured(hop) => match &hop.to {
                HopAddress::Host(HostPort { host: Host::Address(ip), .. }) => Some(mx::one_address(*ip)),
                HopAddress::Host(_) => None,
                HopAddress::Socket(_) => Some(mx::one_address(Ipv4Addr::LOCALHOST.into())),
            },
            NextHop::Mx { domain } if domain.starts_with('[') => Some(mx::literal_answer(domain)),
            NextHop::Mx { .. } => None,
        }
    }

    /// What the configuration says of it, if it is configured. It may be anywhere, loopback included (RTE-11).
    pub fn configured(&self) -> Option<&Arc<NextHopSettings>> {
        match self {
            NextHop::Configured(hop) => Some(hop),
            NextHop::Mx { .. } => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_next_hop_has_a_question_or_its_answer() {
        let to = |text: &str| NextHop::Configured(Arc::new(HostPort::parse(text).unwrap().into()));
        let named = NextHopSettings {
            name: "store".into(),
            to: HopAddress::Socket("/run/lmtp".into()),
            protocol: Protocol::Lmtp,
            ..HostPort::parse("a:1").unwrap().into()
        };
        let hops = [
            (to("[::1]:26"), "smarthost [::1]:26", None),
            (to("a.b:25"), "smarthost a.b:25", Some(("a.b", true))),
            (NextHop::Configured(Arc::new(named)), "lmtp store", None),
            (NextHop::Mx { domain: "example.org".into() }, "example.org", Some(("example.org", false))),
            (NextHop::Mx { domain: "[192.0.2.1]".into() }, "[192.0.2.1]", None),
        ];
        for (hop, site, question) in hops {
            assert_eq!(&*hop.name(), site);
            assert_eq!(hop.question().map(|(name, address_only)| (&**name, address_only)), question);
            assert_eq!(hop.known_answer().is_none(), question.is_some());
        }
    }
}
