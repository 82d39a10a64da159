//! What stands before a session over the real program: load balancers that say who a client is, rights that are given up, floods of
//! handshakes.

#![cfg(feature = "runtime")]

mod common;

use std::fs::Permissions;
use std::io::{Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpStream};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use common::client::Client;
use common::free_address;
use common::mail::plain;
use common::office::{Office, PASSWORD, users_file};
use common::programs::{Running, is_root, need, run, shown, succeed};
use common::relay::{Relay, Setup, program};
use common::sink::Sink;
use common::wait_until;

const ARRIVAL_LONGEST: Duration = Duration::from_secs(60);
const PROGRAM_LONGEST: Duration = Duration::from_secs(90);
/// Longer than the relay awaits a header.
const ANSWER_LONGEST: Duration = Duration::from_secs(40);

const TEXT_HEADER: &[u8] = b"PROXY TCP4 192.0.2.7 192.0.2.9 4000 25\r\n";
/// The same in version 2, with something appended that is to be skipped.
const BINARY_HEADER: &[u8] =
    b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x12\xc0\0\x02\x07\xc0\0\x02\x09\x0f\xa0\0\x19\x04\0\x03abc";
const ENVELOPE: &[u8] = b"EHLO c.example.com\r\nMAIL FROM:<s@example.com>\r\nRCPT TO:<r@example.org>\r\n";

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(ANSWER_LONGEST)).unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

fn read_until(stream: &mut impl Read, wanted: &str) -> String {
    let (mut seen, mut piece) = (String::new(), [0; 1000]);
    while !seen.contains(wanted) {
        let length = stream.read(&mut piece).unwrap();
        assert!(length > 0, "no {wanted} in {seen}");
        seen += &String::from_utf8_lossy(&piece[..length]);
    }
    seen
}

/// True if the other end closed without a word. With bytes unread there it may end as a reset.
fn closed_silently(mut stream: TcpStream) -> bool {
    let mut rest = Vec::new();
    match stream.read_to_end(&mut rest) {
        Err(error) if error.kind() != std::io::ErrorKind::ConnectionReset => panic!("{error}"),
        _ => rest.is_empty(),
    }
}

/// A relay for clients of 192.0.2.0/24 and 127.0.0.77, who come by way of this machine: at an address of its own, a socket, and inside TLS.
struct Balanced {
    setup: Setup,
    relay: Relay,
    proxied: SocketAddr,
    sealed: SocketAddr,
}

impl Balanced {
    fn open(sink: &Sink) -> Balanced {
        let (proxied, sealed) = (free_address(), free_address());
        let bare = Setup::to(sink.address());
        let relays = format!("{},{proxied} proxy,unix:{}/smtp proxy", bare.address(), bare.dir().display());
        let setup = bare.set("listen.relay", relays).set("listen.submissions", format!("{sealed} proxy"));
        let users = users_file(&setup);
        let setup = setup.set("auth.users", users.display()).set("proxy.networks", "127.0.0.1");
        let setup = setup.set("relay.networks", "192.0.2.0/24,127.0.0.77").set("shards", 2);
        let relay = setup.start();
        Balanced { setup, relay, proxied, sealed }
    }
}

