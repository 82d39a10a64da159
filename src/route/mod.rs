//! Where mail for a domain goes: static routes first, else by MX; what DNS said, in order and within bounds.
//!
//! Pure, shard-local. The path of a recipient's domain: [`decide`] says by which [`table`] entry it goes; a [`NextHop::Mx`] is looked up in
//! the [`cache`] and, failing that, asked of the resolver; [`mx`] turns the answer into addresses to try in order.

pub mod cache;
pub mod decide;
pub mod egress;
pub mod explain;
pub mod mx;
pub mod table;

use std::net::IpAddr;

pub use crate::config::Host;

/// The port of SMTP between relays (RFC 5321 4.5.4.2); never taken from a recipient's address (RTE-26).
pub const SMTP_PORT: u16 = 25;

/// A question to the resolver, named by the shard that asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct QueryId(pub u64);

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
    pub name: Box<str>,
    /// Its addresses in the resolver's order, at most `limits::HOST_ADDRESSES_MAX`.
    pub addresses: Vec<IpAddr>,
}

/// Where the routes say a domain's mail goes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum NextHop {
    /// A configured host and port (RTE-26).
    SmartHost {
        /// Which.
        host: Host,
        /// Its port.
        port: u16,
    },
    /// The domain's own mail hosts, port 25.
    Mx {
        /// The domain in lower case; may be an address literal, see [`mx::literal_answer`].
        domain: Box<str>,
    },
}

impl NextHop {
    /// What it is called, on all shards: `smarthost 127.0.0.1:2602`, or `example.org` for its mail hosts.
    pub fn name(&self) -> String {
        match self {
            NextHop::SmartHost { host: Host::Address(IpAddr::V6(ip)), port } => format!("smarthost [{ip}]:{port}"),
            NextHop::SmartHost { host: Host::Address(ip), port } => format!("smarthost {ip}:{port}"),
            NextHop::SmartHost { host: Host::Name(name), port } => format!("smarthost {name}:{port}"),
            NextHop::Mx { domain } => domain.to_string(),
        }
    }

    /// The port to connect to.
    pub fn port(&self) -> u16 {
        match self {
            NextHop::SmartHost { port, .. } => *port,
            NextHop::Mx { .. } => SMTP_PORT,
        }
    }

    /// What to ask the resolver: the name, and whether only its addresses matter. `None`: see [`NextHop::known_answer`].
    pub fn question(&self) -> Option<(&str, bool)> {
        match self {
            NextHop::SmartHost { host: Host::Address(_), .. } => None,
            NextHop::SmartHost { host: Host::Name(name), .. } => Some((name, true)),
            NextHop::Mx { domain } => (!domain.starts_with('[')).then_some((&**domain, false)),
        }
    }

    /// The answer where none needs to be asked for: a configured address, or an address literal (RTE-08).
    pub fn known_answer(&self) -> Option<Answer> {
        match self {
            NextHop::SmartHost { host: Host::Address(ip), .. } => Some(mx::one_address(*ip)),
            NextHop::Mx { domain } if domain.starts_with('[') => Some(mx::literal_answer(domain)),
            _ => None,
        }
    }

    /// True for configured hosts, which may be anywhere, loopback included (RTE-11).
    pub fn is_configured(&self) -> bool {
        matches!(self, NextHop::SmartHost { .. })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_next_hop_has_a_question_or_its_answer() {
        let hops = [
            (NextHop::SmartHost { host: Host::Address("::1".parse().unwrap()), port: 26 }, "smarthost [::1]:26", None),
            (NextHop::SmartHost { host: Host::Name("a.b".into()), port: 25 }, "smarthost a.b:25", Some(("a.b", true))),
            (NextHop::Mx { domain: "example.org".into() }, "example.org", Some(("example.org", false))),
            (NextHop::Mx { domain: "[192.0.2.1]".into() }, "[192.0.2.1]", None),
        ];
        for (hop, site, question) in hops {
            assert_eq!(hop.name(), site);
            assert_eq!(hop.question(), question);
            assert_eq!(hop.known_answer().is_none(), question.is_some());
        }
    }
}
