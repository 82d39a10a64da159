//! A relay, its sink and its loads, held together over many lives of the relay; and the ledger at the end.
//!
//! The thread that opens a stage is the relay's parent and must live as long. Loads send by themselves; what the campaign
//! does meanwhile it does between calls of [`Stage::play`], which looks after the relay and remembers how fast mail came
//! out, so that at a kill the recipients in flight can be counted.

use std::collections::{HashSet, VecDeque};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use loadgen::clock::Clock;
use loadgen::ledger::{Ledger, Tally};
use loadgen::relay::Relay;
use loadgen::rng::Rng;
use loadgen::send::{SendCounts, SendPlan, Sender};
use loadgen::sink::{Book, Sink, SinkCounts, SinkPlan};

/// What cannot go on, in words.
pub(crate) type Told<T> = Result<T, String>;

const STEP: Duration = Duration::from_millis(5);
/// Recipients that came out in so long before the sink has read the last of a killed relay may have verdicts that are
/// not durable: 10 ms that a verdict waits for company, and what a commit, the sink's own delay, and this thread's
/// turn take on a busy machine.
const WINDOW: Duration = Duration::from_millis(150);
/// Arrivals are remembered for so long.
const KEPT: Duration = Duration::from_secs(5);
/// Without arrivals for so long nothing more is expected.
const QUIET: Duration = Duration::from_secs(2);
const START_LONGEST: Duration = Duration::from_secs(60);
const END_LONGEST: Duration = Duration::from_secs(60);

/// The promise broken by a run that shows nothing.
pub(crate) const NOTHING_TAKEN: &str = "no mail went through";

/// A load and its name.
#[derive(Clone)]
pub(crate) struct Load {
    pub(crate) name: &'static str,
    pub(crate) plan: SendPlan,
}

impl Load {
    pub(crate) fn new(name: &'static str, plan: SendPlan) -> Load {
        Load { name, plan }
    }
}

/// What a stage is made of.
pub(crate) struct Setting {
    /// For the relay's words and, unless a setting says otherwise, its queue.
    pub(crate) dir: PathBuf,
    /// Settings of the relay beside those that every campaign has.
    pub(crate) sets: Vec<String>,
    pub(crate) loads: Vec<Load>,
    pub(crate) sink: SinkPlan,
    /// Where the relay sends to, if not to the sink.
    pub(crate) next_hop: Option<SocketAddr>,
    /// Where the loads go, if not to the relay.
    pub(crate) entrance: Option<SocketAddr>,
    /// Where the relay listens, if that matters.
    pub(crate) listen: SocketAddr,
    /// The relay's program, if not the usual one.
    pub(crate) program: PathBuf,
    /// The file that it reads its configuration from, if it does; settings are above it.
    pub(crate) config: Option<PathBuf>,
    /// What its environment has beside ours.
    pub(crate) environment: Vec<(String, String)>,
    /// The core that the relay alone runs on.
    pub(crate) core: Option<usize>,
}

impl Setting {
    pub(crate) fn new(dir: &Path, loads: Vec<Load>) -> Setting {
        let sink = SinkPlan::new(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
        Setting {
            dir: dir.to_owned(),
            sets: Vec::new(),
            loads,
            sink,
            next_hop: None,
            entrance: None,
            listen: free_address(),
            program: program(),
            config: None,
            environment: Vec::new(),
            core: None,
        }
    }

    pub(crate) fn set(mut self, key: &str, value: impl ToString) -> Setting {
        self.sets.push(format!("{key}={}", value.to_string()));
        self
    }
}

/// The relay's program: what `RINGPOST` names, or the one built with the tests.
pub(crate) fn program() -> PathBuf {
    std::env::var_os("RINGPOST").map_or_else(|| env!("CARGO_BIN_EXE_ringpost").into(), PathBuf::from)
}

/// A port that nobody listens on.
pub(crate) fn free_address() -> SocketAddr {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|listener| listener.local_addr()).expect("loopback has ports")
}

struct Running {
    load: Load,
    ledger: Arc<Ledger>,
    sender: Option<Sender>,
    counts: SendCounts,
    /// By place in the ledger, of what came in lives of the relay that are over: how many copies, and in which life the last.
    came: Vec<(u8, u32)>,
}

