//! What the configuration decides about a domain before DNS is asked: next hop, TLS policy, site.
//!
//! Pure, shard-local; built once from the settings. The relay and `ringpost explain` ask the same functions, so that what is
//! explained is what is done.

use std::net::SocketAddr;
use std::sync::Arc;

use rustc_hash::FxHashMap;

use super::mx::{self, MxPolicy, Plan};
use super::safety::{Dane, HostTls, Identity, Safety};
use super::sts::{Mode, Sts};
use super::table::DomainTable;
use super::{Answer, NextHop, Question};
use crate::base::checksum::crc32c;
use crate::config::{
    HopAddress, HostPort, Route, Settings, SiteMatch, SiteRule, SiteSettings, SourceId, SourceSettings, TlsPolicy,
    WarmUpSettings,
};
use crate::mail::address::domain_of;
use crate::schedule::fair::TenantId;
use crate::schedule::hosts::KnownTarget;
use crate::schedule::warm_up::{Count, Steps, WarmUp};
use crate::shard::parcel::SiteName;
use crate::smtp::client::Needs;

/// Which route a message has for its sender's or tenant's sake; 0 is none.
pub type Via = u16;

/// Everything the configuration says of domains and sites.
pub struct Router {
    routes: DomainTable<Route>,
    /// For everything without a route of its own.
    default_route: Route,
    /// Routes of senders and tenants, with the key of each; a [`Via`] is a place here and one more.
    vias: Vec<(Box<str>, Route)>,
    /// By mailbox, and by domain.
    by_sender: FxHashMap<Box<[u8]>, Via>,
    by_sender_domain: DomainTable<Via>,
    by_tenant: Vec<Via>,
    tls: DomainTable<TlsPolicy>,
    default_tls: TlsPolicy,
    mx_policy: MxPolicy,
    mx_port: u16,
    rules: Vec<SiteRule>,
    /// Places in `rules`: by recipient domain, by mail host, by smart host.
    by_domain: DomainTable<usize>,
    by_mail_host: DomainTable<usize>,
    by_next_hop: FxHashMap<HostPort, usize>,
    default_limits: Arc<SiteSettings>,
    sources: Vec<SourceSettings>,
    warm_ups: Vec<Option<Arc<WarmUpSettings>>>,
}

/// What was decided about a domain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// Where its mail goes.
    pub next_hop: NextHop,
    /// Whether it goes inside TLS.
    pub tls: TlsPolicy,
    /// Where the connections come from.
    pub source: SourceId,
    /// What its hosts must be able to do for the mail in question.
    pub needs: Needs,
    /// The rule that gives the domain a site of its own.
    rule: Option<usize>,
}

impl Decision {
    /// The same, for mail that comes from another source.
    pub fn from_source(&self, source: SourceId) -> Decision {
        Decision { source, ..self.clone() }
    }

    /// The same, for mail with these needs.
    pub fn needing(self, needs: Needs) -> Decision {
        let tls = match self.tls {
            // Without a proof of who the next hop is, TLS hides nothing (RTL-02). What MAIL said goes before what the header says
            // (RTL-04; RFC 8689 3).
            _ if needs.require_tls => TlsPolicy::Verify,
            // What the domain publishes says nothing then; what the operator wants holds (RTL-04).
            TlsPolicy::Dane | TlsPolicy::Published if needs.tls_optional => TlsPolicy::May,
            tls => tls,
        };
        Decision { tls, needs: Needs { tls_optional: false, ..needs }, ..self }
    }

    /// True if somebody else than an operator has to say that the mail hosts are the domain's own (RTL-02; RFC 8689 4.2.1).
    fn wants_proof_of_hosts(&self) -> bool {
        self.needs.require_tls && matches!(self.next_hop, NextHop::Mx { .. })
    }

    /// The domain whose TLS report tells of sessions with its mail hosts, if what it publishes has a say (RPT-01).
    pub fn reported_domain(&self) -> Option<&str> {
        match &self.next_hop {
            NextHop::Mx { domain } if self.is_published(false) && !domain.starts_with('[') => Some(domain),
            NextHop::Mx { .. } | NextHop::Configured(_) => None,
        }
    }

    /// True if TLSA records, and in `sts` MTA-STS policies, have a say.
    fn is_published(&self, sts: bool) -> bool {
        self.tls == TlsPolicy::Published || (!sts && self.tls == TlsPolicy::Dane) || self.wants_proof_of_hosts()
    }
}

/// A site, as far as the configuration and DNS make it.
#[derive(Clone, Debug)]
pub struct SiteKind {
    /// What shares its limits; the same on all shards.
    pub name: SiteName,
    /// Its limits.
    pub limits: Arc<SiteSettings>,
    /// How its source is warmed up for it, if it is.
    pub warm_up: Option<Arc<WarmUp>>,
}

/// Where to connect, or what to do with the mail instead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ways {
    /// To these, in order of preference; never empty.
    Try(Vec<KnownTarget>),
    /// As [`Plan::Fail`].
    Fail {
        /// A reply code as a peer would have used; 0 if none fits.
        code: u16,
        /// Why; starts with the enhanced code.
        text: &'static str,
    },
    /// As [`Plan::Defer`].
    Defer {
        /// Why; starts with the enhanced code.
        text: Box<str>,
    },
}

