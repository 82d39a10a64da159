//! Every key once: its name, kind, default, bounds and manual text; and the reading of files and overrides.
//!
//! The table of [`keys`] is the only place that knows a key. A default stands there as TOML and takes the same way
//! as an operator's value, so that the manual (`docs/configuration.md`, rendered by
//! [`reference()`](super::reference)) cannot differ from what the relay does. Unknown keys, wrong kinds and numbers out
//! of bounds are errors here; whether a text makes sense is for [`settings`](super::settings) to say.

use std::collections::BTreeMap;

use toml::{Table, Value};

use super::ConfigError;
use crate::base::limits;

/// What a key takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// One text.
    Text {
        /// If not set; empty: none.
        default: &'static str,
    },
    /// A list of texts. One text stands for a list of one, and may hold several with commas between.
    Texts {
        /// If not set.
        default: &'static [&'static str],
    },
    /// A whole number.
    Number {
        /// If not set.
        default: u64,
        /// The least allowed.
        least: u64,
        /// The most allowed.
        most: u64,
    },
    /// `true` or `false`.
    Flag {
        /// If not set.
        default: bool,
    },
    /// A table from names to texts, empty if not set.
    Names,
    /// A table from names to lists of whole numbers, empty if not set. A list may be one text with commas between.
    Lists {
        /// The least that a number may be.
        least: u64,
        /// The most.
        most: u64,
    },
}

/// One key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key {
    /// Its full name with dots. `*` stands for a name that the operator chooses; such a key has no default of its own.
    pub name: &'static str,
    /// What it takes.
    pub kind: Kind,
    /// The manual's text.
    pub manual: &'static str,
}

pub(super) const fn text(name: &'static str, default: &'static str, manual: &'static str) -> Key {
    Key { name, kind: Kind::Text { default }, manual }
}

