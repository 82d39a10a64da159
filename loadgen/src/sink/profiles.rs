//! Behaviour of receivers, read from a TOML file: one or several kinds, of which each connection draws one by weight.
//!
//! ```toml
//! [[receiver]]
//! name = "quick"
//! weight = 8
//!
//! [[receiver]]
//! name = "slow and strict"
//! weight = 2
//! delay = "20..200ms"
//! defer_rcpt = 0.02
//! messages_per_connection = 50
//! ```
//!
//! The keys are the sink's options with `_` for `-`. With `listen` a kind stands behind an address of its own, with
//! `domains` it answers for the recipients of these domains wherever they come in. A wrong file is an error that names
//! what is wrong.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use serde::Deserialize;

use super::faults::{Delays, Denial, Faults, Span};
use crate::dns::ZoneFile;
use crate::units::{parse_duration, parse_size, parse_span};

/// The most kinds of receivers in a file.
pub const RECEIVERS_MAX: usize = 64;

/// A kind of receiver.
#[derive(Clone, Debug)]
pub struct Profile {
    /// Its name, for people.
    pub name: String,
    /// Its weight among the others.
    pub weight: u32,
    /// Where it listens; None for wherever the sink does.
    pub listen: Option<SocketAddr>,
    /// Domains it answers for. Such a kind is met by these recipients alone, unless it listens for itself.
    pub domains: Vec<String>,
    /// What it does wrong.
    pub faults: Faults,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    receiver: Vec<Receiver>,
    /// Looked at by [`crate::dns`].
    #[serde(default)]
    dns: ZoneFile,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Receiver {
    name: String,
    weight: u32,
    refuse_mail: f64,
    defer_mail: f64,
    refuse_rcpt: f64,
    defer_rcpt: f64,
    refuse_data: f64,
    defer_data: f64,
    refuse_end: f64,
    defer_end: f64,
    drop_before_dot: f64,
    drop_after_dot: f64,
    listen: Option<SocketAddr>,
    domains: Vec<String>,
    delay: Option<String>,
    delay_greeting: Option<String>,
    delay_ehlo: Option<String>,
    delay_mail: Option<String>,
    delay_rcpt: Option<String>,
    delay_data: Option<String>,
    delay_end: Option<String>,
    tarpit: Option<String>,
    greylist: Option<String>,
    source_connections: u64,
    source_rate: u64,
    messages_per_connection: u64,
    size_max: Option<String>,
    pipelining: bool,
    chunking: bool,
}

impl Default for Receiver {
    fn default() -> Receiver {
        Receiver {
            name: "receiver".into(),
            weight: 1,
            refuse_mail: 0.0,
            defer_mail: 0.0,
            refuse_rcpt: 0.0,
            defer_rcpt: 0.0,
            refuse_data: 0.0,
            defer_data: 0.0,
            refuse_end: 0.0,
            defer_end: 0.0,
            drop_before_dot: 0.0,
            drop_after_dot: 0.0,
            listen: None,
            domains: Vec::new(),
            delay: None,
            delay_greeting: None,
            delay_ehlo: None,
            delay_mail: None,
            delay_rcpt: None,
            delay_data: None,
            delay_end: None,
            tarpit: None,
            greylist: None,
            source_connections: 0,
            source_rate: 0,
            messages_per_connection: 0,
            size_max: None,
            pipelining: true,
            chunking: true,
        }
    }
}

impl Receiver {
    fn profile(self) -> Result<Profile, String> {
        let named = |error: String| format!("receiver `{}`: {error}", self.name);
        let chances = [
            self.refuse_mail,
            self.defer_mail,
            self.refuse_rcpt,
            self.defer_rcpt,
            self.refuse_data,
            self.defer_data,
            self.refuse_end,
            self.defer_end,
            self.drop_before_dot,
            self.drop_after_dot,
        ];
        if let Some(wrong) = chances.iter().find(|chance| !(0.0..=1.0).contains(*chance)) {
            return Err(named(format!("{wrong} is no probability; write 0.01")));
        }
        let span = |text: &Option<String>| -> Result<Option<Span>, String> {
            text.as_deref().map(parse_span).transpose().map_err(named)
        };
        let time = |text: &Option<String>| -> Result<Option<Duration>, String> {
            text.as_deref().map(parse_duration).transpose().map_err(named)
        };
        let faults = Faults {
            mail: Denial { refuse: self.refuse_mail, defer: self.defer_mail },
            rcpt: Denial { refuse: self.refuse_rcpt, defer: self.defer_rcpt },
            data: Denial { refuse: self.refuse_data, defer: self.defer_data },
            end: Denial { refuse: self.refuse_end, defer: self.defer_end },
            drop_before_dot: self.drop_before_dot,
            drop_after_dot: self.drop_after_dot,
            delay: span(&self.delay)?,
            delays: Delays {
                greeting: span(&self.delay_greeting)?,
                ehlo: span(&self.delay_ehlo)?,
                mail: span(&self.delay_mail)?,
                rcpt: span(&self.delay_rcpt)?,
                data: span(&self.delay_data)?,
                end: span(&self.delay_end)?,
            },
            tarpit: time(&self.tarpit)?,
            greylist: time(&self.greylist)?,
            source_connections: self.source_connections,
            source_rate: self.source_rate,
            messages_per_connection: self.messages_per_connection,
            size_max_bytes: self.size_max.as_deref().map(parse_size).transpose().map_err(named)?.unwrap_or(0),
            no_pipelining: !self.pipelining,
            no_chunking: !self.chunking,
        };
        Ok(Profile { name: self.name, weight: self.weight, listen: self.listen, domains: self.domains, faults })
    }
}

/// Reads the text of a file.
pub fn parse(text: &str) -> Result<Vec<Profile>, String> {
    parse_all(text).map(|(profiles, _)| profiles)
}

/// Reads the text of a file: receivers, and what names lead to them.
pub fn parse_all(text: &str) -> Result<(Vec<Profile>, ZoneFile), String> {
    let file: File = toml::from_str(text).map_err(|error| error.to_string())?;
    let profiles: Vec<Profile> = file.receiver.into_iter().map(Receiver::profile).collect::<Result<_, _>>()?;
    let bare = profiles.is_empty() && file.dns.is_empty();
    let idle = !profiles.is_empty() && profiles.iter().all(|profile| profile.weight == 0);
    if bare || idle || profiles.len() > RECEIVERS_MAX {
        return Err(format!("a file needs 1 to {RECEIVERS_MAX} receivers, at least one with a weight above 0"));
    }
    Ok((profiles, file.dns))
}

/// Reads a file.
pub fn load(path: &Path) -> Result<(Vec<Profile>, ZoneFile), String> {
    let text = std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
    parse_all(&text).map_err(|error| format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn receivers_are_read_with_their_defaults() {
        let text = "[[receiver]]\nname = \"a\"\nweight = 3\n[[receiver]]\ndelay = \"5..50ms\"\nsize_max = \"1MiB\"\npipelining = false\ndefer_rcpt = 0.5\n";
        let profiles = parse(text).unwrap();
        assert_eq!((profiles[0].name.as_str(), profiles[0].weight, profiles[1].weight), ("a", 3, 1));
        let faults = &profiles[1].faults;
        assert_eq!(faults.delay, Some((Duration::from_millis(5), Duration::from_millis(50))));
        assert_eq!((faults.size_max_bytes, faults.no_pipelining, faults.rcpt.defer), (1 << 20, true, 0.5));
        assert!(!profiles[0].faults.no_pipelining);
    }

    #[test]
    fn every_behaviour_has_its_key() {
        let text = "[[receiver]]\nlisten = \"127.0.0.2:25\"\ntarpit = \"5ms\"\ngreylist = \"2s\"\nsource_connections = 3\n\
            source_rate = 9\ndelay_greeting = \"1s\"\ndelay_rcpt = \"1..2s\"\nchunking = false\n[[receiver]]\n\
            domains = [\"a.test\", \"*.b.test\"]\nrefuse_rcpt = 1.0\n";
        let profiles = parse(text).unwrap();
        let faults = &profiles[0].faults;
        assert_eq!(profiles[0].listen, Some(SocketAddr::from(([127, 0, 0, 2], 25))));
        assert_eq!((faults.tarpit, faults.greylist), (Some(Duration::from_millis(5)), Some(Duration::from_secs(2))));
        assert_eq!((faults.source_connections, faults.source_rate, faults.no_chunking), (3, 9, true));
        assert_eq!(faults.delays.rcpt, Some((Duration::from_secs(1), Duration::from_secs(2))));
        assert!(faults.delays.greeting.is_some() && faults.delays.end.is_none());
        assert_eq!(profiles[1].domains, ["a.test", "*.b.test"]);
    }

    #[test]
    fn wrong_files_say_what_is_wrong() {
        let wrong = [
            ("[[receiver]]\nspeed = 3\n", "speed"),
            ("[[receiver]]\nname = \"x\"\ndefer_rcpt = 2.0\n", "probability"),
            ("[[receiver]]\ndelay = \"soon\"\n", "soon"),
            ("[[receiver]]\nweight = 0\n", "weight"),
            ("", "receiver"),
        ];
        for (text, told) in wrong {
            let error = parse(text).unwrap_err();
            assert!(error.contains(told), "{error}");
        }
    }
}
