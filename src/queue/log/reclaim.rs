//! Segments into use and back: kept started ahead, reused oldest first, emptied by copying.
//!
//! A segment may be written over when nothing in it lives, nothing of it is on its way, no accepting record elsewhere
//! still needs its chunks, and no older life is left on disk that something in it speaks of: a verdict must outlast the
//! accepting record it settles, a copy the record it replaces, a cut what it cuts. Otherwise recovery would bring
//! back what is long delivered. The start record of the new life is written alone and first, in a sector of its
//! own, so that a file is at every moment of one life or of the other.

use crate::base::bytes::Block;
use crate::base::ids::Position;
use crate::base::limits::{DISK_ALIGN_BYTES, SEGMENT_RETRY_MS, SEGMENTS_KEPT, SEGMENTS_SPARE};
use crate::base::time::Mono;
use crate::queue::record::{self, FIRST_BATCH_OFFSET, FORMAT_VERSION, HEADER_BYTES, Kind, Start};
use crate::queue::recover::ShardStart;
use crate::queue::segment::{Segment, SegmentState};
use crate::queue::{DiskError, LogRefusal, SegmentSlot};

use super::commit::Errand;
use super::{DiskOrder, Log, Purpose};

/// A segment to be emptied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Straggler {
    /// Its life.
    pub life: u32,
    /// What lives in it.
    pub live_bytes: u64,
    /// Verdicts or reports wait for room: nothing else is worth waiting for.
    pub urgent: bool,
}

/// When emptying the oldest segments is worth it: their dead bytes, and those of the segments that they keep from being reused, are
/// at least so many 16ths of a segment, and so many 16ths of what has to be copied.
struct Worth {
    of_segment: u64,
    of_copied: u64,
}

/// There is room: it is done in passing, at half a byte copied for each byte that is won.
const AT_LEISURE: Worth = Worth { of_segment: 4 * 16, of_copied: 2 * 16 };
/// Half of the log is in use.
const HALF_FULL: Worth = Worth { of_segment: 2 * 16, of_copied: 16 };
/// Mail finds no room, or soon none.
const FULL: Worth = Worth { of_segment: 4, of_copied: 5 };
/// Verdicts and reports find none: whatever it costs.
const STARVED: Worth = Worth { of_segment: 1, of_copied: 1 };

impl Log {
    /// Takes over the segments of the runs before.
    pub(super) fn take_over(&mut self, start: &ShardStart) {
        for recovered in &start.segments {
            let slot = recovered.slot.0 as usize;
            while self.segments.len() <= slot {
                self.segments.push(Segment::absent(self.settings.segment_bytes));
            }
            if recovered.life == 0 {
                assert_eq!(recovered.live_records, 0, "what lives has a life");
                continue;
            }
            assert!(recovered.life < self.next_life, "lives only grow");
            let segment = &mut self.segments[slot];
            segment.state = SegmentState::Closed;
            segment.life = recovered.life;
            segment.disk_life = recovered.life;
            segment.size_bytes = recovered.size_bytes;
            segment.next_offset = recovered.size_bytes;
            segment.live_records = recovered.live_records;
            segment.live_bytes = recovered.live_bytes;
            segment.oldest_reference = recovered.oldest_reference;
            assert!(self.slot_of.insert(recovered.life, slot as u32).is_none(), "a life is in one segment");
            self.on_disk.insert(recovered.life, slot as u32);
        }
    }

    pub(super) fn lacks_spare(&self) -> bool {
        self.spares.len() < SEGMENTS_SPARE + usize::from(self.open.is_none())
    }

    /// Makes or starts the next segment, if one is lacking and can be had.
    pub(super) fn keep_ready(&mut self, now: Mono, orders: &mut Vec<DiskOrder>) {
        if self.readying.is_some() || !self.lacks_spare() || now < self.ready_retry_at {
            return;
        }
        self.ready_retry_at = Mono(0);
        if let Some(slot) = self.prepared() {
            self.start(slot, orders);
        } else if let Some(slot) = self.reusable() {
            let segment = &self.segments[slot as usize];
            if segment.state == SegmentState::Closed && segment.size_bytes == self.settings.segment_bytes {
                self.start(slot, orders);
            } else {
                self.prepare(slot, orders);
            }
        } else if let Some(slot) = self.absent() {
            self.prepare(slot, orders);
        }
    }

    /// True if no segment can be had any more, but by settling what lives.
    pub(super) fn exhausted(&self) -> bool {
        self.readying.is_none() && self.prepared().is_none() && self.reusable().is_none() && !self.has_absent()
    }

