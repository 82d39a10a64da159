//! Where mail goes and how safely: routes, next hops and TLS policies, from raw values to types.
//!
//! As in [`settings`](super::settings): every failure is a [`ConfigError`] with key, value and remedy.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::ConfigError;
use super::file::Values;
use super::settings::{UNIX_PATH_MAX_BYTES, domain_name, optional, suffix_name};
use crate::base::limits;
use crate::mail::address::parse_forward_path;

/// Next hops (`route.*`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteSettings {
    /// The next hops that have names, in order of these.
    pub next_hops: Vec<Arc<NextHopSettings>>,
    /// For every domain without a route of its own.
    pub default: Route,
    /// By domain in lower case, sorted; a leading dot stands for every domain below.
    pub domains: Vec<(Box<str>, Route)>,
    /// By sender in lower case, sorted: a mailbox, `@` and a domain, or `@.` and a domain for every domain below.
    pub senders: Vec<(Box<str>, Route)>,
    /// By tenant, in the order of `Settings::tenants`, where a tenant has one.
    pub tenants: Vec<Option<Route>>,
    /// Mail hosts found by MX may have loopback, private or link-local addresses.
    pub allow_private: bool,
    /// Port of mail hosts found by MX.
    pub mx_port: u16,
    /// Port of the web servers that have MTA-STS policies.
    pub sts_port: u16,
    /// Outbound connections of one shard, at least 1.
    pub connections: usize,
}

/// Where a route leads: to a next hop, or by MX.
pub type Route = Option<Arc<NextHopSettings>>;

/// A configured next hop (`next_hop.NAME.*`, or as a route writes it).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct NextHopSettings {
    /// What routes call it; empty: a route writes it out.
    pub name: Box<str>,
    /// Where it is.
    pub to: HopAddress,
    /// What it speaks.
    pub protocol: Protocol,
    /// Whether mail goes to it inside TLS; none: as for its domain.
    pub tls: Option<TlsPolicy>,
    /// File with what we prove ourselves with (AUT-10).
    pub credentials: Option<Arc<Path>>,
    /// A password may be said to who proved nothing, and AUTH in clear.
    pub allow_clear: bool,
}

impl From<HostPort> for NextHopSettings {
    fn from(to: HostPort) -> NextHopSettings {
        NextHopSettings {
            name: "".into(),
            to: HopAddress::Host(to),
            protocol: Protocol::Smtp,
            tls: None,
            credentials: None,
            allow_clear: false,
        }
    }
}

/// Its name, or its address if it has none.
impl fmt::Display for NextHopSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.name.is_empty() { self.to.fmt(f) } else { f.write_str(&self.name) }
    }
}

/// Where a next hop is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum HopAddress {
    /// At a host.
    Host(HostPort),
    /// At a socket in the file system.
    Socket(PathBuf),
}

impl fmt::Display for HopAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            HopAddress::Host(host) => host.fmt(f),
            HopAddress::Socket(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// What a next hop speaks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// RFC 5321.
    #[default]
    Smtp,
    /// RFC 2033: as SMTP, but with a verdict for each recipient behind the message (FND-07).
    Lmtp,
}

/// TLS (`tls.*`, `site.default.tls`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsSettings {
    /// Clients are offered STARTTLS.
    pub offer: bool,
    /// PEM files with certificate and key; none: a self-signed pair in the spool.
    pub pair: Option<(PathBuf, PathBuf)>,
    /// PEM file with the authorities trusted for `TlsPolicy::Verify`.
    pub roots: PathBuf,
    /// PEM file with the authorities whose certificates let clients relay.
    pub client_roots: Option<PathBuf>,
    /// By domain.
    pub policies: TlsPolicies,
    /// How domains are told of the TLS of sessions with their hosts; `None`: they are not (RPT-01).
    pub reports: Option<TlsReportSettings>,
}

/// TLS reports (`tls.report_*`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsReportSettings {
    /// Who sends them.
    pub organization: Box<str>,
    /// A mailbox for questions about them; its domain is the submitter.
    pub contact: Box<str>,
    /// The mailbox that they come from, of the same domain.
    pub from: Box<str>,
    /// They are spread over so long after midnight.
    pub delay_ms: u64,
}

