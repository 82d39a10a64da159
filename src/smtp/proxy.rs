//! The PROXY protocol: what a load balancer in front of us says of a connection's other end (PRX-01, PRX-02).
//!
//! A [`HeaderReader`] says how many bytes it needs next and never asks for one behind the header, so that what follows, be it SMTP
//! or a TLS handshake, stays in the socket. Versions 1 and 2, parsed by `ppp`; `UNKNOWN` and `LOCAL` leave the
//! real addresses; what is appended to version 2 is skipped. Pure; any bytes are fine.

use std::net::{IpAddr, SocketAddr};

use ppp::{v1, v2};

/// How a version 2 header begins.
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// Both versions are at least so long: `PROXY UNKNOWN` and CRLF, the fixed part of version 2 less one.
const FIRST_BYTES: usize = 15;
/// The fixed part of version 2, of which the last two bytes tell the length of the rest.
const FIXED_BYTES: usize = 16;
/// The longest header of version 1 with its CRLF.
const TEXT_MAX_BYTES: usize = 107;
/// The longest header of version 2 that is taken: addresses and what is appended.
pub const HEADER_MAX_BYTES: usize = 2048;

/// Who is at the other end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Conveyed {
    /// Who the socket says: the proxy speaks for itself, or does not know.
    Socket,
    /// This client, who connected to that address.
    Client {
        /// The client.
        peer: SocketAddr,
        /// Where it connected to.
        local: IpAddr,
    },
}

/// What is at the front of the connection is no header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoHeader;

/// Reads one header.
#[derive(Debug, Default)]
pub struct HeaderReader {
    seen: Vec<u8>,
}

impl HeaderReader {
    /// How many bytes to read now, at most; never none.
    pub fn wants(&self) -> usize {
        let seen = self.seen.len();
        if seen < FIRST_BYTES {
            FIRST_BYTES - seen
        } else if !self.is_binary() {
            // A line may end with any byte.
            1
        } else if seen < FIXED_BYTES {
            FIXED_BYTES - seen
        } else {
            self.binary_bytes() - seen
        }
    }

    fn is_binary(&self) -> bool {
        self.seen.starts_with(SIGNATURE)
    }

    fn binary_bytes(&self) -> usize {
        FIXED_BYTES + usize::from(u16::from_be_bytes([self.seen[14], self.seen[15]]))
    }

    /// Takes what was read, at most `wants()`; gives the header's meaning once it is whole.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<Option<Conveyed>, NoHeader> {
        assert!(bytes.len() <= self.wants(), "bytes behind the header stay in the socket");
        self.seen.extend_from_slice(bytes);
        let length = self.seen.len();
        let text = &b"PROXY "[..length.min(6)];
        let binary = &SIGNATURE[..length.min(SIGNATURE.len())];
        if !self.seen.starts_with(text) && !self.seen.starts_with(binary) {
            return Err(NoHeader);
        }
        if length < FIRST_BYTES {
            return Ok(None);
        }
        if !self.is_binary() {
            return match self.seen.ends_with(b"\r\n") {
                true => self.text().map(Some),
                false if length < TEXT_MAX_BYTES => Ok(None),
                false => Err(NoHeader),
            };
        }
        if length < FIXED_BYTES {
            return Ok(None);
        }
        match self.binary_bytes() {
            whole if whole > HEADER_MAX_BYTES => Err(NoHeader),
            whole if length < whole => Ok(None),
            _ => self.binary().map(Some),
        }
    }

    fn text(&self) -> Result<Conveyed, NoHeader> {
        let header = v1::Header::try_from(&self.seen[..]).map_err(|_| NoHeader)?;
        Ok(match header.addresses {
            v1::Addresses::Unknown => Conveyed::Socket,
            v1::Addresses::Tcp4(ip) => client(ip.source_address, ip.source_port, ip.destination_address),
            v1::Addresses::Tcp6(ip) => client(ip.source_address, ip.source_port, ip.destination_address),
        })
    }

    fn binary(&self) -> Result<Conveyed, NoHeader> {
        let header = v2::Header::try_from(&self.seen[..]).map_err(|_| NoHeader)?;
        Ok(match (header.command, header.protocol, header.addresses) {
            (v2::Command::Proxy, v2::Protocol::Stream, v2::Addresses::IPv4(ip)) => {
                client(ip.source_address, ip.source_port, ip.destination_address)
            }
            (v2::Command::Proxy, v2::Protocol::Stream, v2::Addresses::IPv6(ip)) => {
                client(ip.source_address, ip.source_port, ip.destination_address)
            }
            _ => Conveyed::Socket,
        })
    }
}