    /// Segments that can be had beside the open one, counted up to one more than are kept from mail.
    pub(super) fn left(&self) -> usize {
        let most = SEGMENTS_KEPT + 1;
        let never_made = self.settings.segments_max.saturating_sub(self.segments.len());
        let known = self.spares.len() + usize::from(self.readying.is_some()) + never_made;
        if known >= most {
            return most;
        }
        let made = |state| self.segments.iter().filter(move |segment| segment.state == state);
        let reusable = self.on_disk.values().filter(|&&slot| self.may_go(slot, false)).map(|_| ());
        let others = made(SegmentState::Absent).chain(made(SegmentState::Prepared)).map(|_| ()).chain(reusable);
        known + others.take(most - known).count()
    }

    fn prepared(&self) -> Option<u32> {
        self.segments.iter().position(|segment| segment.state == SegmentState::Prepared).map(|slot| slot as u32)
    }

    /// Segments that there may be. Where nothing at all can be appended, as after starts in a row on a full log, each of which left the
    /// rest of a segment behind, nothing would ever get better: as many more as are kept for copies are made then.
    fn allowed(&self) -> usize {
        let stuck = self.open.is_none() && self.spares.is_empty();
        self.settings.segments_max + if stuck { SEGMENTS_KEPT } else { 0 }
    }

    fn has_absent(&self) -> bool {
        self.segments.len() < self.allowed()
            || self.segments.iter().any(|segment| segment.state == SegmentState::Absent)
    }

    fn absent(&mut self) -> Option<u32> {
        let slot = self.segments.iter().position(|segment| segment.state == SegmentState::Absent);
        if slot.is_none() && self.segments.len() < self.allowed() {
            self.segments.push(Segment::absent(self.settings.segment_bytes));
            return Some(self.segments.len() as u32 - 1);
        }
        slot.map(|slot| slot as u32)
    }

    /// The oldest segment that may be written over.
    fn reusable(&self) -> Option<u32> {
        let find = |last_resort| self.on_disk.values().copied().find(|&slot| self.may_go(slot, last_resort));
        // When verdicts wait for a segment and there is no other, waiting for them to be durable would be for ever. A crash
        // just then reports chunks missing of messages that are long delivered.
        let last_resort = || !self.may_take(Purpose::Settling) && !self.held.is_empty() && !self.has_absent();
        find(false).or_else(|| last_resort().then(|| find(true)).flatten())
    }

    fn may_go(&self, slot: u32, last_resort: bool) -> bool {
        let segment = &self.segments[slot as usize];
        matches!(segment.state, SegmentState::Closed | SegmentState::Poisoned)
            && segment.live_records == 0
            && segment.pending_writes == 0
            && (segment.verdicts_needed <= self.verdicts_durable || last_resort)
            && !self.blocked(segment)
    }

    /// True if an older life is still on disk that something in the segment speaks of.
    fn blocked(&self, segment: &Segment) -> bool {
        let oldest = segment.oldest_reference;
        oldest < segment.disk_life && self.on_disk.range(oldest..segment.disk_life).next().is_some()
    }

    fn prepare(&mut self, slot: u32, orders: &mut Vec<DiskOrder>) {
        let segment = &mut self.segments[slot as usize];
        self.slot_of.remove(&segment.life);
        segment.begin(0, 0);
        segment.state = SegmentState::Preparing;
        self.readying = Some(slot);
        orders.push(DiskOrder::PrepareSegment { slot: SegmentSlot(slot) });
    }

    /// A segment file was made, or could not be. Panics if it was not ordered.
    pub fn segment_prepared(&mut self, now: Mono, slot: SegmentSlot, result: Result<(), DiskError>) {
        assert_eq!(self.readying.take(), Some(slot.0), "a segment is prepared once, and was ordered");
        let segment = &mut self.segments[slot.0 as usize];
        assert_eq!(segment.state, SegmentState::Preparing);
        match result {
            Ok(()) => {
                segment.state = SegmentState::Prepared;
                segment.size_bytes = self.settings.segment_bytes;
                let gone = std::mem::take(&mut segment.disk_life);
                self.forget_life(gone);
            }
            Err(error) => {
                // If there was an older life in the file it may still be there.
                segment.state = if segment.disk_life == 0 { SegmentState::Absent } else { SegmentState::Poisoned };
                self.not_ready(now, error);
            }
        }
    }

    fn forget_life(&mut self, life: u32) {
        if life != 0 {
            self.on_disk.remove(&life);
            self.cuts.retain(|cut| cut.life != life);
        }
    }

    fn not_ready(&mut self, now: Mono, error: DiskError) {
        self.counters.failures += 1;
        self.ready_retry_at = now.plus_ms(SEGMENT_RETRY_MS);
        self.ready_trouble = Some(LogRefusal::from(error));
    }

