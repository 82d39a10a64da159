//! The receiving side of SMTP as a state machine over bytes: commands and bodies in, replies out, arrivals told.
//!
//! Pure: no sockets, no time; one per connection, on its sink's thread. Verbs are RFC 5321's least with PIPELINING, SIZE,
//! 8BITMIME, CHUNKING, ENHANCEDSTATUSCODES, and STARTTLS and AUTH where they are wanted. Outside bytes never panic; a
//! command line longer than [`LINE_MAX_BYTES`] is answered with 500, and recipients beyond [`RECIPIENTS_MAX`] with 452.

use std::time::Duration;

use crate::auth::{Admission, MECHANISMS, Step};
use crate::clock::nanos;
use crate::marker;
use crate::rng::Rng;
use crate::sink::body::{BodyReader, Verified};
use crate::sink::faults::{Denial, Faults, Manners, Span};

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
    /// A message begins; false if its source has had `most` in this second.
    fn may_begin(&mut self, _most: u64) -> bool {
        true
    }
    /// True if the source may not send to this recipient yet.
    fn is_grey(&mut self, _recipient: &[u8], _wait: Duration) -> bool {
        false
    }
    /// A login was tried.
    fn login(&mut self, _good: bool) {}
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
    /// Send what there is, then secure the connection.
    Secure,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Command,
    Body,
    /// Bytes of a chunk still to come.
    Chunk {
        left: u64,
        last: bool,
    },
    /// The next line is an answer of a login.
    Login,
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
    /// A message is coming in chunks.
    in_chunks: bool,
    /// What is still to come of it is not wanted; the reply to the first chunk told why.
    chunks_refused: bool,
    secured: bool,
    admission: Option<Admission>,
    logged_in: bool,
    /// Which kind of receiver this connection met, and the message at hand.
    kind: usize,
    message_kind: usize,
    wait_ns: u64,
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
            in_chunks: false,
            chunks_refused: false,
            secured: false,
            admission: None,
            logged_in: false,
            kind: 0,
            message_kind: 0,
            wait_ns: 0,
        }
    }
}

impl Session {
    /// Makes ready for a new connection, keeping buffers, and greets.
    pub fn greet(&mut self, kind: usize, manners: &Manners, rng: &mut Rng, out: &mut Vec<u8>) {
        self.state = State::Command;
        self.line.clear();
        self.line_too_long = false;
        self.messages = 0;
        self.secured = false;
        self.logged_in = false;
        self.admission = None;
        self.kind = kind;
        self.wait_ns = 0;
        self.reset();
        self.wait(manners.kinds[kind].delays.greeting, rng);
        out.extend_from_slice(b"220 sink.loadgen.test ESMTP\r\n");
    }

    /// The connection is secured: all that was said before is forgotten (RFC 3207 4.2).
    pub fn secured(&mut self) {
        self.state = State::Command;
        self.secured = true;
        self.logged_in = false;
        self.reset();
    }

    /// The kind of receiver that the connection met.
    pub fn kind(&self) -> usize {
        self.kind
    }

    /// How long the replies at hand are to wait, in nanoseconds; asked once.
    pub fn take_wait_ns(&mut self) -> u64 {
        std::mem::take(&mut self.wait_ns)
    }

    fn wait(&mut self, span: Option<Span>, rng: &mut Rng) {
        if let Some((from, to)) = span {
            self.wait_ns += nanos(from) + rng.below(nanos(to - from) + 1);
        }
    }

    /// Takes bytes in any split, appends replies.
    pub fn receive(
        &mut self,
        mut input: &[u8],
        manners: &Manners,
        rng: &mut Rng,
        arrivals: &mut impl Arrivals,
        out: &mut Vec<u8>,
    ) -> Flow {
        while !input.is_empty() {
            match self.state {
                State::Over(flow) => return flow,
                State::Body => {
                    if let Some(verified) = self.body.read(&mut input) {
                        self.end(verified, manners, rng, arrivals, out);
                    } else if self.drop_in_body {
                        arrivals.fault();
                        self.state = State::Over(Flow::Drop);
                    }
                }
                State::Chunk { left, last } => {
                    let (part, rest) = input.split_at(left.min(input.len() as u64) as usize);
                    input = rest;
                    self.chunk_bytes(part, left, last, manners, rng, arrivals, out);
                }
                State::Command | State::Login => self.command_bytes(&mut input, manners, rng, arrivals, out),
            }
        }
        if let State::Over(flow) = self.state { flow } else { Flow::Open }
    }

