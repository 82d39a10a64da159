//! MTA-STS over the real program: policies from a real web server, by real DNS, for mail hosts that speak TLS or do not.
//!
//! One domain per rule. Needs what `tests/setup` installs.

#![cfg(feature = "runtime")]

mod common;

use std::net::{IpAddr, SocketAddr};
use std::process::Command;
use std::time::Duration;

use common::hosts::{Host, Pair, PolicyServer, certificate};
use common::programs::{python, script, succeed};
use common::relay::{Setup, ringpost};
use common::sink::{Act, Sink};
use common::zones::{Bed, Signing, Zone};
use common::{free_port, wait_until};

const ARRIVAL_LONGEST: Duration = Duration::from_secs(60);
/// So long nothing must come.
const SILENCE: Duration = Duration::from_secs(3);

/// Domains with a policy that the web server has.
const DOMAINS: [&str; 14] = [
    "enforce", "skip", "strict", "testing", "none", "gone", "redirect", "long", "html", "twice", "kept", "mx.smart",
    "below", "unlisted",
];

/// Everything around the relay.
struct World {
    setup: Setup,
    web_port: u16,
    web: Pair,
    /// Takes mail inside TLS, as `mx.right.sts.test`.
    right: Host,
    /// The same, with nobody's certificate.
    wrong: Host,
    /// Knows no TLS.
    clear: Sink,
    bed: Bed,
}

fn policy(mode: &str, host: &str) -> String {
    format!("version: STSv1\r\nmode: {mode}\r\nmx: {host}\r\nmax_age: 86400\r\n")
}

impl World {
    fn new() -> World {
        let setup = Setup::bare();
        let (port, web_port) = (free_port(), free_port());
        let authority = certificate(setup.dir(), "authority", &[], None);
        let names = ["mx.right.sts.test", "mx.dane.signed.test", "mx.signed.signed.test"];
        let right = certificate(setup.dir(), "right", &names, Some(&authority));
        let wrong = certificate(setup.dir(), "wrong", &["mx.wrong.sts.test", "mx.proved.signed.test"], None);
        let web_names: Vec<String> = DOMAINS
            .iter()
            .map(|domain| format!("mta-sts.{domain}.sts.test"))
            .chain(["dane", "proved"].map(|domain| format!("mta-sts.{domain}.signed.test")))
            .collect();
        let web_names: Vec<&str> = web_names.iter().map(String::as_str).collect();
        let web = certificate(setup.dir(), "web", &web_names, Some(&authority));
        let (plain, signed) = (records(), signed_records(port, &wrong.key_digest()));
        let plain: Vec<&str> = plain.iter().map(String::as_str).collect();
        let signed: Vec<&str> = signed.iter().map(String::as_str).collect();
        let bed = Bed::start(
            setup.dir(),
            &[
                Zone { name: "sts.test", signing: Signing::None, records: &plain, lies: &[] },
                Zone { name: "signed.test", signing: Signing::Good, records: &signed, lies: &[] },
            ],
        );
        let setup = setup
            .set("dns.servers", bed.resolver)
            .set("route.mx_port", port)
            .set("route.sts_port", web_port)
            .set("route.allow_private", true)
            .set("route.domains.smart.test", format!("mx.smart.sts.test:{port}"))
            .set("tls.roots", authority.certificate.display())
            .set("site.default.tls", "published")
            .set("log.level", "debug");
        World {
            right: Host::start(setup.dir(), 81, port, &right),
            wrong: Host::start(setup.dir(), 82, port, &wrong),
            clear: Sink::at(SocketAddr::new(IpAddr::from([127, 0, 0, 83]), port), |_, _| Act::Usual),
            setup,
            web_port,
            web,
            bed,
        }
    }

    fn counts(&self) -> (usize, usize, usize) {
        (self.right.count(), self.wrong.count(), self.clear.mails().len())
    }

    /// What `ringpost explain` says of a domain.
    fn told(&self, domain: &str) -> String {
        let mut arguments: Vec<String> = vec!["explain".into(), domain.into()];
        arguments.extend(self.setup.arguments().into_iter().skip(1));
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let output = ringpost(&arguments);
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    }
}

