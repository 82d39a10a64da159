//! Warming up a source: so many messages a day for each receiver, growing over weeks, kept over all shards and restarts.
//!
//! A receiver that has never heard of an address takes little from it at first. A source that is new has a list of messages a
//! day; what counts is **recipients offered** to a next hop, since receivers count mailboxes: a transaction with a hundred of
//! them is a hundred messages. They are counted by source and *receiver*: a provider, all of whose sites are one receiver; a
//! rule that has a list of its own; else a set of mail hosts or a smart host.
//!
//! One [`Book`] for all shards holds what was lent of each day's limit. A shard asks for a batch ahead of use; the book's keeper
//! writes it down before the shard hears of it, so that no crash makes a day's limit larger: what was lent and never used is
//! lost, an eighth of the limit at most where transactions have few recipients. A shard gives back what it does not need, and
//! who was refused before is told.
//!
//! Days are dates of the wall clock, in UTC. The book keeps the counts of the last few dates that it was asked about, so a date
//! that comes again, because the clock was set, goes on where it stopped.
//!
//! Pure. The book is its keeper's (`control::warm_up`); everything else is shard-local.

use std::fmt::Write as _;
use std::sync::Arc;

use rustc_hash::FxHashMap;

use crate::base::ids::ShardId;
use crate::base::limits;
use crate::config::SourceId;
use crate::mail::date::Day;

/// So many messages a day, from a first day on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Steps {
    /// The first day.
    pub began: Day,
    /// What each day may have, the first one's first; never empty.
    pub messages: Arc<[u32]>,
}

impl Steps {
    /// The number of a day, 1 for the first. Days before it are as it is: who sets a clock back gets no more by that.
    pub fn number(&self, today: Day) -> u32 {
        today.0.saturating_sub(self.began.0).saturating_add(1)
    }

    /// The limit of a day; `None`: none any more.
    pub fn limit(&self, today: Day) -> Option<u32> {
        self.messages.get(self.number(today) as usize - 1).copied()
    }
}

/// What is counted together: what one receiver sees of one source.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Count {
    /// The source's name.
    pub source: Arc<str>,
    /// The receiver: a rule's name, or that of a set of hosts.
    pub receiver: Arc<str>,
}

impl Count {
    /// Names that the book can hold: what would break its lines is replaced.
    pub fn new(source: &str, receiver: &str) -> Count {
        let clean = |text: &str| text.replace(char::is_control, "?").into();
        Count { source: clean(source), receiver: clean(receiver) }
    }
}

/// The warm-up that holds for a site.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WarmUp {
    /// With what its messages are counted.
    pub count: Count,
    /// Which list it is: a rule's name, or `default`.
    pub list: Box<str>,
    /// How many.
    pub steps: Steps,
    /// Where what is above goes from instead, and from there on; empty: it waits.
    pub overflow: Arc<[SourceId]>,
    /// The same in words.
    pub above: Arc<str>,
}

impl WarmUp {
    /// What a shard asks for ahead of use: so much of a day's limit that all shards together have an eighth.
    pub fn batch(limit: u32, shards: u16) -> u32 {
        (limit / limits::WARM_UP_BATCHES / u32::from(shards)).max(1)
    }
}

/// What a shard has to say to the book.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// It would offer so many recipients today. Answered once, by `Lent` or `Failed`.
    Lend {
        /// Of what.
        count: Count,
        /// Today.
        day: Day,
        /// How many, at least 1.
        recipients: u32,
        /// The day's limit, by the settings that the shard has.
        limit: u32,
        /// What becomes of what is above, in words.
        above: Arc<str>,
    },
    /// It does not need so many of those that it was lent on a day.
    Return {
        /// Of what.
        count: Count,
        /// The day.
        day: Day,
        /// How many.
        recipients: u32,
    },
    /// What was refused before has no limit any more.
    Over {
        /// Of what.
        count: Count,
    },
}

/// What the book has to say to a shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// Of what.
    pub count: Count,
    /// Of which day.
    pub day: Day,
    /// What there is to say.
    pub word: Word,
}

/// What there is to say of a count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Word {
    /// So many may be offered. Fewer than were asked for: there are no more, for now.
    Lent {
        /// How many.
        recipients: u32,
        /// What is lent by now, to all.
        used: u32,
    },
    /// To a shard that had fewer than it asked for: some came back, it may ask again.
    Back,
    /// Nothing could be written down: it may ask again later.
    Failed,
}

/// What follows from a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// To be told to a shard, once what the book says is on disk.
    Tell(ShardId, Notice),
    /// To be told to the operator.
    Report(String),
}

/// What was lent, of all counts and the last few days.
#[derive(Debug, Default)]
pub struct Book {
    counts: FxHashMap<Count, Counted>,
}

#[derive(Debug, Default)]
struct Counted {
    /// By day, the one asked about last at the end.
    days: Vec<(Day, u32)>,
    /// Who had fewer than it asked for.
    refused: Vec<ShardId>,
    /// The day and limit for which that was reported.
    reported: Option<(Day, u32)>,
}

impl Counted {
    /// What was lent of a day, which is the one asked about last from here on.
    fn of_day(&mut self, day: Day) -> &mut u32 {
        let lent = match self.days.iter().position(|(other, _)| *other == day) {
            Some(at) => self.days.remove(at).1,
            None => 0,
        };
        if self.days.len() >= limits::WARM_UP_DAYS_KEPT {
            self.days.remove(0);
        }
        self.days.push((day, lent));
        &mut self.days.last_mut().expect("it was just pushed").1
    }

