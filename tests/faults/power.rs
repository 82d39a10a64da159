//! The power is cut at random moments under load: on ext4 and xfs by the ioctl that stops the file system without
//! writing its journal, and on a file system of our own that loses, sector by sector, whatever was not synced; and at
//! the flushes themselves, by playing back what a block device was told (`replay`).
//!
//! The ioctl races with syncs in flight: one may report success for data that is gone. How often is measured beside the
//! relay by a writer that does nothing but write and sync. So acknowledgements from the begin of the ioctl until 0.1 s
//! after its end, when the relay is killed, promise nothing; all earlier ones must hold. That writer's must, too: if they
//! do not, it is the machine that forgets what it called synced, and the run shows nothing of the relay.

use std::collections::HashSet;
use std::fs::OpenOptions;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use loadgen::client::Pipeline;
use loadgen::rng::Rng;
use loadgen::schedule::Schedule;
use loadgen::send::SendPlan;

use crate::crash::awkward;
use crate::ram::RamVolume;
use crate::stage::{Load, Setting, Stage, Told};
use crate::volume::{Kind, Volume};
use crate::{Campaign, SKIPPED, replay, scratch};

const CUTS: u64 = 200;
const SHORTEST_MS: u64 = 100;
const LONGEST_MS: u64 = 1000;
const AFTER: Duration = Duration::from_millis(100);
const VOLUME_BYTES: u64 = 512 << 20;
const SETTLE_LONGEST: Duration = Duration::from_secs(120);

const BLOCK_BYTES: usize = 4096;
const BLOCKS: u64 = 1024;

/// What the power can be taken from.
enum Place {
    Disk(Volume),
    Ram(RamVolume),
}

impl Place {
    fn path(&self) -> PathBuf {
        match self {
            Place::Disk(volume) => volume.path(),
            Place::Ram(volume) => volume.path(),
        }
    }
}

pub(crate) fn run(campaign: &Campaign) -> Told<Vec<String>> {
    let wanted = campaign.option::<String>("fs")?;
    let mut broken = Vec::new();
    let mut ran = 0;
    for name in ["ext4", "xfs", "volatile", "ext4-replayed", "xfs-replayed"] {
        if wanted.as_ref().is_some_and(|wanted| wanted != name)
            || (campaign.short && !["ext4", "volatile"].contains(&name))
        {
            continue;
        }
        println!("-- {name}");
        if let Some(kind) = name.strip_suffix("-replayed") {
            let kind = if kind == "xfs" { Kind::Xfs } else { Kind::Ext4 };
            broken.extend(replay::run(campaign, kind)?.into_iter().map(|text| format!("{name}: {text}")));
            ran += 1;
            continue;
        }
        let place = match name {
            "ext4" => Volume::make(Kind::Ext4, VOLUME_BYTES, &[]).map(Place::Disk),
            "xfs" => Volume::make(Kind::Xfs, VOLUME_BYTES, &[]).map(Place::Disk),
            _ => RamVolume::mount(campaign.seed).map(Place::Ram),
        };
        match place {
            Ok(place) => broken.extend(cut(campaign, place)?.into_iter().map(|text| format!("{name}: {text}"))),
            Err(text) if campaign.short && text.starts_with(SKIPPED) => {
                println!("{text}");
                continue;
            }
            Err(text) => return Err(text),
        }
        ran += 1;
    }
    if ran == 0 { Err(format!("{SKIPPED}no file system to cut the power of")) } else { Ok(broken) }
}

fn load(seed: u64) -> Vec<Load> {
    let plan = |sessions, rate, sizes: &str, recipients| SendPlan {
        sessions,
        schedule: Some(Schedule::constant(rate)),
        // Until it is told to end.
        duration: Duration::from_secs(86_400),
        sizes: sizes.parse().expect("sizes"),
        recipients,
        pipeline: Pipeline::Group,
        seed,
        ..SendPlan::default()
    };
    vec![
        Load::new("small", plan(24, 300.0, "1KiB:70,10KiB:30", 2)),
        Load::new("large", plan(4, 5.0, "200KiB:80,1MiB:20", 1)),
    ]
}

