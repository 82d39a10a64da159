//! Listener roles and AUTH over the real program: clients that nobody here wrote, floods, and who gets which shard.

#![cfg(feature = "runtime")]

mod common;

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use common::client::Client;
use common::mail::plain;
use common::office::{Office, PASSWORD};
use common::postfix::Postfix;
use common::programs::{need, python, run, script, shown, succeed};
use common::relay::Setup;
use common::sink::{Mail, Sink};
use common::{free_address, wait_until};

const ARRIVAL_LONGEST: Duration = Duration::from_secs(60);
const PROGRAM_LONGEST: Duration = Duration::from_secs(90);

fn subjects(mails: &[Mail]) -> Vec<String> {
    let subject = |mail: &Mail| {
        let text = String::from_utf8_lossy(&mail.wire).into_owned();
        text.split_once("Subject: ").map_or_else(String::new, |(_, rest)| rest.lines().next().unwrap().to_owned())
    };
    let mut all: Vec<String> = mails.iter().map(subject).collect();
    all.sort();
    all
}

/// FND-02, FND-08, AUT-01, TRC-04: programs of others log in by each mechanism they know, over both kinds of TLS.
#[test]
fn clients_of_others_submit() {
    let sink = Sink::start();
    let office = Office::open(&sink, |setup| setup);
    let file = office.setup.dir().join("mail.txt");
    std::fs::write(&file, "From: alice@example.com\r\nSubject: curl\r\n\r\ntext\r\n").unwrap();
    let mut wanted = Vec::new();

    let swaks = need("swaks", "swaks");
    for (mechanism, tls, port) in [
        ("PLAIN", "--tls", office.submission.port()),
        ("LOGIN", "--tls", office.submission.port()),
        ("PLAIN", "--tls-on-connect", office.submissions.port()),
    ] {
        let subject = format!("swaks {mechanism} {tls}");
        let mut command = Command::new(&swaks);
        command.args(["--server", "127.0.0.1", "--port", &port.to_string(), tls, "--auth", mechanism]);
        command.args(["--auth-user", "alice", "--auth-password", PASSWORD, "--ehlo", "swaks.example.com"]);
        command.args([
            "--from",
            "alice@example.com",
            "--to",
            "to@example.org",
            "--header",
            &format!("Subject: {subject}"),
        ]);
        succeed(&mut command, PROGRAM_LONGEST);
        wanted.push(subject);
    }

    let curl = need("curl", "curl");
    for (scheme, mechanism, port) in
        [("smtp", "PLAIN", office.submission.port()), ("smtps", "LOGIN", office.submissions.port())]
    {
        let mut command = Command::new(&curl);
        command.args(["--silent", "--show-error", "--insecure", "--ssl-reqd", "--login-options"]);
        command.args([&format!("AUTH={mechanism}"), "--user", &format!("bob:{PASSWORD}")]);
        command.args(["--mail-from", "bob@example.com", "--mail-rcpt", "to@example.org", "--upload-file"]);
        command.arg(&file).arg(format!("{scheme}://127.0.0.1:{port}/curl.example.com"));
        succeed(&mut command, PROGRAM_LONGEST);
        wanted.push("curl".to_owned());
    }

    // GNU SASL inside msmtp.
    let msmtp = need("msmtp", "msmtp");
    for (mechanism, port, tls) in [
        ("scram-sha-256", office.submission.port(), &["--tls=on", "--tls-starttls=on"][..]),
        ("login", office.submissions.port(), &["--tls=on", "--tls-starttls=off"]),
        ("plain", office.submission.port(), &["--tls=on", "--tls-starttls=on"]),
    ] {
        let subject = format!("msmtp {mechanism}");
        let mut command = Command::new(&msmtp);
        command
            .args(["--file=/dev/null", "--host=127.0.0.1", &format!("--port={port}"), "--tls-certcheck=off"])
            .args(tls);
        command.args([&format!("--auth={mechanism}"), "--user=alice", &format!("--passwordeval=echo {PASSWORD}")]);
        command.args(["--domain=msmtp.example.com", "--from=alice@example.com", "to@example.org"]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let text = format!("From: alice@example.com\nSubject: {subject}\n\ntext\n");
        child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{subject}: {}", shown(&output.stdout, &output.stderr));
        wanted.push(subject);
    }

    let python = need("python3", "python3");
    let mut command = Command::new(python);
    command
        .arg(script("smtplib_submit.py"))
        .args([office.submission, office.submissions].map(|a| a.port().to_string()));
    command.arg(PASSWORD);
    succeed(&mut command, PROGRAM_LONGEST);
    wanted.extend(["smtplib starttls", "smtplib tls"].map(str::to_owned));

    let openssl = need("openssl", "openssl");
    for (port, starttls) in [(office.submission.port(), true), (office.submissions.port(), false)] {
        let subject = format!("openssl starttls={starttls}");
        let mut command = Command::new(&openssl);
        command.args(["s_client", "-quiet", "-crlf", "-connect", &format!("127.0.0.1:{port}")]);
        if starttls {
            command.args(["-starttls", "smtp"]);
        }
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let secret = base64(format!("\0bob\0{PASSWORD}").as_bytes());
        // What is typed ahead stays with the terminal's pipe until openssl has its handshake.
        let text = format!(
            "EHLO openssl.example.com\nAUTH PLAIN {secret}\nMAIL FROM:<bob@example.com>\nRCPT TO:<to@example.org>\nDATA\n"
        );
        let mut stdin = child.stdin.take().unwrap();
        let mut stdout = child.stdout.take().unwrap();
        stdin.write_all(text.as_bytes()).unwrap();
        let mut seen = String::new();
        let mut piece = [0; 1000];
        while !seen.contains("\n354 ") {
            let length = stdout.read(&mut piece).unwrap();
            assert!(length > 0, "{seen}");
            seen += &String::from_utf8_lossy(&piece[..length]);
        }
        stdin.write_all(format!("From: bob@example.com\nSubject: {subject}\n\ntext\n.\nQUIT\n").as_bytes()).unwrap();
        drop(stdin);
        child.wait().unwrap();
        wanted.push(subject);
    }

    let mails = sink.wait_for(wanted.len(), ARRIVAL_LONGEST);
    wanted.sort();
    assert_eq!(subjects(&mails), wanted);
    for mail in &mails {
        let text = String::from_utf8_lossy(&mail.wire);
        assert!(text.contains(" with ESMTPSA tls TLS_"), "{text}");
        let dates = text.lines().filter(|line| line.to_ascii_lowercase().starts_with("date:")).count();
        let ids = text.lines().filter(|line| line.to_ascii_lowercase().starts_with("message-id:")).count();
        assert_eq!((dates, ids), (1, 1), "BLK-07: {text}");
    }
    office.close();
}

/// FND-08, AUT-01: SCRAM bound to the TLS session: by GNU SASL to what TLS 1.3 exports, by scramp to the certificate. In TLS 1.2 no
/// binding is offered.
#[test]
fn exchanges_are_bound_to_their_session() {
    let sink = Sink::start();
    let office =
        Office::open(&sink, |setup| setup.set("auth.mechanisms", "SCRAM-SHA-256-PLUS,SCRAM-SHA-256,PLAIN,LOGIN"));
    let gsasl = need("gsasl", "gsasl");
    for (version, mechanism, binds) in [("1.3", "SCRAM-SHA-256-PLUS", true), ("1.2", "SCRAM-SHA-256", false)] {
        let mut command = Command::new(&gsasl);
        command.args(["--smtp", "--starttls", "--x509-ca-file="]);
        command.arg(format!("--priority=NORMAL:-VERS-ALL:+VERS-TLS{version}"));
        command.args((!binds).then_some("--no-cb"));
        command.args(["--authentication-id=alice", &format!("--password={PASSWORD}")]);
        command.arg(format!("--connect=127.0.0.1:{}", office.submission.port()));
        let said = succeed(&mut command, PROGRAM_LONGEST);
        assert!(said.contains(&format!("\nAUTH {mechanism}")), "{mechanism}: {said}");
    }

    let mut command = Command::new(python());
    command.arg(script("scram_plus.py")).args([&office.submissions.port().to_string(), PASSWORD]);
    succeed(&mut command, PROGRAM_LONGEST);
    assert_eq!(subjects(&sink.wait_for(1, ARRIVAL_LONGEST)), ["scramp"]);
    assert!(office.relay.errors().contains("saw no offer of SCRAM-SHA-256-PLUS"), "{}", office.relay.errors());
    office.close();
}

/// FND-02, FND-08: programs that people and other servers submit with.
#[test]
fn programs_of_others_submit() {
    let sink = Sink::start();
    let office = Office::open(&sink, |setup| setup.set("xforward.networks", "127.0.0.1").set("log.level", "debug"));
    let mut wanted: Vec<String> = ["nodemailer starttls", "nodemailer tls"].map(str::to_owned).into();

    let mut command = Command::new(need("node", "nodejs"));
    command.arg(script("nodemailer_submit.js"));
    command.args([office.submission, office.submissions].map(|a| a.port().to_string())).arg(PASSWORD);
    succeed(&mut command, PROGRAM_LONGEST);

    let mutt = need("mutt", "mutt");
    for (scheme, port, starttls) in
        [("smtp", office.submission.port(), "yes"), ("smtps", office.submissions.port(), "no")]
    {
        let subject = format!("mutt {scheme}");
        let file = office.setup.dir().join("muttrc");
        let certificate = office.setup.queue().join("tls-certificate.pem");
        let text = format!(
            "set smtp_url=\"{scheme}://alice@127.0.0.1:{port}/\" smtp_pass=\"{PASSWORD}\" from=alice@example.com use_from=yes\n\
             set use_envelope_from=yes copy=no hostname=mutt.example.com ssl_starttls={starttls} ssl_force_tls=yes\n\
             set ssl_verify_host=no certificate_file=\"{}\"\n",
            certificate.display()
        );
        std::fs::write(&file, text).unwrap();
        let mut command = Command::new(&mutt);
        command.arg("-n").arg("-F").arg(&file).args(["-s", &subject, "to@example.org"]).env("HOME", office.setup.dir());
        succeed(&mut command, PROGRAM_LONGEST);
        wanted.push(subject);
    }

    let port = office.submission.port();
    let more = format!(
        "smtp_tls_security_level = encrypt\nsmtp_sasl_auth_enable = yes\nsmtp_sasl_tls_security_options = noanonymous\n\
         smtp_sasl_password_maps = inline:{{ {{ [127.0.0.1]:{port} = alice:{PASSWORD} }} }}\nsmtp_send_xforward_command = yes\n"
    );
    let postfix = Postfix::start(port, &more, "");
    if let Some(postfix) = &postfix {
        let text = b"From: alice@example.com\r\nSubject: postfix\r\n\r\ntext\r\n";
        let mut client = Client::connect(SocketAddr::from(([127, 0, 0, 1], postfix.port)));
        let reply = client.deliver("alice@example.com", &["to@example.org"], text);
        assert_eq!(reply.code, 250, "{reply:?}");
        wanted.push("postfix".to_owned());
    }

    let mails = sink.wait_for(wanted.len(), ARRIVAL_LONGEST);
    wanted.sort();
    assert_eq!(subjects(&mails), wanted);
    assert!(mails.iter().all(|mail| String::from_utf8_lossy(&mail.wire).contains(" with ESMTPSA tls TLS_")));
    if postfix.is_some() {
        // XCL-01: Postfix, as a client that was not written here, says where its message came from.
        let noted = wait_until(ARRIVAL_LONGEST, || office.relay.errors().contains(" was forwarded: "));
        let errors = office.relay.errors();
        assert!(noted && errors.contains(" ADDR=127.0.0.1 ") && errors.contains(" SOURCE="), "{errors}");
    }
    drop(postfix);
    office.close();
}

fn base64(text: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    text.chunks(3)
        .flat_map(|three| {
            let bits = three.iter().fold(0u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - three.len()));
            (0..4).map(
                move |at| {
                    if at <= three.len() { char::from(LETTERS[(bits >> (18 - 6 * at) & 63) as usize]) } else { '=' }
                },
            )
        })
        .collect()
}

