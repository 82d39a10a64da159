//! The sending side of SMTP as a state machine over bytes: replies in, commands and bodies out.
//!
//! Pure: it sees neither sockets nor time, lives wherever its engine keeps it, and asks a [`Feed`] for messages and tells
//! it their fates. Replies are counted, never guessed: each must answer the oldest open command (RFC 2920 3.1). Whatever
//! a server sends leads to a fate for each recipient and at worst the session's end; nothing panics. Memory is one reply
//! line and the envelopes under way.
//!
//! With DATA at most two messages are under way: the body of one and the envelope of the next. With BDAT (RFC 3030) a
//! message needs no answer before its body, so that as many are under way as the script says.

use std::collections::VecDeque;
use std::io::Write;
use std::sync::Arc;

use crate::auth::{Auth, Login, Step};
use crate::corpus::{Corpus, Letter};
use crate::domains::Domains;
use crate::ledger::Fate;
use crate::marker;
use crate::outbox::Outbox;
use crate::tls::TlsMode;
use crate::trace::Trace;

const REPLY_LINE_MAX_BYTES: usize = 4096;

/// How commands are grouped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Pipeline {
    /// Lock step: every command waits for its reply.
    None,
    /// MAIL, RCPT and DATA together: two round trips a message.
    #[default]
    Group,
    /// A body and the next envelope together: one round trip a message.
    Across,
}

/// How a message's text is handed over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Body {
    /// DATA, with dots stuffed.
    #[default]
    Data,
    /// BDAT, in chunks (RFC 3030).
    Bdat {
        /// Bytes of a chunk; 0 for the whole message in one.
        chunk_bytes: u64,
    },
}

/// What all sessions of a run share.
pub struct Script {
    /// Grouping of commands; lock step where the server offers no PIPELINING.
    pub pipeline: Pipeline,
    /// DATA or BDAT. The corpus has the form for it.
    pub body: Body,
    /// Messages under way on a session at most, with BDAT across messages.
    pub depth: u32,
    /// STARTTLS or not; what is secured from the first byte is no matter of the protocol.
    pub tls: TlsMode,
    /// How to log in.
    pub auth: Option<Auth>,
    /// Recipients per message, at least 1.
    pub recipients: u32,
    /// Tells the recipients of each message in the place of that.
    pub trace: Option<Arc<Trace>>,
    /// Domains that recipients are spread over.
    pub domains: Domains,
    /// Messages per connection, 0 for no end.
    pub messages_per_session: u64,
    /// The run's number.
    pub run: u64,
    /// The text.
    pub corpus: Corpus,
}

impl Script {
    /// Recipients of a message.
    pub fn recipients_of(&self, id: u64) -> u32 {
        self.trace.as_ref().map_or(self.recipients, |trace| trace.recipients(id))
    }

    /// Writes the address of a message's recipient.
    pub fn write_recipient(&self, out: &mut Vec<u8>, id: u64, index: u32) {
        let domain = self.domains.pick(id.wrapping_mul(u64::from(self.recipients)) + u64::from(index));
        marker::write_recipient(out, id, index, domain);
    }

    /// What a message's text depends on.
    pub fn letter(&self, message: &Assignment) -> Letter {
        Letter { run: self.run, id: message.id, recipients: self.recipients, sent_ns: message.planned_ns }
    }
}

/// A message to be sent now.
#[derive(Clone, Copy, Debug)]
pub struct Assignment {
    /// Its number.
    pub id: u64,
    /// When it should have been started, nanoseconds since the Unix epoch.
    pub planned_ns: u64,
    /// When it was.
    pub started_ns: u64,
}

/// One message on its way.
#[derive(Debug)]
pub struct Transaction {
    /// The message.
    pub message: Assignment,
    /// Per recipient: accepted so far, or its fate. [`Fate::Unknown`] until told.
    pub fates: Vec<Fate>,
    /// Recipients that the server took at RCPT.
    taken: Vec<bool>,
    mail: Option<Fate>,
    /// BDAT: the first chunk that was refused.
    chunk: Option<Fate>,
    /// True if the connection broke before the last word.
    pub cut: bool,
}

impl Transaction {
    /// Nothing is known of any recipient.
    pub fn new(message: Assignment, recipients: u32) -> Transaction {
        let count = recipients as usize;
        let fates = vec![Fate::Unknown; count];
        Transaction { message, fates, taken: vec![false; count], mail: None, chunk: None, cut: false }
    }

