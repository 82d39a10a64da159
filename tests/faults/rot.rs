//! Bits flip in a queue at rest, in records of every kind: what was hit is found and reported, everything else is
//! delivered. Reads the format by `docs/queue.md` alone.

use std::collections::BTreeMap;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use loadgen::clock::Clock;
use loadgen::ledger::{Ledger, Tally};
use loadgen::rng::Rng;
use loadgen::send::SendPlan;
use loadgen::sink::faults::{Denial, Faults};
use loadgen::sink::{Book, Sink, SinkPlan};

use crate::ram::{Fault, Op, RamVolume, copy_tree};
use crate::stage::{Load, Setting, Stage, Told, relay_for, spool_report};
use crate::{Campaign, scratch};

const FLIPS_PER_KIND: u64 = 40;
const HEADER_BYTES: usize = 32;
const KINDS: [&str; 5] = ["start", "chunk", "accept", "verdict", "cut"];
const SETTLE_LONGEST: Duration = Duration::from_secs(30);
const QUIET: Duration = Duration::from_millis(300);

/// A record as it stands in a file.
#[derive(Clone, Debug)]
struct Found {
    path: PathBuf,
    offset: usize,
    length: usize,
    kind: usize,
    /// Of a verdict: recipients it speaks of.
    recipients: u64,
    /// Records behind it until the next sector that begins with one, which a wrong length makes unreadable.
    company: u64,
}

pub(crate) fn run(campaign: &Campaign) -> Told<Vec<String>> {
    let flips = campaign.rounds.unwrap_or(if campaign.short { 2 } else { FLIPS_PER_KIND });
    let dir = scratch()?;
    let base = dir.path().join("base");
    let ledger = make(campaign, &base)?;
    let mut by_kind: BTreeMap<usize, Vec<Found>> = BTreeMap::new();
    for record in records(&base)? {
        by_kind.entry(record.kind).or_default().push(record);
    }
    let mut broken = Vec::new();
    let mut rng = Rng::new(campaign.seed);
    println!(
        "{:>8} {:>8} {:>6} {:>9} {:>9} {:>5} {:>10}",
        "kind", "records", "flips", "reported", "delivered", "lost", "duplicated"
    );
    for (kind, name) in KINDS.iter().enumerate() {
        let found = by_kind.remove(&kind).unwrap_or_default();
        if found.is_empty() {
            broken.push(format!("no record of kind {name} in the queue to flip a bit of"));
            continue;
        }
        let (mut reported, mut sum) = (0, Tally::default());
        for flip in 0..flips {
            let record = &found[rng.below(found.len() as u64) as usize];
            let bit = rng.below(record.length as u64 * 8);
            let told = |text: String| format!("flip {flip} of {name}, bit {bit} of {record:?}: {text}");
            let run = one(dir.path(), &base, record, bit, &ledger).map_err(told)?;
            reported += u64::from(run.reported);
            sum.arrived += run.tally.arrived;
            sum.lost += run.tally.lost;
            sum.duplicated += run.tally.duplicated;
            let in_length = (32..64).contains(&bit);
            let (lost_at_most, twice_at_most) = match *name {
                _ if in_length => (1 + record.company, record.recipients + record.company),
                "accept" | "chunk" => (1, 0),
                "verdict" => (0, record.recipients),
                _ => (0, 0),
            };
            let wrong = run.tally.lost > lost_at_most
                || run.tally.duplicated > twice_at_most
                || run.tally.corrupted > 0
                || (run.tally.lost > 0 && !run.reported);
            if wrong {
                broken.push(told(format!("reported: {}, {:?}", run.reported, run.tally)));
            }
        }
        println!(
            "{name:>8} {:>8} {flips:>6} {reported:>9} {:>9} {:>5} {:>10}",
            found.len(),
            sum.arrived,
            sum.lost,
            sum.duplicated
        );
    }
    Ok(broken)
}

