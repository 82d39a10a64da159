//! The commit protocol checked whole: every order in which the disk may answer, well or not, while a few messages are
//! accepted and settled; and in each state every way in which a crash may leave the writes on their way (QUE-01, QUE-03,
//! QUE-08). What [`super::model`] does at random over long runs.
//!
//! A log cannot be copied, so a state of the search is the list of what was done, and is done again for each step; two lists
//! are one state if nothing that the future depends on differs.

use std::hash::{DefaultHasher, Hash, Hasher};

use super::*;
use crate::base::bytes::HeapBlocks;
use crate::base::checksum::crc32c;
use crate::base::limits::{SEGMENT_RETRY_MS, SEGMENTS_KEPT, VERDICT_DELAY_MS};
use crate::base::search::{Model, search};
use crate::base::time::UnixMs;
use crate::mail::text::Text;
use crate::queue::record::{DraftRecipient, VerdictOutcome};
use crate::queue::recover::Recovery;
use crate::queue::{Commit, DiskError};

const SEGMENT: u32 = 96 << 10;
const SEGMENTS: usize = 5;
const SHARD: ShardId = ShardId(1);
/// Longer than a batch may be: goes beside the one on its way.
const LARGE: usize = BLOCK_MIN_BYTES + 100;
const SMALL: usize = 10;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Act {
    /// A message of that size is accepted.
    Accept(usize),
    /// The only recipient of a durable message is delivered.
    Deliver(usize),
    /// The disk answers the order that stands there.
    Answer(usize, bool),
    /// Time passes: what waits for a moment is due.
    Pass,
}

/// What is allowed in all.
#[derive(Clone, Copy)]
struct Protocol {
    messages: usize,
    failures: usize,
    /// Moments at which time passes by itself.
    passes: usize,
}

struct State {
    acts: Vec<Act>,
    essence: u64,
    orders: usize,
    failures: usize,
    passes: usize,
    /// By message: its commit, and whether it was delivered.
    messages: Vec<(Commit, bool)>,
}

impl Model for Protocol {
    type State = State;
    type Act = Act;

    fn first(&self) -> State {
        World::new().state(Vec::new())
    }

    fn acts(&self, state: &State) -> Vec<Act> {
        let mut acts = Vec::new();
        if state.messages.len() < self.messages {
            acts.extend([Act::Accept(SMALL), Act::Accept(LARGE)]);
        }
        let durable =
            |(index, message): (usize, &(Commit, bool))| (*message == (Commit::Durable, false)).then_some(index);
        acts.extend(state.messages.iter().enumerate().filter_map(durable).map(Act::Deliver));
        for order in 0..state.orders {
            acts.push(Act::Answer(order, true));
            if state.failures < self.failures {
                acts.push(Act::Answer(order, false));
            }
        }
        if state.passes < self.passes {
            acts.push(Act::Pass);
        }
        acts
    }

    fn step(&self, state: &State, act: Act) -> State {
        let mut acts = state.acts.clone();
        acts.push(act);
        World::after(&acts).state(acts)
    }

    fn check(&self, state: &State) {
        World::after(&state.acts).crash_in_every_way();
    }

    fn essence(&self, state: &State) -> impl Hash {
        state.essence
    }
}

struct Told {
    appended: Appended,
    commit: Commit,
    /// Of the verdict that it was delivered.
    verdict: Option<Ticket>,
    settled: bool,
}

/// A log and its disk.
struct World {
    now: Mono,
    log: Log,
    orders: Vec<DiskOrder>,
    disk: Vec<Option<Vec<u8>>>,
    told: Vec<Told>,
    failures: usize,
    passes: usize,
}

impl World {
    /// All segments are ready; from there on everything may happen.
    fn new() -> World {
        let settings = LogSettings {
            shard: SHARD,
            segment_bytes: SEGMENT,
            segments_max: SEGMENTS,
            hot_bytes: 0,
            commit: CommitSettings { batch_bytes: BLOCK_MIN_BYTES, writes_in_flight: 2 },
        };
        let log = Log::open(settings, ShardStart::empty(SHARD), Box::new(HeapBlocks));
        let disk = vec![None; SEGMENTS + SEGMENTS_KEPT];
        let mut world = World { now: Mono(1), log, orders: Vec::new(), disk, told: Vec::new(), failures: 0, passes: 0 };
        world.log.poll(world.now, &mut world.orders);
        while !world.orders.is_empty() {
            world.act(Act::Answer(0, true));
        }
        assert!(world.log.ready());
        world
    }

    fn after(acts: &[Act]) -> World {
        let mut world = World::new();
        acts.iter().for_each(|&act| world.act(act));
        world
    }

