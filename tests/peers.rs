//! The relay among mail programs that nobody here wrote: they send to it, and it sends to them.
//!
//! Needs what `tests/setup` installs. A program that is missing fails its test.

#![cfg(feature = "runtime")]

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use common::mail::{assert_identical, cpython, plain, stuffed, take_received, torture, unstuffed};
use common::postfix::Postfix;
use common::programs::{self, Running, need, python, script, succeed};
use common::relay::Setup;
use common::sink::{Act, Sink};
use common::{free_address, free_port, wait_until};

const PROGRAM_LONGEST: Duration = Duration::from_secs(60);
const ARRIVAL_LONGEST: Duration = Duration::from_secs(20);

// ---- programs that send to the relay ----

/// SES-03, DAT-05, DAT-09, TRC-01, TRC-04.
#[test]
fn swaks_sends() {
    let swaks = need("swaks", "swaks");
    let sink = Sink::start();
    let setup = Setup::to(sink.address());
    let relay = setup.start();
    let message = plain("swaks");
    let file = setup.dir().join("message.eml");
    // It makes CRLF of LF, and doubles dots.
    let local = String::from_utf8([&message[..], b".dot\r\n..\r\n"].concat()).unwrap().replace("\r\n", "\n");
    fs::write(&file, &local).unwrap();
    let mut command = Command::new(swaks);
    command.args(["--server", "127.0.0.1", "--port", &relay.address().port().to_string()]);
    command.args(["--ehlo", "swaks.example.com", "--from", "swaks@example.com"]);
    command.args(["--to", "one@example.org,two@example.org", "--data"]).arg(&file);
    let talk = succeed(&mut command, PROGRAM_LONGEST);
    assert!(talk.contains("250 2.0.0"), "{talk}");
    let mail = sink.wait_for(1, ARRIVAL_LONGEST).remove(0);
    assert_eq!(mail.sender, "swaks@example.com");
    assert_eq!(mail.recipients, ["one@example.org", "two@example.org"]);
    // swaks ends data with an empty line of its own.
    let sent = local.replace("\n", "\r\n").into_bytes();
    let received = unstuffed(&mail.wire);
    let (trace, rest) = take_received(&received).unwrap();
    assert_eq!(String::from_utf8_lossy(rest).trim_end(), String::from_utf8_lossy(&sent).trim_end());
    let trace = String::from_utf8_lossy(trace);
    assert!(trace.contains("swaks.example.com") && trace.contains("with ESMTP"), "{trace}");
    assert!(!trace.contains("for <"), "no FOR with two recipients: {trace}");
    relay.stop();
}

/// DAT-05, DAT-08, DAT-09, EXT-01, EXT-03, SES-20, RTE-18.
#[test]
fn smtplib_sends_one_message_after_another() {
    let sink = Sink::start();
    let setup = Setup::to(sink.address());
    let relay = setup.start();
    let outgoing = setup.dir().join("outgoing");
    fs::create_dir(&outgoing).unwrap();
    // smtplib takes an empty message for one empty line.
    let messages: Vec<_> = torture().into_iter().filter(|(_, text)| !text.is_empty()).collect();
    for (index, (_, text)) in messages.iter().enumerate() {
        fs::write(outgoing.join(format!("{index:02}.eml")), text).unwrap();
    }
    let mut command = Command::new(python());
    command.arg(script("smtplib_send.py")).arg(relay.address().port().to_string()).arg(&outgoing);
    succeed(command.args(["lib@example.com", "a@example.org", "b@example.org", "c@example.org"]), PROGRAM_LONGEST);
    let mails = sink.wait_for(messages.len(), ARRIVAL_LONGEST);
    for (name, text) in &messages {
        let wire = stuffed(text);
        let mail = mails.iter().find(|mail| mail.wire.ends_with(&wire) && fits(&mail.wire, &wire));
        let mail = mail.unwrap_or_else(|| panic!("`{name}` did not arrive as it was"));
        assert_eq!(mail.recipients, ["a@example.org", "b@example.org", "c@example.org"], "{name}");
        assert_identical(&mail.wire, &wire, name);
    }
    relay.stop();
}

