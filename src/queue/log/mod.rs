//! The log of one shard: what is appended, what is durable, and what may go.
//!
//! Append into the open block (`blocks`), let [`Log::poll`] send blocks to the disk (`commit`), hear of their
//! end, and only then is a ticket durable and gives its proof. Segments are kept ready ahead and go back into use
//! when nothing in them is needed (`reclaim`).
//!
//! A refusal is an answer (`LogRefusal`), never a panic; a completion for a write nobody ordered, a record settled
//! twice, or a proof asked for too early is a bug of the caller and panics. Lives on its shard's core; pure.

mod blocks;
mod commit;
mod reclaim;
pub use reclaim::Straggler;

use std::collections::{BTreeMap, VecDeque};

use rustc_hash::FxHashMap;

use crate::base::bytes::{Block, BlockSource, Slice};
use crate::base::ids::{MessageId, Position, ShardId};
use crate::base::limits::{
    BATCH_FULL_BYTES, BLOCK_MAX_BYTES, BLOCK_MIN_BYTES, DISK_ALIGN_BYTES, LOG_BACKLOG_MAX_BYTES, PREFIX_MAX_BYTES,
    SEGMENT_LATE_BYTES, VERDICTS_HELD_MAX_BYTES, WRITES_IN_FLIGHT_MAX,
};
use crate::base::time::Mono;
use crate::queue::record::{
    ChunkRef, CutEntry, Draft, HEADER_BYTES, Kind, Place, VerdictDraft, VerdictOutcome, padded,
};
use crate::queue::recover::ShardStart;
use crate::queue::segment::{Segment, SegmentState};
use crate::queue::{LogRefusal, Proof, SegmentSlot, WriteId};

use blocks::Batch;
use commit::{Errand, Failure, Flight, Sealed};

/// What a log is told at its start.
#[derive(Clone, Copy, Debug)]
pub struct LogSettings {
    /// Whose log it is.
    pub shard: ShardId,
    /// Size of new segment files.
    pub segment_bytes: u32,
    /// Segment files at most.
    pub segments_max: usize,
    /// Memory for blocks with bodies not yet delivered.
    pub hot_bytes: usize,
    /// When batches go to the disk.
    pub commit: CommitSettings,
}

/// When batches go to the disk (`queue.batch_bytes`, `queue.writes_in_flight`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CommitSettings {
    /// A batch this long does not wait for those on their way, `BLOCK_MIN_BYTES..=BLOCK_MAX_BYTES`.
    pub batch_bytes: usize,
    /// Batches on their way at a time, at least 1.
    pub writes_in_flight: usize,
}

impl Default for CommitSettings {
    fn default() -> Self {
        CommitSettings { batch_bytes: BATCH_FULL_BYTES, writes_in_flight: WRITES_IN_FLIGHT_MAX }
    }
}

/// Something the disk is to do.
#[derive(Clone)]
pub enum DiskOrder {
    /// Write a whole block durably, then `written`.
    Write {
        /// Its name.
        write: WriteId,
        /// Which file.
        slot: SegmentSlot,
        /// Where, aligned.
        offset_bytes: u32,
        /// What, of aligned length.
        block: Block,
    },
    /// Make the file anew (one that is there is replaced whole, never overwritten in place), fill it with zeros, sync
    /// it and its directory, then `segment_prepared`.
    PrepareSegment {
        /// Which file.
        slot: SegmentSlot,
    },
}

/// What asks later whether something is durable.
#[derive(Clone, Copy, Debug)]
pub struct Ticket(TicketKind);

#[derive(Clone, Copy, Debug)]
enum TicketKind {
    /// An accepting record, which fails with its batch.
    Accept { end: Position, epoch: u64 },
    /// The so-many-th verdict record, which is written again until it is durable.
    Verdict { number: u64 },
}

/// How a commit stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Commit {
    /// Not yet.
    Pending,
    /// Survives everything.
    Durable,
    /// Will never be; say so to the client.
    Failed(LogRefusal),
}

/// A message that was appended.
#[derive(Clone, Copy, Debug)]
pub struct Appended {
    /// Its name.
    pub id: MessageId,
    /// Where it stands.
    pub place: Place,
    /// Asks whether it is durable.
    pub ticket: Ticket,
}

