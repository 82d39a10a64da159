//! The receiving side of SMTP as a state machine over bytes: commands and bodies in, replies out, arrivals told.
//!
//! Pure: no sockets, no time; one per connection, on its sink's thread. Verbs are RFC 5321's least with PIPELINING, SIZE,
//! 8BITMIME and ENHANCEDSTATUSCODES. Outside bytes never panic; a command line longer than [`LINE_MAX_BYTES`] is answered
//! with 500, and recipients beyond [`RECIPIENTS_MAX`] with 452.

use crate::marker;
use crate::rng::Rng;
use crate::sink::body::{BodyReader, Verified};
use crate::sink::faults::{Denial, Faults};

/// The longest command line taken, in bytes.
pub const LINE_MAX_BYTES: usize = 4096;
/// The most recipients of one message.
pub const RECIPIENTS_MAX: usize = 10_000;

/// Where arrivals go.
pub trait Arrivals {
    /// A message was taken: 250 follows.
    fn message(&mut self, arrival: &Arrival<'_>);
    /// Something was refused, deferred or dropped on purpose.
    fn fault(&mut self);
}

/// A message that was taken.
pub struct Arrival<'a> {
    /// True for the null reverse-path.
    pub is_bounce: bool,
    /// Recipients of ours.
    pub recipients: &'a [(u64, u32)],
    /// Recipients not of ours.
    pub strange_recipients: u64,
    /// For a bounce: the message whose sender it is for.
    pub bounce_for: Option<u64>,
    /// For a bounce: the recipients it names.
    pub bounced: &'a [(u64, u32)],
    /// The body's checks.
    pub body: Verified,
}

/// What to do after bytes were taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    /// Go on.
    Open,
    /// Send what there is, then close.
    Close,
    /// Close at once and send nothing.
    Drop,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Command,
    Body,
    Over(Flow),
}

/// One session of a sink.
pub struct Session {
    state: State,
    line: Vec<u8>,
    line_too_long: bool,
    has_sender: bool,
    is_bounce: bool,
    recipients: Vec<(u64, u32)>,
    strange_recipients: u64,
    bounce_for: Option<u64>,
    body: BodyReader,
    drop_in_body: bool,
    messages: u64,
}

impl Default for Session {
    fn default() -> Session {
        Session {
            state: State::Command,
            line: Vec::new(),
            line_too_long: false,
            has_sender: false,
            is_bounce: false,
            recipients: Vec::new(),
            strange_recipients: 0,
            bounce_for: None,
            body: BodyReader::default(),
            drop_in_body: false,
            messages: 0,
        }
    }
}

impl Session {
    /// Makes ready for a new connection, keeping buffers, and greets.
    pub fn greet(&mut self, out: &mut Vec<u8>) {
        self.state = State::Command;
        self.line.clear();
        self.line_too_long = false;
        self.messages = 0;
        self.reset();
        out.extend_from_slice(b"220 sink.loadgen.test ESMTP\r\n");
    }

    /// Takes bytes in any split, appends replies.
    pub fn receive(
        &mut self,
        mut input: &[u8],
        faults: &Faults,
        rng: &mut Rng,
        arrivals: &mut impl Arrivals,
        out: &mut Vec<u8>,
    ) -> Flow {
        while !input.is_empty() {
            match self.state {
                State::Over(flow) => return flow,
                State::Body => {
                    if let Some(verified) = self.body.read(&mut input) {
                        self.end(verified, faults, rng, arrivals, out);
                    } else if self.drop_in_body {
                        arrivals.fault();
                        self.state = State::Over(Flow::Drop);
                    }
                }
                State::Command => self.command_bytes(&mut input, faults, rng, arrivals, out),
            }
        }
        if let State::Over(flow) = self.state { flow } else { Flow::Open }
    }

