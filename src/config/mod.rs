//! What an operator may set: keys, their defaults and bounds, and the settings they become.
//!
//! [`load`] is a pure function of a file's text, the `--set` overrides and two facts about the machine. It runs on
//! the main thread before any shard starts. Whatever is wrong with the input is a [`ConfigError`] that names the key,
//! the value and the remedy; there are no warnings, and no input makes it panic.
//!
//! - [`mod@file`]: every key once, with default, bounds and manual text; reads a file and overrides into raw values.
//! - `auth`: the settings about users. `aliases`: addresses that stand for others. `dkim`: keys for signatures. `routes`, `sharing`: where mail goes, and for whom. [`settings`]: all others; raw values
//!   become types that cannot hold anything wrong.
//! - `changes`: which of them a running relay takes over when it reads its file again.

mod aliases;
mod auth;
mod changes;
mod dkim;
pub mod file;
mod outbound;
mod reference;
mod routes;
pub mod settings;
mod sharing;

use std::fmt;

pub use aliases::AliasSettings;
pub use auth::{AuthSettings, IntrospectionSettings, JwtSettings, KerberosSettings};
pub use changes::Changes;
pub use dkim::{DkimKeySettings, DkimSettings};
pub use file::{Origin, Values};
pub use reference::reference;
pub use routes::{
    HopAddress, Host, HostPort, NextHopSettings, Protocol, Route, RouteSettings, TlsPolicies, TlsPolicy,
    TlsReportSettings, TlsSettings,
};
pub use settings::{
    DnsTrust, Endpoint, HttpSettings, Listener, LogLevel, QueueSettings, RelaySettings, ReportSettings, RetrySettings,
    Role, Settings, SiteMatch, SiteRule, SiteSettings, SocketSettings, TimeoutSettings, parse_cores,
};
pub use sharing::{SourceId, SourceSettings, TenantSettings, WarmUpSettings};

/// What the defaults need to know of the machine; the shell finds it out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Machine {
    /// The system's host name, as it gives it; empty if it has none.
    pub hostname: String,
    /// Cores this process may run on.
    pub cores: usize,
}

/// Settings from a configuration file's text, if there is one, and `KEY=VALUE` overrides, of which the last wins.
pub fn load(file: Option<&str>, sets: &[String], machine: &Machine) -> Result<Settings, ConfigError> {
    Ok(load_values(file, sets, machine)?.0)
}

/// The same, with the values that the settings were made of and where each comes from.
pub fn load_values(file: Option<&str>, sets: &[String], machine: &Machine) -> Result<(Settings, Values), ConfigError> {
    let mut values = file::Values::default();
    values.read_providers();
    if let Some(text) = file {
        values.read_file(text)?;
    }
    for set in sets {
        values.read_set(set)?;
    }
    Ok((Settings::from_values(&values, machine)?, values))
}

/// What is wrong with a configuration: where, what, and what would be right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// The key, or a `--set` argument that has none; empty if the file is no TOML at all.
    pub key: String,
    /// The offending value as the operator wrote it, if there is one.
    pub value: Option<String>,
    /// What is wrong and what to write instead.
    pub remedy: String,
}

impl ConfigError {
    fn new(key: &str, value: impl Into<Option<String>>, remedy: impl Into<String>) -> Self {
        ConfigError { key: key.to_owned(), value: value.into(), remedy: remedy.into() }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&*self.key, &self.value) {
            ("", _) => {}
            (key, None) => write!(f, "{key}: ")?,
            (key, Some(value)) => write!(f, "{key} = {value:?}: ")?,
        }
        f.write_str(&self.remedy)
    }
}

impl std::error::Error for ConfigError {}

#[cfg(test)]
mod tests;