/// Counts, for metrics and tests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogStats {
    /// Bytes of records appended, headers included.
    pub appended_bytes: u64,
    /// Body bytes copied into blocks.
    pub copied_body_bytes: u64,
    /// Batches handed to the disk.
    pub batches: u64,
    /// Their bytes, padding included.
    pub batch_bytes: u64,
    /// Batches that became durable.
    pub commits: u64,
    /// Writes and preparations that failed.
    pub failures: u64,
    /// Segment files with a life in which something is needed or appended.
    pub segments_used: u32,
    /// Segment files of which nothing is needed.
    pub segments_free: u32,
    /// Segment files kept ready ahead.
    pub segments_spare: u32,
    /// Accepting and chunk records not settled.
    pub live_records: u64,
    /// Their size.
    pub live_bytes: u64,
    /// Memory of blocks kept for bodies.
    pub hot_bytes: usize,
    /// Memory of blocks not yet handed to the disk.
    pub waiting_bytes: usize,
    /// Verdict records not yet durable.
    pub verdicts_pending: u64,
}

#[derive(Default)]
struct Counters {
    appended_bytes: u64,
    copied_body_bytes: u64,
    batches: u64,
    batch_bytes: u64,
    commits: u64,
    failures: u64,
}

/// What is appended, and so how much of the last room it may have.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Purpose {
    /// New mail: leaves the reserve at the end of its last segment, and [`SEGMENTS_KEPT`] segments.
    Mail,
    /// Verdicts and reports: leave half of the reserve, half of the first kept segment, and three quarters of the last.
    Settling,
    /// Copies, by which room is made: leave nothing.
    Copying,
}

/// One shard's log.
pub struct Log {
    settings: LogSettings,
    blocks: Box<dyn BlockSource>,
    /// By slot.
    segments: Vec<Segment>,
    /// Slot of each life that is not over.
    slot_of: FxHashMap<u32, u32>,
    /// Slot of each life that recovery would find.
    on_disk: BTreeMap<u32, u32>,
    next_life: u32,
    next_write: u64,
    open: Option<u32>,
    /// The open segment is one of the last, which are kept from mail.
    open_is_kept: bool,
    /// No more segments can be had than are kept from mail, as of the last poll.
    few_left: bool,
    /// Something that settles mail found no room when it was last appended.
    starved: bool,
    /// Started segments, in order of their lives.
    spares: VecDeque<u32>,
    /// The slot being made or started; one at a time, so that lives become spare in order.
    readying: Option<u32>,
    ready_retry_at: Mono,
    batch: Option<Batch>,
    last_batch_bytes: usize,
    sealed: VecDeque<Sealed>,
    sealed_bytes: usize,
    /// In order of position.
    flights: VecDeque<Flight>,
    /// Other writes on their way: start records, and what was given up.
    errands: FxHashMap<WriteId, Errand>,
    durable: Position,
    submitted: Position,
    appended: Position,
    epoch: u64,
    failures: VecDeque<Failure>,
    open_retry_at: Mono,
    /// Why the last write failed, until one succeeds.
    trouble: Option<LogRefusal>,
    /// Why the last segment could not be made or started, until one can.
    ready_trouble: Option<LogRefusal>,
    /// Lives that ended and are not yet durably said to.
    cuts: Vec<CutEntry>,
    /// Verdict payloads that wait for a segment, in order.
    held: VecDeque<Box<[u8]>>,
    held_bytes: usize,
    verdicts_taken: u64,
    verdicts_durable: u64,
    /// Blocks in memory, oldest first; some of them gone by now.
    hot_order: VecDeque<Position>,
    hot_bytes: usize,
    hot_count: usize,
    scratch: Vec<u8>,
    counters: Counters,
}

