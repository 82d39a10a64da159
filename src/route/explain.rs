//! `ringpost explain`: everything that is decided about a recipient's domain, and where each decision comes from.
//!
//! Pure: settings and one answer of DNS go in, facts come out. The decisions are [`decide`](super::decide)'s and
//! [`mx`](super::mx)'s, the same that the relay makes; here they are only put into words.

use std::fmt;
use std::net::IpAddr;

use super::decide::{Router, Ways};
use super::safety::HostTls;
use super::sts::{Mode, Sts};
use super::{Answer, NextHop, Question};
use crate::config::{Origin, Settings, Values};
use crate::mail::date::Day;
use crate::schedule::fair::TenantId;
use crate::schedule::hosts::KnownTarget;
use crate::schedule::warm_up::Book;
use crate::shard::orders::Target;

/// One thing that was decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fact {
    /// About what, as one word or two.
    pub about: &'static str,
    /// What.
    pub value: String,
    /// The key, DNS or rule that decides it.
    pub from: String,
}

/// One mail host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostFact {
    /// Lower is tried first.
    pub preference: u16,
    /// Its name.
    pub name: String,
    /// Its addresses, each with true if it is connected to.
    pub addresses: Vec<(IpAddr, bool)>,
    /// What is published of its TLS; empty: nothing.
    pub tls: &'static str,
}

/// What becomes of mail for a domain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    /// The domain in lower case.
    pub domain: String,
    /// Everything decided but for the hosts, in order.
    pub facts: Vec<Fact>,
    /// The mail hosts in order of preference.
    pub hosts: Vec<HostFact>,
    /// `deliver`, `hold`, `defer` or `fail`.
    pub outcome: &'static str,
}

/// Whose mail is explained.
#[derive(Clone, Copy, Debug, Default)]
pub struct Whose<'a> {
    /// A tenant's; 0 is whoever is none.
    pub tenant: TenantId,
    /// From this mailbox.
    pub sender: &'a str,
}

/// How things are at the moment.
#[derive(Clone, Copy, Debug)]
pub struct Present<'a> {
    /// The orders to hold that stand.
    pub holds: &'a [Target],
    /// What was lent of days' limits.
    pub book: &'a Book,
    /// Today.
    pub today: Day,
}

/// The question that the explanation of a domain needs answered, if DNS has a say.
pub fn question(settings: &Settings, domain: &str, whose: Whose<'_>) -> Option<Question> {
    let router = Router::new(settings);
    let via = router.via(whose.tenant, whose.sender.as_bytes());
    router.question(&router.decide(domain.to_ascii_lowercase().as_bytes(), 0, via))
}

