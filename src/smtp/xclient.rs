//! XCLIENT and XFORWARD: what a trusted client says of another one, as Postfix documents both (XCL-01, XCL-02).
//!
//! A row of `NAME=value`, names without case, each at most once in a command, values in xtext (RFC 3461 4). What does not fit the
//! documented form is `None`, and the session answers 501; nothing of such a command counts. Pure; panics on no input.

use std::fmt::{self, Display, Formatter};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::base::limits::DOMAIN_MAX_BYTES;
use crate::mail::address::is_hello_name;
use crate::mail::parameters::{decode_xtext, is_xtext};
use crate::smtp::sasl;

/// The attributes of XCLIENT, as EHLO offers them.
pub const XCLIENT_OFFER: &str = "NAME ADDR PORT PROTO HELO LOGIN DESTADDR DESTPORT";
/// The attributes of XFORWARD, as EHLO offers them.
pub const XFORWARD_OFFER: &str = "NAME ADDR PORT PROTO HELO IDENT SOURCE";

/// What a value of XFORWARD has at most, decoded.
const VALUE_MAX_BYTES: usize = 255;
/// The same for PROTO.
const PROTOCOL_MAX_BYTES: usize = 64;

/// A value that may be said to be unknown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Told<T> {
    /// `[UNAVAILABLE]`, or for a name `[TEMPUNAVAIL]`.
    Unavailable,
    /// This.
    Is(T),
}

/// What an XCLIENT command overrides. Of what else it may say only the form matters: nothing here asks for the client's name,
/// for ports or our own address, and HELO and PROTO follow from the EHLO that has to come next.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Claim {
    /// The client's address.
    pub address: Option<Told<IpAddr>>,
    /// The user that it proved to be.
    pub login: Option<Told<Box<str>>>,
}

impl Claim {
    /// Reads what follows XCLIENT.
    pub fn read(arguments: &[u8]) -> Option<Claim> {
        let mut claim = Claim::default();
        for (name, value) in attributes(arguments, XCLIENT_OFFER)? {
            let good = match name {
                "NAME" => told(value, true, |text| is_hello_name(text).then_some(())).is_some(),
                "HELO" => told(value, false, |text| is_hello_name(text).then_some(())).is_some(),
                "PORT" | "DESTPORT" => told(value, false, port).is_some(),
                "DESTADDR" => told(value, false, address).is_some(),
                "PROTO" => value.eq_ignore_ascii_case(b"SMTP") || value.eq_ignore_ascii_case(b"ESMTP"),
                "LOGIN" => {
                    claim.login = told(value, false, |text| Some(sasl::name(text)?.into()));
                    claim.login.is_some()
                }
                _ => {
                    claim.address = told(value, false, address);
                    claim.address.is_some()
                }
            };
            if !good {
                return None;
            }
        }
        Some(claim)
    }
}

/// What XFORWARD commands said of a message to come, for the log alone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Forwarded {
    /// In the order of the offer; `None`: unavailable, or not said.
    values: [Option<Box<str>>; 7],
}

impl Forwarded {
    /// Takes what follows XFORWARD; false, and nothing taken, if it does not fit.
    pub fn take(&mut self, arguments: &[u8]) -> bool {
        let Some(read) = attributes(arguments, XFORWARD_OFFER) else { return false };
        let mut values = self.values.clone();
        for (name, value) in read {
            let at = XFORWARD_OFFER.split(' ').position(|offered| offered == name).expect("it was found there");
            let clean = |text: &[u8]| Some(plain(text)?.into());
            let told = told(value, false, |text| match name {
                "ADDR" => address(text).and_then(|_| clean(text)),
                "PORT" => port(text).and_then(|_| clean(text)),
                "PROTO" if text.len() > PROTOCOL_MAX_BYTES => None,
                "SOURCE" if !text.eq_ignore_ascii_case(b"LOCAL") && !text.eq_ignore_ascii_case(b"REMOTE") => None,
                _ => clean(text),
            });
            values[at] = match told {
                None => return false,
                Some(Told::Unavailable) => None,
                Some(Told::Is(text)) => Some(text),
            };
        }
        self.values = values;
        true
    }
}