/// PRX-01, PRX-02: the conveyed address is the client's, whichever version says it and however its bytes come.
#[test]
fn a_header_says_who_the_client_is() {
    let sink = Sink::start();
    let office = Balanced::open(&sink);
    let mut sent = 0;
    for header in [TEXT_HEADER, BINARY_HEADER] {
        // Cut anywhere, what follows glued to it.
        for at in 1..=header.len() {
            let mut stream = connect(office.proxied);
            stream.write_all(&header[..at]).unwrap();
            std::thread::sleep(Duration::from_millis(2));
            stream.write_all(&[&header[at..], ENVELOPE].concat()).unwrap();
            read_until(&mut stream, "\n250 2.1.5 ");
        }
        let mut stream = connect(office.proxied);
        let text = [header, ENVELOPE, b"DATA\r\n"].concat();
        for piece in text.chunks(1) {
            stream.write_all(piece).unwrap();
        }
        read_until(&mut stream, "\n354 ");
        stream.write_all(b"x\r\n.\r\nQUIT\r\n").unwrap();
        read_until(&mut stream, "\n221 ");
        sent += 1;
    }
    let mut stream = UnixStream::connect(office.setup.dir().join("smtp")).unwrap();
    stream.set_read_timeout(Some(ANSWER_LONGEST)).unwrap();
    stream.write_all(&[TEXT_HEADER, ENVELOPE, b"DATA\r\n"].concat()).unwrap();
    read_until(&mut stream, "\n354 ");
    stream.write_all(b"x\r\n.\r\nQUIT\r\n").unwrap();
    read_until(&mut stream, "\n221 ");
    for mail in sink.wait_for(sent + 1, ARRIVAL_LONGEST) {
        let wire = String::from_utf8_lossy(&mail.wire).into_owned();
        assert!(wire.contains("from c.example.com ([192.0.2.7])"), "{wire}");
    }
    // The address that was conveyed is judged, not the balancer's; without one it is the balancer's.
    for header in
        [&b"PROXY TCP4 198.51.100.7 192.0.2.9 4000 25\r\n"[..], b"PROXY UNKNOWN\r\n", b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0"]
    {
        let mut stranger = connect(office.proxied);
        stranger.write_all(&[header, ENVELOPE].concat()).unwrap();
        read_until(&mut stranger, "\n550 5.7.1 ");
    }
    office.relay.stop();
}

/// PRX-01: no header, half of one, a wrong one, one from elsewhere: closed without a word; elsewhere it is no verb.
#[test]
fn without_a_header_nobody_is_greeted() {
    let sink = Sink::start();
    let office = Balanced::open(&sink);
    for header in [TEXT_HEADER, BINARY_HEADER] {
        for length in 0..header.len() {
            let mut stream = connect(office.proxied);
            stream.write_all(&header[..length]).unwrap();
            stream.shutdown(Shutdown::Write).unwrap();
            assert!(closed_silently(stream), "{length} bytes of {}", header.escape_ascii());
        }
    }
    let endless = [b"PROXY UNKNOWN ".as_slice(), &[b'x'; 200]].concat();
    for wrong in [
        &b"EHLO c.example.com\r\n"[..],
        b"PROXY TCP4 1.2.3.4 oops\r\n",
        b"PROXY TCP4 192.0.2.7 192.0.2.9 4000 25\nEHLO c.example.com\r\n",
        b"proxy tcp4 192.0.2.7 192.0.2.9 4000 25\r\n",
        b"\r\n\r\n\0\r\nQUIT\n\x11\x11\0\0",
        b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x04\xc0\0\x02\x07",
        b"\r\n\r\n\0\r\nQUIT\n\x21\x11\xff\xff",
        &endless,
    ] {
        let mut stream = connect(office.proxied);
        stream.write_all(wrong).unwrap();
        assert!(closed_silently(stream), "{}", wrong.escape_ascii());
    }
    // Who says nothing is not awaited for ever.
    assert!(closed_silently(connect(office.proxied)));
    // 127.0.0.2 is no balancer.
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::new(IpAddr::from([127, 0, 0, 2]), 0).into()).unwrap();
    socket.connect(&office.proxied.into()).unwrap();
    let mut stranger = TcpStream::from(socket);
    stranger.set_read_timeout(Some(ANSWER_LONGEST)).unwrap();
    // It may be closed already.
    let _ = stranger.write_all(&[TEXT_HEADER, ENVELOPE].concat());
    assert!(closed_silently(stranger));
    assert!(office.relay.errors().contains(" that should begin with a PROXY header: "), "{}", office.relay.errors());
    assert_eq!(office.relay.client().say("PROXY TCP4 192.0.2.7 192.0.2.9 4000 25").code, 500);
    assert!(sink.mails().is_empty());
    office.relay.stop();
}

