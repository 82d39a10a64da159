//! Looks before any executor starts whether this machine lets us use io_uring, and says what to do if not.
//!
//! Runs on the main thread. glommio itself panics or exits where io_uring is missing.

use std::io;

use libc::{c_int, c_long};

/// What glommio insists on (`RLIMIT_MEMLOCK`).
const MEMLOCK_MIN_BYTES: u64 = 512 << 10;
/// The operations that glommio and we use, with their numbers from `linux/io_uring.h`.
const OPERATIONS: [(u8, &str); 24] = [
    (0, "NOP"),
    (1, "READV"),
    (2, "WRITEV"),
    (3, "FSYNC"),
    (4, "READ_FIXED"),
    (5, "WRITE_FIXED"),
    (6, "POLL_ADD"),
    (7, "POLL_REMOVE"),
    (9, "SENDMSG"),
    (10, "RECVMSG"),
    (11, "TIMEOUT"),
    (12, "TIMEOUT_REMOVE"),
    (13, "ACCEPT"),
    (14, "ASYNC_CANCEL"),
    (15, "LINK_TIMEOUT"),
    (16, "CONNECT"),
    (17, "FALLOCATE"),
    (18, "OPENAT"),
    (19, "CLOSE"),
    (21, "STATX"),
    (22, "READ"),
    (23, "WRITE"),
    (26, "SEND"),
    (27, "RECV"),
];
const REGISTER_PROBE: c_int = 8;
const PROBE_OPERATIONS_MAX: usize = 256;

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct ProbeOperation {
    operation: u8,
    reserved: u8,
    /// Bit 0: supported.
    flags: u16,
    reserved_2: u32,
}

#[repr(C)]
struct Probe {
    last_operation: u8,
    length: u8,
    reserved: u16,
    reserved_2: [u32; 3],
    operations: [ProbeOperation; PROBE_OPERATIONS_MAX],
}

/// Checks io_uring, the operations we need and the limit on locked memory; the error is a text for the operator.
pub fn io_uring() -> Result<(), String> {
    let ring = setup().map_err(|errno| explain_setup(errno, disabled_by_sysctl()))?;
    let missing = missing_operations(ring);
    // SAFETY: `ring` is a descriptor of ours that nothing else uses.
    unsafe { libc::close(ring) };
    let missing = missing.map_err(|errno| explain_setup(errno, disabled_by_sysctl()))?;
    if !missing.is_empty() {
        return Err(format!(
            "the kernel's io_uring lacks {}; Linux 5.19 or newer is needed, 6.1 or newer advised (this is {})",
            missing.join(", "),
            kernel_release()
        ));
    }
    let limit = raise_limit(libc::RLIMIT_MEMLOCK, MEMLOCK_MIN_BYTES);
    if limit < MEMLOCK_MIN_BYTES {
        return Err(explain_memlock(limit));
    }
    Ok(())
}

fn setup() -> Result<c_int, i32> {
    // `struct io_uring_params` is 120 bytes; all zero asks for the defaults.
    let mut params = [0u64; 15];
    // SAFETY: the kernel writes at most the 120 bytes of `params`.
    let ring = unsafe { libc::syscall(libc::SYS_io_uring_setup, 8 as c_long, params.as_mut_ptr()) };
    if ring < 0 { Err(last_errno()) } else { Ok(ring as c_int) }
}

fn missing_operations(ring: c_int) -> Result<Vec<&'static str>, i32> {
    let mut probe = Probe {
        last_operation: 0,
        length: 0,
        reserved: 0,
        reserved_2: [0; 3],
        operations: [ProbeOperation::default(); PROBE_OPERATIONS_MAX],
    };
    // SAFETY: the kernel writes at most the header and the 256 entries it is told of.
    let done = unsafe {
        libc::syscall(
            libc::SYS_io_uring_register,
            ring as c_long,
            REGISTER_PROBE as c_long,
            &raw mut probe,
            PROBE_OPERATIONS_MAX as c_long,
        )
    };
    if done < 0 {
        return Err(last_errno());
    }
    let has = |number: u8| number <= probe.last_operation && probe.operations[number as usize].flags & 1 != 0;
    Ok(OPERATIONS.iter().filter(|(number, _)| !has(*number)).map(|(_, name)| *name).collect())
}

