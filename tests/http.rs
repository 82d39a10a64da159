//! HTTP end to end: curl and Python inject mail, watch, and are refused.
//!
//! Needs what `tests/setup` installs. A program that is missing fails its test.

#![cfg(feature = "runtime")]

mod common;

use std::net::{Ipv4Addr, SocketAddr};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use common::programs::{need, python, script, succeed};
use common::relay::{Relay, Setup, ringpost};
use common::sink::Sink;
use common::wait_until;
use loadgen::clock::Clock;
use loadgen::http::{HttpPlan, JSON_TEMPLATE, Shape};
use loadgen::ledger::Ledger;
use loadgen::send::{SendPlan, Sender};
use loadgen::sink::{Book, SinkPlan};

const PROGRAM_LONGEST: Duration = Duration::from_secs(120);
const ARRIVAL_LONGEST: Duration = Duration::from_secs(60);

fn curl(relay: &Relay, path: &str, more: &[&str]) -> String {
    let mut command = Command::new(need("curl", "curl"));
    command.args(["--silent", "--show-error", "--max-time", "60", "--write-out", "\n%{http_code}"]).args(more);
    succeed(command.arg(format!("http://{}{path}", relay.http())), PROGRAM_LONGEST)
}

fn text(wire: &[u8]) -> String {
    String::from_utf8_lossy(wire).into_owned()
}

