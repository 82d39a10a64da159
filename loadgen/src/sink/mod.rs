//! The sink: takes all mail it is sent, checks every body, and writes arrivals to the ledger.
//!
//! Each worker thread has its own event loop and, by SO_REUSEPORT, its own listeners; nothing is shared but the ledger and
//! counters that are stored once per turn. An idle connection holds no buffer of note. Errors of one connection end that
//! connection; errors at the start are returned.

pub mod body;
pub mod faults;
pub mod profiles;
pub mod session;
mod worker;

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use serde::{Deserialize, Serialize};

use crate::clock::Clock;
use crate::latency::Latency;
use crate::ledger::Ledger;
use faults::Faults;
use profiles::Profile;

/// The most runs that a sink keeps apart; messages of further ones are counted as foreign.
pub const RUNS_MAX: usize = 64;
/// Connections one worker holds at most; more are closed at once and counted.
pub const CONNECTIONS_MAX: usize = 1 << 20;

/// How a sink is set up.
#[derive(Clone, Debug)]
pub struct SinkPlan {
    /// Where to listen; port 0 for any.
    pub listen: Vec<SocketAddr>,
    /// Worker threads.
    pub workers: usize,
    /// Core of the first worker; the others follow on the next ones.
    pub core: Option<usize>,
    /// What to do wrong.
    pub faults: Faults,
    /// Kinds of receivers, of which each connection draws one; if there are any, `faults` says nothing.
    pub profiles: Vec<Profile>,
    /// Seed of the faults.
    pub seed: u64,
}

impl SinkPlan {
    /// One worker, no faults.
    pub fn new(listen: SocketAddr) -> SinkPlan {
        SinkPlan {
            listen: vec![listen],
            workers: 1,
            core: None,
            faults: Faults::default(),
            profiles: Vec::new(),
            seed: 1,
        }
    }
}

impl SinkPlan {
    fn receivers(&self) -> Vec<(u64, Faults)> {
        let mut total = 0;
        let weighted = self.profiles.iter().filter(|profile| profile.weight > 0).map(|profile| {
            total += u64::from(profile.weight);
            (total, profile.faults.clone())
        });
        let receivers: Vec<_> = weighted.collect();
        if receivers.is_empty() { vec![(1, self.faults.clone())] } else { receivers }
    }
}

/// The ledgers of a sink: one per run.
pub struct Book {
    ledgers: Mutex<Vec<Arc<Ledger>>>,
    open: bool,
}

impl Book {
    /// For one run; other runs' messages are foreign.
    pub fn of(ledger: Arc<Ledger>) -> Book {
        Book::of_all(vec![ledger])
    }

    /// For these runs, whose numbers differ; other runs' messages are foreign.
    pub fn of_all(ledgers: Vec<Arc<Ledger>>) -> Book {
        Book { ledgers: Mutex::new(ledgers), open: false }
    }

    /// Opens a ledger for each run that shows up, up to [`RUNS_MAX`].
    pub fn open() -> Book {
        Book { ledgers: Mutex::new(Vec::new()), open: true }
    }

    /// All ledgers.
    pub fn ledgers(&self) -> Vec<Arc<Ledger>> {
        self.ledgers.lock().expect("no holder panics").clone()
    }

    fn find(&self, run: u64, recipients: u32) -> Option<Arc<Ledger>> {
        let mut ledgers = self.ledgers.lock().expect("no holder panics");
        if let Some(ledger) = ledgers.iter().find(|ledger| ledger.run() == run) {
            return Some(Arc::clone(ledger));
        }
        if !self.open || ledgers.len() >= RUNS_MAX {
            return None;
        }
        let ledger = Arc::new(Ledger::new(run, recipients));
        ledgers.push(Arc::clone(&ledger));
        Some(ledger)
    }
}

/// What a sink has counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SinkCounts {
    /// Connections taken.
    pub connections: u64,
    /// Most connections at one time (the sum of the workers' peaks).
    pub connections_peak: u64,
    /// Connections turned away for want of room or descriptors.
    pub connections_refused: u64,
    /// Messages taken, bounces not among them.
    pub messages: u64,
    /// Recipients of these.
    pub recipients: u64,
    /// Bytes received.
    pub bytes: u64,
    /// Groups of replies sent: the round trips that clients had to wait for.
    pub round_trips: u64,
    /// Messages from the null reverse-path.
    pub bounces: u64,
    /// Messages that failed their check.
    pub corrupted: u64,
    /// Messages without a readable marker.
    pub unmarked: u64,
    /// Messages of other runs.
    pub foreign: u64,
    /// Recipients that could not be matched to a message.
    pub strange_recipients: u64,
    /// Faults made on purpose.
    pub faults: u64,
    /// When the last message was taken, nanoseconds since the Unix epoch.
    pub last_arrival_ns: u64,
    /// CPU of the sink's threads, user and system, in nanoseconds.
    pub cpu_ns: u64,
}

