//! Who shares the ways out, and where mail comes from: tenants and sources, from raw values to types.
//!
//! As in [`settings`](super::settings): every failure is a [`ConfigError`] with key, value and remedy.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use ipnet::IpNet;

use super::ConfigError;
use super::file::Values;
use super::settings::{domain_name, network};
use crate::base::limits;
use crate::mail::date::Day;
use crate::route::egress::Proxy;
use crate::schedule::fair::Class;

/// Somebody for whom mail is sent (`tenant.NAME.*`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TenantSettings {
    /// What it is called.
    pub name: Box<str>,
    /// Whose clients send for it; the narrowest network of all tenants holds.
    pub networks: Vec<IpNet>,
    /// Its part of a site, beside those of others.
    pub weight: u16,
    /// The class of its messages where they do not say otherwise.
    pub class: Class,
    /// Where its mail comes from, and never from anywhere else (RTE-23); none: from `Settings::pool`.
    pub pool: Vec<SourceId>,
    /// Its mail is taken only if receivers can offer to unsubscribe from it with one click (BLK-05).
    pub one_click: bool,
}

/// Index of a source; 0 is the one without a name.
pub type SourceId = u16;

/// Where connections to next hops come from (`source.*`), and the name that goes with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceSettings {
    /// What it is called; empty for the first.
    pub name: Box<str>,
    /// Its IPv4 address.
    pub v4: Option<Ipv4Addr>,
    /// Its IPv6 address.
    pub v6: Option<Ipv6Addr>,
    /// What its connections go through, if not straight to the next hop.
    pub proxy: Option<Proxy>,
    /// The name in EHLO, which is to belong to the addresses (RTE-12).
    pub hello: Box<str>,
    /// How often it is drawn from a pool, beside the others there.
    pub weight: u16,
}

/// How a source begins (`source.NAME.warm_up.*`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WarmUpSettings {
    /// The first day of all lists.
    pub began: Day,
    /// Messages a day for each receiver, by a rule's name or `default`, in order of the names; each at least one day long.
    pub lists: Vec<(Box<str>, Arc<[u32]>)>,
    /// The sources, one of which sends what is above; none: it waits.
    pub overflow: Arc<[SourceId]>,
}

impl WarmUpSettings {
    /// What the list of receivers that no rule's list is for is called.
    pub const DEFAULT: &str = "default";

    /// The list of a name.
    pub fn list(&self, name: &str) -> Option<&Arc<[u32]>> {
        self.lists.iter().find(|(list, _)| **list == *name).map(|(_, messages)| messages)
    }
}

impl SourceSettings {
    /// The address to bind for a connection to `target`: `None` within if the system may choose, as no address is given at all;
    /// `None` if there is none of that family, and so no such connection.
    pub fn address_for(&self, target: IpAddr) -> Option<Option<IpAddr>> {
        match (self.v4, self.v6, target.to_canonical()) {
            (None, None, _) => Some(None),
            (Some(v4), _, IpAddr::V4(_)) => Some(Some(v4.into())),
            (_, Some(v6), IpAddr::V6(_)) => Some(Some(v6.into())),
            _ => None,
        }
    }
}

pub(super) fn tenants(values: &Values) -> Result<Vec<TenantSettings>, ConfigError> {
    let names = values.named("tenant.*.");
    if names.len() > limits::TENANTS_MAX {
        let remedy = format!("names {} tenants; {} are possible", names.len(), limits::TENANTS_MAX);
        return Err(ConfigError::new("tenant", None, remedy));
    }
    let tenant = |name: &&str| {
        let class = match values.named_text("tenant.*.priority", name) {
            None | Some("normal") => Class::Normal,
            Some("urgent") => Class::Urgent,
            Some("bulk") => Class::Bulk,
            Some(other) => {
                let key = format!("tenant.{name}.priority");
                return Err(ConfigError::new(&key, other.to_owned(), "must be one of urgent, normal and bulk"));
            }
        };
        let networks = values.named_texts("tenant.*.networks", name).unwrap_or_default();
        let network = |text: &&str| {
            network(text)
                .map_err(|remedy| ConfigError::new(&format!("tenant.{name}.networks"), text.to_string(), remedy))
        };
        let own = values.named_texts("tenant.*.sources", name).unwrap_or_default();
        Ok(TenantSettings {
            pool: pool(values, &format!("tenant.{name}.sources"), &own)?,
            name: (*name).into(),
            networks: networks.iter().map(network).collect::<Result<_, _>>()?,
            weight: values.named_number("tenant.*.weight", name).unwrap_or(1) as u16,
            class,
            one_click: one_click(values, name)?,
        })
    };
    names.iter().map(tenant).collect()
}

fn one_click(values: &Values, tenant: &str) -> Result<bool, ConfigError> {
    let wanted = values.named_flag("tenant.*.one_click", tenant).unwrap_or_default();
    if wanted && values.named("dkim.*.").is_empty() {
        let remedy = "wants a signature, and there is no key: set dkim.NAME.domain, selector and key";
        return Err(ConfigError::new(&format!("tenant.{tenant}.one_click"), "true".to_owned(), remedy));
    }
    Ok(wanted)
}

