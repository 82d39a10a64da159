//! The clock jumps, leaps and stands still, and the machine sleeps: under load nothing is lost, sent twice or given up,
//! and what waits for a retry is tried neither all at once nor never.
//!
//! The relay's wall clock is moved by a small library that is preloaded into it (`shims/clock.c`) and adds to what
//! `clock_gettime` says of CLOCK_REALTIME, from the very next reading on. (A time namespace moves only the monotonic
//! clock, and only once; the machine's own clock belongs to others, too.) A suspend is what it is to a process: it is
//! stopped, its monotonic clock goes on by moments, and the wall clock by a day.

use std::collections::HashSet;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use loadgen::client::Pipeline;
use loadgen::clock::Clock;
use loadgen::send::SendPlan;
use loadgen::sink::faults::{Denial, Faults};
use loadgen::sink::{Book, Sink, SinkPlan};
use ringpost::queue::spool::{self, SpoolError};

use crate::crash::{awkward, mixed};
use crate::proxy::{Proxy, Weather};
use crate::stage::{Load, Setting, Stage, Told, free_address};
use crate::wall_clock::WallClock;
use crate::{Campaign, SKIPPED, run_parts, scratch};

const DAY_MS: i64 = 86_400_000;
const SETTLE_LONGEST: Duration = Duration::from_secs(120);
/// Mail goes on so soon after whatever happened to the clock.
const GOES_ON_LONGEST: Duration = Duration::from_secs(60);
/// Retries of messages that were deferred together come at most so crowded in half a second.
const CROWDED: f64 = 0.6;
/// The pause before a retry where a campaign waits for it.
const RETRY_MS: u64 = 4000;

/// A wall clock with its library; the reason begins with [`SKIPPED`] where there is no C compiler.
fn wall_clock(dir: &Path) -> Told<WallClock> {
    let clock = WallClock::make(dir).map_err(told)?;
    compile(&WallClock::source(), &clock.library)?;
    Ok(clock)
}

fn told(error: io::Error) -> String {
    format!("the clock: {error}")
}

fn environment(clock: &WallClock) -> Vec<(String, String)> {
    clock.environment().map(|(name, path)| (name.into(), path.to_string_lossy().into_owned())).into()
}

