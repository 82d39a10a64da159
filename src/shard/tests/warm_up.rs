//! Sources that send so many a day, on a clock of the test's own.

use super::*;
use crate::mail::date::Day;
use crate::schedule::warm_up::{Book, Count, Notice, Outcome, Request, Word};

const HOUR_MS: u64 = 3_600_000;
/// The day of the world.
const TODAY: &str = "2026-11-18";

fn from(source: &str) -> Option<IpAddr> {
    Some(source.parse().unwrap())
}

const NEW: &str = "198.51.100.1";
const OLD: &str = "198.51.100.2";

/// A new source in use, with three days of its own.
const WARMED: [&str; 5] = [
    "source.new.address=198.51.100.1",
    "source.old.address=198.51.100.2",
    "source.pool=new",
    "source.new.warm_up.began=2026-11-18",
    "source.new.warm_up.messages.default=10,20,30",
];

fn warmed(more: &[&str]) -> World {
    World::new(&[&WARMED[..], more].concat())
}

/// The book, always on disk.
#[derive(Default)]
pub(super) struct Keeper {
    book: Book,
    /// What is said to it is kept here instead, if set.
    is_away: bool,
    asked: Vec<Request>,
}

impl World {
    pub(super) fn tell_book(&mut self, request: Request) {
        if self.keeper.is_away {
            return self.keeper.asked.push(request);
        }
        let mut outcomes = Vec::new();
        self.keeper.book.serve(ShardId(0), request, &mut outcomes);
        for outcome in outcomes {
            match outcome {
                Outcome::Tell(_, notice) => self.nested(Input::Allowance(notice)),
                Outcome::Report(text) => self.reports.push(text),
            }
        }
    }

    fn send_many(&mut self, count: usize) {
        for number in 0..count {
            self.send(&[&format!("r{number}@dest.test")], "x\r\n");
        }
    }

    /// To the first moment of the next day.
    fn pass_to_midnight(&mut self) {
        let day = Day::of(self.now.wall);
        // Ticks lose parts of a millisecond.
        while Day::of(self.now.wall) == day {
            self.pass(Day::left_ms(self.now.wall));
        }
    }

    fn said(&self, part: &str) -> usize {
        self.reports.iter().filter(|report| report.contains(part)).count()
    }

    fn lent(&self, day: &str) -> u32 {
        self.keeper.book.lent(&Count::new("new", "smarthost 192.0.2.9:25"), Day::parse(day).unwrap())
    }
}

/// Each day has its limit, what is above waits, and after the last day all goes.
#[test]
fn each_day_has_its_limit() {
    let mut world = warmed(&[]);
    assert_eq!(Day::of(world.now.wall).to_string(), TODAY);
    world.send_many(100);
    let mut taken = Vec::new();
    for _ in 0..4 {
        world.pass(HOUR_MS);
        taken.push(world.taken.len());
        world.pass_to_midnight();
    }
    assert_eq!(taken, [10, 30, 60, 100], "{:?}", world.reports);
    assert_eq!((world.said("are used up; what is above waits for the next day"), world.said("flows again")), (3, 3));
    assert_eq!(world.said("flows again, without a limit a day"), 1);
    world.nothing_left();
}

/// While it waits the shard does as good as nothing, opens no connection, and takes mail all the same.
#[test]
fn waiting_costs_nothing() {
    let mut world = warmed(&[]);
    world.send_many(50);
    world.pass(60_000);
    let (dials, before) = (world.dials, world.taken.len());
    let end = world.now.mono.plus_ms(HOUR_MS);
    let mut ticks = 0;
    while world.wake < end {
        world.now.wall.0 += world.wake.ms_since(world.now.mono);
        world.now.mono = world.wake.max(world.now.mono);
        world.wake = Mono::NEVER;
        world.input(Input::Tick);
        ticks += 1;
    }
    assert!(ticks < 200, "{ticks} ticks in an hour");
    world.send_many(5);
    assert_eq!((world.dials, world.taken.len(), before), (dials, 10, 10));
    assert_eq!(world.shard.conns.outbound, 0);
}

