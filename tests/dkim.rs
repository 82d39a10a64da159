//! DKIM over the real program: messages that make canonicalization hard go through the relay to a sink, and verifiers that
//! nobody here wrote judge what came out.

#![cfg(feature = "runtime")]

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use common::mail::unstuffed;
use common::office::Office;
use common::programs::{need, python, script, shown, succeed};
use common::relay::{Setup, ringpost};
use common::sink::{Act, Mail, Sink};
use common::zones::{Bed, Signing, Zone};

const ARRIVAL_LONGEST: Duration = Duration::from_secs(60);
const PROGRAM_LONGEST: Duration = Duration::from_secs(120);

/// A key as openssl makes it, in the directory of a setup.
fn make_key(setup: &Setup, name: &str, options: &[&str]) -> PathBuf {
    let path = setup.dir().join(format!("{name}.pem"));
    succeed(Command::new(need("openssl", "openssl")).args(options).arg("-out").arg(&path), PROGRAM_LONGEST);
    path
}

const RSA_2048: &[&str] = &["genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"];
const ED25519: &[&str] = &["genpkey", "-algorithm", "ED25519"];

/// The setup with a key for a domain.
fn with_key(setup: Setup, name: &str, domain: &str, options: &[&str]) -> Setup {
    let path = make_key(&setup, name, options);
    let set = |setup: Setup, what: &str, value: &str| setup.set(&format!("dkim.{name}.{what}"), value);
    let setup = set(setup, "domain", domain);
    let setup = set(setup, "selector", name);
    set(setup, "key", &path.display().to_string())
}

/// With one key of each kind for example.com, and one for the relay's own name.
fn with_keys(setup: Setup) -> Setup {
    let setup = with_key(setup, "rsa", "example.com", RSA_2048);
    let setup = with_key(setup, "ed", "example.com", ED25519);
    with_key(setup, "own", "relay.example.com", ED25519)
}

/// What DNS has to say, as `ringpost dkim` prints it for the setup, in lines of name and text.
fn records(setup: &Setup) -> PathBuf {
    let arguments = setup.arguments();
    let mut arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    arguments[0] = "dkim";
    let output = ringpost(&arguments);
    assert!(output.status.success(), "{}", shown(&output.stdout, &output.stderr));
    let mut text = String::new();
    for line in String::from_utf8(output.stdout).unwrap().lines() {
        let (name, value) = line.split_once(". IN TXT ( ").unwrap();
        let strings: Vec<&str> = value.split('"').skip(1).step_by(2).collect();
        assert!(strings.iter().all(|string| string.len() <= 255), "{line}");
        text += &format!("{name} {}\n", strings.concat());
    }
    let path = setup.dir().join("records");
    fs::write(&path, text).unwrap();
    path
}

/// A mail as its author would see it.
fn text_of(mail: &Mail) -> Vec<u8> {
    if mail.chunked { mail.wire.clone() } else { unstuffed(&mail.wire) }
}

/// Writes mails to files.
fn files(dir: &Path, mails: &[Mail]) -> Vec<PathBuf> {
    let write = |(number, mail): (usize, &Mail)| {
        let path = dir.join(format!("mail-{number}"));
        fs::write(&path, text_of(mail)).unwrap();
        path
    };
    mails.iter().enumerate().map(write).collect()
}

/// What a verifier says: of each file, how many signatures there are and how many hold.
fn verdicts(command: &mut Command, records: &Path, files: &[PathBuf]) -> Vec<(usize, usize)> {
    let said = succeed(command.arg(records).args(files), PROGRAM_LONGEST);
    let verdict = |line: &str| {
        let words: Vec<&str> = line.split(' ').collect();
        (words[1].parse().unwrap(), words[2].parse().unwrap())
    };
    said.lines().map(verdict).collect()
}

/// BLK-01: dkimpy, mailauth and OpenDKIM find `count` signatures in each of these mails, and all of them hold.
fn all_hold(setup: &Setup, mails: &[Mail], count: usize) {
    let (records, files) = (records(setup), files(setup.dir(), mails));
    let wanted = vec![(count, count); files.len()];
    let dkimpy = verdicts(Command::new(python()).arg(script("dkimpy_verify.py")), &records, &files);
    assert_eq!(dkimpy, wanted, "dkimpy");
    let node = need("node", "nodejs");
    let mailauth = verdicts(Command::new(node).arg(script("mailauth_verify.js")), &records, &files);
    assert_eq!(mailauth, wanted, "mailauth");
    let configuration = setup.dir().join("opendkim.conf");
    let text = format!("Mode v\nTestPublicKeys {}\nSyslog no\nInternalHosts /dev/null\n", records.display());
    fs::write(&configuration, text).unwrap();
    for (file, mail) in files.iter().zip(mails) {
        for alone in each_alone(&text_of(mail)) {
            fs::write(file, alone).unwrap();
            let mut command = Command::new(need("opendkim", "opendkim"));
            let said = succeed(command.arg("-x").arg(&configuration).arg("-t").arg(file), PROGRAM_LONGEST);
            assert!(said.contains("verification (s=") && said.contains("succeeded"), "OpenDKIM: {said}");
        }
    }
}

