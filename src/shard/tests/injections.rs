//! Messages that come by another way than SMTP: the same rules and the same promise (FND-09, QUE-01).

use super::*;
use crate::mail::envelope::Envelope;
use crate::smtp::reply;

fn envelope(recipients: &[&str]) -> Envelope {
    let mut envelope = Envelope::new();
    envelope.set_sender(b"from@source.test");
    recipients.iter().for_each(|recipient| envelope.push_recipient(recipient.as_bytes()));
    envelope
}

impl World {
    /// Injects a message from loopback, under the next number.
    fn inject(&mut self, recipients: &[&str], body: &str) {
        self.inject_from("127.0.0.1", recipients, body);
    }

    fn inject_from(&mut self, peer: &str, recipients: &[&str], body: &str) {
        let injection = InjectionId(self.injected.len() as u64);
        let (envelope, peer) = (envelope(recipients), peer.parse().unwrap());
        self.input(Input::Inject {
            injection,
            origin: Origin::Client(peer),
            envelope: &envelope,
            body: body.as_bytes(),
        });
    }

    /// The only answer since the last call.
    fn answer_to_injection(&mut self) -> Result<Receipt, Reply> {
        assert_eq!(self.injected.len(), 1, "one answer to each");
        self.injected.pop().unwrap().1
    }

    fn refusal(&mut self) -> Reply {
        self.answer_to_injection().expect_err("refused")
    }
}

/// FND-09, TRC-02: it goes its way like any other, and its trace field says how it came.
#[test]
fn an_injected_message_goes_through() {
    let mut world = World::new(&[]);
    world.inject(&["a@one.test", "b@two.test", "c@one.test"], "Subject: x\r\n\r\n.dot\r\nno end");
    let id = world.answer_to_injection().unwrap().id();
    let mut groups: Vec<Vec<String>> = world.taken.iter().map(|taken| taken.recipients.clone()).collect();
    groups.sort();
    assert_eq!(groups, [vec!["a@one.test".to_string(), "c@one.test".into()], vec!["b@two.test".into()]]);
    let data = &world.taken[0].data;
    let trace =
        format!("Received: from unknown ([127.0.0.1])\r\n\tby relay.test (Ringpost) with HTTP\r\n\tid {id};\r\n\t");
    assert!(data.starts_with(&trace), "{data}");
    assert!(data.ends_with("+0000\r\nSubject: x\r\n\r\n..dot\r\nno end\r\n"), "{data}");
    assert_eq!((world.shard.counters().accepted_messages, world.shard.counters().injected_messages), (1, 1));
    world.pass(100);
    world.nothing_left();
}

/// QUE-01: no receipt before the message is durable.
#[test]
fn no_receipt_before_it_is_durable() {
    let mut world = World::new(&[]);
    world.hold_writes = true;
    world.inject(&["to@dest.test"], "x\r\n");
    assert!(world.injected.is_empty() && world.taken.is_empty());
    world.release_writes();
    world.answer_to_injection().unwrap();
    assert_eq!(world.taken.len(), 1);
}

/// QUE-07, QUE-08: a failing disk is answered as it is in SMTP, and nothing is sent.
#[test]
fn a_failing_disk_refuses_injections() {
    for (error, reply) in [(DiskError::Full, reply::STORAGE_FULL), (DiskError::Io { errno: 5 }, reply::STORAGE_FAILING)]
    {
        for body in ["x\r\n".to_owned(), "a line of text\r\n".repeat(20_000)] {
            let mut world = World::new(&[]);
            world.fail_writes = Some(error);
            world.inject(&["to@dest.test"], &body);
            assert_eq!(world.refusal(), reply);
            world.inject(&["to@dest.test"], &body);
            assert_eq!(world.refusal(), reply, "also where it is known before");
            world.fail_writes = None;
            world.pass(5_000);
            world.inject(&["to@dest.test"], &body);
            world.answer_to_injection().unwrap();
            assert_eq!(world.taken.len(), 1);
            world.pass(100);
            world.nothing_left();
        }
    }
}

