//! The truth table over all combinations, and recovery of segments cut, flipped and robbed of sectors at every place.

use super::*;
use crate::base::bytes::HeapBlocks;
use crate::base::time::Mono;
use crate::queue::record::{CopyOf, Draft, DraftRecipient};
use crate::queue::{Appended, CommitSettings, DiskOrder, Log, LogSettings, Ticket};

const SHARD: ShardId = ShardId(1);
const SEGMENT: u32 = 128 << 10;

/// A log on a disk of plain memory that does at once what it is told.
struct Bench {
    log: Log,
    disk: Vec<Vec<u8>>,
    now: Mono,
    tail: Vec<u8>,
}

impl Bench {
    fn new() -> Bench {
        let settings = LogSettings {
            shard: SHARD,
            segment_bytes: SEGMENT,
            segments_max: 6,
            hot_bytes: 0,
            commit: CommitSettings::default(),
        };
        let log = Log::open(settings, ShardStart::empty(SHARD), Box::new(HeapBlocks));
        let mut bench = Bench { log, disk: vec![Vec::new(); 6], now: Mono(0), tail: vec![b'x'; 5000] };
        bench.settle();
        bench
    }

    /// Makes everything appended durable, each call in a batch of its own.
    fn settle(&mut self) {
        for _ in 0..8 {
            self.log.hurry();
            self.now = self.now.plus_ms(1000);
            let mut orders = Vec::new();
            self.log.poll(self.now, &mut orders);
            for order in orders {
                match order {
                    DiskOrder::PrepareSegment { slot } => {
                        self.disk[slot.0 as usize] = vec![0; SEGMENT as usize];
                        self.log.segment_prepared(self.now, slot, Ok(()));
                    }
                    DiskOrder::Write { write, slot, offset_bytes, block } => {
                        let at = offset_bytes as usize;
                        self.disk[slot.0 as usize][at..at + block.bytes().len()].copy_from_slice(block.bytes());
                        self.log.written(self.now, write, Ok(()));
                    }
                }
            }
        }
    }

    fn accept(&mut self, copy_of: Option<CopyOf>, chunks: &[ChunkRef]) -> Appended {
        let recipient = |address| DraftRecipient::open(address);
        let recipients = vec![recipient(&b"a@x.example"[..]), recipient(&b"b@x.example"[..])];
        let draft = Draft {
            copy_of,
            arrived: UnixMs(1),
            text: Text::default(),
            body_bytes: 3,
            sender: b"s@x.example",
            recipients: &recipients,
            parameters: &[],
            chunks,
            tail: &[&self.tail],
        };
        self.log.append_accept(&draft, &mut |_, _| ()).unwrap()
    }

    fn verdict(&mut self, id: MessageId, recipients: std::ops::Range<u32>) -> Option<Ticket> {
        let verdict = |recipient| VerdictDraft { recipient, ..VerdictDraft::delivered(b"ok") };
        let verdicts: Vec<_> = recipients.map(verdict).collect();
        (!verdicts.is_empty()).then(|| self.log.append_verdicts(id, &verdicts))
    }

    fn chunk(&mut self) -> ChunkRef {
        self.log.append_chunk(&[&[b'c'; 5000]]).unwrap()
    }

    fn spoil(&mut self, position: Position) {
        let (slot, offset) = self.log.locate(position).unwrap();
        self.disk[slot.0 as usize][offset as usize + 40] ^= 0x10;
    }
}

fn recover(disk: &[Vec<u8>]) -> ShardStart {
    let mut files: Vec<_> = disk.iter().enumerate().filter(|(_, file)| !file.is_empty()).collect();
    files.sort_by_key(|(_, file)| std::cmp::Reverse(Recovery::life(SHARD, &mut &file[..]).unwrap()));
    let mut recovery = Recovery::new();
    for (slot, file) in files {
        recovery.segment(SHARD, SegmentSlot(slot as u32), file.len() as u32, &mut &file[..]).unwrap();
    }
    recovery.finish(0).pop().unwrap()
}