/// A kill, and what it cost.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Kill {
    /// The most recipients that could be in flight.
    pub(crate) in_flight: u64,
    /// Recipients that came once more though they had come in the life that it ended, and not before.
    pub(crate) repeated: u64,
}

/// See the page's head.
pub(crate) struct Stage {
    clock: Clock,
    queue: PathBuf,
    relay: Relay,
    listen: SocketAddr,
    entrance: SocketAddr,
    sink: Option<Sink>,
    loads: Vec<Running>,
    /// Recipients arrived, by time; as far back as [`KEPT`].
    arrivals: VecDeque<(Instant, u64)>,
    /// The kills so far; each ends a life, which has its number.
    kills: Vec<Kill>,
    slowest_start: Duration,
}

impl Stage {
    /// Starts all but the loads.
    pub(crate) fn open(setting: &Setting) -> Told<Stage> {
        loadgen::system::raise_file_limit();
        let clock = Clock::start();
        let seed = clock.now_ns() ^ u64::from(std::process::id()) << 40;
        let mut rng = Rng::new(seed);
        let running = |load: &Load| Running {
            load: load.clone(),
            ledger: Arc::new(Ledger::new(rng.next_u64(), load.plan.recipients)),
            sender: None,
            counts: SendCounts::default(),
            came: Vec::new(),
        };
        let loads: Vec<Running> = setting.loads.iter().map(running).collect();
        let book = Book::of_all(loads.iter().map(|load| Arc::clone(&load.ledger)).collect());
        let sink = Sink::start(&setting.sink, book, clock).map_err(|error| format!("no sink: {error}"))?;
        let begun = Instant::now();
        let relay = relay_for(setting, setting.next_hop.unwrap_or(sink.addresses()[0]))?;
        let listen = setting.listen;
        let set = |key: &str| setting.sets.iter().rev().find_map(|set| set.strip_prefix(key)?.strip_prefix('='));
        let queue = set("queue.dir").map_or_else(|| setting.dir.join("queue"), PathBuf::from);
        Ok(Stage {
            clock,
            queue,
            relay,
            listen,
            entrance: setting.entrance.unwrap_or(listen),
            sink: Some(sink),
            loads,
            arrivals: VecDeque::new(),
            kills: Vec::new(),
            slowest_start: begun.elapsed(),
        })
    }

    /// Starts the loads.
    pub(crate) fn load(&mut self) -> Told<()> {
        for running in &mut self.loads {
            let sender = Sender::start(&running.load.plan, self.entrance, Arc::clone(&running.ledger), self.clock);
            running.sender = Some(sender.map_err(|error| format!("no load {}: {error}", running.load.name))?);
        }
        Ok(())
    }

