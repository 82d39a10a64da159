//! Tests of the sending side of the protocol.

use super::*;
use crate::units::SizeMix;

/// Hands out a number of messages and keeps what became of them.
struct Supply {
    left: u64,
    settled: Vec<(u64, Vec<Fate>, bool)>,
}

impl Feed for Supply {
    fn next(&mut self) -> Option<Assignment> {
        self.left = self.left.checked_sub(1)?;
        Some(Assignment { id: self.left, planned_ns: 1, started_ns: 2 })
    }
    fn settle(&mut self, transaction: &Transaction) {
        self.settled.push((transaction.message.id, transaction.fates.clone(), transaction.cut));
    }
}

fn script(pipeline: Pipeline, recipients: u32) -> Script {
    let corpus = Corpus::new(&SizeMix::fixed(1024), 1);
    let (domains, body, tls) = (Domains::even(1), Body::Data, TlsMode::None);
    let (auth, trace, depth) = (None, None, 2);
    Script { pipeline, body, depth, tls, auth, recipients, trace, domains, messages_per_session: 0, run: 1, corpus }
}

/// Plays server replies to a session, cut into pieces of `step` bytes; returns what it sent and the fates.
fn play(script: &Script, messages: u64, replies: &[u8], step: usize) -> (String, Supply, Session) {
    let mut feed = Supply { left: messages, settled: Vec::new() };
    let (mut session, mut outbox, mut sent) = (Session::default(), Outbox::default(), Vec::new());
    for part in replies.chunks(step) {
        session.receive(part, script, &mut feed, &mut outbox);
        outbox.write_to(&mut sent).unwrap();
    }
    session.quit(&mut outbox);
    outbox.write_to(&mut sent).unwrap();
    let verbs = ["EHLO", "HELO", "MAIL", "RCPT", "DATA", "RSET", "QUIT", ".\r"];
    let lines = String::from_utf8(sent).unwrap();
    let spoken = lines.split('\n').filter_map(|line| verbs.iter().find(|verb| line.starts_with(**verb)));
    (spoken.map(|verb| verb.trim().to_string()).collect::<Vec<_>>().join(" "), feed, session)
}

const HELLO: &str = "220-hi\r\n220 hi\r\n250-me\r\n250-PIPELINING\r\n250 SIZE 0\r\n";

#[test]
fn all_modes_in_every_split() {
    let reply = "250 a\r\n250 b\r\n354 c\r\n250 d\r\n";
    let replies = format!("{HELLO}{reply}{reply}");
    for mode in [Pipeline::None, Pipeline::Group] {
        for step in 1..replies.len() {
            let (sent, feed, _) = play(&script(mode, 1), 2, replies.as_bytes(), step);
            assert_eq!(sent, "EHLO MAIL RCPT DATA . MAIL RCPT DATA . QUIT");
            assert_eq!(feed.settled, [(1, vec![Fate::Acknowledged], false), (0, vec![Fate::Acknowledged], false)]);
        }
    }
    for step in 1..replies.len() {
        let (sent, feed, _) = play(&script(Pipeline::Across, 1), 2, replies.as_bytes(), step);
        assert_eq!(sent, "EHLO MAIL RCPT DATA . MAIL RCPT DATA . QUIT");
        assert_eq!(feed.settled.len(), 2);
    }
}

