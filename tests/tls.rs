//! TLS end to end: programs that nobody here wrote go inside TLS with the relay, and the relay with them.
//!
//! Needs what `tests/setup` installs. A program that is missing fails its test.

#![cfg(feature = "runtime")]

mod common;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::client::Client;
use common::mail::plain;
use common::programs::{Running, certificate, need, python, script, succeed};
use common::relay::Setup;
use common::sink::Sink;
use common::{free_port, wait_until};

const PROGRAM_LONGEST: Duration = Duration::from_secs(60);
const ARRIVAL_LONGEST: Duration = Duration::from_secs(20);

fn count(text: &[u8], word: &str) -> usize {
    String::from_utf8_lossy(text).matches(word).count()
}

/// TLS-01..TLS-04, TLS-08, TLS-12, TRC-04.
#[test]
fn python_goes_inside_tls() {
    let sink = Sink::start();
    let setup = Setup::to(sink.address());
    let relay = setup.start();
    let mut command = Command::new(python());
    command.arg(script("starttls_client.py")).arg(relay.address().port().to_string());
    succeed(&mut command, PROGRAM_LONGEST);
    let mails = sink.wait_for(2, ARRIVAL_LONGEST);
    assert_eq!(mails.len(), 2, "messages cut off arrived too");
    for mail in &mails {
        assert_eq!(mail.sender, "tls@example.com");
        assert_eq!(count(&mail.wire, "from inside.example.com"), 1);
        assert_eq!(count(&mail.wire, " with ESMTPS tls TLS_"), 1);
        assert_eq!(count(&mail.wire, "text\r\n..dot\r\n"), 20_000);
    }
    relay.stop();
}

/// TLS-01, TLS-08.
#[test]
fn openssl_and_swaks_go_inside_tls() {
    let sink = Sink::start();
    let setup = Setup::to(sink.address());
    let relay = setup.start();
    let talk = "printf 'EHLO x\\nMAIL FROM:<o@example.com>\\nRCPT TO:<p@example.org>\\nQUIT\\n' | \
                openssl s_client -starttls smtp -crlf -quiet -connect";
    let mut shell = Command::new("sh");
    shell.arg("-c").arg(format!("{talk} {} 2>/dev/null", relay.address()));
    need("openssl", "openssl");
    let talk = succeed(&mut shell, PROGRAM_LONGEST);
    assert!(talk.contains("250 2.1.5") && talk.contains("221 2.0.0"), "{talk}");
    for protocol in ["tlsv1_2", "tlsv1_3"] {
        let mut swaks = Command::new(need("swaks", "swaks libnet-ssleay-perl"));
        swaks.args(["--tls", "--tls-protocol", protocol, "--server", &relay.address().to_string()]);
        let talk = succeed(swaks.args(["--from", "swaks@example.com", "--to", "p@example.org"]), PROGRAM_LONGEST);
        assert!(talk.contains("~> QUIT"), "{talk}");
    }
    for mail in sink.wait_for(2, ARRIVAL_LONGEST) {
        assert_eq!(count(&mail.wire, " with ESMTPS tls TLS_"), 1);
    }
    relay.stop();
}

/// TLS-05, TLS-07: from relay to relay, with many messages over each connection.
#[test]
fn relays_speak_tls_with_each_other() {
    let sink = Sink::start();
    let second_setup = Setup::to(sink.address());
    let second = second_setup.start();
    let first_setup = Setup::to(second.address()).set("site.default.tls", "encrypt").set("shards", 2);
    let first = first_setup.start();
    let large = [&plain("large")[..], &b"0123456789abcdef\r\n".repeat(100_000)].concat();
    let mut client = Client::connect(first.address());
    for number in 0..100 {
        let message = if number % 20 == 0 { large.clone() } else { plain("small") };
        assert_eq!(client.deliver("a@example.com", &["b@example.org"], &message).code, 250);
    }
    for mail in sink.wait_for(100, ARRIVAL_LONGEST) {
        assert_eq!((count(&mail.wire, "with ESMTPS tls"), count(&mail.wire, "with ESMTP\r\n")), (1, 1));
        assert!(mail.wire.ends_with(&large) || mail.wire.ends_with(&plain("small")));
    }
    first.stop();
    second.stop();
}

