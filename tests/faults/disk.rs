//! The disk fails: the n-th write, sync, read or open, for every n, with every error that a disk may give; it is full,
//! or has no inode left, while mail goes through; and bits flip in records of every kind.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

use loadgen::client::Pipeline;
use loadgen::schedule::Schedule;
use loadgen::send::SendPlan;
use loadgen::sink::faults::Faults;

use crate::ram::{Fault, Op, RamVolume};
use crate::stage::{Load, NOTHING_TAKEN, Outcome, Setting, Stage, Told};
use crate::volume::{Kind, Volume};
use crate::{Campaign, SKIPPED, rot, run_parts, scratch};

/// Nothing comes for so long: nothing is on its way.
const QUIET: Duration = Duration::from_millis(100);
/// No run has so many operations of one kind.
const NUMBER_MAX: u64 = 10_000;
/// Between two operations that fail in turn, in a short run.
const SHORT_STEP: u64 = 29;
const SETTLE_LONGEST: Duration = Duration::from_secs(60);

const ERRORS: &[(Op, &[i32])] = &[
    (Op::Write, &[libc::EIO, libc::ENOSPC, libc::EROFS]),
    (Op::Sync, &[libc::EIO, libc::ENOSPC]),
    (Op::Read, &[libc::EIO]),
    (Op::Open, &[libc::EMFILE, libc::EIO, libc::EROFS]),
];

pub(crate) fn run(campaign: &Campaign) -> Told<Vec<String>> {
    run_parts(campaign, &[("each", each), ("full", full), ("inodes", inodes), ("bits", rot::run)])
}

// ---- each operation in turn ----

fn each(campaign: &Campaign) -> Told<Vec<String>> {
    let mut broken = Vec::new();
    let whole = one(campaign, None)?;
    println!("a run without a failure: writes, syncs, reads, opens: {:?}", whole.counts);
    broken.extend(whole.broken);
    println!(
        "{:>6} {:>8} {:>6} {:>9} {:>9} {:>8} {:>8} {:>5} {:>10}",
        "op", "error", "runs", "acked", "arrived", "deferred", "restarts", "lost", "duplicated"
    );
    for (op, errnos) in ERRORS {
        for errno in *errnos {
            let step = if campaign.short { SHORT_STEP } else { 1 };
            // Short runs take another phase each time.
            let mut number = 1 + if campaign.short { campaign.seed % step } else { 0 };
            let mut sum = Sum::default();
            while number <= campaign.rounds.unwrap_or(NUMBER_MAX) {
                let fault = Fault { op: *op, number, errno: *errno };
                let run = one(campaign, Some(fault)).map_err(|text| format!("{fault:?}: {text}"));
                let run = match run {
                    Ok(run) => run,
                    Err(text) if text.contains(SKIPPED) => return Err(text),
                    Err(text) => {
                        println!("{text}");
                        broken.push(text);
                        number += step;
                        continue;
                    }
                };
                sum.add(&run);
                broken.extend(run.broken.into_iter().map(|text| format!("{fault:?}: {text}")));
                if !run.hit {
                    break;
                }
                number += step;
            }
            sum.print(*op, *errno);
        }
    }
    Ok(broken)
}

#[derive(Default)]
struct Sum {
    runs: u64,
    acknowledged: u64,
    arrived: u64,
    deferred: u64,
    failed_starts: u64,
    lost: u64,
    duplicated: u64,
}

impl Sum {
    fn add(&mut self, run: &One) {
        self.runs += 1;
        self.acknowledged += run.outcome.acknowledged();
        self.arrived += run.outcome.sink.recipients;
        self.deferred += run.outcome.sent.deferred;
        self.failed_starts += run.failed_starts;
        self.lost += run.outcome.lost.len() as u64;
        self.duplicated += run.outcome.duplicated();
    }

    fn print(&self, op: Op, errno: i32) {
        let name = match errno {
            libc::EIO => "EIO",
            libc::ENOSPC => "ENOSPC",
            libc::EROFS => "EROFS",
            libc::EMFILE => "EMFILE",
            _ => "?",
        };
        println!(
            "{:>6} {name:>8} {:>6} {:>9} {:>9} {:>8} {:>8} {:>5} {:>10}",
            format!("{op:?}").to_lowercase(),
            self.runs,
            self.acknowledged,
            self.arrived,
            self.deferred,
            self.failed_starts,
            self.lost,
            self.duplicated
        );
    }
}

struct One {
    outcome: Outcome,
    counts: [u64; 4],
    hit: bool,
    /// Starts that the failure made end with an explanation; the next one must do.
    failed_starts: u64,
    broken: Vec<String>,
}

