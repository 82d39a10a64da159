//! The log and recovery against a naive model: random work, completions in any order, failing writes and segments, and
//! crashes that leave any subset of the sectors of unfinished writes (QUE-01, QUE-03, QUE-07, QUE-08).

use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::base::bytes::HeapBlocks;
use crate::base::limits::{SEGMENT_RETRY_MS, SEGMENTS_KEPT};
use crate::base::rng::Rng;
use crate::base::time::UnixMs;
use crate::mail::text::Text;
use crate::queue::record::{self, AcceptView, CopyOf, DraftRecipient, RecipientState, VerdictOutcome};
use crate::queue::recover::{RecoveredMessage, Recovery};
use crate::queue::{Damage, DiskError};

const SEGMENT: u32 = 96 << 10;
const SECTOR: usize = DISK_ALIGN_BYTES;
const SHARD: ShardId = ShardId(3);

/// What a client or a next hop said, as a test would remember it.
struct Told {
    sender: Vec<u8>,
    prefix: Vec<u8>,
    body: Vec<u8>,
    addresses: Vec<Vec<u8>>,
    recipients: Vec<Recipient>,
    place: Place,
    chunks: Vec<(ChunkRef, Vec<u8>)>,
    ticket: Option<Ticket>,
    state: Commit,
    copy: Option<Copying>,
    /// Given back to the log.
    settled: bool,
}

/// A copy under way: where, with which chunks, and which of the old chunks it does not name.
type Copying = (Place, Vec<(ChunkRef, Vec<u8>)>, Ticket, Vec<ChunkRef>);

#[derive(Clone, Default)]
struct Recipient {
    /// What surely is on disk: terminal, attempts.
    sure: (bool, u16),
    /// What was appended, oldest first, with its ticket.
    said: Vec<(bool, u16, Ticket)>,
}

impl Recipient {
    fn last(&self) -> (bool, u16) {
        self.said.last().map_or(self.sure, |&(terminal, attempts, _)| (terminal, attempts))
    }
}

struct World {
    rng: Rng,
    now: Mono,
    disk: Vec<Option<Vec<u8>>>,
    log: Log,
    pending: Vec<DiskOrder>,
    told: BTreeMap<MessageId, Told>,
    /// Must never come back.
    gone: BTreeSet<MessageId>,
    loose: Vec<(ChunkRef, Vec<u8>)>,
    calm: bool,
    proved: u64,
    false_alarms: u64,
}

fn settings() -> LogSettings {
    LogSettings {
        shard: SHARD,
        segment_bytes: SEGMENT,
        segments_max: 7,
        hot_bytes: 100 << 10,
        commit: CommitSettings::default(),
    }
}

impl World {
    fn new(seed: u64) -> World {
        World {
            rng: Rng::new(seed),
            now: Mono(1),
            disk: vec![None; 7 + SEGMENTS_KEPT],
            log: Log::open(settings(), ShardStart::empty(SHARD), Box::new(HeapBlocks)),
            pending: Vec::new(),
            told: BTreeMap::new(),
            gone: BTreeSet::new(),
            loose: Vec::new(),
            calm: seed.is_multiple_of(3),
            proved: 0,
            false_alarms: 0,
        }
    }

    fn bytes(&mut self, longest: u64) -> Vec<u8> {
        let length = self.rng.below(longest + 1);
        let first = self.rng.below(256) as u8;
        (0..length).map(|i| first.wrapping_add(i as u8)).collect()
    }

    fn step(&mut self) {
        match self.rng.below(20) {
            0..=3 => self.accept(),
            4 => self.chunk(),
            5 => self.drop_loose(),
            6..=9 => self.verdict(),
            10 => self.copy(),
            _ => self.complete(),
        }
        self.look();
        if self.rng.below(4) > 0 {
            self.now = Mono(self.now.0 + self.rng.below(20_000));
            if self.rng.below(30) == 0 {
                self.now = self.now.plus_ms(SEGMENT_RETRY_MS);
            }
            self.log.poll(self.now, &mut self.pending);
        }
        self.audit();
    }

