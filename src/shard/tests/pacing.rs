//! Next hops that ask for less: they get less, the others do not.

use super::*;

fn busy(line: &str) -> String {
    match line.split(' ').next().unwrap() {
        "RCPT" => "451 4.7.1 too much mail from you\r\n".into(),
        "DATA" => "503 5.5.1 no recipients\r\n".into(),
        _ => accept_all(line),
    }
}

fn hold(world: &mut World, messages: usize) {
    world.hold_writes = true;
    for _ in 0..messages {
        world.send(&["to@dest.test"], "x\r\n");
    }
    world.hold_writes = false;
    // All at once, so that there are as many jobs as messages when the site is looked at.
    while !world.held.is_empty() {
        world.do_write();
    }
    world.input(Input::Tick);
}

/// RTE-25: a next hop that takes three connections gets three in the end, and all the mail, without a pause of the site.
#[test]
fn a_crowded_next_hop_is_given_fewer_connections() {
    let mut world = World::new(&["site.default.messages_per_connection=1"]);
    world.most_hops = 3;
    hold(&mut world, 40);
    world.pass(60_000);
    assert_eq!(world.taken.len(), 40, "{:?}", world.reports);
    assert!(world.shard.counters().throttled > 0);
    assert!(world.reports.iter().any(|text| text.contains("connections after 421 4.7.0 too many connections")));
    assert!(!world.reports.iter().any(|text| text.contains("paused")), "{:?}", world.reports);
    world.nothing_left();
}

/// RTE-25: replies inside a transaction count too; at one connection the site pauses, so that the queue does not hear the
/// same one by one, and other sites go on.
#[test]
fn a_next_hop_that_takes_nothing_is_asked_seldom() {
    let mut world = World::new(&["site.default.connections=1", "route.domains.other.test=192.0.2.8:25"]);
    world.rule = busy;
    hold(&mut world, 50);
    world.pass(1_000);
    let deferred = world.shard.counters().deferred;
    assert!(deferred <= 3, "{deferred} attempts: {:?}", world.reports);
    assert!(world.reports.iter().any(|text| text.contains("slowed to 1 connections after 451 4.7.1 too much mail")));
    world.rule = accept_all;
    world.send(&["to@other.test"], "x\r\n");
    assert_eq!(world.taken.len(), 1, "another site");
    world.pass(600_000);
    assert_eq!(world.taken.len(), 51, "{:?} {:?}", world.reports, world.shard.counters());
    world.nothing_left();
}

/// RTE-25: after a complaint the site comes back to its limit while mail is taken.
#[test]
fn a_site_recovers() {
    let mut world = World::new(&["site.default.connections=2", "site.default.idle_ms=1000"]);
    world.rule = busy;
    hold(&mut world, 2);
    world.rule = accept_all;
    for _ in 0..60 {
        world.pass(2_000);
        hold(&mut world, 3);
    }
    world.pass(600_000);
    assert_eq!(world.taken.len(), 182);
    assert!(world.reports.iter().any(|text| text.contains("runs at its limit again")), "{:?}", world.reports);
    world.nothing_left();
}

/// RTE-24: a connection that has been promised a message waits for it, though connections at rest are kept for less: whoever
/// dials anew for each may be too late for each.
#[test]
fn a_connection_waits_for_its_rate() {
    let mut world =
        World::new(&["site.default.connections=1", "site.default.messages_per_second=1", "site.default.idle_ms=50"]);
    hold(&mut world, 5);
    world.pass(6_000);
    assert_eq!((world.taken.len(), world.dials), (5, 1), "{:?}", world.reports);
    world.pass(100);
    assert_eq!(world.shard.counters().connections_out, 0, "nothing waits any more");
    world.nothing_left();
}
