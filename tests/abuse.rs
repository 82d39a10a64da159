//! Clients that mean no good: beside each kind of them a fair client gets all its replies, and memory stays within bounds.
//!
//! No test here measures time against a limit: a fair client that is stalled runs into its own time limit.

#![cfg(feature = "runtime")]

mod common;

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use common::mail::plain;
use common::relay::{Relay, Setup};
use common::sink::Sink;

const ARRIVAL_LONGEST: Duration = Duration::from_secs(90);
/// What a relay may grow by under any attack of these: sockets are the kernel's, and buffers are bounded.
const GROWTH_MOST_BYTES: u64 = 128 << 20;

/// Messages of the fair client.
const FAIR: usize = 15;

fn fair(relay: &Relay) -> Duration {
    let begun = Instant::now();
    let mut client = relay.client();
    for _ in 0..FAIR {
        let reply = client.deliver("fair@example.com", &["to@example.org"], &plain("fair"));
        assert!(reply.is("250 2.0.0"), "{reply:?}");
    }
    begun.elapsed()
}

/// Runs `attack` on two threads, again and again, beside a fair client.
fn beside(name: &str, attack: impl Fn(SocketAddr) + Sync) {
    let sink = Sink::start();
    let setup = Setup::to(sink.address());
    let relay = setup.start();
    fair(&relay);
    let (before, over) = (relay.resident_bytes(), AtomicBool::new(false));
    let (mut took, mut rounds) = (Duration::ZERO, 0);
    std::thread::scope(|scope| {
        let attackers: Vec<_> = (0..2)
            .map(|_| {
                scope.spawn(|| {
                    let mut rounds = 0u32;
                    while !over.load(Ordering::Relaxed) {
                        attack(relay.address());
                        rounds += 1;
                    }
                    rounds
                })
            })
            .collect();
        took = fair(&relay);
        over.store(true, Ordering::Relaxed);
        rounds = attackers.into_iter().map(|attacker| attacker.join().unwrap()).sum();
    });
    let grown = relay.resident_bytes().saturating_sub(before);
    eprintln!("{name}: {rounds} rounds; {FAIR} messages beside them took {took:?}; {grown} bytes more");
    assert!(rounds > 0 && grown < GROWTH_MOST_BYTES, "{name}: {grown} bytes more");
    sink.wait_for(2 * FAIR, ARRIVAL_LONGEST);
    relay.stop();
}

/// A connection that has read the greeting; a relay that turns us away is no error of ours.
fn connect(address: SocketAddr) -> Option<TcpStream> {
    let mut stream = TcpStream::connect(address).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    stream.set_write_timeout(Some(Duration::from_secs(30))).unwrap();
    let mut greeting = [0; 512];
    let length = stream.read(&mut greeting).ok()?;
    greeting[..length].starts_with(b"220 ").then_some(stream)
}

/// Sends text again and again and reads what comes, until the relay ends the session or so many bytes are out.
fn pour(address: SocketAddr, head: &[u8], text: &[u8], bytes: usize) {
    let Some(mut stream) = connect(address) else { return };
    let mut replies = stream.try_clone().unwrap();
    let reader = std::thread::spawn(move || {
        let mut piece = [0; 16 << 10];
        while matches!(replies.read(&mut piece), Ok(1..)) {}
    });
    let block = text.repeat((64 << 10) / text.len() + 1);
    let mut sent = stream.write_all(head).map_or(usize::MAX, |()| 0);
    while sent < bytes && stream.write_all(&block).is_ok() {
        sent += block.len();
    }
    // The relay may have closed already.
    let _ = stream.shutdown(std::net::Shutdown::Both);
    reader.join().unwrap();
}

/// SES-13: RSET, NOOP and EHLO by the hundred thousand.
#[test]
fn floods_of_small_commands() {
    beside("RSET", |address| pour(address, b"EHLO c\r\n", b"RSET\r\n", 1 << 20));
    beside("EHLO", |address| pour(address, b"", b"EHLO flood.example.com\r\n", 1 << 20));
}

