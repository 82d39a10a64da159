//! The client against scripted, random and fair servers.

use super::*;
use crate::base::limits;
use crate::base::rng::Rng;
use crate::base::time::UnixMs;
use crate::config::TimeoutSettings;
use crate::mail::parameters::{DeliverBy, Late, MessageParameters, RecipientParameters};
use crate::mail::text::Text;
use crate::smtp::auth::{ExchangeState, ProofAnswer, Said};
use proptest::prelude::*;
use std::collections::VecDeque;
use std::fmt::Write;
use std::path::Path;

fn new_client() -> Client {
    Client::new(
        Rc::new(ClientSettings {
            hello: "relay.example".into(),
            timeouts: TimeoutSettings::default(),
            chunking: true,
            keeps_name: true,
        }),
        Mono(0),
    )
}

/// Writes down what the client says, and checks what must hold whatever the next hop does.
#[derive(Default)]
struct Recorder {
    events: VecDeque<String>,
    transactions: Vec<Recorded>,
}

#[derive(Default, Clone)]
struct Recorded {
    verdicts: Vec<Option<Outcome>>,
    bodies: usize,
    finished: bool,
}

impl Recorder {
    fn expect(&mut self, handle: u32, recipients: usize) {
        let handle = handle as usize;
        self.transactions.resize(self.transactions.len().max(handle + 1), Recorded::default());
        self.transactions[handle] = Recorded { verdicts: vec![None; recipients], ..Recorded::default() };
    }

    fn assert_all_settled(&self) {
        assert!(self.transactions.iter().all(|t| t.finished || t.verdicts.is_empty()), "a transaction was left open");
    }
}

impl ClientHandler for Recorder {
    fn push_body(&mut self, handle: u32, form: Form, out: &mut Outbox) {
        let transaction = &mut self.transactions[handle as usize];
        transaction.bodies += 1;
        assert_eq!(transaction.bodies, 1, "two bodies for one transaction");
        assert!(!transaction.finished && transaction.verdicts.contains(&None), "a body that no one is to get");
        let line = if form == Form::Plain { "plain" } else { "body" };
        out.push(format!("Subject: {handle}\r\n\r\n{line}\r\n").as_bytes());
    }

    fn verdict(&mut self, handle: u32, recipient: usize, verdict: ClientVerdict<'_>) {
        let ClientVerdict { outcome, code, text, phase } = verdict;
        assert!(text.len() <= limits::VERDICT_TEXT_MAX_BYTES && text.iter().all(|b| (b' '..=b'~').contains(b)));
        let transaction = &mut self.transactions[handle as usize];
        assert_eq!(transaction.verdicts[recipient], None, "a second verdict");
        assert!(transaction.bodies == 1 || !matches!(outcome, Outcome::Delivered | Outcome::Unknown));
        transaction.verdicts[recipient] = Some(outcome);
        let text = str::from_utf8(text).expect("ASCII");
        self.events.push_back(format!("{handle}.{recipient} {outcome:?} {code} {phase:?}").to_lowercase() + " " + text);
    }

    fn finished(&mut self, handle: u32, _: Passed) {
        let transaction = &mut self.transactions[handle as usize];
        assert!(!transaction.finished && transaction.verdicts.iter().all(Option::is_some));
        transaction.finished = true;
        self.events.push_back(format!("{handle} finished"));
    }
}

/// A client, its outbox and its recorder.
struct Session {
    client: Client,
    out: Outbox,
    recorder: Recorder,
}

impl Session {
    fn new() -> Session {
        Session { client: new_client(), out: Outbox::new(), recorder: Recorder::default() }
    }

    fn receive(&mut self, bytes: &[u8]) {
        let mut rest = bytes;
        while !rest.is_empty() {
            rest = self.client.receive(Mono(0), rest, &mut self.recorder, &mut self.out);
        }
    }

    fn offer(&mut self, handle: u32, sender: &str, recipients: &[&str], size_bytes: u64, eight_bit: bool) {
        self.offer_text(handle, sender, recipients, size_bytes, Text { eight_bit, ..Text::default() });
    }

    fn offer_text(&mut self, handle: u32, sender: &str, recipients: &[&str], size_bytes: u64, text: Text) {
        self.offer_with(handle, sender, recipients, size_bytes, text, &[]);
    }

