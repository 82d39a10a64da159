//! The sender: many client sessions on a few threads, closed loop or on a fixed schedule.
//!
//! Closed loop: each session sends its next message when the last has its answer. Open loop: starts are planned on a
//! schedule whatever the relay does; a start that finds no free session waits, and its latency counts from the plan (raw
//! latency, from the true start, is kept beside it), so that a stall is not hidden by sending less meanwhile. Starts later
//! than [`LATE_NS`] and starts never made are counted. Memory is bounded by sessions, not by messages: a backlog is a
//! number. Errors of a connection end that connection; they never end the run.

mod talk;
mod worker;

use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::auth::{Auth, Credentials, Mechanism};
use crate::client::{Body, Pipeline, Script};
use crate::clock::{Clock, nanos};
use crate::corpus::{Corpus, Form};
use crate::domains::{Domains, ZIPF_MAX};
use crate::http::{HttpPlan, HttpScript};
use crate::latency::Latency;
use crate::latency::LatencySummary;
use crate::ledger::Ledger;
use crate::messages::MessageFile;
use crate::schedule::Schedule;
use crate::tls::{ClientTls, TlsAsked, TlsMode};
use crate::trace::Trace;
use crate::units::SizeMix;

/// A start later than this after its plan counts as late, in nanoseconds.
pub const LATE_NS: u64 = 1_000_000;
/// The most sessions of a run.
pub const SESSIONS_MAX: u32 = 1 << 20;
/// The most messages under way on a session.
pub const DEPTH_MAX: u32 = 1000;
/// The most recipients of a message (four digits in its marker).
pub const RECIPIENTS_MAX: u32 = 1000;

/// What to send, and how.
#[derive(Clone, Debug)]
pub struct SendPlan {
    /// Sessions at a time.
    pub sessions: u32,
    /// Messages altogether; 0 for as many as the time allows.
    pub messages: u64,
    /// How long new messages are started, warm-up not counted; zero for as long as there are messages.
    pub duration: Duration,
    /// Time at the start whose messages do not count for latencies and rates.
    pub warm_up: Duration,
    /// When messages are started, whatever the relay does; None for closed loop.
    pub schedule: Option<Schedule>,
    /// A file of starts, in the place of a schedule; it may tell sizes and recipients as well.
    pub trace: Option<PathBuf>,
    /// Shortest and longest wait of a session between a last word and its next message.
    pub think: Option<(Duration, Duration)>,
    /// Messages per connection; 0 for no end.
    pub messages_per_session: u64,
    /// Sizes.
    pub sizes: SizeMix,
    /// Recipients per message.
    pub recipients: u32,
    /// A folder of messages to send in the place of made-up ones, in turn.
    pub folder: Option<PathBuf>,
    /// Domains that recipients are spread over.
    pub domains: u32,
    /// Exponent of their shares (Zipf); 0 for even ones.
    pub zipf: f64,
    /// Grouping of commands.
    pub pipeline: Pipeline,
    /// DATA or BDAT.
    pub body: Body,
    /// Messages under way on a session at most, with BDAT across messages.
    pub depth: u32,
    /// When connections are secured.
    pub tls: TlsMode,
    /// How.
    pub tls_asked: TlsAsked,
    /// How to log in.
    pub auth: Option<(Mechanism, Credentials)>,
    /// Addresses to send from, in turn; none for the system's choice.
    pub sources: Vec<IpAddr>,
    /// POST messages over HTTP in the place of SMTP.
    pub http: Option<HttpPlan>,
    /// Where to write what became of each message.
    pub message_file: Option<Arc<MessageFile>>,
    /// Latencies are wanted while it runs.
    pub watched: bool,
    /// Connect again, with back-off, when a connection is lost or refused.
    pub reconnect: bool,
    /// How long a reply may take before the connection is given up.
    pub reply_timeout: Duration,
    /// How long nothing at all may be heard from the server before the rest is not sent.
    pub give_up: Duration,
    /// Worker threads.
    pub workers: usize,
    /// Core of the first worker; the others follow on the next ones.
    pub core: Option<usize>,
    /// Seed of the text.
    pub seed: u64,
}

impl Default for SendPlan {
    fn default() -> SendPlan {
        SendPlan {
            sessions: 20,
            messages: 0,
            duration: Duration::ZERO,
            warm_up: Duration::ZERO,
            schedule: None,
            trace: None,
            think: None,
            messages_per_session: 0,
            sizes: SizeMix::fixed(10 << 10),
            recipients: 1,
            folder: None,
            domains: 1,
            zipf: 0.0,
            pipeline: Pipeline::Group,
            body: Body::Data,
            depth: 2,
            tls: TlsMode::None,
            tls_asked: TlsAsked::default(),
            auth: None,
            sources: Vec::new(),
            http: None,
            message_file: None,
            watched: false,
            reconnect: true,
            reply_timeout: Duration::from_secs(60),
            give_up: Duration::from_secs(60),
            workers: 1,
            core: None,
            seed: 1,
        }
    }
}

