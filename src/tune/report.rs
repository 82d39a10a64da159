//! What was found out, for people, for programs, and for `ringpost run --config`. Pure.

use std::fmt::Write as _;

use serde_json::{Value, json};

use super::findings::{Findings, Sample, capacity_per_s, median};
use super::placement::{Placement, Steering, core_list};
use super::topology::Topology;
use crate::runtime::survey::CommitPoint;

/// Begins the file, and tells one that may be written over.
pub const FILE_HEAD: &str = "# Measured and written by `ringpost tune`";
const MIB: f64 = (1 << 20) as f64;
const BAR_CELLS: usize = 32;

/// Everything, as text.
pub fn text(findings: &Findings) -> String {
    let mut out = format!("machine      {}\n", findings.topology.line());
    write_commits(&mut out, findings);
    write_placements(&mut out, findings);
    write_trials(&mut out, findings);
    out += "\nchosen\n";
    for setting in &findings.choice.settings {
        put(&mut out, format_args!("  {} = {}\n      {}\n", setting.key, setting.value, setting.reason));
    }
    write_interrupts(&mut out, &findings.placements[findings.choice.placement].0.interrupts);
    if !findings.hints.is_empty() {
        out += "\nthe machine could do better\n";
        for hint in &findings.hints {
            put(&mut out, format_args!("  {}: {}\n", hint.what, hint.remedy));
        }
    }
    out
}

/// A string takes everything.
fn put(out: &mut String, text: std::fmt::Arguments<'_>) {
    out.write_fmt(text).expect("a string takes everything");
}

/// A bar of eighths of a cell.
fn bar(value: f64, most: f64) -> String {
    let eighths = (value / most.max(1e-9) * (BAR_CELLS * 8) as f64).round().clamp(0.0, (BAR_CELLS * 8) as f64) as usize;
    let rest = [' ', '▏', '▎', '▍', '▌', '▋', '▊', '▉'][eighths % 8];
    format!("{}{rest}", "█".repeat(eighths / 8)).trim_end().to_owned()
}

fn write_commits(out: &mut String, findings: &Findings) {
    put(out, format_args!("disk         {}, written as the log writes\n\n", findings.queue_dir));
    *out += "  block   depth  writers  commits/s    MiB/s   p50 us   p99 us  cpu us\n";
    let points: Vec<&CommitPoint> = findings.commits.iter().chain(&findings.shared).collect();
    let most = points.iter().map(|point| point.bytes_per_s()).fold(0.0, f64::max);
    for point in points {
        put(
            out,
            format_args!(
                "  {:>4} KiB {:>5} {:>8} {:>10.0} {:>8.0} {:>8} {:>8} {:>7.1}  {}\n",
                point.block_bytes >> 10,
                point.depth,
                point.writers,
                point.commits_per_s,
                point.bytes_per_s() / MIB,
                point.p50_us,
                point.p99_us,
                point.cpu_us,
                bar(point.bytes_per_s(), most)
            ),
        );
    }
}

fn write_placements(out: &mut String, findings: &Findings) {
    put(out, format_args!("\nplacements   {}\n\n", findings.load));
    *out += "  cores        shards  cpu us/msg  carries/s  delivered/s  accept p99  flushes/msg\n";
    let most =
        findings.placements.iter().map(|(placement, s)| capacity_per_s(placement.shards.len(), s)).fold(0.0, f64::max);
    for (number, (placement, samples)) in findings.placements.iter().enumerate() {
        let carries = capacity_per_s(placement.shards.len(), samples);
        put(
            out,
            format_args!(
                "{} {:<12} {:>6} {:>11.1} {:>10.0} {:>12.0} {:>8.1} ms {:>12}  {}\n",
                if number == findings.choice.placement { ">" } else { " " },
                placement.cores(),
                placement.shards.len(),
                median(samples, |sample| sample.cpu_us),
                carries,
                median(samples, |sample| sample.delivered_per_s),
                median(samples, |sample| sample.accept_p99_us as f64) / 1000.0,
                flushes(samples),
                bar(carries, most)
            ),
        );
    }
    *out +=
        "  carries/s: what the shards' cores could carry by their CPU time for a message, with the load elsewhere\n";
}

