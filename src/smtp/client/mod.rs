//! The SMTP client: one outbound session, from the greeting to QUIT, with any number of transactions in between.
//!
//! Pure, shard-local: bytes and moments in, bytes into an [`Outbox`], verdicts to a [`ClientHandler`]. Whatever the
//! next hop sends, every recipient of every offered transaction gets exactly one verdict; nothing of it panics.
//! Wrong use by the caller (an offer without `can_take`, a mailbox with a line end) panics.
//!
//! The order of commands is fixed, so one marker (`Awaiting`) says which command the next reply belongs to: replies
//! are matched by counting alone (PIP-06). With PIPELINING, MAIL, RCPT and DATA leave as one group, and a message
//! offered meanwhile rides behind the body of the one before: one round trip a message (RFC 2920 3.1). At most two
//! transactions are in the session, the current one and the one riding behind. With CHUNKING the body goes as one BDAT
//! chunk in place of DATA, body and dot, once a recipient was accepted (BDT-10; RFC 3030 2): as many round trips, one
//! reply less.
//!
//! ```text
//! -> MAIL RCPT DATA            | -> body . MAIL RCPT DATA     | -> body . MAIL RCPT DATA
//! <- 250 250 354               | <- 250  250 250 354          | <- 250 ...
//!
//! -> MAIL RCPT                 | -> BDAT n LAST body MAIL RCPT | -> BDAT n LAST body MAIL RCPT
//! <- 250 250                   | <- 250  250 250               | <- 250 ...
//! ```
//!
//! Decisions where the RFCs leave room:
//! - An 8-bit message for a next hop without 8BITMIME fails with 5.6.3; it is not converted (EXT-04). So does a binary
//!   one for a next hop without BINARYMIME (BDT-11).
//! - 3yz to anything but DATA, 2yz to DATA, a reply no command asked for, or one that came before its command could
//!   be read: the session is broken off and what is open is tried again later (RTE-21).
//! - Bytes in clear behind the 220 to STARTTLS are an attack: the session is broken off (TLS-05).
//! - 421 ends the session wherever it comes; recipients already answered keep their answer (PIP-10, RTE-17).
//! - No reply after the final dot: `Outcome::Unknown` (RTE-16).
//!
//! LMTP is the same conversation with LHLO, and a reply for each recipient after the message (FND-07; RFC 2033). Where a next
//! hop wants to know who we are, `login` proves it before the first transaction (AUT-10).

mod features;
mod interface;
mod login;
mod transaction;

#[cfg(test)]
mod tests;

use std::io::Write;
use std::rc::Rc;

use crate::base::bytes::Outbox;
use crate::base::time::Mono;
use crate::config::Protocol;
use crate::mail::text::Form;
use crate::smtp::reply_parser::{ReplyParser, enhanced_code, gather_text};

use features::Features;
pub use interface::{
    ClientHandler, ClientSettings, ClientState, ClientVerdict, Login, Needs, Offer, OfferedRecipient, Outcome, Passed,
    Phase, SessionEnd, TlsWish,
};
use login::Exchange;
use transaction::{Transaction, Whom};

/// The command that the next reply answers. Those of a transaction belong to the current one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Awaiting {
    Nothing,
    Greeting,
    Ehlo,
    Helo,
    StartTls,
    /// No reply: the TLS handshake.
    Handshake,
    /// No reply: our own proof.
    Proof,
    /// The reply to AUTH, or to what was said to a challenge.
    Auth,
    Reset,
    Mail,
    Rcpt(usize),
    Data,
    /// The reply to the whole message, by DATA or BDAT.
    Dot,
    /// The reply to a dot without a message, after all recipients were refused (PIP-07).
    LoneDot,
    Quit,
}