/// FND-09: JSON and whole messages become mail; the relay tells of them.
#[test]
fn curl_injects_and_watches() {
    let sink = Sink::start();
    let setup = Setup::to(sink.address()).set("listen.http", "127.0.0.1:0").set("shards", 2);
    let relay = setup.start();
    let letter = r#"{"from":"Ann <a@example.com>","to":["b@example.org"],"subject":"hello","text":".one\ntwo\n"}"#;
    let answer = curl(&relay, "/v1/messages", &["-H", "Content-Type: application/json", "-d", letter]);
    assert!(answer.starts_with(r#"{"messages":[{"id":""#) && answer.ends_with("\n202"), "{answer}");
    let id = answer.split('"').nth(5).unwrap().to_owned();
    let raw = setup.dir().join("raw.eml");
    std::fs::write(&raw, "Subject: raw\r\n\r\n.dot\r\nno end").unwrap();
    let answer = curl(
        &relay,
        "/v1/messages?from=a@example.com&to=c@example.org&to=d@example.org",
        &["-H", "Content-Type: message/rfc822", "--data-binary", &format!("@{}", raw.display())],
    );
    assert!(answer.ends_with("\n202"), "{answer}");
    let mails = sink.wait_for(2, ARRIVAL_LONGEST);
    assert_eq!(mails.len(), 2);
    let composed = mails.iter().map(|mail| text(&mail.wire)).find(|wire| wire.contains("hello")).expect("it arrived");
    let trace = format!("from unknown ([127.0.0.1])\r\n\tby relay.example.com (Ringpost) with HTTP\r\n\tid {id}\r\n");
    assert!(composed.contains(&trace) && composed.contains("\r\n..one\r\ntwo\r\n"), "{composed}");
    let raw = mails.iter().find(|mail| text(&mail.wire).contains("Subject: raw")).expect("it arrived");
    assert_eq!(raw.recipients, ["c@example.org", "d@example.org"]);
    assert!(text(&raw.wire).ends_with("\r\n..dot\r\nno end\r\n"), "{}", text(&raw.wire));
    assert_eq!(curl(&relay, "/health", &[]), "{\"shards\":2,\"status\":\"ok\"}\n200");
    let stats = curl(&relay, "/v1/stats", &[]);
    assert!(stats.contains(r#""injected_messages":2"#) && stats.contains(r#""shard":1"#), "{stats}");
    let metrics = curl(&relay, "/metrics", &[]);
    for line in [
        "# HELP ringpost_refused_by_log ",
        "# TYPE ringpost_commit_seconds histogram",
        "ringpost_injected_messages_total{shard=\"1\"} 1",
        "ringpost_silent_shards 0",
        "# EOF",
    ] {
        assert!(metrics.contains(line), "{line:?} is not in {metrics}");
    }
    relay.stop();
}

/// Batches, templates, idempotency keys, limits and wrong requests, by somebody else's HTTP client.
#[test]
fn python_injects() {
    let sink = Sink::start();
    let setup = Setup::to(sink.address())
        .set("listen.http", "127.0.0.1:0")
        .set("shards", 2)
        .set("relay.message_bytes", 1 << 20)
        .set("site.default.recipients", 1);
    let relay = setup.start();
    let mut command = Command::new(python());
    command.arg(script("http_client.py")).arg(relay.http().port().to_string());
    let expected: usize = succeed(&mut command, PROGRAM_LONGEST).trim().parse().expect("it says how many were taken");
    let mails = sink.wait_for(expected, ARRIVAL_LONGEST);
    assert_eq!(mails.len(), expected, "what was refused arrived too, or something twice");
    let mut personal: Vec<String> =
        mails.iter().map(|mail| text(&mail.wire)).filter(|wire| wire.contains("Dear ")).collect();
    personal.sort();
    personal.dedup();
    assert!(personal.len() >= 200, "each recipient has a message of its own");
    relay.stop();
}

/// FND-09: the load generator's own client, in each of its shapes: what got 202 arrives whole, and once.
#[test]
fn the_load_generator_injects() {
    let clock = Clock::start();
    for (run, shape) in [Shape::Query, Shape::Fields, Shape::Json(JSON_TEMPLATE.into())].into_iter().enumerate() {
        let ledger = Arc::new(Ledger::new(1 + run as u64, 3));
        let sink = SinkPlan::new(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
        let sink = loadgen::sink::Sink::start(&sink, Book::of(ledger.clone()), clock).unwrap();
        let setup = Setup::to(sink.addresses()[0]).set("listen.http", "127.0.0.1:0").set("shards", 2);
        let relay = setup.start();
        let http = HttpPlan::new(&format!("http://{}/v1/messages", relay.http()), shape, Vec::new()).unwrap();
        let sizes = "1KiB:90,300KiB:10".parse().unwrap();
        let plan =
            SendPlan { sessions: 8, messages: 400, sizes, recipients: 3, http: Some(http), ..SendPlan::default() };
        let sender = Sender::start(&plan, relay.http(), ledger.clone(), clock).unwrap();
        assert!(wait_until(PROGRAM_LONGEST, || sender.is_done()), "no answers: {:?}", sender.counts());
        let counts = sender.finish().0;
        assert!(wait_until(ARRIVAL_LONGEST, || ledger.lost().is_empty()), "{:?}", ledger.tally());
        relay.stop();
        let tally = ledger.tally();
        assert_eq!((counts.acknowledged, tally.acknowledged, tally.arrived), (400, 1200, 1200), "{tally:?}");
        assert_eq!((tally.corrupted, tally.duplicated, tally.bounced), (0, 0, 0), "{tally:?}");
    }
}

/// QUE-01: what was answered 202 survives the end of the process, and arrives once.
#[test]
fn what_was_answered_202_survives_a_kill() {
    let sink = Sink::start();
    let gone = common::free_address();
    let setup = Setup::to(gone).set("listen.http", "127.0.0.1:0").set("retry.site_longest_ms", 300);
    let relay = setup.start();
    let mut command = Command::new(python());
    command.args([&script("http_load.py"), &relay.http().port().to_string().into(), &"300".into()]);
    let acknowledged = succeed(&mut command, PROGRAM_LONGEST);
    relay.kill();
    let setup = setup.set("route.default", sink.address());
    let relay = setup.start();
    let numbers: Vec<&str> = acknowledged.split_whitespace().collect();
    assert_eq!(numbers.len(), 300);
    let mails = sink.wait_for(numbers.len(), ARRIVAL_LONGEST);
    assert_eq!(mails.len(), numbers.len());
    for number in numbers {
        let wanted = format!("Subject: number {number}\r\n");
        assert_eq!(mails.iter().filter(|mail| text(&mail.wire).contains(&wanted)).count(), 1, "{wanted}");
    }
    relay.stop();
}

/// Who may not is told so, and a page of another site never may.
#[test]
fn others_are_refused() {
    let sink = Sink::start();
    let setup = Setup::to(sink.address())
        .set("listen.http", "127.0.0.1:0")
        .set("relay.networks", "192.0.2.0/24")
        .set("http.watchers", "192.0.2.0/24");
    let relay = setup.start();
    let letter = r#"{"from":"a@example.com","to":"b@example.org","text":"x"}"#;
    let json = ["-H", "Content-Type: application/json", "-d", letter];
    let answer = curl(&relay, "/v1/messages", &json);
    assert!(answer.contains("550 5.7.1") && answer.ends_with("\n403"), "{answer}");
    for path in ["/metrics", "/v1/stats", "/v1/sites"] {
        assert!(curl(&relay, path, &[]).ends_with("\n403"), "{path}");
    }
    assert!(curl(&relay, "/health", &[]).ends_with("\n200"));
    assert!(curl(&relay, "/health", &["-H", "Origin: https://page.example"]).ends_with("\n403"));
    assert!(curl(&relay, "/", &[]).ends_with("\n404"));
    assert!(curl(&relay, "/v1/messages", &[]).ends_with("\n405"));
    assert!(sink.mails().is_empty());
    relay.stop();
}

/// QUE-14: orders over HTTP and by the command line take effect at once, survive a kill, and lose nothing.
#[test]
fn operators_hold_release_expire_and_retry() {
    let sink = Sink::start();
    let setup = Setup::to(sink.address()).set("listen.http", "127.0.0.1:0").set("shards", 2);
    let relay = setup.start();
    let ordered = |relay: &Relay, arguments: &[&str]| {
        let output = ringpost(&[arguments, &["--http", &relay.http().to_string()]].concat());
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let send = |relay: &Relay, to: &str| {
        let reply = relay.client().deliver("sender@example.net", &[to], b"Subject: x\r\n\r\nx\r\n");
        assert_eq!(reply.code, 250, "{reply:?}");
        reply.text.trim_end().rsplit(' ').next().unwrap().to_owned()
    };
    let held = |wanted: &[&str]| {
        let mut waiting = Vec::new();
        assert!(
            wait_until(ARRIVAL_LONGEST, || {
                let listed = ringpost(&["queue", "ls", "--dir", setup.queue().to_str().unwrap()]);
                let listed = String::from_utf8(listed.stdout).unwrap();
                // A line for each message, and one below it for each of its recipients.
                waiting = listed.lines().filter(|line| !line.starts_with(' ')).map(str::to_owned).collect();
                waiting.len() == wanted.len() && wanted.iter().all(|id| waiting.iter().any(|line| line.contains(id)))
            }),
            "want {wanted:?} in {waiting:?}"
        );
    };
    assert_eq!(ordered(&relay, &["queue", "hold", "--domain", "Held.Example"]), "hold: 0 jobs\n");
    let first = send(&relay, "a@held.example");
    let second = send(&relay, "b@held.example");
    send(&relay, "c@free.example");
    assert_eq!(sink.wait_for(1, ARRIVAL_LONGEST).len(), 1);
    held(&[&first, &second]);
    assert_eq!(ordered(&relay, &["queue", "holds"]), "domain held.example\n");
    relay.kill();
    let relay = setup.start();
    send(&relay, "d@free.example");
    assert_eq!(sink.wait_for(2, ARRIVAL_LONGEST).len(), 2, "what is held is held after a kill");
    assert_eq!(ordered(&relay, &["queue", "hold", "--message", &first]), "hold: 1 jobs\n");
    assert_eq!(ordered(&relay, &["queue", "release", "--domain", "held.example"]), "release: 2 jobs\n");
    let mails = sink.wait_for(3, ARRIVAL_LONGEST);
    assert_eq!((mails.len(), &*mails[2].recipients), (3, &["b@held.example".to_owned()][..]));
    assert_eq!(ordered(&relay, &["queue", "expire", "--message", &first]), "expire: 1 jobs\n");
    let mails = sink.wait_for(4, ARRIVAL_LONGEST);
    assert_eq!(mails[3].recipients, ["sender@example.net"]);
    assert!(text(&mails[3].wire).contains("5.4.7 Given up by the operator"), "{}", text(&mails[3].wire));
    held(&[]);
    let site = format!("smarthost {}", sink.address());
    ordered(&relay, &["queue", "hold", "--site", &site]);
    let id = send(&relay, "e@free.example");
    let listed = ordered(&relay, &["sites"]);
    assert!(listed.contains(&site) && listed.contains("held"), "{listed}");
    held(&[&id]);
    ordered(&relay, &["queue", "release", "--site", &site]);
    assert_eq!(sink.wait_for(5, ARRIVAL_LONGEST).len(), 5);
    ordered(&relay, &["queue", "retry", "--site", &site]);
    let wrong = ringpost(&["queue", "hold", "--message", "nonsense", "--http", &relay.http().to_string()]);
    assert_eq!(wrong.status.code(), Some(1));
    assert_eq!(ringpost(&["queue", "hold"]).status.code(), Some(2));
    relay.stop();
}