fn last_errno() -> i32 {
    io::Error::last_os_error().raw_os_error().unwrap_or(0)
}

/// The value of `kernel.io_uring_disabled`, if this kernel has it.
fn disabled_by_sysctl() -> Option<u8> {
    std::fs::read_to_string("/proc/sys/kernel/io_uring_disabled").ok()?.trim().parse().ok()
}

fn kernel_release() -> String {
    std::fs::read_to_string("/proc/sys/kernel/osrelease").map_or("unknown".into(), |text| text.trim().to_owned())
}

/// What a failed `io_uring_setup` means and what to do about it.
fn explain_setup(errno: i32, sysctl: Option<u8>) -> String {
    let remedy = match (errno, sysctl) {
        (libc::EPERM, Some(level @ (1 | 2))) => format!(
            "it is switched off by the sysctl kernel.io_uring_disabled = {level}; allow it with `sysctl -w kernel.io_uring_disabled=0`{}",
            if level == 1 { ", or run as a member of the group in kernel.io_uring_group" } else { "" }
        ),
        (libc::EPERM | libc::EACCES, _) => "a security filter forbids it, as the default profile of many container \
             runtimes does; allow io_uring_setup, io_uring_enter and io_uring_register in the container's seccomp \
             profile (for instance `--security-opt seccomp=PROFILE`)"
            .to_owned(),
        (libc::ENOSYS, _) => format!(
            "this kernel ({}) has none, or a security filter hides it; Linux 5.19 or newer is needed, 6.1 or newer \
             advised, and a container must allow it in its seccomp profile",
            kernel_release()
        ),
        (libc::ENOMEM, _) => {
            "the limit on locked memory is too small; raise it with `ulimit -l` or LimitMEMLOCK=".to_owned()
        }
        (libc::EMFILE | libc::ENFILE, _) => {
            "there are too many open files; raise the limit with `ulimit -n` or LimitNOFILE=".to_owned()
        }
        _ => format!("the kernel ({}) refused it", kernel_release()),
    };
    format!("io_uring cannot be used ({}): {remedy}", io::Error::from_raw_os_error(errno))
}

fn explain_memlock(limit: u64) -> String {
    format!(
        "only {} KiB of memory may be locked, {} are needed; raise it with `ulimit -l` or LimitMEMLOCK=",
        limit >> 10,
        MEMLOCK_MIN_BYTES >> 10
    )
}

/// Raises the limit on open files as far as it goes; gives how many may be open.
pub fn raise_open_files() -> u64 {
    raise_limit(libc::RLIMIT_NOFILE, u64::MAX)
}

/// Raises a soft limit to `wanted`, or as near as the hard limit lets; gives what is in force.
fn raise_limit(resource: libc::__rlimit_resource_t, wanted: u64) -> u64 {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: both calls only touch the local struct.
    unsafe {
        if libc::getrlimit(resource, &mut limit) != 0 {
            return 0;
        }
        if limit.rlim_cur < wanted && limit.rlim_cur < limit.rlim_max {
            let before = limit.rlim_cur;
            limit.rlim_cur = wanted.min(limit.rlim_max);
            if libc::setrlimit(resource, &limit) != 0 {
                return before;
            }
        }
    }
    limit.rlim_cur
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_will_do() {
        assert_eq!(io_uring(), Ok(()));
    }

    #[test]
    fn every_refusal_names_its_remedy() {
        assert!(explain_setup(libc::EPERM, Some(2)).contains("sysctl -w kernel.io_uring_disabled=0"));
        assert!(explain_setup(libc::EPERM, Some(1)).contains("io_uring_group"));
        assert!(explain_setup(libc::EPERM, Some(0)).contains("seccomp"));
        assert!(explain_setup(libc::EPERM, None).contains("seccomp"));
        assert!(explain_setup(libc::ENOSYS, None).contains("5.19"));
        assert!(explain_setup(libc::ENOMEM, None).contains("LimitMEMLOCK"));
        assert!(explain_setup(libc::EMFILE, None).contains("LimitNOFILE"));
        assert!(explain_memlock(64 << 10).contains("only 64 KiB"));
    }
}
