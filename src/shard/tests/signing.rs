//! Which messages are signed (BLK-03, BLK-04); keys and hashes of these tests are none.

use std::path::Path;

use super::*;
use crate::mail::dkim::{Algorithm, Digest, SigningKey};

#[derive(Debug)]
struct Pen;

impl SigningKey for Pen {
    fn algorithm(&self) -> Algorithm {
        Algorithm::Ed25519Sha256
    }
    fn public_key(&self) -> &[u8] {
        b"public"
    }
    fn sign(&self, _: &[u8], out: &mut Vec<u8>) -> bool {
        out.extend_from_slice(b"signature");
        true
    }
}

/// Counts.
struct Count(u64);

impl Digest for Count {
    fn update(&mut self, bytes: &[u8]) {
        self.0 += bytes.len() as u64;
    }
    fn finish(self: Box<Self>) -> [u8; 32] {
        let mut hash = [0; 32];
        hash[..8].copy_from_slice(&self.0.to_be_bytes());
        hash
    }
}

const KEY: [&str; 3] = ["dkim.one.domain=one.test", "dkim.one.selector=s", "dkim.one.key=file"];

fn with_keys(more: &[&str]) -> Arc<Settings> {
    let mut settings = Arc::unwrap_or_clone(settings(&[&KEY[..], more].concat()));
    settings.dkim.read(|_: &Path| Ok(Arc::new(Pen)), || Box::new(Count(0))).unwrap();
    Arc::new(settings)
}

impl World {
    fn change_to(&mut self, settings: Arc<Settings>) {
        self.input(Input::Change { settings });
    }

    /// Signed, unsigned.
    fn signatures(&self) -> (u64, u64) {
        let counters = self.shard.counters();
        (counters.signed_messages, counters.unsigned_messages)
    }

    fn last_is_signed(&self) -> bool {
        self.taken.last().unwrap().data.starts_with("DKIM-Signature: ")
    }
}

/// BLK-04: by the author's domain, whichever way a message comes, and in any pieces; the others are counted.
#[test]
fn authors_with_a_key_are_signed_for() {
    let mut world = World::new(&[]);
    world.change_to(with_keys(&[]));
    let client = world.client();
    for (author, signed) in [("a@one.test", true), ("a@two.test", false), ("a@sub.one.test", false)] {
        world.say(client, b"EHLO c\r\nMAIL FROM:<x@y.test>\r\nRCPT TO:<to@dest.test>\r\nDATA\r\n");
        for byte in format!("From: {author}\r\n\r\n..text\r\n.\r\n").bytes() {
            world.say(client, &[byte]);
        }
        assert_eq!(world.last_is_signed(), signed, "{author}");
    }
    assert_eq!(world.signatures(), (1, 2));
    // Of `.text` and its CRLF: seven octets.
    let hash = world.taken[0].data.split("bh=").nth(1).unwrap();
    assert!(hash.starts_with("AAAAAAAAAAcAAAAA"), "{hash}");
    let text = "From: a@one.test\r\n\r\ntext\r\n";
    let chunk = format!("MAIL FROM:<x@y.test>\r\nRCPT TO:<to@dest.test>\r\nBDAT {} LAST\r\n{text}", text.len());
    world.say(client, chunk.as_bytes());
    assert!(world.last_is_signed());
    let mut envelope = crate::mail::envelope::Envelope::new();
    envelope.set_sender(b"x@y.test");
    envelope.push_recipient(b"to@dest.test");
    let peer = "127.0.0.1".parse().unwrap();
    world.input(Input::Inject {
        injection: InjectionId(0),
        origin: Origin::Client(peer),
        envelope: &envelope,
        body: text.as_bytes(),
    });
    assert!(world.last_is_signed());
    assert_eq!((world.signatures(), world.taken.len()), ((3, 2), 5));
}

/// BLK-04: strangers are not signed for, though they send to an address of the table and say that they are somebody else.
#[test]
fn strangers_are_not_signed_for() {
    let mut world = World::new(&[]);
    world.change_to(with_keys(&["table alias here@table.test to@dest.test"]));
    for (peer, signed) in [("192.0.2.77:4000", false), ("127.0.0.1:4000", true)] {
        world.send_from(peer, &["here@table.test"], "From: a@one.test\r\n\r\ntext\r\n");
        assert_eq!(world.last_is_signed(), signed, "{peer}");
    }
    assert_eq!((world.signatures(), world.taken.len()), ((1, 0), 2));
}