/// Explains a domain for somebody's mail. `answer` is the one to [`question`]; not looked at if there is none.
/// Where a pool has several sources it is explained for the first.
pub fn explain(
    settings: &Settings,
    values: &Values,
    domain: &str,
    whose: Whose<'_>,
    answer: Option<&Answer>,
    present: Present<'_>,
) -> Explanation {
    let domain = domain.to_ascii_lowercase();
    let router = Router::new(settings);
    let tenant = whose.tenant;
    let pool = settings.pool_of(tenant);
    let via = router.via(tenant, whose.sender.as_bytes());
    let decision = router.decide(domain.as_bytes(), pool[0], via);
    let next_hop = &decision.next_hop;
    let known = next_hop.known_answer();
    let unasked = Answer::Temporary { text: "DNS was not asked".into() };
    let answer = known.as_ref().or(answer).unwrap_or(&unasked);
    let ways = router.ways(&decision, answer);
    let by = |key: &str| format!("{key} ({})", values.origin(key));
    let mut facts = Vec::new();
    let mut say = |about, value: String, from: String| facts.push(Fact { about, value, from });
    let route_key = router.route_key(domain.as_bytes(), via);
    match next_hop {
        NextHop::Mx { domain } => say("route", format!("the mail hosts of {domain}"), by(&route_key)),
        NextHop::Configured(hop) => {
            say("route", next_hop.name().to_string(), by(&route_key));
            if !hop.name.is_empty() {
                say("next hop", hop.to.to_string(), by(&format!("next_hop.{}.address", hop.name)));
            }
            if let Some(file) = &hop.credentials {
                say("credentials", file.display().to_string(), by(&format!("next_hop.{}.credentials", hop.name)));
            }
        }
    }
    if let Some((name, address_only)) = next_hop.question() {
        let kinds = if address_only { "A and AAAA" } else { "MX" };
        say("dns", in_words(answer), format!("{kinds} of {name}"));
    }
    if let Answer::Mail { sts: Some(sts), .. } = answer {
        let (value, from) = policy_in_words(sts);
        say("mta-sts", value, from);
    }
    let mut outcome = match &ways {
        Ways::Try(_) => "deliver",
        Ways::Fail { code, text } => {
            say("verdict", format!("fails: {text}"), if *code == 0 { "DNS".into() } else { format!("DNS, as {code}") });
            "fail"
        }
        Ways::Defer { text } => {
            say("verdict", format!("waits: {text}"), "DNS".into());
            "defer"
        }
    };
    let targets: &[KnownTarget] = if let Ways::Try(targets) = &ways { targets } else { &[] };
    let site = router.site(&decision, targets);
    if !targets.is_empty() {
        let rule =
            site.limits.rule.as_ref().map_or("no rule of its own".to_owned(), |rule| format!("rule site.{rule}"));
        say("site", site.name.to_string(), rule);
    }
    let tenant_name = usize::from(tenant).checked_sub(1).map(|number| &settings.tenants[number].name);
    for held in present.holds {
        let what = match held {
            Target::Domain(held) if **held == *domain => format!("domain {held}"),
            Target::Site(held) if *site.name == **held || *router.name(&decision) == **held => format!("site {held}"),
            Target::Site(held) if site.limits.rule.as_ref() == Some(held) => format!("rule {held}"),
            Target::Tenant(held) if tenant_name == Some(held) => format!("tenant {held}"),
            Target::Message(_) | Target::Domain(_) | Target::DomainsBelow(_) | Target::Tenant(_) | Target::Site(_) => {
                continue;
            }
        };
        outcome = if outcome == "deliver" { "hold" } else { outcome };
        say("held", what, "an operator's order".into());
    }
    say("tls", decision.tls.to_string(), by(&router.tls_key(domain.as_bytes(), next_hop)));
    let tenant = usize::from(tenant).checked_sub(1).map(|number| &settings.tenants[number]);
    let pool_key = match tenant {
        Some(tenant) if !tenant.pool.is_empty() => format!("tenant.{}.sources", tenant.name),
        _ => "source.pool".to_owned(),
    };
    for &id in pool {
        let source = &settings.sources[usize::from(id)];
        let mut addresses: Vec<String> = source.v4.iter().map(ToString::to_string).collect();
        addresses.extend(source.v6.iter().map(ToString::to_string));
        let addresses = if addresses.is_empty() { "chosen by the system".to_owned() } else { addresses.join(", ") };
        let hello_key = format!("source.{}.hello", source.name);
        match &*source.name {
            "" => say("source", addresses, by("source.address")),
            name => say("source", format!("{name}: {addresses}, weight {}", source.weight), by(&pool_key)),
        }
        let hello_key = if values.origin(&hello_key) == Origin::Default { "relay.hostname" } else { &hello_key };
        say("ehlo name", source.hello.to_string(), by(hello_key));
        if let Some(plan) = router.site(&decision.from_source(id), targets).warm_up {
            let (key, Present { book, today, .. }) =
                (format!("source.{}.warm_up.messages.{}", source.name, plan.list), present);
            let (number, receiver) = (plan.steps.number(today), &plan.count.receiver);
            let value = match plan.steps.limit(today) {
                None => format!("over since day {}, no limit", plan.steps.messages.len() + 1),
                Some(limit) => {
                    let (days, lent) = (plan.steps.messages.len(), book.lent(&plan.count, today));
                    format!(
                        "day {number} of {days}: {limit} messages for {receiver}, {lent} lent, what is above {}",
                        plan.above
                    )
                }
            };
            say("warm-up", value, by(&key));
        }
    }
    if let Some(tenant) = tenant {
        say("class", format!("{:?}", tenant.class).to_lowercase(), by(&format!("tenant.{}.priority", tenant.name)));
        say("weight", tenant.weight.to_string(), by(&format!("tenant.{}.weight", tenant.name)));
    }
    let limits = &site.limits;
    for (about, value, key) in [
        ("connections", u64::from(limits.connections), "connections"),
        ("messages a second", limits.messages_per_second.into(), "messages_per_second"),
        ("messages a connection", limits.messages_per_connection.into(), "messages_per_connection"),
        ("recipients a transaction", limits.recipients as u64, "recipients"),
    ] {
        let value = if value == 0 { "no limit".to_owned() } else { value.to_string() };
        let own = site.limits.rule.as_ref().map(|rule| format!("site.{rule}.{key}"));
        let own = own.filter(|own| values.origin(own) != Origin::Default);
        say(about, value, by(&own.unwrap_or_else(|| format!("site.default.{key}"))));
    }
    let retry = &settings.retry;
    for (about, value, key) in [
        ("first retry ms", retry.first_ms, "retry.first_ms"),
        ("longest retry ms", retry.longest_ms, "retry.longest_ms"),
        ("expiry ms", retry.expire_ms, "retry.expire_ms"),
    ] {
        say(about, value.to_string(), by(key));
    }
    Explanation { domain, facts, hosts: hosts(answer, &ways), outcome }
}

