//! The relay under test as a child process: started, waited for, measured, killed, ended.
//!
//! It runs in a session and process group of its own, so that a kill takes its helpers along, and dies with us. Its CPU is read from a
//! cgroup of its own where one can be made (exact, all descendants), else from /proc, over the processes of its group and
//! their descendants, with the children they have waited for. Its output goes to `relay.log` in its directory. Used by
//! one thread; the thread that starts it must outlive it. Failing to start is an error with the end of that log.

use std::collections::HashMap;
use std::fs::{self, OpenOptions};
use std::io::{self, Read};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

const POLL: Duration = Duration::from_millis(10);
const LOG_TAIL_BYTES: usize = 2000;

/// How CPU was measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CpuSource {
    /// `cpu.stat` of a cgroup.
    Cgroup,
    /// `/proc/PID/stat`, in ticks of the kernel.
    Proc,
}

/// What the relay used so far.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Usage {
    /// CPU of all its processes, in nanoseconds.
    pub cpu: Cpu,
    /// Where that is from.
    pub source: CpuSource,
    /// Sum of its live processes' peak resident sizes, in bytes; the largest seen. Shared pages count once per process.
    pub rss_peak_bytes: u64,
    /// Processes at one time; the most seen.
    pub processes_peak: u64,
    /// Threads of all of them at one time; the most seen.
    pub threads_peak: u64,
}

/// CPU time by mode, in nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cpu {
    /// In user mode.
    pub user_ns: u64,
    /// In the kernel.
    pub system_ns: u64,
}

impl Cpu {
    /// Both together.
    pub fn total_ns(&self) -> u64 {
        self.user_ns + self.system_ns
    }

    /// What was added since an earlier reading.
    pub fn since(&self, earlier: &Cpu) -> Cpu {
        Cpu {
            user_ns: self.user_ns.saturating_sub(earlier.user_ns),
            system_ns: self.system_ns.saturating_sub(earlier.system_ns),
        }
    }

    fn plus(&self, other: &Cpu) -> Cpu {
        Cpu { user_ns: self.user_ns + other.user_ns, system_ns: self.system_ns + other.system_ns }
    }
}

/// A relay, running or not.
pub struct Relay {
    argv: Vec<String>,
    listen: SocketAddr,
    dir: PathBuf,
    child: Option<Child>,
    cgroup: Option<PathBuf>,
    /// CPU of former lives that /proc has forgotten.
    past_cpu: Cpu,
    core: Option<usize>,
    rss_peak_bytes: u64,
    processes_peak: u64,
    threads_peak: u64,
}

