//! Bodies in both forms, from memory and from disk: what arrives is what was sent (BDT-01, BDT-06, BDT-10, DAT-06, DAT-07).

use super::*;
use crate::smtp::data::{Stuffer, unstuff};

fn offers_chunking(line: &str) -> String {
    match line.split(' ').next().unwrap() {
        "EHLO" => "250-hop.test\r\n250-PIPELINING\r\n250-8BITMIME\r\n250-CHUNKING\r\n250 SIZE\r\n".into(),
        _ => accept_all(line),
    }
}

fn offers_binary(line: &str) -> String {
    match line.split(' ').next().unwrap() {
        "EHLO" => "250-hop.test\r\n250-PIPELINING\r\n250-CHUNKING\r\n250 BINARYMIME\r\n".into(),
        _ => accept_all(line),
    }
}

fn stuffed(text: &str) -> String {
    let mut stuffer = Stuffer::new();
    let mut wire: Vec<u8> = stuffer.view(text.as_bytes()).flatten().copied().collect();
    wire.extend_from_slice(stuffer.ending());
    String::from_utf8(wire).unwrap()
}

fn ended(text: &str) -> String {
    String::from_utf8(unstuff(stuffed(text).as_bytes()).flatten().copied().collect()).unwrap()
}

impl World {
    /// Sends a text in chunks of this size; gives the last reply.
    fn send_chunks(&mut self, mail: &str, text: &str, size: usize) -> String {
        let conn = self.client();
        let greeting = self.say(
            conn,
            format!("EHLO c.test\r\nMAIL FROM:<from@source.test>{mail}\r\nRCPT TO:<to@dest.test>\r\n").as_bytes(),
        );
        assert!(greeting.ends_with("250 2.1.5 Recipient OK\r\n"), "{greeting}");
        let mut reply = String::new();
        let chunks: Vec<&[u8]> = text.as_bytes().chunks(size).collect();
        for chunk in chunks {
            reply = self.say(conn, &[format!("BDAT {}\r\n", chunk.len()).as_bytes(), chunk].concat());
            assert_eq!(reply, "250 2.0.0 Chunk taken\r\n");
        }
        reply.clear();
        reply + &self.say(conn, b"BDAT 0 LAST\r\n")
    }

    /// The last message without our own field.
    fn arrived(&mut self) -> String {
        let taken = self.taken.pop().expect("something arrived").data;
        let start = taken.find("\r\n\t").map(|_| {
            let mut at = 0;
            for line in taken.split_inclusive("\r\n") {
                if at > 0 && !line.starts_with('\t') {
                    break;
                }
                at += line.len();
            }
            at
        });
        taken[start.unwrap()..].to_owned()
    }
}

fn texts() -> Vec<String> {
    let long = |line: &str| line.repeat((300 << 10) / line.len());
    ["", "Subject: x\r\n\r\nline\r\n", ".", ".\r\n..\r\n.x\r\n", "no end", "a\r\n."]
        .map(String::from)
        .into_iter()
        .chain([
            long("a line of text\r\n"),
            long(".\r\n"),
            long(".a line that begins with a dot, as all of these do\r\n"),
        ])
        .chain([long("some text, and then\r\n.a dot\r\n") + "and no end"])
        .collect()
}

/// A message is sent while no next hop is there, and delivered after a restart: from disk only.
fn through_a_restart(rule: fn(&str) -> String, send: impl FnOnce(&mut World) -> String) -> World {
    let mut before = World::new(&[]);
    before.refuse_dials = true;
    let reply = send(&mut before);
    assert!(reply.starts_with("250"), "{reply}");
    let mut world = World::new(&[]);
    world.rule = rule;
    let setup = Setup {
        id: ShardId(0),
        settings: settings(&[]),
        start: start_of(&before.disk),
        blocks: Box::new(HeapBlocks),
        seed: 1,
        now: world.now,
    };
    world.disk = before.disk;
    world.shard = Shard::new(setup);
    world.input(Input::Tick);
    world.pass(100);
    world
}

#[test]
fn each_form_becomes_the_other() {
    for text in texts() {
        let mut world = World::new(&[]);
        world.rule = offers_chunking;
        let reply = world.send(&["to@dest.test"], &stuffed(&text));
        assert!(reply.starts_with("250"), "{reply}");
        assert!(world.arrived() == ended(&text), "DATA to BDAT, {} bytes", text.len());
        for size in [1000, 70_000, usize::MAX] {
            let reply = world.send_chunks("", &text, size);
            assert!(reply.starts_with("250"), "{reply}");
            assert!(world.arrived() == text, "BDAT to BDAT, {} bytes by {size}", text.len());
        }
        world.pass(100);
        world.nothing_left();
        let mut world = World::new(&[]);
        let reply = world.send_chunks("", &text, 5000);
        assert!(reply.starts_with("250"), "{reply}");
        assert!(world.arrived() == stuffed(&text), "BDAT to DATA, {} bytes", text.len());
        world.pass(100);
        world.nothing_left();
    }
}

