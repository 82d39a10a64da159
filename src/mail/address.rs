//! Paths and mailboxes as RFC 5321 4.1.2 writes them, read in place from a command line.
//!
//! Strict: what the grammar does not allow is an error, never a repaired address, so that no trick of quoting,
//! routing or literals makes one address look like another (SES-19, SES-20, SES-22). Local parts keep their case,
//! domains are kept as given and compared without case by whoever compares (SES-08). Pure, works on any bytes
//! without panic, allocates nothing.
//!
//! Mailboxes in UTF-8 are read as RFC 6531 3.3 writes them; whether one may be used here is for whoever knows what
//! was said before (EXT-05): `Path::mailbox` is then not ASCII.

use std::borrow::Cow;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use idna::uts46::{AsciiDenyList, DnsLength, Hyphens, Uts46};
use memchr::{memchr, memrchr};

use crate::base::limits::{DOMAIN_MAX_BYTES, LOCAL_PART_MAX_BYTES};

/// The longest label of a domain name (RFC 1035 2.3.4).
const LABEL_MAX_BYTES: usize = 63;

/// A path between its brackets; a source route was read and dropped (SES-17; RFC 5321 app. C).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Path<'a> {
    /// `local@domain` as given. Empty for the null reverse-path, without `@` only for the bare postmaster.
    pub mailbox: &'a [u8],
}

impl Path<'_> {
    /// `<>`, the reverse-path of reports (SES-18).
    pub fn is_null(&self) -> bool {
        self.mailbox.is_empty()
    }

    /// `<Postmaster>` without a domain, in any case (SES-16; RFC 5321 4.1.1.3).
    pub fn is_bare_postmaster(&self) -> bool {
        self.mailbox.eq_ignore_ascii_case(POSTMASTER)
    }
}

/// The one mailbox name that needs no domain.
pub const POSTMASTER: &[u8] = b"postmaster";

/// What is wrong with a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AddressError {
    /// No `<` at the start, or no `>` behind the mailbox (SES-21).
    Brackets,
    /// A source route that is none.
    Route,
    /// The local part is neither a dot-string nor a quoted string.
    LocalPart,
    /// No domain, an empty label, or a character that no host name has.
    Domain,
    /// An address literal that is no IPv4 or IPv6 address.
    Literal,
    /// Local part or domain over its bound (SIZ-01).
    TooLong,
    /// An octet over 127 where even UTF-8 may not stand, or that is no UTF-8 (SES-20, EXT-05).
    EightBit,
}

/// Reads `<reverse-path>` at the start of `text`; gives what stands behind the `>` too.
pub fn parse_reverse_path(text: &[u8]) -> Result<(Path<'_>, &[u8]), AddressError> {
    match text.strip_prefix(b"<>") {
        Some(rest) => Ok((Path { mailbox: b"" }, rest)),
        None => parse_path(text),
    }
}

/// Reads `<forward-path>`, or `<Postmaster>`, at the start of `text`; gives what stands behind the `>` too.
pub fn parse_forward_path(text: &[u8]) -> Result<(Path<'_>, &[u8]), AddressError> {
    let end = 1 + POSTMASTER.len();
    if text.len() > end && text[0] == b'<' && text[end] == b'>' && text[1..end].eq_ignore_ascii_case(POSTMASTER) {
        return Ok((Path { mailbox: &text[1..end] }, &text[end + 1..]));
    }
    parse_path(text)
}

/// The domain of a mailbox, or nothing if it has none. A domain holds no `@`, a quoted local part may.
pub fn domain_of(mailbox: &[u8]) -> &[u8] {
    memrchr(b'@', mailbox).map_or(b"", |at| &mailbox[at + 1..])
}

/// The domain as DNS knows it: as it is, or with its U-labels made A-labels (EXT-06; RFC 6531 3.2). `None` if it has no such
/// form.
pub fn ascii_domain(domain: &[u8]) -> Option<Cow<'_, [u8]>> {
    if domain.is_ascii() {
        return Some(Cow::Borrowed(domain));
    }
    let (names, rules) = (Uts46::new(), (AsciiDenyList::STD3, Hyphens::Check, DnsLength::Verify));
    let ascii = names.to_ascii(domain, rules.0, rules.1, rules.2).ok()?;
    Some(Cow::Owned(ascii.into_owned().into_bytes()))
}

/// True for a domain name in ASCII.
pub fn is_domain(text: &[u8]) -> bool {
    text.is_ascii() && !text.starts_with(b"[") && text.len() <= DOMAIN_MAX_BYTES && domain_end(text) == Ok(text.len())
}