    fn chunk(&mut self) {
        let body = self.bytes(9000);
        let (a, b) = body.split_at(body.len() / 3);
        if let Ok(chunk) = self.log.append_chunk(&[a, b]) {
            self.loose.push((chunk, body));
        }
    }

    fn drop_loose(&mut self) {
        if self.rng.below(3) == 0 {
            let chunks: Vec<_> = self.loose.drain(..).map(|(chunk, _)| chunk).collect();
            self.log.drop_chunks(&chunks);
        }
    }

    fn accept(&mut self) {
        let (sender, prefix, tail) = (self.bytes(30), self.bytes(200), self.bytes(12_000));
        let addresses: Vec<_> = (0..1 + self.rng.below(3)).map(|_| self.bytes(40)).collect();
        let chunks = if self.rng.below(2) == 0 { std::mem::take(&mut self.loose) } else { Vec::new() };
        let refs: Vec<_> = chunks.iter().map(|(chunk, _)| *chunk).collect();
        let recipients: Vec<_> = addresses.iter().map(|address| DraftRecipient::open(address)).collect();
        let (a, b) = tail.split_at(tail.len() / 2);
        let draft = Draft {
            copy_of: None,
            arrived: UnixMs(7),
            text: Text { eight_bit: true, ..Text::default() },
            body_bytes: 9,
            sender: &sender,
            recipients: &recipients,
            parameters: &[],
            chunks: &refs,
            tail: &[a, b],
        };
        match self.log.append_accept(&draft, &mut |_, out| out.extend_from_slice(&prefix)) {
            Ok(Appended { id, place, ticket }) => {
                let recipients = vec![Recipient::default(); addresses.len()];
                let told = Told {
                    sender,
                    prefix,
                    body: tail,
                    addresses,
                    recipients,
                    place,
                    chunks,
                    ticket: Some(ticket),
                    state: Commit::Pending,
                    copy: None,
                    settled: false,
                };
                assert!(self.told.insert(id, told).is_none() && !self.gone.contains(&id), "names are unique");
            }
            Err(_) => self.log.drop_chunks(&refs),
        }
    }

    fn pick(&mut self) -> Option<MessageId> {
        let live = self.told.iter().filter(|(_, t)| t.state == Commit::Durable && !t.settled).map(|(id, _)| *id);
        let live = live.collect::<Vec<_>>();
        (!live.is_empty()).then(|| live[self.rng.below(live.len() as u64) as usize])
    }

    fn verdict(&mut self) {
        let Some(id) = self.pick() else { return };
        let told = self.told.get_mut(&id).expect("picked");
        if told.copy.is_some() {
            return;
        }
        let mut drafts = Vec::new();
        for (index, recipient) in told.recipients.iter().enumerate() {
            let (terminal, attempts) = recipient.last();
            if !terminal && self.rng.below(4) > 0 {
                let outcome = match self.rng.below(5) {
                    0 => VerdictOutcome::Deferred,
                    1 => VerdictOutcome::Failed,
                    _ => VerdictOutcome::Delivered,
                };
                let attempts = attempts + 1;
                let due = UnixMs(u64::from(attempts) * 10);
                let recipient = index as u32;
                let delay_reported = false;
                drafts.push(VerdictDraft { recipient, outcome, attempts, due, delay_reported, code: 250, text: b"ok" });
            }
        }
        if drafts.is_empty() {
            return;
        }
        let ticket = self.log.append_verdicts(id, &drafts);
        for draft in drafts {
            let terminal = draft.outcome != VerdictOutcome::Deferred;
            told.recipients[draft.recipient as usize].said.push((terminal, draft.attempts, ticket));
        }
        if told.recipients.iter().all(|r| r.last().0) {
            let chunks: Vec<_> = told.chunks.iter().map(|(chunk, _)| *chunk).collect();
            self.log.settle(told.place, &chunks);
            told.settled = true;
        }
    }

