//! The sending side of injection over HTTP/1.1: one message a POST, on connections that are kept.
//!
//! Pure, like [`crate::client`], and driven the same way. A 2xx acknowledges a message for all its recipients, 408, 425,
//! 429 and 5xx defer it, everything else refuses it. Requests wait for the answer to the one before them: pipelining is
//! no part of HTTP as it is lived. Whatever a server sends leads to a fate or the session's end; nothing panics. Memory
//! is one answer's head and one request's small parts.

use std::io::Write;

use crate::client::{Assignment, End, Feed, Script, State, Transaction};
use crate::corpus::{Form, write_json};
use crate::ledger::Fate;
use crate::marker;
use crate::outbox::Outbox;

const HEAD_MAX_BYTES: usize = 16 << 10;
const FIELDS_MAX: usize = 64;
/// The body of a POST unless another template is given.
pub const JSON_TEMPLATE: &str = r#"{"from":"{from}","to":[{to}],"raw":"{raw}"}"#;

/// Where the envelope stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Shape {
    /// The body is the message, the envelope stands in the query: `?from=A&to=B&to=C`.
    Query,
    /// The body is the message, the envelope stands in the fields `X-Envelope-From` and `X-Envelope-To`.
    Fields,
    /// The body is JSON: a template with `{from}`, `{to}` (strings with commas between) and `{raw}` in it.
    Json(String),
}

/// Where and how to POST.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpPlan {
    /// `http` or `https`.
    pub is_secured: bool,
    /// Host and port, as the Host field says them.
    pub authority: String,
    /// Path, with a query if there is one.
    pub path: String,
    /// Where the envelope stands.
    pub shape: Shape,
    /// Further fields, as `Authorization: Bearer x`.
    pub fields: Vec<String>,
}

impl HttpPlan {
    /// Takes a URL apart.
    pub fn new(url: &str, shape: Shape, fields: Vec<String>) -> Result<HttpPlan, String> {
        let wrong = || format!("`{url}` is no URL; write http://HOST:PORT/PATH");
        let (scheme, rest) = url.split_once("://").ok_or_else(wrong)?;
        let is_secured = match scheme {
            "http" => false,
            "https" => true,
            _ => return Err(wrong()),
        };
        let (authority, path) = rest.find('/').map_or((rest, "/"), |at| rest.split_at(at));
        let sound = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic());
        if !sound(authority) || !sound(path) {
            return Err(wrong());
        }
        if let Shape::Json(template) = &shape {
            Parts::of(template)?;
        }
        if let Some(bad) = fields.iter().find(|field| !field.contains(':') || field.contains(['\r', '\n'])) {
            return Err(format!("`{bad}` is no header field; write NAME: VALUE"));
        }
        Ok(HttpPlan { is_secured, authority: authority.into(), path: path.into(), shape, fields })
    }

    /// Host and port to connect to.
    pub fn target(&self) -> String {
        let has_port = self.authority.rsplit(':').next().is_some_and(|port| port.parse::<u16>().is_ok());
        let port = if self.is_secured { 443 } else { 80 };
        if has_port { self.authority.clone() } else { format!("{}:{port}", self.authority) }
    }

    /// The host alone.
    pub fn host(&self) -> &str {
        let bare = self.authority.rsplit_once(':').map_or(self.authority.as_str(), |(host, _)| host);
        bare.trim_start_matches('[').trim_end_matches(']')
    }

    /// The form that texts need.
    pub fn form(&self) -> Form {
        if matches!(self.shape, Shape::Json(_)) { Form::Json } else { Form::Plain }
    }
}

/// A JSON template, cut at its places.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Parts(Vec<Part>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(String),
    From,
    To,
    Raw,
}

