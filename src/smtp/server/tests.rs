//! Whole sessions: any split of the bytes gives the same replies, events and stored bytes; garbage never panics.

mod dialogues;
mod states;

use super::*;
use crate::base::ids::{Position, ShardId};
use crate::smtp::auth::{AuthAnswer, ExchangeState, Mechanism, Senders};
use crate::smtp::{ntlm, sasl};
use proptest::prelude::*;

/// A message that the session gave away as whole.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Stored {
    sender: Vec<u8>,
    recipients: Vec<Vec<u8>>,
    body: Vec<u8>,
    text: Text,
    /// What MAIL and RCPT said beside the addresses.
    parameters: Vec<u8>,
}

/// A session with its caller: keeps what the session leaves, stores bodies, accepts every message.
struct Session {
    server: Server,
    carry: Vec<u8>,
    out: Vec<u8>,
    body: Vec<u8>,
    stored: Vec<Stored>,
    dropped: usize,
    closed: bool,
}

fn settings() -> ServerSettings {
    ServerSettings {
        hostname: "relay.example".into(),
        message_bytes_max: 64 << 10,
        recipients_max: 100,
        errors_max: 20,
        received_fields_max: 100,
        command_idle_ms: 300_000,
        data_idle_ms: 180_000,
        tls: false,
        auth: AuthSettings::default(),
        submission: false,
        hold_max_s: 0,
        aliases: None,
        users_ask: false,
        etrn: false,
    }
}

fn peer(may_relay: bool) -> Peer {
    Peer::new("192.0.2.1".parse().unwrap(), may_relay)
}

/// Has as many connections as it may.
const CROWDED: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 99));

/// Knows alice with the password `secret`, who may send from a.example; whoever is called `down` cannot be looked up, and
/// `blocked` failed too often. Kerberos tickets are the words `ticket` and `endless`; NTLM is as it is, but whoever says `alice` is.
fn judge(request: AuthRequest) -> AuthAnswer {
    assert!(!format!("{request:?}").contains("secret"));
    let state = request.state.and_then(|state| state.take::<String>());
    let check = |user: &str, password: &[u8]| match user {
        "down" => AuthAnswer::Unavailable,
        "blocked" => AuthAnswer::TooMany,
        "alice" if password == b"secret" => {
            AuthAnswer::Accepted(Arc::new(User { name: "alice".into(), senders: Senders::parse("@a.example") }))
        }
        _ => AuthAnswer::Refused,
    };
    let more = |text: &str, state: &str| AuthAnswer::Challenge {
        text: text.as_bytes().to_vec(),
        state: ExchangeState::new(state.to_owned()),
    };
    match (request.mechanism, state, request.response.as_ref().map(|response| &response[..])) {
        (Mechanism::Plain, None, Some(message)) => match sasl::plain(message) {
            Some(plain) => check(plain.user, plain.password),
            None => AuthAnswer::Malformed,
        },
        (Mechanism::Login, None, None) => more("Username:", ""),
        (Mechanism::Login, Some(name), Some(said)) if name.is_empty() => {
            more("Password:", str::from_utf8(said).unwrap())
        }
        (Mechanism::Login, Some(name), Some(said)) => check(&name, said),
        (Mechanism::GssSpnego | Mechanism::Gssapi, _, Some(b"endless")) => more("more", "endless"),
        (Mechanism::GssSpnego | Mechanism::Gssapi, None, Some(b"ticket")) => more("reply", "last"),
        (Mechanism::GssSpnego, Some(state), Some(b"")) if state == "last" => check("alice", b"secret"),
        (Mechanism::Gssapi, Some(state), Some(b"")) if state == "last" => more("layers", "layers"),
        (Mechanism::Gssapi, Some(state), Some(choice)) if state == "layers" => match sasl::gssapi_choice(choice) {
            Some("" | "alice") => check("alice", b"secret"),
            Some(_) => AuthAnswer::Refused,
            None => AuthAnswer::Malformed,
        },
        (Mechanism::Ntlm, None, Some(message)) => match ntlm::negotiate(message) {
            Some(abilities) => AuthAnswer::Challenge {
                text: ntlm::challenge(abilities, *b"nonceabc", "relay.example", 0),
                state: ExchangeState::new(String::new()),
            },
            None => AuthAnswer::Malformed,
        },
        (Mechanism::Ntlm, Some(_), Some(message)) => match ntlm::authenticate(message) {
            Some(ntlm::Authenticate { user, response: ntlm::Response::Second(_), .. }) => check(&user, b"secret"),
            Some(_) => AuthAnswer::Refused,
            None => AuthAnswer::Malformed,
        },
        _ => AuthAnswer::Malformed,
    }
}

