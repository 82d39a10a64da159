//! What is shown while a run is under way: one line, rewritten in place.
//!
//! Called from the thread that runs the scenario, a few times a second. Failing to write is no error.

use std::io::{IsTerminal, Write};

use crate::clock::seconds;

/// A moment of a run. Counts are messages on the sending side and recipients on the arriving side.
#[derive(Clone, Copy, Debug, Default)]
pub struct Progress {
    /// What is going on: `starting`, `warming up`, `sending`, `draining`.
    pub phase: &'static str,
    /// Since the load began, in nanoseconds.
    pub elapsed_ns: u64,
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
}

/// Writes [`Progress`] to standard error, if that is a terminal or it is wanted anyway.
pub struct Line {
    shown: bool,
    wanted: bool,
}

impl Line {
    /// `forced` shows it even where standard error is no terminal.
    pub fn new(forced: bool) -> Line {
        Line { shown: false, wanted: forced || std::io::stderr().is_terminal() }
    }

    /// Shows a moment in the place of the last.
    pub fn show(&mut self, now: &Progress) {
        if self.wanted {
            let kills = if now.kills > 0 { format!("  kills {}", now.kills) } else { String::new() };
            let line = format!(
                "{:>10} {:6.1} s  in {:8.0}/s  out {:8.0}/s  acknowledged {:9}  arrived {:9}  in flight {:6}{kills}",
                now.phase,
                seconds(now.elapsed_ns),
                now.rate_in,
                now.rate_out,
                now.acknowledged,
                now.arrived,
                now.in_flight
            );
            self.shown = true;
            let _ = write!(std::io::stderr(), "\r{line}\x1b[K");
        }
    }

    /// Clears the line, for whatever comes next.
    pub fn clear(&mut self) {
        if std::mem::take(&mut self.shown) {
            let _ = write!(std::io::stderr(), "\r\x1b[K");
        }
    }
}