/// True if what stands before `sent` is one trace field.
fn fits(arrived: &[u8], sent: &[u8]) -> bool {
    let field = &arrived[..arrived.len() - sent.len()];
    take_received(field).is_some_and(|(_, rest)| rest.is_empty())
}

/// DAT-05, DAT-09.
#[test]
fn curl_sends() {
    let curl = need("curl", "curl");
    let sink = Sink::start();
    let setup = Setup::to(sink.address());
    let relay = setup.start();
    let text = [&plain("curl")[..], b".dot\r\n..two\r\n"].concat();
    let file = setup.dir().join("message.eml");
    fs::write(&file, &text).unwrap();
    let mut command = Command::new(curl);
    command.args(["--silent", "--show-error", "--max-time", "20"]);
    command.arg(format!("smtp://{}/curl.example.com", relay.address())).args(["--mail-from", "curl@example.com"]);
    command.args(["--mail-rcpt", "x@example.org", "--mail-rcpt", "y@example.net", "--upload-file"]).arg(&file);
    succeed(&mut command, PROGRAM_LONGEST);
    // Two domains are two transactions (RTE-19), even to one next hop.
    let mails = sink.wait_for(2, ARRIVAL_LONGEST);
    for mail in &mails {
        assert_identical(&mail.wire, &stuffed(&text), "curl");
    }
    let recipients: BTreeSet<_> = mails.iter().flat_map(|mail| mail.recipients.clone()).collect();
    assert_eq!(recipients, BTreeSet::from(["x@example.org".to_owned(), "y@example.net".to_owned()]));
    relay.stop();
}

/// QUE-01, SES-11, PIP-01: each of 2,000 messages, with a connection each and over kept connections, and none twice.
#[test]
fn smtp_source_sends_thousands() {
    let source = need("smtp-source", "postfix");
    let sink = Sink::start();
    let setup = Setup::to(sink.address()).set("shards", 2);
    let relay = setup.start();
    let mut expected = BTreeSet::new();
    for (domain, keep) in [("kept.example.org", true), ("fresh.example.org", false)] {
        let mut command = Command::new(&source);
        command.args(["-s", "20", "-l", "10240", "-m", "2000", "-N", "-f", "source@example.com"]);
        command.arg("-t").arg(format!("user@{domain}"));
        if keep {
            command.arg("-d");
        }
        succeed(command.arg(format!("127.0.0.1:{}", relay.address().port())), PROGRAM_LONGEST);
        expected.extend((1..=2000).map(|number| format!("{number}user@{domain}")));
    }
    let mails = sink.wait_for(4000, ARRIVAL_LONGEST);
    let found: BTreeSet<_> = mails.iter().flat_map(|mail| mail.recipients.clone()).collect();
    assert_eq!(found.len(), 4000, "{:?}", found.difference(&expected).take(3).collect::<Vec<_>>());
    for mail in &mails {
        let (_, body) = take_received(&mail.wire).expect("a trace field");
        assert!((10_000..11_000).contains(&body.len()), "{} bytes", body.len());
    }
    relay.stop();
}

// ---- programs that the relay sends to ----

/// RTE-20, PIP-04: everything arrives once at a next hop that only counts.
#[test]
fn smtp_sink_takes() {
    let source = need("smtp-source", "postfix");
    let address = free_address();
    let sink = smtp_sink(&["-c"], address);
    let setup = Setup::to(address);
    let relay = setup.start();
    let mut command = Command::new(source);
    command.args([
        "-s",
        "20",
        "-l",
        "4096",
        "-m",
        "1000",
        "-r",
        "3",
        "-d",
        "-f",
        "a@example.com",
        "-t",
        "b@example.org",
    ]);
    succeed(command.arg(format!("127.0.0.1:{}", relay.address().port())), PROGRAM_LONGEST);
    // A stop drains what is on its way; the rest, if there is any, goes with the next life.
    await_empty(&setup.queue());
    relay.stop();
    let counters = sink.end();
    // `sess=21 quit=20 mesg=1000`, over and over in one line.
    let last = counters.rsplit('\r').find(|text| !text.trim().is_empty()).unwrap_or_default();
    assert!(last.trim().ends_with("mesg=1000"), "{last:?}");
}

