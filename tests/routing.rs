//! Routing by MX over the real relay and a real DNS server: unbound, answering for zones of the test's own.
//!
//! Hosts are addresses of 127.0.0.0/8 that share one port. Needs what `tests/setup` installs.

#![cfg(feature = "runtime")]

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use common::mail::plain;
use common::programs::{Running, need};
use common::relay::{Relay, Setup, ringpost};
use common::sink::{Act, Sink};
use common::{free_port, wait_until};
use socket2::{Domain, Socket, Type};

const ARRIVAL_LONGEST: Duration = Duration::from_secs(20);

/// A DNS server for zones given as `name type value` lines, and names that are said not to work.
fn dns(dir: &Path, records: &[&str], broken: &[&str]) -> (Running, SocketAddr) {
    let unbound = need("unbound", "unbound");
    let address: SocketAddr = format!("127.0.0.1:{}", free_port()).parse().unwrap();
    let mut text = format!(
        "server:\n  interface: 127.0.0.1@{}\n  do-daemonize: no\n  username: \"\"\n  chroot: \"\"\n  directory: \"{}\"\n  pidfile: \"\"\n  \
         use-syslog: no\n  access-control: 127.0.0.0/8 allow\n  do-not-query-localhost: no\n  module-config: \"iterator\"\n  \
         local-zone: \"test.\" static\n",
        address.port(),
        dir.display()
    );
    for name in broken {
        // Nobody answers there, so the resolver fails.
        text += &format!("  local-zone: \"{name}.\" transparent\n");
    }
    for record in records {
        text += &format!("  local-data: \"{record}\"\n");
    }
    for name in broken {
        text += &format!("forward-zone:\n  name: \"{name}.\"\n  forward-addr: 127.0.0.1@1\n");
    }
    let file = dir.join("unbound.conf");
    fs::write(&file, text).unwrap();
    let server = Running::start(Command::new(unbound).args(["-d", "-c"]).arg(&file));
    let probe = UdpSocket::bind("127.0.0.1:0").unwrap();
    probe.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    // A question for the A record of `test.`
    let question = b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x04test\x00\x00\x01\x00\x01";
    let answers = wait_until(Duration::from_secs(10), || {
        probe.send_to(question, address).unwrap();
        probe.recv(&mut [0; 512]).is_ok()
    });
    assert!(answers, "unbound does not answer");
    (server, address)
}

/// A relay that routes by MX, but for reports to `source.test`, which go to `reports`.
fn by_mx(dns: SocketAddr, port: u16, reports: &Sink) -> Setup {
    Setup::bare()
        .set("dns.servers", dns)
        .set("route.mx_port", port)
        .set("route.allow_private", true)
        .set("route.domains", format!("{{\"source.test\"=\"{}\"}}", reports.address()))
}

fn host(number: u8, port: u16) -> Sink {
    Sink::at(SocketAddr::new(IpAddr::from([127, 0, 0, number]), port), |_, _| Act::Usual)
}

/// RTE-01, RTE-03, RTE-04, RTE-06: order of preference, the next host when one is down, implicit MX, a CNAME.
#[test]
fn mail_follows_its_mx() {
    let (port, reports) = (free_port(), Sink::start());
    let setup = by_mx("127.0.0.1:1".parse().unwrap(), port, &reports);
    let records = [
        "two.test. 60 IN MX 10 first.test.",
        "two.test. 60 IN MX 20 second.test.",
        "down.test. 60 IN MX 10 dead.test.",
        "down.test. 60 IN MX 20 second.test.",
        "plain.test. 60 IN A 127.0.0.12",
        "alias.test. 60 IN CNAME two.test.",
        "first.test. 60 IN A 127.0.0.11",
        "second.test. 60 IN A 127.0.0.12",
        "dead.test. 60 IN A 127.0.0.13",
    ];
    let (_dns, address) = dns(setup.dir(), &records, &[]);
    let (first, second) = (host(11, port), host(12, port));
    let setup = setup.set("dns.servers", address);
    let relay = setup.start();
    for domain in ["two.test", "down.test", "plain.test"] {
        let reply = relay.client().deliver("a@source.test", &[&format!("b@{domain}")], &plain(domain));
        assert!(reply.is("250 2.0.0"), "{reply:?}");
    }
    let at_second = second.wait_for(2, ARRIVAL_LONGEST);
    let mut recipients: Vec<_> = at_second.iter().flat_map(|mail| mail.recipients.clone()).collect();
    recipients.sort();
    assert_eq!(recipients, ["b@down.test", "b@plain.test"]);
    assert_eq!(first.wait_for(1, ARRIVAL_LONGEST)[0].recipients, ["b@two.test"]);
    relay.client().deliver("a@source.test", &["b@alias.test"], &plain("alias"));
    assert_eq!(first.wait_for(2, ARRIVAL_LONGEST)[1].recipients, ["b@alias.test"]);
    assert!(reports.mails().is_empty());
    relay.stop();
}

