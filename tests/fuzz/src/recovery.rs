//! Recovery of a hostile spool: segments of any bytes, and of records that check out and say anything. It never
//! panics, a log can always start from what it gives, and whatever message it gives stands on the disk.

use ringpost::base::bytes::HeapBlocks;
use ringpost::base::ids::{Position, ShardId};
use ringpost::base::limits::DISK_ALIGN_BYTES;
use ringpost::base::time::Mono;
use ringpost::queue::record::{self, AcceptView, HEADER_BYTES, Kind, padded};
use ringpost::queue::{CommitSettings, DiskOrder, Log, LogSettings, Recovery, SegmentSlot, ShardStart};

use super::Numbers;

const SHARD: ShardId = ShardId(1);

/// Up to three segments; a little program says what stands in them.
pub fn run(data: &[u8]) {
    let mut numbers = Numbers(data);
    let mut disk = vec![Vec::new()];
    while !numbers.is_empty() && disk.iter().map(Vec::len).sum::<usize>() < 200_000 {
        let last = disk.len() - 1;
        match numbers.u8() {
            0..=15 if disk.len() < 3 => disk.push(Vec::new()),
            16..=31 => {
                let length = numbers.u8().into();
                disk[last].extend_from_slice(numbers.bytes(length));
            }
            32..=63 => {
                let length = disk[last].len().next_multiple_of(DISK_ALIGN_BYTES);
                disk[last].resize(length, 0);
            }
            kind => put_record(kind, &mut numbers, &mut disk[last]),
        }
    }
    check(&disk);
}

/// A sealed record with a payload of the input's choice, at the end of the file.
fn put_record(kind: u8, numbers: &mut Numbers<'_>, file: &mut Vec<u8>) {
    let kind = [Kind::Start, Kind::Chunk, Kind::Accept, Kind::Verdict, Kind::Cut][usize::from(kind % 5)];
    let life = life(numbers);
    let position = Position::new(life, file.len() as u32);
    let durable = Position::new(self::life(numbers), u32::from(numbers.u16()) * 8);
    let length = usize::from(numbers.u8()) * if numbers.u8() < 8 { 16 } else { 1 };
    let mut record = vec![0; HEADER_BYTES];
    record.extend_from_slice(numbers.bytes(length));
    // An id that is the record's own is one in 2^80 by chance.
    if kind == Kind::Accept && record.len() >= HEADER_BYTES + 16 && numbers.u8() < 200 {
        record[HEADER_BYTES..HEADER_BYTES + 2].copy_from_slice(&SHARD.0.to_le_bytes());
        record[HEADER_BYTES + 8..HEADER_BYTES + 16].copy_from_slice(&position.0.to_le_bytes());
    }
    record::seal(&mut record, kind, position, durable, SHARD);
    record.resize(padded(record.len()), 0);
    file.extend_from_slice(&record);
}

/// Few lives, so that records speak of each other; and the last one there is.
fn life(numbers: &mut Numbers<'_>) -> u32 {
    match numbers.u8() {
        255 => u32::MAX,
        254 => u32::MAX - 1,
        other => u32::from(other % 5),
    }
}

/// Recovers as the spool does: newest life first.
pub(super) fn recover(shard: ShardId, disk: &[Vec<u8>]) -> Option<ShardStart> {
    let mut files: Vec<_> = disk.iter().enumerate().collect();
    files
        .sort_by_key(|(slot, file)| std::cmp::Reverse((Recovery::life(shard, &mut &file[..]).expect("memory"), *slot)));
    let mut recovery = Recovery::new();
    for (slot, file) in files {
        recovery.segment(shard, SegmentSlot(slot as u32), file.len() as u32, &mut &file[..]).ok()?;
    }
    Some(recovery.finish(shard.0 + 1).swap_remove(shard.0.into()))
}

/// The record of a message or chunk, if it stands where the start says.
pub(super) fn payload<'d>(disk: &'d [Vec<u8>], start: &ShardStart, position: Position, bytes: u32) -> &'d [u8] {
    let found = start.segments.iter().find(|segment| segment.life == position.life()).expect("its segment is there");
    let at = position.offset_bytes() as usize;
    let record = &disk[found.slot.0 as usize][at..at + bytes as usize];
    record::verify(record, start.shard, position).expect("it checks out")
}

fn check(disk: &[Vec<u8>]) {
    let Some(start) = recover(SHARD, disk) else { return };
    let (mut records, mut bytes) = (0, 0);
    for message in &start.messages {
        let view = AcceptView::read(payload(disk, &start, message.place.position, message.place.record_bytes()));
        let view = view.expect("a message is whole");
        assert_eq!((view.id, view.sender()), (message.id, &*message.sender));
        assert!(!message.recipients.is_empty() && message.recipients.len() <= message.recipients_total as usize);
        for recipient in &message.recipients {
            assert_eq!(view.recipients().nth(recipient.index as usize).map(|r| r.address), Some(&*recipient.address));
        }
        for chunk in &message.chunks {
            assert_eq!(payload(disk, &start, chunk.position, chunk.record_bytes()).len(), chunk.length_bytes as usize);
            bytes += u64::from(chunk.record_bytes());
        }
        records += 1 + message.chunks.len() as u32;
        bytes += u64::from(message.place.record_bytes());
        assert!(message.id.shard != SHARD || message.id.position.life() < start.next_life);
    }
    assert_eq!(start.segments.iter().map(|segment| segment.live_records).sum::<u32>(), records);
    assert_eq!(start.segments.iter().map(|segment| segment.live_bytes).sum::<u64>(), bytes);
    assert!(start.segments.iter().all(|segment| segment.life < start.next_life));
    for damage in &start.damage {
        assert!(!damage.to_string().is_empty());
    }
    begin(start);
}

/// A log starts from it and gets to work.
fn begin(start: ShardStart) {
    let settings = LogSettings {
        shard: SHARD,
        segment_bytes: 4 << 20,
        segments_max: 8,
        hot_bytes: 0,
        commit: CommitSettings::default(),
    };
    let mut log = Log::open(settings, start, Box::new(HeapBlocks));
    let mut now = Mono(0);
    for _ in 0..8 {
        now = now.plus_ms(1000);
        let mut orders = Vec::new();
        log.poll(now, &mut orders);
        for order in orders {
            match order {
                DiskOrder::Write { write, .. } => log.written(now, write, Ok(())),
                DiskOrder::PrepareSegment { slot } => log.segment_prepared(now, slot, Ok(())),
            }
        }
    }
    assert!(log.ready());
}
