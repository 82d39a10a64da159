//! Memory that is written once and then shared: log blocks, slices of them, and what waits to be sent.
//!
//! A block is filled by the log, frozen, handed to the disk and to the next hops, and freed when the last
//! holder lets go. The shell decides what a block is made of (memory fit for direct I/O, or a plain vector in
//! tests); the core only sees these traits. Shard-local: nothing here may cross threads.

use std::any::Any;
use std::collections::VecDeque;
use std::fmt;
use std::io::IoSlice;
use std::ops::Deref;
use std::rc::Rc;

/// A block being filled; only its owner sees it.
pub trait OpenBlock {
    /// The whole capacity; fresh memory may hold anything.
    fn bytes_mut(&mut self) -> &mut [u8];
    /// Ends the filling: from here on the first `length_bytes` bytes never change.
    fn freeze(self: Box<Self>, length_bytes: usize) -> Block;
}

/// A frozen block's memory.
pub trait FrozenBlock: Any {
    /// Its bytes; the same slice at every call.
    fn bytes(&self) -> &[u8];
    /// For the shell, which knows what it made the block of.
    fn as_any(&self) -> &dyn Any;
}

/// A frozen, shared block. Cloning counts one more holder.
pub type Block = Rc<dyn FrozenBlock>;

/// Where blocks come from: the shell's pool, or plain memory in tests.
pub trait BlockSource {
    /// A block of exactly `size_bytes` (a multiple of `limits::DISK_ALIGN_BYTES`, at most `limits::BLOCK_MAX_BYTES`).
    fn allocate(&mut self, size_bytes: usize) -> Box<dyn OpenBlock>;
}

/// Blocks of plain memory, for tests, tools and the simulator.
#[derive(Default, Debug)]
pub struct HeapBlocks;

struct HeapBlock(Vec<u8>);

impl OpenBlock for HeapBlock {
    fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.0
    }
    fn freeze(mut self: Box<Self>, length_bytes: usize) -> Block {
        self.0.truncate(length_bytes);
        Rc::new(*self)
    }
}

impl FrozenBlock for HeapBlock {
    fn bytes(&self) -> &[u8] {
        &self.0
    }
    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl BlockSource for HeapBlocks {
    fn allocate(&mut self, size_bytes: usize) -> Box<dyn OpenBlock> {
        Box::new(HeapBlock(vec![0; size_bytes]))
    }
}

/// A frozen block of plain memory holding `bytes`.
pub fn heap_block(bytes: Vec<u8>) -> Block {
    Rc::new(HeapBlock(bytes))
}

/// A run of bytes inside a frozen block, which it keeps alive.
#[derive(Clone)]
pub struct Slice {
    block: Block,
    start: u32,
    end: u32,
}

impl Slice {
    /// The bytes `start..end` of `block`. Panics if they are not in it.
    pub fn new(block: Block, start: usize, end: usize) -> Slice {
        assert!(start <= end && end <= block.bytes().len(), "slice {start}..{end} outside its block");
        Slice { block, start: start as u32, end: end as u32 }
    }

    /// A copy in memory of its own, which holds nothing else.
    pub fn copy_of(bytes: &[u8]) -> Slice {
        Slice::new(heap_block(bytes.to_vec()), 0, bytes.len())
    }

    /// The part `start..end` of this slice. Panics if it is not in it.
    pub fn part(&self, start: usize, end: usize) -> Slice {
        assert!(start <= end && end <= self.len(), "part {start}..{end} outside its slice");
        Slice { block: self.block.clone(), start: self.start + start as u32, end: self.start + end as u32 }
    }
}

impl Deref for Slice {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.block.bytes()[self.start as usize..self.end as usize]
    }
}

impl fmt::Debug for Slice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Slice({} bytes)", self.len())
    }
}

enum Part {
    /// The next so many bytes of the outbox's own buffer.
    Own(usize),
    Shared(Slice),
    /// Bytes that are on disk only and are fetched when their turn is near.
    Later {
        name: u64,
        length_bytes: usize,
        asked: bool,
    },
    /// At hand, but not to be sent as it is: `release` says what is.
    Held(Slice),
}