impl Session {
    fn new(settings: ServerSettings, may_relay: bool) -> Session {
        Session::of(settings, peer(may_relay))
    }

    fn of(settings: ServerSettings, peer: Peer) -> Session {
        let server = Server::new(Rc::new(settings), peer);
        let (carry, out, body, stored) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let mut session = Session { server, carry, out, body, stored, dropped: 0, closed: false };
        session.server.greet(&mut session.out);
        session
    }

    fn receive(&mut self, bytes: &[u8]) {
        self.carry.extend_from_slice(bytes);
        let carry = std::mem::take(&mut self.carry);
        let mut input = carry.as_slice();
        loop {
            match self.server.next(&mut input, &mut self.out) {
                ServerEvent::NeedMore => break,
                ServerEvent::StartTls => {
                    assert!(input.is_empty(), "what stood behind STARTTLS is gone (TLS-02)");
                    break;
                }
                ServerEvent::Authenticate => {
                    let answer = judge(*self.server.take_request());
                    self.server.authenticated(answer, &mut self.out);
                }
                ServerEvent::Etrn => {
                    let node = self.server.node();
                    let jobs = match (&*node.domain, node.with_subdomains) {
                        ("held.example", _) => None,
                        ("empty.example", _) => Some(0),
                        (_, _) => Some(3),
                    };
                    self.server.node_started(jobs, &mut self.out);
                }
                ServerEvent::Conveyed => {
                    let may_relay = match self.server.conveyed_address() {
                        Some(address) if address == CROWDED => None,
                        Some(address) => Some(address == peer(true).address),
                        None => Some(self.server.peer().may_relay),
                    };
                    self.server.introduced(may_relay, &mut self.out);
                }
                ServerEvent::Body(piece) => self.body.extend_from_slice(piece),
                ServerEvent::MessageEnd => self.store(),
                ServerEvent::MessageDropped => {
                    self.body.clear();
                    self.dropped += 1;
                }
                ServerEvent::Close => {
                    assert!(input.is_empty());
                    self.body.clear();
                    self.closed = true;
                    break;
                }
            }
        }
        assert!(input.len() < AUTH_LINE_MAX_BYTES);
        self.carry = input.to_vec();
    }

    fn store(&mut self) {
        let body = std::mem::take(&mut self.body);
        let facts = self.server.facts();
        assert_eq!(facts.stored_bytes, body.len() as u64);
        assert_eq!(facts.text.eight_bit, !body.is_ascii());
        let envelope = self.server.envelope();
        let mut parameters = Vec::new();
        let mut order: Vec<u16> = (0..envelope.len() as u16).collect();
        if envelope.is_expanded() {
            envelope.sort(&mut order);
        }
        envelope.write_parameters(&order, facts.header, &mut parameters);
        self.stored.push(Stored {
            sender: envelope.sender().to_vec(),
            recipients: order.iter().map(|&number| envelope.recipient(number.into()).to_vec()).collect(),
            body,
            text: facts.text,
            parameters,
        });
        let id = MessageId { shard: ShardId(0), position: Position::new(1, self.stored.len() as u32) };
        self.server.accepted(Proof::for_tests(), id, &mut self.out);
    }

    fn replies(&mut self) -> String {
        String::from_utf8(std::mem::take(&mut self.out)).unwrap()
    }

    /// Sends whole commands and gives the replies.
    fn say(&mut self, text: &str) -> String {
        self.receive(text.as_bytes());
        self.replies()
    }

    /// In data, with one recipient.
    fn in_data() -> Session {
        let mut session = Session::new(settings(), true);
        session.say("EHLO c.example\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\n");
        assert!(session.say("DATA\r\n").starts_with("354 "));
        session
    }
}

