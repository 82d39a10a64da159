//! Stub of one core's post office: enough to drive sockets, disk and timers.
mod effect;
mod input;
pub mod parcel;

use crate::base::bytes::{BlockSource, OpenBlock, Outbox};
use crate::base::ids::ConnId;
use crate::base::limits;
use crate::base::time::Now;
use crate::queue::{SegmentSlot, WriteId};
pub use effect::{Effect, Level};
pub use input::{CloseReason, Input};
use rustc_hash::FxHashMap;

struct Conn {
    out: Outbox,
    line: Vec<u8>,
    data: bool,
    tail: [u8; 5],
    body: Vec<u8>,
    waiting: bool,
    held: Vec<u8>,
    quit: bool,
}

/// Stub.
pub struct Shard {
    conns: FxHashMap<ConnId, Conn>,
    generation: u32,
    blocks: Box<dyn BlockSource>,
    open: Option<(Box<dyn OpenBlock>, usize)>,
    open_waiters: Vec<ConnId>,
    flying: Vec<ConnId>,
    in_flight: bool,
    ready: bool,
    asked: bool,
    offset: u32,
    pending: std::collections::VecDeque<ConnId>,
}

impl Shard {
    /// New.
    pub fn new(blocks: Box<dyn BlockSource>) -> Shard {
        Shard {
            conns: FxHashMap::default(),
            generation: 0,
            blocks,
            open: None,
            open_waiters: vec![],
            flying: vec![],
            in_flight: false,
            ready: false,
            asked: false,
            offset: 0,
            pending: Default::default(),
        }
    }
    /// Outbox.
    pub fn outbox(&self, conn: ConnId) -> Option<&Outbox> {
        self.conns.get(&conn).map(|c| &c.out)
    }
    /// Ready.
    pub fn ready(&self) -> bool {
        self.ready
    }
    /// Step.
    pub fn step(&mut self, _now: Now, input: Input<'_>, effects: &mut Vec<Effect>) {
        if !self.asked {
            self.asked = true;
            effects.push(Effect::PrepareSegment { slot: SegmentSlot(0) });
        }
        match input {
            Input::Accepted { .. } => {
                self.generation += 1;
                let id = ConnId { slot: self.generation % 1000, generation: self.generation };
                let mut out = Outbox::new();
                out.push(b"220 stub ESMTP\r\n");
                self.conns.insert(
                    id,
                    Conn {
                        out,
                        line: vec![],
                        data: false,
                        tail: [0; 5],
                        body: vec![],
                        waiting: false,
                        held: vec![],
                        quit: false,
                    },
                );
                effects.push(Effect::Open { conn: id });
                effects.push(Effect::Flush { conn: id });
            }
            Input::Received { conn, bytes } => {
                let c = self.conns.get_mut(&conn).unwrap();
                if c.waiting {
                    c.held.extend_from_slice(bytes);
                } else {
                    self.feed(conn, bytes, effects);
                }
            }
            Input::Sent { conn, count } => {
                let c = self.conns.get_mut(&conn).unwrap();
                c.out.consume(count);
                if c.quit && c.out.is_empty() {
                    self.conns.remove(&conn);
                }
            }
            Input::Closed { conn, .. } => {
                self.conns.remove(&conn);
            }
            Input::SegmentPrepared { result, .. } => {
                result.unwrap();
                self.ready = true;
            }
            Input::Written { result, .. } => {
                result.unwrap();
                self.in_flight = false;
                for conn in std::mem::take(&mut self.flying) {
                    if let Some(c) = self.conns.get_mut(&conn) {
                        c.out.push(b"250 2.0.0 Ok: queued\r\n");
                        c.waiting = false;
                        let held = std::mem::take(&mut c.held);
                        if !held.is_empty() {
                            self.feed(conn, &held, effects);
                        }
                        effects.push(Effect::Flush { conn });
                    }
                }
            }
            Input::Drain => {
                effects.push(Effect::Drained);
            }
            _ => {}
        }
        while let Some(conn) = self.pending.front().copied() {
            let Some(c) = self.conns.get_mut(&conn) else {
                self.pending.pop_front();
                continue;
            };
            let blocks = &mut self.blocks;
            let (block, used) = self.open.get_or_insert_with(|| (blocks.allocate(limits::BLOCK_MAX_BYTES), 0));
            if *used + c.body.len() > limits::BLOCK_MAX_BYTES {
                break;
            }
            block.bytes_mut()[*used..*used + c.body.len()].copy_from_slice(&c.body);
            *used += c.body.len();
            c.body.clear();
            self.pending.pop_front();
            self.open_waiters.push(conn);
        }
        if !self.in_flight && self.ready && self.open.as_ref().is_some_and(|o| o.1 > 0) {
            let (mut block, used) = self.open.take().unwrap();
            let padded = used.next_multiple_of(limits::DISK_ALIGN_BYTES);
            block.bytes_mut()[used..padded].fill(0);
            self.flying = std::mem::take(&mut self.open_waiters);
            self.in_flight = true;
            if self.offset as usize + padded > limits::SEGMENT_MIN_BYTES as usize {
                self.offset = 0;
            }
            effects.push(Effect::Write {
                write: WriteId(1),
                slot: SegmentSlot(0),
                offset_bytes: self.offset,
                block: block.freeze(padded),
            });
            self.offset += padded as u32;
        }
    }

    fn feed(&mut self, conn: ConnId, bytes: &[u8], effects: &mut Vec<Effect>) {
        let c = self.conns.get_mut(&conn).unwrap();
        let mut rest = bytes;
        while !rest.is_empty() {
            if c.data {
                let mut tail = Vec::from(c.tail);
                tail.extend_from_slice(rest);
                if let Some(at) = memchr::memmem::find(&tail, b"\r\n.\r\n") {
                    c.body.extend_from_slice(&rest[..at]);
                    rest = &rest[at..];
                    c.data = false;
                    c.waiting = true;
                    c.held = rest.to_vec();
                    self.pending.push_back(conn);
                    return;
                }
                c.body.extend_from_slice(rest);
                c.tail.copy_from_slice(&tail[tail.len() - 5..]);
                return;
            }
            let Some(end) = memchr::memchr(b'\n', rest) else {
                c.line.extend_from_slice(rest);
                return;
            };
            c.line.extend_from_slice(&rest[..=end]);
            rest = &rest[end + 1..];
            let line = std::mem::take(&mut c.line);
            match line.get(..4).unwrap_or(b"") {
                b"DATA" => {
                    c.out.push(b"354 go\r\n");
                    c.data = true;
                    c.tail = *b"\0\0\0\r\n";
                }
                b"QUIT" => {
                    c.out.push(b"221 bye\r\n");
                    c.quit = true;
                    effects.push(Effect::Flush { conn });
                    effects.push(Effect::Close { conn });
                    return;
                }
                b"NOOP" => c.out.push(b"250 2.0.0 Ok\r\n"),
                b"HELP" => {
                    for _ in 0..4096 {
                        c.out.push(&[b'x'; 1022]);
                        c.out.push(b"\r\n");
                    }
                }
                _ => c.out.push(b"250 2.1.0 Ok\r\n"),
            }
            effects.push(Effect::Flush { conn });
        }
    }
}
