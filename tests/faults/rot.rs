//! Bits flip in a queue at rest, in records of every kind: what was hit is found and reported, everything else is
//! delivered, and is saved by a salvage. Reads the format by `docs/queue.md` alone.

use std::collections::HashMap;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::ops::Range;
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
use crate::salvage::{self, Messages, Touched};
use crate::stage::{Load, Setting, Stage, Told, relay_for, spool_report};
use crate::{Campaign, scratch};

const FLIPS_PER_KIND: u64 = 40;
/// A salvage is made and looked at after every so-manieth flip: every message is read by a process of its own.
const SALVAGE_EVERY: u64 = 5;
const HEADER_BYTES: usize = 32;
const SECTOR_BYTES: usize = 4096;
const KINDS: [&str; 5] = ["start", "chunk", "accept", "verdict", "cut"];
const SETTLE_LONGEST: Duration = Duration::from_secs(30);
const QUIET: Duration = Duration::from_millis(300);

/// A position in the log: life and offset.
type Position = (u32, u32);

/// A record as it stands in a file.
#[derive(Clone, Debug)]
struct Found {
    path: PathBuf,
    at: Position,
    length: usize,
    kind: usize,
    /// How far the log was durable when it was made.
    durable: Position,
    /// Of a verdict: recipients it speaks of.
    recipients: u64,
    /// Of a chunk, an accept, a verdict: the message that it is of.
    message: Option<String>,
    /// Of a cut: where lives ended.
    cuts: Vec<Position>,
    /// Records behind it until the next sector that begins with one, which a wrong length makes unreadable.
    behind: usize,
}

/// A queue at rest, and what is known of it.
struct Base {
    dir: PathBuf,
    ledger: Ledger,
    messages: Messages,
    records: Vec<Found>,
}

impl Base {
    /// How far each life can be seen to have been durable without the records in `hit`: damage before that is none that a stop may
    /// have left.
    fn durable(&self, hit: &Range<usize>) -> HashMap<u32, u32> {
        let mut marks: HashMap<u32, u32> = HashMap::new();
        let mark = |marks: &mut HashMap<u32, u32>, (life, offset): Position| {
            let known = marks.entry(life).or_default();
            *known = offset.max(*known);
        };
        let seen =
            || self.records.iter().enumerate().filter(|(index, _)| !hit.contains(index)).map(|(_, record)| record);
        for record in seen() {
            mark(&mut marks, record.durable);
            // A start was durable before anything else of its life was written.
            if KINDS[record.kind] != "start" {
                mark(&mut marks, (record.at.0, SECTOR_BYTES as u32));
            }
        }
        let mut cuts: Vec<&Found> = seen().filter(|record| !record.cuts.is_empty()).collect();
        // A cut speaks of lives before its own, and counts if it was durable itself.
        cuts.sort_by_key(|record| std::cmp::Reverse(record.at));
        for record in cuts {
            if marks.get(&record.at.0).is_some_and(|durable| record.at.1 < *durable) {
                record.cuts.iter().for_each(|cut| mark(&mut marks, *cut));
            }
        }
        marks
    }

    /// True if damage of the record must be reported. Of a start only where something lives behind it: a stop may have cut off a start
    /// that was written over what nobody needs.
    fn must_be_reported(&self, index: usize, hit: &Range<usize>) -> bool {
        let record = &self.records[index];
        let accepts = |of: &Found| KINDS[of.kind] == "accept" && of.message.is_some();
        let lives = |of: &Found| {
            let places = self.records.iter().filter(|other| accepts(other) && other.message == of.message).count();
            accepts(of) && places == 1 && of.message.as_ref().is_some_and(|name| self.messages.contains_key(name))
        };
        let needed = KINDS[record.kind] != "start" || self.records.iter().any(|of| of.path == record.path && lives(of));
        needed && self.durable(hit).get(&record.at.0).is_some_and(|durable| record.at.1 < *durable)
    }
}

#[derive(Default)]
struct Sum {
    reported: u64,
    tally: Tally,
    salvages: u64,
    saved: u64,
}

