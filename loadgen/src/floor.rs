//! The kernel's floor: what the same bytes cost with no mail in them.
//!
//! Its first half passes messages through a middle thread as a relay would see them, the same number of bytes in and out and
//! the same round trips, but with no protocol, no queue and no disk: one read and one write per leg on epoll. The second half
//! writes the same bytes with bare `pwrite` on a pre-zeroed file opened O_DIRECT|O_DSYNC, so many messages per write. The
//! sum of both is what a relay that asks the kernel in this way cannot go below; [`FloorReport::cpu_us`] is the divisor of
//! a relay's ratio. One way of asking is not all ways: see the page on bias.
//!
//! [`run`] holds the calling thread; the middle is a thread of its own, pinned if wanted, and so are the two ends. Errors
//! of sockets and files are returned: nothing here is supposed to fail.

mod commits;
mod sockets;

use std::fmt::{self, Display, Formatter};
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::units::human_bytes;

pub use commits::CommitFloor;
pub use sockets::SocketFloor;

/// What the report's `kind` says.
pub const KIND: &str = "floor";
/// The most messages of one commit.
pub const BATCH_MAX: u32 = 4096;
/// The most sessions: four descriptors each.
pub const SESSIONS_MAX: u32 = 4096;

/// What to measure.
#[derive(Clone, Debug)]
pub struct FloorPlan {
    /// Sessions at a time, on either side.
    pub sessions: u32,
    /// Messages through the sockets.
    pub messages: u64,
    /// Size of a message, in bytes.
    pub size_bytes: u64,
    /// Round trips per message: 2 with an envelope of its own, 1 where it rides with the last body.
    pub round_trips: u32,
    /// Messages per commit, one measurement each.
    pub batches: Vec<u32>,
    /// Where the file of the commits is made, and removed again.
    pub dir: PathBuf,
    /// Core of the middle and of the commits.
    pub core: Option<usize>,
    /// Core of both ends.
    pub end_core: Option<usize>,
}

impl FloorPlan {
    /// An error in words if the plan makes no sense.
    pub fn check(&self) -> Result<(), String> {
        let wrong = |text: &str| Err(text.to_string());
        match self {
            plan if plan.sessions == 0 || plan.sessions > SESSIONS_MAX => wrong("sessions must be 1 to 4096"),
            plan if plan.messages == 0 => wrong("give a number of messages"),
            plan if plan.size_bytes == 0 => wrong("a message has at least one byte"),
            plan if !(1..=2).contains(&plan.round_trips) => wrong("round trips must be 1 or 2"),
            plan if plan.batches.iter().any(|batch| !(1..=BATCH_MAX).contains(batch)) => {
                wrong("a batch must be 1 to 4096 messages")
            }
            _ => Ok(()),
        }
    }
}

/// The figures.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct FloorReport {
    /// Always `floor`: tells this file from others.
    pub kind: String,
    /// Sessions.
    pub sessions: u32,
    /// Messages.
    pub messages: u64,
    /// Size of a message, in bytes.
    pub size_bytes: u64,
    /// Round trips per message.
    pub round_trips: u32,
    /// Core of the middle.
    pub core: Option<usize>,
    /// Core of the ends.
    pub end_core: Option<usize>,
    /// Through the sockets.
    pub sockets: SocketFloor,
    /// Onto the disk, per batch size.
    pub commits: Vec<CommitFloor>,
}

impl FloorReport {
    /// Reads what `loadgen floor --json` wrote.
    pub fn load(path: &Path) -> io::Result<FloorReport> {
        let wrong = |text: String| io::Error::new(io::ErrorKind::InvalidData, format!("{}: {text}", path.display()));
        let report: FloorReport =
            serde_json::from_slice(&std::fs::read(path)?).map_err(|error| wrong(error.to_string()))?;
        if report.kind == KIND { Ok(report) } else { Err(wrong("is no report of a floor".into())) }
    }

    /// Several measurements of one plan as one: of each figure the one whose CPU per message is in the middle.
    pub fn of_rounds(rounds: &[FloorReport]) -> Option<FloorReport> {
        let sockets = middle(rounds.iter().map(|round| round.sockets), |sockets| sockets.cpu_us_per_message)?;
        let of_batch = |batch: u32| rounds.iter().flat_map(|round| &round.commits).filter(move |c| c.batch == batch);
        let batches = rounds[0].commits.iter().map(|commit| commit.batch);
        let commits =
            batches.filter_map(|batch| middle(of_batch(batch).copied(), |commit| commit.cpu_us_per_message)).collect();
        Some(FloorReport { sockets, commits, ..rounds[0].clone() })
    }

    /// CPU per message of sockets and commits together, in microseconds, for commits of `batch` messages: of the nearest
    /// batch size that is not larger, else of the smallest; sockets alone for a batch of 0, that is no commits at all.
    pub fn cpu_us(&self, batch: u32) -> f64 {
        if batch == 0 {
            return self.sockets.cpu_us_per_message;
        }
        let below = self.commits.iter().filter(|commit| commit.batch <= batch).max_by_key(|commit| commit.batch);
        let commit = below.or_else(|| self.commits.iter().min_by_key(|commit| commit.batch));
        self.sockets.cpu_us_per_message + commit.map_or(0.0, |commit| commit.cpu_us_per_message)
    }
}

