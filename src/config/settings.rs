//! Settings as types: what is wrong cannot be represented.
//!
//! Plain data, cloned to every shard when it starts. Texts are parsed here, once; relations between keys are
//! checked here too. Every failure is a [`ConfigError`] with key, value and remedy; defaults never fail (a test).

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

use ipnet::IpNet;

use super::aliases::{AliasSettings, aliases};
use super::auth::{AuthSettings, auth};
use super::dkim::{DkimKeySettings, DkimSettings, dkim};
use super::file::{HTTP_DEFAULT, Values};
use super::routes::{HostPort, RouteSettings, TlsPolicy, TlsSettings, route, tls};
use super::sharing::{SourceId, SourceSettings, TenantSettings, WarmUpSettings, pool, sources, tenants, warm_ups};
use super::{ConfigError, Machine};
use crate::base::limits;
use crate::queue::CommitSettings;
use crate::schedule::fair::{Share, TenantId};

/// Everything that an operator may set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The relay's own name, lower case.
    pub hostname: Box<str>,
    /// Where mail is taken; at least one.
    pub listen: Vec<Listener>,
    /// The HTTP interface.
    pub http: HttpSettings,
    /// Receiving.
    pub relay: RelaySettings,
    /// Next hops.
    pub route: RouteSettings,
    /// TLS, both ways.
    pub tls: TlsSettings,
    /// Users.
    pub auth: AuthSettings,
    /// Addresses that stand for others.
    pub aliases: AliasSettings,
    /// Signatures.
    pub dkim: DkimSettings,
    /// The spool.
    pub queue: QueueSettings,
    /// Number of shards, `1..=limits::SHARDS_MAX`.
    pub shards: u16,
    /// The cores that shards run on, in turn, each once; empty: all that the process may use.
    pub cores: Vec<usize>,
    /// What the kernel is asked for with every socket.
    pub socket: SocketSettings,
    /// Limits of a site that no rule knows.
    pub site: SiteSettings,
    /// Rules of sites with limits of their own.
    pub sites: Vec<SiteRule>,
    /// Between whom the work is shared, at most `limits::TENANTS_MAX`.
    pub tenants: Vec<TenantSettings>,
    /// Pauses between attempts, and when to give up.
    pub retry: RetrySettings,
    /// Reports to senders.
    pub report: ReportSettings,
    /// How long a next hop may take.
    pub timeout: TimeoutSettings,
    /// Name servers; empty: the system's.
    pub dns_servers: Vec<SocketAddr>,
    /// Whose word counts that an answer is validated.
    pub dns_trust: DnsTrust,
    /// Where outbound connections come from; the first is the one without a name.
    pub sources: Vec<SourceSettings>,
    /// How each of them is warmed up, where it is.
    pub warm_ups: Vec<Option<Arc<WarmUpSettings>>>,
    /// Those that tenants without a pool of their own use.
    pub pool: Vec<SourceId>,
    /// What is logged.
    pub log_level: LogLevel,
    /// How long a drain waits for deliveries on their way.
    pub drain_ms: u64,
    /// Whom the relay becomes once its sockets are bound.
    pub user: Option<Box<str>>,
    /// The process confines itself to the files that it needs.
    pub landlock: bool,
}

/// One place to listen at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listener {
    /// Where.
    pub endpoint: Endpoint,
    /// For whom.
    pub role: Role,
    /// Every connection begins with a PROXY header, and comes from `proxy.networks` (PRX-01).
    pub proxied: bool,
}

/// Where clients connect to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// By TCP; port 0: the system chooses.
    Tcp(SocketAddr),
    /// By a socket in the file system.
    Unix(PathBuf),
}

