//! MTA-STS: what a domain publishes of its mail hosts and their TLS (RFC 8461), read, matched, and kept for as long as it says.
//!
//! Pure; fetching is `control::sts`'s, and time is what it says. Whatever a domain publishes is an error at worst, and what cannot
//! be read is no policy. A policy that was fetched once stays in force until its time is up, whatever becomes of its record and
//! its web server: else whoever can forge DNS could take it away (STS-03).

use std::fmt::Write as _;
use std::sync::Arc;

use rustc_hash::FxHashMap;

use super::reports::ResultType;
use crate::base::limits;
use crate::config::settings::is_label;

/// What a TXT record of `_mta-sts` begins with if it is one (RFC 8461 3.1).
const RECORD_HEAD: &str = "v=STSv1;";

/// What a sender is to make of a host that the policy does not allow (RFC 8461 5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Not to deliver to it.
    Enforce,
    /// To deliver, and to note it.
    Testing,
    /// As if there were no policy.
    None,
}

impl Mode {
    /// As the policy has it.
    pub fn name(self) -> &'static str {
        match self {
            Mode::Enforce => "enforce",
            Mode::Testing => "testing",
            Mode::None => "none",
        }
    }

    fn parse(text: &str) -> Option<Mode> {
        [Mode::Enforce, Mode::Testing, Mode::None].into_iter().find(|mode| mode.name() == text)
    }
}

/// A policy (RFC 8461 3.2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// What follows from it.
    pub mode: Mode,
    /// It stays in force for so long after it was fetched, in seconds, at most `limits::STS_AGE_MAX_S`.
    pub max_age_s: u32,
    /// The mail hosts, in lower case: a name, or `*.` and the name below which they are.
    pub hosts: Box<[Box<str>]>,
}

impl Policy {
    /// Reads what a web server has. The error says what is wrong.
    pub fn parse(text: &[u8]) -> Result<Policy, &'static str> {
        let text = str::from_utf8(text).map_err(|_| "it is no text in UTF-8")?;
        let (mut version, mut mode, mut max_age_s, mut hosts) = (None, None, None, Vec::new());
        for line in text.split('\n') {
            let line = line.strip_suffix('\r').unwrap_or(line).trim_end_matches([' ', '\t']);
            if line.is_empty() {
                continue;
            }
            let (name, value) = line.split_once(':').ok_or("a line has no colon")?;
            let value = value.trim_start_matches([' ', '\t']);
            // Of what is to stand there once the first counts.
            match name {
                "version" => drop(version.get_or_insert(value)),
                "mode" => drop(mode.get_or_insert(value)),
                "max_age" => drop(max_age_s.get_or_insert(value)),
                "mx" if hosts.len() == limits::STS_HOSTS_MAX => return Err("it names too many mail hosts"),
                "mx" => hosts.push(read_host(value).ok_or("a line mx holds no name of a host")?),
                // Extensions are none of ours (RFC 8461 3.2).
                _ => {}
            }
        }
        if version != Some("STSv1") {
            return Err("its version is not STSv1");
        }
        let mode = mode.and_then(Mode::parse).ok_or("it has no mode that is known")?;
        let max_age_s = max_age_s.and_then(read_age).ok_or("it has no max_age")?;
        if hosts.is_empty() && mode != Mode::None {
            return Err("it names no mail host");
        }
        Ok(Policy { mode, max_age_s, hosts: hosts.into() })
    }

    /// True if a mail host is one that the policy names; an asterisk stands for one label (STS-04; RFC 8461 4.1).
    pub fn names(&self, host: &str) -> bool {
        let below = host.split_once('.').filter(|(label, _)| !label.is_empty()).map(|(_, below)| below);
        self.hosts.iter().any(|named| match named.strip_prefix("*.") {
            Some(named) => below.is_some_and(|below| below.eq_ignore_ascii_case(named)),
            None => named.eq_ignore_ascii_case(host),
        })
    }
}

/// Seconds of one to ten digits; longer than a year is a year.
fn read_age(text: &str) -> Option<u32> {
    let digits = (1..=10).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit());
    let age_s = text.parse::<u64>().ok().filter(|_| digits)?;
    Some(age_s.min(limits::STS_AGE_MAX_S.into()) as u32)
}