    fn command_bytes(
        &mut self,
        input: &mut &[u8],
        faults: &Faults,
        rng: &mut Rng,
        arrivals: &mut impl Arrivals,
        out: &mut Vec<u8>,
    ) {
        let Some(end) = memchr::memchr(b'\n', input) else {
            if self.line.len() + input.len() > LINE_MAX_BYTES {
                self.line_too_long = true;
                self.line.clear();
            }
            if !self.line_too_long {
                self.line.extend_from_slice(input);
            }
            *input = &[];
            return;
        };
        let (line, rest) = input.split_at(end + 1);
        *input = rest;
        if std::mem::take(&mut self.line_too_long) || self.line.len() + line.len() > LINE_MAX_BYTES {
            self.line.clear();
            out.extend_from_slice(b"500 5.5.2 Line too long\r\n");
        } else if self.line.is_empty() {
            self.command(line.trim_ascii_end(), faults, rng, arrivals, out);
        } else {
            let mut whole = std::mem::take(&mut self.line);
            whole.extend_from_slice(line);
            self.command(whole.trim_ascii_end(), faults, rng, arrivals, out);
            whole.clear();
            self.line = whole;
        }
    }

    fn command(
        &mut self,
        line: &[u8],
        faults: &Faults,
        rng: &mut Rng,
        arrivals: &mut impl Arrivals,
        out: &mut Vec<u8>,
    ) {
        let mut verb = [0; 4];
        if let Some(start) = line.get(..4) {
            verb.copy_from_slice(start);
            verb.make_ascii_uppercase();
        }
        match &verb {
            b"MAIL" => self.mail(line, faults, rng, arrivals, out),
            b"RCPT" => self.rcpt(line, faults, rng, arrivals, out),
            b"DATA" => self.data(faults, rng, arrivals, out),
            b"EHLO" => {
                self.reset();
                out.extend_from_slice(b"250-sink.loadgen.test\r\n");
                if !faults.no_pipelining {
                    out.extend_from_slice(b"250-PIPELINING\r\n");
                }
                out.extend_from_slice(b"250-SIZE ");
                marker::write_decimal(out, faults.size_max_bytes, 1);
                out.extend_from_slice(b"\r\n250-8BITMIME\r\n250 ENHANCEDSTATUSCODES\r\n");
            }
            b"HELO" => {
                self.reset();
                out.extend_from_slice(b"250 sink.loadgen.test\r\n");
            }
            b"RSET" => {
                self.reset();
                out.extend_from_slice(b"250 2.0.0 Ok\r\n");
            }
            b"NOOP" => out.extend_from_slice(b"250 2.0.0 Ok\r\n"),
            b"VRFY" => out.extend_from_slice(b"252 2.5.0 Perhaps\r\n"),
            b"QUIT" => {
                out.extend_from_slice(b"221 2.0.0 Bye\r\n");
                self.state = State::Over(Flow::Close);
            }
            _ => out.extend_from_slice(b"500 5.5.1 No such command\r\n"),
        }
    }

    fn mail(&mut self, line: &[u8], faults: &Faults, rng: &mut Rng, arrivals: &mut impl Arrivals, out: &mut Vec<u8>) {
        if faults.messages_per_connection > 0 && self.messages >= faults.messages_per_connection {
            out.extend_from_slice(b"421 4.7.0 Enough for this connection\r\n");
            self.state = State::Over(Flow::Close);
            return;
        }
        let Some((address, parameters)) = path(line, b"MAIL FROM:") else {
            return out.extend_from_slice(b"501 5.5.4 MAIL FROM:<address>\r\n");
        };
        if self.has_sender {
            return out.extend_from_slice(b"503 5.5.1 One MAIL at a time\r\n");
        }
        if faults.size_max_bytes > 0 && declared_size(parameters) > faults.size_max_bytes {
            return out.extend_from_slice(b"552 5.3.4 Message too large\r\n");
        }
        if denied(faults.mail.for_mail_of(address.is_empty()), rng, arrivals, out) {
            return;
        }
        self.has_sender = true;
        self.is_bounce = address.is_empty();
        out.extend_from_slice(b"250 2.1.0 Ok\r\n");
    }

