//! More than the relay can do: mail at twice its capacity, twenty thousand idle sessions, a million recipients in the
//! queue; and long hauls: mixed load for as long as wanted, and stops, restarts and upgrades under load.

use std::collections::HashSet;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::os::unix::fs::symlink;
use std::time::{Duration, Instant};

use loadgen::client::Pipeline;
use loadgen::rng::Rng;
use loadgen::schedule::Schedule;
use loadgen::send::SendPlan;
use loadgen::sink::SinkPlan;

use crate::crash::{awkward, mixed};
use crate::proxy::{Proxy, Weather};
use crate::stage::{Load, Setting, Size, Stage, Told, free_address, program};
use crate::{Campaign, run_parts, scratch};

const SETTLE_LONGEST: Duration = Duration::from_secs(600);
/// Throughput beyond capacity is at least so much of the best.
const HOLDS: f64 = 0.9;
/// Memory is flat if it grows by no more than this over the second half of a run.
const FLAT_BYTES: u64 = 24 << 20;
/// User memory of an idle session.
const SESSION_BYTES: u64 = 2048;

pub(crate) fn run(campaign: &Campaign) -> Told<Vec<String>> {
    run_parts(campaign, &[("beyond", beyond), ("idle", idle), ("queue", queue), ("soak", soak), ("stops", stops)])
}

pub(crate) fn endless(seed: u64) -> SendPlan {
    SendPlan { duration: Duration::from_secs(86_400), pipeline: Pipeline::Group, seed, ..SendPlan::default() }
}

pub(crate) fn none_lost(mut stage: Stage, duplicates_at_most: u64) -> Told<Vec<String>> {
    stage.end_loads(SETTLE_LONGEST)?;
    stage.settle(SETTLE_LONGEST, &HashSet::new())?;
    Ok(stage.close(&HashSet::new())?.judge(duplicates_at_most))
}

// ---- twice the capacity ----

fn beyond_setting(campaign: &Campaign, dir: &std::path::Path, plan: SendPlan) -> Setting {
    let plan = SendPlan { sizes: "10KiB".parse().expect("sizes"), core: Some(1), seed: campaign.seed, ..plan };
    let mut setting = Setting::new(dir, vec![Load::new("open loop", plan)])
        .set("shards", 1)
        .set("site.default.connections", 50)
        // The excess must meet a bound: a queue of a quarter of a gigabyte.
        .set("queue.segment_bytes", 16 << 20)
        .set("queue.segments", 16)
        .set("queue.memory_bytes", 32 << 20);
    setting.core = Some(0);
    setting.sink.core = Some(1);
    setting
}

/// Recipients delivered a second in closed loop: what a fresh relay can do.
fn capacity(campaign: &Campaign, time: Duration) -> Told<f64> {
    let dir = scratch()?;
    let plan = SendPlan { sessions: 100, ..endless(campaign.seed) };
    let mut stage = Stage::open(&beyond_setting(campaign, dir.path(), plan))?;
    stage.load()?;
    stage.play(time / 5)?;
    let (begun, before) = (Instant::now(), stage.sink().recipients);
    stage.play(time)?;
    let rate = (stage.sink().recipients - before) as f64 / begun.elapsed().as_secs_f64();
    let broken = none_lost(stage, 0)?;
    if broken.is_empty() { Ok(rate) } else { Err(broken.join("; ")) }
}

