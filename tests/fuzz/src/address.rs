//! Paths, in UTF-8 too: the parser against a slow twin that tries every way to divide the text as the grammar does (SES-16..22).

use std::net::{Ipv4Addr, Ipv6Addr};

use ringpost::base::limits::{DOMAIN_MAX_BYTES, LOCAL_PART_MAX_BYTES};
use ringpost::mail::address::{AddressError, domain_of, is_hello_name, parse_forward_path, parse_reverse_path};

/// Longer texts take the twin too long.
const TEXT_MAX_BYTES: usize = 700;

/// Any bytes are what stands behind `FROM:` or `TO:`, or behind EHLO.
pub fn run(data: &[u8]) {
    if data.len() > TEXT_MAX_BYTES {
        return;
    }
    for (found, twin) in [(parse_reverse_path(data), reverse(data)), (parse_forward_path(data), forward(data))] {
        match (found, twin) {
            (Ok((path, rest)), Some((mailbox, behind))) => {
                assert_eq!((path.mailbox, rest), (mailbox, behind));
                let domain = mailbox.iter().rposition(|&b| b == b'@').map_or(&b""[..], |at| &mailbox[at + 1..]);
                assert_eq!(domain_of(mailbox), domain);
            }
            (Err(error), None) => assert!(error != AddressError::EightBit || !data.is_ascii()),
            (found, twin) => panic!("{found:?}, but {twin:?}"),
        }
    }
    let plain = |b: &u8| b.is_ascii_alphanumeric() || b"-._".contains(b);
    let good = (1..=DOMAIN_MAX_BYTES).contains(&data.len()) && (data.iter().all(plain) || is_literal(data));
    assert_eq!(is_hello_name(data), good);
}

/// Mailbox and rest of a reverse-path, by the grammar.
pub(super) fn reverse(text: &[u8]) -> Option<(&[u8], &[u8])> {
    if text.starts_with(b"<>") { Some((b"", &text[2..])) } else { path(text) }
}

/// Mailbox and rest of a forward-path, by the grammar.
pub(super) fn forward(text: &[u8]) -> Option<(&[u8], &[u8])> {
    if text.len() >= 12 && text[..12].eq_ignore_ascii_case(b"<postmaster>") {
        return Some((&text[1..11], &text[12..]));
    }
    path(text)
}

/// Path = "<" [ A-d-l ":" ] Mailbox ">"
fn path(text: &[u8]) -> Option<(&[u8], &[u8])> {
    if text.first() != Some(&b'<') {
        return None;
    }
    let ends = (1..text.len()).filter(|&end| text[end] == b'>');
    let mut found = ends.filter_map(|end| Some((mailbox_of(&text[1..end])?, &text[end + 1..])));
    let first = found.next();
    assert!(found.next().is_none(), "the grammar is unambiguous");
    first
}

fn mailbox_of(inside: &[u8]) -> Option<&[u8]> {
    if is_mailbox(inside) {
        return Some(inside);
    }
    let colons = (0..inside.len()).filter(|&at| inside[at] == b':');
    let mut found = colons.filter(|&at| is_route(&inside[..at]) && is_mailbox(&inside[at + 1..]));
    found.next().map(|at| &inside[at + 1..])
}

/// A-d-l = At-domain *( "," At-domain )
fn is_route(text: &[u8]) -> bool {
    text.split(|&b| b == b',').all(|part| part.split_first().is_some_and(|(&at, name)| at == b'@' && is_domain(name)))
}

fn is_mailbox(text: &[u8]) -> bool {
    str::from_utf8(text).is_ok()
        && (0..text.len()).filter(|&at| text[at] == b'@').any(|at| {
            let (local, domain) = (&text[..at], &text[at + 1..]);
            local.len() <= LOCAL_PART_MAX_BYTES
                && domain.len() <= DOMAIN_MAX_BYTES
                && is_local(local)
                && is_domain(domain)
        })
}

fn is_local(text: &[u8]) -> bool {
    let atext = |b: &u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-/=?^_`{|}~".contains(b) || !b.is_ascii();
    let dot_string = text.split(|&b| b == b'.').all(|atom| !atom.is_empty() && atom.iter().all(atext));
    dot_string || matches!(text, [b'"', inside @ .., b'"'] if is_quoted(inside))
}

/// *QcontentSMTP
fn is_quoted(mut text: &[u8]) -> bool {
    loop {
        text = match text {
            [] => return true,
            [b'\\', 32..=126, rest @ ..] => rest,
            [b' ' | b'!' | b'#'..=b'[' | b']'..=b'~' | 0x80.., rest @ ..] => rest,
            _ => return false,
        };
    }
}

fn is_domain(text: &[u8]) -> bool {
    let label = |label: &[u8]| {
        let inside = |b: &u8| b.is_ascii_alphanumeric() || *b == b'-' || !b.is_ascii();
        (1..=63).contains(&label.len())
            && label.iter().all(inside)
            && label[0] != b'-'
            && label[label.len() - 1] != b'-'
    };
    text.split(|&b| b == b'.').all(label) || is_literal(text)
}

fn is_literal(text: &[u8]) -> bool {
    let [b'[', inside @ .., b']'] = text else { return false };
    let Ok(inside) = str::from_utf8(inside) else { return false };
    match inside.get(..5) {
        Some(tag) if tag.eq_ignore_ascii_case("ipv6:") => inside[5..].parse::<Ipv6Addr>().is_ok(),
        _ => inside.parse::<Ipv4Addr>().is_ok(),
    }
}
