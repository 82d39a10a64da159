//! The report of a run: figures with their units, as text and as JSON. Nothing is measured here.

use std::fmt::{self, Display, Formatter};

use serde::{Deserialize, Serialize};

use crate::disk::DiskCounts;
use crate::floor::FloorReport;
use crate::latency::{LatencySummary, Point};
use crate::ledger::{Suspect, Tally};
use crate::relay::CpuSource;
use crate::send::SendCounts;
use crate::series::Moment;
use crate::sink::SinkCounts;
use crate::threads::ThreadLoad;
use crate::units::human_ns;

/// What a report's `kind` says.
pub const KIND: &str = "run";

/// What was asked for.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Asked {
    /// Where messages were sent.
    pub target: String,
    /// The relay's command, if it was ours to start.
    pub relay: Option<Vec<String>>,
    /// Sessions.
    pub sessions: u32,
    /// `none`, `group` or `across`.
    pub pipeline: crate::client::Pipeline,
    /// Sizes, as written.
    pub sizes: String,
    /// Recipients per message.
    pub recipients: u32,
    /// Messages per connection, 0 for no end.
    pub messages_per_session: u64,
    /// The schedule of starts, as written; None for closed loop.
    pub schedule: Option<String>,
    /// The seed.
    pub seed: u64,
    /// What else was asked for beyond plain SMTP with DATA, in words; empty if nothing.
    #[serde(default)]
    pub also: Vec<String>,
}

impl Asked {
    /// How starts are paced, in words.
    pub fn pace(&self) -> String {
        self.schedule.as_ref().map_or("closed loop".into(), |schedule| format!("schedule {schedule}"))
    }

    /// All but the target, in one line.
    pub fn line(&self) -> String {
        format!(
            "{} sessions, {}, {:?} pipelining, {} recipient(s), {}{}",
            self.sessions,
            self.sizes,
            self.pipeline,
            self.recipients,
            self.pace(),
            self.also.iter().map(|word| format!(", {word}")).collect::<String>()
        )
    }
}

/// The relay's part.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct RelayReport {
    /// CPU per arrived recipient in the measured time, in microseconds.
    pub cpu_us_per_message: f64,
    /// Its part in user mode.
    pub user_us_per_message: f64,
    /// Its part in the kernel.
    pub system_us_per_message: f64,
    /// CPU in the measured time, in nanoseconds.
    pub cpu_ns: u64,
    /// How that was measured.
    pub cpu_source: CpuSource,
    /// Sum of its processes' peak resident sizes, in bytes; shared pages count once per process.
    pub rss_peak_bytes: u64,
    /// Memory at the end of sending with shared pages divided among who shares them, in bytes.
    pub pss_bytes: Option<u64>,
    /// Processes at one time, at most.
    pub processes_peak: u64,
    /// Threads at one time, at most.
    pub threads_peak: u64,
    /// The core it was pinned to.
    pub core: Option<usize>,
    /// Times it was killed and started again.
    pub kills: u32,
    /// True if it ended on SIGTERM by itself.
    pub ended_in_order: bool,
}

/// What the block device below the relay's directory was asked to do, per acknowledged message. It counts everybody's.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct DiskReport {
    /// Write requests.
    pub writes_per_message: f64,
    /// KiB written.
    pub written_kib_per_message: f64,
    /// Cache flushes: below 1 where commits are shared, 0 where nothing is made durable.
    pub flushes_per_message: f64,
    /// The counts themselves.
    pub counts: DiskCounts,
}

/// Flushes per second that a file system makes by itself, for its journal.
const OTHERS_FLUSHES_PER_S: f64 = 2.0;

impl DiskReport {
    /// Flushes per message that can be the relay's own: none if there were no more over that time than a disk at rest has.
    pub fn own_flushes_per_message(&self, spent_s: f64) -> f64 {
        if (self.counts.flushes as f64) < OTHERS_FLUSHES_PER_S * spent_s { 0.0 } else { self.flushes_per_message }
    }
}

/// Fewer flushes per message than this are those of others.
pub const FLUSHES_SEEN_MIN: f64 = 0.001;