pub(super) const fn texts(name: &'static str, default: &'static [&'static str], manual: &'static str) -> Key {
    Key { name, kind: Kind::Texts { default }, manual }
}

pub(super) const fn number(name: &'static str, default: u64, least: u64, most: u64, manual: &'static str) -> Key {
    assert!(least <= default && default <= most);
    Key { name, kind: Kind::Number { default, least, most }, manual }
}

/// A time: from 1 ms to a year, so that no sum of times overflows.
pub(super) const fn time(name: &'static str, default_ms: u64, manual: &'static str) -> Key {
    number(name, default_ms, 1, YEAR_MS, manual)
}

/// A number of something that the operator names.
pub(super) const fn named_number(name: &'static str, least: u64, most: u64, manual: &'static str) -> Key {
    number(name, least, least, most, manual)
}

/// Where HTTP listens if nothing is said.
pub const HTTP_DEFAULT: &str = "127.0.0.1:8025";

pub(super) const YEAR_MS: u64 = 365 * 86_400_000;

/// The relay's own; those of delivery are in `outbound`.
static KEYS: &[Key] = &[
    // ---- receiving ----
    texts(
        "listen.relay",
        &["127.0.0.1:2525"],
        "Where mail is taken by SMTP from the clients of `relay.networks`: `address:port`, of which port 0 lets the system \
         choose, or `unix:/path`. Whoever can connect to a unix socket counts as 127.0.0.1.",
    ),
    texts(
        "listen.submission",
        &[],
        "Where users submit mail (port 587): STARTTLS first, then AUTH. Date and Message-ID are added where they are missing; \
         a message has exactly one From.",
    ),
    texts("listen.submissions", &[], "The same inside TLS from the first byte (port 465), without STARTTLS."),
    texts(
        "listen.null",
        &[],
        "Where mail is taken as by `listen.relay` and thrown away: for benchmarks of everything before the queue.",
    ),
    texts(
        "proxy.networks",
        &[],
        "Load balancers believed at listeners that await a PROXY header: `listen.relay = [\"192.0.2.1:2525 proxy\"]`.",
    ),
    texts(
        "xclient.networks",
        &[],
        "Who may say by XCLIENT for whom it speaks: that address is judged, that user believed.",
    ),
    texts(
        "xforward.networks",
        &[],
        "Who may say by XFORWARD where a message came from; `log.level = \"debug\"` shows it.",
    ),
    text(
        "listen.http",
        HTTP_DEFAULT,
        "Address of the HTTP interface. Empty: none. If another process has the default address, the relay runs without.",
    ),
    number(
        "listen.connections",
        limits::CONNECTIONS_IN_MAX as u64,
        1,
        1_000_000,
        "Inbound connections of one shard; fewer where the limit on open files has no room for them. One more is greeted with 421 4.3.2.",
    ),
    number(
        "listen.connections_per_address",
        limits::CONNECTIONS_IN_MAX as u64,
        1,
        1_000_000,
        "Of them, those of one address, or one IPv6 network of 64 bits. One more is greeted with 421 4.7.0.",
    ),
    number(
        "listen.connections_per_network",
        limits::CONNECTIONS_IN_MAX as u64,
        1,
        1_000_000,
        "Of them, those of one network: 24 bits of IPv4, 48 of IPv6. One more is greeted with 421 4.7.0.",
    ),
    number(
        "listen.backlog",
        limits::LISTEN_BACKLOG as u64,
        1,
        1 << 20,
        "Connections that the kernel holds for each shard and address until they are accepted; `net.core.somaxconn` caps it.",
    ),
    text(
        "relay.hostname",
        "",
        "The relay's own name: in greetings, EHLO and trace fields. Empty: the system's host name if it has a dot, \
         else `localhost.localdomain`.",
    ),
    texts(
        "relay.networks",
        &["127.0.0.0/8", "::1/128"],
        "Networks whose clients may send anywhere. Everyone else gets 550 5.7.1 for each recipient.",
    ),
    number(
        "relay.message_bytes",
        limits::MESSAGE_MAX_BYTES,
        64 << 10,
        limits::MESSAGE_CEILING_BYTES,
        "Largest message, offered with SIZE. Larger: 552 5.3.4.",
    ),
    number(
        "relay.recipients",
        limits::RECIPIENTS_MAX as u64,
        100,
        limits::RECIPIENTS_MAX as u64,
        "Recipients of one transaction. Each one more gets 452 4.5.3; the earlier ones stay valid.",
    ),
    number(
        "relay.errors",
        limits::SESSION_ERRORS_MAX as u64,
        1,
        1_000_000,
        "Refused or unknown commands of one session. One more: 421 4.7.0 and the end of the session.",
    ),
    number(
        "relay.received_fields",
        limits::RECEIVED_FIELDS_MAX as u64,
        1,
        1_000_000,
        "Received fields beyond which a message is taken to be looping: 554 5.4.6.",
    ),
    number(
        "relay.hold_s",
        limits::HOLD_MAX_S as u64,
        0,
        limits::HOLD_MAX_S as u64,
        "The longest that a client may have a message held (FUTURERELEASE), in seconds; 0: not offered. Only clients of \
         `relay.networks` may.",
    ),
    time("relay.idle_ms", limits::COMMAND_IDLE_MS, "A client silent for so long before a command gets 421 4.4.2."),
    time("relay.data_idle_ms", limits::DATA_IDLE_MS, "A client silent for so long inside message data gets 421 4.4.2."),
    texts(
        "http.watchers",
        &["127.0.0.0/8", "::1/128"],
        "Networks whose clients may see metrics, statistics and lists over HTTP. Who may send is `relay.networks`, as in SMTP.",
    ),
    texts(
        "http.operators",
        &["127.0.0.0/8", "::1/128"],
        "Networks whose clients may hold, release, expire and retry mail over HTTP.",
    ),
    // ---- TLS ----
    Key {
        name: "tls.offer",
        kind: Kind::Flag { default: true },
        manual: "Offer STARTTLS to clients. TLS 1.2 and 1.3 only.",
    },
    text(
        "tls.certificate",
        "",
        "PEM file with the relay's certificate and the ones it is signed by, the relay's first. Empty: a self-signed one is \
         made at the first start and kept in `queue.dir`.",
    ),
    text("tls.key", "", "PEM file with the certificate's key; goes with `tls.certificate`."),
    text(
        "tls.roots",
        "/etc/ssl/certs/ca-certificates.crt",
        "PEM file with the authorities that certificates must come from: of next hops where the policy is `verify` or an MTA-STS policy \
         says so, and of the web servers that have MTA-STS policies. For web servers it is read at the start only.",
    ),
    text(
        "tls.client_roots",
        "",
        "PEM file with authorities: a client that shows a certificate from them may relay, as those of `relay.networks` may. Empty: \
         clients are not asked for certificates.",
    ),
    Key {
        name: "tls.domains",
        kind: Kind::Names,
        manual: "Policies of single domains in place of `site.default.tls`: `\"example.org\" = \"verify\"`; a leading dot, \
                 `\".example.org\"`, stands for every domain below.",
    },
    text(
        "tls.report_organization",
        "",
        "With this and the two keys below, domains that want it are told each day how TLS went with their mail hosts \
         ([tls.md](tls.md#reports)): the name of who sends the reports. Empty: no reports.",
    ),
    text("tls.report_contact", "", "A mailbox for questions about the reports. Its domain is their submitter."),
    text(
        "tls.report_from",
        "",
        "The mailbox that the reports come from, of the same domain, for which there is a DKIM key (`dkim.NAME.domain`).",
    ),
    number(
        "tls.report_delay_ms",
        limits::TLS_REPORT_DELAY_MS,
        0,
        limits::DAY_MS,
        "Each day's reports are spread over so long after midnight by UTC.",
    ),
    // ---- the queue ----
    text(
        "queue.dir",
        "ringpost-queue",
        "Directory of the queue; made if it is not there. One relay at a time uses it.",
    ),
    number(
        "queue.segment_bytes",
        limits::SEGMENT_BYTES as u64,
        limits::SEGMENT_MIN_BYTES as u64,
        limits::SEGMENT_CEILING_BYTES as u64,
        "Size of a segment file, a multiple of 4096.",
    ),
    number(
        "queue.segments",
        limits::SEGMENTS_MAX as u64,
        limits::SEGMENTS_MIN as u64,
        limits::SEGMENTS_MAX as u64,
        "Segments of one shard: its share of the disk is so many times `queue.segment_bytes`; up to two more after several starts on a full queue. All but two in use: 452 4.3.1.",
    ),
    number(
        "queue.memory_bytes",
        limits::HOT_BLOCKS_BYTES as u64,
        1 << 20,
        1 << 40,
        "Memory of one shard for bodies not yet delivered. What does not fit is read back from disk.",
    ),
    number(
        "queue.batch_bytes",
        limits::BATCH_FULL_BYTES as u64,
        limits::BLOCK_MIN_BYTES as u64,
        limits::BLOCK_MAX_BYTES as u64,
        "A batch this long goes to the disk at once, beside those on their way; a shorter one waits for them.",
    ),
    number(
        "queue.writes_in_flight",
        limits::WRITES_IN_FLIGHT_MAX as u64,
        1,
        limits::WRITES_IN_FLIGHT_CEILING as u64,
        "Batches of one shard on their way to the disk at a time.",
    ),
    number("shards", 0, 0, limits::SHARDS_MAX as u64, "Shards, each with a core of its own. 0: one for every core."),
    text(
        "cores",
        "",
        "The cores that shards run on, in this order, as the kernel lists them: `0-3,8`. Empty: all that the process may use. \
         `ringpost tune` finds them.",
    ),
    number(
        "socket.receive_bytes",
        0,
        0,
        limits::SOCKET_BUFFER_CEILING_BYTES,
        "What the kernel buffers of a connection that is not read yet. 0: as much as it thinks right (`net.ipv4.tcp_rmem`).",
    ),
    number(
        "socket.send_bytes",
        0,
        0,
        limits::SOCKET_BUFFER_CEILING_BYTES,
        "What the kernel buffers of what was written to a connection. 0: as much as it thinks right (`net.ipv4.tcp_wmem`).",
    ),
    Key {
        name: "socket.by_core",
        kind: Kind::Flag { default: false },
        manual: "A connection goes to the shard on the core that its first packet came to, where the interface spreads packets over the cores.",
    },
    // ---- the rest ----
    text("log.level", "info", "What is logged: `error`, `warning`, `info` or `debug`, each with all before it."),
    text(
        "user",
        "",
        "Whom the relay becomes once its sockets are bound; files are opened as that user. Empty: whoever starts it.",
    ),
    Key {
        name: "landlock",
        kind: Kind::Flag { default: false },
        manual: "Once its sockets are bound, it writes in `queue.dir` alone, reads little else, executes nothing. Linux 5.13.",
    },
    time("drain_ms", limits::DRAIN_MS, "On SIGTERM, deliveries on their way have so long to end."),
];

/// All keys, in the order of the manual.
pub fn keys() -> impl Iterator<Item = &'static Key> + Clone {
    KEYS.iter()
        .chain(super::outbound::KEYS)
        .chain(super::auth::KEYS)
        .chain(super::aliases::KEYS)
        .chain(super::dkim::KEYS)
}

