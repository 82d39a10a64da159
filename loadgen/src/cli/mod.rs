//! The command line. Wrong values are told with what was expected; nothing here panics on them.

mod compare;
mod floor;
mod load;
mod report;
mod scenario;

use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

use loadgen::clock::Clock;
use loadgen::floor::FloorReport;
use loadgen::ledger::{self, Ledger, Tally};
use loadgen::live::Screen;
use loadgen::messages::MessageFile;
use loadgen::progress::{Line, Progress};
use loadgen::report::{Report, write_sink, write_tally};
use loadgen::run::{self, Kills, Scenario};
use loadgen::sink::{Book, Sink};
use loadgen::system;
use loadgen::units::{parse_duration, parse_span};

use load::{FaultArguments, LoadArguments};

const SUSPECTS_MAX: usize = 20;
const TICK: Duration = Duration::from_millis(200);

/// Load generator, sink and ledger for SMTP relays
#[derive(Parser)]
#[command(version)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Send messages to a server
    Send(SendArguments),
    /// Take messages, check them, and note what arrived
    Sink(SinkArguments),
    /// Start a sink and a relay, send through them, and compare
    Run(Box<RunArguments>),
    /// Compare the ledgers of a sender and of sinks
    Ledger(LedgerArguments),
    /// Run the same scenario against several relays in turn
    Compare(Box<compare::CompareArguments>),
    /// Make tables, plots and a page of raw results
    Report(report::ReportArguments),
    /// Measure what the kernel alone takes for the same bytes
    Floor(floor::FloorArguments),
}

/// Why a command failed.
pub(crate) enum Failure {
    /// Wrong arguments.
    Usage(String),
    /// Something else.
    Io(io::Error),
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Failure {
        Failure::Io(error)
    }
}

#[derive(Args)]
struct OutputArguments {
    /// Write the report as JSON to a file, or to standard output with -
    #[arg(long)]
    json: Option<PathBuf>,
    /// Keep the ledger in a file
    #[arg(long)]
    ledger: Option<PathBuf>,
    /// Show progress even where standard error is no terminal
    #[arg(long)]
    progress: bool,
    /// A screen of its own with throughput, latency, CPU and the ledger
    #[arg(long)]
    live: bool,
    /// Write what became of each message, and when, as comma-separated values
    #[arg(long)]
    per_message: Option<PathBuf>,
}

impl OutputArguments {
    fn message_file(&self) -> io::Result<Option<Arc<MessageFile>>> {
        self.per_message.as_deref().map(MessageFile::create).transpose()
    }
}

#[derive(Args)]
struct SendArguments {
    /// Where to send, as host:port; not with --via http
    #[arg(required_unless_present = "url")]
    target: Option<String>,
    #[command(flatten)]
    load: LoadArguments,
    #[command(flatten)]
    output: OutputArguments,
}

#[derive(Args)]
struct SinkArguments {
    /// Where to listen, as 127.0.0.1:2526
    #[arg(required = true)]
    listen: Vec<SocketAddr>,
    /// Stop after this time (default: on SIGINT or SIGTERM)
    #[arg(long, short = 'd', value_parser = parse_duration)]
    duration: Option<Duration>,
    #[command(flatten)]
    faults: FaultArguments,
    /// Seed of the faults
    #[arg(long, default_value_t = 1)]
    seed: u64,
    #[command(flatten)]
    output: OutputArguments,
}