/// QUE-01, QUE-03, QUE-10: the truth table of docs/queue.md, all combinations.
#[test]
fn truth_table() {
    for row in 0..(2 * 2 * 3 * 2 * 2) {
        let (accept_whole, chunk_whole) = (row & 1 != 0, row & 2 != 0);
        let (terminal, copied, claimed) = (row / 4 % 3, row / 12 % 2 != 0, row / 24 != 0);
        let mut bench = Bench::new();
        let chunk = bench.chunk();
        bench.settle();
        let first = bench.accept(None, &[chunk]);
        bench.settle();
        let copy = copied.then(|| {
            let whole = bench.chunk();
            bench.accept(Some(CopyOf { id: first.id, copies: 0 }), &[whole])
        });
        bench.verdict(first.id, 0..terminal);
        bench.settle();
        if claimed {
            // A record made when everything before it was durable.
            bench.chunk();
            bench.settle();
        }
        // With verdicts or a copy behind it, the accepting record is claimed in any case.
        let accept_claimed = claimed || copied || terminal > 0;
        if !accept_whole {
            bench.spoil(first.place.position);
        }
        if !chunk_whole {
            bench.spoil(chunk.position);
        }
        let start = recover(&bench.disk);
        let lost = |d: &Damage, at: Position| matches!(d, Damage::Lost { from, to, .. } if (*from..*to).contains(&at));
        // The chunk's batch was durable when the accepting record was made; if that is whole, or anything later is.
        let chunk_reported = !chunk_whole && (accept_whole || accept_claimed);
        assert_eq!(start.damage.iter().any(|d| lost(d, chunk.position)), chunk_reported, "row {row}");
        let accept_reported = !accept_whole && accept_claimed;
        assert_eq!(start.damage.iter().any(|d| lost(d, first.place.position)), accept_reported, "row {row}");
        let set_aside = start.damage.iter().any(|d| matches!(d, Damage::Incomplete { .. }));
        let open = terminal < 2;
        assert_eq!(set_aside, open && accept_whole && !chunk_whole && !copied && accept_claimed, "row {row}");
        let found = open && (copied || (accept_whole && chunk_whole));
        assert_eq!(start.messages.len(), usize::from(found), "row {row}");
        if let Some(message) = start.messages.first() {
            assert_eq!(message.id, first.id);
            assert_eq!(message.place, copy.map_or(first.place, |copy| copy.place), "row {row}");
            let open: Vec<_> = message.recipients.iter().map(|r| r.index).collect();
            assert_eq!(open, (terminal..2).collect::<Vec<_>>(), "row {row}");
            assert_eq!(start.segments.iter().map(|s| s.live_records).sum::<u32>(), 2);
        }
    }
}

/// Three messages, each in its batch, the last one followed by a verdict in its own batch.
fn three(tail_bytes: usize) -> (Bench, Vec<Appended>) {
    let mut bench = Bench::new();
    bench.tail = vec![b'x'; tail_bytes];
    let mut messages = Vec::new();
    for _ in 0..3 {
        messages.push(bench.accept(None, &[]));
        bench.settle();
    }
    bench.verdict(messages[2].id, 0..1);
    bench.settle();
    (bench, messages)
}

fn slot_and_end(bench: &Bench, messages: &[Appended]) -> (usize, usize, usize) {
    let (slot, from) = bench.log.locate(messages[2].place.position).unwrap();
    (slot.0 as usize, from as usize, bench.log.durable().offset_bytes() as usize)
}

/// The end of the log cut off at every byte: what is before is whole, and nothing is half.
#[test]
fn cut_at_every_byte() {
    let (bench, messages) = three(900);
    let (slot, from, end) = slot_and_end(&bench, &messages);
    let record_end = from + messages[2].place.record_bytes() as usize;
    let verdict_at = end - DISK_ALIGN_BYTES;
    for cut in (from..end).filter(|cut| cut % 7 == 0 || end - cut < 4096 || record_end.abs_diff(*cut) < 64) {
        for zeros in [false, true] {
            let mut disk = bench.disk.clone();
            if zeros {
                disk[slot][cut..].fill(0);
            } else {
                disk[slot].truncate(cut);
            }
            let start = recover(&disk);
            // The last byte of padding is nothing.
            let whole = if cut >= record_end { 3 } else { 2 };
            assert_eq!(start.messages.len(), whole, "cut at {cut}");
            assert_eq!(start.damage, vec![], "a torn end is no damage: cut at {cut}");
            let open = start.messages.last().unwrap().recipients.len();
            let verdict_end = verdict_at + 32 + 16 + 20 + 2;
            assert_eq!(open, if whole == 3 && cut >= verdict_end { 1 } else { 2 }, "cut at {cut}");
        }
    }
}