impl TlsReportSettings {
    /// The domain that sends them, in lower case.
    pub fn submitter(&self) -> &str {
        self.contact.rsplit_once('@').map_or("", |(_, domain)| domain)
    }
}

/// Which domains' mail goes inside TLS (TLS-07).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsPolicies {
    /// Where nothing else is said.
    pub default: TlsPolicy,
    /// By domain in lower case; a leading dot stands for every domain below.
    pub domains: BTreeMap<Box<str>, TlsPolicy>,
}

/// Whether mail goes to a next hop inside TLS (TLS-07).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TlsPolicy {
    /// Never.
    None,
    /// If offered; with any certificate; in clear if the handshake fails (RFC 7435).
    May,
    /// Always, with any certificate.
    Encrypt,
    /// Always, with a certificate for the host's name from an authority we trust.
    Verify,
    /// As the host's TLSA records want it, where DNSSEC proves them; else as `May` (DANE, RFC 7672).
    Dane,
    /// As what the domain publishes wants it: its hosts' TLSA records, else its MTA-STS policy; else as `May`.
    Published,
}

impl TlsPolicy {
    fn parse(text: &str) -> Result<TlsPolicy, &'static str> {
        match text {
            "none" => Ok(TlsPolicy::None),
            "may" => Ok(TlsPolicy::May),
            "encrypt" => Ok(TlsPolicy::Encrypt),
            "verify" => Ok(TlsPolicy::Verify),
            "dane" => Ok(TlsPolicy::Dane),
            "published" => Ok(TlsPolicy::Published),
            _ => Err("must be one of none, may, encrypt, verify, dane and published"),
        }
    }
}

impl fmt::Display for TlsPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            TlsPolicy::None => "none",
            TlsPolicy::May => "may",
            TlsPolicy::Encrypt => "encrypt",
            TlsPolicy::Verify => "verify",
            TlsPolicy::Dane => "dane",
            TlsPolicy::Published => "published",
        })
    }
}

/// A host and a port: a next hop as an operator names it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostPort {
    /// Which host.
    pub host: Host,
    /// Which port, never 0.
    pub port: u16,
}

/// A host, by address or by name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Host {
    /// Taken as it is.
    Address(IpAddr),
    /// A name in lower case, to be resolved (addresses only, no MX).
    Name(Arc<str>),
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            Host::Address(address) => SocketAddr::new(*address, self.port).fmt(f),
            Host::Name(name) => write!(f, "{name}:{}", self.port),
        }
    }
}

impl HostPort {
    /// `host:port` or `[v6 address]:port`; the error says what to write.
    pub fn parse(text: &str) -> Result<HostPort, &'static str> {
        const REMEDY: &str = "must be host:port, for instance 127.0.0.1:2602, [2001:db8::1]:25 or mail.example.org:25";
        let (host, port) = text.rsplit_once(':').ok_or(REMEDY)?;
        let port: u16 = port.parse().ok().filter(|port| *port != 0).ok_or(REMEDY)?;
        let host = match host.strip_prefix('[') {
            Some(inner) => {
                Host::Address(inner.strip_suffix(']').and_then(|v6| v6.parse::<Ipv6Addr>().ok()).ok_or(REMEDY)?.into())
            }
            None => match host.parse::<IpAddr>() {
                Ok(IpAddr::V6(_)) => return Err("a v6 address stands in brackets, for instance [2001:db8::1]:25"),
                Ok(address) => Host::Address(address),
                Err(_) => Host::Name(domain_name(host).ok_or(REMEDY)?.into()),
            },
        };
        Ok(HostPort { host, port })
    }
}

