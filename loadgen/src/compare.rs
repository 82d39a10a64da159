//! The same scenario against several relays in turn: A B C, A B C, and so on, so that whatever else the machine does hits
//! all of them alike.
//!
//! [`compare`] holds the calling thread, which is the parent of each relay. Each run has a fresh directory of its own,
//! removed if the run was good. A relay that does not start, or loses mail, is told in its place; the others go on.

use std::fmt::{self, Display, Formatter};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::client::Pipeline;
use crate::floor::{self, FloorPlan, FloorReport};
use crate::progress::Progress;
use crate::recipes::Recipe;
use crate::report::Report;
use crate::run::{self, Scenario};
use crate::system;
use crate::table::{Case, Table};

/// What a comparison's `kind` says.
pub const KIND: &str = "compare";
/// Messages of a floor where the scenario is limited by time.
const FLOOR_MESSAGES: u64 = 50_000;
/// Messages per commit for which a floor is measured.
const FLOOR_BATCHES: [u32; 8] = [1, 2, 4, 8, 16, 24, 32, 64];

/// How a relay is started.
#[derive(Clone, Debug, PartialEq)]
pub enum How {
    /// Not at all: the load goes straight to the sink.
    Nothing,
    /// By a ready set-up.
    Recipe(Recipe),
    /// By a command with `{listen}`, `{sink}` and `{dir}` in it.
    Command(Vec<String>),
}

/// A relay that takes part.
#[derive(Clone, Debug, PartialEq)]
pub struct Contender {
    /// What it is called in the table.
    pub name: String,
    /// How it is started.
    pub how: How,
}

/// What to compare.
#[derive(Clone, Debug)]
pub struct ComparePlan {
    /// Who takes part; ratios are to the first.
    pub contenders: Vec<Contender>,
    /// Runs of each.
    pub rounds: u32,
    /// The scenario; its relay and directory are put in here.
    pub scenario: Scenario,
    /// Where the runs' directories are made: on the disk that is to be measured.
    pub parent: PathBuf,
    /// How long to wait before each run for the machine to be quiet; it is run all the same after that.
    pub quiet_longest: Duration,
    /// Measure the floor of this scenario too, in each round behind the relays.
    pub floor_each_round: bool,
}

/// The runs of one relay.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Entry {
    /// Its name.
    pub name: String,
    /// Its version, where a recipe tells.
    pub version: Option<String>,
    /// Its runs, with all their figures.
    pub runs: Vec<Report>,
    /// Runs that could not be made, or were not good: why, and where the relay's files are.
    pub troubles: Vec<String>,
}

/// What came of it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Comparison {
    /// Always `compare`: tells this file from others.
    pub kind: String,
    /// Rounds asked for.
    pub rounds: u32,
    /// The relays, in the order given.
    pub entries: Vec<Entry>,
    /// The floor, if one was given.
    pub floor: Option<FloorReport>,
}

/// A moment of a comparison: who runs, in which round.
pub struct Turn<'a> {
    /// The relay's name.
    pub name: &'a str,
    /// The round, from 1.
    pub round: u32,
    /// What its run does now; None before it begins.
    pub progress: Option<&'a Progress>,
}

