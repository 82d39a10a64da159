//! The fields of a header: which of them are signed, and whose message it is.
//!
//! A header that is none by RFC 5322, such as one with a line without colon, a blank before one, or a bare CR or LF, gives nothing: verifiers do not agree
//! on what they see in it, and RFC 6376 3.8 wants such messages unsigned.

use memchr::memchr;

use super::canonical::{is_space, relax_field};
use crate::base::limits::DKIM_FIELDS_MAX;
use crate::mail::address::{ascii_domain, is_domain};

/// What is signed, and in this order, each field as often as it is there (RFC 6376 5.4.1; RFC 8058 4; RFC 8460 5.3); where it says `true`, one
/// more is signed than there are, so that none can be added (BLK-02). Received and Return-Path are not: others change them.
const SIGNED: [(&str, bool); 30] = [
    ("From", true),
    ("Sender", false),
    ("Reply-To", true),
    ("To", true),
    ("Cc", true),
    ("Subject", true),
    ("Date", true),
    ("Message-ID", true),
    ("In-Reply-To", false),
    ("References", false),
    ("MIME-Version", false),
    ("Content-Type", true),
    ("Content-Transfer-Encoding", false),
    ("Content-ID", false),
    ("Content-Description", false),
    ("Resent-Date", false),
    ("Resent-From", false),
    ("Resent-Sender", false),
    ("Resent-To", false),
    ("Resent-Cc", false),
    ("Resent-Message-ID", false),
    ("List-Id", false),
    ("List-Help", false),
    ("List-Unsubscribe", false),
    ("List-Unsubscribe-Post", false),
    ("List-Subscribe", false),
    ("List-Post", false),
    ("List-Archive", false),
    ("TLS-Report-Domain", false),
    ("TLS-Report-Submitter", false),
];

/// One field, folds and CRLF included.
#[derive(Clone, Copy)]
struct Field<'a> {
    name: &'a [u8],
    whole: &'a [u8],
}

impl<'a> Field<'a> {
    /// A field from its lines; `None` if they are none.
    fn read(whole: &'a [u8]) -> Option<Field<'a>> {
        let name = &whole[..memchr(b':', whole)?];
        let good = !name.is_empty() && name.iter().all(|byte| (33..=126).contains(byte));
        let bare = whole.iter().enumerate().any(|(at, &byte)| match byte {
            b'\n' => at == 0 || whole[at - 1] != b'\r',
            b'\r' => whole.get(at + 1) != Some(&b'\n'),
            _ => false,
        });
        (good && !bare).then_some(Field { name, whole })
    }

    fn is(&self, name: &str) -> bool {
        self.name.eq_ignore_ascii_case(name.as_bytes())
    }

    /// What stands behind the colon.
    fn value(&self) -> &'a [u8] {
        &self.whole[memchr(b':', self.whole).map_or(0, |colon| colon + 1)..]
    }
}

/// The fields of a header, from top to bottom; a `None` is something else.
fn fields(header: &[u8]) -> impl Iterator<Item = Option<Field<'_>>> {
    let mut rest = header;
    std::iter::from_fn(move || {
        if rest.is_empty() || rest == b"\r\n" {
            return None;
        }
        let mut end = 0;
        while let Some(newline) = memchr(b'\n', &rest[end..]) {
            end += newline + 1;
            if !rest.get(end).is_some_and(|&byte| is_space(byte)) {
                break;
            }
        }
        let open = end == 0 || rest.get(end).is_some_and(|&byte| is_space(byte));
        let (field, behind) = rest.split_at(if open { rest.len() } else { end });
        rest = behind;
        Some(Field::read(field))
    })
}

/// The fields of a message that a signature covers.
pub struct Selection<'a> {
    names: Vec<&'a str>,
    canonical: Vec<u8>,
}

