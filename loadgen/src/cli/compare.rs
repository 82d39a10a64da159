//! `loadgen compare`: its arguments.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use loadgen::compare::{self, ComparePlan, Contender, How};
use loadgen::figures::Figures;
use loadgen::figures::chart::chart;
use loadgen::floor::FloorReport;
use loadgen::progress::Line;
use loadgen::recipes::{self, RECIPES};
use loadgen::run::Scenario;
use loadgen::system;
use loadgen::units::parse_duration;

use super::load::{FaultArguments, LoadArguments};
use super::{Failure, apart, split_command, write_both};

#[derive(Args)]
pub(super) struct CompareArguments {
    /// Relays: postfix, exim, opensmtpd, haraka, none, or a command with {listen}, {sink} and {dir} in it, as NAME=COMMAND
    #[arg(required = true)]
    relays: Vec<String>,
    /// Runs of each relay, in turn
    #[arg(long, default_value_t = 3)]
    rounds: u32,
    /// First install what the named recipes need (as root, from the registries)
    #[arg(long)]
    install: bool,
    /// Where the runs' directories are made: on the disk that is to be measured
    #[arg(long, default_value = "/var/tmp")]
    dir: PathBuf,
    /// Longest wait before each run for a quiet machine
    #[arg(long, value_parser = parse_duration, default_value = "10")]
    quiet: Duration,
    /// Core that each relay alone runs on; sender and sink then go to the next one unless told otherwise
    #[arg(long)]
    relay_core: Option<usize>,
    /// What `loadgen floor --json` wrote, for the relays' ratios to it
    #[arg(long)]
    floor: Option<PathBuf>,
    /// Measure the floor in each round instead, behind the relays
    #[arg(long, conflicts_with = "floor")]
    floor_each_round: bool,
    /// How long a relay may take to greet
    #[arg(long, value_parser = parse_duration, default_value = "30")]
    start_longest: Duration,
    /// How long after the load everything acknowledged may take to arrive
    #[arg(long, value_parser = parse_duration, default_value = "120")]
    drain: Duration,
    #[command(flatten)]
    load: LoadArguments,
    #[command(flatten)]
    faults: FaultArguments,
    /// Keep all figures of all runs as JSON in a file, or print them with -
    #[arg(long)]
    json: Option<PathBuf>,
    /// Draw messages a second and CPU a message side by side, as SVG
    #[arg(long)]
    chart: Option<PathBuf>,
    /// Show progress even where standard error is no terminal
    #[arg(long)]
    progress: bool,
}

pub(super) fn perform(arguments: &CompareArguments) -> Result<bool, Failure> {
    let contenders: Vec<Contender> =
        arguments.relays.iter().map(|text| contender(text)).collect::<Result<_, _>>().map_err(Failure::Usage)?;
    if arguments.rounds == 0 {
        return Err(Failure::Usage("a comparison needs at least one round".into()));
    }
    let load = arguments.load.plan().map_err(Failure::Usage)?;
    if arguments.install {
        for contender in &contenders {
            if let How::Recipe(recipe) = &contender.how {
                eprintln!("installing {}", recipe.name);
                recipe.install()?;
            }
        }
    }
    system::catch_interrupts();
    let mut scenario = Scenario {
        load,
        sink: arguments.faults.plan(vec![([127, 0, 0, 1], 0).into()], arguments.load.seed).map_err(Failure::Usage)?,
        start_longest: arguments.start_longest,
        drain_longest: arguments.drain,
        relay_core: arguments.relay_core,
        floor: arguments.floor.as_deref().map(FloorReport::load).transpose()?,
        ..Scenario::default()
    };
    apart(&mut scenario);
    let plan = ComparePlan {
        contenders,
        rounds: arguments.rounds,
        scenario,
        parent: arguments.dir.clone(),
        quiet_longest: arguments.quiet,
        floor_each_round: arguments.floor_each_round,
    };
    let mut line = Line::new(arguments.progress);
    let told = arguments.progress || std::io::stderr().is_terminal();
    let comparison = compare::compare(&plan, &mut |turn| match turn.progress {
        Some(progress) => line.show(progress),
        None if told => {
            line.clear();
            eprintln!("round {} of {}: {}", turn.round, plan.rounds, turn.name);
        }
        None => {}
    })?;
    line.clear();
    let value = serde_json::to_value(&comparison).map_err(std::io::Error::from)?;
    write_both(&comparison.to_string(), &value, arguments.json.as_deref())?;
    if let Some(path) = &arguments.chart {
        let good = comparison.is_good();
        std::fs::write(path, chart(&Figures::of(comparison)))?;
        return Ok(good);
    }
    Ok(comparison.is_good())
}

/// `none`, a recipe's name, a command, or `NAME=` before one of these.
fn contender(text: &str) -> Result<Contender, String> {
    let named = text.split_once('=').filter(|(name, _)| !name.is_empty() && !name.contains([' ', '/', '{', '-']));
    let (name, rest) = named.map_or((None, text), |(name, rest)| (Some(name), rest));
    let how = match (rest, recipes::find(rest)) {
        ("none", _) => How::Nothing,
        (_, Some(recipe)) => How::Recipe(recipe),
        (word, None) if !word.contains(['/', ' ', '{']) => {
            let known: Vec<_> = RECIPES.iter().map(|recipe| recipe.name).collect();
            return Err(format!("`{word}` is no recipe ({}, none) and no command", known.join(", ")));
        }
        (command, None) => How::Command(split_command(command)?),
    };
    let program = rest.split_whitespace().next().unwrap_or(rest);
    let short = program.rsplit('/').next().unwrap_or(program);
    Ok(Contender { name: name.unwrap_or(short).to_string(), how })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn relays_are_named_or_name_themselves() {
        let read = |text: &str| contender(text).map(|contender| (contender.name, contender.how));
        assert_eq!(read("none"), Ok(("none".into(), How::Nothing)));
        assert_eq!(read("postfix").unwrap().0, "postfix");
        assert_eq!(read("tuned=exim"), Ok(("tuned".into(), How::Recipe(recipes::find("exim").unwrap()))));
        let command = How::Command(vec!["/usr/bin/relay".into(), "--a=b".into(), "{listen}".into()]);
        assert_eq!(read("/usr/bin/relay --a=b {listen}"), Ok(("relay".into(), command.clone())));
        assert_eq!(read("ours=/usr/bin/relay --a=b {listen}"), Ok(("ours".into(), command)));
        assert!(read("sendmail").unwrap_err().contains("postfix"));
    }
}