#[derive(Args)]
#[command(args_override_self = true)]
struct RunArguments {
    /// A file (TOML) with any of these options as keys, and what is done to the relay when; what is given here holds
    #[arg(long)]
    scenario: Option<PathBuf>,
    /// Command of the relay, with {listen}, {sink} and {dir} in it; split at blanks, quotes hold (default: no relay)
    #[arg(long)]
    relay: Option<String>,
    /// Directory for the relay's files (default: a temporary one, removed after a good run)
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Where the relay is to listen (default: a free port of 127.0.0.1)
    #[arg(long)]
    listen: Option<SocketAddr>,
    /// Where the sink is to listen
    #[arg(long, default_value = "127.0.0.1:0")]
    sink: SocketAddr,
    /// Kill the relay with SIGKILL this many times, and start it again
    #[arg(long, default_value_t = 0)]
    kill: u32,
    /// Time between a start of the relay and its kill
    #[arg(long, value_parser = parse_span, default_value = "0.2..2.0")]
    kill_interval: (Duration, Duration),
    /// Core that the relay alone runs on; sender and sink then go to the next one unless told otherwise
    #[arg(long)]
    relay_core: Option<usize>,
    /// What `loadgen floor --json` wrote, for the relay's ratio to it
    #[arg(long)]
    floor: Option<PathBuf>,
    /// How long the relay may take to greet
    #[arg(long, value_parser = parse_duration, default_value = "20")]
    start_longest: Duration,
    /// How long after the load everything acknowledged may take to arrive
    #[arg(long, value_parser = parse_duration, default_value = "60")]
    drain: Duration,
    #[command(flatten)]
    load: LoadArguments,
    #[command(flatten)]
    faults: FaultArguments,
    #[command(flatten)]
    output: OutputArguments,
}

#[derive(Args)]
struct LedgerArguments {
    /// Ledger of the sender
    send: PathBuf,
    /// Ledgers of the sinks
    #[arg(required = true)]
    sink: Vec<PathBuf>,
    /// Write the sums as JSON to a file, or to standard output with -
    #[arg(long)]
    json: Option<PathBuf>,
}

impl Arguments {
    /// Reads the command line, and the scenario that it names; ends the program where it cannot be understood.
    pub(crate) fn read() -> Arguments {
        match scenario::expanded(std::env::args_os().collect()) {
            Ok(words) => Arguments::parse_from(words),
            Err(text) => clap::Error::raw(clap::error::ErrorKind::Io, format!("{text}\n")).exit(),
        }
    }
}

/// What shows a run while it goes on: a line, or a screen.
enum Shower {
    Line(Line),
    Screen(Box<Screen>),
}

impl Shower {
    fn new(output: &OutputArguments, title: &str) -> io::Result<Shower> {
        Ok(if output.live {
            Shower::Screen(Box::new(Screen::open(title)?))
        } else {
            Shower::Line(Line::new(output.progress))
        })
    }

    fn show(&mut self, now: &Progress) {
        match self {
            Shower::Line(line) => line.show(now),
            Shower::Screen(screen) => screen.show(now),
        }
    }

    /// Makes room for the report.
    fn end(self) {
        if let Shower::Line(mut line) = self {
            line.clear();
        }
    }
}

/// Does what was asked; true if all is good.
pub(crate) fn perform(arguments: Arguments) -> Result<bool, Failure> {
    match arguments.command {
        Command::Send(arguments) => send(&arguments),
        Command::Sink(arguments) => sink(&arguments),
        Command::Run(arguments) => run(&arguments),
        Command::Ledger(arguments) => ledgers(&arguments),
        Command::Compare(arguments) => compare::perform(&arguments),
        Command::Report(arguments) => report::perform(&arguments),
        Command::Floor(arguments) => floor::perform(&arguments),
    }
}

fn send(arguments: &SendArguments) -> Result<bool, Failure> {
    let mut plan = arguments.load.plan().map_err(Failure::Usage)?;
    plan.watched = arguments.output.live;
    plan.message_file = arguments.output.message_file()?;
    let target = match (plan.http_target()?, &arguments.target) {
        (Some(target), _) => target,
        (None, Some(text)) => {
            let found = text.to_socket_addrs().ok().and_then(|mut all| all.next());
            found.ok_or_else(|| Failure::Usage(format!("`{text}` is no host:port")))?
        }
        (None, None) => return Err(Failure::Usage("--url goes with --via http".into())),
    };
    system::raise_file_limit();
    system::catch_interrupts();
    let clock = Clock::start();
    let ledger = Arc::new(Ledger::new(run::new_run(clock), plan.ledger_recipients()?));
    let mut shower = Shower::new(&arguments.output, "send")?;
    let report = run::send_only(&plan, target, &ledger, clock, &mut |now| shower.show(now))?;
    shower.end();
    if let Some(path) = &arguments.output.ledger {
        ledger::save(path, [&*ledger])?;
    }
    output(&report, arguments.output.json.as_deref())?;
    Ok(report.sender.started > 0 && report.sender.acknowledged == report.sender.started)
}