#[test]
fn each_form_becomes_the_other_from_disk() {
    for text in texts() {
        let mut world = through_a_restart(offers_chunking, |world| world.send(&["to@dest.test"], &stuffed(&text)));
        assert!(world.arrived() == ended(&text), "DATA to BDAT, {} bytes", text.len());
        world.nothing_left();
        let mut world = through_a_restart(accept_all, |world| world.send_chunks("", &text, 5000));
        assert!(world.arrived() == stuffed(&text), "BDAT to DATA, {} bytes", text.len());
        world.nothing_left();
    }
}

/// BDT-11: a binary message goes to who takes it, and back to its sender from who does not.
#[test]
fn binary_messages_are_never_sent_as_text() {
    let text = "a\n.\r\n.\r\0no end\r";
    let mut world = World::new(&["site.default.chunking=false"]);
    world.rule = offers_binary;
    assert!(world.send_chunks(" BODY=BINARYMIME", text, 3).starts_with("250"));
    assert_eq!(world.arrived(), text);
    world.rule = offers_chunking;
    world.pass(10_000);
    assert!(world.send_chunks(" BODY=BINARYMIME", text, 3).starts_with("250"));
    world.pass(10_000);
    let report = world.taken.pop().expect("a report");
    assert_eq!((&*report.sender, &*report.recipients[0]), ("", "from@source.test"));
    assert!(report.data.contains("Status: 5.6.3") && world.taken.is_empty(), "{}", report.data);
    world.nothing_left();
}

/// BDT-07: chunks of one octet cost no more than the message does.
#[test]
fn many_tiny_chunks_cost_nothing_extra() {
    let mut world = World::new(&[]);
    let conn = world.client();
    world.say(conn, b"EHLO c.test\r\nMAIL FROM:<from@source.test>\r\nRCPT TO:<to@dest.test>\r\n");
    let chunks = b"BDAT 1\r\nxBDAT 0\r\n".repeat(900);
    for _ in 0..50 {
        let replies = world.say(conn, &chunks);
        assert_eq!(replies.matches("250 2.0.0 Chunk taken\r\n").count(), 1800);
        world.say(conn, b"BDAT 2\r\n\r\n");
    }
    let inbound = world.shard.conns.take(conn).unwrap();
    let crate::shard::conns::Side::In(side) = &inbound.side else { unreachable!() };
    assert!(side.chunks.len() + side.gathered.len() + side.leftover.len() < 64 << 10);
    world.shard.conns.put(conn, inbound);
    assert!(world.say(conn, b"BDAT 0 LAST\r\n").starts_with("250"));
    assert_eq!(world.arrived(), ("x".repeat(900) + "\r\n").repeat(50));
}

/// BDT-08, SES-15, BDT-09: what is begun and not ended is nothing, however it ends.
#[test]
fn a_broken_chunk_leaves_nothing() {
    let begin = b"EHLO c.test\r\nMAIL FROM:<from@source.test>\r\nRCPT TO:<to@dest.test>\r\nBDAT 50000\r\n";
    for end in [None, Some(&b"RSET\r\n"[..]), Some(b"QUIT\r\n"), Some(b"EHLO c.test\r\n"), Some(b"BDAT 9999999999\r\n")]
    {
        let mut world = World::new(&[]);
        let conn = world.client();
        world.say(conn, begin);
        match end {
            None => {
                world.say(conn, &[b'x'; 40_000]);
                world.input(Input::Closed { conn, reason: CloseReason::PeerClosed });
            }
            Some(end) => {
                assert!(world.say(conn, &b"23456789\r\n".repeat(5000)).starts_with("250 2.0.0 Chunk"));
                world.say(conn, end);
            }
        }
        world.pass(100);
        assert!(world.taken.is_empty());
        world.nothing_left();
    }
}

/// DAT-14, SES-23: a client that was paused because it did not read its replies, and then because too much waited for the disk, is
/// read from again when neither is so; else it would be cut off for saying nothing.
#[test]
fn who_was_paused_for_two_reasons_goes_on() {
    let mut world = World::new(&[]);
    let (slow, sender) = (world.client(), world.client());
    let mut effects = Vec::new();
    world.now.mono.0 += 1;
    world.shard.step(world.now, Input::Received { conn: slow, bytes: &b"EHLO c.test\r\n".repeat(400) }, &mut effects);
    assert!(effects.iter().any(|effect| matches!(effect, Effect::Pause { conn } if *conn == slow)));
    world.hold_writes = true;
    world.say(sender, b"EHLO c.test\r\nMAIL FROM:<a@a.test>\r\nRCPT TO:<b@b.test>\r\nDATA\r\n");
    let piece = b"twelve bytes\r\n".repeat(16 << 10);
    for _ in 0..1000 {
        if world.shard.log.crowded() {
            break;
        }
        world.say(sender, &piece);
    }
    assert!(world.shard.log.crowded(), "writes that are held make no crowd");
    let count = world.shard.outbox(slow).unwrap().len();
    effects.clear();
    world.shard.step(world.now, Input::Sent { conn: slow, count }, &mut effects);
    assert!(!effects.iter().any(|effect| matches!(effect, Effect::Resume { .. })), "the disk is behind");
    world.hold_writes = false;
    world.release_writes();
    assert!(!world.shard.log.crowded());
    for conn in [slow, sender] {
        assert!(!world.shard.conns.get_mut(conn).unwrap().inbound().paused, "nobody reads from it any more");
    }
}

