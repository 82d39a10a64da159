//! The measurements in their order: commits, placements, settings; then the choice.
//!
//! On the main thread, which is the parent of the relays it starts: each is this same program in a process of its own, in a
//! directory of its own below the queue's, removed at the end. A relay that loses or corrupts mail ends the search.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use loadgen::client::Pipeline;
use loadgen::figures::{self, Figures, NamedRuns};
use loadgen::report::Report;
use loadgen::run::{self, Scenario};
use loadgen::send::SendPlan;
use loadgen::system;
use loadgen::units::SizeMix;

use super::choose::{self, Choice, Setting};
use super::findings::{Findings, Sample, Trial};
use super::host;
use super::placement::{self, Placement};
use super::topology::Topology;
use crate::config::Settings;
use crate::runtime::report::utc_now;
use crate::runtime::survey::{self, CommitPlan};

/// Segments of the relays that are measured: small, since each start fills some with zeros.
const SEGMENT_BYTES: u32 = 16 << 20;
/// Segments of the disk's own measurement: longer than what one point writes into them is no need.
const SURVEY_SEGMENT_BYTES: u32 = 64 << 20;
/// A worker of load and sink each serves so many shards.
const SHARDS_PER_WORKER: usize = 3;

/// How thorough to be, and with what load.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// This program.
    pub program: PathBuf,
    /// Runs of each placement and setting.
    pub rounds: usize,
    /// Measured time of a run, after as long a warm-up up to a second.
    pub run: Duration,
    /// Time of each point of the disk's curve.
    pub point: Duration,
    /// Try settings of the queue and of sockets, too; else only placements.
    pub settings: bool,
    /// Sessions that send at a time, for each shard.
    pub sessions: u32,
    /// Size of a message.
    pub size_bytes: u64,
}

/// Removes the directory, and the queue's if it was made for this and nothing else came into it.
struct Removed {
    dir: PathBuf,
    queue_made: Option<PathBuf>,
}

impl Drop for Removed {
    fn drop(&mut self) {
        // Left behind if they cannot be removed; the queue's directory if it is in use by now.
        let _ = fs::remove_dir_all(&self.dir);
        self.queue_made.take().into_iter().for_each(|dir| drop(fs::remove_dir(dir)));
    }
}

/// Measures and chooses. `note` is told what is under way. The error says what went wrong, in words for the operator.
pub fn tune(
    settings: &Settings,
    wanted: &Wanted,
    note: &mut dyn FnMut(&str),
) -> Result<(Findings, Vec<(String, Report)>), String> {
    system::catch_interrupts();
    let topology = Topology::read(Path::new("/"))?;
    let queue_dir = &settings.queue.dir;
    let queue_made = (!queue_dir.exists()).then(|| queue_dir.clone());
    let dir = queue_dir.join(format!("tune-{}", std::process::id()));
    fs::create_dir_all(&dir).map_err(|error| format!("cannot make {}: {error}", dir.display()))?;
    let _removed = Removed { dir: dir.clone(), queue_made };
    let placements = placement::candidates(&topology);
    let mut reports = Vec::new();
    note("how the disk commits");
    let core = placements[0].shards[0].number;
    let commits = survey(&dir, vec![core], curve(wanted), wanted)?;
    let writers: Vec<usize> = placements[0].shards.iter().map(|core| core.number).collect();
    let shared = if writers.len() > 1 { survey(&dir, writers, vec![(16 << 10, 1)], wanted)? } else { Vec::new() };

    let plain = [Trial { name: "defaults".into(), sets: Vec::new() }];
    let mut runner = Runner { wanted, dir: &dir, number: 0, reports: &mut reports };
    let measured = runner.rounds(&placements, &plain, note)?;
    let placements: Vec<(Placement, Vec<Sample>)> =
        placements.into_iter().zip(measured.into_iter().map(|mut trials| trials.remove(0))).collect();
    let (chosen, why_placement) = choose::placement(&placements);

    let batch = choose::batch_bytes(&commits);
    let depth = choose::writes_in_flight(&commits, batch.value.parse().unwrap_or(0));
    let trials = if wanted.settings { trials(&batch, &depth) } else { Vec::new() };
    let measured = runner.rounds(std::slice::from_ref(&placements[chosen].0), &trials, note)?;
    let trials: Vec<(Trial, Vec<Sample>)> = trials.into_iter().zip(measured.into_iter().flatten()).collect();

    let mut chosen_settings = placement_settings(&placements[chosen].0, why_placement);
    chosen_settings.extend(trial_settings(&trials, batch, depth));
    let device = fs::metadata(&dir).ok().map(|metadata| device_of(metadata.dev()));
    let hints = host::hints(Path::new("/"), &topology, settings.socket.backlog, device.as_deref());
    let findings = Findings {
        topology,
        at: utc_now(),
        queue_dir: queue_dir.display().to_string(),
        commits,
        shared,
        placements,
        trials,
        choice: Choice { placement: chosen, settings: chosen_settings },
        hints,
        load: format!(
            "messages of {} bytes, one recipient, at least {} sessions a shard; load and sink on the same machine",
            wanted.size_bytes, wanted.sessions
        ),
    };
    Ok((findings, reports))
}