impl SinkCounts {
    fn fields(&mut self) -> [&mut u64; 15] {
        [
            &mut self.connections,
            &mut self.connections_peak,
            &mut self.connections_refused,
            &mut self.messages,
            &mut self.recipients,
            &mut self.bytes,
            &mut self.round_trips,
            &mut self.bounces,
            &mut self.corrupted,
            &mut self.unmarked,
            &mut self.foreign,
            &mut self.strange_recipients,
            &mut self.faults,
            &mut self.last_arrival_ns,
            &mut self.cpu_ns,
        ]
    }
}

/// Counts of a worker as others may read them, stored once per turn.
#[derive(Default)]
struct Shown([AtomicU64; 15]);

impl Shown {
    fn store(&self, mut counts: SinkCounts) {
        for (shown, value) in self.0.iter().zip(counts.fields()) {
            shown.store(*value, Ordering::Relaxed);
        }
    }

    fn load(&self) -> SinkCounts {
        let mut counts = SinkCounts::default();
        for (shown, value) in self.0.iter().zip(counts.fields()) {
            *value = shown.load(Ordering::Relaxed);
        }
        counts
    }
}

struct Shared {
    book: Book,
    clock: Clock,
    /// Kinds of receivers and the running totals of their weights; never empty.
    receivers: Vec<(u64, Faults)>,
    stop: AtomicBool,
    measure_from_ns: AtomicU64,
    shown: Vec<Shown>,
}

/// A running sink.
pub struct Sink {
    addresses: Vec<SocketAddr>,
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<Latency>>,
}

impl Sink {
    /// Starts listening and its threads.
    pub fn start(plan: &SinkPlan, book: Book, clock: Clock) -> io::Result<Sink> {
        let workers = plan.workers.max(1);
        let mut addresses = plan.listen.clone();
        let mut listeners = Vec::new();
        for _ in 0..workers {
            let mut own = Vec::new();
            for address in &mut addresses {
                let listener = worker::listen(*address, workers > 1)?;
                *address = listener.local_addr()?;
                own.push(listener);
            }
            listeners.push(own);
        }
        let shared = Arc::new(Shared {
            book,
            clock,
            receivers: plan.receivers(),
            stop: AtomicBool::new(false),
            measure_from_ns: AtomicU64::new(0),
            shown: (0..workers).map(|_| Shown::default()).collect(),
        });
        let mut threads = Vec::new();
        for (index, own) in listeners.into_iter().enumerate() {
            let mut worker = worker::Worker::new(Arc::clone(&shared), index, own, plan.seed)?;
            let core = plan.core.map(|core| core + index);
            let thread = std::thread::Builder::new().name(format!("sink-{index}")).spawn(move || {
                core.map(crate::system::pin_to_core);
                worker.run()
            })?;
            threads.push(thread);
        }
        Ok(Sink { addresses, shared, threads })
    }

    /// Where it listens.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Its ledgers.
    pub fn ledgers(&self) -> Vec<Arc<Ledger>> {
        self.shared.book.ledgers()
    }

    /// Only messages planned from this time on count for latencies.
    pub fn measure_from(&self, unix_ns: u64) {
        self.shared.measure_from_ns.store(unix_ns, Ordering::Relaxed);
    }

    /// All workers' counts so far.
    pub fn counts(&self) -> SinkCounts {
        let mut sum = SinkCounts::default();
        for shown in &self.shared.shown {
            let mut counts = shown.load();
            let last = sum.last_arrival_ns.max(counts.last_arrival_ns);
            for (total, value) in sum.fields().into_iter().zip(counts.fields()) {
                *total += *value;
            }
            sum.last_arrival_ns = last;
        }
        sum
    }

    /// Closes everything; returns the counts and the latencies from planned start to arrival.
    pub fn stop(mut self) -> (SinkCounts, Latency) {
        self.shared.stop.store(true, Ordering::Relaxed);
        let mut latency = Latency::default();
        for thread in self.threads.drain(..) {
            latency.merge(&thread.join().expect("a sink's thread does not panic"));
        }
        (self.counts(), latency)
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
    }
}
