//! The receiving side of one SMTP session: bytes in, replies and events out (RFC 5321).
//!
//! The caller owns the connection, the body store and the clock. It pulls events until `NeedMore`, stores each
//! `Body`, and answers each `MessageEnd` with the outcome of the log; only a [`Proof`] buys a 250, so nobody can
//! promise what is not on disk. Exactly one reply per command, in order, whatever the split of the bytes
//! (PIP-01, PIP-02). Shard-local, pure; allocates nothing once its buffers are warm.
//!
//! Policies, each in one place:
//! - Bare CR or LF: the message is refused at its end (DAT-03), a command is refused (DAT-02); never repaired.
//! - Source routes are dropped (SES-17). No leniency in `MAIL FROM:` and `RCPT TO:` (SES-21).
//! - Whatever comes in clear behind STARTTLS is dropped unread (TLS-02).
//! - Whatever comes in one receive behind DATA, before its reply can have been read, is a breach of RFC 2920 3.1:
//!   554 and the connection ends, so that a body sent too early is never run as commands (DAT-13).
//! - A BDAT chunk that is refused is read and thrown away, and ends the transaction: chunks pipelined behind it are refused
//!   too, and the next MAIL begins clean (BDT-02, BDT-03; see `bdat`).
//! - Commands answered 5xx count as errors until a message is accepted; beyond the limit the reply to the next
//!   one is 421 (SES-10). Messages refused at their end do not count, nor does what was pipelined behind a MAIL that was
//!   deferred: that was no error of the client's.
//!
//! Panics: when the caller breaks the order of calls. Errors: none; what the client does wrong is a reply.

mod auth;
mod bdat;
mod conveyed;
mod recipients;
mod transaction;

use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;

use crate::base::ids::MessageId;
use crate::base::limits::{AUTH_LINE_MAX_BYTES, COMMAND_LINE_MAX_BYTES};
use crate::base::time::UnixMs;
use crate::mail::address::{AddressError, Path, ascii_domain, domain_of};
use crate::mail::aliases::Aliases;
use crate::mail::envelope::Envelope;
use crate::mail::parameters::{DeliverBy, MessageParameters};
use crate::mail::text::{Form, Text};
use crate::mail::trace::{Fixes, HeaderSays, Protocol};
use crate::queue::{LogRefusal, Proof};
use crate::smtp::auth::{AuthRequest, ChannelBinding, Mechanisms, User};
use crate::smtp::command::{
    self, By, Command, CommandError, Hold, MailParameters, Offered, ParameterError, Parameters,
};
use crate::smtp::line::{Line, LineReader};
use crate::smtp::reply::{self, Offers, Reply};
use crate::smtp::xclient::{Claim, Forwarded};

pub(crate) use recipients::expanded;
pub use recipients::{Asking, Node};

use auth::Exchange;
use bdat::Bdat;
use transaction::Transaction;
pub(crate) use transaction::text_refusal;

/// What the operator says about sessions; the same for all of a shard.
#[derive(Clone, Debug)]
pub struct ServerSettings {
    /// Our name, at most `limits::DOMAIN_MAX_BYTES` (SES-01).
    pub hostname: Box<str>,
    /// Largest message, unstuffed (SIZ-08).
    pub message_bytes_max: u64,
    /// Recipients of one transaction (SIZ-09).
    pub recipients_max: usize,
    /// Errors of one session (SES-10).
    pub errors_max: u32,
    /// Received fields of one message (TRC-06).
    pub received_fields_max: u32,
    /// Idle time before a command (SES-23); kept by the caller.
    pub command_idle_ms: u64,
    /// Idle time inside data (DAT-14); kept by the caller.
    pub data_idle_ms: u64,
    /// STARTTLS is offered (TLS-01): the caller can do the handshake.
    pub tls: bool,
    /// The longest that a client we relay for may have a message held (RFC 4865); 0: not offered.
    pub hold_max_s: u32,
    /// Who may prove who it is, and must.
    pub auth: AuthSettings,
    /// Messages are submitted, not relayed: what is missing is added (BLK-07; RFC 6409 8).
    pub submission: bool,
    /// Addresses that stand for others (FND-03, FND-04).
    pub aliases: Option<Arc<Aliases>>,
    /// Users may ask by VRFY and EXPN (FND-05).
    pub users_ask: bool,
    /// Some clients may say ETRN (FND-06).
    pub etrn: bool,
}

