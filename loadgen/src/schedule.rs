//! Schedules of an open loop: when the next message is to be started, whatever the relay does.
//!
//! A schedule is a rate over time in straight pieces. Its running total maps time to a number of starts; the inverse maps
//! the n-th start to its time, in closed form, so that no start drifts. Evenly, the n-th start is where the total reaches
//! n; at random (Poisson), the steps between totals are exponentially distributed, which makes a Poisson process of any
//! shape. Workers share a schedule without talking: each takes every k-th place, or a k-th of the random rate. Pure.

use std::fmt::{self, Display, Formatter};
use std::str::FromStr;
use std::sync::Arc;

use crate::clock::SECOND_NS;
use crate::rng::Rng;
use crate::trace::Trace;
use crate::units::parse_duration;

/// The highest rate, in starts per second.
pub const RATE_MAX: f64 = 1e8;
const STEPS_MAX: usize = 1000;

/// A rate that goes straight from one value to another.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Piece {
    /// Infinite for the last.
    length_s: f64,
    from: f64,
    to: f64,
}

impl Piece {
    fn flat(length_s: f64, rate: f64) -> Piece {
        Piece { length_s, from: rate, to: rate }
    }

    fn slope(&self) -> f64 {
        if self.length_s.is_finite() { (self.to - self.from) / self.length_s } else { 0.0 }
    }

    /// Starts in its first seconds.
    fn count_in(&self, s: f64) -> f64 {
        self.from * s + self.slope() * s * s / 2.0
    }

    fn count(&self) -> f64 {
        if self.length_s.is_finite() { self.count_in(self.length_s) } else { f64::INFINITY }
    }

    /// When the total reaches `count`, in seconds from its beginning.
    fn time_of(&self, count: f64) -> f64 {
        if count <= 0.0 {
            return 0.0;
        }
        // The root of a quadratic, in the form that stays exact where the slope is nothing.
        let root = (self.from * self.from + 2.0 * self.slope() * count).max(0.0).sqrt();
        2.0 * count / (self.from + root)
    }
}

/// When messages are started.
#[derive(Clone, Debug, PartialEq)]
pub struct Schedule {
    text: String,
    pieces: Vec<Piece>,
    repeats: bool,
    random: bool,
}

impl Schedule {
    /// The same rate all the time, in even steps.
    pub fn constant(rate: f64) -> Schedule {
        let pieces = vec![Piece::flat(f64::INFINITY, rate)];
        Schedule { text: format!("{rate}/s"), pieces, repeats: false, random: false }
    }

    fn round(&self) -> (f64, f64) {
        self.pieces.iter().fold((0.0, 0.0), |(s, count), piece| (s + piece.length_s, count + piece.count()))
    }

    /// When the total reaches `count`, in seconds from the start.
    fn time_of(&self, mut count: f64) -> f64 {
        let mut begun_s = 0.0;
        if self.repeats {
            let (length_s, total) = self.round();
            let rounds = (count / total).floor();
            begun_s = rounds * length_s;
            count -= rounds * total;
        }
        for piece in &self.pieces {
            if count < piece.count() {
                return begun_s + piece.time_of(count);
            }
            count -= piece.count();
            begun_s += piece.length_s;
        }
        // Rounding at the very end of a repeated round.
        begun_s
    }

    /// Starts planned before that time, in seconds from the start.
    fn count_before(&self, mut s: f64) -> f64 {
        let mut count = 0.0;
        if self.repeats {
            let (length_s, total) = self.round();
            let rounds = (s / length_s).floor();
            count = rounds * total;
            s -= rounds * length_s;
        }
        for piece in &self.pieces {
            let part = s.min(piece.length_s);
            count += piece.count_in(part);
            s -= part;
        }
        count
    }
}

impl Display for Schedule {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl FromStr for Schedule {
    type Err = String;