/// Recipients count, not transactions; a message for more than the day still has is taken apart.
#[test]
fn recipients_count() {
    let mut world = warmed(&[]);
    let recipients: Vec<String> = (0..25).map(|number| format!("r{number}@dest.test")).collect();
    let recipients: Vec<&str> = recipients.iter().map(String::as_str).collect();
    world.send(&recipients[..3], "x\r\n");
    world.send(&recipients, "x\r\n");
    let counts = |world: &World| world.taken.iter().map(|taken| taken.recipients.len()).collect::<Vec<_>>();
    assert_eq!(counts(&world), [3, 7]);
    world.pass_to_midnight();
    world.pass(60_000);
    assert_eq!(counts(&world), [3, 7, 18]);
    let mut all: Vec<&String> = world.taken.iter().skip(1).flat_map(|taken| &taken.recipients).collect();
    all.sort();
    all.dedup();
    assert_eq!(all.len(), 25, "each once");
    world.nothing_left();
}

/// All sites of a provider are one count, with a list of its own if it has one; others are counted by themselves.
#[test]
fn a_provider_is_counted_as_one() {
    let more = ["route.default=", "source.new.warm_up.messages.google=4,8", "site.google.connections=3"];
    let mut world = warmed(&more);
    let hosts = |name: &str, address: &str| Answer::Mail {
        hosts: vec![crate::route::MailHost {
            preference: 1,
            name: name.into(),
            addresses: vec![address.parse().unwrap()],
            tls: Default::default(),
        }],
        ttl_s: 86_400,
        sts: None,
    };
    for (number, name) in ["aspmx.l.google.com", "gmail-smtp-in.l.google.com", "mx.else.test"].iter().enumerate() {
        world.answer = hosts(name, &format!("192.0.2.{}", number + 1));
        for _ in 0..20 {
            world.send(&[&format!("r@d{number}.test")], "x\r\n");
        }
    }
    world.pass(60_000);
    let to = |world: &World, domains: &[&str]| {
        let all = world.taken.iter().map(|taken| taken.recipients[0].as_str());
        all.filter(|recipient| domains.iter().any(|domain| recipient.ends_with(domain))).count()
    };
    assert_eq!((to(&world, &["d0.test", "d1.test"]), to(&world, &["d2.test"])), (4, 10), "{:?}", world.reports);
    assert_eq!(world.said("for google are used up"), 1);
    assert_eq!(world.said("for mx mx.else.test are used up"), 1);
    world.pass_to_midnight();
    world.pass(60_000);
    assert_eq!((to(&world, &["d0.test", "d1.test"]), to(&world, &["d2.test"])), (12, 20));
}

/// What is above goes from the other source, at once and once; the next day the new one has its turn again.
#[test]
fn what_is_above_goes_from_another_source() {
    let mut world = warmed(&["source.new.warm_up.overflow=old", "site.default.messages_per_connection=1"]);
    world.send_many(300);
    world.pass(10_000);
    assert_eq!(world.taken.len(), 300, "{:?}", world.reports);
    let by = |world: &World, source: &str| world.sources.iter().filter(|dialled| **dialled == from(source)).count();
    let (new, old) = (by(&world, NEW), by(&world, OLD));
    assert!((10..14).contains(&new) && (290..300).contains(&old), "{new} and {old}");
    let mut seen: Vec<&String> = world.taken.iter().map(|taken| &taken.recipients[0]).collect();
    seen.sort();
    seen.dedup();
    assert_eq!(seen.len(), 300, "nothing twice");
    assert_eq!(world.said("what is above goes from old"), 1);
    world.pass_to_midnight();
    world.send_many(5);
    world.pass(1000);
    assert_eq!((world.taken.len(), by(&world, OLD)), (305, old));
    world.nothing_left();
}

