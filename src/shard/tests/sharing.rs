//! Classes and tenants share a site.

use super::*;

const TENANTS: [&str; 6] = [
    "site.default.connections=1",
    "tenant.alerts.networks=127.0.0.2",
    "tenant.alerts.priority=urgent",
    "tenant.news.networks=127.0.0.3,127.0.0.8/29",
    "tenant.news.priority=bulk",
    "tenant.shop.networks=127.0.0.4",
];

impl World {
    /// Where among the messages taken those for a recipient stand.
    fn places(&self, recipient: &str) -> Vec<usize> {
        let places = self.taken.iter().enumerate().filter(|(_, taken)| taken.recipients[0] == recipient);
        places.map(|(place, _)| place).collect()
    }
}

/// An urgent message that comes last leaves first, and bulk mail behind what is normal.
#[test]
fn urgent_mail_does_not_wait_behind_others() {
    let mut world = World::new(&TENANTS);
    world.refuse_dials = true;
    for _ in 0..300 {
        world.send_from("127.0.0.3:4000", &["bulk@dest.test"], "x\r\n");
    }
    for _ in 0..50 {
        world.send_from("127.0.0.1:4000", &["normal@dest.test"], "x\r\n");
    }
    for _ in 0..5 {
        world.send_from("127.0.0.2:4000", &["urgent@dest.test"], "x\r\n");
    }
    world.refuse_dials = false;
    world.pass(60_000);
    assert_eq!(world.taken.len(), 355, "{:?}", world.reports);
    let last = |recipient| *world.places(recipient).last().unwrap();
    assert!(last("urgent@dest.test") < 8, "{:?}", world.places("urgent@dest.test"));
    assert!(last("normal@dest.test") < 70, "{:?}", world.places("normal@dest.test"));
    world.nothing_left();
}

/// A restart does not forget whose a message is: it keeps its class, and its sources.
#[test]
fn shares_outlive_a_restart() {
    let more = [&TENANTS[..], &["source.out.address=198.51.100.1", "tenant.alerts.sources=out"]].concat();
    let mut world = World::new(&more);
    world.refuse_dials = true;
    for _ in 0..50 {
        world.send_from("127.0.0.3:4000", &["bulk@dest.test"], "x\r\n");
    }
    world.send_from("127.0.0.2:4000", &["urgent@dest.test"], "x\r\n");
    world.send_from("[::ffff:127.0.0.1]:4000", &["normal@dest.test"], "x\r\n");
    let mut world = World::on(&more, world.disk);
    world.pass(60_000);
    assert_eq!(world.taken.len(), 52, "{:?}", world.reports);
    assert!(world.places("normal@dest.test")[0] < 5, "{:?}", world.places("normal@dest.test"));
    let from_source = world.sources.iter().filter(|source| **source == Some("198.51.100.1".parse().unwrap())).count();
    assert_eq!(from_source, 1, "{:?}", world.sources);
    world.pass(100_000);
    world.nothing_left();
}

/// Two tenants of one class take turns, however much one of them has.
#[test]
fn tenants_take_turns() {
    let mut world = World::new(&TENANTS);
    world.refuse_dials = true;
    for _ in 0..300 {
        world.send_from("127.0.0.1:4000", &["many@dest.test"], "x\r\n");
    }
    for _ in 0..30 {
        world.send_from("127.0.0.4:4000", &["few@dest.test"], "x\r\n");
    }
    world.refuse_dials = false;
    world.pass(60_000);
    assert_eq!(world.taken.len(), 330, "{:?}", world.reports);
    assert!(*world.places("few@dest.test").last().unwrap() < 80, "{:?}", world.places("few@dest.test"));
    world.nothing_left();
}