impl Router {
    /// What these settings decide.
    pub fn new(settings: &Settings) -> Router {
        let mut router = Router {
            routes: DomainTable::default(),
            default_route: settings.route.default.clone(),
            vias: Vec::new(),
            by_sender: FxHashMap::default(),
            by_sender_domain: DomainTable::default(),
            by_tenant: Vec::new(),
            tls: DomainTable::default(),
            default_tls: settings.tls.policies.default,
            mx_policy: MxPolicy {
                own_names: vec![settings.hostname.to_ascii_lowercase().into()],
                own_addresses: settings.listen.iter().filter_map(|listener| listener.endpoint.ip()).collect(),
                allow_private: settings.route.allow_private,
            },
            mx_port: settings.route.mx_port,
            rules: settings.sites.clone(),
            by_domain: DomainTable::default(),
            by_mail_host: DomainTable::default(),
            by_next_hop: FxHashMap::default(),
            default_limits: Arc::new(settings.site.clone()),
            sources: settings.sources.clone(),
            warm_ups: settings.warm_ups.clone(),
        };
        for (domain, to) in &settings.route.domains {
            router.routes.insert(domain, to.clone());
        }
        router.read_vias(settings);
        for (domain, policy) in &settings.tls.policies.domains {
            router.tls.insert(domain, *policy);
        }
        for (place, rule) in settings.sites.iter().enumerate() {
            match &rule.of {
                SiteMatch::Domain(domain) => router.by_domain.insert(domain, place),
                SiteMatch::MailHosts(hosts) => hosts.iter().for_each(|host| router.by_mail_host.insert(host, place)),
                SiteMatch::NextHop(hop) => drop(router.by_next_hop.insert(hop.clone(), place)),
            }
        }
        router
    }

    fn read_vias(&mut self, settings: &Settings) {
        let mut add = |key: String, route: &Route| {
            self.vias.push((key.into(), route.clone()));
            Via::try_from(self.vias.len()).expect("no configuration has so many routes")
        };
        for (sender, route) in &settings.route.senders {
            let via = add(format!("route.senders.{sender}"), route);
            match sender.strip_prefix('@') {
                Some(domain) => self.by_sender_domain.insert(domain, via),
                None => drop(self.by_sender.insert(sender.as_bytes().into(), via)),
            }
        }
        for (tenant, route) in settings.tenants.iter().zip(&settings.route.tenants) {
            self.by_tenant.push(route.as_ref().map_or(0, |route| add(format!("tenant.{}.route", tenant.name), route)));
        }
    }

    /// The route that a message has for its sender's sake or, failing that, for its tenant's.
    pub fn via(&self, tenant: TenantId, sender: &[u8]) -> Via {
        // The usual case costs nothing.
        if self.vias.is_empty() {
            return 0;
        }
        self.of_sender(sender).unwrap_or_else(|| match usize::from(tenant) {
            0 => 0,
            tenant => self.by_tenant[tenant - 1],
        })
    }

    fn of_sender(&self, sender: &[u8]) -> Option<Via> {
        let whole = (!self.by_sender.is_empty()).then(|| self.by_sender.get(&*sender.to_ascii_lowercase()));
        whole.flatten().or_else(|| self.by_sender_domain.get(domain_of(sender)).map(|(_, via)| via)).copied()
    }

    /// The route of a domain in lower case, with the key that says so.
    fn route(&self, domain: &[u8], via: Via) -> (String, &Route) {
        if let Some((name, route)) = self.routes.get(domain) {
            return (format!("route.domains.{name}"), route);
        }
        match usize::from(via).checked_sub(1).map(|place| &self.vias[place]) {
            Some((key, route)) => (key.to_string(), route),
            None => ("route.default".to_owned(), &self.default_route),
        }
    }

    /// Decides about a domain in lower case, for a message from a source and with a route of its own, if it has one.
    pub fn decide(&self, domain: &[u8], source: SourceId, via: Via) -> Decision {
        let (_, route) = self.route(domain, via);
        let own_tls = route.as_ref().and_then(|hop| hop.tls);
        let tls = own_tls.unwrap_or_else(|| self.tls.get(domain).map_or(self.default_tls, |(_, policy)| *policy));
        let next_hop = match route {
            Some(hop) => NextHop::Configured(hop.clone()),
            None => NextHop::Mx { domain: String::from_utf8_lossy(domain).into() },
        };
        let rule = self.by_domain.get(domain).map(|(_, rule)| *rule);
        Decision { next_hop, tls, source, needs: Needs::default(), rule }
    }

    /// The name of what was decided: two domains of one name share the answer of DNS and the site.
    pub fn name(&self, decision: &Decision) -> SiteName {
        self.named(decision, decision.next_hop.name())
    }