/// AUT-01, AUT-04, AUT-06, AUT-08: who is nobody sends nothing, and learns nothing of who is somebody.
#[test]
fn strangers_send_nothing() {
    let sink = Sink::start();
    let office = Office::open(&sink, |setup| setup);
    let mut client = Client::connect(office.submission);
    assert!(!client.say("EHLO c.example.com").text.contains("AUTH"));
    assert!(client.say("MAIL FROM:<alice@example.com>").is("530 5.7.0"));
    let swaks = need("swaks", "swaks");
    let mut refusals = Vec::new();
    for (user, password, sender) in [
        ("alice", "wrong", "alice@example.com"),
        ("nobody", PASSWORD, "a@example.com"),
        ("alice", PASSWORD, "eve@example.com"),
    ] {
        let mut command = Command::new(&swaks);
        command.args([
            "--server",
            "127.0.0.1",
            "--port",
            &office.submission.port().to_string(),
            "--tls",
            "--auth",
            "PLAIN",
        ]);
        command.args(["--auth-user", user, "--auth-password", password, "--from", sender, "--to", "to@example.org"]);
        let output = run(&mut command, PROGRAM_LONGEST);
        let text = shown(&output.stdout, &output.stderr);
        assert!(!output.status.success(), "{user} {password} {sender}: {text}");
        let refusal = text.lines().find(|line| line.starts_with("<** ") || line.starts_with("<~* "));
        refusals.push(refusal.unwrap_or("").to_owned());
    }
    assert!(refusals[0].contains("535 5.7.8") && refusals[0] == refusals[1], "{refusals:?}");
    assert!(refusals[2].contains("550 5.7.1 Sender address is not yours"), "{refusals:?}");
    assert!(sink.mails().is_empty());
    office.close();
}