#[test]
fn storage_that_refuses_is_answered_at_the_end_of_data() {
    // EXT-01, QUE-07, QUE-08, SES-27
    for (why, code) in [(LogRefusal::Full, "452 4.3.1 "), (LogRefusal::Failing, "451 4.3.0 ")] {
        let mut session = Session::in_data();
        session.receive(b"a\r\n");
        session.server.storage_refused(why);
        session.receive(b"b\r\n");
        assert_eq!(session.body, b"a\r\n");
        assert_eq!(session.replies(), "");
        assert!(session.say(".\r\n").starts_with(code));
        assert_eq!(session.dropped, 1);
        assert!(session.say("DATA\r\n").starts_with("503 5.5.1 "));

        let mut session = Session::in_data();
        let mut input: &[u8] = b"a\r\n.\r\n";
        let mut out = Vec::new();
        assert_eq!(session.server.next(&mut input, &mut out), ServerEvent::Body(b"a\r\n"));
        assert_eq!(session.server.next(&mut input, &mut out), ServerEvent::MessageEnd);
        session.server.refused_for_room(why, &mut session.out);
        assert!(session.replies().starts_with(code));
        assert!(session.say("RCPT TO:<c@d>\r\n").starts_with("503 5.5.1 "));

        let mut session = Session::new(settings(), true);
        session.server.set_room(Some(why));
        assert!(session.say("EHLO c\r\nMAIL FROM:<a@b>\r\n").contains(&format!("\r\n{code}")));
        session.server.set_room(None);
        assert!(session.say("MAIL FROM:<a@b>\r\n").starts_with("250 "));
    }
}

#[test]
fn a_session_that_ends_early_says_why_once() {
    // SES-23, SES-24, DAT-14
    let mut idle = Session::in_data();
    assert_eq!(idle.server.waiting(), Waiting::Data);
    idle.server.timed_out(&mut idle.out);
    assert!(idle.replies().starts_with("421 4.4.2 "));
    idle.server.shut_down(&mut idle.out);
    assert_eq!(idle.say("NOOP\r\n"), "");
    assert!(idle.closed && idle.server.waiting() == Waiting::Over && idle.stored.is_empty());

    let mut stopped = Session::new(settings(), true);
    stopped.replies();
    stopped.server.shut_down(&mut stopped.out);
    assert!(stopped.replies().starts_with("421 4.3.2 "));
}

#[test]
fn a_message_at_its_end_gets_its_verdict_before_the_shutdown() {
    // SES-24: accepted mail is kept, and the client is told so.
    let mut session = Session::in_data();
    let mut input: &[u8] = b".\r\nNOOP\r\n";
    assert_eq!(session.server.next(&mut input, &mut session.out), ServerEvent::MessageEnd);
    session.server.shut_down(&mut session.out);
    assert_eq!((session.server.waiting(), session.replies().as_str()), (Waiting::Verdict, ""));
    session.store();
    assert!(matches!(session.server.next(&mut input, &mut session.out), ServerEvent::Close));
    let replies = session.replies();
    assert!(replies.starts_with("250 2.0.0 ") && replies.contains("\r\n421 4.3.2 "), "{replies}");
}

#[test]
fn a_client_turned_away_may_only_quit() {
    // SES-02
    let mut session = Session::new(settings(), true);
    session.replies();
    session.server.turn_away(&mut session.out);
    assert!(session.replies().starts_with("554 relay.example "));
    assert!(session.say("EHLO c\r\n").starts_with("503 "));
    assert!(session.say("QUIT\r\n").starts_with("221 ") && session.closed);
}

#[test]
fn a_message_far_over_the_limit_ends_the_session() {
    // DAT-10: past the hard cap.
    for size in [100, 1 << 20] {
        let mut session = Session::in_data();
        let text = b"0123456789\r\n".repeat(20_000);
        for piece in text.chunks(size) {
            session.receive(piece);
        }
        assert!(session.closed && session.replies().starts_with("421 4.3.4 "));
        assert!(session.body.is_empty() && session.stored.is_empty());
    }
}

#[test]
fn errors_are_forgiven_when_a_message_is_accepted() {
    // SES-10
    let mut settings = settings();
    settings.errors_max = 2;
    let mut session = Session::new(settings, true);
    session.say("EHLO c\r\n");
    for _ in 0..5 {
        session.say("BAD\r\nBAD\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\n");
        session.say("DATA\r\n");
        assert!(session.say("a\r\n.\r\n").starts_with("250 "));
    }
    let replies = session.say("BAD\r\nBAD\r\nBAD\r\nNOOP\r\n");
    assert!(session.closed);
    assert_eq!(reply::assert_replies(replies.as_bytes()), [500, 500, 421]);
}

