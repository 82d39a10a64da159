//! What was measured and what follows: plain data, for the report and the file.

use super::choose::Choice;
use super::host::Hint;
use super::placement::Placement;
use super::topology::Topology;
use crate::runtime::survey::CommitPoint;

/// Everything `ringpost tune` found out.
#[derive(Clone, Debug)]
pub struct Findings {
    /// The machine.
    pub topology: Topology,
    /// When, as a text.
    pub at: String,
    /// Where the queue is.
    pub queue_dir: String,
    /// Commits of one writer, by size and depth.
    pub commits: Vec<CommitPoint>,
    /// Commits of one writer for each shard of the largest placement.
    pub shared: Vec<CommitPoint>,
    /// The placements, each with its runs.
    pub placements: Vec<(Placement, Vec<Sample>)>,
    /// The settings that were tried on the chosen placement, each with its runs; the defaults first.
    pub trials: Vec<(Trial, Vec<Sample>)>,
    /// What was chosen.
    pub choice: Choice,
    /// What the rest of the system should allow.
    pub hints: Vec<Hint>,
    /// The load, in words.
    pub load: String,
}

/// Settings that differ from the defaults.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trial {
    /// In words.
    pub name: String,
    /// `KEY=VALUE`.
    pub sets: Vec<String>,
}

/// What one run of the relay showed.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Sample {
    /// Messages delivered in a second, with load and sink on the same machine.
    pub delivered_per_s: f64,
    /// The relay's CPU time for a message, all its threads.
    pub cpu_us: f64,
    /// From start to 250, 99 of 100.
    pub accept_p99_us: u64,
    /// Cache flushes of the disk for a message, if it counts them.
    pub flushes: Option<f64>,
}

/// The median of what `of` takes from the samples; 0 of none.
pub fn median(samples: &[Sample], of: impl Fn(&Sample) -> f64) -> f64 {
    let mut values: Vec<f64> = samples.iter().map(of).collect();
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => 0.0,
        odd if odd % 2 == 1 => values[odd / 2],
        even => (values[even / 2 - 1] + values[even / 2]) / 2.0,
    }
}

/// Messages a second that `shards` cores can carry when the load comes from elsewhere, by CPU time for a message.
pub fn capacity_per_s(shards: usize, samples: &[Sample]) -> f64 {
    let cpu_us = median(samples, |sample| sample.cpu_us);
    if cpu_us > 0.0 { shards as f64 * 1e6 / cpu_us } else { 0.0 }
}
