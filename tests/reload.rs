//! SIGHUP: what changes while the relay runs, what does not, and that no mail is lost or doubled by it.

#![cfg(feature = "runtime")]

mod common;

use std::collections::HashMap;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use common::client::Client;
use common::programs::{need, python, script, succeed};
use common::relay::{Relay, Setup};
use common::sink::Sink;
use common::wait_until;

const LONGEST: Duration = Duration::from_secs(60);

/// Writes the file anew and waits until the relay says that it has read it, and whether it took it.
fn reload(relay: &Relay, setup: &Setup, text: &str) -> String {
    std::fs::write(setup.dir().join("ringpost.toml"), text).unwrap();
    let ends = || {
        let errors = relay.errors();
        errors.matches("DKIM keys were read again").count() + errors.matches("nothing was changed").count()
    };
    let before = ends();
    relay.signal(libc::SIGHUP);
    let answered = || ends() > before;
    assert!(wait_until(LONGEST, answered), "the relay says nothing of a reload");
    relay.errors()
}

fn expect(client: &mut Client, command: &str, code: u16) {
    let reply = client.say(command);
    assert_eq!(reply.code, code, "{command}: {reply:?}");
}

fn file(next_hop: std::net::SocketAddr, more: &str) -> String {
    format!("route.default = \"{next_hop}\"\n{more}")
}

/// Routes, networks and limits change under load; every message that was answered 250 arrives exactly once, at the old
/// next hop or the new one.
#[test]
fn a_reload_under_load_loses_and_doubles_nothing() {
    let (first, second) = (Sink::start(), Sink::start());
    let setup = Setup::bare().set("shards", 2).config();
    std::fs::write(setup.dir().join("ringpost.toml"), file(first.address(), "")).unwrap();
    let relay = Arc::new(setup.start());
    let (stop, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let clients: Vec<_> = (0..4)
        .map(|client| {
            let (relay, stop, sent) = (relay.clone(), stop.clone(), sent.clone());
            std::thread::spawn(move || {
                let mut session = relay.client();
                expect(&mut session, "EHLO client.example.com", 250);
                let mut taken = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    let number = format!("{client}-{}", taken.len());
                    expect(&mut session, "MAIL FROM:<a@example.com>", 250);
                    expect(&mut session, &format!("RCPT TO:<u{number}@example.org>"), 250);
                    expect(&mut session, "DATA", 354);
                    expect(&mut session, &format!("Subject: number {number}\r\n\r\nx\r\n."), 250);
                    taken.push(number);
                    sent.fetch_add(1, Ordering::Relaxed);
                }
                taken
            })
        })
        .collect();
    let more = |count: usize| {
        let wanted = sent.load(Ordering::Relaxed) + count;
        assert!(wait_until(LONGEST, || sent.load(Ordering::Relaxed) >= wanted), "the load stands still");
    };
    more(100);
    for round in 0..6 {
        let next_hop = if round % 2 == 0 { second.address() } else { first.address() };
        let limits = format!("[site.default]\nconnections = {}\n", 1 + round);
        reload(&relay, &setup, &file(next_hop, &limits));
        more(50);
    }
    let errors = reload(&relay, &setup, &file(first.address(), "relay.networks = [\"192.0.2.0/24\"]\n"));
    assert!(errors.contains("reload: changed relay") || errors.contains("changed relay,"), "{errors}");
    more(20);
    let mut refused = relay.client();
    expect(&mut refused, "EHLO late.example.com", 250);
    expect(&mut refused, "MAIL FROM:<a@example.com>", 250);
    expect(&mut refused, "RCPT TO:<b@example.org>", 550);
    stop.store(true, Ordering::Relaxed);
    let taken: Vec<String> = clients.into_iter().flat_map(|client| client.join().unwrap()).collect();
    assert!(wait_until(LONGEST, || first.mails().len() + second.mails().len() >= taken.len()), "mail is missing");
    let mut seen: HashMap<String, usize> = HashMap::new();
    for mail in first.mails().iter().chain(&second.mails()) {
        let text = String::from_utf8_lossy(&mail.wire).into_owned();
        let number = text.split("Subject: number ").nth(1).unwrap().split("\r\n").next().unwrap().to_owned();
        *seen.entry(number).or_default() += 1;
    }
    assert!(taken.iter().all(|number| seen.get(number) == Some(&1)), "lost or doubled");
    assert!(second.mails().len() > 50 && first.mails().len() > 50, "both next hops had their time");
    Arc::into_inner(relay).unwrap().stop();
}

/// What is wrong changes nothing, what cannot change is named.
#[test]
fn a_broken_file_changes_nothing() {
    let sink = Sink::start();
    let setup = Setup::bare().config();
    std::fs::write(setup.dir().join("ringpost.toml"), file(sink.address(), "")).unwrap();
    let relay = setup.start();
    let broken = file("127.0.0.1:1".parse().unwrap(), "relay.networks = [\"everybody\"]\n");
    let errors = reload(&relay, &setup, &broken);
    assert!(errors.contains("nothing was changed: relay.networks"), "{errors}");
    let mut client = relay.client();
    expect(&mut client, "EHLO client.example.com", 250);
    for (command, code) in
        [("MAIL FROM:<a@example.com>", 250), ("RCPT TO:<b@example.org>", 250), ("DATA", 354), ("x\r\n.", 250)]
    {
        expect(&mut client, command, code);
    }
    assert_eq!(sink.wait_for(1, LONGEST).len(), 1, "the old route holds");
    let errors =
        reload(&relay, &setup, &file(sink.address(), "dns.servers = [\"127.0.0.1:5353\"]\nlog.level = \"debug\"\n"));
    assert!(errors.contains("only with a restart: dns.servers"), "{errors}");
    assert!(errors.contains("reload: changed log.level"), "{errors}");
    relay.stop();
}

/// TLS-14: a certificate is exchanged with sessions open inside TLS.
#[test]
fn certificates_change_without_dropping_a_session() {
    let sink = Sink::start();
    let setup = Setup::to(sink.address()).config();
    let (certificate, key) = (setup.dir().join("certificate.pem"), setup.dir().join("key.pem"));
    make_certificate("old.example.com", &certificate, &key);
    let paths = format!("tls.certificate = {certificate:?}\ntls.key = {key:?}\n");
    std::fs::write(setup.dir().join("ringpost.toml"), &paths).unwrap();
    let relay = setup.start();
    let mut session = Command::new(python());
    session.arg(script("certificate_client.py")).arg(relay.address().port().to_string());
    session.arg(relay.pid().to_string()).arg(need("openssl", "openssl")).arg(&certificate).arg(&key);
    succeed(&mut session, LONGEST);
    assert_eq!(sink.wait_for(2, LONGEST).len(), 2, "one message in the old session, one in the new");
    relay.stop();
}

fn make_certificate(name: &str, certificate: &Path, key: &Path) {
    let mut command = Command::new(need("openssl", "openssl"));
    command.args([
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-days",
        "2",
        "-subj",
        &format!("/CN={name}"),
        "-out",
    ]);
    succeed(command.arg(certificate).arg("-keyout").arg(key), LONGEST);
}