/// Every byte of the last records flipped: that record is out, the others are in, and what was durable is reported.
#[test]
fn flip_every_byte() {
    let (bench, messages) = three(300);
    let (slot, from, end) = slot_and_end(&bench, &messages);
    let record_end = from + messages[2].place.record_bytes() as usize;
    for at in from..end {
        let mut disk = bench.disk.clone();
        disk[slot][at] ^= 1 << (at % 8);
        let start = recover(&disk);
        let hit = at < record_end;
        assert_eq!(start.messages.len(), if hit { 2 } else { 3 }, "flipped {at}");
        // The verdict behind says that the message was durable; nothing says so of the verdict. A flip in padding
        // harms nothing, but it was durable too.
        // What fills the record up to a multiple of 8 is not looked at.
        let filler = (record_end..padded(record_end)).contains(&at);
        let reported = at < end - DISK_ALIGN_BYTES && !filler;
        assert_eq!(!start.damage.is_empty(), reported, "flipped {at}");
    }
}

/// A crash while a segment is begun anew may leave its first sector neither old nor new. That is no damage where nothing in
/// the segment is needed any more, and only there is a segment begun anew.
#[test]
fn a_start_that_was_cut_off_is_no_damage() {
    let (mut bench, messages) = three(300);
    let (slot, _) = bench.log.locate(messages[0].place.position).unwrap();
    let torn = |bench: &Bench| {
        let mut disk = bench.disk.clone();
        disk[slot.0 as usize][..DISK_ALIGN_BYTES / 2].fill(0xa5);
        recover(&disk)
    };
    let start = torn(&bench);
    assert_eq!((start.messages.len(), start.damage.len()), (3, 1), "what is needed is not begun anew");
    for (message, recipients) in messages.iter().zip([0..2, 0..2, 1..2]) {
        bench.verdict(message.id, recipients);
    }
    bench.settle();
    let start = torn(&bench);
    assert_eq!((start.messages.len(), &start.damage[..]), (0, &[][..]));
}

/// Records that share a batch, and sectors: a flipped bit costs the record it is in and no other, unless it is in the length
/// of the record (QUE-10).
#[test]
fn a_flipped_bit_costs_one_record() {
    let mut bench = Bench::new();
    bench.tail = vec![b'x'; 300];
    let messages: Vec<_> = (0..12).map(|_| bench.accept(None, &[])).collect();
    bench.settle();
    bench.verdict(messages[11].id, 0..1);
    bench.settle();
    let (slot, from) = bench.log.locate(messages[4].place.position).unwrap();
    for at in 0..messages[4].place.record_bytes() {
        let mut disk = bench.disk.clone();
        disk[slot.0 as usize][(from + at) as usize] ^= 1 << (at % 8);
        let start = recover(&disk);
        let lost = if (4..8).contains(&at) { 1..=8 } else { 1..=1 };
        assert!(lost.contains(&(12 - start.messages.len())), "flipped {at}: {} left", start.messages.len());
        assert_eq!(start.damage.len(), 1, "flipped {at}: {:?}", start.damage);
    }
}

/// Each sector lost in turn: everything else is recovered, and it is reported wherever it was surely durable (QUE-10).
#[test]
fn lose_every_sector() {
    let (bench, messages) = three(9000);
    let (slot, _, end) = slot_and_end(&bench, &messages);
    for sector in 0..end / DISK_ALIGN_BYTES {
        for fill in [0, 0xA5] {
            let mut disk = bench.disk.clone();
            let range = sector * DISK_ALIGN_BYTES..(sector + 1) * DISK_ALIGN_BYTES;
            disk[slot][range.clone()].fill(fill);
            let start = recover(&disk);
            let hit = messages.iter().filter(|m| {
                let at = m.place.position.offset_bytes() as usize;
                at < range.end && range.start < at + m.place.record_bytes() as usize
            });
            assert_eq!(start.messages.len(), 3 - hit.count(), "sector {sector}");
            assert_eq!(start.damage.is_empty(), range.end == end, "sector {sector}: {:?}", start.damage);
        }
    }
}