fn cut(campaign: &Campaign, mut place: Place) -> Told<Vec<String>> {
    let cuts = campaign.rounds.unwrap_or(if campaign.short { 3 } else { CUTS });
    let dir = scratch()?;
    let mut setting = Setting::new(dir.path(), load(campaign.seed))
        .set("shards", 2)
        .set("queue.dir", place.path().join("queue").display())
        .set("queue.segment_bytes", 8 << 20)
        .set("queue.segments", 16)
        .set("queue.memory_bytes", 4 << 20);
    setting.sink.faults = awkward();
    setting.sink.seed = campaign.seed;
    let mut stage = Stage::open(&setting)?;
    stage.load()?;
    let mut rng = Rng::new(campaign.seed);
    let (mut excused, mut control, mut slowest) = (HashSet::new(), Control::default(), Duration::ZERO);
    for round in 1..=cuts {
        let told = |text: String| format!("cut {round}: {text}");
        let writer = match &place {
            Place::Disk(volume) => Some(Writer::start(&volume.path())?),
            Place::Ram(_) => None,
        };
        stage.play(Duration::from_millis(SHORTEST_MS + rng.below(LONGEST_MS - SHORTEST_MS))).map_err(told)?;
        let before = stage.snapshot();
        let begun = Instant::now();
        match &place {
            Place::Disk(volume) => volume.cut().map_err(told)?,
            Place::Ram(volume) => volume.cut(),
        }
        let ended = Instant::now();
        slowest = slowest.max(ended - begun);
        if matches!(place, Place::Disk(_)) {
            std::thread::sleep(AFTER);
        }
        stage.kill_failing_since(begun);
        // A file system of our own does not race: it loses nothing that it called synced.
        if matches!(place, Place::Disk(_)) {
            excused.extend(stage.acknowledged_since(&before));
        }
        let written = writer.map(Writer::end);
        match &mut place {
            Place::Disk(volume) => volume.remount().map_err(told)?,
            Place::Ram(volume) => volume.restore(),
        }
        if let Some(written) = written {
            control.check(&place.path(), &written, begun, ended).map_err(told)?;
        }
        stage.start_relay().map_err(told)?;
        if round % 50 == 0 {
            println!("{round} cuts, {} messages acknowledged", stage.sent().acknowledged);
        }
    }
    stage.end_loads(SETTLE_LONGEST)?;
    stage.settle(SETTLE_LONGEST, &excused)?;
    let gone = stage.lost(&HashSet::new()).len() - stage.lost(&excused).len();
    let outcome = stage.close(&excused)?;
    println!("{cuts} cuts, the slowest took {:.1} ms", slowest.as_secs_f64() * 1e3);
    if matches!(place, Place::Disk(_)) {
        println!("{control}");
        println!(
            "acknowledged within the windows: {}, of these lost: {gone} (a loss there is the ioctl's, not the relay's)",
            excused.len()
        );
    }
    println!("duplicates: {}; recipients in flight at the cuts: at most {}", outcome.duplicated(), outcome.in_flight);
    let mut broken = outcome.judge_failing(outcome.in_flight);
    if control.gone_outside > 0 {
        let text = format!(
            "the machine does not keep its word: the bare writer lost {} blocks that were synced outside the windows",
            control.gone_outside
        );
        println!("{text}");
        broken.push(text);
    }
    Ok(broken)
}

/// What the bare writer found over all cuts.
#[derive(Default)]
struct Control {
    written: u64,
    in_window: u64,
    gone_outside: u64,
    gone_in_window: u64,
    latest: Duration,
}

impl std::fmt::Display for Control {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "bare writer: {} blocks written and synced, {} of them within the windows, {} of those gone; {} gone that \
             were synced outside; the last success came {:.1} ms after the begin of its cut",
            self.written,
            self.in_window,
            self.gone_in_window,
            self.gone_outside,
            self.latest.as_secs_f64() * 1e3
        )
    }
}

impl Control {
    fn check(&mut self, place: &Path, written: &[(u64, Instant)], begun: Instant, ended: Instant) -> Told<()> {
        let failed = |error: std::io::Error| format!("the bare writer's file: {error}");
        let file = OpenOptions::new().read(true).open(place.join("control")).map_err(failed)?;
        for (number, at) in written {
            self.written += 1;
            let in_window = *at >= begun && *at <= ended + AFTER * 2;
            self.in_window += u64::from(in_window);
            if in_window {
                self.latest = self.latest.max(*at - begun);
            }
            let mut head = [0; 8];
            file.read_exact_at(&mut head, number % BLOCKS * BLOCK_BYTES as u64).map_err(failed)?;
            if u64::from_le_bytes(head) < *number {
                *(if in_window { &mut self.gone_in_window } else { &mut self.gone_outside }) += 1;
            }
        }
        Ok(())
    }
}

/// Writes numbered blocks as the relay does, each synced, and notes when each was told to be safe.
struct Writer {
    over: Arc<AtomicBool>,
    thread: JoinHandle<Vec<(u64, Instant)>>,
}

#[repr(align(4096))]
struct Aligned([u8; BLOCK_BYTES]);

impl Writer {
    fn start(place: &Path) -> Told<Writer> {
        let failed = |error: std::io::Error| format!("the bare writer's file: {error}");
        let path = place.join("control");
        if !path.exists() {
            let zeros = vec![0; BLOCK_BYTES * BLOCKS as usize];
            std::fs::write(&path, zeros).map_err(failed)?;
            std::fs::File::open(&path).and_then(|file| file.sync_all()).map_err(failed)?;
            std::fs::File::open(place).and_then(|dir| dir.sync_all()).map_err(failed)?;
        }
        let file = OpenOptions::new().read(true).write(true).custom_flags(libc::O_DIRECT | libc::O_DSYNC).open(&path);
        let file = file.map_err(failed)?;
        let over = Arc::new(AtomicBool::new(false));
        let ended = Arc::clone(&over);
        let thread = std::thread::spawn(move || {
            let mut block = Box::new(Aligned([0; BLOCK_BYTES]));
            let mut number = match (file.read_exact_at(&mut block.0, 0), u64::from_le_bytes(first(&block.0))) {
                (Ok(()), highest) => highest + BLOCKS,
                (Err(_), _) => return Vec::new(),
            };
            let mut written = Vec::new();
            while !ended.load(Ordering::Relaxed) {
                number += 1;
                block.0[..8].copy_from_slice(&number.to_le_bytes());
                if file.write_all_at(&block.0, number % BLOCKS * BLOCK_BYTES as u64).is_err() {
                    break;
                }
                written.push((number, Instant::now()));
                // Beside the relay, not in its way.
                std::thread::sleep(Duration::from_micros(500));
            }
            // Of blocks written more than once only the last is to be found.
            let from = written.len().saturating_sub(BLOCKS as usize);
            written.split_off(from)
        });
        Ok(Writer { over, thread })
    }

    fn end(self) -> Vec<(u64, Instant)> {
        self.over.store(true, Ordering::Relaxed);
        self.thread.join().expect("the bare writer does not panic")
    }
}

fn first(block: &[u8; BLOCK_BYTES]) -> [u8; 8] {
    block[..8].try_into().expect("eight bytes")
}
