//! Old segments are emptied by copying where that is worth it, and only there.

use super::*;
use crate::shard::orders::{Order, Target};

/// A queue with room for no more mail, which nobody took yet.
fn full_queue(more: &[&str]) -> (World, usize) {
    let mut sets = vec!["queue.segments=5", "queue.segment_bytes=4194304", "site.default.connections=1"];
    sets.extend(more);
    let mut world = World::new(&sets);
    world.refuse_dials = true;
    let body = "a line of text\r\n".repeat(4_000);
    let mut taken = 0;
    while world.send(&["to@dest.test"], &body).starts_with("250") {
        taken += 1;
        assert!(taken < 400, "the log has room for no more");
    }
    (world, taken)
}

/// QUE-07: what goes out in the order in which it came empties the oldest segment without any copying.
#[test]
fn a_segment_that_empties_itself_is_not_copied() {
    let (mut world, taken) = full_queue(&["site.default.messages_per_second=20"]);
    world.refuse_dials = false;
    world.pass(120_000);
    let counters = world.shard.counters();
    assert_eq!((world.taken.len(), counters.copied_forward), (taken, 0), "{:?}", world.reports);
    world.nothing_left();
}

/// A segment of which half was delivered by a relay that has nothing of it in memory; what is left waits for an hour.
fn half_a_segment() -> World {
    let sets =
        ["queue.segment_bytes=4194304", "queue.segments=4", "retry.first_ms=3600000", "site.default.connections=2"];
    let mut world = World::new(&sets);
    world.refuse_dials = true;
    let body = "a line of text\r\n".repeat(4_000);
    for number in 0..40 {
        let name = if number % 2 == 0 { "stay" } else { "go" };
        assert!(world.send(&[&format!("{name}{number}@dest.test")], &body).starts_with("250"));
    }
    let mut world = World::before_its_first_step(&sets, world.disk);
    world.rule = stay_is_deferred;
    world.input(Input::Tick);
    world.pass(500);
    assert_eq!((world.taken.len(), world.shard.counters().copied_forward), (20, 0));
    world
}

fn stay_is_deferred(line: &str) -> String {
    if line.starts_with("RCPT TO:<stay") { "450 4.2.1 later\r\n".into() } else { accept_all(line) }
}

/// QUE-07: a segment is emptied also where the disk did not give a part of it at first.
#[test]
fn a_copy_that_could_not_be_read_is_made_later() {
    let mut world = half_a_segment();
    world.hold_reads = true;
    world.pass(1500);
    assert_eq!(world.held_reads.len(), 20, "all that is left is to be copied");
    for (read, _) in std::mem::take(&mut world.held_reads) {
        world.nested(Input::ReadBack { read, result: Err(DiskError::Io { errno: 5 }) });
    }
    world.pass(4_000);
    assert!(world.held_reads.is_empty(), "a disk that fails is not asked all the time");
    world.pass(3_000);
    assert_eq!(world.held_reads.len(), 20, "they are read again");
    for (read, mut bytes) in std::mem::take(&mut world.held_reads) {
        bytes[100] ^= 1;
        world.nested(Input::ReadBack { read, result: Ok(heap_block(bytes)) });
    }
    world.pass(50_000);
    assert!(world.held_reads.is_empty(), "what is damaged is not read all the time");
    world.hold_reads = false;
    world.pass(15_000);
    assert_eq!(world.shard.counters().copied_forward, 20, "{:?}", world.reports);
}

/// QUE-07: a copy whose message is being sent from its old place waits for that, and others do not wait for it.
#[test]
fn a_slow_next_hop_keeps_only_its_own_copy() {
    let mut world = half_a_segment();
    // They are tried again, as many as there are connections for, and nothing is said to these.
    world.rule = |line| if line == "DATA" { String::new() } else { accept_all(line) };
    world.order(Order::Retry, &Target::Domain("dest.test".into()));
    world.pass(3_000);
    let jobs = world.shard.backlog.jobs.iter();
    let in_use = jobs.filter(|(_, job)| job.state == backlog::JobState::Offered).count() as u64;
    assert!((1..=4).contains(&in_use), "{in_use} are being sent");
    assert_eq!(world.shard.counters().copied_forward, 20 - in_use, "{:?}", world.reports);
}

/// QUE-07: a relay that stops does not forget what became of mail while nothing could be written.
#[test]
fn a_drain_waits_for_verdicts_that_are_held() {
    let mut world = World::new(&[]);
    world.hold_writes = true;
    let conn = world.client();
    world.send_on(conn, &["to@dest.test"], "text\r\n");
    world.hold_writes = false;
    world.do_write();
    world.fail_writes = Some(DiskError::Io { errno: 5 });
    world.input(Input::Tick);
    world.pass(50);
    assert_eq!((world.taken.len(), world.shard.log.holds_verdicts()), (1, true));
    world.input(Input::Drain);
    world.pass(5_000);
    assert!(!world.drained, "its delivery is not noted");
    world.fail_writes = None;
    world.pass(5_000);
    assert!(world.drained);
    assert!(start_of(&world.disk).messages.is_empty());
}

/// QUE-07: of a long message only those parts are copied that stand in the segment to be emptied, and it is whole in the end.
#[test]
fn a_long_message_is_copied_in_part() {
    let mut sets = vec!["queue.segment_bytes=4194304", "retry.first_ms=3600000"];
    let mut world = World::new(&sets);
    world.refuse_dials = true;
    let (short, long) = ("a line of text\r\n".repeat(4_000), "another line of text\r\n".repeat(300_000));
    for number in 0..30 {
        assert!(world.send(&[&format!("go{number}@dest.test")], &short).starts_with("250"));
    }
    let conn = world.client();
    world.say(conn, b"EHLO c.test\r\nMAIL FROM:<from@source.test>\r\nRCPT TO:<stay@dest.test>\r\nDATA\r\n");
    long.as_bytes().chunks(64 << 10).for_each(|piece| drop(world.say(conn, piece)));
    assert!(world.say(conn, b".\r\n").starts_with("250"));
    sets.push("queue.segments=5");
    let mut world = World::before_its_first_step(&sets, world.disk);
    world.rule = stay_is_deferred;
    world.input(Input::Tick);
    world.pass(4_000);
    let copied_bytes = world.shard.log.copied_body_bytes() as usize;
    assert_eq!((world.taken.len(), world.shard.counters().copied_forward), (30, 1), "{:?}", world.reports);
    assert!((1..long.len() / 2).contains(&copied_bytes), "{copied_bytes} bytes of {}", long.len());
    world.rule = accept_all;
    world.pass(2 * 3_600_000);
    let taken = world.taken.last().expect("it came");
    assert!(world.taken.len() == 31 && taken.data.ends_with(&long), "{} bytes", taken.data.len());
    world.nothing_left();
}
