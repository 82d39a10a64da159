//! The few things asked of Linux directly: cores, thread CPU time, file limits, signals, precise timers.
//!
//! Any thread. Failures are errors, or, where the thing is a mere wish (pinning, raising a limit), told by the result.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};

/// Pins the calling thread to a core. False if the machine has no such core or does not let us.
pub fn pin_to_core(core: usize) -> bool {
    // SAFETY: the set is plain memory that is valid when zeroed; CPU_SET is given an index inside of it.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        if core >= libc::CPU_SETSIZE as usize {
            return false;
        }
        libc::CPU_SET(core, &mut set);
        libc::sched_setaffinity(0, std::mem::size_of::<libc::cpu_set_t>(), &set) == 0
    }
}

/// CPU time of the calling thread, user and system, in nanoseconds.
pub fn thread_cpu_ns() -> u64 {
    // SAFETY: a timespec is valid when zeroed, and the call writes to it alone.
    let time = unsafe {
        let mut time: libc::timespec = std::mem::zeroed();
        libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time);
        time
    };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// CPU time of a thread, in nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ThreadUsage {
    /// In user mode.
    pub user_ns: u64,
    /// In the kernel.
    pub system_ns: u64,
}

impl ThreadUsage {
    /// What was added since an earlier reading.
    pub fn since(&self, earlier: &ThreadUsage) -> ThreadUsage {
        ThreadUsage {
            user_ns: self.user_ns.saturating_sub(earlier.user_ns),
            system_ns: self.system_ns.saturating_sub(earlier.system_ns),
        }
    }
}

/// CPU time of the calling thread so far.
pub fn thread_usage() -> ThreadUsage {
    // SAFETY: an rusage is valid when zeroed, and the call writes to it alone.
    let usage = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        libc::getrusage(libc::RUSAGE_THREAD, &mut usage);
        usage
    };
    let ns = |time: libc::timeval| time.tv_sec as u64 * 1_000_000_000 + time.tv_usec as u64 * 1000;
    ThreadUsage { user_ns: ns(usage.ru_utime), system_ns: ns(usage.ru_stime) }
}

/// Lets the kernel choose a bound socket's port when it knows the target, so that one source can have as many connections
/// to each. Older kernels choose at once: then ports are only used up sooner.
pub fn choose_port_late(socket: &impl AsRawFd) {
    let yes: libc::c_int = 1;
    // SAFETY: the option's value is an int that outlives the call, and its size is told.
    unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_IP,
            libc::IP_BIND_ADDRESS_NO_PORT,
            std::ptr::from_ref(&yes).cast(),
            std::mem::size_of_val(&yes) as libc::socklen_t,
        );
    }
}

/// Hands everything that waits to be written to the disks, and waits for it.
pub fn sync_disks() {
    // SAFETY: plain call.
    unsafe { libc::sync() };
}

/// CPU time of the whole machine so far, idle time not counted, in nanoseconds; 0 if the kernel does not tell.
pub fn machine_cpu_ns() -> u64 {
    let text = std::fs::read_to_string("/proc/stat").unwrap_or_default();
    let line = text.lines().next().unwrap_or_default();
    let fields: Vec<u64> = line.split_ascii_whitespace().skip(1).map_while(|word| word.parse().ok()).collect();
    // user, nice, system, (idle, iowait), irq, softirq, steal
    let ticks: u64 = fields.iter().take(3).chain(fields.iter().skip(5).take(3)).sum();
    ticks * tick_ns()
}

/// A tick of the kernel's accounting, in nanoseconds.
pub fn tick_ns() -> u64 {
    // SAFETY: plain call.
    let per_second = unsafe { libc::sysconf(libc::_SC_CLK_TCK) }.max(1) as u64;
    1_000_000_000 / per_second
}

/// Cores of the machine that this process may use, at least 1.
pub fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Raises the limit of open files as far as allowed, and returns it.
pub fn raise_file_limit() -> u64 {
    // SAFETY: an rlimit is valid when zeroed, and both calls use it alone.
    unsafe {
        let mut limit: libc::rlimit = std::mem::zeroed();
        if libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) == 0 && limit.rlim_cur < limit.rlim_max {
            limit.rlim_cur = limit.rlim_max;
            libc::setrlimit(libc::RLIMIT_NOFILE, &limit);
            libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit);
        }
        limit.rlim_cur
    }
}

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

extern "C" fn note_interrupt(_: libc::c_int) {
    INTERRUPTED.store(true, Ordering::Relaxed);
}

/// From now on SIGINT and SIGTERM only set a flag, which [`interrupted`] reads; a second one kills as usual.
pub fn catch_interrupts() {
    // SAFETY: the handler only stores to an atomic; the sigaction is valid when zeroed.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = note_interrupt as extern "C" fn(libc::c_int) as usize;
        action.sa_flags = libc::SA_RESETHAND;
        libc::sigaction(libc::SIGINT, &action, std::ptr::null_mut());
        libc::sigaction(libc::SIGTERM, &action, std::ptr::null_mut());
    }
}

/// As if SIGINT had come.
pub fn interrupt() {
    INTERRUPTED.store(true, Ordering::Relaxed);
}

/// True once SIGINT or SIGTERM came.
pub fn interrupted() -> bool {
    INTERRUPTED.load(Ordering::Relaxed)
}

/// A timer that an event loop can wait for, finer than the loop's own milliseconds.
pub struct Timer(OwnedFd);

impl Timer {
    /// A timer that is not set.
    pub fn new() -> io::Result<Timer> {
        // SAFETY: no memory is handed over.
        let fd = unsafe { libc::timerfd_create(libc::CLOCK_MONOTONIC, libc::TFD_NONBLOCK | libc::TFD_CLOEXEC) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor is fresh and ours alone.
        Ok(Timer(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// Sets it to go off once after `after_ns`, at once for 0.
    pub fn set(&self, after_ns: u64) {
        let after_ns = after_ns.max(1);
        // SAFETY: the itimerspec is valid when zeroed and only read; the descriptor is open.
        unsafe {
            let mut time: libc::itimerspec = std::mem::zeroed();
            time.it_value.tv_sec = (after_ns / 1_000_000_000) as libc::time_t;
            time.it_value.tv_nsec = (after_ns % 1_000_000_000) as libc::c_long;
            libc::timerfd_settime(self.0.as_raw_fd(), 0, &time, std::ptr::null_mut());
        }
    }

    /// For registration with an event loop.
    pub fn fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}
