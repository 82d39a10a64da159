//! The simulator: whole relays in a made-up world, one seed each. `docs/simulation.md` says what is in it.
//!
//! ```text
//! cargo test --test sim                          a fixed slice of seeds and some fresh ones
//! cargo test --test sim -- --seed N --log        one seed, with every event
//! cargo test --test sim -- --seeds A..B          a range
//! cargo test --test sim -- --seconds S           fresh seeds for so long
//! ```

#![allow(unreachable_pub)]

mod client;
mod dice;
mod disk;
mod dns;
mod hop;
mod ledger;
mod net;
mod operator;
mod plan;
mod tls;
mod warm_up;
mod world;

use std::cell::RefCell;
use std::panic::{self, AssertUnwindSafe};
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use dice::{Drawn, Trace};
use world::{Outcome, World};

/// Every so-manieth seed is run twice: the same seed must give the same trace.
const TWICE_EVERY: u64 = 16;
/// Lines of the log that a failure prints.
const LAST_LINES: usize = 60;
/// A campaign stops after so many failures.
const FAILURES_TOLD: usize = 5;

thread_local! {
    static SEED: RefCell<Option<u64>> = const { RefCell::new(None) };
    static MESSAGE: RefCell<String> = const { RefCell::new(String::new()) };
}

#[derive(Clone, Debug, Default)]
struct Options {
    seeds: Option<(u64, u64)>,
    seconds: Option<u64>,
    log: bool,
    /// Stop at the first failure and do not look into it.
    first: bool,
    threads: Option<usize>,
}

fn number(text: &str) -> Result<u64, String> {
    text.parse().map_err(|_| format!("{text:?} is not a number"))
}

fn options() -> Result<Options, String> {
    let mut options = Options::default();
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let mut value = || words.next().ok_or(format!("{word} wants a value"));
        match &*word {
            "--seed" => {
                let seed = number(&value()?)?;
                options.seeds = Some((seed, seed + 1));
            }
            "--seeds" => {
                let range = value()?;
                let (from, to) = range.split_once("..").ok_or("--seeds wants A..B")?;
                options.seeds = Some((number(from)?, number(to)?));
            }
            "--seconds" => options.seconds = Some(number(&value()?)?),
            "--threads" => options.threads = Some(number(&value()?)? as usize),
            "--log" => options.log = true,
            "--first" => options.first = true,
            // What the test runner is told for all targets.
            _ => {}
        }
    }
    Ok(options)
}

/// Runs a seed; what went wrong comes as words.
fn run(seed: u64, keep: usize, print: bool) -> (Result<Outcome, String>, Vec<String>, Drawn) {
    SEED.set(Some(seed));
    let mut lines = Vec::new();
    let mut drawn = Drawn::new();
    let result = panic::catch_unwind(AssertUnwindSafe(|| {
        let mut world = World::new(seed, Trace::new(keep, print));
        let result = panic::catch_unwind(AssertUnwindSafe(|| world.run()));
        lines.extend(world.trace.last_lines().map(String::from));
        drawn.clone_from(world.dice.faults());
        result.unwrap_or_else(|cause| panic::resume_unwind(cause))
    }));
    SEED.set(None);
    (result.map_err(|_| MESSAGE.take()), lines, drawn)
}

/// A seed failed: say how to see it again, and what led to it.
fn tell(seed: u64, message: &str) {
    let (again, lines, _) = run(seed, LAST_LINES, false);
    println!("\nseed {seed} failed: {message}");
    if again.is_ok() {
        println!("and did not fail when it was run again: it does not follow from its seed alone");
    }
    println!("the last events:");
    lines.iter().for_each(|line| println!("  {line}"));
    println!("replay: cargo test --test sim -- --seed {seed} --log\n");
}

/// What all runs came to.
#[derive(Default)]
struct Totals {
    runs: u64,
    failed: Vec<u64>,
    sum: Outcome,
    drawn: Drawn,
}

impl Totals {
    fn add(&mut self, more: &Outcome) {
        let sum = &mut self.sum;
        self.runs += 1;
        sum.events += more.events;
        sum.simulated_us += more.simulated_us;
        sum.acked += more.acked;
        sum.taken += more.taken;
        sum.twice += more.twice;
        sum.windows += more.windows;
        sum.bounced += more.bounced;
        sum.crashes += more.crashes;
        sum.drains += more.drains;
        sum.reads += more.reads;
        sum.copied += more.copied;
        sum.refused += more.refused;
    }
}

