//! DNS for all shards: an ordinary thread with hickory-resolver on tokio, behind a handle that any thread may use.
//!
//! While a handle lives, every question gets its answer exactly once; whatever goes wrong is an answer too
//! (`Answer::Temporary`). What is an answer and what an error is decided here (RTE-01, RTE-02, RTE-06, RTE-07, RTE-09);
//! order, loops and private addresses are `route::mx`'s. Records, questions on their way and time are bounded (RTE-04).
//! The answers are cached here by hickory for all shards, and by each shard for itself.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::op::ResponseCode;
use hickory_resolver::proto::rr::{Name, RData, RecordType};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;

use crate::base::limits;
use crate::route::{Answer, MailHost, QueryId};

/// Whom to ask.
#[derive(Clone, Debug, Default)]
pub struct ResolverSettings {
    /// `dns.servers`; empty: those of the system.
    pub servers: Vec<SocketAddr>,
}

/// Where an answer goes: called once, on the resolver's thread; must not block.
pub type Reply = Box<dyn FnOnce(QueryId, Answer) + Send>;

struct Question {
    query: QueryId,
    domain: Box<str>,
    address_only: bool,
    reply: Reply,
}

/// The way to the resolver's thread, which ends when the last handle is gone.
#[derive(Clone)]
pub struct Resolver {
    questions: mpsc::Sender<Question>,
}

impl Resolver {
    /// Starts the thread. An error: no thread, no event loop, or no name servers known.
    pub fn start(settings: &ResolverSettings) -> io::Result<Resolver> {
        let (questions, inbox) = mpsc::channel(limits::DNS_WAITING_MAX);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let dns = {
            let _inside = runtime.enter();
            build(settings).map_err(io::Error::other)?
        };
        let lookups = Lookups { dns, permits: Arc::new(Semaphore::new(limits::DNS_QUESTIONS_AT_ONCE)) };
        thread::Builder::new().name("resolver".into()).spawn(move || runtime.block_on(serve(inbox, lookups)))?;
        Ok(Resolver { questions })
    }

    /// Asks for the mail hosts of a domain with their addresses or, with `address_only`, for a host's addresses.
    pub fn ask(&self, query: QueryId, domain: Box<str>, address_only: bool, reply: Reply) {
        let question = Question { query, domain, address_only, reply };
        if let Err(refused) = self.questions.try_send(question) {
            let Question { query, reply, .. } = refused.into_inner();
            reply(query, temporary("too many questions are waiting for the resolver"));
        }
    }
}

/// Takes questions, so many at a time, until all handles are gone.
async fn serve(mut inbox: mpsc::Receiver<Question>, lookups: Lookups) {
    let domains = Arc::new(Semaphore::new(limits::DNS_DOMAINS_AT_ONCE));
    while let Some(question) = inbox.recv().await {
        let permit = domains.clone().acquire_owned().await.expect("the semaphore is never closed");
        let lookups = lookups.clone();
        tokio::spawn(async move {
            let total = Duration::from_millis(limits::DNS_TOTAL_TIMEOUT_MS);
            let answer = tokio::time::timeout(total, lookups.answer(&question.domain, question.address_only)).await;
            drop(permit);
            (question.reply)(question.query, answer.unwrap_or_else(|_| temporary("DNS took too long")));
        });
    }
}

fn build(settings: &ResolverSettings) -> Result<TokioResolver, NetError> {
    let mut builder = if settings.servers.is_empty() {
        TokioResolver::builder_tokio()?
    } else {
        let servers = settings.servers.iter().map(name_server).collect();
        let config = ResolverConfig::from_name_servers(servers);
        TokioResolver::builder_with_config(config, TokioRuntimeProvider::default())
    };
    set_options(builder.options_mut());
    builder.build()
}

fn name_server(address: &SocketAddr) -> NameServerConfig {
    let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()].map(|mut connection| {
        connection.port = address.port();
        connection
    });
    NameServerConfig::new(address.ip(), true, connections.into())
}

