//! Keys by which a request that is sent again is known for the same: it gets the first one's answer and makes no second
//! message (`Idempotency-Key`).
//!
//! Kept in memory for `limits::IDEMPOTENCY_KEEP_MS`, so many and so long answers at most; when they are too many the
//! oldest are forgotten first. A restart forgets all. Only what made messages is remembered: after a refusal the same
//! key may be tried again.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher as _, RandomState};
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use axum::http::StatusCode;

use crate::base::limits;

/// Whose key, and which.
type Name = (IpAddr, Box<str>);

/// An answer as it is given again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) body: String,
}

struct Entry {
    /// Of the request's body and address, so that another request with the same key is told.
    fingerprint: u64,
    /// None while the first request is under way.
    answer: Option<Answer>,
    /// Tells a forgotten life of the name from this one.
    number: u64,
}

#[derive(Default)]
struct Table {
    entries: HashMap<Name, Entry>,
    /// Answered entries in order of age.
    ages: VecDeque<(Instant, u64, Name)>,
    answers_bytes: usize,
    next: u64,
}

/// All keys that are known.
#[derive(Default)]
pub(super) struct Keys {
    table: Mutex<Table>,
    hasher: RandomState,
}

/// What a key says of a request.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Known {
    /// Nothing: do it, then call `end` with the number.
    New(u64),
    /// The same request is under way.
    UnderWay,
    /// The same request was done.
    Done(Answer),
    /// Another request has this key.
    Another,
}

impl Keys {
    /// Nothing that runs under the lock can leave the table half changed.
    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins a request, or says what is known of its key.
    pub(super) fn begin(&self, now: Instant, peer: IpAddr, key: &str, request: &[&[u8]]) -> Known {
        let fingerprint = self.hasher.hash_one(request);
        let name = (peer, key.into());
        let mut table = self.table();
        table.forget_old(now);
        match table.entries.get(&name) {
            Some(entry) if entry.fingerprint != fingerprint => Known::Another,
            Some(Entry { answer: Some(answer), .. }) => Known::Done(answer.clone()),
            Some(_) => Known::UnderWay,
            None => {
                table.next += 1;
                let number = table.next;
                table.entries.insert(name, Entry { fingerprint, answer: None, number });
                Known::New(number)
            }
        }
    }

    /// A request is over: its answer is remembered, or with none its key is free again.
    pub(super) fn end(&self, now: Instant, peer: IpAddr, key: &str, number: u64, answer: Option<Answer>) {
        let name: Name = (peer, key.into());
        let mut table = self.table();
        let Some(entry) = table.entries.get_mut(&name).filter(|entry| entry.number == number) else { return };
        match answer {
            None => drop(table.entries.remove(&name)),
            Some(answer) => {
                let bytes = answer.body.len();
                entry.answer = Some(answer);
                table.answers_bytes += bytes;
                table.ages.push_back((now, number, name));
                table.forget_old(now);
            }
        }
    }
}

impl Table {
    fn forget_old(&mut self, now: Instant) {
        let keep = Duration::from_millis(limits::IDEMPOTENCY_KEEP_MS);
        while let Some((born, number, name)) = self.ages.front() {
            let crowded = self.ages.len() > limits::IDEMPOTENCY_KEYS_MAX
                || self.answers_bytes > limits::IDEMPOTENCY_ANSWERS_MAX_BYTES;
            if !crowded && now.saturating_duration_since(*born) < keep {
                return;
            }
            if self.entries.get(name).is_some_and(|entry| entry.number == *number) {
                let gone = self.entries.remove(name).and_then(|entry| entry.answer);
                self.answers_bytes -= gone.map_or(0, |answer| answer.body.len());
            }
            self.ages.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    fn new(keys: &Keys, now: Instant, key: &str, body: &str) -> u64 {
        match keys.begin(now, PEER, key, &[body.as_bytes()]) {
            Known::New(number) => number,
            other => panic!("{key} is known: {other:?}"),
        }
    }

    #[test]
    fn a_key_has_one_life() {
        let (keys, now) = (Keys::default(), Instant::now());
        let number = new(&keys, now, "a", "x");
        assert_eq!(keys.begin(now, PEER, "a", &[b"x"]), Known::UnderWay);
        assert_eq!(keys.begin(now, PEER, "a", &[b"y"]), Known::Another);
        keys.end(now, PEER, "a", number, None);
        let number = new(&keys, now, "a", "y");
        let answer = Answer { status: StatusCode::ACCEPTED, body: "{}".into() };
        keys.end(now, PEER, "a", number, Some(answer.clone()));
        assert_eq!(keys.begin(now, PEER, "a", &[b"y"]), Known::Done(answer));
        assert_eq!(keys.begin(now, PEER, "a", &[b"x"]), Known::Another);
        assert!(
            matches!(keys.begin(now, "::1".parse().unwrap(), "a", &[b"x"]), Known::New(_)),
            "keys of another client"
        );
        let later = now + Duration::from_millis(limits::IDEMPOTENCY_KEEP_MS);
        new(&keys, later, "a", "z");
    }

    #[test]
    fn too_many_answers_push_out_the_oldest() {
        let (keys, now) = (Keys::default(), Instant::now());
        let body = "x".repeat(limits::IDEMPOTENCY_ANSWERS_MAX_BYTES / 4);
        for key in 0..6 {
            let number = new(&keys, now, &key.to_string(), "x");
            let answer = Answer { status: StatusCode::ACCEPTED, body: body.clone() };
            keys.end(now, PEER, &key.to_string(), number, Some(answer));
        }
        let table = keys.table();
        assert_eq!((table.entries.len(), table.ages.len(), table.answers_bytes), (4, 4, 4 * body.len()));
        assert!(table.entries.contains_key(&(PEER, "5".into())) && !table.entries.contains_key(&(PEER, "1".into())));
    }
}