/// Builds one of the libraries that are preloaded.
pub(crate) fn compile(source: &Path, library: &Path) -> Told<()> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join(source);
    let output = Command::new("cc").args(["-O2", "-Wall", "-shared", "-fPIC", "-o"]).arg(library).arg(&source).output();
    let output = output.map_err(|error| format!("{SKIPPED}no C compiler: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("{}: {}", source.display(), String::from_utf8_lossy(&output.stderr)))
}

pub(crate) fn run(campaign: &Campaign) -> Told<Vec<String>> {
    run_parts(campaign, &[("load", under_load), ("waiting", waiting)])
}

// ---- under load ----

/// Something that happens to the clock while mail goes through.
struct Trouble {
    name: &'static str,
    /// How the wall clock is off from then on.
    off_ms: i64,
    /// The process is stopped for so long, and the clock is moved meanwhile.
    stopped: Duration,
}

fn troubles(campaign: &Campaign) -> Vec<Trouble> {
    let trouble = |name, off_ms, stopped| Trouble { name, off_ms, stopped };
    let minute = Duration::from_secs(if campaign.short { 1 } else { 60 });
    let moment = Duration::from_secs(if campaign.short { 1 } else { 3 });
    vec![
        trouble("a day forward", DAY_MS, Duration::ZERO),
        trouble("a leap second, inserted", DAY_MS - 1000, Duration::ZERO),
        trouble("a leap second, left out", DAY_MS, Duration::ZERO),
        trouble("two days back", -DAY_MS, Duration::ZERO),
        trouble("suspended for a day", 0, moment),
        trouble("stopped for a while (SIGSTOP)", 0, minute),
        trouble("suspended for a day again", DAY_MS, moment),
        trouble("right again", 0, Duration::ZERO),
    ]
}

fn under_load(campaign: &Campaign) -> Told<Vec<String>> {
    let rounds = campaign.rounds.unwrap_or(1);
    let dir = scratch()?;
    let clock = wall_clock(dir.path())?;
    let mut setting = Setting::new(dir.path(), mixed(campaign.seed))
        .set("shards", 2)
        .set("queue.segment_bytes", 8 << 20)
        .set("queue.memory_bytes", 4 << 20);
    setting.environment = environment(&clock);
    setting.sink.faults = awkward();
    setting.sink.seed = campaign.seed;
    let mut stage = Stage::open(&setting)?;
    stage.load()?;
    let mut broken = Vec::new();
    for round in 1..=rounds {
        for trouble in troubles(campaign) {
            stage.play(Duration::from_millis(if campaign.short { 300 } else { 3000 }))?;
            if trouble.stopped.is_zero() {
                clock.set(trouble.off_ms).map_err(told)?;
            } else {
                stage.signal(libc::SIGSTOP)?;
                stage.play(trouble.stopped / 2)?;
                clock.set(trouble.off_ms).map_err(told)?;
                stage.play(trouble.stopped / 2)?;
                stage.signal(libc::SIGCONT)?;
            }
            let (begun, accepted, arrived) = (Instant::now(), stage.sent().acknowledged, stage.sink().recipients);
            let goes_on =
                |stage: &Stage| stage.sent().acknowledged > accepted + 50 && stage.sink().recipients > arrived + 50;
            if stage.until(GOES_ON_LONGEST, goes_on)? {
                println!("{}: goes on after {:.2} s", trouble.name, begun.elapsed().as_secs_f64());
            } else {
                broken.push(format!("round {round}: {}: no mail goes through", trouble.name));
            }
        }
    }
    stage.end_loads(SETTLE_LONGEST)?;
    stage.settle(SETTLE_LONGEST, &HashSet::new())?;
    let outcome = stage.close(&HashSet::new())?;
    broken.extend(outcome.judge(0));
    if outcome.bounced() > 0 {
        broken.push(format!("{} recipients given up", outcome.bounced()));
    }
    Ok(broken)
}

// ---- mail that waits for its next attempt ----

/// A next hop that can be one that takes nothing for now, or the stage's own.
struct NextHop {
    address: SocketAddr,
    good: SocketAddr,
    deferring: Sink,
    way: Option<Proxy>,
}

impl NextHop {
    fn start(good: SocketAddr) -> Told<NextHop> {
        let mut plan = SinkPlan::new(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
        plan.faults = Faults { rcpt: Denial { defer: 1.0, ..Denial::default() }, ..Faults::default() };
        let deferring =
            Sink::start(&plan, Book::open(), Clock::start()).map_err(|error| format!("no sink: {error}"))?;
        Ok(NextHop { address: free_address(), good, deferring, way: None })
    }

    fn defers(&mut self, defers: bool, seed: u64) -> Told<()> {
        self.way = None;
        let to = if defers { self.deferring.addresses()[0] } else { self.good };
        self.way = Some(Proxy::start(self.address, to, Weather::default(), seed)?);
        Ok(())
    }

    /// Attempts that were told to come again.
    fn deferred(&self) -> u64 {
        self.deferring.counts().faults
    }
}

fn waiting(campaign: &Campaign) -> Told<Vec<String>> {
    let count = campaign.option("messages")?.unwrap_or(if campaign.short { 200 } else { 5000u64 });
    let mut broken = Vec::new();
    for (name, off_ms, retry_ms) in [("a day forward", DAY_MS, 600_000), ("a day back", -DAY_MS, RETRY_MS)] {
        let more = wait_through(campaign, count, off_ms, retry_ms)?;
        broken.extend(more.into_iter().map(|text| format!("{name}: {text}")));
    }
    Ok(broken)
}

/// Recipients in a queue that were tried, as its disk has it.
fn deferred_on_disk(queue: &Path) -> Result<u64, SpoolError> {
    let recipients = spool::list(queue)?.into_iter().flat_map(|listed| listed.message.recipients);
    Ok(recipients.filter(|recipient| recipient.attempts > 0).count() as u64)
}

/// Messages that were all deferred, with an hour to live. The clock jumps while the relay runs: nothing is tried before
/// its time. It is stopped and started: what is overdue by a day is tried before it is given up, and what would have to
/// wait for a day is tried within the pause of a retry, not all at one moment.
fn wait_through(campaign: &Campaign, count: u64, off_ms: i64, retry_ms: u64) -> Told<Vec<String>> {
    let dir = scratch()?;
    let clock = wall_clock(dir.path())?;
    let plan = SendPlan {
        sessions: 20,
        messages: count,
        duration: Duration::ZERO,
        sizes: "1KiB".parse().expect("sizes"),
        pipeline: Pipeline::Group,
        seed: campaign.seed,
        ..SendPlan::default()
    };
    let good = free_address();
    let mut next_hop = NextHop::start(good)?;
    let mut setting = Setting::new(dir.path(), vec![Load::new("deferred", plan)])
        .set("shards", 2)
        .set("queue.segment_bytes", 8 << 20)
        .set("retry.first_ms", retry_ms)
        .set("retry.longest_ms", retry_ms)
        .set("retry.expire_ms", 3_600_000);
    let queue = dir.path().join("queue");
    setting.sink = SinkPlan::new(good);
    setting.next_hop = Some(next_hop.address);
    setting.environment = environment(&clock);
    next_hop.defers(true, campaign.seed)?;
    let mut stage = Stage::open(&setting)?;
    stage.load()?;
    stage.end_loads_when_sent(SETTLE_LONGEST)?;
    let mut broken = Vec::new();
    // The next retry is by the clock that holds when the relay hears of the deferral, and not when the next hop says it.
    let mut noted = 0;
    let all = |_: &Stage| {
        next_hop.deferred() >= count && {
            noted = deferred_on_disk(&queue).unwrap_or_default();
            noted >= count
        }
    };
    if !stage.until(SETTLE_LONGEST, all)? {
        return Err(format!("only {} of {count} were deferred, {noted} as the queue has it", next_hop.deferred()));
    }
    // While it runs.
    if retry_ms > RETRY_MS {
        for off_ms in [off_ms, -off_ms, off_ms] {
            let before = next_hop.deferred();
            clock.set(off_ms).map_err(told)?;
            stage.play(Duration::from_millis(1500))?;
            let again = next_hop.deferred() - before;
            println!("the clock is {} h off: {again} attempts in 1.5 s", off_ms / 3_600_000);
            if again > 0 {
                broken.push(format!("{again} attempts before their time"));
            }
        }
    }
    // Over a restart.
    stage.stop_relay()?;
    clock.set(off_ms).map_err(told)?;
    next_hop.defers(false, campaign.seed)?;
    stage.start_relay()?;
    let (begun, mut moments) = (Instant::now(), Vec::new());
    let longest = Duration::from_millis(RETRY_MS * 5 / 4) + SETTLE_LONGEST;
    while stage.sink().recipients < count && begun.elapsed() < longest {
        stage.play(Duration::from_millis(50))?;
        moments.push(stage.sink().recipients);
    }
    let crowd =
        moments.iter().enumerate().map(|(at, &now)| now - at.checked_sub(10).map_or(0, |before| moments[before]));
    let crowd = crowd.max().unwrap_or(0) as f64 / count as f64;
    println!(
        "{count} messages deferred, started with the clock {} h off: all arrived after {:.1} s, at most {:.0} % in half a second",
        off_ms / 3_600_000,
        begun.elapsed().as_secs_f64(),
        crowd * 100.0
    );
    // A slice among other tests says nothing about moments.
    if off_ms < 0 && crowd > CROWDED && !campaign.short {
        broken.push(format!("{:.0} % of the retries came in half a second", crowd * 100.0));
    }
    stage.settle(SETTLE_LONGEST, &HashSet::new())?;
    let outcome = stage.close(&HashSet::new())?;
    broken.extend(outcome.judge(0));
    if outcome.bounced() > 0 {
        broken.push(format!("{} recipients given up", outcome.bounced()));
    }
    Ok(broken)
}
