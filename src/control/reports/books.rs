//! The days that are counted, and of those that are over whose report is still owed.
//!
//! Pure: moments come in, texts of files go out. A report that is begun is not owed any more as far as the disk knows, until it is
//! known to have failed: so a crash may lose one, and never sends one twice.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::document::{day_text, read_day};
use crate::base::limits;
use crate::base::rng::Rng;
use crate::mail::date::Day;
use crate::route::reports::Seen;
use crate::route::reports::ledger::{Counted, Tally};
use crate::route::reports::record::Destination;

/// After midnight what shards have still to say of the day before is awaited for so long.
const GRACE_MS: u64 = 3 * limits::TLS_REPORT_BATCH_MS;

/// A report that is to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Owed {
    due_ms: u64,
    /// Attempts that failed.
    tries: u32,
    /// Then it is given up; 0 before the first attempt.
    until_ms: u64,
    /// Who is still to get it; `None`: DNS is to be asked.
    left: Option<Vec<Destination>>,
    /// Somebody is at it.
    busy: bool,
    /// It may have been sent.
    begun: bool,
}

/// One day.
#[derive(Default)]
struct Book {
    counts: Tally,
    /// `None` until the day is over.
    owed: Option<BTreeMap<Box<str>, Owed>>,
    counts_changed: bool,
    owed_changed: bool,
}

/// Whose turn it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Turn {
    pub(super) day: Day,
    pub(super) domain: Box<str>,
    /// Who is still to get it, as far as that is known.
    pub(super) left: Option<Vec<Destination>>,
}

/// A file that is to be replaced, or, without a text, removed.
pub(super) struct Page {
    pub(super) day: Day,
    /// Which of the two of its day.
    pub(super) is_owed: bool,
    pub(super) text: Option<String>,
}

/// All days.
#[derive(Default)]
pub(super) struct Books {
    days: BTreeMap<Day, Book>,
}

impl Books {
    /// What stands in a day's files, the second of which is there when the day is over.
    pub(super) fn read(
        &mut self,
        day: Day,
        counts: &Map<String, Value>,
        owed: Option<Map<String, Value>>,
        now_ms: u64,
        delay_ms: u64,
        rng: &mut Rng,
    ) {
        let mut book = Book { counts: read_day(counts), ..Book::default() };
        if let Some(owed) = owed {
            let owed = read_owed(owed);
            book.owed =
                Some(owed.into_iter().map(|(domain, owed)| (domain, owed.drawn(day, now_ms, delay_ms, rng))).collect());
        }
        self.days.insert(day, book);
    }

    /// Counts what was seen.
    pub(super) fn count(&mut self, seen: Seen) {
        let book = self.days.entry(seen.day).or_default();
        match book.owed {
            None => book.counts.count(seen),
            Some(_) => book.counts.leave_out(1),
        }
        book.counts_changed = true;
    }

    /// Sessions of a day were lost on the way.
    pub(super) fn leave_out(&mut self, day: Day, sessions: u64) {
        let book = self.days.entry(day).or_default();
        book.counts.leave_out(sessions);
        book.counts_changed = true;
    }

    /// Closes the days that are over; gives each with the sessions that its reports will not tell.
    pub(super) fn close(&mut self, now_ms: u64, delay_ms: u64, rng: &mut Rng) -> Vec<(Day, u64)> {
        let mut closed = Vec::new();
        for (&day, book) in &mut self.days {
            if book.owed.is_some() || now_ms < day.end().0 + GRACE_MS {
                continue;
            }
            let domains: Vec<Box<str>> = book.counts.domains().map(|(domain, _)| domain.into()).collect();
            let owed = domains.into_iter().map(|domain| (domain, Owed::new().drawn(day, now_ms, delay_ms, rng)));
            book.owed = Some(owed.collect());
            book.owed_changed = true;
            closed.push((day, book.counts.left_out()));
        }
        closed
    }

