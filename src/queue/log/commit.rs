//! Group commit: when a batch goes to the disk, when it is durable, and what a failed write means.
//!
//! No timer: one partial batch is on its way at a time, and what is appended meanwhile is the next; only full blocks
//! fly beside each other. Verdicts alone wait a little for company. Durable moves over the contiguous prefix of
//! writes only.
//!
//! A failed write voids everything that is not durable: its tickets fail, its verdicts are held and written again, its
//! segments are poisoned (never written again as they are), and the next segment's first record says where the
//! lives ended, so that recovery does not bring back what was refused (QUE-08).

use crate::base::bytes::Block;
use crate::base::ids::Position;
use crate::base::limits::{LOG_FAILURES_KEPT, SEGMENT_RETRY_MS, SEGMENTS_KEPT, VERDICT_DELAY_MS};
use crate::base::time::Mono;
use crate::queue::record::{self, CutEntry, HEADER_BYTES, Kind, VerdictView, padded};
use crate::queue::segment::SegmentState;
use crate::queue::{DiskError, LogRefusal, SegmentSlot, WriteId};

use super::{Commit, DiskOrder, Log, Purpose};

/// A whole block that waits for its write.
pub(super) struct Sealed {
    pub(super) slot: u32,
    pub(super) life: u32,
    pub(super) start: u32,
    pub(super) block: Block,
    pub(super) verdicts: u64,
    pub(super) cuts: bool,
}

/// A block on its way.
pub(super) struct Flight {
    write: WriteId,
    batch: Sealed,
    pub(super) done: bool,
}

/// A write whose end is awaited, but makes nothing durable.
pub(super) enum Errand {
    /// A segment's start record.
    Start { slot: u32 },
    /// A batch that was given up.
    Void { slot: u32 },
}

/// A failed write: what was durable then, and how everything else is refused.
pub(super) struct Failure {
    epoch: u64,
    durable: Position,
    refusal: LogRefusal,
}

impl Log {
    /// Gives the disk what is due and keeps segments ready; to be called after every step.
    pub fn poll(&mut self, now: Mono, orders: &mut Vec<DiskOrder>) {
        if self.open.is_none()
            && now >= self.open_retry_at
            && let Some(slot) = self.spares.pop_front()
        {
            self.open_first_batch(slot);
        }
        self.append_held();
        self.keep_ready(now, orders);
        self.few_left = !self.may_take(Purpose::Mail) && self.left() <= SEGMENTS_KEPT;
        self.submit(now, orders);
    }

    fn open_first_batch(&mut self, slot: u32) {
        if self.cuts.is_empty() {
            // Nothing to say yet: the first append opens the block.
            let segment = &mut self.segments[slot as usize];
            segment.state = SegmentState::Open;
            self.open = Some(slot);
            self.note_kept();
        } else {
            self.open_segment(slot, 0);
        }
    }

    /// When `poll` wants to be called again without other reason.
    pub fn wake_at(&self) -> Mono {
        let mut at = Mono::NEVER;
        if self.ready_retry_at > Mono(0) && self.lacks_spare() {
            at = at.min(self.ready_retry_at);
        }
        if self.open.is_none() && !self.spares.is_empty() {
            at = at.min(self.open_retry_at);
        }
        let waiting_since = self.batch.as_ref().and_then(|batch| batch.waiting_since);
        if let Some(since) = waiting_since.filter(|_| self.flights.is_empty()) {
            at = at.min(since.plus_ms(VERDICT_DELAY_MS));
        }
        at
    }

    /// Makes the open batch go at the next poll, if it can: for the end of a drain.
    pub fn hurry(&mut self) {
        if let Some(batch) = &mut self.batch {
            batch.urgent = true;
        }
    }

    /// The same where copies are in it: no more of them come for now.
    pub fn hurry_copies(&mut self) {
        if let Some(batch) = &mut self.batch {
            batch.urgent |= batch.copies;
        }
    }

