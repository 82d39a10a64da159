//! Runs the golden dialogues of `tests/dialogues/*.txt`, each in one piece and one byte per receive (PIP-02).
//! `tests/dialogues/README.md` describes their syntax.

use std::path::Path as FilePath;

use super::*;
use crate::mail::parameters::{Group, ParameterBlock, RecipientParameters, Stretch};

/// How the client's bytes come.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Pace {
    WholeGroups,
    SingleBytes,
}

struct Dialogue<'t> {
    name: &'t str,
    pace: Pace,
    session: Session,
    /// What the client says until the next expectation.
    group: Vec<u8>,
    /// Replies not yet expected.
    replies: String,
    messages_seen: usize,
}

impl<'t> Dialogue<'t> {
    /// Plays a file's text; false if it is not meant for this pace.
    fn play(name: &'t str, text: &str, pace: Pace) -> bool {
        let mut settings = settings();
        let (mut may_relay, mut trusted, mut asking) = (true, false, Asking::default());
        let mut table = String::new();
        for order in text.lines().filter_map(|line| line.strip_prefix("! ")) {
            match order.split_once(' ').unwrap_or((order, "")) {
                ("stranger", "") => may_relay = false,
                ("trusted", "") => trusted = true,
                ("whole", "") if pace == Pace::SingleBytes => return false,
                ("whole", "") => {}
                ("tls", "") => settings.tls = true,
                ("submission", "") | ("submission", "clear") => {
                    let inside_tls = Mechanisms::NONE.with(Mechanism::Plain).with(Mechanism::Login);
                    let in_clear = if order.ends_with("clear") { inside_tls } else { Mechanisms::NONE };
                    settings.auth = AuthSettings { inside_tls, in_clear, demanded: true };
                    (settings.submission, settings.tls, may_relay) = (true, true, false);
                }
                ("table", line) => table += &format!("{line}\n"),
                ("asks", "") => asking.may_ask = true,
                ("told", "") => asking.is_told = true,
                ("users-ask", "") => settings.users_ask = true,
                ("etrn", "") => settings.etrn = true,
                ("etrn", "allowed") => (settings.etrn, asking.may_etrn) = (true, true),
                ("submission", "tokens") => {
                    let offered = [Mechanism::Gssapi, Mechanism::GssSpnego, Mechanism::Ntlm];
                    let inside_tls = offered.into_iter().fold(Mechanisms::NONE, Mechanisms::with);
                    settings.auth = AuthSettings { inside_tls, in_clear: inside_tls, demanded: true };
                    (settings.submission, may_relay) = (true, false);
                }
                ("hold", seconds) => settings.hold_max_s = seconds.parse().unwrap(),
                ("errors", n) => settings.errors_max = n.parse().unwrap(),
                ("recipients", n) => settings.recipients_max = n.parse().unwrap(),
                ("message_bytes", n) => settings.message_bytes_max = n.parse().unwrap(),
                ("received_fields", n) => settings.received_fields_max = n.parse().unwrap(),
                other => panic!("{name}: no such order: {other:?}"),
            }
        }
        settings.aliases = (!table.is_empty()).then(|| Arc::new(Aliases::parse(&table).unwrap()));
        let peer = Peer { may_convey: trusted, may_forward: trusted, asking, ..peer(may_relay) };
        let mut session = Session::of(settings, peer);
        session.server.set_clock(UnixMs(1_000_000));
        let mut dialogue =
            Dialogue { name, pace, session, group: Vec::new(), replies: String::new(), messages_seen: 0 };
        for (number, line) in text.lines().enumerate() {
            dialogue.line(number + 1, line);
        }
        dialogue.send();
        assert_eq!(dialogue.replies, "", "{name}: replies that nobody expected");
        assert_eq!(dialogue.messages_seen, dialogue.session.stored.len(), "{name}: messages that nobody expected");
        true
    }

    fn line(&mut self, number: usize, line: &str) {
        let place = format!("{}:{number} ({:?})", self.name, self.pace);
        match line.split_at_checked(3) {
            Some(("C: ", text)) => self.say(&unescape(text, &place), b"\r\n", &place),
            Some(("C~ ", text)) => self.say(&unescape(text, &place), b"", &place),
            Some(("S: ", text)) => self.expect_reply(text, &place),
            Some(("P: ", text)) => {
                let message = self.messages_seen.checked_sub(1).expect("P: follows M:");
                let said = said(&self.session.stored[message].parameters);
                assert_eq!(said, unescape(text, &place).escape_ascii().to_string(), "{place}");
            }
            Some(("M: ", text)) => self.expect_message(&unescape(text, &place), &place),
            _ if line == "C:" => self.say(b"", b"\r\n", &place),
            _ if line == "T" => {
                self.send();
                assert_eq!(self.session.server.waiting(), Waiting::Handshake, "{place}");
                let out = &mut self.session.out;
                self.session.server.secured("TLS_AES_128_GCM_SHA256", ChannelBinding::default(), out);
            }
            _ if line == "X" => {
                self.send();
                assert!(self.session.closed, "{place}: still open");
            }
            _ => assert!(line.is_empty() || line.starts_with('#') || line.starts_with("! "), "{place}: {line:?}"),
        }
    }