/// RTE-03: hosts of equal preference share the connections.
#[test]
fn equal_hosts_share_the_mail() {
    let (port, reports) = (free_port(), Sink::start());
    let setup = by_mx("127.0.0.1:1".parse().unwrap(), port, &reports).set("site.default.messages_per_connection", 5);
    let records = [
        "equal.test. 60 IN MX 10 first.test.",
        "equal.test. 60 IN MX 10 second.test.",
        "first.test. 60 IN A 127.0.0.21",
        "second.test. 60 IN A 127.0.0.22",
    ];
    let (_dns, address) = dns(setup.dir(), &records, &[]);
    let hosts = [host(21, port), host(22, port)];
    let setup = setup.set("dns.servers", address);
    let relay = setup.start();
    let mut client = relay.client();
    for number in 0..200 {
        let reply = client.deliver("a@source.test", &["b@equal.test"], &plain(&number.to_string()));
        assert!(reply.is("250 2.0.0"), "{reply:?}");
    }
    let count = || hosts.iter().map(|host| host.mails().len()).collect::<Vec<_>>();
    assert!(wait_until(ARRIVAL_LONGEST, || count().iter().sum::<usize>() == 200), "{:?}", count());
    assert!(count().iter().all(|&n| n >= 20), "{:?}", count());
    relay.stop();
}

/// A listener whose queue is full: the kernel drops what else wants to connect, as a broken path does.
struct Silent {
    _kept_open: Vec<Socket>,
}

fn silent(address: SocketAddr) -> Silent {
    let listener = Socket::new(Domain::for_address(address), Type::STREAM, None).unwrap();
    listener.set_reuse_address(true).unwrap();
    listener.bind(&address.into()).unwrap();
    listener.listen(0).unwrap();
    let mut sockets = vec![listener];
    for _ in 0..4 {
        let filler = Socket::new(Domain::for_address(address), Type::STREAM, None).unwrap();
        if filler.connect_timeout(&address.into(), Duration::from_millis(300)).is_err() {
            return Silent { _kept_open: sockets };
        }
        sockets.push(filler);
    }
    panic!("{address} still answers");
}

/// RTE-10: whichever family of a host is silent, mail goes by the other long before connecting is given up.
#[test]
fn a_silent_family_costs_a_moment() {
    let (port, reports) = (free_port(), Sink::start());
    let setup = by_mx("127.0.0.1:1".parse().unwrap(), port, &reports).set("timeout.connect_ms", 600_000);
    let records = [
        "six.test. 60 IN A 127.0.0.41",
        "six.test. 60 IN AAAA ::1",
        "four.test. 60 IN A 127.0.0.42",
        "four.test. 60 IN AAAA ::ffff:127.0.0.43",
    ];
    let (_dns, address) = dns(setup.dir(), &records, &[]);
    let _silent_v4 = silent(SocketAddr::new(IpAddr::from([127, 0, 0, 41]), port));
    let _silent_v6 = silent(SocketAddr::new(IpAddr::from([127, 0, 0, 43]), port));
    let six = Sink::at(format!("[::1]:{port}").parse().unwrap(), |_, _| Act::Usual);
    let four = host(42, port);
    let setup = setup.set("dns.servers", address);
    let relay = setup.start();
    for domain in ["six.test", "four.test"] {
        let reply = relay.client().deliver("a@source.test", &[&format!("b@{domain}")], &plain(domain));
        assert!(reply.is("250 2.0.0"), "{reply:?}");
    }
    assert_eq!(six.wait_for(1, ARRIVAL_LONGEST)[0].recipients, ["b@six.test"]);
    assert_eq!(four.wait_for(1, ARRIVAL_LONGEST)[0].recipients, ["b@four.test"]);
    relay.stop();
}