/// BDT-07: chunks of one octet and of none.
#[test]
fn floods_of_tiny_chunks() {
    let head = b"EHLO c\r\nMAIL FROM:<a@example.com>\r\nRCPT TO:<b@example.org>\r\n";
    beside("BDAT", |address| pour(address, head, b"BDAT 1\r\nxBDAT 0\r\n", 1 << 20));
}

/// SIZ-04: lines of 100 MB, as a command and in data.
#[test]
fn endless_lines() {
    beside("command line", |address| pour(address, b"EHLO c\r\n", b"x", 100 << 20));
    let head = b"EHLO c\r\nMAIL FROM:<a@example.com>\r\nRCPT TO:<b@example.org>\r\n";
    beside("data line", |address| {
        let Some(mut stream) = connect(address) else { return };
        // DATA waits for its reply: what is sent before would end the session (DAT-13).
        let mut piece = [0; 2000];
        if stream.write_all(head).is_err() || stream.read(&mut piece).is_err() {
            return;
        }
        std::thread::sleep(Duration::from_millis(20));
        if stream.write_all(b"DATA\r\n").is_err() {
            return;
        }
        std::thread::sleep(Duration::from_millis(20));
        let block = vec![b'x'; 1 << 20];
        for _ in 0..110 {
            // Past twice the limit the relay closes (DAT-10).
            if stream.write_all(&block).is_err() {
                return;
            }
        }
    });
}

/// Peers that never read: their window closes, and what they have coming stays bounded.
#[test]
fn peers_that_never_read() {
    beside("zero window", |address| {
        let Some(mut stream) = connect(address) else { return };
        stream.set_nonblocking(true).unwrap();
        let block = b"EHLO zero.example.com\r\nHELP\r\n".repeat(1000);
        let mut stuck = 0;
        while stuck < 20 {
            match stream.write(&block) {
                Ok(_) => stuck = 0,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    stuck += 1;
                    std::thread::sleep(Duration::from_millis(5));
                }
                Err(_) => return,
            }
        }
    });
}

/// DAT-14, SES-23: thousands of clients that say a byte now and then, and some that only connect.
#[test]
fn slow_clients_slow_nobody() {
    let sink = Sink::start();
    let setup = Setup::to(sink.address());
    let relay = setup.start();
    fair(&relay);
    let before = relay.resident_bytes();
    // Twice as many descriptors are needed on the two sides together; a machine that allows fewer gets fewer.
    let count = 5_000.min(open_files() / 2);
    let mut slow: Vec<TcpStream> = Vec::new();
    for number in 0..count {
        let stream = TcpStream::connect(relay.address()).unwrap();
        stream.set_nodelay(true).unwrap();
        slow.push(stream);
        // The kernel holds some before they are accepted; no need to press it.
        if number % 500 == 499 {
            std::thread::sleep(Duration::from_millis(50));
        }
    }
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for byte in b"EHLO slow.example.com\r\nMAIL FROM:<slow@example.com>\r\n".iter().cycle() {
                for stream in slow.iter().step_by(2) {
                    if over.load(Ordering::Relaxed) {
                        return;
                    }
                    // One that is closed by now is fine.
                    let _ = (&mut &*stream).write_all(&[*byte]);
                }
            }
        });
        let took = fair(&relay);
        eprintln!("{count} slow clients; {FAIR} messages beside them took {took:?}");
        over.store(true, Ordering::Relaxed);
    });
    let grown = relay.resident_bytes().saturating_sub(before);
    assert!(grown < GROWTH_MOST_BYTES, "{grown} bytes more for {count} clients");
    sink.wait_for(2 * FAIR, ARRIVAL_LONGEST);
    drop(slow);
    relay.stop();
}

/// Raises this process's limit on open files to what it may have; gives it.
fn open_files() -> usize {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the struct is local.
    unsafe {
        assert_eq!(libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit), 0);
        limit.rlim_cur = limit.rlim_max.min(1 << 20);
        libc::setrlimit(libc::RLIMIT_NOFILE, &limit);
    }
    limit.rlim_cur as usize
}