pub(super) fn route(values: &Values) -> Result<RouteSettings, ConfigError> {
    let next_hops = next_hops(values)?;
    let to =
        |key: &str, text: &str| lead(text, &next_hops).map_err(|remedy| ConfigError::new(key, text.to_owned(), remedy));
    let entries = |table: &str, good: fn(&str) -> Option<Box<str>>, remedy: &str| {
        let mut routes = Vec::new();
        for (name, text) in values.names(table) {
            let key = format!("{table}.{name}");
            let name = good(name).ok_or_else(|| ConfigError::new(&key, text.to_owned(), remedy))?;
            routes.push((name, to(&key, text)?));
        }
        routes.sort_by(|(one, _): &(Box<str>, Route), (other, _)| one.cmp(other));
        if let Some(pair) = routes.windows(2).find(|pair| pair[0].0 == pair[1].0) {
            let key = format!("{table}.{}", pair[0].0);
            return Err(ConfigError::new(&key, None, "is there twice, in upper and lower case; keep one"));
        }
        Ok(routes)
    };
    let domains =
        entries("route.domains", suffix_name, "must be a domain name, for instance example.org or .example.org")?;
    let senders = entries(
        "route.senders",
        sender_pattern,
        "must be a sender, for instance news@example.org, @example.org or @.example.org",
    )?;
    let tenant = |name: &&str| match values.named_text("tenant.*.route", name) {
        None | Some("") => Ok(None),
        Some(text) => to(&format!("tenant.{name}.route"), text).map(Some),
    };
    let tenants = values.named("tenant.*.").iter().map(tenant).collect::<Result<_, _>>()?;
    Ok(RouteSettings {
        default: match values.text("route.default") {
            "" => None,
            text => to("route.default", text)?,
        },
        domains,
        senders,
        tenants,
        allow_private: values.flag("route.allow_private"),
        mx_port: values.number("route.mx_port") as u16,
        sts_port: values.number("route.sts_port") as u16,
        connections: values.number("route.connections") as usize,
        next_hops,
    })
}

/// A mailbox, or `@` and a domain, perhaps with a leading dot; in lower case.
fn sender_pattern(text: &str) -> Option<Box<str>> {
    let (local, domain) = text.rsplit_once('@')?;
    let domain = if local.is_empty() { suffix_name(domain)? } else { domain_name(domain)? };
    let good = local.len() <= limits::LOCAL_PART_MAX_BYTES && !local.contains(|c: char| c.is_control() || c == ' ');
    good.then(|| format!("{}@{domain}", local.to_lowercase()).into())
}

/// Where the text of a route leads; the error says what to write.
fn lead(text: &str, next_hops: &[Arc<NextHopSettings>]) -> Result<Route, &'static str> {
    if text.eq_ignore_ascii_case("mx") {
        return Ok(None);
    }
    match next_hops.iter().find(|hop| hop.name.eq_ignore_ascii_case(text)) {
        Some(hop) => Ok(Some(hop.clone())),
        None => HostPort::parse(text).map(|to| Some(Arc::new(to.into()))),
    }
}

/// The next hops with names, in order of these.
fn next_hops(values: &Values) -> Result<Vec<Arc<NextHopSettings>>, ConfigError> {
    let hop = |name: &&str| {
        let text = |part: &str| {
            let key = format!("next_hop.*.{part}");
            values.named_text(&key, name).filter(|text| !text.is_empty())
        };
        let wrong = |part: &str, value: &str, remedy: &str| {
            ConfigError::new(&format!("next_hop.{name}.{part}"), value.to_owned(), remedy)
        };
        if name.eq_ignore_ascii_case("mx") || name.contains(':') {
            return Err(ConfigError::new(
                &format!("next_hop.{name}"),
                None,
                "this name means something else in a route",
            ));
        }
        let address = text("address").unwrap_or_default();
        let to = match address.strip_prefix("unix:") {
            Some(path) if path.starts_with('/') && path.len() <= UNIX_PATH_MAX_BYTES => HopAddress::Socket(path.into()),
            Some(_) => {
                return Err(wrong("address", address, "must be unix: and a path from the root, of at most 107 bytes"));
            }
            None => HopAddress::Host(HostPort::parse(address).map_err(|remedy| wrong("address", address, remedy))?),
        };
        let protocol = match text("protocol") {
            None | Some("smtp") => Protocol::Smtp,
            Some("lmtp") => Protocol::Lmtp,
            Some(other) => return Err(wrong("protocol", other, "must be smtp or lmtp")),
        };
        let credentials = text("credentials").map(|path| Arc::from(Path::new(path)));
        let tls = match text("tls") {
            // Who gets a password proves its name first.
            None => credentials.is_some().then_some(TlsPolicy::Verify),
            Some(text) => Some(TlsPolicy::parse(text).map_err(|remedy| wrong("tls", text, remedy))?),
        };
        let allow_clear = values.named_flag("next_hop.*.allow_clear", name).unwrap_or(false);
        Ok(Arc::new(NextHopSettings { name: (**name).into(), to, protocol, tls, credentials, allow_clear }))
    };
    values.named("next_hop.*.").iter().map(hop).collect()
}

