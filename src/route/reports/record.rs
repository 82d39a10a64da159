//! Where a domain wants its TLS reports: the TXT records of `_smtp._tls.DOMAIN` (RFC 8460 3).
//!
//! Pure. Whatever stands in DNS is a list of destinations or nothing; a record that the grammar does not allow is none.

use crate::base::limits;
use crate::mail::address::parse_forward_path;

/// What a record begins with if it is one; all others do not count (RFC 8460 3).
const HEAD: &str = "v=TLSRPTv1;";

/// One place to send a report to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Destination {
    /// A mailbox.
    Mail(Box<str>),
    /// A web server, by its `https` URL.
    Web(Box<str>),
}

impl Destination {
    /// As it is written down: the mailbox behind `mailto:` as it is, or the URL.
    pub fn text(&self) -> String {
        match self {
            Destination::Mail(mailbox) => format!("mailto:{mailbox}"),
            Destination::Web(url) => url.to_string(),
        }
    }

    /// Reads what was written down; nothing that DNS could not have named.
    pub fn read(text: &str) -> Option<Destination> {
        match text.strip_prefix("mailto:") {
            Some(mailbox) => is_mailbox(mailbox).then(|| Destination::Mail(mailbox.into())),
            // A record ends them there.
            None if text.contains([',', ';']) => None,
            None => destination(text).filter(|read| is_uri(text) && matches!(read, Destination::Web(_))),
        }
    }
}

/// The destinations of the records of a name, each joined from its strings: at most `limits::TLS_REPORT_URIS_MAX`, the first ones. `None`:
/// there is not just one record that can be read, and so nobody wants a report. An URI of another scheme is no destination.
pub fn destinations<'r>(records: impl IntoIterator<Item = &'r [u8]>) -> Option<Vec<Destination>> {
    let mut records = records.into_iter().filter_map(|record| record.strip_prefix(HEAD.as_bytes()));
    let (only, None) = (records.next()?, records.next()) else { return None };
    let fields = str::from_utf8(only).ok()?.trim_end_matches(BLANKS);
    let mut uris = None;
    for field in fields.strip_suffix(';').unwrap_or(fields).split(';') {
        let (name, value) = field.trim_matches(BLANKS).split_once('=')?;
        match name {
            "rua" => {
                let list: Vec<&str> = value.split(',').map(|uri| uri.trim_matches(BLANKS)).collect();
                if !list.iter().all(|uri| is_uri(uri)) {
                    return None;
                }
                // Of what is to stand there once the first counts.
                uris.get_or_insert(list);
            }
            _ if is_extension(name, value) => {}
            _ => return None,
        }
    }
    Some(uris?.into_iter().filter_map(destination).take(limits::TLS_REPORT_URIS_MAX).collect())
}

const BLANKS: [char; 2] = [' ', '\t'];

/// A scheme and something behind it, all visible; commas, semicolons and exclamation marks have to be encoded.
fn is_uri(text: &str) -> bool {
    let Some((scheme, rest)) = text.split_once(':') else { return false };
    let mut scheme = scheme.bytes();
    scheme.next().is_some_and(|first| first.is_ascii_alphabetic())
        && scheme.all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte))
        && !rest.is_empty()
        && rest.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'!')
}

fn is_extension(name: &str, value: &str) -> bool {
    let begins = name.starts_with(|c: char| c.is_ascii_alphanumeric());
    let is_name = begins && name.len() <= 32 && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-.".contains(&b));
    is_name && !value.is_empty() && value.bytes().all(|b| b.is_ascii_graphic() && b != b'=')
}

fn destination(uri: &str) -> Option<Destination> {
    let (scheme, rest) = uri.split_once(':')?;
    if uri.len() > limits::TLS_REPORT_URI_MAX_BYTES {
        None
    } else if scheme.eq_ignore_ascii_case("mailto") {
        mailbox(rest).map(Destination::Mail)
    } else if scheme.eq_ignore_ascii_case("https") {
        let without_fragment = rest.split('#').next().unwrap_or_default();
        let host = without_fragment.strip_prefix("//")?.split(['/', '?']).next().unwrap_or_default();
        // Nobody's credentials are to be sent, and nothing to nobody.
        let good = !host.is_empty() && !host.contains('@');
        good.then(|| Destination::Web(format!("https:{without_fragment}").into()))
    } else {
        None
    }
}

/// The one mailbox of a `mailto` (RFC 6068); what stands behind a question mark is of fields of a letter, which is ours.
fn mailbox(rest: &str) -> Option<Box<str>> {
    let decoded = percent_decoded(rest.split('?').next().unwrap_or_default())?;
    is_mailbox(&decoded).then(|| decoded.into())
}

fn is_mailbox(text: &str) -> bool {
    let path = format!("<{text}>");
    let read = parse_forward_path(path.as_bytes());
    let whole = read.is_ok_and(|(path, behind)| path.mailbox == text.as_bytes() && behind.is_empty());
    whole && text.is_ascii() && text.contains('@')
}