impl Endpoint {
    /// An address with its port, or `unix:` and a path; the error says what to write.
    pub fn parse(text: &str) -> Result<Endpoint, &'static str> {
        match text.strip_prefix("unix:") {
            Some(path) if path.starts_with('/') && path.len() <= UNIX_PATH_MAX_BYTES => Ok(Endpoint::Unix(path.into())),
            Some(_) => Err("must be unix: and a path from the root, of at most 107 bytes"),
            None => text.parse().map(Endpoint::Tcp).map_err(|_| LISTEN_REMEDY),
        }
    }

    /// The address, if it is one.
    pub fn ip(&self) -> Option<IpAddr> {
        match self {
            Endpoint::Tcp(address) => Some(address.ip()),
            Endpoint::Unix(_) => None,
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Endpoint::Tcp(address) => address.fmt(f),
            Endpoint::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// The kernel takes no longer name of a socket.
pub(super) const UNIX_PATH_MAX_BYTES: usize = 107;

/// What a listener is for; each has rules of its own (FND-02).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// SMTP from the clients of `relay.networks`.
    Relay,
    /// Submission by users, who begin TLS with STARTTLS (RFC 6409).
    Submission,
    /// Submission by users, inside TLS from the first byte (RFC 8314 3.3).
    Submissions,
    /// Takes messages like `Relay` and throws them away, for benchmarks.
    Null,
}

impl Role {
    /// All of them, each at its number.
    pub const ALL: [Role; 4] = [Role::Relay, Role::Submission, Role::Submissions, Role::Null];

    /// The last part of its key, `listen.NAME`.
    pub const fn name(self) -> &'static str {
        match self {
            Role::Relay => "relay",
            Role::Submission => "submission",
            Role::Submissions => "submissions",
            Role::Null => "null",
        }
    }

    /// Its users prove who they are before they send (AUT-06).
    pub const fn is_submission(self) -> bool {
        matches!(self, Role::Submission | Role::Submissions)
    }
}

/// Receiving (`relay.*`, `listen.connections`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RelaySettings {
    /// Whose clients may send anywhere.
    pub networks: Vec<IpNet>,
    /// Whose word on a client's address is believed, where a listener awaits it.
    pub proxies: Vec<IpNet>,
    /// Who may say XCLIENT.
    pub xclients: Vec<IpNet>,
    /// Who may say XFORWARD.
    pub xforwarders: Vec<IpNet>,
    /// Largest message, unstuffed.
    pub message_bytes_max: u64,
    /// Recipients of one transaction.
    pub recipients_max: usize,
    /// Errors of one session.
    pub errors_max: u32,
    /// Received fields of a message.
    pub received_fields_max: u32,
    /// Silence before a command.
    pub command_idle_ms: u64,
    /// Silence inside message data.
    pub data_idle_ms: u64,
    /// Inbound connections of one shard.
    pub connections_max: usize,
    /// Of them, those of one address.
    pub connections_per_address: u32,
    /// Of them, those of one network.
    pub connections_per_network: u32,
    /// The longest that a client may have a message held; 0: not offered.
    pub hold_max_s: u32,
}

impl RelaySettings {
    /// True if a client at `peer` may send anywhere. An IPv4 address inside an IPv6 one counts as itself.
    pub fn may_relay(&self, peer: IpAddr) -> bool {
        contains(&self.networks, peer)
    }
}

pub(super) fn contains(networks: &[IpNet], peer: IpAddr) -> bool {
    let peer = peer.to_canonical();
    networks.iter().any(|network| network.contains(&peer))
}

/// The HTTP interface (`listen.http`, `http.*`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpSettings {
    /// Where it listens, if it does.
    pub listen: Option<SocketAddr>,
    /// Whose clients may see what the relay does.
    pub watchers: Vec<IpNet>,
    /// Whose clients may give orders about the queue.
    pub operators: Vec<IpNet>,
}

impl HttpSettings {
    /// True if a client at `peer` may see what the relay does.
    pub fn may_watch(&self, peer: IpAddr) -> bool {
        contains(&self.watchers, peer)
    }

    /// True if a client at `peer` may give orders about the queue.
    pub fn may_operate(&self, peer: IpAddr) -> bool {
        contains(&self.operators, peer)
    }

    /// True if nobody chose where it listens.
    pub fn is_default(&self) -> bool {
        self.listen.is_some_and(|address| address.to_string() == HTTP_DEFAULT)
    }
}

