//! One segment file as the log sees it: what state it is in, what lives in it, and which of its blocks are in memory.
//!
//! Counts are exact: every accepting or chunk record adds one, every settling takes one off, and taking off what
//! is not there is a bug and panics. Shard-local, pure.

use std::collections::VecDeque;

use crate::base::bytes::Block;

/// What may be done with a segment file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SegmentState {
    /// There is no file, or one not to be trusted before it is made anew.
    Absent,
    /// Being made.
    Preparing,
    /// Full of zeros, no life yet.
    Prepared,
    /// Its start record is on its way.
    Starting,
    /// Its start record is durable, nothing else in it.
    Spare,
    /// Being appended to.
    Open,
    /// Full, or of an earlier run: read only, until nothing in it is needed.
    Closed,
    /// A write failed in it: read only up to there, and made anew before it is used again.
    Poisoned,
}

/// A block of the segment that is being filled or kept in memory.
pub(crate) struct HotBlock {
    start: u32,
    end: u32,
    /// Records in it that are not settled.
    live: u32,
    memory_bytes: usize,
    block: Option<Block>,
    open: bool,
}

impl HotBlock {
    fn dead(&self) -> bool {
        !self.open && self.block.is_none()
    }
}

/// One segment file.
pub(crate) struct Segment {
    pub(crate) state: SegmentState,
    /// The life it is in; 0: none.
    pub(crate) life: u32,
    /// The life that recovery would find in the file; differs from `life` while a start record is on its way.
    pub(crate) disk_life: u32,
    /// Size of the file.
    pub(crate) size_bytes: u32,
    /// Where the next batch goes.
    pub(crate) next_offset: u32,
    /// From here on nothing counts; `u32::MAX`: all counts.
    pub(crate) void_from: u32,
    /// Accepting and chunk records not settled.
    pub(crate) live_records: u32,
    /// Their size.
    pub(crate) live_bytes: u64,
    /// The smallest life that a verdict, copy or cut in here speaks of.
    pub(crate) oldest_reference: u32,
    /// Batches open, waiting or on their way.
    pub(crate) pending_writes: u32,
    /// It may go only when so many verdicts are durable.
    pub(crate) verdicts_needed: u64,
    hot: VecDeque<HotBlock>,
}

impl Segment {
    pub(crate) fn absent(size_bytes: u32) -> Segment {
        Segment {
            state: SegmentState::Absent,
            life: 0,
            disk_life: 0,
            size_bytes,
            next_offset: 0,
            void_from: u32::MAX,
            live_records: 0,
            live_bytes: 0,
            oldest_reference: u32::MAX,
            pending_writes: 0,
            verdicts_needed: 0,
            hot: VecDeque::new(),
        }
    }

    /// Begins a new life; what was in it must be settled.
    pub(crate) fn begin(&mut self, life: u32, first_offset: u32) {
        assert!(self.live_records == 0 && self.live_bytes == 0, "a segment goes only at live = 0");
        assert_eq!(self.pending_writes, 0, "a segment goes only when nothing of it is on its way");
        self.life = life;
        self.next_offset = first_offset;
        self.void_from = u32::MAX;
        self.oldest_reference = u32::MAX;
        self.verdicts_needed = 0;
        assert!(self.hot.iter().all(HotBlock::dead), "a settled segment keeps no block");
        self.hot.clear();
    }

    /// Notes that a record in here speaks of a message (or a cut) of `life`.
    pub(crate) fn refer(&mut self, life: u32) {
        self.oldest_reference = self.oldest_reference.min(life);
    }

    /// Counts one more live record at the end of the open block.
    pub(crate) fn add_live(&mut self, record_bytes: u32) {
        self.live_records += 1;
        self.live_bytes += u64::from(record_bytes);
        let last = self.hot.back_mut().expect("records are appended to an open block");
        assert!(last.open, "records are appended to an open block");
        last.live += 1;
    }

    /// Counts one live record less; returns the memory this frees.
    pub(crate) fn take_live(&mut self, offset: u32, record_bytes: u32) -> usize {
        self.live_records = self.live_records.checked_sub(1).expect("a record is settled once");
        self.live_bytes = self.live_bytes.checked_sub(u64::from(record_bytes)).expect("a record is settled once");
        let Some(hot) = find(&self.hot, offset).map(|index| &mut self.hot[index]) else { return 0 };
        if hot.dead() {
            return 0;
        }
        hot.live = hot.live.checked_sub(1).expect("a record is settled once");
        let freed = if hot.live == 0 && hot.block.take().is_some() { hot.memory_bytes } else { 0 };
        self.drop_dead();
        freed
    }

    /// A new block is being filled from `start` on.
    pub(crate) fn open_block(&mut self, start: u32, memory_bytes: usize) {
        self.pending_writes += 1;
        self.hot.push_back(HotBlock { start, end: u32::MAX, live: 0, memory_bytes, block: None, open: true });
    }

    /// The block being filled is whole; it is kept if anything in it is live. Returns the memory kept.
    pub(crate) fn freeze_block(&mut self, end: u32, block: &Block) -> usize {
        let last = self.hot.back_mut().expect("a block is open");
        assert!(last.open, "a block is open");
        last.open = false;
        last.end = end;
        if last.live == 0 {
            self.drop_dead();
            return 0;
        }
        last.block = Some(block.clone());
        last.memory_bytes
    }

    /// The block being filled is given up.
    pub(crate) fn discard_block(&mut self) {
        if let Some(last) = self.hot.back_mut().filter(|last| last.open) {
            last.open = false;
        }
        self.drop_dead();
    }

    /// Forgets the block that starts at `start`; returns the memory this frees.
    pub(crate) fn evict(&mut self, start: u32) -> usize {
        let Some(index) = find(&self.hot, start) else { return 0 };
        let freed = if self.hot[index].block.take().is_some() { self.hot[index].memory_bytes } else { 0 };
        self.drop_dead();
        freed
    }

    /// True if the block that starts at `start` is in memory.
    pub(crate) fn is_hot(&self, start: u32) -> bool {
        find(&self.hot, start).is_some_and(|index| self.hot[index].block.is_some())
    }

    /// The frozen block around `offset` and where it starts, if it is in memory.
    pub(crate) fn hot(&self, offset: u32) -> Option<(&Block, u32)> {
        let hot = &self.hot[find(&self.hot, offset)?];
        Some((hot.block.as_ref()?, hot.start))
    }

    fn drop_dead(&mut self) {
        while self.hot.front().is_some_and(HotBlock::dead) {
            self.hot.pop_front();
        }
        while self.hot.back().is_some_and(HotBlock::dead) {
            self.hot.pop_back();
        }
    }
}

/// Blocks stand in order of their offsets.
fn find(hot: &VecDeque<HotBlock>, offset: u32) -> Option<usize> {
    let index = hot.partition_point(|block| block.start <= offset).checked_sub(1)?;
    (offset < hot[index].end).then_some(index)
}