    /// Where the relay listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.listen
    }

    /// The relay's process.
    pub(crate) fn pid(&self) -> Told<u32> {
        self.relay.pid().ok_or_else(|| "the relay does not run".to_owned())
    }

    /// Goes on for so long; an error if the relay ends by itself.
    pub(crate) fn play(&mut self, time: Duration) -> Told<()> {
        self.until(time, |_| false).map(|_| ())
    }

    /// Goes on until `done`, or for so long; tells whether it was done.
    pub(crate) fn until(&mut self, longest: Duration, mut done: impl FnMut(&Stage) -> bool) -> Told<bool> {
        let end = Instant::now() + longest;
        loop {
            if done(self) {
                return Ok(true);
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(false);
            }
            std::thread::sleep(left.min(STEP));
            self.note_arrivals();
            if !self.relay.is_running() {
                return Err("the relay ended by itself".into());
            }
        }
    }

    fn note_arrivals(&mut self) {
        let now = Instant::now();
        let arrived = self.sink().recipients;
        self.arrivals.push_back((now, arrived));
        while self.arrivals.len() > 1 && now.duration_since(self.arrivals[1].0) >= KEPT {
            self.arrivals.pop_front();
        }
    }

    /// SIGKILL; what may be in flight now is added to what duplicates are measured by.
    pub(crate) fn kill(&mut self) {
        self.kill_failing_since(Instant::now());
    }

    /// The same, where the disk took no verdict since `failing`.
    pub(crate) fn kill_failing_since(&mut self, failing: Instant) {
        self.relay.kill();
        // What it had sent and the sink has not read yet arrives too.
        std::thread::sleep(STEP * 10);
        self.note_arrivals();
        let before = self.arrivals.iter().rev().find(|(at, _)| *at + WINDOW <= failing).or(self.arrivals.front());
        let in_flight = before.zip(self.arrivals.back()).map_or(0, |(before, last)| last.1 - before.1);
        self.note_repeats();
        self.kills.push(Kill { in_flight, repeated: 0 });
        self.arrivals.drain(..self.arrivals.len() - 1);
    }

    /// At the end of a life: a recipient that came in it and in an earlier one came again because of the kill that ended the last
    /// such life, which took its verdict. What came twice within a life is no kill's work.
    fn note_repeats(&mut self) {
        let life = self.kills.len() as u32;
        for running in &mut self.loads {
            for (place, copies) in running.ledger.copies() {
                if running.came.len() <= place {
                    running.came.resize(place + 1, (0, 0));
                }
                let (known, last) = running.came[place];
                if copies > known {
                    if known > 0 {
                        self.kills[last as usize].repeated += 1;
                    }
                    running.came[place] = (copies, life);
                }
            }
        }
    }

    /// Sends a signal.
    pub(crate) fn signal(&self, signal: libc::c_int) -> Told<()> {
        let pid = self.pid()?;
        // SAFETY: plain call; the relay is our child and not waited for yet.
        match unsafe { libc::kill(pid as libc::pid_t, signal) } {
            0 => Ok(()),
            _ => Err(format!("signal {signal}: {}", std::io::Error::last_os_error())),
        }
    }

    /// SIGTERM, and its end by itself with status 0.
    pub(crate) fn stop_relay(&mut self) -> Told<()> {
        match self.relay.end(END_LONGEST) {
            Some(status) if status.success() => Ok(()),
            Some(status) => Err(format!("the relay ended with {status} on SIGTERM")),
            None => Err(format!("the relay did not end within {END_LONGEST:?} of SIGTERM")),
        }
    }

    /// Starts the relay again over the same queue.
    pub(crate) fn start_relay(&mut self) -> Told<()> {
        let begun = Instant::now();
        let started = self.relay.launch().and_then(|()| self.relay.await_greeting(START_LONGEST));
        self.slowest_start = self.slowest_start.max(begun.elapsed());
        started.map_err(|error| error.to_string())
    }

    /// CPU that the relay used so far, in nanoseconds.
    pub(crate) fn relay_cpu_ns(&mut self) -> u64 {
        self.relay.usage().cpu.total_ns()
    }

    /// Memory and descriptors of the relay now.
    pub(crate) fn size(&self) -> Told<Size> {
        let pid = self.pid()?;
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).map_err(|error| error.to_string())?;
        let kib =
            status.lines().find_map(|line| line.strip_prefix("RssAnon:")?.trim().strip_suffix(" kB")?.parse().ok());
        let descriptors = std::fs::read_dir(format!("/proc/{pid}/fd")).map_err(|error| error.to_string())?.count();
        Ok(Size { memory_bytes: kib.unwrap_or(0u64) * 1024, descriptors: descriptors as u64 })
    }

    /// What the loads know so far, for [`Stage::acknowledged_since`].
    pub(crate) fn snapshot(&self) -> Vec<Ledger> {
        self.loads.iter().map(|running| running.ledger.copy()).collect()
    }

    /// Recipients acknowledged since, as (load, message, index).
    pub(crate) fn acknowledged_since(&self, before: &[Ledger]) -> Vec<(usize, u64, u32)> {
        let since = self.loads.iter().zip(before).enumerate().map(|(load, (running, before))| {
            let places = running.ledger.acknowledged_since(before).into_iter();
            places.map(move |(message, recipient)| (load, message, recipient)).collect::<Vec<_>>()
        });
        since.flatten().collect()
    }

    /// A further sink for the same mail.
    pub(crate) fn another_sink(&self, listen: SocketAddr) -> Told<Sink> {
        let book = Book::of_all(self.loads.iter().map(|running| Arc::clone(&running.ledger)).collect());
        Sink::start(&SinkPlan::new(listen), book, self.clock).map_err(|error| format!("no further sink: {error}"))
    }

    /// Recipients of a load that have arrived.
    pub(crate) fn arrived(&self, load: usize) -> u64 {
        self.loads[load].ledger.tally().arrived
    }

    /// Recipients of a load that are acknowledged and have not arrived.
    pub(crate) fn waiting(&self, load: usize) -> u64 {
        self.loads[load].ledger.tally().lost
    }

    /// Counts of all loads together.
    pub(crate) fn sent(&self) -> SendCounts {
        let mut sum = SendCounts::default();
        for running in &self.loads {
            let counts = running.sender.as_ref().map_or(running.counts, Sender::counts);
            sum.started += counts.started;
            sum.acknowledged += counts.acknowledged;
            sum.refused += counts.refused;
            sum.deferred += counts.deferred;
            sum.broken += counts.broken;
            sum.connections_lost += counts.connections_lost;
            sum.missed_starts += counts.missed_starts;
        }
        sum
    }

    /// Counts of the sink.
    pub(crate) fn sink(&self) -> SinkCounts {
        self.sink.as_ref().map(Sink::counts).unwrap_or_default()
    }

    /// Ends the loads: nothing new is begun, and what is on its way has its answer.
    pub(crate) fn end_loads(&mut self, longest: Duration) -> Told<()> {
        self.loads.iter().filter_map(|running| running.sender.as_ref()).for_each(Sender::stop);
        self.end_loads_when_sent(longest)
    }

    /// Waits until loads of a given number of messages have their answers.
    pub(crate) fn end_loads_when_sent(&mut self, longest: Duration) -> Told<()> {
        let done = |stage: &Stage| stage.loads.iter().all(|load| load.sender.as_ref().is_none_or(Sender::is_done));
        if !self.until(longest, done)? {
            return Err(format!("the loads have no answers {longest:?} after their end"));
        }
        for running in &mut self.loads {
            if let Some(sender) = running.sender.take() {
                running.counts = sender.finish().0;
            }
        }
        Ok(())
    }

    /// Waits until all that was acknowledged (but for `excused`) has arrived or bounced, and nothing more comes.
    pub(crate) fn settle(&mut self, longest: Duration, excused: &HashSet<(usize, u64, u32)>) -> Told<()> {
        self.settle_until(longest, QUIET, excused)
    }

    /// The same, where little is on its way: that comes to rest sooner than the log, from which a failure may have kept verdicts for a
    /// while, so it is looked into until nothing is left there.
    pub(crate) fn settle_quickly(&mut self, longest: Duration, quiet: Duration) -> Told<()> {
        let end = Instant::now() + longest;
        self.settle_until(longest, quiet, &HashSet::new())?;
        while spool_report(&self.queue)?.messages > 0 && Instant::now() < end {
            self.play(quiet)?;
        }
        Ok(())
    }

    fn settle_until(&mut self, longest: Duration, quiet: Duration, excused: &HashSet<(usize, u64, u32)>) -> Told<()> {
        let begun = Instant::now();
        let end = begun + longest;
        let settled = |stage: &Stage| stage.lost(excused).is_empty();
        if !self.until(longest, settled)? {
            return Ok(());
        }
        loop {
            let arrived = self.sink().recipients;
            self.play(quiet)?;
            if self.sink().recipients == arrived || Instant::now() > end {
                return Ok(());
            }
        }
    }

    /// Recipients that are lost as things stand, but for those excused.
    pub(crate) fn lost(&self, excused: &HashSet<(usize, u64, u32)>) -> Vec<(usize, u64, u32)> {
        let lost = self.loads.iter().enumerate().flat_map(|(load, running)| {
            running.ledger.lost().into_iter().map(move |(message, recipient)| (load, message, recipient))
        });
        lost.filter(|place| !excused.contains(place)).collect()
    }

    /// Stops the relay in order, looks into its queue, and draws up the ledger.
    pub(crate) fn close(mut self, excused: &HashSet<(usize, u64, u32)>) -> Told<Outcome> {
        let mut broken = Vec::new();
        if let Err(text) = self.stop_relay() {
            broken.push(text);
        }
        // What the relay sent at its end is read.
        std::thread::sleep(STEP * 20);
        let lost = self.lost(excused);
        let sent = self.sent();
        let sink = self.sink.take().map(|sink| sink.stop().0).unwrap_or_default();
        if !self.kills.is_empty() {
            self.note_repeats();
        }
        let mut ledger = Vec::new();
        for running in &self.loads {
            ledger.push((running.load.name, running.ledger.tally()));
        }
        let report = spool_report(&self.queue)?;
        Ok(Outcome {
            ledger,
            lost,
            in_flight: self.kills.iter().map(|kill| kill.in_flight).sum(),
            kills: self.kills,
            slowest_start: self.slowest_start,
            sent,
            sink,
            left: report.messages,
            damaged: report.damaged,
            broken,
        })
    }
}