impl Relay {
    /// Fills `{listen}`, `{sink}` and `{dir}` (also `{listen_port}`, `{sink_port}`, `{dns}`) into the command and starts it,
    /// on one core alone if one is given.
    pub fn start(
        argv: &[String],
        listen: SocketAddr,
        sink: SocketAddr,
        dns: Option<SocketAddr>,
        dir: &Path,
        core: Option<usize>,
    ) -> io::Result<Relay> {
        let dns = dns.map_or(String::new(), |dns| dns.to_string());
        let fill = |word: &String| {
            word.replace("{listen}", &listen.to_string())
                .replace("{sink}", &sink.to_string())
                .replace("{listen_port}", &listen.port().to_string())
                .replace("{sink_port}", &sink.port().to_string())
                .replace("{dns}", &dns)
                .replace("{dir}", &dir.to_string_lossy())
        };
        let argv: Vec<String> = argv.iter().map(fill).collect();
        if argv.is_empty() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "the relay's command is empty"));
        }
        let cgroup = make_cgroup();
        let dir = dir.to_path_buf();
        let mut relay = Relay {
            argv,
            listen,
            dir,
            child: None,
            cgroup,
            past_cpu: Cpu::default(),
            core,
            rss_peak_bytes: 0,
            processes_peak: 0,
            threads_peak: 0,
        };
        relay.launch()?;
        Ok(relay)
    }

    /// Starts it again after [`Relay::kill`], with the same command.
    pub fn launch(&mut self) -> io::Result<()> {
        assert!(self.child.is_none(), "one life at a time");
        let log = OpenOptions::new().create(true).append(true).open(self.log())?;
        let mut command = Command::new(&self.argv[0]);
        command.args(&self.argv[1..]).stdin(std::process::Stdio::null());
        command.stdout(log.try_clone()?).stderr(log);
        let procs = self.cgroup.as_ref().and_then(|path| {
            let file = OpenOptions::new().write(true).open(path.join("cgroup.procs")).ok()?;
            Some(std::os::fd::OwnedFd::from(file))
        });
        let core = self.core;
        // SAFETY: between fork and exec only setsid, prctl, sched_setaffinity and write are called, which need no lock.
        unsafe {
            command.pre_exec(move || {
                // A session of its own is a group of its own as well; some daemons insist on leading one.
                libc::setsid();
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                if let Some(core) = core
                    && !crate::system::pin_to_core(core)
                {
                    return Err(io::ErrorKind::InvalidInput.into());
                }
                if let Some(procs) = &procs {
                    // "0" is the writer itself. Failing only means that CPU reads as nothing, which shows.
                    libc::write(std::os::fd::AsRawFd::as_raw_fd(procs), b"0".as_ptr().cast(), 1);
                }
                Ok(())
            });
        }
        let child =
            command.spawn().map_err(|e| io::Error::new(e.kind(), format!("cannot run `{}`: {e}", self.argv[0])));
        self.child = Some(child?);
        Ok(())
    }

    /// Waits until the relay greets with 220; an error if it ends or does not within `longest`.
    pub fn await_greeting(&mut self, longest: Duration) -> io::Result<()> {
        let begun = Instant::now();
        loop {
            if greets(self.listen) {
                return Ok(());
            }
            if let Some(status) = self.child.as_mut().and_then(|child| child.try_wait().ok().flatten()) {
                return Err(io::Error::other(format!("the relay ended ({status}); {}", self.log_tail())));
            }
            if begun.elapsed() > longest {
                let text = format!("no 220 from {} after {longest:?}; {}", self.listen, self.log_tail());
                return Err(io::Error::new(io::ErrorKind::TimedOut, text));
            }
            std::thread::sleep(POLL);
        }
    }

    /// True while its first process runs.
    pub fn is_running(&mut self) -> bool {
        self.child.as_mut().is_some_and(|child| matches!(child.try_wait(), Ok(None)))
    }

    /// Its first process, while there is one.
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// SIGKILL to the whole group, at once.
    pub fn kill(&mut self) {
        self.usage();
        if let Some(mut child) = self.child.take() {
            if self.cgroup.is_none() {
                let last = proc_cpu(&belonging(child.id()));
                self.past_cpu = self.past_cpu.plus(&last);
            }
            self.kill_all(child.id());
            // The child is ours and killed: waiting ends at once.
            let _ = child.wait();
        }
    }

    /// SIGTERM to its first process; SIGKILL to the group if that does not end it within `longest`.
    pub fn end(&mut self, longest: Duration) -> Option<ExitStatus> {
        let child = self.child.as_mut()?;
        // SAFETY: plain call; the child is not yet waited for, so the number is still its.
        unsafe { libc::kill(child.id() as libc::pid_t, libc::SIGTERM) };
        let begun = Instant::now();
        while begun.elapsed() < longest {
            if let Ok(Some(status)) = child.try_wait() {
                let leader = child.id();
                self.kill_all(leader);
                self.child = None;
                return Some(status);
            }
            std::thread::sleep(POLL);
        }
        self.kill();
        None
    }

    /// What it used so far, over all its lives.
    pub fn usage(&mut self) -> Usage {
        let exact = self.cgroup.as_ref().and_then(|path| cgroup_cpu(path)).filter(|cpu| cpu.total_ns() > 0);
        let (pids, cpu, source) = match exact {
            Some(cpu) => (self.pids(), cpu, CpuSource::Cgroup),
            None => {
                let belonging = self.child.as_ref().map(|child| belonging(child.id())).unwrap_or_default();
                let cpu = self.past_cpu.plus(&proc_cpu(&belonging));
                (belonging.into_iter().map(|(pid, _)| pid).collect(), cpu, CpuSource::Proc)
            }
        };
        let (mut rss_bytes, mut threads) = (0, 0);
        for pid in &pids {
            let status = read_status(*pid);
            rss_bytes += status.peak_rss_bytes;
            threads += status.threads;
        }
        self.rss_peak_bytes = self.rss_peak_bytes.max(rss_bytes);
        self.processes_peak = self.processes_peak.max(pids.len() as u64);
        self.threads_peak = self.threads_peak.max(threads);
        Usage {
            cpu,
            source,
            rss_peak_bytes: self.rss_peak_bytes,
            processes_peak: self.processes_peak,
            threads_peak: self.threads_peak,
        }
    }

    /// Its memory now with shared pages divided among who shares them (PSS), in bytes; None where the kernel does not
    /// tell. The kernel walks all page tables for this: ask once.
    pub fn pss_bytes(&self) -> Option<u64> {
        let read = |pid: &u32| {
            let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
            field_kib(&text, "Pss:").map(|kib| kib * 1024)
        };
        let sizes: Vec<u64> = self.pids().iter().filter_map(read).collect();
        (!sizes.is_empty()).then(|| sizes.iter().sum())
    }

    /// Stops all its processes where they are, or lets them go on.
    pub fn pause(&self, paused: bool) {
        let signal = if paused { libc::SIGSTOP } else { libc::SIGCONT };
        for pid in self.pids() {
            // SAFETY: plain call. A process that ended meanwhile is not found; its number is not given out again so soon.
            unsafe { libc::kill(pid as libc::pid_t, signal) };
        }
    }

    /// Its live processes.
    pub fn pids(&self) -> Vec<u32> {
        let listed = self.cgroup.as_ref().and_then(|path| fs::read_to_string(path.join("cgroup.procs")).ok());
        match (listed, &self.child) {
            (Some(text), _) => text.lines().filter_map(|line| line.parse().ok()).collect(),
            (None, Some(child)) => belonging(child.id()).into_iter().map(|(pid, _)| pid).collect(),
            (None, None) => Vec::new(),
        }
    }

    /// SIGKILL to the group, and to whoever left it but not the cgroup.
    fn kill_all(&self, leader: u32) {
        signal_group(leader, libc::SIGKILL);
        if let Some(path) = &self.cgroup {
            // Absent before Linux 5.14: then the group has to do.
            let _ = fs::write(path.join("cgroup.kill"), "1");
        }
    }

    fn log(&self) -> PathBuf {
        self.dir.join("relay.log")
    }

    fn log_tail(&self) -> String {
        let bytes = fs::read(self.log()).unwrap_or_default();
        let tail = &bytes[bytes.len().saturating_sub(LOG_TAIL_BYTES)..];
        format!("its last words:\n{}", String::from_utf8_lossy(tail).trim_end())
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.kill();
        if let Some(path) = &self.cgroup {
            // Killed processes leave it within moments; a directory that stays is empty and harmless.
            for _ in 0..20 {
                if fs::remove_dir(path).is_ok() {
                    break;
                }
                std::thread::sleep(POLL);
            }
        }
    }
}