/// Starts Postfix's smtp-sink and waits until it listens.
fn smtp_sink(options: &[&str], address: SocketAddr) -> Running {
    let mut command = Command::new(need("smtp-sink", "postfix"));
    if programs::is_root() {
        // It insists on being someone else.
        command.args(["-u", "nobody"]);
    }
    let sink = Running::start(command.args(options).args([&address.to_string(), "128"]));
    assert!(
        wait_until(ARRIVAL_LONGEST, || TcpStream::connect(address).is_ok()),
        "smtp-sink {options:?} does not listen"
    );
    sink
}

/// Waits until nothing is left in a queue.
fn await_empty(queue: &Path) {
    let mut last = String::new();
    let empty = wait_until(ARRIVAL_LONGEST, || {
        let output = common::relay::ringpost(&["queue", "ls", "--json", "--dir", queue.to_str().unwrap()]);
        last = programs::shown(&output.stdout, &output.stderr);
        std::thread::sleep(Duration::from_millis(100));
        output.status.success()
            && serde_json::from_slice::<serde_json::Value>(&output.stdout)
                .is_ok_and(|v| v.as_array().is_some_and(Vec::is_empty))
    });
    assert!(empty, "the queue does not become empty: {last}");
}

/// SIZ-10, PIP-10, RTE-13, RTE-14, RTE-17, RTE-21, QUE-03, QUE-06: next hops that fail at every point, each in its own
/// way; when they are well again everything has arrived, once, as it was. (Where a next hop takes a message and hangs
/// up before it says so, a second copy is what the protocol demands, RTE-16; this one drops what it did not confirm.)
#[test]
fn smtp_sink_fails_and_recovers() {
    let faults: &[(&str, &str)] = &[
        ("-r", "CONNECT"),
        ("-r", "EHLO,HELO"),
        ("-r", "MAIL"),
        ("-r", "RCPT"),
        ("-r", "DATA"),
        ("-r", "."),
        ("-q", "CONNECT"),
        ("-q", "EHLO"),
        ("-q", "MAIL"),
        ("-q", "RCPT"),
        ("-q", "DATA"),
        ("-q", "."),
        ("-Q", "EHLO"),
        ("-Q", "MAIL"),
        ("-Q", "RCPT"),
        ("-Q", "DATA"),
        ("-Q", "."),
    ];
    let mut setup = Setup::bare();
    let mut sick = Vec::new();
    for (index, (option, commands)) in faults.iter().enumerate() {
        let address = free_address();
        sick.push((address, smtp_sink(&[option, commands], address)));
        setup = setup.set(&format!("route.domains.d{index}.example.org"), address);
    }
    let relay = setup.start();
    let mut client = relay.client();
    let each = 5;
    for number in 0..each {
        for index in 0..faults.len() {
            let recipients = [format!("a{number}@d{index}.example.org"), format!("b{number}@d{index}.example.org")];
            let recipients: Vec<&str> = recipients.iter().map(String::as_str).collect();
            let reply = client.deliver("f@example.com", &recipients, &plain(&format!("fault-{index}-{number}")));
            assert!(reply.is("250 2.0.0"), "{reply:?}");
        }
    }
    // Time for an attempt or two.
    std::thread::sleep(Duration::from_millis(1500));
    let well: Vec<Sink> = sick
        .into_iter()
        .map(|(address, running)| {
            drop(running);
            Sink::at(address, |_, _| Act::Usual)
        })
        .collect();
    for (index, sink) in well.iter().enumerate() {
        let fault = faults[index];
        let mails = sink_wait(sink, each * 2, &format!("after {fault:?}"));
        for number in 0..each {
            for name in ["a", "b"] {
                let address = format!("{name}{number}@d{index}.example.org");
                let mine: Vec<_> = mails.iter().filter(|mail| mail.recipients.contains(&address)).collect();
                assert_eq!(mine.len(), 1, "{address} after {fault:?}");
                assert_identical(&mine[0].wire, &plain(&format!("fault-{index}-{number}")), &address);
            }
        }
    }
    relay.stop();
}