/// A relay that greets.
pub(crate) fn relay_for(setting: &Setting, next_hop: SocketAddr) -> Told<Relay> {
    let relay = Relay::start(&command(setting), setting.listen, next_hop, None, &setting.dir, setting.core);
    let mut relay = relay.map_err(|error| error.to_string())?;
    relay.await_greeting(START_LONGEST).map_err(|error| error.to_string())?;
    Ok(relay)
}

fn command(setting: &Setting) -> Vec<String> {
    let mut command = Vec::new();
    if !setting.environment.is_empty() {
        command.push("/usr/bin/env".to_owned());
        command.extend(setting.environment.iter().map(|(name, value)| format!("{name}={value}")));
    }
    command.extend([setting.program.to_string_lossy().into_owned(), "run".into()]);
    let usual = [
        "listen.relay={listen}",
        "listen.http=",
        "relay.hostname=relay.example.com",
        "route.default={sink}",
        "queue.dir={dir}/queue",
        "retry.first_ms=100",
        "retry.longest_ms=1000",
        "retry.site_first_ms=50",
        "retry.site_longest_ms=500",
    ];
    for set in usual.into_iter().map(str::to_owned).chain(setting.sets.iter().cloned()) {
        command.extend(["--set".to_owned(), set]);
    }
    if let Some(config) = &setting.config {
        command.extend(["--config".to_owned(), config.to_string_lossy().into_owned()]);
    }
    command
}