/// A value of the right kind and within bounds; what it means is not known yet.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Raw {
    Text(String),
    Texts(Vec<String>),
    Number(u64),
    Flag(bool),
    Names(BTreeMap<String, String>),
    Lists(BTreeMap<String, Vec<u64>>),
}

/// What was set, by key.
#[derive(Clone, Debug, Default)]
pub struct Values {
    set: BTreeMap<&'static str, Raw>,
    /// What was set of keys with a `*`, by key and what stood for it.
    named: BTreeMap<(&'static str, String), Raw>,
    /// Which of them came from where, an entry of a table by its full name.
    origins: BTreeMap<String, Origin>,
    /// Where what is being read comes from.
    reading: Origin,
}

/// Where a value comes from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Origin {
    /// Nobody set it.
    #[default]
    Default,
    /// The built-in rules for providers.
    Providers,
    /// The configuration file.
    File,
    /// The command line, `--set`.
    CommandLine,
}

impl std::fmt::Display for Origin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Origin::Default => "default",
            Origin::Providers => "provider rules",
            Origin::File => "configuration file",
            Origin::CommandLine => "--set",
        })
    }
}

impl Values {
    /// Takes over the built-in rules for providers; what is read later overrides them. Panics if they are wrong: they are ours.
    pub(super) fn read_providers(&mut self) {
        let table: Table = include_str!("providers.toml").parse().expect("the provider rules are TOML");
        self.reading = Origin::Providers;
        self.read_table("", &table).expect("the provider rules are right");
    }