/// The spool (`queue.*`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueueSettings {
    /// Its directory.
    pub dir: PathBuf,
    /// Size of a segment, a multiple of `limits::DISK_ALIGN_BYTES`.
    pub segment_bytes: u32,
    /// Segments of one shard.
    pub segments_max: usize,
    /// Memory of one shard for bodies not yet delivered.
    pub hot_bytes: usize,
    /// When batches go to the disk.
    pub commit: CommitSettings,
}

/// Sockets (`socket.*`, `listen.backlog`). The default is what the keys' defaults are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SocketSettings {
    /// Connections held until they are accepted.
    pub backlog: u32,
    /// Bytes buffered in front of us; 0: the system's choice.
    pub receive_bytes: usize,
    /// Bytes buffered behind us; 0: the system's choice.
    pub send_bytes: usize,
    /// A connection goes to the shard on the core that its first packet came to.
    pub by_core: bool,
}

impl Default for SocketSettings {
    fn default() -> Self {
        SocketSettings { backlog: limits::LISTEN_BACKLOG, receive_bytes: 0, send_bytes: 0, by_core: false }
    }
}

/// Limits of a site that has none of its own (`site.default.*`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SiteSettings {
    /// The rule (`site.NAME`) that they come from; `None`: `site.default`.
    pub rule: Option<Box<str>>,
    /// Connections over all shards, at least 1.
    pub connections: u32,
    /// Messages a second over all shards; 0: no limit.
    pub messages_per_second: u32,
    /// Messages over one connection.
    pub messages_per_connection: u32,
    /// Recipients of one transaction.
    pub recipients: usize,
    /// Bodies go by BDAT to who offers it.
    pub chunking: bool,
    /// How long an idle connection is kept.
    pub idle_ms: u64,
    /// How old a connection may be when it begins a transaction.
    pub age_ms: u64,
}

/// Some sites with limits of their own (`site.NAME.*`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SiteRule {
    /// What it is called.
    pub name: Box<str>,
    /// Which sites.
    pub of: SiteMatch,
    /// Their limits: those of `site.default`, but for what the rule says.
    pub settings: Arc<SiteSettings>,
}

/// Which sites a rule is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SiteMatch {
    /// Mail for this domain or, with a leading dot, the domains below it. It has sites of its own.
    Domain(Box<str>),
    /// Sites whose best mail host is one of these or, with a leading dot, below.
    MailHosts(Vec<Box<str>>),
    /// The smart host.
    NextHop(HostPort),
}

/// Pauses and expiry (`retry.*`); `first <= longest` and `first <= expire`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RetrySettings {
    /// A recipient's first pause.
    pub first_ms: u64,
    /// A recipient's longest pause.
    pub longest_ms: u64,
    /// A message's age at which its open recipients are given up.
    pub expire_ms: u64,
    /// A site's first pause.
    pub site_first_ms: u64,
    /// A site's longest pause.
    pub site_longest_ms: u64,
}

/// Reports to senders (`report.*`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReportSettings {
    /// The age at which a sender who asked for it is told that a message takes long.
    pub delay_ms: u64,
}

/// How long a next hop may take (`timeout.*`; RTE-15; RFC 5321 4.5.3.2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TimeoutSettings {
    /// To connect.
    pub connect_ms: u64,
    /// To greet.
    pub greeting_ms: u64,
    /// To answer EHLO, HELO or RSET.
    pub hello_ms: u64,
    /// To answer MAIL.
    pub mail_ms: u64,
    /// To answer one RCPT.
    pub rcpt_ms: u64,
    /// To answer DATA.
    pub data_ms: u64,
    /// To take one piece of message data.
    pub data_block_ms: u64,
    /// To answer the final dot.
    pub data_end_ms: u64,
    /// To answer QUIT.
    pub quit_ms: u64,
    /// To do a TLS handshake; clients too.
    pub tls_ms: u64,
}