/// The zone that nobody signed. What changes is not kept for long.
fn records() -> Vec<String> {
    let mut records: Vec<String> = [
        "mx.right A 127.0.0.81",
        "mx.wrong A 127.0.0.82",
        "mx.clear A 127.0.0.83",
        "enforce MX 10 mx.right",
        "skip MX 10 mx.wrong",
        "skip MX 20 mx.clear",
        "skip MX 30 mx.right",
        "unlisted MX 10 mx.clear",
        "unlisted MX 20 mx.right",
        "strict MX 10 mx.clear",
        "testing MX 10 mx.clear",
        "none MX 10 mx.clear",
        "gone MX 10 mx.clear",
        "redirect MX 10 mx.clear",
        "long MX 10 mx.clear",
        "html MX 10 mx.clear",
        "stranger MX 10 mx.clear",
        "twice MX 10 mx.clear",
        "_mta-sts.twice TXT \"v=STSv1; id=2\"",
        "kept 1 MX 10 mx.clear",
        "mx.smart A 127.0.0.83",
        "x.below MX 10 mx.clear",
        "_mta-sts.stranger TXT \"v=STSv1; id=1\"",
        "mta-sts.stranger A 127.0.0.1",
    ]
    .map(str::to_owned)
    .into();
    for domain in DOMAINS {
        records.push(format!("_mta-sts.{domain} 1 TXT \"v=STS\" \"v1; id=1;\""));
        records.push(format!("mta-sts.{domain} A 127.0.0.1"));
    }
    records
}

fn signed_records(port: u16, proved: &str) -> Vec<String> {
    let forged = "ab".repeat(32);
    let mut records = vec![
        "dane MX 10 mx.dane".to_owned(),
        "mx.dane A 127.0.0.81".to_owned(),
        format!("_{port}._tcp.mx.dane TLSA 3 1 1 {forged}"),
        "proved MX 10 mx.proved".to_owned(),
        "mx.proved A 127.0.0.82".to_owned(),
        format!("_{port}._tcp.mx.proved TLSA 3 1 1 {proved}"),
        "signed MX 10 mx.signed".to_owned(),
        "mx.signed A 127.0.0.81".to_owned(),
    ];
    for domain in ["dane", "proved"] {
        records.push(format!("_mta-sts.{domain} TXT \"v=STSv1; id=1\""));
        records.push(format!("mta-sts.{domain} A 127.0.0.1"));
    }
    records
}

fn serve(world: &World) -> PolicyServer {
    let server = PolicyServer::start(world.setup.dir(), world.web_port, &world.web);
    let right = "mx.right.sts.test";
    for (domain, mode, host) in [
        ("enforce", "enforce", right),
        ("skip", "enforce", "*.sts.test\r\nmx: *.right.sts.test\r\nmx: mx.wrong.sts.test\r\nmx: mx.clear.sts.test"),
        ("unlisted", "enforce", "*.right.sts.test"),
        ("strict", "enforce", right),
        ("testing", "testing", right),
        ("none", "none", right),
        ("twice", "enforce", right),
        ("kept", "enforce", right),
        ("mx.smart", "enforce", "mx.smart.sts.test"),
        ("below", "enforce", right),
    ] {
        server.answer(&format!("{domain}.sts.test"), 200, "text/plain; charset=utf-8", &policy(mode, host));
    }
    server.answer(
        "redirect.sts.test",
        302,
        &format!("https://mta-sts.strict.sts.test:{}/.well-known/mta-sts.txt", world.web_port),
        "",
    );
    let long = policy("enforce", right) + "x: " + &"y".repeat(64 << 10) + "\r\n";
    server.answer("long.sts.test", 200, "text/plain", &long);
    server.answer("html.sts.test", 200, "text/html", &policy("enforce", right));
    // A policy that fits, whatever the TLSA records say.
    server.answer("dane.signed.test", 200, "text/plain", &policy("enforce", "mx.dane.signed.test"));
    server.answer("proved.signed.test", 200, "text/plain", &policy("enforce", "mx.other.signed.test"));
    server
}

/// Messages that came with REQUIRETLS.
fn tagged(host: &Host) -> usize {
    host.facts().iter().filter(|facts| facts.contains("\"require_tls\": true")).count()
}

