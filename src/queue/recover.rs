//! Rebuilds a spool's queue from its segments, after a stop of any kind.
//!
//! Each segment is read once, front to back, with a bounded window; kept are the open messages, a small tombstone for
//! each settled one still on disk, and the places of chunks. What counts is decided by the truth table in
//! `docs/queue.md`. Lives of a shard are fed newest first, so that cuts are known before what they cut.
//!
//! Bytes that do not check out never panic. Where a later record says that they were durable it is damage and
//! reported (QUE-10); else it is the torn end of what was on its way at a crash, of which nothing was acknowledged
//! (QUE-01). Pure over `std::io::Read`; runs at start-up and in tools.

use std::collections::{BTreeMap, hash_map};
use std::fmt;
use std::io::{self, Read};
use std::net::IpAddr;

use rustc_hash::FxHashMap;

use crate::base::ids::{MessageId, Position, ShardId};
use crate::base::limits::{BLOCK_MAX_BYTES, DISK_ALIGN_BYTES};
use crate::base::time::UnixMs;
use crate::mail::text::Text;
use crate::mail::trace::client_of;
use crate::queue::SegmentSlot;
use crate::queue::record::{
    self, AcceptView, ChunkRef, CutEntry, FIRST_BATCH_OFFSET, FORMAT_VERSION, FORMAT_VERSION_OLDEST, HEADER_BYTES,
    Header, Kind, Place, RecipientState, Start, VerdictDraft, VerdictOutcome, VerdictView, padded,
};

/// What a shard starts from.
#[derive(Debug)]
pub struct ShardStart {
    /// Which shard.
    pub shard: ShardId,
    /// Larger than every life that anything in the spool speaks of.
    pub next_life: u32,
    /// The segment files that are there.
    pub segments: Vec<RecoveredSegment>,
    /// The messages with open recipients, in the order in which they stand in the log. In boxes, for there may be millions, which
    /// are sorted, and given on one by one.
    pub messages: Vec<Box<RecoveredMessage>>,
    /// Messages that were accepted and are not settled, with parts of their bodies missing: for salvage, not for a relay.
    pub aside: Vec<RecoveredMessage>,
    /// What is not as it should be.
    pub damage: Vec<Damage>,
}

impl ShardStart {
    /// A shard without a past.
    pub fn empty(shard: ShardId) -> ShardStart {
        ShardStart {
            shard,
            next_life: 1,
            segments: Vec::new(),
            messages: Vec::new(),
            aside: Vec::new(),
            damage: Vec::new(),
        }
    }
}

/// A segment file with a life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecoveredSegment {
    /// Which file.
    pub slot: SegmentSlot,
    /// Its life; 0 if there is none in it.
    pub life: u32,
    /// Size of the file.
    pub size_bytes: u32,
    /// Accepting and chunk records of open messages.
    pub live_records: u32,
    /// Their size.
    pub live_bytes: u64,
    /// The smallest life that a verdict, copy or cut in here speaks of.
    pub oldest_reference: u32,
}

/// A message with open recipients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecoveredMessage {
    /// Its name.
    pub id: MessageId,
    /// Where its newest accepting record stands.
    pub place: Place,
    /// The parts of its body that stand elsewhere.
    pub chunks: Vec<ChunkRef>,
    /// When it was accepted.
    pub arrived: UnixMs,
    /// Size of its body, unstuffed.
    pub body_bytes: u64,
    /// What the body is like.
    pub text: Text,
    /// Who sent it to us; `None` for what the relay made itself.
    pub peer: Option<IpAddr>,
    /// Reverse-path; empty for the null one.
    pub sender: Box<[u8]>,
    /// What MAIL and RCPT said beside the addresses.
    pub parameters: Box<[u8]>,
    /// How many recipients it had at first.
    pub recipients_total: u32,
    /// Those still open.
    pub recipients: Vec<RecoveredRecipient>,
}

/// An open recipient.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecoveredRecipient {
    /// Its number in the accepting record.
    pub index: u32,
    /// The mailbox.
    pub address: Box<[u8]>,
    /// Attempts made.
    pub attempts: u16,
    /// Not tried before this moment; 0: at once.
    pub due: UnixMs,
    /// Its sender was told that it takes long.
    pub delay_reported: bool,
}

