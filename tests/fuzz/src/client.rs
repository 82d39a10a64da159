//! Outbound sessions: whatever a next hop says and whenever, each recipient gets exactly one verdict, each message at most
//! one body, what leaves is commands and bodies only, and nothing of a message leaves before TLS and AUTH where they are wanted
//! (PIP-04..10, RTE-13..22, TLS-05, TLS-07, AUT-10).
//!
//! The input is a script as in `tests/client-dialogues`: `S:` a line of the next hop, `> HANDLE SENDER: RECIPIENT...
//! [size=N] [8bit] [binary]` an offer, `! close|timeout|quit|sent|drained|secured` and `! say|last|cannot TEXT` what else happens;
//! `! may|encrypt|lmtp|utf8|requiretls` and `! login [proven|clear]` hold from the beginning, wherever they stand; `C:`, `=` and `#`
//! count for nothing. Any other line is bytes of the next hop without their line end.

use std::path::Path;
use std::rc::Rc;

use ringpost::base::bytes::Outbox;
use ringpost::base::limits;
use ringpost::base::time::Mono;
use ringpost::config::{Protocol, TimeoutSettings};
use ringpost::mail::text::{Form, Text};
use ringpost::smtp::auth::{ExchangeState, Mechanism, ProofAnswer, Said};
use ringpost::smtp::client::{
    Client, ClientHandler, ClientSettings, ClientState, ClientVerdict, Login, Needs, Offer, Outcome, Passed, Phase,
    TlsWish,
};

/// Any bytes are a script.
pub fn run(data: &[u8]) {
    let whole = play(data, false);
    assert_eq!(play(data, true), whole, "the pieces of a line do not matter");
}

fn hear(client: &mut Client, bytes: &[u8], recorder: &mut Recorder, out: &mut Outbox) {
    let mut rest = bytes;
    while !rest.is_empty() {
        rest = client.receive(Mono(0), rest, recorder, out);
    }
}

/// What the caller wants of the session.
struct Wanted {
    tls: TlsWish,
    login: Option<Login>,
    protocol: Protocol,
    needs: Needs,
}

impl Wanted {
    fn by(script: &[u8]) -> Wanted {
        let login = |proven, allow_clear| Some(Login { credentials: Path::new("file").into(), proven, allow_clear });
        let mut wanted = Wanted { tls: TlsWish::Never, login: None, protocol: Protocol::Smtp, needs: Needs::default() };
        for line in script.split(|&b| b == b'\n') {
            match line {
                b"! may" => wanted.tls = TlsWish::IfOffered,
                b"! encrypt" => wanted.tls = TlsWish::Always,
                b"! lmtp" => wanted.protocol = Protocol::Lmtp,
                b"! login" => wanted.login = login(false, false),
                b"! login proven" => wanted.login = login(true, false),
                b"! login clear" => wanted.login = login(false, true),
                b"! utf8" => wanted.needs.utf8 = true,
                b"! requiretls" => wanted.needs.require_tls = true,
                _ => {}
            }
        }
        wanted
    }

    fn session(&self) -> Client {
        let settings = ClientSettings {
            hello: "relay.example".into(),
            timeouts: TimeoutSettings::default(),
            chunking: true,
            keeps_name: true,
        };
        let client = Client::new(Rc::new(settings), Mono(0)).with_tls(self.tls).with_protocol(self.protocol);
        client.with_needs(self.needs).with_login(self.login.clone())
    }

    /// Nothing of a message leaves before this, and no password where it may be heard.
    fn check(&self, client: &Client, proved: bool) {
        if matches!(client.state(), ClientState::Ready | ClientState::Busy) {
            assert!(client.is_secured() || self.tls != TlsWish::Always);
            assert!(client.is_secured() || !self.needs.require_tls);
            assert!(proved || self.login.is_none());
        }
        assert!(self.tls != TlsWish::Never || (!client.is_secured() && client.state() != ClientState::Handshake));
    }