/// What a relay takes of the machine.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Size {
    /// Its own pages in memory, without those of its program's file.
    pub(crate) memory_bytes: u64,
    pub(crate) descriptors: u64,
}

impl Size {
    pub(crate) fn mib(self) -> f64 {
        self.memory_bytes as f64 / f64::from(1 << 20)
    }
}

/// What a spool holds.
pub(crate) struct Spool {
    pub(crate) messages: u64,
    pub(crate) damaged: u64,
}

/// Asks `ringpost spool verify`.
pub(crate) fn spool_report(queue: &Path) -> Told<Spool> {
    let output = Command::new(program()).args(["spool", "verify", "--json"]).arg(queue).output();
    let output = output.map_err(|error| format!("spool verify: {error}"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let report: serde_json::Value = serde_json::from_str(&text)
        .map_err(|error| format!("spool verify: {error}: {text}{}", String::from_utf8_lossy(&output.stderr)))?;
    let shards = report["shards"].as_array().into_iter().flatten();
    let damaged = report["damage"].as_array().map_or(0, |damage| damage.len() as u64);
    // Who asks in a script looks at nothing else.
    if output.status.code() != Some(i32::from(damaged > 0)) {
        return Err(format!("spool verify found {damaged} damaged places and ended with {}", output.status));
    }
    Ok(Spool { messages: shards.filter_map(|shard| shard["messages"].as_u64()).sum(), damaged })
}

/// What came of a stage.
pub(crate) struct Outcome {
    /// By load.
    pub(crate) ledger: Vec<(&'static str, Tally)>,
    pub(crate) lost: Vec<(usize, u64, u32)>,
    pub(crate) kills: Vec<Kill>,
    /// The most recipients that could be in flight at the kills.
    pub(crate) in_flight: u64,
    pub(crate) slowest_start: Duration,
    pub(crate) sent: SendCounts,
    pub(crate) sink: SinkCounts,
    /// Messages still in the queue.
    pub(crate) left: u64,
    /// Damaged places in the queue.
    pub(crate) damaged: u64,
    /// What else went wrong.
    pub(crate) broken: Vec<String>,
}

impl Outcome {
    /// All duplicates.
    pub(crate) fn duplicated(&self) -> u64 {
        self.ledger.iter().map(|(_, tally)| tally.duplicated).sum()
    }

    /// All recipients reported as failed.
    pub(crate) fn bounced(&self) -> u64 {
        self.ledger.iter().map(|(_, tally)| tally.bounced).sum()
    }

    /// All acknowledged recipients.
    pub(crate) fn acknowledged(&self) -> u64 {
        self.ledger.iter().map(|(_, tally)| tally.acknowledged).sum()
    }

    /// Prints what came again after each kill alone; returns the kills that repeated more than was in flight.
    pub(crate) fn judge_kills(&self) -> Vec<String> {
        let share = |kill: &Kill| kill.repeated as f64 / kill.in_flight.max(1) as f64;
        let numbered = || self.kills.iter().zip(1..);
        if let Some((worst, number)) = numbered().max_by(|a, b| share(a.0).total_cmp(&share(b.0))) {
            println!(
                "of the kills alone number {number} is the worst: {} came again, at most {} were in flight",
                worst.repeated, worst.in_flight
            );
        }
        let beyond = numbered().filter(|(kill, _)| kill.repeated > kill.in_flight);
        let told = |(kill, number): (&Kill, u64)| {
            format!("kill {number}: {} duplicates, {} allowed", kill.repeated, kill.in_flight)
        };
        beyond.map(told).collect()
    }

    /// Prints the ledger; returns the promises that did not hold.
    pub(crate) fn judge(&self, duplicates_at_most: u64) -> Vec<String> {
        self.print();
        let mut broken = self.broken_promises(duplicates_at_most);
        for (name, tally) in self.ledger.iter().filter(|(_, tally)| tally.arrived_unbidden > 0) {
            broken.push(format!("{name}: {} recipients arrived though they were refused", tally.arrived_unbidden));
        }
        broken
    }

    /// The same where writes failed and the power went before that was durable: what was refused in such a moment may
    /// come back.
    pub(crate) fn judge_failing(&self, duplicates_at_most: u64) -> Vec<String> {
        self.print();
        let back: u64 = self.ledger.iter().map(|(_, tally)| tally.arrived_unbidden).sum();
        println!("refused, and delivered all the same: {back} recipients");
        self.broken_promises(duplicates_at_most)
    }

    fn print(&self) {
        println!(
            "{} kills, slowest start {:.2} s; {} messages begun, {} acknowledged, {} refused for now, {} cut off; \
             {} bodies at the sink, {} faults made there",
            self.kills.len(),
            self.slowest_start.as_secs_f64(),
            self.sent.started,
            self.sent.acknowledged,
            self.sent.deferred,
            self.sent.broken,
            self.sink.messages,
            self.sink.faults
        );
        println!("ledger, in recipients");
        println!(
            "  {:<16} {:>9} {:>9} {:>9} {:>8} {:>7} {:>5} {:>10} {:>9}",
            "load", "sent", "acked", "arrived", "unknown", "bounced", "lost", "duplicated", "corrupted"
        );
        for (index, (name, tally)) in self.ledger.iter().enumerate() {
            let lost = self.lost.iter().filter(|(load, ..)| *load == index).count();
            println!(
                "  {name:<16} {:>9} {:>9} {:>9} {:>8} {:>7} {lost:>5} {:>10} {:>9}",
                tally.sent,
                tally.acknowledged,
                tally.arrived,
                tally.unknown,
                tally.bounced,
                tally.duplicated,
                tally.corrupted
            );
        }
    }

    /// The promises that did not hold; nothing is printed.
    pub(crate) fn broken_promises(&self, duplicates_at_most: u64) -> Vec<String> {
        let mut broken = self.broken.clone();
        for (name, tally) in &self.ledger {
            if tally.corrupted > 0 {
                broken.push(format!("{name}: {} corrupted", tally.corrupted));
            }
        }
        if !self.lost.is_empty() {
            let some: Vec<_> = self.lost.iter().take(8).collect();
            broken.push(format!("{} recipients lost, among them (load, message, recipient) {some:?}", self.lost.len()));
        }
        if self.duplicated() > duplicates_at_most {
            broken.push(format!("{} duplicates, {duplicates_at_most} allowed", self.duplicated()));
        }
        if self.left > 0 || self.damaged > 0 {
            broken.push(format!("{} messages left in the queue, {} damaged places", self.left, self.damaged));
        }
        if self.acknowledged() == 0 {
            broken.push(NOTHING_TAKEN.into());
        }
        broken
    }
}