    fn say(&mut self, text: &[u8], end: &[u8], place: &str) {
        assert_eq!(self.replies, "", "{place}: replies that nobody expected");
        self.group.extend_from_slice(text);
        self.group.extend_from_slice(end);
    }

    fn send(&mut self) {
        let group = std::mem::take(&mut self.group);
        match self.pace {
            Pace::WholeGroups if group.is_empty() => {}
            Pace::WholeGroups => self.session.receive(&group),
            Pace::SingleBytes => group.chunks(1).for_each(|byte| self.session.receive(byte)),
        }
        self.replies += &self.session.replies();
    }

    fn expect_reply(&mut self, text: &str, place: &str) {
        self.send();
        let (line, rest) = self.replies.split_once("\r\n").unwrap_or_else(|| panic!("{place}: no reply"));
        assert_eq!(line, text, "{place}");
        self.replies = rest.to_string();
    }

    fn expect_message(&mut self, text: &[u8], place: &str) {
        self.send();
        let message = self.session.stored.get(self.messages_seen).unwrap_or_else(|| panic!("{place}: no message"));
        self.messages_seen += 1;
        let recipients = message.recipients.join(b" ".as_slice());
        let form: &[u8] = match message.text {
            Text { binary: true, .. } => b" |binary| ",
            Text { plain: true, .. } => b" |plain| ",
            _ => b" | ",
        };
        let seen = [&message.sender, b" > ".as_slice(), &recipients, form, &message.body].concat();
        assert!(seen == text, "{place}:\n  seen {}\n  want {}", seen.escape_ascii(), text.escape_ascii());
    }
}

fn late_word(by: DeliverBy) -> String {
    format!("{:?}{}", by.late, if by.traced { "Traced" } else { "" })
}

/// A message's parameters as `P:` shows them.
fn said(block: &[u8]) -> String {
    let block = ParameterBlock(block);
    let MessageParameters {
        ret,
        envid,
        utf8,
        utf8_header,
        require_tls,
        tls_optional,
        priority,
        held_until,
        deliver_by,
        auth,
    } = block.message();
    let mut words = Vec::new();
    let mut word = |given: bool, text: String| words.extend(given.then_some(text));
    let text = |bytes: &[u8]| bytes.escape_ascii().to_string();
    word(ret.is_some(), format!("RET={}", text(ret.unwrap_or_default())));
    word(envid.is_some(), format!("ENVID={}", text(envid.unwrap_or_default())));
    word(utf8, "SMTPUTF8".to_owned() + if utf8_header { "=header" } else { "" });
    word(require_tls, "REQUIRETLS".to_owned());
    word(tls_optional, "TLS-Required=No".to_owned());
    word(priority.is_some(), format!("MT-PRIORITY={}", priority.unwrap_or_default()));
    word(held_until.is_some(), format!("HELD={}", held_until.unwrap_or_default().0));
    word(deliver_by.is_some(), deliver_by.map_or(String::new(), |by| format!("{}={}", late_word(by), by.by.0)));
    word(auth, "AUTH".to_owned());
    let mut number = 0;
    loop {
        let Stretch { end, group } = block.stretch(number);
        let Some(Group { kind, reverse_path }) = group else {
            if end == usize::MAX {
                break;
            }
            number = end;
            continue;
        };
        word(true, format!("{number}-{}:{kind:?}={}", end - 1, text(reverse_path)));
        number = end;
    }
    for (number, RecipientParameters { notify, orcpt }) in block.recipients() {
        word(true, format!("{number}:NOTIFY={},ORCPT={}", text(notify), text(orcpt)));
    }
    words.join(" ")
}

/// `\r \n \t \0 \\ \xHH`, and `\{N text}` for `text` N times.
fn unescape(text: &str, place: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = text;
    while let Some((plain, escape)) = rest.split_once('\\') {
        bytes.extend_from_slice(plain.as_bytes());
        let (kind, behind) = escape.split_at_checked(1).unwrap_or_else(|| panic!("{place}: open escape"));
        rest = behind;
        match kind {
            "r" => bytes.push(b'\r'),
            "n" => bytes.push(b'\n'),
            "t" => bytes.push(b'\t'),
            "0" => bytes.push(0),
            "\\" => bytes.push(b'\\'),
            "x" => {
                bytes.push(u8::from_str_radix(&behind[..2], 16).unwrap());
                rest = &behind[2..];
            }
            "{" => {
                let (inside, behind) = behind.split_once('}').unwrap_or_else(|| panic!("{place}: no closing brace"));
                let (times, what) = inside.split_once(' ').unwrap();
                bytes.extend(unescape(what, place).repeat(times.parse().unwrap()));
                rest = behind;
            }
            _ => panic!("{place}: no such escape: \\{kind}"),
        }
    }
    bytes.extend_from_slice(rest.as_bytes());
    bytes
}

#[test]
fn golden_dialogues_run_as_written() {
    let folder = FilePath::new(env!("CARGO_MANIFEST_DIR")).join("tests/dialogues");
    let mut played = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "txt") {
            let name = path.file_name().unwrap().to_str().unwrap();
            let text = std::fs::read_to_string(&path).unwrap();
            assert!(Dialogue::play(name, &text, Pace::WholeGroups), "{name}");
            Dialogue::play(name, &text, Pace::SingleBytes);
            played += 1;
        }
    }
    assert!(played >= 10, "only {played} dialogues found");
}
