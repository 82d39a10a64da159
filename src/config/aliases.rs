//! Keys and settings about addresses that stand for others, and about who may ask (`aliases.*`, `etrn.*`).

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ipnet::IpNet;

use super::ConfigError;
use super::file::{Key, Values, text, texts};
use super::settings::{contains, each, network, optional};
use crate::mail::aliases::Aliases;

/// In the manual they stand behind those of users.
pub(super) static KEYS: &[Key] = &[
    // ---- addresses that stand for others ----
    text(
        "aliases.file",
        "",
        "File with addresses that stand for others: aliases, mailing lists, forwards ([lists.md](lists.md)). Read again with the \
         configuration. Mail for them is taken from everybody.",
    ),
    texts(
        "aliases.askers",
        &[],
        "Who gets answers to VRFY and EXPN: networks and, where AUTH is demanded, `users` for whoever has authenticated. Others \
         get 252 to VRFY, 502 to EXPN.",
    ),
    texts(
        "aliases.told",
        &[],
        "Networks whose clients are told in answer to RCPT and VRFY where an address is forwarded (251) or has moved to (551). \
         Others get 250 and 550.",
    ),
    texts(
        "etrn.networks",
        &[],
        "Networks whose clients may start by ETRN what waits for a domain (RFC 1985). Others get 459; with nobody here, 502.",
    ),
];

/// Addresses that stand for others, and who may ask.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AliasSettings {
    /// The file that the table is read from.
    pub file: Option<PathBuf>,
    /// What it holds; `None` before it was read, and without a file.
    pub table: Option<Arc<Aliases>>,
    /// Who may ask by VRFY and EXPN.
    pub askers: Vec<IpNet>,
    /// Users may, too.
    pub users_ask: bool,
    /// Who is told of new addresses.
    pub told: Vec<IpNet>,
    /// Who may say ETRN.
    pub etrn: Vec<IpNet>,
}

impl AliasSettings {
    /// True if a client at `peer` may ask by VRFY and EXPN.
    pub fn may_ask(&self, peer: IpAddr) -> bool {
        contains(&self.askers, peer)
    }

    /// True if a client at `peer` is told new addresses.
    pub fn is_told(&self, peer: IpAddr) -> bool {
        contains(&self.told, peer)
    }

    /// True if a client at `peer` may say ETRN.
    pub fn may_etrn(&self, peer: IpAddr) -> bool {
        contains(&self.etrn, peer)
    }

    /// Takes over what stands in the file; the error names it, the line and the remedy.
    pub fn read(&mut self, load: impl FnOnce(&Path) -> std::io::Result<String>) -> Result<(), ConfigError> {
        let Some(file) = &self.file else { return Ok(()) };
        let wrong = |what: String| ConfigError::new("aliases.file", file.display().to_string(), what);
        let text = load(file).map_err(|error| wrong(format!("cannot be read: {error}")))?;
        let table = Aliases::parse(&text).map_err(wrong)?;
        self.table = (!table.is_empty()).then(|| Arc::new(table));
        Ok(())
    }
}

pub(super) fn aliases(values: &Values) -> Result<AliasSettings, ConfigError> {
    let asker = |text: &str| match text {
        "users" => Ok(None),
        text => network(text).map(Some),
    };
    let askers = each(values, "aliases.askers", asker)?;
    Ok(AliasSettings {
        file: optional(values, "aliases.file", |path| Ok(path.into()))?,
        table: None,
        users_ask: askers.contains(&None),
        askers: askers.into_iter().flatten().collect(),
        told: each(values, "aliases.told", network)?,
        etrn: each(values, "etrn.networks", network)?,
    })
}
