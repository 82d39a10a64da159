//! Old segments are emptied by copying where that is worth it, and only there.

use super::*;

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
