//! The sending side of SMTP as a state machine over bytes: replies in, commands and bodies out.
//!
//! Pure: it sees neither sockets nor time, lives wherever its engine keeps it, and asks a [`Feed`] for messages and tells
//! it their fates. Replies are counted, never guessed: each must answer the oldest open command (RFC 2920 3.1). Whatever
//! a server sends leads to a fate for each recipient and at worst the session's end; nothing panics. Memory is one reply
//! line and two envelopes.

use std::collections::VecDeque;
use std::io::Write;

use crate::corpus::{Corpus, Letter};
use crate::domains::Domains;
use crate::ledger::Fate;
use crate::marker;
use crate::outbox::Outbox;

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

/// What all sessions of a run share.
pub struct Script {
    /// Grouping of commands; lock step where the server offers no PIPELINING.
    pub pipeline: Pipeline,
    /// Recipients per message, at least 1.
    pub recipients: u32,
    /// Domains that recipients are spread over.
    pub domains: Domains,
    /// Messages per connection, 0 for no end.
    pub messages_per_session: u64,
    /// The run's number.
    pub run: u64,
    /// The text.
    pub corpus: Corpus,
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
    /// True if the connection broke before the last word.
    pub cut: bool,
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
    Mail,
    Rcpt(u32),
    Data,
    Dot,
    Reset,
    Quit,
}

/// What a session is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Waiting for the greeting or the answer to EHLO.
    Opening,
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
}

/// One client session.
pub struct Session {
    state: State,
    expect: VecDeque<Expect>,
    line: Vec<u8>,
    pipelining: bool,
    size_offered: bool,
    eight_bit_offered: bool,
    lock_step: bool,
    /// Its body is out; waits for the answer to the dot.
    current: Option<Transaction>,
    /// Its envelope is out, or on its way out.
    next: Option<Transaction>,
    spare: Vec<Transaction>,
    begun: u64,
    reset_first: bool,
    tail: Vec<u8>,
}