pub(super) fn tls(values: &Values) -> Result<TlsSettings, ConfigError> {
    let pair = match (values.text("tls.certificate"), values.text("tls.key")) {
        ("", "") => None,
        (certificate, "") => {
            return Err(ConfigError::new("tls.certificate", certificate.to_owned(), "needs tls.key beside it"));
        }
        ("", key) => return Err(ConfigError::new("tls.key", key.to_owned(), "needs tls.certificate beside it")),
        (certificate, key) => Some((certificate.into(), key.into())),
    };
    let policy =
        |key: &str, text: &str| TlsPolicy::parse(text).map_err(|remedy| ConfigError::new(key, text.to_owned(), remedy));
    let mut domains = BTreeMap::new();
    for (name, text) in values.names("tls.domains") {
        let key = format!("tls.domains.{name}");
        let domain = suffix_name(name).ok_or_else(|| {
            ConfigError::new(&key, text.to_owned(), "must be a domain name, for instance example.org or .example.org")
        })?;
        domains.insert(domain, policy(&key, text)?);
    }
    let default = policy("site.default.tls", values.text("site.default.tls"))?;
    Ok(TlsSettings {
        offer: values.flag("tls.offer"),
        pair,
        roots: values.text("tls.roots").into(),
        client_roots: optional(values, "tls.client_roots", |path| Ok(path.into()))?,
        policies: TlsPolicies { default, domains },
        reports: tls_reports(values)?,
    })
}

/// All three keys, or none.
fn tls_reports(values: &Values) -> Result<Option<TlsReportSettings>, ConfigError> {
    const KEYS: [&str; 3] = ["tls.report_organization", "tls.report_contact", "tls.report_from"];
    let [organization, contact, from] = KEYS.map(|key| values.text(key));
    if [organization, contact, from].iter().all(|text| text.is_empty()) {
        return Ok(None);
    }
    if let Some(missing) = KEYS.into_iter().find(|key| values.text(key).is_empty()) {
        let remedy =
            "is needed beside the other two keys of tls.report_organization, tls.report_contact and tls.report_from";
        return Err(ConfigError::new(missing, String::new(), remedy));
    }
    if organization.len() > limits::TLS_REPORT_TEXT_MAX_BYTES || organization.contains(char::is_control) {
        let remedy = "must be a name of at most 255 bytes on one line";
        return Err(ConfigError::new(KEYS[0], organization.to_owned(), remedy));
    }
    let mailbox = |key: &str, text: &str| {
        let wrong = || ConfigError::new(key, text.to_owned(), "must be a mailbox, for instance tlsrpt@example.org");
        let path = format!("<{text}>");
        let read = parse_forward_path(path.as_bytes())
            .ok()
            .filter(|(path, rest)| rest.is_empty() && path.mailbox == text.as_bytes());
        read.filter(|_| text.is_ascii()).ok_or_else(wrong)?;
        let (local, domain) = text.rsplit_once('@').ok_or_else(wrong)?;
        let domain = domain_name(domain).ok_or_else(wrong)?;
        Ok(Box::from(format!("{local}@{domain}")))
    };
    let reports = TlsReportSettings {
        organization: organization.into(),
        contact: mailbox(KEYS[1], contact)?,
        from: mailbox(KEYS[2], from)?,
        delay_ms: values.number("tls.report_delay_ms"),
    };
    let domain = |mailbox: &str| mailbox.rsplit_once('@').map(|(_, domain)| domain.to_owned());
    if domain(&reports.from) != domain(&reports.contact) {
        let remedy = "must be of the domain of tls.report_contact, which the signature of a report has to be of";
        return Err(ConfigError::new(KEYS[2], from.to_owned(), remedy));
    }
    Ok(Some(reports))
}
