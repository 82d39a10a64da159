//! Whether DNS says of us what it should: the records of DKIM keys (BLK-01), and
//! whether the names that sources say in EHLO and their addresses belong together, both ways (RTE-12): the big receivers
//! refuse mail from an address without a name, or with one that does not lead back to it. Asked for by `ringpost check --dns`
//! alone, on a thread of its own; nothing here is on the way of mail.

use std::io;
use std::net::IpAddr;

use hickory_resolver::proto::rr::{Name, RData, RecordType};

use super::{Addresses, Found, Lookups, ResolverSettings, TlsaWanted, build, host_name, parse_name};
use crate::config::SourceSettings;
use crate::mail::dkim::Key;

/// Asks about each address of each source, and each key. Gives one line for each: what is so, or what is not. An error: no resolver.
pub fn check_names(
    settings: &ResolverSettings,
    sources: &[SourceSettings],
    keys: &[&Key],
) -> io::Result<Vec<Result<String, String>>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let lookups = build(settings).map_err(io::Error::other)?;
        let mut lines = Vec::new();
        for source in sources {
            for address in source.v4.map(IpAddr::V4).into_iter().chain(source.v6.map(IpAddr::V6)) {
                lines.push(lookups.check_name(&source.hello, address).await);
            }
        }
        for key in keys {
            lines.push(lookups.check_key(key).await);
        }
        Ok(lines)
    })
}

impl Lookups {
    /// The `p=` of its record is what counts; the other tags are the operator's.
    async fn check_key(&self, key: &Key) -> Result<String, String> {
        let (name, wanted) = (key.record_name(), key.record());
        let public =
            |record: &str| record.split(';').find_map(|tag| Some(tag.trim().strip_prefix("p=")?.replace(' ', "")));
        let says = |text: &Vec<u8>| public(&String::from_utf8_lossy(text)) == public(&wanted);
        match self.texts(&name).await {
            Found::Some(texts, _) if texts.iter().any(says) => Ok(format!("{name} has the key that signs")),
            Found::Some(..) => Err(format!("{name} has another key: let it say {wanted}")),
            Found::None { .. } => Err(format!("{name} has no record: let it say {wanted}")),
            Found::Failed(text) => Err(format!("{name}: its record is not known: {text}")),
        }
    }

    async fn check_name(&self, hello: &str, address: IpAddr) -> Result<String, String> {
        let unasked = TlsaWanted { port: None, secure: false };
        let name = parse_name(hello).ok_or_else(|| format!("{hello} is no name that DNS could know"))?;
        let Addresses { list, failure, .. } = self.addresses(name, unasked).await;
        if !list.contains(&address) {
            return Err(match failure {
                Some(text) if list.is_empty() => format!("{hello}: its addresses are not known: {text}"),
                _ => format!("{hello} does not lead to {address}: give it an {} record", kind_of(address)),
            });
        }
        let pointers = self.find(Name::from(address), RecordType::PTR, false, |data| match data {
            RData::PTR(name) => Some(host_name(name)),
            _ => None,
        });
        match pointers.await.found {
            Found::Some(names, _) if names.iter().any(|name| name.eq_ignore_ascii_case(hello)) => {
                Ok(format!("{address} is {hello}, and {hello} is {address}"))
            }
            Found::Some(names, _) => {
                Err(format!("{address} is called {}, not {hello}: let its PTR record say so", names.join(", ")))
            }
            Found::None { .. } => Err(format!("{address} has no name: let a PTR record say {hello}")),
            Found::Failed(text) => Err(format!("{address}: its name is not known: {text}")),
        }
    }
}

fn kind_of(address: IpAddr) -> &'static str {
    if address.is_ipv4() { "A" } else { "AAAA" }
}
