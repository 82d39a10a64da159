//! The rules of commit, refusal and memory, one by one.

use super::*;
use crate::base::bytes::HeapBlocks;
use crate::base::limits::{SEGMENT_RETRY_MS, VERDICT_DELAY_MS};
use crate::base::time::UnixMs;
use crate::mail::text::Text;
use crate::queue::record::{self, CopyOf, DraftRecipient, VerdictOutcome};
use crate::queue::recover::RecoveredSegment;
use crate::queue::{DiskError, DiskOrder};

const SHARD: ShardId = ShardId(0);
const SEGMENT: u32 = 4 << 20;

struct Bench {
    log: Log,
    now: Mono,
    orders: Vec<DiskOrder>,
}

impl Bench {
    fn new(segments_max: usize) -> Bench {
        Bench::with(segments_max, CommitSettings::default())
    }

    fn with(segments_max: usize, commit: CommitSettings) -> Bench {
        let settings = LogSettings { shard: SHARD, segment_bytes: SEGMENT, segments_max, hot_bytes: 8 << 20, commit };
        let log = Log::open(settings, ShardStart::empty(SHARD), Box::new(HeapBlocks));
        let mut bench = Bench { log, now: Mono(1), orders: Vec::new() };
        bench.poll();
        for _ in 0..8 {
            bench.complete(Ok(()));
        }
        assert!(bench.log.ready());
        bench
    }

    fn poll(&mut self) {
        self.log.poll(self.now, &mut self.orders);
    }

    /// Ends everything that is on its way.
    fn complete(&mut self, result: Result<(), DiskError>) {
        for order in std::mem::take(&mut self.orders) {
            match order {
                DiskOrder::Write { write, .. } => self.log.written(self.now, write, result),
                DiskOrder::PrepareSegment { slot } => self.log.segment_prepared(self.now, slot, result),
            }
        }
        self.poll();
    }

    fn accept(&mut self, body_bytes: usize) -> Result<Appended, LogRefusal> {
        self.append(body_bytes, false)
    }

    fn append(&mut self, body_bytes: usize, report: bool) -> Result<Appended, LogRefusal> {
        self.append_draft(body_bytes, report, None)
    }

    fn copy(&mut self, old: &Appended) -> Result<Appended, LogRefusal> {
        let body_bytes = old.place.length_bytes as usize - 60;
        self.append_draft(body_bytes, false, Some(CopyOf { id: old.id, copies: old.place.copies }))
    }

    fn append_draft(
        &mut self,
        body_bytes: usize,
        report: bool,
        copy_of: Option<CopyOf>,
    ) -> Result<Appended, LogRefusal> {
        let body = vec![b'x'; body_bytes];
        let recipients = vec![DraftRecipient::open(b"a@x.example")];
        let draft = Draft {
            copy_of,
            arrived: UnixMs(1),
            text: Text::default(),
            body_bytes: 1,
            sender: b"",
            recipients: &recipients,
            parameters: &[],
            chunks: &[],
            tail: &[&body],
        };
        if report {
            return self.log.append_report(&draft);
        }
        self.log.append_accept(&draft, &mut |_, out| out.extend_from_slice(b"Received: x\r\n"))
    }

    fn verdict(&mut self, id: MessageId) -> Ticket {
        self.log.append_verdicts(id, &[VerdictDraft::delivered(b"ok")])
    }
}

/// One partial batch flies at a time; what is appended meanwhile is the next one.
#[test]
fn commits_gather() {
    let mut bench = Bench::new(4);
    let first = bench.accept(100).unwrap();
    bench.poll();
    assert_eq!(bench.orders.len(), 1);
    let later: Vec<_> = (0..10).map(|_| bench.accept(100).unwrap()).collect();
    bench.poll();
    assert_eq!(bench.orders.len(), 1, "a second partial batch waits");
    bench.complete(Ok(()));
    assert_eq!(bench.log.outcome(&first.ticket), Commit::Durable);
    assert_eq!(bench.orders.len(), 1, "all that came meanwhile in one batch");
    assert!(later.iter().all(|a| bench.log.outcome(&a.ticket) == Commit::Pending));
    bench.complete(Ok(()));
    assert!(later.iter().all(|a| bench.log.outcome(&a.ticket) == Commit::Durable));
    assert_eq!(bench.log.stats().commits, 2);
}

