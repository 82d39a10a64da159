//! Aliases, lists and forwards over the real relay, with a client that nobody here wrote; ETRN over all shards; orders about
//! tenants over HTTP and by the command line.

#![cfg(feature = "runtime")]

mod common;

use std::net::IpAddr;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use common::client::Client;
use common::mail::plain;
use common::programs::{python, script, succeed};
use common::relay::{Relay, Setup, ringpost};
use common::sink::{Act, Mail, Sink};
use common::wait_until;

const LONGEST: Duration = Duration::from_secs(60);

fn local(number: u8) -> IpAddr {
    IpAddr::from([127, 0, 0, number])
}

/// What came, each as `reverse-path > recipients`, sorted.
fn envelopes(mails: &[Mail]) -> Vec<String> {
    let mut found: Vec<String> =
        mails.iter().map(|mail| format!("{} > {}", mail.sender, mail.recipients.join(" "))).collect();
    found.sort();
    found
}

const TABLE: &str = "\
alias   sales@lists.example  anna@b.example, bert@c.example
list    news@lists.example   owner=news-owner@lists.example by-member
        carl@d.example, bounces@e.example
forward old@lists.example    new@f.example
moved   former@lists.example now@g.example
alias   news-owner@lists.example admin@h.example
";

/// FND-03, FND-04, FND-05, SES-14: Python's smtplib asks about addresses of the table and writes to them; members get one body,
/// what fails of a list is told to its owner. A table that is read again holds, a wrong one changes nothing, and `check` tells of it.
#[test]
fn a_client_that_nobody_here_wrote_uses_lists() {
    let sink = Sink::scripted(|verb, line| {
        if verb == "RCPT" && line.contains("bounces@") { Act::Say("550 5.1.1 nobody".into()) } else { Act::Usual }
    });
    let setup = Setup::to(sink.address())
        .config()
        .set("shards", 2)
        .set("aliases.askers", "127.0.0.0/8")
        .set("aliases.told", "127.0.0.0/8");
    let table = setup.dir().join("aliases");
    std::fs::write(&table, TABLE).unwrap();
    std::fs::write(setup.dir().join("ringpost.toml"), format!("aliases.file = \"{}\"\n", table.display())).unwrap();
    let relay = setup.start();
    let port = relay.address().port().to_string();
    let mut client = Command::new(python());
    client.arg(script("lists_client.py")).args([
        &port,
        "from@source.example",
        "news@lists.example",
        "sales@lists.example",
    ]);
    client.args(["old@lists.example", "former@lists.example"]);
    let said = succeed(&mut client, LONGEST);
    let expected = "expn offered True\netrn offered False\n\
        250 2.1.5 <news@lists.example>\n250 2.1.5 <carl@d.example> 2.1.5 <bounces@e.example>\n\
        250 2.1.5 <sales@lists.example>\n250 2.1.5 <anna@b.example> 2.1.5 <bert@c.example>\n\
        251 2.1.5 User not local; will forward to <new@f.example>\n250 2.1.5 <new@f.example>\n\
        551 5.1.6 User not local; please try <now@g.example>\n551 5.1.6 User not local; please try <now@g.example>\n\
        rcpt 250 2.1.5 Recipient OK\nrcpt 250 2.1.5 Recipient OK\n\
        rcpt 251 2.1.5 User not local; will forward to <new@f.example>\n\
        rcpt 551 5.1.6 User not local; please try <now@g.example>\n";
    assert_eq!(said, expected);
    let mails = sink.wait_for(5, LONGEST);
    assert_eq!(
        envelopes(&mails),
        [
            " > admin@h.example",
            "from@source.example > anna@b.example",
            "from@source.example > bert@c.example",
            "from@source.example > new@f.example",
            "news-owner+carl=d.example@lists.example > carl@d.example",
        ]
    );
    let report = mails.iter().find(|mail| mail.sender.is_empty()).unwrap();
    let text = String::from_utf8_lossy(&report.wire);
    assert!(text.contains("To: <news-owner+bounces=e.example@lists.example>"), "{text}");
    let config = setup.dir().join("ringpost.toml").display().to_string();
    let explained =
        ringpost(&["explain", "OLD@lists.example", "--config", &config, "--set", "route.default=127.0.0.1:25"]);
    let words = String::from_utf8_lossy(&explained.stdout).into_owned();
    assert!(words.contains("forward to new@f.example; its way counts"), "{words}");
    change_the_table(&relay, &setup, &table);
    relay.stop();
}