    fn act(&mut self, act: Act) {
        match act {
            Act::Accept(size) => self.accept(size),
            Act::Deliver(index) => self.deliver(index),
            Act::Answer(order, well) => self.answer(order, well),
            Act::Pass => {
                self.now = self.now.plus_ms(SEGMENT_RETRY_MS.max(VERDICT_DELAY_MS));
                self.passes += 1;
            }
        }
        self.log.poll(self.now, &mut self.orders);
        self.look();
    }

    fn accept(&mut self, size: usize) {
        let recipient = [DraftRecipient::open(b"to@x.example")];
        let body = vec![b'a' + self.told.len() as u8; size];
        let draft = Draft {
            copy_of: None,
            arrived: UnixMs(7),
            text: Text::default(),
            body_bytes: size as u64,
            sender: b"from@x.example",
            recipients: &&recipient[..],
            parameters: &[],
            chunks: &[],
            tail: &[&body],
        };
        // Refused at once, nothing is promised.
        if let Ok(appended) = self.log.append_accept(&draft, &mut |_, _| ()) {
            self.told.push(Told { appended, commit: Commit::Pending, verdict: None, settled: false });
        }
    }

    fn deliver(&mut self, index: usize) {
        let told = &mut self.told[index];
        let (outcome, due) = (VerdictOutcome::Delivered, UnixMs(0));
        let draft =
            VerdictDraft { recipient: 0, outcome, attempts: 1, due, delay_reported: false, code: 250, text: b"ok" };
        told.verdict = Some(self.log.append_verdicts(told.appended.id, &[draft]));
        self.log.settle(told.appended.place, &[]);
        told.settled = true;
    }

    fn answer(&mut self, order: usize, well: bool) {
        let order = self.orders.remove(order);
        self.failures += usize::from(!well);
        if well {
            apply(&mut self.disk, &order, Left::All);
        }
        let result = if well { Ok(()) } else { Err(DiskError::Io { errno: 5 }) };
        match order {
            DiskOrder::Write { write, .. } => self.log.written(self.now, write, result),
            DiskOrder::PrepareSegment { slot } => self.log.segment_prepared(self.now, slot, result),
        }
    }

    /// Hears of commits as a shard does. What was said once stays said.
    fn look(&mut self) {
        for told in &mut self.told {
            let commit = self.log.outcome(&told.appended.ticket);
            assert!(told.commit == Commit::Pending || commit == told.commit, "{:?}, then {commit:?}", told.commit);
            if told.commit == Commit::Pending {
                match commit {
                    Commit::Durable => drop(self.log.prove(told.appended.ticket)),
                    Commit::Failed(_) => {
                        self.log.settle(told.appended.place, &[]);
                        told.settled = true;
                    }
                    Commit::Pending => (),
                }
            }
            told.commit = commit;
        }
        let live = self.told.iter().filter(|told| !told.settled).count();
        assert_eq!(self.log.stats().live_records, live as u64);
    }

    /// Every order on its way may be on disk in whole, in part or not at all: recovery must find what was promised.
    fn crash_in_every_way(&self) {
        let ways = Left::WAYS.len().pow(self.orders.len() as u32);
        for way in 0..ways {
            let (mut disk, mut rest) = (self.disk.clone(), way);
            for order in &self.orders {
                apply(&mut disk, order, Left::WAYS[rest % Left::WAYS.len()]);
                rest /= Left::WAYS.len();
            }
            self.check(&recover(&disk));
        }
    }

    fn check(&self, start: &ShardStart) {
        assert!(start.damage.is_empty(), "a crash is no damage: {:?}", start.damage);
        for message in &start.messages {
            assert!(self.told.iter().any(|told| told.appended.id == message.id), "{} was never there", message.id);
        }
        for told in &self.told {
            let id = told.appended.id;
            let found = start.messages.iter().any(|message| message.id == id);
            let verdict = told.verdict.map(|verdict| self.log.outcome(&verdict));
            match (told.commit, verdict) {
                (Commit::Durable, None) => assert!(found, "{id} was proved durable and is lost"),
                (Commit::Durable, Some(Commit::Durable)) => assert!(!found, "{id} is settled durably and came back"),
                // Durable behind it is a cut that names its segment.
                (Commit::Failed(_), _) if self.log.durable().life() > id.position.life() => {
                    assert!(!found, "{id} was refused, and came back after the cut");
                }
                _ => (),
            }
        }
    }

    fn state(&self, acts: Vec<Act>) -> State {
        State {
            acts,
            essence: self.essence(),
            orders: self.orders.len(),
            failures: self.failures,
            passes: self.passes,
            messages: self.told.iter().map(|told| (told.commit, told.verdict.is_some())).collect(),
        }
    }