/// QUE-07: a client that was refused for want of room is answered at once, is not read from for a while, and then is; many of
/// them are not all read from again at the same time.
#[test]
fn who_was_refused_for_want_of_room_rests() {
    let mut world = World::new(&[]);
    world.fail_writes = Some(DiskError::Full);
    let reply = world.send(&["to@dest.test"], "x\r\n");
    assert!(reply.starts_with("452 4.3.1"), "{reply}");
    let clients: Vec<ConnId> = (0..1000).map(|_| world.client()).collect();
    for &client in &clients {
        world.say(client, b"EHLO c.test\r\n");
        let reply = world.say(client, b"MAIL FROM:<a@source.test>\r\n");
        assert!(reply.starts_with("452 4.3.1"), "{reply}");
    }
    let resting = |world: &mut World| {
        let rests = |client: &&ConnId| world.shard.conns.get_mut(**client).unwrap().inbound().paused;
        clients.iter().filter(rests).count()
    };
    assert_eq!(resting(&mut world), 1000);
    world.pass(limits::REFUSED_REST_MS / 2);
    assert_eq!(resting(&mut world), 1000, "it rests");
    let mut before = 1000;
    for _ in 0..4 {
        world.pass(100);
        let now = resting(&mut world);
        assert!(before - now <= 700, "{} go on at the same time", before - now);
        before = now;
    }
    world.pass(100);
    assert_eq!(resting(&mut world), 0, "nobody is forgotten");
    world.fail_writes = None;
    world.pass(5_000);
    let reply = world.send(&["after@dest.test"], "x\r\n");
    assert!(reply.starts_with("250"), "{reply}");
}

/// QUE-07, SES-23: while a client rests it is we who are silent, however short its patience with us would be.
#[test]
fn who_rests_is_not_cut_off_as_idle() {
    let mut world = World::new(&["relay.idle_ms=400"]);
    world.fail_writes = Some(DiskError::Full);
    world.send(&["to@dest.test"], "x\r\n");
    let clients: Vec<ConnId> = (0..1000).map(|_| world.client()).collect();
    for &client in &clients {
        world.say(client, b"EHLO c.test\r\nMAIL FROM:<a@source.test>\r\n");
    }
    // The last of them rests for half a second.
    let last = *clients.last().unwrap();
    world.pass(480);
    assert!(world.shard.conns.get_mut(last).unwrap().inbound().rests);
    assert!(!world.clients[&last].contains("421"), "{}", world.clients[&last]);
    world.pass(300);
    assert!(!world.shard.conns.get_mut(last).unwrap().inbound().rests, "it is read from again");
    world.pass(400);
    assert!(world.clients[&last].contains("421 4.4.2"), "and then it has been silent: {}", world.clients[&last]);
}

/// QUE-07: a long body for which the log has no room is refused, though its envelope alone would find some: nobody gets half a
/// message.
#[test]
fn a_body_that_finds_no_room_takes_its_message_with_it() {
    let mut world = World::new(&["queue.segments=4", "queue.segment_bytes=4194304", "retry.first_ms=60000"]);
    world.rule = |line| if line.starts_with("RCPT") { "450 4.2.1 later\r\n".into() } else { accept_all(line) };
    let (short, long) = ("short\r\n".to_owned(), "a line of text\r\n".repeat(10_000));
    assert!(long.len() > limits::CHUNK_MAX_BYTES);
    let mut accepted = 0;
    loop {
        let reply = world.send(&["long@dest.test"], &long);
        if !reply.starts_with("250") {
            assert!(reply.starts_with("452 4.3.1"), "{reply}");
            break;
        }
        accepted += 1;
        assert!(accepted < 60, "the log has room for no more");
    }
    assert!(world.send(&["short@dest.test"], &short).starts_with("250"), "an envelope finds room");
    world.rule = accept_all;
    world.pass(300_000);
    let whole = world.taken.iter().filter(|taken| taken.data.ends_with(&long)).count();
    assert_eq!((whole, world.taken.len()), (accepted, accepted + 1));
    world.nothing_left();
}
