//! The shard's surroundings in memory: a client, a disk that is done at once, and next hops that take everything.
//!
//! For the benches and for the test that counts allocations. One thread; whatever goes wrong is a panic.

use std::collections::HashMap;
use std::hint::black_box;
use std::io::IoSlice;
use std::sync::Arc;

use ringpost::base::bytes::BlockSource;
use ringpost::base::ids::{ConnId, ShardId};
use ringpost::base::time::{Mono, Now, UnixMs};
use ringpost::config::{self, Machine, Role, Settings};
use ringpost::queue::ShardStart;
use ringpost::route::safety::HostTls;
use ringpost::route::{Answer, MailHost};
use ringpost::shard::{CloseReason, Effect, Input, Setup, Shard};

/// What a client says before a message for one recipient.
pub(crate) const ENVELOPE: &[u8] = b"MAIL FROM:<a@source.test>\r\nRCPT TO:<b@dest.test>\r\nDATA\r\n";

/// A shard with one client and next hops that take everything.
pub(crate) struct World {
    /// The shard itself.
    pub(crate) shard: Shard,
    now: Now,
    effects: Vec<Effect>,
    client: Option<ConnId>,
    /// Next hops, and whether each is inside data.
    hops: HashMap<ConnId, bool>,
    /// What a next hop answers to an envelope.
    envelope_taken: &'static [u8],
    /// And to a body with the next envelope behind it.
    both_taken: &'static [u8],
    /// Next hops refuse connections.
    pub(crate) away: bool,
    /// Messages that the next hops took.
    pub(crate) delivered: u64,
}

impl World {
    /// Ready, with a client that has said EHLO and will send messages for so many recipients.
    pub(crate) fn new(blocks: Box<dyn BlockSource>, recipients: usize) -> World {
        World::with(World::settings(), blocks, recipients)
    }

    /// What the shard is told.
    pub(crate) fn settings() -> Settings {
        let sets =
            ["shards=1", "relay.hostname=relay.test", "route.default=192.0.2.9:25", "site.default.connections=1"];
        let machine = Machine { hostname: "relay.test".into(), cores: 1 };
        config::load(None, &sets.map(String::from), &machine).unwrap()
    }

    /// The same as `new` with other settings.
    pub(crate) fn with(settings: Settings, blocks: Box<dyn BlockSource>, recipients: usize) -> World {
        let settings = Arc::new(settings);
        let now = Now { mono: Mono(1), wall: UnixMs(1_795_000_000_000) };
        let start = ShardStart::empty(ShardId(0));
        let setup = Setup { id: ShardId(0), settings, start, blocks, seed: 1, now };
        let shard = Shard::new(setup);
        let envelope_taken = format!("250 ok\r\n{}354 go\r\n", "250 ok\r\n".repeat(recipients));
        let mut world = World {
            shard,
            now,
            effects: Vec::new(),
            client: None,
            hops: HashMap::new(),
            away: false,
            both_taken: format!("250 taken\r\n{envelope_taken}").leak().as_bytes(),
            envelope_taken: envelope_taken.leak().as_bytes(),
            delivered: 0,
        };
        world.give(Input::Tick);
        world.connect();
        world
    }

    /// A client connects and says EHLO; it is the one that speaks from now on.
    pub(crate) fn connect(&mut self) {
        self.give(Input::Accepted {
            peer: "127.0.0.1:4000".parse().unwrap(),
            local: "127.0.0.1".parse().unwrap(),
            role: Role::Relay,
        });
        self.say(b"EHLO client.test\r\n");
    }

    /// The client says so much at once.
    pub(crate) fn say(&mut self, bytes: &[u8]) {
        let conn = self.client.expect("connected");
        self.give(Input::Received { conn, bytes });
    }

    /// Lets the time pass in which verdicts wait for company.
    pub(crate) fn rest(&mut self) {
        self.now.mono.0 += 20_000;
        self.give(Input::Tick);
    }

    fn give(&mut self, input: Input<'_>) {
        self.now.mono.0 += 10;
        self.shard.step(self.now, input, &mut self.effects);
        while let Some(effect) = self.effects.pop() {
            let follow = match effect {
                Effect::Open { conn } => {
                    self.client = Some(conn);
                    None
                }
                Effect::Flush { conn } => self.flush(conn),
                Effect::Dial { conn, .. } if self.away => {
                    Some(Input::Closed { conn, reason: CloseReason::Failed { errno: 111 } })
                }
                Effect::Resolve { query, question } => {
                    let host = MailHost {
                        preference: 0,
                        name: question.name,
                        addresses: vec![[192, 0, 2, 9].into()],
                        tls: HostTls::default(),
                    };
                    let answer = Answer::Mail { hosts: vec![host], ttl_s: 3600, sts: None };
                    Some(Input::Resolved { query, answer })
                }
                Effect::Dial { conn, .. } => {
                    self.hops.insert(conn, false);
                    self.shard.step(self.now, Input::Connected { conn, local: None }, &mut self.effects);
                    Some(Input::Received { conn, bytes: b"220 hop.test\r\n" })
                }
                Effect::Write { write, block, .. } => {
                    black_box(block.bytes().len());
                    Some(Input::Written { write, result: Ok(()) })
                }
                Effect::PrepareSegment { slot } => Some(Input::SegmentPrepared { slot, result: Ok(()) }),
                _ => None,
            };
            if let Some(input) = follow {
                self.shard.step(self.now, input, &mut self.effects);
            }
        }
    }

    /// Takes what a connection has to send; gives what the next hop answers.
    fn flush(&mut self, conn: ConnId) -> Option<Input<'static>> {
        let (mut count, mut tail) = (0, [0u8; 6]);
        {
            let outbox = self.shard.outbox(conn)?;
            let mut slices = [IoSlice::new(&[]); 16];
            let filled = outbox.gather(&mut slices);
            for slice in &slices[..filled] {
                count += slice.len();
                let keep = slice.len().min(6);
                tail[..keep].copy_from_slice(&slice[slice.len() - keep..]);
            }
        }
        if count == 0 {
            return None;
        }
        self.shard.step(self.now, Input::Sent { conn, count }, &mut self.effects);
        let in_data = self.hops.get_mut(&conn)?;
        let bytes: &[u8] = match (&tail, *in_data) {
            (b"DATA\r\n", false) => {
                *in_data = true;
                self.envelope_taken
            }
            // A body with the next envelope behind it.
            (b"DATA\r\n", true) => {
                self.delivered += 1;
                self.both_taken
            }
            (_, true) => {
                self.delivered += 1;
                *in_data = false;
                b"250 taken\r\n"
            }
            _ => b"250-hop.test\r\n250-PIPELINING\r\n250-8BITMIME\r\n250 SIZE\r\n",
        };
        Some(Input::Received { conn, bytes })
    }
}

/// A message of about `size` bytes in wire form, with its final dot.
pub(crate) fn message(size: usize) -> Vec<u8> {
    let mut text = b"From: a@source.test\r\nTo: b@dest.test\r\nSubject: a message\r\n\r\n".to_vec();
    while text.len() < size {
        text.extend_from_slice(b"The quick brown fox jumps over the lazy dog, and then does so once again.\r\n");
    }
    text.extend_from_slice(b".\r\n");
    text
}