impl Log {
    /// Opens the log. Nothing is appended to segments of earlier runs; `start.messages` is for the caller.
    pub fn open(settings: LogSettings, start: ShardStart, blocks: Box<dyn BlockSource>) -> Log {
        assert_eq!(settings.shard, start.shard, "a log starts from its own shard's past");
        assert!((settings.segment_bytes as usize).is_multiple_of(DISK_ALIGN_BYTES), "segments are whole sectors");
        assert!(start.next_life > 0);
        let commit = settings.commit;
        assert!((BLOCK_MIN_BYTES..=BLOCK_MAX_BYTES).contains(&commit.batch_bytes) && commit.writes_in_flight > 0);
        let mut log = Log {
            settings,
            blocks,
            segments: Vec::new(),
            slot_of: FxHashMap::default(),
            on_disk: BTreeMap::new(),
            next_life: start.next_life,
            next_write: 0,
            open: None,
            open_is_kept: false,
            few_left: false,
            starved: false,
            spares: VecDeque::new(),
            readying: None,
            ready_retry_at: Mono(0),
            batch: None,
            last_batch_bytes: 0,
            sealed: VecDeque::new(),
            sealed_bytes: 0,
            flights: VecDeque::new(),
            errands: FxHashMap::default(),
            durable: Position::new(start.next_life, 0),
            submitted: Position::new(start.next_life, 0),
            appended: Position::new(start.next_life, 0),
            epoch: 0,
            failures: VecDeque::new(),
            open_retry_at: Mono(0),
            trouble: None,
            ready_trouble: None,
            cuts: Vec::new(),
            held: VecDeque::new(),
            held_bytes: 0,
            verdicts_taken: 0,
            verdicts_durable: 0,
            hot_order: VecDeque::new(),
            hot_bytes: 0,
            hot_count: 0,
            scratch: Vec::with_capacity(PREFIX_MAX_BYTES),
            counters: Counters::default(),
        };
        log.take_over(&start);
        log
    }

    /// True if mail can be taken, or if it is known why not: a full queue, or a disk that fails, is told to clients by
    /// their replies, and not by a relay that does not listen.
    pub fn ready(&self) -> bool {
        self.open.is_some() || self.trouble.is_some() || self.ready_trouble.is_some() || self.exhausted()
    }

    /// Size of new segment files.
    pub fn segment_bytes(&self) -> u32 {
        self.settings.segment_bytes
    }

    /// True if taking more in should pause: too much waits for the disk, or the open segment will soon be full and the
    /// next one is still being made. Pausing ends by itself, and costs a client less than a refusal.
    pub fn crowded(&self) -> bool {
        self.sealed_bytes >= LOG_BACKLOG_MAX_BYTES / 2 || self.next_segment_is_late()
    }

    fn next_segment_is_late(&self) -> bool {
        let well = self.trouble.is_none() && self.ready_trouble.is_none();
        let waits = well && !self.may_take(Purpose::Mail) && self.readying.is_some();
        let Some(slot) = self.open.filter(|_| waits) else {
            return false;
        };
        let segment = &self.segments[slot as usize];
        segment.size_bytes - segment.next_offset <= SEGMENT_LATE_BYTES.min(segment.size_bytes / 2)
    }

    /// Appends a part of a body. Its segment stays until the chunk is dropped or settled with its message.
    pub fn append_chunk(&mut self, parts: &[&[u8]]) -> Result<ChunkRef, LogRefusal> {
        self.append_part(parts, Purpose::Mail)
    }

    /// The same for a copy of a message, which may have the last room.
    pub fn copy_chunk(&mut self, part: &[u8]) -> Result<ChunkRef, LogRefusal> {
        self.append_part(&[part], Purpose::Copying)
    }

    fn append_part(&mut self, parts: &[&[u8]], purpose: Purpose) -> Result<ChunkRef, LogRefusal> {
        let length = parts.iter().map(|part| part.len()).sum::<usize>();
        self.make_room(padded(HEADER_BYTES + length), purpose)?;
        let (position, payload) = self.place_record(length);
        let mut at = 0;
        for part in parts {
            payload[at..at + part.len()].copy_from_slice(part);
            at += part.len();
        }
        self.finish_record(Kind::Chunk, length);
        self.counters.copied_body_bytes += length as u64;
        Ok(ChunkRef { position, length_bytes: length as u32 })
    }

    /// Gives up chunks that no message will name: it was refused, or its connection was lost.
    pub fn drop_chunks(&mut self, chunks: &[ChunkRef]) {
        for chunk in chunks {
            self.take_live(chunk.position, chunk.record_bytes(), 0);
        }
    }

    /// Appends the accepting record of a message, or a copy of one (which keeps its name).
    ///
    /// `prefix` writes at most `PREFIX_MAX_BYTES`, once the name is known; of a copy it is asked twice. The chunks pass to
    /// the new record. Every message appended is settled once, also if its ticket fails. An error changes nothing. Copies
    /// may have the last room.
    pub fn append_accept(
        &mut self,
        draft: &Draft<'_>,
        prefix: &mut dyn FnMut(MessageId, &mut Vec<u8>),
    ) -> Result<Appended, LogRefusal> {
        for chunk in draft.chunks {
            if chunk.position.offset_bytes() >= self.segment_of(chunk.position).void_from {
                return Err(self.trouble.unwrap_or(LogRefusal::Failing));
            }
        }
        let Some(copy) = draft.copy_of else {
            return self.append_message(draft, prefix, PREFIX_MAX_BYTES, Purpose::Mail);
        };
        // Of what is left when the log is full nothing is claimed that is not used.
        self.scratch.clear();
        prefix(copy.id, &mut self.scratch);
        let prefix_bytes = self.scratch.len();
        self.append_message(draft, prefix, prefix_bytes, Purpose::Copying)
    }