/// Where segments are used up faster than new ones are made, clients are paused, not refused; when nothing more can be
/// made they are told so.
#[test]
fn a_late_segment_pauses_and_a_full_queue_refuses() {
    let mut bench = Bench::new(6);
    while !bench.log.crowded() {
        bench.accept(60_000).expect("there is room until reading pauses");
        bench.poll();
        // Only the writes end: a segment that is ordered is not made yet.
        let all = std::mem::take(&mut bench.orders);
        let (making, writes) = all.into_iter().partition(|order| matches!(order, DiskOrder::PrepareSegment { .. }));
        bench.orders = writes;
        bench.complete(Ok(()));
        bench.orders.extend::<Vec<_>>(making);
    }
    assert!(bench.log.no_room().is_none(), "what was read already still finds room");
    while bench.log.no_room().is_none() {
        // It is made, and then started.
        bench.complete(Ok(()));
        bench.complete(Ok(()));
        assert!(!bench.log.crowded(), "the segment is there, or none can be");
        // As long a record as a client is still let begin with, whatever its prefix may take.
        bench.accept(20_000).expect("there is room until clients are told that there is none");
        bench.poll();
    }
    assert_eq!(bench.log.no_room(), Some(LogRefusal::Full), "all segments are in use");
}

/// Full blocks fly beside each other, up to the bound; durable waits for the first of them (QUE-01).
#[test]
fn durable_is_the_contiguous_prefix() {
    durable_is_contiguous(CommitSettings::default());
    durable_is_contiguous(CommitSettings { batch_bytes: 128 << 10, writes_in_flight: 2 });
    durable_is_contiguous(CommitSettings { batch_bytes: BLOCK_MIN_BYTES, writes_in_flight: 8 });
    durable_is_contiguous(CommitSettings { batch_bytes: BLOCK_MAX_BYTES, writes_in_flight: 1 });
}

fn durable_is_contiguous(commit: CommitSettings) {
    let mut bench = Bench::with(4, commit);
    let mut appended = Vec::new();
    for _ in 0..40 {
        appended.push(bench.accept(60_000).unwrap());
        bench.poll();
    }
    assert_eq!(bench.orders.len(), commit.writes_in_flight);
    let mut writes: Vec<_> = bench.orders.drain(..).collect();
    writes.reverse();
    for (left, order) in (0..writes.len()).rev().zip(writes) {
        let DiskOrder::Write { write, block, .. } = order else { panic!("only writes are on their way") };
        assert!(block.bytes().len() <= commit.batch_bytes.max(64 << 10));
        assert_eq!(bench.log.outcome(&appended[0].ticket), Commit::Pending);
        bench.log.written(bench.now, write, Ok(()));
        assert_eq!(bench.log.outcome(&appended[0].ticket) == Commit::Durable, left == 0);
    }
}

#[test]
fn verdicts_wait_for_company_but_not_long() {
    let mut bench = Bench::new(4);
    let message = bench.accept(10).unwrap();
    bench.poll();
    bench.complete(Ok(()));
    let ticket = bench.verdict(message.id);
    bench.poll();
    assert_eq!((bench.orders.len(), bench.log.wake_at()), (0, bench.now.plus_ms(VERDICT_DELAY_MS)));
    bench.now = bench.log.wake_at();
    bench.poll();
    assert_eq!(bench.orders.len(), 1);
    bench.complete(Ok(()));
    assert_eq!(bench.log.outcome(&ticket), Commit::Durable);
    assert_eq!(bench.log.wake_at(), Mono::NEVER);
}