/// FND-09: DAT-03, SIZ-06, SIZ-08, SIZ-09, TRC-06, SES-22 and DAT-12 hold here as they do for DATA.
#[test]
fn the_rules_are_those_of_smtp() {
    let mut world = World::new(&["relay.message_bytes=65536", "relay.recipients=100", "relay.received_fields=2"]);
    let one = ["to@dest.test"];
    let long = format!("{}\r\n", "x".repeat(998));
    for (body, refusal) in [
        ("bare\nline feed\r\n", reply::BARE_LINE_END),
        ("bare\rreturn\r\n", reply::BARE_LINE_END),
        ("return at the end\r", reply::BARE_LINE_END),
        (&*format!("x{long}"), reply::DATA_LINE_TOO_LONG),
        (&*"line\r\n".repeat(20_000), reply::TOO_LARGE),
        (&*("Received: x\r\n".repeat(3) + "\r\n"), reply::LOOPING),
    ] {
        world.inject(&one, body);
        assert_eq!(world.refusal(), refusal);
    }
    world.inject_from("192.0.2.7", &one, "x\r\n");
    assert_eq!(world.refusal(), reply::RELAY_DENIED);
    world.inject(&[], "x\r\n");
    assert_eq!(world.refusal(), reply::NO_RECIPIENTS);
    world.inject(&["to@dest.test"; 101], "x\r\n");
    assert_eq!(world.refusal(), reply::TOO_MANY_RECIPIENTS);
    assert_eq!((world.taken.len(), world.shard.counters().refused_injections), (0, 9));
    world.inject_from("::ffff:127.0.0.1", &one, &long);
    world.answer_to_injection().unwrap();
    world.input(Input::Drain);
    world.inject(&one, "x\r\n");
    assert_eq!(world.refusal(), reply::SHUTTING_DOWN);
    world.pass(100);
    world.nothing_left();
}

/// A long one is several records, and arrives whole, from disk too.
#[test]
fn a_long_injection_arrives_whole() {
    let body = ".a line that begins with a dot\r\n".repeat(20_000);
    for (memory, size) in [("queue.memory_bytes=134217728", 0), ("queue.memory_bytes=1048576", 3)] {
        let mut world = World::new(&[memory, "retry.first_ms=1000"]);
        world.refuse_dials = true;
        world.inject(&["to@dest.test"], &body);
        world.answer_to_injection().unwrap();
        for _ in 0..size {
            world.inject(&["more@dest.test"], &body);
            world.answer_to_injection().unwrap();
        }
        world.refuse_dials = false;
        world.pass(60_000);
        assert_eq!(world.taken.len(), 1 + size);
        for taken in &world.taken {
            let text = &taken.data[taken.data.find("+0000\r\n").unwrap() + 7..];
            assert_eq!(text, body.replace("\r\n.", "\r\n..").replacen('.', "..", 1));
        }
        world.pass(100);
        world.nothing_left();
    }
}

/// RPT-01: the relay's own letters need no network that may relay, and stop with everything else.
#[test]
fn the_relays_own_messages_are_let_in() {
    let mut world = World::new(&["relay.networks=192.0.2.0/24"]);
    world.inject(&["a@one.test"], "x\r\n");
    assert_eq!(world.refusal(), reply::RELAY_DENIED);
    let own = |world: &mut World| {
        let envelope = envelope(&["a@one.test"]);
        world.input(Input::Inject {
            injection: InjectionId(7),
            origin: Origin::Own,
            envelope: &envelope,
            body: b"x\r\n",
        });
        world.answer_to_injection()
    };
    assert!(own(&mut world).is_ok());
    assert_eq!(world.taken.len(), 1);
    world.input(Input::Drain);
    assert_eq!(own(&mut world).expect_err("refused"), reply::SHUTTING_DOWN);
}
