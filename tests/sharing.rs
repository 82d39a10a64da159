//! Tenants, classes and sources over the real relay: who goes first, and from where.

#![cfg(feature = "runtime")]

mod common;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};
use std::process::Command;
use std::time::Duration;

use common::client::Client;
use common::mail::plain;
use common::programs::{Running, need};
use common::relay::{Setup, ringpost};
use common::sink::{Act, Sink};
use common::zones::{Bed, Signing, Zone};
use common::{free_address, wait_until};
use ringpost::mail::date::Day;
use ringpost::runtime::wall;

const ARRIVAL_LONGEST: Duration = Duration::from_secs(60);

fn local(number: u8) -> IpAddr {
    IpAddr::from([127, 0, 0, number])
}

/// RTE-12, RTE-23: each tenant's mail comes from its own sources, with their names, in proportion to their weights, and from
/// nowhere else; a source that the machine has not got sends nothing, nor does anything else in its place.
#[test]
fn mail_comes_from_its_tenants_sources() {
    const EACH: usize = 60;
    let sink = Sink::start();
    let setup = Setup::to(sink.address())
        .set("shards", 2)
        .set("source.a.address", "127.0.0.82")
        .set("source.a.hello", "a.out.test")
        .set("source.b.address", "127.0.0.83")
        .set("source.c.address", "127.0.0.84")
        .set("source.c.weight", 3)
        .set("source.gone.address", "192.0.2.77")
        .set("tenant.one.networks", "127.0.0.5")
        .set("tenant.one.sources", "a")
        .set("tenant.two.networks", "127.0.0.6")
        .set("tenant.two.sources", "b,c")
        .set("tenant.three.networks", "127.0.0.7")
        .set("tenant.three.sources", "gone");
    let relay = setup.start();
    for client in [5, 6, 7, 1] {
        let mut client_at = Client::connect_from(local(client), setup.address());
        for _ in 0..EACH {
            let sender = format!("tenant{client}@example.com");
            assert!(client_at.deliver(&sender, &["r@example.org"], &plain("sources")).is("250 2.0.0"));
        }
    }
    let mails = sink.wait_for(3 * EACH, ARRIVAL_LONGEST);
    let mut seen: BTreeMap<(&str, IpAddr, &str), usize> = BTreeMap::new();
    for mail in &mails {
        *seen.entry((&mail.sender, mail.peer, &mail.hello)).or_default() += 1;
    }
    let count = |sender: &str, peer, hello: &str| seen.get(&(sender, local(peer), hello)).copied().unwrap_or(0);
    assert_eq!(count("tenant5@example.com", 82, "a.out.test"), EACH, "{seen:?}");
    assert_eq!(count("tenant1@example.com", 1, "relay.example.com"), EACH, "{seen:?}");
    let (b, c) =
        (count("tenant6@example.com", 83, "relay.example.com"), count("tenant6@example.com", 84, "relay.example.com"));
    assert!(b + c == EACH && b >= 3 && c > b, "{seen:?}");
    relay.stop();
}

/// RTE-23: a source with an address of each family uses the one that goes with the next hop; a next hop of a family that the
/// source has no address of gets nothing, rather than mail from another one.
#[test]
fn a_source_is_pinned_in_both_families() {
    let sixth = Sink::at((Ipv6Addr::LOCALHOST, 0).into(), |_, _| Act::Usual);
    let fourth = Sink::start();
    let setup = Setup::to(sixth.address())
        .set("source.both.address", "127.0.0.86,::1")
        .set("source.both.hello", "both.out.test")
        .set("source.four.address", "127.0.0.87")
        .set("route.domains.four.test", fourth.address())
        .set("tenant.both.networks", "127.0.0.8")
        .set("tenant.both.sources", "both")
        .set("tenant.four.networks", "127.0.0.9")
        .set("tenant.four.sources", "four");
    let relay = setup.start();
    for client in [9, 8] {
        let mut client_at = Client::connect_from(local(client), setup.address());
        for recipient in ["r@six.test", "r@four.test"] {
            let sender = format!("tenant{client}@example.com");
            assert!(client_at.deliver(&sender, &[recipient], &plain("families")).is("250 2.0.0"));
        }
    }
    let from = |mails: &[common::sink::Mail]| {
        let mut all: Vec<_> = mails.iter().map(|mail| (mail.sender.clone(), mail.peer, mail.hello.clone())).collect();
        all.sort();
        all
    };
    let of = |number: u8, peer: IpAddr, hello: &str| (format!("tenant{number}@example.com"), peer, hello.to_owned());
    assert_eq!(from(&sixth.wait_for(1, ARRIVAL_LONGEST)), [of(8, Ipv6Addr::LOCALHOST.into(), "both.out.test")]);
    let expected = [of(8, local(86), "both.out.test"), of(9, local(87), "relay.example.com")];
    assert_eq!(from(&fourth.wait_for(2, ARRIVAL_LONGEST)), expected);
    let waits = "source \"four\" has no address of a family of the next hop's";
    assert!(wait_until(ARRIVAL_LONGEST, || relay.errors().contains(waits)), "{}", relay.errors());
    assert_eq!(sixth.mails().len(), 1, "mail left from an address that is not its source's");
    relay.stop();
}

