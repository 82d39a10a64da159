//! Web servers of other domains: those that have MTA-STS policies, and those that want TLS reports.
//!
//! For the threads of `control` that fetch and send. A server proves its name by an authority in `tls.roots`, is found by our own name
//! servers, never in a private network (RTE-11), and no redirect is followed. Time is bounded by whoever asks.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use hickory_resolver::TokioResolver;
use hickory_resolver::proto::rr::Name;
use reqwest::dns::{Addrs, Resolve, Resolving};
use reqwest::{Certificate, Client, redirect};

use crate::base::limits;
use crate::route::mx::is_private;

/// Who speaks with them; `allow_private` as in `route.allow_private`. The error names the file of authorities.
pub(super) fn client(
    roots: &Path,
    allow_private: bool,
    dns: TokioResolver,
    longest: Duration,
) -> Result<Client, String> {
    let named = |why: &dyn std::fmt::Display| format!("tls.roots {}: {why}", roots.display());
    let text = fs::read(roots).map_err(|error| named(&error))?;
    let authorities = Certificate::from_pem_bundle(&text).map_err(|error| named(&reason(&error)))?;
    Client::builder()
        .timeout(longest)
        .redirect(redirect::Policy::none())
        .https_only(true)
        .no_proxy()
        .tls_certs_only(authorities)
        .dns_resolver(WebServers { dns, allow_private })
        .pool_max_idle_per_host(0)
        .user_agent("Ringpost")
        .build()
        .map_err(|error| named(&reason(&error)))
}

/// Where web servers are, by the name servers that mail hosts are found by.
struct WebServers {
    dns: TokioResolver,
    allow_private: bool,
}

impl Resolve for WebServers {
    fn resolve(&self, name: reqwest::dns::Name) -> Resolving {
        let (dns, allow_private) = (self.dns.clone(), self.allow_private);
        Box::pin(async move {
            let mut name = Name::from_ascii(name.as_str())?;
            name.set_fqdn(true);
            let found = dns.lookup_ip(name).await?;
            // No stranger's name leads to this network (RTE-11).
            let public = found.iter().filter(|&ip| allow_private || !is_private(ip)).take(limits::HOST_ADDRESSES_MAX);
            let addresses: Vec<SocketAddr> = public.map(|ip| SocketAddr::new(ip, 0)).collect();
            if addresses.is_empty() {
                return Err("it has no public address".into());
            }
            Ok(Box::new(addresses.into_iter()) as Addrs)
        })
    }
}

/// The innermost reason of what went wrong.
pub(super) fn reason(error: &dyn std::error::Error) -> String {
    let innermost = std::iter::successors(Some(error), |error| error.source()).last();
    innermost.map_or(String::new(), ToString::to_string)
}