/// AUTH as it is offered (AUT-01).
#[derive(Clone, Copy, Debug, Default)]
pub struct AuthSettings {
    /// Inside TLS.
    pub inside_tls: Mechanisms,
    /// In clear.
    pub in_clear: Mechanisms,
    /// No mail without it (AUT-06).
    pub demanded: bool,
}

/// The client.
#[derive(Clone, Copy, Debug)]
pub struct Peer {
    /// Its address.
    pub address: IpAddr,
    /// Whether we relay for it (SES-22).
    pub may_relay: bool,
    /// It may say by XCLIENT who its own client is, whatever that one may (XCL-01).
    pub may_convey: bool,
    /// It may say by XFORWARD where a message came from (XCL-01).
    pub may_forward: bool,
    /// What else it may ask for.
    pub asking: Asking,
}

impl Peer {
    /// A client that speaks for itself alone.
    pub fn new(address: IpAddr, may_relay: bool) -> Peer {
        Peer { address, may_relay, may_convey: false, may_forward: false, asking: Asking::default() }
    }
}

/// What happened in the session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServerEvent<'b> {
    /// All that can be judged was. What is left of the input is the start of a command line, shorter than
    /// `limits::COMMAND_LINE_MAX_BYTES`: keep it and give it again with more behind it.
    NeedMore,
    /// The next bytes of the message, in the form that `MessageFacts::text` says at its end.
    Body(&'b [u8]),
    /// The message is whole and waits for `accepted` or `refused`.
    MessageEnd,
    /// The message was refused or given up, and that was answered; forget its body.
    MessageDropped,
    /// The session is over: send what is to be sent, then close. A message not ended is dropped.
    Close,
    /// Send what is to be sent, then do the TLS handshake, then call `secured`. What the client sent in clear behind
    /// STARTTLS is gone already; whatever else comes in clear is dropped too (TLS-02). A body begun is to be forgotten.
    StartTls,
    /// The client of an AUTH exchange said something: `take_request`, find out, then `authenticated`.
    Authenticate,
    /// The client would have it started what waits for a `node`: find out whether that works, then `node_started`.
    Etrn,
    /// The client says that it speaks for another: look at `conveyed_address`, then `introduced`, before the next call.
    Conveyed,
}

/// What the session waits for, so that the caller knows its deadline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waiting {
    /// A command, for `command_idle_ms`.
    Command,
    /// Message data or the rest of a BDAT chunk, for `data_idle_ms`.
    Data,
    /// The caller's `accepted` or `refused`.
    Verdict,
    /// The caller's `authenticated`.
    Credentials,
    /// The caller's `node_started`.
    Orders,
    /// The caller's `secured`: the TLS handshake is on. Nothing can be said to the client meanwhile.
    Handshake,
    /// Nothing: it is over.
    Over,
}

impl Waiting {
    /// The caller owes the client an answer.
    const fn is_ours(self) -> bool {
        matches!(self, Waiting::Verdict | Waiting::Credentials | Waiting::Orders)
    }
}

/// What is known of the message being received or just ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MessageFacts<'a> {
    /// Bytes of the text, doubled dots not counted.
    pub body_bytes: u64,
    /// Bytes of all `Body` events together.
    pub stored_bytes: u64,
    /// What the text is like, and the form it came in.
    pub text: Text,
    /// What the header says; octets over 127 only of a message with SMTPUTF8.
    pub header: HeaderSays,
    /// The name the client gave.
    pub hello: &'a [u8],
    /// EHLO or HELO.
    pub protocol: Protocol,
    /// What is to be added to a submitted message.
    pub fixes: Fixes,
}