    /// `said` are parameters as MAIL and RCPT had them, those of RCPT for each recipient.
    fn offer_with(
        &mut self,
        handle: u32,
        sender: &str,
        recipients: &[&str],
        size_bytes: u64,
        text: Text,
        said: &[&str],
    ) {
        self.recorder.expect(handle, recipients.len());
        let value = |name: &str| said.iter().find_map(|word| word.strip_prefix(name)).map(str::as_bytes);
        let by = value("BY=").map(|by| str::from_utf8(by).unwrap().split_once(';').unwrap());
        let parameters = MessageParameters {
            ret: value("RET="),
            envid: value("ENVID="),
            priority: value("MT-PRIORITY=").map(|number| str::from_utf8(number).unwrap().parse().unwrap()),
            deliver_by: by.map(|(_, mode)| DeliverBy {
                by: UnixMs(0),
                late: if mode.starts_with('R') { Late::Return } else { Late::Notify },
                traced: mode.ends_with('T'),
            }),
            require_tls: self.client.needs.require_tls,
            auth: value("AUTH=").is_some(),
            ..MessageParameters::default()
        };
        let rcpt = RecipientParameters {
            notify: value("NOTIFY=").unwrap_or_default(),
            orcpt: value("ORCPT=").unwrap_or_default(),
        };
        let mut names = recipients.iter().map(|r| OfferedRecipient { address: r.as_bytes(), said: rcpt });
        let offer = Offer {
            handle,
            sender: sender.as_bytes(),
            recipients: &mut names,
            size_bytes,
            text,
            parameters,
            by_seconds: by.map_or(0, |(seconds, _)| seconds.parse().unwrap()),
        };
        self.client.offer(Mono(0), offer, &mut self.recorder, &mut self.out);
    }

    /// Whoever has the credentials says this.
    fn prove(&mut self, text: &str, complete: bool) {
        let text = zeroize::Zeroizing::new(text.as_bytes().to_vec());
        let said = Said { text, state: Some(ExchangeState::new("before")), complete };
        self.client.proven(Mono(0), ProofAnswer::Say(said), &mut self.out);
    }

    /// What whoever has the credentials is asked.
    fn take_question(&mut self) -> String {
        let request = self.client.take_proof_request().expect("a question");
        assert!(self.client.take_proof_request().is_none(), "it is asked once");
        assert_eq!(&*request.credentials, Path::new("file"));
        let challenge = request.challenge.map(|text| format!(" {}", String::from_utf8(text).unwrap()));
        let state = request.state.map(|state| format!(" {}", state.take::<&str>().unwrap()));
        let [challenge, state] = [challenge, state].map(Option::unwrap_or_default);
        format!("asked {}{challenge}{state}", request.mechanism.name())
    }

    fn take_sent(&mut self) -> Vec<u8> {
        let sent = self.out.to_vec();
        self.out.clear();
        sent
    }

    fn state_text(&self) -> String {
        let mut text = match self.client.state() {
            ClientState::Over(SessionEnd::Throttled { code }) => format!("over throttled {code}"),
            ClientState::Over(SessionEnd::Refused { code }) => format!("over refused {code}"),
            ClientState::Over(SessionEnd::LoginRefused { code }) => format!("over loginrefused {code}"),
            ClientState::Over(end) => format!("over {end:?}"),
            state => format!("{state:?}"),
        }
        .to_lowercase();
        if self.client.can_take() {
            text.write_str(" take").unwrap();
        }
        text
    }
}

/// How the next hop's lines reach the client.
#[derive(Clone, Copy, Debug)]
enum Cut {
    Bytes,
    Lines,
    Groups,
}

