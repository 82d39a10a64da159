//! Several hosts of one site: which is used, which is left aside, and the race of the families.

use super::*;
use crate::route::MailHost;

const FIRST: &str = "192.0.2.1";
const SECOND: &str = "192.0.2.2";
const FIRST_V6: &str = "2001:db8::1";

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// A world that routes by MX to these hosts: preference and addresses.
fn by_mx(hosts: &[(u16, &[&str])], more: &[&str]) -> World {
    let mut world =
        World::new(&[&["route.default=", "retry.site_first_ms=5000", "retry.site_longest_ms=60000"], more].concat());
    let hosts = hosts.iter().enumerate().map(|(number, (preference, addresses))| MailHost {
        preference: *preference,
        name: format!("mx{number}.dest.test").into(),
        addresses: addresses.iter().map(|text| ip(text)).collect(),
        tls: Default::default(),
    });
    world.answer = Answer::Mail { hosts: hosts.collect(), ttl_s: 86_400, sts: None };
    world
}

impl World {
    fn deliver(&mut self, count: usize) {
        let before = self.taken.len();
        for _ in 0..count {
            assert!(self.send(&["to@dest.test"], "x\r\n").starts_with("250"));
        }
        self.pass(10);
        assert_eq!(self.taken.len(), before + count, "{:?}", self.reports);
    }

    fn dialled_since(&mut self) -> Vec<IpAddr> {
        std::mem::take(&mut self.dialled)
    }
}

/// RTE-04, QUE-05: a dead primary costs one connection in a while, whatever else is sent, and is used again when it is back.
#[test]
fn a_dead_primary_is_left_aside_and_used_again() {
    let mut world = by_mx(&[(10, &[FIRST]), (20, &[SECOND])], &["site.default.idle_ms=100"]);
    world.dead = vec![ip(FIRST)];
    world.deliver(1);
    assert_eq!(world.dialled_since(), [ip(FIRST), ip(SECOND)]);
    for _ in 0..10 {
        world.pass(200);
        world.deliver(1);
    }
    assert_eq!(world.dialled_since(), [ip(SECOND); 10], "the dead one is left aside");
    world.pass(10_000);
    world.deliver(1);
    assert_eq!(world.dialled_since(), [ip(FIRST), ip(SECOND)], "and tried again later");
    world.dead.clear();
    world.pass(60_000);
    world.deliver(1);
    world.pass(200);
    world.deliver(1);
    assert_eq!(world.dialled_since(), [ip(FIRST), ip(FIRST)]);
    world.pass(200);
    world.nothing_left();
}

/// The same while the connection to the backup never rests: it makes way when the primary is to be tried.
#[test]
fn a_busy_backup_makes_way() {
    let mut world = by_mx(&[(10, &[FIRST]), (20, &[SECOND])], &["site.default.connections=1"]);
    world.dead = vec![ip(FIRST)];
    world.deliver(1);
    world.dialled_since();
    for _ in 0..40 {
        world.pass(1_000);
        world.deliver(3);
    }
    let tries = world.dialled_since();
    let first = tries.iter().filter(|address| **address == ip(FIRST)).count();
    assert!((1..=4).contains(&first), "{tries:?}");
    assert_eq!(tries.len(), 2 * first, "each try costs a connection to either: {tries:?}");
    world.dead.clear();
    for _ in 0..60 {
        world.pass(1_000);
        world.deliver(3);
    }
    assert_eq!(world.dialled_since(), [ip(FIRST)]);
    world.deliver(5);
    assert!(world.dialled_since().is_empty(), "and there it stays");
}

/// Connections dialled together that fail together count as one failure: the backup is reached without a pause.
#[test]
fn many_failures_at_once_are_one() {
    let mut world = by_mx(&[(10, &[FIRST]), (20, &[SECOND])], &[]);
    world.silent = vec![ip(FIRST)];
    for _ in 0..10 {
        world.send(&["to@dest.test"], "x\r\n");
    }
    // A site that has not answered yet is not asked by more.
    assert_eq!(world.dialled_since(), [ip(FIRST); limits::SITE_FIRST_CONNECTIONS as usize]);
    world.pass(limits::CONNECT_TIMEOUT_MS + 100);
    assert_eq!(world.taken.len(), 10, "{:?}", world.reports);
}

