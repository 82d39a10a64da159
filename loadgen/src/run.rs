//! A whole run in one process: sink, relay, load, kills if wanted, drain, ledger.
//!
//! [`run`] holds the calling thread until the end; that thread is the relay's parent and must live as long. The sink and
//! the sender have threads of their own. What goes wrong with the relay is noted in the report where a ledger can still
//! be drawn up, and is an error where it cannot.

pub mod events;

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::clock::{Clock, SECOND_NS, nanos, seconds};
use crate::disk::{Disk, DiskCounts};
use crate::floor::FloorReport;
use crate::latency::Latency;
use crate::ledger::{Ledger, Tally};
use crate::progress::Progress;
use crate::relay::{Cpu, Relay, Usage};
use crate::report::{self, Asked, DiskReport, FloorRatio, RelayReport, Report};
use crate::rng::Rng;
use crate::send::{SendCounts, SendPlan, Sender};
use crate::series::{Reading, Series};
use crate::sink::{Book, Sink, SinkCounts, SinkPlan};
use crate::system;
use crate::threads::Threads;
use events::{Agenda, Step};
pub use events::{Deed, Event, Kills};

const STEP: Duration = Duration::from_millis(5);
const SHOW_EVERY_NS: u64 = SECOND_NS / 5;
const SUSPECTS_MAX: usize = 10;
/// Without arrivals for this long after a crash, no more copies are expected.
const QUIET_NS: u64 = SECOND_NS;

/// What a run does.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// The relay's command and arguments, with `{listen}`, `{sink}` and `{dir}` in them; None to send straight to the sink.
    pub relay: Option<Vec<String>>,
    /// Directory handed to the relay as `{dir}`, made if absent; None for a fresh temporary one, removed after a good run.
    pub dir: Option<PathBuf>,
    /// Where the relay is to listen; None for a free port on 127.0.0.1.
    pub listen: Option<SocketAddr>,
    /// The load.
    pub load: SendPlan,
    /// The sink.
    pub sink: SinkPlan,
    /// Kills.
    pub kills: Option<Kills>,
    /// What else is done to the relay, and when.
    pub events: Vec<Event>,
    /// How long the relay may take to greet.
    pub start_longest: Duration,
    /// How long after the load everything acknowledged may take to arrive.
    pub drain_longest: Duration,
    /// How long the relay may take to end on SIGTERM.
    pub end_longest: Duration,
    /// Where to keep the ledger.
    pub ledger_file: Option<PathBuf>,
    /// Core that the relay alone runs on.
    pub relay_core: Option<usize>,
    /// The kernel's floor, for the relay's ratio to it.
    pub floor: Option<FloorReport>,
}

impl Default for Scenario {
    fn default() -> Scenario {
        Scenario {
            relay: None,
            dir: None,
            listen: None,
            load: SendPlan::default(),
            sink: SinkPlan::new(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))),
            kills: None,
            events: Vec::new(),
            start_longest: Duration::from_secs(20),
            drain_longest: Duration::from_secs(60),
            end_longest: Duration::from_secs(15),
            ledger_file: None,
            relay_core: None,
            floor: None,
        }
    }
}

/// What came of a run.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// All figures.
    pub report: Report,
    /// Where the relay's files are, if they were kept.
    pub dir: Option<PathBuf>,
}

impl Outcome {
    /// True if nothing was lost, nothing corrupted, and nothing else went wrong.
    pub fn is_good(&self) -> bool {
        self.report.is_good()
    }
}

/// All counters at one moment.
#[derive(Clone, Copy, Default)]
struct Sample {
    at_ns: u64,
    sender: SendCounts,
    sink: SinkCounts,
    relay_cpu: Cpu,
    disk: Option<DiskCounts>,
}

struct Stage<'a> {
    scenario: &'a Scenario,
    clock: Clock,
    sink: Option<Sink>,
    relay: Option<Relay>,
    sender: Option<Sender>,
    disk: Option<Disk>,
    series: Series,
    ledger: Arc<Ledger>,
    begun_ns: u64,
    last_shown: Sample,
    agenda: Agenda,
    threads: Threads,
    looked_ns: u64,
    kills_done: u32,
    troubles: Vec<String>,
}