/// One session.
#[derive(Debug)]
pub struct Server {
    settings: Rc<ServerSettings>,
    peer: Peer,
    waiting: Waiting,
    /// The greeting refused service (SES-02).
    turned_away: bool,
    greeted: bool,
    /// A verdict is awaited, after which the session ends (SES-24).
    ends_after_verdict: bool,
    /// Inside TLS: the cipher suite.
    cipher: Option<&'static str>,
    binding: Option<Box<ChannelBinding>>,
    user: Option<Arc<User>>,
    /// The exchange of AUTH that is on.
    exchange: Option<Exchange>,
    request: Option<Box<AuthRequest>>,
    auth_failures: u32,
    /// What XCLIENT said, until `introduced`.
    claim: Option<Box<Claim>>,
    /// What ETRN asked for, until `node_started`.
    node: Option<Box<Node>>,
    /// What XFORWARD said of the next message.
    forwarded: Option<Box<Forwarded>>,
    /// Empty before EHLO or HELO.
    hello: Vec<u8>,
    protocol: Protocol,
    /// MAIL was taken.
    in_transaction: bool,
    /// What MAIL and all behind it brought. None before the first.
    transaction: Option<Box<Transaction>>,
    lines: LineReader,
    /// The transaction's text comes by BDAT: at least one chunk was begun.
    chunked: bool,
    /// The chunk being read.
    bdat: Option<Bdat>,
    no_room: Option<LogRefusal>,
    /// Mail was refused for want of room, and nobody has asked yet.
    room_was_refused: bool,
    /// The moment, as the caller said last.
    now: UnixMs,
    errors: u32,
    /// The last MAIL was answered 4yz.
    mail_deferred: bool,
}

impl Server {
    /// A session before its greeting.
    pub fn new(settings: Rc<ServerSettings>, peer: Peer) -> Server {
        Server {
            settings,
            peer,
            waiting: Waiting::Command,
            turned_away: false,
            greeted: false,
            ends_after_verdict: false,
            cipher: None,
            binding: None,
            user: None,
            exchange: None,
            request: None,
            auth_failures: 0,
            claim: None,
            node: None,
            forwarded: None,
            hello: Vec::new(),
            protocol: Protocol::Smtp,
            in_transaction: false,
            transaction: None,
            lines: LineReader::default(),
            chunked: false,
            bdat: None,
            no_room: None,
            room_was_refused: false,
            now: UnixMs(0),
            errors: 0,
            mail_deferred: false,
        }
    }

    /// A session that begins with a TLS handshake and greets inside it (TLS-10; RFC 8314 3.3).
    pub fn new_sealed(settings: Rc<ServerSettings>, peer: Peer) -> Server {
        Server { waiting: Waiting::Handshake, ..Server::new(settings, peer) }
    }

    /// Greets (SES-01). Once, before all else; or `turn_away`.
    pub fn greet(&mut self, out: &mut Vec<u8>) {
        self.greeted = true;
        reply::write_greeting(out, &self.settings.hostname);
    }

    /// Greets with a refusal; then only QUIT is obeyed (SES-02).
    pub fn turn_away(&mut self, out: &mut Vec<u8>) {
        self.turned_away = true;
        reply::write_refusing_greeting(out, &self.settings.hostname);
    }

