//! Roles of listeners, and clients who prove who they are: what waits, what is added, what is thrown away.

use super::*;
use crate::smtp::auth::{AuthAnswer, Senders, User};

/// In base64: `\0alice\0secret`.
const AUTH: &[u8] = b"AUTH PLAIN AGFsaWNlAHNlY3JldA==\r\n";

fn submitting(more: &[&str]) -> World {
    World::new(&[&["listen.submission=127.0.0.1:587", "auth.users=/dev/null"][..], more].concat())
}

impl World {
    fn answer_who(&mut self, answer: AuthAnswer) {
        let (conn, _) = self.asked.pop_front().expect("a client was asked about");
        self.input(Input::Authenticated { conn, answer });
    }
}

fn alice() -> AuthAnswer {
    AuthAnswer::Accepted(Arc::new(User { name: "alice".into(), senders: Senders::parse("@source.test") }))
}

/// FND-02, TRC-04, BLK-07, TLS-10, AUT-08: submission over implicit TLS, from greeting to delivery, with what the message
/// lacks and without what proved the user.
#[test]
fn a_user_submits_inside_tls() {
    let mut world = submitting(&["tls.offer=true"]);
    // A stranger to `relay.networks`.
    let conn = world.client_of("192.0.2.77:4000", Role::Submissions);
    assert_eq!(world.handshakes, [TlsRole::Server { listener: Role::Submissions }]);
    assert_eq!(world.clients[&conn], "220 relay.test ESMTP Ringpost\r\n", "the greeting is inside TLS");
    let hello = world.say(conn, b"EHLO c.test\r\n");
    assert!(!hello.contains("STARTTLS") && hello.contains("AUTH SCRAM-SHA-256 PLAIN LOGIN\r\n"), "{hello}");
    assert_eq!(world.say(conn, AUTH), "", "it waits");
    // What is sent behind waits too.
    assert_eq!(world.say(conn, b"MAIL FROM:<a@source.test>\r\nRCPT TO:<to@dest.test>\r\nDATA\r\n"), "");
    let request = &world.asked[0].1;
    assert_eq!(request.response.as_ref().unwrap().as_slice(), b"\0alice\0secret");
    world.answer_who(alice());
    let replies = world.clients[&conn].clone();
    assert!(replies.starts_with("235 2.7.0 ") && replies.contains("354 "), "{replies}");
    assert!(
        world.say(conn, b"From: a@source.test\r\nMessage-ID: <m@source.test>\r\n\r\nx\r\n.\r\n").starts_with("250")
    );
    let data = &world.taken[0].data;
    assert!(data.contains(" with ESMTPSA tls TLS_AES_128_GCM_SHA256\r\n"), "{data}");
    let (trace, rest) = data.split_once("\r\nDate: ").expect("a date was added");
    assert!(trace.starts_with("Received: from c.test ([192.0.2.77])"), "{trace}");
    assert!(rest.contains("\r\nFrom: a@source.test\r\nMessage-ID: <m@source.test>\r\n"), "{rest}");
    assert!(!rest.contains("@relay.test>"), "only what is missing is added: {rest}");
    assert!(!data.contains("alice") && !data.contains("secret"), "{data}");
    assert_eq!((world.shard.counters().authenticated, world.shard.counters().tls_in), (1, 1));
}

/// DAT-11, BLK-07: the relay's own listener adds and refuses nothing of the kind.
#[test]
fn a_relay_changes_nothing() {
    let mut world = World::new(&[]);
    world.send(&["to@dest.test"], "no header at all\r\n");
    assert!(world.taken[0].data.ends_with("+0000\r\nno header at all\r\n"), "{:?}", world.taken);
}

/// An answer for a client that is gone is nobody's; a drain waits for the answer and then ends the session.
#[test]
fn an_answer_may_come_late() {
    let mut world = submitting(&["tls.offer=true"]);
    let mut begin = || {
        let conn = world.client_of("192.0.2.77:4000", Role::Submissions);
        world.say(conn, b"EHLO c.test\r\n");
        world.say(conn, AUTH);
        conn
    };
    let (gone, stays, failed) = (begin(), begin(), begin());
    world.input(Input::Closed { conn: gone, reason: CloseReason::PeerClosed });
    world.answer_who(alice());
    // Nobody is sent away while our own answer is due.
    world.now.mono = world.now.mono.plus_ms(limits::COMMAND_IDLE_MS + 1);
    world.input(Input::Tick);
    assert!(world.shard.outbox(stays).is_some());
    world.clients.get_mut(&stays).unwrap().clear();
    world.input(Input::Drain);
    assert!(!world.drained && world.clients[&stays].is_empty());
    world.answer_who(alice());
    assert!(world.clients[&stays].ends_with("421 4.3.2 Shutting down; closing\r\n"), "{}", world.clients[&stays]);
    world.answer_who(AuthAnswer::TooMany);
    assert_eq!(world.clients[&failed].matches("421 ").count(), 1);
    assert!(world.drained);
}

