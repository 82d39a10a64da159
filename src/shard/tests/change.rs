//! Other settings while the shard runs.

use super::*;
use crate::route::safety::Safety;
use crate::shard::orders::{Order, Target};

impl World {
    fn change(&mut self, more: &[&str]) {
        self.input(Input::Change { settings: settings(more) });
    }
}

#[test]
fn sessions_that_begin_after_a_change_see_it() {
    let mut world = World::new(&[]);
    let open = world.client();
    world.say(open, b"EHLO c.test\r\n");
    world.change(&["relay.networks=192.0.2.0/24", "relay.hostname=other.test", "relay.message_bytes=100000"]);
    let begin = b"MAIL FROM:<a@source.test>\r\nRCPT TO:<b@dest.test>\r\nRSET\r\n";
    assert!(world.say(open, begin).contains("250 2.1.5"), "what was allowed stays so in this session");
    let fresh = world.client();
    let hello = world.say(fresh, b"EHLO c.test\r\n");
    assert!(hello.starts_with("250-other.test") && hello.contains("SIZE 100000"), "{hello}");
    assert!(world.say(fresh, begin).contains("550 5.7.1"));
}

/// Mail that comes in goes another way at once; what was on its way ends as it began.
#[test]
fn routes_change() {
    let mut world = World::new(&[]);
    world.send(&["a@dest.test"], "x\r\n");
    world.change(&["route.default=192.0.2.77:25"]);
    world.send(&["b@dest.test"], "x\r\n");
    let to: Vec<String> = world.dialled.iter().map(ToString::to_string).collect();
    assert_eq!(to, ["192.0.2.9", "192.0.2.77"]);
    assert_eq!(world.taken.len(), 2);
    world.pass(100);
    world.nothing_left();
}

/// A next hop that keeps its name and wants other credentials is met with those, and mail that waits for it stays one site's.
#[test]
fn a_next_hop_wants_other_credentials() {
    let hop = ["route.default=store", "next_hop.store.address=192.0.2.9:24", "next_hop.store.tls=none"];
    let mut world = World::new(&hop);
    world.refuse_dials = true;
    world.send(&["a@dest.test"], "x\r\n");
    assert_eq!(world.shard.sites.table[0].login(&Safety::Never), None);
    let credentials = ["next_hop.store.credentials=/run/store", "next_hop.store.allow_clear=true"];
    world.change(&[&hop[..], &credentials].concat());
    world.pass(10);
    assert_eq!(world.shard.sites.table.len(), 1);
    let site = &world.shard.sites.table[0];
    assert_eq!((site.jobs, site.login_in_doubt), (1, true));
    assert!(site.login(&Safety::Never).is_some_and(|login| &*login.credentials == "/run/store"));
    world.change(&hop);
    world.refuse_dials = false;
    world.pass(60_000);
    assert_eq!(world.taken.len(), 1, "{:?}", world.reports);
}

/// Mail that waits for a next hop that is gone, in memory or on disk, goes to the new one; what is deferred when its time comes.
#[test]
fn mail_that_waits_is_routed_anew() {
    for memory in ["queue.memory_bytes=134217728", "queue.memory_bytes=1048576"] {
        let mut world = World::new(&[memory, "retry.first_ms=5000", "site.default.idle_ms=100"]);
        world.rule =
            |line| if line.starts_with("RCPT TO:<slow") { "450 4.2.1 later\r\n".into() } else { accept_all(line) };
        world.send(&["slow@dest.test"], "x\r\n");
        world.rule = accept_all;
        // No connection is left.
        world.pass(200);
        world.dead = vec!["192.0.2.9".parse().unwrap()];
        let body = "a line of text\r\n".repeat(2_000);
        for number in 0..200 {
            world.send(&[&format!("a{number}@dest.test"), "b@other.test"], &body);
        }
        world.change(&["route.default=192.0.2.77:25", "route.domains.other.test=192.0.2.78:25"]);
        world.pass(3_000);
        assert_eq!(world.taken.len(), 400, "{:?}", world.reports.last());
        world.pass(10_000);
        assert_eq!(world.taken.len(), 401, "what was deferred follows");
        world.pass(20_000);
        world.nothing_left();
        assert!(world.dialled.iter().any(|ip| ip.to_string() == "192.0.2.78"));
        assert!(world.shard.sites.destinations.len() <= 2, "old destinations are forgotten");
    }
}

/// A limit that is lowered holds when what is under way has ended, one that is raised at once.
#[test]
fn limits_change() {
    let mut world = World::new(&["site.default.connections=1"]);
    // Nothing is answered but the greeting: each connection is busy with one message.
    world.rule = |line| if line.starts_with("EHLO") { accept_all(line) } else { String::new() };
    for number in 0..8 {
        world.send(&[&format!("u{number}@dest.test")], "x\r\n");
    }
    assert_eq!(world.dials, 1);
    world.change(&["site.default.connections=3"]);
    world.pass(10);
    assert_eq!(world.dials, 3);
    assert_eq!(world.shard.counters().connections_out, 3);
    world.rule = accept_all;
    world.change(&["site.default.connections=1"]);
    assert_eq!(world.shard.counters().connections_out, 3, "what is under way is not cut");
    world.pass(700_000);
    assert!(world.shard.counters().connections_out <= 1);
    assert_eq!(world.taken.len(), 8);
    world.pass(100_000);
    world.nothing_left();
}

/// Where only limits are others no record is read and no mail moved.
#[test]
fn other_limits_alone_move_no_mail() {
    let mut world = World::new(&["queue.memory_bytes=1048576", "site.other.test.connections=2"]);
    world.dead = vec!["192.0.2.9".parse().unwrap()];
    for number in 0..200 {
        world.send(&[&format!("a{number}@dest.test"), "b@other.test"], &"a line of text\r\n".repeat(2_000));
    }
    let reads = world.shard.counters().reads;
    world.change(&["queue.memory_bytes=1048576", "site.other.test.connections=4", "site.default.connections=5"]);
    assert_eq!(world.shard.counters().reads, reads);
    let limits = |name: &str| {
        let mut sites = world.shard.sites.table.iter().map(|(_, site)| site);
        sites.find(|site| *site.name == *name).expect(name).limits.connections
    };
    assert_eq!((limits("smarthost 192.0.2.9:25"), limits("smarthost 192.0.2.9:25 for other.test")), (5, 4));
    assert!(world.shard.sites.destinations.iter().all(|(_, destination)| !destination.retired));
}

/// What was found by rules that are gone keeps its name, for orders and to be forgotten by.
#[test]
fn rules_come_and_go() {
    let rules = ["site.first.test.connections=2", "site.quiet.test.connections=3", "retry.first_ms=5000"];
    let mut world = World::new(&rules);
    world.rule = |line| if line == "." { "451 4.3.0 later\r\n".into() } else { accept_all(line) };
    world.send(&["a@quiet.test"], "x\r\n");
    world.rule = accept_all;
    world.change(&["retry.first_ms=5000"]);
    let target = Target::Site("smarthost 192.0.2.9:25".into());
    world.order(Order::Hold, &target);
    world.pass(20_000);
    assert!(world.taken.is_empty(), "the way it goes now is held");
    assert_eq!(world.order(Order::Release, &target), 1);
    world.pass(100);
    assert_eq!(world.taken.len(), 1);
    world.change(&rules);
    world.send(&["b@quiet.test"], "x\r\n");
    assert_eq!(world.taken.len(), 2);
    world.pass(100_000);
    world.nothing_left();
}
