//! Trace fields: hostile names stay inside the field (TRC-05), and the count of those already there is that of the
//! header as its author wrote it, over any split (TRC-06).

use std::net::IpAddr;

use ringpost::base::ids::{MessageId, Position, ShardId};
use ringpost::base::limits::TRACE_MAX_BYTES;
use ringpost::base::time::UnixMs;
use ringpost::mail::trace::{HeaderScan, Protocol, TraceFacts, write_received};
use ringpost::smtp::data::{stuff, unstuff};

/// Any bytes are names, and lines of a message.
pub fn run(data: &[u8]) {
    field(data);
    // Wire form has no bare line ends, and ends in one.
    let lines = || data.split(|b| b"\r\n".contains(b));
    let wire = lines().filter(|line| *line != b".").collect::<Vec<_>>().join(&b"\r\n"[..]);
    scan(&wire, &unstuff(&wire).flatten().copied().collect::<Vec<_>>());
    let text = lines().collect::<Vec<_>>().join(&b"\r\n"[..]);
    scan(&stuff(&text).flatten().copied().collect::<Vec<_>>(), &text);
}

fn scan(wire: &[u8], text: &[u8]) {
    let mut naive = 0;
    for line in String::from_utf8_lossy(text).split("\r\n").take_while(|line| !line.is_empty()) {
        naive += u32::from(line.to_ascii_lowercase().starts_with("received:"));
    }
    for split in [vec![wire], super::pieces(wire), wire.chunks(1).collect()] {
        let mut scan = HeaderScan::new(false, false);
        split.iter().for_each(|piece| scan.feed(piece));
        assert_eq!(scan.received_fields(), naive, "{}", wire.escape_ascii());
    }
}

fn field(data: &[u8]) {
    let mut numbers = super::Numbers(data);
    let address: IpAddr = if numbers.u8() & 1 == 0 {
        IpAddr::from(std::array::from_fn::<u8, 4, _>(|_| numbers.u8()))
    } else {
        IpAddr::from(std::array::from_fn::<u8, 16, _>(|_| numbers.u8()))
    };
    let (a, b) = numbers.0.split_at(numbers.0.len() / 2);
    let hostname = String::from_utf8_lossy(b);
    let facts = TraceFacts {
        hello: a,
        peer: address,
        hostname: &hostname,
        protocol: Protocol::Esmtps,
        utf8: false,
        priority: Some(numbers.u8() as i8),
        cipher: Some("TLS_CHACHA20_POLY1305_SHA256"),
        id: MessageId { shard: ShardId(numbers.u16()), position: Position(numbers.u64()) },
        for_recipient: Some(b),
        when: UnixMs(numbers.u64()),
    };
    let mut out = Vec::new();
    write_received(&mut out, &facts);
    assert!(out.len() <= TRACE_MAX_BYTES && out.iter().all(|b| matches!(b, b'\t' | b'\r' | b'\n' | b' '..=b'~')));
    let text = str::from_utf8(&out).expect("ASCII");
    let lines: Vec<&str> = text.strip_suffix("\r\n").expect("it ends a line").split("\r\n").collect();
    assert!(lines.iter().all(|line| line.len() <= 998 && !line.contains(['\r', '\n'])));
    assert!(lines.len() == 5 && lines[1..].iter().all(|line| line.starts_with('\t')));
    assert_eq!(lines[0].matches('(').count(), 1);
}
