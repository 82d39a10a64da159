//! Tests of injection over HTTP: the protocol alone, no sockets.

use super::*;
use crate::client::Body;
use crate::corpus::Corpus;
use crate::domains::Domains;
use crate::tls::TlsMode;
use crate::units::SizeMix;

struct Supply {
    left: u64,
    settled: Vec<(Vec<Fate>, bool)>,
}

impl Feed for Supply {
    fn next(&mut self) -> Option<Assignment> {
        self.left = self.left.checked_sub(1)?;
        Some(Assignment { id: self.left, planned_ns: 1, started_ns: 2 })
    }
    fn settle(&mut self, transaction: &Transaction) {
        self.settled.push((transaction.fates.clone(), transaction.cut));
    }
}

fn script(form: Form, recipients: u32, messages_per_session: u64) -> Script {
    Script {
        pipeline: crate::client::Pipeline::None,
        body: Body::Data,
        depth: 1,
        tls: TlsMode::None,
        auth: None,
        recipients,
        trace: None,
        domains: Domains::even(1),
        messages_per_session,
        run: 1,
        corpus: Corpus::in_form(&SizeMix::fixed(2000), 1, form),
    }
}

fn play(shape: Shape, messages: u64, per_session: u64, replies: &[u8], step: usize) -> (Vec<u8>, Supply, State) {
    let plan = HttpPlan::new("http://127.0.0.1:8080/v1/messages", shape, vec!["X-Key: 7".into()]).unwrap();
    let (script, http) = (script(plan.form(), 2, per_session), HttpScript::new(&plan));
    let mut feed = Supply { left: messages, settled: Vec::new() };
    let (mut session, mut outbox, mut sent) = (Session::default(), Outbox::default(), Vec::new());
    session.opened(&script, &http, &mut feed, &mut outbox);
    for part in replies.chunks(step) {
        session.receive(part, &script, &http, &mut feed, &mut outbox);
    }
    outbox.write_to(&mut sent).unwrap();
    session.closed(&mut feed);
    (sent, feed, session.state())
}

/// Head and body of the first request.
fn request(sent: &[u8]) -> (String, Vec<u8>) {
    let end = memchr::memmem::find(sent, b"\r\n\r\n").unwrap() + 4;
    let head = String::from_utf8(sent[..end].to_vec()).unwrap();
    let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: ")).unwrap().parse::<usize>().unwrap();
    (head, sent[end..end + length].to_vec())
}

#[test]
fn the_three_shapes_carry_envelope_and_message() {
    let (sent, _, _) = play(Shape::Query, 1, 0, b"", 1);
    let (head, body) = request(&sent);
    assert!(head.starts_with("POST /v1/messages?from=b000000000000@loadgen.test&to=000000000000.0@d0.loadgen.test&to=000000000000.1@d0.loadgen.test HTTP/1.1\r\nHost: 127.0.0.1:8080\r\n"), "{head}");
    assert!(head.contains("X-Key: 7\r\n") && body.len() == 2000 && body.starts_with(b"From: Load <"));
    let (sent, _, _) = play(Shape::Fields, 1, 0, b"", 1);
    let (head, raw) = request(&sent);
    assert!(head.contains("X-Envelope-To: 000000000000.1@d0.loadgen.test\r\n") && raw == body);
    let (sent, _, _) = play(Shape::Json(JSON_TEMPLATE.into()), 1, 0, b"", 1);
    let value: serde_json::Value = serde_json::from_slice(&request(&sent).1).unwrap();
    assert_eq!(value["from"], "b000000000000@loadgen.test");
    assert_eq!(value["to"][1], "000000000000.1@d0.loadgen.test");
    assert_eq!(value["raw"].as_str().unwrap().as_bytes(), body);
}

#[test]
fn answers_are_read_in_every_split() {
    let replies = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 202 Accepted\r\nContent-Length: 2\r\n\r\n{}\
        HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3;x\r\nabc\r\n0\r\nT: 1\r\n\r\n\
        HTTP/1.1 429 Slower\r\nContent-Length: 0\r\n\r\nHTTP/1.1 204 No\r\n\r\n\
        HTTP/1.1 422 No\r\nContent-Length: 1\r\nConnection: close\r\n\r\nx";
    use Fate::{Acknowledged, Deferred, Refused};
    for step in 1..replies.len() {
        let (_, feed, state) = play(Shape::Query, 9, 0, replies, step);
        let wanted = [Acknowledged, Acknowledged, Deferred, Acknowledged, Refused];
        assert_eq!(feed.settled, wanted.map(|fate| (vec![fate; 2], false)), "step {step}");
        assert_eq!(state, State::Over(End::Quit));
    }
}

#[test]
fn a_lost_connection_leaves_the_fate_open() {
    let (_, feed, state) = play(Shape::Query, 1, 0, b"HTTP/1.1 202 Acc", 4);
    assert_eq!((feed.settled, state), (vec![(vec![Fate::Unknown; 2], true)], State::Over(End::Lost)));
    // Where the body ends with the connection, that is the end of the answer.
    let (_, feed, state) = play(Shape::Query, 1, 0, b"HTTP/1.0 200 OK\r\n\r\nbody", 4);
    assert_eq!((feed.settled, state), (vec![(vec![Fate::Acknowledged; 2], false)], State::Over(End::Quit)));
}

#[test]
fn sessions_end_when_they_are_spent() {
    let (sent, feed, state) = play(Shape::Query, 9, 1, b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", 64);
    assert_eq!((feed.settled.len(), state), (1, State::Over(End::Quit)));
    assert_eq!(memchr::memmem::find_iter(&sent, b"POST ").count(), 1);
}

#[test]
fn nonsense_ends_the_session() {
    for reply in [
        &b"220 hello\r\n\r\n"[..],
        b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        &[b'x'; 40_000],
    ] {
        assert_eq!(play(Shape::Query, 1, 0, reply, 100).2, State::Over(End::Broken));
    }
}

#[test]
fn wrong_plans_say_what_is_wrong() {
    for url in ["localhost", "ftp://a/b", "http:///x", "http://a b/"] {
        assert!(HttpPlan::new(url, Shape::Query, Vec::new()).unwrap_err().contains("URL"), "{url}");
    }
    assert!(HttpPlan::new("http://a", Shape::Json("{from}".into()), Vec::new()).unwrap_err().contains("{raw}"));
    assert!(HttpPlan::new("http://a", Shape::Query, vec!["bad".into()]).is_err());
    let target = |url| HttpPlan::new(url, Shape::Query, Vec::new()).unwrap().target();
    assert_eq!([target("http://a/x"), target("https://a"), target("http://[::1]:9/x")], ["a:80", "a:443", "[::1]:9"]);
}
