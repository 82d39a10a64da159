//! What the tests of the real relay share: the relay as a child process, a recording next hop, a plain client, and
//! programs that nobody here wrote. Everything is bounded in time and stays on loopback.

// Each test file uses its part of this.
#![allow(dead_code)]

pub(crate) mod client;
pub(crate) mod dovecot;
pub(crate) mod hosts;
pub(crate) mod kdc;
pub(crate) mod mail;
pub(crate) mod office;
pub(crate) mod postfix;
pub(crate) mod programs;
pub(crate) mod relay;
pub(crate) mod sink;
pub(crate) mod wall_clock;
pub(crate) mod zones;

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// A port on 127.0.0.1 that nobody listens on, outside the range that outgoing connections take theirs from.
pub(crate) fn free_port() -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    for _ in 0..1000 {
        let turn = NEXT.fetch_add(1, Ordering::Relaxed);
        let port = 10_000 + ((std::process::id().wrapping_mul(97) + turn) % 22_000) as u16;
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return port;
        }
    }
    panic!("no free port between 10000 and 32000");
}

/// An address on 127.0.0.1 that nobody listens on.
pub(crate) fn free_address() -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()))
}

/// Waits until `done`, looking every few milliseconds; false if that does not come about in time.
pub(crate) fn wait_until(longest: Duration, mut done: impl FnMut() -> bool) -> bool {
    let begun = Instant::now();
    while !done() {
        if begun.elapsed() > longest {
            return false;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    true
}