fn flushes(samples: &[Sample]) -> String {
    match samples.iter().all(|sample| sample.flushes.is_some()) && !samples.is_empty() {
        true => format!("{:.3}", median(samples, |sample| sample.flushes.unwrap_or_default())),
        false => "-".into(),
    }
}

fn write_trials(out: &mut String, findings: &Findings) {
    if findings.trials.is_empty() {
        return;
    }
    *out += "\nsettings     on the chosen placement\n\n";
    *out += "  cpu us/msg  delivered/s  accept p99  flushes/msg  tried\n";
    for (trial, samples) in &findings.trials {
        put(
            out,
            format_args!(
                "  {:>10.1} {:>12.0} {:>8.1} ms {:>12}  {} {}\n",
                median(samples, |sample| sample.cpu_us),
                median(samples, |sample| sample.delivered_per_s),
                median(samples, |sample| sample.accept_p99_us as f64) / 1000.0,
                flushes(samples),
                trial.name,
                trial.sets.join(" ")
            ),
        );
    }
}

fn write_interrupts(out: &mut String, interrupts: &[Steering]) {
    let wrong: Vec<&Steering> = interrupts.iter().filter(|steering| steering.now != [steering.core]).collect();
    if wrong.is_empty() {
        return;
    }
    *out += "\nnetwork interrupts (irqbalance must not move them back)\n";
    for steering in wrong {
        put(
            out,
            format_args!(
                "  {:<8} now on {:<8} echo {} > /proc/irq/{}/smp_affinity_list\n",
                steering.interface,
                core_list(steering.now.iter().copied()),
                steering.core,
                steering.interrupt
            ),
        );
    }
}

/// What would be done on a machine, without measuring.
pub fn explanation(topology: &Topology, placements: &[Placement]) -> String {
    let mut out = format!("machine      {}\n\n", topology.line());
    for (number, placement) in placements.iter().enumerate() {
        let what = if number == 0 { "by rule" } else { "measured beside it" };
        put(&mut out, format_args!("{what}: {}\n", placement.name));
        put(&mut out, format_args!("  shards = {}\n  cores = \"{}\"\n", placement.shards.len(), placement.cores()));
        if number > 0 {
            continue;
        }
        for node in topology.nodes() {
            let of = |cores: &[super::topology::Core]| {
                core_list(cores.iter().filter(|core| core.node == node).map(|core| core.number))
            };
            put(
                &mut out,
                format_args!(
                    "  node {node}: shards on {}; free {}\n",
                    or_none(of(&placement.shards)),
                    or_none(of(&placement.free))
                ),
            );
        }
        placement.reasons.iter().for_each(|reason| put(&mut out, format_args!("  - {reason}\n")));
        write_interrupts(&mut out, &placement.interrupts);
        out.push('\n');
    }
    out
}

fn or_none(text: String) -> String {
    if text.is_empty() { "none".into() } else { text }
}

/// The settings as a configuration file, each with its reason.
pub fn file(findings: &Findings) -> String {
    let mut out = format!("{FILE_HEAD} on {}.\n", findings.at);
    put(&mut out, format_args!("# Machine: {}.\n# Load: {}.\n", findings.topology.line(), findings.load));
    out += "# `ringpost run --config` takes this file; keys of your own may stand beside these.\n\n";
    // Keys without a table first, as TOML wants it.
    let mut settings: Vec<_> =
        findings.choice.settings.iter().map(|s| (s.key, s.value.clone(), s.reason.clone())).collect();
    let dir = Value::from(findings.queue_dir.as_str()).to_string();
    settings.push(("queue.dir", dir, "where all this was measured; another disk has another curve".into()));
    settings.sort_by_key(|(key, ..)| (key.contains('.'), *key));
    for (key, value, reason) in settings {
        for line in wrapped(&reason) {
            put(&mut out, format_args!("# {line}\n"));
        }
        put(&mut out, format_args!("{key} = {value}\n\n"));
    }
    out.trim_end().to_owned() + "\n"
}