impl Parts {
    fn of(template: &str) -> Result<Parts, String> {
        let (mut parts, mut rest) = (Vec::new(), template);
        let places = [("{from}", Part::From), ("{to}", Part::To), ("{raw}", Part::Raw)];
        while let Some((at, name, part)) =
            places.iter().filter_map(|(name, part)| Some((rest.find(name)?, name, part))).min_by_key(|found| found.0)
        {
            parts.push(Part::Text(rest[..at].into()));
            parts.push(part.clone());
            rest = &rest[at + name.len()..];
        }
        parts.push(Part::Text(rest.into()));
        match parts.iter().filter(|part| **part == Part::Raw).count() {
            1 => Ok(Parts(parts)),
            _ => Err("a template holds {raw} once, and {from} and {to} where they are wanted".into()),
        }
    }
}

/// What all sessions of a run share.
pub struct HttpScript {
    plan: HttpPlan,
    parts: Parts,
    /// All of a request's head that is the same for every message.
    fields: Vec<u8>,
}

impl HttpScript {
    /// Makes a plan ready; it was looked at by [`HttpPlan::new`].
    pub fn new(plan: &HttpPlan) -> HttpScript {
        let kind = if plan.form() == Form::Json { "application/json" } else { "message/rfc822" };
        let mut fields = format!("Host: {}\r\nUser-Agent: loadgen\r\nContent-Type: {kind}\r\n", plan.authority);
        for field in &plan.fields {
            fields += &format!("{field}\r\n");
        }
        let parts = match &plan.shape {
            Shape::Json(template) => Parts::of(template).expect("the plan was looked at"),
            _ => Parts(vec![Part::Raw]),
        };
        HttpScript { plan: plan.clone(), parts, fields: fields.into_bytes() }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expect {
    Head,
    /// Bytes of the body still to come.
    Sized(u64),
    /// The size of a chunk.
    ChunkSize,
    /// The bytes of a chunk and its line end.
    Chunk(u64),
    /// The lines behind the last chunk.
    Trailer,
    /// The body ends with the connection.
    ToTheEnd,
}

/// One connection's session.
pub struct Session {
    state: State,
    expect: Expect,
    /// The head, or a line, as far as it came.
    text: Vec<u8>,
    code: u16,
    stays: bool,
    current: Option<Transaction>,
    begun: u64,
    head: Vec<u8>,
    tail: Vec<u8>,
}

impl Default for Session {
    fn default() -> Session {
        Session {
            state: State::Opening,
            expect: Expect::Head,
            text: Vec::new(),
            code: 0,
            stays: true,
            current: None,
            begun: 0,
            head: Vec::new(),
            tail: Vec::new(),
        }
    }
}

impl Session {
    /// What the session is about.
    pub fn state(&self) -> State {
        self.state
    }

    /// The connection stands: there is no greeting to wait for.
    pub fn opened(&mut self, script: &Script, http: &HttpScript, feed: &mut impl Feed, out: &mut Outbox) {
        if self.state == State::Opening {
            self.state = State::Idle;
            self.start(script, http, feed, out);
        }
    }

    /// Asks the feed for work.
    pub fn start(&mut self, script: &Script, http: &HttpScript, feed: &mut impl Feed, out: &mut Outbox) {
        if self.state != State::Idle {
            return;
        }
        if script.messages_per_session > 0 && self.begun >= script.messages_per_session {
            self.state = State::Over(End::Quit);
        } else if let Some(message) = feed.next() {
            self.begun += 1;
            self.state = State::Busy;
            self.post(message, script, http, out);
        }
    }

    /// Ends, if idle: there is nothing to say.
    pub fn quit(&mut self) {
        if self.state == State::Idle {
            self.state = State::Over(End::Quit);
        }
    }

    /// The connection is gone: a message on its way gets its last word.
    pub fn closed(&mut self, feed: &mut impl Feed) {
        if self.expect == Expect::ToTheEnd && self.current.is_some() {
            self.stays = false;
            self.settle(feed);
        }
        match self.state {
            State::Over(_) => {}
            // A server may close a connection that nobody uses.
            State::Idle => self.state = State::Over(End::Quit),
            _ => self.over(End::Lost, feed),
        }
    }

    /// Takes bytes of the server, in any split.
    pub fn receive(
        &mut self,
        mut bytes: &[u8],
        script: &Script,
        http: &HttpScript,
        feed: &mut impl Feed,
        out: &mut Outbox,
    ) {
        while !bytes.is_empty() && !matches!(self.state, State::Over(_)) {
            if self.current.is_none() {
                // Nobody asked.
                return self.over(End::Broken, feed);
            }
            let done = match self.expect {
                Expect::Head => self.head(&mut bytes),
                Expect::Sized(left) => {
                    let left = pass(&mut bytes, left);
                    self.expect = Expect::Sized(left);
                    Ok(left == 0)
                }
                Expect::ChunkSize => self.chunk_size(&mut bytes),
                Expect::Chunk(left) => {
                    let left = pass(&mut bytes, left);
                    self.expect = if left == 0 { Expect::ChunkSize } else { Expect::Chunk(left) };
                    Ok(false)
                }
                Expect::Trailer => self.line(&mut bytes).map(|line| line.is_some_and(|line| line.is_empty())),
                Expect::ToTheEnd => return,
            };
            match done {
                Ok(false) => {}
                Ok(true) => {
                    self.settle(feed);
                    self.start(script, http, feed, out);
                }
                Err(Broken) => self.over(End::Broken, feed),
            }
        }
    }

    /// Reads the head; true if the answer ends with it.
    fn head(&mut self, bytes: &mut &[u8]) -> Result<bool, Broken> {
        // Only what is new can end the head, but its end may lie across what came before.
        let known = self.text.len();
        self.text.extend_from_slice(bytes);
        let end = memchr::memmem::find(&self.text[known.saturating_sub(3)..], b"\r\n\r\n");
        let Some(end) = end.map(|at| known.saturating_sub(3) + at + 4) else {
            *bytes = &[];
            return if self.text.len() > HEAD_MAX_BYTES { Err(Broken) } else { Ok(false) };
        };
        *bytes = &bytes[end - known..];
        self.text.truncate(end);
        let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX];
        let mut answer = httparse::Response::new(&mut fields);
        let whole = answer.parse(&self.text).is_ok_and(|status| status.is_complete());
        let code = answer.code.filter(|_| whole).ok_or(Broken)?;
        let field = |name: &str| {
            let found = answer.headers.iter().find(|field| field.name.eq_ignore_ascii_case(name));
            found.map(|field| field.value.trim_ascii())
        };
        let is_chunked = field("Transfer-Encoding").is_some_and(|value| value.eq_ignore_ascii_case(b"chunked"));
        let length = match field("Content-Length") {
            Some(value) => Some(std::str::from_utf8(value).ok().and_then(|text| text.parse().ok()).ok_or(Broken)?),
            None => None,
        };
        let connection = field("Connection").unwrap_or_default();
        self.stays = match answer.version {
            Some(1) => !connection.eq_ignore_ascii_case(b"close"),
            _ => connection.eq_ignore_ascii_case(b"keep-alive"),
        };
        self.text.clear();
        if (100..200).contains(&code) {
            // Not the answer yet (RFC 9110 15.2).
            return Ok(false);
        }
        self.code = code;
        self.expect = match length {
            _ if code == 204 || code == 304 => Expect::Sized(0),
            _ if is_chunked => Expect::ChunkSize,
            Some(length) => Expect::Sized(length),
            None => Expect::ToTheEnd,
        };
        Ok(self.expect == Expect::Sized(0))
    }

    fn chunk_size(&mut self, bytes: &mut &[u8]) -> Result<bool, Broken> {
        let Some(line) = self.line(bytes)? else { return Ok(false) };
        let digits = line.split(|b| *b == b';').next().unwrap_or_default().trim_ascii();
        let size = std::str::from_utf8(digits).ok().and_then(|text| u64::from_str_radix(text, 16).ok());
        self.expect = match size.ok_or(Broken)? {
            0 => Expect::Trailer,
            size => Expect::Chunk(size.saturating_add(2)),
        };
        Ok(false)
    }

    /// The next line, without its end.
    fn line(&mut self, bytes: &mut &[u8]) -> Result<Option<Vec<u8>>, Broken> {
        let end = memchr::memchr(b'\n', bytes);
        let (part, rest) = bytes.split_at(end.map_or(bytes.len(), |end| end + 1));
        *bytes = rest;
        self.text.extend_from_slice(part);
        match end {
            _ if self.text.len() > HEAD_MAX_BYTES => Err(Broken),
            None => Ok(None),
            Some(_) => {
                let line = self.text.trim_ascii_end().to_vec();
                self.text.clear();
                Ok(Some(line))
            }
        }
    }

    fn settle(&mut self, feed: &mut impl Feed) {
        self.expect = Expect::Head;
        self.state = State::Idle;
        if let Some(mut current) = self.current.take() {
            current.fates.fill(match self.code {
                200..=299 => Fate::Acknowledged,
                408 | 425 | 429 | 500..=599 => Fate::Deferred,
                _ => Fate::Refused,
            });
            feed.settle(&current);
        }
        if !self.stays {
            self.state = State::Over(End::Quit);
        }
    }

    fn over(&mut self, end: End, feed: &mut impl Feed) {
        if let Some(mut current) = self.current.take() {
            current.cut = true;
            feed.settle(&current);
        }
        self.state = State::Over(end);
    }

    fn post(&mut self, message: Assignment, script: &Script, http: &HttpScript, out: &mut Outbox) {
        let id = message.id;
        let count = script.recipients_of(id);
        let template = script.corpus.template(id);
        self.head.clear();
        self.tail.clear();
        script.corpus.write(&script.letter(&message), &mut self.head, &mut self.tail);
        let (mut before, mut behind) = (Vec::new(), Vec::new());
        let mut to_front = true;
        for part in &http.parts.0 {
            let side = if to_front { &mut before } else { &mut behind };
            match part {
                Part::Text(text) => side.extend_from_slice(text.as_bytes()),
                Part::From => marker::write_sender(side, id),
                Part::To => (0..count).for_each(|index| {
                    side.extend_from_slice(if index == 0 { b"\"" } else { b",\"" });
                    script.write_recipient(side, id, index);
                    side.push(b'"');
                }),
                Part::Raw if http.plan.form() == Form::Json => {
                    write_json(side, &self.head);
                    to_front = false;
                    write_json(&mut behind, &self.tail);
                }
                Part::Raw => {
                    side.extend_from_slice(&self.head);
                    to_front = false;
                    behind.extend_from_slice(&self.tail);
                }
            }
        }
        let own = out.own();
        // Writing to a vector cannot fail.
        let _ = write!(own, "POST {}", http.plan.path);
        if http.plan.shape == Shape::Query {
            own.extend_from_slice(if http.plan.path.contains('?') { b"&from=" } else { b"?from=" });
            marker::write_sender(own, id);
            (0..count).for_each(|index| {
                own.extend_from_slice(b"&to=");
                script.write_recipient(own, id, index);
            });
        }
        own.extend_from_slice(b" HTTP/1.1\r\n");
        own.extend_from_slice(&http.fields);
        if http.plan.shape == Shape::Fields {
            own.extend_from_slice(b"X-Envelope-From: ");
            marker::write_sender(own, id);
            own.extend_from_slice(b"\r\n");
            (0..count).for_each(|index| {
                own.extend_from_slice(b"X-Envelope-To: ");
                script.write_recipient(own, id, index);
                own.extend_from_slice(b"\r\n");
            });
        }
        let _ = write!(own, "Content-Length: {}\r\n\r\n", before.len() + template.wire.len() + behind.len());
        own.extend_from_slice(&before);
        out.push_shared(&template.wire);
        out.own().extend_from_slice(&behind);
        self.current = Some(Transaction::new(message, count));
    }
}

/// The server speaks no HTTP.
struct Broken;

/// Passes over up to `left` bytes; returns what is left then.
fn pass(bytes: &mut &[u8], left: u64) -> u64 {
    let count = left.min(bytes.len() as u64);
    *bytes = &bytes[count as usize..];
    left - count
}

#[cfg(test)]
mod tests;