    fn from_str(text: &str) -> Result<Schedule, String> {
        if let Some(shape) = text.strip_prefix("poisson:") {
            let schedule: Schedule = shape.parse()?;
            return Ok(Schedule { text: text.into(), random: true, ..schedule });
        }
        let wrong = || {
            format!(
                "`{text}` is no schedule; write 500, constant:500, poisson:500, steps:100,200,400@5s, ramp:100..900@30s, \
                 burst:100,900@1s/10s, or poisson: before any of these"
            )
        };
        let (kind, rest) = text.split_once(':').unwrap_or(("constant", text));
        let (rates, times) = rest.split_once('@').unwrap_or((rest, ""));
        let rate = |text: &str| {
            text.trim().parse::<f64>().ok().filter(|rate| (0.0..=RATE_MAX).contains(rate)).ok_or_else(wrong)
        };
        let length =
            |text: &str| parse_duration(text).ok().map(|d| d.as_secs_f64()).filter(|s| *s > 0.0).ok_or_else(wrong);
        let mut repeats = false;
        let pieces = match (kind, times) {
            ("constant", "") => vec![Piece::flat(f64::INFINITY, rate(rates)?)],
            ("steps", step) => {
                let step_s = length(step)?;
                let mut pieces: Vec<Piece> =
                    rates.split(',').map(|text| Ok(Piece::flat(step_s, rate(text)?))).collect::<Result<_, String>>()?;
                pieces.last_mut().ok_or_else(wrong)?.length_s = f64::INFINITY;
                pieces
            }
            ("ramp", span) => {
                let (from, to) = rates.split_once("..").ok_or_else(wrong)?;
                let (from, to) = (rate(from)?, rate(to)?);
                vec![Piece { length_s: length(span)?, from, to }, Piece::flat(f64::INFINITY, to)]
            }
            ("burst", times) => {
                repeats = true;
                let (base, peak) = rates.split_once(',').ok_or_else(wrong)?;
                let (burst, period) = times.split_once('/').ok_or_else(wrong)?;
                let (burst_s, period_s) = (length(burst)?, length(period)?);
                if burst_s >= period_s {
                    return Err(wrong());
                }
                vec![Piece::flat(period_s - burst_s, rate(base)?), Piece::flat(burst_s, rate(peak)?)]
            }
            _ => return Err(wrong()),
        };
        // A schedule that comes to a stand would never end.
        let goes_on =
            if repeats { pieces.iter().any(|p| p.to > 0.0) } else { pieces.last().is_some_and(|p| p.to > 0.0) };
        if !goes_on || pieces.len() > STEPS_MAX {
            return Err(wrong());
        }
        Ok(Schedule { text: text.into(), pieces, repeats, random: false })
    }
}

/// Where a planner has its starts from.
#[derive(Clone, Debug)]
enum Source {
    Schedule(Schedule),
    Trace(Arc<Trace>),
}

/// One worker's part of a schedule or a trace.
#[derive(Clone, Debug)]
pub struct Planner {
    source: Source,
    workers: f64,
    /// The next start's place on the schedule's total.
    place: f64,
    next_ns: u64,
    rng: Rng,
}

impl Planner {
    /// The part of worker `index` out of `workers`.
    pub fn new(schedule: &Schedule, index: u64, workers: u64, seed: u64) -> Planner {
        let rng = Rng::new(seed.wrapping_mul(0x9e37_79b9).wrapping_add(index));
        let source = Source::Schedule(schedule.clone());
        let mut planner = Planner { source, workers: workers as f64, place: index as f64, next_ns: 0, rng };
        if schedule.random {
            planner.place = planner.gap();
        }
        planner.plan();
        planner
    }

    /// The part of worker `index` out of `workers` of a trace: each takes every so many-th start.
    pub fn of_trace(trace: &Arc<Trace>, index: u64, workers: u64) -> Planner {
        let source = Source::Trace(Arc::clone(trace));
        let mut planner =
            Planner { source, workers: workers as f64, place: index as f64, next_ns: 0, rng: Rng::new(0) };
        planner.plan();
        planner
    }

    /// The next start's place in the trace; None with a schedule, whose starts are all alike.
    pub fn trace_place(&self) -> Option<u64> {
        matches!(self.source, Source::Trace(_)).then_some(self.place as u64)
    }

    /// True behind the last start of a trace.
    pub fn is_over(&self) -> bool {
        self.next_ns == u64::MAX
    }

    /// The next start, in nanoseconds from the beginning.
    pub fn next_ns(&self) -> u64 {
        self.next_ns
    }

    /// The next start is made.
    pub fn advance(&mut self) {
        let is_random = matches!(&self.source, Source::Schedule(schedule) if schedule.random);
        self.place += if is_random { self.gap() } else { self.workers };
        self.plan();
    }

    /// Passes over all starts planned before that time; returns how many they were (at random: how many were due on
    /// average).
    pub fn pass_over(&mut self, limit_ns: u64) -> u64 {
        if self.next_ns >= limit_ns {
            return 0;
        }
        let count = match &self.source {
            Source::Schedule(schedule) => {
                let behind = schedule.count_before(limit_ns as f64 / SECOND_NS as f64) - self.place;
                (behind / self.workers).ceil().max(1.0)
            }
            Source::Trace(trace) => {
                let mut count = 0.0;
                let at = |place: f64| trace.at_ns(place as u64).unwrap_or(u64::MAX);
                while at(self.place + count * self.workers) < limit_ns {
                    count += 1.0;
                }
                count
            }
        };
        self.place += count * self.workers;
        self.plan();
        count as u64
    }

    fn plan(&mut self) {
        self.next_ns = match &self.source {
            Source::Schedule(schedule) => (schedule.time_of(self.place) * SECOND_NS as f64) as u64,
            Source::Trace(trace) => trace.at_ns(self.place as u64).unwrap_or(u64::MAX),
        };
    }