/// Something that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Damage {
    /// Bytes that were durable do not check out.
    Lost {
        /// Which shard.
        shard: ShardId,
        /// Which file.
        slot: SegmentSlot,
        /// First bad byte.
        from: Position,
        /// Behind the last bad byte.
        to: Position,
    },
    /// A message was accepted, is not settled, and parts of its body are missing: set aside, not delivered.
    Incomplete {
        /// Which message.
        id: MessageId,
        /// How many parts are missing.
        chunks_missing: usize,
    },
    /// A file claims a life that another file has: one of them is a stray copy and was left out.
    DuplicateLife {
        /// Which shard.
        shard: ShardId,
        /// Which file was left out.
        slot: SegmentSlot,
        /// The life.
        life: u32,
    },
}

impl Damage {
    /// True if only the first sector of a segment is bad in which nothing lives: a crash cut the start of its next life off.
    /// A segment that is needed is never written over.
    fn is_start_cut_off(&self, segments: &[RecoveredSegment]) -> bool {
        let Damage::Lost { slot, from, to, .. } = self else { return false };
        let settled = |segment: &RecoveredSegment| segment.slot == *slot && segment.live_records == 0;
        from.offset_bytes() == 0 && to.offset_bytes() <= FIRST_BATCH_OFFSET && segments.iter().any(settled)
    }
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Damage::Lost { shard, slot, from, to } => write!(
                f,
                "shard {} segment {}: bytes {} to {} of life {} were durable and do not check out",
                shard.0,
                slot.0,
                from.offset_bytes(),
                to.offset_bytes(),
                from.life()
            ),
            Damage::Incomplete { id, chunks_missing } => {
                write!(f, "message {id}: {chunks_missing} parts of its body are missing; set aside, not delivered")
            }
            Damage::DuplicateLife { shard, slot, life } => {
                write!(f, "shard {} segment {}: life {life} is in another file too; left out", shard.0, slot.0)
            }
        }
    }
}

/// Rebuilds the queue: feed every segment, then finish. Shards may be fed to several, on threads of their own, that are
/// joined before.
#[derive(Default)]
pub struct Recovery {
    shards: BTreeMap<ShardId, Scan>,
    messages: FxHashMap<MessageId, Entry>,
    chunks: FxHashMap<(ShardId, Position), u32>,
}

/// What is known of one shard's log.
#[derive(Default)]
struct Scan {
    segments: Vec<RecoveredSegment>,
    /// The life fed last; the next must be older.
    life: Option<u32>,
    /// Up to where each life is said to have been durable.
    claims: FxHashMap<u32, u32>,
    /// From where on each life does not count.
    cuts: FxHashMap<u32, u32>,
    damage: Vec<Damage>,
}

enum Entry {
    /// All recipients are terminal.
    Settled,
    Open(Box<OpenEntry>),
}

#[derive(Default)]
struct OpenEntry {
    /// Where it stands: more than one place while it is copied, and until the old place is reused.
    accepts: Vec<Accept>,
    verdicts: Vec<Tried>,
}

struct Accept {
    shard: ShardId,
    message: Box<RecoveredMessage>,
}

/// The last word on one recipient.
#[derive(Clone, Copy)]
struct Tried {
    recipient: u32,
    terminal: bool,
    attempts: u16,
    position: Position,
    due: UnixMs,
    delay_reported: bool,
}

impl Tried {
    /// Terminal absorbs; else the later attempt counts. Independent of the order in which they are read.
    fn rank(&self) -> (bool, u16, Position) {
        (self.terminal, self.attempts, self.position)
    }
}

/// One segment while it is read.
struct Reading {
    shard: ShardId,
    slot: SegmentSlot,
    life: u32,
    void_from: u32,
    oldest_reference: u32,
    /// Ranges in which nothing checks out.
    holes: Vec<(u32, u32)>,
    cuts: Vec<(u32, CutEntry)>,
    accepts: Vec<MessageId>,
}

