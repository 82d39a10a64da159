//! A network of our own between two hosts: connections that are late, narrow, stalled, reset, or cut between the final
//! dot and its reply. Two threads for each connection; what becomes of it is drawn from the seed when it opens.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use loadgen::rng::Rng;

use crate::stage::Told;

const PIECE_BYTES: usize = 16 << 10;

/// How bad the network is: probabilities for each connection.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Weather {
    /// The longest delay of each piece of bytes, in milliseconds.
    pub(crate) delay_ms: u64,
    /// Of being narrow, 20 to 200 KB a second.
    pub(crate) narrow: f64,
    /// Of a reset after some bytes, in either direction.
    pub(crate) reset: f64,
    /// Of a stall after some bytes, and then a reset: loss that lasts.
    pub(crate) stall: f64,
    /// The longest stall.
    pub(crate) stall_longest: Duration,
    /// Of a reset between a final dot and its reply.
    pub(crate) reset_behind_dot: f64,
    /// Bytes that pass before a reset or stall, at most.
    pub(crate) bytes_longest: u64,
}

/// What happened so far.
#[derive(Debug, Default)]
pub(crate) struct Happened {
    pub(crate) connections: AtomicU64,
    pub(crate) narrow: AtomicU64,
    pub(crate) resets: AtomicU64,
    pub(crate) stalls: AtomicU64,
    pub(crate) resets_behind_dot: AtomicU64,
}

impl Happened {
    /// Connections that were ended.
    pub(crate) fn ended(&self) -> u64 {
        let all = [&self.resets, &self.stalls, &self.resets_behind_dot];
        all.iter().map(|count| count.load(Ordering::Relaxed)).sum()
    }
}

impl std::fmt::Display for Happened {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let of = |count: &AtomicU64| count.load(Ordering::Relaxed);
        write!(
            f,
            "{} connections, {} narrow, {} reset, {} stalled and reset, {} reset between dot and reply",
            of(&self.connections),
            of(&self.narrow),
            of(&self.resets),
            of(&self.stalls),
            of(&self.resets_behind_dot)
        )
    }
}