fn change_the_table(relay: &Relay, setup: &Setup, table: &std::path::Path) {
    let reload = |text: &str, says: &str| {
        std::fs::write(table, text).unwrap();
        let before = relay.errors().matches(says).count();
        relay.signal(libc::SIGHUP);
        assert!(wait_until(LONGEST, || relay.errors().matches(says).count() > before), "{}", relay.errors());
    };
    let rcpt = |recipient: &str| {
        let mut client = relay.client();
        client.say("EHLO client.example.com");
        client.say("MAIL FROM:<a@b.example>");
        client.say(&format!("RCPT TO:<{recipient}>"))
    };
    reload("alias a@x.example b@x.example\nalias b@x.example a@x.example\n", "nothing was changed: aliases.file");
    assert!(relay.errors().contains("line 1: a@x.example > b@x.example goes in a circle"), "{}", relay.errors());
    assert!(rcpt("old@lists.example").is("251 "), "the table that held before still holds");
    let config = setup.dir().join("ringpost.toml").display().to_string();
    let checked = ringpost(&["check", "--config", &config]);
    let words = String::from_utf8_lossy(&checked.stderr).into_owned();
    assert!(checked.status.code() == Some(2) && words.contains("goes in a circle"), "{words}");
    reload("gone old@lists.example\n", "reload: changed aliases and etrn");
    assert!(rcpt("old@lists.example").is("550 5.1.1"), "the new one does");
    assert!(rcpt("sales@lists.example").is("250 2.1.5 Recipient OK"), "a client that may relay writes to anybody");
}

/// FND-06: ETRN starts what waits on every shard, and counts it together.
#[test]
fn etrn_starts_mail_on_all_shards() {
    const EACH: usize = 6;
    let open = Arc::new(AtomicBool::new(false));
    let is_open = open.clone();
    let sink = Sink::scripted(move |verb, _| {
        if verb == "." && !is_open.load(Ordering::SeqCst) { Act::Say("450 4.2.1 later".into()) } else { Act::Usual }
    });
    let setup = Setup::to(sink.address())
        .set("shards", 2)
        .set("retry.first_ms", 3_600_000)
        .set("retry.longest_ms", 3_600_000)
        .set("etrn.networks", "127.0.0.9");
    let relay = setup.start();
    for _ in 0..EACH {
        // A connection each: they are spread over the shards.
        let mut client = relay.client();
        assert!(client.deliver("a@source.example", &["r@waits.example"], &plain("etrn")).is("250 2.0.0"));
        assert!(client.deliver("a@source.example", &["r@other.example"], &plain("etrn")).is("250 2.0.0"));
    }
    let deferred = || relay.errors().matches(" deferred: 450").count() == 2 * EACH;
    assert!(wait_until(LONGEST, deferred), "{}", relay.errors());
    open.store(true, Ordering::SeqCst);
    assert!(relay.client().say("ETRN waits.example").is("459 4.7.1"));
    let mut peer = Client::connect_from(local(9), setup.address());
    assert!(peer.say("EHLO peer.example.com").text.contains("-ETRN\r\n"));
    let said = peer.say("ETRN waits.example");
    assert!(said.is("253 2.0.0 6 pending messages for node waits.example started"), "{said:?}");
    let mails = sink.wait_for(EACH, LONGEST);
    assert!(mails.iter().all(|mail| mail.recipients == ["r@waits.example"]), "{:?}", envelopes(&mails));
    let said = peer.say("ETRN nobody.example");
    assert!(said.is("251 2.0.0 No messages waiting"), "{said:?}");
    let said = peer.say("ETRN @other.example");
    assert!(said.is("252 2.0.0"), "{said:?}");
    assert_eq!(sink.wait_for(2 * EACH, LONGEST).len(), 2 * EACH);
    relay.stop();
}

