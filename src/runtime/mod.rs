//! The thin glommio shell: one executor per core, each driving one pure shard.
//!
//! The only room that names glommio and libc. The main thread probes, binds, starts the executors and then waits for
//! what they and the signals say; it carries no mail.
//!
//! - `probe`: is io_uring there, and what to do if not. `report`: lines for the operator.
//! - `executor`: the shell of a shard. `listen`, `conn`, `dial`: its sockets. `balance`: which shard takes a fresh connection.
//!   `proxy`: what a load balancer says of one. `gate`: how many handshakes a turn has. `disk`: its segments.
//! - `ahead`: segments read at the start. `survey`: how a disk commits, for `ringpost tune`.
//! - `tls`: keys, and one connection's records. `signing`: DKIM keys. No other files name rustls.
//! - `privileges`: what is given up at the start. `files`: small ones, replaced whole.
//! - `ring`: how glommio's rings are made. `mesh`: what comes from other threads, through a `mailbox`. `clock`: the moment of a step, and the one timer.

pub mod ahead;
mod balance;
mod clock;
mod conn;
mod dial;
mod disk;
mod executor;
mod files;
mod gate;
mod listen;
mod mailbox;
mod mesh;
pub mod privileges;
pub mod probe;
mod proxy;
pub mod report;
mod ring;
pub mod signing;
pub mod survey;
pub mod tls;

#[cfg(test)]
mod tests;

/// What mailboxes are made of here.
mod sync {
    pub(super) use crossbeam::queue::SegQueue as Queue;
    pub(super) use crossbeam::utils::CachePadded as Padded;
    pub(super) use std::sync::{Arc, Mutex};
}

use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use glommio::{LocalExecutorBuilder, Placement};
use ipnet::IpNet;

use crate::base::bytes::BlockSource;
use crate::base::ids::ShardId;
use crate::base::time::Now;
use crate::config::{Listener, Settings, SocketSettings};
use crate::route::reports::Seen;
use crate::route::{Answer, QueryId, Question};
use crate::schedule::warm_up::{self, Notice};
use crate::shard::{Level, Shard};
use crate::smtp::auth::{AuthAnswer, AuthRequest, ProofAnswer, ProofRequest};
use balance::Loads;
pub use clock::wall;
use executor::Berth;
pub use executor::allowed_cores;
pub(crate) use files::replace_file;
use listen::Door;
pub use mesh::{Injection, InjectionReply, Operation, OperationReply, ReportReply, Shards};
use mesh::{Letter, Mailbox};
use report::Reporter;
use tls::Keys;
pub(crate) use tls::is_about_certificate;

/// Memory registered with each of an executor's three rings. Small, so that the default limit on locked memory
/// serves many shards: blocks live long and come from the allocator.
const IO_MEMORY_BYTES: usize = 64 << 10;
/// Executors that were told to stop get so long.
const STOP_PAUSE: Duration = Duration::from_secs(2);

/// Takes the resolver's answer, on any thread.
pub type Reply = Box<dyn FnOnce(QueryId, Answer) + Send>;
/// Asks the resolver: the name of the question, the question, where the answer goes.
pub type Ask = Arc<dyn Fn(QueryId, Question, Reply) + Send + Sync>;
/// Takes the answer to what a client said in AUTH, on any thread.
pub type AuthReply = Box<dyn FnOnce(AuthAnswer) + Send>;
/// Asks whether a client is who it says; the answer comes once.
pub type Authenticate = Arc<dyn Fn(Box<AuthRequest>, AuthReply) + Send + Sync>;
/// Takes what a next hop is to be told of who we are, on any thread.
pub type ProofReply = Box<dyn FnOnce(ProofAnswer) + Send>;
/// Asks what to tell a next hop of who we are; the answer comes once.
pub type Prove = Arc<dyn Fn(Box<ProofRequest>, ProofReply) + Send + Sync>;
/// Takes what the book of days' limits has to say to a shard, whenever it has, on any thread.
pub type LendReply = Arc<dyn Fn(Notice) + Send + Sync>;
/// Carries what a shard has to say to the book; what the book says to it from then on goes to the reply.
pub type Lend = Arc<dyn Fn(ShardId, warm_up::Request, LendReply) + Send + Sync>;
/// Takes what sessions showed of TLS; must not block.
pub type NoteTls = Arc<dyn Fn(Vec<Seen>) + Send + Sync>;
/// Makes a shard on its thread.
pub type Build = Box<dyn FnOnce(ShardId, Box<dyn BlockSource>, Now) -> Shard + Send>;