/// One outbound session.
pub struct Client {
    settings: Rc<ClientSettings>,
    parser: ReplyParser,
    /// Cleaned text of the reply being read, and of the last one.
    text: Vec<u8>,
    features: Features,
    /// What the next hop calls itself in its greeting, where that is kept.
    name: Box<str>,
    tls: TlsWish,
    needs: Needs,
    protocol: Protocol,
    login: Option<Login>,
    exchange: Option<Box<Exchange>>,
    /// Inside TLS.
    secured: bool,
    awaiting: Awaiting,
    /// Replies still to come for what was put into the outbox.
    outstanding: u32,
    /// How many of them the rest of the bytes being read may answer, while a part of them was given back.
    answerable: Option<u32>,
    current: Transaction,
    riding: Transaction,
    /// The next hop may still hold a transaction of which nothing came: RSET goes before the next MAIL.
    reset_due: bool,
    /// The chunk before was refused. A next hop may take its transaction for open still, and say so to the MAIL behind it.
    chunk_refused: bool,
    /// Transactions the session got through to their last reply.
    transactions: u32,
    was_ready: bool,
    /// QUIT is the last thing in the outbox.
    goodbye: bool,
    deadline: Mono,
    over: Option<SessionEnd>,
}

impl Client {
    /// A session on a fresh connection: waits for the greeting.
    pub fn new(settings: Rc<ClientSettings>, now: Mono) -> Client {
        let mut client = Client {
            settings,
            parser: ReplyParser::new(),
            text: Vec::new(),
            features: Features::default(),
            name: Box::default(),
            tls: TlsWish::Never,
            needs: Needs::default(),
            protocol: Protocol::Smtp,
            login: None,
            exchange: None,
            secured: false,
            awaiting: Awaiting::Greeting,
            outstanding: 1,
            answerable: None,
            current: Transaction::default(),
            riding: Transaction::default(),
            reset_due: false,
            chunk_refused: false,
            transactions: 0,
            was_ready: false,
            goodbye: false,
            deadline: Mono::NEVER,
            over: None,
        };
        client.arm(now);
        client
    }

    /// The same session, inside TLS as wished.
    pub fn with_tls(mut self, wish: TlsWish) -> Client {
        self.tls = wish;
        self
    }

    /// The same session, for messages with these needs.
    pub fn with_needs(mut self, needs: Needs) -> Client {
        self.needs = needs;
        self
    }

    /// The same session, in this protocol.
    pub fn with_protocol(mut self, protocol: Protocol) -> Client {
        self.protocol = protocol;
        self
    }

    /// The same session, which proves who we are first.
    pub fn with_login(mut self, login: Option<Login>) -> Client {
        self.login = login;
        self
    }

    /// Transactions that the next hop takes in one session, if it says so (EXT-09; RFC 9422 4).
    pub fn transactions_max(&self) -> Option<u32> {
        self.features.mail_max
    }

    /// What the next hop called itself in its greeting; empty before, and where it is not kept.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// True inside TLS.
    pub fn is_secured(&self) -> bool {
        self.secured
    }

    /// The handshake is done: says EHLO anew; what the next hop said in clear is forgotten (TLS-05; RFC 3207 4.2).
    /// Panics unless the session is in `ClientState::Handshake`.
    pub fn secured(&mut self, now: Mono, out: &mut Outbox) {
        assert!(self.state() == ClientState::Handshake, "a handshake follows STARTTLS");
        self.secured = true;
        self.parser = ReplyParser::new();
        self.say_hello(Awaiting::Ehlo, out);
        self.arm(now);
    }

    /// What the session is doing.
    pub fn state(&self) -> ClientState {
        match (self.over, self.awaiting) {
            (Some(end), _) => ClientState::Over(end),
            (None, Awaiting::Nothing) => ClientState::Ready,
            (None, Awaiting::Greeting | Awaiting::Ehlo | Awaiting::Helo | Awaiting::StartTls | Awaiting::Auth) => {
                ClientState::Opening
            }
            (None, Awaiting::Handshake) => ClientState::Handshake,
            (None, Awaiting::Proof) => ClientState::Proving,
            (None, Awaiting::Quit) => ClientState::Closing,
            (None, _) => ClientState::Busy,
        }
    }