    /// The site that these targets of a decision's next hop make: one for all domains with the same mail hosts.
    pub fn site(&self, decision: &Decision, targets: &[KnownTarget]) -> SiteKind {
        let found = match (&decision.next_hop, decision.rule) {
            (_, Some(rule)) => Some(rule),
            (NextHop::Mx { .. }, None) => {
                let best = targets.first().map_or(&b""[..], |target| target.host.as_bytes());
                self.by_mail_host.get(best).map(|(_, rule)| *rule)
            }
            (NextHop::Configured(hop), None) => match &hop.to {
                HopAddress::Host(host) => self.by_next_hop.get(host).copied(),
                HopAddress::Socket(_) => None,
            },
        };
        let rule = found.map(|rule| &self.rules[rule]);
        let base = match &decision.next_hop {
            NextHop::Configured(_) => decision.next_hop.name(),
            NextHop::Mx { .. } => {
                let provider = rule.filter(|rule| matches!(rule.of, SiteMatch::MailHosts(_)));
                mail_hosts_name(provider.map_or("mx", |rule| &rule.name), targets).into()
            }
        };
        SiteKind {
            warm_up: self.warm_up(decision, rule, targets, &base),
            name: self.named(decision, format!("{base}{}", proved_name(decision, targets)).into()),
            limits: rule.map_or_else(|| self.default_limits.clone(), |rule| rule.settings.clone()),
        }
    }

    /// How the source of a decision is warmed up for the site that these targets make, of which the nearest rule and the name are known.
    /// Whoever has limits or a policy of its own is at the same provider still, and is counted there.
    fn warm_up(
        &self,
        decision: &Decision,
        rule: Option<&SiteRule>,
        targets: &[KnownTarget],
        site: &str,
    ) -> Option<Arc<WarmUp>> {
        let settings = self.warm_ups[usize::from(decision.source)].as_ref()?;
        let by_mx = matches!(decision.next_hop, NextHop::Mx { .. });
        let best = targets.first().filter(|_| by_mx).map(|target| target.host.as_bytes());
        let provider = best.and_then(|host| self.by_mail_host.get(host)).map(|(_, provider)| &self.rules[*provider]);
        let own = [rule, provider].into_iter().flatten().find(|rule| settings.list(&rule.name).is_some());
        let (receiver, list) = match (own, provider) {
            (Some(rule), _) => (&*rule.name, &*rule.name),
            (None, Some(provider)) => (&*provider.name, WarmUpSettings::DEFAULT),
            (None, None) => (site, WarmUpSettings::DEFAULT),
        };
        let messages = settings.list(list)?;
        let name_of = |source: &SourceId| &*self.sources[usize::from(*source)].name;
        let above = match &*settings.overflow {
            [] => "waits for the next day".into(),
            others => format!("goes from {}", others.iter().map(name_of).collect::<Vec<_>>().join(" or ")).into(),
        };
        Some(Arc::new(WarmUp {
            count: Count::new(name_of(&decision.source), receiver),
            list: list.into(),
            steps: Steps { began: settings.began, messages: messages.clone() },
            overflow: settings.overflow.clone(),
            above,
        }))
    }

    /// A connection has one source and serves one policy and one kind of needs, and a domain with limits of its own shares
    /// none: the name says so.
    fn named(&self, decision: &Decision, base: SiteName) -> SiteName {
        let mut more = String::new();
        if let Some(rule) = decision.rule {
            more += &format!(" for {}", self.rules[rule].name);
        }
        if decision.tls != self.default_tls {
            more += &format!(" tls={}", decision.tls);
        }
        if decision.needs != Needs::default() {
            more += &format!(" needs={}", decision.needs);
        }
        if decision.source != 0 {
            more += &format!(" from {}", self.sources[usize::from(decision.source)].name);
        }
        if more.is_empty() { base } else { format!("{base}{more}").into() }
    }

    /// The key that decides the next hop of a domain in lower case.
    pub fn route_key(&self, domain: &[u8], via: Via) -> String {
        self.route(domain, via).0
    }

    /// The key that decides the TLS policy of a domain in lower case that goes to a next hop.
    pub fn tls_key(&self, domain: &[u8], next_hop: &NextHop) -> String {
        match next_hop.configured() {
            // Without a policy of its own it is its credentials that want one.
            Some(hop) if hop.tls.is_some() => return format!("next_hop.{}.tls", hop.name),
            _ => {}
        }
        self.tls.get(domain).map_or("site.default.tls".to_owned(), |(name, _)| format!("tls.domains.{name}"))
    }

    /// What to ask DNS about a decision's next hop; `None`: see [`NextHop::known_answer`].
    pub fn question(&self, decision: &Decision) -> Option<Question> {
        let (name, address_only) = decision.next_hop.question()?;
        let tlsa_port = decision.is_published(false).then(|| self.port(&decision.next_hop));
        Some(Question { name: name.clone(), address_only, tlsa_port, sts: decision.is_published(true) })
    }

    fn port(&self, next_hop: &NextHop) -> u16 {
        match next_hop.configured().map(|hop| &hop.to) {
            Some(HopAddress::Host(host)) => host.port,
            // There is one; nobody asks which.
            Some(HopAddress::Socket(_)) => 0,
            None => self.mx_port,
        }
    }

