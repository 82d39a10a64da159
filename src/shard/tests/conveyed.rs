//! XCLIENT and XFORWARD on a shard: what follows from the address that a listed client conveys.

use super::*;

const LISTED: &[&str] = &[
    "xclient.networks=127.0.0.1",
    "xforward.networks=127.0.0.1",
    "relay.networks=192.0.2.0/24",
    "auth.sessions_per_user=1",
];

/// XCL-01, XCL-02: the conveyed address may relay, stands in the trace field, and has its own bound of connections.
#[test]
fn a_conveyed_client_is_judged_as_if_it_had_connected() {
    let mut world = World::new(&[LISTED, &["listen.connections_per_address=2"]].concat());
    let conn = world.client();
    assert!(world.say(conn, b"EHLO front.test\r\n").contains("250-XCLIENT NAME ADDR "));
    assert!(world.say(conn, b"MAIL FROM:<a@source.test>\r\nRCPT TO:<to@dest.test>\r\nRSET\r\n").contains("550 5.7.1 "));
    assert!(world.say(conn, b"XCLIENT ADDR=192.0.2.77\r\n").starts_with("220 "));
    let replies = world.say(
        conn,
        b"EHLO c.test\r\nXFORWARD IDENT=abc ADDR=198.51.100.1\r\nMAIL FROM:<a@source.test>\r\nRCPT TO:<to@dest.test>\r\nDATA\r\n",
    );
    assert!(replies.contains("\n250 2.0.0 Noted") && replies.contains("\n354 "), "{replies}");
    assert!(world.say(conn, b"x\r\n.\r\n").starts_with("250 2.0.0 "));
    assert!(world.taken[0].data.contains(" ([192.0.2.77])"), "{}", world.taken[0].data);
    let noted =
        world.reports.iter().filter(|text| text.ends_with(" was forwarded: ADDR=198.51.100.1 IDENT=abc")).count();
    assert_eq!(noted, 1, "{:?}", world.reports);
    // One connection for each of two others, then it is one too many; who went leaves room.
    let two = world.client();
    assert!(world.say(two, b"XCLIENT ADDR=192.0.2.77\r\n").starts_with("220 "));
    let three = world.client();
    assert!(world.say(three, b"XCLIENT ADDR=192.0.2.77\r\n").starts_with("421 4.7.0 "));
    assert!(world.say(two, b"XCLIENT ADDR=192.0.2.78\r\n").starts_with("220 "));
    let four = world.client();
    assert!(world.say(four, b"XCLIENT ADDR=192.0.2.77\r\n").starts_with("220 "));
    // Everybody leaves, and every count with them.
    for conn in [conn, two, four] {
        world.input(Input::Closed { conn, reason: CloseReason::PeerClosed });
    }
    let again: Vec<_> = (0..2).map(|_| world.client_from("192.0.2.77:4000")).collect();
    assert!(again.iter().all(|conn| world.clients[conn].starts_with("220 ")));
}

/// XCL-02, AUT-06: a user who is conveyed may submit, has its bound of sessions, and goes with the address.
#[test]
fn a_conveyed_user_is_believed() {
    let listed = [LISTED, &["listen.submission=127.0.0.1:587", "auth.users=/dev/null", "tls.offer=true"]].concat();
    let mut world = World::new(&listed);
    let conn = world.client_of("127.0.0.1:4000", Role::Submission);
    world.say(conn, b"EHLO front.test\r\n");
    assert!(world.say(conn, b"MAIL FROM:<a@source.test>\r\n").starts_with("530 5.7.0 "));
    assert!(world.say(conn, b"XCLIENT ADDR=198.51.100.1 LOGIN=alice\r\n").starts_with("220 "));
    world.say(conn, b"EHLO c.test\r\n");
    assert!(world.say(conn, b"MAIL FROM:<a@source.test>\r\n").starts_with("250 "));
    let second = world.client_of("127.0.0.1:4000", Role::Submission);
    assert!(world.say(second, b"XCLIENT LOGIN=alice\r\n").starts_with("421 4.7.0 "), "one session a user");
    assert!(world.say(conn, b"RSET\r\nXCLIENT ADDR=198.51.100.2\r\n").contains("220 "));
    world.say(conn, b"EHLO c.test\r\n");
    assert!(world.say(conn, b"MAIL FROM:<a@source.test>\r\n").starts_with("530 5.7.0 "), "another client, no user");
    let third = world.client_of("127.0.0.1:4000", Role::Submission);
    assert!(world.say(third, b"XCLIENT LOGIN=alice\r\n").starts_with("220 "), "the first has gone");
}

/// XCL-01: whoever is not listed is offered nothing, and changes nothing.
#[test]
fn who_is_not_listed_conveys_nothing() {
    let mut world = World::new(LISTED);
    let conn = world.client_from("198.51.100.1:4000");
    assert!(!world.say(conn, b"EHLO x.test\r\n").contains("XCLIENT"));
    assert!(world.say(conn, b"XCLIENT ADDR=192.0.2.1\r\n").starts_with("550 5.7.1 "));
    assert!(world.say(conn, b"MAIL FROM:<a@source.test>\r\nRCPT TO:<to@dest.test>\r\n").contains("550 5.7.1 "));
}