impl Recovery {
    /// Nothing fed yet.
    pub fn new() -> Recovery {
        Recovery::default()
    }

    /// The life a segment file is in: that of the first record that checks out.
    pub fn life(shard: ShardId, source: &mut dyn Read) -> io::Result<Option<u32>> {
        let mut window = Window::new(source);
        let mut at = 0;
        while window.at(at, HEADER_BYTES)?.len() == HEADER_BYTES {
            if let Some((header, _)) = window.record(shard, at)? {
                return Ok(Some(header.position.life()));
            }
            at += DISK_ALIGN_BYTES as u32;
        }
        Ok(None)
    }

    /// Feeds a segment file of `size_bytes`. Files of one shard come in falling order of their lives, those without a
    /// life anywhere.
    pub fn segment(
        &mut self,
        shard: ShardId,
        slot: SegmentSlot,
        size_bytes: u32,
        source: &mut dyn Read,
    ) -> io::Result<()> {
        let mut window = Window::new(source);
        let mut reading: Option<Reading> = None;
        let (mut at, mut hole) = (0u32, None);
        loop {
            let found = match window.record(shard, at)? {
                Some((header, payload)) if reading.as_ref().is_none_or(|r| r.life == header.position.life()) => {
                    Some((header, payload))
                }
                _ => None,
            };
            if let Some((header, payload)) = found {
                let life = header.position.life();
                if reading.is_none() {
                    match self.begin(shard, slot, life) {
                        Some(begun) => reading = Some(begun),
                        None => return Ok(()),
                    }
                }
                let reading = reading.as_mut().expect("just begun");
                reading.holes.extend(hole.take().map(|from| (from, at)));
                if !self.take(reading, header, payload)? {
                    reading.holes.push((at, at + HEADER_BYTES as u32 + header.length_bytes));
                }
                at += padded(HEADER_BYTES + header.length_bytes as usize) as u32;
                continue;
            }
            if let Some(next) = window.behind(shard, at, reading.as_ref().map(|reading| reading.life))? {
                hole.get_or_insert(at);
                at = next;
                continue;
            }
            let sector_end = (at + 1).next_multiple_of(DISK_ALIGN_BYTES as u32);
            let rest = window.at(at, (sector_end - at) as usize)?;
            if rest.is_empty() {
                break;
            }
            let padding = !at.is_multiple_of(DISK_ALIGN_BYTES as u32) && rest.iter().all(|&byte| byte == 0);
            if !padding {
                hole.get_or_insert(at);
            }
            at = sector_end;
        }
        let Some(mut reading) = reading else {
            self.shards.entry(shard).or_default().segments.push(unlived(slot, size_bytes));
            return Ok(());
        };
        reading.holes.extend(hole.map(|from| (from, u32::MAX)));
        self.end(reading, size_bytes);
        Ok(())
    }

    /// Takes in what another one was fed, which was of other shards. What is found in the end is the same as if all had
    /// been fed to one.
    pub fn join(&mut self, other: Recovery) {
        self.shards.extend(other.shards);
        self.chunks.extend(other.chunks);
        self.messages.reserve(other.messages.len());
        for (id, entry) in other.messages {
            match self.messages.entry(id) {
                hash_map::Entry::Vacant(vacant) => {
                    vacant.insert(entry);
                }
                // It moved between shards.
                hash_map::Entry::Occupied(mut occupied) => occupied.get_mut().join(entry),
            }
        }
    }

    fn begin(&mut self, shard: ShardId, slot: SegmentSlot, life: u32) -> Option<Reading> {
        let scan = self.shards.entry(shard).or_default();
        if scan.life.is_some_and(|last| last <= life) {
            scan.damage.push(Damage::DuplicateLife { shard, slot, life });
            return None;
        }
        scan.life = Some(life);
        let void_from = scan.cuts.get(&life).copied().unwrap_or(u32::MAX);
        Some(Reading {
            shard,
            slot,
            life,
            void_from,
            oldest_reference: u32::MAX,
            holes: Vec::new(),
            cuts: Vec::new(),
            accepts: Vec::new(),
        })
    }