/// A host's name or a pattern, in lower case.
fn read_host(text: &str) -> Option<Box<str>> {
    let name = text.strip_prefix("*.").unwrap_or(text);
    let fits = name.len() <= 253 && name.split('.').all(is_label);
    fits.then(|| text.to_ascii_lowercase().into())
}

/// The policy's id, of the TXT records of `_mta-sts`, each joined from its strings. `None`: there is not just one that can be
/// read, and so no policy (STS-03; RFC 8461 3.1).
pub fn record_id<'r>(records: impl IntoIterator<Item = &'r [u8]>) -> Option<Box<str>> {
    let mut records = records.into_iter().filter_map(|record| record.strip_prefix(RECORD_HEAD.as_bytes()));
    let (only, None) = (records.next()?, records.next()) else { return None };
    let fields = str::from_utf8(only).ok()?;
    let fields = fields.trim_end_matches([' ', '\t']);
    let mut id = None;
    for field in fields.strip_suffix(';').unwrap_or(fields).split(';') {
        let (name, value) = field.trim_matches([' ', '\t']).split_once('=')?;
        let known = name == "id";
        let fits = if known { is_id(value) } else { is_extension(name, value) };
        if !fits {
            return None;
        }
        id = id.or(known.then_some(value));
    }
    id.map(Box::from)
}

fn is_id(text: &str) -> bool {
    (1..=32).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric())
}

fn is_extension(name: &str, value: &str) -> bool {
    let begins = name.starts_with(|c: char| c.is_ascii_alphanumeric());
    let is_name = begins && name.len() <= 32 && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-.".contains(&b));
    is_name && !value.is_empty() && value.bytes().all(|b| b.is_ascii_graphic() && b != b'=')
}

/// What is known of a domain's policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sts {
    /// It has none.
    Absent {
        /// What says so.
        why: Box<str>,
    },
    /// It says that it has one, which nobody can read. That counts as none, but for mail that must not go unproved (RTL-02).
    Unknown {
        /// What went wrong.
        why: Box<str>,
        /// The same in a word of TLS reports; `None`: it went wrong here.
        result: Option<ResultType>,
    },
    /// It has this one.
    Known {
        /// What it says.
        policy: Arc<Policy>,
        /// Which it is.
        id: Box<str>,
        /// Where it comes from.
        from: Box<str>,
    },
}

impl Sts {
    /// The policy, if there is one that says something.
    pub fn policy(&self) -> Option<&Policy> {
        match self {
            Sts::Known { policy, .. } if policy.mode != Mode::None => Some(policy),
            Sts::Known { .. } | Sts::Absent { .. } | Sts::Unknown { .. } => None,
        }
    }
}

/// A policy that was fetched.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Kept {
    id: Box<str>,
    policy: Arc<Policy>,
    /// Both in seconds since 1970.
    fetched_s: u64,
    until_s: u64,
}

impl Kept {
    fn known(&self, from: &str) -> Sts {
        Sts::Known { policy: self.policy.clone(), id: self.id.clone(), from: from.into() }
    }

    /// It is fetched again before its time is up, so that nobody who can stop that for a day makes it lapse (RFC 8461 10.2).
    fn is_fresh(&self, now_s: u64) -> bool {
        now_s < self.fetched_s + u64::from(limits::STS_REFRESH_S.min(self.policy.max_age_s / 2))
    }
}

/// Why a policy could not be fetched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// What went wrong.
    pub why: Box<str>,
    /// The same in a word of TLS reports (RFC 8460 4.3.2.2); `None`: it went wrong here.
    pub result: Option<ResultType>,
}

/// A policy that could not be fetched.
struct Failure {
    id: Box<str>,
    until_s: u64,
    trouble: Trouble,
}

/// The policies that are kept, by domain. Bounded: where there are more the one that lapses first is forgotten.
#[derive(Default)]
pub struct Policies {
    kept: FxHashMap<Box<str>, Kept>,
    failures: FxHashMap<Box<str>, Failure>,
}