/// Hashing stalls nobody: while many clients guess, somebody on the same shard gets all replies in good time.
#[test]
fn a_flood_of_guesses_stalls_nobody() {
    let sink = Sink::start();
    let office = Office::open(&sink, |setup| {
        let setup = setup.set("auth.allow_clear", true).set("auth.failures_per_address", 1_000_000);
        setup.set("auth.failures_per_network", 1_000_000).set("auth.failures_per_user", 1_000_000)
    });
    let guess = base64(b"\0bob\0guess");
    let (over, before) = (AtomicBool::new(false), office.relay.resident_bytes());
    let guesses = std::thread::scope(|scope| {
        let guessers: Vec<_> = (0..20)
            .map(|_| {
                scope.spawn(|| {
                    let mut count = 0;
                    while !over.load(Ordering::Relaxed) {
                        let mut client = Client::connect(office.submission);
                        client.say("EHLO guess.example.com");
                        while !over.load(Ordering::Relaxed) && client.say(&format!("AUTH PLAIN {guess}")).code == 535 {
                            count += 1;
                        }
                    }
                    count
                })
            })
            .collect();
        for _ in 0..50 {
            let reply = office.relay.client().deliver("fair@example.com", &["to@example.org"], &plain("fair"));
            assert!(reply.is("250 2.0.0"), "{reply:?}");
        }
        over.store(true, Ordering::Relaxed);
        guessers.into_iter().map(|guesser| guesser.join().unwrap()).sum::<u32>()
    });
    assert!(guesses > 20, "only {guesses} guesses");
    sink.wait_for(50, ARRIVAL_LONGEST);
    let grown = office.relay.resident_bytes().saturating_sub(before);
    assert!(grown < 200 << 20, "{grown} bytes more");
    office.close();
}