/// A failed write refuses its messages, keeps its verdicts, and the log goes on by itself (QUE-07, QUE-08).
#[test]
fn failed_write_poisons_and_recovers() {
    for (error, refusal) in [(DiskError::Io { errno: 5 }, LogRefusal::Failing), (DiskError::Full, LogRefusal::Full)] {
        let mut bench = Bench::new(4);
        let before = bench.accept(10).unwrap();
        bench.poll();
        bench.complete(Ok(()));
        let ticket = bench.verdict(before.id);
        let lost = bench.accept(10).unwrap();
        bench.poll();
        let waiting = bench.accept(10).unwrap();
        bench.complete(Err(error));
        assert_eq!(bench.log.outcome(&before.ticket), Commit::Durable);
        assert_eq!(bench.log.outcome(&lost.ticket), Commit::Failed(refusal));
        assert_eq!(bench.log.outcome(&waiting.ticket), Commit::Failed(refusal));
        assert_eq!(bench.log.outcome(&ticket), Commit::Pending);
        assert_eq!(bench.accept(10).unwrap_err(), refusal);
        for gone in [lost, waiting] {
            bench.log.settle(gone.place, &[]);
        }
        bench.poll();
        assert!(bench.orders.is_empty(), "no new segment before its time");
        bench.now = bench.now.plus_ms(SEGMENT_RETRY_MS);
        bench.poll();
        let after = bench.accept(10).unwrap();
        assert!(after.place.position.life() > before.place.position.life());
        for _ in 0..4 {
            bench.complete(Ok(()));
        }
        assert_eq!(bench.log.outcome(&ticket), Commit::Durable);
        let _ = bench.log.prove(after.ticket);
        assert_eq!(bench.log.stats().live_records, 2);
    }
}

#[test]
#[should_panic(expected = "only for what is durable")]
fn no_proof_before_its_time() {
    let mut bench = Bench::new(4);
    let message = bench.accept(10).unwrap();
    bench.poll();
    let _ = bench.log.prove(message.ticket);
}

#[test]
#[should_panic(expected = "settled once")]
fn settled_twice_is_a_bug() {
    let mut bench = Bench::new(4);
    let message = bench.accept(10).unwrap();
    bench.log.settle(message.place, &[]);
    bench.log.settle(message.place, &[]);
}

/// All segments full: 452 to new mail, verdicts go on, and settling makes room without a restart (QUE-07).
#[test]
fn full_log_refuses_and_goes_on() {
    let mut bench = Bench::new(4);
    let mut messages = Vec::new();
    let refusal = loop {
        match bench.accept(60_000) {
            Ok(appended) => messages.push(appended),
            Err(refusal) if bench.orders.is_empty() => break refusal,
            Err(_) => (),
        }
        bench.complete(Ok(()));
    };
    assert_eq!(refusal, LogRefusal::Full);
    messages.push(bench.append(60_000, true).expect("reports may use the reserve, for they settle messages"));
    for message in &messages {
        bench.verdict(message.id);
        bench.log.settle(message.place, &[]);
    }
    bench.now = bench.now.plus_ms(VERDICT_DELAY_MS);
    for _ in 0..8 {
        bench.complete(Ok(()));
    }
    assert!(bench.accept(60_000).is_ok());
    let stats = bench.log.stats();
    assert_eq!((stats.live_records, stats.hot_bytes), (1, 0));
}

