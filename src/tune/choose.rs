//! What the figures say: rules from measurements to settings, pure.
//!
//! A default stays unless something else was measurably better: a setting that nobody can give a reason for is one more thing
//! to be wrong. Every choice carries its reason, with the figures.

use super::findings::{Sample, Trial, capacity_per_s, median};
use super::placement::Placement;
use crate::base::limits;
use crate::runtime::survey::CommitPoint;

/// Less than this is noise, as a part of the whole.
const NOISE: f64 = 0.03;
/// With one run each nothing tells the noise, so that more is asked for.
const NOISE_UNREPEATED: f64 = 0.08;
/// A batch is long enough when so large a part of the disk's best rate is reached with it.
const BATCH_GOOD: f64 = 0.8;
/// So are writes in flight.
const DEPTH_GOOD: f64 = 0.9;

/// A key with its value, as TOML, and the reason for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// The key.
    pub key: &'static str,
    /// Its value as TOML.
    pub value: String,
    /// Why, with the figures.
    pub reason: String,
}

/// What was chosen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// Index of the placement.
    pub placement: usize,
    /// Every setting, with its reason; defaults that stay are among them.
    pub settings: Vec<Setting>,
}

/// The placement that carries most, and why. Of those that are equal within the noise, the one with fewer shards' cores; among
/// these, the first.
pub fn placement(measured: &[(Placement, Vec<Sample>)]) -> (usize, String) {
    let capacity = |at: usize| capacity_per_s(measured[at].0.shards.len(), &measured[at].1);
    let best = (0..measured.len()).map(capacity).fold(0.0, f64::max);
    if best == 0.0 {
        return (0, "nothing was measured: one shard for each physical core, by rule".into());
    }
    let near = (0..measured.len()).filter(|at| capacity(*at) >= best * (1.0 - noise(&measured[*at].1)));
    let chosen = near.min_by_key(|at| (measured[*at].0.shards.len(), *at)).expect("the best is near itself");
    let (placement, samples) = &measured[chosen];
    let mut reason = format!(
        "{} ({}): {:.1} us of CPU a message, {:.0} messages/s for {} core(s)",
        placement.name,
        placement.cores(),
        median(samples, |sample| sample.cpu_us),
        capacity(chosen),
        placement.shards.len()
    );
    let others: Vec<String> = (0..measured.len())
        .filter(|at| *at != chosen && !measured[*at].1.is_empty())
        .map(|at| format!("{:.0} on {}", capacity(at), measured[at].0.cores()))
        .collect();
    if !others.is_empty() {
        reason += &format!("; others: {}", others.join(", "));
    }
    (chosen, reason)
}

/// Batch size by the disk's curve: the smallest with which one write at a time reaches most of the best rate.
pub fn batch_bytes(commits: &[CommitPoint]) -> Setting {
    const KEY: &str = "queue.batch_bytes";
    let range = limits::BATCH_FULL_BYTES / 4..=limits::BLOCK_MAX_BYTES;
    let alone: Vec<&CommitPoint> = commits.iter().filter(|point| point.depth == 1).collect();
    let best = alone.iter().map(|point| point.bytes_per_s()).fold(0.0, f64::max);
    let long = alone.iter().filter(|point| range.contains(&point.block_bytes));
    let enough = long.filter(|point| point.bytes_per_s() >= best * BATCH_GOOD).min_by_key(|point| point.block_bytes);
    match enough {
        Some(point) => Setting {
            key: KEY,
            value: point.block_bytes.to_string(),
            reason: format!(
                "blocks of {} KiB reach {:.0} of at best {:.0} MiB/s with one write at a time; a commit takes {} us (p99 {} us)",
                point.block_bytes >> 10,
                point.bytes_per_s() / MIB,
                best / MIB,
                point.p50_us,
                point.p99_us
            ),
        },
        None => Setting {
            key: KEY,
            value: limits::BATCH_FULL_BYTES.to_string(),
            reason: "the default: the disk was not measured, or gains nothing by longer blocks".into(),
        },
    }
}

const MIB: f64 = (1 << 20) as f64;

/// Writes in flight by the disk's curve over depth at the size nearest to the batch size.
pub fn writes_in_flight(commits: &[CommitPoint], batch_bytes: usize) -> Setting {
    const KEY: &str = "queue.writes_in_flight";
    let deep = commits.iter().filter(|point| point.depth > 1);
    let Some(size) = deep.map(|point| point.block_bytes).min_by_key(|size| size.abs_diff(batch_bytes)) else {
        let reason = "the default: the disk was not measured".into();
        return Setting { key: KEY, value: limits::WRITES_IN_FLIGHT_MAX.to_string(), reason };
    };
    let of_size: Vec<&CommitPoint> = commits.iter().filter(|point| point.block_bytes == size).collect();
    let best = of_size.iter().map(|point| point.bytes_per_s()).fold(0.0, f64::max);
    let enough = of_size.iter().filter(|point| point.bytes_per_s() >= best * DEPTH_GOOD);
    let point = enough.min_by_key(|point| point.depth).expect("the best is enough");
    let curve: Vec<String> =
        of_size.iter().map(|point| format!("{} gives {:.0} MiB/s", point.depth, point.bytes_per_s() / MIB)).collect();
    Setting {
        key: KEY,
        value: point.depth.to_string(),
        reason: format!("with blocks of {} KiB a depth of {}", size >> 10, curve.join(", ")),
    }
}

