//! DNS for all shards: an ordinary thread with hickory-resolver on tokio, behind a handle that any thread may use.
//!
//! While a handle lives, every question gets its answer exactly once; whatever goes wrong is an answer too
//! (`Answer::Temporary`). What is an answer and what an error is decided here (RTE-01, RTE-02, RTE-06, RTE-07, RTE-09);
//! order, loops and private addresses are `route::mx`'s. Records, questions on their way and time are bounded (RTE-04).
//! The answers are cached here by hickory for all shards, and by each shard for itself.
//!
//! Where a host has to prove itself by TLSA records, the question goes to the name servers beside hickory's cache, which does
//! not keep whether an answer was validated. They validate, and their word counts where `dns.trust` says so (DAN-01). No answer
//! is better than one that may be forged: then the host counts as unreachable (DAN-05).
//!
//! Where a domain's MTA-STS policy matters, it is found (`sts`) while DNS is asked for the hosts; the question waits for both.

mod names;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::xfer::{DnsHandle as _, FirstAnswer as _};
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::op::{DnsRequest, DnsRequestOptions, Query, ResponseCode};
use hickory_resolver::proto::rr::{Name, RData, Record, RecordType};
use hickory_resolver::system_conf::read_system_conf;
use hickory_resolver::{NameServerPool, PoolContext, TlsConfig, TokioResolver};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;

use super::sts::{PolicyDesk, StsSettings};
use crate::base::limits;
use crate::config::{DnsTrust, Settings};
use crate::route::safety::{HostTls, Tlsa};
use crate::route::sts::{Sts, record_id};
use crate::route::{Answer, MailHost, QueryId, Question};

pub use names::check_names;

/// Whom to ask.
#[derive(Clone, Debug, Default)]
pub struct ResolverSettings {
    /// `dns.servers`; empty: those of the system.
    pub servers: Vec<SocketAddr>,
    /// `dns.trust`.
    pub trust: DnsTrust,
    /// How MTA-STS policies are found.
    pub sts: StsSettings,
}

impl ResolverSettings {
    /// As the configuration says; for a relay that runs if it `keeps` the policies that it finds.
    pub fn of(settings: &Settings, keeps: bool) -> ResolverSettings {
        ResolverSettings {
            servers: settings.dns_servers.clone(),
            trust: settings.dns_trust,
            sts: StsSettings::of(settings, keeps),
        }
    }
}

/// Where an answer goes: called once, on the resolver's thread; must not block.
pub type Reply = Box<dyn FnOnce(QueryId, Answer) + Send>;

struct Asked {
    query: QueryId,
    question: Question,
    reply: Reply,
}

/// The way to the resolver's thread, which ends when the last handle is gone.
#[derive(Clone)]
pub struct Resolver {
    questions: mpsc::Sender<Asked>,
    no_policies: Option<Arc<str>>,
}

impl Resolver {
    /// Starts the thread. An error: no thread, no event loop, or no name servers known.
    pub fn start(settings: &ResolverSettings) -> io::Result<Resolver> {
        let (questions, inbox) = mpsc::channel(limits::DNS_WAITING_MAX);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let lookups = {
            let _inside = runtime.enter();
            build(settings).map_err(io::Error::other)?
        };
        let no_policies = lookups.policies.trouble().map(Arc::from);
        thread::Builder::new().name("resolver".into()).spawn(move || runtime.block_on(serve(inbox, lookups)))?;
        Ok(Resolver { questions, no_policies })
    }

    /// Why no MTA-STS policy can be fetched, if so.
    pub fn no_policies(&self) -> Option<&str> {
        self.no_policies.as_deref()
    }

    /// Asks for the mail hosts of a domain with their addresses, or for a host's addresses.
    pub fn ask(&self, query: QueryId, question: Question, reply: Reply) {
        if let Err(refused) = self.questions.try_send(Asked { query, question, reply }) {
            let Asked { query, reply, .. } = refused.into_inner();
            reply(query, temporary("too many questions are waiting for the resolver"));
        }
    }
}

