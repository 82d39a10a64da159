//! `loadgen floor`: its arguments.

use std::path::PathBuf;

use clap::Args;

use loadgen::floor::{self, FloorPlan};
use loadgen::system;
use loadgen::units::parse_size;

use super::{Failure, write_both};

#[derive(Args)]
pub(super) struct FloorArguments {
    /// Sessions at a time, on either side
    #[arg(long, short = 'c', default_value_t = 20)]
    sessions: u32,
    /// Messages through the sockets
    #[arg(long, short = 'n', default_value_t = 20_000)]
    messages: u64,
    /// Message size
    #[arg(long, short = 's', value_parser = parse_size, default_value = "10KiB")]
    size: u64,
    /// Round trips per message, 1 or 2
    #[arg(long, short = 'r', default_value_t = 2)]
    round_trips: u32,
    /// Messages per commit, several by comma; 0 for no disk
    #[arg(long, short = 'b', value_delimiter = ',', default_value = "1,4,16,64")]
    batch: Vec<u32>,
    /// Directory of the file that is written: on the disk of the relay's queue
    #[arg(long, default_value = "/var/tmp")]
    dir: PathBuf,
    /// Core of the middle; the ends go to the next one (default: 0 where there are several)
    #[arg(long)]
    core: Option<usize>,
    /// Core of the ends
    #[arg(long)]
    end_core: Option<usize>,
    /// Write the figures as JSON to a file, or to standard output with -
    #[arg(long)]
    json: Option<PathBuf>,
}

pub(super) fn perform(arguments: &FloorArguments) -> Result<bool, Failure> {
    let cores = system::cores();
    let core = arguments.core.or((cores > 1).then_some(0));
    let plan = FloorPlan {
        sessions: arguments.sessions,
        messages: arguments.messages,
        size_bytes: arguments.size,
        round_trips: arguments.round_trips,
        batches: arguments.batch.iter().copied().filter(|batch| *batch > 0).collect(),
        dir: arguments.dir.clone(),
        core,
        end_core: arguments.end_core.or(core.filter(|_| cores > 1).map(|core| (core + 1) % cores)),
    };
    plan.check().map_err(Failure::Usage)?;
    let report = floor::run(&plan)?;
    write_both(
        &report.to_string(),
        &serde_json::to_value(&report).map_err(std::io::Error::from)?,
        arguments.json.as_deref(),
    )?;
    Ok(true)
}