/// The runs' figures as one page.
pub fn page(reports: Vec<(String, Report)>) -> String {
    let mut figures = Figures::default();
    for (name, run) in reports {
        match figures.cases.iter_mut().find(|case| case.name == name) {
            Some(case) => case.runs.push(run),
            None => figures.cases.push(NamedRuns { name, version: None, runs: vec![run] }),
        }
    }
    figures::page::page(&figures)
}

/// The points of the disk's curve: sizes one at a time, then depths.
fn curve(wanted: &Wanted) -> Vec<(usize, usize)> {
    let sizes: &[usize] =
        if wanted.settings { &[4, 16, 64, 128, 256, 512, 1024] } else { &[4, 16, 64, 128, 256, 1024] };
    let depths = [2, 4, 8].map(|depth| (256 << 10, depth));
    sizes.iter().map(|kib| (kib << 10, 1)).chain(depths).collect()
}

fn survey(
    dir: &Path,
    cores: Vec<usize>,
    points: Vec<(usize, usize)>,
    wanted: &Wanted,
) -> Result<Vec<survey::CommitPoint>, String> {
    let dir = dir.join("commits");
    let segment_bytes = SURVEY_SEGMENT_BYTES / cores.len().clamp(1, 8) as u32;
    let plan = CommitPlan { dir: dir.clone(), segment_bytes, cores, points, each: wanted.point };
    let found = survey::commits(&plan).map_err(|failure| failure.to_string());
    // Room for the relays to come; what stays goes with the whole directory.
    let _ = fs::remove_dir_all(dir);
    found
}

/// What is tried on the chosen placement, the defaults first.
fn trials(batch: &Setting, depth: &Setting) -> Vec<Trial> {
    let set = |setting: &Setting| format!("{}={}", setting.key, setting.value);
    let named = |name: &str, sets: Vec<String>| Trial { name: name.into(), sets };
    vec![
        named("defaults", Vec::new()),
        named("batches and depth by the disk's curve", vec![set(batch), set(depth)]),
        named("one write at a time", vec!["queue.writes_in_flight=1".into()]),
        named("long batches", vec!["queue.batch_bytes=1048576".into()]),
        named("sockets of 256 KiB", vec!["socket.receive_bytes=262144".into(), "socket.send_bytes=262144".into()]),
    ]
}

fn placement_settings(placement: &Placement, reason: String) -> Vec<Setting> {
    let cores = format!("\"{}\"", placement.cores());
    vec![
        Setting { key: "shards", value: placement.shards.len().to_string(), reason },
        Setting { key: "cores", value: cores, reason: placement.reasons.join("; ") },
    ]
}

/// The keys of the queue and of sockets: what was measurably better with the whole relay, or else the defaults.
fn trial_settings(trials: &[(Trial, Vec<Sample>)], batch: Setting, depth: Setting) -> Vec<Setting> {
    let defaults = Settings::defaults();
    // The disk's curve is one thing, what the relay makes of it another; the relay's word counts.
    let why = if trials.is_empty() {
        "not tried in a quick run"
    } else {
        "no other value was measurably better with the relay"
    };
    let kept = |setting: Setting, default: String| {
        let reason = format!("the default: {why}; the disk's curve alone says {}: {}", setting.value, setting.reason);
        Setting { value: default, reason, ..setting }
    };
    let sockets = format!("the default: {why}");
    let mut settings = vec![
        kept(batch, defaults.queue.commit.batch_bytes.to_string()),
        kept(depth, defaults.queue.commit.writes_in_flight.to_string()),
        Setting {
            key: "socket.receive_bytes",
            value: defaults.socket.receive_bytes.to_string(),
            reason: sockets.clone(),
        },
        Setting { key: "socket.send_bytes", value: defaults.socket.send_bytes.to_string(), reason: sockets },
    ];
    if let Some((best, reason)) = choose::trial(trials) {
        for (key, value) in trials[best].0.sets.iter().filter_map(|set| set.split_once('=')) {
            let setting =
                settings.iter_mut().find(|setting| setting.key == key).expect("every trial's keys are listed");
            (setting.value, setting.reason) = (value.to_owned(), reason.clone());
        }
    }
    settings
}

/// `major:minor`, as the kernel packs a device's number.
fn device_of(device: u64) -> String {
    let major = (device >> 8) & 0xfff | (device >> 32) & !0xfff;
    let minor = device & 0xff | (device >> 12) & !0xff;
    format!("{major}:{minor}")
}

struct Runner<'a> {
    wanted: &'a Wanted,
    dir: &'a Path,
    number: usize,
    reports: &'a mut Vec<(String, Report)>,
}