    /// All that the future depends on, as a number.
    fn essence(&self) -> u64 {
        let (mut hasher, log) = (DefaultHasher::new(), &self.log);
        self.disk.iter().for_each(|file| file.as_ref().map(|bytes| crc32c(&[bytes])).hash(&mut hasher));
        for order in &self.orders {
            match order {
                DiskOrder::Write { slot, offset_bytes, block, .. } => {
                    (slot, offset_bytes, block.bytes()).hash(&mut hasher);
                }
                DiskOrder::PrepareSegment { slot } => (slot, "prepare").hash(&mut hasher),
            }
        }
        for segment in &log.segments {
            let words = [segment.life, segment.disk_life, segment.next_offset, segment.void_from, segment.live_records];
            let more = [u64::from(segment.pending_writes), segment.verdicts_needed, segment.oldest_reference.into()];
            (words, more, segment.state as u8).hash(&mut hasher);
        }
        (&log.spares, log.readying, log.open, log.next_life).hash(&mut hasher);
        let batch =
            log.batch.as_ref().map(|b| (b.slot, b.start, b.filled, b.urgent, b.waiting_since, b.verdicts, b.cuts));
        (batch, log.sealed.len(), log.flights.iter().map(|flight| flight.done).collect::<Vec<_>>()).hash(&mut hasher);
        (log.durable, log.submitted, log.appended, log.failures.len(), log.held.len()).hash(&mut hasher);
        log.cuts.iter().for_each(|cut| (cut.life, cut.from_bytes, cut.failed).hash(&mut hasher));
        (log.verdicts_taken, log.verdicts_durable, self.failures, self.passes, self.now.0).hash(&mut hasher);
        for told in &self.told {
            (told.appended.id, format!("{:?} {:?}", told.commit, told.verdict), told.settled).hash(&mut hasher);
        }
        hasher.finish()
    }
}

/// What is left of an order on its way.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Left {
    Nothing,
    /// The first sector alone.
    First,
    /// All but the first sector.
    Rest,
    All,
}

impl Left {
    const WAYS: [Left; 4] = [Left::Nothing, Left::First, Left::Rest, Left::All];
}

fn apply(disk: &mut [Option<Vec<u8>>], order: &DiskOrder, left: Left) {
    match order {
        DiskOrder::Write { slot, offset_bytes, block, .. } => {
            let file = disk[slot.0 as usize].as_mut().expect("only prepared files are written");
            for (index, sector) in block.bytes().chunks(DISK_ALIGN_BYTES).enumerate() {
                if matches!((left, index), (Left::All, _) | (Left::First, 0) | (Left::Rest, 1..)) {
                    let at = *offset_bytes as usize + index * DISK_ALIGN_BYTES;
                    file[at..at + DISK_ALIGN_BYTES].copy_from_slice(sector);
                }
            }
        }
        // Made under another name, so there is no half of it.
        DiskOrder::PrepareSegment { slot } if left == Left::All => {
            disk[slot.0 as usize] = Some(vec![0; SEGMENT as usize]);
        }
        DiskOrder::PrepareSegment { .. } => (),
    }
}

fn recover(disk: &[Option<Vec<u8>>]) -> ShardStart {
    let mut files: Vec<_> = disk.iter().enumerate().filter_map(|(slot, file)| Some((slot, file.as_ref()?))).collect();
    let life = |file: &Vec<u8>| Recovery::life(SHARD, &mut &file[..]).expect("memory is read");
    files.sort_by_key(|(_, file)| std::cmp::Reverse(life(file)));
    let mut recovery = Recovery::new();
    for (slot, file) in files {
        recovery.segment(SHARD, SegmentSlot(slot as u32), SEGMENT, &mut &file[..]).expect("memory is read");
    }
    recovery.finish(0).pop().unwrap_or_else(|| ShardStart::empty(SHARD))
}

fn all_orders(protocol: Protocol, at_least: usize) {
    let (mut all_settled, mut parted) = (false, protocol.failures == 0);
    let states = search(&protocol, |state| {
        let messages = &state.messages;
        all_settled |= messages.len() == protocol.messages && messages.iter().all(|&(_, delivered)| delivered);
        let failed = messages.iter().any(|(commit, _)| matches!(commit, Commit::Failed(_)));
        parted |= failed && messages.iter().any(|(commit, _)| *commit == Commit::Durable);
    });
    println!("{states} states");
    assert!(states > at_least, "{states} states");
    assert!(all_settled, "no order settles all");
    assert!(parted, "no failure refuses one message and not another");
}

/// One message, and a failure anywhere.
#[test]
fn one_message_in_every_order() {
    let states = search(&Protocol { messages: 1, failures: 1, passes: 1 }, |_| ());
    println!("{states} states");
    assert!(states > 30, "{states} states");
}

/// Two messages, one failure anywhere.
#[test]
#[ignore = "long: tests/campaign models"]
fn two_messages_and_a_failure_in_every_order() {
    all_orders(Protocol { messages: 2, failures: 1, passes: 2 }, 1000);
}

/// Three messages on a disk that is well.
#[test]
#[ignore = "long: tests/campaign models"]
fn three_messages_in_every_order() {
    all_orders(Protocol { messages: 3, failures: 0, passes: 1 }, 1000);
}