/// BLK-03: keys that come while a message does are for the next one; those that go meanwhile sign it still.
#[test]
fn a_reload_inside_a_message() {
    let mut world = World::new(&[]);
    let client = world.client();
    for (number, (settings, signed)) in
        [(with_keys(&[]), false), (settings(&[]), true), (settings(&[]), false)].into_iter().enumerate()
    {
        world.say(client, b"EHLO c\r\nMAIL FROM:<x@y.test>\r\nRCPT TO:<to@dest.test>\r\nDATA\r\n");
        world.say(client, b"From: a@one.test\r\n\r\n");
        world.change_to(settings);
        world.say(client, b"text\r\n.\r\n");
        assert_eq!((world.last_is_signed(), world.taken.len()), (signed, number + 1));
    }
}

/// BLK-04: reports of ours are signed for the name that they come from.
#[test]
fn reports_are_signed() {
    let mut world = World::new(&[]);
    world.change_to(with_keys(&["relay.hostname=one.test"]));
    world.rule = |line| match line {
        "RCPT TO:<to@dest.test>" => "550 5.1.1 no\r\n".into(),
        _ => accept_all(line),
    };
    world.send(&["to@dest.test"], "Subject: no author\r\n\r\ntext\r\n");
    world.pass(10_000);
    assert_eq!(world.taken.last().unwrap().sender, "");
    assert!(world.last_is_signed(), "{:?}", world.taken);
    assert_eq!(world.signatures(), (1, 1));
}

/// BLK-05: of a tenant that sends marketing only what is signed and can be unsubscribed from with one click is taken, whichever way it comes.
#[test]
fn marketing_can_be_unsubscribed_from() {
    let shop = ["tenant.shop.networks=192.0.2.0/28", "tenant.shop.one_click=true", "relay.networks=192.0.2.0/24"];
    let mut world = World::new(&[&KEY[..], &shop].concat());
    world.change_to(with_keys(&shop));
    let fields = "List-Unsubscribe: <https://one.test/u>\r\nList-Unsubscribe-Post: List-Unsubscribe=One-Click\r\n";
    let (shop, other) = ("192.0.2.3", "192.0.2.77");
    for (peer, author, fields, taken) in [
        (shop, "a@one.test", fields, true),
        (shop, "a@one.test", "", false),
        (shop, "a@two.test", fields, false),
        (other, "a@two.test", "", true),
    ] {
        let text = format!("From: {author}\r\n{fields}\r\ntext\r\n");
        let client = world.client_from(&format!("{peer}:4000"));
        let envelope = "MAIL FROM:<x@y.test>\r\nRCPT TO:<to@dest.test>\r\n";
        world.say(client, format!("EHLO c\r\n{envelope}DATA\r\n").as_bytes());
        let dot = world.say(client, format!("{text}.\r\n").as_bytes());
        let last = world.say(client, format!("{envelope}BDAT {} LAST\r\n{text}", text.len()).as_bytes());
        let code = if taken { "250 2.0.0" } else { "550 5.7.1" };
        for replies in [dot, last] {
            assert!(replies.lines().last().unwrap().starts_with(code), "{peer} {author} {fields}: {replies}");
        }
        let mut envelope = crate::mail::envelope::Envelope::new();
        envelope.set_sender(b"x@y.test");
        envelope.push_recipient(b"to@dest.test");
        let before = world.taken.len();
        let (injection, peer) = (InjectionId(0), peer.parse().unwrap());
        world.input(Input::Inject {
            injection,
            origin: Origin::Client(peer),
            envelope: &envelope,
            body: text.as_bytes(),
        });
        assert_eq!(world.taken.len() > before, taken);
    }
    assert_eq!(world.taken.len(), 6);
    let counters = world.shard.counters();
    assert_eq!((counters.refused_injections, counters.refused_by_log, counters.messages_live), (2, 0, 0));
}
