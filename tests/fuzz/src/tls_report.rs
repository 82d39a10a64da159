//! Where a domain wants its TLS reports: a naive reader finds the same destinations, and nothing in them could do harm in a letter or a
//! request (RPT-01).

use ringpost::route::reports::record::{Destination, destinations};

/// Any bytes are a TXT record, or what stands behind the head of one.
pub fn run(data: &[u8]) {
    for record in [data.to_vec(), [b"v=TLSRPTv1;", data].concat()] {
        let found = destinations([&record[..]]);
        assert_eq!(found, naive(&record), "{}", record.escape_ascii());
        assert_eq!(destinations([&b"v=spf1 -all"[..], &record]), found);
        if record.starts_with(b"v=TLSRPTv1;") {
            assert_eq!(destinations([&record[..], &record]), None);
        }
        for destination in found.into_iter().flatten() {
            let (Destination::Mail(text) | Destination::Web(text)) = destination;
            assert!(text.bytes().all(|b| b.is_ascii_graphic() || b == b' '), "{text:?}");
        }
    }
}

/// Letter by letter: fields end at semicolons, URIs at commas.
fn naive(record: &[u8]) -> Option<Vec<Destination>> {
    let text = std::str::from_utf8(record).ok()?;
    let mut fields = vec![String::new()];
    for c in text.chars() {
        if c == ';' { fields.push(String::new()) } else { fields.last_mut().unwrap().push(c) }
    }
    let trimmed: Vec<&str> = fields.iter().map(|field| field.trim_matches([' ', '\t'])).collect();
    // The head stands there as it is, and its semicolon too.
    if fields[0] != "v=TLSRPTv1" || fields.len() < 2 {
        return None;
    }
    let mut rest = &trimmed[1..];
    if let [before @ .., ""] = rest
        && !before.is_empty()
    {
        rest = before;
    }
    let mut first: Option<&str> = None;
    for field in rest {
        let at = field.find('=')?;
        let (name, value) = (&field[..at], &field[at + 1..]);
        let uris = || value.split(',').map(|uri| uri.trim_matches([' ', '\t']));
        let good = if name == "rua" { uris().all(naive_uri) } else { naive_extension(name, value) };
        if !good {
            return None;
        }
        if name == "rua" && first.is_none() {
            first = Some(value);
        }
    }
    let mut all = Vec::new();
    for uri in first?.split(',').map(|uri| uri.trim_matches([' ', '\t'])) {
        all.extend(naive_destination(uri));
    }
    all.truncate(8);
    Some(all)
}

fn naive_uri(uri: &str) -> bool {
    let Some(at) = uri.find(':') else { return false };
    let scheme = &uri.as_bytes()[..at];
    !scheme.is_empty()
        && scheme[0].is_ascii_alphabetic()
        && scheme.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-' | b'.'))
        && at + 1 < uri.len()
        && uri[at + 1..].bytes().all(|b| (33..=126).contains(&b) && b != b'!')
}

fn naive_extension(name: &str, value: &str) -> bool {
    let name = name.as_bytes();
    (1..=32).contains(&name.len())
        && name[0].is_ascii_alphanumeric()
        && name.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.'))
        && !value.is_empty()
        && value.bytes().all(|b| (33..=126).contains(&b) && b != b'=')
}

fn naive_destination(uri: &str) -> Option<Destination> {
    let (scheme, rest) = uri.split_once(':')?;
    if uri.len() > 1024 {
        return None;
    }
    match scheme.to_ascii_lowercase().as_str() {
        "https" => {
            let kept = &rest[..rest.find('#').unwrap_or(rest.len())];
            let authority = kept.strip_prefix("//")?;
            let host = &authority[..authority.find(['/', '?']).unwrap_or(authority.len())];
            (!host.is_empty() && !host.contains('@')).then(|| Destination::Web(format!("https:{kept}").into()))
        }
        "mailto" => {
            let address = &rest[..rest.find('?').unwrap_or(rest.len())];
            let (mut bytes, mut at) = (Vec::new(), 0);
            while at < address.len() {
                if address.as_bytes()[at] == b'%' {
                    let digits =
                        address.get(at + 1..at + 3).filter(|two| two.bytes().all(|b| b.is_ascii_hexdigit()))?;
                    bytes.push(u8::from_str_radix(digits, 16).unwrap());
                    at += 3;
                } else {
                    bytes.push(address.as_bytes()[at]);
                    at += 1;
                }
            }
            let mailbox =
                String::from_utf8(bytes).ok().filter(|mailbox| mailbox.is_ascii() && mailbox.contains('@'))?;
            let path = format!("<{mailbox}>");
            let (read, behind) = ringpost::mail::address::parse_forward_path(path.as_bytes()).ok()?;
            // A path with a route is more than a mailbox.
            (behind.is_empty() && read.mailbox == mailbox.as_bytes()).then(|| Destination::Mail(mailbox.into()))
        }
        _ => None,
    }
}
