//! Filling blocks: room for a record, its place, its end; and the blocks kept in memory for delivery.

use crate::base::bytes::{OpenBlock, Slice};
use crate::base::ids::{MessageId, Position};
use crate::base::limits::{
    BLOCK_MAX_BYTES, BLOCK_MIN_BYTES, DISK_ALIGN_BYTES, LOG_BACKLOG_MAX_BYTES, SEGMENT_RESERVE_BYTES, SEGMENTS_KEPT,
    SEGMENTS_MAX,
};
use crate::base::time::Mono;
use crate::queue::LogRefusal;
use crate::queue::record::{self, CutEntry, FIRST_BATCH_OFFSET, HEADER_BYTES, Kind, padded};
use crate::queue::segment::{Segment, SegmentState};

use super::commit::Sealed;
use super::{Log, Purpose};

/// Longest record; beside it a block has room for the cut record of all segments.
const RECORD_MAX_BYTES: usize = BLOCK_MAX_BYTES - (64 << 10);
const _: () =
    assert!(HEADER_BYTES + CutEntry::payload_bytes(SEGMENTS_MAX + SEGMENTS_KEPT) + DISK_ALIGN_BYTES <= 64 << 10);

/// The block being filled.
pub(super) struct Batch {
    pub(super) block: Box<dyn OpenBlock>,
    pub(super) capacity: usize,
    pub(super) filled: usize,
    pub(super) slot: u32,
    pub(super) start: u32,
    /// Someone waits for it.
    pub(super) urgent: bool,
    /// Copies are in it, for which nobody waits.
    pub(super) copies: bool,
    /// Since when verdicts or copies wait in it.
    pub(super) waiting_since: Option<Mono>,
    pub(super) verdicts: u64,
    /// It says where earlier lives ended.
    pub(super) cuts: bool,
}

impl Log {
    /// Makes the open block have room for `size` bytes, taking the next block or segment if need be.
    pub(super) fn make_room(&mut self, size: usize, purpose: Purpose) -> Result<(), LogRefusal> {
        let made = self.find_room(size, purpose);
        if purpose == Purpose::Settling {
            self.starved = made.is_err();
        }
        made
    }

    fn find_room(&mut self, size: usize, purpose: Purpose) -> Result<(), LogRefusal> {
        if size > RECORD_MAX_BYTES.min(self.settings.segment_bytes as usize / 2) {
            return Err(LogRefusal::Full);
        }
        let Some(slot) = self.open else { return Err(self.refusal()) };
        if purpose == Purpose::Mail && self.sealed_bytes > LOG_BACKLOG_MAX_BYTES {
            return Err(LogRefusal::Failing);
        }
        let segment = &self.segments[slot as usize];
        let limit = segment.size_bytes as usize - self.kept_bytes(purpose);
        if let Some(batch) = &self.batch
            && batch.filled + size <= batch.capacity
            && batch.start as usize + batch.filled + size <= limit
        {
            return Ok(());
        }
        let next = match &self.batch {
            Some(batch) => batch.start as usize + batch.filled.next_multiple_of(DISK_ALIGN_BYTES),
            None => segment.next_offset as usize,
        };
        if next + size.next_multiple_of(DISK_ALIGN_BYTES) <= limit {
            self.seal_batch();
            self.open_batch(size);
        } else {
            let Some(spare) = self.may_take(purpose).then(|| self.spares.pop_front()).flatten() else {
                return Err(self.refusal());
            };
            self.seal_batch();
            self.close_segment(slot);
            self.open_segment(spare, size);
        }
        Ok(())
    }

    /// Why a message of any size would be refused now, so that a client can be told at MAIL (QUE-07).
    pub fn no_room(&self) -> Option<LogRefusal> {
        let Some(slot) = self.open else { return Some(self.refusal()) };
        let segment = &self.segments[slot as usize];
        let left = segment.size_bytes as usize - segment.next_offset as usize;
        let full = !self.may_take(Purpose::Mail) && left <= self.kept_bytes(Purpose::Mail) + BLOCK_MIN_BYTES;
        full.then(|| self.refusal())
    }

    /// True if records of these sizes find room now, if nothing but them is appended, as copies.
    pub fn has_room_for_copies(&self, record_bytes: impl Iterator<Item = u32>) -> bool {
        let Some(slot) = self.open else { return false };
        let segment = &self.segments[slot as usize];
        let filled = self.batch.as_ref().map_or(0, |batch| batch.filled);
        let left = (segment.size_bytes - segment.next_offset) as usize;
        let left = left.saturating_sub(filled.next_multiple_of(DISK_ALIGN_BYTES));
        // Each part may begin a block of its own, and leave as much at the end of a segment as it would have taken.
        let (mut all, mut longest) = (0, 0);
        for bytes in record_bytes {
            let size = padded(bytes as usize).next_multiple_of(DISK_ALIGN_BYTES);
            (all, longest) = (all + size, longest.max(size));
        }
        let spare = (self.settings.segment_bytes as usize).saturating_sub(longest + FIRST_BATCH_OFFSET as usize);
        all <= left || all + longest <= left + self.spares.len() * spare
    }