/// Waits until so many recipients have come.
fn sink_wait(sink: &Sink, recipients: usize, what: &str) -> Vec<common::sink::Mail> {
    let count = || sink.mails().iter().map(|mail| mail.recipients.len()).sum::<usize>();
    let enough = wait_until(ARRIVAL_LONGEST, || count() >= recipients);
    assert!(enough, "{} of {recipients} recipients {what}", count());
    sink.mails()
}

/// DSN-01, DSN-02, DSN-03, DSN-04, DSN-05, DSN-06, DSN-11, DSN-13, RTE-14, BLK-11: a next hop refuses for good; the
/// sender gets one report per message, which Python's email package reads without a complaint.
#[test]
fn smtp_sink_refuses_and_the_sender_is_told() {
    let refusing = free_address();
    let reply = "550 5.1.1 no such user here";
    let _refuser = smtp_sink(&["-f", "RCPT", "-B", reply], refusing);
    let senders = Sink::start();
    let setup = Setup::to(refusing).set("route.domains.example.com", senders.address());
    let relay = setup.start();
    let mut client = relay.client();
    let message = [&plain("to-nobody")[..], b"a secret body\r\n"].concat();
    assert!(client.deliver("teller@example.com", &["x@example.org", "y@example.org"], &message).is("250 2.0.0"));
    assert!(client.deliver("", &["z@example.org"], &message).is("250 2.0.0"));
    let mail = senders.wait_for(1, ARRIVAL_LONGEST).remove(0);
    assert_eq!((&*mail.sender, &mail.recipients[..]), ("", &["teller@example.com".to_owned()][..]));
    let report = read_report(&setup, &mail.wire);
    assert_eq!(report["type"], "multipart/report");
    assert_eq!(report["report_type"], "delivery-status");
    assert_eq!(report["defects"], serde_json::json!([]));
    assert_eq!(report["parts"][1], "message/delivery-status");
    assert_eq!(report["auto_submitted"], "auto-replied");
    assert_eq!(report["headers"], serde_json::json!(["From", "Date", "Message-ID", "Subject", "Auto-Submitted"]));
    assert_eq!(report["message"]["Reporting-MTA"], "dns; relay.example.com");
    let recipients = report["recipients"].as_array().unwrap();
    assert_eq!(recipients.len(), 2, "{report}");
    for (block, address) in recipients.iter().zip(["x@example.org", "y@example.org"]) {
        let field = |name: &str| block[name].as_str().unwrap_or_default().to_owned();
        assert!(field("Final-Recipient").contains(address), "{block}");
        assert_eq!((field("Action"), field("Status")), ("failed".into(), "5.1.1".into()), "{block}");
        assert!(field("Diagnostic-Code").contains("no such user here"), "{block}");
    }
    let original = report["original"].as_str().unwrap();
    assert!(original.contains("to-nobody") && !original.contains("a secret body"), "headers only: {original}");
    // Nothing is told about the message without a sender, and nothing is left.
    await_empty(&setup.queue());
    assert_eq!(senders.mails().len(), 1);
    relay.stop();
}

fn read_report(setup: &Setup, wire: &[u8]) -> serde_json::Value {
    let file = setup.dir().join("report.eml");
    fs::write(&file, unstuffed(wire)).unwrap();
    let text = succeed(Command::new(python()).arg(script("read_report.py")).arg(&file), PROGRAM_LONGEST);
    serde_json::from_str(&text).unwrap()
}