/// A queue with records of every kind at rest, and what is known of its messages.
fn make(campaign: &Campaign, base: &Path) -> Told<Ledger> {
    let volume = RamVolume::mount(campaign.seed)?;
    let dir = scratch()?;
    let plan = SendPlan {
        sessions: 4,
        messages: 60,
        sizes: "1KiB:50,60KiB:30,400KiB:20".parse().expect("sizes"),
        seed: campaign.seed,
        ..SendPlan::default()
    };
    let mut setting = Setting::new(dir.path(), vec![Load::new("small", plan)])
        .set("shards", 1)
        .set("tls.offer", false)
        .set("queue.dir", volume.path().join("queue").display())
        .set("queue.segment_bytes", 8 << 20)
        // What is deferred stays so until the queue is at rest, and is due soon after.
        .set("retry.first_ms", 6000)
        .set("retry.longest_ms", 6000);
    setting.sink.faults = Faults { end: Denial { defer: 0.6, ..Denial::default() }, ..Faults::default() };
    let mut stage = Stage::open(&setting)?;
    // Segments kept ahead are made first, so that it is a commit that fails.
    let mut made = volume.counts();
    while stage.play(Duration::from_millis(500)).map(|()| volume.counts() != made)? {
        made = volume.counts();
    }
    volume.arm(Some(Fault { op: Op::Write, number: 12, errno: libc::EIO }));
    stage.load()?;
    stage.end_loads_when_sent(SETTLE_LONGEST)?;
    // A second until another segment is taken, then a first attempt of each message, and its verdict.
    stage.play(Duration::from_millis(2500))?;
    stage.stop_relay()?;
    if !volume.hit() {
        return Err("no write failed, so there is no cut".into());
    }
    volume.copy_to(base)?;
    let mut ledgers = stage.snapshot();
    Ok(ledgers.remove(0))
}

fn records(base: &Path) -> Told<Vec<Found>> {
    let mut found = Vec::new();
    let shard = base.join("queue/shard-000");
    let entries = fs::read_dir(&shard).map_err(|error| format!("{}: {error}", shard.display()))?;
    for path in entries.flatten().map(|entry| entry.path()) {
        let bytes = fs::read(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"));
        let mut at = 0;
        let (mut life, mut batch) = (None, found.len());
        while at + HEADER_BYTES <= bytes.len() {
            let kind = usize::from(bytes[at + 2]);
            let here = bytes[at..].starts_with(b"RP")
                && (1..=KINDS.len()).contains(&kind)
                && word(at + 8) as usize == at
                && life.is_none_or(|life| life == word(at + 12));
            if !here {
                // To the next sector: what follows in this one is padding.
                at = (at + 1).next_multiple_of(4096);
                continue;
            }
            life = Some(word(at + 12));
            let length = HEADER_BYTES + word(at + 4) as usize;
            let recipients = if kind == 4 { u64::from(word(at + HEADER_BYTES + 4)) } else { 0 };
            if at.is_multiple_of(4096) {
                batch = found.len();
            }
            found[batch..].iter_mut().for_each(|before: &mut Found| before.company += 1 + recipients);
            found.push(Found { path: path.clone(), offset: at, length, kind: kind - 1, recipients, company: 0 });
            at = (at + length).next_multiple_of(8);
        }
    }
    Ok(found)
}

struct One {
    reported: bool,
    tally: Tally,
}

/// Flips one bit in a copy, looks at it, and lets a relay deliver what it finds.
fn one(dir: &Path, base: &Path, record: &Found, bit: u64, ledger: &Ledger) -> Told<One> {
    let copy = dir.join("copy");
    copy_tree(base, &copy)?;
    let path = copy.join(record.path.strip_prefix(base).expect("below the base"));
    let mut bytes = fs::read(&path).map_err(|error| error.to_string())?;
    bytes[record.offset + bit as usize / 8] ^= 1 << (bit % 8);
    fs::write(&path, bytes).map_err(|error| error.to_string())?;
    let queue = copy.join("queue");
    let reported = spool_report(&queue)?.damaged > 0;
    let clock = Clock::start();
    let ledger = Arc::new(ledger.copy());
    let sink = SinkPlan::new(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
    let sink = Sink::start(&sink, Book::of(Arc::clone(&ledger)), clock).map_err(|error| error.to_string())?;
    let setting = Setting::new(&copy, Vec::new()).set("shards", 1).set("tls.offer", false);
    let mut relay = relay_for(&setting.set("queue.segment_bytes", 8 << 20), sink.addresses()[0])?;
    let begun = Instant::now();
    let mut last = (sink.counts().recipients, Instant::now());
    // A message that was hit never comes: the rest has come when nothing does.
    while begun.elapsed() < SETTLE_LONGEST
        && last.1.elapsed() < if ledger.tally().lost == 0 { QUIET } else { QUIET * 20 }
    {
        std::thread::sleep(Duration::from_millis(10));
        let arrived = sink.counts().recipients;
        if arrived != last.0 {
            last = (arrived, Instant::now());
        }
        if !relay.is_running() {
            return Err("the relay ended by itself".into());
        }
    }
    let ended = relay.end(SETTLE_LONGEST);
    drop(sink.stop());
    fs::remove_dir_all(&copy).map_err(|error| error.to_string())?;
    if !ended.is_some_and(|status| status.success()) {
        return Err(format!("the relay ended with {ended:?}"));
    }
    Ok(One { reported, tally: ledger.tally() })
}