    /// Appends a message that settles another: the report of a failure. May have as much of the last room as verdicts
    /// may, for without it a full queue of failed messages would never empty.
    pub fn append_report(&mut self, draft: &Draft<'_>) -> Result<Appended, LogRefusal> {
        self.append_message(draft, &mut |_, _| {}, 0, Purpose::Settling)
    }

    fn append_message(
        &mut self,
        draft: &Draft<'_>,
        prefix: &mut dyn FnMut(MessageId, &mut Vec<u8>),
        prefix_max_bytes: usize,
        purpose: Purpose,
    ) -> Result<Appended, LogRefusal> {
        self.make_room(padded(HEADER_BYTES + draft.payload_bytes(prefix_max_bytes)), purpose)?;
        let place = self.next_position();
        let id = draft.copy_of.map_or(MessageId { shard: self.settings.shard, position: place }, |copy| copy.id);
        let mut text = std::mem::take(&mut self.scratch);
        text.clear();
        prefix(id, &mut text);
        assert!(text.len() <= prefix_max_bytes, "room was made for a shorter prefix");
        let length = draft.payload_bytes(text.len());
        let (position, payload) = self.place_record(length);
        draft.write(id, &text, payload);
        self.scratch = text;
        let end = self.finish_record(Kind::Accept, length);
        let batch = self.batch.as_mut().expect("something was just appended");
        match purpose {
            // Each alone would take a sector of what little room there may be.
            Purpose::Copying => batch.copies = true,
            Purpose::Mail | Purpose::Settling => batch.urgent = true,
        }
        self.counters.copied_body_bytes += draft.tail.iter().map(|part| part.len() as u64).sum::<u64>();
        if draft.copy_of.is_some() {
            self.refer(id);
        }
        let copies = draft.copy_of.map_or(0, |copy| copy.copies.saturating_add(1));
        let place = Place { position, length_bytes: length as u32, copies };
        Ok(Appended { id, place, ticket: Ticket(TicketKind::Accept { end, epoch: self.epoch }) })
    }