/// A message under each of its signatures alone, with its last line ended: OpenDKIM reads lines, and tells of the best signature.
fn each_alone(text: &[u8]) -> Vec<Vec<u8>> {
    let mut rest = text;
    let mut fields = Vec::new();
    while rest.starts_with(b"DKIM-Signature: ") {
        let end = rest.windows(3).position(|at| at.starts_with(b"\r\n") && at[2] != b'\t').unwrap() + 2;
        fields.push(&rest[..end]);
        rest = &rest[end..];
    }
    let ending = if rest.ends_with(b"\r\n") { &b""[..] } else { b"\r\n" };
    fields.iter().map(|field| [field, rest, ending].concat()).collect()
}

/// Messages by DATA, in wire form.
fn hard_messages() -> Vec<Vec<u8>> {
    let head = "From: Author <author@example.com>\r\nTo: to@example.org\r\nDate: Tue, 24 Nov 2026 01:22:08 +0000\r\n\
        Message-ID: <1@example.com>\r\n";
    let long: String = (0..60).map(|number| format!("\r\n <{number}.{number}@example.com>")).collect();
    let mut messages = vec![
        format!("{head}Subject: plain\r\n\r\ntext\r\n"),
        format!("{head}Subject: folded\r\n \t over\r\n\tthree   lines \t\r\nX-Empty:\r\n\r\ntext\r\n"),
        format!("{head}Subject: a\r\nSubject: b\r\nTo: other@example.org\r\nCC: old@example.org\r\n\r\ntext\r\n"),
        format!("{head}Subject: empty body\r\n\r\n"),
        format!("{head}Subject: blank lines\r\n\r\n\r\n\r\n \t\r\n\r\ntext\r\n\r\n \r\n\r\n"),
        format!("{head}Subject: only blanks\r\n\r\n \t \r\n\r\n\t\r\n"),
        format!("{head}Subject: trailing\r\n\r\nend \r\nend\t \t\r\n  lead\t\ttabs  and   spaces\r\n"),
        format!("{head}Subject: dots\r\n\r\n..dot\r\n...\r\n..\r\ntext.\r\n..\r\n"),
        format!("{head}Subject: long\r\nReferences:{long}\r\n\r\n{}\r\n", "x ".repeat(498)),
        format!(
            "{head}Subject: =?utf-8?q?=C3=BC?=\r\nContent-Type: text/plain; charset=utf-8\r\n\r\n\u{fc}ber \u{4f8b}\r\n"
        ),
        format!("{head}Subject: {}\r\n\r\n{}", "s".repeat(900), "a line of text, and more of it\r\n".repeat(20_000)),
        format!(
            "{head}Subject: offers\r\nList-Unsubscribe: <https://example.com/u?x=1&y=2>,\r\n\t<mailto:u@example.com>\r\n\
             List-Unsubscribe-Post: List-Unsubscribe=One-Click\r\n\r\nBuy!\r\n"
        ),
    ];
    messages.push(format!("Received: from x by y; Tue, 24 Nov 2026 01:22:08 +0000\r\n{}", messages[0]));
    messages.into_iter().map(String::into_bytes).collect()
}

/// BLK-01, BLK-02, BLK-03, BLK-05: whatever a message looks like, both signatures hold where it arrives, as three verifiers say; the field is the
/// first of the message.
#[test]
fn three_verifiers_agree() {
    let sink = Sink::start();
    let setup = with_keys(Setup::to(sink.address()));
    let relay = setup.start();
    let mut client = relay.client();
    let messages = hard_messages();
    for message in &messages {
        let reply = client.deliver("author@example.com", &["to@example.org"], message);
        assert_eq!(reply.code, 250, "{reply:?}");
    }
    let mails = sink.wait_for(messages.len(), ARRIVAL_LONGEST);
    all_hold(&setup, &mails, 2);
    for mail in &mails {
        let text = String::from_utf8(text_of(mail)).unwrap();
        assert!(text.starts_with("DKIM-Signature: v=1; a="), "{text}");
        let own: String = text.split("\r\nReceived:").next().unwrap().to_owned();
        assert!(own.contains("h=From:From:") && !own.contains("Received") && !own.contains("l="), "{own}");
        if text.contains("Subject: offers") {
            assert_eq!(own.matches("List-Unsubscribe:").count(), 2, "{own}");
            assert_eq!(own.matches("List-Unsubscribe-Post").count(), 2, "{own}");
            let exact = "List-Unsubscribe: <https://example.com/u?x=1&y=2>,\r\n\t<mailto:u@example.com>\r\n\
                 List-Unsubscribe-Post: List-Unsubscribe=One-Click\r\n";
            assert!(text.contains(exact), "{text}");
        }
    }
    relay.stop();
}

