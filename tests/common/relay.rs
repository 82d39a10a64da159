//! The relay's own program as a child process in a directory of its own.
//!
//! A [`Setup`] is what outlives a process: directory, port and settings; so a relay can be stopped or killed and
//! started again over the same queue. A [`Relay`] is one life; dropping it kills it. Standard error is kept, and
//! printed when a test fails.

use std::io::{BufRead, BufReader, Read};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tempfile::TempDir;

use super::{client::Client, free_address, mail::plain, programs, wait_until};

/// A start may have to fill segments and read a queue back, on a busy machine.
const START_LONGEST: Duration = Duration::from_secs(30);
const END_LONGEST: Duration = Duration::from_secs(40);

/// The program under test: the one built with the tests, or what `RINGPOST` names.
pub(crate) fn program() -> PathBuf {
    std::env::var_os("RINGPOST").map_or_else(|| env!("CARGO_BIN_EXE_ringpost").into(), PathBuf::from)
}

/// Runs a command of the relay to its end.
pub(crate) fn ringpost(arguments: &[&str]) -> Output {
    programs::run(Command::new(program()).args(arguments), Duration::from_secs(30))
}

/// Directory, port and settings of a relay over all its lives.
pub(crate) struct Setup {
    dir: TempDir,
    listen: SocketAddr,
    sets: Vec<String>,
    has_config: bool,
    environment: Vec<(String, PathBuf)>,
}

impl Setup {
    /// One shard, small segments, fast retries, and everything routed to `next_hop`.
    pub(crate) fn to(next_hop: SocketAddr) -> Setup {
        Setup::bare().set("route.default", next_hop)
    }

    /// The same without a route.
    pub(crate) fn bare() -> Setup {
        let listen = free_address();
        let dir = TempDir::with_prefix("ringpost-test-").unwrap();
        Setup { dir, listen, sets: Vec::new(), has_config: false, environment: Vec::new() }
            .set("listen.relay", listen)
            .set("listen.http", "")
            .set("relay.hostname", "relay.example.com")
            .set("shards", 1)
            .set("queue.segment_bytes", 8 << 20)
            .set("retry.first_ms", 200)
            .set("retry.longest_ms", 1000)
            .set("retry.site_first_ms", 100)
            .set("retry.site_longest_ms", 500)
    }

    /// Adds or overrides a setting.
    pub(crate) fn set(mut self, key: &str, value: impl ToString) -> Setup {
        let prefix = format!("{key}=");
        self.sets.retain(|set| !set.starts_with(&prefix));
        self.sets.push(prefix + &value.to_string());
        self
    }

    /// Reads `ringpost.toml` in its directory, too.
    pub(crate) fn config(mut self) -> Setup {
        self.has_config = true;
        self
    }

    /// Runs with this in its environment.
    pub(crate) fn environment(mut self, name: &str, value: PathBuf) -> Setup {
        self.environment.push((name.to_owned(), value));
        self
    }

    /// Listens elsewhere.
    pub(crate) fn listen(mut self, address: SocketAddr) -> Setup {
        self.listen = address;
        self.set("listen.relay", address)
    }