/// Runs all rounds, telling `show` what goes on.
pub fn compare(plan: &ComparePlan, show: &mut dyn FnMut(&Turn<'_>)) -> io::Result<Comparison> {
    let mut entries = Vec::new();
    for contender in &plan.contenders {
        let version = match &contender.how {
            How::Recipe(recipe) => Some(recipe.version()?),
            _ => None,
        };
        entries.push(Entry { name: contender.name.clone(), version, runs: Vec::new(), troubles: Vec::new() });
    }
    let mut floors = Vec::new();
    for round in 1..=plan.rounds {
        for (contender, entry) in plan.contenders.iter().zip(&mut entries) {
            if system::interrupted() {
                break;
            }
            show(&Turn { name: &contender.name, round, progress: None });
            await_quiet(plan.quiet_longest);
            one(plan, contender, round, entry, show)?;
        }
        if plan.floor_each_round && !system::interrupted() {
            show(&Turn { name: "floor", round, progress: None });
            await_quiet(plan.quiet_longest);
            floors.push(floor::run(&floor_plan(plan))?);
        }
    }
    let measured = FloorReport::of_rounds(&floors);
    if let Some(floor) = &measured {
        entries.iter_mut().flat_map(|entry| &mut entry.runs).for_each(|run| run.set_beside(floor));
    }
    let floor = measured.or_else(|| plan.scenario.floor.clone());
    Ok(Comparison { kind: KIND.into(), rounds: plan.rounds, entries, floor })
}

/// The same bytes, sessions and round trips as the scenario's, without mail in them.
fn floor_plan(plan: &ComparePlan) -> FloorPlan {
    let load = &plan.scenario.load;
    FloorPlan {
        sessions: load.sessions,
        messages: if load.messages > 0 { load.messages } else { FLOOR_MESSAGES },
        size_bytes: load.sizes.mean_bytes() as u64,
        round_trips: if load.pipeline == Pipeline::Across { 1 } else { 2 },
        batches: FLOOR_BATCHES.to_vec(),
        dir: plan.parent.clone(),
        core: plan.scenario.relay_core,
        end_core: load.core,
    }
}

/// One run. Only what has nothing to do with the relay is an error.
fn one(
    plan: &ComparePlan,
    contender: &Contender,
    round: u32,
    entry: &mut Entry,
    show: &mut dyn FnMut(&Turn<'_>),
) -> io::Result<()> {
    let place = format!("loadgen-{}-{}-{round}", std::process::id(), file_name(&contender.name));
    let dir = plan.parent.join(place);
    std::fs::create_dir_all(&dir)?;
    let relay = match &contender.how {
        How::Nothing => None,
        How::Recipe(recipe) => Some(recipe.prepare(&dir)?),
        How::Command(argv) => Some(argv.clone()),
    };
    let scenario = Scenario { relay, dir: Some(dir.clone()), ..plan.scenario.clone() };
    let name = &contender.name;
    let outcome = run::run(&scenario, &mut |progress| show(&Turn { name, round, progress: Some(progress) }));
    match outcome {
        Err(error) => entry.troubles.push(format!("round {round}: {error} (files in {})", dir.display())),
        Ok(outcome) => {
            let good = outcome.is_good();
            if !good {
                let what = outcome.report.troubles.join("; ");
                let ledger = &outcome.report.ledger;
                entry.troubles.push(format!(
                    "round {round}: lost {}, corrupted {}; {what} (files in {})",
                    ledger.lost,
                    ledger.corrupted,
                    dir.display()
                ));
            }
            entry.runs.push(outcome.report);
            if good {
                // Left behind if it cannot be removed; the next run has a directory of its own.
                let _ = std::fs::remove_dir_all(&dir);
            }
        }
    }
    Ok(())
}

/// Waits until the machine used less than an eighth of a core for half a second.
fn await_quiet(longest: Duration) {
    const LOOK: Duration = Duration::from_millis(500);
    let begun = std::time::Instant::now();
    while begun.elapsed() < longest && !system::interrupted() {
        let before_ns = system::machine_cpu_ns();
        std::thread::sleep(LOOK);
        if system::machine_cpu_ns().saturating_sub(before_ns) < LOOK.as_nanos() as u64 / 8 {
            return;
        }
    }
}

/// A name as a directory may have it.
pub fn file_name(name: &str) -> String {
    name.chars().map(|c| if c.is_ascii_alphanumeric() || c == '-' || c == '_' { c } else { '_' }).take(40).collect()
}

impl Comparison {
    /// True if every run was made and was good.
    pub fn is_good(&self) -> bool {
        self.entries.iter().all(|entry| entry.troubles.is_empty() && entry.runs.len() == self.rounds as usize)
    }

    /// The relays for a table.
    pub fn cases(&self) -> Vec<Case<'_>> {
        self.entries.iter().map(|entry| Case { name: &entry.name, runs: &entry.runs }).collect()
    }

    /// Reads what `loadgen compare --json` wrote.
    pub fn load(path: &Path) -> io::Result<Comparison> {
        serde_json::from_slice(&std::fs::read(path)?)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, format!("{}: {error}", path.display())))
    }
}

impl Display for Comparison {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        if let Some(asked) = self.entries.iter().find_map(|entry| entry.runs.first()).map(|run| &run.asked) {
            writeln!(f, "load         {}", asked.line())?;
        }
        writeln!(f, "shown        medians of {} round(s); x is the ratio to the first relay\n", self.rounds)?;
        f.write_str(&Table::of(&self.cases(), self.floor.as_ref()).text())?;
        if let Some(floor) = &self.floor {
            write!(f, "\n{floor}")?;
        }
        for entry in &self.entries {
            if let Some(version) = &entry.version {
                writeln!(f, "\n{}: {version}", entry.name)?;
            }
            for trouble in &entry.troubles {
                writeln!(f, "TROUBLE      {}, {trouble}", entry.name)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_make_safe_directories() {
        assert_eq!(file_name("../a b/c"), "___a_b_c");
        assert_eq!(file_name(&"x".repeat(100)).len(), 40);
    }
}