    /// The next reports that are due, `most` at most; each is busy until it is settled or put back.
    pub(super) fn due(&mut self, now_ms: u64, most: usize) -> Vec<Turn> {
        let mut turns = Vec::new();
        for (&day, book) in &mut self.days {
            for (domain, owed) in book.owed.iter_mut().flatten() {
                if turns.len() == most {
                    return turns;
                }
                if !owed.busy && owed.due_ms <= now_ms {
                    owed.busy = true;
                    turns.push(Turn { day, domain: domain.clone(), left: owed.left.clone() });
                }
            }
        }
        turns
    }

    /// What was counted for a domain.
    pub(super) fn counted(&self, day: Day, domain: &str) -> &[Counted] {
        self.days.get(&day).and_then(|book| book.counts.of(domain)).unwrap_or_default()
    }

    /// A report is about to be sent: from here on it may have been.
    pub(super) fn begin(&mut self, day: Day, domain: &str) {
        self.change(day, domain, |owed| owed.begun = true);
    }

    /// Nothing is owed to a domain for a day any more.
    pub(super) fn settle(&mut self, day: Day, domain: &str) {
        let Some(book) = self.days.get_mut(&day) else { return };
        if let Some(owed) = &mut book.owed {
            book.owed_changed |= owed.remove(domain).is_some();
        }
    }

    /// An attempt failed, for these destinations or before any was known; it is tried again. False: it is given up.
    pub(super) fn put_back(&mut self, day: Day, domain: &str, left: Option<Vec<Destination>>, now_ms: u64) -> bool {
        let mut goes_on = true;
        self.change(day, domain, |owed| {
            let pause_ms = limits::TLS_REPORT_RETRY_FIRST_MS << owed.tries.min(16);
            owed.due_ms = now_ms + pause_ms.min(limits::TLS_REPORT_RETRY_LONGEST_MS);
            owed.tries += 1;
            if owed.until_ms == 0 {
                owed.until_ms = now_ms + limits::TLS_REPORT_RETRIES_MS;
            }
            (owed.left, owed.busy, owed.begun) = (left, false, false);
            goes_on = owed.due_ms <= owed.until_ms;
        });
        if !goes_on {
            self.settle(day, domain);
        }
        goes_on
    }

    fn change(&mut self, day: Day, domain: &str, change: impl FnOnce(&mut Owed)) {
        let Some(book) = self.days.get_mut(&day) else { return };
        if let Some(owed) = book.owed.as_mut().and_then(|owed| owed.get_mut(domain)) {
            change(owed);
            book.owed_changed = true;
        }
    }

    /// The files of owed reports that changed, and with `counts` those of counts. Days to which nothing is owed any more, or which are
    /// too old, are gone with them.
    pub(super) fn pages(&mut self, now_ms: u64, counts: bool) -> Vec<Page> {
        let mut pages = Vec::new();
        self.days.retain(|&day, book| {
            let over = book.owed.as_ref().is_some_and(BTreeMap::is_empty);
            if over || now_ms > day.end().0 + limits::TLS_REPORT_KEEP_MS {
                // What is owed last: a day without counts owes nothing.
                pages.extend([false, true].map(|is_owed| Page { day, is_owed, text: None }));
                return false;
            }
            if std::mem::take(&mut book.owed_changed) {
                // They stand there before anything is owed of them.
                if book.counts_changed {
                    pages.push(Page { day, is_owed: false, text: Some(day_text(&book.counts)) });
                    book.counts_changed = false;
                }
                let text = book.owed.as_ref().map(owed_text);
                pages.push(Page { day, is_owed: true, text });
            }
            if counts && std::mem::take(&mut book.counts_changed) {
                pages.push(Page { day, is_owed: false, text: Some(day_text(&book.counts)) });
            }
            true
        });
        pages
    }

    /// A file could not be written: it is as if it had changed.
    pub(super) fn not_written(&mut self, page: &Page) {
        if let Some(book) = self.days.get_mut(&page.day) {
            book.owed_changed |= page.is_owed;
            book.counts_changed |= !page.is_owed;
        }
    }

