//! What operators order (QUE-14): it takes effect at once, and loses nothing.

use super::*;
use crate::base::ids::{MessageId, OperationId};
use crate::shard::orders::{Order, Target};

const HOP: &str = "smarthost 192.0.2.9:25";

impl World {
    /// Orders something; gives the jobs that it concerned.
    pub(super) fn order(&mut self, order: Order, target: &Target) -> u64 {
        self.operated.clear();
        self.input(Input::Operate { operation: OperationId(1), order, target });
        let [(OperationId(1), jobs)] = self.operated[..] else { panic!("one answer: {:?}", self.operated) };
        jobs
    }

    fn id_of(reply: &str) -> MessageId {
        reply.trim_end().rsplit(' ').next().unwrap().parse().expect("the reply ends with the id")
    }
}

fn targets(id: MessageId) -> [Target; 3] {
    [Target::Message(id), Target::Domain("dest.test".into()), Target::Site(HOP.into())]
}

/// Held before or after it came, released, sent once; other mail is not concerned.
#[test]
fn what_is_held_is_sent_when_released() {
    for which in 0..3 {
        let mut world = World::new(&["site.default.connections=1"]);
        world.refuse_dials = true;
        let id = World::id_of(&world.send(&["a@dest.test", "b@DEST.test"], "x\r\n"));
        let target = &targets(id)[which];
        assert_eq!(world.order(Order::Hold, target), 1, "{target:?}");
        world.refuse_dials = false;
        world.pass(100_000);
        assert!(world.taken.is_empty(), "{target:?} is held: {:?}", world.reports);
        if which > 0 {
            world.send(&["late@dest.test"], "x\r\n");
            world.pass(10_000);
            assert!(world.taken.is_empty(), "{target:?} holds what comes later, too");
        }
        if which < 2 {
            world.send(&["c@other.test"], "x\r\n");
            world.pass(10_000);
            assert_eq!(world.taken.len(), 1, "other mail is not held");
        }
        world.taken.clear();
        world.order(Order::Release, target);
        world.pass(1_000);
        assert_eq!(world.taken.len(), if which > 0 { 2 } else { 1 }, "{target:?} is released");
        world.pass(1_000);
        world.nothing_left();
    }
}

/// What was deferred or is under way when the order comes is held when it comes back.
#[test]
fn what_comes_back_is_held() {
    let mut world = World::new(&["retry.first_ms=1000"]);
    world.rule = |line| if line == "." { "451 4.3.0 later\r\n".into() } else { accept_all(line) };
    let id = World::id_of(&world.send(&["a@dest.test"], "x\r\n"));
    world.rule = accept_all;
    assert_eq!(world.order(Order::Hold, &Target::Message(id)), 1);
    world.pass(100_000);
    assert!(world.taken.is_empty());
    assert_eq!(world.order(Order::Release, &Target::Message(id)), 1);
    world.pass(100);
    assert_eq!(world.taken.len(), 1);
}

/// A restart under the same orders holds what they hold.
#[test]
fn orders_hold_over_a_restart() {
    let mut world = World::new(&[]);
    world.refuse_dials = true;
    let id = World::id_of(&world.send(&["a@dest.test"], "x\r\n"));
    for target in targets(id) {
        let mut after = World::before_its_first_step(&[], world.disk.clone());
        after.shard.hold(after.now, std::slice::from_ref(&target));
        after.input(Input::Tick);
        after.pass(100_000);
        assert!(after.taken.is_empty(), "{target:?}");
        after.order(Order::Release, &target);
        after.pass(1_000);
        assert_eq!(after.taken.len(), 1, "{target:?}");
    }
}

/// Given up: one report for each message, whatever state it was in; what is under way ends as it ends.
#[test]
fn what_is_given_up_is_reported() {
    for (which, memory) in [(0, 1 << 27), (1, 1 << 27), (2, 1 << 27), (1, 1 << 20)] {
        let memory = format!("queue.memory_bytes={memory}");
        let mut world = World::new(&["route.domains.source.test=192.0.2.8:25", "retry.first_ms=1000", &memory]);
        world.dead = vec!["192.0.2.9".parse().unwrap()];
        let body = "a line of text\r\n".repeat(2_000);
        let count = if which == 0 { 1 } else { 100 };
        let mut id = None;
        for _ in 0..count {
            id = Some(World::id_of(&world.send(&["a@dest.test"], &body)));
        }
        let target = &targets(id.unwrap())[which];
        if which == 1 {
            world.order(Order::Hold, target);
        }
        assert_eq!(world.order(Order::Expire, target), count);
        world.pass(2_000);
        assert_eq!(world.taken.len() as u64, count, "a report for each: {:?}", world.reports.last());
        assert!(world.taken.iter().all(|taken| taken.data.contains("5.4.7 Given up by the operator")));
        world.pass(1_000);
        world.nothing_left();
    }
}