    fn copy(&mut self) {
        let straggler = self.log.straggler();
        let Some(id) = (match straggler {
            Some(Straggler { life, .. }) => {
                self.told.iter().find(|(_, t)| !t.settled && t.place.position.life() == life).map(|(id, _)| *id)
            }
            None => self.pick(),
        }) else {
            return;
        };
        let rewrite = self.rng.below(2) == 0;
        let told = self.told.get_mut(&id).expect("picked");
        if told.copy.is_some() || told.state != Commit::Durable {
            return;
        }
        let mut chunks = told.chunks.clone();
        let mut left = Vec::new();
        if rewrite {
            let mut made = Vec::new();
            for (_, body) in &chunks {
                match self.log.append_chunk(&[body]) {
                    Ok(chunk) => made.push((chunk, body.clone())),
                    Err(_) => return self.log.drop_chunks(&made.iter().map(|(chunk, _)| *chunk).collect::<Vec<_>>()),
                }
            }
            left = chunks.iter().map(|(chunk, _)| *chunk).collect();
            chunks = made;
        }
        let refs: Vec<_> = chunks.iter().map(|(chunk, _)| *chunk).collect();
        let recipients: Vec<_> = (told.addresses.iter().zip(&told.recipients))
            .map(|(address, recipient)| {
                let (terminal, attempts) = recipient.last();
                let state = if terminal { RecipientState::Delivered } else { RecipientState::Open };
                let due = UnixMs(u64::from(attempts) * 10);
                DraftRecipient { address, state, attempts, due, delay_reported: false }
            })
            .collect();
        let draft = Draft {
            copy_of: Some(CopyOf { id, copies: told.place.copies }),
            arrived: UnixMs(7),
            text: Text { eight_bit: true, ..Text::default() },
            body_bytes: 9,
            sender: &told.sender,
            recipients: &recipients,
            parameters: &[],
            chunks: &refs,
            tail: &[&told.body],
        };
        let prefix = &told.prefix;
        match self.log.append_accept(&draft, &mut |_, out| out.extend_from_slice(prefix)) {
            Ok(appended) => {
                assert_eq!(appended.id, id);
                told.copy = Some((appended.place, chunks, appended.ticket, left));
            }
            Err(_) if rewrite => self.log.drop_chunks(&refs),
            Err(_) => (),
        }
    }

    fn complete(&mut self) {
        if self.pending.is_empty() {
            return;
        }
        let order = self.pending.swap_remove(self.rng.below(self.pending.len() as u64) as usize);
        let fails = !self.calm && self.rng.below(25) == 0;
        let error = if self.rng.below(2) == 0 { DiskError::Full } else { DiskError::Io { errno: 5 } };
        self.apply(&order, !fails);
        let result = if fails { Err(error) } else { Ok(()) };
        match order {
            DiskOrder::Write { write, .. } => self.log.written(self.now, write, result),
            DiskOrder::PrepareSegment { slot } => self.log.segment_prepared(self.now, slot, result),
        }
    }

    /// Puts an order on disk: whole, or any part of it.
    fn apply(&mut self, order: &DiskOrder, whole: bool) {
        match order {
            DiskOrder::Write { slot, offset_bytes, block, .. } => {
                let file = self.disk[slot.0 as usize].as_mut().expect("only prepared files are written");
                for (index, sector) in block.bytes().chunks(SECTOR).enumerate() {
                    if whole || self.rng.below(2) == 0 {
                        let at = *offset_bytes as usize + index * SECTOR;
                        file[at..at + SECTOR].copy_from_slice(sector);
                    }
                }
            }
            DiskOrder::PrepareSegment { slot } => {
                if whole || self.rng.below(2) == 0 {
                    self.disk[slot.0 as usize] = Some(vec![0; SEGMENT as usize]);
                }
            }
        }
    }