/// Seeds in order, handed to whoever asks.
struct Source {
    next: AtomicU64,
    end: u64,
    until: Option<Instant>,
}

impl Source {
    fn next(&self) -> Option<u64> {
        if self.until.is_some_and(|until| Instant::now() >= until) {
            return None;
        }
        let seed = self.next.fetch_add(1, Ordering::Relaxed);
        (seed < self.end).then_some(seed)
    }
}

fn work(source: &Source, totals: &Mutex<Totals>, stop: &AtomicBool, first: bool) {
    while let Some(seed) = source.next() {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        let (result, _, drawn) = run(seed, 0, false);
        let result = result.and_then(|outcome| {
            if seed % TWICE_EVERY == 0 {
                let (again, ..) = run(seed, 0, false);
                let again = again?.hash;
                if again != outcome.hash {
                    return Err(format!("two runs have two traces: {:x} and {again:x}", outcome.hash));
                }
            }
            Ok(outcome)
        });
        let mut totals = totals.lock().expect("no run fails while it counts");
        drawn.into_iter().for_each(|(name, count)| *totals.drawn.entry(name).or_default() += count);
        match result {
            Ok(outcome) => totals.add(&outcome),
            Err(message) => {
                totals.runs += 1;
                totals.failed.push(seed);
                if first {
                    println!("seed {seed} failed: {message}");
                } else {
                    tell(seed, &message);
                }
                if first || totals.failed.len() >= FAILURES_TOLD {
                    stop.store(true, Ordering::Relaxed);
                }
            }
        }
    }
}

fn campaign(name: &str, source: &Source, options: &Options, totals: &Mutex<Totals>) {
    let cores = || std::thread::available_parallelism().map_or(1, |count| count.get().min(8));
    let threads = options.threads.unwrap_or_else(cores);
    let (begun, stop) = (Instant::now(), AtomicBool::new(false));
    let before = totals.lock().expect("not running").runs;
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| work(source, totals, &stop, options.first));
        }
    });
    let runs = totals.lock().expect("not running").runs - before;
    let seconds = begun.elapsed().as_secs_f64();
    println!("test {name} ... {runs} seeds in {seconds:.1} s, {:.0} a minute", runs as f64 * 60.0 / seconds.max(0.001));
}

fn main() -> ExitCode {
    let options = match options() {
        Ok(options) => options,
        Err(problem) => {
            eprintln!("{problem}; see docs/simulation.md");
            return ExitCode::from(2);
        }
    };
    panic::set_hook(Box::new(|info| {
        let words = info.payload_as_str().unwrap_or("a panic without words").to_string();
        let place = info.location().map(|at| format!(" ({}:{})", at.file(), at.line())).unwrap_or_default();
        MESSAGE.set(words.clone() + &place);
        if cfg!(panic = "abort") {
            eprintln!("seed {:?} failed: {words}{place}", SEED.with_borrow(|seed| *seed));
        }
    }));
    let totals = Mutex::new(Totals::default());
    let fresh = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64 * 1000);
    match (options.seeds, options.seconds) {
        (Some((from, _)), _) if options.log => {
            let (result, ..) = run(from, 0, true);
            println!("{result:?}");
            return if result.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE };
        }
        (Some((from, to)), seconds) => {
            let until = seconds.map(|seconds| Instant::now() + Duration::from_secs(seconds));
            campaign("these_seeds", &Source { next: from.into(), end: to, until }, &options, &totals);
        }
        (None, Some(seconds)) => {
            let until = Some(Instant::now() + Duration::from_secs(seconds));
            campaign("fresh_seeds", &Source { next: fresh.into(), end: u64::MAX, until }, &options, &totals);
        }
        (None, None) => {
            campaign("fixed_seeds", &Source { next: 0.into(), end: 150, until: None }, &options, &totals);
            let until = Some(Instant::now() + Duration::from_secs(60));
            campaign("fresh_seeds", &Source { next: fresh.into(), end: fresh + 50, until }, &options, &totals);
        }
    }
    let totals = totals.into_inner().expect("all runs are over");
    println!("{:?}", totals.sum);
    println!("faults drawn: {:?}", totals.drawn);
    let failed = totals.failed.len();
    let word = if failed == 0 { "ok" } else { "FAILED" };
    println!("failed seeds: {:?}", totals.failed);
    println!(
        "test result: {word}. {} passed; {failed} failed; 0 ignored; 0 measured; 0 filtered out",
        totals.runs - failed as u64
    );
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