impl Display for Forwarded {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let told =
            XFORWARD_OFFER.split(' ').zip(&self.values).filter_map(|(name, value)| Some((name, value.as_ref()?)));
        for (number, (name, value)) in told.enumerate() {
            write!(f, "{}{name}={value}", if number == 0 { "" } else { " " })?;
        }
        Ok(())
    }
}

/// The attributes of a command, each an offered one by its name in the offer, with its value in xtext. At least one.
fn attributes<'a>(arguments: &'a [u8], offer: &'static str) -> Option<Vec<(&'static str, &'a [u8])>> {
    let mut read: Vec<(&'static str, &[u8])> = Vec::new();
    for word in arguments.split(|&b| b == b' ').filter(|word| !word.is_empty()) {
        let equals = word.iter().position(|&b| b == b'=')?;
        let (name, value) = (&word[..equals], &word[equals + 1..]);
        let name = offer.split(' ').find(|offered| offered.as_bytes().eq_ignore_ascii_case(name))?;
        if value.is_empty() || !is_xtext(value) || read.iter().any(|(before, _)| *before == name) {
            return None;
        }
        read.push((name, value));
    }
    (!read.is_empty()).then_some(read)
}

/// A value in xtext, read by `read` unless it says that it is unknown.
fn told<T>(value: &[u8], later: bool, read: impl FnOnce(&[u8]) -> Option<T>) -> Option<Told<T>> {
    let text = decode_xtext(value);
    let unavailable =
        text.eq_ignore_ascii_case(b"[UNAVAILABLE]") || later && text.eq_ignore_ascii_case(b"[TEMPUNAVAIL]");
    if unavailable { Some(Told::Unavailable) } else { read(&text).map(Told::Is) }
}

/// An IPv4 address, or an IPv6 address behind `IPV6:`, without brackets.
fn address(text: &[u8]) -> Option<IpAddr> {
    let text = str::from_utf8(text).ok()?;
    match text.split_at_checked(5) {
        Some((prefix, six)) if prefix.eq_ignore_ascii_case("IPV6:") => six.parse::<Ipv6Addr>().ok().map(IpAddr::V6),
        _ => text.parse::<Ipv4Addr>().ok().map(IpAddr::V4),
    }
}

fn port(text: &[u8]) -> Option<u16> {
    let text = str::from_utf8(text).ok().filter(|text| text.bytes().all(|b| b.is_ascii_digit()))?;
    text.parse().ok()
}

/// Printable ASCII without anything that is special in a header.
fn plain(text: &[u8]) -> Option<&str> {
    let good = |b: &u8| b.is_ascii_graphic() && !b"()<>@,;\\\"".contains(b);
    let fits = text.len() <= VALUE_MAX_BYTES && text.iter().all(good);
    str::from_utf8(text).ok().filter(|_| fits)
}

