//! The book of days' limits: a naive reader finds the same counts in a file, what is written reads the same again, and whatever
//! it says, no day's limit is lent twice and what could not be written down is taken back.

use std::collections::BTreeMap;

use ringpost::base::ids::ShardId;
use ringpost::base::limits::WARM_UP_DAYS_KEPT;
use ringpost::mail::date::Day;
use ringpost::schedule::warm_up::{Book, Count, Notice, Outcome, Request, Word};

/// By source and receiver, the days kept, the one asked about last at the end.
type Counts = BTreeMap<(String, String), Vec<(Day, u32)>>;

/// Any bytes that are a text are a file.
pub fn run(data: &[u8]) {
    let Ok(text) = str::from_utf8(data) else { return };
    let Some(counts) = naive(text) else { return assert!(Book::parse(text).is_err()) };
    let mut book = Book::parse(text).unwrap_or_else(|error| panic!("{error}"));
    let mut written = String::new();
    for ((source, receiver), days) in &counts {
        for (day, lent) in days {
            assert_eq!(book.lent(&Count::new(source, receiver), *day), *lent);
            written += &format!("{day}\t{lent}\t{source}\t{receiver}\n");
        }
    }
    assert_eq!(book.text(), written);
    assert_eq!(Book::parse(&written).expect("it is a book").text(), written);
    lend(&mut book, &counts, super::rng(data).below(1 << 33) as u32);
}

/// Two shards ask for each count's days and for two others, several times before anything is written down; then it is not.
fn lend(book: &mut Book, counts: &Counts, limit: u32) {
    for ((source, receiver), days) in counts.iter().take(20) {
        let count = Count::new(source, receiver);
        let others = ["1970-01-01", "9999-12-31"].map(|day| (Day::parse(day).expect("a day"), 0));
        let mut outcomes = Vec::new();
        for round in 0..2u16 {
            for (day, _) in days.iter().chain(&others) {
                let before = book.lent(&count, *day);
                let above = "waits".into();
                let request =
                    Request::Lend { count: count.clone(), day: *day, recipients: limit / 2 + 1, limit, above };
                book.serve(ShardId(round), request, &mut outcomes);
                let after = book.lent(&count, *day);
                assert!(after >= before && (after <= limit || after == before), "{before} {after} of {limit}");
            }
        }
        let lent: u64 = outcomes.iter().map(|outcome| u64::from(told(outcome).unwrap_or(0))).sum();
        assert!(lent <= u64::from(limit) * (2 * WARM_UP_DAYS_KEPT as u64 + 4));
        assert_eq!(Book::parse(&book.text()).expect("it is a book").text(), book.text());
        book.failed(&mut outcomes);
        assert!(outcomes.iter().all(|outcome| told(outcome).is_none()), "nobody is told of what was not written");
        if days.len() + others.len() <= WARM_UP_DAYS_KEPT {
            // No day made room for another.
            days.iter().for_each(|(day, lent)| assert_eq!(book.lent(&count, *day), *lent));
        }
    }
}

/// What a shard hears that it was lent.
fn told(outcome: &Outcome) -> Option<u32> {
    match outcome {
        Outcome::Tell(_, Notice { word: Word::Lent { recipients, .. }, .. }) => Some(*recipients),
        _ => None,
    }
}

/// Line by line, all days first and then only those that came last.
fn naive(text: &str) -> Option<Counts> {
    let mut all = Counts::new();
    for line in text.split_inclusive('\n') {
        // What ends a line is of the line above, CR alone ends none.
        let mut fields = line.strip_suffix("\r\n").or(line.strip_suffix('\n')).unwrap_or(line).split('\t');
        let (day, lent) = (Day::parse(fields.next()?)?, fields.next()?.parse().ok()?);
        let clean = |text: &str| text.chars().map(|c| if c.is_control() { '?' } else { c }).collect::<String>();
        let count = (clean(fields.next()?), clean(fields.next()?));
        if fields.next().is_some() {
            return None;
        }
        let days = all.entry(count).or_default();
        days.retain(|(other, _)| *other != day);
        days.push((day, lent));
    }
    all.values_mut().for_each(|days| drop(days.drain(..days.len().saturating_sub(WARM_UP_DAYS_KEPT))));
    Some(all)
}