fn queue(relay: &Relay, arguments: &[&str]) -> String {
    let http = relay.http().to_string();
    let output = ringpost(&[&["queue"], arguments, &["--http", &http]].concat());
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn of(mails: &[Mail], recipient: &str) -> usize {
    mails.iter().filter(|mail| mail.recipients == [recipient]).count()
}

/// QUE-14: a tenant is held and slowed down by the command line while it sends, over a restart too; the other tenant is not
/// concerned, and in the end every message has come once.
#[test]
fn tenants_are_held_and_slowed_down() {
    let sink = Sink::start();
    let setup = Setup::to(sink.address())
        .set("shards", 2)
        .set("listen.http", "127.0.0.1:0")
        .set("tenant.shop.networks", "127.0.0.4")
        .set("tenant.news.networks", "127.0.0.3");
    let mut relay = setup.start();
    let send = |tenant: u8, count: usize| {
        for _ in 0..count {
            let recipient = format!("to{tenant}@dest.example");
            let mut client = Client::connect_from(local(tenant), setup.address());
            assert!(client.deliver("a@source.example", &[&recipient], &plain("tenant")).is("250 2.0.0"));
        }
    };
    send(4, 1);
    sink.wait_for(1, LONGEST);
    assert_eq!(queue(&relay, &["hold", "--tenant", "shop"]), "hold: 0 jobs\n");
    send(4, 10);
    send(3, 10);
    sink.wait_for(11, LONGEST);
    assert_eq!(of(&sink.mails(), "to4@dest.example"), 1, "held");
    relay.stop();
    relay = setup.start();
    assert_eq!(queue(&relay, &["holds"]), "tenant shop\n");
    send(3, 1);
    sink.wait_for(12, LONGEST);
    assert_eq!(of(&sink.mails(), "to4@dest.example"), 1, "held over a restart");
    // Slow from here on: what was held goes at that rate.
    queue(&relay, &["rate", "--tenant", "shop", "--messages-per-second", "5"]);
    assert_eq!(queue(&relay, &["holds"]), "tenant shop\ntenant shop messages_per_second 5\n");
    let begun = Instant::now();
    assert_eq!(queue(&relay, &["release", "--tenant", "shop"]), "release: 10 jobs\n");
    send(3, 5);
    sink.wait_for(17 + 10, LONGEST);
    assert!(begun.elapsed() > Duration::from_secs(1), "ten messages at five a second took {:?}", begun.elapsed());
    let begun = Instant::now();
    send(4, 200);
    let slow = of(&sink.mails(), "to4@dest.example") - 11;
    let most = 5.0 * begun.elapsed().as_secs_f64() + 5.0;
    assert!((slow as f64) <= most, "{slow} came at five a second in {:?}", begun.elapsed());
    queue(&relay, &["rate", "--tenant", "shop", "--messages-per-second", "0"]);
    let mails = sink.wait_for(211 + 16, LONGEST);
    assert_eq!((of(&mails, "to4@dest.example"), of(&mails, "to3@dest.example")), (211, 16));
    assert_eq!(queue(&relay, &["holds"]), "");
    let http = relay.http().to_string();
    let refused = ringpost(&["queue", "hold", "--tenant", "nobody", "--http", &http]);
    assert!(!refused.status.success() && String::from_utf8_lossy(&refused.stderr).contains("is no tenant"));
    relay.stop();
}
