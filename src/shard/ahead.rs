//! Reading ahead: records that are wanted one behind the other come many at a time.
//!
//! A queue that outgrew its memory goes out in the order in which it came, and so record behind record; reading them one by one
//! costs more than sending them. Each read that begins where the last one ended brings twice as much as that, as long as half of what
//! came was used; a record here and a record there is read alone. What came too much is kept for a short while, within
//! [`limits::READS_AHEAD_KEPT_MAX`] times [`limits::READ_AHEAD_MAX_BYTES`], and checked when it is used.
//!
//! Pure, shard-local; a look at a few windows for each record that is not in the log's own memory.

use std::collections::VecDeque;

use crate::base::bytes::{Block, Slice};
use crate::base::ids::{Position, ShardId};
use crate::base::limits;
use crate::queue::{Place, record};

/// Places in the log at which reading goes on: as many sites may have their mail in different parts of it.
const STREAMS_MAX: usize = 8;

/// A place at which reading goes on.
struct Stream {
    /// What was read last.
    from: Position,
    length_bytes: u32,
    /// Of that, what somebody wanted.
    used_bytes: u32,
}

/// What was read lately, and where it goes on.
#[derive(Default)]
pub(super) struct Ahead {
    /// The oldest first.
    windows: VecDeque<(Position, Block)>,
    /// The one used longest ago first.
    streams: VecDeque<Stream>,
}

impl Ahead {
    /// An accepting record that came with another one.
    pub(super) fn record(&mut self, shard: ShardId, place: &Place) -> Option<Slice> {
        let found = self.windows.iter().find_map(|(from, block)| record(shard, *from, block, place))?;
        self.note_use(place.position, place.record_bytes());
        Some(found)
    }

    /// How much is to be read for a record: it alone, or more.
    pub(super) fn length_bytes(&mut self, position: Position, record_bytes: u32) -> u32 {
        let goes_on = |stream: &Stream| {
            // It may have begun in what was read. What is skipped is read all the same.
            let end = offset_from(stream.from, position).map(|offset| offset + record_bytes);
            end.is_some_and(|end| end > stream.length_bytes && end - record_bytes <= 2 * stream.length_bytes)
        };
        let last = self.streams.iter().position(goes_on).and_then(|at| self.streams.remove(at));
        let length_bytes = last.map_or(0, |last| match last.used_bytes * 2 >= last.length_bytes {
            true => 2 * last.length_bytes,
            false => last.length_bytes / 2,
        });
        let length_bytes = length_bytes.min(limits::READ_AHEAD_MAX_BYTES).max(record_bytes);
        if self.streams.len() == STREAMS_MAX {
            self.streams.pop_front();
        }
        self.streams.push_back(Stream { from: position, length_bytes, used_bytes: record_bytes });
        length_bytes
    }

    /// A record that came, or is to come, with others is wanted.
    pub(super) fn note_use(&mut self, position: Position, record_bytes: u32) {
        let holds =
            |stream: &&mut Stream| offset_from(stream.from, position).is_some_and(|at| at < stream.length_bytes);
        if let Some(stream) = self.streams.iter_mut().find(holds) {
            stream.used_bytes += record_bytes;
        }
    }

    /// Keeps what came with a record.
    pub(super) fn keep(&mut self, from: Position, block: Block) {
        if self.windows.len() == limits::READS_AHEAD_KEPT_MAX {
            self.windows.pop_front();
        }
        self.windows.push_back((from, block));
    }
}

/// How far behind `from` a position is, if it is behind it in the same life.
pub(super) fn offset_from(from: Position, position: Position) -> Option<u32> {
    let skipped = position.offset_bytes().checked_sub(from.offset_bytes());
    skipped.filter(|_| position.life() == from.life())
}

/// A record out of what was read from a position on, if it is there and checks out. A copy: a slow next hop must not keep all that
/// came with its message.
pub(super) fn record(shard: ShardId, from: Position, block: &Block, place: &Place) -> Option<Slice> {
    let start = offset_from(from, place.position)? as usize;
    let bytes = block.bytes().get(start..start + place.record_bytes() as usize)?;
    record::verify(bytes, shard, place.position).map(Slice::copy_of)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(offset_bytes: u32) -> Position {
        Position::new(7, offset_bytes)
    }

    /// What is wanted in a row comes more and more at a time; what is wanted here and there comes alone, also behind a row.
    #[test]
    fn a_row_is_read_ahead() {
        let mut ahead = Ahead::default();
        let (mut offset, mut reads) = (0, 0);
        let mut until = 0;
        for _ in 0..1000 {
            // Records do not end where windows do.
            match offset + 1160 <= until {
                true => ahead.note_use(at(offset), 1160),
                false => {
                    until = offset + ahead.length_bytes(at(offset), 1160);
                    reads += 1;
                }
            }
            offset += 1160;
        }
        assert!(reads < 16, "{reads} reads for a thousand records");
        for number in 1..100 {
            assert_eq!(ahead.length_bytes(at(offset + number * (1 << 20)), 1160), 1160);
        }
    }

    /// Where only one record in four is wanted, no more is read than a few of them.
    #[test]
    fn gaps_are_not_read_for_nothing() {
        let mut ahead = Ahead::default();
        let (mut read_bytes, mut until) = (0, 0);
        for offset in (0..1000).map(|number| number * 4096) {
            if offset < until {
                ahead.note_use(at(offset), 1024);
            } else {
                let length_bytes = ahead.length_bytes(at(offset), 1024);
                (read_bytes, until) = (read_bytes + length_bytes, offset + length_bytes);
            }
        }
        assert!(read_bytes < 4 * 1000 * 1024, "{read_bytes} bytes for a thousand records of 1 KiB");
    }

    /// Several rows at a time, as sites have them, do not disturb each other.
    #[test]
    fn rows_stand_beside_each_other() {
        let mut ahead = Ahead::default();
        let mut until = [0; STREAMS_MAX];
        let mut reads = 0;
        for number in 0..500 {
            for (row, until) in until.iter_mut().enumerate() {
                let offset = row as u32 * (8 << 20) + number * 2048;
                if offset < *until {
                    ahead.note_use(at(offset), 2048);
                } else {
                    *until = offset + ahead.length_bytes(at(offset), 2048);
                    reads += 1;
                }
            }
        }
        assert!(reads < 20 * STREAMS_MAX, "{reads} reads for {STREAMS_MAX} rows of 500");
    }
}