impl Default for TimeoutSettings {
    fn default() -> Self {
        TimeoutSettings {
            connect_ms: limits::CONNECT_TIMEOUT_MS,
            greeting_ms: limits::GREETING_TIMEOUT_MS,
            hello_ms: limits::HELLO_TIMEOUT_MS,
            mail_ms: limits::MAIL_TIMEOUT_MS,
            rcpt_ms: limits::RCPT_TIMEOUT_MS,
            data_ms: limits::DATA_TIMEOUT_MS,
            data_block_ms: limits::DATA_BLOCK_TIMEOUT_MS,
            data_end_ms: limits::DATA_END_TIMEOUT_MS,
            quit_ms: limits::QUIT_TIMEOUT_MS,
            tls_ms: limits::TLS_TIMEOUT_MS,
        }
    }
}

/// Whose word counts that an answer is validated (`dns.trust`; DAN-01).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DnsTrust {
    /// That of name servers on this machine, if there are no others.
    #[default]
    Loopback,
    /// Everybody's who is asked.
    Always,
    /// Nobody's.
    Never,
}

/// What is logged (`log.level`): this and everything above.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LogLevel {
    /// Something was lost or refused that should not be.
    Error,
    /// Works, but worth a look.
    Warning,
    /// The life of the relay.
    Info,
    /// Every outcome.
    Debug,
}

/// A part of a domain name between dots.
pub(crate) fn is_label(label: &str) -> bool {
    (1..=63).contains(&label.len())
        && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
        && !label.starts_with('-')
        && !label.ends_with('-')
}

/// A domain name in lower case: labels of letters, digits, hyphens and underscores, none empty or too long, and not
/// all digits and dots, which would be a mistyped address.
pub(super) fn domain_name(text: &str) -> Option<Box<str>> {
    let number_like = text.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    let good = text.len() <= limits::DOMAIN_MAX_BYTES && !number_like && text.split('.').all(is_label);
    good.then(|| text.to_ascii_lowercase().into())
}

impl Settings {
    /// Lowers how many connections a shard may have to what is left of so many open files: connections must not keep the log
    /// from its segments. Gives a note that says so, if it was too many.
    pub fn fit(&mut self, files: u64) -> Option<String> {
        let wanted = (self.relay.connections_max, self.route.connections);
        let each = usize::try_from(files).unwrap_or(usize::MAX) / usize::from(self.shards);
        let kept = self.queue.segments_max + limits::FILES_KEPT;
        let room = each - kept.min(each / 4);
        let sum = wanted.0.saturating_add(wanted.1);
        if sum <= room {
            return None;
        }
        let part = |wanted: usize| (wanted as u128 * room as u128 / sum as u128).max(1) as usize;
        (self.relay.connections_max, self.route.connections) = (part(wanted.0), part(wanted.1));
        Some(format!(
            "only {files} files may be open: each shard takes {} clients and has {} outbound connections at most, and not {} and {} as \
             listen.connections and route.connections say; raise the limit on open files to {} (LimitNOFILE=)",
            self.relay.connections_max,
            self.route.connections,
            wanted.0,
            wanted.1,
            (sum + kept).saturating_mul(self.shards.into())
        ))
    }

    /// Where a message of a tenant may come from; never empty.
    pub fn pool_of(&self, tenant: TenantId) -> &[SourceId] {
        let own = usize::from(tenant).checked_sub(1).map(|number| &self.tenants[number].pool[..]);
        match own.filter(|pool| !pool.is_empty()).unwrap_or(&self.pool) {
            [] => &[0],
            pool => pool,
        }
    }

    /// The number of a tenant, by its name in any case.
    pub fn tenant_named(&self, name: &str) -> Option<TenantId> {
        let place = self.tenants.iter().position(|tenant| tenant.name.eq_ignore_ascii_case(name))?;
        Some(place as TenantId + 1)
    }