    /// Whoever has the credentials is asked, and says what the script has.
    fn prove(&self, client: &mut Client, said: &[u8], out: &mut Outbox) -> bool {
        let (verb, text) = said.split_at(said.iter().position(|&b| b == b' ').unwrap_or(said.len()));
        let text = text.get(1..).unwrap_or_default();
        let request = client.take_proof_request().expect("it is asked once");
        assert!(client.take_proof_request().is_none());
        let login = self.login.as_ref().expect("nobody logs in unasked");
        let heard = !((client.is_secured() && login.proven) || login.allow_clear);
        assert!(!heard || !matches!(request.mechanism, Mechanism::Plain | Mechanism::Login));
        assert!(client.is_secured() || login.allow_clear);
        let text = text[..text.len().min(limits::AUTH_CHALLENGE_MAX_BYTES)].to_vec();
        let complete = verb == b"last";
        let answer = match verb {
            b"cannot" => ProofAnswer::Impossible(String::from_utf8_lossy(&text).into()),
            _ => ProofAnswer::Say(Said { text: text.into(), state: Some(ExchangeState::new(0)), complete }),
        };
        client.proven(Mono(0), answer, out);
        complete
    }
}

fn play(data: &[u8], bytewise: bool) -> Vec<String> {
    let wanted = Wanted::by(data);
    let mut client = wanted.session();
    let mut proved = false;
    let (mut out, mut sent, mut recorder) = (Outbox::new(), Vec::new(), Recorder::default());
    for line in data.split(|&b| b == b'\n') {
        let (mark, rest) = line.split_at(line.len().min(2));
        let rest = rest.strip_prefix(b" ").unwrap_or(rest);
        match mark {
            b"S:" => {
                let bytes = [rest, b"\r\n"].concat();
                let step = if bytewise { 1 } else { bytes.len() };
                bytes.chunks(step).for_each(|piece| hear(&mut client, piece, &mut recorder, &mut out));
            }
            b"> " if client.can_take() => offer(&mut client, rest, &mut recorder, &mut out),
            b"! " => match rest {
                b"close" => client.closed(&mut recorder),
                b"timeout" => client.timed_out(client.deadline(), &mut recorder),
                b"quit" if client.state() == ClientState::Ready => client.quit(Mono(0), &mut out),
                b"sent" => client.sent_progress(Mono(0), false),
                b"drained" => client.sent_progress(Mono(0), true),
                b"secured" if client.state() == ClientState::Handshake => client.secured(Mono(0), &mut out),
                said if client.state() == ClientState::Proving => proved = wanted.prove(&mut client, said, &mut out),
                _ => {}
            },
            b"C:" | b"= " | b"# " | b"> " => {}
            _ => hear(&mut client, line, &mut recorder, &mut out),
        }
        sent.extend(out.to_vec());
        out.clear();
        check(&client, &recorder);
        wanted.check(&client, proved);
    }
    client.closed(&mut recorder);
    assert!(matches!(client.state(), ClientState::Over(_)));
    check(&client, &recorder);
    check_sent(&sent, &wanted);
    recorder.events.push(String::from_utf8(sent).expect("ASCII"));
    recorder.events
}

/// Size and names only count; the script's handle and sender do not.
fn offer(client: &mut Client, rest: &[u8], recorder: &mut Recorder, out: &mut Outbox) {
    let words: Vec<&[u8]> = rest.split(|&b| b == b' ').collect();
    let count = words.iter().filter(|word| word.contains(&b'@')).count().clamp(1, 5);
    let size = words.iter().find_map(|word| str::from_utf8(word.strip_prefix(b"size=")?).ok()?.parse().ok());
    let handle = recorder.transactions.len();
    recorder.transactions.push(Transaction { verdicts: vec![None; count], ..Transaction::default() });
    let names: Vec<Vec<u8>> = (0..count).map(|i| format!("{handle}.{i}@b").into_bytes()).collect();
    let offer = Offer {
        handle: handle as u32,
        sender: b"a@a",
        recipients: &mut names.iter().map(|name| name.as_slice().into()),
        parameters: Default::default(),
        by_seconds: 0,
        size_bytes: size.unwrap_or(100),
        text: Text {
            eight_bit: words.contains(&&b"8bit"[..]),
            binary: words.contains(&&b"binary"[..]),
            ..Text::default()
        },
    };
    client.offer(Mono(0), offer, recorder, out);
}