/// True if something at that address says 220.
pub fn greets(address: SocketAddr) -> bool {
    let wait = Duration::from_secs(2);
    let Ok(mut socket) = TcpStream::connect_timeout(&address, wait) else { return false };
    let mut start = [0; 3];
    let greeted = socket.set_read_timeout(Some(wait)).and_then(|()| socket.read_exact(&mut start)).is_ok();
    if greeted {
        // A polite end keeps the relay's log clean; whether it is heard does not matter.
        let _ = io::Write::write_all(&mut socket, b"QUIT\r\n");
    }
    greeted && start == *b"220"
}

fn signal_group(leader: u32, signal: libc::c_int) {
    // SAFETY: plain call. The group was made for the child alone and carries its number.
    unsafe { libc::kill(-(leader as libc::pid_t), signal) };
}

/// A cgroup beside the one we are in, if we may make one and its CPU can be read.
fn make_cgroup() -> Option<PathBuf> {
    let own = fs::read_to_string("/proc/self/cgroup").ok()?;
    let own = own.lines().find_map(|line| line.strip_prefix("0::"))?;
    let name = format!("loadgen-{}-{:x}", std::process::id(), crate::clock::Clock::start().now_ns());
    let mounts = fs::read_to_string("/proc/self/mounts").ok()?;
    let mut words = mounts.lines().map(|line| line.split_ascii_whitespace().collect::<Vec<_>>());
    let root = words.find(|words| words.get(2) == Some(&"cgroup2"))?[1].to_string();
    let path = Path::new(&root).join(own.trim_start_matches('/')).join(name);
    fs::create_dir(&path).ok()?;
    if cgroup_cpu(&path).is_none() || OpenOptions::new().write(true).open(path.join("cgroup.procs")).is_err() {
        // Left empty behind if it cannot be removed.
        let _ = fs::remove_dir(&path);
        return None;
    }
    Some(path)
}