/// PRX-01, PRX-02 with a balancer that nobody here wrote: both versions, its own checks, and TLS behind the header.
#[test]
fn haproxy_speaks_for_its_clients() {
    let sink = Sink::start();
    let office = Balanced::open(&sink);
    let fronts = [free_address(), free_address(), free_address()];
    let file = office.setup.dir().join("haproxy.cfg");
    let listen = |name: &str, front: SocketAddr, to: SocketAddr, how: &str| {
        format!("listen {name}\n  bind {front}\n  server relay {to} {how} check check-send-proxy inter 200\n")
    };
    let text = [
        "defaults\n  mode tcp\n  timeout connect 20s\n  timeout client 60s\n  timeout server 60s\n".to_owned(),
        listen("one", fronts[0], office.proxied, "send-proxy"),
        listen("two", fronts[1], office.proxied, "send-proxy-v2"),
        listen("tls", fronts[2], office.sealed, "send-proxy-v2"),
    ];
    std::fs::write(&file, text.concat()).unwrap();
    let _haproxy = Running::start(Command::new(need("haproxy", "haproxy")).arg("-db").arg("-f").arg(&file));
    for front in fronts {
        assert!(wait_until(ANSWER_LONGEST, || TcpStream::connect(front).is_ok()), "haproxy listens");
    }
    for front in &fronts[..2] {
        let mut client = Client::connect_from([127, 0, 0, 77].into(), *front);
        assert!(client.deliver("s@example.com", &["r@example.org"], &plain("x")).is("250 2.0.0"));
        // For its neighbour, and for the balancer itself, this relay sends nothing.
        let mut client = Client::connect(*front);
        assert_eq!(client.say("EHLO c.example.com").code, 250);
        assert_eq!(client.say("MAIL FROM:<s@example.com>").code, 250);
        assert!(client.say("RCPT TO:<r@example.org>").is("550 5.7.1"));
    }
    for mail in sink.wait_for(2, ARRIVAL_LONGEST) {
        let wire = String::from_utf8_lossy(&mail.wire).into_owned();
        assert!(wire.contains("([127.0.0.77])"), "{wire}");
    }
    let mut command = Command::new(need("swaks", "swaks"));
    command.args(["--server", "127.0.0.1", "--port", &fronts[2].port().to_string(), "--tls-on-connect"]);
    command.args(["--auth", "PLAIN", "--auth-user", "alice", "--auth-password", PASSWORD]);
    command.args(["--ehlo", "swaks.example.com", "--from", "alice@example.com", "--to", "to@example.org"]);
    succeed(&mut command, PROGRAM_LONGEST);
    let mails = sink.wait_for(3, ARRIVAL_LONGEST);
    let wire = String::from_utf8_lossy(&mails[2].wire).into_owned();
    assert!(wire.contains("from swaks.example.com ([127.0.0.1])") && wire.contains(" with ESMTPSA tls "), "{wire}");
    office.relay.stop();
}

/// XCL-01, XCL-02 with swaks: whom it names is judged, and stands in the trace field; a user it names may submit.
#[test]
fn swaks_speaks_for_others() {
    let sink = Sink::start();
    let office = Office::open(&sink, |setup| {
        setup.set("xclient.networks", "127.0.0.1").set("relay.networks", "192.0.2.0/24").set("tls.offer", true)
    });
    let swaks = |port: u16, more: &[&str]| {
        let mut command = Command::new(need("swaks", "swaks"));
        command.args(["--server", "127.0.0.1", "--port", &port.to_string(), "--ehlo", "swaks.example.com"]);
        command.args(["--from", "alice@example.com", "--to", "to@example.org"]).args(more);
        let output = run(&mut command, PROGRAM_LONGEST);
        (output.status.success(), shown(&output.stdout, &output.stderr))
    };
    let relay = office.relay.address().port();
    let named = [
        "--xclient-addr",
        "192.0.2.7",
        "--xclient-name",
        "c.example.com",
        "--xclient-port",
        "4000",
        "--xclient-proto",
        "ESMTP",
    ];
    let (sent, text) = swaks(relay, &named);
    assert!(sent, "{text}");
    let (sent, text) = swaks(relay, &["--xclient-addr", "198.51.100.7"]);
    assert!(!sent && text.contains("550 5.7.1 Relay access denied"), "{text}");
    let (sent, text) =
        swaks(office.submission.port(), &["--tls", "--xclient-addr", "198.51.100.7", "--xclient-login", "alice"]);
    assert!(sent, "{text}");
    let mails = sink.wait_for(2, ARRIVAL_LONGEST);
    let text = |index: usize| String::from_utf8_lossy(&mails[index].wire).into_owned();
    assert!(
        text(0).contains("from swaks.example.com ([192.0.2.7])") && text(0).contains(" with ESMTP\r\n"),
        "{}",
        text(0)
    );
    assert!(
        text(1).contains("from swaks.example.com ([198.51.100.7])") && text(1).contains(" with ESMTPSA "),
        "{}",
        text(1)
    );
    office.close();
}

