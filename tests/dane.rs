//! DANE over the real program: nsd serves signed zones, unbound validates, and aiosmtpd takes mail inside TLS only.
//!
//! One name per rule. Needs what `tests/setup` installs.

#![cfg(feature = "runtime")]

mod common;

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use common::hosts::{Host, certificate};
use common::relay::{Setup, ringpost};
use common::sink::{Act, Sink};
use common::zones::{Bed, Signing, Zone};
use common::{free_port, wait_until};

const ARRIVAL_LONGEST: Duration = Duration::from_secs(60);
/// So long nothing must come.
const SILENCE: Duration = Duration::from_secs(3);

/// DAN-01, DAN-02, DAN-03, DAN-04, DAN-05.
#[test]
fn hosts_prove_themselves_by_dnssec() {
    let port = free_port();
    let setup = Setup::bare();
    let right = certificate(setup.dir(), "right", &["right.test"], None);
    let wrong = certificate(setup.dir(), "wrong", &["wrong.test"], None);
    let good = right.key_digest();
    let right_host = Host::start(setup.dir(), 71, port, &right);
    let wrong_host = Host::start(setup.dir(), 72, port, &wrong);
    let clear_host = Sink::at(SocketAddr::new(IpAddr::from([127, 0, 0, 73]), port), |_, _| Act::Usual);
    let tlsa = |host: &str, usage: u8, data: &str| format!("_{port}._tcp.{host} TLSA {usage} 1 1 {data}");
    let forged = "ab".repeat(32);
    let forged_alias = "cd".repeat(32);
    let signed: Vec<String> = [
        "right MX 10 mx.right",
        "mx.right A 127.0.0.71",
        "mixed MX 10 mx.mixed",
        "mixed MX 20 mx.right",
        "mx.mixed A 127.0.0.72",
        "bad MX 10 mx.mixed",
        "plain MX 10 mx.plain",
        "mx.plain A 127.0.0.73",
        "bare MX 10 mx.bare",
        "mx.bare A 127.0.0.73",
        "useless MX 10 mx.useless",
        "mx.useless A 127.0.0.72",
        "stripped MX 10 mx.stripped",
        "mx.stripped A 127.0.0.73",
        "forged MX 10 mx.forged",
        "mx.forged A 127.0.0.71",
        "lone A 127.0.0.71",
        "alias MX 10 mx.alias",
        "mx.alias CNAME mx.right",
        "own MX 10 mx.own",
        "mx.own CNAME mx.mixed",
        "away MX 10 mx.away",
        "mx.away CNAME mx.dom.unsigned.test.",
        "lost MX 10 mx.lost",
        "mx.lost CNAME mx.dom.unsigned.test.",
    ]
    .map(str::to_owned)
    .into_iter()
    .chain([
        tlsa("mx.right", 3, &good),
        tlsa("mx.mixed", 3, &good),
        tlsa("mx.bare", 1, &good),
        tlsa("mx.useless", 1, &good),
        tlsa("mx.stripped", 3, &good),
        tlsa("mx.forged", 3, &forged),
        tlsa("lone", 3, &good),
        tlsa("mx.away", 3, &good),
        tlsa("mx.lost", 3, &forged_alias),
    ])
    .collect();
    let signed: Vec<&str> = signed.iter().map(String::as_str).collect();
    let unsigned_tlsa = tlsa("mx.dom", 3, &forged);
    let unsigned = ["dom MX 10 mx.dom", "mx.dom A 127.0.0.71", &unsigned_tlsa];
    let lies = [(&*forged, &*good)];
    let zones = [
        Zone { name: "signed.test", signing: Signing::Good, records: &signed, lies: &lies },
        Zone { name: "unsigned.test", signing: Signing::None, records: &unsigned, lies: &[] },
        Zone {
            name: "missing.test",
            signing: Signing::Missing,
            records: &["@ MX 10 mx", "mx A 127.0.0.73"],
            lies: &[],
        },
        Zone {
            name: "expired.test",
            signing: Signing::Expired,
            records: &["@ MX 10 mx", "mx A 127.0.0.73"],
            lies: &[],
        },
    ];
    let bed = Bed::start(setup.dir(), &zones);
    let setup = setup
        .set("dns.servers", bed.resolver)
        .set("route.mx_port", port)
        .set("route.allow_private", true)
        .set("site.default.tls", "dane");
    let relay = setup.start();
    // Proved, by MX and without; an address that no record proves goes aside for the next one; records of usage 1 want TLS
    // alone; without signature records say nothing.
    for (domain, right, wrong, clear) in [
        ("right.signed.test", 1, 0, 0),
        ("lone.signed.test", 2, 0, 0),
        ("mixed.signed.test", 3, 0, 0),
        ("useless.signed.test", 3, 1, 0),
        ("dom.unsigned.test", 4, 1, 0),
        ("plain.signed.test", 4, 1, 1),
        ("alias.signed.test", 5, 1, 1),
        ("away.signed.test", 6, 1, 1),
    ] {
        relay.take_for(domain);
        let counts = || (right_host.count(), wrong_host.count(), clear_host.mails().len());
        assert!(wait_until(ARRIVAL_LONGEST, || counts() == (right, wrong, clear)), "{domain}: {:?}", counts());
    }
    // A host that does not prove itself, one that takes STARTTLS out of its offer, a record that is forged, and zones that are.
    // An alias is no way around a proof either: not the end's, nor its own where the end is not signed. Where records of usage 1
    // want TLS, a host without it gets nothing.
    let unproved = ["bad", "stripped", "forged", "own", "lost", "bare"].map(|name| format!("{name}.signed.test"));
    for domain in unproved.iter().map(String::as_str).chain(["missing.test", "expired.test"]) {
        relay.take_for(domain);
    }
    std::thread::sleep(SILENCE);
    assert_eq!((right_host.count(), wrong_host.count(), clear_host.mails().len()), (6, 1, 1), "{}", relay.errors());
    relay.stop();
    explained(&bed, port);
}

/// `ringpost explain` says what DNS proves; a resolver that is not trusted proves nothing (DAN-01).
fn explained(bed: &Bed, port: u16) {
    let told = |domain: &str, more: &str| {
        let (servers, port) = (format!("dns.servers={}", bed.resolver), format!("route.mx_port={port}"));
        let sets = [&*servers, &port, "route.allow_private=true", "site.default.tls=dane", more];
        let mut arguments = vec!["explain", domain];
        sets.iter().for_each(|set| arguments.extend(["--set", set]));
        let output = ringpost(&arguments);
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    assert!(told("right.signed.test", "shards=1").contains("prove itself"));
    assert!(told("useless.signed.test", "shards=1").contains("cannot be used"));
    assert!(told("forged.signed.test", "shards=1").starts_with("forged.signed.test: defer"));
    assert!(told("missing.test", "shards=1").starts_with("missing.test: defer"));
    assert!(!told("dom.unsigned.test", "shards=1").contains("TLSA"));
    assert!(!told("right.signed.test", "dns.trust=never").contains("TLSA"));
}