/// RTE-12: `ringpost check --dns` says of each source whether its name and its addresses lead to each other.
#[test]
fn names_and_addresses_of_sources_are_checked() {
    let dir = tempfile::tempdir().unwrap();
    let zone = |name, records| Zone { name, signing: Signing::None, records, lies: &[] };
    let bed = Bed::start(
        dir.path(),
        &[
            zone(
                "out.test",
                &["right.out.test. A 192.0.2.1", "other.out.test. A 192.0.2.2", "mute.out.test. A 192.0.2.3"],
            ),
            zone(
                "2.0.192.in-addr.arpa",
                &["1.2.0.192.in-addr.arpa. PTR Right.out.test.", "2.2.0.192.in-addr.arpa. PTR else.out.test."],
            ),
        ],
    );
    let check = |sources: &[(&str, &str)]| {
        let mut arguments =
            vec!["check".to_owned(), "--dns".to_owned(), "--set".to_owned(), format!("dns.servers={}", bed.server)];
        for (number, (hello, address)) in sources.iter().enumerate() {
            for (key, value) in [("hello", hello), ("address", address)] {
                arguments.extend(["--set".to_owned(), format!("source.s{number}.{key}={value}")]);
            }
        }
        let output = ringpost(&arguments.iter().map(String::as_str).collect::<Vec<_>>());
        let text = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap()).concat();
        (output.status.success(), text)
    };
    let (good, text) = check(&[("right.out.test", "192.0.2.1")]);
    assert!(good && text.contains("192.0.2.1 is right.out.test, and right.out.test is 192.0.2.1"), "{text}");
    let (good, text) = check(&[
        ("right.out.test", "192.0.2.1"),
        ("other.out.test", "192.0.2.2"),
        ("mute.out.test", "192.0.2.3"),
        ("right.out.test", "192.0.2.4"),
        ("none.out.test", "2001:db8::1"),
    ]);
    assert!(!good, "{text}");
    for line in [
        "192.0.2.1 is right.out.test, and right.out.test is 192.0.2.1",
        "192.0.2.2 is called else.out.test, not other.out.test",
        "192.0.2.3 has no name",
        "right.out.test does not lead to 192.0.2.4: give it an A record",
        "none.out.test does not lead to 2001:db8::1: give it an AAAA record",
    ] {
        assert!(text.contains(line), "{line} is missing in {text}");
    }
}

/// A few urgent messages, given while thousands of bulk messages wait for the same next hop, arrive before all but a few.
#[test]
fn urgent_mail_overtakes_a_queue() {
    const BULK: usize = 3000;
    const URGENT: usize = 10;
    let next_hop = free_address();
    let setup = Setup::to(next_hop)
        .set("site.default.connections", 4)
        .set("retry.site_longest_ms", 200)
        .set("tenant.news.networks", "127.0.0.3")
        .set("tenant.news.priority", "bulk")
        .set("tenant.alerts.networks", "127.0.0.2")
        .set("tenant.alerts.priority", "urgent");
    let relay = setup.start();
    let mut news = Client::connect_from(local(3), setup.address());
    for _ in 0..BULK {
        assert!(news.deliver("news@example.com", &["r@example.org"], &plain("bulk")).is("250 2.0.0"));
    }
    let sink = Sink::at(next_hop, |verb, _| {
        if verb == "." {
            std::thread::sleep(Duration::from_millis(5));
        }
        Act::Usual
    });
    assert!(wait_until(ARRIVAL_LONGEST, || !sink.mails().is_empty()), "nothing arrives");
    let mut alerts = Client::connect_from(local(2), setup.address());
    let mut before = Vec::new();
    for _ in 0..URGENT {
        assert!(alerts.deliver("alert@example.com", &["r@example.org"], &plain("urgent")).is("250 2.0.0"));
        before.push(sink.mails().len());
        let arrived =
            |mails: &[common::sink::Mail]| mails.iter().filter(|mail| mail.sender.starts_with("alert")).count();
        assert!(wait_until(ARRIVAL_LONGEST, || arrived(&sink.mails()) == before.len()), "an urgent message is lost");
    }
    let mails = sink.mails();
    assert!(mails.len() < BULK, "the bulk mail was gone before the urgent mail came: the test shows nothing");
    let places = mails.iter().enumerate().filter(|(_, mail)| mail.sender.starts_with("alert")).map(|(place, _)| place);
    for (place, before) in places.zip(before) {
        // Two at most are on their way over each of four connections; the rest is for a machine that is busy.
        assert!(place < before + 100, "an urgent message waited for {} others", place - before);
    }
    sink.wait_for(BULK + URGENT, 2 * ARRIVAL_LONGEST);
    relay.stop();
}