    /// Takes in a record; false if it is malformed though its checksum holds.
    fn take(&mut self, reading: &mut Reading, header: Header, payload: &[u8]) -> io::Result<bool> {
        let shard = reading.shard;
        let scan = self.shards.entry(shard).or_default();
        claim(&mut scan.claims, header.durable.life(), header.durable.offset_bytes());
        if header.kind != Kind::Start {
            // The start record was durable before anything else was written.
            claim(&mut scan.claims, reading.life, FIRST_BATCH_OFFSET);
        }
        let void = header.position.offset_bytes() >= reading.void_from;
        match header.kind {
            Kind::Start => match Start::read(payload) {
                Some(start) if !(FORMAT_VERSION_OLDEST..=FORMAT_VERSION).contains(&start.version) => {
                    Err(io::Error::new(
                        io::ErrorKind::InvalidData,
                        format!(
                            "segment format version {} is none of {FORMAT_VERSION_OLDEST} to {FORMAT_VERSION}, which this relay reads; \
                         start the relay that wrote it, and let it deliver its queue",
                            start.version
                        ),
                    ))
                }
                start => Ok(start.is_some()),
            },
            Kind::Chunk => {
                if !void {
                    self.chunks.insert((shard, header.position), header.length_bytes);
                }
                Ok(true)
            }
            Kind::Cut => {
                for cut in CutEntry::read(payload).filter(|cut| is_life(cut.life)) {
                    if cut.failed {
                        reading.oldest_reference = reading.oldest_reference.min(cut.life);
                    }
                    if !void {
                        let from = scan.cuts.entry(cut.life).or_insert(cut.from_bytes);
                        *from = cut.from_bytes.min(*from);
                        reading.cuts.push((header.position.offset_bytes(), cut));
                    }
                }
                Ok(true)
            }
            Kind::Accept => Ok(self.take_accept(reading, header, payload, void)),
            // A verdict happened, also where its record was written again elsewhere: it counts in void ranges too.
            Kind::Verdict => Ok(self.take_verdict(reading, header.position, payload)),
        }
    }

    fn take_accept(&mut self, reading: &mut Reading, header: Header, payload: &[u8], void: bool) -> bool {
        let Some(view) = AcceptView::read(payload) else { return false };
        let here = MessageId { shard: reading.shard, position: header.position };
        let whole = view.recipients().count() == view.recipient_count() && is_life(view.id.position.life());
        if !whole || (view.copies == 0 && view.id != here) {
            return false;
        }
        if view.copies > 0 {
            reading.refer(view.id);
        }
        if void {
            return true;
        }
        let entry = self.messages.entry(view.id).or_insert_with(|| Entry::Open(Box::default()));
        let Entry::Open(open) = entry else { return true };
        let place = Place { position: header.position, length_bytes: header.length_bytes, copies: view.copies };
        // What the record itself knows of its recipients are verdicts like any other.
        for (index, recipient) in view.recipients().enumerate() {
            let terminal = recipient.state != RecipientState::Open;
            if terminal || recipient.attempts > 0 {
                let (attempts, due, delay_reported) = (recipient.attempts, recipient.due, recipient.delay_reported);
                let (recipient, position) = (index as u32, header.position);
                open.note(Tried { recipient, terminal, attempts, position, due, delay_reported });
            }
        }
        // There may be millions, and hardly any of them stands in two places.
        open.accepts.reserve_exact(1);
        open.accepts.push(Accept { shard: reading.shard, message: Box::new(message(&view, place)) });
        reading.accepts.push(view.id);
        true
    }

    fn take_verdict(&mut self, reading: &mut Reading, position: Position, payload: &[u8]) -> bool {
        let Some(view) = VerdictView::read(payload).filter(|view| is_life(view.message.position.life())) else {
            return false;
        };
        reading.refer(view.message);
        let entry = self.messages.entry(view.message).or_insert_with(|| Entry::Open(Box::default()));
        if let Entry::Open(open) = entry {
            for VerdictDraft { recipient, outcome, attempts, due, delay_reported, .. } in view.verdicts() {
                let terminal = outcome != VerdictOutcome::Deferred;
                open.note(Tried { recipient, terminal, attempts, position, due, delay_reported });
            }
            if !open.accepts.is_empty() {
                reading.accepts.push(view.message);
            }
        }
        true
    }

