//! Recovery of a damaged spool: valid segments with any bytes changed, cut, lost, doubled or swapped. It never panics, and
//! every message it gives is one that was written, to the last byte (QUE-01, QUE-10).

use std::collections::BTreeMap;

use ringpost::base::bytes::HeapBlocks;
use ringpost::base::ids::{MessageId, ShardId};
use ringpost::base::limits::{DISK_ALIGN_BYTES, SEGMENTS_KEPT};
use ringpost::base::time::{Mono, UnixMs};
use ringpost::mail::text::Text;
use ringpost::queue::record::AcceptView;
use ringpost::queue::{
    CommitSettings, CopyOf, DiskOrder, Draft, DraftRecipient, Log, LogSettings, ShardStart, VerdictDraft,
    VerdictOutcome,
};

use super::{Numbers, recovery};

const SHARD: ShardId = ShardId(0);
const SEGMENT: u32 = 64 << 10;
/// Some of them ahead, as the log keeps them.
const SEGMENTS: usize = 6;

/// A spool as it should be.
struct Spool {
    disk: Vec<Vec<u8>>,
    bodies: BTreeMap<MessageId, Vec<u8>>,
}

thread_local! {
    static SPOOL: Spool = write_spool();
}

/// A list of injuries: what, where, how much.
pub fn run(data: &[u8]) {
    SPOOL.with(|spool| {
        let mut disk = spool.disk.clone();
        let mut numbers = Numbers(data);
        while !numbers.is_empty() {
            injure(&mut disk, &mut numbers);
        }
        let Some(start) = recovery::recover(SHARD, &disk) else { return };
        for message in &start.messages {
            let payload = recovery::payload(&disk, &start, message.place.position, message.place.record_bytes());
            let view = AcceptView::read(payload).expect("a message is whole");
            let mut body = Vec::new();
            for chunk in &message.chunks {
                body.extend_from_slice(recovery::payload(&disk, &start, chunk.position, chunk.record_bytes()));
            }
            body.extend_from_slice(&payload[view.tail.clone()]);
            assert_eq!(spool.bodies.get(&message.id), Some(&body), "{} is not what was written", message.id);
            assert!((1..=2).contains(&message.recipients.len()));
        }
        if data.is_empty() {
            assert_eq!((start.messages.len(), start.damage.len()), (spool.bodies.len() - 1, 0));
        }
    });
}

fn injure(disk: &mut [Vec<u8>], numbers: &mut Numbers<'_>) {
    let (what, slot) = (numbers.u8(), usize::from(numbers.u8()) % disk.len());
    let (other, at) = (usize::from(numbers.u8()) % disk.len(), usize::from(numbers.u16()));
    let length = disk[slot].len();
    if length == 0 {
        return;
    }
    let sector = at / 8 % length.div_ceil(DISK_ALIGN_BYTES) * DISK_ALIGN_BYTES;
    let range = sector..(sector + DISK_ALIGN_BYTES).min(length);
    match what % 8 {
        0 | 1 => disk[slot][at % length] ^= numbers.u8().max(1),
        2 => disk[slot].truncate(at % length),
        3 => disk[slot][range].fill(numbers.u8()),
        4 => {
            let from = disk[other].get(range.clone()).map(<[u8]>::to_vec);
            if let Some(from) = from {
                disk[slot][range].copy_from_slice(&from);
            }
        }
        5 => disk.swap(slot, other),
        6 => disk[slot] = disk[other].clone(),
        _ => {
            let bytes = numbers.bytes(usize::from(what));
            let start = (at & !7) % length;
            let end = (start + bytes.len()).min(length);
            disk[slot][start..end].copy_from_slice(&bytes[..end - start]);
        }
    }
}

/// A log on a disk of memory, with messages long and short, in chunks, copied, settled and half settled.
struct Writer {
    log: Log,
    now: Mono,
    spool: Spool,
}