    /// Takes over all keys of a file.
    pub fn read_file(&mut self, text: &str) -> Result<(), ConfigError> {
        let table: Table = text.parse().map_err(|error: toml::de::Error| {
            ConfigError::new(
                "",
                None,
                format!("the configuration file is no valid TOML: {}", error.to_string().trim_end()),
            )
        })?;
        self.reading = Origin::File;
        self.read_table("", &table)
    }

    fn read_table(&mut self, prefix: &str, table: &Table) -> Result<(), ConfigError> {
        for (name, value) in table {
            let name = if prefix.is_empty() { name.clone() } else { format!("{prefix}.{name}") };
            match (find(&name), value) {
                (Some((key, inner)), value) => self.put(key, inner, value)?,
                (None, Value::Table(inner)) if is_section(&name) => self.read_table(&name, inner)?,
                (None, _) => return Err(unknown(&name)),
            }
        }
        Ok(())
    }

    /// Takes over one `KEY=VALUE`. The value is TOML if it parses as what the key takes, else plain text.
    pub fn read_set(&mut self, set: &str) -> Result<(), ConfigError> {
        let Some((name, value)) = set.split_once('=') else {
            return Err(ConfigError::new(set, None, "not KEY=VALUE, for instance shards=1"));
        };
        let (name, value) = (name.trim(), value.trim());
        self.reading = Origin::CommandLine;
        let names = keys().filter(|key| key.kind == Kind::Names);
        for key in names {
            if let Some(domain) = name.strip_prefix(key.name).and_then(|rest| rest.strip_prefix('.')) {
                let entry = Table::from_iter([(domain.to_owned(), plain_or_toml(value, Value::is_str))]);
                return self.put(key, None, &Value::Table(entry));
            }
        }
        for key in keys().filter(|key| matches!(key.kind, Kind::Lists { .. })) {
            if let Some((inner, list)) = list_named(key, name) {
                let entry = Table::from_iter([(list.to_owned(), plain_or_toml(value, |_| true))]);
                return self.put(key, Some(inner), &Value::Table(entry));
            }
        }
        let (key, inner) = find(name).ok_or_else(|| unknown(name))?;
        let fits: fn(&Value) -> bool = match key.kind {
            Kind::Text { .. } => Value::is_str,
            Kind::Texts { .. } => |value| value.is_str() || value.is_array(),
            Kind::Number { .. } | Kind::Flag { .. } | Kind::Names | Kind::Lists { .. } => |_| true,
        };
        self.put(key, inner, &plain_or_toml(value, fits))
    }