/// TLS-05, TLS-07, TLS-08: to a next hop that takes nothing in clear.
#[test]
fn policies_are_kept_with_aiosmtpd() {
    for (policy, trusted, arrives) in
        [("may", false, true), ("encrypt", false, true), ("verify", true, true), ("verify", false, false)]
    {
        let dir = tempfile::tempdir().unwrap();
        let (certificate, key) = certificate(dir.path());
        let port = free_port();
        let mut command = Command::new(python());
        command.arg(script("aiosmtpd_sink.py")).arg(port.to_string()).arg(dir.path()).args([&certificate, &key]);
        let hop = Running::start(&mut command);
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        assert!(wait_until(ARRIVAL_LONGEST, || TcpStream::connect(address).is_ok()));
        let mut setup = Setup::to(address).set("site.default.tls", policy);
        if trusted {
            setup = setup.set("tls.roots", &certificate);
        }
        let relay = setup.start();
        let mut client = Client::connect(relay.address());
        assert_eq!(client.deliver("a@example.com", &["b@example.org"], &plain("policy")).code, 250);
        let longest = if arrives { ARRIVAL_LONGEST } else { Duration::from_secs(2) };
        let arrived = wait_until(longest, || dir.path().join("1.json").exists());
        assert_eq!(arrived, arrives, "{policy}, trusted: {trusted}");
        relay.stop();
        hop.end();
    }
}

/// A next hop that offers STARTTLS and then talks nonsense; says what it saw.
fn broken_hop() -> (SocketAddr, Arc<Mutex<Vec<&'static str>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let noted = seen.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let noted = noted.clone();
            // A connection that ends early is the relay's affair.
            std::thread::spawn(move || drop(serve_broken(stream.unwrap(), &noted)));
        }
    });
    (address, seen)
}

fn serve_broken(mut stream: TcpStream, noted: &Mutex<Vec<&'static str>>) -> std::io::Result<()> {
    stream.write_all(b"220 hop.example\r\n")?;
    let mut in_data = false;
    for line in BufReader::new(stream.try_clone()?).split(b'\n') {
        let line = line?;
        let reply: &[u8] = match &line[..] {
            b".\r" => {
                in_data = false;
                noted.lock().unwrap().push("mail");
                b"250 ok\r\n"
            }
            _ if in_data => continue,
            b"STARTTLS\r" => {
                noted.lock().unwrap().push("tls");
                stream.write_all(b"220 go ahead\r\n")?;
                // The first bytes of the handshake, so that what follows is not taken for injected.
                stream.read_exact(&mut [0; 5])?;
                return stream.write_all(b"this is no handshake\r\n");
            }
            b"DATA\r" => {
                in_data = true;
                b"354 go ahead\r\n"
            }
            line if line.starts_with(b"EHLO") => b"250-hop.example\r\n250 STARTTLS\r\n",
            _ => b"250 ok\r\n",
        };
        stream.write_all(reply)?;
    }
    Ok(())
}

/// TLS-06: a handshake that fails leads to clear text on a new connection, where the policy lets it, and only there.
#[test]
fn a_failed_handshake_is_followed_by_clear_text_only_where_allowed() {
    for (policy, arrives) in [("may", true), ("encrypt", false)] {
        let (address, seen) = broken_hop();
        let setup = Setup::to(address).set("site.default.tls", policy);
        let relay = setup.start();
        let mut client = Client::connect(relay.address());
        let arrived = |count: usize| seen.lock().unwrap().iter().filter(|what| **what == "mail").count() >= count;
        let longest = if arrives { ARRIVAL_LONGEST } else { Duration::from_secs(2) };
        for count in 1..=2 {
            assert_eq!(client.deliver("a@example.com", &["b@example.org"], &plain("fallback")).code, 250);
            assert_eq!(wait_until(longest, || arrived(count)), arrives, "{policy}: {seen:?}");
        }
        if arrives {
            assert_eq!(*seen.lock().unwrap(), ["tls", "mail", "mail"], "remembered");
        }
        relay.stop();
    }
}

/// TLS-13: a client that does not go on with its handshake is cut.
#[test]
fn a_stalled_handshake_is_cut() {
    let setup = Setup::bare().set("timeout.tls_ms", 300);
    let relay = setup.start();
    let mut client = Client::connect(relay.address());
    assert_eq!(client.say("STARTTLS").code, 220);
    client.send(b"\x16\x03\x01");
    assert_eq!(client.reply().code, 0);
    relay.stop();
}
