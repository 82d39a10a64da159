//! Campaigns on the real process: it is killed, its power is cut, its disk fails, its network is hostile, its load is too
//! high, its clock jumps; and the ledger of the load generator says what became of every recipient. `docs/guarantees.md` has the figures.
//!
//! ```text
//! tests/campaign crash --rounds 500 --seed 7      one campaign at its full size (a release build)
//! cargo test --test faults                        a short slice of each; skipped, with the reason, where it cannot run
//! cargo test --test faults -- crash --short       one of them
//! ```

mod clock;
mod crash;
mod disk;
mod network;
mod outbound;
mod overload;
mod power;
mod proxy;
mod ram;
mod replay;
mod rot;
mod salvage;
mod stage;
mod volume;
#[path = "../common/wall_clock.rs"]
mod wall_clock;

use std::collections::HashMap;
use std::process::ExitCode;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use stage::Told;
use tempfile::TempDir;

/// How a campaign is to be run.
pub(crate) struct Campaign {
    /// Kills, cuts, or whatever it counts; None for its usual number.
    pub(crate) rounds: Option<u64>,
    pub(crate) seed: u64,
    /// A slice of some seconds.
    pub(crate) short: bool,
    more: HashMap<String, String>,
    /// The options that it has beside those of all.
    knows: &'static [&'static str],
}

/// Options of all campaigns that have a value.
const OPTIONS_OF_ALL: &[&str] = &["rounds", "seed"];

impl Campaign {
    fn known(&self) -> impl Iterator<Item = &'static str> {
        OPTIONS_OF_ALL.iter().chain(self.knows).copied()
    }

    /// Takes the words behind its name. What it does not know would else be a full campaign of another kind than was asked for.
    fn take(&mut self, mut words: impl Iterator<Item = String>) -> Told<()> {
        while let Some(word) = words.next() {
            match word.strip_prefix("--") {
                Some("short") => self.short = true,
                Some(name) if self.known().any(|known| known == name) => {
                    let value = words.next().ok_or_else(|| format!("--{name} wants a value"))?;
                    self.more.insert(name.to_owned(), value);
                }
                _ => {
                    let known: Vec<_> = self.known().map(|name| format!("--{name}")).collect();
                    return Err(format!("{word} is not known, but --short and, with a value, {}", known.join(", ")));
                }
            }
        }
        self.rounds = self.option("rounds")?;
        self.seed = self.option("seed")?.unwrap_or(self.seed);
        Ok(())
    }

    /// An option of its own, `--name value`.
    pub(crate) fn option<T: std::str::FromStr>(&self, name: &str) -> Told<Option<T>> {
        assert!(self.known().any(|known| known == name), "--{name} stands in CAMPAIGNS");
        let parse = |text: &String| text.parse().map_err(|_| format!("--{name} {text}: not understood"));
        self.more.get(name).map(parse).transpose()
    }
}

/// Runs a campaign; the promises that did not hold, or why it could not be run.
pub(crate) type Run = fn(&Campaign) -> Told<Vec<String>>;

/// Each campaign, and the options that one of its parts has.
const CAMPAIGNS: &[(&str, Run, &[&str])] = &[
    ("crash", crash::run, &[]),
    ("power", power::run, &["fs"]),
    ("disk", disk::run, &["part"]),
    ("network", network::run, &[]),
    ("overload", overload::run, &["part", "seconds", "sessions", "recipients"]),
    ("outbound", outbound::run, &["part", "recipients", "domains", "sites", "messages"]),
    ("clock", clock::run, &["part", "messages"]),
];

/// Runs a campaign's parts, or the one that is asked for. What one of them did not hold does not keep the others from being run; a
/// short campaign leaves out what cannot be run here.
pub(crate) fn run_parts(campaign: &Campaign, parts: &[(&str, Run)]) -> Told<Vec<String>> {
    let wanted = campaign.option::<String>("part")?;
    if let Some(unknown) = wanted.as_ref().filter(|wanted| parts.iter().all(|(name, _)| name != wanted)) {
        let names: Vec<&str> = parts.iter().map(|(name, _)| *name).collect();
        return Err(format!("there is no part {unknown}, but {}", names.join(", ")));
    }
    let (mut broken, mut ran) = (Vec::new(), 0);
    for (name, run) in parts {
        if wanted.as_ref().is_some_and(|wanted| wanted != name) {
            continue;
        }
        println!("-- {name}");
        match run(campaign) {
            Ok(more) => broken.extend(more.into_iter().map(|text| format!("{name}: {text}"))),
            Err(text) if campaign.short && text.starts_with(SKIPPED) => {
                println!("{text}");
                continue;
            }
            Err(text) if text.starts_with(SKIPPED) => return Err(text),
            Err(text) => broken.push(format!("{name}: {text}")),
        }
        ran += 1;
    }
    if ran == 0 { Err(format!("{SKIPPED}none of its parts can be run")) } else { Ok(broken) }
}

/// Begins the reason of a campaign that cannot be run here.
pub(crate) const SKIPPED: &str = "skipped: ";

/// A directory of its own, removed at the end.
pub(crate) fn scratch() -> Told<TempDir> {
    TempDir::with_prefix("ringpost-faults-").map_err(|error| format!("no directory: {error}"))
}

fn main() -> ExitCode {
    if std::env::args().nth(1).is_some_and(|word| word == replay::INSIDE) {
        replay::inside(&std::env::args().skip(2).collect::<Vec<_>>());
    }
    let mut words = std::env::args().skip(1);
    // Without a name it is one of many tests, and what else is said is for the runner of others.
    let named = words.next().and_then(|word| CAMPAIGNS.iter().find(|(name, ..)| *name == word));
    let chosen = match named {
        Some(one) => std::slice::from_ref(one),
        None => CAMPAIGNS,
    };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |since| since.as_millis() as u64);
    let (mut passed, mut failed, mut ignored) = (0, 0, 0);
    for (name, run, knows) in chosen {
        let mut campaign = Campaign { rounds: None, seed: now, short: named.is_none(), more: HashMap::new(), knows };
        if named.is_some()
            && let Err(text) = campaign.take(words.by_ref())
        {
            eprintln!("{name}: {text}");
            return ExitCode::from(2);
        }
        match play(name, *run, &campaign) {
            Verdict::Held => passed += 1,
            Verdict::Broken => failed += 1,
            Verdict::Skipped => ignored += 1,
        }
    }
    let word = if failed == 0 { "ok" } else { "FAILED" };
    println!("test result: {word}. {passed} passed; {failed} failed; {ignored} ignored; 0 measured; 0 filtered out");
    // A campaign asked for by name must have been run.
    let done = failed == 0 && (named.is_none() || ignored == 0);
    if done { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

enum Verdict {
    Held,
    Broken,
    Skipped,
}

fn play(name: &str, run: Run, campaign: &Campaign) -> Verdict {
    println!("\n== {name}, seed {}", campaign.seed);
    let begun = Instant::now();
    let broken = match run(campaign) {
        Ok(broken) => broken,
        Err(text) if text.starts_with(SKIPPED) => {
            println!("{name}: {text}");
            return Verdict::Skipped;
        }
        Err(text) => vec![text],
    };
    let seconds = begun.elapsed().as_secs_f64();
    if broken.is_empty() {
        println!("{name}: all that is promised held; {seconds:.0} s");
        return Verdict::Held;
    }
    println!("{name}: NOT held, after {seconds:.0} s, seed {}:", campaign.seed);
    broken.iter().for_each(|text| println!("  {text}"));
    Verdict::Broken
}