/// Runs one dialogue file (tests/client-dialogues/README).
fn run_dialogue(name: &str, text: &str, cut: Cut) {
    let mut session = Session::new();
    let mut sent: VecDeque<String> = VecDeque::new();
    let mut lines = text.lines().enumerate().filter(|(_, l)| !l.is_empty() && !l.starts_with('#')).peekable();
    while let Some((number, line)) = lines.next() {
        let place = format!("{name}:{} ({cut:?})", number + 1);
        let (mark, rest) = line.split_at(line.len().min(2));
        let rest = rest.strip_prefix(' ').unwrap_or(rest);
        if matches!(mark, "S:" | "> " | "! ") {
            assert!(sent.is_empty(), "{place}: the client sent more: {sent:?}");
            assert!(session.recorder.events.is_empty(), "{place}: there is more: {:?}", session.recorder.events);
        }
        match mark {
            "S:" => {
                let mut group = format!("{rest}\r\n");
                while let Some((_, next)) = lines.next_if(|(_, l)| l.starts_with("S:")) {
                    write!(group, "{}\r\n", next[2..].strip_prefix(' ').unwrap_or(&next[2..])).unwrap();
                }
                match cut {
                    Cut::Bytes => group.as_bytes().chunks(1).for_each(|b| session.receive(b)),
                    Cut::Lines => group.as_bytes().split_inclusive(|&b| b == b'\n').for_each(|l| session.receive(l)),
                    Cut::Groups => session.receive(group.as_bytes()),
                }
            }
            "C:" => assert_eq!(sent.pop_front().as_deref(), Some(rest), "{place}"),
            "> " => {
                let mut words = rest.split(' ');
                let handle = words.next().unwrap().parse().unwrap();
                let sender = words.next().unwrap().strip_suffix(':').unwrap();
                let words: Vec<&str> = words.collect();
                let recipients: Vec<&str> =
                    words.iter().copied().filter(|w| w.contains('@') && !w.contains('=')).collect();
                let size = words.iter().find_map(|w| w.strip_prefix("size=")).map_or(100, |n| n.parse().unwrap());
                let sender = if sender == "null" { "" } else { sender };
                let is = |word| words.contains(&word);
                let (eight_bit, binary, open_end) = (is("8bit"), is("binary"), is("open"));
                let text = Text { eight_bit, plain: binary || open_end, binary, open_end };
                session.offer_with(handle, sender, &recipients, size, text, &words);
            }
            "! " => match rest {
                "close" => session.client.closed(&mut session.recorder),
                "timeout" => session.client.timed_out(session.client.deadline(), &mut session.recorder),
                "quit" => session.client.quit(Mono(0), &mut session.out),
                "may" => session.client.tls = TlsWish::IfOffered,
                "utf8" => session.client.needs.utf8 = true,
                "requiretls" => session.client.needs.require_tls = true,
                "encrypt" => session.client.tls = TlsWish::Always,
                "secured" => session.client.secured(Mono(0), &mut session.out),
                "lmtp" => session.client.protocol = Protocol::Lmtp,
                "login" | "login proven" | "login clear" => {
                    let (proven, allow_clear) = (rest.ends_with("proven"), rest.ends_with("clear"));
                    session.client.login = Some(Login { credentials: Path::new("file").into(), proven, allow_clear });
                }
                other => match other.split_once(' ').unwrap_or((other, "")) {
                    ("say", text) => session.prove(text, false),
                    ("last", text) => session.prove(text, true),
                    ("cannot", why) => {
                        session.client.proven(Mono(0), ProofAnswer::Impossible(why.into()), &mut session.out);
                    }
                    _ => panic!("{place}: what is {other}"),
                },
            },
            "= " => match rest.strip_prefix("state ") {
                Some(state) => assert_eq!(session.state_text(), state, "{place}"),
                None if rest.starts_with("asked ") => assert_eq!(session.take_question(), rest, "{place}"),
                None => assert_eq!(session.recorder.events.pop_front().as_deref(), Some(rest), "{place}"),
            },
            _ => panic!("{place}: what is {line}"),
        }
        let new = String::from_utf8(session.take_sent()).unwrap();
        sent.extend(new.split_terminator("\r\n").map(str::to_owned));
    }
    assert!(sent.is_empty(), "{name}: the client sent more: {sent:?}");
    assert!(session.recorder.events.is_empty(), "{name}: there is more: {:?}", session.recorder.events);
    session.client.closed(&mut session.recorder);
    session.recorder.assert_all_settled();
}

/// Golden dialogues: PIP-04..08, PIP-10, RTE-13..22, SIZ-10, EXT-02, EXT-04, EXT-10.
#[test]
fn dialogues() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/client-dialogues");
    let mut count = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|e| e == "txt") {
            let (name, text) = (path.file_name().unwrap().to_string_lossy(), std::fs::read_to_string(&path).unwrap());
            for cut in [Cut::Bytes, Cut::Lines, Cut::Groups] {
                run_dialogue(&name, &text, cut);
            }
            count += 1;
        }
    }
    assert!(count >= 20, "only {count} dialogues were found");
}