/// QUE-13, DSN-05: a next hop that never gets well; after the set time the sender is told once, and the message is gone.
#[test]
fn what_is_deferred_too_long_expires() {
    let nowhere = free_address();
    let senders = Sink::start();
    let setup = Setup::to(nowhere).set("route.domains.example.com", senders.address()).set("retry.expire_ms", 1500);
    let relay = setup.start();
    assert!(relay.client().deliver("teller@example.com", &["x@example.org"], &plain("late")).is("250 2.0.0"));
    let mail = senders.wait_for(1, ARRIVAL_LONGEST).remove(0);
    let report = read_report(&setup, &mail.wire);
    let status = report["recipients"][0]["Status"].as_str().unwrap();
    // 4.4.7 by RFC 3463's letter; a failed Action with a class 4 status would contradict itself, so 5.4.7 is as good.
    assert!(["4.4.7", "5.4.7"].contains(&status), "{report}");
    await_empty(&setup.queue());
    relay.stop();
}

/// DAT-06, DAT-08, DAT-09, EXT-02, RTE-12: aiosmtpd keeps every message byte by byte as it was sent.
#[test]
fn aiosmtpd_takes() {
    let port = free_port();
    let kept = tempfile::TempDir::with_prefix("ringpost-test-").unwrap();
    let mut command = Command::new(python());
    command.arg(script("aiosmtpd_sink.py")).arg(port.to_string()).arg(kept.path());
    let _sink = Running::start(&mut command);
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    assert!(wait_until(ARRIVAL_LONGEST, || TcpStream::connect(address).is_ok()), "aiosmtpd does not listen");
    let setup = Setup::to(address);
    let relay = setup.start();
    let mut client = relay.client();
    let messages = torture();
    for (index, (name, text)) in messages.iter().enumerate() {
        let reply = client.deliver("s@example.com", &[&format!("r{index}@example.org")], &stuffed(text));
        assert!(reply.is("250 2.0.0"), "{name}: {reply:?}");
    }
    let facts = |kept: &Path| -> Vec<PathBuf> {
        let all = fs::read_dir(kept).unwrap().flatten().map(|entry| entry.path());
        all.filter(|path| path.extension().is_some_and(|ending| ending == "json")).collect()
    };
    assert!(wait_until(ARRIVAL_LONGEST, || facts(kept.path()).len() >= messages.len()), "{:?}", facts(kept.path()));
    let mut seen = BTreeSet::new();
    for path in facts(kept.path()) {
        let facts: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        assert_eq!(
            (facts["sender"].as_str(), facts["hello"].as_str()),
            (Some("s@example.com"), Some("relay.example.com"))
        );
        let recipient = facts["recipients"][0].as_str().unwrap();
        let index: usize = recipient[1..recipient.find('@').unwrap()].parse().unwrap();
        assert!(seen.insert(index), "{recipient} came twice");
        let text = fs::read(path.with_extension("eml")).unwrap();
        assert_identical(&text, &messages[index].1, &messages[index].0);
        let size = format!("SIZE={}", text.len());
        assert!(facts["options"].as_array().unwrap().iter().any(|option| option == &*size), "{facts}: not {size}");
    }
    relay.stop();
}

// ---- Postfix, whole ----

