//! Rebuilds a spool's queue from its segments, after a stop of any kind.
use crate::base::ids::{MessageId, Position, ShardId};
use crate::base::time::UnixMs;
use crate::queue::SegmentSlot;
use crate::queue::record::{ChunkRef, Place};

/// What a shard starts from.
#[derive(Debug)]
pub struct ShardStart {
    /// Which shard.
    pub shard: ShardId,
    /// Larger than every life that anything in the spool speaks of.
    pub next_life: u32,
    /// The segment files that are there.
    pub segments: Vec<RecoveredSegment>,
    /// The messages with open recipients.
    pub messages: Vec<RecoveredMessage>,
    /// What is not as it should be.
    pub damage: Vec<Damage>,
}

impl ShardStart {
    /// A shard without a past.
    pub fn empty(shard: ShardId) -> ShardStart {
        ShardStart { shard, next_life: 1, segments: Vec::new(), messages: Vec::new(), damage: Vec::new() }
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
    /// True if the body has bytes above 127.
    pub eight_bit: bool,
    /// Reverse-path; empty for the null one.
    pub sender: Box<[u8]>,
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
}

/// Rebuilds the queue.
#[derive(Default, Debug)]
pub struct Recovery {}
