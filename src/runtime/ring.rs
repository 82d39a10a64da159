//! How glommio's rings are made: with `IORING_SETUP_COOP_TASKRUN`.
//!
//! Without that flag the kernel tells a running thread of each completion by an interrupt, also when a neighbour on another
//! core caused it; with it the thread learns at its next system call, of which it makes hundreds of thousands a second.
//! Loopback and network cards whose interrupts land elsewhere cost a tenth of the relay's time without it.
//!
//! glommio 0.9 has no setting for it. All its rings are made by the four functions of its liburing that stand in one
//! object file; here are the same four by the same names, so that the linker takes ours and leaves that object out.
//! A test looks that it did. On the executor's threads; errors are handed through as the kernel gives them.

use std::sync::atomic::{AtomicU32, Ordering};

use libc::{c_int, c_uint, c_void, sigset_t};

/// `IORING_SETUP_COOP_TASKRUN`, Linux 5.19.
const COOP_TASKRUN: u32 = 1 << 8;
/// Bytes of the kernel's signal set, which is not libc's.
const KERNEL_SIGSET_BYTES: c_int = 8;

/// Rings made here so far: shows that the linker chose these functions.
static RINGS_MADE: AtomicU32 = AtomicU32::new(0);

/// The head of `struct io_uring_params`; what follows is the kernel's to fill.
#[repr(C)]
pub(crate) struct RingParams {
    sq_entries: u32,
    cq_entries: u32,
    flags: u32,
}

/// Makes a ring.
///
/// # Safety
/// `params` points to a whole `struct io_uring_params`.
#[unsafe(no_mangle)]
unsafe extern "C" fn __sys_io_uring_setup(entries: c_uint, params: *mut RingParams) -> c_int {
    RINGS_MADE.fetch_add(1, Ordering::Relaxed);
    // SAFETY: the caller's promise; the flags stand in the part that is declared here.
    unsafe {
        (*params).flags |= COOP_TASKRUN;
        let ring = libc::syscall(libc::SYS_io_uring_setup, entries, params) as c_int;
        if ring >= 0 || *libc::__errno_location() != libc::EINVAL {
            return ring;
        }
        // A ring that is polled for its disk knows no such flag on some kernels.
        (*params).flags &= !COOP_TASKRUN;
        libc::syscall(libc::SYS_io_uring_setup, entries, params) as c_int
    }
}

/// Registers buffers or files, or asks what the kernel can do.
///
/// # Safety
/// As for the system call: `argument` fits `operation`.
#[unsafe(no_mangle)]
unsafe extern "C" fn __sys_io_uring_register(
    ring: c_int,
    operation: c_uint,
    argument: *const c_void,
    count: c_uint,
) -> c_int {
    // SAFETY: the caller's promise.
    unsafe { libc::syscall(libc::SYS_io_uring_register, ring, operation, argument, count) as c_int }
}

/// Submits and waits, with a set of signals of the given size or whatever else `flags` makes of it.
///
/// # Safety
/// As for the system call: `argument` has `size_bytes`.
#[unsafe(no_mangle)]
unsafe extern "C" fn __sys_io_uring_enter2(
    ring: c_int,
    submit: c_uint,
    complete: c_uint,
    flags: c_uint,
    argument: *mut sigset_t,
    size_bytes: c_int,
) -> c_int {
    // SAFETY: the caller's promise.
    unsafe { libc::syscall(libc::SYS_io_uring_enter, ring, submit, complete, flags, argument, size_bytes) as c_int }
}

/// Submits and waits.
///
/// # Safety
/// As for the system call.
#[unsafe(no_mangle)]
unsafe extern "C" fn __sys_io_uring_enter(
    ring: c_int,
    submit: c_uint,
    complete: c_uint,
    flags: c_uint,
    signals: *mut sigset_t,
) -> c_int {
    // SAFETY: the caller's promise.
    unsafe { __sys_io_uring_enter2(ring, submit, complete, flags, signals, KERNEL_SIGSET_BYTES) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn executors_make_their_rings_here() {
        let before = RINGS_MADE.load(Ordering::Relaxed);
        glommio::LocalExecutor::default().run(async {});
        assert!(RINGS_MADE.load(Ordering::Relaxed) >= before + 3, "an executor has three rings");
    }
}
