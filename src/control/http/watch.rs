//! What the shards do, for whoever watches: asked by letter, at most once a second however many ask, and kept until then.
//!
//! A shard that does not answer soon is left out and named: a shard that hangs is what a watcher must see.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value, json};
use tokio::sync::Mutex;
use tokio::time::timeout;

use super::{Desk, ask_all};
use crate::base::histogram::Histogram;
use crate::base::limits;
use crate::runtime::Shards;
use crate::shard::{Counters, ShardReport, SiteReport};

/// A shard is waited for so long.
const ANSWER_PAUSE: Duration = Duration::from_secs(2);

/// The shards' last reports, of one moment.
pub(super) struct Reports {
    taken: Instant,
    pub(super) up: Duration,
    pub(super) shards: Vec<ShardReport>,
    /// Shards that did not answer.
    pub(super) silent: Vec<usize>,
}

pub(super) struct Watch {
    shards: Shards,
    started: Instant,
    last: Mutex<Option<Arc<Reports>>>,
}

impl Watch {
    pub(super) fn new(shards: Shards, started: Instant) -> Watch {
        Watch { shards, started, last: Mutex::default() }
    }

    /// The shards' reports, no older than `limits::STATS_AGE_MS`.
    pub(super) async fn reports(&self) -> Arc<Reports> {
        // Held while the shards are asked, so that who comes meanwhile gets the same answer.
        let mut last = self.last.lock().await;
        if let Some(reports) = &*last
            && reports.taken.elapsed() < Duration::from_millis(limits::STATS_AGE_MS)
        {
            return reports.clone();
        }
        let ask = |shard, reply| self.shards.report(shard, reply);
        let (mut shards, mut silent) = (Vec::new(), Vec::new());
        for (number, report) in ask_all(&self.shards, ANSWER_PAUSE, ask).await.into_iter().enumerate() {
            match report {
                Some(report) => shards.push(report),
                None => silent.push(number),
            }
        }
        let now = Instant::now();
        let reports = Arc::new(Reports { taken: now, up: now - self.started, shards, silent });
        *last = Some(reports.clone());
        reports
    }
}

impl Reports {
    /// The sites of all shards by name, those with most jobs first, at most so many.
    pub(super) fn sites(&self, most: usize) -> Vec<SiteReport> {
        let mut by_name: BTreeMap<&str, SiteReport> = BTreeMap::new();
        for site in self.shards.iter().flat_map(|report| &report.sites) {
            match by_name.get_mut(&*site.name) {
                None => drop(by_name.insert(&site.name, site.clone())),
                Some(sum) => {
                    sum.jobs += site.jobs;
                    sum.ready += site.ready;
                    sum.connections += site.connections;
                    sum.failures = sum.failures.max(site.failures);
                    sum.paused_ms = sum.paused_ms.max(site.paused_ms);
                    sum.suspended |= site.suspended;
                    sum.ceiling = sum.ceiling.into_iter().chain(site.ceiling).min();
                    sum.day = sum.day.into_iter().chain(site.day).max();
                }
            }
        }
        let mut sites: Vec<SiteReport> = by_name.into_values().collect();
        sites.sort_by(|a, b| b.jobs.cmp(&a.jobs).then_with(|| a.name.cmp(&b.name)));
        sites.truncate(most);
        sites
    }

    fn histogram(&self, of: impl Fn(&ShardReport) -> &Histogram) -> Histogram {
        let mut sum = Histogram::default();
        self.shards.iter().for_each(|report| sum.add(of(report)));
        sum
    }
}

/// True if everything works: shards answer, and take mail.
pub(super) async fn health(State(desk): State<Arc<Desk>>) -> Response {
    let reports = timeout(ANSWER_PAUSE * 2, desk.watch.reports()).await;
    let silent = reports.map_or_else(|_| (0..desk.shards.count()).collect(), |reports| reports.silent.clone());
    if silent.is_empty() {
        return Json(json!({ "status": "ok", "shards": desk.shards.count() })).into_response();
    }
    let text = json!({ "status": "shards do not answer", "silent": silent });
    (StatusCode::SERVICE_UNAVAILABLE, Json(text)).into_response()
}

/// The counters of a shard, or of all together.
fn told(counters: impl Iterator<Item = Counters> + Clone) -> Map<String, Value> {
    Counters::ALL
        .iter()
        .map(|known| (known.name.into(), counters.clone().map(|c| (known.read)(&c)).sum::<u64>().into()))
        .collect()
}

fn quantiles(histogram: &Histogram) -> Value {
    json!({
        "count": histogram.count(),
        "p50": histogram.quantile(0.5),
        "p95": histogram.quantile(0.95),
        "p99": histogram.quantile(0.99),
    })
}

pub(super) async fn stats(State(desk): State<Arc<Desk>>) -> Response {
    let reports = desk.watch.reports().await;
    let shards: Vec<Value> = reports
        .shards
        .iter()
        .map(|report| {
            let mut fields = told(std::iter::once(report.counters));
            fields.insert("shard".into(), report.shard.0.into());
            fields.insert("sites".into(), report.sites_known.into());
            fields.insert("sites_paused".into(), report.sites_paused.into());
            fields.into()
        })
        .collect();
    Json(json!({
        "version": env!("CARGO_PKG_VERSION"),
        "up_ms": reports.up.as_millis() as u64,
        "total": told(reports.shards.iter().map(|report| report.counters)),
        "shards": shards,
        "silent_shards": reports.silent,
        "commit_us": quantiles(&reports.histogram(|report| &report.latencies.commit_us)),
        "delivery_ms": quantiles(&reports.histogram(|report| &report.latencies.delivery_ms)),
    }))
    .into_response()
}

pub(super) async fn sites(State(desk): State<Arc<Desk>>) -> Response {
    let reports = desk.watch.reports().await;
    let sites: Vec<Value> = reports
        .sites(limits::SITES_REPORTED_MAX)
        .iter()
        .map(|site| {
            json!({
                "site": &*site.name,
                "jobs": site.jobs,
                "ready": site.ready,
                "connections": site.connections,
                "failures": site.failures,
                "paused_ms": site.paused_ms,
                "suspended": site.suspended,
                "ceiling": site.ceiling,
                "day_used": site.day.map(|(used, _)| used),
                "day_limit": site.day.map(|(_, limit)| limit),
            })
        })
        .collect();
    Json(json!({ "sites": sites })).into_response()
}