/// BLK-03: by BDAT, with no CRLF at the end, dots, and chunks that cut everything in pieces, on to hosts that take BDAT and to those that
/// do not.
#[test]
fn chunks_verify() {
    for sink in [Sink::chunking(), Sink::start()] {
        let setup = with_keys(Setup::to(sink.address()));
        let relay = setup.start();
        let head = "From: author@example.com\r\nSubject: chunks\r\n";
        let bodies = ["no end", "blanks \t\r\nno end", ".dot\r\n.\r\n..\r\nx", "line\r\n", "", "\r\n\r\n", "x\r\n\r\n"];
        let mut count = 0;
        for (body, size) in bodies.iter().zip([1, 3, 7, 20, 1000, 2, 61]) {
            let text = format!("{head}\r\n{body}");
            let reply = relay.client().deliver_chunks("author@example.com", &["to@example.org"], text.as_bytes(), size);
            assert_eq!(reply.code, 250, "{reply:?}");
            count += 1;
        }
        let mails = sink.wait_for(count, ARRIVAL_LONGEST);
        all_hold(&setup, &mails, 2);
        relay.stop();
    }
}

/// BLK-03, BLK-04: what a submission gets added is covered; a report of our own is signed for our name; who has no key for the author goes
/// without, as do strangers.
#[test]
fn who_is_signed_for() {
    let sink = Sink::scripted(|verb, line| match verb {
        "RCPT" if line.contains("nobody@") => Act::Say("550 5.1.1 no such mailbox".into()),
        _ => Act::Usual,
    });
    let office = Office::open(&sink, with_keys);
    let python = need("python3", "python3");
    let mut command = Command::new(python);
    command.arg(script("smtplib_submit.py"));
    command.args([office.submission, office.submissions].map(|address| address.port().to_string()));
    command.arg(common::office::PASSWORD);
    succeed(&mut command, PROGRAM_LONGEST);
    let submitted = sink.wait_for(2, ARRIVAL_LONGEST);
    all_hold(&office.setup, &submitted, 2);
    for mail in &submitted {
        let text = String::from_utf8(text_of(mail)).unwrap();
        let own = text.split("\r\nReceived:").next().unwrap();
        assert!(own.contains("Date:Date:") && text.contains("\r\nMessage-ID: <"), "{text}");
    }

    let mut client = office.relay.client();
    let text = b"From: a@example.com\r\nSubject: fails\r\n\r\ntext\r\n";
    assert_eq!(client.deliver("author@example.com", &["nobody@example.org"], text).code, 250);
    let report = sink.wait_for(3, ARRIVAL_LONGEST).pop().unwrap();
    assert_eq!(report.sender, "");
    assert!(String::from_utf8(text_of(&report)).unwrap().contains("d=relay.example.com;"));
    all_hold(&office.setup, &[report], 1);

    for author in ["a@example.net", "a@sub.example.com"] {
        let text = format!("From: {author}\r\nSubject: no key\r\n\r\ntext\r\n");
        assert_eq!(client.deliver("author@example.com", &["to@example.org"], text.as_bytes()).code, 250);
    }
    let all = sink.wait_for(5, ARRIVAL_LONGEST);
    assert!(all[3..].iter().all(|mail| !mail.wire.starts_with(b"DKIM-Signature")));
    office.close();
}

/// BLK-01: `ringpost check --dns` tells whether DNS has the keys, long ones in several strings.
#[test]
fn dns_has_the_keys() {
    let sink = Sink::start();
    let setup = with_key(Setup::to(sink.address()), "rsa", "example.com", RSA_2048);
    let records = fs::read_to_string(records(&setup)).unwrap();
    let (name, text) = records.trim_end().split_once(' ').unwrap();
    let (first, rest) = text.split_at(200);
    for (record, right) in [
        (format!("{name}. TXT \"{first}\" \"{rest}\""), true),
        (format!("{name}. TXT \"v=DKIM1; k=rsa; p=AAAA\""), false),
        ("other.example.com. TXT \"v=DKIM1\"".to_owned(), false),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let records = [&*record];
        let zone = Zone { name: "example.com", signing: Signing::None, records: &records, lies: &[] };
        let bed = Bed::start(dir.path(), &[zone]);
        let servers = format!("dns.servers={}", bed.resolver);
        let arguments = setup.arguments();
        let arguments: Vec<&str> = arguments[1..].iter().map(String::as_str).collect();
        let output = ringpost(&[&["check", "--dns", "--set", &servers], &arguments[..]].concat());
        let said = shown(&output.stdout, &output.stderr);
        assert_eq!(output.status.success(), right, "{record}: {said}");
        assert!(said.contains(&format!("{name} has ")), "{said}");
    }
}

/// BLK-01: keys that must not be used are refused before anything runs, and by `check`.
#[test]
fn bad_keys_are_refused() {
    let sink = Sink::start();
    let small = &["genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:1024"][..];
    let curve = &["genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"][..];
    for options in [small, curve] {
        let setup = with_key(Setup::to(sink.address()), "weak", "example.com", options);
        let arguments = setup.arguments();
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        for command in ["check", "run", "dkim"] {
            let output = ringpost(&[&[command], &arguments[1..]].concat());
            assert_eq!(output.status.code(), Some(2), "{}", shown(&output.stdout, &output.stderr));
            let said = String::from_utf8(output.stderr).unwrap();
            assert!(said.contains("dkim.weak.key = ") && said.contains("is neither an RSA key of 2048"), "{said}");
        }
    }
}