/// What waits to be sent on one connection: short texts it holds itself, long ones as slices of log blocks.
///
/// In order, gathered into one write by the shell. Empties itself, so an idle connection holds no memory
/// beyond a small buffer it may keep for its next reply, until it is to shrink.
#[derive(Default)]
pub struct Outbox {
    parts: VecDeque<Part>,
    own: Vec<u8>,
    /// How much of `own` went out already.
    own_sent: usize,
    /// How much of the first part went out already.
    first_sent: usize,
    length_bytes: usize,
}

impl Outbox {
    /// Nothing to send.
    pub fn new() -> Self {
        Self::default()
    }

    /// True if everything went out.
    pub fn is_empty(&self) -> bool {
        self.length_bytes == 0
    }

    /// Bytes still to send.
    pub fn len(&self) -> usize {
        self.length_bytes
    }

    /// Adds a copy of `bytes` at the end.
    pub fn push(&mut self, bytes: &[u8]) {
        let start = self.own.len();
        self.own.extend_from_slice(bytes);
        self.note_own(self.own.len() - start);
    }

    /// Lets `write` append text of its own making at the end, without a copy in between.
    pub fn write<R>(&mut self, write: impl FnOnce(&mut Vec<u8>) -> R) -> R {
        let start = self.own.len();
        let result = write(&mut self.own);
        assert!(self.own.len() >= start, "an outbox only grows at its end");
        self.note_own(self.own.len() - start);
        result
    }

    fn note_own(&mut self, added: usize) {
        if added == 0 {
            return;
        }
        self.length_bytes += added;
        match self.parts.back_mut() {
            Some(Part::Own(n)) => *n += added,
            _ => self.parts.push_back(Part::Own(added)),
        }
    }

    /// Adds a slice at the end without copying it.
    pub fn push_slice(&mut self, slice: Slice) {
        if !slice.is_empty() {
            self.length_bytes += slice.len();
            self.parts.push_back(Part::Shared(slice));
        }
    }

    /// Adds bytes that are not at hand: `name` tells the owner what to fetch once they are nearly due.
    pub fn push_later(&mut self, name: u64, length_bytes: usize) {
        if length_bytes > 0 {
            self.length_bytes += length_bytes;
            self.parts.push_back(Part::Later { name, length_bytes, asked: false });
        }
    }

    /// Adds a slice that `release` is to replace, once all before it is at hand.
    pub fn push_held(&mut self, slice: Slice) {
        if !slice.is_empty() {
            self.length_bytes += slice.len();
            self.parts.push_back(Part::Held(slice));
        }
    }

    /// The next bytes to fetch among the first `ahead` parts: `(name, length in bytes)`, each given once.
    pub fn fetch_next(&mut self, ahead: usize) -> Option<(u64, usize)> {
        self.parts.iter_mut().take(ahead).find_map(|part| match part {
            Part::Later { name, length_bytes, asked: asked @ false } => {
                *asked = true;
                Some((*name, *length_bytes))
            }
            _ => None,
        })
    }

    /// Puts fetched bytes in their place; `held` if `release` is to replace them. False if no such bytes are awaited.
    /// Panics if the length is another.
    pub fn fill(&mut self, name: u64, slice: Slice, held: bool) -> bool {
        for part in &mut self.parts {
            if let Part::Later { name: awaited, length_bytes, .. } = part
                && *awaited == name
            {
                assert_eq!(*length_bytes, slice.len(), "the bytes fetched are those that were promised");
                *part = if held { Part::Held(slice) } else { Part::Shared(slice) };
                return true;
            }
        }
        false
    }

    /// Replaces held slices, in order, up to the first bytes that are still to be fetched: `see` is given each and gives
    /// the slices that stand for it.
    pub fn release(&mut self, mut see: impl FnMut(&Slice, &mut dyn FnMut(Slice))) {
        let Some(first) = self.parts.iter().position(|part| matches!(part, Part::Held(_) | Part::Later { .. })) else {
            return;
        };
        let mut rest = self.parts.split_off(first);
        while let Some(part) = rest.pop_front() {
            match part {
                Part::Later { .. } => {
                    self.parts.push_back(part);
                    break;
                }
                Part::Held(slice) => {
                    self.length_bytes -= slice.len();
                    see(&slice, &mut |slice| self.push_slice(slice));
                }
                part => self.parts.push_back(part),
            }
        }
        self.parts.append(&mut rest);
    }