/// FND-01, DAT-09, TRC-01, RTE-20, RTE-26: relay, Postfix, relay, sink; so Postfix's server takes from us and its client
/// gives to us. Each adds its trace field and changes nothing else.
#[test]
fn postfix_takes_and_gives() {
    let sink = Sink::start();
    let last_setup = Setup::to(sink.address()).set("relay.hostname", "last.example.com");
    let last = last_setup.start();
    let Some(postfix) = Postfix::start(last.address().port(), "", "") else { return };
    let first_setup = Setup::to(postfix.address());
    let first = first_setup.start();
    let mut client = first.client();
    let mut messages: Vec<Vec<u8>> = (0..50).map(|number| plain(&format!("chain-{number}"))).collect();
    let full = |body: &[u8]| [&plain("torture")[..], body].concat();
    messages.push(full(b".\r\n..\r\n.x\r\n"));
    messages.push(full("Grüße\r\n".as_bytes()));
    messages.push(full(&[&vec![b'l'; 998][..], b"\r\n"].concat()));
    for (index, text) in messages.iter().enumerate() {
        let reply = client.deliver("s@example.com", &[&format!("r{index}@example.org")], &stuffed(text));
        assert!(reply.is("250 2.0.0"), "{reply:?}");
    }
    let mails = sink.wait_for(messages.len(), PROGRAM_LONGEST);
    for mail in &mails {
        let recipient = &mail.recipients[0];
        let index: usize = recipient[1..recipient.find('@').unwrap()].parse().unwrap();
        let wire = stuffed(&messages[index]);
        let mut rest = &mail.wire[..];
        for by in ["by last.example.com", "by postfix.example.com", "by relay.example.com"] {
            let (field, behind) = take_received(rest).unwrap_or_else(|| panic!("no trace field {by} for {recipient}"));
            assert!(String::from_utf8_lossy(field).contains(by), "{}", field.escape_ascii());
            rest = behind;
        }
        assert!(rest == wire, "{recipient}: {}", rest.escape_ascii());
    }
    drop(postfix);
    first.stop();
    last.stop();
}

// ---- real messages ----

/// DAT-05, DAT-06, DAT-07, DAT-08, DAT-09, DAT-11, TRC-01, TRC-02, TRC-03, SIZ-06: CPython's test mail and messages made
/// to be hard arrive octet for octet under one new trace field.
#[test]
fn real_messages_arrive_as_they_were() {
    let sink = Sink::start();
    let setup = Setup::to(sink.address());
    let relay = setup.start();
    let mut client = relay.client();
    let messages: Vec<_> = cpython().into_iter().chain(torture()).collect();
    assert!(messages.len() > 50, "{} messages", messages.len());
    for (index, (name, text)) in messages.iter().enumerate() {
        let reply = client.deliver("s@example.com", &[&format!("r{index}@example.org")], &stuffed(text));
        assert!(reply.is("250 2.0.0"), "{name}: {reply:?}");
    }
    let mails = sink.wait_for(messages.len(), ARRIVAL_LONGEST);
    for mail in &mails {
        let recipient = &mail.recipients[0];
        let index: usize = recipient[1..recipient.find('@').unwrap()].parse().unwrap();
        let (name, text) = &messages[index];
        let field = assert_identical(&mail.wire, &stuffed(text), name);
        for part in ["from client.example.com", "[127.0.0.1]", "by relay.example.com", "with ESMTP", "+0000", recipient]
        {
            assert!(field.contains(part), "no `{part}` in {field:?}");
        }
    }
    relay.stop();
}

/// SIZ-06, DAT-03, SIZ-07: what cannot be sent on as it is, is refused whole, and the session goes on.
#[test]
fn what_cannot_arrive_as_it_is_is_refused() {
    let sink = Sink::start();
    let setup = Setup::to(sink.address());
    let relay = setup.start();
    let mut client = relay.client();
    let long = [&plain("long")[..], &vec![b'x'; 999], b"\r\n"].concat();
    let bad: [(&str, &[u8]); 4] =
        [("a long line", &long), ("a bare LF", b"x\ny\r\n"), ("a bare CR", b"x\ry\r\n"), ("LF dot CRLF", b"x\n.\r\n")];
    for (name, wire) in bad {
        let reply = client.deliver("s@example.com", &["r@example.org"], wire);
        assert_eq!(reply.code / 100, 5, "{name}: {reply:?}");
    }
    assert!(client.deliver("s@example.com", &["r@example.org"], &plain("good")).is("250 2.0.0"));
    let mails = sink.wait_for(1, ARRIVAL_LONGEST);
    assert_identical(&mails[0].wire, &plain("good"), "the good one");
    relay.stop();
}