impl SendPlan {
    /// An error in words if the plan makes no sense.
    pub fn check(&self) -> Result<(), String> {
        let wrong = |text: &str| Err(text.to_string());
        match self {
            plan if plan.messages == 0 && plan.duration.is_zero() && plan.trace.is_none() => {
                wrong("give a number of messages or a duration")
            }
            plan if plan.trace.is_some() && (plan.schedule.is_some() || plan.folder.is_some()) => {
                wrong("a trace tells starts and sizes: give no schedule and no folder beside it")
            }
            plan if plan.depth == 0 || plan.depth > DEPTH_MAX => wrong("the depth must be 1 to 1000"),
            plan if plan.http.is_some() && (plan.body != Body::Data || plan.auth.is_some()) => {
                wrong("BDAT and AUTH are of SMTP; give HTTP its authorization as a header field")
            }
            plan if plan.http.as_ref().is_some_and(|http| http.is_secured != (plan.tls == TlsMode::Implicit)) => {
                wrong("with HTTP the URL tells whether TLS is used: https goes with implicit TLS, http with none")
            }
            plan if plan.sessions == 0 || plan.sessions > SESSIONS_MAX => wrong("sessions must be 1 to 1048576"),
            plan if plan.recipients == 0 || plan.recipients > RECIPIENTS_MAX => wrong("recipients must be 1 to 1000"),
            plan if plan.domains == 0 => wrong("domains must be at least 1"),
            plan if !(0.0..=10.0).contains(&plan.zipf) => wrong("the exponent of Zipf must be 0 to 10"),
            plan if plan.zipf > 0.0 && plan.domains > ZIPF_MAX => wrong("a Zipf spread has at most 1048576 domains"),
            _ => Ok(()),
        }
    }
}

impl SendPlan {
    /// The trace, if there is one; its file is read.
    pub fn load_trace(&self) -> io::Result<Option<Trace>> {
        let size_bytes = self.sizes.mean_bytes() as u64;
        let mut trace = self.trace.as_ref().map(|path| Trace::load(path, size_bytes, self.recipients)).transpose()?;
        if let (Some(trace), 1..) = (&mut trace, self.messages) {
            trace.truncate(self.messages);
        }
        Ok(trace)
    }

    /// Recipients that each message has in the ledger: as many as any of them has.
    pub fn ledger_recipients(&self) -> io::Result<u32> {
        Ok(self.load_trace()?.map_or(self.recipients, |trace| trace.recipients_most()))
    }

    /// Where to POST, if that is how messages are handed over.
    pub fn http_target(&self) -> io::Result<Option<SocketAddr>> {
        let Some(http) = &self.http else { return Ok(None) };
        let target = http.target();
        let found = target.to_socket_addrs()?.next();
        found.map(Some).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, format!("no address for {target}")))
    }

    /// What is asked for beyond plain SMTP with DATA, in words; with how the sink is secured.
    pub fn also(&self, sink: TlsMode) -> Vec<String> {
        let mut words = Vec::new();
        if let Body::Bdat { chunk_bytes } = self.body {
            words.push(match chunk_bytes {
                0 => "BDAT".to_string(),
                bytes => format!("BDAT by {}", crate::units::human_bytes(bytes)),
            });
            if self.pipeline == Pipeline::Across {
                words.push(format!("depth {}", self.depth));
            }
        }
        if let Some(http) = &self.http {
            words.push(format!("HTTP to {}", http.path));
        }
        let secured = |mode| match mode {
            TlsMode::None => None,
            TlsMode::StartTls => Some("STARTTLS"),
            TlsMode::Implicit => Some("implicit TLS"),
        };
        words.extend(secured(self.tls).map(|how| format!("{how} in")));
        words.extend(secured(sink).map(|how| format!("{how} out")));
        words.extend(self.auth.as_ref().map(|(mechanism, _)| format!("AUTH {}", mechanism.name())));
        words.extend((!self.sources.is_empty()).then(|| format!("{} source addresses", self.sources.len())));
        words
    }

    /// How starts are planned, in words; None in closed loop.
    pub fn pace(&self) -> Option<String> {
        let trace = self.trace.as_ref().map(|path| format!("trace {}", path.display()));
        trace.or_else(|| self.schedule.as_ref().map(ToString::to_string))
    }
}