/// A transaction that is offered between the end of one and the 354 of the next, all in one read, rides behind the next
/// one's body: with mail enough every message costs one round trip (PIP-04).
#[test]
fn every_body_takes_an_envelope_along() {
    let mut session = Session::new();
    session.receive(b"220 a\r\n");
    session.receive(b"250-b\r\n250 PIPELINING\r\n");
    session.offer(0, "a@a", &["b@b"], 10, false);
    session.offer(1, "a@a", &["b@b"], 10, false);
    session.receive(b"250 x\r\n250 x\r\n354 x\r\n");
    for next in 2..5 {
        session.take_sent();
        let replies = b"250 taken\r\n250 x\r\n250 x\r\n354 x\r\n";
        let rest = session.client.receive(Mono(0), replies, &mut session.recorder, &mut session.out);
        assert_eq!(rest, &replies[11..]);
        session.offer(next, "a@a", &["b@b"], 10, false);
        assert!(session.out.is_empty(), "it waits for the 354");
        session.receive(rest);
        let sent = String::from_utf8(session.take_sent()).unwrap();
        let body = format!("Subject: {}\r\n\r\nbody\r\n.\r\nMAIL FROM", next - 1);
        assert!(sent.starts_with(&body) && sent.ends_with("DATA\r\n"), "{sent}");
    }
}

/// A reply that was on its way before its command could be read is no reply to it (RTE-21).
#[test]
fn a_reply_before_its_command_breaks_the_session() {
    let mut session = Session::new();
    session.receive(b"220 a\r\n250 b\r\n");
    assert_eq!(session.client.state(), ClientState::Over(SessionEnd::Broken));
    assert!(!session.client.end_text().is_empty());

    let mut session = Session::new();
    session.receive(b"220 a\r\n");
    session.receive(b"250-b\r\n250 PIPELINING\r\n");
    session.offer(0, "a@a", &["b@b"], 10, false);
    session.receive(b"250 x\r\n250 x\r\n354 x\r\n250 before it saw anything\r\n");
    assert_eq!(session.client.state(), ClientState::Over(SessionEnd::Broken));
    // The body stands in the outbox and may have been sent.
    assert_eq!(session.recorder.transactions[0].verdicts, [Some(Outcome::Unknown)]);
}