    fn put(&mut self, key: &'static Key, inner: Option<&str>, value: &Value) -> Result<(), ConfigError> {
        let raw = raw_of(key, value).map_err(|mut error| {
            error.key = inner.map_or(error.key.clone(), |inner| error.key.replace('*', inner));
            error
        })?;
        if let Some(inner) = inner {
            let inner = inner.to_ascii_lowercase();
            let name = key.name.replace('*', &inner);
            match &raw {
                Raw::Lists(lists) => {
                    self.origins.extend(lists.keys().map(|list| (format!("{name}.{list}"), self.reading)));
                }
                _ => drop(self.origins.insert(name, self.reading)),
            }
            match (self.named.get_mut(&(key.name, inner.clone())), raw) {
                // Lists add up, as domains do.
                (Some(Raw::Lists(old)), Raw::Lists(new)) => old.extend(new),
                (_, raw) => drop(self.named.insert((key.name, inner), raw)),
            }
            return Ok(());
        }
        match &raw {
            Raw::Names(names) => {
                let entries = names.keys().map(|name| (format!("{}.{name}", key.name), self.reading));
                self.origins.extend(entries);
            }
            _ => drop(self.origins.insert(key.name.to_owned(), self.reading)),
        }
        match (self.set.get_mut(key.name), raw) {
            // Domains add up, so that one can be overridden without repeating the others.
            (Some(Raw::Names(old)), Raw::Names(new)) => old.extend(new),
            (_, raw) => drop(self.set.insert(key.name, raw)),
        }
        Ok(())
    }

    /// Where the value of a key comes from, or of an entry of a table by its full name.
    pub fn origin(&self, name: &str) -> Origin {
        self.origins.get(name).copied().unwrap_or_default()
    }

    /// The text of a key. Panics, as its kin below, if there is no such key of that kind: the table is ours.
    pub(super) fn text(&self, name: &str) -> &str {
        match (self.set.get(name), kind_of(name)) {
            (Some(Raw::Text(text)), _) => text,
            (None, Kind::Text { default }) => default,
            _ => panic!("{name} is no text"),
        }
    }

    /// The texts of a key.
    pub(super) fn texts(&self, name: &str) -> Vec<&str> {
        match (self.set.get(name), kind_of(name)) {
            (Some(Raw::Texts(texts)), _) => texts.iter().map(String::as_str).collect(),
            (None, Kind::Texts { default }) => default.to_vec(),
            _ => panic!("{name} is no list of texts"),
        }
    }

    /// The number of a key, within the key's bounds.
    pub(super) fn number(&self, name: &str) -> u64 {
        match (self.set.get(name), kind_of(name)) {
            (Some(Raw::Number(number)), _) => *number,
            (None, Kind::Number { default, .. }) => *default,
            _ => panic!("{name} is no number"),
        }
    }

    /// The flag of a key.
    pub(super) fn flag(&self, name: &str) -> bool {
        match (self.set.get(name), kind_of(name)) {
            (Some(Raw::Flag(flag)), _) => *flag,
            (None, Kind::Flag { default }) => *default,
            _ => panic!("{name} is no flag"),
        }
    }

    /// What operators named in keys that begin so, each once and in order; the prefix ends in `*.`.
    pub(super) fn named(&self, prefix: &str) -> Vec<&str> {
        let all = self.named.keys().filter(|(key, _)| key.starts_with(prefix)).map(|(_, name)| name.as_str());
        all.collect::<std::collections::BTreeSet<_>>().into_iter().collect()
    }

    fn raw_named(&self, key: &str, name: &str) -> Option<&Raw> {
        // The table's own text of the key, since the map is keyed by it.
        let key = keys().find(|known| known.name == key).unwrap_or_else(|| panic!("{key} is no key"));
        self.named.get(&(key.name, name.to_owned()))
    }

    /// The number of a key with a `*`, if it was set for that name.
    pub(super) fn named_number(&self, key: &str, name: &str) -> Option<u64> {
        match self.raw_named(key, name)? {
            Raw::Number(number) => Some(*number),
            _ => panic!("{key} is no number"),
        }
    }

    /// The flag of a key with a `*`, if it was set for that name.
    pub(super) fn named_flag(&self, key: &str, name: &str) -> Option<bool> {
        match self.raw_named(key, name)? {
            Raw::Flag(flag) => Some(*flag),
            _ => panic!("{key} is no flag"),
        }
    }