/// What the shell itself needs to know; everything else goes from the settings to the shards.
pub struct Options {
    /// Where to listen.
    pub sockets: Sockets,
    /// Who knows the users.
    pub authenticate: Authenticate,
    /// Who has our credentials.
    pub prove: Prove,
    /// Who keeps the book of days' limits.
    pub lend: Lend,
    /// Who counts for TLS reports.
    pub note_tls: NoteTls,
    /// For TLS, both ways.
    pub keys: Keys,
    /// The spool.
    pub queue_dir: PathBuf,
    /// Size of a segment file.
    pub segment_bytes: u32,
    /// Whose PROXY header is believed.
    pub proxies: Vec<IpNet>,
    /// What the kernel is asked for with every socket.
    pub socket: SocketSettings,
    /// A drain takes at most so long.
    pub drain_ms: u64,
}

/// The cores for shards to run on, in turn: those of the settings, or all that the process may use. A core that it may not
/// use is an error.
pub fn placement(settings: &Settings) -> Result<Vec<usize>, Failure> {
    let allowed = executor::allowed_cores().map_err(|error| Failure(format!("cannot find out my cores: {error}")))?;
    match settings.cores.iter().find(|core| !allowed.contains(core)) {
        _ if settings.cores.is_empty() => Ok(allowed),
        None => Ok(settings.cores.clone()),
        Some(core) => Err(Failure(format!(
            "cores: core {core} is not one that this process may use; name some of {allowed:?}, or allow it (taskset, cpuset)"
        ))),
    }
}

/// Sockets that are bound, with the rights of whoever started the relay, and do not listen yet.
pub struct Sockets {
    listeners: Vec<Listener>,
    doors: Vec<Vec<Door>>,
    /// The core of each shard.
    cores: Vec<usize>,
}

impl Sockets {
    /// Binds every endpoint, for so many shards; they run on these cores in turn, as `placement` gives them.
    pub fn bind(
        listen: &[Listener],
        shards: usize,
        cores: &[usize],
        wanted: &SocketSettings,
    ) -> Result<Sockets, Failure> {
        let cores: Vec<usize> = cores.iter().copied().cycle().take(shards).collect();
        let mut listeners = Vec::new();
        let mut doors: Vec<Vec<Door>> = (0..shards).map(|_| Vec::new()).collect();
        for Listener { endpoint, role, proxied } in listen {
            let (endpoint, made) = listen::bind(endpoint, &cores, wanted)
                .map_err(|error| Failure(format!("cannot listen on {endpoint}: {error}")))?;
            let (role, proxied) = (*role, *proxied);
            listeners.push(Listener { endpoint, role, proxied });
            doors.iter_mut().zip(made).for_each(|(of_shard, socket)| of_shard.push(Door { socket, role, proxied }));
        }
        Ok(Sockets { listeners, doors, cores })
    }
}

/// What happened that concerns the main thread.
pub enum Event {
    /// The shard accepts mail.
    Ready(ShardId),
    /// Nothing is on the shard's way any more.
    Drained(ShardId),
    /// The shard cannot go on.
    Failed(ShardId, String),
    /// The shard's thread has ended.
    Ended(ShardId),
    /// SIGTERM or SIGINT, or someone asks for the same.
    Drain,
    /// SIGHUP: the configuration is to be read again.
    Reload,
}

/// What is asked of a relay that carries mail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// To take no more mail, and stop.
    Drain,
    /// To read its configuration again.
    Reload,
}