/// PIP-09: the client takes replies at any time, whatever waits to be sent.
#[test]
fn five_hundred_recipients_with_long_replies() {
    let mut session = Session::new();
    session.receive(b"220 a\r\n");
    session.receive(b"250-b\r\n250 PIPELINING\r\n");
    let names: Vec<String> = (0..500).map(|i| format!("r{i}@b.example")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    session.offer(0, "a@a", &names, 10, false);
    session.receive(b"250 ok\r\n");
    for i in 0..500 {
        let code = if i % 3 == 0 { 550 } else { 250 };
        session.receive(format!("{code}-{}\r\n{code} {i}\r\n", "x".repeat(500)).as_bytes());
    }
    session.receive(b"354 go\r\n");
    session.receive(b"250 ok\r\n");
    for (i, verdict) in session.recorder.transactions[0].verdicts.iter().enumerate() {
        assert_eq!(*verdict, Some(if i % 3 == 0 { Outcome::Failed } else { Outcome::Delivered }));
    }
}

/// RTE-15: each wait has its own limit, and a body being sent renews its own.
#[test]
fn every_wait_has_its_limit() {
    let mut session = Session::new();
    let limit = |session: &Session| session.client.deadline().ms_since(Mono(0));
    assert_eq!(limit(&session), limits::GREETING_TIMEOUT_MS);
    session.receive(b"220 a\r\n");
    assert_eq!(limit(&session), limits::HELLO_TIMEOUT_MS);
    session.receive(b"250-b\r\n250 PIPELINING\r\n");
    assert_eq!(session.client.deadline(), Mono::NEVER);
    session.offer(0, "a@a", &["b@b"], 10, false);
    assert_eq!(limit(&session), limits::MAIL_TIMEOUT_MS);
    session.receive(b"250 a\r\n");
    assert_eq!(limit(&session), limits::RCPT_TIMEOUT_MS);
    session.receive(b"250 a\r\n");
    assert_eq!(limit(&session), limits::DATA_TIMEOUT_MS);
    session.receive(b"354 a\r\n");
    assert_eq!(limit(&session), limits::DATA_BLOCK_TIMEOUT_MS);
    session.client.sent_progress(Mono(5000), false);
    assert_eq!(limit(&session), limits::DATA_BLOCK_TIMEOUT_MS + 5);
    session.client.sent_progress(Mono(5000), true);
    assert_eq!(limit(&session), limits::DATA_END_TIMEOUT_MS + 5);
    session.client.timed_out(Mono(0), &mut session.recorder);
    assert_eq!(session.client.state(), ClientState::Busy, "the limit has not passed");
    session.receive(b"250 a\r\n");
    session.client.quit(Mono(0), &mut session.out);
    assert_eq!(limit(&session), limits::QUIT_TIMEOUT_MS);
}

/// A warm session takes no memory per transaction: its buffers are those of the first ones.
#[test]
fn buffers_are_reused() {
    let mut session = Session::new();
    session.receive(b"220 a\r\n");
    session.receive(b"250-b\r\n250 PIPELINING\r\n");
    session.offer(0, "a@a", &["b@b"], 10, false);
    session.receive(b"250 a\r\n250 a\r\n354 a\r\n");
    let mut capacity = None;
    for handle in 1..1000 {
        session.offer(handle, "a@a", &["b@b"], 10, false);
        session.receive(b"250 2.0.0 taken\r\n250 a\r\n250 a\r\n354 a\r\n");
        session.take_sent();
        let Client { text, current, riding, .. } = &session.client;
        let now = (text.capacity(), current.capacity_bytes() + riding.capacity_bytes());
        assert!(handle < 3 || capacity == Some(now));
        capacity = Some(now);
    }
}

/// DAT-04: no mailbox can smuggle a command.
#[test]
#[should_panic(expected = "a mailbox holds no line end")]
fn a_line_end_in_a_mailbox_is_a_bug_of_ours() {
    let mut session = Session::new();
    session.receive(b"220 a\r\n");
    session.receive(b"250 b\r\n");
    session.offer(0, "a@a", &["b@b>\r\nDATA"], 10, false);
}

/// What is left in the outbox is worth sending only behind a QUIT.
#[test]
fn only_a_quit_is_worth_sending_at_the_end() {
    for (script, goodbye) in [
        (&["554 no\r\n"][..], true),
        (&["451 no\r\n"], true),
        (&["421 no\r\n"], false),
        (&["220 a\r\n", "rubbish\r\n"], false),
    ] {
        let mut session = Session::new();
        script.iter().for_each(|line| session.receive(line.as_bytes()));
        assert!(matches!(session.client.state(), ClientState::Over(_)));
        assert_eq!(session.client.says_goodbye(), goodbye, "{script:?}");
        assert_eq!(session.take_sent().ends_with(b"QUIT\r\n"), goodbye);
    }
}

/// One thing that happens to a session under random fire.
#[derive(Clone, Debug)]
enum Act {
    Bytes(Vec<u8>),
    Offer { recipients: usize, large: bool, eight_bit: bool },
    Sent(bool),
    Quit,
    Timeout,
    Close,
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let reply = prop_oneof![
        6 => Just("250 ok\r\n"), 2 => Just("250-b\r\n250 PIPELINING\r\n"), 3 => Just("354 go\r\n"), 2 => Just("550 5.1.1 no\r\n"),
        1 => Just("451 later\r\n"), 1 => Just("452 many\r\n"), 1 => Just("421 4.4.2 bye\r\n"), 1 => Just("250-more\r\n"),
        1 => Just("250 o"), 1 => Just("k\r\n"), 1 => Just("503 no\r\n"), 1 => Just("250 a\r\n250 b\r\n354 c\r\n"),
    ]
    .prop_map(|text| Act::Bytes(text.as_bytes().to_vec()));
    let act = prop_oneof![
        20 => reply,
        1 => prop::collection::vec(any::<u8>(), 1..40).prop_map(Act::Bytes),
        8 => (1usize..4, prop::bool::weighted(0.1), prop::bool::weighted(0.1))
            .prop_map(|(recipients, large, eight_bit)| Act::Offer { recipients, large, eight_bit }),
        2 => any::<bool>().prop_map(Act::Sent),
        1 => Just(Act::Quit),
        1 => Just(Act::Timeout),
        1 => Just(Act::Close),
    ];
    let opened = Just(vec![
        Act::Bytes(b"220 a\r\n".to_vec()),
        Act::Bytes(b"250-b\r\n250-SIZE 1000\r\n250 PIPELINING\r\n".to_vec()),
    ]);
    let opening = prop_oneof![4 => opened, 1 => Just(Vec::new())];
    (opening, prop::collection::vec(act, 0..60)).prop_map(|(opening, acts)| [opening, acts].concat())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    /// Whatever a next hop sends and whenever the session ends: one verdict per recipient, at most one body per
    /// transaction and none for nobody (the recorder asserts it), bounded memory, no panic (RTE-21, PIP-10).
    #[test]
    fn exactly_one_verdict_whatever_happens(acts in acts()) {
        let mut session = Session::new();
        let mut handle = 0;
        for act in acts {
            match act {
                Act::Bytes(bytes) => session.receive(&bytes),
                Act::Offer { recipients, large, eight_bit } if session.client.can_take() => {
                    let size = if large { 5000 } else { 500 };
                    session.offer(handle, "a@a", &["x@b", "y@b", "z@b"][..recipients], size, eight_bit);
                    handle += 1;
                }
                Act::Quit if session.client.state() == ClientState::Ready => session.client.quit(Mono(0), &mut session.out),
                Act::Sent(drained) => session.client.sent_progress(Mono(0), drained),
                Act::Timeout => session.client.timed_out(session.client.deadline(), &mut session.recorder),
                Act::Close => session.client.closed(&mut session.recorder),
                Act::Offer { .. } | Act::Quit => {}
            }
            prop_assert!(session.client.parser.held_bytes() <= limits::REPLY_LINE_MAX_BYTES);
            prop_assert!(session.client.text.len() <= limits::VERDICT_TEXT_MAX_BYTES);
            if let ClientState::Over(_) = session.client.state() {
                session.recorder.assert_all_settled();
                prop_assert_eq!(session.client.deadline(), Mono::NEVER);
            }
            let open = session.recorder.transactions.iter().filter(|t| !t.finished).count();
            prop_assert!(open <= 2 && (open == 0 || session.client.state() == ClientState::Busy));
        }
        session.client.closed(&mut session.recorder);
        session.recorder.assert_all_settled();
    }
}

/// A server that follows the RFCs and decides at random; it knows what it took, and so what the verdicts must be.
struct FairServer {
    rng: Rng,
    pipelining: bool,
    input: Vec<u8>,
    output: Vec<u8>,
    sender: bool,
    /// Handle and index of the recipients accepted in the open transaction.
    accepted: Vec<(u32, usize)>,
    /// The body so far; `None`: in commands.
    body: Option<Vec<u8>>,
    truth: Vec<((u32, usize), Outcome)>,
}

impl FairServer {
    fn reply(&mut self, text: &str) {
        self.output.extend_from_slice(text.as_bytes());
        self.output.extend_from_slice(b"\r\n");
    }

    fn take(&mut self, bytes: &[u8]) {
        if !self.pipelining {
            assert!(self.input.is_empty() && self.output.is_empty(), "a group for a server that takes none");
            let lines = bytes.iter().filter(|&&b| b == b'\n').count();
            assert!(lines <= 1 || self.body.is_some(), "a group for a server that takes none");
        }
        self.input.extend_from_slice(bytes);
        while let Some(end) = self.input.iter().position(|&b| b == b'\n') {
            let line: Vec<u8> = self.input.drain(..=end).collect();
            assert!(line.ends_with(b"\r\n"));
            if self.body.is_some() { self.data(&line) } else { self.command(str::from_utf8(&line).unwrap().trim_end()) }
        }
    }

    fn command(&mut self, line: &str) {
        let lucky = self.rng.below(4) > 0;
        match &line[..4] {
            "EHLO" if self.pipelining => self.reply("250-b\r\n250-8BITMIME\r\n250 PIPELINING"),
            "EHLO" => self.reply("250 b"),
            "RSET" => {
                self.sender = false;
                self.accepted.clear();
                self.reply("250 ok");
            }
            "MAIL" if self.sender => panic!("MAIL inside a transaction"),
            "MAIL" if lucky => {
                self.sender = true;
                self.reply("250 ok");
            }
            "MAIL" => self.reply("550 no"),
            "RCPT" if !self.sender => self.reply("503 no"),
            "RCPT" if lucky => {
                // The recipient's name tells which it is: RCPT TO:<HANDLE.INDEX@b>
                let name = &line[9..line.find('@').unwrap()];
                let (handle, index) = name.split_once('.').unwrap();
                self.accepted.push((handle.parse().unwrap(), index.parse().unwrap()));
                self.reply("250-fine\r\n250 ok");
            }
            "RCPT" => self.reply("450 4.2.1 no"),
            "DATA" if self.accepted.is_empty() && self.rng.below(2) == 0 => {
                // What servers do before all the RFC says: the transaction stays.
                self.reply("554 no valid recipients");
            }
            "DATA" if self.sender && (lucky || self.accepted.is_empty()) => {
                self.body = Some(Vec::new());
                self.reply("354 go");
            }
            "DATA" => self.reply("451 no"),
            other => panic!("what is {other}"),
        }
    }

    fn data(&mut self, line: &[u8]) {
        if line != b".\r\n" {
            return self.body.as_mut().unwrap().extend_from_slice(line);
        }
        let body = self.body.take().unwrap();
        self.sender = false;
        let accepted = std::mem::take(&mut self.accepted);
        let Some(&(handle, _)) = accepted.first() else {
            assert!(body.is_empty(), "a message for nobody");
            return self.reply("554 no one");
        };
        assert_eq!(body, format!("Subject: {handle}\r\n\r\nbody\r\n").as_bytes());
        assert!(accepted.iter().all(|(h, _)| *h == handle), "transactions are mixed up");
        let (outcome, reply) =
            [(Outcome::Delivered, "250 ok"), (Outcome::Deferred, "451 no"), (Outcome::Failed, "554 no")]
                [self.rng.below(3) as usize];
        self.truth.extend(accepted.into_iter().map(|who| (who, outcome)));
        self.reply(reply);
    }
}

/// The oracle: over thousands of random sessions the verdicts are what the server knows to be true (PIP-04..08, RTE-18).
#[test]
fn verdicts_are_the_servers_truth() {
    let mut delivered_in_all = 0;
    for seed in 0..2000 {
        let mut rng = Rng::new(seed);
        let mut server = FairServer {
            rng: Rng::new(seed + 1_000_000),
            pipelining: seed % 3 != 0,
            input: Vec::new(),
            output: b"220 b\r\n".to_vec(),
            sender: false,
            accepted: Vec::new(),
            body: None,
            truth: Vec::new(),
        };
        let mut session = Session::new();
        let mut handle = 0;
        loop {
            let done = handle == 20 && session.client.state() == ClientState::Ready;
            match rng.below(3) {
                0 if session.client.can_take() && handle < 20 => {
                    let names: Vec<String> = (0..=rng.below(3)).map(|i| format!("{handle}.{i}@b")).collect();
                    session.offer(handle, "a@a", &names.iter().map(String::as_str).collect::<Vec<_>>(), 100, false);
                    handle += 1;
                }
                1 if !server.output.is_empty() => {
                    let whole = server.output.len() as u64;
                    let count = if server.pipelining { rng.below(whole) + 1 } else { whole };
                    let bytes: Vec<u8> = server.output.drain(..count as usize).collect();
                    session.receive(&bytes);
                }
                _ if !session.out.is_empty() => {
                    let sent = session.take_sent();
                    server.take(&sent);
                }
                _ if done => break,
                _ => {}
            }
            assert!(
                !matches!(session.client.state(), ClientState::Over(_)),
                "seed {seed}: {}",
                session.client.end_text().escape_ascii()
            );
        }
        session.recorder.assert_all_settled();
        let recorded = &session.recorder.transactions;
        for ((handle, index), outcome) in &server.truth {
            assert_eq!(recorded[*handle as usize].verdicts[*index], Some(*outcome), "seed {seed}");
        }
        let delivered = recorded.iter().flat_map(|t| &t.verdicts).filter(|v| **v == Some(Outcome::Delivered)).count();
        assert_eq!(delivered, server.truth.iter().filter(|(_, o)| *o == Outcome::Delivered).count(), "seed {seed}");
        delivered_in_all += delivered;
    }
    assert!(delivered_in_all > 1000, "the test tests nothing");
}
