//! Keys and settings about DKIM signatures (`dkim.*`).

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::ConfigError;
use super::file::{Key, Kind, Values, text, texts};
use super::settings::{domain_name, is_label};
use crate::base::limits;
use crate::mail::dkim::{self, Digest, KeyRing, SigningKey};

/// In the manual they stand behind those of aliases.
pub(super) static KEYS: &[Key] = &[
    // ---- signatures ----
    text(
        "dkim.*.domain",
        "",
        "Mail with an author of this domain in From is signed with the key called NAME ([dkim.md](dkim.md)), if its client may \
         relay. A domain may have two keys, one RSA and one Ed25519.",
    ),
    text(
        "dkim.*.selector",
        "",
        "The key's record is in DNS at SELECTOR`._domainkey.`DOMAIN; `ringpost dkim` prints it.",
    ),
    text(
        "dkim.*.key",
        "",
        "PEM file with the private key: RSA of 2048 to 4096 bits, or Ed25519. Read again with the configuration.",
    ),
    Key {
        name: "dkim.*.subdomains",
        kind: Kind::Flag { default: false },
        manual: "It signs for authors of domains below its own, too, unless those have keys themselves.",
    },
    texts(
        "dkim.*.tenants",
        &[],
        "It signs for these tenants alone, and before keys for everybody. Empty: for everybody.",
    ),
];

/// Signatures.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DkimSettings {
    /// The keys as they are named.
    pub keys: Vec<DkimKeySettings>,
    /// What their files hold; `None` before they were read, and without keys.
    pub ring: Option<Arc<KeyRing>>,
}

/// One key (`dkim.NAME.*`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DkimKeySettings {
    /// What it is called.
    pub name: Box<str>,
    /// `d=`, in lower case.
    pub domain: Box<str>,
    /// `s=`.
    pub selector: Box<str>,
    /// Where it is.
    pub file: PathBuf,
    /// It signs for authors below its domain, too.
    pub subdomains: bool,
    /// For these tenants alone, by number; none: for everybody.
    pub tenants: Box<[u16]>,
}

impl DkimSettings {
    /// Takes over what stands in the files; the error names the key, the file and the remedy.
    pub fn read(
        &mut self,
        load: impl Fn(&Path) -> Result<Arc<dyn SigningKey>, String>,
        digest: fn() -> Box<dyn Digest>,
    ) -> Result<(), ConfigError> {
        if self.keys.is_empty() {
            return Ok(());
        }
        let key = |named: &DkimKeySettings| {
            let wrong = |what| ConfigError::new(&named.key(), named.file.display().to_string(), what);
            Ok(dkim::Key {
                domain: named.domain.clone(),
                selector: named.selector.clone(),
                subdomains: named.subdomains,
                tenants: named.tenants.clone(),
                key: load(&named.file).map_err(wrong)?,
            })
        };
        let keys = self.keys.iter().map(key).collect::<Result<_, _>>()?;
        let ring = KeyRing::new(keys, digest).map_err(|pair| {
            let [one, other] = *pair;
            let remedy = format!(
                "selectors {} and {} are keys of one kind for the same mail; one RSA and one Ed25519 key can sign it",
                one.selector, other.selector
            );
            ConfigError::new("dkim.*.domain", one.domain.to_string(), remedy)
        })?;
        self.ring = Some(Arc::new(ring));
        Ok(())
    }
}

impl DkimKeySettings {
    fn key(&self) -> String {
        format!("dkim.{}.key", self.name)
    }
}

pub(super) fn dkim(values: &Values) -> Result<DkimSettings, ConfigError> {
    let names = values.named("dkim.*.");
    if names.len() > limits::DKIM_KEYS_MAX {
        let remedy = format!("names {} keys; {} are possible", names.len(), limits::DKIM_KEYS_MAX);
        return Err(ConfigError::new("dkim", None, remedy));
    }
    let keys = names.iter().map(|name| key(values, name)).collect::<Result<_, _>>()?;
    Ok(DkimSettings { keys, ring: None })
}

fn key(values: &Values, name: &str) -> Result<DkimKeySettings, ConfigError> {
    let wrong = |what: &str, value: &str, remedy: &str| {
        ConfigError::new(&format!("dkim.{name}.{what}"), value.to_owned(), remedy)
    };
    let given = |what: &str| values.named_text(&format!("dkim.*.{what}"), name).unwrap_or_default();
    let domain = domain_name(given("domain"))
        .ok_or_else(|| wrong("domain", given("domain"), "must be a domain name, for instance example.org"))?;
    let selector = given("selector").to_ascii_lowercase();
    let record = selector.len() + "._domainkey.".len() + domain.len();
    if !selector.split('.').all(is_label) || record > limits::DOMAIN_MAX_BYTES - 2 {
        return Err(wrong("selector", &selector, "must be a part of a domain name, for instance 2026-11"));
    }
    if given("key").is_empty() {
        return Err(wrong("key", "", "must be a file with a private key in PEM"));
    }
    let known = values.named("tenant.*.");
    let number = |tenant: &&str| {
        let found = known.iter().position(|known| known.eq_ignore_ascii_case(tenant));
        found.map(|place| place as u16 + 1).ok_or_else(|| wrong("tenants", tenant, "is no tenant of the configuration"))
    };
    let tenants = values.named_texts("dkim.*.tenants", name).unwrap_or_default();
    Ok(DkimKeySettings {
        name: name.into(),
        domain,
        selector: selector.into(),
        file: given("key").into(),
        subdomains: values.named_flag("dkim.*.subdomains", name).unwrap_or_default(),
        tenants: tenants.iter().map(number).collect::<Result<_, _>>()?,
    })
}