    /// The text of a key with a `*`, if it was set for that name.
    pub(super) fn named_text(&self, key: &str, name: &str) -> Option<&str> {
        match self.raw_named(key, name)? {
            Raw::Text(text) => Some(text),
            _ => panic!("{key} is no text"),
        }
    }

    /// The texts of a key with a `*`, if they were set for that name.
    pub(super) fn named_texts(&self, key: &str, name: &str) -> Option<Vec<&str>> {
        match self.raw_named(key, name)? {
            Raw::Texts(texts) => Some(texts.iter().map(String::as_str).collect()),
            _ => panic!("{key} is no list of texts"),
        }
    }

    /// The lists of a key with a `*`, in order of their names; none if it was not set for that name.
    pub(super) fn named_lists(&self, key: &str, name: &str) -> Vec<(&str, &[u64])> {
        match self.raw_named(key, name) {
            Some(Raw::Lists(lists)) => lists.iter().map(|(list, numbers)| (list.as_str(), &numbers[..])).collect(),
            None => Vec::new(),
            _ => panic!("{key} holds no lists"),
        }
    }

    /// The entries of a key, in order of their names.
    pub(super) fn names(&self, name: &str) -> Vec<(&str, &str)> {
        match (self.set.get(name), kind_of(name)) {
            (Some(Raw::Names(names)), _) => names.iter().map(|(name, text)| (name.as_str(), text.as_str())).collect(),
            (None, Kind::Names) => Vec::new(),
            _ => panic!("{name} is no table of names"),
        }
    }
}

/// The key of a name, and what stands in it for the key's `*`.
fn find(name: &str) -> Option<(&'static Key, Option<&str>)> {
    if let Some(key) = keys().find(|key| key.name == name && !key.name.contains('*')) {
        return Some((key, None));
    }
    keys().find_map(|key| {
        let (before, behind) = key.name.split_once('*')?;
        let inner = name.strip_prefix(before)?.strip_suffix(behind)?;
        (!matches!(inner, "" | "default")).then_some((key, Some(inner)))
    })
}

/// What stands for the `*` of a key of lists, and the list's name, where `name` is that of one list.
fn list_named<'a>(key: &Key, name: &'a str) -> Option<(&'a str, &'a str)> {
    let (before, behind) = key.name.split_once('*')?;
    let (inner, list) = name.strip_prefix(before)?.split_once(behind)?;
    Some((inner, list.strip_prefix('.')?)).filter(|(inner, list)| !matches!(*inner, "" | "default") && !list.is_empty())
}

fn kind_of(name: &str) -> &'static Kind {
    &keys().find(|key| key.name == name).unwrap_or_else(|| panic!("{name} is no key")).kind
}

/// True if keys begin with `name` and a dot, or with any name of the operator's where `name` has one.
fn is_section(name: &str) -> bool {
    keys().any(|key| {
        let chosen = key.name.split_once('*').and_then(|(before, _)| name.strip_prefix(before));
        chosen.is_some_and(|chosen| chosen != "default")
            || key.name.strip_prefix(name).is_some_and(|rest| rest.starts_with('.'))
    })
}

fn unknown(name: &str) -> ConfigError {
    // A right beginning and end with something left out between is nearer than any slip.
    let ends = |name: &str| (name.split('.').next().map(str::to_owned), name.rsplit('.').next().map(str::to_owned));
    let wrong = |key: &Key| if ends(name) == ends(key.name) { 0 } else { distance(name, key.name) };
    let exact = keys().filter(|key| !key.name.contains('*'));
    let nearest = exact.map(|key| (wrong(key), key.name)).min().expect("there are keys");
    let remedy = match nearest {
        // A third of the letters wrong is still a slip; more is another word.
        (wrong, near) if wrong * 3 <= name.len() => format!("no such key; did you mean {near}?"),
        _ => "no such key; docs/configuration.md lists them all".to_owned(),
    };
    ConfigError::new(name, None, remedy)
}