    fn rcpt(&mut self, line: &[u8], faults: &Faults, rng: &mut Rng, arrivals: &mut impl Arrivals, out: &mut Vec<u8>) {
        if !self.has_sender {
            return out.extend_from_slice(b"503 5.5.1 MAIL first\r\n");
        }
        let Some((address, _)) = path(line, b"RCPT TO:") else {
            return out.extend_from_slice(b"501 5.5.4 RCPT TO:<address>\r\n");
        };
        if self.recipients.len() >= RECIPIENTS_MAX {
            return out.extend_from_slice(b"452 4.5.3 Too many recipients\r\n");
        }
        if denied(faults.rcpt.for_mail_of(self.is_bounce), rng, arrivals, out) {
            return;
        }
        match marker::parse_recipient(address) {
            Some(recipient) => self.recipients.push(recipient),
            None => {
                self.strange_recipients += 1;
                self.bounce_for = marker::parse_sender(address).or(self.bounce_for);
            }
        }
        out.extend_from_slice(b"250 2.1.5 Ok\r\n");
    }

    fn data(&mut self, faults: &Faults, rng: &mut Rng, arrivals: &mut impl Arrivals, out: &mut Vec<u8>) {
        if self.recipients.is_empty() && self.strange_recipients == 0 {
            return out.extend_from_slice(b"503 5.5.1 RCPT first\r\n");
        }
        if denied(faults.data.for_mail_of(self.is_bounce), rng, arrivals, out) {
            return;
        }
        self.state = State::Body;
        self.drop_in_body = rng.chance(faults.drop_before_dot);
        self.body.begin(self.is_bounce);
        out.extend_from_slice(b"354 Go on\r\n");
    }

    fn end(&mut self, body: Verified, faults: &Faults, rng: &mut Rng, arrivals: &mut impl Arrivals, out: &mut Vec<u8>) {
        self.state = State::Command;
        self.messages += 1;
        if self.drop_in_body || rng.chance(faults.drop_after_dot) {
            arrivals.fault();
            self.state = State::Over(Flow::Drop);
        } else if faults.size_max_bytes > 0 && body.bytes > faults.size_max_bytes {
            out.extend_from_slice(b"552 5.3.4 Message too large\r\n");
        } else if !denied(faults.end.for_mail_of(self.is_bounce), rng, arrivals, out) {
            arrivals.message(&Arrival {
                is_bounce: self.is_bounce,
                recipients: &self.recipients,
                strange_recipients: self.strange_recipients,
                bounce_for: self.bounce_for,
                bounced: &self.body.bounced,
                body,
            });
            out.extend_from_slice(b"250 2.0.0 Taken\r\n");
        }
        self.reset();
    }

    fn reset(&mut self) {
        self.has_sender = false;
        self.is_bounce = false;
        self.recipients.clear();
        self.strange_recipients = 0;
        self.bounce_for = None;
        self.drop_in_body = false;
    }
}

fn denied(denial: Denial, rng: &mut Rng, arrivals: &mut impl Arrivals, out: &mut Vec<u8>) -> bool {
    let reply: &[u8] = if rng.chance(denial.refuse) {
        b"550 5.7.1 Refused on purpose\r\n"
    } else if rng.chance(denial.defer) {
        b"451 4.3.0 Deferred on purpose\r\n"
    } else {
        return false;
    };
    arrivals.fault();
    out.extend_from_slice(reply);
    true
}

/// The address between the brackets behind `prefix`, and what follows it.
fn path<'a>(line: &'a [u8], prefix: &[u8]) -> Option<(&'a [u8], &'a [u8])> {
    let start = line.get(..prefix.len())?;
    if !start.eq_ignore_ascii_case(prefix) {
        return None;
    }
    let rest = line[prefix.len()..].trim_ascii_start().strip_prefix(b"<")?;
    let end = memchr::memchr(b'>', rest)?;
    Some((&rest[..end], &rest[end + 1..]))
}

