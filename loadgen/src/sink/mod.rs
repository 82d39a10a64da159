//! The sink: takes all mail it is sent, checks every body, and writes arrivals to the ledger.
//!
//! Each worker thread has its own event loop and, by SO_REUSEPORT, its own listeners; nothing is shared but the ledger and
//! counters that are stored once per turn. An idle connection holds no buffer of note. Errors of one connection end that
//! connection; errors at the start are returned.

pub mod body;
pub mod faults;
pub mod profiles;
pub mod session;
mod sources;
mod worker;

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use serde::{Deserialize, Serialize};

use crate::auth::{Auth, Credentials, Mechanism};
use crate::clock::Clock;
use crate::dns::{Answerer, ZoneFile, Zones};
use crate::latency::Latency;
use crate::ledger::Ledger;
use crate::messages::MessageFile;
use crate::tls::{ServerTls, TlsMode};
use faults::{Faults, Manners};
use profiles::Profile;
use sources::Sources;

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
    /// STARTTLS offered, or all secured from the first byte, with a certificate made for the occasion.
    pub tls: TlsMode,
    /// AUTH is offered to who knows these, and nobody else may send.
    pub auth: Option<Credentials>,
    /// Where names are answered for as well, and which; those of made-up addresses lead here if none are given.
    pub dns: Option<(SocketAddr, ZoneFile)>,
    /// Where to write what arrived and when.
    pub message_file: Option<Arc<MessageFile>>,
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
            tls: TlsMode::None,
            auth: None,
            dns: None,
            message_file: None,
            seed: 1,
        }
    }
}

/// Kinds that a listener's connections draw from, with the running totals of their weights.
type Draw = Vec<(u64, usize)>;

impl SinkPlan {
    /// All places to listen: those of the plan, then those of profiles.
    fn listen_all(&self) -> Vec<SocketAddr> {
        let mut all = self.listen.clone();
        for address in self.profiles.iter().filter_map(|profile| profile.listen) {
            if !all.contains(&address) {
                all.push(address);
            }
        }
        all
    }

    fn manners(&self) -> Manners {
        let mut manners = Manners {
            starttls: self.tls == TlsMode::StartTls,
            // A sink takes whichever mechanism the client chooses.
            auth: self.auth.clone().map(|credentials| Auth::new(Mechanism::Plain, credentials)),
            auth_required: self.auth.is_some(),
            // The first kind is met where no profile says otherwise.
            ..Manners::of(self.faults.clone())
        };
        for profile in &self.profiles {
            let kind = manners.kinds.len();
            manners.kinds.push(profile.faults.clone());
            let named = profile.domains.iter().map(|domain| (domain.to_ascii_lowercase().into_bytes(), kind));
            manners.domains.extend(named.collect::<HashMap<_, _>>());
        }
        manners
    }

    /// What the connections of a listener draw from: the profiles bound to it, or else those bound to none.
    fn draw(&self, listen: SocketAddr) -> Draw {
        let drawn = |wanted: Option<SocketAddr>| -> Draw {
            let mut total = 0;
            let kinds = self.profiles.iter().enumerate().filter(|(_, profile)| {
                profile.weight > 0 && profile.listen == wanted && (wanted.is_some() || profile.domains.is_empty())
            });
            kinds
                .map(|(index, profile)| {
                    total += u64::from(profile.weight);
                    (total, index + 1)
                })
                .collect()
        };
        let own = drawn(Some(listen));
        let any = if own.is_empty() { drawn(None) } else { own };
        if any.is_empty() { vec![(1, 0)] } else { any }
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
    /// Messages that arrived behind one that was begun later (RFC 4737 3).
    #[serde(default)]
    pub reordered: u64,
    /// The most messages that one of them was behind by.
    #[serde(default)]
    pub reordered_by: u64,
    /// Faults made on purpose.
    pub faults: u64,
    /// TLS handshakes made.
    #[serde(default)]
    pub handshakes: u64,
    /// Of these, from a session known before.
    #[serde(default)]
    pub handshakes_resumed: u64,
    /// TLS handshakes that failed.
    #[serde(default)]
    pub handshakes_failed: u64,
    /// Logins that succeeded.
    #[serde(default)]
    pub logins: u64,
    /// Logins that failed.
    #[serde(default)]
    pub logins_failed: u64,
    /// Source addresses.
    #[serde(default)]
    pub sources: u64,
    /// Most connections of one source at one time.
    #[serde(default)]
    pub source_connections_peak: u64,
    /// Most messages of one source in one second.
    #[serde(default)]
    pub source_rate_peak: u64,
    /// Questions about names.
    #[serde(default)]
    pub dns_questions: u64,
    /// When the last message was taken, nanoseconds since the Unix epoch.
    pub last_arrival_ns: u64,
    /// CPU of the sink's threads, user and system, in nanoseconds.
    pub cpu_ns: u64,
}

impl SinkCounts {
    fn fields(&mut self) -> [&mut u64; 26] {
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
            &mut self.reordered,
            &mut self.reordered_by,
            &mut self.faults,
            &mut self.handshakes,
            &mut self.handshakes_resumed,
            &mut self.handshakes_failed,
            &mut self.logins,
            &mut self.logins_failed,
            &mut self.sources,
            &mut self.source_connections_peak,
            &mut self.source_rate_peak,
            &mut self.dns_questions,
            &mut self.last_arrival_ns,
            &mut self.cpu_ns,
        ]
    }
}

