//! Leaving by a proxy: what is said to it before the next hop greets.
//!
//! Two kinds. HAProxy takes a header in front of everything (PROXY protocol, version 2) and, as a transparent proxy, connects
//! to where the header says, from where it says. SOCKS (RFC 1928) is asked for a connection and answers; its own address is
//! the source. Pure: bytes in, bytes out; what a proxy may send is bounded.

use std::net::{IpAddr, SocketAddr};

/// A way out that is not our own address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proxy {
    /// PROXY protocol version 2.
    Haproxy(SocketAddr),
    /// SOCKS version 5, without a password.
    Socks5(SocketAddr),
}

impl Proxy {
    /// Where it listens.
    pub fn address(self) -> SocketAddr {
        match self {
            Proxy::Haproxy(address) | Proxy::Socks5(address) => address,
        }
    }

    /// Reads `haproxy ADDRESS:PORT` or `socks5 ADDRESS:PORT`; the error says what to write.
    pub fn parse(text: &str) -> Result<Proxy, &'static str> {
        const REMEDY: &str = "must be haproxy ADDRESS:PORT or socks5 ADDRESS:PORT, for instance socks5 192.0.2.1:1080";
        let (kind, address) = text.split_once(' ').ok_or(REMEDY)?;
        let address = address.trim().parse().map_err(|_| REMEDY)?;
        match kind {
            "haproxy" => Ok(Proxy::Haproxy(address)),
            "socks5" => Ok(Proxy::Socks5(address)),
            _ => Err(REMEDY),
        }
    }
}

const V2_SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";

/// Appends the header that asks HAProxy for a connection from `source` to `target` (PROXY protocol 2.2). Without a source of the
/// target's family it says UNSPEC there, and the proxy takes its own.
pub fn push_haproxy_header(out: &mut Vec<u8>, source: Option<IpAddr>, target: SocketAddr) {
    out.extend_from_slice(&V2_SIGNATURE);
    // Version 2, PROXY.
    out.push(0x21);
    let port = target.port().to_be_bytes();
    match (source, target.ip()) {
        (Some(IpAddr::V4(source)), IpAddr::V4(target)) => {
            out.extend([0x11, 0, 12]);
            out.extend_from_slice(&source.octets());
            out.extend_from_slice(&target.octets());
            out.extend([0, 0]);
            out.extend(port);
        }
        (source, target) => {
            let v6 = |ip: IpAddr| match ip {
                IpAddr::V4(v4) => v4.to_ipv6_mapped(),
                IpAddr::V6(v6) => v6,
            };
            out.extend([0x21, 0, 36]);
            out.extend_from_slice(&source.map_or([0; 16], |source| v6(source).octets()));
            out.extend_from_slice(&v6(target).octets());
            out.extend([0, 0]);
            out.extend(port);
        }
    }
}

/// Where a conversation with a SOCKS server stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// It goes on.
    Waiting,
    /// The connection to the target stands; so many bytes of what came were the proxy's.
    Open(usize),
    /// It will not, or is no SOCKS server.
    Refused(&'static str),
}

/// The conversation with a SOCKS server, from our first word on.
#[derive(Clone, Debug)]
pub struct Socks {
    target: SocketAddr,
    /// What came of its answer so far; at most [`SOCKS_ANSWER_MAX_BYTES`].
    came: Vec<u8>,
    chosen: bool,
}

/// The longest answer: four octets, a name of 255 with its length, a port.
const SOCKS_ANSWER_MAX_BYTES: usize = 4 + 1 + 255 + 2;

impl Socks {
    /// Begins, appending the first words.
    pub fn begin(target: SocketAddr, out: &mut Vec<u8>) -> Socks {
        // Version 5, one method: none.
        out.extend([5, 1, 0]);
        Socks { target, came: Vec::new(), chosen: false }
    }

