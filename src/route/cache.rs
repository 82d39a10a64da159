//! What DNS said, remembered for as long as it is good (RTE-09), negative answers too.
//!
//! Pure, shard-local. Bounded by two halves: new answers go into the young one; when it is full it becomes the old one
//! and what was old is forgotten. An answer that is used moves back to the young half, so the busy domains stay.

use std::rc::Rc;

use rustc_hash::FxHashMap;

use super::{Answer, Question};
use crate::base::limits;
use crate::base::time::Mono;

struct Entry {
    answer: Rc<Answer>,
    until: Mono,
}

/// Answers by question.
#[derive(Default)]
pub struct Cache {
    young: FxHashMap<Question, Entry>,
    old: FxHashMap<Question, Entry>,
}

/// Questions of one half.
const HALF: usize = limits::DNS_CACHE_DOMAINS_MAX / 2;

impl Cache {
    /// Knows nothing.
    pub fn new() -> Cache {
        Cache::default()
    }

    /// What was said to a question, if it is still good.
    pub fn get(&mut self, now: Mono, question: &Question) -> Option<Rc<Answer>> {
        if let Some(entry) = self.young.get(question) {
            return (now < entry.until).then(|| entry.answer.clone());
        }
        let (question, entry) = self.old.remove_entry(question)?;
        if now >= entry.until {
            return None;
        }
        let answer = entry.answer.clone();
        self.keep(question, entry);
        Some(answer)
    }

    /// Remembers an answer; replaces an earlier one.
    pub fn put(&mut self, now: Mono, question: Question, answer: Answer) -> Rc<Answer> {
        let until = now.plus_ms(u64::from(good_for_s(&answer)) * 1000);
        let answer = Rc::new(answer);
        self.old.remove(&question);
        self.keep(question, Entry { answer: answer.clone(), until });
        answer
    }

    /// Until when the answer that `get` or `put` just gave to a question is good.
    pub fn good_until(&self, question: &Question) -> Mono {
        self.young.get(question).map_or(Mono(0), |entry| entry.until)
    }

    /// Questions known, their answers good or not.
    pub fn len(&self) -> usize {
        self.young.len() + self.old.len()
    }

    /// True if nothing is known.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn keep(&mut self, question: Question, entry: Entry) {
        if self.young.len() >= HALF {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(question, entry);
        assert!(self.len() <= limits::DNS_CACHE_DOMAINS_MAX, "the cache has outgrown its bound");
    }
}

/// How long an answer is used, in seconds: its TTL within bounds.
fn good_for_s(answer: &Answer) -> u32 {
    match *answer {
        Answer::Mail { ttl_s, .. } => ttl_s.clamp(limits::DNS_TTL_MIN_S, limits::DNS_TTL_MAX_S),
        Answer::NullMx { ttl_s } | Answer::NoSuchDomain { ttl_s } => {
            ttl_s.clamp(limits::DNS_TTL_MIN_S, limits::DNS_NEGATIVE_TTL_MAX_S)
        }
        Answer::Temporary { .. } => limits::DNS_FAILURE_TTL_S,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Mono = Mono(0);

    fn ask(name: &str) -> Question {
        Question { name: name.into(), address_only: false, tlsa_port: None, sts: false }
    }

    /// RTE-09.
    #[test]
    fn answers_are_good_for_their_ttl_within_bounds() {
        let mut cache = Cache::new();
        for (answer, good_s) in [
            (Answer::Mail { hosts: vec![], ttl_s: 60, sts: None }, 60),
            (Answer::Mail { hosts: vec![], ttl_s: 0, sts: None }, u64::from(limits::DNS_TTL_MIN_S)),
            (Answer::Mail { hosts: vec![], ttl_s: u32::MAX, sts: None }, u64::from(limits::DNS_TTL_MAX_S)),
            (Answer::NullMx { ttl_s: u32::MAX }, u64::from(limits::DNS_NEGATIVE_TTL_MAX_S)),
            (Answer::NoSuchDomain { ttl_s: 60 }, 60),
            (Answer::Temporary { text: "x".into() }, u64::from(limits::DNS_FAILURE_TTL_S)),
        ] {
            cache.put(START, ask("a"), answer.clone());
            assert_eq!(cache.get(START.plus_ms(good_s * 1000 - 1), &ask("a")).as_deref(), Some(&answer));
            assert_eq!(cache.get(START.plus_ms(good_s * 1000), &ask("a")), None);
            assert_eq!(cache.get(START, &Question { address_only: true, ..ask("a") }), None);
            assert_eq!(cache.get(START, &Question { tlsa_port: Some(25), ..ask("a") }), None);
        }
    }

    #[test]
    fn bounded_and_what_is_used_stays() {
        let mut cache = Cache::new();
        let answer = Answer::Mail { hosts: vec![], ttl_s: 60, sts: None };
        cache.put(START, ask("busy"), answer.clone());
        for i in 0..3 * limits::DNS_CACHE_DOMAINS_MAX {
            cache.put(START, ask(&format!("d{i}")), answer.clone());
            if i % 1000 == 0 {
                assert!(cache.get(START, &ask("busy")).is_some());
            }
        }
        assert!(cache.len() <= limits::DNS_CACHE_DOMAINS_MAX);
        assert!(cache.get(START, &ask("d0")).is_none());
    }
}