    fn submit(&mut self, now: Mono, orders: &mut Vec<DiskOrder>) {
        while self.flights.len() < self.settings.commit.writes_in_flight {
            if let Some(sealed) = self.sealed.pop_front() {
                self.launch(sealed, orders);
            } else if self.batch_is_due(now) {
                self.seal_batch();
            } else {
                break;
            }
        }
    }

    fn batch_is_due(&mut self, now: Mono) -> bool {
        let alone = self.flights.is_empty();
        let Some(batch) = &mut self.batch else { return false };
        if batch.filled >= self.settings.commit.batch_bytes || (batch.urgent && alone) {
            return true;
        }
        if batch.verdicts == 0 && !batch.copies {
            return false;
        }
        let since = *batch.waiting_since.get_or_insert(now);
        alone && now >= since.plus_ms(VERDICT_DELAY_MS)
    }

    fn launch(&mut self, batch: Sealed, orders: &mut Vec<DiskOrder>) {
        assert!(block_checks_out(&batch), "a block is whole when it is handed to the disk");
        let length = batch.block.bytes().len();
        self.sealed_bytes -= length;
        let end = Position::new(batch.life, batch.start + length as u32);
        assert!(self.submitted < end && end <= self.appended, "written stays within appended and only grows");
        self.submitted = end;
        self.counters.batches += 1;
        self.counters.batch_bytes += length as u64;
        let write = self.name_write();
        orders.push(DiskOrder::Write {
            write,
            slot: SegmentSlot(batch.slot),
            offset_bytes: batch.start,
            block: batch.block.clone(),
        });
        self.flights.push_back(Flight { write, batch, done: false });
    }

    pub(super) fn name_write(&mut self) -> WriteId {
        self.next_write += 1;
        WriteId(self.next_write)
    }

    /// A write ended. Panics if it was not ordered, or ended before.
    pub fn written(&mut self, now: Mono, write: WriteId, result: Result<(), DiskError>) {
        match self.errands.remove(&write) {
            Some(Errand::Start { slot }) => return self.started(now, slot, result),
            Some(Errand::Void { slot }) => return self.end_write(slot),
            None => (),
        }
        let flight = self.flights.iter_mut().find(|flight| flight.write == write);
        let flight = flight.expect("a write ends once, and was ordered");
        assert!(!flight.done, "a write ends once");
        match result {
            Ok(()) => {
                flight.done = true;
                self.advance();
            }
            Err(error) => {
                flight.done = true;
                self.fail(now, error);
            }
        }
    }

    fn end_write(&mut self, slot: u32) {
        let segment = &mut self.segments[slot as usize];
        segment.pending_writes = segment.pending_writes.checked_sub(1).expect("a write ends once");
    }

    /// Moves durable over the writes that ended, as long as none before them is missing.
    fn advance(&mut self) {
        while self.flights.front().is_some_and(|flight| flight.done) {
            let Flight { batch, .. } = self.flights.pop_front().expect("there is a first");
            self.end_write(batch.slot);
            let end = Position::new(batch.life, batch.start + batch.block.bytes().len() as u32);
            assert!(self.durable < end && end <= self.submitted, "durable stays within written and only grows");
            self.durable = end;
            self.verdicts_durable += batch.verdicts;
            assert!(self.verdicts_durable <= self.verdicts_taken);
            if batch.cuts {
                // This one told of all earlier lives.
                self.cuts.retain(|cut| cut.life >= batch.life);
            }
            self.counters.commits += 1;
            self.trouble = None;
        }
    }