pub(crate) fn run(campaign: &Campaign) -> Told<Vec<String>> {
    let flips = campaign.rounds.unwrap_or(if campaign.short { 2 } else { FLIPS_PER_KIND });
    let dir = scratch()?;
    let base = make(campaign, &dir.path().join("base"))?;
    let mut broken = Vec::new();
    let mut rng = Rng::new(campaign.seed);
    println!(
        "{:>8} {:>8} {:>6} {:>9} {:>9} {:>5} {:>10} {:>8} {:>9}",
        "kind", "records", "flips", "reported", "delivered", "lost", "duplicated", "salvages", "saved"
    );
    for (kind, name) in KINDS.iter().enumerate() {
        let found: Vec<usize> = (0..base.records.len()).filter(|index| base.records[*index].kind == kind).collect();
        if found.is_empty() {
            broken.push(format!("no record of kind {name} in the queue to flip a bit of"));
            continue;
        }
        let mut sum = Sum::default();
        for flip in 0..flips {
            let index = found[rng.below(found.len() as u64) as usize];
            let bit = rng.below(base.records[index].length as u64 * 8);
            let with_salvage = flip % SALVAGE_EVERY == 0;
            match one(dir.path(), &base, index, bit, with_salvage, &mut sum) {
                Ok(None) => {}
                Ok(Some(text)) | Err(text) => {
                    broken.push(format!("flip {flip} of {name}, bit {bit} of {:?}: {text}", base.records[index]));
                }
            }
        }
        println!(
            "{name:>8} {:>8} {flips:>6} {:>9} {:>9} {:>5} {:>10} {:>8} {:>9}",
            found.len(),
            sum.reported,
            sum.tally.arrived,
            sum.tally.lost,
            sum.tally.duplicated,
            sum.salvages,
            sum.saved
        );
    }
    Ok(broken)
}

/// A queue with records of every kind at rest.
fn make(campaign: &Campaign, base: &Path) -> Told<Base> {
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
    let ledger = stage.snapshot().remove(0);
    let messages = salvage::messages(&base.join("queue"))?;
    if messages.is_empty() {
        return Err("no message is left in the queue".into());
    }
    Ok(Base { dir: base.to_owned(), ledger, messages, records: records(base)? })
}