/// Records of the segment's last life never count in this one.
#[test]
fn lives_are_told_apart() {
    let (bench, messages) = three(9000);
    let (slot, ..) = slot_and_end(&bench, &messages);
    let mut disk = bench.disk.clone();
    let mut start = vec![0; DISK_ALIGN_BYTES];
    Start { version: FORMAT_VERSION, segment_bytes: SEGMENT }.write(&mut start[HEADER_BYTES..Start::RECORD_BYTES]);
    let position = Position::new(9, 0);
    record::seal(&mut start[..Start::RECORD_BYTES], Kind::Start, position, position, SHARD);
    disk[slot][..DISK_ALIGN_BYTES].copy_from_slice(&start);
    let recovered = recover(&disk);
    assert_eq!((recovered.messages.len(), recovered.damage.len(), recovered.next_life), (0, 0, 10));
}

/// A spool of an earlier format is read whole, one of a later format not at all.
#[test]
fn earlier_formats_are_read() {
    let (bench, messages) = three(900);
    for version in FORMAT_VERSION_OLDEST..=FORMAT_VERSION + 1 {
        let mut disk = bench.disk.clone();
        for file in &mut disk {
            let Some(header) = record::open(file).map(|(header, _)| header) else { continue };
            Start { version, segment_bytes: SEGMENT }.write(&mut file[HEADER_BYTES..Start::RECORD_BYTES]);
            let start = &mut file[..Start::RECORD_BYTES];
            record::seal(start, Kind::Start, header.position, header.durable, header.shard);
        }
        if version <= FORMAT_VERSION {
            let recovered = recover(&disk);
            assert_eq!((recovered.messages.len(), recovered.damage.len()), (messages.len(), 0), "version {version}");
        } else {
            let file = disk.iter().find(|file| record::open(file).is_some()).unwrap();
            let read = Recovery::new().segment(SHARD, SegmentSlot(0), file.len() as u32, &mut &file[..]);
            assert!(read.unwrap_err().to_string().contains("segment format version"));
        }
    }
}

/// A life that no log can have had is not believed: neither a record's own, nor one that it speaks of.
#[test]
fn impossible_lives_are_not_believed() {
    for life in [0, u32::MAX] {
        let (bench, messages) = three(900);
        let (slot, _, end) = slot_and_end(&bench, &messages);
        let mut disk = bench.disk.clone();
        let cut = [CutEntry { life, from_bytes: 0, failed: true }];
        let mut record = vec![0; HEADER_BYTES + CutEntry::payload_bytes(1)];
        CutEntry::write(&cut, &mut record[HEADER_BYTES..]);
        let position = Position::new(bench.log.durable().life(), end as u32);
        record::seal(&mut record, Kind::Cut, position, position, SHARD);
        disk[slot][end..end + record.len()].copy_from_slice(&record);
        let verdict = VerdictDraft::delivered(b"");
        let id = MessageId { shard: SHARD, position: Position::new(life, 4096) };
        let mut record = vec![0; HEADER_BYTES + VerdictDraft::payload_bytes(&[verdict])];
        VerdictDraft::write(id, &[verdict], &mut record[HEADER_BYTES..]);
        record::seal(&mut record, Kind::Verdict, Position::new(life, 0), Position::new(life, 0), SHARD);
        disk[3] = record.clone();
        let at = end + DISK_ALIGN_BYTES;
        let position = Position::new(bench.log.durable().life(), at as u32);
        record::seal(&mut record, Kind::Verdict, position, position, SHARD);
        disk[slot][at..at + record.len()].copy_from_slice(&record);
        let start = recover(&disk);
        assert_eq!(start.messages.len(), 3);
        assert!(start.next_life < 10, "{}", start.next_life);
        assert!(start.segments.iter().all(|segment| segment.slot.0 < 3 || segment.life == 0));
    }
}

/// A stray copy of a file is left out and named.
#[test]
fn duplicate_life_is_left_out() {
    let (mut bench, messages) = three(9000);
    let (slot, ..) = slot_and_end(&bench, &messages);
    bench.disk[3] = bench.disk[slot].clone();
    let start = recover(&bench.disk);
    assert_eq!(start.messages.len(), 3);
    assert!(matches!(start.damage[..], [Damage::DuplicateLife { .. }]));
}
