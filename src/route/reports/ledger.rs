//! A day's sessions, added up by domain and policy, as its reports will tell (RFC 8460 4.4).
//!
//! Pure, and bounded: domains, policies of a domain, rows of failures, and bytes of the whole day. A failure for which there is no
//! row any more is counted in one of its kind alone, so that the sums stay right; what finds no place at all is counted as left out.
//! Counts that a file has may be of any size: sums stop at the largest number.

use std::collections::BTreeMap;

use super::{Applied, Failure, ResultType, Seen};
use crate::base::limits;

/// What keeping a name and its numbers costs beside its text, about.
const ENTRY_BYTES: usize = 200;

/// The sessions under one policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counted {
    /// Which policy.
    pub policy: Applied,
    /// Sessions in TLS as it wants.
    pub successes: u64,
    /// Failures, and sessions in which each was seen.
    pub failures: Vec<(Failure, u64)>,
}

impl Counted {
    /// Sessions that failed.
    pub fn failed(&self) -> u64 {
        sum(&self.failures)
    }
}

fn sum(failures: &[(Failure, u64)]) -> u64 {
    failures.iter().fold(0, |sum, (_, count)| sum.saturating_add(*count))
}

/// What was counted on one day.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    domains: BTreeMap<Box<str>, Vec<Counted>>,
    bytes: usize,
    left_out: u64,
}

impl Tally {
    /// Counts what was seen on it.
    pub fn count(&mut self, seen: Seen) {
        let Seen { domain, policy, failure, .. } = seen;
        self.add(
            domain,
            Counted {
                policy,
                successes: failure.is_none().into(),
                failures: failure.map(|f| (f, 1)).into_iter().collect(),
            },
        );
    }

    /// Adds sessions that were counted before.
    pub fn add(&mut self, domain: Box<str>, counted: Counted) {
        let Counted { policy, successes, failures } = counted;
        let room = self.bytes < limits::TLS_REPORT_DAY_MAX_BYTES;
        let Some(place) = self.place(domain, policy, room) else {
            self.leave_out(successes.saturating_add(sum(&failures)));
            return;
        };
        let mut bytes = 0;
        place.successes = place.successes.saturating_add(successes);
        for (failure, count) in failures {
            bytes += place.add_failure(failure, count, room);
        }
        self.bytes += bytes;
    }

    /// Where sessions of a domain under a policy are counted; `None`: there is no place.
    fn place(&mut self, domain: Box<str>, policy: Applied, room: bool) -> Option<&mut Counted> {
        if !self.domains.contains_key(&domain) {
            if !room || self.domains.len() >= limits::TLS_REPORT_DOMAINS_MAX {
                return None;
            }
            self.bytes += ENTRY_BYTES + domain.len();
            self.domains.insert(domain.clone(), Vec::new());
        }
        let policies = self.domains.get_mut(&domain)?;
        if let Some(at) = policies.iter().position(|known| known.policy == policy) {
            return Some(&mut policies[at]);
        }
        if !room || policies.len() >= limits::TLS_REPORT_POLICIES_MAX {
            return None;
        }
        let texts = policy.text.iter().chain(&policy.hosts).map(|text| text.len() + 16).sum::<usize>();
        self.bytes += ENTRY_BYTES + policy.domain.len() + texts;
        policies.push(Counted { policy, successes: 0, failures: Vec::new() });
        policies.last_mut()
    }

    /// Sessions for which there was no place.
    pub fn left_out(&self) -> u64 {
        self.left_out
    }

    /// Some were left out on the way here.
    pub fn leave_out(&mut self, sessions: u64) {
        self.left_out = self.left_out.saturating_add(sessions);
    }

    /// All domains, in order.
    pub fn domains(&self) -> impl Iterator<Item = (&str, &[Counted])> {
        self.domains.iter().map(|(domain, counted)| (&**domain, &counted[..]))
    }

    /// What was counted for a domain.
    pub fn of(&self, domain: &str) -> Option<&[Counted]> {
        self.domains.get(domain).map(Vec::as_slice)
    }

    /// Nothing was counted.
    pub fn is_empty(&self) -> bool {
        self.domains.is_empty()
    }
}

impl Counted {
    /// Gives the bytes that a new row costs.
    fn add_failure(&mut self, failure: Failure, count: u64, room: bool) -> usize {
        let known = |rows: &[(Failure, u64)], failure: &Failure| rows.iter().position(|(row, _)| row == failure);
        if let Some(at) = known(&self.failures, &failure) {
            self.add_to(at, count);
            return 0;
        }
        if room && self.failures.len() < limits::TLS_REPORT_ROWS_MAX {
            let bytes = ENTRY_BYTES + failure.reason.len() + failure.host.len() + failure.hello.len();
            self.failures.push((failure, count));
            return bytes;
        }
        let bare = bare(failure.result);
        match known(&self.failures, &bare) {
            Some(at) => self.add_to(at, count),
            // One for each kind at most.
            None => self.failures.push((bare, count)),
        }
        0
    }

    fn add_to(&mut self, row: usize, count: u64) {
        let (_, sum) = &mut self.failures[row];
        *sum = sum.saturating_add(count);
    }
}

/// A failure of which nothing but its kind is told.
fn bare(result: ResultType) -> Failure {
    Failure { result, reason: "".into(), sending: None, host: "".into(), hello: "".into(), receiving: None }
}

#[cfg(test)]
mod tests {
    use super::super::PolicyKind;
    use super::*;
    use crate::mail::date::Day;
    use proptest::prelude::*;