/// Waits until somebody listens at an address.
fn listens(address: std::net::SocketAddr) {
    assert!(
        wait_until(ARRIVAL_LONGEST, || std::net::TcpStream::connect(address).is_ok()),
        "nobody listens at {address}"
    );
}

/// Through a SOCKS server that nobody here wrote: its address is what the next hop sees; while it is away mail waits.
#[test]
fn mail_goes_through_a_socks_server() {
    let (sink, proxy) = (Sink::start(), free_address());
    let setup = Setup::to(sink.address())
        .set("source.away.proxy", format!("socks5 {proxy}"))
        .set("source.away.hello", "away.out.test")
        .set("source.pool", "away");
    let relay = setup.start();
    for number in 0..5 {
        assert!(
            relay.client().deliver("s@example.com", &["r@example.org"], &plain(&number.to_string())).is("250 2.0.0")
        );
    }
    std::thread::sleep(Duration::from_millis(300));
    assert!(sink.mails().is_empty(), "without its proxy mail leaves by no other way");
    let program = need("microsocks", "microsocks");
    let port = proxy.port().to_string();
    let _server = Running::start(Command::new(program).args(["-i", "127.0.0.1", "-b", "127.0.0.91", "-p", &port]));
    let mails = sink.wait_for(5, ARRIVAL_LONGEST);
    assert!(mails.iter().all(|mail| (mail.peer, &*mail.hello) == (local(91), "away.out.test")), "{mails:?}");
    relay.stop();
}

/// Through HAProxy, which connects to wherever the PROXY header says.
#[test]
fn mail_goes_through_haproxy() {
    let (sink, proxy, dir) = (Sink::start(), free_address(), tempfile::tempdir().unwrap());
    let file = dir.path().join("haproxy.cfg");
    let text = format!(
        "global\n  log stderr local0\ndefaults\n  mode tcp\n  timeout connect 5s\n  timeout client 60s\n  timeout server 60s\n\
         frontend out\n  bind {proxy} accept-proxy\n  default_backend anywhere\n\
         backend anywhere\n  server any 0.0.0.0:0 source 127.0.0.92\n"
    );
    std::fs::write(&file, text).unwrap();
    let _server = Running::start(Command::new(need("haproxy", "haproxy")).arg("-db").arg("-f").arg(&file));
    listens(proxy);
    let setup = Setup::to(sink.address())
        .set("source.out.address", "127.0.0.92")
        .set("source.out.proxy", format!("haproxy {proxy}"))
        .set("source.pool", "out");
    let relay = setup.start();
    for number in 0..5 {
        assert!(
            relay.client().deliver("s@example.com", &["r@example.org"], &plain(&number.to_string())).is("250 2.0.0")
        );
    }
    let mails = sink.wait_for(5, ARRIVAL_LONGEST);
    assert!(mails.iter().all(|mail| mail.peer == local(92)), "{mails:?}");
    relay.stop();
}

/// Today, with time enough before the next day begins.
fn today() -> Day {
    let left_ms = Day::left_ms(wall());
    if left_ms < 120_000 {
        std::thread::sleep(Duration::from_millis(left_ms));
    }
    Day::of(wall())
}