    fn gap(&mut self) -> f64 {
        // 0 < draw <= 1, so the logarithm is finite.
        let draw = ((self.rng.next_u64() >> 11) + 1) as f64 / (1u64 << 53) as f64;
        -draw.ln() * self.workers
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn starts(text: &str, count: usize) -> Vec<f64> {
        let mut planner = Planner::new(&text.parse().unwrap(), 0, 1, 7);
        let mut times = Vec::new();
        for _ in 0..count {
            times.push(planner.next_ns() as f64 / SECOND_NS as f64);
            planner.advance();
        }
        assert!(times.windows(2).all(|two| two[0] <= two[1]), "{text}: {times:?}");
        times
    }

    fn between(times: &[f64], from: f64, to: f64) -> usize {
        times.iter().filter(|time| (from..to).contains(*time)).count()
    }

    #[test]
    fn shapes_have_the_rates_they_tell() {
        assert_eq!(starts("10", 3), [0.0, 0.1, 0.2]);
        let steps = starts("steps:100,0,300@2s", 1500);
        assert_eq!([between(&steps, 0.0, 2.0), between(&steps, 2.0, 4.0), between(&steps, 4.0, 5.0)], [200, 0, 300]);
        let ramp = starts("ramp:0..1000@2s", 2000);
        // The total is 250 t^2: a quarter of the ramp's starts lie in its first half.
        assert!(between(&ramp, 0.0, 1.0).abs_diff(250) <= 1 && between(&ramp, 2.0, 2.5).abs_diff(500) <= 1);
        let burst = starts("burst:100,900@1s/4s", 2400);
        for round in [0.0, 4.0] {
            assert!(between(&burst, round, round + 3.0).abs_diff(300) <= 1);
            assert!(between(&burst, round + 3.0, round + 4.0).abs_diff(900) <= 1);
        }
    }

    #[test]
    fn random_starts_keep_the_rate_and_vary() {
        let times = starts("poisson:1000", 20_000);
        // The spread of a Poisson count of 10,000 is 100.
        assert!(between(&times, 0.0, 10.0).abs_diff(10_000) < 500);
        let seconds: Vec<f64> = (0..10).map(|s| between(&times, f64::from(s), f64::from(s + 1)) as f64).collect();
        let mean = seconds.iter().sum::<f64>() / 10.0;
        let variance = seconds.iter().map(|count| (count - mean).powi(2)).sum::<f64>() / 9.0;
        assert!(variance > 100.0, "evenly spaced starts would have none: {variance}");
        assert_eq!(times, starts("poisson:1000", 20_000), "the same seed plans the same");
        let shaped = starts("poisson:burst:10,1000@1s/2s", 3000);
        assert!(between(&shaped, 1.0, 2.0) > 5 * between(&shaped, 0.0, 1.0));
    }

    #[test]
    fn workers_share_a_schedule() {
        let schedule: Schedule = "ramp:100..500@3s".parse().unwrap();
        let mut all = Vec::new();
        for index in 0..3 {
            let mut planner = Planner::new(&schedule, index, 3, 1);
            for _ in 0..100 {
                all.push(planner.next_ns());
                planner.advance();
            }
        }
        all.sort_unstable();
        let mut one = Planner::new(&schedule, 0, 1, 1);
        for time in all {
            assert_eq!(one.next_ns(), time);
            one.advance();
        }
    }

    #[test]
    fn what_was_passed_over_is_counted() {
        for text in ["1000", "ramp:500..1500@2s", "burst:500,1500@1s/2s"] {
            let mut planner = Planner::new(&text.parse().unwrap(), 0, 1, 1);
            (0..10).for_each(|_| planner.advance());
            let missed = planner.pass_over(2 * SECOND_NS);
            assert!(missed.abs_diff(1990) <= 1, "{text}: {missed}");
            assert!(planner.next_ns() >= 2 * SECOND_NS - 1000 && planner.pass_over(SECOND_NS) == 0);
        }
    }

    #[test]
    fn a_trace_is_shared_and_ends() {
        let trace = Arc::new(Trace::parse("x", "0.3\n0.1\n0.2\n0.2\n0.9\n", 1000, 1).unwrap());
        let mut one = Planner::of_trace(&trace, 1, 2);
        assert_eq!((one.next_ns(), one.trace_place()), (SECOND_NS / 5, Some(1)));
        one.advance();
        assert_eq!((one.next_ns(), one.trace_place(), one.is_over()), (SECOND_NS * 3 / 10, Some(3), false));
        one.advance();
        assert!(one.is_over() && one.pass_over(u64::MAX - 1) == 0);
        let mut other = Planner::of_trace(&trace, 0, 2);
        assert_eq!((other.pass_over(SECOND_NS / 2), other.next_ns()), (2, SECOND_NS * 9 / 10));
        assert_eq!((other.pass_over(SECOND_NS), other.is_over()), (1, true));
    }

    #[test]
    fn nonsense_is_refused() {
        for text in [
            "",
            "0",
            "x",
            "-1",
            "steps:1@0s",
            "steps:5,0@1s",
            "ramp:5@1s",
            "ramp:5..0@1s",
            "burst:1,2@2s/1s",
            "constant:5@1s",
            "wave:5",
        ] {
            assert!(text.parse::<Schedule>().is_err(), "{text}");
        }
    }
}