/// RFC 2920 3.1: a client that sends in groups cannot know that MAIL was deferred when it says RCPT and DATA.
#[test]
fn what_follows_a_deferred_mail_is_no_error() {
    let mut settings = settings();
    settings.errors_max = 2;
    let mut session = Session::new(settings, true);
    session.say("EHLO c\r\n");
    for _ in 0..50 {
        session.server.set_room(Some(LogRefusal::Failing));
        let replies = session.say("MAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nDATA\r\n");
        assert_eq!(reply::assert_replies(replies.as_bytes()), [451, 503, 503]);
    }
    session.server.set_room(None);
    let replies = session.say("MAIL FROM:<a@b>\r\nRSET\r\nRCPT TO:<c@d>\r\nRCPT TO:<c@d>\r\nRCPT TO:<c@d>\r\n");
    assert_eq!(reply::assert_replies(replies.as_bytes()), [250, 250, 503, 503, 421]);
}

#[test]
#[should_panic(expected = "has no answer yet")]
fn nothing_is_taken_before_the_verdict() {
    let mut session = Session::in_data();
    let mut input: &[u8] = b".\r\nNOOP\r\n";
    assert_eq!(session.server.next(&mut input, &mut session.out), ServerEvent::MessageEnd);
    session.server.next(&mut input, &mut session.out);
}