    /// The segment is read: report what is lost, and forget what is settled.
    fn end(&mut self, reading: Reading, size_bytes: u32) {
        let scan = self.shards.entry(reading.shard).or_default();
        let durable = scan.claims.get(&reading.life).copied().unwrap_or(0);
        for (at, cut) in &reading.cuts {
            if *at < durable {
                // This cut was durable, so all before it was, up to where it cuts.
                claim(&mut scan.claims, cut.life, cut.from_bytes);
            }
        }
        for &(from, to) in reading.holes.iter().filter(|(from, _)| *from < durable) {
            scan.damage.push(Damage::Lost {
                shard: reading.shard,
                slot: reading.slot,
                from: Position::new(reading.life, from),
                to: Position::new(reading.life, to.min(durable)),
            });
        }
        scan.segments.push(RecoveredSegment {
            life: reading.life,
            oldest_reference: reading.oldest_reference,
            ..unlived(reading.slot, size_bytes)
        });
        for id in reading.accepts {
            let entry = self.messages.get_mut(&id).expect("it was just noted");
            if matches!(entry, Entry::Open(open) if open.is_settled()) {
                *entry = Entry::Settled;
            }
        }
    }

    /// What each shard starts from: the first `shards` ones, and behind them those that have a log but are not
    /// among them any more.
    pub fn finish(mut self, shards: u16) -> Vec<ShardStart> {
        for shard in 0..shards {
            self.shards.entry(ShardId(shard)).or_default();
        }
        let mut next_lives: FxHashMap<ShardId, u32> = FxHashMap::default();
        for id in self.messages.keys() {
            let life = next_lives.entry(id.shard).or_default();
            *life = id.position.life().max(*life);
        }
        let mut starts: BTreeMap<ShardId, ShardStart> = BTreeMap::new();
        for (&shard, scan) in &mut self.shards {
            let lives = scan.segments.iter().map(|segment| segment.life).chain(scan.cuts.keys().copied());
            let last = lives.chain(next_lives.get(&shard).copied()).max().unwrap_or(0);
            let (segments, damage) = (std::mem::take(&mut scan.segments), std::mem::take(&mut scan.damage));
            let start = ShardStart { next_life: last.saturating_add(1), segments, damage, ..ShardStart::empty(shard) };
            starts.insert(shard, start);
        }
        for (id, entry) in std::mem::take(&mut self.messages) {
            // A verdict without a message is of one whose place was reused.
            let Entry::Open(mut open) = entry else { continue };
            if open.accepts.is_empty() || open.is_settled() {
                continue;
            }
            match self.best(&open.accepts) {
                Ok(index) => {
                    let Accept { shard, message } = open.accepts.swap_remove(index);
                    let message = open.resolve(message);
                    place(starts.get_mut(&shard).expect("its segment was fed"), message);
                }
                Err(Some((index, chunks_missing))) => {
                    let Accept { shard, message } = open.accepts.swap_remove(index);
                    let start = starts.get_mut(&shard).expect("its segment was fed");
                    start.damage.push(Damage::Incomplete { id, chunks_missing });
                    start.aside.push(*open.resolve(message));
                }
                Err(None) => (),
            }
        }
        for start in starts.values_mut() {
            let ShardStart { damage, segments, .. } = start;
            damage.retain(|damage| !damage.is_start_cut_off(segments));
            // Each is looked at once, wherever it is in memory.
            start.messages.sort_by_cached_key(|message| message.place.position);
            start.aside.sort_unstable_by_key(|message| message.place.position);
        }
        starts.into_values().collect()
    }