    /// For whom a client at `peer` sends, and how urgent its messages are where they do not say. An IPv4 address inside an IPv6
    /// one counts as itself.
    pub fn share_of(&self, peer: IpAddr) -> Share {
        let peer = peer.to_canonical();
        let mut found: Option<(u8, usize)> = None;
        for (number, tenant) in self.tenants.iter().enumerate() {
            for network in tenant.networks.iter().filter(|network| network.contains(&peer)) {
                if found.is_none_or(|(length, _)| network.prefix_len() > length) {
                    found = Some((network.prefix_len(), number));
                }
            }
        }
        found.map_or(Share::default(), |(_, number)| Share {
            tenant: number as u16 + 1,
            class: self.tenants[number].class,
        })
    }

    /// True if certificates may have to come from an authority for any domain or next hop.
    pub fn verifies(&self) -> bool {
        let policies = &self.tls.policies;
        let own = self.route.next_hops.iter().filter_map(|hop| hop.tls);
        std::iter::once(policies.default)
            .chain(policies.domains.values().copied())
            .chain(own)
            .any(|p| matches!(p, TlsPolicy::Verify | TlsPolicy::Published))
    }

    /// What holds where nothing is set, on a machine of one core without a name.
    pub fn defaults() -> Settings {
        let machine = Machine { hostname: String::new(), cores: 1 };
        super::load(None, &[], &machine).expect("defaults are right")
    }

    /// The settings that these values mean on this machine.
    pub fn from_values(values: &Values, machine: &Machine) -> Result<Settings, ConfigError> {
        let cores = cores(values)?;
        let hostname = hostname(values, machine)?;
        let settings = Settings {
            hostname: hostname.clone(),
            listen: listen(values)?,
            http: HttpSettings {
                listen: optional(values, "listen.http", |text| text.parse().map_err(|_| ADDRESS_REMEDY))?,
                watchers: each(values, "http.watchers", network)?,
                operators: each(values, "http.operators", network)?,
            },
            relay: relay(values)?,
            route: route(values)?,
            tls: tls(values)?,
            auth: auth(values)?,
            aliases: aliases(values)?,
            dkim: dkim(values)?,
            queue: queue(values)?,
            shards: shards(values, if cores.is_empty() { machine.cores } else { cores.len() }),
            cores,
            socket: SocketSettings {
                backlog: small(values, "listen.backlog"),
                receive_bytes: values.number("socket.receive_bytes") as usize,
                send_bytes: values.number("socket.send_bytes") as usize,
                by_core: values.flag("socket.by_core"),
            },
            site: site(values, "default"),
            sites: sites(values)?,
            tenants: tenants(values)?,
            retry: retry(values)?,
            report: ReportSettings { delay_ms: values.number("report.delay_ms") },
            timeout: TimeoutSettings {
                connect_ms: values.number("timeout.connect_ms"),
                greeting_ms: values.number("timeout.greeting_ms"),
                hello_ms: values.number("timeout.hello_ms"),
                mail_ms: values.number("timeout.mail_ms"),
                rcpt_ms: values.number("timeout.rcpt_ms"),
                data_ms: values.number("timeout.data_ms"),
                data_block_ms: values.number("timeout.data_block_ms"),
                data_end_ms: values.number("timeout.data_end_ms"),
                quit_ms: values.number("timeout.quit_ms"),
                tls_ms: values.number("timeout.tls_ms"),
            },
            dns_servers: each(values, "dns.servers", |text| text.parse().map_err(|_| ADDRESS_REMEDY))?,
            dns_trust: dns_trust(values)?,
            pool: pool(values, "source.pool", &values.texts("source.pool"))?,
            sources: sources(values, &hostname)?,
            warm_ups: warm_ups(values)?,
            log_level: log_level(values)?,
            drain_ms: values.number("drain_ms"),
            user: optional(values, "user", |name| Ok(name.into()))?,
            landlock: values.flag("landlock"),
        };
        settings.check_submission()?;
        settings.check_tls_reports()?;
        Ok(settings)
    }

