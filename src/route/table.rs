//! Static routes by domain: exact names, then the longest matching `.suffix`, then the default (RTE-26).
//!
//! Built once from the configuration; looking up allocates nothing. Domains are matched without regard to case.

use std::fmt;
use std::net::IpAddr;

use rustc_hash::FxHashMap;

use super::{Host, NextHop};
use crate::base::limits;

/// The configured routes.
#[derive(Clone, Debug, Default)]
pub struct RouteTable {
    /// Exact names, and suffixes with their leading dot; lower case.
    routes: FxHashMap<Box<str>, NextHop>,
    /// For all other domains; `None`: by MX.
    default: Option<NextHop>,
}

impl RouteTable {
    /// No domain has a route of its own; all go to `default`, or by MX if there is none.
    pub fn new(default: Option<NextHop>) -> RouteTable {
        RouteTable { routes: FxHashMap::default(), default }
    }

    /// Sends a domain, or with a leading dot all names below it, to a next hop. Replaces an earlier route of the same name.
    pub fn insert(&mut self, domain: &str, next_hop: NextHop) {
        self.routes.insert(domain.to_ascii_lowercase().into(), next_hop);
    }

    /// The configured next hop of a domain; `None`: by MX.
    pub fn configured(&self, domain: &[u8]) -> Option<&NextHop> {
        if self.routes.is_empty() {
            return self.default.as_ref();
        }
        let mut buffer = [0; limits::DOMAIN_MAX_BYTES];
        let Some(name) = lower(domain, &mut buffer) else {
            return self.default.as_ref();
        };
        let suffixes = memchr::memchr_iter(b'.', name.as_bytes()).map(|dot| &name[dot..]);
        std::iter::once(name).chain(suffixes).find_map(|key| self.routes.get(key)).or(self.default.as_ref())
    }

    /// Where the domain's mail goes.
    pub fn next_hop(&self, domain: &[u8]) -> NextHop {
        match self.configured(domain) {
            Some(hop) => hop.clone(),
            None => NextHop::Mx { domain: String::from_utf8_lossy(domain).to_ascii_lowercase().into() },
        }
    }
}

/// The domain in lower case; `None` if it is longer than domains are or not UTF-8.
fn lower<'a>(domain: &[u8], buffer: &'a mut [u8; limits::DOMAIN_MAX_BYTES]) -> Option<&'a str> {
    let buffer = buffer.get_mut(..domain.len())?;
    buffer.copy_from_slice(domain);
    buffer.make_ascii_lowercase();
    std::str::from_utf8(buffer).ok()
}

/// The text is no `host:port`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadRoute;

impl fmt::Display for BadRoute {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not host:port, for instance mail.example.org:25, 192.0.2.1:25 or [2001:db8::1]:25")
    }
}

impl std::error::Error for BadRoute {}

/// Reads `host:port`, `[v6]:port`, of a configured route.
pub fn parse_route(text: &str) -> Result<NextHop, BadRoute> {
    let (host, port) = text.rsplit_once(':').ok_or(BadRoute)?;
    let port = port.parse().ok().filter(|&port| port != 0).ok_or(BadRoute)?;
    let host = match host.strip_prefix('[') {
        Some(rest) => Host::Address(IpAddr::V6(rest.strip_suffix(']').and_then(|v6| v6.parse().ok()).ok_or(BadRoute)?)),
        None => match host.parse::<IpAddr>() {
            Ok(IpAddr::V4(ip)) => Host::Address(IpAddr::V4(ip)),
            Ok(IpAddr::V6(_)) => return Err(BadRoute),
            Err(_) if is_host_name(host) => Host::Name(host.to_ascii_lowercase().into()),
            Err(_) => return Err(BadRoute),
        },
    };
    Ok(NextHop::SmartHost { host, port })
}

fn is_host_name(name: &str) -> bool {
    name.len() <= limits::DOMAIN_MAX_BYTES
        && name.split('.').all(|label| {
            !label.is_empty()
                && label.len() <= 63
                && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(text: &str) -> NextHop {
        parse_route(text).unwrap()
    }

    /// RTE-26.
    #[test]
    fn the_most_specific_route_wins() {
        let mut table = RouteTable::new(None);
        assert_eq!(table.next_hop(b"Example.ORG"), NextHop::Mx { domain: "example.org".into() });
        table.insert("Example.org", route("10.0.0.1:26"));
        table.insert(".example.org", route("10.0.0.2:26"));
        table.insert(".deep.example.org", route("10.0.0.3:26"));
        for (domain, hop) in [
            ("example.ORG", Some("10.0.0.1:26")),
            ("a.example.org", Some("10.0.0.2:26")),
            ("a.b.example.org", Some("10.0.0.2:26")),
            ("a.deep.example.org", Some("10.0.0.3:26")),
            ("deep.example.org", Some("10.0.0.2:26")),
            ("notexample.org", None),
            ("org", None),
            ("", None),
        ] {
            assert_eq!(table.configured(domain.as_bytes()), hop.map(route).as_ref(), "{domain}");
        }
        assert_eq!(table.configured(&[b'a'; 300]), None);
        let table = RouteTable::new(Some(route("smart.example:2525")));
        assert_eq!(table.next_hop(b"anything.example"), route("smart.example:2525"));
    }

    #[test]
    fn routes_are_host_and_port() {
        assert_eq!(
            route("127.0.0.1:2602"),
            NextHop::SmartHost { host: Host::Address("127.0.0.1".parse().unwrap()), port: 2602 }
        );
        assert_eq!(
            route("[2001:db8::1]:25"),
            NextHop::SmartHost { host: Host::Address("2001:db8::1".parse().unwrap()), port: 25 }
        );
        assert_eq!(
            route("Mail.example:587"),
            NextHop::SmartHost { host: Host::Name("mail.example".into()), port: 587 }
        );
        for bad in
            ["", "host", "host:", ":25", "host:0", "host:70000", "::1:25", "[::1]", "[1.2.3.4]:25", "a b:25", "a..b:1"]
        {
            assert_eq!(parse_route(bad), Err(BadRoute), "{bad}");
        }
    }
}
