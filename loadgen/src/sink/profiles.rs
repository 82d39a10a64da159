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
//! The keys are the sink's options with `_` for `-`. A wrong file is an error that names what is wrong.

use std::path::Path;

use serde::Deserialize;

use super::faults::{Denial, Faults};
use crate::units::{parse_size, parse_span};

/// The most kinds of receivers in a file.
pub const RECEIVERS_MAX: usize = 64;

/// A kind of receiver.
#[derive(Clone, Debug)]
pub struct Profile {
    /// Its name, for people.
    pub name: String,
    /// Its weight among the others.
    pub weight: u32,
    /// What it does wrong.
    pub faults: Faults,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    receiver: Vec<Receiver>,
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
    delay: Option<String>,
    messages_per_connection: u64,
    size_max: Option<String>,
    pipelining: bool,
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
            delay: None,
            messages_per_connection: 0,
            size_max: None,
            pipelining: true,
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
        let faults = Faults {
            mail: Denial { refuse: self.refuse_mail, defer: self.defer_mail },
            rcpt: Denial { refuse: self.refuse_rcpt, defer: self.defer_rcpt },
            data: Denial { refuse: self.refuse_data, defer: self.defer_data },
            end: Denial { refuse: self.refuse_end, defer: self.defer_end },
            drop_before_dot: self.drop_before_dot,
            drop_after_dot: self.drop_after_dot,
            delay: self.delay.as_deref().map(parse_span).transpose().map_err(named)?,
            messages_per_connection: self.messages_per_connection,
            size_max_bytes: self.size_max.as_deref().map(parse_size).transpose().map_err(named)?.unwrap_or(0),
            no_pipelining: !self.pipelining,
        };
        Ok(Profile { name: self.name, weight: self.weight, faults })
    }
}

/// Reads the text of a file.
pub fn parse(text: &str) -> Result<Vec<Profile>, String> {
    let file: File = toml::from_str(text).map_err(|error| error.to_string())?;
    let profiles: Vec<Profile> = file.receiver.into_iter().map(Receiver::profile).collect::<Result<_, _>>()?;
    if profiles.len() > RECEIVERS_MAX || profiles.iter().all(|profile| profile.weight == 0) {
        return Err(format!("a file needs 1 to {RECEIVERS_MAX} receivers, at least one with a weight above 0"));
    }
    Ok(profiles)
}

/// Reads a file.
pub fn load(path: &Path) -> Result<Vec<Profile>, String> {
    let text = std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
    parse(&text).map_err(|error| format!("{}: {error}", path.display()))
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