    /// True if the next segment may be taken.
    pub(super) fn may_take(&self, purpose: Purpose) -> bool {
        self.spares.len()
            > match purpose {
                Purpose::Mail => SEGMENTS_KEPT,
                Purpose::Settling => 1,
                Purpose::Copying => 0,
            }
    }

    /// What stays free at the end of the open segment, if it is the last that may be had.
    fn kept_bytes(&self, purpose: Purpose) -> usize {
        if self.may_take(purpose) {
            return 0;
        }
        let segment_bytes = self.settings.segment_bytes;
        let (mail, settling) = match self.open_is_kept {
            // What is copied into the last one must find room beside what came before it.
            true if self.spares.is_empty() => (segment_bytes, segment_bytes / 4 * 3),
            true => (segment_bytes, segment_bytes / 2),
            false => {
                let reserve = SEGMENT_RESERVE_BYTES.min(segment_bytes / 4);
                (reserve, reserve / 2)
            }
        };
        match purpose {
            Purpose::Mail => mail as usize,
            Purpose::Settling => settling as usize,
            Purpose::Copying => 0,
        }
    }

    /// A segment was just opened: it is kept from mail if there are too few behind it.
    pub(super) fn note_kept(&mut self) {
        let left = if self.ready_trouble.is_none() { self.left() } else { self.spares.len() };
        self.open_is_kept = left < SEGMENTS_KEPT;
    }

    fn refusal(&self) -> LogRefusal {
        let other = if self.few_left { LogRefusal::Full } else { LogRefusal::Failing };
        self.trouble.or(self.ready_trouble).unwrap_or(other)
    }

    /// The open segment is full; the next one's cut record will say where it ended.
    fn close_segment(&mut self, slot: u32) {
        let segment = &mut self.segments[slot as usize];
        segment.state = SegmentState::Closed;
        self.cuts.push(CutEntry { life: segment.life, from_bytes: segment.next_offset, failed: false });
        self.open = None;
    }

    /// Takes a spare segment as the open one; its first batch says where earlier lives ended.
    pub(super) fn open_segment(&mut self, slot: u32, size: usize) {
        assert!(self.open.is_none() && self.batch.is_none(), "one segment is open at a time");
        let segment = &mut self.segments[slot as usize];
        assert_eq!(segment.state, SegmentState::Spare);
        segment.state = SegmentState::Open;
        assert!(self.appended < Position::new(segment.life, segment.next_offset), "lives only grow");
        self.open = Some(slot);
        self.note_kept();
        let length = CutEntry::payload_bytes(self.cuts.len());
        let cut_bytes = if self.cuts.is_empty() { 0 } else { padded(HEADER_BYTES + length) };
        self.open_batch(size + cut_bytes);
        if self.cuts.is_empty() {
            return;
        }
        let cuts = std::mem::take(&mut self.cuts);
        let (_, payload) = self.place_record(length);
        CutEntry::write(&cuts, payload);
        self.finish_record(Kind::Cut, length);
        for cut in cuts.iter().filter(|cut| cut.failed) {
            self.segments[slot as usize].refer(cut.life);
        }
        self.cuts = cuts;
        self.batch.as_mut().expect("just opened").cuts = true;
    }

    fn open_batch(&mut self, size: usize) {
        assert!(self.batch.is_none());
        let slot = self.open.expect("a segment is open");
        let segment = &mut self.segments[slot as usize];
        let start = segment.next_offset;
        let wanted =
            (2 * self.last_batch_bytes).next_power_of_two().clamp(BLOCK_MIN_BYTES, self.settings.commit.batch_bytes);
        let room = (segment.size_bytes - start) as usize;
        let capacity = wanted.min(room).max(size.next_multiple_of(DISK_ALIGN_BYTES));
        assert!(capacity <= room, "the block fits its segment");
        segment.open_block(start, capacity);
        let block = self.blocks.allocate(capacity);
        self.batch = Some(Batch {
            block,
            capacity,
            filled: 0,
            slot,
            start,
            urgent: false,
            copies: false,
            waiting_since: None,
            verdicts: 0,
            cuts: false,
        });
    }

    /// Where the next record will stand; there is room.
    pub(super) fn next_position(&self) -> Position {
        let batch = self.batch.as_ref().expect("room was made");
        Position::new(self.segments[batch.slot as usize].life, batch.start + batch.filled as u32)
    }

    /// The place of the next record and the memory for its payload; there is room.
    pub(super) fn place_record(&mut self, length: usize) -> (Position, &mut [u8]) {
        let position = self.next_position();
        let batch = self.batch.as_mut().expect("room was made");
        assert!(batch.filled + padded(HEADER_BYTES + length) <= batch.capacity, "room was made");
        let start = batch.filled + HEADER_BYTES;
        (position, &mut batch.block.bytes_mut()[start..start + length])
    }