#[test]
fn refusals_reach_whom_they_concern() {
    use Fate::{Acknowledged, Deferred, Refused};
    let cases: [(&str, &str, &[Fate]); 6] = [
        ("250 m\r\n250 r\r\n450 r\r\n554 d\r\n", "EHLO MAIL RCPT RCPT DATA QUIT", &[Refused, Deferred]),
        ("550 m\r\n503 r\r\n503 r\r\n503 d\r\n", "EHLO MAIL RCPT RCPT DATA QUIT", &[Refused, Refused]),
        ("250 m\r\n250 r\r\n450 r\r\n354 d\r\n250 .\r\n", "EHLO MAIL RCPT RCPT DATA . QUIT", &[Acknowledged, Deferred]),
        ("250 m\r\n550 r\r\n450 r\r\n354 d\r\n554 .\r\n", "EHLO MAIL RCPT RCPT DATA . QUIT", &[Refused, Deferred]),
        ("250 m\r\n250 r\r\n550 r\r\n451 d\r\n", "EHLO MAIL RCPT RCPT DATA QUIT", &[Deferred, Refused]),
        ("250 m\r\n250 r\r\n250 r\r\n354 d\r\n452 .\r\n", "EHLO MAIL RCPT RCPT DATA . QUIT", &[Deferred, Deferred]),
    ];
    for (replies, expected, fates) in cases {
        for mode in [Pipeline::Group, Pipeline::Across] {
            let (sent, feed, _) = play(&script(mode, 2), 1, format!("{HELLO}{replies}").as_bytes(), 7);
            assert_eq!(sent, expected, "{replies}");
            assert_eq!(feed.settled, [(0, fates.to_vec(), false)]);
        }
    }
}

#[test]
fn a_refused_envelope_is_reset_before_the_next() {
    let replies = format!("{HELLO}250 m\r\n250 r\r\n451 d\r\n250 reset\r\n250 m\r\n250 r\r\n354 d\r\n250 ok\r\n");
    let (sent, feed, _) = play(&script(Pipeline::Group, 1), 2, replies.as_bytes(), 5);
    assert_eq!(sent, "EHLO MAIL RCPT DATA RSET MAIL RCPT DATA . QUIT");
    assert_eq!(feed.settled[1].1, [Fate::Acknowledged]);
    let lock_step = format!("{HELLO}250 m\r\n550 r\r\n250 reset\r\n550 m\r\n");
    let (sent, feed, _) = play(&script(Pipeline::None, 1), 2, lock_step.as_bytes(), 5);
    assert_eq!(sent, "EHLO MAIL RCPT RSET MAIL QUIT");
    assert_eq!(feed.settled.len(), 2);
}

#[test]
fn without_the_extension_it_goes_in_lock_step() {
    let replies = "220 hi\r\n502 no\r\n250 me\r\n250 m\r\n250 r\r\n354 d\r\n250 ok\r\n";
    let (sent, feed, _) = play(&script(Pipeline::Across, 1), 1, replies.as_bytes(), 3);
    assert_eq!(sent, "EHLO HELO MAIL RCPT DATA . QUIT");
    assert_eq!(feed.settled.len(), 1);
}

#[test]
fn a_cut_leaves_both_messages_unknown() {
    let replies = format!("{HELLO}250 m\r\n250 r\r\n354 d\r\n");
    let (sent, mut feed, mut session) = play(&script(Pipeline::Across, 1), 2, replies.as_bytes(), 64);
    assert_eq!(sent, "EHLO MAIL RCPT DATA . MAIL RCPT DATA");
    session.closed(&mut feed);
    assert_eq!(feed.settled, [(1, vec![Fate::Unknown], true), (0, vec![Fate::Unknown], true)]);
    assert_eq!(session.state(), State::Over(End::Lost));
}

#[test]
fn nonsense_ends_the_session() {
    for replies in ["hello\r\n", "99 x\r\n", "220x\r\n", "2\r\n", "600 x\r\n", "220 a\r\n250 b\r\n250 c\r\n"] {
        let (_, _, session) = play(&script(Pipeline::Group, 1), 0, replies.as_bytes(), 3);
        assert_eq!(session.state(), State::Over(End::Broken), "{replies}");
    }
    let (_, _, session) = play(&script(Pipeline::Group, 1), 0, &[b'2'; 5000], 100);
    assert_eq!(session.state(), State::Over(End::Broken));
    let (_, _, session) = play(&script(Pipeline::Group, 1), 0, b"554 no\r\n", 100);
    assert_eq!(session.state(), State::Over(End::Refused));
}