fn cgroup_cpu(path: &Path) -> Option<Cpu> {
    let text = fs::read_to_string(path.join("cpu.stat")).ok()?;
    let ns = |name: &str| {
        let us = text.lines().find_map(|line| line.strip_prefix(name))?;
        Some(us.trim().parse::<u64>().ok()? * 1000)
    };
    Some(Cpu { user_ns: ns("user_usec ")?, system_ns: ns("system_usec ")? })
}

struct Process {
    parent: u32,
    group: u32,
    user_ticks: u64,
    system_ticks: u64,
}

fn read_process(pid: u32) -> Option<Process> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in brackets may hold anything, so count from its end.
    let fields: Vec<&str> = text[text.rfind(')')? + 1..].split_ascii_whitespace().collect();
    let number = |index: usize| fields.get(index)?.parse::<u64>().ok();
    // Its own, and that of the children it has waited for.
    let (user_ticks, system_ticks) = (number(11)? + number(13)?, number(12)? + number(14)?);
    Some(Process { parent: number(1)? as u32, group: number(2)? as u32, user_ticks, system_ticks })
}

/// A group and all descendants of its leader.
fn belonging(leader: u32) -> Vec<(u32, Process)> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
    let mut processes: HashMap<u32, Process> = pids.filter_map(|pid| Some((pid, read_process(pid)?))).collect();
    let belongs = |pid: u32| {
        let mut at = pid;
        for _ in 0..64 {
            match processes.get(&at) {
                Some(process) if process.group == leader || at == leader => return true,
                Some(process) => at = process.parent,
                None => return false,
            }
        }
        false
    };
    let pids: Vec<u32> = processes.keys().copied().filter(|pid| belongs(*pid)).collect();
    pids.into_iter().filter_map(|pid| Some((pid, processes.remove(&pid)?))).collect()
}

fn proc_cpu(processes: &[(u32, Process)]) -> Cpu {
    let tick_ns = crate::system::tick_ns();
    processes.iter().fold(Cpu::default(), |sum, (_, process)| {
        sum.plus(&Cpu { user_ns: process.user_ticks * tick_ns, system_ns: process.system_ticks * tick_ns })
    })
}

struct Status {
    peak_rss_bytes: u64,
    threads: u64,
}

/// Zeros for a process that is gone.
fn read_status(pid: u32) -> Status {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    Status {
        peak_rss_bytes: field_kib(&text, "VmHWM:").unwrap_or(0) * 1024,
        threads: field_kib(&text, "Threads:").unwrap_or(0),
    }
}

/// The number behind a name at the start of a line, with or without ` kB` behind it.
fn field_kib(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.trim().trim_end_matches(" kB").trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_reads_as_what_it_is() {
        let own = std::process::id();
        let status = read_status(own);
        assert!(status.peak_rss_bytes > 0 && status.threads >= 1);
        assert!(belonging(own).iter().any(|(pid, _)| *pid == own));
        assert_eq!(read_status(u32::MAX).threads, 0);
        assert_eq!(field_kib("Rss:  7 kB\nPss:     12 kB\n", "Pss:"), Some(12));
        assert_eq!(field_kib("Pss: x\n", "Pss:"), None);
    }
}