fn beyond(campaign: &Campaign) -> Told<Vec<String>> {
    let seconds = campaign.option("seconds")?.unwrap_or(if campaign.short { 4 } else { 600 });
    let closed = Duration::from_secs(if campaign.short { 2 } else { 15 });
    let before = capacity(campaign, closed)?;
    println!("capacity, closed loop: {before:.0} recipients a second; now twice that for {seconds} s");
    let dir = scratch()?;
    let plan = SendPlan {
        sessions: 400,
        schedule: Some(Schedule::constant(2.0 * before)),
        messages_per_session: 200,
        ..endless(campaign.seed)
    };
    let mut stage = Stage::open(&beyond_setting(campaign, dir.path(), plan))?;
    stage.load()?;
    let step = (seconds / 20).max(1);
    let (mut rates, mut sizes, mut cpu): (Vec<f64>, Vec<Size>, Vec<f64>) = Default::default();
    println!(
        "{:>6} {:>11} {:>10} {:>9} {:>10} {:>8} {:>8}",
        "second", "delivered/s", "accepted/s", "4xx/s", "CPU us/msg", "MiB", "descr."
    );
    for number in 1..=seconds / step {
        let (begun, sent, arrived, used) =
            (Instant::now(), stage.sent(), stage.sink().recipients, stage.relay_cpu_ns());
        stage.play(Duration::from_secs(step))?;
        let (past, now) = (begun.elapsed().as_secs_f64(), stage.sent());
        let delivered = stage.sink().recipients - arrived;
        rates.push(delivered as f64 / past);
        cpu.push((stage.relay_cpu_ns() - used) as f64 / 1e3 / delivered.max(1) as f64);
        sizes.push(stage.size()?);
        println!(
            "{:>6} {:>11.0} {:>10.0} {:>9.0} {:>10.1} {:>8.1} {:>8}",
            number * step,
            rates[rates.len() - 1],
            (now.acknowledged - sent.acknowledged) as f64 / past,
            (now.deferred - sent.deferred) as f64 / past,
            cpu[cpu.len() - 1],
            sizes[sizes.len() - 1].mib(),
            sizes[sizes.len() - 1].descriptors
        );
    }
    let sent = stage.sent();
    println!("{} refused for now, {} starts not made (slowed)", sent.deferred, sent.missed_starts);
    let mut broken = flat(&sizes);
    let half = median(&rates[rates.len() / 2..]);
    broken.extend(none_lost(stage, 0)?);
    // The machine may have been slow before: a fresh relay shows what it can do now.
    let after = capacity(campaign, closed)?;
    let best = before.max(after);
    let part = 100.0 * half / best;
    println!(
        "median of the second half: {half:.0} a second; capacity before {before:.0} and behind {after:.0}, {part:.0} % of the best"
    );
    // A slice of some seconds among other tests says nothing about speed.
    if !campaign.short && half < HOLDS * best {
        broken.push(format!("throughput fell to {part:.0} % of what a fresh relay can do"));
    }
    Ok(broken)
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}

/// Over the second half memory and descriptors do not grow.
fn flat(sizes: &[Size]) -> Vec<String> {
    let most = |sizes: &[Size]| {
        let memory_bytes = sizes.iter().map(|size| size.memory_bytes).max().unwrap_or(0);
        let descriptors = sizes.iter().map(|size| size.descriptors).max().unwrap_or(0);
        Size { memory_bytes, descriptors }
    };
    // A slice of some seconds is warming up all the time.
    if sizes.len() < 8 {
        return Vec::new();
    }
    let (middle, late) = (&sizes[sizes.len() / 4..sizes.len() * 5 / 8], &sizes[sizes.len() * 5 / 8..]);
    let (middle, late) = (most(middle), most(late));
    println!(
        "memory at most {:.1} MiB in the middle and {:.1} MiB at the end; descriptors {} and {}",
        middle.mib(),
        late.mib(),
        middle.descriptors,
        late.descriptors
    );
    let mut broken = Vec::new();
    if late.memory_bytes > middle.memory_bytes + FLAT_BYTES {
        broken.push(format!("memory grows: {:.1} MiB, then {:.1} MiB", middle.mib(), late.mib()));
    }
    if late.descriptors > middle.descriptors * 5 / 4 + 64 {
        broken.push(format!("descriptors grow: {}, then {}", middle.descriptors, late.descriptors));
    }
    broken
}

// ---- idle sessions ----

fn idle(campaign: &Campaign) -> Told<Vec<String>> {
    let wanted = campaign.option("sessions")?.unwrap_or(if campaign.short { 500 } else { 20_000u64 });
    let limit = raise_open_files();
    let count = wanted.min(limit.saturating_sub(500));
    let dir = scratch()?;
    let plan = SendPlan { sessions: 10, messages: 2000, duration: Duration::ZERO, ..endless(campaign.seed) };
    let setting = Setting::new(dir.path(), vec![Load::new("meanwhile", plan)])
        .set("shards", 2)
        .set("listen.connections", 30_000)
        // Nearly all descriptors are for clients.
        .set("route.connections", 16)
        .set("queue.segments", 16)
        .set("queue.segment_bytes", 8 << 20);
    let mut stage = Stage::open(&setting)?;
    let mut sessions: Vec<TcpStream> = (0..200).map(|_| session(&stage)).collect::<Told<_>>()?;
    stage.play(Duration::from_secs(1))?;
    let before = stage.size()?;
    let begun = Instant::now();
    for _ in 200..count {
        sessions.push(session(&stage)?);
    }
    println!("{count} sessions greeted in {:.1} s", begun.elapsed().as_secs_f64());
    stage.play(Duration::from_secs(1))?;
    let after = stage.size()?;
    let each = after.memory_bytes.saturating_sub(before.memory_bytes) / (count - 200).max(1);
    println!("{count} idle sessions: {each} bytes of user memory each ({:.1} MiB in all)", after.mib());
    let used = stage.relay_cpu_ns();
    stage.play(Duration::from_secs(2))?;
    println!("CPU of two idle seconds: {:.1} ms", (stage.relay_cpu_ns() - used) as f64 / 1e6);
    let mut broken = Vec::new();
    if count < wanted {
        println!("no more than {limit} descriptors may be opened here: {count} sessions of {wanted}");
    }
    // Of few sessions pages are the larger part.
    if count >= 10_000 && each > SESSION_BYTES {
        broken.push(format!("{each} bytes a session; {SESSION_BYTES} is the target"));
    }
    // Mail goes through beside them, and every one of them is still served.
    stage.load()?;
    stage.end_loads_when_sent(SETTLE_LONGEST)?;
    for session in sessions.iter_mut().step_by(97) {
        say(session, "NOOP")?;
    }
    drop(sessions);
    let lowest = before.descriptors;
    if !stage.until(Duration::from_secs(30), |stage| stage.size().is_ok_and(|size| size.descriptors < lowest))? {
        broken.push("descriptors of closed sessions stay open".into());
    }
    broken.extend(none_lost(stage, 0)?);
    Ok(broken)
}