    /// True if some of it is still to be fetched.
    pub fn waits(&self) -> bool {
        self.parts.iter().any(|part| matches!(part, Part::Later { .. } | Part::Held(_)))
    }

    /// Bytes that could go out now: all before the first that must be fetched.
    pub fn sendable(&self) -> bool {
        !matches!(self.parts.front(), None | Some(Part::Later { .. } | Part::Held(_)))
    }

    /// Gives the first parts to send, at most `out.len()` of them; returns how many were filled. Ends before
    /// bytes that are not at hand.
    pub fn gather<'a>(&'a self, out: &mut [IoSlice<'a>]) -> usize {
        let mut own = self.own_sent;
        let mut skip = self.first_sent;
        let mut filled = 0;
        for (part, place) in self.parts.iter().zip(out) {
            let bytes = match part {
                Part::Own(n) => {
                    // `own_sent` already stands behind what of the first part went out.
                    let bytes = &self.own[own..own + n - skip];
                    own += n - skip;
                    bytes
                }
                Part::Shared(slice) => &slice[skip..],
                Part::Later { .. } | Part::Held(_) => break,
            };
            skip = 0;
            *place = IoSlice::new(bytes);
            filled += 1;
        }
        filled
    }

    /// Notes that the first `count` bytes went out. Panics if there are not so many.
    pub fn consume(&mut self, mut count: usize) {
        assert!(count <= self.length_bytes, "more was sent than there was");
        self.length_bytes -= count;
        while let Some(first) = self.parts.front() {
            let (whole, own) = match first {
                Part::Own(n) => (*n, true),
                Part::Shared(slice) | Part::Held(slice) => (slice.len(), false),
                Part::Later { length_bytes, .. } => (*length_bytes, false),
            };
            let left = whole - self.first_sent;
            let taken = left.min(count);
            count -= taken;
            if own {
                self.own_sent += taken;
            }
            if taken < left {
                self.first_sent += taken;
                break;
            }
            self.first_sent = 0;
            self.parts.pop_front();
        }
        if self.parts.is_empty() {
            self.own.clear();
            self.own_sent = 0;
            if self.own.capacity() > crate::base::limits::OUTBOX_KEEP_BYTES {
                self.own = Vec::new();
            }
        }
    }

    /// Keeps no memory, if nothing waits.
    pub fn shrink(&mut self) {
        if self.is_empty() {
            *self = Outbox::new();
        }
    }

    /// Forgets everything that was not sent.
    pub fn clear(&mut self) {
        self.consume(self.length_bytes);
    }

    /// Everything that waits and is at hand, as one vector: for tests and the simulator.
    pub fn to_vec(&self) -> Vec<u8> {
        let mut slices = vec![IoSlice::new(&[]); self.parts.len()];
        let filled = self.gather(&mut slices);
        slices[..filled].iter().flat_map(|s| s.iter().copied()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::rng::Rng;

    /// The outbox against its naive twin, a plain vector, over random pushes and partial sends.
    #[test]
    fn outbox_equals_a_vector() {
        let mut rng = Rng::new(1);
        let block = heap_block((0..=255).collect());
        let (mut outbox, mut twin) = (Outbox::new(), Vec::new());
        for _ in 0..20_000 {
            let (a, b) = (rng.below(200) as usize, rng.below(50) as usize);
            match rng.below(4) {
                0 => {
                    outbox.push(&block.bytes()[a..a + b]);
                    twin.extend_from_slice(&block.bytes()[a..a + b]);
                }
                1 => {
                    outbox.push_slice(Slice::new(block.clone(), a, a + b));
                    twin.extend_from_slice(&block.bytes()[a..a + b]);
                }
                _ => {
                    let n = rng.below(twin.len() as u64 + 1) as usize;
                    outbox.consume(n);
                    twin.drain(..n);
                    if a < 50 {
                        outbox.shrink();
                    }
                }
            }
            assert_eq!(outbox.len(), twin.len());
            assert_eq!(outbox.to_vec(), twin);
        }
    }
}