/// Counts of a worker as others may read them, stored once per turn.
#[derive(Default)]
struct Shown([AtomicU64; 26]);

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
    manners: Manners,
    /// For each listener what its connections draw from.
    draws: Vec<Draw>,
    tls: Option<ServerTls>,
    is_implicit: bool,
    sources: Sources,
    message_file: Option<Arc<MessageFile>>,
    stop: AtomicBool,
    measure_from_ns: AtomicU64,
    shown: Vec<Shown>,
}

/// A running sink.
pub struct Sink {
    addresses: Vec<SocketAddr>,
    shared: Arc<Shared>,
    dns: Option<Answerer>,
    threads: Vec<JoinHandle<Latency>>,
}

impl Sink {
    /// Starts listening and its threads.
    pub fn start(plan: &SinkPlan, book: Book, clock: Clock) -> io::Result<Sink> {
        let workers = plan.workers.max(1);
        let wanted = plan.listen_all();
        let mut addresses = wanted.clone();
        let mut listeners = Vec::new();
        for index in 0..workers {
            let core = plan.core.map(|core| core + index);
            let mut own = Vec::new();
            for address in &mut addresses {
                let listener = worker::listen(*address, workers > 1, core)?;
                *address = listener.local_addr()?;
                own.push(listener);
            }
            listeners.push(own);
        }
        let shared = Arc::new(Shared {
            book,
            clock,
            manners: plan.manners(),
            draws: wanted.iter().map(|listen| plan.draw(*listen)).collect(),
            tls: (plan.tls != TlsMode::None).then(ServerTls::self_signed).transpose()?,
            is_implicit: plan.tls == TlsMode::Implicit,
            sources: Sources::default(),
            message_file: plan.message_file.clone(),
            stop: AtomicBool::new(false),
            measure_from_ns: AtomicU64::new(0),
            shown: (0..workers).map(|_| Shown::default()).collect(),
        });
        let dns = plan.dns.as_ref().map(|(listen, file)| {
            let wrong = |text| io::Error::new(io::ErrorKind::InvalidInput, text);
            let zones = Zones::new(file, addresses[0].ip()).map_err(wrong)?;
            Answerer::start(*listen, zones, plan.seed)
        });
        let dns = dns.transpose()?;
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
        Ok(Sink { addresses, shared, dns, threads })
    }

    /// Where it listens.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Where it answers for names.
    pub fn dns_address(&self) -> Option<SocketAddr> {
        self.dns.as_ref().map(Answerer::address)
    }

    /// The certificate of its TLS, as PEM.
    pub fn certificate_pem(&self) -> Option<&str> {
        self.shared.tls.as_ref().map(ServerTls::certificate_pem)
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
            let furthest = sum.reordered_by.max(counts.reordered_by);
            for (total, value) in sum.fields().into_iter().zip(counts.fields()) {
                *total += *value;
            }
            sum.last_arrival_ns = last;
            sum.reordered_by = furthest;
        }
        sum.sources = self.shared.sources.count();
        sum.source_connections_peak = self.shared.sources.open_peak();
        sum.source_rate_peak = self.shared.sources.rate_peak();
        sum.dns_questions = self.dns.as_ref().map_or(0, Answerer::asked);
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