const _: () = assert!(DOMAIN_MAX_BYTES <= VALUE_MAX_BYTES);

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn is<T>(value: T) -> Option<Told<T>> {
        Some(Told::Is(value))
    }

    #[test]
    fn xclient_is_read_as_documented() {
        // XCL-01, XCL-02: what it says, and what of it counts.
        let address = |text: &str| is(text.parse::<IpAddr>().unwrap());
        let claim = |address, login| Some(Claim { address, login });
        for (arguments, expected) in [
            ("NAME=spike.porcupine.org ADDR=168.100.189.2", claim(address("168.100.189.2"), None)),
            ("addr=IPV6:2001:db8::1", claim(address("2001:db8::1"), None)),
            ("ADDR=ipv6:::1 PORT=65535", claim(address("::1"), None)),
            ("ADDR=[UNAVAILABLE]", claim(Some(Told::Unavailable), None)),
            ("ADDR=[unavailable] LOGIN=[Unavailable]", claim(Some(Told::Unavailable), Some(Told::Unavailable))),
            ("LOGIN=alice+40example.org", claim(None, is("alice@example.org".into()))),
            ("LOGIN=j+C3+B6rg", claim(None, is("j\u{f6}rg".into()))),
            ("NAME=[TEMPUNAVAIL] HELO=[UNAVAILABLE] PROTO=smtp PORT=[UNAVAILABLE]", claim(None, None)),
            ("NAME=a  PROTO=ESMTP HELO=[192.0.2.1] DESTADDR=192.0.2.9 DESTPORT=25", claim(None, None)),
            ("NAME=spike+2Eporcupine.org", claim(None, None)),
            ("", None),
            ("ADDR", None),
            ("ADDR=", None),
            ("=192.0.2.1", None),
            ("ADDR=192.0.2.1 ADDR=192.0.2.2", None),
            ("ADDR=192.0.2.256", None),
            ("ADDR=[192.0.2.1]", None),
            ("ADDR=2001:db8::1", None),
            ("ADDR=IPV6:192.0.2.1", None),
            ("ADDR=[TEMPUNAVAIL]", None),
            ("ADDR=192.0.2.1+", None),
            ("ADDR=192.0.2.1=", None),
            ("PORT=65536", None),
            ("PORT=+31", Some(Claim::default())),
            ("PORT=-1", None),
            ("PROTO=LMTP", None),
            ("PROTO=[UNAVAILABLE]", None),
            ("NAME=a+20b", None),
            ("HELO=a+0D+0Ab", None),
            ("LOGIN=a+0Ab", None),
            ("LOGIN=+FF", None),
            ("IDENT=x", None),
            ("REVERSE_NAME=x", None),
        ] {
            assert_eq!(Claim::read(arguments.as_bytes()), expected, "{arguments}");
        }
    }

    #[test]
    fn xforward_gathers_and_forgets_nothing_by_half() {
        // XCL-01
        let mut forwarded = Forwarded::default();
        assert!(forwarded.take(b"NAME=spike.porcupine.org ADDR=168.100.189.2 PROTO=ESMTP"));
        assert!(forwarded.take(b"helo=spike.porcupine.org IDENT=3CF6B2AAE8 SOURCE=remote"));
        let whole = "NAME=spike.porcupine.org ADDR=168.100.189.2 PROTO=ESMTP HELO=spike.porcupine.org IDENT=3CF6B2AAE8 SOURCE=remote";
        assert_eq!(forwarded.to_string(), whole);
        for bad in [
            "",
            "IDENT=a IDENT=b",
            "IDENT=x PORT=x",
            "IDENT=x SOURCE=elsewhere",
            "IDENT=x LOGIN=y",
            "IDENT=a+20b",
            "IDENT=a+22b",
            "IDENT=+C3+B6",
            "IDENT=",
            "ADDR=[::1]",
        ] {
            assert!(!forwarded.take(bad.as_bytes()), "{bad}");
        }
        assert!(!forwarded.take(format!("PROTO={}", "x".repeat(65)).as_bytes()));
        assert!(!forwarded.take(format!("IDENT={}", "x".repeat(256)).as_bytes()));
        assert_eq!(forwarded.to_string(), whole);
        assert!(forwarded.take(format!("PROTO={} IDENT=[UNAVAILABLE]", "x".repeat(64)).as_bytes()));
        assert!(!forwarded.to_string().contains("IDENT"));
    }

    proptest! {
        #[test]
        fn nothing_panics_and_what_is_told_is_plain(
            arguments in "((NAME|addr|PORT|PROTO|HELO|IDENT|SOURCE|LOGIN|DESTADDR)=(IPV6:|\\[UNAVAILABLE\\]|LOCAL|1)?[!-~+0-9A-F]{0,9} ?){0,4}",
        ) {
            let mut forwarded = Forwarded::default();
            if forwarded.take(arguments.as_bytes()) {
                prop_assert!(forwarded.to_string().bytes().all(|b| b == b' ' || b.is_ascii_graphic()));
            } else {
                prop_assert_eq!(forwarded, Forwarded::default());
            }
            Claim::read(arguments.as_bytes());
        }
    }
}