fn write_spool() -> Spool {
    let settings = LogSettings {
        shard: SHARD,
        segment_bytes: SEGMENT,
        segments_max: SEGMENTS,
        hot_bytes: 0,
        commit: CommitSettings::default(),
    };
    let log = Log::open(settings, ShardStart::empty(SHARD), Box::new(HeapBlocks));
    let spool = Spool { disk: vec![Vec::new(); SEGMENTS + SEGMENTS_KEPT], bodies: BTreeMap::new() };
    let mut writer = Writer { log, now: Mono(0), spool };
    writer.settle();
    let mut ids = Vec::new();
    for number in 0..7u8 {
        ids.push(writer.accept(number, if number % 3 == 0 { 2 } else { 0 }, None));
        if number % 2 == 0 {
            writer.settle();
        }
    }
    writer.verdicts(ids[1], 2, VerdictOutcome::Delivered);
    writer.verdicts(ids[2], 1, VerdictOutcome::Failed);
    writer.verdicts(ids[4], 2, VerdictOutcome::Deferred);
    writer.settle();
    writer.accept(3, 1, Some(CopyOf { id: ids[3], copies: 0 }));
    writer.accept(0, 0, Some(CopyOf { id: ids[0], copies: 0 }));
    writer.settle();
    writer.accept(20, 3, None);
    writer.settle();
    writer.spool
}

impl Writer {
    /// Makes everything appended durable.
    fn settle(&mut self) {
        for _ in 0..8 {
            self.log.hurry();
            self.now = self.now.plus_ms(1000);
            let mut orders = Vec::new();
            self.log.poll(self.now, &mut orders);
            for order in orders {
                match order {
                    DiskOrder::PrepareSegment { slot } => {
                        self.spool.disk[slot.0 as usize] = vec![0; SEGMENT as usize];
                        self.log.segment_prepared(self.now, slot, Ok(()));
                    }
                    DiskOrder::Write { write, slot, offset_bytes, block } => {
                        let at = offset_bytes as usize;
                        self.spool.disk[slot.0 as usize][at..at + block.bytes().len()].copy_from_slice(block.bytes());
                        self.log.written(self.now, write, Ok(()));
                    }
                }
            }
        }
    }

    /// A message whose body follows from its number; a copy has the same one, divided otherwise.
    fn accept(&mut self, number: u8, chunks: usize, copy_of: Option<CopyOf>) -> MessageId {
        let body: Vec<u8> = (0..6000u32).map(|i| number.wrapping_add((i / 7) as u8)).collect();
        let mut parts: Vec<&[u8]> = body.chunks(6000 / (chunks + 1)).collect();
        let tail = parts.split_off(chunks);
        let chunks: Vec<_> = parts.into_iter().map(|part| self.log.append_chunk(&[part]).expect("room")).collect();
        let recipient = |address| DraftRecipient::open(address);
        let recipients = vec![recipient(&b"a@x.example"[..]), recipient(&b"b@x.example"[..])];
        let draft = Draft {
            copy_of,
            arrived: UnixMs(1),
            text: Text { eight_bit: true, ..Text::default() },
            body_bytes: 6000,
            sender: b"s@x.example",
            recipients: &recipients,
            parameters: &[],
            chunks: &chunks,
            tail: &tail,
        };
        let id = self.log.append_accept(&draft, &mut |_, _| ()).expect("room").id;
        self.spool.bodies.insert(id, body);
        id
    }

    fn verdicts(&mut self, id: MessageId, count: u32, outcome: VerdictOutcome) {
        let verdict = |recipient| VerdictDraft {
            recipient,
            outcome,
            attempts: 1,
            due: UnixMs(9),
            delay_reported: false,
            code: 250,
            text: b"ok",
        };
        let verdicts: Vec<_> = (0..count).map(verdict).collect();
        self.log.append_verdicts(id, &verdicts);
    }
}