    fn renew(&mut self, message: Assignment, recipients: u32) {
        let count = recipients as usize;
        self.fates.clear();
        self.fates.resize(count, Fate::Unknown);
        self.taken.clear();
        self.taken.resize(count, false);
        (self.message, self.mail, self.chunk, self.cut) = (message, None, None, false);
    }
}

/// Where messages come from and fates go to.
pub trait Feed {
    /// The next message, if one is to be sent now.
    fn next(&mut self) -> Option<Assignment>;
    /// A message has its last word; called once for each that [`Feed::next`] gave.
    fn settle(&mut self, transaction: &Transaction);
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expect {
    Greeting,
    Ehlo,
    Helo,
    StartTls,
    Auth,
    Mail,
    Rcpt(u32),
    Data,
    Dot,
    /// A chunk of BDAT; the last one tells the message's fate.
    Chunk {
        last: bool,
    },
    Reset,
    Quit,
}

/// What a session is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Waiting for the greeting or the answer to EHLO, or logging in.
    Opening,
    /// The socket is to be secured; then [`Session::secured`] goes on.
    Securing,
    /// Nothing on its way; may take a message.
    Idle,
    /// Messages on their way.
    Busy,
    /// QUIT is sent.
    Quitting,
    /// To be closed; tells whether in order.
    Over(End),
}

/// Why a session is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// QUIT was answered.
    Quit,
    /// The server refused the connection, or said 421.
    Refused,
    /// The connection was lost.
    Lost,
    /// The server spoke no SMTP, or out of turn.
    Broken,
    /// The server does not offer what the script needs: STARTTLS, CHUNKING or a way to log in.
    Lacking,
    /// The login failed.
    Denied,
}

/// What a server offered.
#[derive(Clone, Copy, Debug, Default)]
struct Offers {
    pipelining: bool,
    size: bool,
    eight_bit: bool,
    chunking: bool,
    starttls: bool,
    auth: bool,
}

/// One client session.
pub struct Session {
    state: State,
    expect: VecDeque<Expect>,
    line: Vec<u8>,
    offers: Offers,
    lock_step: bool,
    secured: bool,
    logged_in: bool,
    login: Option<Login>,
    /// Messages under way, the oldest first. With DATA the last one's envelope may be open.
    queue: VecDeque<Transaction>,
    /// The last message's envelope is out, or on its way out, and its body is not.
    envelope_open: bool,
    spare: Vec<Transaction>,
    begun: u64,
    reset_first: bool,
    /// A message failed with others behind it: their MAIL may be refused for its sake.
    tainted: bool,
    head: Vec<u8>,
    tail: Vec<u8>,
    /// BDAT in lock step: bytes of the body that are out.
    body_at: usize,
}

impl Default for Session {
    fn default() -> Session {
        Session {
            state: State::Opening,
            expect: VecDeque::from([Expect::Greeting]),
            line: Vec::new(),
            offers: Offers::default(),
            lock_step: true,
            secured: false,
            logged_in: false,
            login: None,
            queue: VecDeque::new(),
            envelope_open: false,
            spare: Vec::new(),
            begun: 0,
            reset_first: false,
            tainted: false,
            head: Vec::new(),
            tail: Vec::new(),
            body_at: 0,
        }
    }
}

impl Session {
    /// What the session is about.
    pub fn state(&self) -> State {
        self.state
    }

    /// Takes bytes of the server, in any split.
    pub fn receive(&mut self, mut bytes: &[u8], script: &Script, feed: &mut impl Feed, out: &mut Outbox) {
        while let Some(end) = memchr::memchr(b'\n', bytes) {
            if matches!(self.state, State::Over(_)) {
                return;
            }
            if self.state == State::Securing {
                // Behind the answer to STARTTLS nothing may come in the clear (RFC 3207 4).
                return self.over(End::Broken, feed);
            }
            let (line, rest) = bytes.split_at(end + 1);
            bytes = rest;
            if self.line.is_empty() {
                self.reply_line(line, script, feed, out);
            } else {
                let mut whole = std::mem::take(&mut self.line);
                whole.extend_from_slice(line);
                self.reply_line(&whole, script, feed, out);
                whole.clear();
                self.line = whole;
            }
        }
        self.line.extend_from_slice(bytes);
        if self.line.len() > REPLY_LINE_MAX_BYTES {
            self.over(End::Broken, feed);
        }
    }