    /// Where to connect, by what DNS said of the next hop.
    pub fn ways(&self, decision: &Decision, answer: &Answer) -> Ways {
        let next_hop = &decision.next_hop;
        let source = &self.sources[usize::from(decision.source)];
        let port = self.port(next_hop);
        match mx::plan(next_hop, answer, &self.mx_policy) {
            Plan::Try(targets) => {
                let reachable = |target: &mx::Target| source.address_for(target.address).is_some();
                let reachable: Vec<_> = targets.into_iter().filter(reachable).collect();
                if reachable.is_empty() {
                    let name = &source.name;
                    let text = format!("4.4.4 source {name:?} has no address of a family of the next hop's").into();
                    return Ways::Defer { text };
                }
                let sts = if let Answer::Mail { sts, .. } = answer { sts.as_deref() } else { None };
                let known = |target: &mx::Target| {
                    let safety = safety(decision, target, sts)?;
                    let address = SocketAddr::new(target.address, port);
                    Some(KnownTarget { address, host: target.host.clone(), preference: target.preference, safety })
                };
                let known: Vec<_> = reachable.iter().filter_map(known).collect();
                if known.is_empty() { no_safe_host(&reachable, sts) } else { Ways::Try(known) }
            }
            Plan::Fail { code, text } => Ways::Fail { code, text },
            Plan::Defer { text } => Ways::Defer { text },
        }
    }
}

/// What becomes of mail for hosts that can be reached, and of which none may have it.
fn no_safe_host(reachable: &[mx::Target], sts: Option<&Sts>) -> Ways {
    let enforced = sts.and_then(Sts::policy).is_some_and(|policy| policy.mode == Mode::Enforce);
    match sts {
        _ if reachable.iter().any(|target| target.tls == HostTls::Failed) => {
            Ways::Defer { text: "4.4.3 the TLSA records of no mail host can be looked up".into() }
        }
        Some(Sts::Unknown { why, .. }) => Ways::Defer { text: format!("4.4.3 no MTA-STS policy: {why}").into() },
        _ if enforced => Ways::Defer { text: "4.7.5 the MTA-STS policy names no mail host of the domain".into() },
        // Who answers an unsigned question decides who gets the message (RTL-02; RFC 8689 4.2.1).
        _ => Ways::Fail {
            code: 0,
            text: "5.7.10 REQUIRETLS, and the mail hosts of the domain are not proven to be its own",
        },
    }
}

/// Domains share a connection only if as much is asked of it for both: where what is published asks anything of a host, though it be
/// no more than that TLS is wanted, and where it matters for which domain, the site's name says so.
fn proved_name(decision: &Decision, targets: &[KnownTarget]) -> String {
    if !decision.is_published(false) {
        return String::new();
    }
    let (mut dane, mut verified, mut tested, mut domain) = (false, false, false, None);
    for target in targets {
        match &target.safety {
            Safety::Always(Identity::Dane(of)) => {
                dane = true;
                domain = domain.or(of.domain.as_deref());
            }
            Safety::Always(Identity::Any | Identity::Tested) => dane = true,
            Safety::Always(Identity::Name) => verified = true,
            Safety::Tested { named } => {
                tested = true;
                domain = domain.or(decision.next_hop.question().map(|(name, _)| &**name).filter(|_| !named));
            }
            Safety::Never | Safety::IfOffered => {}
        }
    }
    let words = [(dane, "dane"), (verified, "verified"), (tested, "tested")];
    let words = words.iter().filter(|(said, _)| *said).map(|(_, word)| *word).chain(domain);
    words.map(|word| format!(" {word}")).collect()
}

/// What is asked of the TLS of a host, by what is published of it; `None`: it counts as unreachable.
fn safety(decision: &Decision, host: &mx::Target, sts: Option<&Sts>) -> Option<Safety> {
    match (decision.tls, &host.tls) {
        // No word of anybody's goes beyond a failed proof (DAN-05, STS-05).
        (_, HostTls::Failed) if decision.is_published(false) => None,
        (_, HostTls::Records(dane)) if decision.is_published(false) => {
            // With usage 3 names do not matter, so that domains can share connections.
            let dane = match &decision.next_hop {
                NextHop::Mx { domain } if dane.records.iter().any(|record| record.usage == 2) => {
                    Arc::new(Dane { domain: Some(domain.clone()), ..(**dane).clone() })
                }
                _ => dane.clone(),
            };
            Some(Safety::Always(Identity::Dane(dane)))
        }
        (_, known) if decision.wants_proof_of_hosts() => {
            let signed = matches!(known, HostTls::Signed | HostTls::Unusable);
            let named = by_policy(Safety::Never, &host.host, sts)? == Safety::Always(Identity::Name);
            (signed || named).then_some(Safety::Always(Identity::Name))
        }
        (TlsPolicy::None, _) => Some(Safety::Never),
        (TlsPolicy::May, _) => Some(Safety::IfOffered),
        (TlsPolicy::Encrypt, _) => Some(Safety::Always(Identity::Any)),
        (TlsPolicy::Verify, _) => Some(Safety::Always(Identity::Name)),
        (_, HostTls::Unusable) => by_policy(Safety::Always(Identity::Any), &host.host, sts),
        (TlsPolicy::Dane | TlsPolicy::Published, _) => by_policy(Safety::IfOffered, &host.host, sts),
    }
}