/// The relay beside the kernel's floor.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct FloorRatio {
    /// The floor, sockets and commits, in microseconds of CPU per message.
    pub floor_us_per_message: f64,
    /// Messages per commit that the floor was taken for: as many as the relay had per flush; 0 if it flushed nothing, for
    /// the floor of sockets alone.
    pub batch: u32,
    /// The relay's CPU over the floor's.
    pub ratio: f64,
}

impl FloorRatio {
    /// The floor at the relay's own number of messages per flush (1 if that is not known).
    pub fn new(floor: &FloorReport, relay_us: f64, flushes_per_message: Option<f64>) -> FloorRatio {
        let batch = match flushes_per_message {
            Some(none) if none < FLUSHES_SEEN_MIN => 0,
            Some(flushes) => (1.0 / flushes).round().clamp(1.0, f64::from(crate::floor::BATCH_MAX)) as u32,
            None => 1,
        };
        let floor_us = floor.cpu_us(batch);
        FloorRatio { floor_us_per_message: floor_us, batch, ratio: relay_us / floor_us.max(1e-9) }
    }
}

/// Everything about a run. Sides that did not take part are absent.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Report {
    /// Always `run`: tells this file from others.
    pub kind: String,
    /// What was asked for.
    pub asked: Asked,
    /// Length of the measured time of sending, in seconds.
    pub load_s: f64,
    /// From the end of sending to the last arrival, in seconds.
    pub drain_s: f64,
    /// Acknowledged messages per second, while sending.
    pub accepted_per_s: f64,
    /// Recipients arrived per second, from the start of measuring to the last arrival.
    pub delivered_per_s: Option<f64>,
    /// From the planned start to the 250.
    pub accept: LatencySummary,
    /// From the true start to the 250: blind to starts held up.
    pub accept_raw: LatencySummary,
    /// From the planned start to the arrival at the sink.
    pub end_to_end: Option<LatencySummary>,
    /// CPU of the sender's threads per message in the measured time, in microseconds.
    pub sender_cpu_us_per_message: f64,
    /// CPU of the sink's threads per message in the measured time, in microseconds.
    pub sink_cpu_us_per_message: Option<f64>,
    /// Round trips that the relay had to wait for, per message at the sink.
    pub sink_round_trips_per_message: Option<f64>,
    /// The relay.
    pub relay: Option<RelayReport>,
    /// The disk.
    pub disk: Option<DiskReport>,
    /// The floor, if one was given.
    pub floor: Option<FloorRatio>,
    /// The sender's counts.
    pub sender: SendCounts,
    /// The sink's counts.
    pub sink: Option<SinkCounts>,
    /// The ledger. Without a sink of ours its arrivals mean nothing, and it is only the sender's half.
    pub ledger: Tally,
    /// The first few recipients that went wrong.
    pub suspects: Vec<Suspect>,
    /// What went wrong besides the ledger.
    pub troubles: Vec<String>,
    /// Second by second.
    pub series: Vec<Moment>,
    /// The relay's busiest threads, second by second.
    #[serde(default)]
    pub threads: Vec<ThreadLoad>,
    /// All of `accept`.
    pub accept_distribution: Vec<Point>,
    /// All of `end_to_end`.
    pub end_to_end_distribution: Option<Vec<Point>>,
}

impl Report {
    /// Notes the relay's ratio to a floor that was measured apart from this run.
    pub fn set_beside(&mut self, floor: &FloorReport) {
        let flushes = self.disk.as_ref().map(|disk| disk.own_flushes_per_message(self.load_s + self.drain_s));
        self.floor = self.relay.as_ref().map(|relay| FloorRatio::new(floor, relay.cpu_us_per_message, flushes));
    }

    /// True if nothing was lost, nothing corrupted, and nothing else went wrong.
    pub fn is_good(&self) -> bool {
        self.troubles.is_empty() && (self.sink.is_none() || self.ledger.clean())
    }
}