impl Selection<'_> {
    /// Of a header in parts, from top to bottom, each made of whole fields. `None` if there are too many to be signed, or if it is
    /// no header.
    pub fn of(parts: &[&[u8]]) -> Option<Selection<'static>> {
        let all: Vec<Field<'_>> = parts.iter().flat_map(|part| fields(part)).collect::<Option<_>>()?;
        let mut selection = Selection { names: Vec::new(), canonical: Vec::new() };
        for (name, more) in SIGNED {
            // From the bottom, as verifiers look for them (RFC 6376 5.4.2).
            for field in all.iter().rev().filter(|field| field.is(name)) {
                selection.names.push(name);
                relax_field(field.whole, &mut selection.canonical);
            }
            if more {
                selection.names.push(name);
            }
        }
        (selection.names.len() <= DKIM_FIELDS_MAX).then_some(selection)
    }

    /// As `h=` has them.
    pub fn names(&self) -> &[&str] {
        &self.names
    }

    /// The fields in canonical form, in the order of `h=`.
    pub fn canonical(&self) -> &[u8] {
        &self.canonical
    }
}

/// True if receivers of a message with this header can offer to unsubscribe with one click (BLK-05; RFC 8058 3.1): it has one
/// List-Unsubscribe, with an https URI, and one List-Unsubscribe-Post that says so.
pub fn offers_one_click(header: &[u8]) -> bool {
    let only = |name: &str| {
        let mut found = fields(header).flatten().filter(|field| field.is(name));
        found.next().filter(|_| found.next().is_none()).map(|field| field.value())
    };
    let (Some(uris), Some(post)) = (only("List-Unsubscribe"), only("List-Unsubscribe-Post")) else { return false };
    // Each URI stands in angle brackets, and may hold commas (RFC 2369 2).
    let https = uris.split(|&byte| byte == b'<').skip(1).any(|uri| {
        let uri = memchr(b'>', uri).map_or(&b""[..], |end| uri[..end].trim_ascii());
        uri.split_at_checked(HTTPS.len())
            .is_some_and(|(scheme, rest)| scheme.eq_ignore_ascii_case(HTTPS) && !rest.is_empty())
    });
    https && post.trim_ascii().eq_ignore_ascii_case(b"List-Unsubscribe=One-Click")
}

const HTTPS: &[u8] = b"https://";

/// The domain of the only From of a header, in lower case and as DNS has it; `None` if there is no such (BLK-04). Several
/// authors must have one domain in common, since a signature has only one.
pub fn author_domain(header: &[u8]) -> Option<String> {
    let mut from = None;
    for field in fields(header) {
        let field = field?;
        if field.is("From") && from.replace(field).is_some() {
            return None;
        }
    }
    let list = bare(from?.value())?;
    let mut found: Option<String> = None;
    for mailbox in list.split(|&byte| byte == b',').filter(|mailbox| !mailbox.is_empty()) {
        let domain = domain_of(mailbox)?;
        if found.as_ref().is_some_and(|other| *other != domain) {
            return None;
        }
        found = Some(domain);
    }
    found
}

/// A list of mailboxes without comments and white space, and with `q` for each quoted string (RFC 5322 3.2). `None` if a quoted string or a
/// comment does not end.
fn bare(value: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(value.len());
    let (mut depth, mut quoted, mut bytes) = (0_usize, false, value.iter());
    while let Some(&byte) = bytes.next() {
        match byte {
            b'\\' if quoted || depth > 0 => drop(bytes.next()?),
            b'"' if depth == 0 => {
                quoted = !quoted;
                if quoted {
                    out.push(b'q');
                }
            }
            _ if quoted => {}
            b'(' => depth += 1,
            b')' => depth = depth.checked_sub(1)?,
            b' ' | b'\t' | b'\r' | b'\n' => {}
            _ if depth > 0 => {}
            _ => out.push(byte),
        }
    }
    (depth == 0 && !quoted).then_some(out)
}

/// The domain of a mailbox, with or without a name before it. Groups, routes and address literals have none that could sign.
fn domain_of(mailbox: &[u8]) -> Option<String> {
    let address = match memchr(b'<', mailbox) {
        Some(open) => mailbox[open + 1..].strip_suffix(b">")?,
        None => mailbox,
    };
    let at = memchr(b'@', address)?;
    let (local, domain) = (&address[..at], &address[at + 1..]);
    let strange = |byte: &u8| b"<>:;@[]\\".contains(byte);
    if local.is_empty() || local.iter().chain(domain).any(strange) {
        return None;
    }
    let domain = ascii_domain(domain)?.to_ascii_lowercase();
    is_domain(&domain).then(|| String::from_utf8(domain).ok())?
}