fn session(stage: &Stage) -> Told<TcpStream> {
    let told = |error: std::io::Error| format!("a session: {error}");
    let mut stream = TcpStream::connect(stage.address()).map_err(told)?;
    stream.set_read_timeout(Some(Duration::from_secs(30))).map_err(told)?;
    reply(&stream)?;
    say(&mut stream, "EHLO idle.example.com")?;
    Ok(stream)
}

fn say(stream: &mut TcpStream, command: &str) -> Told<()> {
    stream.write_all(format!("{command}\r\n").as_bytes()).map_err(|error| format!("a session: {error}"))?;
    reply(stream)
}

fn reply(stream: &TcpStream) -> Told<()> {
    let mut reader = BufReader::with_capacity(2048, stream);
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).map_err(|error| format!("a session: {error}"))?;
        match line.as_bytes() {
            [b'2', _, _, b'-', ..] => {}
            [b'2', ..] => return Ok(()),
            _ => return Err(format!("a session was told {line:?}")),
        }
    }
}

/// As many as root may, or as many as there may be.
fn raise_open_files() -> u64 {
    let wanted = libc::rlimit { rlim_cur: 65_536, rlim_max: 65_536 };
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: plain calls with local structs.
    unsafe {
        if libc::setrlimit(libc::RLIMIT_NOFILE, &raw const wanted) != 0 {
            loadgen::system::raise_file_limit();
        }
        libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit);
    }
    limit.rlim_cur
}

// ---- a long queue ----

fn queue(campaign: &Campaign) -> Told<Vec<String>> {
    const RECIPIENTS: u32 = 50;
    let wanted = campaign.option("recipients")?.unwrap_or(if campaign.short { 20_000 } else { 1_000_000u64 });
    let dir = scratch()?;
    let plan = SendPlan {
        sessions: 20,
        messages: wanted / u64::from(RECIPIENTS),
        duration: Duration::ZERO,
        sizes: "2KiB".parse().expect("sizes"),
        recipients: RECIPIENTS,
        domains: 25,
        ..endless(campaign.seed)
    };
    let (outside, next_hop) = (free_address(), free_address());
    let setting = Setting::new(dir.path(), vec![Load::new("queued", plan)]).set("shards", 2);
    let setting = Setting { sink: SinkPlan::new(outside), next_hop: Some(next_hop), ..setting };
    let mut stage = Stage::open(&setting)?;
    let empty = stage.size()?;
    stage.load()?;
    let mut sizes = vec![empty];
    for quarter in 1..=4 {
        let part = wanted / u64::from(RECIPIENTS) * quarter / 4;
        stage.until(SETTLE_LONGEST, |stage| stage.sent().acknowledged >= part)?;
        sizes.push(stage.size()?);
    }
    stage.end_loads_when_sent(SETTLE_LONGEST)?;
    let full = stage.size()?;
    let each = full.memory_bytes.saturating_sub(empty.memory_bytes) / wanted.max(1);
    let shown: Vec<String> = sizes.iter().map(|size| format!("{:.1}", size.mib())).collect();
    println!(
        "MiB with 0, 1/4, 1/2, 3/4 and all of {wanted} recipients queued: {}; {each} bytes each",
        shown.join(", ")
    );
    // They survive a kill, too, and take no more after it.
    stage.kill();
    stage.start_relay()?;
    let again = stage.size()?;
    println!("after a kill and a start: {:.1} MiB", again.mib());
    let proxy = Proxy::start(next_hop, outside, Weather::default(), campaign.seed)?;
    let begun = Instant::now();
    let mut peak = again;
    while !stage.until(Duration::from_secs(1), |stage| stage.sink().recipients >= wanted)? {
        let size = stage.size()?;
        if size.memory_bytes > peak.memory_bytes {
            peak = size;
        }
        if begun.elapsed() > SETTLE_LONGEST {
            break;
        }
    }
    println!("all delivered in {:.1} s, {:.1} MiB at most", begun.elapsed().as_secs_f64(), peak.mib());
    let mut broken = Vec::new();
    let bound = empty.memory_bytes + (256 << 20);
    if full.memory_bytes.max(peak.memory_bytes) > bound {
        broken.push(format!("{:.1} MiB for {wanted} recipients", full.mib().max(peak.mib())));
    }
    broken.extend(none_lost(stage, 0)?);
    drop(proxy);
    Ok(broken)
}