impl Display for Report {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let asked = &self.asked;
        writeln!(f, "load         {}, to {}", asked.line(), asked.target)?;
        let delivered = self.delivered_per_s.map_or(String::new(), |rate| format!("   delivered {rate:.0}/s"));
        writeln!(f, "rates        accepted {:.0}/s{delivered}", self.accepted_per_s)?;
        writeln!(f, "time         {:.2} s sending, {:.2} s draining", self.load_s, self.drain_s)?;
        write_latency(f, "accept", &self.accept)?;
        if asked.schedule.is_some() {
            write_latency(f, "accept raw", &self.accept_raw)?;
            let counts = &self.sender;
            writeln!(f, "schedule     {} late starts, {} missed", counts.late_starts, counts.missed_starts)?;
        }
        if let Some(end_to_end) = &self.end_to_end {
            write_latency(f, "end to end", end_to_end)?;
        }
        self.write_cpu(f)?;
        self.write_counts(f)?;
        write_tally(f, &self.ledger, self.sink.is_some())?;
        for suspect in &self.suspects {
            writeln!(f, "             {} message {} recipient {}", suspect.what, suspect.id, suspect.recipient)?;
        }
        for trouble in &self.troubles {
            writeln!(f, "TROUBLE      {trouble}")?;
        }
        Ok(())
    }
}

impl Report {
    fn write_cpu(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "cpu/message  ")?;
        if let Some(relay) = &self.relay {
            let source = if relay.cpu_source == CpuSource::Cgroup { "cgroup" } else { "/proc" };
            write!(
                f,
                "relay {:.1} us (user {:.1}, system {:.1}, by {source})   ",
                relay.cpu_us_per_message, relay.user_us_per_message, relay.system_us_per_message
            )?;
        }
        write!(f, "sender {:.1} us", self.sender_cpu_us_per_message)?;
        if let Some(us) = self.sink_cpu_us_per_message {
            write!(f, "   sink {us:.1} us")?;
        }
        writeln!(f)?;
        if let Some(relay) = &self.relay {
            let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
            let pss = relay.pss_bytes.map_or(String::new(), |bytes| format!(", PSS {:.1} MiB", mib(bytes)));
            let core = relay.core.map_or(String::new(), |core| format!(", on core {core}"));
            writeln!(
                f,
                "relay        peak RSS {:.1} MiB{pss}, {} process(es), {} thread(s){core}, killed {} times",
                mib(relay.rss_peak_bytes),
                relay.processes_peak,
                relay.threads_peak,
                relay.kills
            )?;
        }
        if let Some(disk) = &self.disk {
            writeln!(
                f,
                "disk/message {:.2} writes   {:.1} KiB   {:.3} flushes",
                disk.writes_per_message, disk.written_kib_per_message, disk.flushes_per_message
            )?;
        }
        if let Some(floor) = &self.floor {
            writeln!(
                f,
                "floor        {:.1} us at {} message(s) a commit; the relay takes {:.2} times that",
                floor.floor_us_per_message, floor.batch, floor.ratio
            )?;
        }
        Ok(())
    }

    fn write_counts(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let counts = &self.sender;
        writeln!(
            f,
            "sender       started {}  acknowledged {}  refused {}  deferred {}  broken {}  connections {} ({} lost)",
            counts.started,
            counts.acknowledged,
            counts.refused,
            counts.deferred,
            counts.broken,
            counts.connections,
            counts.connections_lost
        )?;
        if counts.handshakes + counts.handshakes_failed + counts.logins_failed + counts.connections_lacking > 0 {
            writeln!(
                f,
                "             TLS handshakes {} ({} resumed, {} failed)  logins failed {}  connections without what was asked for {}",
                counts.handshakes,
                counts.handshakes_resumed,
                counts.handshakes_failed,
                counts.logins_failed,
                counts.connections_lacking
            )?;
        }
        if let Some(trips) = self.sink_round_trips_per_message {
            writeln!(f, "             {trips:.2} round trips a message at the sink")?;
        }
        self.sink.as_ref().map_or(Ok(()), |counts| write_sink(f, counts))
    }
}

