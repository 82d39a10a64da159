//! The manual's page of all keys: `docs/configuration.md` is rendered from the table of [`keys`].

use std::fmt::Write;

use toml::Value;

use super::file::{Kind, keys};

impl Kind {
    /// The default as TOML.
    fn default_toml(&self) -> String {
        match self {
            Kind::Text { default } => Value::from(*default).to_string(),
            Kind::Texts { default } => Value::from(default.to_vec()).to_string(),
            Kind::Number { default, .. } => default.to_string(),
            Kind::Flag { default } => default.to_string(),
            Kind::Names | Kind::Lists { .. } => "{}".to_owned(),
        }
    }

    fn described(&self) -> String {
        match self {
            Kind::Text { .. } => "text".to_owned(),
            Kind::Texts { .. } => "list of texts".to_owned(),
            Kind::Number { least, most, .. } => format!("{least} to {most}"),
            Kind::Flag { .. } => "true or false".to_owned(),
            Kind::Names => "table".to_owned(),
            Kind::Lists { .. } => "table of lists".to_owned(),
        }
    }
}

/// The manual's page of all keys, in Markdown: `docs/configuration.md` is this text.
pub fn reference() -> String {
    let mut page = String::from(REFERENCE_HEAD);
    page.push_str("\n| key | default | takes | meaning |\n|---|---|---|---|\n");
    for key in keys() {
        let default = if key.name.contains('*') { "-".to_owned() } else { format!("`{}`", key.kind.default_toml()) };
        let (name, takes, manual) = (key.name.replace('*', "NAME"), key.kind.described(), key.manual);
        writeln!(page, "| `{name}` | {default} | {takes} | {manual} |").expect("a string takes all");
    }
    page
}

const REFERENCE_HEAD: &str = "\
# Configuration

<!-- Generated from src/config/file.rs by `RINGPOST_REGENERATE=1 cargo test`; do not edit. -->

Ringpost works without a configuration. `ringpost run --config FILE` reads a TOML file; `--set KEY=VALUE`, given as often
as needed, overrides it. A list may be written as one text with commas: `--set relay.networks=10.0.0.0/8,127.0.0.0/8`.
One more domain is `--set route.domains.example.org=127.0.0.1:2602`. A key that does not exist, or a value that makes
no sense, ends the start with exit code 2 and a message that names the key, the value and the remedy.

```toml
[listen]
relay = [\"192.0.2.1:25\", \"[2001:db8::1]:25\"]

[relay]
hostname = \"relay.example.org\"
networks = [\"192.0.2.0/24\", \"127.0.0.0/8\"]

[route.domains]
\"example.com\" = \"mail.example.com:25\"

[queue]
dir = \"/var/spool/ringpost\"
```

`NAME` in a key is for the operator to choose. A name with dots is best quoted: `[site.\"example.net\"]`.

Times are in milliseconds, sizes in bytes. Bounds that no key changes are in [limits.md](limits.md).
";