/// Mail that waits for long, however dense it stands, keeps no younger segments from being reused for ever: what stands in
/// the way is copied when enough is won by it, and less is copied than is taken.
#[test]
fn mail_that_waits_keeps_few_segments() {
    for waiting_count in [20, 68, 210] {
        let mut bench = Bench::new(16);
        let mut waiting = VecDeque::new();
        while waiting.len() < waiting_count {
            waiting.extend(bench.accept(60_000));
            bench.complete(Ok(()));
        }
        let (mut passed, mut copied) = (0, 0);
        let mut under_way = VecDeque::new();
        while passed < 3_000 {
            under_way.push_back(bench.accept(60_000).expect("there is room"));
            bench.complete(Ok(()));
            if under_way.len() > 5 {
                let first = under_way.pop_front().unwrap();
                bench.verdict(first.id);
                bench.log.settle(first.place, &[]);
                passed += 1;
            }
            if let Some(Straggler { life, .. }) = bench.log.straggler() {
                let at = waiting.iter().position(|message: &Appended| message.place.position.life() == life);
                let old = waiting.remove(at.unwrap_or(0)).unwrap();
                let new = bench.copy(&old).expect("a copy finds room");
                bench.complete(Ok(()));
                bench.log.settle(old.place, &[]);
                waiting.push_back(new);
                copied += 1;
            }
            bench.complete(Ok(()));
        }
        assert!(copied < passed, "{copied} copies of {waiting_count} messages while {passed} passed");
    }
}

/// In a full log copies find room for all that lives in the oldest segment, though hardly anything in it is dead.
#[test]
fn a_full_log_copies_its_oldest_segment() {
    let mut bench = Bench::new(8);
    let mut messages = VecDeque::new();
    while bench.log.no_room().is_none() {
        messages.extend(bench.accept(20_000));
        bench.complete(Ok(()));
        bench.complete(Ok(()));
    }
    let oldest = messages[0].place.position.life();
    // What settles goes on until it finds no room either, and wins too little by itself.
    for _ in 0..20 {
        let message = messages.remove(3).unwrap();
        bench.verdict(message.id);
        bench.log.settle(message.place, &[]);
    }
    let mut reports = 0;
    while bench.append(1000, true).is_ok() {
        bench.complete(Ok(()));
        reports += 1;
    }
    assert!(reports > 500 && bench.log.no_room() == Some(LogRefusal::Full));
    let straggler = bench.log.straggler().unwrap();
    assert_eq!(
        (straggler.life, straggler.urgent),
        (oldest, true),
        "for verdicts and reports room is made at any price"
    );
    while messages[0].place.position.life() == oldest {
        let old = messages.pop_front().unwrap();
        let new = bench.copy(&old).expect("a copy finds room, also beside what settles mail and comes meanwhile");
        let _ = bench.append(1000, true);
        bench.complete(Ok(()));
        bench.log.settle(old.place, &[]);
        messages.push_back(new);
    }
    for _ in 0..8 {
        bench.complete(Ok(()));
    }
    assert!(bench.append(1000, true).is_ok(), "the oldest segment is used again");
}

/// A copy that is said to find room finds it, to the last of a full log; and little is left when none does any more.
#[test]
fn a_copy_finds_the_room_that_is_promised() {
    for (chunks, chunk_bytes, record_bytes) in
        [(0, 0, 900), (0, 0, 70_000), (3, 128 << 10, 5_000), (9, 16_000, 120_000)]
    {
        let mut bench = Bench::new(6);
        while bench.log.no_room().is_none() {
            let _ = bench.accept(20_000);
            bench.complete(Ok(()));
            bench.complete(Ok(()));
        }
        let mut old = bench.accept(10).unwrap_or_else(|_| bench.append(10, true).unwrap());
        old.place.length_bytes = record_bytes + 60;
        let chunk = ChunkRef { position: old.place.position, length_bytes: chunk_bytes };
        let all = || (0..chunks).map(|_| chunk.record_bytes()).chain([old.place.record_bytes()]);
        let mut copies = 0;
        while bench.log.has_room_for_copies(all()) {
            for _ in 0..chunks {
                bench.log.copy_chunk(&vec![b'c'; chunk_bytes as usize]).expect("there is room for its parts");
            }
            bench.copy(&old).expect("there is room for its record");
            copies += 1;
            if copies % 2 == 0 {
                bench.complete(Ok(()));
            }
        }
        let each = chunks * (chunk_bytes as usize + HEADER_BYTES) + record_bytes as usize + HEADER_BYTES;
        assert!(copies * each > 3 * SEGMENT as usize / 4, "{copies} copies of {each} bytes");
    }
}

