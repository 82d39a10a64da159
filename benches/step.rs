//! The whole shard without a kernel: a 10 KiB message from MAIL to its last verdict, with disk and peers in memory.
//!
//! `cargo bench --bench step`. What it shows is Ringpost's own work per message, at most a few microseconds of the
//! budget; the rest is the kernel's. A next hop takes everything; the disk is done at once.

use std::collections::HashMap;
use std::hint::black_box;
use std::io::IoSlice;
use std::sync::Arc;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use ringpost::base::bytes::HeapBlocks;
use ringpost::base::ids::{ConnId, ShardId};
use ringpost::base::time::{Mono, Now, UnixMs};
use ringpost::config::{self, Machine};
use ringpost::queue::ShardStart;
use ringpost::shard::{Effect, Input, Setup, Shard};

struct World {
    shard: Shard,
    now: Now,
    effects: Vec<Effect>,
    client: Option<ConnId>,
    /// Next hops, and whether each is inside data.
    hops: HashMap<ConnId, bool>,
    delivered: u64,
}

impl World {
    fn new() -> World {
        let sets =
            ["shards=1", "relay.hostname=relay.test", "route.default=192.0.2.9:25", "site.default.connections=1"];
        let machine = Machine { hostname: "relay.test".into(), cores: 1 };
        let settings = Arc::new(config::load(None, &sets.map(String::from), &machine).unwrap());
        let now = Now { mono: Mono(1), wall: UnixMs(1_795_000_000_000) };
        let start = ShardStart::empty(ShardId(0));
        let setup = Setup { id: ShardId(0), settings, start, blocks: Box::new(HeapBlocks), seed: 1, now };
        let shard = Shard::new(setup);
        let mut world = World { shard, now, effects: Vec::new(), client: None, hops: HashMap::new(), delivered: 0 };
        world.give(Input::Tick);
        world.give(Input::Accepted { peer: "127.0.0.1:4000".parse().unwrap(), local: "127.0.0.1".parse().unwrap() });
        world.say(b"EHLO client.test\r\n");
        world
    }

    fn say(&mut self, bytes: &[u8]) {
        let conn = self.client.expect("connected");
        self.give(Input::Received { conn, bytes });
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
                Effect::Dial { conn, .. } => {
                    self.hops.insert(conn, false);
                    self.shard.step(self.now, Input::Connected { conn }, &mut self.effects);
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
                b"250 ok\r\n250 ok\r\n354 go\r\n"
            }
            // A body with the next envelope behind it.
            (b"DATA\r\n", true) => {
                self.delivered += 1;
                b"250 taken\r\n250 ok\r\n250 ok\r\n354 go\r\n"
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

fn message(size: usize) -> Vec<u8> {
    let mut text = b"From: a@source.test\r\nTo: b@dest.test\r\nSubject: a message\r\n\r\n".to_vec();
    while text.len() < size {
        text.extend_from_slice(b"The quick brown fox jumps over the lazy dog, and then does so once again.\r\n");
    }
    text.extend_from_slice(b".\r\n");
    text
}

fn whole_message(c: &mut Criterion) {
    for (name, size) in [("1 KiB", 1024), ("10 KiB", 10 * 1024), ("100 KiB", 100 * 1024)] {
        let mut group = c.benchmark_group("message");
        let body = message(size);
        let mut world = World::new();
        group.throughput(Throughput::Elements(1));
        group.bench_function(name, |b| {
            b.iter(|| {
                world.say(b"MAIL FROM:<a@source.test>\r\nRCPT TO:<b@dest.test>\r\nDATA\r\n");
                world.say(&body);
            });
        });
        world.now.mono.0 += 20_000;
        world.give(Input::Tick);
        let counters = world.shard.counters();
        assert_eq!((counters.accepted_messages, counters.recipients_open), (world.delivered, 0), "{counters:?}");
        group.finish();
    }
}

criterion_group!(benches, whole_message);
criterion_main!(benches);
