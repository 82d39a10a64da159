//! Next hops that want to know who we are, or speak LMTP: Postfix with Dovecot, and Dovecot's own LMTP server.
//!
//! Needs what `tests/setup` installs, and root.

#![cfg(feature = "runtime")]

mod common;

use std::fs;
use std::net::SocketAddr;
use std::time::Duration;

use common::dovecot::{Dovecot, PASSWORD};
use common::mail::plain;
use common::postfix::Postfix;
use common::programs::certificate;
use common::relay::{Relay, Setup, ringpost};
use common::sink::Sink;
use common::{free_port, wait_until};

const ARRIVAL_LONGEST: Duration = Duration::from_secs(60);

/// Nothing that the relay reported gives the password away, in any form in which it is said (AUT-08).
fn assert_silent(relay: &Relay) {
    let errors = relay.errors();
    for secret in [PASSWORD, "Y29ycjNjdCwgaD1yc2", "AG9uZQBjb3JyM2N0"] {
        assert!(!errors.contains(secret), "{errors}");
    }
}

/// AUT-10, FND-08: by each mechanism, at Postfix whose users Dovecot knows; and what wrong credentials come to.
#[test]
fn postfix_lets_us_in() {
    let sink = Sink::start();
    let dir = tempfile::tempdir().unwrap();
    let (certificate, key) = certificate(dir.path());
    let ports = [free_port(), free_port(), free_port()];
    let mechanisms = ["scram-sha-256", "plain", "login"];
    let main = format!(
        "mynetworks = 192.0.2.1\nsmtpd_relay_restrictions = permit_sasl_authenticated, reject\nsmtpd_sasl_auth_enable = yes\n\
         smtpd_sasl_type = dovecot\nsmtpd_sasl_path = private/auth\nsmtpd_tls_security_level = may\nsmtpd_tls_auth_only = yes\n\
         smtpd_tls_cert_file = {certificate}\nsmtpd_tls_key_file = {key}\n"
    );
    let service = |(port, mechanism): (&u16, &&str)| {
        format!(
            "127.0.0.1:{port} inet n - n - 20 smtpd -o smtpd_sasl_mechanism_filter={mechanism} -o smtpd_tls_loglevel=1\n"
        )
    };
    let master: String = ports.iter().zip(&mechanisms).map(service).collect();
    let Some(postfix) = Postfix::start(sink.address().port(), &main, &master) else { return };
    let Some(_dovecot) = Dovecot::start(&postfix.dir().join("queue/private/auth")) else { return };
    let mut setup = Setup::bare().set("tls.roots", &certificate);
    let (good, wrong) = (setup.dir().join("good"), setup.dir().join("wrong"));
    fs::write(&good, format!("one:{PASSWORD}\n")).unwrap();
    fs::write(&wrong, "one:no such word\n").unwrap();
    for (port, mechanism) in ports.iter().zip(&mechanisms) {
        setup = setup
            .set(&format!("next_hop.{mechanism}.address"), format!("127.0.0.1:{port}"))
            .set(&format!("next_hop.{mechanism}.credentials"), good.display())
            .set(&format!("route.domains.{mechanism}.example.org"), mechanism);
    }
    setup = setup
        .set("next_hop.wrong.address", format!("127.0.0.1:{}", ports[0]))
        .set("next_hop.wrong.credentials", wrong.display())
        .set("route.domains.wrong.example.org", "wrong")
        .set("retry.site_longest_ms", 600_000);
    let relay = setup.start();
    let mut client = relay.client();
    for domain in ["wrong", "scram-sha-256", "plain", "login"] {
        for _ in 0..5 {
            let reply = client.deliver("a@example.com", &[&format!("b@{domain}.example.org")], &plain(domain));
            assert!(reply.is("250 2.0.0"), "{reply:?}");
        }
    }
    let mails = sink.wait_for(15, ARRIVAL_LONGEST);
    for mechanism in &mechanisms {
        let recipient = format!("b@{mechanism}.example.org");
        assert_eq!(mails.iter().filter(|mail| mail.recipients[0] == recipient).count(), 5, "{mechanism}");
    }
    let log = || fs::read_to_string(postfix.dir().join("log/mail.log")).unwrap_or_default();
    assert!(log().contains("sasl_method=SCRAM-SHA-256") && log().contains("sasl_method=LOGIN"), "{}", log());
    let refusals = || log().matches("SASL SCRAM-SHA-256 authentication failed").count();
    assert!(wait_until(ARRIVAL_LONGEST, || refusals() > 0), "{}", log());
    let text = "smarthost wrong tls=verify: session with";
    assert!(wait_until(ARRIVAL_LONGEST, || relay.errors().contains(text)), "{}", relay.errors());
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(refusals(), 1, "who is refused does not try again and again");
    assert_silent(&relay);
    drop(client);
    // Once they are right, and the relay begins anew, what waited goes.
    relay.stop();
    fs::write(&wrong, format!("one:{PASSWORD}\n")).unwrap();
    let relay = setup.start();
    sink.wait_for(20, ARRIVAL_LONGEST);
    assert_silent(&relay);
    relay.stop();
}