/// What DNS said, without the hosts.
fn in_words(answer: &Answer) -> String {
    match answer {
        Answer::Mail { hosts, ttl_s, .. } => format!("{} hosts, good for {ttl_s} s", hosts.len()),
        Answer::NullMx { ttl_s } => format!("null MX: takes no mail, good for {ttl_s} s"),
        Answer::NoSuchDomain { ttl_s } => format!("no such domain, good for {ttl_s} s"),
        Answer::Temporary { text } => format!("no answer: {text}"),
    }
}

/// What a domain's policy says, and where it comes from.
fn policy_in_words(sts: &Sts) -> (String, String) {
    match sts {
        Sts::Absent { why } => ("no policy".to_owned(), why.to_string()),
        Sts::Unknown { why, .. } => ("none that can be read".to_owned(), why.to_string()),
        Sts::Known { policy, id, from } => {
            let (mode, hosts, age_s) = (policy.mode.name(), policy.hosts.join(", "), policy.max_age_s);
            (format!("{mode}: {hosts}; for {age_s} s"), format!("policy {id}, {from}"))
        }
    }
}

/// What is published of a host's TLS.
fn published(tls: &HostTls, host: &str, sts: Option<&Sts>) -> &'static str {
    match (tls, sts.and_then(Sts::policy)) {
        (HostTls::Records(_), _) => "TLSA records: it has to prove itself by them",
        (HostTls::Failed, _) => "TLSA records cannot be looked up: not connected to",
        (_, Some(policy)) if policy.mode == Mode::Enforce && policy.names(host) => "MTA-STS: it has to prove its name",
        (_, Some(policy)) if policy.mode == Mode::Enforce => "MTA-STS: not named by the policy, not connected to",
        (_, Some(policy)) if !policy.names(host) => "MTA-STS: not named by the policy, which is being tested",
        (HostTls::Unusable, _) => "TLSA records that cannot be used: TLS, without proof",
        (HostTls::Unknown | HostTls::Signed, _) => "",
    }
}