/// A pause and a deferral end by order.
#[test]
fn what_waits_is_tried_at_once() {
    let mut world =
        World::new(&["retry.first_ms=1000000", "retry.site_first_ms=1000000", "retry.site_longest_ms=1000000"]);
    world.rule = |line| if line == "." { "451 4.3.0 later\r\n".into() } else { accept_all(line) };
    world.send(&["a@dest.test"], "x\r\n");
    world.rule = accept_all;
    world.pass(10_000);
    assert!(world.taken.is_empty());
    assert_eq!(world.order(Order::Retry, &Target::Domain("dest.test".into())), 1);
    assert_eq!(world.taken.len(), 1);
    world.pass(60_000);
    world.refuse_dials = true;
    world.send(&["b@dest.test"], "x\r\n");
    world.refuse_dials = false;
    world.pass(10_000);
    assert_eq!(world.taken.len(), 1, "the site pauses");
    assert_eq!(world.order(Order::Retry, &Target::Site(HOP.into())), 1);
    world.pass(100);
    assert_eq!(world.taken.len(), 2, "{:?}", world.reports);
    assert_eq!(world.order(Order::Retry, &Target::Site("smarthost nowhere".into())), 0);
}

/// What is given up or routed anew is read back a few at a time, however much it is.
#[test]
fn few_records_are_at_hand_at_a_time() {
    let mut world = World::new(&["queue.memory_bytes=1048576"]);
    world.refuse_dials = true;
    for _ in 0..2_000 {
        world.send(&["a@dest.test"], &"a line of text\r\n".repeat(200));
    }
    world.order(Order::Expire, &Target::Domain("dest.test".into()));
    let mut most = 0;
    for _ in 0..10_000 {
        world.pass(1);
        most = most.max(world.shard.backlog.records.len());
    }
    assert_eq!(world.shard.counters().bounces, 2_000);
    assert!(most <= 2 * limits::EXPIRED_AT_ONCE_MAX, "{most} records");
}

/// EXT-11: what its sender wants held until later is not tried before.
#[test]
fn retry_keeps_to_the_senders_time() {
    let mut world = World::new(&["relay.hold_s=1000"]);
    let client = world.client();
    let text = b"EHLO c.test\r\nMAIL FROM:<a@source.test> HOLDFOR=100\r\nRCPT TO:<b@dest.test>\r\nDATA\r\n";
    assert!(world.say(client, text).contains("354"));
    assert!(world.say(client, b"x\r\n.\r\n").contains("250"));
    assert_eq!(world.order(Order::Retry, &Target::Domain("dest.test".into())), 1);
    world.pass(50_000);
    assert!(world.taken.is_empty());
    world.pass(60_000);
    assert_eq!(world.taken.len(), 1);
}

/// What is suspended waits, whether by site, rule or destination; the rest goes on, and so does it in the end.
#[test]
fn a_site_is_held_by_any_of_its_names() {
    // The smart host's own site is another than the one that the rule sets apart.
    for (name, stops) in
        [("quiet.test", true), ("smarthost 192.0.2.7:25 for quiet.test", true), ("smarthost 192.0.2.7:25", false)]
    {
        let more = ["route.domains.quiet.test=192.0.2.7:25", "site.quiet.test.connections=3"];
        let mut world = World::new(&more);
        world.send(&["a@quiet.test"], "x\r\n");
        assert_eq!(world.taken.len(), 1);
        let target = Target::Site(name.into());
        assert_eq!(world.order(Order::Hold, &target), 0);
        world.send(&["a@quiet.test", "b@dest.test"], "x\r\n");
        world.pass(600_000);
        assert_eq!(world.taken.len(), if stops { 2 } else { 3 }, "{name}");
        assert_eq!(world.shard.counters().recipients_open, u64::from(stops), "{name}");
        assert_eq!(world.order(Order::Release, &target), u64::from(stops), "{name}");
        world.pass(10);
        assert_eq!(world.taken.len(), 3, "{name}");
        world.pass(100_000);
        world.nothing_left();
    }
}

const TENANTS: [&str; 2] = ["tenant.shop.networks=127.0.0.4", "tenant.news.networks=127.0.0.3"];