/// The trial to take, if one is better than the first by more than the noise: less CPU at no lower rate, or a higher rate
/// for no more CPU.
pub fn trial(measured: &[(Trial, Vec<Sample>)]) -> Option<(usize, String)> {
    let (_, base) = measured.first()?;
    let cpu = |samples: &[Sample]| median(samples, |sample| sample.cpu_us);
    let rate = |samples: &[Sample]| median(samples, |sample| sample.delivered_per_s);
    let better = |samples: &[Sample]| {
        let noise = noise(base).max(noise(samples));
        let (less, more) = (cpu(samples) / cpu(base), rate(samples) / rate(base));
        (less < 1.0 - noise && more > 1.0 - noise) || (more > 1.0 + noise && less < 1.0 + noise)
    };
    let candidates = (1..measured.len()).filter(|at| !measured[*at].1.is_empty() && better(&measured[*at].1));
    let chosen = candidates.min_by(|a, b| cpu(&measured[*a].1).total_cmp(&cpu(&measured[*b].1)))?;
    let samples = &measured[chosen].1;
    Some((
        chosen,
        format!(
            "{}: {:.1} us and {:.0}/s, against {:.1} us and {:.0}/s without",
            measured[chosen].0.name,
            cpu(samples),
            rate(samples),
            cpu(base),
            rate(base)
        ),
    ))
}

/// How far apart runs of the same thing were, and at least a little.
fn noise(samples: &[Sample]) -> f64 {
    if samples.len() < 2 {
        return NOISE_UNREPEATED;
    }
    let middle = median(samples, |sample| sample.cpu_us).max(1e-9);
    let most = samples.iter().map(|sample| sample.cpu_us).fold(0.0, f64::max);
    let least = samples.iter().map(|sample| sample.cpu_us).fold(f64::INFINITY, f64::min);
    ((most - least) / middle / 2.0).max(NOISE)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tune::placement::candidates;
    use crate::tune::topology::Topology;

    fn sample(cpu_us: f64, delivered_per_s: f64) -> Sample {
        Sample { cpu_us, delivered_per_s, ..Sample::default() }
    }

    fn point(block_bytes: usize, depth: usize, mib_per_s: f64) -> CommitPoint {
        let commits_per_s = mib_per_s * MIB / block_bytes as f64;
        CommitPoint { block_bytes, depth, commits_per_s, p50_us: 100, ..CommitPoint::default() }
    }

    #[test]
    fn more_cores_win_unless_each_message_then_costs_more() {
        let found = candidates(&Topology::described("cores = 2").unwrap());
        let with = |cpu: [f64; 3]| -> Vec<(Placement, Vec<Sample>)> {
            found.iter().cloned().zip(cpu.map(|cpu| vec![sample(cpu, 1.0); 3])).collect()
        };
        let (chosen, reason) = placement(&with([42.0, 40.0, 40.0]));
        assert_eq!(found[chosen].cores(), "0-1");
        assert!(reason.contains("42.0 us") && reason.contains("25000 on 0"), "{reason}");
        // Two shards that cost twice as much a message carry no more than one.
        assert_eq!(found[placement(&with([80.0, 40.0, 41.0])).0].cores(), "0");
        assert_eq!(found[placement(&with([80.0, 44.0, 40.0])).0].cores(), "1");
        let none: Vec<_> = found.iter().cloned().map(|placement| (placement, Vec::new())).collect();
        assert_eq!(placement(&none).0, 0);
    }

    #[test]
    fn batches_are_as_long_as_the_disk_asks_for() {
        let curve = |rates: [f64; 4]| {
            let sizes = [64 << 10, 128 << 10, 256 << 10, 1 << 20];
            sizes.into_iter().zip(rates).map(|(size, rate)| point(size, 1, rate)).collect::<Vec<_>>()
        };
        assert_eq!(batch_bytes(&curve([300.0, 900.0, 950.0, 1000.0])).value, (128 << 10).to_string());
        assert_eq!(batch_bytes(&curve([100.0, 200.0, 400.0, 1000.0])).value, (1 << 20).to_string());
        assert_eq!(batch_bytes(&[]).value, limits::BATCH_FULL_BYTES.to_string());
    }

    #[test]
    fn depth_stops_where_it_gains_nothing() {
        let curve = [1, 2, 4, 8].into_iter().zip([400.0, 700.0, 960.0, 1000.0]);
        let points: Vec<CommitPoint> = curve.map(|(depth, rate)| point(256 << 10, depth, rate)).collect();
        assert_eq!(writes_in_flight(&points, 128 << 10).value, "4");
        assert_eq!(writes_in_flight(&points[..1], 128 << 10).value, limits::WRITES_IN_FLIGHT_MAX.to_string());
    }

    #[test]
    fn what_is_not_clearly_better_stays_out() {
        let named = |name: &str| Trial { name: name.into(), sets: Vec::new() };
        let with = |cpu: [f64; 3], rate: [f64; 3]| {
            let names = [named("defaults"), named("a"), named("b")].into_iter();
            names.zip(cpu.into_iter().zip(rate)).map(|(n, (c, r))| (n, vec![sample(c, r); 3])).collect::<Vec<_>>()
        };
        assert_eq!(trial(&with([40.0, 39.5, 40.5], [100.0, 101.0, 99.0])), None);
        assert_eq!(trial(&with([40.0, 37.0, 35.0], [100.0, 101.0, 80.0])).unwrap().0, 1);
        assert_eq!(trial(&with([40.0, 40.0, 36.0], [100.0, 120.0, 100.0])).unwrap().0, 2);
        assert_eq!(trial(&[]), None);
        // Runs far apart prove nothing.
        let noisy = vec![
            (named("defaults"), vec![sample(40.0, 100.0), sample(50.0, 100.0), sample(44.0, 100.0)]),
            (named("a"), vec![sample(39.5, 100.0); 3]),
        ];
        assert_eq!(trial(&noisy), None);
        assert_eq!(trial(&[(named("defaults"), vec![sample(40.0, 1.0)]), (named("a"), vec![sample(38.0, 1.0)])]), None);
    }
}
