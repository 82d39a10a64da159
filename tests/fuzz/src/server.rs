//! Whole sessions: whatever the client sends in whatever pieces, the session says and stores the same, with exactly one
//! reply to each command (PIP-01, PIP-02, DAT-15), keeps no more than the start of a line (SIZ-04), and takes nothing that was said in
//! clear into TLS (TLS-02, TLS-03).

use std::cell::RefCell;
use std::net::{IpAddr, Ipv4Addr};
use std::rc::Rc;

use ringpost::base::bytes::HeapBlocks;
use ringpost::base::ids::{MessageId, Position, ShardId};
use ringpost::base::limits::COMMAND_LINE_MAX_BYTES;
use ringpost::base::time::{Mono, UnixMs};
use ringpost::mail::text::Text;
use ringpost::queue::{CommitSettings, DiskOrder, Draft, DraftRecipient, Log, LogSettings, Proof, ShardStart};
use ringpost::smtp::auth::ChannelBinding;
use ringpost::smtp::command::{Command, parse};
use ringpost::smtp::reply;
use ringpost::smtp::server::{Asking, AuthSettings, Peer, Server, ServerEvent, ServerSettings, Waiting};

/// Who may relay, if nobody else.
const OURS: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));

/// Any bytes are what a client sends. The first byte of the input decides what kind of client it is.
pub fn run(data: &[u8]) {
    let first = |byte| data.first() == Some(&byte);
    let (stranger, trusted, tls) = (first(b'!'), first(b'@'), first(b'#'));
    let text = if stranger || trusted || tls { &data[1..] } else { data };
    let peer = Peer { may_convey: trusted, may_forward: trusted, ..Peer::new(OURS, !stranger) };
    let mut slow = Session::of(peer, tls);
    let mut alone = Vec::new();
    for (at, byte) in text.iter().enumerate() {
        let line = [&slow.carry[..], &[*byte]].concat();
        let in_commands = slow.server.waiting() == Waiting::Command;
        slow.receive(&[*byte]);
        let line = line.strip_suffix(b"\r\n").filter(|_| in_commands);
        if line.is_some_and(|line| matches!(parse(line), Ok(Command::Data { .. } | Command::StartTls { .. }))) {
            alone.push(at + 1);
        }
    }
    one_reply_per_command(text, &slow);
    // DAT-13, TLS-02: what comes in one piece with DATA or STARTTLS is another matter, so every split cuts there.
    let mut at = alone.clone();
    let mut sum = 0;
    for piece in super::pieces(text) {
        sum += piece.len();
        at.push(sum);
    }
    for mut cuts in [alone, at] {
        cuts.extend([0, text.len()]);
        cuts.sort_unstable();
        let mut split = Session::of(peer, tls);
        cuts.windows(2).for_each(|pair| split.receive(&text[pair[0]..pair[1]]));
        assert_eq!(String::from_utf8_lossy(&split.out), String::from_utf8_lossy(&slow.out));
        assert_eq!((&split.stored, split.dropped, split.closed), (&slow.stored, slow.dropped, slow.closed));
        assert_eq!(split.carry, slow.carry);
    }
    let mut whole = Session::of(peer, tls);
    whole.receive(text);
    assert!(whole.stored.len() <= slow.stored.len(), "more in a rush than one by one");
    replies(&whole.out);
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Stored {
    sender: Vec<u8>,
    recipients: Vec<Vec<u8>>,
    pub(crate) body: Vec<u8>,
}

/// A session and its caller, who takes every second message.
pub(crate) struct Session {
    server: Server,
    carry: Vec<u8>,
    pub(crate) out: Vec<u8>,
    body: Vec<u8>,
    pub(crate) stored: Vec<Stored>,
    dropped: usize,
    closed: bool,
}

impl Session {
    pub(crate) fn new(may_relay: bool) -> Session {
        let asking = Asking { may_ask: may_relay, is_told: may_relay, may_etrn: may_relay };
        Session::of(Peer { asking, ..Peer::new(OURS, may_relay) }, false)
    }

    fn of(peer: Peer, tls: bool) -> Session {
        let settings = ServerSettings {
            hostname: "relay.example".into(),
            message_bytes_max: 400,
            recipients_max: 3,
            errors_max: 6,
            received_fields_max: 2,
            command_idle_ms: 300_000,
            data_idle_ms: 180_000,
            tls,
            auth: AuthSettings::default(),
            submission: false,
            hold_max_s: 1000,
            aliases: None,
            users_ask: false,
            etrn: true,
        };
        let mut session = Session {
            server: Server::new(Rc::new(settings), peer),
            carry: Vec::new(),
            out: Vec::new(),
            body: Vec::new(),
            stored: Vec::new(),
            dropped: 0,
            closed: false,
        };
        session.server.greet(&mut session.out);
        session
    }

    pub(crate) fn receive(&mut self, bytes: &[u8]) {
        self.carry.extend_from_slice(bytes);
        let carry = std::mem::take(&mut self.carry);
        let mut input = carry.as_slice();
        loop {
            match self.server.next(&mut input, &mut self.out) {
                ServerEvent::NeedMore => break,
                ServerEvent::Body(piece) => self.body.extend_from_slice(piece),
                ServerEvent::MessageEnd => self.store(),
                ServerEvent::MessageDropped => {
                    self.body.clear();
                    self.dropped += 1;
                }
                ServerEvent::Conveyed => {
                    assert!(self.server.peer().may_convey, "who is not listed speaks for nobody");
                    let may_relay =
                        self.server.conveyed_address().map_or(self.server.peer().may_relay, |to| to == OURS);
                    self.server.introduced(Some(may_relay), &mut self.out);
                    assert!(self.server.hello().is_empty() && self.server.forwarded().is_none());
                }
                ServerEvent::Etrn => {
                    assert!(self.server.peer().asking.may_etrn, "who is not listed starts nothing");
                    let messages = self.server.node().domain.len() as u64 % 3;
                    self.server.node_started(messages.checked_sub(1), &mut self.out);
                }
                ServerEvent::StartTls => {
                    assert!(input.is_empty() && self.server.cipher().is_none(), "nothing in clear gets inside");
                    self.server.secured("cipher", ChannelBinding::default(), &mut self.out);
                    assert!(self.server.hello().is_empty());
                }
                ServerEvent::Authenticate => unreachable!("AUTH is not offered"),
                ServerEvent::Close => {
                    assert!(input.is_empty());
                    self.closed = true;
                    break;
                }
            }
        }
        assert!(input.len() < COMMAND_LINE_MAX_BYTES);
        assert!(input.is_empty() || self.server.waiting() == Waiting::Command);
        self.carry = input.to_vec();
    }

    fn store(&mut self) {
        let body = std::mem::take(&mut self.body);
        let (facts, envelope) = (self.server.facts(), self.server.envelope());
        assert_eq!((facts.stored_bytes, facts.text.eight_bit), (body.len() as u64, !body.is_ascii()));
        let ended = body.is_empty() || body.ends_with(b"\r\n");
        assert!(facts.body_bytes <= 400 && ended != facts.text.open_end);
        assert!((1..=3).contains(&envelope.len()));
        for mailbox in envelope.recipients().chain([envelope.sender()]) {
            assert!(mailbox.iter().all(|b| (b' '..=b'~').contains(b)));
        }
        assert!(
            self.server.peer().may_relay
                || self.server.user().is_some()
                || envelope.recipients().all(|r| r.eq_ignore_ascii_case(b"postmaster@relay.example"))
        );
        self.stored.push(Stored {
            sender: envelope.sender().to_vec(),
            recipients: envelope.recipients().map(<[u8]>::to_vec).collect(),
            body,
        });
        if self.stored.len().is_multiple_of(2) {
            self.server.refused(reply::STORAGE_FULL, &mut self.out);
        } else {
            let id = MessageId { shard: ShardId(0), position: Position::new(1, 8) };
            self.server.accepted(proof(), id, &mut self.out);
        }
    }
}

/// Codes of the replies, each well-formed.
fn replies(out: &[u8]) -> Vec<u16> {
    let text = str::from_utf8(out).expect("replies are ASCII");
    let mut codes = Vec::new();
    let mut open = None;
    for line in text.split_inclusive('\n') {
        let line = line.strip_suffix("\r\n").expect("replies end in CRLF");
        assert!(line.len() <= 510 && !line.contains(['\r', '\n']));
        let code: u16 = line[..3].parse().expect("a code");
        assert!(open.is_none_or(|open| open == code));
        open = line[3..].starts_with('-').then_some(code);
        if open.is_none() {
            assert!(line[3..].starts_with(' '));
            codes.push(code);
        }
    }
    assert_eq!(open, None);
    codes
}

/// Walks over what the client sent as a reader of RFC 5321 would, one reply at a time.
fn one_reply_per_command(text: &[u8], session: &Session) {
    let codes = replies(&session.out);
    let (greeting, mut codes) = codes.split_first().expect("a greeting");
    assert_eq!(*greeting, 220);
    let mut rest = text;
    let mut in_data = false;
    while let Some((code, behind)) = codes.split_first() {
        let end = if !in_data {
            command_bytes(rest)
        } else if rest.starts_with(b".\r\n") {
            Some(3)
        } else {
            rest.windows(5).position(|w| w == b"\r\n.\r\n").map(|at| at + 5)
        };
        let over = matches!(code, 221 | 421) || (matches!(code, 501 | 554) && session.closed && behind.is_empty());
        if over {
            assert!(behind.is_empty() && session.closed);
            return;
        }
        rest = &rest[end.expect("a reply answers something")..];
        in_data = *code == 354;
        codes = behind;
    }
    assert!(!session.closed);
    if !in_data && is_chunk(rest) {
        return assert!(command_bytes(rest).is_none(), "a chunk without a reply");
    }
    let unanswered: &[u8] = if in_data { b"\r\n.\r\n" } else { b"\r\n" };
    assert!(!rest.windows(unanswered.len()).any(|w| w == unanswered), "a command without a reply");
    assert!(!(in_data && rest.starts_with(b".\r\n")), "a message without a reply");
}

/// Length of the command at the front, with the octets of its chunk if it is BDAT; `None` if it is not all there.
fn command_bytes(text: &[u8]) -> Option<usize> {
    let line = text.windows(2).position(|w| w == b"\r\n")?;
    let size = match chunk_of(&text[..line]) {
        Some(Some(size)) => usize::try_from(size).ok()?,
        _ => 0,
    };
    Some(line + 2 + size).filter(|end| *end <= text.len())
}

fn is_chunk(text: &[u8]) -> bool {
    text.windows(2).position(|w| w == b"\r\n").is_some_and(|line| chunk_of(&text[..line]).is_some())
}

/// The size in a BDAT line, if it is one and has one. A line with a bare CR or LF is refused as it is, whatever it looks like.
fn chunk_of(line: &[u8]) -> Option<Option<u64>> {
    let whole = line.len() + 2 <= COMMAND_LINE_MAX_BYTES && !line.contains(&b'\r') && !line.contains(&b'\n');
    match parse(line) {
        Ok(Command::Bdat { size_bytes, .. }) if whole => Some(size_bytes),
        _ => None,
    }
}

thread_local! {
    static LOG: RefCell<(Log, Mono)> = RefCell::new((new_log(), Mono(0)));
}

fn new_log() -> Log {
    let settings = LogSettings {
        shard: ShardId(0),
        segment_bytes: 4 << 20,
        segments_max: 8,
        hot_bytes: 0,
        commit: CommitSettings::default(),
    };
    Log::open(settings, ShardStart::empty(ShardId(0)), Box::new(HeapBlocks))
}

/// A proof of some message, from a log whose disk is a word.
fn proof() -> Proof {
    LOG.with_borrow_mut(|(log, now)| {
        turn(log, now);
        let recipient = DraftRecipient::open(b"a@b");
        let draft = Draft {
            copy_of: None,
            arrived: UnixMs(1),
            text: Text::default(),
            body_bytes: 0,
            sender: b"",
            recipients: &vec![recipient],
            parameters: &[],
            chunks: &[],
            tail: &[],
        };
        let appended = log.append_accept(&draft, &mut |_, _| ()).expect("there is room");
        turn(log, now);
        log.settle(appended.place, &[]);
        log.prove(appended.ticket)
    })
}

fn turn(log: &mut Log, now: &mut Mono) {
    let mut orders = Vec::new();
    loop {
        *now = now.plus_ms(10);
        log.hurry();
        log.poll(*now, &mut orders);
        if orders.is_empty() && log.ready() {
            return;
        }
        for order in orders.drain(..) {
            match order {
                DiskOrder::Write { write, .. } => log.written(*now, write, Ok(())),
                DiskOrder::PrepareSegment { slot } => log.segment_prepared(*now, slot, Ok(())),
            }
        }
    }
}