/// The value of SIZE= (RFC 1870), 0 if there is none.
fn declared_size(parameters: &[u8]) -> u64 {
    parameters
        .split(|b| *b == b' ')
        .find(|word| word.len() > 5 && word[..5].eq_ignore_ascii_case(b"SIZE="))
        .and_then(|word| std::str::from_utf8(&word[5..]).ok()?.parse().ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Count {
        messages: Vec<(usize, bool)>,
        faults: usize,
    }
    impl Arrivals for Count {
        fn message(&mut self, arrival: &Arrival<'_>) {
            self.messages.push((arrival.recipients.len(), arrival.is_bounce));
        }
        fn fault(&mut self) {
            self.faults += 1;
        }
    }

    const DIALOGUE: &[u8] = b"EHLO me\r\nMAIL FROM:<b000000000001@loadgen.test> SIZE=10\r\nRCPT TO:<000000000001.0@d0.loadgen.test>\r\n\
        rcpt to:<else@where>\r\nDATA\r\nSubject: x\r\n\r\n..dot\r\n.\r\nMAIL FROM:<>\r\nRCPT TO:<b000000000001@loadgen.test>\r\nDATA\r\n.\r\nBOGUS\r\nQUIT\r\n";

    fn codes(out: &[u8]) -> String {
        let lines = out.split(|b| *b == b'\n').filter(|line| line.len() > 3 && line[3] == b' ');
        lines.map(|line| String::from_utf8_lossy(&line[..3]).into_owned()).collect::<Vec<_>>().join(" ")
    }

    fn talk(step: usize, faults: &Faults) -> (Vec<u8>, Count, Flow) {
        let (mut session, mut out, mut count) = (Session::default(), Vec::new(), Count::default());
        let mut rng = Rng::new(1);
        session.greet(&mut out);
        let mut flow = Flow::Open;
        for part in DIALOGUE.chunks(step) {
            flow = session.receive(part, faults, &mut rng, &mut count, &mut out);
            if flow != Flow::Open {
                break;
            }
        }
        (out, count, flow)
    }

    #[test]
    fn same_dialogue_in_every_split() {
        let (whole, count, flow) = talk(DIALOGUE.len(), &Faults::default());
        assert_eq!(codes(&whole), "220 250 250 250 250 354 250 250 250 354 250 500 221");
        assert_eq!((count.messages, flow), (vec![(1, false), (0, true)], Flow::Close));
        for step in 1..DIALOGUE.len() {
            assert_eq!(talk(step, &Faults::default()).0, whole, "step {step}");
        }
    }

    #[test]
    fn faults_show() {
        let always = Denial { refuse: 0.0, defer: 1.0 };
        let (out, count, _) = talk(4096, &Faults { end: always, ..Faults::default() });
        assert_eq!(codes(&out), "220 250 250 250 250 354 451 250 250 354 451 500 221");
        assert!(count.messages.is_empty() && count.faults == 2);
        let (_, count, flow) = talk(4096, &Faults { drop_after_dot: 1.0, ..Faults::default() });
        assert_eq!((count.messages.len(), flow), (0, Flow::Drop));
        let (_, count, flow) = talk(1, &Faults { drop_before_dot: 1.0, ..Faults::default() });
        assert_eq!((count.messages.len(), flow), (0, Flow::Drop));
        let (out, _, flow) = talk(9, &Faults { messages_per_connection: 1, ..Faults::default() });
        assert_eq!((codes(&out).as_str(), flow), ("220 250 250 250 250 354 250 421", Flow::Close));
        let (out, _, _) = talk(9, &Faults { size_max_bytes: 9, ..Faults::default() });
        assert!(codes(&out).starts_with("220 250 552 503 503"));
    }

    #[test]
    fn long_lines_are_refused_and_forgotten() {
        let (mut session, mut out, mut count) = (Session::default(), Vec::new(), Count::default());
        let mut rng = Rng::new(1);
        for _ in 0..10 {
            session.receive(&[b'x'; 1000], &Faults::default(), &mut rng, &mut count, &mut out);
        }
        session.receive(b"y\r\nNOOP\r\n", &Faults::default(), &mut rng, &mut count, &mut out);
        assert_eq!(codes(&out), "500 250");
    }
}
