//! What is on disk only is read back, record behind record many at a time.

use super::*;

/// A queue that is on disk only, in the order in which it came; and where it stands in the segment.
fn cold_queue(messages: usize) -> (HashMap<u32, Vec<u8>>, Vec<usize>) {
    let mut world = World::new(&[]);
    world.refuse_dials = true;
    for number in 0..messages {
        let body = format!("message {number}\r\n{}", "a line of text\r\n".repeat(220));
        assert!(world.send(&[&format!("to{number}@dest.test")], &body).starts_with("250"));
    }
    let disk = world.disk;
    let places = (0..messages).map(|number| {
        let mark = format!("message {number}\r\n");
        memchr::memmem::find(&disk[&0], mark.as_bytes()).expect("it is in the first segment")
    });
    let places = places.collect();
    (disk, places)
}

fn subjects(world: &World) -> Vec<String> {
    let mark = |taken: &Taken| taken.data.lines().find(|line| line.starts_with("message ")).unwrap().to_owned();
    let mut all: Vec<String> = world.taken.iter().map(mark).collect();
    all.sort();
    all.dedup();
    all
}

/// QUE-06: mail that goes out in the order in which it came is read with few reads.
#[test]
fn a_row_of_messages_takes_few_reads() {
    let (disk, _) = cold_queue(400);
    let mut world = World::on(&["site.default.connections=1"], disk);
    world.pass(1000);
    assert_eq!((world.taken.len(), subjects(&world).len()), (400, 400));
    let counters = world.shard.counters();
    assert!((5..60).contains(&counters.reads), "{} reads", counters.reads);
    world.nothing_left();
}

/// QUE-10: a record that does not check out costs itself only, wherever it stands in what was read.
#[test]
fn damage_in_the_middle_costs_one_message() {
    let (mut disk, places) = cold_queue(200);
    // Recovery would see damage that is there from the start: it comes when all is known.
    let mut world = World::before_its_first_step(&["site.default.connections=1"], std::mem::take(&mut disk));
    for number in [0, 77, 199] {
        world.disk.get_mut(&0).unwrap()[places[number]] ^= 1;
    }
    world.input(Input::Tick);
    world.pass(1000);
    let subjects = subjects(&world);
    assert_eq!(subjects.len(), 197, "{:?}", world.reports);
    assert!(!subjects.iter().any(|subject| ["message 0", "message 77", "message 199"].contains(&&subject[..])));
    assert_eq!(world.shard.counters().damaged_reads, 3);
}

/// QUE-08: what the disk would not give once is asked for again soon; what is damaged is not read again and again.
#[test]
fn a_read_that_failed_is_tried_again() {
    let (disk, _) = cold_queue(1);
    let mut world = World::before_its_first_step(&["retry.first_ms=60000"], disk);
    world.hold_reads = true;
    world.input(Input::Tick);
    let (read, bytes) = world.held_reads.pop_front().unwrap();
    world.nested(Input::ReadBack { read, result: Err(DiskError::Io { errno: 24 }) });
    world.pass(59_000);
    assert!(world.held_reads.is_empty() && world.taken.is_empty());
    world.pass(2_000);
    let (read, _) = world.held_reads.pop_front().expect("it is read again");
    let mut damaged = bytes.clone();
    damaged[100] ^= 1;
    world.nested(Input::ReadBack { read, result: Ok(heap_block(damaged)) });
    world.pass(world.shard.settings.retry.longest_ms - 1_000);
    assert!(world.held_reads.is_empty() && world.taken.is_empty());
    world.pass(2_000);
    let (read, _) = world.held_reads.pop_front().expect("it is read again in the end");
    world.nested(Input::ReadBack { read, result: Ok(heap_block(bytes)) });
    world.input(Input::Tick);
    assert_eq!((world.taken.len(), world.shard.counters().damaged_reads), (1, 2));
}

/// QUE-06: what a site has in memory to be sent does not grow with what waits for it, however many records come with one read.
#[test]
fn a_slow_site_keeps_little_in_memory() {
    let (disk, _) = cold_queue(1000);
    let mut world = World::before_its_first_step(&["site.default.connections=2"], disk);
    // Nobody answers what is sent.
    world.rule = |line| if line == "DATA" { String::new() } else { accept_all(line) };
    world.input(Input::Tick);
    world.pass(1000);
    let kept = world.shard.backlog.records.len();
    assert!((2..200).contains(&kept), "{kept} records");
}