    /// Pulls one event: advances `input` over what was taken, appends replies to `out`.
    ///
    /// After `MessageEnd` comes exactly one of `accepted` and `refused` before the next call.
    pub fn next<'b>(&mut self, input: &mut &'b [u8], out: &mut Vec<u8>) -> ServerEvent<'b> {
        assert!(self.claim.is_none(), "who the client is was not answered");
        loop {
            let event = match self.waiting {
                Waiting::Command => self.next_command(input, out),
                Waiting::Data if self.bdat.is_some() => self.next_of_chunk(input, out),
                Waiting::Data => Some(self.next_data(input, out)),
                Waiting::Verdict | Waiting::Credentials | Waiting::Orders => {
                    panic!("what was asked before has no answer yet")
                }
                Waiting::Handshake => {
                    *input = &[];
                    Some(ServerEvent::NeedMore)
                }
                Waiting::Over => {
                    *input = &[];
                    Some(ServerEvent::Close)
                }
            };
            if let Some(event) = event {
                return event;
            }
            if self.chunked && !self.in_transaction && self.waiting != Waiting::Over {
                // Whatever ended the transaction, its chunks are nobody's now.
                self.chunked = false;
                return ServerEvent::MessageDropped;
            }
        }
    }

    /// The envelope of the transaction; stays after `MessageEnd` until the verdict. Panics outside a transaction.
    pub fn envelope(&self) -> &Envelope {
        &self.transaction().envelope
    }

    /// What is known of the message. Panics outside a transaction.
    pub fn facts(&self) -> MessageFacts<'_> {
        let Transaction { data, plain, header, .. } = self.transaction();
        let (body_bytes, stored_bytes, text) = if self.chunked {
            (plain.bytes(), plain.bytes(), self.plain_text())
        } else {
            let text = Text { eight_bit: data.eight_bit(), ..Text::default() };
            (data.body_bytes(), data.wire_bytes(), text)
        };
        let fixes = if self.settings.submission { header.fixes() } else { Fixes::default() };
        let header = header.says();
        MessageFacts { body_bytes, stored_bytes, text, header, hello: &self.hello, protocol: self.protocol, fixes }
    }

    /// True if a piece that was just given out is the first of its message; and the form that the message comes in.
    pub fn begins_with(&self, piece: &[u8]) -> (bool, Form) {
        let Transaction { data, plain, .. } = self.transaction();
        let (bytes, form) = if self.chunked { (plain.bytes(), Form::Plain) } else { (data.wire_bytes(), Form::Wire) };
        (bytes == piece.len() as u64, form)
    }

    /// True while a message's body has begun and not ended; between BDAT chunks too.
    pub fn in_message(&self) -> bool {
        self.chunked || (self.waiting == Waiting::Data && self.bdat.is_none())
    }

    /// The name the client gave; empty before EHLO or HELO.
    pub fn hello(&self) -> &[u8] {
        &self.hello
    }

    /// EHLO or HELO.
    pub fn protocol(&self) -> Protocol {
        self.protocol
    }

    /// The cipher suite, if the session is inside TLS.
    pub fn cipher(&self) -> Option<&'static str> {
        self.cipher
    }

    /// The TLS handshake that `ServerEvent::StartTls` asked for is done. All that was said before is forgotten: name,
    /// user, sender, recipients (TLS-03; RFC 3207 4.2). The counts of errors stay. Who was not greeted in clear is greeted now.
    pub fn secured(&mut self, cipher: &'static str, binding: ChannelBinding, out: &mut Vec<u8>) {
        assert_eq!(self.waiting, Waiting::Handshake, "a handshake was agreed on");
        self.cipher = Some(cipher);
        self.binding = Some(Box::new(binding));
        self.begin_anew();
        if !self.greeted {
            self.greet(out);
        }
        self.lines = LineReader::default();
        self.waiting = Waiting::Command;
    }

    /// The client may relay, wherever it comes from: its certificate says so.
    pub fn let_relay(&mut self) {
        self.peer.may_relay = true;
    }

    /// The client.
    pub fn peer(&self) -> Peer {
        self.peer
    }

    /// What the session waits for.
    pub fn waiting(&self) -> Waiting {
        self.waiting
    }

    /// The message is durable: says so, under its name. No proof, no 250 (QUE-01).
    pub fn accepted(&mut self, _proof: Proof, id: MessageId, out: &mut Vec<u8>) {
        self.errors = 0;
        reply::write_queued(out, id);
        self.verdict_given(out);
    }

    /// The message is not taken, for the log has no room for it (QUE-07, QUE-08).
    pub fn refused_for_room(&mut self, why: LogRefusal, out: &mut Vec<u8>) {
        self.room_was_refused = true;
        self.refused(storage_reply(why), out);
    }

    /// The message is not taken.
    pub fn refused(&mut self, why: Reply, out: &mut Vec<u8>) {
        why.write(out);
        self.verdict_given(out);
    }

    /// The log does not take this message's body: the end of data, or of the chunk, is answered so. Only `in_message`.
    pub fn storage_refused(&mut self, why: LogRefusal) {
        assert!(self.in_message(), "a body is refused while it comes");
        self.room_was_refused = true;
        self.transaction_mut().storage_refusal = Some(why);
    }

    /// The message is thrown away, and its client told so: `listen.null`.
    pub fn discarded(&mut self, out: &mut Vec<u8>) {
        self.errors = 0;
        reply::write_discarded(out);
        self.verdict_given(out);
    }

    /// Whether new mail can be stored at all; if not, MAIL is answered so (EXT-01; RFC 1870 6.1).
    pub fn set_room(&mut self, refusal: Option<LogRefusal>) {
        self.no_room = refusal;
    }

    /// True if mail was refused for want of room since this was asked last.
    pub fn take_room_refusal(&mut self) -> bool {
        std::mem::take(&mut self.room_was_refused)
    }

    /// What time it is: some parameters count from now on.
    pub fn set_clock(&mut self, now: UnixMs) {
        self.now = now;
    }

    /// The client idled too long: 421, session over (SES-23, DAT-14).
    pub fn timed_out(&mut self, out: &mut Vec<u8>) {
        assert!(!self.waiting.is_ours(), "the client waits for us");
        assert_ne!(self.waiting, Waiting::Handshake, "nothing can be said during a handshake");
        self.end_session(reply::IDLE_TOO_LONG, out);
    }

    /// The relay stops: 421, session over; at once, or behind the verdict that is due (SES-24).
    pub fn shut_down(&mut self, out: &mut Vec<u8>) {
        assert_ne!(self.waiting, Waiting::Handshake, "nothing can be said during a handshake");
        if self.waiting.is_ours() {
            self.ends_after_verdict = true;
        } else {
            self.end_session(reply::SHUTTING_DOWN, out);
        }
    }

    // ---- commands ----

    fn next_command<'b>(&mut self, input: &mut &'b [u8], out: &mut Vec<u8>) -> Option<ServerEvent<'b>> {
        let reply = match self.lines.take(input, self.line_max_bytes()) {
            Line::Incomplete => return Some(ServerEvent::NeedMore),
            Line::Broken | Line::TooLong if self.exchange.take().is_some() => reply::BAD_BASE64,
            Line::Broken => reply::BROKEN_LINE,
            Line::TooLong => reply::LINE_TOO_LONG,
            Line::Whole(line) if self.exchange.is_some() => return self.take_response(line, out),
            Line::Whole(line) => match command::parse(line) {
                Ok(Command::Quit) => {
                    self.end_session(reply::BYE, out);
                    return None;
                }
                _ if self.turned_away => reply::TURNED_AWAY,
                Ok(Command::Auth { mechanism, initial }) => return self.begin_auth(mechanism, initial, out),
                // Only AUTH has lines so long.
                _ if line.len() + 2 > COMMAND_LINE_MAX_BYTES => reply::LINE_TOO_LONG,
                Ok(command) if self.wants_tls_before(&command) => reply::TLS_FIRST,
                Ok(Command::Data { .. }) if !input.is_empty() => {
                    self.end_session(reply::DATA_NOT_AWAITED, out);
                    return None;
                }
                Ok(Command::StartTls { argument }) => match self.refuse_tls(argument) {
                    Some(refusal) => refusal,
                    None => {
                        reply::START_TLS.write(out);
                        // Not by the client, or not meant to be read as if it were (TLS-02; CVE-2011-0411).
                        *input = &[];
                        self.end_transaction();
                        self.chunked = false;
                        self.waiting = Waiting::Handshake;
                        return Some(ServerEvent::StartTls);
                    }
                },
                Ok(Command::Bdat { size_bytes, last, argument }) => {
                    self.begin_chunk(size_bytes, last, argument, out);
                    return None;
                }
                Ok(Command::Hello { extended, name }) => {
                    self.take_hello(extended, name, out);
                    return None;
                }
                Ok(Command::Rcpt { recipient, parameters }) => {
                    self.rcpt(recipient, parameters, out);
                    return None;
                }
                Ok(Command::Verify { name }) => {
                    self.verify(name, out);
                    return None;
                }
                Ok(Command::Expand { name }) => {
                    self.show_expansion(name, out);
                    return None;
                }
                Ok(Command::Etrn { node }) => return self.begin_etrn(node, out),
                Ok(Command::XClient { arguments }) => match self.take_claim(arguments) {
                    Some(refusal) => refusal,
                    None => return Some(ServerEvent::Conveyed),
                },
                Ok(command) => self.run(command),
                Err(error) => refusal_of(error),
            },
        };
        self.answer(reply, out);
        None
    }

    fn line_max_bytes(&self) -> usize {
        if self.user.is_none() && !self.mechanisms().is_empty() { AUTH_LINE_MAX_BYTES } else { COMMAND_LINE_MAX_BYTES }
    }

    /// TLS is demanded first, and this is none of the commands that may come before (TLS-09; RFC 3207 4). BDAT is refused where
    /// its octets end.
    fn wants_tls_before(&self, command: &Command<'_>) -> bool {
        let free = match command {
            Command::Hello { .. } | Command::Noop | Command::StartTls { .. } | Command::Quit | Command::Bdat { .. } => {
                true
            }
            // Who is listed speaks for a client that is not here, and for the user that it proved to be there.
            Command::XClient { .. } => self.peer.may_convey,
            _ => self.user.is_some(),
        };
        !free && self.settings.auth.demanded && self.cipher.is_none() && self.mechanisms().is_empty()
    }

    /// Appends a command's reply, or the 421 that takes its place when it is one error too many (SES-10).
    fn answer(&mut self, reply: Reply, out: &mut Vec<u8>) {
        let follows = self.mail_deferred && reply == reply::MAIL_FIRST;
        self.answer_with(reply.is_refusal() && !follows, out, |out| reply.write(out));
    }

    fn answer_with(&mut self, is_error: bool, out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
        self.errors += u32::from(is_error);
        if self.errors > self.settings.errors_max {
            self.end_session(reply::TOO_MANY_ERRORS, out);
        } else {
            write(out);
        }
    }

    fn end_session(&mut self, reply: Reply, out: &mut Vec<u8>) {
        if self.waiting != Waiting::Over {
            reply.write(out);
        }
        self.end_transaction();
        self.waiting = Waiting::Over;
    }

    fn run(&mut self, command: Command<'_>) -> Reply {
        match command {
            Command::Mail { sender, parameters } => {
                let reply = self.mail(sender, parameters);
                self.mail_deferred = reply.is_deferral();
                reply
            }
            Command::Data { argument } => self.begin_data(argument),
            Command::Reset => {
                self.end_transaction();
                reply::RESET
            }
            Command::Noop => reply::NOOP,
            Command::Help => reply::HELP,
            Command::XForward { arguments } => self.take_forwarded(arguments),
            Command::Quit
            | Command::Hello { .. }
            | Command::XClient { .. }
            | Command::StartTls { .. }
            | Command::Bdat { .. }
            | Command::Rcpt { .. }
            | Command::Verify { .. }
            | Command::Expand { .. }
            | Command::Etrn { .. }
            | Command::Auth { .. } => {
                unreachable!("answered before")
            }
        }
    }

    /// EHLO or HELO, which also resets (SES-03, SES-04; RFC 5321 4.1.4).
    fn take_hello(&mut self, extended: bool, name: &[u8], out: &mut Vec<u8>) {
        self.end_transaction();
        self.hello.clear();
        self.hello.extend_from_slice(name);
        self.protocol = match (extended, self.cipher) {
            (false, _) => Protocol::Smtp,
            (true, None) => Protocol::Esmtp,
            (true, Some(_)) => Protocol::Esmtps,
        };
        if self.user.is_some() {
            self.protocol = self.protocol.authenticated();
        }
        if !extended {
            return reply::write_hello(out, &self.settings.hostname);
        }
        let offered = self.offered();
        let hold_max_s = self.settings.hold_max_s;
        let future_release = (hold_max_s, self.now + u64::from(hold_max_s) * 1000);
        let offers = Offers {
            hostname: &self.settings.hostname,
            message_bytes_max: self.settings.message_bytes_max,
            recipients_max: self.settings.recipients_max,
            start_tls: self.settings.tls && self.cipher.is_none(),
            require_tls: offered.require_tls,
            future_release: offered.future_release.then_some(future_release),
            mechanisms: self.mechanisms(),
            xclient: self.peer.may_convey,
            xforward: self.peer.may_forward,
            expn: self.may_expand(),
            etrn: self.may_etrn(),
        };
        reply::write_offers(out, &offers);
    }

    /// Mail of this client goes anywhere (SES-22).
    pub fn may_relay(&self) -> bool {
        self.peer.may_relay || self.user.is_some()
    }

    /// Which extensions with parameters this session has.
    fn offered(&self) -> Offered {
        Offered {
            extended: self.protocol != Protocol::Smtp,
            require_tls: self.cipher.is_some(),
            future_release: self.may_relay() && self.settings.hold_max_s > 0,
        }
    }

    /// Why STARTTLS is not obeyed, if it is not (TLS-01; RFC 3207 4).
    fn refuse_tls(&self, argument: bool) -> Option<Reply> {
        if argument {
            Some(reply::BAD_ARGUMENT)
        } else if self.cipher.is_some() {
            Some(reply::TLS_ALREADY)
        } else if !self.settings.tls {
            Some(reply::NO_TLS)
        } else {
            None
        }
    }

    fn mail(&mut self, sender: Path<'_>, parameters: Parameters<'_>) -> Reply {
        if self.hello.is_empty() {
            return reply::HELLO_FIRST;
        }
        if self.in_transaction {
            return reply::SENDER_GIVEN;
        }
        let known = match MailParameters::read(parameters, self.offered()) {
            Ok(known) => known,
            Err(error) => return parameter_reply(error),
        };
        if let Some(refusal) = refuse_utf8(sender, known.utf8, reply::SENDER_SYNTAX) {
            return refusal;
        }
        let Some(kept) = self.kept(&known) else {
            return reply::BAD_PARAMETER;
        };
        if known.auth.is_some() && self.mechanisms().is_empty() {
            return reply::UNKNOWN_PARAMETER;
        }
        if let Some(refusal) = self.refuse_sender(sender.mailbox) {
            return refusal;
        }
        if known.size_bytes.is_some_and(|size| size > self.settings.message_bytes_max) {
            return reply::TOO_LARGE;
        }
        if let Some(why) = self.no_room {
            self.room_was_refused = true;
            return storage_reply(why);
        }
        let envelope = &mut self.transaction_mut().envelope;
        envelope.set_sender(sender.mailbox);
        envelope.declared_size = known.size_bytes;
        envelope.body = known.body.unwrap_or_default();
        envelope.set_parameters(&kept);
        self.in_transaction = true;
        reply::SENDER_OK
    }

    /// What of MAIL's parameters goes with the message. `None` if they ask for more than we do, or contradict each other.
    fn kept<'a>(&self, known: &MailParameters<'a>) -> Option<MessageParameters<'a>> {
        let latest = self.now + u64::from(self.settings.hold_max_s) * 1000;
        let held_until = known.hold.map(|hold| match hold {
            Hold::For { seconds } => self.now + u64::from(seconds) * 1000,
            Hold::Until(moment) => moment,
        });
        let deliver_by = known.deliver_by.map(|By { seconds, late, traced }| {
            let ahead_ms = i64::from(seconds) * 1000;
            DeliverBy { by: UnixMs(self.now.0.saturating_add_signed(ahead_ms)), late, traced }
        });
        let in_vain = held_until.zip(deliver_by).is_some_and(|(until, deliver)| until > deliver.by);
        if held_until.is_some_and(|until| until > latest) || in_vain {
            return None;
        }
        // Strangers cannot put themselves in front (RFC 6710 4).
        let most = if self.may_relay() { i8::MAX } else { 0 };
        Some(MessageParameters {
            ret: known.ret,
            envid: known.envid,
            utf8: known.utf8,
            utf8_header: false,
            require_tls: known.require_tls,
            tls_optional: false,
            priority: known.priority.map(|priority| priority.min(most)),
            held_until,
            deliver_by,
            auth: known.auth.is_some(),
        })
    }

    fn verdict_given(&mut self, out: &mut Vec<u8>) {
        assert_eq!(self.waiting, Waiting::Verdict, "a verdict follows the end of a message");
        self.end_transaction();
        self.chunked = false;
        self.waiting = Waiting::Command;
        if self.ends_after_verdict {
            self.end_session(reply::SHUTTING_DOWN, out);
        }
    }

    /// Forgets sender, recipients and data; whatever ended the transaction, the next begins clean (SES-27).
    fn end_transaction(&mut self) {
        self.in_transaction = false;
        if let Some(transaction) = &mut self.transaction {
            transaction.envelope.clear();
            transaction.storage_refusal = None;
        }
        self.forwarded = None;
    }

    /// Forgets all that was said, but for the count of errors (TLS-03, XCL-02).
    fn begin_anew(&mut self) {
        self.end_transaction();
        self.user = None;
        self.hello.clear();
        self.protocol = Protocol::Smtp;
    }
}

