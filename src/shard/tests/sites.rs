//! Destinations and sites: domains with the same mail hosts share one, and one that moves takes its mail along.

use super::*;
use crate::route::MailHost;

fn mail_hosts(address: &str, ttl_s: u32) -> Answer {
    let host = |name: &str, preference| MailHost {
        preference,
        name: name.into(),
        addresses: vec![address.parse().unwrap()],
        tls: Default::default(),
    };
    Answer::Mail { hosts: vec![host("a.provider.test", 10), host("b.provider.test", 20)], ttl_s, sts: None }
}

/// What DNS says of a domain that has moved, to one host at 192.0.2.7.
fn new_host(ttl_s: u32) -> Answer {
    let addresses = vec!["192.0.2.7".parse().unwrap()];
    let host = MailHost { preference: 1, name: "new.test".into(), addresses, tls: Default::default() };
    Answer::Mail { hosts: vec![host], ttl_s, sts: None }
}

fn by_mx(more: &[&str]) -> World {
    let mut world = World::new(&[&["route.default="], more].concat());
    world.answer = mail_hosts("192.0.2.1", 60);
    world
}

/// RTE-24, RTE-19: one site, its limit and its connections for all domains of a provider; never two domains in one transaction.
#[test]
fn domains_with_the_same_mail_hosts_share_connections() {
    let mut world = by_mx(&["site.default.connections=2"]);
    world.hold_writes = true;
    for number in 0..60 {
        let first = format!("a@d{}.test", number % 20);
        world.send(&[&first, &format!("b@d{}.test", (number + 1) % 20)], "x\r\n");
    }
    world.hold_writes = false;
    world.release_writes();
    world.pass(100);
    assert_eq!(world.taken.len(), 120, "{:?}", world.reports);
    assert!(world.dials <= 2, "{} dials", world.dials);
    for taken in &world.taken {
        assert_eq!(taken.recipients.len(), 1, "domains are mixed: {taken:?}");
    }
    assert_eq!(world.shard.sites.table.len(), 1);
    world.pass(20_000);
    world.nothing_left();
    assert_eq!((world.shard.sites.table.len(), world.shard.sites.destinations.len()), (0, 0), "all is forgotten");
}

/// With fewer connections than sites all of them have their turn, and no few of them take all there are.
#[test]
fn sites_take_turns_at_the_connections_of_a_shard() {
    let slots = ["route.connections=8", "site.default.connections=4", "site.default.idle_ms=600000"];
    let mut world = by_mx(&slots);
    world.hold_questions = true;
    for number in 0..240 {
        world.send(&[&format!("a@d{}.test", number % 40)], "x\r\n");
    }
    let mut asked = 0;
    while let Some(query) = world.questions.pop_front() {
        asked += 1;
        let answer = Answer::Mail {
            hosts: vec![MailHost {
                preference: 1,
                name: format!("mx{asked}.test").into(),
                addresses: vec![format!("192.0.2.{asked}").parse().unwrap()],
                tls: Default::default(),
            }],
            ttl_s: 600,
            sts: None,
        };
        world.input(Input::Resolved { query, answer });
        assert!(world.shard.conns.outbound <= 8, "{} connections", world.shard.conns.outbound);
    }
    assert_eq!((asked, world.shard.sites.table.len()), (40, 40));
    world.pass(20_000);
    assert_eq!(world.taken.len(), 240, "{:?}", world.reports);
    assert!(world.shard.waiting_for_slot.is_empty());
}

/// Hosts that never answer may have what they want as long as there is enough, but a site that comes later finds a connection.
#[test]
fn silent_sites_leave_connections_for_others() {
    let mut world = by_mx(&["route.connections=16", "timeout.connect_ms=600000"]);
    world.silent = (1..=8u8).map(|last| IpAddr::from([192, 0, 2, last])).collect();
    world.hold_questions = true;
    for number in 0..400 {
        world.send(&[&format!("a@d{}.test", number % 8)], "x\r\n");
    }
    world.send(&["good@d99.test"], "x\r\n");
    let mut asked = 0u8;
    while let Some(query) = world.questions.pop_front() {
        asked += 1;
        let address = IpAddr::from([192, 0, 2, asked]);
        let hosts = vec![MailHost {
            preference: 1,
            name: format!("mx{asked}.test").into(),
            addresses: vec![address],
            tls: Default::default(),
        }];
        world.input(Input::Resolved { query, answer: Answer::Mail { hosts, ttl_s: 600, sts: None } });
    }
    assert_eq!(asked, 9);
    world.pass(1000);
    assert_eq!(world.taken.len(), 1, "{:?}", world.reports);
    assert_eq!(world.shard.conns.outbound, 16, "the last site found one of those kept for such");
}