/// Sources that name each other: when all are used up mail waits with one of them, and goes round no more.
#[test]
fn sources_that_name_each_other_end() {
    let more = [
        "source.third.address=198.51.100.3",
        "source.new.warm_up.overflow=old",
        "source.old.warm_up.began=2026-11-18",
        "source.old.warm_up.messages.default=7,100",
        "source.old.warm_up.overflow=third,new",
        "source.third.warm_up.began=2026-11-18",
        "source.third.warm_up.messages.default=5,100",
        "source.third.warm_up.overflow=new,old",
    ];
    let mut world = warmed(&more);
    world.send_many(100);
    world.pass(HOUR_MS);
    assert_eq!(world.taken.len(), 10 + 7 + 5, "{:?}", world.reports);
    assert_eq!(world.said("are used up"), 3, "{:?}", world.reports);
    world.send_many(20);
    world.pass(HOUR_MS);
    assert_eq!((world.taken.len(), world.said("are used up")), (22, 3));
    world.pass_to_midnight();
    world.pass(HOUR_MS);
    assert_eq!(world.taken.len(), 120);
    world.nothing_left();
}

/// A source that cannot reach the next hop takes nothing that is above.
#[test]
fn a_source_without_the_family_takes_nothing() {
    let more = ["source.six.address=2001:db8::6", "source.new.warm_up.overflow=six"];
    let mut world = warmed(&more);
    world.send_many(30);
    world.pass(HOUR_MS);
    assert_eq!((world.taken.len(), world.said("no address of a family")), (10, 0));
}

/// A crash wastes what was lent, at most an eighth here, and gives nothing twice.
#[test]
fn a_crash_gives_nothing_twice() {
    let more = ["source.new.warm_up.messages.default=80,160", "site.default.connections=1"];
    let mut world = warmed(&more);
    world.send_many(30);
    assert_eq!(world.taken.len(), 30);
    world.rule = |line| if line == "." { "451 4.2.0 later\r\n".into() } else { accept_all(line) };
    world.send_many(3);
    let (disk, keeper) = (world.disk, world.keeper);
    let mut world = World::before_its_first_step(&[&WARMED[..], &more].concat(), disk);
    world.keeper = keeper;
    world.input(Input::Tick);
    world.send_many(200);
    world.pass(HOUR_MS);
    let after = world.taken.len();
    assert!((37..=47).contains(&after), "{after} after 33 of 80, {:?}", world.reports);
    assert_eq!(world.lent(TODAY), 80);
}

/// What a session did not try is not used, and what nobody needs goes back.
#[test]
fn what_is_not_used_goes_back() {
    let mut world = warmed(&["source.new.warm_up.messages.default=80", "retry.site_first_ms=1000"]);
    // The session ends before any recipient was named.
    world.rule = |line| match &line[..4.min(line.len())] {
        "MAIL" => "421 4.3.2 closing\r\n".into(),
        "RCPT" | "DATA" => "503 5.5.1 closing\r\n".into(),
        _ => accept_all(line),
    };
    world.send_many(40);
    assert!(world.taken.is_empty());
    world.rule = accept_all;
    world.pass(2 * HOUR_MS);
    assert_eq!(world.taken.len(), 40, "{:?}", world.reports);
    let tried = world.commands.iter().filter(|line| line.starts_with("RCPT")).count() as u32;
    assert!(world.lent(TODAY) <= tried.max(40), "{} lent for {tried}", world.lent(TODAY));
    let mut kept = Vec::new();
    world.shard.return_allowances(&mut kept);
    assert!(kept.is_empty(), "nothing is kept that nobody needs");
    world.send_many(80);
    world.pass(2 * HOUR_MS);
    assert_eq!(world.lent(TODAY), 80);
    world.pass_to_midnight();
    world.pass(60_000);
    world.nothing_left();
}