    /// A TLS report without a signature of its sender's domain is thrown away by whoever gets it (RFC 8460 3).
    fn check_tls_reports(&self) -> Result<(), ConfigError> {
        let Some(reports) = &self.tls.reports else { return Ok(()) };
        let domain = reports.submitter();
        let below = |above: &str| domain.strip_suffix(above).is_some_and(|rest| rest.ends_with('.'));
        let signs = |key: &&DkimKeySettings| *key.domain == *domain || (key.subdomains && below(&key.domain));
        if self.dkim.keys.iter().filter(signs).any(|key| key.tenants.is_empty()) {
            return Ok(());
        }
        let remedy =
            "needs a DKIM key of its domain that signs for everybody (dkim.NAME.domain); reports have to be signed";
        Err(ConfigError::new("tls.report_from", reports.from.to_string(), remedy))
    }

    /// Who submits must be able to say who it is, and not so that all can hear it.
    fn check_submission(&self) -> Result<(), ConfigError> {
        for Listener { endpoint, role, .. } in self.listen.iter().filter(|listener| listener.role.is_submission()) {
            let key = format!("listen.{}", role.name());
            if self.auth.mechanisms.is_empty() {
                let remedy =
                    "nobody could authenticate there; set auth.users, auth.url, auth.jwt_key or auth.introspection_url";
                return Err(ConfigError::new(&key, endpoint.to_string(), remedy));
            }
            if !self.tls.offer && (*role == Role::Submissions || !self.auth.allow_clear) {
                return Err(ConfigError::new(&key, endpoint.to_string(), "needs TLS; set tls.offer = true"));
            }
        }
        Ok(())
    }
}

const LISTEN_REMEDY: &str = "must be address:port, for instance 127.0.0.1:2525 or [::1]:2525, or unix:/path";
const ADDRESS_REMEDY: &str = "must be address:port, for instance 127.0.0.1:2525 or [::1]:2525";

fn hostname(values: &Values, machine: &Machine) -> Result<Box<str>, ConfigError> {
    const KEY: &str = "relay.hostname";
    match values.text(KEY) {
        "" => {
            let name = domain_name(&machine.hostname).filter(|name| name.contains('.'));
            Ok(name.unwrap_or_else(|| "localhost.localdomain".into()))
        }
        text => domain_name(text).ok_or_else(|| {
            ConfigError::new(KEY, text.to_owned(), "must be a domain name, for instance relay.example.org")
        }),
    }
}

fn listen(values: &Values) -> Result<Vec<Listener>, ConfigError> {
    let mut listeners: Vec<Listener> = Vec::new();
    for (role, key) in Role::ALL.into_iter().zip(LISTEN_KEYS) {
        for (endpoint, proxied) in each(values, key, listener)? {
            let any_port = matches!(endpoint, Endpoint::Tcp(address) if address.port() == 0);
            if !any_port && listeners.iter().any(|listener| listener.endpoint == endpoint) {
                return Err(ConfigError::new(key, endpoint.to_string(), "is there twice; an address has one role"));
            }
            listeners.push(Listener { endpoint, role, proxied });
        }
    }
    if listeners.is_empty() {
        return Err(ConfigError::new("listen.relay", String::new(), "a relay needs at least one address to listen on"));
    }
    Ok(listeners)
}

/// An endpoint, and ` proxy` behind it if a PROXY header is awaited there.
fn listener(text: &str) -> Result<(Endpoint, bool), &'static str> {
    match text.strip_suffix(" proxy") {
        Some(endpoint) => Ok((Endpoint::parse(endpoint.trim_end())?, true)),
        None => Ok((Endpoint::parse(text)?, false)),
    }
}

/// The keys of `Role::ALL`.
const LISTEN_KEYS: [&str; 4] = ["listen.relay", "listen.submission", "listen.submissions", "listen.null"];

fn relay(values: &Values) -> Result<RelaySettings, ConfigError> {
    Ok(RelaySettings {
        networks: each(values, "relay.networks", network)?,
        proxies: each(values, "proxy.networks", network)?,
        xclients: each(values, "xclient.networks", network)?,
        xforwarders: each(values, "xforward.networks", network)?,
        message_bytes_max: values.number("relay.message_bytes"),
        recipients_max: values.number("relay.recipients") as usize,
        errors_max: small(values, "relay.errors"),
        received_fields_max: small(values, "relay.received_fields"),
        command_idle_ms: values.number("relay.idle_ms"),
        data_idle_ms: values.number("relay.data_idle_ms"),
        connections_max: values.number("listen.connections") as usize,
        connections_per_address: small(values, "listen.connections_per_address"),
        connections_per_network: small(values, "listen.connections_per_network"),
        hold_max_s: small(values, "relay.hold_s"),
    })
}