impl Default for Session {
    fn default() -> Session {
        Session {
            state: State::Opening,
            expect: VecDeque::from([Expect::Greeting]),
            line: Vec::new(),
            pipelining: false,
            size_offered: false,
            eight_bit_offered: false,
            lock_step: true,
            current: None,
            next: None,
            spare: Vec::new(),
            begun: 0,
            reset_first: false,
            tail: Vec::new(),
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
        for mut transaction in [self.current.take(), self.next.take()].into_iter().flatten() {
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
            let keyword = line[4..].split(|b| *b == b' ').next().unwrap_or_default();
            self.pipelining |= keyword.eq_ignore_ascii_case(b"PIPELINING");
            self.size_offered |= keyword.eq_ignore_ascii_case(b"SIZE");
            self.eight_bit_offered |= keyword.eq_ignore_ascii_case(b"8BITMIME");
        }
        if last {
            match self.expect.pop_front() {
                // A server that closes may say 421 at any time.
                None => self.over(if code == 421 { End::Refused } else { End::Broken }, feed),
                Some(expected) => self.reply(expected, code, script, feed, out),
            }
        }
    }

    fn reply(&mut self, expected: Expect, code: u16, script: &Script, feed: &mut impl Feed, out: &mut Outbox) {
        match expected {
            Expect::Greeting if code == 220 => {
                out.own().extend_from_slice(b"EHLO client.loadgen.test\r\n");
                self.expect.push_back(Expect::Ehlo);
            }
            Expect::Ehlo if code >= 500 => {
                out.own().extend_from_slice(b"HELO client.loadgen.test\r\n");
                self.expect.push_back(Expect::Helo);
            }
            Expect::Ehlo | Expect::Helo if code == 250 => {
                self.lock_step = script.pipeline == Pipeline::None || !self.pipelining;
                self.state = State::Idle;
                self.begin_next(script, feed, out);
            }
            Expect::Greeting | Expect::Ehlo | Expect::Helo => self.over(End::Refused, feed),
            Expect::Mail => self.mail_reply(code, script, feed, out),
            Expect::Rcpt(index) => self.rcpt_reply(index, code, script, feed, out),
            Expect::Data => self.data_reply(code, script, feed, out),
            Expect::Dot => self.dot_reply(code, script, feed, out),
            Expect::Reset => {}
            Expect::Quit => self.over(End::Quit, feed),
        }
        if code == 421 && !matches!(self.state, State::Over(_)) {
            self.over(End::Refused, feed);
        }
    }

    fn mail_reply(&mut self, code: u16, script: &Script, feed: &mut impl Feed, out: &mut Outbox) {
        let Some(next) = &mut self.next else { return self.over(End::Broken, feed) };
        next.mail = refusal(code);
        if self.lock_step {
            match next.mail {
                None => self.write_rcpt(0, script, out),
                Some(_) => self.finish_next(script, feed, out),
            }
        }
    }

    fn rcpt_reply(&mut self, index: u32, code: u16, script: &Script, feed: &mut impl Feed, out: &mut Outbox) {
        let Some(next) = &mut self.next else { return self.over(End::Broken, feed) };
        match next.mail.or(refusal(code)) {
            None => next.taken[index as usize] = true,
            Some(fate) => next.fates[index as usize] = fate,
        }
        if !self.lock_step {
            return;
        }
        let any_taken = next.taken.contains(&true);
        match index + 1 {
            more if more < script.recipients => self.write_rcpt(more, script, out),
            _ if any_taken => self.write_data(out),
            _ => {
                self.reset_first = true;
                self.finish_next(script, feed, out);
            }
        }
    }

    fn data_reply(&mut self, code: u16, script: &Script, feed: &mut impl Feed, out: &mut Outbox) {
        let Some(mut next) = self.next.take() else { return self.over(End::Broken, feed) };
        if code != 354 {
            let fate = refusal(code).unwrap_or(Fate::Deferred);
            fill(&mut next, fate);
            self.reset_first = true;
            self.next = Some(next);
            return self.finish_next(script, feed, out);
        }
        if next.taken.contains(&true) {
            let message = next.message;
            let letter =
                Letter { run: script.run, id: message.id, recipients: script.recipients, sent_ns: message.planned_ns };
            script.corpus.write(&letter, out.own(), &mut self.tail);
            out.push_shared(&script.corpus.template(message.id).wire);
            out.own().append(&mut self.tail);
        } else {
            // A server that wants a body for nobody gets an empty one (RFC 2920 3.1).
            out.own().extend_from_slice(b".\r\n");
        }
        self.expect.push_back(Expect::Dot);
        self.current = Some(next);
        if script.pipeline == Pipeline::Across && !self.lock_step {
            self.begin_next(script, feed, out);
        }
    }

    fn dot_reply(&mut self, code: u16, script: &Script, feed: &mut impl Feed, out: &mut Outbox) {
        let Some(mut current) = self.current.take() else { return self.over(End::Broken, feed) };
        fill(&mut current, refusal(code).unwrap_or(Fate::Acknowledged));
        feed.settle(&current);
        self.spare.push(current);
        if self.next.is_none() {
            self.begin_next(script, feed, out);
        }
    }

    /// The next transaction ends before its body.
    fn finish_next(&mut self, script: &Script, feed: &mut impl Feed, out: &mut Outbox) {
        let Some(mut next) = self.next.take() else { return };
        fill(&mut next, Fate::Deferred);
        feed.settle(&next);
        self.spare.push(next);
        self.begin_next(script, feed, out);
    }

    fn begin_next(&mut self, script: &Script, feed: &mut impl Feed, out: &mut Outbox) {
        assert!(self.next.is_none(), "one envelope at a time");
        let spent = script.messages_per_session > 0 && self.begun >= script.messages_per_session;
        let assignment = if spent { None } else { feed.next() };
        let Some(message) = assignment else {
            if self.current.is_none() {
                self.state = State::Idle;
                if spent {
                    self.quit(out);
                }
            }
            return;
        };
        self.begun += 1;
        self.state = State::Busy;
        let count = script.recipients as usize;
        let mut next = self.spare.pop().unwrap_or_else(|| Transaction {
            message,
            fates: Vec::with_capacity(count),
            taken: Vec::with_capacity(count),
            mail: None,
            cut: false,
        });
        next.message = message;
        next.mail = None;
        next.fates.clear();
        next.fates.resize(count, Fate::Unknown);
        next.taken.clear();
        next.taken.resize(count, false);
        self.next = Some(next);
        self.write_envelope(script, out);
    }

    fn write_envelope(&mut self, script: &Script, out: &mut Outbox) {
        let id = self.next.as_ref().expect("an envelope was begun").message.id;
        if std::mem::take(&mut self.reset_first) {
            out.own().extend_from_slice(b"RSET\r\n");
            self.expect.push_back(Expect::Reset);
        }
        let own = out.own();
        own.extend_from_slice(b"MAIL FROM:<");
        marker::write_sender(own, id);
        // Writing to a vector cannot fail.
        let _ = if self.size_offered {
            write!(own, "> SIZE={}", script.corpus.message_bytes(id))
        } else {
            write!(own, ">")
        };
        if self.eight_bit_offered && script.corpus.template(id).eight_bit {
            own.extend_from_slice(b" BODY=8BITMIME");
        }
        own.extend_from_slice(b"\r\n");
        self.expect.push_back(Expect::Mail);
        if !self.lock_step {
            for index in 0..script.recipients {
                self.write_rcpt(index, script, out);
            }
            self.write_data(out);
        }
    }

    fn write_rcpt(&mut self, index: u32, script: &Script, out: &mut Outbox) {
        let id = self.next.as_ref().expect("an envelope was begun").message.id;
        let domain = script.domains.pick(id.wrapping_mul(u64::from(script.recipients)) + u64::from(index));
        let own = out.own();
        own.extend_from_slice(b"RCPT TO:<");
        marker::write_recipient(own, id, index, domain);
        own.extend_from_slice(b">\r\n");
        self.expect.push_back(Expect::Rcpt(index));
    }

    fn write_data(&mut self, out: &mut Outbox) {
        out.own().extend_from_slice(b"DATA\r\n");
        self.expect.push_back(Expect::Data);
    }
}

/// Gives recipients that were taken, or have no fate, this one.
fn fill(transaction: &mut Transaction, fate: Fate) {
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