/// RTE-04, QUE-05: the backup serves while the primary is dead, at few attempts to reach it, and not when it is back.
#[test]
fn a_primary_that_is_back_is_used_again() {
    let (port, reports) = (free_port(), Sink::start());
    let setup = by_mx("127.0.0.1:1".parse().unwrap(), port, &reports);
    let records = [
        "back.test. 60 IN MX 10 primary.test.",
        "back.test. 60 IN MX 20 backup.test.",
        "primary.test. 60 IN A 127.0.0.51",
        "backup.test. 60 IN A 127.0.0.52",
    ];
    let (_dns, address) = dns(setup.dir(), &records, &[]);
    let backup = host(52, port);
    let setup = setup.set("dns.servers", address);
    let relay = setup.start();
    let mut client = relay.client();
    let mut sent = 0;
    let mut deliver = || {
        let reply = client.deliver("a@source.test", &["b@back.test"], &plain("back"));
        assert!(reply.is("250 2.0.0"), "{reply:?}");
        sent += 1;
        sent
    };
    for _ in 0..20 {
        deliver();
    }
    backup.wait_for(20, ARRIVAL_LONGEST);
    let primary = host(51, port);
    let found = wait_until(ARRIVAL_LONGEST, || {
        deliver();
        !primary.mails().is_empty()
    });
    assert!(found, "the primary is not used though it is back");
    let all = deliver();
    let arrived = || primary.mails().len() + backup.mails().len();
    assert!(wait_until(ARRIVAL_LONGEST, || arrived() == all), "{} of {all}", arrived());
    let at_backup = backup.mails().len();
    for _ in 0..20 {
        deliver();
    }
    assert!(wait_until(ARRIVAL_LONGEST, || arrived() == all + 20), "{} of {}", arrived(), all + 20);
    assert_eq!(backup.mails().len(), at_backup, "the backup is left alone now");
    relay.stop();
}

/// RTE-05, RTE-06, RTE-08, RTE-09: ourselves as a mail host, hosts that are no good beside one that is, address literals, and
/// an answer that is too long for one datagram.
#[test]
fn odd_answers_are_survived() {
    let (port, reports) = (free_port(), Sink::start());
    let setup = by_mx("127.0.0.1:1".parse().unwrap(), port, &reports);
    let long: Vec<String> =
        (0..100).map(|n| format!("long.test. 60 IN MX {n} a-rather-long-name-of-a-mail-host-{n}.test.")).collect();
    let mut records = vec![
        "self.test. 60 IN MX 10 relay.example.com.",
        "self.test. 60 IN MX 20 worse.test.",
        "worse.test. 60 IN A 127.0.0.61",
        "mixed.test. 60 IN MX 5 192.0.2.1.",
        "mixed.test. 60 IN MX 6 nowhere.test.",
        "mixed.test. 60 IN MX 7 alias.test.",
        "alias.test. 60 IN CNAME worse.test.",
        "a-rather-long-name-of-a-mail-host-0.test. 60 IN A 127.0.0.61",
    ];
    records.extend(long.iter().map(String::as_str));
    let (_dns, address) = dns(setup.dir(), &records, &[]);
    let good = host(61, port);
    let setup = setup.set("dns.servers", address);
    let relay = setup.start();
    let recipients = ["b@self.test", "b@mixed.test", "b@[127.0.0.61]", "b@long.test"];
    for recipient in recipients {
        let reply = relay.client().deliver("a@source.test", &[recipient], &plain("odd"));
        assert!(reply.is("250 2.0.0"), "{reply:?}");
    }
    let mut arrived: Vec<_> = good.wait_for(3, ARRIVAL_LONGEST).into_iter().flat_map(|mail| mail.recipients).collect();
    arrived.sort();
    assert_eq!(arrived, ["b@[127.0.0.61]", "b@long.test", "b@mixed.test"]);
    let report = String::from_utf8_lossy(&reports.wait_for(1, ARRIVAL_LONGEST)[0].wire).into_owned();
    assert!(report.contains("Status: 5.4.6\r\n") && report.contains("b@self.test"), "{report}");
    relay.stop();
}