    /// Asks the feed for work; for idle sessions when there is some again.
    pub fn start(&mut self, script: &Script, feed: &mut impl Feed, out: &mut Outbox) {
        if self.state == State::Idle {
            self.begin_next(script, feed, out);
        }
    }

    /// The socket is secured: what the server said before is forgotten (RFC 3207 4.2).
    pub fn secured(&mut self, out: &mut Outbox) {
        assert_eq!(self.state, State::Securing, "secured when it asked for it");
        self.state = State::Opening;
        self.secured = true;
        self.say_ehlo(out);
    }

    /// Says QUIT, if idle.
    pub fn quit(&mut self, out: &mut Outbox) {
        if self.state == State::Idle {
            out.own().extend_from_slice(b"QUIT\r\n");
            self.expect.push_back(Expect::Quit);
            self.state = State::Quitting;
        }
    }

    /// The connection is gone: messages on their way get their last word.
    pub fn closed(&mut self, feed: &mut impl Feed) {
        if !matches!(self.state, State::Over(_)) {
            let end = if self.state == State::Quitting { End::Quit } else { End::Lost };
            self.over(end, feed);
        }
    }

    fn over(&mut self, end: End, feed: &mut impl Feed) {
        for mut transaction in self.queue.drain(..) {
            transaction.cut = true;
            feed.settle(&transaction);
        }
        self.state = State::Over(end);
    }

    fn reply_line(&mut self, line: &[u8], script: &Script, feed: &mut impl Feed, out: &mut Outbox) {
        let line = line.trim_ascii_end();
        let code = match line.get(..3).and_then(read_code) {
            Some(code) if line.len() == 3 || line[3] == b' ' || line[3] == b'-' => code,
            _ => return self.over(End::Broken, feed),
        };
        let last = line.get(3) != Some(&b'-');
        if self.expect.front() == Some(&Expect::Ehlo) && line.len() > 4 {
            self.offers.note(&line[4..], script.auth.as_ref());
        }
        if last {
            match self.expect.pop_front() {
                // A server that closes may say 421 at any time.
                None => self.over(if code == 421 { End::Refused } else { End::Broken }, feed),
                Some(expected) => {
                    let text = line.get(4..).unwrap_or_default();
                    self.reply(expected, code, text, script, feed, out);
                }
            }
        }
    }

    fn reply(
        &mut self,
        expected: Expect,
        code: u16,
        text: &[u8],
        script: &Script,
        feed: &mut impl Feed,
        out: &mut Outbox,
    ) {
        match expected {
            Expect::Greeting if code == 220 => self.say_ehlo(out),
            Expect::Ehlo if code >= 500 => {
                out.own().extend_from_slice(b"HELO client.loadgen.test\r\n");
                self.expect.push_back(Expect::Helo);
            }
            Expect::Ehlo | Expect::Helo if code == 250 => self.greeted(script, feed, out),
            Expect::StartTls if code == 220 => self.state = State::Securing,
            Expect::StartTls => self.over(End::Lacking, feed),
            Expect::Auth => self.auth_reply(code, text, script, feed, out),
            Expect::Greeting | Expect::Ehlo | Expect::Helo => self.over(End::Refused, feed),
            Expect::Mail => self.mail_reply(code, script, feed, out),
            Expect::Rcpt(index) => self.rcpt_reply(index, code, script, feed, out),
            Expect::Data => self.data_reply(code, script, feed, out),
            Expect::Dot => self.dot_reply(code, script, feed, out),
            Expect::Chunk { last } => self.chunk_reply(last, code, script, feed, out),
            Expect::Reset => self.tainted = false,
            Expect::Quit => self.over(End::Quit, feed),
        }
        if code == 421 && !matches!(self.state, State::Over(_)) {
            self.over(End::Refused, feed);
        }
    }

    fn say_ehlo(&mut self, out: &mut Outbox) {
        self.offers = Offers::default();
        out.own().extend_from_slice(b"EHLO client.loadgen.test\r\n");
        self.expect.push_back(Expect::Ehlo);
    }