impl Runner<'_> {
    /// Every placement with every trial, in turn, as often as there are rounds: what drifts then meets all alike.
    fn rounds(
        &mut self,
        placements: &[Placement],
        trials: &[Trial],
        note: &mut dyn FnMut(&str),
    ) -> Result<Vec<Vec<Vec<Sample>>>, String> {
        let mut samples = vec![vec![Vec::new(); trials.len()]; placements.len()];
        for round in 1..=self.wanted.rounds {
            for (placement, of_placement) in placements.iter().zip(&mut samples) {
                for (trial, of_trial) in trials.iter().zip(of_placement.iter_mut()) {
                    let name = format!("cores {}, {}", placement.cores(), trial.name);
                    note(&format!("{name} (round {round} of {})", self.wanted.rounds));
                    of_trial.push(self.one(placement, trial, name)?);
                }
            }
        }
        Ok(samples)
    }

    fn one(&mut self, placement: &Placement, trial: &Trial, name: String) -> Result<Sample, String> {
        self.number += 1;
        let dir = self.dir.join(format!("run-{}", self.number));
        let outcome = run::run(&self.scenario(placement, trial, &dir), &mut |_| {});
        let log = fs::read_to_string(dir.join("relay.log")).unwrap_or_default();
        let _ = fs::remove_dir_all(&dir);
        if system::interrupted() {
            return Err("interrupted".into());
        }
        let report = outcome.map_err(|error| format!("{name}: {error}"))?.report;
        if !report.is_good() {
            return Err(format!("{name}: the relay lost mail or did not end in order: {:?} {log}", report.troubles));
        }
        let sample = Sample {
            delivered_per_s: report.delivered_per_s.unwrap_or_default(),
            cpu_us: report.relay.as_ref().map_or(0.0, |relay| relay.cpu_us_per_message),
            accept_p99_us: report.accept.p99_us,
            flushes: report.disk.as_ref().map(|disk| disk.flushes_per_message),
        };
        self.reports.push((name, report));
        Ok(sample)
    }

    fn scenario(&self, placement: &Placement, trial: &Trial, dir: &Path) -> Scenario {
        let shards = placement.shards.len();
        let sessions = self.wanted.sessions * shards as u32;
        let workers = shards.div_ceil(SHARDS_PER_WORKER);
        let sets = [
            "listen.relay={listen}".to_owned(),
            "listen.http=".into(),
            "route.default={sink}".into(),
            "queue.dir={dir}/queue".into(),
            format!("queue.segment_bytes={SEGMENT_BYTES}"),
            "log.level=warning".into(),
            "tls.offer=false".into(),
            format!("shards={shards}"),
            format!("cores={}", placement.cores()),
            // As many ways out as in, so that what comes in does not pile up.
            format!("site.default.connections={sessions}"),
        ];
        let mut relay = vec![self.wanted.program.to_string_lossy().into_owned(), "run".into()];
        for set in sets.into_iter().chain(trial.sets.iter().cloned()) {
            relay.extend(["--set".into(), set]);
        }
        let mut scenario = Scenario {
            relay: Some(relay),
            dir: Some(dir.to_owned()),
            load: SendPlan {
                sessions,
                duration: self.wanted.run,
                warm_up: self.wanted.run.min(Duration::from_secs(1)),
                sizes: SizeMix::fixed(self.wanted.size_bytes),
                pipeline: Pipeline::Group,
                workers,
                ..SendPlan::default()
            },
            drain_longest: Duration::from_secs(120),
            ..Scenario::default()
        };
        scenario.sink.workers = workers;
        scenario
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_trial_speaks_of_known_keys_and_the_best_is_taken() {
        let setting = |key, value: &str| Setting { key, value: value.into(), reason: "curve".into() };
        let (batch, depth) = (setting("queue.batch_bytes", "262144"), setting("queue.writes_in_flight", "2"));
        let sample = |cpu_us| vec![Sample { cpu_us, delivered_per_s: 100.0, ..Sample::default() }; 3];
        let all = trials(&batch, &depth);
        for best in 0..all.len() {
            let measured: Vec<_> = all
                .iter()
                .cloned()
                .enumerate()
                .map(|(at, t)| (t, sample(if at == best { 30.0 } else { 40.0 })))
                .collect();
            let settings = trial_settings(&measured, batch.clone(), depth.clone());
            assert_eq!(settings.len(), 4);
            for set in &all[best].sets {
                let (key, value) = set.split_once('=').unwrap();
                assert!(settings.iter().any(|s| s.key == key && s.value == value), "{set}");
            }
        }
        let untried = trial_settings(&[], batch, depth);
        assert!(
            untried[0].value == crate::base::limits::BATCH_FULL_BYTES.to_string()
                && untried[0].reason.contains("262144"),
            "{untried:?}"
        );
    }

    #[test]
    fn devices_are_named_as_the_kernel_names_them() {
        assert_eq!((device_of(0xfe00), device_of(0x0010_3501)), ("254:0".into(), "53:257".into()));
    }
}