fn sink(arguments: &SinkArguments) -> Result<bool, Failure> {
    system::raise_file_limit();
    system::catch_interrupts();
    let clock = Clock::start();
    let begun_ns = clock.now_ns();
    let mut plan = arguments.faults.plan(arguments.listen.clone(), arguments.seed).map_err(Failure::Usage)?;
    plan.message_file = arguments.output.message_file()?;
    let sink = Sink::start(&plan, Book::open(), clock)?;
    for address in sink.addresses() {
        println!("listening on {address}");
    }
    if let Some(address) = sink.dns_address() {
        println!("answering DNS on {address}");
    }
    let longest_ns = arguments.duration.map_or(u64::MAX, loadgen::clock::nanos);
    let mut shower = Shower::new(&arguments.output, "sink")?;
    let mut before = 0;
    while !system::interrupted() && clock.now_ns() - begun_ns < longest_ns {
        std::thread::sleep(TICK);
        let counts = sink.counts();
        let rate_out = (counts.recipients - before) as f64 / TICK.as_secs_f64();
        before = counts.recipients;
        let elapsed_ns = clock.now_ns() - begun_ns;
        shower.show(&Progress { phase: "taking", elapsed_ns, arrived: before, rate_out, ..Progress::default() });
    }
    shower.end();
    let ledgers = sink.ledgers();
    let (counts, latency) = sink.stop();
    if let Some(path) = &arguments.output.ledger {
        ledger::save(path, ledgers.iter().map(|ledger| &**ledger))?;
    }
    let runs: Vec<_> = ledgers.iter().map(|ledger| (format!("{:016x}", ledger.run()), ledger.tally())).collect();
    let shown: Vec<_> = runs.iter().map(|(run, tally)| arrivals(run, tally)).collect();
    let value = serde_json::json!({ "sink": counts, "end_to_end": latency.summary(), "runs": shown });
    let mut text = String::new();
    // Writing to a string cannot fail.
    let _ = write_sink(&mut text, &counts);
    for (run, tally) in &runs {
        text += &format!(
            "run {run}  arrived {}  duplicated {}  corrupted {}\n",
            tally.arrived, tally.duplicated, tally.corrupted
        );
    }
    write_both(&text, &value, arguments.output.json.as_deref())?;
    Ok(counts.corrupted == 0)
}

/// The part of a run that a sink alone can know.
fn arrivals(run: &str, tally: &Tally) -> serde_json::Value {
    serde_json::json!({
        "run": run, "arrived": tally.arrived, "duplicated": tally.duplicated, "corrupted": tally.corrupted, "bounced": tally.bounced,
    })
}

fn run(arguments: &RunArguments) -> Result<bool, Failure> {
    let mut load = arguments.load.plan().map_err(Failure::Usage)?;
    load.watched = arguments.output.live;
    load.message_file = arguments.output.message_file()?;
    let message_file = load.message_file.clone();
    let events = arguments.scenario.as_deref().map(scenario::events).transpose().map_err(Failure::Usage)?;
    system::catch_interrupts();
    let seed = arguments.load.seed;
    let (shortest, longest) = arguments.kill_interval;
    let relay = arguments.relay.as_deref().map(split_command).transpose().map_err(Failure::Usage)?;
    let mut scenario = Scenario {
        relay,
        dir: arguments.dir.clone(),
        listen: arguments.listen,
        load,
        sink: arguments.faults.plan(vec![arguments.sink], seed).map_err(Failure::Usage)?,
        kills: (arguments.kill > 0).then_some(Kills { count: arguments.kill, shortest, longest, seed }),
        events: events.unwrap_or_default(),
        start_longest: arguments.start_longest,
        drain_longest: arguments.drain,
        ledger_file: arguments.output.ledger.clone(),
        relay_core: arguments.relay_core,
        floor: arguments.floor.as_deref().map(FloorReport::load).transpose()?,
        ..Scenario::default()
    };
    scenario.sink.message_file.clone_from(&message_file);
    apart(&mut scenario);
    let mut shower = Shower::new(&arguments.output, arguments.relay.as_deref().unwrap_or("no relay"))?;
    let outcome = run::run(&scenario, &mut |now| shower.show(now))?;
    shower.end();
    output(&outcome.report, arguments.output.json.as_deref())?;
    if let (Some(dir), false) = (&outcome.dir, outcome.is_good()) {
        eprintln!("loadgen: the relay's files are kept in {}", dir.display());
    }
    Ok(outcome.is_good())
}