/// RTE-02, RTE-07, RTE-11: what DNS says for good is reported at once, what it fails to say is tried again.
#[test]
fn what_dns_says_of_failure() {
    let (port, reports) = (free_port(), Sink::start());
    let setup = by_mx("127.0.0.1:1".parse().unwrap(), port, &reports).set("route.allow_private", false);
    let records = ["null.test. 60 IN MX 0 .", "inside.test. 60 IN MX 10 host.test.", "host.test. 60 IN A 127.0.0.31"];
    let (_dns, address) = dns(setup.dir(), &records, &["broken.example"]);
    let inside = host(31, port);
    let setup = setup.set("dns.servers", address);
    let relay = setup.start();
    let mut client = relay.client();
    for domain in ["null.test", "nowhere.test", "inside.test", "broken.example"] {
        let reply = client.deliver("a@source.test", &[&format!("b@{domain}")], &plain(domain));
        assert!(reply.is("250 2.0.0"), "{reply:?}");
    }
    let found: BTreeMap<String, &str> = reports
        .wait_for(3, ARRIVAL_LONGEST)
        .iter()
        .map(|mail| {
            assert_eq!((&*mail.sender, &mail.recipients[..]), ("", &["a@source.test".to_string()][..]));
            let text = String::from_utf8_lossy(&mail.wire).into_owned();
            let status =
                ["5.1.10", "5.1.2", "5.4.4"].into_iter().find(|status| text.contains(&format!("Status: {status}\r\n")));
            let domain =
                ["null.test", "nowhere.test", "inside.test"].into_iter().find(|d| text.contains(&format!("b@{d}")));
            (domain.unwrap_or("?").to_string(), status.unwrap_or("?"))
        })
        .collect();
    let expected = [("inside.test", "5.4.4"), ("nowhere.test", "5.1.2"), ("null.test", "5.1.10")];
    assert_eq!(found, expected.map(|(domain, status)| (domain.to_string(), status)).into());
    assert_eq!(inside.connections(), 0, "private addresses are not connected to");
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(reports.mails().len(), 3, "a resolver that fails is no reason to give up");
    relay.stop();
}

