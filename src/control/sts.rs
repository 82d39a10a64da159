//! MTA-STS policies over HTTPS (RFC 8461 3.3): fetched, shared by all shards, and kept over restarts.
//!
//! On the resolver's thread; whoever waits for a policy holds nobody up but its own domain. A domain's policy is fetched once at a time,
//! no redirect is followed, and time and length are bounded (STS-01). What is to be fetched, and what follows, is
//! `route::sts`'s to decide. A file that cannot be read or written costs a look at the web servers after a restart, and no mail.

use std::collections::HashMap;
use std::fs;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hickory_resolver::TokioResolver;
use reqwest::{Client, StatusCode, header};
use tokio::sync::{Notify, Semaphore};

use super::web;
use crate::base::limits;
use crate::config::Settings;
use crate::route::reports::ResultType;
use crate::route::sts::{Policies, Policy, Sts, Trouble};
use crate::runtime::{is_about_certificate, replace_file, wall};

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
    async fn fetch(&self, domain: &str) -> Result<Policy, Trouble> {
        let port = if self.0.port == HTTPS_PORT { String::new() } else { format!(":{}", self.0.port) };
        let url = format!("https://mta-sts.{domain}{port}/.well-known/mta-sts.txt");
        let failed = |what: &str, result| Trouble { why: format!("{url}: {what}").into(), result };
        let http = self.0.http.as_ref().map_err(|why| failed(why, None))?;
        let lost = |error: reqwest::Error| {
            let result = match is_about_certificate(&error) {
                true => ResultType::StsWebPkiInvalid,
                false => ResultType::StsFetchError,
            };
            failed(&web::reason(&error), Some(result))
        };
        let mut answer = http.get(&url).send().await.map_err(lost)?;
        if answer.status() != StatusCode::OK {
            return Err(failed(
                &format!("the answer is {}", answer.status().as_u16()),
                Some(ResultType::StsFetchError),
            ));
        }
        let kind = answer.headers().get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
        let kind = kind.split(';').next().unwrap_or_default().trim();
        if !kind.eq_ignore_ascii_case("text/plain") {
            return Err(failed(&format!("the answer is {kind:?}, not text/plain"), Some(ResultType::StsFetchError)));
        }
        let mut text = Vec::new();
        while let Some(piece) = answer.chunk().await.map_err(lost)? {
            text.extend_from_slice(&piece);
            if text.len() > limits::STS_POLICY_MAX_BYTES {
                return Err(failed("the answer is too long", Some(ResultType::StsFetchError)));
            }
        }
        Policy::parse(&text).map_err(|what| failed(what, Some(ResultType::StsInvalid)))
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
    web::client(&settings.roots, settings.allow_private, dns, Duration::from_millis(limits::STS_FETCH_MS))
}