// ---- long hauls ----

fn soak(campaign: &Campaign) -> Told<Vec<String>> {
    let seconds = campaign.option("seconds")?.unwrap_or(if campaign.short { 4 } else { 900u64 });
    let dir = scratch()?;
    let mut setting = Setting::new(dir.path(), mixed(campaign.seed))
        .set("shards", 2)
        .set("queue.segment_bytes", 8 << 20)
        .set("queue.segments", 64)
        .set("queue.memory_bytes", 16 << 20);
    setting.sink.faults = awkward();
    setting.sink.seed = campaign.seed;
    let mut stage = Stage::open(&setting)?;
    stage.load()?;
    let mut sizes = Vec::new();
    let step = (seconds / 30).max(1);
    for number in 1..=seconds / step {
        stage.play(Duration::from_secs(step))?;
        sizes.push(stage.size()?);
        if !campaign.short && number % 5 == 0 {
            let size = sizes[sizes.len() - 1];
            println!(
                "{:>5} s: {} accepted, {} delivered, {:.1} MiB, {} descriptors",
                number * step,
                stage.sent().acknowledged,
                stage.sink().recipients,
                size.mib(),
                size.descriptors
            );
        }
    }
    let mut broken = flat(&sizes);
    broken.extend(none_lost(stage, 0)?);
    Ok(broken)
}

/// SIGTERM and a start again under load, every second time with another program file over the same queue.
fn stops(campaign: &Campaign) -> Told<Vec<String>> {
    let rounds = campaign.rounds.unwrap_or(if campaign.short { 2 } else { 40 });
    let dir = scratch()?;
    let told = |error: std::io::Error| format!("the program's copies: {error}");
    let current = dir.path().join("current");
    let copies = [dir.path().join("ringpost-old"), dir.path().join("ringpost-new")];
    for copy in &copies {
        std::fs::copy(program(), copy).map_err(told)?;
    }
    symlink(&copies[0], &current).map_err(told)?;
    let mut setting = Setting::new(dir.path(), mixed(campaign.seed))
        .set("shards", 2)
        .set("queue.segment_bytes", 8 << 20)
        .set("queue.memory_bytes", 4 << 20);
    setting.program.clone_from(&current);
    let config = dir.path().join("reloaded.toml");
    setting.config = Some(config.clone());
    let mut rng = Rng::new(campaign.seed);
    std::fs::write(&config, other_settings(&mut rng)).map_err(told)?;
    // Slow, so that much is on its way at each stop.
    setting.sink.faults.delay = Some((Duration::from_millis(1), Duration::from_millis(20)));
    let mut stage = Stage::open(&setting)?;
    stage.load()?;
    let (mut slowest, mut upgrades, mut reloads) = (Duration::ZERO, 0, 0);
    for round in 1..=rounds {
        for _ in 0..rng.below(4) {
            stage.play(Duration::from_millis(100 + rng.below(500)))?;
            std::fs::write(&config, other_settings(&mut rng)).map_err(told)?;
            stage.signal(libc::SIGHUP)?;
            reloads += 1;
        }
        stage.play(Duration::from_millis(300 + rng.below(1500)))?;
        let begun = Instant::now();
        stage.stop_relay()?;
        slowest = slowest.max(begun.elapsed());
        if round % 2 == 0 {
            std::fs::remove_file(&current).map_err(told)?;
            symlink(&copies[round as usize / 2 % 2], &current).map_err(told)?;
            upgrades += 1;
        }
        stage.start_relay()?;
    }
    let seconds = slowest.as_secs_f64();
    println!("{rounds} stops, {upgrades} of them upgrades; the slowest took {seconds:.2} s; {reloads} reloads");
    none_lost(stage, 0)
}

/// Other limits than before, and half of the time other routes, by which all mail that waits is routed anew.
fn other_settings(rng: &mut Rng) -> String {
    let connections = 1 + rng.below(50);
    let route = if rng.below(2) == 0 { format!("n{}", rng.below(1000)) } else { "same".to_owned() };
    format!(
        "[site.default]\nconnections = {connections}\nmessages_per_connection = {}\n[route.domains]\n\"{route}.example\" = \"192.0.2.1:25\"\n",
        1 + rng.below(1000)
    )
}