    fn last_day(&self) -> Option<Day> {
        self.days.last().map(|(day, _)| *day)
    }
}

impl Book {
    /// Reads what [`Book::text`] wrote; the error names the line.
    pub fn parse(text: &str) -> Result<Book, String> {
        let mut book = Book::default();
        for (number, line) in text.lines().enumerate() {
            let wrong = || format!("line {}: want DAY, MESSAGES, SOURCE and RECEIVER with tabs between", number + 1);
            let parts: Vec<&str> = line.split('\t').collect();
            let [day, lent, source, receiver] = parts.try_into().map_err(|_| wrong())?;
            let (day, lent) = (Day::parse(day).ok_or_else(wrong)?, lent.parse().map_err(|_| wrong())?);
            *book.counts.entry(Count::new(source, receiver)).or_default().of_day(day) = lent;
        }
        Ok(book)
    }

    /// The whole book, a line for each count and day.
    pub fn text(&self) -> String {
        let mut lines: Vec<(&Count, &Counted)> = self.counts.iter().collect();
        lines.sort_by_key(|(count, _)| *count);
        let mut text = String::new();
        for (Count { source, receiver }, counted) in lines {
            for (day, lent) in &counted.days {
                writeln!(text, "{day}\t{lent}\t{source}\t{receiver}").expect("a string takes all");
            }
        }
        text
    }

    /// What was lent of a day.
    pub fn lent(&self, count: &Count, day: Day) -> u32 {
        let days = self.counts.get(count).map_or(&[][..], |counted| &counted.days);
        days.iter().find(|(other, _)| *other == day).map_or(0, |(_, lent)| *lent)
    }

    /// Does what a shard asks for, and gives what is to be told. True if the book is to be written before anybody is.
    pub fn serve(&mut self, from: ShardId, request: Request, out: &mut Vec<Outcome>) -> bool {
        match request {
            Request::Lend { count, day, recipients, limit, above } => {
                assert!(recipients > 0, "a request is for something");
                let known = self.counts.contains_key(&count);
                if !known && !self.has_room(day) {
                    out.push(Outcome::Tell(from, Notice { count, day, word: Word::Failed }));
                    return false;
                }
                let Count { source, receiver } = &count;
                let counted = self.counts.entry(count.clone()).or_default();
                let used = counted.of_day(day);
                let lent = recipients.min(limit.saturating_sub(*used));
                *used += lent;
                let used = *used;
                if lent < recipients {
                    if !counted.refused.contains(&from) {
                        counted.refused.push(from);
                    }
                    if counted.reported.replace((day, limit)) != Some((day, limit)) {
                        let text = format!(
                            "warm-up of source {source}: all {limit} messages of {day} for {receiver} are used up; what is above {above}"
                        );
                        out.push(Outcome::Report(text));
                    }
                } else if counted.reported.is_some_and(|at| at != (day, limit)) {
                    counted.reported = None;
                    let text = format!(
                        "warm-up of source {source}: mail for {receiver} flows again, {limit} messages on {day}"
                    );
                    out.push(Outcome::Report(text));
                }
                out.push(Outcome::Tell(from, Notice { count, day, word: Word::Lent { recipients: lent, used } }));
                lent > 0
            }
            Request::Return { count, day, recipients } => {
                let Some(counted) = self.counts.get_mut(&count) else { return false };
                let Some((_, lent)) = counted.days.iter_mut().find(|(other, _)| *other == day) else { return false };
                *lent = lent.saturating_sub(recipients);
                let word = Word::Back;
                let told = counted.refused.drain(..).filter(|shard| *shard != from);
                out.extend(told.map(|shard| Outcome::Tell(shard, Notice { count: count.clone(), day, word })));
                // A crash before the next writing wastes what came back, and nothing else.
                false
            }
            Request::Over { count } => {
                if let Some(counted) = self.counts.get_mut(&count)
                    && counted.reported.take().is_some()
                {
                    let Count { source, receiver } = &count;
                    let text =
                        format!("warm-up of source {source}: mail for {receiver} flows again, without a limit a day");
                    out.push(Outcome::Report(text));
                }
                false
            }
        }
    }

    /// What was lent could not be written down: it is taken back, and nobody is told that it was lent.
    pub fn failed(&mut self, out: &mut [Outcome]) {
        for outcome in out {
            if let Outcome::Tell(_, Notice { count, day, word }) = outcome
                && let Word::Lent { recipients, .. } = *word
            {
                // It may have made room for others of another day since, and have come back with less.
                let counted = self
                    .counts
                    .get_mut(count)
                    .and_then(|counted| counted.days.iter_mut().find(|(other, _)| other == day).map(|(_, lent)| lent));
                counted.into_iter().for_each(|lent| *lent = lent.saturating_sub(recipients));
                *word = Word::Failed;
            }
        }
    }

    /// True if one more count can be kept. When there are too many, those of other days make room.
    fn has_room(&mut self, day: Day) -> bool {
        if self.counts.len() >= limits::WARM_UP_COUNTS_MAX {
            self.counts.retain(|_, counted| counted.last_day() == Some(day));
        }
        self.counts.len() < limits::WARM_UP_COUNTS_MAX
    }
}

#[cfg(test)]
mod tests;