    /// Appends what became of recipients. May have some of the last room; does not by itself start a write before
    /// `VERDICT_DELAY_MS`. While no segment can be written it is held in memory and appended later: its ticket never
    /// fails. If very much is held already, only what settles recipients still is, and without words: there is no more of that than
    /// there is mail, while deferrals go on and on, and one that is forgotten costs an attempt too early after a crash.
    pub fn append_verdicts(&mut self, message: MessageId, verdicts: &[VerdictDraft<'_>]) -> Ticket {
        let length = VerdictDraft::payload_bytes(verdicts);
        assert!(padded(HEADER_BYTES + length) <= BLOCK_MAX_BYTES / 2, "verdicts of one message fit a block");
        if self.held.is_empty() && self.make_room(padded(HEADER_BYTES + length), Purpose::Settling).is_ok() {
            let (_, payload) = self.place_record(length);
            VerdictDraft::write(message, verdicts, payload);
            self.finish_record(Kind::Verdict, length);
            self.refer(message);
            self.verdicts_taken += 1;
        } else if self.held_bytes + length <= VERDICTS_HELD_MAX_BYTES {
            self.hold_verdicts(message, verdicts);
        } else {
            let settling = verdicts.iter().filter(|verdict| verdict.outcome != VerdictOutcome::Deferred);
            let settling: Vec<_> = settling.map(|verdict| VerdictDraft { text: &[], ..*verdict }).collect();
            if !settling.is_empty() {
                self.hold_verdicts(message, &settling);
            }
        }
        Ticket(TicketKind::Verdict { number: self.verdicts_taken })
    }

    fn hold_verdicts(&mut self, message: MessageId, verdicts: &[VerdictDraft<'_>]) {
        let mut payload = vec![0; VerdictDraft::payload_bytes(verdicts)].into_boxed_slice();
        VerdictDraft::write(message, verdicts, &mut payload);
        self.held_bytes += payload.len();
        self.held.push_back(payload);
        self.verdicts_taken += 1;
    }

    /// True if verdicts wait in memory because no segment can be written.
    pub fn holds_verdicts(&self) -> bool {
        !self.held.is_empty()
    }

    /// How the commit of a ticket stands.
    pub fn outcome(&self, ticket: &Ticket) -> Commit {
        match ticket.0 {
            TicketKind::Verdict { number } if number <= self.verdicts_durable => Commit::Durable,
            TicketKind::Verdict { .. } => Commit::Pending,
            TicketKind::Accept { end, epoch } if epoch == self.epoch => {
                if end <= self.durable {
                    Commit::Durable
                } else {
                    Commit::Pending
                }
            }
            TicketKind::Accept { end, epoch } => self.outcome_before_failure(end, epoch),
        }
    }

    /// The proof that a message is durable; panics if it is not (QUE-01).
    pub fn prove(&self, ticket: Ticket) -> Proof {
        let TicketKind::Accept { end, .. } = ticket.0 else { panic!("only an accepted message is proved") };
        assert_eq!(self.outcome(&ticket), Commit::Durable, "a proof is given only for what is durable");
        assert!(end <= self.durable && self.durable <= self.submitted && self.submitted <= self.appended);
        Proof(())
    }

    /// Everything before this is durable, or was said to have failed.
    pub fn durable(&self) -> Position {
        self.durable
    }

    /// Body bytes copied into blocks since the start.
    pub fn copied_body_bytes(&self) -> u64 {
        self.counters.copied_body_bytes
    }

    /// Where the last append ended.
    pub fn appended(&self) -> Position {
        self.appended
    }

    /// The payload of an accepting record, if it is in memory.
    pub fn record(&self, place: &Place) -> Option<Slice> {
        self.hot(place.position, place.length_bytes)
    }

    /// A body part, if it is in memory.
    pub fn chunk(&self, chunk: &ChunkRef) -> Option<Slice> {
        self.hot(chunk.position, chunk.length_bytes)
    }

    /// Where on disk the record at a position starts, header included: for reading what is not in memory.
    /// `None` if its segment was given up; a record that is not settled keeps its segment.
    pub fn locate(&self, position: Position) -> Option<(SegmentSlot, u32)> {
        let slot = *self.slot_of.get(&position.life())?;
        Some((SegmentSlot(slot), position.offset_bytes()))
    }

    /// Bytes that are written, or on their way, from a position on in the same segment, of which `locate` knows.
    pub fn written_behind(&self, position: Position) -> u32 {
        let segment = self.segment_of(position);
        segment.next_offset.min(segment.void_from).saturating_sub(position.offset_bytes())
    }

    /// The message is gone from this place for good: all its recipients are terminal and their verdicts appended, or
    /// it failed to become durable, or its copy is durable (then `chunks` are those the copy does not name).
    pub fn settle(&mut self, place: Place, chunks: &[ChunkRef]) {
        // Writing over the accepting record settles as well as a verdict does; a chunk elsewhere has to outlast one of them.
        self.take_live(place.position, place.record_bytes(), 0);
        for chunk in chunks {
            let apart = chunk.position.life() != place.position.life();
            let verdicts_needed = if apart { self.verdicts_taken } else { 0 };
            self.take_live(chunk.position, chunk.record_bytes(), verdicts_needed);
        }
    }

    /// Counts.
    pub fn stats(&self) -> LogStats {
        let mut stats = LogStats {
            appended_bytes: self.counters.appended_bytes,
            copied_body_bytes: self.counters.copied_body_bytes,
            batches: self.counters.batches,
            batch_bytes: self.counters.batch_bytes,
            commits: self.counters.commits,
            failures: self.counters.failures,
            segments_spare: self.spares.len() as u32,
            hot_bytes: self.hot_bytes,
            waiting_bytes: self.sealed_bytes,
            verdicts_pending: self.verdicts_taken - self.verdicts_durable,
            ..LogStats::default()
        };
        for segment in &self.segments {
            stats.live_records += u64::from(segment.live_records);
            stats.live_bytes += segment.live_bytes;
            match segment.state {
                SegmentState::Open => stats.segments_used += 1,
                SegmentState::Closed | SegmentState::Poisoned if segment.live_records > 0 => stats.segments_used += 1,
                SegmentState::Closed | SegmentState::Poisoned | SegmentState::Prepared => stats.segments_free += 1,
                _ => (),
            }
        }
        stats
    }
}

#[cfg(test)]
mod model;
#[cfg(test)]
mod order_model;
#[cfg(test)]
mod tests;
