//! The lists against a calendar that is walked day by day, and the book against shards that do what they like, crashes included.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

fn count() -> Count {
    Count::new("new", "google")
}

fn lend(day: u32, recipients: u32, limit: u32) -> Request {
    Request::Lend { count: count(), day: Day(day), recipients, limit, above: "waits for the next day".into() }
}

fn back(day: u32, recipients: u32) -> Request {
    Request::Return { count: count(), day: Day(day), recipients }
}

/// What the book says, notices without the count and day.
fn serve(book: &mut Book, shard: u16, request: Request) -> (Vec<(u16, Word)>, Vec<String>) {
    let mut out = Vec::new();
    book.serve(ShardId(shard), request, &mut out);
    let (mut words, mut reports) = (Vec::new(), Vec::new());
    for outcome in out {
        match outcome {
            Outcome::Tell(shard, notice) => words.push((shard.0, notice.word)),
            Outcome::Report(text) => reports.push(text),
        }
    }
    (words, reports)
}

fn lent(recipients: u32, used: u32) -> Word {
    Word::Lent { recipients, used }
}

#[test]
fn what_is_used_up_is_said_once_and_what_comes_back_is_lent_again() {
    let mut book = Book::default();
    assert_eq!(serve(&mut book, 0, lend(7, 60, 100)), (vec![(0, lent(60, 60))], vec![]));
    let (words, reports) = serve(&mut book, 1, lend(7, 60, 100));
    assert_eq!(words, [(1, lent(40, 100))]);
    assert_eq!(
        reports,
        [
            "warm-up of source new: all 100 messages of 1970-01-08 for google are used up; what is above waits for the next day"
        ]
    );
    assert_eq!(serve(&mut book, 2, lend(7, 1, 100)), (vec![(2, lent(0, 100))], vec![]));
    // Who gives something back needs not be told.
    assert_eq!(serve(&mut book, 2, back(7, 0)).0, [(1, Word::Back)]);
    assert_eq!(serve(&mut book, 2, lend(7, 1, 100)), (vec![(2, lent(0, 100))], vec![]));
    assert_eq!(serve(&mut book, 0, back(7, 10)).0, [(2, Word::Back)]);
    assert_eq!(serve(&mut book, 2, lend(7, 1, 100)), (vec![(2, lent(1, 91))], vec![]), "the same day goes on silently");
    let (words, reports) = serve(&mut book, 0, lend(8, 50, 200));
    assert_eq!(words, [(0, lent(50, 50))]);
    assert_eq!(reports, ["warm-up of source new: mail for google flows again, 200 messages on 1970-01-09"]);
    assert_eq!(serve(&mut book, 0, lend(8, 50, 200)).1, [""; 0]);
    assert_eq!(serve(&mut book, 0, lend(8, 1000, 200)).1.len(), 1);
    let over = serve(&mut book, 1, Request::Over { count: count() });
    assert_eq!(
        over,
        (vec![], vec!["warm-up of source new: mail for google flows again, without a limit a day".into()])
    );
    assert_eq!(serve(&mut book, 0, Request::Over { count: count() }), (vec![], vec![]));
}

/// A clock that is set finds each date as it left it, and a limit that becomes smaller lends nothing more.
#[test]
fn a_date_that_comes_again_goes_on_where_it_stopped() {
    let mut book = Book::default();
    serve(&mut book, 0, lend(7, 80, 100));
    assert_eq!(serve(&mut book, 0, lend(372, 500, 1000)).0, [(0, lent(500, 500))]);
    assert_eq!(serve(&mut book, 0, lend(6, 50, 50)).0, [(0, lent(50, 50))]);
    assert_eq!(serve(&mut book, 0, lend(7, 50, 100)).0, [(0, lent(20, 100))]);
    assert_eq!(serve(&mut book, 0, lend(6, 1, 50)).0, [(0, lent(0, 50))]);
    assert_eq!(serve(&mut book, 0, lend(7, 50, 60)).0, [(0, lent(0, 100))]);
    let book = Book::parse(&book.text()).unwrap();
    let days = [6, 7, 372].map(|day| book.lent(&count(), Day(day)));
    assert_eq!(days, [50, 100, 500]);
}

#[test]
fn what_cannot_be_written_is_not_lent() {
    let mut book = Book::default();
    serve(&mut book, 0, lend(7, 10, 100));
    let mut out = Vec::new();
    assert!(book.serve(ShardId(0), lend(7, 30, 100), &mut out));
    assert!(book.serve(ShardId(1), lend(7, 80, 100), &mut out));
    book.failed(&mut out);
    let told = out.iter().filter(|outcome| matches!(outcome, Outcome::Tell(_, Notice { word: Word::Failed, .. })));
    assert_eq!((told.count(), book.lent(&count(), Day(7))), (2, 10));
}

/// Also where a day made room for others in between, and came again without what it had.
#[test]
fn what_cannot_be_written_is_not_lent_of_days_that_come_again() {
    let (mut book, mut out) = (Book::default(), Vec::new());
    for day in (0..=limits::WARM_UP_DAYS_KEPT as u32).chain([0]) {
        book.serve(ShardId(0), lend(day, 30, 100), &mut out);
    }
    book.failed(&mut out);
    assert_eq!([0, 1, 2].map(|day| book.lent(&count(), Day(day))), [0; 3]);
}