/// Why the relay did not start or ended early.
#[derive(Debug)]
pub struct Failure(pub String);

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Failure {}

/// A running relay.
pub struct Crew {
    listeners: Vec<Listener>,
    mailboxes: Vec<Mailbox>,
    threads: Vec<(ShardId, glommio::ExecutorJoinHandle<()>)>,
    events: Receiver<Event>,
    sender: Sender<Event>,
    reporter: Reporter,
    drain: Duration,
}

impl Crew {
    /// Starts a shard on a core for each of `builds`.
    pub fn start(options: Options, builds: Vec<Build>, ask: &Ask, reporter: Reporter) -> Result<Crew, Failure> {
        probe::io_uring().map_err(Failure)?;
        let Sockets { listeners, doors, cores } = options.sockets;
        assert_eq!(doors.len(), builds.len(), "sockets were bound for so many shards");
        let loads = Loads::new(builds.len());
        let (sender, events) = channel();
        let mailboxes: Vec<Mailbox> = builds.iter().map(|_| Mailbox::default()).collect();
        let mut threads = Vec::new();
        for (number, (build, doors)) in builds.into_iter().zip(doors).enumerate() {
            let id = ShardId(number as u16);
            let berth = Berth {
                id,
                spool: options.queue_dir.clone(),
                segment_bytes: options.segment_bytes,
                doors,
                loads: loads.clone(),
                proxies: options.proxies.clone(),
                authenticate: options.authenticate.clone(),
                prove: options.prove.clone(),
                lend: options.lend.clone(),
                note_tls: options.note_tls.clone(),
                socket: options.socket,
                mailboxes: mailboxes.clone(),
                ask: ask.clone(),
                events: sender.clone(),
                reporter: reporter.clone(),
                keys: options.keys.clone(),
                build,
            };
            let note = EndNote(id, sender.clone());
            let thread = LocalExecutorBuilder::new(Placement::Fixed(cores[number]))
                .name("shard")
                .io_memory(IO_MEMORY_BYTES)
                .spawn(move || async move {
                    executor::live(berth).await;
                    drop(note);
                })
                .map_err(|error| Failure(format!("cannot start shard {number}: {error}")))?;
            threads.push((id, thread));
        }
        let drain = Duration::from_millis(options.drain_ms);
        Ok(Crew { listeners, mailboxes, threads, events, sender, reporter, drain })
    }

    /// Where it listens, in the order of the options, with the ports that were chosen.
    pub fn listeners(&self) -> &[Listener] {
        &self.listeners
    }

    /// The way to the shards, for the control thread.
    pub fn shards(&self) -> Shards {
        Shards::new(&self.mailboxes)
    }

    /// For whoever may ask for a drain: signals, a test, a demonstration.
    pub fn events(&self) -> Sender<Event> {
        self.sender.clone()
    }

    /// Waits until every shard accepts mail; false if a drain was asked for before.
    pub fn wait_ready(&mut self) -> Result<bool, Failure> {
        let mut ready = BTreeSet::new();
        while ready.len() < self.threads.len() {
            match self.next(None)? {
                Some(Event::Ready(id)) => drop(ready.insert(id)),
                Some(Event::Drain) => return Ok(false),
                _ => {}
            }
        }
        Ok(true)
    }

    /// Carries mail until something is asked.
    pub fn wait_request(&mut self) -> Result<Request, Failure> {
        loop {
            match self.next(None)? {
                Some(Event::Drain) => return Ok(Request::Drain),
                Some(Event::Reload) => return Ok(Request::Reload),
                _ => {}
            }
        }
    }

    /// Makes other settings hold, in every shard. Sockets that listen, threads and the spool stay as they are.
    pub fn change(&mut self, settings: &Arc<Settings>, keys: &Keys) {
        self.drain = Duration::from_millis(settings.drain_ms);
        self.tell_all(|| Letter::Change(Box::new((settings.clone(), keys.clone()))));
    }