/// A network, or one address.
pub(super) fn network(text: &str) -> Result<IpNet, &'static str> {
    let network = text.parse::<IpNet>().or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
    network.map(|network| network.trunc()).map_err(|_| "must be networks, for instance 192.0.2.0/24 or ::1/128")
}

/// The limits of `site.NAME`: its own, and the default's where it has none.
fn site(values: &Values, name: &str) -> SiteSettings {
    let number = |limit: &str| {
        let own = values.named_number(&format!("site.*.{limit}"), name);
        own.unwrap_or_else(|| values.number(&format!("site.default.{limit}")))
    };
    let small = |limit: &str| u32::try_from(number(limit)).expect("the key's bounds fit");
    SiteSettings {
        rule: (name != "default").then(|| name.into()),
        connections: small("connections"),
        messages_per_second: small("messages_per_second"),
        messages_per_connection: small("messages_per_connection"),
        recipients: number("recipients") as usize,
        chunking: values.named_flag("site.*.chunking", name).unwrap_or(values.flag("site.default.chunking")),
        idle_ms: number("idle_ms"),
        age_ms: number("age_ms"),
    }
}

/// The rules of sites. What a rule is for its name says, unless it names mail hosts.
fn sites(values: &Values) -> Result<Vec<SiteRule>, ConfigError> {
    let mut rules = Vec::new();
    for name in values.named("site.*.") {
        let hosts = values.named_texts("site.*.mail_hosts", name);
        let of = match hosts {
            Some(hosts) => {
                let suffix = |host: &&str| {
                    suffix_name(host).ok_or_else(|| {
                        let remedy = "must be mail hosts, for instance mx.example.net or .example.net";
                        ConfigError::new(&format!("site.{name}.mail_hosts"), host.to_string(), remedy)
                    })
                };
                SiteMatch::MailHosts(hosts.iter().map(suffix).collect::<Result<_, _>>()?)
            }
            None => match (suffix_name(name), HostPort::parse(name)) {
                (_, Ok(next_hop)) => SiteMatch::NextHop(next_hop),
                (Some(domain), _) if domain.contains('.') => SiteMatch::Domain(domain),
                _ => {
                    let remedy = "is neither a domain nor a next hop (host:port), and no provider of that name is known; \
                                  name its mail hosts with mail_hosts";
                    return Err(ConfigError::new(&format!("site.{name}"), None, remedy));
                }
            },
        };
        rules.push(SiteRule { name: name.into(), of, settings: Arc::new(site(values, name)) });
    }
    Ok(rules)
}

/// A domain name in lower case, perhaps with a leading dot.
pub(super) fn suffix_name(text: &str) -> Option<Box<str>> {
    match text.strip_prefix('.') {
        Some(rest) => domain_name(rest).map(|name| format!(".{name}").into()),
        None => domain_name(text),
    }
}

fn queue(values: &Values) -> Result<QueueSettings, ConfigError> {
    let dir = values.text("queue.dir");
    if dir.is_empty() {
        return Err(ConfigError::new("queue.dir", String::new(), "must be a directory"));
    }
    let segment_bytes = small(values, "queue.segment_bytes");
    if !(segment_bytes as usize).is_multiple_of(limits::DISK_ALIGN_BYTES) {
        let remedy = format!("must be a multiple of {}", limits::DISK_ALIGN_BYTES);
        return Err(ConfigError::new("queue.segment_bytes", segment_bytes.to_string(), remedy));
    }
    Ok(QueueSettings {
        dir: dir.into(),
        segment_bytes,
        segments_max: values.number("queue.segments") as usize,
        hot_bytes: values.number("queue.memory_bytes") as usize,
        commit: CommitSettings {
            batch_bytes: values.number("queue.batch_bytes") as usize,
            writes_in_flight: values.number("queue.writes_in_flight") as usize,
        },
    })
}