    /// Which place of a message counts: that of the newest copy whose body is whole. If there is none, whether that is
    /// damage, where, and how many parts are missing: an accepting record that was durable had all its chunks, others
    /// were never acknowledged.
    fn best(&self, accepts: &[Accept]) -> Result<usize, Option<(usize, usize)>> {
        let mut best: Option<usize> = None;
        let mut damage = None;
        let newness = |accept: &Accept| (accept.message.place.copies, accept.message.place.position);
        for (index, accept) in accepts.iter().enumerate() {
            let missing = self.chunks_missing(accept);
            if missing == 0 {
                if best.is_none_or(|known| newness(&accepts[known]) < newness(accept)) {
                    best = Some(index);
                }
            } else if self.was_durable(accept) {
                damage = Some((index, missing));
            }
        }
        best.ok_or(damage)
    }

    fn chunks_missing(&self, Accept { shard, message }: &Accept) -> usize {
        let missing = |chunk: &&ChunkRef| self.chunks.get(&(*shard, chunk.position)) != Some(&chunk.length_bytes);
        message.chunks.iter().filter(missing).count()
    }

    fn was_durable(&self, Accept { shard, message }: &Accept) -> bool {
        let position = message.place.position;
        let claims = &self.shards[shard].claims;
        claims.get(&position.life()).is_some_and(|&durable| position.offset_bytes() < durable)
    }
}

/// Puts an open message in its shard.
fn place(start: &mut ShardStart, message: Box<RecoveredMessage>) {
    let mut count = |position: Position, bytes: u32| {
        let segment = start.segments.iter_mut().find(|segment| segment.life == position.life());
        let segment = segment.expect("its segment was fed");
        segment.live_records += 1;
        segment.live_bytes += u64::from(bytes);
    };
    count(message.place.position, message.place.record_bytes());
    for chunk in &message.chunks {
        count(chunk.position, chunk.record_bytes());
    }
    start.messages.push(message);
}

impl Reading {
    fn refer(&mut self, id: MessageId) {
        let life = if id.shard == self.shard { id.position.life() } else { 0 };
        self.oldest_reference = self.oldest_reference.min(life);
    }
}

impl Entry {
    /// All that is known of a message in two places: settled in one is settled.
    fn join(&mut self, other: Entry) {
        match (&mut *self, other) {
            (Entry::Open(open), Entry::Open(other)) => {
                open.accepts.extend(other.accepts);
                other.verdicts.into_iter().for_each(|tried| open.note(tried));
            }
            (Entry::Open(_), Entry::Settled) => *self = Entry::Settled,
            (Entry::Settled, _) => (),
        }
    }
}

impl OpenEntry {
    fn note(&mut self, tried: Tried) {
        match self.verdicts.iter_mut().find(|known| known.recipient == tried.recipient) {
            Some(known) if known.rank() < tried.rank() => *known = tried,
            Some(_) => (),
            None => self.verdicts.push(tried),
        }
    }

    fn is_settled(&self) -> bool {
        let Some(accept) = self.accepts.first() else { return false };
        let total = accept.message.recipients_total;
        let terminal = self.verdicts.iter().filter(|tried| tried.terminal && tried.recipient < total).count();
        terminal == total as usize
    }

    /// The message with its open recipients only.
    fn resolve(mut self, mut message: Box<RecoveredMessage>) -> Box<RecoveredMessage> {
        self.verdicts.sort_unstable_by_key(|tried| tried.recipient);
        let verdicts = &self.verdicts;
        message.recipients.retain_mut(|recipient| {
            let Ok(found) = verdicts.binary_search_by_key(&recipient.index, |tried| tried.recipient) else {
                return true;
            };
            recipient.attempts = verdicts[found].attempts;
            recipient.due = verdicts[found].due;
            recipient.delay_reported = verdicts[found].delay_reported;
            !verdicts[found].terminal
        });
        message
    }
}

fn message(view: &AcceptView<'_>, place: Place) -> RecoveredMessage {
    let mut recipients = Vec::with_capacity(view.recipients().count());
    recipients.extend(view.recipients().enumerate().map(|(index, recipient)| RecoveredRecipient {
        index: index as u32,
        address: recipient.address.into(),
        attempts: recipient.attempts,
        due: recipient.due,
        delay_reported: recipient.delay_reported,
    }));
    RecoveredMessage {
        id: view.id,
        place,
        chunks: view.chunks().collect(),
        arrived: view.arrived,
        body_bytes: view.body_bytes,
        text: view.text,
        peer: client_of(view.prefix()),
        sender: view.sender().into(),
        parameters: view.parameters().0.into(),
        recipients_total: view.recipient_count() as u32,
        recipients,
    }
}