/// Of several, the one whose figure is in the middle.
fn middle<T>(all: impl Iterator<Item = T>, figure: impl Fn(&T) -> f64) -> Option<T> {
    let mut all: Vec<T> = all.collect();
    all.sort_by(|a, b| figure(a).total_cmp(&figure(b)));
    (!all.is_empty()).then(|| all.swap_remove((all.len() - 1) / 2))
}

/// Measures the floor.
pub fn run(plan: &FloorPlan) -> io::Result<FloorReport> {
    plan.check().map_err(|text| io::Error::new(io::ErrorKind::InvalidInput, text))?;
    crate::system::raise_file_limit();
    let sockets = sockets::measure(plan)?;
    let commits = commits::measure(plan)?;
    Ok(FloorReport {
        kind: KIND.into(),
        sessions: plan.sessions,
        messages: plan.messages,
        size_bytes: plan.size_bytes,
        round_trips: plan.round_trips,
        core: plan.core,
        end_core: plan.end_core,
        sockets,
        commits,
    })
}

impl Display for FloorReport {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let core = |core: Option<usize>| core.map_or("any core".into(), |core| format!("core {core}"));
        writeln!(
            f,
            "floor        {} sessions, {}, {} round trip(s) a message, middle on {}, ends on {}",
            self.sessions,
            human_bytes(self.size_bytes),
            self.round_trips,
            core(self.core),
            core(self.end_core)
        )?;
        let sockets = &self.sockets;
        writeln!(
            f,
            "sockets      {:8.2} us/message (user {:.2}, system {:.2})   {:8.0} messages/s",
            sockets.cpu_us_per_message,
            sockets.user_us_per_message,
            sockets.system_us_per_message,
            sockets.messages_per_s
        )?;
        for commit in &self.commits {
            writeln!(
                f,
                "commit {:4}  {:8.2} us/message   {:8.0} messages/s   {:7.0} commits/s of {}   sockets + commit {:.2} us",
                commit.batch,
                commit.cpu_us_per_message,
                commit.messages_per_s,
                commit.commits_per_s,
                human_bytes(commit.commit_bytes),
                self.cpu_us(commit.batch)
            )?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan() -> FloorPlan {
        FloorPlan {
            sessions: 3,
            messages: 200,
            size_bytes: 10_000,
            round_trips: 2,
            batches: Vec::new(),
            dir: std::env::temp_dir(),
            core: None,
            end_core: None,
        }
    }

    #[test]
    fn every_message_passes_in_one_and_two_round_trips() {
        for (round_trips, sessions, size_bytes) in [(1, 3, 10_000), (2, 3, 10_000), (2, 1, 1), (1, 7, 3_000_000)] {
            let messages = if size_bytes > 1_000_000 { 20 } else { 200 };
            let report = run(&FloorPlan { round_trips, sessions, size_bytes, messages, ..plan() }).unwrap();
            assert_eq!(report.sockets.messages, messages);
            assert!(report.sockets.bytes_out >= messages * size_bytes);
            assert!(report.sockets.cpu_us_per_message >= 0.0 && report.commits.is_empty());
        }
    }

    #[test]
    fn commits_are_whole_blocks() {
        let dir = std::env::temp_dir();
        match run(&FloorPlan { batches: vec![1, 4], messages: 40, dir, ..plan() }) {
            Ok(report) => {
                assert_eq!(report.commits.iter().map(|c| c.commit_bytes).collect::<Vec<_>>(), [12288, 40960]);
                assert!(report.cpu_us(1) >= report.sockets.cpu_us_per_message);
                assert!(report.to_string().contains("commit    4"));
            }
            // A file system that knows no direct writes says so.
            Err(error) => assert!(error.to_string().contains("O_DIRECT"), "{error}"),
        }
    }

    #[test]
    fn the_ratio_takes_the_nearest_batch_below() {
        let commit = |batch, cpu_us_per_message| CommitFloor { batch, cpu_us_per_message, ..CommitFloor::default() };
        let sockets = SocketFloor { cpu_us_per_message: 10.0, ..SocketFloor::default() };
        let report = FloorReport {
            kind: KIND.into(),
            sessions: 1,
            messages: 1,
            size_bytes: 1,
            round_trips: 1,
            core: None,
            end_core: None,
            sockets,
            commits: vec![commit(8, 2.0), commit(64, 1.0)],
        };
        assert_eq!([0, 1, 8, 63, 64, 900].map(|batch| report.cpu_us(batch)), [10.0, 12.0, 12.0, 12.0, 11.0, 11.0]);
    }

    #[test]
    fn rounds_give_their_middle() {
        let round = |us: f64| FloorReport {
            kind: KIND.into(),
            sessions: 1,
            messages: 1,
            size_bytes: 1,
            round_trips: 1,
            core: None,
            end_core: None,
            sockets: SocketFloor { cpu_us_per_message: us, ..SocketFloor::default() },
            commits: vec![CommitFloor { batch: 4, cpu_us_per_message: us / 10.0, ..CommitFloor::default() }],
        };
        assert!(FloorReport::of_rounds(&[]).is_none());
        let middle = FloorReport::of_rounds(&[round(9.0), round(3.0), round(5.0)]).unwrap();
        assert_eq!((middle.cpu_us(0), middle.cpu_us(4)), (5.0, 5.5));
    }

    #[test]
    fn nonsense_is_refused() {
        assert!(plan().check().is_ok());
        assert!(FloorPlan { round_trips: 3, ..plan() }.check().is_err());
        assert!(FloorPlan { batches: vec![0], ..plan() }.check().is_err());
        assert!(FloorPlan { sessions: 0, ..plan() }.check().is_err());
    }
}