    /// Drains all shards and stops them; false if the time was over first. Nothing accepted is lost either way.
    pub fn finish(mut self) -> bool {
        self.tell_all(|| Letter::Drain);
        let until = Instant::now() + self.drain;
        let mut drained = BTreeSet::new();
        while drained.len() < self.threads.len() {
            match self.next(Some(until)) {
                Ok(Some(Event::Drained(id))) => drop(drained.insert(id)),
                Ok(Some(_)) => {}
                Ok(None) | Err(_) => break,
            }
        }
        let all = drained.len() == self.threads.len();
        if !all {
            let text = "the drain took too long; what is on its way is tried again at the next start";
            self.reporter.report(Level::Warning, text.to_owned());
        }
        self.stop();
        all
    }

    /// Ends all threads without a drain.
    fn stop(&mut self) {
        self.tell_all(|| Letter::Stop);
        let until = Instant::now() + STOP_PAUSE;
        while !self.threads.is_empty() {
            let left = until.saturating_duration_since(Instant::now());
            match self.events.recv_timeout(left) {
                Ok(Event::Ended(id)) => drop(self.join(id)),
                Ok(_) => {}
                // What hangs ends with the process.
                Err(_) => return,
            }
        }
    }

    fn join(&mut self, id: ShardId) -> Option<String> {
        let at = self.threads.iter().position(|(of, _)| *of == id)?;
        self.threads.swap_remove(at).1.join().err().map(|error| error.to_string())
    }

    fn tell_all(&self, letter: impl Fn() -> Letter) {
        self.mailboxes.iter().for_each(|mailbox| mailbox.post([letter()]));
    }

    /// The next event; `None` when the moment has come. A shard that ends by itself is a failure.
    fn next(&mut self, until: Option<Instant>) -> Result<Option<Event>, Failure> {
        let event = match until {
            None => self.events.recv().ok(),
            Some(until) => self.events.recv_timeout(until.saturating_duration_since(Instant::now())).ok(),
        };
        match event {
            Some(Event::Failed(id, why)) => Err(Failure(format!("shard {}: {why}", id.0))),
            Some(Event::Ended(id)) => {
                let why = self.join(id).unwrap_or_else(|| "its thread ended".to_owned());
                Err(Failure(format!("shard {}: {why}", id.0)))
            }
            event => Ok(event),
        }
    }
}

impl Drop for Crew {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Tells the main thread that a shard's thread ended, however it did.
struct EndNote(ShardId, Sender<Event>);

impl Drop for EndNote {
    fn drop(&mut self) {
        let _ = self.1.send(Event::Ended(self.0));
    }
}

/// Makes SIGTERM and SIGINT ask for a drain, and a second one end the process at once; and SIGHUP for a reload.
///
/// To be called before any other thread starts, so that all inherit the blocked signals.
pub fn block_signals() -> io::Result<()> {
    // SAFETY: the set is local and made by `sigemptyset`.
    let result = unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &awaited_signals(), std::ptr::null_mut()) };
    if result == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(result)) }
}

/// Starts the thread that waits for the blocked signals.
pub fn watch_signals(events: Sender<Event>) -> io::Result<()> {
    std::thread::Builder::new().name("signals".into()).spawn(move || {
        let mut seen = 0;
        loop {
            let mut signal = 0;
            // SAFETY: waits for a signal of the set; both are local.
            if unsafe { libc::sigwait(&awaited_signals(), &mut signal) } != 0 {
                return;
            }
            if signal == libc::SIGHUP {
                let _ = events.send(Event::Reload);
                continue;
            }
            seen += 1;
            if seen > 1 {
                std::process::exit(1);
            }
            let _ = events.send(Event::Drain);
        }
    })?;
    Ok(())
}

fn awaited_signals() -> libc::sigset_t {
    // SAFETY: `sigemptyset` makes the set valid before signals are added.
    unsafe {
        let mut set = std::mem::zeroed();
        libc::sigemptyset(&mut set);
        libc::sigaddset(&mut set, libc::SIGTERM);
        libc::sigaddset(&mut set, libc::SIGINT);
        libc::sigaddset(&mut set, libc::SIGHUP);
        set
    }
}