    /// True if the session was ever fit for a transaction: the next hop works in principle.
    pub fn was_ready(&self) -> bool {
        self.was_ready
    }

    /// Transactions the session got through to their last reply (RTE-20).
    pub fn transactions(&self) -> u32 {
        self.transactions
    }

    /// For a session that is over. True: a QUIT may wait to be sent, close the connection behind it. False: what waits is
    /// half a message or commands for no one, drop the connection at once.
    pub fn says_goodbye(&self) -> bool {
        self.goodbye
    }

    /// The text of the reply that ended the session, or our own words for why it ended; empty while it lasts.
    pub fn end_text(&self) -> &[u8] {
        if self.over.is_some() { &self.text } else { &[] }
    }

    /// When `timed_out` is to be called; `NEVER` while idle or over.
    pub fn deadline(&self) -> Mono {
        self.deadline
    }

    /// True if `offer` may be called: idle, or pipelining with no message riding behind the current one yet.
    pub fn can_take(&self) -> bool {
        match self.state() {
            ClientState::Ready => true,
            ClientState::Busy => self.features.pipelining && !self.riding.active,
            _ => false,
        }
    }

    /// True if the next hop takes commands in groups, so that messages ride behind each other.
    pub fn pipelines(&self) -> bool {
        self.features.pipelining
    }

    /// Takes a transaction. A message this next hop cannot take fails here and now, without a word to it.
    /// Panics unless `can_take()`.
    pub fn offer(&mut self, now: Mono, offer: Offer<'_, '_>, handler: &mut dyn ClientHandler, out: &mut Outbox) {
        assert!(self.can_take(), "an offer the session has no room for");
        if let Some(text) = self.features.objection(&offer) {
            let verdict = ClientVerdict { outcome: Outcome::Failed, code: 0, text, phase: Phase::Session };
            for recipient in 0..offer.recipients.len() {
                handler.verdict(offer.handle, recipient, verdict);
            }
            handler.finished(offer.handle, Passed::default());
            return;
        }
        if self.current.active {
            self.riding.begin(offer, &self.features, self.needs, handler);
            // Behind a body that is on its way already; else it waits for the 354 or for the refusal.
            if matches!(self.awaiting, Awaiting::Dot | Awaiting::LoneDot) {
                self.send_riding(out);
            }
        } else {
            self.current.begin(offer, &self.features, self.needs, handler);
            self.send_current(out);
            self.arm(now);
        }
    }