/// AUT-04: too many failures end the connection, also where nothing was sent behind.
#[test]
fn too_many_failures_close() {
    let mut world = submitting(&["tls.offer=true"]);
    let conn = world.client_of("192.0.2.77:4000", Role::Submissions);
    world.say(conn, b"EHLO c.test\r\n");
    for _ in 0..limits::AUTH_FAILURES_MAX {
        world.say(conn, AUTH);
        world.answer_who(AuthAnswer::Refused);
        assert!(world.clients[&conn].starts_with("535 5.7.8 "));
    }
    world.say(conn, AUTH);
    world.answer_who(AuthAnswer::Refused);
    assert!(world.clients[&conn].starts_with("421 4.7.0 ") && world.shard.outbox(conn).is_none());
}

/// Messages to `listen.null` are taken and leave nothing.
#[test]
fn what_is_thrown_away_leaves_nothing() {
    let mut world = World::new(&["listen.null=127.0.0.1:2500"]);
    let conn = world.client_of("127.0.0.1:4000", Role::Null);
    for body in ["x\r\n".to_owned(), "long line\r\n".repeat(60_000)] {
        world.say(conn, b"EHLO c.test\r\nMAIL FROM:<a@b.test>\r\nRCPT TO:<c@d.test>\r\nDATA\r\n");
        let text = format!("{body}.\r\n");
        let replies: String = text.as_bytes().chunks(100_000).map(|piece| world.say(conn, piece)).collect();
        assert_eq!(replies, "250 2.0.0 discarded\r\n");
    }
    let chunk = world.say(conn, b"MAIL FROM:<a@b.test>\r\nRCPT TO:<c@d.test>\r\nBDAT 3 LAST\r\nx\r\n");
    assert!(chunk.ends_with("250 2.0.0 discarded\r\n"), "{chunk}");
    let counters = world.shard.counters();
    assert_eq!((counters.accepted_messages, counters.messages_live, world.taken.len()), (0, 0, 0));
}

/// A certificate from an authority for clients lets its owner relay; on a submission listener AUTH is demanded all the same.
#[test]
fn a_certificate_lets_a_client_relay() {
    for (role, certified, code) in
        [(Role::Relay, true, "250"), (Role::Relay, false, "550"), (Role::Submission, true, "503")]
    {
        let mut world = submitting(&["tls.offer=true"]);
        world.certified = certified;
        let conn = world.client_of("192.0.2.77:4000", role);
        world.say(conn, b"EHLO c.test\r\nSTARTTLS\r\n");
        let replies = world.say(conn, b"EHLO c.test\r\nMAIL FROM:<a@b.test>\r\nRCPT TO:<to@dest.test>\r\n");
        assert!(replies.lines().last().unwrap().starts_with(code), "{role:?} {certified}: {replies}");
    }
}

/// SES-26: an address, and a user, has as many sessions as it may, and others are not affected; a place given up is free.
#[test]
fn crowds_have_bounds() {
    let mut world = submitting(&["tls.offer=true", "listen.connections_per_address=3", "auth.sessions_per_user=2"]);
    let mut users = Vec::new();
    for number in 0..3 {
        let conn = world.client_of("192.0.2.77:4000", Role::Submissions);
        world.say(conn, b"EHLO c.test\r\n");
        world.say(conn, AUTH);
        world.answer_who(alice());
        let wanted = if number < 2 { "235 " } else { "421 4.7.0 " };
        assert!(world.clients[&conn].starts_with(wanted), "{number}: {}", world.clients[&conn]);
        users.push(conn);
    }
    let third = world.client_of("192.0.2.77:4000", Role::Relay);
    let before = world.last_opened;
    world.input(Input::Accepted {
        peer: "192.0.2.77:4000".parse().unwrap(),
        local: "127.0.0.1".parse().unwrap(),
        role: Role::Relay,
    });
    assert_eq!(world.last_opened, before, "not opened");
    assert!(world.reports.iter().any(|text| text.starts_with("421 4.7.0 ")), "{:?}", world.reports);
    assert!(world.client_of("192.0.2.78:4000", Role::Relay) != third);
    world.input(Input::Closed { conn: users[0], reason: CloseReason::PeerClosed });
    let conn = world.client_of("192.0.2.77:4000", Role::Submissions);
    world.say(conn, b"EHLO c.test\r\n");
    world.say(conn, AUTH);
    world.answer_who(alice());
    assert!(world.clients[&conn].starts_with("235 "));
}
