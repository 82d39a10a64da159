//! What follows XCLIENT and XFORWARD: a naive reader sees the same address and user, and what goes to the log is plain (XCL-01, XCL-02).

use std::net::IpAddr;

use ringpost::smtp::xclient::{Claim, Forwarded, Told};

/// Any bytes are what follows the verb.
pub fn run(data: &[u8]) {
    if let Some(claim) = Claim::read(data) {
        let address = naive(data, "ADDR").map(|text| match text.to_ascii_uppercase().as_str() {
            "[UNAVAILABLE]" => Told::Unavailable,
            upper => Told::Is(upper.strip_prefix("IPV6:").unwrap_or(upper).parse::<IpAddr>().expect("an address")),
        });
        assert_eq!(claim.address, address);
        let login = naive(data, "LOGIN").map(|text| match text.to_ascii_uppercase().as_str() {
            "[UNAVAILABLE]" => Told::Unavailable,
            _ => Told::Is(text.into()),
        });
        assert_eq!(claim.login, login);
    }
    let mut forwarded = Forwarded::default();
    // In two commands as in one, if neither is wrong.
    let taken = forwarded.take(data);
    let shown = forwarded.to_string();
    assert!(shown.bytes().all(|b| b == b' ' || (b.is_ascii_graphic() && !b"()<>@,;\\\"".contains(&b))));
    assert!(taken || shown.is_empty());
    assert_eq!((forwarded.take(data), forwarded.to_string()), (taken, shown));
}

/// The decoded value of an attribute.
fn naive(data: &[u8], name: &str) -> Option<String> {
    let text = str::from_utf8(data).expect("xtext is ASCII");
    let value = text.split(' ').find_map(|word| {
        let (given, value) = word.split_once('=')?;
        given.eq_ignore_ascii_case(name).then_some(value)
    })?;
    let mut parts = value.split('+');
    let mut decoded = parts.next().unwrap_or_default().as_bytes().to_vec();
    for part in parts {
        decoded.push(u8::from_str_radix(&part[..2], 16).expect("two digits"));
        decoded.extend_from_slice(&part.as_bytes()[2..]);
    }
    Some(String::from_utf8(decoded).expect("UTF-8"))
}