    /// Something was counted that is not written down.
    pub(super) fn is_changed(&self) -> bool {
        self.days.values().any(|book| book.counts_changed)
    }
}

impl Owed {
    fn new() -> Owed {
        Owed { due_ms: 0, tries: 0, until_ms: 0, left: None, busy: false, begun: false }
    }

    /// With a moment between now and so long after the day's end (RFC 8460 4.1).
    fn drawn(self, day: Day, now_ms: u64, delay_ms: u64, rng: &mut Rng) -> Owed {
        let from_ms = now_ms.max(day.end().0);
        let left_ms = (day.end().0 + delay_ms).saturating_sub(from_ms);
        Owed { due_ms: from_ms + rng.below(left_ms + 1), ..self }
    }
}

fn owed_text(owed: &BTreeMap<Box<str>, Owed>) -> String {
    let not_begun = owed.iter().filter(|(_, owed)| !owed.begun);
    let written: Map<String, Value> = not_begun
        .map(|(domain, owed)| {
            let left = owed.left.as_ref().map(|left| left.iter().map(Destination::text).collect::<Vec<_>>());
            (domain.to_string(), json!({ "until-ms": owed.until_ms, "left": left }))
        })
        .collect();
    Value::from(written).to_string()
}

fn read_owed(all: Map<String, Value>) -> Vec<(Box<str>, Owed)> {
    let read = |(domain, owed): (String, Value)| {
        let left = owed["left"].as_array().map(|left| {
            left.iter().filter_map(|text| Destination::read(text.as_str()?)).take(limits::TLS_REPORT_URIS_MAX).collect()
        });
        (domain.into(), Owed { until_ms: owed["until-ms"].as_u64().unwrap_or_default(), left, ..Owed::new() })
    };
    all.into_iter().map(read).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::route::reports::{Applied, PolicyKind};

    const DAY: Day = Day(20_000);
    const MIDNIGHT_MS: u64 = (DAY.0 as u64 + 1) * limits::DAY_MS;

    fn seen(day: Day, domain: &str) -> Seen {
        let policy = Applied { kind: PolicyKind::None, text: vec![], domain: domain.into(), hosts: vec![] };
        Seen { day, domain: domain.into(), policy, failure: None }
    }

    fn web() -> Destination {
        Destination::Web("https://a.test/".into())
    }

    /// Every file as it stands on the disk.
    #[derive(Default)]
    struct Disk(BTreeMap<(Day, bool), String>);

    impl Disk {
        fn write(&mut self, books: &mut Books, now_ms: u64) {
            for Page { day, is_owed, text } in books.pages(now_ms, true) {
                match text {
                    Some(text) => drop(self.0.insert((day, is_owed), text)),
                    None => drop(self.0.remove(&(day, is_owed))),
                }
            }
        }

        fn read(&self, now_ms: u64) -> Books {
            let mut books = Books::default();
            for ((day, _), counts) in self.0.iter().filter(|((_, is_owed), _)| !is_owed) {
                let content = |text: &String| serde_json::from_str(text).unwrap();
                let (counts, owed) = (content(counts), self.0.get(&(*day, true)).map(content));
                books.read(*day, &counts, owed, now_ms, 0, &mut Rng::new(1));
            }
            books
        }
    }

    /// RPT-01: by UTC day, spread over the hours after midnight.
    #[test]
    fn a_day_is_owed_when_it_is_over() {
        let mut books = Books::default();
        for domain in 0..500 {
            books.count(seen(DAY, &format!("{domain}.test")));
        }
        books.count(seen(Day(DAY.0 + 1), "later.test"));
        let (delay_ms, mut rng) = (4 * 3_600_000, Rng::new(7));
        assert_eq!(books.close(MIDNIGHT_MS + GRACE_MS - 1, delay_ms, &mut rng), []);
        assert_eq!(books.due(u64::MAX, 10), []);
        assert_eq!(books.close(MIDNIGHT_MS + GRACE_MS, delay_ms, &mut rng), [(DAY, 0)]);
        assert_eq!(books.close(MIDNIGHT_MS + GRACE_MS, delay_ms, &mut rng), []);
        let half = books.due(MIDNIGHT_MS + delay_ms / 2, 1000).len();
        assert!((200..300).contains(&half), "{half}");
        let rest = books.due(MIDNIGHT_MS + delay_ms, 1000);
        assert_eq!(half + rest.len(), 500);
        assert!(rest.iter().all(|turn| turn.day == DAY && turn.left.is_none()));
        // Too late.
        books.count(seen(DAY, "0.test"));
        assert_eq!(books.counted(DAY, "0.test")[0].successes, 1);
    }

    /// RPT-01: over restarts and crashes at any moment nothing is sent twice, and what was not begun is sent.
    #[test]
    fn nothing_is_sent_twice() {
        let (mut books, mut disk) = (Books::default(), Disk::default());
        for domain in ["done.test", "begun.test", "failed.test", "new.test"] {
            books.count(seen(DAY, domain));
        }
        disk.write(&mut books, MIDNIGHT_MS - 5);
        let mut books = disk.read(MIDNIGHT_MS);
        let now_ms = MIDNIGHT_MS + GRACE_MS;
        assert_eq!(books.close(now_ms, 0, &mut Rng::new(1)).len(), 1);
        assert_eq!(books.due(now_ms, 3).len(), 3);
        for domain in ["done.test", "begun.test", "failed.test"] {
            books.begin(DAY, domain);
        }
        disk.write(&mut books, now_ms);
        books.settle(DAY, "done.test");
        assert!(books.put_back(DAY, "failed.test", Some(vec![web(), Destination::Mail("a@b.test".into())]), now_ms));
        disk.write(&mut books, now_ms);
        // As if after a crash.
        let mut again = disk.read(now_ms + 1);
        let turns = again.due(now_ms + 1, 10);
        let names: Vec<&str> = turns.iter().map(|turn| &*turn.domain).collect();
        assert_eq!(names, ["failed.test", "new.test"]);
        assert_eq!(turns[0].left, Some(vec![web(), Destination::Mail("a@b.test".into())]));
        assert_eq!(again.counted(DAY, "new.test").len(), 1);
        turns.iter().for_each(|turn| again.settle(DAY, &turn.domain));
        disk.write(&mut again, now_ms + 1);
        assert!(disk.0.is_empty(), "a day that is settled leaves nothing");
    }

    /// RFC 8460 5.5: tried for a day, more and more seldom.
    #[test]
    fn what_fails_is_tried_for_a_day() {
        let mut books = Books::default();
        books.count(seen(DAY, "a.test"));
        let start_ms = MIDNIGHT_MS + GRACE_MS;
        books.close(start_ms, 0, &mut Rng::new(1));
        let (mut now_ms, mut tries) = (start_ms, 0);
        loop {
            assert_eq!(books.due(now_ms, 9).len(), 1);
            assert_eq!(books.due(now_ms, 9).len(), 0, "one at a time");
            tries += 1;
            if !books.put_back(DAY, "a.test", Some(vec![web()]), now_ms) {
                break;
            }
            let pause = (limits::TLS_REPORT_RETRY_FIRST_MS << (tries - 1)).min(limits::TLS_REPORT_RETRY_LONGEST_MS);
            assert_eq!(books.due(now_ms + pause - 1, 9).len(), 0);
            now_ms += pause;
        }
        assert!((12..30).contains(&tries), "{tries}");
        assert!(now_ms - start_ms <= limits::TLS_REPORT_RETRIES_MS);
        assert!(books.due(u64::MAX, 9).is_empty());
    }

    #[test]
    fn old_days_are_thrown_away() {
        let (mut books, mut disk) = (Books::default(), Disk::default());
        books.count(seen(DAY, "a.test"));
        disk.write(&mut books, MIDNIGHT_MS - 5);
        assert_eq!(disk.0.len(), 1);
        disk.write(&mut books, MIDNIGHT_MS + limits::TLS_REPORT_KEEP_MS + 1);
        assert!(disk.0.is_empty() && books.days.is_empty());
    }
}