fn client(peer: impl Into<IpAddr>, port: u16, local: impl Into<IpAddr>) -> Conveyed {
    Conveyed::Client { peer: SocketAddr::new(peer.into(), port), local: local.into() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Reads as a connection would, so many bytes at a time; what was left behind the header.
    fn read(text: &[u8], at_a_time: usize) -> (Result<Option<Conveyed>, NoHeader>, usize) {
        let mut reader = HeaderReader::default();
        let mut rest = text;
        while !rest.is_empty() {
            let (piece, behind) = rest.split_at(reader.wants().min(at_a_time).min(rest.len()));
            rest = behind;
            match reader.feed(piece) {
                Ok(None) => {}
                end => return (end, rest.len()),
            }
        }
        (Ok(None), 0)
    }

    fn binary(command: u8, family: u8, addresses: &[u8]) -> Vec<u8> {
        [&SIGNATURE[..], &[command, family], &(addresses.len() as u16).to_be_bytes(), addresses].concat()
    }

    const V4: [u8; 12] = [192, 0, 2, 1, 192, 0, 2, 9, 0x0f, 0xa0, 0, 25];

    #[test]
    fn both_versions_convey_the_client() {
        // PRX-01, PRX-02
        let four = Conveyed::Client { peer: "192.0.2.1:4000".parse().unwrap(), local: "192.0.2.9".parse().unwrap() };
        let six =
            Conveyed::Client { peer: "[2001:db8::1]:4000".parse().unwrap(), local: "2001:db8::9".parse().unwrap() };
        let longest = format!("PROXY UNKNOWN {}\r\n", "f".repeat(TEXT_MAX_BYTES - 16));
        let addresses: Vec<u8> = ["2001:db8::1", "2001:db8::9"]
            .iter()
            .flat_map(|a| a.parse::<std::net::Ipv6Addr>().unwrap().octets())
            .chain([0x0f, 0xa0, 0, 25])
            .collect();
        for (header, conveyed) in [
            (b"PROXY TCP4 192.0.2.1 192.0.2.9 4000 25\r\n".to_vec(), four),
            (b"PROXY TCP6 2001:db8::1 2001:db8::9 4000 25\r\n".to_vec(), six),
            (b"PROXY UNKNOWN\r\n".to_vec(), Conveyed::Socket),
            (longest.into_bytes(), Conveyed::Socket),
            (binary(0x21, 0x11, &V4), four),
            (binary(0x21, 0x21, &addresses), six),
            (binary(0x21, 0x11, &[&V4[..], &[4, 0, 3, 1, 2, 3]].concat()), four),
            (binary(0x20, 0x00, b""), Conveyed::Socket),
            (binary(0x20, 0x11, &V4), Conveyed::Socket),
            (binary(0x21, 0x00, b""), Conveyed::Socket),
            (binary(0x21, 0x12, &V4), Conveyed::Socket),
        ] {
            for behind in ["", "EHLO c.example\r\n"] {
                let text = [&header[..], behind.as_bytes()].concat();
                for at_a_time in [1, 2, 7, 1000] {
                    assert_eq!(read(&text, at_a_time), (Ok(Some(conveyed)), behind.len()), "{}", text.escape_ascii());
                }
            }
        }
    }

    #[test]
    fn anything_else_is_no_header() {
        let too_long = binary(0x21, 0x11, &[0; HEADER_MAX_BYTES]);
        for bad in [
            &b"EHLO c.example\r\n"[..],
            b"proxy UNKNOWN\r\n",
            b"PROXY TCP4 192.0.2.1 192.0.2.9 4000\r\n",
            b"PROXY TCP4 192.0.2.256 192.0.2.9 4000 25\r\n",
            b"PROXY TCP4 192.0.2.1 192.0.2.9 4000 65536\r\n",
            b"PROXY UDP4 192.0.2.1 192.0.2.9 4000 25\r\n",
            b"\r\n\r\n\0\r\nQUIX\nxxxx",
            &binary(0x11, 0x11, &V4),
            &binary(0x21, 0x11, &V4[..4]),
            &too_long,
        ] {
            for at_a_time in [1, 1000] {
                assert_eq!(read(bad, at_a_time).0, Err(NoHeader), "{}", bad.escape_ascii());
            }
        }
        let endless = format!("PROXY TCP4 {}", "1".repeat(200));
        assert_eq!(read(endless.as_bytes(), 1), (Err(NoHeader), endless.len() - TEXT_MAX_BYTES));
    }

    proptest! {
        #[test]
        fn pieces_make_no_difference_and_nothing_panics(
            head in prop_oneof![Just(b"PROXY TCP4 1.2.3.4 ".to_vec()), Just(SIGNATURE.to_vec()), Just(vec![])],
            tail in proptest::collection::vec(any::<u8>(), 0..60),
            at_a_time in 1usize..40,
        ) {
            let text = [head, tail].concat();
            let (slow, fast) = (read(&text, 1), read(&text, at_a_time));
            // Where there is no header, more may have been read before that was seen.
            prop_assert_eq!(slow.0, fast.0);
            prop_assert!(slow.0.is_err() || slow.1 == fast.1);
        }
    }
}