/// The first connections find out whether a site takes mail at all; those that do let others follow, up to the limit.
#[test]
fn a_site_shows_first_that_it_can() {
    let mut world = by_mx(&["site.default.connections=20", "timeout.connect_ms=600000"]);
    world.silent = vec!["192.0.2.1".parse().unwrap()];
    for _ in 0..100 {
        world.send(&["a@d.test"], "x\r\n");
    }
    assert_eq!(world.dials, limits::SITE_FIRST_CONNECTIONS);
    let site = &mut world.shard.sites.table[0];
    for number in 1..=30 {
        assert_eq!(site.allowed(), (limits::SITE_FIRST_CONNECTIONS + number - 1).min(20));
        site.opening += 1;
        site.opened();
    }
}

/// Mail that waits when a domain moves goes to where it is by then; what DNS said is not used for longer than its TTL.
#[test]
fn a_domain_that_moves_takes_its_mail_along() {
    let mut world = by_mx(&["retry.site_first_ms=1000", "retry.site_longest_ms=4000"]);
    world.dead = vec!["192.0.2.1".parse().unwrap()];
    for number in 0..100 {
        world.send(&[&format!("a@d{}.test", number % 3)], "x\r\n");
    }
    world.pass(30_000);
    assert!(world.taken.is_empty());
    world.answer = new_host(60);
    world.pass(20_000);
    assert!(world.taken.is_empty(), "the old answer holds as long as it said");
    world.pass(20_000);
    assert_eq!(world.taken.len(), 100, "{:?}", world.reports);
    assert_eq!(world.dialled.last(), Some(&"192.0.2.7".parse().unwrap()));
    world.pass(100_000);
    world.nothing_left();
}

/// However much waits at the old site while that pauses: all of it goes to the new one, also if no answer comes any more.
#[test]
fn a_domain_that_moves_takes_all_of_its_mail_along() {
    let mut world =
        by_mx(&["retry.site_first_ms=100000", "retry.site_longest_ms=100000", "site.default.connections=1"]);
    world.answer = mail_hosts("192.0.2.1", 5);
    world.dead = vec!["192.0.2.1".parse().unwrap()];
    for number in 0..200 {
        world.send(&[&format!("a{number}@dest.test")], "x\r\n");
    }
    assert!(world.taken.is_empty() && world.reports.iter().any(|report| report.contains("paused for")));
    // While the old site pauses the domain moves, for long.
    world.answer = new_host(86_400);
    world.pass(10_000);
    world.send(&["late@dest.test"], "x\r\n");
    world.pass(200_000);
    assert_eq!(world.taken.len(), 201, "{:?}", world.reports.last());
    world.pass(20_000);
    world.nothing_left();
}

/// A domain that does not exist any more fails what waits for it, though it had a site before.
#[test]
fn a_domain_that_ends_fails_its_mail() {
    let mut world = by_mx(&["retry.site_first_ms=1000", "retry.site_longest_ms=4000"]);
    world.dead = vec!["192.0.2.1".parse().unwrap()];
    for _ in 0..10 {
        world.send(&["a@gone.test"], "x\r\n");
    }
    world.answer = Answer::NoSuchDomain { ttl_s: 60 };
    world.pass(70_000);
    assert_eq!(world.shard.counters().failed, 10 + 10, "the mail, and the reports to a domain that is gone, too");
    world.nothing_left();
}

/// Without an answer mail waits with its destination, longer each time, and other destinations go on.
#[test]
fn a_destination_without_an_answer_pauses() {
    let more = ["retry.site_first_ms=1000", "retry.site_longest_ms=4000", "route.domains.other.test=192.0.2.8:25"];
    let mut world = by_mx(&more);
    world.answer = Answer::Temporary { text: "SERVFAIL".into() };
    world.send(&["a@late.test", "b@other.test"], "x\r\n");
    world.pass(20_000);
    assert_eq!(world.taken.len(), 1);
    let said = world.reports.iter().filter(|text| **text == "late.test: 4.4.3 SERVFAIL; its mail waits").count();
    assert!((2..=8).contains(&said), "{:?}", world.reports);
    world.answer = mail_hosts("192.0.2.1", 60);
    world.pass(40_000);
    assert_eq!(world.taken.len(), 2);
    world.nothing_left();
}

/// A domain with limits of its own has a site of its own, and its transactions are as small as its rule says.
#[test]
fn a_rule_limits_its_domain_alone() {
    let mut world = by_mx(&["site.small.test.recipients=2", "site.small.test.connections=1"]);
    let recipients: Vec<String> = (0..5).flat_map(|n| [format!("r{n}@small.test"), format!("r{n}@d.test")]).collect();
    let recipients: Vec<&str> = recipients.iter().map(String::as_str).collect();
    world.send(&recipients, "x\r\n");
    world.pass(100);
    let mut counts: Vec<(bool, usize)> =
        world.taken.iter().map(|t| (t.recipients[0].ends_with("@small.test"), t.recipients.len())).collect();
    counts.sort_unstable();
    assert_eq!(counts, [(false, 5), (true, 1), (true, 2), (true, 2)]);
    let mut arrived: Vec<&String> = world.taken.iter().flat_map(|taken| &taken.recipients).collect();
    arrived.sort();
    arrived.dedup();
    assert_eq!(arrived.len(), 10, "each recipient once");
    assert_eq!(world.shard.sites.table.len(), 2);
    world.pass(100_000);
    world.nothing_left();
}