fn records(base: &Path) -> Told<Vec<Found>> {
    let mut found: Vec<Found> = Vec::new();
    let mut chunks: HashMap<Position, String> = HashMap::new();
    let shard = base.join("queue/shard-000");
    let entries = fs::read_dir(&shard).map_err(|error| format!("{}: {error}", shard.display()))?;
    for path in entries.flatten().map(|entry| entry.path()) {
        let bytes = fs::read(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"));
        let half = |at: usize| u16::from_le_bytes(bytes[at..at + 2].try_into().expect("two bytes"));
        let position = |at: usize| (word(at + 4), word(at));
        let name = |shard: u16, (life, offset): Position| Some(format!("{shard:x}-{life:x}-{offset:x}"));
        let mut at = 0;
        let mut life = None;
        while at + HEADER_BYTES <= bytes.len() {
            let kind = usize::from(bytes[at + 2]);
            let here = bytes[at..].starts_with(b"RP")
                && (1..=KINDS.len()).contains(&kind)
                && word(at + 8) as usize == at
                && life.is_none_or(|life| life == word(at + 12));
            if !here {
                // To the next sector: what follows in this one is padding.
                at = (at + 1).next_multiple_of(SECTOR_BYTES);
                continue;
            }
            life = Some(word(at + 12));
            let payload = at + HEADER_BYTES;
            let length = HEADER_BYTES + word(at + 4) as usize;
            let mut record = Found {
                path: path.clone(),
                at: position(at + 8),
                length,
                kind: kind - 1,
                durable: position(at + 16),
                recipients: 0,
                message: None,
                cuts: Vec::new(),
                behind: 0,
            };
            match KINDS[kind - 1] {
                "accept" => {
                    record.message = name(half(payload), position(payload + 8));
                    for chunk in 0..word(payload + 32) as usize {
                        chunks.extend(record.message.clone().map(|name| (position(payload + 56 + chunk * 12), name)));
                    }
                }
                "verdict" => {
                    record.recipients = u64::from(word(payload + 4));
                    record.message = name(half(payload), position(payload + 8));
                }
                "cut" => {
                    let entries = (payload..at + length).step_by(12);
                    record.cuts = entries.map(|entry| (word(entry), word(entry + 4))).collect();
                }
                _ => {}
            }
            found.push(record);
            at = (at + length).next_multiple_of(8);
        }
    }
    for index in (0..found.len()).rev() {
        if KINDS[found[index].kind] == "chunk" {
            found[index].message = chunks.remove(&found[index].at);
        }
        let next = found.get(index + 1).filter(|next| next.path == found[index].path);
        let next = next.filter(|next| !(next.at.1 as usize).is_multiple_of(SECTOR_BYTES));
        found[index].behind = next.map_or(0, |next| next.behind + 1);
    }
    Ok(found)
}

/// Flips one bit in a copy, looks at it, salvages it if that is wanted, and lets a relay deliver what it finds. What is not as it
/// should be, if anything.
fn one(dir: &Path, base: &Base, index: usize, bit: u64, with_salvage: bool, sum: &mut Sum) -> Told<Option<String>> {
    let record = &base.records[index];
    let copy = dir.join("copy");
    copy_tree(&base.dir, &copy)?;
    let path = copy.join(record.path.strip_prefix(&base.dir).expect("below the base"));
    let mut bytes = fs::read(&path).map_err(|error| error.to_string())?;
    bytes[record.at.1 as usize + bit as usize / 8] ^= 1 << (bit % 8);
    fs::write(&path, bytes).map_err(|error| error.to_string())?;
    let queue = copy.join("queue");

    let in_length = (32..64).contains(&bit);
    let hit = index..index + 1 + if in_length { record.behind } else { 0 };
    let records = &base.records[hit.clone()];
    let reported = spool_report(&queue)?.damaged > 0;
    let mut wrong = Vec::new();
    if !reported && base.must_be_reported(index, &hit) {
        wrong.push("the log tells that it was durable, and verify does not tell of the damage".to_owned());
    }
    if with_salvage {
        let touched = Touched {
            messages: records.iter().filter_map(|record| record.message.clone()).collect(),
            back: records.iter().any(|record| ["verdict", "cut"].contains(&KINDS[record.kind])),
            reported,
        };
        let into = dir.join("salvaged");
        sum.salvages += 1;
        match salvage::check(&queue, &into, &base.messages, &touched) {
            Ok(saved) => sum.saved += saved,
            Err(text) => wrong.push(text),
        }
        fs::remove_dir_all(&into).map_err(|error| error.to_string())?;
    }
    let tally = deliver(&copy, &base.ledger);
    fs::remove_dir_all(&copy).map_err(|error| error.to_string())?;
    let tally = tally?;
    let company: u64 = records[1..].iter().map(|record| 1 + record.recipients).sum();
    let (lost_at_most, twice_at_most) = match KINDS[record.kind] {
        _ if in_length => (1 + company, record.recipients + company),
        "accept" | "chunk" => (1, 0),
        "verdict" => (0, record.recipients),
        _ => (0, 0),
    };
    if tally.lost > lost_at_most
        || tally.duplicated > twice_at_most
        || tally.corrupted > 0
        || (tally.lost > 0 && !reported)
    {
        wrong.push(format!("reported: {reported}, {tally:?}"));
    }
    sum.reported += u64::from(reported);
    sum.tally.arrived += tally.arrived;
    sum.tally.lost += tally.lost;
    sum.tally.duplicated += tally.duplicated;
    Ok((!wrong.is_empty()).then(|| wrong.join("; ")))
}

/// Lets a relay deliver what it finds in the queue below `dir`.
fn deliver(dir: &Path, ledger: &Ledger) -> Told<Tally> {
    let clock = Clock::start();
    let ledger = Arc::new(ledger.copy());
    let sink = SinkPlan::new(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
    let sink = Sink::start(&sink, Book::of(Arc::clone(&ledger)), clock).map_err(|error| error.to_string())?;
    let setting = Setting::new(dir, Vec::new()).set("shards", 1).set("tls.offer", false);
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
    if !ended.is_some_and(|status| status.success()) {
        return Err(format!("the relay ended with {ended:?}"));
    }
    Ok(ledger.tally())
}