    /// Takes what the next hop sent and gives back what it did not look at, which the caller hands in again. It stops
    /// short only where the transaction that rode behind another has become the current one: what is offered now rides
    /// behind its body in turn, even if the 354 that lets that body go stands in the rest.
    #[must_use = "the rest is to be handed in again"]
    pub fn receive<'b>(
        &mut self,
        now: Mono,
        bytes: &'b [u8],
        handler: &mut dyn ClientHandler,
        out: &mut Outbox,
    ) -> &'b [u8] {
        let mut input = bytes;
        if self.awaiting == Awaiting::Handshake && self.over.is_none() {
            self.break_off(BEHIND_START_TLS, handler);
        }
        // What is put into the outbox from here on cannot be what these bytes answer (RTE-21).
        let mut answerable = self.answerable.take().unwrap_or(self.outstanding);
        while self.over.is_none() {
            let line = match self.parser.next(&mut input) {
                Ok(Some(line)) => line,
                Ok(None) => break,
                Err(_) => {
                    self.break_off(b"4.5.0 the next hop sent no SMTP reply", handler);
                    break;
                }
            };
            gather_text(&mut self.text, &line);
            if self.awaiting == Awaiting::Ehlo && !line.first {
                self.features.note(line.text);
            }
            if !line.last {
                continue;
            }
            if let Some(exchange) = &mut self.exchange {
                exchange.note_challenge(line.text);
            }
            let code = line.code;
            if answerable > 0 {
                answerable -= 1;
                self.outstanding -= 1;
                let rode = self.riding.active;
                self.reply(code, handler, out);
                self.arm(now);
                if self.awaiting == Awaiting::Handshake && !input.is_empty() {
                    self.break_off(BEHIND_START_TLS, handler);
                }
                if rode && self.over.is_none() && !self.riding.active && !input.is_empty() {
                    self.answerable = Some(answerable);
                    return input;
                }
            } else if self.awaiting == Awaiting::Nothing && code == 421 {
                // An idle session ended in good order: the next message just opens another (RTE-20).
                self.over(SessionEnd::PeerClosed);
            } else {
                self.break_off(b"4.5.0 the next hop sent a reply to no command", handler);
            }
        }
        &[]
    }

    /// Says QUIT. Panics unless the session is `Ready`.
    pub fn quit(&mut self, now: Mono, out: &mut Outbox) {
        assert!(self.state() == ClientState::Ready, "QUIT comes between transactions");
        self.send(b"QUIT\r\n", out);
        self.goodbye = true;
        self.awaiting = Awaiting::Quit;
        self.arm(now);
    }

    /// Bytes of the outbox went out; `drained` if none are left. Renews the time limit of a body being sent.
    pub fn sent_progress(&mut self, now: Mono, drained: bool) {
        if self.over.is_none() && matches!(self.awaiting, Awaiting::Dot | Awaiting::LoneDot) {
            let timeouts = &self.settings.timeouts;
            self.deadline = now.plus_ms(if drained { timeouts.data_end_ms } else { timeouts.data_block_ms });
        }
    }

    /// The deadline has passed: settles everything. Nothing happens if it has not.
    pub fn timed_out(&mut self, now: Mono, handler: &mut dyn ClientHandler) {
        if self.over.is_some() || now < self.deadline {
            return;
        }
        if self.awaiting == Awaiting::Quit {
            return self.over(SessionEnd::Quit);
        }
        let end = if self.awaiting == Awaiting::Handshake { SessionEnd::TlsFailed } else { SessionEnd::TimedOut };
        self.words(b"4.4.2 no reply from the next hop in time");
        self.lose(end, 0, false, handler);
    }

    /// The connection is gone: settles everything.
    pub fn closed(&mut self, handler: &mut dyn ClientHandler) {
        if self.over.is_some() {
            return;
        }
        let end = match self.awaiting {
            Awaiting::Quit => SessionEnd::Quit,
            Awaiting::Handshake => SessionEnd::TlsFailed,
            // In TLS 1.3 the next hop may refuse the handshake when for us it is done.
            Awaiting::Ehlo if self.secured => SessionEnd::TlsFailed,
            _ => SessionEnd::PeerClosed,
        };
        self.words(b"4.4.2 connection lost");
        self.lose(end, 0, true, handler);
    }

    /// Takes one whole reply to the oldest command without one; its text stands in `self.text`.
    fn reply(&mut self, code: u16, handler: &mut dyn ClientHandler, out: &mut Outbox) {
        if self.awaiting == Awaiting::Quit {
            return self.over(SessionEnd::Quit);
        }
        if code == 421 {
            return self.service_closing(handler);
        }
        if code / 100 == 3 && !matches!(self.awaiting, Awaiting::Data | Awaiting::Auth) {
            return self.break_off(b"4.5.0 the next hop sent an intermediate reply out of place", handler);
        }
        match self.awaiting {
            Awaiting::Greeting | Awaiting::Ehlo | Awaiting::Helo | Awaiting::StartTls => self.opening_reply(code, out),
            Awaiting::Auth => self.auth_reply(code, out),
            Awaiting::Reset if code / 100 == 2 => {
                self.reset_due = false;
                self.awaiting = Awaiting::Mail;
                self.send_next_in_lock_step(out);
            }
            Awaiting::Reset => self.break_off(b"4.5.0 the next hop refused RSET", handler),
            Awaiting::Mail => self.mail_reply(code, handler, out),
            Awaiting::Rcpt(recipient) => self.rcpt_reply(code, recipient, handler, out),
            Awaiting::Data => self.data_reply(code, handler, out),
            // It answers what it cannot have: half of the message is not even read from disk (RTE-21).
            Awaiting::Dot if out.waits() => {
                if code / 100 != 2 {
                    self.settle(self.of_reply(), outcome_of(code), code, Phase::Dot, handler);
                }
                self.break_off(b"4.5.0 the next hop answered before it had the whole message", handler);
            }
            Awaiting::Dot => {
                let outcome = outcome_of(code);
                self.settle(self.of_reply(), outcome, code, Phase::Dot, handler);
                if self.protocol == Protocol::Lmtp && self.current.next_accepted().is_some() {
                    // The replies for the other recipients follow.
                    return;
                }
                self.chunk_refused = self.current.chunked && outcome != Outcome::Delivered;
                self.end_transaction(out);
            }
            Awaiting::LoneDot => self.end_transaction(out),
            Awaiting::Nothing | Awaiting::Quit | Awaiting::Handshake | Awaiting::Proof => {
                unreachable!("a reply is counted only to a command")
            }
        }
    }

    /// Greeting, EHLO, HELO where EHLO is refused for good (RTE-13; RFC 5321 3.2), and STARTTLS (TLS-06).
    fn opening_reply(&mut self, code: u16, out: &mut Outbox) {
        match (code / 100, self.awaiting) {
            (2, Awaiting::Greeting) => {
                if self.settings.keeps_name {
                    let name = self.text.split(u8::is_ascii_whitespace).next().unwrap_or_default();
                    self.name = String::from_utf8_lossy(name).into();
                }
                self.say_hello(Awaiting::Ehlo, out)
            }
            (2, Awaiting::StartTls) => self.awaiting = Awaiting::Handshake,
            (2, Awaiting::Ehlo) if self.features.start_tls && !self.secured && self.tls != TlsWish::Never => {
                self.awaiting = Awaiting::StartTls;
                self.send(b"STARTTLS\r\n", out);
            }
            // A refused STARTTLS leaves the session as it was.
            (2, _) | (_, Awaiting::StartTls) if (self.secured || self.tls != TlsWish::Always) && !self.able() => {
                self.leave(SessionEnd::Unable, out)
            }
            (2, _) | (_, Awaiting::StartTls) if self.secured || self.tls != TlsWish::Always => self.log_in(out),
            (2, _) | (_, Awaiting::StartTls) => self.leave(SessionEnd::NoTls, out),
            (5, Awaiting::Ehlo) if self.protocol == Protocol::Smtp => self.say_hello(Awaiting::Helo, out),
            (class, _) => {
                let end = if class == 5 { SessionEnd::Refused { code } } else { SessionEnd::Throttled { code } };
                self.leave(end, out)
            }
        }
    }

    /// Says QUIT, for whose reply nobody waits; the connection closes behind it.
    fn leave(&mut self, end: SessionEnd, out: &mut Outbox) {
        out.push(b"QUIT\r\n");
        self.goodbye = true;
        self.over(end);
    }

    /// The next hop can do what the messages need.
    fn able(&self) -> bool {
        (self.features.utf8 || !self.needs.utf8)
            && ((self.features.require_tls && self.secured) || !self.needs.require_tls)
    }

    /// The session is fit for transactions.
    fn become_ready(&mut self) {
        self.awaiting = Awaiting::Nothing;
        self.was_ready = true;
    }

    fn say_hello(&mut self, awaiting: Awaiting, out: &mut Outbox) {
        let verb: &[u8] = match (self.protocol, awaiting) {
            (Protocol::Lmtp, _) => b"LHLO ",
            (Protocol::Smtp, Awaiting::Helo) => b"HELO ",
            (Protocol::Smtp, _) => b"EHLO ",
        };
        self.features = Features { chunking_wanted: self.settings.chunking, ..Features::default() };
        self.awaiting = awaiting;
        out.push(verb);
        out.push(self.settings.hello.as_bytes());
        self.send(b"\r\n", out);
    }

    fn mail_reply(&mut self, code: u16, handler: &mut dyn ClientHandler, out: &mut Outbox) {
        self.current.answered = true;
        let chunk_refused = std::mem::take(&mut self.chunk_refused);
        if code / 100 != 2 {
            self.current.refused = true;
            // RFC 3030 does not say whether a refused chunk ends its transaction: this may be no word about ours.
            self.reset_due = chunk_refused && code == 503;
            let outcome = if self.reset_due { Outcome::NotTried } else { outcome_of(code) };
            self.settle(Whom::Open, outcome, code, Phase::Mail, handler);
            if !self.features.pipelining {
                return self.end_transaction(out);
            }
        }
        self.awaiting = Awaiting::Rcpt(0);
        self.send_next_in_lock_step(out);
    }

    fn rcpt_reply(&mut self, code: u16, recipient: usize, handler: &mut dyn ClientHandler, out: &mut Outbox) {
        if code / 100 == 2 {
            self.current.accept(recipient);
        } else {
            let outcome = rcpt_outcome(code, &self.text, self.current.accepted > 0);
            self.settle(Whom::One(recipient), outcome, code, Phase::Rcpt, handler);
        }
        if recipient + 1 < self.current.recipients() {
            self.awaiting = Awaiting::Rcpt(recipient + 1);
        } else if self.current.chunked {
            return self.send_chunk(handler, out);
        } else if self.features.pipelining || self.current.accepted > 0 {
            self.awaiting = Awaiting::Data;
        } else {
            // In lock step DATA is never sent for nobody (RTE-18).
            self.reset_due = true;
            return self.end_transaction(out);
        }
        self.send_next_in_lock_step(out);
    }

    /// Sends the message as one chunk, unless nobody is to get it (BDT-10, PIP-07).
    fn send_chunk(&mut self, handler: &mut dyn ClientHandler, out: &mut Outbox) {
        if self.current.accepted == 0 || self.current.refused {
            self.reset_due |= !self.current.refused || self.current.accepted > 0;
            return self.end_transaction(out);
        }
        let size_bytes = self.current.size_bytes;
        out.write(|out| write!(out, "BDAT {size_bytes} LAST\r\n")).expect("a vector takes all");
        self.outstanding += self.replies_to_body();
        handler.push_body(self.current.handle(), Form::Plain, out);
        self.awaiting = Awaiting::Dot;
        if self.riding.active {
            self.send_riding(out);
        }
    }

    /// Replies to a whole message: one in SMTP, one for each recipient that was accepted in LMTP (FND-07; RFC 2033 4.2).
    fn replies_to_body(&self) -> u32 {
        match self.protocol {
            Protocol::Smtp => 1,
            Protocol::Lmtp => self.current.accepted as u32,
        }
    }

    /// Whom the next reply to a message is about.
    fn of_reply(&self) -> Whom {
        match self.protocol {
            Protocol::Smtp => Whom::Accepted,
            Protocol::Lmtp => Whom::One(self.current.next_accepted().expect("a reply is awaited for somebody")),
        }
    }

    fn data_reply(&mut self, code: u16, handler: &mut dyn ClientHandler, out: &mut Outbox) {
        match code / 100 {
            3 if self.current.refused && self.current.accepted > 0 => {
                // It refused MAIL and yet collects a message: any dot of ours might send an empty one.
                self.break_off(b"4.5.0 the next hop wants a message it refused", handler);
            }
            // How many replies a dot without a message has there nobody says.
            3 if self.current.accepted == 0 && self.protocol == Protocol::Lmtp => {
                self.break_off(b"4.5.0 the next hop wants a message that it takes for nobody", handler);
            }
            3 => {
                let anyone = self.current.accepted > 0;
                let replies = if anyone { self.replies_to_body() } else { 1 };
                if anyone {
                    handler.push_body(self.current.handle(), Form::Wire, out);
                }
                out.push(b".\r\n");
                self.outstanding += replies;
                self.awaiting = if anyone { Awaiting::Dot } else { Awaiting::LoneDot };
                if self.riding.active {
                    self.send_riding(out);
                }
            }
            2 => self.break_off(b"4.5.0 the next hop took DATA for a whole message", handler),
            _ => {
                self.settle(Whom::Open, outcome_of(code), code, Phase::Data, handler);
                self.reset_due = true;
                self.end_transaction(out);
            }
        }
    }

    /// 421: the session is over; what was answered stays as answered (PIP-10, RTE-17; RFC 5321 3.8).
    fn service_closing(&mut self, handler: &mut dyn ClientHandler) {
        if self.awaiting == Awaiting::Dot {
            // A reply to the dot like any other: the message was not taken.
            self.settle(self.of_reply(), Outcome::Deferred, 421, Phase::Dot, handler);
        }
        // "You were idle too long" crossing our next command is no sign of displeasure.
        let idle =
            self.transactions > 0 && enhanced_code(&self.text).is_some_and(|(e, _)| (e.subject, e.detail) == (4, 2));
        let end = if idle { SessionEnd::PeerClosed } else { SessionEnd::Throttled { code: 421 } };
        self.lose(end, 421, true, handler);
    }

    /// The next hop is out of step: nothing it says can be trusted any more (RTE-21).
    fn break_off(&mut self, text: &[u8], handler: &mut dyn ClientHandler) {
        self.words(text);
        self.lose(SessionEnd::Broken, 0, false, handler);
    }

    /// Ends the session in the middle of whatever it did; `self.text` says why.
    ///
    /// A transaction of which nothing was answered was not tried if it rides behind another, or if `forgiving` and the
    /// session was used before: then it already made headway, so that trying again at once cannot go on for ever.
    fn lose(&mut self, end: SessionEnd, code: u16, forgiving: bool, handler: &mut dyn ClientHandler) {
        let phase = match self.awaiting {
            Awaiting::Mail => Phase::Mail,
            Awaiting::Rcpt(_) => Phase::Rcpt,
            Awaiting::Data => Phase::Data,
            Awaiting::Dot => Phase::Dot,
            _ => Phase::Session,
        };
        if self.current.active {
            let untouched = forgiving && self.transactions > 0 && !self.current.answered;
            let outcome = match self.awaiting {
                Awaiting::Dot => Outcome::Unknown,
                _ if untouched => Outcome::NotTried,
                _ => Outcome::Deferred,
            };
            self.settle(Whom::Open, outcome, code, phase, handler);
            self.current.end();
        }
        if self.riding.active {
            let verdict = ClientVerdict { outcome: Outcome::NotTried, code, text: &self.text, phase: Phase::Session };
            self.riding.settle(Whom::Open, verdict, handler);
            self.riding.end();
        }
        self.over(end);
    }

    /// The current transaction's last reply was read: the one behind becomes the current one, or the session is idle.
    fn end_transaction(&mut self, out: &mut Outbox) {
        self.transactions = self.transactions.saturating_add(1);
        self.current.end();
        self.awaiting = Awaiting::Nothing;
        if self.riding.active {
            std::mem::swap(&mut self.current, &mut self.riding);
            if self.current.unsent() {
                self.send_current(out);
            } else {
                self.awaiting = Awaiting::Mail;
            }
        }
    }

    /// Sends the current transaction's group, or its MAIL in lock step, behind an RSET where one is due (PIP-07).
    fn send_current(&mut self, out: &mut Outbox) {
        self.awaiting = Awaiting::Mail;
        if self.reset_due {
            self.awaiting = Awaiting::Reset;
            self.send(b"RSET\r\n", out);
        }
        if self.features.pipelining {
            let (group, commands) = self.current.take_group();
            out.push(group);
            self.outstanding += commands;
        } else if !self.reset_due {
            self.send_command(out);
        }
    }

    /// Sends the riding transaction's group; only ever behind a body, so that no RSET is due.
    fn send_riding(&mut self, out: &mut Outbox) {
        assert!(!self.reset_due && self.features.pipelining, "only a pipelined message rides, and behind a body");
        let (group, commands) = self.riding.take_group();
        out.push(group);
        self.outstanding += commands;
    }

    fn send_next_in_lock_step(&mut self, out: &mut Outbox) {
        if !self.features.pipelining {
            self.send_command(out);
        }
    }

    fn send_command(&mut self, out: &mut Outbox) {
        out.push(self.current.take_command());
        self.outstanding += 1;
    }

    /// Sends the end of one command.
    fn send(&mut self, bytes: &[u8], out: &mut Outbox) {
        out.push(bytes);
        self.outstanding += 1;
    }

    fn settle(&mut self, whom: Whom, outcome: Outcome, code: u16, phase: Phase, handler: &mut dyn ClientHandler) {
        self.current.settle(whom, ClientVerdict { outcome, code, text: &self.text, phase }, handler);
    }

    /// Replaces the reply's text by our own words.
    fn words(&mut self, text: &[u8]) {
        self.text.clear();
        self.text.extend_from_slice(text);
    }

    fn over(&mut self, end: SessionEnd) {
        assert!(!self.current.active && !self.riding.active, "a session ends with nothing left open");
        self.over = Some(end);
        self.deadline = Mono::NEVER;
    }

    /// Sets the time limit of the reply awaited (RTE-15).
    fn arm(&mut self, now: Mono) {
        let timeouts = &self.settings.timeouts;
        let wait_ms = match self.awaiting {
            _ if self.over.is_some() => return,
            Awaiting::Nothing => {
                self.deadline = Mono::NEVER;
                return;
            }
            Awaiting::Greeting => timeouts.greeting_ms,
            Awaiting::Ehlo | Awaiting::Helo | Awaiting::StartTls | Awaiting::Reset => timeouts.hello_ms,
            Awaiting::Handshake => timeouts.tls_ms,
            Awaiting::Proof | Awaiting::Auth => timeouts.hello_ms,
            Awaiting::Mail => timeouts.mail_ms,
            Awaiting::Rcpt(_) => timeouts.rcpt_ms,
            Awaiting::Data => timeouts.data_ms,
            // The reply for one recipient says nothing of how long the next one takes.
            Awaiting::Dot if self.protocol == Protocol::Lmtp => timeouts.data_end_ms,
            Awaiting::Dot | Awaiting::LoneDot => timeouts.data_block_ms,
            Awaiting::Quit => timeouts.quit_ms,
        };
        self.deadline = now.plus_ms(wait_ms);
    }
}

/// Whoever sent these bytes in clear wants them read as if they had come inside TLS (TLS-05; RFC 3207 6).
const BEHIND_START_TLS: &[u8] = b"4.7.0 bytes in clear behind the reply to STARTTLS";

/// By the first digit, as unknown codes are (RTE-22; RFC 5321 4.3.2).
fn outcome_of(code: u16) -> Outcome {
    match code / 100 {
        2 => Outcome::Delivered,
        5 => Outcome::Failed,
        _ => Outcome::Deferred,
    }
}

/// A refused RCPT. 452 and 552 may mean "no more in this transaction" and are temporary without an enhanced code that
/// says otherwise (SIZ-10; RFC 5321 4.5.3.1.10).
fn rcpt_outcome(code: u16, text: &[u8], others_accepted: bool) -> Outcome {
    if code != 452 && code != 552 {
        return outcome_of(code);
    }
    match enhanced_code(text) {
        Some((enhanced, _)) if (enhanced.subject, enhanced.detail) != (5, 3) => outcome_of(code),
        _ if others_accepted => Outcome::NotTried,
        _ => Outcome::Deferred,
    }
}