/// What a sender has counted, in messages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SendCounts {
    /// Begun.
    pub started: u64,
    /// Acknowledged for at least one recipient.
    pub acknowledged: u64,
    /// Refused (5xx) for all recipients.
    pub refused: u64,
    /// Deferred (4xx) for all recipients, or some refused and some deferred.
    pub deferred: u64,
    /// Cut off by a lost connection before the last word.
    pub broken: u64,
    /// Connections opened.
    pub connections: u64,
    /// Connections that were lost, refused or broke the protocol.
    pub connections_lost: u64,
    /// Connections ended since the server does not offer what was asked for: STARTTLS, CHUNKING or a way to log in.
    #[serde(default)]
    pub connections_lacking: u64,
    /// Connections ended since a login failed.
    #[serde(default)]
    pub logins_failed: u64,
    /// TLS handshakes made.
    #[serde(default)]
    pub handshakes: u64,
    /// Of these, from a session known before.
    #[serde(default)]
    pub handshakes_resumed: u64,
    /// TLS handshakes that failed.
    #[serde(default)]
    pub handshakes_failed: u64,
    /// Starts more than a millisecond behind their plan (open loop).
    pub late_starts: u64,
    /// Planned starts that were never made (open loop).
    pub missed_starts: u64,
    /// CPU of the sender's threads, user and system, in nanoseconds.
    pub cpu_ns: u64,
    /// When the last acknowledgement came, nanoseconds since the Unix epoch.
    pub last_acknowledged_ns: u64,
}

impl SendCounts {
    /// Messages begun without a last word so far.
    pub fn in_flight(&self) -> u64 {
        self.started.saturating_sub(self.acknowledged + self.refused + self.deferred + self.broken)
    }

    fn fields(&mut self) -> [&mut u64; 16] {
        [
            &mut self.started,
            &mut self.acknowledged,
            &mut self.refused,
            &mut self.deferred,
            &mut self.broken,
            &mut self.connections,
            &mut self.connections_lost,
            &mut self.connections_lacking,
            &mut self.logins_failed,
            &mut self.handshakes,
            &mut self.handshakes_resumed,
            &mut self.handshakes_failed,
            &mut self.late_starts,
            &mut self.missed_starts,
            &mut self.cpu_ns,
            &mut self.last_acknowledged_ns,
        ]
    }
}

#[derive(Default)]
struct Shown([AtomicU64; 16]);

impl Shown {
    fn store(&self, mut counts: SendCounts) {
        for (shown, value) in self.0.iter().zip(counts.fields()) {
            shown.store(*value, Ordering::Relaxed);
        }
    }

    fn load(&self) -> SendCounts {
        let mut counts = SendCounts::default();
        for (shown, value) in self.0.iter().zip(counts.fields()) {
            *value = shown.load(Ordering::Relaxed);
        }
        counts
    }
}

/// Latencies of acceptance.
#[derive(Clone, Debug, Default)]
pub struct SendLatency {
    /// From the planned start to the 250.
    pub corrected: Latency,
    /// From the true start to the 250.
    pub raw: Latency,
}

struct Shared {
    plan: SendPlan,
    target: SocketAddr,
    script: Script,
    http: Option<HttpScript>,
    tls: Option<ClientTls>,
    /// Planned starts, with a trace.
    trace: Option<Arc<Trace>>,
    ledger: Arc<Ledger>,
    clock: Clock,
    start_ns: u64,
    measure_from_ns: u64,
    deadline_ns: u64,
    next_id: AtomicU64,
    stop: AtomicBool,
    running: AtomicUsize,
    shown: Vec<Shown>,
    /// Latencies so far, of workers that are watched.
    seen: Vec<Mutex<Latency>>,
}

/// A running sender.
pub struct Sender {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<SendLatency>>,
}

