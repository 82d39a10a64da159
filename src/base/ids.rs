//! Names of things that live on a shard.
//!
//! A message is named by where its accepting record stands: shard, life of the segment, offset in it.
//! The name therefore needs no counter, is unique for the life of the spool, and tells an operator where to look.

use std::fmt;
use std::str::FromStr;

/// One core's post office; also the number of its directory in the spool. Range `0..limits::SHARDS_MAX`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ShardId(pub u16);

/// A place in one shard's log: the life of the segment in the high 32 bits, the byte offset in it in the low 32.
///
/// Lives only grow, so positions of one log are ordered by time of writing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Position(pub u64);

impl Position {
    /// Joins a segment's life and a byte offset inside it.
    pub const fn new(life: u32, offset_bytes: u32) -> Self {
        Position((life as u64) << 32 | offset_bytes as u64)
    }

    /// The life of the segment this position lies in.
    pub const fn life(self) -> u32 {
        (self.0 >> 32) as u32
    }

    /// The offset inside the segment, in bytes.
    pub const fn offset_bytes(self) -> u32 {
        self.0 as u32
    }
}

/// The name of a message: the shard that accepted it and the position of its accepting record.
///
/// Written `shard-life-offset` in hexadecimal, for instance `0-3-1f000`; that is the name in the 250 reply,
/// in the `Received` field and in every listing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MessageId {
    /// Where it was accepted.
    pub shard: ShardId,
    /// Where its first accepting record stood; a copy made by reclaim keeps the name.
    pub position: Position,
}

impl fmt::Display for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}-{:x}-{:x}", self.shard.0, self.position.life(), self.position.offset_bytes())
    }
}

impl FromStr for MessageId {
    type Err = BadMessageId;

    fn from_str(text: &str) -> Result<Self, BadMessageId> {
        let mut fields = text.split('-');
        let mut field = |digits_max: usize| {
            let digits = fields.next().ok_or(BadMessageId)?;
            // The number parser would take a sign.
            if digits.len() > digits_max || !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
                return Err(BadMessageId);
            }
            u32::from_str_radix(digits, 16).map_err(|_| BadMessageId)
        };
        let shard = u16::try_from(field(4)?).map_err(|_| BadMessageId)?;
        let position = Position::new(field(8)?, field(8)?);
        if fields.next().is_some() {
            return Err(BadMessageId);
        }
        Ok(MessageId { shard: ShardId(shard), position })
    }
}

/// The text is no message id; one looks like `0-3-1f000`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadMessageId;

impl fmt::Display for BadMessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not a message id; one looks like 0-3-1f000 (shard, segment life, offset, hexadecimal)")
    }
}

impl std::error::Error for BadMessageId {}

/// A connection of one shard, inbound or outbound. A slot is reused, its generation never: a late completion
/// for a connection that is gone finds no one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnId {
    /// Index in the shard's table.
    pub slot: u32,
    /// Counts the lives of the slot.
    pub generation: u32,
}

/// A message handed to a shard by another way than SMTP, until it is answered for. Given by the shell, never twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InjectionId(pub u64);

/// An operator's order to a shard, until it is answered. Given by the shell, never twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OperationId(pub u64);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn message_id_round_trip() {
        let id = MessageId { shard: ShardId(3), position: Position::new(7, 0x1f000) };
        assert_eq!(id.to_string(), "3-7-1f000");
        assert_eq!("3-7-1f000".parse(), Ok(id));
        for bad in ["", "3", "3-7", "3-7-1f000-2", "x-1-1", "12345-1-1", "0--1", "0-1-123456789", "+0-1-1", "0-+1-1"] {
            assert_eq!(bad.parse::<MessageId>(), Err(BadMessageId), "{bad}");
        }
    }
}