/// What a policy makes of a host of which else this would be asked; `None`: it is none that the policy names (STS-02).
fn by_policy(otherwise: Safety, host: &str, sts: Option<&Sts>) -> Option<Safety> {
    let Some(policy) = sts.and_then(Sts::policy) else { return Some(otherwise) };
    match (policy.mode, otherwise) {
        (Mode::Enforce, _) => policy.names(host).then_some(Safety::Always(Identity::Name)),
        (Mode::Testing, Safety::IfOffered) => Some(Safety::Tested { named: policy.names(host) }),
        (Mode::Testing | Mode::None, otherwise) => Some(otherwise),
    }
}

/// A name for a set of mail hosts: the best one's and, where there are more, their number and a checksum over all. What counts
/// is names and their order, so that neither an address that changes nor the numbers of preference make another site.
fn mail_hosts_name(prefix: &str, targets: &[KnownTarget]) -> String {
    let mut hosts: Vec<(u16, &str)> = targets.iter().map(|target| (target.preference, &*target.host)).collect();
    hosts.sort_unstable();
    hosts.dedup();
    let Some(&(_, best)) = hosts.first() else { return prefix.to_owned() };
    if hosts.len() == 1 {
        return format!("{prefix} {best}");
    }
    let mut listed = Vec::new();
    let mut before = None;
    let mut rank = 0u8;
    for (preference, host) in &hosts {
        rank = rank.saturating_add(u8::from(before.is_some_and(|before| before != preference)));
        before = Some(preference);
        listed.extend([0, rank]);
        listed.extend(host.as_bytes());
    }
    let sum = crc32c(&[&listed]);
    format!("{prefix} {best} +{} {sum:08x}", hosts.len() - 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Machine, load};
    use crate::route::MailHost;
    use crate::route::sts::Policy;

    fn router(sets: &[&str]) -> Router {
        let sets: Vec<String> = sets.iter().map(ToString::to_string).collect();
        Router::new(&load(None, &sets, &Machine { hostname: "relay.test".into(), cores: 1 }).unwrap())
    }

    fn unreadable() -> Sts {
        Sts::Unknown { why: "404".into(), result: None }
    }

    fn targets(hosts: &[(u16, &str)]) -> Vec<KnownTarget> {
        let target = |(n, (preference, host)): (usize, &(u16, &str))| KnownTarget {
            address: SocketAddr::from(([192, 0, 2, n as u8], 25)),
            host: (*host).into(),
            preference: *preference,
            safety: Safety::IfOffered,
        };
        hosts.iter().enumerate().map(target).collect()
    }

    /// RTE-26: a domain's route goes first, then its sender's, its tenant's, and the default.
    #[test]
    fn the_nearest_route_leads() {
        let router = router(&[
            "next_hop.smart.address=smart.test:587",
            "next_hop.store.address=unix:/run/lmtp",
            "next_hop.store.protocol=lmtp",
            "route.default=192.0.2.1:25",
            "route.domains.local.test=store",
            "route.domains..direct.test=mx",
            "route.senders.News@lists.test=smart",
            "route.senders.@lists.test=192.0.2.2:25",
            "route.senders.@.below.test=mx",
            "tenant.shop.networks=192.0.2.0/24",
            "tenant.shop.route=192.0.2.3:25",
            "tenant.plain.weight=2",
        ]);
        let leads = |tenant: TenantId, sender: &str, domain: &str| {
            let via = router.via(tenant, sender.as_bytes());
            let decision = router.decide(domain.as_bytes(), 0, via);
            format!("{} by {}", decision.next_hop.name(), router.route_key(domain.as_bytes(), via))
        };
        let (plain, shop) = (1, 2);
        assert_eq!(leads(0, "a@b.test", "x.test"), "smarthost 192.0.2.1:25 by route.default");
        assert_eq!(leads(plain, "a@b.test", "x.test"), "smarthost 192.0.2.1:25 by route.default");
        assert_eq!(leads(shop, "a@b.test", "x.test"), "smarthost 192.0.2.3:25 by tenant.shop.route");
        assert_eq!(leads(shop, "NEWS@Lists.test", "x.test"), "smarthost smart by route.senders.news@lists.test");
        assert_eq!(leads(0, "other@LISTS.test", "x.test"), "smarthost 192.0.2.2:25 by route.senders.@lists.test");
        assert_eq!(leads(shop, "a@x.below.test", "x.test"), "x.test by route.senders.@.below.test");
        assert_eq!(leads(shop, "news@lists.test", "local.test"), "lmtp store by route.domains.local.test");
        assert_eq!(leads(shop, "news@lists.test", "a.direct.test"), "a.direct.test by route.domains..direct.test");
        assert_eq!(leads(0, "", "x.test"), "smarthost 192.0.2.1:25 by route.default");
    }

    /// RTE-24: the same mail hosts are the same site, whatever domain they are for, at whatever address and preference.
    #[test]
    fn domains_with_the_same_mail_hosts_share_a_site() {
        let router = router(&["tls.domains.safe.test=encrypt"]);
        let name = |domain: &str, hosts: &[(u16, &str)]| {
            router.site(&router.decide(domain.as_bytes(), 0, 0), &targets(hosts)).name.to_string()
        };
        let one = name("one.test", &[(10, "a.host.test"), (10, "a.host.test"), (20, "b.host.test")]);
        assert!(one.starts_with("mx a.host.test +1 "), "{one}");
        assert_eq!(name("two.test", &[(1, "a.host.test"), (5, "b.host.test")]), one);
        assert_ne!(name("two.test", &[(5, "a.host.test"), (5, "b.host.test")]), one, "equals are another order");
        assert_ne!(name("two.test", &[(1, "b.host.test"), (5, "a.host.test")]), one);
        assert_ne!(name("two.test", &[(1, "a.host.test"), (5, "b.host.test"), (5, "c.host.test")]), one);
        assert_eq!(name("two.test", &[(1, "a.host.test")]), "mx a.host.test");
        assert_eq!(name("safe.test", &[(1, "a.host.test")]), "mx a.host.test tls=encrypt");
    }

    /// DAN-02, DAN-03, DAN-04, DAN-05: what the records of a host come to, in the order of preference whatever they are.
    #[test]
    fn tlsa_records_decide_about_tls() {
        use super::super::safety::Tlsa;
        let router = router(&["site.default.tls=dane", "tls.domains.must.test=verify"]);
        let record = |usage| Tlsa { usage, selector: 1, matching: 1, data: vec![7; 32].into() };
        let records = |usage| HostTls::of_records("base.test", vec![record(usage)]);
        let decision = router.decide(b"a.test", 0, 0);
        assert_eq!(router.question(&decision).unwrap().tlsa_port, Some(25));
        let ways = |decision: &Decision, hosts: &[(&str, HostTls)]| {
            let host = |(place, (name, tls)): (usize, &(&str, HostTls))| MailHost {
                preference: place as u16,
                name: (*name).into(),
                addresses: vec![[192, 0, 2, place as u8].into()],
                tls: tls.clone(),
            };
            let hosts = hosts.iter().enumerate().map(host).collect();
            router.ways(decision, &Answer::Mail { hosts, ttl_s: 60, sts: None })
        };
        let mixed = [
            ("failed.test", HostTls::Failed),
            ("plain.test", HostTls::Unknown),
            ("old.test", HostTls::of_records("old.test", vec![record(0), record(1)])),
            ("good.test", records(3)),
        ];
        let Ways::Try(targets) = ways(&decision, &mixed) else { panic!("three can be reached") };
        let found: Vec<_> = targets.iter().map(|target| (&*target.host, &target.safety)).collect();
        let dane = Dane { base: "base.test".into(), records: vec![record(3)].into(), domain: None };
        let dane = Safety::Always(Identity::Dane(Arc::new(dane)));
        let expected =
            [("plain.test", &Safety::IfOffered), ("old.test", &Safety::Always(Identity::Any)), ("good.test", &dane)];
        assert_eq!(found, expected);
        assert!(router.site(&decision, &targets).name.ends_with(" dane"));
        assert!(matches!(ways(&decision, &mixed[..1]), Ways::Defer { text } if text.starts_with("4.4.3")));
        let Ways::Try(targets) = ways(&decision, &[("ta.test", records(2))]) else { panic!("it can be reached") };
        assert!(
            matches!(&targets[0].safety, Safety::Always(Identity::Dane(dane)) if dane.domain.as_deref() == Some("a.test"))
        );
        assert_eq!(&*router.site(&decision, &targets).name, "mx ta.test dane a.test");
        // Whoever is looked at first, a name that matters is the site's; and TLS without proof is no TLS if offered.
        let Ways::Try(targets) = ways(&decision, &[("a.test", records(3)), ("b.test", records(2))]) else { panic!() };
        assert!(router.site(&decision, &targets).name.ends_with(" dane a.test"));
        let Ways::Try(targets) = ways(&decision, &mixed[2..3]) else { panic!("it can be reached") };
        assert_eq!(&*router.site(&decision, &targets).name, "mx old.test dane");
        let Ways::Try(targets) = ways(&decision, &mixed[1..2]) else { panic!("it can be reached") };
        assert_eq!(&*router.site(&decision, &targets).name, "mx plain.test");
        // Where the operator says more, nobody is asked.
        let must = router.decide(b"must.test", 0, 0);
        assert_eq!(router.question(&must).unwrap().tlsa_port, None);
        let Ways::Try(targets) = ways(&must, &mixed[1..2]) else { panic!("it can be reached") };
        assert_eq!(targets[0].safety, Safety::Always(Identity::Name));
    }

    fn known(mode: Mode, hosts: &[&str]) -> Option<Arc<Sts>> {
        let hosts = hosts.iter().map(|host| Box::from(*host)).collect();
        let policy = Arc::new(Policy { mode, max_age_s: 60, hosts });
        Some(Arc::new(Sts::Known { policy, id: "1".into(), from: "fetched".into() }))
    }

    /// An answer with these hosts, in order of preference.
    fn mail(hosts: &[(&str, HostTls)], sts: Option<Arc<Sts>>) -> Answer {
        let host = |(place, (name, tls)): (usize, &(&str, HostTls))| MailHost {
            preference: place as u16,
            name: (*name).into(),
            addresses: vec![[192, 0, 2, place as u8].into()],
            tls: tls.clone(),
        };
        Answer::Mail { hosts: hosts.iter().enumerate().map(host).collect(), ttl_s: 60, sts }
    }

    fn records() -> HostTls {
        let record = super::super::safety::Tlsa { usage: 3, selector: 1, matching: 1, data: vec![7; 32].into() };
        HostTls::of_records("base.test", vec![record])
    }

    /// STS-02, STS-04, STS-05: what a policy makes of the hosts, and that none makes up for a proof that failed.
    #[test]
    fn policies_decide_about_tls() {
        let router = router(&[
            "site.default.tls=published",
            "tls.domains.only.test=dane",
            "route.domains.smart.test=hub.test:25",
        ]);
        let decision = router.decide(b"a.test", 0, 0);
        let question = router.question(&decision).unwrap();
        assert!(question.sts && question.tlsa_port == Some(25));
        assert!(!router.question(&router.decide(b"only.test", 0, 0)).unwrap().sts);
        let smart = router.question(&router.decide(b"smart.test", 0, 0)).unwrap();
        assert!(smart.sts && &*smart.name == "hub.test", "a smart host's own policy counts");
        let safeties = |answer: &Answer| match router.ways(&decision, answer) {
            Ways::Try(targets) => {
                let name = router.site(&decision, &targets).name;
                let safeties = targets.into_iter().map(|target| (target.host.to_string(), target.safety)).collect();
                Ok((safeties, name.split_once("+").map_or("", |(_, rest)| &rest[10..]).to_owned()))
            }
            Ways::Defer { text } => Err(text),
            fail @ Ways::Fail { .. } => panic!("{fail:?}"),
        };
        type Found = Result<(Vec<(String, Safety)>, String), Box<str>>;
        let hosts = [
            ("mx1.test", HostTls::Unknown),
            ("b.test", HostTls::Signed),
            ("c.test", HostTls::Unusable),
            ("d.test", records()),
        ];
        let named = |safeties: &[(&str, Safety)], name: &str| -> Found {
            Ok((safeties.iter().map(|(host, safety)| ((*host).to_owned(), safety.clone())).collect(), name.to_owned()))
        };
        let HostTls::Records(dane) = records() else { unreachable!() };
        let dane = Safety::Always(Identity::Dane(dane));
        let (name, any) = (Safety::Always(Identity::Name), Safety::Always(Identity::Any));
        let tested = |named| Safety::Tested { named };
        let opportunistic = [
            ("mx1.test", Safety::IfOffered),
            ("b.test", Safety::IfOffered),
            ("c.test", any.clone()),
            ("d.test", dane.clone()),
        ];
        for sts in [None, known(Mode::None, &["mx1.test"]), Some(Arc::new(unreadable()))] {
            assert_eq!(safeties(&mail(&hosts, sts)), named(&opportunistic, " dane"));
        }
        let enforced = [("mx1.test", name.clone()), ("c.test", name.clone()), ("d.test", dane.clone())];
        assert_eq!(
            safeties(&mail(&hosts, known(Mode::Enforce, &["MX1.test", "c.test"]))),
            named(&enforced, " dane verified")
        );
        let testing = [("mx1.test", tested(true)), ("b.test", tested(false)), ("c.test", any), ("d.test", dane)];
        assert_eq!(
            safeties(&mail(&hosts, known(Mode::Testing, &["mx1.test"]))),
            named(&testing, " dane tested a.test")
        );
        let nobody = safeties(&mail(&hosts[..2], known(Mode::Enforce, &["*.mx1.test"])));
        assert!(nobody.unwrap_err().starts_with("4.7.5"));
        let failed = safeties(&mail(&[("mx1.test", HostTls::Failed)], known(Mode::Enforce, &["mx1.test"])));
        assert!(failed.unwrap_err().starts_with("4.4.3"), "a policy makes up for nothing");
    }

    /// RTL-02: for REQUIRETLS a mail host has to be the domain's own, by DNSSEC or by a policy that is enforced.
    #[test]
    fn hosts_are_proven_to_be_the_domains_own() {
        let router = router(&["route.domains.smart.test=hub.test:25"]);
        let needs = Needs { require_tls: true, ..Needs::default() };
        let decision = router.decide(b"a.test", 0, 0).needing(needs);
        let question = router.question(&decision).unwrap();
        assert!(question.sts && question.tlsa_port == Some(25));
        let smart = router.decide(b"smart.test", 0, 0).needing(needs);
        assert_eq!(router.question(&smart).unwrap().tlsa_port, None, "who configured it said whose it is");
        let kept = |answer: &Answer| match router.ways(&decision, answer) {
            Ways::Try(targets) => {
                let proves = |safety: &Safety| matches!(safety, Safety::Always(Identity::Name | Identity::Dane(_)));
                assert!(targets.iter().all(|target| proves(&target.safety)), "{targets:?}");
                Ok(targets.iter().map(|target| target.host.to_string()).collect::<Vec<_>>().join(" "))
            }
            Ways::Fail { text, .. } => Err(text.split(' ').next().unwrap().to_owned()),
            Ways::Defer { text } => Err(text.split(' ').next().unwrap().to_owned()),
        };
        let (unsigned, signed) = (("u.test", HostTls::Unknown), ("s.test", HostTls::Signed));
        let both = [unsigned.clone(), signed.clone()];
        assert_eq!(kept(&mail(&both, None)), Ok("s.test".into()));
        assert_eq!(kept(&mail(&both[..1], None)), Err("5.7.10".into()));
        assert_eq!(
            kept(&mail(&[("d.test", records()), ("o.test", HostTls::Unusable)], None)),
            Ok("d.test o.test".into())
        );
        assert_eq!(kept(&mail(&[("f.test", HostTls::Failed), unsigned.clone()], None)), Err("4.4.3".into()));
        for (mode, expected) in [
            (Mode::Enforce, Ok("u.test".to_owned())),
            (Mode::Testing, Ok("s.test".to_owned())),
            (Mode::None, Ok("s.test".to_owned())),
        ] {
            assert_eq!(kept(&mail(&both, known(mode, &["u.test"]))), expected, "{mode:?}");
        }
        assert_eq!(kept(&mail(&both[..1], known(Mode::Testing, &["u.test"]))), Err("5.7.10".into()));
        // It may have a policy: nobody gives up before that is known.
        assert_eq!(kept(&mail(&both[..1], Some(Arc::new(unreadable())))), Err("4.4.3".into()));
        assert_eq!(kept(&mail(&both[..1], Some(Arc::new(Sts::Absent { why: "none".into() })))), Err("5.7.10".into()));
    }

    /// RTL-04: a message that had better be delivered in clear than not at all is asked no more than the operator wants.
    #[test]
    fn what_is_published_counts_for_nothing_if_the_sender_says_so() {
        let router = router(&["site.default.tls=published", "tls.domains.must.test=verify"]);
        let needs = Needs { tls_optional: true, ..Needs::default() };
        let decision = router.decide(b"a.test", 0, 0).needing(needs);
        let asked = router.question(&decision).unwrap();
        assert!(!asked.sts && asked.tlsa_port.is_none());
        let answer = mail(&[("mx.test", HostTls::Failed)], known(Mode::Enforce, &["other.test"]));
        let Ways::Try(targets) = router.ways(&decision, &answer) else { panic!("it can be reached") };
        assert_eq!(targets[0].safety, Safety::IfOffered);
        assert_eq!(&*router.site(&decision, &targets).name, "mx mx.test tls=may");
        assert_eq!(router.decide(b"must.test", 0, 0).needing(needs).tls, TlsPolicy::Verify);
        let both = router.decide(b"a.test", 0, 0).needing(Needs { require_tls: true, ..needs });
        assert_eq!(both.tls, TlsPolicy::Verify);
        let asked = router.question(&both).unwrap();
        assert!(asked.sts && asked.tlsa_port == Some(25));
        let answer = mail(&[("mx.test", HostTls::Unknown)], known(Mode::Enforce, &["other.test"]));
        let Ways::Defer { text } = router.ways(&both, &answer) else { panic!("what the domain publishes counts") };
        assert!(text.starts_with("4.7.5 "), "{text}");
    }

    /// RTE-23: a source has sites of its own, and never reaches a host by another address than its own.
    #[test]
    fn a_source_keeps_to_its_addresses() {
        let router = router(&["source.out.address=198.51.100.1", "source.six.address=2001:db8::1"]);
        let hosts = |ip: &str| {
            let host = MailHost {
                preference: 1,
                name: "mx.test".into(),
                addresses: vec![ip.parse().unwrap()],
                tls: Default::default(),
            };
            Answer::Mail { hosts: vec![host], ttl_s: 60, sts: None }
        };
        let out = router.decide(b"a.test", 1, 0);
        let Ways::Try(known) = router.ways(&out, &hosts("203.0.113.9")) else { panic!("it has a v4 address") };
        assert_eq!(&*router.site(&out, &known).name, "mx mx.test from out");
        assert!(matches!(router.ways(&out, &hosts("2001:db8::9")), Ways::Defer { .. }));
        assert!(matches!(router.ways(&router.decide(b"a.test", 2, 0), &hosts("203.0.113.9")), Ways::Defer { .. }));
        assert!(matches!(router.ways(&router.decide(b"a.test", 0, 0), &hosts("2001:db8::9")), Ways::Try(_)));
    }

    /// Limits: by recipient domain, by mail hosts (a provider), by smart host, else the default.
    #[test]
    fn the_nearest_rule_limits_a_site() {
        let router = router(&[
            "route.domains.smart.test=192.0.2.1:2525",
            "site.default.connections=9",
            "site.big.mail_hosts=.big.test",
            "site.big.connections=5",
            "site.own.test.connections=2",
            "site..below.test.messages_per_second=7",
            "site.192.0.2.1:2525.connections=3",
        ]);
        let site = |domain: &str, host: &str| {
            let site = router.site(&router.decide(domain.as_bytes(), 0, 0), &targets(&[(1, host)]));
            (site.name.to_string(), site.limits.connections, site.limits.messages_per_second)
        };
        assert_eq!(site("a.test", "mail.a.test"), ("mx mail.a.test".into(), 9, 0));
        assert_eq!(site("a.test", "mx1.big.test"), ("big mx1.big.test".into(), 5, 0));
        assert_eq!(site("own.test", "mx1.big.test"), ("mx mx1.big.test for own.test".into(), 2, 0));
        assert_eq!(site("x.below.test", "h.test"), ("mx h.test for .below.test".into(), 9, 7));
        assert_eq!(site("smart.test", "192.0.2.1"), ("smarthost 192.0.2.1:2525".into(), 3, 0));
    }
}