/// Reports fill their part of the last room to the last: they claim none for fields that they have not.
#[test]
fn reports_claim_no_more_than_they_take() {
    let mut bench = Bench::new(4);
    while bench.accept(20_000).is_ok() || !bench.orders.is_empty() {
        bench.complete(Ok(()));
    }
    while bench.append(1000, true).is_ok() {
        bench.complete(Ok(()));
    }
    let open = &bench.log.segments[bench.log.open.unwrap() as usize];
    let (left, kept) = (open.size_bytes - open.next_offset, SEGMENT / 2);
    assert!(left < kept + DISK_ALIGN_BYTES as u32, "{left} bytes left, {kept} of them for copies");
}

/// A log that starts with all its segments in use, or that can make none, knows at once why it takes no mail, so that
/// clients can be told (QUE-07, QUE-08).
#[test]
fn a_start_without_room_is_ready_to_say_so() {
    let cases = [(DiskError::Io { errno: 5 }, LogRefusal::Failing), (DiskError::Full, LogRefusal::Full)];
    for (error, refusal) in cases {
        let mut bench = Bench::new(4);
        bench.log = Log::open(bench.log.settings, ShardStart::empty(SHARD), Box::new(HeapBlocks));
        bench.poll();
        assert!(!bench.log.ready(), "it is not known before it was tried");
        bench.complete(Err(error));
        assert!(bench.log.ready());
        assert_eq!(bench.log.no_room(), Some(refusal));
    }
}

/// What a log with this many segments, all of them full of waiting mail, starts with.
fn dense(segments: u32) -> ShardStart {
    let segment = |slot: u32| RecoveredSegment {
        slot: SegmentSlot(slot),
        life: slot + 1,
        size_bytes: SEGMENT,
        live_records: 10,
        live_bytes: u64::from(SEGMENT) - 4096,
        oldest_reference: u32::MAX,
    };
    ShardStart { next_life: segments + 1, segments: (0..segments).map(segment).collect(), ..ShardStart::empty(SHARD) }
}

/// QUE-07: where starts on a full log used up what was kept, a segment more is made, for what settles mail and for copies; but
/// no more of them than are kept.
#[test]
fn a_start_on_a_dense_log_can_note_something() {
    for (segments, gets_one) in [(4, true), (5, true), (6, false)] {
        let mut bench = Bench::new(4);
        bench.log = Log::open(bench.log.settings, dense(segments), Box::new(HeapBlocks));
        for _ in 0..8 {
            bench.complete(Ok(()));
        }
        assert!(bench.log.ready());
        assert_eq!(bench.log.no_room(), Some(LogRefusal::Full), "new mail has no room");
        assert_eq!(bench.append(1000, true).is_ok(), gets_one, "a report with {segments} segments in use");
        assert_eq!(bench.log.segments.len() as u32, segments + u32::from(gets_one));
    }
}