    fn policy(domain: &str) -> Applied {
        Applied { kind: PolicyKind::None, text: vec![], domain: domain.into(), hosts: vec![] }
    }

    fn seen(domain: &str, under: &str, failure: Option<(ResultType, &str)>) -> Seen {
        let failure = failure.map(|(result, host)| Failure { host: host.into(), ..bare(result) });
        Seen { day: Day(1), domain: domain.into(), policy: policy(under), failure }
    }

    /// RPT-01: sessions that are alike are one row.
    #[test]
    fn sessions_are_added_up() {
        let mut day = Tally::default();
        for _ in 0..3 {
            day.count(seen("a.test", "a.test", None));
            day.count(seen("a.test", "mx.test", Some((ResultType::Expired, "mx.test"))));
        }
        day.count(seen("a.test", "mx.test", Some((ResultType::NotTrusted, "mx.test"))));
        let counted = day.of("a.test").unwrap();
        assert_eq!((counted[0].successes, counted[0].failed()), (3, 0));
        assert_eq!((counted[1].successes, counted[1].failed()), (0, 4));
        let rows: Vec<_> = counted[1].failures.iter().map(|(row, count)| (row.result, *count)).collect();
        assert_eq!(rows, [(ResultType::Expired, 3), (ResultType::NotTrusted, 1)]);
        assert_eq!(day.domains().count(), 1);
    }

    #[test]
    fn sums_stop_at_the_largest_number() {
        let mut day = Tally::default();
        let failures = |result| vec![(Failure { host: "a".into(), ..bare(result) }, u64::MAX)];
        for result in [ResultType::Expired, ResultType::Expired, ResultType::NotTrusted] {
            let counted = Counted { policy: policy("a"), successes: u64::MAX, failures: failures(result) };
            day.add("a.test".into(), counted);
            day.leave_out(u64::MAX);
        }
        let counted = &day.of("a.test").unwrap()[0];
        assert_eq!([counted.successes, counted.failed(), day.left_out()], [u64::MAX; 3]);
    }

    /// RPT-01: what is over a bound is counted, and never kept.
    #[test]
    fn all_is_bounded() {
        let mut day = Tally::default();
        for host in 0..limits::TLS_REPORT_ROWS_MAX + 5 {
            day.count(seen("a.test", "a.test", Some((ResultType::Expired, &format!("{host}.test")))));
        }
        let counted = &day.of("a.test").unwrap()[0];
        assert_eq!(counted.failed(), limits::TLS_REPORT_ROWS_MAX as u64 + 5);
        assert_eq!(counted.failures.len(), limits::TLS_REPORT_ROWS_MAX + 1);
        assert_eq!(counted.failures.last().unwrap(), &(bare(ResultType::Expired), 5));
        for policy in 0..limits::TLS_REPORT_POLICIES_MAX + 2 {
            day.count(seen("b.test", &format!("{policy}.test"), None));
        }
        assert_eq!(day.of("b.test").unwrap().len(), limits::TLS_REPORT_POLICIES_MAX);
        assert_eq!(day.left_out(), 2);
        for domain in 0..limits::TLS_REPORT_DOMAINS_MAX {
            day.count(seen(&format!("{domain}.test"), "x.test", None));
        }
        assert_eq!(day.domains().count(), limits::TLS_REPORT_DOMAINS_MAX);
        assert_eq!(day.left_out(), 4);
        // Known ones go on.
        day.count(seen("a.test", "a.test", None));
        assert_eq!((day.of("a.test").unwrap()[0].successes, day.left_out()), (1, 4));
    }

    #[test]
    fn a_day_has_so_many_bytes() {
        let mut day = Tally::default();
        let long = "x".repeat(limits::TLS_REPORT_POLICY_MAX_BYTES - 1);
        let mut count = 0;
        while day.left_out() == 0 {
            let policy = Applied { text: vec![long.as_str().into()], ..policy("a.test") };
            day.count(Seen { policy, ..seen(&format!("{count}.test"), "", None) });
            count += 1;
        }
        assert!(day.bytes < limits::TLS_REPORT_DAY_MAX_BYTES + 2 * limits::TLS_REPORT_POLICY_MAX_BYTES);
        day.count(seen("0.test", "0.test", None));
        assert_eq!(day.left_out(), 2);
    }

    proptest! {
        /// Sums are those of a naive list, whatever comes in which order.
        #[test]
        fn sums_are_right(all in prop::collection::vec((0..4u8, 0..3u8, prop::option::of((0..10usize, 0..90u8))), 0..300)) {
            let mut day = Tally::default();
            for (domain, under, failure) in &all {
                let host = failure.map(|(result, host)| (ResultType::ALL[result], format!("{host}.test")));
                let failure = host.as_ref().map(|(result, host)| (*result, host.as_str()));
                day.count(seen(&domain.to_string(), &under.to_string(), failure));
            }
            for (domain, counted) in day.domains() {
                for of in counted {
                    let same = || all.iter().filter(|(d, u, _)| d.to_string() == domain && u.to_string() == *of.policy.domain);
                    prop_assert_eq!(of.successes, same().filter(|(.., failure)| failure.is_none()).count() as u64);
                    for result in ResultType::ALL {
                        let naive = same().filter(|(.., f)| f.is_some_and(|(r, _)| ResultType::ALL[r] == result)).count() as u64;
                        let told: u64 = of.failures.iter().filter(|(f, _)| f.result == result).map(|(_, n)| n).sum();
                        prop_assert_eq!(told, naive);
                    }
                }
            }
            prop_assert_eq!(day.left_out(), 0);
        }
    }
}