/// Runs a scenario to its end, telling `progress` a few times a second.
pub fn run(scenario: &Scenario, progress: &mut dyn FnMut(&Progress)) -> io::Result<Outcome> {
    scenario.load.check().map_err(|text| io::Error::new(io::ErrorKind::InvalidInput, text))?;
    system::raise_file_limit();
    let clock = Clock::start();
    let ledger = Arc::new(Ledger::new(new_run(clock), scenario.load.ledger_recipients()?));
    let sink = Sink::start(&scenario.sink, Book::of(Arc::clone(&ledger)), clock)?;
    let sink_address = sink.addresses()[0];
    let (dir, temporary) = relay_dir(scenario, ledger.run())?;
    let (relay, target) = match &scenario.relay {
        None => (None, sink_address),
        Some(argv) => {
            let listen = scenario.listen.map_or_else(free_port, Ok)?;
            // What others left to be written must not be counted as the relay's.
            system::sync_disks();
            let mut relay = Relay::start(argv, listen, sink_address, sink.dns_address(), &dir, scenario.relay_core)?;
            relay.await_greeting(scenario.start_longest)?;
            (Some(relay), scenario.load.http_target()?.unwrap_or(listen))
        }
    };
    let agenda = match &relay {
        Some(_) => Agenda::new(&scenario.events, scenario.kills),
        None => Agenda::new(&[], None),
    };
    let mut stage = Stage {
        scenario,
        clock,
        sink: Some(sink),
        disk: relay.as_ref().and_then(|_| Disk::below(&dir)),
        relay,
        sender: None,
        series: Series::default(),
        ledger,
        begun_ns: clock.now_ns(),
        last_shown: Sample::default(),
        agenda,
        threads: Threads::default(),
        looked_ns: 0,
        kills_done: 0,
        troubles: Vec::new(),
    };
    let mut report = stage.play(target, progress)?;
    if let Some(path) = &scenario.ledger_file {
        crate::ledger::save(path, [&*stage.ledger])?;
    }
    report.troubles = std::mem::take(&mut stage.troubles);
    drop(stage);
    let mut kept = scenario.relay.is_some().then_some(dir.clone());
    if temporary && (report.is_good() || scenario.relay.is_none()) {
        kept = None;
        // Left behind in the system's place for temporary files if this fails.
        let _ = std::fs::remove_dir_all(&dir);
    }
    Ok(Outcome { report, dir: kept })
}

/// Sends to a server that is not ours to start: a report without sink and relay.
pub fn send_only(
    plan: &SendPlan,
    target: SocketAddr,
    ledger: &Arc<Ledger>,
    clock: Clock,
    progress: &mut dyn FnMut(&Progress),
) -> io::Result<Report> {
    let scenario = Scenario { load: plan.clone(), ..Scenario::default() };
    let mut stage = Stage {
        scenario: &scenario,
        clock,
        sink: None,
        relay: None,
        sender: None,
        disk: None,
        series: Series::default(),
        ledger: Arc::clone(ledger),
        begun_ns: clock.now_ns(),
        last_shown: Sample::default(),
        agenda: Agenda::new(&[], None),
        threads: Threads::default(),
        looked_ns: 0,
        kills_done: 0,
        troubles: Vec::new(),
    };
    let mut report = stage.play(target, progress)?;
    // What arrived is not known here, so nothing can be called lost.
    report.ledger.lost = 0;
    report.suspects.clear();
    report.troubles = std::mem::take(&mut stage.troubles);
    Ok(report)
}

/// A run number unlikely to be met again.
pub fn new_run(clock: Clock) -> u64 {
    Rng::new(clock.now_ns() ^ u64::from(std::process::id()) << 40).next_u64()
}

fn free_port() -> io::Result<SocketAddr> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()
}

fn relay_dir(scenario: &Scenario, run: u64) -> io::Result<(PathBuf, bool)> {
    let (dir, temporary) = match &scenario.dir {
        Some(dir) => (dir.clone(), false),
        None => (std::env::temp_dir().join(format!("loadgen-{run:016x}")), true),
    };
    std::fs::create_dir_all(&dir)?;
    Ok((dir.canonicalize()?, temporary))
}