/// A listening proxy; dropping it stops it from taking more and frees its port.
pub(crate) struct Proxy {
    address: SocketAddr,
    happened: Arc<Happened>,
    calm: Arc<AtomicBool>,
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Proxy {
    /// Listens at `address` (port 0 for any) and passes on to `target`.
    pub(crate) fn start(address: SocketAddr, target: SocketAddr, weather: Weather, seed: u64) -> Told<Proxy> {
        let listener = TcpListener::bind(address).map_err(|error| format!("no proxy at {address}: {error}"))?;
        let address = listener.local_addr().map_err(|error| error.to_string())?;
        let (happened, calm, over) = <(Arc<Happened>, Arc<AtomicBool>, Arc<AtomicBool>)>::default();
        let (seen, calmed, ended) = (Arc::clone(&happened), Arc::clone(&calm), Arc::clone(&over));
        let thread = std::thread::spawn(move || {
            let mut rng = Rng::new(seed);
            for client in listener.incoming().flatten() {
                if ended.load(Ordering::Relaxed) {
                    return;
                }
                let weather = if calmed.load(Ordering::Relaxed) { Weather::default() } else { weather };
                // A connection that cannot be passed on is one that is closed.
                let _ = open(client, target, weather, &mut rng, &seen);
            }
        });
        Ok(Proxy { address, happened, calm, over, thread: Some(thread) })
    }

    /// One on a port of its own.
    pub(crate) fn anywhere(target: SocketAddr, weather: Weather, seed: u64) -> Told<Proxy> {
        Proxy::start(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), target, weather, seed)
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn happened(&self) -> &Happened {
        &self.happened
    }

    /// Nothing happens to connections opened from now on.
    pub(crate) fn calm(&self) {
        self.calm.store(true, Ordering::Relaxed);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        // Wakes the accepting thread; if it cannot be reached it is gone. Its port is free when it has ended.
        let _ = TcpStream::connect(self.address);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// How a connection ends, if not by itself.
#[derive(Clone, Copy, PartialEq)]
enum End {
    None,
    Reset { after_bytes: u64 },
    Stall { after_bytes: u64, time: Duration },
    BehindDot,
}

fn open(
    client: TcpStream,
    target: SocketAddr,
    weather: Weather,
    rng: &mut Rng,
    happened: &Arc<Happened>,
) -> io::Result<()> {
    happened.connections.fetch_add(1, Ordering::Relaxed);
    let server = TcpStream::connect(target)?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let rate = rng.chance(weather.narrow).then(|| 20_000 + rng.below(180_000));
    happened.narrow.fetch_add(u64::from(rate.is_some()), Ordering::Relaxed);
    let after_bytes = 1 + rng.below(weather.bytes_longest.max(1));
    let end = if rng.chance(weather.reset) {
        End::Reset { after_bytes }
    } else if rng.chance(weather.stall) {
        End::Stall { after_bytes, time: Duration::from_millis(rng.below(weather.stall_longest.as_millis() as u64 + 1)) }
    } else if rng.chance(weather.reset_behind_dot) {
        End::BehindDot
    } else {
        End::None
    };
    // Mostly it is the long direction that is cut.
    let back = end != End::BehindDot && rng.chance(0.2);
    let delay = Duration::from_micros(rng.below(weather.delay_ms * 1000 + 1));
    for (from, to, end) in [
        (client.try_clone()?, server.try_clone()?, if back { End::None } else { end }),
        (server, client, if back { end } else { End::None }),
    ] {
        let happened = Arc::clone(happened);
        let mut pump = Pump { from, to, delay, rate, end, passed: 0, tail: [0; 5] };
        std::thread::Builder::new().stack_size(64 << 10).spawn(move || {
            // A side that goes away ends the connection.
            let _ = pump.run(&happened);
            let _ = pump.from.shutdown(Shutdown::Read);
            let _ = pump.to.shutdown(Shutdown::Write);
        })?;
    }
    Ok(())
}

struct Pump {
    from: TcpStream,
    to: TcpStream,
    delay: Duration,
    rate: Option<u64>,
    end: End,
    passed: u64,
    /// The last bytes passed.
    tail: [u8; 5],
}

impl Pump {
    fn run(&mut self, happened: &Happened) -> io::Result<()> {
        let mut piece = vec![0; PIECE_BYTES];
        loop {
            let count = self.from.read(&mut piece)?;
            if count == 0 {
                return Ok(());
            }
            std::thread::sleep(self.delay);
            if let Some(rate) = self.rate {
                std::thread::sleep(Duration::from_secs_f64(count as f64 / rate as f64));
            }
            let left = match self.end {
                End::Reset { after_bytes } | End::Stall { after_bytes, .. } => after_bytes - self.passed,
                End::None | End::BehindDot => u64::MAX,
            };
            let passing = &piece[..count.min(usize::try_from(left).unwrap_or(usize::MAX))];
            self.to.write_all(passing)?;
            self.passed += passing.len() as u64;
            let dot = self.sees_dot(&piece[..count]);
            match self.end {
                End::Reset { after_bytes } if self.passed == after_bytes => {
                    happened.resets.fetch_add(1, Ordering::Relaxed);
                    return self.reset();
                }
                End::Stall { after_bytes, time } if self.passed == after_bytes => {
                    happened.stalls.fetch_add(1, Ordering::Relaxed);
                    std::thread::sleep(time);
                    return self.reset();
                }
                End::BehindDot if dot => {
                    happened.resets_behind_dot.fetch_add(1, Ordering::Relaxed);
                    // The far side has it all, the near side hears nothing.
                    reset(&self.from)?;
                    self.from.shutdown(Shutdown::Both)?;
                    return Ok(());
                }
                _ => {}
            }
        }
    }

    /// True if a line of one dot ends in these bytes.
    fn sees_dot(&mut self, bytes: &[u8]) -> bool {
        let mut seen = false;
        for byte in bytes {
            self.tail.rotate_left(1);
            self.tail[4] = *byte;
            seen |= self.tail == *b"\r\n.\r\n";
        }
        seen
    }

    fn reset(&self) -> io::Result<()> {
        reset(&self.from)?;
        reset(&self.to)?;
        self.from.shutdown(Shutdown::Both)?;
        self.to.shutdown(Shutdown::Both)
    }
}

/// When it is closed nothing more is sent, and the other side gets a reset.
fn reset(stream: &TcpStream) -> io::Result<()> {
    socket2::SockRef::from(stream).set_linger(Some(Duration::ZERO))
}