/// `ringpost explain` says what the relay does, and where each decision comes from.
#[test]
fn explain_says_what_is_done() {
    let dir = tempfile::tempdir().unwrap();
    let records = [
        "told.test. 20 IN MX 20 second.test.",
        "told.test. 20 IN MX 10 first.test.",
        "first.test. 60 IN A 127.0.0.11",
        "second.test. 60 IN A 127.0.0.12",
        "no.test. 60 IN MX 0 .",
    ];
    let (_dns, address) = dns(dir.path(), &records, &[]);
    let servers = format!("dns.servers={address}");
    let told = |arguments: &[&str]| {
        let output =
            ringpost(&[&["explain", "--set", &servers, "--set", "route.allow_private=true"], arguments].concat());
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let text = told(&["someone@Told.test", "--set", "tls.domains..test=encrypt"]);
    assert!(text.starts_with("told.test: deliver\n"), "{text}");
    for line in
        [" s  [MX of told.test]", "encrypt  [tls.domains..test (--set)]", "[site.default.connections (default)]"]
    {
        assert!(text.contains(line), "{line} is missing in {text}");
    }
    let (_, good_for) = text.split_once("2 hosts, good for ").expect(&text);
    let good_for_s: u32 = good_for.split(' ').next().unwrap().parse().expect(&text);
    assert!((1..=20).contains(&good_for_s), "the time that DNS gave, counted down since: {text}");
    assert!(text.find("10 first.test").unwrap() < text.find("20 second.test").unwrap(), "{text}");
    let json: serde_json::Value = serde_json::from_str(&told(&["no.test", "--json"])).unwrap();
    assert_eq!(json["outcome"], "fail");
    assert_eq!(json["facts"][2]["value"], "fails: 5.1.10 recipient domain accepts no mail (null MX)");
    let wrong = ringpost(&["explain", "no domain"]);
    assert_eq!(wrong.status.code(), Some(2), "{wrong:?}");
}

/// RTE-24: the limit of a site as its host sees it, whatever the number of domains that lead there, and of shards.
#[test]
fn many_domains_with_one_host_share_its_limit() {
    const DOMAINS: usize = 40;
    let (port, reports) = (free_port(), Sink::start());
    let setup =
        by_mx("127.0.0.1:1".parse().unwrap(), port, &reports).set("shards", 2).set("site.default.connections", 3);
    let mut records: Vec<String> =
        (0..DOMAINS).map(|n| format!("d{n}.test. 60 IN MX {} shared.test.", n % 7)).collect();
    records.push("shared.test. 60 IN A 127.0.0.71".to_owned());
    let records: Vec<&str> = records.iter().map(String::as_str).collect();
    let (_dns, address) = dns(setup.dir(), &records, &[]);
    let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (open, peak) = (Arc::clone(&now), Arc::clone(&most));
    let shared = Sink::at(format!("127.0.0.71:{port}").parse().unwrap(), move |verb, _| {
        match verb {
            "CONNECT" => drop(peak.fetch_max(open.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst)),
            "QUIT" => drop(open.fetch_sub(1, Ordering::SeqCst)),
            _ => {}
        }
        Act::Usual
    });
    let setup = setup.set("dns.servers", address);
    let relay = setup.start();
    let mut clients: Vec<_> = (0..8).map(|_| relay.client()).collect();
    for number in 0..200 {
        let recipients = [format!("a@d{}.test", number % DOMAINS), format!("b@d{}.test", (number + 1) % DOMAINS)];
        let recipients: Vec<&str> = recipients.iter().map(String::as_str).collect();
        assert!(clients[number % 8].deliver("s@source.test", &recipients, &plain("shared")).is("250 2.0.0"));
    }
    let mails = shared.wait_for(400, 3 * ARRIVAL_LONGEST);
    assert!(mails.iter().all(|mail| mail.recipients.len() == 1), "domains are never mixed (RTE-19)");
    let peak = most.load(Ordering::SeqCst);
    assert!((1..=3).contains(&peak), "{peak} connections at a time");
    relay.stop();
}

/// TRC-07: two relays that each take the other for the way to a domain stop by themselves, with one report to the sender; and with
/// none where that report would go round as well.
#[test]
fn two_relays_that_point_at_each_other_stop() {
    let senders = Sink::start();
    let limited = |setup: Setup| {
        setup
            .set("relay.received_fields", 8)
            .set("route.domains.sender.test", senders.address())
            .set("retry.expire_ms", 600_000)
    };
    let one = limited(Setup::bare());
    let other = limited(Setup::to(one.address()));
    let one = one.set("route.default", other.address());
    let relays = [one.start(), other.start()];
    for sender in ["s@sender.test", "s@nowhere.test"] {
        assert!(relays[0].client().deliver(sender, &["r@loop.test"], &plain("round")).is("250 2.0.0"));
    }
    let empty = |setup: &Setup| {
        let listed = ringpost(&["queue", "ls", "--dir", setup.queue().to_str().unwrap()]);
        assert!(listed.status.success(), "{listed:?}");
        !String::from_utf8_lossy(&listed.stdout).contains('@')
    };
    let report = senders.wait_for(1, ARRIVAL_LONGEST).remove(0);
    assert_eq!((&*report.sender, &report.recipients[..]), ("", &["s@sender.test".to_owned()][..]));
    let text = String::from_utf8(report.wire).unwrap();
    assert!(text.contains("5.4.6"), "{text}");
    assert!(text.matches("\r\nReceived: ").count() >= 8, "the way it took is not shown: {text}");
    assert!(wait_until(ARRIVAL_LONGEST, || empty(&one) && empty(&other) && empty(&one)), "something goes on round");
    assert_eq!(senders.mails().len(), 1, "more than one report");
    relays.into_iter().for_each(Relay::stop);
}