impl Policies {
    /// What is known of a domain whose record says this, or why it says nothing. `None`: its policy is to be fetched, then
    /// [`Policies::fetched`].
    pub fn look(&self, domain: &str, record: &Result<Box<str>, Box<str>>, now_s: u64) -> Option<Sts> {
        let kept = self.kept.get(domain).filter(|kept| now_s < kept.until_s);
        let id = match (record, kept) {
            (Err(why), None) => return Some(Sts::Absent { why: why.clone() }),
            (Err(why), Some(kept)) => return Some(kept.known(&format!("kept: {why}"))),
            (Ok(id), Some(kept)) if kept.id == *id && kept.is_fresh(now_s) => return Some(kept.known("kept")),
            (Ok(id), _) => id,
        };
        let failure = self.failures.get(domain).filter(|failure| failure.id == *id && now_s < failure.until_s)?;
        Some(failed(kept, &failure.trouble))
    }

    /// A domain's policy was fetched, or why it could not be: what is known of it from now on.
    pub fn fetched(&mut self, domain: &str, id: &str, result: Result<Policy, Trouble>, now_s: u64) -> Sts {
        match result {
            Ok(policy) => {
                self.failures.remove(domain);
                let until_s = now_s + u64::from(policy.max_age_s);
                let kept = Kept { id: id.into(), policy: Arc::new(policy), fetched_s: now_s, until_s };
                let known = kept.known("fetched");
                self.keep(domain, kept);
                known
            }
            Err(trouble) => {
                if self.failures.len() >= limits::STS_POLICIES_MAX {
                    self.failures.clear();
                }
                let until_s = now_s + u64::from(limits::STS_FAILURE_S);
                self.failures.insert(domain.into(), Failure { id: id.into(), until_s, trouble: trouble.clone() });
                failed(self.kept.get(domain).filter(|kept| now_s < kept.until_s), &trouble)
            }
        }
    }

    fn keep(&mut self, domain: &str, kept: Kept) {
        if self.kept.len() >= limits::STS_POLICIES_MAX && !self.kept.contains_key(domain) {
            let first = self.kept.iter().min_by_key(|(_, kept)| kept.until_s).map(|(domain, _)| domain.clone());
            first.and_then(|domain| self.kept.remove(&domain));
        }
        self.kept.insert(domain.into(), kept);
    }

    /// What to write down of them, a line for each: domain, id, when it was fetched, until when it holds, mode, `max_age`, hosts.
    pub fn text(&self) -> String {
        let mut text = String::new();
        for (domain, Kept { id, policy, fetched_s, until_s }) in &self.kept {
            let (mode, max_age_s, hosts) = (policy.mode.name(), policy.max_age_s, policy.hosts.join(" "));
            // Writing to a String cannot fail.
            let _ = writeln!(text, "{domain} {id} {fetched_s} {until_s} {mode} {max_age_s} {hosts}");
        }
        text
    }

    /// What was written down, without what has lapsed; a line that cannot be read is left out.
    pub fn read(text: &str, now_s: u64) -> Policies {
        let mut policies = Policies::default();
        for line in text.lines() {
            if let Some((domain, kept)) = read_line(line).filter(|(_, kept)| now_s < kept.until_s) {
                policies.keep(domain, kept);
            }
        }
        policies
    }
}

fn failed(kept: Option<&Kept>, trouble: &Trouble) -> Sts {
    let Trouble { why, result } = trouble;
    match kept {
        Some(kept) => kept.known(&format!("kept: {why}")),
        None => Sts::Unknown { why: why.clone(), result: *result },
    }
}

fn read_line(line: &str) -> Option<(&str, Kept)> {
    let mut words = line.split_ascii_whitespace();
    let domain = words.next()?;
    let id = words.next().filter(|id| is_id(id))?.into();
    let (fetched_s, until_s): (u64, u64) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
    let (mode, max_age_s) = (Mode::parse(words.next()?)?, read_age(words.next()?)?);
    // Nothing is kept for longer than a policy may say, whatever the clock was when it was written.
    (fetched_s..=fetched_s.checked_add(max_age_s.into())?).contains(&until_s).then_some(())?;
    let hosts: Option<Vec<_>> = words.map(read_host).collect();
    let hosts = hosts.filter(|hosts| hosts.len() <= limits::STS_HOSTS_MAX)?;
    // One that asks for hosts and names none would hold all mail of its domain back.
    (!hosts.is_empty() || mode == Mode::None).then_some(())?;
    let policy = Arc::new(Policy { mode, max_age_s, hosts: hosts.into() });
    Some((domain, Kept { id, policy, fetched_s, until_s }))
}

#[cfg(test)]
mod tests;