/// Once its sockets are bound the relay is nobody special: its threads are the user's, and so is what it makes.
#[test]
fn rights_are_given_up() {
    if !is_root() {
        eprintln!("skipped: only root has rights to give up");
        return;
    }
    let sink = Sink::start();
    let home = tempfile::tempdir().unwrap();
    let setup = Setup::to(sink.address()).set("user", "nobody").set("queue.dir", home.path().join("queue").display());
    let relays = format!("{},unix:{}/smtp", setup.address(), home.path().display());
    let setup = setup.set("listen.relay", relays).set("shards", 2);
    succeed(Command::new("chown").arg("nobody").arg(home.path()), PROGRAM_LONGEST);
    // Twice: the second life finds what the first left.
    for life in 1..=2 {
        let relay = setup.start();
        for task in std::fs::read_dir(format!("/proc/{}/task", relay.pid())).unwrap().flatten() {
            let status = std::fs::read_to_string(task.path().join("status")).unwrap();
            let numbers = |key: &str| {
                let line = status.lines().find_map(|line| line.strip_prefix(key)).unwrap().to_owned();
                line.split_ascii_whitespace().map(|word| word.to_owned()).collect::<Vec<_>>()
            };
            let ids = [numbers("Uid:"), numbers("Gid:"), numbers("Groups:")].concat();
            assert!(ids.len() >= 8 && ids.iter().all(|id| id.parse::<u32>().unwrap() >= 1000), "{status}");
            for set in ["CapPrm:", "CapEff:", "CapAmb:"] {
                assert_eq!(numbers(set), ["0000000000000000"], "{status}");
            }
        }
        assert!(home.path().join("queue").metadata().unwrap().uid() >= 1000);
        // Who may use it is for its directory to say.
        assert_eq!(home.path().join("smtp").metadata().unwrap().permissions().mode() & 0o777, 0o666);
        assert!(relay.client().deliver("s@example.com", &["r@example.org"], &plain("x")).is("250 2.0.0"));
        sink.wait_for(life, ARRIVAL_LONGEST);
        relay.stop();
    }
    let secret = home.path().join("aliases");
    std::fs::write(&secret, "all@example.org: one@example.org\n").unwrap();
    std::fs::set_permissions(&secret, Permissions::from_mode(0o600)).unwrap();
    let wrong = [
        (Setup::to(sink.address()).set("user", "no-such-user"), 1, "no-such-user"),
        // What the user cannot read stops the start, not the first reload.
        (setup.set("aliases.file", secret.display()), 2, "Permission denied"),
    ];
    for (setup, code, word) in wrong {
        let output = run(Command::new(program()).args(setup.arguments()), PROGRAM_LONGEST);
        let text = shown(&output.stdout, &output.stderr);
        assert_eq!(output.status.code(), Some(code), "{text}");
        assert!(text.contains(word), "{text}");
    }
}