fn check(client: &Client, recorder: &Recorder) {
    let open = recorder.transactions.iter().filter(|t| !t.finished).count();
    match client.state() {
        ClientState::Over(_) => assert_eq!((open, client.deadline()), (0, Mono::NEVER)),
        ClientState::Busy => assert!(open <= 2 && client.deadline() < Mono::NEVER),
        ClientState::Ready => assert_eq!((open, client.deadline()), (0, Mono::NEVER)),
        ClientState::Opening | ClientState::Handshake | ClientState::Proving | ClientState::Closing => {
            assert!(open == 0 && client.deadline() < Mono::NEVER);
        }
    }
}

fn check_sent(sent: &[u8], wanted: &Wanted) {
    let text = str::from_utf8(sent).expect("ASCII");
    let mut in_body = false;
    for line in text.split_inclusive("\r\n") {
        let line = line.strip_suffix("\r\n").expect("whole lines leave");
        if in_body {
            in_body = line != "." && line != "plain";
            continue;
        }
        let hellos: &[&str] = match wanted.protocol {
            Protocol::Smtp => &["EHLO relay.example", "HELO relay.example"],
            Protocol::Lmtp => &["LHLO relay.example"],
        };
        let starts_tls = wanted.tls != TlsWish::Never && line == "STARTTLS";
        // Responses are base64.
        let is_response = |b: u8| b.is_ascii_alphanumeric() || b"+/=".contains(&b);
        let proves =
            wanted.login.is_some() && (line.starts_with("AUTH ") || line == "*" || line.bytes().all(is_response));
        if hellos.contains(&line) || starts_tls || proves {
            continue;
        }
        let verbs = ["MAIL FROM:<a@a>", "RCPT TO:<", "DATA", "BDAT ", "RSET", "QUIT", "."];
        in_body = line.starts_with("Subject: ");
        assert!(in_body || verbs.iter().any(|verb| line.starts_with(verb)), "{line}");
    }
}

#[derive(Default)]
struct Recorder {
    transactions: Vec<Transaction>,
    events: Vec<String>,
}

#[derive(Default)]
struct Transaction {
    verdicts: Vec<Option<Outcome>>,
    bodies: usize,
    finished: bool,
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
        let fits = match outcome {
            Outcome::Delivered => code / 100 == 2 && phase == Phase::Dot,
            Outcome::Failed => code / 100 == 5 || (code == 0 && phase == Phase::Session),
            Outcome::Deferred => matches!(code / 100, 0 | 4) || matches!(code, 552 | 521),
            Outcome::Unknown => phase == Phase::Dot,
            Outcome::NotTried => true,
        };
        assert!(fits, "{outcome:?} {code} {phase:?}");
        let transaction = &mut self.transactions[handle as usize];
        assert_eq!(transaction.verdicts[recipient], None, "a second verdict");
        assert!(transaction.bodies == 1 || !matches!(outcome, Outcome::Delivered | Outcome::Unknown));
        transaction.verdicts[recipient] = Some(outcome);
        self.events.push(format!("{handle}.{recipient} {outcome:?} {code} {phase:?} {}", text.escape_ascii()));
    }

    fn finished(&mut self, handle: u32, _: Passed) {
        let transaction = &mut self.transactions[handle as usize];
        assert!(!transaction.finished && transaction.verdicts.iter().all(Option::is_some));
        transaction.finished = true;
        self.events.push(format!("{handle} finished"));
    }
}