/// Lines of at most a hundred characters, broken at spaces.
fn wrapped(text: &str) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let line = lines.last_mut().expect("there is one");
        if !line.is_empty() && line.chars().count() + word.chars().count() >= 100 {
            lines.push(word.to_owned());
        } else {
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
        }
    }
    lines
}

/// Everything, as JSON.
pub fn json(findings: &Findings) -> Value {
    let commits = |points: &[CommitPoint]| -> Vec<Value> { points.iter().map(commit_json).collect() };
    let placements: Vec<Value> = findings
        .placements
        .iter()
        .map(|(placement, samples)| {
            let mut value = placement_json(placement);
            value["carries_per_s"] = json!(capacity_per_s(placement.shards.len(), samples));
            value["runs"] = runs_json(samples);
            value
        })
        .collect();
    let trials: Vec<Value> = findings
        .trials
        .iter()
        .map(|(trial, samples)| json!({"name": trial.name, "sets": trial.sets, "runs": runs_json(samples)}))
        .collect();
    let settings: Vec<Value> = findings
        .choice
        .settings
        .iter()
        .map(|setting| json!({"key": setting.key, "value": setting.value, "reason": setting.reason}))
        .collect();
    json!({
        "kind": "tune",
        "at": findings.at,
        "machine": findings.topology.line(),
        "queue_dir": findings.queue_dir,
        "load": findings.load,
        "commits": commits(&findings.commits),
        "commits_of_all_shards": commits(&findings.shared),
        "placements": placements,
        "trials": trials,
        "chosen": { "placement": findings.choice.placement, "settings": settings },
        "hints": findings.hints.iter().map(|hint| json!({"what": hint.what, "remedy": hint.remedy})).collect::<Vec<_>>(),
    })
}

/// Placements alone, as JSON.
pub fn explanation_json(topology: &Topology, placements: &[Placement]) -> Value {
    let placements: Vec<Value> = placements.iter().map(placement_json).collect();
    json!({ "kind": "tune-placements", "machine": topology.line(), "placements": placements })
}

fn commit_json(point: &CommitPoint) -> Value {
    json!({
        "block_bytes": point.block_bytes, "depth": point.depth, "writers": point.writers, "commits": point.commits,
        "commits_per_s": point.commits_per_s, "p50_us": point.p50_us, "p99_us": point.p99_us, "cpu_us": point.cpu_us,
    })
}

fn placement_json(placement: &Placement) -> Value {
    let interrupts: Vec<Value> = placement
        .interrupts
        .iter()
        .map(|s| json!({"interface": s.interface, "interrupt": s.interrupt, "core": s.core, "now": s.now}))
        .collect();
    json!({
        "name": placement.name, "shards": placement.shards.len(), "cores": placement.cores(),
        "free": core_list(placement.free.iter().map(|core| core.number)),
        "interrupts": interrupts, "reasons": placement.reasons,
    })
}

