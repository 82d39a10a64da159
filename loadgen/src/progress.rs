//! What is shown while a run is under way: one line, rewritten in place.
//!
//! Called from the thread that runs the scenario, a few times a second. Failing to write is no error.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use crate::clock::seconds;
use crate::latency::LatencySummary;
use crate::ledger::Tally;

/// Where standard error is no terminal, a line is written this often.
const LINE_EVERY: Duration = Duration::from_secs(1);
/// Steps of the bar.
const WHOLE: u64 = 1000;

/// A moment of a run. Counts are messages on the sending side and recipients on the arriving side.
#[derive(Clone, Copy, Debug, Default)]
pub struct Progress {
    /// What is going on: `starting`, `warming up`, `sending`, `draining`.
    pub phase: &'static str,
    /// Since the load began, in nanoseconds.
    pub elapsed_ns: u64,
    /// How much of the load is done, 0 to 1, if that can be told.
    pub share: Option<f64>,
    /// Messages begun.
    pub started: u64,
    /// Messages acknowledged.
    pub acknowledged: u64,
    /// Recipients arrived at the sink.
    pub arrived: u64,
    /// Messages between their start and their last word.
    pub in_flight: u64,
    /// Acknowledged per second since the last moment.
    pub rate_in: f64,
    /// Arrived per second since the last moment.
    pub rate_out: f64,
    /// Kills so far.
    pub kills: u32,
    /// CPU of the relay since the last moment, in cores; for a run that is watched.
    pub relay_cores: Option<f64>,
    /// CPU of sender and sink since the last moment, in cores.
    pub ends_cores: f64,
    /// Latencies of acceptance so far; for a run that is watched.
    pub accept: Option<LatencySummary>,
    /// The ledger so far; for a run that is watched.
    pub tally: Option<Tally>,
}

impl Progress {
    fn words(&self) -> String {
        let kills = if self.kills > 0 { format!("  kills {}", self.kills) } else { String::new() };
        format!(
            "{:6.1} s  in {:6.0}/s  out {:6.0}/s  acknowledged {}  arrived {}  in flight {}{kills}",
            seconds(self.elapsed_ns),
            self.rate_in,
            self.rate_out,
            self.acknowledged,
            self.arrived,
            self.in_flight
        )
    }
}

/// Writes [`Progress`] to standard error, if that is a terminal or it is wanted anyway.
pub struct Line {
    bar: Option<ProgressBar>,
    forced: bool,
    written: Option<Instant>,
}

impl Line {
    /// `forced` writes lines even where standard error is no terminal.
    pub fn new(forced: bool) -> Line {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::new(WHOLE);
            let style = ProgressStyle::with_template("{prefix:>10} {wide_bar:.cyan} {msg}");
            bar.set_style(style.expect("a constant template is sound").progress_chars("━╸ "));
            bar
        });
        Line { bar, forced, written: None }
    }

    /// Shows a moment in the place of the last.
    pub fn show(&mut self, now: &Progress) {
        if let Some(bar) = &self.bar {
            bar.set_prefix(now.phase);
            bar.set_position((now.share.unwrap_or(0.0).clamp(0.0, 1.0) * WHOLE as f64) as u64);
            bar.set_message(now.words());
        } else if self.forced && self.written.is_none_or(|written| written.elapsed() >= LINE_EVERY) {
            self.written = Some(Instant::now());
            let _ = writeln!(std::io::stderr(), "{:>10} {}", now.phase, now.words());
        }
    }

    /// Clears the line, for whatever comes next.
    pub fn clear(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
            bar.reset();
        }
    }
}