/// Prints what a sink has counted.
pub fn write_sink(f: &mut impl fmt::Write, counts: &SinkCounts) -> fmt::Result {
    writeln!(
        f,
        "sink         messages {}  recipients {}  bytes {}  round trips {}  connections {} (peak {})",
        counts.messages,
        counts.recipients,
        counts.bytes,
        counts.round_trips,
        counts.connections,
        counts.connections_peak
    )?;
    writeln!(
        f,
        "             bounces {}  corrupted {}  unmarked {}  foreign {}  strange recipients {}  faults made {}",
        counts.bounces, counts.corrupted, counts.unmarked, counts.foreign, counts.strange_recipients, counts.faults
    )?;
    writeln!(
        f,
        "             sources {} (at most {} connections and {} messages/s of one)  reordered {} (by at most {})",
        counts.sources, counts.source_connections_peak, counts.source_rate_peak, counts.reordered, counts.reordered_by
    )?;
    if counts.handshakes + counts.handshakes_failed + counts.logins + counts.logins_failed + counts.dns_questions > 0 {
        writeln!(
            f,
            "             TLS handshakes {} ({} resumed, {} failed)  logins {} ({} failed)  DNS questions {}",
            counts.handshakes,
            counts.handshakes_resumed,
            counts.handshakes_failed,
            counts.logins,
            counts.logins_failed,
            counts.dns_questions
        )?;
    }
    Ok(())
}

/// Prints a ledger's sums; `compared` tells whether both sides were heard.
pub fn write_tally(f: &mut impl fmt::Write, tally: &Tally, compared: bool) -> fmt::Result {
    writeln!(
        f,
        "ledger       sent {}  acknowledged {}  refused {}  deferred {}  unknown {}",
        tally.sent, tally.acknowledged, tally.refused, tally.deferred, tally.unknown
    )?;
    if !compared {
        return Ok(());
    }
    writeln!(
        f,
        "             arrived {} ({} unacknowledged, {} unbidden)  bounced {}",
        tally.arrived, tally.arrived_unacknowledged, tally.arrived_unbidden, tally.bounced
    )?;
    writeln!(f, "             lost {}  duplicated {}  corrupted {}", tally.lost, tally.duplicated, tally.corrupted)
}

fn write_latency(f: &mut Formatter<'_>, name: &str, latency: &LatencySummary) -> fmt::Result {
    let show = |us: u64| human_ns(us * 1000);
    writeln!(
        f,
        "{name:<12} p50 {}  p99 {}  p99.9 {}  max {}",
        show(latency.p50_us),
        show(latency.p99_us),
        show(latency.p999_us),
        show(latency.max_us)
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::floor::{CommitFloor, SocketFloor};

    #[test]
    fn flushes_of_a_disk_at_rest_are_nobodys() {
        let disk = |flushes| {
            let counts = DiskCounts { flushes, ..DiskCounts::default() };
            let flushes_per_message = flushes as f64 / 1000.0;
            DiskReport { writes_per_message: 0.0, written_kib_per_message: 0.0, flushes_per_message, counts }
        };
        assert_eq!(disk(9).own_flushes_per_message(10.0), 0.0);
        assert_eq!(disk(500).own_flushes_per_message(10.0), 0.5);
    }

    #[test]
    fn the_floor_is_taken_at_the_relays_own_batch() {
        let commit = |batch, cpu_us_per_message| CommitFloor { batch, cpu_us_per_message, ..CommitFloor::default() };
        let floor = FloorReport {
            kind: crate::floor::KIND.into(),
            sessions: 1,
            messages: 1,
            size_bytes: 1,
            round_trips: 2,
            core: None,
            end_core: None,
            sockets: SocketFloor { cpu_us_per_message: 10.0, ..SocketFloor::default() },
            commits: vec![commit(1, 30.0), commit(16, 2.0)],
        };
        let ratio = FloorRatio::new(&floor, 24.0, Some(0.05));
        assert_eq!((ratio.batch, ratio.floor_us_per_message, ratio.ratio), (20, 12.0, 2.0));
        assert_eq!(FloorRatio::new(&floor, 80.0, Some(0.0)).ratio, 8.0);
        assert_eq!(FloorRatio::new(&floor, 80.0, None).batch, 1);
    }
}
