//! MTA-STS policies over HTTPS (RFC 8461 3.3): fetched, shared by all shards, and kept over restarts.
//!
//! On the resolver's thread; whoever waits for a policy holds nobody up but its own domain. A domain's policy is fetched once at a time,
//! no redirect is followed, and time and length are bounded (STS-01). What is to be fetched, and what follows, is
//! `route::sts`'s to decide. A file that cannot be read or written costs a look at the web servers after a restart, and no mail.

use std::collections::HashMap;
use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hickory_resolver::TokioResolver;
use hickory_resolver::proto::rr::Name;
use reqwest::dns::{Addrs, Resolve, Resolving};
use reqwest::{Certificate, Client, StatusCode, header, redirect};
use tokio::sync::{Notify, Semaphore};

use crate::base::limits;
use crate::config::Settings;
use crate::route::mx::is_private;
use crate::route::sts::{Policies, Policy, Sts};
use crate::runtime::{replace_file, wall};

/// Where policies are kept, in the spool's directory.
const FILE: &str = "mta-sts-policies";

/// The port of HTTPS.
const HTTPS_PORT: u16 = 443;

/// How policies are fetched, and where they are kept.
#[derive(Clone, Debug, Default)]
pub struct StsSettings {
    /// `tls.roots`: the authorities that web servers' certificates must come from.
    pub roots: PathBuf,
    /// `route.sts_port`.
    pub port: u16,
    /// `route.allow_private`, for web servers, too.
    pub allow_private: bool,
    /// The file for policies that were fetched.
    pub file: PathBuf,
    /// False: the file is only read.
    pub keeps: bool,
}

impl StsSettings {
    /// As the configuration says. A relay that runs `keeps` what it fetches; who only asks does not.
    pub fn of(settings: &Settings, keeps: bool) -> StsSettings {
        StsSettings {
            roots: settings.tls.roots.clone(),
            port: settings.route.sts_port,
            allow_private: settings.route.allow_private,
            file: settings.queue.dir.join(FILE),
            keeps,
        }
    }
}

/// The policies of all domains.
#[derive(Clone)]
pub(super) struct PolicyDesk(Arc<Inner>);

struct Inner {
    policies: Mutex<Policies>,
    /// Who fetches, by domain: the others wait for what comes of it.
    turns: Mutex<HashMap<Box<str>, Arc<tokio::sync::Mutex<()>>>>,
    places: Semaphore,
    /// Or why there is none.
    http: Result<Client, Box<str>>,
    port: u16,
    file: PathBuf,
    changed: Notify,
}

impl PolicyDesk {
    /// Reads what is kept. Call it inside a tokio runtime, where it writes down what changes.
    pub(super) fn new(settings: &StsSettings, dns: TokioResolver) -> PolicyDesk {
        let text = fs::read_to_string(&settings.file).unwrap_or_default();
        let inner = Inner {
            policies: Mutex::new(Policies::read(&text, now_s())),
            turns: Mutex::default(),
            places: Semaphore::new(limits::STS_FETCHES_AT_ONCE),
            http: client(settings, dns).map_err(Box::from),
            port: settings.port,
            file: settings.file.clone(),
            changed: Notify::new(),
        };
        let desk = PolicyDesk(Arc::new(inner));
        if settings.keeps {
            tokio::spawn(desk.clone().keep());
        }
        desk
    }

    /// Why no policy can be fetched, if so.
    pub(super) fn trouble(&self) -> Option<String> {
        self.0.http.as_ref().err().map(ToString::to_string)
    }

    /// What is known of a domain's policy, whose record says this, or why it says nothing. The error: not now.
    pub(super) async fn of(&self, domain: &str, record: &Result<Box<str>, Box<str>>) -> Result<Sts, Box<str>> {
        if let Some(sts) = self.look(domain, record) {
            return Ok(sts);
        }
        let turn = lock(&self.0.turns).entry(domain.into()).or_default().clone();
        let result = self.in_turn(&turn, domain, record).await;
        let mut turns = lock(&self.0.turns);
        drop(turn);
        if turns.get(domain).is_some_and(|turn| Arc::strong_count(turn) == 1) {
            turns.remove(domain);
        }
        result
    }

    fn look(&self, domain: &str, record: &Result<Box<str>, Box<str>>) -> Option<Sts> {
        lock(&self.0.policies).look(domain, record, now_s())
    }