/// AUT-10: a next hop that did not prove its name is told no password, and what is wrong with credentials ends the start.
#[test]
fn passwords_are_not_given_away() {
    let setup = Setup::bare();
    let file = setup.dir().join("credentials");
    let check = |sets: &[&str]| {
        let address = "next_hop.smart.address=127.0.0.1:26".to_owned();
        let credentials = format!("next_hop.smart.credentials={}", file.display());
        let mut arguments = vec!["check", "--set", &address, "--set", &credentials];
        sets.iter().for_each(|set| arguments.extend(["--set", set]));
        let output = ringpost(&arguments);
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    for text in ["", "user", "user:", ":secret"] {
        fs::write(&file, text).unwrap();
        let (code, error) = check(&[]);
        assert_eq!(code, Some(1), "{text}");
        assert!(error.contains("next_hop.smart.credentials") && !error.contains("secret"), "{error}");
    }
    fs::write(&file, "user:secret").unwrap();
    assert_eq!(check(&[]).0, Some(0));
    assert_eq!(check(&["tls.roots=/nonexistent"]).0, Some(1), "with credentials the policy is verify");
    assert_eq!(check(&["tls.roots=/nonexistent", "next_hop.smart.tls=encrypt"]).0, Some(0));
}

/// FND-07: Dovecot has a verdict of its own for each recipient, and each counts for itself; by TCP and by a unix socket.
#[test]
fn dovecot_takes_by_lmtp() {
    let dir = tempfile::tempdir().unwrap();
    let Some(dovecot) = Dovecot::start(&dir.path().join("auth")) else { return };
    let by_tcp: SocketAddr = dovecot.lmtp();
    for (number, address) in
        [by_tcp.to_string(), format!("unix:{}", dovecot.lmtp_socket().display())].iter().enumerate()
    {
        let reports = Sink::start();
        let setup = Setup::bare()
            .set("route.domains.source.example", reports.address())
            .set("next_hop.store.address", address)
            .set("next_hop.store.protocol", "lmtp")
            .set("route.domains.example.org", "store");
        let relay = setup.start();
        let mut client = relay.client();
        let recipients = ["one@example.org", "full@example.org", "nobody@example.org", "two@example.org"];
        for round in 1..=3 {
            let reply = client.deliver("a@source.example", &recipients, &plain(&format!("lmtp {round}")));
            assert!(reply.is("250 2.0.0"), "{reply:?}");
        }
        let all = 3 * (number + 1);
        let count = || (dovecot.mails("one").len(), dovecot.mails("two").len());
        assert!(wait_until(ARRIVAL_LONGEST, || count() == (all, all)), "{address}: {:?}", count());
        for report in reports.wait_for(3, ARRIVAL_LONGEST) {
            let text = String::from_utf8_lossy(&report.wire).into_owned();
            let of = |recipient: &str| {
                let fields =
                    text.split("Final-Recipient: rfc822;").find(|fields| fields.trim_start().starts_with(recipient));
                fields.unwrap_or_else(|| panic!("{recipient} is not in {text}")).to_owned()
            };
            assert!(of("full@example.org").contains("Status: 5.2.2"), "{text}");
            assert!(of("nobody@example.org").contains("Status: 5.1.1"), "{text}");
            assert!(!text.contains("rfc822;one@") && !text.contains("rfc822; one@"), "{text}");
        }
        assert!(dovecot.mails("one")[0].contains("by relay.example.com"), "{:?}", dovecot.mails("one"));
        relay.stop();
    }
    assert!(dovecot.mails("full").is_empty());
}
