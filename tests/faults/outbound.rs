//! What makes a relay a bulk relay: a hundred thousand domains in the queue, a thousand tarpits beside a quick next hop,
//! a next hop far away, and a few urgent messages behind very many others.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::{Duration, Instant};

use loadgen::client::Pipeline;
use loadgen::dns::ZoneFile;
use loadgen::schedule::Schedule;
use loadgen::send::SendPlan;
use loadgen::sink::faults::Faults;
use loadgen::sink::profiles::Profile;

use crate::overload::{endless, none_lost};
use crate::stage::{Load, Setting, Size, Stage, Told, free_address};
use crate::{Campaign, run_parts, scratch};

const SETTLE_LONGEST: Duration = Duration::from_secs(900);
/// Memory of a queued recipient beside the blocks kept for bodies.
const RECIPIENT_BYTES: u64 = 400;
/// From a start over a full queue to the first delivery.
const FIRST_LONGEST: Duration = Duration::from_secs(5);
/// Until all sites were looked up and dialled in vain.
const DIALLED_LONGEST: Duration = Duration::from_secs(180);
/// What a disturbed rate is of an undisturbed one, at least.
const HOLDS: f64 = 0.9;

pub(crate) fn run(campaign: &Campaign) -> Told<Vec<String>> {
    run_parts(campaign, &[("domains", domains), ("tarpits", tarpits), ("distance", distance), ("urgent", urgent)])
}

/// The addresses of mail hosts: not that which the relay listens on, and would take for itself; and very many, as out there,
/// for of the ports to one of them there are some ten thousand.
const HOSTS: &str = "127.1.0.0/16";

/// Where a sink listens that is all mail hosts.
fn all_hosts() -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), free_address().port())
}

/// A relay that asks the sink's own DNS, where each domain is a mail host of its own: a site.
fn by_mx(dir: &Path, loads: Vec<Load>, hosts: SocketAddr) -> Setting {
    let dns = free_address();
    let mut setting = Setting::new(dir, loads)
        .set("shards", 2)
        .set("route.default", "")
        .set("route.allow_private", true)
        .set("route.mx_port", hosts.port())
        .set("dns.servers", dns);
    // Without MX, and so each its own mail host.
    let zones = format!("[[zone]]\nname = \"*.{}\"\na_of = \"{HOSTS}\"\n", loadgen::marker::DOMAIN);
    setting.sink.dns = Some((dns, toml::from_str::<ZoneFile>(&zones).expect("zones")));
    setting
}

// ---- very many domains ----

fn domains(campaign: &Campaign) -> Told<Vec<String>> {
    let (few, many) = (campaign.short, !campaign.short);
    let wanted = campaign.option("recipients")?.unwrap_or(if few { 1000 } else { 1_000_000u64 });
    let domains = campaign.option("domains")?.unwrap_or(if few { 100 } else { 100_000u32 });
    let dir = scratch()?;
    let plan = SendPlan {
        sessions: 20,
        messages: wanted,
        duration: Duration::ZERO,
        sizes: "1KiB".parse().expect("sizes"),
        domains,
        ..endless(campaign.seed)
    };
    // Nobody listens there before the relay's second life.
    let hosts = all_hosts();
    let setting = by_mx(dir.path(), vec![Load::new("queued", plan)], hosts)
        // So that the blocks kept for bodies hide nothing of what the rest takes.
        .set("queue.memory_bytes", 1 << 20)
        // What cannot be sent yet is left alone for a while.
        .set("retry.site_first_ms", 30_000)
        .set("retry.site_longest_ms", 30_000);
    let mut stage = Stage::open(&setting)?;
    let empty = stage.size()?;
    let begun = Instant::now();
    stage.load()?;
    stage.end_loads_when_sent(SETTLE_LONGEST)?;
    println!("{wanted} messages for {domains} domains taken in {:.1} s", begun.elapsed().as_secs_f64());
    let full = full_size(&mut stage, if few { Duration::ZERO } else { DIALLED_LONGEST })?;
    println!(
        "{:.1} s after the first of them it takes no more memory: all sites were looked up and dialled",
        begun.elapsed().as_secs_f64()
    );
    let each = full.memory_bytes.saturating_sub(empty.memory_bytes) / wanted.max(1);
    println!("{:.1} MiB empty, {:.1} MiB with all of them: {each} bytes each", empty.mib(), full.mib());
    stage.kill();
    let hosts = stage.another_sink(hosts)?;
    let begun = Instant::now();
    stage.start_relay()?;
    if !stage.until(Duration::from_secs(60), |_| hosts.counts().recipients > 0)? {
        return Err("nothing was delivered within a minute of the start".into());
    }
    let first = begun.elapsed();
    println!("first delivery {:.2} s after the start", first.as_secs_f64());
    let mut peak = stage.size()?;
    while !stage.until(Duration::from_secs(1), |_| hosts.counts().recipients >= wanted)? {
        let size = stage.size()?;
        peak = if size.memory_bytes > peak.memory_bytes { size } else { peak };
        if begun.elapsed() > SETTLE_LONGEST {
            break;
        }
    }
    let seen = hosts.counts();
    println!(
        "all delivered {:.1} s after the start, {:.1} MiB at most, over {} connections",
        begun.elapsed().as_secs_f64(),
        peak.mib(),
        seen.connections
    );
    let mut broken = Vec::new();
    if many && each > RECIPIENT_BYTES {
        broken.push(format!("{each} bytes a recipient; {RECIPIENT_BYTES} is the target"));
    }
    if many && first > FIRST_LONGEST {
        broken.push(format!("{:.1} s until the first delivery", first.as_secs_f64()));
    }
    broken.extend(none_lost(stage, 0)?);
    drop(hosts.stop());
    Ok(broken)
}