/// Letters to add, drop or change to make one name the other (Levenshtein).
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.bytes().enumerate() {
            let changed = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = changed.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

/// The value as TOML if it parses and fits, else as the text it is.
fn plain_or_toml(value: &str, fits: fn(&Value) -> bool) -> Value {
    // Through a table, since a bare value is no document; a line break would smuggle in a second key.
    let parsed = format!("value = {value}").parse::<Table>().ok().filter(|table| table.len() == 1);
    let parsed = parsed.and_then(|mut table| table.remove("value"));
    parsed.filter(fits).unwrap_or_else(|| Value::String(value.to_owned()))
}

fn raw_of(key: &Key, value: &Value) -> Result<Raw, ConfigError> {
    let wrong = |what: &str| ConfigError::new(key.name, shown(value), what);
    match (&key.kind, value) {
        (Kind::Text { .. }, Value::String(text)) => Ok(Raw::Text(text.trim().to_owned())),
        (Kind::Text { .. }, _) => Err(wrong("must be a text in quotes")),
        (Kind::Texts { .. }, Value::String(text)) => {
            Ok(Raw::Texts(text.split(',').map(str::trim).filter(|part| !part.is_empty()).map(str::to_owned).collect()))
        }
        (Kind::Texts { .. }, Value::Array(values)) => values
            .iter()
            .map(|value| value.as_str().map(|text| text.trim().to_owned()))
            .collect::<Option<_>>()
            .map(Raw::Texts)
            .ok_or_else(|| wrong("must be a list of texts in quotes")),
        (Kind::Texts { .. }, _) => Err(wrong("must be a text in quotes, or a list of them")),
        (Kind::Number { least, most, .. }, value) => match value.as_integer().and_then(|n| u64::try_from(n).ok()) {
            Some(number) if (*least..=*most).contains(&number) => Ok(Raw::Number(number)),
            _ => Err(wrong(&format!("must be a whole number from {least} to {most}"))),
        },
        (Kind::Flag { .. }, value) => value.as_bool().map(Raw::Flag).ok_or_else(|| wrong("must be true or false")),
        (Kind::Names, Value::Table(table)) => {
            let mut names = BTreeMap::new();
            flatten(key, "", table, &mut names)?;
            Ok(Raw::Names(names))
        }
        (Kind::Names, _) => Err(wrong("must be a table, for instance { \"example.org\" = \"127.0.0.1:2602\" }")),
        (Kind::Lists { least, most }, Value::Table(table)) => {
            let mut lists = BTreeMap::new();
            read_lists(key, "", table, (*least, *most), &mut lists)?;
            Ok(Raw::Lists(lists))
        }
        (Kind::Lists { .. }, _) => Err(wrong("must be a table of lists, for instance { default = [50, 100, 500] }")),
    }
}

/// As `flatten`, for lists; their names in lower case.
fn read_lists(
    key: &Key,
    prefix: &str,
    table: &Table,
    (least, most): (u64, u64),
    lists: &mut BTreeMap<String, Vec<u64>>,
) -> Result<(), ConfigError> {
    for (name, value) in table {
        let name = name.to_ascii_lowercase();
        let name = if prefix.is_empty() { name } else { format!("{prefix}.{name}") };
        let number = |number: Option<u64>| number.filter(|number| (least..=most).contains(number));
        let numbers: Option<Vec<u64>> = match value {
            Value::Table(inner) => {
                read_lists(key, &name, inner, (least, most), lists)?;
                continue;
            }
            Value::Array(values) => values
                .iter()
                .map(|value| number(value.as_integer().and_then(|number| u64::try_from(number).ok())))
                .collect(),
            Value::String(text) => text.split(',').map(|part| number(part.trim().parse().ok())).collect(),
            value => number(value.as_integer().and_then(|n| u64::try_from(n).ok())).map(|number| vec![number]),
        };
        let numbers = numbers.filter(|numbers| !numbers.is_empty()).ok_or_else(|| {
            let remedy = format!("must be a list of whole numbers from {least} to {most}, at least one");
            // `put` names the `*`.
            ConfigError::new(&format!("{}.{name}", key.name), shown(value), remedy)
        })?;
        lists.insert(name, numbers);
    }
    Ok(())
}

/// Domains written without quotes, `example.org = ...`, are nested tables to TOML; they are meant as names.
fn flatten(key: &Key, prefix: &str, table: &Table, names: &mut BTreeMap<String, String>) -> Result<(), ConfigError> {
    for (name, value) in table {
        let name = if prefix.is_empty() { name.clone() } else { format!("{prefix}.{name}") };
        match value {
            Value::String(text) => drop(names.insert(name, text.trim().to_owned())),
            Value::Table(inner) => flatten(key, &name, inner, names)?,
            value => {
                let name = format!("{}.{name}", key.name);
                return Err(ConfigError::new(&name, shown(value), "must be a text in quotes"));
            }
        }
    }
    Ok(())
}

fn shown(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}
