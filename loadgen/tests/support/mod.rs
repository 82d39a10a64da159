//! A go-between for tests: passes replies on as they are, and lets a function meddle with each line of the client.

#![allow(dead_code, reason = "each test program uses its part")]

use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, SocketAddrV4, TcpListener, TcpStream};

/// Any port of loopback.
pub(crate) const ANY_PORT: SocketAddr = SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0));

/// A line-wise go-between; its threads end with their connections.
pub(crate) struct Meddler(SocketAddr);

impl Meddler {
    /// Starts one on a free port.
    pub(crate) fn start(to: SocketAddr, meddle: fn(&mut Vec<u8>)) -> Meddler {
        let listener = TcpListener::bind(ANY_PORT).unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || serve(&listener, to, meddle));
        Meddler(address)
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.0
    }
}

/// Takes connections for ever.
pub(crate) fn serve(listener: &TcpListener, to: SocketAddr, meddle: fn(&mut Vec<u8>)) {
    for client in listener.incoming().flatten() {
        let Ok(server) = TcpStream::connect(to) else { continue };
        client.set_nodelay(true).unwrap();
        server.set_nodelay(true).unwrap();
        let (from, into) = (client.try_clone().unwrap(), server.try_clone().unwrap());
        std::thread::spawn(move || pass(from, into, meddle));
        std::thread::spawn(move || pass(server, client, |_| {}));
    }
}

/// Passes lines on until either side ends.
fn pass(from: TcpStream, mut into: TcpStream, meddle: fn(&mut Vec<u8>)) {
    let mut lines = BufReader::new(&from);
    let (mut line, mut out) = (Vec::new(), Vec::new());
    while lines.read_until(b'\n', &mut line).is_ok_and(|count| count > 0) {
        meddle(&mut line);
        out.append(&mut line);
        if lines.buffer().is_empty() {
            if into.write_all(&out).is_err() {
                break;
            }
            out.clear();
        }
    }
    let _ = into.write_all(&out);
    let _ = into.shutdown(Shutdown::Both);
    let _ = from.shutdown(Shutdown::Both);
}