    /// Does what a shard does after each step: hear of commits, prove, settle.
    fn look(&mut self) {
        for told in self.told.values_mut() {
            if let Some(ticket) = told.ticket {
                told.state = self.log.outcome(&ticket);
                match told.state {
                    Commit::Pending => (),
                    Commit::Durable => {
                        let _ = self.log.prove(ticket);
                        self.proved += 1;
                        told.ticket = None;
                        if let Some(slice) = self.log.record(&told.place) {
                            let view = AcceptView::read(&slice).expect("the log wrote it");
                            assert_eq!(&slice[view.tail.clone()], &told.body[..]);
                        }
                    }
                    Commit::Failed(_) => {
                        let chunks: Vec<_> = told.chunks.iter().map(|(chunk, _)| *chunk).collect();
                        self.log.settle(told.place, &chunks);
                        told.settled = true;
                        told.ticket = None;
                    }
                }
            }
            if let Some((place, chunks, ticket, left)) = told.copy.take() {
                match self.log.outcome(&ticket) {
                    Commit::Pending => told.copy = Some((place, chunks, ticket, left)),
                    Commit::Durable => {
                        self.log.settle(told.place, &left);
                        (told.place, told.chunks) = (place, chunks);
                    }
                    Commit::Failed(_) => {
                        let made: Vec<_> =
                            if left.is_empty() { Vec::new() } else { chunks.iter().map(|(chunk, _)| *chunk).collect() };
                        self.log.settle(place, &made);
                    }
                }
            }
            for recipient in &mut told.recipients {
                while let Some(&(terminal, attempts, ticket)) = recipient.said.first() {
                    if self.log.outcome(&ticket) != Commit::Durable {
                        break;
                    }
                    recipient.sure = (terminal, attempts);
                    recipient.said.remove(0);
                }
            }
        }
    }

    /// Live accounting is exact.
    fn audit(&self) {
        let mut live = self.loose.len();
        for told in self.told.values() {
            live += if told.settled { 0 } else { 1 + told.chunks.len() };
            if let Some((_, chunks, _, left)) = &told.copy {
                live += 1 + if left.is_empty() { 0 } else { chunks.len() };
            }
        }
        assert_eq!(self.log.stats().live_records, live as u64);
        assert!(self.log.durable() <= self.log.appended());
    }

    fn crash_and_recover(&mut self) {
        for order in std::mem::take(&mut self.pending) {
            self.apply(&order, false);
        }
        let mut start = recover(&self.disk);
        for damage in &start.damage {
            // Only the last resort of a full log may let go of chunks before the verdicts are durable.
            let Damage::Incomplete { id, .. } = damage else { panic!("a crash is no damage: {damage}") };
            assert!(self.told[id].recipients.iter().all(|r| r.last().0), "a crash is no damage: {damage}");
            self.false_alarms += 1;
        }
        let durable = self.log.durable();
        let found: BTreeMap<_, _> = std::mem::take(&mut start.messages).into_iter().map(|m| (m.id, m)).collect();
        for id in found.keys() {
            assert!(!self.gone.contains(id), "{id} came back");
            assert!(self.told.contains_key(id), "{id} was never appended");
        }
        for (id, mut told) in std::mem::take(&mut self.told) {
            let message = found.get(&id);
            self.check(id, &told, message.map(|message| &**message), durable);
            let Some(message) = message else {
                self.gone.insert(id);
                continue;
            };
            told.chunks = message.chunks.iter().copied().zip(told.chunks_of(message)).collect();
            told.place = message.place;
            (told.copy, told.ticket, told.settled, told.state) = (None, None, false, Commit::Durable);
            for (index, recipient) in told.recipients.iter_mut().enumerate() {
                let open = message.recipients.iter().find(|r| r.index == index as u32);
                *recipient = Recipient { sure: open.map_or((true, 0), |r| (false, r.attempts)), said: Vec::new() };
            }
            self.told.insert(id, told);
        }
        self.loose.clear();
        self.log = Log::open(settings(), start, Box::new(HeapBlocks));
        self.audit();
    }

    fn check(&self, id: MessageId, told: &Told, found: Option<&RecoveredMessage>, durable: Position) {
        let must_be = told.state == Commit::Durable && !told.recipients.iter().all(|r| r.last().0);
        assert!(!must_be || found.is_some(), "{id} was proved durable and is open, and is lost");
        let Some(found) = found else { return };
        if matches!(told.state, Commit::Failed(_)) {
            assert!(durable.life() <= told.place.position.life(), "{id} was refused, and came back after the cut");
        }
        assert!(!told.recipients.iter().all(|r| r.sure.0), "{id} is settled durably, and came back");
        for (index, recipient) in told.recipients.iter().enumerate() {
            match found.recipients.iter().find(|r| r.index == index as u32) {
                Some(open) => {
                    assert!(!recipient.sure.0, "{id}: a settled recipient came back");
                    let attempts = recipient.sure.1..=recipient.last().1;
                    assert!(attempts.contains(&open.attempts));
                    assert_eq!(open.due, UnixMs(u64::from(open.attempts) * 10));
                    assert_eq!(*open.address, told.addresses[index]);
                }
                None => assert!(recipient.sure.0 || recipient.said.iter().any(|s| s.0), "{id}: a recipient is lost"),
            }
        }
        self.check_bytes(told, found);
    }