    fn fail(&mut self, now: Mono, error: DiskError) {
        let refusal = LogRefusal::from(error);
        self.counters.failures += 1;
        self.trouble = Some(refusal);
        self.open_retry_at = now.plus_ms(SEGMENT_RETRY_MS);
        self.ready_retry_at = self.open_retry_at;
        self.failures.push_back(Failure { epoch: self.epoch, durable: self.durable, refusal });
        if self.failures.len() > LOG_FAILURES_KEPT {
            self.failures.pop_front();
        }
        self.epoch += 1;
        let mut again: Vec<Box<[u8]>> = Vec::new();
        for flight in std::mem::take(&mut self.flights) {
            self.void(flight.batch.slot, flight.batch.start);
            keep_verdicts(flight.batch.block.bytes(), &mut again);
            if flight.done {
                self.end_write(flight.batch.slot);
            } else {
                self.errands.insert(flight.write, Errand::Void { slot: flight.batch.slot });
            }
        }
        for batch in std::mem::take(&mut self.sealed) {
            self.void(batch.slot, batch.start);
            keep_verdicts(batch.block.bytes(), &mut again);
            self.end_write(batch.slot);
        }
        self.sealed_bytes = 0;
        if let Some(mut batch) = self.batch.take() {
            self.void(batch.slot, batch.start);
            keep_verdicts(&batch.block.bytes_mut()[..batch.filled], &mut again);
            self.segments[batch.slot as usize].discard_block();
            self.end_write(batch.slot);
        }
        if let Some(slot) = self.open.take() {
            self.void(slot, self.segments[slot as usize].next_offset);
        }
        // What was voided is older than what is held, and stays before it.
        self.held_bytes += again.iter().map(|payload| payload.len()).sum::<usize>();
        for payload in again.into_iter().rev() {
            self.held.push_front(payload);
        }
    }

    /// Nothing at or behind `from` in the segment counts.
    fn void(&mut self, slot: u32, from: u32) {
        let segment = &mut self.segments[slot as usize];
        segment.state = SegmentState::Poisoned;
        segment.void_from = segment.void_from.min(from);
        let cut = CutEntry { life: segment.life, from_bytes: segment.void_from, failed: true };
        self.cuts.retain(|other| other.life != cut.life);
        self.cuts.push(cut);
    }

    /// Appends the verdicts that waited for a segment.
    fn append_held(&mut self) {
        while let Some(payload) = self.held.front() {
            let length = payload.len();
            if self.make_room(padded(HEADER_BYTES + length), Purpose::Settling).is_err() {
                return;
            }
            let payload = self.held.pop_front().expect("there is a first");
            self.held_bytes -= length;
            let message = VerdictView::read(&payload).expect("the log wrote it").message;
            self.place_record(length).1.copy_from_slice(&payload);
            self.finish_record(Kind::Verdict, length);
            self.refer(message);
        }
    }

    pub(super) fn outcome_before_failure(&self, end: Position, epoch: u64) -> Commit {
        match self.failures.iter().find(|failure| failure.epoch == epoch) {
            Some(failure) if end <= failure.durable => Commit::Durable,
            Some(failure) => Commit::Failed(failure.refusal),
            // Too long ago to say: at worst the client sends it once more.
            None => Commit::Failed(LogRefusal::Failing),
        }
    }
}

/// Copies the payloads of all verdict records of a block.
fn keep_verdicts(mut bytes: &[u8], out: &mut Vec<Box<[u8]>>) {
    while let Some(header) = record::header(bytes) {
        let end = HEADER_BYTES + header.length_bytes as usize;
        if header.kind == Kind::Verdict {
            out.push(bytes[HEADER_BYTES..end].into());
        }
        bytes = &bytes[padded(end).min(bytes.len())..];
    }
}

/// Every record of the block checks out, one behind the other, up to the padding.
fn block_checks_out(batch: &Sealed) -> bool {
    let bytes = batch.block.bytes();
    let mut at = 0;
    while let Some((header, payload)) = record::open(&bytes[at..]) {
        if header.position != Position::new(batch.life, batch.start + at as u32) {
            return false;
        }
        at += padded(HEADER_BYTES + payload.len());
        if at >= bytes.len() {
            return at == bytes.len();
        }
    }
    // The OR of all is found many bytes at a time; the first that is not zero would be looked for one by one.
    at > 0 && bytes[at..].iter().fold(0, |or, byte| or | byte) == 0
}