/// A clock that is set back finds the day as it was; one that is set forward finds another.
#[test]
fn a_clock_that_is_set_finds_its_days_again() {
    const DAY_MS: u64 = 24 * HOUR_MS;
    let mut world = warmed(&[]);
    world.send_many(200);
    world.pass(60_000);
    let mut counts = vec![world.taken.len()];
    world.now.wall.0 += DAY_MS;
    world.pass(120_000);
    counts.push(world.taken.len());
    world.now.wall.0 -= DAY_MS;
    world.pass(120_000);
    counts.push(world.taken.len());
    world.now.wall.0 -= DAY_MS;
    world.pass(120_000);
    counts.push(world.taken.len());
    world.now.wall.0 += DAY_MS;
    world.pass(120_000);
    counts.push(world.taken.len());
    // The second day; the same again; the day before the first counts as the first; the first, which is used up.
    assert_eq!(counts, [10, 30, 30, 40, 40], "{:?}", world.reports);
}

/// Mail that waits too long is given up as ever, with the reason.
#[test]
fn what_waits_too_long_bounces() {
    let mut world = warmed(&["source.new.warm_up.messages.default=1,1,1", "retry.expire_ms=7200000"]);
    world.send_many(5);
    world.pass(4 * HOUR_MS);
    assert_eq!(world.shard.counters().failed, 4, "{:?}", world.reports);
    assert_eq!(world.said("4.4.7 Delivery time expired: the day's limit of its source was used up"), 4);
}

/// Other limits hold as soon as the settings change, also for what was asked before.
#[test]
fn a_reload_changes_the_limits() {
    let mut world = warmed(&[]);
    world.send_many(60);
    world.pass(20_000);
    let change = |world: &mut World, more: &[&str]| {
        world.input(Input::Change { settings: settings(&[&WARMED[..], more].concat()) });
        world.pass(20_000);
        world.taken.len()
    };
    assert_eq!(world.taken.len(), 10);
    assert_eq!(change(&mut world, &["source.new.warm_up.messages.default=25"]), 25);
    assert_eq!(change(&mut world, &["source.new.warm_up.messages.default=20"]), 25, "less than was sent already");
    // Day three by now.
    assert_eq!(change(&mut world, &["source.new.warm_up.began=2026-11-16"]), 30);
    assert_eq!(change(&mut world, &["source.new.warm_up.began=2026-11-15"]), 60, "it is over");
    world.nothing_left();
}

/// What the book lent under limits that do not hold any more goes back unused, and what it cannot write is asked for again.
#[test]
fn answers_that_come_late_are_no_good() {
    let mut world = warmed(&[]);
    let count = Count::new("new", "smarthost 192.0.2.9:25");
    let notice = |word, day| Notice { count: count.clone(), day, word };
    let day = Day::parse(TODAY).unwrap();
    world.keeper.is_away = true;
    world.send_many(40);
    assert_eq!(world.keeper.asked.len(), 1, "a shard asks once until it is answered");
    world.input(Input::Change {
        settings: settings(&[&WARMED[..], &["source.new.warm_up.messages.default=3"]].concat()),
    });
    world.keeper.asked.clear();
    world.input(Input::Allowance(notice(Word::Lent { recipients: 9, used: 9 }, day)));
    assert!(world.taken.is_empty());
    assert!(
        matches!(&world.keeper.asked[..], [Request::Return { recipients: 9, .. }, Request::Lend { limit: 3, .. }]),
        "{:?}",
        world.keeper.asked
    );
    world.keeper.asked.clear();
    world.input(Input::Allowance(notice(Word::Failed, day)));
    assert!(world.keeper.asked.is_empty());
    world.pass(limits::WARM_UP_RETRY_MS + 10);
    assert!(matches!(&world.keeper.asked[..], [Request::Lend { .. }]), "{:?}", world.keeper.asked);
    // The day ends while the question is on its way.
    world.keeper.asked.clear();
    world.now.wall.0 += 24 * HOUR_MS;
    world.input(Input::Allowance(notice(Word::Lent { recipients: 3, used: 3 }, day)));
    assert!(world.taken.is_empty() || world.keeper.asked.is_empty(), "{:?}", world.keeper.asked);
    world.pass(HOUR_MS);
    assert_eq!(world.taken.len(), 40, "the warm-up is over");
}
