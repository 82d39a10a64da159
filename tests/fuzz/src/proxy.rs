//! PROXY headers: any pieces give the same client or refusal, nothing behind the header is asked for, and what is conveyed is what a
//! naive reader of the text sees (PRX-01, PRX-02).

use std::net::IpAddr;

use ringpost::smtp::proxy::{Conveyed, HeaderReader, NoHeader};

/// Any bytes are what a connection brings first.
pub fn run(data: &[u8]) {
    let (slow, used) = read(data, |_| 1);
    let (fast, used_fast) = read(data, |wanted| wanted);
    assert_eq!(slow, fast);
    if slow.is_ok() {
        assert_eq!(used, used_fast);
    }
    if let Some(line) = data.strip_prefix(b"PROXY ").and_then(|_| data.windows(2).position(|two| two == b"\r\n")) {
        if let Ok(Some(conveyed)) = slow {
            assert_eq!(used, line + 2, "what stands behind the line stays");
            assert!(used <= 107);
            assert_eq!(naive(&data[..line]), Some(conveyed), "{}", data[..line].escape_ascii());
        }
    } else if let Ok(Some(_)) = slow {
        assert_eq!(used, 16 + usize::from(u16::from_be_bytes([data[14], data[15]])));
    }
}

fn read(data: &[u8], step: impl Fn(usize) -> usize) -> (Result<Option<Conveyed>, NoHeader>, usize) {
    let (mut reader, mut used) = (HeaderReader::default(), 0);
    while used < data.len() {
        let wanted = reader.wants();
        assert!(wanted > 0);
        let piece = &data[used..][..step(wanted).min(data.len() - used)];
        used += piece.len();
        match reader.feed(piece) {
            Ok(None) => {}
            end => return (end, used),
        }
    }
    (Ok(None), used)
}

/// A line without its end, as a string.
fn naive(line: &[u8]) -> Option<Conveyed> {
    // Whatever stands behind it is ignored, text or not.
    if line.starts_with(b"PROXY UNKNOWN") {
        return Some(Conveyed::Socket);
    }
    let words: Vec<&str> = str::from_utf8(line).ok()?.split(' ').collect();
    let [_, family, source, destination, port, _] = words[..] else { return None };
    let (source, destination): (IpAddr, IpAddr) = (source.parse().ok()?, destination.parse().ok()?);
    (source.is_ipv4() == (family == "TCP4")).then_some(())?;
    Some(Conveyed::Client { peer: (source, port.parse().ok()?).into(), local: destination })
}