    /// Secures, logs in, or begins: whatever is next.
    fn greeted(&mut self, script: &Script, feed: &mut impl Feed, out: &mut Outbox) {
        if script.tls == TlsMode::StartTls && !self.secured {
            if !self.offers.starttls {
                return self.over(End::Lacking, feed);
            }
            out.own().extend_from_slice(b"STARTTLS\r\n");
            return self.expect.push_back(Expect::StartTls);
        }
        if let (Some(auth), false) = (&script.auth, self.logged_in) {
            if !self.offers.auth {
                return self.over(End::Lacking, feed);
            }
            let (login, line) = Login::begin(auth);
            self.login = Some(login);
            return self.say_auth(&line, out);
        }
        if script.body != Body::Data && !self.offers.chunking {
            return self.over(End::Lacking, feed);
        }
        self.lock_step = script.pipeline == Pipeline::None || !self.offers.pipelining;
        self.state = State::Idle;
        self.begin_next(script, feed, out);
    }

    fn say_auth(&mut self, line: &str, out: &mut Outbox) {
        out.own().extend_from_slice(line.as_bytes());
        out.own().extend_from_slice(b"\r\n");
        self.expect.push_back(Expect::Auth);
    }

    fn auth_reply(&mut self, code: u16, text: &[u8], script: &Script, feed: &mut impl Feed, out: &mut Outbox) {
        let (Some(auth), Some(login)) = (&script.auth, &mut self.login) else { return self.over(End::Broken, feed) };
        match code {
            235 => {
                self.logged_in = true;
                self.greeted(script, feed, out);
            }
            334 => match login.answer(auth, text) {
                Step::Say(line) => self.say_auth(&line, out),
                // "*" would give the login up politely (RFC 4954 4); the connection goes anyway.
                Step::Done | Step::Failed => self.over(End::Denied, feed),
            },
            _ => self.over(End::Denied, feed),
        }
    }

    /// The message whose envelope is answered next: with BDAT the oldest, with DATA the one whose envelope is open.
    fn in_question(&mut self, script: &Script) -> Option<&mut Transaction> {
        match script.body {
            Body::Data if self.envelope_open => self.queue.back_mut(),
            Body::Data => None,
            Body::Bdat { .. } => self.queue.front_mut(),
        }
    }

    fn mail_reply(&mut self, code: u16, script: &Script, feed: &mut impl Feed, out: &mut Outbox) {
        let tainted = self.tainted;
        let Some(next) = self.in_question(script) else { return self.over(End::Broken, feed) };
        // Refused since the one before it failed, not for its own sake.
        next.mail = if tainted && code == 503 { Some(Fate::Deferred) } else { refusal(code) };
        let refused = next.mail.is_some();
        if self.lock_step {
            if refused {
                self.finish_envelope(Fate::Deferred, script, feed, out)
            } else {
                self.write_rcpt(0, script, out)
            }
        }
    }

    fn rcpt_reply(&mut self, index: u32, code: u16, script: &Script, feed: &mut impl Feed, out: &mut Outbox) {
        let lock_step = self.lock_step;
        let Some(next) = self.in_question(script) else { return self.over(End::Broken, feed) };
        match next.mail.or(refusal(code)) {
            None => next.taken[index as usize] = true,
            Some(fate) => next.fates[index as usize] = fate,
        }
        if !lock_step {
            return;
        }
        let (any_taken, count) = (next.taken.contains(&true), next.fates.len() as u32);
        match index + 1 {
            more if more < count => self.write_rcpt(more, script, out),
            _ if any_taken && script.body == Body::Data => self.write_data(out),
            _ if any_taken => {
                self.write_body(script);
                self.write_chunk(script, out);
            }
            _ => {
                self.reset_first = true;
                self.finish_envelope(Fate::Deferred, script, feed, out);
            }
        }
    }

    fn data_reply(&mut self, code: u16, script: &Script, feed: &mut impl Feed, out: &mut Outbox) {
        let Some(next) = self.in_question(script) else { return self.over(End::Broken, feed) };
        if code != 354 {
            self.reset_first = true;
            return self.finish_envelope(refusal(code).unwrap_or(Fate::Deferred), script, feed, out);
        }
        if next.taken.contains(&true) {
            let message = next.message;
            script.corpus.write(&script.letter(&message), out.own(), &mut self.tail);
            out.push_shared(&script.corpus.template(message.id).wire);
            out.own().append(&mut self.tail);
        } else {
            // A server that wants a body for nobody gets an empty one (RFC 2920 3.1).
            out.own().extend_from_slice(b".\r\n");
        }
        self.expect.push_back(Expect::Dot);
        self.envelope_open = false;
        if script.pipeline == Pipeline::Across && !self.lock_step {
            self.begin_next(script, feed, out);
        }
    }