impl Sender {
    /// Starts sending to `target`. The plan must pass [`SendPlan::check`].
    pub fn start(plan: &SendPlan, target: SocketAddr, ledger: Arc<Ledger>, clock: Clock) -> io::Result<Sender> {
        plan.check().map_err(|text| io::Error::new(io::ErrorKind::InvalidInput, text))?;
        let workers = plan.workers.clamp(1, plan.sessions as usize);
        let form = match (&plan.http, plan.body) {
            (Some(http), _) => http.form(),
            (None, Body::Data) => Form::Stuffed,
            (None, Body::Bdat { .. }) => Form::Plain,
        };
        let trace = plan.load_trace()?.map(Arc::new);
        let corpus = match (&plan.folder, &trace) {
            (_, Some(trace)) => Corpus::for_trace(trace, plan.seed, form),
            (Some(folder), None) => Corpus::from_folder(folder, form)?,
            (None, None) => Corpus::in_form(&plan.sizes, plan.seed, form),
        };
        let host = plan.http.as_ref().map_or(target.ip().to_string(), |http| http.host().to_string());
        let tls = (plan.tls != TlsMode::None).then(|| ClientTls::new(&plan.tls_asked, &host)).transpose()?;
        let script = Script {
            pipeline: plan.pipeline,
            body: plan.body,
            depth: plan.depth,
            tls: plan.tls,
            auth: plan.auth.clone().map(|(mechanism, credentials)| Auth::new(mechanism, credentials)),
            recipients: ledger.recipients(),
            trace: trace.clone(),
            domains: Domains::zipf(plan.domains, plan.zipf),
            messages_per_session: plan.messages_per_session,
            run: ledger.run(),
            corpus,
        };
        let start_ns = clock.now_ns();
        let measure_from_ns = start_ns + nanos(plan.warm_up);
        let deadline_ns =
            if plan.duration.is_zero() { u64::MAX } else { measure_from_ns.saturating_add(nanos(plan.duration)) };
        let shared = Arc::new(Shared {
            plan: plan.clone(),
            target,
            script,
            http: plan.http.as_ref().map(HttpScript::new),
            tls,
            trace,
            ledger,
            clock,
            start_ns,
            measure_from_ns,
            deadline_ns,
            next_id: AtomicU64::new(0),
            stop: AtomicBool::new(false),
            running: AtomicUsize::new(workers),
            shown: (0..workers).map(|_| Shown::default()).collect(),
            seen: (0..workers).map(|_| Mutex::new(Latency::default())).collect(),
        });
        let mut threads = Vec::new();
        for index in 0..workers {
            let mut worker = worker::Worker::new(Arc::clone(&shared), index, workers)?;
            let core = plan.core.map(|core| core + index);
            let thread = std::thread::Builder::new().name(format!("send-{index}")).spawn(move || {
                core.map(crate::system::pin_to_core);
                worker.run()
            })?;
            threads.push(thread);
        }
        Ok(Sender { shared, threads })
    }

    /// When messages begin to count, nanoseconds since the Unix epoch.
    pub fn measure_from_ns(&self) -> u64 {
        self.shared.measure_from_ns
    }

    /// All workers' counts so far.
    pub fn counts(&self) -> SendCounts {
        let mut sum = SendCounts::default();
        for shown in &self.shared.shown {
            let mut counts = shown.load();
            let last = sum.last_acknowledged_ns.max(counts.last_acknowledged_ns);
            for (total, value) in sum.fields().into_iter().zip(counts.fields()) {
                *total += *value;
            }
            sum.last_acknowledged_ns = last;
        }
        sum
    }

    /// Latencies of acceptance so far, if the plan wants them watched.
    pub fn latency(&self) -> Option<LatencySummary> {
        self.shared.plan.watched.then(|| {
            let mut all = Latency::default();
            self.shared.seen.iter().for_each(|part| all.merge(&part.lock().expect("no holder panics")));
            all.summary()
        })
    }

    /// How much is done, 0 to 1: of the messages or of the time, whichever is further.
    pub fn share(&self, now_ns: u64) -> Option<f64> {
        let shared = &self.shared;
        let whole = shared.trace.as_ref().map_or(shared.plan.messages, |trace| trace.len());
        let of_messages = (whole > 0).then(|| self.counts().started as f64 / whole as f64);
        let time_ns = shared.deadline_ns.saturating_sub(shared.start_ns);
        let past_ns = now_ns.saturating_sub(shared.start_ns);
        let of_time = (shared.deadline_ns < u64::MAX).then(|| past_ns as f64 / time_ns.max(1) as f64);
        of_messages.into_iter().chain(of_time).reduce(f64::max)
    }

    /// True when all is sent and answered.
    pub fn is_done(&self) -> bool {
        self.shared.running.load(Ordering::Acquire) == 0
    }

    /// Asks it to start no more messages; what is on its way is finished.
    pub fn stop(&self) {
        self.shared.stop.store(true, Ordering::Relaxed);
    }

    /// Waits until all is sent and answered; returns the counts and latencies.
    pub fn finish(mut self) -> (SendCounts, SendLatency) {
        let mut latency = SendLatency::default();
        for thread in self.threads.drain(..) {
            let part = thread.join().expect("a sender's thread does not panic");
            latency.corrected.merge(&part.corrected);
            latency.raw.merge(&part.raw);
        }
        (self.counts(), latency)
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        self.stop();
    }
}