    async fn in_turn(
        &self,
        turn: &tokio::sync::Mutex<()>,
        domain: &str,
        record: &Result<Box<str>, Box<str>>,
    ) -> Result<Sts, Box<str>> {
        let _turn = turn.lock().await;
        // Who was first may have brought it.
        if let Some(sts) = self.look(domain, record) {
            return Ok(sts);
        }
        let place = tokio::time::timeout(Duration::from_millis(limits::STS_FETCH_MS), self.0.places.acquire());
        let _place = place.await.map_err(|_| "too many MTA-STS policies are being fetched")?;
        let id = record.as_ref().expect("without a record there is nothing to fetch");
        let result = self.fetch(domain).await;
        let sts = lock(&self.0.policies).fetched(domain, id, result, now_s());
        self.0.changed.notify_one();
        Ok(sts)
    }

    /// What the domain's web server has.
    async fn fetch(&self, domain: &str) -> Result<Policy, Box<str>> {
        let http = self.0.http.as_ref().map_err(Clone::clone)?;
        let port = if self.0.port == HTTPS_PORT { String::new() } else { format!(":{}", self.0.port) };
        let url = format!("https://mta-sts.{domain}{port}/.well-known/mta-sts.txt");
        let failed = |what: &str| Box::from(format!("{url}: {what}"));
        let mut answer = http.get(&url).send().await.map_err(|error| failed(&reason(&error)))?;
        if answer.status() != StatusCode::OK {
            return Err(failed(&format!("the answer is {}", answer.status().as_u16())));
        }
        let kind = answer.headers().get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
        let kind = kind.split(';').next().unwrap_or_default().trim();
        if !kind.eq_ignore_ascii_case("text/plain") {
            return Err(failed(&format!("the answer is {kind:?}, not text/plain")));
        }
        let mut text = Vec::new();
        while let Some(piece) = answer.chunk().await.map_err(|error| failed(&reason(&error)))? {
            text.extend_from_slice(&piece);
            if text.len() > limits::STS_POLICY_MAX_BYTES {
                return Err(failed("the answer is too long"));
            }
        }
        Policy::parse(&text).map_err(failed)
    }

    /// Writes down what changed, for as long as there is a runtime.
    async fn keep(self) {
        loop {
            self.0.changed.notified().await;
            tokio::time::sleep(Duration::from_millis(limits::STS_WRITE_PAUSE_MS)).await;
            let text = lock(&self.0.policies).text();
            let file = self.0.file.clone();
            // What cannot be written is fetched again after a restart.
            let _ = tokio::task::spawn_blocking(move || replace_file(&file, text.as_bytes(), 0o666)).await;
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn now_s() -> u64 {
    wall().0 / 1000
}

fn client(settings: &StsSettings, dns: TokioResolver) -> Result<Client, String> {
    let roots = &settings.roots;
    let named = |why: &dyn std::fmt::Display| format!("tls.roots {}: {why}", roots.display());
    let text = fs::read(roots).map_err(|error| named(&error))?;
    let authorities = Certificate::from_pem_bundle(&text).map_err(|error| named(&reason(&error)))?;
    Client::builder()
        .timeout(Duration::from_millis(limits::STS_FETCH_MS))
        .redirect(redirect::Policy::none())
        .https_only(true)
        .no_proxy()
        .tls_certs_only(authorities)
        .dns_resolver(WebServers { dns, allow_private: settings.allow_private })
        .pool_max_idle_per_host(0)
        .user_agent("Ringpost")
        .build()
        .map_err(|error| named(&reason(&error)))
}

/// Where web servers are, by the name servers that mail hosts are found by.
struct WebServers {
    dns: TokioResolver,
    allow_private: bool,
}

impl Resolve for WebServers {
    fn resolve(&self, name: reqwest::dns::Name) -> Resolving {
        let (dns, allow_private) = (self.dns.clone(), self.allow_private);
        Box::pin(async move {
            let mut name = Name::from_ascii(name.as_str())?;
            name.set_fqdn(true);
            let found = dns.lookup_ip(name).await?;
            // No stranger's name leads to this network (RTE-11).
            let public = found.iter().filter(|&ip| allow_private || !is_private(ip)).take(limits::HOST_ADDRESSES_MAX);
            let addresses: Vec<SocketAddr> = public.map(|ip| SocketAddr::new(ip, 0)).collect();
            if addresses.is_empty() {
                return Err("it has no public address".into());
            }
            Ok(Box::new(addresses.into_iter()) as Addrs)
        })
    }
}

/// The innermost reason of what went wrong.
fn reason(error: &dyn std::error::Error) -> String {
    let innermost = std::iter::successors(Some(error), |error| error.source()).last();
    innermost.map_or(String::new(), ToString::to_string)
}