fn percent_decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((&first, behind)) = rest.split_first() {
        rest = behind;
        if first != b'%' {
            bytes.push(first);
            continue;
        }
        let (digits, behind) = rest.split_at_checked(2)?;
        let digit = |byte: u8| char::from(byte).to_digit(16);
        bytes.push((digit(digits[0])? * 16 + digit(digits[1])?) as u8);
        rest = behind;
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn mail(mailbox: &str) -> Destination {
        Destination::Mail(mailbox.into())
    }

    fn web(url: &str) -> Destination {
        Destination::Web(url.into())
    }

    #[test]
    fn destinations_are_written_and_read_again() {
        for kept in [mail("a@b.test"), mail("\"a b\"@c.test"), web("https://a.test/?x=1")] {
            assert_eq!(Destination::read(&kept.text()), Some(kept));
        }
        for bad in [
            "",
            "mailto:",
            "mailto:a@b.test\r\nBcc: c@d.test",
            "mailto:a@b.test,c@d.test",
            "https:",
            "https://a.test/ x",
            "https://a.test/,x",
            "http://a.test/",
            "a@b.test",
        ] {
            assert_eq!(Destination::read(bad), None, "{bad}");
        }
    }

    /// RPT-01.
    #[test]
    fn records_are_read_strictly() {
        for (records, expected) in [
            (&["v=TLSRPTv1;rua=mailto:reports@example.com"][..], Some(vec![mail("reports@example.com")])),
            (
                &["v=TLSRPTv1; rua=https://reporting.example.com/v1/tlsrpt?key=1"],
                Some(vec![web("https://reporting.example.com/v1/tlsrpt?key=1")]),
            ),
            (
                &["v=spf1 -all", "v=TLSRPTv1; x-y_z.1=2;rua=mailto:a%2Bb@c.test , HTTPS://d.test:1/#e;"],
                Some(vec![mail("a+b@c.test"), web("https://d.test:1/")]),
            ),
            (&["v=TLSRPTv1; rua=mailto:a@b.test; rua=mailto:c@d.test; "], Some(vec![mail("a@b.test")])),
            (&["v=TLSRPTv1;rua=mailto:a@b.test?subject=x"], Some(vec![mail("a@b.test")])),
            // Nothing that we could send to.
            (&["v=TLSRPTv1;rua=ftp://a.test/,mailto:b,mailto:%0d%0a@b.test,https://,https://u@a.test/"], Some(vec![])),
            (&["v=TLSRPTv1;rua=mailto:a%zz@b.test"], Some(vec![])),
            (&["v=TLSRPTv1;rua=mailto:a@b.test", "v=TLSRPTv1;rua=mailto:a@b.test"], None),
            (&["v=TLSRPTv1"], None),
            (&["v=TLSRPTv1;"], None),
            (&["v=TLSRPTv1; x=1"], None),
            (&["v=TLSRPTv1 ;rua=mailto:a@b.test"], None),
            (&["V=TLSRPTv1;rua=mailto:a@b.test"], None),
            (&["v=TLSRPTv1;RUA"], None),
            (&["v=TLSRPTv1;rua=a@b.test"], None),
            (&["v=TLSRPTv1;rua=mailto:a!10m@b.test"], None),
            (&["v=TLSRPTv1;rua=mailto:a@b.test,"], None),
            (&["v=TLSRPTv1;rua=mailto:a@b.test;;"], None),
            (&["v=TLSRPTv1;rua=mailto:a@b.test;x=a=b"], None),
            (&[], None),
        ] {
            assert_eq!(destinations(records.iter().map(|record| record.as_bytes())), expected, "{records:?}");
        }
        assert_eq!(destinations([&b"v=TLSRPTv1;rua=mailto:\xff@b.test"[..]]), None);
        let many = format!("v=TLSRPTv1;rua={}", ["mailto:a@b.test"; limits::TLS_REPORT_URIS_MAX + 1].join(","));
        assert_eq!(destinations([many.as_bytes()]).unwrap().len(), limits::TLS_REPORT_URIS_MAX);
        let long = format!("v=TLSRPTv1;rua=https://a.test/{}", "x".repeat(limits::TLS_REPORT_URI_MAX_BYTES));
        assert_eq!(destinations([long.as_bytes()]), Some(vec![]));
    }

    proptest! {
        /// What is written by the grammar is read, in order, whatever blanks and extensions stand between.
        #[test]
        fn what_the_grammar_makes_is_read(
            names in prop::collection::vec("[a-z]{1,8}", 1..=limits::TLS_REPORT_URIS_MAX),
            blank in "[ \t]{0,3}",
            extension in "[a-z0-9][a-z0-9_.-]{0,8}",
            ends in any::<bool>(),
        ) {
            prop_assume!(extension != "rua");
            let uri = |(at, name): (usize, &String)| match at % 2 {
                0 => (format!("mailto:{name}@d.test"), mail(&format!("{name}@d.test"))),
                _ => (format!("https://{name}.test/x"), web(&format!("https://{name}.test/x"))),
            };
            let (uris, expected): (Vec<_>, Vec<_>) = names.iter().enumerate().map(uri).unzip();
            let list = uris.join(&format!("{blank},{blank}"));
            let end = if ends { ";" } else { "" };
            let record = format!("v=TLSRPTv1;{blank}{extension}=1{blank};{blank}rua={list}{blank}{end}");
            prop_assert_eq!(destinations([record.as_bytes()]), Some(expected));
        }

        #[test]
        fn nothing_panics(record in ".*") {
            let _ = destinations([format!("v=TLSRPTv1;{record}").as_bytes()]);
        }
    }
}