/// The sources: first the one without a name, then the others in order of their names.
pub(super) fn sources(values: &Values, hostname: &str) -> Result<Vec<SourceSettings>, ConfigError> {
    let mut sources = Vec::new();
    for name in std::iter::once("").chain(values.named("source.*.")) {
        let (key, texts) = match name {
            "" => ("source.address".to_owned(), values.texts("source.address")),
            _ => (format!("source.{name}.address"), values.named_texts("source.*.address", name).unwrap_or_default()),
        };
        let wrong = |text: &str, remedy: &str| ConfigError::new(&key, text.to_owned(), remedy);
        let (mut v4, mut v6) = (None, None);
        for text in texts {
            let again = match text.parse() {
                Ok(IpAddr::V4(address)) => v4.replace(address).is_some(),
                Ok(IpAddr::V6(address)) => v6.replace(address).is_some(),
                Err(_) => return Err(wrong(text, "must be addresses without port, one of each family at most")),
            };
            if again {
                return Err(wrong(text, "is a second address of its family; make it another source"));
            }
        }
        let proxy = match values.named_text("source.*.proxy", name) {
            None => None,
            Some(text) => Some(
                Proxy::parse(text)
                    .map_err(|remedy| ConfigError::new(&format!("source.{name}.proxy"), text.to_owned(), remedy))?,
            ),
        };
        // A SOCKS server has addresses of its own.
        let own = !name.is_empty() && !matches!(proxy, Some(Proxy::Socks5(_)));
        if own && v4.is_none() && v6.is_none() {
            return Err(wrong("", "a source needs an address, or mail would leave from anywhere"));
        }
        let hello = match values.named_text("source.*.hello", name) {
            None => hostname.into(),
            Some(text) => domain_name(text).ok_or_else(|| {
                let key = format!("source.{name}.hello");
                ConfigError::new(&key, text.to_owned(), "must be a domain name, for instance out1.example.org")
            })?,
        };
        let weight = values.named_number("source.*.weight", name).unwrap_or(1) as u16;
        sources.push(SourceSettings { name: name.into(), v4, v6, proxy, hello, weight });
    }
    Ok(sources)
}

/// How each of the sources is warmed up, where it is; in the order of [`sources`].
pub(super) fn warm_ups(values: &Values) -> Result<Vec<Option<Arc<WarmUpSettings>>>, ConfigError> {
    let of = |name: &&str| warm_up(values, name).map(|found| found.map(Arc::new));
    std::iter::once("").chain(values.named("source.*.")).map(|name| of(&name)).collect()
}

fn warm_up(values: &Values, name: &str) -> Result<Option<WarmUpSettings>, ConfigError> {
    let key = |part: &str| format!("source.{name}.warm_up.{part}");
    let began = values.named_text("source.*.warm_up.began", name).filter(|text| !text.is_empty());
    let lists = values.named_lists("source.*.warm_up.messages", name);
    let others = values.named_texts("source.*.warm_up.overflow", name).unwrap_or_default();
    if lists.is_empty() {
        return match (began, &others[..]) {
            (None, []) => Ok(None),
            (Some(began), _) => {
                let remedy = "needs messages a day beside it, for instance source.NAME.warm_up.messages.default = [50, 100, 500]";
                Err(ConfigError::new(&key("began"), began.to_owned(), remedy))
            }
            (None, _) => {
                let remedy = "needs source.NAME.warm_up.began and source.NAME.warm_up.messages beside it";
                Err(ConfigError::new(&key("overflow"), others.join(", "), remedy))
            }
        };
    }
    let began = began.unwrap_or_default();
    let day = Day::parse(began).ok_or_else(|| {
        ConfigError::new(
            &key("began"),
            began.to_owned(),
            "must be the first day of the warm-up, for instance 2026-11-28",
        )
    })?;
    let rules = values.named("site.*.");
    let list = |(list, messages): &(&str, &[u64])| {
        let full_name = key(&format!("messages.{list}"));
        if *list != WarmUpSettings::DEFAULT && !rules.contains(list) {
            let remedy = "is for no rule; name default, or a rule (site.NAME), for instance google";
            return Err(ConfigError::new(&full_name, None, remedy));
        }
        if messages.len() > limits::WARM_UP_DAYS_MAX {
            let remedy = format!("lists {} days; {} are possible", messages.len(), limits::WARM_UP_DAYS_MAX);
            return Err(ConfigError::new(&full_name, None, remedy));
        }
        let messages = messages.iter().map(|&number| u32::try_from(number).expect("the key's bounds fit"));
        Ok(((*list).into(), messages.collect()))
    };
    let overflow = pool(values, &key("overflow"), &others)?;
    if let Some(own) = others.iter().find(|other| other.eq_ignore_ascii_case(name)) {
        return Err(ConfigError::new(&key("overflow"), own.to_string(), "is this source itself; name another"));
    }
    Ok(Some(WarmUpSettings {
        began: day,
        lists: lists.iter().map(list).collect::<Result<_, _>>()?,
        overflow: overflow.into(),
    }))
}

/// Sources by name.
pub(super) fn pool(values: &Values, key: &str, names: &[&str]) -> Result<Vec<SourceId>, ConfigError> {
    let known = values.named("source.*.");
    let place = |name: &&str| {
        let found = known.iter().position(|known| known.eq_ignore_ascii_case(name));
        let remedy = "is no source; give it an address with source.NAME.address";
        found.map(|place| place as SourceId + 1).ok_or_else(|| ConfigError::new(key, name.to_string(), remedy))
    };
    names.iter().map(place).collect()
}
