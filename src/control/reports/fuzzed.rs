//! The readers of this room behind plain types, for the fuzzer (`tests/fuzz`): the two files of a day. Nobody else calls them.

use serde_json::{Map, Value};

use super::books::{Books, Turn};
use super::document;
use crate::base::rng::Rng;
use crate::mail::date::Day;
use crate::mail::tls_report::About;
use crate::route::reports::record::Destination;

/// What a day's file of counts says, as it is written; `None`: it is no object of JSON.
pub fn counts(text: &[u8]) -> Option<String> {
    let whole: Map<String, Value> = serde_json::from_slice(text).ok()?;
    Some(document::day_text(&document::read_day(&whole)))
}

/// The reports that follow from a day's file of counts, by domain.
pub fn documents(text: &[u8]) -> Vec<(String, String)> {
    let whole: Map<String, Value> = serde_json::from_slice(text).unwrap_or_default();
    let day = document::read_day(&whole);
    let report = |(domain, counted): (&str, _)| {
        let about = About { day: Day(20_000), domain, submitter: "a.example", relay: "relay.example" };
        (domain.to_owned(), document::report(&about, "A", "tls@a.example", counted))
    };
    day.domains().map(report).collect()
}

/// Whose report is owed, and to whom as far as that is known.
pub type Owed = (String, Option<Vec<Destination>>);

/// What a day's file of owed reports says; and the file that says so after each of them failed once more, if any is left. `None`: it is
/// no object of JSON.
pub fn owed(text: &[u8], now_ms: u64) -> Option<(Vec<Owed>, Option<String>)> {
    let day = Day(20_000);
    let mut books = Books::default();
    let file = serde_json::from_slice(text).ok()?;
    books.read(day, &Map::new(), Some(file), now_ms, 0, &mut Rng::new(1));
    let turns = books.due(u64::MAX, usize::MAX);
    for Turn { domain, left, .. } in turns.clone() {
        books.begin(day, &domain);
        books.put_back(day, &domain, left, now_ms);
    }
    let page = books.pages(0, false).into_iter().find(|page| page.is_owed).and_then(|page| page.text);
    Some((turns.into_iter().map(|turn| (turn.domain.into(), turn.left)).collect(), page))
}