fn shards(values: &Values, cores: usize) -> u16 {
    match values.number("shards") {
        0 => cores.clamp(1, limits::SHARDS_MAX.into()) as u16,
        set => set as u16,
    }
}

fn cores(values: &Values) -> Result<Vec<usize>, ConfigError> {
    let text = values.text("cores");
    parse_cores(text).map_err(|remedy| ConfigError::new("cores", text.to_owned(), remedy))
}

/// The cores of a list as the kernel writes it, `0-3,8`, in the order given; the error says what to write.
pub fn parse_cores(text: &str) -> Result<Vec<usize>, &'static str> {
    const REMEDY: &str = "must be a list of cores, for instance 0-3,8";
    let mut cores = Vec::new();
    for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let number = |text: &str| text.trim().parse().ok().filter(|core| *core < CORES_MAX).ok_or(REMEDY);
        let (first, last): (usize, usize) = (number(first)?, number(last)?);
        if first > last {
            return Err(REMEDY);
        }
        if (first..=last).any(|core| cores.contains(&core)) {
            return Err("names a core twice; a core has one shard");
        }
        cores.extend(first..=last);
    }
    Ok(cores)
}

/// The kernel numbers no more cores.
const CORES_MAX: usize = 8192;

fn retry(values: &Values) -> Result<RetrySettings, ConfigError> {
    // Both keys of a pair may be at fault; the message names both.
    let ordered = |low: &str, high: &str| {
        let (least, most) = (values.number(low), values.number(high));
        let remedy = format!("must not be less than {low}, which is {least}");
        if least <= most { Ok(most) } else { Err(ConfigError::new(high, most.to_string(), remedy)) }
    };
    Ok(RetrySettings {
        first_ms: values.number("retry.first_ms"),
        longest_ms: ordered("retry.first_ms", "retry.longest_ms")?,
        expire_ms: ordered("retry.first_ms", "retry.expire_ms")?,
        site_first_ms: values.number("retry.site_first_ms"),
        site_longest_ms: ordered("retry.site_first_ms", "retry.site_longest_ms")?,
    })
}

fn dns_trust(values: &Values) -> Result<DnsTrust, ConfigError> {
    match values.text("dns.trust") {
        "loopback" => Ok(DnsTrust::Loopback),
        "always" => Ok(DnsTrust::Always),
        "never" => Ok(DnsTrust::Never),
        other => Err(ConfigError::new("dns.trust", other.to_owned(), "must be one of loopback, always and never")),
    }
}

fn log_level(values: &Values) -> Result<LogLevel, ConfigError> {
    match values.text("log.level") {
        "error" => Ok(LogLevel::Error),
        "warning" => Ok(LogLevel::Warning),
        "info" => Ok(LogLevel::Info),
        "debug" => Ok(LogLevel::Debug),
        other => Err(ConfigError::new("log.level", other.to_owned(), "must be one of error, warning, info and debug")),
    }
}

/// A number whose bounds keep it within 32 bits.
pub(super) fn small(values: &Values, name: &str) -> u32 {
    u32::try_from(values.number(name)).expect("the key's bounds fit")
}

/// A text that may be empty.
pub(super) fn optional<T>(
    values: &Values,
    name: &str,
    parse: impl Fn(&str) -> Result<T, &'static str>,
) -> Result<Option<T>, ConfigError> {
    match values.text(name) {
        "" => Ok(None),
        text => parse(text).map(Some).map_err(|remedy| ConfigError::new(name, text.to_owned(), remedy)),
    }
}

/// Every text of a list.
pub(super) fn each<T>(
    values: &Values,
    name: &str,
    parse: impl Fn(&str) -> Result<T, &'static str>,
) -> Result<Vec<T>, ConfigError> {
    let parsed = |text: &str| parse(text).map_err(|remedy| ConfigError::new(name, text.to_owned(), remedy));
    values.texts(name).into_iter().map(parsed).collect()
}