/// The hosts that DNS named, with what the relay makes of their addresses.
fn hosts(answer: &Answer, ways: &Ways) -> Vec<HostFact> {
    let Answer::Mail { hosts, sts, .. } = answer else { return Vec::new() };
    let used = |name: &str, ip: IpAddr| match ways {
        Ways::Try(targets) => targets.iter().any(|target| target.address.ip() == ip && &*target.host == name),
        _ => false,
    };
    let mut facts: Vec<HostFact> = hosts
        .iter()
        .map(|host| HostFact {
            preference: host.preference,
            name: host.name.to_string(),
            addresses: host.addresses.iter().map(|&ip| (ip, used(&host.name, ip))).collect(),
            tls: published(&host.tls, &host.name, sts.as_deref()),
        })
        .collect();
    facts.sort_by_key(|host| host.preference);
    facts
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}: {}", self.domain, self.outcome)?;
        for Fact { about, value, from } in &self.facts {
            writeln!(f, "  {:<24} {value}  [{from}]", format!("{about}:"))?;
        }
        for HostFact { preference, name, addresses, tls } in &self.hosts {
            let tls = if tls.is_empty() { String::new() } else { format!("  [{tls}]") };
            writeln!(f, "  {:<24} {preference} {name}{tls}", "mail host:")?;
            for (ip, used) in addresses {
                writeln!(f, "  {:<24}   {ip}{}", "", if *used { "" } else { "  not connected to" })?;
            }
            if addresses.is_empty() {
                writeln!(f, "  {:<24}   has no address", "")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Machine, load_values};
    use crate::route::MailHost;

    fn present<'a>(holds: &'a [Target], book: &'a Book) -> Present<'a> {
        Present { holds, book, today: Day(20_000) }
    }

    fn explained(sets: &[&str], domain: &str, answer: &Answer) -> Explanation {
        let sets: Vec<String> = sets.iter().map(ToString::to_string).collect();
        let machine = Machine { hostname: "relay.example.org".into(), cores: 1 };
        let (settings, values) = load_values(Some("[site.default]\nconnections = 7\n"), &sets, &machine).unwrap();
        explain(&settings, &values, domain, Whose::default(), Some(answer), present(&[], &Book::default()))
    }

    fn fact<'a>(explanation: &'a Explanation, about: &str) -> (&'a str, &'a str) {
        let fact = explanation.facts.iter().find(|fact| fact.about == about).expect(about);
        (&fact.value, &fact.from)
    }

    #[test]
    fn each_decision_names_what_made_it() {
        let host = |preference, name: &str, ip: &str| MailHost {
            preference,
            name: name.into(),
            addresses: vec![ip.parse().unwrap()],
            tls: Default::default(),
        };
        let hosts = vec![host(20, "b.test", "10.0.0.1"), host(10, "a.test", "198.51.100.1")];
        let answer = Answer::Mail { hosts, ttl_s: 300, sts: None };
        let it = explained(&["tls.domains.dest.test=encrypt"], "Dest.Test", &answer);
        assert_eq!((it.outcome, &*it.domain), ("deliver", "dest.test"));
        assert_eq!(fact(&it, "dns"), ("2 hosts, good for 300 s", "MX of dest.test"));
        assert_eq!(fact(&it, "tls"), ("encrypt", "tls.domains.dest.test (--set)"));
        assert_eq!(fact(&it, "connections"), ("7", "site.default.connections (configuration file)"));
        assert_eq!(fact(&it, "expiry ms").1, "retry.expire_ms (default)");
        let used: Vec<_> = it.hosts.iter().map(|host| (&*host.name, host.addresses[0].1)).collect();
        assert_eq!(used, [("a.test", true), ("b.test", false)], "private addresses of strangers are not connected to");
        let text = it.to_string();
        assert!(
            text.contains("mail host:               10 a.test\n") && text.contains("10.0.0.1  not connected to"),
            "{text}"
        );
    }

    /// QUE-14: what an operator holds is told, by whatever name it was held.
    #[test]
    fn holds_are_told() {
        let sets = ["route.domains.dest.test=192.0.2.1:26", "site.own.test.connections=1"].map(String::from);
        let machine = Machine { hostname: String::new(), cores: 1 };
        let (settings, values) = load_values(None, &sets, &machine).unwrap();
        let hosts = vec![MailHost {
            preference: 1,
            name: "h.test".into(),
            addresses: vec!["192.0.2.2".parse().unwrap()],
            tls: HostTls::Unknown,
        }];
        let answer = Answer::Mail { hosts, ttl_s: 60, sts: None };
        let holds = |name: &str| [Target::Domain(name.into()), Target::Site(name.into())].map(|held| vec![held]);
        for (domain, name, held) in [
            ("dest.test", "dest.test", [true, false]),
            ("dest.test", "smarthost 192.0.2.1:26", [false, true]),
            ("own.test", "own.test", [true, true]),
            ("own.test", "mx h.test for own.test", [false, true]),
            ("other.test", "mx h.test", [false, true]),
            ("other.test", "own.test", [false, false]),
        ] {
            for (holds, held) in holds(name).iter().zip(held) {
                let it = explain(
                    &settings,
                    &values,
                    domain,
                    Whose::default(),
                    Some(&answer),
                    present(holds, &Book::default()),
                );
                let about_it = it.facts.iter().any(|fact| fact.about == "held");
                assert_eq!((it.outcome, about_it), (if held { "hold" } else { "deliver" }, held), "{domain} {holds:?}");
            }
        }
    }

    #[test]
    fn routes_and_refusals_are_told() {
        let answer = Answer::NullMx { ttl_s: 60 };
        let it = explained(&[], "none.test", &answer);
        assert_eq!((it.outcome, fact(&it, "verdict").1), ("fail", "DNS, as 556"));
        let it = explained(&["route.domains..test=192.0.2.1:26"], "a.test", &answer);
        assert_eq!(it.outcome, "deliver");
        assert_eq!(fact(&it, "route"), ("smarthost 192.0.2.1:26", "route.domains..test (--set)"));
        let it = explained(&[], "late.test", &Answer::Temporary { text: "SERVFAIL".into() });
        assert_eq!((it.outcome, fact(&it, "verdict").0), ("defer", "waits: 4.4.3 SERVFAIL"));
        let sets = [
            "next_hop.smart.address=192.0.2.7:587",
            "next_hop.smart.credentials=/etc/smart",
            "route.senders.@news.test=smart",
        ];
        let sets = sets.map(String::from);
        let machine = Machine { hostname: String::new(), cores: 1 };
        let (settings, values) = load_values(None, &sets, &machine).unwrap();
        let whose = Whose { tenant: 0, sender: "a@news.test" };
        assert_eq!(question(&settings, "x.test", whose), None);
        let it = explain(&settings, &values, "x.test", whose, None, present(&[], &Book::default()));
        assert_eq!(fact(&it, "route"), ("smarthost smart", "route.senders.@news.test (--set)"));
        assert_eq!(fact(&it, "next hop"), ("192.0.2.7:587", "next_hop.smart.address (--set)"));
        assert_eq!(fact(&it, "tls"), ("verify", "next_hop.smart.tls (default)"));
        assert_eq!(fact(&it, "credentials").0, "/etc/smart");
        let sets = ["route.default=smart.test:25"].map(String::from);
        let machine = Machine { hostname: String::new(), cores: 1 };
        let (settings, _) = load_values(None, &sets, &machine).unwrap();
        let asked = Question { name: "smart.test".into(), address_only: true, tlsa_port: None, sts: false };
        assert_eq!(question(&settings, "x.test", Whose::default()), Some(asked));
    }

    /// What a source that is warmed up may send today, for whom, and what says so.
    #[test]
    fn warm_ups_are_told() {
        use crate::base::ids::ShardId;
        use crate::schedule::warm_up::{Count, Request};
        let sets = [
            "source.new.address=192.0.2.1",
            "source.old.address=192.0.2.2",
            "source.pool=new,old",
            "source.new.warm_up.began=2026-11-28",
            "source.new.warm_up.messages.default=5,10,20",
            "source.new.warm_up.messages.google=2",
            "source.new.warm_up.overflow=old",
        ]
        .map(String::from);
        let machine = Machine { hostname: String::new(), cores: 1 };
        let (settings, values) = load_values(None, &sets, &machine).unwrap();
        let told = |host: &str, day: &str| {
            let answer = Answer::Mail {
                hosts: vec![MailHost {
                    preference: 1,
                    name: host.into(),
                    addresses: vec!["198.51.100.1".parse().unwrap()],
                    tls: HostTls::Unknown,
                }],
                ttl_s: 60,
                sts: None,
            };
            let (mut book, today) = (Book::default(), Day::parse(day).unwrap());
            let (count, above) = (Count::new("new", "mx h.test"), "".into());
            book.serve(
                ShardId(0),
                Request::Lend { count, day: today, recipients: 3, limit: 9, above },
                &mut Vec::new(),
            );
            let present = Present { holds: &[], book: &book, today };
            let it = explain(&settings, &values, "d.test", Whose::default(), Some(&answer), present);
            let facts: Vec<_> = it.facts.iter().filter(|fact| fact.about == "warm-up").collect();
            let [fact] = facts[..] else { panic!("{facts:?}") };
            format!("{} [{}]", fact.value, fact.from)
        };
        assert_eq!(
            told("h.test", "2026-11-29"),
            "day 2 of 3: 10 messages for mx h.test, 3 lent, what is above goes from old [source.new.warm_up.messages.default (--set)]"
        );
        assert_eq!(
            told("aspmx.l.google.com", "2026-11-28"),
            "day 1 of 1: 2 messages for google, 0 lent, what is above goes from old [source.new.warm_up.messages.google (--set)]"
        );
        assert_eq!(
            told("aspmx.l.google.com", "2026-11-29"),
            "over since day 2, no limit [source.new.warm_up.messages.google (--set)]"
        );
    }
}