    /// Takes what came, and appends what is to be said.
    pub fn feed(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> Asked {
        let before = self.came.len();
        let room = SOCKS_ANSWER_MAX_BYTES + 2 - before;
        self.came.extend_from_slice(&bytes[..bytes.len().min(room)]);
        if !self.chosen {
            match self.came[..] {
                [] | [5] => return Asked::Waiting,
                [5, 0, ..] => {}
                [5, ..] => return Asked::Refused("the SOCKS server wants a password"),
                _ => return Asked::Refused("no SOCKS server answers"),
            }
            self.chosen = true;
            // CONNECT.
            out.extend([5, 1, 0]);
            match self.target.ip() {
                IpAddr::V4(ip) => {
                    out.push(1);
                    out.extend(ip.octets());
                }
                IpAddr::V6(ip) => {
                    out.push(4);
                    out.extend(ip.octets());
                }
            }
            out.extend(self.target.port().to_be_bytes());
        }
        let answer = &self.came[2..];
        let length = match answer {
            [5, 0, _, 1, ..] => 4 + 4 + 2,
            [5, 0, _, 4, ..] => 4 + 16 + 2,
            [5, 0, _, 3, name, ..] => 4 + 1 + usize::from(*name) + 2,
            [] | [5] | [5, 0] | [5, 0, _] | [5, 0, _, 3] => return Asked::Waiting,
            [5, 0, _, _, ..] => return Asked::Refused("the SOCKS server answers with an unknown kind of address"),
            [5, 2, ..] => return Asked::Refused("the SOCKS server does not allow the connection"),
            [5, 3, ..] | [5, 4, ..] => return Asked::Refused("the SOCKS server cannot reach the next hop"),
            [5, 5, ..] => return Asked::Refused("the next hop refused the SOCKS server's connection"),
            [5, ..] => return Asked::Refused("the SOCKS server has no connection"),
            _ => return Asked::Refused("no SOCKS server answers"),
        };
        if answer.len() < length { Asked::Waiting } else { Asked::Open(2 + length - before) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn settings_are_read() {
        assert_eq!(Proxy::parse("socks5 192.0.2.1:1080"), Ok(Proxy::Socks5("192.0.2.1:1080".parse().unwrap())));
        assert_eq!(Proxy::parse("haproxy [::1]:26").unwrap().address(), "[::1]:26".parse().unwrap());
        for bad in ["", "socks5", "socks5 host:1", "http 192.0.2.1:1", "192.0.2.1:1"] {
            assert!(Proxy::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn headers_are_as_the_protocol_has_them() {
        let mut header = Vec::new();
        push_haproxy_header(&mut header, Some([198, 51, 100, 1].into()), "203.0.113.9:25".parse().unwrap());
        let expected = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xc6\x33\x64\x01\xcb\0\x71\x09\0\0\0\x19";
        assert_eq!(header, expected);
        header.clear();
        push_haproxy_header(&mut header, Some("2001:db8::1".parse().unwrap()), "[2001:db8::9]:25".parse().unwrap());
        assert_eq!((header.len(), &header[12..16]), (16 + 36, &[0x21, 0x21, 0, 36][..]));
        header.clear();
        push_haproxy_header(&mut header, None, "203.0.113.9:25".parse().unwrap());
        assert_eq!(&header[16..32], [0; 16]);
    }

    /// Whatever the pieces, the conversation is the same, and what follows is the next hop's.
    #[test]
    fn socks_in_pieces() {
        let answer = b"\x05\0\x05\0\0\x01\x0a\0\0\x01\x12\x34220 hello\r\n";
        for cut in 0..12 {
            let mut said = Vec::new();
            let mut socks = Socks::begin("203.0.113.9:25".parse().unwrap(), &mut said);
            assert_eq!(socks.feed(&answer[..cut], &mut said), Asked::Waiting, "{cut}");
            assert_eq!(socks.feed(&answer[cut..], &mut said), Asked::Open(12 - cut));
            assert_eq!(said, b"\x05\x01\0\x05\x01\0\x01\xcb\0\x71\x09\0\x19");
        }
        let name = b"\x05\0\x05\0\0\x03\x03abc\0\x19x";
        let mut socks = Socks::begin("[2001:db8::9]:25".parse().unwrap(), &mut Vec::new());
        assert_eq!(socks.feed(name, &mut Vec::new()), Asked::Open(name.len() - 1));
    }

    #[test]
    fn refusals_are_told_apart() {
        for (answer, word) in [
            (&b"\x05\xff"[..], "password"),
            (b"HTTP", "no SOCKS"),
            (b"\x05\0\x05\x05\0\x01", "refused"),
            (b"\x05\0\x05\x02\0\x01", "allow"),
            (b"\x05\0\x05\x04\0\x01", "reach"),
        ] {
            let mut socks = Socks::begin("203.0.113.9:25".parse().unwrap(), &mut Vec::new());
            let Asked::Refused(text) = socks.feed(answer, &mut Vec::new()) else { panic!("{word}") };
            assert!(text.contains(word), "{text}");
        }
    }

    proptest! {
        /// Any bytes in any pieces: no panic, and a bounded memory.
        #[test]
        fn any_answer_is_survived(pieces in prop::collection::vec(prop::collection::vec(0u8..8, 0..300), 0..6)) {
            let mut said = Vec::new();
            let mut socks = Socks::begin("203.0.113.9:25".parse().unwrap(), &mut said);
            for piece in &pieces {
                match socks.feed(piece, &mut said) {
                    Asked::Waiting => {}
                    Asked::Open(used) => {
                        prop_assert!(used <= piece.len());
                        break;
                    }
                    Asked::Refused(_) => break,
                }
            }
            prop_assert!(said.len() <= 3 + 22 && socks.came.len() <= SOCKS_ANSWER_MAX_BYTES + 2);
        }
    }
}