    fn dot_reply(&mut self, code: u16, script: &Script, feed: &mut impl Feed, out: &mut Outbox) {
        let Some(mut current) = self.queue.pop_front() else { return self.over(End::Broken, feed) };
        fill(&mut current, refusal(code).unwrap_or(Fate::Acknowledged));
        feed.settle(&current);
        self.spare.push(current);
        if !self.envelope_open {
            self.begin_next(script, feed, out);
        }
    }

    fn chunk_reply(&mut self, last: bool, code: u16, script: &Script, feed: &mut impl Feed, out: &mut Outbox) {
        let Some(current) = self.queue.front_mut() else { return self.over(End::Broken, feed) };
        current.chunk = current.chunk.or(refusal(code));
        let failed = current.chunk.is_some();
        if !(last || self.lock_step && failed) {
            if self.lock_step {
                self.write_chunk(script, out);
            }
            return;
        }
        fill(current, current.chunk.unwrap_or(Fate::Acknowledged));
        if failed {
            // What a server makes of a message that failed is not known before RSET (RFC 3030 2).
            self.reset_first = true;
            self.tainted = true;
        }
        let settled = self.queue.pop_front().expect("it was just looked at");
        feed.settle(&settled);
        self.spare.push(settled);
        self.begin_next(script, feed, out);
    }

    /// The newest message ends before its body: recipients that were taken have this fate.
    fn finish_envelope(&mut self, fate: Fate, script: &Script, feed: &mut impl Feed, out: &mut Outbox) {
        let Some(mut next) = self.queue.pop_back() else { return };
        self.envelope_open = false;
        fill(&mut next, fate);
        feed.settle(&next);
        self.spare.push(next);
        self.begin_next(script, feed, out);
    }

    fn begin_next(&mut self, script: &Script, feed: &mut impl Feed, out: &mut Outbox) {
        assert!(!self.envelope_open, "one envelope at a time");
        let depth = match (script.body, script.pipeline) {
            // The body of one, and the envelope of the next.
            (Body::Data, _) => 2,
            (Body::Bdat { .. }, Pipeline::Across) if !self.lock_step => script.depth.max(1) as usize,
            (Body::Bdat { .. }, _) => 1,
        };
        while self.queue.len() < depth && !self.envelope_open {
            let spent = script.messages_per_session > 0 && self.begun >= script.messages_per_session;
            let assignment = if spent { None } else { feed.next() };
            let Some(message) = assignment else {
                if self.queue.is_empty() {
                    self.state = State::Idle;
                    if spent {
                        self.quit(out);
                    }
                }
                return;
            };
            self.begun += 1;
            self.state = State::Busy;
            let count = script.recipients_of(message.id);
            let next = match self.spare.pop() {
                Some(mut next) => {
                    next.renew(message, count);
                    next
                }
                None => Transaction::new(message, count),
            };
            self.queue.push_back(next);
            self.envelope_open = script.body == Body::Data;
            self.write_envelope(script, out);
        }
    }

    fn write_envelope(&mut self, script: &Script, out: &mut Outbox) {
        let next = self.queue.back().expect("a message was begun");
        let (id, count) = (next.message.id, next.fates.len() as u32);
        if std::mem::take(&mut self.reset_first) {
            out.own().extend_from_slice(b"RSET\r\n");
            self.expect.push_back(Expect::Reset);
        }
        let own = out.own();
        own.extend_from_slice(b"MAIL FROM:<");
        marker::write_sender(own, id);
        // Writing to a vector cannot fail.
        let _ =
            if self.offers.size { write!(own, "> SIZE={}", script.corpus.message_bytes(id)) } else { write!(own, ">") };
        if self.offers.eight_bit && script.corpus.template(id).eight_bit {
            own.extend_from_slice(b" BODY=8BITMIME");
        }
        own.extend_from_slice(b"\r\n");
        self.expect.push_back(Expect::Mail);
        if !self.lock_step {
            for index in 0..count {
                self.write_rcpt(index, script, out);
            }
            if script.body == Body::Data {
                self.write_data(out);
            } else {
                self.write_body(script);
                while !self.write_chunk(script, out) {}
            }
        }
    }