/// With landlock the relay works as before, and reads no file that lies elsewhere, whatever leads there.
#[test]
fn what_lies_elsewhere_is_out_of_sight() {
    let sink = Sink::start();
    let office = Office::open(&sink, |setup| {
        let setup = setup.set("landlock", true).set("auth.allow_clear", true).set("auth.failures_per_user", 1_000_000);
        setup.set("auth.failures_per_address", 1_000_000).set("auth.failures_per_network", 1_000_000)
    });
    let logs_in = || {
        let mut client = Client::connect(office.submission);
        client.say("EHLO c.example.com");
        // \0alice\0corr3ct-horse
        client.say("AUTH PLAIN AGFsaWNlAGNvcnIzY3QtaG9yc2U=").code
    };
    assert!(office.relay.client().deliver("s@example.com", &["r@example.org"], &plain("x")).is("250 2.0.0"));
    sink.wait_for(1, ARRIVAL_LONGEST);
    assert_eq!(logs_in(), 235);
    let users = office.setup.dir().join("users");
    let lines = std::fs::read_to_string(&users).unwrap();
    let replace = |text: &str| {
        let fresh = office.setup.dir().join("fresh");
        std::fs::write(&fresh, text).unwrap();
        std::fs::rename(&fresh, &users).unwrap();
    };
    // A file that is replaced is read again.
    replace(
        &lines.lines().filter(|line| !line.starts_with("alice")).map(|line| format!("{line}\n")).collect::<String>(),
    );
    assert!(wait_until(ANSWER_LONGEST, || logs_in() == 535), "alice is gone");
    let elsewhere = tempfile::tempdir().unwrap();
    std::fs::write(elsewhere.path().join("users"), &lines).unwrap();
    std::fs::remove_file(&users).unwrap();
    std::os::unix::fs::symlink(elsewhere.path().join("users"), &users).unwrap();
    let refused = wait_until(ANSWER_LONGEST, || {
        assert_ne!(logs_in(), 235, "read by way of a link");
        office.relay.errors().contains("Permission denied")
    });
    assert!(refused, "{}", office.relay.errors());
    office.relay.stop();
}

/// Sends messages over one session that stands; how many a second.
fn fair_rate(client: &mut Client, messages: u32) -> f64 {
    let begun = Instant::now();
    for _ in 0..messages {
        let reply = client.deliver("fair@example.com", &["to@example.org"], &plain("fair"));
        assert!(reply.is("250 2.0.0"), "{reply:?}");
    }
    f64::from(messages) / begun.elapsed().as_secs_f64()
}

/// TLS-13: while others do nothing but handshakes, a session that stands gets its replies, and the handshakes go on.
#[test]
fn a_flood_of_handshakes_stalls_nobody() {
    const MESSAGES: u32 = 300;
    let sink = Sink::start();
    let office = Office::open(&sink, |setup| setup);
    let openssl = need("openssl", "openssl");
    let over = AtomicBool::new(false);
    let mut client = office.relay.client();
    let alone = fair_rate(&mut client, MESSAGES);
    let (beside, handshakes) = std::thread::scope(|scope| {
        let flood: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| {
                    let mut count = 0;
                    while !over.load(Ordering::Relaxed) {
                        let mut command = Command::new(&openssl);
                        command.args(["s_time", "-new", "-time", "2", "-connect", &office.submissions.to_string()]);
                        let output = run(&mut command, PROGRAM_LONGEST);
                        let text = String::from_utf8_lossy(&output.stdout).into_owned();
                        let line = text.lines().find(|line| line.contains(" connections in ") && line.contains("real"));
                        count += line.and_then(|line| line.split(' ').next()?.parse::<u32>().ok()).unwrap_or(0);
                    }
                    count
                })
            })
            .collect();
        let beside = fair_rate(&mut client, MESSAGES);
        over.store(true, Ordering::Relaxed);
        (beside, flood.into_iter().map(|one| one.join().unwrap()).sum::<u32>())
    });
    eprintln!("{alone:.0} messages a second alone, {beside:.0} beside {handshakes} handshakes");
    assert!(handshakes > 0);
    sink.wait_for(2 * MESSAGES as usize, ARRIVAL_LONGEST);
    office.close();
}