    /// Seals the record whose payload was just written; returns where it ends.
    pub(super) fn finish_record(&mut self, kind: Kind, length: usize) -> Position {
        let position = self.next_position();
        let batch = self.batch.as_mut().expect("room was made");
        let size = HEADER_BYTES + length;
        let bytes = &mut batch.block.bytes_mut()[batch.filled..batch.filled + padded(size)];
        bytes[size..].fill(0);
        record::seal(&mut bytes[..size], kind, position, self.durable, self.settings.shard);
        batch.filled += padded(size);
        let segment = &mut self.segments[batch.slot as usize];
        match kind {
            Kind::Verdict => batch.verdicts += 1,
            // Until the cut is durable, what was refused may come back.
            Kind::Cut => batch.urgent = true,
            Kind::Accept | Kind::Chunk | Kind::Start => (),
        }
        if matches!(kind, Kind::Accept | Kind::Chunk) {
            segment.add_live(size as u32);
        }
        self.counters.appended_bytes += padded(size) as u64;
        let end = Position::new(position.life(), batch.start + batch.filled as u32);
        assert!(self.appended < end, "appended only grows");
        self.appended = end;
        end
    }

    /// Notes in the open segment that it speaks of a message. Where a message of another shard stood before is not
    /// known here, so it counts as the oldest of all.
    pub(super) fn refer(&mut self, id: MessageId) {
        let slot = self.batch.as_ref().expect("something was just appended").slot;
        let life = if id.shard == self.settings.shard { id.position.life() } else { 0 };
        self.segments[slot as usize].refer(life);
    }

    /// Ends the open block, padded with zeros; it waits for its write.
    pub(super) fn seal_batch(&mut self) {
        let Some(mut batch) = self.batch.take() else { return };
        assert!(batch.filled > 0, "a block is opened for a record");
        let length = batch.filled.next_multiple_of(DISK_ALIGN_BYTES);
        batch.block.bytes_mut()[batch.filled..length].fill(0);
        self.last_batch_bytes = length;
        let block = batch.block.freeze(length);
        assert_eq!(block.bytes().len(), length, "a frozen block is as long as it was filled");
        let segment = &mut self.segments[batch.slot as usize];
        let end = batch.start + length as u32;
        let life = segment.life;
        let kept = segment.freeze_block(end, &block);
        segment.next_offset = end;
        self.appended = Position::new(life, end);
        if kept > 0 {
            self.hot_bytes += kept;
            self.hot_count += 1;
            self.hot_order.push_back(Position::new(life, batch.start));
            self.evict();
        }
        self.sealed_bytes += length;
        self.sealed.push_back(Sealed {
            slot: batch.slot,
            life,
            start: batch.start,
            block,
            verdicts: batch.verdicts,
            cuts: batch.cuts,
        });
    }

    /// Forgets the oldest blocks beyond the bound, and names of blocks that are gone anyway.
    fn evict(&mut self) {
        while self.hot_bytes > self.settings.hot_bytes {
            let Some(oldest) = self.hot_order.pop_front() else { break };
            if let Some(&slot) = self.slot_of.get(&oldest.life()) {
                let freed = self.segments[slot as usize].evict(oldest.offset_bytes());
                self.note_freed(freed);
            }
        }
        if self.hot_order.len() > 2 * self.hot_count + 64 {
            let (segments, slot_of) = (&self.segments, &self.slot_of);
            let is_hot = |p: &Position| {
                slot_of.get(&p.life()).is_some_and(|&slot| segments[slot as usize].is_hot(p.offset_bytes()))
            };
            self.hot_order.retain(is_hot);
        }
    }

    fn note_freed(&mut self, freed: usize) {
        if freed > 0 {
            self.hot_bytes = self.hot_bytes.checked_sub(freed).expect("a block is freed once");
            self.hot_count = self.hot_count.checked_sub(1).expect("a block is freed once");
        }
    }

    pub(super) fn segment_of(&self, position: Position) -> &Segment {
        let slot = *self.slot_of.get(&position.life()).expect("a record that is not settled keeps its segment");
        &self.segments[slot as usize]
    }

    /// A record is settled; its place may be written over once so many verdicts are durable.
    pub(super) fn take_live(&mut self, position: Position, record_bytes: u32, verdicts_needed: u64) {
        let slot = *self.slot_of.get(&position.life()).expect("a record that is not settled keeps its segment");
        let segment = &mut self.segments[slot as usize];
        segment.verdicts_needed = verdicts_needed.max(segment.verdicts_needed);
        let freed = segment.take_live(position.offset_bytes(), record_bytes);
        self.note_freed(freed);
    }

    pub(super) fn hot(&self, position: Position, length_bytes: u32) -> Option<Slice> {
        let (block, start) = self.segment_of(position).hot(position.offset_bytes())?;
        let from = (position.offset_bytes() - start) as usize + HEADER_BYTES;
        Some(Slice::new(block.clone(), from, from + length_bytes as usize))
    }
}
