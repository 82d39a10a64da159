//! No heap allocation on the shard's path of a message in steady state, and few bytes for one that waits in the queue and for a client
//! that waits, counted by an allocator of this test's own.
//!
//! Of the allocations, blocks are the shell's memory, come once per commit and are left out; so is what the segments of a queue
//! cost when one is full, every few thousand messages.

#[path = "../benches/world/mod.rs"]
mod world;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use ringpost::base::bytes::{Block, BlockSource, HeapBlocks, OpenBlock};
use world::{ENVELOPE, World, message};

thread_local! {
    static COUNTED: Cell<u64> = const { Cell::new(0) };
    static LEFT_OUT: Cell<bool> = const { Cell::new(false) };
    /// Bytes that are in use; what another thread frees stays counted.
    static LIVE_BYTES: Cell<i64> = const { Cell::new(0) };
}

struct Counting;

impl Counting {
    fn count() {
        if !LEFT_OUT.get() {
            COUNTED.set(COUNTED.get() + 1);
        }
    }

    fn change(taken: usize, freed: usize) {
        LIVE_BYTES.set(LIVE_BYTES.get() + taken as i64 - freed as i64);
    }
}

// SAFETY: hands everything through to the system's allocator; the counters are plain numbers without destructors.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        Counting::count();
        Counting::change(layout.size(), 0);
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }
    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        Counting::count();
        Counting::change(size, layout.size());
        // SAFETY: the caller's promise.
        unsafe { System.realloc(at, layout, size) }
    }
    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        Counting::change(0, layout.size());
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Blocks of plain memory whose making is not counted.
struct Uncounted;

struct UncountedBlock(Box<dyn OpenBlock>);

fn uncounted<T>(work: impl FnOnce() -> T) -> T {
    let before = LEFT_OUT.replace(true);
    let done = work();
    LEFT_OUT.set(before);
    done
}

impl BlockSource for Uncounted {
    fn allocate(&mut self, size_bytes: usize) -> Box<dyn OpenBlock> {
        uncounted(|| Box::new(UncountedBlock(HeapBlocks.allocate(size_bytes))) as Box<dyn OpenBlock>)
    }
}

impl OpenBlock for UncountedBlock {
    fn bytes_mut(&mut self) -> &mut [u8] {
        self.0.bytes_mut()
    }
    fn freeze(self: Box<Self>, length_bytes: usize) -> Block {
        uncounted(|| self.0.freeze(length_bytes))
    }
}

/// Allocations of 1,000 messages behind 3,000 others.
fn counted(envelope: &[u8], recipients: usize, body: &[u8]) -> u64 {
    let mut world = World::new(Box::new(Uncounted), recipients);
    let pass = |world: &mut World, messages: u32| {
        for _ in 0..messages {
            world.say(envelope);
            world.say(body);
        }
    };
    pass(&mut world, 3_000);
    let before = COUNTED.get();
    pass(&mut world, 1_000);
    let counted = COUNTED.get() - before;
    world.rest();
    let counters = world.shard.counters();
    assert_eq!((world.delivered, counters.delivered, counters.recipients_open), (4_000, 4_000 * recipients as u64, 0));
    counted
}

#[test]
fn a_message_allocates_nothing() {
    for size in [1 << 10, 10 << 10] {
        assert_eq!(counted(ENVELOPE, 1, &message(size)), 0, "of {size} bytes");
    }
}

#[test]
fn many_recipients_allocate_nothing() {
    let mut envelope = b"MAIL FROM:<a@source.test>\r\n".to_vec();
    for number in 0..50 {
        envelope.extend_from_slice(format!("RCPT TO:<b{number}@dest.test>\r\n").as_bytes());
    }
    envelope.extend_from_slice(b"DATA\r\n");
    assert_eq!(counted(&envelope, 50, &message(10 << 10)), 0);
}

/// What the shard keeps of a client that said EHLO and waits; the shell has its socket and a task beside it.
#[test]
fn an_idle_session_takes_little() {
    // The table of connections has little room that is not used then.
    const SESSIONS: i64 = 8_000;
    let mut world = World::new(Box::new(HeapBlocks), 1);
    let before = LIVE_BYTES.get();
    (0..SESSIONS).for_each(|_| world.connect());
    assert_eq!(world.shard.counters().connections_in, SESSIONS as u64 + 1);
    let each = (LIVE_BYTES.get() - before) / SESSIONS;
    println!("{each} bytes for an idle session");
    assert!((200..=700).contains(&each), "{each} bytes for an idle session");
}

/// A million recipients over a hundred thousand domains, on two shards: to each of them a domain has five messages, and a site of
/// its own whose host does not answer.
#[test]
fn a_queued_recipient_takes_little() {
    // With this many the tables have least room that is not used; it counts here, though nobody touches it.
    const DOMAINS: usize = 6_500;
    const OF_EACH: usize = 5;
    let mut settings = World::settings();
    settings.route.default = None;
    settings.queue.hot_bytes = 0;
    let mut world = World::with(settings, Box::new(HeapBlocks), 1);
    world.away = true;
    let body = message(1 << 10);
    let say = |world: &mut World, number: usize| {
        world.say(format!("MAIL FROM:<a@source.test>\r\nRCPT TO:<b@d{number}.dest.test>\r\nDATA\r\n").as_bytes());
        world.say(&body);
    };
    // The blocks that are always there are there, too.
    (0..200).for_each(|_| say(&mut world, 0));
    let before = LIVE_BYTES.get();
    for _ in 0..OF_EACH {
        (1..=DOMAINS).for_each(|number| say(&mut world, number));
    }
    world.rest();
    let waiting = (DOMAINS * OF_EACH) as i64;
    assert_eq!(world.shard.counters().recipients_open, waiting as u64 + 200);
    let each = (LIVE_BYTES.get() - before) / waiting;
    println!("{each} bytes for a queued recipient");
    assert!((100..=440).contains(&each), "{each} bytes for a queued recipient");
}
