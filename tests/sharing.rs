//! Tenants, classes and sources over the real relay: who goes first, and from where.

#![cfg(feature = "runtime")]

mod common;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::process::Command;
use std::time::Duration;

use common::client::Client;
use common::mail::plain;
use common::programs::{Running, need};
use common::relay::Setup;
use common::sink::{Act, Sink};
use common::{free_address, wait_until};

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