/// What it takes when all sites are known and were dialled: when it grows no more.
fn full_size(stage: &mut Stage, longest: Duration) -> Told<Size> {
    let begun = Instant::now();
    let (mut size, mut quiet) = (stage.size()?, 0);
    // A site that could not be dialled is dialled again half a minute later.
    while begun.elapsed() < longest && quiet < 4 {
        stage.play(Duration::from_secs(10))?;
        let before = std::mem::replace(&mut size, stage.size()?);
        let grows = size.memory_bytes > before.memory_bytes + before.memory_bytes / 500;
        quiet = if grows { 0 } else { quiet + 1 };
    }
    Ok(size)
}

// ---- slow sites beside a quick one ----

/// Delivered a second to the quick domain, beside so many tarpits.
fn quick_rate(campaign: &Campaign, sites: u32, time: Duration) -> Told<f64> {
    let dir = scratch()?;
    let rate = if campaign.short { 200.0 } else { 3000.0 };
    let quick = SendPlan { sessions: 50, schedule: Some(Schedule::constant(rate)), ..endless(campaign.seed) };
    let slow = SendPlan {
        sessions: 10,
        messages: u64::from(sites) * 20,
        duration: Duration::ZERO,
        sizes: "1KiB".parse().expect("sizes"),
        // The first domain is the quick one.
        domains: sites + 1,
        ..endless(campaign.seed)
    };
    let mut loads = vec![Load::new("quick", quick)];
    if sites > 0 {
        loads.push(Load::new("slow", slow));
    }
    let outside = all_hosts();
    let mut setting = by_mx(dir.path(), loads, outside)
        // The descriptors of both ends are this process's and the relay's, of which either may have some thousands.
        .set("site.default.connections", 8)
        .set("route.connections", 4000);
    setting.sink.listen = vec![outside];
    let tarpit = Duration::from_millis(if campaign.short { 20 } else { 400 });
    // A profile without domains would be drawn for anybody: alone there is none but the quick one.
    if sites > 0 {
        setting.sink.profiles = vec![
            Profile { name: "quick".into(), weight: 1, listen: None, domains: Vec::new(), faults: Faults::default() },
            Profile {
                name: "tarpit".into(),
                weight: 1,
                listen: None,
                domains: (1..=sites).map(|number| format!("d{number}.{}", loadgen::marker::DOMAIN)).collect(),
                faults: Faults { tarpit: Some(tarpit), ..Faults::default() },
            },
        ];
    }
    let mut stage = Stage::open(&setting)?;
    stage.load()?;
    stage.play(time / 2)?;
    let (begun, before) = (Instant::now(), stage.arrived(0));
    stage.play(time)?;
    let rate = (stage.arrived(0) - before) as f64 / begun.elapsed().as_secs_f64();
    if sites > 0 {
        let (slow, open) = (stage.arrived(1), stage.waiting(1));
        println!(
            "beside {sites} tarpits: {rate:.0} a second; of their own mail {slow} came and {open} waited; {} connections \
             at most",
            stage.sink().connections_peak
        );
    }
    let broken = none_lost(stage, 0)?;
    if broken.is_empty() { Ok(rate) } else { Err(broken.join("; ")) }
}

fn tarpits(campaign: &Campaign) -> Told<Vec<String>> {
    let sites = campaign.option("sites")?.unwrap_or(if campaign.short { 40 } else { 1000 });
    let time = Duration::from_secs(if campaign.short { 2 } else { 10 });
    let alone = quick_rate(campaign, 0, time)?;
    println!("alone: {alone:.0} a second");
    let beside = quick_rate(campaign, sites, time)?;
    let broken = !campaign.short && beside < HOLDS * alone;
    Ok(if broken { vec![format!("{beside:.0} a second beside tarpits, {alone:.0} without")] } else { Vec::new() })
}