/// QUE-14: a tenant's mail is held, also what comes later; that of others goes on. Released, each message is sent once.
#[test]
fn a_tenant_is_held_and_released() {
    let mut world = World::new(&TENANTS);
    world.rule = |line| if line == "." { "451 4.3.0 later\r\n".into() } else { accept_all(line) };
    world.send_from("127.0.0.4:4000", &["deferred@dest.test"], "x\r\n");
    world.rule = accept_all;
    let shop = Target::Tenant("shop".into());
    assert_eq!(world.order(Order::Hold, &shop), 1);
    world.send_from("127.0.0.4:4000", &["later@dest.test"], "x\r\n");
    world.send_from("127.0.0.3:4000", &["news@dest.test"], "x\r\n");
    world.send(&["nobodys@dest.test"], "x\r\n");
    world.pass(1_000_000);
    assert_eq!(world.taken.len(), 2, "{:?}", world.taken);
    world.taken.clear();
    assert_eq!(world.order(Order::Hold, &Target::Tenant("unknown".into())), 0);
    assert_eq!(world.order(Order::Release, &shop), 2);
    world.pass(1_000);
    assert_eq!(world.taken.len(), 2);
    world.nothing_left();
}

/// QUE-14: given up, with a report for each message; and tried at once.
#[test]
fn a_tenant_is_given_up_or_tried_at_once() {
    for order in [Order::Expire, Order::Retry] {
        let mut world = World::new(&TENANTS);
        world.rule = |line| if line == "." { "451 4.3.0 later\r\n".into() } else { accept_all(line) };
        world.send_from("127.0.0.4:4000", &["a@dest.test", "b@other.test"], "x\r\n");
        world.send_from("127.0.0.3:4000", &["news@dest.test"], "x\r\n");
        world.rule = accept_all;
        assert_eq!(world.order(order, &Target::Tenant("SHOP".into())), 2);
        world.pass(1_000);
        let reports = world.taken.iter().filter(|taken| taken.sender.is_empty()).count();
        let expected = if order == Order::Expire { (2, 2) } else { (0, 2) };
        assert_eq!((reports, world.taken.len()), expected, "{order:?}");
        assert_eq!(world.shard.counters().messages_live, 1, "the other tenant's waits on");
        world.pass(1_000_000);
        world.nothing_left();
    }
}

/// QUE-14: a tenant has so many messages a second, however many wait, and others are not slowed; without a rate all goes at once.
#[test]
fn a_tenant_has_a_rate() {
    let mut world = World::new(&TENANTS);
    let shop = Target::Tenant("shop".into());
    assert_eq!(world.order(Order::Rate { messages_per_second: 10 }, &shop), 0);
    for number in 0..100 {
        world.send_from("127.0.0.4:4000", &["a@dest.test"], "x\r\n");
        if number % 10 == 0 {
            world.send_from("127.0.0.3:4000", &["news@dest.test"], "x\r\n");
        }
    }
    let news = |world: &World| world.places_of("news@dest.test");
    let sent = |world: &World| world.places_of("a@dest.test");
    assert_eq!(news(&world), 10, "others go as they come");
    let first = sent(&world);
    assert!(first <= 3, "{first}");
    world.pass(4_000);
    let then = sent(&world);
    assert!((35..=first + 42).contains(&then), "{then} in four seconds");
    // What is held and released in between waits for the rate again, and is not sent twice.
    world.order(Order::Hold, &shop);
    world.pass(2_000);
    assert!(sent(&world) <= then + 1);
    world.order(Order::Release, &shop);
    world.pass(1_000);
    let now = sent(&world);
    assert!((then + 5..=then + 14).contains(&now), "{now} after {then}");
    world.order(Order::Rate { messages_per_second: 1000 }, &shop);
    world.order(Order::Rate { messages_per_second: 0 }, &shop);
    world.pass(100);
    assert_eq!(sent(&world), 100);
    world.pass(100);
    world.nothing_left();
    // Other targets have none.
    assert_eq!(world.order(Order::Rate { messages_per_second: 1 }, &Target::Site(HOP.into())), 0);
}

/// QUE-14: a rate of an earlier run holds for what recovery found, too.
#[test]
fn a_rate_outlives_a_restart() {
    let mut world = World::new(&TENANTS);
    world.refuse_dials = true;
    for _ in 0..30 {
        world.send_from("127.0.0.4:4000", &["a@dest.test"], "x\r\n");
    }
    let mut world = World::before_its_first_step(&TENANTS, std::mem::take(&mut world.disk));
    world.shard.pace(world.now, &[("shop".into(), 10)]);
    world.input(Input::Tick);
    world.pass(1_000);
    let sent = world.places_of("a@dest.test");
    assert!((5..=14).contains(&sent), "{sent}");
    world.pass(4_000);
    assert_eq!(world.places_of("a@dest.test"), 30);
    world.nothing_left();
}

impl World {
    /// How many messages a recipient got.
    fn places_of(&self, recipient: &str) -> usize {
        self.taken.iter().filter(|taken| taken.recipients[0] == recipient).count()
    }
}
