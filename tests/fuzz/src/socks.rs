//! What a SOCKS server answers: any split comes to the same, a reader of the whole answer agrees, and what follows is the next hop's.

use std::net::SocketAddr;

use ringpost::route::egress::{Asked, Socks};

/// Any bytes are what comes from the server.
pub fn run(data: &[u8]) {
    for target in ["203.0.113.9:25", "[2001:db8::9]:2525"] {
        let target: SocketAddr = target.parse().expect("an address");
        let whole = talk(target, &[data]);
        assert_eq!(whole.end, naive(data));
        for pieces in [super::pieces(data), super::crumbs(data)] {
            assert_eq!(talk(target, &pieces), whole, "the pieces do not matter");
        }
        let asked = match target {
            SocketAddr::V4(v4) => [&[5, 1, 0, 5, 1, 0, 1][..], &v4.ip().octets(), &v4.port().to_be_bytes()].concat(),
            SocketAddr::V6(v6) => [&[5, 1, 0, 5, 1, 0, 4][..], &v6.ip().octets(), &v6.port().to_be_bytes()].concat(),
        };
        // Nothing is asked of a server that wants something else.
        let goes_on = data.len() > 1 && data[..2] == [5, 0];
        assert_eq!(whole.said, if goes_on { &asked } else { &asked[..3] });
    }
}

/// How it ended, and what was said.
#[derive(Debug, PartialEq, Eq)]
struct Talk {
    end: End,
    said: Vec<u8>,
}

#[derive(Debug, PartialEq, Eq)]
enum End {
    Waiting,
    /// Behind so many bytes.
    Open(usize),
    Refused,
}

fn talk(target: SocketAddr, pieces: &[&[u8]]) -> Talk {
    let mut said = Vec::new();
    let mut socks = Socks::begin(target, &mut said);
    let mut before = 0;
    for piece in pieces {
        match socks.feed(piece, &mut said) {
            Asked::Waiting => before += piece.len(),
            Asked::Open(used) => {
                assert!(used <= piece.len(), "more than came");
                return Talk { end: End::Open(before + used), said };
            }
            Asked::Refused(why) => {
                assert!(!why.is_empty());
                return Talk { end: End::Refused, said };
            }
        }
    }
    Talk { end: End::Waiting, said }
}

/// Field by field (RFC 1928 3, 6).
fn naive(data: &[u8]) -> End {
    let fixed: [Option<u8>; 2] = [Some(5), Some(0)];
    for (at, wanted) in fixed.into_iter().chain([Some(5), Some(0), None]).enumerate() {
        match (data.get(at), wanted) {
            (None, _) => return End::Waiting,
            (Some(byte), Some(wanted)) if *byte != wanted => return End::Refused,
            _ => {}
        }
    }
    let address = match (data.get(5), data.get(6)) {
        (None, _) | (Some(3), None) => return End::Waiting,
        (Some(1), _) => 4,
        (Some(4), _) => 16,
        (Some(3), Some(length)) => 1 + usize::from(*length),
        _ => return End::Refused,
    };
    let end = 6 + address + 2;
    if data.len() < end { End::Waiting } else { End::Open(end) }
}
