//! Envelopes of texts that are given as they are, by query and fields: a naive reader of percent codes finds the same addresses, and
//! none holds what could end a line (SES-19, SES-20).

use ringpost::control::http::fuzzed::given;

use super::letter::{HOSTNAME, check_envelope};

/// The first line is the query; the rest are fields, `f` or `t` and a value.
pub fn run(data: &[u8]) {
    let mut lines = data.split(|&b| b == b'\n');
    let Ok(query) = str::from_utf8(lines.next().unwrap_or_default()) else { return };
    let fields: Vec<(&str, &[u8])> = lines
        .filter_map(|line| match line.split_first()? {
            (b'f', value) => Some(("x-envelope-from", value)),
            (b't', value) => Some(("x-envelope-to", value)),
            _ => None,
        })
        .collect();
    let Some(read) = given(query, &fields, HOSTNAME) else { return };
    // A fragment is not sent.
    let query = query.split('#').next().unwrap_or_default();
    let (mut senders, mut recipients) = (Vec::new(), Vec::new());
    for pair in query.split('&') {
        match pair.split_once('=').unwrap_or((pair, "")) {
            ("from", value) => senders.push(decoded(value)),
            ("to", value) => recipients.push(decoded(value)),
            _ => {}
        }
    }
    for (name, value) in &fields {
        let value = String::from_utf8_lossy(value).trim().as_bytes().to_vec();
        if *name == "x-envelope-from" { senders.push(value) } else { recipients.push(value) }
    }
    let Ok(envelope) = read else { return };
    check_envelope(&envelope);
    assert_eq!((senders.len(), recipients.len()), (1, envelope.len()));
    assert_eq!(envelope.sender(), senders[0]);
    for (read, said) in envelope.recipients().zip(&recipients) {
        let postmaster = said.eq_ignore_ascii_case(b"postmaster") && read.ends_with(b"@relay.example");
        // A name before the address is no part of it.
        let shown = [b"<", read, b">"].concat();
        assert!(
            postmaster
                || said.trim_ascii().ends_with(&shown)
                || String::from_utf8_lossy(said).trim().as_bytes() == read
        );
    }
}

fn decoded(text: &str) -> Vec<u8> {
    let (bytes, mut decoded, mut at) = (text.as_bytes(), Vec::new(), 0);
    while at < bytes.len() {
        let code = text.get(at + 1..at + 3).filter(|two| two.bytes().all(|b| b.is_ascii_hexdigit()));
        match code.filter(|_| bytes[at] == b'%') {
            Some(two) => decoded.push(u8::from_str_radix(two, 16).expect("two digits")),
            None => decoded.push(bytes[at]),
        }
        at += if code.is_some() && bytes[at] == b'%' { 3 } else { 1 };
    }
    decoded
}