impl Stage<'_> {
    fn play(&mut self, target: SocketAddr, progress: &mut dyn FnMut(&Progress)) -> io::Result<Report> {
        let sender = Sender::start(&self.scenario.load, target, Arc::clone(&self.ledger), self.clock)?;
        let measure_from_ns = sender.measure_from_ns();
        if let Some(sink) = &self.sink {
            sink.measure_from(measure_from_ns);
        }
        self.begun_ns = self.clock.now_ns();
        self.last_shown.at_ns = self.begun_ns;
        let first = self.reading();
        self.series.begin(first);
        self.sender = Some(sender);
        self.agenda.begin(self.begun_ns);
        while self.clock.now_ns() < measure_from_ns && !self.sender_done() {
            self.step("warming up", progress)?;
        }
        let from = self.sample();
        while !self.sender_done() {
            self.step("sending", progress)?;
            if system::interrupted() {
                self.stop_sender();
            }
        }
        let sent = self.sample();
        let pss_bytes = self.relay.as_ref().and_then(Relay::pss_bytes);
        if self.sink.is_some() {
            self.drain(progress)?;
        }
        let drained = self.sample();
        let last = self.reading();
        self.series.end(last);
        let usage = self.relay.as_mut().map(Relay::usage);
        let ended = self.end_relay();
        // What the relay still sent while it ended counts as well: a moment for it to be read.
        std::thread::sleep(STEP * 10);
        Ok(self.report(target, [from, sent, drained], usage.map(|usage| (usage, pss_bytes)), ended))
    }

    fn sender_done(&self) -> bool {
        self.sender.as_ref().is_none_or(Sender::is_done)
    }

    fn stop_sender(&self) {
        if let Some(sender) = &self.sender {
            sender.stop();
        }
    }

    fn sample(&mut self) -> Sample {
        Sample {
            at_ns: self.clock.now_ns(),
            sender: self.sender.as_ref().map(Sender::counts).unwrap_or_default(),
            sink: self.sink.as_ref().map(Sink::counts).unwrap_or_default(),
            relay_cpu: self.relay.as_mut().map_or(Cpu::default(), |relay| relay.usage().cpu),
            disk: self.disk.as_ref().and_then(Disk::read),
        }
    }

    /// For the series. Asking for the relay's usage also follows its peaks.
    fn reading(&mut self) -> Reading {
        let sample = self.sample();
        if let Some(relay) = &self.relay {
            let past_s = if self.looked_ns > 0 { seconds(sample.at_ns - self.looked_ns) } else { 0.0 };
            self.looked_ns = sample.at_ns;
            self.threads.look(&relay.pids(), seconds(sample.at_ns - self.begun_ns), past_s);
        }
        Reading {
            at_ns: sample.at_ns,
            acknowledged: sample.sender.acknowledged,
            arrived: sample.sink.recipients,
            in_flight: sample.sender.in_flight(),
            relay_cpu: sample.relay_cpu,
            ends_cpu_ns: sample.sender.cpu_ns + sample.sink.cpu_ns,
        }
    }

    fn step(&mut self, phase: &'static str, progress: &mut dyn FnMut(&Progress)) -> io::Result<()> {
        std::thread::sleep(STEP);
        let now = Sample {
            at_ns: self.clock.now_ns(),
            sender: self.sender.as_ref().map(Sender::counts).unwrap_or_default(),
            sink: self.sink.as_ref().map(Sink::counts).unwrap_or_default(),
            ..Sample::default()
        };
        if self.series.is_due(now.at_ns) {
            let reading = self.reading();
            self.series.add(reading);
        }
        let past_ns = now.at_ns - self.last_shown.at_ns;
        if past_ns >= SHOW_EVERY_NS {
            let rate = |now: u64, before: u64| now.saturating_sub(before) as f64 / seconds(past_ns);
            let watched = self.scenario.load.watched;
            let mut now = now;
            if let (Some(relay), true) = (&mut self.relay, watched) {
                now.relay_cpu = relay.usage().cpu;
            }
            let last = std::mem::replace(&mut self.last_shown, now);
            let cpu = |now: u64, before: u64| rate(now, before) / SECOND_NS as f64;
            progress(&Progress {
                phase,
                elapsed_ns: now.at_ns - self.begun_ns,
                started: now.sender.started,
                acknowledged: now.sender.acknowledged,
                arrived: now.sink.recipients,
                in_flight: now.sender.in_flight(),
                rate_in: rate(now.sender.acknowledged, last.sender.acknowledged),
                rate_out: rate(now.sink.recipients, last.sink.recipients),
                kills: self.kills_done,
                share: self.sender.as_ref().and_then(|sender| sender.share(now.at_ns)),
                relay_cores: (watched && self.relay.is_some())
                    .then(|| cpu(now.relay_cpu.total_ns(), last.relay_cpu.total_ns())),
                ends_cores: cpu(now.sender.cpu_ns + now.sink.cpu_ns, last.sender.cpu_ns + last.sink.cpu_ns),
                accept: self.sender.as_ref().and_then(Sender::latency),
                tally: watched.then(|| self.ledger.tally()),
            });
        }
        self.do_what_is_due()
    }

    fn do_what_is_due(&mut self) -> io::Result<()> {
        while let Some(step) = self.agenda.due(self.clock.now_ns()) {
            let Some(relay) = &mut self.relay else { break };
            match step {
                Step::Do(Deed::Kill) => relay.kill(),
                Step::Do(Deed::Restart) => {
                    if relay.end(self.scenario.end_longest).is_none() {
                        self.troubles.push("the relay did not end on SIGTERM and was killed".into());
                    }
                }
                Step::Do(Deed::Pause) => relay.pause(true),
                Step::Undo(Deed::Pause) => relay.pause(false),
                Step::Undo(Deed::Kill | Deed::Restart) => {
                    relay.launch()?;
                    relay.await_greeting(self.scenario.start_longest)?;
                    self.kills_done += 1;
                    self.agenda.restarted(self.clock.now_ns());
                }
            }
        }
        let is_meant_to_run = !self.agenda.is_down();
        if is_meant_to_run && self.relay.as_mut().is_some_and(|relay| !relay.is_running()) && self.troubles.is_empty() {
            self.troubles.push("the relay ended by itself".into());
            self.stop_sender();
        }
        Ok(())
    }

    /// Waits until everything acknowledged has arrived or bounced, or the time for it is over.
    fn drain(&mut self, progress: &mut dyn FnMut(&Progress)) -> io::Result<()> {
        let begun_ns = self.clock.now_ns();
        let mut tally: Tally = self.ledger.tally();
        while tally.lost > 0 || !self.agenda.is_over() {
            if self.clock.now_ns() - begun_ns > nanos(self.scenario.drain_longest) || system::interrupted() {
                break;
            }
            if !self.troubles.is_empty() {
                break;
            }
            self.step("draining", progress)?;
            tally = self.ledger.tally();
        }
        // After a crash copies may still come of what nobody waits for: stay until it is quiet.
        while self.kills_done > 0 && self.clock.now_ns() - begun_ns < nanos(self.scenario.drain_longest) {
            let last_ns = self.sink.as_ref().map_or(0, |sink| sink.counts().last_arrival_ns);
            if self.clock.now_ns() - last_ns.max(begun_ns) > QUIET_NS || !self.troubles.is_empty() {
                break;
            }
            self.step("draining", progress)?;
        }
        Ok(())
    }

    fn end_relay(&mut self) -> bool {
        let longest = self.scenario.end_longest;
        let Some(relay) = &mut self.relay else { return true };
        let status = relay.end(longest);
        match status {
            Some(status) if status.success() || std::os::unix::process::ExitStatusExt::signal(&status).is_some() => {
                true
            }
            Some(status) => {
                self.troubles.push(format!("the relay ended with {status}"));
                false
            }
            None => {
                self.troubles.push(format!("the relay did not end within {longest:?} of SIGTERM and was killed"));
                false
            }
        }
    }

    fn report(
        &mut self,
        target: SocketAddr,
        samples: [Sample; 3],
        usage: Option<(Usage, Option<u64>)>,
        ended_in_order: bool,
    ) -> Report {
        let [from, sent, drained] = samples;
        let (sender, send_latency) = self.sender.take().expect("started by play").finish();
        if sender.started == 0 {
            let why = match &sender {
                counts if counts.connections_lacking > 0 => {
                    ": it does not offer the STARTTLS, CHUNKING or AUTH asked for"
                }
                counts if counts.logins_failed > 0 => ": the login failed",
                counts if counts.handshakes_failed > 0 => ": TLS handshakes failed",
                _ => "",
            };
            self.troubles.push(format!("nothing could be sent to {target}{why}"));
        }
        let (sink, sink_latency) = self.sink.take().map(Sink::stop).unzip();
        let ledger = self.ledger.tally();
        let load = &self.scenario.load;
        let per = |total: u64, count: u64, unit: f64| total as f64 / unit / count.max(1) as f64;
        let accepted = sender.acknowledged - from.sender.acknowledged;
        let arrived = drained.sink.recipients - from.sink.recipients;
        let load_s = seconds(sender.last_acknowledged_ns.max(from.at_ns) - from.at_ns);
        let delivery_s = seconds(drained.sink.last_arrival_ns.max(from.at_ns) - from.at_ns);
        let cpu = drained.relay_cpu.since(&from.relay_cpu);
        let relay = usage.map(|(usage, pss_bytes)| RelayReport {
            cpu_us_per_message: per(cpu.total_ns(), arrived, 1000.0),
            user_us_per_message: per(cpu.user_ns, arrived, 1000.0),
            system_us_per_message: per(cpu.system_ns, arrived, 1000.0),
            cpu_ns: cpu.total_ns(),
            cpu_source: usage.source,
            rss_peak_bytes: usage.rss_peak_bytes,
            pss_bytes,
            processes_peak: usage.processes_peak,
            threads_peak: usage.threads_peak,
            core: self.scenario.relay_core,
            kills: self.kills_done,
            ended_in_order,
        });
        let disk = drained.disk.zip(from.disk).map(|(after, before)| {
            let counts = after.since(&before);
            DiskReport {
                writes_per_message: per(counts.writes, accepted, 1.0),
                written_kib_per_message: per(counts.written_bytes, accepted, 1024.0),
                flushes_per_message: per(counts.flushes, accepted, 1.0),
                counts,
            }
        });
        let spent_s = seconds(drained.at_ns - from.at_ns);
        let floor = self.scenario.floor.as_ref().zip(relay.as_ref()).map(|(floor, relay)| {
            FloorRatio::new(
                floor,
                relay.cpu_us_per_message,
                disk.as_ref().map(|disk| disk.own_flushes_per_message(spent_s)),
            )
        });
        let (trips, taken) =
            (drained.sink.round_trips - from.sink.round_trips, drained.sink.messages - from.sink.messages);
        Report {
            kind: report::KIND.into(),
            asked: Asked {
                target: target.to_string(),
                relay: self.scenario.relay.clone(),
                sessions: load.sessions,
                pipeline: load.pipeline,
                sizes: load.folder.as_ref().map_or(load.sizes.to_string(), |folder| folder.display().to_string()),
                recipients: load.recipients,
                messages_per_session: load.messages_per_session,
                schedule: load.pace(),
                seed: load.seed,
                also: load.also(self.scenario.sink.tls),
            },
            load_s,
            drain_s: sink.map_or(0.0, |sink| seconds(sink.last_arrival_ns.saturating_sub(sender.last_acknowledged_ns))),
            accepted_per_s: accepted as f64 / load_s.max(1e-9),
            delivered_per_s: sink.map(|_| arrived as f64 / delivery_s.max(1e-9)),
            accept: send_latency.corrected.summary(),
            accept_raw: send_latency.raw.summary(),
            end_to_end: sink_latency.as_ref().map(Latency::summary),
            sender_cpu_us_per_message: per(sent.sender.cpu_ns - from.sender.cpu_ns, accepted, 1000.0),
            sink_cpu_us_per_message: sink.map(|_| per(drained.sink.cpu_ns - from.sink.cpu_ns, arrived, 1000.0)),
            relay,
            disk,
            floor,
            sink_round_trips_per_message: sink.map(|_| per(trips, taken, 1.0)),
            series: std::mem::take(&mut self.series).moments(),
            threads: std::mem::take(&mut self.threads).busiest(),
            accept_distribution: send_latency.corrected.distribution(),
            end_to_end_distribution: sink_latency.as_ref().map(Latency::distribution),
            sender,
            sink,
            ledger,
            suspects: self.ledger.suspects(SUSPECTS_MAX),
            troubles: Vec::new(),
        }
    }
}