/// One turn of a client: commands, then DATA, then the text if DATA was answered 354.
type Turn = (Vec<&'static str>, Vec<u8>);

fn turns() -> impl Strategy<Value = Vec<Turn>> {
    let command = prop_oneof![
        1 => Just("EHLO c.example\r\n"),
        1 => Just("HELO [192.0.2.1]\r\n"),
        4 => Just("MAIL FROM:<a@b.example> SIZE=100 BODY=8BITMIME\r\n"),
        1 => Just("MAIL FROM:<>\r\n"),
        4 => Just("RCPT TO:<c@d.example>\r\n"),
        1 => Just("rcpt to:<\"Postmaster\"@d.example> \r\n"),
        1 => Just("RCPT TO:<Postmaster>\r\n"),
        1 => Just("RCPT TO:<@a,@b:e@f>\r\n"),
        1 => Just("RCPT TO:<bad>\r\n"),
        1 => Just("RSET\r\n"),
        1 => Just("NOOP\r\n"),
        1 => Just("HELP\r\n"),
        1 => Just("bare\nlf\r\n"),
        1 => Just("bare\rcr\r\n"),
        1 => Just("\r\n"),
        2 => Just("BDAT 5\r\n.\r\nab"),
        1 => Just("BDAT 1\r\n\n"),
        2 => Just("BDAT 0 LAST\r\n"),
        1 => Just("BDAT 6 last\r\nQUIT\r\n"),
        1 => Just("BDAT 3 FIRST\r\nabc"),
        1 => Just("MAIL FROM:<a@b> BODY=BINARYMIME\r\n"),
    ];
    let text = prop_oneof![
        3 => Just("line\r\n"),
        1 => Just("..\r\n"),
        1 => Just(".x\r\n"),
        1 => Just("\u{fc}\r\n"),
        1 => Just("Received: x\r\n"),
        1 => Just("\r\n"),
        1 => Just("\0"),
        1 => Just("bare\n"),
        1 => Just("\r"),
        1 => Just("\n.\n"),
        1 => Just("\r\n.\r"),
    ];
    let text = proptest::collection::vec(text, 0..6).prop_map(|parts| parts.concat().into_bytes());
    proptest::collection::vec((proptest::collection::vec(command, 0..6), text), 1..6)
}

/// Runs the turns in receives of these sizes, over and over, and gives all that can be seen from outside.
fn play(turns: &[Turn], sizes: &[usize]) -> (String, Vec<Stored>, usize, bool) {
    let mut settings = settings();
    settings.received_fields_max = 1;
    let mut session = Session::new(settings, true);
    let mut sizes = sizes.iter().cycle();
    let mut receive = |session: &mut Session, mut group: &[u8]| {
        while !group.is_empty() {
            let (piece, rest) = group.split_at(group.len().min(*sizes.next().unwrap()));
            session.receive(piece);
            group = rest;
        }
    };
    let mut group = b"EHLO first.example\r\n".to_vec();
    for (commands, text) in turns {
        group.extend(commands.iter().flat_map(|c| c.as_bytes()));
        group.extend_from_slice(b"DATA\r\n");
        receive(&mut session, &group);
        group.clear();
        if session.server.waiting() == Waiting::Data {
            group.extend_from_slice(text);
            group.extend_from_slice(b"\r\n.\r\n");
        }
    }
    receive(&mut session, &group);
    (session.replies(), session.stored, session.dropped, session.closed)
}

proptest! {
    #[test]
    fn any_split_gives_the_same_session(
        turns in turns(),
        sizes in proptest::collection::vec(1..40_usize, 1..20),
    ) {
        // PIP-01, PIP-02, DAT-15
        let whole = play(&turns, &[usize::MAX]);
        reply::assert_replies(whole.0.as_bytes());
        prop_assert_eq!(&play(&turns, &[1]), &whole);
        prop_assert_eq!(&play(&turns, &sizes), &whole);
    }

    #[test]
    fn garbage_is_answered_line_by_line(
        parts in proptest::collection::vec(prop_oneof![
            Just(b"\r\n".to_vec()), Just(b"EHLO a\r\n".to_vec()), Just(b"MAIL FROM:<".to_vec()), Just(b"a@b>".to_vec()),
            Just(b"RCPT TO:<c@d>\r\n".to_vec()), Just(b"DATA\r\n".to_vec()), Just(b".\r\n".to_vec()),
            Just(b"MAIL FROM:<a@b>\r\n".to_vec()), Just(vec![b'x'; 2100]), proptest::collection::vec(any::<u8>(), 0..8),
        ], 0..60),
    ) {
        // SES-11: replies sent = commands taken, and one for each end of data.
        let mut settings = settings();
        settings.errors_max = 1000;
        let mut session = Session::new(settings, true);
        let (mut due, mut last) = (1, 0);
        for byte in parts.concat() {
            let in_command = session.server.waiting() == Waiting::Command;
            due += usize::from(in_command && last == b'\r' && byte == b'\n');
            // Behind the end of data a line starts afresh.
            let ended = session.stored.len() + session.dropped;
            session.receive(&[byte]);
            due += session.stored.len() + session.dropped - ended;
            last = byte;
        }
        let replies = session.replies();
        prop_assert_eq!(reply::assert_replies(replies.as_bytes()).len(), due);
        prop_assert!(session.stored.iter().all(|m| !m.recipients.is_empty()));

        let mut at_once = Session::new(self::settings(), false);
        at_once.receive(&parts.concat());
        reply::assert_replies(at_once.replies().as_bytes());
    }
}

/// Prints what a pipelined message of 10 KiB costs the session, without storing it
/// (`cargo test --release -- --ignored --nocapture speed_of`).
#[test]
#[ignore = "a measurement"]
fn speed_of_a_message() {
    let mut stream = b"x".repeat(75);
    stream.extend_from_slice(b"\r\n");
    stream = stream.repeat(133);
    stream.extend_from_slice(b".\r\nMAIL FROM:<sender@client.example> SIZE=10241 BODY=8BITMIME\r\n");
    stream.extend_from_slice(b"RCPT TO:<recipient@destination.example>\r\nDATA\r\n");
    let mut session = Session::in_data();
    let (rounds, id) = (100_000, MessageId { shard: ShardId(0), position: Position::new(1, 4096) });
    let start = std::time::Instant::now();
    for _ in 0..rounds {
        let mut input = std::hint::black_box(stream.as_slice());
        loop {
            match session.server.next(&mut input, &mut session.out) {
                ServerEvent::NeedMore => break,
                ServerEvent::MessageEnd => session.server.accepted(Proof::for_tests(), id, &mut session.out),
                _ => {}
            }
        }
        assert!(session.server.waiting() == Waiting::Data && session.out.ends_with(b"dot\r\n"));
        session.out.clear();
    }
    println!("{} ns for a message of {} bytes", start.elapsed().as_nanos() / rounds, stream.len());
}