    fn write_rcpt(&mut self, index: u32, script: &Script, out: &mut Outbox) {
        let id = self.queue.back().expect("a message was begun").message.id;
        let own = out.own();
        own.extend_from_slice(b"RCPT TO:<");
        script.write_recipient(own, id, index);
        own.extend_from_slice(b">\r\n");
        self.expect.push_back(Expect::Rcpt(index));
    }

    fn write_data(&mut self, out: &mut Outbox) {
        out.own().extend_from_slice(b"DATA\r\n");
        self.expect.push_back(Expect::Data);
    }

    /// Makes the newest message's text ready for [`Session::write_chunk`].
    fn write_body(&mut self, script: &Script) {
        let message = self.queue.back().expect("a message was begun").message;
        self.head.clear();
        self.tail.clear();
        script.corpus.write(&script.letter(&message), &mut self.head, &mut self.tail);
        self.body_at = 0;
    }

    /// Writes the next chunk; true if it is the last.
    fn write_chunk(&mut self, script: &Script, out: &mut Outbox) -> bool {
        let Body::Bdat { chunk_bytes } = script.body else { return true };
        let message = self.queue.back().expect("a message was begun").message;
        let wire = &script.corpus.template(message.id).wire;
        let whole = self.head.len() + wire.len() + self.tail.len();
        let left = whole - self.body_at;
        let size = if chunk_bytes == 0 { left } else { left.min(usize::try_from(chunk_bytes).unwrap_or(left)) };
        let (from, to) = (self.body_at, self.body_at + size);
        let last = to == whole;
        // Writing to a vector cannot fail.
        let _ = write!(out.own(), "BDAT {size}{}\r\n", if last { " LAST" } else { "" });
        // The parts of head, template and tail that lie in this chunk.
        let part = |begin: usize, length: usize| {
            from.clamp(begin, begin + length) - begin..to.clamp(begin, begin + length) - begin
        };
        let (head, text) = (self.head.len(), wire.len());
        out.own().extend_from_slice(&self.head[part(0, head)]);
        out.push_part(wire, part(head, text));
        out.own().extend_from_slice(&self.tail[part(head + text, self.tail.len())]);
        self.body_at = to;
        self.expect.push_back(Expect::Chunk { last });
        last
    }
}

impl Offers {
    fn note(&mut self, line: &[u8], auth: Option<&Auth>) {
        let mut words = line.split(|b| *b == b' ').filter(|word| !word.is_empty());
        let keyword = words.next().unwrap_or_default();
        self.pipelining |= keyword.eq_ignore_ascii_case(b"PIPELINING");
        self.size |= keyword.eq_ignore_ascii_case(b"SIZE");
        self.eight_bit |= keyword.eq_ignore_ascii_case(b"8BITMIME");
        self.chunking |= keyword.eq_ignore_ascii_case(b"CHUNKING");
        self.starttls |= keyword.eq_ignore_ascii_case(b"STARTTLS");
        if let (true, Some(auth)) = (keyword.eq_ignore_ascii_case(b"AUTH"), auth) {
            self.auth |= words.any(|word| word.eq_ignore_ascii_case(auth.mechanism.name().as_bytes()));
        }
    }
}

/// Gives recipients that were taken, or have no fate, this one.
pub(crate) fn fill(transaction: &mut Transaction, fate: Fate) {
    let untaken = transaction.mail.unwrap_or(fate);
    for (slot, taken) in transaction.fates.iter_mut().zip(&transaction.taken) {
        if *taken {
            *slot = fate;
        } else if *slot == Fate::Unknown {
            *slot = untaken;
        }
    }
}

/// None for success.
fn refusal(code: u16) -> Option<Fate> {
    match code {
        200..=399 => None,
        500..=599 => Some(Fate::Refused),
        _ => Some(Fate::Deferred),
    }
}

fn read_code(digits: &[u8]) -> Option<u16> {
    let code = digits.iter().try_fold(0u16, |n, b| b.is_ascii_digit().then(|| n * 10 + u16::from(b - b'0')))?;
    (200..600).contains(&code).then_some(code)
}

#[cfg(test)]
mod tests;