/// A new source sends as many a day as its list says and no more, from two shards, over a SIGKILL; what is above waits, until a
/// reload names a source that takes it. Everything arrives, from one of the two.
#[test]
fn a_new_source_keeps_its_days_limit() {
    const LIMIT: usize = 40;
    const ALL: usize = 100;
    /// What two shards were lent ahead, an eighth at most, and what was under way over four connections.
    const WASTED: usize = LIMIT / 8 + 2 * 4;
    // The next hop is slow enough for the relay to be killed in the middle.
    let sink = Sink::at(common::relay::any_port(), |verb, _| {
        if verb == "." {
            std::thread::sleep(Duration::from_millis(20));
        }
        Act::Usual
    });
    let began = today();
    let file = |more: &str| {
        format!(
            "[source.new]\naddress = \"127.0.0.82\"\n[source.old]\naddress = \"127.0.0.83\"\n\
             [source.new.warm_up]\nbegan = \"{began}\"\nmessages.default = [{LIMIT}]\n{more}"
        )
    };
    let setup = Setup::to(sink.address())
        .set("shards", 2)
        .set("source.pool", "new")
        .set("site.default.connections", 4)
        .set("site.default.recipients", 1)
        .config();
    let config = setup.dir().join("ringpost.toml");
    std::fs::write(&config, file("")).unwrap();
    let relay = setup.start();
    // Clients enough for both shards to have some.
    let mut clients: Vec<Client> = (0..4).map(|_| relay.client()).collect();
    for number in 0..ALL / 2 {
        let recipients = [format!("a{number}@example.org"), format!("b{number}@example.org")];
        let recipients = [&*recipients[0], &*recipients[1]];
        assert!(clients[number % 4].deliver("s@example.com", &recipients, &plain("warm-up")).is("250 2.0.0"));
    }
    assert!(wait_until(ARRIVAL_LONGEST, || sink.mails().len() >= LIMIT / 3));
    relay.kill();
    let relay = setup.start();
    let report = format!("all {LIMIT} messages of {began} for smarthost {} are used up", sink.address());
    assert!(wait_until(ARRIVAL_LONGEST, || relay.errors().contains(&report)), "{}", relay.errors());
    let explain = || {
        let mut arguments = setup.arguments();
        arguments[0] = "explain".to_owned();
        arguments.push("r@example.org".to_owned());
        let output = ringpost(&arguments.iter().map(String::as_str).collect::<Vec<_>>());
        String::from_utf8([output.stdout, output.stderr].concat()).unwrap()
    };
    let fact = format!("day 1 of 1: {LIMIT} messages for smarthost {}, ", sink.address());
    assert!(explain().contains(&fact), "{}", explain());
    assert!(explain().contains("source.new.warm_up.messages.default (configuration file)"), "{}", explain());
    // What each shard was lent ahead is back by then, or used.
    let is_full = || sink.mails().len() + WASTED >= LIMIT;
    assert!(wait_until(ARRIVAL_LONGEST, is_full), "{} arrived", sink.mails().len());
    std::thread::sleep(Duration::from_millis(500));
    let mails = sink.mails();
    assert!(mails.len() <= LIMIT, "{} of {LIMIT}", mails.len());
    // A connection that was reset before it was looked at has no address any more; all of those came from the new source.
    let is_from_new = |mail: &common::sink::Mail| mail.peer == local(82) || mail.peer.is_unspecified();
    assert!(mails.iter().all(is_from_new), "{mails:?}");
    std::fs::write(&config, file("overflow = [\"old\"]\n")).unwrap();
    relay.signal(libc::SIGHUP);
    let arrived = |sink: &Sink| {
        let mails = sink.mails();
        mails.into_iter().flat_map(|mail| mail.recipients).collect::<std::collections::BTreeSet<_>>().len()
    };
    assert!(wait_until(ARRIVAL_LONGEST, || arrived(&sink) == ALL), "{} arrived, {}", arrived(&sink), relay.errors());
    assert!(relay.errors().contains("reload: changed source.NAME.warm_up;"), "{}", relay.errors());
    let mails = sink.mails();
    let from_new = mails.iter().filter(|mail| is_from_new(mail)).count();
    assert!(from_new <= LIMIT && from_new + WASTED >= LIMIT, "{from_new} from the new source");
    assert_eq!(from_new + mails.iter().filter(|mail| mail.peer == local(83)).count(), mails.len());
    // The kill may have doubled what was under way over four connections, and nothing else.
    assert!(mails.len() <= ALL + 8, "{} for {ALL}", mails.len());
    relay.stop();
}