    /// Writes the start record of the segment's next life.
    fn start(&mut self, slot: u32, orders: &mut Vec<DiskOrder>) {
        let life = self.next_life;
        self.next_life = self.next_life.checked_add(1).expect("lives last for centuries");
        let segment = &mut self.segments[slot as usize];
        self.slot_of.remove(&segment.life);
        segment.begin(life, FIRST_BATCH_OFFSET);
        segment.state = SegmentState::Starting;
        segment.pending_writes = 1;
        self.slot_of.insert(life, slot);
        self.readying = Some(slot);
        let block = self.start_block(life);
        let write = self.name_write();
        self.errands.insert(write, Errand::Start { slot });
        orders.push(DiskOrder::Write { write, slot: SegmentSlot(slot), offset_bytes: 0, block });
    }

    fn start_block(&mut self, life: u32) -> Block {
        let mut block = self.blocks.allocate(DISK_ALIGN_BYTES);
        let bytes = &mut block.bytes_mut()[..DISK_ALIGN_BYTES];
        bytes.fill(0);
        let start = Start { version: FORMAT_VERSION, segment_bytes: self.settings.segment_bytes };
        start.write(&mut bytes[HEADER_BYTES..Start::RECORD_BYTES]);
        let position = Position::new(life, 0);
        // It tells how far the log is durable. What this life replaces may have been copied there, and nothing else may
        // stand behind the copy to tell its damage from a torn tail (QUE-10).
        record::seal(&mut bytes[..Start::RECORD_BYTES], Kind::Start, position, self.durable, self.settings.shard);
        block.freeze(DISK_ALIGN_BYTES)
    }

    pub(super) fn started(&mut self, now: Mono, slot: u32, result: Result<(), DiskError>) {
        assert_eq!(self.readying.take(), Some(slot), "one segment is started at a time");
        let segment = &mut self.segments[slot as usize];
        assert_eq!(segment.state, SegmentState::Starting);
        segment.pending_writes = 0;
        match result {
            Ok(()) => {
                segment.state = SegmentState::Spare;
                self.ready_trouble = None;
                let gone = std::mem::replace(&mut segment.disk_life, segment.life);
                self.on_disk.insert(segment.life, slot);
                self.forget_life(gone);
                self.spares.push_back(slot);
            }
            Err(error) => {
                // Either life may be on disk; only a new file is known to be of neither.
                self.slot_of.remove(&segment.life);
                segment.state = if segment.disk_life == 0 { SegmentState::Absent } else { SegmentState::Poisoned };
                segment.void_from = 0;
                self.not_ready(now, error);
            }
        }
    }

    /// A segment worth emptying by copying its last live messages forward, if there is one: the oldest. It is worth
    /// it when enough is won, by emptying it and perhaps some behind it, for what has to be copied: their dead bytes, and all
    /// of those segments in which nothing lives any more and which stay only because they speak of what is older.
    pub fn straggler(&self) -> Option<Straggler> {
        let closed = |slot: u32| {
            let segment = &self.segments[slot as usize];
            matches!(segment.state, SegmentState::Closed | SegmentState::Poisoned).then_some(segment)
        };
        let in_use = |segment: &&Segment| segment.live_records > 0 || self.blocked(segment);
        let used = || self.on_disk.values().filter_map(|&slot| closed(slot)).filter(in_use);
        let (mut count, mut oldest) = (0, None);
        for segment in used() {
            count += 1;
            oldest = oldest.or((segment.live_records > 0).then_some(segment));
        }
        let oldest = oldest?;
        let worth = self.worth(count);
        let (mut won, mut copied) = (0, 0);
        for segment in used().skip_while(|segment| segment.life != oldest.life) {
            copied += segment.live_bytes;
            won += u64::from(segment.size_bytes) - segment.live_bytes;
            if won * 16 >= u64::from(self.settings.segment_bytes) * worth.of_segment
                && won * 16 >= copied * worth.of_copied
            {
                let Segment { life, live_bytes, .. } = *oldest;
                return Some(Straggler { life, live_bytes, urgent: self.starved });
            }
        }
        None
    }

    fn worth(&self, used: usize) -> Worth {
        let most = self.settings.segments_max;
        let tight = !self.may_take(Purpose::Mail) && (self.few_left || self.ready_trouble.is_some());
        match used {
            _ if self.starved => STARVED,
            _ if tight || used * 4 >= most * 3 => FULL,
            _ if used * 2 >= most => HALF_FULL,
            _ => AT_LEISURE,
        }
    }
}