/// QUE-07: what settles recipients is noted in the end, however long nothing can be written; deferrals have a bound.
#[test]
fn what_settles_is_held_however_much_is_held() {
    let mut bench = Bench::new(4);
    let message = bench.accept(10).unwrap();
    bench.poll();
    bench.complete(Ok(()));
    let refused = bench.accept(10).unwrap();
    bench.poll();
    bench.complete(Err(DiskError::Io { errno: 5 }));
    bench.log.settle(refused.place, &[]);
    assert!(bench.log.open.is_none());
    let text = [b'x'; 400];
    let deferred = VerdictDraft { outcome: VerdictOutcome::Deferred, text: &text, ..VerdictDraft::delivered(b"") };
    for _ in 0..2 * VERDICTS_HELD_MAX_BYTES / 400 {
        bench.log.append_verdicts(message.id, &[deferred]);
    }
    assert!(bench.log.held_bytes <= VERDICTS_HELD_MAX_BYTES);
    let held = bench.log.held.len();
    let ticket = bench.log.append_verdicts(message.id, &[deferred, VerdictDraft::delivered(b"ok")]);
    assert_eq!(bench.log.held.len(), held + 1);
    assert!(bench.log.held_bytes < VERDICTS_HELD_MAX_BYTES + 100, "without its words");
    bench.log.settle(message.place, &[]);
    bench.now = bench.now.plus_ms(SEGMENT_RETRY_MS);
    for _ in 0..400 {
        bench.now = bench.now.plus_ms(VERDICT_DELAY_MS);
        bench.poll();
        bench.complete(Ok(()));
    }
    assert_eq!((bench.log.outcome(&ticket), bench.log.holds_verdicts()), (Commit::Durable, false));
}

/// Copies share blocks: each alone would take a sector of what little room there is.
#[test]
fn copies_wait_for_each_other() {
    let mut bench = Bench::new(6);
    let old: Vec<_> = (0..20).map(|_| bench.accept(500).unwrap()).collect();
    bench.poll();
    bench.complete(Ok(()));
    let before = bench.log.appended();
    for message in &old {
        bench.copy(message).unwrap();
        bench.poll();
        assert!(bench.orders.is_empty());
    }
    assert!(bench.log.wake_at() <= bench.now.plus_ms(VERDICT_DELAY_MS));
    bench.log.hurry_copies();
    bench.poll();
    assert_eq!(bench.orders.len(), 1);
    let taken_bytes = bench.log.appended().offset_bytes() - before.offset_bytes();
    assert!(taken_bytes < 20 * 1000, "{taken_bytes} bytes for twenty copies of 600");
}

/// The start of a life tells how far the log was durable: where a copy is the last record and the segment of what it
/// replaces is used again, nothing else tells damage of the copy from a torn tail (QUE-10).
#[test]
fn a_start_tells_how_far_the_log_is_durable() {
    let mut bench = Bench::new(16);
    let mut told = Vec::new();
    while told.len() < 3 {
        bench.accept(60_000).unwrap();
        bench.poll();
        for order in &bench.orders {
            if let DiskOrder::Write { offset_bytes: 0, block, .. } = order {
                let (header, _) = record::open(block.bytes()).unwrap();
                assert_eq!((header.kind, header.durable), (record::Kind::Start, bench.log.durable()));
                told.push(header.durable);
            }
        }
        bench.complete(Ok(()));
    }
    assert!(told.is_sorted() && told[2] > told[0]);
}

/// Hot memory stays within its bound, and what is in it is what was appended.
#[test]
fn hot_blocks_are_bounded() {
    let mut bench = Bench::new(64);
    let mut messages = Vec::new();
    for _ in 0..300 {
        messages.push(bench.accept(60_000).unwrap());
        bench.complete(Ok(()));
        bench.complete(Ok(()));
        assert!(bench.log.stats().hot_bytes <= 8 << 20);
    }
    let hot = messages.iter().filter_map(|m| bench.log.record(&m.place)).collect::<Vec<_>>();
    assert!(hot.len() > 50 && hot.len() < 200);
    assert!(hot.iter().all(|slice| slice.ends_with(&[b'x'; 60_000])));
    assert!(bench.log.record(&messages[299].place).is_some(), "the newest stay");
    let (slot, offset) = bench.log.locate(messages[0].place.position).unwrap();
    assert_eq!((slot, offset), (SegmentSlot(0), messages[0].place.position.offset_bytes()));
    for message in messages {
        bench.log.settle(message.place, &[]);
    }
    assert_eq!((bench.log.stats().hot_bytes, bench.log.stats().live_bytes), (0, 0));
}