/// Takes questions, so many at a time, until all handles are gone.
async fn serve(mut inbox: mpsc::Receiver<Asked>, lookups: Lookups) {
    let domains = Arc::new(Semaphore::new(limits::DNS_DOMAINS_AT_ONCE));
    while let Some(asked) = inbox.recv().await {
        let permit = domains.clone().acquire_owned().await.expect("the semaphore is never closed");
        let lookups = lookups.clone();
        tokio::spawn(async move {
            let in_time = async {
                let total = Duration::from_millis(limits::DNS_TOTAL_TIMEOUT_MS);
                let answer = tokio::time::timeout(total, lookups.answer(&asked.question)).await;
                // Who waits for a web server is in nobody's way.
                drop(permit);
                answer.unwrap_or_else(|_| temporary("DNS took too long"))
            };
            let answer = match asked.question.sts {
                false => in_time.await,
                true => {
                    let (answer, policy) =
                        futures_lite::future::zip(in_time, lookups.policy(&asked.question.name)).await;
                    with_policy(answer, policy)
                }
            };
            (asked.reply)(asked.query, answer);
        });
    }
}

pub(super) fn build(settings: &ResolverSettings) -> Result<Lookups, NetError> {
    let (config, mut options) = if settings.servers.is_empty() {
        read_system_conf()?
    } else {
        let servers = settings.servers.iter().map(name_server).collect();
        (ResolverConfig::from_name_servers(servers), ResolverOpts::default())
    };
    set_options(&mut options);
    let trusted = match settings.trust {
        DnsTrust::Always => true,
        DnsTrust::Never => false,
        DnsTrust::Loopback => config.name_servers().iter().all(|server| server.ip.is_loopback()),
    };
    let context = Arc::new(PoolContext::new(options.clone(), TlsConfig::new()?));
    let provider = TokioRuntimeProvider::default();
    let servers = NameServerPool::from_config(config.name_servers().iter().cloned(), context, provider.clone());
    let mut builder = TokioResolver::builder_with_config(config, provider);
    *builder.options_mut() = options;
    let permits = Arc::new(Semaphore::new(limits::DNS_QUESTIONS_AT_ONCE));
    let dns = builder.build()?;
    let policies = PolicyDesk::new(&settings.sts, dns.clone());
    Ok(Lookups { dns, servers, policies, trusted, permits })
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
pub(super) enum Found<T> {
    /// Records of the kind asked for, at least one.
    Some(Vec<T>, u32),
    /// No such records, or no such name.
    None { no_such_name: bool, ttl_s: u32 },
    /// No answer.
    Failed(Box<str>),
}

/// The same, and whether somebody we trust validated it.
struct Proved<T> {
    found: Found<T>,
    secure: bool,
    /// The end of the aliases (CNAME) in the answer, if the name is one.
    alias_of: Option<Name>,
}

impl<T> Proved<T> {
    fn not(found: Found<T>) -> Proved<T> {
        Proved { found, secure: false, alias_of: None }
    }
}

/// The addresses of one host; without any, the reason.
struct Addresses {
    list: Vec<IpAddr>,
    ttl_s: u32,
    failure: Option<Box<str>>,
    /// What its TLSA records say, where they were asked for.
    tls: HostTls,
    /// They were validated.
    secure: bool,
}

/// Questions to the name servers. Made, and used, inside a tokio runtime.
#[derive(Clone)]
pub(super) struct Lookups {
    dns: TokioResolver,
    /// The same name servers without a cache.
    servers: NameServerPool<TokioRuntimeProvider>,
    policies: PolicyDesk,
    /// They validate, and nobody stands in between.
    trusted: bool,
    permits: Arc<Semaphore>,
}

/// Whether a host's TLSA records are asked for: the port they are for, and whether all that led to the host was secure.
#[derive(Clone, Copy)]
struct TlsaWanted {
    port: Option<u16>,
    secure: bool,
}

impl Lookups {
    /// The name servers by themselves.
    pub(super) fn resolver(&self) -> TokioResolver {
        self.dns.clone()
    }

    /// The TXT records of a name, each joined from its strings.
    pub(super) async fn texts(&self, name: &str) -> Found<Vec<u8>> {
        let Some(name) = parse_name(name) else {
            return Found::None { no_such_name: true, ttl_s: limits::DNS_NEGATIVE_TTL_MAX_S };
        };
        let texts = self.find(name, RecordType::TXT, false, |data| match data {
            RData::TXT(text) => Some(text.txt_data.concat()),
            _ => None,
        });
        texts.await.found
    }

    async fn answer(&self, question: &Question) -> Answer {
        let Some(name) = parse_name(&question.name) else {
            return Answer::NoSuchDomain { ttl_s: limits::DNS_NEGATIVE_TTL_MAX_S };
        };
        let port = question.tlsa_port;
        if question.address_only {
            return self.own_host(name, limits::DNS_TTL_MAX_S, TlsaWanted { port, secure: true }).await;
        }
        let mx = self.find(name.clone(), RecordType::MX, port.is_some(), |data| match data {
            RData::MX(mx) => Some((mx.preference, mx.exchange.clone())),
            _ => None,
        });
        let Proved { found, secure, .. } = mx.await;
        match found {
            Found::Some(hosts, ttl_s) => self.mail_hosts(hosts, ttl_s, TlsaWanted { port, secure }).await,
            Found::None { no_such_name: true, ttl_s } => Answer::NoSuchDomain { ttl_s },
            // The domain is its own mail host (RTE-01). If its address is secure so is the word that there is no MX.
            Found::None { no_such_name: false, ttl_s } => {
                self.own_host(name, ttl_s, TlsaWanted { port, secure: true }).await
            }
            Found::Failed(text) => Answer::Temporary { text },
        }
    }

    /// A name as its own and only host.
    async fn own_host(&self, name: Name, ttl_s: u32, wanted: TlsaWanted) -> Answer {
        let text = host_name(&name);
        let Addresses { list, ttl_s: addresses_ttl_s, failure, mut tls, secure } = self.addresses(name, wanted).await;
        let ttl_s = ttl_s.min(addresses_ttl_s);
        if tls == HostTls::Signed && !secure {
            // Nothing else said that there is no MX.
            tls = HostTls::Unknown;
        }
        match failure {
            _ if !list.is_empty() => {
                let hosts = vec![MailHost { preference: 0, name: text, addresses: list, tls }];
                Answer::Mail { hosts, ttl_s, sts: None }
            }
            Some(text) => Answer::Temporary { text },
            None => Answer::NoSuchDomain { ttl_s },
        }
    }

    /// The mail hosts of an MX answer, best first, each with its addresses, all asked for at once.
    async fn mail_hosts(&self, mut hosts: Vec<(u16, Name)>, mut ttl_s: u32, wanted: TlsaWanted) -> Answer {
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
            tasks.spawn(async move { (index, lookups.addresses(name, wanted).await) });
        }
        let mut found: Vec<MailHost> = hosts
            .iter()
            .map(|(preference, name)| MailHost {
                preference: *preference,
                name: host_name(name),
                addresses: Vec::new(),
                tls: HostTls::Unknown,
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
            (found[index].addresses, found[index].tls) = (addresses.list, addresses.tls);
        }
        match failure {
            Some(text) if found.iter().all(|host| host.addresses.is_empty()) => Answer::Temporary { text },
            // Usable, but ask again soon for the host that is missing.
            Some(_) => Answer::Mail { hosts: found, ttl_s: ttl_s.min(limits::DNS_FAILURE_TTL_S), sts: None },
            None => Answer::Mail { hosts: found, ttl_s, sts: None },
        }
    }

    /// A and AAAA of a host, at once; CNAMEs are followed (RTE-06). Then its TLSA records, if they are wanted and all before
    /// was secure: who can forge an address needs to forge no more (RFC 7672 2.2.2).
    async fn addresses(&self, name: Name, wanted: TlsaWanted) -> Addresses {
        let signed = wanted.port.is_some();
        let v4 = self.find(name.clone(), RecordType::A, signed, |data| match data {
            RData::A(a) => Some(IpAddr::V4(a.0)),
            _ => None,
        });
        let v6 = self.find(name.clone(), RecordType::AAAA, signed, |data| match data {
            RData::AAAA(aaaa) => Some(IpAddr::V6(aaaa.0)),
            _ => None,
        });
        let (v4, v6) = futures_lite::future::zip(v4, v6).await;
        let mut all = Addresses {
            list: Vec::new(),
            ttl_s: limits::DNS_TTL_MAX_S,
            failure: None,
            tls: HostTls::Unknown,
            secure: true,
        };
        let mut end = None;
        for Proved { found, secure: validated, alias_of } in [v4, v6] {
            end = end.or(alias_of);
            match found {
                Found::Some(mut list, ttl_s) => {
                    // Neither family crowds out the other (RTE-10).
                    list.truncate(limits::HOST_ADDRESSES_MAX / 2);
                    all.list.append(&mut list);
                    all.ttl_s = all.ttl_s.min(ttl_s);
                    all.secure &= validated;
                }
                Found::None { ttl_s, .. } => all.ttl_s = all.ttl_s.min(ttl_s),
                Found::Failed(text) => all.failure = Some(text),
            }
        }
        if let Some(port) = wanted.port
            && wanted.secure
            && !all.list.is_empty()
        {
            let (tls, ttl_s) = self.host_tls(&name, end.as_ref(), all.secure, port).await;
            all.tls = if tls == HostTls::Unknown { HostTls::Signed } else { tls };
            all.ttl_s = all.ttl_s.min(ttl_s);
        }
        // Shards remember very many of them.
        all.list.shrink_to_fit();
        all
    }

    /// What DNS proves about the TLS of a host with addresses, `secure` or not, and for how long that is good. Of a host that is an
    /// alias the records of its `end` count before its own; its own count too where no more than the alias itself is secure
    /// (RFC 7672 2.2.2).
    async fn host_tls(&self, host: &Name, end: Option<&Name>, secure: bool, port: u16) -> (HostTls, u32) {
        let mut good_for_s = limits::DNS_TTL_MAX_S;
        match end {
            None if !secure => return (HostTls::Unknown, good_for_s),
            None => {}
            Some(end) if secure => {
                let (tls, ttl_s) = self.tlsa(end, port).await;
                if tls != HostTls::Unknown {
                    return (tls, ttl_s);
                }
                good_for_s = ttl_s;
            }
            Some(_) => {
                let alias = self
                    .find(host.clone(), RecordType::CNAME, true, |data| matches!(data, RData::CNAME(_)).then_some(()));
                match alias.await {
                    Proved { found: Found::Failed(_), .. } => return (HostTls::Failed, limits::DNS_FAILURE_TTL_S),
                    Proved { secure: false, .. } => return (HostTls::Unknown, good_for_s),
                    Proved { .. } => {}
                }
            }
        }
        let (tls, ttl_s) = self.tlsa(host, port).await;
        (tls, ttl_s.min(good_for_s))
    }

    /// What is known of a domain's MTA-STS policy, and for how long. The error: not now. No policy comes from a domain above (STS-04).
    async fn policy(&self, domain: &str) -> Result<(Sts, u32), Box<str>> {
        let name = format!("_mta-sts.{domain}");
        let (record, ttl_s) = match self.texts(&name).await {
            Found::Some(texts, ttl_s) => {
                let id = record_id(texts.iter().map(Vec::as_slice));
                (id.ok_or_else(|| format!("{name} has not just one record for MTA-STS").into()), ttl_s)
            }
            Found::None { ttl_s, .. } => (Err(format!("{name} has no record").into()), ttl_s),
            Found::Failed(why) => (Err(format!("{name}: {why}").into()), limits::DNS_FAILURE_TTL_S),
        };
        let sts = self.policies.of(domain, &record).await?;
        let ttl_s = if matches!(sts, Sts::Absent { .. }) { ttl_s } else { limits::STS_ANSWER_S };
        Ok((sts, ttl_s))
    }

    /// What the TLSA records of a base domain say, and for how long that is good.
    async fn tlsa(&self, base: &Name, port: u16) -> (HostTls, u32) {
        let base = host_name(base);
        let Ok(name) = Name::from_ascii(format!("_{port}._tcp.{base}.")) else {
            return (HostTls::Unknown, limits::DNS_TTL_MAX_S);
        };
        let tlsa = self.find(name, RecordType::TLSA, true, |data| match data {
            RData::TLSA(tlsa) => Some(Tlsa {
                usage: tlsa.cert_usage.into(),
                selector: tlsa.selector.into(),
                matching: tlsa.matching.into(),
                data: tlsa.cert_data.clone().into(),
            }),
            _ => None,
        });
        match tlsa.await {
            Proved { found: Found::Some(records, ttl_s), secure: true, .. } => {
                (HostTls::of_records(&base, records), ttl_s)
            }
            Proved { found: Found::Some(_, ttl_s) | Found::None { ttl_s, .. }, .. } => (HostTls::Unknown, ttl_s),
            Proved { found: Found::Failed(_), .. } => (HostTls::Failed, limits::DNS_FAILURE_TTL_S),
        }
    }

    /// One question, and the records in its answer that `pick` wants; with `signed`, whether the answer was validated.
    async fn find<T>(
        &self,
        name: Name,
        kind: RecordType,
        signed: bool,
        pick: impl Fn(&RData) -> Option<T>,
    ) -> Proved<T> {
        let _permit = self.permits.acquire().await.expect("the semaphore is never closed");
        if !signed {
            let found = match self.dns.lookup(name, kind).await {
                Ok(lookup) => {
                    let good_for = lookup.valid_until().saturating_duration_since(Instant::now());
                    picked(lookup.answers(), good_for.as_secs(), pick)
                }
                Err(error) => without(error),
            };
            return Proved::not(found);
        }
        let mut options = DnsRequestOptions::default();
        options.edns_set_dnssec_ok = true;
        for tries_left in (0..limits::DNS_TRIES).rev() {
            let request = DnsRequest::from_query(Query::query(name.clone(), kind), options);
            match self.servers.send(request).first_answer().await {
                Ok(response) => {
                    let ttl_s = response.answers.iter().map(|record| record.ttl).min().unwrap_or(0);
                    let found = picked(&response.answers, ttl_s.into(), pick);
                    let secure = self.trusted && response.authentic_data;
                    return Proved { found, secure, alias_of: end_of_aliases(&name, &response.answers) };
                }
                Err(error @ NetError::Dns(_)) => return Proved::not(without(error)),
                Err(_) if tries_left > 0 => {}
                Err(error) => return Proved::not(without(error)),
            }
        }
        unreachable!("the last try returns")
    }
}

/// An answer with what is known of the policy. Without a word on that there is none: else mail would go as if there were no policy.
fn with_policy(answer: Answer, policy: Result<(Sts, u32), Box<str>>) -> Answer {
    match (answer, policy) {
        (Answer::Mail { hosts, ttl_s, .. }, Ok((sts, good_for_s))) => {
            Answer::Mail { hosts, ttl_s: ttl_s.min(good_for_s), sts: Some(Arc::new(sts)) }
        }
        (Answer::Mail { .. }, Err(text)) => Answer::Temporary { text },
        (nobody, _) => nobody,
    }
}

/// The records that `pick` wants of an answer.
fn picked<T>(answers: &[Record], ttl_s: u64, pick: impl Fn(&RData) -> Option<T>) -> Found<T> {
    let ttl_s = ttl_s.min(limits::DNS_TTL_MAX_S.into()) as u32;
    let records: Vec<T> = answers.iter().filter_map(|record| pick(&record.data)).collect();
    if records.is_empty() { Found::None { no_such_name: false, ttl_s } } else { Found::Some(records, ttl_s) }
}

/// Where the aliases of an answer lead from a name, if it is one; a ring of them ends after as many as there are.
fn end_of_aliases(name: &Name, answers: &[Record]) -> Option<Name> {
    let mut end = None;
    for _ in answers {
        let at = end.unwrap_or(name);
        let next = answers.iter().find_map(|record| match &record.data {
            RData::CNAME(target) if record.name == *at => Some(&target.0),
            _ => None,
        });
        let Some(next) = next else { break };
        end = Some(next);
    }
    end.cloned()
}

/// What an answer without records means.
fn without<T>(error: NetError) -> Found<T> {
    match error {
        NetError::Dns(DnsError::NoRecordsFound(none)) => match none.response_code {
            ResponseCode::NXDomain | ResponseCode::NoError => Found::None {
                no_such_name: none.response_code == ResponseCode::NXDomain,
                ttl_s: none.negative_ttl.unwrap_or(limits::DNS_FAILURE_TTL_S),
            },
            code => Found::Failed(format!("DNS: {code}").into()),
        },
        error => Found::Failed(format!("DNS: {error}").into()),
    }
}

/// A domain as a fully qualified name, so that no search list applies.
fn parse_name(domain: &str) -> Option<Name> {
    let mut name = Name::from_ascii(domain).ok().filter(|name| !name.is_root())?;
    name.set_fqdn(true);
    Some(name)
}

/// Lower case, without the final dot.
fn host_name(name: &Name) -> Arc<str> {
    name.to_lowercase().to_ascii().trim_end_matches('.').into()
}

fn temporary(text: &str) -> Answer {
    Answer::Temporary { text: text.into() }
}

#[cfg(test)]
mod tests;