    /// Where the relay listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.listen
    }

    /// A directory for the test's files; the queue is in it too.
    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The queue's directory, unless it was set to another.
    pub(crate) fn queue(&self) -> PathBuf {
        let set = self.sets.iter().find_map(|set| set.strip_prefix("queue.dir="));
        set.map_or_else(|| self.dir.path().join("queue"), PathBuf::from)
    }

    /// The arguments of `ringpost run`.
    pub(crate) fn arguments(&self) -> Vec<String> {
        let mut arguments = vec!["run".to_owned()];
        let queue = format!("queue.dir={}", self.queue().display());
        for set in self.sets.iter().filter(|set| !set.starts_with("queue.dir=")).chain([&queue]) {
            arguments.extend(["--set".to_owned(), set.clone()]);
        }
        if self.has_config {
            arguments.extend(["--config".to_owned(), self.dir.path().join("ringpost.toml").display().to_string()]);
        }
        arguments
    }

    /// Starts it and waits until it is ready.
    pub(crate) fn start(&self) -> Relay {
        let mut command = Command::new(program());
        command.args(self.arguments()).envs(self.environment.iter().map(|(name, value)| (name, value)));
        self.start_command(command)
    }

    /// The same where so many files may be open.
    pub(crate) fn start_within(&self, files: u32) -> Relay {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", &format!("ulimit -n {files} && exec \"$0\" \"$@\"")]).arg(program()).args(self.arguments());
        self.start_command(command)
    }

    fn start_command(&self, mut command: Command) -> Relay {
        command.current_dir(self.dir.path()).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        // SAFETY: between fork and exec only prctl is called, which is async-signal-safe.
        unsafe {
            command.pre_exec(|| {
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                Ok(())
            });
        }
        let mut child = command.spawn().unwrap_or_else(|e| panic!("cannot start {command:?}: {e}"));
        let (line_of, lines) = channel();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        std::thread::spawn(move || stdout.lines().map_while(Result::ok).for_each(|line| drop(line_of.send(line))));
        let errors = Arc::new(Mutex::new(Vec::new()));
        let (mut stderr, kept) = (child.stderr.take().unwrap(), Arc::clone(&errors));
        std::thread::spawn(move || {
            let mut piece = [0; 4096];
            while let Ok(length @ 1..) = stderr.read(&mut piece) {
                kept.lock().unwrap().extend_from_slice(&piece[..length]);
            }
        });
        let mut relay = Relay { child, address: self.listen, ready: String::new(), errors };
        loop {
            match lines.recv_timeout(START_LONGEST) {
                Ok(line) if line.starts_with("ready ") => {
                    relay.ready = line;
                    return relay;
                }
                Ok(_) => {}
                Err(RecvTimeoutError::Timeout) => panic!("not ready after {START_LONGEST:?}"),
                Err(RecvTimeoutError::Disconnected) => panic!("ended before it was ready: {:?}", relay.child.wait()),
            }
        }
    }
}

/// One life of a relay.
pub(crate) struct Relay {
    child: Child,
    address: SocketAddr,
    ready: String,
    errors: Arc<Mutex<Vec<u8>>>,
}

impl Relay {
    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// The line it printed.
    pub(crate) fn ready(&self) -> &str {
        &self.ready
    }

    /// Where it listens for HTTP.
    pub(crate) fn http(&self) -> SocketAddr {
        let part = self.ready.split(' ').find_map(|part| part.strip_prefix("http="));
        part.expect("the relay listens for HTTP").parse().unwrap()
    }

    /// Its process.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// A client that has read the greeting.
    pub(crate) fn client(&self) -> Client {
        Client::connect(self.address)
    }

    /// Takes a message for a mailbox of a domain, which is its subject, too.
    pub(crate) fn take_for(&self, domain: &str) {
        let reply = self.client().deliver("a@source.test", &[&format!("b@{domain}")], &plain(domain));
        assert!(reply.is("250 2.0.0"), "{reply:?}");
    }

    /// What it wrote to standard error so far.
    pub(crate) fn errors(&self) -> String {
        String::from_utf8_lossy(&self.errors.lock().unwrap()).into_owned()
    }

    /// True while it runs.
    pub(crate) fn runs(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Sends it a signal.
    pub(crate) fn signal(&self, signal: i32) {
        // SAFETY: plain call; the child is not waited for yet, so the number is its.
        unsafe { libc::kill(self.child.id() as libc::pid_t, signal) };
    }

    /// SIGTERM, without waiting.
    pub(crate) fn ask_to_end(&self) {
        self.signal(libc::SIGTERM);
    }

    /// Waits for its end.
    pub(crate) fn wait(&mut self) -> ExitStatus {
        let mut status = None;
        let ended = wait_until(END_LONGEST, || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        });
        assert!(ended, "still there {END_LONGEST:?} after SIGTERM");
        status.unwrap()
    }

    /// SIGTERM, and status 0 in good time.
    pub(crate) fn stop(mut self) {
        self.ask_to_end();
        let status = self.wait();
        assert!(status.success(), "ended with {status}");
    }

    /// SIGKILL.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// CPU that all its threads used so far.
    pub(crate) fn cpu(&self) -> Duration {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.pid())).unwrap();
        let ns = tasks.flatten().filter_map(|task| {
            let text = std::fs::read_to_string(task.path().join("schedstat")).ok()?;
            text.split_ascii_whitespace().next()?.parse::<u64>().ok()
        });
        Duration::from_nanos(ns.sum())
    }

    /// Its open descriptors.
    pub(crate) fn descriptors(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.pid())).unwrap().count()
    }

    /// Its resident size.
    pub(crate) fn resident_bytes(&self) -> u64 {
        let text = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        // Already gone is fine.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("---- the relay's standard error ----\n{}----", self.errors());
        }
    }
}

/// 127.0.0.1 with a port of the system's choice.
pub(crate) fn any_port() -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, 0))
}