/// One small run: a start, mail of which part must be read back, a kill, a start, and a stop.
fn one(campaign: &Campaign, fault: Option<Fault>) -> Told<One> {
    let volume = RamVolume::mount(campaign.seed)?;
    let dir = scratch()?;
    let plan = SendPlan {
        sessions: 6,
        messages: 60,
        sizes: "1KiB:40,30KiB:50,200KiB:10".parse().expect("sizes"),
        recipients: 2,
        pipeline: Pipeline::Group,
        seed: campaign.seed,
        ..SendPlan::default()
    };
    let mut setting = Setting::new(dir.path(), vec![Load::new("small", plan)])
        .set("shards", 1)
        .set("queue.dir", volume.path().join("queue").display())
        .set("queue.segment_bytes", 4 << 20)
        .set("queue.segments", 12)
        .set("queue.memory_bytes", 1 << 20)
        .set("site.default.connections", 2)
        .set("retry.first_ms", 50);
    setting.sink.faults = Faults { delay: Some((Duration::ZERO, Duration::from_millis(4))), ..Faults::default() };
    volume.arm(fault);
    let mut failed_starts = 0;
    let mut stage = match Stage::open(&setting) {
        Ok(stage) => stage,
        Err(text) => {
            explained(&text)?;
            failed_starts += 1;
            Stage::open(&setting)?
        }
    };
    let begun = Instant::now();
    stage.load()?;
    stage.end_loads_when_sent(SETTLE_LONGEST)?;
    // A failure may have kept verdicts from the disk for a second: all that arrived may arrive again.
    stage.kill_failing_since(begun);
    if let Err(text) = stage.start_relay() {
        explained(&text)?;
        failed_starts += 1;
        stage.kill();
        stage.start_relay()?;
    }
    // What could not be read is tried again after a while.
    stage.until(SETTLE_LONGEST, |stage| stage.waiting(0) == 0)?;
    stage.play(QUIET)?;
    let counts = volume.counts();
    let hit = volume.hit();
    volume.arm(None);
    stage.settle_quickly(SETTLE_LONGEST, QUIET)?;
    let outcome = stage.close(&HashSet::new())?;
    let mut broken = outcome.broken_promises(outcome.in_flight);
    if hit && outcome.sent.deferred == outcome.sent.started {
        // So short a load may fall whole into the second that follows a failure: then all of it is refused for now.
        broken.retain(|text| text != NOTHING_TAKEN);
    }
    Ok(One { outcome, counts, hit, failed_starts, broken })
}

/// A start may fail, with exit code 1 and a reason; nothing else.
fn explained(text: &str) -> Told<()> {
    if text.contains("exit status: 1") && text.contains("ringpost: ") { Ok(()) } else { Err(text.to_owned()) }
}

// ---- full ----

fn steady(seed: u64, rate: f64, sizes: &str) -> Load {
    Load::new(
        "steady",
        SendPlan {
            sessions: 16,
            schedule: Some(Schedule::constant(rate)),
            duration: Duration::from_secs(86_400),
            sizes: sizes.parse().expect("sizes"),
            pipeline: Pipeline::Group,
            messages_per_session: 20,
            seed,
            ..SendPlan::default()
        },
    )
}

fn full(campaign: &Campaign) -> Told<Vec<String>> {
    let volume = Volume::make(Kind::Ext4, 96 << 20, &[])?;
    filled(campaign, &volume, |at, number| {
        let mut file = File::create(at.join(format!("filler-{number}")))?;
        let piece = vec![0; 64 << 10];
        while file.write_all(&piece).is_ok() {}
        while file.write_all(&piece[..512]).is_ok() {}
        Ok(())
    })
}

fn inodes(campaign: &Campaign) -> Told<Vec<String>> {
    let volume = Volume::make(Kind::Ext4, 96 << 20, &["-N", "48"])?;
    filled(campaign, &volume, |at, number| {
        let mut count = 0;
        while File::create(at.join(format!("filler-{number}-{count}"))).is_ok() {
            count += 1;
        }
        Ok(())
    })
}

/// Again and again the volume is filled under load, and emptied: mail in the queue goes out all the time, new mail is
/// refused for now, and taken again.
fn filled(campaign: &Campaign, volume: &Volume, fill: impl Fn(&Path, u64) -> std::io::Result<()>) -> Told<Vec<String>> {
    let rounds = campaign.rounds.unwrap_or(if campaign.short { 1 } else { 5 });
    let dir = scratch()?;
    let mut setting = Setting::new(dir.path(), vec![steady(campaign.seed, 400.0, "2KiB:30,20KiB:70")])
        .set("shards", 1)
        .set("queue.dir", volume.path().join("queue").display())
        .set("queue.segment_bytes", 4 << 20)
        .set("queue.memory_bytes", 2 << 20)
        .set("site.default.connections", 4);
    // Slower than what comes in, so that the queue grows until there is no room.
    setting.sink.faults.delay = Some((Duration::from_millis(5), Duration::from_millis(40)));
    let mut stage = Stage::open(&setting)?;
    stage.load()?;
    let mut broken = Vec::new();
    for round in 1..=rounds {
        stage.play(Duration::from_millis(500))?;
        fill(&volume.path(), round).map_err(|error| format!("the filler: {error}"))?;
        let before = stage.sent();
        let refused = |stage: &Stage| stage.sent().deferred > before.deferred + 20;
        if !stage.until(Duration::from_secs(60), refused)? {
            broken.push(format!("round {round}: full, and no client is told so"));
        }
        let (sent, arrived) = (stage.sent(), stage.sink().recipients);
        stage.play(Duration::from_secs(1))?;
        let delivered = stage.sink().recipients - arrived;
        if delivered == 0 {
            broken.push(format!("round {round}: nothing is delivered while there is no room"));
        }
        println!(
            "round {round}: full for a second: {delivered} delivered, {} accepted, {} refused for now",
            stage.sent().acknowledged - sent.acknowledged,
            stage.sent().deferred - sent.deferred
        );
        for entry in fs::read_dir(volume.path()).map_err(|error| error.to_string())?.flatten() {
            if entry.file_name().to_string_lossy().starts_with("filler") {
                fs::remove_file(entry.path()).map_err(|error| error.to_string())?;
            }
        }
        let taken = stage.sent().acknowledged;
        let again = |stage: &Stage| stage.sent().acknowledged > taken + 50;
        if !stage.until(Duration::from_secs(30), again)? {
            broken.push(format!("round {round}: room again, and no mail is taken"));
        }
    }
    stage.end_loads(SETTLE_LONGEST)?;
    stage.settle(SETTLE_LONGEST * 5, &HashSet::new())?;
    let outcome = stage.close(&HashSet::new())?;
    broken.extend(outcome.judge(0));
    Ok(broken)
}