#[test]
fn there_is_a_bound_and_other_days_make_room() {
    let mut book = Book::default();
    let ask = |book: &mut Book, number: usize, day: u32| {
        let count = Count::new("new", &format!("mx d{number}.test"));
        let above = "".into();
        serve(book, 0, Request::Lend { count, day: Day(day), recipients: 1, limit: 5, above }).0[0].1
    };
    for number in 0..limits::WARM_UP_COUNTS_MAX {
        assert_eq!(ask(&mut book, number, 7), lent(1, 1));
    }
    assert_eq!(ask(&mut book, usize::MAX, 7), Word::Failed);
    assert_eq!(ask(&mut book, 3, 7), lent(1, 2), "who is known goes on");
    assert_eq!(ask(&mut book, usize::MAX, 8), lent(1, 1));
    assert_eq!(book.counts.len(), 1);
}

#[test]
fn names_break_no_line_and_lines_are_read_strictly() {
    let mut book = Book::default();
    let odd = Count::new("a\tb", "mx c\nd \u{85}");
    book.serve(
        ShardId(0),
        Request::Lend { count: odd.clone(), day: Day(1), recipients: 3, limit: 5, above: "".into() },
        &mut vec![],
    );
    assert_eq!(book.text(), "1970-01-02\t3\ta?b\tmx c?d ?\n");
    assert_eq!(Book::parse(&book.text()).unwrap().lent(&odd, Day(1)), 3);
    for bad in ["x", "1970-01-02\t3\ta", "1970-01-02\t-3\ta\tb", "1970-02-30\t3\ta\tb", "1970-01-02\t3\ta\tb\tc", "\n"]
    {
        assert!(Book::parse(bad).is_err(), "{bad:?}");
    }
}

#[test]
fn batches_leave_something_for_all() {
    assert_eq!([1, 7, 50, 1000, u32::MAX].map(|limit| WarmUp::batch(limit, 1)), [1, 1, 6, 125, u32::MAX / 8]);
    for (limit, shards) in [(1000, 2), (50, 16), (1_000_000, 256)] {
        let all = WarmUp::batch(limit, shards) * u32::from(shards);
        assert!(all <= (limit / 8).max(u32::from(shards)));
    }
}

proptest! {
    /// The number and the limit of a day, against a calendar that is walked.
    #[test]
    fn lists_are_walked_day_by_day(began in 0u32..100, messages in prop::collection::vec(1u32..1000, 1..20)) {
        let steps = Steps { began: Day(began), messages: messages.clone().into() };
        let (mut number, mut left) = (1, messages.iter());
        let mut limit = left.next();
        for today in 0..130 {
            if today > began {
                number += 1;
                limit = left.next();
            }
            prop_assert_eq!((steps.number(Day(today)), steps.limit(Day(today))), (number, limit.copied()));
        }
    }

    /// Whatever shards ask for and give back, on whatever days, and wherever the machine stops: no date has more than its limit,
    /// a crash costs no more than what shards held, and what nobody holds can be had.
    #[test]
    fn no_day_has_more_than_its_limit(
        limit in 1u32..200,
        events in prop::collection::vec((0u16..4, 0u32..3, 1u32..60, 0u8..10), 1..120),
    ) {
        let mut book = Book::default();
        let mut written = String::new();
        // What each shard holds of each day, and what was used of it.
        let mut held: BTreeMap<(u16, u32), u32> = BTreeMap::new();
        let mut used: BTreeMap<u32, u32> = BTreeMap::new();
        let mut wasted: BTreeMap<u32, u32> = BTreeMap::new();
        for (shard, day, number, what) in events {
            match what {
                0 => {
                    // What was lent is on disk; what came back may not be.
                    for (&(_, day), held) in &mut held {
                        *wasted.entry(day).or_default() += std::mem::take(held);
                    }
                    book = Book::parse(&written).unwrap();
                }
                1 | 2 => {
                    let all = std::mem::take(held.entry((shard, day)).or_default());
                    serve(&mut book, shard, back(day, all));
                }
                3 | 4 => {
                    let mut out = Vec::new();
                    if book.serve(ShardId(shard), lend(day, number, limit), &mut out) {
                        book.failed(&mut out);
                    }
                }
                5 | 6 => {
                    let held = held.entry((shard, day)).or_default();
                    let now = number.min(*held);
                    *held -= now;
                    *used.entry(day).or_default() += now;
                }
                _ => {
                    let (words, _) = serve(&mut book, shard, lend(day, number, limit));
                    let [(to, Word::Lent { recipients, used: all })] = words[..] else { panic!("{words:?}") };
                    prop_assert_eq!(to, shard);
                    written = book.text();
                    *held.entry((shard, day)).or_default() += recipients;
                    let out: u32 = held.iter().filter(|((_, of), _)| *of == day).map(|(_, held)| held).sum();
                    let spent = used.get(&day).copied().unwrap_or(0);
                    prop_assert!(out + spent <= limit, "{} out and {} used of {}", out, spent, limit);
                    prop_assert!(all >= out + spent);
                    if wasted.is_empty() {
                        prop_assert_eq!(all, out + spent, "nothing is lost while nothing crashes");
                        prop_assert!(recipients == number || all == limit);
                    }
                }
            }
        }
    }
}