/// True for a life that a log can have had. One beyond is a lie, and believing it would leave none for this run.
fn is_life(life: u32) -> bool {
    (1..=LIFE_MAX).contains(&life)
}

fn claim(claims: &mut FxHashMap<u32, u32>, life: u32, offset: u32) {
    let known = claims.entry(life).or_insert(0);
    *known = offset.max(*known);
}

fn unlived(slot: SegmentSlot, size_bytes: u32) -> RecoveredSegment {
    RecoveredSegment { slot, life: 0, size_bytes, live_records: 0, live_bytes: 0, oldest_reference: u32::MAX }
}

/// A segment file seen through a buffer that only moves forward.
struct Window<'a> {
    source: &'a mut dyn Read,
    buffer: Vec<u8>,
    /// Where in the file the buffer starts.
    base: usize,
    filled: usize,
    ended: bool,
}

/// No log gets as far: so many segments of the least size are 8 PiB.
const LIFE_MAX: u32 = u32::MAX / 2;

const WINDOW_BYTES: usize = 2 * BLOCK_MAX_BYTES;

impl<'a> Window<'a> {
    fn new(source: &'a mut dyn Read) -> Window<'a> {
        Window { source, buffer: vec![0; WINDOW_BYTES], base: 0, filled: 0, ended: false }
    }

    /// Up to `length` bytes at an offset not before an earlier one; fewer only at the end of the file.
    fn at(&mut self, offset: u32, length: usize) -> io::Result<&[u8]> {
        let offset = offset as usize;
        assert!(offset >= self.base && length <= BLOCK_MAX_BYTES, "the window moves forward");
        while !self.ended && offset + length > self.base + self.filled {
            if offset + length > self.base + WINDOW_BYTES {
                self.forget_before(offset);
            }
            match self.source.read(&mut self.buffer[self.filled..]) {
                Ok(0) => self.ended = true,
                Ok(count) => self.filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => (),
                Err(error) => return Err(error),
            }
        }
        let start = (offset - self.base).min(self.filled);
        Ok(&self.buffer[start..(start + length).min(self.filled)])
    }

    fn forget_before(&mut self, offset: usize) {
        let keep_from = (offset - self.base).min(self.filled);
        self.buffer.copy_within(keep_from..self.filled, 0);
        self.filled -= keep_from;
        self.base += keep_from;
    }

    /// Where the next record stands behind one that does not check out: where its length says, if there a record of that
    /// life does check out. So a flipped bit costs one record, not the rest of its batch.
    fn behind(&mut self, shard: ShardId, offset: u32, life: Option<u32>) -> io::Result<Option<u32>> {
        // No payload is empty: zeros are what a batch is filled up with, and no record.
        let Some(length @ 1..) = record::length_field(self.at(offset, HEADER_BYTES)?) else { return Ok(None) };
        let length = HEADER_BYTES + length as usize;
        if length > BLOCK_MAX_BYTES {
            return Ok(None);
        }
        // Both records are in the window together: it is not moved past this one.
        self.forget_before(offset as usize);
        let next = offset + padded(length) as u32;
        let found = self.record(shard, next)?.map(|(header, _)| header.position.life());
        Ok(found.filter(|found| life.is_none_or(|life| life == *found)).map(|_| next))
    }

    /// The record at an offset, if one checks out there.
    fn record(&mut self, shard: ShardId, offset: u32) -> io::Result<Option<(Header, &[u8])>> {
        let Some(header) = record::header(self.at(offset, HEADER_BYTES)?) else { return Ok(None) };
        let length = HEADER_BYTES + header.length_bytes as usize;
        let here = header.position.offset_bytes() == offset && is_life(header.position.life());
        if header.shard != shard || !here || length > BLOCK_MAX_BYTES {
            return Ok(None);
        }
        Ok(record::open(self.at(offset, length)?))
    }
}

#[cfg(test)]
mod tests;
