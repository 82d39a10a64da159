//! The durable queue of one shard: an append-only log in recycled segment files, and nothing else.
//!
//! [`log::Log`] appends records, says in which order blocks go to disk and what is durable; [`recover`] rebuilds
//! the queue from the segments after a stop of any kind; [`spool`] is the directory on disk, for start-up and tools.
//! A [`Proof`] is given only for what is durable, and only with one can the 250 be written (QUE-01).
//! `docs/queue.md` has the format, the states and the truth table. Shard-local; pure but for `spool`.

pub mod log;
pub mod record;
pub mod recover;
mod segment;
pub mod spool;

pub use log::{Appended, Commit, CommitSettings, DiskOrder, Log, LogSettings, LogStats, Straggler, Ticket};
pub use record::{
    ChunkRef, CopyOf, Draft, DraftRecipient, Place, RecipientList, RecipientState, VerdictDraft, VerdictOutcome,
};
pub use recover::{Damage, RecoveredMessage, RecoveredRecipient, RecoveredSegment, Recovery, ShardStart};

/// Number of a segment file in its shard's directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SegmentSlot(pub u32);

/// Name of a write on its way to disk; never used twice by one log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WriteId(pub u64);

/// Name of a read on its way; given by whoever orders the read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReadId(pub u64);

/// Why the disk did not do as told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiskError {
    /// No space or no inode left.
    Full,
    /// Anything else.
    Io {
        /// The operating system's error number; 0 if unknown.
        errno: i32,
    },
}

impl std::fmt::Display for DiskError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            DiskError::Full => f.write_str("no space or no inode left on the device"),
            DiskError::Io { errno: 0 } => f.write_str("input/output error"),
            DiskError::Io { errno } => std::io::Error::from_raw_os_error(*errno).fmt(f),
        }
    }
}

/// Why the log does not take a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogRefusal {
    /// No room: 452 4.3.1 (QUE-07).
    Full,
    /// A write failed, or no segment is ready: 451 4.3.0 (QUE-08).
    Failing,
}

impl From<DiskError> for LogRefusal {
    fn from(error: DiskError) -> LogRefusal {
        match error {
            DiskError::Full => LogRefusal::Full,
            DiskError::Io { .. } => LogRefusal::Failing,
        }
    }
}

/// Says that one message is durable. Only [`Log::prove`] makes it; writing the 250 consumes it.
#[derive(Debug)]
#[must_use = "a proof is there to be shown: it becomes a 250"]
pub struct Proof(());

#[cfg(test)]
impl Proof {
    /// A proof of nothing, for tests of those who consume proofs.
    pub fn for_tests() -> Proof {
        Proof(())
    }
}