/// True for a host name or an address literal that a client may give in EHLO (SES-05).
///
/// More lenient than a mailbox's domain: real clients send underscores and trailing dots, and the name is only
/// written down. Nothing passes that could break out of a trace field (TRC-05).
pub fn is_hello_name(name: &[u8]) -> bool {
    if name.is_empty() || name.len() > DOMAIN_MAX_BYTES {
        return false;
    }
    if name[0] == b'[' {
        return literal_end(name) == Ok(name.len());
    }
    name.iter().all(|&b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_'))
}

fn parse_path(text: &[u8]) -> Result<(Path<'_>, &[u8]), AddressError> {
    let inside = text.strip_prefix(b"<").ok_or(AddressError::Brackets)?;
    let mailbox = skip_route(inside)?;
    let local_end = local_part_end(mailbox)?;
    let domain = match mailbox.get(local_end) {
        Some(b'@') => &mailbox[local_end + 1..],
        other => return Err(unexpected(other, AddressError::LocalPart)),
    };
    let domain_end = domain_end(domain)?;
    if local_end > LOCAL_PART_MAX_BYTES || domain_end > DOMAIN_MAX_BYTES {
        return Err(AddressError::TooLong);
    }
    let whole = &mailbox[..local_end + 1 + domain_end];
    if std::str::from_utf8(whole).is_err() {
        return Err(AddressError::EightBit);
    }
    match domain.get(domain_end) {
        Some(b'>') => Ok((Path { mailbox: whole }, &domain[domain_end + 1..])),
        None => Err(AddressError::Brackets),
        other => Err(unexpected(other, AddressError::Domain)),
    }
}

/// The error for a byte where another was due; an octet over 127 has an error of its own.
fn unexpected(byte: Option<&u8>, error: AddressError) -> AddressError {
    if byte.is_some_and(|b| !b.is_ascii()) { AddressError::EightBit } else { error }
}

/// What stands behind the source route `@a,@b:`, or all of `text` if it has none.
fn skip_route(text: &[u8]) -> Result<&[u8], AddressError> {
    let mut rest = text;
    while let Some(domain) = rest.strip_prefix(b"@") {
        let end = domain_end(domain).map_err(|e| if e == AddressError::Domain { AddressError::Route } else { e })?;
        match domain.get(end) {
            Some(b':') => return Ok(&domain[end + 1..]),
            Some(b',') if domain.get(end + 1) == Some(&b'@') => rest = &domain[end + 1..],
            other => return Err(unexpected(other, AddressError::Route)),
        }
    }
    Ok(text)
}

/// Length of the dot-string or quoted string at the start of `text`.
fn local_part_end(text: &[u8]) -> Result<usize, AddressError> {
    if text.first() == Some(&b'"') {
        return quoted_end(text);
    }
    let end = text.iter().position(|&b| !is_atext(b) && b != b'.' && b.is_ascii()).unwrap_or(text.len());
    let local = &text[..end];
    if has_empty_part(local) { Err(AddressError::LocalPart) } else { Ok(end) }
}

/// Length of the quoted string at the start of `text`, with its quotes: printable ASCII, `\` before any of it, and UTF-8.
fn quoted_end(text: &[u8]) -> Result<usize, AddressError> {
    let mut at = 1;
    loop {
        match text.get(at) {
            Some(b'"') => return Ok(at + 1),
            Some(b'\\') => match text.get(at + 1) {
                Some(b' '..=b'~') => at += 2,
                other => return Err(unexpected(other, AddressError::LocalPart)),
            },
            Some(b' '..=b'~' | 0x80..) => at += 1,
            other => return Err(unexpected(other, AddressError::LocalPart)),
        }
    }
}

/// Length of the host name or address literal at the start of `text`.
fn domain_end(text: &[u8]) -> Result<usize, AddressError> {
    if text.first() == Some(&b'[') {
        return literal_end(text);
    }
    let is_host = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'.' || !b.is_ascii();
    let end = text.iter().position(|&b| !is_host(b)).unwrap_or(text.len());
    let is_label = |label: &[u8]| {
        (1..=LABEL_MAX_BYTES).contains(&label.len()) && label[0] != b'-' && label[label.len() - 1] != b'-'
    };
    if text[..end].split(|&b| b == b'.').all(is_label) { Ok(end) } else { Err(AddressError::Domain) }
}

/// Length of the address literal at the start of `text`, with its brackets (RFC 5321 4.1.3).
fn literal_end(text: &[u8]) -> Result<usize, AddressError> {
    let end = memchr(b']', text).ok_or(AddressError::Literal)?;
    let inside = std::str::from_utf8(&text[1..end]).map_err(|_| AddressError::EightBit)?;
    let good = match inside.split_at_checked(5) {
        Some((tag, address)) if tag.eq_ignore_ascii_case("IPv6:") => Ipv6Addr::from_str(address).is_ok(),
        _ => Ipv4Addr::from_str(inside).is_ok(),
    };
    if good {
        Ok(end + 1)
    } else {
        Err(unexpected(inside.as_bytes().iter().find(|b| !b.is_ascii()), AddressError::Literal))
    }
}

fn has_empty_part(dotted: &[u8]) -> bool {
    dotted.split(|&b| b == b'.').any(<[u8]>::is_empty)
}

/// RFC 5322 3.2.3.
const fn is_atext(b: u8) -> bool {
    b.is_ascii_alphanumeric()
        || matches!(
            b,
            b'!' | b'#'
                | b'$'
                | b'%'
                | b'&'
                | b'\''
                | b'*'
                | b'+'
                | b'-'
                | b'/'
                | b'='
                | b'?'
                | b'^'
                | b'_'
                | b'`'
                | b'{'
                | b'|'
                | b'}'
                | b'~'
        )
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn mailbox(text: &str) -> Result<&[u8], AddressError> {
        parse_forward_path(text.as_bytes())
            .and_then(|(path, rest)| if rest.is_empty() { Ok(path.mailbox) } else { Err(AddressError::Brackets) })
    }

    #[test]
    fn good_mailboxes_are_kept_as_given() {
        // SES-08, SES-19, SES-20
        for good in [
            "u@c",
            "User.Name@Example.ORG",
            "!#$%&'*+-/=?^_`{|}~@example.org",
            "\"a@b\"@c.example",
            "\"a b\"@c.example",
            "\"\\\"\\\\>\"@c.example",
            "\"\"@c.example",
            "u@[192.0.2.1]",
            "u@[IPv6:2001:db8::1]",
            "u@[ipv6:::]",
            "u@[IPv6:::ffff:192.0.2.1]",
            "a%b@c.example",
            "a!b@c.example",
            "u@1.example",
            "u@xn--bcher-kva.example",
            "jörg@example.org",
            "\"jörg\"@example.org",
            "u@bücher.example",
        ] {
            assert_eq!(mailbox(&format!("<{good}>")), Ok(good.as_bytes()), "{good}");
        }
    }

    #[test]
    fn bad_mailboxes_are_errors() {
        use AddressError::*;
        for (bad, error) in [
            ("u@c", Brackets),
            (" <u@c>", Brackets),
            ("<u@c", Brackets),
            ("<u@c> x", Brackets),
            ("<>", LocalPart),
            ("<u>", LocalPart),
            ("<@c>", Route),
            ("<u@>", Domain),
            ("<.u@c>", LocalPart),
            ("<u.@c>", LocalPart),
            ("<u..v@c>", LocalPart),
            ("<u v@c>", LocalPart),
            ("<u\0@c>", LocalPart),
            ("<\"u@c>", LocalPart),
            ("<\"u\"v@c>", LocalPart),
            ("<\"u\t\"@c>", LocalPart),
            ("<\"u\\", LocalPart),
            ("<u@c_d>", Domain),
            ("<u@c..d>", Domain),
            ("<u@.c>", Domain),
            ("<u@c.>", Domain),
            ("<u@-c>", Domain),
            ("<u@c->", Domain),
            ("<u@c d>", Domain),
            ("<u@c@d>", Domain),
            ("<u@c\0>", Domain),
            ("<u@[1.2.3]>", Literal),
            ("<u@[1.2.3.256]>", Literal),
            ("<u@[IPv6:1:2]>", Literal),
            ("<u@[IPv6:fe80::1%eth0]>", Literal),
            ("<u@[tag:x]>", Literal),
            ("<u@[2001:db8::1]>", Literal),
            ("<u@[1.2.3.4>", Literal),
            ("<u@[1.2.3.4]x>", Domain),
            ("<u@[ü]>", EightBit),
            ("<\"\\ü\"@c>", EightBit),
            ("<ü..u@c>", LocalPart),
            ("<u@ü..c>", Domain),
        ] {
            assert_eq!(mailbox(bad), Err(error), "{bad}");
        }
    }

    #[test]
    fn addresses_in_utf8_are_utf8_and_their_domains_have_names_in_dns() {
        // EXT-05, EXT-06
        for bad in [b"<\xff@c>".as_slice(), b"<u@\xc3>", b"<\xed\xa0\x80@c>"] {
            assert_eq!(parse_forward_path(bad), Err(AddressError::EightBit), "{bad:?}");
        }
        let ascii = |domain: &str| ascii_domain(domain.as_bytes()).map(|name| String::from_utf8(name.into()).unwrap());
        for (domain, name) in [
            ("Example.ORG", Some("Example.ORG")),
            ("[192.0.2.1]", Some("[192.0.2.1]")),
            ("b\u{fc}cher.example", Some("xn--bcher-kva.example")),
            ("B\u{dc}CHER.example", Some("xn--bcher-kva.example")),
            ("\u{4f8b}\u{5b50}.example", Some("xn--fsqu00a.example")),
            ("\u{fc}_.example", None),
            ("-\u{fc}.example", None),
            ("\u{200b}.example", None),
        ] {
            assert_eq!(ascii(domain).as_deref(), name, "{domain}");
        }
        assert_eq!(ascii(&format!("{}.example", "\u{fc}".repeat(60))), None);
    }

    #[test]
    fn bounds_of_the_rfc_are_accepted() {
        // SIZ-01
        let domain = |length: usize| {
            let mut name = "d".repeat(63) + "." + &"d".repeat(63) + "." + &"d".repeat(63) + ".";
            name += &"d".repeat(length - name.len());
            name
        };
        let local = "l".repeat(64);
        assert!(mailbox(&format!("<{local}@{}>", domain(255))).is_ok());
        assert_eq!(mailbox(&format!("<l{local}@c>")), Err(AddressError::TooLong));
        let long = domain(255) + ".d";
        assert_eq!(mailbox(&format!("<u@{long}>")), Err(AddressError::TooLong));
        assert_eq!(mailbox(&format!("<u@{}>", "d".repeat(64))), Err(AddressError::Domain));
    }

    #[test]
    fn source_routes_are_read_and_dropped() {
        // SES-17
        assert_eq!(mailbox("<@a,@b.c:u@d>"), Ok(b"u@d".as_slice()));
        assert_eq!(mailbox("<@[192.0.2.1]:u@d>"), Ok(b"u@d".as_slice()));
        for bad in ["<@a,b:u@d>", "<@a,:u@d>", "<@a u@d>", "<@:u@d>", "<@a,@b u@d>"] {
            assert_eq!(mailbox(bad), Err(AddressError::Route), "{bad}");
        }
    }

    #[test]
    fn the_two_paths_without_a_domain() {
        // SES-16, SES-18
        let (path, rest) = parse_reverse_path(b"<> SIZE=1").unwrap();
        assert!(path.is_null() && rest == b" SIZE=1");
        let (path, rest) = parse_forward_path(b"<PostMaster>").unwrap();
        assert!(path.is_bare_postmaster() && rest.is_empty());
        assert_eq!(parse_reverse_path(b"<Postmaster>"), Err(AddressError::LocalPart));
        assert_eq!(mailbox("<postmasters>"), Err(AddressError::LocalPart));
    }

    #[test]
    fn domain_stands_behind_the_last_at() {
        assert_eq!(domain_of(b"\"a@b\"@c.example"), b"c.example");
        assert_eq!(domain_of(b"u@[192.0.2.1]"), b"[192.0.2.1]");
        assert_eq!(domain_of(b"postmaster"), b"");
    }

    #[test]
    fn hello_names() {
        // SES-05
        for good in ["c", "c.example", "my_pc", "c.example.", "[192.0.2.1]", "[IPv6:2001:db8::1]"] {
            assert!(is_hello_name(good.as_bytes()), "{good}");
        }
        for bad in ["", "a b", "a(b", "[192.0.2.1", "[1]", "[1.2.3.4]x", "ü", "a\0", "a;b"] {
            assert!(!is_hello_name(bad.as_bytes()), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_panic(text in proptest::collection::vec(
            prop_oneof![Just(b'<'), Just(b'>'), Just(b'@'), Just(b'"'), Just(b'\\'), Just(b'['), Just(b']'),
                        Just(b','), Just(b':'), Just(b'.'), Just(b'a'), any::<u8>()], 0..24)) {
            for parse in [parse_reverse_path, parse_forward_path] {
                if let Ok((path, rest)) = parse(&text) {
                    prop_assert!(path.mailbox.iter().all(|b| (b' '..=b'~').contains(b)));
                    prop_assert!(text.ends_with(rest));
                    prop_assert!(path.is_null() || path.is_bare_postmaster() || !domain_of(path.mailbox).is_empty());
                }
            }
        }
    }
}