fn runs_json(samples: &[Sample]) -> Value {
    let runs: Vec<Value> = samples
        .iter()
        .map(|sample| {
            json!({
                "delivered_per_s": sample.delivered_per_s, "cpu_us_per_message": sample.cpu_us,
                "accept_p99_us": sample.accept_p99_us, "flushes_per_message": sample.flushes,
            })
        })
        .collect();
    Value::from(runs)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{self, Machine};
    use crate::tune::choose::{Choice, Setting};
    use crate::tune::findings::Trial;
    use crate::tune::host::Hint;
    use crate::tune::placement::candidates;

    fn findings() -> Findings {
        let topology = Topology::described("cores = 2\n[[interfaces]]\nname = 'eth0'\nqueues = 1").unwrap();
        let sample = Sample { delivered_per_s: 9000.0, cpu_us: 44.0, accept_p99_us: 8000, flushes: Some(0.05) };
        let point =
            CommitPoint { block_bytes: 65536, depth: 1, writers: 1, commits_per_s: 5000.0, ..CommitPoint::default() };
        let setting = |key, value: &str, reason: &str| Setting { key, value: value.into(), reason: reason.into() };
        Findings {
            at: "2026-01-02T03:04:05Z".into(),
            queue_dir: "/var/spool/a \"b\"".into(),
            commits: vec![point, CommitPoint { depth: 2, ..point }],
            shared: vec![CommitPoint { writers: 2, ..point }],
            placements: candidates(&topology).into_iter().map(|placement| (placement, vec![sample])).collect(),
            trials: vec![(Trial { name: "defaults".into(), sets: Vec::new() }, vec![sample])],
            choice: Choice {
                placement: 0,
                settings: vec![
                    setting("queue.batch_bytes", "524288", "the disk's curve"),
                    setting("shards", "2", &"a long reason ".repeat(20)),
                    setting("cores", "\"0-1\"", "there are two"),
                    setting("socket.send_bytes", "0", "the default"),
                ],
            },
            hints: vec![Hint { what: "few files".into(), remedy: "LimitNOFILE=65536".into() }],
            load: "small messages".into(),
            topology,
        }
    }

    #[test]
    fn the_file_is_a_configuration_with_a_reason_for_each_key() {
        let text = file(&findings());
        let settings = config::load(Some(&text), &[], &Machine { hostname: "a.example".into(), cores: 2 }).unwrap();
        assert_eq!(
            (settings.shards, &settings.cores[..], settings.queue.commit.batch_bytes),
            (2, &[0, 1][..], 524_288)
        );
        assert_eq!(settings.queue.dir.to_str(), Some("/var/spool/a \"b\""));
        assert!(text.starts_with(FILE_HEAD) && text.lines().all(|line| line.chars().count() < 110), "{text}");
        for (at, line) in text.lines().enumerate().filter(|(_, line)| line.contains(" = ")) {
            assert!(text.lines().nth(at - 1).unwrap().starts_with('#'), "{line} has no reason");
        }
    }

    #[test]
    fn the_table_has_a_row_for_each_measurement() {
        let text = text(&findings());
        assert_eq!(text.lines().filter(|line| line.contains("KiB")).count(), 3, "{text}");
        assert_eq!(text.lines().filter(|line| line.contains("ms ")).count(), 4, "{text}");
        assert!(text.contains("> 0-1 ") && text.contains("LimitNOFILE=65536"), "{text}");
        let json = json(&findings());
        assert_eq!(json["placements"].as_array().map(Vec::len), Some(3));
        assert_eq!(json["chosen"]["settings"][1]["key"], "shards");
    }

    #[test]
    fn a_large_machine_is_explained() {
        let text = "cores = 64\nthreads_per_core = 2\nnodes = 2\n[[interfaces]]\nname = 'eth0'\nnode = 1\nqueues = 16";
        let topology = Topology::described(text).unwrap();
        let text = explanation(&topology, &candidates(&topology));
        for part in ["shards = 32", "node 1: shards on 16-31; free 48-63", "smp_affinity_list", "shards = 64"] {
            assert!(text.contains(part), "{part} is not in {text}");
        }
    }

    #[test]
    fn bars_are_as_long_as_their_values() {
        assert_eq!(
            (bar(1.0, 1.0).chars().count(), bar(0.0, 1.0), bar(5.0, 0.0).chars().count()),
            (32, String::new(), 32)
        );
        assert_eq!(bar(1.0, 64.0), "▌");
    }
}