/// RTE-10: a path that is silent costs a quarter of a second once; the rival needs no permit of its own.
#[test]
fn the_families_of_a_host_are_raced() {
    for (silent, quick) in [(FIRST, FIRST_V6), (FIRST_V6, FIRST)] {
        let mut world = by_mx(&[(10, &[silent, quick])], &["site.default.connections=1", "site.default.idle_ms=100"]);
        world.silent = vec![ip(silent)];
        world.send(&["to@dest.test"], "x\r\n");
        world.pass(limits::CONNECT_RACE_MS + 10);
        assert_eq!(world.taken.len(), 1);
        assert_eq!(world.dialled_since(), [ip(silent), ip(quick)]);
        assert_eq!(world.shard.counters().connections_out, 1);
        world.pass(200);
        world.deliver(1);
        assert_eq!(world.dialled_since(), [ip(quick)], "the silent one is left aside");
        world.pass(200);
        assert_eq!(world.shard.counters().connections_out, 0);
        world.nothing_left();
    }
}

/// RTE-10: both families dead: one failure of the host, and the next host at once.
#[test]
fn a_race_may_be_lost_by_both() {
    for second in [vec![ip(FIRST_V6)], vec![]] {
        let mut world = by_mx(&[(10, &[FIRST, FIRST_V6]), (20, &[SECOND])], &["site.default.connections=1"]);
        world.silent = [vec![ip(FIRST)], second.clone()].concat();
        world.dead = if second.is_empty() { vec![ip(FIRST_V6)] } else { Vec::new() };
        world.send(&["to@dest.test"], "x\r\n");
        world.pass(limits::CONNECT_TIMEOUT_MS + limits::CONNECT_RACE_MS + 100);
        // The one that refused at once is tried again, since it was left aside for less long than the other was silent.
        let again = if second.is_empty() { vec![ip(FIRST_V6)] } else { Vec::new() };
        let expected = [vec![ip(FIRST), ip(FIRST_V6)], again, vec![ip(SECOND)]].concat();
        assert_eq!(world.dialled_since(), expected);
        assert_eq!(world.taken.len(), 1, "{:?}", world.reports);
    }
}

/// RTE-10: a drain in the middle of a race ends.
#[test]
fn a_drain_ends_a_race() {
    let mut world = by_mx(&[(10, &[FIRST, FIRST_V6])], &[]);
    world.silent = vec![ip(FIRST), ip(FIRST_V6)];
    world.send(&["to@dest.test"], "x\r\n");
    world.pass(limits::CONNECT_RACE_MS + 10);
    assert_eq!(world.shard.counters().connections_out, 2);
    world.input(Input::Drain);
    world.pass(limits::DRAIN_MS + limits::CONNECT_TIMEOUT_MS);
    assert!(world.drained);
    assert_eq!(world.shard.counters().connections_out, 0);
}

/// RTE-20: a connection ends when it is old, between two messages.
#[test]
fn an_old_connection_ends() {
    let mut world = by_mx(&[(10, &[FIRST])], &["site.default.age_ms=10000"]);
    for _ in 0..25 {
        world.pass(1_000);
        world.deliver(1);
    }
    assert_eq!(world.dialled_since().len(), 3);
}

/// Connections that rest make way too, several of them, and after trials in vain.
#[test]
fn resting_backups_make_way() {
    let retry = ["retry.site_first_ms=100", "retry.site_longest_ms=500"];
    let mut world = by_mx(&[(10, &[FIRST]), (20, &[SECOND])], &retry);
    world.dead = vec![ip(FIRST)];
    world.hold_writes = true;
    for _ in 0..20 {
        world.send(&["to@dest.test"], "x\r\n");
    }
    world.hold_writes = false;
    world.release_writes();
    for _ in 0..100 {
        world.pass(20);
        world.deliver(1);
    }
    world.dead.clear();
    world.dialled_since();
    for _ in 0..100 {
        world.pass(20);
        world.deliver(1);
    }
    assert_eq!(world.dialled_since(), [ip(FIRST)], "{:?}", world.reports);
    assert_eq!(world.shard.counters().connections_out, 1);
}

/// More domains than questions may be on their way: the others wait for their turn, and none is deferred for it.
#[test]
fn questions_are_asked_as_the_resolver_has_room() {
    let mut world = by_mx(&[(10, &[FIRST])], &[]);
    world.shard.queries_max = 4;
    world.hold_questions = true;
    for number in 0..50 {
        world.send(&[&format!("to@d{number}.test")], "x\r\n");
    }
    let mut asked = 0;
    while let Some(query) = world.questions.pop_front() {
        asked += 1;
        assert!(world.questions.len() < 4);
        let answer = world.answer.clone();
        world.input(Input::Resolved { query, answer });
    }
    world.pass(10);
    assert_eq!((asked, world.taken.len()), (50, 50));
    assert!(world.reports.is_empty(), "{:?}", world.reports);
    world.pass(10_000);
    world.nothing_left();
}