fn set_options(options: &mut ResolverOpts) {
    options.timeout = Duration::from_millis(limits::DNS_TIMEOUT_MS);
    // hickory counts what comes after the first try.
    options.attempts = limits::DNS_TRIES - 1;
    options.max_active_requests = limits::DNS_QUESTIONS_AT_ONCE;
    // A mail host's address is a matter of DNS alone (RFC 5321 5.1).
    options.use_hosts_file = ResolveHosts::Never;
    options.positive_max_ttl = Some(Duration::from_secs(limits::DNS_TTL_MAX_S.into()));
    options.negative_max_ttl = Some(Duration::from_secs(limits::DNS_NEGATIVE_TTL_MAX_S.into()));
}

/// What one question brought.
enum Found<T> {
    /// Records of the kind asked for, at least one.
    Some(Vec<T>, u32),
    /// No such records, or no such name.
    None { no_such_name: bool, ttl_s: u32 },
    /// No answer.
    Failed(Box<str>),
}

/// The addresses of one host; without any, the reason.
struct Addresses {
    list: Vec<IpAddr>,
    ttl_s: u32,
    failure: Option<Box<str>>,
}

#[derive(Clone)]
struct Lookups {
    dns: TokioResolver,
    permits: Arc<Semaphore>,
}

impl Lookups {
    async fn answer(&self, domain: &str, address_only: bool) -> Answer {
        let Some(name) = parse_name(domain) else {
            return Answer::NoSuchDomain { ttl_s: limits::DNS_NEGATIVE_TTL_MAX_S };
        };
        if address_only {
            return self.own_host(name, limits::DNS_TTL_MAX_S).await;
        }
        let mx = self.find(name.clone(), RecordType::MX, |data| match data {
            RData::MX(mx) => Some((mx.preference, mx.exchange.clone())),
            _ => None,
        });
        match mx.await {
            Found::Some(hosts, ttl_s) => self.mail_hosts(hosts, ttl_s).await,
            Found::None { no_such_name: true, ttl_s } => Answer::NoSuchDomain { ttl_s },
            // The domain is its own mail host (RTE-01).
            Found::None { no_such_name: false, ttl_s } => self.own_host(name, ttl_s).await,
            Found::Failed(text) => Answer::Temporary { text },
        }
    }

    /// A name as its own and only host.
    async fn own_host(&self, name: Name, ttl_s: u32) -> Answer {
        let text = host_name(&name);
        let addresses = self.addresses(name).await;
        match addresses.failure {
            _ if !addresses.list.is_empty() => Answer::Mail {
                hosts: vec![MailHost { preference: 0, name: text, addresses: addresses.list }],
                ttl_s: ttl_s.min(addresses.ttl_s),
            },
            Some(text) => Answer::Temporary { text },
            None => Answer::NoSuchDomain { ttl_s: ttl_s.min(addresses.ttl_s) },
        }
    }

    /// The mail hosts of an MX answer, best first, each with its addresses, all asked for at once.
    async fn mail_hosts(&self, mut hosts: Vec<(u16, Name)>, mut ttl_s: u32) -> Answer {
        // `.` says that the domain takes no mail; beside real hosts it says nothing (RTE-07).
        hosts.retain(|(_, name)| !name.is_root());
        if hosts.is_empty() {
            return Answer::NullMx { ttl_s };
        }
        hosts.sort_by_key(|(preference, _)| *preference);
        hosts.truncate(limits::MAIL_HOSTS_MAX);
        let mut tasks = JoinSet::new();
        for (index, (_, name)) in hosts.iter().enumerate() {
            let (lookups, name) = (self.clone(), name.clone());
            tasks.spawn(async move { (index, lookups.addresses(name).await) });
        }
        let mut found: Vec<MailHost> = hosts
            .iter()
            .map(|(preference, name)| MailHost {
                preference: *preference,
                name: host_name(name),
                addresses: Vec::new(),
            })
            .collect();
        let mut failure = None;
        while let Some(joined) = tasks.join_next().await {
            let Ok((index, addresses)) = joined else {
                failure = Some("a DNS question was not answered".into());
                continue;
            };
            ttl_s = ttl_s.min(addresses.ttl_s);
            failure = addresses.failure.or(failure);
            found[index].addresses = addresses.list;
        }
        match failure {
            Some(text) if found.iter().all(|host| host.addresses.is_empty()) => Answer::Temporary { text },
            // Usable, but ask again soon for the host that is missing.
            Some(_) => Answer::Mail { hosts: found, ttl_s: ttl_s.min(limits::DNS_FAILURE_TTL_S) },
            None => Answer::Mail { hosts: found, ttl_s },
        }
    }