fn parameter_reply(error: ParameterError) -> Reply {
    match error {
        ParameterError::Malformed => reply::BAD_PARAMETER,
        ParameterError::Unknown => reply::UNKNOWN_PARAMETER,
    }
}

/// Why an address in UTF-8 is not taken, if it is not: without SMTPUTF8, or if DNS cannot know its domain (EXT-05, EXT-06).
fn refuse_utf8(path: Path<'_>, utf8: bool, no_domain: Reply) -> Option<Reply> {
    if path.mailbox.is_ascii() {
        None
    } else if !utf8 {
        Some(reply::ADDRESS_EIGHT_BIT)
    } else {
        ascii_domain(domain_of(path.mailbox)).is_none().then_some(no_domain)
    }
}

/// What a client is told when the log does not take its message (QUE-07, QUE-08).
pub(crate) fn storage_reply(why: LogRefusal) -> Reply {
    match why {
        LogRefusal::Full => reply::STORAGE_FULL,
        LogRefusal::Failing => reply::STORAGE_FAILING,
    }
}

fn refusal_of(error: CommandError) -> Reply {
    match error {
        CommandError::Unknown => reply::UNKNOWN_COMMAND,
        CommandError::NotImplemented => reply::NOT_IMPLEMENTED,
        CommandError::Argument => reply::BAD_ARGUMENT,
        CommandError::Sender(AddressError::EightBit) | CommandError::Recipient(AddressError::EightBit) => {
            reply::ADDRESS_EIGHT_BIT
        }
        CommandError::Sender(AddressError::Brackets) => reply::SENDER_BRACKETS,
        CommandError::Sender(AddressError::TooLong) => reply::SENDER_TOO_LONG,
        CommandError::Sender(_) => reply::SENDER_SYNTAX,
        CommandError::Recipient(AddressError::Brackets) => reply::RECIPIENT_BRACKETS,
        CommandError::Recipient(AddressError::TooLong) => reply::RECIPIENT_TOO_LONG,
        CommandError::Recipient(_) => reply::RECIPIENT_SYNTAX,
    }
}

#[cfg(test)]
mod tests;