/// Keeps sender and sink off the core of the relay, where nothing else was said and there is another one.
fn apart(scenario: &mut Scenario) {
    let cores = system::cores();
    if let Some(core) = scenario.relay_core.filter(|_| cores > 1) {
        let other = (core + 1) % cores;
        scenario.load.core.get_or_insert(other);
        scenario.sink.core.get_or_insert(other);
    }
}

fn ledgers(arguments: &LedgerArguments) -> Result<bool, Failure> {
    let mut tallies = Vec::new();
    let mut text = String::new();
    let sinks: Vec<Ledger> =
        arguments.sink.iter().map(|p| ledger::load(p)).collect::<io::Result<Vec<_>>>()?.into_iter().flatten().collect();
    for sender in ledger::load(&arguments.send)? {
        let matching = sinks.iter().filter(|sink| sender.merge(sink)).count();
        let tally = sender.tally();
        text += &format!("run {:016x}, {matching} sink ledger(s)\n", sender.run());
        // Writing to a string cannot fail.
        let _ = write_tally(&mut text, &tally, true);
        for suspect in sender.suspects(SUSPECTS_MAX) {
            text += &format!("             {} message {} recipient {}\n", suspect.what, suspect.id, suspect.recipient);
        }
        tallies.push((format!("{:016x}", sender.run()), tally));
    }
    let shown: Vec<_> = tallies.iter().map(|(run, tally)| serde_json::json!({ "run": run, "ledger": tally })).collect();
    write_both(&text, &serde_json::json!({ "runs": shown }), arguments.json.as_deref())?;
    Ok(!tallies.is_empty() && tallies.iter().all(|(_, tally)| tally.clean()))
}

fn output(report: &Report, json: Option<&Path>) -> io::Result<()> {
    write_both(&report.to_string(), &serde_json::to_value(report)?, json)
}

/// Text to standard output, unless that is where the JSON goes.
fn write_both(text: &str, value: &serde_json::Value, json: Option<&Path>) -> io::Result<()> {
    let rendered = || serde_json::to_string_pretty(value).map(|text| text + "\n");
    match json {
        Some(path) if path == Path::new("-") => print!("{}", rendered()?),
        Some(path) => {
            std::fs::write(path, rendered()?)?;
            print!("{text}");
        }
        None => print!("{text}"),
    }
    Ok(())
}

/// Splits a command at blanks; single or double quotes hold words together.
fn split_command(text: &str) -> Result<Vec<String>, String> {
    let (mut words, mut word, mut quote, mut begun) = (Vec::new(), String::new(), None, false);
    for letter in text.chars() {
        match (quote, letter) {
            (Some(open), close) if open == close => quote = None,
            (Some(_), other) => word.push(other),
            (None, '\'' | '"') => (quote, begun) = (Some(letter), true),
            (None, blank) if blank.is_whitespace() => {
                if std::mem::take(&mut begun) {
                    words.push(std::mem::take(&mut word));
                }
            }
            (None, other) => {
                word.push(other);
                begun = true;
            }
        }
    }
    if begun {
        words.push(word);
    }
    match quote {
        Some(open) => Err(format!("the relay's command has an open {open}")),
        None if words.is_empty() => Err("the relay's command is empty".into()),
        None => Ok(words),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_split_like_a_shell_does() {
        assert_eq!(split_command("a 'b c'  --x=\"d e\"").unwrap(), ["a", "b c", "--x=d e"]);
        assert!(split_command("a 'b").is_err() && split_command(" ").is_err());
    }

    #[test]
    fn arguments_are_consistent() {
        use clap::CommandFactory;
        Arguments::command().debug_assert();
    }
}