/// STS-01, STS-02, STS-03, STS-04, STS-05, RTL-02.
#[test]
fn hosts_are_what_their_domains_policy_says() {
    let world = World::new();
    let server = serve(&world);
    let relay = world.setup.start();
    // In order: proved by name; hosts that prove nothing or are not named are skipped; a policy that is tested, or none; policies
    // that cannot be had, or not just one; nothing comes from the domain above; and TLSA records say more than a policy.
    for (domain, right, wrong, clear) in [
        ("enforce.sts.test", 1, 0, 0),
        ("enforce.sts.test", 2, 0, 0),
        ("skip.sts.test", 3, 0, 0),
        ("unlisted.sts.test", 4, 0, 0),
        ("testing.sts.test", 4, 0, 1),
        ("none.sts.test", 4, 0, 2),
        ("gone.sts.test", 4, 0, 3),
        ("redirect.sts.test", 4, 0, 4),
        ("long.sts.test", 4, 0, 5),
        ("html.sts.test", 4, 0, 6),
        ("stranger.sts.test", 4, 0, 7),
        ("twice.sts.test", 4, 0, 8),
        ("x.below.sts.test", 4, 0, 9),
        ("proved.signed.test", 4, 1, 9),
    ] {
        relay.take_for(domain);
        assert!(
            wait_until(ARRIVAL_LONGEST, || world.counts() == (right, wrong, clear)),
            "{domain}: {:?}",
            world.counts()
        );
    }
    assert!(relay.errors().contains("an MTA-STS policy is being tested"), "{}", relay.errors());
    // Fetched once, and only where there is just one record.
    let asked =
        ["enforce", "redirect", "gone", "twice", "x.below"].map(|domain| server.asked(&format!("{domain}.sts.test")));
    assert_eq!(asked, [1, 1, 1, 0, 0]);
    // For REQUIRETLS a host has to be the domain's own: by its policy, by signed DNS, or by a record of its key; not by anybody's word.
    let mut command = Command::new(python());
    command.arg(script("requiretls_client.py")).arg(relay.address().port().to_string());
    succeed(
        command.args([
            "enforce.sts.test",
            "signed.signed.test",
            "proved.signed.test",
            "none.sts.test",
            "x.below.sts.test",
        ]),
        ARRIVAL_LONGEST,
    );
    assert!(wait_until(ARRIVAL_LONGEST, || world.counts() == (6, 2, 9)), "{:?}", world.counts());
    assert_eq!(tagged(&world.right) + tagged(&world.wrong), 3);
    // Nobody that the policy names; a smart host goes by its own domain's; and no policy makes up for a forged record.
    for domain in ["strict.sts.test", "kept.sts.test", "smart.test", "dane.signed.test"] {
        relay.take_for(domain);
    }
    assert!(
        wait_until(ARRIVAL_LONGEST, || server.asked("kept.sts.test") == 1 && server.asked("mx.smart.sts.test") == 1)
    );
    std::thread::sleep(SILENCE);
    assert_eq!(world.counts(), (6, 2, 9), "{}", relay.errors());
    explained(&world);
    relay.stop();
    // What was fetched outlives the relay, and the web server.
    drop(server);
    let relay = world.setup.start();
    relay.take_for("kept.sts.test");
    relay.take_for("enforce.sts.test");
    assert!(wait_until(ARRIVAL_LONGEST, || world.counts() == (7, 2, 9)), "{:?}", world.counts());
    std::thread::sleep(SILENCE);
    assert_eq!(world.counts(), (7, 2, 9), "{}", relay.errors());
    // A policy that changed is looked at again before anybody gives up.
    let server = serve(&world);
    server.answer("kept.sts.test", 200, "text/plain", &policy("none", "mx.right.sts.test"));
    let changed: Vec<String> = records()
        .into_iter()
        .filter(|record| !record.starts_with("_mta-sts.kept "))
        .chain(["_mta-sts.kept TXT \"v=STSv1; id=2\"".to_owned()])
        .collect();
    let changed: Vec<&str> = changed.iter().map(String::as_str).collect();
    world.bed.change(&Zone { name: "sts.test", signing: Signing::None, records: &changed, lies: &[] });
    assert!(wait_until(ARRIVAL_LONGEST, || world.counts() == (7, 2, 11)), "{:?}", world.counts());
    relay.stop();
}

/// `ringpost explain` says what the policy is, and where it comes from.
fn explained(world: &World) {
    let told = world.told("enforce.sts.test");
    assert!(told.contains("enforce: mx.right.sts.test; for 86400 s  [policy 1, kept]"), "{told}");
    assert!(told.contains("[MTA-STS: it has to prove its name]"), "{told}");
    let told = world.told("strict.sts.test");
    assert!(
        told.starts_with("strict.sts.test: defer") && told.contains("not named by the policy, not connected to"),
        "{told}"
    );
    let told = world.told("long.sts.test");
    assert!(told.contains("none that can be read") && told.contains("too long"), "{told}");
    assert!(world.told("redirect.sts.test").contains("the answer is 302"), "{}", world.told("redirect.sts.test"));
    let told = world.told("x.below.sts.test");
    assert!(told.contains("no policy  [_mta-sts.x.below.sts.test has no record]"), "{told}");
    assert!(world.told("twice.sts.test").contains("not just one record"));
    let told = world.told("dane.signed.test");
    assert!(told.contains("enforce: mx.dane.signed.test") && told.contains("[TLSA records: it has to"), "{told}");
}