    /// What is recovered is there bit for bit.
    fn check_bytes(&self, told: &Told, found: &RecoveredMessage) {
        let payload = self.payload(found.place.position, found.place.record_bytes());
        let view = AcceptView::read(payload).expect("recovery read it");
        assert_eq!(view.sender(), told.sender);
        assert_eq!(*found.sender, told.sender);
        assert_eq!(&payload[view.prefix.clone()], told.prefix);
        assert_eq!(&payload[view.tail.clone()], told.body);
        assert_eq!((view.arrived, view.text.eight_bit, view.body_bytes), (UnixMs(7), true, 9));
        let bodies = told.chunks_of(found);
        for (chunk, body) in found.chunks.iter().zip(bodies) {
            assert_eq!(self.payload(chunk.position, chunk.record_bytes()), body);
        }
    }

    fn payload(&self, position: Position, record_bytes: u32) -> &[u8] {
        let at = position.offset_bytes() as usize;
        let mut records = self.disk.iter().flatten().filter_map(|file| {
            record::verify(&file[at..(at + record_bytes as usize).min(file.len())], SHARD, position)
        });
        records.next().expect("a recovered record is on disk")
    }
}

impl Told {
    /// The body parts in order; the same in the old place and in the copy.
    fn chunks_of(&self, found: &RecoveredMessage) -> Vec<Vec<u8>> {
        assert_eq!(found.chunks.len(), self.chunks.len());
        self.chunks.iter().map(|(_, body)| body.clone()).collect()
    }
}

fn recover(disk: &[Option<Vec<u8>>]) -> ShardStart {
    let mut files = Vec::new();
    for (slot, file) in disk.iter().enumerate() {
        if let Some(file) = file {
            let life = Recovery::life(SHARD, &mut &file[..]).expect("memory is read");
            files.push((life, slot, file));
        }
    }
    files.sort_by_key(|(life, _, _)| std::cmp::Reverse(*life));
    let mut recovery = Recovery::new();
    for (_, slot, file) in files {
        recovery.segment(SHARD, SegmentSlot(slot as u32), SEGMENT, &mut &file[..]).expect("memory is read");
    }
    let mut starts = recovery.finish(0);
    starts.pop().unwrap_or_else(|| ShardStart::empty(SHARD))
}

/// QUE-01, QUE-03, QUE-07, QUE-08: nothing proved is lost, nothing settled comes back, nothing is half.
#[test]
fn log_and_recovery_equal_the_model() {
    let (mut proved, mut lives, mut false_alarms) = (0, 0, 0);
    for seed in 0..800 {
        let mut world = World::new(seed);
        for _ in 0..3 {
            for _ in 0..world.rng.below(160) {
                world.step();
            }
            world.crash_and_recover();
        }
        proved += world.proved;
        false_alarms += world.false_alarms;
        lives = lives.max(world.log.durable().life());
    }
    assert!(false_alarms < 5, "{false_alarms}");
    assert!(proved > 800 && lives > 15, "the runs do something: {proved} proved, {lives} lives");
}

/// The same over long runs, in which segments are reused many times.
#[test]
fn long_runs_equal_the_model() {
    let mut lives = 0;
    for seed in 10_000..10_002 {
        let mut world = World::new(seed);
        for _ in 0..6 {
            for _ in 0..2000 {
                world.step();
            }
            world.crash_and_recover();
        }
        lives = lives.max(world.log.durable().life());
    }
    assert!(lives > 100, "segments were reused: {lives} lives");
}