// ---- far away ----

fn distance(campaign: &Campaign) -> Told<Vec<String>> {
    const CONNECTIONS: u64 = 10;
    let delay = Duration::from_millis(50);
    let (warm, time) = if campaign.short { (1, 2) } else { (2, 20) };
    let dir = scratch()?;
    let per_second = CONNECTIONS as f64 / delay.as_secs_f64();
    let plan = SendPlan {
        messages: (per_second * (warm + time + 2) as f64) as u64,
        duration: Duration::ZERO,
        ..endless(campaign.seed)
    };
    let mut setting = Setting::new(dir.path(), vec![Load::new("far", plan)])
        .set("shards", 1)
        .set("site.default.connections", CONNECTIONS);
    setting.sink.faults.delay = Some((delay, delay));
    let mut stage = Stage::open(&setting)?;
    stage.load()?;
    stage.play(Duration::from_secs(warm))?;
    let (begun, before) = (Instant::now(), stage.sink());
    stage.play(Duration::from_secs(time))?;
    let (past, after) = (begun.elapsed().as_secs_f64(), stage.sink());
    let rate = (after.messages - before.messages) as f64 / past / CONNECTIONS as f64;
    let trips = (after.round_trips - before.round_trips) as f64 / (after.messages - before.messages).max(1) as f64;
    let bound = 1.0 / delay.as_secs_f64();
    println!(
        "at 50 ms, over {} connections: {rate:.2} messages a second on each, {:.1} % of 1/RTT; {trips:.3} round trips a message",
        after.connections_peak,
        100.0 * rate / bound
    );
    let mut broken = none_lost(stage, 0)?;
    if !campaign.short && rate < 0.95 * bound {
        broken.push(format!("{rate:.2} messages a second on a connection, {bound:.0} would be one a round trip"));
    }
    Ok(broken)
}

// ---- a few urgent ones ----

fn urgent(campaign: &Campaign) -> Told<Vec<String>> {
    const RATE: f64 = 20.0;
    let queued = campaign.option("messages")?.unwrap_or(if campaign.short { 2000 } else { 300_000u64 });
    let dir = scratch()?;
    let bulk = SendPlan {
        sessions: 20,
        messages: queued,
        duration: Duration::ZERO,
        sizes: "1KiB".parse().expect("sizes"),
        sources: vec![IpAddr::V4(Ipv4Addr::new(127, 0, 0, 3))],
        pipeline: Pipeline::Across,
        ..endless(campaign.seed)
    };
    let few = SendPlan {
        sessions: 4,
        schedule: Some(Schedule::constant(RATE)),
        sizes: "1KiB".parse().expect("sizes"),
        sources: vec![IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2))],
        ..endless(campaign.seed)
    };
    let mut setting = Setting::new(dir.path(), vec![Load::new("bulk", bulk), Load::new("urgent", few)])
        .set("shards", 2)
        .set("site.default.connections", 10)
        .set("queue.memory_bytes", 16 << 20)
        .set("tenant.bulk.networks", "127.0.0.3")
        .set("tenant.bulk.priority", "bulk")
        .set("tenant.alerts.networks", "127.0.0.2")
        .set("tenant.alerts.priority", "urgent");
    // Ten connections to a next hop that takes its time: what is sent is far less than what comes.
    let delay = Duration::from_millis(20);
    setting.sink.faults.delay = Some((delay, delay));
    let mut stage = Stage::open(&setting)?;
    stage.load()?;
    let all = |stage: &Stage| stage.arrived(0) + stage.waiting(0) >= queued;
    stage.until(SETTLE_LONGEST, all)?;
    let (mut most, mut sum, rounds) = (0, 0, if campaign.short { 20 } else { 100 });
    let (before, behind) = (stage.arrived(1), stage.waiting(0));
    for _ in 0..rounds {
        stage.play(Duration::from_millis(100))?;
        let open = stage.waiting(1);
        (most, sum) = (most.max(open), sum + open);
    }
    // By Little's law: what is on its way is what comes in a second times the time it takes.
    let mean_ms = 1000.0 * sum as f64 / f64::from(rounds) / RATE;
    println!(
        "{} urgent messages beside {behind} bulk messages in the queue: {mean_ms:.0} ms from acceptance to arrival on \
         average, {most} on their way at most",
        stage.arrived(1) - before
    );
    let left = stage.waiting(0);
    let mut broken = none_lost(stage, 0)?;
    if !campaign.short && left == 0 {
        broken.push("the bulk mail ran out".into());
    }
    if !campaign.short && mean_ms > 1000.0 {
        broken.push(format!("urgent mail takes {mean_ms:.0} ms"));
    }
    Ok(broken)
}
