//! MTA-STS policies kept on disk: a naive reader finds the same ones at any moment, none that could not have been
//! fetched and none for longer than it said when it was; what is kept is written as it reads (STS-01, STS-03).

use std::collections::BTreeMap;

use ringpost::base::limits::{STS_HOSTS_MAX, STS_POLICIES_MAX};
use ringpost::route::sts::{Mode, Policies, Policy, Sts};

/// A clock that was never set, one that is right, and one far ahead.
const MOMENTS_S: [u64; 3] = [0, 1_800_000_000, u64::MAX - (1 << 40)];

/// Any bytes that are a text are a file. Its numbers are moments, too.
pub fn run(data: &[u8]) {
    let Ok(text) = str::from_utf8(data) else { return };
    let written = text.split(|c: char| !c.is_ascii_digit()).filter_map(|number| number.parse::<u64>().ok());
    let moments = written.filter(|moment_s| *moment_s < MOMENTS_S[2]).flat_map(|moment_s| [moment_s, moment_s + 1]);
    for now_s in MOMENTS_S.into_iter().chain(moments.take(10)) {
        let policies = Policies::read(text, now_s);
        let kept = naive(text, now_s);
        assert!(kept.len() <= STS_POLICIES_MAX, "no input is that long");
        let mut lines: Vec<String> = kept.iter().map(|(domain, line)| line.text(domain)).collect();
        lines.sort();
        let written = policies.text();
        assert_eq!(sorted(&written), lines);
        assert_eq!(sorted(&Policies::read(&written, now_s).text()), lines);
        for (domain, line) in &kept {
            let silent = || Err("no record".into());
            let look = |now_s| policies.look(domain, &silent(), now_s);
            let Some(Sts::Known { policy, id, .. }) = look(now_s) else { panic!("{domain} is lost") };
            assert_eq!((&*policy, &*id), (&line.policy, &*line.id));
            assert!(line.until_s - line.fetched_s <= u64::from(policy.max_age_s), "no longer than it may say");
            assert!(matches!(look(line.until_s), Some(Sts::Absent { .. })), "its time is up");
            // The same id is asked for again sooner or later.
            assert!(policies.look(domain, &Ok(id.clone()), line.until_s).is_none());
            assert!(policies.look(domain, &Ok("another".into()), now_s).is_none() || &*id == "another");
        }
    }
}

fn sorted(text: &str) -> Vec<String> {
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    lines.sort();
    lines
}

struct Line {
    id: String,
    fetched_s: u64,
    until_s: u64,
    policy: Policy,
}

impl Line {
    fn text(&self, domain: &str) -> String {
        let Line { id, fetched_s, until_s, policy } = self;
        let (mode, age_s, hosts) = (policy.mode.name(), policy.max_age_s, policy.hosts.join(" "));
        format!("{domain} {id} {fetched_s} {until_s} {mode} {age_s} {hosts}")
    }
}

/// Word by word; a policy is read as if a web server had it.
fn naive(text: &str, now_s: u64) -> BTreeMap<String, Line> {
    let mut kept = BTreeMap::new();
    for line in text.split('\n') {
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        let [domain, id, fetched, until, mode, age, hosts @ ..] = &words[..] else { continue };
        let number = |text: &str| text.parse::<u64>().ok();
        let (Some(fetched_s), Some(until_s)) = (number(fetched), number(until)) else { continue };
        let mut policy = format!("version: STSv1\nmode: {mode}\nmax_age: {age}\n");
        hosts.iter().for_each(|host| policy += &format!("mx: {host}\n"));
        let Ok(policy) = Policy::parse(policy.as_bytes()) else { continue };
        let good = (1..=32).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_alphanumeric());
        let Some(latest_s) = fetched_s.checked_add(policy.max_age_s.into()) else { continue };
        if !good || until_s < fetched_s || until_s > latest_s || until_s <= now_s {
            continue;
        }
        assert!(hosts.len() <= STS_HOSTS_MAX && (policy.mode == Mode::None || !hosts.is_empty()));
        kept.insert((*domain).to_owned(), Line { id: (*id).to_owned(), fetched_s, until_s, policy });
    }
    kept
}