/// Four clients on two shards are two and two, whatever the kernel makes of their ports.
#[test]
fn few_clients_are_spread_over_the_shards() {
    let sink = Sink::start();
    let setup = Setup::to(sink.address()).set("shards", 2);
    for _ in 0..3 {
        let mut relay = setup.start();
        let mut clients: Vec<Client> = (0..4).map(|_| relay.client()).collect();
        for client in &mut clients {
            assert!(client.deliver("s@example.com", &["r@example.org"], &plain("x")).is("250 2.0.0"));
        }
        relay.ask_to_end();
        assert!(relay.wait().success());
        let counted =
            wait_until(Duration::from_secs(30), || relay.errors().matches(": 2 clients, 2 messages").count() == 2);
        assert!(counted, "{}", relay.errors());
    }
}

/// A unix socket takes mail, is taken over by the next life, and what it takes is of this machine; `listen.null` keeps nothing.
#[test]
fn roles_beside_tcp() {
    let sink = Sink::start();
    let bare = Setup::to(sink.address());
    let (path, null) = (bare.dir().join("smtp"), free_address());
    let relays = format!("{},unix:{}", bare.address(), path.display());
    let setup = bare.set("listen.relay", relays).set("listen.null", null).set("shards", 2);
    for round in 1..=2 {
        let relay = setup.start();
        assert!(relay.ready().contains(&format!("unix:{}", path.display())), "{}", relay.ready());
        assert!(relay.ready().contains(&format!(" null={null}")), "{}", relay.ready());
        talk_to_unix(&path);
        let mails = sink.wait_for(round, ARRIVAL_LONGEST);
        assert!(String::from_utf8_lossy(&mails[round - 1].wire).contains("from unix.example.com ([127.0.0.1])"));
        let thrown = Client::connect(null).deliver("s@example.com", &["r@example.org"], &plain("thrown"));
        assert!(thrown.is("250 2.0.0 discarded"), "{thrown:?}");
        relay.kill();
    }
    assert_eq!(sink.wait_for(2, ARRIVAL_LONGEST).len(), 2);
}

fn talk_to_unix(path: &Path) {
    let mut stream = UnixStream::connect(path).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let text = "EHLO unix.example.com\r\nMAIL FROM:<s@example.com>\r\nRCPT TO:<r@example.org>\r\nDATA\r\n";
    stream.write_all(text.as_bytes()).unwrap();
    let mut seen = String::new();
    let mut await_reply = |stream: &mut UnixStream, wanted: &str| {
        let mut piece = [0; 1000];
        while !seen.contains(wanted) {
            let length = stream.read(&mut piece).unwrap();
            assert!(length > 0, "no {wanted} in {seen}");
            seen += &String::from_utf8_lossy(&piece[..length]);
        }
    };
    await_reply(&mut stream, "\n354 ");
    stream.write_all(b"x\r\n.\r\nQUIT\r\n").unwrap();
    await_reply(&mut stream, "\n221 ");
}