    fn command_bytes(
        &mut self,
        input: &mut &[u8],
        manners: &Manners,
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
            self.state = State::Command;
            out.extend_from_slice(b"500 5.5.2 Line too long\r\n");
        } else if self.line.is_empty() {
            self.command(line.trim_ascii_end(), manners, rng, arrivals, out);
        } else {
            let mut whole = std::mem::take(&mut self.line);
            whole.extend_from_slice(line);
            self.command(whole.trim_ascii_end(), manners, rng, arrivals, out);
            whole.clear();
            self.line = whole;
        }
    }

    fn command(
        &mut self,
        line: &[u8],
        manners: &Manners,
        rng: &mut Rng,
        arrivals: &mut impl Arrivals,
        out: &mut Vec<u8>,
    ) {
        if self.state == State::Login {
            return self.login_line(line, manners, arrivals, out);
        }
        let mut verb = [0; 4];
        if let Some(start) = line.get(..4) {
            verb.copy_from_slice(start);
            verb.make_ascii_uppercase();
        }
        match &verb {
            b"MAIL" => self.mail(line, manners, rng, arrivals, out),
            b"RCPT" => self.rcpt(line, manners, rng, arrivals, out),
            b"DATA" => self.data(manners, rng, arrivals, out),
            b"BDAT" => self.bdat(line, manners, rng, arrivals, out),
            b"EHLO" => self.ehlo(manners, rng, out),
            b"STAR" if line.eq_ignore_ascii_case(b"STARTTLS") && manners.starttls && !self.secured => {
                out.extend_from_slice(b"220 2.0.0 Go on\r\n");
                self.state = State::Over(Flow::Secure);
            }
            b"AUTH" => self.auth(line, manners, arrivals, out),
            b"HELO" => {
                self.reset();
                self.wait(manners.kinds[self.kind].delays.ehlo, rng);
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

    fn ehlo(&mut self, manners: &Manners, rng: &mut Rng, out: &mut Vec<u8>) {
        self.reset();
        let faults = &manners.kinds[self.kind];
        self.wait(faults.delays.ehlo, rng);
        out.extend_from_slice(b"250-sink.loadgen.test\r\n");
        if !faults.no_pipelining {
            out.extend_from_slice(b"250-PIPELINING\r\n");
        }
        if !faults.no_chunking {
            out.extend_from_slice(b"250-CHUNKING\r\n");
        }
        if manners.starttls && !self.secured {
            out.extend_from_slice(b"250-STARTTLS\r\n");
        }
        if manners.auth.is_some() && !self.logged_in {
            let names = MECHANISMS.map(|mechanism| mechanism.name()).join(" ");
            out.extend_from_slice(format!("250-AUTH {names}\r\n").as_bytes());
        }
        out.extend_from_slice(b"250-SIZE ");
        marker::write_decimal(out, faults.size_max_bytes, 1);
        out.extend_from_slice(b"\r\n250-8BITMIME\r\n250 ENHANCEDSTATUSCODES\r\n");
    }

    fn auth(&mut self, line: &[u8], manners: &Manners, arrivals: &mut impl Arrivals, out: &mut Vec<u8>) {
        let Some(auth) = manners.auth.as_ref().filter(|_| !self.logged_in && !self.has_sender) else {
            return out.extend_from_slice(b"503 5.5.1 No AUTH here or now\r\n");
        };
        match Admission::begin(auth, line["AUTH".len()..].trim_ascii()) {
            None => out.extend_from_slice(b"504 5.5.4 No such mechanism\r\n"),
            Some((admission, step)) => {
                self.admission = Some(admission);
                self.login_step(step, arrivals, out);
            }
        }
    }

    fn login_line(&mut self, line: &[u8], manners: &Manners, arrivals: &mut impl Arrivals, out: &mut Vec<u8>) {
        let step = match (&manners.auth, &mut self.admission) {
            (Some(auth), Some(admission)) if line != b"*" => admission.answer(auth, line),
            _ => Step::Failed,
        };
        self.login_step(step, arrivals, out);
    }

    fn login_step(&mut self, step: Step, arrivals: &mut impl Arrivals, out: &mut Vec<u8>) {
        self.state = State::Command;
        match step {
            Step::Say(text) => {
                self.state = State::Login;
                out.extend_from_slice(format!("334 {text}\r\n").as_bytes());
            }
            Step::Done => {
                self.logged_in = true;
                arrivals.login(true);
                out.extend_from_slice(b"235 2.7.0 Welcome\r\n");
            }
            Step::Failed => {
                arrivals.login(false);
                out.extend_from_slice(b"535 5.7.8 Wrong user or password\r\n");
            }
        }
    }

    fn mail(&mut self, line: &[u8], manners: &Manners, rng: &mut Rng, arrivals: &mut impl Arrivals, out: &mut Vec<u8>) {
        let faults = &manners.kinds[self.kind];
        if manners.auth_required && !self.logged_in {
            return out.extend_from_slice(b"530 5.7.0 Log in first\r\n");
        }
        self.wait(faults.delays.mail, rng);
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
        if !arrivals.may_begin(faults.source_rate) {
            arrivals.fault();
            return out.extend_from_slice(b"451 4.7.0 Too many messages in a second\r\n");
        }
        if denied(faults.mail.for_mail_of(address.is_empty()), rng, arrivals, out) {
            return;
        }
        self.has_sender = true;
        self.is_bounce = address.is_empty();
        out.extend_from_slice(b"250 2.1.0 Ok\r\n");
    }

    fn rcpt(&mut self, line: &[u8], manners: &Manners, rng: &mut Rng, arrivals: &mut impl Arrivals, out: &mut Vec<u8>) {
        if !self.has_sender {
            return out.extend_from_slice(b"503 5.5.1 MAIL first\r\n");
        }
        let Some((address, _)) = path(line, b"RCPT TO:") else {
            return out.extend_from_slice(b"501 5.5.4 RCPT TO:<address>\r\n");
        };
        if let Some(kind) = manners.of_recipient(address) {
            self.message_kind = kind;
        }
        let faults = &manners.kinds[self.message_kind];
        self.wait(faults.delays.rcpt, rng);
        if self.recipients.len() >= RECIPIENTS_MAX {
            return out.extend_from_slice(b"452 4.5.3 Too many recipients\r\n");
        }
        if let Some(wait) = faults.greylist
            && arrivals.is_grey(address, wait)
        {
            arrivals.fault();
            return out.extend_from_slice(b"451 4.7.1 Come again later\r\n");
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

    fn data(&mut self, manners: &Manners, rng: &mut Rng, arrivals: &mut impl Arrivals, out: &mut Vec<u8>) {
        if self.in_chunks || (self.recipients.is_empty() && self.strange_recipients == 0) {
            return out.extend_from_slice(b"503 5.5.1 RCPT first, and DATA or BDAT\r\n");
        }
        let faults = &manners.kinds[self.message_kind];
        self.wait(faults.delays.data, rng);
        if denied(faults.data.for_mail_of(self.is_bounce), rng, arrivals, out) {
            return;
        }
        self.state = State::Body;
        self.drop_in_body = rng.chance(faults.drop_before_dot);
        self.body.begin(self.is_bounce);
        out.extend_from_slice(b"354 Go on\r\n");
    }

    /// `BDAT size [LAST]` (RFC 3030 2). What cannot be taken is refused behind the chunk's bytes.
    fn bdat(&mut self, line: &[u8], manners: &Manners, rng: &mut Rng, arrivals: &mut impl Arrivals, out: &mut Vec<u8>) {
        let Some((size, last)) = chunk(line) else {
            // Where the next command begins is not known then.
            out.extend_from_slice(b"501 5.5.4 BDAT size [LAST]\r\n");
            self.state = State::Over(Flow::Close);
            return;
        };
        if !self.in_chunks {
            self.in_chunks = true;
            let faults = &manners.kinds[self.message_kind];
            let nobody = self.recipients.is_empty() && self.strange_recipients == 0;
            self.chunks_refused = nobody;
            self.drop_in_body = !nobody && rng.chance(faults.drop_before_dot);
            self.body.begin(self.is_bounce);
        }
        self.state = State::Chunk { left: size, last };
        if size == 0 {
            self.chunk_bytes(&[], 0, last, manners, rng, arrivals, out);
        }
    }

    #[expect(clippy::too_many_arguments, reason = "what every step of a session is handed")]
    fn chunk_bytes(
        &mut self,
        bytes: &[u8],
        left: u64,
        last: bool,
        manners: &Manners,
        rng: &mut Rng,
        arrivals: &mut impl Arrivals,
        out: &mut Vec<u8>,
    ) {
        if self.drop_in_body && !bytes.is_empty() {
            arrivals.fault();
            self.state = State::Over(Flow::Drop);
            return;
        }
        if !self.chunks_refused {
            self.body.take(bytes);
        }
        let left = left - bytes.len() as u64;
        self.state = State::Chunk { left, last };
        if left > 0 {
            return;
        }
        self.state = State::Command;
        match (last, self.chunks_refused) {
            (_, true) => {
                out.extend_from_slice(b"503 5.5.1 MAIL and RCPT first\r\n");
                if last {
                    self.reset();
                }
            }
            (false, false) => out.extend_from_slice(b"250 2.0.0 Go on\r\n"),
            (true, false) => {
                let faults = &manners.kinds[self.message_kind];
                // There is no 354 to refuse: DATA's faults show at the end.
                if denied(faults.data.for_mail_of(self.is_bounce), rng, arrivals, out) {
                    return self.reset();
                }
                let verified = self.body.end();
                self.end(verified, manners, rng, arrivals, out);
            }
        }
    }

    fn end(
        &mut self,
        body: Verified,
        manners: &Manners,
        rng: &mut Rng,
        arrivals: &mut impl Arrivals,
        out: &mut Vec<u8>,
    ) {
        let faults: &Faults = &manners.kinds[self.message_kind];
        self.state = State::Command;
        self.messages += 1;
        self.wait(faults.delays.end, rng);
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
        self.in_chunks = false;
        self.chunks_refused = false;
        self.message_kind = self.kind;
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

/// Size and LAST of a BDAT.
fn chunk(line: &[u8]) -> Option<(u64, bool)> {
    let mut words = line["BDAT".len()..].split(|b| *b == b' ').filter(|word| !word.is_empty());
    let size = std::str::from_utf8(words.next()?).ok()?.parse().ok()?;
    match (words.next(), words.next()) {
        (None, _) => Some((size, false)),
        (Some(word), None) if word.eq_ignore_ascii_case(b"LAST") => Some((size, true)),
        _ => None,
    }
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
    use crate::auth::Auth;

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
        say(DIALOGUE, step, &Manners::of(faults.clone()))
    }

    fn say(dialogue: &[u8], step: usize, manners: &Manners) -> (Vec<u8>, Count, Flow) {
        let (mut session, mut out, mut count) = (Session::default(), Vec::new(), Count::default());
        let mut rng = Rng::new(1);
        session.greet(0, manners, &mut rng, &mut out);
        let mut flow = Flow::Open;
        for part in dialogue.chunks(step) {
            flow = session.receive(part, manners, &mut rng, &mut count, &mut out);
            if flow == Flow::Secure {
                session.secured();
            } else if flow != Flow::Open {
                break;
            }
        }
        (out, count, flow)
    }

    #[test]
    fn chunks_in_every_split() {
        let dialogue = b"EHLO me\r\nMAIL FROM:<a@b>\r\nRCPT TO:<000000000001.0@d0.loadgen.test>\r\nBDAT 5\r\nA: b\r\
            BDAT 4 LAST\r\n\n\r\n.MAIL FROM:<a@b>\r\nBDAT 3\r\nabcBDAT 0 LAST\r\nMAIL FROM:<a@b>\r\nRCPT TO:<x@y>\r\n\
            BDAT 2\r\nabDATA\r\nBDAT 0 LAST\r\nBDAT x\r\n";
        let manners = Manners::of(Faults::default());
        for step in 1..dialogue.len() {
            let (out, count, flow) = say(dialogue, step, &manners);
            assert_eq!(codes(&out), "220 250 250 250 250 250 250 503 503 250 250 250 503 250 501", "step {step}");
            assert_eq!((count.messages, flow), (vec![(1, false), (0, false)], Flow::Close));
        }
        let (_, count, flow) = say(dialogue, 9, &Manners::of(Faults { drop_before_dot: 1.0, ..Faults::default() }));
        assert_eq!((count.messages.len(), flow), (0, Flow::Drop));
    }

    #[test]
    fn what_is_secured_begins_anew() {
        let manners = Manners { starttls: true, ..Manners::of(Faults::default()) };
        // What a client says behind STARTTLS in the clear is not listened to.
        let dialogue = b"EHLO a\r\nMAIL FROM:<a@b>\r\nSTARTTLS\r\nRCPT TO:<a@b>\r\n";
        let (out, _, flow) = say(dialogue, dialogue.len(), &manners);
        assert_eq!((codes(&out).as_str(), flow), ("220 250 250 220", Flow::Secure));
        assert!(memchr::memmem::find(&out, b"250-STARTTLS").is_some());
        let (out, _, _) = say(b"STARTTLS\r\nRCPT TO:<a@b>\r\nEHLO a\r\nSTARTTLS\r\n", 1, &manners);
        assert_eq!(codes(&out), "220 220 503 250 500");
    }

    #[test]
    fn who_must_log_in_first() {
        let auth = Auth::new(crate::auth::Mechanism::Plain, "u:p".parse().unwrap());
        let manners = Manners { auth: Some(auth), auth_required: true, ..Manners::of(Faults::default()) };
        let dialogue =
            b"EHLO a\r\nMAIL FROM:<a@b>\r\nAUTH X\r\nAUTH LOGIN\r\n*\r\nAUTH PLAIN AHUAcA==\r\nAUTH PLAIN\r\n\
            MAIL FROM:<a@b>\r\n";
        assert_eq!(codes(&say(dialogue, 5, &manners).0), "220 250 530 504 334 535 235 503 250");
        assert_eq!(codes(&talk(9, &Faults::default()).0).len(), 13 * 4 - 1, "others are not asked");
    }

    #[test]
    fn waits_of_verbs_add_up() {
        let span = |ms| Some((Duration::from_millis(ms), Duration::from_millis(ms)));
        let delays =
            crate::sink::faults::Delays { mail: span(1), rcpt: span(10), end: span(100), ..Default::default() };
        let manners = Manners::of(Faults { delays, ..Faults::default() });
        let (mut session, mut rng, mut out) = (Session::default(), Rng::new(1), Vec::new());
        session.greet(0, &manners, &mut rng, &mut out);
        assert_eq!(session.take_wait_ns(), 0);
        session.receive(DIALOGUE, &manners, &mut rng, &mut Count::default(), &mut out);
        // Two messages, three recipients.
        assert_eq!((session.take_wait_ns(), session.take_wait_ns()), (232_000_000, 0));
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
        let (mut rng, manners) = (Rng::new(1), Manners::of(Faults::default()));
        for _ in 0..10 {
            session.receive(&[b'x'; 1000], &manners, &mut rng, &mut count, &mut out);
        }
        session.receive(b"y\r\nNOOP\r\n", &manners, &mut rng, &mut count, &mut out);
        assert_eq!(codes(&out), "500 250");
    }
}
