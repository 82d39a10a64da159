//! GET /metrics: the shards' counters as Prometheus and its kin read them (OpenMetrics), each with advice in its help text.
//!
//! Made anew for each scrape from the reports that `watch` keeps; nothing is counted here. Series: one for each counter and
//! shard, and some for each of the busiest sites, so that a relay with a million sites does not flood its watcher.

use std::fmt::{self, Debug};
use std::sync::Arc;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;

use super::Desk;
use super::answer::Problem;
use super::watch::Reports;
use crate::base::histogram::Histogram;
use crate::base::limits;
use crate::shard::{Counters, ShardReport, SiteReport};

/// What is asked for by who wants OpenMetrics.
const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

pub(super) async fn show(State(desk): State<Arc<Desk>>) -> Response {
    let mut registry = Registry::with_prefix("ringpost");
    registry.register_collector(Box::new(Scrape(desk.watch.reports().await)));
    let mut text = String::new();
    match encode(&mut text, &registry) {
        Ok(()) => ([(header::CONTENT_TYPE, CONTENT_TYPE)], text).into_response(),
        Err(_) => Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "the metrics cannot be written").into_response(),
    }
}

/// One moment's reports.
struct Scrape(Arc<Reports>);

impl Debug for Scrape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "reports of {} shards", self.0.shards.len())
    }
}

/// A gauge of a site: its name, its advice, and where it stands.
type SiteGauge = (&'static str, &'static str, fn(&SiteReport) -> u64);

const SITE_GAUGES: [SiteGauge; 7] = [
    (
        "site_jobs",
        "Jobs waiting for a site or under way, over all shards; the busiest sites only. Growing: see site_paused_ms, site_ceiling and the limits of the site",
        |site| site.jobs.into(),
    ),
    (
        "site_ready",
        "Of them, jobs that could be sent now. Growing while the site does not pause: raise site.default.connections, if the next hop wants more",
        |site| site.ready as u64,
    ),
    (
        "site_connections",
        "Connections to a site, over all shards. At the limit with jobs ready: the limit is what holds mail back",
        |site| site.connections.into(),
    ),
    (
        "site_paused_ms",
        "The rest of a site's pause in the shard where it is longest, 0 if it does not pause. Above 0: the next hop cannot be reached; the log says why",
        |site| site.paused_ms,
    ),
    (
        "site_ceiling",
        "Connections that a site allows itself because its next hop asked for less, 0 if as many as its limit. Above 0: send less, or talk to the provider",
        |site| site.ceiling.unwrap_or(0).into(),
    ),
    (
        "site_day_used",
        "Messages lent of today's limit of a source that is warmed up, for the site's receiver. At site_day_limit: the rest waits, or goes from another source",
        |site| site.day.map_or(0, |(used, _)| used.into()),
    ),
    (
        "site_day_limit",
        "Today's limit of a source that is warmed up, 0 if there is none; see source.NAME.warm_up",
        |site| site.day.map_or(0, |(_, limit)| limit.into()),
    ),
];

impl Collector for Scrape {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let shards = &self.0.shards;
        let up = self.0.up.as_secs_f64();
        gauge(&mut encoder, "up_seconds", "Time since the relay began to take mail. Falling: it was restarted", up)?;
        let silent = self.0.silent.len() as f64;
        gauge(
            &mut encoder,
            "silent_shards",
            "Shards that did not answer in time. Above 0: a core is blocked or overloaded; look at its CPU and at the disk",
            silent,
        )?;
        for known in Counters::ALL {
            let kind = if known.is_gauge() { MetricType::Gauge } else { MetricType::Counter };
            let mut metric = encoder.encode_descriptor(known.name, help(known.text), None, kind)?;
            for report in shards {
                let (labels, value) = (shard_label(report), (known.read)(&report.counters));
                let mut series = metric.encode_family(&labels)?;
                if known.is_gauge() {
                    series.encode_gauge(&value)?;
                } else {
                    series.encode_counter::<NoLabelSet, _, u64>(&value, None)?;
                }
            }
        }
        let text = "Sites that a shard knows. Growing without end: mail to ever new domains, perhaps not wanted";
        of_shards(&mut encoder, "sites", text, shards, |report| report.sites_known)?;
        let text =
            "Of them, sites that pause because they could not be reached. All of them: look at the network and DNS";
        of_shards(&mut encoder, "sites_paused", text, shards, |report| report.sites_paused)?;
        let text =
            "Time from a message's end to its record being durable. Above a few ms: the disk is slow, see tuning.md";
        histogram(&mut encoder, "commit_seconds", text, shards, 1e-6, |report| &report.latencies.commit_us)?;
        let text =
            "Time from a message's arrival to its next hop's yes. Growing: the queue grows; look at the busiest sites";
        histogram(&mut encoder, "delivery_seconds", text, shards, 1e-3, |report| &report.latencies.delivery_ms)?;
        let sites = self.0.sites(limits::SITES_IN_METRICS_MAX);
        for (name, text, read) in SITE_GAUGES {
            let mut metric = encoder.encode_descriptor(name, text, None, MetricType::Gauge)?;
            for site in &sites {
                metric.encode_family(&[("site", site.name.to_string())])?.encode_gauge(&read(site))?;
            }
        }
        Ok(())
    }
}

/// The encoder ends a help text with a dot of its own.
fn help(text: &'static str) -> &'static str {
    text.trim().trim_end_matches('.')
}

fn shard_label(report: &ShardReport) -> [(&'static str, String); 1] {
    [("shard", report.shard.0.to_string())]
}

fn gauge(encoder: &mut DescriptorEncoder<'_>, name: &str, text: &str, value: f64) -> fmt::Result {
    encoder.encode_descriptor(name, text, None, MetricType::Gauge)?.encode_gauge(&value)
}

fn of_shards(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    text: &str,
    shards: &[ShardReport],
    read: fn(&ShardReport) -> usize,
) -> fmt::Result {
    let mut metric = encoder.encode_descriptor(name, text, None, MetricType::Gauge)?;
    for report in shards {
        metric.encode_family(&shard_label(report))?.encode_gauge(&(read(report) as u64))?;
    }
    Ok(())
}

fn histogram(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    text: &str,
    shards: &[ShardReport],
    unit: f64,
    read: fn(&ShardReport) -> &Histogram,
) -> fmt::Result {
    let mut metric = encoder.encode_descriptor(name, text, None, MetricType::Histogram)?;
    for report in shards {
        let times = read(report);
        let buckets: Vec<(f64, u64)> = times
            .buckets()
            .map(|(longest, count)| (longest.map_or(f64::INFINITY, |longest| longest as f64 * unit), count))
            .collect();
        let labels = shard_label(report);
        let mut series = metric.encode_family(&labels)?;
        series.encode_histogram::<NoLabelSet>(times.sum() as f64 * unit, times.count(), &buckets, None)?;
    }
    Ok(())
}