    /// A and AAAA of a host, at once; CNAMEs are followed (RTE-06).
    async fn addresses(&self, name: Name) -> Addresses {
        let v4 = self.find(name.clone(), RecordType::A, |data| match data {
            RData::A(a) => Some(IpAddr::V4(a.0)),
            _ => None,
        });
        let v6 = self.find(name, RecordType::AAAA, |data| match data {
            RData::AAAA(aaaa) => Some(IpAddr::V6(aaaa.0)),
            _ => None,
        });
        let (v4, v6) = futures_lite::future::zip(v4, v6).await;
        let mut all = Addresses { list: Vec::new(), ttl_s: limits::DNS_TTL_MAX_S, failure: None };
        for found in [v4, v6] {
            match found {
                Found::Some(mut list, ttl_s) => {
                    // Neither family crowds out the other (RTE-10).
                    list.truncate(limits::HOST_ADDRESSES_MAX / 2);
                    all.list.append(&mut list);
                    all.ttl_s = all.ttl_s.min(ttl_s);
                }
                Found::None { ttl_s, .. } => all.ttl_s = all.ttl_s.min(ttl_s),
                Found::Failed(text) => all.failure = Some(text),
            }
        }
        all
    }

    /// One question, and the records in its answer that `pick` wants.
    async fn find<T>(&self, name: Name, kind: RecordType, pick: impl Fn(&RData) -> Option<T>) -> Found<T> {
        let _permit = self.permits.acquire().await.expect("the semaphore is never closed");
        match self.dns.lookup(name, kind).await {
            Ok(lookup) => {
                let good_for = lookup.valid_until().saturating_duration_since(Instant::now());
                let ttl_s = good_for.as_secs().min(limits::DNS_TTL_MAX_S.into()) as u32;
                let records: Vec<T> = lookup.answers().iter().filter_map(|record| pick(&record.data)).collect();
                if records.is_empty() {
                    return Found::None { no_such_name: false, ttl_s };
                }
                Found::Some(records, ttl_s)
            }
            Err(NetError::Dns(DnsError::NoRecordsFound(none))) => match none.response_code {
                ResponseCode::NXDomain | ResponseCode::NoError => Found::None {
                    no_such_name: none.response_code == ResponseCode::NXDomain,
                    ttl_s: none.negative_ttl.unwrap_or(limits::DNS_FAILURE_TTL_S),
                },
                code => Found::Failed(format!("DNS: {code}").into()),
            },
            Err(error) => Found::Failed(format!("DNS: {error}").into()),
        }
    }
}

/// A domain as a fully qualified name, so that no search list applies.
fn parse_name(domain: &str) -> Option<Name> {
    let mut name = Name::from_ascii(domain).ok().filter(|name| !name.is_root())?;
    name.set_fqdn(true);
    Some(name)
}

/// Lower case, without the final dot.
fn host_name(name: &Name) -> Box<str> {
    name.to_lowercase().to_ascii().trim_end_matches('.').into()
}

fn temporary(text: &str) -> Answer {
    Answer::Temporary { text: text.into() }
}

#[cfg(test)]
mod tests;
